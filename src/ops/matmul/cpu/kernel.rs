//! The innermost loop of products and convolutions.

use crate::dtype::Float;

/// Rows that are summed at once: with two 256-bit registers of columns each
/// they take twelve of sixteen registers, which leaves four for operands.
pub(crate) const MR: usize = 6;

/// Sums of MR rows and NR columns.
pub(crate) type Sums<T, const NR: usize> = [[T; NR]; MR];

/// Columns of a panel: two 256-bit registers.
pub(crate) const F32_COLUMNS: usize = 16;
pub(crate) const F64_COLUMNS: usize = 8;

/// `sums[r][j]` plus `rows[r][i] * panel[i * NR + j]` for i < `count`, added in
/// the order of i. `FUSED`: with a rounding after the addition alone, which
/// should be one instruction of the processor.
///
/// Pointers, because slices left too few registers: all sums then went through
/// memory.
///
/// # Safety
/// Each of `rows` points to `count` elements, `panel` to `count * NR`.
#[inline(always)]
pub(crate) unsafe fn multiply_add<T: Float, const NR: usize, const FUSED: bool>(
    rows: [*const T; MR],
    panel: *const T,
    count: usize,
    mut sums: Sums<T, NR>,
) -> Sums<T, NR> {
    for i in 0..count {
        // SAFETY: i < count.
        let columns = unsafe { *panel.add(i * NR).cast::<[T; NR]>() };
        for (row, sum) in rows.iter().zip(&mut sums) {
            // SAFETY: as above.
            let value = unsafe { *row.add(i) };
            for (s, c) in sum.iter_mut().zip(columns) {
                *s = if FUSED {
                    value.mul_add(c, *s)
                } else {
                    *s + value * c
                };
            }
        }
    }
    sums
}

/// Asks for the cache line at an address, which may be any: a hint.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: it reads nothing, and no address makes it fail.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// As [`prefetch`], into the second-level cache.
#[inline(always)]
pub(crate) fn prefetch_far<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks for part `i` of `parts` of a slice, into the second-level cache: what is
/// read next, little by little while something else is computed. Else it is waited
/// for when it is first read, and memory idles at all other times.
#[inline(always)]
pub(crate) fn fetch_share<T>(ahead: &[T], i: usize, parts: usize) {
    let line = 64 / size_of::<T>();
    let lines = ahead.len().div_ceil(line);
    for l in lines * i / parts..lines * (i + 1) / parts {
        prefetch_far(ahead.as_ptr().wrapping_add(l * line));
    }
}
