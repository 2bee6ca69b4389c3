//! `attention`: softmax of the scores of queries and keys, and its product with
//! the values, in one pass over each head (Vaswani et al. 2017, equation 1).
//!
//! By rows, s = scale q k^T + bias, p = e^s / sum(e^s), y = p v. With g the
//! gradient of y:
//!
//! ```text
//! dv = p^T g          dp = g v^T          ds = p (dp - sum(p dp))
//! dq = scale ds k     dk = scale ds^T q   dbias = ds, summed to its shape
//! ```
//!
//! The forward pass keeps one number of a row, log(sum(e^s)), from which the
//! gradient makes p again: scores and probabilities stay where they are computed.
//! What is to be differentiated again is made of recorded operators.

mod cpu;
mod cuda;

use crate::autograd::{Backward, Gradients, Save, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::arithmetic::sum_to;
use crate::ops::half::{is_half, wide};
use crate::ops::matmul::{self, equal_floats};
use crate::ops::softmax;
use crate::profile;
use crate::shape::{Format, Layout, MAX_RANK, Shape};
use crate::tensor::Tensor;

const OP: &str = "attention";
/// All gradients at once, as costs and profiles call it.
const GRADIENT: &str = "attention_gradient";

/// softmax(scale q k^T + bias) v: q (.., M, D), k (.., N, D), v (.., N, E) ->
/// (.., M, E).
///
/// The bias broadcasts against the scores (.., M, N): one per head, shared by the
/// batch, or an identity. Leading axes broadcast as in [`ops::matmul`]. All is one
/// pass where q, k and v have the same leading axes, the bias has none beyond them
/// and no size is 0, on CUDA with up to 240 keys; else it is made of products and a
/// softmax.
///
/// # Errors
/// Shapes that do not fit, several dtypes.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: Option<&Tensor>,
    scale: f64,
) -> Result<Tensor> {
    let inputs = checked([q, k, v], bias)?;
    let Some(problem) = Problem::new([q, k, v], bias, scale)? else {
        return Ok(in_parts([q, k, v], bias, scale)?.0);
    };
    let (out, log_sums) = problem.forward(Beside::LogSums)?;
    let biased = bias.is_some();
    Ok(record(OP, &inputs, out, Save::ALL, move |b| {
        let (q, k, v) = (b.input(0)?, b.input(1)?, b.input(2)?);
        let bias = biased.then(|| b.input(3)).transpose()?;
        if b.create_graph {
            return recorded_gradients(b, [&q, &k, &v], bias.as_ref(), scale);
        }
        let problem = Problem::new([&q, &k, &v], bias.as_ref(), scale)?;
        let problem = problem.ok_or_else(|| Error::op(OP, "internal: another problem"))?;
        let (of, ds) = problem.backward(&b.grad, &log_sums, b.wants(3))?;
        let mut gradients: Gradients = of.map(Some).into();
        if let Some(bias) = &bias {
            let sum = |ds: Tensor| ops::cast(&sum_to(&ds, bias.shape())?, bias.dtype());
            gradients.push(ds.map(sum).transpose()?);
        }
        Ok(gradients)
    }))
}

/// [`attention`] and the probabilities (.., M, N), softmax(scale q k^T + bias),
/// both with gradients, which are those of a product and a softmax.
///
/// # Errors
/// As [`attention`].
pub fn attention_with_weights(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: Option<&Tensor>,
    scale: f64,
) -> Result<(Tensor, Tensor)> {
    checked([q, k, v], bias)?;
    let Some(problem) = Problem::new([q, k, v], bias, scale)? else {
        return in_parts([q, k, v], bias, scale);
    };
    let (out, weights) = problem.forward(Beside::Weights)?;
    let mut inputs = vec![q, k];
    inputs.extend(bias);
    let save = Save::ALL.and_output();
    let weights = record(OP, &inputs, weights, save, move |b| {
        let (weights, grad) = (wide(&b.output()?)?, wide(&b.grad)?);
        let ds = softmax::gradient(&grad, &weights, b.create_graph)?;
        let [dq, dk, dbias] = from_scores(b, &ds, [&b.input(0)?, &b.input(1)?], 2, scale)?;
        Ok(vec![dq, dk, dbias])
    });
    let out = matmul::recorded(&weights, v, out);
    Ok((out, weights))
}

/// The operands, if they fit.
fn checked<'a>(of: [&'a Tensor; 3], bias: Option<&'a Tensor>) -> Result<Vec<&'a Tensor>> {
    let [q, k, v] = of;
    let mut inputs = of.to_vec();
    inputs.extend(bias);
    let last = |t: &Tensor, i: usize| t.rank().checked_sub(i).map(|at| t.shape()[at]);
    let known = of.iter().all(|t| t.rank() >= 2);
    if !known || last(q, 1) != last(k, 1) || last(k, 2) != last(v, 2) {
        let expected = "q (.., M, D), k (.., N, D), v (.., N, E)";
        return Err(Error::shape(OP, &of.map(Tensor::shape), expected));
    }
    let scores = [last(q, 2), last(k, 2)].map(|n| n.unwrap_or(0));
    let broadcast = |t: &Tensor| Shape::broadcast(OP, t.shape(), &scores);
    if let Some(bias) = bias
        && !broadcast(bias).is_ok_and(|s| s.ends_with(&scores))
    {
        let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
        let expected = format!("a bias that broadcasts against {scores:?}, queries and keys");
        return Err(Error::shape(OP, &shapes, expected));
    }
    equal_floats(OP, &inputs)?;
    Ok(inputs)
}

/// What is computed in the forward pass beside the result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// log(sum(e^s)) of each row, (.., M), in the dtype of the arithmetic.
    LogSums,
    /// The probabilities, (.., M, N).
    Weights,
}

/// Those of q, k and v, and that of the scores.
type AllGradients = ([Tensor; 3], Option<Tensor>);

/// Attention with equal leading axes, of sizes that are not 0.
struct Problem {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// Its last two axes are those of the scores, row-major; the leading ones
    /// broadcast.
    bias: Option<Tensor>,
    scale: f64,
    /// The leading axes.
    batch: Shape,
    queries: usize,
    keys: usize,
    /// Of queries and keys.
    depth: usize,
    /// Of values.
    width: usize,
}

impl Problem {
    /// `None` where it takes operators of its parts.
    fn new(of: [&Tensor; 3], bias: Option<&Tensor>, scale: f64) -> Result<Option<Self>> {
        let axes = of[0].rank() - 2;
        let batch = &of[0].shape()[..axes];
        let [q, k, v] = of.map(Tensor::detach);
        let (queries, keys) = (q.shape()[axes], k.shape()[k.rank() - 2]);
        let (depth, width) = (q.shape()[axes + 1], v.shape()[v.rank() - 1]);
        let alike = of
            .iter()
            .all(|t| t.rank() == axes + 2 && &t.shape()[..axes] == batch);
        let within = bias.is_none_or(|b| {
            let own = b.rank().saturating_sub(2);
            let against = batch.iter().rev();
            let mut pairs = b.shape()[..own].iter().rev().zip(against);
            own <= axes && pairs.all(|(&b, &size)| b == 1 || b == size)
        });
        let none = batch.contains(&0) || [queries, keys, depth, width].contains(&0);
        let held = match q.device() {
            Device::Cpu => true,
            Device::Cuda(_) => keys <= cuda::MOST_KEYS,
        };
        if !alike || !within || none || !held {
            return Ok(None);
        }
        let rows = |bias: &Tensor| -> Result<Tensor> {
            let own = bias.rank().saturating_sub(2);
            let mut dims = [0; MAX_RANK];
            dims[..own].copy_from_slice(&bias.shape()[..own]);
            dims[own..own + 2].copy_from_slice(&[queries, keys]);
            ops::broadcast_to(&bias.detach(), &dims[..own + 2])?.to_format(Format::Contiguous)
        };
        Ok(Some(Self {
            batch: Shape::new(batch)?,
            bias: bias.map(rows).transpose()?,
            q,
            k,
            v,
            scale,
            queries,
            keys,
            depth,
            width,
        }))
    }

    /// A row-major layout of the batch's axes and these.
    fn layout(&self, own: &[usize]) -> Result<Layout> {
        let mut dims = self.batch.to_vec();
        dims.extend(own);
        Ok(Layout::contiguous(Shape::new(&dims)?))
    }

    /// The bias with strides for all axes of the batch.
    fn bias_layout(&self) -> Result<Option<Layout>> {
        let shape = *self.layout(&[self.queries, self.keys])?.shape();
        let bias = self.bias.as_ref();
        Ok(bias.map(|b| b.layout().broadcast_to(shape)))
    }

    fn operands(&self) -> Vec<&Tensor> {
        let mut all = vec![&self.q, &self.k, &self.v];
        all.extend(&self.bias);
        all
    }

    /// The result, and what is asked for beside it.
    fn forward(&self, beside: Beside) -> Result<(Tensor, Tensor)> {
        profile::call(OP, &self.operands(), || match self.q.device() {
            Device::Cpu => cpu::forward(self, beside),
            Device::Cuda(_) => cuda::forward(self, beside),
        })
    }

    /// Gradients of q, k and v, and that of the scores if it is `wanted`.
    fn backward(&self, g: &Tensor, log_sums: &Tensor, wanted: bool) -> Result<AllGradients> {
        match self.q.device() {
            Device::Cpu => {
                let mut read = self.operands();
                read.extend([g, log_sums]);
                profile::call(GRADIENT, &read, || cpu::backward(self, g, log_sums, wanted))
            }
            Device::Cuda(_) => cuda::backward(self, g, log_sums, wanted),
        }
    }
}

/// Probabilities made of recorded operators; those of bf16 and f16 in f32.
fn weights_in_parts([q, k]: [&Tensor; 2], bias: Option<&Tensor>, scale: f64) -> Result<Tensor> {
    // q is smaller than the scores.
    let scaled = ops::affine(q, scale, 0.0)?;
    let to = if is_half(q) { DType::F32 } else { q.dtype() };
    let mut scores = ops::matmul_to(&scaled, &ops::transpose(k, -1, -2)?, to)?;
    if let Some(bias) = bias {
        scores = ops::add(&scores, &wide(bias)?)?;
    }
    ops::softmax(&scores, -1)
}

/// Result and probabilities, made of recorded operators.
fn in_parts(
    [q, k, v]: [&Tensor; 3],
    bias: Option<&Tensor>,
    scale: f64,
) -> Result<(Tensor, Tensor)> {
    let weights = ops::cast(&weights_in_parts([q, k], bias, scale)?, q.dtype())?;
    Ok((ops::matmul(&weights, v)?, weights))
}

/// Gradients that can be differentiated again.
fn recorded_gradients(
    b: &Backward,
    [q, k, v]: [&Tensor; 3],
    bias: Option<&Tensor>,
    scale: f64,
) -> Result<Gradients> {
    let p = weights_in_parts([q, k], bias, scale)?;
    let dv = b.when(2, || {
        ops::matmul(
            &ops::transpose(&ops::cast(&p, v.dtype())?, -1, -2)?,
            &b.grad,
        )
    })?;
    let dp = ops::matmul_to(&b.grad, &ops::transpose(v, -1, -2)?, p.dtype())?;
    let ds = softmax::gradient(&dp, &p, true)?;
    let [dq, dk, dbias] = from_scores(b, &ds, [q, k], 3, scale)?;
    let mut gradients = vec![dq, dk, dv];
    gradients.extend(bias.map(|_| dbias));
    Ok(gradients)
}

/// Gradients of q, k and the bias, which is input number `bias`, if there is one,
/// from that of the scores.
fn from_scores(
    b: &Backward,
    ds: &Tensor,
    [q, k]: [&Tensor; 2],
    bias: usize,
    scale: f64,
) -> Result<[Option<Tensor>; 3]> {
    let scaled = ops::cast(&ops::affine(ds, scale, 0.0)?, q.dtype())?;
    Ok([
        b.when(0, || ops::matmul(&scaled, k))?,
        b.when(1, || ops::matmul(&ops::transpose(&scaled, -1, -2)?, q))?,
        b.when(bias, || {
            ops::cast(&sum_to(ds, b.input(bias)?.shape())?, q.dtype())
        })?,
    ])
}
