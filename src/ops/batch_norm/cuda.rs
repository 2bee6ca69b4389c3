use bytemuck::{Pod, Zeroable};

use super::{Around, EVAL, Running, TRAIN, Trained};
use crate::device::cuda::kernels::{self, Kernel};
use crate::device::cuda::{Address, CudaDevice, count, device_of, f32_only};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::ops::half::wide;
use crate::ops::images::format_of;
use crate::ops::matmul::cuda::Epilogue;
use crate::ops::normalise::{Columns, address_or_none};
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// Elements of a block in element-wise kernels.
const BLOCK: usize = 1024;
/// Channels of a block that joins what a convolution left.
const TOTAL_WIDTH: usize = 8;

/// A mirror of `BatchNormStatistics` in kernels/batch_norm.cu, and so on.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Statistics {
    mean: Address,
    scale: Address,
    var: Address,
    running_mean: Address,
    running_var: Address,
    batches: Address,
    parts: Address,
    x: Address,
    arrivals: Address,
    columns: Columns,
    eps: f32,
    momentum: f32,
    before: Epilogue,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Output {
    out: Address,
    x: Address,
    residual: Address,
    mean: Address,
    scale: Address,
    weight: Address,
    bias: Address,
    columns: Columns,
    before: Epilogue,
    elements: u32,
    /// Where `scale` holds variances; negative where it does not.
    eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Sums {
    weight_gradient: Address,
    bias_gradient: Address,
    parts: Address,
    g: Address,
    x: Address,
    mean: Address,
    scale: Address,
    arrivals: Address,
    columns: Columns,
    before: Epilogue,
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
    before: Epilogue,
    elements: u32,
    padding: u32,
}

/// The kernels for one dtype of images.
struct Kernels {
    train_sums: &'static Kernel,
    output: &'static Kernel,
    backward_sums: &'static Kernel,
    backward: &'static Kernel,
}

/// # Errors
/// Images of another dtype than f32, bf16 and f16.
fn kernels_for(op: &'static str, x: &Tensor) -> Result<Kernels> {
    Ok(match x.dtype() {
        DType::BF16 => Kernels {
            train_sums: &kernels::EOSIN_BATCH_NORM_TRAIN_FORWARD_SUMS_BF16,
            output: &kernels::EOSIN_BATCH_NORM_FORWARD_BF16,
            backward_sums: &kernels::EOSIN_BATCH_NORM_TRAIN_BACKWARD_SUMS_BF16,
            backward: &kernels::EOSIN_BATCH_NORM_TRAIN_BACKWARD_BF16,
        },
        DType::F16 => Kernels {
            train_sums: &kernels::EOSIN_BATCH_NORM_TRAIN_FORWARD_SUMS_F16,
            output: &kernels::EOSIN_BATCH_NORM_FORWARD_F16,
            backward_sums: &kernels::EOSIN_BATCH_NORM_TRAIN_BACKWARD_SUMS_F16,
            backward: &kernels::EOSIN_BATCH_NORM_TRAIN_BACKWARD_F16,
        },
        _ => {
            f32_only(op, &[x])?;
            Kernels {
                train_sums: &kernels::EOSIN_BATCH_NORM_TRAIN_FORWARD_SUMS_F32,
                output: &kernels::EOSIN_BATCH_NORM_FORWARD_F32,
                backward_sums: &kernels::EOSIN_BATCH_NORM_TRAIN_BACKWARD_SUMS_F32,
                backward: &kernels::EOSIN_BATCH_NORM_TRAIN_BACKWARD_F32,
            }
        }
    })
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

/// A vector of one number per channel, as kernels read it: f32.
fn vector(op: &'static str, t: &Tensor) -> Result<Tensor> {
    let t = wide(&t.detach())?;
    f32_only(op, &[&t])?;
    t.to_format(Format::Contiguous)
}

fn vectors(op: &'static str, t: Option<&Tensor>) -> Result<Option<Tensor>> {
    t.map(|t| vector(op, t)).transpose()
}

fn empty(device: &CudaDevice, shape: &[usize]) -> Result<Tensor> {
    device.empty(Layout::contiguous(Shape::new(shape)?), DType::F32)
}

pub(super) fn train(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    around: &Around,
    running: Option<&Running>,
) -> Result<Trained> {
    let mut operands: Vec<&Tensor> = [x].into_iter().chain(weight).chain(bias).collect();
    operands.extend(around.residual);
    if let Some(running) = running {
        operands.extend([running.mean, running.var, running.batches]);
    }
    let device = device_of(TRAIN, &operands)?;
    let by = kernels_for(TRAIN, x)?;
    let x = x.detach().to_format(format_of(x))?;
    let c = x.shape()[1];
    let columns = match around.moments {
        Some(left) => cut(TRAIN, &x)?.of_parts(TRAIN, left.parts.shape()[0])?,
        None => cut(TRAIN, &x)?,
    };
    let parts = match around.moments {
        Some(left) => left.parts.clone(),
        None => empty(&device, &[columns.parts(), c, 3])?,
    };
    let mean = empty(&device, &[c])?;
    let scale = empty(&device, &[c])?;
    let var = empty(&device, &[c])?;
    let before = Epilogue::new(around.activation);
    let params = Statistics {
        mean: mean.address(TRAIN)?,
        scale: scale.address(TRAIN)?,
        var: var.address(TRAIN)?,
        running_mean: address_or_none(TRAIN, running.map(|r| r.mean))?,
        running_var: address_or_none(TRAIN, running.map(|r| r.var))?,
        batches: address_or_none(TRAIN, running.map(|r| r.batches))?,
        parts: parts.address(TRAIN)?,
        x: x.address(TRAIN)?,
        arrivals: columns.arrivals(TRAIN, &device)?,
        columns,
        eps: eps as f32,
        momentum: running.map_or(0.0, |r| r.momentum as f32),
        before,
    };
    let (kernel, blocks) = match around.moments {
        Some(_) => {
            let total = &kernels::EOSIN_BATCH_NORM_TRAIN_FORWARD_TOTAL_F32;
            (total, c.div_ceil(TOTAL_WIDTH))
        }
        None => (by.train_sums, columns.blocks()),
    };
    device.launch(kernel, [blocks, 1, 1], 0, &params)?;
    Ok(Trained {
        output: {
            let statistics = (&mean, Scale::Given(&scale));
            normalised(TRAIN, &device, &x, statistics, [weight, bias], around)?
        },
        mean,
        scale,
        var,
    })
}

/// 1 / sqrt(var + eps), as it is or from the variance and epsilon.
#[derive(Clone, Copy)]
pub(super) enum Scale<'a> {
    Given(&'a Tensor),
    OfVariance(&'a Tensor, f64),
}

pub(super) fn eval(
    x: &Tensor,
    mean: &Tensor,
    scale: Scale,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    around: &Around,
) -> Result<Tensor> {
    let (Scale::Given(given) | Scale::OfVariance(given, _)) = scale;
    let mut operands: Vec<&Tensor> = vec![x, mean, given];
    operands.extend(weight.into_iter().chain(bias).chain(around.residual));
    let device = device_of(EVAL, &operands)?;
    let x = x.detach().to_format(format_of(x))?;
    normalised(EVAL, &device, &x, (mean, scale), [weight, bias], around)
}

/// (f(x) - mean) scale w + b + residual.
fn normalised(
    op: &'static str,
    device: &CudaDevice,
    x: &Tensor,
    (mean, scale): (&Tensor, Scale),
    [weight, bias]: [Option<&Tensor>; 2],
    around: &Around,
) -> Result<Tensor> {
    let by = kernels_for(op, x)?;
    let (scale, eps) = match scale {
        Scale::Given(scale) => (scale, -1.0),
        Scale::OfVariance(var, eps) => (var, eps as f32),
    };
    let (mean, scale) = (vector(op, mean)?, vector(op, scale)?);
    let (weight, bias) = (vectors(op, weight)?, vectors(op, bias)?);
    let residual = around.residual.map(|r| r.detach().to_format(format_of(x)));
    let residual = residual.transpose()?;
    let out = device.empty(x.layout().packed(), x.dtype())?;
    let params = Output {
        out: out.address(op)?,
        x: x.address(op)?,
        residual: address_or_none(op, residual.as_ref())?,
        mean: mean.address(op)?,
        scale: scale.address(op)?,
        weight: address_or_none(op, weight.as_ref())?,
        bias: address_or_none(op, bias.as_ref())?,
        columns: cut(op, x)?,
        before: Epilogue::new(around.activation),
        elements: count(op, x.elements())?,
        eps,
    };
    let grid = [x.elements().div_ceil(BLOCK), 1, 1];
    device.launch(by.output, grid, 0, &params)?;
    Ok(out)
}

/// Gradients of x, weight and bias through the statistics of the batch.
pub(super) fn backward(
    g: &Tensor,
    x: &Tensor,
    weight: Option<&Tensor>,
    [mean, scale]: [&Tensor; 2],
    activation: Activation,
) -> Result<[Tensor; 3]> {
    let operands: Vec<&Tensor> = [g, x, mean, scale].into_iter().chain(weight).collect();
    let device = device_of(TRAIN, &operands)?;
    let by = kernels_for(TRAIN, x)?;
    if g.dtype() != x.dtype() {
        let problem = "the gradient must have the dtype of x";
        return Err(Error::dtype(TRAIN, &[g.dtype(), x.dtype()], problem));
    }
    let x = x.detach().to_format(format_of(x))?;
    let g = g.detach().to_format(format_of(&x))?;
    let weight = vectors(TRAIN, weight)?;
    let columns = cut(TRAIN, &x)?;
    let c = x.shape()[1];
    let parts = empty(&device, &[columns.parts(), c, 2])?;
    let (dw, db) = (empty(&device, &[c])?, empty(&device, &[c])?);
    let before = Epilogue::new(activation);
    let params = Sums {
        weight_gradient: dw.address(TRAIN)?,
        bias_gradient: db.address(TRAIN)?,
        parts: parts.address(TRAIN)?,
        g: g.address(TRAIN)?,
        x: x.address(TRAIN)?,
        mean: mean.address(TRAIN)?,
        scale: scale.address(TRAIN)?,
        arrivals: columns.arrivals(TRAIN, &device)?,
        columns,
        before,
    };
    device.launch(by.backward_sums, [columns.blocks(), 1, 1], 0, &params)?;
    let dx = device.empty(x.layout().packed(), x.dtype())?;
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
        before,
        elements: count(TRAIN, x.elements())?,
        padding: 0,
    };
    let grid = [x.elements().div_ceil(BLOCK), 1, 1];
    device.launch(by.backward, grid, 0, &params)?;
    Ok([dx, dw, db])
}
