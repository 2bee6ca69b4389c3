use gemm::Parallelism;

use super::Activation;
use crate::device::cpu;
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops::half::{is_half, widened};
use crate::ops::matmul::cpu::{Matrix, product};
use crate::ops::pointwise::scalar;
use crate::shape::{Format, Layout, MAX_RANK, Shape};
use crate::tensor::Tensor;

pub(super) fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
) -> Result<Tensor> {
    if is_half(x) {
        return match bias {
            Some(b) => widened([x, w, b], |[x, w, b]| linear(x, w, Some(b), activation)),
            None => widened([x, w], |[x, w]| linear(x, w, None, activation)),
        };
    }
    match x.dtype() {
        DType::F64 => run::<f64>(x, w, bias, activation),
        _ => run::<f32>(x, w, bias, activation),
    }
}

fn run<T: Float>(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
) -> Result<Tensor> {
    let (n, k) = (w.shape()[0], w.shape()[1]);
    let last = x.rank() - 1;
    let mut dims = [0; MAX_RANK];
    dims[..last].copy_from_slice(&x.shape()[..last]);
    dims[last] = n;
    let shape = Shape::new(&dims[..last + 1])?;
    let x = x.detach().to_format(Format::Contiguous)?;
    let xs = x.dense_slice::<T>("linear")?;
    let ws = w.elements_of::<T>("linear")?;
    let bias = bias
        .map(|b| b.detach().to_format(Format::Contiguous))
        .transpose()?;
    let bias = bias
        .as_ref()
        .map(|b| b.dense_slice::<T>("linear"))
        .transpose()?;
    let m = shape.elements().checked_div(n).unwrap_or(0);
    let wt = Matrix {
        start: w.layout().offset(),
        row: w.layout().strides()[1],
        column: w.layout().strides()[0],
    };
    Ok(Tensor::build(
        Layout::contiguous(shape),
        |out: &mut [T]| {
            product(
                [m, k, n],
                (xs, Matrix::rows_of(0, k)),
                (ws, wt),
                (out, Matrix::rows_of(0, n)),
                false,
                Parallelism::Rayon(0),
            );
            if n == 0 || (bias.is_none() && activation == Activation::None) {
                return;
            }
            cpu::for_chunks(out, n, &|_, rows| {
                for row in rows.chunks_mut(n) {
                    if let Some(bias) = bias {
                        row.iter_mut().zip(bias).for_each(|(o, &b)| *o += b);
                    }
                    if let Some(f) = activation.function() {
                        scalar::apply_in_place(f, row);
                    }
                }
            });
        },
    ))
}
