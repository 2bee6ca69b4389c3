//! Memory of the CPU device, and how work is divided over its threads.
//!
//! Operators run on the rayon pool that they are called in (see
//! [`crate::Runner`]). Work is always cut at places that depend on shapes
//! alone and partial results are joined in a fixed order, so the number of
//! threads never changes a bit of any result.

use std::sync::{Mutex, PoisonError};

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use crate::dtype::Element;

/// A cache line: the unit of allocation, so that every buffer is aligned for
/// the widest vector loads.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Untyped bytes, aligned to 64.
pub struct Buffer {
    /// At least `len` bytes; more where the memory served a larger buffer.
    lines: Vec<Line>,
    len: usize,
}

/// Memory of large buffers that were dropped, oldest first. The system hands
/// out large allocations page by page, a fault and a page of zeros each, which
/// costs as much as a cheap operator; a model asks for the same sizes again and
/// again. What is kept here never reaches a result: a buffer from it is zeroed
/// or, by [`Buffer::unwritten`], promised to be written as a whole.
static SPARE: Mutex<Vec<Vec<Line>>> = Mutex::new(Vec::new());

/// Bytes from which memory is kept: smaller pieces are the allocator's business.
const KEPT_FROM: usize = 256 << 10;
/// Bytes that are kept at most.
const KEPT: usize = 512 << 20;

fn spare(lines: usize) -> Option<Vec<Line>> {
    if lines * size_of::<Line>() < KEPT_FROM {
        return None;
    }
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = (0..spare.len()).filter(|&i| (lines..=lines + lines / 2).contains(&spare[i].len()));
    let best = fits.min_by_key(|&i| spare[i].len())?;
    Some(spare.remove(best))
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let bytes = |l: &Vec<Line>| l.len() * size_of::<Line>();
        if (KEPT_FROM..=KEPT).contains(&bytes(&lines)) {
            let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
            spare.push(lines);
            let mut total: usize = spare.iter().map(bytes).sum();
            let mut oldest = 0;
            while total > KEPT {
                total -= bytes(&spare[oldest]);
                oldest += 1;
            }
            spare.drain(..oldest);
        }
    }
}

impl Buffer {
    pub fn zeroed(len: usize) -> Self {
        let count = len.div_ceil(64);
        let lines = match spare(count) {
            Some(mut lines) => {
                lines[..count].fill(Line::zeroed());
                lines
            }
            None => vec![Line::zeroed(); count],
        };
        Self { lines, len }
    }

    /// A buffer that is written as a whole before it is read: what it holds
    /// until then is left from another one.
    pub fn unwritten(len: usize) -> Self {
        let count = len.div_ceil(64);
        let lines = spare(count).unwrap_or_else(|| vec![Line::zeroed(); count]);
        Self { lines, len }
    }

    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }

    /// The bytes as elements; a trailing part of an element is left out.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        let whole = self.len / size_of::<T>() * size_of::<T>();
        bytemuck::cast_slice(&self.bytes()[..whole])
    }

    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        let whole = self.len / size_of::<T>() * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.bytes_mut()[..whole])
    }
}

/// Elements per task of work that is limited by memory: large enough to hide
/// the cost of a task, small enough to stay in the second-level cache.
pub const GRAIN: usize = 1 << 14;

/// Calls `f(start, chunk)` for consecutive chunks of `out`, of [`GRAIN`]
/// elements rounded up to whole multiples of `unit`.
///
/// `f` is a trait object so that the scheduling code is compiled once per
/// element type, not once per operator; it is called once per chunk.
pub fn for_chunks<T: Element>(out: &mut [T], unit: usize, f: &(dyn Fn(usize, &mut [T]) + Sync)) {
    let chunk = GRAIN.next_multiple_of(unit.max(1));
    if out.len() <= chunk {
        if !out.is_empty() {
            f(0, out);
        }
        return;
    }
    out.par_chunks_mut(chunk)
        .enumerate()
        .for_each(|(i, c)| f(i * chunk, c));
}

/// What is done with the chunks of two outputs.
type PairTask<'a, A, B> = &'a (dyn Fn(usize, &mut [A], &mut [B]) + Sync);

/// Calls `f(i, chunk i of a, chunk i of b)` for two outputs that are cut into
/// the same number of chunks, of the given lengths.
pub fn for_chunk_pairs<A: Element, B: Element>(
    (a, a_chunk): (&mut [A], usize),
    (b, b_chunk): (&mut [B], usize),
    f: PairTask<A, B>,
) {
    a.par_chunks_mut(a_chunk.max(1))
        .zip(b.par_chunks_mut(b_chunk.max(1)))
        .enumerate()
        .for_each(|(i, (a, b))| f(i, a, b));
}
