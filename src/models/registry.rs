//! Models by name, for one eval-mode forward pass from a weights file. What an
//! architecture leaves open is inferred from the shapes of its weights.

use std::collections::BTreeMap;
use std::path::Path;

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::formats::Weights;
use crate::models::deeppt::{AutoEncoder, Mlp};
use crate::models::resnet::{Depth, ResNet, ResNetFeatures};
use crate::models::tcgn::{self, Tcgn};
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
    load: fn(&Weights, &Path, &Device, DType) -> Result<Session>,
}

pub const MODELS: &[Model] = &[
    Model {
        name: "resnet18",
        input: "images (N, 3, H, W), ImageNet-normalised",
        outputs: &["features", "logits"],
        batch: Some(32),
        load: |weights, path, device, dtype| {
            resnet(Depth::ResNet18, weights, path, (device, dtype))
        },
    },
    Model {
        name: "resnet50",
        input: "images (N, 3, H, W), ImageNet-normalised",
        outputs: &["features", "logits"],
        batch: Some(32),
        load: |weights, path, device, dtype| {
            resnet(Depth::ResNet50, weights, path, (device, dtype))
        },
    },
    Model {
        name: "deeppt-autoencoder",
        input: "tile features (tiles, 2048)",
        outputs: &["code", "reconstruction"],
        batch: Some(1024),
        load: autoencoder,
    },
    Model {
        name: "deeppt",
        input: "one slide's codes (tiles, 512)",
        outputs: &["genes"],
        batch: None,
        load: mlp,
    },
    Model {
        name: "tcgn",
        input: "tiles (N, 3, 224, 224), ImageNet-normalised",
        outputs: &["genes"],
        batch: Some(32),
        load: tcgn,
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
        if let Some(key) = settings.keys().next() {
            return Err(Error::usage(
                format!("{} has no setting `{key}`", self.name),
                "leave it out: everything is inferred from the weights",
            ));
        }
        (self.load)(weights, path, device, dtype)
    }
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

fn autoencoder(weights: &Weights, path: &Path, device: &Device, dtype: DType) -> Result<Session> {
    let features = columns(weights, "encoder.0.weight");
    let code = rows(weights, "encoder.0.weight", features);
    let model = AutoEncoder::new(features, code, &mut Philox::new(0))?;
    nn::load(&model, weights, path)?;
    model.to_device(device)?;
    ready(model, dtype)
}

fn mlp(weights: &Weights, path: &Path, device: &Device, dtype: DType) -> Result<Session> {
    let code = columns(weights, "layer0.0.weight");
    let hidden = rows(weights, "layer0.0.weight", code);
    let genes = vec![0.0; rows(weights, "layer1.weight", hidden)];
    let model = Mlp::new(code, hidden, &genes, 0.0, &mut Philox::new(0))?;
    nn::load(&model, weights, path)?;
    model.to_device(device)?;
    ready(model, dtype)
}

fn tcgn(weights: &Weights, path: &Path, device: &Device, dtype: DType) -> Result<Session> {
    let config = tcgn::Config::of(weights, path)?;
    let model = Tcgn::new(&config, &mut Philox::new(0))?;
    nn::load(&model, weights, path)?;
    model.to_device(device)?;
    ready(model, dtype)
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
