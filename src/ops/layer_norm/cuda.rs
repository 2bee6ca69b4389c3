use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Address, count, device_of, f32_only, kernels};
use crate::dtype::DType;
use crate::error::Result;
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
    statistics: Address,
    x: Address,
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
    g: Address,
    x: Address,
    weight: Address,
    statistics: Address,
    rows: u32,
    columns: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parts {
    parts: Address,
    g: Address,
    x: Address,
    statistics: Address,
    columns: Columns,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Total {
    weight_gradient: Address,
    bias_gradient: Address,
    parts: Address,
    columns: Columns,
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

fn contiguous(t: Option<&Tensor>) -> Result<Option<Tensor>> {
    t.map(|t| t.detach().to_format(Format::Contiguous))
        .transpose()
}

/// The result, and mean and 1 / standard deviation of each row, (rows, 2).
pub(super) fn forward(
    x: &Tensor,
    parameters: &[usize],
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let operands: Vec<&Tensor> = [x].into_iter().chain(weight).chain(bias).collect();
    let device = device_of(OP, &operands)?;
    f32_only(OP, &operands)?;
    let columns: usize = parameters.iter().product();
    let (rows, grid) = rows_of(x, columns);
    let x = x.detach().to_format(Format::Contiguous)?;
    let (weight, bias) = (contiguous(weight)?, contiguous(bias)?);
    let out = device.empty(Layout::contiguous(*x.layout().shape()), DType::F32)?;
    let layout = Layout::contiguous(Shape::new(&[rows, 2])?);
    let statistics = device.empty(layout, DType::F32)?;
    let kernel = match columns {
        0..=WARP_COLUMNS => &kernels::EOSIN_LAYER_NORM_FORWARD_WARP_F32,
        _ => &kernels::EOSIN_LAYER_NORM_FORWARD_BLOCK_F32,
    };
    let params = Forward {
        out: out.address(OP)?,
        statistics: statistics.address(OP)?,
        x: x.address(OP)?,
        weight: address_or_none(OP, weight.as_ref())?,
        bias: address_or_none(OP, bias.as_ref())?,
        rows: count(OP, rows)?,
        columns: count(OP, columns)?,
        eps: eps as f32,
        padding: 0,
    };
    device.launch(kernel, grid, 0, &params)?;
    Ok((out, statistics))
}

/// Gradients of x, weight and bias.
pub(super) fn backward(
    g: &Tensor,
    x: &Tensor,
    weight: Option<&Tensor>,
    parameters: &[usize],
    statistics: &Tensor,
) -> Result<[Tensor; 3]> {
    let operands: Vec<&Tensor> = [g, x, statistics].into_iter().chain(weight).collect();
    let device = device_of(OP, &operands)?;
    f32_only(OP, &operands)?;
    let columns: usize = parameters.iter().product();
    let (rows, grid) = rows_of(x, columns);
    let g = g.detach().to_format(Format::Contiguous)?;
    let x = x.detach().to_format(Format::Contiguous)?;
    let weight = contiguous(weight)?;
    let dx = device.empty(Layout::contiguous(*x.layout().shape()), DType::F32)?;
    let kernel = match columns {
        0..=WARP_COLUMNS => &kernels::EOSIN_LAYER_NORM_BACKWARD_WARP_F32,
        _ => &kernels::EOSIN_LAYER_NORM_BACKWARD_BLOCK_F32,
    };
    let params = Backward {
        out: dx.address(OP)?,
        g: g.address(OP)?,
        x: x.address(OP)?,
        weight: address_or_none(OP, weight.as_ref())?,
        statistics: statistics.address(OP)?,
        rows: count(OP, rows)?,
        columns: count(OP, columns)?,
    };
    device.launch(kernel, grid, 0, &params)?;

    let cut = Columns::new(OP, columns, 1, rows)?;
    let layout = Layout::contiguous(Shape::new(&[cut.parts(), columns, 2])?);
    let parts = device.empty(layout, DType::F32)?;
    let params = Parts {
        parts: parts.address(OP)?,
        g: g.address(OP)?,
        x: x.address(OP)?,
        statistics: statistics.address(OP)?,
        columns: cut,
    };
    let kernel = &kernels::EOSIN_LAYER_NORM_BACKWARD_PARTS_F32;
    device.launch(kernel, cut.grid(), 0, &params)?;
    let layout = Layout::contiguous(Shape::new(parameters)?);
    let dw = device.empty(layout, DType::F32)?;
    let db = device.empty(layout, DType::F32)?;
    let params = Total {
        weight_gradient: dw.address(OP)?,
        bias_gradient: db.address(OP)?,
        parts: parts.address(OP)?,
        columns: cut,
    };
    let kernel = &kernels::EOSIN_LAYER_NORM_BACKWARD_TOTAL_F32;
    device.launch(kernel, cut.total_grid(), 0, &params)?;
    Ok([dx, dw, db])
}
