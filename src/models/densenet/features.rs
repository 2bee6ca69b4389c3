//! A DenseNet ready for inference. A batch norm behind a convolution is folded into
//! it. One in front of a convolution cannot be, since the ReLU is between them; it
//! becomes a scale and a shift per channel.

use std::ops::Range;
use std::sync::Arc;

use super::{DenseLayer, DenseNet, STEM_POOL, TRANSITION_POOL, Transition};
use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::models::folding::{Place, by_few_images, folded, numbers};
use crate::nn::{BatchNorm, Linear, Module, Pass};
use crate::ops::half::wide;
use crate::ops::{self, Activation, PreparedConv};
use crate::session::Predict;
use crate::tensor::Tensor;

/// relu((x - mean) / sqrt(var + eps) w + b), with parameters where x is.
struct Prologue {
    /// Scale, shift, mean and variance, each (C), f32.
    numbers: [Tensor; 4],
    eps: f64,
    /// The same as relu(scale x + shift), for a convolution that does it while it
    /// reads.
    affine: [Tensor; 2],
}

impl Prologue {
    fn new(norm: &BatchNorm, device: &Device) -> Result<Self> {
        let numbers = numbers(norm)?;
        let [w, b, mean, var] = [0, 1, 2, 3].map(|i| numbers[i].to_f64_vec());
        let (w, b, mean, var) = (w?, b?, mean?, var?);
        let scale: Vec<f64> = (w.iter().zip(&var))
            .map(|(w, v)| w / (v + norm.eps).sqrt())
            .collect();
        let shift = (b.iter().zip(&mean).zip(&scale)).map(|((b, m), s)| b - m * s);
        let shift: Vec<f64> = shift.collect();
        let single = |v: &[f64]| {
            let v: Vec<f32> = v.iter().map(|&v| v as f32).collect();
            Tensor::from_slice(&v, &[v.len()])
        };
        let there = Self {
            affine: [single(&scale)?, single(&shift)?],
            numbers,
            eps: norm.eps,
        };
        there.to(device)
    }

    fn to(&self, device: &Device) -> Result<Self> {
        let [w, b, mean, var] = &self.numbers;
        Ok(Self {
            numbers: [
                w.to(device)?,
                b.to(device)?,
                mean.to(device)?,
                var.to(device)?,
            ],
            eps: self.eps,
            affine: [self.affine[0].to(device)?, self.affine[1].to(device)?],
        })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let [w, b, mean, var] = &self.numbers;
        ops::relu(&ops::batch_norm_eval(
            x,
            mean,
            var,
            Some(w),
            Some(b),
            self.eps,
        )?)
    }
}

/// norm1 and ReLU; conv1 with norm2 and ReLU; conv2.
struct PreparedLayer {
    prologue: Prologue,
    conv1: PreparedConv,
    conv2: PreparedConv,
}

impl PreparedLayer {
    fn new(layer: &DenseLayer, place: Place) -> Result<Self> {
        Ok(Self {
            prologue: Prologue::new(&layer.norm1, place.0)?,
            conv1: folded(&layer.conv1, Some(&layer.norm2), Activation::Relu, place)?,
            conv2: folded(&layer.conv2, None, Activation::None, place)?,
        })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.conv1.apply(&self.prologue.apply(x)?, None)?;
        self.conv2.apply(&y, None)
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Self> {
        Ok(Self {
            prologue: self.prologue.to(&Device::Cuda(stream.clone()))?,
            conv1: self.conv1.on_stream(stream)?,
            conv2: self.conv2.on_stream(stream)?,
        })
    }
}

/// x with the channels of all layers of a block behind its own, in one image from
/// the start.
fn grown(x: &Tensor, block: &[PreparedLayer]) -> Result<Tensor> {
    let &[_, channels, _, _] = x.shape() else {
        return Err(Error::shape("densenet", &[x.shape()], "(N, C, H, W)"));
    };
    let more: usize = block.iter().map(|l| l.conv2.outputs()).sum();
    let mut y = ops::with_room(x, more)?;
    let mut first = channels;
    for layer in block {
        let z = {
            let seen = ops::slice(&y, 1, 0, first)?;
            let [scale, shift] = &layer.prologue.affine;
            layer.conv1.apply_activated(&seen, [scale, shift])?
        };
        layer.conv2.apply_into(&z, &mut y, first)?;
        first += layer.conv2.outputs();
    }
    Ok(y)
}

struct PreparedTransition {
    prologue: Prologue,
    conv: PreparedConv,
}

impl PreparedTransition {
    fn new(transition: &Transition, place: Place) -> Result<Self> {
        Ok(Self {
            prologue: Prologue::new(&transition.norm, place.0)?,
            conv: folded(&transition.conv, None, Activation::None, place)?,
        })
    }

    /// The mean of four pixels and a 1 x 1 convolution are both linear and neither
    /// looks where the other does, so the mean comes first and the convolution
    /// has a quarter of the pixels.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let y = ops::avg_pool2d(&self.prologue.apply(x)?, TRANSITION_POOL, true)?;
        self.conv.apply(&y, None)
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Self> {
        Ok(Self {
            prologue: self.prologue.to(&Device::Cuda(stream.clone()))?,
            conv: self.conv.on_stream(stream)?,
        })
    }
}

/// Blocks whose results are the widest.
const WIDE: usize = 2;

/// (N, 3, H, W) -> features (N, 1024) and logits.
pub struct DenseNetFeatures {
    dtype: DType,
    stem: PreparedConv,
    blocks: Vec<Vec<PreparedLayer>>,
    transitions: Vec<PreparedTransition>,
    last: Prologue,
    classifier: Linear,
}

impl DenseNetFeatures {
    /// Takes the network's present weights and running statistics, to compute
    /// on `device`, as [`crate::models::resnet::ResNetFeatures::new`].
    pub fn new(model: DenseNet, device: &Device) -> Result<Self> {
        Self::in_dtype(model, device, DType::F32)
    }

    /// As [`Self::new`] with images and weights of the convolutions in `dtype`,
    /// f32, bf16 or f16. Batch norms, the mean over the last image and the head
    /// stay f32.
    pub fn in_dtype(model: DenseNet, device: &Device, dtype: DType) -> Result<Self> {
        let place = (device, dtype);
        let block = |layers: &Vec<DenseLayer>| {
            let layers = layers.iter().map(|l| PreparedLayer::new(l, place));
            layers.collect::<Result<Vec<_>>>()
        };
        let transition = |t| PreparedTransition::new(t, place);
        Ok(Self {
            dtype,
            stem: folded(&model.conv0, Some(&model.norm0), Activation::Relu, place)?,
            blocks: model.blocks.iter().map(block).collect::<Result<_>>()?,
            transitions: (model.transitions.iter().map(transition)).collect::<Result<_>>()?,
            last: Prologue::new(&model.norm5, device)?,
            classifier: model.classifier.to(device)?,
        })
    }

    /// The features (N, 1024), f32, of x (N, 3, H, W), which is best
    /// channels-last.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        let x = ops::cast(x, self.dtype)?;
        let x = by_few_images(&x, |x| {
            let x = ops::max_pool2d(&self.stem.apply(x, None)?, STEM_POOL)?;
            self.in_turn(0..WIDE.min(self.blocks.len()), x)
        })?;
        let x = self.in_turn(WIDE.min(self.blocks.len())..self.blocks.len(), x)?;
        ops::mean(&self.last.apply(&wide(&x)?)?, &[2, 3], false)
    }
}

impl DenseNetFeatures {
    /// Some blocks with their transitions, one after the other.
    fn in_turn(&self, blocks: Range<usize>, mut x: Tensor) -> Result<Tensor> {
        // Where layers can write into a growing image, none copies what was before it.
        let in_place = x.device() == Device::Cpu && self.dtype == DType::F32;
        for i in blocks {
            if in_place {
                x = grown(&x, &self.blocks[i])?;
            } else {
                for layer in &self.blocks[i] {
                    x = ops::cat(&[&x, &layer.apply(&x)?], 1)?;
                }
            }
            if let Some(transition) = self.transitions.get(i) {
                x = transition.apply(&x)?;
            }
        }
        Ok(x)
    }
}

impl Predict for DenseNetFeatures {
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let features = self.features(x)?;
        let logits = self.classifier.forward(&features, &Pass::eval())?;
        Ok(vec![("features", features), ("logits", logits)])
    }

    fn device(&self) -> Device {
        self.stem.device()
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>> {
        let device = Device::Cuda(stream.clone());
        let block = |layers: &Vec<PreparedLayer>| {
            let layers = layers.iter().map(|l| l.on_stream(stream));
            layers.collect::<Result<Vec<_>>>()
        };
        Ok(Arc::new(Self {
            dtype: self.dtype,
            stem: self.stem.on_stream(stream)?,
            blocks: self.blocks.iter().map(block).collect::<Result<_>>()?,
            transitions: (self.transitions.iter().map(|t| t.on_stream(stream)))
                .collect::<Result<_>>()?,
            last: self.last.to(&device)?,
            classifier: self.classifier.to(&device)?,
        }))
    }
}
