//! Inception-V3 (Szegedy et al. 2016, "Rethinking the Inception architecture for computer
//! vision") with torchvision's keys, and the variant whose features the Frechet Inception
//! distance is defined on.

mod features;
mod stages;

pub use features::InceptionFeatures;

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::models::initial::he_normal;
use crate::nn::{BatchNorm, Conv2d, Linear, Module, Pass, Slot, State, key};
use crate::ops;
use crate::random::Philox;
use crate::tensor::Tensor;
use stages::{Stage, Widths, stages};

/// Length of the feature vector of [`Inception::new`].
pub const FEATURES: usize = 2048;

/// Side of the images that it was made for.
pub const IMAGE: usize = 299;

/// Of every batch norm.
const EPSILON: f64 = 1e-3;

/// What the network takes and how it averages at borders. It was trained on values in
/// (-1, 1), and published features differ in how they come there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "formats", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "formats", serde(rename_all = "kebab-case"))]
pub enum Convention {
    /// Values in (-1, 1), taken as they are.
    Plain,
    /// ImageNet-normalised, brought to (-1, 1): torchvision's `transform_input`, which its
    /// published weights come with.
    #[default]
    Imagenet,
    /// Values in (0, 1), first 2 x - 1 and then `transform_input` as well, as RNA-GAN's code
    /// does for its distances.
    Rnagan,
    /// Values in (0, 1), 2 x - 1, and the borders of TensorFlow: means over the pixels inside
    /// the image, and a maximum in the last block. What pytorch-fid computes.
    PytorchFid,
}

impl Convention {
    pub const NAMES: [&str; 4] = ["plain", "imagenet", "rnagan", "pytorch-fid"];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Imagenet => "imagenet",
            Self::Rnagan => "rnagan",
            Self::PytorchFid => "pytorch-fid",
        }
    }

    /// x (N, 3, H, W) as the network was trained on it.
    fn prepare(self, x: &Tensor) -> Result<Tensor> {
        let twice = |x: &Tensor| ops::affine(x, 2.0, -1.0);
        match self {
            Self::Plain => Ok(x.clone()),
            Self::Imagenet => from_imagenet(x),
            Self::Rnagan => from_imagenet(&twice(x)?),
            Self::PytorchFid => twice(x),
        }
    }

    fn tensorflow(self) -> bool {
        self == Self::PytorchFid
    }
}

impl FromStr for Convention {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Plain, Self::Imagenet, Self::Rnagan, Self::PytorchFid];
        let named = all.into_iter().find(|c| c.name() == text);
        named.ok_or_else(|| {
            Error::usage(
                format!("there is no convention `{text}`"),
                format!("use one of {}", Self::NAMES.join(", ")),
            )
        })
    }
}

/// x (std / 0.5) + (mean - 0.5) / 0.5 by channel, with the mean and deviation of ImageNet.
fn from_imagenet(x: &Tensor) -> Result<Tensor> {
    const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
    const STD: [f32; 3] = [0.229, 0.224, 0.225];
    let channel = |values: [f32; 3]| Tensor::from_slice(&values, &[1, 3, 1, 1])?.to(&x.device());
    let scale = channel(STD.map(|s| s / 0.5))?;
    let shift = channel(MEAN.map(|m| (m - 0.5) / 0.5))?;
    let cast = |t: &Tensor| ops::cast(t, x.dtype());
    ops::add(&ops::mul(x, &cast(&scale)?)?, &cast(&shift)?)
}

/// relu(bn(conv(x)))
struct ConvNorm {
    key: String,
    conv: Conv2d,
    bn: BatchNorm,
}

impl ConvNorm {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        ops::relu(&self.bn.forward(&self.conv.forward(x, pass)?, pass)?)
    }

    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        let at = key(prefix, &self.key);
        self.conv.visit(&key(&at, "conv"), visit);
        self.bn.visit(&key(&at, "bn"), visit);
    }
}

/// The head beside the network that helped to train it. Files have it; nothing here
/// computes it.
struct Auxiliary {
    convs: [ConvNorm; 2],
    fc: Linear,
}

pub struct Inception {
    stages: Vec<Stage<ConvNorm>>,
    auxiliary: Option<Auxiliary>,
    pub fc: Linear,
    convention: Convention,
}

/// What the parts compute.
pub struct InceptionOutput {
    /// (N, 2048): the mean over the last image.
    pub features: Tensor,
    /// (N, classes)
    pub logits: Tensor,
}

impl Inception {
    /// Convolutions are normal with variance 2 / fan_in (He et al. 2015). With `auxiliary` the
    /// state has the auxiliary head too.
    ///
    /// # Errors
    /// More classes than a tensor can have.
    pub fn new(
        classes: usize,
        auxiliary: bool,
        convention: Convention,
        random: &mut Philox,
    ) -> Result<Self> {
        Self::of_width(1, classes, auxiliary, convention, random)
    }

    /// As [`Self::new`] with every width divided by `thinner`, a divisor of 16: what a test of
    /// the network's structure can afford.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_width(
        thinner: usize,
        classes: usize,
        auxiliary: bool,
        convention: Convention,
        random: &mut Philox,
    ) -> Result<Self> {
        let widths = Widths(thinner.max(1));
        let stages = stages(widths, convention.tensorflow(), random)?;
        let auxiliary = match auxiliary {
            true => Some(Auxiliary {
                convs: stages::auxiliary(widths, random)?,
                fc: Linear::new(widths.of(768), classes, true, random)?,
            }),
            false => None,
        };
        let model = Self {
            stages,
            auxiliary,
            fc: Linear::new(widths.of(FEATURES), classes, true, random)?,
            convention,
        };
        he_normal(&model, random)?;
        Ok(model)
    }

    /// x (N, 3, H, W) as the [`Convention`] says, at least 75 px on a side.
    ///
    /// # Errors
    /// Another shape.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<InceptionOutput> {
        self.forward_watched(x, pass, &mut |_, _| Ok(()))
    }

    /// As [`Self::forward`], showing what each stage computes by its published name.
    ///
    /// # Errors
    /// As [`Self::forward`], and what `watch` returns.
    pub fn forward_watched(
        &self,
        x: &Tensor,
        pass: &Pass,
        watch: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<InceptionOutput> {
        let mut y = self.convention.prepare(x)?;
        for stage in &self.stages {
            y = stage.forward(&y, &|layer, x| layer.forward(x, pass))?;
            watch(stage.name, &y)?;
        }
        let features = ops::mean(&y, &[2, 3], false)?;
        let logits = self.fc.forward(&features, pass)?;
        Ok(InceptionOutput { features, logits })
    }
}

impl State for Inception {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        for stage in &self.stages {
            stage.layers().for_each(|layer| layer.visit(prefix, visit));
            if stage.name == "Mixed_6e"
                && let Some(auxiliary) = &self.auxiliary
            {
                auxiliary.convs.iter().for_each(|c| c.visit(prefix, visit));
                auxiliary.fc.visit(&key(prefix, "AuxLogits.fc"), visit);
            }
        }
        self.fc.visit(&key(prefix, "fc"), visit);
    }
}
