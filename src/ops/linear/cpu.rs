use super::Activation;
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops::half::{is_half, widened};
use crate::ops::matmul::cpu::blocked::{Finish, Matrix, Product};
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
    let finish = |_: usize, column: usize, sums: &mut [T]| {
        if let Some(bias) = bias {
            let bias = &bias[column..column + sums.len()];
            sums.iter_mut().zip(bias).for_each(|(s, &b)| *s += b);
        }
        if let Some(f) = activation.function() {
            scalar::apply_in_place(f, sums);
        }
    };
    let plain = bias.is_none() && activation == Activation::None;
    let product = Product {
        sizes: [m, k, n],
        a: (xs, Matrix::rows_of(0, k)),
        b: (ws, wt),
        accumulate: false,
        finish: (!plain).then_some(&finish as Finish<T>),
    };
    let layout = Layout::contiguous(shape);
    Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
        product.run(out, n);
    }))
}
