//! Stains by the extreme directions in the plane of optical densities.

use nalgebra::{Matrix3, SymmetricEigen};
use serde::{Deserialize, Serialize};

use super::{BLOCK, Each, FEWEST, along, around, densities, linear, look_up, percentiles, stained};
use crate::ops::vector::{Vectors, widest};

/// Share of directions, and of amounts, that are taken for outliers at each end.
const ALPHA: f64 = 0.01;

/// The colours of two stains, and how much of each a slide has at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// Optical densities of R, G, B (rows) for haematoxylin and eosin (columns).
    pub stains: [[f64; 2]; 3],
    /// The 99th percentile of the amount of each.
    pub most: [f64; 2],
}

impl Fit {
    /// The reference of the published code.
    pub fn reference() -> Self {
        Self {
            stains: [[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]],
            most: [1.9705, 1.0308],
        }
    }

    /// The fit of two stains to pixels; haematoxylin absorbs more red. The amounts are
    /// counted over glass too, as published.
    pub(super) fn of(first: [f64; 3], second: [f64; 3], pixels: &[u8]) -> Option<Self> {
        let (h, e) = match first[0] > second[0] {
            true => (first, second),
            false => (second, first),
        };
        let stains = std::array::from_fn(|c| [h[c], e[c]]);
        let unmix = linear::unmixing(&stains)?;
        let most = percentiles(&unmix, pixels.as_chunks().0, 1.0 - ALPHA);
        most.iter()
            .all(|&m| m.is_finite() && m > 1e-3)
            .then_some(Self { stains, most })
    }
}

/// Fits pixels; `None` without two stains.
pub fn fit(pixels: &[u8]) -> Option<Fit> {
    let stained = stained(pixels);
    if stained.len() < FEWEST {
        return None;
    }
    let n = stained.len() as f64;
    let mut sums = [0.0; 9];
    widest(Moments {
        pixels: &stained,
        sums: &mut sums,
    });
    let mean: [f64; 3] = std::array::from_fn(|c| sums[c] / n);
    let covariance = Matrix3::from_fn(|i, j| {
        let (i, j) = (i.min(j), i.max(j));
        let product = sums[[3, 5, 6][i] + j];
        (product - n * mean[i] * mean[j]) / (n - 1.0)
    });
    let eigen = SymmetricEigen::new(covariance);
    let mut order = [0, 1, 2];
    order.sort_by(|&a, &b| eigen.eigenvalues[a].total_cmp(&eigen.eigenvalues[b]));
    // The two largest, smaller first. An eigenvector has no sign of its own:
    // stains absorb, so its sum is made positive.
    let axis = |i: usize| {
        let v = eigen.eigenvectors.column(order[i]);
        let sign = if v.sum() < 0.0 { -1.0 } else { 1.0 };
        [v[0] * sign, v[1] * sign, v[2] * sign]
    };
    let (x, y) = (axis(1), axis(2));
    let (mut turns, mut unused) = (vec![0.0; stained.len()], vec![0.0; stained.len()]);
    widest(Each {
        pixels: &stained,
        directions: &[x, y],
        value: |x: f32, y: f32| {
            let length = x.abs() + y.abs();
            let turn = (1.0 - x / length).copysign(y);
            // Close to the point, and to the jump from pi to -pi, rounding shows.
            let known = length > 0.01 && (x > 0.0 || y.abs() > 1e-4);
            [if known { turn } else { f32::NAN }, 0.0]
        },
        out: [&mut turns, &mut unused],
    });
    let density = densities();
    let exact = |i: usize| {
        let part = |axis| along(axis, &density, stained[i]);
        turn(part(&x), part(&y))
    };
    let direction = |share: f64| -> [f64; 3] {
        let (lower, upper, part) = around(&turns, 1e-4, share, exact);
        let (lower, upper) = (angle(lower), angle(upper));
        let (sin, cos) = (lower + (upper - lower) * part).sin_cos();
        std::array::from_fn(|c| x[c] * cos + y[c] * sin)
    };
    let (low, high) = (direction(ALPHA), direction(1.0 - ALPHA));
    Fit::of(low, high, pixels)
}

/// Sums over pixels of their densities, and of the products of each two: red, green,
/// blue; red with red, green and blue, green with green and blue, blue with blue.
struct Moments<'a> {
    pixels: &'a [[u8; 3]],
    sums: &'a mut [f64; 9],
}

impl Vectors for Moments<'_> {
    #[inline(always)]
    fn run(self) {
        const LANES: usize = 8;
        let density = densities().map(|d| d as f32);
        let mut lanes = [[0.0f64; LANES]; 9];
        for pixels in self.pixels.chunks(BLOCK) {
            // Without a pixel there is no density.
            let mut planes = [[0.0f32; BLOCK]; 3];
            look_up(&density, pixels, &mut planes);
            for at in (0..BLOCK).step_by(LANES) {
                for lane in 0..LANES {
                    let [r, g, b] = [0, 1, 2].map(|c| f64::from(planes[c][at + lane]));
                    let terms = [r, g, b, r * r, r * g, r * b, g * g, g * b, b * b];
                    for (sums, term) in lanes.iter_mut().zip(terms) {
                        sums[lane] += term;
                    }
                }
            }
        }
        *self.sums = lanes.map(|sums| sums.iter().sum());
    }
}

/// A number in -2 to 2 that grows with the angle of (x, y) from -pi to pi, and costs a
/// division.
fn turn(x: f64, y: f64) -> f64 {
    let length = x.abs() + y.abs();
    match length > 0.0 {
        true => (1.0 - x / length).copysign(y),
        false => 0.0,
    }
}

/// The angle that a [`turn`] is of.
fn angle(turn: f64) -> f64 {
    let part = turn.abs();
    let (x, y) = (1.0 - part, part.min(2.0 - part));
    y.copysign(turn).atan2(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_in_the_order_of_angles_and_give_them_back() {
        let angles = (-999..=999).map(|i| f64::from(i) * std::f64::consts::PI / 1000.0);
        let mut last = f64::NEG_INFINITY;
        for a in angles {
            let t = turn(3.0 * a.cos(), 3.0 * a.sin());
            assert!(t > last, "{a}");
            assert!((angle(t) - a).abs() < 1e-12, "{a}: {}", angle(t));
            last = t;
        }
    }
}
