//! The pages that a run and an evaluation leave.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cohort::{Cohort, Skipped};
use crate::error::Result;
use crate::report::{
    Guide, Histogram, LineChart, Report, Scatter, ScatterGrid, Section, Series, SpatialMap, number,
};
use crate::slides::{image, tile};
use crate::train::classes::{ClassScores, Level};
use crate::train::config::{DeepPtConfig, Network, RunFile, TrnasformerConfig};
use crate::train::deeppt::Outcome;
use crate::train::evaluate::{Comparison, Counts, GeneScore, Scores, Summary};
use crate::train::fit::History;
use crate::train::run::HeldOut;
use crate::train::trnasformer;

/// The page of a training run.
pub fn run(config: &DeepPtConfig, outcome: &Outcome, scores: &Scores, s: &Summary) -> Report {
    let mut page = Report::new("DeepPT: expression predicted from histology");
    page.subtitle(format!(
        "{} samples, {} tiles, {} patients; every figure is of samples while they were held out; \
         seed {}",
        outcome.samples, outcome.tiles, outcome.patients, config.seed
    ));
    warnings(&mut page, s, outcome.encoder.random);
    if config.expression.shuffle {
        page.warning("negative control: expression was dealt to other samples at random");
    }
    headlines(&mut page, s);
    accuracy(&mut page, scores, s);
    best_genes(&mut page, scores, &outcome.held_out);
    maps(&mut page, scores, &outcome.held_out);

    let section = page.section("Training");
    let autoencoders: Vec<(String, &History)> = (outcome.folds.iter().enumerate())
        .map(|(i, f)| (format!("fold {}", i + 1), &f.autoencoder))
        .collect();
    section.figure(
        &losses("Autoencoder", "mean squared error", &autoencoders).draw(),
        "Reconstruction of tile features. Full lines: training; dashed: validation.",
    );
    let mlps: Vec<(String, &History)> = (outcome.folds.iter().enumerate())
        .filter_map(|(i, f)| Some((format!("fold {}", i + 1), f.mlps.first()?.first()?)))
        .collect();
    section.figure(
        &losses("Regression", "mean squared error", &mlps).draw(),
        "The first model of each fold, on standardised expression. Its weights are those of the \
         epoch with the lowest validation loss.",
    );

    let section = page.section("What was run");
    let version = env!("CARGO_PKG_VERSION");
    section.facts([
        ("eosin", version.to_owned()),
        ("seed", config.seed.to_string()),
        ("features", outcome.encoder.description.clone()),
        ("weights, SHA-256", outcome.encoder.sha256.clone()),
        (
            "folds",
            format!(
                "{} outer, {} models each",
                outcome.folds.len(),
                config.split.inner_folds
            ),
        ),
        ("data", config.data.path.display().to_string()),
    ]);
    if let Ok(toml) = config.to_toml() {
        configuration(section, &toml);
    }
    skipped(&mut page, &outcome.skipped);
    page
}

/// The page of an evaluation on other data.
pub fn evaluation(
    run: &Path,
    cohort: &Cohort,
    held: &HeldOut,
    scores: &Scores,
    s: &Summary,
) -> Report {
    let mut page = Report::new("DeepPT: predictions for other samples");
    page.subtitle(format!(
        "{} samples, predicted by {}",
        s.samples,
        run.display()
    ));
    warnings(&mut page, s, s.features.contains("random weights"));
    headlines(&mut page, s);
    accuracy(&mut page, scores, s);
    best_genes(&mut page, scores, held);
    maps(&mut page, scores, held);
    skipped(&mut page, &cohort.skipped);
    page
}

/// The page of a run of tRNAsformer or HE2RNA.
pub fn bags(
    config: &TrnasformerConfig,
    outcome: &trnasformer::Outcome,
    genes: Option<(&Scores, &Summary)>,
    classes: Option<&ClassScores>,
) -> Report {
    let name = match config.model.network {
        Network::Trnasformer => "tRNAsformer",
        Network::He2rna => "HE2RNA",
    };
    let held = &outcome.held_out;
    let mut page = Report::new(format!("{name}: slides from bags of tiles"));
    page.subtitle(format!(
        "{} samples, {} bags each; every figure is of samples while they were held out; seed {}",
        held.samples.len(),
        config.bags.per_slide,
        config.seed
    ));
    if outcome.encoder.random {
        page.warning(format!("Features: {}.", outcome.encoder.description));
    }
    if held.same_patient {
        page.warning(SAME_PATIENT);
    }
    if config.expression.shuffle {
        page.warning("negative control: expression was dealt to other samples at random");
    }
    scored(&mut page, held, genes, classes);
    let networks: Vec<(String, &History)> = (outcome.folds.iter().enumerate())
        .filter_map(|(i, f)| Some((format!("fold {}", i + 1), f.networks.first()?)))
        .collect();
    page.section("Training").figure(
        &losses("Loss", "loss", &networks).draw(),
        "The first network of each fold. Full lines: training, with one number of tiles drawn \
         for each step; dashed: validation, the mean over all. Its weights are those of the \
         epoch with the lowest validation loss.",
    );
    if let Ok(toml) = config.to_toml() {
        configuration(page.section("What was run"), &toml);
    }
    skipped(&mut page, &outcome.skipped);
    page
}

/// The page of tables that were given.
pub fn tables(
    predicted: Option<&Path>,
    against: Option<&Path>,
    genes: Option<(&(HeldOut, Scores), &Summary)>,
    comparison: Option<&Comparison>,
    classes: Option<&ClassScores>,
    left_out: &[String],
) -> Report {
    let mut page = Report::new("Predictions and measurements");
    if let Some(path) = predicted {
        page.subtitle(format!("predicted: {}", path.display()));
    }
    let (held, genes) = match genes {
        Some(((held, scores), summary)) => (Some(held), Some((scores, summary))),
        None => (None, None),
    };
    if held.is_some_and(|h| h.same_patient) {
        page.warning(SAME_PATIENT);
    }
    for line in left_out {
        page.warning(line);
    }
    let empty = HeldOut::default();
    scored(&mut page, held.unwrap_or(&empty), genes, classes);
    if let (Some(c), Some(other)) = (comparison, against) {
        compared(&mut page, c, other);
    }
    page
}

const SAME_PATIENT: &str = "Same patient: a patient of the held-out samples is in training too. \
     The figures say how well other sections of known patients are predicted, not other patients.";

/// Genes and classes, whatever there is.
fn scored(
    page: &mut Report,
    held: &HeldOut,
    genes: Option<(&Scores, &Summary)>,
    classes: Option<&ClassScores>,
) {
    if let Some((_, s)) = genes {
        headlines(page, s);
    }
    if let Some(c) = classes {
        page.headline(
            number(c.slides.accuracy, 3),
            "accuracy of slides' classes, by vote",
        );
        page.headline(
            c.slides
                .auc
                .map_or_else(|| "–".to_owned(), |a| number(a, 3)),
            "area under the ROC curve of slides",
        );
    }
    if let Some((scores, s)) = genes {
        accuracy(page, scores, s);
        tests(page, scores, s);
        best_genes(page, scores, held);
    }
    if let Some(c) = classes {
        classified(page, c);
    }
}

/// What each coefficient and correction says.
fn tests(page: &mut Report, scores: &Scores, s: &Summary) {
    let row = |name: &str, middle: f64, c: Counts| {
        let (bh, hs) = (c.benjamini_hochberg, c.holm_sidak);
        vec![
            name.to_owned(),
            number(middle, 3),
            bh.to_string(),
            hs.to_string(),
        ]
    };
    let section = page.section("Tests and errors");
    section.table(
        "Genes with a positive correlation at 1 %, one-sided, corrected over all genes",
        &["coefficient", "median", "Benjamini-Hochberg", "Holm-Sidak"],
        &[
            row("Pearson", s.median_pearson, s.counts.pearson),
            row("Spearman", s.median_spearman, s.counts.spearman),
            row("Kendall", s.median_kendall, s.counts.kendall),
        ],
    );
    let mut facts = vec![
        (
            "mean absolute error, median of genes",
            number(s.median_mae, 3),
        ),
        (
            "root mean squared error, median of genes",
            number(s.median_rmse, 3),
        ),
    ];
    if let Some(relative) = s.median_relative_rmse {
        facts.push((
            "the same over predicting the training mean",
            number(relative, 3),
        ));
    }
    section.facts(facts);
    let relative: Vec<f64> = scores
        .genes
        .iter()
        .filter_map(|g| g.relative_rmse)
        .collect();
    if !relative.is_empty() {
        let chart = Histogram {
            title: "Error over that of predicting the training mean".into(),
            x_label: "relative RMSE".into(),
            y_label: "genes".into(),
            groups: vec![("genes".into(), relative)],
            bins: 40,
            marks: vec![(1.0, "training mean".into())],
        };
        section.figure(
            &chart.draw(),
            "Left of 1 the model is better than the training mean.",
        );
    }
}

fn classified(page: &mut Report, c: &ClassScores) {
    let section = page.section("Classes");
    let row = |name: &str, level: &Level| {
        let figures = [
            level.accuracy,
            level.balanced_accuracy,
            level.f1_micro,
            level.f1_macro,
            level.f1_weighted,
            level.auc.unwrap_or(f64::NAN),
        ];
        let mut row = vec![name.to_owned(), level.count.to_string()];
        row.extend(figures.map(|v| number(v, 3)));
        row
    };
    section.table(
        "Bags alone, and slides by the vote of their bags",
        &[
            "of",
            "n",
            "accuracy",
            "balanced",
            "F1 micro",
            "F1 macro",
            "F1 weighted",
            "AUC",
        ],
        &[row("slides", &c.slides), row("bags", &c.bags)],
    );
    for (what, level) in [("Slides", &c.slides), ("Bags", &c.bags)] {
        let header: Vec<&str> = (std::iter::once("true class"))
            .chain(c.classes.iter().map(String::as_str))
            .collect();
        let rows: Vec<Vec<String>> = (c.classes.iter().zip(&level.confusion))
            .map(|(name, row)| {
                let counts = row.iter().map(u64::to_string);
                std::iter::once(name.clone()).chain(counts).collect()
            })
            .collect();
        section.table(
            &format!("{what}: columns are predicted classes"),
            &header,
            &rows,
        );
    }
}

fn compared(page: &mut Report, c: &Comparison, other: &Path) {
    let section = page.section("Compared with other predictions");
    section.paragraph(format!(
        "{} genes are predicted better than by {}, {} worse, of {} over {} samples (Steiger's \
         test, two-sided, 1 % after Benjamini-Hochberg).",
        c.first_better,
        other.display(),
        c.second_better,
        c.genes.len(),
        c.samples
    ));
    let chart = Scatter {
        title: "Pearson correlation, gene by gene".into(),
        note: String::new(),
        x_label: "the other predictions".into(),
        y_label: "these predictions".into(),
        points: c.genes.iter().map(|g| (g.second, g.first)).collect(),
        guide: Guide::Identity,
        colour: 0,
    };
    section.figure(
        &chart.draw(),
        "Above the line these predictions are better.",
    );
    let mut ranked: Vec<_> = c.genes.iter().filter(|g| !g.p.is_nan()).collect();
    ranked.sort_by(|a, b| a.p.total_cmp(&b.p));
    let rows: Vec<Vec<String>> = (ranked.iter().take(20))
        .map(|g| {
            let figures = [(g.first, 3), (g.second, 3), (g.z, 3), (g.q, 2)];
            std::iter::once(g.gene.clone())
                .chain(figures.map(|(v, digits)| number(v, digits)))
                .collect()
        })
        .collect();
    section.table(
        "The 20 surest differences; all are in comparison.csv",
        &["gene", "these", "other", "Z", "q"],
        &rows,
    );
}

fn warnings(page: &mut Report, s: &Summary, random: bool) {
    if random {
        page.warning(format!("Features: {}.", s.features));
    }
    if s.same_patient {
        page.warning(SAME_PATIENT);
    }
}

fn headlines(page: &mut Report, s: &Summary) {
    let mark = if s.same_patient {
        " (same patient)"
    } else {
        ""
    };
    page.headline(
        number(s.median_pearson, 3),
        format!("median Pearson of {} genes{mark}", s.genes),
    )
    .headline(
        number(s.top50_pearson, 3),
        format!("mean Pearson of the best 50{mark}"),
    )
    .headline(
        s.significant_genes.to_string(),
        format!("genes predicted: r > 0, Benjamini-Hochberg 1 %{mark}"),
    );
}

fn accuracy(page: &mut Report, scores: &Scores, s: &Summary) {
    let r: Vec<f64> = scores
        .genes
        .iter()
        .map(|g| g.pearson)
        .filter(|r| !r.is_nan())
        .collect();
    let (yes, no): (Vec<&GeneScore>, Vec<&GeneScore>) =
        scores.genes.iter().partition(|g| g.significant());
    let of = |genes: Vec<&GeneScore>| genes.iter().map(|g| g.pearson).collect::<Vec<_>>();
    let chart = Histogram {
        title: "Correlation of predicted and measured expression".into(),
        x_label: "Pearson r over held-out samples".into(),
        y_label: "genes".into(),
        groups: vec![
            ("predicted".into(), of(yes)),
            ("not significant".into(), of(no)),
        ],
        bins: 40,
        marks: vec![
            (0.0, "0".into()),
            (s.median_pearson, format!("median {:.2}", s.median_pearson)),
        ],
    };
    let section = page.section("Accuracy, gene by gene");
    section.figure(
        &chart.draw(),
        &format!(
            "{} of {} genes have a correlation; a gene counts as predicted when r > 0 and its \
             one-sided p stays under 1 % after Benjamini-Hochberg over all genes.",
            r.len(),
            s.genes
        ),
    );
    let rows: Vec<Vec<String>> = (scores.ranked().iter().take(20))
        .map(|g| {
            vec![
                g.gene.clone(),
                number(g.pearson, 3),
                number(g.spearman, 3),
                number(g.q, 2),
                number(g.mae, 3),
                number(g.rmse, 3),
            ]
        })
        .collect();
    section.table(
        "The 20 best genes; all are in genes.csv",
        &["gene", "Pearson", "Spearman", "q", "MAE", "RMSE"],
        &rows,
    );
}

/// Predicted and measured values of a gene.
fn pairs(held: &HeldOut, gene: &str) -> Vec<(f64, f64)> {
    let Some(column) = held.genes.iter().position(|g| g == gene) else {
        return Vec::new();
    };
    let width = held.genes.len();
    (0..held.samples.len())
        .map(|i| i * width + column)
        .map(|i| (held.measured[i].into(), held.predicted[i].into()))
        .collect()
}

fn best_genes(page: &mut Report, scores: &Scores, held: &HeldOut) {
    let panels = (scores.ranked().iter().take(6))
        .map(|g| Scatter {
            title: g.gene.clone(),
            note: format!("r = {:.2}", g.pearson),
            x_label: "measured".into(),
            y_label: "predicted".into(),
            points: pairs(held, &g.gene),
            guide: Guide::Regression,
            colour: 0,
        })
        .collect();
    let grid = ScatterGrid {
        title: String::new(),
        columns: 3,
        panels,
        same_axes: false,
    };
    page.section("The best genes").figure(
        &grid.draw(),
        "Each point is a sample, predicted while it was held out, on the transformed scale.",
    );
}

/// Maps of the best gene over each section that has positions.
fn maps(page: &mut Report, scores: &Scores, held: &HeldOut) {
    let Some(best) = scores.ranked().first().map(|g| g.gene.clone()) else {
        return;
    };
    let values = pairs(held, &best);
    let mut sections: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, slide) in held.slides.iter().enumerate() {
        if held.positions[i].is_some() {
            sections.entry(slide).or_default().push(i);
        }
    }
    sections.retain(|_, samples| samples.len() >= 10);
    if sections.is_empty() {
        return;
    }
    let section = page.section(format!("{best} over the tissue"));
    for (slide, samples) in sections.iter().take(4) {
        let point = |&i: &usize, v: f64| held.positions[i].map(|(x, y)| (x, y, v));
        for (what, pick) in [("measured", 0), ("predicted", 1)] {
            let points = (samples.iter())
                .filter_map(|i| {
                    point(
                        i,
                        if pick == 0 {
                            values[*i].0
                        } else {
                            values[*i].1
                        },
                    )
                })
                .collect();
            let map = SpatialMap {
                title: format!("{slide}: {what}"),
                value_label: best.clone(),
                points,
            };
            section.figure(&map.draw(), "");
        }
    }
}

/// Every key of a run file and its value.
fn configuration(section: &mut Section, toml: &str) {
    let mut part = String::new();
    let mut rows = Vec::new();
    for line in toml.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            part = format!("{name}.");
        } else if let Some((key, value)) = line.split_once(" = ") {
            rows.push(vec![format!("{part}{key}"), value.to_owned()]);
        }
    }
    section.table(
        "The configuration, defaults included",
        &["key", "value"],
        &rows,
    );
}

fn losses(title: &str, y: &str, histories: &[(String, &History)]) -> LineChart {
    let curve = |v: &[f64]| v.iter().enumerate().map(|(i, &l)| (i as f64, l)).collect();
    let series = (histories.iter().enumerate())
        .flat_map(|(i, (name, h))| {
            [("", &h.train, false), (" validation", &h.validation, true)].map(
                |(what, values, dashed)| Series {
                    name: format!("{name}{what}"),
                    points: curve(values),
                    colour: i,
                    dashed,
                },
            )
        })
        .collect();
    LineChart {
        title: title.into(),
        x_label: "epoch".into(),
        y_label: y.into(),
        log_y: true,
        series,
    }
}

fn skipped(page: &mut Report, skipped: &[Skipped]) {
    if skipped.is_empty() {
        return;
    }
    const SHOWN: usize = 100;
    let rows: Vec<Vec<String>> = (skipped.iter().take(SHOWN))
        .map(|s| vec![s.what.clone(), s.why.clone()])
        .collect();
    let section = page.section(format!("Left out: {}", skipped.len()));
    section.table("", &["what", "why"], &rows);
    if skipped.len() > SHOWN {
        section.paragraph(format!("and {} more", skipped.len() - SHOWN));
    }
}

/// Example tiles: samples with the highest and lowest prediction of the best gene.
pub fn examples(
    page: &mut Report,
    config: &DeepPtConfig,
    scores: &Scores,
    held: &HeldOut,
) -> Result<()> {
    let Some(best) = scores.ranked().first().map(|g| g.gene.clone()) else {
        return Ok(());
    };
    let values = pairs(held, &best);
    let mut order: Vec<usize> = (0..held.samples.len()).collect();
    order.sort_by(|&a, &b| values[b].1.total_cmp(&values[a].1));
    let picked: Vec<usize> = order
        .iter()
        .take(3)
        .chain(order.iter().rev().take(3))
        .copied()
        .collect();
    let cohort = config.data.read(false)?;
    let mut strip = Vec::new();
    for i in picked {
        let Some(sample) = cohort.samples.iter().find(|s| s.id == held.samples[i]) else {
            continue;
        };
        let Some(source) = sample.tiles.first().map(|&t| &cohort.tiles[t]) else {
            continue;
        };
        // A tile that cannot be read was skipped and is listed as such.
        let Ok(whole) = cohort.images[source.image].read() else {
            continue;
        };
        let cut = match source.centre {
            Some(centre) => tile::crop(&whole, centre, source.size_px)?,
            None => whole,
        };
        let small = tile::resize(&cut, 160, 160)?;
        let label = format!("{}: {:.2}", sample.id, values[i].1);
        strip.push((image::png_bytes(&small)?, label));
    }
    page.section("Example tiles").images(
        strip,
        &format!(
            "A tile each of the three samples with the highest prediction of {best}, then of the \
             three with the lowest; the number is the prediction."
        ),
    );
    Ok(())
}
