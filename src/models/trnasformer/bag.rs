//! A bag of 49 tiles as the image that the published networks take: 7 x 7 blocks of
//! 32 x 32 pixels, block (t / 7, t % 7) holding the 1,024 features of tile t row by
//! row.

use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;

/// Tiles of a bag.
pub const TILES: usize = SIDE * SIDE;
/// Features of a tile.
pub const FEATURES: usize = BLOCK * BLOCK;
/// Pixels on a side of the image.
pub const PIXELS: usize = SIDE * BLOCK;
/// Pixels on a side of a tile's block.
pub(super) const BLOCK: usize = 32;
/// Blocks on a side of the image.
const SIDE: usize = 7;

/// Makes sure of (B, 49, 1024).
pub(super) fn check(features: &Tensor) -> Result<()> {
    match features.shape() {
        [_, TILES, FEATURES] => Ok(()),
        other => Err(Error::shape(
            "trnasformer",
            &[other],
            "features of bags (B, 49, 1024)",
        )),
    }
}

/// Features (B, 49, 1024) -> images (B, 1, 224, 224).
///
/// # Errors
/// Another shape.
pub fn image(features: &Tensor) -> Result<Tensor> {
    check(features)?;
    let bags = features.shape()[0];
    let blocks = ops::reshape(features, &[bags, SIDE, SIDE, BLOCK, BLOCK])?;
    let rows = ops::permute(&blocks, &[0, 1, 3, 2, 4])?;
    ops::reshape(&rows, &[bags, 1, PIXELS, PIXELS])
}

/// Images (B, 1, 224, 224) -> features (B, 49, 1024): the inverse of [`image`].
///
/// # Errors
/// Another shape.
pub fn features(image: &Tensor) -> Result<Tensor> {
    let &[bags, 1, PIXELS, PIXELS] = image.shape() else {
        let expected = "images of bags (B, 1, 224, 224)";
        return Err(Error::shape("trnasformer", &[image.shape()], expected));
    };
    let rows = ops::reshape(image, &[bags, SIDE, BLOCK, SIDE, BLOCK])?;
    let blocks = ops::permute(&rows, &[0, 1, 3, 2, 4])?;
    ops::reshape(&blocks, &[bags, TILES, FEATURES])
}
