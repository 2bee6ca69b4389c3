use super::Kind;
use crate::device::cpu;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, widened};
use crate::ops::vector::{exp, largest, sum_pairs, vectorised};
use crate::shape::{Format, Layout};
use crate::tensor::Tensor;

/// Along the last axis.
pub(super) fn forward(kind: Kind, x: &Tensor) -> Result<Tensor> {
    fn run<T: Float>(kind: Kind, x: &Tensor) -> Result<Tensor> {
        let (x, columns) = rows(x)?;
        let from = x.dense_slice::<T>(kind.name())?;
        let layout = Layout::contiguous(*x.layout().shape());
        Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
            cpu::for_chunks(out, columns, &|start, out| {
                let x = &from[start..start + out.len()];
                match kind {
                    Kind::Softmax => softmax_rows(columns, x, out),
                    Kind::LogSoftmax => log_softmax_rows(columns, x, out),
                }
            });
        }))
    }
    if is_half(x) {
        return widened([x], |[x]| forward(kind, x));
    }
    match x.dtype() {
        DType::F32 => run::<f32>(kind, x),
        DType::F64 => run::<f64>(kind, x),
        other => Err(Error::dtype(kind.name(), &[other], "a float is needed")),
    }
}

/// The gradient along the last axis from that of the output and the output.
pub(super) fn backward(kind: Kind, g: &Tensor, y: &Tensor) -> Result<Tensor> {
    fn run<T: Float>(kind: Kind, g: &Tensor, y: &Tensor) -> Result<Tensor> {
        let ((g, _), (y, columns)) = (rows(g)?, rows(y)?);
        let (gs, ys) = (
            g.dense_slice::<T>(kind.name())?,
            y.dense_slice::<T>(kind.name())?,
        );
        let layout = Layout::contiguous(*y.layout().shape());
        Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
            cpu::for_chunks(out, columns, &|start, out| {
                let part = start..start + out.len();
                let (g, y) = (&gs[part.clone()], &ys[part]);
                match kind {
                    Kind::Softmax => softmax_gradient_rows(columns, g, y, out),
                    Kind::LogSoftmax => log_softmax_gradient_rows(columns, g, y, out),
                }
            });
        }))
    }
    if is_half(g) || is_half(y) {
        return widened([g, y], |[g, y]| backward(kind, g, y));
    }
    match (g.dtype(), y.dtype()) {
        (DType::F32, DType::F32) => run::<f32>(kind, g, y),
        (DType::F64, DType::F64) => run::<f64>(kind, g, y),
        (a, b) => Err(Error::dtype(
            kind.name(),
            &[a, b],
            "two equal floats are needed",
        )),
    }
}

/// The rows in one piece, and their length.
fn rows(x: &Tensor) -> Result<(Tensor, usize)> {
    let columns = x.shape().last().copied().unwrap_or(1);
    Ok((x.to_format(Format::Contiguous)?, columns))
}

vectorised! {
    fn softmax_rows<T: Float>(columns: usize, x: &[T], out: &mut [T]) {
        for (x, out) in x.chunks_exact(columns).zip(out.chunks_exact_mut(columns)) {
            let top = largest(x);
            for (o, &v) in out.iter_mut().zip(x) {
                *o = exp(v - top);
            }
            let scale = T::from_f64(1.0 / sum_pairs(out, out, |e, _| e));
            out.iter_mut().for_each(|o| *o = *o * scale);
        }
    }
}

vectorised! {
    fn log_softmax_rows<T: Float>(columns: usize, x: &[T], out: &mut [T]) {
        for (x, out) in x.chunks_exact(columns).zip(out.chunks_exact_mut(columns)) {
            let top = largest(x);
            let total = sum_pairs(x, x, |v, _| exp(v - top));
            let log = T::from_f64(total.ln());
            for (o, &v) in out.iter_mut().zip(x) {
                *o = v - top - log;
            }
        }
    }
}

vectorised! {
    fn softmax_gradient_rows<T: Float>(columns: usize, g: &[T], y: &[T], out: &mut [T]) {
        let rows = g.chunks_exact(columns).zip(y.chunks_exact(columns));
        for ((g, y), out) in rows.zip(out.chunks_exact_mut(columns)) {
            let inner = T::from_f64(sum_pairs(g, y, |g, y| g * y));
            for ((o, &g), &y) in out.iter_mut().zip(g).zip(y) {
                *o = y * (g - inner);
            }
        }
    }
}

vectorised! {
    fn log_softmax_gradient_rows<T: Float>(columns: usize, g: &[T], y: &[T], out: &mut [T]) {
        let rows = g.chunks_exact(columns).zip(y.chunks_exact(columns));
        for ((g, y), out) in rows.zip(out.chunks_exact_mut(columns)) {
            let total = T::from_f64(sum_pairs(g, g, |g, _| g));
            for ((o, &g), &y) in out.iter_mut().zip(g).zip(y) {
                *o = g - exp(y) * total;
            }
        }
    }
}
