//! Models by name: loading from a file, and what is said when it does not fit.

use std::path::Path;

use eosin::formats::{Array, Weights, read_weights, safetensors};
use eosin::models::deeppt::{AutoEncoder, CODE, FEATURES, Mlp};
use eosin::models::densenet::{DenseNet, KERAS_EPSILON};
use eosin::models::inception::{Convention, Inception};
use eosin::models::registry::{MODELS, Model, Settings};
use eosin::models::resnet::{Depth, ResNet};
use eosin::models::rnagan::{BetaVae, Critic, Generator, Growth, Sizes, betavae};
use eosin::models::trnasformer::{Config, He2Rna, Trnasformer};
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

/// No width, depth or hidden width that is published.
const TRNASFORMER: Config = Config {
    width: 24,
    depth: 3,
    heads: 6,
    hidden: 40,
    genes: Some(GENES),
    classes: CLASSES,
    positions: true,
};

/// No size that is published.
const SMALL: Sizes = Sizes { image: 32, step: 3 };

fn small_vae() -> betavae::Config {
    betavae::Config {
        genes: 40,
        encoder: vec![12, 10],
        latent: 6,
        decoder: vec![9, 11, 13],
    }
}

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
        trial("registry::densenet121::old_keys", old_keys),
        trial("registry::densenet121::epsilon", epsilon),
        trial("registry::trnasformer::variants", variants),
        trial("registry::dcgan-generator::variants", gan_variants),
        trial("registry::inception-v3::conventions", conventions),
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
        "densenet121" => {
            let model = DenseNet::new(CLASSES, random)?;
            fill(&model)?;
            let x = input("registry", &[2, 3, 64, 64])?;
            let output = model.forward(&x, &Pass::eval())?;
            let expected = vec![("features", output.features), ("logits", output.logits)];
            Ok((weights(&model)?, x, expected))
        }
        "trnasformer" => {
            let model = Trnasformer::new(TRNASFORMER, random)?;
            fill(&model)?;
            let x = input("registry", &[2, 1, 224, 224])?;
            let expected = model.predict(&x)?;
            Ok((weights(&model)?, x, expected))
        }
        "he2rna" => {
            let model = He2Rna::new(&[FEATURES / 2, 10, 8, GENES], random)?;
            fill(&model)?;
            let x = input("registry", &[2, 1, 224, 224])?;
            let expected = model.predict(&x)?;
            Ok((weights(&model)?, x, expected))
        }
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
        "betavae" => {
            let model = BetaVae::new(&small_vae(), random)?;
            fill(&model)?;
            let x = input("registry", &[5, 40])?;
            let expected = model.predict(&x)?;
            Ok((weights(&model)?, x, expected))
        }
        "dcgan-generator" => {
            let model = Generator::new(7, SMALL, Growth::Transposed, random)?;
            fill(&model)?;
            let x = input("registry", &[5, 7])?;
            let expected = model.predict(&x)?;
            Ok((weights(&model)?, x, expected))
        }
        "dcgan-critic" => {
            let model = Critic::new(SMALL, random)?;
            fill(&model)?;
            let x = input("registry", &[5, 3, 32, 32])?;
            let expected = model.predict(&x)?;
            Ok((weights(&model)?, x, expected))
        }
        "inception-v3" => {
            let model = Inception::new(CLASSES, true, Convention::Imagenet, random)?;
            fill(&model)?;
            let x = input("registry", &[2, 3, 75, 75])?;
            let output = model.forward(&x, &Pass::eval())?;
            let expected = vec![("features", output.features), ("logits", output.logits)];
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
        "classifier.weight",
        "encoder.0.weight",
        "layer0.0.weight",
        "layer1.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.mlp.fc1.weight",
        "conv.weight",
        "conv0.weight",
        "cls_token",
        "relative_pos_a",
        "head.2.weight",
        "encoder.encoder.1.0.weight",
        "z_mu.weight",
        "decoder.0.0.weight",
        "model.0.0.weight",
        "model.1.0.weight",
        "model.1.2.weight",
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

/// torchvision's published file has the keys of PyTorch 0.3.
fn old_keys() -> Result<()> {
    let (present, x, expected) = reference("densenet121")?;
    let mut old = Weights::new();
    let mut renamed = 0;
    for (key, array) in present {
        if key.ends_with("num_batches_tracked") {
            continue;
        }
        let mut before = key.clone();
        for part in ["norm", "conv"] {
            for n in [1, 2] {
                let of_layer = before.contains("denselayer");
                if of_layer {
                    before = before.replace(&format!(".{part}{n}."), &format!(".{part}.{n}."));
                }
            }
        }
        renamed += usize::from(before != key);
        old.insert(before, array)?;
    }
    assert_eq!(renamed, 58 * (2 * 4 + 2));
    let model = Model::named("densenet121")?;
    let path = Path::new("old.pth");
    let session = model.session(&old, path, &Settings::new(), &Device::Cpu)?;
    let outputs = session.runner(Threads::Own(2))?.run(&x)?;
    for ((name, got), (_, want)) in outputs.iter().zip(&expected) {
        let error = relative_l2(&got.to_f64_vec()?, &want.to_f64_vec()?);
        assert!(error <= 1e-5, "{name}: off by {error:e}");
    }
    Ok(())
}

fn epsilon() -> Result<()> {
    let (weights, x, plain) = reference("densenet121")?;
    let model = Model::named("densenet121")?;
    let with = |text: &str| {
        let settings = Settings::from([("bn_eps".to_owned(), text.to_owned())]);
        model.session(&weights, Path::new("w"), &settings, &Device::Cpu)
    };
    let network = DenseNet::new(CLASSES, &mut Philox::new(0))?.with_epsilon(KERAS_EPSILON);
    fill(&network)?;
    let want = network.forward(&x, &Pass::eval())?.features.to_f64_vec()?;
    let outputs = with("1.001e-5")?.runner(Threads::Own(2))?.run(&x)?;
    let got = outputs[0].1.to_f64_vec()?;
    assert!(relative_l2(&got, &want) <= 1e-5);
    let outputs = with("0.5")?.runner(Threads::Own(2))?.run(&x)?;
    assert!(relative_l2(&outputs[0].1.to_f64_vec()?, &plain[0].1.to_f64_vec()?) > 1e-3);
    for wrong in ["0", "-1", "inf", "nan", "small"] {
        let error = with(wrong).err().expect("no epsilon").to_string();
        assert!(error.contains("bn_eps"), "{error}");
    }
    Ok(())
}

/// Without positions, without genes and with other heads: what the file has is
/// what the model has, and heads change the numbers.
fn variants() -> Result<()> {
    let model = Model::named("trnasformer")?;
    let path = Path::new("w.pt");
    let x = input("registry", &[2, 1, 224, 224])?;
    let run = |config: Config, heads: &str| -> Result<Expected> {
        let network = Trnasformer::new(config, &mut Philox::new(0))?;
        fill(&network)?;
        let settings = Settings::from([("n_heads".to_owned(), heads.to_owned())]);
        let session = model.session(&weights(&network)?, path, &settings, &Device::Cpu)?;
        let outputs = session.runner(Threads::Own(2))?.run(&x)?;
        for ((name, got), (_, want)) in outputs.iter().zip(network.predict(&x)?) {
            assert_eq!(got.to_f32_vec()?, want.to_f32_vec()?, "{name}");
        }
        Ok(outputs)
    };
    let plain = run(TRNASFORMER, "6")?;
    assert_eq!(plain[0].1.shape(), [2, GENES]);
    let positions = false;
    let unplaced = run(
        Config {
            positions,
            ..TRNASFORMER
        },
        "6",
    )?;
    assert!(unplaced[0].1.to_f32_vec()? != plain[0].1.to_f32_vec()?);
    let classifier = run(
        Config {
            genes: None,
            ..TRNASFORMER
        },
        "6",
    )?;
    assert_eq!(classifier[0].1.shape(), [2, 0]);
    assert_eq!(classifier[1].1.to_f32_vec()?, plain[1].1.to_f32_vec()?);
    let other = run(
        Config {
            heads: 1,
            ..TRNASFORMER
        },
        "1",
    )?;
    assert!(other[0].1.to_f32_vec()? != plain[0].1.to_f32_vec()?);
    for wrong in ["5", "0", "six"] {
        let error = run(TRNASFORMER, wrong).expect_err("no such heads");
        assert!(error.to_string().contains("n_heads"), "{error}");
    }
    Ok(())
}

/// The generator that resizes, and a file with both networks of a trainer.
fn gan_variants() -> Result<()> {
    let path = Path::new("w.pt");
    let run = |name: &str, weights: &Weights, x: &Tensor| -> Result<Tensor> {
        let model = Model::named(name)?;
        let session = model.session(weights, path, &Settings::new(), &Device::Cpu)?;
        let mut outputs = session.runner(Threads::Own(2))?.run(x)?;
        Ok(outputs.remove(0).1)
    };
    let random = &mut Philox::new(0);
    let (z, image) = (input("z", &[5, 7])?, input("image", &[5, 3, 32, 32])?);
    let resized = Generator::new(7, SMALL, Growth::Resized, random)?;
    let critic = Critic::new(SMALL, random)?;
    fill(&resized)?;
    fill(&critic)?;
    let want = resized.predict(&z)?[0].1.to_f32_vec()?;
    assert_eq!(
        run("dcgan-generator", &weights(&resized)?, &z)?.to_f32_vec()?,
        want
    );
    let mut both = Weights::new();
    for (prefix, weights) in [
        ("generator", weights(&resized)?),
        ("discriminator", weights(&critic)?),
    ] {
        for (key, array) in weights {
            both.insert(format!("{prefix}.{key}"), array)?;
        }
    }
    assert_eq!(run("dcgan-generator", &both, &z)?.to_f32_vec()?, want);
    assert_eq!(
        run("dcgan-critic", &both, &image)?.to_f32_vec()?,
        critic.predict(&image)?[0].1.to_f32_vec()?
    );
    Ok(())
}

/// Each convention by name, in the ready form as in the plain one; a file with and one
/// without the auxiliary head.
fn conventions() -> Result<()> {
    let model = Model::named("inception-v3")?;
    let x = input("registry", &[1, 3, 75, 75])?;
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for name in Convention::NAMES {
        let network = Inception::new(3, name == "plain", name.parse()?, &mut Philox::new(0))?;
        fill(&network)?;
        let settings = Settings::from([("convention".to_owned(), name.to_owned())]);
        let file = weights(&network)?;
        let session = model.session(&file, Path::new("w.pth"), &settings, &Device::Cpu)?;
        let outputs = session.runner(Threads::Own(2))?.run(&x)?;
        let got = outputs[0].1.to_f32_vec()?;
        let want = network.forward(&x, &Pass::eval())?.features;
        let error = relative_l2(&outputs[0].1.to_f64_vec()?, &want.to_f64_vec()?);
        assert!(error <= 1e-5, "{name}: off by {error:e}");
        assert!(!seen.contains(&got), "{name} is as another");
        seen.push(got);
    }
    let settings = Settings::from([("convention".to_owned(), "keras".to_owned())]);
    let outcome = model.session(&Weights::new(), Path::new("w"), &settings, &Device::Cpu);
    let message = outcome.err().expect("no such convention").to_string();
    assert!(
        message.contains("`keras`") && message.contains("pytorch-fid"),
        "{message}"
    );
    Ok(())
}
