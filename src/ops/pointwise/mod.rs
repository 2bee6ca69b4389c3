//! Functions of one element.
//!
//! Each function f is given with its first and second derivative. Two recorded
//! operators carry all of them: `f(x)`, and `g * f^(n)(x)`, whose own gradients
//! are `h * f^(n)(x)` for g and `(h g) * f^(n+1)(x)` for x. So one rule serves
//! every function, to the order for which derivatives are written here.

mod cpu;
mod cuda;
pub(crate) mod scalar;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops;
use crate::profile;
use crate::tensor::Tensor;

/// A function of one element with its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Function {
    Exp,
    Log,
    Sqrt,
    Pow(f64),
    Abs,
    Clamp(f64, f64),
    LeakyRelu(f64),
    Gelu,
    Silu,
    Tanh,
    Sigmoid,
}

/// Derivatives are given up to this order.
const HIGHEST: u32 = 2;

impl Function {
    fn name(self) -> &'static str {
        match self {
            Self::Exp => "exp",
            Self::Log => "log",
            Self::Sqrt => "sqrt",
            Self::Pow(_) => "pow",
            Self::Abs => "abs",
            Self::Clamp(..) => "clamp",
            Self::LeakyRelu(_) => "leaky_relu",
            Self::Gelu => "gelu",
            Self::Silu => "silu",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
        }
    }
}

pub(crate) fn apply(f: Function, x: &Tensor) -> Result<Tensor> {
    let y = profile::call(f.name(), &[x], || match x.device() {
        Device::Cpu => cpu::apply(f, x),
        Device::Cuda(_) => cuda::apply(f, x),
    })?;
    Ok(applied(f, x, y))
}

/// y, which is f(x), with its place on the tape.
pub(crate) fn applied(f: Function, x: &Tensor, y: Tensor) -> Tensor {
    record(f.name(), &[x], y, Save::ALL, move |b| {
        Ok(vec![Some(apply_derivative(f, 1, &b.grad, &b.input(0)?)?)])
    })
}

/// `g * f^(order)(x)`.
pub(crate) fn apply_derivative(f: Function, order: u32, g: &Tensor, x: &Tensor) -> Result<Tensor> {
    if order > HIGHEST {
        return Err(Error::NoGradient {
            op: f.name(),
            reason: format!("derivatives are given up to order {HIGHEST}"),
        });
    }
    let y = profile::call(f.name(), &[g, x], || match x.device() {
        Device::Cpu => cpu::apply_derivative(f, order, g, x),
        Device::Cuda(_) => cuda::apply_derivative(f, order, g, x),
    })?;
    Ok(record(f.name(), &[g, x], y, Save::ALL, move |b| {
        let (g, x) = (b.input(0)?, b.input(1)?);
        Ok(vec![
            b.when(0, || apply_derivative(f, order, &b.grad, &x))?,
            b.when(1, || {
                apply_derivative(f, order + 1, &ops::mul(&b.grad, &g)?, &x)
            })?,
        ])
    }))
}

/// e^x.
pub fn exp(x: &Tensor) -> Result<Tensor> {
    apply(Function::Exp, x)
}

/// The natural logarithm.
pub fn log(x: &Tensor) -> Result<Tensor> {
    apply(Function::Log, x)
}

pub fn sqrt(x: &Tensor) -> Result<Tensor> {
    apply(Function::Sqrt, x)
}

/// x to a fixed power.
pub fn pow(x: &Tensor, exponent: f64) -> Result<Tensor> {
    apply(Function::Pow(exponent), x)
}

/// |x|, with gradient 0 at 0.
pub fn abs(x: &Tensor) -> Result<Tensor> {
    apply(Function::Abs, x)
}

/// x limited to `[low, high]`; the gradient is 1 inside and on the limits.
pub fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    apply(Function::Clamp(low, high), x)
}

/// max(x, 0), with gradient 0 at 0.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    apply(Function::LeakyRelu(0.0), x)
}

/// x above 0, `slope` times x elsewhere; the gradient at 0 is `slope`.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    apply(Function::LeakyRelu(slope), x)
}

/// x Phi(x) with the exact normal distribution function (erf), as in Hendrycks
/// and Gimpel 2016, not its tanh approximation.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    apply(Function::Gelu, x)
}

/// x sigmoid(x).
pub fn silu(x: &Tensor) -> Result<Tensor> {
    apply(Function::Silu, x)
}

pub fn tanh(x: &Tensor) -> Result<Tensor> {
    apply(Function::Tanh, x)
}

/// 1 / (1 + e^-x).
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    apply(Function::Sigmoid, x)
}
