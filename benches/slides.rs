//! Reading and colouring slides, a round for each line on standard input: the half of
//! `benches/peers/slides.py` that is eosin's. A round prints its seconds.
//!
//!     slides random|tiles|macenko FILE ROUNDS_TILES

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use eosin::slides::scale::{self, Sampling, Scale};
use eosin::slides::stain::{Method, Normaliser, Stains};
use eosin::slides::tile::{IMAGENET_MEAN, IMAGENET_STD, normalise};
use eosin::slides::{self, Slide};
use rayon::prelude::*;

type Failure = Box<dyn std::error::Error>;

/// Side of a tile: at level 0 for `random` and `macenko`, of the result for `tiles`.
const RAW: usize = 256;
const PX: usize = 224;
const MPP: f64 = 0.5;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` and `cargo test` start every bench; without a task there is none.
    let [task, file, count, ..] = &args[..] else {
        return Ok(());
    };
    let (path, count): (&Path, usize) = (Path::new(file), count.parse()?);
    let work: Box<dyn Fn(u64) -> Result<f64, Failure>> = match &task[..] {
        "random" => Box::new(move |round| random(path, count, round)),
        "tiles" => Box::new(move |_| tiles(path)),
        "macenko" => {
            let slide = slides::open(path)?;
            // Of many places those that show tissue.
            let mut tiles = Vec::new();
            for at in places(&*slide, 40 * count, 0) {
                let tile = slide.read_region(0, at, (RAW, RAW))?;
                let sum: u64 = tile.data.iter().map(|&v| u64::from(v)).sum();
                if tiles.len() < count && sum < 190 * tile.data.len() as u64 {
                    tiles.push(tile);
                }
            }
            Box::new(move |_| Ok(macenko(&tiles)))
        }
        _ => return Err("the task is random, tiles or macenko".into()),
    };
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let round = line?.trim().parse()?;
        let began = Instant::now();
        let sum = work(round)?;
        println!("{} {sum}", began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The same places as the peers': a linear congruential generator's.
fn places(slide: &dyn Slide, count: usize, round: u64) -> Vec<(i64, i64)> {
    let level = &slide.facts().levels[0];
    let mut state = round.wrapping_add(1);
    let mut below = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % bound.max(1) as u64) as i64
    };
    (0..count)
        .map(|_| (below(level.width - RAW), below(level.height - RAW)))
        .collect()
}

/// The sum of a few pixels, so that both sides can be seen to read the same.
fn random(path: &Path, count: usize, round: u64) -> Result<f64, Failure> {
    let slide = slides::open(path)?;
    let sums = places(&*slide, count, round).into_par_iter().map(|at| {
        let tile = slide.read_region(0, at, (RAW, RAW))?;
        Ok(tile
            .data
            .iter()
            .step_by(997)
            .map(|&v| f64::from(v))
            .sum::<f64>())
    });
    Ok(sums.sum::<eosin::Result<f64>>()?)
}

/// Every tile of the slide on a grid, resampled and normalised: (tiles, 3 PX PX).
fn tiles(path: &Path) -> Result<f64, Failure> {
    let slide = slides::open(path)?;
    let scale: Scale = scale::of(slide.facts(), None)?;
    let sampling = Sampling::new(slide.facts(), &scale, MPP, PX)?;
    let level = &slide.facts().levels[0];
    let along = |length: usize| (length as f64 / sampling.side) as usize;
    let (columns, rows) = (along(level.width), along(level.height));
    let size = PX * PX * 3;
    let mut all = vec![0f32; columns * rows * size];
    (all.par_chunks_exact_mut(size).enumerate()).try_for_each(|(i, out)| {
        let at = |n: usize| (n as f64 * sampling.side).round() as i64;
        let tile = sampling.read(&*slide, (at(i % columns), at(i / columns)))?;
        normalise(&tile, IMAGENET_MEAN, IMAGENET_STD, out)
    })?;
    Ok(all.iter().step_by(997).map(|&v| f64::from(v)).sum())
}

/// Each tile fitted by itself and turned into the reference's colours.
fn macenko(tiles: &[slides::Rgb8]) -> f64 {
    let reference = Stains::reference(Method::Macenko);
    let sums = tiles.par_iter().map(|tile| {
        let mut tile = tile.clone();
        if let Some(stains) = Stains::fit(Method::Macenko, &tile.data)
            && let Some(normaliser) = Normaliser::new(&stains, &reference)
        {
            normaliser.apply(&mut tile);
        }
        tile.data
            .iter()
            .step_by(997)
            .map(|&v| f64::from(v))
            .sum::<f64>()
    });
    sums.sum()
}
