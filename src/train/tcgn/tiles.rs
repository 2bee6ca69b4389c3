//! Tiles of spots for training: cut once, kept as bytes, and made into batches
//! while the step before is computed.
//!
//! Memory is 3 bytes for each pixel of each tile as it lies in its image (37 KiB
//! for 112 px: 11 MiB for 300 spots), the images that are decoded together at the
//! start (see [`crate::cohort::for_each_batch`]), and two batches of f32.

use std::sync::Arc;

use rayon::prelude::*;

use crate::cohort::{Cohort, Colours, cut_tiles};
use crate::error::{Error, Result};
use crate::formats::hash::sha256_bytes;
use crate::random::Philox;
use crate::slides::stain::{Method, Normaliser};
use crate::slides::{Rgb8, tile};
use crate::tensor::Tensor;
use crate::train::features::images;

/// Turns and mirrors training tiles, as TCGN is published: a rotation by an angle
/// uniform in -180 to 180 degrees about the tile's centre, nearest pixel, 0 (the
/// mean colour of ImageNet) outside, then either flip with probability 1/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Augmentation {
    pub seed: u64,
    pub epoch: usize,
}

/// One sample's turn and flips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// Anticlockwise, in degrees.
    pub degrees: f32,
    pub horizontal: bool,
    pub vertical: bool,
}

impl Augmentation {
    /// What is done to a sample: a function of seed, epoch and the sample's name,
    /// so neither of its place in a batch nor of the number of threads.
    pub fn of(&self, sample: &str) -> Turn {
        let purpose = format!("augmentation {} {sample}", self.epoch);
        let mut values = [0.0; 3];
        Philox::fork(self.seed, &purpose).fill_uniform(&mut values, 0.0, 1.0);
        Turn {
            degrees: 360.0 * values[0] - 180.0,
            horizontal: values[1] < 0.5,
            vertical: values[2] < 0.5,
        }
    }
}

impl Turn {
    /// A square of `px` pixels, three values each, row-major -> `out`, likewise.
    pub fn apply(&self, tile: &[f32], px: usize, out: &mut [f32]) {
        let (sin, cos) = f64::from(self.degrees).to_radians().sin_cos();
        let middle = (px as f64 - 1.0) / 2.0;
        let side = 0.0..px as f64;
        for (at, pixel) in out.chunks_exact_mut(3).enumerate() {
            let (mut y, mut x) = ((at / px) as f64 - middle, (at % px) as f64 - middle);
            // The flips come last, so they are undone first.
            if self.horizontal {
                x = -x;
            }
            if self.vertical {
                y = -y;
            }
            let from_x = (cos * x - sin * y + middle).round_ties_even();
            let from_y = (sin * x + cos * y + middle).round_ties_even();
            let source = match side.contains(&from_x) && side.contains(&from_y) {
                true => tile.get(3 * (from_y as usize * px + from_x as usize)..),
                false => None,
            };
            match source.and_then(|s| s.get(..3)) {
                Some(source) => pixel.copy_from_slice(source),
                None => pixel.fill(0.0),
            }
        }
    }
}

/// The tiles of a cohort's samples, the first of each: a spot's own.
pub struct Tiles {
    names: Vec<String>,
    tiles: Vec<Rgb8>,
    /// What is done to each tile's colours.
    colours: Vec<Option<Arc<Normaliser>>>,
    /// Side in pixels that networks are given.
    out_px: usize,
}

impl Tiles {
    /// Decodes the images of `cohort`, in parallel, and cuts the tiles. Tiles that
    /// cannot be used are taken out of the cohort, and samples that lose theirs. With
    /// `stain` they come in the colours of its reference.
    ///
    /// # Errors
    /// No sample left; a size of 0.
    pub fn read(cohort: &mut Cohort, out_px: usize, stain: Option<Method>) -> Result<Self> {
        if out_px == 0 {
            return Err(Error::usage(
                "tiles of 0 px have no content",
                "give the side of the network's tiles",
            ));
        }
        let (mut cut, unused) = cut_tiles(cohort)?;
        cohort.drop_tiles(&unused)?;
        let colours = Colours::fit(cohort, stain, out_px)?;
        let mut out = Self {
            names: Vec::with_capacity(cohort.samples.len()),
            tiles: Vec::with_capacity(cohort.samples.len()),
            colours: Vec::with_capacity(cohort.samples.len()),
            out_px,
        };
        for sample in &cohort.samples {
            let own = sample.tiles.first().and_then(|&i| cohort.tiles.get(i));
            out.colours
                .push(own.and_then(|t| colours.of(t.image)).cloned());
            let tile = sample.tiles.first().and_then(|&i| cut.get_mut(i)?.take());
            let Some(tile) = tile else {
                return Err(Error::op(
                    "tiles",
                    format!("sample {} has no tile of its own", sample.id),
                ));
            };
            out.names.push(sample.id.clone());
            out.tiles.push(tile);
        }
        Ok(out)
    }

    /// Bytes of the tiles that are kept.
    pub fn bytes(&self) -> usize {
        self.tiles.iter().map(|tile| tile.data.len()).sum()
    }

    /// A hash of the pixels.
    pub fn sha256(&self) -> String {
        let each = self.tiles.par_iter().map(|tile| sha256_bytes(&tile.data));
        sha256_bytes(each.collect::<Vec<_>>().concat().as_bytes())
    }

    /// Samples by index as (N, 3, px, px), channels-last: resized with
    /// antialiasing, ImageNet-normalised, augmented if asked for.
    ///
    /// # Errors
    /// An index that is none.
    pub fn batch(&self, samples: &[usize], augmentation: Option<Augmentation>) -> Result<Tensor> {
        let px = self.out_px;
        let mut values = vec![0.0f32; samples.len() * px * px * 3];
        (values.par_chunks_exact_mut(px * px * 3))
            .zip(samples)
            .try_for_each(|(out, &sample)| -> Result<()> {
                let (Some(tile), Some(name)) = (self.tiles.get(sample), self.names.get(sample))
                else {
                    return Err(Error::op("tiles", format!("there is no sample {sample}")));
                };
                let mut resized = tile::resize(tile, px, px)?;
                if let Some(Some(normaliser)) = self.colours.get(sample) {
                    normaliser.apply(&mut resized);
                }
                let (mean, std) = (tile::IMAGENET_MEAN, tile::IMAGENET_STD);
                match augmentation {
                    None => tile::normalise(&resized, mean, std, out),
                    Some(augmentation) => {
                        let mut plain = vec![0.0; out.len()];
                        tile::normalise(&resized, mean, std, &mut plain)?;
                        augmentation.of(name).apply(&plain, px, out);
                        Ok(())
                    }
                }
            })?;
        images(&values, samples.len(), px)
    }

    /// Calls `take` with the number of each batch and its tiles, in order; the next
    /// batch is made meanwhile.
    ///
    /// # Errors
    /// As [`Self::batch`]; what `take` returns.
    pub fn for_each_batch(
        &self,
        batches: &[&[usize]],
        augmentation: Option<Augmentation>,
        mut take: impl FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let make = |i: usize| batches.get(i).map(|batch| self.batch(batch, augmentation));
        let mut now = make(0);
        for i in 0..batches.len() {
            let mut next = None;
            let taken = rayon::in_place_scope(|scope| {
                scope.spawn(|_| next = make(i + 1));
                now.take().map_or(Ok(()), |tiles| take(i, tiles?))
            });
            taken?;
            now = next;
        }
        Ok(())
    }
}
