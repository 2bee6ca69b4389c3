//! Trains DeepPT on a cohort and predicts what was held out.
//!
//! For each outer fold an autoencoder is trained on the features of the other
//! samples' tiles, then one regression per inner fold and group of genes, each
//! stopped early on its inner validation set; a held-out sample's prediction is
//! the mean of its fold's regressions (Hoang et al. 2024, Methods). Every part
//! ends in a file; a run that was interrupted skips the parts that are there
//! and continues the unfinished one from its checkpoint, bit for bit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cohort::{Cohort, Skipped};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::expression::{FittedTransforms, Table};
use crate::formats::atomic::{create_dir_all, write_bytes};
use crate::formats::hash::sha256_bytes;
use crate::formats::{Weights, read_weights};
use crate::models::deeppt::{AutoEncoder, CODE, Mlp, Standardisation, averaging};
use crate::nn::{self, Pass, State};
use crate::ops::{self, half::wide};
use crate::optim::{Adam, Optimizer};
use crate::random::Philox;
use crate::tensor::Tensor;
use crate::train::config::{DeepPtConfig, RunFile};
use crate::train::features::{
    Encoder, EncoderSource, Features, extract, published_encoder, random_encoder, stored_encoder,
};
use crate::train::fit::{History, Plan, Task, checkpoint_path};
use crate::train::genes::groups_by_median;
use crate::train::progress::Control;
use crate::train::run::{
    Fold, HeldOut, OfSlide, Part, Predicted, claim, common_genes, epoch_over, expression,
    fold_records, folds, held_out, index, on_scale, places, reserved, targets,
};
use crate::train::seen::Seen;
use crate::train::step::TrainingStep;

/// What an outer fold gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FoldRecord {
    /// Ids of the held-out samples.
    pub test: Vec<String>,
    /// Whether a patient of the held-out samples is in training too.
    pub same_patient: bool,
    /// Patients whose samples trained or validated the fold's networks.
    pub patients: Vec<String>,
    pub genes: Vec<String>,
    pub missing_genes: Vec<String>,
    pub transforms: FittedTransforms,
    pub autoencoder: History,
    /// Per inner model and gene group.
    pub mlps: Vec<Vec<History>>,
}

/// What a run leaves.
pub struct Outcome {
    pub encoder: EncoderSource,
    pub folds: Vec<FoldRecord>,
    pub held_out: HeldOut,
    pub skipped: Vec<Skipped>,
    pub samples: usize,
    pub tiles: usize,
    pub patients: usize,
}

/// Runs `config` in the folder `run` on `device`; `resume` continues
/// what is there.
///
/// # Errors
/// Input that cannot be used, each named; a folder that holds another run, or
/// parts of this one from another kind of device; a stop request, after the
/// state was saved.
pub fn train(
    config: &DeepPtConfig,
    run: &Path,
    resume: bool,
    device: &Device,
    control: Control,
) -> Result<Outcome> {
    config.validate()?;
    let mut cohort = config.data.read(true)?;
    let common = config.common();
    let reserved = reserved(&common, &cohort);
    let (_, calibration) = folds(&common, &cohort, &reserved)?;
    let published = config.features.weights.as_deref();
    let published = published.map(|path| published_encoder(path, &config.features, device));
    let published = published.transpose()?;
    // Only now: a mistake found so far leaves no folder that is in the way
    // when it is mended.
    let _claim = claim(&config.to_toml()?, run, resume, device)?;
    let encoder = match published {
        Some(encoder) => encoder,
        None => random_encoder(
            config.seed,
            &cohort,
            &calibration,
            &config.features,
            &run.join("encoder.safetensors"),
            device,
            control,
        )?,
    };
    if encoder.source.random {
        control
            .progress
            .note(&format!("features: {}", encoder.source.description));
    }
    let features = extract(
        &mut cohort,
        &encoder,
        &config.features,
        &run.join("features"),
        control,
    )?;
    let seen = Seen::of(&cohort, config.features.tile_px, config.features.stain);
    seen.begin(run, control)?;
    // Samples may have lost all their tiles: the folds are of those that stay,
    // the reserved patients are the same.
    let (folds, _) = folds(&common, &cohort, &reserved)?;
    learn(
        config,
        run,
        (&cohort, &features),
        (encoder.source, Some(&seen)),
        &folds,
        device,
        control,
    )
}

/// As [`train`] with features of the cohort's tiles that are there already, which
/// `source` says where from. `config.features` is not used.
///
/// # Errors
/// As [`train`]; features of another number of tiles.
pub fn train_on_features(
    config: &DeepPtConfig,
    run: &Path,
    resume: bool,
    (cohort, features): (&Cohort, &Features),
    source: EncoderSource,
    device: &Device,
    control: Control,
) -> Result<Outcome> {
    config.validate()?;
    let (tiles, width) = (cohort.tiles.len(), features.width);
    if features.values.len() != tiles * width {
        let values = features.values.len();
        return Err(Error::usage(
            format!("{values} features are not {width} of each of {tiles} tiles"),
            "give features of every tile of the cohort",
        ));
    }
    let (folds, _) = folds(&config.common(), cohort, &BTreeSet::new())?;
    let _claim = claim(&config.to_toml()?, run, resume, device)?;
    learn(
        config,
        run,
        (cohort, features),
        (source, None),
        &folds,
        device,
        control,
    )
}

/// Trains and predicts every fold.
fn learn(
    config: &DeepPtConfig,
    run: &Path,
    (cohort, features): (&Cohort, &Features),
    (source, seen): (EncoderSource, Option<&Seen>),
    folds: &[Fold],
    device: &Device,
    control: Control,
) -> Result<Outcome> {
    let table = expression(cohort, &config.expression, config.seed)?;
    let mut records = Vec::with_capacity(folds.len());
    let mut predictions = Vec::with_capacity(folds.len());
    for (number, fold) in folds.iter().enumerate() {
        let part = FoldRun {
            config,
            cohort,
            table: &table,
            features,
            encoder: &source,
            seen,
            fold,
            name: format!("fold {}/{}", number + 1, folds.len()),
            folder: run.join(format!("fold{number}")),
            checkpoint: checkpoint_path(run),
            device,
            control,
        };
        let (record, predicted) = part.run()?;
        records.push(record);
        predictions.push(predicted);
    }
    // The last finished part made it useless.
    let _ = std::fs::remove_file(checkpoint_path(run));
    let predicted = records.iter().zip(&predictions);
    let predicted: Vec<Predicted> = predicted
        .map(|(record, values)| Predicted {
            transforms: &record.transforms,
            same_patient: record.same_patient,
            values,
        })
        .collect();
    let held_out = held_out(cohort, &table, folds, &predicted)?;
    let patients: BTreeSet<&str> = cohort.samples.iter().map(|s| s.patient.as_str()).collect();
    Ok(Outcome {
        encoder: source,
        folds: records,
        held_out,
        samples: cohort.samples.len(),
        tiles: (cohort.samples.iter().flat_map(|s| &s.tiles))
            .collect::<BTreeSet<_>>()
            .len(),
        patients: patients.len(),
        skipped: cohort.skipped.clone(),
    })
}

struct FoldRun<'a> {
    config: &'a DeepPtConfig,
    cohort: &'a Cohort,
    table: &'a Table,
    features: &'a Features,
    encoder: &'a EncoderSource,
    seen: Option<&'a Seen>,
    fold: &'a Fold,
    name: String,
    folder: PathBuf,
    checkpoint: PathBuf,
    device: &'a Device,
    control: Control<'a>,
}

/// Features or codes of tiles, on the device that computes with them, and where
/// each tile's are.
struct Rows {
    /// (tiles, 2048 or 512)
    values: Tensor,
    /// Row of each tile of the cohort.
    row: BTreeMap<usize, usize>,
}

impl Rows {
    /// Rows of the tiles.
    fn of(&self, tiles: &[usize]) -> Result<Tensor> {
        index(tiles.iter().map(|t| self.row[t]))
    }

    /// Rows of the samples' tiles packed one after the other, and how many tiles
    /// each sample has.
    fn bag(&self, cohort: &Cohort, samples: &[usize]) -> Result<(Tensor, Vec<usize>)> {
        let bags = samples.iter().map(|&s| &cohort.samples[s].tiles);
        let tiles: Vec<usize> = bags.clone().flatten().copied().collect();
        Ok((self.of(&tiles)?, bags.map(Vec::len).collect()))
    }

    fn select(&self, rows: &Tensor) -> Result<Tensor> {
        ops::index_select(&self.values, 0, &rows.to(&self.values.device())?)
    }

    /// Values of the samples' tiles packed one after the other, and how many
    /// tiles each sample has.
    fn bags(&self, cohort: &Cohort, samples: &[usize]) -> Result<(Tensor, Vec<usize>)> {
        let (rows, tiles) = self.bag(cohort, samples)?;
        Ok((self.select(&rows)?, tiles))
    }
}

impl FoldRun<'_> {
    fn run(&self) -> Result<(FoldRecord, Vec<f32>)> {
        create_dir_all(&self.folder)?;
        let known = self.fold.known();
        let (chosen, transforms, values) = targets(&self.config.expression, self.table, &known)?;
        let gene_names: Vec<String> = transforms.genes().to_vec();
        let shape = [self.table.samples.len(), gene_names.len()];
        let targets = Tensor::from_slice(&values, &shape)?.to(self.device)?;
        let fingerprint = self.fingerprint(&values)?;

        let features = self.rows()?;
        let (autoencoder, ae_history) = self.autoencoder(&features, &fingerprint)?;
        let codes = Rows {
            values: autoencoder.encode(&features.values, &Pass::eval())?,
            row: features.row,
        };
        drop(features.values);
        let rows = |samples: &[usize]| -> Result<Vec<f32>> {
            let g = gene_names.len();
            Ok(samples
                .iter()
                .flat_map(|&s| values[s * g..(s + 1) * g].iter().copied())
                .collect())
        };
        let groups = groups_by_median(
            &rows(&known)?,
            known.len(),
            gene_names.len(),
            self.config.mlp.genes_per_group,
        )?;

        let (bags, tiles) = codes.bags(self.cohort, &self.fold.test)?;
        let g = gene_names.len();
        let mut predicted = vec![0.0f64; self.fold.test.len() * g];
        let mut histories = Vec::with_capacity(self.fold.inner.len());
        for inner in 0..self.fold.inner.len() {
            let mut of_inner = Vec::with_capacity(groups.len());
            for (number, group) in groups.iter().enumerate() {
                let (mlp, history) = self.mlp(
                    inner,
                    number,
                    (&gene_names, group),
                    (&codes, &targets),
                    &fingerprint,
                )?;
                of_inner.push(history);
                let y = mlp.forward(&bags, &tiles, &Pass::eval())?.to_f64_vec()?;
                for (row, y) in predicted.chunks_mut(g).zip(y.chunks(group.len())) {
                    for (&gene, v) in group.iter().zip(y) {
                        row[gene] += v / self.fold.inner.len() as f64;
                    }
                }
            }
            histories.push(of_inner);
        }
        let sides = self.fold.sides(self.cohort);
        let record = FoldRecord {
            test: sides.test,
            same_patient: sides.same_patient,
            patients: sides.patients,
            genes: gene_names,
            missing_genes: chosen.missing,
            transforms,
            autoencoder: ae_history,
            mlps: histories,
        };
        let json = serde_json::to_vec_pretty(&record)
            .map_err(|e| Error::usage(format!("a fold cannot be recorded: {e}"), "report this"))?;
        write_bytes(self.folder.join("fold.json"), &json)?;
        Ok((record, predicted.into_iter().map(|v| v as f32).collect()))
    }

    /// A hash of everything that the fold's networks depend on.
    fn fingerprint(&self, targets: &[f32]) -> Result<String> {
        let mut text = self.config.to_toml()?;
        text += &self.encoder.sha256;
        text += &format!("{:?}", self.fold);
        text += &sha256_bytes(bytemuck::cast_slice(&self.features.values));
        text += &sha256_bytes(bytemuck::cast_slice(targets));
        Ok(sha256_bytes(text.as_bytes()))
    }

    fn tiles_of(&self, samples: &[usize]) -> Vec<usize> {
        let tiles: BTreeSet<usize> = (samples.iter())
            .flat_map(|&s| self.cohort.samples[s].tiles.iter().copied())
            .collect();
        tiles.into_iter().collect()
    }

    fn part<'a>(
        &'a self,
        file: &'a Path,
        name: &'a str,
        fingerprint: &'a str,
        genes: &'a [&'a str],
    ) -> Part<'a> {
        Part {
            file,
            name,
            fingerprint,
            genes,
            features: &self.encoder.description,
            seen: self.seen,
            control: self.control,
        }
    }

    /// Features of every tile of the fold's samples, training and test.
    fn rows(&self) -> Result<Rows> {
        let mut samples = self.fold.known();
        samples.extend(&self.fold.test);
        let tiles = self.tiles_of(&samples);
        let values = self.features.rows(&tiles)?.to(self.device)?;
        let row = tiles.into_iter().enumerate().map(|(row, t)| (t, row));
        Ok(Rows {
            values,
            row: row.collect(),
        })
    }

    fn autoencoder(&self, features: &Rows, fingerprint: &str) -> Result<(AutoEncoder, History)> {
        let config = &self.config.autoencoder;
        let seed = self.config.seed;
        let name = format!("{}: autoencoder", self.name);
        let mut random = Philox::fork(seed, &name);
        let model = AutoEncoder::new(self.features.width, CODE, &mut random)?;
        model.to_device(self.device)?;
        let (train, validation) = &self.fold.inner[0];
        let train = self.tiles_of(train);
        let validation = features.of(&self.tiles_of(validation))?;
        let file = self.folder.join("autoencoder.safetensors");
        let part = self.part(&file, &name, fingerprint, &[]);
        let history = part.ready(&model, &mut || {
            self.config.dtype.narrow(&model)?;
            let rule = Adam {
                lr: config.learning_rate,
                ..Adam::default()
            };
            let optimizer = Optimizer::new(rule, model.parameters())?;
            let all = &ops::cast(&features.values, self.config.dtype.dtype())?;
            let loss = |inputs: &[Tensor], pass: &Pass| autoencoder_loss(&model, all, inputs, pass);
            let task = Task {
                name: &name,
                fingerprint,
                step: TrainingStep::new(&model, optimizer, &loss)?,
                plan: Plan {
                    epochs: config.epochs,
                    patience: config.patience,
                },
                schedule: None,
                checkpoint: &self.checkpoint,
                checkpoint_every: Duration::from_secs(self.config.checkpoint_seconds),
                steps: None,
            };
            let held = ops::index_select(all, 0, &validation.to(self.device)?)?;
            task.run(
                &mut |epoch, steps| {
                    let stage = format!("{name} epoch {epoch}");
                    epoch_over(&train, config.batch, seed, &stage, &mut |batch, random| {
                        steps.step(&[features.of(batch)?], random, batch.len())
                    })
                },
                &mut || Ok(model.loss(&held, &Pass::eval())?.item()?.into()),
                self.control,
            )
        })?;
        Ok((model, history))
    }

    fn mlp(
        &self,
        inner: usize,
        number: usize,
        (genes, group): (&[String], &[usize]),
        (codes, targets): (&Rows, &Tensor),
        fingerprint: &str,
    ) -> Result<(Mlp, History)> {
        let config = &self.config.mlp;
        let seed = self.config.seed;
        let name = format!("{}: model {} genes {}", self.name, inner + 1, number + 1);
        let (train, validation) = &self.fold.inner[inner];
        let names: Vec<&str> = group.iter().map(|&g| genes[g].as_str()).collect();
        let columns = index(group.iter().copied())?.to(self.device)?;
        let targets = ops::index_select(targets, 1, &columns)?;
        let samples = |samples: &[usize]| index(samples.iter().copied());
        let targets_of = |samples: &Tensor| ops::index_select(&targets, 0, samples);
        let train_targets = targets_of(&samples(train)?.to(self.device)?)?;
        let means = ops::mean(&train_targets, &[0], false)?;
        let (code_scale, target_scale) = if config.standardise {
            (
                Standardisation::fit(&codes.bags(self.cohort, train)?.0)?,
                Standardisation::fit(&train_targets)?,
            )
        } else {
            (
                Standardisation::identity(CODE, self.device)?,
                Standardisation::identity(group.len(), self.device)?,
            )
        };
        // The last bias starts at the training mean: on the standardised scale
        // that is 0, which `absorb` turns into the mean.
        let start = target_scale.apply(&means)?.to_f32_vec()?;
        let mut random = Philox::fork(seed, &name);
        let model = Mlp::new(CODE, config.hidden, &start, config.dropout, &mut random)?;
        model.to_device(self.device)?;
        let bags = Bags {
            codes: codes.values.clone(),
            targets,
            code_scale,
            target_scale,
            dtype: self.config.dtype.dtype(),
        };
        let loss = |inputs: &[Tensor], pass: &Pass| bags.loss(&model, inputs, pass);
        let batch_of = |of: &[usize]| -> Result<[Tensor; 3]> {
            let (rows, tiles) = codes.bag(self.cohort, of)?;
            let weights = averaging(&tiles, rows.elements())?;
            Ok([rows, weights, samples(of)?])
        };
        let held = batch_of(validation)?;
        let held: Vec<Tensor> = (held.iter().map(|x| x.to(self.device))).collect::<Result<_>>()?;
        let file = self
            .folder
            .join(format!("model{inner}-genes{number}.safetensors"));
        let fingerprint = format!("{fingerprint} {inner} {number}");
        let part = self.part(&file, &name, &fingerprint, &names);
        let history = part.ready(&model, &mut || {
            self.config.dtype.narrow(&model)?;
            let rule = Adam {
                lr: config.learning_rate,
                weight_decay: config.weight_decay,
                ..Adam::default()
            };
            let optimizer = Optimizer::new(rule, model.parameters())?;
            let task = Task {
                name: &name,
                fingerprint: &fingerprint,
                step: TrainingStep::new(&model, optimizer, &loss)?,
                plan: Plan {
                    epochs: config.epochs,
                    patience: config.patience,
                },
                schedule: None,
                checkpoint: &self.checkpoint,
                checkpoint_every: Duration::from_secs(self.config.checkpoint_seconds),
                steps: None,
            };
            let history = task.run(
                &mut |epoch, steps| {
                    let stage = format!("{name} epoch {epoch}");
                    epoch_over(train, config.batch, seed, &stage, &mut |batch, random| {
                        steps.step(&batch_of(batch)?, random, batch.len())
                    })
                },
                &mut || Ok(loss(&held, &Pass::eval())?.item()?.into()),
                self.control,
            )?;
            model.absorb(&bags.code_scale, &bags.target_scale)?;
            Ok(history)
        })?;
        Ok((model, history))
    }
}

/// The autoencoder's loss for a batch of tiles: `inputs` are the rows (T) that
/// `features` (all tiles, 2048) have of them.
///
/// # Errors
/// Other inputs.
pub fn autoencoder_loss(
    model: &AutoEncoder,
    features: &Tensor,
    inputs: &[Tensor],
    pass: &Pass,
) -> Result<Tensor> {
    let [rows] = inputs else {
        return Err(wrong_inputs("the tiles' rows"));
    };
    model.loss(&ops::index_select(features, 0, rows)?, pass)
}

/// What the regression learns from. It is on the device once; a batch names
/// its rows.
pub struct Bags {
    /// (all tiles, 512)
    pub codes: Tensor,
    /// (all samples, genes)
    pub targets: Tensor,
    pub code_scale: Standardisation,
    pub target_scale: Standardisation,
    /// What the regression computes in; its loss is f32.
    pub dtype: DType,
}

impl Bags {
    /// The regression's loss for a batch of samples: `inputs` are the rows (T)
    /// of their tiles' codes, the weights (S, T) that [`averaging`] makes, and
    /// the samples (S).
    ///
    /// # Errors
    /// Other inputs.
    pub fn loss(&self, model: &Mlp, inputs: &[Tensor], pass: &Pass) -> Result<Tensor> {
        let [rows, weights, samples] = inputs else {
            return Err(wrong_inputs("rows, weights and samples"));
        };
        let x = ops::index_select(&self.codes, 0, rows)?;
        let y = ops::index_select(&self.targets, 0, samples)?;
        let x = ops::cast(&self.code_scale.apply(&x)?, self.dtype)?;
        let z = model.forward_weighted(&x, weights, pass)?;
        ops::mse_loss(&wide(&z)?, &self.target_scale.apply(&y)?)
    }
}

fn wrong_inputs(needed: &str) -> Error {
    Error::op("deeppt", format!("a step's inputs are {needed}"))
}

/// The networks of a finished run, as one ensemble.
pub struct Ensemble {
    folds: Vec<EnsembleFold>,
    patients: BTreeSet<String>,
    pub encoder: Encoder,
    pub config: DeepPtConfig,
    /// Of which tiles it learned, if the run says.
    pub seen: Option<Seen>,
    device: Device,
}

struct EnsembleFold {
    transforms: FittedTransforms,
    autoencoder: AutoEncoder,
    /// Per inner model, each gene group's names and network.
    mlps: Vec<Vec<(Vec<String>, Mlp)>>,
}

impl Ensemble {
    /// Reads the folder of a finished run, to predict on `device`.
    ///
    /// # Errors
    /// A file that is missing (the run is not finished) or broken.
    pub fn read(run: &Path, device: &Device) -> Result<Self> {
        let config = DeepPtConfig::read(&run.join("config.toml"))?;
        let encoder = match &config.features.weights {
            Some(path) => published_encoder(path, &config.features, device)?,
            None => {
                let file = run.join("encoder.safetensors");
                stored_encoder(&file, &config.features, device)?
            }
        };
        let mut folds = Vec::new();
        let mut patients = BTreeSet::new();
        for (folder, record) in fold_records::<FoldRecord>(run)? {
            folds.push(EnsembleFold::read(&folder, &record, device)?);
            patients.extend(record.patients);
        }
        Ok(Self {
            folds,
            patients,
            encoder,
            config,
            seen: Seen::read(run)?,
            device: device.clone(),
        })
    }

    /// Genes that every fold predicts, in the order of the first.
    pub fn genes(&self) -> Vec<String> {
        common_genes(self.folds.iter().map(|f| &f.transforms))
    }

    /// Whether a patient of `cohort` is one that a network was trained on.
    pub fn trained_on(&self, cohort: &Cohort) -> bool {
        cohort
            .samples
            .iter()
            .any(|s| self.patients.contains(&s.patient))
    }

    /// The mean prediction of all networks: (samples, genes).
    pub fn predict(&self, cohort: &Cohort, features: &Features) -> Result<Vec<f32>> {
        let genes = self.genes();
        let place = places(&genes);
        let samples: Vec<usize> = (0..cohort.samples.len()).collect();
        let tiles: Vec<usize> = (0..cohort.tiles.len()).collect();
        let all = features.rows(&tiles)?.to(&self.device)?;
        let mut total = vec![0.0f64; samples.len() * genes.len()];
        for fold in &self.folds {
            let codes = Rows {
                values: fold.autoencoder.encode(&all, &Pass::eval())?,
                row: tiles.iter().map(|&t| (t, t)).collect(),
            };
            let (bags, counts) = codes.bags(cohort, &samples)?;
            let share = 1.0 / (self.folds.len() * fold.mlps.len()) as f64;
            for (names, mlp) in fold.mlps.iter().flatten() {
                let y = mlp.forward(&bags, &counts, &Pass::eval())?.to_f64_vec()?;
                for (row, y) in total
                    .chunks_mut(genes.len().max(1))
                    .zip(y.chunks(names.len()))
                {
                    for (name, v) in names.iter().zip(y) {
                        if let Some(&at) = place.get(name.as_str()) {
                            row[at] += share * v;
                        }
                    }
                }
            }
        }
        Ok(total.into_iter().map(|v| v as f32).collect())
    }

    /// A slide from the features (tiles, width) of its tiles, as [`Self::predict`] has it,
    /// and for the genes `chosen` (by their place in [`Self::genes`]) each tile as a bag of
    /// its own; the slide is their mean.
    ///
    /// # Errors
    /// Features of another width; no tile.
    pub fn slide(&self, features: &[f32], chosen: &[usize], batch: usize) -> Result<OfSlide> {
        let (genes, width) = (self.genes(), self.encoder.width);
        let tiles = features.len() / width.max(1);
        let all = Tensor::from_slice(features, &[tiles, width])?.to(&self.device)?;
        let mut of_slide = vec![0.0f64; genes.len()];
        let mut of_tiles = vec![0.0f64; tiles * chosen.len()];
        for fold in &self.folds {
            let codes = fold.autoencoder.encode(&all, &Pass::eval())?;
            let share = 1.0 / (self.folds.len() * fold.mlps.len()) as f64;
            for (names, mlp) in fold.mlps.iter().flatten() {
                let column = places(names);
                let column = |gene: &String| column.get(gene.as_str()).copied();
                let y = mlp.forward(&codes, &[tiles], &Pass::eval())?.to_f64_vec()?;
                for (sum, gene) in of_slide.iter_mut().zip(&genes) {
                    *sum += column(gene).map_or(0.0, |at| share * y[at]);
                }
                let wanted: Vec<(usize, usize)> = (chosen.iter().enumerate())
                    .filter_map(|(to, &gene)| Some((to, column(genes.get(gene)?)?)))
                    .collect();
                if wanted.is_empty() {
                    continue;
                }
                for start in (0..tiles).step_by(batch.max(1)) {
                    let len = batch.max(1).min(tiles - start);
                    let part = ops::slice(&codes, 0, start, len)?;
                    let y = mlp.forward(&part, &vec![1; len], &Pass::eval())?;
                    let y = y.to_f64_vec()?;
                    let rows = of_tiles[start * chosen.len()..].chunks_mut(chosen.len());
                    for (row, y) in rows.zip(y.chunks(names.len())) {
                        for &(to, from) in &wanted {
                            row[to] += share * y[from];
                        }
                    }
                }
            }
        }
        let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
        Ok(OfSlide {
            genes: narrow(of_slide),
            tiles: narrow(of_tiles),
            classes: Vec::new(),
        })
    }

    /// Measured expression on the scale of the predictions, averaged over the
    /// folds' transforms: (samples, genes).
    ///
    /// # Errors
    /// A gene that the table lacks, by name.
    pub fn on_scale(&self, table: &Table) -> Result<Vec<f32>> {
        on_scale(self.folds.iter().map(|f| &f.transforms), table)
    }
}

impl EnsembleFold {
    fn read(folder: &Path, record: &FoldRecord, device: &Device) -> Result<Self> {
        let mut unused = Philox::new(0);
        let path = folder.join("autoencoder.safetensors");
        let weights = read_weights(&path)?;
        let width = width_of(&weights, "encoder.0.weight", 1, &path)?;
        let autoencoder = AutoEncoder::new(width, CODE, &mut unused)?;
        nn::load(&autoencoder, &weights, &path)?;
        autoencoder.to_device(device)?;
        let mut mlps = Vec::with_capacity(record.mlps.len());
        for (inner, groups) in record.mlps.iter().enumerate() {
            let mut of_inner = Vec::with_capacity(groups.len());
            for number in 0..groups.len() {
                let path = folder.join(format!("model{inner}-genes{number}.safetensors"));
                let weights = read_weights(&path)?;
                let names = weights
                    .metadata
                    .get("genes")
                    .map(|g| serde_json::from_str(g));
                let Some(Ok(names)) = names else {
                    return Err(Error::file(&path, "", "names no genes", "train again"));
                };
                let names: Vec<String> = names;
                let hidden = width_of(&weights, "layer0.0.weight", 0, &path)?;
                let start = vec![0.0; names.len()];
                let mlp = Mlp::new(CODE, hidden, &start, 0.0, &mut unused)?;
                nn::load(&mlp, &weights, &path)?;
                mlp.to_device(device)?;
                of_inner.push((names, mlp));
            }
            mlps.push(of_inner);
        }
        Ok(Self {
            transforms: record.transforms.clone(),
            autoencoder,
            mlps,
        })
    }
}

/// A size of an array that a file must have.
fn width_of(weights: &Weights, key: &str, axis: usize, path: &Path) -> Result<usize> {
    let size = weights.get(key).and_then(|a| a.shape.get(axis).copied());
    size.ok_or_else(|| {
        let place = format!("key `{key}`");
        Error::file(
            path,
            place,
            "is missing or misshapen",
            "give weights of DeepPT",
        )
    })
}
