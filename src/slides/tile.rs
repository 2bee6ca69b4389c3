//! Square tiles cut from an image, resized and normalised for a network.

use super::Rgb8;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::vector::{Vectors, widest};
use crate::ops::{self, StainMap};
use crate::shape::Format;
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
/// shrinking: Pillow's `BILINEAR`, level for level.
///
/// # Errors
/// As [`resample`].
pub fn resize(image: &Rgb8, width: usize, height: usize) -> Result<Rgb8> {
    if (image.width, image.height) == (width, height) {
        image.check("resize")?;
        return Ok(image.clone());
    }
    let all = (0.0, 0.0, image.width as f64, image.height as f64);
    resample(image, all, width, height)
}

/// The part (left, top, width, height) of an image, which need not begin or end
/// between pixels, resized as by [`resize`].
///
/// # Errors
/// A size of zero or above [`super::image::MAX_SIDE`]; a part that leaves the
/// image; an image whose data do not fit its size.
pub fn resample(
    image: &Rgb8,
    (left, top, wide, high): (f64, f64, f64, f64),
    width: usize,
    height: usize,
) -> Result<Rgb8> {
    image.check("resize")?;
    let fits = |n: usize| (1..=super::image::MAX_SIDE).contains(&n);
    let inside = |from: f64, len: f64, side: usize| {
        from >= 0.0 && len > 0.0 && from + len <= side as f64 + 1e-6
    };
    if ![image.width, image.height, width, height]
        .into_iter()
        .all(fits)
        || !inside(left, wide, image.width)
        || !inside(top, high, image.height)
    {
        return Err(Error::shape(
            "resize",
            &[&[image.height, image.width, 3], &[height, width, 3]],
            "sides from 1 px to the bound for images",
        ));
    }
    let columns = taps(image.width, (left, wide), width);
    let rows = taps(image.height, (top, high), height);
    // Only rows that some result is made of.
    let first = rows.first().map_or(0, |t| t.first);
    let last = rows.last().map_or(0, |t| t.first + t.weights.len());
    let pitch = width * 3;
    let mut narrow = vec![0u8; (last - first) * pitch];
    let mut data = vec![0u8; height * pitch];
    widest(Resample {
        image,
        taps: [&columns, &rows],
        first,
        narrow: &mut narrow,
        data: &mut data,
    });
    Ok(Rgb8 {
        width,
        height,
        data,
    })
}

/// The loops of [`resample`].
struct Resample<'a> {
    image: &'a Rgb8,
    /// Of columns and rows.
    taps: [&'a [Taps]; 2],
    /// The first row of the image that is in `narrow`.
    first: usize,
    narrow: &'a mut [u8],
    data: &'a mut [u8],
}

impl Vectors for Resample<'_> {
    #[inline(always)]
    fn run(self) {
        let [columns, rows] = self.taps;
        let (image, first) = (self.image, self.first);
        let pitch = columns.len() * 3;
        let sources = image.data.chunks_exact(image.width * 3).skip(first);
        for (row, out) in sources.zip(self.narrow.chunks_exact_mut(pitch)) {
            for (tap, out) in columns.iter().zip(out.chunks_exact_mut(3)) {
                let mut sum = [HALF; 3];
                let pixels = row[tap.first * 3..].chunks_exact(3);
                for (weight, pixel) in tap.weights.iter().zip(pixels) {
                    for c in 0..3 {
                        sum[c] += weight * i32::from(pixel[c]);
                    }
                }
                for c in 0..3 {
                    out[c] = level(sum[c]);
                }
            }
        }
        let mut sums = vec![0i32; pitch];
        for (tap, out) in rows.iter().zip(self.data.chunks_exact_mut(pitch)) {
            sums.fill(HALF);
            let lines = self.narrow[(tap.first - first) * pitch..].chunks_exact(pitch);
            for (weight, line) in tap.weights.iter().zip(lines) {
                for (sum, &value) in sums.iter_mut().zip(line) {
                    *sum += weight * i32::from(value);
                }
            }
            for (out, &sum) in out.iter_mut().zip(&sums) {
                *out = level(sum);
            }
        }
    }
}

/// The source levels that one result is the weighted sum of.
struct Taps {
    first: usize,
    /// In units of 2^-22. They are positive and sum to 1, so that a sum of
    /// bytes stays within 32 bits.
    weights: Vec<i32>,
}

/// Bits after the point of a weight: Pillow's fixed-point rule for bytes. With
/// weights in floating point one level in thirty would come out one lower,
/// because exact halves are frequent.
const BITS: u32 = 22;
const HALF: i32 = 1 << (BITS - 1);

#[inline(always)]
fn level(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// The triangle filter from `len` of `from` places, starting at `start`, to `to`
/// places; as wide as the ratio when shrinking.
fn taps(from: usize, (start, len): (f64, f64), to: usize) -> Vec<Taps> {
    let ratio = len / to as f64;
    let support = ratio.max(1.0);
    (0..to)
        .map(|place| {
            let centre = start + (place as f64 + 0.5) * ratio;
            let first = ((centre - support + 0.5).max(0.0) as usize).min(from - 1);
            let last = (((centre + support + 0.5) as usize).min(from)).max(first + 1);
            let weight = |i: usize| (1.0 - ((i as f64 + 0.5 - centre) / support).abs()).max(0.0);
            let total: f64 = (first..last).map(weight).sum();
            let fixed = |w: f64| (w / total * f64::from(1u32 << BITS) + 0.5) as i32;
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

/// NHWC pixels as the (N, 3, H, W) channels-last tensor that networks take.
///
/// # Errors
/// Other than three values for each of N x `px` x `px` pixels.
pub fn images(pixels: &[f32], n: usize, px: usize) -> Result<Tensor> {
    let nhwc = Tensor::from_slice(pixels, &[n, px, px, 3])?;
    ops::permute(&nhwc, &[0, 3, 1, 2])?.to_format(Format::ChannelsLast)
}

/// Tiles of one size at `px` pixels a side as the (N, 3, px, px) tensor that a network
/// trained on ImageNet takes, on `device`.
///
/// On the CPU that is [`resize`] and [`normalise`]. On CUDA it is one kernel
/// ([`ops::normalise_tiles`]): a quarter of the bytes is uploaded, and tiles that change
/// their size are not rounded to whole levels in between. The kernel also turns the
/// colours of `stain`; so that none is left out, a CPU asked for them takes the operator
/// too.
///
/// # Errors
/// Tiles of several sizes or none, whose data do not fit their size; as [`resize`].
pub fn network_input(
    tiles: &[Rgb8],
    px: usize,
    stain: Option<&StainMap>,
    device: &Device,
) -> Result<Tensor> {
    if matches!(device, Device::Cpu) && stain.is_none() {
        let size = px * px * 3;
        let mut pixels = vec![0f32; tiles.len() * size];
        for (tile, out) in tiles.iter().zip(pixels.chunks_exact_mut(size.max(1))) {
            normalise(&resize(tile, px, px)?, IMAGENET_MEAN, IMAGENET_STD, out)?;
        }
        return images(&pixels, tiles.len(), px);
    }
    let (height, width) = tiles.first().map_or((0, 0), |t| (t.height, t.width));
    let mut levels = Vec::with_capacity(tiles.len() * height * width * 3);
    for tile in tiles {
        tile.check("network_input")?;
        if (tile.height, tile.width) != (height, width) {
            let sizes: [&[usize]; 2] = [&[height, width, 3], &[tile.height, tile.width, 3]];
            return Err(Error::shape("network_input", &sizes, "tiles of one size"));
        }
        levels.extend_from_slice(&tile.data);
    }
    let levels = Tensor::from_slice(&levels, &[tiles.len(), height, width, 3])?.to(device)?;
    let (mean, std) = (IMAGENET_MEAN, IMAGENET_STD);
    ops::normalise_tiles(&levels, [px, px], stain, mean, std, DType::F32)
}
