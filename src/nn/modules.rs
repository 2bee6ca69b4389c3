//! Layers. Initial weights follow PyTorch's defaults in distribution (uniform
//! within 1/sqrt(fan_in)) and come from one seeded stream, so a model is a
//! function of its seed.

use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::nn::{Buffer, Module, Param, Pass, Slot, State, key};
use crate::ops::{self, Activation, Around, Running};
use crate::random::Philox;
use crate::tensor::Tensor;

pub use crate::ops::{Conv2d as ConvGeometry, ConvTranspose2d as ConvTransposeGeometry, Pool};

/// Values uniform within `bound` of 0.
fn uniform(name: &str, shape: &[usize], bound: f64, random: &mut Philox) -> Result<Param> {
    let mut values = vec![0.0; shape.iter().product()];
    random.fill_uniform(&mut values, -bound as f32, bound as f32);
    Ok(Param::new(name, Tensor::from_slice(&values, shape)?))
}

fn constant(name: &str, shape: &[usize], value: f64) -> Result<Param> {
    Ok(Param::new(name, Tensor::full(value, shape, DType::F32)?))
}

fn inverse_sqrt(fan_in: usize) -> f64 {
    1.0 / (fan_in.max(1) as f64).sqrt()
}

/// Calls `visit` for named members that are parameters.
macro_rules! visit_params {
    ($prefix:expr, $visit:expr, $($name:literal => $param:expr),+ $(,)?) => {
        $(if let Some(p) = $param {
            $visit(key($prefix, $name), Slot::Param(p.clone()));
        })+
    };
}

/// What to compute in: the parameters' dtype, or that of x if it is narrower.
fn dtype_for(x: &Tensor, weight: &Param) -> DType {
    match x.dtype() {
        half @ (DType::BF16 | DType::F16) => half,
        _ => weight.value().dtype(),
    }
}

/// y = x w^T + b: (.., in) -> (.., out), in the dtype of x. The parameters may be
/// f32 where x is bf16 or f16; they are converted, or taken from their shadow
/// ([`Param::keep_shadow`]).
pub struct Linear {
    pub weight: Param,
    pub bias: Option<Param>,
}

impl Linear {
    pub fn new(inputs: usize, outputs: usize, bias: bool, random: &mut Philox) -> Result<Self> {
        let bound = inverse_sqrt(inputs);
        Ok(Self {
            weight: uniform("weight", &[outputs, inputs], bound, random)?,
            bias: bias
                .then(|| uniform("bias", &[outputs], bound, random))
                .transpose()?,
        })
    }

    /// A layer with the same values on `device`. Between streams of one GPU they
    /// share their memory until one of them is updated.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn to(&self, device: &Device) -> Result<Self> {
        let moved = |p: &Param| {
            let there = Param::new(p.name(), p.value().to(device)?);
            if p.shadow().is_some() {
                there.keep_shadow()?;
            }
            Ok(there)
        };
        Ok(Self {
            weight: moved(&self.weight)?,
            bias: self.bias.as_ref().map(moved).transpose()?,
        })
    }

    /// With an activation in the same pass.
    pub fn activated(&self, x: &Tensor, activation: Activation, pass: &Pass) -> Result<Tensor> {
        let dtype = dtype_for(x, &self.weight);
        let bias = self.bias.as_ref().map(|b| pass.tensor_in(b, dtype));
        let weight = pass.tensor_in(&self.weight, dtype)?;
        ops::linear(x, &weight, bias.transpose()?.as_ref(), activation)
    }
}

impl State for Linear {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        visit_params!(prefix, visit, "weight" => Some(&self.weight), "bias" => &self.bias);
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.activated(x, Activation::None, pass)
    }
}

/// PyTorch's Conv1d of kernel 1, which is [`Linear`] with a weight (K, C, 1), for
/// rows of channels: (.., C) -> (.., K), in the dtype of x as [`Linear`].
pub struct Pointwise {
    pub weight: Param,
    pub bias: Param,
}

impl Pointwise {
    pub fn new(inputs: usize, outputs: usize, random: &mut Philox) -> Result<Self> {
        let bound = inverse_sqrt(inputs);
        Ok(Self {
            weight: uniform("weight", &[outputs, inputs, 1], bound, random)?,
            bias: uniform("bias", &[outputs], bound, random)?,
        })
    }

    pub fn outputs(&self) -> usize {
        self.bias.value().elements()
    }

    /// With an activation in the same pass.
    ///
    /// # Errors
    /// As [`ops::linear`].
    pub fn activated(&self, x: &Tensor, activation: Activation, pass: &Pass) -> Result<Tensor> {
        let (weight, bias) = self.tensors(x, pass)?;
        ops::linear(x, &weight, Some(&bias), activation)
    }

    /// Outputs `start..start + len` alone.
    ///
    /// # Errors
    /// As [`ops::linear`]; outputs that are not there.
    pub fn part(&self, x: &Tensor, start: usize, len: usize, pass: &Pass) -> Result<Tensor> {
        let (weight, bias) = self.tensors(x, pass)?;
        let part = |t: &Tensor| ops::slice(t, 0, start, len);
        ops::linear(x, &part(&weight)?, Some(&part(&bias)?), Activation::None)
    }

    /// Of each output the mean over the `k` rows of a bag that score highest for it:
    /// (B, T, C) -> (B, K), f32 for bf16 and f16.
    ///
    /// # Errors
    /// As [`ops::linear_top_mean`].
    pub fn top_mean(&self, x: &Tensor, k: usize, pass: &Pass) -> Result<Tensor> {
        let (weight, bias) = self.tensors(x, pass)?;
        ops::linear_top_mean(x, &weight, Some(&bias), k)
    }

    /// The same for each of `ks`, or with `joined` the mean of these, in evaluation.
    ///
    /// # Errors
    /// As [`ops::linear_top_means`].
    pub fn top_means(&self, x: &Tensor, ks: &[usize], joined: bool) -> Result<Tensor> {
        let (weight, bias) = self.tensors(x, &Pass::eval())?;
        ops::linear_top_means(x, &weight, Some(&bias), ks, joined)
    }

    fn tensors(&self, x: &Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        let dtype = dtype_for(x, &self.weight);
        let weight = pass.tensor_in(&self.weight, dtype)?;
        let matrix = ops::reshape(&weight, &weight.shape()[..2])?;
        Ok((matrix, pass.tensor_in(&self.bias, dtype)?))
    }
}

impl State for Pointwise {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        visit_params!(prefix, visit, "weight" => Some(&self.weight), "bias" => Some(&self.bias));
    }
}

impl Module for Pointwise {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.activated(x, Activation::None, pass)
    }
}

/// 2-D convolution: weight (K, C / groups, R, S), in the dtype of x as [`Linear`].
pub struct Conv2d {
    pub weight: Param,
    pub bias: Option<Param>,
    pub geometry: ConvGeometry,
}

impl Conv2d {
    pub fn new(
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 2],
        geometry: ConvGeometry,
        bias: bool,
        random: &mut Philox,
    ) -> Result<Self> {
        let shape = [
            outputs,
            inputs / geometry.groups.max(1),
            kernel[0],
            kernel[1],
        ];
        let bound = inverse_sqrt(shape[1] * kernel[0] * kernel[1]);
        Ok(Self {
            weight: uniform("weight", &shape, bound, random)?,
            bias: bias
                .then(|| uniform("bias", &[outputs], bound, random))
                .transpose()?,
            geometry,
        })
    }
}

impl State for Conv2d {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        visit_params!(prefix, visit, "weight" => Some(&self.weight), "bias" => &self.bias);
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (weight, bias) = self.values(x, pass)?;
        ops::conv2d(x, &weight, bias.as_ref(), self.geometry)
    }
}

/// 2-D transposed convolution: weight (C, K / groups, R, S), in the dtype of x as
/// [`Linear`].
pub struct ConvTranspose2d {
    pub weight: Param,
    pub bias: Option<Param>,
    pub geometry: ConvTransposeGeometry,
}

impl ConvTranspose2d {
    pub fn new(
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 2],
        geometry: ConvTransposeGeometry,
        bias: bool,
        random: &mut Philox,
    ) -> Result<Self> {
        let shape = [
            inputs,
            outputs / geometry.groups.max(1),
            kernel[0],
            kernel[1],
        ];
        let bound = inverse_sqrt(shape[1] * kernel[0] * kernel[1]);
        Ok(Self {
            weight: uniform("weight", &shape, bound, random)?,
            bias: bias
                .then(|| uniform("bias", &[outputs], bound, random))
                .transpose()?,
            geometry,
        })
    }
}

impl State for ConvTranspose2d {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        visit_params!(prefix, visit, "weight" => Some(&self.weight), "bias" => &self.bias);
    }
}

impl Module for ConvTranspose2d {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let dtype = dtype_for(x, &self.weight);
        let bias = self.bias.as_ref().map(|b| pass.tensor_in(b, dtype));
        let weight = pass.tensor_in(&self.weight, dtype)?;
        ops::conv_transpose2d(x, &weight, bias.transpose()?.as_ref(), self.geometry)
    }
}

impl Conv2d {
    /// `x + conv(x)`, for one that keeps the size of the image; see
    /// [`ops::conv2d_shortcut`].
    ///
    /// # Errors
    /// As there.
    pub fn forward_shortcut(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (weight, bias) = self.values(x, pass)?;
        ops::conv2d_shortcut(x, &weight, bias.as_ref(), self.geometry)
    }

    /// The convolution, with a `shortcut` past it or without, between an activation and
    /// this batch norm, which takes its statistics from what the convolution leaves:
    /// `norm(activation(conv(x) [+ x])) + residual`.
    ///
    /// # Errors
    /// As [`ops::conv2d_measured`] and [`BatchNorm::forward_around`].
    pub fn forward_normed(
        &self,
        x: &Tensor,
        shortcut: bool,
        norm: &BatchNorm,
        around: &Around,
        pass: &Pass,
    ) -> Result<Tensor> {
        if !pass.training() {
            let y = match shortcut {
                true => self.forward_shortcut(x, pass)?,
                false => self.forward(x, pass)?,
            };
            return norm.forward_around(&y, around, pass);
        }
        let (weight, bias) = self.values(x, pass)?;
        let of = around.activation;
        let (y, moments) =
            ops::conv2d_measured(x, &weight, bias.as_ref(), self.geometry, shortcut, of)?;
        let around = Around {
            moments: moments.as_ref(),
            ..*around
        };
        norm.forward_around(&y, &around, pass)
    }

    fn values(&self, x: &Tensor, pass: &Pass) -> Result<(Tensor, Option<Tensor>)> {
        let dtype = dtype_for(x, &self.weight);
        let bias = self.bias.as_ref().map(|b| pass.tensor_in(b, dtype));
        Ok((pass.tensor_in(&self.weight, dtype)?, bias.transpose()?))
    }
}

/// Batch normalisation over axis 1 of (N, C), (N, C, L) or (N, C, H, W):
/// PyTorch's BatchNorm1d and BatchNorm2d are this one module.
pub struct BatchNorm {
    pub weight: Option<Param>,
    pub bias: Option<Param>,
    pub running_mean: Buffer,
    pub running_var: Buffer,
    pub num_batches_tracked: Buffer,
    pub eps: f64,
    pub momentum: f64,
}

impl BatchNorm {
    /// PyTorch's defaults: eps 1e-5, momentum 0.1, with scale and shift.
    pub fn new(channels: usize) -> Result<Self> {
        let buffer = |name: &str, value: f64| -> Result<Buffer> {
            Ok(Buffer::new(
                name,
                Tensor::full(value, &[channels], DType::F32)?,
            ))
        };
        Ok(Self {
            weight: Some(constant("weight", &[channels], 1.0)?),
            bias: Some(constant("bias", &[channels], 0.0)?),
            running_mean: buffer("running_mean", 0.0)?,
            running_var: buffer("running_var", 1.0)?,
            num_batches_tracked: Buffer::new(
                "num_batches_tracked",
                Tensor::scalar(0.0, DType::I64)?,
            ),
            eps: 1e-5,
            momentum: 0.1,
        })
    }

    /// With the activation before it and the residual after it: one pass where the device
    /// has it and, in evaluation, nothing is recorded; otherwise operators of their own.
    ///
    /// # Errors
    /// As [`ops::batch_norm_train_around`] and [`ops::batch_norm_eval`].
    pub fn forward_around(&self, x: &Tensor, around: &Around, pass: &Pass) -> Result<Tensor> {
        let weight = self.weight.as_ref().map(|w| pass.tensor(w));
        let bias = self.bias.as_ref().map(|b| pass.tensor(b));
        let (weight, bias) = (weight.as_ref(), bias.as_ref());
        let (mean, var) = (self.running_mean.value(), self.running_var.value());
        if !pass.training() {
            let statistics = [&mean, &var];
            return ops::batch_norm_eval_around(x, statistics, weight, bias, self.eps, around);
        }
        let batches = self.num_batches_tracked.value();
        let momentum = if pass.averages() {
            1.0 / (batches.item()? + 1.0)
        } else {
            self.momentum
        };
        let running = Running {
            mean: &mean,
            var: &var,
            batches: &batches,
            momentum,
        };
        if running.suits(x) {
            let normed =
                ops::batch_norm_trained(x, weight, bias, self.eps, around, Some(&running))?;
            return Ok(normed.output);
        }
        let normed = ops::batch_norm_trained(x, weight, bias, self.eps, around, None)?;
        let (mean, var) = normed.updated(&mean, &var, momentum)?;
        self.running_mean.set(mean)?;
        self.running_var.set(var)?;
        self.num_batches_tracked.count_up()?;
        Ok(normed.output)
    }

    /// Running statistics as if nothing had been seen.
    pub fn reset(&self) -> Result<()> {
        let fill = |buffer: &Buffer, value: f64| {
            let old = buffer.value();
            let new = Tensor::full_on(value, old.shape(), old.dtype(), &old.device())?;
            buffer.set(new)
        };
        fill(&self.running_mean, 0.0)?;
        fill(&self.running_var, 1.0)?;
        fill(&self.num_batches_tracked, 0.0)
    }
}

impl State for BatchNorm {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        visit_params!(prefix, visit, "weight" => &self.weight, "bias" => &self.bias);
        for (name, buffer) in [
            ("running_mean", &self.running_mean),
            ("running_var", &self.running_var),
            ("num_batches_tracked", &self.num_batches_tracked),
        ] {
            visit(key(prefix, name), Slot::Buffer(buffer.clone()));
        }
    }
}

impl Module for BatchNorm {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.forward_around(x, &Around::default(), pass)
    }
}

/// Normalisation over the last axis.
pub struct LayerNorm {
    pub weight: Param,
    pub bias: Param,
    pub eps: f64,
}

impl LayerNorm {
    pub fn new(width: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: constant("weight", &[width], 1.0)?,
            bias: constant("bias", &[width], 0.0)?,
            eps,
        })
    }
}

impl LayerNorm {
    /// x + other, and this norm of it, in one pass.
    ///
    /// # Errors
    /// Operands of two shapes or dtypes, or of another width.
    pub fn of_sum(&self, x: &Tensor, other: &Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        let (w, b) = (pass.tensor(&self.weight), pass.tensor(&self.bias));
        ops::add_layer_norm(x, other, 1, Some(&w), Some(&b), self.eps)
    }
}

impl State for LayerNorm {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        visit_params!(prefix, visit, "weight" => Some(&self.weight), "bias" => Some(&self.bias));
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (w, b) = (pass.tensor(&self.weight), pass.tensor(&self.bias));
        ops::layer_norm(x, 1, Some(&w), Some(&b), self.eps)
    }
}

/// Zeroes a share `p` of the elements in training and scales the rest by
/// 1 / (1 - p).
pub struct Dropout {
    pub p: f64,
}

impl State for Dropout {
    fn visit(&self, _: &str, _: &mut dyn FnMut(String, Slot)) {}
}

impl Module for Dropout {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        if !pass.training() || self.p == 0.0 {
            return Ok(x.clone());
        }
        let stream = pass.random(ops::dropout_blocks(x.elements()));
        ops::dropout(x, self.p, stream)
    }
}

type Function = Box<dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync>;

/// A module without state: pooling, activation, reshaping.
pub struct Lambda(Function);

impl Lambda {
    pub fn new(f: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static) -> Self {
        Self(Box::new(f))
    }

    pub fn activation(activation: Activation) -> Self {
        Self::new(move |x| activation.apply(x))
    }

    pub fn max_pool(pool: Pool) -> Self {
        Self::new(move |x| ops::max_pool2d(x, pool))
    }

    pub fn avg_pool(pool: Pool, count_include_pad: bool) -> Self {
        Self::new(move |x| ops::avg_pool2d(x, pool, count_include_pad))
    }

    pub fn adaptive_avg_pool(size: [usize; 2]) -> Self {
        Self::new(move |x| ops::adaptive_avg_pool2d(x, size))
    }
}

impl State for Lambda {
    fn visit(&self, _: &str, _: &mut dyn FnMut(String, Slot)) {}
}

impl Module for Lambda {
    fn forward(&self, x: &Tensor, _: &Pass) -> Result<Tensor> {
        (self.0)(x)
    }
}

/// Modules in order; keys are their indices, as PyTorch numbers them.
#[derive(Default)]
pub struct Sequential(pub Vec<Box<dyn Module>>);

impl Sequential {
    pub fn then(mut self, module: impl Module + 'static) -> Self {
        self.0.push(Box::new(module));
        self
    }
}

impl State for Sequential {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        for (i, module) in self.0.iter().enumerate() {
            module.visit(&key(prefix, &i.to_string()), visit);
        }
    }
}

impl Module for Sequential {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.0
            .iter()
            .try_fold(x.clone(), |x, m| m.forward(&x, pass))
    }
}
