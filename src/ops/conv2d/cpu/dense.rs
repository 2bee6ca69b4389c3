//! Convolutions whose groups have several channels: tiles of pixels times
//! panels of weights.

use std::ops::Range;

use rayon::prelude::*;

use super::epilogue::{Epilogue, Window, leaky_relu};
use super::kernel::{Block, Reads, Task, multiply};
use super::map::Map;
use super::pack::Packed;
use crate::device::cpu::with_scratch;
use crate::dtype::Float;
use crate::ops::vector::vectorised;

/// Bytes that what a tile reads and writes may take, so that both stay in the
/// second-level cache beside a panel of weights.
const TILE_BYTES: usize = 256 << 10;

/// Bytes of panels that are multiplied with a whole tile before the next ones: as
/// much of the second-level cache.
const PANEL_BYTES: usize = 320 << 10;

/// The blocks of a tile and their table.
type Table<T, const MR: usize> = (Vec<Block<MR>>, Vec<Reads<T, MR>>);

/// Pixels of a tile at most and, where there are fewer than would keep several
/// threads busy, at least: below, the weights are read too often.
const TILE_PIXELS: [usize; 2] = [48, 192];

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
    let pointwise = !map.transposed
        && weights.groups == 1
        && (map.kernel, map.geometry.stride, map.geometry.padding) == ([1, 1], [1, 1], [0, 0]);
    let pixel = prologue.map_or(read, |p| p.pixel);
    let panels = weights.outputs.div_ceil(NR);
    let size = weights.panel_size();
    let together = (PANEL_BYTES / (size * size_of::<T>()).max(1)).max(1);
    // Of each group, with zeros for the channels that its last panel lacks.
    let mut bias = vec![T::ZERO; weights.groups * panels * NR];
    if let Some(given) = epilogue.bias {
        let groups = given.chunks_exact(weights.outputs);
        for (to, from) in bias.chunks_exact_mut(panels * NR).zip(groups) {
            to[..weights.outputs].copy_from_slice(from);
        }
    }
    let tile = tile_pixels::<MR>(map.pixels(), read + written, size_of::<T>());
    out.par_chunks_mut(tile * window.pixel)
        .enumerate()
        .for_each(|(i, out)| {
            let first = i * tile;
            let pixels = out.len() / window.pixel;
            // Where the next tile reads, which this thread most likely does next.
            let next = (first + pixels) * pixel;
            let ahead = if pointwise {
                &x[next.min(x.len())..(next + tile * pixel).min(x.len())]
            } else {
                &[]
            };
            let tile = first..first + pixels;
            let strip = (weights.merged).then(|| Strip::of(map, read, &tile));
            let copied = match (&prologue, &strip) {
                (Some(_), _) => pixels * run,
                (None, Some(strip)) => strip.rows * strip.width,
                (None, None) => 0,
            };
            with_scratch(copied, |copied: &mut [T]| {
                if let Some(prologue) = prologue {
                    prologue.apply(x, tile.clone(), copied);
                } else if let Some(strip) = &strip {
                    strip.copy(map, x, copied);
                }
                let rounds = weights.groups * panels.div_ceil(together);
                let part = |r: usize| ahead.len() * r / rounds..ahead.len() * (r + 1) / rounds;
                for group in 0..weights.groups {
                    let (blocks, table) = if prologue.is_some() {
                        rows(copied, run, pixels)
                    } else if let Some(strip) = &strip {
                        strip.layout(map, copied, tile.clone())
                    } else if pointwise {
                        rows(&x[first * read..], read, pixels)
                    } else {
                        let of_group = (x, group * weights.inputs, read);
                        layout(map, of_group, &zeros, tile.clone())
                    };
                    let all = weights.of_group(group);
                    for (round, some) in all.chunks(together * size).enumerate() {
                        let from = round * together * NR;
                        let task = Task::<T, NR, MR> {
                            panels: some,
                            panel: size,
                            run,
                            ahead: &ahead[part(group * (rounds / weights.groups) + round)],
                            blocks: &blocks,
                            table: &table,
                            bias: &bias[group * panels * NR + from..],
                            width: weights.outputs - from,
                            row: window.pixel,
                            column: window.first + group * weights.outputs + from,
                            start: first * window.pixel,
                            epilogue,
                        };
                        // SAFETY: who made the table has checked the runs, which nothing
                        // writes to until `multiply` returns.
                        unsafe { multiply(&task, out) };
                    }
                }
            });
        });
}

impl<T: Float> Prologue<'_, T> {
    /// Of some pixels, which then lie together.
    fn apply(&self, x: &[T], pixels: Range<usize>, out: &mut [T]) {
        let channels = self.scale.len();
        for (p, to) in pixels.zip(out.chunks_exact_mut(channels)) {
            activate(&x[p * self.pixel..][..channels], self.scale, self.shift, to);
        }
    }
}

vectorised! {
    fn activate<T: Float>(x: &[T], scale: &[T], shift: &[T], to: &mut [T]) {
        for (((to, &x), &scale), &shift) in to.iter_mut().zip(x).zip(scale).zip(shift) {
            *to = leaky_relu(x * scale + shift, T::ZERO);
        }
    }
}

/// The rows of images of few channels that a tile reads, with zeros for the padding: a
/// row of the kernel is then one run wherever it lies. (A patch of its own for each
/// pixel copied every element a dozen times, and took a third of the time.)
struct Strip {
    /// Rows of an image that some pixel sees, the padding among them.
    per_image: usize,
    /// The first row, counted over the images, and how many.
    first: usize,
    rows: usize,
    /// Elements of a row, and of a pixel.
    width: usize,
    channels: usize,
}

impl Strip {
    fn of(map: &Map, channels: usize, tile: &Range<usize>) -> Self {
        let g = &map.geometry;
        let [height, width] = map.kernel;
        let reach = (height - 1) * g.dilation[0] + 1;
        let per_image = (map.target[0] - 1) * g.stride[0] + reach;
        let row = |pixel: usize| {
            let [image, row, _] = map.place(pixel);
            image * per_image + row * g.stride[0]
        };
        let first = row(tile.start);
        Self {
            per_image,
            first,
            rows: row(tile.end - 1) + reach - first,
            width: ((map.target[1] - 1) * g.stride[1] + width) * channels,
            channels,
        }
    }

    fn copy<T: Float>(&self, map: &Map, x: &[T], to: &mut [T]) {
        let [height, width] = map.source;
        let padding = &map.geometry.padding;
        for (to, row) in to.chunks_exact_mut(self.width).zip(self.first..) {
            let (image, row) = (row / self.per_image, row % self.per_image);
            let Some(row) = row.checked_sub(padding[0]).filter(|&r| r < height) else {
                to.fill(T::ZERO);
                continue;
            };
            let (left, rest) = to.split_at_mut((padding[1] * self.channels).min(self.width));
            let (inner, right) = rest.split_at_mut(rest.len().min(width * self.channels));
            let from = map.source_pixel(image, row, 0) * self.channels;
            left.fill(T::ZERO);
            inner.copy_from_slice(&x[from..from + inner.len()]);
            right.fill(T::ZERO);
        }
    }

    /// As [`layout`] for what has been copied.
    fn layout<T: Float, const MR: usize>(
        &self,
        map: &Map,
        strip: &[T],
        tile: Range<usize>,
    ) -> Table<T, MR> {
        let g = &map.geometry;
        let [taps, across] = map.kernel;
        let places = map.places(tile.start, tile.len());
        let next = g.dilation[0] * self.width;
        let all = (taps - 1) * next + across * self.channels;
        let starts: Vec<*const T> = (places.iter())
            .map(|&[image, row, column]| {
                let row = image * self.per_image + row * g.stride[0] - self.first;
                let at = row * self.width + column * g.stride[1] * self.channels;
                strip[at..at + all].as_ptr()
            })
            .collect();
        let mut blocks = Vec::with_capacity(starts.len().div_ceil(MR));
        let mut table = Vec::with_capacity(blocks.capacity() * taps);
        for first in (0..starts.len()).step_by(MR) {
            let pixels = std::array::from_fn(|p| (first + p).min(starts.len() - 1));
            blocks.push(Block {
                pixels,
                count: MR.min(starts.len() - first),
                taps: table.len()..table.len() + taps,
            });
            table.extend((0..taps).map(|r| (r, pixels.map(|p| starts[p].wrapping_add(r * next)))));
        }
        (blocks, table)
    }
}

/// As [`layout`] for a tile whose pixels have one run each, `pixel` elements apart.
fn rows<T: Float, const MR: usize>(x: &[T], pixel: usize, pixels: usize) -> Table<T, MR> {
    assert!(pixels > 0 && x.len() >= pixels * pixel);
    let blocks = (0..pixels).step_by(MR).enumerate().map(|(i, first)| {
        let block = Block {
            pixels: std::array::from_fn(|p| (first + p).min(pixels - 1)),
            count: MR.min(pixels - first),
            taps: i..i + 1,
        };
        let reads = (0, block.pixels.map(|p| x[p * pixel..].as_ptr()));
        (block, reads)
    });
    blocks.unzip()
}

/// The blocks of a tile, and for each of its taps where its pixels read: as many
/// elements as `zeros` has, from `first` on of pixels of `channels`.
fn layout<T: Float, const MR: usize>(
    map: &Map,
    (x, first, channels): (&[T], usize, usize),
    zeros: &[T],
    tile: Range<usize>,
) -> Table<T, MR> {
    let pixels = tile.len();
    let places = map.places(tile.start, pixels);
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
                let mut reads = [zeros.as_ptr(); MR];
                let mut any = false;
                for (read, &p) in reads.iter_mut().zip(&pixels) {
                    let [image, row, column] = places[p];
                    let at = map.along(0, row, r).zip(map.along(1, column, s));
                    if let Some((i, j)) = at {
                        let at = map.source_pixel(image, i, j) * channels + first;
                        *read = x[at..at + zeros.len()].as_ptr();
                        any = true;
                    }
                }
                // A tap that none of the pixels has adds nothing.
                if any {
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
