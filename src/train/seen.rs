//! What a run's networks were shown: tiles of which scale, in which colours.
//!
//! A training writes it into the run's folder (`tiles.json`) and into every file of
//! weights. Whoever predicts with them holds the tiles against it: the same tissue at
//! another scale is another picture to a network, and so is another stain.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cohort::Cohort;
use crate::error::{Error, Result};
use crate::formats::Weights;
use crate::formats::atomic::write_bytes;
use crate::slides::icc::Colours;
use crate::slides::stain::Method;
use crate::train::progress::Control;
use crate::train::run::json;

/// Scales this close to each other are one: spots and scanners measure theirs.
pub const SAME_SCALE: f64 = 0.05;

/// Tiles as a network sees them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Side of a tile in pixels.
    pub tile_px: usize,
    /// Side of a tile in pixels of the images that it was cut from, the median. Where
    /// it is below `tile_px`, tiles were enlarged.
    pub cut_px: usize,
    /// Micrometres per pixel, the median over tiles; `None` where an image does not
    /// state its own.
    #[serde(default)]
    pub mpp: Option<f64>,
    /// The finest and the coarsest.
    #[serde(default)]
    pub mpp_range: Option<[f64; 2]>,
    /// How colours were normalised, slide by slide.
    #[serde(default)]
    pub stain: Option<Method>,
    /// Whether images were read in sRGB, by their ICC profiles.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub icc: bool,
    /// Images without a profile, which were taken as they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unprofiled: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// The file's name in a run, and the key among what a file of weights says of itself.
const FILE: &str = "tiles.json";
const KEY: &str = "tiles";

impl Seen {
    /// What a network sees of the tiles that samples of the cohort use.
    pub fn of(cohort: &Cohort, tile_px: usize, stain: Option<Method>) -> Self {
        let used = cohort.samples.iter().flat_map(|s| &s.tiles);
        let used = used.filter_map(|&t| cohort.tiles.get(t));
        let used: Vec<_> = used.collect();
        let mut sides: Vec<usize> = used.iter().map(|t| t.size_px).collect();
        sides.sort_unstable();
        let scale = |t: &&crate::cohort::TileRef| {
            let of_image = cohort.images.get(t.image)?.mpp?;
            Some(of_image * t.size_px as f64 / tile_px.max(1) as f64)
        };
        let images: BTreeSet<usize> = used.iter().map(|t| t.image).collect();
        let colours: Vec<_> = (images.iter())
            .filter_map(|&i| Some(&cohort.images.get(i)?.colours))
            .collect();
        let scales: Option<Vec<f64>> = used.iter().map(scale).collect();
        let mut scales = scales.unwrap_or_default();
        scales.sort_unstable_by(f64::total_cmp);
        Self {
            tile_px,
            cut_px: sides.get(sides.len() / 2).copied().unwrap_or(tile_px),
            mpp: scales.get(scales.len() / 2).copied(),
            mpp_range: Some([scales.first(), scales.last()])
                .and_then(|[low, high]| Some([*low?, *high?])),
            stain,
            icc: colours.iter().any(|&c| *c != Colours::AsStored),
            unprofiled: (colours.iter().filter(|&&c| *c == Colours::Unprofiled)).count(),
        }
    }

    /// What a person should hear of tiles that differ among themselves.
    pub fn uneven(&self) -> Option<String> {
        let [low, high] = self.mpp_range?;
        (high > low * (1.0 + SAME_SCALE)).then(|| {
            format!(
                "the tiles are not of one scale: {low:.3} to {high:.3} µm per pixel as the network \
                 sees them; cut them by a length (data.spot_um), or from slides at one scale"
            )
        })
    }

    /// What a training does with it: says where tiles differ, and keeps it in the run's
    /// folder.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn begin(&self, run: &Path, control: Control) -> Result<()> {
        if let Some(note) = self.uneven() {
            control.progress.note(&note);
        }
        if self.unprofiled > 0 {
            let note = format!(
                "{} images have no ICC profile and are taken as they are",
                self.unprofiled
            );
            control.progress.note(&note);
        }
        self.write(run)
    }

    /// Puts it into a run's folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        write_bytes(run.join(FILE), json(self)?.as_bytes())
    }

    /// Of a run's folder; `None` for a run of before this was kept.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let path = run.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| {
                Error::file(
                    &path,
                    "",
                    format!("does not say which tiles the run was trained on ({e})"),
                    "take the file as the training wrote it",
                )
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    /// Of a file of weights, if it says.
    pub fn of_weights(weights: &Weights) -> Option<Self> {
        serde_json::from_str(weights.metadata.get(KEY)?).ok()
    }

    /// What a file of weights says of it: a key, and a value.
    ///
    /// # Errors
    /// None in practice.
    pub fn metadata(&self) -> Result<(String, String)> {
        Ok((KEY.to_owned(), json(self)?))
    }

    /// That a network which saw this may be shown tiles of the scale `other`, of
    /// `what`. `any` is the user's word that it may whatever the scale. Gives what is to
    /// be said where a scale is not known.
    ///
    /// # Errors
    /// Another scale, or one that is not stated although the network's is.
    pub fn admit(&self, what: &str, other: Option<f64>, any: bool) -> Result<Option<String>> {
        match (self.mpp, other) {
            (None, _) => Ok(Some(format!(
                "the run does not say at which scale it was trained, so that of {what} is not checked"
            ))),
            (Some(own), Some(other)) if (other / own - 1.0).abs() <= SAME_SCALE => Ok(None),
            (Some(own), Some(other)) if any => Ok(Some(format!(
                "{what}: {other:.3} µm per pixel, and the run was trained at {own:.3}; as --any-mpp asks"
            ))),
            (Some(own), Some(other)) => Err(Error::usage(
                format!(
                    "{what}: {other:.3} µm per pixel as the network sees them, and the run was trained \
                     at {own:.3}"
                ),
                "give tiles of that scale, or --any-mpp if it is meant",
            )),
            (Some(own), None) if any => Ok(Some(format!(
                "{what}: scale not known, and the run was trained at {own:.3} µm per pixel; as \
                 --any-mpp asks"
            ))),
            (Some(own), None) => Err(Error::usage(
                format!(
                    "{what}: scale not known, and the run was trained at {own:.3} µm per pixel as the \
                     network sees them"
                ),
                "state the micrometres per pixel of the images (--mpp, or --um-per-px for a section), or \
                 give --any-mpp",
            )),
        }
    }

    /// That profiles are applied as in training.
    ///
    /// # Errors
    /// They are to be applied, and the networks were trained without.
    pub fn icc_of(own: Option<&Self>, asked: bool) -> Result<bool> {
        match own {
            Some(own) if asked && !own.icc => Err(Error::usage(
                "--icc, and the network was trained on images as they are stored",
                "leave out --icc: tiles are read as in training",
            )),
            Some(own) => Ok(own.icc),
            None => Ok(asked),
        }
    }

    /// That colours are normalised as in training.
    ///
    /// # Errors
    /// Another method is asked for than the networks were trained with.
    pub fn stain_of(own: Option<&Self>, asked: Option<Method>) -> Result<Option<Method>> {
        let name = |stain: Option<Method>| stain.map_or("none", Method::name);
        match (own, asked) {
            (Some(own), Some(asked)) if own.stain != Some(asked) => Err(Error::usage(
                format!(
                    "--stain {}, and the network was trained with {}",
                    asked.name(),
                    name(own.stain)
                ),
                "leave out --stain: tiles are normalised as in training",
            )),
            (Some(own), _) => Ok(own.stain),
            (None, asked) => Ok(asked),
        }
    }
}
