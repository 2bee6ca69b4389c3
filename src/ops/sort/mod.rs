//! `sort`, and the order of a row that `topk` shares with it.
//!
//! The order is total: NaN counts as larger than every number (as in PyTorch),
//! -0 equals 0, and of equal values the one with the lower index comes first,
//! in either direction. So results never depend on an algorithm's choices.

mod cpu;
mod cuda;

use crate::device::Device;
use crate::error::Result;
use crate::ops;
use crate::profile;
use crate::shape;
use crate::tensor::Tensor;

/// The values along `axis` in ascending or descending order, and the index
/// (i64) that each had. Stable; the gradient goes back to where the values were.
///
/// NaN counts as larger than every number: last when ascending, first when
/// descending.
pub fn sort(x: &Tensor, axis: isize, descending: bool) -> Result<(Tensor, Tensor)> {
    let axis = shape::axis("sort", axis, x.shape())?;
    first_of_order("sort", x, axis, x.shape()[axis], descending)
}

/// The first `count` values along `axis` in order, and their index.
pub(super) fn first_of_order(
    op: &'static str,
    x: &Tensor,
    axis: usize,
    count: usize,
    descending: bool,
) -> Result<(Tensor, Tensor)> {
    // Moving the axis to the end and back again is the same exchange.
    let exchange = |t: &Tensor| ops::transpose(t, axis as isize, -1);
    let rows = exchange(&x.detach())?;
    let index = profile::call(op, &[&rows], || match x.device() {
        Device::Cpu => cpu::order(op, &rows, count, descending),
        Device::Cuda(_) => cuda::order(op, &rows, count, descending),
    })?;
    let index = exchange(&index)?;
    Ok((ops::gather(x, axis as isize, &index)?, index))
}
