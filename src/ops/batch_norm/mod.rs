//! `batch_norm_train` and `batch_norm_eval`: each channel with mean 0 and
//! variance 1, scaled and shifted (Ioffe and Szegedy 2015).
//!
//! y = (x - mean) / sqrt(var + eps) w + b per channel, axis 1 of (N, C),
//! (N, C, L) or (N, C, H, W). In training, mean and variance are those of the
//! batch (the variance divided by n) and gradients flow through them; in
//! evaluation they are given numbers.

mod cpu;
mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::arithmetic::sum_to;
use crate::ops::normalise::recorded_gradients;
use crate::ops::pointwise::apply_derivative;
use crate::ops::{Activation, Operand};
use crate::profile;
use crate::tensor::Tensor;

const TRAIN: &str = "batch_norm_train";
const EVAL: &str = "batch_norm_eval";

/// What a device computes in training: statistics are (C), in the dtype of the
/// arithmetic.
struct Trained {
    output: Tensor,
    mean: Tensor,
    /// 1 / sqrt(var + eps), with the variance divided by n.
    scale: Tensor,
    /// The variance divided by n - 1.
    var: Tensor,
}

impl profile::Outputs for Trained {
    fn outputs(&self) -> Vec<Operand> {
        let all = [&self.output, &self.mean, &self.scale, &self.var];
        all.map(Operand::from).into()
    }
}

/// What [`batch_norm_train`] computes.
pub struct BatchNorm {
    /// As x, in its dtype.
    pub output: Tensor,
    /// The batch's mean per channel (C), off the tape.
    pub mean: Tensor,
    /// The batch's unbiased variance per channel (C), off the tape.
    pub var: Tensor,
}

impl BatchNorm {
    /// Running mean and variance moved towards those of this batch:
    /// `(1 - momentum) running + momentum batch`.
    ///
    /// # Errors
    /// Running statistics of another shape or dtype.
    pub fn updated(
        &self,
        running_mean: &Tensor,
        running_var: &Tensor,
        momentum: f64,
    ) -> Result<(Tensor, Tensor)> {
        let step = |running: &Tensor, batch: &Tensor| {
            if running.shape() != batch.shape() {
                let shapes = [running.shape(), batch.shape()];
                return Err(Error::shape(TRAIN, &shapes, "running statistics (C)"));
            }
            let kept = ops::affine(&running.detach(), 1.0 - momentum, 0.0)?;
            ops::add(&kept, &ops::affine(batch, momentum, 0.0)?)
        };
        Ok((
            step(running_mean, &self.mean)?,
            step(running_var, &self.var)?,
        ))
    }
}

/// Checks the shapes and gives C in a shape that broadcasts against x.
fn per_channel(op: &'static str, x: &Tensor, parameters: &[&Tensor]) -> Result<Vec<usize>> {
    if let (2..=4, Some(&channels)) = (x.rank(), x.shape().get(1))
        && parameters.iter().all(|t| t.shape() == [channels])
    {
        let mut shape = vec![1; x.rank() - 1];
        shape[0] = channels;
        return Ok(shape);
    }
    let mut shapes = vec![x.shape()];
    shapes.extend(parameters.iter().map(|t| t.shape()));
    let expected = "x (N, C), (N, C, L) or (N, C, H, W) and (C) for the others";
    Err(Error::shape(op, &shapes, expected))
}

fn fits_residual(op: &'static str, x: &Tensor, residual: Option<&Tensor>) -> Result<()> {
    let Some(r) = residual else {
        return Ok(());
    };
    if r.shape() != x.shape() {
        let expected = "a residual of x's shape";
        return Err(Error::shape(op, &[x.shape(), r.shape()], expected));
    }
    if r.dtype() != x.dtype() {
        let expected = "a residual of x's dtype";
        return Err(Error::dtype(op, &[x.dtype(), r.dtype()], expected));
    }
    Ok(())
}

/// What surrounds a normalisation: `y = batch_norm(activation(x)) + residual`.
/// In training on CUDA the activation is computed again wherever x is read, so that it is
/// neither stored nor a launch of its own.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    pub activation: Activation,
    /// Of x's shape and dtype.
    pub residual: Option<&'a Tensor>,
    /// Those of `activation(x)`, where what made x left them.
    pub moments: Option<&'a Moments>,
}

/// What a convolution leaves of its result for the batch norm that follows: per channel
/// and part of the pixels the count, mean and scatter of `activation` of it, so that the
/// statistics need not read it again. See [`ops::conv2d_measured`].
pub struct Moments {
    /// (parts, C, 3), f32, on CUDA.
    pub(crate) parts: Tensor,
    pub(crate) activation: Activation,
}

impl Default for Around<'_> {
    fn default() -> Self {
        Self {
            activation: Activation::None,
            residual: None,
            moments: None,
        }
    }
}

/// Running statistics that lie on a CUDA device: the batch's launch moves them in
/// place, as [`BatchNorm::updated`], and counts it.
pub(crate) struct Running<'a> {
    /// (C), f32 and contiguous, as the variance.
    pub mean: &'a Tensor,
    pub var: &'a Tensor,
    /// One i64.
    pub batches: &'a Tensor,
    pub momentum: f64,
}

impl Running<'_> {
    /// Whether a launch can move them: of x's device, and laid out as it reads them.
    pub fn suits(&self, x: &Tensor) -> bool {
        let plain = |t: &Tensor| {
            let contiguous = t.dtype() == DType::F32 && t.layout().is_contiguous();
            contiguous && Some(&t.elements()) == x.shape().get(1)
        };
        let here = [self.mean, self.var, self.batches];
        let here = here.iter().all(|t| t.device() == x.device());
        let counts = self.batches.dtype() == DType::I64 && self.batches.elements() == 1;
        matches!(x.device(), Device::Cuda(_))
            && here
            && counts
            && plain(self.mean)
            && plain(self.var)
    }
}

/// Normalises with the statistics of the batch; weight (C), bias (C).
///
/// # Errors
/// Fewer than two values per channel; shapes or dtypes that do not fit.
pub fn batch_norm_train(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<BatchNorm> {
    trained(x, weight, bias, eps, &Around::default(), None)
}

/// [`batch_norm_train`] with what surrounds it in one pass.
///
/// # Errors
/// As [`batch_norm_train`], and a residual of another shape or dtype than x.
pub fn batch_norm_train_around(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    around: &Around,
) -> Result<BatchNorm> {
    trained(x, weight, bias, eps, around, None)
}

/// [`batch_norm_train_around`], which moves `running`, if it is given and
/// [`Running::suits`].
pub(crate) fn trained(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    around: &Around,
    running: Option<&Running>,
) -> Result<BatchNorm> {
    let given: Vec<&Tensor> = weight.into_iter().chain(bias).collect();
    let shape = per_channel(TRAIN, x, &given)?;
    let count = x.shape()[0] * x.shape()[2..].iter().product::<usize>();
    if count < 2 {
        let expected = "training needs more than one value per channel";
        return Err(Error::shape(TRAIN, &[x.shape()], expected));
    }
    let &Around {
        activation,
        residual,
        moments,
    } = around;
    if let Some(m) = moments {
        let of_x = m.parts.shape().get(1) == x.shape().get(1) && m.activation == activation;
        if !of_x || x.device() == Device::Cpu {
            let problem = "internal: moments of something else";
            return Err(Error::op(TRAIN, problem));
        }
    }
    fits_residual(TRAIN, x, residual)?;
    if x.device() == Device::Cpu && (residual.is_some() || activation != Activation::None) {
        let plain = Around::default();
        let normed = trained(&activation.apply(x)?, weight, bias, eps, &plain, None)?;
        let output = match residual {
            Some(r) => ops::add(&normed.output, r)?,
            None => normed.output,
        };
        return Ok(BatchNorm { output, ..normed });
    }
    let mut inputs = vec![x];
    inputs.extend(&given);
    inputs.extend(residual);
    let Trained {
        output,
        mean,
        scale,
        var,
    } = profile::call(TRAIN, &inputs, || match x.device() {
        Device::Cpu => cpu::train(x, weight, bias, eps),
        Device::Cuda(_) => cuda::train(x, weight, bias, eps, around, running),
    })?;
    let (weighted, biased, added) = (weight.is_some(), bias.is_some(), residual.is_some());
    let dtypes: Vec<DType> = inputs.iter().map(|t| t.dtype()).collect();
    let axes: Vec<isize> = (0..x.rank() as isize).filter(|&i| i != 1).collect();
    let save = Save::inputs(if weighted { 0b11 } else { 0b1 });
    let batch_mean = mean.clone();
    let output = record(TRAIN, &inputs, output, save, move |b| {
        let x = b.input(0)?;
        let w = weighted.then(|| b.input(1)).transpose()?;
        let [dx, dw, db] = if b.create_graph {
            let a = activation.apply(&x)?;
            let [da, dw, db] = recorded_gradients(&b.grad, &a, w.as_ref(), &axes, &shape, eps)?;
            let flat = |t: &Tensor| ops::reshape(t, &shape[..1]);
            let dx = match activation.function() {
                Some(f) => apply_derivative(f, 1, &da, &x)?,
                None => da,
            };
            [dx, flat(&dw)?, flat(&db)?]
        } else {
            let mut read = vec![&b.grad, &x, &batch_mean, &scale];
            read.extend(&w);
            let statistics = [&batch_mean, &scale];
            profile::call(TRAIN, &read, || match x.device() {
                Device::Cpu => cpu::backward(&b.grad, &x, w.as_ref(), &batch_mean, &scale),
                Device::Cuda(_) => cuda::backward(&b.grad, &x, w.as_ref(), statistics, activation),
            })?
        };
        let mut gradients = vec![dx];
        gradients.extend(weighted.then_some(dw));
        gradients.extend(biased.then_some(db));
        gradients.extend(added.then(|| b.grad.clone()));
        let matching = gradients.iter().zip(&dtypes);
        matching.map(|(g, &t)| ops::cast(g, t).map(Some)).collect()
    });
    Ok(BatchNorm { output, mean, var })
}

/// Normalises with given statistics: mean (C), var (C), weight (C), bias (C).
///
/// # Errors
/// Shapes or dtypes that do not fit. Mean and variance are numbers of a buffer:
/// asking for their gradient, by giving recorded ones, is an error.
pub fn batch_norm_eval(
    x: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor> {
    let around = Around::default();
    batch_norm_eval_around(x, [mean, var], weight, bias, eps, &around)
}

/// [`batch_norm_eval`] with what surrounds it: in one pass where nothing is recorded,
/// otherwise operators of their own. `statistics` are mean and var; moments are not read.
///
/// # Errors
/// As [`batch_norm_eval`], and a residual of another shape or dtype than x.
pub fn batch_norm_eval_around(
    x: &Tensor,
    statistics: [&Tensor; 2],
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    around: &Around,
) -> Result<Tensor> {
    let [mean, var] = statistics;
    let given: Vec<&Tensor> = weight.into_iter().chain(bias).collect();
    let mut all = vec![mean, var];
    all.extend(&given);
    let shape = per_channel(EVAL, x, &all)?;
    fits_residual(EVAL, x, around.residual)?;
    let recorded = |t: &Tensor| t.is_recorded();
    let observed = recorded(x) || given.iter().copied().any(recorded);
    if observed || around.residual.is_some_and(recorded) {
        let plain = Around::default();
        if around.residual.is_some() || around.activation != plain.activation {
            let x = around.activation.apply(x)?;
            let y = batch_norm_eval_around(&x, statistics, weight, bias, eps, &plain)?;
            return match around.residual {
                Some(residual) => ops::add(&y, residual),
                None => Ok(y),
            };
        }
    }
    if mean.is_recorded() || var.is_recorded() {
        return Err(Error::NoGradient {
            op: EVAL,
            reason: "mean and variance are constants here".to_owned(),
        });
    }
    let arithmetic = match x.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    };
    // As precise as the device can: there is no f64 on cuda.
    let widest = match x.device() {
        Device::Cpu => DType::F64,
        Device::Cuda(_) => arithmetic,
    };
    let mean = ops::cast(mean, arithmetic)?;
    if !observed && let Device::Cuda(_) = x.device() {
        let var = ops::cast(var, arithmetic)?;
        let mut read = vec![x, &mean, &var];
        read.extend(&given);
        read.extend(around.residual);
        let scale = cuda::Scale::OfVariance(&var, eps);
        return profile::call(EVAL, &read, || {
            cuda::eval(x, &mean, scale, weight, bias, around)
        });
    }
    let var = ops::affine(&ops::cast(var, widest)?, 1.0, eps)?;
    let scale = ops::cast(&ops::pow(&var, -0.5)?, arithmetic)?;
    let mut read = vec![x, &mean, &scale];
    read.extend(&given);
    read.extend(around.residual);
    let output = profile::call(EVAL, &read, || match x.device() {
        Device::Cpu => cpu::eval(x, &mean, &scale, weight, bias, around),
        Device::Cuda(_) => {
            let scale = cuda::Scale::Given(&scale);
            cuda::eval(x, &mean, scale, weight, bias, around)
        }
    })?;
    if !observed {
        return Ok(output);
    }
    let mut inputs = vec![x];
    inputs.extend(&given);
    let weighted = weight.is_some();
    let dtypes: Vec<DType> = inputs.iter().map(|t| t.dtype()).collect();
    let save = Save::inputs(if weighted { 0b11 } else { 0b1 });
    Ok(record(EVAL, &inputs, output, save, move |b| {
        let (mean, scale) = (ops::reshape(&mean, &shape)?, ops::reshape(&scale, &shape)?);
        let mut gradients = vec![b.when(0, || {
            let factor = match weighted {
                true => ops::mul(&scale, &ops::reshape(&b.input(1)?, &shape)?)?,
                false => scale.clone(),
            };
            ops::cast(&ops::mul(&b.grad, &factor)?, dtypes[0])
        })?];
        let parameter = |full: Tensor, dtype| {
            let sums = ops::reshape(&sum_to(&full, &shape)?, &shape[..1])?;
            ops::cast(&sums, dtype)
        };
        if weighted {
            gradients.push(b.when(1, || {
                let centred = ops::mul(&ops::sub(&b.input(0)?, &mean)?, &scale)?;
                parameter(ops::mul(&b.grad, &centred)?, dtypes[1])
            })?);
        }
        if let Some(&dtype) = dtypes.get(1 + usize::from(weighted)) {
            let i = dtypes.len() - 1;
            gradients.push(b.when(i, || parameter(b.grad.clone(), dtype))?);
        }
        Ok(gradients)
    }))
}
