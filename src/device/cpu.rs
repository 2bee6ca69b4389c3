//! Memory of the CPU device, and how work is divided over its threads.
//!
//! Operators run on the rayon pool that they are called in (see
//! [`crate::Runner`]). Work is always cut at places that depend on shapes
//! alone and partial results are joined in a fixed order, so the number of
//! threads never changes a bit of any result.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;
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
    lines: Lines,
    len: usize,
}

/// Memory of whole cache lines.
enum Lines {
    /// The allocator's.
    Small(Vec<Line>),
    /// The system's: what is let go then leaves the process, which it need not when an
    /// allocator has it between other pieces, and it comes as zeros that nobody wrote.
    Large(MmapMut),
}

impl Lines {
    /// Zeros.
    fn new(count: usize) -> Self {
        let bytes = count * size_of::<Line>();
        let mapped = (bytes >= KEPT_FROM).then(|| MmapMut::map_anon(bytes));
        match mapped {
            Some(Ok(mapped)) => Self::Large(mapped),
            // No memory, or no more mappings: the allocator has the last word.
            _ => Self::Small(vec![Line::zeroed(); count]),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Small(lines) => bytemuck::cast_slice(lines),
            Self::Large(mapped) => mapped,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small(lines) => bytemuck::cast_slice_mut(lines),
            Self::Large(mapped) => mapped,
        }
    }

    fn len(&self) -> usize {
        self.bytes().len()
    }
}

/// Memory of large buffers that were dropped, oldest first. The system hands
/// out large allocations page by page, a fault and a page of zeros each, which
/// costs as much as a cheap operator; a model asks for the same sizes again and
/// again.
///
/// It is shared by the whole process, as the allocator below it is, and like
/// the allocator it is no state that a caller could observe: which memory a
/// buffer gets never reaches a result, because a buffer is either zeroed or, by
/// [`Buffer::unwritten`], promised to be written as a whole (tests check the
/// promise, see [`poison_unwritten`]). What it holds back is bounded, see
/// [`Spare::most`], whatever the number of models and threads. It is not one per
/// thread pool, since a tensor may be dropped on any thread: memory would
/// gather where it is not asked for.
static SPARE: Mutex<Spare> = Mutex::new(Spare::new());

/// Bytes from which memory is kept: smaller pieces are the allocator's business.
const KEPT_FROM: usize = 256 << 10;
/// Bytes that may be kept at any time. With half of it steps of the beta-VAE were slower by
/// what the system takes to hand out pages.
const KEPT: usize = 256 << 20;

struct Spare {
    kept: Vec<Lines>,
    /// Bytes of large buffers that are in use, and the most that were of late.
    used: usize,
    peak: usize,
}

impl Spare {
    const fn new() -> Self {
        Self {
            kept: Vec::new(),
            used: 0,
            peak: 0,
        }
    }

    /// Bytes that are kept at most: [`KEPT`], and what is not in use of the most that
    /// was of late. A training step whose gradients fill gigabytes then finds them again
    /// in the next one, and the process never holds more than [`KEPT`] beyond what it
    /// needed anyway. (With that alone, a third of a step of the beta-VAE, of 300
    /// million parameters, went into pages that the system zeroed; without it, one
    /// buffer too many made room by letting go of a much larger one.)
    fn most(&self) -> usize {
        KEPT + self.peak.saturating_sub(self.used)
    }

    /// `bytes` more are in use. What was the peak wears off over tens of thousands of
    /// large buffers, so that one large computation does not hold memory for good.
    fn lend(&mut self, bytes: usize) {
        self.used += bytes;
        self.peak = (self.peak - self.peak / (1 << 16)).max(self.used);
    }

    /// The smallest that fits and is not wastefully large; of several, the one that was
    /// dropped last, since more of it is still in the caches.
    fn take(&mut self, bytes: usize) -> Option<Lines> {
        let kept = &self.kept;
        let fits = (0..kept.len())
            .rev()
            .filter(|&i| (bytes..=bytes + bytes / 2).contains(&kept[i].len()));
        let best = fits.min_by_key(|&i| kept[i].len())?;
        Some(self.kept.remove(best))
    }

    /// Keeps `lines` if they are worth it, and lets go of the oldest beyond
    /// `most` bytes.
    fn keep(&mut self, lines: Lines, most: usize) {
        if !(KEPT_FROM..=most).contains(&lines.len()) {
            return;
        }
        self.kept.push(lines);
        self.trim(most);
    }

    /// Lets go of what is beyond `most` bytes and of little more: of the oldest that are no
    /// larger than that, in the end of the smallest. What is let go costs its size to get
    /// again, so a few bytes too many must not cost a buffer of hundreds of millions.
    fn trim(&mut self, most: usize) {
        let mut total: usize = self.kept.iter().map(Lines::len).sum();
        while let Some(excess) = total.checked_sub(most + 1) {
            let fits = |l: &Lines| l.len() <= excess + 1;
            let smallest = || (0..self.kept.len()).min_by_key(|&i| self.kept[i].len());
            let Some(goes) = self.kept.iter().position(fits).or_else(smallest) else {
                return;
            };
            total -= self.kept.remove(goes).len();
        }
    }
}

/// Memory for a buffer of `len` bytes, and whether it is known to be zero.
fn memory(len: usize) -> (Lines, bool) {
    let count = len.div_ceil(size_of::<Line>());
    let bytes = count * size_of::<Line>();
    if bytes >= KEPT_FROM {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let found = spare.take(bytes);
        spare.lend(found.as_ref().map_or(bytes, Lines::len));
        if let Some(found) = found {
            return (found, false);
        }
        let most = spare.most();
        spare.trim(most);
    }
    (Lines::new(count), true)
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::replace(&mut self.lines, Lines::Small(Vec::new()));
        if lines.len() >= KEPT_FROM {
            let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
            spare.used = spare.used.saturating_sub(lines.len());
            let most = spare.most();
            spare.keep(lines, most);
        }
    }
}

/// Whether unwritten buffers hold NaN instead of leftovers.
static POISON: AtomicBool = AtomicBool::new(cfg!(debug_assertions));

/// From now on fills every buffer that an operator promises to write as a
/// whole with NaN (every bit set), as debug builds always do: an element that
/// is then forgotten cannot pass for a result. For tests, which also run
/// optimised.
pub fn poison_unwritten() {
    POISON.store(true, Ordering::Relaxed);
}

impl Buffer {
    pub fn zeroed(len: usize) -> Self {
        let (mut lines, zero) = memory(len);
        if !zero {
            lines.bytes_mut()[..len].fill(0);
        }
        Self { lines, len }
    }

    /// A buffer that is written as a whole before it is read: what it holds
    /// until then is left from another one.
    pub fn unwritten(len: usize) -> Self {
        let (mut lines, _) = memory(len);
        if POISON.load(Ordering::Relaxed) {
            lines.bytes_mut().fill(0xff);
        }
        Self { lines, len }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.lines.bytes()[..self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.lines.bytes_mut()[..self.len]
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

thread_local! {
    /// Memory that the tasks of a thread use one after the other.
    static SCRATCH: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Calls `f` with `len` elements, aligned to a cache line, that hold anything.
/// The memory stays with the thread for the next call.
pub fn with_scratch<T: Element, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let count = (len * size_of::<T>()).div_ceil(size_of::<Line>());
    let mut lines = SCRATCH.take();
    if lines.len() < count {
        lines = vec![Line::zeroed(); count];
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut lines)[..len]);
    SCRATCH.set(lines);
    result
}

/// A result of which every task writes parts of its own, where these cannot be cut
/// off as slices: rectangles, or channels of pixels.
#[derive(Clone, Copy)]
pub struct Parts<'a, T> {
    first: *mut T,
    len: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: a task has only the elements that it takes by `part`, which promises that
// no other has them.
unsafe impl<T: Send> Send for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub fn of(all: &'a mut [T]) -> Self {
        Self {
            first: all.as_mut_ptr(),
            len: all.len(),
            of: PhantomData,
        }
    }

    /// # Panics
    /// A part that is not inside the result.
    ///
    /// # Safety
    /// No two parts that are in use overlap.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "what the caller promises above")]
    pub unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at);
        // SAFETY: inside the slice that is borrowed for as long as `self`, and the
        // caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(at), len) }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: usize) -> Lines {
        Lines::new(bytes / size_of::<Line>())
    }

    fn at(lines: &Lines) -> *const u8 {
        lines.bytes().as_ptr()
    }

    #[test]
    fn dropped_memory_serves_again() {
        let mut spare = Spare::new();
        let (small, large) = (lines(KEPT_FROM), lines(2 * KEPT_FROM));
        let (at_small, at_large) = (at(&small), at(&large));
        let count = small.len();
        spare.keep(large, KEPT);
        spare.keep(small, KEPT);
        assert!(spare.take(4 * count).is_none(), "none is large enough");
        assert!(spare.take(count / 2).is_none(), "all are wastefully large");
        let small = spare.take(count - 1).unwrap();
        assert_eq!(at(&small), at_small);
        assert!(spare.take(count).is_none(), "the small one is in use");
        let large = spare.take(2 * count).unwrap();
        assert_eq!(at(&large), at_large);
        assert!(spare.kept.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut spare = Spare::new();
        spare.keep(lines(KEPT_FROM - 64), KEPT);
        assert!(spare.kept.is_empty(), "too small to be worth it");
        spare.keep(lines(4 * KEPT_FROM), 3 * KEPT_FROM);
        assert!(spare.kept.is_empty(), "larger than all that may be kept");
        let all: Vec<_> = (0..5).map(|_| lines(KEPT_FROM)).collect();
        let newest: Vec<_> = all[2..].iter().map(at).collect();
        all.into_iter().for_each(|l| spare.keep(l, 3 * KEPT_FROM));
        let kept: Vec<_> = spare.kept.iter().map(at).collect();
        assert_eq!(kept, newest);
    }

    #[test]
    fn a_few_bytes_too_many_cost_no_large_buffer() {
        let mut spare = Spare::new();
        let large = lines(8 * KEPT_FROM);
        let at_large = at(&large);
        spare.keep(large, 10 * KEPT_FROM);
        (0..3).for_each(|_| spare.keep(lines(KEPT_FROM), 10 * KEPT_FROM));
        let sizes: Vec<usize> = spare.kept.iter().map(Lines::len).collect();
        assert_eq!(sizes, [8 * KEPT_FROM, KEPT_FROM, KEPT_FROM]);
        assert_eq!(at(&spare.kept[0]), at_large);
        spare.trim(7 * KEPT_FROM);
        assert!(spare.kept.is_empty(), "the small ones are too little");
    }

    #[test]
    fn what_was_in_use_of_late_may_be_kept() {
        let mut spare = Spare::new();
        assert_eq!(spare.most(), KEPT);
        spare.lend(4 * KEPT);
        assert_eq!(spare.most(), KEPT, "all of it is in use");
        spare.used -= 3 * KEPT;
        assert_eq!(spare.most(), 4 * KEPT);
        for _ in 0..1 << 18 {
            spare.lend(0);
        }
        assert_eq!(spare.most(), KEPT, "it wore off");
    }

    #[test]
    fn reused_memory_is_zeroed_and_poisoned() {
        poison_unwritten();
        for len in [100, KEPT_FROM, KEPT_FROM + 100] {
            for _ in 0..3 {
                Buffer::zeroed(len).bytes_mut().fill(7);
                assert!(Buffer::zeroed(len).bytes().iter().all(|&b| b == 0));
                let unwritten = Buffer::unwritten(len);
                assert!(unwritten.as_slice::<f32>().iter().all(|v| v.is_nan()));
                assert!(unwritten.as_slice::<f64>().iter().all(|v| v.is_nan()));
            }
        }
    }
}
