//! Attention whose heads lie side by side, as linear layers make them, so that nothing
//! is moved before it or after it.

use super::{Beside, another};
use super::{OP, Place, Places, Problem, attention, of_bias, recorded_gradients};
use crate::autograd::{Gradients, Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::matmul::equal_floats;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// [`attention`] of heads that lie side by side in what linear layers make, E being
/// the width of all heads together: `[qkv]` (B, N, 3 E), `[q, kv]` (B, M, E) and (B,
/// N, 2 E), or `[q, k, v]` (B, M, E) and twice (B, N, E) -> (B, M, E), each of them by
/// heads. The bias broadcasts against the scores (B, heads, M, N).
///
/// Everything is read where it lies, and the result and the gradients are written as
/// what is read lies; on CUDA gradients too if there are up to 64 queries and keys and
/// the bias wants none. Where [`attention`] is not one pass, this is made of views
/// and it.
///
/// # Errors
/// Shapes that do not fit, heads that do not divide E, several dtypes.
pub fn attention_packed(
    packed: &[&Tensor],
    heads: usize,
    bias: Option<&Tensor>,
    scale: f64,
) -> Result<Tensor> {
    let Some(packing) = Packing::new(packed, heads) else {
        let shapes: Vec<&[usize]> = packed.iter().map(|t| t.shape()).collect();
        let expected = format!(
            "qkv (B, N, 3 E), or q (B, M, E) and kv (B, N, 2 E), or q (B, M, E), k and v \
             (B, N, E), with an E that {heads} heads divide"
        );
        return Err(Error::shape(OP, &shapes, expected));
    };
    let mut inputs = packed.to_vec();
    inputs.extend(bias);
    equal_floats(OP, &inputs)?;
    let plain = |t: &&Tensor| t.detach().to_format(Format::Contiguous);
    let plain: Vec<Tensor> = packed.iter().map(plain).collect::<Result<_>>()?;
    let [q, k, v] = packing.views(&plain.iter().collect::<Vec<_>>())?;
    super::checked([&q, &k, &v], bias)?;
    let Some(problem) = Problem::new([&q, &k, &v], bias, scale)? else {
        let [q, k, v] = packing.views(packed)?;
        return joined(&attention(&q, &k, &v, bias, scale)?);
    };
    let (out, log_sums) = problem.forward(Beside::LogSums, &packing.place()?)?;
    let (tensors, biased) = (packed.len(), bias.is_some());
    Ok(record(OP, &inputs, out, Save::ALL, move |b| {
        let packed = (0..tensors).map(|i| b.input(i));
        let packed: Vec<Tensor> = packed.collect::<Result<_>>()?;
        let bias = biased.then(|| b.input(tensors)).transpose()?;
        let wanted = b.wants(tensors);
        let g = by_heads(&b.grad, heads)?;
        let views = |of: &[Tensor]| packing.views(&of.iter().collect::<Vec<_>>());
        if b.create_graph {
            let [q, k, v] = views(&packed)?;
            let wants = [true, true, true, wanted];
            let of = recorded_gradients(&g, [&q, &k, &v], bias.as_ref(), scale, wants)?;
            let [dq, dk, dv, dbias] = of;
            let parts = [dq, dk, dv].into_iter().flatten().collect::<Vec<_>>();
            let mut gradients = packing.packed(&parts)?;
            gradients.extend(biased.then_some(dbias));
            return Ok(gradients);
        }
        let plain = (packed.iter()).map(|t| t.detach().to_format(Format::Contiguous));
        let plain: Vec<Tensor> = plain.collect::<Result<_>>()?;
        let [q, k, v] = views(&plain)?;
        let problem = Problem::new([&q, &k, &v], bias.as_ref(), scale)?;
        let problem = problem.ok_or_else(another)?;
        let g = g.detach();
        let in_place = match g.device() {
            Device::Cpu => true,
            Device::Cuda(_) => problem.has_whole_heads(wanted),
        };
        let to = match in_place {
            true => packing.places()?,
            false => problem.places()?,
        };
        let (of, ds) = problem.backward(&g, &log_sums, wanted, &to)?;
        let mut gradients = match in_place {
            true => of.into_iter().map(Some).collect(),
            false => packing.packed(&of)?,
        };
        if let Some(bias) = &bias {
            gradients.push(ds.map(|ds| of_bias(&ds, bias)).transpose()?);
        }
        Ok(gradients)
    }))
}

/// How q, k and v lie in one, two or three tensors.
#[derive(Clone, Copy)]
struct Packing {
    tensors: usize,
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    /// E / heads
    depth: usize,
}

impl Packing {
    /// `None` if the shapes are others.
    fn new(packed: &[&Tensor], heads: usize) -> Option<Self> {
        let tensors = packed.len();
        let &[batch, queries, all] = packed.first()?.shape() else {
            return None;
        };
        let width = if tensors == 1 { all / 3 } else { all };
        let of = |i: usize| [batch, if i == 0 { queries } else { keys_of(packed) }];
        let fits = (packed.iter().enumerate()).all(|(i, t)| {
            let [batch, rows] = of(i);
            t.shape() == [batch, rows, width * parts_in(tensors, i).len()]
        });
        let whole = heads > 0 && width.is_multiple_of(heads) && (1..=3).contains(&tensors);
        (fits && whole).then(|| Self {
            tensors,
            batch,
            queries,
            keys: keys_of(packed),
            heads,
            depth: width / heads,
        })
    }

    fn rows(&self, tensor: usize) -> usize {
        if tensor == 0 { self.queries } else { self.keys }
    }

    /// q, k and v as views (B, heads, rows, E / heads), recorded as what is given is.
    fn views(&self, packed: &[&Tensor]) -> Result<[Tensor; 3]> {
        let mut all = Vec::with_capacity(3);
        for (i, t) in packed.iter().enumerate() {
            let parts = parts_in(self.tensors, i).len();
            // Axes are split before anything is turned: only so it is a view.
            let sizes = [self.batch, self.rows(i), parts, self.heads, self.depth];
            let turned = ops::permute(&ops::reshape(t, &sizes)?, &[2, 0, 3, 1, 4])?;
            for j in 0..parts {
                let one = ops::slice(&turned, 0, j, 1)?;
                all.push(ops::reshape(&one, &turned.shape()[1..])?);
            }
        }
        all.try_into()
            .map_err(|_| Error::op(OP, "internal: another packing"))
    }

    /// Where the result lies.
    fn place(&self) -> Result<Place> {
        let whole = Shape::new(&[self.batch, self.queries, self.heads * self.depth])?;
        let part = self.layout(0, 1, 0)?;
        Ok(Place { whole, part })
    }

    /// Where the gradients lie: where q, k and v do.
    fn places(&self) -> Result<Places> {
        let (mut wholes, mut parts) = (Vec::with_capacity(3), Vec::with_capacity(3));
        for i in 0..self.tensors {
            let count = parts_in(self.tensors, i).len();
            let width = count * self.heads * self.depth;
            wholes.push(Shape::new(&[self.batch, self.rows(i), width])?);
            for j in 0..count {
                parts.push((i, self.layout(i, count, j)?));
            }
        }
        let parts = parts
            .try_into()
            .map_err(|_| Error::op(OP, "internal: another packing"))?;
        Ok(Places { wholes, parts })
    }

    /// (B, heads, rows, E / heads) of part `j` of the `count` in a tensor.
    fn layout(&self, tensor: usize, count: usize, j: usize) -> Result<Layout> {
        let sizes = [self.batch, self.rows(tensor), count, self.heads, self.depth];
        let whole = Layout::contiguous(Shape::new(&sizes)?);
        let turned = whole.narrow(2, j, 1, 1).permute(&[2, 0, 3, 1, 4]);
        let shape = Shape::new(&turned.shape()[1..])?;
        let layout = turned.reshape(shape);
        layout.ok_or_else(|| Error::op(OP, "internal: an axis of size 1 stays"))
    }

    /// What is of q, k and v, (B, heads, rows, E / heads), as they are packed.
    fn packed(&self, of: &[Tensor]) -> Result<Gradients> {
        let joined = of.iter().map(joined).collect::<Result<Vec<_>>>()?;
        let tensor = |i: usize| match &joined[parts_in(self.tensors, i)] {
            [one] => Ok(Some(one.clone())),
            several => {
                let several: Vec<&Tensor> = several.iter().collect();
                ops::cat(&several, -1).map(Some)
            }
        };
        (0..self.tensors).map(tensor).collect()
    }
}

/// Which of q, k and v are in tensor `i` of one, two or three.
fn parts_in(tensors: usize, i: usize) -> std::ops::Range<usize> {
    match (tensors, i) {
        (1, _) => 0..3,
        (2, 1) => 1..3,
        _ => i..i + 1,
    }
}

/// Rows of the tensor that has the keys.
fn keys_of(packed: &[&Tensor]) -> usize {
    let with_keys = packed.get(1).or(packed.first());
    with_keys.and_then(|t| t.shape().get(1)).map_or(0, |&n| n)
}

/// (B, N, E) -> (B, heads, N, E / heads), a view of what is row-major.
fn by_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let &[b, n, e] = x.shape() else {
        return Err(Error::shape(OP, &[x.shape()], "a gradient (B, N, E)"));
    };
    ops::transpose(&ops::reshape(x, &[b, n, heads, e / heads])?, 1, 2)
}

/// (B, heads, N, D) -> (B, N, heads D).
fn joined(x: &Tensor) -> Result<Tensor> {
    let &[b, heads, n, d] = x.shape() else {
        return Err(Error::shape(OP, &[x.shape()], "(B, heads, N, D)"));
    };
    ops::reshape(&ops::transpose(x, 1, 2)?, &[b, n, heads * d])
}
