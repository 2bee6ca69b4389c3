use bytemuck::{Pod, Zeroable};

use super::Kind;
use crate::device::cuda::{Address, count, device_of, f32_only, kernels};
use crate::dtype::DType;
use crate::error::Result;
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

/// The mean of a function of pairs of elements, NaN over none.
pub(super) fn mean_of(op: &'static str, kind: Kind, x: &Tensor, y: &Tensor) -> Result<Tensor> {
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
        elements: n as f32,
    };
    let kernel = &kernels::EOSIN_LOSS_FORWARD_MEAN_F32;
    device.launch(kernel, [1, 1, 1], 0, &params)?;
    Ok(out)
}
