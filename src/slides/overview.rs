//! A whole slide, small: for thumbnails, masks and maps.

use rayon::prelude::*;

use super::reader::{Slide, blit, white};
use super::{Rgb8, image, tile};
use crate::error::{Error, Result};

/// The most pixels of an overview: three times what the largest slides have at 8 µm.
const MOST: usize = 1 << 26;
/// Side of the pieces that are read at once, in pixels of the result.
const PIECE: usize = 256;

/// The slide at `downsample` pixels of level 0 to one of the result, at least
/// one pixel each way. The result is made piece by piece, from the coarsest level
/// that is finer, with enough around each piece that no seam shows; memory is
/// that of the result and of a piece for each thread.
///
/// # Errors
/// As [`Slide::read_region`]; a result above the bound for images.
pub fn overview(slide: &dyn Slide, downsample: f64) -> Result<Rgb8> {
    let facts = slide.facts();
    let finer = |l: &super::reader::Level| l.downsample <= downsample * 1.001;
    let level = facts.levels.iter().rposition(finer).unwrap_or(0);
    let (main, from) = match (facts.levels.first(), facts.levels.get(level)) {
        (Some(main), Some(from)) => (main, from),
        _ => return Err(Error::usage("a slide without levels", "report this")),
    };
    let side = |n: usize| ((n as f64 / downsample).round() as usize).max(1);
    let (width, height) = (side(main.width), side(main.height));
    if width > image::MAX_SIDE || height > image::MAX_SIDE || width * height > MOST {
        return Err(Error::usage(
            format!("an overview of {width} x {height} px is too large"),
            "ask for a smaller one",
        ));
    }
    // Pixels of the level to one of the result, and what the filter reaches.
    let (fx, fy) = (
        from.width as f64 / width as f64,
        from.height as f64 / height as f64,
    );
    let reach = |f: f64| f.max(1.0).ceil() as i64 + 1;
    let across = width.div_ceil(PIECE);
    let pieces: Vec<usize> = (0..across * height.div_ceil(PIECE)).collect();
    let parts = pieces.par_iter().map(|&i| {
        let (x, y) = (i % across * PIECE, i / across * PIECE);
        let (w, h) = (PIECE.min(width - x), PIECE.min(height - y));
        let span = |at: usize, len: usize, f: f64, side: usize| {
            let first = ((at as f64 * f) as i64 - reach(f)).max(0);
            let last = (((at + len) as f64 * f).ceil() as i64 + reach(f)).min(side as i64);
            (first, (last - first).max(1) as usize)
        };
        let (left, wide) = span(x, w, fx, from.width);
        let (top, high) = span(y, h, fy, from.height);
        let region = slide.read_region(level, (left, top), (wide, high))?;
        let part = (
            x as f64 * fx - left as f64,
            y as f64 * fy - top as f64,
            w as f64 * fx,
            h as f64 * fy,
        );
        Ok(((x as i64, y as i64), tile::resample(&region, part, w, h)?))
    });
    let parts: Vec<((i64, i64), Rgb8)> = parts.collect::<Result<_>>()?;
    let mut whole = white(width, height);
    for (at, part) in &parts {
        blit(&mut whole, part, *at, (part.width, part.height));
    }
    Ok(whole)
}

/// The slide with its longer side at most `longest` px.
///
/// # Errors
/// As [`overview`].
pub fn thumbnail(slide: &dyn Slide, longest: usize) -> Result<Rgb8> {
    let side = slide
        .facts()
        .levels
        .first()
        .map_or(1, |l| l.width.max(l.height));
    overview(slide, (side as f64 / longest.max(1) as f64).max(1.0))
}
