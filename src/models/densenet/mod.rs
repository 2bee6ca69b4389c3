//! DenseNet-121 (Huang, Liu, van der Maaten and Weinberger 2017, "Densely connected
//! convolutional networks", Table 1), with torchvision's architecture and keys.

mod features;

pub use features::DenseNetFeatures;

use crate::error::Result;
use crate::models::initial::he_normal;
use crate::nn::{BatchNorm, Conv2d, ConvGeometry, Linear, Module, Pass, Pool, Slot, State, key};
use crate::ops;
use crate::random::Philox;
use crate::tensor::Tensor;

/// Layers of each dense block.
const BLOCKS: [usize; 4] = [6, 12, 24, 16];

/// Channels that every layer adds: the growth rate k of the paper.
const GROWTH: usize = 32;

/// A bottleneck is this many times as wide as what its layer adds (section 3).
const BOTTLENECK: usize = 4;

/// Length of the feature vector of [`DenseNet::new`].
pub const FEATURES: usize = 1024;

/// The epsilon of Keras' batch norms, which published features were made with.
pub const KERAS_EPSILON: f64 = 1.001e-5;

/// Before the first block: 3 x 3, stride 2, padding 1.
const STEM_POOL: Pool = Pool {
    kernel: [3, 3],
    stride: [2, 2],
    padding: [1, 1],
};

/// Between blocks: 2 x 2.
const TRANSITION_POOL: Pool = Pool {
    kernel: [2, 2],
    stride: [2, 2],
    padding: [0, 0],
};

fn conv(channels: [usize; 2], kernel: usize, stride: usize, random: &mut Philox) -> Result<Conv2d> {
    let geometry = ConvGeometry {
        stride: [stride; 2],
        padding: [kernel / 2; 2],
        ..ConvGeometry::default()
    };
    Conv2d::new(channels, [kernel; 2], geometry, false, random)
}

/// relu(norm(x)): what stands in front of every convolution but the first.
fn activated(norm: &BatchNorm, x: &Tensor, pass: &Pass) -> Result<Tensor> {
    ops::relu(&norm.forward(x, pass)?)
}

/// norm1, conv1 (1 x 1), norm2, conv2 (3 x 3).
struct DenseLayer {
    norm1: BatchNorm,
    conv1: Conv2d,
    norm2: BatchNorm,
    conv2: Conv2d,
}

impl DenseLayer {
    fn new(inputs: usize, growth: usize, random: &mut Philox) -> Result<Self> {
        let inner = BOTTLENECK * growth;
        Ok(Self {
            norm1: BatchNorm::new(inputs)?,
            conv1: conv([inputs, inner], 1, 1, random)?,
            norm2: BatchNorm::new(inner)?,
            conv2: conv([inner, growth], 3, 1, random)?,
        })
    }

    /// x (N, inputs, H, W) -> (N, growth, H, W)
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let y = self
            .conv1
            .forward(&activated(&self.norm1, x, pass)?, pass)?;
        self.conv2.forward(&activated(&self.norm2, &y, pass)?, pass)
    }
}

impl State for DenseLayer {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        self.norm1.visit(&key(prefix, "norm1"), visit);
        self.conv1.visit(&key(prefix, "conv1"), visit);
        self.norm2.visit(&key(prefix, "norm2"), visit);
        self.conv2.visit(&key(prefix, "conv2"), visit);
    }
}

/// norm, conv (1 x 1, half the channels), then the mean of 2 x 2 pixels.
struct Transition {
    norm: BatchNorm,
    conv: Conv2d,
}

impl Transition {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let y = self.conv.forward(&activated(&self.norm, x, pass)?, pass)?;
        ops::avg_pool2d(&y, TRANSITION_POOL, true)
    }
}

impl State for Transition {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        self.norm.visit(&key(prefix, "norm"), visit);
        self.conv.visit(&key(prefix, "conv"), visit);
    }
}

pub struct DenseNet {
    conv0: Conv2d,
    norm0: BatchNorm,
    blocks: Vec<Vec<DenseLayer>>,
    /// One behind each block but the last.
    transitions: Vec<Transition>,
    norm5: BatchNorm,
    pub classifier: Linear,
}

/// What the parts compute, for those who look inside.
pub struct DenseNetOutput {
    /// After pool0, denseblock1, transition1, denseblock2, .. denseblock4, norm5:
    /// (N, C, H, W).
    pub stages: Vec<Tensor>,
    /// (N, 1024)
    pub features: Tensor,
    /// (N, classes)
    pub logits: Tensor,
}

impl DenseNet {
    /// DenseNet-121. Convolutions are normal with variance 2 / fan_in (He et al.
    /// 2015), as torchvision draws them.
    pub fn new(classes: usize, random: &mut Philox) -> Result<Self> {
        Self::of_growth(GROWTH, classes, random)
    }

    /// As [`Self::new`] with another growth rate and all other widths in
    /// proportion: what a test of the network's structure can afford.
    pub fn of_growth(growth: usize, classes: usize, random: &mut Philox) -> Result<Self> {
        let mut channels = 2 * growth;
        let conv0 = conv([3, channels], 7, 2, random)?;
        let norm0 = BatchNorm::new(channels)?;
        let mut blocks = Vec::with_capacity(BLOCKS.len());
        let mut transitions = Vec::with_capacity(BLOCKS.len() - 1);
        for (i, &layers) in BLOCKS.iter().enumerate() {
            if i > 0 {
                transitions.push(Transition {
                    norm: BatchNorm::new(channels)?,
                    conv: conv([channels, channels / 2], 1, 1, random)?,
                });
                channels /= 2;
            }
            let layer = |j| DenseLayer::new(channels + j * growth, growth, random);
            blocks.push((0..layers).map(layer).collect::<Result<_>>()?);
            channels += layers * growth;
        }
        let model = Self {
            conv0,
            norm0,
            blocks,
            transitions,
            norm5: BatchNorm::new(channels)?,
            classifier: Linear::new(channels, classes, true, random)?,
        };
        he_normal(&model, random)?;
        Ok(model)
    }

    /// The same network with another epsilon in every batch norm:
    /// [`KERAS_EPSILON`] for features like those that were published.
    #[must_use]
    pub fn with_epsilon(mut self, eps: f64) -> Self {
        let inner = self.blocks.iter_mut().flatten();
        let inner = inner.flat_map(|l| [&mut l.norm1, &mut l.norm2]);
        let between = self.transitions.iter_mut().map(|t| &mut t.norm);
        let ends = [&mut self.norm0, &mut self.norm5];
        for norm in inner.chain(between).chain(ends) {
            norm.eps = eps;
        }
        self
    }

    pub(super) fn norms(&self) -> impl Iterator<Item = &BatchNorm> {
        let inner = self.blocks.iter().flatten();
        let inner = inner.flat_map(|l| [&l.norm1, &l.norm2]);
        let between = self.transitions.iter().map(|t| &t.norm);
        inner.chain(between).chain([&self.norm0, &self.norm5])
    }

    /// x (N, 3, H, W), normalised by the statistics of the training images.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<DenseNetOutput> {
        let y = activated(&self.norm0, &self.conv0.forward(x, pass)?, pass)?;
        let mut y = ops::max_pool2d(&y, STEM_POOL)?; // (N, 64, H/4, W/4)
        let mut stages = vec![y.clone()];
        for (i, block) in self.blocks.iter().enumerate() {
            for layer in block {
                y = ops::cat(&[&y, &layer.forward(&y, pass)?], 1)?;
            }
            stages.push(y.clone());
            if let Some(transition) = self.transitions.get(i) {
                y = transition.forward(&y, pass)?;
                stages.push(y.clone());
            }
        }
        let y = self.norm5.forward(&y, pass)?;
        stages.push(y.clone());
        let features = ops::mean(&ops::relu(&y)?, &[2, 3], false)?;
        let logits = self.classifier.forward(&features, pass)?;
        Ok(DenseNetOutput {
            stages,
            features,
            logits,
        })
    }
}

impl State for DenseNet {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        let features = key(prefix, "features");
        self.conv0.visit(&key(&features, "conv0"), visit);
        self.norm0.visit(&key(&features, "norm0"), visit);
        for (i, block) in self.blocks.iter().enumerate() {
            let number = i + 1;
            let at = key(&features, &format!("denseblock{number}"));
            for (j, layer) in block.iter().enumerate() {
                layer.visit(&key(&at, &format!("denselayer{}", j + 1)), visit);
            }
            if let Some(transition) = self.transitions.get(i) {
                transition.visit(&key(&features, &format!("transition{number}")), visit);
            }
        }
        self.norm5.visit(&key(&features, "norm5"), visit);
        self.classifier.visit(&key(prefix, "classifier"), visit);
    }
}
