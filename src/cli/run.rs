//! `eosin simulate`, `features`, `train` and `evaluate`.

use serde::Serialize;

use super::{EvaluateArgs, FeaturesArgs, SimulateArgs, TrainArgs, console, report, spots};
use crate::cohort::Cohort;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::expression::Table;
use crate::formats::atomic::create_dir_all;
use crate::simulate::{self, SimulateConfig};
use crate::train::config::{
    DataConfig, DeepPtConfig, FeatureConfig, Network, Precision, TrnasformerConfig,
};
use crate::train::deeppt::{Ensemble, train};
use crate::train::evaluate::{Scores, Summary, write_results};
use crate::train::features::{extract, published_encoder, random_encoder};
use crate::train::progress::Control;
use crate::train::run::HeldOut;
use crate::train::tcgn::config::TcgnConfig;
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
    let mut data = DataConfig::new(args.data.layout.into(), &args.data.data);
    data.sections.clone_from(&args.data.sections);
    let mut cohort = data.read(false)?;
    create_dir_all(&args.out)?;
    let config = FeatureConfig {
        encoder: args.encoder.into(),
        weights: args.weights.clone(),
        tile_px: args.tile_px,
        dtype,
        ..FeatureConfig::default()
    };
    let encoder = match &args.weights {
        Some(path) => published_encoder(path, &config, device)?,
        None => {
            let all: Vec<usize> = (0..cohort.samples.len()).collect();
            let file = args.out.join("encoder.safetensors");
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
        &args.out.join("features"),
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
        folder: args.out.join("features").display().to_string(),
        encoder: encoder.source.description.clone(),
        slides: slides.len(),
        tiles: used_tiles(&cohort),
        skipped,
    };
    let mut text = format!(
        "{}: {} slides, {} tiles; {}",
        made.folder, made.slides, made.tiles, made.encoder
    );
    for line in &made.skipped {
        text += &format!("\nskipped {line}");
    }
    console::print(json, &made, &text)
}

fn used_tiles(cohort: &Cohort) -> usize {
    let used: std::collections::BTreeSet<usize> = cohort
        .samples
        .iter()
        .flat_map(|s| s.tiles.iter().copied())
        .collect();
    used.len()
}

/// `dtype`, if given, in place of what the run file says.
pub fn train_deeppt(
    args: &TrainArgs,
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let mut config = DeepPtConfig::read(&args.config)?;
    if let Some(seed) = args.seed {
        config.seed = seed;
    }
    if let Some(dtype) = dtype {
        (config.dtype, config.features.dtype) = (dtype, dtype);
    }
    config.resolve(&std::env::current_dir().unwrap_or_default());
    let outcome = train(&config, &args.out, args.resume, device, control)?;
    let held = &outcome.held_out;
    let scores = Scores::new(
        &held.genes,
        held.samples.len(),
        &held.predicted,
        &held.measured,
    )?;
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
    let mut config = TrnasformerConfig::read(&args.config)?;
    config.model.network = network;
    if let Some(seed) = args.seed {
        config.seed = seed;
    }
    if let Some(dtype) = dtype {
        (config.dtype, config.features.dtype) = (dtype, dtype);
    }
    config.resolve(&std::env::current_dir().unwrap_or_default());
    let outcome = trnasformer::train(&config, &args.out, args.resume, device, control)?;
    let held = &outcome.held_out;
    let samples = held.samples.len();
    let scores = Scores::new(&held.genes, samples, &held.predicted, &held.measured)?;
    let summary = Summary::new(&scores, held.same_patient, &outcome.encoder.description);
    write_results(&args.out, held, &scores, &summary)?;
    let mut text = described(&summary, &args.out.join("genes.csv"));
    if let Some(classes) = &outcome.classes {
        let path = args.out.join("classes.csv");
        let accuracy = classes.write(&path)?;
        text += &format!("\nclass accuracy     {accuracy:.3} ({})", path.display());
    }
    for skipped in &outcome.skipped {
        text += &format!("\nskipped {}: {}", skipped.what, skipped.why);
    }
    console::print(json, &summary, &text)
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
         predicted genes    {} (r > 0, Benjamini-Hochberg {} %){mark}\n\
{}\
         features           {}\n\
         report             {}",
        s.samples,
        s.genes,
        s.median_pearson,
        s.top50_pearson,
        s.significant_genes,
        100.0 * s.significance_level,
        s.reported.as_ref().map_or(String::new(), |r| format!(
            "Pearson, median    {:.3} of {} reported genes{mark}\n",
            r.median_pearson, r.genes
        )),
        s.features,
        report.display()
    )
}

#[derive(Serialize)]
struct Predicted {
    folder: String,
    samples: usize,
    genes: usize,
    features: String,
    skipped: usize,
    scores: Option<Summary>,
}

pub fn evaluate(
    args: &EvaluateArgs,
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    if TcgnConfig::wrote(&args.run) {
        return spots::evaluate(args, dtype, device, json, control);
    }
    let ensemble = Ensemble::read(&args.run, device)?;
    let trained = ensemble.config.features.dtype;
    if dtype.is_some_and(|dtype| dtype != trained) {
        return Err(Error::usage(
            format!(
                "the features of {} are {}",
                args.run.display(),
                trained.dtype()
            ),
            "leave out --dtype: those of other tiles are extracted in the same",
        ));
    }
    let mut data = DataConfig {
        path: args.data.clone(),
        sections: args.sections.clone(),
        expression: args.expression.clone(),
        slides: args.slides.clone(),
        ..ensemble.config.data.clone()
    };
    let scored = !args.no_expression && data.has_expression();
    if !scored {
        data.expression = None;
    }
    let mut cohort = data.read(scored)?;
    create_dir_all(&args.out)?;
    control.progress.note(&format!(
        "features: {}",
        ensemble.encoder.source.description
    ));
    let features = extract(
        &mut cohort,
        &ensemble.encoder,
        &ensemble.config.features,
        &args.out.join("features"),
        control,
    )?;
    let genes = ensemble.genes();
    let predicted = ensemble.predict(&cohort, &features)?;
    let samples: Vec<String> = cohort.samples.iter().map(|s| s.id.clone()).collect();
    let first = |t: &[usize]| t.first().and_then(|&t| cohort.tiles[t].position);
    let mut held = HeldOut {
        slides: cohort.samples.iter().map(|s| s.slide.clone()).collect(),
        positions: cohort.samples.iter().map(|s| first(&s.tiles)).collect(),
        samples,
        genes,
        predicted,
        measured: Vec::new(),
        same_patient: ensemble.trained_on(&cohort),
    };
    let encoder = &ensemble.encoder.source.description;
    let mut result = Predicted {
        folder: args.out.display().to_string(),
        samples: held.samples.len(),
        genes: held.genes.len(),
        features: encoder.clone(),
        skipped: cohort.skipped.len(),
        scores: None,
    };
    let Some(table) = &cohort.table else {
        let table = Table {
            samples: held.samples.clone(),
            genes: held.genes.clone(),
            values: held.predicted,
        };
        let path = args.out.join("predictions.csv");
        crate::expression::table::write(&path, &table)?;
        let text = format!(
            "{}: {} samples, {} genes\nfeatures           {encoder}",
            path.display(),
            result.samples,
            result.genes
        );
        return console::print(json, &result, &text);
    };
    held.measured = ensemble.on_scale(table)?;
    let scores = Scores::new(
        &held.genes,
        held.samples.len(),
        &held.predicted,
        &held.measured,
    )?;
    let summary = Summary::new(&scores, held.same_patient, encoder);
    write_results(&args.out, &held, &scores, &summary)?;
    let page = report::evaluation(&args.run, &cohort, &held, &scores, &summary);
    page.write(args.out.join("report.html"))?;
    let text = described(&summary, &args.out.join("report.html"));
    result.scores = Some(summary);
    console::print(json, &result, &text)
}
