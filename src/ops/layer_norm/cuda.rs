use bytemuck::{Pod, Zeroable};

use crate::device::cuda::kernels::{self, Kernel};
use crate::device::cuda::{Address, count, device_of, f32_only};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::half::wide;
use crate::ops::normalise::{Columns, address_or_none};
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

const OP: &str = "layer_norm";

/// The most columns of a row that one warp takes.
const WARP_COLUMNS: usize = 1024;
/// Rows of a block whose warps take one each.
const BLOCK_ROWS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
    out: Address,
    sum: Address,
    statistics: Address,
    x: Address,
    added: Address,
    weight: Address,
    bias: Address,
    rows: u32,
    columns: u32,
    eps: f32,
    padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    out: Address,
    weight_gradient: Address,
    bias_gradient: Address,
    g: Address,
    x: Address,
    more: Address,
    weight: Address,
    statistics: Address,
    parts: Address,
    arrivals: Address,
    rows: u32,
    columns: u32,
    sums: Columns,
    row_blocks: u32,
    padding: u32,
}

/// The kernels for one dtype, each for rows by warp and by block.
struct Kernels {
    forward: [&'static Kernel; 2],
    backward: [&'static Kernel; 2],
}

/// # Errors
/// Another dtype than f32, bf16 and f16.
fn kernels_for(x: &Tensor) -> Result<Kernels> {
    Ok(match x.dtype() {
        DType::BF16 => Kernels {
            forward: [
                &kernels::EOSIN_LAYER_NORM_FORWARD_WARP_BF16,
                &kernels::EOSIN_LAYER_NORM_FORWARD_BLOCK_BF16,
            ],
            backward: [
                &kernels::EOSIN_LAYER_NORM_BACKWARD_WARP_BF16,
                &kernels::EOSIN_LAYER_NORM_BACKWARD_BLOCK_BF16,
            ],
        },
        DType::F16 => Kernels {
            forward: [
                &kernels::EOSIN_LAYER_NORM_FORWARD_WARP_F16,
                &kernels::EOSIN_LAYER_NORM_FORWARD_BLOCK_F16,
            ],
            backward: [
                &kernels::EOSIN_LAYER_NORM_BACKWARD_WARP_F16,
                &kernels::EOSIN_LAYER_NORM_BACKWARD_BLOCK_F16,
            ],
        },
        _ => {
            f32_only(OP, &[x])?;
            Kernels {
                forward: [
                    &kernels::EOSIN_LAYER_NORM_FORWARD_WARP_F32,
                    &kernels::EOSIN_LAYER_NORM_FORWARD_BLOCK_F32,
                ],
                backward: [
                    &kernels::EOSIN_LAYER_NORM_BACKWARD_WARP_F32,
                    &kernels::EOSIN_LAYER_NORM_BACKWARD_BLOCK_F32,
                ],
            }
        }
    })
}

/// A weight or bias as kernels read it: f32.
fn vector(t: Option<&Tensor>) -> Result<Option<Tensor>> {
    let plain = |t: &Tensor| -> Result<Tensor> {
        let t = wide(&t.detach())?;
        f32_only(OP, &[&t])?;
        t.to_format(Format::Contiguous)
    };
    t.map(plain).transpose()
}

/// Rows of x and blocks for them.
fn rows_of(x: &Tensor, columns: usize) -> (usize, [usize; 3]) {
    let rows = x.elements().checked_div(columns).unwrap_or(0);
    let blocks = match columns {
        0..=WARP_COLUMNS => rows.div_ceil(BLOCK_ROWS),
        _ => rows,
    };
    (rows, [blocks, 1, 1])
}

/// The result, and mean and 1 / standard deviation of each row, (rows, 2), of x or of
/// its sum with `added`, which comes third.
pub(super) fn forward(
    x: &Tensor,
    added: Option<&Tensor>,
    parameters: &[usize],
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    let operands = [x].into_iter().chain(added).chain(weight).chain(bias);
    let operands: Vec<&Tensor> = operands.collect();
    let device = device_of(OP, &operands)?;
    let by = kernels_for(x)?;
    let columns: usize = parameters.iter().product();
    let (rows, grid) = rows_of(x, columns);
    let x = x.detach().to_format(Format::Contiguous)?;
    let (weight, bias) = (vector(weight)?, vector(bias)?);
    let added = added.map(|t| t.detach().to_format(Format::Contiguous));
    let added = added.transpose()?;
    let empty = || device.empty(Layout::contiguous(*x.layout().shape()), x.dtype());
    let (out, sum) = (empty()?, added.as_ref().map(|_| empty()).transpose()?);
    let layout = Layout::contiguous(Shape::new(&[rows, 2])?);
    let statistics = device.empty(layout, DType::F32)?;
    let kernel = by.forward[usize::from(columns > WARP_COLUMNS)];
    let params = Forward {
        out: out.address(OP)?,
        sum: address_or_none(OP, sum.as_ref())?,
        statistics: statistics.address(OP)?,
        x: x.address(OP)?,
        added: address_or_none(OP, added.as_ref())?,
        weight: address_or_none(OP, weight.as_ref())?,
        bias: address_or_none(OP, bias.as_ref())?,
        rows: count(OP, rows)?,
        columns: count(OP, columns)?,
        eps: eps as f32,
        padding: 0,
    };
    device.launch(kernel, grid, 0, &params)?;
    Ok((out, statistics, sum))
}

/// Gradients of x, to which `more` is added, weight and bias.
pub(super) fn backward(
    g: &Tensor,
    x: &Tensor,
    more: Option<&Tensor>,
    weight: Option<&Tensor>,
    parameters: &[usize],
    statistics: &Tensor,
) -> Result<[Tensor; 3]> {
    let mut operands: Vec<&Tensor> = [g, x, statistics].into_iter().chain(weight).collect();
    operands.extend(more);
    let device = device_of(OP, &operands)?;
    let by = kernels_for(x)?;
    if g.dtype() != x.dtype() {
        let problem = "the gradient must have the dtype of x";
        return Err(Error::dtype(OP, &[g.dtype(), x.dtype()], problem));
    }
    let columns: usize = parameters.iter().product();
    let (rows, grid) = rows_of(x, columns);
    let g = g.detach().to_format(Format::Contiguous)?;
    let x = x.detach().to_format(Format::Contiguous)?;
    let more = more.map(|t| t.detach().to_format(Format::Contiguous));
    let (more, weight) = (more.transpose()?, vector(weight)?);
    let dx = device.empty(Layout::contiguous(*x.layout().shape()), x.dtype())?;
    let sums = Columns::new(OP, columns, 1, rows)?;
    let layout = Layout::contiguous(Shape::new(&[sums.parts(), columns, 2])?);
    let parts = device.empty(layout, DType::F32)?;
    let layout = Layout::contiguous(Shape::new(parameters)?);
    let dw = device.empty(layout, DType::F32)?;
    let db = device.empty(layout, DType::F32)?;
    let params = Backward {
        out: dx.address(OP)?,
        weight_gradient: dw.address(OP)?,
        bias_gradient: db.address(OP)?,
        g: g.address(OP)?,
        x: x.address(OP)?,
        more: address_or_none(OP, more.as_ref())?,
        weight: address_or_none(OP, weight.as_ref())?,
        statistics: statistics.address(OP)?,
        parts: parts.address(OP)?,
        arrivals: sums.arrivals(OP, &device)?,
        rows: count(OP, rows)?,
        columns: count(OP, columns)?,
        sums,
        row_blocks: count(OP, grid[0])?,
        padding: 0,
    };
    let kernel = by.backward[usize::from(columns > WARP_COLUMNS)];
    device.launch(kernel, [grid[0] + sums.blocks(), 1, 1], 0, &params)?;
    Ok([dx, dw, db])
}
