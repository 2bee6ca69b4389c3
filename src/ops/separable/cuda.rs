use bytemuck::{Pod, Zeroable};

use super::Taps;
use crate::device::cuda::{Address, CudaDevice, count, device_of, f32_only, kernels};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::images::{Images, format_of};
use crate::tensor::Tensor;

/// Elements of a block.
const BLOCK: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Tap {
    input: u32,
    weight: f32,
}

/// A mirror of `Map` in kernels/common/taps.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Map {
    starts: Address,
    taps: Address,
    inputs: u32,
    outputs: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    out: Address,
    x: Address,
    rows: Map,
    columns: Map,
    channels: u32,
    elements: u32,
}

impl Map {
    /// With its tables on the device.
    pub fn new(op: &'static str, device: &CudaDevice, from: &Taps) -> Result<Self> {
        let mut starts = Vec::with_capacity(from.starts.len());
        for &start in &from.starts {
            starts.push(count(op, start)?);
        }
        let mut taps = Vec::with_capacity(from.taps.len());
        for &(input, weight) in &from.taps {
            taps.push(Tap {
                input: count(op, input)?,
                weight: weight as f32,
            });
        }
        Ok(Self {
            starts: device.constant(bytemuck::cast_slice(&starts))?,
            taps: device.constant(bytemuck::cast_slice(&taps))?,
            inputs: count(op, from.inputs)?,
            outputs: count(op, from.outputs())?,
        })
    }
}

pub(super) fn separable(
    op: &'static str,
    x: &Tensor,
    [rows, columns]: &[Taps; 2],
) -> Result<Tensor> {
    let device = device_of(op, &[x])?;
    f32_only(op, &[x])?;
    let images = Images::of(x, format_of(x))?;
    let layout = images.resized([rows.outputs(), columns.outputs()])?;
    let out = device.empty(layout, DType::F32)?;
    if out.elements() == 0 {
        return Ok(out);
    }
    let params = Params {
        out: out.address(op)?,
        x: images.tensor.address(op)?,
        rows: Map::new(op, &device, rows)?,
        columns: Map::new(op, &device, columns)?,
        channels: count(op, images.c)?,
        elements: count(op, out.elements())?,
    };
    let grid = [out.elements().div_ceil(BLOCK), 1, 1];
    device.launch(&kernels::EOSIN_SEPARABLE_FORWARD_F32, grid, 0, &params)?;
    Ok(out)
}
