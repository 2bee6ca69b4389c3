use rayon::prelude::*;

use super::Kind;
use crate::device::cpu;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, widened};
use crate::ops::vector::{exp, sum_pairs, vectorised};
use crate::shape::Format;
use crate::tensor::Tensor;

/// The mean of a function of pairs of elements times `factor`, NaN over none.
pub(super) fn mean_of(
    op: &'static str,
    kind: Kind,
    x: &Tensor,
    y: &Tensor,
    factor: f64,
) -> Result<Tensor> {
    if is_half(x) || is_half(y) {
        return widened([x, y], |[x, y]| mean_of(op, kind, x, y, factor));
    }
    match (x.dtype(), y.dtype()) {
        (DType::F32, DType::F32) => run::<f32>(op, kind, x, y, factor),
        (DType::F64, DType::F64) => run::<f64>(op, kind, x, y, factor),
        (a, b) => Err(Error::dtype(op, &[a, b], "two equal floats are needed")),
    }
}

fn run<T: Float>(
    op: &'static str,
    kind: Kind,
    x: &Tensor,
    y: &Tensor,
    factor: f64,
) -> Result<Tensor> {
    let (mut x, mut y) = (x.detach(), y.detach());
    // Any order of the pairs will do, as long as it is the same for both.
    let alike = x.layout().packed() == y.layout().packed();
    if !(alike && x.layout().is_dense() && y.layout().is_dense()) {
        x = x.to_format(Format::Contiguous)?;
        y = y.to_format(Format::Contiguous)?;
    }
    let (xs, ys) = (x.dense_slice::<T>(op)?, y.dense_slice::<T>(op)?);
    let total = sum_of_blocks(xs.len(), &|at, end| {
        let mut sum = 0.0;
        match kind {
            Kind::Squares => add_squares(&xs[at..end], &ys[at..end], &mut sum),
            Kind::BinaryEntropy => add_entropies(&xs[at..end], &ys[at..end], &mut sum),
        }
        sum
    });
    Tensor::scalar(factor * (total / xs.len() as f64), T::DTYPE)
}

/// The sum of `f(start, end)` over blocks that depend on `n` alone.
fn sum_of_blocks(n: usize, f: &(dyn Fn(usize, usize) -> f64 + Sync)) -> f64 {
    let blocks = 0..n.div_ceil(cpu::GRAIN);
    let parts: Vec<f64> = blocks
        .into_par_iter()
        .map(|i| f(i * cpu::GRAIN, ((i + 1) * cpu::GRAIN).min(n)))
        .collect();
    parts.iter().sum()
}

vectorised! {
    fn add_squares<T: Float>(x: &[T], y: &[T], sum: &mut f64) {
        *sum += sum_pairs(x, y, |x, y| (x - y) * (x - y));
    }
}

vectorised! {
    fn add_entropies<T: Float>(x: &[T], target: &[T], sum: &mut f64) {
        *sum += sum_pairs(x, target, |x, t| {
            let positive = if x > T::ZERO { x } else { T::ZERO };
            positive - x * t + (T::ONE + exp(-x.abs())).ln()
        });
    }
}
