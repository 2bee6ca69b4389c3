//! The product of src/ops/matmul/cuda.rs with a bias and an activation.

use crate::device::cuda::{device_of, f32_only, kernels};
use crate::error::Result;
use crate::ops::Activation;
use crate::ops::matmul::cuda::{Epilogue, Kernels, Product};
use crate::shape::{Format, Layout, MAX_RANK, Shape};
use crate::tensor::Tensor;

pub(super) fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
) -> Result<Tensor> {
    let op = "linear";
    let mut operands = vec![x, w];
    operands.extend(bias);
    let device = device_of(op, &operands)?;
    f32_only(op, &operands)?;

    let (n, k) = (w.shape()[0], w.shape()[1]);
    let last = x.rank() - 1;
    let mut dims = [0; MAX_RANK];
    dims[..=last].copy_from_slice(x.shape());
    dims[last] = n;
    let shape = Shape::new(&dims[..=last])?;
    let rows = x.shape()[..last].iter().product();

    let x = x.detach().to_format(Format::Contiguous)?;
    let bias = bias
        .map(|b| b.detach().to_format(Format::Contiguous))
        .transpose()?;
    let product = Product {
        op,
        kernels: Kernels {
            small: &kernels::EOSIN_LINEAR_FORWARD_64_F32,
            large: &kernels::EOSIN_LINEAR_FORWARD_128_F32,
            join: &kernels::EOSIN_LINEAR_FORWARD_JOIN_F32,
        },
        a: (&x, Layout::contiguous(Shape::new(&[rows, k])?)),
        b: (w, w.layout().permute(&[1, 0])),
        bias: bias.as_ref(),
        epilogue: Epilogue::new(activation),
    };
    product.run(&device, shape)
}
