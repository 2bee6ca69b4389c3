//! Runs of TCGN: they learn what is planted, end with the same bytes when they were
//! interrupted, and refuse what cannot be learned.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use eosin::cohort::her2st::Unit;
use eosin::expression::GeneChoice;
use eosin::metrics::correlation::pearson_columns;
use eosin::train::config::{DataConfig, GroupBy, Layout, Precision};
use eosin::train::progress::{Control, Progress};
use eosin::train::tcgn::config::{GivenFold, Missing, Sizes, TcgnConfig};
use eosin::train::tcgn::folds::folds;
use eosin::train::tcgn::predictor::Predictor;
use eosin::train::tcgn::tiles::{Augmentation, Tiles, Turn};
use eosin::train::tcgn::{Outcome, train};
use eosin::{Device, Result};
use eosin_emulator::Schedule;
use libtest_mimic::Trial;

use crate::sections::{self, GENES};
use crate::trial::trial;
use crate::under_test;

pub fn trials() -> Vec<Trial> {
    let interrupted = "tcgn_run::an_interrupted_run_ends_with_the_same_bytes";
    vec![
        trial("tcgn_run::what_is_planted_is_learned", learned),
        trial(format!("{interrupted}::cpu"), || {
            interrupted_run(&|| Ok(Device::Cpu), Precision::F32)
        }),
        trial(format!("{interrupted}::bf16"), || {
            interrupted_run(&|| Ok(Device::Cpu), Precision::Bf16)
        }),
        trial("tcgn_run::a_step_is_captured::cuda", captured),
        trial("tcgn_run::folds", folds_by_rule),
        trial("tcgn_run::leaks_are_refused", leaks),
        trial("tcgn_run::genes_that_sections_lack", lacking),
        trial("tcgn_run::other_gene_counts_are_refused", gene_counts),
        trial("tcgn_run::turns", turns),
        trial("tcgn_run::batches_are_those_of_one_thread", batches),
    ]
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    sections::write(&folder.path().join("data"));
    folder
}

fn config(folder: &Path) -> TcgnConfig {
    let mut data = DataConfig::new(Layout::Her2st, folder.join("data"));
    data.unit = Unit::Spot;
    data.spot_px = sections::TILE;
    let mut config = TcgnConfig::new(data);
    config.seed = 5;
    config.checkpoint_seconds = 0;
    config.model.sizes = Some(Sizes {
        image: 64,
        stem: 4,
        widths: [4, 8, 12, 16],
        hidden: [8, 16, 24, 32],
        heads: [1, 2, 2, 4],
        depths: [1, 1, 1, 1],
        features: 24,
    });
    config.training.batch = 5;
    config.training.epochs = 3;
    config.training.learning_rate = 1e-3;
    config.split.folds = vec![given(&["A1", "A2"], &["B1"], &["C1"])];
    config
}

fn given(train: &[&str], validation: &[&str], test: &[&str]) -> GivenFold {
    let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
    GivenFold {
        train: names(train),
        validation: names(validation),
        test: names(test),
    }
}

/// Keeps notes, and asks for a stop at the end of an epoch, or in it.
#[derive(Default)]
struct Watcher {
    stop_in: Option<usize>,
    stop: AtomicBool,
    notes: Mutex<Vec<String>>,
}

impl Progress for Watcher {
    fn begin(&self, _: &str, _: usize) {}
    fn at(&self, done: usize, detail: &str) {
        if self.stop_in == Some(done) && detail.starts_with("loss") {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
    fn note(&self, message: &str) {
        let mut notes = self.notes.lock().expect("notes");
        notes.push(message.to_owned());
    }
    fn end(&self) {}
}

impl Watcher {
    fn control(&self) -> Control<'_> {
        Control {
            progress: self,
            stop: &self.stop,
        }
    }

    fn notes(&self) -> String {
        self.notes.lock().expect("notes").join("\n")
    }
}

fn run(config: &TcgnConfig, out: &Path, resume: bool, device: &Device) -> Result<Outcome> {
    train(config, out, resume, device, Watcher::default().control())
}

fn learned() -> Result<()> {
    let folder = folder();
    let mut config = config(folder.path());
    config.training.epochs = 25;
    config.training.learning_rate = 1e-2;
    let out = folder.path().join("run");
    let outcome = run(&config, &out, false, &Device::Cpu)?;
    let held = &outcome.held_out;
    assert_eq!(held.slides, vec!["C1"; 12]);
    assert_eq!(held.genes, GENES);
    let r = pearson_columns(&held.predicted, &held.measured, 12, GENES.len())?;
    assert!(r[0].coefficient > 0.9, "planted: {}", r[0].coefficient);
    let fold = &outcome.folds[0];
    assert!(!fold.same_patient);
    assert_eq!(fold.patients, ["A", "B"]);
    // The best epoch is that of the highest score, which is not the lowest loss.
    let network = &fold.network;
    let highest = network.scores.iter().copied().fold(f64::MIN, f64::max);
    assert_eq!(network.scores.len(), 25);
    assert_eq!(network.scores[network.best], highest);

    // The network that was kept is the one that predicted, by whatever way.
    let predictor = Predictor::of_run(&out, &Device::Cpu, Precision::F32)?;
    let mut data = config.data.clone();
    data.sections = vec!["C1".into()];
    let mut cohort = data.read(true)?;
    assert!(!predictor.trained_on(&cohort));
    let watcher = Watcher::default();
    let again = predictor.predict(&mut cohort, 7, watcher.control())?;
    close(&again, &held.predicted);
    let table = cohort.table.as_ref().expect("counts");
    let (measured, absent) = predictor.on_scale(table)?;
    assert_eq!((measured, absent), (held.measured.clone(), Vec::new()));
    // Spots without their logarithm sum to the library size where all is as measured.
    for row in predictor.linear(&held.measured)?.chunks(GENES.len()) {
        let sum: f32 = row.iter().sum();
        assert!((sum - 1e4).abs() < 1.0, "{sum}");
    }
    Ok(())
}

fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < 1e-4, "{a} and {b}");
    }
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

fn interrupted_run(device: &dyn Fn() -> Result<Device>, dtype: Precision) -> Result<()> {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let mut config = config(folder.path());
    config.dtype = dtype;
    let whole = run(&config, &at("whole"), false, &device()?)?;
    for (epoch, resume) in [(0, false), (1, true)] {
        let stop = Watcher {
            stop_in: Some(epoch),
            ..Watcher::default()
        };
        let error = train(&config, &at("parts"), resume, &device()?, stop.control()).err();
        let error = error.expect("a stop").to_string();
        assert!(error.contains("--resume"), "{error}");
        assert!(at("parts").join("checkpoint.safetensors").exists());
    }
    let resumed = run(&config, &at("parts"), true, &device()?)?;
    assert_eq!(resumed.held_out.predicted, whole.held_out.predicted);
    let read = |name: &str| files(&at(name), &at(name));
    let (a, b) = (read("whole"), read("parts"));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (path, bytes) in &a {
        assert!(b[path] == *bytes, "{} differs", path.display());
    }
    assert!(a.contains_key(Path::new("fold0/model.safetensors")));
    // Another configuration does not go on here.
    config.training.batch += 1;
    let error = run(&config, &at("parts"), true, &device()?).err();
    let error = error.expect("a refusal").to_string();
    assert!(error.contains("configuration"), "{error}");
    Ok(())
}

/// Two epochs of equal batches: the second is replayed from what was captured.
fn captured() -> Result<()> {
    let folder = folder();
    let mut config = config(folder.path());
    config.training.batch = 12;
    config.training.epochs = 2;
    config.split.by = GroupBy::Section;
    config.split.folds = vec![given(&["A1"], &["B1"], &["C1"])];
    config.model.dropout = 0.0;
    let device = Device::Cuda(under_test::device(Schedule::Greedy(4))?);
    let there = run(&config, &folder.path().join("cuda"), false, &device)?;
    let here = run(&config, &folder.path().join("cpu"), false, &Device::Cpu)?;
    let (there, here) = (&there.folds[0].network, &here.folds[0].network);
    for (a, b) in there.train.iter().zip(&here.train) {
        assert!((a / b - 1.0).abs() < 1e-3, "{a} on CUDA, {b} on the CPU");
    }
    Ok(())
}

fn refused<T>(outcome: Result<T>, parts: &[&str]) {
    let message = outcome.err().expect("a refusal").to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn folds_by_rule() -> Result<()> {
    let folder = folder();
    let mut config = config(folder.path());
    config.split.folds.clear();
    let cohort = config.data.read(true)?;
    let slides = |samples: &[usize]| {
        let mut names: Vec<&str> = (samples.iter())
            .map(|&s| cohort.samples[s].slide.as_str())
            .collect();
        names.dedup();
        names.join(" ")
    };
    let named = |config: &TcgnConfig| -> Result<Vec<[String; 3]>> {
        let all = folds(&config.split, &cohort)?.into_iter();
        let all = all.map(|f| [&f.test, &f.inner[0].1, &f.inner[0].0].map(|s| slides(s)));
        Ok(all.collect())
    };
    let by_patient = [
        ["A1 A2", "B1", "C1"],
        ["B1", "C1", "A1 A2"],
        ["C1", "A1 A2", "B1"],
    ];
    assert_eq!(named(&config)?, by_patient.map(|f| f.map(str::to_owned)));
    config.split.by = GroupBy::Section;
    let by_section = named(&config)?;
    assert_eq!(by_section.len(), 4);
    assert_eq!(by_section[0], ["A1", "A2", "B1 C1"].map(str::to_owned));
    // Two patients: none is left to validate.
    let mut two = config.clone();
    two.split.by = GroupBy::Patient;
    two.data.sections = vec!["A1".into(), "A2".into(), "C1".into()];
    let cohort = two.data.read(true)?;
    let parts = ["tests A", "1 patients", "split.validate_by"];
    refused(folds(&two.split, &cohort), &parts);
    two.data.sections.pop();
    let cohort = two.data.read(true)?;
    refused(folds(&two.split, &cohort), &["1 patients", "left out"]);
    Ok(())
}

fn leaks() -> Result<()> {
    let folder = folder();
    let plain = config(folder.path());
    let out = folder.path().join("run");
    let refuse = |fold: GivenFold, parts: &[&str]| {
        let mut config = plain.clone();
        config.split.folds = vec![fold];
        refused(run(&config, &out, false, &Device::Cpu), parts);
    };
    refuse(
        given(&["B1"], &["A1"], &["A2"]),
        &["fold 1", "patient A", "validation (A1)", "test (A2)"],
    );
    refuse(
        given(&["A1", "C1"], &["B1"], &["C1"]),
        &["section C1", "in train and in test"],
    );
    refuse(given(&["A1"], &["B1"], &["Z9"]), &["Z9", "does not have"]);
    refuse(given(&["A1"], &[], &["C1"]), &["no section", "validation"]);
    // A mistake leaves no folder in the way.
    assert!(!out.exists());
    let mut config = plain.clone();
    config.split.by = GroupBy::Section;
    config.split.folds = vec![given(&["A1"], &["B1"], &["A2"])];
    config.training.epochs = 1;
    let outcome = run(&config, &out, false, &Device::Cpu)?;
    assert!(outcome.held_out.same_patient && outcome.folds[0].same_patient);
    let mut config = plain;
    config.split.by = GroupBy::Sample;
    refused(run(&config, &out, false, &Device::Cpu), &["neighbouring"]);
    Ok(())
}

fn lacking() -> Result<()> {
    let folder = folder();
    let mut config = config(folder.path());
    config.training.epochs = 1;
    let list = folder.path().join("genes.txt");
    fs::write(&list, "steady\nunheard\nplanted\nnoise1\n").expect("a list");
    config.expression.genes = GeneChoice::File(list);
    // A table of B1 without noise1, as pipelines write a gene never seen.
    let counts = folder.path().join("data/ST-cnts/B1.tsv");
    let text = fs::read_to_string(&counts).expect("counts");
    let without = text.lines().map(|line| {
        let mut cells: Vec<&str> = line.split('\t').collect();
        cells.remove(2);
        cells.join("\t") + "\n"
    });
    fs::write(&counts, without.collect::<String>()).expect("counts");

    for (missing, genes, said) in [
        (
            Missing::Zero,
            &["steady", "unheard", "planted", "noise1"][..],
            "are 0",
        ),
        (Missing::Drop, &["steady", "planted"], "are left out"),
    ] {
        config.genes.missing = missing;
        let watcher = Watcher::default();
        let out = folder.path().join(format!("{missing:?}"));
        let outcome = train(&config, &out, false, &Device::Cpu, watcher.control())?;
        let fold = &outcome.folds[0];
        assert_eq!(fold.genes, genes);
        let notes = watcher.notes();
        assert!(
            notes.contains(said) && notes.contains("noise1, unheard"),
            "{notes}"
        );
        if missing == Missing::Zero {
            assert_eq!(fold.lacking["B1"], ["unheard", "noise1"]);
            assert_eq!(fold.lacking["A1"], ["unheard"]);
        } else {
            assert!(fold.lacking.is_empty());
        }
    }
    // What is reported beside all: a list of names, or nothing that does not fit.
    let report = folder.path().join("report.txt");
    fs::write(&report, "planted\n").expect("a list");
    config.genes.report = Some(report);
    let out = folder.path().join("reported");
    let outcome = run(&config, &out, false, &Device::Cpu)?;
    assert_eq!(outcome.report.map(|r| r.len()), Some(1));
    Ok(())
}

fn gene_counts() -> Result<()> {
    let folder = folder();
    let mut config = config(folder.path());
    config.training.epochs = 1;
    let out = folder.path().join("run");
    run(&config, &out, false, &Device::Cpu)?;
    let weights = out.join("fold0/model.safetensors");
    config.model.start = Some(weights.clone());
    config.expression.genes = GeneChoice::HighestMean(2);
    let other = folder.path().join("other");
    let parts = ["head.2.weight", "4 genes", "this run 2"];
    refused(run(&config, &other, false, &Device::Cpu), &parts);
    assert!(!other.exists());
    // Of the same genes it goes on.
    config.expression.genes = GeneChoice::All;
    let outcome = run(&config, &folder.path().join("more"), false, &Device::Cpu)?;
    let start = &outcome.folds[0].start;
    assert!(start.contains("; 0 parameters"), "{start}");

    let open = |list: Option<&Path>| {
        Predictor::of_weights(&weights, list, None, &Device::Cpu, Precision::F32)
    };
    assert_eq!(open(None)?.genes(), GENES);
    let list = folder.path().join("genes.txt");
    fs::write(&list, "a\nb\nc\n").expect("a list");
    refused(open(Some(&list)), &["3 genes are named", "predicts 4"]);
    Ok(())
}

fn turns() -> Result<()> {
    const PX: usize = 4;
    let tile: Vec<f32> = (0..PX * PX * 3).map(|v| 1.0 + v as f32).collect();
    let pixel = |image: &[f32], x: usize, y: usize| image[3 * (y * PX + x)];
    let turned = |degrees: f32, horizontal: bool, vertical: bool| {
        let mut out = vec![-1.0; tile.len()];
        let turn = Turn {
            degrees,
            horizontal,
            vertical,
        };
        turn.apply(&tile, PX, &mut out);
        out
    };
    assert_eq!(turned(0.0, false, false), tile);
    assert_eq!(turned(180.0, true, true), tile);
    // Anticlockwise, as torchvision turns: the top right corner goes to the top left.
    let quarter = turned(90.0, false, false);
    assert_eq!(pixel(&quarter, 0, 0), pixel(&tile, 3, 0));
    assert_eq!(pixel(&quarter, 0, 3), pixel(&tile, 0, 0));
    let flipped = turned(90.0, true, false);
    assert_eq!(pixel(&flipped, 3, 0), pixel(&tile, 3, 0));
    // Corners have no source at 45 degrees; the middle has.
    let eighth = turned(45.0, false, false);
    assert_eq!(pixel(&eighth, 0, 0), 0.0);
    assert_ne!(pixel(&eighth, 1, 1), 0.0);

    let of = |seed, epoch, name: &str| Augmentation { seed, epoch }.of(name);
    assert_eq!(of(1, 2, "S"), of(1, 2, "S"));
    for other in [of(2, 2, "S"), of(1, 3, "S"), of(1, 2, "T")] {
        assert_ne!(of(1, 2, "S"), other);
    }
    let many: Vec<Turn> = (0..2000).map(|e| of(1, e, "S")).collect();
    let share = |pick: &dyn Fn(&Turn) -> bool| {
        many.iter().filter(|t| pick(t)).count() as f64 / many.len() as f64
    };
    // Four standard deviations of 2,000 draws.
    for half in [
        share(&|t| t.degrees < 0.0),
        share(&|t| t.horizontal),
        share(&|t| t.vertical),
        share(&|t| t.horizontal == t.vertical),
        share(&|t| t.degrees.abs() < 90.0),
    ] {
        assert!((half - 0.5).abs() < 0.045, "{half}");
    }
    Ok(())
}

fn batches() -> Result<()> {
    let folder = folder();
    let mut cohort = config(folder.path()).data.read(true)?;
    let tiles = Tiles::read(&mut cohort, 64, None)?;
    assert_eq!(tiles.bytes(), 48 * sections::TILE * sections::TILE * 3);
    let augmentation = Some(Augmentation { seed: 1, epoch: 0 });
    let parts: [&[usize]; 3] = [&[3, 1, 40], &[7], &[0, 47]];
    let all = |threads: usize| -> Result<Vec<Vec<f32>>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a pool").install(|| {
            let mut seen = Vec::new();
            tiles.for_each_batch(&parts, augmentation, |i, batch| {
                assert_eq!(batch.shape(), [parts[i].len(), 3, 64, 64]);
                seen.push(batch.to_f32_vec()?);
                Ok(())
            })?;
            Ok(seen)
        })
    };
    let one = all(1)?;
    assert_eq!(one.len(), 3);
    assert_eq!(one, all(3)?);
    // A sample's tile does not depend on its batch.
    let alone = tiles.batch(&[40], augmentation)?.to_f32_vec()?;
    assert_eq!(one[0][2 * alone.len()..], alone);
    Ok(())
}
