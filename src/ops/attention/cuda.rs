//! Launches of kernels/attention.cu.

use bytemuck::{Pod, Zeroable};

use super::{Beside, GRADIENT, OP, Place, Places, Problem};
use crate::device::cuda::{Address, count, device_of, f32_only, kernels};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops;
use crate::ops::matmul;
use crate::ops::matmul::tensor_cores::{self, Operand};
use crate::profile;
use crate::shape::{Format, Layout};
use crate::tensor::Tensor;

/// Keys whose scores with a tile of queries fit into shared memory, twice.
pub(super) const MOST_KEYS: usize = 240;
/// Queries of a tile.
const QUERIES: usize = 64;

/// A mirror of `AttentionProblem` in kernels/attention.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    q: Operand,
    k: Operand,
    v: Operand,
    bias: Operand,
    batch: [u32; 4],
    queries: u32,
    keys: u32,
    depth: u32,
    width: u32,
    pitch: u32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
    of: Params,
    out: Operand,
    log_sums: Address,
    weights: Address,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    of: Params,
    g: Operand,
    log_sums: Address,
    dq: Address,
    p: Address,
    ds: Address,
    /// Of ds as it is written.
    ds_scale: f32,
    padding: u32,
}

/// A mirror of `AttentionHeadBackward` in kernels/attention.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct HeadBackward {
    of: Params,
    g: Operand,
    dq: Operand,
    dk: Operand,
    dv: Operand,
    log_sums: Address,
}

impl Params {
    fn new(problem: &Problem) -> Result<Self> {
        let of = |t: &Tensor| Operand::by_rows(OP, t.address(OP)?, t.layout());
        let bias = match (&problem.bias, problem.bias_layout()?) {
            (Some(bias), Some(layout)) => Operand::by_rows(OP, bias.address(OP)?, &layout)?,
            _ => Operand::default(),
        };
        let mut batch = [1; 4];
        let axes = problem.batch.len();
        for (to, &size) in batch[4 - axes..].iter_mut().zip(problem.batch.iter()) {
            *to = count(OP, size)?;
        }
        // Rows that follow each other start half of the banks apart.
        let pitch = problem.keys.div_ceil(16) | 1;
        Ok(Self {
            q: of(&problem.q)?,
            k: of(&problem.k)?,
            v: of(&problem.v)?,
            bias,
            batch,
            queries: count(OP, problem.queries)?,
            keys: count(OP, problem.keys)?,
            depth: count(OP, problem.depth)?,
            width: count(OP, problem.width)?,
            pitch: count(OP, 16 * pitch)?,
            scale: problem.scale as f32,
        })
    }

    /// Bytes of `tiles` tiles of scores, and of panels for the tensor cores.
    fn shared(&self, tiles: usize, dtype: DType) -> usize {
        let panels = match dtype {
            DType::F32 => 0,
            _ => tensor_cores::panels([QUERIES, 64]),
        };
        panels + tiles * QUERIES * self.pitch as usize * size_of::<f32>()
    }
}

impl Problem {
    /// Whether [`backward`] writes rows that lie apart: where a block has a whole head.
    pub(super) fn has_whole_heads(&self, wanted: bool) -> bool {
        self.queries <= QUERIES && self.keys <= QUERIES && !wanted
    }

    /// A block for each tile of queries.
    fn grid(&self) -> [usize; 3] {
        let tiles = self.queries.div_ceil(QUERIES);
        [self.batch.elements() * tiles, 1, 1]
    }
}

/// Result or gradient, where it is to lie in `whole`.
fn place(whole: &Tensor, part: &Layout) -> Result<Operand> {
    let part = whole.with_layout(*part);
    Operand::by_rows(OP, part.address(OP)?, part.layout())
}

pub(super) fn forward(problem: &Problem, beside: Beside, to: &Place) -> Result<(Tensor, Tensor)> {
    let operands = problem.operands();
    let device = device_of(OP, &operands)?;
    let dtype = problem.q.dtype();
    let kernel = match dtype {
        DType::BF16 => &kernels::EOSIN_ATTENTION_FORWARD_BF16,
        DType::F16 => &kernels::EOSIN_ATTENTION_FORWARD_F16,
        _ => {
            f32_only(OP, &operands)?;
            &kernels::EOSIN_ATTENTION_FORWARD_F32
        }
    };
    let (queries, keys) = (problem.queries, problem.keys);
    let out = device.empty(Layout::contiguous(to.whole), dtype)?;
    let second = match beside {
        Beside::LogSums => device.empty(problem.layout(&[queries])?, DType::F32)?,
        Beside::Weights => device.empty(problem.layout(&[queries, keys])?, dtype)?,
    };
    let (log_sums, weights) = match beside {
        Beside::LogSums => (second.address(OP)?, Address::default()),
        Beside::Weights => (Address::default(), second.address(OP)?),
    };
    let params = Forward {
        of: Params::new(problem)?,
        out: place(&out, &to.part)?,
        log_sums,
        weights,
    };
    let shared = params.of.shared(1, dtype);
    device.launch(kernel, problem.grid(), shared, &params)?;
    Ok((out, second))
}

/// Gradients of q, k and v, and that of the scores if it is `wanted`. Unless
/// [`Problem::has_whole_heads`], `to` must have each row-major in a tensor of its own.
pub(super) fn backward(
    problem: &Problem,
    g: &Tensor,
    log_sums: &Tensor,
    wanted: bool,
    to: &Places,
) -> Result<(Vec<Tensor>, Option<Tensor>)> {
    let mut operands = problem.operands();
    operands.extend([g, log_sums]);
    let device = device_of(OP, &operands)?;
    let dtype = problem.q.dtype();
    let whole_heads = problem.has_whole_heads(wanted);
    let kernel = match (dtype, whole_heads) {
        (DType::BF16, false) => &kernels::EOSIN_ATTENTION_BACKWARD_BF16,
        (DType::F16, false) => &kernels::EOSIN_ATTENTION_BACKWARD_F16,
        (DType::BF16, true) => &kernels::EOSIN_ATTENTION_BACKWARD_HEAD_BF16,
        (DType::F16, true) => &kernels::EOSIN_ATTENTION_BACKWARD_HEAD_F16,
        _ => {
            f32_only(OP, &operands)?;
            match whole_heads {
                false => &kernels::EOSIN_ATTENTION_BACKWARD_F32,
                true => &kernels::EOSIN_ATTENTION_BACKWARD_HEAD_F32,
            }
        }
    };
    let log_sums = log_sums.to_format(Format::Contiguous)?;
    let of_g = Operand::by_rows(OP, g.address(OP)?, g.layout())?;
    if whole_heads {
        let wholes = profile::call(GRADIENT, &operands, || {
            let wholes = to.wholes.iter();
            let wholes = wholes.map(|&shape| device.empty(Layout::contiguous(shape), dtype));
            let wholes: Vec<Tensor> = wholes.collect::<Result<_>>()?;
            let part = |i: usize| {
                let (whole, part) = &to.parts[i];
                place(&wholes[*whole], part)
            };
            let params = HeadBackward {
                of: Params::new(problem)?,
                g: of_g,
                dq: part(0)?,
                dk: part(1)?,
                dv: part(2)?,
                log_sums: log_sums.address(OP)?,
            };
            let shared = params.of.shared(2, dtype);
            device.launch(kernel, problem.grid(), shared, &params)?;
            Ok(wholes)
        })?;
        return Ok((wholes, None));
    }
    let scores = problem.layout(&[problem.queries, problem.keys])?;
    let [dq, dk, dv, ds] = profile::call(GRADIENT, &operands, || {
        let dq = device.empty(problem.layout(&[problem.queries, problem.depth])?, dtype)?;
        let p = device.empty(scores, dtype)?;
        let ds = device.empty(scores, dtype)?;
        let params = Backward {
            of: Params::new(problem)?,
            g: of_g,
            log_sums: log_sums.address(OP)?,
            dq: dq.address(OP)?,
            p: p.address(OP)?,
            ds: ds.address(OP)?,
            ds_scale: if wanted { 1.0 } else { problem.scale as f32 },
            padding: 0,
        };
        let shared = params.of.shared(2, dtype);
        device.launch(kernel, problem.grid(), shared, &params)?;
        let sum = |scores: &Tensor, rows: &Tensor| {
            let columns = ops::transpose(scores, -1, -2)?;
            matmul::cuda::matmul(&columns, rows, &problem.batch, dtype)
        };
        Ok([dq, sum(&ds, &problem.q)?, sum(&p, g)?, ds])
    })?;
    Ok(match wanted {
        true => {
            let dk = ops::affine(&dk, problem.scale, 0.0)?;
            (vec![dq, dk, dv], Some(ds))
        }
        false => (vec![dq, dk, dv], None),
    })
}
