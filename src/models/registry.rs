//! Models by name, for one eval-mode forward pass from a weights file. What an
//! architecture leaves open is inferred from the shapes of its weights.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::formats::Weights;
use crate::models::backbone::Architecture;
use crate::models::deeppt::{AutoEncoder, Mlp};
use crate::models::densenet::{self, DenseNet, DenseNetFeatures};
use crate::models::inception::{self, Convention, Inception, InceptionFeatures};
use crate::models::resnet::{Depth, ResNet, ResNetFeatures};
use crate::models::rnagan::{BetaVae, Critic, Generator, Growth, Sizes, betavae};
use crate::models::tcgn::{self, Tcgn};
use crate::models::trnasformer::{self, He2Rna, Trnasformer};
use crate::nn::{self, State};
use crate::random::Philox;
use crate::session::{Predict, Session};

/// Settings that the user gave, by key.
pub type Settings = BTreeMap<String, String>;

pub struct Model {
    pub name: &'static str,
    /// The input's shape, batch first.
    pub input: &'static str,
    /// The named outputs, the main one first.
    pub outputs: &'static [&'static str],
    /// Rows that may be computed apart from each other; `None` when the rows
    /// belong together.
    pub batch: Option<usize>,
    /// What weights leave open, and what a user may therefore set.
    pub settings: &'static [&'static str],
    load: fn(&Weights, &Path, &Settings, (&Device, DType)) -> Result<Session>,
}

pub const MODELS: &[Model] = &[
    Model {
        name: "resnet18",
        input: "images (N, 3, H, W), ImageNet-normalised",
        outputs: &["features", "logits"],
        batch: Some(32),
        settings: &[],
        load: |weights, path, _, place| resnet(Depth::ResNet18, weights, path, place),
    },
    Model {
        name: "resnet50",
        input: "images (N, 3, H, W), ImageNet-normalised",
        outputs: &["features", "logits"],
        batch: Some(32),
        settings: &[],
        load: |weights, path, _, place| resnet(Depth::ResNet50, weights, path, place),
    },
    Model {
        name: "densenet121",
        input: "images (N, 3, H, W), ImageNet-normalised",
        outputs: &["features", "logits"],
        batch: Some(32),
        settings: &["bn_eps"],
        load: densenet,
    },
    Model {
        name: "trnasformer",
        input: "images of bags (N, 1, 224, 224)",
        outputs: &["genes", "logits", "cls"],
        batch: Some(64),
        settings: &["n_heads"],
        load: trnasformer,
    },
    Model {
        name: "he2rna",
        input: "images of bags (N, 1, 224, 224)",
        outputs: &["genes"],
        batch: Some(64),
        settings: &[],
        load: he2rna,
    },
    Model {
        name: "deeppt-autoencoder",
        input: "tile features (tiles, 2048)",
        outputs: &["code", "reconstruction"],
        batch: Some(1024),
        settings: &[],
        load: autoencoder,
    },
    Model {
        name: "deeppt",
        input: "one slide's codes (tiles, 512)",
        outputs: &["genes"],
        batch: None,
        settings: &[],
        load: mlp,
    },
    Model {
        name: "tcgn",
        input: "tiles (N, 3, 224, 224), ImageNet-normalised",
        outputs: &["genes"],
        batch: Some(32),
        settings: &["reference_quirks"],
        load: tcgn,
    },
    Model {
        name: "betavae",
        input: "standardised expression (N, genes)",
        outputs: &["z_mean", "z_logvar", "reconstruction"],
        batch: Some(256),
        settings: &[],
        load: betavae,
    },
    Model {
        name: "dcgan-generator",
        input: "standardised latents (N, latent)",
        outputs: &["image"],
        batch: Some(32),
        settings: &[],
        load: generator,
    },
    Model {
        name: "dcgan-critic",
        input: "images (N, 3, H, W) in (-1, 1)",
        outputs: &["score"],
        batch: Some(32),
        settings: &[],
        load: critic,
    },
    Model {
        name: "inception-v3",
        input: "images (N, 3, 299, 299), ImageNet-normalised or as `convention` says",
        outputs: &["features", "logits"],
        batch: Some(32),
        settings: &["convention"],
        load: inception,
    },
];

impl Model {
    /// # Errors
    /// No model of this name; the message lists those that there are.
    pub fn named(name: &str) -> Result<&'static Self> {
        MODELS.iter().find(|m| m.name == name).ok_or_else(|| {
            let names: Vec<&str> = MODELS.iter().map(|m| m.name).collect();
            Error::usage(
                format!("there is no model `{name}`"),
                format!("use one of {}", names.join(", ")),
            )
        })
    }

    /// The model with these weights, ready to run on `device`.
    ///
    /// # Errors
    /// Keys or shapes that are not the architecture's; a setting that the
    /// model does not have; no memory left on the device.
    pub fn session(
        &self,
        weights: &Weights,
        path: &Path,
        settings: &Settings,
        device: &Device,
    ) -> Result<Session> {
        self.session_in(weights, path, settings, device, DType::F32)
    }

    /// As [`Self::session`], computing in `dtype`: f32, or bf16 with sums, the last
    /// mean of an image network and outputs in f32.
    pub fn session_in(
        &self,
        weights: &Weights,
        path: &Path,
        settings: &Settings,
        device: &Device,
        dtype: DType,
    ) -> Result<Session> {
        let known = |key: &&String| self.settings.contains(&key.as_str());
        if let Some(key) = settings.keys().find(|key| !known(key)) {
            let remedy = match self.settings {
                [] => "leave it out: everything is inferred from the weights".to_owned(),
                some => format!("leave it out, or set {}", some.join(", ")),
            };
            let problem = format!("{} has no setting `{key}`", self.name);
            return Err(Error::usage(problem, remedy));
        }
        (self.load)(weights, path, settings, (device, dtype))
    }
}

/// The value that a setting gives, or `default`.
fn setting<T: FromStr + Display>(settings: &Settings, key: &str, default: T) -> Result<T> {
    let Some(text) = settings.get(key) else {
        return Ok(default);
    };
    text.parse().map_err(|_| {
        Error::usage(
            format!("{key} = {text} is not a value that it can have"),
            format!("write for example --set {key}={default}, the default"),
        )
    })
}

/// Rows and columns of the matrix `key`, if it has any elements.
fn matrix(weights: &Weights, key: &str) -> Option<[usize; 2]> {
    match weights.get(key)?.shape[..] {
        [rows, columns] if rows > 0 && columns > 0 => Some([rows, columns]),
        _ => None,
    }
}

/// Rows of the matrix `key` if it has these `columns`, otherwise 0, which does
/// not pass the strict load that follows. So a model is never made larger than
/// the file that it is made from.
fn rows(weights: &Weights, key: &str, columns: usize) -> usize {
    match matrix(weights, key) {
        Some([rows, c]) if c == columns => rows,
        _ => 0,
    }
}

fn columns(weights: &Weights, key: &str) -> usize {
    matrix(weights, key).map_or(0, |[_, columns]| columns)
}

fn resnet(
    depth: Depth,
    weights: &Weights,
    path: &Path,
    (device, dtype): (&Device, DType),
) -> Result<Session> {
    let classes = rows(weights, "fc.weight", depth.features());
    let model = ResNet::new(depth, classes, &mut Philox::new(0))?;
    nn::load(&model, weights, path)?;
    Ok(Session::new(ResNetFeatures::in_dtype(
        model, device, dtype,
    )?))
}

fn densenet(
    weights: &Weights,
    path: &Path,
    settings: &Settings,
    (device, dtype): (&Device, DType),
) -> Result<Session> {
    let weights = Architecture::DenseNet121.with_present_keys(weights.clone())?;
    let classes = rows(&weights, "classifier.weight", densenet::FEATURES);
    let eps: f64 = setting(settings, "bn_eps", 1e-5)?;
    if !(eps > 0.0 && eps.is_finite()) {
        return Err(Error::usage(
            format!("bn_eps = {eps} is no small positive number"),
            "leave it out for PyTorch's 1e-5, or set Keras' 1.001e-5",
        ));
    }
    let model = DenseNet::new(classes, &mut Philox::new(0))?.with_epsilon(eps);
    nn::load(&model, &weights, path)?;
    Ok(Session::new(DenseNetFeatures::in_dtype(
        model, device, dtype,
    )?))
}

fn autoencoder(
    weights: &Weights,
    path: &Path,
    _: &Settings,
    (device, dtype): (&Device, DType),
) -> Result<Session> {
    let features = columns(weights, "encoder.0.weight");
    let code = rows(weights, "encoder.0.weight", features);
    let model = AutoEncoder::new(features, code, &mut Philox::new(0))?;
    nn::load(&model, weights, path)?;
    model.to_device(device)?;
    ready(model, dtype)
}

fn mlp(
    weights: &Weights,
    path: &Path,
    _: &Settings,
    (device, dtype): (&Device, DType),
) -> Result<Session> {
    let code = columns(weights, "layer0.0.weight");
    let hidden = rows(weights, "layer0.0.weight", code);
    let genes = vec![0.0; rows(weights, "layer1.weight", hidden)];
    let model = Mlp::new(code, hidden, &genes, 0.0, &mut Philox::new(0))?;
    nn::load(&model, weights, path)?;
    model.to_device(device)?;
    ready(model, dtype)
}

fn trnasformer(
    weights: &Weights,
    path: &Path,
    settings: &Settings,
    (device, dtype): (&Device, DType),
) -> Result<Session> {
    let qkv = |block: usize| matrix(weights, &format!("blocks.{block}.attn.qkv.weight"));
    let fc1 = |block: usize| matrix(weights, &format!("blocks.{block}.mlp.fc1.weight"));
    let width = match qkv(0) {
        Some([rows, width]) if rows == 3 * width => width,
        _ => 0,
    };
    let hidden = rows(weights, "blocks.0.mlp.fc1.weight", width);
    let fits = |&block: &usize| {
        qkv(block) == Some([3 * width, width]) && fc1(block) == Some([hidden, width])
    };
    let config = trnasformer::Config {
        width,
        depth: (0..).take_while(fits).count(),
        heads: setting(settings, "n_heads", trnasformer::HEADS)?,
        hidden,
        genes: weights.get("conv.weight").map(|w| match w.shape[..] {
            [genes, columns, 1] if columns == width => genes,
            _ => 0,
        }),
        classes: rows(weights, "head.weight", width),
        positions: weights.get("pos_embed").is_some(),
    };
    let model = Trnasformer::new(config, &mut Philox::new(0))?;
    nn::load(&model, weights, path)?;
    model.to_device(device)?;
    ready(model, dtype)
}

fn he2rna(
    weights: &Weights,
    path: &Path,
    _: &Settings,
    (device, dtype): (&Device, DType),
) -> Result<Session> {
    let layer = |i: usize| match weights.get(&format!("conv{i}.weight"))?.shape[..] {
        [outputs, inputs, 1] if inputs > 0 && outputs > 0 => Some([outputs, inputs]),
        _ => None,
    };
    let mut widths = match layer(0) {
        Some([outputs, inputs]) if inputs <= trnasformer::bag::FEATURES => vec![inputs, outputs],
        _ => vec![0, 0],
    };
    while let Some([outputs, inputs]) = layer(widths.len() - 1)
        && widths.last() == Some(&inputs)
    {
        widths.push(outputs);
    }
    let model = He2Rna::new(&widths, &mut Philox::new(0))?;
    nn::load(&model, weights, path)?;
    model.to_device(device)?;
    ready(model, dtype)
}

fn tcgn(
    weights: &Weights,
    path: &Path,
    settings: &Settings,
    (device, dtype): (&Device, DType),
) -> Result<Session> {
    let config = tcgn::Config {
        reference_quirks: setting(settings, "reference_quirks", false)?,
        ..tcgn::Config::of(weights, path)?
    };
    let model = Tcgn::new(&config, &mut Philox::new(0))?;
    nn::load(&model, weights, path)?;
    model.to_device(device)?;
    ready(model, dtype)
}

/// Output widths of layers whose weights are matrices, each as wide as the one before gives.
fn chain(weights: &Weights, mut inputs: usize, key: impl Fn(usize) -> String) -> Vec<usize> {
    let mut widths = Vec::new();
    while let Some([rows, columns]) = matrix(weights, &key(widths.len()))
        && columns == inputs
    {
        widths.push(rows);
        inputs = rows;
    }
    widths
}

fn betavae(
    weights: &Weights,
    path: &Path,
    _: &Settings,
    (device, dtype): (&Device, DType),
) -> Result<Session> {
    let model = BetaVae::new(&betavae_config(weights), &mut Philox::new(0))?;
    nn::load(&model, weights, path)?;
    model.to_device(device)?;
    ready(model, dtype)
}

/// The sizes of a beta-VAE by its weights; with a 0 where they do not fit each other.
pub fn betavae_config(weights: &Weights) -> betavae::Config {
    let genes = columns(weights, "encoder.encoder.1.0.weight");
    let mut encoder = chain(weights, genes, |i| {
        format!("encoder.encoder.{}.0.weight", i + 1)
    });
    let hidden = encoder.last().copied().unwrap_or(0);
    if encoder.is_empty() {
        encoder.push(0);
    }
    let latent = rows(weights, "z_mu.weight", hidden);
    let mut decoder = chain(weights, latent, |i| format!("decoder.{i}.0.weight"));
    let fits = decoder.pop() == Some(genes);
    betavae::Config {
        genes: if fits { genes } else { 0 },
        encoder,
        latent,
        decoder,
    }
}

/// The weights below `prefix` where a file has several networks, as those of torchgan's
/// trainer; otherwise all.
fn part_of(weights: &Weights, prefix: &str) -> Result<Weights> {
    if !weights.names().any(|name| name.starts_with(prefix)) {
        return Ok(weights.clone());
    }
    let mut part = Weights::new();
    for (key, array) in weights.iter() {
        if let Some(key) = key.strip_prefix(prefix) {
            part.insert(key, array.clone())?;
        }
    }
    Ok(part)
}

/// The sizes by the shapes of the layers between latent or score and image, which are
/// (wide, narrow, ..) from 4 x 4 px on; the least there are where they are no such.
fn sizes(layers: &[[usize; 2]]) -> Sizes {
    let halving = layers.windows(2).all(|pair| pair[0][1] == pair[1][0]);
    let doubling = layers
        .iter()
        .all(|[wide, narrow]| Some(*wide) == narrow.checked_mul(2));
    let (image, step) = match layers.last() {
        Some(&[_, step]) if halving && doubling && step > 0 && layers.len() < 16 => {
            (8 << layers.len(), step)
        }
        _ => (16, 1),
    };
    Sizes { image, step }
}

/// The first two axes of the weights of convolutions, those of `key(0)`, `key(1)` ..
fn convolutions(weights: &Weights, side: usize, key: impl Fn(usize) -> String) -> Vec<[usize; 2]> {
    let layer = |i| match weights.get(&key(i))?.shape[..] {
        [a, b, r, s] if [r, s] == [side; 2] => Some([a, b]),
        _ => None,
    };
    (0..).map_while(layer).collect()
}

fn generator(
    weights: &Weights,
    path: &Path,
    _: &Settings,
    (device, dtype): (&Device, DType),
) -> Result<Session> {
    let weights = part_of(weights, "generator.")?;
    let model = generator_of(&weights)?;
    nn::load(&model, &weights, path)?;
    model.to_device(device)?;
    ready(model, dtype)
}

/// A generator of the sizes that the weights have, not yet with their values.
///
/// # Errors
/// None but those of memory: weights that are no generator's give the least one there is.
pub fn generator_of(weights: &Weights) -> Result<Generator> {
    let transposed = convolutions(weights, 4, |i| format!("model.{}.0.weight", i + 1));
    let resized = convolutions(weights, 3, |i| format!("model.{}.2.weight", i + 1));
    let (growth, mut layers) = match resized.is_empty() {
        true => (Growth::Transposed, transposed),
        // A convolution's weight has its outputs first.
        false => (
            Growth::Resized,
            resized.iter().map(|&[k, c]| [c, k]).collect(),
        ),
    };
    // The last gives the three colours.
    layers.pop();
    let sizes = sizes(&layers);
    let widest = layers.first().map_or(0, |[wide, _]| *wide);
    let latent = match weights.get("model.0.0.weight").map(|w| &w.shape[..]) {
        Some(&[latent, outputs, 4, 4]) if outputs == widest && outputs > 0 => latent,
        _ => 1,
    };
    Generator::new(latent, sizes, growth, &mut Philox::new(0))
}

fn critic(
    weights: &Weights,
    path: &Path,
    _: &Settings,
    (device, dtype): (&Device, DType),
) -> Result<Session> {
    let weights = part_of(weights, "discriminator.")?;
    let layers = convolutions(&weights, 4, |i| format!("model.{}.0.weight", i + 1));
    let layers: Vec<[usize; 2]> = layers.into_iter().rev().collect();
    if weights.get("profile.weight").is_some() {
        let remedy = "give one that was trained without model.critic_profile";
        let problem = "is of a critic that scores a tile with its profile";
        return Err(Error::file(path, "profile.weight", problem, remedy));
    }
    let random = &mut Philox::new(0);
    let model = match weights.get("model.1.1.weight") {
        Some(_) => Critic::new(sizes(&layers), random)?,
        None => Critic::plain(sizes(&layers), random)?,
    };
    nn::load(&model, &weights, path)?;
    model.to_device(device)?;
    ready(model, dtype)
}

fn inception(
    weights: &Weights,
    path: &Path,
    settings: &Settings,
    (device, dtype): (&Device, DType),
) -> Result<Session> {
    let convention = match settings.get("convention") {
        Some(name) => name.parse()?,
        None => Convention::default(),
    };
    let model = inception_of(weights, convention)?;
    nn::load(&model, weights, path)?;
    Ok(Session::new(InceptionFeatures::in_dtype(
        model, device, dtype,
    )?))
}

/// An Inception-V3 with as many classes as the weights have, and an auxiliary head if they
/// have one, not yet with their values.
///
/// # Errors
/// None but those of memory.
pub fn inception_of(weights: &Weights, convention: Convention) -> Result<Inception> {
    let classes = rows(weights, "fc.weight", inception::FEATURES);
    let auxiliary = weights.names().any(|name| name.starts_with("AuxLogits."));
    Inception::new(classes, auxiliary, convention, &mut Philox::new(0))
}

/// A session of a model that computes in the dtype of its input.
fn ready(model: impl Predict + State + 'static, dtype: DType) -> Result<Session> {
    if dtype == DType::F32 {
        return Ok(Session::new(model));
    }
    if dtype == DType::BF16 {
        model.keep_shadows()?;
    }
    Ok(Session::new(model).in_dtype(dtype))
}
