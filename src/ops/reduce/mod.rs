//! Reductions over any set of axes. Negative axes count from the end.

mod cpu;
mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops;
use crate::profile;
use crate::shape;
use crate::tensor::Tensor;

/// The reduced axes in ascending order and the shape that keeps them as 1.
fn resolve(op: &'static str, x: &Tensor, axes: &[isize]) -> Result<(Vec<usize>, Vec<usize>)> {
    let mut resolved = Vec::with_capacity(axes.len());
    let mut kept = x.shape().to_vec();
    for &a in axes {
        let a = shape::axis(op, a, x.shape())?;
        if resolved.contains(&a) {
            let problem = format!("axis {a} is named twice");
            return Err(Error::shape(op, &[x.shape()], problem));
        }
        resolved.push(a);
        kept[a] = 1;
    }
    resolved.sort_unstable();
    Ok((resolved, kept))
}

/// `shape` without the axes that were reduced.
fn dropped(shape: &[usize], reduced: &[usize]) -> Vec<usize> {
    let kept = shape
        .iter()
        .enumerate()
        .filter(|(i, _)| !reduced.contains(i));
    kept.map(|(_, &d)| d).collect()
}

fn without(y: Tensor, reduced: &[usize], keep_dims: bool) -> Result<Tensor> {
    if keep_dims {
        return Ok(y);
    }
    let shape = dropped(y.shape(), reduced);
    ops::reshape(&y, &shape)
}

/// The sum over `axes`, accumulated in f64 (on CUDA in f32 with
/// compensation). With `keep_dims` the axes stay as 1.
pub fn sum(x: &Tensor, axes: &[isize], keep_dims: bool) -> Result<Tensor> {
    let (reduced, kept) = resolve("sum", x, axes)?;
    let y = profile::call("sum", &[x], || match x.device() {
        Device::Cpu => cpu::sum(x, &reduced, &kept),
        Device::Cuda(_) => cuda::sum(x, &reduced, &kept),
    })?;
    let from = *x.layout().shape();
    let y = record("sum", &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(ops::broadcast_to(&b.grad, &from)?)])
    });
    without(y, &reduced, keep_dims)
}

/// The sum of all elements, as a tensor without axes.
pub fn sum_all(x: &Tensor) -> Result<Tensor> {
    sum(x, &(0..x.rank() as isize).collect::<Vec<_>>(), false)
}

/// The mean over `axes`; NaN over an empty axis.
pub fn mean(x: &Tensor, axes: &[isize], keep_dims: bool) -> Result<Tensor> {
    let total = sum(x, axes, keep_dims)?;
    let count = x.elements().checked_div(total.elements()).unwrap_or(0);
    ops::affine(&total, 1.0 / count as f64, 0.0)
}

/// The variance over `axes` in two passes, divided by n - `correction`
/// (1: unbiased, 0: of the sample).
pub fn var(x: &Tensor, axes: &[isize], correction: usize, keep_dims: bool) -> Result<Tensor> {
    let (reduced, _) = resolve("var", x, axes)?;
    let count: usize = reduced.iter().map(|&i| x.shape()[i]).product();
    let centred = ops::sub(x, &mean(x, axes, true)?)?;
    let squares = sum(&ops::mul(&centred, &centred)?, axes, keep_dims)?;
    ops::affine(&squares, 1.0 / (count as f64 - correction as f64), 0.0)
}

/// x as (kept, reduced), its reduced axes flattened in logical order.
fn as_rows(x: &Tensor, reduced: &[usize]) -> Result<Tensor> {
    let mut order: Vec<usize> = (0..x.rank()).filter(|i| !reduced.contains(i)).collect();
    let rows = order.iter().map(|&i| x.shape()[i]).product();
    order.extend(reduced);
    let columns = reduced.iter().map(|&i| x.shape()[i]).product();
    ops::reshape(&ops::permute(x, &order)?, &[rows, columns])
}

/// The place of the first maximum in the flattened reduced axes (i64); a NaN
/// counts as the maximum. It has no gradient.
///
/// # Errors
/// The reduced axes hold no element.
pub fn argmax(x: &Tensor, axes: &[isize], keep_dims: bool) -> Result<Tensor> {
    let (reduced, kept) = resolve("argmax", x, axes)?;
    let rows = as_rows(&x.detach(), &reduced)?;
    if rows.shape()[1] == 0 {
        let problem = "an empty axis has no maximum";
        return Err(Error::shape("argmax", &[x.shape()], problem));
    }
    let y = profile::call("argmax", &[&rows], || match x.device() {
        Device::Cpu => cpu::argmax(&rows),
        Device::Cuda(_) => cuda::argmax(&rows),
    })?;
    without(ops::reshape(&y, &kept)?, &reduced, keep_dims)
}

/// The maximum over `axes`; the gradient goes to the first maximum.
///
/// # Errors
/// The reduced axes hold no element.
pub fn max(x: &Tensor, axes: &[isize], keep_dims: bool) -> Result<Tensor> {
    let (reduced, kept) = resolve("max", x, axes)?;
    let rows = as_rows(x, &reduced)?;
    let place = argmax(&rows, &[1], true)?;
    let values = ops::gather(&rows, 1, &place)?;
    without(ops::reshape(&values, &kept)?, &reduced, keep_dims)
}
