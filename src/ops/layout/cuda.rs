use bytemuck::{Pod, Zeroable};

use super::cpu::retyped;
use crate::device::cuda::kernels::{self, Kernel};
use crate::device::cuda::{Address, CudaDevice, Walk, count, device_of};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::elementwise::{Constants, grid, map};
use crate::profile;
use crate::shape::{Format, Layout, Shape};
use crate::storage::Storage;
use crate::tensor::Tensor;

/// The conversion between two dtypes that differ; `None` where there is none.
fn conversion(from: DType, to: DType) -> Option<&'static Kernel> {
    Some(match (from, to) {
        (DType::F32, to) => match to {
            DType::F16 => &kernels::EOSIN_CAST_FORWARD_TO_F16_F32,
            DType::BF16 => &kernels::EOSIN_CAST_FORWARD_TO_BF16_F32,
            DType::I32 => &kernels::EOSIN_CAST_FORWARD_TO_I32_F32,
            DType::I64 => &kernels::EOSIN_CAST_FORWARD_TO_I64_F32,
            DType::U8 => &kernels::EOSIN_CAST_FORWARD_TO_U8_F32,
            DType::Bool => &kernels::EOSIN_CAST_FORWARD_TO_BOOL_F32,
            _ => return None,
        },
        (DType::F16, to) => match to {
            DType::F32 => &kernels::EOSIN_CAST_FORWARD_TO_F32_F16,
            DType::BF16 => &kernels::EOSIN_CAST_FORWARD_TO_BF16_F16,
            DType::I32 => &kernels::EOSIN_CAST_FORWARD_TO_I32_F16,
            DType::I64 => &kernels::EOSIN_CAST_FORWARD_TO_I64_F16,
            DType::U8 => &kernels::EOSIN_CAST_FORWARD_TO_U8_F16,
            DType::Bool => &kernels::EOSIN_CAST_FORWARD_TO_BOOL_F16,
            _ => return None,
        },
        (DType::BF16, to) => match to {
            DType::F32 => &kernels::EOSIN_CAST_FORWARD_TO_F32_BF16,
            DType::F16 => &kernels::EOSIN_CAST_FORWARD_TO_F16_BF16,
            DType::I32 => &kernels::EOSIN_CAST_FORWARD_TO_I32_BF16,
            DType::I64 => &kernels::EOSIN_CAST_FORWARD_TO_I64_BF16,
            DType::U8 => &kernels::EOSIN_CAST_FORWARD_TO_U8_BF16,
            DType::Bool => &kernels::EOSIN_CAST_FORWARD_TO_BOOL_BF16,
            _ => return None,
        },
        (DType::I32, to) => match to {
            DType::F32 => &kernels::EOSIN_CAST_FORWARD_TO_F32_I32,
            DType::F16 => &kernels::EOSIN_CAST_FORWARD_TO_F16_I32,
            DType::BF16 => &kernels::EOSIN_CAST_FORWARD_TO_BF16_I32,
            DType::I64 => &kernels::EOSIN_CAST_FORWARD_TO_I64_I32,
            DType::U8 => &kernels::EOSIN_CAST_FORWARD_TO_U8_I32,
            DType::Bool => &kernels::EOSIN_CAST_FORWARD_TO_BOOL_I32,
            _ => return None,
        },
        (DType::I64, to) => match to {
            DType::F32 => &kernels::EOSIN_CAST_FORWARD_TO_F32_I64,
            DType::F16 => &kernels::EOSIN_CAST_FORWARD_TO_F16_I64,
            DType::BF16 => &kernels::EOSIN_CAST_FORWARD_TO_BF16_I64,
            DType::I32 => &kernels::EOSIN_CAST_FORWARD_TO_I32_I64,
            DType::U8 => &kernels::EOSIN_CAST_FORWARD_TO_U8_I64,
            DType::Bool => &kernels::EOSIN_CAST_FORWARD_TO_BOOL_I64,
            _ => return None,
        },
        (DType::U8 | DType::Bool, to) => match to {
            DType::F32 => &kernels::EOSIN_CAST_FORWARD_TO_F32_U8,
            DType::F16 => &kernels::EOSIN_CAST_FORWARD_TO_F16_U8,
            DType::BF16 => &kernels::EOSIN_CAST_FORWARD_TO_BF16_U8,
            DType::I32 => &kernels::EOSIN_CAST_FORWARD_TO_I32_U8,
            DType::I64 => &kernels::EOSIN_CAST_FORWARD_TO_I64_U8,
            DType::Bool => &kernels::EOSIN_CAST_FORWARD_TO_BOOL_U8,
            _ => return None,
        },
        (DType::F64, _) => return None,
    })
}

pub(super) fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let op = "cast";
    if (x.dtype(), dtype) == (DType::Bool, DType::U8) {
        return retyped(x, dtype);
    }
    let Some(kernel) = conversion(x.dtype(), dtype) else {
        let problem = "f64 is for the CPU alone";
        return Err(Error::dtype(op, &[x.dtype(), dtype], problem));
    };
    map(op, kernel, &[x], Constants::NONE, dtype)
}

/// A mirror of `CopyParams` in kernels/layout.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CopyParams {
    x: Address,
    out: Address,
    lanes: u32,
    channels: u32,
    walk: Walk,
}

/// The elements of x in `format`, zeros in its padding.
pub(super) fn copy(x: &Tensor, format: Format) -> Result<Tensor> {
    let op = "to_format";
    let device = device_of(op, &[x])?;
    let layout = Layout::new(*x.layout().shape(), format)?;
    // What is written: the padding as if it were channels of its own.
    let (mut written, mut read) = (layout, *x.layout());
    let (mut lanes, mut channels) = (1, 1);
    if let (Format::ChannelsLastPadded(_), &[n, c, h, w]) = (format, x.shape()) {
        (lanes, channels) = (layout.strides()[3], c);
        written = Layout::new(Shape::new(&[n, lanes, h, w])?, Format::ChannelsLast)?;
        read = read.narrow(1, 0, lanes, 1);
    }
    let size = x.dtype().size();
    // An empty tensor keeps its empty storage, whatever its padding.
    let elements = if layout.elements() == 0 {
        0
    } else {
        written.elements()
    };
    let buffer = device.buffer(elements * size)?;
    let storage = Storage::Cuda(device.clone(), std::sync::Arc::new(buffer));
    let out = Tensor::from_parts(storage, layout, x.dtype());
    let params = CopyParams {
        x: x.address(op)?,
        out: out.address(op)?,
        lanes: count(op, lanes)?,
        channels: count(op, channels)?,
        walk: Walk::new(op, &written, &[&read])?,
    };
    let kernel = match size {
        1 => &kernels::EOSIN_TO_FORMAT_FORWARD_B1,
        2 => &kernels::EOSIN_TO_FORMAT_FORWARD_B2,
        4 => &kernels::EOSIN_TO_FORMAT_FORWARD_B4,
        _ => &kernels::EOSIN_TO_FORMAT_FORWARD_B8,
    };
    device.launch(kernel, grid(elements), 0, &params)?;
    Ok(out)
}

/// A mirror of `FillParams` in kernels/layout.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct FillParams {
    out: Address,
    bits: u64,
    elements: u32,
    padding: u32,
}

/// `value` everywhere; unlike a copy from the host it can be captured.
pub(crate) fn full(
    device: &CudaDevice,
    value: f64,
    shape: &[usize],
    dtype: DType,
) -> Result<Tensor> {
    let op = "full";
    // The saturating casts are those of `Tensor::full`.
    let bits = match dtype {
        DType::F32 => u64::from((value as f32).to_bits()),
        DType::F16 => u64::from(half::f16::from_f64(value).to_bits()),
        DType::BF16 => u64::from(half::bf16::from_f64(value).to_bits()),
        DType::I32 => u64::from((value as i32).cast_unsigned()),
        DType::I64 => (value as i64).cast_unsigned(),
        DType::U8 => u64::from(value as u8),
        DType::Bool => u64::from(value != 0.0),
        DType::F64 => return Err(Error::dtype(op, &[dtype], "f64 is for the CPU alone")),
    };
    let layout = Layout::contiguous(Shape::new(shape)?);
    let out = device.empty(layout, dtype)?;
    let params = FillParams {
        out: out.address(op)?,
        bits,
        elements: count(op, layout.elements())?,
        padding: 0,
    };
    let kernel = match dtype.size() {
        1 => &kernels::EOSIN_FILL_FORWARD_B1,
        2 => &kernels::EOSIN_FILL_FORWARD_B2,
        4 => &kernels::EOSIN_FILL_FORWARD_B4,
        _ => &kernels::EOSIN_FILL_FORWARD_B8,
    };
    let operands = || [Vec::new(), vec![(&out).into()]];
    profile::call_in_place("fill", operands, || {
        device.launch(kernel, grid(layout.elements()), 0, &params)
    })?;
    Ok(out)
}
