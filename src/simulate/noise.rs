//! Smooth random fields: value noise on an integer lattice.

use super::rng::mix;

/// A random field in [0, 1] with features about one unit wide.
#[derive(Clone, Copy)]
pub(super) struct Field(u64);

impl Field {
    pub fn new(key: u64) -> Self {
        Self(key)
    }

    fn lattice(self, x: i32, y: i32) -> f32 {
        let cell = (u64::from(x as u32) << 32) | u64::from(y as u32);
        (mix(self.0 ^ cell.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 40) as f32 / (1u32 << 24) as f32
    }

    /// The field at a point: lattice values joined by a cubic smooth step.
    pub fn at(self, x: f32, y: f32) -> f32 {
        let (x0, y0) = (x.floor(), y.floor());
        let (u, v) = (ease(x - x0), ease(y - y0));
        let (i, j) = (x0 as i32, y0 as i32);
        let top = mix_by(self.lattice(i, j), self.lattice(i + 1, j), u);
        let bottom = mix_by(self.lattice(i, j + 1), self.lattice(i + 1, j + 1), u);
        mix_by(top, bottom, v)
    }

    /// Three octaves, each half as wide and half as strong as the one before.
    pub fn octaves(self, x: f32, y: f32) -> f32 {
        (4.0 * self.at(x, y)
            + 2.0 * self.at(2.0 * x + 31.7, 2.0 * y + 11.3)
            + self.at(4.0 * x + 5.1, 4.0 * y + 47.9))
            / 7.0
    }
}

fn ease(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

fn mix_by(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// 0 below `low`, 1 above `high`, smooth between; `low` > `high` turns it round.
pub(super) fn step(low: f32, high: f32, x: f32) -> f32 {
    ease(((x - low) / (high - low)).clamp(0.0, 1.0))
}
