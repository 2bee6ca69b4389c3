//! The products of src/ops/matmul with a bias and an activation.

use crate::device::cuda::{device_of, f32_only, kernels};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::Activation;
use crate::ops::matmul::cuda::{Epilogue, Kernels, Product};
use crate::ops::matmul::gradients::{self, Gradients, fits};
use crate::ops::matmul::tensor_cores;
use crate::shape::{Format, Layout, MAX_RANK, Shape};
use crate::tensor::Tensor;

/// The result and, if `keep` asks for it and bf16 or f16 has an activation, what
/// that was applied to. In f32 the activation is left out under `keep`.
pub(super) fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
    keep: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let op = "linear";
    let mut operands = vec![x, w];
    operands.extend(bias);
    let device = device_of(op, &operands)?;

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
    let (a, b) = (
        (&x, Layout::contiguous(Shape::new(&[rows, k])?)),
        (w, w.layout().permute(&[1, 0])),
    );
    let Some(kernels) = half_kernels(x.dtype()) else {
        f32_only(op, &operands)?;
        let product = Product {
            op,
            kernels: Kernels {
                small: &kernels::EOSIN_LINEAR_FORWARD_64_F32,
                large: &kernels::EOSIN_LINEAR_FORWARD_128_F32,
                join: &kernels::EOSIN_LINEAR_FORWARD_JOIN_F32,
            },
            a,
            b,
            bias: bias.as_ref(),
            epilogue: match keep {
                true => Epilogue::default(),
                false => Epilogue::new(activation),
            },
        };
        return Ok((product.run(&device, shape)?, None));
    };
    let product = tensor_cores::Product {
        op,
        kernels,
        a,
        b,
        bias: bias.as_ref(),
        epilogue: Epilogue::new(activation),
        to: x.dtype(),
        keep: keep && activation != Activation::None,
    };
    product.run(&device, shape)
}

static BACKWARD: gradients::Kernels = [
    [
        &kernels::EOSIN_LINEAR_BACKWARD_64_F32,
        &kernels::EOSIN_LINEAR_BACKWARD_128_F32,
    ],
    [
        &kernels::EOSIN_LINEAR_BACKWARD_64_BF16,
        &kernels::EOSIN_LINEAR_BACKWARD_128_BF16,
    ],
    [
        &kernels::EOSIN_LINEAR_BACKWARD_64_F16,
        &kernels::EOSIN_LINEAR_BACKWARD_128_F16,
    ],
];

/// Whether [`gradients`] has a kernel for these operands.
pub(super) fn has_gradients(x: &Tensor, w: &Tensor) -> bool {
    x.dtype() == w.dtype() && fits(x.dtype(), sizes(x, w))
}

/// M, N, K
fn sizes(x: &Tensor, w: &Tensor) -> [usize; 3] {
    let (n, k) = (w.shape()[0], w.shape()[1]);
    [x.elements().checked_div(k).unwrap_or(0), n, k]
}

/// Those of x, to which `more` is added, w and, if asked for, the bias.
pub(super) fn gradients(
    [x, g, w]: [&Tensor; 3],
    more: Option<&Tensor>,
    biased: bool,
) -> Result<(Tensor, (Tensor, Option<Tensor>))> {
    let op = "linear_gradient";
    let mut operands = vec![x, g, w];
    operands.extend(more);
    let device = device_of(op, &operands)?;
    let sizes = sizes(x, w);
    let dense = |t: &Tensor| t.detach().to_format(Format::Contiguous);
    let (x, g, w) = (dense(x)?, dense(g)?, dense(w)?);
    let more = more.map(dense).transpose()?;
    let empty = |shape: &[usize]| device.empty(Layout::contiguous(Shape::new(shape)?), x.dtype());
    let (gx, gw) = (empty(x.shape())?, empty(w.shape())?);
    let gb = biased.then(|| empty(&sizes[1..2])).transpose()?;
    let product = Gradients {
        op,
        kernels: &BACKWARD,
        x: &x,
        g: &g,
        w: &w,
        more: more.as_ref(),
        sizes,
    };
    product.run(&device, &gx, &gw, gb.as_ref())?;
    Ok((gx, (gw, gb)))
}

fn half_kernels(dtype: DType) -> Option<tensor_cores::Kernels> {
    Some(match dtype {
        DType::BF16 => tensor_cores::Kernels {
            rows: [
                [
                    &kernels::EOSIN_LINEAR_FORWARD_NN_64_BF16,
                    &kernels::EOSIN_LINEAR_FORWARD_NN_128_BF16,
                    &kernels::EOSIN_LINEAR_FORWARD_WGMMA_NN_128_BF16,
                    &kernels::EOSIN_LINEAR_FORWARD_WGMMA_NN_256_BF16,
                ],
                [
                    &kernels::EOSIN_LINEAR_FORWARD_NT_64_BF16,
                    &kernels::EOSIN_LINEAR_FORWARD_NT_128_BF16,
                    &kernels::EOSIN_LINEAR_FORWARD_WGMMA_NT_128_BF16,
                    &kernels::EOSIN_LINEAR_FORWARD_WGMMA_NT_256_BF16,
                ],
            ],
            columns: None,
            join: &kernels::EOSIN_LINEAR_FORWARD_JOIN_BF16,
        },
        DType::F16 => tensor_cores::Kernels {
            rows: [
                [
                    &kernels::EOSIN_LINEAR_FORWARD_NN_64_F16,
                    &kernels::EOSIN_LINEAR_FORWARD_NN_128_F16,
                    &kernels::EOSIN_LINEAR_FORWARD_WGMMA_NN_128_F16,
                    &kernels::EOSIN_LINEAR_FORWARD_WGMMA_NN_256_F16,
                ],
                [
                    &kernels::EOSIN_LINEAR_FORWARD_NT_64_F16,
                    &kernels::EOSIN_LINEAR_FORWARD_NT_128_F16,
                    &kernels::EOSIN_LINEAR_FORWARD_WGMMA_NT_128_F16,
                    &kernels::EOSIN_LINEAR_FORWARD_WGMMA_NT_256_F16,
                ],
            ],
            columns: None,
            join: &kernels::EOSIN_LINEAR_FORWARD_JOIN_F16,
        },
        _ => return None,
    })
}
