//! Discs, lines and heat painted over histology. Pixels are opaque; what is painted
//! is mixed with what is there by its opacity.

use super::colour::viridis_rgb;
use crate::slides::Rgb8;

/// A white image.
pub fn blank(width: usize, height: usize) -> Rgb8 {
    Rgb8 {
        width,
        height,
        data: vec![255; width * height * 3],
    }
}

/// Mixes `colour` into the pixel (x, y), if it lies in the image.
fn mix(image: &mut Rgb8, x: f64, y: f64, colour: [u8; 3], opacity: f64) {
    if !(x >= 0.0 && y >= 0.0 && x < image.width as f64 && y < image.height as f64) {
        return;
    }
    let at = (y as usize * image.width + x as usize) * 3;
    let Some(pixel) = image.data.get_mut(at..at + 3) else {
        return;
    };
    for (there, new) in pixel.iter_mut().zip(colour) {
        *there = (f64::from(*there) * (1.0 - opacity) + f64::from(new) * opacity).round() as u8;
    }
}

/// A disc around (x, y), its edge smoothed.
pub fn disc(image: &mut Rgb8, (x, y): (f64, f64), radius: f64, colour: [u8; 3], opacity: f64) {
    let reach = radius.ceil() as i64 + 1;
    for dy in -reach..=reach {
        for dx in -reach..=reach {
            let (px, py) = (x.floor() + dx as f64, y.floor() + dy as f64);
            let apart = (px + 0.5 - x).hypot(py + 0.5 - y);
            let covered = (radius + 0.5 - apart).clamp(0.0, 1.0);
            mix(image, px, py, colour, opacity * covered);
        }
    }
}

/// A line of this width from one place to another.
pub fn line(
    image: &mut Rgb8,
    from: (f64, f64),
    to: (f64, f64),
    width: f64,
    colour: [u8; 3],
    opacity: f64,
) {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx.hypot(dy);
    let reach = width + 1.0;
    let span = |a: f64, b: f64| ((a.min(b) - reach).floor() as i64, (a.max(b) + reach) as i64);
    let ((x0, x1), (y0, y1)) = (span(from.0, to.0), span(from.1, to.1));
    for py in y0.max(0)..=y1.min(image.height as i64) {
        for px in x0.max(0)..=x1.min(image.width as i64) {
            let (x, y) = (px as f64 + 0.5 - from.0, py as f64 + 0.5 - from.1);
            // The nearest point of the line.
            let along = match length > 0.0 {
                true => ((x * dx + y * dy) / (length * length)).clamp(0.0, 1.0),
                false => 0.0,
            };
            let apart = (x - along * dx).hypot(y - along * dy);
            let covered = (0.5 * width + 0.5 - apart).clamp(0.0, 1.0);
            mix(image, px as f64, py as f64, colour, opacity * covered);
        }
    }
}

/// The colour of a value in 0 to 1.
pub fn colour(t: f64) -> [u8; 3] {
    viridis_rgb(t)
}

/// Mixes everything with white.
pub fn fade(image: &mut Rgb8, share: f64) {
    for v in &mut image.data {
        *v = (f64::from(*v) * (1.0 - share) + 255.0 * share).round() as u8;
    }
}

/// Lays values in 0 to 1, (rows, columns) spread evenly over the image and
/// interpolated between their centres, over it: the higher, the less of the image
/// shows.
pub fn heat(image: &mut Rgb8, values: &[f32], columns: usize) {
    let rows = values.len() / columns.max(1);
    if rows == 0 || columns == 0 {
        return;
    }
    let place = |pixel: usize, pixels: usize, cells: usize| {
        let at = (pixel as f64 + 0.5) * cells as f64 / pixels as f64 - 0.5;
        let at = at.clamp(0.0, cells as f64 - 1.0);
        let low = at as usize;
        (low, (low + 1).min(cells - 1), at - low as f64)
    };
    for y in 0..image.height {
        let (top, bottom, down) = place(y, image.height, rows);
        for x in 0..image.width {
            let (left, right, over) = place(x, image.width, columns);
            let value = |r: usize, c: usize| f64::from(values[r * columns + c]);
            let upper = value(top, left) * (1.0 - over) + value(top, right) * over;
            let lower = value(bottom, left) * (1.0 - over) + value(bottom, right) * over;
            let v = (upper * (1.0 - down) + lower * down).clamp(0.0, 1.0);
            mix(image, x as f64, y as f64, colour(v), 0.15 + 0.5 * v);
        }
    }
}

/// The part of an image with this corner and size, as far as it reaches.
pub fn window(image: &Rgb8, (left, top): (usize, usize), (width, height): (usize, usize)) -> Rgb8 {
    let width = width.min(image.width.saturating_sub(left));
    let height = height.min(image.height.saturating_sub(top));
    let rows = image.data.chunks_exact((image.width * 3).max(1));
    let data = rows.skip(top).take(height);
    Rgb8 {
        width,
        height,
        data: data
            .flat_map(|row| &row[left * 3..(left + width) * 3])
            .copied()
            .collect(),
    }
}

/// Images beside each other with a gap, on white.
pub fn beside(images: &[Rgb8], gap: usize) -> Rgb8 {
    let width = images.iter().map(|i| i.width + gap).sum::<usize>();
    let height = images.iter().map(|i| i.height).max().unwrap_or(0);
    let mut out = blank(width.saturating_sub(gap).max(1), height.max(1));
    let mut left = 0;
    for image in images {
        for (y, row) in image
            .data
            .chunks_exact((image.width * 3).max(1))
            .enumerate()
        {
            let at = (y * out.width + left) * 3;
            out.data[at..at + row.len()].copy_from_slice(row);
        }
        left += image.width + gap;
    }
    out
}
