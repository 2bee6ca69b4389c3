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
        for pixel in image.data.chunks_exact_mut(3) {
            let rgb = [pixel[0], pixel[1], pixel[2]];
            pixel.copy_from_slice(&match &self.kind {
                Kind::Stains(transfer) => transfer.pixel(rgb),
                Kind::Reinhard(transfer) => transfer.pixel(rgb),
            });
        }
    }
}

/// Optical density: -ln((v + 1) / light), by level.
fn densities() -> [f64; 256] {
    std::array::from_fn(|v| -((v as f64 + 1.0) / LIGHT).ln())
}

/// Densities of the pixels that have stain.
fn stained(pixels: &[u8]) -> Vec<[f64; 3]> {
    let density = densities();
    pixels
        .chunks_exact(3)
        .map(|p| [p[0], p[1], p[2]].map(|v| density[usize::from(v)]))
        .filter(|d| d.iter().all(|&v| v >= BETA))
        .collect()
}

/// The value below which `share` of the values are, between neighbours in
/// proportion, as NumPy's `percentile` has it. The values, of which there is one at
/// least, come in any order and are left in another: to sort them all would be most
/// of a fit.
fn percentile(values: &mut [f64], share: f64) -> f64 {
    let at = share * (values.len() - 1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let (_, &mut lower, above) = values.select_nth_unstable_by(low, f64::total_cmp);
    let upper = above
        .iter()
        .copied()
        .min_by(f64::total_cmp)
        .unwrap_or(lower);
    lower + (upper - lower) * part
}
