//! Micrometres per pixel: a contract, never a guess.
//!
//! What a slide's scale is follows this order, and every result says which it was:
//!
//! 1. the row of the slide in a list given by the user (CSV `wsi,mpp`), or the
//!    `--slide-mpp` given for all of them;
//! 2. what the vendor's metadata state: Aperio's `MPP`, OME's `PhysicalSizeX`
//!    and `PhysicalSizeY`, OpenSlide's `openslide.mpp-x` and `-y`;
//! 3. TIFF's resolution tags with a unit.
//!
//! A statement out of [`SANE`] is passed over (a TIFF that says 72 dots per inch
//! says nothing about tissue), one by which pixels are not square within 5 %,
//! or which contradicts the stated objective by more than half, is an error: it
//! is those slides that are ten times off. The objective alone ("40x") is never
//! taken for a scale: 40x has been anything from 0.22 to 0.27 µm.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::reader::{Facts, Slide};
use super::{Rgb8, tile};
use crate::error::{Error, Result};

/// Micrometres per pixel that a microscope slide may have.
pub const SANE: std::ops::RangeInclusive<f64> = 0.05..=20.0;
/// Tiles may be at most this much finer than the slide itself: scanners of one
/// nominal scale differ by that.
pub const MOST_ENLARGED: f64 = 1.15;
/// Regions this close to the wanted size are taken as they are.
const SAME: f64 = 1e-3;

/// The scale of a slide's finest level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Micrometres per pixel.
    pub mpp: f64,
    /// Who says so.
    pub source: String,
}

/// The scale of a slide; `given` is the user's.
///
/// # Errors
/// Nobody states one, or what is stated cannot be.
pub fn of(facts: &Facts, given: Option<f64>) -> Result<Scale> {
    let path = &facts.path;
    let refuse = |problem: String| {
        Error::file(
            path,
            "",
            problem,
            "state its micrometres per pixel: a CSV with the columns wsi,mpp given as --list, or --slide-mpp",
        )
    };
    if let Some(mpp) = given {
        check(mpp, "the scale given for a slide")?;
        return Ok(Scale {
            mpp,
            source: "given by the user".into(),
        });
    }
    let Some(claim) = facts
        .claims
        .iter()
        .find(|c| SANE.contains(&c.x) && SANE.contains(&c.y))
    else {
        let said: Vec<String> = (facts.claims.iter())
            .map(|c| format!("{} gives {:.4} µm", c.source, c.x))
            .collect();
        let said = match (said.is_empty(), facts.magnification) {
            (false, _) => format!(" ({}, which no slide has)", said.join(", ")),
            (true, Some(m)) => format!(" (an objective of {m}x is no scale)"),
            (true, None) => String::new(),
        };
        return Err(refuse(format!("does not state its scale{said}")));
    };
    if (claim.x / claim.y - 1.0).abs() > 0.05 {
        return Err(refuse(format!(
            "has pixels that are not square: {} gives {} by {} µm",
            claim.source, claim.x, claim.y
        )));
    }
    let mpp = (claim.x + claim.y) / 2.0;
    if let Some(power) = facts.magnification.filter(|m| *m > 0.0)
        && !(0.5..=2.0).contains(&(mpp * power / 10.0))
    {
        return Err(refuse(format!(
            "contradicts itself: {} gives {mpp:.4} µm per pixel, an objective of {power}x about {}",
            claim.source,
            10.0 / power
        )));
    }
    Ok(Scale {
        mpp,
        source: claim.source.clone(),
    })
}

/// # Errors
/// A scale out of [`SANE`].
pub fn check(mpp: f64, what: &str) -> Result<()> {
    if SANE.contains(&mpp) {
        return Ok(());
    }
    Err(Error::usage(
        format!("{what} is {mpp} micrometres per pixel"),
        format!("give one between {} and {}", SANE.start(), SANE.end()),
    ))
}

/// A slide that the user lists.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// A file name, or a path relative to the folder of slides.
    pub wsi: String,
    pub mpp: Option<f64>,
}

/// Reads a CSV with the column `wsi` and, where wanted, `mpp`.
///
/// # Errors
/// A file that cannot be read, without these columns, or with a scale that is
/// no number or out of [`SANE`].
pub fn read_list(path: &Path) -> Result<Vec<Listed>> {
    let bad = |line: u64, problem: String| {
        Error::file(
            path,
            format!("line {line}"),
            problem,
            "the columns are wsi and mpp, one slide a line",
        )
    };
    let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut reader = csv::Reader::from_reader(file);
    let headers = reader.headers().map_err(|e| bad(1, e.to_string()))?.clone();
    let column = |name: &str| headers.iter().position(|h| h.trim() == name);
    let Some(wsi) = column("wsi") else {
        return Err(bad(1, "has no column `wsi`".into()));
    };
    let mpp = column("mpp");
    let mut listed = Vec::new();
    for (i, record) in reader.records().enumerate() {
        let line = i as u64 + 2;
        let record = record.map_err(|e| bad(line, e.to_string()))?;
        let cell = |column: usize| record.get(column).unwrap_or_default().trim().to_owned();
        let mpp = match mpp.map(cell).filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => Some(
                (text.parse().ok())
                    .filter(|mpp| SANE.contains(mpp))
                    .ok_or_else(|| bad(line, format!("has the mpp `{text}`")))?,
            ),
        };
        listed.push(Listed {
            wsi: cell(wsi),
            mpp,
        });
    }
    Ok(listed)
}

/// How squares of a slide are read at a scale that is not one of its levels'.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sampling {
    /// The level that is read: the coarsest that is at least as fine.
    pub level: usize,
    /// Its pixels of level 0 to one of its own.
    pub downsample: f64,
    /// Side of a square in pixels of level 0.
    pub side: f64,
    /// Side of the square that results.
    pub px: usize,
}

impl Sampling {
    /// Squares of `px` px at `mpp` from a slide whose finest level has the scale `of`.
    ///
    /// # Errors
    /// A slide coarser than that by more than [`MOST_ENLARGED`]; a size of zero.
    pub fn new(facts: &Facts, of: &Scale, mpp: f64, px: usize) -> Result<Self> {
        check(mpp, "the scale of tiles")?;
        if px == 0 || px > super::image::MAX_SIDE {
            return Err(Error::usage(
                format!("tiles of {px} px cannot be cut"),
                "ask for 224 px, for example",
            ));
        }
        let ratio = mpp / of.mpp;
        if ratio * MOST_ENLARGED < 1.0 {
            return Err(Error::file(
                &facts.path,
                "",
                format!(
                    "has {} µm per pixel, too coarse for tiles of {mpp} µm",
                    of.mpp
                ),
                "ask for tiles that are no finer than the slide",
            ));
        }
        let finer = |downsample: f64| downsample <= ratio * (1.0 + SAME);
        let level = facts
            .levels
            .iter()
            .rposition(|l| finer(l.downsample))
            .unwrap_or(0);
        Ok(Self {
            level,
            downsample: facts.levels.get(level).map_or(1.0, |l| l.downsample),
            side: px as f64 * ratio,
            px,
        })
    }

    /// The square whose corner is the pixel `(x, y)` of level 0, resampled with
    /// a triangle filter as wide as the reduction, as Pillow does.
    ///
    /// # Errors
    /// As [`Slide::read_region`].
    pub fn read(&self, slide: &dyn Slide, (x, y): (i64, i64)) -> Result<Rgb8> {
        let side = self.side / self.downsample;
        let (left, top) = (x as f64 / self.downsample, y as f64 / self.downsample);
        if (side / self.px as f64 - 1.0).abs() <= SAME {
            let at = (left.round() as i64, top.round() as i64);
            return slide.read_region(self.level, at, (self.px, self.px));
        }
        let (x0, y0) = (left.floor(), top.floor());
        let reach = |from: f64, first: f64| ((from + side - first).ceil() as usize).max(1);
        let size = (reach(left, x0), reach(top, y0));
        let region = slide.read_region(self.level, (x0 as i64, y0 as i64), size)?;
        tile::resample(&region, (left - x0, top - y0, side, side), self.px, self.px)
    }
}
