//! `eosin predict` against numbers from elsewhere: PyTorch's for ResNet-18, and
//! what extraction and training themselves computed for the rest.

#[path = "../common/formula.rs"]
mod formula;

use std::collections::BTreeMap;
use std::path::Path;

use eosin::formats::{Array, Weights, npy, read_weights, safetensors};
use eosin::slides::{image, tile};

use crate::support::*;

fn predict(model: &str, weights: &Path, input: &Path, output: &Path) -> serde_json::Value {
    predict_in("f32", model, weights, input, output)
}

fn predict_in(
    dtype: &str,
    model: &str,
    weights: &Path,
    input: &Path,
    output: &Path,
) -> serde_json::Value {
    let paths = [
        "--weights",
        text(weights),
        "--input",
        text(input),
        "--output",
        text(output),
    ];
    json([&["predict", model, "--json", "--dtype", dtype][..], &paths].concat())
}

/// |a - b| / |b|
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut b.iter().map(|&b| f64::from(b)))
}

/// A golden case's state from the formula of tests/golden/README.md.
fn golden_state(manifest: &serde_json::Value) -> Weights {
    let mut weights = Weights::new();
    for entry in manifest["state"].as_array().expect("a list") {
        let key = entry[0].as_str().expect("a key");
        let shape: Vec<usize> = entry[1]
            .as_array()
            .expect("a shape")
            .iter()
            .map(|n| n.as_u64().expect("a size") as usize)
            .collect();
        let n = shape.iter().product();
        let fan_in = shape.iter().skip(1).product::<usize>() as f64;
        let (low, high) = match entry[2].as_str().expect("a rule") {
            "zero_i64" => {
                let zero = Array::from_i64(&shape, &vec![0; n]).expect("an array");
                weights.insert(key, zero).expect("a new key");
                continue;
            }
            "fan_in" => (-(3.0 / fan_in).sqrt(), (3.0 / fan_in).sqrt()),
            "scale" => (0.9, 1.1),
            "bias" | "running_mean" | "pos" => (-0.1, 0.1),
            "running_var" => (0.5, 1.5),
            other => panic!("rule {other}"),
        };
        let array = Array::from_f32(&shape, &formula::values(key, n, low, high));
        weights
            .insert(key, array.expect("an array"))
            .expect("a new key");
    }
    weights
}

#[test]
fn resnet18_gives_torchvisions_numbers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/backbone_resnet18_eval");
    let manifest = std::fs::read(golden.with_extension("json")).expect("a manifest");
    let manifest = serde_json::from_slice(&manifest).expect("JSON");
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    safetensors::write(at("w.safetensors"), &golden_state(&manifest)).expect("weights");
    let shape = [2, 3, 224, 224];
    let x = formula::values("input/resnet18", shape.iter().product(), -2.0, 2.0);
    npy::write(at("x.npy"), &Array::from_f32(&shape, &x).expect("an array")).expect("an input");

    let shapes = predict(
        "resnet18",
        &at("w.safetensors"),
        &at("x.npy"),
        &at("y.safetensors"),
    );
    assert_eq!(
        shapes,
        serde_json::json!({"features": [2, 512], "logits": [2, 1000]})
    );
    let ours = read_weights(at("y.safetensors")).expect("outputs");
    let theirs = read_weights(golden.with_extension("safetensors")).expect("golden outputs");
    for (output, reference) in [("features", "pooled"), ("logits", "logits")] {
        let of = |w: &Weights, key| w.get(key).expect("a key").to_f32().expect("f32");
        let off = relative(&of(&ours, output), &of(&theirs, reference));
        assert!(off < 1e-5, "{output} is off by {off}");
    }

    // .npy holds the main output, the same numbers.
    predict("resnet18", &at("w.safetensors"), &at("x.npy"), &at("y.npy"));
    assert_eq!(
        &npy::read(at("y.npy")).expect("an array"),
        ours.get("features").expect("a key")
    );

    // Rounding to 8 bits at each of some 20 layers and their sums adds up to about
    // the square root of their number times 2^-9.
    predict_in(
        "bf16",
        "resnet18",
        &at("w.safetensors"),
        &at("x.npy"),
        &at("z.safetensors"),
    );
    let rounded = read_weights(at("z.safetensors")).expect("outputs");
    for output in ["features", "logits"] {
        let of = |w: &Weights| w.get(output).expect("a key").to_f32().expect("f32");
        let off = relative(&of(&rounded), &of(&ours));
        assert!(off > 1e-4, "{output} is off by {off}: was it bf16?");
        assert!(off < 2e-2, "{output} is off by {off}");
    }
}

/// Weights and input of a golden case by the formula, predicted with: the outputs and
/// the golden arrays.
fn predict_golden(case: &str, model: &str) -> (serde_json::Value, Weights, Weights) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(case);
    let manifest = std::fs::read(golden.with_extension("json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    safetensors::write(at("w.safetensors"), &golden_state(&manifest)).expect("weights");
    let input = &manifest["inputs"][0];
    let shape: Vec<usize> = serde_json::from_value(input["shape"].clone()).expect("a shape");
    let bound = |key: &str| input[key].as_f64().expect("a bound");
    let name = input["name"].as_str().expect("a name");
    let n = shape.iter().product();
    let x = formula::values(name, n, bound("lo"), bound("hi"));
    npy::write(at("x.npy"), &Array::from_f32(&shape, &x).expect("an array")).expect("an input");
    let output = at("y.safetensors");
    let shapes = predict(model, &at("w.safetensors"), &at("x.npy"), &output);
    let ours = read_weights(output).expect("outputs");
    let theirs = read_weights(golden.with_extension("safetensors")).expect("golden outputs");
    (shapes, ours, theirs)
}

fn assert_golden((ours, theirs): (&Weights, &Weights), pairs: &[(&str, &str)]) {
    for (output, reference) in pairs {
        let of = |w: &Weights, key| w.get(key).expect("a key").to_f32().expect("f32");
        let off = relative(&of(ours, output), &of(theirs, reference));
        assert!(off < 1e-5, "{output} is off by {off}");
    }
}

#[test]
fn densenet121_gives_torchvisions_numbers() {
    let (shapes, ours, theirs) = predict_golden("backbone_densenet121_eval", "densenet121");
    let expected = serde_json::json!({"features": [2, 1024], "logits": [2, 1000]});
    assert_eq!(shapes, expected);
    assert_golden(
        (&ours, &theirs),
        &[("features", "pooled"), ("logits", "logits")],
    );
}

#[test]
fn trnasformer_and_he2rna_give_the_published_codes_numbers() {
    let (shapes, ours, theirs) = predict_golden("trnasformer_eval_d2", "trnasformer");
    let expected = serde_json::json!({"genes": [4, 512], "logits": [4, 3], "cls": [4, 384]});
    assert_eq!(shapes, expected);
    let pairs = [("genes", "gene_preds"), ("logits", "class_logits")];
    assert_golden((&ours, &theirs), &pairs);

    let (shapes, ours, theirs) = predict_golden("he2rna_eval", "he2rna");
    assert_eq!(shapes, serde_json::json!({"genes": [4, 256]}));
    assert_golden((&ours, &theirs), &[("genes", "gene_preds")]);
}

#[test]
fn resnet50_gives_the_features_of_the_extraction() {
    let run = finished();
    let stored = read_weights(run.join("features/S04.safetensors")).expect("features");
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let mut tiles: Vec<_> = std::fs::read_dir(cohort().join("tiles/S04"))
        .expect("a slide")
        .map(|e| e.expect("an entry").path())
        .collect();
    tiles.sort();
    let mut x = Vec::new();
    for path in &tiles {
        let picture = image::read(path).expect("a tile");
        assert_eq!((picture.width, picture.height), (64, 64));
        for channel in 0..3 {
            let (mean, std) = (tile::IMAGENET_MEAN[channel], tile::IMAGENET_STD[channel]);
            let of = picture.data.iter().skip(channel).step_by(3);
            x.extend(of.map(|&v| (f32::from(v) / 255.0 - mean) / std));
        }
    }
    let mut input = Weights::new();
    let pixels = Array::from_f32(&[tiles.len(), 3, 64, 64], &x).expect("an array");
    input.insert("pixels", pixels).expect("a new key");
    safetensors::write(at("x.safetensors"), &input).expect("an input");
    let encoder = run.join("encoder.safetensors");
    predict("resnet50", &encoder, &at("x.safetensors"), &at("y.npy"));
    let ours = npy::read(at("y.npy")).expect("an array");
    assert_eq!(ours.shape, [2, 2048]);
    let stored = stored
        .get("features")
        .expect("a key")
        .to_f32()
        .expect("f32");
    let off = relative(&ours.to_f32().expect("f32"), &stored);
    assert!(off < 1e-5, "off by {off}");
}

#[test]
fn deeppt_gives_the_predictions_of_the_run() {
    let run = finished();
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let record = std::fs::read(run.join("fold0/fold.json")).expect("a fold");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    let slide = record["test"][0].as_str().expect("a sample");

    let features = read_weights(run.join(format!("features/{slide}.safetensors")));
    let features = features
        .expect("features")
        .get("features")
        .expect("a key")
        .clone();
    npy::write(at("x.npy"), &features).expect("an input");
    let weights = run.join("fold0/autoencoder.safetensors");
    predict(
        "deeppt-autoencoder",
        &weights,
        &at("x.npy"),
        &at("code.npy"),
    );
    assert_eq!(npy::read(at("code.npy")).expect("codes").shape, [2, 512]);
    let shapes = predict(
        "deeppt-autoencoder",
        &weights,
        &at("x.npy"),
        &at("both.safetensors"),
    );
    assert_eq!(
        shapes,
        serde_json::json!({"code": [2, 512], "reconstruction": [2, 2048]})
    );

    let mut mean: BTreeMap<String, f64> = BTreeMap::new();
    for model in 0..2 {
        let weights = run.join(format!("fold0/model{model}-genes0.safetensors"));
        let names = &read_weights(&weights).expect("weights").metadata["genes"];
        let names: Vec<String> = serde_json::from_str(names).expect("names");
        predict("deeppt", &weights, &at("code.npy"), &at("genes.npy"));
        predict(
            "deeppt",
            &weights,
            &at("code.npy"),
            &at("genes.safetensors"),
        );
        let genes = npy::read(at("genes.npy")).expect("genes");
        let named = read_weights(at("genes.safetensors")).expect("genes");
        assert_eq!(named.get("genes"), Some(&genes));
        assert_eq!(genes.shape, [names.len()]);
        for (name, v) in names.into_iter().zip(genes.to_f64()) {
            *mean.entry(name).or_default() += v / 2.0;
        }
    }
    let mut table = csv::Reader::from_path(run.join("predictions.csv")).expect("a table");
    let genes = table.headers().expect("a header").clone();
    let row = table
        .records()
        .map(|r| r.expect("a row"))
        .find(|r| &r[0] == slide)
        .expect("the slide's row");
    let theirs: Vec<f32> = row
        .iter()
        .skip(1)
        .map(|v| v.parse().expect("a number"))
        .collect();
    let ours: Vec<f32> = genes.iter().skip(1).map(|g| mean[g] as f32).collect();
    assert_eq!(ours.len(), 148);
    let off = relative(&ours, &theirs);
    assert!(off < 1e-5, "off by {off}");
}

#[test]
fn predict_says_what_it_cannot_do() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let x = Array::from_f32(&[2, 512], &[0.5; 1024]).expect("an array");
    npy::write(at("x.npy"), &x).expect("an input");
    let weights = finished().join("fold0/model0-genes0.safetensors");
    let (weights, x, y) = (text(&weights), at("x.npy"), at("y.npy"));
    let with = |model, weights, input, output, more: &[&'static str]| -> Vec<String> {
        let args = [
            "predict",
            model,
            "--weights",
            weights,
            "--input",
            input,
            "--output",
            output,
        ];
        args.iter().chain(more).map(|a| (*a).to_owned()).collect()
    };
    let (x, y) = (text(&x), text(&y));
    fails(
        with("deepspt", weights, x, y, &[]),
        &["no model `deepspt`", "resnet18", "deeppt"],
    );
    fails(
        with("deeppt", weights, x, "y.txt", &[]),
        &["y.txt", ".npy", ".safetensors"],
    );
    fails(
        with("deeppt", weights, x, y, &["--set", "a=1"]),
        &["no setting `a`"],
    );
    fails(
        with("deeppt", weights, x, y, &["--set", "a"]),
        &["--set a", "key=value"],
    );
    let absent = text(folder.path()).to_owned() + "/absent.npy";
    fails(with("deeppt", weights, &absent, y, &[]), &["absent.npy"]);

    let (wide_file, double_file) = (at("wide.npy"), at("f64.npy"));
    let wide = Array::from_f32(&[2, 3], &[0.5; 6]).expect("an array");
    npy::write(&wide_file, &wide).expect("an input");
    fails(
        with("deeppt", weights, text(&wide_file), y, &[]),
        &["wide.npy", "[2, 3]", "(tiles, 512)"],
    );
    let doubles = Array::from_f64(&[2, 512], &[0.5; 1024]).expect("an array");
    npy::write(&double_file, &doubles).expect("an input");
    fails(
        with("deeppt", weights, text(&double_file), y, &[]),
        &["f64.npy", "f32"],
    );
    assert!(!at("y.npy").exists());
    succeeds(with("deeppt", weights, x, y, &[]));
}
