use bytemuck::{Pod, Zeroable};

use super::Kind;
use crate::device::cuda::{Address, count, device_of, f32_only, kernels};
use crate::error::Result;
use crate::shape::{Format, Layout};
use crate::tensor::Tensor;

/// The most columns of a row that one warp takes.
const WARP_COLUMNS: usize = 1024;
/// Rows of a block whose warps take one each.
const BLOCK_ROWS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
    out: Address,
    x: Address,
    rows: u32,
    columns: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    out: Address,
    g: Address,
    y: Address,
    rows: u32,
    columns: u32,
}

/// Rows and columns of x, and the grid for them.
fn sizes(x: &Tensor) -> (usize, usize, [usize; 3]) {
    let columns = x.shape().last().copied().unwrap_or(1);
    let rows = x.elements().checked_div(columns).unwrap_or(0);
    let blocks = match columns {
        0..=WARP_COLUMNS => rows.div_ceil(BLOCK_ROWS),
        _ => rows,
    };
    (rows, columns, [blocks, 1, 1])
}

/// Along the last axis.
pub(super) fn forward(kind: Kind, x: &Tensor) -> Result<Tensor> {
    let op = kind.name();
    let device = device_of(op, &[x])?;
    f32_only(op, &[x])?;
    let x = x.to_format(Format::Contiguous)?;
    let out = device.empty(Layout::contiguous(*x.layout().shape()), x.dtype())?;
    let (rows, columns, grid) = sizes(&x);
    let kernel = match (kind, columns <= WARP_COLUMNS) {
        (Kind::Softmax, true) => &kernels::EOSIN_SOFTMAX_FORWARD_WARP_F32,
        (Kind::Softmax, false) => &kernels::EOSIN_SOFTMAX_FORWARD_BLOCK_F32,
        (Kind::LogSoftmax, true) => &kernels::EOSIN_LOG_SOFTMAX_FORWARD_WARP_F32,
        (Kind::LogSoftmax, false) => &kernels::EOSIN_LOG_SOFTMAX_FORWARD_BLOCK_F32,
    };
    let params = Forward {
        out: out.address(op)?,
        x: x.address(op)?,
        rows: count(op, rows)?,
        columns: count(op, columns)?,
    };
    device.launch(kernel, grid, 0, &params)?;
    Ok(out)
}

/// The gradient along the last axis from that of the output and the output.
pub(super) fn backward(kind: Kind, g: &Tensor, y: &Tensor) -> Result<Tensor> {
    let op = kind.name();
    let device = device_of(op, &[g, y])?;
    f32_only(op, &[g, y])?;
    let (g, y) = (
        g.to_format(Format::Contiguous)?,
        y.to_format(Format::Contiguous)?,
    );
    let out = device.empty(Layout::contiguous(*y.layout().shape()), y.dtype())?;
    let (rows, columns, grid) = sizes(&y);
    let kernel = match (kind, columns <= WARP_COLUMNS) {
        (Kind::Softmax, true) => &kernels::EOSIN_SOFTMAX_BACKWARD_WARP_F32,
        (Kind::Softmax, false) => &kernels::EOSIN_SOFTMAX_BACKWARD_BLOCK_F32,
        (Kind::LogSoftmax, true) => &kernels::EOSIN_LOG_SOFTMAX_BACKWARD_WARP_F32,
        (Kind::LogSoftmax, false) => &kernels::EOSIN_LOG_SOFTMAX_BACKWARD_BLOCK_F32,
    };
    let params = Backward {
        out: out.address(op)?,
        g: g.address(op)?,
        y: y.address(op)?,
        rows: count(op, rows)?,
        columns: count(op, columns)?,
    };
    device.launch(kernel, grid, 0, &params)?;
    Ok(out)
}
