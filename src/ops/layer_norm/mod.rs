//! `layer_norm`: each row with mean 0 and variance 1, scaled and shifted.
//!
//! y = (x - mean) / sqrt(var + eps) w + b over the trailing axes, with the
//! variance divided by n (Ba, Kiros and Hinton 2016).

mod cpu;
mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::matmul::equal_floats;
use crate::ops::normalise::recorded_gradients;
use crate::profile;
use crate::tensor::Tensor;

const OP: &str = "layer_norm";
const ADD: &str = "add_layer_norm";

/// x (.., D) with statistics over its last `normalised_axes` axes, D; weight
/// and bias have the shape D. The result has the dtype of x.
///
/// # Errors
/// No axis or more axes than x has; a weight or bias of another shape or dtype.
pub fn layer_norm(
    x: &Tensor,
    normalised_axes: usize,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor> {
    let parameters = checked(OP, x, normalised_axes, weight, bias)?;
    let inputs: Vec<&Tensor> = [x].into_iter().chain(weight).chain(bias).collect();
    let (y, statistics) = profile::call(OP, &inputs, || {
        let (y, statistics, _) = match x.device() {
            Device::Cpu => cpu::forward(x, None, &parameters, weight, bias, eps),
            Device::Cuda(_) => cuda::forward(x, None, &parameters, weight, bias, eps),
        }?;
        Ok((y, statistics))
    })?;
    Ok(recorded(&inputs, (y, statistics), parameters, weight, eps))
}

/// x + other, and [`layer_norm`] of that, in one pass, as between the parts of a
/// transformer. The sum of bf16 and f16 is rounded before it is normalised. In the
/// backward pass the gradients that the sum has from its norm and from its other
/// readers are added in one pass too.
///
/// # Errors
/// Those of [`layer_norm`]; x and other of two shapes or dtypes.
pub fn add_layer_norm(
    x: &Tensor,
    other: &Tensor,
    normalised_axes: usize,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    if x.shape() != other.shape() {
        let shapes = [x.shape(), other.shape()];
        return Err(Error::shape(ADD, &shapes, "two operands of one shape"));
    }
    equal_floats(ADD, &[x, other])?;
    let parameters = checked(ADD, x, normalised_axes, weight, bias)?;
    let inputs = [x, other].into_iter().chain(weight).chain(bias);
    let inputs: Vec<&Tensor> = inputs.collect();
    let (y, (statistics, sum)) = profile::call(ADD, &inputs, || {
        let (y, statistics, sum) = match x.device() {
            Device::Cpu => cpu::forward(x, Some(other), &parameters, weight, bias, eps),
            Device::Cuda(_) => cuda::forward(x, Some(other), &parameters, weight, bias, eps),
        }?;
        let sum = sum.ok_or_else(|| Error::op(ADD, "internal: no sum"))?;
        Ok((y, (statistics, sum)))
    })?;
    let sum = record("add", &[x, other], sum, Save::NONE, |b| {
        Ok(vec![
            b.when(0, || Ok(b.grad.clone()))?,
            b.when(1, || Ok(b.grad.clone()))?,
        ])
    });
    let inputs: Vec<&Tensor> = [&sum].into_iter().chain(weight).chain(bias).collect();
    let y = recorded(&inputs, (y, statistics), parameters, weight, eps);
    Ok((sum, y))
}

/// The normalised axes, if everything fits them.
fn checked(
    op: &'static str,
    x: &Tensor,
    normalised_axes: usize,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
) -> Result<Vec<usize>> {
    let split = x.rank().checked_sub(normalised_axes);
    let parameters = split.map(|at| x.shape()[at..].to_vec());
    let given: Vec<&Tensor> = weight.into_iter().chain(bias).collect();
    let fits = |t: &&Tensor| parameters.as_deref() == Some(t.shape());
    let whole = normalised_axes > 0 && given.iter().all(fits);
    parameters.clone().filter(|_| whole).ok_or_else(|| {
        let mut shapes = vec![x.shape()];
        shapes.extend(given.iter().map(|t| t.shape()));
        let expected = format!("x (.., D), weight D, bias D with D of {normalised_axes} axes");
        Error::shape(op, &shapes, expected)
    })
}

/// y on the tape as the norm of the first of `inputs`, which weight and bias follow.
fn recorded(
    inputs: &[&Tensor],
    (y, statistics): (Tensor, Tensor),
    parameters: Vec<usize>,
    weight: Option<&Tensor>,
    eps: f64,
) -> Tensor {
    let weighted = weight.is_some();
    let parametrised = inputs.len() > 1;
    let dtypes: Vec<_> = inputs.iter().map(|t| t.dtype()).collect();
    let rank = y.rank() as isize;
    let axes: Vec<isize> = (rank - parameters.len() as isize..rank).collect();
    let save = Save::inputs(if weighted { 0b11 } else { 0b1 });
    record(OP, inputs, y, save, move |b| {
        let x = b.input(0)?;
        let w = weighted.then(|| b.input(1)).transpose()?;
        let [dx, dw, db] = if b.create_graph {
            recorded_gradients(&b.grad, &x, w.as_ref(), &axes, &parameters, eps)?
        } else {
            let more = b.take_earlier(0);
            let (more, w) = (more.as_ref(), w.as_ref());
            let mut read = vec![&b.grad, &x, &statistics];
            read.extend(w);
            read.extend(more);
            profile::call(OP, &read, || match x.device() {
                Device::Cpu => {
                    let of = (&parameters[..], parametrised);
                    cpu::backward(&b.grad, &x, more, w, of, &statistics)
                }
                Device::Cuda(_) => cuda::backward(&b.grad, &x, more, w, &parameters, &statistics),
            })?
        };
        let mut gradients = vec![dx];
        gradients.extend(weighted.then_some(dw));
        gradients.push(db);
        let matching = gradients.iter().zip(&dtypes);
        matching.map(|(g, &t)| ops::cast(g, t).map(Some)).collect()
    })
}
