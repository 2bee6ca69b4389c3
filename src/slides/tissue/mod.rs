//! Where the tissue is on a slide.
//!
//! The slide is looked at small (8 µm a pixel), so that a mask costs a second
//! whatever the slide's size. A threshold by Otsu's rule on one of three
//! measures parts tissue from glass. It is never below what glass itself
//! reaches, since Otsu's rule parts even an empty slide in two, and never above
//! what only tissue reaches, since on a slide full of tissue it parts dark from pale.

pub mod contour;
pub mod grid;
mod morphology;
pub mod quality;

use serde::Serialize;

use super::reader::Slide;
use super::scale::{self, Scale};
use super::{Rgb8, overview};
use crate::error::Result;

/// What parts tissue from glass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Mean optical density of R, G, B: proportional to the amount of stain.
    #[default]
    OpticalDensity,
    /// Saturation of HSV: stain has colour, clean glass has none. Not for glass
    /// that the lamp or the scanner tints.
    Saturation,
    /// Darkness of the grey value.
    Grey,
}

/// How tissue is found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TissueRule {
    pub measure: Measure,
    /// Micrometres per pixel of the mask.
    pub mpp: f64,
    /// Gaps up to this wide, in micrometres, are closed.
    pub close_um: f64,
    /// Smaller holes, in square micrometres, are filled.
    pub min_hole_um2: f64,
    /// Smaller pieces of tissue, in square micrometres, are dropped.
    pub min_piece_um2: f64,
    /// Leave out what has the colours of pens: green, blue, black, red.
    pub remove_pen: bool,
}

impl Default for TissueRule {
    fn default() -> Self {
        Self {
            measure: Measure::default(),
            mpp: 8.0,
            close_um: 32.0,
            min_hole_um2: 40_000.0,
            min_piece_um2: 40_000.0,
            remove_pen: false,
        }
    }
}

/// Which pixels of an overview are tissue.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    pub width: usize,
    pub height: usize,
    /// Rows from the top.
    pub tissue: Vec<bool>,
    /// Pixels of level 0 to one of the mask, across and down.
    pub step: (f64, f64),
    /// What the threshold came to, in levels of the measure (0 to 255).
    pub threshold: u8,
}

/// Finds the tissue of a slide; gives the overview that it was found on too.
///
/// # Errors
/// As [`overview::overview`]; a rule with a scale that cannot be.
pub fn find(slide: &dyn Slide, of: &Scale, rule: &TissueRule) -> Result<(Mask, Rgb8)> {
    scale::check(rule.mpp, "the scale of the mask")?;
    let view = overview::overview(slide, (rule.mpp / of.mpp).max(1.0))?;
    let main = &slide.facts().levels[0];
    let step = (
        main.width as f64 / view.width as f64,
        main.height as f64 / view.height as f64,
    );
    let um2 = step.0 * step.1 * of.mpp * of.mpp;
    let mut mask = on(&view, rule, um2);
    mask.step = step;
    Ok((mask, view))
}

/// The tissue of a picture whose pixels cover `um2` square micrometres each.
pub fn on(view: &Rgb8, rule: &TissueRule, um2: f64) -> Mask {
    let pixels = || view.data.chunks_exact(3).map(|p| [p[0], p[1], p[2]]);
    let levels: Vec<u8> = pixels().map(|p| rule.measure.level(p)).collect();
    let pen: Option<Vec<bool>> = rule.remove_pen.then(|| {
        let marks: Vec<bool> = pixels().map(is_pen).collect();
        // The rims of a stroke are paler than its colour.
        morphology::dilate(&marks, view.width, 2)
    });
    let clean: Vec<u8> = match &pen {
        None => levels.clone(),
        Some(pen) => (levels.iter().zip(pen))
            .filter(|(_, pen)| !**pen)
            .map(|(&l, _)| l)
            .collect(),
    };
    let (least, most) = rule.measure.bounds();
    let threshold = otsu(&clean).unwrap_or(255).clamp(least, most);
    let mut tissue: Vec<bool> = levels.iter().map(|&l| l > threshold).collect();
    let remove_pen = |tissue: &mut [bool]| {
        for (t, pen) in tissue.iter_mut().zip(pen.iter().flatten()) {
            *t &= !pen;
        }
    };
    remove_pen(&mut tissue);
    let reach = (rule.close_um / 2.0 / um2.sqrt()).round() as usize;
    tissue = morphology::close(&tissue, view.width, reach);
    let area = |um: f64| (um / um2).ceil() as usize;
    morphology::drop_small(&mut tissue, view.width, true, area(rule.min_piece_um2));
    morphology::drop_small(&mut tissue, view.width, false, area(rule.min_hole_um2));
    remove_pen(&mut tissue);
    Mask {
        width: view.width,
        height: view.height,
        tissue,
        step: (1.0, 1.0),
        threshold,
    }
}

impl Measure {
    /// Larger for tissue.
    fn level(self, [r, g, b]: [u8; 3]) -> u8 {
        let max = r.max(g).max(b);
        match self {
            Self::Saturation => {
                let spread = u32::from(max - r.min(g).min(b));
                ((spread * 255 + u32::from(max) / 2) / u32::from(max).max(1)) as u8
            }
            // ITU-R BT.601, as for JPEG.
            Self::Grey => {
                let sum = 299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b);
                255 - ((sum + 500) / 1000) as u8
            }
            Self::OpticalDensity => {
                let density = |v: u8| -(f32::from(v.max(1)) / 255.0).log10();
                // Full scale is a density of 1.
                ((density(r) + density(g) + density(b)) / 3.0 * 255.0) as u8
            }
        }
    }

    /// What glass with its noise, shading and tint reaches, and what only tissue does.
    fn bounds(self) -> (u8, u8) {
        match self {
            // Densities of 0.09 and 0.2: the pink glass of some scanners has 0.07.
            Self::OpticalDensity => (23, 51),
            Self::Saturation => (13, 51),
            Self::Grey => (25, 80),
        }
    }
}

/// Otsu's threshold: the first level t at which the variance between those up to
/// t and those above is largest; tissue is above. As scikit-image's
/// `threshold_otsu` has it for whole numbers.
///
/// `None` without values. All values alike give that value, so that none is above.
pub fn otsu(values: &[u8]) -> Option<u8> {
    let mut counts = [0u64; 256];
    for &v in values {
        counts[usize::from(v)] += 1;
    }
    let first = counts.iter().position(|&n| n > 0)?;
    let last = counts.iter().rposition(|&n| n > 0)?;
    let sum = |range: std::ops::Range<usize>| -> (f64, f64) {
        range.fold((0.0, 0.0), |(n, s), i| {
            (n + counts[i] as f64, s + counts[i] as f64 * i as f64)
        })
    };
    let (all, total) = sum(first..last + 1);
    let (mut below, mut weighted) = (0.0, 0.0);
    let mut best = (first, -1.0);
    for (t, &count) in counts.iter().enumerate().take(last).skip(first) {
        below += count as f64;
        weighted += count as f64 * t as f64;
        let above = all - below;
        let apart = weighted / below - (total - weighted) / above;
        let variance = below * above * apart * apart;
        if variance > best.1 {
            best = (t, variance);
        }
    }
    Some(best.0 as u8)
}

/// Whether a colour is a pen's rather than a stain's. Haematoxylin and eosin both
/// absorb green most, so tissue has less green than red; green and blue ink have more.
fn is_pen([r, g, b]: [u8; 3]) -> bool {
    let max = r.max(g).max(b);
    let min = r.min(g).min(b);
    let coloured = max - min > 40;
    let cool = coloured && g > r.saturating_add(10);
    let black = max < 70 && max - min < 25;
    let red = r > 150 && g < 80 && b < 80 && g.abs_diff(b) < 30;
    cool || black || red
}
