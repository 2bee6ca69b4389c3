//! The weight gradient: (taps and input channels) x (pixels) products.
//!
//! The result, a matrix of R S C/groups rows and K columns, is cut into blocks
//! of rows; each is summed over the pixels in order. Where there are too few
//! blocks to keep threads busy the pixels are cut as well, at places that
//! depend on the shape alone, and the partial sums joined in order.

use rayon::prelude::*;

use super::map::Map;
use crate::dtype::Float;
use crate::ops::conv2d::Sizes;
use crate::ops::matmul::cpu::blocked::{Matrix, Product};

/// Rows of a block, about.
const ROWS: usize = 128;
/// Pixels per product: ROWS of them take half of a second-level cache.
const PIXELS: usize = 512;
/// Tasks that are wanted at least.
const TASKS: usize = 16;

/// Taps and channels of a block of rows: several whole taps, or some channels
/// of one.
#[derive(Clone, Copy)]
struct Rows {
    tap: usize,
    taps: usize,
    channel: usize,
    channels: usize,
}

impl Rows {
    fn count(self) -> usize {
        self.taps * self.channels
    }
}

fn blocks(taps: usize, channels: usize) -> Vec<Rows> {
    let mut all = Vec::new();
    if channels >= ROWS {
        for tap in 0..taps {
            for channel in (0..channels).step_by(ROWS) {
                all.push(Rows {
                    tap,
                    taps: 1,
                    channel,
                    channels: ROWS.min(channels - channel),
                });
            }
        }
    } else {
        let together = ROWS / channels;
        for tap in (0..taps).step_by(together) {
            all.push(Rows {
                tap,
                taps: together.min(taps - tap),
                channel: 0,
                channels,
            });
        }
    }
    all
}

/// `out` (R, S, C/groups, K) from x (N, H, W, C) and gy (N, P, Q, K).
pub fn run<T: Float>(x: &[T], gy: &[T], sizes: &Sizes, out: &mut [T]) {
    let [k, per_group, ..] = sizes.w_shape();
    let map = Map::forward(sizes);
    let pixels = map.pixels();
    let blocks = blocks(sizes.taps(), per_group);
    let parts = (TASKS.div_ceil(blocks.len())).min(pixels / PIXELS).max(1);
    let each = pixels.div_ceil(parts);
    if parts == 1 {
        cut(out, &blocks, k)
            .into_par_iter()
            .for_each(|(rows, out)| block(x, gy, sizes, &map, rows, 0..pixels, out));
        return;
    }
    let mut partial = vec![T::ZERO; parts * out.len()];
    let tasks: Vec<_> = partial
        .chunks_mut(out.len())
        .enumerate()
        .flat_map(|(part, out)| {
            let range = part * each..((part + 1) * each).min(pixels);
            cut(out, &blocks, k)
                .into_iter()
                .map(move |(rows, out)| (rows, range.clone(), out))
        })
        .collect();
    tasks
        .into_par_iter()
        .for_each(|(rows, range, out)| block(x, gy, sizes, &map, rows, range, out));
    out.fill(T::ZERO);
    for part in partial.chunks(out.len()) {
        out.iter_mut().zip(part).for_each(|(o, &p)| *o += p);
    }
}

/// `out` cut into the blocks, which follow each other in it.
fn cut<'a, T>(mut out: &'a mut [T], blocks: &[Rows], columns: usize) -> Vec<(Rows, &'a mut [T])> {
    let mut all = Vec::with_capacity(blocks.len());
    for &rows in blocks {
        let (mine, rest) = std::mem::take(&mut out).split_at_mut(rows.count() * columns);
        all.push((rows, mine));
        out = rest;
    }
    all
}

fn block<T: Float>(
    x: &[T],
    gy: &[T],
    sizes: &Sizes,
    map: &Map,
    rows: Rows,
    pixels: std::ops::Range<usize>,
    out: &mut [T],
) {
    let groups = sizes.geometry.groups;
    let [c, k] = sizes.channels;
    let (per_group, outputs, count) = (c / groups, k / groups, rows.count());
    // A kernel of one tap at every pixel reads x where it lies.
    let in_place =
        sizes.taps() == 1 && sizes.geometry.stride == [1, 1] && sizes.geometry.padding == [0, 0];
    let mut patches = Vec::new();
    out.fill(T::ZERO);
    for first in pixels.clone().step_by(PIXELS) {
        let n = PIXELS.min(pixels.end - first);
        for group in 0..groups {
            let channel = group * per_group + rows.channel;
            let (a, at) = if in_place {
                let at = Matrix {
                    start: first * c + channel,
                    row: 1,
                    column: c,
                };
                (x, at)
            } else {
                gather(x, map, rows, c, channel, first..first + n, &mut patches);
                let at = Matrix {
                    start: 0,
                    row: 1,
                    column: count,
                };
                (&patches[..], at)
            };
            let from = Matrix::rows_of(first * k + group * outputs, k);
            let product = Product {
                sizes: [count, n, outputs],
                a: (a, at),
                b: (gy, from),
                accumulate: true,
                finish: None,
            };
            product.run_here(&mut out[group * outputs..], k);
        }
    }
}

/// The patches (pixels, taps, channels) of a block of rows.
fn gather<T: Float>(
    x: &[T],
    map: &Map,
    rows: Rows,
    stride: usize,
    channel: usize,
    pixels: std::ops::Range<usize>,
    patches: &mut Vec<T>,
) {
    patches.clear();
    for pixel in pixels {
        let [image, row, column] = map.place(pixel);
        let mut tap = rows.tap;
        while tap < rows.tap + rows.taps {
            let (r, s) = (tap / map.kernel[1], tap % map.kernel[1]);
            // Taps of a row that lie side by side are one run: of an image of 3
            // channels they are too short to be copied one by one.
            let left = (rows.tap + rows.taps - tap).min(map.kernel[1] - s);
            let side_by_side = if rows.channels == stride && map.geometry.dilation[1] == 1 {
                left
            } else {
                1
            };
            let inside = map.along(0, row, r).and_then(|i| {
                let mut all =
                    (0..side_by_side).filter_map(|t| Some((t, map.along(1, column, s + t)?)));
                let (first, j) = all.next()?;
                Some((map.source_pixel(image, i, j), first, 1 + all.count()))
            });
            let (at, before, count) = inside.unwrap_or((0, side_by_side, 0));
            patches.resize(patches.len() + before * rows.channels, T::ZERO);
            let at = at * stride + channel;
            patches.extend_from_slice(&x[at..at + count * rows.channels]);
            let after = side_by_side - before - count;
            patches.resize(patches.len() + after * rows.channels, T::ZERO);
            tap += side_by_side;
        }
    }
}
