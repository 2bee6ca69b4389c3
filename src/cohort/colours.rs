//! The colours of a cohort's slides, each turned into those of the reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::extract::cut_tiles;
use super::{Cohort, Sample};
use crate::error::Result;
use crate::slides::stain::{Method, Normaliser, STAIN_TILES, Stains};
use crate::slides::{Rgb8, tile};

/// What is done to the tiles of each image; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Colours {
    /// By image of the cohort.
    of: Vec<Option<Arc<Normaliser>>>,
    /// What each slide's colours are made of; `None` where they could not be fitted,
    /// and the slide is left as it is.
    pub stains: BTreeMap<String, Option<Stains>>,
}

impl Colours {
    /// Fits every slide on up to [`STAIN_TILES`] of its tiles at `px` pixels a side.
    ///
    /// # Errors
    /// A sample or a tile that names what is not there.
    pub fn fit(cohort: &Cohort, method: Option<Method>, px: usize) -> Result<Self> {
        let mut colours = Self::default();
        let Some(method) = method else {
            return Ok(colours);
        };
        colours.of = vec![None; cohort.images.len()];
        let mut slides: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for sample in &cohort.samples {
            slides
                .entry(&sample.slide)
                .or_default()
                .extend(&sample.tiles);
        }
        for (slide, mut tiles) in slides {
            tiles.sort_unstable();
            tiles.dedup();
            let take = tiles.len().min(STAIN_TILES);
            let chosen: Vec<usize> = (0..take).map(|i| tiles[i * tiles.len() / take]).collect();
            let stains = Stains::fit(method, &pixels(cohort, slide, &chosen, px)?);
            let normaliser = (stains.as_ref())
                .and_then(|from| Normaliser::new(from, &Stains::reference(method)))
                .map(Arc::new);
            for &t in &tiles {
                colours.of[cohort.tiles[t].image].clone_from(&normaliser);
            }
            colours.stains.insert(slide.to_owned(), stains);
        }
        Ok(colours)
    }

    /// What is done to the tiles of an image.
    pub fn of(&self, image: usize) -> Option<&Arc<Normaliser>> {
        self.of.get(image)?.as_ref()
    }

    /// Slides whose colours could not be fitted.
    pub fn unfitted(&self) -> impl Iterator<Item = &str> {
        let unfitted = self.stains.iter().filter(|(_, stains)| stains.is_none());
        unfitted.map(|(slide, _)| slide.as_str())
    }
}

/// The pixels of some tiles of a slide.
fn pixels(cohort: &Cohort, slide: &str, tiles: &[usize], px: usize) -> Result<Vec<u8>> {
    let part = Cohort {
        samples: vec![Sample {
            id: slide.to_owned(),
            slide: slide.to_owned(),
            patient: String::new(),
            tiles: tiles.to_vec(),
        }],
        tiles: cohort.tiles.clone(),
        images: cohort.images.clone(),
        table: None,
        skipped: Vec::new(),
    };
    let (cut, _) = cut_tiles(&part)?;
    let small = |tile: Rgb8| tile::resize(&tile, px, px);
    let cut = cut.into_iter().flatten().map(small);
    Ok(cut
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flat_map(|t| t.data)
        .collect())
}
