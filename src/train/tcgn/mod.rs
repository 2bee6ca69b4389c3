//! Trains TCGN on the spots of sections and predicts what was held out.
//!
//! For each fold there is one network (Xiao et al. 2024, section 4.1): it learns the
//! training spots, turned and mirrored anew in every epoch, and keeps the weights of
//! the epoch with the highest median Pearson correlation on the validation spots,
//! which are others than the tested ones. (The published code keeps the best epoch
//! of the tested section itself.) Genes that are chosen by a rule are chosen on the
//! training spots.

pub mod config;
pub mod folds;
pub mod predictor;
pub mod tiles;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::config::{Missing, TcgnConfig};
use self::tiles::{Augmentation, Tiles};
use crate::cohort::{Cohort, Skipped};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::expression::genes::read_list;
use crate::expression::{FittedTransforms, GeneChoice, Table};
use crate::formats::atomic::{create_dir_all, write_bytes};
use crate::formats::hash::{sha256_bytes, sha256_file};
use crate::formats::{npy, read_weights};
use crate::metrics::correlation::pearson_columns;
use crate::metrics::summary::median;
use crate::models::tcgn::{Config, Tcgn};
use crate::nn::{self, Pass, State};
use crate::ops;
use crate::optim::{Adam, Optimizer};
use crate::random::Philox;
use crate::tensor::Tensor;
use crate::train::config::RunFile;
use crate::train::fit::{History, Plan, Task, Validation, checkpoint_path};
use crate::train::progress::Control;
use crate::train::run::{
    Fold, HeldOut, Part, Predicted, claim, epoch, expression, held_out, json, places, targets,
};
use crate::train::seen::Seen;
use crate::train::step::TrainingStep;

/// What a fold gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FoldRecord {
    /// Ids of the held-out spots.
    pub test: Vec<String>,
    /// Whether a patient of the held-out spots is in training too.
    pub same_patient: bool,
    /// Patients whose spots trained or validated the network.
    pub patients: Vec<String>,
    pub genes: Vec<String>,
    /// Genes of the list that are in no section.
    pub missing_genes: Vec<String>,
    /// Genes of the fold that a section has no count of, where there are any.
    pub lacking: BTreeMap<String, Vec<String>>,
    pub transforms: FittedTransforms,
    /// Where the network's weights began.
    pub start: String,
    pub network: History,
}

/// What a run leaves.
pub struct Outcome {
    pub folds: Vec<FoldRecord>,
    pub held_out: HeldOut,
    /// Genes that are to be reported beside all, if some are.
    pub report: Option<BTreeSet<String>>,
    pub skipped: Vec<Skipped>,
}

/// Runs `config` in the folder `run` on `device`; `resume` continues what is there.
///
/// # Errors
/// Input that cannot be used, each named; a folder that holds another run, or parts
/// of this one from another kind of device; a stop request, after the state was
/// saved.
pub fn train(
    config: &TcgnConfig,
    run: &Path,
    resume: bool,
    device: &Device,
    control: Control,
) -> Result<Outcome> {
    config.validate()?;
    let cohort = config.data.read(true)?;
    train_on(config, run, resume, cohort, device, control)
}

/// As [`train`] with spots that were read already; `config.data` is not used.
///
/// # Errors
/// As [`train`].
pub fn train_on(
    config: &TcgnConfig,
    run: &Path,
    resume: bool,
    mut cohort: Cohort,
    device: &Device,
    control: Control,
) -> Result<Outcome> {
    config.validate()?;
    folds::folds(&config.split, &cohort)?;
    let report = reported(config)?;
    let image = network_config(config, 1).image;
    control.progress.begin("cutting tiles", 0);
    let tiles = Tiles::read(&mut cohort, image, config.stain)?;
    control.progress.end();
    control.progress.note(&format!(
        "{} spots of {} sections; their tiles take {:.0} MiB",
        cohort.samples.len(),
        cohort.images.len(),
        tiles.bytes() as f64 / f64::from(1 << 20)
    ));
    // Again, since spots may have lost their tiles.
    let folds = folds::folds(&config.split, &cohort)?;
    let table = expression(&cohort, &config.expression, config.seed)?;
    let (table, missing) = complete(table, &cohort, config)?;
    if !missing.is_empty() {
        let what = match config.genes.missing {
            Missing::Zero => "are 0 where they are lacking",
            Missing::Drop => "are left out",
        };
        let note = format!("not in every section, so they {what}: {}", some(&missing));
        control.progress.note(&note);
    }
    for fold in &folds {
        check(config, &table, fold)?;
    }
    // Only now: a mistake found so far leaves no folder that is in the way
    // when it is mended.
    let _claim = claim(&config.to_toml()?, run, resume, device)?;
    let seen = Seen::of(&cohort, image, config.stain);
    seen.begin(run, control)?;
    let pixels = tiles.sha256();
    let mut results = Vec::with_capacity(folds.len());
    for (number, fold) in folds.iter().enumerate() {
        let part = FoldRun {
            config,
            cohort: &cohort,
            table: &table,
            tiles: &tiles,
            pixels: &pixels,
            seen: &seen,
            fold,
            name: format!("fold {}/{}", number + 1, folds.len()),
            folder: run.join(format!("fold{number}")),
            checkpoint: checkpoint_path(run),
            device,
            control,
        };
        results.push(part.run()?);
    }
    // The last finished part made it useless.
    let _ = std::fs::remove_file(checkpoint_path(run));
    let predicted = results.iter().map(|(record, values)| Predicted {
        transforms: &record.transforms,
        same_patient: record.same_patient,
        values,
    });
    let held_out = held_out(&cohort, &table, &folds, &predicted.collect::<Vec<_>>())?;
    Ok(Outcome {
        folds: results.into_iter().map(|(record, _)| record).collect(),
        held_out,
        report,
        skipped: cohort.skipped,
    })
}

/// Training and validation spots.
fn sides(fold: &Fold) -> Result<(&[usize], &[usize])> {
    match fold.inner.first() {
        Some((train, validation)) => Ok((train, validation)),
        None => Err(Error::op("tcgn", "internal: a fold without training spots")),
    }
}

/// That a fold can be trained.
fn check(config: &TcgnConfig, table: &Table, fold: &Fold) -> Result<()> {
    let (train, validation) = sides(fold)?;
    for (side, spots) in [("validation", validation), ("test", &fold.test)] {
        if spots.len() < 3 {
            return Err(Error::usage(
                format!("{} {side} spots are too few for a correlation", spots.len()),
                "use sections with at least 3 spots",
            ));
        }
    }
    let (_, transforms, _) = targets(&config.expression, table, train)?;
    let Some(path) = &config.model.start else {
        return Ok(());
    };
    let (genes, weights) = (transforms.genes().len(), read_weights(path)?);
    let head = weights.get("head.2.weight").and_then(|w| w.shape.first());
    match head {
        Some(&there) if there != genes => Err(Error::file(
            path,
            "key `head.2.weight`",
            format!("it predicts {there} genes, and this run {genes}"),
            "choose the genes of the weights in their order, or start from weights of the trunk \
             alone",
        )),
        _ => Ok(()),
    }
}

/// The genes that figures are reported of beside all.
///
/// # Errors
/// A file that cannot be read or does not fit the list of genes.
fn reported(config: &TcgnConfig) -> Result<Option<BTreeSet<String>>> {
    let Some(path) = &config.genes.report else {
        return Ok(None);
    };
    if path.extension().is_none_or(|e| e != "npy") {
        return Ok(Some(read_list(path)?.into_iter().collect()));
    }
    let GeneChoice::File(list) = &config.expression.genes else {
        return Err(Error::file(
            path,
            "",
            "is a mask, and no list says of which genes",
            "set expression.genes = \"file:PATH\", or give names of genes",
        ));
    };
    let (mask, genes) = (npy::read(path)?, read_list(list)?);
    if mask.dtype != DType::Bool || mask.shape != [genes.len()] {
        return Err(Error::file(
            path,
            "",
            format!("holds {} {:?}", mask.dtype, mask.shape),
            format!(
                "give a bool for each of the {} genes of {}",
                genes.len(),
                list.display()
            ),
        ));
    }
    let marked = genes.into_iter().zip(mask.data.iter());
    Ok(Some(
        marked.filter(|(_, m)| **m != 0).map(|(g, _)| g).collect(),
    ))
}

/// The table with what [`Missing`] makes of genes that some section lacks, and those
/// genes: of the list, if there is one. By a rule nothing can be missing but what is
/// dropped.
fn complete(table: Table, cohort: &Cohort, config: &TcgnConfig) -> Result<(Table, Vec<String>)> {
    let listed = match &config.expression.genes {
        GeneChoice::File(path) => Some(read_list(path)?),
        _ => None,
    };
    let wanted: BTreeSet<&str> = match &listed {
        Some(list) => list.iter().map(String::as_str).collect(),
        None => table.genes.iter().map(String::as_str).collect(),
    };
    let absent: BTreeSet<String> = match &listed {
        Some(list) => {
            let there = places(&table.genes);
            let absent = list.iter().filter(|g| !there.contains_key(g.as_str()));
            absent.cloned().collect()
        }
        None => BTreeSet::new(),
    };
    let drop = config.genes.missing == Missing::Drop;
    let mut lacking: BTreeSet<String> = absent.clone();
    if listed.is_some() || drop {
        for genes in without_counts(&table, cohort).into_values() {
            lacking.extend(genes.into_iter().filter(|g| wanted.contains(g.as_str())));
        }
    }
    let table = match drop {
        true => {
            let kept = (0..table.genes.len()).filter(|&g| !lacking.contains(&table.genes[g]));
            table.select_genes(&kept.collect::<Vec<_>>())?
        }
        false => with_zeros(table, &absent.into_iter().collect::<Vec<_>>()),
    };
    Ok((table, lacking.into_iter().collect()))
}

/// The table with a column of zeros for each of `genes`.
fn with_zeros(table: Table, genes: &[String]) -> Table {
    if genes.is_empty() {
        return table;
    }
    let mut values = Vec::with_capacity(table.values.len() + table.samples.len() * genes.len());
    for row in table.rows() {
        values.extend_from_slice(row);
        values.resize(values.len() + genes.len(), 0.0);
    }
    Table {
        samples: table.samples,
        genes: [table.genes, genes.to_vec()].concat(),
        values,
    }
}

/// Of each section the genes that none of its spots has a count of, if there are any.
fn without_counts(table: &Table, cohort: &Cohort) -> BTreeMap<String, Vec<String>> {
    let mut seen: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
    for (sample, row) in cohort.samples.iter().zip(table.rows()) {
        let seen = seen.entry(&sample.slide);
        let seen = seen.or_insert_with(|| vec![false; table.genes.len()]);
        seen.iter_mut().zip(row).for_each(|(s, &v)| *s |= v > 0.0);
    }
    let names = |seen: Vec<bool>| -> Vec<String> {
        let all = table.genes.iter().zip(seen);
        all.filter(|(_, seen)| !seen)
            .map(|(g, _)| g.clone())
            .collect()
    };
    let all = seen
        .into_iter()
        .map(|(s, seen)| (s.to_owned(), names(seen)));
    all.filter(|(_, genes)| !genes.is_empty()).collect()
}

/// The first few of some names.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = names
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The network of a run for this many genes.
fn network_config(config: &TcgnConfig, genes: usize) -> Config {
    let mut network = Config {
        dropout: config.model.dropout,
        reference_quirks: config.model.reference_quirks,
        ..Config::new(genes)
    };
    if let Some(sizes) = &config.model.sizes {
        network.image = sizes.image;
        network.stem = sizes.stem;
        network.widths = sizes.widths;
        network.hidden = sizes.hidden;
        network.heads = sizes.heads;
        network.depths = sizes.depths;
        network.features = sizes.features;
    }
    network
}

struct FoldRun<'a> {
    config: &'a TcgnConfig,
    cohort: &'a Cohort,
    table: &'a Table,
    tiles: &'a Tiles,
    /// Hash of the tiles.
    pixels: &'a str,
    seen: &'a Seen,
    fold: &'a Fold,
    name: String,
    folder: PathBuf,
    checkpoint: PathBuf,
    device: &'a Device,
    control: Control<'a>,
}

/// Expression of spots on the scale of training: (spots, genes).
struct Scaled<'a> {
    values: &'a [f32],
    genes: usize,
}

impl Scaled<'_> {
    fn rows(&self, samples: &[usize]) -> Vec<f32> {
        let row = |&s: &usize| self.values[s * self.genes..(s + 1) * self.genes].iter();
        samples.iter().flat_map(row).copied().collect()
    }

    fn tensor(&self, samples: &[usize]) -> Result<Tensor> {
        Tensor::from_slice(&self.rows(samples), &[samples.len(), self.genes])
    }
}

impl FoldRun<'_> {
    fn run(&self) -> Result<(FoldRecord, Vec<f32>)> {
        let (train, validation) = sides(self.fold)?;
        create_dir_all(&self.folder)?;
        let (chosen, transforms, values) = targets(&self.config.expression, self.table, train)?;
        let genes = transforms.genes().to_vec();
        let scaled = Scaled {
            values: &values,
            genes: genes.len(),
        };
        let start = match &self.config.model.start {
            Some(path) => sha256_file(path)?,
            None => String::new(),
        };
        let fingerprint = [
            &self.config.to_toml()?,
            &format!("{:?}", self.fold),
            self.pixels,
            &start,
            &sha256_bytes(bytemuck::cast_slice(&values)),
        ];
        let fingerprint = sha256_bytes(fingerprint.map(String::from).concat().as_bytes());

        let (model, start) = self.start(genes.len())?;
        let history = self.network(&model, (train, validation), &scaled, &genes, &fingerprint)?;
        let predicted = self.predict(&model, &self.fold.test)?;
        let sides = self.fold.sides(self.cohort);
        let columns = places(&self.table.genes);
        let selected = genes
            .iter()
            .filter_map(|g| columns.get(g.as_str()).copied());
        let part = self.table.select_genes(&selected.collect::<Vec<_>>())?;
        let record = FoldRecord {
            test: sides.test,
            same_patient: sides.same_patient,
            patients: sides.patients,
            genes,
            missing_genes: chosen.missing,
            lacking: without_counts(&part, self.cohort),
            transforms,
            start,
            network: history,
        };
        write_bytes(self.folder.join("fold.json"), json(&record)?.as_bytes())?;
        Ok((record, predicted))
    }

    /// The network that training starts from, and what to say of its weights.
    fn start(&self, genes: usize) -> Result<(Tcgn, String)> {
        let mut random = Philox::fork(self.config.seed, &self.name);
        let model = Tcgn::new(&network_config(self.config, genes), &mut random)?;
        model.initialise(&mut random)?;
        let Some(path) = &self.config.model.start else {
            let seed = self.config.seed;
            return Ok((model, format!("random weights (seed {seed})")));
        };
        let weights = read_weights(path)?;
        let found = nn::load_partial(&model, &weights, path)?;
        let start = format!(
            "{}; {} parameters and buffers that it lacks are random (seed {})",
            path.display(),
            found.new.len(),
            self.config.seed
        );
        Ok((model, start))
    }

    fn network(
        &self,
        model: &Tcgn,
        (train, validation): (&[usize], &[usize]),
        scaled: &Scaled,
        genes: &[String],
        fingerprint: &str,
    ) -> Result<History> {
        let config = &self.config.training;
        let seed = self.config.seed;
        model.to_device(self.device)?;
        let file = self.folder.join("model.safetensors");
        let names: Vec<&str> = genes.iter().map(String::as_str).collect();
        let part = Part {
            file: &file,
            name: &self.name,
            fingerprint,
            genes: &names,
            features: "TCGN",
            seen: Some(self.seen),
            control: self.control,
        };
        let measured = scaled.rows(validation);
        part.ready(model, &mut || {
            self.config.dtype.narrow(model)?;
            let rule = Adam {
                lr: config.learning_rate,
                ..Adam::default()
            };
            let dtype = self.config.dtype.dtype();
            let loss = |inputs: &[Tensor], pass: &Pass| match inputs {
                [tiles, targets] => {
                    let predicted = model.forward(&ops::cast(tiles, dtype)?, pass)?;
                    ops::mse_loss(&predicted, targets)
                }
                _ => Err(Error::op("tcgn", "a step's inputs are tiles and targets")),
            };
            let optimizer = Optimizer::new(rule, model.parameters())?;
            let mut step = TrainingStep::new(model, optimizer, &loss)?;
            if self.config.model.reference_quirks {
                // Ties make the graphs grow by what the values are.
                step = step.uncaptured();
            }
            let steps = self.folder.join("model-steps.csv");
            let task = Task {
                name: &self.name,
                fingerprint,
                step,
                plan: Plan {
                    epochs: config.epochs,
                    patience: config.patience,
                },
                schedule: None,
                checkpoint: &self.checkpoint,
                checkpoint_every: Duration::from_secs(self.config.checkpoint_seconds),
                steps: Some(&steps),
            };
            task.run(
                &mut |number, steps| {
                    let stage = format!("{} epoch {number}", self.name);
                    let batches = epoch(train, config.batch, seed, &stage);
                    let parts: Vec<&[usize]> = batches.iter().map(|(b, _)| &b[..]).collect();
                    let augmentation = Augmentation {
                        seed,
                        epoch: number,
                    };
                    let augmentation = config.augment.then_some(augmentation);
                    self.tiles.for_each_batch(&parts, augmentation, |i, tiles| {
                        // An epoch is long: it is left where it is, and taken again.
                        self.control
                            .check("run the same command with --resume to go on")?;
                        let (batch, random) = &batches[i];
                        steps.step(&[tiles, scaled.tensor(batch)?], *random, batch.len())
                    })
                },
                &mut || {
                    let predicted = self.predict(model, validation)?;
                    let squares = predicted.iter().zip(&measured);
                    let squares = squares.map(|(p, m)| f64::from(p - m).powi(2));
                    let score = median_pearson(&predicted, &measured, genes.len())?;
                    Ok(Validation {
                        loss: squares.sum::<f64>() / measured.len().max(1) as f64,
                        score: Some(score),
                    })
                },
                self.control,
            )
        })
    }

    /// (spots, genes), without dropout or augmentation, in f32.
    fn predict(&self, model: &Tcgn, spots: &[usize]) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(spots.len() * model.config().genes);
        let batches: Vec<&[usize]> = spots.chunks(self.config.training.batch).collect();
        self.tiles.for_each_batch(&batches, None, |_, tiles| {
            let y = model.forward(&tiles.to(self.device)?, &Pass::eval())?;
            all.extend(y.to_f32_vec()?);
            Ok(())
        })?;
        Ok(all)
    }
}

/// The median over genes of the correlation of (spots, genes), which is 0 for a gene
/// that does not vary on either side.
fn median_pearson(predicted: &[f32], measured: &[f32], genes: usize) -> Result<f64> {
    let spots = measured.len() / genes.max(1);
    let all = pearson_columns(predicted, measured, spots, genes)?;
    let known = |r: f64| if r.is_nan() { 0.0 } else { r };
    median(&all.iter().map(|c| known(c.coefficient)).collect::<Vec<_>>())
}
