//! Clipping on CUDA without the host, see kernels/clip_grad_norm.cu.

use bytemuck::{Pod, Zeroable};

use super::cuda::is_sole;
use crate::device::cuda::{Address, count, device_of, f32_only, kernels};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

const OP: &str = "clip_grad_norm";
/// Elements of a block.
const CHUNK: usize = 8192;
/// Gradients of a launch.
const MOST: usize = 128;

/// A mirror of `Tensors` in kernels/clip_grad_norm.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Tensors {
    from: [Address; MOST],
    to: [Address; MOST],
    elements: [u32; MOST],
    block: [u32; MOST],
    sums: Address,
    norm: Address,
}

/// A mirror of `NormParams` in kernels/clip_grad_norm.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NormParams {
    sums: Address,
    norm: Address,
    count: u32,
    limit: f32,
}

/// Scales `gradients`, of which there must be one, and returns the norm from
/// before.
pub(super) fn clip(gradients: &mut [&mut Tensor], max_norm: f64) -> Result<Tensor> {
    let all: Vec<&Tensor> = gradients.iter().map(|g| &**g).collect();
    let device = device_of(OP, &all)?;
    f32_only(OP, &all)?;
    for gradient in gradients.iter_mut() {
        **gradient = gradient.detach();
        if !gradient.layout().is_dense() {
            **gradient = gradient.to_format(Format::Contiguous)?;
        }
    }

    let blocks = |t: &Tensor| t.elements().div_ceil(CHUNK);
    let total: usize = gradients.iter().map(|g| blocks(g)).sum();
    let room = |n: usize| Ok::<_, crate::error::Error>(Layout::contiguous(Shape::new(&[n])?));
    let sums = device.empty(room(total)?, DType::F32)?;
    let norm = device.empty(room(2)?, DType::F32)?;

    // Each launch with its blocks; both passes use them.
    let mut launches: Vec<(Tensors, usize)> = Vec::new();
    let mut done = 0;
    let mut clipped = Vec::with_capacity(gradients.len());
    for group in gradients.chunks(MOST) {
        let mut launch = Tensors {
            block: [u32::MAX; MOST],
            sums: Address(sums.address(OP)?.0 + 4 * done as u64),
            norm: norm.address(OP)?,
            ..Zeroable::zeroed()
        };
        let mut here = 0;
        for (place, gradient) in group.iter().enumerate() {
            // What else holds a gradient must not see it change.
            let to = match is_sole(gradient) {
                true => None,
                false => Some(device.empty(gradient.layout().packed(), DType::F32)?),
            };
            launch.from[place] = gradient.address(OP)?;
            launch.to[place] = to.as_ref().unwrap_or(gradient).address(OP)?;
            launch.elements[place] = count(OP, gradient.elements())?;
            launch.block[place] = count(OP, here)?;
            here += blocks(gradient);
            clipped.push(to);
        }
        launches.push((launch, here));
        done += here;
    }

    for (launch, blocks) in &launches {
        let kernel = &kernels::EOSIN_CLIP_GRAD_NORM_FORWARD_SQUARES_F32;
        device.launch(kernel, [*blocks, 1, 1], 0, launch)?;
    }
    let params = NormParams {
        sums: sums.address(OP)?,
        norm: norm.address(OP)?,
        count: count(OP, total)?,
        limit: max_norm as f32,
    };
    let kernel = &kernels::EOSIN_CLIP_GRAD_NORM_FORWARD_NORM_F32;
    device.launch(kernel, [1, 1, 1], 0, &params)?;
    for (launch, blocks) in &launches {
        let kernel = &kernels::EOSIN_CLIP_GRAD_NORM_FORWARD_SCALE_F32;
        device.launch(kernel, [*blocks, 1, 1], 0, launch)?;
    }
    for (gradient, to) in gradients.iter_mut().zip(clipped) {
        if let Some(to) = to {
            **gradient = to;
        }
    }
    Ok(norm.with_layout(Layout::contiguous(Shape::new(&[])?)))
}
