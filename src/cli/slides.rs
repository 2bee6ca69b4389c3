//! `eosin features --wsi-dir`: from a folder of slides to files of features.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{FeaturesArgs, StainChoice, console};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::jobs::features::{Layouts, TilesAlone};
use crate::jobs::folder::Shard;
use crate::jobs::{self, Config, Summary};
use crate::models::backbone::Architecture;
use crate::slides::stain::Method;
use crate::slides::tissue::grid::GridRule;
use crate::slides::tissue::quality::QualityRule;
use crate::slides::tissue::{Measure, TissueRule};
use crate::train::config::{FeatureConfig, Precision};
use crate::train::features::published_encoder;
use crate::train::progress::Control;

/// Which tiles of a folder of slides, and how they are read.
#[derive(Args)]
pub struct TileArgs {
    /// CSV with the columns wsi and mpp: these slides only, and their scale where it is given
    #[arg(long, requires = "wsi_dir", value_name = "CSV")]
    list: Option<PathBuf>,
    /// Micrometres per pixel of slides that --list does not give one for, whatever they say
    #[arg(long, requires = "wsi_dir", value_name = "MPP")]
    slide_mpp: Option<f64>,
    /// Pixels that neighbouring tiles share
    #[arg(long, requires = "wsi_dir", default_value_t = 0)]
    overlap: usize,
    /// Folder with a list of spots for each slide (<slide>.tsv or .csv: barcode, pixel_x, pixel_y),
    /// whose tiles are taken in place of a grid
    #[arg(long, requires = "wsi_dir", value_name = "DIR", conflicts_with_all = ["overlap", "random_tiles", "max_tiles"])]
    spots_dir: Option<PathBuf>,
    /// So many tiles at random places of the tissue, by --seed, in place of a grid
    #[arg(long, requires = "wsi_dir", value_name = "N", conflicts_with_all = ["overlap", "max_tiles"])]
    random_tiles: Option<usize>,
    /// What parts tissue from glass
    #[arg(
        long,
        requires = "wsi_dir",
        value_enum,
        default_value = "optical-density"
    )]
    tissue: MeasureChoice,
    /// Least share of tissue in a tile
    #[arg(
        long,
        requires = "wsi_dir",
        default_value_t = 0.4,
        value_name = "SHARE"
    )]
    min_tissue: f64,
    /// Leave out what has the colours of pens
    #[arg(long, requires = "wsi_dir")]
    remove_penmarks: bool,
    /// At most so many tiles of a slide, chosen at random by --seed
    #[arg(long, requires = "wsi_dir", value_name = "N")]
    max_tiles: Option<usize>,
    /// Leave out tiles whose grey values span a smaller share of the range
    #[arg(
        long,
        requires = "wsi_dir",
        default_value_t = 0.05,
        value_name = "SHARE"
    )]
    min_contrast: f64,
    /// Leave out tiles the variance of whose Laplacian is smaller: those out of focus
    #[arg(
        long,
        requires = "wsi_dir",
        default_value_t = 0.0,
        value_name = "VARIANCE"
    )]
    min_sharpness: f64,
    /// Memory that the process may take, such as 4G
    #[arg(long, requires = "wsi_dir", default_value = "4G", value_parser = bytes)]
    memory: u64,
    /// Tiles computed at once
    #[arg(long, requires = "wsi_dir", default_value_t = 32, value_name = "N")]
    batch: usize,
}

impl TileArgs {
    /// A job with these tiles; folders, network and scale are the caller's to fill in.
    ///
    /// # Errors
    /// Batches that hold nothing.
    pub fn config(&self, seed: u64) -> Result<Config> {
        if self.batch == 0 {
            return Err(Error::usage(
                "batches of 0 tiles hold nothing",
                "give --batch 32",
            ));
        }
        Ok(Config {
            wsi_dir: PathBuf::new(),
            job_dir: PathBuf::new(),
            list: self.list.clone(),
            slide_mpp: self.slide_mpp,
            shard: None,
            memory: self.memory,
            encoder: String::new(),
            dtype: Precision::F32,
            mpp: f64::NAN,
            patch_px: 0,
            network_px: None,
            spots: self.spots_dir.clone(),
            batch: self.batch,
            tissue: TissueRule {
                measure: match self.tissue {
                    MeasureChoice::Saturation => Measure::Saturation,
                    MeasureChoice::Grey => Measure::Grey,
                    MeasureChoice::OpticalDensity => Measure::OpticalDensity,
                },
                remove_pen: self.remove_penmarks,
                ..TissueRule::default()
            },
            grid: GridRule {
                overlap: self.overlap,
                min_tissue: self.min_tissue,
                random: self.random_tiles,
                max_tiles: self.max_tiles,
                seed,
            },
            quality: QualityRule {
                min_contrast: self.min_contrast,
                min_sharpness: self.min_sharpness,
            },
            stain: None,
            icc: false,
            outputs: Layouts {
                trident: true,
                clam: true,
                lmdb: false,
            },
        })
    }
}

#[derive(Args)]
#[command(next_help_heading = "Slides")]
pub struct SlidesArgs {
    /// Folder of slides: SVS, TIFF, OME-TIFF, JPEG, PNG; others through OpenSlide
    #[arg(long, conflicts_with_all = ["data", "layout", "out"], requires = "job_dir")]
    pub wsi_dir: Option<PathBuf>,
    /// Folder of the job; any number of processes may share it, and go on with it
    #[arg(long, requires = "wsi_dir")]
    job_dir: Option<PathBuf>,
    /// Micrometres per pixel of the tiles
    #[arg(long, requires = "wsi_dir", required_unless_present_any = ["mag", "data"])]
    mpp: Option<f64>,
    /// The same as a magnification: 10 / mpp
    #[arg(long, requires = "wsi_dir", conflicts_with = "mpp")]
    mag: Option<f64>,
    #[command(flatten)]
    tiles: TileArgs,
    /// Normalise colours, fitted per slide
    #[arg(long, value_enum)]
    stain: Option<StainChoice>,
    /// Read in the colours of sRGB, by the ICC profiles of slides or images; those without one as
    /// they are
    #[arg(long)]
    pub icc: bool,
    /// Only part i of n of the slides, counted from 0
    #[arg(long, requires = "wsi_dir", value_name = "I/N")]
    shard: Option<Shard>,
    /// Layouts of the files: trident (h5), clam (h5 and pt), lmdb (the tiles themselves, as RNA-GAN
    /// reads them; alone, it needs no weights)
    #[arg(long, requires = "wsi_dir", value_enum, value_delimiter = ',', default_values = ["trident", "clam"])]
    outputs: Vec<OutputChoice>,
}

#[derive(Clone, Copy, ValueEnum)]
enum MeasureChoice {
    /// Amount of stain
    OpticalDensity,
    /// Colour; not where glass is tinted
    Saturation,
    /// Darkness
    Grey,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputChoice {
    Trident,
    Clam,
    Lmdb,
}

impl SlidesArgs {
    pub fn stain(&self) -> Option<Method> {
        self.stain.map(Method::from)
    }
}

/// 4G, 512M or a number of bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.trim().to_ascii_uppercase().as_bytes() {
        [number @ .., b'G'] => (String::from_utf8_lossy(number).into_owned(), 1u64 << 30),
        [number @ .., b'M'] => (String::from_utf8_lossy(number).into_owned(), 1 << 20),
        number => (String::from_utf8_lossy(number).into_owned(), 1),
    };
    let number: Option<u64> = number.parse().ok();
    (number.and_then(|n| n.checked_mul(unit)))
        .ok_or_else(|| "memory is a whole number with G or M, such as 4G".into())
}

pub fn features(
    args: &FeaturesArgs,
    dtype: Precision,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let slides = &args.slides;
    let (Some(wsi_dir), Some(job_dir)) = (&slides.wsi_dir, &slides.job_dir) else {
        return Err(Error::usage(
            "no slides were given",
            "give --wsi-dir and --job-dir",
        ));
    };
    let mpp = match (slides.mpp, slides.mag) {
        (Some(mpp), _) => mpp,
        (None, Some(mag)) => {
            let mpp = 10.0 / mag;
            control
                .progress
                .note(&format!("{mag}x is taken as {mpp} µm per pixel"));
            mpp
        }
        (None, None) => {
            return Err(Error::usage(
                "no scale was given",
                "give --mpp, such as 0.5",
            ));
        }
    };
    let tiles_alone = slides.outputs.iter().all(|o| *o == OutputChoice::Lmdb);
    if args.weights.is_none() && !tiles_alone {
        return Err(Error::usage(
            "features of slides need weights",
            "give --weights, a .pth, .pt or .safetensors file with torchvision's keys",
        ));
    }
    let architecture = Architecture::from(args.encoder);
    let config = Config {
        wsi_dir: wsi_dir.clone(),
        job_dir: job_dir.clone(),
        shard: slides.shard,
        encoder: architecture.name().into(),
        dtype,
        mpp,
        patch_px: args.tile_px,
        stain: slides.stain(),
        icc: slides.icc,
        outputs: Layouts {
            trident: slides.outputs.contains(&OutputChoice::Trident),
            clam: slides.outputs.contains(&OutputChoice::Clam),
            lmdb: slides.outputs.contains(&OutputChoice::Lmdb),
        },
        ..slides.tiles.config(args.seed)?
    };
    let network = FeatureConfig {
        encoder: architecture,
        dtype,
        tile_px: config.patch_px,
        batch: config.batch,
        ..FeatureConfig::default()
    };
    let summary = match &args.weights {
        Some(weights) if !tiles_alone => {
            let encoder = published_encoder(weights, &network, device)?;
            let source = &encoder.source.description;
            control.progress.note(&format!("features: {source}"));
            jobs::run(&config, &encoder, control)?
        }
        _ => jobs::run(&config, &TilesAlone::default(), control)?,
    };
    console::print(json, &summary, &text(&summary))?;
    incomplete(&summary, "features")
}

/// That slides were left out, if some were.
pub fn incomplete(summary: &Summary, what: &str) -> Result<()> {
    match summary.failed.len() {
        0 => Ok(()),
        n => Err(Error::Incomplete(format!(
            "{n} of {} slides have no {what}, as listed; the others are done",
            summary.slides
        ))),
    }
}

fn text(summary: &Summary) -> String {
    let mut lines = vec![
        format!(
            "{}: {} slides, {} tiles, {} tiles left out; {}",
            summary.folder, summary.slides, summary.tiles, summary.unused_tiles, summary.encoder
        ),
        format!(
            "here: {} slides, {:.1} tiles/s; reading {:.0} %, computing {:.0} %, waiting for tiles {:.0} % of the time",
            summary.done_here,
            summary.tiles_per_second,
            100.0 * summary.reading,
            100.0 * summary.computing,
            100.0 * summary.waiting
        ),
    ];
    for (what, list) in [
        ("no tissue", &summary.empty),
        ("stain not fitted", &summary.unstained),
        ("no ICC profile", &summary.unprofiled),
        ("left out", &summary.failed),
    ] {
        lines.extend(list.iter().map(|slide| format!("{what}: {slide}")));
    }
    lines.join("\n")
}
