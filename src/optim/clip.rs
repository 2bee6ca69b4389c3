use rayon::prelude::*;

use super::clip_cuda;
use crate::device::Device;
use crate::device::cpu::GRAIN;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::{self, Operand};
use crate::profile::{self, Phase};
use crate::tensor::Tensor;

/// [`clip_grad_norm`] whose norm stays where the gradients are, a tensor of no
/// axes, so that a CUDA device need not be waited for: f32 and accumulated in f32
/// there, f64 on the CPU. It can be captured.
///
/// # Errors
/// As [`clip_grad_norm`]; gradients on several devices.
pub fn clip_grad_norm_on_device(gradients: &mut [Option<Tensor>], max_norm: f64) -> Result<Tensor> {
    if !any_on_cuda(gradients) {
        return Tensor::scalar(clip_grad_norm(gradients, max_norm)?, DType::F64);
    }
    check_limit(max_norm)?;
    observed(gradients, |gradients| {
        let mut given: Vec<&mut Tensor> = gradients.iter_mut().flatten().collect();
        clip_cuda::clip(&mut given, max_norm)
    })
}

/// `clip` as a part of the update.
fn observed<R>(
    gradients: &mut [Option<Tensor>],
    clip: impl FnOnce(&mut [Option<Tensor>]) -> Result<R>,
) -> Result<R> {
    let given = || {
        let all = gradients.iter().flatten().map(Operand::from);
        all.collect::<Vec<_>>()
    };
    let operands = profile::is_watching().then(given).unwrap_or_default();
    profile::phase(Phase::Update, || {
        let operands = || [operands.clone(), operands];
        profile::call_in_place("clip_grad_norm", operands, || clip(gradients))
    })
}

fn any_on_cuda(gradients: &[Option<Tensor>]) -> bool {
    let on_cuda = |t: &Tensor| matches!(t.device(), Device::Cuda(_));
    gradients.iter().flatten().any(on_cuda)
}

fn check_limit(max_norm: f64) -> Result<()> {
    if max_norm.is_nan() || max_norm < 0.0 {
        let problem = format!("gradients cannot be clipped to a norm of {max_norm}");
        return Err(Error::usage(problem, "give a norm of 0 or more"));
    }
    Ok(())
}

/// Scales all gradients by `max_norm / (norm + 1e-6)`, if that is below 1, norm
/// being the L2 norm of all of them together (Pascanu et al. 2013, in PyTorch's
/// form), and returns the norm from before, accumulated in f64. For gradients on
/// a CUDA device see [`clip_grad_norm_on_device`], which this waits for.
///
/// A norm that is not finite is returned, and spoils the gradients as in
/// PyTorch; whether to skip the step is for the caller to say.
///
/// # Errors
/// A negative `max_norm` or NaN, or a gradient that is not a float.
pub fn clip_grad_norm(gradients: &mut [Option<Tensor>], max_norm: f64) -> Result<f64> {
    check_limit(max_norm)?;
    if any_on_cuda(gradients) {
        return clip_grad_norm_on_device(gradients, max_norm)?.item();
    }
    observed(gradients, |gradients| on_the_cpu(gradients, max_norm))
}

fn on_the_cpu(gradients: &mut [Option<Tensor>], max_norm: f64) -> Result<f64> {
    let mut total = 0.0;
    for gradient in gradients.iter().flatten() {
        total += squares(gradient)?;
    }
    let norm = total.sqrt();
    let scale = max_norm / (norm + 1e-6);
    // Not `< 1.0`: a NaN must reach the gradients.
    if scale >= 1.0 {
        return Ok(norm);
    }
    for gradient in gradients.iter_mut().flatten() {
        match gradient.dtype() {
            DType::F32 => scale_in_place::<f32>(gradient, scale)?,
            DType::F64 => scale_in_place::<f64>(gradient, scale)?,
            _ => *gradient = ops::affine(&gradient.detach(), scale, 0.0)?,
        }
    }
    Ok(norm)
}

/// The sum of squares, over blocks of a fixed size that are added in order.
fn squares(gradient: &Tensor) -> Result<f64> {
    fn run<T: Float>(gradient: &Tensor) -> Result<f64> {
        let plain = if gradient.layout().is_dense() {
            gradient.detach()
        } else {
            gradient
                .detach()
                .to_format(crate::shape::Format::Contiguous)?
        };
        let values = plain.dense_slice::<T>("clip_grad_norm")?;
        let blocks: Vec<f64> = values
            .par_chunks(GRAIN)
            .map(|block| block.iter().map(|v| v.to_f64() * v.to_f64()).sum())
            .collect();
        Ok(blocks.iter().sum())
    }
    match gradient.dtype() {
        DType::F64 => run::<f64>(gradient),
        d if d.is_float() => run::<f32>(&ops::cast(&gradient.detach(), DType::F32)?),
        d => Err(Error::dtype("clip_grad_norm", &[d], "a float is needed")),
    }
}

fn scale_in_place<T: Float>(gradient: &mut Tensor, scale: f64) -> Result<()> {
    let scale = T::from_f64(scale);
    let mut scaled = gradient.detach();
    // Let go of the other reference, so that the storage can be sole.
    *gradient = Tensor::scalar(0.0, T::DTYPE)?;
    let values = scaled.dense_mut::<T>("clip_grad_norm")?;
    values
        .par_chunks_mut(GRAIN)
        .for_each(|block| block.iter_mut().for_each(|v| *v = *v * scale));
    *gradient = scaled;
    Ok(())
}
