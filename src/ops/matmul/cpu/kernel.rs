//! The innermost loop of products and convolutions.

use crate::dtype::Float;

/// Rows that are summed at once: with two 256-bit registers of columns each
/// they take twelve of sixteen registers, which leaves four for operands.
pub(crate) const MR: usize = 6;

/// Sums of some rows, MR of them unless said otherwise, and NR columns.
pub(crate) type Sums<T, const NR: usize, const ROWS: usize = MR> = [[T; NR]; ROWS];

/// Columns of a panel: two 256-bit registers.
pub(crate) const F32_COLUMNS: usize = 16;
pub(crate) const F64_COLUMNS: usize = 8;

/// Rows and columns of f32 that are summed at once where a processor has 512-bit
/// registers: two of columns for each row take 24 of 32. Others would do as well
/// (14 x 32, 8 x 48, 6 x 64: within 1 % on Zen 5, but 14 pointers to rows no longer fit
/// the general registers), and 32 columns waste nothing on common numbers of channels.
pub(crate) const WIDE_ROWS: usize = 12;
pub(crate) const WIDE_COLUMNS: usize = 32;

/// Whether [`WIDE_ROWS`] by [`WIDE_COLUMNS`] sums fit the registers. Each of them is
/// the same chain of operations either way, so this changes no bit of a result.
pub(crate) fn has_wide_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512vl")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

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
pub(crate) unsafe fn multiply_add<
    T: Float,
    const NR: usize,
    const ROWS: usize,
    const FUSED: bool,
>(
    rows: [*const T; ROWS],
    panel: *const T,
    count: usize,
    mut sums: Sums<T, NR, ROWS>,
) -> Sums<T, NR, ROWS> {
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
