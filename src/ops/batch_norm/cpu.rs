//! Two arrangements are fast as they lie: rows of channels (NHWC, (N, C)) and
//! planes of one channel (NCHW, (N, C, L)). Both are `outer x C x inner`, with
//! `inner` 1 for rows. Sums are f64, in blocks that depend on the shape alone.

use super::{Around, EVAL, TRAIN, Trained};
use crate::device::cpu;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::layout::cpu::cast;
use crate::ops::normalise::{parameter, wide};
use crate::ops::pointwise::scalar;
use crate::ops::vector::vectorised;
use crate::shape::Format;
use crate::tensor::Tensor;

pub(super) fn train(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Trained> {
    let dtype = x.dtype();
    let x = arranged(&wide(x)?)?;
    let trained = match x.dtype() {
        DType::F32 => train_of::<f32>(&x, weight, bias, eps)?,
        DType::F64 => train_of::<f64>(&x, weight, bias, eps)?,
        other => return Err(Error::dtype(TRAIN, &[other], "a float is needed")),
    };
    let output = cast(&trained.output, dtype)?;
    Ok(Trained { output, ..trained })
}

pub(super) fn eval(
    x: &Tensor,
    mean: &Tensor,
    scale: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    around: &Around,
) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = arranged(&wide(x)?)?;
    let residual = around.residual.map(wide).transpose()?;
    let around = Around {
        residual: residual.as_ref(),
        ..*around
    };
    let (statistics, parameters) = ([mean, scale], [weight, bias]);
    let y = match x.dtype() {
        DType::F32 => normalised::<f32>(EVAL, &x, statistics, parameters, &around)?,
        DType::F64 => normalised::<f64>(EVAL, &x, statistics, parameters, &around)?,
        other => return Err(Error::dtype(EVAL, &[other], "a float is needed")),
    };
    cast(&y, dtype)
}

/// Gradients of x, weight and bias through the statistics of the batch, in the
/// dtype of the arithmetic.
pub(super) fn backward(
    g: &Tensor,
    x: &Tensor,
    weight: Option<&Tensor>,
    mean: &Tensor,
    scale: &Tensor,
) -> Result<[Tensor; 3]> {
    let x = arranged(&wide(x)?)?;
    let g = wide(g)?.to_format(format_of(&x))?;
    match x.dtype() {
        DType::F64 => backward_of::<f64>(&g, &x, weight, mean, scale),
        _ => backward_of::<f32>(&g, &x, weight, mean, scale),
    }
}

/// x as rows or planes without holes, copied only if it lies otherwise.
fn arranged(x: &Tensor) -> Result<Tensor> {
    let rows = x.rank() == 4 && !x.layout().is_contiguous() && x.layout().strides()[1] == 1;
    x.to_format(if rows {
        Format::ChannelsLast
    } else {
        Format::Contiguous
    })
}

fn format_of(arranged: &Tensor) -> Format {
    if arranged.layout().is_contiguous() {
        Format::Contiguous
    } else {
        Format::ChannelsLast
    }
}

/// `outer x C x inner` of an arranged tensor.
#[derive(Clone, Copy)]
struct Sizes {
    channels: usize,
    inner: usize,
    outer: usize,
}

impl Sizes {
    fn of(arranged: &Tensor) -> Self {
        let channels = arranged.shape()[1];
        let inner = match format_of(arranged) {
            Format::Contiguous => arranged.shape()[2..].iter().product(),
            _ => 1,
        };
        Self {
            channels,
            inner,
            outer: arranged
                .elements()
                .checked_div(channels * inner)
                .unwrap_or(0),
        }
    }

    fn values_per_channel(self) -> f64 {
        (self.outer * self.inner) as f64
    }

    /// Calls `f(first channel, first element, part of out)` for parts of `out`
    /// that are whole rows of all channels, or one plane of one channel.
    fn for_parts<T: Float>(self, out: &mut [T], f: &(dyn Fn(usize, usize, &mut [T]) + Sync)) {
        if self.inner == 1 {
            cpu::for_chunks(out, self.channels, &|start, chunk| f(0, start, chunk));
        } else {
            cpu::for_chunks(out, self.inner, &|start, chunk| {
                for (i, plane) in chunk.chunks_mut(self.inner).enumerate() {
                    let at = start + i * self.inner;
                    f(at / self.inner % self.channels, at, plane);
                }
            });
        }
    }
}

/// Per channel, the sums of `a` and of `a (x - shift)`, where `a` is `g` or,
/// with `OWN`, `x - shift` itself.
fn sums<T: Float, const OWN: bool>(g: &[T], x: &[T], sizes: Sizes, shift: &[f64]) -> [Vec<f64>; 2] {
    let Sizes {
        channels,
        inner,
        outer,
    } = sizes;
    if inner == 1 {
        let rows = outer.div_ceil(64).max(cpu::GRAIN / channels.max(1)).max(1);
        let blocks = outer.div_ceil(rows);
        let mut parts = [vec![0.0; blocks * channels], vec![0.0; blocks * channels]];
        let [plain, product] = &mut parts;
        cpu::for_chunk_pairs(
            (plain, channels),
            (product, channels),
            &|i, plain, product| {
                let first = i * rows * channels;
                let part = first..(first + rows * channels).min(x.len());
                add_rows::<T, OWN>(&g[part.clone()], &x[part], shift, plain, product);
            },
        );
        return parts.map(|parts| {
            let mut total = vec![0.0; channels];
            for part in parts.chunks_exact(channels) {
                total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
            }
            total
        });
    }
    let mut totals = [vec![0.0; channels], vec![0.0; channels]];
    let [plain, product] = &mut totals;
    let group = (cpu::GRAIN / (outer * inner).max(1)).max(1);
    cpu::for_chunk_pairs((plain, group), (product, group), &|i, plain, product| {
        for (j, (plain, product)) in plain.iter_mut().zip(product).enumerate() {
            let channel = i * group + j;
            for n in 0..outer {
                let at = (n * channels + channel) * inner;
                let (g, x) = (&g[at..at + inner], &x[at..at + inner]);
                add_plane::<T, OWN>(g, x, shift[channel], plain, product);
            }
        }
    });
    totals
}

vectorised! {
    fn add_rows<T: Float, const OWN: bool>(
        g: &[T],
        x: &[T],
        shift: &[f64],
        plain: &mut [f64],
        product: &mut [f64],
    ) {
        let channels = shift.len();
        for (g, x) in g.chunks_exact(channels).zip(x.chunks_exact(channels)) {
            let sums = plain.iter_mut().zip(product.iter_mut());
            for (((g, x), shift), (plain, product)) in g.iter().zip(x).zip(shift).zip(sums) {
                let u = x.to_f64() - shift;
                let a = if OWN { u } else { g.to_f64() };
                *plain += a;
                *product += a * u;
            }
        }
    }
}

vectorised! {
    fn add_plane<T: Float, const OWN: bool>(
        g: &[T],
        x: &[T],
        shift: f64,
        plain: &mut f64,
        product: &mut f64,
    ) {
        const LANES: usize = 8;
        let mut lanes = [[0.0; LANES]; 2];
        let [ones, products] = &mut lanes;
        let (g, x) = (g.chunks(LANES), x.chunks(LANES));
        for (g, x) in g.zip(x) {
            let sums = ones.iter_mut().zip(products.iter_mut());
            for ((g, x), (plain, product)) in g.iter().zip(x).zip(sums) {
                let u = x.to_f64() - shift;
                let a = if OWN { u } else { g.to_f64() };
                *plain += a;
                *product += a * u;
            }
        }
        *plain += ones.iter().sum::<f64>();
        *product += products.iter().sum::<f64>();
    }
}

fn per_channel<T: Float>(values: impl Iterator<Item = f64>, channels: usize) -> Result<Tensor> {
    let values: Vec<T> = values.map(T::from_f64).collect();
    Tensor::from_slice(&values, &[channels])
}

fn train_of<T: Float>(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Trained> {
    let sizes = Sizes::of(x);
    let xs = x.dense_slice::<T>(TRAIN)?;
    let n = sizes.values_per_channel();
    // Around a value of the channel, so that a large mean does not cancel the
    // variance away.
    let shift: Vec<f64> = (0..sizes.channels)
        .map(|c| xs[c * sizes.inner].to_f64())
        .collect();
    let [plain, squares] = sums::<T, true>(xs, xs, sizes, &shift);
    let means = shift.iter().zip(&plain).map(|(shift, s)| shift + s / n);
    let scatter: Vec<f64> = squares
        .iter()
        .zip(&plain)
        .map(|(q, s)| {
            let scatter = q - s * s / n;
            // Not `max`, which would turn NaN into 0.
            if scatter < 0.0 { 0.0 } else { scatter }
        })
        .collect();
    let c = sizes.channels;
    let mean = per_channel::<T>(means, c)?;
    let scales = scatter.iter().map(|s| 1.0 / (s / n + eps).sqrt());
    let scale = per_channel::<T>(scales, c)?;
    let around = Around::default();
    Ok(Trained {
        output: normalised::<T>(TRAIN, x, [&mean, &scale], [weight, bias], &around)?,
        var: per_channel::<T>(scatter.iter().map(|s| s / (n - 1.0)), c)?,
        mean,
        scale,
    })
}

/// Elements that stay in the first-level cache while several things are done to them.
const BLOCK: usize = 2048;

/// (f(x) - mean) scale w + b + residual.
fn normalised<T: Float>(
    op: &'static str,
    x: &Tensor,
    [mean, scale]: [&Tensor; 2],
    [weight, bias]: [Option<&Tensor>; 2],
    around: &Around,
) -> Result<Tensor> {
    let sizes = Sizes::of(x);
    let c = sizes.channels;
    let xs = x.dense_slice::<T>(op)?;
    let residual = around.residual.map(|r| r.to_format(format_of(x)));
    let residual = residual.transpose()?;
    let residual = residual.as_ref().map(|r| r.dense_slice::<T>(op));
    let residual = residual.transpose()?;
    let mean = parameter(op, Some(mean), c, T::ZERO)?;
    let mut scale = parameter(op, Some(scale), c, T::ONE)?;
    let weight = parameter(op, weight, c, T::ONE)?;
    scale
        .iter_mut()
        .zip(&weight)
        .for_each(|(s, &w)| *s = *s * w);
    let bias = parameter(op, bias, c, T::ZERO)?;
    let block = match sizes.inner {
        1 => c * (BLOCK / c.max(1)).max(1),
        _ => BLOCK,
    };
    Ok(Tensor::build_unwritten(
        x.layout().packed(),
        |out: &mut [T]| {
            sizes.for_parts(out, &|first, start, out| {
                let mut activated = Vec::new();
                for (i, out) in out.chunks_mut(block).enumerate() {
                    let at = start + i * block;
                    let mut x = &xs[at..at + out.len()];
                    if let Some(f) = around.activation.function() {
                        activated.clear();
                        activated.extend_from_slice(x);
                        scalar::apply_in_place(f, &mut activated);
                        x = &activated;
                    }
                    if sizes.inner == 1 {
                        normalise_rows(x, &mean, &scale, &bias, out);
                    } else {
                        normalise_plane(x, mean[first], scale[first], bias[first], out);
                    }
                    if let Some(residual) = residual {
                        add_to(out, &residual[at..at + out.len()]);
                    }
                }
            });
        },
    ))
}

vectorised! {
    fn normalise_rows<T: Float>(x: &[T], mean: &[T], scale: &[T], bias: &[T], out: &mut [T]) {
        let channels = mean.len();
        for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            let channel = mean.iter().zip(scale).zip(bias);
            for ((o, &x), ((&mean, &scale), &bias)) in out.iter_mut().zip(x).zip(channel) {
                *o = (x - mean) * scale + bias;
            }
        }
    }
}

vectorised! {
    fn normalise_plane<T: Float>(x: &[T], mean: T, scale: T, bias: T, out: &mut [T]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = (x - mean) * scale + bias;
        }
    }
}

vectorised! {
    fn add_to<T: Float>(values: &mut [T], more: &[T]) {
        for (v, &more) in values.iter_mut().zip(more) {
            *v += more;
        }
    }
}

/// dx = (g - mean(g) - n mean(g n)) scale w with n = (x - mean) scale.
fn backward_of<T: Float>(
    g: &Tensor,
    x: &Tensor,
    weight: Option<&Tensor>,
    mean: &Tensor,
    scale: &Tensor,
) -> Result<[Tensor; 3]> {
    let sizes = Sizes::of(x);
    let c = sizes.channels;
    let (gs, xs) = (g.dense_slice::<T>(TRAIN)?, x.dense_slice::<T>(TRAIN)?);
    let mean = parameter(TRAIN, Some(mean), c, T::ZERO)?;
    let scale = parameter(TRAIN, Some(scale), c, T::ONE)?;
    let weight = parameter(TRAIN, weight, c, T::ONE)?;
    let shift: Vec<f64> = mean.iter().map(|m| m.to_f64()).collect();
    let [db, along] = sums::<T, false>(gs, xs, sizes, &shift);
    let n = sizes.values_per_channel();
    let dw = || along.iter().zip(&scale).map(|(a, s)| a * s.to_f64());
    // Per channel: dx = (g - plain - (x - mean) slope) factor.
    let plain: Vec<T> = db.iter().map(|s| T::from_f64(s / n)).collect();
    let slope = dw()
        .zip(&scale)
        .map(|(s, k)| T::from_f64(s * k.to_f64() / n));
    let slope: Vec<T> = slope.collect();
    let factor: Vec<T> = scale.iter().zip(&weight).map(|(&s, &w)| s * w).collect();
    let dx = Tensor::build_unwritten(x.layout().packed(), |dx: &mut [T]| {
        sizes.for_parts(dx, &|i, at, dx| {
            let (g, x) = (&gs[at..at + dx.len()], &xs[at..at + dx.len()]);
            if sizes.inner == 1 {
                gradient_rows(g, x, &mean, &plain, &slope, &factor, dx);
            } else {
                gradient_plane(g, x, mean[i], plain[i], slope[i], factor[i], dx);
            }
        });
    });
    let dw = per_channel::<T>(dw(), c)?;
    Ok([dx, dw, per_channel::<T>(db.into_iter(), c)?])
}

vectorised! {
    fn gradient_rows<T: Float>(
        g: &[T],
        x: &[T],
        mean: &[T],
        plain: &[T],
        slope: &[T],
        factor: &[T],
        dx: &mut [T],
    ) {
        let channels = mean.len();
        let rows = g.chunks_exact(channels).zip(x.chunks_exact(channels));
        for ((g, x), dx) in rows.zip(dx.chunks_exact_mut(channels)) {
            let values = dx.iter_mut().zip(g).zip(x);
            let channel = mean.iter().zip(plain).zip(slope).zip(factor);
            for (((dx, &g), &x), (((&mean, &plain), &slope), &factor)) in values.zip(channel) {
                *dx = (g - plain - (x - mean) * slope) * factor;
            }
        }
    }
}

vectorised! {
    fn gradient_plane<T: Float>(
        g: &[T],
        x: &[T],
        mean: T,
        plain: T,
        slope: T,
        factor: T,
        dx: &mut [T],
    ) {
        for ((dx, &g), &x) in dx.iter_mut().zip(g).zip(x) {
            *dx = (g - plain - (x - mean) * slope) * factor;
        }
    }
}
