//! The innermost loops, and the choice of instructions for them.
//!
//! [`MR`] pixels by `NR` channels are summed in registers. The weights of these
//! channels lie together (see [`super::pack`]); of each pixel and tap one run
//! of channels is read where it lies, so that no patch matrix is ever written.
//! Every output is one chain of fused multiply-adds in the order (tap,
//! channel), whatever the tile or the batch that it is computed in.

use super::epilogue::Epilogue;
use crate::dtype::Float;

/// Pixels per block: with 16 floats of width two 256-bit registers each, which
/// leaves four of the sixteen registers for operands.
pub const MR: usize = 6;

/// A tap that lies in the padding.
pub const OUTSIDE: usize = usize::MAX;

/// What one block of pixels reads.
pub struct Gather<'a, T> {
    pub source: &'a [T],
    /// As many zeros as a run is long, read in place of the padding.
    pub zeros: &'a [T],
    /// Per tap: its place among the weights, and where each pixel's run begins.
    pub taps: &'a [(usize, [usize; MR])],
    /// Elements per tap.
    pub run: usize,
}

/// Adds to `sums` the taps of the block times the weights of `panel`,
/// (taps, run, NR).
pub fn multiply<T: Float, const NR: usize>(
    gather: &Gather<T>,
    panel: &[T],
    sums: &mut [[T; NR]; MR],
) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the instructions.
        unsafe { multiply_avx2(gather, panel, sums) };
        return;
    }
    body::<T, NR, { cfg!(target_arch = "aarch64") }>(gather, panel, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2<T: Float, const NR: usize>(
    gather: &Gather<T>,
    panel: &[T],
    sums: &mut [[T; NR]; MR],
) {
    body::<T, NR, true>(gather, panel, sums);
}

/// `FUSED`: whether a fused multiply-add is one instruction.
#[inline(always)]
fn body<T: Float, const NR: usize, const FUSED: bool>(
    gather: &Gather<T>,
    panel: &[T],
    sums: &mut [[T; NR]; MR],
) {
    let run = gather.run;
    assert!(gather.zeros.len() >= run);
    let mut local = *sums;
    for (tap, starts) in gather.taps {
        let rows: [&[T]; MR] = starts.map(|start| match start {
            OUTSIDE => &gather.zeros[..run],
            _ => &gather.source[start..start + run],
        });
        let (weights, _) = panel[tap * run * NR..(tap + 1) * run * NR].as_chunks::<NR>();
        for (i, weight) in weights.iter().enumerate() {
            for (row, sum) in rows.iter().zip(&mut local) {
                // SAFETY: a row has `run` elements, and so has `weights`.
                let value = unsafe { *row.get_unchecked(i) };
                for (s, &w) in sum.iter_mut().zip(weight) {
                    *s = if FUSED {
                        value.mul_add(w, *s)
                    } else {
                        *s + value * w
                    };
                }
            }
        }
    }
    *sums = local;
}

/// Where the sums of a block go: rows of a tile.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub pixels: &'a [usize],
    /// Elements per pixel, and the first of the panel's.
    pub row: usize,
    pub column: usize,
    /// The tile's first element among all outputs.
    pub start: usize,
}

/// Asks for the memory that [`store`] will touch, so that it arrives while the
/// block is multiplied. Lines of different pixels are far apart, which no
/// processor foresees by itself.
pub fn fetch<T: Float>(place: Place, epilogue: &Epilogue<T>, tile: &[T]) {
    for pixel in place.pixels {
        let at = pixel * place.row + place.column;
        prefetch(&tile[at]);
        if let Some(residual) = epilogue.residual {
            prefetch(&residual[place.start + at]);
        }
    }
}

fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint: it reads nothing, and the address is valid.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Finishes the sums of a block, of whose channels `width` exist, and writes
/// them to their tile.
pub fn store<T: Float, const NR: usize>(
    sums: &mut [[T; NR]; MR],
    place: Place,
    width: usize,
    epilogue: &Epilogue<T>,
    tile: &mut [T],
) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the instructions.
        unsafe { store_avx2(sums, place, width, epilogue, tile) };
        return;
    }
    store_body(sums, place, width, epilogue, tile);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn store_avx2<T: Float, const NR: usize>(
    sums: &mut [[T; NR]; MR],
    place: Place,
    width: usize,
    epilogue: &Epilogue<T>,
    tile: &mut [T],
) {
    store_body(sums, place, width, epilogue, tile);
}

#[inline(always)]
fn store_body<T: Float, const NR: usize>(
    sums: &mut [[T; NR]; MR],
    place: Place,
    width: usize,
    epilogue: &Epilogue<T>,
    tile: &mut [T],
) {
    for (pixel, sum) in place.pixels.iter().zip(sums) {
        let at = pixel * place.row + place.column;
        if width == NR {
            // A copy of known length, which stays in registers.
            let mut row = *sum;
            epilogue.finish(place.start + at, &mut row);
            tile[at..at + NR].copy_from_slice(&row);
        } else {
            epilogue.finish(place.start + at, &mut sum[..width]);
            tile[at..at + width].copy_from_slice(&sum[..width]);
        }
    }
}
