//! `--dtype bf16` from features to predictions, against the same in f32.

use std::fs;
use std::path::Path;

use eosin::formats::{npy, read_weights};

use crate::support::*;

/// |a - b| / |b|
fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

/// The numbers of a table of predictions.
fn predictions(folder: &Path) -> Vec<f64> {
    let table = fs::read_to_string(folder.join("predictions.csv")).expect("predictions");
    let cells = table
        .lines()
        .skip(1)
        .flat_map(|line| line.split(',').skip(1));
    cells.map(|cell| cell.parse().expect("a number")).collect()
}

/// The losses of a run's first autoencoder.
fn losses(run: &Path) -> Vec<f64> {
    let record = fs::read(run.join("fold0/fold.json")).expect("a fold");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    let losses = record["autoencoder"]["train"].as_array().expect("losses");
    losses.iter().map(|v| v.as_f64().expect("a loss")).collect()
}

#[test]
fn a_run_in_bf16_learns_what_the_run_in_f32_does() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    // Standardised, some codes of so small a cohort are divided by next to nothing,
    // and predictions depend on the last bits of features in f32 as well.
    let config = run_file(folder.path(), &[("mlp.standardise", "false")]);
    let train = |name: &str, more: &[&str]| {
        let (run, config) = (at(name), text(&config).to_owned());
        let words = ["train", "deeppt", "--config", &config, "--out", text(&run)];
        [&words[..], more]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    succeeds(train("run", &["--dtype", "bf16"]));
    succeeds(train("f32", &[]));
    let (run, f32) = (&at("run"), &at("f32"));
    let toml = fs::read_to_string(run.join("config.toml")).expect("a configuration");
    assert_eq!(toml.matches("dtype = \"bf16\"").count(), 2, "{toml}");
    let toml = fs::read_to_string(f32.join("config.toml")).expect("a configuration");
    assert!(!toml.contains("dtype"), "{toml}");

    let features = |run: &Path| {
        let stored = read_weights(run.join("features/S04.safetensors")).expect("features");
        let values = stored
            .get("features")
            .expect("a key")
            .to_f32()
            .expect("f32");
        values.into_iter().map(f64::from).collect::<Vec<_>>()
    };
    let (ours, theirs) = (features(run), features(f32));
    assert!(ours != theirs, "bit for bit: was it bf16?");
    // Rounding to 8 bits at each of some 65 layers and sums, see predict.rs.
    let off = relative(&ours, &theirs);
    assert!(off < 4e-2, "features are off by {off}");
    for (ours, theirs) in losses(run).iter().zip(losses(f32)) {
        assert!(
            (ours / theirs - 1.0).abs() < 0.02,
            "loss {ours}, in f32 {theirs}"
        );
    }
    let off = relative(&predictions(run), &predictions(f32));
    assert!(off > 0.0 && off < 1e-2, "predictions are off by {off}");

    // Neither resumed nor evaluated as what it is not.
    fails(
        train("run", &["--resume"]),
        &["config.toml", "configuration"],
    );
    succeeds(train("run", &["--resume", "--dtype", "bf16"]));
    let (tiles, out) = (cohort().join("tiles"), at("scored"));
    let evaluate = |more: &[&'static str]| {
        let words = [
            "evaluate",
            "--run",
            text(run),
            "--data",
            text(&tiles),
            "--no-expression",
            "--out",
            text(&out),
        ];
        let words = words.into_iter().chain(more.iter().copied());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    fails(evaluate(&["--dtype", "f32"]), &["are bf16", "--dtype"]);
    succeeds(evaluate(&[]));
}

#[test]
fn networks_of_matrices_take_bf16_too() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let run = finished();
    let stored = read_weights(run.join("features/S04.safetensors")).expect("features");
    let features = stored.get("features").expect("a key");
    npy::write(at("x.npy"), features).expect("an input");
    let weights = run.join("fold0/autoencoder.safetensors");
    let predict = |dtype: &str| -> Vec<f64> {
        let y = at(&format!("{dtype}.npy"));
        let (weights, x) = (text(&weights), at("x.npy"));
        let words = [
            "predict",
            "deeppt-autoencoder",
            "--weights",
            weights,
            "--dtype",
            dtype,
        ];
        let files = ["--input", text(&x), "--output", text(&y)];
        succeeds([&words[..], &files].concat());
        let y = npy::read(&y).expect("codes").to_f32().expect("f32");
        y.into_iter().map(f64::from).collect()
    };
    let off = relative(&predict("bf16"), &predict("f32"));
    // Inputs, weights and codes are rounded once each.
    assert!(off > 0.0 && off < 1.0 / 128.0, "off by {off}");
}
