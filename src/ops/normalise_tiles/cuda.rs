use bytemuck::{Pod, Zeroable};

use super::{Affine, OP, StainMap};
use crate::device::cuda::{Address, count, device_of, kernels};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::separable::Taps;
use crate::ops::separable::cuda::Map;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// Pixels of a block.
const BLOCK: usize = 1024;

/// A mirror of `NormaliseTiles` in kernels/normalise_tiles.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    out: Address,
    x: Address,
    rows: Map,
    columns: Map,
    pixels: u32,
    stained: u32,
    density: [f32; 256],
    matrix: [[f32; 3]; 3],
    light: f32,
    scale: [f32; 3],
    shift: [f32; 3],
}

pub(super) fn normalise_tiles(
    x: &Tensor,
    [rows, columns]: &[Taps; 2],
    stain: Option<&StainMap>,
    affine: &Affine,
    to: DType,
) -> Result<Tensor> {
    let device = device_of(OP, &[x])?;
    let x = x.detach().to_format(Format::Contiguous)?;
    count(OP, x.elements())?;
    let shape = Shape::new(&[x.shape()[0], 3, rows.outputs(), columns.outputs()])?;
    let out = device.empty(Layout::new(shape, Format::ChannelsLast)?, to)?;
    let kernel = match to {
        DType::BF16 => &kernels::EOSIN_NORMALISE_TILES_FORWARD_BF16,
        DType::F16 => &kernels::EOSIN_NORMALISE_TILES_FORWARD_F16,
        _ => &kernels::EOSIN_NORMALISE_TILES_FORWARD_F32,
    };
    count(OP, out.elements())?;
    let pixels = out.elements() / 3;
    let params = Params {
        out: out.address(OP)?,
        x: x.address(OP)?,
        rows: Map::new(OP, &device, rows)?,
        columns: Map::new(OP, &device, columns)?,
        pixels: count(OP, pixels)?,
        stained: stain.is_some().into(),
        density: stain.map_or([0.0; 256], StainMap::densities),
        matrix: stain.map_or([[0.0; 3]; 3], |s| s.matrix),
        light: stain.map_or(0.0, |s| s.light),
        scale: affine.scale,
        shift: affine.shift,
    };
    device.launch(kernel, [pixels.div_ceil(BLOCK), 1, 1], 0, &params)?;
    Ok(out)
}
