//! TCGN (Xiao et al. 2024, Medical Image Analysis 91, "Transformer with
//! convolution and graph-node co-embedding"): the expression of a spot from its
//! tile. A trunk of convolutions and attention (CMT), to which two graph blocks
//! bring what nodes of a learnt graph tell each other.
//!
//! Letters: B tiles, N nodes of a graph, C channels, G genes. What is published
//! is described in this folder's README, with its quirks.

mod cmt;
mod config;
mod context;
mod convnext;
mod encoder;
mod explain;
mod graph_block;

use std::sync::Arc;

pub use config::Config;
use context::Tables;
pub use context::Watch;
pub use explain::{Edge, Explanation};

use cmt::{Block, BlockShape, PatchEmbed, image, pointwise};
use config::{REDUCTIONS, STAGES};
use context::Context;
use encoder::ChannelAttention;
use graph_block::{GraphBlock, NODE, Place};

use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::error::{Error, Result};
use crate::nn::{
    BatchNorm, Conv2d, ConvGeometry, Dropout, Linear, Module, Param, Pass, Slot, State, key,
};
use crate::ops::{self, Activation, Around, half::wide};
use crate::random::Philox;
use crate::session::Predict;
use crate::shape::Format;
use crate::tensor::Tensor;

/// A stage of the trunk.
struct Stage {
    embed: PatchEmbed,
    /// (heads, tokens, tokens of keys), shared by the blocks.
    relative_pos: Param,
    blocks: Vec<Block>,
}

/// The network. Its state has the published keys.
pub struct Tcgn {
    config: Config,
    tables: Tables,
    stem: [(Conv2d, BatchNorm); 3],
    stages: [Stage; 4],
    /// Of the first and of the second stage's image.
    graphs: [GraphBlock; 2],
    /// What brings each graph's features to the third stage: before and after it.
    channels: [ChannelAttention; 2],
    fc: Conv2d,
    norm: BatchNorm,
    dropout: Dropout,
    head: [Linear; 2],
}

impl Tcgn {
    /// A network with PyTorch's default weights; [`Self::initialise`] gives those
    /// that training starts from.
    ///
    /// # Errors
    /// Sizes that make no network.
    pub fn new(config: &Config, random: &mut Philox) -> Result<Self> {
        config.check()?;
        let nodes = config.grid() * config.grid();
        let stem = |channels: [usize; 2], stride: usize, random: &mut Philox| -> Result<_> {
            let geometry = ConvGeometry {
                stride: [stride; 2],
                padding: [1; 2],
                ..ConvGeometry::default()
            };
            let conv = Conv2d::new(channels, [3; 2], geometry, true, random)?;
            Ok((conv, BatchNorm::new(channels[1])?))
        };
        let width = config.stem;
        let stem = [
            stem([3, width], 2, random)?,
            stem([width, width], 1, random)?,
            stem([width, width], 1, random)?,
        ];
        let mut stage = |i: usize| -> Result<Stage> {
            let inputs = if i == 0 { width } else { config.widths[i - 1] };
            let shape = BlockShape {
                width: config.widths[i],
                hidden: config.hidden[i],
                heads: config.heads[i],
                reduction: REDUCTIONS[i],
                bias: true,
                eps: 1e-6,
            };
            let side = config.image >> (i + 2);
            let keys = side / REDUCTIONS[i];
            let positions = [shape.heads, side * side, keys * keys];
            let mut values = vec![0.0; positions.iter().product()];
            random.fill_normal(&mut values, 0.0, 1.0);
            let name = format!("relative_pos_{}", STAGES[i]);
            Ok(Stage {
                embed: PatchEmbed::new([inputs, shape.width], 2, random)?,
                relative_pos: Param::new(name, Tensor::from_slice(&values, &positions)?),
                blocks: (0..config.depths[i])
                    .map(|_| Block::new(&shape, random))
                    .collect::<Result<_>>()?,
            })
        };
        let stages = [stage(0)?, stage(1)?, stage(2)?, stage(3)?];
        let mut graph = |stage: usize, patch: usize| {
            let place = Place {
                channels: config.widths[stage],
                patch,
                nodes,
            };
            GraphBlock::new(&place, config.dropout, config.reference_quirks, random)
        };
        let graphs = [graph(0, 4)?, graph(1, 2)?];
        let mut channels = || ChannelAttention::new(nodes, config.dropout, random);
        let channels = [channels()?, channels()?];
        let features = config.features;
        Ok(Self {
            tables: Tables::new(nodes.max(config.widths[2] + NODE))?,
            config: config.clone(),
            stem,
            stages,
            graphs,
            channels,
            fc: pointwise([config.widths[3], features], random)?,
            norm: BatchNorm::new(features)?,
            dropout: Dropout { p: config.dropout },
            head: [
                Linear::new(features, 4 * features, true, random)?,
                Linear::new(4 * features, config.genes, true, random)?,
            ],
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights that the published training starts from: normal with deviation
    /// 0.02 in linear layers and sqrt(2 / fan_out) in convolutions, no biases;
    /// position biases and graph layers as [`Self::new`] draws them.
    pub fn initialise(&self, random: &mut Philox) -> Result<()> {
        for (key, param) in self.parameters() {
            if key.contains(".censnet.") {
                continue;
            }
            let old = param.value();
            let fan_out: usize = match (param.name(), old.shape()) {
                ("bias", [_]) => {
                    let zeros = Tensor::full_on(0.0, old.shape(), old.dtype(), &old.device())?;
                    param.set(zeros)?;
                    continue;
                }
                ("weight", [_, _]) => 0,
                ("weight", [outputs, _, height, width]) => outputs * height * width,
                _ => continue,
            };
            let std = match fan_out {
                0 => 0.02,
                n => (2.0 / n as f32).sqrt(),
            };
            let mut values = vec![0.0; old.elements()];
            random.fill_normal(&mut values, 0.0, std);
            param.set(Tensor::from_slice(&values, old.shape())?.to(&old.device())?)?;
        }
        Ok(())
    }

    /// Tiles (B, 3, H, W), ImageNet-normalised -> expression (B, G), f32. It
    /// computes in the dtype of the tiles, the graphs in f32.
    ///
    /// # Errors
    /// Tiles of another size.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.forward_watched(x, pass, None)
    }

    /// As [`Self::forward`], showing what the modules compute on the way.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_watched(
        &self,
        x: &Tensor,
        pass: &Pass,
        watch: Option<&Watch>,
    ) -> Result<Tensor> {
        let px = self.config.image;
        if !matches!(x.shape(), [_, 3, h, w] if (*h, *w) == (px, px)) {
            let expected = format!("tiles (B, 3, {px}, {px})");
            return Err(Error::shape("tcgn", &[x.shape()], expected));
        }
        let context = Context::new(pass, &self.tables, watch);
        let mut x = x.to_format(Format::ChannelsLast)?;
        for (i, (conv, norm)) in self.stem.iter().enumerate() {
            let activated = Around {
                activation: Activation::Gelu,
                ..Around::default()
            };
            x = conv.forward_normed(&x, false, norm, &activated, pass)?;
            context.show(&format!("stem_norm{}", i + 1), &x);
        }
        let mut graphs = Vec::with_capacity(self.graphs.len());
        for (i, (stage, letter)) in self.stages.iter().zip(STAGES).enumerate() {
            let embed = context.at(&format!("patch_embed_{letter}"));
            let (mut y, size) = stage.embed.forward(&x, &embed)?;
            let third = i == 2;
            let bring = |which: usize, y: &Tensor| -> Result<Tensor> {
                let graph = &graphs[which];
                let y = self.channels[which].forward(y, graph, &context)?;
                context.show(&format!("channel_attention{which}"), &y);
                Ok(y)
            };
            if third {
                y = bring(0, &y)?;
            }
            for (j, block) in stage.blocks.iter().enumerate() {
                let name = format!("blocks_{letter}.{j}");
                y = block.forward(&y, size, &stage.relative_pos, &context.at(&name))?;
                context.show(&name, &y);
            }
            if third {
                y = bring(1, &y)?;
            }
            x = image(&y, size)?;
            if let Some(block) = self.graphs.get(i) {
                let name = format!("gnn_block{i}");
                let features = block.forward(&x, &context.at(&name))?;
                context.show(&name, &features);
                graphs.push(features);
            }
        }
        self.read_out(&x, &context)
    }

    /// The last stage's image -> expression (B, G).
    fn read_out(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let pass = context.pass;
        let y = if context.watched() {
            let y = self.fc.forward(x, pass)?;
            context.show("_fc", &y);
            self.norm.forward(&y, pass)?
        } else {
            (self.fc).forward_normed(x, false, &self.norm, &Around::default(), pass)?
        };
        context.show("_bn", &y);
        let y = ops::silu(&y)?;
        context.show("_swish", &y);
        let y = ops::cast(&ops::mean(&wide(&y)?, &[2, 3], false)?, y.dtype())?;
        context.show_with("_avg_pooling", || {
            ops::reshape(&y, &[y.shape()[0], y.shape()[1], 1, 1])
        })?;
        let y = self.dropout.forward(&y, pass)?;
        let y = self.head[0].activated(&y, Activation::Gelu, pass)?;
        let y = self.head[1].forward(&y, pass)?;
        context.show("head", &y);
        wide(&y)
    }
}

impl State for Tcgn {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        for stage in &self.stages {
            let slot = Slot::Param(stage.relative_pos.clone());
            visit(key(prefix, stage.relative_pos.name()), slot);
        }
        let mut part = |name: &str, module: &dyn State| module.visit(&key(prefix, name), visit);
        for (i, (conv, norm)) in self.stem.iter().enumerate() {
            part(&format!("stem_conv{}", i + 1), conv);
            part(&format!("stem_norm{}", i + 1), norm);
        }
        for (stage, letter) in self.stages.iter().zip(STAGES) {
            part(&format!("patch_embed_{letter}"), &stage.embed);
        }
        for (stage, letter) in self.stages.iter().zip(STAGES) {
            for (i, block) in stage.blocks.iter().enumerate() {
                part(&format!("blocks_{letter}.{i}"), block);
            }
        }
        for (i, (graph, channels)) in self.graphs.iter().zip(&self.channels).enumerate() {
            part(&format!("gnn_block{i}"), graph);
            part(&format!("channel_attention{i}"), channels);
        }
        part("_fc", &self.fc);
        part("_bn", &self.norm);
        part("head.0", &self.head[0]);
        part("head.2", &self.head[1]);
    }

    fn to_device(&self, device: &Device) -> Result<()> {
        self.tables.to_device(device)?;
        for (_, slot) in self.state() {
            let value = slot.value();
            if value.device() != *device {
                slot.set(value.to(device)?)?;
            }
        }
        Ok(())
    }
}

/// Tiles (B, 3, H, W) -> genes (B, G).
impl Predict for Tcgn {
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        Ok(vec![("genes", self.forward(x, &Pass::eval())?)])
    }

    fn device(&self) -> Device {
        self.fc.weight.value().device()
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>> {
        let there = Self::new(&self.config, &mut Philox::new(0))?;
        let stream = Device::Cuda(stream.clone());
        for ((_, to), (_, from)) in there.state().into_iter().zip(self.state()) {
            to.set(from.value().to(&stream)?)?;
            if let (Slot::Param(to), Slot::Param(from)) = (to, from)
                && from.shadow().is_some()
            {
                to.keep_shadow()?;
            }
        }
        there.tables.to_device(&stream)?;
        Ok(Arc::new(there))
    }
}
