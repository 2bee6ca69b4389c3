//! Spots of spatial transcriptomics as tiles: a file of centres beside each slide.
//!
//! `<slide>.tsv`, `.csv` or, as her2st names it, `<slide>_selection.tsv`, with the
//! columns `pixel_x` and `pixel_y` (the centre in pixels of level 0), `barcode` or the
//! place on the array `x` and `y`, and perhaps `selected`, where 0 leaves a spot out.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::expression::table;

/// The centre of a tile, and what it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Spot {
    pub name: String,
    /// In pixels of level 0.
    pub centre: (f64, f64),
}

impl Spot {
    /// Top-left corner of the square of `side` px of level 0 around it, if that lies
    /// within `width` x `height`.
    pub fn corner(&self, side: f64, (width, height): (usize, usize)) -> Option<(i64, i64)> {
        let start = |centre: f64, bound: usize| {
            let at = (centre - side / 2.0).round();
            (at >= 0.0 && at + side <= bound as f64 + 1e-6).then_some(at as i64)
        };
        Some((start(self.centre.0, width)?, start(self.centre.1, height)?))
    }
}

/// The file of a slide's spots.
///
/// # Errors
/// None is there.
pub fn file(folder: &Path, slide: &str) -> Result<PathBuf> {
    let names = ["_selection.tsv", ".tsv", ".csv", ".tsv.gz", ".csv.gz"];
    let paths = names.map(|end| folder.join(format!("{slide}{end}")));
    let found = paths.iter().find(|path| path.is_file()).cloned();
    found.ok_or_else(|| {
        Error::file(
            &paths[1],
            "",
            "is missing: there is no list of the slide's spots",
            "give one for each slide, with the columns barcode, pixel_x, pixel_y",
        )
    })
}

/// Reads a file of spots.
///
/// # Errors
/// A file that cannot be read or lacks a column; a coordinate that is no number; a
/// name that stands twice.
pub fn read(path: &Path) -> Result<Vec<Spot>> {
    let (delimiter, text) = table::open(path)?;
    let mut csv = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .trim(csv::Trim::All)
        .from_reader(text);
    let bad = |line: u64, problem: String| {
        Error::file(
            path,
            format!("line {line}"),
            problem,
            "the columns are pixel_x, pixel_y, and barcode or x and y",
        )
    };
    let header = csv.headers().map_err(|e| bad(1, e.to_string()))?.clone();
    let column = |name: &str| header.iter().position(|h| h == name);
    let needed = |name: &str| column(name).ok_or_else(|| bad(1, format!("has no column `{name}`")));
    let (x, y) = (needed("pixel_x")?, needed("pixel_y")?);
    let selected = column("selected");
    let named = match column("barcode") {
        Some(barcode) => vec![barcode],
        None => vec![needed("x")?, needed("y")?],
    };
    let (mut spots, mut seen) = (Vec::new(), HashSet::new());
    for record in csv.records() {
        let record = record.map_err(|e| bad(0, e.to_string()))?;
        let line = record.position().map_or(0, |p| p.line());
        let cell = |at: usize| record.get(at).unwrap_or_default();
        let number = |at: usize| match cell(at).parse::<f64>() {
            Ok(v) if v.is_finite() && v.abs() <= 1e9 => Ok(v),
            _ => Err(bad(line, format!("has the coordinate `{}`", cell(at)))),
        };
        if let Some(at) = selected
            && number(at)? == 0.0
        {
            continue;
        }
        let name = named
            .iter()
            .map(|&at| cell(at))
            .collect::<Vec<_>>()
            .join("x");
        if !seen.insert(name.clone()) {
            return Err(bad(line, format!("names spot `{name}` again")));
        }
        spots.push(Spot {
            name,
            centre: (number(x)?, number(y)?),
        });
    }
    Ok(spots)
}
