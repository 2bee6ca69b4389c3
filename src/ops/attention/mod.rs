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
mod packed;

pub use packed::attention_packed;

use crate::autograd::{Gradients, Save, record};
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
    let (out, log_sums) = problem.forward(Beside::LogSums, &problem.place()?)?;
    let biased = bias.is_some();
    Ok(record(OP, &inputs, out, Save::ALL, move |b| {
        let (q, k, v) = (b.input(0)?, b.input(1)?, b.input(2)?);
        let bias = biased.then(|| b.input(3)).transpose()?;
        if b.create_graph {
            let wants = [0, 1, 2, 3].map(|i| b.wants(i));
            let of = recorded_gradients(&b.grad, [&q, &k, &v], bias.as_ref(), scale, wants)?;
            return Ok(of.into_iter().take(3 + usize::from(biased)).collect());
        }
        let problem = Problem::new([&q, &k, &v], bias.as_ref(), scale)?;
        let problem = problem.ok_or_else(another)?;
        let (of, ds) = problem.backward(&b.grad, &log_sums, b.wants(3), &problem.places()?)?;
        let mut gradients: Gradients = of.into_iter().map(Some).collect();
        if let Some(bias) = &bias {
            gradients.push(ds.map(|ds| of_bias(&ds, bias)).transpose()?);
        }
        Ok(gradients)
    }))
}

fn another() -> Error {
    Error::op(OP, "internal: another problem")
}

/// The bias' gradient from that of the scores.
fn of_bias(ds: &Tensor, bias: &Tensor) -> Result<Tensor> {
    ops::cast(&sum_to(ds, bias.shape())?, bias.dtype())
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
    let (out, weights) = problem.forward(Beside::Weights, &problem.place()?)?;
    let mut inputs = vec![q, k];
    inputs.extend(bias);
    let save = Save::ALL.and_output();
    let weights = record(OP, &inputs, weights, save, move |b| {
        let (weights, grad) = (wide(&b.output()?)?, wide(&b.grad)?);
        let ds = softmax::gradient(&grad, &weights, b.create_graph)?;
        let wants = [0, 1, 2].map(|i| b.wants(i));
        let bias = wants[2].then(|| b.input(2)).transpose()?;
        let (q, k) = (b.input(0)?, b.input(1)?);
        let of = from_scores(&ds, [&q, &k], bias.as_ref(), scale, wants)?;
        Ok(of.into())
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

/// Where a result lies: matrices of a part of a row-major tensor, each of whose rows
/// is in one piece.
struct Place {
    whole: Shape,
    part: Layout,
}

/// Where gradients lie: row-major tensors, and of q, k and v the number of one and a
/// part of it as in [`Place`].
struct Places {
    wholes: Vec<Shape>,
    parts: [(usize, Layout); 3],
}

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

    /// Results of their own for the result and for the gradients.
    fn place(&self) -> Result<Place> {
        let part = self.layout(&[self.queries, self.width])?;
        let whole = *part.shape();
        Ok(Place { whole, part })
    }

    fn places(&self) -> Result<Places> {
        let of = |t: &Tensor| Layout::contiguous(*t.layout().shape());
        let layouts = [&self.q, &self.k, &self.v].map(of);
        Ok(Places {
            wholes: layouts.iter().map(|l| *l.shape()).collect(),
            parts: [(0, layouts[0]), (1, layouts[1]), (2, layouts[2])],
        })
    }

    /// The result, as the tensor that `to` is in, and what is asked for beside it.
    fn forward(&self, beside: Beside, to: &Place) -> Result<(Tensor, Tensor)> {
        let (out, second) = profile::call(OP, &self.operands(), || {
            let (out, second) = match self.q.device() {
                Device::Cpu => cpu::forward(self, beside, to)?,
                Device::Cuda(_) => cuda::forward(self, beside, to)?,
            };
            // As matrices, which is how its cost is counted.
            Ok((out.with_layout(to.part), second))
        })?;
        Ok((out.with_layout(Layout::contiguous(to.whole)), second))
    }

    /// Gradients of q, k and v, as the tensors that `to` has them in, and that of the
    /// scores if it is `wanted`.
    fn backward(
        &self,
        g: &Tensor,
        log_sums: &Tensor,
        wanted: bool,
        to: &Places,
    ) -> Result<(Vec<Tensor>, Option<Tensor>)> {
        match self.q.device() {
            Device::Cpu => {
                let mut read = self.operands();
                read.extend([g, log_sums]);
                profile::call(GRADIENT, &read, || {
                    cpu::backward(self, g, log_sums, wanted, to)
                })
            }
            Device::Cuda(_) => cuda::backward(self, g, log_sums, wanted, to),
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

/// Gradients of q, k, v and the bias, those that are wanted, which can be
/// differentiated again.
fn recorded_gradients(
    g: &Tensor,
    [q, k, v]: [&Tensor; 3],
    bias: Option<&Tensor>,
    scale: f64,
    wants: [bool; 4],
) -> Result<[Option<Tensor>; 4]> {
    let p = weights_in_parts([q, k], bias, scale)?;
    let rounded = ops::cast(&p, v.dtype())?;
    let dv = || ops::matmul(&ops::transpose(&rounded, -1, -2)?, g);
    let dv = wants[2].then(dv).transpose()?;
    let dp = ops::matmul_to(g, &ops::transpose(v, -1, -2)?, p.dtype())?;
    let ds = softmax::gradient(&dp, &p, true)?;
    let [dq, dk, dbias] = from_scores(&ds, [q, k], bias, scale, [wants[0], wants[1], wants[3]])?;
    Ok([dq, dk, dv, dbias])
}

/// Gradients of q, k and the bias, those that are wanted, from that of the scores.
fn from_scores(
    ds: &Tensor,
    [q, k]: [&Tensor; 2],
    bias: Option<&Tensor>,
    scale: f64,
    wants: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let scaled = ops::cast(&ops::affine(ds, scale, 0.0)?, q.dtype())?;
    let dq = wants[0].then(|| ops::matmul(&scaled, k)).transpose()?;
    let dk = || ops::matmul(&ops::transpose(&scaled, -1, -2)?, q);
    let dk = wants[1].then(dk).transpose()?;
    let bias = bias.filter(|_| wants[2]);
    Ok([dq, dk, bias.map(|bias| of_bias(ds, bias)).transpose()?])
}
