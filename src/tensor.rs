//! The tensor: shared storage, a dtype, a layout and, when it was computed from
//! something that wants a gradient, its place on the tape.
//!
//! A tensor is cheap to clone and is never changed by an operator. Only
//! [`crate::nn::Param`] and [`crate::nn::Buffer`] change in place.

use std::fmt;
use std::sync::Arc;

use crate::autograd::{Node, Save, record};
use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::ops;
use crate::profile;
use crate::shape::{Format, Layout, Shape};
use crate::storage::Storage;

#[derive(Clone)]
pub struct Tensor {
    storage: Storage,
    layout: Layout,
    dtype: DType,
    pub(crate) node: Option<Arc<Node>>,
}

impl Tensor {
    pub(crate) fn from_parts(storage: Storage, layout: Layout, dtype: DType) -> Self {
        debug_assert!(layout.span() * dtype.size() <= storage.len());
        Self {
            storage,
            layout,
            dtype,
            node: None,
        }
    }

    /// A new CPU tensor: `fill` writes the storage of a dense or padded layout,
    /// which starts as zeros.
    pub(crate) fn build<T: Element>(layout: Layout, fill: impl FnOnce(&mut [T])) -> Self {
        Self::from_parts(Storage::cpu(layout.span(), fill), layout, T::DTYPE)
    }

    /// As [`Tensor::build`] for a `fill` that writes every element of a layout
    /// without holes; what it is given is anything.
    pub(crate) fn build_unwritten<T: Element>(layout: Layout, fill: impl FnOnce(&mut [T])) -> Self {
        debug_assert!(layout.is_dense());
        let storage = Storage::cpu_unwritten(layout.span(), fill);
        Self::from_parts(storage, layout, T::DTYPE)
    }

    /// Row-major values on the CPU.
    ///
    /// # Errors
    /// The number of values is not that of the shape.
    pub fn from_slice<T: Element>(values: &[T], shape: &[usize]) -> Result<Self> {
        let checked = Shape::new(shape)?;
        if checked.elements() != values.len() {
            return Err(Error::shape(
                "from_slice",
                &[shape],
                format!("{} values were given", values.len()),
            ));
        }
        Ok(Self::build(
            Layout::contiguous(checked),
            |out: &mut [T]| out.copy_from_slice(values),
        ))
    }

    /// Row-major bytes of any dtype, little-endian.
    ///
    /// # Errors
    /// The number of bytes is not that of shape and dtype.
    pub fn from_bytes(bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Self> {
        let checked = Shape::new(shape)?;
        if checked.elements() * dtype.size() != bytes.len() {
            return Err(Error::shape(
                "from_bytes",
                &[shape],
                format!("{} bytes of {dtype} were given", bytes.len()),
            ));
        }
        let storage = Storage::cpu(bytes.len(), |out: &mut [u8]| out.copy_from_slice(bytes));
        Ok(Self::from_parts(
            storage,
            Layout::contiguous(checked),
            dtype,
        ))
    }

    pub fn full(value: f64, shape: &[usize], dtype: DType) -> Result<Self> {
        let layout = Layout::contiguous(Shape::new(shape)?);
        Ok(match dtype {
            DType::F32 => Self::build(layout, |o| o.fill(value as f32)),
            DType::F64 => Self::build(layout, |o| o.fill(value)),
            DType::F16 => Self::build(layout, |o| o.fill(half::f16::from_f64(value))),
            DType::BF16 => Self::build(layout, |o| o.fill(half::bf16::from_f64(value))),
            DType::I32 => Self::build(layout, |o| o.fill(value as i32)),
            DType::I64 => Self::build(layout, |o| o.fill(value as i64)),
            DType::U8 => Self::build(layout, |o| o.fill(value as u8)),
            DType::Bool => {
                let bytes = vec![u8::from(value != 0.0); layout.elements()];
                Self::from_bytes(&bytes, DType::Bool, shape)?
            }
        })
    }

    pub fn zeros(shape: &[usize], dtype: DType) -> Result<Self> {
        Self::full(0.0, shape, dtype)
    }

    /// A tensor without axes.
    pub fn scalar(value: f64, dtype: DType) -> Result<Self> {
        Self::full(value, &[], dtype)
    }

    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn device(&self) -> Device {
        self.storage.device()
    }

    pub fn rank(&self) -> usize {
        self.shape().len()
    }

    pub fn elements(&self) -> usize {
        self.layout.elements()
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Whether gradients flow through this tensor.
    pub fn is_recorded(&self) -> bool {
        self.node.is_some()
    }

    /// The same values, off the tape.
    pub fn detach(&self) -> Self {
        Self {
            node: None,
            ..self.clone()
        }
    }

    /// The same values as a new leaf of the tape, to ask gradients for.
    pub fn variable(&self) -> Self {
        Self {
            node: Some(Node::leaf()),
            ..self.clone()
        }
    }

    pub(crate) fn with_layout(&self, layout: Layout) -> Self {
        Self::from_parts(self.storage.clone(), layout, self.dtype)
    }

    pub(crate) fn with_node(mut self, node: Option<Arc<Node>>) -> Self {
        self.node = node;
        self
    }

    /// The whole storage as elements of `T`, to be indexed through the layout.
    ///
    /// # Errors
    /// The tensor holds another dtype.
    pub(crate) fn elements_of<T: Element>(&self, op: &'static str) -> Result<&[T]> {
        if self.dtype != T::DTYPE {
            return Err(Error::dtype(
                op,
                &[self.dtype],
                format!("{} is needed", T::DTYPE),
            ));
        }
        match &self.storage {
            Storage::Cpu(b) => Ok(b.as_slice()),
            Storage::Cuda(..) => Err(Error::op(
                op,
                "an operand is on cuda, others are on cpu; move it with Tensor::to",
            )),
        }
    }

    /// The elements in physical order if they lie without holes.
    pub(crate) fn dense_slice<T: Element>(&self, op: &'static str) -> Result<&[T]> {
        let all = self.elements_of(op)?;
        if !self.layout.is_dense() {
            return Err(Error::op(op, "internal: a dense layout is needed here"));
        }
        Ok(&all[self.layout.offset()..self.layout.offset() + self.elements()])
    }

    /// Whether nothing else holds the memory.
    pub(crate) fn holds_alone(&mut self) -> bool {
        match &mut self.storage {
            Storage::Cpu(buffer) => Arc::get_mut(buffer).is_some(),
            Storage::Cuda(_, buffer) => Arc::get_mut(buffer).is_some(),
        }
    }

    /// The elements in physical order, to be changed in place: in the storage
    /// that the tensor has if nothing else holds it, in a copy elsewhere.
    pub(crate) fn dense_mut<T: Element>(&mut self, op: &'static str) -> Result<&mut [T]> {
        self.elements_of::<T>(op)?;
        if !self.layout.is_dense() || !self.holds_alone() {
            let plain = if self.layout.is_dense() {
                self.detach()
            } else {
                self.detach().to_format(Format::Contiguous)?
            };
            let from = plain.dense_slice::<T>(op)?;
            *self = Self::build(plain.layout.packed(), |out: &mut [T]| {
                out.copy_from_slice(from);
            });
        }
        let (start, len) = (self.layout.offset(), self.elements());
        let buffer = match &mut self.storage {
            Storage::Cpu(buffer) => Arc::get_mut(buffer),
            Storage::Cuda(..) => None,
        };
        let buffer = buffer.ok_or_else(|| Error::op(op, "internal: shared storage"))?;
        Ok(&mut buffer.as_mut_slice()[start..start + len])
    }

    /// The values in logical row-major order.
    ///
    /// # Errors
    /// The tensor holds another dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        let plain = self.detach().to(&Device::Cpu)?;
        let plain = plain.to_format(Format::Contiguous)?;
        Ok(plain.dense_slice("to_vec")?.to_vec())
    }

    /// The values in logical row-major order as f32, whatever the dtype.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        ops::cast(&self.detach().to(&Device::Cpu)?, DType::F32)?.to_vec()
    }

    /// The values in logical row-major order as f64, whatever the dtype.
    pub fn to_f64_vec(&self) -> Result<Vec<f64>> {
        ops::cast(&self.detach().to(&Device::Cpu)?, DType::F64)?.to_vec()
    }

    /// The values in logical row-major order as little-endian bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let plain = self.detach().to_format(Format::Contiguous)?;
        let start = plain.layout.offset() * self.dtype.size();
        plain.stored_bytes(start, plain.elements() * self.dtype.size())
    }

    fn stored_bytes(&self, start: usize, len: usize) -> Result<Vec<u8>> {
        match &self.storage {
            Storage::Cpu(b) => Ok(b.bytes()[start..start + len].to_vec()),
            Storage::Cuda(device, b) => device.download(b, start, len),
        }
    }

    /// The same values on `device`, in the same layout; free if they are there.
    /// Between streams of one GPU the memory is shared, and the stream that
    /// wrote it is waited for.
    ///
    /// The gradient comes back to where x was.
    ///
    /// # Errors
    /// The device has no memory left or no such dtype, or a captured step would
    /// have to be left.
    pub fn to(&self, device: &Device) -> Result<Self> {
        if self.device() == *device {
            return Ok(self.clone());
        }
        let moved = profile::call("to", &[self], || self.moved(device))?;
        let home = self.device();
        Ok(record("to", &[self], moved, Save::NONE, move |b| {
            Ok(vec![Some(b.grad.to(&home)?)])
        }))
    }

    fn moved(&self, device: &Device) -> Result<Self> {
        let layout = self.layout;
        let (start, len) = (0, layout.span() * self.dtype.size());
        let storage = match (&self.storage, device) {
            (_, Device::Cuda(_)) if self.dtype == DType::F64 => {
                return Err(Error::dtype(
                    "to",
                    &[self.dtype],
                    "f64 is for the CPU alone",
                ));
            }
            (Storage::Cuda(from, buffer), Device::Cuda(to)) if from.same_gpu(to) => {
                from.synchronize()?;
                buffer.lend(to);
                Storage::Cuda(to.clone(), buffer.clone())
            }
            (_, Device::Cuda(to)) => {
                let buffer = to.upload(&self.stored_bytes(start, len)?)?;
                Storage::Cuda(to.clone(), Arc::new(buffer))
            }
            (_, Device::Cpu) => {
                let bytes = self.stored_bytes(start, len)?;
                Storage::cpu(len, |out: &mut [u8]| out.copy_from_slice(&bytes))
            }
        };
        Ok(Self::from_parts(storage, layout, self.dtype))
    }

    /// `value` everywhere, on `device`.
    pub fn full_on(value: f64, shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        match device {
            Device::Cpu => Self::full(value, shape, dtype),
            Device::Cuda(device) => ops::layout::cuda::full(device, value, shape, dtype),
        }
    }

    /// The only value of a tensor with one element.
    pub fn item(&self) -> Result<f64> {
        match self.to_f64_vec()?[..] {
            [v] => Ok(v),
            _ => Err(Error::shape(
                "item",
                &[self.shape()],
                "exactly one element is needed",
            )),
        }
    }

    /// The same values channels-last with NaN in the lanes that pad the
    /// channels: what a test of the layout contract feeds to operators.
    #[doc(hidden)]
    pub fn with_poisoned_padding(&self, multiple: usize) -> Result<Self> {
        let plain = self
            .detach()
            .to_format(Format::ChannelsLastPadded(multiple))?;
        let values = plain.elements_of::<f32>("with_poisoned_padding")?.to_vec();
        let kept = plain.layout.places();
        let layout = plain.layout;
        let poisoned = Self::build(layout, |out: &mut [f32]| {
            out.fill(f32::NAN);
            kept.iter().for_each(|&i| out[i] = values[i]);
        });
        Ok(match &self.node {
            Some(_) => poisoned.variable(),
            None => poisoned,
        })
    }

    /// The sum of all stored values that no index reaches.
    #[doc(hidden)]
    pub fn padding_sum(&self) -> Result<f64> {
        let mut all: Vec<f64> = self
            .elements_of::<f32>("padding_sum")?
            .iter()
            .map(|&v| v.into())
            .collect();
        self.layout.places().iter().for_each(|&i| all[i] = 0.0);
        Ok(all.iter().sum())
    }

    /// The same values in another physical arrangement; free if it is already so.
    pub fn to_format(&self, format: Format) -> Result<Self> {
        ops::to_format(self, format)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Tensor({} {:?} {}{})",
            self.dtype,
            self.shape(),
            self.device(),
            if self.is_recorded() { ", recorded" } else { "" }
        )
    }
}
