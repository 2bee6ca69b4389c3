//! Whether a tile shows anything.

use serde::Serialize;

use super::super::Rgb8;

/// What a tile must have to be used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct QualityRule {
    /// The range of grey values from the 1st to the 99th percentile, as a share of
    /// all; below 0.05 scikit-image's `is_low_contrast` speaks of low contrast.
    pub min_contrast: f64,
    /// The variance of the Laplacian of grey values (0 to 255): small where nothing
    /// is in focus. What is too small depends on tissue and scanner; 0 asks nothing.
    pub min_sharpness: f64,
}

impl Default for QualityRule {
    fn default() -> Self {
        Self {
            min_contrast: 0.05,
            min_sharpness: 0.0,
        }
    }
}

impl QualityRule {
    /// Why a tile is left out, if it is.
    pub fn refusal(&self, tile: &Rgb8) -> Option<String> {
        let grey: Vec<u8> = (tile.data.chunks_exact(3))
            .map(|p| {
                let sum = 299 * u32::from(p[0]) + 587 * u32::from(p[1]) + 114 * u32::from(p[2]);
                ((sum + 500) / 1000) as u8
            })
            .collect();
        let contrast = contrast(&grey);
        if contrast < self.min_contrast {
            return Some(format!("low contrast ({contrast:.3})"));
        }
        if self.min_sharpness > 0.0 {
            let sharpness = sharpness(&grey, tile.width);
            if sharpness < self.min_sharpness {
                return Some(format!("out of focus ({sharpness:.1})"));
            }
        }
        None
    }
}

/// The range between the 1st and the 99th percentile, of 255.
pub fn contrast(grey: &[u8]) -> f64 {
    let mut counts = [0usize; 256];
    for &v in grey {
        counts[usize::from(v)] += 1;
    }
    let percentile = |share: f64| {
        let rank = (share * grey.len().saturating_sub(1) as f64).round() as usize;
        let mut below = 0;
        counts.iter().position(|&n| {
            below += n;
            below > rank
        })
    };
    match (percentile(0.01), percentile(0.99)) {
        (Some(low), Some(high)) => (high - low) as f64 / 255.0,
        _ => 0.0,
    }
}

/// The variance of the 4-neighbour Laplacian over the inner pixels.
pub fn sharpness(grey: &[u8], width: usize) -> f64 {
    let height = grey.len() / width.max(1);
    if width < 3 || height < 3 {
        return 0.0;
    }
    let (mut sum, mut squares) = (0.0, 0.0);
    for y in 1..height - 1 {
        for x in 1..width - 1 {
            let at = |i: usize| f64::from(grey[i]);
            let i = y * width + x;
            let v = at(i - 1) + at(i + 1) + at(i - width) + at(i + width) - 4.0 * at(i);
            sum += v;
            squares += v * v;
        }
    }
    let n = ((width - 2) * (height - 2)) as f64;
    squares / n - (sum / n) * (sum / n)
}
