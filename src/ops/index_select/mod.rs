//! `index_select` and its transpose, `index_add`.

mod cpu;
mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::profile;
use crate::shape;
use crate::tensor::Tensor;

/// The slices of x along `axis` that `index` (i64, one axis) names, in its
/// order; repeats are allowed.
///
/// # Errors
/// An index of another kind, or outside the axis.
pub fn index_select(x: &Tensor, axis: isize, index: &Tensor) -> Result<Tensor> {
    let op = "index_select";
    let axis = shape::axis(op, axis, x.shape())?;
    check_index(op, index)?;
    let y = profile::call(op, &[x, index], || match x.device() {
        Device::Cpu => cpu::index_select(x, axis, index),
        Device::Cuda(_) => cuda::index_select(x, axis, index),
    })?;
    let (index, size) = (index.detach(), x.shape()[axis]);
    Ok(record(op, &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(index_add(&b.grad, axis as isize, &index, size)?)])
    }))
}

/// Zeros of `size` along `axis`, to which slice i of x is added at `index[i]`;
/// slices for one place are added in ascending order of i.
///
/// # Errors
/// An index of another kind or length than the axis of x, or not below `size`.
pub fn index_add(x: &Tensor, axis: isize, index: &Tensor, size: usize) -> Result<Tensor> {
    let op = "index_add";
    let axis = shape::axis(op, axis, x.shape())?;
    check_index(op, index)?;
    if index.elements() != x.shape()[axis] {
        let expected = format!("one index per element of axis {axis} is needed");
        return Err(Error::shape(op, &[x.shape(), index.shape()], expected));
    }
    let y = profile::call(op, &[x, index], || match x.device() {
        Device::Cpu => cpu::index_add(x, axis, index, size),
        Device::Cuda(_) => cuda::index_add(x, axis, index, size),
    })?;
    let index = index.detach();
    Ok(record(op, &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(index_select(&b.grad, axis as isize, &index)?)])
    }))
}

fn check_index(op: &'static str, index: &Tensor) -> Result<()> {
    if index.dtype() != DType::I64 {
        return Err(Error::dtype(op, &[index.dtype()], "the index must be i64"));
    }
    if index.rank() != 1 {
        let expected = "the index must have one axis";
        return Err(Error::shape(op, &[index.shape()], expected));
    }
    Ok(())
}
