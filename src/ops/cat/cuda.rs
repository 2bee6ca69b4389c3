use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Address, CudaDevice, Walk, device_of, kernels};
use crate::error::Result;
use crate::ops::elementwise::grid;
use crate::ops::images::format_of;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// A mirror of `CatParams` in kernels/cat.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x: Address,
    out: Address,
    walk: Walk,
}

pub(super) fn cat(tensors: &[&Tensor], axis: usize, shape: Shape) -> Result<Tensor> {
    let op = "cat";
    let device = device_of(op, tensors)?;
    let (format, dtype) = (format_of(tensors[0]), tensors[0].dtype());
    let layout = Layout::new(shape, format)?;
    let out = device.empty(layout, dtype)?;
    let mut start = 0;
    for x in tensors {
        let size = x.shape()[axis];
        let part = out.with_layout(layout.narrow(axis, start, size, 1));
        start += size;
        copy(&device, x, &part, format)?;
    }
    Ok(out)
}

/// Writes x to `part` of a channels-last image.
pub(in crate::ops) fn place(device: &CudaDevice, x: &Tensor, part: &Tensor) -> Result<()> {
    copy(device, x, part, Format::ChannelsLast)
}

/// x to `part`, of the same shape, of a tensor of `format`.
fn copy(device: &CudaDevice, x: &Tensor, part: &Tensor, format: Format) -> Result<()> {
    let op = "cat";
    if x.elements() == 0 {
        return Ok(());
    }
    let kernel = match x.dtype().size() {
        1 => &kernels::EOSIN_CAT_FORWARD_B1,
        2 => &kernels::EOSIN_CAT_FORWARD_B2,
        4 => &kernels::EOSIN_CAT_FORWARD_B4,
        _ => &kernels::EOSIN_CAT_FORWARD_B8,
    };
    // Neighbours in the result go to neighbouring threads.
    let order = Layout::new(*x.layout().shape(), format)?;
    let params = Params {
        x: x.address(op)?,
        out: part.address(op)?,
        walk: Walk::new(op, &order, &[x.layout(), part.layout()])?,
    };
    device.launch(kernel, grid(x.elements()), 0, &params)
}
