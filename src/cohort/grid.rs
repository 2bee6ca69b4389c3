//! A regular grid of tiles over the tissue of an image, for prediction where nobody
//! measured.

use std::path::PathBuf;

use super::{Cohort, Sample, SourceImage, TileRef};
use crate::error::{Error, Result};
use crate::slides::{Rgb8, image};

/// How a grid lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// From a tile's centre to the next in its row or column, in pixels.
    pub step_px: usize,
    /// Side of a tile in pixels.
    pub tile_px: usize,
}

/// The most tiles of a grid.
const MAX_TILES: usize = 1 << 20;

/// Tiles whose colour stands out from the glass: those with a mean saturation
/// (largest less smallest of R, G, B) above Otsu's threshold over all tiles. Samples
/// are named `<column>x<row>` of the grid.
///
/// # Errors
/// An image that cannot be read; a grid without tiles, or with too many; no tissue.
pub fn read(path: PathBuf, name: &str, grid: Grid) -> Result<Cohort> {
    let Grid { step_px, tile_px } = grid;
    let picture = image::read(&path)?;
    let (width, height) = (picture.width, picture.height);
    let along = |side: usize| match (step_px, side.checked_sub(tile_px)) {
        (1.., Some(room)) if tile_px > 0 => room / step_px + 1,
        _ => 0,
    };
    let (columns, rows) = (along(width), along(height));
    if columns * rows == 0 || columns * rows > MAX_TILES {
        return Err(Error::file(
            &path,
            "",
            format!(
                "has room for {columns} x {rows} tiles of {tile_px} px every {step_px} px in {width} \
                 x {height} px"
            ),
            format!("choose a grid of 1 to {MAX_TILES} tiles"),
        ));
    }
    let mut places = Vec::with_capacity(columns * rows);
    for row in 0..rows {
        for column in 0..columns {
            let corner = (column * step_px, row * step_px);
            let level = saturation(&picture, corner, tile_px);
            places.push((column, row, level));
        }
    }
    let threshold = otsu(places.iter().map(|p| p.2));
    let tissue = places.into_iter().filter(|p| p.2 > threshold);
    let mut cohort = Cohort {
        samples: Vec::new(),
        tiles: Vec::new(),
        images: vec![SourceImage {
            path,
            entry: None,
            width,
            height,
            mpp: None,
            colours: Default::default(),
        }],
        table: None,
        skipped: Vec::new(),
    };
    for (column, row, _) in tissue {
        let middle = |i: usize| (i * step_px + tile_px / 2) as f64;
        let centre = (middle(column), middle(row));
        cohort.samples.push(Sample {
            id: format!("{name}_{column}x{row}"),
            slide: name.to_owned(),
            patient: name.to_owned(),
            tiles: vec![cohort.tiles.len()],
        });
        cohort.tiles.push(TileRef {
            image: 0,
            centre: Some(centre),
            size_px: tile_px,
            position: Some(centre),
        });
    }
    cohort.require_samples()?;
    Ok(cohort)
}

/// Mean saturation of a tile, seen at no more than 16 x 16 places.
fn saturation(picture: &Rgb8, (left, top): (usize, usize), side: usize) -> u8 {
    let step = side.div_ceil(16).max(1);
    let (mut sum, mut count) = (0usize, 0usize);
    for y in (top..top + side).step_by(step) {
        for x in (left..left + side).step_by(step) {
            let at = (y * picture.width + x) * 3;
            let pixel = picture.data.get(at..at + 3).unwrap_or(&[0; 3]);
            let (low, high) = pixel
                .iter()
                .fold((255, 0), |(l, h), &v| (v.min(l), v.max(h)));
            sum += usize::from(high.saturating_sub(low));
            count += 1;
        }
    }
    (sum / count.max(1)) as u8
}

/// Otsu's threshold (1979): the level that parts values into two groups with the
/// largest variance between them; those above it are the upper group.
fn otsu(values: impl Iterator<Item = u8>) -> u8 {
    let mut histogram = [0.0f64; 256];
    values.for_each(|v| histogram[usize::from(v)] += 1.0);
    let count: f64 = histogram.iter().sum();
    let total: f64 = (histogram.iter().enumerate())
        .map(|(v, n)| v as f64 * n)
        .sum();
    let (mut below, mut sum) = (0.0, 0.0);
    let mut best = (0.0, 0);
    for (level, n) in histogram.iter().enumerate() {
        below += n;
        sum += level as f64 * n;
        let above = count - below;
        if below == 0.0 || above == 0.0 {
            continue;
        }
        let between = below * above * (sum / below - (total - sum) / above).powi(2);
        if between > best.0 {
            best = (between, level);
        }
    }
    best.1 as u8
}
