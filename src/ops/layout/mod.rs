//! Operators that move or convert elements without arithmetic: casts, physical
//! formats and views.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::arithmetic::sum_to;
use crate::profile;
use crate::shape::{self, Format, Layout, Shape};
use crate::tensor::Tensor;

/// The values as another dtype: floats round to nearest even, float to integer
/// truncates and saturates. The gradient is cast back; to or from an integer
/// there is none.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    let y = profile::call("cast", &[x], || match x.device() {
        Device::Cpu => cpu::cast(x, dtype),
        Device::Cuda(_) => cuda::cast(x, dtype),
    })?;
    if !x.dtype().is_float() || !dtype.is_float() {
        return Ok(y);
    }
    Ok(recorded_cast(x, y))
}

/// `y`, which holds the values of x in another float dtype, as the result of a
/// cast of x.
pub(crate) fn recorded_cast(x: &Tensor, y: Tensor) -> Tensor {
    let from = x.dtype();
    record("cast", &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(cast(&b.grad, from)?)])
    })
}

/// The values in another physical arrangement, shape unchanged; free when they
/// are so already.
pub fn to_format(x: &Tensor, format: Format) -> Result<Tensor> {
    let layout = Layout::new(*x.layout().shape(), format)?;
    let already = match format {
        Format::Contiguous => x.layout().is_contiguous(),
        Format::ChannelsLast => x.layout().is_channels_last(),
        Format::ChannelsLastPadded(_) => *x.layout() == layout,
    };
    if already {
        return Ok(x.clone());
    }
    let y = profile::call("to_format", &[x], || match x.device() {
        Device::Cpu => cpu::copy(x, layout),
        Device::Cuda(_) => cuda::copy(x, format),
    })?;
    Ok(record("to_format", &[x], y, Save::NONE, |b| {
        Ok(vec![Some(b.grad.clone())])
    }))
}

/// The elements in logical row-major order under another shape. A view where
/// strides can express it, a copy elsewhere.
///
/// # Errors
/// The number of elements differs.
pub fn reshape(x: &Tensor, to: &[usize]) -> Result<Tensor> {
    let target = Shape::new(to)?;
    if target.elements() != x.elements() {
        return Err(Error::shape(
            "reshape",
            &[x.shape(), to],
            "the number of elements must stay the same",
        ));
    }
    let y = match x.layout().reshape(target) {
        Some(layout) => x.with_layout(layout),
        None => to_format(&x.detach(), Format::Contiguous)?.with_layout(Layout::contiguous(target)),
    };
    let from = *x.layout().shape();
    Ok(record("reshape", &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(reshape(&b.grad, &from)?)])
    }))
}

/// The axes in another order: axis i of the result is axis `order[i]` of x. A view.
pub fn permute(x: &Tensor, order: &[usize]) -> Result<Tensor> {
    let mut inverse = vec![usize::MAX; order.len()];
    for (to, &from) in order.iter().enumerate() {
        match inverse.get_mut(from) {
            Some(slot) if *slot == usize::MAX => *slot = to,
            _ => inverse.clear(),
        }
    }
    if inverse.len() != x.rank() {
        return Err(Error::shape(
            "permute",
            &[x.shape()],
            format!("{order:?} is not an order of its axes"),
        ));
    }
    let y = x.with_layout(x.layout().permute(order));
    Ok(record("permute", &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(permute(&b.grad, &inverse)?)])
    }))
}

/// Two axes exchanged; negative axes count from the end. A view.
pub fn transpose(x: &Tensor, a: isize, b: isize) -> Result<Tensor> {
    let mut order: Vec<usize> = (0..x.rank()).collect();
    let a = shape::axis("transpose", a, x.shape())?;
    let b = shape::axis("transpose", b, x.shape())?;
    order.swap(a, b);
    permute(x, &order)
}

/// x repeated along new leading axes and axes of size 1. A view.
pub fn broadcast_to(x: &Tensor, to: &[usize]) -> Result<Tensor> {
    let target = Shape::new(to)?;
    if Shape::broadcast("broadcast_to", x.shape(), to)? != target {
        return Err(Error::shape(
            "broadcast_to",
            &[x.shape(), to],
            "x must broadcast to the shape",
        ));
    }
    let from = *x.layout().shape();
    let y = x.with_layout(x.layout().broadcast_to(target));
    Ok(record("broadcast_to", &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(sum_to(&b.grad, &from)?)])
    }))
}
