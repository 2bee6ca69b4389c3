//! Mean and spread in the colour space l-alpha-beta, whose channels are nearly
//! independent in natural pictures.

use serde::{Deserialize, Serialize};

use super::{FEWEST, stained};

/// Of the channels l, alpha and beta over the pixels that have stain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

/// Cone responses of R, G, B (Reinhard et al., equation 4).
const LMS: [[f64; 3]; 3] = [
    [0.3811, 0.5783, 0.0402],
    [0.1967, 0.7244, 0.0782],
    [0.0241, 0.1288, 0.8444],
];

fn times(matrix: &[[f64; 3]; 3], v: [f64; 3]) -> [f64; 3] {
    matrix.map(|row| row[0] * v[0] + row[1] * v[1] + row[2] * v[2])
}

fn inverse() -> [[f64; 3]; 3] {
    let m = nalgebra::Matrix3::from_fn(|i, j| LMS[i][j]);
    // A constant matrix whose determinant is 0.15.
    let inverse = m.try_inverse().unwrap_or_else(nalgebra::Matrix3::identity);
    std::array::from_fn(|i| std::array::from_fn(|j| inverse[(i, j)]))
}

fn to_lab(rgb: [u8; 3]) -> [f64; 3] {
    // One level above zero: black has a logarithm too.
    let rgb = rgb.map(|v| (f64::from(v) + 1.0) / 256.0);
    let [l, m, s] = times(&LMS, rgb).map(f64::log10);
    [
        (l + m + s) / 3f64.sqrt(),
        (l + m - 2.0 * s) / 6f64.sqrt(),
        (l - m) / 2f64.sqrt(),
    ]
}

fn to_rgb(inverse: &[[f64; 3]; 3], [l, a, b]: [f64; 3]) -> [u8; 3] {
    let (l, a, b) = (l / 3f64.sqrt(), a / 6f64.sqrt(), b / 2f64.sqrt());
    let lms = [l + a + b, l + a - b, l - 2.0 * a].map(|v| 10f64.powf(v));
    times(inverse, lms).map(|v| (v * 256.0 - 0.5).clamp(0.0, 255.0) as u8)
}

impl Statistics {
    /// Those of stain in the proportions of the reference of the other methods: a
    /// ramp of amounts of both stains.
    pub fn reference() -> Self {
        let fit = super::Fit::reference();
        let mut pixels = Vec::new();
        for h in 0..16 {
            for e in 0..16 {
                for c in 0..3 {
                    let amount =
                        |i: i32, s: usize| f64::from(i) / 15.0 * fit.most[s] * fit.stains[c][s];
                    let light = super::LIGHT * (-(amount(h, 0) + amount(e, 1))).exp();
                    pixels.push(light as u8);
                }
            }
        }
        of(pixels.chunks_exact(3).map(|p| to_lab([p[0], p[1], p[2]])))
    }
}

fn of(values: impl Iterator<Item = [f64; 3]> + Clone) -> Statistics {
    let n = values.clone().count().max(1) as f64;
    let sum = |f: &dyn Fn([f64; 3]) -> f64| values.clone().map(f).sum::<f64>() / n;
    let mean: [f64; 3] = std::array::from_fn(|c| sum(&|v| v[c]));
    let std = std::array::from_fn(|c| sum(&|v| (v[c] - mean[c]).powi(2)).sqrt());
    Statistics { mean, std }
}

/// Fits pixels; `None` without stain.
pub fn fit(pixels: &[u8]) -> Option<Statistics> {
    if stained(pixels).len() < FEWEST {
        return None;
    }
    let density = super::densities();
    let inked = |p: &&[u8]| p.iter().all(|&v| density[usize::from(v)] >= super::BETA);
    let found = of(pixels
        .chunks_exact(3)
        .filter(inked)
        .map(|p| to_lab([p[0], p[1], p[2]])));
    found.std.iter().all(|&s| s > 1e-4).then_some(found)
}

/// Shifts and scales each channel.
#[derive(Clone, Debug)]
pub struct Transfer {
    scale: [f64; 3],
    shift: [f64; 3],
    inverse: [[f64; 3]; 3],
}

impl Transfer {
    pub fn new(from: &Statistics, to: &Statistics) -> Self {
        let scale: [f64; 3] = std::array::from_fn(|c| to.std[c] / from.std[c].max(1e-6));
        Self {
            scale,
            shift: std::array::from_fn(|c| to.mean[c] - from.mean[c] * scale[c]),
            inverse: inverse(),
        }
    }

    pub fn pixel(&self, rgb: [u8; 3]) -> [u8; 3] {
        let lab = to_lab(rgb);
        to_rgb(
            &self.inverse,
            std::array::from_fn(|c| lab[c] * self.scale[c] + self.shift[c]),
        )
    }
}
