//! Decoded, resized and normalised tiles, a batch at a time.

use rayon::prelude::*;

use super::{Cohort, Colours, SourceImage, TileRef, name};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{self, StainMap};
use crate::slides::{Rgb8, tile};
use crate::tensor::Tensor;

/// Images are decoded together, in parallel, until they hold this many pixels
/// (3 bytes each); a larger one is decoded alone.
const WAVE_PIXELS: usize = 32 << 20;
/// Values that a batch may hold: 4 GiB.
const MAX_BATCH: usize = 1 << 30;

/// What the network wants to see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TileSpec {
    /// Side of a tile in pixels, after resizing.
    pub out_px: usize,
    /// Tiles in a batch; the last batch may be smaller.
    pub batch: usize,
    /// Of R, G, B in [0, 1].
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl TileSpec {
    /// Tiles for a network trained on ImageNet.
    pub fn imagenet(out_px: usize, batch: usize) -> Self {
        Self {
            out_px,
            batch,
            mean: tile::IMAGENET_MEAN,
            std: tile::IMAGENET_STD,
        }
    }
}

/// A tile that could not be decoded or cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusedTile {
    /// Index into [`Cohort::tiles`].
    pub tile: usize,
    pub what: String,
    pub why: String,
}

/// Calls `take` with batches of tiles, (tiles, out_px, out_px, 3) row-major, and
/// their indices in [`Cohort::tiles`].
///
/// Every tile that a sample uses comes once, by image and then by index,
/// whatever the number of threads. Each image is decoded once. Memory is that
/// of the batch and of the images decoded together: 96 MiB or one image,
/// whichever is more.
///
/// Tiles that cannot be used are returned, for [`Cohort::drop_tiles`].
///
/// # Errors
/// A size or batch of zero or beyond bounds; whatever `take` returns.
pub fn for_each_batch(
    cohort: &Cohort,
    spec: &TileSpec,
    take: impl FnMut(&[f32], &[usize]) -> Result<()>,
) -> Result<Vec<UnusedTile>> {
    for_each_batch_in(cohort, spec, &Colours::default(), take)
}

/// As [`for_each_batch`] with tiles in other colours.
///
/// # Errors
/// As [`for_each_batch`].
pub fn for_each_batch_in(
    cohort: &Cohort,
    spec: &TileSpec,
    colours: &Colours,
    take: impl FnMut(&[f32], &[usize]) -> Result<()>,
) -> Result<Vec<UnusedTile>> {
    let write = |job: &Job, out: &mut [f32]| {
        let mut tile = resized(job, spec)?;
        if let Some(normaliser) = colours.of(job.tile.image) {
            normaliser.apply(&mut tile);
        }
        tile::normalise(&tile, spec.mean, spec.std, out)
    };
    batches(cohort, spec, write, take)
}

/// As [`for_each_batch_in`], with batches as the tensor (tiles, 3, out_px, out_px) that a
/// network takes on `device`. To CUDA tiles go as bytes, a quarter as many, and are
/// stained and scaled there ([`ops::normalise_tiles`]). Their size, which differs from
/// tile to tile, is changed on the CPU, and so are the colours of Reinhard's method,
/// which is no map of densities.
///
/// # Errors
/// As [`for_each_batch`].
pub fn for_each_input(
    cohort: &Cohort,
    spec: &TileSpec,
    colours: &Colours,
    device: &Device,
    mut take: impl FnMut(Tensor, &[usize]) -> Result<()>,
) -> Result<Vec<UnusedTile>> {
    let px = spec.out_px;
    if matches!(device, Device::Cpu) {
        return for_each_batch_in(cohort, spec, colours, |values, tiles| {
            take(tile::images(values, tiles.len(), px)?, tiles)
        });
    }
    let map = |image: usize| colours.of(image).and_then(|n| n.stain_map());
    let write = |job: &Job, out: &mut [u8]| {
        let mut tile = resized(job, spec)?;
        if let Some(normaliser) = colours.of(job.tile.image)
            && normaliser.stain_map().is_none()
        {
            normaliser.apply(&mut tile);
        }
        out.copy_from_slice(&tile.data);
        Ok(())
    };
    batches(cohort, spec, write, |levels: &[u8], tiles| {
        let maps: Vec<Option<StainMap>> = (tiles.iter())
            .map(|&t| map(cohort.tiles[t].image))
            .collect();
        let mut parts = Vec::new();
        let mut rest = levels;
        // Tiles of a slide come one after the other and have one map.
        for run in maps.chunk_by(|a, b| a == b) {
            let (part, later) = rest.split_at(run.len() * px * px * 3);
            rest = later;
            let x = Tensor::from_slice(part, &[run.len(), px, px, 3])?.to(device)?;
            let (size, stain) = ([px, px], run[0].as_ref());
            let y = ops::normalise_tiles(&x, size, stain, spec.mean, spec.std, DType::F32)?;
            parts.push(y);
        }
        let x = match &parts[..] {
            [x] => x.clone(),
            parts => ops::cat(&parts.iter().collect::<Vec<_>>(), 0)?,
        };
        take(x, tiles)
    })
}

/// Batches of tiles, each written by `write`.
fn batches<T: Copy + Default + Send>(
    cohort: &Cohort,
    spec: &TileSpec,
    write: impl Fn(&Job, &mut [T]) -> Result<()> + Sync,
    mut take: impl FnMut(&[T], &[usize]) -> Result<()>,
) -> Result<Vec<UnusedTile>> {
    let sources = by_image(cohort)?;
    let mut batch = Batch::new(spec, &write, sources.iter().map(|s| s.tiles.len()).sum())?;
    let mut uncut = Vec::new();
    let mut unused = for_each_wave(&sources, |mut jobs| {
        while !jobs.is_empty() {
            let (now, later) = jobs.split_at(batch.room().min(jobs.len()));
            batch.fill(now, &mut uncut);
            if batch.room() == 0 {
                batch.hand_over(&mut take)?;
            }
            jobs = later;
        }
        Ok(())
    })?;
    batch.hand_over(&mut take)?;
    unused.append(&mut uncut);
    Ok(unused)
}

/// The tiles that samples use, by their index in [`Cohort::tiles`], as they lie in
/// their images: 3 bytes a pixel. Tiles that cannot be used are `None`, and
/// returned for [`Cohort::drop_tiles`]. Images are decoded as in
/// [`for_each_batch`].
///
/// # Errors
/// A sample or a tile that names what is not there.
pub fn cut_tiles(cohort: &Cohort) -> Result<(Vec<Option<Rgb8>>, Vec<UnusedTile>)> {
    let mut tiles: Vec<Option<Rgb8>> = vec![None; cohort.tiles.len()];
    let mut uncut = Vec::new();
    let mut unused = for_each_wave(&by_image(cohort)?, |jobs| {
        let cuts: Vec<Result<Rgb8>> = jobs.par_iter().map(cut).collect();
        for (job, outcome) in jobs.iter().zip(cuts) {
            match outcome {
                Ok(tile) => tiles[job.index] = Some(tile),
                Err(e) => uncut.push(job.unused(&e)),
            }
        }
        Ok(())
    })?;
    unused.append(&mut uncut);
    Ok((tiles, unused))
}

/// Decodes images in waves and calls `take` with the tiles of each; returns those
/// of images that could not be decoded.
fn for_each_wave(
    sources: &[Source],
    mut take: impl FnMut(&[Job]) -> Result<()>,
) -> Result<Vec<UnusedTile>> {
    let mut unused = Vec::new();
    for wave in waves(sources) {
        let decoded: Vec<Result<Rgb8>> = wave.par_iter().map(|s| decode(s.image)).collect();
        let mut jobs = Vec::new();
        for (source, decoded) in wave.iter().zip(&decoded) {
            match decoded {
                Ok(pixels) => jobs.extend(source.tiles.iter().map(|&(i, tile)| Job {
                    index: i,
                    tile,
                    source: source.image,
                    pixels,
                })),
                Err(e) => unused.extend(source.tiles.iter().map(|&(i, tile)| UnusedTile {
                    tile: i,
                    what: describe(source.image, tile),
                    why: e.to_string(),
                })),
            }
        }
        take(&jobs)?;
    }
    Ok(unused)
}

/// An image and the tiles wanted from it, with their indices.
struct Source<'a> {
    image: &'a SourceImage,
    tiles: Vec<(usize, &'a TileRef)>,
}

struct Job<'a> {
    index: usize,
    tile: &'a TileRef,
    source: &'a SourceImage,
    pixels: &'a Rgb8,
}

impl Job<'_> {
    fn unused(&self, why: &Error) -> UnusedTile {
        UnusedTile {
            tile: self.index,
            what: describe(self.source, self.tile),
            why: why.to_string(),
        }
    }
}

fn by_image(cohort: &Cohort) -> Result<Vec<Source<'_>>> {
    let mut used = vec![false; cohort.tiles.len()];
    for &tile in cohort.samples.iter().flat_map(|sample| &sample.tiles) {
        *used.get_mut(tile).ok_or_else(|| {
            Error::op(
                "for_each_batch",
                format!("a sample names tile {tile}, which is none"),
            )
        })? = true;
    }
    let mut sources: Vec<Source> = cohort
        .images
        .iter()
        .map(|image| Source {
            image,
            tiles: Vec::new(),
        })
        .collect();
    for (i, tile) in cohort.tiles.iter().enumerate().filter(|(i, _)| used[*i]) {
        let source = sources.get_mut(tile.image).ok_or_else(|| {
            Error::op(
                "for_each_batch",
                format!("tile {i} names image {}, which is none", tile.image),
            )
        })?;
        source.tiles.push((i, tile));
    }
    sources.retain(|source| !source.tiles.is_empty());
    Ok(sources)
}

/// Cuts the sources into runs that are decoded together.
fn waves<'a, 's>(mut rest: &'s [Source<'a>]) -> impl Iterator<Item = &'s [Source<'a>]> {
    std::iter::from_fn(move || {
        let mut pixels = 0usize;
        let fits = rest
            .iter()
            .take_while(|s| {
                pixels = pixels.saturating_add(s.image.width.saturating_mul(s.image.height));
                pixels <= WAVE_PIXELS
            })
            .count();
        let (wave, later) = rest.split_at(fits.max(1).min(rest.len()));
        rest = later;
        (!wave.is_empty()).then_some(wave)
    })
}

fn decode(source: &SourceImage) -> Result<Rgb8> {
    let pixels = source.read()?;
    if (pixels.width, pixels.height) != (source.width, source.height) {
        return Err(Error::file(
            &source.path,
            "",
            format!(
                "is {} x {} px and was {} x {} px when the folder was read",
                pixels.width, pixels.height, source.width, source.height
            ),
            "leave the images alone while they are in use",
        ));
    }
    Ok(pixels)
}

fn describe(source: &SourceImage, tile: &TileRef) -> String {
    match tile.centre {
        Some((x, y)) => format!("tile at ({x}, {y}) of {}", name(&source.path)),
        None => format!("tile {}", source.describe()),
    }
}

struct Batch<'a, T, W> {
    write: &'a W,
    /// Values in a tile.
    len: usize,
    /// (capacity, out_px, out_px, 3).
    values: Vec<T>,
    tiles: Vec<usize>,
    capacity: usize,
}

impl<'a, T, W> Batch<'a, T, W>
where
    T: Copy + Default + Send,
    W: Fn(&Job, &mut [T]) -> Result<()> + Sync,
{
    fn new(spec: &TileSpec, write: &'a W, tiles: usize) -> Result<Self> {
        let capacity = spec.batch.min(tiles.max(1));
        let len = spec
            .out_px
            .checked_mul(spec.out_px)
            .and_then(|n| n.checked_mul(3));
        let values = len.and_then(|n| n.checked_mul(capacity));
        match (len, values) {
            (Some(len), Some(values)) if values > 0 && values <= MAX_BATCH => Ok(Self {
                write,
                len,
                values: vec![T::default(); values],
                tiles: Vec::with_capacity(capacity),
                capacity,
            }),
            _ => Err(Error::usage(
                format!(
                    "batches of {} tiles of {} px are out of bounds",
                    spec.batch, spec.out_px
                ),
                "give both at least 1 and at most 4 GiB together",
            )),
        }
    }

    fn room(&self) -> usize {
        self.capacity - self.tiles.len()
    }

    /// Adds the tiles of `jobs`, at most as many as there is room for.
    fn fill(&mut self, jobs: &[Job], unused: &mut Vec<UnusedTile>) {
        let start = self.tiles.len();
        let outcomes: Vec<Result<()>> = self.values[start * self.len..]
            .par_chunks_exact_mut(self.len)
            .zip(jobs)
            .map(|(slot, job)| (self.write)(job, slot))
            .collect();
        for (i, (outcome, job)) in outcomes.into_iter().zip(jobs).enumerate() {
            match outcome {
                Ok(()) => {
                    // Close the gaps that failed tiles have left.
                    let (from, to) = (start + i, self.tiles.len());
                    if from != to {
                        self.values
                            .copy_within(from * self.len..(from + 1) * self.len, to * self.len);
                    }
                    self.tiles.push(job.index);
                }
                Err(e) => unused.push(job.unused(&e)),
            }
        }
    }

    fn hand_over(&mut self, take: &mut impl FnMut(&[T], &[usize]) -> Result<()>) -> Result<()> {
        if !self.tiles.is_empty() {
            take(&self.values[..self.tiles.len() * self.len], &self.tiles)?;
            self.tiles.clear();
        }
        Ok(())
    }
}

fn cut(job: &Job) -> Result<Rgb8> {
    match job.tile.centre {
        Some(centre) => tile::crop(job.pixels, centre, job.tile.size_px),
        None => Ok(job.pixels.clone()),
    }
}

/// The tile as the network is to see it, in the colours of its image.
fn resized(job: &Job, spec: &TileSpec) -> Result<Rgb8> {
    match job.tile.centre {
        Some(_) => tile::resize(&cut(job)?, spec.out_px, spec.out_px),
        None => tile::resize(job.pixels, spec.out_px, spec.out_px),
    }
}
