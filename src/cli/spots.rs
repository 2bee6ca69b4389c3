//! TCGN's commands: training on sections, and prediction and explanation of one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::run::{described, run_file};
use super::{EvaluateArgs, StainChoice, TrainArgs, console};
use crate::cohort::{Cohort, Sample, SourceImage, grid, her2st};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::expression::{Table, table};
use crate::formats::Array;
use crate::formats::atomic::{create_dir_all, write_bytes};
use crate::formats::h5ad::{self, AnnData, Column};
use crate::report::{Panel, TissueMap, picture};
use crate::slides::icc::Colours;
use crate::slides::stain::Method;
use crate::slides::{Rgb8, image, tile};
use crate::tensor::Tensor;
use crate::train::config::Precision;
use crate::train::evaluate::{Reported, Scores, Summary, write_results};
use crate::train::features::images;
use crate::train::progress::Control;
use crate::train::run::{HeldOut, places};
use crate::train::seen::Seen;
use crate::train::tcgn::config::TcgnConfig;
use crate::train::tcgn::predictor::Predictor;
use crate::train::tcgn::{Outcome, train};

/// Spots that are predicted together.
const BATCH: usize = 16;
/// Genes that are drawn when none are named.
const DRAWN: usize = 4;
/// The longer side of a section in a map, in pixels.
const MAP_PX: usize = 900;
/// Side of an explained tile, in pixels, at least.
const SHOWN_PX: usize = 600;

pub fn train_tcgn(
    args: &TrainArgs,
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let config: TcgnConfig = run_file(args, dtype)?;
    let outcome = train(&config, &args.out, args.resume, device, control)?;
    let held = &outcome.held_out;
    let samples = held.samples.len();
    let scores = Scores::new(&held.genes, samples, &held.predicted, &held.measured)?;
    let start = outcome.folds.first().map_or("", |f| f.start.as_str());
    let mut summary = Summary::new(&scores, held.same_patient, &format!("TCGN from {start}"));
    summary.reported = reported(&outcome, &scores);
    write_results(&args.out, held, &scores, &summary)?;
    let mut text = described(&summary, &args.out.join("genes.csv"));
    text += &by_section(held, &args.out.join("sections.csv"))?;
    console::print_with_skipped(json, &summary, text, &outcome.skipped)
}

fn reported(outcome: &Outcome, scores: &Scores) -> Option<Reported> {
    let report = outcome.report.as_ref()?;
    let among = |g: &str| report.contains(g);
    Some(Reported {
        genes: scores.genes.iter().filter(|g| among(&g.gene)).count(),
        median_pearson: scores.median_pearson(|g| among(&g.gene)),
    })
}

#[derive(Serialize)]
struct OfSection<'a> {
    section: &'a str,
    spots: usize,
    median_pearson: f64,
}

/// Writes and says the median Pearson correlation within each section, as it is
/// published: spots of two sections together also differ by their sections.
fn by_section(held: &HeldOut, path: &Path) -> Result<String> {
    let width = held.genes.len();
    let mut lines = String::new();
    let mut out = csv::Writer::from_writer(Vec::new());
    for (section, spots) in sections(held) {
        if spots.len() < 3 {
            continue;
        }
        let rows = |of: &[f32]| -> Vec<f32> {
            let row = |&s: &usize| of[s * width..(s + 1) * width].iter().copied();
            spots.iter().flat_map(row).collect()
        };
        let (predicted, measured) = (rows(&held.predicted), rows(&held.measured));
        let scores = Scores::new(&held.genes, spots.len(), &predicted, &measured)?;
        let line = OfSection {
            section,
            spots: spots.len(),
            median_pearson: scores.median_pearson(|_| true),
        };
        lines += &format!(
            "\nsection {section:10} Pearson, median {:.3} ({} spots)",
            line.median_pearson, line.spots
        );
        out.serialize(line).map_err(|e| no_table(&e))?;
    }
    let bytes = out.into_inner().map_err(|e| no_table(&e))?;
    write_bytes(path, &bytes)?;
    Ok(lines)
}

fn no_table(e: &dyn std::fmt::Display) -> Error {
    Error::usage(format!("no table: {e}"), "report this")
}

/// The spots of each section.
fn sections(held: &HeldOut) -> BTreeMap<&str, Vec<usize>> {
    let mut found: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, slide) in held.slides.iter().enumerate() {
        found.entry(slide).or_default().push(i);
    }
    found
}

/// Which networks, and how tiles are cut.
#[derive(Args)]
pub struct NetworkArgs {
    /// Folder of a finished `train tcgn`, whose networks are averaged; in place of --weights
    #[arg(long, conflicts_with = "weights")]
    run: Option<PathBuf>,
    /// The genes of --weights, one a line, if the file does not name them
    #[arg(long, value_name = "FILE")]
    genes_file: Option<PathBuf>,
    /// Side of a spot's tile in pixels of the image [default: as in training, or 112]
    #[arg(long, value_name = "N", conflicts_with = "spot_um")]
    spot_px: Option<usize>,
    /// Side of a spot's tile in micrometres
    #[arg(long, value_name = "UM")]
    spot_um: Option<f64>,
    /// Micrometres of a pixel of the image; with --spots the spots tell
    #[arg(long, value_name = "UM")]
    um_per_px: Option<f64>,
    /// Predict although the tiles are of another scale than the networks were trained at
    #[arg(long)]
    pub any_mpp: bool,
    /// Normalise colours, where --weights do not say how they were trained
    #[arg(long, value_enum)]
    stain: Option<StainChoice>,
    /// Read the image in the colours of sRGB, by its ICC profile, where --weights do not say how
    /// they were trained
    #[arg(long)]
    icc: bool,
}

impl NetworkArgs {
    pub fn open(
        &self,
        weights: Option<&Path>,
        device: &Device,
        dtype: Precision,
    ) -> Result<Predictor> {
        match (&self.run, weights) {
            (Some(run), _) => {
                let predictor = Predictor::of_run(run, device, dtype)?;
                let own = Seen {
                    stain: predictor.config.as_ref().and_then(|c| c.stain),
                    ..Seen::default()
                };
                Seen::stain_of(Some(&own), self.stain.map(Method::from))?;
                Ok(predictor)
            }
            (None, Some(weights)) => {
                let (genes, stain) = (self.genes_file.as_deref(), self.stain.map(Method::from));
                Predictor::of_weights(weights, genes, stain, device, dtype)
            }
            (None, None) => Err(Error::usage(
                "no network is given",
                "give --run, the folder of a finished training, or --weights",
            )),
        }
    }

    /// Side of a tile, in pixels or, where the spots tell what a pixel is, in
    /// micrometres.
    fn tile(&self, trained: Option<&TcgnConfig>) -> Result<(usize, Option<f64>)> {
        let trained = trained.map(|c| (c.data.spot_px, c.data.spot_um));
        let (mut px, mut um) = match (self.spot_px, self.spot_um) {
            (Some(px), _) => (px, None),
            (None, Some(um)) => (0, Some(um)),
            (None, None) => trained.unwrap_or((112, None)),
        };
        if let (Some(length), Some(pixel)) = (um, self.um_per_px) {
            let side = (length / pixel).round();
            if !(1.0..=1e5).contains(&side) {
                return Err(Error::usage(
                    format!("a tile of {length} um at {pixel} um a pixel has {side} px"),
                    "give both in micrometres",
                ));
            }
            (px, um) = (side as usize, None);
        }
        Ok((px.max(1), um))
    }

    /// As [`Self::tile`], in pixels alone.
    fn tile_px(&self, trained: Option<&TcgnConfig>) -> Result<usize> {
        match self.tile(trained)? {
            (px, None) => Ok(px),
            (_, Some(um)) => Err(Error::usage(
                format!("how many pixels a tile of {um} um has is not known"),
                "give --um-per-px of the image, or --spot-px",
            )),
        }
    }
}

/// A section to predict, and what to make of it.
#[derive(Args)]
#[command(next_help_heading = "A section of tissue, for tcgn")]
pub struct SectionArgs {
    #[command(flatten)]
    pub network: NetworkArgs,
    /// The section (JPEG or PNG), in place of --input
    #[arg(long, requires = "out", conflicts_with_all = ["input", "output"])]
    pub image: Option<PathBuf>,
    /// Its spots: TSV with columns x, y, pixel_x, pixel_y
    #[arg(
        long,
        value_name = "FILE",
        requires = "image",
        conflicts_with = "grid_px"
    )]
    spots: Option<PathBuf>,
    /// A grid over the tissue with so many pixels from tile to tile, in place of --spots
    #[arg(long, value_name = "N", requires = "image")]
    grid_px: Option<usize>,
    /// Measured counts, spots x genes with rows `<x>x<y>`, to compare with
    #[arg(long, value_name = "FILE", requires = "spots")]
    counts: Option<PathBuf>,
    #[command(flatten)]
    pub maps: MapArgs,
    /// Folder to write to
    #[arg(long, value_name = "DIR", requires = "image")]
    out: Option<PathBuf>,
}

/// What to make of predicted sections.
#[derive(Args)]
pub struct MapArgs {
    /// Genes to draw over the tissue [default: the 4 best, or those that vary most]
    #[arg(long, value_name = "GENES", value_delimiter = ',')]
    maps: Vec<String>,
    /// Also sum up each section to one profile
    #[arg(long)]
    pseudo_bulk: bool,
}

pub fn predict_section(
    args: &SectionArgs,
    weights: Option<&Path>,
    dtype: Precision,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let (Some(picture), Some(out)) = (&args.image, &args.out) else {
        return Err(Error::usage(
            "no section is given",
            "give --image and --out",
        ));
    };
    let predictor = args.network.open(weights, device, dtype)?;
    let trained = predictor.config.as_ref();
    let name = picture
        .file_stem()
        .map_or("section".into(), |s| s.to_string_lossy());
    let mut cohort = match (&args.spots, args.grid_px) {
        (Some(spots), _) => {
            let (spot_px, spot_um) = args.network.tile(trained)?;
            let files = her2st::SectionFiles {
                name: name.to_string(),
                patient: name.to_string(),
                image: picture.clone(),
                spots: spots.clone(),
                counts: args.counts.clone(),
            };
            let options = her2st::Options {
                unit: her2st::Unit::Spot,
                spot_px,
                spot_um,
                ..her2st::Options::default()
            };
            her2st::section(files, &options)?
        }
        (None, Some(step_px)) => {
            let tile_px = args.network.tile_px(trained)?;
            let grid = grid::Grid { step_px, tile_px };
            let mut cohort = grid::read(picture.clone(), &name, grid)?;
            let mpp = args.network.um_per_px;
            cohort.images.iter_mut().for_each(|image| image.mpp = mpp);
            cohort
        }
        (None, None) => {
            return Err(Error::usage(
                "where the tiles of the section lie is not said",
                "give --spots FILE, or --grid-px N for a grid over the tissue",
            ));
        }
    };
    if icc(&predictor, &args.network)? {
        cohort
            .images
            .iter_mut()
            .try_for_each(SourceImage::correct)?;
    }
    let seen = Seen::of(&cohort, predictor.image_px(), None);
    if seen.unprofiled > 0 {
        control
            .progress
            .note("the image has no ICC profile and is taken as it is");
    }
    admit(&predictor, &name, &seen, args.network.any_mpp, control)?;
    finish(&predictor, cohort, out, &args.maps, json, control)
}

/// Whether an image's profile is applied: as in training.
fn icc(predictor: &Predictor, args: &NetworkArgs) -> Result<bool> {
    let of_run = predictor.config.as_ref().map(|trained| Seen {
        icc: trained.data.icc,
        ..Seen::default()
    });
    Seen::icc_of(of_run.as_ref().or(predictor.seen.as_ref()), args.icc)
}

/// That the networks may be shown these tiles.
fn admit(
    predictor: &Predictor,
    what: &str,
    seen: &Seen,
    any: bool,
    control: Control,
) -> Result<()> {
    if let Some(own) = &predictor.seen
        && let Some(note) = own.admit(what, seen.mpp, any)?
    {
        control.progress.note(&note);
    }
    Ok(())
}

/// A folder of sections with a finished run of TCGN.
pub fn evaluate(
    args: &EvaluateArgs,
    [run, folder]: [&Path; 2],
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let predictor = Predictor::of_run(run, device, dtype.unwrap_or_default())?;
    let Some(trained) = &predictor.config else {
        return Err(Error::op(
            "evaluate",
            "internal: a run without configuration",
        ));
    };
    let mut data = trained.data.clone();
    data.path = folder.to_owned();
    data.mpp = args.mpp;
    data.sections.clone_from(&args.sections);
    data.slides.clone_from(&args.slides);
    if let Some(layout) = args.layout {
        data.layout = layout.into();
    }
    let scored = !args.no_expression && data.has_expression();
    let cohort = data.read(scored)?;
    let seen = Seen::of(&cohort, predictor.image_px(), None);
    let what = folder.display().to_string();
    admit(&predictor, &what, &seen, args.any_mpp, control)?;
    finish(&predictor, cohort, &args.out, &args.maps, json, control)
}

#[derive(Serialize)]
struct Predicted {
    folder: String,
    spots: usize,
    genes: usize,
    networks: usize,
    skipped: usize,
    maps: Vec<String>,
    scores: Option<Summary>,
}

/// Predicts the spots of a cohort, scores them where counts are known, and writes
/// everything to the folder `out`.
fn finish(
    predictor: &Predictor,
    mut cohort: Cohort,
    out: &Path,
    maps: &MapArgs,
    json: bool,
    control: Control,
) -> Result<()> {
    let known = places(predictor.genes());
    if let Some(gene) = maps.maps.iter().find(|g| !known.contains_key(g.as_str())) {
        return Err(Error::usage(
            format!(
                "--maps names {gene}, which is not among the {} predicted genes",
                known.len()
            ),
            "name genes that the network was trained on: see genes.csv of the run",
        ));
    }
    let predicted = predictor.predict(&mut cohort, BATCH, control)?;
    let first = |t: &[usize]| t.first().and_then(|&t| cohort.tiles[t].position);
    let mut held = HeldOut {
        samples: cohort.samples.iter().map(|s| s.id.clone()).collect(),
        slides: cohort.samples.iter().map(|s| s.slide.clone()).collect(),
        positions: cohort.samples.iter().map(|s| first(&s.tiles)).collect(),
        genes: predictor.genes().to_vec(),
        predicted,
        measured: Vec::new(),
        same_patient: predictor.trained_on(&cohort),
        fold: Vec::new(),
        training_means: Vec::new(),
    };
    create_dir_all(out)?;
    let mut result = Predicted {
        folder: out.display().to_string(),
        spots: held.samples.len(),
        genes: held.genes.len(),
        networks: predictor.networks(),
        skipped: cohort.skipped.len(),
        maps: Vec::new(),
        scores: None,
    };
    let mut text = String::new();
    let mut scores = None;
    match &cohort.table {
        Some(counts) => {
            let (measured, absent) = predictor.on_scale(counts)?;
            held.measured = measured;
            if !absent.is_empty() {
                text += &format!(
                    "the counts lack {} of {} genes, which count as 0 there: {}\n",
                    absent.len(),
                    held.genes.len(),
                    absent.join(", ")
                );
            }
            let samples = held.samples.len();
            let found = Scores::new(&held.genes, samples, &held.predicted, &held.measured)?;
            let what = format!("TCGN, {} networks", result.networks);
            let summary = Summary::new(&found, held.same_patient, &what);
            write_results(out, &held, &found, &summary)?;
            text += &described(&summary, &out.join("genes.csv"));
            text += &by_section(&held, &out.join("sections.csv"))?;
            result.scores = Some(summary);
            scores = Some(found);
        }
        None => {
            let path = out.join("predictions.csv");
            table::write(&path, &as_table(&held, held.predicted.clone()))?;
            text += &format!(
                "{}: {} spots, {} genes",
                path.display(),
                result.spots,
                result.genes
            );
        }
    }
    if maps.pseudo_bulk {
        let path = out.join("pseudo_bulk.csv");
        table::write(&path, &pseudo_bulk(predictor, &held)?)?;
        text += &format!("\npseudo-bulk        {}", path.display());
    }
    let path = out.join("predictions.h5ad");
    h5ad::write(&path, &annotated(&cohort, &held)?)?;
    text += &format!("\nspots x genes      {}", path.display());
    let genes = drawn(maps, &held, scores.as_ref());
    result.maps = draw(&cohort, &held, &genes, &out.join("maps"), control)?;
    text += &format!(
        "\nmaps               {}",
        result.maps.join("\n                   ")
    );
    console::print_with_skipped(json, &result, text, &cohort.skipped)
}

fn as_table(held: &HeldOut, values: Vec<f32>) -> Table {
    Table {
        samples: held.samples.clone(),
        genes: held.genes.clone(),
        values,
    }
}

/// Predictions with the spots' sections, patients and places in their images; what was
/// measured is beside the places.
fn annotated(cohort: &Cohort, held: &HeldOut) -> Result<AnnData> {
    let genes = held.genes.clone();
    let mut data = AnnData::dense(held.samples.clone(), genes, &held.predicted)?;
    let text =
        |of: &dyn Fn(&Sample) -> String| Column::Text(cohort.samples.iter().map(of).collect());
    data.obs.columns = vec![
        ("section".into(), text(&|s| s.slide.clone())),
        ("patient".into(), text(&|s| s.patient.clone())),
    ];
    let unknown = (f64::NAN, f64::NAN);
    let places: Vec<f32> = (held.positions.iter())
        .map(|place| place.unwrap_or(unknown))
        .flat_map(|(x, y)| [x as f32, y as f32])
        .collect();
    let spots = held.samples.len();
    let spatial = Array::from_f32(&[spots, 2], &places)?;
    data.obsm.insert("spatial".into(), spatial);
    if !held.measured.is_empty() {
        let measured = Array::from_f32(&[spots, held.genes.len()], &held.measured)?;
        data.obsm.insert("measured".into(), measured);
    }
    Ok(data)
}

/// The sum over each section's spots of what is predicted, on the scale of counts per
/// 10,000 and not of their logarithm.
fn pseudo_bulk(predictor: &Predictor, held: &HeldOut) -> Result<Table> {
    let width = held.genes.len();
    let linear = predictor.linear(&held.predicted)?;
    let mut out = Table {
        samples: Vec::new(),
        genes: held.genes.clone(),
        values: Vec::new(),
    };
    for (section, spots) in sections(held) {
        let mut sum = vec![0.0f64; width];
        for spot in spots {
            let row = &linear[spot * width..(spot + 1) * width];
            sum.iter_mut()
                .zip(row)
                .for_each(|(s, &v)| *s += f64::from(v));
        }
        out.samples.push(section.to_owned());
        out.values.extend(sum.into_iter().map(|v| v as f32));
    }
    Ok(out)
}

/// The genes to draw.
fn drawn(maps: &MapArgs, held: &HeldOut, scores: Option<&Scores>) -> Vec<String> {
    if !maps.maps.is_empty() {
        return maps.maps.clone();
    }
    if let Some(scores) = scores {
        let best = scores.ranked().into_iter().take(DRAWN);
        return best.map(|g| g.gene.clone()).collect();
    }
    let width = held.genes.len();
    let spots = held.samples.len().max(1) as f64;
    let variance = |gene: usize| -> f64 {
        let column = || held.predicted.iter().skip(gene).step_by(width.max(1));
        let mean = column().map(|&v| f64::from(v)).sum::<f64>() / spots;
        column().map(|&v| (f64::from(v) - mean).powi(2)).sum()
    };
    let mut order: Vec<(usize, f64)> = (0..width).map(|g| (g, variance(g))).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let most = order.into_iter().take(DRAWN);
    most.map(|(g, _)| held.genes[g].clone()).collect()
}

/// Draws genes over each section, as PNG and as SVG; returns the files.
fn draw(
    cohort: &Cohort,
    held: &HeldOut,
    genes: &[String],
    folder: &Path,
    control: Control,
) -> Result<Vec<String>> {
    let column = places(&held.genes);
    let all = sections(held);
    let mut written = Vec::new();
    create_dir_all(folder)?;
    control.progress.begin("drawing maps", all.len());
    for (number, (section, spots)) in all.into_iter().enumerate() {
        let spots: Vec<(usize, (f64, f64))> = (spots.into_iter())
            .filter_map(|s| Some((s, held.positions[s]?)))
            .collect();
        let first = spots.first().and_then(|(s, _)| cohort.samples.get(*s));
        let Some(own) = first.and_then(|s| cohort.tiles.get(*s.tiles.first()?)) else {
            continue;
        };
        let whole = cohort.images[own.image].read()?;
        let (corner, window) = around(&whole, spots.iter().map(|s| s.1), 2 * own.size_px);
        let (background, scale) = thumbnail(&window)?;
        drop((whole, window));
        let at: Vec<(f64, f64)> = (spots.iter())
            .map(|(_, (x, y))| ((x - corner.0) * scale, (y - corner.1) * scale))
            .collect();
        for gene in genes {
            let Some(&g) = column.get(gene.as_str()) else {
                continue;
            };
            let values = |of: &[f32]| -> Vec<f32> {
                let width = held.genes.len();
                spots.iter().map(|(s, _)| of[s * width + g]).collect()
            };
            let mut panels = Vec::new();
            if !held.measured.is_empty() {
                panels.push(Panel {
                    title: "measured".into(),
                    values: values(&held.measured),
                });
            }
            panels.push(Panel {
                title: "predicted".into(),
                values: values(&held.predicted),
            });
            let map = TissueMap {
                title: format!("{gene} in {section}"),
                background: &background,
                places: &at,
                diameter: own.size_px as f64 * scale,
                panels,
            };
            let name = format!("{}_{}", plain(section), plain(gene));
            let path = folder.join(format!("{name}.png"));
            let what = format!("{}: measured, if known, and predicted", map.title);
            image::write_png(&path, &map.png(), &[("Title", &what)])?;
            write_bytes(folder.join(format!("{name}.svg")), map.svg()?.as_bytes())?;
            written.push(path.display().to_string());
        }
        control.progress.at(number + 1, section);
    }
    control.progress.end();
    Ok(written)
}

/// A name that is safe as a part of a file's.
fn plain(name: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let kept = name.chars().map(|c| if safe(c) { c } else { '_' });
    kept.collect()
}

/// The part of the image that holds these places and a margin, and its corner.
fn around(
    whole: &Rgb8,
    places: impl Iterator<Item = (f64, f64)>,
    margin: usize,
) -> ((f64, f64), Rgb8) {
    let none = (f64::INFINITY, f64::INFINITY, 0.0f64, 0.0f64);
    let (left, top, right, bottom) = places.fold(none, |(l, t, r, b), (x, y)| {
        (l.min(x), t.min(y), r.max(x), b.max(y))
    });
    let margin = margin as f64;
    let low = |v: f64| (v - margin).max(0.0).floor();
    let high = |v: f64, side: usize| ((v + margin).ceil() as usize).min(side);
    let corner = (low(left), low(top));
    let size = (
        high(right, whole.width).saturating_sub(corner.0 as usize),
        high(bottom, whole.height).saturating_sub(corner.1 as usize),
    );
    let window = picture::window(whole, (corner.0 as usize, corner.1 as usize), size);
    (corner, window)
}

/// The image at a size for looking at, and its pixels per pixel of the image.
fn thumbnail(picture: &Rgb8) -> Result<(Rgb8, f64)> {
    let longer = picture.width.max(picture.height).max(1);
    let scale = (MAP_PX as f64 / longer as f64).min(1.0);
    let side = |n: usize| ((n as f64 * scale).round() as usize).max(1);
    let small = tile::resize(picture, side(picture.width), side(picture.height))?;
    Ok((small, scale))
}

/// Two numbers with a comma between.
fn place(text: &str) -> std::result::Result<(f64, f64), String> {
    let number = |part: &str| match part.trim().parse::<f64>() {
        Ok(v) if v.is_finite() => Ok(v),
        _ => Err(format!("`{part}` is not a number of pixels")),
    };
    match text.split_once(',') {
        Some((x, y)) => Ok((number(x)?, number(y)?)),
        None => Err("write X,Y in pixels, such as 5000,4200".to_owned()),
    }
}

/// A tile to look into.
#[derive(Args)]
pub struct ExplainArgs {
    /// tcgn
    model: String,
    /// .pth, .pt or .safetensors
    #[arg(long)]
    weights: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArgs,
    /// A section, or a tile by itself (JPEG or PNG)
    #[arg(long)]
    image: PathBuf,
    /// Centre of the tile in pixels of the image; the whole image is the tile when left out
    #[arg(long, value_name = "X,Y", value_parser = place)]
    at: Option<(f64, f64)>,
    /// Genes to explain
    #[arg(long, value_name = "GENES", value_delimiter = ',', required = true)]
    gene: Vec<String>,
    /// Where gradients are taken, e.g. _fc (7 x 7 places), blocks_c.9 (14 x 14) or blocks_b.1 (28 x 28)
    #[arg(long, default_value = "_fc")]
    layer: String,
    /// Edges of each graph to draw, the strongest
    #[arg(long, default_value_t = 30)]
    edges: usize,
    /// Folder to write to
    #[arg(long)]
    out: PathBuf,
}

#[derive(Serialize)]
struct Explained {
    gene: String,
    prediction: f64,
    /// Side of the grid of `heat`.
    places: usize,
    heat: Vec<f32>,
    picture: String,
}

#[derive(Serialize)]
struct Explanations {
    layer: String,
    genes: Vec<Explained>,
    /// Of each graph: from, to (nodes by rows of the grid) and attention.
    edges: [Vec<(usize, usize, f32)>; 2],
    nodes_on_a_side: usize,
    pictures: Vec<String>,
}

pub fn explain(args: &ExplainArgs, device: &Device, json: bool, control: Control) -> Result<()> {
    if args.model != "tcgn" {
        return Err(Error::usage(
            format!("{} has no explanation", args.model),
            "use tcgn",
        ));
    }
    let predictor = args
        .network
        .open(args.weights.as_deref(), device, Precision::F32)?;
    let Some((model, genes)) = predictor.first() else {
        return Err(Error::usage("the run has no network", "train it first"));
    };
    if predictor.networks() > 1 {
        let note = "the run has several networks: the first fold's is explained";
        control.progress.note(note);
    }
    let known = places(genes);
    let wanted: Vec<(usize, &String)> = (args.gene.iter())
        .map(|gene| match known.get(gene.as_str()) {
            Some(&at) => Ok((at, gene)),
            None => Err(Error::usage(
                format!(
                    "{gene} is not among the {} genes that are predicted",
                    known.len()
                ),
                "name genes that the network was trained on",
            )),
        })
        .collect::<Result<_>>()?;
    let mut picture = image::read(&args.image)?;
    if icc(&predictor, &args.network)?
        && let Colours::Corrected(transform) = Colours::of(&args.image)?
    {
        transform.apply(&mut picture)?;
    }
    let cut = match args.at {
        Some(at) => {
            let side = args.network.tile_px(predictor.config.as_ref())?;
            tile::crop(&picture, at, side)?
        }
        None => picture,
    };
    let px = predictor.image_px();
    let seen = tile::resize(&cut, px, px)?;
    let mut values = vec![0.0f32; px * px * 3];
    tile::normalise(&seen, tile::IMAGENET_MEAN, tile::IMAGENET_STD, &mut values)?;
    let x: Tensor = images(&values, 1, px)?.to(device)?;

    // Before anything is written, so that a wrong layer leaves nothing behind.
    let explained = (wanted.iter())
        .map(|&(at, _)| model.explain(&x, at, &args.layer, args.edges))
        .collect::<Result<Vec<_>>>()?;
    create_dir_all(&args.out)?;
    // Of a size to look at, whatever the network sees.
    let side = px * SHOWN_PX.div_ceil(px.max(1));
    let shown = tile::resize(&cut, side, side)?;
    let mut result = Explanations {
        layer: args.layer.clone(),
        genes: Vec::new(),
        edges: [Vec::new(), Vec::new()],
        nodes_on_a_side: 0,
        pictures: Vec::new(),
    };
    let mut text = String::new();
    for ((_, gene), found) in wanted.into_iter().zip(explained) {
        let mut overlaid = shown.clone();
        picture::heat(&mut overlaid, &found.heat, found.columns);
        let path = args
            .out
            .join(format!("cam_{}_{}.png", plain(gene), plain(&args.layer)));
        let both = picture::beside(&[shown.clone(), overlaid], 12);
        let title = format!(
            "Grad-CAM of {gene} at {}: the tile, and what speaks for the gene",
            args.layer
        );
        image::write_png(&path, &both, &[("Title", &title)])?;
        text += &format!(
            "{}: {gene} predicted {:.4}; Grad-CAM at {} ({n} x {n} places)\n",
            path.display(),
            found.prediction,
            args.layer,
            n = found.columns
        );
        result.genes.push(Explained {
            gene: gene.clone(),
            prediction: found.prediction,
            places: found.columns,
            heat: found.heat,
            picture: path.display().to_string(),
        });
        if result.pictures.is_empty() {
            // The graphs are the same whatever the gene.
            result.nodes_on_a_side = found.side;
            for (number, edges) in found.edges.iter().enumerate() {
                let path = args.out.join(format!("graph{number}.png"));
                let drawn = graph(&shown, edges, found.side);
                let title = format!("The {} strongest edges of graph {number}", edges.len());
                image::write_png(&path, &drawn, &[("Title", &title)])?;
                text += &format!("{}: its {} strongest edges\n", path.display(), edges.len());
                result.pictures.push(path.display().to_string());
                let plain = edges.iter().map(|e| (e.from, e.to, e.attention));
                result.edges[number] = plain.collect();
            }
        }
    }
    let path = args.out.join("explain.json");
    let bytes = serde_json::to_vec_pretty(&result).map_err(|e| no_table(&e))?;
    write_bytes(&path, &bytes)?;
    text += &format!("{}", path.display());
    console::print(json, &result, &text)
}

/// Edges over the tile, the stronger the yellower; a dot at each end.
fn graph(tile: &Rgb8, edges: &[crate::models::tcgn::Edge], side: usize) -> Rgb8 {
    let mut image = tile.clone();
    picture::fade(&mut image, 0.2);
    let cell = image.width as f64 / side.max(1) as f64;
    let middle = |node: usize| {
        let (column, row) = (node % side.max(1), node / side.max(1));
        ((column as f64 + 0.5) * cell, (row as f64 + 0.5) * cell)
    };
    let attention = || edges.iter().map(|e| f64::from(e.attention));
    let high = attention().fold(f64::NEG_INFINITY, f64::max);
    let low = attention().fold(f64::INFINITY, f64::min);
    let mut ends = BTreeSet::new();
    // The strongest last, so that it lies on top.
    for edge in edges.iter().rev() {
        let share = match high > low {
            true => (f64::from(edge.attention) - low) / (high - low),
            false => 1.0,
        };
        let colour = picture::colour(share);
        picture::line(
            &mut image,
            middle(edge.from),
            middle(edge.to),
            3.0,
            colour,
            0.9,
        );
        ends.extend([edge.from, edge.to]);
    }
    for node in ends {
        picture::disc(&mut image, middle(node), 4.5, [20, 20, 20], 0.9);
    }
    image
}
