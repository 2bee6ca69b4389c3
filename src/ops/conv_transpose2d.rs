//! Transposed convolution: the input gradient of a convolution as a layer of
//! its own, with a bias.

use crate::error::{Error, Result};
use crate::ops::{self, Conv2d};
use crate::tensor::Tensor;

/// The geometry of the convolution whose transpose is meant; pairs are
/// (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvTranspose2d {
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    /// Pixels added below and to the right of the result, which the convolution
    /// would not tell from a smaller image; below the stride.
    pub output_padding: [usize; 2],
    pub dilation: [usize; 2],
    pub groups: usize,
}

impl Default for ConvTranspose2d {
    fn default() -> Self {
        Self {
            stride: [1, 1],
            padding: [0, 0],
            output_padding: [0, 0],
            dilation: [1, 1],
            groups: 1,
        }
    }
}

impl ConvTranspose2d {
    fn convolution(&self) -> Conv2d {
        Conv2d {
            stride: self.stride,
            padding: self.padding,
            dilation: self.dilation,
            groups: self.groups,
        }
    }

    /// (size - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1.
    fn output(&self, axis: usize, size: usize, kernel: usize) -> Option<usize> {
        let reach = kernel.checked_sub(1)?.checked_mul(self.dilation[axis])?;
        size.checked_sub(1)?
            .checked_mul(self.stride[axis])?
            .checked_add(reach)?
            .checked_add(self.output_padding[axis])?
            .checked_add(1)?
            .checked_sub(self.padding[axis].checked_mul(2)?)
            .filter(|&d| d > 0 && self.output_padding[axis] < self.stride[axis])
    }
}

/// x (N, C_in, H, W), w (C_in, C_out/groups, R, S), bias (C_out) ->
/// (N, C_out, H', W') with H' = (H - 1) stride - 2 padding + dilation (R - 1) +
/// output_padding + 1.
///
/// # Errors
/// Shapes that do not fit each other or the geometry, or an output padding that
/// is not below the stride.
pub fn conv_transpose2d(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    geometry: ConvTranspose2d,
) -> Result<Tensor> {
    let mut given = vec![x.shape(), w.shape()];
    given.extend(bias.map(Tensor::shape));
    let refuse = |why: &str| {
        let expected = format!("{why} ({geometry:?})");
        Err(Error::shape("conv_transpose2d", &given, expected))
    };
    let (&[_, c_in, h, width], &[k, per_group, r, s]) = (x.shape(), w.shape()) else {
        return refuse("x (N, C_in, H, W), w (C_in, C_out/groups, R, S)");
    };
    if c_in != k {
        return refuse("x and w must agree on C_in");
    }
    let out = per_group.checked_mul(geometry.groups);
    if bias.is_some_and(|b| b.rank() != 1 || Some(b.elements()) != out) {
        return refuse("a bias has shape (C_out)");
    }
    let sizes = geometry.output(0, h, r).zip(geometry.output(1, width, s));
    let Some((height, width)) = sizes else {
        return refuse("no output: too much padding, or output padding not below the stride");
    };
    let y = ops::conv2d_input_gradient(x, w, [height, width], geometry.convolution())?;
    match bias {
        Some(b) => ops::add(&y, &ops::reshape(b, &[1, b.elements(), 1, 1])?),
        None => Ok(y),
    }
}
