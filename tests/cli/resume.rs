//! A run that is stopped anywhere, also by force, ends with the bytes of the
//! run that was not.
#![cfg(unix)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use eosin::formats::{Array, read_weights, safetensors};

use crate::support::*;

/// Stages that last long enough to be hit, and a checkpoint after each epoch.
const SLOW: &[(&str, &str)] = &[
    ("checkpoint_seconds", "0"),
    ("features.tile_px", "96"),
    ("autoencoder.epochs", "8"),
    ("autoencoder.patience", "100"),
    ("mlp.epochs", "25"),
    ("mlp.patience", "100"),
];

/// The run that nobody stopped, and its run file.
fn uninterrupted() -> &'static (PathBuf, PathBuf) {
    static RUN: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = finished().with_file_name("uninterrupted");
        fs::create_dir_all(&folder).expect("a folder");
        let config = run_file(&folder, SLOW);
        let out = folder.join("run");
        succeeds(train(&config, &out));
        assert!(!out.join("checkpoint.safetensors").exists());
        (config, out)
    })
}

/// Stage and finished epochs of the checkpoint in a run's folder, if there is
/// one. It is read from the file's header, while the program runs.
fn checkpoint(run: &Path) -> Option<(String, usize)> {
    let mut file = fs::File::open(run.join("checkpoint.safetensors")).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let mut header = vec![0; u64::from_le_bytes(length) as usize];
    file.read_exact(&mut header).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    let metadata = &header["__metadata__"];
    let history: serde_json::Value = serde_json::from_str(metadata["history"].as_str()?).ok()?;
    let epochs = history["validation"].as_array()?.len();
    Some((metadata["stage"].as_str()?.to_owned(), epochs))
}

/// Starts or continues the run and returns the living process once `reached`.
fn start_until(config: &Path, out: &Path, reached: &dyn Fn(&Path) -> bool) -> Child {
    let mut args = train(config, out);
    args.push("--resume");
    let mut child = program(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let begun = Instant::now();
    while !reached(out) {
        let ended = child.try_wait().expect("a child");
        assert_eq!(ended, None, "it ended before it was to be stopped");
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "it never got there"
        );
        sleep(Duration::from_millis(2));
    }
    child
}

/// Kills the run once `reached`, with a signal that cannot be caught.
fn kill_at(config: &Path, out: &Path, reached: &dyn Fn(&Path) -> bool) {
    let mut child = start_until(config, out, reached);
    child.kill().expect("a signal");
    let status = child.wait().expect("an end");
    assert_eq!(
        status.code(),
        None,
        "it ended by itself, too soon to be killed"
    );
}

fn resume(config: &Path, out: &Path) {
    let mut args = train(config, out);
    args.push("--resume");
    succeeds(args);
}

fn extracted(run: &Path) -> usize {
    let names = fs::read_dir(run.join("features"))
        .into_iter()
        .flatten()
        .flatten();
    let names = names.map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|n| !n.starts_with('.')).count()
}

#[test]
fn a_run_killed_in_each_of_its_stages_ends_with_the_same_bytes() {
    let (config, reference) = uninterrupted();
    let folder = scratch();
    let out = folder.path().join("run");

    kill_at(config, &out, &|run| run.join("config.toml").exists());
    kill_at(config, &out, &|run| extracted(run) >= 3);
    let slides = extracted(&out);
    assert!(
        (3..16).contains(&slides),
        "{slides} slides: not in the middle of extraction"
    );

    for (stage, epochs, part) in [
        ("fold 1/2: autoencoder", 2, "fold0/autoencoder"),
        ("fold 1/2: autoencoder", 5, "fold0/autoencoder"),
        ("fold 1/2: model 1 genes 1", 3, "fold0/model0-genes0"),
        ("fold 1/2: model 2 genes 1", 10, "fold0/model1-genes0"),
        ("fold 2/2: autoencoder", 3, "fold1/autoencoder"),
        ("fold 2/2: model 2 genes 1", 4, "fold1/model1-genes0"),
    ] {
        kill_at(config, &out, &|run| {
            checkpoint(run).is_some_and(|(s, e)| s == stage && e >= epochs)
        });
        // It was really killed in the middle of this stage, with a checkpoint.
        let (found, done) = checkpoint(&out).expect("a checkpoint");
        assert_eq!(found, stage);
        assert!(done >= epochs);
        assert!(
            !out.join(format!("{part}.safetensors")).exists(),
            "{stage} had ended"
        );
        assert!(!out.join("predictions.csv").exists());
    }
    resume(config, &out);
    assert_same_run(reference, &out);
}

#[test]
fn a_run_killed_at_any_time_ends_with_the_same_bytes() {
    let (config, reference) = uninterrupted();
    let folder = scratch();
    let out = folder.path().join("run");
    let mut killed = 0;
    for milliseconds in [30, 150, 400, 700, 1100, 1600] {
        let mut args = train(config, &out);
        args.push("--resume");
        let mut child = program(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        sleep(Duration::from_millis(milliseconds));
        child.kill().expect("a signal");
        killed += usize::from(child.wait().expect("an end").code().is_none());
    }
    assert!(
        killed >= 3,
        "only {killed} runs were killed before their end"
    );
    resume(config, &out);
    assert_same_run(reference, &out);
}

/// Without this, a program that ignores its checkpoints and starts each stage
/// again would pass the tests above.
#[test]
fn resuming_continues_from_the_checkpoint() {
    let (config, reference) = uninterrupted();
    let folder = scratch();
    let out = folder.path().join("run");
    let stage = "fold 1/2: model 1 genes 1";
    kill_at(config, &out, &|run| {
        checkpoint(run).is_some_and(|(s, e)| s == stage && e >= 3)
    });
    let path = out.join("checkpoint.safetensors");
    let before = read_weights(&path).expect("a checkpoint");
    let mut altered = eosin::formats::Weights::new();
    altered.metadata.clone_from(&before.metadata);
    for (key, array) in before.iter() {
        let array = match key {
            "model/layer1.bias" => {
                let values: Vec<f32> = array
                    .to_f32()
                    .expect("f32")
                    .iter()
                    .map(|v| v + 3.0)
                    .collect();
                Array::from_f32(&array.shape, &values).expect("an array")
            }
            _ => array.clone(),
        };
        altered.insert(key, array).expect("a new key");
    }
    assert!(altered.get("model/layer1.bias").is_some());
    safetensors::write(&path, &altered).expect("a checkpoint");
    resume(config, &out);

    let file = "fold0/model0-genes0.safetensors";
    let losses = |run: &Path| -> Vec<f64> {
        let weights = read_weights(run.join(file)).expect("weights");
        let history: serde_json::Value =
            serde_json::from_str(&weights.metadata["history"]).expect("JSON");
        let losses = history["train"].as_array().expect("losses").iter();
        losses.map(|l| l.as_f64().expect("a number")).collect()
    };
    let (there, here) = (losses(reference), losses(&out));
    assert_eq!(there.len(), here.len());
    assert_eq!(
        there[..3],
        here[..3],
        "finished epochs are those of the checkpoint"
    );
    assert!(
        there.iter().zip(&here).any(|(a, b)| a != b),
        "the checkpoint was not used"
    );
}

#[test]
fn an_interrupt_saves_the_state_and_says_how_to_go_on() {
    let (config, reference) = uninterrupted();
    let folder = scratch();
    let out = folder.path().join("run");
    let stage = "fold 1/2: model 1 genes 1";
    let child = start_until(config, &out, &|run| {
        checkpoint(run).is_some_and(|(s, e)| s == stage && e >= 2)
    });
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(sent.expect("kill").success());
    let ended = Ended::of(child.wait_with_output().expect("an end"));
    let line = ended.error_line(130);
    assert!(
        line.starts_with("error: stopped: ") && line.contains("--resume"),
        "{line}"
    );
    assert!(
        ended.stderr.contains("stopping at the next safe point"),
        "{}",
        ended.stderr
    );
    assert!(checkpoint(&out).is_some());
    resume(config, &out);
    assert_same_run(reference, &out);
}

#[test]
fn a_finished_run_resumes_to_the_same_bytes() {
    let folder = scratch();
    let out = folder.path().join("run");
    let config = run_file(folder.path(), &[]);
    succeeds(train(&config, &out));
    assert_same_run(finished(), &out);
    resume(&config, &out);
    assert_same_run(finished(), &out);
}

/// Kinds of devices round differently, so a run stays where it began.
#[test]
fn a_run_of_another_device_is_not_continued() {
    let folder = scratch();
    let out = folder.path().join("run");
    let config = run_file(folder.path(), &[]);
    succeeds(train(&config, &out));
    let device = out.join("device.txt");
    assert_eq!(fs::read_to_string(&device).expect("a device"), "cpu\n");
    fs::write(&device, "cuda\n").expect("a device");
    let before = files(&out);
    let mut args = train(&config, &out);
    args.extend(["--resume", "--device", "cpu"]);
    fails(
        args,
        &[
            text(&out),
            "the run began on cuda",
            "resume with --device cuda",
            "--out",
        ],
    );
    assert!(files(&out) == before);
    // A run of before there was a choice does not say.
    fs::remove_file(&device).expect("a device");
    resume(&config, &out);
}

#[test]
fn a_folder_with_a_run_is_not_overwritten() {
    let folder = scratch();
    let config = run_file(folder.path(), &[]);
    let out = finished();
    let before = files(out);
    fails(
        train(&config, out),
        &[text(out), "holds a run already", "--resume"],
    );

    let other = run_file(folder.path(), &[("seed", "4")]);
    let mut args = train(&other, out);
    args.push("--resume");
    fails(&args, &["config.toml", "is not the configuration", "--out"]);
    assert_eq!(files(out), before);
}
