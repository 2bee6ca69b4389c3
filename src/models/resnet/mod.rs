//! ResNet-18 and ResNet-50 (He et al. 2016, "Deep residual learning for image
//! recognition", Table 1), with torchvision's architecture and keys: the stride
//! of a bottleneck is in its 3 x 3 convolution.

mod features;

pub use features::ResNetFeatures;

use crate::error::Result;
use crate::nn::{BatchNorm, Conv2d, ConvGeometry, Linear, Module, Pass, Pool, Slot, State, key};
use crate::ops;
use crate::random::Philox;
use crate::tensor::Tensor;

/// Which network: blocks per stage and their kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// [2, 2, 2, 2] basic blocks; 512 features.
    ResNet18,
    /// [3, 4, 6, 3] bottlenecks; 2,048 features.
    ResNet50,
}

impl Depth {
    fn blocks(self) -> [usize; 4] {
        match self {
            Self::ResNet18 => [2, 2, 2, 2],
            Self::ResNet50 => [3, 4, 6, 3],
        }
    }

    /// How many times the width of a stage its output has.
    fn expansion(self) -> usize {
        match self {
            Self::ResNet18 => 1,
            Self::ResNet50 => 4,
        }
    }

    /// Length of the feature vector.
    pub fn features(self) -> usize {
        512 * self.expansion()
    }
}

/// A convolution without bias and its batch norm.
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    fn new(
        channels: [usize; 2],
        kernel: usize,
        stride: usize,
        random: &mut Philox,
    ) -> Result<Self> {
        let geometry = ConvGeometry {
            stride: [stride; 2],
            padding: [kernel / 2; 2],
            ..ConvGeometry::default()
        };
        Ok(Self {
            conv: Conv2d::new(channels, [kernel; 2], geometry, false, random)?,
            norm: BatchNorm::new(channels[1])?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.norm.forward(&self.conv.forward(x, pass)?, pass)
    }
}

/// conv1/bn1, conv2/bn2 (and conv3/bn3), and the projection of the shortcut.
struct Block {
    layers: Vec<ConvNorm>,
    downsample: Option<ConvNorm>,
}

impl Block {
    fn new(
        depth: Depth,
        inputs: usize,
        width: usize,
        stride: usize,
        random: &mut Philox,
    ) -> Result<Self> {
        let outputs = width * depth.expansion();
        let layers = match depth {
            Depth::ResNet18 => vec![
                ConvNorm::new([inputs, width], 3, stride, random)?,
                ConvNorm::new([width, width], 3, 1, random)?,
            ],
            Depth::ResNet50 => vec![
                ConvNorm::new([inputs, width], 1, 1, random)?,
                ConvNorm::new([width, width], 3, stride, random)?,
                ConvNorm::new([width, outputs], 1, 1, random)?,
            ],
        };
        let downsample = (stride != 1 || inputs != outputs)
            .then(|| ConvNorm::new([inputs, outputs], 1, stride, random))
            .transpose()?;
        Ok(Self { layers, downsample })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some(d) => d.forward(x, pass)?,
            None => x.clone(),
        };
        let mut y = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            y = layer.forward(&y, pass)?;
            if i + 1 < self.layers.len() {
                y = ops::relu(&y)?;
            }
        }
        ops::relu(&ops::add(&y, &shortcut)?)
    }
}

impl State for Block {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        for (i, layer) in self.layers.iter().enumerate() {
            layer
                .conv
                .visit(&key(prefix, &format!("conv{}", i + 1)), visit);
            layer
                .norm
                .visit(&key(prefix, &format!("bn{}", i + 1)), visit);
        }
        if let Some(d) = &self.downsample {
            d.conv.visit(&key(prefix, "downsample.0"), visit);
            d.norm.visit(&key(prefix, "downsample.1"), visit);
        }
    }
}

/// The stem's pooling: 3 x 3, stride 2, padding 1.
const STEM_POOL: Pool = Pool {
    kernel: [3, 3],
    stride: [2, 2],
    padding: [1, 1],
};

pub struct ResNet {
    depth: Depth,
    stem: ConvNorm,
    stages: Vec<Vec<Block>>,
    pub fc: Linear,
}

/// Outputs of the stages, for those who look inside, and of the head.
pub struct ResNetOutput {
    /// After layer1 .. layer4: (N, C, H, W).
    pub stages: Vec<Tensor>,
    /// (N, 512 or 2048)
    pub features: Tensor,
    /// (N, classes)
    pub logits: Tensor,
}

impl ResNet {
    /// Random weights of the distribution that He et al. 2015 derive for ReLU
    /// networks (normal, variance 2 / fan_out), as torchvision draws them.
    pub fn new(depth: Depth, classes: usize, random: &mut Philox) -> Result<Self> {
        Self::of_width(64, depth, classes, random)
    }

    /// As [`Self::new`] with `width` channels in the stem and the first stage in
    /// place of 64, and all other widths in proportion: what a test of the
    /// network's structure can afford.
    pub fn of_width(
        width: usize,
        depth: Depth,
        classes: usize,
        random: &mut Philox,
    ) -> Result<Self> {
        let stem = ConvNorm::new([3, width], 7, 2, random)?;
        let mut inputs = width;
        let mut stages = Vec::with_capacity(4);
        for (stage, &count) in depth.blocks().iter().enumerate() {
            let width = width << stage;
            let mut blocks = Vec::with_capacity(count);
            for i in 0..count {
                let stride = if i == 0 && stage > 0 { 2 } else { 1 };
                blocks.push(Block::new(depth, inputs, width, stride, random)?);
                inputs = width * depth.expansion();
            }
            stages.push(blocks);
        }
        let model = Self {
            depth,
            stem,
            stages,
            fc: Linear::new(inputs, classes, true, random)?,
        };
        for (_, param) in model.parameters() {
            let value = param.value();
            if let [k, _, r, s] = value.shape()[..] {
                let mut values = vec![0.0; value.elements()];
                random.fill_normal(&mut values, 0.0, (2.0 / (k * r * s) as f32).sqrt());
                param.set(Tensor::from_slice(&values, value.shape())?)?;
            }
        }
        Ok(model)
    }

    pub fn depth(&self) -> Depth {
        self.depth
    }

    /// x (N, 3, H, W), normalised by the statistics of the training images.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<ResNetOutput> {
        let y = ops::relu(&self.stem.forward(x, pass)?)?;
        let mut y = ops::max_pool2d(&y, STEM_POOL)?; // (N, 64, H/4, W/4)
        let mut stages = Vec::with_capacity(4);
        for stage in &self.stages {
            for block in stage {
                y = block.forward(&y, pass)?;
            }
            stages.push(y.clone());
        }
        let features = ops::mean(&y, &[2, 3], false)?; // (N, features)
        let logits = self.fc.forward(&features, pass)?;
        Ok(ResNetOutput {
            stages,
            features,
            logits,
        })
    }

    pub(super) fn norms(&self) -> impl Iterator<Item = &BatchNorm> {
        let blocks = self.stages.iter().flatten();
        let inner = blocks.flat_map(|b| b.layers.iter().chain(&b.downsample));
        std::iter::once(&self.stem).chain(inner).map(|c| &c.norm)
    }

    /// Scales what each block adds to its shortcut by setting the scale of the
    /// block's last batch norm. In a network that is never trained a small
    /// scale keeps more of the early layers' texture in the features (kin to
    /// the zero initialisation of Goyal et al. 2017, section 5.1).
    pub fn scale_residuals(&self, scale: f64) -> Result<()> {
        for block in self.stages.iter().flatten() {
            if let Some(gamma) = block.layers.last().and_then(|l| l.norm.weight.as_ref()) {
                let old = gamma.value();
                let new = Tensor::full_on(scale, old.shape(), old.dtype(), &old.device())?;
                gamma.set(new)?;
            }
        }
        Ok(())
    }
}

impl State for ResNet {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        self.stem.conv.visit(&key(prefix, "conv1"), visit);
        self.stem.norm.visit(&key(prefix, "bn1"), visit);
        for (i, stage) in self.stages.iter().enumerate() {
            for (j, block) in stage.iter().enumerate() {
                block.visit(&key(prefix, &format!("layer{}.{j}", i + 1)), visit);
            }
        }
        self.fc.visit(&key(prefix, "fc"), visit);
    }
}
