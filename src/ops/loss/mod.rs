//! Losses: the mean over everything, as a tensor without axes.
//!
//! A loss that the rules of its parts would differentiate wrongly or in many
//! passes is one pass with a rule of its own; the others are made of recorded
//! operators.

mod cpu;
mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;
use crate::profile;
use crate::tensor::Tensor;

/// What is averaged over pairs of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Squares,
    BinaryEntropy,
}

fn same_shape(op: &'static str, x: &Tensor, y: &Tensor) -> Result<()> {
    if x.shape() == y.shape() {
        return Ok(());
    }
    let shapes = [x.shape(), y.shape()];
    Err(Error::shape(op, &shapes, "two equal shapes are needed"))
}

/// `g / n`: what each element of a mean over n receives.
fn share(g: &Tensor, elements: usize, factor: f64) -> Result<Tensor> {
    ops::affine(g, factor / elements as f64, 0.0)
}

/// The mean of (x - y)^2; x and y of one shape.
///
/// # Errors
/// Shapes or dtypes differ.
pub fn mse_loss(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    scaled_mse_loss(x, y, 1.0)
}

/// [`mse_loss`] times `factor`, in the same passes.
///
/// # Errors
/// As [`mse_loss`].
pub(crate) fn scaled_mse_loss(x: &Tensor, y: &Tensor, factor: f64) -> Result<Tensor> {
    same_shape("mse_loss", x, y)?;
    let loss = profile::call("mse_loss", &[x, y], || match x.device() {
        Device::Cpu => cpu::mean_of("mse_loss", Kind::Squares, x, y, factor),
        Device::Cuda(_) => cuda::mean_of("mse_loss", Kind::Squares, x, y, factor),
    })?;
    Ok(record("mse_loss", &[x, y], loss, Save::ALL, move |b| {
        let (x, y) = (b.input(0)?, b.input(1)?);
        let single = |t: &Tensor| t.dtype() == DType::F32;
        let one_pass = matches!(x.device(), Device::Cuda(_)) && !b.create_graph;
        let one_pass = one_pass && single(&x) && single(&y) && x.elements() > 0;
        let twice = |x: &Tensor, y: &Tensor| {
            if one_pass {
                let factor = 2.0 * factor / x.elements() as f64;
                let read = [x, y, &b.grad];
                return profile::call("mse_loss", &read, || {
                    cuda::difference(x, y, &b.grad, factor)
                });
            }
            ops::mul(
                &ops::sub(x, y)?,
                &share(&b.grad, x.elements(), 2.0 * factor)?,
            )
        };
        Ok(vec![
            b.when(0, || twice(&x, &y))?,
            b.when(1, || twice(&y, &x))?,
        ])
    }))
}

/// The mean of |x - y|, with gradient 0 where they are equal.
///
/// # Errors
/// Shapes or dtypes differ.
pub fn l1_loss(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    same_shape("l1_loss", x, y)?;
    let distance = ops::abs(&ops::sub(x, y)?)?;
    share(&ops::sum_all(&distance)?, x.elements(), 1.0)
}

/// The mean of -t log p - (1 - t) log(1 - p) with p = sigmoid(x), for logits x
/// and targets t in [0, 1] of one shape, computed as
/// max(x, 0) - x t + log(1 + e^-|x|), which neither overflows nor cancels.
///
/// # Errors
/// Shapes or dtypes differ.
pub fn bce_with_logits(x: &Tensor, target: &Tensor) -> Result<Tensor> {
    const OP: &str = "bce_with_logits";
    same_shape(OP, x, target)?;
    let loss = profile::call(OP, &[x, target], || match x.device() {
        Device::Cpu => cpu::mean_of(OP, Kind::BinaryEntropy, x, target, 1.0),
        Device::Cuda(_) => cuda::mean_of(OP, Kind::BinaryEntropy, x, target, 1.0),
    })?;
    Ok(record(OP, &[x, target], loss, Save::ALL, |b| {
        let (x, target) = (b.input(0)?, b.input(1)?);
        let n = x.elements();
        Ok(vec![
            b.when(0, || {
                let excess = ops::sub(&ops::sigmoid(&x)?, &target)?;
                ops::mul(&excess, &share(&b.grad, n, 1.0)?)
            })?,
            b.when(1, || ops::mul(&x, &share(&b.grad, n, -1.0)?))?,
        ])
    }))
}

/// The mean of `-log softmax(logits)[label]` over the rows of logits (N, C);
/// labels (N), i64. NaN for N = 0.
///
/// # Errors
/// Shapes or dtypes that do not fit; a label outside 0..C, which on cuda is
/// reported by the next wait for the device.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    const OP: &str = "cross_entropy";
    let (rows, classes) = match *logits.shape() {
        [rows, classes] if labels.shape() == [rows] => (rows, classes),
        _ => {
            let shapes = [logits.shape(), labels.shape()];
            return Err(Error::shape(OP, &shapes, "logits (N, C), labels (N)"));
        }
    };
    if labels.dtype() != DType::I64 {
        let given = [labels.dtype()];
        return Err(Error::dtype(OP, &given, "i64 is needed for the labels"));
    }
    // On cuda the gather below reports what is outside, without waiting here.
    if labels.device() == Device::Cpu {
        let outside = |l: &i64| usize::try_from(*l).map_or(true, |l| l >= classes);
        let values = labels.to_vec::<i64>()?;
        if let Some(row) = values.iter().position(outside) {
            let problem = format!("label {} of row {row} is not below {classes}", values[row]);
            return Err(Error::op(OP, problem));
        }
    }
    // Few logits are one block's work.
    const ONE_BLOCK: usize = 1 << 20;
    let one_pass = matches!(logits.device(), Device::Cuda(_)) && logits.dtype() == DType::F32;
    if one_pass && (1..=ONE_BLOCK).contains(&logits.elements()) {
        return cross_entropy_at_once(logits, labels);
    }
    let likelihoods = ops::log_softmax(logits, 1)?;
    let picked = ops::gather(&likelihoods, 1, &ops::reshape(labels, &[rows, 1])?)?;
    share(&ops::sum_all(&picked)?, rows, -1.0)
}

/// On CUDA, a launch each way.
fn cross_entropy_at_once(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    const OP: &str = "cross_entropy";
    let (loss, log_sums) = profile::call(OP, &[logits, labels], || {
        cuda::cross_entropy(logits, labels)
    })?;
    Ok(record(OP, &[logits, labels], loss, Save::ALL, move |b| {
        let (x, labels) = (b.input(0)?, b.input(1)?);
        if !b.create_graph {
            let read = [&x, &labels, &log_sums, &b.grad];
            let gx = profile::call(OP, &read, || cuda::cross_entropy_gradient(read))?;
            return Ok(vec![Some(gx), None]);
        }
        let (rows, classes) = (x.shape()[0], x.shape()[1]);
        let ones = Tensor::full_on(1.0, &[rows, 1], x.dtype(), &x.device())?;
        let index = ops::reshape(&labels, &[rows, 1])?;
        let chosen = ops::scatter_add(&ones, 1, &index, classes)?;
        let excess = ops::sub(&ops::softmax(&x, 1)?, &chosen)?;
        Ok(vec![
            Some(ops::mul(&excess, &share(&b.grad, rows, 1.0)?)?),
            None,
        ])
    }))
}
