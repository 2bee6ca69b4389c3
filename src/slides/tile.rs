//! Square tiles cut from an image, resized and normalised for a network.

use super::Rgb8;
use crate::error::{Error, Result};

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
/// shrinking: Pillow's `BILINEAR`, level for level.
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
    let rows: Vec<&[u8]> = image.data.chunks_exact(image.width * 3).collect();
    let columns = taps(image.width, width);
    let mut wide = Vec::with_capacity(image.height * width * 3);
    for row in rows {
        for tap in &columns {
            let at = |c: usize, i: usize| row[(tap.first + i) * 3 + c];
            wide.extend([0, 1, 2].map(|c| tap.sum(|i| at(c, i))));
        }
    }
    let pitch = width * 3;
    let mut data = Vec::with_capacity(height * pitch);
    for tap in taps(image.height, height) {
        data.extend((0..pitch).map(|x| tap.sum(|i| wide[(tap.first + i) * pitch + x])));
    }
    Ok(Rgb8 {
        width,
        height,
        data,
    })
}

/// The source levels that one result is the weighted sum of.
struct Taps {
    first: usize,
    /// In units of 2^-22.
    weights: Vec<i64>,
}

/// Bits after the point of a weight: Pillow's fixed-point rule for bytes. With
/// weights in floating point one level in thirty would come out one lower,
/// because exact halves are frequent.
const BITS: u32 = 22;

impl Taps {
    fn sum(&self, level: impl Fn(usize) -> u8) -> u8 {
        let half = 1i64 << (BITS - 1);
        let weighted = self.weights.iter().enumerate();
        let total: i64 = weighted.map(|(i, w)| w * i64::from(level(i))).sum();
        ((total + half) >> BITS).clamp(0, 255) as u8
    }
}

/// The triangle filter from `from` to `to` places, as wide as the ratio when
/// shrinking.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let ratio = from as f64 / to as f64;
    let support = ratio.max(1.0);
    (0..to)
        .map(|place| {
            let centre = (place as f64 + 0.5) * ratio;
            let first = ((centre - support + 0.5).max(0.0)) as usize;
            let last = (((centre + support + 0.5) as usize).min(from)).max(first + 1);
            let weight = |i: usize| (1.0 - ((i as f64 + 0.5 - centre) / support).abs()).max(0.0);
            let total: f64 = (first..last).map(weight).sum();
            let fixed = |w: f64| (w / total * f64::from(1u32 << BITS) + 0.5) as i64;
            Taps {
                first,
                weights: (first..last).map(|i| fixed(weight(i))).collect(),
            }
        })
        .collect()
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
