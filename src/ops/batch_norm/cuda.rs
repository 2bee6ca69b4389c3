use bytemuck::{Pod, Zeroable};

use super::{EVAL, TRAIN, Trained};
use crate::device::cuda::{Address, CudaDevice, count, device_of, f32_only, kernels};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::images::format_of;
use crate::ops::normalise::{Columns, address_or_none};
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// Elements of a block in element-wise kernels.
const BLOCK: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Moments {
    parts: Address,
    x: Address,
    columns: Columns,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Statistics {
    mean: Address,
    scale: Address,
    var: Address,
    parts: Address,
    x: Address,
    columns: Columns,
    eps: f32,
    padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Output {
    out: Address,
    x: Address,
    mean: Address,
    scale: Address,
    weight: Address,
    bias: Address,
    columns: Columns,
    elements: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parts {
    parts: Address,
    g: Address,
    x: Address,
    mean: Address,
    columns: Columns,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Total {
    weight_gradient: Address,
    bias_gradient: Address,
    parts: Address,
    scale: Address,
    columns: Columns,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    out: Address,
    g: Address,
    x: Address,
    mean: Address,
    scale: Address,
    weight: Address,
    weight_gradient: Address,
    bias_gradient: Address,
    columns: Columns,
    elements: u32,
    padding: u32,
}

/// The cut of a tensor that is rows or planes of channels without holes.
fn cut(op: &'static str, x: &Tensor) -> Result<Columns> {
    let channels = x.shape()[1];
    let inner = if x.layout().is_contiguous() {
        x.shape()[2..].iter().product()
    } else {
        1
    };
    let elements = x.elements().checked_div(channels).unwrap_or(0);
    Columns::new(op, channels, inner, elements)
}

fn vector(t: &Tensor) -> Result<Tensor> {
    t.detach().to_format(Format::Contiguous)
}

fn vectors(t: Option<&Tensor>) -> Result<Option<Tensor>> {
    t.map(vector).transpose()
}

fn empty(device: &CudaDevice, shape: &[usize]) -> Result<Tensor> {
    device.empty(Layout::contiguous(Shape::new(shape)?), DType::F32)
}

pub(super) fn train(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Trained> {
    let operands: Vec<&Tensor> = [x].into_iter().chain(weight).chain(bias).collect();
    let device = device_of(TRAIN, &operands)?;
    f32_only(TRAIN, &operands)?;
    let x = x.detach().to_format(format_of(x))?;
    let columns = cut(TRAIN, &x)?;
    let c = x.shape()[1];
    let parts = empty(&device, &[columns.parts(), c, 3])?;
    let params = Moments {
        parts: parts.address(TRAIN)?,
        x: x.address(TRAIN)?,
        columns,
    };
    let kernel = &kernels::EOSIN_BATCH_NORM_TRAIN_FORWARD_PARTS_F32;
    device.launch(kernel, columns.grid(), 0, &params)?;
    let mean = empty(&device, &[c])?;
    let scale = empty(&device, &[c])?;
    let var = empty(&device, &[c])?;
    let params = Statistics {
        mean: mean.address(TRAIN)?,
        scale: scale.address(TRAIN)?,
        var: var.address(TRAIN)?,
        parts: parts.address(TRAIN)?,
        x: x.address(TRAIN)?,
        columns,
        eps: eps as f32,
        padding: 0,
    };
    let kernel = &kernels::EOSIN_BATCH_NORM_TRAIN_FORWARD_TOTAL_F32;
    device.launch(kernel, columns.total_grid(), 0, &params)?;
    Ok(Trained {
        output: normalised(TRAIN, &device, &x, &mean, &scale, weight, bias)?,
        mean,
        scale,
        var,
    })
}

pub(super) fn eval(
    x: &Tensor,
    mean: &Tensor,
    scale: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let parameters = weight.into_iter().chain(bias);
    let operands: Vec<&Tensor> = [x, mean, scale].into_iter().chain(parameters).collect();
    let device = device_of(EVAL, &operands)?;
    f32_only(EVAL, &operands)?;
    let x = x.detach().to_format(format_of(x))?;
    normalised(EVAL, &device, &x, mean, scale, weight, bias)
}

/// (x - mean) scale w + b.
fn normalised(
    op: &'static str,
    device: &CudaDevice,
    x: &Tensor,
    mean: &Tensor,
    scale: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (mean, scale) = (vector(mean)?, vector(scale)?);
    let (weight, bias) = (vectors(weight)?, vectors(bias)?);
    let out = device.empty(x.layout().packed(), DType::F32)?;
    let params = Output {
        out: out.address(op)?,
        x: x.address(op)?,
        mean: mean.address(op)?,
        scale: scale.address(op)?,
        weight: address_or_none(op, weight.as_ref())?,
        bias: address_or_none(op, bias.as_ref())?,
        columns: cut(op, x)?,
        elements: count(op, x.elements())?,
        padding: 0,
    };
    let grid = [x.elements().div_ceil(BLOCK), 1, 1];
    device.launch(&kernels::EOSIN_BATCH_NORM_FORWARD_F32, grid, 0, &params)?;
    Ok(out)
}

/// Gradients of x, weight and bias through the statistics of the batch.
pub(super) fn backward(
    g: &Tensor,
    x: &Tensor,
    weight: Option<&Tensor>,
    mean: &Tensor,
    scale: &Tensor,
) -> Result<[Tensor; 3]> {
    let operands: Vec<&Tensor> = [g, x, mean, scale].into_iter().chain(weight).collect();
    let device = device_of(TRAIN, &operands)?;
    f32_only(TRAIN, &operands)?;
    let x = x.detach().to_format(format_of(x))?;
    let g = g.detach().to_format(format_of(&x))?;
    let weight = vectors(weight)?;
    let columns = cut(TRAIN, &x)?;
    let c = x.shape()[1];
    let parts = empty(&device, &[columns.parts(), c, 2])?;
    let params = Parts {
        parts: parts.address(TRAIN)?,
        g: g.address(TRAIN)?,
        x: x.address(TRAIN)?,
        mean: mean.address(TRAIN)?,
        columns,
    };
    let kernel = &kernels::EOSIN_BATCH_NORM_TRAIN_BACKWARD_PARTS_F32;
    device.launch(kernel, columns.grid(), 0, &params)?;
    let (dw, db) = (empty(&device, &[c])?, empty(&device, &[c])?);
    let params = Total {
        weight_gradient: dw.address(TRAIN)?,
        bias_gradient: db.address(TRAIN)?,
        parts: parts.address(TRAIN)?,
        scale: scale.address(TRAIN)?,
        columns,
    };
    let kernel = &kernels::EOSIN_BATCH_NORM_TRAIN_BACKWARD_TOTAL_F32;
    device.launch(kernel, columns.total_grid(), 0, &params)?;
    let dx = device.empty(x.layout().packed(), DType::F32)?;
    let params = Backward {
        out: dx.address(TRAIN)?,
        g: g.address(TRAIN)?,
        x: x.address(TRAIN)?,
        mean: mean.address(TRAIN)?,
        scale: scale.address(TRAIN)?,
        weight: address_or_none(TRAIN, weight.as_ref())?,
        weight_gradient: dw.address(TRAIN)?,
        bias_gradient: db.address(TRAIN)?,
        columns,
        elements: count(TRAIN, x.elements())?,
        padding: 0,
    };
    let grid = [x.elements().div_ceil(BLOCK), 1, 1];
    let kernel = &kernels::EOSIN_BATCH_NORM_TRAIN_BACKWARD_F32;
    device.launch(kernel, grid, 0, &params)?;
    Ok([dx, dw, db])
}
