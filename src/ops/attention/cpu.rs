//! A task is one head of one sample, or rows of it: its scores stay in the cache
//! between the two products. What a row comes to does not depend on which rows
//! share its block, nor on the other samples.

use rayon::prelude::*;

use super::{Beside, OP, Place, Places, Problem};
use crate::device::cpu::Parts;
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops::half::is_half;
use crate::ops::layout::cpu::cast;
use crate::ops::matmul::cpu::blocked::{Matrix, Product};
use crate::ops::normalise::wide;
use crate::ops::vector::{exp, largest, sum_pairs, vectorised};
use crate::shape::{Format, Layout};
use crate::tensor::Tensor;

/// Rows of a block: with 200 keys their scores take 75 KiB, and a product copies
/// its right matrix once for them.
const ROWS: usize = 96;

/// The result, as the tensor that `to` is in, and what is asked for beside it.
pub(super) fn forward(problem: &Problem, beside: Beside, to: &Place) -> Result<(Tensor, Tensor)> {
    let dtype = problem.q.dtype();
    if is_half(&problem.q) {
        let (out, second) = forward(&problem.widened()?, beside, to)?;
        let second = match beside {
            Beside::LogSums => second,
            Beside::Weights => cast(&second, dtype)?,
        };
        return Ok((cast(&out, dtype)?, second));
    }
    match dtype {
        DType::F64 => forward_of::<f64>(problem, beside, to),
        _ => forward_of::<f32>(problem, beside, to),
    }
}

/// Gradients of q, k and v, as the tensors that `to` has them in, and that of the
/// scores if it is `wanted`.
pub(super) fn backward(
    problem: &Problem,
    g: &Tensor,
    log_sums: &Tensor,
    wanted: bool,
    to: &Places,
) -> Result<(Vec<Tensor>, Option<Tensor>)> {
    let dtype = problem.q.dtype();
    if is_half(&problem.q) {
        // That of the scores is summed before it is rounded.
        let (all, ds) = backward(&problem.widened()?, &wide(g)?, log_sums, wanted, to)?;
        let narrow = all.iter().map(|t| cast(t, dtype));
        return Ok((narrow.collect::<Result<_>>()?, ds));
    }
    match dtype {
        DType::F64 => backward_of::<f64>(problem, g, log_sums, wanted, to),
        _ => backward_of::<f32>(problem, g, log_sums, wanted, to),
    }
}

impl Problem {
    fn widened(&self) -> Result<Self> {
        Ok(Self {
            q: wide(&self.q)?,
            k: wide(&self.k)?,
            v: wide(&self.v)?,
            bias: self.bias.as_ref().map(wide).transpose()?,
            ..*self
        })
    }
}

/// The elements of a problem, and where those of each of its matrices lie.
struct Heads<'a, T> {
    q: (&'a [T], &'a Layout),
    k: (&'a [T], &'a Layout),
    v: (&'a [T], &'a Layout),
    bias: Option<(&'a [T], Layout)>,
    scale: T,
    keys: usize,
    depth: usize,
}

/// Matrix `i` of those of an operand.
fn matrix<'a, T>((all, layout): (&'a [T], &Layout), i: usize) -> (&'a [T], Matrix) {
    (all, Matrix::of(layout, i))
}

/// Rows of a matrix from `row` on.
fn rows_from<T>((all, at): (&[T], Matrix), row: usize) -> (&[T], Matrix) {
    let start = at.start + row * at.row;
    (all, Matrix { start, ..at })
}

/// A matrix as its transpose.
fn turned<T>((all, at): (&[T], Matrix)) -> (&[T], Matrix) {
    let (row, column) = (at.column, at.row);
    (all, Matrix { row, column, ..at })
}

impl<'a, T: Float> Heads<'a, T> {
    fn new(problem: &'a Problem) -> Result<Self> {
        let of = |t: &'a Tensor| Ok((t.elements_of::<T>(OP)?, t.layout()));
        let bias = match (&problem.bias, problem.bias_layout()?) {
            (Some(bias), Some(layout)) => Some((bias.elements_of::<T>(OP)?, layout)),
            _ => None,
        };
        Ok(Self {
            q: of(&problem.q)?,
            k: of(&problem.k)?,
            v: of(&problem.v)?,
            bias,
            scale: T::from_f64(problem.scale),
            keys: problem.keys,
            depth: problem.depth,
        })
    }

    /// q k^T of `rows` rows of matrix `i` from `row` on.
    fn products(&self, i: usize, row: usize, rows: usize, out: &mut [T]) {
        let product = Product {
            sizes: [rows, self.depth, self.keys],
            a: rows_from(matrix(self.q, i), row),
            b: turned(matrix(self.k, i)),
            accumulate: false,
            finish: None,
        };
        product.run_here(out, self.keys);
    }

    /// The bias of rows of matrix `i` from `row` on, empty if there is none.
    fn bias(&self, i: usize, row: usize, rows: usize) -> &[T] {
        let Some((all, layout)) = &self.bias else {
            return &[];
        };
        let start = Matrix::of(layout, i).start + row * self.keys;
        &all[start..start + rows * self.keys]
    }
}

/// The matrices of a result. Of each a task has some rows alone.
struct Written<'a, T> {
    all: Parts<'a, T>,
    layout: &'a Layout,
}

impl<'a, T: Float> Written<'a, T> {
    fn to(all: &'a mut [T], layout: &'a Layout) -> Self {
        let all = Parts::of(all);
        Self { all, layout }
    }

    /// Lets `f` write `rows` rows of matrix `i` from `row` on, side by side: into
    /// their place if they lie so there, else into memory of its own, from which they
    /// are copied while they are in cache.
    ///
    /// # Safety
    /// Nobody else has these rows meanwhile, and no two matrices share an element.
    unsafe fn rows<R>(
        &self,
        i: usize,
        row: usize,
        rows: usize,
        f: impl FnOnce(&mut [T]) -> R,
    ) -> R {
        let at = Matrix::of(self.layout, i);
        let columns = self.layout.shape()[self.layout.shape().len() - 1];
        let start = at.start + row * at.row;
        if at.row == columns {
            // SAFETY: the rows are the caller's alone.
            return f(unsafe { self.all.part(start, rows * columns) });
        }
        let mut own = vec![T::ZERO; rows * columns];
        let result = f(&mut own);
        for (j, from) in own.chunks_exact(columns).enumerate() {
            // SAFETY: as above.
            let to = unsafe { self.all.part(start + j * at.row, columns) };
            to.copy_from_slice(from);
        }
        result
    }
}

fn forward_of<T: Float>(problem: &Problem, beside: Beside, to: &Place) -> Result<(Tensor, Tensor)> {
    let heads = Heads::<T>::new(problem)?;
    let (queries, keys, width) = (problem.queries, problem.keys, problem.width);
    let kept = match beside {
        Beside::LogSums => 1,
        Beside::Weights => keys,
    };
    let block = |i: usize, row: usize, out: &mut [T], second: &mut [T]| {
        let rows = out.len() / width;
        let (mut own_scores, mut own_sums);
        let (scores, log_sums) = match beside {
            Beside::LogSums => {
                own_scores = vec![T::ZERO; rows * keys];
                (&mut own_scores[..], second)
            }
            Beside::Weights => {
                own_sums = vec![T::ZERO; rows];
                (second, &mut own_sums[..])
            }
        };
        heads.products(i, row, rows, scores);
        softmax_rows(heads.scale, heads.bias(i, row, rows), scores, log_sums);
        let product = Product {
            sizes: [rows, keys, width],
            a: (scores, Matrix::rows_of(0, keys)),
            b: matrix(heads.v, i),
            accumulate: false,
            finish: None,
        };
        product.run_here(out, width);
    };
    let shape = match beside {
        Beside::LogSums => problem.layout(&[queries])?,
        Beside::Weights => problem.layout(&[queries, keys])?,
    };
    let mut out = unwritten::<T>(Layout::contiguous(to.whole));
    let mut second = unwritten::<T>(shape);
    let written = Written::to(out.dense_mut::<T>(OP)?, &to.part);
    let matrices = second.dense_mut::<T>(OP)?.par_chunks_mut(queries * kept);
    matrices.enumerate().for_each(|(i, second)| {
        let blocks = second.par_chunks_mut(ROWS * kept);
        blocks.enumerate().for_each(|(j, second)| {
            let (row, rows) = (j * ROWS, second.len() / kept);
            // SAFETY: this task has the block of rows alone; heads are disjoint.
            unsafe { written.rows(i, row, rows, |out| block(i, row, out, second)) };
        });
    });
    Ok((out, second))
}

/// A tensor that is about to be written as a whole.
fn unwritten<T: Float>(layout: Layout) -> Tensor {
    Tensor::build_unwritten(layout, |_: &mut [T]| ())
}

vectorised! {
    /// Products to probabilities, and log(sum(e^s)) of each row.
    fn softmax_rows<T: Float>(scale: T, bias: &[T], scores: &mut [T], log_sums: &mut [T]) {
        let keys = scores.len() / log_sums.len();
        for (i, (row, log_sum)) in scores.chunks_exact_mut(keys).zip(log_sums).enumerate() {
            scale_and_add(scale, bias, i, row);
            let top = largest(row);
            row.iter_mut().for_each(|s| *s = exp(*s - top));
            let total = sum_pairs(row, row, |e, _| e);
            let part = T::from_f64(1.0 / total);
            row.iter_mut().for_each(|s| *s = *s * part);
            *log_sum = top + T::from_f64(total.ln());
        }
    }
}

/// Products of row `i` to scores.
#[inline(always)]
fn scale_and_add<T: Float>(scale: T, bias: &[T], i: usize, row: &mut [T]) {
    match bias {
        [] => row.iter_mut().for_each(|s| *s = *s * scale),
        bias => {
            let bias = &bias[i * row.len()..][..row.len()];
            row.iter_mut()
                .zip(bias)
                .for_each(|(s, &b)| *s = *s * scale + b);
        }
    }
}

fn backward_of<T: Float>(
    problem: &Problem,
    g: &Tensor,
    log_sums: &Tensor,
    wanted: bool,
    to: &Places,
) -> Result<(Vec<Tensor>, Option<Tensor>)> {
    let heads = Heads::<T>::new(problem)?;
    let (queries, keys) = (problem.queries, problem.keys);
    let g = (g.elements_of::<T>(OP)?, g.layout());
    let log_sums = log_sums.to_format(Format::Contiguous)?;
    let log_sums = log_sums.dense_slice::<T>(OP)?;

    let wholes = to
        .wholes
        .iter()
        .map(|&s| unwritten::<T>(Layout::contiguous(s)));
    let mut wholes: Vec<Tensor> = wholes.collect();
    let mut ds = match wanted {
        true => Some(unwritten::<T>(problem.layout(&[queries, keys])?)),
        false => None,
    };
    let matrices = problem.batch.elements();
    let mut kept: Vec<Option<&mut [T]>> = match &mut ds {
        Some(ds) => {
            let all = ds.dense_mut::<T>(OP)?.chunks_mut(queries * keys);
            all.map(Some).collect()
        }
        None => (0..matrices).map(|_| None).collect(),
    };
    let parts = wholes
        .iter_mut()
        .map(|t| Ok(Parts::of(t.dense_mut::<T>(OP)?)));
    let parts: Vec<Parts<T>> = parts.collect::<Result<_>>()?;
    let [dq, dk, dv] = [0, 1, 2].map(|i| {
        let (whole, layout) = &to.parts[i];
        let all = parts[*whole];
        Written { all, layout }
    });
    kept.par_iter_mut().enumerate().for_each(|(i, ds)| {
        // SAFETY: this task has matrix i of each alone; q, k, v and heads are disjoint.
        unsafe {
            dk.rows(i, 0, keys, |dk| {
                dv.rows(i, 0, keys, |dv| {
                    for row in (0..queries).step_by(ROWS) {
                        let rows = ROWS.min(queries - row);
                        let block = (i, row, rows);
                        let ds = ds.as_mut().map(|ds| &mut ds[row * keys..][..rows * keys]);
                        let log_sums = &log_sums[i * queries + row..][..rows];
                        dq.rows(i, row, rows, |dq| {
                            heads.gradients(block, (g, log_sums), (dq, dk, dv), ds);
                        });
                    }
                });
            });
        }
    });
    Ok((wholes, ds))
}

impl<T: Float> Heads<'_, T> {
    /// Of `rows` rows of matrix `i` from `row` on: their dq, what they add to dk and
    /// dv, which the first rows begin, and that of their scores.
    fn gradients(
        &self,
        (i, row, rows): (usize, usize, usize),
        (g, log_sums): ((&[T], &Layout), &[T]),
        (dq, dk, dv): (&mut [T], &mut [T], &mut [T]),
        ds: Option<&mut [T]>,
    ) {
        let (keys, depth, width) = (self.keys, self.depth, dv.len() / self.keys);
        let (mut p, mut dp) = (vec![T::ZERO; rows * keys], vec![T::ZERO; rows * keys]);
        let g = rows_from(matrix(g, i), row);
        self.products(i, row, rows, &mut p);
        let product = Product {
            sizes: [rows, width, keys],
            a: g,
            b: turned(matrix(self.v, i)),
            accumulate: false,
            finish: None,
        };
        product.run_here(&mut dp, keys);
        let bias = self.bias(i, row, rows);
        gradient_rows(self.scale, bias, log_sums, &mut p, &mut dp);
        if let Some(ds) = ds {
            ds.copy_from_slice(&dp);
        }
        dp.iter_mut().for_each(|d| *d = *d * self.scale);
        let (p, ds) = (
            (&p[..], Matrix::rows_of(0, keys)),
            (&dp[..], Matrix::rows_of(0, keys)),
        );
        let q = rows_from(matrix(self.q, i), row);
        for (sizes, a, b, accumulate, out) in [
            ([rows, keys, depth], ds, matrix(self.k, i), false, dq),
            ([keys, rows, depth], turned(ds), q, row > 0, dk),
            ([keys, rows, width], turned(p), g, row > 0, dv),
        ] {
            let product = Product {
                sizes,
                a,
                b,
                accumulate,
                finish: None,
            };
            product.run_here(out, sizes[2]);
        }
    }
}

vectorised! {
    /// Products to probabilities, and in `dp` their gradient to that of the scores.
    fn gradient_rows<T: Float>(
        scale: T,
        bias: &[T],
        log_sums: &[T],
        p: &mut [T],
        dp: &mut [T],
    ) {
        let keys = p.len() / log_sums.len();
        let rows = p.chunks_exact_mut(keys).zip(dp.chunks_exact_mut(keys));
        for (i, ((p, dp), &log_sum)) in rows.zip(log_sums).enumerate() {
            scale_and_add(scale, bias, i, p);
            p.iter_mut().for_each(|s| *s = exp(*s - log_sum));
            let inner = T::from_f64(sum_pairs(p, dp, |p, d| p * d));
            for (d, &p) in dp.iter_mut().zip(&*p) {
                *d = p * (*d - inner);
            }
        }
    }
}
