//! `softmax` and `log_softmax` along one axis.
//!
//! y = e^x / sum(e^x), dx = y (g - sum(g y)); and
//! z = x - log(sum(e^x)), dx = g - e^z sum(g).
//! The gradients are functions of the output alone; what is to be
//! differentiated again computes them from recorded operators, the rest in one
//! pass.

mod cpu;
mod cuda;

use std::cmp::Ordering;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::Result;
use crate::ops;
use crate::profile;
use crate::shape;
use crate::tensor::Tensor;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Softmax,
    LogSoftmax,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::LogSoftmax => "log_softmax",
        }
    }
}

/// Non-negative weights along `axis` with sum 1. A slice that is minus infinity
/// throughout gives NaN.
///
/// # Errors
/// The axis does not exist; x is not a float.
pub fn softmax(x: &Tensor, axis: isize) -> Result<Tensor> {
    apply(Kind::Softmax, x, axis)
}

/// The logarithm of [`softmax`], without its underflow.
///
/// # Errors
/// As [`softmax`].
pub fn log_softmax(x: &Tensor, axis: isize) -> Result<Tensor> {
    apply(Kind::LogSoftmax, x, axis)
}

fn apply(kind: Kind, x: &Tensor, axis: isize) -> Result<Tensor> {
    let axis = shape::axis(kind.name(), axis, x.shape())?;
    let y = with_axis_last(axis, [x], |[x]| {
        profile::call(kind.name(), &[x], || match x.device() {
            Device::Cpu => cpu::forward(kind, x),
            Device::Cuda(_) => cuda::forward(kind, x),
        })
    })?;
    Ok(record(kind.name(), &[x], y, Save::OUTPUT, move |b| {
        let y = b.output()?;
        Ok(vec![Some(gradient_of(
            kind,
            &b.grad,
            &y,
            axis,
            b.create_graph,
        )?)])
    }))
}

/// The gradient of x from that of y = [`softmax`] of x along the last axis, f32 or
/// f64, recorded if it is to be differentiated again.
pub(crate) fn gradient(g: &Tensor, y: &Tensor, create_graph: bool) -> Result<Tensor> {
    let axis = shape::axis("softmax", -1, y.shape())?;
    gradient_of(Kind::Softmax, g, y, axis, create_graph)
}

fn gradient_of(
    kind: Kind,
    g: &Tensor,
    y: &Tensor,
    axis: usize,
    create_graph: bool,
) -> Result<Tensor> {
    if create_graph {
        return recorded_gradient(kind, g, y, axis as isize);
    }
    with_axis_last(axis, [g, y], |[g, y]| {
        profile::call(kind.name(), &[g, y], || match y.device() {
            Device::Cpu => cpu::backward(kind, g, y),
            Device::Cuda(_) => cuda::backward(kind, g, y),
        })
    })
}

/// `f` of views in which `axis` is the last one; its result is turned back. An
/// axis that is innermost in storage, such as the channels of NHWC, stays there.
fn with_axis_last<const N: usize>(
    axis: usize,
    inputs: [&Tensor; N],
    f: impl FnOnce([&Tensor; N]) -> Result<Tensor>,
) -> Result<Tensor> {
    let rank = inputs[0].rank();
    let mut order: Vec<usize> = (0..rank).filter(|&i| i != axis).collect();
    order.push(axis);
    let inverse: Vec<usize> = (0..rank)
        .map(|i| match i.cmp(&axis) {
            Ordering::Less => i,
            Ordering::Equal => rank - 1,
            Ordering::Greater => i - 1,
        })
        .collect();
    let mut turned = Vec::with_capacity(N);
    for t in inputs {
        turned.push(ops::permute(&t.detach(), &order)?);
    }
    ops::permute(&f(std::array::from_fn(|i| &turned[i]))?, &inverse)
}

fn recorded_gradient(kind: Kind, g: &Tensor, y: &Tensor, axis: isize) -> Result<Tensor> {
    match kind {
        Kind::Softmax => {
            let inner = ops::sum(&ops::mul(g, y)?, &[axis], true)?;
            ops::mul(y, &ops::sub(g, &inner)?)
        }
        Kind::LogSoftmax => {
            let total = ops::sum(g, &[axis], true)?;
            ops::sub(g, &ops::mul(&ops::exp(y)?, &total)?)
        }
    }
}
