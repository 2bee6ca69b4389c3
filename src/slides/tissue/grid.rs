//! Which squares of a slide become tiles.

use serde::Serialize;

use super::Mask;
use crate::error::{Error, Result};
use crate::random::Philox;

/// How squares are laid on a slide.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GridRule {
    /// Pixels that neighbours share, at the scale of the tiles.
    pub overlap: usize,
    /// A square with a smaller share of tissue is left out.
    pub min_tissue: f64,
    /// So many squares at random places in place of a grid; they may overlap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random: Option<usize>,
    /// At most so many; chosen at random among those that qualify.
    pub max_tiles: Option<usize>,
    pub seed: u64,
}

impl Default for GridRule {
    fn default() -> Self {
        Self {
            overlap: 0,
            // Over 60 % background is dropped, as RNA-GAN does.
            min_tissue: 0.4,
            random: None,
            max_tiles: None,
            seed: 0,
        }
    }
}

/// Draws for each random square that is wanted.
const TRIES: usize = 50;

/// Counts of tissue above and left of each corner of a mask's pixels.
struct Sums {
    width: usize,
    sums: Vec<u32>,
}

impl Sums {
    fn new(mask: &Mask) -> Self {
        let width = mask.width + 1;
        let mut sums = vec![0u32; width * (mask.height + 1)];
        for y in 0..mask.height {
            let mut row = 0;
            for x in 0..mask.width {
                row += u32::from(mask.tissue[y * mask.width + x]);
                sums[(y + 1) * width + x + 1] = sums[y * width + x + 1] + row;
            }
        }
        Self { width, sums }
    }

    fn within(&self, (x0, x1): (usize, usize), (y0, y1): (usize, usize)) -> u32 {
        let at = |x: usize, y: usize| self.sums[y * self.width + x];
        at(x1, y1) + at(x0, y0) - at(x0, y1) - at(x1, y0)
    }

    /// The share of tissue in a square of level 0: of the mask's pixels whose centres it
    /// covers, at least one.
    fn share(&self, mask: &Mask, (x, y): (i64, i64), side: f64) -> f64 {
        let span = |at: i64, step: f64, bound: usize| {
            let first = ((at as f64 / step + 0.5) as usize).min(bound.saturating_sub(1));
            let last = ((at as f64 + side) / step + 0.5) as usize;
            (first, last.clamp(first + 1, bound.max(first + 1)))
        };
        let columns = span(x, mask.step.0, mask.width);
        let rows = span(y, mask.step.1, mask.height);
        let all = (columns.1 - columns.0) * (rows.1 - rows.0);
        f64::from(self.within(columns, rows)) / all as f64
    }
}

/// Top-left corners of squares of `side` px of level 0, in pixels of level 0, row
/// by row. `px` is the side of the tile that results; none leaves the slide of
/// `width` x `height` px.
///
/// # Errors
/// An overlap that is no smaller than the tile; a share out of bounds.
pub fn squares(
    (width, height): (usize, usize),
    side: f64,
    px: usize,
    mask: &Mask,
    rule: &GridRule,
) -> Result<Vec<(i64, i64)>> {
    if rule.overlap >= px || !(0.0..=1.0).contains(&rule.min_tissue) {
        return Err(Error::usage(
            format!(
                "tiles of {px} px cannot overlap by {} px with a share of tissue of {}",
                rule.overlap, rule.min_tissue
            ),
            "the overlap is smaller than the tile, the share between 0 and 1",
        ));
    }
    if let Some(count) = rule.random {
        return Ok(anywhere((width, height), side, mask, rule, count));
    }
    let step = side * (px - rule.overlap) as f64 / px as f64;
    let starts = |len: usize| {
        let last = len as f64 - side;
        (0..)
            .map(move |i| (f64::from(i) * step).round())
            .take_while(move |&at| at <= last + 1e-6)
            .map(|at| at as i64)
    };
    let sums = Sums::new(mask);
    let mut chosen = Vec::new();
    if mask.width == 0 || mask.height == 0 {
        return Ok(chosen);
    }
    for y in starts(height) {
        for x in starts(width) {
            let tissue = sums.share(mask, (x, y), side);
            if tissue > 0.0 && tissue >= rule.min_tissue {
                chosen.push((x, y));
            }
        }
    }
    if let Some(most) = rule.max_tiles.filter(|&most| most < chosen.len()) {
        let mut order: Vec<usize> = (0..chosen.len()).collect();
        Philox::fork(rule.seed, "tiles").shuffle(&mut order);
        order.truncate(most);
        order.sort_unstable();
        chosen = order.into_iter().map(|i| chosen[i]).collect();
    }
    Ok(chosen)
}

/// Squares whose centres are uniform over the tissue, as many as are found among
/// [`TRIES`] times that many draws; a function of the seed. In the order of a grid.
fn anywhere(
    (width, height): (usize, usize),
    side: f64,
    mask: &Mask,
    rule: &GridRule,
    count: usize,
) -> Vec<(i64, i64)> {
    let tissue: Vec<usize> = (0..mask.tissue.len()).filter(|&i| mask.tissue[i]).collect();
    let sums = Sums::new(mask);
    let mut random = Philox::fork(rule.seed, "random tiles");
    let mut found = std::collections::BTreeSet::new();
    for _ in 0..count.saturating_mul(TRIES) {
        if found.len() == count || tissue.is_empty() {
            break;
        }
        let pixel = tissue[random.below(tissue.len())];
        let mut within = [0.0f32; 2];
        random.fill_uniform(&mut within, 0.0, 1.0);
        let corner = |pixel: usize, within: f32, step: f64| {
            ((pixel as f64 + f64::from(within)) * step - side / 2.0).round() as i64
        };
        let x = corner(pixel % mask.width, within[0], mask.step.0);
        let y = corner(pixel / mask.width, within[1], mask.step.1);
        let inside = |at: i64, len: usize| at >= 0 && at as f64 + side <= len as f64 + 1e-6;
        if inside(x, width)
            && inside(y, height)
            && sums.share(mask, (x, y), side) >= rule.min_tissue
        {
            found.insert((y, x));
        }
    }
    found.into_iter().map(|(y, x)| (x, y)).collect()
}
