use bytemuck::{Pod, Zeroable};

use super::Kind;
use crate::device::cuda::{Address, count, device_of, f32_only, kernels};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::elementwise::grid;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parts {
    parts: Address,
    x: Address,
    y: Address,
    elements: u32,
    part: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Mean {
    out: Address,
    parts: Address,
    count: u32,
    elements: f32,
}

/// The mean of a function of pairs of elements times `factor`, NaN over none.
pub(super) fn mean_of(
    op: &'static str,
    kind: Kind,
    x: &Tensor,
    y: &Tensor,
    factor: f64,
) -> Result<Tensor> {
    // Enough blocks for any GPU, but none with less work than this.
    const BLOCKS: usize = 1024;
    const LEAST: usize = 2048;
    let device = device_of(op, &[x, y])?;
    f32_only(op, &[x, y])?;
    let (mut x, mut y) = (x.detach(), y.detach());
    // Any order of the pairs will do, as long as it is the same for both.
    let alike = x.layout().packed() == y.layout().packed();
    if !(alike && x.layout().is_dense() && y.layout().is_dense()) {
        x = x.to_format(Format::Contiguous)?;
        y = y.to_format(Format::Contiguous)?;
    }
    let n = x.elements();
    let part = n.div_ceil(BLOCKS).max(LEAST);
    let blocks = n.div_ceil(part);
    let layout = Layout::contiguous(Shape::new(&[blocks])?);
    let parts = device.empty(layout, DType::F32)?;
    let params = Parts {
        parts: parts.address(op)?,
        x: x.address(op)?,
        y: y.address(op)?,
        elements: count(op, n)?,
        part: count(op, part)?,
    };
    let kernel = match kind {
        Kind::Squares => &kernels::EOSIN_MSE_LOSS_FORWARD_PARTS_F32,
        Kind::BinaryEntropy => &kernels::EOSIN_BCE_WITH_LOGITS_FORWARD_PARTS_F32,
    };
    device.launch(kernel, [blocks, 1, 1], 0, &params)?;
    let layout = Layout::contiguous(Shape::new(&[])?);
    let out = device.empty(layout, DType::F32)?;
    let params = Mean {
        out: out.address(op)?,
        parts: parts.address(op)?,
        count: count(op, blocks)?,
        elements: (n as f64 / factor) as f32,
    };
    let kernel = &kernels::EOSIN_LOSS_FORWARD_MEAN_F32;
    device.launch(kernel, [1, 1, 1], 0, &params)?;
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Gradient {
    out: Address,
    x: Address,
    y: Address,
    g: Address,
    elements: u32,
    factor: f32,
}

/// factor g (x - y) of x and y of one shape and a g without axes, f32.
pub(super) fn difference(x: &Tensor, y: &Tensor, g: &Tensor, factor: f64) -> Result<Tensor> {
    let op = "mse_loss";
    let device = device_of(op, &[x, y, g])?;
    f32_only(op, &[x, y, g])?;
    let plain = |t: &Tensor| t.detach().to_format(Format::Contiguous);
    let (x, y) = (plain(x)?, plain(y)?);
    let out = device.empty(Layout::contiguous(*x.layout().shape()), DType::F32)?;
    let params = Gradient {
        out: out.address(op)?,
        x: x.address(op)?,
        y: y.address(op)?,
        g: g.address(op)?,
        elements: count(op, x.elements())?,
        factor: factor as f32,
    };
    let kernel = &kernels::EOSIN_MSE_LOSS_BACKWARD_F32;
    device.launch(kernel, grid(x.elements()), 0, &params)?;
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CrossEntropy {
    loss: Address,
    log_sums: Address,
    x: Address,
    labels: Address,
    control: Address,
    kernel: u32,
    rows: u32,
    classes: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CrossEntropyGradient {
    out: Address,
    x: Address,
    log_sums: Address,
    labels: Address,
    g: Address,
    rows: u32,
    classes: u32,
}

/// The mean over the rows, and log(sum(e^x)) of each; f32.
pub(super) fn cross_entropy(x: &Tensor, labels: &Tensor) -> Result<(Tensor, Tensor)> {
    let op = "cross_entropy";
    let device = device_of(op, &[x, labels])?;
    f32_only(op, &[x])?;
    let plain = |t: &Tensor| t.detach().to_format(Format::Contiguous);
    let (x, labels) = (plain(x)?, plain(labels)?);
    let empty = |shape: &[usize]| {
        let layout = Layout::contiguous(Shape::new(shape)?);
        device.empty(layout, DType::F32)
    };
    let (loss, log_sums) = (empty(&[])?, empty(&x.shape()[..1])?);
    let kernel = &kernels::EOSIN_CROSS_ENTROPY_FORWARD_F32;
    let params = CrossEntropy {
        loss: loss.address(op)?,
        log_sums: log_sums.address(op)?,
        x: x.address(op)?,
        labels: labels.address(op)?,
        control: device.control(),
        kernel: count(op, kernel.index + 1)?,
        rows: count(op, x.shape()[0])?,
        classes: count(op, x.shape()[1])?,
        padding: 0,
    };
    device.launch(kernel, [1, 1, 1], 0, &params)?;
    Ok((loss, log_sums))
}

/// The gradient of x, from a g without axes.
pub(super) fn cross_entropy_gradient([x, labels, log_sums, g]: [&Tensor; 4]) -> Result<Tensor> {
    let op = "cross_entropy";
    let device = device_of(op, &[x, labels, log_sums, g])?;
    f32_only(op, &[x, g])?;
    let plain = |t: &Tensor| t.detach().to_format(Format::Contiguous);
    let (x, labels) = (plain(x)?, plain(labels)?);
    let out = device.empty(Layout::contiguous(*x.layout().shape()), DType::F32)?;
    let params = CrossEntropyGradient {
        out: out.address(op)?,
        x: x.address(op)?,
        log_sums: log_sums.address(op)?,
        labels: labels.address(op)?,
        g: g.address(op)?,
        rows: count(op, x.shape()[0])?,
        classes: count(op, x.shape()[1])?,
    };
    let kernel = &kernels::EOSIN_CROSS_ENTROPY_BACKWARD_F32;
    device.launch(kernel, grid(x.elements()), 0, &params)?;
    Ok(out)
}
