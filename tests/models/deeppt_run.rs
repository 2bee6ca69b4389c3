//! A run of DeepPT on CUDA that is interrupted ends as one that is not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use eosin::cohort::Cohort;
use eosin::random::Philox;
use eosin::simulate::{SimulateConfig, simulate};
use eosin::train::config::{
    AutoEncoderConfig, DataConfig, DeepPtConfig, ExpressionConfig, FeatureConfig, GroupBy, Layout,
    MlpConfig, Precision, SplitConfig,
};
use eosin::train::deeppt::{Outcome, train_on_features};
use eosin::train::features::{EncoderSource, Features};
use eosin::train::fit::History;
use eosin::train::progress::{Control, Progress};
use eosin::{Device, Result};
use eosin_emulator::Schedule;
use libtest_mimic::Trial;

use crate::trial::trial;
use crate::under_test;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "deeppt_run::an_interrupted_run_ends_with_the_same_bytes::cuda",
            || an_interrupted_run_ends_with_the_same_bytes(Precision::F32, 1e-4),
        ),
        // Where sums differ in their last bits, some numbers are rounded to the
        // next of bf16, 2^-8 away.
        trial(
            "deeppt_run::an_interrupted_run_ends_with_the_same_bytes::bf16::cuda",
            || an_interrupted_run_ends_with_the_same_bytes(Precision::Bf16, 1e-2),
        ),
    ]
}

/// As few slides as a simulation has at least, of two small tiles each.
fn cohort(folder: &Path) -> Result<DataConfig> {
    let config = SimulateConfig {
        slides: 14,
        tiles_per_slide: 2,
        tile_px: 64,
        noise_genes: 3,
        genes_per_program: 2,
        seed: 5,
    };
    simulate(&config, folder, &|_, _| {})?;
    Ok(DataConfig {
        expression: Some(folder.join("expression.csv")),
        slides: Some(folder.join("slides.csv")),
        ..DataConfig::new(Layout::Tiles, folder.join("tiles"))
    })
}

fn config(data: DataConfig, dtype: Precision) -> DeepPtConfig {
    DeepPtConfig {
        seed: 3,
        dtype,
        checkpoint_seconds: 0,
        data,
        features: FeatureConfig::default(),
        expression: ExpressionConfig::default(),
        split: SplitConfig {
            by: GroupBy::Section,
            test: vec!["S01".into()],
            inner_folds: 2,
            ..SplitConfig::default()
        },
        autoencoder: AutoEncoderConfig {
            epochs: 3,
            batch: 4,
            ..AutoEncoderConfig::default()
        },
        mlp: MlpConfig {
            hidden: 64,
            dropout: 0.3,
            epochs: 4,
            batch: 2,
            ..MlpConfig::default()
        },
    }
}

/// Asks for a stop in an epoch of a stage.
#[derive(Default)]
struct StopIn {
    stage: &'static str,
    epoch: usize,
    there: AtomicBool,
    stop: AtomicBool,
}

impl StopIn {
    fn new(stage: &'static str, epoch: usize) -> Self {
        Self {
            stage,
            epoch,
            ..Self::default()
        }
    }
}

impl Progress for StopIn {
    fn begin(&self, stage: &str, _: usize) {
        let there = !self.stage.is_empty() && stage.contains(self.stage);
        self.there.store(there, Ordering::Relaxed);
    }
    fn at(&self, done: usize, _: &str) {
        if self.there.load(Ordering::Relaxed) && done == self.epoch {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
    fn note(&self, _: &str) {}
    fn end(&self) {}
}

/// Features of 40 numbers instead of a network's 2,048, for which the emulator
/// would take minutes.
fn features(cohort: &Cohort) -> Features {
    let width = 40;
    let mut values = vec![0.0; cohort.tiles.len() * width];
    Philox::new(6).fill_uniform(&mut values, 0.0, 2.0);
    Features { values, width }
}

fn run(
    config: &DeepPtConfig,
    folder: &Path,
    resume: bool,
    device: &Device,
    stop: &StopIn,
) -> Result<Outcome> {
    let control = Control {
        progress: stop,
        stop: &stop.stop,
    };
    let source = EncoderSource {
        description: "numbers".into(),
        sha256: String::new(),
        random: true,
    };
    let cohort = config.data.read(true)?;
    let given = (&cohort, &features(&cohort));
    train_on_features(config, folder, resume, given, source, device, control)
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn emulated() -> Result<Device> {
    Ok(Device::Cuda(under_test::device(Schedule::Greedy(2))?))
}

/// `tolerance` is for the losses on the CPU.
fn an_interrupted_run_ends_with_the_same_bytes(dtype: Precision, tolerance: f64) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(cohort(&folder.path().join("cohort"))?, dtype);
    let at = |name: &str| folder.path().join(name);
    let never = StopIn::default();
    let whole = run(&config, &at("whole"), false, &emulated()?, &never)?;

    let mut resume = false;
    for stop in [
        StopIn::new("autoencoder", 1),
        StopIn::new("model 1 genes", 0),
        StopIn::new("model 2 genes", 2),
    ] {
        let error = run(&config, &at("parts"), resume, &emulated()?, &stop).err();
        let error = error.expect("a stop").to_string();
        assert!(error.contains("--resume"), "{error}");
        assert!(at("parts").join("checkpoint.safetensors").exists());
        resume = true;
    }
    // Not where it would round differently.
    let error = run(&config, &at("parts"), true, &Device::Cpu, &never).err();
    let error = error.expect("a refusal").to_string();
    assert!(error.contains("the run began on cuda"), "{error}");
    assert!(error.contains("--device cuda"), "{error}");
    let resumed = run(&config, &at("parts"), true, &emulated()?, &never)?;

    assert_eq!(resumed.held_out.predicted, whole.held_out.predicted);
    let (a, b) = (files(&at("whole")), files(&at("parts")));
    assert_eq!(a.len(), b.len());
    for (path, bytes) in &a {
        let same = at("parts").join(path.strip_prefix(at("whole")).unwrap());
        assert!(b.get(&same) == Some(bytes), "{} differs", path.display());
    }
    assert!(a.contains_key(&at("whole").join("fold0/model1-genes0.safetensors")));

    // The same masks, orders and weights on the CPU: the losses are the same
    // but for rounding, which counts against the first of them: what is left
    // later is a small difference of numbers that are not.
    let here = run(&config, &at("cpu"), false, &Device::Cpu, &never)?;
    let histories = |outcome: &Outcome| -> Vec<History> {
        let fold = &outcome.folds[0];
        let mlps = fold.mlps.iter().flatten().cloned();
        [fold.autoencoder.clone()].into_iter().chain(mlps).collect()
    };
    let close = |there: &[f64], here: &[f64]| {
        assert_eq!(there.len(), here.len());
        for (a, b) in there.iter().zip(here) {
            let error = (a - b).abs() / here[0];
            assert!(error < tolerance, "{a} on CUDA, {b} on the CPU");
        }
    };
    for (there, here) in histories(&whole).iter().zip(&histories(&here)) {
        close(&there.train, &here.train);
        close(&there.validation, &here.validation);
    }
    Ok(())
}
