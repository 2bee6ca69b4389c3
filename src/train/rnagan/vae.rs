//! Trains a beta-VAE on profiles, and encodes and decodes with a trained one.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::BetaVaeConfig;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::expression::{FittedTransforms, Table};
use crate::formats::atomic::write_bytes;
use crate::formats::hash::{sha256_bytes, sha256_file};
use crate::formats::read_weights;
use crate::models::registry::betavae_config;
use crate::models::rnagan::{BetaVae, betavae};
use crate::nn::{self, Dropout, Pass, State};
use crate::ops;
use crate::optim::{Adam, Optimizer, Schedule};
use crate::random::Philox;
use crate::tensor::Tensor;
use crate::train::config::{GroupBy, Precision, RunFile};
use crate::train::evaluate::Scores;
use crate::train::fit::{History, Plan, Task, checkpoint_path};
use crate::train::progress::Control;
use crate::train::run::{Part, claim, epoch_over, index, json, shuffled, targets};
use crate::train::split::{self, Fold};
use crate::train::step::TrainingStep;

/// Files of a run.
const MODEL: &str = "model.safetensors";
const TRANSFORMS: &str = "transforms.json";

/// What a run leaves besides its files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub samples: [usize; 3],
    pub genes: usize,
    pub history: History,
    /// Mean squared error of the test samples on the standardised scale, decoded from their
    /// latent means; that of the training mean is 1 but for the difference of the parts.
    pub test_error: f64,
    /// The same of a zero, the training mean.
    pub test_error_of_mean: f64,
    /// Over genes, of decoded and measured test profiles; none of fewer than three.
    pub median_pearson: Option<f64>,
    pub same_patient: bool,
}

/// Runs `config` in the folder `run` on `device`; `resume` continues what is there.
///
/// # Errors
/// Input that cannot be used, each named; a folder that holds another run; a stop request,
/// after the state was saved.
pub fn train(
    config: &BetaVaeConfig,
    run: &Path,
    resume: bool,
    device: &Device,
    control: Control,
) -> Result<Outcome> {
    config.validate()?;
    let _claim = claim(&config.to_toml()?, run, resume, device)?;
    let mut profiles = config.profiles.read()?;
    if config.expression.shuffle {
        profiles.table = shuffled(&profiles.table, config.seed)?;
    }
    let groups = match config.split.by {
        GroupBy::Patient => profiles.patients.clone(),
        GroupBy::Section => profiles.slides.clone(),
        GroupBy::Sample => profiles.table.samples.clone(),
    };
    let fold = split::stratified(&groups, &profiles.classes, config.split.shares, config.seed)?;
    if fold.train.len() < 2 {
        return Err(Error::usage(
            "one training sample has no batch statistics",
            "give more profiles",
        ));
    }
    let (_, transforms, values) = targets(&config.expression, &profiles.table, &fold.train)?;
    let genes = transforms.genes().to_vec();
    write_bytes(run.join(TRANSFORMS), json(&transforms)?.as_bytes())?;
    let name = |part: &[usize]| -> Vec<&str> {
        let names = part.iter().map(|&s| profiles.table.samples[s].as_str());
        names.collect()
    };
    let parts = [
        ("train", name(&fold.train)),
        ("validation", name(&fold.validation)),
        ("test", name(&fold.test)),
    ];
    write_bytes(
        run.join("split.json"),
        json(&HashMap::from(parts))?.as_bytes(),
    )?;

    let shape = betavae::Config {
        genes: genes.len(),
        encoder: config.model.encoder.clone(),
        latent: config.model.latent,
        decoder: config.model.decoder.clone(),
    };
    let mut model = BetaVae::new(&shape, &mut Philox::fork(config.seed, "beta-VAE"))?;
    model.dropout = Dropout {
        p: config.model.dropout,
    };
    model.to_device(device)?;
    let shape = [profiles.table.samples.len(), genes.len()];
    let all = Tensor::from_slice(&values, &shape)?.to(device)?;
    let fingerprint = config.to_toml()? + &sha256_bytes(bytemuck::cast_slice(&values));
    let fingerprint = sha256_bytes((fingerprint + &format!("{fold:?}")).as_bytes());
    let names: Vec<&str> = genes.iter().map(String::as_str).collect();
    let file = run.join(MODEL);
    let part = Part {
        file: &file,
        name: "beta-VAE",
        fingerprint: &fingerprint,
        genes: &names,
        features: "",
        seen: None,
        control,
    };
    let fit = Fit {
        config,
        model: &model,
        profiles: ops::cast(&all, config.dtype.dtype())?,
        fold: &fold,
        device,
    };
    let history = part.ready(&model, &mut || fit.run(run, &fingerprint, control))?;
    let _ = std::fs::remove_file(checkpoint_path(run));

    let (decoded, measured) = fit.decoded(&fold.test)?;
    let median_pearson = match fold.test.len() {
        n @ 3.. => Some(Scores::new(&genes, n, &decoded, &measured)?.median_pearson(|_| true)),
        _ => None,
    };
    let mean_square = |f: &dyn Fn(usize) -> f64| {
        (0..measured.len()).map(|i| f(i) * f(i)).sum::<f64>() / measured.len().max(1) as f64
    };
    let of = |part: &[usize]| -> BTreeSet<&str> {
        part.iter()
            .map(|&s| profiles.patients[s].as_str())
            .collect()
    };
    let outcome = Outcome {
        samples: [fold.train.len(), fold.validation.len(), fold.test.len()],
        genes: genes.len(),
        history,
        test_error: mean_square(&|i| f64::from(decoded[i] - measured[i])),
        test_error_of_mean: mean_square(&|i| f64::from(measured[i])),
        median_pearson,
        same_patient: !of(&fold.test).is_disjoint(&of(&fold.train)),
    };
    write_bytes(run.join("summary.json"), json(&outcome)?.as_bytes())?;
    Ok(outcome)
}

struct Fit<'a> {
    config: &'a BetaVaeConfig,
    model: &'a BetaVae,
    /// (samples, genes), in the dtype of the computation.
    profiles: Tensor,
    fold: &'a Fold,
    device: &'a Device,
}

impl Fit<'_> {
    fn run(&self, run: &Path, fingerprint: &str, control: Control) -> Result<History> {
        let config = &self.config.training;
        let (seed, beta) = (self.config.seed, self.config.model.beta);
        let latent = self.config.model.latent;
        let batch = config.batch.min(self.fold.train.len());
        if self.config.dtype == Precision::Bf16 {
            self.model.keep_shadows()?;
        }
        let loss = |inputs: &[Tensor], pass: &Pass| {
            let x = ops::index_select(&self.profiles, 0, &inputs[0])?;
            self.model.losses(&x, &inputs[1], pass)?.1.total(beta)
        };
        let rule = Adam {
            lr: config.learning_rate,
            ..Adam::default()
        };
        let task = Task {
            name: "beta-VAE",
            fingerprint,
            step: TrainingStep::new(
                self.model,
                Optimizer::new(rule, self.model.parameters())?,
                &loss,
            )?,
            plan: Plan {
                epochs: config.epochs,
                patience: config.patience,
            },
            schedule: None,
            checkpoint: &checkpoint_path(run),
            checkpoint_every: Duration::from_secs(self.config.checkpoint_seconds),
            steps: None,
        };
        let steps = self.fold.train.len().div_ceil(batch) as u64;
        let rates = Schedule::CosineWarmup {
            warmup: config.warmup as u64 * steps,
            total: (config.epochs as u64 * steps).max(config.warmup as u64 * steps + 1),
            minimum: 0.0,
        };
        task.run(
            &mut |epoch, taken| {
                let stage = format!("beta-VAE epoch {epoch}");
                let mut step = epoch as u64 * steps;
                epoch_over(
                    &self.fold.train,
                    batch,
                    seed,
                    &stage,
                    &mut |rows, random| {
                        taken.learning_rate(rates.at(config.learning_rate, step))?;
                        step += 1;
                        // One profile has no batch statistics.
                        if rows.len() < 2 {
                            return Ok(());
                        }
                        let mut noise = vec![0.0; rows.len() * latent];
                        Philox::fork(seed, &format!("{stage} noise {step}"))
                            .fill_normal(&mut noise, 0.0, 1.0);
                        let noise = Tensor::from_slice(&noise, &[rows.len(), latent])?;
                        let noise = ops::cast(&noise, self.profiles.dtype())?;
                        let inputs = [index(rows.iter().copied())?, noise];
                        taken.step(&inputs, random, rows.len())
                    },
                )
            },
            &mut || Ok(self.validation()?.into()),
            control,
        )
    }

    /// The mean squared error of what is decoded from latent means, as published.
    fn validation(&self) -> Result<f64> {
        let (decoded, measured) = self.decoded(&self.fold.validation)?;
        let pairs = decoded.iter().zip(&measured);
        let total: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        Ok(total / decoded.len().max(1) as f64)
    }

    /// Of these samples, what is decoded from their latent means, and what was measured.
    fn decoded(&self, samples: &[usize]) -> Result<(Vec<f32>, Vec<f32>)> {
        let (mut decoded, mut measured) = (Vec::new(), Vec::new());
        for part in samples.chunks(self.config.training.batch) {
            let rows = index(part.iter().copied())?.to(self.device)?;
            let x = ops::index_select(&self.profiles, 0, &rows)?;
            let pass = Pass::eval();
            let y = self
                .model
                .decode(&self.model.encode(&x, &pass)?.mean, &pass)?;
            decoded.extend(y.to_f32_vec()?);
            measured.extend(x.to_f32_vec()?);
        }
        Ok((decoded, measured))
    }
}

/// A trained beta-VAE with the scale of its profiles.
pub struct Vae {
    pub model: BetaVae,
    transforms: FittedTransforms,
    /// SHA-256 of its weights.
    pub sha256: String,
    device: Device,
}

/// Latent means of a table's samples, and how well the table fitted.
pub struct Latents {
    pub samples: Vec<String>,
    /// (samples, latent), on the CPU.
    pub means: Tensor,
    /// Genes of the model that the table lacks: they count as at the training mean.
    pub missing: usize,
    /// Genes of the table that the model does not know: they are left out.
    pub unknown: usize,
}

impl Latents {
    /// What a person should know, if there is something.
    pub fn note(&self, genes: usize) -> Option<String> {
        (self.missing + self.unknown > 0).then(|| {
            format!(
                "{} of the beta-VAE's {genes} genes are missing and count as at the training \
                 mean; {} genes of the table are unknown to it and are left out",
                self.missing, self.unknown
            )
        })
    }
}

/// Profiles that are encoded together.
const BATCH: usize = 128;

impl Vae {
    /// Reads a run of [`train`].
    ///
    /// # Errors
    /// A folder without such a run; weights that do not fit it.
    pub fn read(run: &Path, device: &Device) -> Result<Self> {
        let file = run.join(MODEL);
        let weights = read_weights(&file)?;
        let model = BetaVae::new(&betavae_config(&weights), &mut Philox::new(0))?;
        nn::load(&model, &weights, &file)?;
        model.to_device(device)?;
        let path = run.join(TRANSFORMS);
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let transforms: FittedTransforms = serde_json::from_str(&text).map_err(|e| {
            let remedy = "give the folder of an `eosin train betavae` run";
            Error::file(
                &path,
                "",
                format!("is no record of transforms ({e})"),
                remedy,
            )
        })?;
        if transforms.genes().len() != model.config().genes {
            return Err(Error::file(
                &path,
                "",
                format!(
                    "is for {} genes, and the weights beside it for {}",
                    transforms.genes().len(),
                    model.config().genes
                ),
                "keep the files of a run together",
            ));
        }
        Ok(Self {
            model,
            transforms,
            sha256: sha256_file(&file)?,
            device: device.clone(),
        })
    }

    pub fn genes(&self) -> &[String] {
        self.transforms.genes()
    }

    /// Standardised profiles (samples, genes) of a table, with its numbers of missing and
    /// unknown genes.
    ///
    /// # Errors
    /// No gene in common; values that the transforms do not take.
    pub fn standardised(&self, table: &Table) -> Result<(Vec<f32>, usize, usize)> {
        let genes = self.genes();
        let columns: HashMap<&str, usize> = (table.genes.iter().enumerate())
            .map(|(i, g)| (g.as_str(), i))
            .collect();
        let places: Vec<Option<usize>> = (genes.iter())
            .map(|g| columns.get(g.as_str()).copied())
            .collect();
        let known = places.iter().flatten().count();
        if known == 0 {
            return Err(Error::usage(
                format!(
                    "the table has none of the beta-VAE's {} genes ({}, ...)",
                    genes.len(),
                    genes.first().map_or("", String::as_str)
                ),
                "name genes as in the table that it was trained on",
            ));
        }
        let mut values = Vec::with_capacity(table.samples.len() * genes.len());
        for row in table.rows() {
            let from = values.len();
            values.extend(places.iter().map(|p| p.map_or(0.0, |i| row[i])));
            self.transforms.apply(&mut values[from..])?;
            for (value, place) in values[from..].iter_mut().zip(&places) {
                if place.is_none() {
                    *value = 0.0;
                }
            }
        }
        Ok((values, genes.len() - known, table.genes.len() - known))
    }

    /// # Errors
    /// As [`Self::standardised`].
    pub fn encode(&self, table: &Table) -> Result<Latents> {
        let (values, missing, unknown) = self.standardised(table)?;
        let width = self.genes().len();
        let mut means = Vec::with_capacity(table.samples.len() * self.model.config().latent);
        for part in values.chunks(BATCH * width) {
            let x = Tensor::from_slice(part, &[part.len() / width, width])?.to(&self.device)?;
            means.extend(self.model.encode(&x, &Pass::eval())?.mean.to_f32_vec()?);
        }
        let shape = [table.samples.len(), self.model.config().latent];
        Ok(Latents {
            samples: table.samples.clone(),
            means: Tensor::from_slice(&means, &shape)?,
            missing,
            unknown,
        })
    }

    /// Profiles (N, genes) on the standardised scale, of latents (N, latent).
    ///
    /// # Errors
    /// Another width.
    pub fn decode(&self, latents: &Tensor) -> Result<Vec<f32>> {
        let y = self
            .model
            .decode(&latents.to(&self.device)?, &Pass::eval())?;
        y.to_f32_vec()
    }

    /// Takes standardised profiles back to the table's scale, as far as the transforms can be
    /// taken back.
    ///
    /// # Errors
    /// Another number of genes.
    pub fn unstandardised(&self, values: &mut [f32]) -> Result<()> {
        let width = self.genes().len().max(1);
        values
            .chunks_mut(width)
            .try_for_each(|row| self.transforms.invert(row))
    }
}
