//! SimCLR (Chen et al. 2020): a ResNet learns that two random views of a tile are of one tile,
//! without labels. What it has learned is where a classifier starts from.

use std::path::Path;
use std::time::Duration;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::config::SimclrConfig;
use super::data::{Tiles, normalised};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::atomic::write_bytes;
use crate::formats::hash::sha256_bytes;
use crate::formats::safetensors;
use crate::models::resnet::ResNet;
use crate::models::simclr::nt_xent;
use crate::nn::{Linear, Module, Pass, Slot, State, key, state_weights};
use crate::ops;
use crate::optim::{Optimizer, Schedule, Sgd};
use crate::random::Philox;
use crate::slides::augment::Augment;
use crate::tensor::Tensor;
use crate::train::config::RunFile;
use crate::train::fit::{History, Plan, Task, checkpoint_path};
use crate::train::progress::Control;
use crate::train::run::{Part, claim, epoch_over, json};
use crate::train::step::TrainingStep;

/// What a run leaves besides its files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Training and validation.
    pub tiles: [usize; 2],
    pub history: History,
    /// The validation loss of a network that tells nothing: ln(2 N - 1) of batches of N.
    pub chance: f64,
    pub skipped: Vec<String>,
}

/// A ResNet without its head, and the two layers whose output the loss compares (the paper's
/// g: linear, ReLU, linear).
struct Simclr {
    trunk: ResNet,
    hidden: Linear,
    last: Linear,
}

impl Simclr {
    fn new(config: &SimclrConfig, random: &mut Philox) -> Result<Self> {
        let model = &config.model;
        let trunk = ResNet::of_width(model.width, model.network.depth(), 1, random)?;
        let features = trunk.fc.weight.value().shape()[1];
        Ok(Self {
            trunk,
            hidden: Linear::new(features, features, true, random)?,
            last: Linear::new(features, model.projection, true, random)?,
        })
    }

    /// The loss of views (2 N, 3, px, px): the first half of N tiles, the second of the same.
    fn loss(&self, views: &Tensor, temperature: f64, pass: &Pass) -> Result<Tensor> {
        let features = self.trunk.forward(views, pass)?.features;
        let hidden = ops::relu(&self.hidden.forward(&features, pass)?)?;
        let z = self.last.forward(&hidden, pass)?;
        let n = z.shape()[0] / 2;
        nt_xent(
            &ops::slice(&z, 0, 0, n)?,
            &ops::slice(&z, 0, n, n)?,
            temperature,
        )
    }
}

impl State for Simclr {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        let head = key(prefix, "fc.");
        self.trunk.visit(prefix, &mut |name, slot| {
            if !name.starts_with(&head) {
                visit(name, slot);
            }
        });
        self.hidden.visit(&key(prefix, "projection.0"), visit);
        self.last.visit(&key(prefix, "projection.2"), visit);
    }
}

/// The keys of torchvision's network without its head.
struct Trunk<'a>(&'a Simclr);

impl State for Trunk<'_> {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        let projection = key(prefix, "projection.");
        self.0.visit(prefix, &mut |name, slot| {
            if !name.starts_with(&projection) {
                visit(name, slot);
            }
        });
    }
}

/// Runs `config` in the folder `run` on `device`; `resume` continues what is there.
///
/// # Errors
/// Input that cannot be used, each named; a folder that holds another run; a stop request,
/// after the state was saved.
pub fn train(
    config: &SimclrConfig,
    run: &Path,
    resume: bool,
    device: &Device,
    control: Control,
) -> Result<Outcome> {
    config.validate()?;
    let _claim = claim(&config.to_toml()?, run, resume, device)?;
    let px = config.model.px;
    let tiles = Tiles::read(&config.data, px, &run.join("tiles.bin"), control)?;
    let mut order: Vec<usize> = (0..tiles.items.len()).collect();
    Philox::fork(config.seed, "simclr split").shuffle(&mut order);
    let held = (config.training.validation * order.len() as f64).round() as usize;
    let train = order.split_off(held.max(2).min(order.len()));
    let validation = order;
    if train.len() < 2 {
        return Err(Error::usage(
            format!("{} tiles are too few to compare", tiles.items.len()),
            "give more tiles",
        ));
    }
    let fit = Fit {
        config,
        tiles: &tiles,
        device,
    };
    let model = Simclr::new(config, &mut Philox::fork(config.seed, "simclr"))?;
    model.to_device(device)?;
    let fingerprint = config.to_toml()? + &tiles.fingerprint();
    let fingerprint = sha256_bytes(fingerprint.as_bytes());
    let name = "SimCLR";
    let part = Part {
        file: &run.join("pretrained.safetensors"),
        name,
        fingerprint: &fingerprint,
        genes: &[],
        features: "",
        seen: None,
        control,
    };
    let batch = config.training.batch.min(train.len());
    let history = part.ready(&model, &mut || {
        fit.run(
            &model,
            run,
            &fingerprint,
            [&train, &validation],
            batch,
            control,
        )
    })?;
    safetensors::write(
        run.join("model.safetensors"),
        &state_weights(&Trunk(&model))?,
    )?;
    let _ = std::fs::remove_file(checkpoint_path(run));
    let outcome = Outcome {
        tiles: [train.len(), validation.len()],
        history,
        chance: chance(&validation, batch),
        skipped: tiles.skipped(),
    };
    write_bytes(run.join("summary.json"), json(&outcome)?.as_bytes())?;
    Ok(outcome)
}

fn chance(items: &[usize], batch: usize) -> f64 {
    let parts = items.chunks(batch.max(1)).map(<[usize]>::len);
    let total: f64 = parts.map(|n| n as f64 * ((2 * n - 1) as f64).ln()).sum();
    total / items.len().max(1) as f64
}

struct Fit<'a> {
    config: &'a SimclrConfig,
    tiles: &'a Tiles,
    device: &'a Device,
}

impl Fit<'_> {
    fn run(
        &self,
        model: &Simclr,
        run: &Path,
        fingerprint: &str,
        [train, validation]: [&[usize]; 2],
        batch: usize,
        control: Control,
    ) -> Result<History> {
        let (config, seed) = (&self.config.training, self.config.seed);
        let rule = Sgd {
            lr: config.learning_rate,
            momentum: config.momentum,
            weight_decay: config.weight_decay,
            ..Sgd::default()
        };
        let loss =
            |inputs: &[Tensor], pass: &Pass| model.loss(&inputs[0], config.temperature, pass);
        let name = "SimCLR";
        let task = Task {
            name,
            fingerprint,
            step: TrainingStep::new(model, Optimizer::new(rule, model.parameters())?, &loss)?,
            plan: Plan {
                epochs: config.epochs,
                patience: config.epochs,
            },
            schedule: None,
            checkpoint: &checkpoint_path(run),
            checkpoint_every: Duration::from_secs(self.config.checkpoint_seconds),
            steps: None,
        };
        let steps = train.len().div_ceil(batch) as u64;
        let rates = Schedule::CosineWarmup {
            warmup: 0,
            total: (config.epochs as u64 * steps).max(1),
            minimum: 0.0,
        };
        task.run(
            &mut |epoch, taken| {
                let stage = format!("{name} epoch {epoch}");
                let mut step = epoch as u64 * steps;
                epoch_over(train, batch, seed, &stage, &mut |items, random| {
                    taken.learning_rate(rates.at(config.learning_rate, step))?;
                    step += 1;
                    // One tile has no others to be told from.
                    if items.len() < 2 {
                        return Ok(());
                    }
                    let views = self.views(items, &format!("{stage} step {step}"))?;
                    taken.step(&[views], random, items.len())
                })
            },
            &mut || Ok(self.validation(model, validation, batch)?.into()),
            control,
        )
    }

    /// Two views of each item: (2 N, 3, px, px), a function of seed and stage.
    fn views(&self, items: &[usize], stage: &str) -> Result<Tensor> {
        let (n, px) = (items.len(), self.config.model.px);
        let pixels = self
            .tiles
            .pixels(items, Augment::default(), Philox::new(0))?;
        let len = 3 * px * px;
        let mut views = vec![0.0; 2 * n * len];
        views.par_chunks_mut(len).enumerate().for_each(|(i, view)| {
            let tile = &pixels[i % n * len..(i % n + 1) * len];
            let mut random = Philox::fork(self.config.seed, &format!("{stage} view {i}"));
            view.copy_from_slice(&self.config.views.draw(tile, px, &mut random));
        });
        normalised(views, 2 * n, px)
    }

    /// The loss of the same views each time, with running statistics.
    fn validation(&self, model: &Simclr, items: &[usize], batch: usize) -> Result<f64> {
        let mut total = 0.0;
        for (number, part) in items.chunks(batch).enumerate() {
            let views = self.views(part, &format!("validation {number}"))?;
            let views = views.to(self.device)?;
            let loss = model.loss(&views, self.config.training.temperature, &Pass::eval())?;
            total += loss.item()? * part.len() as f64;
        }
        Ok(total / items.len().max(1) as f64)
    }
}
