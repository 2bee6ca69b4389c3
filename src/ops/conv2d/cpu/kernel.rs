//! The innermost loops, and the choice of instructions for them.
//!
//! [`MR`] pixels by `NR` channels are summed in registers. The weights of these
//! channels lie together (see [`super::pack`]); of each pixel and tap one run
//! of channels is read where it lies, so that no patch matrix is ever written.
//! Every output is one chain of fused multiply-adds in the order (tap,
//! channel), whatever the tile or the batch that it is computed in.

use std::ops::Range;

use super::epilogue::{Epilogue, Residual, leaky_relu};
use crate::dtype::Float;
use crate::ops::matmul::cpu::kernel::{
    Sums, WIDE_ROWS, fetch_share, has_wide_vectors, multiply_add, prefetch,
};
use crate::ops::pointwise::Function;

/// A tap that lies in the padding.
pub const OUTSIDE: usize = usize::MAX;

/// Pixels of a tile that see the same taps.
pub struct Block<const MR: usize> {
    /// Places in the tile; the last is repeated where fewer are left.
    pub pixels: [usize; MR],
    pub count: usize,
    /// Range in the tile's table.
    pub taps: Range<usize>,
}

/// Per tap: its place among the weights, and where each pixel's run begins.
pub type Reads<const MR: usize> = (usize, [usize; MR]);

/// One tile times one panel.
pub struct Task<'a, T, const NR: usize, const MR: usize> {
    pub source: &'a [T],
    /// As many zeros as a run is long, read in place of the padding.
    pub zeros: &'a [T],
    /// (taps, run, NR).
    pub panel: &'a [T],
    /// Elements per tap.
    pub run: usize,
    /// What is read soon: asked for a little with every block.
    pub ahead: &'a [T],
    pub blocks: &'a [Block<MR>],
    pub table: &'a [Reads<MR>],
    /// What the sums start from.
    pub bias: [T; NR],
    /// How many of the panel's channels exist.
    pub width: usize,
    /// Elements per pixel of the tile, and the first of the panel's.
    pub row: usize,
    pub column: usize,
    /// The tile's first element among all outputs.
    pub start: usize,
    pub epilogue: &'a Epilogue<'a, T>,
}

/// Bytes of weights that are multiplied with all blocks before the next ones
/// are read: half of a small first-level cache, whose other half the runs need.
const WEIGHT_BYTES: usize = 16 << 10;

/// Writes the channels of a panel to a tile. `parked` is room for the sums of
/// blocks that are not finished at once; it is kept between calls.
pub fn multiply<T: Float, const NR: usize, const MR: usize>(
    task: &Task<T, NR, MR>,
    parked: &mut Vec<Sums<T, NR, MR>>,
    tile: &mut [T],
) {
    #[cfg(target_arch = "x86_64")]
    if MR == WIDE_ROWS && has_wide_vectors() {
        // SAFETY: the processor has the instructions.
        unsafe { multiply_avx512(task, parked, tile) };
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the instructions.
        unsafe { multiply_avx2(task, parked, tile) };
        return;
    }
    body::<T, NR, MR, { cfg!(target_arch = "aarch64") }>(task, parked, tile);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2<T: Float, const NR: usize, const MR: usize>(
    task: &Task<T, NR, MR>,
    parked: &mut Vec<Sums<T, NR, MR>>,
    tile: &mut [T],
) {
    body::<T, NR, MR, true>(task, parked, tile);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn multiply_avx512<T: Float, const NR: usize, const MR: usize>(
    task: &Task<T, NR, MR>,
    parked: &mut Vec<Sums<T, NR, MR>>,
    tile: &mut [T],
) {
    body::<T, NR, MR, true>(task, parked, tile);
}

/// `FUSED`: whether a fused multiply-add is one instruction.
#[inline(always)]
fn body<T: Float, const NR: usize, const MR: usize, const FUSED: bool>(
    task: &Task<T, NR, MR>,
    parked: &mut Vec<Sums<T, NR, MR>>,
    tile: &mut [T],
) {
    let fit = (WEIGHT_BYTES / (NR * size_of::<T>())).max(1);
    let most = task.blocks.iter().map(|b| b.taps.len()).max().unwrap_or(0);
    if most * task.run <= fit || task.blocks.len() == 1 {
        for (i, block) in task.blocks.iter().enumerate() {
            fetch(task, block, tile);
            fetch_share(task.ahead, i, task.blocks.len());
            let taps = &task.table[block.taps.clone()];
            let sums = add::<T, NR, MR, FUSED>(task, taps, 0..task.run, [task.bias; MR]);
            store(task, block, sums, tile);
        }
        return;
    }
    // Whole taps where several fit, otherwise parts of one, so that the order
    // of the additions stays (tap, channel).
    let (taps, part) = ((fit / task.run).max(1), fit.min(task.run));
    parked.clear();
    parked.resize(task.blocks.len(), [task.bias; MR]);
    for first in (0..most).step_by(taps) {
        for from in (0..task.run).step_by(part) {
            let channels = from..(from + part).min(task.run);
            for (i, (block, sums)) in task.blocks.iter().zip(&mut *parked).enumerate() {
                if (first, from) == (0, 0) {
                    fetch_share(task.ahead, i, task.blocks.len());
                }
                let all = &task.table[block.taps.clone()];
                let some = &all[first.min(all.len())..(first + taps).min(all.len())];
                *sums = add::<T, NR, MR, FUSED>(task, some, channels.clone(), *sums);
            }
        }
    }
    for (block, sums) in task.blocks.iter().zip(&*parked) {
        store(task, block, *sums, tile);
    }
}

/// `sums` plus `channels` of the given taps times their weights.
#[inline(always)]
fn add<T: Float, const NR: usize, const MR: usize, const FUSED: bool>(
    task: &Task<T, NR, MR>,
    taps: &[Reads<MR>],
    channels: Range<usize>,
    mut sums: Sums<T, NR, MR>,
) -> Sums<T, NR, MR> {
    let run = task.run;
    assert!(channels.start <= channels.end && channels.end <= run);
    for &(tap, starts) in taps {
        let weights = &task.panel[tap * run * NR..][..run * NR];
        let mut rows = [task.zeros[channels.clone()].as_ptr(); MR];
        for (row, start) in rows.iter_mut().zip(starts) {
            if start != OUTSIDE {
                *row = task.source[start..][..run][channels.clone()].as_ptr();
            }
        }
        let weights = weights[channels.start * NR..].as_ptr();
        // SAFETY: `weights` has at least as many times NR elements as there
        // are channels, and each row as many.
        sums = unsafe { multiply_add::<T, NR, MR, FUSED>(rows, weights, channels.len(), sums) };
    }
    sums
}

/// Asks for the memory that [`store`] will touch, so that it arrives while the
/// block is multiplied. Lines of different pixels are far apart, which no
/// processor foresees by itself.
#[inline(always)]
fn fetch<T: Float, const NR: usize, const MR: usize>(
    task: &Task<T, NR, MR>,
    block: &Block<MR>,
    tile: &[T],
) {
    for pixel in block.pixels {
        let at = pixel * task.row + task.column;
        prefetch(tile.as_ptr().wrapping_add(at));
        if let Residual::Apart(residual) = task.epilogue.residual {
            prefetch(residual.as_ptr().wrapping_add(task.start + at));
        }
    }
}

/// Finishes the sums of a block and writes them to their tile.
///
/// What is common, a whole block without a call in its activation, is three
/// loops of known length without a way out, which are unrolled: only then do the
/// sums stay in their registers. One loop over the rows, checks of bounds in it,
/// or a residual read through a slice each sent them through memory, the last
/// one by one, and cost as much as sixty multiplications of a block.
#[inline(always)]
fn store<T: Float, const NR: usize, const MR: usize>(
    task: &Task<T, NR, MR>,
    block: &Block<MR>,
    mut sums: Sums<T, NR, MR>,
    tile: &mut [T],
) {
    let slope = match task.epilogue.activation {
        None => None,
        Some(Function::LeakyRelu(slope)) => Some(T::from_f64(slope)),
        Some(_) => return store_any(task, block, &{ sums }, tile),
    };
    if task.width != NR || block.count != MR {
        return store_any(task, block, &{ sums }, tile);
    }
    let at = |pixel: usize| pixel * task.row + task.column;
    let end = at(block.pixels.into_iter().fold(0, usize::max)) + NR;
    let to = tile[..end].as_mut_ptr();
    let residual = match task.epilogue.residual {
        Residual::None => None,
        Residual::Apart(residual) => Some(residual[task.start..][..end].as_ptr()),
        Residual::Within => Some(to.cast_const()),
    };
    if let Some(residual) = residual {
        for (&pixel, sums) in block.pixels.iter().zip(&mut sums) {
            // SAFETY: NR elements from there on end at `end` or before.
            let added = unsafe { *residual.add(at(pixel)).cast::<[T; NR]>() };
            for (s, r) in sums.iter_mut().zip(added) {
                *s += r;
            }
        }
    }
    if let Some(slope) = slope {
        for s in sums.as_flattened_mut() {
            *s = leaky_relu(*s, slope);
        }
    }
    for (&pixel, sums) in block.pixels.iter().zip(&sums) {
        // SAFETY: as above.
        unsafe { *to.add(at(pixel)).cast::<[T; NR]>() = *sums };
    }
}

/// [`store`] of any block: not inlined, so that it takes no registers from the
/// common one.
#[inline(never)]
fn store_any<T: Float, const NR: usize, const MR: usize>(
    task: &Task<T, NR, MR>,
    block: &Block<MR>,
    sums: &Sums<T, NR, MR>,
    tile: &mut [T],
) {
    for (pixel, sums) in block.pixels[..block.count].iter().zip(sums) {
        let at = pixel * task.row + task.column;
        let row = &mut tile[at..at + task.width];
        task.epilogue
            .write(task.start + at, &sums[..task.width], row);
    }
}
