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

/// Pixels of a row that are summed together: each weight is then read once for
/// all of them.
const PIXELS: usize = 4;

/// Channels that are summed in registers at a time: with [`PIXELS`], half of the
/// registers.
const LANES: usize = 16;

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
    let width = map.target[1];
    // Where all taps of a kernel row are in the image, neighbours see the same ones.
    let whole = |j: usize| (0..map.kernel[1]).all(|s| map.along(1, j, s).is_some());
    let whole: Vec<bool> = (0..width).map(whole).collect();
    let step = if map.transposed {
        1
    } else {
        map.geometry.stride[1]
    };
    let alike = !map.transposed || map.geometry.stride[1] == 1;
    cpu::for_chunks(out, k * width, &|start, chunk| {
        let mut taps = Vec::with_capacity(map.kernel[0] * map.kernel[1]);
        for (i, row) in chunk.chunks_mut(k * width).enumerate() {
            let start = start + i * k * width;
            let mut j = 0;
            while j < width {
                let end = (j + PIXELS).min(width);
                let together = alike && end - j == PIXELS && whole[j..end].iter().all(|&w| w);
                let pixels = if together { PIXELS } else { 1 };
                reads(map, start / k + j, k, &mut taps);
                let task = Task {
                    x,
                    taps: &taps,
                    step: step * k,
                    weights,
                    epilogue,
                    start: start + j * k,
                };
                let out = &mut row[j * k..(j + pixels) * k];
                if together {
                    task.run::<PIXELS>(out);
                } else {
                    task.run::<1>(out);
                }
                j += pixels;
            }
        }
    });
}

/// Neighbouring pixels of a row that see the same taps.
struct Task<'a, T> {
    x: &'a [T],
    /// Of the first pixel, see [`reads`].
    taps: &'a [(usize, usize)],
    /// Elements from a pixel's source to that of the next.
    step: usize,
    weights: &'a [T],
    epilogue: &'a Epilogue<'a, T>,
    /// The first output among all.
    start: usize,
}

impl<T: Float> Task<'_, T> {
    /// Writes P pixels.
    fn run<const P: usize>(&self, out: &mut [T]) {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            unsafe { self.run_avx2::<P>(out) };
            return;
        }
        self.body::<P, { cfg!(target_arch = "aarch64") }>(out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2<const P: usize>(&self, out: &mut [T]) {
        self.body::<P, true>(out);
    }

    #[inline(always)]
    fn body<const P: usize, const FUSED: bool>(&self, out: &mut [T]) {
        let k = out.len() / P;
        let mut at = 0;
        while at + LANES <= k {
            self.channels::<P, LANES, FUSED>(at, out);
            at += LANES;
        }
        while at + 4 <= k {
            self.channels::<P, 4, FUSED>(at, out);
            at += 4;
        }
        while at < k {
            self.channels::<P, 1, FUSED>(at, out);
            at += 1;
        }
    }

    /// N channels from `at` on.
    #[inline(always)]
    fn channels<const P: usize, const N: usize, const FUSED: bool>(
        &self,
        at: usize,
        out: &mut [T],
    ) {
        let k = out.len() / P;
        let mut sums = [[T::ZERO; N]; P];
        if let Some(bias) = self.epilogue.bias {
            for sums in &mut sums {
                sums.copy_from_slice(&bias[at..at + N]);
            }
        }
        for &(weight, source) in self.taps {
            let weights = &self.weights[weight + at..][..N];
            let x = &self.x[source + at..][..(P - 1) * self.step + N];
            // SAFETY: of N elements each, which end with the slices or before.
            let weights = unsafe { *weights.as_ptr().cast::<[T; N]>() };
            for (p, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let x = unsafe { *x.as_ptr().add(p * self.step).cast::<[T; N]>() };
                for l in 0..N {
                    sums[l] = if FUSED {
                        x[l].mul_add(weights[l], sums[l])
                    } else {
                        sums[l] + x[l] * weights[l]
                    };
                }
            }
        }
        for (p, sums) in sums.iter().enumerate() {
            let to = &mut out[p * k + at..][..N];
            self.epilogue
                .write_array(self.start + p * k + at, *sums, to);
        }
    }
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
