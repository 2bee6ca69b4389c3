//! Models by name: loading from a file, and what is said when it does not fit.

use std::path::Path;

use eosin::formats::{Array, Weights, read_weights, safetensors};
use eosin::models::deeppt::{AutoEncoder, CODE, FEATURES, Mlp};
use eosin::models::registry::{MODELS, Model, Settings};
use eosin::models::resnet::{Depth, ResNet};
use eosin::nn::{self, Pass, State};
use eosin::random::Philox;
use eosin::session::Predict;
use eosin::{Device, Error, Result, Tensor, Threads};
use libtest_mimic::Trial;

use crate::formula_weights::{fill, input, state_bits, weights};
use crate::stored::relative_l2;
use crate::trial::trial;

/// Classes and genes that no default has, since they are inferred.
const CLASSES: usize = 11;
const GENES: usize = 23;

pub fn trials() -> Vec<Trial> {
    let mut all: Vec<Trial> = MODELS
        .iter()
        .map(|m| trial(format!("registry::{}::runs", m.name), move || runs(m)))
        .collect();
    for model in MODELS {
        all.push(trial(
            format!("registry::{}::empty_file", model.name),
            move || empty_file(model),
        ));
        all.push(trial(
            format!("registry::{}::hostile_shapes", model.name),
            move || hostile_shapes(model),
        ));
    }
    all.extend([
        trial("registry::every_misfit_in_one_error", every_misfit),
        trial("registry::misfits_set_nothing", misfits_set_nothing),
        trial("registry::integer_weights", integer_weights),
        trial("registry::counters_may_be_missing", missing_counters),
        trial("registry::unknown_model", unknown_model),
        trial("registry::unknown_setting", unknown_setting),
    ]);
    all
}

/// A model of the registry with the formula's weights: its state, an input and
/// what its unfolded forward pass gives.
type Expected = Vec<(&'static str, Tensor)>;

fn reference(name: &str) -> Result<(Weights, Tensor, Expected)> {
    let random = &mut Philox::new(0);
    let resnet = |depth: Depth, random: &mut Philox| -> Result<_> {
        let model = ResNet::new(depth, CLASSES, random)?;
        fill(&model)?;
        let x = input("registry", &[2, 3, 64, 64])?;
        let output = model.forward(&x, &Pass::eval())?;
        let expected = vec![("features", output.features), ("logits", output.logits)];
        Ok((weights(&model)?, x, expected))
    };
    match name {
        "resnet18" => resnet(Depth::ResNet18, random),
        "resnet50" => resnet(Depth::ResNet50, random),
        "deeppt-autoencoder" => {
            let model = AutoEncoder::new(FEATURES, CODE, random)?;
            fill(&model)?;
            let x = input("registry", &[9, FEATURES])?;
            let expected = model.predict(&x)?;
            Ok((weights(&model)?, x, expected))
        }
        "deeppt" => {
            let model = Mlp::new(CODE, CODE, &[0.0; GENES], 0.0, random)?;
            fill(&model)?;
            let x = input("registry", &[9, CODE])?;
            let expected = model.predict(&x)?;
            Ok((weights(&model)?, x, expected))
        }
        "tcgn" => {
            let model = crate::tcgn::small(false)?;
            let x = input("registry", &[2, 3, 64, 64])?;
            let expected = model.predict(&x)?;
            Ok((weights(&model)?, x, expected))
        }
        other => panic!("no reference for {other}"),
    }
}

fn runs(model: &'static Model) -> Result<()> {
    let (weights, x, expected) = reference(model.name)?;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.safetensors");
    safetensors::write(&path, &weights)?;
    let session = model.session(&read_weights(&path)?, &path, &Settings::new(), &Device::Cpu)?;
    let outputs = session.runner(Threads::Own(2))?.run(&x)?;
    let names: Vec<&str> = outputs.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, model.outputs);
    assert_eq!(outputs.len(), expected.len());
    for ((name, got), (_, want)) in outputs.iter().zip(&expected) {
        assert_eq!(got.shape(), want.shape(), "{name}");
        let error = relative_l2(&got.to_f64_vec()?, &want.to_f64_vec()?);
        assert!(error <= 1e-5, "{name}: off by {error:e}");
    }
    Ok(())
}

/// What the session says of weights that do not fit; it must name the file.
fn refusal(model: &Model, weights: &Weights) -> String {
    let path = Path::new("some/weights.safetensors");
    let outcome = model.session(weights, path, &Settings::new(), &Device::Cpu);
    let error = outcome.err().expect("weights that do not fit");
    assert!(matches!(error, Error::File { .. }), "{error}");
    let message = error.to_string();
    assert!(message.starts_with("some/weights.safetensors"), "{message}");
    assert!(message.contains("eosin inspect"), "no remedy: {message}");
    message
}

fn empty_file(model: &Model) -> Result<()> {
    let message = refusal(model, &Weights::new());
    assert!(message.contains("missing"), "{message}");
    Ok(())
}

/// Arrays without elements but with huge sizes, and sizes whose product is
/// huge while the arrays that claim them are small: an error, not memory.
fn hostile_shapes(model: &Model) -> Result<()> {
    let names = [
        "fc.weight",
        "encoder.0.weight",
        "layer0.0.weight",
        "layer1.weight",
        "relative_pos_a",
        "head.2.weight",
    ];
    for shape in [
        &[1 << 40, 0][..],
        &[0, 1 << 40],
        &[1 << 40, 0, 3],
        &[0],
        &[],
    ] {
        let mut weights = Weights::new();
        for name in names {
            let n = shape.iter().product();
            weights.insert(name, Array::from_f32(shape, &vec![0.0; n])?)?;
        }
        refusal(model, &weights);
    }
    let mut weights = Weights::new();
    let n = 1 << 20;
    for name in names {
        weights.insert(name, Array::from_f32(&[n, 1], &vec![0.0; n])?)?;
    }
    refusal(model, &weights);
    Ok(())
}

fn every_misfit() -> Result<()> {
    let model = ResNet::new(Depth::ResNet18, CLASSES, &mut Philox::new(0))?;
    let mut wrong = Weights::new();
    for (key, array) in weights(&model)? {
        match key.as_str() {
            "layer1.0.conv1.weight" => {}
            "bn1.bias" => wrong.insert(key, Array::from_f32(&[63], &[0.0; 63])?)?,
            _ => wrong.insert(key, array)?,
        }
    }
    wrong.insert("surplus.weight", Array::from_f32(&[1], &[0.0])?)?;
    let message = refusal(Model::named("resnet18")?, &wrong);
    for part in [
        "1 key missing (layer1.0.conv1.weight)",
        "1 key unexpected (surplus.weight)",
        "1 key of another shape (bn1.bias: [63], not [64])",
    ] {
        assert!(message.contains(part), "{message} lacks {part}");
    }
    Ok(())
}

fn misfits_set_nothing() -> Result<()> {
    let model = AutoEncoder::new(6, 4, &mut Philox::new(5))?;
    let before = state_bits(&model)?;
    let mut wrong = Weights::new();
    for (key, array) in weights(&model)? {
        if key != "decoder.0.bias" {
            wrong.insert(key, array)?;
        }
    }
    let error = nn::load(&model, &wrong, Path::new("w")).expect_err("a key is missing");
    assert!(error.to_string().contains("decoder.0.bias"), "{error}");
    assert!(state_bits(&model)? == before, "something was set");
    assert!(model.parameters().iter().all(|(_, p)| p.version() == 0));
    // And what fits is set.
    fill(&model)?;
    assert!(state_bits(&model)? != before);
    Ok(())
}

fn integer_weights() -> Result<()> {
    let model = AutoEncoder::new(6, 4, &mut Philox::new(5))?;
    let before = state_bits(&model)?;
    let mut wrong = Weights::new();
    for (key, array) in weights(&model)? {
        let array = match key.as_str() {
            "decoder.0.bias" => Array::from_i64(&[6], &[1; 6])?,
            _ => array,
        };
        wrong.insert(key, array)?;
    }
    let error = nn::load(&model, &wrong, Path::new("w")).expect_err("integers for weights");
    let message = error.to_string();
    assert!(message.contains("decoder.0.bias"), "{message}");
    assert!(message.contains("i64"), "{message}");
    assert!(state_bits(&model)? == before, "something was set");
    Ok(())
}

fn missing_counters() -> Result<()> {
    let model = ResNet::new(Depth::ResNet18, CLASSES, &mut Philox::new(0))?;
    let mut old = Weights::new();
    for (key, array) in weights(&model)? {
        if !key.ends_with("num_batches_tracked") {
            old.insert(key, array)?;
        }
    }
    assert_eq!(old.len() + 20, model.state().len());
    Model::named("resnet18")?
        .session(&old, Path::new("old.pth"), &Settings::new(), &Device::Cpu)
        .map(drop)
}

fn unknown_model() -> Result<()> {
    let error = Model::named("resnet19").err().expect("no such model");
    assert!(matches!(error, Error::Usage { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("`resnet19`"), "{message}");
    for model in MODELS {
        assert!(message.contains(model.name), "{message}");
        assert_eq!(Model::named(model.name)?.name, model.name);
    }
    Ok(())
}

fn unknown_setting() -> Result<()> {
    for model in MODELS {
        let settings = Settings::from([("widht".to_owned(), "3".to_owned())]);
        let outcome = model.session(&Weights::new(), Path::new("w"), &settings, &Device::Cpu);
        let error = outcome.err().expect("no such setting");
        assert!(matches!(error, Error::Usage { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("`widht`"), "{message}");
        assert!(message.contains(model.name), "{message}");
        assert!(message.contains("leave it out"), "{message}");
    }
    Ok(())
}
