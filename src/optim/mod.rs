//! Optimisers, clipping and schedules, with the semantics of `torch.optim`.
//!
//! One step is one pass over all parameters, cut into fixed chunks that threads
//! share, or with [`Optimizer::minimize`] on the CPU one pass over each as soon as its
//! gradient is complete, which saves the memory of the others' gradients. Every element
//! is computed on its own, so neither order, chunks nor threads change a bit. A parameter's bf16 shadow ([`Param::keep_shadow`]) is written
//! with it, on CUDA by the same kernel. State is kept by parameter name, and saving
//! and loading it continues a run bit for bit.

mod clip;
mod clip_cuda;
mod cuda;
mod schedule;
mod update;

pub use clip::{clip_grad_norm, clip_grad_norm_on_device};
pub use schedule::{Goal, PlateauState, ReduceOnPlateau, Schedule};

use std::collections::{BTreeMap, BTreeSet};

use crate::autograd;
use crate::device::Device;
use crate::device::cuda::Address;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::nn::Param;
use crate::ops::Operand;
use crate::profile::{self, Phase};
use crate::shape::Format;
use crate::tensor::Tensor;

/// Stochastic gradient descent with L2 decay, momentum and Nesterov's variant
/// (Sutskever et al. 2013, in PyTorch's form):
///
/// g' = g + decay p; b = momentum b + g' (b = g' at first);
/// p -= lr (g' + momentum b with Nesterov, b with momentum, g' without).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    pub lr: f64,
    pub momentum: f64,
    pub nesterov: bool,
    pub weight_decay: f64,
}

/// Adam (Kingma and Ba 2015) with L2 decay added to the gradient:
///
/// g' = g + decay p; m += (1 - b1)(g' - m); v = b2 v + (1 - b2) g'^2;
/// p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    pub lr: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
}

/// Adam with decoupled decay (Loshchilov and Hutter 2019): p is first
/// multiplied by 1 - lr decay, and the gradient is left alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
        }
    }
}

impl Default for Adam {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 1e-2,
        }
    }
}

/// Which rule an [`Optimizer`] follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Sgd(Sgd),
    Adam(Adam),
    AdamW(AdamW),
}

impl From<Sgd> for Kind {
    fn from(rule: Sgd) -> Self {
        Self::Sgd(rule)
    }
}

impl From<Adam> for Kind {
    fn from(rule: Adam) -> Self {
        Self::Adam(rule)
    }
}

impl From<AdamW> for Kind {
    fn from(rule: AdamW) -> Self {
        Self::AdamW(rule)
    }
}

impl Kind {
    fn lr(&mut self) -> &mut f64 {
        match self {
            Self::Sgd(r) => &mut r.lr,
            Self::Adam(r) => &mut r.lr,
            Self::AdamW(r) => &mut r.lr,
        }
    }

    /// What is kept for a parameter, by PyTorch's names.
    fn moments(&self) -> &'static [&'static str] {
        match self {
            Self::Sgd(r) if r.momentum == 0.0 => &[],
            Self::Sgd(_) => &["momentum_buffer"],
            Self::Adam(_) | Self::AdamW(_) => &["exp_avg", "exp_avg_sq"],
        }
    }

    fn check(&self) -> Result<()> {
        let sizes = |lr, eps, decay| {
            let fine = |v: f64| v.is_finite() && v >= 0.0;
            fine(lr) && fine(eps) && fine(decay)
        };
        let fits = match self {
            Self::Sgd(r) => {
                sizes(r.lr, r.momentum, r.weight_decay) && (r.momentum > 0.0 || !r.nesterov)
            }
            Self::Adam(Adam {
                lr,
                betas,
                eps,
                weight_decay,
            })
            | Self::AdamW(AdamW {
                lr,
                betas,
                eps,
                weight_decay,
            }) => sizes(*lr, *eps, *weight_decay) && betas.iter().all(|b| (0.0..1.0).contains(b)),
        };
        if fits {
            return Ok(());
        }
        Err(Error::usage(
            format!("{self:?} is not an optimiser"),
            "give finite numbers of 0 or more, betas below 1, and nesterov only with momentum",
        ))
    }
}

/// A parameter and what the optimiser knows about it.
struct Slot {
    name: String,
    param: Param,
    /// Steps taken, that is, steps in which it had a gradient.
    steps: u64,
    /// One per name in [`Kind::moments`], once a step was taken.
    moments: Vec<Tensor>,
}

/// The name of the learning rate in the state; those of parameters have a
/// suffix, so it cannot be one of them.
const LEARNING_RATE: &str = "learning_rate";

/// The optimiser's part in one captured step. Several graphs of one optimiser,
/// such as one per shape of a batch, have one each.
pub struct CapturedUpdate(cuda::Captured);

pub struct Optimizer {
    kind: Kind,
    slots: Vec<Slot>,
    cuda: Option<cuda::State>,
}

impl Optimizer {
    /// # Errors
    /// Numbers outside their range, a name or parameter given twice, or a
    /// parameter that is neither f32 nor f64.
    pub fn new(kind: impl Into<Kind>, params: Vec<(String, Param)>) -> Result<Self> {
        let kind = kind.into();
        kind.check()?;
        let mut seen = BTreeSet::new();
        for (name, param) in &params {
            if !seen.insert(name) {
                return Err(Error::usage(
                    format!("parameter {name} is given twice"),
                    "name a shared parameter once",
                ));
            }
            let dtype = param.value().dtype();
            if !matches!(dtype, DType::F32 | DType::F64) {
                return Err(Error::usage(
                    format!("parameter {name} is {dtype}"),
                    "optimise f32 or f64 parameters",
                ));
            }
        }
        let slot = |(name, param)| Slot {
            name,
            param,
            steps: 0,
            moments: Vec::new(),
        };
        Ok(Self {
            kind,
            slots: params.into_iter().map(slot).collect(),
            cuda: None,
        })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn learning_rate(&self) -> f64 {
        let mut kind = self.kind;
        *kind.lr()
    }

    /// The learning rate of the steps to come.
    ///
    /// # Errors
    /// A negative or infinite rate, or NaN.
    pub fn set_learning_rate(&mut self, lr: f64) -> Result<()> {
        let mut kind = self.kind;
        *kind.lr() = lr;
        kind.check()?;
        self.kind = kind;
        Ok(())
    }

    /// One update with a gradient per parameter, in the order in which they
    /// were given. `None` leaves a parameter and its state untouched.
    ///
    /// Parameters are written in place; those whose values something else still
    /// holds, a tape above all, are copied first. So drop the loss before.
    ///
    /// Under capture of a CUDA device nothing is counted as a step, and values
    /// are written in place whoever holds them: a graph needs its addresses.
    /// Take one step before, ask for [`Optimizer::captured`] after the capture, and
    /// call [`Optimizer::advance`] before each replay.
    ///
    /// # Errors
    /// Another number of gradients, a gradient of another shape, or parameters
    /// and gradients on several devices; nothing was changed then.
    pub fn step(&mut self, gradients: &[Option<Tensor>]) -> Result<()> {
        profile::phase(Phase::Update, || self.update(gradients))
    }

    /// One step down `loss`, a tensor with one element: the backward pass and the update,
    /// with the bits of [`crate::autograd::grad`] and [`Optimizer::step`]. The tape goes
    /// with it.
    ///
    /// On the CPU a parameter is updated as soon as its gradient is complete, and the
    /// gradient goes, so few gradients live at once. A CUDA device updates all of them in
    /// one launch at the end. So does the CPU with `max_norm`, to which the norm of all
    /// gradients together is clipped, see [`clip_grad_norm`].
    ///
    /// # Errors
    /// A loss that was not recorded or has several elements; a parameter that was updated
    /// since the forward pass; an operator without a gradient. Some parameters may have
    /// been updated by then.
    pub fn minimize(&mut self, loss: Tensor, max_norm: Option<f64>) -> Result<()> {
        let leaves: Vec<_> = self.slots.iter().map(|slot| slot.param.place()).collect();
        let at_once = max_norm.is_none() && !self.slots.iter().any(Slot::is_on_cuda);
        let mut gradients = vec![None; leaves.len()];
        autograd::backward(loss, &leaves, &mut |place, gradient| {
            if !at_once {
                gradients[place] = Some(gradient);
                return Ok(());
            }
            profile::phase(Phase::Update, || {
                let slot = &mut self.slots[place];
                let gradient = slot.fitted(&gradient)?;
                update_on_cpu(self.kind, vec![(slot, gradient)])
            })
        })?;
        if at_once {
            return Ok(());
        }
        if let Some(max_norm) = max_norm {
            clip_grad_norm_on_device(&mut gradients, max_norm)?;
        }
        self.step(&gradients)
    }

    fn update(&mut self, gradients: &[Option<Tensor>]) -> Result<()> {
        if gradients.len() != self.slots.len() {
            let (given, needed) = (gradients.len(), self.slots.len());
            return Err(Error::usage(
                format!("{given} gradients for {needed} parameters"),
                "give one gradient or none per parameter",
            ));
        }
        let total = self.slots.len();
        let (mut active, mut places) = (Vec::new(), Vec::new());
        for (place, (slot, gradient)) in self.slots.iter_mut().zip(gradients).enumerate() {
            let Some(gradient) = gradient else { continue };
            let gradient = slot.fitted(gradient)?;
            active.push((slot, gradient));
            places.push(place);
        }
        let kind = self.kind;
        if !active.iter().any(|(slot, _)| slot.is_on_cuda()) {
            return update_on_cpu(kind, active);
        }
        let params = params(&active);
        let state = &mut self.cuda;
        profile::call_in_place(
            "step",
            || operands(kind, &params),
            || {
                Param::update_all(&params, |values| {
                    cuda::step(kind, active, values, &places, total, state)
                })
            },
        )
    }

    /// What replays of the step need that was just captured.
    ///
    /// # Errors
    /// No step was taken in a capture since the last call.
    pub fn captured(&mut self) -> Result<CapturedUpdate> {
        let captured = self.cuda.as_mut().and_then(cuda::State::take_captured);
        let captured = captured.ok_or_else(cuda::nothing_captured)?;
        Ok(CapturedUpdate(captured))
    }

    /// Prepares one replay of a captured step: counts it and brings its numbers,
    /// the learning rate among them, to the device.
    ///
    /// # Errors
    /// A parameter or the state was replaced since the capture: the graph works
    /// on memory that is no longer theirs.
    pub fn advance(&mut self, captured: &mut CapturedUpdate) -> Result<()> {
        let Some(state) = &mut self.cuda else {
            return Err(cuda::outdated());
        };
        state.advance(self.kind, &self.slots, &mut captured.0)?;
        for place in captured.0.stepped() {
            let slot = &mut self.slots[place];
            slot.steps += 1;
            // The replay changes it: tapes of before are out of date.
            slot.param.touch();
        }
        Ok(())
    }

    /// Where steps on a device find their numbers; elsewhere once a state was
    /// loaded, from when on graphs of before are of no use.
    pub(crate) fn place(&self) -> Option<Address> {
        self.cuda.as_ref().map(cuda::State::place)
    }

    /// Everything that a resumed run needs besides the parameters: the learning
    /// rate and, of each parameter that was ever updated, `<name>.step` (i64)
    /// and the moments by PyTorch's names (`<name>.exp_avg`,
    /// `<name>.exp_avg_sq`, `<name>.momentum_buffer`).
    ///
    /// # Errors
    /// None in practice; tensors are made.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let lr = Tensor::scalar(self.learning_rate(), DType::F64)?;
        let mut state = vec![(LEARNING_RATE.to_owned(), lr)];
        for slot in self.slots.iter().filter(|s| s.steps > 0) {
            let steps = Tensor::from_slice(&[slot.steps as i64], &[])?;
            state.push((format!("{}.step", slot.name), steps));
            for (moment, value) in self.kind.moments().iter().zip(&slot.moments) {
                // Off a device, where the moments change in place.
                state.push((format!("{}.{moment}", slot.name), value.to(&Device::Cpu)?));
            }
        }
        Ok(state)
    }

    /// Takes over what [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// Missing, unexpected and misshapen entries, all named; nothing was
    /// changed then.
    pub fn load_state(&mut self, state: Vec<(String, Tensor)>) -> Result<()> {
        let mut given = Entries::default();
        for (name, value) in state {
            if given.values.contains_key(&name) {
                given.problems.push(format!("{name} is there twice"));
            }
            given.values.insert(name, value);
        }
        let lr = given.take(LEARNING_RATE, &[], DType::F64);
        let mut loaded = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let of = |what: &str| format!("{}.{what}", slot.name);
            let mut names = self.kind.moments().iter().map(|m| of(m));
            let stepped = given.values.contains_key(&of("step"))
                || names.any(|name| given.values.contains_key(&name));
            if !stepped {
                loaded.push((0, Vec::new()));
                continue;
            }
            let steps = given.take(&of("step"), &[], DType::I64);
            let steps = match steps.map(|s| s.to_vec::<i64>()).transpose()? {
                Some(s) if s.iter().all(|&s| s > 0) => s.iter().sum::<i64>() as u64,
                Some(s) => {
                    given.problems.push(format!("{} is {s:?}", of("step")));
                    0
                }
                None => 0,
            };
            let value = slot.param.value();
            let moments = self.kind.moments().iter();
            let moments = moments.map(|m| given.take(&of(m), value.shape(), value.dtype()));
            // Onto a device by way of the CPU, so that they are nobody else's.
            let placed = moments.flatten().map(|m| match value.device() {
                Device::Cpu => Ok(m),
                there => m
                    .to(&Device::Cpu)?
                    .to_format(Format::Contiguous)?
                    .to(&there),
            });
            loaded.push((steps, placed.collect::<Result<_>>()?));
        }
        let unexpected = given.values.keys().map(|n| format!("{n} is not expected"));
        given.problems.extend(unexpected);
        if !given.problems.is_empty() {
            return Err(Error::usage(
                format!(
                    "the optimiser's state does not fit: {}",
                    given.problems.join(", ")
                ),
                "load the state of the same kind of optimiser over the same parameters",
            ));
        }
        if let Some(lr) = lr {
            self.set_learning_rate(lr.item()?)?;
        }
        for (slot, (steps, moments)) in self.slots.iter_mut().zip(loaded) {
            (slot.steps, slot.moments) = (steps, moments);
        }
        // What was captured works on the moments of before.
        self.cuda = None;
        Ok(())
    }
}

impl Slot {
    fn is_on_cuda(&self) -> bool {
        matches!(self.param.value().device(), Device::Cuda(_))
    }

    /// A gradient in the dtype of the parameter, contiguous.
    fn fitted(&self, gradient: &Tensor) -> Result<Tensor> {
        let value = self.param.value();
        if gradient.shape() != value.shape() {
            let shapes = [gradient.shape(), value.shape()];
            let expected = format!("gradient and parameter {} differ", self.name);
            return Err(Error::shape("step", &shapes, expected));
        }
        let gradient = crate::ops::cast(&gradient.detach(), value.dtype())?;
        gradient.to_format(Format::Contiguous)
    }
}

fn params(active: &[(&mut Slot, Tensor)]) -> Vec<Param> {
    active.iter().map(|(slot, _)| slot.param.clone()).collect()
}

/// Updates slots on the CPU with gradients that fit.
fn update_on_cpu(kind: Kind, active: Vec<(&mut Slot, Tensor)>) -> Result<()> {
    let params = params(&active);
    profile::call_in_place(
        "step",
        || operands(kind, &params),
        || Param::update_all(&params, |values| update::step(kind, active, values)),
    )
}

/// What an update reads (parameters, moments, gradients) and what it writes.
fn operands(kind: Kind, params: &[Param]) -> [Vec<Operand>; 2] {
    let kept = 1 + kind.moments().len();
    let (mut read, mut written) = (Vec::new(), Vec::new());
    for param in params {
        let value = Operand::from(&param.value());
        read.extend(std::iter::repeat_n(value, kept + 1));
        written.extend(std::iter::repeat_n(value, kept));
    }
    let shadows = params.iter().filter_map(Param::shadow);
    written.extend(shadows.map(|s| Operand::from(&s)));
    [read, written]
}

/// State on its way in, and what is wrong with it.
#[derive(Default)]
struct Entries {
    values: BTreeMap<String, Tensor>,
    problems: Vec<String>,
}

impl Entries {
    /// Removes an entry, which must have this shape and dtype.
    fn take(&mut self, name: &str, shape: &[usize], dtype: DType) -> Option<Tensor> {
        let Some(value) = self.values.remove(name) else {
            self.problems.push(format!("{name} is missing"));
            return None;
        };
        if value.shape() == shape && value.dtype() == dtype {
            return Some(value.detach());
        }
        let (s, d) = (value.shape(), value.dtype());
        let problem = format!("{name} is {s:?} {d}, not {shape:?} {dtype}");
        self.problems.push(problem);
        None
    }
}

#[cfg(test)]
mod tests;
