//! The networks that make features of tiles, as one: which there are, how one is
//! calibrated without labels, and its form for inference.

use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
#[cfg(feature = "formats")]
use crate::formats::Weights;
use crate::models::densenet::{self, DenseNet, DenseNetFeatures};
use crate::models::resnet::{Depth, ResNet, ResNetFeatures};
use crate::nn::{BatchNorm, Pass, State};
use crate::random::Philox;
use crate::session::Predict;
use crate::tensor::Tensor;

/// Scale of each residual block's contribution in a network of random weights.
/// Chosen on the simulated cohort: against 1 it raises the held-out correlation of
/// a ridge regression on the features from 0.67 to 0.86.
pub const RESIDUAL_SCALE: f64 = 0.2;

/// Which network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "formats", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "formats", serde(rename_all = "lowercase"))]
pub enum Architecture {
    #[default]
    ResNet50,
    DenseNet121,
}

impl Architecture {
    /// As a person writes it.
    pub fn title(self) -> &'static str {
        match self {
            Self::ResNet50 => "ResNet-50",
            Self::DenseNet121 => "DenseNet-121",
        }
    }

    /// As the command line, run files and recipes name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResNet50 => "resnet50",
            Self::DenseNet121 => "densenet121",
        }
    }

    /// Length of the feature vector.
    pub fn features(self) -> usize {
        match self {
            Self::ResNet50 => Depth::ResNet50.features(),
            Self::DenseNet121 => densenet::FEATURES,
        }
    }

    /// The weight of the head, whose rows are the classes.
    pub fn head(self) -> &'static str {
        match self {
            Self::ResNet50 => "fc.weight",
            Self::DenseNet121 => "classifier.weight",
        }
    }

    /// A network with random weights.
    ///
    /// # Errors
    /// More classes than a tensor can have.
    pub fn network(self, classes: usize, random: &mut Philox) -> Result<Box<dyn Backbone>> {
        Ok(match self {
            Self::ResNet50 => Box::new(ResNet::new(Depth::ResNet50, classes, random)?),
            Self::DenseNet121 => Box::new(DenseNet::new(classes, random)?),
        })
    }

    /// The weights with the names that torchvision's present code gives. Its
    /// published DenseNet files have those of PyTorch 0.3, such as
    /// `denselayer1.norm.1.weight` for `denselayer1.norm1.weight`.
    ///
    /// # Errors
    /// A file that has both names of one array.
    #[cfg(feature = "formats")]
    pub fn with_present_keys(self, weights: Weights) -> Result<Weights> {
        if self == Self::ResNet50 {
            return Ok(weights);
        }
        let mut present = Weights::new();
        present.metadata.clone_from(&weights.metadata);
        for (key, array) in weights {
            let mut renamed = key;
            for part in ["norm", "conv"] {
                for number in 1..=2 {
                    let old = format!(".{part}.{number}.");
                    renamed = renamed.replace(&old, &format!(".{part}{number}."));
                }
            }
            present.insert(renamed, array)?;
        }
        Ok(present)
    }

    // By reference, as serde calls it. Runs of before there was a choice are
    // resumed with the text that they began with.
    #[cfg(feature = "slides")]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A network of tiles with its parameters.
pub trait Backbone: State {
    fn norms(&self) -> Vec<&BatchNorm>;

    /// Adds a batch of images x (N, 3, H, W) to the running statistics, which become
    /// the plain average over the batches since [`Self::reset_statistics`].
    ///
    /// # Errors
    /// As the network's forward pass.
    fn observe(&self, x: &Tensor) -> Result<()>;

    /// Keeps more of the early layers' texture in the features of a network that
    /// is never trained, where the architecture has means to.
    ///
    /// # Errors
    /// As [`crate::nn::Param::set`].
    fn soften(&self) -> Result<()>;

    /// For inference on `device` in `dtype`.
    ///
    /// # Errors
    /// No memory left on the device.
    fn ready(self: Box<Self>, device: &Device, dtype: DType) -> Result<Box<dyn Extract>>;

    /// Forgets every batch norm's running statistics. With [`Self::observe`]
    /// it calibrates a network of random weights on images like those that it
    /// will see; without that, activations of many layers drift in scale.
    ///
    /// # Errors
    /// As [`BatchNorm::reset`].
    fn reset_statistics(&self) -> Result<()> {
        self.norms().into_iter().try_for_each(BatchNorm::reset)
    }
}

/// A network of tiles in its ready form.
pub trait Extract: Predict {
    /// The features (N, width), f32, of x (N, 3, H, W), which is best channels-last.
    ///
    /// # Errors
    /// Another shape.
    fn features(&self, x: &Tensor) -> Result<Tensor>;
}

impl Backbone for ResNet {
    fn norms(&self) -> Vec<&BatchNorm> {
        ResNet::norms(self).collect()
    }

    fn observe(&self, x: &Tensor) -> Result<()> {
        self.forward(x, &Pass::calibration()).map(drop)
    }

    fn soften(&self) -> Result<()> {
        self.scale_residuals(RESIDUAL_SCALE)
    }

    fn ready(self: Box<Self>, device: &Device, dtype: DType) -> Result<Box<dyn Extract>> {
        Ok(Box::new(ResNetFeatures::in_dtype(*self, device, dtype)?))
    }
}

impl Extract for ResNetFeatures {
    fn features(&self, x: &Tensor) -> Result<Tensor> {
        ResNetFeatures::features(self, x)
    }
}

impl Backbone for DenseNet {
    fn norms(&self) -> Vec<&BatchNorm> {
        DenseNet::norms(self).collect()
    }

    fn observe(&self, x: &Tensor) -> Result<()> {
        self.forward(x, &Pass::calibration()).map(drop)
    }

    /// Its features hold every layer of the last block as it is.
    fn soften(&self) -> Result<()> {
        Ok(())
    }

    fn ready(self: Box<Self>, device: &Device, dtype: DType) -> Result<Box<dyn Extract>> {
        Ok(Box::new(DenseNetFeatures::in_dtype(*self, device, dtype)?))
    }
}

impl Extract for DenseNetFeatures {
    fn features(&self, x: &Tensor) -> Result<Tensor> {
        DenseNetFeatures::features(self, x)
    }
}
