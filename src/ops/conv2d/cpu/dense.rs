//! Convolutions whose groups have several channels: tiles of pixels times
//! panels of weights.

use std::ops::Range;

use rayon::prelude::*;

use super::epilogue::{Epilogue, Window, leaky_relu};
use super::kernel::{Block, OUTSIDE, Reads, Task, multiply};
use super::map::Map;
use super::pack::Packed;
use crate::dtype::Float;
use crate::ops::vector::vectorised;

/// Bytes that what a tile reads and writes may take, so that both stay in the
/// second-level cache beside a panel of weights.
const TILE_BYTES: usize = 256 << 10;

/// Pixels of a tile at most and, where there are fewer than would keep several
/// threads busy, at least: below, the weights are read too often.
const TILE_PIXELS: [usize; 2] = [24, 96];

/// Tiles that are wanted at least, for a balanced load.
const TILES: usize = 32;

fn tile_pixels<const MR: usize>(pixels: usize, channels: usize, size: usize) -> usize {
    let fits = TILE_BYTES / (channels * size).max(1);
    let balanced = pixels.div_ceil(TILES);
    let [least, most] = TILE_PIXELS;
    fits.min(balanced).clamp(least, most).next_multiple_of(MR)
}

/// What a pointwise convolution does with what it reads: relu(scale x + shift), of
/// the first channels of wider pixels.
#[derive(Clone, Copy)]
pub struct Prologue<'a, T> {
    /// Elements from one pixel to the next.
    pub pixel: usize,
    /// One each per input channel.
    pub scale: &'a [T],
    pub shift: &'a [T],
}

/// `out` (N, H, W, groups * outputs) = epilogue of the gathered taps of `x`
/// (N, H', W', groups * inputs) times the weights.
pub fn run<T: Float, const NR: usize, const MR: usize>(
    x: &[T],
    map: &Map,
    weights: &Packed<T, NR>,
    epilogue: &Epilogue<T>,
    out: &mut [T],
) {
    let whole = Window::whole(weights.groups * weights.outputs);
    run_into::<T, NR, MR>((x, None), map, weights, epilogue, (out, whole));
}

/// As [`run`] with something done to `x` first, a [`Map`] of 1 x 1 and stride 1
/// provided, and with some channels of wider pixels as result.
pub fn run_into<T: Float, const NR: usize, const MR: usize>(
    (x, prologue): (&[T], Option<Prologue<T>>),
    map: &Map,
    weights: &Packed<T, NR>,
    epilogue: &Epilogue<T>,
    (out, window): (&mut [T], Window),
) {
    let read = weights.groups * weights.inputs;
    let written = weights.groups * weights.outputs;
    if out.is_empty() || written == 0 {
        return;
    }
    let run = weights.run;
    let zeros = vec![T::ZERO; run];
    let pointwise = (map.kernel, map.geometry.stride) == ([1, 1], [1, 1]);
    let pixel = prologue.map_or(read, |p| p.pixel);
    let tile = tile_pixels::<MR>(map.pixels(), read + written, size_of::<T>());
    out.par_chunks_mut(tile * window.pixel)
        .enumerate()
        .for_each(|(i, out)| {
            let first = i * tile;
            let pixels = out.len() / window.pixel;
            let gathered;
            let (source, (blocks, table)): (&[T], (Vec<Block<MR>>, Vec<Reads<MR>>)) =
                if let Some(prologue) = prologue {
                    gathered = prologue.apply(x, first..first + pixels);
                    (&gathered[..], rows(run, pixels))
                } else if weights.merged {
                    gathered = gather(x, map, read, first..first + pixels);
                    (&gathered[..], rows(run, pixels))
                } else {
                    (x, layout(map, read, first, pixels))
                };
            // Where the next tile reads, which this thread most likely does next.
            let next = (first + pixels) * pixel;
            let ahead = if pointwise {
                &x[next.min(x.len())..(next + tile * pixel).min(x.len())]
            } else {
                &[]
            };
            let panels = weights.groups * weights.outputs.div_ceil(NR);
            let part = |p: usize| ahead.len() * p / panels..ahead.len() * (p + 1) / panels;
            let mut parked = Vec::new();
            for group in 0..weights.groups {
                for (p, panel) in weights.of_group(group).enumerate() {
                    let from = p * NR;
                    let width = NR.min(weights.outputs - from);
                    let column = group * weights.outputs + from;
                    let mut start = [T::ZERO; NR];
                    if let Some(bias) = epilogue.bias {
                        start[..width].copy_from_slice(&bias[column..column + width]);
                    }
                    let task = Task {
                        source: &source[group * weights.inputs..],
                        zeros: &zeros,
                        panel,
                        run,
                        ahead: &ahead[part(group * (panels / weights.groups) + p)],
                        blocks: &blocks,
                        table: &table,
                        bias: start,
                        width,
                        row: window.pixel,
                        column: window.first + column,
                        start: first * window.pixel,
                        epilogue,
                    };
                    multiply(&task, &mut parked, out);
                }
            }
        });
}

impl<T: Float> Prologue<'_, T> {
    /// Of some pixels, which then lie together.
    fn apply(&self, x: &[T], pixels: Range<usize>) -> Vec<T> {
        let channels = self.scale.len();
        let mut out = vec![T::ZERO; pixels.len() * channels];
        for (p, to) in pixels.zip(out.chunks_exact_mut(channels)) {
            activate(&x[p * self.pixel..][..channels], self.scale, self.shift, to);
        }
        out
    }
}

vectorised! {
    fn activate<T: Float>(x: &[T], scale: &[T], shift: &[T], to: &mut [T]) {
        for (((to, &x), &scale), &shift) in to.iter_mut().zip(x).zip(scale).zip(shift) {
            *to = leaky_relu(x * scale + shift, T::ZERO);
        }
    }
}

/// The patches of some pixels, one after the other, with zeros for the padding.
/// Where the runs of taps are short, what each of them costs to begin outweighs
/// this copy, which serves all panels.
fn gather<T: Float>(x: &[T], map: &Map, channels: usize, pixels: Range<usize>) -> Vec<T> {
    let [height, width] = map.kernel;
    let run = width * channels;
    let mut out = vec![T::ZERO; pixels.len() * height * run];
    let places = map.places(pixels.start, pixels.len());
    for (patch, [image, row, column]) in out.chunks_exact_mut(height * run).zip(places) {
        // Neighbouring taps are neighbouring pixels (see `pack::merges`), of which
        // some at either end may be missing.
        let mut taps = (0..width).filter_map(|s| Some((s, map.along(1, column, s)?)));
        let Some((skipped, j)) = taps.next() else {
            continue;
        };
        let count = 1 + taps.count();
        for (r, to) in patch.chunks_exact_mut(run).enumerate() {
            let Some(i) = map.along(0, row, r) else {
                continue;
            };
            let from = &x[map.source_pixel(image, i, j) * channels..][..count * channels];
            let to = &mut to[skipped * channels..][..count * channels];
            for (to, &v) in to.iter_mut().zip(from) {
                *to = v;
            }
        }
    }
    out
}

/// As [`layout`] for a tile whose pixels lie together, `run` elements each.
fn rows<const MR: usize>(run: usize, pixels: usize) -> (Vec<Block<MR>>, Vec<Reads<MR>>) {
    let blocks = (0..pixels).step_by(MR).enumerate().map(|(i, first)| {
        let block = Block {
            pixels: std::array::from_fn(|p| (first + p).min(pixels - 1)),
            count: MR.min(pixels - first),
            taps: i..i + 1,
        };
        let reads = (0, block.pixels.map(|p| p * run));
        (block, reads)
    });
    blocks.unzip()
}

/// The blocks of a tile, and for each of its taps where its pixels read.
fn layout<const MR: usize>(
    map: &Map,
    channels: usize,
    first: usize,
    pixels: usize,
) -> (Vec<Block<MR>>, Vec<Reads<MR>>) {
    let places = map.places(first, pixels);
    let phase = |p: usize| [map.phase(0, places[p][1]), map.phase(1, places[p][2])];
    let mut order: Vec<usize> = (0..pixels).collect();
    if map.transposed {
        order.sort_by_key(|&p| phase(p));
    }
    let mut blocks = Vec::with_capacity(pixels.div_ceil(MR));
    let mut table = Vec::new();
    let same_phase = |&a: &usize, &b: &usize| !map.transposed || phase(a) == phase(b);
    for same in order.chunk_by(same_phase) {
        let taps = map.taps(phase(same[0]));
        for members in same.chunks(MR) {
            let last = members[members.len() - 1];
            let pixels: [usize; MR] =
                std::array::from_fn(|i| members.get(i).copied().unwrap_or(last));
            let start = table.len();
            for &[r, s] in &taps {
                let mut reads = [OUTSIDE; MR];
                for (read, &p) in reads.iter_mut().zip(&pixels) {
                    let [image, row, column] = places[p];
                    let at = map.along(0, row, r).zip(map.along(1, column, s));
                    if let Some((i, j)) = at {
                        *read = map.source_pixel(image, i, j) * channels;
                    }
                }
                // A tap that none of the pixels has adds nothing.
                if reads.iter().any(|&read| read != OUTSIDE) {
                    table.push((r * map.kernel[1] + s, reads));
                }
            }
            blocks.push(Block {
                pixels,
                count: members.len(),
                taps: start..table.len(),
            });
        }
    }
    (blocks, table)
}
