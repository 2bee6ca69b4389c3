//! Stains by the extreme directions in the plane of optical densities.

use nalgebra::{Matrix3, SymmetricEigen};
use serde::{Deserialize, Serialize};

use super::{FEWEST, along, around, densities, linear, percentile, stained};

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
        let most = unmix.map(|row| {
            let pixels = pixels.chunks_exact(3).map(|p| [p[0], p[1], p[2]]);
            percentile(&along(&row, pixels), 1.0 - ALPHA)
        });
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
    let density = densities();
    let inked = || (stained.iter()).map(|p| p.map(|v| density[usize::from(v)]));
    let n = stained.len() as f64;
    let mut mean = [0.0f64; 3];
    for d in inked() {
        (mean.iter_mut().zip(d)).for_each(|(sum, d)| *sum += d);
    }
    let mean = mean.map(|sum| sum / n);
    let mut sums = [[0.0f64; 3]; 3];
    for d in inked() {
        let apart: [f64; 3] = std::array::from_fn(|c| d[c] - mean[c]);
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum += apart[i] * apart[j];
            }
        }
    }
    let covariance = Matrix3::from_fn(|i, j| sums[i][j] / (n - 1.0));
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
    let pixels_of = || stained.iter().copied();
    let turns: Vec<f64> = (along(&x, pixels_of()).into_iter())
        .zip(along(&y, pixels_of()))
        .map(|(x, y)| turn(x, y))
        .collect();
    let direction = |share: f64| -> [f64; 3] {
        let (lower, upper, part) = around(&turns, share);
        let (lower, upper) = (angle(lower), angle(upper));
        let (sin, cos) = (lower + (upper - lower) * part).sin_cos();
        std::array::from_fn(|c| x[c] * cos + y[c] * sin)
    };
    let (low, high) = (direction(ALPHA), direction(1.0 - ALPHA));
    Fit::of(low, high, pixels)
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
