//! Convolutions whose groups have one input channel: element-wise products,
//! vectorised over the channels.
//!
//! A group with several outputs is brought to one output per channel by
//! repeating its input channel.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use bytemuck::{cast_slice, cast_slice_mut};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::columns::Columns;
use super::epilogue::{Epilogue, Residual};
use super::map::Map;
use crate::device::cpu;
#[cfg(target_arch = "x86_64")]
use crate::dtype::DType;
use crate::dtype::Float;
use crate::error::Result;
use crate::ops::conv2d::Sizes;
use crate::ops::matmul::cpu::kernel::has_wide_vectors;
use crate::tensor::Tensor;

/// Pixels of a row that are summed together, where there are as many: each weight is
/// then read once for all of them.
const PIXELS: [usize; 2] = [8, 4];

/// Channels that are summed in registers at a time.
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
    #[cfg(target_arch = "x86_64")]
    if T::DTYPE == DType::F32
        && let Some(columns) = Columns::new(map, k)
    {
        let (x, epilogue, out) = (cast_slice(x), epilogue.in_f32(), cast_slice_mut(out));
        let weights: &[f32] = cast_slice(weights);
        if map.transposed {
            let turned: Vec<f32> = weights.chunks(k).rev().flatten().copied().collect();
            return columns.run(x, &turned, &epilogue, out);
        }
        return columns.run(x, weights, &epilogue, out);
    }
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
            // The pixel behind a block of whole ones, where it reads so much further on.
            let (mut next, mut further) = (usize::MAX, 0);
            while j < width {
                let together =
                    |n: &usize| alike && whole.get(j..j + n).is_some_and(|w| w.iter().all(|&w| w));
                let pixels = PIXELS.into_iter().find(together).unwrap_or(1);
                if together(&1) && j == next {
                    (taps.iter_mut()).for_each(|t: &mut (_, usize)| t.1 += further);
                } else {
                    reads(map, start / k + j, k, &mut taps);
                }
                next = if together(&1) { j + pixels } else { usize::MAX };
                further = pixels * step * k;
                let task = Task {
                    x,
                    taps: &taps,
                    step: step * k,
                    weights,
                    epilogue,
                    start: start + j * k,
                };
                let out = &mut row[j * k..(j + pixels) * k];
                match pixels {
                    8 => task.run::<8>(out),
                    4 => task.run::<4>(out),
                    _ => task.run::<1>(out),
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
        if has_wide_vectors() {
            // SAFETY: the processor has the instructions.
            unsafe { self.run_avx512::<P>(out) };
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            unsafe { self.run_avx2::<P>(out) };
            return;
        }
        self.body::<P, LANES, { cfg!(target_arch = "aarch64") }>(out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2<const P: usize>(&self, out: &mut [T]) {
        self.body::<P, LANES, true>(out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    fn run_avx512<const P: usize>(&self, out: &mut [T]) {
        // As many channels as keep several additions under way.
        match P {
            1 => self.body::<P, { 4 * LANES }, true>(out),
            4 => self.body::<P, { 2 * LANES }, true>(out),
            _ => self.body::<P, LANES, true>(out),
        }
    }

    #[inline(always)]
    fn body<const P: usize, const WIDE: usize, const FUSED: bool>(&self, out: &mut [T]) {
        let k = out.len() / P;
        let mut at = 0;
        while at + WIDE <= k {
            self.channels::<P, WIDE, FUSED>(at, out);
            at += WIDE;
        }
        while at + LANES <= k {
            self.channels::<P, LANES, FUSED>(at, out);
            at += LANES;
        }
        if at < k && k >= LANES && !matches!(self.epilogue.residual, Residual::Within) {
            // Some of them once more, which gives the same values.
            return self.channels::<P, LANES, FUSED>(k - LANES, out);
        }
        self.few::<P, FUSED>(at, out);
    }

    /// The channels from `at` on, few at a time.
    #[inline(always)]
    fn few<const P: usize, const FUSED: bool>(&self, mut at: usize, out: &mut [T]) {
        let k = out.len() / P;
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
        let mut sums = self.start_sums::<P, N>(at);
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
        self.finish(at, &sums, out);
    }

    /// What the sums of N channels from `at` on start from.
    #[inline(always)]
    fn start_sums<const P: usize, const N: usize>(&self, at: usize) -> [[T; N]; P] {
        let mut sums = [[T::ZERO; N]; P];
        if let Some(bias) = self.epilogue.bias {
            for sums in &mut sums {
                sums.copy_from_slice(&bias[at..at + N]);
            }
        }
        sums
    }

    #[inline(always)]
    fn finish<const P: usize, const N: usize>(&self, at: usize, sums: &[[T; N]; P], out: &mut [T]) {
        let k = out.len() / P;
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
///
/// Pixels of a line that see all taps of a kernel row are added in registers. (Pixel by
/// pixel, with the sums in the first-level cache, stores limited it to a third.)
pub fn weight_gradient<T: Float>(x: &[T], gy: &[T], map: &Map, k: usize, out: &mut [T]) {
    let pixels = map.pixels();
    let parts = (pixels / 64).clamp(1, PARTS);
    let width = map.target[1];
    let mut partial = vec![T::ZERO; parts * out.len()];
    #[cfg(target_arch = "x86_64")]
    if T::DTYPE == DType::F32
        && map.kernel[1] == 3
        && let Some(columns) = Columns::new(map, k)
    {
        let (x, gy): (&[f32], &[f32]) = (cast_slice(x), cast_slice(gy));
        let rows = pixels / width;
        let each = rows.div_ceil(parts);
        let sums = partial.par_chunks_mut(out.len()).enumerate();
        sums.for_each(|(part, sums)| {
            let rows = (part * each).min(rows)..((part + 1) * each).min(rows);
            let gy = &gy[rows.start * width * k..rows.end * width * k];
            columns.add_products(x, gy, rows.start, k, cast_slice_mut(sums));
        });
        return join(&partial, out);
    }
    let each = pixels.div_ceil(parts);
    let whole = |&j: &usize| (0..map.kernel[1]).all(|s| map.along(1, j, s).is_some());
    // Without a stretch of them, all are edges.
    let first_whole = (0..width).find(whole).unwrap_or(width);
    let whole = first_whole..first_whole + (first_whole..width).take_while(whole).count();
    partial
        .par_chunks_mut(out.len())
        .enumerate()
        .for_each(|(part, sums)| {
            let mut taps = Vec::new();
            let mut edges = |pixels: Range<usize>, sums: &mut [T]| {
                for p in pixels {
                    reads(map, p, k, &mut taps);
                    spread(x, &taps, &gy[p * k..(p + 1) * k], sums);
                }
            };
            let mut p = part * each;
            let last = ((part + 1) * each).min(pixels);
            while p < last {
                let [image, row, column] = map.place(p);
                let end = (p + width - column).min(last);
                // The part of the line whose pixels see all taps.
                let at = |j: usize| (p - column + j).clamp(p, end);
                let inner = at(whole.start)..at(whole.end);
                if inner.is_empty() || !Line::<T>::suits(map.kernel[1], k) {
                    edges(p..end, sums);
                } else {
                    edges(p..inner.start, sums);
                    let j = inner.start + column - p;
                    let line = Line {
                        x,
                        gy: &gy[inner.start * k..inner.end * k],
                        k,
                        step: map.geometry.stride[1] * k,
                        tap: map.geometry.dilation[1] * k,
                    };
                    for r in 0..map.kernel[0] {
                        let from = map.along(0, row, r).zip(map.along(1, j, 0));
                        if let Some((i, j)) = from {
                            let from = map.source_pixel(image, i, j) * k;
                            let taps = r * map.kernel[1] * k;
                            line.add(map.kernel[1], from, &mut sums[taps..]);
                        }
                    }
                    edges(inner.end..end, sums);
                }
                p = end;
            }
        });
    join(&partial, out);
}

/// The sum of the parts.
fn join<T: Float>(partial: &[T], out: &mut [T]) {
    out.fill(T::ZERO);
    for part in partial.chunks(out.len()) {
        out.iter_mut().zip(part).for_each(|(o, &p)| *o += p);
    }
}

/// Neighbouring pixels and a row of taps that all of them see.
struct Line<'a, T> {
    x: &'a [T],
    /// (pixels, K)
    gy: &'a [T],
    k: usize,
    /// Elements from what a pixel reads to what the next one does, and from tap to tap.
    step: usize,
    tap: usize,
}

impl<T: Float> Line<'_, T> {
    fn suits(taps: usize, k: usize) -> bool {
        matches!(taps, 1 | 2 | 3 | 4 | 5 | 7 | 8) && k >= LANES
    }

    /// Adds to the sums of `taps` taps, (taps, K), the first of which reads from `from` on.
    fn add(&self, taps: usize, from: usize, sums: &mut [T]) {
        #[cfg(target_arch = "x86_64")]
        if has_wide_vectors() {
            // SAFETY: the processor has the instructions.
            unsafe { self.add_avx512(taps, from, sums) };
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            unsafe { self.add_avx2(taps, from, sums) };
            return;
        }
        self.body::<{ cfg!(target_arch = "aarch64") }>(taps, from, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn add_avx2(&self, taps: usize, from: usize, sums: &mut [T]) {
        self.body::<true>(taps, from, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    fn add_avx512(&self, taps: usize, from: usize, sums: &mut [T]) {
        self.body::<true>(taps, from, sums);
    }

    /// As many channels at once as keep several additions under way.
    #[inline(always)]
    fn body<const FUSED: bool>(&self, taps: usize, from: usize, sums: &mut [T]) {
        match taps {
            1 => self.channels::<1, { 4 * LANES }, FUSED>(from, sums),
            2 => self.channels::<2, { 4 * LANES }, FUSED>(from, sums),
            3 => self.channels::<3, { 2 * LANES }, FUSED>(from, sums),
            4 => self.channels::<4, { 2 * LANES }, FUSED>(from, sums),
            5 => self.channels::<5, LANES, FUSED>(from, sums),
            7 => self.channels::<7, LANES, FUSED>(from, sums),
            _ => self.channels::<8, LANES, FUSED>(from, sums),
        }
    }

    #[inline(always)]
    fn channels<const S: usize, const N: usize, const FUSED: bool>(
        &self,
        from: usize,
        sums: &mut [T],
    ) {
        let pixels = self.gy.len() / self.k;
        let reach = (pixels - 1) * self.step + (S - 1) * self.tap + self.k;
        let x = &self.x[from..][..reach];
        let sums = &mut sums[..S * self.k];
        let mut at = 0;
        while at + N <= self.k {
            self.sum::<S, N, FUSED>(x, at, 0, sums);
            at += N;
        }
        while at + LANES <= self.k {
            self.sum::<S, LANES, FUSED>(x, at, 0, sums);
            at += LANES;
        }
        if at < self.k {
            let first = self.k - LANES;
            self.sum::<S, LANES, FUSED>(x, first, at - first, sums);
        }
    }

    /// N channels from `at` on, of which the first `skipped` are not stored.
    #[inline(always)]
    fn sum<const S: usize, const N: usize, const FUSED: bool>(
        &self,
        x: &[T],
        at: usize,
        skipped: usize,
        sums: &mut [T],
    ) {
        let k = self.k;
        let mut all = [[T::ZERO; N]; S];
        for (s, all) in all.iter_mut().enumerate() {
            all.copy_from_slice(&sums[s * k + at..][..N]);
        }
        let (x, gy) = (x[at..].as_ptr(), self.gy[at..].as_ptr());
        for p in 0..self.gy.len() / k {
            // SAFETY: `channels` cut x for the last tap of the last pixel, and N channels
            // from `at` on are channels.
            let gy = unsafe { *gy.add(p * k).cast::<[T; N]>() };
            for (s, all) in all.iter_mut().enumerate() {
                // SAFETY: as above.
                let x = unsafe { *x.add(p * self.step + s * self.tap).cast::<[T; N]>() };
                for l in 0..N {
                    all[l] = if FUSED {
                        x[l].mul_add(gy[l], all[l])
                    } else {
                        all[l] + x[l] * gy[l]
                    };
                }
            }
        }
        for (s, all) in all.iter().enumerate() {
            sums[s * k + at + skipped..][..N - skipped].copy_from_slice(&all[skipped..]);
        }
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
