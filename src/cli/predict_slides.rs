//! `eosin run`: expression of a folder of slides by a finished run, with maps and a report.

use std::path::PathBuf;

use clap::Args;

use super::console;
use super::slides::{TileArgs, incomplete};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::atomic::create_dir_all;
use crate::jobs::Config;
use crate::jobs::features::Layouts;
use crate::jobs::folder::Shard;
use crate::jobs::predict::{self, Model, Options, Outcome, Predicted};
use crate::report::{Report, number};
use crate::slides::image;
use crate::slides::tile;
use crate::train::config::Precision;
use crate::train::progress::Control;
use crate::train::seen::Seen;

/// Slides whose maps the report shows; the others' lie in the folder.
const SHOWN: usize = 24;
/// The longer side of a map in the report, in pixels.
const SHOWN_PX: usize = 420;

#[derive(Args)]
pub struct RunArgs {
    /// Folder of slides: SVS, TIFF, OME-TIFF, JPEG, PNG; others through OpenSlide
    #[arg(long)]
    wsi_dir: PathBuf,
    /// Folder of a finished run of DeepPT, tRNAsformer, HE2RNA or TCGN
    #[arg(long)]
    model: PathBuf,
    /// Folder to write to; the same command goes on with it, and any number of processes may share it
    #[arg(long)]
    output: PathBuf,
    /// Micrometres per pixel of the tiles as the network sees them [default: as in training]
    #[arg(long)]
    mpp: Option<f64>,
    /// Predict although --mpp is another scale than the run was trained at
    #[arg(long)]
    any_mpp: bool,
    /// Genes to draw over the slides [default: the 4 that the run predicted best]
    #[arg(long, value_name = "GENES", value_delimiter = ',')]
    maps: Vec<String>,
    /// Also write every gene of every tile, as tiles/<slide>.h5ad
    #[arg(long)]
    tile_tables: bool,
    /// Only part i of n of the slides, counted from 0; without it the tables and the report are made
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Seed of --max-tiles and --random-tiles
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    tiles: TileArgs,
}

pub fn run(
    args: &RunArgs,
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let model = Model::read(&args.model, dtype, device)?;
    let scale = Scale::of(args, &model, control)?;
    let drawn = model.drawn(&args.maps)?;
    let config = Config {
        wsi_dir: args.wsi_dir.clone(),
        job_dir: predict::job_dir(&args.output),
        shard: args.shard,
        encoder: model.encoder().to_owned(),
        dtype: model.dtype,
        mpp: scale.mpp,
        patch_px: scale.px,
        network_px: (scale.px != model.tile_px).then_some(model.tile_px),
        stain: model.stain,
        icc: model.icc,
        outputs: Layouts {
            trident: true,
            clam: false,
            lmdb: false,
        },
        ..args.tiles.config(args.seed)?
    };
    create_dir_all(&args.output)?;
    control.progress.note(&format!(
        "{}: {}; tiles of {} px at {:.4} µm per pixel{}",
        model.title(),
        model.tiles().source().description,
        scale.px,
        scale.mpp,
        match config.network_px {
            Some(px) => format!(", enlarged to {px} px as in training"),
            None => String::new(),
        }
    ));
    let options = Options {
        output: args.output.clone(),
        drawn,
        tile_tables: args.tile_tables,
    };
    let outcome = predict::predict(&model, &config, &options, control)?;
    let mut text = said(&outcome);
    if args.shard.is_none() {
        predict::write_tables(&model, &outcome, &args.output)?;
        let page = report(args, &model, &config, &options, &outcome)?;
        page.write(args.output.join("report.html"))?;
        let at = |name: &str| args.output.join(name).display().to_string();
        text += &format!("\nslides x genes     {}", at("predictions.csv"));
        text += &format!("\n                   {}", at("predictions.h5ad"));
        text += &format!("\nreport             {}", at("report.html"));
    } else {
        text += "\nrun the same command without --shard for the tables and the report";
    }
    console::print(json, &outcome, &text)?;
    incomplete(&outcome.job, "predictions")
}

/// At which scale tiles are read.
struct Scale {
    mpp: f64,
    /// Side of what is read; the network may see it enlarged.
    px: usize,
}

impl Scale {
    fn of(args: &RunArgs, model: &Model, control: Control) -> Result<Self> {
        let whole = |mpp: f64| Self {
            mpp,
            px: model.tile_px,
        };
        let own = model.seen.as_ref().and_then(|seen| Some((seen, seen.mpp?)));
        match (own, args.mpp) {
            (None, None) => Err(Error::file(
                &args.model,
                "",
                "does not say at which scale it was trained",
                format!(
                    "give --mpp, the micrometres per pixel of its tiles of {} px",
                    model.tile_px
                ),
            )),
            (None, Some(mpp)) => {
                let none = Seen::default();
                if let Some(note) = none.admit("the slides", Some(mpp), args.any_mpp)? {
                    control.progress.note(&note);
                }
                Ok(whole(mpp))
            }
            (Some((seen, own)), given) => {
                let mpp = given.unwrap_or(own);
                if let Some(note) = seen.admit("--mpp", Some(mpp), args.any_mpp)? {
                    control.progress.note(&note);
                }
                // Tiles that were enlarged in training are not read any finer here.
                let px = seen.cut_px.clamp(1, model.tile_px);
                Ok(Self {
                    mpp: mpp * model.tile_px as f64 / px as f64,
                    px,
                })
            }
        }
    }
}

fn said(outcome: &Outcome) -> String {
    let job = &outcome.job;
    let mut lines = vec![format!(
        "{} slides, {} predicted, {} tiles, {} tiles left out",
        job.slides,
        outcome.predicted.len(),
        job.tiles,
        job.unused_tiles
    )];
    for (what, list) in [
        ("no tissue", &job.empty),
        ("stain not fitted", &job.unstained),
        ("no ICC profile", &job.unprofiled),
        ("left out", &job.failed),
    ] {
        lines.extend(list.iter().map(|slide| format!("{what}: {slide}")));
    }
    lines.join("\n")
}

fn report(
    args: &RunArgs,
    model: &Model,
    config: &Config,
    options: &Options,
    outcome: &Outcome,
) -> Result<Report> {
    let (job, slides) = (&outcome.job, &outcome.predicted);
    let mut page = Report::new(format!("{}: expression of slides", model.title()));
    page.subtitle(format!(
        "{} of {} slides of {}, predicted by {}",
        slides.len(),
        job.slides,
        args.wsi_dir.display(),
        args.model.display()
    ));
    let source = model.tiles().source();
    if source.random {
        page.warning(format!("Features: {}.", source.description));
    }
    let known = model.seen.as_ref().and_then(|seen| seen.mpp);
    match known {
        None => page.warning(
            "The run does not say at which scale it was trained: whether the slides' is the same \
             is not known.",
        ),
        Some(own) if args.mpp.is_some_and(|mpp| (mpp / own - 1.0).abs() > 0.05) => page.warning(
            format!("The run was trained at {own:.3} µm per pixel and was shown other tiles."),
        ),
        Some(_) => &mut page,
    };
    if !job.failed.is_empty() {
        page.warning(format!("{} slides were left out.", job.failed.len()));
    }
    page.headline(slides.len().to_string(), "slides predicted")
        .headline(model.genes().len().to_string(), "genes")
        .headline(job.tiles.to_string(), "tiles");
    let genes: Vec<&str> = (options.drawn.iter())
        .map(|&gene| model.genes()[gene].as_str())
        .collect();

    let header: Vec<&str> = ["slide", "tiles", "µm per pixel"]
        .into_iter()
        .chain((!model.classes().is_empty()).then_some("class"))
        .chain(genes.iter().copied())
        .collect();
    let row = |slide: &Predicted| -> Vec<String> {
        let values = options.drawn.iter().map(|&g| slide.genes[g]);
        let mut row = vec![
            slide.slide.clone(),
            slide.tiles.to_string(),
            number(slide.mpp, 4),
        ];
        if let Some(at) = slide.likeliest() {
            let share = number(f64::from(slide.classes[at]), 2);
            row.push(format!("{} ({share})", model.classes()[at]));
        }
        row.extend(values.map(|v| number(f64::from(v), 4)));
        row
    };
    page.section("Slides")
        .paragraph(format!(
            "Predicted expression, {}. {} All genes are in predictions.csv and predictions.h5ad.",
            model.transforms(),
            model.meaning()
        ))
        .table("", &header, &slides.iter().map(row).collect::<Vec<_>>());

    let section = page.section("Maps");
    section.paragraph(
        "Each tile's prediction over the slide, from the slide's lowest (foot of the bar) to its \
         highest. Colours of two pictures are not of one scale.",
    );
    for slide in slides.iter().take(SHOWN) {
        let mut pictures = Vec::new();
        for ((map, gene), [low, high]) in slide.maps.iter().zip(&genes).zip(&slide.ranges) {
            let whole = image::read(args.output.join(map))?;
            let longest = whole.width.max(whole.height).max(1);
            let share = (SHOWN_PX as f64 / longest as f64).min(1.0);
            let side = |n: usize| ((n as f64 * share).round() as usize).max(1);
            let small = tile::resize(&whole, side(whole.width), side(whole.height))?;
            let range = [low, high].map(|&v| number(f64::from(v), 3));
            let label = format!("{gene}: {} to {}", range[0], range[1]);
            pictures.push((image::png_bytes(&small)?, label));
        }
        section.images(pictures, &slide.slide);
    }
    if slides.len() > SHOWN {
        section.paragraph(format!(
            "The first {SHOWN} of {} slides; all pictures are in the folder maps.",
            slides.len()
        ));
    }
    let mut left_out: Vec<Vec<String>> = Vec::new();
    for (what, list) in [
        ("no tissue", &job.empty),
        ("stain not fitted, left as it is", &job.unstained),
        ("no ICC profile, colours as they are", &job.unprofiled),
        ("left out", &job.failed),
    ] {
        left_out.extend(
            list.iter()
                .map(|slide| vec![what.to_owned(), slide.clone()]),
        );
    }
    if !left_out.is_empty() {
        page.section("Slides to look at")
            .table("", &["what", "slide"], &left_out);
    }
    page.section("What was run").facts([
        ("eosin", env!("CARGO_PKG_VERSION").to_owned()),
        ("run", args.model.display().to_string()),
        ("features", source.description.clone()),
        ("weights, SHA-256", source.sha256.clone()),
        (
            "tiles",
            format!(
                "{} px at {:.4} µm per pixel{}",
                config.patch_px,
                config.mpp,
                match config.network_px {
                    Some(px) => format!(", enlarged to {px} px"),
                    None => String::new(),
                }
            ),
        ),
        (
            "trained at",
            known.map_or_else(
                || "not known".to_owned(),
                |mpp| format!("{mpp:.4} µm per pixel of {} px", model.tile_px),
            ),
        ),
        (
            "stain",
            config.stain.map_or("as it is", |s| s.name()).to_owned(),
        ),
        (
            "colour profiles",
            if config.icc {
                "applied, to sRGB"
            } else {
                "not applied"
            }
            .to_owned(),
        ),
    ]);
    Ok(page)
}
