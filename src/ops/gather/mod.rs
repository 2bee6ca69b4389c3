//! `gather` and its transpose, `scatter_add`.

mod cpu;
mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::profile;
use crate::shape;
use crate::tensor::Tensor;

/// `y[.., i, ..] = x[.., index[.., i, ..], ..]` along `axis`.
///
/// `index` is i64 with the shape of x on every other axis.
///
/// # Errors
/// Shapes that differ elsewhere, or an index outside the axis.
pub fn gather(x: &Tensor, axis: isize, index: &Tensor) -> Result<Tensor> {
    let axis = checked_axis("gather", x.shape(), axis, index)?;
    let y = profile::call("gather", &[x, index], || match x.device() {
        Device::Cpu => cpu::gather(x, axis, index),
        Device::Cuda(_) => cuda::gather(x, axis, index),
    })?;
    let (index, size) = (index.detach(), x.shape()[axis]);
    Ok(record("gather", &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(scatter_add(
            &b.grad,
            axis as isize,
            &index,
            size,
        )?)])
    }))
}

/// Zeros of `size` along `axis`, to which every element of x is added at the
/// place that `index` names; elements for one place are added in ascending
/// order of their own place.
///
/// # Errors
/// `index` has another shape than x, or an index is not below `size`.
pub fn scatter_add(x: &Tensor, axis: isize, index: &Tensor, size: usize) -> Result<Tensor> {
    let axis = checked_axis("scatter_add", x.shape(), axis, index)?;
    if index.shape() != x.shape() {
        let shapes = [x.shape(), index.shape()];
        return Err(Error::shape(
            "scatter_add",
            &shapes,
            "x and index must agree",
        ));
    }
    let y = profile::call("scatter_add", &[x, index], || match x.device() {
        Device::Cpu => cpu::scatter_add(x, axis, index, size),
        Device::Cuda(_) => cuda::scatter_add(x, axis, index, size),
    })?;
    let index = index.detach();
    Ok(record("scatter_add", &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(gather(&b.grad, axis as isize, &index)?)])
    }))
}

fn checked_axis(op: &'static str, of: &[usize], axis: isize, index: &Tensor) -> Result<usize> {
    if index.dtype() != DType::I64 {
        return Err(Error::dtype(op, &[index.dtype()], "the index must be i64"));
    }
    let axis = shape::axis(op, axis, of)?;
    let same_elsewhere =
        index.rank() == of.len() && (0..of.len()).all(|i| i == axis || index.shape()[i] == of[i]);
    if !same_elsewhere {
        let expected = format!("they must agree on every axis but {axis}");
        return Err(Error::shape(op, &[of, index.shape()], expected));
    }
    Ok(axis)
}
