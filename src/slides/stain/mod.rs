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
use crate::ops::vector::{Vectors, widest};
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
    let mut found = vec![[0; 3]; pixels.len() / 3];
    let mut count = 0;
    for p in pixels.chunks_exact(3) {
        // Written in any case, and kept or written over: there is no branch to guess.
        found[count] = [p[0], p[1], p[2]];
        count += usize::from(p.iter().all(|&v| usize::from(v) <= brightest));
    }
    found.truncate(count);
    found
}

/// Pixels whose densities are looked up before they are computed with in vectors.
const BLOCK: usize = 256;

/// Densities of R, G, B of up to [`BLOCK`] pixels.
#[inline(always)]
fn look_up(density: &[f32; 256], pixels: &[[u8; 3]], planes: &mut [[f32; BLOCK]; 3]) {
    let [red, green, blue] = planes;
    for (((p, r), g), b) in pixels.iter().zip(red).zip(green).zip(blue) {
        let d = p.map(|v| density[usize::from(v)]);
        (*r, *g, *b) = (d[0], d[1], d[2]);
    }
}

/// Values of pixels in f32, by a function of their densities and two directions.
struct Each<'a, F> {
    pixels: &'a [[u8; 3]],
    directions: &'a [[f64; 3]; 2],
    value: F,
    out: [&'a mut [f32]; 2],
}

impl<F: Fn(f32, f32) -> [f32; 2]> Vectors for Each<'_, F> {
    #[inline(always)]
    fn run(self) {
        let density = densities().map(|d| d as f32);
        let [x, y] = self.directions.map(|d| d.map(|v| v as f32));
        let mut planes = [[0.0f32; BLOCK]; 3];
        let [first, second] = self.out;
        let blocks = self.pixels.chunks(BLOCK).zip(first.chunks_mut(BLOCK));
        for ((pixels, first), second) in blocks.zip(second.chunks_mut(BLOCK)) {
            look_up(&density, pixels, &mut planes);
            let [red, green, blue] = &planes;
            for (i, (first, second)) in first.iter_mut().zip(second).enumerate() {
                let along = |d: &[f32; 3]| d[0] * red[i] + d[1] * green[i] + d[2] * blue[i];
                [*first, *second] = (self.value)(along(&x), along(&y));
            }
        }
    }
}

/// The product of a direction with a pixel's densities.
fn along(direction: &[f64; 3], density: &[f64; 256], pixel: [u8; 3]) -> f64 {
    let [r, g, b] = pixel.map(usize::from);
    direction[0] * density[r] + direction[1] * density[g] + direction[2] * density[b]
}

/// The values at the places around the one below which `share` of all values are, and
/// how far it is from the first to the second: NumPy's `percentile` is in proportion
/// between them. There is one value at least.
///
/// `near` has the values rounded, each within `slack` of what `exact` says of its
/// place, or NaN where that cannot be promised. They are only used to find the few at the end where the place is: those are
/// computed exactly and put in order, so that rounding changes nothing.
fn around(near: &[f32], slack: f32, share: f64, exact: impl Fn(usize) -> f64) -> (f64, f64, f64) {
    const SAMPLE: usize = 1024;
    let n = near.len();
    let at = share * (n - 1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let high = (low + 1).min(n - 1);
    // Counted from the end that is nearer; there `sign` makes the values small.
    let (sign, low, high) = match share > 0.5 {
        true => (-1.0, n - 1 - low, n - 1 - high),
        false => (1.0, low, high),
    };
    let farthest = low.max(high);
    // Some more than are needed, by the look of every so many-th.
    let mut sample: Vec<f32> = near.iter().step_by(n.div_ceil(SAMPLE)).copied().collect();
    let wanted = (farthest + 1) * sample.len() * 3 / (2 * n) + 8;
    let bound = match wanted < sample.len() {
        true => {
            sample.iter_mut().for_each(|v| *v *= sign);
            *sample.select_nth_unstable_by(wanted, f32::total_cmp).1
        }
        false => f32::INFINITY,
    };
    for bound in [bound, f32::INFINITY] {
        let mut found: Vec<f64> = Vec::new();
        for (i, chunk) in near.chunks(16).enumerate() {
            // NaN may be anywhere.
            let below = |v: f32| v.is_nan() || v * sign <= bound + 2.0 * slack;
            if chunk.iter().fold(false, |any, &v| any | below(v)) {
                let places = (chunk.iter().enumerate()).filter(|&(_, &v)| below(v));
                found.extend(places.map(|(j, _)| exact(16 * i + j) * f64::from(sign)));
            }
        }
        if farthest >= found.len() {
            continue;
        }
        let value = *found.select_nth_unstable_by(farthest, f64::total_cmp).1;
        // What was not found is above bound + slack.
        if value <= f64::from(bound) + f64::from(slack) {
            let nearer = found[..farthest].iter().copied().max_by(f64::total_cmp);
            let value_at = |place| match place == farthest {
                true => value,
                false => nearer.unwrap_or(value),
            };
            let sign = f64::from(sign);
            return (value_at(low) * sign, value_at(high) * sign, part);
        }
    }
    (f64::NAN, f64::NAN, part) // not reached: all values are found at the last
}

/// How far f32 may take a product of densities with a direction from what it is.
fn slack(direction: &[f64; 3]) -> f32 {
    let most = -(1.0 / LIGHT).ln();
    (1e-6 * most * direction.iter().map(|v| v.abs()).sum::<f64>()) as f32
}

/// NumPy's `percentile` of finite products of two directions with densities.
fn percentiles(directions: &[[f64; 3]; 2], pixels: &[[u8; 3]], share: f64) -> [f64; 2] {
    let (mut first, mut second) = (vec![0.0; pixels.len()], vec![0.0; pixels.len()]);
    widest(Each {
        pixels,
        directions,
        value: |a, b| [a, b],
        out: [&mut first, &mut second],
    });
    let density = densities();
    let one = |direction, near: &[f32]| {
        let exact = |i: usize| along(direction, &density, pixels[i]);
        let (lower, upper, part) = around(near, slack(direction), share, exact);
        lower + (upper - lower) * part
    };
    [one(&directions[0], &first), one(&directions[1], &second)]
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
            let mut values: Vec<f64> = (values.iter())
                .map(|&v| (f64::from(v) + 1e-9) * spread)
                .collect();
            let alike = values[0];
            (values.iter_mut().step_by(3)).for_each(|v| *v = alike);
            values[count / 2] = 1e9;
            let mut sorted = values.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            let slack = 1e-6 * spread as f32;
            // As rough as is allowed, and alternating, so that neighbours change places.
            let near: Vec<f32> = (values.iter().enumerate())
                .map(|(i, &v)| v as f32 + slack * [0.5, -0.5][i % 2])
                .collect();
            for share in [0.0, 0.01, 0.5, 0.51, 0.99, 1.0] {
                let at = share * (count - 1) as f64;
                let (low, part) = (at.floor() as usize, at.fract());
                let high = (low + 1).min(count - 1);
                let found = around(&near, slack, share, |i| values[i]);
                assert_eq!(found, (sorted[low], sorted[high], part), "{count} {share}");
            }
        }
    }

    #[test]
    fn a_misleading_sample_costs_time_only() {
        // What is looked at first is all large.
        let values: Vec<f64> = (0..4096)
            .map(|i| f64::from(i) + if i % 4 == 0 { 1e6 } else { 0.0 })
            .collect();
        let mut sorted = values.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let near: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        let (low, high, _) = around(&near, 1.0, 0.99, |i| values[i]);
        assert_eq!((low, high), (sorted[4054], sorted[4055]));
        let near: Vec<f32> = values.iter().map(|&v| -v as f32).collect();
        let (low, high, _) = around(&near, 1.0, 0.2, |i| -values[i]);
        assert_eq!((low, high), (-sorted[4095 - 819], -sorted[4095 - 820]));
    }
}
