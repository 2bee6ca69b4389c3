//! Runs of classifiers of tiles: they learn what is planted, end with the same bytes when they
//! were interrupted, and refuse what cannot be learned.

use std::fs;
use std::path::Path;

use eosin::formats::read_weights;
use eosin::models::resnet::{Depth, ResNet};
use eosin::nn::{State, load};
use eosin::random::Philox;
use eosin::slides::{Rgb8, image::write_png};
use eosin::train::classifier::config::{ClassifierConfig, SimclrConfig};
use eosin::train::classifier::{self, simclr};
use eosin::train::config::{DataConfig, Layout, RunFile};
use eosin::{Device, Result};
use eosin_emulator::Schedule;
use libtest_mimic::Trial;

use crate::rnagan_run::Watcher;
use crate::trial::trial;
use crate::under_test;

pub fn trials() -> Vec<Trial> {
    let mut all = vec![
        trial("classifier_run::learns_and_tests_another_folder", learns),
        trial("classifier_run::from_simclr_against_scratch", from_simclr),
        trial("classifier_run::refusals", refusals),
    ];
    for (name, device) in [
        ("cpu", (|| Ok(Device::Cpu)) as fn() -> Result<Device>),
        ("cuda", || {
            Ok(Device::Cuda(under_test::device(Schedule::Greedy(3))?))
        }),
    ] {
        let title = format!("classifier_run::an_interrupted_run_ends_with_the_same_bytes::{name}");
        all.push(trial(title, move || resumes(device)));
    }
    all
}

/// Tiles of 32 px, coarse stripes in one class and fine ones in the other, whatever their
/// colour: six slides of each, four tiles of each slide.
fn cohort(folder: &Path, slides: usize, seed: u64) {
    let mut random = Philox::new(seed);
    for (class, period) in [("coarse", 16), ("fine", 4)] {
        for slide in 0..slides {
            let at = folder.join(class).join(format!("S{slide}"));
            fs::create_dir_all(&at).expect("a folder");
            for tile in 0..4 {
                let (colour, shift) = (random.below(100), random.below(16));
                let mut pixel = |x: usize| {
                    let light = (x + shift) % period < period / 2;
                    let level = if light { 140 } else { 40 } + random.below(20);
                    [level as u8, (level + colour).min(255) as u8, 90]
                };
                let data = (0..32 * 32).flat_map(|i| pixel(i % 32)).collect();
                let image = Rgb8 {
                    width: 32,
                    height: 32,
                    data,
                };
                write_png(at.join(format!("{tile}.png")), &image, &[]).expect("a tile");
            }
        }
    }
}

const DATA: &str = "checkpoint_seconds = 0\n[data]\nlayout = \"classes\"\npath = \"tiles\"\n";
const MODEL: &str = "[model]\nnetwork = \"resnet18\"\nwidth = 4\npx = 32\n";

fn config(folder: &Path, more: &str) -> ClassifierConfig {
    let path = folder.join("classifier.toml");
    fs::write(&path, format!("{DATA}{MODEL}{more}")).expect("a run file");
    ClassifierConfig::read(&path).expect("a configuration")
}

fn go(config: &ClassifierConfig, run: &Path) -> Result<classifier::Outcome> {
    let watcher = Watcher::default();
    classifier::train(config, run, false, &Device::Cpu, watcher.control())
}

const TRAINING: &str = "[training]\nepochs = 12\nbatch = 8\nlearning_rate = 1e-2\n";

fn learns() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    cohort(&folder.path().join("tiles"), 6, 1);
    cohort(&folder.path().join("other"), 2, 2);
    let more = format!(
        "{TRAINING}[augment]\nflip = true\n[split]\nshares = [0.6, 0.2, 0.2]\n[test]\n\
         layout = \"classes\"\npath = \"other\"\n"
    );
    let config = config(folder.path(), &more);
    let run = folder.path().join("run");
    let made = go(&config, &run)?;
    assert_eq!(made.classes, ["coarse", "fine"]);
    assert_eq!((made.slides, made.tiles), (12, 48));
    let [start] = &made.starts[..] else {
        panic!("one start");
    };
    assert_eq!(start.from, "random");
    let fold = &start.folds[0];
    assert_eq!(fold.tiles.iter().sum::<usize>(), 48);
    assert!(!fold.same_patient);
    let test = start.test.as_ref().expect("a test");
    assert_eq!((test.bags.count, test.slides.count), (16, 4));
    for scores in [&fold.scores, test] {
        assert!(scores.bags.accuracy > 0.9, "{scores:?}");
        assert!(scores.bags.auc.expect("two classes") > 0.95, "{scores:?}");
    }
    // torchvision's keys; what is saved predicts what was scored.
    let path = run.join("random/model.safetensors");
    let weights = read_weights(&path)?;
    assert!(weights.get("layer1.0.bn1.running_mean").is_some());
    let network = ResNet::of_width(4, Depth::ResNet18, 2, &mut Philox::new(0))?;
    load(&network, &weights, &path)?;
    let table = fs::read_to_string(run.join("random/test/bag_classes.csv")).expect("a table");
    assert_eq!(table.lines().count(), 17);
    assert!(table.starts_with("sample,class,predicted,coarse,fine"));

    // `evaluate` finds of the same folder what the run found.
    let out = folder.path().join("scores");
    let evaluate = |name: &str| {
        let data = DataConfig::new(Layout::Classes, folder.path().join(name));
        let watcher = Watcher::default();
        classifier::evaluate(&run, &data, &out, &Device::Cpu, watcher.control())
    };
    let found = evaluate("other")?;
    assert_eq!(found.networks, 1);
    assert_eq!(found.scores, *test);
    let again = fs::read_to_string(out.join("bag_classes.csv")).expect("a table");
    assert_eq!(again, table);
    let other = folder.path().join("third/neither/S0");
    fs::create_dir_all(&other).expect("a folder");
    let tile = folder.path().join("other/fine/S0/0.png");
    fs::copy(tile, other.join("0.png")).expect("a tile");
    let message = evaluate("third").expect_err("another class").to_string();
    assert!(message.contains("neither"), "{message}");
    fs::remove_file(run.join("summary.json")).expect("a summary");
    let message = evaluate("other").expect_err("unfinished").to_string();
    assert!(message.contains("--resume"), "{message}");
    Ok(())
}

fn from_simclr() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    cohort(&folder.path().join("tiles"), 6, 1);
    let path = folder.path().join("simclr.toml");
    let text = format!("{DATA}{MODEL}projection = 8\n[training]\nepochs = 6\nbatch = 16\n");
    fs::write(&path, text).expect("a run file");
    let config_of_views = SimclrConfig::read(&path)?;
    let run = |name: &str| folder.path().join(name);
    let train = |name: &str, resume: bool, watcher: &Watcher| {
        let control = watcher.control();
        simclr::train(&config_of_views, &run(name), resume, &Device::Cpu, control)
    };
    let made = train("simclr", false, &Watcher::default())?;
    assert_eq!(made.tiles, [43, 5]);
    let best = made.history.validation[made.history.best];
    assert!(best < 0.95 * made.chance, "{best} of {}", made.chance);
    let stopped = Watcher {
        stop_after: Some(2),
        ..Watcher::default()
    };
    assert!(train("parts", false, &stopped).is_err());
    train("parts", true, &Watcher::default())?;
    for file in [
        "model.safetensors",
        "pretrained.safetensors",
        "summary.json",
    ] {
        let read = |name: &str| fs::read(run(name).join(file)).expect("a file");
        assert!(read("simclr") == read("parts"), "{file} differs");
    }

    let mut config = config(folder.path(), &format!("{TRAINING}[split]\nfolds = 3\n"));
    config.training.epochs = 2;
    config.model.weights = Some(run("simclr").join("model.safetensors"));
    let made = go(&config, &run("run"))?;
    let from: Vec<&str> = made.starts.iter().map(|s| s.from.as_str()).collect();
    assert_eq!(from, ["weights", "random"]);
    for start in &made.starts {
        assert_eq!(start.folds.len(), 3);
        let tested: u64 = (start.folds.iter())
            .flat_map(|f| f.scores.bags.confusion.iter().flatten())
            .sum();
        assert_eq!(tested, 48);
        let mean: f64 = (start.folds.iter())
            .map(|f| f.scores.bags.accuracy / 3.0)
            .sum();
        assert!((start.over_folds.accuracy.mean - mean).abs() < 1e-12);
        assert!(
            start
                .over_folds
                .auc
                .expect("two classes")
                .deviation
                .is_some()
        );
    }
    // The pretrained trunk is what the first kind starts from.
    config.training.learning_rate = 1e-30;
    config.split.against_scratch = false;
    let made = go(&config, &run("still"))?;
    assert_eq!(made.starts.len(), 1);
    let of = |path: &Path| read_weights(path).expect("weights");
    let (start, end) = (
        of(&run("simclr/model.safetensors")),
        of(&run("still/weights/model0.safetensors")),
    );
    let key = "layer4.1.conv2.weight";
    assert_eq!(start.get(key), end.get(key));
    assert!(start.get("fc.weight").is_none() && end.get("fc.weight").is_some());
    Ok(())
}

fn resumes(device: fn() -> Result<Device>) -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    cohort(&folder.path().join("tiles"), 4, 1);
    let more = format!("{TRAINING}[augment]\nflip = true\nhue = 0.1\n[split]\nfolds = 2\n");
    let mut config = config(folder.path(), &more);
    config.training.epochs = 3;
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let go = |run: &Path, resume: bool, watcher: &Watcher| {
        classifier::train(&config, run, resume, &device()?, watcher.control())
    };
    go(&whole, false, &Watcher::default())?;
    let stopped = Watcher {
        stop_after: Some(1),
        ..Watcher::default()
    };
    let error = go(&parts, false, &stopped).expect_err("a stop");
    assert!(error.to_string().contains("--resume"), "{error}");
    assert!(parts.join("checkpoint.safetensors").exists());
    go(&parts, true, &Watcher::default())?;
    for file in [
        "random/model0.safetensors",
        "random/model1.safetensors",
        "random/bag_classes.csv",
        "summary.json",
    ] {
        let read = |run: &Path| fs::read(run.join(file)).expect("a file");
        assert!(read(&whole) == read(&parts), "{file} differs");
    }
    Ok(())
}

fn refusals() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    cohort(&folder.path().join("tiles"), 3, 1);
    let base = config(folder.path(), TRAINING);
    let refused = |change: &dyn Fn(&mut ClassifierConfig), part: &str| {
        let mut config = base.clone();
        change(&mut config);
        let run = folder.path().join("refused");
        let message = go(&config, &run).expect_err(part).to_string();
        assert!(message.contains(part), "{message} lacks {part}");
        let _ = fs::remove_dir_all(run);
    };
    refused(&|c| c.training.batch = 1, "of one tile is undefined");
    refused(&|c| c.model.px = 31, "at least 32");
    refused(&|c| c.split.folds = 1, "nothing to train on");
    refused(&|c| c.split.folds = 4, "class coarse has 3 patients");
    refused(&|c| c.training.learning_rate = f64::NAN, "learning_rate");
    refused(
        &|c| {
            let mut other = c.data.clone();
            other.path = folder.path().join("tiles/fine");
            c.test = Some(other);
        },
        "class S0, which the training has not",
    );
    refused(
        &|c| c.data.path = folder.path().join("tiles/fine/S0"),
        "no folder of a class",
    );
    // Another network's weights.
    let path = folder.path().join("wide.safetensors");
    let wide = ResNet::of_width(8, Depth::ResNet18, 2, &mut Philox::new(0))?;
    eosin::formats::safetensors::write(&path, &eosin::nn::state_weights(&wide as &dyn State)?)?;
    refused(&|c| c.model.weights = Some(path.clone()), "conv1.weight");
    Ok(())
}
