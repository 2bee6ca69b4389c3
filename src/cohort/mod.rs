//! A user's folder as training samples: which tiles belong to which sample,
//! whose patient it is, and its expression.
//!
//! Layouts that are read: [`her2st`] (section images with spot files and
//! counts), [`visium`], [`tiles`] (a folder of tile images per slide and a
//! table, or RNA-GAN's LMDB files in their place) and [`classes`] (a folder of
//! tile images per class).
//! [`for_each_batch`] then hands the tiles over, decoded and normalised.
//!
//! **Patients.** Samples of one patient must never stand on both sides of a
//! split, so every sample carries its patient:
//! - her2st: the letters at the start of the section's name (C2 to C5 are one
//!   patient's), which must agree with the folder `ST-imgs/<P>/<S>`;
//! - tile folders: the column `patient` of `slides.csv`; without that file, a
//!   TCGA barcode's first three parts (`TCGA-XX-YYYY`), else the slide itself.
//!   Whoever has several slides of a patient therefore needs a `slides.csv`.
//!
//! **What can be skipped is skipped, and named** in [`Cohort::skipped`]: a spot
//! without counts, a tile that cannot be read, a slide without expression. What
//! makes the numbers themselves doubtful (a gene twice, text in a count) stops
//! the reading with an error.

pub mod bags;
pub mod classes;
mod colours;
mod extract;
pub mod grid;
pub mod her2st;
pub mod kmeans;
mod lmdb;
mod spots;
pub mod store;
pub mod tiles;
pub mod visium;

use std::path::{Path, PathBuf};

pub use crate::expression::source::Skipped;
pub use colours::Colours;
pub use extract::{
    TileSpec, UnusedTile, cut_tiles, for_each_batch, for_each_batch_in, for_each_input,
};
pub use lmdb::TileFile;

use crate::error::{Error, Result};
use crate::expression::Table;
use crate::formats::hash::{sha256_bytes, sha256_file};
use crate::slides::{Rgb8, icc, image};

/// Samples, their tiles and their expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Cohort {
    pub samples: Vec<Sample>,
    /// Every tile that a sample uses, once, by image. A tile that turns out to
    /// be unusable stays in the list, so that indices keep their meaning, but
    /// no sample refers to it any more.
    pub tiles: Vec<TileRef>,
    pub images: Vec<SourceImage>,
    /// Rows as `samples`; `None` when the cohort is for prediction only.
    pub table: Option<Table>,
    /// In the order met.
    pub skipped: Vec<Skipped>,
}

/// What gets one vector of expression: a spot, a section or a slide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub id: String,
    pub slide: String,
    /// Never to be split between training and test.
    pub patient: String,
    /// Indices into [`Cohort::tiles`], at least one. A spot's own tile is
    /// the first.
    pub tiles: Vec<usize>,
}

/// A square of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct TileRef {
    /// Index into [`Cohort::images`].
    pub image: usize,
    /// Centre in pixels of the image; `None` when the tile is the whole image.
    pub centre: Option<(f64, f64)>,
    /// Side in pixels of the image.
    pub size_px: usize,
    /// Where the tile lies on its slide, for maps: pixels for spots, what the
    /// file name says for tile images, if it says anything.
    pub position: Option<(f64, f64)>,
}

/// An image file, or an image in an LMDB file, with the size that its header states.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceImage {
    pub path: PathBuf,
    /// Its key in the LMDB file at `path`; `None` for a file of its own.
    pub entry: Option<String>,
    pub width: usize,
    pub height: usize,
    /// Micrometres per pixel, where spots, an instrument's files or the user tell.
    pub mpp: Option<f64>,
    /// What is done about its colour profile.
    pub colours: icc::Colours,
}

impl SourceImage {
    /// # Errors
    /// As [`image::dimensions`].
    fn open(path: PathBuf) -> Result<Self> {
        let (width, height) = image::dimensions(&path)?;
        Ok(Self {
            path,
            entry: None,
            width,
            height,
            mpp: None,
            colours: icc::Colours::AsStored,
        })
    }

    /// Decodes it.
    ///
    /// # Errors
    /// As [`image::read`].
    pub fn read(&self) -> Result<Rgb8> {
        let mut image = match &self.entry {
            None => image::read(&self.path),
            Some(key) => lmdb::read(&self.path, key),
        }?;
        if let icc::Colours::Corrected(transform) = &self.colours {
            transform.apply(&mut image)?;
        }
        Ok(image)
    }

    /// From now on is read in the colours of sRGB, if it has a profile.
    ///
    /// # Errors
    /// A file that cannot be read; a profile that cannot be applied.
    pub fn correct(&mut self) -> Result<()> {
        self.colours = match &self.entry {
            None => icc::Colours::of(&self.path)?,
            Some(_) => icc::Colours::Unprofiled,
        };
        Ok(())
    }

    /// SHA-256 of its file, or of its bytes in an LMDB file; another one if its profile
    /// is applied.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn sha256(&self) -> Result<String> {
        let own = match &self.entry {
            None => sha256_file(&self.path)?,
            Some(_) => sha256_bytes(&self.read()?.data),
        };
        Ok(match &self.colours {
            icc::Colours::Corrected(_) => sha256_bytes(format!("{own} in sRGB").as_bytes()),
            _ => own,
        })
    }

    /// The file, and where it has several images which of them, for messages.
    pub fn describe(&self) -> String {
        match &self.entry {
            None => self.path.display().to_string(),
            Some(key) => format!("{} key {key}", self.path.display()),
        }
    }
}

impl Cohort {
    /// Takes tiles that could not be used out of their samples. A sample that
    /// has none left is left out together with its row of expression. All of
    /// it is added to `skipped`.
    ///
    /// # Errors
    /// When no sample is left.
    pub fn drop_tiles(&mut self, unused: &[UnusedTile]) -> Result<()> {
        if unused.is_empty() {
            return Ok(());
        }
        let mut usable = vec![true; self.tiles.len()];
        for tile in unused {
            if let Some(usable) = usable.get_mut(tile.tile) {
                *usable = false;
            }
            self.skipped.push(Skipped {
                what: tile.what.clone(),
                why: tile.why.clone(),
            });
        }
        let usable = |tile: &usize| usable.get(*tile).copied().unwrap_or(false);

        let mut kept_rows = Vec::with_capacity(self.samples.len());
        let mut kept = Vec::with_capacity(self.samples.len());
        for (row, mut sample) in std::mem::take(&mut self.samples).into_iter().enumerate() {
            sample.tiles.retain(usable);
            if sample.tiles.is_empty() {
                self.skipped.push(Skipped {
                    what: format!("sample {}", sample.id),
                    why: "none of its tiles can be used".to_string(),
                });
            } else {
                kept_rows.push(row);
                kept.push(sample);
            }
        }
        self.samples = kept;
        if let Some(table) = &self.table {
            self.table = Some(table.select_samples(&kept_rows)?);
        }
        self.require_samples()
    }

    fn require_samples(&self) -> Result<()> {
        if !self.samples.is_empty() {
            return Ok(());
        }
        let first = match self.skipped.first() {
            Some(skipped) => format!(
                " ({} skipped, first {}: {})",
                self.skipped.len(),
                skipped.what,
                skipped.why
            ),
            None => String::new(),
        };
        Err(Error::usage(
            format!("no sample is left{first}"),
            "check that images and expression belong together",
        ))
    }
}

/// The entries of a folder, sorted by name, without hidden ones.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = |e| Error::io("list the folder", folder, e);
    let mut paths = std::fs::read_dir(folder)
        .map_err(fail)?
        .map(|entry| entry.map(|e| e.path()).map_err(fail))
        .collect::<Result<Vec<_>>>()?;
    paths.retain(|path| !name(path).starts_with('.'));
    paths.sort();
    Ok(paths)
}

/// The last part of a path, as text.
fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Whether the name of a file says that it is an image this crate reads.
fn names_image(path: &Path) -> bool {
    path.extension().is_some_and(|ext| {
        ["png", "jpg", "jpeg"]
            .iter()
            .any(|known| ext.eq_ignore_ascii_case(known))
    })
}
