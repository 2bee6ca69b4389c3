//! tRNAsformer (Alsaafin, Safarpoor, Sikaroudi, Hipp and Tizhoosh 2023,
//! Communications Biology 6:304, "Learning to predict RNA sequence expressions from
//! whole slide images with applications for search and classification"): 49 tiles of
//! a slide -> transformer -> expression from the tiles' tokens, class from the class
//! token. [`He2Rna`] (Schmauch et al. 2020) is the baseline on the same bags.
//!
//! Letters: B bags, T = 49 tiles, F = 1,024 features, E width, G genes.

pub mod bag;
mod he2rna;
mod pooling;

pub use he2rna::He2Rna;
pub use pooling::KS;

use std::sync::Arc;

use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::nn::{
    Conv2d, ConvGeometry, Dropout, LayerNorm, Linear, Module, Param, Pass, Pointwise, Slot, State,
    key,
};
use crate::ops::half::wide;
use crate::ops::{self, Activation};
use crate::random::Philox;
use crate::session::Predict;
use crate::tensor::Tensor;
use bag::{FEATURES, TILES};

/// Between the tokens and the gene head, in training.
pub const DROPOUT: f64 = 0.25;

/// The paper's heads.
pub const HEADS: usize = 6;

const NORM_EPSILON: f64 = 1e-6;

/// What an architecture is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// E; 384 in the paper, 192 by the published code's default.
    pub width: usize,
    /// Blocks; 1 to 12 in the paper.
    pub depth: usize,
    /// They share the width; 6 in the paper, 1 by the published code's default.
    pub heads: usize,
    /// Inside a block's two layers; 4 E as published.
    pub hidden: usize,
    /// `None` for a network that only classifies.
    pub genes: Option<usize>,
    pub classes: usize,
    /// Whether tokens know their place in the bag.
    pub positions: bool,
}

/// qkv, then the heads' attention, then a projection.
struct Attention {
    heads: usize,
    qkv: Linear,
    proj: Linear,
}

impl Attention {
    /// x (B, N, E) -> (B, N, E)
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let qkv = self.qkv.forward(x, pass)?; // (B, N, 3 E): q, k, v, each by heads
        let width = qkv.shape()[qkv.rank() - 1] / 3 / self.heads;
        let scale = 1.0 / (width as f64).sqrt();
        let y = ops::attention_packed(&[&qkv], self.heads, None, scale)?;
        self.proj.forward(&y, pass)
    }
}

/// x + attention(norm1(x)), then x + fc2(gelu(fc1(norm2(x)))).
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    fn new(config: &Config, random: &mut Philox) -> Result<Self> {
        let Config { width, hidden, .. } = *config;
        Ok(Self {
            norm1: LayerNorm::new(width, NORM_EPSILON)?,
            attn: Attention {
                heads: config.heads,
                qkv: Linear::new(width, 3 * width, true, random)?,
                proj: Linear::new(width, width, true, random)?,
            },
            norm2: LayerNorm::new(width, NORM_EPSILON)?,
            fc1: Linear::new(width, hidden, true, random)?,
            fc2: Linear::new(hidden, width, true, random)?,
        })
    }

    /// x and its `norm1` -> the block's result and `next` of that, so that each norm
    /// makes the sum that it is of.
    fn forward(
        &self,
        (x, normed): (&Tensor, &Tensor),
        next: &LayerNorm,
        pass: &Pass,
    ) -> Result<(Tensor, Tensor)> {
        let y = self.attn.forward(normed, pass)?;
        let (x, normed) = self.norm2.of_sum(x, &y, pass)?;
        let y = self.fc1.activated(&normed, Activation::Gelu, pass)?;
        next.of_sum(&x, &self.fc2.forward(&y, pass)?, pass)
    }
}

impl State for Block {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        self.norm1.visit(&key(prefix, "norm1"), visit);
        self.attn.qkv.visit(&key(prefix, "attn.qkv"), visit);
        self.attn.proj.visit(&key(prefix, "attn.proj"), visit);
        self.norm2.visit(&key(prefix, "norm2"), visit);
        self.fc1.visit(&key(prefix, "mlp.fc1"), visit);
        self.fc2.visit(&key(prefix, "mlp.fc2"), visit);
    }
}

pub struct Trnasformer {
    config: Config,
    cls_token: Param,
    pos_embed: Option<Param>,
    proj: Conv2d,
    blocks: Vec<Block>,
    conv: Option<Pointwise>,
    norm: LayerNorm,
    head: Linear,
    /// Between tokens and gene head; [`DROPOUT`] unless set.
    pub dropout: f64,
}

impl Trnasformer {
    /// Random weights as PyTorch draws them; class token and positions start at 0.
    ///
    /// # Errors
    /// Heads that do not divide the width.
    pub fn new(config: Config, random: &mut Philox) -> Result<Self> {
        let Config { width, heads, .. } = config;
        if heads == 0 || width % heads != 0 {
            return Err(Error::usage(
                format!("{heads} heads cannot share a width of {width}"),
                "set n_heads to the number that the network was trained with, a divisor of its width",
            ));
        }
        let geometry = ConvGeometry {
            stride: [bag::BLOCK; 2],
            ..ConvGeometry::default()
        };
        let zeros = |name: &str, tokens: usize| -> Result<Param> {
            Ok(Param::new(
                name,
                Tensor::zeros(&[1, tokens, width], DType::F32)?,
            ))
        };
        let blocks = (0..config.depth).map(|_| Block::new(&config, random));
        let blocks = blocks.collect::<Result<_>>()?;
        let genes = config.genes.map(|g| Pointwise::new(width, g, random));
        Ok(Self {
            config,
            cls_token: zeros("cls_token", 1)?,
            pos_embed: (config.positions)
                .then(|| zeros("pos_embed", 1 + TILES))
                .transpose()?,
            proj: Conv2d::new([1, width], [bag::BLOCK; 2], geometry, true, random)?,
            blocks,
            conv: genes.transpose()?,
            norm: LayerNorm::new(width, NORM_EPSILON)?,
            head: Linear::new(width, config.classes, true, random)?,
            dropout: DROPOUT,
        })
    }

    pub fn config(&self) -> Config {
        self.config
    }

    /// The convolution of 32 x 32 pixels at stride 32: since a block of the image
    /// holds one tile's features, it is a product with them. Features (B, T, F) ->
    /// (B, T, E).
    ///
    /// # Errors
    /// Features of another shape.
    pub fn embed(&self, features: &Tensor, pass: &Pass) -> Result<Tensor> {
        bag::check(features)?;
        let weight = pass.tensor_in(&self.proj.weight, features.dtype())?;
        let weight = ops::reshape(&weight, &[self.config.width, FEATURES])?;
        let bias = self.proj.bias.as_ref();
        let bias = bias.map(|b| pass.tensor_in(b, features.dtype()));
        let bias = bias.transpose()?;
        ops::linear(features, &weight, bias.as_ref(), Activation::None)
    }

    /// Features (B, T, F) -> tokens (B, 1 + T, E) behind the last norm, the class
    /// token first.
    ///
    /// # Errors
    /// Features of another shape.
    pub fn tokens(&self, features: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = self.embed(features, pass)?;
        let first = pass.tensor_in(&self.cls_token, x.dtype())?;
        let bags = x.shape()[0];
        let first = ops::broadcast_to(&first, &[bags, 1, self.config.width])?;
        let mut x = ops::cat(&[&first, &x], 1)?;
        if let Some(positions) = &self.pos_embed {
            x = ops::add(&x, &pass.tensor_in(positions, x.dtype())?)?;
        }
        let mut norms = self.blocks.iter().map(|b| &b.norm1).chain([&self.norm]);
        let first = norms.next().unwrap_or(&self.norm);
        let mut normed = first.forward(&x, pass)?;
        for (block, next) in self.blocks.iter().zip(norms) {
            (x, normed) = block.forward((&x, &normed), next, pass)?;
        }
        Ok(normed)
    }

    /// The class token (B, E) of [`Self::tokens`]: the vector that a slide is
    /// searched by.
    ///
    /// # Errors
    /// Tokens of another shape.
    pub fn class_token(&self, tokens: &Tensor) -> Result<Tensor> {
        let first = ops::slice(tokens, 1, 0, 1)?;
        ops::reshape(&first, &[tokens.shape()[0], self.config.width])
    }

    /// Logits (B, classes) of [`Self::tokens`], f32.
    ///
    /// # Errors
    /// Tokens of another shape.
    pub fn classify(&self, tokens: &Tensor, pass: &Pass) -> Result<Tensor> {
        wide(&self.head.forward(&self.class_token(tokens)?, pass)?)
    }

    /// The gene head, which only a network with genes has.
    fn gene_head(&self) -> Result<&Pointwise> {
        self.conv.as_ref().ok_or_else(|| {
            Error::op(
                "trnasformer",
                "the network has no gene head: it only classifies",
            )
        })
    }

    fn tiles(tokens: &Tensor) -> Result<Tensor> {
        let tiles = tokens.shape()[1].saturating_sub(1);
        ops::slice(tokens, 1, 1, tiles)
    }

    /// Expression (B, G), f32, of [`Self::tokens`]: each gene's mean score over the
    /// `k` tiles that score highest for it. The published mask of tiles is always 1
    /// here, since no normalised token is negative in every channel.
    ///
    /// # Errors
    /// No gene head; a `k` that is not in 1..=49.
    pub fn genes_at(&self, tokens: &Tensor, k: usize, pass: &Pass) -> Result<Tensor> {
        let head = self.gene_head()?;
        let tiles = Self::tiles(tokens)?;
        let mut tiles = Dropout { p: self.dropout }.forward(&tiles, pass)?;
        if k == TILES {
            // The mean over all tiles comes before the head then, in f32.
            tiles = wide(&tiles)?;
        }
        head.top_mean(&tiles, k, pass)
    }

    /// For each of `ks`, which ascend, what [`Self::genes_at`] gives in evaluation:
    /// (B, ks, G), f32, from one order of the tiles per gene.
    ///
    /// # Errors
    /// As [`Self::genes_at`].
    pub fn genes_at_each(&self, tokens: &Tensor, ks: &[usize]) -> Result<Tensor> {
        self.gene_head()?
            .top_means(&Self::tiles(tokens)?, ks, false)
    }

    /// Expression (B, G), f32, as published for evaluation: the mean over [`KS`].
    ///
    /// # Errors
    /// As [`Self::genes_at`].
    pub fn genes(&self, tokens: &Tensor) -> Result<Tensor> {
        let y = (self.gene_head()?).top_means(&Self::tiles(tokens)?, &KS, true)?;
        ops::reshape(&y, &[y.shape()[0], y.shape()[2]])
    }

    /// Scores (B, T, `len`), f32, of the tiles of [`Self::tokens`] for the genes from
    /// `start` on: what [`Self::genes`] takes the highest of.
    ///
    /// # Errors
    /// No gene head; genes that there are not.
    pub fn scores(&self, tokens: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        let head = self.gene_head()?;
        wide(&head.part(&Self::tiles(tokens)?, start, len, &Pass::eval())?)
    }

    /// The loss of a batch, one f32: half the mean squared error of the expression,
    /// if there is any to learn, plus the cross-entropy of the classes, if there are
    /// labels. Expression is from `k` tiles, or as in evaluation for `None`.
    ///
    /// # Errors
    /// Shapes that do not fit; neither genes nor labels.
    pub fn loss(
        &self,
        features: &Tensor,
        targets: &Targets,
        k: Option<usize>,
        pass: &Pass,
    ) -> Result<Tensor> {
        let tokens = self.tokens(features, pass)?;
        let of_genes = match targets.genes {
            Some(genes) => {
                let predicted = match k {
                    Some(k) => self.genes_at(&tokens, k, pass)?,
                    None => self.genes(&tokens)?,
                };
                Some(ops::scaled_mse_loss(&predicted, genes, 0.5)?)
            }
            None => None,
        };
        let of_class = match targets.labels {
            Some(labels) => Some(ops::cross_entropy(&self.classify(&tokens, pass)?, labels)?),
            None => None,
        };
        match (of_genes, of_class) {
            (Some(a), Some(b)) => ops::add(&a, &b),
            (Some(loss), None) | (None, Some(loss)) => Ok(loss),
            (None, None) => Err(Error::op(
                "trnasformer",
                "neither genes nor labels to learn",
            )),
        }
    }
}

/// What a batch is to be.
#[derive(Clone, Copy)]
pub struct Targets<'a> {
    /// (B, G)
    pub genes: Option<&'a Tensor>,
    /// (B), i64
    pub labels: Option<&'a Tensor>,
}

impl State for Trnasformer {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        let mut own = |name: &str, p: &Param| visit(key(prefix, name), Slot::Param(p.clone()));
        own("cls_token", &self.cls_token);
        if let Some(positions) = &self.pos_embed {
            own("pos_embed", positions);
        }
        self.proj.visit(&key(prefix, "patch_embed.proj"), visit);
        for (i, block) in self.blocks.iter().enumerate() {
            block.visit(&key(prefix, &format!("blocks.{i}")), visit);
        }
        if let Some(conv) = &self.conv {
            conv.visit(&key(prefix, "conv"), visit);
        }
        self.norm.visit(&key(prefix, "norm"), visit);
        self.head.visit(&key(prefix, "head"), visit);
    }
}

/// Images of bags (B, 1, 224, 224) -> `genes` (B, G), which has no columns if the
/// network only classifies, `logits` (B, classes) and the class token `cls` (B, E).
impl Predict for Trnasformer {
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let tokens = self.tokens(&bag::features(x)?, &Pass::eval())?;
        let genes = match &self.conv {
            Some(_) => self.genes(&tokens)?,
            None => Tensor::full_on(0.0, &[x.shape()[0], 0], DType::F32, &x.device())?,
        };
        Ok(vec![
            ("genes", genes),
            ("logits", self.classify(&tokens, &Pass::eval())?),
            ("cls", wide(&self.class_token(&tokens)?)?),
        ])
    }

    fn device(&self) -> Device {
        self.cls_token.value().device()
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>> {
        let twin = Self::new(self.config, &mut Philox::new(0))?;
        self.share(&twin, &Device::Cuda(stream.clone()))?;
        Ok(Arc::new(twin))
    }
}
