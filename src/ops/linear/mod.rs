//! `linear`: a product with a transposed weight, a bias and an activation.

mod cpu;
mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::matmul::equal_floats;
use crate::ops::pointwise::{Function, applied, apply};
use crate::profile;
use crate::tensor::Tensor;

/// What follows a product or convolution in the same pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    None,
    Relu,
    LeakyRelu(f64),
    Gelu,
    Silu,
    Tanh,
    Sigmoid,
}

impl Activation {
    pub(crate) fn function(self) -> Option<Function> {
        match self {
            Self::None => None,
            Self::Relu => Some(Function::LeakyRelu(0.0)),
            Self::LeakyRelu(slope) => Some(Function::LeakyRelu(slope)),
            Self::Gelu => Some(Function::Gelu),
            Self::Silu => Some(Function::Silu),
            Self::Tanh => Some(Function::Tanh),
            Self::Sigmoid => Some(Function::Sigmoid),
        }
    }

    /// As an operator of its own.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self.function() {
            Some(f) => apply(f, x),
            None => Ok(x.clone()),
        }
    }
}

/// `activation(x w^T + bias)`: x (.., K), w (N, K), bias (N) -> (.., N).
///
/// Off the tape bias and activation are applied to the product while it is in
/// cache. On the tape the activation's gradient needs its input: one launch
/// writes both on CUDA, and on the CPU the activation is an operator of its own.
/// The values are the same bits, except for bf16 and f16 on the CPU, where that
/// input is rounded first.
///
/// # Errors
/// Sizes that do not fit, several dtypes.
pub fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
) -> Result<Tensor> {
    let k = x.shape().last().copied();
    let fits = w.rank() == 2
        && k == Some(w.shape()[1])
        && bias.is_none_or(|b| b.shape() == &w.shape()[..1]);
    if !fits {
        let mut shapes = vec![x.shape(), w.shape()];
        shapes.extend(bias.map(Tensor::shape));
        return Err(Error::shape(
            "linear",
            &shapes,
            "x (.., K), w (N, K), bias (N)",
        ));
    }
    let mut inputs = vec![x, w];
    inputs.extend(bias);
    equal_floats("linear", &inputs)?;
    let recorded = inputs.iter().any(|t| t.is_recorded());
    let inside = if recorded {
        Activation::None
    } else {
        activation
    };
    let (y, before) = profile::call("linear", &inputs, || match x.device() {
        Device::Cpu => Ok((cpu::linear(x, w, bias, inside)?, None)),
        Device::Cuda(_) => cuda::linear(x, w, bias, activation, recorded),
    })?;
    if !recorded {
        return Ok(y);
    }
    let (z, activated) = match before {
        Some(z) => (z, Some(y)),
        None => (y, None),
    };
    let z = record("linear", &inputs, z, Save::inputs(0b11), move |b| {
        let (x, w) = (b.input(0)?, b.input(1)?);
        let (n, k) = (w.shape()[0], w.shape()[1]);
        let rows = x.elements().checked_div(k).unwrap_or(0);
        let at_once = matches!(x.device(), Device::Cuda(_)) && cuda::has_gradients(&x, &w);
        if at_once && !b.create_graph && b.wants(1) {
            let wanted = cuda::Wanted {
                x: b.wants(0),
                bias: b.wants(2),
                // Of an f32 parameter's shadow: rounded in between, it would be cast back.
                wide: b.is_cast(1) && (!b.wants(2) || b.is_cast(2)),
            };
            let more = if wanted.x { b.take_earlier(0) } else { None };
            let mut read = vec![&x, &b.grad];
            read.extend(wanted.x.then_some(&w));
            read.extend(&more);
            let of = profile::call("linear_gradient", &read, || {
                cuda::gradients([&x, &b.grad, &w], more.as_ref(), &wanted)
            })?;
            let mut of = of.into_iter();
            let gw = of.next();
            let gb = if wanted.bias { of.next() } else { None };
            return Ok(vec![of.next(), gw, gb]);
        }
        let g = ops::reshape(&b.grad, &[rows, n])?;
        Ok(vec![
            b.when(0, || ops::reshape(&ops::matmul(&g, &w)?, x.shape()))?,
            b.when(1, || {
                ops::matmul(&ops::transpose(&g, 0, 1)?, &ops::reshape(&x, &[rows, k])?)
            })?,
            b.when(2, || ops::sum(&g, &[0], false))?,
        ])
    });
    match (activation.function(), activated) {
        (Some(f), Some(y)) => Ok(applied(f, &z, y)),
        _ => activation.apply(&z),
    }
}
