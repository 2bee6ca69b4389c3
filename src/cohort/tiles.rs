//! A folder of tile images per slide, and a table of expression per slide.
//!
//! ```text
//! <root>/<slide>/*.png *.jpg *.jpeg    square tiles, of any size
//! <root>/slides.csv                    optional: columns slide, patient
//! ```
//!
//! The table names slides as the folders do. Tiles that are no images or not
//! square are skipped (a tile cut short at a slide's edge would be stretched);
//! those whose pixels turn out damaged are found when they are decoded.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Cohort, Sample, Skipped, SourceImage, TileRef, entries, lmdb, name, names_image};
use crate::error::{Error, Result};
use crate::expression::source::{self, Loaded};
use crate::expression::{Orientation, Source, Table, table};

/// What to read besides the tiles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Expression; without it the cohort is for prediction only.
    pub table: Option<PathBuf>,
    pub orientation: Orientation,
    /// What to take of it, and what genes are called.
    pub source: Source,
    /// Which patient a slide is from; `<root>/slides.csv` if that exists.
    pub slides: Option<PathBuf>,
    /// Tiles are in an LMDB file in each slide's folder, as RNA-GAN's code writes them.
    pub lmdb: bool,
}

/// Reads the folder `root`. Samples are slides, by name.
///
/// # Errors
/// A folder that cannot be read or has no slide; a table that cannot be read
/// (as [`source::read`]); a `slides.csv` that names a slide twice, leaves a
/// patient empty or leaves out a slide of the folder; no sample left.
pub fn read(root: impl AsRef<Path>, options: &Options) -> Result<Cohort> {
    let root = root.as_ref();
    if !root.is_dir() {
        return Err(Error::file(
            root,
            "",
            "is not a folder",
            "give a folder that holds a folder of tiles for each slide",
        ));
    }
    let slides: Vec<PathBuf> = entries(root)?.into_iter().filter(|p| p.is_dir()).collect();
    if slides.is_empty() {
        return Err(Error::file(
            root,
            "",
            "holds no folder of tiles",
            "put the tiles of each slide into <root>/<slide>/",
        ));
    }
    let names: Vec<String> = slides.iter().map(|p| name(p)).collect();
    let patients = patients(root, &names, options)?;
    let source = Source {
        orientation: options.orientation,
        ..options.source.clone()
    };
    let loaded = options
        .table
        .as_ref()
        .map(|path| source::read(path, &source, &names));
    let (table, left_out) = match loaded.transpose()? {
        Some(Loaded { table, skipped }) => (Some(table), skipped),
        None => (None, Vec::new()),
    };
    let rows: HashMap<&str, usize> = table
        .iter()
        .flat_map(|t| t.samples.iter().enumerate())
        .map(|(row, slide)| (slide.as_str(), row))
        .collect();

    let mut cohort = Cohort {
        samples: Vec::new(),
        tiles: Vec::new(),
        images: Vec::new(),
        table: None,
        skipped: left_out,
    };
    let mut kept_rows = Vec::new();
    for ((folder, slide), patient) in slides.iter().zip(&names).zip(patients) {
        let row = rows.get(slide.as_str()).copied();
        if table.is_some() && row.is_none() {
            cohort.skip(
                format!("slide {slide}"),
                "the table has no expression for it",
            );
            continue;
        }
        let tiles = match options.lmdb {
            true => cohort.add_stored_tiles(slide, folder)?,
            false => cohort.add_tiles(slide, folder)?,
        };
        if tiles.is_empty() {
            cohort.skip(format!("slide {slide}"), "it has no usable tile");
            continue;
        }
        kept_rows.extend(row);
        cohort.samples.push(Sample {
            id: slide.clone(),
            slide: slide.clone(),
            patient,
            tiles,
        });
    }
    if let Some(table) = table {
        let folders: HashSet<&str> = names.iter().map(String::as_str).collect();
        for slide in table
            .samples
            .iter()
            .filter(|s| !folders.contains(s.as_str()))
        {
            cohort.skip(
                format!("slide {slide}"),
                "it has expression but no folder of tiles",
            );
        }
        cohort.table = Some(Table::select_samples(&table, &kept_rows)?);
    }
    cohort.require_samples()?;
    Ok(cohort)
}

impl Cohort {
    pub(super) fn skip(&mut self, what: String, why: impl Into<String>) {
        self.skipped.push(Skipped {
            what,
            why: why.into(),
        });
    }

    /// Adds the tile images of a slide, by name, and returns their indices.
    pub(super) fn add_tiles(&mut self, slide: &str, folder: &Path) -> Result<Vec<usize>> {
        let files: Vec<PathBuf> = entries(folder)?
            .into_iter()
            .filter(|p| names_image(p) && !p.is_dir())
            .collect();
        let open = |file: &PathBuf| (name(file), SourceImage::open(file.clone()));
        Ok(self.add_images(slide, files.par_iter().map(open).collect()))
    }

    /// Adds the tiles of a slide's LMDB file. One that cannot be read has none.
    fn add_stored_tiles(&mut self, slide: &str, folder: &Path) -> Result<Vec<usize>> {
        match lmdb::file_of(folder).and_then(|file| lmdb::tiles(&file)) {
            Ok(images) => Ok(self.add_images(slide, images)),
            Err(e) => {
                self.skip(format!("slide {slide}"), e.to_string());
                Ok(Vec::new())
            }
        }
    }

    /// Adds images, each by its name on the slide.
    fn add_images(
        &mut self,
        slide: &str,
        images: Vec<(String, Result<SourceImage>)>,
    ) -> Vec<usize> {
        let mut tiles = Vec::with_capacity(images.len());
        for (name, image) in images {
            let what = || format!("tile {slide}/{name}");
            match image {
                Err(e) => self.skip(what(), e.to_string()),
                Ok(image) if image.width != image.height => self.skip(
                    what(),
                    format!("it is {} x {} px, not square", image.width, image.height),
                ),
                Ok(image) => {
                    tiles.push(self.tiles.len());
                    self.tiles.push(TileRef {
                        image: self.images.len(),
                        centre: None,
                        size_px: image.width,
                        position: position(Path::new(&name)),
                    });
                    self.images.push(image);
                }
            }
        }
        tiles
    }
}

/// The two whole numbers that end the name of a tile, if two do: `12_7.png`,
/// `slide_x4096_y512.jpg`, `a-3-4.png`.
fn position(file: &Path) -> Option<(f64, f64)> {
    let stem = file.file_stem()?.to_str()?;
    let mut parts = stem.rsplit(['_', '-', ',']);
    let number = |part: &str, axis: char| -> Option<f64> {
        let digits = part.strip_prefix(axis).unwrap_or(part);
        Some(f64::from(digits.parse::<u32>().ok()?))
    };
    let y = number(parts.next()?, 'y')?;
    let x = number(parts.next()?, 'x')?;
    Some((x, y))
}

/// The patient of each slide; the rule is in the documentation of
/// [`crate::cohort`].
fn patients(root: &Path, slides: &[String], options: &Options) -> Result<Vec<String>> {
    let default = root.join("slides.csv");
    let path = match &options.slides {
        Some(path) => path.as_path(),
        None if default.is_file() => default.as_path(),
        None => return Ok(slides.iter().map(|s| patient_of(s)).collect()),
    };
    let patient = read_of_slides(path, "patient")?;
    slides
        .iter()
        .map(|slide| {
            patient.get(slide).cloned().ok_or_else(|| {
                Error::file(
                    path,
                    "",
                    format!("does not say which patient slide {slide} is from"),
                    "add a line for it",
                )
            })
        })
        .collect()
}

/// `TCGA-XX-YYYY` of a TCGA barcode, else the slide's own name.
fn patient_of(slide: &str) -> String {
    let parts: Vec<&str> = slide.splitn(4, '-').collect();
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric());
    match parts[..] {
        ["TCGA", site, patient, _] if site.len() == 2 && patient.len() == 4 => {
            if plain(site) && plain(patient) {
                return format!("TCGA-{site}-{patient}");
            }
            slide.to_string()
        }
        _ => slide.to_string(),
    }
}

/// What the table `path` says of each slide in the column `what`.
///
/// # Errors
/// As [`read_pairs`].
pub fn read_of_slides(path: &Path, what: &str) -> Result<HashMap<String, String>> {
    read_pairs(path, "slide", what)
}

/// What the table `path` says in the column `what` of each name in the column `key`.
///
/// # Errors
/// No such columns, an empty field, a name that stands twice.
pub fn read_pairs(path: &Path, key: &str, what: &str) -> Result<HashMap<String, String>> {
    let (delimiter, text) = table::open(path)?;
    let mut csv = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .trim(csv::Trim::All)
        .from_reader(text);
    let fail = |e: csv::Error| {
        Error::file(
            path,
            "",
            format!("cannot be read ({e})"),
            format!("write it as CSV with the columns {key} and {what}"),
        )
    };
    let header = csv.headers().map_err(fail)?.clone();
    let column = |wanted: &str| {
        header.iter().position(|h| h == wanted).ok_or_else(|| {
            Error::file(
                path,
                "line 1",
                format!("has no column {wanted}"),
                format!("it needs the columns {key} and {what}"),
            )
        })
    };
    let (key_at, value_at) = (column(key)?, column(what)?);
    let mut values = HashMap::new();
    for record in csv.records() {
        let record = record.map_err(fail)?;
        let line = record.position().map_or(0, |p| p.line());
        let (name, value) = (
            record.get(key_at).unwrap_or_default(),
            record.get(value_at).unwrap_or_default(),
        );
        if name.is_empty() || value.is_empty() {
            return Err(Error::file(
                path,
                format!("line {line}"),
                format!("{key} or {what} is empty"),
                "fill in both",
            ));
        }
        if values.insert(name.to_string(), value.to_string()).is_some() {
            return Err(Error::file(
                path,
                format!("line {line}"),
                format!("{key} {name} stands twice"),
                "keep one line for each of them",
            ));
        }
    }
    Ok(values)
}
