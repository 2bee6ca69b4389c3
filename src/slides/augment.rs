//! Random changes of tiles that leave tissue plausible: flips, and the jitter of colour that
//! staining varies by.

use serde::{Deserialize, Serialize};

use crate::random::Philox;

/// How much a tile may change. All zero and no flips leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Left and right, and up and down, each in half of the cases.
    pub flip: bool,
    /// Factors are drawn within 1 - and 1 + these.
    pub brightness: f32,
    pub contrast: f32,
    pub saturation: f32,
    /// A turn of the colour circle is drawn within - and + this share of it.
    pub hue: f32,
}

impl Augment {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Changes a square tile (px, px, 3) of values in [0, 1] in place; they stay there. Factors
    /// are applied in the order of the fields.
    pub fn apply(&self, tile: &mut [f32], px: usize, random: &mut Philox) {
        let mut drawn = [0.0f32; 4];
        random.fill_uniform(&mut drawn, -1.0, 1.0);
        let sides = random.below(4);
        if self.flip {
            flip(tile, px, sides & 1 == 1, sides & 2 == 2);
        }
        let [brightness, contrast, saturation, hue] = drawn;
        let clamp = |v: f32| v.clamp(0.0, 1.0);
        if self.brightness > 0.0 {
            let factor = 1.0 + brightness * self.brightness;
            tile.iter_mut().for_each(|v| *v = clamp(*v * factor));
        }
        if self.contrast > 0.0 {
            let factor = 1.0 + contrast * self.contrast;
            let mean = mean_grey(tile);
            let apart = |v: f32| clamp(mean + factor * (v - mean));
            tile.iter_mut().for_each(|v| *v = apart(*v));
        }
        if self.saturation > 0.0 {
            let factor = 1.0 + saturation * self.saturation;
            for pixel in tile.chunks_exact_mut(3) {
                let grey = grey(pixel);
                let apart = |v: f32| clamp(grey + factor * (v - grey));
                pixel.iter_mut().for_each(|v| *v = apart(*v));
            }
        }
        if self.hue > 0.0 {
            let turn = hue * self.hue;
            tile.chunks_exact_mut(3).for_each(|p| rotate_hue(p, turn));
        }
    }
}

pub(super) fn flip(tile: &mut [f32], px: usize, sideways: bool, upside_down: bool) {
    let row = 3 * px;
    if sideways && px > 0 {
        for line in tile.chunks_exact_mut(row) {
            for x in 0..px / 2 {
                for c in 0..3 {
                    line.swap(3 * x + c, 3 * (px - 1 - x) + c);
                }
            }
        }
    }
    if upside_down && px > 0 {
        for y in 0..px / 2 {
            let (above, below) = tile.split_at_mut((px - 1 - y) * row);
            above[y * row..(y + 1) * row].swap_with_slice(&mut below[..row]);
        }
    }
}

/// Luma of ITU-R BT.601.
pub(super) fn grey(pixel: &[f32]) -> f32 {
    0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]
}

fn mean_grey(tile: &[f32]) -> f32 {
    let sum: f64 = tile.chunks_exact(3).map(|p| f64::from(grey(p))).sum();
    (sum / (tile.len() / 3).max(1) as f64) as f32
}

/// Through hue, saturation and value.
fn rotate_hue(pixel: &mut [f32], turn: f32) {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]];
    let value = r.max(g).max(b);
    let span = value - r.min(g).min(b);
    if span == 0.0 {
        return;
    }
    let sixth = if value == r {
        (g - b) / span
    } else if value == g {
        2.0 + (b - r) / span
    } else {
        4.0 + (r - g) / span
    };
    let hue = (sixth + 6.0 * turn).rem_euclid(6.0);
    // Each channel is the value less a part of the span, by its distance on the circle.
    for (channel, place) in pixel.iter_mut().zip([5.0f32, 3.0, 1.0]) {
        let at = (place + hue).rem_euclid(6.0);
        *channel = value - span * at.min(4.0 - at).clamp(0.0, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile() -> Vec<f32> {
        let mut tile = vec![0.0; 3 * 4 * 4];
        Philox::new(3).fill_uniform(&mut tile, 0.0, 1.0);
        tile
    }

    #[test]
    fn nothing_asked_nothing_changed() {
        let mut changed = tile();
        Augment::default().apply(&mut changed, 4, &mut Philox::new(1));
        assert_eq!(changed, tile());
    }

    #[test]
    fn two_flips_are_none_and_move_whole_pixels() {
        let mut once = tile();
        flip(&mut once, 4, true, true);
        let original = tile();
        assert_eq!(once[..3], original[45..]);
        flip(&mut once, 4, true, true);
        assert_eq!(once, original);
    }

    #[test]
    fn a_third_of_the_circle_turns_red_to_green() {
        let mut pixel = [1.0, 0.25, 0.25];
        rotate_hue(&mut pixel, 1.0 / 3.0);
        for (got, want) in pixel.iter().zip([0.25, 1.0, 0.25]) {
            assert!((got - want).abs() < 1e-6, "{pixel:?}");
        }
    }

    #[test]
    fn values_stay_in_range_and_follow_the_stream() {
        let augment = Augment {
            flip: true,
            brightness: 0.9,
            contrast: 0.9,
            saturation: 0.9,
            hue: 0.5,
        };
        let run = |seed| {
            let mut changed = tile();
            augment.apply(&mut changed, 4, &mut Philox::new(seed));
            changed
        };
        assert!((0..50).all(|s| run(s).iter().all(|v| (0.0..=1.0).contains(v))));
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
