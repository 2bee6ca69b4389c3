//! Pooling of images (N, C, H, W), in PyTorch's geometry with `ceil_mode`
//! false: an output of (size + 2 padding - kernel) / stride + 1, rounded down.
//!
//! Averages are linear maps per axis (see `ops/separable`), but for that of DenseNet's
//! transitions in inference, which reads its batch norm and ReLU with it. The maximum keeps
//! the place of each window's first maximum in its plane; its gradient puts
//! values at those places, and the gradient of that picks them again, so that
//! the two close over each other.

mod cpu;
mod cuda;

use std::sync::Arc;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::conv_bn_act::{of_channels, refuse_recorded};
use crate::ops::separable::{Taps, separable};
use crate::profile;
use crate::tensor::Tensor;

const ACTIVATED: &str = "activated_avg_pool2d";

/// The windows of a pooling, each pair as (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
}

/// The windows along one axis.
#[derive(Clone, Copy)]
struct Windows {
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Windows {
    /// The inputs that window `o` covers, without the padding.
    fn range(self, o: usize) -> std::ops::Range<usize> {
        let start = o * self.stride;
        let end = (start + self.kernel - self.padding).min(self.inputs);
        start.saturating_sub(self.padding)..end
    }
}

impl Pool {
    /// Square windows.
    pub const fn square(kernel: usize, stride: usize, padding: usize) -> Self {
        Self {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 2],
        }
    }

    fn windows(&self, op: &'static str, x: &Tensor) -> Result<[Windows; 2]> {
        let &[_, _, h, w] = x.shape() else {
            return Err(Error::shape(op, &[x.shape()], "(N, C, H, W) is needed"));
        };
        let axis = |i: usize, inputs: usize| {
            let (kernel, stride, padding) = (self.kernel[i], self.stride[i], self.padding[i]);
            let refuse = |problem| Err(Error::shape(op, &[x.shape()], problem));
            if kernel == 0 || stride == 0 {
                return refuse("kernel and stride must be at least 1".to_owned());
            }
            if padding > kernel / 2 {
                return refuse(format!("padding {padding} is over half of kernel {kernel}"));
            }
            let padded = inputs.checked_add(2 * padding).filter(|_| inputs > 0);
            let Some(spare) = padded.and_then(|p| p.checked_sub(kernel)) else {
                let given = format!("{inputs} padded by {padding} on both sides");
                return refuse(format!("kernel {kernel} does not fit into {given}"));
            };
            Ok(Windows {
                inputs,
                outputs: spare / stride + 1,
                kernel,
                stride,
                padding,
            })
        };
        Ok([axis(0, h)?, axis(1, w)?])
    }
}

/// The maximum of each window; padding is never the maximum. The gradient goes
/// to the first maximum in row-major order. A NaN in the window is its maximum.
///
/// # Errors
/// A geometry that does not fit.
pub fn max_pool2d(x: &Tensor, pool: Pool) -> Result<Tensor> {
    let windows = pool.windows("max_pool2d", x)?;
    if !x.is_recorded() {
        return profile::call("max_pool2d", &[x], || match x.device() {
            Device::Cpu => cpu::max(x, windows),
            Device::Cuda(_) => cuda::max(x, windows),
        });
    }
    let places = profile::call("max_pool2d", &[x], || match x.device() {
        Device::Cpu => cpu::first_maximum(x, windows),
        Device::Cuda(_) => cuda::first_maximum(x, windows),
    })?;
    pick(x, &places, windows)
}

/// The values of x (N, C, H, W) at the flat places (N, C, h, w) in their planes,
/// each of which is in its window.
fn pick(x: &Tensor, places: &Tensor, windows: [Windows; 2]) -> Result<Tensor> {
    let y = profile::call("max_pool2d", &[places], || match x.device() {
        Device::Cpu => cpu::pick(x, places),
        Device::Cuda(_) => cuda::pick(x, places, windows),
    })?;
    let places = places.clone();
    Ok(record("max_pool2d", &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(put(&b.grad, &places, windows)?)])
    }))
}

/// The transpose of [`pick`]: planes with the values of y added at their places.
fn put(y: &Tensor, places: &Tensor, windows: [Windows; 2]) -> Result<Tensor> {
    let x = profile::call("max_pool2d", &[y, places], || match y.device() {
        Device::Cpu => cpu::put(y, places, windows.map(|w| w.inputs)),
        Device::Cuda(_) => cuda::put(y, places, windows),
    })?;
    let places = places.clone();
    Ok(record("max_pool2d", &[y], x, Save::NONE, move |b| {
        Ok(vec![Some(pick(&b.grad, &places, windows)?)])
    }))
}

/// The mean of each window. With `count_include_pad` the padding counts as
/// zeros; without, the mean is over the pixels inside the image.
///
/// # Errors
/// A geometry that does not fit.
pub fn avg_pool2d(x: &Tensor, pool: Pool, count_include_pad: bool) -> Result<Tensor> {
    let op = "avg_pool2d";
    let maps = pool.windows(op, x)?.map(|axis| {
        Taps::new(axis.inputs, axis.outputs, |o| {
            let range = axis.range(o);
            let count = if count_include_pad {
                axis.kernel
            } else {
                range.len()
            };
            range.map(move |i| (i, 1.0 / count as f64))
        })
    });
    separable(op, x, Arc::new(maps))
}

/// The mean over each window of relu(scale x + shift): a batch norm, its ReLU and an
/// [`avg_pool2d`], in one pass for inference. x (N, C, H, W) of any float; scale and shift
/// (C), of x's dtype, or of f32 for an x of bf16 or f16; the result, channels-last, in `to`, which is x's
/// dtype or f32.
///
/// # Errors
/// A recorded tensor, a geometry that does not fit or has padding, other dtypes.
pub fn activated_avg_pool2d(
    x: &Tensor,
    numbers: [&Tensor; 2],
    pool: Pool,
    to: DType,
) -> Result<Tensor> {
    let op = ACTIVATED;
    let windows = pool.windows(op, x)?;
    if pool.padding != [0, 0] {
        return Err(Error::shape(op, &[x.shape()], "no padding is possible"));
    }
    let dtypes = [x.dtype(), to];
    if !x.dtype().is_float() || !(to == x.dtype() || to == DType::F32) {
        return Err(Error::dtype(
            op,
            &dtypes,
            "floats, and a result of x's or f32",
        ));
    }
    refuse_recorded(op, &[x])?;
    let [scale, shift] = of_channels(op, x, numbers)?;
    profile::call(op, &[x, &scale, &shift], || match x.device() {
        Device::Cpu => cpu::activated_mean(x, [&scale, &shift], windows, to),
        Device::Cuda(_) => cuda::activated_mean(x, [&scale, &shift], windows, to),
    })
}

/// The means of x (N, C, H, W) over h x w bins, of which bin i along an axis of
/// n covers floor(i n / h) to ceil((i + 1) n / h): bins overlap where sizes do
/// not divide, and repeat where the output is larger.
///
/// # Errors
/// Another number of axes, or an empty image on either side.
pub fn adaptive_avg_pool2d(x: &Tensor, size: [usize; 2]) -> Result<Tensor> {
    let op = "adaptive_avg_pool2d";
    let &[_, _, h, w] = x.shape() else {
        return Err(Error::shape(op, &[x.shape()], "(N, C, H, W) is needed"));
    };
    if h == 0 || w == 0 || size.contains(&0) {
        let expected = "an image of at least one pixel is needed on both sides";
        return Err(Error::shape(op, &[x.shape(), &size], expected));
    }
    let axis = |n: usize, outputs: usize| {
        Taps::new(n, outputs, |o| {
            // In u128, so that no product of sizes overflows.
            let bound = |i: usize| i as u128 * n as u128;
            let start = (bound(o) / outputs as u128) as usize;
            let end = bound(o + 1).div_ceil(outputs as u128) as usize;
            (start..end).map(move |i| (i, 1.0 / (end - start) as f64))
        })
    };
    separable(op, x, Arc::new([axis(h, size[0]), axis(w, size[1])]))
}
