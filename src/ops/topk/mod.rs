//! `topk`: the largest values of an axis. It is made of the order in `ops/sort`
//! and of `gather`, which brings its gradient with it.

use crate::error::{Error, Result};
use crate::ops::sort::first_of_order;
use crate::shape;
use crate::tensor::Tensor;

/// The k largest values along `axis`, largest first, and the index (i64) that
/// each had. Of equal values the one with the lower index comes first; NaN
/// counts as larger than every number.
///
/// # Errors
/// k is over the size of the axis.
pub fn topk(x: &Tensor, k: usize, axis: isize) -> Result<(Tensor, Tensor)> {
    let op = "topk";
    let axis = shape::axis(op, axis, x.shape())?;
    if k > x.shape()[axis] {
        let problem = format!("axis {axis} does not hold {k} values");
        return Err(Error::shape(op, &[x.shape()], problem));
    }
    first_of_order(op, x, axis, k, true)
}
