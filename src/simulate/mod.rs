//! A small cohort of H&E-like slides with known links from morphology to
//! expression, so that everything after it can be tried and checked on a
//! machine with no data.
//!
//! Four factors vary from slide to slide, each on its own ([`Factor`]); each
//! drives a program of genes, and noise genes follow none. What a model ought
//! to find is therefore known, and so is what it ought not to find. The
//! nuclear-size factor leaves the distribution of colours alone (see
//! `tissue.rs`): a model that only sees colour fails on its program.
//!
//! Written under the output folder:
//!
//! - `tiles/<slide>/<tile>.png`: RGB tiles at roughly 0.5 µm per pixel,
//! - `expression.csv`: samples x genes, counts,
//! - `slides.csv`: `slide,patient`; a few patients have two slides,
//! - `truth.json`: programs, genes, loadings, factors per slide ([`Truth`]).
//!
//! The same seed gives the same bytes, on any number of threads and any
//! platform: every tile has its own random stream.

mod cohort;
mod noise;
mod rng;
mod tissue;

pub use cohort::{Factor, PlantedGene, Program};

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::formats::atomic::write_bytes;
use cohort::{Design, Expression, LEAST_SLIDES};
use rng::Rng;

/// The size of a cohort and its seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulateConfig {
    /// Number of slides, 14 or more.
    pub slides: usize,
    pub tiles_per_slide: usize,
    /// Side of a tile in pixels, 64 to 4096.
    pub tile_px: usize,
    /// Genes that follow no factor.
    pub noise_genes: usize,
    /// Genes that follow each of the four factors.
    pub genes_per_program: usize,
    pub seed: u64,
}

impl Default for SimulateConfig {
    fn default() -> Self {
        Self {
            slides: 64,
            tiles_per_slide: 12,
            tile_px: 224,
            noise_genes: 100,
            genes_per_program: 12,
            seed: 0,
        }
    }
}

impl SimulateConfig {
    fn check(&self) -> Result<()> {
        let limits = [
            ("slides", self.slides, LEAST_SLIDES, 100_000),
            ("tiles_per_slide", self.tiles_per_slide, 1, 100_000),
            ("tile_px", self.tile_px, 64, 4096),
            ("noise_genes", self.noise_genes, 0, 100_000),
            ("genes_per_program", self.genes_per_program, 1, 10_000),
        ];
        for (name, value, low, high) in limits {
            if !(low..=high).contains(&value) {
                return Err(Error::usage(
                    format!("{name} = {value} cannot be simulated"),
                    format!("give {name} from {low} to {high}"),
                ));
            }
        }
        let genes = Factor::ALL.len() * self.genes_per_program + self.noise_genes;
        if self.slides * genes > MOST_COUNTS {
            return Err(Error::usage(
                format!(
                    "{} slides of {genes} genes do not fit in memory",
                    self.slides
                ),
                format!("give sizes with at most {MOST_COUNTS} counts in all"),
            ));
        }
        Ok(())
    }
}

/// Counts are held in memory, 8 bytes each.
const MOST_COUNTS: usize = 100_000_000;

/// What was planted in a cohort: the content of `truth.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// Version of eosin that made the cohort.
    pub version: String,
    pub config: SimulateConfig,
    pub programs: Vec<Program>,
    pub noise_genes: Vec<String>,
    pub slides: Vec<SlideTruth>,
}

/// One slide's patient and factors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlideTruth {
    pub slide: String,
    pub patient: String,
    /// Standardised over the cohort (mean 0, variance 1, mutually uncorrelated),
    /// in the order of [`Factor::ALL`].
    pub factors: [f64; 4],
}

/// Makes a cohort in `out_dir`, which must be empty or absent.
///
/// `progress` gets (tiles written, tiles in all), from any thread's slide.
///
/// # Errors
/// A size that cannot be simulated; a folder that is not empty, with the
/// remedy; or what the file system refuses. Files that are there are whole.
pub fn simulate(
    config: &SimulateConfig,
    out_dir: impl AsRef<Path>,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Truth> {
    config.check()?;
    let out_dir = out_dir.as_ref();
    claim(out_dir)?;

    let design = Design::new(config.slides, config.seed);
    let expression = Expression::new(
        &design,
        config.slides,
        config.genes_per_program,
        config.noise_genes,
        config.seed,
    );
    let slides = slides(config.slides, &design);

    let total = config.slides * config.tiles_per_slide;
    let done = AtomicUsize::new(0);
    slides
        .par_iter()
        .enumerate()
        .try_for_each(|(index, slide)| {
            let folder = out_dir.join("tiles").join(&slide.slide);
            fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
            let tissue = design.tissue(index);
            let digits = digits(config.tiles_per_slide).max(2);
            (0..config.tiles_per_slide)
                .into_par_iter()
                .try_for_each(|tile| {
                    let mut rng = Rng::keyed(config.seed, &[index as u64, tile as u64]);
                    let pixels = tissue::render(&tissue, config.tile_px, &mut rng);
                    let path = folder.join(format!("t{:0digits$}.png", tile + 1));
                    write_bytes(&path, &encode(&pixels, config.tile_px, &path)?)?;
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
                    Ok::<_, Error>(())
                })
        })?;

    let path = out_dir.join("expression.csv");
    let header = std::iter::once("sample")
        .chain(expression.genes())
        .map(str::to_owned);
    let rows = slides
        .iter()
        .zip(&expression.counts)
        .map(|(slide, counts)| {
            std::iter::once(slide.slide.clone())
                .chain(counts.iter().map(u64::to_string))
                .collect()
        });
    write_csv(&path, header.collect(), rows)?;

    let path = out_dir.join("slides.csv");
    let rows = slides
        .iter()
        .map(|s| vec![s.slide.clone(), s.patient.clone()]);
    write_csv(&path, vec!["slide".into(), "patient".into()], rows)?;

    let truth = Truth {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config: config.clone(),
        programs: expression.programs,
        noise_genes: expression.noise_genes,
        slides,
    };
    // Last: its presence says that the cohort is complete.
    let path = out_dir.join("truth.json");
    let mut json =
        serde_json::to_vec_pretty(&truth).map_err(|e| Error::io("write", &path, e.into()))?;
    json.push(b'\n');
    write_bytes(&path, &json)?;
    Ok(truth)
}

/// Creates the folder, or makes sure that it is empty.
fn claim(out_dir: &Path) -> Result<()> {
    fs::create_dir_all(out_dir).map_err(|e| Error::io("create", out_dir, e))?;
    let mut entries = fs::read_dir(out_dir).map_err(|e| Error::io("read", out_dir, e))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Error::usage(
            format!("{} is not empty", out_dir.display()),
            "give a new folder, or empty this one first",
        )),
    }
}

/// Every sixth slide is a second one of the patient before it.
fn slides(count: usize, design: &Design) -> Vec<SlideTruth> {
    let digits = digits(count).max(2);
    let mut patient = 0;
    (0..count)
        .map(|slide| {
            if slide % 6 != 5 {
                patient += 1;
            }
            SlideTruth {
                slide: format!("S{:0digits$}", slide + 1),
                patient: format!("P{patient:0digits$}"),
                factors: design.latents(slide),
            }
        })
        .collect()
}

fn digits(n: usize) -> usize {
    n.to_string().len()
}

/// A PNG of `side` x `side` RGB pixels.
fn encode(pixels: &[u8], side: usize, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(pixels.len());
    // `check` has bounded the side.
    let mut encoder = png::Encoder::new(&mut bytes, side as u32, side as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(pixels))
        .map_err(|e| Error::io("write", path, e.into()))?;
    Ok(bytes)
}

fn write_csv(
    path: &Path,
    header: Vec<String>,
    rows: impl Iterator<Item = Vec<String>>,
) -> Result<()> {
    let failed = |e: csv::Error| Error::io("write", path, e.into());
    let mut writer = csv::Writer::from_writer(Vec::new());
    for record in std::iter::once(header).chain(rows) {
        writer.write_record(&record).map_err(failed)?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|e| Error::io("write", path, e.into_error()))?;
    write_bytes(path, &bytes)
}
