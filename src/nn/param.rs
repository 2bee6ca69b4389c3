//! The only things that change in place: parameters and buffers.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::autograd::Node;
use crate::device::cuda::Address;
use crate::device::{Device, cuda};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{self, layout::recorded_cast};
use crate::random::Philox;
use crate::shape::Format;
use crate::tensor::Tensor;

struct Held {
    value: Tensor,
    /// Of the present version, once somebody records it.
    leaf: Mutex<Option<Arc<Node>>>,
    /// The values in bf16, if they are kept.
    shadow: Option<Tensor>,
}

/// What an update of a parameter writes.
pub(crate) struct Values<'a> {
    pub value: &'a mut Tensor,
    /// To hold the same in bf16 afterwards.
    pub shadow: Option<&'a mut Tensor>,
}

struct Shared {
    name: String,
    version: Arc<AtomicU64>,
    held: RwLock<Held>,
}

/// A learned tensor. Clones share it.
///
/// Every update raises its version; a backward pass through a forward pass that
/// saw an older version is an error, never a silently wrong gradient.
#[derive(Clone)]
pub struct Param(Arc<Shared>);

impl Param {
    /// `name` is used in messages.
    pub fn new(name: impl Into<String>, value: Tensor) -> Self {
        let name = name.into();
        let version = Arc::new(AtomicU64::new(0));
        Self(Arc::new(Shared {
            name,
            version,
            held: RwLock::new(Held {
                value: value.detach(),
                leaf: Mutex::default(),
                shadow: None,
            }),
        }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    fn leaf(&self, held: &Held) -> Arc<Node> {
        let mut leaf = held.leaf.lock().unwrap_or_else(PoisonError::into_inner);
        leaf.get_or_insert_with(|| Node::parameter(&self.0.name, &self.0.version))
            .clone()
    }

    /// The place of the present values on the tape, without the values: who holds it keeps
    /// nothing from being updated in place.
    pub(crate) fn place(&self) -> Arc<Node> {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        self.leaf(&held)
    }

    /// The present values on the tape, to compute and to ask gradients with.
    pub fn recorded(&self) -> Tensor {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        held.value.clone().with_node(Some(self.leaf(&held)))
    }

    /// The present values off the tape.
    pub fn value(&self) -> Tensor {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        held.value.clone()
    }

    /// Keeps the values in bf16 too, beside the f32 master that is optimised: an
    /// optimiser writes both at once, and [`Param::recorded_in`] converts nothing
    /// then.
    ///
    /// # Errors
    /// A parameter that is not f32; no memory left.
    pub fn keep_shadow(&self) -> Result<()> {
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        if held.value.dtype() != DType::F32 {
            let problem = format!("{} is {}", self.0.name, held.value.dtype());
            return Err(Error::usage(
                problem,
                "keep a bf16 shadow of f32 parameters",
            ));
        }
        if held.shadow.is_none() {
            held.shadow = Some(shadow_of(&held.value)?);
        }
        Ok(())
    }

    /// The values in bf16, if they are kept.
    pub fn shadow(&self) -> Option<Tensor> {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        held.shadow.clone()
    }

    /// As [`Param::recorded`] in another float dtype: the shadow's values where
    /// it has it, otherwise converted. The gradient reaches the parameter in its
    /// own dtype.
    ///
    /// # Errors
    /// A dtype that the values cannot be converted to.
    pub fn recorded_in(&self, dtype: DType) -> Result<Tensor> {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        let master = held.value.clone().with_node(Some(self.leaf(&held)));
        match &held.shadow {
            Some(shadow) if shadow.dtype() == dtype => Ok(recorded_cast(&master, shadow.clone())),
            _ => ops::cast(&master, dtype),
        }
    }

    /// The same off the tape.
    ///
    /// # Errors
    /// As [`Param::recorded_in`].
    pub fn value_in(&self, dtype: DType) -> Result<Tensor> {
        match self.shadow() {
            Some(shadow) if shadow.dtype() == dtype => Ok(shadow),
            _ => ops::cast(&self.value(), dtype),
        }
    }

    /// Where values and shadow lie on a CUDA device: what a captured step works on.
    pub(crate) fn places(&self) -> Result<[Address; 2]> {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        let shadow = held.shadow.as_ref().map(|s| s.address("step"));
        Ok([
            held.value.address("step")?,
            shadow.transpose()?.unwrap_or_default(),
        ])
    }

    /// How often the values were replaced.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// Replaces the values.
    ///
    /// # Errors
    /// Another shape or dtype.
    pub fn set(&self, value: Tensor) -> Result<()> {
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        same_kind(&self.0.name, &held.value, &value)?;
        let value = value.detach();
        let shadow = held.shadow.as_ref().map(|_| shadow_of(&value));
        let shadow = shadow.transpose()?;
        self.0.version.fetch_add(1, Ordering::AcqRel);
        *held = Held {
            value,
            leaf: Mutex::default(),
            shadow,
        };
        Ok(())
    }

    /// Takes the values to another float dtype. A shadow goes.
    ///
    /// # Errors
    /// A dtype that they cannot be converted to.
    pub fn convert(&self, dtype: DType) -> Result<()> {
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        let value = ops::cast(&held.value, dtype)?;
        self.0.version.fetch_add(1, Ordering::AcqRel);
        *held = Held {
            value,
            leaf: Mutex::default(),
            shadow: None,
        };
        Ok(())
    }

    /// Raises the version: the values are about to change where they lie.
    pub(crate) fn touch(&self) {
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        self.0.version.fetch_add(1, Ordering::AcqRel);
        held.leaf = Mutex::default();
    }

    /// Changes the values of several different parameters at once: `change` is
    /// given them in the order of `params`, writes into them, and leaves shapes
    /// and dtypes as they are. Every version is raised, even on an error, since
    /// some values may have changed by then. Values that a tape or another
    /// tensor still holds are copied by [`Tensor::dense_mut`], not overwritten.
    ///
    /// # Errors
    /// A parameter that is named twice, or what `change` returns.
    pub(crate) fn update_all<R>(
        params: &[Param],
        change: impl FnOnce(Vec<Values>) -> Result<R>,
    ) -> Result<R> {
        // Locked in the order of their addresses, so that two callers with
        // common parameters cannot wait for each other.
        let mut order: Vec<usize> = (0..params.len()).collect();
        order.sort_by_key(|&i| Arc::as_ptr(&params[i].0));
        for pair in order.windows(2) {
            let (a, b) = (&params[pair[0]], &params[pair[1]]);
            if Arc::ptr_eq(&a.0, &b.0) {
                return Err(Error::usage(
                    format!("parameter {} is to be updated twice at once", a.name()),
                    "name a shared parameter once",
                ));
            }
        }
        let mut guards: Vec<_> = order
            .iter()
            .map(|&i| {
                let held = &params[i].0.held;
                (i, held.write().unwrap_or_else(PoisonError::into_inner))
            })
            .collect();
        guards.sort_by_key(|(i, _)| *i);
        let values = guards.iter_mut().map(|(_, held)| {
            let Held { value, shadow, .. } = &mut **held;
            let shadow = shadow.as_mut();
            Values { value, shadow }
        });
        let outcome = change(values.collect());
        for (i, held) in &mut guards {
            let shared = &params[*i].0;
            shared.version.fetch_add(1, Ordering::AcqRel);
            held.leaf = Mutex::default();
        }
        outcome
    }
}

/// State that is not learned by gradients: running statistics, counters.
#[derive(Clone)]
pub struct Buffer(Arc<(String, RwLock<Tensor>)>);

impl Buffer {
    pub fn new(name: impl Into<String>, value: Tensor) -> Self {
        Self(Arc::new((name.into(), RwLock::new(value.detach()))))
    }

    pub fn value(&self) -> Tensor {
        let value = self.0.1.read().unwrap_or_else(PoisonError::into_inner);
        value.clone()
    }

    /// Replaces the values. On the CUDA stream that holds them they are written
    /// over where they lie, so that a captured step goes on using them; what
    /// [`Buffer::value`] gave before changes with them.
    ///
    /// # Errors
    /// Another shape or dtype.
    pub fn set(&self, value: Tensor) -> Result<()> {
        let mut held = self.0.1.write().unwrap_or_else(PoisonError::into_inner);
        same_kind(&self.0.0, &held, &value)?;
        if !cuda::overwrite(&held, &value)? {
            *held = value.detach();
        }
        Ok(())
    }

    /// Takes the values to another float dtype; a counter stays as it is.
    ///
    /// # Errors
    /// A dtype that they cannot be converted to.
    pub fn convert(&self, dtype: DType) -> Result<()> {
        let mut held = self.0.1.write().unwrap_or_else(PoisonError::into_inner);
        if held.dtype().is_float() {
            *held = ops::cast(&held, dtype)?;
        }
        Ok(())
    }

    /// Adds 1 to a counter, one i64, without waiting for the device that holds it.
    pub(crate) fn count_up(&self) -> Result<()> {
        let mut held = self.0.1.write().unwrap_or_else(PoisonError::into_inner);
        match held.device() {
            Device::Cpu => *held = Tensor::scalar(held.item()? + 1.0, DType::I64)?,
            Device::Cuda(_) => cuda::count_up(&held)?,
        }
        Ok(())
    }
}

fn shadow_of(value: &Tensor) -> Result<Tensor> {
    ops::cast(&value.to_format(Format::Contiguous)?, DType::BF16)
}

fn same_kind(name: &str, old: &Tensor, new: &Tensor) -> Result<()> {
    if old.shape() == new.shape() && old.dtype() == new.dtype() {
        return Ok(());
    }
    let (s, t) = (old.shape(), new.shape());
    let expected = format!(
        "{name} holds {s:?} {}, not {t:?} {}",
        old.dtype(),
        new.dtype()
    );
    Err(Error::shape("set", &[s, t], expected))
}

/// What one forward pass may do.
pub struct Pass {
    training: bool,
    recording: bool,
    averaging: bool,
    random: Cell<Philox>,
}

impl Pass {
    /// Inference: running statistics, no dropout, nothing recorded.
    pub fn eval() -> Self {
        Self {
            training: false,
            recording: false,
            averaging: false,
            random: Cell::new(Philox::new(0)),
        }
    }

    /// Training: batch statistics, dropout from `random`, recorded.
    pub fn train(random: Philox) -> Self {
        Self {
            training: true,
            recording: true,
            averaging: false,
            random: Cell::new(random),
        }
    }

    /// The same pass off the tape: what another network learns from.
    #[must_use]
    pub fn unrecorded(self) -> Self {
        Self {
            recording: false,
            ..self
        }
    }

    /// Eval-mode arithmetic whose gradients can be asked for.
    pub fn eval_recorded() -> Self {
        Self {
            recording: true,
            ..Self::eval()
        }
    }

    /// Batch statistics without a tape; running statistics become the plain
    /// average over the passes since [`crate::nn::BatchNorm::reset`].
    pub fn calibration() -> Self {
        Self {
            training: true,
            averaging: true,
            ..Self::eval()
        }
    }

    pub fn training(&self) -> bool {
        self.training
    }

    /// Whether running statistics are averaged with equal weights.
    pub fn averages(&self) -> bool {
        self.averaging
    }

    /// The values of a parameter, on the tape if this pass records.
    pub fn tensor(&self, param: &Param) -> Tensor {
        if self.recording {
            param.recorded()
        } else {
            param.value()
        }
    }

    /// As [`Pass::tensor`], in another float dtype.
    ///
    /// # Errors
    /// A dtype that the values cannot be converted to.
    pub fn tensor_in(&self, param: &Param, dtype: DType) -> Result<Tensor> {
        if self.recording {
            param.recorded_in(dtype)
        } else {
            param.value_in(dtype)
        }
    }

    /// Takes `blocks` blocks of four random words: the stream positioned at
    /// their start. The pass goes on after them.
    pub fn random(&self, blocks: u64) -> Philox {
        let mut stream = self.random.get();
        let taken = stream;
        stream.reserve(blocks);
        self.random.set(stream);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::grad;

    #[test]
    fn a_shadow_is_computed_with_and_the_gradient_is_the_masters() {
        let values = [1.0f32, 1.001, -3.3];
        let p = Param::new("w", Tensor::from_slice(&values, &[3]).unwrap());
        p.keep_shadow().unwrap();
        let x = p.recorded_in(DType::BF16).unwrap();
        assert_eq!(x.dtype(), DType::BF16);
        assert_eq!(x.to_f32_vec().unwrap(), [1.0, 1.0, -3.296_875]);
        let y = ops::cast(&ops::mul(&x, &x).unwrap(), DType::F32).unwrap();
        let (loss, leaf) = (ops::sum_all(&y).unwrap(), p.recorded());
        let g = grad(&[&loss], None, &[&leaf], false).unwrap();
        let g = g[0].as_ref().unwrap();
        assert_eq!(g.to_vec::<f32>().unwrap(), [2.0, 2.0, -6.593_75]);

        p.set(Tensor::full(0.1, &[3], DType::F32).unwrap()).unwrap();
        assert_eq!(
            p.shadow().unwrap().to_f32_vec().unwrap(),
            [0.100_097_656; 3]
        );
        assert!(grad(&[&loss], None, &[&leaf], false).is_err());

        let double = Param::new("d", Tensor::zeros(&[2], DType::F64).unwrap());
        let error = double.keep_shadow().unwrap_err().to_string();
        assert!(error.contains("d is f64"), "{error}");
    }

    #[test]
    fn a_conversion_leaves_counters() {
        let p = Param::new("w", Tensor::full(0.1, &[2], DType::F32).unwrap());
        let before = p.recorded();
        p.convert(DType::F64).unwrap();
        assert_eq!(p.value().to_vec::<f64>().unwrap(), [f64::from(0.1f32); 2]);
        // What was computed before does not depend on the parameter as it is now.
        let loss = ops::sum_all(&before).unwrap();
        let g = grad(&[&loss], None, &[&p.recorded()], false).unwrap();
        assert!(g[0].is_none());
        for (from, to) in [(DType::F32, DType::F64), (DType::I64, DType::I64)] {
            let buffer = Buffer::new("b", Tensor::scalar(3.0, from).unwrap());
            buffer.convert(DType::F64).unwrap();
            assert_eq!(
                (buffer.value().dtype(), buffer.value().item().unwrap()),
                (to, 3.0)
            );
        }
    }

    #[test]
    fn backward_after_an_update_is_an_error_that_names_the_parameter() {
        let p = Param::new("layer.weight", Tensor::full(2.0, &[3], DType::F32).unwrap());
        let x = p.recorded();
        let loss = ops::sum_all(&ops::mul(&x, &x).unwrap()).unwrap();
        let g = grad(&[&loss], None, &[&p.recorded()], false).unwrap();
        let g = g[0].as_ref().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(g, [4.0; 3]);
        p.set(Tensor::full(1.0, &[3], DType::F32).unwrap()).unwrap();
        let error = grad(&[&loss], None, &[&x], false).unwrap_err();
        assert!(error.to_string().contains("layer.weight"), "{error}");
        assert_eq!(p.version(), 1);
    }

    #[test]
    fn another_shape_is_refused() {
        let p = Param::new("w", Tensor::zeros(&[2], DType::F32).unwrap());
        assert!(p.set(Tensor::zeros(&[3], DType::F32).unwrap()).is_err());
        assert!(p.set(Tensor::zeros(&[2], DType::F64).unwrap()).is_err());
        assert_eq!(p.version(), 0);
    }
}
