//! Tiles with the classes of their slides.

use std::collections::BTreeSet;
use std::path::Path;

use crate::cohort::classes::class_of;
use crate::cohort::store::TileStore;
use crate::cohort::tiles::read_of_slides;
use crate::cohort::{Cohort, Sample};
use crate::error::{Error, Result};
use crate::formats::hash::sha256_bytes;
use crate::random::Philox;
use crate::slides::augment::Augment;
use crate::slides::tile::{IMAGENET_MEAN, IMAGENET_STD};
use crate::tensor::Tensor;
use crate::train::config::{DataConfig, Layout};
use crate::train::features::images;
use crate::train::progress::Control;

/// A cohort's tiles, decoded once and read at random.
pub struct Tiles {
    pub cohort: Cohort,
    store: TileStore,
    /// Tiles that samples use, with the sample.
    pub items: Vec<(usize, usize)>,
}

impl Tiles {
    /// Tiles of the folder at `px` a side, kept in `file`.
    ///
    /// # Errors
    /// As [`DataConfig::read`] and [`TileStore::of`].
    pub fn read(data: &DataConfig, px: usize, file: &Path, control: Control) -> Result<Self> {
        let mut cohort = data.read(false)?;
        let progress = control.progress;
        progress.begin("collecting tiles", cohort.tiles.len());
        let store = TileStore::of(&mut cohort, px, file, &mut |done| {
            progress.at(done, "");
            control.check("run the same command with --resume to go on")
        })?;
        progress.end();
        let of = |(s, sample): (usize, &Sample)| -> Vec<(usize, usize)> {
            sample.tiles.iter().map(|&tile| (tile, s)).collect()
        };
        let items = cohort.samples.iter().enumerate().flat_map(of).collect();
        Ok(Self {
            cohort,
            store,
            items,
        })
    }

    /// Numbers among [`Self::items`] of the tiles of these samples.
    pub fn of_samples(&self, samples: &[usize]) -> Vec<usize> {
        let samples: BTreeSet<usize> = samples.iter().copied().collect();
        (0..self.items.len())
            .filter(|&i| samples.contains(&self.items[i].1))
            .collect()
    }

    /// Pixels (items, px, px, 3) in [0, 1].
    ///
    /// # Errors
    /// A file that changed.
    pub fn pixels(&self, items: &[usize], augment: Augment, random: Philox) -> Result<Vec<f32>> {
        let tiles: Vec<usize> = items.iter().map(|&i| self.items[i].0).collect();
        let mut values = self.store.read(&tiles, augment, random)?;
        values.iter_mut().for_each(|v| *v = 0.5 * (*v + 1.0));
        Ok(values)
    }

    /// What the pixels of the items depend on.
    pub fn fingerprint(&self) -> String {
        let of = |&(tile, sample): &(usize, usize)| {
            let tile = &self.cohort.tiles[tile];
            let path = self.cohort.images[tile.image].describe();
            let id = &self.cohort.samples[sample].id;
            format!("{id} {path} {:?} {}\n", tile.centre, tile.size_px)
        };
        let text: String = self.items.iter().map(of).collect();
        sha256_bytes(text.as_bytes())
    }

    pub fn skipped(&self) -> Vec<String> {
        let line = |s: &crate::cohort::Skipped| format!("{}: {}", s.what, s.why);
        self.cohort.skipped.iter().map(line).collect()
    }
}

/// Pixels (n, px, px, 3) in [0, 1] as ResNets take them.
///
/// # Errors
/// More than memory holds.
pub fn normalised(mut pixels: Vec<f32>, n: usize, px: usize) -> Result<Tensor> {
    for pixel in pixels.chunks_exact_mut(3) {
        for c in 0..3 {
            pixel[c] = (pixel[c] - IMAGENET_MEAN[c]) / IMAGENET_STD[c];
        }
    }
    images(&pixels, n, px)
}

/// The class of each sample of the cohort, by name.
///
/// # Errors
/// A layout that says no classes and no table, or both; a slide that the table lacks.
pub fn classes(cohort: &Cohort, layout: Layout, table: Option<&Path>) -> Result<Vec<String>> {
    if layout == Layout::Classes {
        return Ok((cohort.samples.iter())
            .map(|s| class_of(&s.id).to_owned())
            .collect());
    }
    let path = table.ok_or_else(|| {
        Error::usage(
            "nothing says which slide is of which class",
            "set classes to a CSV with columns slide and class, or layout = \"classes\"",
        )
    })?;
    let of = read_of_slides(path, "class")?;
    let class = |s: &Sample| {
        of.get(&s.slide).cloned().ok_or_else(|| {
            let problem = format!("does not say which class slide {} is of", s.slide);
            Error::file(path, "", problem, "add a line for it")
        })
    };
    cohort.samples.iter().map(class).collect()
}
