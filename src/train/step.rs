//! One training step of any model: forward pass, backward pass, clipping,
//! update. On a CUDA device it is captured and replayed.
//!
//! A captured step is one CUDA graph that works at fixed addresses. What changes
//! from step to step is in device memory: the batch, which is copied over that
//! of the capture; the numbers of the optimiser (learning rate, step count);
//! and the random stream of the pass. So a replay is a copy for each input, one
//! for the stream, one for the numbers, and the graph. Nothing comes back to the
//! host: the loss stays on the device until somebody asks, see [`Losses`], which
//! costs one more copy.
//!
//! The first step of a shape of inputs runs eagerly. It is the warm-up, which
//! loads kernels and tables and makes the optimiser's state, and it is a step
//! like any other, so nothing has to be put back after it. The second captures,
//! which runs nothing, and replays, as do all later ones. So every shape that
//! occurs more than once has a graph of its own: the ragged last batch of an
//! epoch is captured in the second epoch, since it comes back in every epoch
//! with the same shape. A shape that never comes back costs no graph, and
//! beyond [`GRAPHS`] shapes further ones stay eager, since each graph keeps
//! its memory. An eager step and a replay give the same bits.

use crate::device::Device;
use crate::device::cuda::{self, Address, CudaDevice, Graph};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::nn::{Param, Pass, Slot, State};
use crate::ops;
use crate::optim::{CapturedUpdate, Optimizer};
use crate::profile::{self, Phase};
use crate::random::Philox;
use crate::shape::{Layout, Shape};
use crate::tensor::Tensor;

/// Shapes of inputs for which graphs are kept.
pub const GRAPHS: usize = 16;

/// Makes a batch's loss, a tensor with one element, from the step's inputs.
///
/// It is called once for a captured step and not for its replays, so its work
/// must depend on nothing but shapes: tensors that it brings along are read at
/// their present addresses in every replay, and random numbers must come from
/// the pass.
pub type Loss<'a> = dyn Fn(&[Tensor], &Pass) -> Result<Tensor> + 'a;

/// Shape and dtype of each input.
type Kinds = Vec<(Vec<usize>, DType)>;

/// What was captured for one kind of inputs.
struct Captured {
    /// Where the graph reads them.
    inputs: Vec<Tensor>,
    update: CapturedUpdate,
    graph: Graph,
    /// Where it leaves the loss.
    loss: Tensor,
}

/// Takes training steps where the model's parameters are.
pub struct TrainingStep<'a> {
    model: &'a dyn State,
    /// The state of the model and of others that the loss reads.
    state: Vec<Slot>,
    params: Vec<Param>,
    optimizer: Optimizer,
    loss: &'a Loss<'a>,
    max_norm: Option<f64>,
    capturing: bool,
    /// Where the state of model and optimiser lies; graphs work there.
    addresses: (Vec<[Address; 2]>, Option<Address>),
    /// Kinds of inputs that there was a step of.
    known: Vec<(Kinds, Option<Captured>)>,
}

impl<'a> TrainingStep<'a> {
    /// `optimizer` is one of the model's [`State::parameters`], in their order.
    ///
    /// # Errors
    /// A model without parameters.
    pub fn new(model: &'a dyn State, optimizer: Optimizer, loss: &'a Loss<'a>) -> Result<Self> {
        let params: Vec<Param> = model.parameters().into_iter().map(|(_, p)| p).collect();
        if params.is_empty() {
            return Err(Error::usage(
                "a model without parameters cannot be trained",
                "give a model that has some",
            ));
        }
        Ok(Self {
            model,
            state: slots(model).collect(),
            params,
            optimizer,
            loss,
            max_norm: None,
            capturing: true,
            addresses: (Vec::new(), None),
            known: Vec::new(),
        })
    }

    /// Clips gradients to this norm of all of them together, see
    /// [`crate::optim::clip_grad_norm`].
    #[must_use]
    pub fn clipped(mut self, max_norm: f64) -> Self {
        self.max_norm = Some(max_norm);
        self
    }

    /// Tells of another model that the loss reads, such as the critic that a generator learns
    /// from: a graph works where its state lies too.
    #[must_use]
    pub fn reading(mut self, other: &'a dyn State) -> Self {
        self.state.extend(slots(other));
        self
    }

    /// Every step eagerly, for a loss whose work depends on values.
    #[must_use]
    pub fn uncaptured(mut self) -> Self {
        self.capturing = false;
        self
    }

    pub fn model(&self) -> &'a dyn State {
        self.model
    }

    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// To change the learning rate between steps, or to load a state.
    pub fn optimizer_mut(&mut self) -> &mut Optimizer {
        &mut self.optimizer
    }

    /// Where the steps are taken.
    pub fn device(&self) -> Device {
        // `new` made sure that there is one.
        (self.params.first()).map_or(Device::Cpu, |p| p.value().device())
    }

    /// Graphs that are kept.
    pub fn graphs(&self) -> usize {
        self.known.iter().filter(|(_, c)| c.is_some()).count()
    }

    /// One step. Inputs may be on the CPU or where the model is; random numbers
    /// of the pass come from `random`. Returns the loss of before the update,
    /// which the next step may overwrite.
    ///
    /// # Errors
    /// What the loss returns; an operator without a gradient, when some parameters may have
    /// been updated; a loss that cannot be captured, since it asks
    /// for a value or copies from the host, in the second step of a shape.
    pub fn take(&mut self, inputs: &[Tensor], random: Philox) -> Result<Tensor> {
        let Device::Cuda(device) = self.device() else {
            return self.work(inputs, random);
        };
        let there = Device::Cuda(device.clone());
        let eager = |step: &mut Self| {
            let moved = inputs.iter().map(|x| x.to(&there));
            let loss = step.work(&moved.collect::<Result<Vec<_>>>()?, random)?;
            step.forget_if_moved()?;
            Ok(loss)
        };
        if !self.capturing {
            return eager(self);
        }
        self.forget_if_moved()?;
        let Some(place) = self.known.iter().position(|(k, _)| are(k, inputs)) else {
            let loss = eager(self)?;
            if self.known.len() < GRAPHS {
                self.known.push((kinds(inputs), None));
            }
            return Ok(loss);
        };
        let (kinds, captured) = self.known.swap_remove(place);
        let mut captured = match captured {
            Some(captured) => captured,
            None => self.capture(&device, &kinds)?,
        };
        let loss = captured.replay(&device, &mut self.optimizer, inputs, random)?;
        self.known.push((kinds, Some(captured)));
        Ok(loss)
    }

    /// Captures the step for inputs of these shapes, if it is not yet, and takes
    /// none: the model, the optimiser and the random streams stay as they are.
    /// [`TrainingStep::take`] does it by itself. Nothing on the CPU.
    ///
    /// # Errors
    /// There was no step yet, which must come first; as [`TrainingStep::take`].
    pub fn prepare(&mut self, inputs: &[Tensor]) -> Result<()> {
        let Device::Cuda(device) = self.device() else {
            return Ok(());
        };
        self.forget_if_moved()?;
        let kinds = kinds(inputs);
        let place = self.known.iter().position(|(k, _)| *k == kinds);
        if place.is_none_or(|place| self.known[place].1.is_none()) {
            let captured = self.capture(&device, &kinds)?;
            self.known.retain(|(k, _)| *k != kinds);
            self.known.push((kinds, Some(captured)));
        }
        Ok(())
    }

    /// Forward pass, backward pass, clipping and update, see [`Optimizer::minimize`].
    fn work(&mut self, inputs: &[Tensor], random: Philox) -> Result<Tensor> {
        let forward = || (self.loss)(inputs, &Pass::train(random));
        let loss = profile::phase(Phase::Forward, forward)?;
        let value = loss.detach();
        self.optimizer.minimize(loss, self.max_norm)?;
        Ok(value)
    }

    /// Records a step for inputs of these kinds. Nothing runs, so the model, the
    /// optimiser and the random streams are left as they are.
    fn capture(&mut self, device: &CudaDevice, kinds: &Kinds) -> Result<Captured> {
        let place = |(shape, dtype): &(Vec<usize>, DType)| {
            device.empty(Layout::contiguous(Shape::new(shape)?), *dtype)
        };
        let inputs = kinds.iter().map(place).collect::<Result<Vec<_>>>()?;
        let (graph, loss) = device.capture(|| self.work(&inputs, Philox::new(0)))?;
        Ok(Captured {
            inputs,
            update: self.optimizer.captured()?,
            graph,
            loss,
        })
    }

    /// Drops the graphs if what they work on no longer lies there: it was set or
    /// loaded, or an eager update had to spare somebody's copy.
    fn forget_if_moved(&mut self) -> Result<()> {
        let (known, numbers) = &self.addresses;
        let mut same = known.len() == self.state.len() && *numbers == self.optimizer.place();
        for (slot, known) in self.state.iter().zip(known) {
            same = same && slot.places()? == *known;
        }
        if !same {
            self.known.clear();
            let places = self.state.iter().map(Slot::places);
            self.addresses = (places.collect::<Result<_>>()?, self.optimizer.place());
        }
        Ok(())
    }
}

impl Captured {
    fn replay(
        &mut self,
        device: &CudaDevice,
        optimizer: &mut Optimizer,
        inputs: &[Tensor],
        random: Philox,
    ) -> Result<Tensor> {
        for (place, input) in self.inputs.iter().zip(inputs) {
            cuda::put(place, input)?;
        }
        device.set_random(random)?;
        optimizer.advance(&mut self.update)?;
        self.graph.replay()?;
        Ok(self.loss.clone())
    }
}

fn slots(model: &dyn State) -> impl Iterator<Item = Slot> {
    model.state().into_iter().map(|(_, slot)| slot)
}

/// Whether inputs are of these kinds.
fn are(kinds: &Kinds, inputs: &[Tensor]) -> bool {
    kinds.len() == inputs.len()
        && (kinds.iter().zip(inputs))
            .all(|((shape, dtype), x)| x.shape() == shape && x.dtype() == *dtype)
}

fn kinds(inputs: &[Tensor]) -> Kinds {
    let kind = |x: &Tensor| (x.shape().to_vec(), x.dtype());
    inputs.iter().map(kind).collect()
}

/// Losses of one element each, kept on a CUDA device without waiting for it,
/// to be averaged all at once.
#[derive(Default)]
pub struct Losses {
    weights: Vec<f64>,
    here: Vec<f64>,
    /// On a device, in blocks of [`BLOCK`] that are kept from epoch to epoch.
    there: Vec<Tensor>,
}

const BLOCK: usize = 256;

impl Losses {
    /// Copies `loss`, so that the next step may overwrite it.
    ///
    /// # Errors
    /// More than one element; another dtype than f32 on a device.
    pub fn push(&mut self, loss: &Tensor, weight: f64) -> Result<()> {
        match loss.device() {
            Device::Cpu => self.here.push(loss.item()?),
            Device::Cuda(device) => {
                let (block, at) = (self.weights.len() / BLOCK, self.weights.len() % BLOCK);
                if block == self.there.len() {
                    let room = Layout::contiguous(Shape::new(&[BLOCK])?);
                    self.there.push(device.empty(room, DType::F32)?);
                }
                let slot = ops::slice(&self.there[block], 0, at, 1)?;
                cuda::put(&slot, &ops::reshape(&loss.detach(), &[1])?)?;
            }
        }
        self.weights.push(weight);
        Ok(())
    }

    /// What was pushed since the last call: losses, and their weights. Waits for the
    /// device.
    pub fn take(&mut self) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut values = std::mem::take(&mut self.here);
        for (block, weights) in self.there.iter().zip(self.weights.chunks(BLOCK)) {
            let used = ops::slice(block, 0, 0, weights.len())?;
            values.extend(used.to_f64_vec()?);
        }
        Ok((values, std::mem::take(&mut self.weights)))
    }

    /// The weighted mean of what was pushed since the last call, 0 for nothing.
    /// Waits for the device.
    pub fn mean(&mut self) -> Result<f64> {
        let (values, weights) = self.take()?;
        Ok(weighted_mean(&values, &weights))
    }
}

/// The mean of values with weights, 0 for none.
pub(crate) fn weighted_mean(values: &[f64], weights: &[f64]) -> f64 {
    let total: f64 = values.iter().zip(weights).map(|(v, w)| v * w).sum();
    let items: f64 = weights.iter().sum();
    if items > 0.0 { total / items } else { 0.0 }
}
