//! Arithmetic in the shape that the compiler turns into vector instructions.
//!
//! Sums go through a fixed number of lanes, joined in a fixed order. No fused
//! multiply-add is used, so a processor with wider vectors gives the same bits
//! as one without.

use crate::dtype::{DType, Float};
pub(crate) use crate::ops::matmul::cpu::kernel::has_wide_vectors;

/// Defines a function three times, for the vectors that every processor of the target
/// has, for AVX2 and for AVX-512, and calls the best one that this processor can run.
macro_rules! vectorised {
    ($(#[$meta:meta])*
     fn $name:ident<T: Float $(, const $flag:ident: bool)?>($($arg:ident: $type:ty),* $(,)?) $body:block
    ) => {
        $(#[$meta])*
        fn $name<T: Float $(, const $flag: bool)?>($($arg: $type),*) {
            #[inline(always)]
            fn on_any<T: Float $(, const $flag: bool)?>($($arg: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn on_avx2<T: Float $(, const $flag: bool)?>($($arg: $type),*) {
                    on_any::<T $(, $flag)?>($($arg),*);
                }
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
                fn on_avx512<T: Float $(, const $flag: bool)?>($($arg: $type),*) {
                    on_any::<T $(, $flag)?>($($arg),*);
                }
                if $crate::ops::vector::has_wide_vectors() {
                    // SAFETY: the processor has what `on_avx512` is compiled for.
                    return unsafe { on_avx512::<T $(, $flag)?>($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has what `on_avx2` is compiled for.
                    return unsafe { on_avx2::<T $(, $flag)?>($($arg),*) };
                }
            }
            on_any::<T $(, $flag)?>($($arg),*);
        }
    };
}
pub(crate) use vectorised;

/// A loop that [`widest`] compiles for several kinds of vectors. `run` should be
/// `#[inline(always)]`, and what it calls small enough to be inlined.
pub(crate) trait Vectors {
    fn run(self);
}

/// Runs a loop compiled for the widest vectors that this processor has. As in
/// [`vectorised`] functions no result depends on which these are.
pub(crate) fn widest(work: impl Vectors) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn on_avx2(work: impl Vectors) {
            work.run();
        }
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
        fn on_avx512(work: impl Vectors) {
            work.run();
        }
        if has_wide_vectors() {
            // SAFETY: the processor has what `on_avx512` is compiled for.
            return unsafe { on_avx512(work) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what `on_avx2` is compiled for.
            return unsafe { on_avx2(work) };
        }
    }
    work.run();
}

const LANES: usize = 16;

/// The sum of `f(a, b)` over pairs of elements: in lanes of `T` over short
/// stretches, which keeps the rounding of f32 small, and in f64 over these.
#[inline(always)]
pub(crate) fn sum_pairs<T: Float>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> f64 {
    const STRETCH: usize = 32 * LANES;
    let mut total = 0.0;
    for (a, b) in a.chunks(STRETCH).zip(b.chunks(STRETCH)) {
        let mut lanes = [T::ZERO; LANES];
        let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        let rest = a.remainder().iter().zip(b.remainder());
        for (a, b) in a.zip(b) {
            for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += f(a, b);
            }
        }
        for (lane, (&a, &b)) in lanes.iter_mut().zip(rest) {
            *lane += f(a, b);
        }
        let mut width = LANES / 2;
        while width > 0 {
            let (low, high) = lanes.split_at_mut(width);
            low.iter_mut().zip(high).for_each(|(l, &mut h)| *l += h);
            width /= 2;
        }
        total += lanes[0].to_f64();
    }
    total
}

/// The largest element, minus infinity if there is none; NaN may be passed over.
#[inline(always)]
pub(crate) fn largest<T: Float>(x: &[T]) -> T {
    // What one vector instruction computes, unlike `max`.
    let larger = |a: T, b: T| if b > a { b } else { a };
    let mut lanes = [T::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, v);
        }
    }
    let rest = rest.iter().copied().fold(T::NEG_INFINITY, larger);
    lanes.into_iter().fold(rest, larger)
}

/// e^x: in f32 without branches or calls, within 2 units in the last place; in
/// f64 that of the standard library.
#[inline(always)]
pub(crate) fn exp<T: Float>(x: T) -> T {
    if T::DTYPE == DType::F32 {
        // f32 -> f64 -> f32 is exact and compiles to nothing.
        T::from_f64(exp_f32(x.to_f64() as f32).into())
    } else {
        x.exp()
    }
}

/// x = n ln 2 + r with |r| <= ln 2 / 2, so e^x = 2^n e^r; the series of e^r up
/// to r^7 leaves out less than 6e-9.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    // Added and taken away again, this rounds to an integer, and the low bits of
    // the sum are that integer.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    // ln 2 in two parts; n times the first is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = (std::f64::consts::LN_2 - 355.0 / 512.0) as f32;

    // Beyond these limits e^x is 0 or infinite. NaN passes both comparisons.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut series = 1.0 / 5040.0;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        series = series * r + coefficient;
    }
    // 2^n in two factors, because 2^-150 and 2^128 are no f32 themselves.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    series * power(n >> 1) * power(n.wrapping_sub(n >> 1))
}

/// In f32 without branches or calls, within 3 units in the last place; in f64 that of the
/// standard library.
#[inline(always)]
pub(crate) fn tanh<T: Float>(x: T) -> T {
    if T::DTYPE == DType::F32 {
        T::from_f64(tanh_f32(x.to_f64() as f32).into())
    } else {
        x.tanh()
    }
}

/// Near 0, where 1 - 2 / (e^(2 x) + 1) cancels, x + x^3 p(x^2), p fitted for the smallest largest
/// relative error, 7e-10 (least squares reweighted by the error, 4,000 Chebyshev nodes).
#[inline(always)]
fn tanh_f32(x: f32) -> f32 {
    const NEAR: f32 = 0.7;
    const FITTED: [f32; 5] = [
        -0.007_883_308,
        0.021_571_059,
        -0.053_920_954,
        0.133_329_84,
        -0.333_333_25,
    ];
    let (size, square) = (x.abs(), x * x);
    let mut series = 0.001_895_665_8;
    for coefficient in FITTED {
        series = series * square + coefficient;
    }
    let near = size + size * square * series;
    let far = 1.0 - 2.0 / (exp_f32(2.0 * size) + 1.0);
    let size = if size < NEAR { near } else { far };
    size.copysign(x)
}

/// Distribution function and density of the standard normal distribution at x: in
/// f32 without branches or calls, both within 2e-7, the first also within 1e-6 of
/// itself down to x = -5 (3e-6 to -9); in f64 by the libraries.
#[inline(always)]
pub(crate) fn gaussian<T: Float>(x: T) -> (T, T) {
    if T::DTYPE == DType::F32 {
        let (below, density) = gaussian_f32(x.to_f64() as f32);
        (T::from_f64(below.into()), T::from_f64(density.into()))
    } else {
        // By erfc, because 1 + erf(x) cancels for negative x.
        let below = T::from_f64(0.5) * (x * T::from_f64(-std::f64::consts::FRAC_1_SQRT_2)).erfc();
        let scale = T::from_f64(0.398_942_280_401_432_7); // 1 / sqrt(2 pi)
        (below, scale * (x * x * T::from_f64(-0.5)).exp())
    }
}

/// With z = |x| / sqrt(2), erfc(z) e^(z^2) is smooth in t = 1 / (1 + 0.45 z), which
/// takes all z to (0, 1]: t times a polynomial, fitted for the smallest largest
/// relative error, 3.2e-8 (least squares reweighted by the error, 4,000 Chebyshev
/// nodes). erf(z) instead would cancel for negative x.
#[inline(always)]
fn gaussian_f32(x: f32) -> (f32, f32) {
    const FITTED: [f32; 9] = [
        0.191_072_32,
        -0.301_281_2,
        0.143_089_71,
        -0.022_757_58,
        0.120_089_084,
        0.175_224_21,
        0.228_274_64,
        0.253_883,
        0.253_885_33,
    ];
    let t = 1.0 / (1.0 + 0.45 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let mut series = -0.041_479_5;
    for coefficient in FITTED {
        series = series * t + coefficient;
    }
    let bell = exp_f32(x * x * -0.5);
    let tail = 0.5 * bell * (series * t);
    let below = if x > 0.0 { 1.0 - tail } else { tail };
    (below, 0.398_942_3 * bell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_two_units() {
        for i in -1_030_000..=887_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            // Below 2^-126 the unit no longer shrinks.
            let unit = (exact * 2f64.powi(-23)).max(2f64.powi(-149));
            let error = (f64::from(exp(x)) - exact).abs() / unit;
            assert!(error <= 2.0, "e^{x} is off by {error} units");
        }
    }

    #[test]
    fn tanh_is_exact_to_three_units() {
        for i in -1_000_000..=1_000_000 {
            let x = i as f32 * 1e-5;
            let exact = f64::from(x).tanh();
            let unit = f64::from(f32::EPSILON) * 2f64.powf(exact.abs().log2().floor());
            let error = (f64::from(tanh(x)) - exact).abs();
            assert!(error <= 3.0 * unit, "tanh {x} is off by {}", error / unit);
        }
        for x in [1e-30f32, 1e-40, 0.0, -0.0] {
            assert_eq!(tanh(x).to_bits(), x.to_bits());
        }
        for (x, y) in [(f32::INFINITY, 1.0), (-1e30, -1.0), (-20.0, -1.0)] {
            assert_eq!(tanh(x), y, "{x}");
        }
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn exp_at_the_ends() {
        for x in [f32::NEG_INFINITY, -1e30, -104.0] {
            assert_eq!(exp(x), 0.0, "{x}");
        }
        for x in [f32::INFINITY, 1e30, 89.0] {
            assert_eq!(exp(x), f32::INFINITY, "{x}");
        }
        assert_eq!((exp(0.0f32), exp(-0.0f32)), (1.0, 1.0));
        assert!(exp(f32::NAN).is_nan() && exp(f64::NAN).is_nan());
    }

    #[test]
    fn gaussian_is_near_the_libraries() {
        for i in -90_000..=90_000 {
            let x = i as f32 * 1e-4;
            let (below, density) = gaussian(x);
            let exact = gaussian(f64::from(x));
            let errors = [f64::from(below) - exact.0, f64::from(density) - exact.1];
            assert!(errors.iter().all(|e| e.abs() <= 2e-7), "at {x}: {errors:?}");
            let tail = if x < -5.0 { 3e-6 } else { 1e-6 };
            assert!(errors[0].abs() <= tail * exact.0, "at {x}: {errors:?}");
        }
        assert_eq!(gaussian(f32::NEG_INFINITY), (0.0, 0.0));
        assert_eq!(gaussian(f32::INFINITY), (1.0, 0.0));
        let (below, density) = gaussian(f32::NAN);
        assert!(below.is_nan() && density.is_nan());
    }

    #[test]
    fn sums_and_maxima_of_any_length() {
        for n in [0, 1, 15, 16, 17, 511, 512, 513, 2000] {
            let x: Vec<f32> = (0..n).map(|i| (i % 7) as f32).collect();
            let exact: f64 = x.iter().map(|&v| f64::from(v * 3.0)).sum();
            assert_eq!(sum_pairs(&x, &x, |a, b| a + b + b), exact);
            let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(largest(&x), top);
        }
    }
}
