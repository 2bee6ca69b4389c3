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
use crate::ops::normalise::recorded_gradients;
use crate::profile;
use crate::tensor::Tensor;

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
    let (Some(split), Some(parameters), true) = (
        split,
        &parameters,
        normalised_axes > 0 && given.iter().all(fits),
    ) else {
        let mut shapes = vec![x.shape()];
        shapes.extend(given.iter().map(|t| t.shape()));
        let expected = format!("x (.., D), weight D, bias D with D of {normalised_axes} axes");
        return Err(Error::shape("layer_norm", &shapes, expected));
    };
    let mut inputs = vec![x];
    inputs.extend(&given);
    let (y, statistics) = profile::call("layer_norm", &inputs, || match x.device() {
        Device::Cpu => cpu::forward(x, parameters, weight, bias, eps),
        Device::Cuda(_) => cuda::forward(x, parameters, weight, bias, eps),
    })?;
    let weighted = weight.is_some();
    let parametrised = weighted || bias.is_some();
    let dtypes: Vec<_> = inputs.iter().map(|t| t.dtype()).collect();
    let axes: Vec<isize> = (split as isize..x.rank() as isize).collect();
    let parameters = parameters.clone();
    let save = Save::inputs(if weighted { 0b11 } else { 0b1 });
    Ok(record("layer_norm", &inputs, y, save, move |b| {
        let x = b.input(0)?;
        let w = weighted.then(|| b.input(1)).transpose()?;
        let [dx, dw, db] = if b.create_graph {
            recorded_gradients(&b.grad, &x, w.as_ref(), &axes, &parameters, eps)?
        } else {
            let more = match x.device() {
                Device::Cpu => None,
                Device::Cuda(_) => b.take_earlier(0),
            };
            let (more, w) = (more.as_ref(), w.as_ref());
            let mut read = vec![&b.grad, &x, &statistics];
            read.extend(w);
            read.extend(more);
            profile::call("layer_norm", &read, || match x.device() {
                Device::Cpu => {
                    let of = (&parameters[..], parametrised);
                    cpu::backward(&b.grad, &x, w, of, &statistics)
                }
                Device::Cuda(_) => cuda::backward(&b.grad, &x, more, w, &parameters, &statistics),
            })?
        };
        let mut gradients = vec![dx];
        gradients.extend(weighted.then_some(dw));
        gradients.push(db);
        let matching = gradients.iter().zip(&dtypes);
        matching.map(|(g, &t)| ops::cast(g, t).map(Some)).collect()
    }))
}
