//! A ResNet ready for inference: every batch norm folded into its convolution,
//! weights packed once, ReLU and residual applied while a tile of the result
//! is in cache.

use super::{Block, ConvNorm, ResNet, STEM_POOL};
use crate::dtype::DType;
use crate::error::Result;
use crate::nn::{Module, Param, Pass};
use crate::ops::{self, Activation, PreparedConv};
use crate::session::Predict;
use crate::tensor::Tensor;

struct PreparedBlock {
    layers: Vec<PreparedConv>,
    downsample: Option<PreparedConv>,
}

/// (N, 3, H, W) -> features (N, 512 or 2048) and logits.
pub struct ResNetFeatures {
    stem: PreparedConv,
    blocks: Vec<PreparedBlock>,
    fc: crate::nn::Linear,
}

fn prepare(layer: &ConvNorm, activation: Activation) -> Result<PreparedConv> {
    let norm = &layer.norm;
    let channels = [norm.running_mean.value().elements()];
    let or = |p: &Option<Param>, constant: f64| match p {
        Some(p) => Ok(p.value()),
        None => Tensor::full(constant, &channels, DType::F32),
    };
    let (w, b) = ops::fold_batch_norm(
        &layer.conv.weight.value(),
        None,
        [
            &or(&norm.weight, 1.0)?,
            &or(&norm.bias, 0.0)?,
            &norm.running_mean.value(),
            &norm.running_var.value(),
        ],
        norm.eps,
    )?;
    PreparedConv::new(&w, Some(&b), activation, layer.conv.geometry)
}

fn prepare_block(block: &Block) -> Result<PreparedBlock> {
    Ok(PreparedBlock {
        // The last ReLU follows the sum with the shortcut, which the last
        // convolution adds before its activation.
        layers: block
            .layers
            .iter()
            .map(|l| prepare(l, Activation::Relu))
            .collect::<Result<_>>()?,
        downsample: (block.downsample.as_ref())
            .map(|d| prepare(d, Activation::None))
            .transpose()?,
    })
}

impl ResNetFeatures {
    /// Takes the network's present weights and running statistics.
    pub fn new(model: ResNet) -> Result<Self> {
        Ok(Self {
            stem: prepare(&model.stem, Activation::Relu)?,
            blocks: (model.stages.iter().flatten())
                .map(prepare_block)
                .collect::<Result<_>>()?,
            fc: model.fc,
        })
    }

    /// The features (N, 512 or 2048) of x (N, 3, H, W), which is best
    /// channels-last.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = ops::max_pool2d(&self.stem.apply(x, None)?, STEM_POOL)?;
        for block in &self.blocks {
            let shortcut = match &block.downsample {
                Some(d) => d.apply(&x, None)?,
                None => x.clone(),
            };
            let (last, first) = match block.layers.split_last() {
                Some(parts) => parts,
                None => continue,
            };
            for layer in first {
                x = layer.apply(&x, None)?;
            }
            x = last.apply(&x, Some(&shortcut))?;
        }
        ops::mean(&x, &[2, 3], false)
    }
}

impl Predict for ResNetFeatures {
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let features = self.features(x)?;
        let logits = self.fc.forward(&features, &Pass::eval())?;
        Ok(vec![("features", features), ("logits", logits)])
    }
}
