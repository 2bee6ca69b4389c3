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

/// Pixels of a tile that see the same taps.
pub struct Block<const MR: usize> {
    /// Places in the tile; the last is repeated where fewer are left.
    pub pixels: [usize; MR],
    pub count: usize,
    /// Range in the tile's table.
    pub taps: Range<usize>,
}

/// Per tap: its place among the weights, and each pixel's run, of zeros where it
/// lies in the padding. Pointers, because a check of bounds for each run of each
/// panel cost a tenth of short runs; who makes a table checks them once.
pub type Reads<T, const MR: usize> = (usize, [*const T; MR]);

/// One tile times some panels.
pub struct Task<'a, T, const NR: usize, const MR: usize> {
    /// Panels, each (taps, run, NR).
    pub panels: &'a [T],
    /// Elements of a panel, and per tap.
    pub panel: usize,
    pub run: usize,
    /// What is read soon: asked for a little with every block.
    pub ahead: &'a [T],
    pub blocks: &'a [Block<MR>],
    pub table: &'a [Reads<T, MR>],
    /// What the sums start from: NR for each panel.
    pub bias: &'a [T],
    /// Channels that the panels have together.
    pub width: usize,
    /// Elements per pixel of the tile, and the first of the panels'.
    pub row: usize,
    pub column: usize,
    /// The tile's first element among all outputs.
    pub start: usize,
    pub epilogue: &'a Epilogue<'a, T>,
}

/// Writes the channels of some panels to a tile.
///
/// All panels of a block follow each other: its pixels stay in the first-level
/// cache, where the panels pass through from the second, and its results are
/// written side by side. (A panel at a time for all blocks, in parts that fit the
/// first level and with the sums parked between these, was 5 to 7 % slower for 3 x 3
/// kernels and no faster for 1 x 1: results then come in pieces of a line or two, a
/// pixel apart.)
///
/// # Safety
/// Each run of the table has `task.run` elements.
pub unsafe fn multiply<T: Float, const NR: usize, const MR: usize>(
    task: &Task<T, NR, MR>,
    tile: &mut [T],
) {
    #[cfg(target_arch = "x86_64")]
    if MR == WIDE_ROWS && has_wide_vectors() {
        // SAFETY: the processor has the instructions, and the runs are promised above.
        unsafe { multiply_avx512(task, tile) };
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the instructions, and the runs are promised above.
        unsafe { multiply_avx2(task, tile) };
        return;
    }
    // SAFETY: as promised above.
    unsafe { body::<T, NR, MR, { cfg!(target_arch = "aarch64") }>(task, tile) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_avx2<T: Float, const NR: usize, const MR: usize>(
    task: &Task<T, NR, MR>,
    tile: &mut [T],
) {
    // SAFETY: as the caller promises.
    unsafe { body::<T, NR, MR, true>(task, tile) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn multiply_avx512<T: Float, const NR: usize, const MR: usize>(
    task: &Task<T, NR, MR>,
    tile: &mut [T],
) {
    // SAFETY: as the caller promises.
    unsafe { body::<T, NR, MR, true>(task, tile) };
}

/// `FUSED`: whether a fused multiply-add is one instruction.
#[inline(always)]
unsafe fn body<T: Float, const NR: usize, const MR: usize, const FUSED: bool>(
    task: &Task<T, NR, MR>,
    tile: &mut [T],
) {
    let panels = task.panels.len() / task.panel;
    let parts = task.blocks.len() * panels;
    for (i, block) in task.blocks.iter().enumerate() {
        let taps = &task.table[block.taps.clone()];
        let places = Places::of(task, block, tile);
        for p in 0..panels {
            fetch_share(task.ahead, i * panels + p, parts);
            let channel = p * NR;
            fetch::<T, NR, MR>(&places, channel);
            let panel = &task.panels[p * task.panel..(p + 1) * task.panel];
            let mut bias = [T::ZERO; NR];
            bias.copy_from_slice(&task.bias[channel..channel + NR]);
            // SAFETY: the runs have `task.run` elements.
            let sums = unsafe { add::<T, NR, MR, FUSED>(task.run, taps, panel, [bias; MR]) };
            store(task, block, (&places, channel), sums);
        }
    }
}

/// Where the first channel of each pixel of a block lies.
struct Places<T, const MR: usize> {
    to: [*mut T; MR],
    residual: Option<[*const T; MR]>,
}

impl<T: Float, const MR: usize> Places<T, MR> {
    /// After a check that `task.width` channels from there on are in the tile, and in
    /// the residual.
    #[inline(always)]
    fn of<const NR: usize>(task: &Task<T, NR, MR>, block: &Block<MR>, tile: &mut [T]) -> Self {
        let at = block.pixels.map(|pixel| pixel * task.row + task.column);
        let end = at.into_iter().fold(0, usize::max) + task.width;
        let tile = tile[..end].as_mut_ptr();
        let to = at.map(|at| tile.wrapping_add(at));
        let residual = match task.epilogue.residual {
            Residual::None => None,
            Residual::Apart(residual) => {
                let residual = residual[task.start..][..end].as_ptr();
                Some(at.map(|at| residual.wrapping_add(at)))
            }
            Residual::Within => Some(to.map(<*mut T>::cast_const)),
        };
        Self { to, residual }
    }
}

/// `sums` plus the given taps times their weights.
#[inline(always)]
unsafe fn add<T: Float, const NR: usize, const MR: usize, const FUSED: bool>(
    run: usize,
    taps: &[Reads<T, MR>],
    panel: &[T],
    mut sums: Sums<T, NR, MR>,
) -> Sums<T, NR, MR> {
    for &(tap, rows) in taps {
        let weights = panel[tap * run * NR..][..run * NR].as_ptr();
        // SAFETY: `weights` has NR times `run` elements, and each row `run`.
        sums = unsafe { multiply_add::<T, NR, MR, FUSED>(rows, weights, run, sums) };
    }
    sums
}

/// Asks for the memory that [`store`] will touch, so that it arrives while the
/// block is multiplied. Lines of different pixels are far apart, which no
/// processor foresees by itself.
#[inline(always)]
fn fetch<T: Float, const NR: usize, const MR: usize>(places: &Places<T, MR>, channel: usize) {
    for line in (channel..channel + NR).step_by(64 / size_of::<T>()) {
        for to in places.to {
            prefetch(to.wrapping_add(line));
        }
        // Where it lies apart: what has been asked for costs nothing.
        for residual in places.residual.into_iter().flatten() {
            prefetch(residual.wrapping_add(line));
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
    (places, channel): (&Places<T, MR>, usize),
    mut sums: Sums<T, NR, MR>,
) {
    let slope = match task.epilogue.activation {
        None => None,
        Some(Function::LeakyRelu(slope)) => Some(T::from_f64(slope)),
        Some(_) => return store_any(task, block, (places, channel), &{ sums }),
    };
    if task.width - channel < NR || block.count != MR {
        return store_any(task, block, (places, channel), &{ sums });
    }
    if let Some(residual) = places.residual {
        for (residual, sums) in residual.into_iter().zip(&mut sums) {
            // SAFETY: the channel and those that follow it have been checked.
            let added = unsafe { *residual.add(channel).cast::<[T; NR]>() };
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
    for (to, sums) in places.to.into_iter().zip(&sums) {
        // SAFETY: as above.
        unsafe { *to.add(channel).cast::<[T; NR]>() = *sums };
    }
}

/// [`store`] of any block: not inlined, so that it takes no registers from the
/// common one.
#[inline(never)]
fn store_any<T: Float, const NR: usize, const MR: usize>(
    task: &Task<T, NR, MR>,
    block: &Block<MR>,
    (places, channel): (&Places<T, MR>, usize),
    sums: &Sums<T, NR, MR>,
) {
    let width = NR.min(task.width - channel);
    for (i, sums) in sums.iter().enumerate().take(block.count) {
        let at = task.start + block.pixels[i] * task.row + task.column + channel;
        // SAFETY: the channel and those that follow it have been checked, and nothing
        // else refers to them.
        let row = unsafe { std::slice::from_raw_parts_mut(places.to[i].add(channel), width) };
        task.epilogue.write(at, &sums[..width], row);
    }
}
