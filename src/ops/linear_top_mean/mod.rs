//! `linear_top_mean`: a linear layer on the tiles of a bag, and of each of its
//! outputs the mean over the k tiles that score highest for it.
//!
//! ```text
//! s[b, t, g] = bias[g] + sum_e x[b, t, e] w[g, e]
//! y[b, g] = (sum of the k highest of s[b, :, g]) / k
//! ```
//!
//! It is what `linear`, `topk` and `mean` compute, without the scores ever lying in
//! memory as a whole: 64 bags of 49 tiles and 31,793 genes have 100 million. What the
//! gradient needs of them is one bit each, whether the tile was chosen: with ds = dy
//! / k there and 0 elsewhere, dx = ds w, dw = ds^T x and dbias = sum of dy over the
//! bags. The choice is a constant to gradients of any order. At k = T there is none:
//! mean and layer are both linear, and the mean comes first.
//!
//! NaN is the highest score, -0 equals 0, and of equal scores that of the tile with
//! the lower index is chosen, as in [`ops::topk`].

mod cpu;
mod cuda;

use crate::autograd::{Backward, Gradients, Save, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::Activation;
use crate::ops::half::{is_half, wide};
use crate::ops::matmul::equal_floats;
use crate::profile;
use crate::tensor::Tensor;

const OP: &str = "linear_top_mean";
const EACH: &str = "linear_top_means";
/// Of the tiles, and of the weight, as costs and profiles call them.
const GRADIENT: &str = "linear_top_mean_gradient";
/// What is made of dy or of the bits for them.
const CHOSEN: &str = "linear_top_mean_chosen";

/// The most numbers of tiles that [`linear_top_means`] takes at once.
const MOST_KS: usize = 16;

/// x (B, T, E), w (G, E), bias (G) -> (B, G): of each output the mean over the `k`
/// tiles of a bag that score highest. The result of bf16 and f16 is f32.
///
/// Scores stay on chip on CUDA with up to 49 tiles; with more it is made of `linear`
/// and `topk` there.
///
/// # Errors
/// Shapes that do not fit, several dtypes, a `k` that is not in 1..=T.
pub fn linear_top_mean(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, k: usize) -> Result<Tensor> {
    let (inputs, [bags, tiles, genes]) = checked(OP, x, w, bias)?;
    check_k(OP, x, k)?;
    if k == tiles {
        let (mean, w) = (ops::mean(&wide(x)?, &[1], false)?, wide(w)?);
        let bias = bias.map(wide).transpose()?;
        return ops::linear(&mean, &w, bias.as_ref(), Activation::None);
    }
    if !in_one_pass(x, w) {
        let scores = wide(&ops::linear(x, w, bias, Activation::None)?)?;
        return ops::mean(&ops::topk(&scores, k, 1)?.0, &[1], false);
    }
    let keep = inputs.iter().any(|t| t.is_recorded());
    let ask = Ask {
        op: OP,
        ks: &[k],
        joined: true,
        keep,
    };
    let (y, chosen) = ask.forward(&inputs, x, w, bias)?;
    let y = ops::reshape(&y, &[bags, genes])?;
    let Some(chosen) = chosen else {
        return Ok(y);
    };
    let to_bias = bias.map(Tensor::dtype);
    Ok(record(OP, &inputs, y, Save::inputs(0b11), move |b| {
        let of = [b.input(0)?, b.input(1)?];
        let [dx, dw] = match b.create_graph {
            true => recorded_gradients(b, [&of[0], &of[1]], &chosen, k)?,
            false => gradients(b, [&of[0], &of[1]], &chosen, k)?,
        };
        let mut all: Gradients = vec![dx, dw];
        if let Some(dtype) = to_bias {
            // Each output has exactly k tiles, and so dy of each bag.
            all.push(b.when(2, || ops::cast(&ops::sum(&b.grad, &[0], false)?, dtype))?);
        }
        Ok(all)
    }))
}

/// [`linear_top_mean`] for each of `ks` from one order of the tiles, (B, ks, G), or
/// with `joined` the mean of these, (B, 1, G). For evaluation: there is no gradient,
/// and a recorded input is refused.
///
/// # Errors
/// Those of [`linear_top_mean`]; `ks` that do not ascend, or more than 16; a recorded
/// input.
pub fn linear_top_means(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    ks: &[usize],
    joined: bool,
) -> Result<Tensor> {
    let (inputs, [bags, _, genes]) = checked(EACH, x, w, bias)?;
    ks.iter().try_for_each(|&k| check_k(EACH, x, k))?;
    if ks.is_empty() || ks.len() > MOST_KS || ks.windows(2).any(|pair| pair[0] >= pair[1]) {
        let problem = format!("{ks:?}: give 1 to {MOST_KS} numbers of tiles that ascend");
        return Err(Error::op(EACH, problem));
    }
    if inputs.iter().any(|t| t.is_recorded()) {
        return Err(Error::NoGradient {
            op: EACH,
            reason: "it is for evaluation; linear_top_mean has one".into(),
        });
    }
    if in_one_pass(x, w) {
        let ask = Ask {
            op: EACH,
            ks,
            joined,
            keep: false,
        };
        return Ok(ask.forward(&inputs, x, w, bias)?.0);
    }
    let scores = wide(&ops::linear(x, w, bias, Activation::None)?)?;
    let (sorted, _) = ops::sort(&scores, 1, true)?;
    let mean = |&k: &usize| ops::mean(&ops::slice(&sorted, 1, 0, k)?, &[1], true);
    let means = ks.iter().map(mean).collect::<Result<Vec<_>>>()?;
    let means = ops::cat(&means.iter().collect::<Vec<_>>(), 1)?;
    match joined {
        true => ops::mean(&means, &[1], true),
        false => ops::reshape(&means, &[bags, ks.len(), genes]),
    }
}

/// The operands and (B, T, G), if they fit.
fn checked<'a>(
    op: &'static str,
    x: &'a Tensor,
    w: &'a Tensor,
    bias: Option<&'a Tensor>,
) -> Result<(Vec<&'a Tensor>, [usize; 3])> {
    let mut inputs = vec![x, w];
    inputs.extend(bias);
    let sizes = match (x.shape(), w.shape()) {
        (&[bags, tiles, e], &[genes, inner]) if e == inner => Some([bags, tiles, genes]),
        _ => None,
    };
    let fits = bias.is_none_or(|b| w.shape().get(..1) == Some(b.shape()));
    let Some(sizes) = sizes.filter(|_| fits) else {
        let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
        return Err(Error::shape(op, &shapes, "x (B, T, E), w (G, E), bias (G)"));
    };
    equal_floats(op, &inputs)?;
    Ok((inputs, sizes))
}

fn check_k(op: &'static str, x: &Tensor, k: usize) -> Result<()> {
    let tiles = x.shape()[1];
    if (1..=tiles).contains(&k) {
        return Ok(());
    }
    let problem = format!("a bag of {tiles} tiles has no {k} highest: give 1 to {tiles}");
    Err(Error::shape(op, &[x.shape()], problem))
}

/// Whether the device has it as one pass over these, rather than as its parts.
fn in_one_pass(x: &Tensor, w: &Tensor) -> bool {
    let held = match x.device() {
        Device::Cpu => true,
        Device::Cuda(_) => x.shape()[1] <= cuda::MOST_TILES,
    };
    held && x.elements() > 0 && w.elements() > 0
}

/// What a pass over the scores is to give.
struct Ask<'a> {
    op: &'static str,
    /// In ascending order.
    ks: &'a [usize],
    /// The mean of the means, rather than each.
    joined: bool,
    /// Whether the tiles that were chosen for the first k are wanted.
    keep: bool,
}

impl Ask<'_> {
    /// Means for each gene.
    fn outputs(&self) -> usize {
        if self.joined { 1 } else { self.ks.len() }
    }

    /// Means (B, outputs, G), and the tiles that were chosen: bit g % 32 of word g /
    /// 32 of a row of (B, T, words), i32.
    fn forward(
        &self,
        inputs: &[&Tensor],
        x: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        profile::call(self.op, inputs, || match x.device() {
            Device::Cpu => cpu::forward(self, x, w, bias),
            Device::Cuda(_) => cuda::forward(self, x, w, bias),
        })
    }
}

/// Words of a row of bits: whole blocks of 64 genes.
fn words(genes: usize) -> usize {
    genes.div_ceil(64) * 2
}

/// Which gradient.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Tokens,
    Weight,
}

/// Gradients of x and w.
fn gradients(
    b: &Backward,
    [x, w]: [&Tensor; 2],
    chosen: &Tensor,
    k: usize,
) -> Result<[Option<Tensor>; 2]> {
    // What every product of halves reads is made once.
    let scaled = match x.device() {
        Device::Cuda(_) if is_half(x) => {
            profile::call(CHOSEN, &[&b.grad], || cuda::scaled(&b.grad, x.dtype(), k))?
        }
        _ => b.grad.detach(),
    };
    let one = |of: Of| {
        let other = if of == Of::Tokens { w } else { x };
        profile::call(GRADIENT, &[&scaled, chosen, other], || match x.device() {
            Device::Cpu => cpu::gradient(of, &scaled, [x, w], chosen, k),
            Device::Cuda(_) => cuda::gradient(of, &scaled, [x, w], chosen, k),
        })
    };
    Ok([
        b.when(0, || one(Of::Tokens))?,
        b.when(1, || one(Of::Weight))?,
    ])
}

/// The same, made of recorded operators.
fn recorded_gradients(
    b: &Backward,
    [x, w]: [&Tensor; 2],
    chosen: &Tensor,
    k: usize,
) -> Result<[Option<Tensor>; 2]> {
    let (genes, e) = (w.shape()[0], w.shape()[1]);
    let [bags, tiles] = [x.shape()[0], x.shape()[1]];
    let bits = profile::call(CHOSEN, &[chosen], || match x.device() {
        Device::Cpu => cpu::dense(chosen, genes, b.grad.dtype()),
        Device::Cuda(_) => cuda::dense(chosen, genes),
    })?;
    let dy = ops::affine(&b.grad, 1.0 / k as f64, 0.0)?;
    let ds = ops::mul(&bits, &ops::reshape(&dy, &[bags, 1, genes])?)?;
    let ds = ops::reshape(&ops::cast(&ds, x.dtype())?, &[bags * tiles, genes])?;
    Ok([
        b.when(0, || ops::reshape(&ops::matmul(&ds, w)?, x.shape()))?,
        b.when(1, || {
            let rows = ops::reshape(x, &[bags * tiles, e])?;
            ops::matmul(&ops::transpose(&ds, 0, 1)?, &rows)
        })?,
    ])
}

/// The dtype of results.
fn result_dtype(x: &Tensor) -> DType {
    if is_half(x) { DType::F32 } else { x.dtype() }
}
