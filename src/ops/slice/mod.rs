//! `slice`, a view of a range of an axis, and its transpose, `place`.

mod cpu;
mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::profile;
use crate::shape::{self, Layout};
use crate::tensor::Tensor;

/// Elements `start..start + len` of `axis`. A view.
///
/// # Errors
/// The range does not lie in the axis.
pub fn slice(x: &Tensor, axis: isize, start: usize, len: usize) -> Result<Tensor> {
    strided("slice", x, axis, start, len, 1)
}

/// The `len` elements `start, start + step, ..` of `axis`. A view.
///
/// # Errors
/// An element does not lie in the axis, or `step` is 0.
pub fn slice_step(
    x: &Tensor,
    axis: isize,
    start: usize,
    len: usize,
    step: usize,
) -> Result<Tensor> {
    strided("slice_step", x, axis, start, len, step)
}

fn strided(
    op: &'static str,
    x: &Tensor,
    axis: isize,
    start: usize,
    len: usize,
    step: usize,
) -> Result<Tensor> {
    let axis = shape::axis(op, axis, x.shape())?;
    let size = x.shape()[axis];
    check_range(op, x, size, start, len, step)?;
    // The step of a range of one is never taken; as given it could overflow.
    let taken = if len > 1 { step } else { 1 };
    let mut layout = x.layout().narrow(axis, start, len, taken);
    if layout.elements() == 0 {
        // Its offset could point past the end of the storage.
        layout = Layout::contiguous(*layout.shape());
    }
    let y = x.with_layout(layout);
    Ok(record(op, &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(place(
            &b.grad,
            axis as isize,
            start,
            step,
            size,
        )?)])
    }))
}

/// Zeros of `size` along `axis` with x at `start, start + step, ..`.
///
/// # Errors
/// An element would not lie in the axis, or `step` is 0.
pub fn place(x: &Tensor, axis: isize, start: usize, step: usize, size: usize) -> Result<Tensor> {
    let op = "place";
    let axis = shape::axis(op, axis, x.shape())?;
    let len = x.shape()[axis];
    check_range(op, x, size, start, len, step)?;
    let y = profile::call(op, &[x], || match x.device() {
        Device::Cpu => cpu::place(x, axis, start, step, size),
        Device::Cuda(_) => cuda::place(x, axis, start, step, size),
    })?;
    Ok(record(op, &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(slice_step(
            &b.grad,
            axis as isize,
            start,
            len,
            step,
        )?)])
    }))
}

fn check_range(
    op: &'static str,
    x: &Tensor,
    size: usize,
    start: usize,
    len: usize,
    step: usize,
) -> Result<()> {
    let end = match len.checked_sub(1) {
        None => Some(start),
        Some(steps) => steps
            .checked_mul(step)
            .and_then(|d| d.checked_add(start)?.checked_add(1)),
    };
    if step > 0 && end.is_some_and(|e| e <= size) {
        return Ok(());
    }
    let problem = format!("{len} elements from {start} in steps of {step} are not in 0..{size}");
    Err(Error::shape(op, &[x.shape()], problem))
}
