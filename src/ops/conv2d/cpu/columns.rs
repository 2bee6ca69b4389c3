//! Depthwise convolutions in f32 whose taps lie as close as the pixels (stride and
//! dilation 1), column by column: few channels at a time, and two rows of outputs
//! together.
//!
//! A column is read once, and adds to the sums of all outputs that see it. These wait
//! in registers and move on by one with each column, so that edges need nothing of
//! their own. The rows that the next two will be the first to read are asked for
//! meanwhile: each column is another stretch of memory, too short for the processor to
//! see where it goes. (165 channels, 56 x 56: 8 pixels of all channels at a time took
//! 1.9 ms on one core, whole lines 1.7, two lines 1.4, two with asking ahead 1.1, where
//! a copy takes 0.5. Written with arrays instead of vectors the compiler kept the sums
//! in memory, which took 4.)

use std::arch::x86_64::{
    __m256, __m512, _MM_HINT_T0, _mm_prefetch, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps,
    _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::epilogue::{Epilogue, Residual};
use super::map::Map;
use crate::device::cpu;
use crate::ops::matmul::cpu::kernel::has_wide_vectors;

/// The most rows of source that two rows of outputs see.
const MOST_ROWS: usize = 8;
/// Channels of the widest vector.
const LANES: usize = 16;

/// A depthwise convolution for which there are sums by columns.
pub struct Columns {
    /// Rows and columns before the first.
    padding: [usize; 2],
    source: [usize; 2],
    target: [usize; 2],
    kernel: usize,
}

impl Columns {
    /// `None` for another kernel, stride or dilation, few channels, or a processor
    /// without AVX2.
    pub fn new(map: &Map, channels: usize) -> Option<Self> {
        let Map {
            source,
            target,
            kernel,
            geometry: g,
            ..
        } = *map;
        let close = [g.stride, g.dilation] == [[1, 1]; 2];
        let empty = source.contains(&0) || target.contains(&0);
        let square = matches!(kernel, [3, 3] | [7, 7]);
        if !close || empty || !square || channels < LANES || !has_narrow_vectors() {
            return None;
        }
        let most = kernel[0] - 1;
        if g.padding.iter().any(|&p| p > most) {
            return None;
        }
        // The gradient reads as a convolution whose padding makes up for the kernel's.
        let padding = g.padding.map(|p| if map.transposed { most - p } else { p });
        Some(Self {
            padding,
            source,
            target,
            kernel: kernel[0],
        })
    }

    /// `out` (N, H, W, K) = epilogue of the taps of `x` (N, H', W', K) times `weights`
    /// (R S, K), in the order of the source's pixels.
    pub fn run(&self, x: &[f32], weights: &[f32], epilogue: &Epilogue<f32>, out: &mut [f32]) {
        let k = weights.len() / (self.kernel * self.kernel);
        let [height, width] = self.target;
        let line = k * width;
        let unit = if height % 2 == 0 { 2 * line } else { line };
        cpu::for_chunks(out, unit, &|start, chunk| {
            let mut row = start / line;
            let mut rest = chunk;
            while !rest.is_empty() {
                let rows = (height - row % height).min(rest.len() / line).min(2);
                let (now, later) = rest.split_at_mut(rows * line);
                let lines = Lines {
                    columns: self,
                    x,
                    weights,
                    epilogue,
                    k,
                    row,
                };
                if has_wide_vectors() {
                    // SAFETY: the processor has the instructions.
                    unsafe { lines.run_avx512(now) };
                } else {
                    // SAFETY: as `new` has seen.
                    unsafe { lines.run_avx2(now) };
                }
                row += rows;
                rest = later;
            }
        });
    }

    /// Adds to `sums` (R S, K), for each tap of a kernel of 3, the products of `x` with
    /// the gradients `gy` of whole output rows from `row` on. Only for forward maps.
    pub fn add_products(&self, x: &[f32], gy: &[f32], row: usize, k: usize, sums: &mut [f32]) {
        let line = k * self.target[1];
        let height = self.target[0];
        let (mut at, end) = (row, row + gy.len() / line);
        while at < end {
            let rows = (height - at % height).min(end - at).min(2);
            let products = Products {
                columns: self,
                x,
                gy: &gy[(at - row) * line..][..rows * line],
                k,
                row: at,
            };
            if has_wide_vectors() {
                // SAFETY: the processor has the instructions.
                unsafe { products.run_avx512(sums) };
            } else {
                // SAFETY: as `new` has seen.
                unsafe { products.run_avx2(sums) };
            }
            at += rows;
        }
    }

    /// The rows of source that output rows see, from the output row `row` over the batch
    /// on, at channel `at`; null in the padding. N channels of every column can be read.
    fn rows<V: Vector>(
        &self,
        x: &[f32],
        row: usize,
        count: usize,
        k: usize,
        at: usize,
    ) -> [*const f32; MOST_ROWS] {
        let (image, i) = (row / self.target[0], row % self.target[0]);
        let across = self.source[1];
        let mut rows = [std::ptr::null(); MOST_ROWS];
        for (r, from) in rows[..count].iter_mut().enumerate() {
            let i = (i + r).checked_sub(self.padding[0]);
            if let Some(i) = i.filter(|&i| i < self.source[0]) {
                let start = (image * self.source[0] + i) * across * k + at;
                *from = x[start..][..(across - 1) * k + V::N].as_ptr();
            }
        }
        rows
    }
}

fn has_narrow_vectors() -> bool {
    std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma")
}

/// Channels of one pixel. Its functions need the processor to have the instructions, and
/// to be inlined where these are allowed.
trait Vector: Copy {
    const N: usize;

    unsafe fn zero() -> Self;

    unsafe fn load(from: *const f32) -> Self;

    /// `self` + a b
    unsafe fn add_product(self, a: Self, b: Self) -> Self;

    unsafe fn store(self, to: *mut f32);

    /// See [`Epilogue::write_array`]; not the first `skipped`.
    fn write(self, epilogue: &Epilogue<f32>, start: usize, skipped: usize, to: &mut [f32]);
}

macro_rules! vector {
    ($type:ty, $n:literal, $zero:ident, $load:ident, $add:ident, $store:ident) => {
        impl Vector for $type {
            const N: usize = $n;

            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: the caller's.
                unsafe { $zero() }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the caller's.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn add_product(self, a: Self, b: Self) -> Self {
                // SAFETY: the caller's.
                unsafe { $add(a, b, self) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: the caller's.
                unsafe { $store(to, self) }
            }

            #[inline(always)]
            fn write(self, epilogue: &Epilogue<f32>, start: usize, skipped: usize, to: &mut [f32]) {
                // SAFETY: a vector is its channels.
                let sums: [f32; $n] = unsafe { std::mem::transmute(self) };
                if skipped == 0 {
                    epilogue.write_array(start, sums, to);
                } else {
                    epilogue.write(start + skipped, &sums[skipped..], &mut to[skipped..$n]);
                }
            }
        }
    };
}

vector!(
    __m512,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_fmadd_ps,
    _mm512_storeu_ps
);
vector!(
    __m256,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_fmadd_ps,
    _mm256_storeu_ps
);

/// One or two rows of outputs.
struct Lines<'a> {
    columns: &'a Columns,
    x: &'a [f32],
    weights: &'a [f32],
    epilogue: &'a Epilogue<'a, f32>,
    k: usize,
    /// The first row, over the batch.
    row: usize,
}

impl Lines<'_> {
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2(&self, out: &mut [f32]) {
        // SAFETY: the instructions are there.
        unsafe { self.kernels::<__m256>(out) };
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    fn run_avx512(&self, out: &mut [f32]) {
        // SAFETY: the instructions are there.
        unsafe { self.kernels::<__m512>(out) };
    }

    #[inline(always)]
    unsafe fn kernels<V: Vector>(&self, out: &mut [f32]) {
        let plain =
            matches!(self.epilogue.residual, Residual::None) && self.epilogue.activation.is_none();
        // SAFETY: the caller's.
        unsafe {
            match (self.columns.kernel, plain) {
                (3, true) => self.channels::<V, 3, true>(out),
                (3, false) => self.channels::<V, 3, false>(out),
                (_, true) => self.channels::<V, 7, true>(out),
                (_, false) => self.channels::<V, 7, false>(out),
            }
        }
    }

    /// PLAIN: there is nothing between the sums and the outputs.
    #[inline(always)]
    unsafe fn channels<V: Vector, const S: usize, const PLAIN: bool>(&self, out: &mut [f32]) {
        let two = out.len() > self.k * self.columns.target[1];
        for first in (0..self.k).step_by(V::N) {
            // At the end some of them once more.
            let at = first.min(self.k - V::N);
            // SAFETY: the caller's.
            unsafe {
                if two {
                    self.sum::<V, S, 2, PLAIN>(at, first - at, out);
                } else {
                    self.sum::<V, S, 1, PLAIN>(at, first - at, out);
                }
            }
        }
    }

    /// The channels of a vector from `at` on, of which the first `skipped` are not stored.
    #[inline(always)]
    unsafe fn sum<V: Vector, const S: usize, const ROWS: usize, const PLAIN: bool>(
        &self,
        at: usize,
        skipped: usize,
        out: &mut [f32],
    ) {
        let k = self.k;
        let ([_, padding], [_, across], [_, width]) = (
            self.columns.padding,
            self.columns.source,
            self.columns.target,
        );
        let rows = self
            .columns
            .rows::<V>(self.x, self.row, S + ROWS - 1, k, at);
        let whole = rows[..S + ROWS - 1].iter().all(|row| !row.is_null());
        let last = rows[S + ROWS - 2];
        let out = &mut out[..ROWS * width * k];
        // SAFETY: the caller's for the instructions; `rows` has seen that each of them has
        // the channels of all columns, and the other slices are cut for the channels.
        unsafe {
            let mut weights = [[V::zero(); S]; S];
            for (tap, w) in weights.as_flattened_mut().iter_mut().enumerate() {
                *w = V::load(self.weights[tap * k + at..][..V::N].as_ptr());
            }
            let first = match self.epilogue.bias {
                Some(bias) => V::load(bias[at..][..V::N].as_ptr()),
                None => V::zero(),
            };
            // Of the outputs that see a column, from left to right.
            let mut sums = [[first; S]; ROWS];
            for c in 0..across {
                for o in 0..ROWS {
                    prefetch(last.wrapping_add(((o + 1) * across + c) * k));
                }
                for q in 0..S + ROWS - 1 {
                    if !whole && rows[q].is_null() {
                        continue;
                    }
                    let x = V::load(rows[q].add(c * k));
                    for o in 0..ROWS {
                        if q < o || q - o >= S {
                            continue;
                        }
                        for s in 0..S {
                            let sum = &mut sums[o][S - 1 - s];
                            *sum = sum.add_product(x, weights[q - o][s]);
                        }
                    }
                }
                let done = (c + padding).checked_sub(S - 1);
                for (o, sums) in sums.iter_mut().enumerate() {
                    if let Some(j) = done {
                        self.write::<V, PLAIN>(sums[0], (o * width + j) * k + at, skipped, out);
                    }
                    for s in 1..S {
                        sums[s - 1] = sums[s];
                    }
                    sums[S - 1] = first;
                }
            }
            for (o, sums) in sums.iter().enumerate() {
                for (s, &sums) in sums[..S - 1].iter().enumerate() {
                    if let Some(j) = (across + padding + s).checked_sub(S - 1)
                        && j < width
                    {
                        self.write::<V, PLAIN>(sums, (o * width + j) * k + at, skipped, out);
                    }
                }
            }
        }
    }
}

impl Lines<'_> {
    /// The outputs from `to` on among those of the lines. (A closure was not inlined, and
    /// all sums went to memory around it.)
    #[inline(always)]
    unsafe fn write<V: Vector, const PLAIN: bool>(
        &self,
        sums: V,
        to: usize,
        skipped: usize,
        out: &mut [f32],
    ) {
        let start = self.row * self.columns.target[1] * self.k + to;
        let to = &mut out[to..][..V::N];
        if PLAIN {
            // SAFETY: the caller's; there is room for N.
            unsafe { sums.store(to.as_mut_ptr()) };
        } else {
            sums.write(self.epilogue, start, skipped, to);
        }
    }
}

/// The weight gradient of a kernel of 3, of one or two rows of outputs.
struct Products<'a> {
    columns: &'a Columns,
    x: &'a [f32],
    gy: &'a [f32],
    k: usize,
    /// The first row, over the batch.
    row: usize,
}

impl Products<'_> {
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2(&self, sums: &mut [f32]) {
        // SAFETY: the instructions are there.
        unsafe { self.channels::<__m256>(sums) };
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    fn run_avx512(&self, sums: &mut [f32]) {
        // SAFETY: the instructions are there.
        unsafe { self.channels::<__m512>(sums) };
    }

    #[inline(always)]
    unsafe fn channels<V: Vector>(&self, sums: &mut [f32]) {
        let two = self.gy.len() > self.k * self.columns.target[1];
        for first in (0..self.k).step_by(V::N) {
            let at = first.min(self.k - V::N);
            // SAFETY: the caller's.
            unsafe {
                if two {
                    self.add::<V, 2>(at, first - at, sums);
                } else {
                    self.add::<V, 1>(at, first - at, sums);
                }
            }
        }
    }

    /// The channels of a vector from `at` on, of which the first `skipped` are not stored.
    #[inline(always)]
    unsafe fn add<V: Vector, const ROWS: usize>(
        &self,
        at: usize,
        skipped: usize,
        sums: &mut [f32],
    ) {
        const S: usize = 3;
        let k = self.k;
        let ([_, padding], [_, across], [_, width]) = (
            self.columns.padding,
            self.columns.source,
            self.columns.target,
        );
        let rows = self
            .columns
            .rows::<V>(self.x, self.row, S + ROWS - 1, k, at);
        let whole = rows[..S + ROWS - 1].iter().all(|row| !row.is_null());
        let last = rows[S + ROWS - 2];
        let gy = self.gy[at..][..(ROWS * width - 1) * k + V::N].as_ptr();
        // SAFETY: as in `Lines::sum`; gy was cut for the channels of all its pixels.
        unsafe {
            let mut all = [[V::zero(); S]; S];
            // What a column's taps multiply with: tap s the gradient at column + padding - s.
            let mut seen = [[V::zero(); S]; ROWS];
            for (o, seen) in seen.iter_mut().enumerate() {
                for (j, seen) in seen[..padding].iter_mut().rev().enumerate() {
                    if j < width {
                        *seen = V::load(gy.add((o * width + j) * k));
                    }
                }
            }
            for c in 0..across {
                let newest = c + padding;
                for (o, seen) in seen.iter_mut().enumerate() {
                    for s in (1..S).rev() {
                        seen[s] = seen[s - 1];
                    }
                    prefetch(last.wrapping_add(((o + 1) * across + c) * k));
                    if newest < width {
                        seen[0] = V::load(gy.add((o * width + newest) * k));
                        prefetch(gy.wrapping_add(((ROWS + o) * width + newest) * k));
                    }
                }
                // Outside of the output there is nothing to multiply with.
                let there = |s: usize| s <= newest && newest - s < width;
                let inner = there(0) && there(S - 1);
                for q in 0..S + ROWS - 1 {
                    if !whole && rows[q].is_null() {
                        continue;
                    }
                    let x = V::load(rows[q].add(c * k));
                    for o in 0..ROWS {
                        if q < o || q - o >= S {
                            continue;
                        }
                        for s in 0..S {
                            if inner || there(s) {
                                let sum = &mut all[q - o][s];
                                *sum = sum.add_product(x, seen[o][s]);
                            }
                        }
                    }
                }
            }
            let to = Epilogue {
                residual: Residual::Within,
                ..Epilogue::NONE
            };
            for (tap, all) in all.as_flattened().iter().enumerate() {
                all.write(&to, 0, skipped, &mut sums[tap * k + at..][..V::N]);
            }
        }
    }
}

/// Asks for the line of memory at an address, which need not be one of ours.
#[inline(always)]
fn prefetch(at: *const f32) {
    // SAFETY: a prefetch reads nothing, and does not fail.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::conv2d::{Conv2d, Sizes};

    /// As in `same_bits`: results do not depend on what a processor has.
    #[test]
    fn wide_and_narrow_sums_give_the_same_bits() {
        if !has_wide_vectors() {
            eprintln!("skipped: this processor has no AVX-512");
            return;
        }
        let values = |count: usize, step: usize| -> Vec<f32> {
            let value = |i: usize| (i * step % 1009) as f32 / 504.0 - 1.0;
            (0..count).map(value).collect()
        };
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        for kernel in [3, 7] {
            let (k, input) = (43, [6, 9]);
            let sizes = Sizes {
                batch: 1,
                channels: [k; 2],
                input,
                output: input,
                kernel: [kernel; 2],
                geometry: Conv2d {
                    padding: [kernel / 2; 2],
                    groups: k,
                    ..Conv2d::default()
                },
            };
            let columns = Columns::new(&Map::forward(&sizes), k).expect("stride 1");
            let x = values(input[0] * input[1] * k, 701);
            let weights = values(kernel * kernel * k, 317);
            let before = values(2 * input[1] * k, 11);
            for (row, residual) in [(0, Residual::Within), (2, Residual::None)] {
                let epilogue = Epilogue {
                    residual,
                    ..Epilogue::NONE
                };
                let lines = Lines {
                    columns: &columns,
                    x: &x,
                    weights: &weights,
                    epilogue: &epilogue,
                    k,
                    row,
                };
                let (mut narrow, mut wide) = (before.clone(), before.clone());
                // SAFETY: there are the wider ones.
                unsafe { lines.run_avx2(&mut narrow) };
                // SAFETY: seen above.
                unsafe { lines.run_avx512(&mut wide) };
                assert!(narrow != before, "nothing was written");
                assert!(bits(&narrow) == bits(&wide), "kernel {kernel}, row {row}");
            }
            if kernel == 3 {
                let (mut narrow, mut wide) = (weights.clone(), weights.clone());
                let products = Products {
                    columns: &columns,
                    x: &x,
                    gy: &before,
                    k,
                    row: 2,
                };
                // SAFETY: as above.
                unsafe { products.run_avx2(&mut narrow) };
                // SAFETY: as above.
                unsafe { products.run_avx512(&mut wide) };
                assert!(narrow != weights && bits(&narrow) == bits(&wide));
            }
        }
    }
}
