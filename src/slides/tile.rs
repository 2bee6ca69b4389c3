//! Square tiles cut from an image, resized and normalised for a network.

use super::Rgb8;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;

/// Mean of R, G, B over ImageNet, as torchvision's weights expect.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of R, G, B over ImageNet.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Left and top of the square of `size` px around (x, y), if it lies within
/// `width` x `height`.
///
/// The square reaches from floor(centre) - size / 2 (integer division), as
/// the published her2st readers cut it.
///
/// # Errors
/// A square of no size, a centre that is not finite, or a square that leaves
/// the image: tiles are never padded, since a padded border is no tissue.
pub fn place(
    (width, height): (usize, usize),
    (x, y): (f64, f64),
    size: usize,
) -> Result<(usize, usize)> {
    let start = |centre: f64, side: usize| {
        let start = centre.floor() - (size / 2) as f64;
        let fits = start >= 0.0 && start + size as f64 <= side as f64;
        (fits && size > 0).then_some(start as usize)
    };
    match (start(x, width), start(y, height)) {
        (Some(left), Some(top)) => Ok((left, top)),
        _ => Err(Error::usage(
            format!(
                "the tile of {size} px around ({x}, {y}) leaves the image of {width} x {height} px"
            ),
            "check that the coordinates belong to this image at this size",
        )),
    }
}

/// The square of `size` px around `centre`, by the rule of [`place`].
///
/// # Errors
/// As [`place`]; an image whose data do not fit its size.
pub fn crop(image: &Rgb8, centre: (f64, f64), size: usize) -> Result<Rgb8> {
    image.check("crop")?;
    let (left, top) = place((image.width, image.height), centre, size)?;
    let mut data = Vec::with_capacity(size * size * 3);
    for row in image
        .data
        .chunks_exact(image.width * 3)
        .skip(top)
        .take(size)
    {
        data.extend_from_slice(&row[left * 3..(left + size) * 3]);
    }
    Ok(Rgb8 {
        width: size,
        height: size,
        data,
    })
}

/// Resizes with the triangle (bilinear) filter, widened by the ratio when
/// shrinking: Pillow's `BILINEAR`, within one level.
///
/// # Errors
/// A size of zero or above [`super::image::MAX_SIDE`]; an image whose data do
/// not fit its size.
pub fn resize(image: &Rgb8, width: usize, height: usize) -> Result<Rgb8> {
    image.check("resize")?;
    if (image.width, image.height) == (width, height) {
        return Ok(image.clone());
    }
    let fits = |n: usize| (1..=super::image::MAX_SIDE).contains(&n);
    if ![image.width, image.height, width, height]
        .into_iter()
        .all(fits)
    {
        return Err(Error::shape(
            "resize",
            &[&[image.height, image.width, 3], &[height, width, 3]],
            "sides from 1 px to the bound for images",
        ));
    }
    // The operator of the engine, so that CPU and GPU share one rule. Pillow
    // rounds to whole levels after each direction, horizontal first.
    let levels: Vec<f32> = image.data.iter().map(|&v| f32::from(v)).collect();
    let pixels = Tensor::from_slice(&levels, &[1, image.height, image.width, 3])?;
    let pixels = ops::permute(&pixels, &[0, 3, 1, 2])?;
    let wide = rounded(&ops::resize_bilinear(&pixels, [image.height, width], true)?)?;
    let out = rounded(&ops::resize_bilinear(&wide, [height, width], true)?)?;
    let out = ops::cast(&ops::permute(&out, &[0, 2, 3, 1])?, DType::U8)?;
    Ok(Rgb8 {
        width,
        height,
        data: out.to_vec()?,
    })
}

/// The nearest whole level, halves up: truncation of x + 1/2, which the cast to
/// an integer does. Exact halves are frequent (the weights are fractions with
/// small denominators) and a sum in f32 can end an ulp of 255 below them; the
/// little more than 1/2 takes them up as Pillow's fixed-point sums go.
fn rounded(x: &Tensor) -> Result<Tensor> {
    let whole = ops::cast(&ops::affine(x, 1.0, 0.5 + 1e-4)?, DType::U8)?;
    ops::cast(&whole, DType::F32)
}

/// Writes (v / 255 - mean) / std of each pixel into `out`, NHWC: (height,
/// width, 3).
///
/// # Errors
/// An `out` of another length than the tile's data.
pub fn normalise(tile: &Rgb8, mean: [f32; 3], std: [f32; 3], out: &mut [f32]) -> Result<()> {
    tile.check("normalise")?;
    if out.len() != tile.data.len() {
        return Err(Error::shape(
            "normalise",
            &[&[tile.height, tile.width, 3], &[out.len()]],
            "room for three values a pixel",
        ));
    }
    let table: [[f32; 256]; 3] = std::array::from_fn(|c| {
        std::array::from_fn(|level| (level as f32 / 255.0 - mean[c]) / std[c])
    });
    for (out, pixel) in out.chunks_exact_mut(3).zip(tile.data.chunks_exact(3)) {
        for c in 0..3 {
            out[c] = table[c][usize::from(pixel[c])];
        }
    }
    Ok(())
}
