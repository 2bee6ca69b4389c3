use bytemuck::{Pod, Zeroable};

use super::OP;
use crate::device::cuda::kernels::{self, Kernel};
use crate::device::cuda::{Address, count, device_of, f32_only};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::half::wide;
use crate::ops::normalise::{Columns, address_or_none};
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

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
    g: Address,
    x: Address,
    carried: Address,
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

/// Weight or bias, which kernels read in f32.
fn parameter(t: Option<&Tensor>) -> Result<Option<Tensor>> {
    contiguous(t)?.map(|t| wide(&t)).transpose()
}

/// The kernels of a dtype: forward and backward, by warps and by blocks, and the
/// parts of the sums over rows.
struct Kernels {
    forward: [&'static Kernel; 2],
    backward: [&'static Kernel; 2],
    parts: &'static Kernel,
}

impl Kernels {
    fn of(operands: &[&Tensor]) -> Result<Self> {
        let dtype = operands[0].dtype();
        if operands.iter().any(|t| t.dtype() != dtype) {
            let dtypes: Vec<DType> = operands.iter().map(|t| t.dtype()).collect();
            return Err(Error::dtype(OP, &dtypes, "one dtype is needed"));
        }
        Ok(match dtype {
            DType::BF16 => Self {
                forward: [
                    &kernels::EOSIN_LAYER_NORM_FORWARD_WARP_BF16,
                    &kernels::EOSIN_LAYER_NORM_FORWARD_BLOCK_BF16,
                ],
                backward: [
                    &kernels::EOSIN_LAYER_NORM_BACKWARD_WARP_BF16,
                    &kernels::EOSIN_LAYER_NORM_BACKWARD_BLOCK_BF16,
                ],
                parts: &kernels::EOSIN_LAYER_NORM_BACKWARD_PARTS_BF16,
            },
            DType::F16 => Self {
                forward: [
                    &kernels::EOSIN_LAYER_NORM_FORWARD_WARP_F16,
                    &kernels::EOSIN_LAYER_NORM_FORWARD_BLOCK_F16,
                ],
                backward: [
                    &kernels::EOSIN_LAYER_NORM_BACKWARD_WARP_F16,
                    &kernels::EOSIN_LAYER_NORM_BACKWARD_BLOCK_F16,
                ],
                parts: &kernels::EOSIN_LAYER_NORM_BACKWARD_PARTS_F16,
            },
            _ => {
                f32_only(OP, operands)?;
                Self {
                    forward: [
                        &kernels::EOSIN_LAYER_NORM_FORWARD_WARP_F32,
                        &kernels::EOSIN_LAYER_NORM_FORWARD_BLOCK_F32,
                    ],
                    backward: [
                        &kernels::EOSIN_LAYER_NORM_BACKWARD_WARP_F32,
                        &kernels::EOSIN_LAYER_NORM_BACKWARD_BLOCK_F32,
                    ],
                    parts: &kernels::EOSIN_LAYER_NORM_BACKWARD_PARTS_F32,
                }
            }
        })
    }
}

/// The result, and mean and 1 / standard deviation of each row, (rows, 2): of x, or
/// of its sum with `added`, which is written into the tensor beside it, row-major.
pub(super) fn forward(
    x: &Tensor,
    added: Option<(&Tensor, &Tensor)>,
    parameters: &[usize],
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let mut operands = vec![x];
    operands.extend(added.map(|(other, _)| other));
    let of_dtype = Kernels::of(&operands)?;
    operands.extend(weight);
    operands.extend(bias);
    let device = device_of(OP, &operands)?;
    let columns: usize = parameters.iter().product();
    let (rows, grid) = rows_of(x, columns);
    let x = x.detach().to_format(Format::Contiguous)?;
    let other = contiguous(added.map(|(other, _)| other))?;
    let (weight, bias) = (parameter(weight)?, parameter(bias)?);
    let out = device.empty(Layout::contiguous(*x.layout().shape()), x.dtype())?;
    let layout = Layout::contiguous(Shape::new(&[rows, 2])?);
    let statistics = device.empty(layout, DType::F32)?;
    let kernel = of_dtype.forward[usize::from(columns > WARP_COLUMNS)];
    let params = Forward {
        out: out.address(OP)?,
        sum: address_or_none(OP, added.map(|(_, sum)| sum))?,
        statistics: statistics.address(OP)?,
        x: x.address(OP)?,
        added: address_or_none(OP, other.as_ref())?,
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

/// Gradients of x, to which `carried` is added, and of weight and bias, in f32.
pub(super) fn backward(
    [g, x]: [&Tensor; 2],
    carried: Option<&Tensor>,
    weight: Option<&Tensor>,
    parameters: &[usize],
    statistics: &Tensor,
) -> Result<[Tensor; 3]> {
    let mut operands = vec![g, x];
    operands.extend(carried);
    let of_dtype = Kernels::of(&operands)?;
    operands.push(statistics);
    operands.extend(weight);
    let device = device_of(OP, &operands)?;
    let columns: usize = parameters.iter().product();
    let (rows, grid) = rows_of(x, columns);
    let g = g.detach().to_format(Format::Contiguous)?;
    let x = x.detach().to_format(Format::Contiguous)?;
    let (carried, weight) = (contiguous(carried)?, parameter(weight)?);
    let dx = device.empty(Layout::contiguous(*x.layout().shape()), x.dtype())?;
    let kernel = of_dtype.backward[usize::from(columns > WARP_COLUMNS)];
    let params = Backward {
        out: dx.address(OP)?,
        g: g.address(OP)?,
        x: x.address(OP)?,
        carried: address_or_none(OP, carried.as_ref())?,
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
    device.launch(of_dtype.parts, cut.grid(), 0, &params)?;
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
