//! Stain normalisation: a slide's colours as those of a reference.
//!
//! - [`Method::Macenko`]: the two stains span a plane of optical densities; its
//!   extreme directions are the stains (Macenko et al., ISBI 2009).
//! - [`Method::Vahadane`]: stains by sparse non-negative factors of the optical
//!   densities (Vahadane et al., IEEE TMI 2016).
//! - [`Method::Reinhard`]: mean and spread of each channel in the l-alpha-beta colour
//!   space (Reinhard et al., IEEE CG&A 2001).
//!
//! A slide is fitted once, on pixels of many of its tiles, and all its tiles are
//! changed alike: normalising each tile by itself would make pale tissue dark.
//! The reference is the usual one of Macenko's authors, or another slide.

mod linear;
mod macenko;
mod reinhard;
mod vahadane;

use serde::{Deserialize, Serialize};

use super::Rgb8;
use crate::ops::StainMap;
pub use macenko::Fit;

/// How colours are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    Macenko,
    Reinhard,
    Vahadane,
}

impl Method {
    /// As the command line and run files name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Macenko => "macenko",
            Self::Reinhard => "reinhard",
            Self::Vahadane => "vahadane",
        }
    }
}

/// Transmitted light, in levels: as Macenko's published code has it.
const LIGHT: f64 = 240.0;
/// Pixels whose optical density (natural logarithm) is below this in any channel
/// are no stain.
const BETA: f64 = 0.15;
/// Tiles on which a slide's stains are fitted.
pub const STAIN_TILES: usize = 64;
/// Fewer pixels with stain than this fit nothing.
const FEWEST: usize = 100;

/// What a slide's colours are made of, and so what they are turned from or into.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase")]
pub enum Stains {
    /// Both methods that part stains.
    Macenko(Fit),
    Vahadane(Fit),
    Reinhard(reinhard::Statistics),
}

impl Stains {
    /// The reference of a method when no other is given.
    pub fn reference(method: Method) -> Self {
        match method {
            Method::Macenko => Self::Macenko(Fit::reference()),
            Method::Vahadane => Self::Vahadane(Fit::reference()),
            Method::Reinhard => Self::Reinhard(reinhard::Statistics::reference()),
        }
    }

    /// Fits pixels (R, G, B after each other); `None` where there is too little
    /// stain, or of one kind only, as in a tile of fat or glass.
    pub fn fit(method: Method, pixels: &[u8]) -> Option<Self> {
        Some(match method {
            Method::Macenko => Self::Macenko(macenko::fit(pixels)?),
            Method::Vahadane => Self::Vahadane(vahadane::fit(pixels)?),
            Method::Reinhard => Self::Reinhard(reinhard::fit(pixels)?),
        })
    }
}

/// Turns the colours of one fit into those of another.
#[derive(Clone, Debug)]
pub struct Normaliser {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Stains(Box<linear::Transfer>),
    Reinhard(reinhard::Transfer),
}

impl Normaliser {
    /// `None` for fits of different methods.
    pub fn new(from: &Stains, to: &Stains) -> Option<Self> {
        let kind = match (from, to) {
            (Stains::Macenko(from), Stains::Macenko(to))
            | (Stains::Vahadane(from), Stains::Vahadane(to)) => {
                Kind::Stains(Box::new(linear::Transfer::new(from, to)?))
            }
            (Stains::Reinhard(from), Stains::Reinhard(to)) => {
                Kind::Reinhard(reinhard::Transfer::new(from, to))
            }
            _ => return None,
        };
        Some(Self { kind })
    }

    /// The same for [`crate::ops::normalise_tiles`]; `None` for Reinhard's, which is no
    /// map of densities.
    pub fn stain_map(&self) -> Option<StainMap> {
        match &self.kind {
            Kind::Stains(transfer) => Some(transfer.map()),
            Kind::Reinhard(_) => None,
        }
    }

    pub fn apply(&self, image: &mut Rgb8) {
        match &self.kind {
            Kind::Stains(transfer) => transfer.apply(&mut image.data),
            Kind::Reinhard(transfer) => {
                for pixel in image.data.chunks_exact_mut(3) {
                    let rgb = [pixel[0], pixel[1], pixel[2]];
                    pixel.copy_from_slice(&transfer.pixel(rgb));
                }
            }
        }
    }
}

/// Optical density: -ln((v + 1) / light), by level.
fn densities() -> [f64; 256] {
    std::array::from_fn(|v| -((v as f64 + 1.0) / LIGHT).ln())
}

/// The pixels that have stain.
fn stained(pixels: &[u8]) -> Vec<[u8; 3]> {
    let density = densities();
    // Densities fall as levels rise.
    let brightest = density.iter().rposition(|&d| d >= BETA).unwrap_or(0);
    (pixels.chunks_exact(3).map(|p| [p[0], p[1], p[2]]))
        .filter(|p| p.iter().all(|&v| usize::from(v) <= brightest))
        .collect()
}

/// The products of a direction with the densities of pixels.
fn along(direction: &[f64; 3], pixels: impl Iterator<Item = [u8; 3]>) -> Vec<f64> {
    let density = densities();
    let part: [[f64; 256]; 3] =
        std::array::from_fn(|c| std::array::from_fn(|v| direction[c] * density[v]));
    let sum = |p: [u8; 3]| -> f64 {
        let [r, g, b] = p.map(usize::from);
        part[0][r] + part[1][g] + part[2][b]
    };
    pixels.map(sum).collect()
}

/// The values at the places around the one below which `share` of all values are, and
/// how far it is from the first to the second: NumPy's `percentile` is in proportion
/// between them. The values are finite, and there is one at least. They are counted by
/// their size first, so that only those around the place are put in order: to sort
/// them all would be most of a fit.
fn around(values: &[f64], share: f64) -> (f64, f64, f64) {
    const BINS: usize = 2048;
    let at = share * (values.len() - 1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let high = (low + 1).min(values.len() - 1);
    let ends = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &v| {
            (if v < a { v } else { a }, if v > b { v } else { b })
        });
    let scale = (BINS - 1) as f64 / (ends.1 - ends.0).max(f64::MIN_POSITIVE);
    let bin = |v: f64| (((v - ends.0) * scale) as usize).min(BINS - 1);
    let mut counts = [0usize; BINS];
    for &v in values {
        counts[bin(v)] += 1;
    }
    // The bins that hold both places, and how many values come before them.
    let (mut first, mut before) = (0, 0);
    while before + counts[first] <= low {
        before += counts[first];
        first += 1;
    }
    let (mut last, mut within) = (first, counts[first]);
    while before + within <= high {
        last += 1;
        within += counts[last];
    }
    let mut near: Vec<f64> = Vec::with_capacity(within);
    near.extend(values.iter().filter(|&&v| (first..=last).contains(&bin(v))));
    near.sort_unstable_by(f64::total_cmp);
    (near[low - before], near[high - before], part)
}

/// NumPy's `percentile` of finite values, of which there is one at least.
fn percentile(values: &[f64], share: f64) -> f64 {
    let (lower, upper, part) = around(values, share);
    lower + (upper - lower) * part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Philox;

    #[test]
    fn percentiles_are_those_of_sorted_values() {
        let mut random = Philox::new(5);
        for (count, spread) in [(1, 1.0), (2, 1.0), (99, 1e-3), (5000, 1e6), (700, 0.0)] {
            let mut values = vec![0.0f32; count];
            random.fill_uniform(&mut values, -1.0, 1.0);
            // A few far away, and many alike.
            let mut values: Vec<f64> = values.iter().map(|&v| f64::from(v) * spread).collect();
            let alike = values[0];
            (values.iter_mut().step_by(3)).for_each(|v| *v = alike);
            values[count / 2] = 1e9;
            let mut sorted = values.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            for share in [0.0, 0.01, 0.5, 0.99, 1.0] {
                let at = share * (count - 1) as f64;
                let (low, part) = (at.floor() as usize, at.fract());
                let high = (low + 1).min(count - 1);
                let expected = sorted[low] + (sorted[high] - sorted[low]) * part;
                assert_eq!(percentile(&values, share), expected, "{count} {share}");
            }
        }
    }
}
