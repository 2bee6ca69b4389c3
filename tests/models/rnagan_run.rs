//! Runs of RNA-GAN: they learn what is planted, end with the same bytes when they were
//! interrupted, and refuse what cannot be learned.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use eosin::formats::{read_weights, tensorboard};
use eosin::models::registry::Model;
use eosin::models::rnagan::Initial;
use eosin::random::Philox;
use eosin::session::Threads;
use eosin::slides::{Rgb8, image::write_png};
use eosin::train::config::{DataConfig, Layout, RunFile};
use eosin::train::progress::{Control, Progress};
use eosin::train::rnagan::config::{
    BetaVaeConfig, CriticNorm, GanConfig, InputConfig, LossConfig, Standardise, Start,
};
use eosin::train::rnagan::gan::{self, Trained};
use eosin::train::rnagan::vae::{self, Vae};
use eosin::{Device, Result};
use eosin_emulator::Schedule;
use libtest_mimic::Trial;

use crate::trial::trial;
use crate::under_test;

pub fn trials() -> Vec<Trial> {
    let mut all = vec![
        trial("rnagan_run::the_vae_learns_what_is_planted", vae_learns),
        trial("rnagan_run::vae_resumes_with_the_same_bytes", vae_resumes),
        trial("rnagan_run::genes_of_another_table", other_genes),
        trial("rnagan_run::refusals", refusals),
        trial("rnagan_run::nothing_is_lost_with_the_numbers", lost),
        trial("rnagan_run::noise_alone", noise_alone),
    ];
    let name = "rnagan_run::an_interrupted_run_ends_with_the_same_bytes";
    for quirks in [false, true] {
        let kind = if quirks { "quirks" } else { "plain" };
        all.push(trial(format!("{name}::{kind}::cpu"), move || {
            gan_resumes(quirks, &|| Ok(Device::Cpu))
        }));
    }
    // The quirks change sums and their order, not what a device keeps between steps.
    all.push(trial(format!("{name}::plain::cuda"), || {
        gan_resumes(false, &|| {
            Ok(Device::Cuda(under_test::device(Schedule::Greedy(3))?))
        })
    }));
    all
}

/// Asks for a stop after an epoch, and keeps what is noted.
#[derive(Default)]
pub(crate) struct Watcher {
    pub(crate) stop_after: Option<usize>,
    pub(crate) stop: AtomicBool,
    pub(crate) notes: Mutex<Vec<String>>,
}

impl Watcher {
    pub(crate) fn control(&self) -> Control<'_> {
        Control {
            progress: self,
            stop: &self.stop,
        }
    }
}

impl Progress for Watcher {
    fn begin(&self, _: &str, _: usize) {}
    fn at(&self, done: usize, detail: &str) {
        if self.stop_after == Some(done) && !detail.is_empty() {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
    fn note(&self, message: &str) {
        self.notes.lock().expect("notes").push(message.to_owned());
    }
    fn end(&self) {}
}

const GENES: usize = 6;

/// Tiles of 20 px in folders of slides of two kinds, and a table in the published layout: reddish
/// tiles where the first half of the genes is high.
fn cohort(folder: &Path, slides: usize) {
    let mut table = String::from("wsi_file_name,Labels");
    (0..GENES).for_each(|g| table += &format!(",rna_G{g}"));
    let mut random = Philox::new(5);
    for slide in 0..slides {
        let name = format!("S{slide:02}");
        let kind = slide % 2;
        table += &format!("\n{name},{kind}");
        for gene in 0..GENES {
            let high = usize::from(gene < GENES / 2) == kind;
            let value = if high { 50 } else { 5 } + random.below(5);
            table += &format!(",{value}");
        }
        let at = folder.join(&name);
        fs::create_dir_all(&at).expect("a folder");
        for tile in 0..4 {
            let mut pixel = || {
                let noise = random.below(40) as u8;
                match kind {
                    0 => [60 + noise, 60, 180],
                    _ => [200, 90 + noise, 120],
                }
            };
            let data = (0..400).flat_map(|_| pixel()).collect();
            let image = Rgb8 {
                width: 20,
                height: 20,
                data,
            };
            write_png(at.join(format!("{tile}.png")), &image, &[]).expect("a tile");
        }
    }
    fs::write(folder.join("profiles.csv"), table).expect("a table");
}

fn vae_config(folder: &Path) -> BetaVaeConfig {
    let text = format!(
        "seed = 2\ncheckpoint_seconds = 0\n[profiles]\ntable = {:?}\n\
         [model]\nencoder = [12, 8]\nlatent = 5\ndecoder = [9]\ndropout = 0.1\n\
         [training]\nepochs = 4\nbatch = 5\nlearning_rate = 3e-3\nwarmup = 1\n",
        folder.join("profiles.csv")
    );
    let path = folder.join("vae.toml");
    fs::write(&path, text).expect("a run file");
    BetaVaeConfig::read(&path).expect("a configuration")
}

fn gan_config(folder: &Path, vae: &Path) -> GanConfig {
    let mut data = DataConfig::new(Layout::Tiles, folder.join("tiles"));
    data.expression = Some(folder.join("tiles/profiles.csv"));
    let text = "[data]\nlayout = \"tiles\"\npath = \"tiles\"\n[model]\nimage = 16\nstep = 4\n\
                [training]\nepochs = 3\nbatch = 5\n[augment]\nflip = true\nbrightness = 0.1\n\
                [watch]\ntiles = 6\n";
    let path = folder.join("gan.toml");
    fs::write(&path, format!("vae = {vae:?}\n{text}")).expect("a run file");
    let mut config = GanConfig::read(&path).expect("a configuration");
    config.checkpoint_seconds = 0;
    config.data = data;
    config
}

/// A folder with tiles and a trained VAE.
fn prepared(device: &Device) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir().expect("a folder");
    cohort(&folder.path().join("tiles"), 6);
    let config = vae_config(&folder.path().join("tiles"));
    let run = folder.path().join("vae");
    vae::train(&config, &run, false, device, Watcher::default().control())?;
    Ok(folder)
}

fn vae_learns() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    cohort(folder.path(), 40);
    let mut config = vae_config(folder.path());
    config.training.epochs = 60;
    let run = folder.path().join("run");
    let watcher = Watcher::default();
    let made = vae::train(&config, &run, false, &Device::Cpu, watcher.control())?;
    assert_eq!(made.samples.iter().sum::<usize>(), 40);
    assert_eq!(made.genes, GENES);
    // Standardised, the two kinds are at about 1 and -1: beyond what tanh can reach.
    assert!(
        made.test_error < 0.3 * made.test_error_of_mean,
        "{} against {}",
        made.test_error,
        made.test_error_of_mean
    );
    let pearson = made.median_pearson.expect("enough samples");
    assert!(pearson > 0.9, "{pearson}");
    assert!(!made.same_patient);
    // Read again, it gives latents that tell the kinds apart.
    let vae = Vae::read(&run, &Device::Cpu)?;
    let table = eosin::expression::table::read(
        folder.path().join("profiles.csv"),
        eosin::expression::Orientation::Auto,
    )?;
    assert_eq!(table.genes[0], "G0");
    let latents = vae.encode(&table)?;
    assert_eq!((latents.missing, latents.unknown), (0, 0));
    let decoded = vae.decode(&latents.means)?;
    for (i, row) in decoded.chunks(GENES).enumerate() {
        assert_eq!(row[0] > 0.0, i % 2 == 1, "sample {i}: {row:?}");
    }
    Ok(())
}

fn vae_resumes() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    cohort(folder.path(), 10);
    let config = vae_config(folder.path());
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let go = |run: &Path, resume: bool, watcher: &Watcher| {
        vae::train(&config, run, resume, &Device::Cpu, watcher.control())
    };
    go(&whole, false, &Watcher::default())?;
    let stopped = Watcher {
        stop_after: Some(1),
        ..Watcher::default()
    };
    let error = go(&parts, false, &stopped).expect_err("a stop");
    assert!(error.to_string().contains("--resume"), "{error}");
    go(&parts, true, &Watcher::default())?;
    for file in ["model.safetensors", "summary.json", "transforms.json"] {
        let read = |run: &Path| fs::read(run.join(file)).expect("a file");
        assert!(read(&whole) == read(&parts), "{file} differs");
    }
    Ok(())
}

fn gan_resumes(quirks: bool, device: &dyn Fn() -> Result<Device>) -> Result<()> {
    let folder = prepared(&device()?)?;
    let mut config = gan_config(folder.path(), &folder.path().join("vae"));
    config.loss.reference_quirks = quirks;
    assert_eq!(config.initial() == Initial::Torchgan, quirks);
    if !quirks {
        config.model.critic_profile = true;
        config.training.average = 0.8;
    }
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let go = |run: &Path, resume: bool, watcher: &Watcher| {
        gan::train(&config, run, resume, &device()?, watcher.control())
    };
    let made = go(&whole, false, &Watcher::default())?;
    assert_eq!((made.slides, made.tiles, made.signs.len()), (6, 24, 3));
    let stopped = Watcher {
        stop_after: Some(2),
        ..Watcher::default()
    };
    let error = go(&parts, false, &stopped).expect_err("a stop");
    assert!(error.to_string().contains("--resume"), "{error}");
    assert!(parts.join("checkpoint.safetensors").exists());
    assert!(
        go(&parts, false, &Watcher::default()).is_err(),
        "no --resume"
    );
    go(&parts, true, &Watcher::default())?;
    for file in [
        "generator.safetensors",
        "critic.safetensors",
        "summary.json",
        "history.csv",
        "samples/epoch-0003.png",
    ] {
        let read = |run: &Path| fs::read(run.join(file)).expect("a file");
        assert!(read(&whole) == read(&parts), "{file} differs");
    }
    // What TensorBoard shows: each epoch once, also after the stop.
    for run in [&whole, &parts] {
        let events = tensorboard::read(&run.join(tensorboard::FILE))?;
        let shown = events.iter().filter(|e| !e.values.is_empty());
        let shown: Vec<_> = shown.collect();
        assert_eq!(shown.iter().map(|e| e.step).collect::<Vec<_>>(), [1, 2, 3]);
        for (event, signs) in shown.iter().zip(&made.signs) {
            let value = |tag: &str| event.values.iter().find(|(t, _)| t == tag).map(|v| &v.1);
            let loss = tensorboard::Value::Scalar(signs.critic_loss as f32);
            assert_eq!(value("loss/critic"), Some(&loss));
            let Some(tensorboard::Value::Png { width, bytes, .. }) = value("samples") else {
                panic!("no samples");
            };
            // Eight tiles of 16 px and the gaps between them.
            assert_eq!(*width, 142);
            assert!(bytes.starts_with(b"\x89PNG"));
        }
    }
    // A finished run is taken as it is.
    go(&parts, true, &Watcher::default())?;
    let path = whole.join("critic.safetensors");
    let critic = read_weights(&path)?;
    let map = critic.get("profile.weight");
    assert_eq!(map.is_some(), !quirks);
    if let Some(map) = map {
        assert!(map.to_f32()?.iter().any(|&v| v != 0.0), "it did not learn");
        let model = Model::named("dcgan-critic")?;
        let session = model.session(&critic, &path, &Default::default(), &Device::Cpu);
        let message = session.err().expect("no profiles").to_string();
        assert!(message.contains("with its profile"), "{message}");
    }

    // A tile depends on its own profile and noise, and on its profile at all.
    let trained = Trained::read(&whole, &device()?)?;
    let vae = trained.vae.as_ref().expect("a VAE");
    let table = eosin::expression::table::read(
        folder.path().join("tiles/profiles.csv"),
        eosin::expression::Orientation::SamplesByGenes,
    )?;
    let latents = vae.encode(&table)?.means;
    let row = |i: i64, n: usize| -> Result<_> {
        let rows = eosin::Tensor::from_slice(&vec![i; n], &[n])?;
        eosin::ops::index_select(&latents, 0, &rows)
    };
    let tiles = |i, n| trained.generate(Some(&row(i, n)?), n, Philox::new(4));
    let three = tiles(0, 3)?.to_f32_vec()?;
    assert!(three[..768] == tiles(0, 1)?.to_f32_vec()?[..]);
    assert!(three[..768] != three[768..1536]);
    assert!(three[..768] != tiles(1, 1)?.to_f32_vec()?[..]);
    Ok(())
}

/// Missing genes count as at the training mean, unknown ones are left out, none at all is an
/// error.
fn other_genes() -> Result<()> {
    let folder = prepared(&Device::Cpu)?;
    let vae = Vae::read(&folder.path().join("vae"), &Device::Cpu)?;
    let path = folder.path().join("tiles/profiles.csv");
    let full = eosin::expression::table::read(&path, eosin::expression::Orientation::Auto)?;
    let mut part = full.select_genes(&[4, 2, 0])?;
    part.genes[0] = "elsewhere".into();
    let (values, missing, unknown) = vae.standardised(&part)?;
    assert_eq!((missing, unknown), (GENES - 2, 1));
    let (all, _, _) = vae.standardised(&full)?;
    for (row, all) in values.chunks(GENES).zip(all.chunks(GENES)) {
        assert_eq!([row[1], row[3], row[4], row[5]], [0.0; 4]);
        assert_eq!((row[0], row[2]), (all[0], all[2]));
    }
    let note = vae.encode(&part)?.note(GENES).expect("a note");
    assert!(note.contains("4 of") && note.contains("1 genes"), "{note}");
    part.genes = ["a", "b", "c"].map(str::to_owned).to_vec();
    let error = vae.encode(&part).err().expect("no gene in common");
    assert!(error.to_string().contains("none of"), "{error}");
    Ok(())
}

fn refusals() -> Result<()> {
    let folder = prepared(&Device::Cpu)?;
    let base = gan_config(folder.path(), &folder.path().join("vae"));
    let refused = |change: &dyn Fn(&mut GanConfig), part: &str| {
        let mut config = base.clone();
        change(&mut config);
        let run = folder.path().join("refused");
        let control = Watcher::default();
        let outcome = gan::train(&config, &run, false, &Device::Cpu, control.control());
        let message = outcome.expect_err(part).to_string();
        assert!(message.contains(part), "{message} lacks {part}");
        let _ = fs::remove_dir_all(run);
    };
    refused(&|c| c.training.batch = 1, "of one are undefined");
    refused(&|c| c.model.image = 20, "power of 2");
    refused(&|c| c.vae = None, "need a beta-VAE");
    refused(&|c| c.input.start = Start::Normal, "noise alone");
    refused(&|c| c.training.hold_out = vec!["S99".into()], "S99");
    let all: Vec<String> = (0..6).map(|s| format!("S{s:02}")).collect();
    refused(&|c| c.training.hold_out.clone_from(&all), "every slide");
    refused(&|c| c.loss.penalty = f64::NAN, "loss.penalty");
    refused(&|c| c.training.critic_steps = 0, "critic_steps");
    refused(&|c| c.training.average = 1.0, "training.average");
    let without = |c: &mut GanConfig| {
        (c.vae, c.input.start, c.model.critic_profile) = (None, Start::Normal, true);
    };
    refused(&without, "critic_profile");
    refused(&|c| c.data.expression = None, "expression");
    refused(&|c| c.vae = Some(folder.path().into()), "model.safetensors");

    // A checkpoint of other tiles is not gone on from.
    let run = folder.path().join("run");
    let stopped = Watcher {
        stop_after: Some(1),
        ..Watcher::default()
    };
    assert!(gan::train(&base, &run, false, &Device::Cpu, stopped.control()).is_err());
    fs::remove_file(folder.path().join("tiles/S00/0.png")).expect("a tile goes");
    let control = Watcher::default();
    let outcome = gan::train(&base, &run, true, &Device::Cpu, control.control());
    let message = outcome.expect_err("other tiles").to_string();
    assert!(message.contains("other tiles"), "{message}");

    let mut config = vae_config(&folder.path().join("tiles"));
    let mut refused = |change: &dyn Fn(&mut BetaVaeConfig), part: &str| {
        let before = config.clone();
        change(&mut config);
        let run = folder.path().join("refused");
        let control = Watcher::default();
        let outcome = vae::train(&config, &run, false, &Device::Cpu, control.control());
        let message = outcome.expect_err(part).to_string();
        assert!(message.contains(part), "{message} lacks {part}");
        let _ = fs::remove_dir_all(run);
        config = before;
    };
    refused(&|c| c.training.batch = 1, "of one are undefined");
    refused(&|c| c.model.encoder.clear(), "encoder");
    refused(&|c| c.model.dropout = 1.0, "dropout");
    refused(&|c| c.profiles.table = None, "table");
    refused(
        &|c| c.profiles.classes = Some("none.csv".into()),
        "none.csv",
    );
    Ok(())
}

/// Losses that are no longer numbers stop the run, and say what is kept.
fn lost() -> Result<()> {
    let folder = prepared(&Device::Cpu)?;
    let mut config = gan_config(folder.path(), &folder.path().join("vae"));
    config.training.critic_rate = 1e30;
    let run = folder.path().join("run");
    let control = Watcher::default();
    let outcome = gan::train(&config, &run, false, &Device::Cpu, control.control());
    let message = outcome.expect_err("no numbers").to_string();
    assert!(message.contains("no longer numbers"), "{message}");
    assert!(message.contains("no generator was good"), "{message}");
    assert!(!run.join("generator.safetensors").exists());

    // Tiles that are all alike are noted, and the run goes on.
    let mut config = gan_config(folder.path(), &folder.path().join("vae"));
    config.watch.diversity = 1e6;
    let run = folder.path().join("alike");
    let watcher = Watcher::default();
    let made = gan::train(&config, &run, false, &Device::Cpu, watcher.control())?;
    assert_eq!(made.collapsed, [0, 1, 2]);
    let notes = watcher.notes.lock().expect("notes");
    assert!(
        notes.iter().any(|n| n.contains("too much alike")),
        "{notes:?}"
    );
    Ok(())
}

/// Without profiles: the plain GAN and the narrow control, and the losses beside Wasserstein's.
fn noise_alone() -> Result<()> {
    use eosin::models::rnagan::losses::Adversarial;
    let folder = tempfile::tempdir().expect("a folder");
    cohort(&folder.path().join("tiles"), 4);
    let mut config = gan_config(folder.path(), Path::new("none"));
    config.vae = None;
    config.data.expression = None;
    config.training.epochs = 1;
    let seen: Vec<Vec<u8>> = [
        (
            Start::Normal,
            Adversarial::LeastSquares,
            0.0,
            CriticNorm::Batch,
        ),
        (Start::Narrow, Adversarial::Minimax, 0.0, CriticNorm::None),
        (
            Start::Normal,
            Adversarial::Wasserstein,
            0.01,
            CriticNorm::Batch,
        ),
    ]
    .into_iter()
    .map(|(start, kind, clip, norm)| {
        config.model.critic_norm = norm;
        config.model.initial = match norm {
            CriticNorm::Batch => Some(Initial::Torchgan),
            CriticNorm::None => None,
        };
        assert_eq!(config.initial() == Initial::Dcgan, norm == CriticNorm::None);
        config.input = InputConfig {
            start,
            latent: 6,
            standardise: Standardise::Training,
            ..InputConfig::default()
        };
        config.loss = LossConfig {
            kind,
            clip,
            penalty: 0.0,
            ..LossConfig::default()
        };
        let run = folder.path().join(format!("{start:?}{kind:?}"));
        let control = Watcher::default();
        gan::train(&config, &run, false, &Device::Cpu, control.control())?;
        let trained = Trained::read(&run, &Device::Cpu)?;
        assert!(trained.vae.is_none());
        // A critic's file says by its keys whether it has batch norms.
        let path = run.join("critic.safetensors");
        let weights = read_weights(&path)?;
        let norms = weights.names().any(|name| name.ends_with("running_mean"));
        assert_eq!(norms, norm == CriticNorm::Batch);
        let model = Model::named("dcgan-critic")?;
        let session = model.session(&weights, &path, &Default::default(), &Device::Cpu)?;
        let images = eosin::Tensor::from_slice(&vec![0.1f32; 2 * 3 * 256], &[2, 3, 16, 16])?;
        let scores = session.runner(Threads::Caller)?.run(&images)?;
        assert_eq!(scores[0].1.shape(), [2]);
        assert_eq!(
            trained.generate(None, 2, Philox::new(1))?.shape(),
            [2, 3, 16, 16]
        );
        Ok(fs::read(run.join("generator.safetensors")).expect("a generator"))
    })
    .collect::<Result<_>>()?;
    assert!(seen[0] != seen[1] && seen[0] != seen[2]);
    Ok(())
}
