//! Shared untyped bytes on a device.

use std::sync::Arc;

use crate::device::{Device, cpu, cuda};
use crate::dtype::Element;

#[derive(Clone)]
pub enum Storage {
    Cpu(Arc<cpu::Buffer>),
    /// The stream that the tensor belongs to; the memory may be of another
    /// stream's arena.
    Cuda(cuda::CudaDevice, Arc<cuda::Buffer>),
}

impl Storage {
    pub fn device(&self) -> Device {
        match self {
            Self::Cpu(_) => Device::Cpu,
            Self::Cuda(device, _) => Device::Cuda(device.clone()),
        }
    }

    /// Bytes held, padding and elements outside any view included.
    pub fn len(&self) -> usize {
        match self {
            Self::Cpu(b) => b.bytes().len(),
            Self::Cuda(_, b) => b.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A CPU storage of `elements` zeros that `fill` then writes.
    pub(crate) fn cpu<T: Element>(elements: usize, fill: impl FnOnce(&mut [T])) -> Self {
        let mut buffer = cpu::Buffer::zeroed(elements * size_of::<T>());
        fill(buffer.as_mut_slice());
        Self::Cpu(Arc::new(buffer))
    }

    /// As [`Storage::cpu`] for a `fill` that writes every element: what it is
    /// given is not zeros but anything.
    pub(crate) fn cpu_unwritten<T: Element>(elements: usize, fill: impl FnOnce(&mut [T])) -> Self {
        let mut buffer = cpu::Buffer::unwritten(elements * size_of::<T>());
        fill(buffer.as_mut_slice());
        Self::Cpu(Arc::new(buffer))
    }
}
