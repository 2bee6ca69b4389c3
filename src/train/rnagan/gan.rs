//! Trains generator and critic on tiles and the latents of their profiles.
//!
//! Latents are made once: the beta-VAE does not change. Each step asks for the gradients that
//! it uses and for no others: the generator's step for none of the critic, the critic's for none
//! of the generator.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::average::Average;
use super::config::{CriticNorm, GanConfig, Start};
use super::input::Input;
use super::picture::{grid, pictures};
use super::vae::Vae;
use super::watch::{Health, Signs};
use crate::cohort::Cohort;
use crate::cohort::store::TileStore;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::atomic::{create_dir_all, write_bytes};
use crate::formats::hash::sha256_bytes;
use crate::formats::tensorboard::{Event, Value, Writer};
use crate::formats::{Weights, read_weights, safetensors};
use crate::models::registry::generator_of;
use crate::models::rnagan::{Critic, Generator, Initial};
use crate::nn::{self, Pass, State};
use crate::ops;
use crate::optim::{Adam, Optimizer};
use crate::random::Philox;
use crate::shape::Format;
use crate::slides::Rgb8;
use crate::slides::augment::Augment;
use crate::slides::image::{png_bytes, write_png};
use crate::tensor::Tensor;
use crate::train::config::RunFile;
use crate::train::features::images;
use crate::train::fit::{
    DEVICE, checkpoint_path, load_optimizer, part, put, put_optimizer, same_device,
};
use crate::train::progress::Control;
use crate::train::run::{claim, index, json};
use crate::train::step::{Losses, TrainingStep};

/// Files of a run.
const GENERATOR: &str = "generator.safetensors";
const CRITIC: &str = "critic.safetensors";
const INPUT: &str = "input.safetensors";
const SUMMARY: &str = "summary.json";

/// Profiles and draws of noise that a sample grid shows.
const GRID: usize = 8;

/// Images that a network sees at once outside of training steps.
const BATCH: usize = 32;

/// What a run leaves besides its files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub slides: usize,
    pub tiles: usize,
    /// Slides that were not trained on.
    pub held_out: Vec<String>,
    pub signs: Vec<Signs>,
    /// The last epoch, from 0, whose generator was good: the one that is kept.
    pub kept: usize,
    pub collapsed: Vec<usize>,
    pub skipped: Vec<String>,
}

/// What a checkpoint says beside its arrays.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Record {
    signs: Vec<Signs>,
    kept: Option<usize>,
    collapsed: Vec<usize>,
    /// Steps that the mean of generators has seen.
    #[serde(default)]
    averaged: u64,
}

/// A tile and the sample whose profile it has.
type Item = (usize, usize);

/// Runs `config` in the folder `run` on `device`; `resume` continues what is there.
///
/// # Errors
/// Input that cannot be used, each named; a folder that holds another run; losses that are no
/// longer numbers, after the last good generator was saved; a stop request, after the state was
/// saved.
pub fn train(
    config: &GanConfig,
    run: &Path,
    resume: bool,
    device: &Device,
    control: Control,
) -> Result<Outcome> {
    config.validate()?;
    let _claim = claim(&config.to_toml()?, run, resume, device)?;
    let summary = run.join(SUMMARY);
    if let Ok(text) = std::fs::read_to_string(&summary) {
        return serde_json::from_str(&text).map_err(|e| {
            let remedy = "remove it to go on from the last checkpoint";
            Error::file(&summary, "", format!("cannot be read ({e})"), remedy)
        });
    }
    let profiles = config.input.start == Start::Profile;
    let mut cohort = config.data.read(profiles)?;
    let held_out = hold_out(&mut cohort, &config.training.hold_out)?;
    let total = cohort.tiles.len();
    control.progress.begin("collecting tiles", total);
    let store = TileStore::of(
        &mut cohort,
        config.model.image,
        &run.join("tiles.bin"),
        &mut |done| {
            control.progress.at(done, "");
            control.check("run the same command with --resume to go on")
        },
    )?;
    control.progress.end();

    let mut fingerprint = config.to_toml()?;
    let latents = match &config.vae {
        None => None,
        Some(path) => {
            let vae = Vae::read(path, device)?;
            let table = cohort.table.as_ref().ok_or_else(|| {
                Error::op(
                    "rnagan",
                    "internal: a cohort that was read without its table",
                )
            })?;
            let latents = vae.encode(table)?;
            if let Some(note) = latents.note(vae.genes().len()) {
                control.progress.note(&note);
            }
            fingerprint += &vae.sha256;
            fingerprint += &sha256_bytes(&latents.means.to_bytes()?);
            Some(latents.means)
        }
    };
    let of = |(s, sample): (usize, &crate::cohort::Sample)| -> Vec<Item> {
        sample.tiles.iter().map(|&tile| (tile, s)).collect()
    };
    let items: Vec<Item> = cohort.samples.iter().enumerate().flat_map(of).collect();
    if items.len() < 2 {
        return Err(Error::usage(
            "one tile is no batch: batch norm and the standardised latent of one are undefined",
            "give more tiles",
        ));
    }
    fingerprint += &format!("{items:?}");
    let of_items = match &latents {
        Some(latents) => Some(ops::index_select(
            latents,
            0,
            &index(items.iter().map(|&(_, s)| s))?,
        )?),
        None => None,
    };
    let input = Input::new(config.input_config(), of_items.as_ref(), device)?;
    input.write(&run.join(INPUT))?;
    let latents = latents.map(|t| t.to(device)).transpose()?;

    let mut random = Philox::fork(config.seed, "generator and critic");
    let sizes = config.model.sizes();
    let generator = Generator::new(input.latent, sizes, config.model.growth, &mut random)?;
    let critic = match config.model.critic_norm {
        CriticNorm::Batch => Critic::new(sizes, &mut random)?,
        CriticNorm::None => Critic::plain(sizes, &mut random)?,
    };
    if config.initial() == Initial::Dcgan {
        Initial::Dcgan.draw(&generator, &mut random)?;
        // Without norms so narrow weights would leave nothing of an image at the score.
        if config.model.critic_norm == CriticNorm::Batch {
            Initial::Dcgan.draw(&critic, &mut random)?;
        }
    }
    let critic = match config.model.critic_profile {
        true => critic.with_profile(input.latent)?,
        false => critic,
    };
    generator.to_device(device)?;
    critic.to_device(device)?;
    create_dir_all(run.join("samples"))?;
    let training = Training {
        config,
        cohort: &cohort,
        store,
        items,
        latents,
        input,
        generator,
        critic,
        fingerprint: sha256_bytes(fingerprint.as_bytes()),
        checkpoint: checkpoint_path(run),
        run,
        device,
        control,
    };
    let record = training.run()?;
    let outcome = Outcome {
        slides: slides(&cohort).len(),
        tiles: training.items.len(),
        held_out,
        kept: record.kept.unwrap_or(0),
        signs: record.signs,
        collapsed: record.collapsed,
        skipped: (cohort.skipped.iter())
            .map(|s| format!("{}: {}", s.what, s.why))
            .collect(),
    };
    write_bytes(summary, json(&outcome)?.as_bytes())?;
    let _ = std::fs::remove_file(checkpoint_path(run));
    Ok(outcome)
}

impl GanConfig {
    /// With what the published semantics decide.
    fn input_config(&self) -> super::config::InputConfig {
        let mut input = self.input;
        if self.loss.reference_quirks {
            input.standardise = super::config::Standardise::Batch;
        }
        input
    }
}

fn slides(cohort: &Cohort) -> BTreeSet<&str> {
    cohort.samples.iter().map(|s| s.slide.as_str()).collect()
}

/// Takes slides out of a cohort.
fn hold_out(cohort: &mut Cohort, names: &[String]) -> Result<Vec<String>> {
    for name in names {
        if !cohort.samples.iter().any(|s| s.slide == *name) {
            return Err(Error::usage(
                format!("training.hold_out names {name}, which the cohort does not have"),
                "name sections or slides of the data",
            ));
        }
    }
    let kept = |s: &crate::cohort::Sample| !names.contains(&s.slide);
    let rows: Vec<usize> = (0..cohort.samples.len())
        .filter(|&s| kept(&cohort.samples[s]))
        .collect();
    if rows.is_empty() {
        return Err(Error::usage(
            "training.hold_out names every slide, so none is left to train on",
            "leave slides out of it",
        ));
    }
    if let Some(table) = &cohort.table {
        cohort.table = Some(table.select_samples(&rows)?);
    }
    cohort.samples.retain(kept);
    Ok(names.to_vec())
}

struct Training<'a> {
    config: &'a GanConfig,
    cohort: &'a Cohort,
    store: TileStore,
    items: Vec<Item>,
    /// (samples, latent) on the device.
    latents: Option<Tensor>,
    input: Input,
    generator: Generator,
    critic: Critic,
    fingerprint: String,
    checkpoint: PathBuf,
    run: &'a Path,
    device: &'a Device,
    control: Control<'a>,
}

/// Both steps, and the mean of the generators that they lead to, if there is one.
struct Steps<'a> {
    generator: TrainingStep<'a>,
    critic: TrainingStep<'a>,
    average: Option<Average>,
}

/// The last generator and critic that were good.
#[derive(Default)]
struct Good {
    generator: Weights,
    critic: Weights,
}

impl Training<'_> {
    fn run(&self) -> Result<Record> {
        let config = self.config;
        let (g, c) = (&self.generator, &self.critic);
        let objective = config.loss.objective();
        let quirks = config.loss.reference_quirks;
        let start = |inputs: &[Tensor]| {
            let latents = self.latents.as_ref();
            let rows = latents.map(|all| ops::index_select(all, 0, &inputs[1]));
            self.input.of_batch(rows.transpose()?.as_ref(), &inputs[0])
        };
        let of_generator =
            |inputs: &[Tensor], pass: &Pass| objective.generator(g, c, &start(inputs)?, pass);
        let of_critic = |inputs: &[Tensor], pass: &Pass| {
            let z = start(inputs)?;
            match inputs.get(3) {
                None => objective.gap(g, c, [&inputs[2], &z], pass),
                Some(alpha) if quirks => objective.penalty(g, c, [&inputs[2], &z, alpha], pass),
                Some(alpha) => objective.critic(g, c, [&inputs[2], &z, alpha], pass),
            }
        };
        let adam = |lr: f64, model: &dyn State| {
            let betas = config.training.betas;
            let rule = Adam {
                lr,
                betas,
                ..Adam::default()
            };
            Optimizer::new(rule, model.parameters())
        };
        let of_g = adam(config.training.generator_rate, g)?;
        let of_c = adam(config.training.critic_rate, c)?;
        let mut steps = Steps {
            generator: TrainingStep::new(g, of_g, &of_generator)?.reading(c),
            critic: TrainingStep::new(c, of_c, &of_critic)?.reading(g),
            average: match config.training.average {
                0.0 => None,
                share => Some(Average::new(g, config.model.growth, share, self.device)?),
            },
        };
        if config.loss.clip > 0.0 {
            // Cutting weights gives them new places, which a graph would not know.
            steps.generator = steps.generator.uncaptured();
            steps.critic = steps.critic.uncaptured();
        }
        let (mut record, mut good) = self.resume(&mut steps)?.unwrap_or_default();
        let watched = self.watched()?;
        let mut events = Writer::new(self.run, record.signs.len() as u64 + 1)?;
        let mut saved = Instant::now();
        self.control
            .progress
            .begin("generator and critic", config.training.epochs);
        while record.signs.len() < config.training.epochs {
            let epoch = record.signs.len();
            let losses = self.epoch(epoch, &mut steps)?;
            let [real, z] = &watched;
            let kept_generator = steps.average.as_ref().map_or(g, |a| &a.generator);
            let signs = Signs::of((kept_generator, c), &objective, [real, z], losses)?;
            record.averaged = steps.average.as_ref().map_or(0, |a| a.steps);
            let detail = format!(
                "critic {:.3}, generator {:.3}, diversity {:.1} of {:.1}",
                signs.critic_loss, signs.generator_loss, signs.diversity, signs.real_diversity
            );
            self.control.progress.at(epoch + 1, &detail);
            match signs.health(&config.watch) {
                Health::Good => {
                    record.kept = Some(epoch);
                    good = self.weights(kept_generator)?;
                }
                Health::Collapsed => {
                    record.collapsed.push(epoch);
                    self.control.progress.note(&format!(
                        "epoch {epoch}: generated tiles are too much alike ({:.1} levels apart, \
                         real ones {:.1}); {}",
                        signs.diversity,
                        signs.real_diversity,
                        kept(&record)
                    ));
                }
                Health::Lost => {
                    self.write(&good)?;
                    return Err(Error::usage(
                        format!(
                            "the losses are no longer numbers in epoch {epoch} (critic {}, \
                             generator {}); {}",
                            signs.critic_loss,
                            signs.generator_loss,
                            kept(&record)
                        ),
                        "use lower learning rates or another seed, with another --out",
                    ));
                }
            }
            record.signs.push(signs);
            let samples = self.sample(kept_generator, epoch)?;
            events.add(&self.event(epoch, &signs, &samples)?)?;
            self.history(&record)?;
            let stopping = self.control.check("").is_err();
            let every = Duration::from_secs(config.checkpoint_seconds);
            if stopping || saved.elapsed() >= every {
                self.save(&steps, &record, &good)?;
                saved = Instant::now();
            }
            if stopping {
                self.control
                    .check("the state is saved; run the same command with --resume to go on")?;
            }
        }
        self.control.progress.end();
        if record.kept.is_none() {
            // Nothing was good: the last is what there is, and the record says so.
            good = self.weights(steps.average.as_ref().map_or(g, |a| &a.generator))?;
            record.kept = Some(config.training.epochs - 1);
        }
        self.write(&good)?;
        Ok(record)
    }

    /// The items of an epoch in its order.
    fn order(&self, epoch: usize) -> Vec<Item> {
        let seed = self.config.seed;
        let most = self.config.training.tiles_per_slide;
        let mut random = Philox::fork(seed, &format!("epoch {epoch} order"));
        let mut order = self.items.clone();
        random.shuffle(&mut order);
        if most > 0 {
            let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
            order.retain(|&(_, s)| {
                let count = seen.entry(&self.cohort.samples[s].slide).or_default();
                *count += 1;
                *count <= most
            });
        }
        order
    }

    /// Mean losses of generator and critic.
    fn epoch(&self, epoch: usize, steps: &mut Steps) -> Result<[f64; 2]> {
        let config = &self.config;
        let seed = config.seed;
        let (mut of_generator, mut of_critic) = (Losses::default(), Losses::default());
        let order = self.order(epoch);
        for (number, batch) in order.chunks(config.training.batch).enumerate() {
            // One tile has no batch statistics.
            if batch.len() < 2 {
                continue;
            }
            let n = batch.len();
            let stream =
                |what: &str| Philox::fork(seed, &format!("epoch {epoch} step {number} {what}"));
            let noise = |what: &str| self.input.noise(n, stream(what));
            let rows = index(batch.iter().map(|&(_, s)| s))?;
            let tiles: Vec<usize> = batch.iter().map(|&(tile, _)| tile).collect();
            let pixels = (self.store).read(&tiles, config.augment, stream("change"))?;
            // In the order in which a graph keeps its inputs.
            let real = images(&pixels, n, config.model.image)?.to_format(Format::Contiguous)?;
            let alphas = if config.loss.reference_quirks { 1 } else { n };
            let mut alpha = vec![0.0; alphas];
            stream("alpha").fill_uniform(&mut alpha, 0.0, 1.0);
            let alpha = Tensor::from_slice(&alpha, &[alphas])?;
            // Nothing that is drawn in a pass: there is no dropout.
            let random = Philox::new(0);
            let weight = n as f64;

            if config.loss.reference_quirks {
                let inputs = [noise("generator")?, rows.clone()];
                of_generator.push(&steps.generator.take(&inputs, random)?, weight)?;
                self.follow(steps)?;
                self.clip()?;
                let inputs = [noise("critic")?, rows.clone(), real.clone()];
                of_critic.push(&steps.critic.take(&inputs, random)?, weight)?;
                if config.loss.penalty > 0.0 {
                    let inputs = [noise("penalty")?, rows, real, alpha];
                    steps.critic.take(&inputs, random)?;
                }
                continue;
            }
            self.clip()?;
            let inputs = [noise("critic")?, rows.clone(), real, alpha];
            of_critic.push(&steps.critic.take(&inputs, random)?, weight)?;
            if (number + 1) % config.training.critic_steps == 0 {
                let inputs = [noise("generator")?, rows];
                of_generator.push(&steps.generator.take(&inputs, random)?, weight)?;
                self.follow(steps)?;
            }
        }
        Ok([of_generator.mean()?, of_critic.mean()?])
    }

    fn follow(&self, steps: &mut Steps) -> Result<()> {
        (steps.average.as_mut()).map_or(Ok(()), |average| average.follow(&self.generator))
    }

    fn clip(&self) -> Result<()> {
        let bound = self.config.loss.clip;
        if bound == 0.0 {
            return Ok(());
        }
        let params = self.critic.parameters();
        (params.iter()).try_for_each(|(_, p)| p.set(ops::clamp(&p.value(), -bound, bound)?))
    }

    /// At most `most` of the items, evenly spread.
    fn spread(&self, most: usize) -> Vec<Item> {
        let n = self.items.len();
        let take = n.min(most);
        (0..take).map(|i| self.items[i * n / take]).collect()
    }

    /// Real tiles and the generator's input for as many.
    fn watched(&self) -> Result<[Tensor; 2]> {
        let items = self.spread(self.config.watch.tiles);
        let tiles: Vec<usize> = items.iter().map(|&(tile, _)| tile).collect();
        let pixels = (self.store).read(&tiles, Augment::default(), Philox::new(0))?;
        let real = images(&pixels, tiles.len(), self.config.model.image)?;
        let random = Philox::fork(self.config.seed, "watched");
        let z = self.of_samples(items.iter().map(|&(_, s)| s).collect(), random)?;
        Ok([real.to(self.device)?, z])
    }

    /// The generator's input for tiles of these samples.
    fn of_samples(&self, samples: Vec<usize>, random: Philox) -> Result<Tensor> {
        let noise = self.input.noise(samples.len(), random)?.to(self.device)?;
        let rows = index(samples.into_iter())?.to(self.device)?;
        let latents = self.latents.as_ref();
        let latents = latents.map(|all| ops::index_select(all, 0, &rows));
        self.input.of_tiles(latents.transpose()?.as_ref(), &noise)
    }

    /// A row of tiles for each of a few samples, with the same noise in a column.
    fn sample(&self, generator: &Generator, epoch: usize) -> Result<Rgb8> {
        let samples: Vec<usize> = self.spread(GRID).iter().map(|&(_, s)| s).collect();
        let mut all = Vec::new();
        for &sample in &samples {
            let random = Philox::fork(self.config.seed, "sample grid");
            let z = self.of_samples(vec![sample; GRID], random)?;
            all.extend(pictures(&generator.forward(&z, &Pass::eval())?)?);
        }
        let picture = grid(&all, GRID)?;
        let path = self.run.join(format!("samples/epoch-{:04}.png", epoch + 1));
        let names: Vec<&str> = (samples.iter())
            .map(|&s| self.cohort.samples[s].id.as_str())
            .collect();
        write_png(
            path,
            &picture,
            &[
                ("eosin seed", &self.config.seed.to_string()),
                ("eosin epoch", &(epoch + 1).to_string()),
                ("eosin rows", &names.join(", ")),
            ],
        )?;
        Ok(picture)
    }

    /// An epoch's signs and samples for TensorBoard.
    fn event(&self, epoch: usize, signs: &Signs, samples: &Rgb8) -> Result<Event> {
        let scalar = |(name, value): (&str, f64)| (name.to_owned(), Value::Scalar(value as f32));
        let mut values: Vec<(String, Value)> = [
            ("loss/generator", signs.generator_loss),
            ("loss/critic", signs.critic_loss),
            ("critic/gap", signs.gap),
            ("diversity/generated", signs.diversity),
            ("diversity/real", signs.real_diversity),
            ("gradient/generator", signs.generator_gradient),
            ("gradient/critic", signs.critic_gradient),
        ]
        .map(scalar)
        .to_vec();
        let image = Value::Png {
            width: samples.width as u64,
            height: samples.height as u64,
            bytes: png_bytes(samples)?,
        };
        values.push(("samples".into(), image));
        Ok(Event {
            step: epoch as u64 + 1,
            values,
        })
    }

    fn history(&self, record: &Record) -> Result<()> {
        let mut text = String::from(
            "epoch,generator_loss,critic_loss,gap,diversity,real_diversity,generator_gradient,\
             critic_gradient\n",
        );
        for (i, s) in record.signs.iter().enumerate() {
            text += &format!(
                "{},{},{},{},{},{},{},{}\n",
                i + 1,
                s.generator_loss,
                s.critic_loss,
                s.gap,
                s.diversity,
                s.real_diversity,
                s.generator_gradient,
                s.critic_gradient
            );
        }
        write_bytes(self.run.join("history.csv"), text.as_bytes())
    }

    fn weights(&self, generator: &Generator) -> Result<Good> {
        Ok(Good {
            generator: nn::state_weights(generator)?,
            critic: nn::state_weights(&self.critic)?,
        })
    }

    fn write(&self, good: &Good) -> Result<()> {
        if good.generator.is_empty() {
            return Ok(());
        }
        safetensors::write(self.run.join(GENERATOR), &good.generator)?;
        safetensors::write(self.run.join(CRITIC), &good.critic)
    }

    fn save(&self, steps: &Steps, record: &Record, good: &Good) -> Result<()> {
        let mut all = Weights::new();
        let now = self.weights(&self.generator)?;
        put(&mut all, "generator/", &now.generator)?;
        put(&mut all, "critic/", &now.critic)?;
        put(&mut all, "good generator/", &good.generator)?;
        put(&mut all, "good critic/", &good.critic)?;
        if let Some(average) = &steps.average {
            let mean = nn::state_weights(&average.generator)?;
            put(&mut all, "average generator/", &mean)?;
        }
        put_optimizer(
            &mut all,
            "generator optimizer/",
            steps.generator.optimizer(),
        )?;
        put_optimizer(&mut all, "critic optimizer/", steps.critic.optimizer())?;
        for (key, value) in [
            ("record", json(record)?),
            ("fingerprint", self.fingerprint.clone()),
            (DEVICE, self.device.to_string()),
        ] {
            all.metadata.insert(key.into(), value);
        }
        safetensors::write(&self.checkpoint, &all)
    }

    fn resume(&self, steps: &mut Steps) -> Result<Option<(Record, Good)>> {
        if !self.checkpoint.exists() {
            return Ok(None);
        }
        let path = &self.checkpoint;
        let all = read_weights(path)?;
        let broken = |what: &str| {
            let remedy = "remove it; the training starts again from its beginning";
            Error::file(path, "", what, remedy)
        };
        if all.metadata.get("fingerprint") != Some(&self.fingerprint) {
            return Err(broken("is of other tiles, profiles or another beta-VAE"));
        }
        same_device(&all, self.device, path)?;
        let record = all.metadata.get("record");
        let record: Option<Record> = record.and_then(|r| serde_json::from_str(r).ok());
        let record = record.ok_or_else(|| broken("it holds no record"))?;
        nn::load(&self.generator, &part(&all, "generator/")?, path)?;
        nn::load(&self.critic, &part(&all, "critic/")?, path)?;
        for (step, name) in [
            (&mut steps.generator, "generator optimizer/"),
            (&mut steps.critic, "critic optimizer/"),
        ] {
            load_optimizer(step.optimizer_mut(), &part(&all, name)?)
                .map_err(|e| broken(&e.to_string()))?;
        }
        if let Some(average) = &mut steps.average {
            nn::load(&average.generator, &part(&all, "average generator/")?, path)?;
            average.steps = record.averaged;
        }
        let good = Good {
            generator: part(&all, "good generator/")?,
            critic: part(&all, "good critic/")?,
        };
        Ok(Some((record, good)))
    }
}

fn kept(record: &Record) -> String {
    match record.kept {
        Some(epoch) => format!("the generator of epoch {epoch} is kept"),
        None => "no generator was good so far".into(),
    }
}

/// A trained generator with what it starts from.
pub struct Trained {
    pub config: GanConfig,
    pub generator: Generator,
    pub input: Input,
    pub vae: Option<Vae>,
    device: Device,
}

impl Trained {
    /// Reads a run of [`train`].
    ///
    /// # Errors
    /// A folder without a finished run; a beta-VAE that is no longer where it was.
    pub fn read(run: &Path, device: &Device) -> Result<Self> {
        let config = GanConfig::read(&run.join("config.toml"))?;
        let path = run.join(GENERATOR);
        let weights = read_weights(&path)?;
        let generator = generator_of(&weights)?;
        nn::load(&generator, &weights, &path)?;
        generator.to_device(device)?;
        let input = Input::read(config.input, &run.join(INPUT), device)?;
        if input.latent != generator.latent() {
            return Err(Error::file(
                run.join(INPUT),
                "",
                format!(
                    "is of length {}, and the generator beside it takes {}",
                    input.latent,
                    generator.latent()
                ),
                "keep the files of a run together",
            ));
        }
        let vae = config.vae.as_deref();
        let vae = vae.map(|path| Vae::read(path, device)).transpose()?;
        if let Some(vae) = &vae
            && vae.model.config().latent != input.latent
        {
            return Err(Error::usage(
                format!(
                    "the beta-VAE's latents are {} long, and the generator takes {}",
                    vae.model.config().latent,
                    input.latent
                ),
                "keep the beta-VAE that the generator was trained with where it was",
            ));
        }
        Ok(Self {
            config,
            generator,
            input,
            vae,
            device: device.clone(),
        })
    }

    /// Images (N, 3, size, size) on the CPU of latents (N, latent), or of noise alone. Image i
    /// depends on row i and `random` at i alone.
    ///
    /// # Errors
    /// Latents of another width.
    pub fn generate(&self, latents: Option<&Tensor>, n: usize, random: Philox) -> Result<Tensor> {
        let mut parts = Vec::new();
        self.generate_parts(latents, n, random, &mut |part| {
            parts.push(part);
            Ok(())
        })?;
        match &parts[..] {
            [one] => Ok(one.clone()),
            all => ops::cat(&all.iter().collect::<Vec<_>>(), 0),
        }
    }

    /// The same, given to `take` as they are made, a few at a time: any number of them.
    ///
    /// # Errors
    /// Latents of another width; what `take` returns.
    pub fn generate_parts(
        &self,
        latents: Option<&Tensor>,
        n: usize,
        random: Philox,
        take: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        let noise = self.input.noise(n, random)?;
        for start in (0..n).step_by(BATCH) {
            let len = BATCH.min(n - start);
            let rows = |t: &Tensor| ops::slice(t, 0, start, len)?.to(&self.device);
            let latents = latents.map(rows).transpose()?;
            let z = self.input.of_tiles(latents.as_ref(), &rows(&noise)?)?;
            let images = self.generator.forward(&z, &Pass::eval())?;
            take(images.to(&Device::Cpu)?)?;
        }
        Ok(())
    }
}
