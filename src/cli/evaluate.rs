//! `eosin evaluate`: predictions of a run, of a run for other samples, or any two tables.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use super::run::{described, described_classes};
use super::{EvaluateArgs, classifier, console, report, spots};
use crate::cohort::Cohort;
use crate::cohort::tiles::read_pairs;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::expression::table::{Orientation, read_signed};
use crate::expression::transform::FittedTransforms;
use crate::expression::{Source, Table, source};
use crate::formats::atomic::{create_dir_all, write_bytes};
use crate::train::classes::{self, ClassScores, Classified};
use crate::train::classifier::config::ClassifierConfig;
use crate::train::config::{DataConfig, FeatureConfig, Precision, RunFile, TrnasformerConfig};
use crate::train::evaluate::{Comparison, Scores, Summary, write_results};
use crate::train::features::{Encoder, Features, extract};
use crate::train::progress::Control;
use crate::train::run::HeldOut;
use crate::train::seen::Seen;
use crate::train::tcgn::config::TcgnConfig;
use crate::train::{deeppt, trnasformer};

pub fn evaluate(
    args: &EvaluateArgs,
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    match (&args.run, &args.data) {
        (Some(run), Some(data)) if TcgnConfig::wrote(run) => {
            spots::evaluate(args, [run, data], dtype, device, json, control)
        }
        (Some(run), Some(data)) if ClassifierConfig::wrote(run) => {
            classifier::evaluate(args, [run, data], device, json, control)
        }
        (Some(run), Some(_)) => other_samples(args, run, dtype, device, json, control),
        _ => tables(args, json, control),
    }
}

#[derive(Serialize)]
struct Predicted {
    folder: String,
    samples: usize,
    genes: usize,
    features: String,
    skipped: usize,
    scores: Option<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<ClassScores>,
}

/// The networks of a run that sees features of tiles.
enum Networks {
    DeepPt(Box<deeppt::Ensemble>),
    Bags(Box<trnasformer::Ensemble>),
}

/// What is the same of both.
struct Common<'a> {
    data: &'a DataConfig,
    features: &'a FeatureConfig,
    encoder: &'a Encoder,
    seen: Option<&'a Seen>,
}

impl Networks {
    fn read(run: &Path, device: &Device) -> Result<Self> {
        Ok(
            match TrnasformerConfig::read(&run.join("config.toml")).is_ok() {
                true => Self::Bags(Box::new(trnasformer::Ensemble::read(run, device)?)),
                false => Self::DeepPt(Box::new(deeppt::Ensemble::read(run, device)?)),
            },
        )
    }

    fn common(&self) -> Common<'_> {
        macro_rules! of {
            ($ensemble:expr) => {
                Common {
                    data: &$ensemble.config.data,
                    features: &$ensemble.config.features,
                    encoder: &$ensemble.encoder,
                    seen: $ensemble.seen.as_ref(),
                }
            };
        }
        match self {
            Self::DeepPt(e) => of!(e),
            Self::Bags(e) => of!(e),
        }
    }

    fn genes(&self) -> Vec<String> {
        match self {
            Self::DeepPt(e) => e.genes(),
            Self::Bags(e) => e.genes(),
        }
    }

    /// Of the classes that it tells apart.
    fn classes(&self) -> &[String] {
        match self {
            Self::DeepPt(_) => &[],
            Self::Bags(e) => &e.classes,
        }
    }

    fn trained_on(&self, cohort: &Cohort) -> bool {
        match self {
            Self::DeepPt(e) => e.trained_on(cohort),
            Self::Bags(e) => e.trained_on(cohort),
        }
    }

    fn on_scale(&self, table: &Table) -> Result<Vec<f32>> {
        match self {
            Self::DeepPt(e) => e.on_scale(table),
            Self::Bags(e) => e.on_scale(table),
        }
    }

    /// (samples, genes), and classes if it tells them apart.
    fn predict(
        &self,
        cohort: &Cohort,
        features: &Features,
        control: Control,
    ) -> Result<(Vec<f32>, Option<Classified>)> {
        match self {
            Self::DeepPt(e) => Ok((e.predict(cohort, features)?, None)),
            Self::Bags(e) => e.predict(cohort, features, control),
        }
    }
}

/// Predicts other samples with the networks of a run.
fn other_samples(
    args: &EvaluateArgs,
    run: &Path,
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let ensemble = Networks::read(run, device)?;
    let common = ensemble.common();
    let trained = common.features.dtype;
    if dtype.is_some_and(|dtype| dtype != trained) {
        return Err(Error::usage(
            format!("the features of {} are {}", run.display(), trained.dtype()),
            "leave out --dtype: those of other tiles are extracted in the same",
        ));
    }
    let mut data = DataConfig {
        path: args.data.clone().unwrap_or_default(),
        sections: args.sections.clone(),
        expression: args.expression.clone(),
        slides: args.slides.clone(),
        mpp: args.mpp,
        ..common.data.clone()
    };
    let genes = ensemble.genes();
    let scored = !args.no_expression && data.has_expression() && !genes.is_empty();
    if let Some(given) = args.source() {
        data.source = given;
    }
    if !scored {
        data.expression = None;
    }
    let mut cohort = data.read(scored)?;
    if let Some(own) = common.seen {
        let features = common.features;
        let seen = Seen::of(&cohort, features.tile_px, features.stain);
        let what = data.path.display().to_string();
        if let Some(note) = own.admit(&what, seen.mpp, args.any_mpp)? {
            control.progress.note(&note);
        }
    }
    let truth = match (&args.classes, ensemble.classes()) {
        (None, _) => Vec::new(),
        (Some(path), names) if !names.is_empty() => {
            let slides: Vec<&str> = cohort.samples.iter().map(|s| s.slide.as_str()).collect();
            classes::known(path, names, &slides)?
        }
        (Some(_), _) => {
            return Err(Error::file(
                run,
                "",
                "is a run that tells no classes apart",
                "leave out --classes, or train with model.classes",
            ));
        }
    };
    create_dir_all(&args.out)?;
    control
        .progress
        .note(&format!("features: {}", common.encoder.source.description));
    let features = extract(
        &mut cohort,
        common.encoder,
        common.features,
        &args.out.join("features"),
        control,
    )?;
    let (predicted, mut classified) = ensemble.predict(&cohort, &features, control)?;
    let mut class_scores = None;
    if let Some(classified) = &mut classified {
        classified.truth = truth;
        if args.classes.is_some() {
            class_scores = Some(classified.scores()?);
        }
        classified.write(&args.out)?;
    }
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
        fold: Vec::new(),
        training_means: Vec::new(),
    };
    let encoder = &common.encoder.source.description;
    let of_classes = class_scores.as_ref().map(described_classes);
    let mut result = Predicted {
        folder: args.out.display().to_string(),
        samples: held.samples.len(),
        genes: held.genes.len(),
        features: encoder.clone(),
        skipped: cohort.skipped.len(),
        scores: None,
        classes: class_scores,
    };
    if result.classes.is_some() {
        let bytes = serde_json::to_vec_pretty(&result)
            .map_err(|e| Error::usage(format!("no summary: {e}"), "report this"))?;
        write_bytes(args.out.join("evaluation.json"), &bytes)?;
    }
    let with_classes = |text: String| match (&of_classes, &classified) {
        (Some(scores), _) => format!("{scores}\n{text}"),
        (None, Some(_)) => format!("{}\n{text}", args.out.join("classes.csv").display()),
        (None, None) => text,
    };
    if held.genes.is_empty() {
        let text = with_classes(format!("features           {encoder}"));
        return console::print(json, &result, &text);
    }
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
        return console::print(json, &result, &with_classes(text));
    };
    held.measured = ensemble.on_scale(table)?;
    let mut scores = Scores::of(&held)?;
    let training = run.join("training_means.csv");
    if training.is_file() {
        // Those of the folds, of which each network's is one.
        let of_folds = read_signed(&training, Orientation::SamplesByGenes, &[])?;
        let mean = means(&of_folds, &held.genes, &training)?;
        let baseline = mean.repeat(held.samples.len());
        scores.relative_to(&baseline, &held.measured)?;
    }
    let summary = Summary::new(&scores, held.same_patient, encoder);
    write_results(&args.out, &held, &scores, &summary)?;
    let page = report::evaluation(run, &cohort, &held, &scores, &summary);
    page.write(args.out.join("report.html"))?;
    let text = with_classes(described(&summary, &args.out.join("report.html")));
    result.scores = Some(summary);
    console::print(json, &result, &text)
}

/// What is said of two tables.
#[derive(Serialize)]
struct Evaluated {
    folder: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    scores: Option<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<Comparison>,
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<ClassScores>,
    /// Samples and genes that are on one side only.
    left_out: Vec<String>,
}

/// Scores tables, which may be those that a run left.
fn tables(args: &EvaluateArgs, json: bool, control: Control) -> Result<()> {
    let mut left_out = Vec::new();
    let in_run = |name: &str| args.run.as_ref().map(|run| run.join(name));
    let there = |name: &str| in_run(name).filter(|path| path.is_file());
    let predicted = args.predicted.clone().or(there("predictions.csv"));
    let classes = args.classes.clone().or(there("bag_classes.csv"));
    if predicted.is_none() && classes.is_none() {
        let run = args.run.as_deref().unwrap_or(Path::new(""));
        return Err(Error::file(
            run,
            "",
            "holds no predictions.csv and no bag_classes.csv",
            "give the folder of a finished run; continue an unfinished one with --resume",
        ));
    }
    create_dir_all(&args.out)?;
    let classes = classes.as_deref().map(Classified::read).transpose()?;
    let class_scores = classes.as_ref().map(Classified::scores).transpose()?;
    if let Some(classes) = &classes {
        classes.write(&args.out)?;
    }

    let mut result = Evaluated {
        folder: args.out.display().to_string(),
        scores: None,
        comparison: None,
        classes: class_scores,
        left_out: Vec::new(),
    };
    let mut scored = None;
    if let Some(path) = &predicted {
        let measured = args.measured.clone().or(there("measured.csv"));
        let measured = measured.ok_or_else(|| {
            Error::usage(
                "there are predictions, and nothing to hold them against",
                "give --measured a table of expression",
            )
        })?;
        let held = side_by_side(args, path, &measured, &mut left_out)?;
        let mut scores = Scores::of(&held)?;
        if let Some(training) = &args.training {
            let table = read_signed(training, args.orientation_or_rows(), &[])?;
            let mean = means(&table, &held.genes, training)?;
            let baseline: Vec<f32> = mean.repeat(held.samples.len());
            scores.relative_to(&baseline, &held.measured)?;
        }
        let summary = Summary::new(&scores, held.same_patient, "as given");
        write_results(&args.out, &held, &scores, &summary)?;
        result.comparison = match &args.against {
            Some(other) => Some(compared(args, other, &held, &mut left_out)?),
            None => None,
        };
        result.scores = Some(summary);
        scored = Some((held, scores));
    }
    let page = report::tables(
        predicted.as_deref(),
        args.against.as_deref(),
        scored.as_ref().zip(result.scores.as_ref()),
        result.comparison.as_ref(),
        result.classes.as_ref(),
        &left_out,
    );
    let report = args.out.join("report.html");
    page.write(&report)?;
    let mut text = Vec::new();
    text.extend(result.classes.as_ref().map(described_classes));
    text.extend(result.scores.as_ref().map(|s| described(s, &report)));
    if let Some(c) = &result.comparison {
        text.push(format!(
            "against the other  {} genes better, {} worse of {} (Steiger, Benjamini-Hochberg 1 %)",
            c.first_better,
            c.second_better,
            c.genes.len()
        ));
    }
    for line in &left_out {
        control.progress.note(line);
    }
    result.left_out = left_out;
    let bytes = serde_json::to_vec_pretty(&result)
        .map_err(|e| Error::usage(format!("no summary: {e}"), "report this"))?;
    write_bytes(args.out.join("evaluation.json"), &bytes)?;
    console::print(json, &result, &text.join("\n"))
}

/// A folder's predictions, or the table itself.
fn table_of(path: &Path) -> std::path::PathBuf {
    match path.is_dir() {
        true => path.join("predictions.csv"),
        false => path.to_path_buf(),
    }
}

/// Predictions, bags averaged where the user says which slide each is of.
fn predictions(args: &EvaluateArgs, path: &Path, known: &[String]) -> Result<Table> {
    let path = &table_of(path);
    let orientation = match known.is_empty() {
        true => args.orientation_or_rows(),
        false => args.orientation(),
    };
    let table = read_signed(path, orientation, known)?;
    let Some(bags) = &args.bags else {
        return Ok(table);
    };
    let slide = read_pairs(bags, "bag", "slide")?;
    let mut place: HashMap<&str, usize> = HashMap::new();
    let mut samples: Vec<String> = Vec::new();
    let mut sums: Vec<Vec<f64>> = Vec::new();
    let mut counts: Vec<f64> = Vec::new();
    for (bag, row) in table.samples.iter().zip(table.rows()) {
        let of = slide.get(bag).ok_or_else(|| {
            Error::file(
                bags,
                "",
                format!("does not say which slide bag {bag} is of"),
                "add a line for it",
            )
        })?;
        let at = *place.entry(of).or_insert_with(|| {
            samples.push(of.clone());
            sums.push(vec![0.0; row.len()]);
            counts.push(0.0);
            samples.len() - 1
        });
        counts[at] += 1.0;
        sums[at]
            .iter_mut()
            .zip(row)
            .for_each(|(s, v)| *s += f64::from(*v));
    }
    let mean = |(sum, count): (&Vec<f64>, &f64)| {
        sum.iter().map(|s| (s / count) as f32).collect::<Vec<_>>()
    };
    Ok(Table {
        values: sums.iter().zip(&counts).flat_map(mean).collect(),
        genes: table.genes,
        samples,
    })
}

/// The samples and genes that both tables have, in the order of the predictions.
fn side_by_side(
    args: &EvaluateArgs,
    predicted: &Path,
    measured: &Path,
    left_out: &mut Vec<String>,
) -> Result<HeldOut> {
    let predicted_table = predictions(args, predicted, &[])?;
    let plain = args.source().is_none() && args.transform.is_empty();
    let plain = plain && source::is_table(measured)?;
    let mut table = match args.measured.is_none() || plain {
        // On the scale of the predictions already, which may be below zero.
        true => read_signed(measured, Orientation::Auto, &predicted_table.samples)?,
        false => {
            let source = args.source().unwrap_or_default();
            let loaded = source::read(measured, &source, &predicted_table.samples)?;
            let skipped = loaded
                .skipped
                .iter()
                .map(|s| format!("{}: {}", s.what, s.why));
            left_out.extend(skipped);
            loaded.table
        }
    };
    if !args.transform.is_empty() {
        let all: Vec<usize> = (0..table.samples.len()).collect();
        let transforms = FittedTransforms::fit(&args.transform, &table, &all)?;
        table.values = transforms.apply_table(&table)?;
    }
    let (predicted_table, measured_table) =
        shared((predicted, predicted_table), (measured, table), left_out)?;
    let samples = predicted_table.samples.clone();
    let mut held = HeldOut {
        slides: samples.clone(),
        positions: vec![None; samples.len()],
        genes: predicted_table.genes,
        predicted: predicted_table.values,
        measured: measured_table.values,
        same_patient: false,
        fold: Vec::new(),
        training_means: Vec::new(),
        samples,
    };
    if let Some(run) = args.run.as_ref().filter(|_| args.predicted.is_none()) {
        of_run(run, &mut held)?;
    }
    Ok(held)
}

/// What a run's folder says beside its predictions: whether patients were known, and
/// the means that its folds learned from.
fn of_run(run: &Path, held: &mut HeldOut) -> Result<()> {
    let path = run.join("summary.json");
    if let Ok(text) = std::fs::read(&path) {
        let summary: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|e| Error::file(&path, "", e.to_string(), "finish the run with --resume"))?;
        held.same_patient = summary["same_patient"] == true;
    }
    let (means, folds) = (run.join("training_means.csv"), run.join("folds.csv"));
    if !means.is_file() || !folds.is_file() {
        return Ok(());
    }
    let table = read_signed(&means, Orientation::SamplesByGenes, &[])?;
    let column: HashMap<&str, usize> = (table.genes.iter().enumerate())
        .map(|(i, g)| (g.as_str(), i))
        .collect();
    let columns: Option<Vec<usize>> = held
        .genes
        .iter()
        .map(|g| column.get(g.as_str()).copied())
        .collect();
    let of = read_pairs(&folds, "sample", "fold")?;
    let fold = |sample: &String| table.samples.iter().position(|f| Some(f) == of.get(sample));
    let fold: Option<Vec<usize>> = held.samples.iter().map(fold).collect();
    if let (Some(columns), Some(fold)) = (columns, fold) {
        held.training_means = table.select_genes(&columns)?.values;
        held.fold = fold;
    }
    Ok(())
}

/// Both tables with what they share, in the order of the first.
fn shared(
    (first_path, first): (&Path, Table),
    (second_path, second): (&Path, Table),
    left_out: &mut Vec<String>,
) -> Result<(Table, Table)> {
    let pairs = |what: &str, a: &[String], b: &[String], left_out: &mut Vec<String>| {
        let place: HashMap<&str, usize> =
            b.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
        let both: Vec<(usize, usize)> = (a.iter().enumerate())
            .filter_map(|(i, n)| Some((i, *place.get(n.as_str())?)))
            .collect();
        if both.is_empty() {
            let name = |n: &[String]| n.first().cloned().unwrap_or_default();
            return Err(Error::file(
                second_path,
                "",
                format!(
                    "shares no {what} with {}: `{}`, ... there, `{}`, ... here",
                    first_path.display(),
                    name(a),
                    name(b)
                ),
                "give both tables the same names; see --genes and --gene-table",
            ));
        }
        for (path, all) in [(first_path, a.len()), (second_path, b.len())] {
            if all > both.len() {
                let only = all - both.len();
                left_out.push(format!(
                    "{only} of {all} {what}s are in {} only",
                    path.display()
                ));
            }
        }
        Ok(both.into_iter().unzip::<usize, usize, Vec<_>, Vec<_>>())
    };
    let (a, b) = pairs("sample", &first.samples, &second.samples, left_out)?;
    let (first, second) = (first.select_samples(&a)?, second.select_samples(&b)?);
    let (a, b) = pairs("gene", &first.genes, &second.genes, left_out)?;
    Ok((first.select_genes(&a)?, second.select_genes(&b)?))
}

/// The mean of each gene over the samples of a table.
fn means(table: &Table, genes: &[String], path: &Path) -> Result<Vec<f32>> {
    let column: HashMap<&str, usize> = (table.genes.iter().enumerate())
        .map(|(i, g)| (g.as_str(), i))
        .collect();
    let count = table.samples.len().max(1) as f64;
    let mean = |gene: &String| match column.get(gene.as_str()) {
        Some(&at) => {
            let sum: f64 = table.rows().map(|row| f64::from(row[at])).sum();
            Ok((sum / count) as f32)
        }
        None => Err(Error::file(
            path,
            "",
            format!("has no gene `{gene}`"),
            "give the expression that the model learned from, on the scale of the predictions",
        )),
    };
    genes.iter().map(mean).collect()
}

/// Steiger's comparison on the samples and genes of `held` that the other has too.
fn compared(
    args: &EvaluateArgs,
    other: &Path,
    held: &HeldOut,
    left_out: &mut Vec<String>,
) -> Result<Comparison> {
    let table = predictions(args, other, &held.samples)?;
    let of = |values: &[f32]| Table {
        samples: held.samples.clone(),
        genes: held.genes.clone(),
        values: values.to_vec(),
    };
    let here = Path::new("the first predictions");
    let (first, second) = shared((here, of(&held.predicted)), (other, table), left_out)?;
    let (_, measured) = shared(
        (here, first.clone()),
        (here, of(&held.measured)),
        &mut Vec::new(),
    )?;
    let both = [&first.values[..], &second.values];
    let comparison = Comparison::new(&first.genes, first.samples.len(), both, &measured.values)?;
    comparison.write(&args.out.join("comparison.csv"))?;
    Ok(comparison)
}

impl EvaluateArgs {
    fn orientation(&self) -> Orientation {
        self.orientation
            .map_or(Orientation::Auto, Orientation::from)
    }

    /// The same where no names can tell: samples are rows, as eosin writes tables.
    fn orientation_or_rows(&self) -> Orientation {
        match self.orientation() {
            Orientation::Auto => Orientation::SamplesByGenes,
            given => given,
        }
    }

    /// What was said of the form of the expression, if anything was.
    fn source(&self) -> Option<Source> {
        let given = self.source.source();
        (!given.is_default()).then_some(given)
    }
}
