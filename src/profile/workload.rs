//! The steps that are profiled and whose launches and traffic are kept track of:
//! each model that [`crate::models::registry`] has, at its published sizes, with
//! seeded weights and data.

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::models::deeppt::{AutoEncoder, CODE, FEATURES, Mlp, Standardisation, averaging};
use crate::models::densenet::{DenseNet, DenseNetFeatures};
use crate::models::inception::{self, Convention, Inception, InceptionFeatures};
use crate::models::registry::Model;
use crate::models::resnet::{Depth, ResNet, ResNetFeatures};
use crate::models::rnagan::losses::{Adversarial, Norm, gradient_penalty, interpolate};
use crate::models::rnagan::{BetaVae, Critic, Generator, Growth, Sizes, betavae};
use crate::models::tcgn::{Config, Tcgn};
use crate::models::trnasformer::{self, He2Rna, Trnasformer};
use crate::nn::{Pass, State};
use crate::ops;
use crate::optim::{Adam, Optimizer};
use crate::random::Philox;
use crate::session::Predict;
use crate::shape::Format;
use crate::tensor::Tensor;
use crate::train::deeppt::{Bags, autoencoder_loss};
use crate::train::step::{Loss, TrainingStep};

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A forward pass of the model in its ready form.
    Infer,
    /// Forward pass, backward pass and Adam's update, each step eagerly.
    Train,
    /// The same as a captured step, which a CUDA device replays from the second
    /// one on.
    Replay,
}

/// Side of an image in pixels.
pub const IMAGE: usize = 224;
pub const CLASSES: usize = 1000;
/// DeepPT's regression: genes, which the paper predicts in groups of 4,096, and
/// tiles of a sample in training.
pub const GENES: usize = 4096;
pub const TILES: usize = 16;
/// Genes of a spot, as TCGN is published.
pub const SPOT_GENES: usize = 785;

/// A bag of tRNAsformer and HE2RNA: tiles, features of each, and genes; and of how many
/// tiles the best count in the step that is profiled.
const BAG: usize = 49;
const BAG_FEATURES: usize = 1024;
const BAG_GENES: usize = 31_793;
const BEST_TILES: usize = 10;

/// tRNAsformer with all of the paper's blocks, where the plain name has one.
const DEEP: &str = "trnasformer-l12";
const DEEPEST: usize = 12;

/// RNA-GAN as published: the length of a profile, of its latent, and the tiles.
pub const PROFILE: usize = 19_198;
pub const LATENT: usize = 2048;
pub const TILE: Sizes = Sizes {
    image: 256,
    step: 64,
};

/// [`in_dtype`] in f32.
///
/// # Errors
/// Those of [`in_dtype`].
pub fn with<R>(
    model: &str,
    mode: Mode,
    batch: usize,
    device: &Device,
    f: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<R>,
) -> Result<R> {
    in_dtype(model, mode, batch, (device, DType::F32), f)
}

/// Hands `f` a function that takes one step of `model` on a device. `batch`
/// counts images of a ResNet, DenseNet or Inception, bags of tRNAsformer and HE2RNA, profiles of the beta-VAE, tiles of TCGN and the GAN, of the autoencoder and of a prediction by
/// the regression, and samples of [`TILES`] tiles when that is trained. The
/// data are on the device before. In bf16 and f16 parameters are f32 with shadows
/// of that dtype, which is what `--dtype` makes of a run.
///
/// # Errors
/// No such model, an empty batch, an operator that the device does not have in
/// this dtype, what `f` returns.
pub fn in_dtype<R>(
    model: &str,
    mode: Mode,
    batch: usize,
    (device, dtype): (&Device, DType),
    f: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<R>,
) -> Result<R> {
    let (model, depth) = match model {
        DEEP => ("trnasformer", DEEPEST),
        other => (other, 1),
    };
    let named = Model::named(model)?;
    if batch == 0 {
        return Err(Error::usage(
            "an empty batch computes nothing",
            "give a batch of 1 or more",
        ));
    }
    let random = &mut Philox::new(0);
    match (named.name, mode) {
        ("resnet18", _) => resnet(Depth::ResNet18, mode, batch, (device, dtype), f),
        ("resnet50", _) => resnet(Depth::ResNet50, mode, batch, (device, dtype), f),
        ("deeppt-autoencoder", Mode::Infer) => {
            let model = AutoEncoder::new(FEATURES, CODE, random)?;
            model.to_device(device)?;
            let x = ops::cast(&normal(&[batch, FEATURES], device)?, dtype)?;
            predicting(&model, &x, f)
        }
        ("deeppt-autoencoder", _) => {
            let model = AutoEncoder::new(FEATURES, CODE, random)?;
            ready(&model, device, dtype)?;
            let features = ops::cast(&normal(&[batch, FEATURES], device)?, dtype)?;
            let loss =
                |inputs: &[Tensor], pass: &Pass| autoencoder_loss(&model, &features, inputs, pass);
            training(&model, &loss, &[numbers(batch, batch, device)?], mode, f)
        }
        ("deeppt", Mode::Infer) => {
            let model = Mlp::new(CODE, CODE, &[0.0; GENES], 0.2, random)?;
            model.to_device(device)?;
            let x = ops::cast(&normal(&[batch, CODE], device)?, dtype)?;
            predicting(&model, &x, f)
        }
        ("deeppt", _) => {
            let model = Mlp::new(CODE, CODE, &[0.0; GENES], 0.2, random)?;
            ready(&model, device, dtype)?;
            let tiles = batch.saturating_mul(TILES);
            let bags = Bags {
                codes: normal(&[tiles, CODE], device)?,
                targets: normal(&[batch, GENES], device)?,
                code_scale: Standardisation::identity(CODE, device)?,
                target_scale: Standardisation::identity(GENES, device)?,
                dtype,
            };
            let loss = |inputs: &[Tensor], pass: &Pass| bags.loss(&model, inputs, pass);
            let inputs = [
                numbers(tiles, tiles, device)?,
                averaging(&vec![TILES; batch], tiles)?.to(device)?,
                numbers(batch, batch, device)?,
            ];
            training(&model, &loss, &inputs, mode, f)
        }
        ("densenet121", _) => {
            let model = DenseNet::new(CLASSES, random)?;
            let images = normal(&[batch, 3, IMAGE, IMAGE], &Device::Cpu)?;
            let images = images.to_format(Format::ChannelsLast)?.to(device)?;
            if mode == Mode::Infer {
                let model = DenseNetFeatures::in_dtype(model, device, dtype)?;
                return predicting(&model, &images, f);
            }
            ready(&model, device, dtype)?;
            let images = ops::cast(&images, dtype)?;
            let loss = |inputs: &[Tensor], pass: &Pass| {
                let logits = ops::cast(&model.forward(&images, pass)?.logits, DType::F32)?;
                ops::cross_entropy(&logits, &inputs[0])
            };
            training(&model, &loss, &[numbers(batch, CLASSES, device)?], mode, f)
        }
        ("trnasformer", _) => {
            let config = trnasformer::Config {
                width: 384,
                depth,
                heads: trnasformer::HEADS,
                hidden: 4 * 384,
                genes: Some(BAG_GENES),
                classes: 2,
                positions: true,
            };
            let model = Trnasformer::new(config, random)?;
            ready(&model, device, dtype)?;
            if mode == Mode::Infer {
                let bags = ops::cast(&normal(&[batch, 1, IMAGE, IMAGE], device)?, dtype)?;
                return predicting(&model, &bags, f);
            }
            let features = ops::cast(&normal(&[batch, BAG, BAG_FEATURES], device)?, dtype)?;
            let loss = |inputs: &[Tensor], pass: &Pass| {
                let targets = trnasformer::Targets {
                    genes: Some(&inputs[0]),
                    labels: Some(&inputs[1]),
                };
                model.loss(&features, &targets, Some(BEST_TILES), pass)
            };
            let inputs = [
                normal(&[batch, BAG_GENES], device)?,
                numbers(batch, 2, device)?,
            ];
            training(&model, &loss, &inputs, mode, f)
        }
        ("he2rna", _) => {
            let model = He2Rna::new(&[BAG_FEATURES, 1024, BAG_GENES], random)?;
            ready(&model, device, dtype)?;
            if mode == Mode::Infer {
                let bags = ops::cast(&normal(&[batch, 1, IMAGE, IMAGE], device)?, dtype)?;
                return predicting(&model, &bags, f);
            }
            let features = ops::cast(&normal(&[batch, BAG, BAG_FEATURES], device)?, dtype)?;
            let loss = |inputs: &[Tensor], pass: &Pass| {
                model.loss(&features, &inputs[0], Some(BEST_TILES), pass)
            };
            training(
                &model,
                &loss,
                &[normal(&[batch, BAG_GENES], device)?],
                mode,
                f,
            )
        }
        ("tcgn", _) => {
            let model = Tcgn::new(&Config::new(SPOT_GENES), random)?;
            ready(&model, device, dtype)?;
            let tiles = normal(&[batch, 3, IMAGE, IMAGE], &Device::Cpu)?;
            let tiles = tiles.to_format(Format::ChannelsLast)?.to(device)?;
            let tiles = ops::cast(&tiles, dtype)?;
            if mode == Mode::Infer {
                return predicting(&model, &tiles, f);
            }
            let loss = |inputs: &[Tensor], pass: &Pass| {
                ops::mse_loss(&model.forward(&tiles, pass)?, &inputs[0])
            };
            let target = normal(&[batch, SPOT_GENES], device)?;
            training(&model, &loss, &[target], mode, f)
        }
        ("betavae", _) => {
            let model = BetaVae::new(&published_vae(), random)?;
            ready(&model, device, dtype)?;
            let x = ops::cast(&normal(&[batch, PROFILE], device)?, dtype)?;
            if mode == Mode::Infer {
                return predicting(&model, &x, f);
            }
            let loss =
                |inputs: &[Tensor], pass: &Pass| model.losses(&x, &inputs[0], pass)?.1.total(5e-4);
            let noise = ops::cast(&normal(&[batch, LATENT], device)?, dtype)?;
            training(&model, &loss, &[noise], mode, f)
        }
        ("dcgan-generator", _) => {
            let model = Generator::new(LATENT, TILE, Growth::Transposed, random)?;
            ready(&model, device, dtype)?;
            let z = ops::cast(&normal(&[batch, LATENT], device)?, dtype)?;
            if mode == Mode::Infer {
                return predicting(&model, &z, f);
            }
            let critic = Critic::new(TILE, random)?;
            ready(&critic, device, dtype)?;
            let loss = |inputs: &[Tensor], pass: &Pass| {
                let scores = critic.forward(&model.forward(&inputs[0], pass)?, pass)?;
                Adversarial::Wasserstein.generator(&ops::cast(&scores, DType::F32)?)
            };
            training(&model, &loss, &[z], mode, f)
        }
        ("dcgan-critic", _) => {
            let model = Critic::new(TILE, random)?;
            ready(&model, device, dtype)?;
            let images = |seed: u64| {
                let mut values = vec![0.0; batch * 3 * TILE.image * TILE.image];
                Philox::new(seed).fill_uniform(&mut values, -1.0, 1.0);
                let x = Tensor::from_slice(&values, &[batch, 3, TILE.image, TILE.image])?;
                ops::cast(&x.to_format(Format::ChannelsLast)?.to(device)?, dtype)
            };
            let (real, fake) = (images(1)?, images(2)?);
            if mode == Mode::Infer {
                return predicting(&model, &real, f);
            }
            // Scores of real and generated tiles, and the penalty with its second gradient.
            let loss = |inputs: &[Tensor], pass: &Pass| {
                let scores = [&real, &fake].map(|x| model.forward(x, pass));
                let [of_real, of_fake] = scores;
                let between = interpolate(&real, &fake, &inputs[0])?;
                let penalty = gradient_penalty(&model, &between, Norm::Sample, pass)?;
                let gap = Adversarial::Wasserstein.critic(&of_real?, &of_fake?)?;
                let loss = ops::add(&gap, &ops::affine(&penalty, 10.0, 0.0)?)?;
                ops::cast(&loss, DType::F32)
            };
            let alpha = ops::cast(&Tensor::full_on(0.3, &[batch], DType::F32, device)?, dtype)?;
            training(&model, &loss, &[alpha], mode, f)
        }
        ("inception-v3", _) => {
            let model = Inception::new(CLASSES, false, Convention::Plain, random)?;
            let side = inception::IMAGE;
            let images = normal(&[batch, 3, side, side], &Device::Cpu)?;
            let images = images.to_format(Format::ChannelsLast)?.to(device)?;
            if mode == Mode::Infer {
                let model = InceptionFeatures::in_dtype(model, device, dtype)?;
                return predicting(&model, &images, f);
            }
            ready(&model, device, dtype)?;
            let images = ops::cast(&images, dtype)?;
            let loss = |inputs: &[Tensor], pass: &Pass| {
                let logits = ops::cast(&model.forward(&images, pass)?.logits, DType::F32)?;
                ops::cross_entropy(&logits, &inputs[0])
            };
            training(&model, &loss, &[numbers(batch, CLASSES, device)?], mode, f)
        }
        _ => Err(Error::usage(
            format!("there is no step of {} to profile", named.name),
            "profile another model",
        )),
    }
}

fn published_vae() -> betavae::Config {
    betavae::Config {
        genes: PROFILE,
        encoder: vec![6000, 4000, LATENT],
        latent: LATENT,
        decoder: vec![4000, 6000],
    }
}

fn resnet<R>(
    depth: Depth,
    mode: Mode,
    batch: usize,
    (device, dtype): (&Device, DType),
    f: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<R>,
) -> Result<R> {
    let model = ResNet::new(depth, CLASSES, &mut Philox::new(0))?;
    let images = normal(&[batch, 3, IMAGE, IMAGE], &Device::Cpu)?;
    let images = images.to_format(Format::ChannelsLast)?.to(device)?;
    if mode == Mode::Infer {
        return predicting(&ResNetFeatures::in_dtype(model, device, dtype)?, &images, f);
    }
    ready(&model, device, dtype)?;
    let images = ops::cast(&images, dtype)?;
    let loss = |inputs: &[Tensor], pass: &Pass| {
        let logits = ops::cast(&model.forward(&images, pass)?.logits, DType::F32)?;
        ops::cross_entropy(&logits, &inputs[0])
    };
    let labels = numbers(batch, CLASSES, device)?;
    training(&model, &loss, &[labels], mode, f)
}

fn ready(model: &dyn State, device: &Device, dtype: DType) -> Result<()> {
    model.to_device(device)?;
    match dtype {
        DType::F32 => Ok(()),
        _ => model.keep_shadows(),
    }
}

fn predicting<R>(
    model: &dyn Predict,
    x: &Tensor,
    f: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<R>,
) -> Result<R> {
    f(&mut || model.predict(x).map(drop))
}

fn training<R>(
    model: &dyn State,
    loss: &Loss,
    inputs: &[Tensor],
    mode: Mode,
    f: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<R>,
) -> Result<R> {
    let optimizer = Optimizer::new(Adam::default(), model.parameters())?;
    let mut step = TrainingStep::new(model, optimizer, loss)?;
    if mode == Mode::Train {
        step = step.uncaptured();
    }
    let mut number = 0;
    f(&mut || {
        number += 1;
        step.take(inputs, Philox::new(number)).map(drop)
    })
}

fn normal(shape: &[usize], device: &Device) -> Result<Tensor> {
    let elements = crate::shape::Shape::new(shape)?.elements();
    let mut values = vec![0.0; elements];
    Philox::new(1).fill_normal(&mut values, 0.0, 1.0);
    Tensor::from_slice(&values, shape)?.to(device)
}

/// 0, 1 .. below `below`, and again from 0.
fn numbers(count: usize, below: usize, device: &Device) -> Result<Tensor> {
    let values: Vec<i64> = (0..count).map(|i| (i % below) as i64).collect();
    Tensor::from_slice(&values, &[count])?.to(device)
}
