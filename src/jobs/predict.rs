//! Expression of a folder of slides by a finished run: one row a slide, and where on
//! the slide it is predicted.
//!
//! The tiles' features come from a job ([`super::features`]) in the folder's `job`, so
//! that they are resumed, shared and survive bad slides as there. Then each slide is
//! predicted from its own, claimed like them, and left in a file of its own. Tables are
//! made of those files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::claim::claim;
use super::features::{Config, Status, Summary, TileNetwork};
use super::folder::Entry;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::expression::Table;
use crate::formats::atomic::{create_dir_all, write_bytes};
use crate::formats::h5ad::{self, AnnData, Column};
use crate::formats::hash::{sha256_bytes, sha256_file};
use crate::formats::{Array, Weights, hdf5, read_weights, safetensors};
use crate::report::{Panel, TissueMap};
use crate::slides::overview::thumbnail;
use crate::slides::stain::Method;
use crate::slides::{self as wsi, image};
use crate::tensor::Tensor;
use crate::train::config::{Precision, RunFile, TrnasformerConfig};
use crate::train::features::EncoderSource;
use crate::train::progress::Control;
use crate::train::run::{OfSlide, places};
use crate::train::seen::Seen;
use crate::train::tcgn::config::TcgnConfig;
use crate::train::tcgn::predictor::Predictor;
use crate::train::{deeppt, trnasformer};

/// Genes that are drawn when none are named.
pub const DRAWN: usize = 4;
/// The longer side of a slide in a map, in pixels.
const MAP_PX: usize = 900;

/// A finished run that predicts slides.
pub struct Model {
    family: Family,
    genes: Vec<String>,
    /// Of which tiles it learned, if the run says.
    pub seen: Option<Seen>,
    /// Side of the tiles that its network sees.
    pub tile_px: usize,
    /// How colours are normalised: as in training.
    pub stain: Option<Method>,
    /// Whether slides are read in sRGB, by their ICC profiles: as in training.
    pub icc: bool,
    pub dtype: Precision,
    /// Of all that predictions depend on.
    fingerprint: String,
    /// The genes that it predicted best while samples were held out, best first.
    best: Vec<String>,
}

enum Family {
    DeepPt(Box<deeppt::Ensemble>),
    Bags(Box<trnasformer::Ensemble>),
    Spots(Box<Spots>),
}

/// TCGN, whose tiles are predictions and not features.
struct Spots {
    predictor: Predictor,
    source: EncoderSource,
}

impl TileNetwork for Spots {
    fn columns(&self) -> usize {
        self.predictor.genes().len()
    }

    fn device(&self) -> Device {
        self.predictor.device().clone()
    }

    fn source(&self) -> &EncoderSource {
        &self.source
    }

    fn rows(&self, x: &Tensor) -> Result<Vec<f32>> {
        let rows = self.predictor.tiles(x)?;
        Ok(rows.into_iter().map(|v| v as f32).collect())
    }
}

impl Model {
    /// Reads the folder of a finished run of DeepPT, tRNAsformer, HE2RNA or TCGN. TCGN
    /// computes in `dtype`, the others as in training.
    ///
    /// # Errors
    /// No such run; a file that is missing (the run is not finished) or broken; another
    /// `dtype` than features were made in.
    pub fn read(run: &Path, dtype: Option<Precision>, device: &Device) -> Result<Self> {
        let fingerprint = fingerprint(run)?;
        let best = best_genes(run);
        let fixed = |trained: Precision| match dtype {
            Some(dtype) if dtype != trained => Err(Error::usage(
                format!("the features of {} are {}", run.display(), trained.dtype()),
                "leave out --dtype: those of other slides are extracted in the same",
            )),
            _ => Ok(trained),
        };
        if TcgnConfig::wrote(run) {
            let dtype = dtype.unwrap_or_default();
            let predictor = Predictor::of_run(run, device, dtype)?;
            let networks = predictor.networks();
            let source = EncoderSource {
                description: format!("TCGN, {networks} networks of {}", run.display()),
                sha256: predictor.sha256.clone(),
                random: false,
            };
            return Ok(Self {
                genes: predictor.genes().to_vec(),
                seen: predictor.seen.clone(),
                tile_px: predictor.image_px(),
                stain: predictor.config.as_ref().and_then(|c| c.stain),
                icc: predictor.config.as_ref().is_some_and(|c| c.data.icc),
                dtype,
                family: Family::Spots(Box::new(Spots { predictor, source })),
                fingerprint,
                best,
            });
        }
        if TrnasformerConfig::read(&run.join("config.toml")).is_ok() {
            let ensemble = trnasformer::Ensemble::read(run, device)?;
            if !ensemble.config.model.genes {
                return Err(Error::file(
                    run,
                    "",
                    "is a run that learned classes and no expression",
                    "give a run that predicts genes, or a folder of tiles to `evaluate --data`",
                ));
            }
            let features = &ensemble.config.features;
            return Ok(Self {
                genes: ensemble.genes(),
                seen: ensemble.seen.clone(),
                tile_px: features.tile_px,
                stain: features.stain,
                icc: ensemble.config.data.icc,
                dtype: fixed(features.dtype)?,
                family: Family::Bags(Box::new(ensemble)),
                fingerprint,
                best,
            });
        }
        let ensemble = deeppt::Ensemble::read(run, device)?;
        let features = &ensemble.config.features;
        Ok(Self {
            genes: ensemble.genes(),
            seen: ensemble.seen.clone(),
            tile_px: features.tile_px,
            stain: features.stain,
            icc: ensemble.config.data.icc,
            dtype: fixed(features.dtype)?,
            family: Family::DeepPt(Box::new(ensemble)),
            fingerprint,
            best,
        })
    }

    pub fn genes(&self) -> &[String] {
        &self.genes
    }

    /// Names of the classes that it tells slides apart by; none but of tRNAsformer, where it
    /// learned some.
    pub fn classes(&self) -> &[String] {
        match &self.family {
            Family::Bags(ensemble) => &ensemble.classes,
            _ => &[],
        }
    }

    /// What makes the rows of tiles.
    pub fn tiles(&self) -> &dyn TileNetwork {
        match &self.family {
            Family::DeepPt(ensemble) => &ensemble.encoder,
            Family::Bags(ensemble) => &ensemble.encoder,
            Family::Spots(spots) => &**spots,
        }
    }

    /// What its rows of tiles are called in a job.
    pub fn encoder(&self) -> &str {
        match &self.family {
            Family::DeepPt(ensemble) => ensemble.config.features.encoder.name(),
            Family::Bags(ensemble) => ensemble.config.features.encoder.name(),
            Family::Spots(_) => "tcgn",
        }
    }

    /// As a person calls it.
    pub fn title(&self) -> &'static str {
        use crate::train::config::Network;
        match &self.family {
            Family::DeepPt(_) => "DeepPT",
            Family::Bags(e) if e.config.model.network == Network::He2rna => "HE2RNA",
            Family::Bags(_) => "tRNAsformer",
            Family::Spots(_) => "TCGN",
        }
    }

    /// What a slide's row is, and a tile's value.
    pub fn meaning(&self) -> &'static str {
        match &self.family {
            Family::DeepPt(_) => {
                "A slide is the mean over its tiles, each of which is predicted as a bag of its own."
            }
            Family::Bags(_) => {
                "A slide is the mean over its bags of 49 tiles, of each gene's highest scores. A tile's \
                 value is its own score, the mean over the bags that drew it; a tile without a colour \
                 was in no bag."
            }
            Family::Spots(_) => {
                "A tile is predicted as a spot would be. A slide is the mean over its tiles."
            }
        }
    }

    /// How the numbers are to be read.
    pub fn transforms(&self) -> String {
        let transforms = match &self.family {
            Family::DeepPt(ensemble) => &ensemble.config.expression.transforms,
            Family::Bags(ensemble) => &ensemble.config.expression.transforms,
            Family::Spots(spots) => match &spots.predictor.config {
                Some(config) => &config.expression.transforms,
                None => return "as in training".to_owned(),
            },
        };
        let names: Vec<String> = transforms.iter().map(ToString::to_string).collect();
        match names.is_empty() {
            true => "as the table of training has it".to_owned(),
            false => format!("after {}", names.join(", ")),
        }
    }

    /// The genes to draw: those that are named, or the run's best.
    ///
    /// # Errors
    /// A name that is not among the run's genes.
    pub fn drawn(&self, named: &[String]) -> Result<Vec<usize>> {
        let place = places(&self.genes);
        if let Some(gene) = named.iter().find(|g| !place.contains_key(g.as_str())) {
            return Err(Error::usage(
                format!(
                    "--maps names {gene}, which is not among the {} predicted genes",
                    self.genes.len()
                ),
                "name genes that the run predicts: see its genes.csv",
            ));
        }
        let wanted: Vec<&String> = match named.is_empty() {
            false => named.iter().collect(),
            true => self.best.iter().chain(&self.genes).collect(),
        };
        let mut drawn: Vec<usize> = Vec::new();
        for gene in wanted {
            match place.get(gene.as_str()) {
                Some(&at) if !drawn.contains(&at) => drawn.push(at),
                _ => {}
            }
        }
        if named.is_empty() {
            drawn.truncate(DRAWN);
        }
        Ok(drawn)
    }

    /// A slide from its tiles' rows.
    fn slide(
        &self,
        name: &str,
        rows: &[f32],
        corners: &[(i64, i64)],
        chosen: &[usize],
        batch: usize,
    ) -> Result<OfSlide> {
        match &self.family {
            Family::DeepPt(ensemble) => ensemble.slide(rows, chosen, batch),
            Family::Bags(ensemble) => ensemble.slide(name, rows, corners, chosen),
            Family::Spots(spots) => Ok(spots.predictor.slide(rows, chosen)),
        }
    }
}

/// A hash of the run's networks.
fn fingerprint(run: &Path) -> Result<String> {
    let mut text = String::new();
    let config = run.join("config.toml");
    text += &std::fs::read_to_string(&config).map_err(|e| Error::io("read", &config, e))?;
    for fold in 0.. {
        let folder = run.join(format!("fold{fold}"));
        let Ok(entries) = std::fs::read_dir(&folder) else {
            break;
        };
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut files: Vec<PathBuf> = files
            .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        files.sort();
        for file in files {
            text += &sha256_file(&file)?;
        }
    }
    Ok(sha256_bytes(text.as_bytes()))
}

/// The genes of the run's scores, best first; none where there are no scores.
fn best_genes(run: &Path) -> Vec<String> {
    let Ok(mut csv) = csv::Reader::from_path(run.join("genes.csv")) else {
        return Vec::new();
    };
    let Ok(header) = csv.headers().cloned() else {
        return Vec::new();
    };
    let column = |name: &str| header.iter().position(|h| h == name);
    let (Some(gene), Some(pearson)) = (column("gene"), column("pearson")) else {
        return Vec::new();
    };
    let mut all: Vec<(String, f64)> = (csv.records().filter_map(|r| r.ok()))
        .filter_map(|r| {
            let score: f64 = r.get(pearson)?.parse().ok()?;
            (!score.is_nan()).then(|| (r.get(gene).unwrap_or_default().to_owned(), score))
        })
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.into_iter().map(|(gene, _)| gene).collect()
}

/// What is made beside the table.
#[derive(Clone, Debug)]
pub struct Options {
    pub output: PathBuf,
    /// Places of the genes to draw.
    pub drawn: Vec<usize>,
    /// Also write all genes of every tile.
    pub tile_tables: bool,
}

/// One predicted slide.
#[derive(Clone, Debug, Serialize)]
pub struct Predicted {
    pub slide: String,
    pub tiles: usize,
    /// Micrometres per pixel of level 0.
    pub mpp: f64,
    pub mpp_source: String,
    /// Pictures below the output folder, one for each drawn gene.
    pub maps: Vec<String>,
    #[serde(skip)]
    pub genes: Vec<f32>,
    /// Probabilities of [`Model::classes`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<f32>,
    /// Lowest and highest of each drawn gene over the tiles.
    pub ranges: Vec<[f32; 2]>,
}

/// What became of a folder of slides.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub job: Summary,
    pub predicted: Vec<Predicted>,
}

/// Where a run's job lies.
pub fn job_dir(output: &Path) -> PathBuf {
    output.join("job")
}

/// Extracts what is missing, and predicts every slide of the job that has tiles.
///
/// # Errors
/// As [`super::run`]. A slide that cannot be predicted is listed with the failed ones.
pub fn predict(
    model: &Model,
    config: &Config,
    options: &Options,
    control: Control,
) -> Result<Outcome> {
    let job = super::run(config, model.tiles(), control)?;
    let entries = super::folder::slides(
        &config.wsi_dir,
        config.list.as_deref(),
        config.slide_mpp,
        config.shard,
    )?;
    let mut outcome = Outcome {
        job,
        predicted: Vec::new(),
    };
    control.progress.begin("predicting slides", entries.len());
    let work = Work {
        model,
        config,
        options,
    };
    let mut left: Vec<&Entry> = entries.iter().collect();
    let mut done = 0;
    while !left.is_empty() {
        let mut busy = Vec::new();
        for entry in left {
            control.check("finished slides are kept; run the same command to go on")?;
            match work.slide(entry) {
                Ok(Found::Busy) => {
                    busy.push(entry);
                    continue;
                }
                Ok(Found::Nothing) => {}
                Ok(Found::Predicted(slide)) => outcome.predicted.push(slide),
                // The output folder's troubles are everyone's, a slide's are its own.
                Err(e @ Error::Io { .. }) => return Err(e),
                Err(e) => {
                    control
                        .progress
                        .note(&format!("left out {}: {e}", entry.name));
                    outcome.job.failed.push(format!("{}: {e}", entry.name));
                }
            }
            done += 1;
            control.progress.at(done, &entry.name);
        }
        if !busy.is_empty() {
            std::thread::sleep(Duration::from_millis(300));
        }
        left = busy;
    }
    control.progress.end();
    outcome.predicted.sort_by(|a, b| a.slide.cmp(&b.slide));
    outcome.job.failed.sort();
    Ok(outcome)
}

enum Found {
    /// Another process has it in hand.
    Busy,
    /// No tissue, or it failed before.
    Nothing,
    Predicted(Predicted),
}

struct Work<'a> {
    model: &'a Model,
    config: &'a Config,
    options: &'a Options,
}

/// The tiles of a slide as the job left them.
struct Tiles {
    rows: Vec<f32>,
    corners: Vec<(i64, i64)>,
    names: Vec<String>,
}

impl Work<'_> {
    fn slide(&self, entry: &Entry) -> Result<Found> {
        let Some(status) = Status::read(&self.config.job_dir, &entry.name)? else {
            return Ok(Found::Nothing);
        };
        if status.failure.is_some() || status.tiles == 0 {
            return Ok(Found::Nothing);
        }
        let recipe = format!(
            "{} {} {:?} {}",
            status.recipe, self.model.fingerprint, self.options.drawn, self.options.tile_tables
        );
        let recipe = sha256_bytes(recipe.as_bytes());
        if let Some(known) = self.known(&status, &recipe)? {
            return Ok(Found::Predicted(known));
        }
        let claims = self.config.job_dir.join("claims");
        let Some(_claim) = claim(&claims, &format!("{}.predict", entry.name))? else {
            return Ok(Found::Busy);
        };
        if let Some(known) = self.known(&status, &recipe)? {
            return Ok(Found::Predicted(known));
        }
        self.compute(entry, &status, &recipe).map(Found::Predicted)
    }

    fn file(&self, slide: &str) -> PathBuf {
        let folder = self.options.output.join("slides");
        folder.join(format!("{slide}.safetensors"))
    }

    /// What is there already, if it is what would be made now.
    fn known(&self, status: &Status, recipe: &str) -> Result<Option<Predicted>> {
        let path = self.file(&status.slide);
        if !path.is_file() {
            return Ok(None);
        }
        let file = read_weights(&path)?;
        let maps = self.maps(&status.slide);
        let there = |map: &String| self.options.output.join(map).is_file();
        if file.metadata.get("recipe").is_none_or(|r| r != recipe) || !maps.iter().all(there) {
            return Ok(None);
        }
        let (Some(genes), Some(ranges)) = (file.get("genes"), file.get("ranges")) else {
            return Ok(None);
        };
        let classes = file.get("classes").map(Array::to_f32).transpose()?;
        let classes = classes.unwrap_or_default();
        if classes.len() != self.model.classes().len() {
            return Ok(None); // of before classes were predicted
        }
        let ranges = ranges.to_f32()?;
        Ok(Some(self.predicted(
            status,
            (genes.to_f32()?, classes),
            ranges.chunks_exact(2).map(|r| [r[0], r[1]]).collect(),
        )))
    }

    fn predicted(
        &self,
        status: &Status,
        (genes, classes): (Vec<f32>, Vec<f32>),
        ranges: Vec<[f32; 2]>,
    ) -> Predicted {
        let scale = status.scale.as_ref();
        Predicted {
            slide: status.slide.clone(),
            tiles: status.tiles,
            mpp: scale.map_or(f64::NAN, |s| s.mpp),
            mpp_source: scale.map_or_else(String::new, |s| s.source.clone()),
            maps: self.maps(&status.slide),
            genes,
            classes,
            ranges,
        }
    }

    /// The pictures of a slide, below the output folder.
    fn maps(&self, slide: &str) -> Vec<String> {
        let genes = self.options.drawn.iter();
        let name = |&gene: &usize| format!("maps/{slide}_{}.png", plain(&self.model.genes[gene]));
        genes.map(name).collect()
    }

    fn read(&self, slide: &str) -> Result<Tiles> {
        let path = super::outputs::features_file(self.config, slide);
        let file = hdf5::File::open(&path)?;
        let rows = file.array("features")?.to_f32()?;
        let corners = file.array("coords")?.to_i64()?;
        let corners: Vec<(i64, i64)> = corners.chunks_exact(2).map(|c| (c[0], c[1])).collect();
        if rows.len() != corners.len() * self.model.tiles().columns() {
            return Err(Error::file(
                &path,
                "",
                format!("has {} values for {} tiles", rows.len(), corners.len()),
                "remove it; the slide is extracted again",
            ));
        }
        let names = match file.has_dataset("barcode") {
            true => file.texts("barcode")?,
            false => corners.iter().map(|(x, y)| format!("{x}x{y}")).collect(),
        };
        Ok(Tiles {
            rows,
            corners,
            names,
        })
    }

    fn compute(&self, entry: &Entry, status: &Status, recipe: &str) -> Result<Predicted> {
        let (model, options) = (self.model, self.options);
        let tiles = self.read(&entry.name)?;
        let all: Vec<usize> = match options.tile_tables {
            true => (0..model.genes.len()).collect(),
            false => options.drawn.clone(),
        };
        let corners = &tiles.corners;
        let batch = self.config.batch;
        let found = model.slide(&entry.name, &tiles.rows, corners, &all, batch)?;
        let side = match &status.scale {
            Some(scale) => self.config.patch_px as f64 * self.config.mpp / scale.mpp,
            None => self.config.patch_px as f64,
        };
        let middle = |&(x, y): &(i64, i64)| (x as f64 + side / 2.0, y as f64 + side / 2.0);
        let centres: Vec<(f64, f64)> = corners.iter().map(middle).collect();
        if options.tile_tables {
            self.tile_table(&tiles.names, &centres, &found.tiles, &entry.name)?;
        }
        let place = |gene: &usize| all.iter().position(|g| g == gene).unwrap_or(0);
        let drawn: Vec<Vec<f32>> = (options.drawn.iter().map(place))
            .map(|at| {
                found.tiles[at..]
                    .iter()
                    .step_by(all.len())
                    .copied()
                    .collect()
            })
            .collect();
        let mpp = status.scale.as_ref().map_or(f64::NAN, |s| s.mpp);
        self.draw((entry, mpp), &centres, side, &drawn)?;
        let ranges: Vec<[f32; 2]> = (drawn.iter())
            .map(|values| {
                let finite = values.iter().filter(|v| v.is_finite());
                finite.fold([f32::INFINITY, f32::NEG_INFINITY], |[low, high], &v| {
                    [low.min(v), high.max(v)]
                })
            })
            .collect();
        // Last, so that its being there says that the maps are.
        let mut file = Weights::new();
        let flat: Vec<f32> = ranges.iter().flatten().copied().collect();
        file.insert(
            "genes",
            Array::from_f32(&[found.genes.len()], &found.genes)?,
        )?;
        file.insert("ranges", Array::from_f32(&[ranges.len(), 2], &flat)?)?;
        if !found.classes.is_empty() {
            let shape = [found.classes.len()];
            file.insert("classes", Array::from_f32(&shape, &found.classes)?)?;
        }
        file.metadata.insert("recipe".into(), recipe.to_owned());
        let path = self.file(&entry.name);
        create_dir_all(path.parent().unwrap_or(Path::new("")))?;
        safetensors::write(&path, &file)?;
        Ok(self.predicted(status, (found.genes, found.classes), ranges))
    }

    fn tile_table(
        &self,
        names: &[String],
        centres: &[(f64, f64)],
        values: &[f32],
        slide: &str,
    ) -> Result<()> {
        let mut data = AnnData::dense(names.to_vec(), self.model.genes.clone(), values)?;
        let flat: Vec<f32> = (centres.iter())
            .flat_map(|&(x, y)| [x as f32, y as f32])
            .collect();
        let spatial = Array::from_f32(&[names.len(), 2], &flat)?;
        data.obsm.insert("spatial".into(), spatial);
        let folder = self.options.output.join("tiles");
        create_dir_all(&folder)?;
        h5ad::write(folder.join(format!("{slide}.h5ad")), &data)
    }

    /// Each gene over the slide, as PNG and as SVG.
    fn draw(
        &self,
        (entry, mpp): (&Entry, f64),
        centres: &[(f64, f64)],
        side: f64,
        drawn: &[Vec<f32>],
    ) -> Result<()> {
        if drawn.is_empty() {
            return Ok(());
        }
        create_dir_all(self.options.output.join("maps"))?;
        let slide = wsi::open(&entry.path)?;
        let background = thumbnail(&*slide, MAP_PX)?;
        let main = &slide.facts().levels[0];
        let scale = background.width as f64 / main.width as f64;
        let at: Vec<(f64, f64)> = centres
            .iter()
            .map(|(x, y)| (x * scale, y * scale))
            .collect();
        let maps = self.maps(&entry.name);
        for ((&gene, values), path) in self.options.drawn.iter().zip(drawn).zip(maps) {
            let map = TissueMap {
                title: format!("{} in {}", self.model.genes[gene], entry.name),
                background: &background,
                places: &at,
                diameter: side * scale,
                panels: vec![Panel {
                    title: "predicted".into(),
                    values: values.clone(),
                }],
            };
            let path = self.options.output.join(path);
            let what = format!("{}: predicted, tile by tile", map.title);
            let mpp = format!("{:.4}", mpp / scale);
            write_bytes(path.with_extension("svg"), map.svg()?.as_bytes())?;
            image::write_png(&path, &map.png(), &[("Title", &what), (image::MPP, &mpp)])?;
        }
        Ok(())
    }
}

/// A name that is safe as a part of a file's.
fn plain(name: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let kept = name.chars().map(|c| if safe(c) { c } else { '_' });
    kept.collect()
}

/// The slides' table, as CSV and as AnnData.
///
/// # Errors
/// A file that cannot be written.
pub fn write_tables(model: &Model, outcome: &Outcome, output: &Path) -> Result<()> {
    let slides = &outcome.predicted;
    let table = Table {
        samples: slides.iter().map(|s| s.slide.clone()).collect(),
        genes: model.genes.clone(),
        values: slides.iter().flat_map(|s| s.genes.clone()).collect(),
    };
    crate::expression::table::write(output.join("predictions.csv"), &table)?;
    let numbers = |of: &dyn Fn(&Predicted) -> f32| -> Result<Column> {
        let values: Vec<f32> = slides.iter().map(of).collect();
        Ok(Column::Number(Array::from_f32(&[values.len()], &values)?))
    };
    let mut data = AnnData::dense(table.samples, table.genes, &table.values)?;
    data.obs.columns = vec![
        ("tiles".into(), numbers(&|s| s.tiles as f32)?),
        ("mpp".into(), numbers(&|s| s.mpp as f32)?),
    ];
    for (at, class) in model.classes().iter().enumerate() {
        let column = numbers(&|s| s.classes[at])?;
        data.obs.columns.push((format!("class_{class}"), column));
    }
    if !model.classes().is_empty() {
        write_classes(model, slides, &output.join("classes.csv"))?;
    }
    h5ad::write(output.join("predictions.h5ad"), &data)
}

/// A line a slide: its likeliest class, and the probability of each.
fn write_classes(model: &Model, slides: &[Predicted], path: &Path) -> Result<()> {
    let failed = |e: String| Error::usage(format!("no table: {e}"), "report this");
    let mut out = csv::Writer::from_writer(Vec::new());
    let names = model.classes();
    let header = ["sample", "predicted"].into_iter();
    out.write_record(header.chain(names.iter().map(String::as_str)))
        .map_err(|e| failed(e.to_string()))?;
    for slide in slides {
        let likeliest = slide.likeliest().and_then(|at| names.get(at));
        let mut fields = vec![slide.slide.clone()];
        fields.push(likeliest.cloned().unwrap_or_default());
        fields.extend(slide.classes.iter().map(f32::to_string));
        out.write_record(fields)
            .map_err(|e| failed(e.to_string()))?;
    }
    let bytes = out.into_inner().map_err(|e| failed(e.to_string()))?;
    write_bytes(path, &bytes)
}

impl Predicted {
    /// The place of its likeliest class.
    pub fn likeliest(&self) -> Option<usize> {
        let all = self.classes.iter().enumerate();
        Some(all.max_by(|a, b| a.1.total_cmp(b.1))?.0)
    }
}
