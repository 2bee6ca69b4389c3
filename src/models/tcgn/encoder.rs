//! Transformer encoder blocks (Vaswani et al. 2017), pre-norm, and the channel
//! attention that is made of one.

use super::cmt::join_heads;
use super::context::Context;
use crate::error::{Error, Result};
use crate::nn::{Dropout, LayerNorm, Linear, Module, Slot, State, key};
use crate::ops::{self, Activation};
use crate::random::Philox;
use crate::tensor::Tensor;

/// softmax(scale q k^T + bias): q (.., M, D), k (.., N, D) -> (.., M, N), for
/// where the probabilities themselves are wanted.
pub(super) fn probabilities(
    q: &Tensor,
    k: &Tensor,
    bias: Option<&Tensor>,
    scale: f64,
) -> Result<Tensor> {
    let scaled = ops::affine(q, scale, 0.0)?;
    let scores = ops::matmul(&scaled, &ops::transpose(k, -1, -2)?)?;
    match bias {
        Some(bias) => ops::softmax(&ops::add(&scores, bias)?, -1),
        None => ops::softmax(&scores, -1),
    }
}

/// Self-attention and a feed-forward network of four times the width.
pub(super) struct EncoderBlock {
    heads: usize,
    /// Whether the identity is added to the products of queries and keys.
    diagonal: bool,
    dropout: Dropout,
    norm1: LayerNorm,
    /// Queries, keys and values, the three innermost: channel (h, d, which).
    qkv: Linear,
    norm2: LayerNorm,
    ffn: [Linear; 2],
}

impl EncoderBlock {
    pub fn new(
        width: usize,
        heads: usize,
        diagonal: bool,
        dropout: f64,
        random: &mut Philox,
    ) -> Result<Self> {
        Ok(Self {
            heads,
            diagonal,
            dropout: Dropout { p: dropout },
            norm1: LayerNorm::new(width, 1e-5)?,
            qkv: Linear::new(width, 3 * width, true, random)?,
            norm2: LayerNorm::new(width, 1e-5)?,
            ffn: [
                Linear::new(width, 4 * width, true, random)?,
                Linear::new(4 * width, width, true, random)?,
            ],
        })
    }

    /// Scores are divided by the root of the whole width, not of a head's.
    fn attention(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let [batch, n, width] = x.shape()[..] else {
            return Err(Error::shape("tcgn", &[x.shape()], "tokens (B, N, C)"));
        };
        let packed = self.qkv.forward(x, context.pass)?;
        let packed = ops::reshape(&packed, &[batch, n, self.heads, width / self.heads, 3])?;
        let packed = ops::permute(&packed, &[4, 0, 2, 1, 3])?; // (3, B, h, N, d)
        let one = |i| -> Result<Tensor> {
            let part = ops::slice(&packed, 0, i, 1)?;
            ops::reshape(&part, &[batch, self.heads, n, width / self.heads])
        };
        let (q, k, v) = (one(0)?, one(1)?, one(2)?);
        let scale = 1.0 / (width as f64).sqrt();
        let bias = match self.diagonal {
            true => {
                let identity = ops::cast(&context.tables.identity(n)?, x.dtype())?;
                Some(ops::affine(&identity, scale, 0.0)?)
            }
            false => None,
        };
        let y = if context.pass.training() && self.dropout.p > 0.0 {
            // Dropout acts on the probabilities.
            let weights = probabilities(&q, &k, bias.as_ref(), scale)?;
            ops::matmul(&self.dropout.forward(&weights, context.pass)?, &v)?
        } else {
            ops::attention(&q, &k, &v, bias.as_ref(), scale)?
        };
        join_heads(&y)
    }

    /// (B, N, C) -> (B, N, C)
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let pass = context.pass;
        let dropped = |y: &Tensor| self.dropout.forward(y, pass);
        let y = self.attention(&self.norm1.forward(x, pass)?, context)?;
        let x = ops::add(x, &dropped(&y)?)?;
        let y = self.norm2.forward(&x, pass)?;
        let y = dropped(&self.ffn[0].activated(&y, Activation::Gelu, pass)?)?;
        ops::add(&x, &dropped(&self.ffn[1].forward(&y, pass)?)?)
    }
}

impl State for EncoderBlock {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        let mut part = |name: &str, module: &dyn State| module.visit(&key(prefix, name), visit);
        part("layernorm1", &self.norm1);
        part("Attention.qkv", &self.qkv);
        part("layernorm2", &self.norm2);
        part("FFN.0", &self.ffn[0]);
        part("FFN.3", &self.ffn[1]);
    }
}

/// Brings a graph block's features to the trunk: channels of both are the
/// tokens, their values at the nodes the embedding, and the trunk's are kept.
pub(super) struct ChannelAttention {
    transformer: EncoderBlock,
}

impl ChannelAttention {
    pub fn new(nodes: usize, dropout: f64, random: &mut Philox) -> Result<Self> {
        Ok(Self {
            transformer: EncoderBlock::new(nodes, CHANNEL_HEADS, true, dropout, random)?,
        })
    }

    /// (B, N, C) and the graph's (B, N, D) -> (B, N, C).
    pub fn forward(&self, x: &Tensor, graph: &Tensor, context: &Context) -> Result<Tensor> {
        let both = ops::cat(&[x, graph], -1)?;
        let channels = ops::transpose(&both, -1, -2)?;
        let y = self.transformer.forward(&channels, context)?;
        let y = ops::slice(&y, 1, 0, x.shape()[2])?;
        ops::transpose(&y, -1, -2)
    }
}

/// Heads of attention between channels.
pub(super) const CHANNEL_HEADS: usize = 4;

impl State for ChannelAttention {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        self.transformer.visit(&key(prefix, "transformer"), visit);
    }
}
