//! Copies of small matrices with rows and columns exchanged.

use crate::dtype::Float;

/// Rows and columns that are exchanged in registers.
const ROWS: usize = 8;
const COLUMNS: usize = 4;

/// `to[j * to_stride + i] = from[i * from_stride + j]` for i < `rows` and
/// j < `columns`. `AVX`: whether the code around this is compiled for it.
///
/// Eight rows are read from end to end before the next ones: rows are often a
/// power of two apart, so that more of them would throw each other out of the
/// first-level cache.
///
/// # Panics
/// An element outside a slice.
///
/// # Safety
/// The processor has AVX if it is claimed.
#[inline(always)]
pub(super) unsafe fn transpose<T: Float, const AVX: bool>(
    [rows, columns]: [usize; 2],
    (from, from_stride): (&[T], usize),
    (to, to_stride): (&mut [T], usize),
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!((rows - 1) * from_stride + columns <= from.len());
    assert!((columns - 1) * to_stride + rows <= to.len());
    let (whole_rows, whole_columns) = (rows / ROWS * ROWS, columns / COLUMNS * COLUMNS);
    for i in (0..whole_rows).step_by(ROWS) {
        for j in (0..whole_columns).step_by(COLUMNS) {
            // SAFETY: the asserts bound the last element of the last tile, and
            // the caller says that the processor has AVX.
            unsafe {
                tile::<T, AVX>(
                    (from.as_ptr().add(i * from_stride + j), from_stride),
                    (to.as_mut_ptr().add(j * to_stride + i), to_stride),
                );
            }
        }
    }
    let mut one = |i: usize, j: usize| to[j * to_stride + i] = from[i * from_stride + j];
    for i in 0..whole_rows {
        (whole_columns..columns).for_each(|j| one(i, j));
    }
    for i in whole_rows..rows {
        (0..columns).for_each(|j| one(i, j));
    }
}

/// [`transpose`] by the best instructions of the processor.
///
/// # Panics
/// An element outside a slice.
pub(crate) fn transposed<T: Float>(sizes: [usize; 2], from: (&[T], usize), to: (&mut [T], usize)) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx")]
        fn on_avx<T: Float>(sizes: [usize; 2], from: (&[T], usize), to: (&mut [T], usize)) {
            // SAFETY: who calls this has seen that there is AVX.
            unsafe { transpose::<T, true>(sizes, from, to) };
        }
        if std::is_x86_feature_detected!("avx") {
            // SAFETY: the processor has it.
            return unsafe { on_avx(sizes, from, to) };
        }
    }
    // SAFETY: nothing is claimed.
    unsafe { transpose::<T, false>(sizes, from, to) };
}

/// # Safety
/// ROWS x COLUMNS elements lie at `from`, and room for COLUMNS x ROWS at `to`;
/// the processor has AVX if it is claimed.
#[inline(always)]
unsafe fn tile<T: Float, const AVX: bool>(
    (from, from_stride): (*const T, usize),
    (to, to_stride): (*mut T, usize),
) {
    #[cfg(target_arch = "x86_64")]
    if AVX && size_of::<T>() == size_of::<f32>() {
        // SAFETY: as the caller says.
        unsafe { tile_avx((from.cast(), from_stride), (to.cast(), to_stride)) };
        return;
    }
    for i in 0..ROWS {
        for j in 0..COLUMNS {
            // SAFETY: as the caller says.
            unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) };
        }
    }
}

/// Each 128-bit half of a register is a 4 x 4 square, exchanged by two rounds
/// of shuffles.
///
/// # Safety
/// As [`tile`]'s.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn tile_avx((from, from_stride): (*const f32, usize), (to, to_stride): (*mut f32, usize)) {
    use std::arch::x86_64::{
        _mm_loadu_ps, _mm256_set_m128, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
        _mm256_unpacklo_ps,
    };
    // SAFETY: as the caller says.
    unsafe {
        let half = |i: usize| _mm_loadu_ps(from.add(i * from_stride));
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| _mm256_set_m128(half(i + 4), half(i)));
        let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        let columns = [
            _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd),
            _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd),
            _mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
            _mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
        ];
        for (j, column) in columns.into_iter().enumerate() {
            _mm256_storeu_ps(to.add(j * to_stride), column);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Float, const AVX: bool>(rows: usize, columns: usize) {
        let (from_stride, to_stride) = (columns + 3, rows + 5);
        let from: Vec<T> = (0..rows * from_stride)
            .map(|i| T::from_f64(i as f64))
            .collect();
        let untouched = T::from_f64(-1.0);
        let mut to = vec![untouched; columns * to_stride];
        // SAFETY: AVX is claimed where it was detected.
        unsafe {
            transpose::<T, AVX>([rows, columns], (&from, from_stride), (&mut to, to_stride));
        }
        for j in 0..columns {
            for i in 0..to_stride {
                let expected = if i < rows {
                    from[i * from_stride + j]
                } else {
                    untouched
                };
                assert!(
                    to[j * to_stride + i] == expected,
                    "{rows} x {columns}: {i}, {j}"
                );
            }
        }
    }

    #[test]
    fn every_element_arrives_and_nothing_else_is_written() {
        for rows in 1..20 {
            for columns in 1..20 {
                check::<f32, false>(rows, columns);
                check::<f64, false>(rows, columns);
                #[cfg(target_arch = "x86_64")]
                if std::is_x86_feature_detected!("avx") {
                    check::<f32, true>(rows, columns);
                }
            }
        }
    }
}
