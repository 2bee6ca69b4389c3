//! A ResNet ready for inference: every batch norm folded into its convolution,
//! weights packed once, ReLU and residual applied while a tile of the result
//! is at hand.

use std::sync::Arc;

use super::{Block, ConvNorm, ResNet, STEM_POOL};
use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::dtype::DType;
use crate::error::Result;
use crate::models::folding::{Place, by_few_images, folded};
use crate::nn::{Module, Pass};
use crate::ops::half::wide;
use crate::ops::{self, Activation, PreparedConv};
use crate::session::Predict;
use crate::tensor::Tensor;

struct PreparedBlock {
    layers: Vec<PreparedConv>,
    downsample: Option<PreparedConv>,
}

/// (N, 3, H, W) -> features (N, 512 or 2048) and logits.
pub struct ResNetFeatures {
    dtype: DType,
    stem: PreparedConv,
    blocks: Vec<PreparedBlock>,
    /// Blocks up to the first of the third stage, whose results are the widest.
    wide: usize,
    fc: crate::nn::Linear,
}

impl PreparedBlock {
    fn on_stream(&self, stream: &CudaDevice) -> Result<Self> {
        let moved = |c: &PreparedConv| c.on_stream(stream);
        Ok(Self {
            layers: self.layers.iter().map(moved).collect::<Result<_>>()?,
            downsample: self.downsample.as_ref().map(moved).transpose()?,
        })
    }
}

/// The blocks, one after the other.
fn in_turn(blocks: &[PreparedBlock], mut x: Tensor) -> Result<Tensor> {
    for block in blocks {
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
        x = last.apply_onto(&x, shortcut)?;
    }
    Ok(x)
}

fn prepare(layer: &ConvNorm, activation: Activation, place: Place) -> Result<PreparedConv> {
    folded(&layer.conv, Some(&layer.norm), activation, place)
}

fn prepare_block(block: &Block, place: Place) -> Result<PreparedBlock> {
    Ok(PreparedBlock {
        // The last ReLU follows the sum with the shortcut, which the last
        // convolution adds before its activation.
        layers: block
            .layers
            .iter()
            .map(|l| prepare(l, Activation::Relu, place))
            .collect::<Result<_>>()?,
        downsample: (block.downsample.as_ref())
            .map(|d| prepare(d, Activation::None, place))
            .transpose()?,
    })
}

impl ResNetFeatures {
    /// Takes the network's present weights and running statistics, to compute
    /// on `device`. They are folded where they are, so a network that is loaded
    /// for inference alone best stays on the CPU until here.
    pub fn new(model: ResNet, device: &Device) -> Result<Self> {
        Self::in_dtype(model, device, DType::F32)
    }

    /// As [`Self::new`] with images and weights of the convolutions in `dtype`,
    /// f32, bf16 or f16, rounded once after the batch norms are folded. The mean
    /// over the last image and the head stay f32.
    pub fn in_dtype(model: ResNet, device: &Device, dtype: DType) -> Result<Self> {
        let place = (device, dtype);
        Ok(Self {
            dtype,
            stem: prepare(&model.stem, Activation::Relu, place)?,
            blocks: (model.stages.iter().flatten())
                .map(|b| prepare_block(b, place))
                .collect::<Result<_>>()?,
            wide: model.stages.iter().take(2).map(Vec::len).sum::<usize>() + 1,
            fc: model.fc.to(device)?,
        })
    }

    /// The features (N, 512 or 2048), f32, of x (N, 3, H, W), which is best
    /// channels-last.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        let x = ops::cast(x, self.dtype)?;
        let (first, rest) = self.blocks.split_at(self.wide.min(self.blocks.len()));
        let x = by_few_images(&x, |x| {
            let x = ops::max_pool2d(&self.stem.apply(x, None)?, STEM_POOL)?;
            in_turn(first, x)
        })?;
        let x = in_turn(rest, x)?;
        ops::mean(&wide(&x)?, &[2, 3], false)
    }
}

impl Predict for ResNetFeatures {
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let features = self.features(x)?;
        let logits = self.fc.forward(&features, &Pass::eval())?;
        Ok(vec![("features", features), ("logits", logits)])
    }

    fn device(&self) -> Device {
        self.stem.device()
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>> {
        Ok(Arc::new(Self {
            dtype: self.dtype,
            stem: self.stem.on_stream(stream)?,
            blocks: (self.blocks.iter())
                .map(|b| b.on_stream(stream))
                .collect::<Result<_>>()?,
            wide: self.wide,
            fc: self.fc.to(&Device::Cuda(stream.clone()))?,
        }))
    }
}
