//! Convolutions whose groups have one input channel: element-wise products,
//! vectorised over the channels.
//!
//! A group with several outputs is brought to one output per channel by
//! repeating its input channel.

use rayon::prelude::*;

use super::epilogue::Epilogue;
use super::map::Map;
use crate::device::cpu;
use crate::dtype::Float;
use crate::error::Result;
use crate::ops::conv2d::Sizes;
use crate::tensor::Tensor;

/// Channels that are summed in registers at a time.
const LANES: usize = 32;

/// Partial sums of the weight gradient: enough for any pool, and so few that
/// joining them costs little.
const PARTS: usize = 16;

/// w (K, 1, R, S) as (R S, K).
pub fn weights<T: Float>(w: &Tensor, sizes: &Sizes) -> Result<Vec<T>> {
    let from = w.elements_of::<T>("conv2d")?;
    let (offset, strides) = (w.layout().offset(), w.layout().strides());
    let [k, _, r, s] = sizes.w_shape();
    let mut out = Vec::with_capacity(r * s * k);
    for tap in 0..r * s {
        let at = offset + tap / s * strides[2] + tap % s * strides[3];
        out.extend((0..k).map(|i| from[at + i * strides[0]]));
    }
    Ok(out)
}

/// Each value of `x` `times` times.
pub fn repeated<T: Float>(x: &[T], times: usize) -> Vec<T> {
    let mut out = vec![T::ZERO; x.len() * times];
    cpu::for_chunks(&mut out, times, &|start, chunk| {
        let from = &x[start / times..];
        for (values, &v) in chunk.chunks_mut(times).zip(from) {
            values.fill(v);
        }
    });
    out
}

/// The transpose of [`repeated`]: sums of `times` neighbours.
pub fn joined<T: Float>(x: &[T], times: usize, out: &mut [T]) {
    cpu::for_chunks(out, 1, &|start, chunk| {
        let from = x[start * times..].chunks(times);
        for (o, values) in chunk.iter_mut().zip(from) {
            *o = values.iter().copied().sum();
        }
    });
}

/// `out` (N, H, W, K) = epilogue of the taps of `x` (N, H', W', K) times `weights`.
pub fn run<T: Float>(x: &[T], map: &Map, weights: &[T], epilogue: &Epilogue<T>, out: &mut [T]) {
    let k = weights.len() / (map.kernel[0] * map.kernel[1]);
    cpu::for_chunks(out, k, &|start, chunk| {
        let mut taps = Vec::with_capacity(map.kernel[0] * map.kernel[1]);
        for (i, row) in chunk.chunks_mut(k).enumerate() {
            reads(map, start / k + i, k, &mut taps);
            pixel(x, &taps, weights, epilogue.bias, row);
        }
        epilogue.finish(start, chunk);
    });
}

/// For each tap of a pixel that is not in the padding: where its weights and
/// its source begin.
fn reads(map: &Map, pixel: usize, channels: usize, taps: &mut Vec<(usize, usize)>) {
    let [image, row, column] = map.place(pixel);
    taps.clear();
    for r in 0..map.kernel[0] {
        let Some(i) = map.along(0, row, r) else {
            continue;
        };
        for s in 0..map.kernel[1] {
            if let Some(j) = map.along(1, column, s) {
                let tap = r * map.kernel[1] + s;
                let source = map.source_pixel(image, i, j);
                taps.push((tap * channels, source * channels));
            }
        }
    }
}

fn pixel<T: Float>(
    x: &[T],
    taps: &[(usize, usize)],
    weights: &[T],
    bias: Option<&[T]>,
    out: &mut [T],
) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the instructions.
        unsafe { pixel_avx2(x, taps, weights, bias, out) };
        return;
    }
    pixel_body::<T, { cfg!(target_arch = "aarch64") }>(x, taps, weights, bias, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn pixel_avx2<T: Float>(
    x: &[T],
    taps: &[(usize, usize)],
    weights: &[T],
    bias: Option<&[T]>,
    out: &mut [T],
) {
    pixel_body::<T, true>(x, taps, weights, bias, out);
}

#[inline(always)]
fn pixel_body<T: Float, const FUSED: bool>(
    x: &[T],
    taps: &[(usize, usize)],
    weights: &[T],
    bias: Option<&[T]>,
    out: &mut [T],
) {
    let (whole, rest) = out.as_chunks_mut::<LANES>();
    let first = whole.len() * LANES;
    for (i, out) in whole.iter_mut().enumerate() {
        let at = i * LANES;
        let mut sums = [T::ZERO; LANES];
        if let Some(bias) = bias {
            sums.copy_from_slice(&bias[at..at + LANES]);
        }
        for &(weight, source) in taps {
            add_products::<T, FUSED>(
                &mut sums,
                &x[source + at..source + at + LANES],
                &weights[weight + at..weight + at + LANES],
            );
        }
        *out = sums;
    }
    match bias {
        Some(bias) => rest.copy_from_slice(&bias[first..]),
        None => rest.fill(T::ZERO),
    }
    let n = rest.len();
    for &(weight, source) in taps {
        add_products::<T, FUSED>(
            rest,
            &x[source + first..source + first + n],
            &weights[weight + first..weight + first + n],
        );
    }
}

#[inline(always)]
fn add_products<T: Float, const FUSED: bool>(sums: &mut [T], a: &[T], b: &[T]) {
    for ((s, &a), &b) in sums.iter_mut().zip(a).zip(b) {
        *s = if FUSED { a.mul_add(b, *s) } else { *s + a * b };
    }
}

/// `out` (R S, K): for each tap the sum over pixels of x times gy.
pub fn weight_gradient<T: Float>(x: &[T], gy: &[T], map: &Map, k: usize, out: &mut [T]) {
    let pixels = map.pixels();
    let parts = (pixels / 64).clamp(1, PARTS);
    let each = pixels.div_ceil(parts);
    let mut partial = vec![T::ZERO; parts * out.len()];
    partial
        .par_chunks_mut(out.len())
        .enumerate()
        .for_each(|(part, sums)| {
            let mut taps = Vec::new();
            for p in part * each..((part + 1) * each).min(pixels) {
                reads(map, p, k, &mut taps);
                spread(x, &taps, &gy[p * k..(p + 1) * k], sums);
            }
        });
    out.fill(T::ZERO);
    for part in partial.chunks(out.len()) {
        out.iter_mut().zip(part).for_each(|(o, &p)| *o += p);
    }
}

/// Adds one pixel's products to the sums of its taps.
fn spread<T: Float>(x: &[T], taps: &[(usize, usize)], gy: &[T], sums: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the instructions.
        unsafe { spread_avx2(x, taps, gy, sums) };
        return;
    }
    spread_body::<T, { cfg!(target_arch = "aarch64") }>(x, taps, gy, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn spread_avx2<T: Float>(x: &[T], taps: &[(usize, usize)], gy: &[T], sums: &mut [T]) {
    spread_body::<T, true>(x, taps, gy, sums);
}

#[inline(always)]
fn spread_body<T: Float, const FUSED: bool>(
    x: &[T],
    taps: &[(usize, usize)],
    gy: &[T],
    sums: &mut [T],
) {
    let k = gy.len();
    for &(weight, source) in taps {
        add_products::<T, FUSED>(&mut sums[weight..weight + k], &x[source..source + k], gy);
    }
}
