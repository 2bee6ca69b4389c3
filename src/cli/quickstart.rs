//! `eosin quickstart`: the whole way from slides to a report, on a cohort that
//! it makes itself, with the controls that show that the figures mean something.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{QuickstartArgs, console, report, run};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::expression::Transform;
use crate::metrics::correlation::pearson;
use crate::report::{BarChart, number};
use crate::simulate::{SimulateConfig, Truth};
use crate::slides::image;
use crate::train::config::{
    AutoEncoderConfig, DataConfig, DeepPtConfig, ExpressionConfig, FeatureConfig, Layout,
    MlpConfig, Precision, SplitConfig, default_checkpoint_seconds,
};
use crate::train::deeppt::train;
use crate::train::evaluate::{GeneScore, Scores, Summary, write_results};
use crate::train::progress::Control;
use crate::train::run::HeldOut;

#[derive(Serialize)]
struct Figures {
    report: String,
    samples: usize,
    /// Median Pearson over all planted genes.
    planted_median_pearson: f64,
    /// Median Pearson of each program.
    programs: BTreeMap<String, f64>,
    planted_significant: f64,
    noise_significant: f64,
    shuffled_significant: usize,
    /// Held-out Pearson of each program's mean from the tiles' mean colour.
    colour_pearson: BTreeMap<String, f64>,
}

pub fn quickstart(
    args: &QuickstartArgs,
    dtype: Precision,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let cohort = args.out.join("cohort");
    let done = cohort.join("truth.json");
    let config = SimulateConfig {
        seed: args.seed,
        ..SimulateConfig::default()
    };
    let truth: Truth = if args.resume && done.exists() {
        let text = std::fs::read(&done).map_err(|e| Error::io("read", &done, e))?;
        serde_json::from_slice(&text).map_err(|e| {
            Error::file(
                &done,
                "",
                e.to_string(),
                "remove the folder and start again",
            )
        })?
    } else {
        if args.resume && cohort.exists() {
            // Half a cohort is drawn again: it takes seconds.
            std::fs::remove_dir_all(&cohort).map_err(|e| Error::io("remove", &cohort, e))?;
        }
        run::simulated(&config, &cohort, control)?
    };

    let settings = settings(args.seed, dtype, &cohort);
    let out = args.out.join("deeppt");
    let outcome = train(&settings, &out, args.resume, device, control)?;
    let held = &outcome.held_out;
    let scores = Scores::new(
        &held.genes,
        held.samples.len(),
        &held.predicted,
        &held.measured,
    )?;

    control
        .progress
        .note("negative control: shuffled expression");
    let mut shuffled_settings = settings.clone();
    shuffled_settings.expression.shuffle = true;
    let control_run = args.out.join("shuffled");
    share_features(&out, &control_run)?;
    let shuffled = train(
        &shuffled_settings,
        &control_run,
        args.resume,
        &Device::Cpu,
        control,
    )?
    .held_out;
    let shuffled = Scores::new(
        &shuffled.genes,
        shuffled.samples.len(),
        &shuffled.predicted,
        &shuffled.measured,
    )?;

    let figures = figures(args, &truth, &cohort, held, &scores, &shuffled)?;
    let summary = Summary::new(&scores, held.same_patient, &outcome.encoder.description);
    write_results(&out, held, &scores, &summary)?;
    let mut page = report::run(&settings, &outcome, &scores, &summary);
    page.headline(
        number(figures.planted_median_pearson, 3),
        "median Pearson of the planted genes alone",
    )
    .headline(
        figures.shuffled_significant.to_string(),
        "genes predicted when expression is shuffled",
    );
    controls(&mut page, &truth, &figures, &scores);
    report::examples(&mut page, &settings, &scores, held)?;
    page.write(&figures.report)?;
    let mut text = format!(
        "held-out slides          {}\n\
         planted genes            median Pearson {:.2}, {:.0} % significant\n",
        figures.samples,
        figures.planted_median_pearson,
        100.0 * figures.planted_significant,
    );
    for (program, r) in &figures.programs {
        text += &format!("  {program:22} median Pearson {r:.2}\n");
    }
    text += &format!(
        "noise genes              {:.0} % significant\n\
         shuffled expression      {} genes significant\n\
         nuclear size from colour Pearson {:.2} (a trivial model must fail here)\n\
         report                   {}",
        100.0 * figures.noise_significant,
        figures.shuffled_significant,
        figures
            .colour_pearson
            .get("nuclear_size")
            .copied()
            .unwrap_or(f64::NAN),
        figures.report
    );
    console::print(json, &figures, &text)
}

fn settings(seed: u64, dtype: Precision, cohort: &std::path::Path) -> DeepPtConfig {
    DeepPtConfig {
        seed,
        dtype,
        checkpoint_seconds: default_checkpoint_seconds(),
        data: DataConfig {
            expression: Some(cohort.join("expression.csv")),
            slides: Some(cohort.join("slides.csv")),
            ..DataConfig::new(Layout::Tiles, cohort.join("tiles"))
        },
        features: FeatureConfig {
            dtype,
            ..FeatureConfig::default()
        },
        expression: ExpressionConfig {
            transforms: vec![Transform::LibrarySize { total: 1e4 }, Transform::Log1p],
            ..ExpressionConfig::default()
        },
        split: SplitConfig {
            outer_folds: 5,
            inner_folds: 4,
            ..SplitConfig::default()
        },
        autoencoder: AutoEncoderConfig {
            epochs: 30,
            patience: 5,
            learning_rate: 3e-4,
            ..AutoEncoderConfig::default()
        },
        mlp: MlpConfig {
            epochs: 60,
            patience: 8,
            batch: 4,
            dropout: 0.5,
            weight_decay: 1e-3,
            ..MlpConfig::default()
        },
    }
}

/// The control uses the features of the run: they do not depend on expression.
fn share_features(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    crate::formats::atomic::create_dir_all(to.join("features"))?;
    let copy = |a: &std::path::Path, b: &std::path::Path| {
        if b.exists() {
            return Ok(());
        }
        let bytes = std::fs::read(a).map_err(|e| Error::io("read", a, e))?;
        crate::formats::atomic::write_bytes(b, &bytes)
    };
    copy(
        &from.join("encoder.safetensors"),
        &to.join("encoder.safetensors"),
    )?;
    let folder = from.join("features");
    let entries = std::fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
    for entry in entries.flatten() {
        copy(&entry.path(), &to.join("features").join(entry.file_name()))?;
    }
    Ok(())
}

fn share(genes: &[&GeneScore]) -> f64 {
    genes.iter().filter(|g| g.significant()).count() as f64 / genes.len().max(1) as f64
}

fn figures(
    args: &QuickstartArgs,
    truth: &Truth,
    cohort: &std::path::Path,
    held: &HeldOut,
    scores: &Scores,
    shuffled: &Scores,
) -> Result<Figures> {
    let planted: Vec<&str> = (truth.programs.iter())
        .flat_map(|p| p.genes.iter().map(|g| g.gene.as_str()))
        .collect();
    let is_planted = |g: &GeneScore| planted.contains(&g.gene.as_str());
    let (of_programs, noise): (Vec<&GeneScore>, Vec<&GeneScore>) =
        scores.genes.iter().partition(|g| is_planted(g));
    let programs = (truth.programs.iter())
        .map(|p| {
            let of = |g: &GeneScore| p.genes.iter().any(|q| q.gene == g.gene);
            (p.factor.name().to_owned(), scores.median_pearson(of))
        })
        .collect();
    Ok(Figures {
        report: args.out.join("report.html").display().to_string(),
        samples: held.samples.len(),
        planted_median_pearson: scores.median_pearson(is_planted),
        programs,
        planted_significant: share(&of_programs),
        noise_significant: share(&noise),
        shuffled_significant: shuffled.significant(),
        colour_pearson: from_colour(truth, cohort, held)?,
    })
}

/// How well a linear regression on the mean colour of a slide's tiles predicts
/// the mean of each program, every slide left out once.
fn from_colour(
    truth: &Truth,
    cohort: &std::path::Path,
    held: &HeldOut,
) -> Result<BTreeMap<String, f64>> {
    use rayon::prelude::*;
    let colours: Vec<[f64; 3]> = (held.samples.par_iter())
        .map(|slide| mean_colour(&cohort.join("tiles").join(slide)))
        .collect::<Result<_>>()?;
    let width = held.genes.len();
    let mut out = BTreeMap::new();
    for program in &truth.programs {
        // A repressed gene counts with its sign, so that the mean follows the factor.
        let columns: Vec<(usize, f64)> = (program.genes.iter())
            .filter_map(|g| {
                let at = held.genes.iter().position(|h| *h == g.gene)?;
                Some((at, g.loading.signum()))
            })
            .collect();
        let y: Vec<f64> = (0..held.samples.len())
            .map(|i| {
                let value =
                    |&(c, sign): &(usize, f64)| sign * f64::from(held.measured[i * width + c]);
                columns.iter().map(value).sum::<f64>() / columns.len().max(1) as f64
            })
            .collect();
        let predicted: Vec<f64> = (0..y.len())
            .map(|out| left_out(&colours, &y, out))
            .collect();
        out.insert(
            program.factor.name().to_owned(),
            pearson(&predicted, &y)?.coefficient,
        );
    }
    Ok(out)
}

fn mean_colour(folder: &std::path::Path) -> Result<[f64; 3]> {
    let mut sums = [0.0f64; 3];
    let mut pixels = 0.0f64;
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
    let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        let tile = image::read(&path)?;
        for pixel in tile.data.chunks_exact(3) {
            for (sum, &v) in sums.iter_mut().zip(pixel) {
                *sum += f64::from(v);
            }
        }
        pixels += (tile.width * tile.height) as f64;
    }
    Ok(sums.map(|s| s / pixels.max(1.0)))
}

/// Least squares of y on (1, r, g, b) without sample `out`, evaluated at it.
fn left_out(colours: &[[f64; 3]], y: &[f64], out: usize) -> f64 {
    let row = |c: &[f64; 3]| [1.0, c[0] / 255.0, c[1] / 255.0, c[2] / 255.0];
    let mut a = [[0.0f64; 5]; 4];
    for (i, (c, &target)) in colours.iter().zip(y).enumerate() {
        if i == out {
            continue;
        }
        let x = row(c);
        for (j, line) in a.iter_mut().enumerate() {
            for (k, v) in line.iter_mut().take(4).enumerate() {
                *v += x[j] * x[k];
            }
            line[4] += x[j] * target;
        }
    }
    let w = solve(a);
    row(&colours[out]).iter().zip(w).map(|(x, w)| x * w).sum()
}

/// Gauss-Jordan with partial pivoting; a singular direction gets weight 0.
fn solve(mut a: [[f64; 5]; 4]) -> [f64; 4] {
    for i in 0..4 {
        let pivot = (i..4).max_by(|&p, &q| a[p][i].abs().total_cmp(&a[q][i].abs()));
        a.swap(i, pivot.unwrap_or(i));
        if a[i][i].abs() < 1e-12 {
            continue;
        }
        let line = a[i];
        for (j, other) in a.iter_mut().enumerate() {
            if j != i {
                let factor = other[i] / line[i];
                for (v, l) in other.iter_mut().zip(line) {
                    *v -= factor * l;
                }
            }
        }
    }
    std::array::from_fn(|i| {
        if a[i][i].abs() < 1e-12 {
            0.0
        } else {
            a[i][4] / a[i][i]
        }
    })
}

fn controls(page: &mut crate::report::Report, truth: &Truth, figures: &Figures, scores: &Scores) {
    let section = page.section("Planted programs and controls");
    section.paragraph(
        "The slides are drawn: each carries four independent properties, each of which drives a \
         program of genes. Noise genes follow none. If the engine learns what it should, programs \
         are predicted and noise is not; with expression dealt to other slides at random nothing \
         is; and the mean colour of the tiles, which a trivial model would use, does not know the \
         size of the nuclei.",
    );
    let mut bars: Vec<(String, f64, usize)> = figures
        .programs
        .iter()
        .map(|(p, &r)| (format!("{p}, DeepPT"), r, 0))
        .collect();
    bars.extend(
        figures
            .colour_pearson
            .iter()
            .map(|(p, &r)| (format!("{p}, mean colour"), r, 1)),
    );
    let noise = scores.median_pearson(|g| truth.noise_genes.contains(&g.gene));
    bars.push(("noise genes, DeepPT".into(), noise, 2));
    let chart = BarChart {
        title: "Held-out Pearson".into(),
        x_label: "Pearson r (DeepPT: median over genes; colour: of the program's mean)".into(),
        bars,
        marks: vec![(0.5, "0.5".into())],
    };
    section.figure(
        &chart.draw(),
        "Programs that were planted, and what a regression on colour makes of them.",
    );
    section.facts([
        (
            "planted genes, median Pearson",
            number(figures.planted_median_pearson, 3),
        ),
        (
            "planted genes significant",
            format!("{:.1} %", 100.0 * figures.planted_significant),
        ),
        (
            "noise genes significant",
            format!("{:.1} %", 100.0 * figures.noise_significant),
        ),
        (
            "genes significant with shuffled expression",
            figures.shuffled_significant.to_string(),
        ),
    ]);
}
