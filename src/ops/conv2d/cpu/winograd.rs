//! 3x3 convolutions of stride 1 with fewer multiplications: F(2x2, 3x3) and
//! F(4x4, 3x3) of Lavin and Gray 2016 (arXiv:1509.09308, section 4).
//!
//! The images are cut into tiles of M x M outputs, which see (M + 2) x (M + 2)
//! inputs d. With the filter g,
//!
//! ```text
//! y = A' [(G g G') * (B' d B)] A      * multiplies element by element
//! ```
//!
//! so that each of the (M + 2)^2 elements is a product of matrices, (tiles, inputs)
//! times (inputs, outputs), made by the loop that other convolutions use. A direct
//! sum takes 9 multiplications for an output, M = 2 takes 4, and M = 4 takes 2.25
//! where tiles are whole. A task transforms some tiles, multiplies them element by
//! element, and transforms the results; nothing of the size of an image is written
//! between.
//!
//! G, B and A come from points at which polynomials are evaluated (Toom and Cook).
//! For M = 4 these are 0, +-5/8, +-3/2 and infinity. The usual 0, +-1, +-2 lose twice as
//! many digits: on normal numbers, 256 inputs, the relative error is 2.3e-6 with them,
//! 1.1e-6 with these, and 0.6e-6 in a direct sum. Other pairs from 1/2 to 3/2 gave
//! 1.1e-6 to 1.5e-6. All constants of B and A are exact in f32; those of G, which are
//! not, are applied to the filters once, in f64.
//!
//! For M = 4 the filters take four times the memory of the weights.
//!
//! An infinity or NaN spreads to the outputs of its tiles, up to five pixels away.
//!
//! Only f32: f64, which checks gradients and this algorithm, takes the plain way.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::epilogue::{Epilogue, Window};
use super::map::Map;
use crate::device::cpu::{Buffer, Parts, with_scratch};
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops::conv2d::Sizes;
use crate::ops::matmul::cpu::kernel::{
    Sums, WIDE_ROWS, fetch_share, has_wide_vectors, multiply_add, prefetch,
};
use crate::tensor::Tensor;

/// Elements of the input of a tile of 2 x 2 outputs.
pub(super) const ELEMENTS: usize = elements(2);

/// Elements of a tile's input, and so matrices to multiply.
const fn elements(m: usize) -> usize {
    (m + 2) * (m + 2)
}

/// Squares of the points of M = 4, and the points.
const A: f64 = 0.625;
const B: f64 = 1.5;
const AA: f64 = A * A;
const BB: f64 = B * B;

/// Channels that are transformed at once.
pub(super) const LANES: usize = 8;
/// As many in 512-bit registers.
const WIDE_LANES: usize = 16;
/// Outputs that are transformed back at once.
const SOME: usize = 16;
/// Tiles for which fewer sums than usual are made, where no more are left.
const FEW: usize = 4;

/// Bytes that the transformed inputs and the products of a task may take, so that
/// both stay in a second-level cache. (Half as much and twice as much: within 3 %.)
const TASK_BYTES: usize = 1 << 20;

/// Bytes of filters for which a task has a tile at least: every task reads them all.
const BYTES_PER_TILE: usize = 72 << 10;

/// Tasks per thread that are wanted, for a balanced load.
const TASKS_PER_THREAD: usize = 2;

/// Fewer channels than this do not pay for their transforms.
const FEWEST_CHANNELS: usize = 16;

/// Inputs that are summed in one chain for M = 4, where most of the error comes from
/// these sums: in chains of 32 results are within 1e-6 on the shapes of the tests, the
/// worst 0.83e-6; in one chain it was 1.1e-6. (A direct sum has 9 times as many terms
/// in one chain; of few channels it is closer, 0.16e-6 to 0.43e-6.)
const CHAIN: usize = 32;

/// Keeps the matrices of a task from starting at the same place of a page,
/// where their stores would wait for each other.
const SKEW: usize = 16;

/// Whether a convolution, or its input gradient, is done this way.
pub fn suits<T: Float>(sizes: &Sizes) -> bool {
    let g = &sizes.geometry;
    let whole = |c: usize| c >= FEWEST_CHANNELS && c.is_multiple_of(LANES);
    T::DTYPE == DType::F32
        && sizes.kernel == [3, 3]
        && (g.stride, g.dilation, g.groups) == ([1, 1], [1, 1], 1)
        && sizes.channels.into_iter().all(whole)
}

/// G g G' of every filter, (element, panel, input, NR), with anything after the last
/// output. Tiles have M x M outputs.
pub struct Transformed<T, const NR: usize, const M: usize> {
    panels: Buffer,
    inputs: usize,
    outputs: usize,
    of: PhantomData<T>,
}

impl<T: Float, const NR: usize, const M: usize> Transformed<T, NR, M> {
    /// For [`Map::forward`], or for [`Map::transposed`], whose filters are
    /// turned by half and go from outputs to inputs.
    pub fn new(w: &Tensor, sizes: &Sizes, transposed: bool) -> Result<Self> {
        let from = w.elements_of::<T>("conv2d")?;
        let offset = w.layout().offset();
        let mut s = [0; 4];
        s.copy_from_slice(w.layout().strides());
        let [mut outputs, mut inputs, ..] = sizes.w_shape();
        if transposed {
            (outputs, inputs) = (inputs, outputs);
            s.swap(0, 1);
        }
        let count = outputs.div_ceil(NR);
        let row = count * inputs * NR;
        let mut panels = Buffer::unwritten(elements(M) * row * size_of::<T>());
        let to = Parts::of(panels.as_mut_slice::<T>());
        (0..count * inputs).into_par_iter().for_each(|at| {
            let (p, i) = (at / inputs, at % inputs);
            // All of the panel's filters at once, a tap per vector.
            let mut taps = [[0.0; NR]; 9];
            for j in 0..NR.min(outputs - p * NR) {
                let at = offset + (p * NR + j) * s[0] + i * s[1];
                for (t, tap) in taps.iter_mut().enumerate() {
                    let [r, c] = [t / 3, t % 3].map(|t| if transposed { 2 - t } else { t });
                    tap[j] = from[at + r * s[2] + c * s[3]].to_f64();
                }
            }
            for (e, values) in filter_transform::<NR, M>(&taps).iter().enumerate() {
                // SAFETY: no other task has this panel and input.
                let to = unsafe { to.part(e * row + at * NR, NR) };
                for (to, &value) in to.iter_mut().zip(values) {
                    *to = T::from_f64(value);
                }
            }
        });
        Ok(Self {
            panels,
            inputs,
            outputs,
            of: PhantomData,
        })
    }

    fn panels(&self) -> &[T] {
        self.panels.as_slice()
    }
}

/// G, of which the first M + 2 rows count.
fn filter_matrix(m: usize) -> [[f64; 3]; 6] {
    let row = |point: f64, norm: f64| [1.0, point, point * point].map(|v| v / norm);
    let (of_a, of_b) = (2.0 * AA * (AA - BB), 2.0 * BB * (BB - AA));
    let end = [0.0, 0.0, 1.0];
    match m {
        2 => [row(0.0, 1.0), row(1.0, 2.0), row(-1.0, 2.0), end, end, end],
        _ => [
            row(0.0, AA * BB),
            row(A, of_a),
            row(-A, of_a),
            row(B, of_b),
            row(-B, of_b),
            end,
        ],
    }
}

/// G g G', row by row, of NR filters.
fn filter_transform<const NR: usize, const M: usize>(g: &[[f64; NR]; 9]) -> Vec<[f64; NR]> {
    let matrix = filter_matrix(M);
    let along = |row: &[f64; 3], taps: [&[f64; NR]; 3]| -> [f64; NR] {
        std::array::from_fn(|l| row[0] * taps[0][l] + row[1] * taps[1][l] + row[2] * taps[2][l])
    };
    let mut all = Vec::with_capacity(elements(M));
    for down in &matrix[..M + 2] {
        let mixed = [0, 1, 2].map(|s| along(down, [&g[s], &g[3 + s], &g[6 + s]]));
        let [a, b, c] = &mixed;
        all.extend(matrix[..M + 2].iter().map(|row| along(row, [a, b, c])));
    }
    all
}

/// `a b + c`, rounded once where that is one instruction.
#[inline(always)]
fn fused<T: Float, const L: usize, const FUSED: bool>(a: T, b: [T; L], c: [T; L]) -> [T; L] {
    let mut to = [T::ZERO; L];
    for l in 0..L {
        to[l] = if FUSED {
            a.mul_add(b[l], c[l])
        } else {
            a * b[l] + c[l]
        };
    }
    to
}

#[inline(always)]
fn plus<T: Float, const L: usize>(a: [T; L], b: [T; L]) -> [T; L] {
    let mut to = [T::ZERO; L];
    for l in 0..L {
        to[l] = a[l] + b[l];
    }
    to
}

#[inline(always)]
fn minus<T: Float, const L: usize>(a: [T; L], b: [T; L]) -> [T; L] {
    let mut to = [T::ZERO; L];
    for l in 0..L {
        to[l] = a[l] - b[l];
    }
    to
}

/// B' d, of which the first M + 2 count.
#[inline(always)]
fn input_transform<T: Float, const L: usize, const M: usize, const FUSED: bool>(
    d: [[T; L]; 6],
) -> [[T; L]; 6] {
    let [d0, d1, d2, d3, d4, d5] = d;
    if M == 2 {
        return [
            minus(d0, d2),
            plus(d1, d2),
            minus(d2, d1),
            minus(d1, d3),
            d4,
            d5,
        ];
    }
    let c = T::from_f64;
    let add = |a: f64, b, c_| fused::<T, L, FUSED>(c(a), b, c_);
    // Even and odd powers of the points +-a, which see x (x +- a) (x^2 - b^2), and of +-b.
    let (of_a, with_a) = (add(-BB, d2, d4), add(-BB, d1, d3));
    let (of_b, with_b) = (add(-AA, d2, d4), add(-AA, d1, d3));
    [
        add(AA * BB, d0, add(-(AA + BB), d2, d4)),
        add(A, with_a, of_a),
        add(-A, with_a, of_a),
        add(B, with_b, of_b),
        add(-B, with_b, of_b),
        add(AA * BB, d1, add(-(AA + BB), d3, d5)),
    ]
}

/// A' m, of which the first M count.
#[inline(always)]
fn output_transform<T: Float, const L: usize, const M: usize, const FUSED: bool>(
    m: [[T; L]; 6],
) -> [[T; L]; 4] {
    let [m0, m1, m2, m3, m4, m5] = m;
    let (sum, difference) = (plus(m1, m2), minus(m1, m2));
    if M == 2 {
        return [plus(m0, sum), minus(difference, m3), m4, m5];
    }
    let c = T::from_f64;
    let add = |a: f64, b, c_| fused::<T, L, FUSED>(c(a), b, c_);
    let (sum_b, difference_b) = (plus(m3, m4), minus(m3, m4));
    // Not by `map`, which was not made of vectors.
    let scaled = |a: f64, b: [T; L]| {
        let mut to = b;
        to.iter_mut().for_each(|v| *v = c(a) * *v);
        to
    };
    [
        plus(m0, plus(sum, sum_b)),
        add(B, difference_b, scaled(A, difference)),
        add(BB, sum_b, scaled(AA, sum)),
        plus(m5, add(B * BB, difference_b, scaled(A * AA, difference))),
    ]
}

/// `out` (N, H, W, outputs) = epilogue of the convolution of `x`
/// (N, H', W', inputs).
pub fn run<T: Float, const NR: usize, const MR: usize, const M: usize>(
    x: &[T],
    map: &Map,
    weights: &Transformed<T, NR, M>,
    epilogue: &Epilogue<T>,
    out: &mut [T],
) {
    let whole = Window::whole(weights.outputs);
    run_into::<T, NR, MR, M>(x, map, weights, epilogue, (out, whole));
}

/// As [`run`] with some channels of wider pixels as result.
pub fn run_into<T: Float, const NR: usize, const MR: usize, const M: usize>(
    x: &[T],
    map: &Map,
    weights: &Transformed<T, NR, M>,
    epilogue: &Epilogue<T>,
    (out, window): (&mut [T], Window),
) {
    let [down, along] = map.target.map(|n| n.div_ceil(M));
    assert_eq!(
        out.len(),
        map.batch * map.target[0] * map.target[1] * window.pixel
    );
    assert!(window.first + weights.outputs <= window.pixel && NR.is_multiple_of(SOME));
    if out.is_empty() {
        return;
    }
    let task = Task {
        images: Images {
            x,
            map,
            zeros: &vec![T::ZERO; weights.inputs],
        },
        weights,
        epilogue,
        grid: [down, along],
        out: Parts::of(out),
        window,
    };
    // Some tiles each, and where that makes few tasks some panels: their inputs are
    // then transformed more than once, which costs less than to read the filters for
    // fewer tiles.
    let tiles = map.batch * down * along;
    let panels = weights.outputs.div_ceil(NR);
    let per_tile = elements(M) * (weights.inputs + panels * NR) * size_of::<T>();
    let tasks = TASKS_PER_THREAD * rayon::current_num_threads();
    let least = weights.panels.bytes().len() / BYTES_PER_TILE;
    let balanced = tiles.div_ceil(tasks);
    let together = (TASK_BYTES / per_tile).min(balanced).max(least);
    let together = together.next_multiple_of(MR).min(tiles);
    let by_tiles = tiles.div_ceil(together);
    let wide = panels.div_ceil(tasks.div_ceil(by_tiles).min(panels));
    let by_panels = panels.div_ceil(wide);
    (0..by_tiles * by_panels).into_par_iter().for_each(|i| {
        let (tile, panel) = (i / by_panels * together, i % by_panels * wide);
        let tiles = tile..(tile + together).min(tiles);
        let panels = panel..(panel + wide).min(panels);
        let inputs = elements(M) * (tiles.len() * weights.inputs + SKEW);
        let products = elements(M) * (tiles.len() * panels.len() * NR + SKEW);
        with_scratch(inputs + products, |scratch| {
            let scratch = scratch.split_at_mut(inputs);
            task.run::<MR>(tiles, panels, scratch);
        });
    });
}

/// What is cut into tiles.
pub(super) struct Images<'a, T> {
    /// (N, H, W, channels).
    pub x: &'a [T],
    pub map: &'a Map,
    /// A pixel's worth, read in place of the padding.
    pub zeros: &'a [T],
}

impl<T: Float> Images<'_, T> {
    /// B' d B of the tile of M x M outputs that begin at (image, row, column); each of
    /// its elements goes to the same place of its matrix, and L channels lie
    /// `group` after the ones before them.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "loops by index become vectors")]
    pub fn transform<const L: usize, const M: usize, const FUSED: bool>(
        &self,
        [image, row, column]: [usize; 3],
        to: &mut [T],
        [matrix, group]: [usize; 2],
    ) {
        let channels = self.zeros.len();
        let padding = &self.map.geometry.padding;
        let first = [row, column];
        let source = |axis: usize, i: usize| {
            let at = first[axis] + i;
            let at = if self.map.transposed {
                (at + padding[axis]).checked_sub(2)?
            } else {
                at.checked_sub(padding[axis])?
            };
            (at < self.map.source[axis]).then_some(at)
        };
        let mut pixels = [[self.zeros.as_ptr(); 6]; 6];
        let columns: [Option<usize>; 6] = std::array::from_fn(|j| source(1, j));
        for (i, pixels) in pixels[..M + 2].iter_mut().enumerate() {
            let Some(i) = source(0, i) else { continue };
            for (pixel, j) in pixels[..M + 2].iter_mut().zip(columns) {
                if let Some(j) = j {
                    let at = self.map.source_pixel(image, i, j) * channels;
                    *pixel = self.x[at..at + channels].as_ptr();
                }
            }
        }
        let groups = channels / L;
        let to = to[..(elements(M) - 1) * matrix + (groups - 1) * group + L].as_mut_ptr();
        // Not arrays: their copies were not all optimised away.
        let mut half = [const { MaybeUninit::<[T; L]>::uninit() }; 36];
        let half = half.as_mut_ptr().cast::<[T; L]>();
        for g in 0..groups {
            // SAFETY: a pixel has `channels` elements, whole lanes of them; what is read
            // of `half` has been written; and the slice behind `to` ends with the last
            // lanes of the last element.
            unsafe {
                for j in 0..M + 2 {
                    let mut d = [[T::ZERO; L]; 6];
                    for i in 0..M + 2 {
                        d[i] = *pixels[i][j].add(g * L).cast::<[T; L]>();
                        // Of the tile after the next one along the row.
                        if j >= 2 {
                            prefetch(pixels[i][j].wrapping_add(g * L + 2 * M * channels));
                        }
                    }
                    let d = input_transform::<T, L, M, FUSED>(d);
                    for i in 0..M + 2 {
                        *half.add(i * 6 + j) = d[i];
                    }
                }
                for i in 0..M + 2 {
                    let mut row = [[T::ZERO; L]; 6];
                    for j in 0..M + 2 {
                        row[j] = *half.add(i * 6 + j);
                    }
                    let row = input_transform::<T, L, M, FUSED>(row);
                    for j in 0..M + 2 {
                        let at = (i * (M + 2) + j) * matrix + g * group;
                        *to.add(at).cast::<[T; L]>() = row[j];
                    }
                }
            }
        }
    }
}

struct Task<'a, T, const NR: usize, const M: usize> {
    images: Images<'a, T>,
    weights: &'a Transformed<T, NR, M>,
    epilogue: &'a Epilogue<'a, T>,
    /// Tiles down and along an image.
    grid: [usize; 2],
    out: Parts<'a, T>,
    window: Window,
}

impl<T: Float, const NR: usize, const M: usize> Task<'_, T, NR, M> {
    /// Some tiles, counted over all images, times some panels. `room`: for their
    /// transformed inputs, and for the products.
    fn run<const MR: usize>(
        &self,
        tiles: Range<usize>,
        panels: Range<usize>,
        room: (&mut [T], &mut [T]),
    ) {
        #[cfg(target_arch = "x86_64")]
        if MR == WIDE_ROWS && has_wide_vectors() {
            // SAFETY: the processor has the instructions.
            unsafe { self.run_avx512::<MR>(tiles, panels, room) };
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            unsafe { self.run_avx2::<MR>(tiles, panels, room) };
            return;
        }
        self.body::<MR, { cfg!(target_arch = "aarch64") }>(tiles, panels, room);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2<const MR: usize>(
        &self,
        tiles: Range<usize>,
        panels: Range<usize>,
        room: (&mut [T], &mut [T]),
    ) {
        self.body::<MR, true>(tiles, panels, room);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    fn run_avx512<const MR: usize>(
        &self,
        tiles: Range<usize>,
        panels: Range<usize>,
        room: (&mut [T], &mut [T]),
    ) {
        self.body::<MR, true>(tiles, panels, room);
    }

    #[inline(always)]
    fn body<const MR: usize, const FUSED: bool>(
        &self,
        tiles: Range<usize>,
        panels: Range<usize>,
        (inputs, products): (&mut [T], &mut [T]),
    ) {
        let [down, along] = self.grid;
        let count = elements(M);
        let channels = self.weights.inputs;
        let place = |tile: usize| {
            let row = tile / along;
            [row / down, row % down * M, tile % along * M]
        };
        let matrix = inputs.len() / count;
        let wide = MR == WIDE_ROWS && channels.is_multiple_of(WIDE_LANES);
        for (i, tile) in tiles.clone().enumerate() {
            let to = &mut inputs[i * channels..];
            if wide {
                let at = [matrix, WIDE_LANES];
                self.images
                    .transform::<WIDE_LANES, M, FUSED>(place(tile), to, at);
            } else {
                let at = [matrix, LANES];
                self.images
                    .transform::<LANES, M, FUSED>(place(tile), to, at);
            }
        }
        let size = channels * NR;
        let all = self.weights.panels();
        let row = all.len() / count;
        let width = panels.len() * NR;
        let product = products.len() / count;
        for e in 0..count {
            let from = &inputs[e * matrix..][..tiles.len() * channels];
            for (i, p) in panels.clone().enumerate() {
                let at = e * row + p * size;
                // After the last, the next element's filters follow.
                let next = if i + 1 < panels.len() {
                    at + size
                } else {
                    (e + 1) * row + panels.start * size
                };
                let next = &all[next.min(all.len())..(next + size).min(all.len())];
                let to = &mut products[e * product + i * NR..];
                self.multiply::<MR, FUSED>(
                    (from, tiles.len()),
                    &all[at..at + size],
                    (to, width),
                    next,
                );
            }
        }
        for (i, tile) in tiles.enumerate() {
            self.scatter::<FUSED>(&products[i * width..], product, &panels, place(tile));
        }
    }

    /// (tiles, inputs) times (inputs, NR) -> NR of `width` columns for each tile, asking
    /// for what the next product reads.
    #[inline(always)]
    fn multiply<const MR: usize, const FUSED: bool>(
        &self,
        (from, tiles): (&[T], usize),
        panel: &[T],
        (to, width): (&mut [T], usize),
        next: &[T],
    ) {
        for first in (0..tiles).step_by(MR) {
            fetch_share(next, first / MR, tiles.div_ceil(MR));
            let count = MR.min(tiles - first);
            let to = &mut to[first * width..];
            if count <= FEW {
                self.block::<FEW, FUSED>((from, first, count), panel, (to, width));
            } else {
                self.block::<MR, FUSED>((from, first, count), panel, (to, width));
            }
        }
    }

    /// [`Self::multiply`] of `count` tiles, at most ROWS.
    #[inline(always)]
    fn block<const ROWS: usize, const FUSED: bool>(
        &self,
        (from, start, count): (&[T], usize, usize),
        panel: &[T],
        (to, width): (&mut [T], usize),
    ) {
        let run = self.weights.inputs;
        let panel = panel[..run * NR].as_ptr();
        // The last tile is repeated where fewer are left.
        let rows: [*const T; ROWS] =
            std::array::from_fn(|i| from[(start + i.min(count - 1)) * run..][..run].as_ptr());
        let chain = if M == 2 { run } else { CHAIN };
        let zeros: Sums<T, NR, ROWS> = [[T::ZERO; NR]; ROWS];
        let first = chain.min(run);
        // SAFETY: each row has `run` elements, and the panel `run` times NR.
        let mut sums = unsafe { multiply_add::<T, NR, ROWS, FUSED>(rows, panel, first, zeros) };
        for at in (chain..run).step_by(chain) {
            let rows = rows.map(|row| row.wrapping_add(at));
            let panel = panel.wrapping_add(at * NR);
            let count = chain.min(run - at);
            // SAFETY: as above.
            let some = unsafe { multiply_add::<T, NR, ROWS, FUSED>(rows, panel, count, zeros) };
            for (sums, some) in sums.iter_mut().zip(&some) {
                for (s, v) in sums.iter_mut().zip(some) {
                    *s += *v;
                }
            }
        }
        let end = (count - 1) * width + NR;
        let to = to[..end].as_mut_ptr();
        if count == ROWS {
            for (i, sum) in sums.iter().enumerate() {
                // SAFETY: NR elements from there on end at `end` or before.
                unsafe { *to.add(i * width).cast::<[T; NR]>() = *sum };
            }
        } else {
            for (i, sum) in sums.iter().enumerate().take(count) {
                // SAFETY: as above.
                unsafe { *to.add(i * width).cast::<[T; NR]>() = *sum };
            }
        }
    }

    /// A' m A of a tile, for the outputs of some panels, and what follows it.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "loops by index become vectors")]
    fn scatter<const FUSED: bool>(
        &self,
        products: &[T],
        matrix: usize,
        panels: &Range<usize>,
        [image, row, column]: [usize; 3],
    ) {
        let outputs = self.weights.outputs;
        let first = panels.start * NR;
        let end = outputs.min(panels.end * NR);
        let products = products[..(elements(M) - 1) * matrix + panels.len() * NR].as_ptr();
        let [height, long] = self.images.map.target;
        let mut half = [const { MaybeUninit::<[T; SOME]>::uninit() }; 24];
        let half = half.as_mut_ptr().cast::<[T; SOME]>();
        let [rows, columns] = [height - row, long - column].map(|left| left.min(M));
        for channel in (first..end).step_by(SOME) {
            let width = SOME.min(end - channel);
            let mut bias = [T::ZERO; SOME];
            if let Some(all) = self.epilogue.bias {
                bias[..width].copy_from_slice(&all[channel..channel + width]);
            }
            // SAFETY: the slice behind the pointer ends with the last element's panels,
            // of whole lanes; what is read of `half` has been written.
            unsafe {
                for j in 0..M + 2 {
                    let mut m = [[T::ZERO; SOME]; 6];
                    for i in 0..M + 2 {
                        let at = (i * (M + 2) + j) * matrix + channel - first;
                        m[i] = *products.add(at).cast::<[T; SOME]>();
                    }
                    let m = output_transform::<T, SOME, M, FUSED>(m);
                    for i in 0..M {
                        *half.add(i * 6 + j) = m[i];
                    }
                }
            }
            // Rows are written one by one: a loop over them without stores was made of
            // gathers.
            for i in 0..rows {
                let mut m = [[T::ZERO; SOME]; 6];
                for j in 0..M + 2 {
                    // SAFETY: written above.
                    m[j] = unsafe { *half.add(i * 6 + j) };
                }
                let m = output_transform::<T, SOME, M, FUSED>(m);
                let pixel = (image * height + row + i) * long + column;
                for (j, m) in m[..columns].iter().enumerate() {
                    let y = plus(*m, bias);
                    let at = (pixel + j) * self.window.pixel + self.window.first + channel;
                    // SAFETY: no other task has this tile and these channels.
                    let out = unsafe { self.out.part(at, width) };
                    prefetch(out.as_ptr().wrapping_add(M * self.window.pixel));
                    if width == SOME {
                        self.epilogue.write_array(at, y, out);
                    } else {
                        self.epilogue.write(at, &y[..width], out);
                    }
                }
            }
        }
    }
}
