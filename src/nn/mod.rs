//! Modules whose field names are PyTorch's keys.
//!
//! A module holds [`Param`]s and [`Buffer`]s and has a `forward`. What a
//! forward pass may do (train-mode statistics, dropout, recording) is said by
//! the [`Pass`] that it is given, so one model can serve any number of threads.

#[cfg(feature = "formats")]
mod files;
mod modules;
mod param;

#[cfg(feature = "formats")]
pub use files::{Partial, load, load_partial, state_weights};
#[cfg(feature = "formats")]
pub(crate) use files::{to_array, to_tensor};
pub use modules::{
    BatchNorm, Conv2d, ConvGeometry, ConvTranspose2d, ConvTransposeGeometry, Dropout, Lambda,
    LayerNorm, Linear, Pointwise, Pool, Sequential,
};
pub(crate) use param::Values;
pub use param::{Buffer, Param, Pass};

use crate::device::Device;
use crate::device::cuda::Address;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// A named member of a module's state.
#[derive(Clone)]
pub enum Slot {
    Param(Param),
    Buffer(Buffer),
}

impl Slot {
    pub fn value(&self) -> Tensor {
        match self {
            Self::Param(p) => p.value(),
            Self::Buffer(b) => b.value(),
        }
    }

    /// Where it lies on a CUDA device, and its shadow.
    pub(crate) fn places(&self) -> Result<[Address; 2]> {
        match self {
            Self::Param(p) => p.places(),
            Self::Buffer(b) => Ok([b.value().address("step")?, Address::default()]),
        }
    }

    /// # Errors
    /// Another shape or dtype than the slot has.
    pub fn set(&self, value: Tensor) -> Result<()> {
        match self {
            Self::Param(p) => p.set(value),
            Self::Buffer(b) => b.set(value),
        }
    }
}

/// What can be visited: a module or a model made of modules.
pub trait State: Send + Sync {
    /// Calls `visit` with each parameter and buffer and its PyTorch key below
    /// `prefix` (empty at the root), in PyTorch's order.
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot));

    /// Every parameter and buffer with its key.
    fn state(&self) -> Vec<(String, Slot)> {
        let mut all = Vec::new();
        self.visit("", &mut |key, slot| all.push((key, slot)));
        all
    }

    /// The parameters with their keys.
    fn parameters(&self) -> Vec<(String, Param)> {
        let slots = self.state().into_iter();
        slots
            .filter_map(|(key, slot)| match slot {
                Slot::Param(p) => Some((key, p)),
                Slot::Buffer(_) => None,
            })
            .collect()
    }

    /// [`Param::keep_shadow`] of every parameter.
    ///
    /// # Errors
    /// A parameter that is not f32; no memory left.
    fn keep_shadows(&self) -> Result<()> {
        (self.parameters().iter()).try_for_each(|(_, param)| param.keep_shadow())
    }

    /// Gives `twin`, which has the same structure, the same values on `device`.
    /// Between streams of one GPU they share their memory until one of them is
    /// updated.
    ///
    /// # Errors
    /// Another structure; no memory left on the device.
    fn share(&self, twin: &dyn State, device: &Device) -> Result<()> {
        let (ours, theirs) = (self.state(), twin.state());
        if ours.len() != theirs.len() {
            return Err(Error::op("share", "internal: the twin is another model"));
        }
        for ((_, from), (_, to)) in ours.into_iter().zip(theirs) {
            to.set(from.value().to(device)?)?;
            if let (Slot::Param(from), Slot::Param(to)) = (from, to)
                && from.shadow().is_some()
            {
                to.keep_shadow()?;
            }
        }
        Ok(())
    }

    /// Moves every parameter and buffer to `device`; those that are there stay
    /// as they are. An optimiser of the parameters is made afterwards, since its
    /// state lies where they lie.
    ///
    /// # Errors
    /// The device has no memory left, or no such dtype.
    fn to_device(&self, device: &Device) -> Result<()> {
        for (_, slot) in self.state() {
            let value = slot.value();
            if value.device() != *device {
                slot.set(value.to(device)?)?;
            }
        }
        Ok(())
    }

    /// Takes every parameter and floating-point buffer to `dtype`: f64, to see what of a
    /// result is rounding.
    ///
    /// # Errors
    /// A dtype that they cannot be converted to.
    fn convert(&self, dtype: DType) -> Result<()> {
        (self.state().iter()).try_for_each(|(_, slot)| match slot {
            Slot::Param(p) => p.convert(dtype),
            Slot::Buffer(b) => b.convert(dtype),
        })
    }
}

/// A module of one input and one output.
pub trait Module: State {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor>;
}

/// `prefix.name`, or `name` at the root.
pub fn key(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}
