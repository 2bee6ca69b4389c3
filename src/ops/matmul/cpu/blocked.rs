//! The product of two matrices, cut so that what is read again lies in a cache.
//!
//! The result is cut into rectangles, one task each. A task walks the inner
//! dimension in blocks of [`DEPTH`]; of each block it copies [`ROWS`] rows of
//! the left matrix (for the second-level cache) and panels of 16 columns of the
//! right one (each for the first-level cache), without gaps, so that the
//! innermost loop ([`multiply_add`]) reads memory in sequence whatever the
//! strides were. Where there are 512-bit registers panels have 32 columns, and rows
//! are multiplied 12 at a time.
//!
//! An element of the result is the sum, in order, over blocks of the inner
//! dimension of chains of fused multiply-adds. That depends neither on the
//! task, nor on the number of threads, nor on the other rows and columns: a row
//! of the result has the same bits when it is computed alone.

use std::ops::Range;

use rayon::prelude::*;

use super::kernel::{
    F32_COLUMNS, F64_COLUMNS, MR, WIDE_COLUMNS, WIDE_ROWS, has_wide_vectors, multiply_add,
    prefetch, prefetch_far,
};
use super::transpose::transpose;
use crate::device::cpu::with_scratch;
use crate::dtype::{DType, Float};
use crate::shape::Layout;

/// Inner indices of a block: a panel of them takes half of a small first-level
/// cache. Part of what the result is (see above), so never chosen by shape.
const DEPTH: usize = 256;
/// Rows that are copied at once: 96 KiB of a second-level cache.
const ROWS: usize = 16 * MR;
/// Columns that are copied at once, to be read again for the next rows.
const COLUMNS: usize = 1024;
/// Multiply-adds that are worth a task of their own.
const TASK: usize = 1 << 19;
/// Tasks per thread, so that a thread which is held up does not hold up all.
const TASKS_PER_THREAD: usize = 4;

/// Where a matrix lies: first element and strides of rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix {
    pub start: usize,
    pub row: usize,
    pub column: usize,
}

impl Matrix {
    pub fn rows_of(start: usize, columns: usize) -> Self {
        Self {
            start,
            row: columns,
            column: 1,
        }
    }

    /// Matrix `i` of those that the last two axes of a layout make, in the order of
    /// the others.
    pub fn of(layout: &Layout, mut i: usize) -> Self {
        let axes = layout.shape().len() - 2;
        let mut start = layout.offset();
        for axis in (0..axes).rev() {
            start += i % layout.shape()[axis] * layout.strides()[axis];
            i /= layout.shape()[axis];
        }
        Self {
            start,
            row: layout.strides()[axes],
            column: layout.strides()[axes + 1],
        }
    }

    fn last(self, rows: usize, columns: usize) -> usize {
        self.start + (rows - 1) * self.row + (columns - 1) * self.column
    }

    fn at(self, row: usize, column: usize) -> usize {
        self.start + row * self.row + column * self.column
    }
}

/// What is done with finished elements while they are warm: it gets the row and
/// the column of the first and up to [`WIDE_COLUMNS`] of a row.
pub(crate) type Finish<'a, T> = &'a (dyn Fn(usize, usize, &mut [T]) + Sync);

/// `out = finish(a b)`, or `out = finish(out + a b)` with `accumulate`, of
/// matrices (m, k) and (k, n).
pub(crate) struct Product<'a, T> {
    pub sizes: [usize; 3],
    pub a: (&'a [T], Matrix),
    pub b: (&'a [T], Matrix),
    pub accumulate: bool,
    pub finish: Option<Finish<'a, T>>,
}

/// The result: its tasks write rectangles that do not overlap.
#[derive(Clone, Copy)]
struct Out<T> {
    first: *mut T,
    row: usize,
}

// SAFETY: only a pointer, of which every task uses its own part.
unsafe impl<T: Send> Send for Out<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Out<T> {}

impl<T: Float> Product<'_, T> {
    /// Writes rows of n elements, `row` apart, to `out` on all threads.
    ///
    /// # Panics
    /// A matrix that reaches outside its slice, or rows of `out` that overlap:
    /// errors of the caller, which derives both from checked layouts.
    pub fn run(&self, out: &mut [T], row: usize) {
        let [m, k, n] = self.sizes;
        let threads = rayon::current_num_threads();
        let tasks = if threads == 1 {
            1
        } else {
            (m * n * k.max(1) / TASK).clamp(1, TASKS_PER_THREAD * threads)
        };
        self.on(out, row, tasks);
    }

    /// [`Self::run`] on the calling thread alone, which is one of many.
    pub fn run_here(&self, out: &mut [T], row: usize) {
        self.on(out, row, 1);
    }

    fn on(&self, out: &mut [T], row: usize, tasks: usize) {
        let [m, k, n] = self.sizes;
        if m == 0 || n == 0 {
            return;
        }
        assert!((m - 1) * row + n <= out.len() && (m == 1 || row >= n));
        let inside = |(of, at): (&[T], Matrix), rows, columns| at.last(rows, columns) < of.len();
        assert!(k == 0 || (inside(self.a, m, k) && inside(self.b, k, n)));
        let out = Out {
            first: out.as_mut_ptr(),
            row,
        };
        if tasks == 1 {
            return self.part(0..m, 0..n, out);
        }
        let unit = match T::DTYPE {
            DType::F32 if has_wide_vectors() => [WIDE_ROWS, WIDE_COLUMNS],
            _ => [MR, F32_COLUMNS],
        };
        let ([by_row, by_column], [height, width]) = grid([m, n], tasks, unit);
        (0..by_row * by_column).into_par_iter().for_each(|i| {
            let (i, j) = (i / by_column * height, i % by_column * width);
            self.part(i..(i + height).min(m), j..(j + width).min(n), out);
        });
    }

    fn part(&self, rows: Range<usize>, columns: Range<usize>, out: Out<T>) {
        match T::DTYPE {
            DType::F64 => part::<T, F64_COLUMNS, MR>(self, rows, columns, out),
            DType::F32 if has_wide_vectors() => {
                part::<T, WIDE_COLUMNS, WIDE_ROWS>(self, rows, columns, out);
            }
            _ => part::<T, F32_COLUMNS, MR>(self, rows, columns, out),
        }
    }
}

/// About `tasks` rectangles of a result (m, n): how many by row and column, and
/// their sides. Of the possible cuts the one that copies least: every row of
/// tasks copies the right matrix, and every column of tasks the left.
/// Sides are multiples of `unit`, the rows and columns of a tile.
fn grid([m, n]: [usize; 2], tasks: usize, [tall, wide]: [usize; 2]) -> ([usize; 2], [usize; 2]) {
    let side = |size: usize, parts: usize, unit: usize| {
        size.div_ceil(parts).next_multiple_of(unit).min(size)
    };
    let cuts = (1..=tasks).map(|by_row| {
        let sides = [side(m, by_row, tall), side(n, tasks.div_ceil(by_row), wide)];
        ([m.div_ceil(sides[0]), n.div_ceil(sides[1])], sides)
    });
    // Fewer tasks than wanted idle a thread, which costs more than any copy.
    let cost = |&([by_row, by_column], _): &([usize; 2], _)| {
        let missing = tasks.saturating_sub(by_row * by_column);
        (missing, by_row * n + by_column * m)
    };
    cuts.min_by_key(cost).unwrap_or(([1, 1], [m, n]))
}

fn part<T: Float, const NR: usize, const TALL: usize>(
    product: &Product<T>,
    rows: Range<usize>,
    columns: Range<usize>,
    out: Out<T>,
) {
    let depth = DEPTH.min(product.sizes[1]);
    let left = ROWS.min(rows.len()) * depth;
    let right = COLUMNS.min(columns.len()).next_multiple_of(NR) * depth;
    with_scratch(left + right, |scratch: &mut [T]| {
        let room = scratch.split_at_mut(right);
        #[cfg(target_arch = "x86_64")]
        if TALL == WIDE_ROWS && has_wide_vectors() {
            // SAFETY: the processor has the instructions.
            unsafe { part_avx512::<T, NR, TALL>(product, rows, columns, out, room) };
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            unsafe { part_avx2::<T, NR, TALL>(product, rows, columns, out, room) };
            return;
        }
        body::<T, NR, TALL, { cfg!(target_arch = "aarch64") }>(product, rows, columns, out, room);
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn part_avx2<T: Float, const NR: usize, const TALL: usize>(
    product: &Product<T>,
    rows: Range<usize>,
    columns: Range<usize>,
    out: Out<T>,
    room: (&mut [T], &mut [T]),
) {
    body::<T, NR, TALL, true>(product, rows, columns, out, room);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn part_avx512<T: Float, const NR: usize, const TALL: usize>(
    product: &Product<T>,
    rows: Range<usize>,
    columns: Range<usize>,
    out: Out<T>,
    room: (&mut [T], &mut [T]),
) {
    body::<T, NR, TALL, true>(product, rows, columns, out, room);
}

/// One rectangle of the result. `FUSED`: whether a fused multiply-add is one
/// instruction.
#[inline(always)]
fn body<T: Float, const NR: usize, const TALL: usize, const FUSED: bool>(
    product: &Product<T>,
    rows: Range<usize>,
    columns: Range<usize>,
    out: Out<T>,
    (panels, left): (&mut [T], &mut [T]),
) {
    let k = product.sizes[1];
    let once = rows.len() <= ROWS;
    let blocks = k.div_ceil(DEPTH).max(1);
    for columns in cut(columns, COLUMNS) {
        for (block, inner) in cut_all(k).enumerate() {
            let depth = inner.len();
            let store = Store {
                out,
                add: product.accumulate || block > 0,
                finish: product.finish.filter(|_| block + 1 == blocks),
            };
            for (i, rows) in cut(rows.clone(), ROWS).enumerate() {
                copy_rows::<T, FUSED>(product.a, rows.clone(), inner.clone(), left);
                for (j, columns) in cut(columns.clone(), NR).enumerate() {
                    // Kept only if there are rows to come; otherwise one place
                    // serves for all, and stays in the first-level cache.
                    let place = if once { 0 } else { j };
                    let panel = &mut panels[place * NR * depth..][..NR * depth];
                    let step = Step {
                        b: product.b,
                        inner: inner.clone(),
                        rows: rows.clone(),
                        columns,
                        first: i == 0,
                    };
                    // The last columns of many are often few: half a panel then does.
                    if NR == WIDE_COLUMNS && step.columns.len() <= F32_COLUMNS {
                        let panel = &mut panel[..F32_COLUMNS * depth];
                        step.run::<F32_COLUMNS, TALL, FUSED>(&store, left, panel);
                    } else {
                        step.run::<NR, TALL, FUSED>(&store, left, panel);
                    }
                }
            }
        }
    }
}

/// Some rows times a panel.
struct Step<'a, T> {
    b: (&'a [T], Matrix),
    inner: Range<usize>,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Whether the panel is still to be copied.
    first: bool,
}

impl<T: Float> Step<'_, T> {
    #[inline(always)]
    fn run<const NR: usize, const TALL: usize, const FUSED: bool>(
        &self,
        store: &Store<T>,
        left: &[T],
        panel: &mut [T],
    ) {
        let (depth, columns) = (self.inner.len(), self.columns.clone());
        if self.first {
            copy_panel::<T, NR, FUSED>(self.b, self.inner.clone(), columns.clone(), panel);
        }
        let tiles = self.rows.len().div_ceil(TALL);
        for (t, some) in cut(self.rows.clone(), TALL).enumerate() {
            if self.first {
                let next = columns.end;
                fetch_panel::<T, NR>(self.b, self.inner.clone(), next, [t, tiles]);
            }
            let left = &left[(some.start - self.rows.start) * depth..];
            let from = (&left[..some.len() * depth], &*panel);
            if TALL > MR && some.len() <= MR {
                store.tile::<NR, MR, FUSED>(from, some, columns.clone());
            } else {
                store.tile::<NR, TALL, FUSED>(from, some, columns.clone());
            }
        }
    }
}

/// A range in pieces of `most`.
#[inline(always)]
fn cut(all: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let end = all.end;
    all.step_by(most).map(move |i| i..(i + most).min(end))
}

/// The blocks of the inner dimension: one, of nothing, where it is empty.
#[inline(always)]
fn cut_all(k: usize) -> impl Iterator<Item = Range<usize>> {
    let empty = (k == 0).then_some(0..0);
    cut(0..k, DEPTH).chain(empty)
}

/// How sums get to the result.
struct Store<'a, T> {
    out: Out<T>,
    /// To what is there already.
    add: bool,
    finish: Option<Finish<'a, T>>,
}

impl<T: Float> Store<'_, T> {
    /// Up to TALL rows of the left matrix times a panel.
    #[inline(always)]
    fn tile<const NR: usize, const TALL: usize, const FUSED: bool>(
        &self,
        (left, panel): (&[T], &[T]),
        rows: Range<usize>,
        columns: Range<usize>,
    ) {
        let (height, width, row) = (rows.len(), columns.len(), self.out.row);
        let depth = left.len() / height;
        assert!(height <= TALL && width <= NR && panel.len() == depth * NR);
        // SAFETY: `Product::on` has checked that rows and columns lie in the
        // result.
        let first = unsafe { self.out.first.add(rows.start * row + columns.start) };
        // What is written is asked for now, so that it arrives while the sums
        // are made: its rows are far apart, which no processor foresees.
        for r in 0..height {
            prefetch(first.wrapping_add(r * row));
            if NR > F32_COLUMNS {
                prefetch(first.wrapping_add(r * row + width / 2));
            }
            prefetch(first.wrapping_add(r * row + width - 1));
        }
        // The last row stands in for those that are missing.
        let starts = std::array::from_fn(|r| left[r.min(height - 1) * depth..].as_ptr());
        let zeros = [[T::ZERO; NR]; TALL];
        // SAFETY: `left` has `depth` elements from each of the starts on, and
        // the panel NR times as many.
        let sums =
            unsafe { multiply_add::<T, NR, TALL, FUSED>(starts, panel.as_ptr(), depth, zeros) };
        if (height, width) == (TALL, NR) {
            // Of known size, so that the sums never leave their registers. (What is there
            // added in a loop of its own, as a convolution's residual is: every sum went
            // through memory in the innermost loop, and products took four times as long.)
            for (r, sums) in sums.iter().enumerate() {
                // SAFETY: as for `first`; no other task writes here.
                self.put(unsafe { &mut *first.add(r * row).cast::<[T; NR]>() }, sums);
            }
        } else {
            for (r, sums) in sums[..height].iter().enumerate() {
                // SAFETY: as above.
                let to = unsafe { std::slice::from_raw_parts_mut(first.add(r * row), width) };
                self.put(to, &sums[..width]);
            }
        }
        if let Some(finish) = self.finish {
            for (r, i) in rows.enumerate() {
                // SAFETY: as above.
                let to = unsafe { std::slice::from_raw_parts_mut(first.add(r * row), width) };
                finish(i, columns.start, to);
            }
        }
    }

    #[inline(always)]
    fn put(&self, to: &mut [T], sums: &[T]) {
        if self.add {
            to.iter_mut().zip(sums).for_each(|(t, &s)| *t += s);
        } else {
            to.copy_from_slice(sums);
        }
    }
}

/// Rows of the left matrix, each as long as `inner`.
#[inline(always)]
fn copy_rows<T: Float, const AVX: bool>(
    (from, at): (&[T], Matrix),
    rows: Range<usize>,
    inner: Range<usize>,
    to: &mut [T],
) {
    let depth = inner.len();
    if depth == 0 {
        return;
    }
    let to = &mut to[..rows.len() * depth];
    if at.row == 1 {
        let from = &from[at.at(rows.start, inner.start)..];
        // SAFETY: AVX is claimed where it was detected.
        unsafe { transpose::<T, AVX>([depth, rows.len()], (from, at.column), (to, depth)) };
        return;
    }
    for (row, to) in rows.zip(to.chunks_exact_mut(depth)) {
        let start = at.at(row, inner.start);
        if at.column == 1 {
            to.copy_from_slice(&from[start..start + depth]);
        } else {
            for (i, to) in to.iter_mut().enumerate() {
                *to = from[start + i * at.column];
            }
        }
    }
}

/// Up to NR columns of the right matrix, followed by zeros, as rows of NR.
#[inline(always)]
fn copy_panel<T: Float, const NR: usize, const AVX: bool>(
    (from, at): (&[T], Matrix),
    inner: Range<usize>,
    columns: Range<usize>,
    panel: &mut [T],
) {
    let (depth, width) = (inner.len(), columns.len());
    if width < NR {
        panel.fill(T::ZERO);
    }
    if depth == 0 {
        return;
    }
    if at.row == 1 {
        let from = &from[at.at(inner.start, columns.start)..];
        // SAFETY: AVX is claimed where it was detected.
        unsafe { transpose::<T, AVX>([width, depth], (from, at.column), (panel, NR)) };
        return;
    }
    for (i, to) in inner.zip(panel.chunks_exact_mut(NR)) {
        let start = at.at(i, columns.start);
        if at.column != 1 {
            for (j, to) in to[..width].iter_mut().enumerate() {
                *to = from[start + j * at.column];
            }
        } else if width == NR {
            to.copy_from_slice(&from[start..start + NR]);
        } else {
            to[..width].copy_from_slice(&from[start..start + width]);
        }
    }
}

/// Asks for a part, that of tile `t` of `tiles`, of the panel that begins with
/// column `first`, so that it arrives while this one is multiplied: of its rows,
/// far apart, no processor foresees the next.
#[inline(always)]
fn fetch_panel<T: Float, const NR: usize>(
    (from, at): (&[T], Matrix),
    inner: Range<usize>,
    first: usize,
    [t, tiles]: [usize; 2],
) {
    let part = |all: usize| all * t / tiles..all * (t + 1) / tiles;
    let ask = |i: usize, j: usize| prefetch_far(from.as_ptr().wrapping_add(at.at(i, j)));
    if at.row == 1 {
        for j in part(NR) {
            let lines = inner.clone().step_by(64 / size_of::<T>());
            lines.for_each(|i| ask(i, first + j));
        }
    } else {
        part(inner.len()).for_each(|i| ask(inner.start + i, first));
    }
}
