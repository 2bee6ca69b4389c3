//! Padding of the last two axes; both kinds are linear maps per axis (see
//! `ops/separable`) and are differentiable any number of times.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ops::separable::{Taps, separable};
use crate::tensor::Tensor;

/// The last two axes of x.
fn last_two(op: &'static str, x: &Tensor) -> Result<[usize; 2]> {
    match x.shape() {
        [.., h, w] => Ok([*h, *w]),
        _ => {
            let expected = "at least two axes are needed";
            Err(Error::shape(op, &[x.shape()], expected))
        }
    }
}

/// `size` with `before` and `after` added.
fn padded(op: &'static str, x: &Tensor, size: usize, [a, b]: [usize; 2]) -> Result<usize> {
    let total = size.checked_add(a).and_then(|s| s.checked_add(b));
    total.ok_or_else(|| {
        let problem = format!("padding by {a} and {b} gives more than memory can address");
        Error::shape(op, &[x.shape()], problem)
    })
}

/// Zeros around the last two axes: x (.., H, W) with padding
/// `[left, right, top, bottom]` -> (.., top + H + bottom, left + W + right).
///
/// # Errors
/// Fewer than two axes.
pub fn pad_zero(x: &Tensor, [left, right, top, bottom]: [usize; 4]) -> Result<Tensor> {
    let op = "pad_zero";
    let [h, w] = last_two(op, x)?;
    let axis = |size: usize, before: usize, after: usize| -> Result<Taps> {
        let total = padded(op, x, size, [before, after])?;
        Ok(Taps::new(size, total, |o| {
            let inside = o.checked_sub(before).filter(|&i| i < size);
            inside.map(|i| (i, 1.0))
        }))
    };
    separable(
        op,
        x,
        Arc::new([axis(h, top, bottom)?, axis(w, left, right)?]),
    )
}

/// The last two axes continued by their mirror image, the edge itself not
/// repeated: x (.., H, W) with padding `[left, right, top, bottom]` ->
/// (.., top + H + bottom, left + W + right).
///
/// # Errors
/// Fewer than two axes, or a padding that is not below the size of its axis.
pub fn pad_reflect(x: &Tensor, [left, right, top, bottom]: [usize; 4]) -> Result<Tensor> {
    let op = "pad_reflect";
    let [h, w] = last_two(op, x)?;
    let axis = |size: usize, before: usize, after: usize| -> Result<Taps> {
        if before.max(after) >= size.max(1) {
            let problem = format!("an axis of {size} cannot be reflected by {before} and {after}");
            return Err(Error::shape(op, &[x.shape()], problem));
        }
        let total = padded(op, x, size, [before, after])?;
        Ok(Taps::new(size, total, |o| {
            let i = o.abs_diff(before);
            let mirrored = if o >= before && i >= size {
                2 * (size - 1) - i
            } else {
                i
            };
            [(mirrored, 1.0)]
        }))
    };
    separable(
        op,
        x,
        Arc::new([axis(h, top, bottom)?, axis(w, left, right)?]),
    )
}
