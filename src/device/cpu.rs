//! Memory of the CPU device, and how work is divided over its threads.
//!
//! Operators run on the rayon pool that they are called in (see
//! [`crate::Runner`]). Work is always cut at places that depend on shapes
//! alone and partial results are joined in a fixed order, so the number of
//! threads never changes a bit of any result.

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
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    pub fn zeroed(len: usize) -> Self {
        Self {
            lines: vec![Line::zeroed(); len.div_ceil(64)],
            len,
        }
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
