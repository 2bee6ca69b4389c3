//! `eosin quiz`: a page on which a person tells real tiles from generated ones.

use std::path::{Path, PathBuf};

use clap::Args;
use rayon::prelude::*;
use serde::Serialize;

use super::console;
use super::fid::{image_files, read_of_one_size};
use crate::error::{Error, Result};
use crate::formats::atomic::write_bytes;
use crate::random::Philox;
use crate::report::base64;
use crate::slides::image::{self, png_bytes};
use crate::slides::{Rgb8, tile};

#[derive(Args)]
pub struct QuizArgs {
    /// Folder of real images, in it or in folders of it
    real: PathBuf,
    /// Folder of generated images
    fake: PathBuf,
    /// The page to write
    #[arg(long, default_value = "quiz.html")]
    out: PathBuf,
    /// Tiles of each kind, drawn by the seed
    #[arg(long, default_value_t = 20)]
    each: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Side in pixels to which square tiles of any size are resized, so that size tells nothing
    #[arg(long)]
    px: Option<usize>,
}

const PAGE: &str = include_str!("quiz.html");
const PLACE: &str = "/*TILES*/[]";

#[derive(Serialize)]
struct Tile {
    png: String,
    generated: u8,
}

#[derive(Serialize)]
struct Made {
    page: String,
    real: usize,
    generated: usize,
}

pub fn quiz(args: &QuizArgs, json: bool) -> Result<()> {
    let mut random = Philox::fork(args.seed, "quiz");
    let [real, fake] = [&args.real, &args.fake].map(|f| draw(f, args.each, &mut random));
    let (real, fake) = (real?, fake?);
    let files: Vec<PathBuf> = real.iter().chain(&fake).cloned().collect();
    // Encoded anew: names and metadata would give the answer away.
    let images = match args.px {
        None => read_of_one_size(&files)?,
        Some(px) => read_at(&files, px)?,
    };
    let mut tiles = Vec::with_capacity(images.len());
    for (i, image) in images.iter().enumerate() {
        tiles.push(Tile {
            png: base64(&png_bytes(image)?),
            generated: u8::from(i >= real.len()),
        });
    }
    random.shuffle(&mut tiles);
    let text = serde_json::to_string(&tiles)
        .map_err(|e| Error::usage(format!("no page: {e}"), "report this"))?;
    write_bytes(&args.out, PAGE.replacen(PLACE, &text, 1).as_bytes())?;
    let made = Made {
        page: args.out.display().to_string(),
        real: real.len(),
        generated: fake.len(),
    };
    let text = format!(
        "{}: {} real and {} generated tiles; open it in a browser",
        made.page, made.real, made.generated
    );
    console::print(json, &made, &text)
}

/// Square images at `px` a side.
fn read_at(files: &[PathBuf], px: usize) -> Result<Vec<Rgb8>> {
    if !(1..=4096).contains(&px) {
        return Err(Error::usage(
            format!("tiles of {px} px cannot be shown"),
            "give --px from 1 to 4096",
        ));
    }
    let read = |file: &PathBuf| {
        let image = image::read(file)?;
        if image.width != image.height {
            let (width, height) = (image.width, image.height);
            return Err(Error::file(
                file,
                "",
                format!("is {width} x {height} px, and would be stretched to a square"),
                "give square tiles",
            ));
        }
        tile::resize(&image, px, px)
    };
    files.par_iter().map(read).collect()
}

fn draw(folder: &Path, n: usize, random: &mut Philox) -> Result<Vec<PathBuf>> {
    let mut files = image_files(folder)?;
    if n == 0 || files.len() < n {
        return Err(Error::file(
            folder,
            "",
            format!("has {} images, and {n} are asked for", files.len()),
            "set --each to at least 1 and at most as many as both folders have",
        ));
    }
    random.shuffle(&mut files);
    files.truncate(n);
    Ok(files)
}
