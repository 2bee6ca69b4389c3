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

/// The result and, if `keep` asks for it and there is an activation, what that was
/// applied to.
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
    let keep = keep && activation != Activation::None;

    let (n, k) = (w.shape()[0], w.shape()[1]);
    let last = x.rank() - 1;
    let mut dims = [0; MAX_RANK];
    dims[..=last].copy_from_slice(x.shape());
    dims[last] = n;
    let shape = Shape::new(&dims[..=last])?;
    let rows = x.shape()[..last].iter().product();

    let x = by_rows(x)?;
    let bias = bias
        .map(|b| b.detach().to_format(Format::Contiguous))
        .transpose()?;
    let (a, b) = (
        (&x, rows_of(&x, [rows, k])?),
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
            epilogue: Epilogue::new(activation),
            keep,
        };
        return product.run(&device, shape);
    };
    let product = tensor_cores::Product {
        op,
        kernels,
        a,
        b,
        bias: bias.as_ref(),
        epilogue: Epilogue::new(activation),
        to: x.dtype(),
        keep,
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

/// x as it is if it is a matrix whose rows lie in one piece, else row-major.
fn by_rows(x: &Tensor) -> Result<Tensor> {
    let matrix = x.rank() == 2 && x.layout().strides()[1] == 1;
    match matrix {
        true => Ok(x.detach()),
        false => x.detach().to_format(Format::Contiguous),
    }
}

/// What [`by_rows`] gives, as (rows, K).
fn rows_of(x: &Tensor, sizes: [usize; 2]) -> Result<Layout> {
    match x.rank() {
        2 => Ok(*x.layout()),
        _ => Ok(Layout::contiguous(Shape::new(&sizes)?)),
    }
}

/// Whether [`gradients`] has a kernel for these operands.
pub(super) fn has_gradients(x: &Tensor, w: &Tensor) -> bool {
    x.dtype() == w.dtype() && fits(x.dtype(), sizes(x, w))
}

/// M, N, K
fn sizes(x: &Tensor, w: &Tensor) -> [usize; 3] {
    let (n, k) = (w.shape()[0], w.shape()[1]);
    [x.elements().checked_div(k).unwrap_or(0), n, k]
}

/// Which gradients of [`gradients`] are wanted, and how.
pub(super) struct Wanted {
    pub x: bool,
    pub bias: bool,
    /// Those of w and the bias, which are sums in f32, in f32 and not in x's dtype.
    pub wide: bool,
}

/// Of w, and as far as they are wanted of the bias, and of x, to which `more` is added.
pub(super) fn gradients(
    [x, g, w]: [&Tensor; 3],
    more: Option<&Tensor>,
    wanted: &Wanted,
) -> Result<Vec<Tensor>> {
    let op = "linear_gradient";
    let mut operands = vec![x, g, w];
    operands.extend(more);
    let device = device_of(op, &operands)?;
    let sizes = sizes(x, w);
    let dense = |t: &Tensor| t.detach().to_format(Format::Contiguous);
    // In f32 x is read as what is row-major.
    let x = match x.dtype() {
        DType::F32 => dense(x)?,
        _ => by_rows(x)?,
    };
    let (g, w) = (dense(g)?, dense(w)?);
    let more = more.map(dense).transpose()?;
    let empty = |shape: &[usize], dtype| {
        let layout = Layout::contiguous(Shape::new(shape)?);
        device.empty(layout, dtype)
    };
    let of_parameters = if wanted.wide { DType::F32 } else { x.dtype() };
    let gw = empty(w.shape(), of_parameters)?;
    let gb = wanted.bias.then(|| empty(&sizes[1..2], of_parameters));
    let gb = gb.transpose()?;
    let gx = wanted.x.then(|| empty(x.shape(), x.dtype())).transpose()?;
    let product = Gradients {
        op,
        kernels: &BACKWARD,
        x: (&x, rows_of(&x, [sizes[0], sizes[2]])?),
        g: &g,
        w: &w,
        more: more.as_ref(),
        sizes,
    };
    product.run(&device, gx.as_ref(), &gw, gb.as_ref())?;
    Ok([gw].into_iter().chain(gb).chain(gx).collect())
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
