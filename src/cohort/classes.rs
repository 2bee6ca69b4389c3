//! A folder of tile images per class.
//!
//! ```text
//! <root>/<class>/<slide>/*.png *.jpg *.jpeg    tiles of a slide
//! <root>/<class>/*.png *.jpg *.jpeg            tiles of no named slide, such as generated ones
//! ```
//!
//! Samples are slides, `<class>/<slide>`; a tile right in the folder of its class counts as a
//! slide of its own, `<class>/<file>`, since nothing says which others it belongs with. As in
//! [`super::tiles`], what is no image or not square is skipped and named.

use std::path::{Path, PathBuf};

use super::{Cohort, Sample, entries, name};
use crate::error::{Error, Result};

/// Reads the folder `root`. A slide's patient is the slide itself.
///
/// # Errors
/// A folder that cannot be read, or has no class; no sample left.
pub fn read(root: impl AsRef<Path>) -> Result<Cohort> {
    let root = root.as_ref();
    if !root.is_dir() {
        return Err(Error::file(
            root,
            "",
            "is not a folder",
            "give a folder that holds a folder of tiles for each class",
        ));
    }
    let classes: Vec<PathBuf> = entries(root)?.into_iter().filter(|p| p.is_dir()).collect();
    if classes.is_empty() {
        return Err(Error::file(
            root,
            "",
            "holds no folder of a class",
            "put tiles into <root>/<class>/ or <root>/<class>/<slide>/",
        ));
    }
    let mut cohort = Cohort {
        samples: Vec::new(),
        tiles: Vec::new(),
        images: Vec::new(),
        table: None,
        skipped: Vec::new(),
    };
    for folder in &classes {
        let class = name(folder);
        let slides = entries(folder)?.into_iter().filter(|p| p.is_dir());
        for slide in slides {
            let id = format!("{class}/{}", name(&slide));
            let tiles = cohort.add_tiles(&id, &slide)?;
            cohort.add_slide(id, tiles);
        }
        for tile in cohort.add_tiles(&class, folder)? {
            let file = name(&cohort.images[cohort.tiles[tile].image].path);
            cohort.add_slide(format!("{class}/{file}"), vec![tile]);
        }
    }
    cohort.require_samples()?;
    Ok(cohort)
}

impl Cohort {
    fn add_slide(&mut self, id: String, tiles: Vec<usize>) {
        if tiles.is_empty() {
            self.skip(format!("slide {id}"), "it has no usable tile");
            return;
        }
        self.samples.push(Sample {
            slide: id.clone(),
            patient: id.clone(),
            id,
            tiles,
        });
    }
}

/// The class that [`read`] found a sample in.
pub fn class_of(id: &str) -> &str {
    id.split_once('/').map_or(id, |(class, _)| class)
}
