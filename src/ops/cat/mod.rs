//! `cat`: tensors one after the other.

mod cpu;
pub(super) mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops;
use crate::profile;
use crate::shape::{self, Shape};
use crate::tensor::Tensor;

/// The tensors joined along `axis`; each gets its part of the gradient. The
/// result is channels-last if the first one is.
///
/// # Errors
/// No tensor, dtypes that differ, or sizes that differ on another axis.
pub fn cat(tensors: &[&Tensor], axis: isize) -> Result<Tensor> {
    let op = "cat";
    let Some(first) = tensors.first() else {
        return Err(Error::op(op, "at least one tensor is needed"));
    };
    let axis = shape::axis(op, axis, first.shape())?;
    let shapes: Vec<&[usize]> = tensors.iter().map(|t| t.shape()).collect();
    let alike = |s: &[usize]| {
        s.len() == first.rank() && (0..s.len()).all(|i| i == axis || s[i] == first.shape()[i])
    };
    if !shapes.iter().all(|s| alike(s)) {
        let expected = format!("they must agree on every axis but {axis}");
        return Err(Error::shape(op, &shapes, expected));
    }
    if tensors.iter().any(|t| t.dtype() != first.dtype()) {
        let dtypes: Vec<_> = tensors.iter().map(|t| t.dtype()).collect();
        return Err(Error::dtype(op, &dtypes, "all must be the same"));
    }
    let sizes: Vec<usize> = shapes.iter().map(|s| s[axis]).collect();
    let total = sizes.iter().try_fold(0usize, |n, &s| n.checked_add(s));
    let mut dims = first.shape().to_vec();
    dims[axis] = total.unwrap_or(usize::MAX);
    let shape = Shape::new(&dims)?;
    let y = profile::call(op, tensors, || match first.device() {
        Device::Cpu => cpu::cat(tensors, axis, shape),
        Device::Cuda(_) => cuda::cat(tensors, axis, shape),
    })?;
    Ok(record(op, tensors, y, Save::NONE, move |b| {
        let mut start = 0;
        let mut parts = Vec::with_capacity(sizes.len());
        for (i, &size) in sizes.iter().enumerate() {
            let part = || ops::slice(&b.grad, axis as isize, start, size);
            parts.push(b.when(i, part)?);
            start += size;
        }
        Ok(parts)
    }))
}
