//! Stains by the extreme directions in the plane of optical densities.

use nalgebra::{Matrix3, SymmetricEigen};
use serde::{Deserialize, Serialize};

use super::{FEWEST, linear, percentile, stained};

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

    /// The fit of two stains to densities; haematoxylin absorbs more red.
    pub(super) fn of(first: [f64; 3], second: [f64; 3], densities: &[[f64; 3]]) -> Option<Self> {
        let (h, e) = match first[0] > second[0] {
            true => (first, second),
            false => (second, first),
        };
        let stains = std::array::from_fn(|c| [h[c], e[c]]);
        let unmix = linear::unmixing(&stains)?;
        let most = unmix.map(|row| {
            let mut amounts: Vec<f64> = (densities.iter())
                .map(|d| (0..3).map(|c| row[c] * d[c]).sum())
                .collect();
            percentile(&mut amounts, 1.0 - ALPHA)
        });
        most.iter()
            .all(|&m| m.is_finite() && m > 1e-3)
            .then_some(Self { stains, most })
    }
}

/// Fits pixels; `None` without two stains.
pub fn fit(pixels: &[u8]) -> Option<Fit> {
    let densities = stained(pixels);
    if densities.len() < FEWEST {
        return None;
    }
    let n = densities.len() as f64;
    let mean: [f64; 3] = std::array::from_fn(|c| densities.iter().map(|d| d[c]).sum::<f64>() / n);
    let mut covariance = Matrix3::zeros();
    for d in &densities {
        for i in 0..3 {
            for j in 0..3 {
                covariance[(i, j)] += (d[i] - mean[i]) * (d[j] - mean[j]);
            }
        }
    }
    covariance /= n - 1.0;
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
    let dot = |a: &[f64; 3], b: &[f64; 3]| -> f64 { (0..3).map(|c| a[c] * b[c]).sum() };
    let mut angles: Vec<f64> = (densities.iter())
        .map(|d| dot(d, &y).atan2(dot(d, &x)))
        .collect();
    let mut direction = |share: f64| -> [f64; 3] {
        let (sin, cos) = percentile(&mut angles, share).sin_cos();
        std::array::from_fn(|c| x[c] * cos + y[c] * sin)
    };
    let (low, high) = (direction(ALPHA), direction(1.0 - ALPHA));
    Fit::of(low, high, &all_densities(pixels))
}

/// Densities of all pixels: the amounts are counted over glass too, as published.
pub(super) fn all_densities(pixels: &[u8]) -> Vec<[f64; 3]> {
    let density = super::densities();
    (pixels.chunks_exact(3))
        .map(|p| [p[0], p[1], p[2]].map(|v| density[usize::from(v)]))
        .collect()
}
