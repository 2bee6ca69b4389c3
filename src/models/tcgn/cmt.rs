//! The trunk's parts (Guo et al. 2022, "CMT: Convolutional neural networks meet
//! vision transformers", sections 3.2 to 3.4), in the variant of the published
//! code. Tokens (B, H W, C) are the pixels of an (H, W) image in row-major order,
//! so between the two is a change of view alone, the image being channels-last.

use super::context::Context;
use crate::error::{Error, Result};
use crate::nn::{
    BatchNorm, Conv2d, ConvGeometry, LayerNorm, Linear, Module, Param, Slot, State, key,
};
use crate::ops::{self, Activation, Around};
use crate::random::Philox;
use crate::tensor::Tensor;

/// Tokens (B, H W, C) as an image (B, C, H, W).
pub(super) fn image(tokens: &Tensor, [h, w]: [usize; 2]) -> Result<Tensor> {
    let [batch, n, channels] = tokens.shape()[..] else {
        return Err(Error::shape("tcgn", &[tokens.shape()], "tokens (B, N, C)"));
    };
    if n != h * w {
        let expected = format!("tokens of an image of {h} x {w}");
        return Err(Error::shape("tcgn", &[tokens.shape()], expected));
    }
    let pixels = ops::reshape(tokens, &[batch, h, w, channels])?;
    ops::permute(&pixels, &[0, 3, 1, 2])
}

/// An image (B, C, H, W) as tokens (B, H W, C), and its size.
pub(super) fn tokens(image: &Tensor) -> Result<(Tensor, [usize; 2])> {
    let [batch, channels, h, w] = image.shape()[..] else {
        return Err(Error::shape(
            "tcgn",
            &[image.shape()],
            "an image (B, C, H, W)",
        ));
    };
    let pixels = ops::permute(image, &[0, 2, 3, 1])?;
    Ok((ops::reshape(&pixels, &[batch, h * w, channels])?, [h, w]))
}

/// (B, N, h d) -> (B, h, N, d)
pub(super) fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let [batch, n, width] = x.shape()[..] else {
        return Err(Error::shape("tcgn", &[x.shape()], "tokens (B, N, C)"));
    };
    let split = ops::reshape(x, &[batch, n, heads, width / heads])?;
    ops::permute(&split, &[0, 2, 1, 3])
}

/// (B, h, N, d) -> (B, N, h d)
pub(super) fn join_heads(x: &Tensor) -> Result<Tensor> {
    let [batch, heads, n, width] = x.shape()[..] else {
        return Err(Error::shape("tcgn", &[x.shape()], "(B, heads, N, d)"));
    };
    let joined = ops::permute(x, &[0, 2, 1, 3])?;
    ops::reshape(&joined, &[batch, n, heads * width])
}

/// A convolution without overlap: kernel = stride.
pub(super) fn patches(
    channels: [usize; 2],
    patch: usize,
    groups: usize,
    random: &mut Philox,
) -> Result<Conv2d> {
    let geometry = ConvGeometry {
        stride: [patch; 2],
        groups,
        ..ConvGeometry::default()
    };
    Conv2d::new(channels, [patch; 2], geometry, true, random)
}

/// A depthwise convolution that keeps the size of the image.
pub(super) fn depthwise(
    channels: usize,
    kernel: usize,
    bias: bool,
    random: &mut Philox,
) -> Result<Conv2d> {
    let geometry = ConvGeometry {
        padding: [kernel / 2; 2],
        groups: channels,
        ..ConvGeometry::default()
    };
    Conv2d::new([channels; 2], [kernel; 2], geometry, bias, random)
}

pub(super) fn pointwise(channels: [usize; 2], random: &mut Philox) -> Result<Conv2d> {
    Conv2d::new(channels, [1, 1], ConvGeometry::default(), true, random)
}

/// Patches of an image as normalised tokens.
pub(super) struct PatchEmbed {
    proj: Conv2d,
    norm: LayerNorm,
}

impl PatchEmbed {
    pub fn new(channels: [usize; 2], patch: usize, random: &mut Philox) -> Result<Self> {
        Ok(Self {
            proj: patches(channels, patch, 1, random)?,
            norm: LayerNorm::new(channels[1], 1e-5)?,
        })
    }

    /// (B, C, H, W) -> (B, H W / patch^2, K) and the size in patches.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<(Tensor, [usize; 2])> {
        let (x, size) = tokens(&self.proj.forward(x, context.pass)?)?;
        let x = self.norm.forward(&x, context.pass)?;
        context.show("tokens", &x);
        Ok((x, size))
    }
}

impl State for PatchEmbed {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        self.proj.visit(&key(prefix, "proj"), visit);
        self.norm.visit(&key(prefix, "norm"), visit);
    }
}

/// Attention whose keys and values are of an image made smaller by a depthwise
/// convolution, with a learned bias for each pair of positions.
struct Attention {
    heads: usize,
    q: Linear,
    k: Linear,
    v: Linear,
    proj: Linear,
    /// Makes the image `sr` times smaller; absent where sr is 1.
    reduce: Option<(Conv2d, BatchNorm)>,
}

impl Attention {
    /// (B, N, C) and the bias (heads, N, M) -> (B, N, C).
    fn forward(
        &self,
        x: &Tensor,
        size: [usize; 2],
        bias: &Param,
        context: &Context,
    ) -> Result<Tensor> {
        let pass = context.pass;
        let small = match &self.reduce {
            Some((conv, norm)) => {
                let plain = Around::default();
                let small = conv.forward_normed(&image(x, size)?, false, norm, &plain, pass)?;
                context.show("sr", &small);
                tokens(&small)?.0
            }
            None => x.clone(),
        };
        let heads = |linear: &Linear, x: &Tensor| -> Result<Tensor> {
            split_heads(&linear.forward(x, pass)?, self.heads)
        };
        let q = heads(&self.q, x)?;
        let (k, v) = (heads(&self.k, &small)?, heads(&self.v, &small)?);
        let bias = pass.tensor_in(bias, q.dtype())?;
        let scale = 1.0 / (q.shape()[3] as f64).sqrt();
        let y = join_heads(&ops::attention(&q, &k, &v, Some(&bias), scale)?)?;
        self.proj.forward(&y, pass)
    }
}

/// The inverted residual feed-forward network: 1 x 1, depthwise 3 x 3 with a
/// shortcut, 1 x 1, each with its batch norm.
struct Mlp {
    conv1: (Conv2d, BatchNorm),
    proj: (Conv2d, BatchNorm),
    conv2: (Conv2d, BatchNorm),
}

impl Mlp {
    /// What it makes of `x`, added to `onto` unless somebody watches, to whom it is
    /// shown alone.
    fn forward(
        &self,
        x: &Tensor,
        size: [usize; 2],
        onto: &Tensor,
        context: &Context,
    ) -> Result<Tensor> {
        let pass = context.pass;
        let activated = Around {
            activation: Activation::Gelu,
            ..Around::default()
        };
        let (conv, norm) = &self.conv1;
        let x = conv.forward_normed(&image(x, size)?, false, norm, &activated, pass)?;
        let (conv, norm) = &self.proj;
        let x = conv.forward_normed(&x, true, norm, &activated, pass)?;
        let (conv, norm) = &self.conv2;
        if context.watched() {
            let y = conv.forward_normed(&x, false, norm, &Around::default(), pass)?;
            let y = tokens(&y)?.0;
            context.show("mlp", &y);
            return ops::add(onto, &y);
        }
        let onto = image(onto, size)?;
        let around = Around {
            residual: Some(&onto),
            ..Around::default()
        };
        Ok(tokens(&conv.forward_normed(&x, false, norm, &around, pass)?)?.0)
    }
}

/// What a [`Block`] is made with.
pub(super) struct BlockShape {
    pub width: usize,
    /// Channels inside the feed-forward network.
    pub hidden: usize,
    pub heads: usize,
    /// How many times smaller, on a side, the image of keys and values is.
    pub reduction: usize,
    /// Whether queries, keys and values have biases.
    pub bias: bool,
    pub eps: f64,
}

/// Local perception, attention and the feed-forward network, each added to what
/// goes through.
pub(super) struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    proj: Conv2d,
}

impl Block {
    pub fn new(shape: &BlockShape, random: &mut Philox) -> Result<Self> {
        let &BlockShape { width, hidden, .. } = shape;
        let mut linear = |bias| Linear::new(width, width, bias, random);
        let (q, k, v) = (
            linear(shape.bias)?,
            linear(shape.bias)?,
            linear(shape.bias)?,
        );
        let proj = linear(true)?;
        let reduce = (shape.reduction > 1)
            .then(|| -> Result<_> {
                let conv = patches([width; 2], shape.reduction, width, random)?;
                Ok((conv, BatchNorm::new(width)?))
            })
            .transpose()?;
        Ok(Self {
            norm1: LayerNorm::new(width, shape.eps)?,
            attn: Attention {
                heads: shape.heads,
                q,
                k,
                v,
                proj,
                reduce,
            },
            norm2: LayerNorm::new(width, shape.eps)?,
            mlp: Mlp {
                conv1: (pointwise([width, hidden], random)?, BatchNorm::new(hidden)?),
                proj: (depthwise(hidden, 3, true, random)?, BatchNorm::new(hidden)?),
                conv2: (pointwise([hidden, width], random)?, BatchNorm::new(width)?),
            },
            proj: depthwise(width, 3, true, random)?,
        })
    }

    /// (B, N, C) -> (B, N, C), with the position bias (heads, N, M).
    pub fn forward(
        &self,
        x: &Tensor,
        size: [usize; 2],
        bias: &Param,
        context: &Context,
    ) -> Result<Tensor> {
        let pass = context.pass;
        let x = if context.watched() {
            let local = self.proj.forward(&image(x, size)?, pass)?;
            context.show("proj", &local);
            ops::add(&tokens(&local)?.0, x)?
        } else {
            tokens(&self.proj.forward_shortcut(&image(x, size)?, pass)?)?.0
        };
        let y = self.norm1.forward(&x, pass)?;
        let y = self.attn.forward(&y, size, bias, &context.at("attn"))?;
        context.show("attn", &y);
        let x = ops::add(&x, &y)?;
        let y = self.norm2.forward(&x, pass)?;
        self.mlp.forward(&y, size, &x, context)
    }
}

impl State for Block {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        let mut part = |name: &str, module: &dyn State| module.visit(&key(prefix, name), visit);
        part("norm1", &self.norm1);
        part("attn.q", &self.attn.q);
        part("attn.k", &self.attn.k);
        part("attn.v", &self.attn.v);
        part("attn.proj", &self.attn.proj);
        if let Some((conv, norm)) = &self.attn.reduce {
            part("attn.sr.0", conv);
            part("attn.sr.1", norm);
        }
        part("norm2", &self.norm2);
        part("mlp.conv1.0", &self.mlp.conv1.0);
        part("mlp.conv1.2", &self.mlp.conv1.1);
        part("mlp.proj", &self.mlp.proj.0);
        part("mlp.proj_bn", &self.mlp.proj.1);
        part("mlp.conv2.0", &self.mlp.conv2.0);
        part("mlp.conv2.1", &self.mlp.conv2.1);
        part("proj", &self.proj);
    }
}
