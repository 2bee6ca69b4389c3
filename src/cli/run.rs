//! `eosin simulate`, `features` and `train`.

use serde::Serialize;

use super::{FeaturesArgs, SimulateArgs, TrainArgs, console, report};
use crate::cohort::Cohort;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::atomic::create_dir_all;
use crate::simulate::{self, SimulateConfig};
use crate::train::classes::{ClassScores, Classified, Level};
use crate::train::config::{
    DataConfig, DeepPtConfig, FeatureConfig, Network, Precision, RunFile, Said, TrnasformerConfig,
};
use crate::train::deeppt::train;
use crate::train::evaluate::{Scores, Summary, write_results};
use crate::train::features::{extract, published_encoder, random_encoder};
use crate::train::progress::Control;
use crate::train::trnasformer;

#[derive(Serialize)]
struct Simulated {
    folder: String,
    slides: usize,
    tiles: usize,
    genes: usize,
}

pub fn simulate(args: &SimulateArgs, json: bool, control: Control) -> Result<()> {
    let defaults = SimulateConfig::default();
    let config = SimulateConfig {
        slides: args.slides.unwrap_or(defaults.slides),
        tiles_per_slide: args.tiles.unwrap_or(defaults.tiles_per_slide),
        tile_px: args.tile_px.unwrap_or(defaults.tile_px),
        seed: args.seed,
        ..defaults
    };
    let truth = simulated(&config, &args.out, control)?;
    let planted: usize = truth.programs.iter().map(|p| p.genes.len()).sum();
    let made = Simulated {
        folder: args.out.display().to_string(),
        slides: config.slides,
        tiles: config.slides * config.tiles_per_slide,
        genes: planted + truth.noise_genes.len(),
    };
    let text = format!(
        "{}: {} slides of {} tiles, expression of {} genes; what was planted is in truth.json",
        made.folder, made.slides, config.tiles_per_slide, made.genes
    );
    console::print(json, &made, &text)
}

/// Simulates with progress.
pub fn simulated(
    config: &SimulateConfig,
    out: &std::path::Path,
    control: Control,
) -> Result<simulate::Truth> {
    let tiles = config.slides * config.tiles_per_slide;
    control.progress.begin("drawing tiles", tiles);
    let truth = simulate::simulate(config, out, &|done, _| control.progress.at(done, ""))?;
    control.progress.end();
    Ok(truth)
}

#[derive(Serialize)]
struct Extracted {
    folder: String,
    encoder: String,
    slides: usize,
    tiles: usize,
    skipped: Vec<String>,
}

pub fn features(
    args: &FeaturesArgs,
    dtype: Precision,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let (Some(folder), Some(layout), Some(out)) = (&args.data.data, args.data.layout, &args.out)
    else {
        return Err(Error::usage(
            "neither a cohort nor slides were given",
            "give --data, --layout and --out, or --wsi-dir and --job-dir",
        ));
    };
    let mut data = DataConfig::new(layout.into(), folder);
    data.sections.clone_from(&args.data.sections);
    data.icc = args.slides.icc;
    let mut cohort = data.read(false)?;
    create_dir_all(out)?;
    let config = FeatureConfig {
        encoder: args.encoder.into(),
        weights: args.weights.clone(),
        tile_px: args.tile_px,
        dtype,
        stain: args.slides.stain(),
        ..FeatureConfig::default()
    };
    let encoder = match &args.weights {
        Some(path) => published_encoder(path, &config, device)?,
        None => {
            let all: Vec<usize> = (0..cohort.samples.len()).collect();
            let file = out.join("encoder.safetensors");
            random_encoder(args.seed, &cohort, &all, &config, &file, device, control)?
        }
    };
    control
        .progress
        .note(&format!("features: {}", encoder.source.description));
    extract(
        &mut cohort,
        &encoder,
        &config,
        &out.join("features"),
        control,
    )?;
    let skipped: Vec<String> = cohort
        .skipped
        .iter()
        .map(|s| format!("{}: {}", s.what, s.why))
        .collect();
    let slides: std::collections::BTreeSet<&str> =
        cohort.samples.iter().map(|s| s.slide.as_str()).collect();
    let made = Extracted {
        folder: out.join("features").display().to_string(),
        encoder: encoder.source.description.clone(),
        slides: slides.len(),
        tiles: used_tiles(&cohort),
        skipped,
    };
    let text = format!(
        "{}: {} slides, {} tiles; {}",
        made.folder, made.slides, made.tiles, made.encoder
    );
    console::print_with_skipped(json, &made, text, &made.skipped)
}

fn used_tiles(cohort: &Cohort) -> usize {
    let used: std::collections::BTreeSet<usize> = cohort
        .samples
        .iter()
        .flat_map(|s| s.tiles.iter().copied())
        .collect();
    used.len()
}

/// A family's run file, with what the command line says in its place.
pub fn run_file<C: RunFile>(args: &TrainArgs, dtype: Option<Precision>) -> Result<C> {
    let mut config = C::read(&args.config)?;
    config.overrule(&Said {
        seed: args.seed,
        dtype,
        stain: args.stain.map(Into::into),
        icc: args.icc,
    })?;
    config.resolve(&std::env::current_dir().unwrap_or_default());
    Ok(config)
}

/// `dtype`, if given, in place of what the run file says.
pub fn train_deeppt(
    args: &TrainArgs,
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let config: DeepPtConfig = run_file(args, dtype)?;
    let outcome = train(&config, &args.out, args.resume, device, control)?;
    let held = &outcome.held_out;
    let scores = Scores::of(held)?;
    let summary = Summary::new(&scores, held.same_patient, &outcome.encoder.description);
    write_results(&args.out, held, &scores, &summary)?;
    let mut page = report::run(&config, &outcome, &scores, &summary);
    report::examples(&mut page, &config, &scores, held)?;
    page.write(args.out.join("report.html"))?;
    console::print(
        json,
        &summary,
        &described(&summary, &args.out.join("report.html")),
    )
}

/// tRNAsformer or HE2RNA; `dtype`, if given, in place of what the run file says.
pub fn train_trnasformer(
    args: &TrainArgs,
    network: Network,
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let mut config: TrnasformerConfig = run_file(args, dtype)?;
    config.model.network = network;
    let outcome = trnasformer::train(&config, &args.out, args.resume, device, control)?;
    let held = &outcome.held_out;
    let classes = outcome
        .classes
        .as_ref()
        .map(Classified::scores)
        .transpose()?;
    if let Some(found) = &outcome.classes {
        found.write(&args.out)?;
    }
    let page = args.out.join("report.html");
    let scores = match held.genes.is_empty() {
        true => None,
        false => Some(Scores::of(held)?),
    };
    let encoder = &outcome.encoder.description;
    let summary = scores
        .as_ref()
        .map(|s| Summary::new(s, held.same_patient, encoder));
    if let (Some(scores), Some(summary)) = (&scores, &summary) {
        write_results(&args.out, held, scores, summary)?;
    }
    report::bags(
        &config,
        &outcome,
        scores.as_ref().zip(summary.as_ref()),
        classes.as_ref(),
    )
    .write(&page)?;
    let trained = Trained { summary, classes };
    let mut text = match &trained.summary {
        Some(summary) => described(summary, &page),
        None => format!("report             {}", page.display()),
    };
    if let Some(classes) = &trained.classes {
        text = format!("{}\n{text}", described_classes(classes));
    }
    console::print_with_skipped(json, &trained, text, &outcome.skipped)
}

/// The figures of tRNAsformer or HE2RNA.
#[derive(Serialize)]
struct Trained {
    #[serde(flatten)]
    summary: Option<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<ClassScores>,
}

/// Classes as a person reads them.
pub fn described_classes(scores: &ClassScores) -> String {
    let line = |what: &str, level: &Level| {
        let auc = level
            .auc
            .map_or_else(|| "-".to_owned(), |a| format!("{a:.3}"));
        format!(
            "{:18} {}: accuracy {:.3}, F1 {:.3} macro, {:.3} weighted, AUC {auc}",
            format!("classes of {what}"),
            level.count,
            level.accuracy,
            level.f1_macro,
            level.f1_weighted
        )
    };
    let (slides, bags) = (line("slides", &scores.slides), line("bags", &scores.bags));
    format!("{slides}\n{bags}")
}

/// The figures as a person reads them.
pub(super) fn described(s: &Summary, report: &std::path::Path) -> String {
    let mark = if s.same_patient {
        " (same patient)"
    } else {
        ""
    };
    format!(
        "held-out samples   {}{mark}\n\
         genes              {}\n\
         Pearson, median    {:.3}{mark}\n\
         Pearson, top 50    {:.3}{mark}\n\
         predicted genes    {} (r > 0, Benjamini-Hochberg {} %; Holm-Sidak {}){mark}\n\
         Spearman, median   {:.3} ({}; {} genes){mark}\n\
         Kendall, median    {:.3} ({}; {} genes){mark}\n\
         errors, median     MAE {:.3}, RMSE {:.3}, relative RMSE {}{mark}\n\
{}\
         features           {}\n\
         report             {}",
        s.samples,
        s.genes,
        s.median_pearson,
        s.top50_pearson,
        s.significant_genes,
        100.0 * s.significance_level,
        s.counts.pearson.holm_sidak,
        s.median_spearman,
        s.counts.spearman.benjamini_hochberg,
        s.counts.spearman.holm_sidak,
        s.median_kendall,
        s.counts.kendall.benjamini_hochberg,
        s.counts.kendall.holm_sidak,
        s.median_mae,
        s.median_rmse,
        s.median_relative_rmse
            .map_or_else(|| "-".to_owned(), |r| format!("{r:.3}")),
        s.reported.as_ref().map_or(String::new(), |r| format!(
            "Pearson, median    {:.3} of {} reported genes{mark}\n",
            r.median_pearson, r.genes
        )),
        s.features,
        report.display()
    )
}
