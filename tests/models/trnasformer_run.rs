//! Runs of tRNAsformer and HE2RNA: they learn what is planted, end with the same
//! bytes when they were interrupted, and refuse what cannot be learned.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use eosin::cohort::{Cohort, Sample, SourceImage, TileRef};
use eosin::expression::Table;
use eosin::metrics::correlation::pearson_columns;
use eosin::random::Philox;
use eosin::train::config::{
    BagConfig, ClusterBy, DataConfig, ExpressionConfig, FeatureConfig, Layout, Network,
    NetworkConfig, Precision, SplitConfig, TrainingConfig, TrnasformerConfig,
};
use eosin::train::features::{EncoderSource, Features};
use eosin::train::progress::{Control, Progress};
use eosin::train::trnasformer::{Outcome, train_on_features};
use eosin::{Device, Result};
use eosin_emulator::Schedule;
use libtest_mimic::Trial;

use crate::trial::trial;
use crate::under_test;

pub fn trials() -> Vec<Trial> {
    let interrupted = "trnasformer_run::an_interrupted_run_ends_with_the_same_bytes";
    vec![
        trial("trnasformer_run::what_is_planted_is_learned", || {
            what_is_planted_is_learned(Network::Trnasformer)
        }),
        trial(
            "trnasformer_run::what_is_planted_is_learned::he2rna",
            || what_is_planted_is_learned(Network::He2rna),
        ),
        trial(format!("{interrupted}::cpu"), || {
            an_interrupted_run_ends_with_the_same_bytes(&|| Ok(Device::Cpu))
        }),
        trial(format!("{interrupted}::cuda"), || {
            an_interrupted_run_ends_with_the_same_bytes(&|| {
                Ok(Device::Cuda(under_test::device(Schedule::Greedy(2))?))
            })
        }),
        trial(
            "trnasformer_run::classes_are_learned_alone",
            classes_are_learned_alone,
        ),
        trial(
            "trnasformer_run::weights_to_start_from",
            weights_to_start_from,
        ),
        trial("trnasformer_run::refusals", refusals),
    ]
}

const WIDTH: usize = 1024;
const GENES: [&str; 3] = ["planted", "noise1", "noise2"];

/// Slides of `tiles` tiles, of two kinds in turns. Half of the features of a slide of
/// the second kind are larger, and so is the planted gene.
fn cohort(slides: usize, tiles: usize) -> (Cohort, Features) {
    let mut random = Philox::new(11);
    let mut values = vec![0.0f32; slides * tiles * WIDTH];
    random.fill_uniform(&mut values, 0.0, 1.0);
    let mut noise = vec![0.0f32; slides * GENES.len()];
    random.fill_normal(&mut noise, 2.0, 0.1);
    for slide in (1..slides).step_by(2) {
        for row in values[slide * tiles * WIDTH..][..tiles * WIDTH].chunks_mut(WIDTH) {
            row[..WIDTH / 2].iter_mut().for_each(|v| *v += 1.0);
        }
        noise[slide * GENES.len()] += 2.0;
    }
    let name = |s: usize| format!("S{s:02}");
    let samples = (0..slides).map(|s| Sample {
        id: name(s),
        slide: name(s),
        patient: format!("P{s:02}"),
        tiles: (s * tiles..(s + 1) * tiles).collect(),
    });
    let all = (0..slides * tiles).map(|t| TileRef {
        image: 0,
        centre: None,
        size_px: 32,
        position: Some(((t % 7) as f64, (t / 7) as f64)),
    });
    let table = Table {
        samples: (0..slides).map(name).collect(),
        genes: GENES.map(str::to_owned).to_vec(),
        values: noise,
    };
    let cohort = Cohort {
        samples: samples.collect(),
        tiles: all.collect(),
        images: vec![SourceImage {
            mpp: None,
            colours: Default::default(),
            path: PathBuf::from("tile.png"),
            entry: None,
            width: 32,
            height: 32,
        }],
        table: Some(table),
        skipped: Vec::new(),
    };
    let width = WIDTH;
    (cohort, Features { values, width })
}

fn config(folder: &Path) -> TrnasformerConfig {
    TrnasformerConfig {
        seed: 3,
        dtype: Precision::F32,
        checkpoint_seconds: 0,
        data: DataConfig::new(Layout::Tiles, folder),
        features: FeatureConfig::default(),
        expression: ExpressionConfig {
            transforms: Vec::new(),
            ..ExpressionConfig::default()
        },
        split: SplitConfig {
            outer_folds: 2,
            inner_folds: 2,
            ..SplitConfig::default()
        },
        bags: BagConfig {
            per_slide: 2,
            ..BagConfig::default()
        },
        model: NetworkConfig {
            width: 12,
            depth: 1,
            heads: 2,
            hidden: vec![8],
            ..NetworkConfig::default()
        },
        training: TrainingConfig {
            epochs: 4,
            batch: 5,
            learning_rate: 3e-3,
            plateau_patience: 0,
            ..TrainingConfig::default()
        },
    }
}

/// Keeps notes, and asks for a stop in an epoch of a stage.
#[derive(Default)]
struct Watcher {
    stop_in: Option<(&'static str, usize)>,
    there: AtomicBool,
    stop: AtomicBool,
    notes: Mutex<Vec<String>>,
}

impl Progress for Watcher {
    fn begin(&self, stage: &str, _: usize) {
        let there = self.stop_in.is_some_and(|(name, _)| stage.contains(name));
        self.there.store(there, Ordering::Relaxed);
    }
    fn at(&self, done: usize, _: &str) {
        let here = self.stop_in.is_some_and(|(_, epoch)| epoch == done);
        if here && self.there.load(Ordering::Relaxed) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
    fn note(&self, message: &str) {
        let mut notes = self.notes.lock().expect("notes");
        notes.push(message.to_owned());
    }
    fn end(&self) {}
}

fn run(
    config: &TrnasformerConfig,
    folder: &Path,
    resume: bool,
    (cohort, features): (&Cohort, &Features),
    device: &Device,
    watcher: &Watcher,
) -> Result<Outcome> {
    let control = Control {
        progress: watcher,
        stop: &watcher.stop,
    };
    let source = EncoderSource {
        description: "numbers".into(),
        sha256: String::new(),
        random: true,
    };
    let given = (cohort, features);
    train_on_features(config, folder, resume, given, source, device, control)
}

/// The kind of each slide.
fn write_classes(path: &Path, slides: usize) {
    let lines = (0..slides).map(|s| format!("S{s:02},{}\n", ["low", "high"][s % 2]));
    fs::write(path, format!("slide,class\n{}", lines.collect::<String>())).expect("classes");
}

fn what_is_planted_is_learned(network: Network) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let slides = 24;
    let (cohort, features) = cohort(slides, 20);
    let mut config = config(folder.path());
    config.model.network = network;
    config.model.width = 24;
    config.training.epochs = 40;
    config.training.plateau_patience = 5;
    let classes = folder.path().join("classes.csv");
    write_classes(&classes, slides);
    if network == Network::Trnasformer {
        config.model.classes = Some(classes);
    }
    let watcher = Watcher::default();
    let out = folder.path().join("run");
    let given = (&cohort, &features);
    let outcome = run(&config, &out, false, given, &Device::Cpu, &watcher)?;
    let held = &outcome.held_out;
    assert_eq!(held.samples.len(), slides);
    assert_eq!(held.genes, GENES);
    let r = pearson_columns(&held.predicted, &held.measured, slides, GENES.len())?;
    assert!(r[0].coefficient > 0.9, "planted: {}", r[0].coefficient);
    // A noise gene of 24 samples is beyond 0.6 by chance once in 500.
    assert!(r[1].coefficient < 0.6 && r[2].coefficient < 0.6);
    for fold in &outcome.folds {
        assert!(!fold.same_patient);
        assert_eq!(fold.networks.len(), 2);
        let tested = fold.test.iter().map(|s| s.replace('S', "P"));
        assert!(tested.into_iter().all(|p| !fold.patients.contains(&p)));
    }
    let notes = watcher.notes.into_inner().expect("notes").join("\n");
    assert!(notes.contains("24 samples have fewer than 49"), "{notes}");
    let Some(classes) = &outcome.classes else {
        assert_eq!(network, Network::He2rna);
        return Ok(());
    };
    assert_eq!(classes.names, ["high", "low"]);
    assert_eq!(classes.samples, held.samples);
    classes.write(&out)?;
    let scores = classes.scores()?;
    assert!(scores.slides.accuracy > 0.9, "{:?}", scores.slides);
    assert_eq!(scores.bags.count, slides * config.bags.per_slide);
    assert!(
        scores.slides.auc.is_some_and(|a| a > 0.9),
        "{:?}",
        scores.slides
    );
    for row in classes.probabilities.chunks(2) {
        assert!((row[0] + row[1] - 1.0).abs() < 1e-5);
    }
    let written = fs::read_to_string(out.join("classes.csv")).expect("a table");
    assert!(
        written.starts_with("sample,class,predicted,high,low\n"),
        "{written}"
    );
    assert_eq!(written.lines().count(), 1 + slides);
    Ok(())
}

/// Without expression, and without a gene head in the files.
fn classes_are_learned_alone() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let slides = 24;
    let (mut cohort, features) = cohort(slides, 20);
    cohort.table = None;
    let mut config = config(folder.path());
    config.model.genes = false;
    config.model.width = 24;
    config.training.epochs = 40;
    config.training.plateau_patience = 5;
    let out = folder.path().join("run");
    let given = (&cohort, &features);
    let watcher = Watcher::default();
    let refused = run(&config, &out, false, given, &Device::Cpu, &watcher);
    let error = refused.err().expect("nothing is left to learn").to_string();
    assert!(error.contains("model.genes"), "{error}");
    let classes = folder.path().join("classes.csv");
    write_classes(&classes, slides);
    config.model.classes = Some(classes);
    let outcome = run(&config, &out, false, given, &Device::Cpu, &watcher)?;
    assert!(outcome.held_out.genes.is_empty());
    assert_eq!(outcome.held_out.samples.len(), slides);
    let scores = outcome.classes.expect("classes").scores()?;
    assert!(scores.slides.accuracy > 0.9, "{:?}", scores.slides);
    let weights = eosin::formats::read_weights(out.join("fold0/model0.safetensors"))?;
    assert!(weights.iter().all(|(key, _)| !key.starts_with("conv")));
    Ok(())
}

fn files(folder: &Path, root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, root));
        } else {
            let inside = path.strip_prefix(root).expect("it lies there").to_owned();
            found.insert(inside, fs::read(&path).expect("a file"));
        }
    }
    found
}

fn an_interrupted_run_ends_with_the_same_bytes(device: &dyn Fn() -> Result<Device>) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (cohort, features) = cohort(8, 3);
    let given = (&cohort, &features);
    let mut config = config(folder.path());
    config.split.test = vec!["S00".into(), "S01".into()];
    config.bags.write = true;
    let never = Watcher::default();
    let whole = run(&config, &at("whole"), false, given, &device()?, &never)?;
    let mut resume = false;
    for stop in [("model 1", 1), ("model 1", 2), ("model 2", 0)] {
        let stop = Watcher {
            stop_in: Some(stop),
            ..Watcher::default()
        };
        let error = run(&config, &at("parts"), resume, given, &device()?, &stop).err();
        let error = error.expect("a stop").to_string();
        assert!(error.contains("--resume"), "{error}");
        assert!(at("parts").join("checkpoint.safetensors").exists());
        resume = true;
    }
    let resumed = run(&config, &at("parts"), true, given, &device()?, &never)?;
    assert_eq!(resumed.held_out.predicted, whole.held_out.predicted);
    let (a, b) = (
        files(&at("whole"), &at("whole")),
        files(&at("parts"), &at("parts")),
    );
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (path, bytes) in &a {
        assert!(b[path] == *bytes, "{} differs", path.display());
    }
    assert!(a.contains_key(Path::new("fold0/model1.safetensors")));
    // Six slides train or validate: three of two bags in a step of five and one of one.
    let steps = String::from_utf8_lossy(&a[Path::new("fold0/model1-steps.csv")]);
    let steps: Vec<&str> = steps.lines().collect();
    assert_eq!(steps[0], "epoch,step,loss");
    assert_eq!(steps.len(), 1 + 2 * config.training.epochs, "{steps:?}");
    let last = format!("{},{},", config.training.epochs - 1, steps.len() - 1);
    assert!(steps.last().is_some_and(|line| line.starts_with(&last)));
    // Bags are images of whole tiles of their slides.
    let bags = eosin::formats::npy::read(at("whole/bags.npy"))?;
    assert_eq!(bags.shape, [16, 1, 224, 224]);
    let corner = features.values.chunks(WIDTH).skip(5 * 3).take(3);
    let image = &bags.to_f32()?[11 * 224 * 224..][..32];
    assert_eq!(corner.filter(|tile| tile[..32] == *image).count(), 1);
    let lines = String::from_utf8_lossy(&a[Path::new("bags.csv")]);
    assert_eq!(lines.lines().nth(12), Some("S05_1,S05,P05,"), "{lines}");
    // Another configuration does not go on here.
    config.training.batch += 1;
    let error = run(&config, &at("parts"), true, given, &device()?, &never).err();
    assert!(
        error
            .expect("a refusal")
            .to_string()
            .contains("configuration")
    );
    Ok(())
}

/// One step of no length leaves the weights that a run was given.
fn weights_to_start_from() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (cohort, features) = cohort(8, 3);
    let given = (&cohort, &features);
    let mut config = config(folder.path());
    config.split.test = vec!["S00".into(), "S01".into()];
    config.training.epochs = 1;
    let never = Watcher::default();
    let drawn = run(&config, &at("drawn"), false, given, &Device::Cpu, &never)?;
    assert_eq!(drawn.folds[0].start, "");
    let start = at("drawn/fold0/model1.safetensors");
    let mut next = config.clone();
    next.seed += 1;
    next.model.start = Some(start.clone());
    next.training.learning_rate = 0.0;
    let outcome = run(&next, &at("next"), false, given, &Device::Cpu, &never)?;
    let said = &outcome.folds[0].start;
    assert!(said.contains("model1.safetensors; 0 parameters"), "{said}");
    let (a, b) = (
        eosin::formats::read_weights(&start)?,
        eosin::formats::read_weights(at("next/fold0/model0.safetensors"))?,
    );
    assert!(a.iter().count() > 10);
    for (key, array) in a.iter() {
        assert_eq!(b.get(key).map(|b| &b.data), Some(&array.data), "{key}");
    }
    next.model.width = 24;
    let error = run(&next, &at("wide"), false, given, &Device::Cpu, &never).err();
    let error = error.expect("a refusal").to_string();
    assert!(error.contains("cls_token"), "{error}");
    Ok(())
}

fn refusals() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let (cohort, features) = cohort(8, 2);
    let plain = config(folder.path());
    let never = Watcher::default();
    let refused = |config: &TrnasformerConfig, features: &Features, parts: &[&str]| {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("run");
        let given = (&cohort, features);
        let outcome = run(config, &out, false, given, &Device::Cpu, &never);
        let message = outcome.err().expect("a refusal").to_string();
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    };
    let mut broken = features.values.clone();
    broken[3 * WIDTH + 5] = f32::NAN;
    let width = WIDTH;
    let values = broken;
    refused(&plain, &Features { values, width }, &["feature 5", "NaN"]);
    let values = vec![0.0; 10];
    refused(
        &plain,
        &Features { values, width },
        &["10 features", "16 tiles"],
    );

    let path = folder.path().join("classes.csv");
    let mut with = plain.clone();
    with.model.classes = Some(path.clone());
    write_classes(&path, 7);
    refused(&with, &features, &["classes.csv", "S07"]);
    // S00 alone is of its class, and is tested.
    write_classes(&path, 8);
    let text = fs::read_to_string(&path).expect("classes");
    fs::write(&path, text.replace("S00,low", "S00,rare")).expect("classes");
    with.split.test = vec!["S00".into()];
    refused(&with, &features, &["class rare", "S00"]);
    with.model.network = Network::He2rna;
    refused(&with, &features, &["no class head"]);

    let mut heads = plain.clone();
    heads.model.heads = 5;
    refused(&heads, &features, &["5 heads", "12"]);
    let mut none = plain.clone();
    none.bags.per_slide = 0;
    refused(&none, &features, &["bags.per_slide is 0"]);
    let mut placed = cohort.clone();
    placed.tiles[2].position = None;
    let mut by = plain;
    by.bags.by = ClusterBy::Positions;
    let out = folder.path().join("placed");
    let given = (&placed, &features);
    let error = run(&by, &out, false, given, &Device::Cpu, &never).err();
    assert!(
        error
            .expect("a refusal")
            .to_string()
            .contains("where on its slide")
    );
    Ok(())
}
