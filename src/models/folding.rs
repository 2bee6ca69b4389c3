//! Networks made ready for inference: batch norms folded into convolutions, whose
//! weights are packed once.

use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::nn::{BatchNorm, Conv2d, Param};
use crate::ops::{self, Activation, PreparedConv};
use crate::tensor::Tensor;

/// Where and in which dtype to compute.
pub type Place<'a> = (&'a Device, DType);

/// Scale, shift, running mean and running variance, each (C).
///
/// # Errors
/// As [`Tensor::full`].
pub fn numbers(norm: &BatchNorm) -> Result<[Tensor; 4]> {
    let (mean, var) = (norm.running_mean.value(), norm.running_var.value());
    let or = |p: &Option<Param>, constant: f64| match p {
        Some(p) => Ok(p.value()),
        None => Tensor::full_on(constant, mean.shape(), DType::F32, &mean.device()),
    };
    Ok([or(&norm.weight, 1.0)?, or(&norm.bias, 0.0)?, mean, var])
}

/// A convolution without bias, the batch norm behind it, if there is one, and an
/// activation in one pass: folded where the parameters are, rounded once, to
/// compute at `place`.
///
/// # Errors
/// As [`PreparedConv::new`].
pub fn folded(
    conv: &Conv2d,
    norm: Option<&BatchNorm>,
    activation: Activation,
    (device, dtype): Place,
) -> Result<PreparedConv> {
    let weight = conv.weight.value();
    let (weight, bias) = match norm {
        Some(norm) => {
            let [gamma, beta, mean, var] = numbers(norm)?;
            let numbers = [&gamma, &beta, &mean, &var];
            let (w, b) = ops::fold_batch_norm(&weight, None, numbers, norm.eps)?;
            (w, Some(b))
        }
        None => (weight, None),
    };
    let there = |t: &Tensor| ops::cast(&t.to(device)?, dtype);
    let bias = bias.as_ref().map(there).transpose()?;
    PreparedConv::new(&there(&weight)?, bias.as_ref(), activation, conv.geometry)
}

/// Pixels of the images that the first layers of a network take at a time: 4 of
/// 224 x 224. Their results, widest of all, then stay in a third-level cache of 32 MiB
/// until the next layer reads them: with 16 at once one of these layers took a tenth
/// longer, the others up to a twentieth.
const PIXELS: usize = 4 * 224 * 224;

/// `f(x)` for an f of single images, x (N, C, H, W): on the CPU of some images after the
/// others.
///
/// # Errors
/// Those of `f`.
pub fn by_few_images(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let &[images, _, height, width] = x.shape() else {
        return f(x);
    };
    let few = (PIXELS / height.saturating_mul(width).max(1)).max(1);
    if images <= few || x.device() != Device::Cpu {
        return f(x);
    }
    let parts = (0..images).step_by(few).map(|first| {
        let some = ops::slice(x, 0, first, few.min(images - first))?;
        f(&some)
    });
    let parts = parts.collect::<Result<Vec<_>>>()?;
    ops::cat(&parts.iter().collect::<Vec<_>>(), 0)
}
