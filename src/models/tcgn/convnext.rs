//! The convolutional side of a graph block: stages as in ConvNeXt (Liu et al.
//! 2022, "A ConvNet for the 2020s", figure 4), with one group of channels in
//! place of the layer norm.

use super::cmt::{depthwise, patches, pointwise};
use super::context::Context;
use crate::dtype::DType;
use crate::error::Result;
use crate::nn::{Conv2d, Module, Param, Slot, State, key};
use crate::ops;
use crate::random::Philox;
use crate::tensor::Tensor;

/// Statistics over all of a sample, scale and shift per channel.
struct SampleNorm {
    weight: Param,
    bias: Param,
}

impl SampleNorm {
    fn new(channels: usize) -> Result<Self> {
        let constant = |name: &str, value| -> Result<Param> {
            let values = Tensor::full(value, &[channels], DType::F32)?;
            Ok(Param::new(name, values))
        };
        Ok(Self {
            weight: constant("weight", 1.0)?,
            bias: constant("bias", 0.0)?,
        })
    }

    fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let value = |p: &Param| context.pass.tensor_in(p, x.dtype());
        let (weight, bias) = (value(&self.weight)?, value(&self.bias)?);
        ops::group_norm(x, 1, Some(&weight), Some(&bias), 1e-5)
    }
}

impl State for SampleNorm {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        for param in [&self.weight, &self.bias] {
            visit(key(prefix, param.name()), Slot::Param(param.clone()));
        }
    }
}

/// 7 x 7 depthwise, norm, 1 x 1 to four times the width, GELU, 1 x 1 back, a
/// learned scale per channel, and the shortcut.
struct Bottleneck {
    spatial: Conv2d,
    norm: SampleNorm,
    widen: Conv2d,
    narrow: Conv2d,
    gamma: Param,
}

impl Bottleneck {
    fn new(channels: usize, random: &mut Philox) -> Result<Self> {
        Ok(Self {
            spatial: depthwise(channels, 7, false, random)?,
            norm: SampleNorm::new(channels)?,
            widen: pointwise([channels, 4 * channels], random)?,
            narrow: pointwise([4 * channels, channels], random)?,
            gamma: Param::new("gamma", Tensor::full(1e-6, &[channels], DType::F32)?),
        })
    }

    fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let pass = context.pass;
        let y = self
            .norm
            .forward(&self.spatial.forward(x, pass)?, context)?;
        let y = ops::gelu(&self.widen.forward(&y, pass)?)?;
        let y = self.narrow.forward(&y, pass)?;
        let gamma = pass.tensor_in(&self.gamma, y.dtype())?;
        let gamma = ops::reshape(&gamma, &[gamma.elements(), 1, 1])?;
        ops::add(&ops::mul(&y, &gamma)?, x)
    }
}

/// A norm and a 2 x 2 convolution that halves the image, then bottlenecks.
pub(super) struct Stage {
    norm: SampleNorm,
    halve: Conv2d,
    bottlenecks: Vec<Bottleneck>,
}

impl Stage {
    pub fn new(channels: [usize; 2], depth: usize, random: &mut Philox) -> Result<Self> {
        Ok(Self {
            norm: SampleNorm::new(channels[0])?,
            halve: patches(channels, 2, 1, random)?,
            bottlenecks: (0..depth)
                .map(|_| Bottleneck::new(channels[1], random))
                .collect::<Result<_>>()?,
        })
    }

    /// (B, C, H, W) -> (B, K, H / 2, W / 2)
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let x = self.norm.forward(x, context)?;
        let mut x = self.halve.forward(&x, context.pass)?;
        context.show("0", &x);
        for (i, bottleneck) in self.bottlenecks.iter().enumerate() {
            x = bottleneck.forward(&x, context)?;
            context.show(&(i + 1).to_string(), &x);
        }
        Ok(x)
    }
}

impl State for Stage {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        self.norm.visit(&key(prefix, "0.0"), visit);
        self.halve.visit(&key(prefix, "0.1"), visit);
        for (i, b) in self.bottlenecks.iter().enumerate() {
            let prefix = key(prefix, &(i + 1).to_string());
            b.spatial.visit(&key(&prefix, "block.0"), visit);
            b.norm.visit(&key(&prefix, "block.1"), visit);
            b.widen.visit(&key(&prefix, "block.2"), visit);
            b.narrow.visit(&key(&prefix, "block.4"), visit);
            let gamma = key(&prefix, "layer_scaler.gamma");
            visit(gamma, Slot::Param(b.gamma.clone()));
        }
    }
}
