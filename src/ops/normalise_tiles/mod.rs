//! `normalise_tiles`: bytes of tiles to what a network takes: stains of another slide,
//! another size, mean and standard deviation, in one pass on CUDA.

mod cpu;
mod cuda;

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::resize;
use crate::profile;
use crate::tensor::Tensor;

const OP: &str = "normalise_tiles";

/// Turns the colours of two stains into those of others: with optical densities d =
/// -ln((v + 1) / light) of a pixel's levels v, they become light e^(-M d), cut off to
/// whole levels in 0..=255. Unmixing, scaling and mixing (Macenko et al. 2009) are one
/// matrix M.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StainMap {
    /// Rows for R, G, B of the result, columns for those that are given.
    pub matrix: [[f32; 3]; 3],
    /// Transmitted light, in levels.
    pub light: f32,
}

impl StainMap {
    /// Densities by level.
    fn densities(&self) -> [f32; 256] {
        let light = f64::from(self.light);
        std::array::from_fn(|v| -((v as f64 + 1.0) / light).ln() as f32)
    }
}

/// What a level v of each channel becomes: v `scale` + `shift`.
struct Affine {
    scale: [f32; 3],
    shift: [f32; 3],
}

/// Levels x (N, H, W, 3) -> (N, 3, h, w), channels last, in the dtype `to`: (v / 255 -
/// mean) / std with v the levels, stained by `stain` if it is given and resized by
/// [`ops::resize_bilinear`](crate::ops::resize_bilinear) with antialiasing, without
/// rounding in between. There is no gradient.
///
/// # Errors
/// No u8, another number of axes or channels, an empty tile, a `std`, light or matrix
/// that makes no numbers, a dtype that is not f32, bf16 or f16.
pub fn normalise_tiles(
    x: &Tensor,
    size: [usize; 2],
    stain: Option<&StainMap>,
    mean: [f32; 3],
    std: [f32; 3],
    to: DType,
) -> Result<Tensor> {
    if !matches!(to, DType::F32 | DType::BF16 | DType::F16) || x.dtype() != DType::U8 {
        let expected = "levels are u8, and the result is f32, bf16 or f16";
        return Err(Error::dtype(OP, &[x.dtype(), to], expected));
    }
    let &[_, h, w, 3] = x.shape() else {
        return Err(Error::shape(OP, &[x.shape()], "levels (N, H, W, 3)"));
    };
    if h == 0 || w == 0 || size.contains(&0) {
        let expected = "a tile of at least one pixel is needed on both sides";
        return Err(Error::shape(OP, &[x.shape(), &size], expected));
    }
    let affine = Affine {
        scale: std.map(|s| 1.0 / (255.0 * s)),
        shift: std::array::from_fn(|c| -mean[c] / std[c]),
    };
    let known = |values: &[f32]| values.iter().all(|v| v.is_finite());
    if !known(&affine.scale) || !known(&affine.shift) {
        let problem = format!("mean {mean:?} and std {std:?} make no numbers; std is not 0");
        return Err(Error::op(OP, problem));
    }
    if let Some(stain) = stain
        && !(known(stain.matrix.as_flattened()) && stain.light.is_finite() && stain.light > 0.0)
    {
        let problem = format!("{stain:?}: give finite numbers, and a light above 0");
        return Err(Error::op(OP, problem));
    }
    let maps = resize::maps([h, w], size, true);
    profile::call(OP, &[x], || match x.device() {
        Device::Cpu => cpu::normalise_tiles(x, &maps, stain, &affine, to),
        Device::Cuda(_) => cuda::normalise_tiles(x, &maps, stain, &affine, to),
    })
}
