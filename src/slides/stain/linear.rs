//! From one pair of stains to another.

use super::{BLOCK, Fit, LIGHT, densities, look_up};
use crate::ops::StainMap;
use crate::ops::vector::{self, Vectors, widest};

/// Amounts of two stains as least squares give them: the rows of the
/// pseudo-inverse of the (3, 2) matrix of their colours.
pub fn unmixing(stains: &[[f64; 2]; 3]) -> Option<[[f64; 3]; 2]> {
    let dot = |i: usize, j: usize| -> f64 { stains.iter().map(|row| row[i] * row[j]).sum() };
    let (a, b, d) = (dot(0, 0), dot(0, 1), dot(1, 1));
    let determinant = a * d - b * b;
    // Stains whose colours are less than 2.5 degrees apart cannot be told apart.
    (determinant > 2e-3 * a * d).then(|| {
        [
            std::array::from_fn(|c| (d * stains[c][0] - b * stains[c][1]) / determinant),
            std::array::from_fn(|c| (a * stains[c][1] - b * stains[c][0]) / determinant),
        ]
    })
}

/// As one matrix on optical densities: unmix, scale, mix with the other colours.
#[derive(Clone, Debug)]
pub struct Transfer {
    matrix: [[f32; 3]; 3],
    density: [f32; 256],
}

impl Transfer {
    pub fn new(from: &Fit, to: &Fit) -> Option<Self> {
        let unmix = unmixing(&from.stains)?;
        let scale: [f64; 2] = std::array::from_fn(|s| to.most[s] / from.most[s]);
        let matrix = std::array::from_fn(|c| {
            std::array::from_fn(|k| {
                let sum: f64 = (0..2)
                    .map(|s| to.stains[c][s] * scale[s] * unmix[s][k])
                    .sum();
                sum as f32
            })
        });
        let finite = |m: &[[f32; 3]; 3]| m.iter().flatten().all(|v| v.is_finite());
        finite(&matrix).then(|| Self {
            matrix,
            density: densities().map(|d| d as f32),
        })
    }

    /// As what a device is given.
    pub fn map(&self) -> StainMap {
        StainMap {
            matrix: self.matrix,
            light: LIGHT as f32,
        }
    }

    /// Changes pixels (R, G, B after each other), so many at once that the exponentials
    /// are computed in vectors.
    pub fn apply(&self, pixels: &mut [u8]) {
        widest(Apply {
            transfer: self,
            pixels: pixels.as_chunks_mut().0,
        });
    }
}

struct Apply<'a> {
    transfer: &'a Transfer,
    pixels: &'a mut [[u8; 3]],
}

impl Vectors for Apply<'_> {
    #[inline(always)]
    fn run(self) {
        let Transfer { matrix, density } = self.transfer;
        let mut planes = [[0.0f32; BLOCK]; 3];
        let mut levels = [[0u8; BLOCK]; 3];
        for pixels in self.pixels.chunks_mut(BLOCK) {
            look_up(density, pixels, &mut planes);
            let [red, green, blue] = &planes;
            for (levels, row) in levels.iter_mut().zip(matrix) {
                for (i, level) in levels.iter_mut().enumerate() {
                    let density = row[0] * red[i] + row[1] * green[i] + row[2] * blue[i];
                    // Published code cuts off what is behind the point; so does this,
                    // within the levels that there are.
                    *level = (LIGHT as f32 * vector::exp(-density)) as u8;
                }
            }
            for (i, pixel) in pixels.iter_mut().enumerate() {
                *pixel = [levels[0][i], levels[1][i], levels[2][i]];
            }
        }
    }
}
