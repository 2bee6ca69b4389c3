//! Features of every tissue tile of a folder of slides.
//!
//! One thread reads: it claims slides, finds their tissue and decodes tiles on a
//! pool of its own, ahead of the network by as many batches as the memory budget
//! allows, across the end of one slide into the next. The caller's thread
//! computes, and writes each slide when its last batch is done.
//!
//! Tiles wait as bytes at the scale that was asked for, since what they show decides there
//! whether they are used. What makes them a network's input is done by its device: the
//! colours of Macenko's and Vahadane's methods, another size, mean and deviation are one
//! kernel on CUDA. Reinhard's colours, and those of tiles that are also kept themselves,
//! are made by the reading thread's pool, as all are for the CPU.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::claim::{Claim, claim};
use super::folder::{Entry, Shard, slides};
use super::outputs::{self, Paths, Placed};
use super::spots;
use crate::cohort::TileFile;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::atomic::{create_dir_all, remove_leftovers, write_bytes};
use crate::formats::hash::sha256_bytes;
use crate::models::backbone::Architecture;
use crate::ops::StainMap;
use crate::slides::icc::corrected;
use crate::slides::reader::Facts;
use crate::slides::scale::{self, Sampling, Scale};
use crate::slides::stain::{Method, Normaliser, STAIN_TILES, Stains};
use crate::slides::tile::network_input;
use crate::slides::tissue::grid::{GridRule, squares};
use crate::slides::tissue::quality::QualityRule;
use crate::slides::tissue::{self, Mask, TissueRule};
use crate::slides::{self as wsi, Rgb8, Slide};
use crate::tensor::Tensor;
use crate::train::config::Precision;
use crate::train::features::{Encoder, EncoderSource};
use crate::train::progress::Control;

/// Memory that the program takes beside the tiles that wait: weights, a batch in
/// the network, the masks of two slides, the features of one, and the decoded tiles
/// (128 MiB) that one slide keeps while it is read.
pub const BASE_MEMORY: u64 = 1 << 30;
/// Slides that a process has claimed at once: the one it computes, and the next,
/// which it reads ahead. More would keep other processes from them.
const IN_HAND: usize = 2;

/// What is made of which slides.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    #[serde(skip)]
    pub wsi_dir: PathBuf,
    #[serde(skip)]
    pub job_dir: PathBuf,
    /// CSV `wsi,mpp`.
    #[serde(skip)]
    pub list: Option<PathBuf>,
    /// The scale of every slide that the list does not name, by the user's word.
    #[serde(skip)]
    pub slide_mpp: Option<f64>,
    #[serde(skip)]
    pub shard: Option<Shard>,
    /// Bytes that the process may take.
    #[serde(skip)]
    pub memory: u64,
    /// What the network is called: [`Architecture::name`], or its family's.
    pub encoder: String,
    pub dtype: Precision,
    /// Micrometres per pixel of the tiles.
    pub mpp: f64,
    /// Side of the tiles.
    pub patch_px: usize,
    /// Side that the network sees, where tiles are enlarged for it as in its training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_px: Option<usize>,
    /// Folder with a list of spots for each slide, in place of a grid over its tissue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spots: Option<PathBuf>,
    pub batch: usize,
    pub tissue: TissueRule,
    pub grid: GridRule,
    pub quality: QualityRule,
    pub stain: Option<Method>,
    /// Whether slides are read in sRGB, by their ICC profiles.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub icc: bool,
    #[serde(skip)]
    pub outputs: Layouts,
}

/// A network that makes a row of numbers of each tile.
pub trait TileNetwork {
    /// Length of a row.
    fn columns(&self) -> usize;
    /// Where it computes.
    fn device(&self) -> Device;
    fn source(&self) -> &EncoderSource;
    /// Rows (N, columns), one after the other, of tiles (N, 3, H, W) on the device.
    ///
    /// # Errors
    /// Tiles of another size.
    fn rows(&self, x: &Tensor) -> Result<Vec<f32>>;
}

/// No network, where the tiles themselves are all that is wanted.
pub struct TilesAlone(EncoderSource);

impl Default for TilesAlone {
    fn default() -> Self {
        Self(EncoderSource {
            description: "tiles alone, without features".into(),
            sha256: String::new(),
            random: false,
        })
    }
}

impl TileNetwork for TilesAlone {
    fn columns(&self) -> usize {
        0
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn source(&self) -> &EncoderSource {
        &self.0
    }

    fn rows(&self, _: &Tensor) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }
}

impl TileNetwork for Encoder {
    fn columns(&self) -> usize {
        self.width
    }

    fn device(&self) -> Device {
        self.network.device()
    }

    fn source(&self) -> &EncoderSource {
        &self.source
    }

    fn rows(&self, x: &Tensor) -> Result<Vec<f32>> {
        self.network.features(x)?.to_f32_vec()
    }
}

/// Which layouts are written.
#[derive(Clone, Copy, Debug)]
pub struct Layouts {
    pub trident: bool,
    pub clam: bool,
    /// Tiles themselves, in LMDB as RNA-GAN reads them.
    pub lmdb: bool,
}

/// What became of a slide; written last, so that its being there says that the
/// outputs are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub slide: String,
    /// A hash of all that the outputs depend on.
    pub(super) recipe: String,
    /// Why there are no outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    pub tiles: usize,
    /// Tiles that could not be read, or show nothing, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unused: Vec<String>,
    pub mpp: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// What the slide's colours were turned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stains: Option<Stains>,
    /// SHA-256 of the ICC profile that was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    icc: Option<String>,
}

impl Status {
    /// What is said of a slide in a job's folder; `None` while nothing is.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(job: &Path, slide: &str) -> Result<Option<Self>> {
        let path = status_path(job, slide);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| {
                let problem = format!("does not say what became of the slide ({e})");
                Error::file(&path, "", problem, "remove it; the slide is done again")
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }
}

fn status_path(job: &Path, slide: &str) -> PathBuf {
    job.join("status").join(format!("{slide}.json"))
}

/// What a job came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    pub folder: String,
    pub encoder: String,
    pub slides: usize,
    /// Done by this process now; the others were done before or by others.
    pub done_here: usize,
    pub tiles: usize,
    pub unused_tiles: usize,
    /// Slides without any tissue.
    pub empty: Vec<String>,
    /// Slides whose stain could not be fitted, which were left as they are.
    pub unstained: Vec<String>,
    /// Slides without an ICC profile where one was to be applied.
    pub unprofiled: Vec<String>,
    /// Slides without outputs, and why.
    pub failed: Vec<String>,
    pub tiles_per_second: f64,
    /// Shares of the time of this process: reading and decoding (which runs beside
    /// computing), computing, and waiting for tiles.
    pub reading: f64,
    pub computing: f64,
    pub waiting: f64,
}

/// From the reading thread to the computing one.
enum Message {
    Slide(Box<Prepared>),
    Tiles(Vec<Decoded>, Duration),
    End,
    Known(Status),
}

/// The reading thread's ends of the two channels.
struct Line {
    send: SyncSender<Message>,
    /// A word for each slide that the computing thread is done with.
    finishes: Receiver<()>,
}

/// A slide in hand.
struct Prepared {
    _claim: Claim,
    status: Status,
    facts: Facts,
    scale: Scale,
    sampling: Sampling,
    mask: Mask,
    view: Rgb8,
    /// What the network's device does to the colours of tiles; they come as they are.
    stain: Option<StainMap>,
}

/// What is known of a slide before its tiles are read.
struct Found {
    slide: Box<dyn Slide>,
    /// SHA-256 of the profile that it is read with.
    icc: Option<String>,
    scale: Scale,
    sampling: Sampling,
    mask: Mask,
    view: Rgb8,
    places: Vec<Place>,
    /// Spots whose tile leaves the slide.
    outside: Vec<String>,
}

/// Where a tile lies, and what it is called, if it is a spot's.
#[derive(Clone, Debug)]
struct Place {
    at: (i64, i64),
    name: Option<String>,
}

/// A slide whose tiles are being computed.
struct Current {
    prepared: Box<Prepared>,
    /// (tiles, width).
    values: Vec<f32>,
    corners: Vec<(i64, i64)>,
    /// Of spots.
    names: Vec<String>,
    /// The tiles themselves, where they are asked for.
    stored: Option<TileFile>,
}

/// A tile, or why it is not used.
struct Decoded {
    place: Place,
    tile: Result<Rgb8, String>,
}

/// Extracts what is missing in the job's folder. Slides that other processes have
/// in hand are waited for, and taken up when those die.
///
/// # Errors
/// Bad settings; folders that cannot be read or written; a job folder that was
/// begun with other settings; a stop request. A slide that cannot be used is no
/// error, but listed in the summary.
pub fn run(config: &Config, encoder: &dyn TileNetwork, control: Control) -> Result<Summary> {
    scale::check(config.mpp, "the scale of tiles")?;
    let entries = slides(
        &config.wsi_dir,
        config.list.as_deref(),
        config.slide_mpp,
        config.shard,
    )?;
    let tile_bytes = (config.patch_px * config.patch_px * 3) as u64;
    let waiting = config.memory.saturating_sub(BASE_MEMORY) / 2;
    // One batch is being decoded and one taken apart beside those that wait.
    let ahead = (waiting / (tile_bytes * config.batch as u64).max(1)).saturating_sub(2);
    if ahead == 0 {
        return Err(Error::usage(
            format!("{} MiB hold no batch of tiles", config.memory >> 20),
            format!(
                "give --memory of more than {} MiB",
                (BASE_MEMORY + 8 * tile_bytes * config.batch as u64) >> 20
            ),
        ));
    }
    create_dir_all(&config.job_dir)?;
    let settings = same_settings(config, encoder)?;
    let job = Job {
        config,
        encoder_name: name(&config.encoder),
        settings,
        on_device: matches!(encoder.device(), Device::Cuda(_)),
        control,
    };
    control.progress.begin("extracting features", entries.len());
    let (send, receive) = sync_channel(ahead.min(64) as usize);
    let (finished, finishes) = channel();
    let line = Line { send, finishes };
    let threads = rayon::current_num_threads();
    let outcome = std::thread::scope(|scope| {
        let reading = std::thread::Builder::new()
            .name("slides".into())
            .spawn_scoped(scope, || job.read(&entries, threads, line))
            .map_err(|e| Error::usage(format!("no thread to read slides: {e}"), "try again"))?;
        // Its ends of both channels end with it, and so the reading thread does.
        let computed = job.compute(receive, finished, encoder, entries.len());
        let read = reading
            .join()
            .unwrap_or_else(|_| Err(Error::usage("the reading thread gave up", "report this")));
        match (computed, read) {
            (Err(e), _) | (Ok(_), Err(e)) => Err(e),
            (Ok(summary), Ok(())) => Ok(summary),
        }
    });
    control.progress.end();
    outcome
}

/// What the outputs of an encoder are called: its width tells the network that is
/// cut off early elsewhere from the whole one here.
pub fn name(encoder: &str) -> String {
    match encoder == Architecture::ResNet50.name() {
        true => format!("{encoder}-{}", Architecture::ResNet50.features()),
        false => encoder.to_owned(),
    }
}

/// Writes the settings into the job's folder, or compares them with those there;
/// gives their hash.
fn same_settings(config: &Config, encoder: &dyn TileNetwork) -> Result<String> {
    #[derive(Serialize)]
    struct Settings<'a> {
        #[serde(flatten)]
        config: &'a Config,
        weights_sha256: &'a str,
        device: &'static str,
    }
    let device = match encoder.device() {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
    };
    let settings = Settings {
        config,
        weights_sha256: &encoder.source().sha256,
        device,
    };
    let text = serde_json::to_string_pretty(&settings)
        .map_err(|e| Error::usage(format!("settings cannot be written: {e}"), "report this"))?;
    let path = config.job_dir.join("job.json");
    // Whoever comes first writes; all others must have the same.
    if !path.exists() {
        remove_leftovers(&config.job_dir);
        write_bytes(&path, text.as_bytes())?;
    }
    let there = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    if there != text {
        let differs = text.lines().find(|line| !there.contains(line));
        return Err(Error::file(
            &path,
            "",
            format!(
                "the job was begun with other settings (now: {})",
                differs.unwrap_or("fewer").trim().trim_end_matches(',')
            ),
            "take the same settings, or another --job-dir",
        ));
    }
    Ok(sha256_bytes(text.as_bytes()))
}

struct Job<'a> {
    config: &'a Config,
    encoder_name: String,
    settings: String,
    /// Whether tiles go to the network's device as bytes, to be stained there.
    on_device: bool,
    control: Control<'a>,
}

impl Job<'_> {
    fn status_path(&self, slide: &str) -> PathBuf {
        status_path(&self.config.job_dir, slide)
    }

    fn paths(&self, file: &Path, slide: &str) -> Paths {
        Paths::of(self.config, &self.encoder_name, file, slide)
    }

    /// What the outputs of a slide depend on; its content by length and time.
    fn recipe(&self, entry: &Entry) -> String {
        let meta = std::fs::metadata(&entry.path).ok();
        let changed = meta.as_ref().and_then(|m| m.modified().ok());
        let changed = changed.and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let spots = self.config.spots.as_ref().map(|folder| {
            let file = spots::file(folder, &entry.name).ok()?;
            Some(sha256_bytes(&std::fs::read(file).ok()?))
        });
        let mut text = format!(
            "{} {:?} {:?} {:?}",
            self.settings,
            meta.map(|m| m.len()),
            changed,
            entry.mpp
        );
        if let Some(spots) = spots {
            text += &format!(" {spots:?}");
        }
        sha256_bytes(text.as_bytes())
    }

    /// The status of a slide that is done as it would be done now.
    fn known(&self, entry: &Entry) -> Option<Status> {
        let text = std::fs::read_to_string(self.status_path(&entry.name)).ok()?;
        let status: Status = serde_json::from_str(&text).ok()?;
        let paths = self.paths(&entry.path, &entry.name);
        let layouts = self.config.outputs;
        let there = status.failure.is_some()
            || ((!layouts.trident || paths.features.exists())
                && (!layouts.clam || paths.pt.exists())
                && (!layouts.lmdb || paths.lmdb.exists()));
        (status.recipe == self.recipe(entry) && there).then_some(status)
    }

    fn write_status(&self, status: &Status) -> Result<()> {
        let path = self.status_path(&status.slide);
        create_dir_all(path.parent().unwrap_or(Path::new("")))?;
        let text = serde_json::to_string_pretty(status)
            .map_err(|e| Error::usage(format!("a status cannot be written: {e}"), "report this"))?;
        write_bytes(&path, text.as_bytes())
    }

    /// The reading thread. It ends when all slides are done, or the other end of the
    /// channel is gone.
    fn read(&self, entries: &[Entry], threads: usize, line: Line) -> Result<()> {
        let send = &line.send;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Error::usage(format!("no threads to decode: {e}"), "try again"))?;
        let claims = self.config.job_dir.join("claims");
        let mut in_hand = 0;
        let mut left: Vec<&Entry> = entries.iter().collect();
        while !left.is_empty() {
            let mut busy = Vec::new();
            for entry in left {
                if self.control.check("").is_err() {
                    return Ok(()); // said by the computing thread
                }
                let mut status = self.known(entry);
                while status.is_none() && in_hand >= IN_HAND {
                    if line.finishes.recv().is_err() {
                        return Ok(());
                    }
                    in_hand -= 1;
                }
                if status.is_none() {
                    match claim(&claims, &entry.name)? {
                        None => {
                            busy.push(entry);
                            continue;
                        }
                        Some(claim) => {
                            // Whoever had it before may have just finished.
                            status = self.known(entry);
                            if status.is_none() {
                                match pool.install(|| self.slide(entry, claim, send))? {
                                    Some(used) => in_hand += usize::from(used),
                                    None => return Ok(()),
                                }
                            }
                        }
                    }
                }
                if let Some(status) = status
                    && send.send(Message::Known(status)).is_err()
                {
                    return Ok(());
                }
            }
            if !busy.is_empty() {
                std::thread::sleep(Duration::from_millis(300));
            }
            left = busy;
        }
        Ok(())
    }

    /// Prepares and decodes one slide; says whether it could be used, or `None` when
    /// nobody listens any more.
    fn slide(
        &self,
        entry: &Entry,
        claim: Claim,
        send: &SyncSender<Message>,
    ) -> Result<Option<bool>> {
        let began = Instant::now();
        let mut status = Status {
            slide: entry.name.clone(),
            recipe: self.recipe(entry),
            failure: None,
            tiles: 0,
            unused: Vec::new(),
            mpp: self.config.mpp,
            scale: None,
            stains: None,
            icc: None,
        };
        let found = match self.prepare(entry) {
            Ok(found) => found,
            Err(e) => {
                status.failure = Some(e.to_string());
                self.write_status(&status)?;
                return Ok(send.send(Message::Known(status)).is_ok().then_some(false));
            }
        };
        let Found {
            slide,
            icc,
            scale,
            sampling,
            mask,
            view,
            places,
            outside,
        } = found;
        (status.unused, status.icc) = (outside, icc);
        let slide = &*slide;
        let mut normaliser = None;
        if let Some(method) = self.config.stain {
            status.stains = self.fit(method, slide, &sampling, &places);
            normaliser = (status.stains.as_ref())
                .and_then(|from| Normaliser::new(from, &Stains::reference(method)));
        }
        // Tiles that are kept themselves are kept in their new colours.
        let mut stain = None;
        if self.on_device
            && !self.config.outputs.lmdb
            && let Some(map) = normaliser.as_ref().and_then(Normaliser::stain_map)
        {
            (stain, normaliser) = (Some(map), None);
        }
        status.scale = Some(scale.clone());
        let message = Message::Slide(Box::new(Prepared {
            _claim: claim,
            status,
            facts: slide.facts().clone(),
            scale,
            sampling,
            mask,
            view,
            stain,
        }));
        let mut spent = began.elapsed();
        if send.send(message).is_err() {
            return Ok(None);
        }
        for batch in places.chunks(self.config.batch) {
            let began = Instant::now();
            let tiles: Vec<Decoded> = (batch.par_iter())
                .map(|place| {
                    let tile = sampling.read(slide, place.at).map_err(|e| e.to_string());
                    let tile = tile.and_then(|mut tile| {
                        if let Some(why) = self.config.quality.refusal(&tile) {
                            return Err(why);
                        }
                        if let Some(normaliser) = &normaliser {
                            normaliser.apply(&mut tile);
                        }
                        Ok(tile)
                    });
                    let place = place.clone();
                    Decoded { place, tile }
                })
                .collect();
            spent += began.elapsed();
            if send
                .send(Message::Tiles(tiles, std::mem::take(&mut spent)))
                .is_err()
            {
                return Ok(None);
            }
        }
        Ok(send.send(Message::End).is_ok().then_some(true))
    }

    fn prepare(&self, entry: &Entry) -> Result<Found> {
        let config = self.config;
        let mut slide = wsi::open(&entry.path)?;
        let mut icc = None;
        if config.icc {
            (slide, icc) = corrected(slide)?;
        }
        let scale = scale::of(slide.facts(), entry.mpp)?;
        let sampling = Sampling::new(slide.facts(), &scale, config.mpp, config.patch_px)?;
        let (mask, view) = tissue::find(&*slide, &scale, &config.tissue)?;
        let main = &slide.facts().levels[0];
        let size = (main.width, main.height);
        let (places, outside) = match &config.spots {
            None => {
                let corners = squares(size, sampling.side, config.patch_px, &mask, &config.grid)?;
                let place = |at| Place { at, name: None };
                (corners.into_iter().map(place).collect(), Vec::new())
            }
            Some(folder) => {
                let (mut places, mut outside) = (Vec::new(), Vec::new());
                for spot in spots::read(&spots::file(folder, &entry.name)?)? {
                    match spot.corner(sampling.side, size) {
                        Some(at) => places.push(Place {
                            at,
                            name: Some(spot.name),
                        }),
                        None => outside.push(format!("spot {}: leaves the slide", spot.name)),
                    }
                }
                (places, outside)
            }
        };
        Ok(Found {
            slide,
            icc,
            scale,
            sampling,
            mask,
            view,
            places,
            outside,
        })
    }

    /// The stains of a slide, from tiles all over it.
    fn fit(
        &self,
        method: Method,
        slide: &dyn Slide,
        sampling: &Sampling,
        places: &[Place],
    ) -> Option<Stains> {
        let take = places.len().min(STAIN_TILES);
        let tiles: Vec<Option<Rgb8>> = (0..take)
            .into_par_iter()
            .map(|i| {
                sampling
                    .read(slide, places[i * places.len() / take].at)
                    .ok()
            })
            .collect();
        let pixels: Vec<u8> = tiles.into_iter().flatten().flat_map(|t| t.data).collect();
        Stains::fit(method, &pixels)
    }

    /// The computing thread.
    fn compute(
        &self,
        receive: Receiver<Message>,
        finished: Sender<()>,
        encoder: &dyn TileNetwork,
        slides: usize,
    ) -> Result<Summary> {
        let began = Instant::now();
        let mut summary = Summary {
            folder: self.config.job_dir.display().to_string(),
            encoder: encoder.source().description.clone(),
            slides,
            ..Summary::default()
        };
        let (mut reading, mut computing) = (Duration::ZERO, Duration::ZERO);
        let mut waiting = Duration::ZERO;
        let (mut here, mut done) = (0usize, 0usize);
        let mut current: Option<Current> = None;
        loop {
            self.control
                .check("finished slides are kept; run the same command to go on")?;
            let before = Instant::now();
            let Ok(message) = receive.recv() else {
                break;
            };
            waiting += before.elapsed();
            let before = Instant::now();
            match message {
                Message::Known(status) => {
                    done += 1;
                    if let Some(why) = &status.failure {
                        self.control
                            .progress
                            .note(&format!("left out {}: {why}", status.slide));
                    }
                    count(&mut summary, self.config, &status);
                }
                Message::Slide(prepared) => {
                    let stored = match self.config.outputs.lmdb {
                        true => {
                            let paths = self.paths(&prepared.facts.path, &prepared.status.slide);
                            Some(outputs::tile_file(&paths, &prepared.status.slide)?)
                        }
                        false => None,
                    };
                    current = Some(Current {
                        stored,
                        prepared,
                        values: Vec::new(),
                        corners: Vec::new(),
                        names: Vec::new(),
                    });
                }
                Message::Tiles(tiles, spent) => {
                    reading += spent;
                    if let Some(current) = &mut current {
                        here += self.batch(tiles, encoder, current)?;
                    }
                }
                Message::End => {
                    if let Some(current) = current.take() {
                        let status = self.finish(current, encoder.columns())?;
                        finished.send(()).ok();
                        done += 1;
                        summary.done_here += 1;
                        count(&mut summary, self.config, &status);
                    }
                }
            }
            computing += before.elapsed();
            let all = began.elapsed().as_secs_f64();
            self.control.progress.at(
                done,
                &format!(
                    "{:.1} tiles/s, reading {:.0} %, computing {:.0} %",
                    here as f64 / all,
                    100.0 * reading.as_secs_f64() / all,
                    100.0 * computing.as_secs_f64() / all
                ),
            );
        }
        // The channel ends early when someone stops both threads.
        self.control
            .check("finished slides are kept; run the same command to go on")?;
        let all = began.elapsed().as_secs_f64().max(1e-9);
        summary.tiles_per_second = here as f64 / all;
        summary.reading = reading.as_secs_f64() / all;
        summary.computing = computing.as_secs_f64() / all;
        summary.waiting = waiting.as_secs_f64() / all;
        for list in [
            &mut summary.empty,
            &mut summary.unstained,
            &mut summary.unprofiled,
            &mut summary.failed,
        ] {
            list.sort();
        }
        Ok(summary)
    }

    /// Features of a batch; returns how many tiles were used.
    fn batch(
        &self,
        tiles: Vec<Decoded>,
        encoder: &dyn TileNetwork,
        current: &mut Current,
    ) -> Result<usize> {
        let px = self.config.network_px.unwrap_or(self.config.patch_px);
        let mut good = Vec::new();
        for Decoded { place, tile } in tiles {
            let at = place.at;
            match tile {
                Ok(tile) => {
                    if let Some(stored) = &mut current.stored {
                        stored.put(&tile, at)?;
                    }
                    current.corners.push(at);
                    current.names.extend(place.name);
                    good.push(tile);
                }
                Err(why) => current
                    .prepared
                    .status
                    .unused
                    .push(format!("tile at ({}, {}): {why}", at.0, at.1)),
            }
        }
        if good.is_empty() || encoder.columns() == 0 {
            return Ok(good.len());
        }
        let stain = current.prepared.stain.as_ref();
        let x = network_input(&good, px, stain, &encoder.device())?;
        current.values.extend(encoder.rows(&x)?);
        Ok(good.len())
    }

    fn finish(&self, current: Current, width: usize) -> Result<Status> {
        let Current {
            prepared,
            values,
            corners,
            names,
            stored,
        } = current;
        let mut status = prepared.status.clone();
        let paths = self.paths(&prepared.facts.path, &status.slide);
        let placed = Placed {
            name: &status.slide,
            facts: &prepared.facts,
            scale: &prepared.scale,
            sampling: &prepared.sampling,
            corners: &corners,
            names: &names,
        };
        outputs::write(
            &paths,
            self.config,
            &self.encoder_name,
            &placed,
            &values,
            width,
        )?;
        if let Some(stored) = stored {
            stored.finish(self.config.mpp)?;
        }
        outputs::write_tissue(&paths, &prepared.mask, &prepared.view, &placed)?;
        status.tiles = corners.len();
        self.write_status(&status)?;
        Ok(status)
    }
}

fn count(summary: &mut Summary, config: &Config, status: &Status) {
    let name = || status.slide.clone();
    summary.tiles += status.tiles;
    summary.unused_tiles += status.unused.len();
    if config.icc && status.failure.is_none() && status.icc.is_none() {
        summary.unprofiled.push(name());
    }
    match &status.failure {
        Some(why) => summary.failed.push(format!("{}: {why}", status.slide)),
        None if status.tiles == 0 => summary.empty.push(name()),
        None if config.stain.is_some() && status.stains.is_none() => summary.unstained.push(name()),
        None => {}
    }
}
