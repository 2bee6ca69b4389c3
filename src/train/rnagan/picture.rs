//! Images that networks make, as pictures.

use crate::error::{Error, Result};
use crate::slides::Rgb8;
use crate::tensor::Tensor;

/// Images (N, 3, H, W), (-1, 1) for levels from 0 to 255; what is beyond is cut.
///
/// # Errors
/// Another shape; a value that is not a number.
pub fn pictures(images: &Tensor) -> Result<Vec<Rgb8>> {
    let &[_, 3, height, width] = images.shape() else {
        return Err(Error::shape("pictures", &[images.shape()], "(N, 3, H, W)"));
    };
    let values = images.to_f32_vec()?;
    if values.iter().any(|v| v.is_nan()) {
        return Err(Error::op(
            "pictures",
            "an image has values that are no numbers",
        ));
    }
    let level = |v: f32| (127.5 * (v + 1.0)).round().clamp(0.0, 255.0) as u8;
    let area = height * width;
    let picture = |planes: &[f32]| Rgb8 {
        width,
        height,
        data: (0..area)
            .flat_map(|i| [0, 1, 2].map(|c| level(planes[c * area + i])))
            .collect(),
    };
    Ok(values.chunks_exact(3 * area).map(picture).collect())
}

/// Pictures of one size side by side, row by row, with a white gap between them.
///
/// # Errors
/// No picture, or pictures of several sizes.
pub fn grid(pictures: &[Rgb8], columns: usize) -> Result<Rgb8> {
    const GAP: usize = 2;
    let Some(first) = pictures.first() else {
        return Err(Error::op("grid", "there is no picture"));
    };
    let (w, h) = (first.width, first.height);
    if pictures.iter().any(|p| (p.width, p.height) != (w, h)) {
        return Err(Error::op("grid", "the pictures are of several sizes"));
    }
    let columns = columns.clamp(1, pictures.len());
    let rows = pictures.len().div_ceil(columns);
    let (width, height) = (columns * (w + GAP) - GAP, rows * (h + GAP) - GAP);
    let mut data = vec![255; 3 * width * height];
    for (i, picture) in pictures.iter().enumerate() {
        let (left, top) = (i % columns * (w + GAP), i / columns * (h + GAP));
        for (y, line) in picture.data.chunks_exact(3 * w).enumerate() {
            let at = 3 * ((top + y) * width + left);
            data[at..at + 3 * w].copy_from_slice(line);
        }
    }
    Ok(Rgb8 {
        width,
        height,
        data,
    })
}
