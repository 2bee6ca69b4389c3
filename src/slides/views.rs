//! The random views of an image that SimCLR compares (Chen et al. 2020, appendix A): a part of
//! it at the size of the whole, mirrored, with colours changed or taken away, and blurred.

use serde::{Deserialize, Serialize};

use super::augment::{Augment, grey};
use crate::random::Philox;

/// How a view is drawn. The defaults are the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Views {
    /// The least share of the area that a part has.
    pub least_area: f32,
    /// Upside down as well as sideways: tissue has no upper side. Not in the paper, whose
    /// photographs have one.
    pub vertical_flip: bool,
    /// Brightness, contrast and saturation change by up to 0.8 of this, hue by 0.2 of it, in
    /// `jitter_share` of the views.
    pub jitter: f32,
    pub jitter_share: f32,
    /// Share of views that are grey.
    pub grey_share: f32,
    /// Share of views that are blurred, by a Gaussian of 0.1 to 2 pixels.
    pub blur_share: f32,
}

impl Default for Views {
    fn default() -> Self {
        Self {
            least_area: 0.08,
            vertical_flip: true,
            jitter: 1.0,
            jitter_share: 0.8,
            grey_share: 0.2,
            blur_share: 0.5,
        }
    }
}

impl Views {
    /// A view of a square tile (px, px, 3) of values in [0, 1]; they stay there.
    pub fn draw(&self, tile: &[f32], px: usize, random: &mut Philox) -> Vec<f32> {
        let mut out = resized(tile, px, part(px, self.least_area, random));
        let mut drawn = [0.0f32; 4];
        random.fill_uniform(&mut drawn, 0.0, 1.0);
        let [jittered, greyed, blurred, sigma] = drawn;
        let strength = match jittered < self.jitter_share {
            true => self.jitter,
            false => 0.0,
        };
        let change = Augment {
            flip: self.vertical_flip,
            brightness: 0.8 * strength,
            contrast: 0.8 * strength,
            saturation: 0.8 * strength,
            hue: 0.2 * strength,
        };
        change.apply(&mut out, px, random);
        let sideways = random.below(2) == 1;
        if !self.vertical_flip && sideways {
            super::augment::flip(&mut out, px, true, false);
        }
        if greyed < self.grey_share {
            for pixel in out.chunks_exact_mut(3) {
                let level = grey(pixel);
                pixel.fill(level);
            }
        }
        if blurred < self.blur_share {
            blur(&mut out, px, 0.1 + 1.9 * sigma);
        }
        out
    }
}

/// Left, top, width and height.
type Part = [usize; 4];

/// A part of at least `least` of the area, between 3 : 4 and 4 : 3.
fn part(px: usize, least: f32, random: &mut Philox) -> Part {
    let side = px as f32;
    for _ in 0..10 {
        let mut drawn = [0.0f32; 2];
        random.fill_uniform(&mut drawn, 0.0, 1.0);
        let area = side * side * (least + (1.0 - least) * drawn[0]);
        let ratio = ((2.0 * drawn[1] - 1.0) * (4.0f32 / 3.0).ln()).exp();
        let width = (area * ratio).sqrt().round() as usize;
        let height = (area / ratio).sqrt().round() as usize;
        if (1..=px).contains(&width) && (1..=px).contains(&height) {
            let left = random.below(px - width + 1);
            return [left, random.below(px - height + 1), width, height];
        }
    }
    [0, 0, px, px]
}

/// The part, bilinearly, as large as the whole.
fn resized(tile: &[f32], px: usize, [left, top, width, height]: Part) -> Vec<f32> {
    // Of each place: its neighbours on the axis, and the share of the second.
    let axis = |start: usize, len: usize| -> Vec<(usize, usize, f32)> {
        let scale = len as f32 / px as f32;
        let place = |i: usize| {
            let at = ((i as f32 + 0.5) * scale - 0.5).max(0.0);
            let first = (at as usize).min(len - 1);
            let second = (first + 1).min(len - 1);
            (start + first, start + second, at - first as f32)
        };
        (0..px).map(place).collect()
    };
    let (columns, rows) = (axis(left, width), axis(top, height));
    let mut out = Vec::with_capacity(tile.len());
    for &(y0, y1, v) in &rows {
        for &(x0, x1, u) in &columns {
            for c in 0..3 {
                let at = |y: usize, x: usize| tile[3 * (y * px + x) + c];
                let above = at(y0, x0) + u * (at(y0, x1) - at(y0, x0));
                let below = at(y1, x0) + u * (at(y1, x1) - at(y1, x0));
                out.push((above + v * (below - above)).clamp(0.0, 1.0));
            }
        }
    }
    out
}

/// A Gaussian over a tenth of the side, as the paper has it; mirrored at borders.
fn blur(tile: &mut [f32], px: usize, sigma: f32) {
    let reach = (px / 20).max(1) as isize;
    let weight = |d: isize| (-0.5 * (d as f32 / sigma).powi(2)).exp();
    let total: f32 = (-reach..=reach).map(weight).sum();
    let kernel: Vec<f32> = (-reach..=reach).map(|d| weight(d) / total).collect();
    let last = px as isize - 1;
    let mirrored = |i: isize| {
        let i = i.abs();
        (if i > last { 2 * last - i } else { i }).clamp(0, last) as usize
    };
    let mut pass = |step: [usize; 2]| {
        let from = tile.to_vec();
        for line in 0..px {
            for i in 0..px {
                for c in 0..3 {
                    let at = |j: usize| from[3 * (line * step[0] + j * step[1]) + c];
                    let taps = (-reach..=reach).zip(&kernel);
                    tile[3 * (line * step[0] + i * step[1]) + c] = taps
                        .map(|(d, w)| w * at(mirrored(i as isize + d)))
                        .sum::<f32>()
                        .clamp(0.0, 1.0);
                }
            }
        }
    };
    pass([px, 1]);
    pass([1, px]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PX: usize = 12;

    fn tile() -> Vec<f32> {
        let mut tile = vec![0.0; 3 * PX * PX];
        Philox::new(3).fill_uniform(&mut tile, 0.0, 1.0);
        tile
    }

    #[test]
    fn the_whole_is_itself_and_a_part_is_of_that_part() {
        assert_eq!(resized(&tile(), PX, [0, 0, PX, PX]), tile());
        // The right half is white.
        let mut halves = vec![0.0; 3 * PX * PX];
        for line in halves.chunks_exact_mut(3 * PX) {
            line[3 * PX / 2..].fill(1.0);
        }
        let right = resized(&halves, PX, [PX / 2, 0, PX / 2, PX]);
        assert!(right.iter().all(|v| *v == 1.0));
        let across = resized(&halves, PX, [PX / 4, 3, PX / 2, 6]);
        assert!(across[..3] == [0.0; 3] && across[3 * (PX - 1)..3 * PX] == [1.0; 3]);
    }

    #[test]
    fn parts_have_the_area_and_ratio_that_were_asked_for() {
        let mut random = Philox::new(1);
        let mut areas = Vec::new();
        for _ in 0..500 {
            let [left, top, width, height] = part(64, 0.08, &mut random);
            assert!(left + width <= 64 && top + height <= 64);
            let ratio = width as f32 / height as f32;
            assert!((0.7..1.43).contains(&ratio), "{width} x {height}");
            areas.push((width * height) as f32 / 4096.0);
        }
        let (least, most) = (
            areas.iter().copied().fold(1.0, f32::min),
            areas.iter().copied().fold(0.0, f32::max),
        );
        assert!(
            (0.07..0.12).contains(&least) && most > 0.9,
            "{least} {most}"
        );
    }

    #[test]
    fn blurring_keeps_a_plain_tile_and_evens_out_another() {
        let mut plain = vec![0.25; 3 * PX * PX];
        blur(&mut plain, PX, 2.0);
        assert!(plain.iter().all(|v| (v - 0.25).abs() < 1e-6));
        let spread = |t: &[f32]| {
            let mean = t.iter().sum::<f32>() / t.len() as f32;
            t.iter().map(|v| (v - mean).powi(2)).sum::<f32>()
        };
        let mut blurred = tile();
        blur(&mut blurred, PX, 2.0);
        assert!(spread(&blurred) < 0.3 * spread(&tile()));
        // A point spreads alike to all sides.
        let mut point = vec![0.0; 3 * PX * PX];
        point[3 * (5 * PX + 5)] = 1.0;
        blur(&mut point, PX, 1.0);
        let at = |x: usize, y: usize| point[3 * (y * PX + x)];
        assert!(at(4, 5) > 0.05 && (at(4, 5) - at(6, 5)).abs() < 1e-7);
        assert!((at(5, 4) - at(4, 5)).abs() < 1e-7 && at(5, 5) > at(5, 4));
    }

    #[test]
    fn a_view_is_a_function_of_its_stream_and_stays_in_range() {
        let views = Views::default();
        let draw = |seed| views.draw(&tile(), PX, &mut Philox::new(seed));
        for seed in 0..50 {
            let view = draw(seed);
            assert_eq!(view.len(), 3 * PX * PX);
            assert!(view.iter().all(|v| (0.0..=1.0).contains(v)));
            assert_eq!(view, draw(seed));
        }
        assert_ne!(draw(1), draw(2));
        let grey = Views {
            grey_share: 1.0,
            ..views
        };
        let view = grey.draw(&tile(), PX, &mut Philox::new(1));
        assert!(view.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]));
        // With nothing to draw but the mirror, a view is the tile or its mirror image.
        let still = Views {
            least_area: 1.0,
            vertical_flip: false,
            jitter: 0.0,
            grey_share: 0.0,
            blur_share: 0.0,
            ..views
        };
        let mut mirrored = tile();
        super::super::augment::flip(&mut mirrored, PX, true, false);
        let seen: Vec<bool> = (0..20)
            .map(|s| still.draw(&tile(), PX, &mut Philox::new(s)))
            .map(|view| {
                assert!(view == tile() || view == mirrored);
                view == mirrored
            })
            .collect();
        assert!(seen.contains(&true) && seen.contains(&false));
    }
}
