//! Bilinear resizing, a linear map per axis (see `ops/separable`).

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ops::separable::{Taps, separable};
use crate::tensor::Tensor;

/// Bilinear interpolation of x (N, C, H, W) to (N, C, h, w), with the centres
/// of pixels at half-integers (`align_corners=False` in PyTorch).
///
/// Output o lies at (o + 1/2) H/h - 1/2 of the input. Without `antialias` it is
/// interpolated between its two neighbours, clamped at the edges; with it, a
/// shrinking axis is averaged by a triangle as wide as two output pixels
/// (what Pillow's `BILINEAR` does).
///
/// # Errors
/// Another number of axes, or an empty image on either side.
pub fn resize_bilinear(x: &Tensor, size: [usize; 2], antialias: bool) -> Result<Tensor> {
    let op = "resize_bilinear";
    let &[_, _, h, w] = x.shape() else {
        return Err(Error::shape(op, &[x.shape()], "(N, C, H, W) is needed"));
    };
    if h == 0 || w == 0 || size.contains(&0) {
        let expected = "an image of at least one pixel is needed on both sides";
        return Err(Error::shape(op, &[x.shape(), &size], expected));
    }
    separable(op, x, Arc::new(maps([h, w], size, antialias)))
}

/// The maps of rows and columns of images that are not empty.
pub(super) fn maps(from: [usize; 2], to: [usize; 2], antialias: bool) -> [Taps; 2] {
    let axis = |inputs: usize, outputs: usize| {
        let scale = inputs as f64 / outputs as f64;
        if antialias {
            Taps::new(inputs, outputs, |o| triangle(inputs, scale, o))
        } else {
            Taps::new(inputs, outputs, |o| neighbours(inputs, scale, o))
        }
    };
    [axis(from[0], to[0]), axis(from[1], to[1])]
}

fn neighbours(inputs: usize, scale: f64, output: usize) -> Vec<(usize, f64)> {
    let at = ((output as f64 + 0.5) * scale - 0.5).max(0.0);
    let first = (at as usize).min(inputs - 1);
    let fraction = at - first as f64;
    if fraction == 0.0 || first + 1 == inputs {
        return vec![(first, 1.0)];
    }
    vec![(first, 1.0 - fraction), (first + 1, fraction)]
}

fn triangle(inputs: usize, scale: f64, output: usize) -> Vec<(usize, f64)> {
    let reach = scale.max(1.0);
    let centre = scale * (output as f64 + 0.5);
    let first = (centre - reach + 0.5).max(0.0) as usize;
    let end = ((centre + reach + 0.5) as usize).min(inputs);
    let weight = |i: usize| (1.0 - ((i as f64 - centre + 0.5) / reach).abs()).max(0.0);
    let total: f64 = (first..end).map(weight).sum();
    (first..end)
        .map(|i| (i, weight(i) / total))
        .filter(|(_, w)| *w != 0.0)
        .collect()
}
