//! `layer_norm`: each row with mean 0 and variance 1, scaled and shifted.
//!
//! y = (x - mean) / sqrt(var + eps) w + b over the trailing axes, with the
//! variance divided by n (Ba, Kiros and Hinton 2016).
//!
//! `add_layer_norm` is the same of a sum, as between the parts of a transformer. Its
//! gradient there is that of a norm and of whoever else reads the sum, added in one
//! pass.

mod cpu;
mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::half::wide;
use crate::ops::normalise::recorded_gradients;
use crate::profile;
use crate::shape::Layout;
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
    let split = x.rank().checked_sub(normalised_axes);
    let parameters = split.map(|at| x.shape()[at..].to_vec());
    let fits = |t: &&Tensor| parameters.as_deref() == Some(t.shape());
    let given: Vec<&Tensor> = weight.into_iter().chain(bias).collect();
    let whole = normalised_axes > 0 && given.iter().all(fits);
    let (Some(parameters), true) = (&parameters, whole) else {
        let mut shapes = vec![x.shape()];
        shapes.extend(given.iter().map(|t| t.shape()));
        let expected = format!("x (.., D), weight D, bias D with D of {normalised_axes} axes");
        return Err(Error::shape(OP, &shapes, expected));
    };
    let mut inputs = vec![x];
    inputs.extend(&given);
    let (y, statistics) = profile::call(OP, &inputs, || match x.device() {
        Device::Cpu => cpu::forward(x, parameters, weight, bias, eps),
        Device::Cuda(_) => cuda::forward(x, None, parameters, weight, bias, eps),
    })?;
    Ok(recorded(&inputs, (y, statistics), parameters, weight, eps))
}

/// a + b and [`layer_norm`] of it: one pass on CUDA, two on the CPU. The sum of bf16
/// and f16 is rounded before it is normalised.
///
/// # Errors
/// Those of [`layer_norm`]; a and b of two shapes or dtypes.
pub fn add_layer_norm(
    a: &Tensor,
    b: &Tensor,
    normalised_axes: usize,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        let shapes = [a.shape(), b.shape()];
        let expected = format!(
            "equal shapes and dtypes, not {} and {}",
            a.dtype(),
            b.dtype()
        );
        return Err(Error::shape(ADD, &shapes, expected));
    }
    let split = a.rank().checked_sub(normalised_axes);
    let parameters = split.map(|at| a.shape()[at..].to_vec());
    let given: Vec<&Tensor> = weight.into_iter().chain(bias).collect();
    let fits = |t: &&Tensor| parameters.as_deref() == Some(t.shape());
    let one_pass = normalised_axes > 0 && given.iter().all(fits) && a.elements() > 0;
    let (Some(parameters), Device::Cuda(_), true) = (&parameters, a.device(), one_pass) else {
        let sum = ops::add(a, b)?;
        let y = layer_norm(&sum, normalised_axes, weight, bias, eps)?;
        return Ok((sum, y));
    };
    let mut inputs = vec![a, b];
    inputs.extend(&given);
    let ((y, statistics), sum) = profile::call(ADD, &inputs, || {
        let plain = Layout::contiguous(*a.layout().shape());
        let Device::Cuda(device) = a.device() else {
            return Err(Error::op(ADD, "internal: not on CUDA"));
        };
        let sum = device.empty(plain, a.dtype())?;
        let of = cuda::forward(a, Some((b, &sum)), parameters, weight, bias, eps)?;
        Ok((of, sum))
    })?;
    let sum = record("add", &[a, b], sum, Save::NONE, |g| {
        Ok(vec![Some(g.grad.clone()), Some(g.grad.clone())])
    });
    let mut inputs = vec![&sum];
    inputs.extend(&given);
    let y = recorded(&inputs, (y, statistics), parameters, weight, eps);
    Ok((sum, y))
}

/// The norm y of the first of `inputs` on the tape; weight and bias are the others.
fn recorded(
    inputs: &[&Tensor],
    (y, statistics): (Tensor, Tensor),
    parameters: &[usize],
    weight: Option<&Tensor>,
    eps: f64,
) -> Tensor {
    let rank = y.rank() as isize;
    let axes: Vec<isize> = (rank - parameters.len() as isize..rank).collect();
    let weighted = weight.is_some();
    let dtypes: Vec<_> = inputs.iter().map(|t| t.dtype()).collect();
    let parameters = parameters.to_vec();
    let save = Save::inputs(if weighted { 0b11 } else { 0b1 });
    record(OP, inputs, y, save, move |b| {
        let x = b.input(0)?;
        let w = weighted.then(|| b.input(1)).transpose()?;
        let [dx, dw, db] = if b.create_graph {
            let (g, x) = (wide(&b.grad)?, wide(&x)?);
            let w = w.as_ref().map(wide).transpose()?;
            recorded_gradients(&g, &x, w.as_ref(), &axes, &parameters, eps)?
        } else {
            let carried = match x.device() {
                Device::Cuda(_) if b.wants(0) => b.carried(0),
                _ => None,
            };
            let mut read = vec![&b.grad, &x, &statistics];
            read.extend(&w);
            read.extend(&carried);
            profile::call(OP, &read, || match x.device() {
                Device::Cpu => cpu::backward(&b.grad, &x, w.as_ref(), &parameters, &statistics),
                Device::Cuda(_) => {
                    let of = [&b.grad, &x];
                    cuda::backward(of, carried.as_ref(), w.as_ref(), &parameters, &statistics)
                }
            })?
        };
        let mut gradients = vec![dx];
        gradients.extend(weighted.then_some(dw));
        gradients.push(db);
        let matching = gradients.iter().zip(&dtypes);
        matching.map(|(g, &t)| ops::cast(g, t).map(Some)).collect()
    })
}
