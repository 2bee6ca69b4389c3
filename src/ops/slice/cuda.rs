use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Address, Walk, count, device_of, kernels};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::elementwise::grid;
use crate::ops::images::format_of;
use crate::shape::{Layout, Shape};
use crate::tensor::Tensor;

/// A mirror of `PlaceParams` in kernels/slice.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x: Address,
    out: Address,
    size: u32,
    inner: u32,
    start: u32,
    step: u32,
    length: u32,
    stride: u32,
    walk: Walk,
}

pub(super) fn place(
    x: &Tensor,
    axis: usize,
    start: usize,
    step: usize,
    size: usize,
) -> Result<Tensor> {
    let op = "place";
    let device = device_of(op, &[x])?;
    let kernel = match x.dtype() {
        DType::F32 => &kernels::EOSIN_PLACE_FORWARD_B4,
        DType::F16 | DType::BF16 => &kernels::EOSIN_PLACE_FORWARD_B2,
        other => return Err(Error::dtype(op, &[other], "a float is needed")),
    };
    let mut dims = x.shape().to_vec();
    dims[axis] = size;
    let layout = Layout::new(Shape::new(&dims)?, format_of(x))?;
    let out = device.empty(layout, x.dtype())?;
    let length = x.shape()[axis];
    // Without its axis, x repeats along it, and the kernel adds what is due.
    let first = x.layout().narrow(axis, 0, 1, 1);
    let params = Params {
        x: x.address(op)?,
        out: out.address(op)?,
        size: count(op, size)?,
        inner: count(op, layout.strides()[axis])?,
        start: count(op, start)?,
        // Beyond the axis every step is the same.
        step: count(op, step.min(size.max(1)))?,
        length: count(op, length)?,
        stride: count(
            op,
            if length > 1 {
                x.layout().strides()[axis]
            } else {
                0
            },
        )?,
        walk: Walk::new(op, &layout, &[&first])?,
    };
    device.launch(kernel, grid(layout.elements()), 0, &params)?;
    Ok(out)
}
