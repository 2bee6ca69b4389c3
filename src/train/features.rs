//! Features of a cohort's tiles, one file per slide, so that an
//! interrupted extraction goes on with the next slide and several runs can
//! share one folder. Images are decoded, and brought to the network's size, on the CPU;
//! the network computes on any device, and on CUDA stains and scales there what it sees
//! ([`for_each_input`]). Since devices round differently, what was made on one is not taken
//! for what another makes, so a run that is resumed is all of one device.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cohort::{Cohort, Colours, TileSpec, UnusedTile, for_each_input};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::atomic::create_dir_all;
use crate::formats::hash::{sha256_bytes, sha256_file};
use crate::formats::{Array, Weights, read_weights, safetensors};
use crate::models::backbone::{Architecture, Backbone, Extract, RESIDUAL_SCALE};
use crate::nn;
use crate::random::Philox;
use crate::slides::stain::Method;
pub use crate::slides::tile::images;
use crate::tensor::Tensor;
use crate::train::config::{FeatureConfig, Precision};
use crate::train::progress::Control;

/// ImageNet's number of classes, which published weights have.
const CLASSES: usize = 1000;

/// Which network made features; printed wherever they are used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncoderSource {
    /// Says in one line where the weights are from.
    pub description: String,
    /// SHA-256 of the weights file.
    pub sha256: String,
    /// Random weights deserve a warning beside every figure.
    pub random: bool,
}

/// A network ready to extract, and where it is from.
pub struct Encoder {
    /// It computes on the device that it was made for.
    pub network: Box<dyn Extract>,
    /// Length of its features.
    pub width: usize,
    pub source: EncoderSource,
}

/// What a recipe says of the device that follows it.
fn on(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "",
        Device::Cuda(_) => " on cuda",
    }
}

/// And of the number format.
fn within(dtype: Precision) -> &'static str {
    match dtype {
        Precision::F32 => "",
        Precision::Bf16 => " in bf16",
    }
}

/// And of the colours.
fn stained(stain: Option<Method>) -> String {
    stain.map_or_else(String::new, |stain| format!(" stain {}", stain.name()))
}

/// Published weights of `config.encoder`; the file's keys must be torchvision's.
pub fn published_encoder(path: &Path, config: &FeatureConfig, device: &Device) -> Result<Encoder> {
    let architecture = config.encoder;
    let weights = architecture.with_present_keys(read_weights(path)?)?;
    let classes = weights
        .get(architecture.head())
        .and_then(|a| a.shape.first().copied())
        .unwrap_or(CLASSES);
    let model = architecture.network(classes, &mut Philox::new(0))?;
    nn::load(&*model, &weights, path)?;
    Ok(Encoder {
        network: model.ready(device, config.dtype.dtype())?,
        width: architecture.features(),
        source: EncoderSource {
            description: format!(
                "{} with the weights of {}",
                architecture.title(),
                path.display()
            ),
            sha256: sha256_file(path)?,
            random: false,
        },
    })
}

/// Seeded random weights whose batch norms are calibrated on tiles of the
/// samples `calibration`, then frozen. Kept in `file`; made if it is not there
/// or was made from other tiles or another seed.
///
/// # Errors
/// No readable tile to calibrate on; the file cannot be written.
pub fn random_encoder(
    seed: u64,
    cohort: &Cohort,
    calibration: &[usize],
    config: &FeatureConfig,
    file: &Path,
    device: &Device,
    control: Control,
) -> Result<Encoder> {
    let tiles = calibration_tiles(cohort, calibration, config.calibration_tiles);
    let mut recipe = format!(
        "{} seed {seed} px {} batch {}{}",
        config.encoder.name(),
        config.tile_px,
        config.batch,
        on(device)
    );
    recipe += &stained(config.stain);
    for &tile in &tiles {
        recipe += &describe_tile(cohort, tile)?;
    }
    let recipe = sha256_bytes(recipe.as_bytes());
    let architecture = config.encoder;
    let mut random = Philox::fork(seed, architecture.name());
    let model = architecture.network(CLASSES, &mut random)?;
    model.soften()?;
    let made = file.exists() && {
        let weights = read_weights(file)?;
        weights.metadata.get("recipe") == Some(&recipe) && nn::load(&*model, &weights, file).is_ok()
    };
    if !made {
        model.to_device(device)?;
        calibrate(&*model, device, cohort, &tiles, config, control)?;
        let slides: HashSet<&str> = calibration
            .iter()
            .map(|&s| cohort.samples[s].slide.as_str())
            .collect();
        let scale = match architecture {
            Architecture::ResNet50 => format!(", residual scale {RESIDUAL_SCALE}"),
            Architecture::DenseNet121 => String::new(),
        };
        let description = format!(
            "{} with random weights (seed {seed}{scale}), batch norm calibrated on {} tiles of {} \
             training slides and frozen; not trained on any image",
            architecture.title(),
            tiles.len(),
            slides.len()
        );
        let mut weights = nn::state_weights(&*model)?;
        weights.metadata.insert("recipe".into(), recipe);
        weights.metadata.insert("description".into(), description);
        safetensors::write(file, &weights)?;
    }
    stored_encoder(file, config, device)
}

/// An encoder that [`random_encoder`] made.
pub fn stored_encoder(file: &Path, config: &FeatureConfig, device: &Device) -> Result<Encoder> {
    let weights = read_weights(file)?;
    let model = config.encoder.network(CLASSES, &mut Philox::new(0))?;
    nn::load(&*model, &weights, file)?;
    let description = weights
        .metadata
        .get("description")
        .cloned()
        .ok_or_else(|| {
            Error::file(
                file,
                "",
                "does not say how it was made",
                "run the training again",
            )
        })?;
    Ok(Encoder {
        network: model.ready(device, config.dtype.dtype())?,
        width: config.encoder.features(),
        source: EncoderSource {
            description,
            sha256: sha256_file(file)?,
            random: true,
        },
    })
}

/// At most `most` of the samples' tiles, evenly spread.
fn calibration_tiles(cohort: &Cohort, samples: &[usize], most: usize) -> Vec<usize> {
    let mut all: Vec<usize> = samples
        .iter()
        .flat_map(|&s| cohort.samples[s].tiles.iter().copied())
        .collect();
    all.sort_unstable();
    all.dedup();
    let n = all.len();
    let take = n.min(most);
    (0..take).map(|i| all[i * n / take]).collect()
}

fn calibrate(
    model: &dyn Backbone,
    device: &Device,
    cohort: &Cohort,
    tiles: &[usize],
    config: &FeatureConfig,
    control: Control,
) -> Result<()> {
    control
        .progress
        .begin("calibrating batch norm", tiles.len());
    let part = only_tiles(cohort, &tiles.iter().copied().collect());
    let mut done = 0;
    let colours = Colours::fit(&only_slides(cohort, &part), config.stain, config.tile_px)?;
    model.reset_statistics()?;
    let spec = TileSpec::imagenet(config.tile_px, config.batch);
    for_each_input(&part, &spec, &colours, device, |x, of| {
        control.check("run the same command with --resume to go on")?;
        model.observe(&x)?;
        done += of.len();
        control.progress.at(done, "");
        Ok(())
    })?;
    control.progress.end();
    if done == 0 {
        return Err(Error::usage(
            "no tile of the training samples can be read",
            "look at one of the images with `eosin inspect`",
        ));
    }
    Ok(())
}

/// The cohort with no other tiles than these.
fn only_tiles(cohort: &Cohort, tiles: &HashSet<usize>) -> Cohort {
    let mut part = cohort.clone();
    part.table = None;
    for sample in &mut part.samples {
        sample.tiles.retain(|t| tiles.contains(t));
    }
    part.samples.retain(|s| !s.tiles.is_empty());
    part
}

/// All samples of the slides that `part` has a tile of.
fn only_slides(cohort: &Cohort, part: &Cohort) -> Cohort {
    let slides: HashSet<&str> = part.samples.iter().map(|s| s.slide.as_str()).collect();
    let mut all = cohort.clone();
    all.table = None;
    all.samples.retain(|s| slides.contains(s.slide.as_str()));
    all
}

/// What a tile's pixels depend on.
fn describe_tile(cohort: &Cohort, tile: usize) -> Result<String> {
    let tile = &cohort.tiles[tile];
    let image = &cohort.images[tile.image];
    Ok(format!(
        "{} {:?} {};",
        image.sha256()?,
        tile.centre,
        tile.size_px
    ))
}

/// Features by tile.
pub struct Features {
    /// (tiles of the cohort, width), zeros for tiles that no sample uses.
    pub values: Vec<f32>,
    pub width: usize,
}

impl Features {
    /// Rows of these tiles, in this order: (tiles, width).
    pub fn rows(&self, tiles: &[usize]) -> Result<Tensor> {
        let mut rows = Vec::with_capacity(tiles.len() * self.width);
        for &t in tiles {
            rows.extend_from_slice(&self.values[t * self.width..(t + 1) * self.width]);
        }
        Tensor::from_slice(&rows, &[tiles.len(), self.width])
    }
}

/// What a slide's file says of the tiles that could not be used.
#[derive(Serialize, Deserialize)]
struct Unused {
    tile: usize,
    what: String,
    why: String,
}

/// Extracts the features of every tile that a sample uses into `folder`, one
/// file per slide; files that are there and match are read instead. Tiles that
/// cannot be used are taken out of the cohort and listed in its `skipped`.
///
/// # Errors
/// An image that cannot be opened at all, a folder that cannot be written, a
/// stop request (what is done stays).
pub fn extract(
    cohort: &mut Cohort,
    encoder: &Encoder,
    config: &FeatureConfig,
    folder: &Path,
    control: Control,
) -> Result<Features> {
    create_dir_all(folder)?;
    let width = encoder.width;
    let mut values = vec![0.0; cohort.tiles.len() * width];
    let mut slides: Vec<&str> = Vec::new();
    for sample in &cohort.samples {
        if !slides.contains(&sample.slide.as_str()) {
            slides.push(&sample.slide);
        }
    }
    let used: HashSet<usize> = cohort
        .samples
        .iter()
        .flat_map(|s| s.tiles.clone())
        .collect();
    control.progress.begin("extracting features", used.len());
    let mut done = 0;
    let mut unused = Vec::new();
    for slide in slides {
        let mut part = cohort.clone();
        part.table = None;
        part.samples.retain(|s| s.slide == slide);
        let path = slide_file(folder, slide);
        let before = done;
        let mut progress = |n: usize| {
            done += n;
            control.progress.at(done, slide);
            control.check("finished slides are kept; run the same command with --resume to go on")
        };
        let stored = slide_features(&part, encoder, config, &path, &mut progress)?;
        let (rows, tiles, bad) = stored;
        for (row, &t) in rows.chunks_exact(width).zip(&tiles) {
            if let Some(slot) = values.get_mut(t * width..(t + 1) * width) {
                slot.copy_from_slice(row);
            }
        }
        done = before + tiles.len() + bad.len();
        control.progress.at(done, slide);
        unused.extend(bad);
    }
    control.progress.end();
    cohort.drop_tiles(&unused)?;
    Ok(Features { values, width })
}

/// Slide names come from folders, so they are file names already.
fn slide_file(folder: &Path, slide: &str) -> PathBuf {
    folder.join(format!("{slide}.safetensors"))
}

type SlideFeatures = (Vec<f32>, Vec<usize>, Vec<UnusedTile>);

fn slide_features(
    part: &Cohort,
    encoder: &Encoder,
    config: &FeatureConfig,
    path: &Path,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<SlideFeatures> {
    let device = encoder.network.device();
    let (sha256, px) = (&encoder.source.sha256, config.tile_px);
    let mut recipe = format!("{sha256} px {px}{}{}", on(&device), within(config.dtype));
    recipe += &stained(config.stain);
    let mut images_seen: HashSet<usize> = HashSet::new();
    for sample in &part.samples {
        for &t in &sample.tiles {
            let tile = &part.tiles[t];
            if images_seen.insert(tile.image) {
                recipe += &part.images[tile.image].sha256()?;
            }
            recipe += &format!("{t} {} {:?} {};", tile.image, tile.centre, tile.size_px);
        }
    }
    let recipe = sha256_bytes(recipe.as_bytes());
    if path.exists() {
        let stored = read_weights(path)?;
        if stored.metadata.get("recipe") == Some(&recipe) {
            return stored_features(path, &stored, encoder.width);
        }
    }

    let (mut rows, mut tiles) = (Vec::new(), Vec::new());
    let spec = TileSpec::imagenet(config.tile_px, config.batch);
    let colours = Colours::fit(part, config.stain, px)?;
    let unused = for_each_input(part, &spec, &colours, &device, |x, of| {
        rows.extend(encoder.network.features(&x)?.to_f32_vec()?);
        tiles.extend_from_slice(of);
        progress(of.len())
    })?;
    let width = encoder.width;
    let mut file = Weights::new();
    file.insert("features", Array::from_f32(&[tiles.len(), width], &rows)?)?;
    let index: Vec<i64> = tiles.iter().map(|&t| t as i64).collect();
    file.insert("tiles", Array::from_i64(&[tiles.len()], &index)?)?;
    // x and y of the top-left corner in pixels of the image, as CLAM has them.
    let corners: Vec<i64> = (tiles.iter().map(|&t| &part.tiles[t]))
        .flat_map(|t| match t.centre {
            Some((x, y)) => {
                let half = (t.size_px / 2) as i64;
                [x.floor() as i64 - half, y.floor() as i64 - half]
            }
            None => [0, 0],
        })
        .collect();
    file.insert("coords", Array::from_i64(&[tiles.len(), 2], &corners)?)?;
    let listed: Vec<Unused> = (unused.iter())
        .map(|u| Unused {
            tile: u.tile,
            what: u.what.clone(),
            why: u.why.clone(),
        })
        .collect();
    let listed = serde_json::to_string(&listed)
        .map_err(|e| Error::usage(format!("tiles cannot be listed: {e}"), "report this"))?;
    if config.stain.is_some() {
        let stains = serde_json::to_string(&colours.stains)
            .map_err(|e| Error::usage(format!("stains cannot be kept: {e}"), "report this"))?;
        file.metadata.insert("stains".into(), stains);
    }
    file.metadata.insert("unused".into(), listed);
    file.metadata.insert("recipe".into(), recipe);
    file.metadata
        .insert("encoder".into(), encoder.source.description.clone());
    safetensors::write(path, &file)?;
    Ok((rows, tiles, unused))
}

fn stored_features(path: &Path, file: &Weights, width: usize) -> Result<SlideFeatures> {
    let broken = || {
        Error::file(
            path,
            "",
            "is not a file of features",
            "remove it; the slide is extracted again",
        )
    };
    let (Some(features), Some(tiles)) = (file.get("features"), file.get("tiles")) else {
        return Err(broken());
    };
    let listed = file.metadata.get("unused").ok_or_else(broken)?;
    let listed: Vec<Unused> = serde_json::from_str(listed).map_err(|_| broken())?;
    let tiles: Vec<usize> = tiles.to_i64()?.into_iter().map(|t| t as usize).collect();
    if features.shape != [tiles.len(), width] {
        return Err(broken());
    }
    let unused = listed
        .into_iter()
        .map(|u| UnusedTile {
            tile: u.tile,
            what: u.what,
            why: u.why,
        })
        .collect();
    Ok((features.to_f32()?, tiles, unused))
}
