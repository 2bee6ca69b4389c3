//! The weight gradient of a 3x3 convolution of stride 1 with 16 instead of 36
//! multiplications for a tile of 2x2 outputs: the adjoint of [`super::winograd`].
//!
//! There y = A' [(G g G') * (B' d B)] A is linear in the filter g, so with the
//! gradient e of y
//!
//! ```text
//! dg = G' [sum over the tiles of (A e A') * (B' d B)] G
//! ```
//!
//! and each of the 16 elements is a product of matrices, (inputs, tiles) times
//! (tiles, outputs). The tiles are taken in blocks; a pass transforms as many blocks
//! as a third-level cache keeps, and multiplies them, a rectangle of the result per
//! task. Both transforms write what the innermost loop reads next to each other.

use std::ops::Range;

use rayon::prelude::*;

use super::map::Map;
use super::winograd::{ELEMENTS, Images, LANES};
use crate::device::cpu::{Buffer, Parts, with_scratch};
use crate::dtype::Float;
use crate::ops::conv2d::Sizes;
use crate::ops::matmul::cpu::kernel::F32_COLUMNS;

/// Outputs that are summed at once.
const NR: usize = F32_COLUMNS;
/// Inputs that are summed at once: with two 256-bit registers of outputs each,
/// as many sums as additions are under way. Half of [`LANES`], which are then read
/// from one line.
const MR: usize = 4;
/// Tiles of a block: those of MR inputs and of NR outputs stay in a first-level cache.
const BLOCK: usize = 128;
/// Bytes of transformed tiles that a pass may make.
const PASS_BYTES: usize = 12 << 20;
/// Inputs and panels of outputs of a task at most.
const RECTANGLE: [usize; 2] = [64, 4];
/// Tasks that are wanted at least, for a balanced load.
const TASKS: usize = 8;

/// Where the transformed blocks lie: of each block first the inputs, (element,
/// inputs / LANES, tiles, LANES), then the gradients, (element, panel, tiles, NR).
struct Blocks {
    tiles: usize,
    inputs: usize,
    panels: usize,
}

impl Blocks {
    fn elements(&self) -> usize {
        ELEMENTS * BLOCK * (self.inputs + self.panels * NR)
    }

    fn count(&self) -> usize {
        self.tiles.div_ceil(BLOCK)
    }

    fn tiles(&self, block: usize) -> Range<usize> {
        block * BLOCK..((block + 1) * BLOCK).min(self.tiles)
    }
}

/// A rectangle of the result: inputs by panels of outputs.
struct Rectangle {
    inputs: Range<usize>,
    panels: Range<usize>,
}

impl Rectangle {
    /// Its sums, (element, inputs / MR, panel, MR, NR).
    fn elements(&self) -> usize {
        ELEMENTS * self.inputs.len() * self.panels.len() * NR
    }
}

fn rectangles(inputs: usize, panels: usize) -> Vec<Rectangle> {
    let [mut tall, mut wide] = RECTANGLE;
    while inputs.div_ceil(tall) * panels.div_ceil(wide) < TASKS && tall * wide > LANES {
        if wide > 1 {
            wide /= 2;
        } else {
            tall /= 2;
        }
    }
    let mut all = Vec::new();
    for i in (0..inputs).step_by(tall) {
        for p in (0..panels).step_by(wide) {
            all.push(Rectangle {
                inputs: i..(i + tall).min(inputs),
                panels: p..(p + wide).min(panels),
            });
        }
    }
    all
}

/// `out` (K, C, 3, 3) from x (N, H, W, C) and gy (N, P, Q, K), for sizes that
/// [`super::winograd::suits`] takes.
pub fn run<T: Float>(x: &[T], gy: &[T], sizes: &Sizes, out: &mut [T]) {
    let [inputs, outputs] = sizes.channels;
    let map = Map::forward(sizes);
    let [down, along] = map.target.map(|n| n.div_ceil(2));
    let blocks = Blocks {
        tiles: map.batch * down * along,
        inputs,
        panels: outputs.div_ceil(NR),
    };
    let task = Task {
        images: Images {
            x,
            map: &map,
            zeros: &vec![T::ZERO; inputs],
        },
        gy,
        no_gradient: &vec![T::ZERO; outputs],
        blocks: &blocks,
        grid: [down, along],
    };
    let rectangles = rectangles(inputs, blocks.panels);
    let size = rectangles
        .iter()
        .map(Rectangle::elements)
        .max()
        .unwrap_or(0);
    if blocks.tiles == 0 {
        out.fill(T::ZERO);
    }
    let to = Parts::of(out);
    let pass = (PASS_BYTES / (blocks.elements() * size_of::<T>())).clamp(1, blocks.count().max(1));
    // Lanes after the last output hold anything, and so do their sums.
    let mut transformed = Buffer::unwritten(pass * blocks.elements() * size_of::<T>());
    let transformed = transformed.as_mut_slice::<T>();
    // Sums are kept between passes; of a single pass they stay in a task's cache.
    let passes = blocks.count().div_ceil(pass);
    let mut sums = vec![
        T::ZERO;
        if passes == 1 {
            0
        } else {
            size * rectangles.len()
        }
    ];
    for first in (0..blocks.count()).step_by(pass) {
        let some = first..(first + pass).min(blocks.count());
        transformed
            .par_chunks_mut(blocks.elements())
            .zip(some.clone())
            .for_each(|(to, block)| task.transform(block, to));
        if passes == 1 {
            rectangles.par_iter().for_each(|rectangle| {
                with_scratch(size, |sums: &mut [T]| {
                    sums.fill(T::ZERO);
                    task.multiply(rectangle, some.clone(), transformed, sums);
                    task.finish(rectangle, outputs, sums, to);
                });
            });
        } else {
            let all = sums.par_chunks_mut(size).zip(&rectangles);
            all.for_each(|(sums, rectangle)| {
                task.multiply(rectangle, some.clone(), transformed, sums);
            });
        }
    }
    if passes != 1 {
        let all = sums.par_chunks_mut(size).zip(&rectangles);
        all.for_each(|(sums, rectangle)| task.finish(rectangle, outputs, sums, to));
    }
}

struct Task<'a, T> {
    images: Images<'a, T>,
    gy: &'a [T],
    /// Read in place of gradients outside the image.
    no_gradient: &'a [T],
    blocks: &'a Blocks,
    /// Tiles down and along an image.
    grid: [usize; 2],
}

/// Defines a method twice, for any processor and for AVX2 with fused
/// multiply-adds, and calls the best that this one can run.
macro_rules! dispatched {
    ($name:ident, $body:ident, $on_avx2:ident($($arg:ident: $type:ty),*)) => {
        fn $name(&self, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                // SAFETY: the processor has the instructions.
                unsafe { self.$on_avx2($($arg),*) };
                return;
            }
            self.$body::<{ cfg!(target_arch = "aarch64") }>($($arg),*);
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn $on_avx2(&self, $($arg: $type),*) {
            self.$body::<true>($($arg),*);
        }
    };
}

impl<T: Float> Task<'_, T> {
    dispatched!(transform, transform_body, transform_avx2(block: usize, to: &mut [T]));
    dispatched!(
        multiply,
        multiply_body,
        multiply_avx2(
            rectangle: &Rectangle,
            blocks: Range<usize>,
            transformed: &[T],
            sums: &mut [T]
        )
    );

    #[inline(always)]
    fn transform_body<const FUSED: bool>(&self, block: usize, to: &mut [T]) {
        let tiles = self.blocks.tiles(block);
        let count = tiles.len();
        let (inputs, gradients) = to.split_at_mut(ELEMENTS * BLOCK * self.blocks.inputs);
        let [down, along] = self.grid;
        for (i, tile) in tiles.enumerate() {
            let (image, rest) = (tile / (down * along), tile % (down * along));
            let tile = [image, rest / along * 2, rest % along * 2];
            self.images.transform::<LANES, 2, false>(
                tile,
                &mut inputs[i * LANES..],
                [count * self.blocks.inputs, count * LANES],
            );
            let matrix = count * self.blocks.panels * NR;
            self.transform_gradient(tile, &mut gradients[i * NR..], [matrix, count * NR]);
        }
    }

    /// A e A' of a tile, as [`Images::transform`] does B' d B.
    #[inline(always)]
    fn transform_gradient(
        &self,
        [image, row, column]: [usize; 3],
        to: &mut [T],
        [matrix, panel]: [usize; 2],
    ) {
        let channels = self.no_gradient.len();
        let [height, width] = self.images.map.target;
        let pixel = |i: usize, j: usize| {
            let (i, j) = (row + i, column + j);
            if i < height && j < width {
                &self.gy[((image * height + i) * width + j) * channels..][..channels]
            } else {
                self.no_gradient
            }
        };
        let pixels = [pixel(0, 0), pixel(0, 1), pixel(1, 0), pixel(1, 1)].map(<[T]>::as_ptr);
        let groups = channels / LANES;
        let at = |g: usize| g * LANES / NR * panel + g * LANES % NR;
        let to = to[..(ELEMENTS - 1) * matrix + at(groups - 1) + LANES].as_mut_ptr();
        for g in 0..groups {
            // SAFETY: a pixel has `channels` elements, whole lanes of them.
            let e = |i: usize| unsafe { *pixels[i].add(g * LANES).cast::<[T; LANES]>() };
            // [e0, e0 + e1, e0 - e1, -e1], down the columns, then along the rows.
            let four = |a: [T; LANES], b: [T; LANES]| {
                let (mut sum, mut difference) = (a, a);
                for l in 0..LANES {
                    sum[l] = a[l] + b[l];
                    difference[l] = a[l] - b[l];
                }
                [a, sum, difference, b.map(|b| -b)]
            };
            let (left, right) = (four(e(0), e(2)), four(e(1), e(3)));
            for i in 0..4 {
                for (j, value) in four(left[i], right[i]).iter().enumerate() {
                    // SAFETY: the slice behind the pointer ends with the last lanes
                    // of the last element.
                    unsafe {
                        *to.add((4 * i + j) * matrix + at(g)).cast::<[T; LANES]>() = *value;
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn multiply_body<const FUSED: bool>(
        &self,
        rectangle: &Rectangle,
        blocks: Range<usize>,
        transformed: &[T],
        sums: &mut [T],
    ) {
        let Rectangle { inputs, panels } = rectangle;
        let each = inputs.len() * panels.len() * NR;
        let blocks = blocks.zip(transformed.chunks_exact(self.blocks.elements()));
        for (block, transformed) in blocks {
            let count = self.blocks.tiles(block).len();
            let (from, gradients) = transformed.split_at(ELEMENTS * BLOCK * self.blocks.inputs);
            for e in 0..ELEMENTS {
                let from = &from[e * count * self.blocks.inputs..];
                let gradients = &gradients[e * count * self.blocks.panels * NR..];
                let mut sums = sums[e * each..(e + 1) * each].chunks_exact_mut(MR * NR);
                for i in inputs.clone().step_by(MR) {
                    let rows = &from[i / LANES * count * LANES..][..count * LANES];
                    for panel in panels.clone() {
                        let columns = &gradients[panel * count * NR..][..count * NR];
                        if let Some(sums) = sums.next() {
                            add::<T, FUSED>(&rows[i % LANES..], columns, sums);
                        }
                    }
                }
            }
        }
    }

    /// G' u G of the sums of a rectangle, of NR outputs at once.
    fn finish(&self, rectangle: &Rectangle, outputs: usize, sums: &[T], out: Parts<T>) {
        let Rectangle { inputs, panels } = rectangle;
        let each = inputs.len() * panels.len() * NR;
        let half = T::from_f64(0.5);
        // [u0 + (u1 + u2) / 2, (u1 - u2) / 2, (u1 + u2) / 2 + u3]
        let three = |u: [&[T; NR]; 4]| {
            let mut to = [[T::ZERO; NR]; 3];
            for l in 0..NR {
                let middle = (u[1][l] + u[2][l]) * half;
                to[0][l] = u[0][l] + middle;
                to[1][l] = (u[1][l] - u[2][l]) * half;
                to[2][l] = middle + u[3][l];
            }
            to
        };
        let sums = sums.as_chunks::<NR>().0;
        for (row, c) in inputs.clone().enumerate() {
            for (i, panel) in panels.clone().enumerate() {
                let at = (row / MR * panels.len() + i) * MR + row % MR;
                let u = |e: usize| &sums[e * each / NR + at];
                let down: [[[T; NR]; 3]; 4] =
                    std::array::from_fn(|j| three([u(j), u(4 + j), u(8 + j), u(12 + j)]));
                let taps: [[[T; NR]; 3]; 3] = std::array::from_fn(|r| {
                    three([&down[0][r], &down[1][r], &down[2][r], &down[3][r]])
                });
                let first = panel * NR;
                for l in 0..NR.min(outputs - first) {
                    let at = ((first + l) * self.blocks.inputs + c) * 9;
                    // SAFETY: no other task has this rectangle.
                    let to = unsafe { out.part(at, 9) };
                    for (to, tap) in to.iter_mut().zip(taps.as_flattened()) {
                        *to = tap[l];
                    }
                }
            }
        }
    }
}

/// `sums` (MR, NR) plus the products of MR of each LANES of `rows` with the
/// columns, tile by tile.
#[inline(always)]
fn add<T: Float, const FUSED: bool>(rows: &[T], columns: &[T], sums: &mut [T]) {
    let mut all = [[T::ZERO; NR]; MR];
    let tiles = rows.chunks(LANES).zip(columns.chunks_exact(NR));
    for (row, columns) in tiles {
        for (&value, sums) in row[..MR].iter().zip(&mut all) {
            for (s, &c) in sums.iter_mut().zip(columns) {
                *s = if FUSED {
                    value.mul_add(c, *s)
                } else {
                    *s + value * c
                };
            }
        }
    }
    for (to, from) in sums.chunks_exact_mut(NR).zip(&all) {
        to.iter_mut().zip(from).for_each(|(t, &f)| *t += f);
    }
}
