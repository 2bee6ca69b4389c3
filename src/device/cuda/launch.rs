//! What every operator's cuda.rs needs: operands, outputs, launches.

use bytemuck::{Pod, Zeroable};

use super::driver::Launch;
use super::kernels::{self, Kernel};
use super::{Buffer, CudaDevice};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::profile;
use crate::shape::{Format, Layout, MAX_RANK};
use crate::storage::Storage;
use crate::tensor::Tensor;

/// A device address, 0 for an operand that is not given.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct Address(pub u64);

/// The device that all of `tensors` are on.
///
/// # Errors
/// They are on several devices or streams.
pub(crate) fn device_of(op: &'static str, tensors: &[&Tensor]) -> Result<CudaDevice> {
    let first = tensors.first().map(|t| t.device());
    match first {
        Some(Device::Cuda(device)) if tensors.iter().all(|t| t.is_on(&device)) => Ok(device),
        _ => {
            let places: Vec<String> = tensors.iter().map(|t| t.device().to_string()).collect();
            let problem = format!(
                "operands are on {}; move them to one device and stream with Tensor::to",
                places.join(", ")
            );
            Err(Error::op(op, problem))
        }
    }
}

/// # Errors
/// A tensor of another dtype than f32, the one that `op` has kernels for.
pub(crate) fn f32_only(op: &'static str, tensors: &[&Tensor]) -> Result<()> {
    if tensors.iter().all(|t| t.dtype() == DType::F32) {
        return Ok(());
    }
    let given: Vec<DType> = tensors.iter().map(|t| t.dtype()).collect();
    Err(Error::dtype(op, &given, "f32 is needed on cuda"))
}

impl Tensor {
    fn is_on(&self, device: &CudaDevice) -> bool {
        matches!(self.storage(), Storage::Cuda(d, _) if d == device)
    }

    fn cuda_buffer(&self, op: &'static str) -> Result<&Buffer> {
        match self.storage() {
            Storage::Cuda(_, buffer) => Ok(buffer),
            Storage::Cpu(_) => {
                let problem = "an operand is on cpu, others are on cuda; move it with Tensor::to";
                Err(Error::op(op, problem))
            }
        }
    }

    /// Where its first element lies.
    pub(crate) fn address(&self, op: &'static str) -> Result<Address> {
        let offset = self.layout().offset() * self.dtype().size();
        Ok(Address(self.cuda_buffer(op)?.address + offset as u64))
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Copy {
    to: Address,
    from: Address,
    units: u32,
    padding: u32,
}

/// Writes the values of `from` over those of `to`, whose memory stays where it
/// is, if both are on one stream; says whether it did. Whatever shares the memory
/// of `to` changes too.
///
/// # Errors
/// The device has no memory left for a copy of `from` in row-major order.
pub(crate) fn overwrite(to: &Tensor, from: &Tensor) -> Result<bool> {
    const OP: &str = "copy";
    let Storage::Cuda(device, _) = to.storage() else {
        return Ok(false);
    };
    let same = to.shape() == from.shape() && to.dtype() == from.dtype();
    if !same || !from.is_on(device) || !to.layout().is_contiguous() {
        return Ok(false);
    }
    let values = from.detach().to_format(Format::Contiguous)?;
    let bytes = to.elements() * to.dtype().size();
    let place = to.address(OP)?;
    let words = [place.0, values.address(OP)?.0, bytes as u64];
    let words = words.iter().all(|n| n % 4 == 0);
    let (kernel, units) = if words {
        (&kernels::EOSIN_COPY_FORWARD_B4, bytes / 4)
    } else {
        (&kernels::EOSIN_COPY_FORWARD_B1, bytes)
    };
    let params = Copy {
        to: place,
        from: values.address(OP)?,
        units: count(OP, units)?,
        padding: 0,
    };
    let operands = || [vec![(&values).into()], vec![to.into()]];
    profile::call_in_place(OP, operands, || {
        device.launch(kernel, [units.div_ceil(1024), 1, 1], 0, &params)
    })?;
    Ok(true)
}

/// Writes the values of `from`, on the host or on the same stream, over those of
/// `to`, which are in row-major order.
///
/// # Errors
/// Another shape or dtype, or an operand elsewhere.
pub(crate) fn put(to: &Tensor, from: &Tensor) -> Result<()> {
    const OP: &str = "copy";
    if overwrite(to, from)? {
        return Ok(());
    }
    if to.shape() != from.shape() {
        return Err(Error::shape(OP, &[to.shape(), from.shape()], "they differ"));
    }
    if to.dtype() != from.dtype() {
        return Err(Error::dtype(OP, &[to.dtype(), from.dtype()], "they differ"));
    }
    match (to.storage(), from.storage()) {
        (Storage::Cuda(device, buffer), Storage::Cpu(_)) if to.layout().is_contiguous() => {
            let start = to.layout().offset() * to.dtype().size();
            device.write(buffer, start, &from.to_bytes()?)
        }
        _ => {
            device_of(OP, &[to, from])?;
            Err(Error::op(OP, "internal: row-major order is needed"))
        }
    }
}

/// Adds 1 to a counter of i64 where it lies.
///
/// # Errors
/// A tensor that is no such counter on a CUDA device.
pub(crate) fn count_up(counter: &Tensor) -> Result<()> {
    const OP: &str = "count";
    let device = device_of(OP, &[counter])?;
    if counter.dtype() != DType::I64 || counter.elements() != 1 {
        return Err(Error::dtype(OP, &[counter.dtype()], "one i64 is needed"));
    }
    let address = counter.address(OP)?;
    let operands = || [vec![counter.into()], vec![counter.into()]];
    profile::call_in_place(OP, operands, || {
        device.launch(&kernels::EOSIN_COUNT_FORWARD_I64, [1, 1, 1], 0, &address)
    })
}

impl CudaDevice {
    /// An unwritten tensor; `layout` starts at its storage's start.
    pub(crate) fn empty(&self, layout: Layout, dtype: DType) -> Result<Tensor> {
        let buffer = self.buffer(layout.span() * dtype.size())?;
        let storage = Storage::Cuda(self.clone(), std::sync::Arc::new(buffer));
        Ok(Tensor::from_parts(storage, layout, dtype))
    }

    /// Launches `kernel` over `grid` blocks with `shared` bytes of dynamic
    /// shared memory; an empty grid is no launch.
    ///
    /// # Errors
    /// A grid beyond CUDA's limits.
    pub(crate) fn launch<P: Pod>(
        &self,
        kernel: &'static Kernel,
        grid: [usize; 3],
        shared: usize,
        params: &P,
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let limits = [i32::MAX as usize, 65_535, 65_535];
        if grid.iter().zip(limits).any(|(&n, most)| n > most) {
            let problem = format!("{} would need a grid of {grid:?}", kernel.name);
            return Err(Error::op(kernel.op(), problem));
        }
        profile::launched(kernel.name);
        self.driver().launch(&Launch {
            kernel,
            grid: grid.map(|n| n as u32),
            shared: shared as u32,
            params: bytemuck::bytes_of(params),
        })
    }
}

/// A size as kernels count it.
///
/// # Errors
/// 2^31 elements or more.
pub(crate) fn count(op: &'static str, n: usize) -> Result<u32> {
    if n < 1 << 31 {
        return Ok(n as u32);
    }
    let problem = format!("{n} elements; kernels index fewer than 2^31, so cut the batch");
    Err(Error::op(op, problem))
}

/// How a kernel steps through up to three differently laid out operands in the
/// physical order of its dense output. A mirror of `Walk` in
/// kernels/common/walk.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct Walk {
    pub elements: u32,
    pub rank: u32,
    pub dims: [u32; MAX_RANK],
    /// Per operand and axis, in elements; offsets are part of the addresses.
    pub strides: [[u32; MAX_RANK]; 3],
}

impl Walk {
    /// `out` must be dense; `inputs`, at most three, must broadcast to its
    /// shape.
    ///
    /// # Errors
    /// 2^31 elements or more.
    pub fn new(op: &'static str, out: &Layout, inputs: &[&Layout]) -> Result<Self> {
        let mut walk = Self {
            elements: count(op, out.elements())?,
            rank: 1,
            dims: [1; MAX_RANK],
            strides: [[0; MAX_RANK]; 3],
        };
        let merged = out.merged(inputs);
        walk.rank = merged.len().max(1) as u32;
        for (axis, (size, strides)) in merged.iter().enumerate() {
            walk.dims[axis] = count(op, *size)?;
            for (operand, &stride) in strides.iter().enumerate() {
                walk.strides[operand][axis] = count(op, stride)?;
            }
        }
        Ok(walk)
    }
}
