//! The training loop that every family shares: epochs, validation, early
//! stopping on the best validation loss or score, and a checkpoint from which the
//! run continues bit for bit.
//!
//! Random numbers are functions of (seed, stage, epoch), so nothing but the
//! epoch has to be saved of them.
//!
//! A stage that is asked to also writes the loss of each of its steps, a CSV of
//! epoch (from 0), step (from 1, over all epochs) and loss.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::atomic::write_bytes;
use crate::formats::{Weights, read_weights, safetensors};
use crate::nn::state_weights;
use crate::optim::{Optimizer, ReduceOnPlateau};
use crate::random::Philox;
use crate::tensor::Tensor;
use crate::train::progress::Control;
use crate::train::step::{Losses, TrainingStep, weighted_mean};

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub epochs: usize,
    /// Stop after this many epochs without a better validation.
    pub patience: usize,
}

/// What a look at the validation set gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    pub loss: f64,
    /// The higher the better; it decides which epoch is the best. Without one the
    /// loss does.
    pub score: Option<f64>,
}

impl From<f64> for Validation {
    fn from(loss: f64) -> Self {
        Self { loss, score: None }
    }
}

impl Validation {
    fn is_finite(self) -> bool {
        self.loss.is_finite() && self.score.is_none_or(f64::is_finite)
    }
}

/// Losses per epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub train: Vec<f64>,
    pub validation: Vec<f64>,
    /// Scores of the validation set, where they decide.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<f64>,
    /// The epoch whose weights were kept, from 0.
    pub best: usize,
}

impl History {
    /// Whether the epoch that comes next is the best so far.
    fn improves(&self, now: Validation) -> bool {
        let best = |of: &[f64]| of.get(self.best).copied();
        match now.score {
            Some(score) => best(&self.scores).is_none_or(|b| score > b),
            None => best(&self.validation).is_none_or(|b| now.loss < b),
        }
    }

    fn finished(&self, plan: Plan) -> bool {
        let done = self.validation.len();
        done >= plan.epochs || done > self.best + plan.patience
    }
}

/// What is trained and how.
pub struct Task<'a> {
    /// Names the stage in messages and in the checkpoint.
    pub name: &'a str,
    /// A fingerprint of everything the stage depends on: a checkpoint of
    /// another fingerprint is not continued.
    pub fingerprint: &'a str,
    pub step: TrainingStep<'a>,
    pub plan: Plan,
    /// Lowers the learning rate by the validation loss, if it is to be lowered.
    /// What it has seen comes back from the losses of a resumed stage.
    pub schedule: Option<ReduceOnPlateau>,
    /// Where the checkpoint of the unfinished stage is kept.
    pub checkpoint: &'a Path,
    /// It is written at the end of the first epoch after this time.
    pub checkpoint_every: Duration,
    /// Where to write the loss of each step, if anywhere.
    pub steps: Option<&'a Path>,
}

impl Task<'_> {
    /// Trains to the end and leaves the best weights in the model.
    ///
    /// `epoch(number, steps)` runs one epoch: it gives each batch to
    /// [`Epoch::step`]. `validate` gives the loss or score that decides.
    ///
    /// # Errors
    /// What the closures return; a loss that is not finite; a checkpoint of this
    /// stage from another kind of device; a stop request, after the state was
    /// saved.
    pub fn run(
        mut self,
        epoch: &mut dyn FnMut(usize, &mut Epoch) -> Result<()>,
        validate: &mut dyn FnMut() -> Result<Validation>,
        control: Control,
    ) -> Result<History> {
        let (mut history, mut best) = match self.resume()? {
            Some(state) => state,
            None => (History::default(), Weights::new()),
        };
        let mut losses = Losses::default();
        let mut steps_taken = StepLosses::of(self.steps, history.train.len());
        let mut saved = Instant::now();
        while !history.finished(self.plan) {
            let number = history.train.len();
            let mut steps = Epoch {
                step: &mut self.step,
                losses: &mut losses,
            };
            epoch(number, &mut steps)?;
            let (values, weights) = losses.take()?;
            let train = weighted_mean(&values, &weights);
            steps_taken.add(number, &values);
            control.progress.at(number, &format!("loss {train:.4}"));
            let seen = validate()?;
            let validation = seen.loss;
            if let Some(score) = seen.score {
                let detail = format!("loss {train:.4}, validation {validation:.4}: {score:.4}");
                control.progress.at(number, &detail);
            }
            if !train.is_finite() || !seen.is_finite() {
                steps_taken.write()?;
                return Err(Error::usage(
                    format!(
                        "{}: the loss is no longer a number in epoch {number} (training {train}, \
                         validation {validation})",
                        self.name
                    ),
                    "use a lower learning rate, or look at the inputs with `eosin inspect`",
                ));
            }
            if history.improves(seen) {
                history.best = number;
                best = state_weights(self.step.model())?;
            }
            history.train.push(train);
            history.validation.push(validation);
            history.scores.extend(seen.score);
            if let Some(schedule) = &mut self.schedule {
                let optimizer = self.step.optimizer_mut();
                let rate = schedule.step(validation, optimizer.learning_rate());
                optimizer.set_learning_rate(rate)?;
            }
            let stopping = control.check("").is_err();
            if stopping || saved.elapsed() >= self.checkpoint_every {
                steps_taken.write()?;
                self.save(&history, &best)?;
                saved = Instant::now();
            }
            if stopping {
                control.check("the state is saved; run the same command with --resume to go on")?;
            }
        }
        steps_taken.write()?;
        crate::nn::load(self.step.model(), &best, self.checkpoint)?;
        Ok(history)
    }

    fn save(&self, history: &History, best: &Weights) -> Result<()> {
        let mut all = Weights::new();
        put(&mut all, "model/", &state_weights(self.step.model())?)?;
        put(&mut all, "best/", best)?;
        put_optimizer(&mut all, "optimizer/", self.step.optimizer())?;
        let history = serde_json::to_string(history)
            .map_err(|e| Error::usage(format!("losses cannot be saved: {e}"), "report this"))?;
        all.metadata.insert("history".into(), history);
        all.metadata.insert("stage".into(), self.name.into());
        all.metadata
            .insert("fingerprint".into(), self.fingerprint.into());
        let device = self.step.device().to_string();
        all.metadata.insert(DEVICE.into(), device);
        safetensors::write(self.checkpoint, &all)
    }

    /// The state of this very stage, if it was interrupted.
    fn resume(&mut self) -> Result<Option<(History, Weights)>> {
        if !self.checkpoint.exists() {
            return Ok(None);
        }
        let all = read_weights(self.checkpoint)?;
        let is = |key: &str, value: &str| all.metadata.get(key).is_some_and(|v| v == value);
        if !is("stage", self.name) || !is("fingerprint", self.fingerprint) {
            return Ok(None);
        }
        same_device(&all, &self.step.device(), self.checkpoint)?;
        let broken = |what: String| {
            Error::file(
                self.checkpoint,
                "",
                what,
                "remove it; the stage starts again from its beginning",
            )
        };
        let history = all.metadata.get("history").map(|h| serde_json::from_str(h));
        let history: History = match history {
            Some(Ok(h)) => h,
            _ => return Err(broken("it holds no losses".into())),
        };
        crate::nn::load(self.step.model(), &part(&all, "model/")?, self.checkpoint)?;
        load_optimizer(self.step.optimizer_mut(), &part(&all, "optimizer/")?)
            .map_err(|e| broken(e.to_string()))?;
        if let Some(schedule) = &mut self.schedule {
            // The rate itself is part of the optimiser's state.
            for &loss in &history.validation {
                schedule.step(loss, 1.0);
            }
        }
        Ok(Some((history, part(&all, "best/")?)))
    }
}

/// Adds the arrays of a part of a checkpoint, their names below `prefix`.
pub(crate) fn put(all: &mut Weights, prefix: &str, part: &Weights) -> Result<()> {
    part.iter()
        .try_for_each(|(key, array)| all.insert(format!("{prefix}{key}"), array.clone()))
}

/// Adds an optimiser's state likewise.
pub(crate) fn put_optimizer(all: &mut Weights, prefix: &str, optimizer: &Optimizer) -> Result<()> {
    (optimizer.state()?.into_iter()).try_for_each(|(key, tensor)| {
        all.insert(format!("{prefix}{key}"), crate::nn::to_array(&tensor)?)
    })
}

/// What [`put`] added.
pub(crate) fn part(all: &Weights, prefix: &str) -> Result<Weights> {
    let mut part = Weights::new();
    for (key, array) in all.iter() {
        if let Some(key) = key.strip_prefix(prefix) {
            part.insert(key, array.clone())?;
        }
    }
    Ok(part)
}

/// Takes back what [`put_optimizer`] added.
pub(crate) fn load_optimizer(optimizer: &mut Optimizer, part: &Weights) -> Result<()> {
    let state = part.iter();
    let state = state.map(|(key, array)| Ok((key.to_owned(), crate::nn::to_tensor(array)?)));
    optimizer.load_state(state.collect::<Result<Vec<_>>>()?)
}

/// The losses of a stage's steps so far, with their epochs.
struct StepLosses<'a> {
    file: Option<&'a Path>,
    rows: Vec<(usize, f32)>,
}

impl<'a> StepLosses<'a> {
    /// Those of a stage that has `epochs` behind it, from its file. What a file has of
    /// later epochs was not saved with the weights, so it comes again; lines that
    /// nobody can read are left out.
    fn of(file: Option<&'a Path>, epochs: usize) -> Self {
        let text = match file {
            Some(file) if epochs > 0 => std::fs::read_to_string(file).unwrap_or_default(),
            _ => String::new(),
        };
        let row = |line: &str| {
            let mut fields = line.split(',');
            let epoch = fields.next()?.parse().ok()?;
            Some((epoch, fields.nth(1)?.parse().ok()?))
        };
        let rows = text.lines().filter_map(row);
        Self {
            file,
            rows: rows.filter(|&(epoch, _)| epoch < epochs).collect(),
        }
    }

    fn add(&mut self, epoch: usize, losses: &[f64]) {
        if self.file.is_some() {
            self.rows.extend(losses.iter().map(|&l| (epoch, l as f32)));
        }
    }

    fn write(&self) -> Result<()> {
        let Some(file) = self.file else {
            return Ok(());
        };
        let mut text = String::from("epoch,step,loss\n");
        for (i, (epoch, loss)) in self.rows.iter().enumerate() {
            text += &format!("{epoch},{},{loss}\n", i + 1);
        }
        write_bytes(file, text.as_bytes())
    }
}

/// The steps of one epoch.
pub struct Epoch<'s, 'a> {
    step: &'s mut TrainingStep<'a>,
    losses: &'s mut Losses,
}

impl Epoch<'_, '_> {
    /// The rate of the steps to come, where it depends on nothing but the step.
    pub fn learning_rate(&mut self, rate: f64) -> Result<()> {
        self.step.optimizer_mut().set_learning_rate(rate)
    }

    /// A step on a batch of `items`, by which its loss is weighted in the mean
    /// of the epoch; see [`TrainingStep::take`].
    pub fn step(&mut self, inputs: &[Tensor], random: Philox, items: usize) -> Result<()> {
        let loss = self.step.take(inputs, random)?;
        self.losses.push(&loss, items as f64)
    }
}

/// The key under which a checkpoint names the kind of device that trained.
pub(crate) const DEVICE: &str = "device";

/// Makes sure that a stage goes on where it began: kinds of devices round
/// differently, and a resumed run promises the bits of the uninterrupted one.
pub(crate) fn same_device(weights: &Weights, device: &Device, path: &Path) -> Result<()> {
    // Files of before there was a choice do not say.
    let there = weights.metadata.get(DEVICE).map_or("cpu", String::as_str);
    if there == device.to_string() {
        return Ok(());
    }
    Err(Error::file(
        path,
        "",
        format!("the stage began on {there}, and {device} gives other bits"),
        format!("resume with --device {there}, or remove the file to start the stage again"),
    ))
}

/// Where checkpoints of unfinished stages live in a run's folder.
pub fn checkpoint_path(run: &Path) -> PathBuf {
    run.join("checkpoint.safetensors")
}
