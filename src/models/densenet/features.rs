//! A DenseNet ready for inference. A batch norm behind a convolution is folded into
//! it. One in front of a convolution cannot be, since the ReLU is between them; it
//! becomes a scale and a shift per channel, which the convolution reads its image
//! through. Blocks grow in place: each layer writes its channels into one image, except
//! for bf16 and f16 on the CPU.

use std::ops::Range;
use std::sync::Arc;

use super::{DenseLayer, DenseNet, STEM_POOL, TRANSITION_POOL, Transition};
use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::models::folding::{Place, by_few_images, folded, numbers};
use crate::nn::{BatchNorm, Linear, Module, Pass};
use crate::ops::{self, Activation, Pool, PreparedConv};
use crate::session::Predict;
use crate::tensor::Tensor;

/// A batch norm in evaluation and its ReLU, as relu(scale x + shift): scale and shift,
/// each (C), f32.
struct Prologue([Tensor; 2]);

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
        Self([single(&scale)?, single(&shift)?]).to(device)
    }

    fn to(&self, device: &Device) -> Result<Self> {
        let [scale, shift] = &self.0;
        Ok(Self([scale.to(device)?, shift.to(device)?]))
    }

    fn numbers(&self) -> [&Tensor; 2] {
        let [scale, shift] = &self.0;
        [scale, shift]
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
        let y = self.conv1.apply_activated(x, self.prologue.numbers())?;
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

/// Channels that a block adds.
fn growth(block: &[PreparedLayer]) -> usize {
    block.iter().map(|l| l.conv2.outputs()).sum()
}

/// Writes the channels of all layers of a block behind those that `y` begins with.
fn grow(y: &mut Tensor, block: &[PreparedLayer]) -> Result<()> {
    let channels = y.shape()[1];
    let mut first = channels - growth(block);
    for layer in block {
        let z = {
            let seen = ops::slice(y, 1, 0, first)?;
            let numbers = layer.prologue.numbers();
            layer.conv1.apply_activated(&seen, numbers)?
        };
        layer.conv2.apply_into(&z, y, first)?;
        first += layer.conv2.outputs();
    }
    Ok(())
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
    /// has a quarter of the pixels. The result has room for `more` channels.
    fn apply(&self, x: &Tensor, more: usize) -> Result<Tensor> {
        let numbers = self.prologue.numbers();
        let y = ops::activated_avg_pool2d(x, numbers, TRANSITION_POOL, x.dtype())?;
        match more {
            0 => self.conv.apply(&y, None),
            _ => self.conv.apply_with_room(&y, more),
        }
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
        let all = self.blocks.len();
        let wide = match x.device() {
            Device::Cpu => WIDE.min(all),
            Device::Cuda(_) => all,
        };
        let x = by_few_images(&x, |x| {
            let x = ops::max_pool2d(&self.stem.apply(x, None)?, STEM_POOL)?;
            self.in_turn(0..wide, x)
        })?;
        let x = self.in_turn(wide..all, x)?;
        let &[n, channels, h, w] = x.shape() else {
            return Err(Error::shape("densenet", &[x.shape()], "(N, C, H, W)"));
        };
        let whole = Pool {
            kernel: [h, w],
            stride: [h, w],
            padding: [0, 0],
        };
        let y = ops::activated_avg_pool2d(&x, self.last.numbers(), whole, DType::F32)?;
        ops::reshape(&y, &[n, channels])
    }
}

impl DenseNetFeatures {
    /// Some blocks with their transitions, one after the other.
    fn in_turn(&self, blocks: Range<usize>, mut x: Tensor) -> Result<Tensor> {
        // Where layers can write into a growing image, none copies what was before it.
        let in_place = x.device() != Device::Cpu || self.dtype == DType::F32;
        if in_place && !blocks.is_empty() {
            x = ops::with_room(&x, growth(&self.blocks[blocks.start]))?;
        }
        for i in blocks.clone() {
            if in_place {
                grow(&mut x, &self.blocks[i])?;
            } else {
                for layer in &self.blocks[i] {
                    x = ops::cat(&[&x, &layer.apply(&x)?], 1)?;
                }
            }
            if let Some(transition) = self.transitions.get(i) {
                let next = self.blocks.get(i + 1).filter(|_| blocks.contains(&(i + 1)));
                let more = next.filter(|_| in_place).map_or(0, |block| growth(block));
                x = transition.apply(&x, more)?;
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
