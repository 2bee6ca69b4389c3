//! What the families' runs share: the folder, which samples go where, what is
//! learned, parts that end in a file, and predictions of what was held out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cohort::Cohort;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::expression::{FittedTransforms, Table, Transform, genes};
use crate::formats::atomic::{create_dir_all, remove_leftovers, write_bytes};
use crate::formats::{read_weights, safetensors};
use crate::nn::{self, State};
use crate::random::Philox;
use crate::tensor::Tensor;
use crate::train::config::{Common, ExpressionConfig, GroupBy};
use crate::train::fit::History;
use crate::train::progress::Control;
use crate::train::seen::Seen;
use crate::train::split;

/// One outer fold: sample indices.
#[derive(Clone, Debug, PartialEq)]
pub struct Fold {
    pub test: Vec<usize>,
    /// (train, validation) per inner model.
    pub inner: Vec<(Vec<usize>, Vec<usize>)>,
}

impl Fold {
    /// Every sample that is not tested: what choices and statistics are from.
    pub fn known(&self) -> Vec<usize> {
        let all: BTreeSet<usize> = self
            .inner
            .iter()
            .flat_map(|(t, v)| t.iter().chain(v).copied())
            .collect();
        all.into_iter().collect()
    }

    /// Who is on which side.
    pub fn sides(&self, cohort: &Cohort) -> Sides {
        let sample = |&s: &usize| &cohort.samples[s];
        let known = self.known();
        let patients: BTreeSet<&str> = known.iter().map(|s| sample(s).patient.as_str()).collect();
        Sides {
            test: self.test.iter().map(|s| sample(s).id.clone()).collect(),
            same_patient: (self.test.iter()).any(|s| patients.contains(sample(s).patient.as_str())),
            patients: patients.iter().map(|p| (*p).to_owned()).collect(),
        }
    }
}

/// Who a fold tests and whom it knows.
pub struct Sides {
    /// Ids of the held-out samples.
    pub test: Vec<String>,
    /// Whether a patient of the held-out samples is in training too.
    pub same_patient: bool,
    /// Patients whose samples trained or validated.
    pub patients: Vec<String>,
}

/// Predictions and measurements of samples while they were held out, on the
/// scale of the transforms, for the genes that every fold has.
#[derive(Clone, Debug, Default)]
pub struct HeldOut {
    pub samples: Vec<String>,
    pub slides: Vec<String>,
    pub positions: Vec<Option<(f64, f64)>>,
    pub genes: Vec<String>,
    /// (samples, genes)
    pub predicted: Vec<f32>,
    /// (samples, genes)
    pub measured: Vec<f32>,
    pub same_patient: bool,
    /// Which fold held each sample out.
    pub fold: Vec<usize>,
    /// (folds, genes): the mean of the samples that each fold learned from.
    pub training_means: Vec<f32>,
}

impl HeldOut {
    /// What predicting the training mean would give: (samples, genes). `None` where
    /// the means are not known.
    pub fn baseline(&self) -> Option<Vec<f32>> {
        let width = self.genes.len();
        let row = |&fold: &usize| self.training_means.get(fold * width..(fold + 1) * width);
        if width == 0 || self.fold.len() != self.samples.len() {
            return None;
        }
        let rows: Option<Vec<&[f32]>> = self.fold.iter().map(row).collect();
        rows.map(|rows| rows.concat())
    }
}

/// What a finished run says of one slide.
#[derive(Clone, Debug, PartialEq)]
pub struct OfSlide {
    /// Of the slide: (genes).
    pub genes: Vec<f32>,
    /// Of each tile by itself, for chosen genes: (tiles, chosen). NaN where there is none.
    pub tiles: Vec<f32>,
    /// Probabilities of the slide's classes, of a run that learned some.
    pub classes: Vec<f32>,
}

/// A folder that a run just made its own. A run that fails before it has made anything leaves
/// it as it was found, so that the same command, put right, can be given again.
#[must_use = "the claim is given up when it is dropped"]
pub struct Claim {
    /// `None`: somebody else's, who began the run.
    fresh: Option<PathBuf>,
    /// The folder was not there before.
    made: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(run) = &self.fresh else { return };
        let Ok(found) = std::fs::read_dir(run) else {
            return;
        };
        let ours = |name: &std::ffi::OsStr| name == CONFIG || name == DEVICE;
        let untouched = (found.into_iter()).all(|e| e.is_ok_and(|e| ours(&e.file_name())));
        if untouched {
            // If it fails, the folder is that of a run, as it is after a crash.
            let _ = std::fs::remove_file(run.join(CONFIG));
            let _ = std::fs::remove_file(run.join(DEVICE));
            if self.made {
                let _ = std::fs::remove_dir(run);
            }
        }
    }
}

/// Makes the run's folder this configuration's, or says why it cannot be.
///
/// # Errors
/// It holds another run, or this one and `resume` is not set, or it was begun on
/// another kind of device.
pub fn claim(text: &str, run: &Path, resume: bool, device: &Device) -> Result<Claim> {
    let path = run.join(CONFIG);
    match std::fs::read_to_string(&path) {
        Ok(there) if resume && there == text => {
            same_device(run, device)?;
            remove_leftovers(run);
            Ok(Claim {
                fresh: None,
                made: false,
            })
        }
        Ok(_) if resume => Err(Error::file(
            &path,
            "",
            "is not the configuration that was given",
            "resume with the configuration that the run was started with, or choose another --out",
        )),
        Ok(_) => Err(Error::file(
            run,
            "",
            "holds a run already",
            "continue it with --resume, or choose another --out",
        )),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let made = !run.exists();
            create_dir_all(run)?;
            let claim = Claim {
                fresh: Some(run.to_owned()),
                made,
            };
            write_bytes(run.join(DEVICE), format!("{device}\n").as_bytes())?;
            write_bytes(&path, text.as_bytes())?;
            Ok(claim)
        }
        Err(e) => Err(Error::io("read", &path, e)),
    }
}

/// What a run was asked to do.
const CONFIG: &str = "config.toml";
/// Names the kind of device that a run began on.
const DEVICE: &str = "device.txt";

/// Makes sure that a run goes on where it began. Kinds of devices round
/// differently, so a run that changed over would be neither's, and a resumed
/// run promises the bits of the uninterrupted one. It would also lose what is
/// done: features of the other device would be made again in their place.
fn same_device(run: &Path, device: &Device) -> Result<()> {
    let path = run.join(DEVICE);
    let began = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().to_owned(),
        // From before there was a choice.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Device::Cpu.to_string(),
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    if began == device.to_string() {
        return Ok(());
    }
    Err(Error::file(
        run,
        "",
        format!("the run began on {began}, and {device} gives other bits"),
        format!("resume with --device {began}, or start again with another --out"),
    ))
}

/// What each of the samples must not be parted from, by name.
pub fn groups(cohort: &Cohort, by: GroupBy, samples: &[usize]) -> Vec<String> {
    let of = |&s: &usize| {
        let sample = &cohort.samples[s];
        match by {
            GroupBy::Patient => sample.patient.clone(),
            GroupBy::Section => sample.slide.clone(),
            GroupBy::Sample => sample.id.clone(),
        }
    };
    samples.iter().map(of).collect()
}

/// In cross-validation with a random encoder: the patients (or sections) that
/// are in training in every fold, so that its calibration has seen no tested
/// image.
pub fn reserved(config: &Common, cohort: &Cohort) -> BTreeSet<String> {
    if config.features.weights.is_some() || !config.split.test.is_empty() {
        return BTreeSet::new();
    }
    let all: Vec<usize> = (0..cohort.samples.len()).collect();
    let names = groups(cohort, config.split.by, &all);
    let distinct: BTreeSet<String> = names.into_iter().collect();
    let mut distinct: Vec<String> = distinct.into_iter().collect();
    Philox::fork(config.seed, "calibration").shuffle(&mut distinct);
    distinct.truncate((distinct.len() / 8).max(1));
    distinct.into_iter().collect()
}

/// The outer folds, and the samples whose tiles may calibrate a random
/// encoder: samples that are in no test set.
///
/// # Errors
/// Fewer patients than folds; a test set that the cohort does not have.
pub fn folds(
    config: &Common,
    cohort: &Cohort,
    reserved: &BTreeSet<String>,
) -> Result<(Vec<Fold>, Vec<usize>)> {
    let split = config.split;
    let inner_by = split.inner_by.unwrap_or(split.by);
    let all: Vec<usize> = (0..cohort.samples.len()).collect();
    if !split.test.is_empty() {
        let test = named_test(config, cohort)?;
        let known: Vec<usize> = all.into_iter().filter(|s| !test.contains(s)).collect();
        let names = groups(cohort, inner_by, &known);
        let inner = split::folds(&names, split.inner_folds, config.seed).map_err(|e| match e {
            Error::Usage { problem, remedy } => Error::usage(
                problem,
                format!("{remedy}, or set split.inner_by = \"section\" or \"sample\""),
            ),
            other => other,
        })?;
        let at = |part: &[usize]| part.iter().map(|&i| known[i]).collect::<Vec<_>>();
        let inner = inner.iter().map(|(t, v)| (at(t), at(v))).collect();
        return Ok((vec![Fold { test, inner }], known));
    }

    let by = groups(cohort, split.by, &all);
    let reserved: Vec<usize> = (all.iter().copied())
        .filter(|&s| reserved.contains(&by[s]))
        .collect();
    let dealt: Vec<usize> = all.into_iter().filter(|s| !reserved.contains(s)).collect();
    let names = groups(cohort, split.by, &dealt);
    let outer = split::nested_folds(&names, split.outer_folds, split.inner_folds, config.seed)?;
    let at = |part: &[usize]| part.iter().map(|&i| dealt[i]).collect::<Vec<_>>();
    let outer = outer.iter().map(|f| Fold {
        test: at(&f.test),
        inner: (f.inner.iter())
            .map(|(t, v)| {
                let mut train = at(t);
                train.extend(&reserved);
                train.sort_unstable();
                (train, at(v))
            })
            .collect(),
    });
    Ok((outer.collect(), reserved))
}

/// The samples of the sections or slides named in `split.test`.
fn named_test(config: &Common, cohort: &Cohort) -> Result<Vec<usize>> {
    let split = config.split;
    for name in &split.test {
        if !cohort.samples.iter().any(|s| s.slide == *name) {
            return Err(Error::usage(
                format!("split.test names {name}, which the cohort does not have"),
                "name sections or slides of the data",
            ));
        }
    }
    let (test, known): (Vec<_>, Vec<_>) = cohort
        .samples
        .iter()
        .partition(|s| split.test.contains(&s.slide));
    if known.is_empty() {
        return Err(Error::usage(
            "split.test names every slide, so none is left to train on",
            "leave slides out of split.test",
        ));
    }
    let trained: BTreeSet<&str> = known.iter().map(|s| s.patient.as_str()).collect();
    if let Some(leak) = test.iter().find(|s| trained.contains(s.patient.as_str()))
        && split.by == GroupBy::Patient
    {
        return Err(Error::usage(
            format!(
                "patient {} of the test slide {} is in training too",
                leak.patient, leak.slide
            ),
            "test all slides of a patient together, or set split.by = \"section\" to get figures \
             marked 'same patient'",
        ));
    }
    let is_test = |s: &usize| split.test.contains(&cohort.samples[*s].slide);
    Ok((0..cohort.samples.len()).filter(is_test).collect())
}

/// The cohort's expression as a run learns it.
///
/// # Errors
/// A cohort without.
pub fn expression(cohort: &Cohort, config: &ExpressionConfig, seed: u64) -> Result<Table> {
    let Some(table) = &cohort.table else {
        return Err(Error::usage(
            "the cohort has no expression",
            "give a table or counts",
        ));
    };
    match config.shuffle {
        true => shuffled(table, seed),
        false => Ok(table.clone()),
    }
}

/// Rows dealt to other samples at random.
///
/// # Errors
/// As [`Table::select_samples`].
pub fn shuffled(table: &Table, seed: u64) -> Result<Table> {
    let mut order: Vec<usize> = (0..table.samples.len()).collect();
    Philox::fork(seed, "shuffled expression").shuffle(&mut order);
    let mut dealt = table.select_samples(&order)?;
    dealt.samples.clone_from(&table.samples);
    Ok(dealt)
}

/// Chooses genes on the rows `known` and transforms all rows.
///
/// # Errors
/// A gene list that cannot be read; transforms that do not fit the values.
pub fn targets(
    expression: &ExpressionConfig,
    table: &Table,
    known: &[usize],
) -> Result<(genes::Chosen, FittedTransforms, Vec<f32>)> {
    // Choices by variance or mean are made on the transformed scale, but
    // before a z-score, after which all variances are equal.
    let shape: Vec<Transform> = (expression.transforms.iter().copied())
        .filter(|t| *t != Transform::ZScore)
        .collect();
    let on_scale = FittedTransforms::fit(&shape, table, known)?;
    let scaled = Table {
        values: on_scale.apply_table(table)?,
        ..table.clone()
    };
    let chosen = genes::choose(&scaled, known, &expression.genes, expression.min_detected)?;
    let part = table.select_genes(&chosen.columns)?;
    let transforms = FittedTransforms::fit(&expression.transforms, &part, known)?;
    let values = transforms.apply_table(&part)?;
    Ok((chosen, transforms, values))
}

/// i64 numbers on the CPU.
///
/// # Errors
/// As [`Tensor::from_slice`].
pub fn index(numbers: impl Iterator<Item = usize>) -> Result<Tensor> {
    let numbers: Vec<i64> = numbers.map(|n| n as i64).collect();
    Tensor::from_slice(&numbers, &[numbers.len()])
}

/// The batches of one epoch, each with its random numbers: the items in a random
/// order that is a function of seed and stage.
pub fn epoch(items: &[usize], batch: usize, seed: u64, stage: &str) -> Vec<(Vec<usize>, Philox)> {
    let mut order = items.to_vec();
    Philox::fork(seed, stage).shuffle(&mut order);
    let step = |i| Philox::fork(seed, &format!("{stage} step {i}"));
    let parts = order.chunks(batch.max(1)).enumerate();
    parts.map(|(i, part)| (part.to_vec(), step(i))).collect()
}

/// `take` for each batch of [`epoch`].
///
/// # Errors
/// What `take` returns.
pub fn epoch_over(
    items: &[usize],
    batch: usize,
    seed: u64,
    stage: &str,
    take: &mut dyn FnMut(&[usize], Philox) -> Result<()>,
) -> Result<()> {
    for (part, random) in epoch(items, batch, seed, stage) {
        take(&part, random)?;
    }
    Ok(())
}

/// A part of a run: a network that ends in a file of its own.
pub struct Part<'a> {
    pub file: &'a Path,
    pub name: &'a str,
    /// Of everything that the network depends on.
    pub fingerprint: &'a str,
    /// What it predicts, if that is genes.
    pub genes: &'a [&'a str],
    /// Says where its features are from.
    pub features: &'a str,
    /// Which tiles it is trained on, if it is on tiles.
    pub seen: Option<&'a Seen>,
    pub control: Control<'a>,
}

impl Part<'_> {
    /// Trains a part, or takes it from its file if that is of this fingerprint.
    ///
    /// # Errors
    /// What `train` returns; a file that cannot be read or written.
    pub fn ready(
        &self,
        model: &dyn State,
        train: &mut dyn FnMut() -> Result<History>,
    ) -> Result<History> {
        let Self {
            file,
            name,
            fingerprint,
            genes,
            features,
            seen,
            control,
        } = self;
        if file.exists() {
            let weights = read_weights(file)?;
            let history = weights
                .metadata
                .get("history")
                .map(|h| serde_json::from_str(h));
            if weights
                .metadata
                .get("fingerprint")
                .is_some_and(|f| f == *fingerprint)
                && let Some(Ok(history)) = history
            {
                nn::load(model, &weights, file)?;
                return Ok(history);
            }
        }
        control.progress.begin(name, 0);
        let history = train()?;
        control.progress.end();
        let mut weights = nn::state_weights(model)?;
        for (key, value) in [
            ("history", json(&history)?),
            ("genes", json(genes)?),
            ("fingerprint", (*fingerprint).to_owned()),
            ("features", (*features).to_owned()),
        ] {
            weights.metadata.insert(key.into(), value);
        }
        weights
            .metadata
            .extend(seen.map(Seen::metadata).transpose()?);
        safetensors::write(file, &weights)?;
        Ok(history)
    }
}

/// What is saved as text beside weights.
///
/// # Errors
/// A value that JSON does not have.
pub fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::usage(format!("a record cannot be saved: {e}"), "report this"))
}

/// The folders of a finished run's folds and what `fold.json` says in each.
///
/// # Errors
/// None is there (the run is not finished), or one is broken.
pub fn fold_records<T: DeserializeOwned>(run: &Path) -> Result<Vec<(PathBuf, T)>> {
    let unfinished = |path: &Path| {
        Error::file(
            path,
            "",
            "is missing or not readable",
            "give the folder of a finished run; continue an unfinished one with --resume",
        )
    };
    let mut found = Vec::new();
    loop {
        let folder = run.join(format!("fold{}", found.len()));
        let path = folder.join("fold.json");
        match std::fs::read(&path) {
            Ok(text) => {
                let record = serde_json::from_slice(&text).map_err(|_| unfinished(&path))?;
                found.push((folder, record));
            }
            Err(_) if found.is_empty() => return Err(unfinished(&path)),
            Err(_) => return Ok(found),
        }
    }
}

/// What a fold predicts of its held-out samples.
pub struct Predicted<'a> {
    pub transforms: &'a FittedTransforms,
    pub same_patient: bool,
    /// (samples, genes)
    pub values: &'a [f32],
}

impl Predicted<'_> {
    fn genes(&self) -> &[String] {
        self.transforms.genes()
    }
}

/// Genes that all of the folds have, in the order of the first.
pub fn common_genes<'a>(folds: impl IntoIterator<Item = &'a FittedTransforms>) -> Vec<String> {
    let mut folds = folds.into_iter();
    let Some(first) = folds.next() else {
        return Vec::new();
    };
    let rest: Vec<BTreeSet<&String>> = folds.map(|f| f.genes().iter().collect()).collect();
    let common = |g: &&String| rest.iter().all(|f| f.contains(g));
    first.genes().iter().filter(common).cloned().collect()
}

/// Measured expression on the scale of the predictions, the mean over the folds'
/// transforms: (samples, genes) for the genes that all folds have.
///
/// # Errors
/// A gene that the table lacks, by name.
pub fn on_scale<'a>(
    folds: impl IntoIterator<Item = &'a FittedTransforms> + Clone,
    table: &Table,
) -> Result<Vec<f32>> {
    let genes = common_genes(folds.clone());
    let share = 1.0 / folds.clone().into_iter().count().max(1) as f32;
    let columns = places(&table.genes);
    let mut total = vec![0.0f32; table.samples.len() * genes.len()];
    for fold in folds {
        let wanted = fold.genes();
        let selected: Vec<usize> = wanted
            .iter()
            .map(|g| {
                columns.get(g.as_str()).copied().ok_or_else(|| {
                    Error::usage(
                        format!("the expression lacks gene `{g}`, which the run predicts"),
                        "give a table that has every gene of the run",
                    )
                })
            })
            .collect::<Result<_>>()?;
        let values = fold.apply_table(&table.select_genes(&selected)?)?;
        let at = places(wanted);
        for (row, v) in total
            .chunks_mut(genes.len().max(1))
            .zip(values.chunks(wanted.len().max(1)))
        {
            for (slot, gene) in row.iter_mut().zip(&genes) {
                *slot += v[at[gene.as_str()]] * share;
            }
        }
    }
    Ok(total)
}

/// Where each name stands.
pub fn places(names: &[String]) -> BTreeMap<&str, usize> {
    let all = names.iter().enumerate();
    all.map(|(i, name)| (name.as_str(), i)).collect()
}

/// Joins the folds' predictions for the genes that all of them have.
///
/// # Errors
/// A fold's transforms that do not fit the table.
pub fn held_out(
    cohort: &Cohort,
    table: &Table,
    folds: &[Fold],
    records: &[Predicted],
) -> Result<HeldOut> {
    let genes = common_genes(records.iter().map(|r| r.transforms));
    let mut out = HeldOut {
        samples: Vec::new(),
        slides: Vec::new(),
        positions: Vec::new(),
        predicted: Vec::new(),
        measured: Vec::new(),
        same_patient: records.iter().any(|r| r.same_patient),
        fold: Vec::new(),
        training_means: Vec::new(),
        genes,
    };
    for (number, (fold, record)) in folds.iter().zip(records).enumerate() {
        let place = places(record.genes());
        let columns: Vec<usize> = out.genes.iter().map(|g| place[g.as_str()]).collect();
        let in_table = places(&table.genes);
        let selected: Vec<usize> = record
            .genes()
            .iter()
            .map(|g| in_table[g.as_str()])
            .collect();
        let measured = record
            .transforms
            .apply_table(&table.select_genes(&selected)?)?;
        let width = record.genes().len();
        let known = fold.known();
        let mean = |&c: &usize| {
            let sum: f64 = known
                .iter()
                .map(|&s| f64::from(measured[s * width + c]))
                .sum();
            (sum / known.len().max(1) as f64) as f32
        };
        out.training_means.extend(columns.iter().map(mean));
        for (i, &s) in fold.test.iter().enumerate() {
            out.fold.push(number);
            let sample = &cohort.samples[s];
            out.samples.push(sample.id.clone());
            out.slides.push(sample.slide.clone());
            let first = sample.tiles.first().map(|&t| &cohort.tiles[t]);
            out.positions.push(first.and_then(|t| t.position));
            out.predicted
                .extend(columns.iter().map(|&c| record.values[i * width + c]));
            out.measured
                .extend(columns.iter().map(|&c| measured[s * width + c]));
        }
    }
    Ok(out)
}
