use crate::device::cpu;
use crate::device::cpu::Parts;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::half::is_half;
use crate::ops::layout::cpu::cast;
use crate::ops::normalise::{parameter, wide};
use crate::ops::vector::{sum_pairs, vectorised};
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

const OP: &str = "layer_norm";

/// The result, and mean and 1 / standard deviation of each row, (rows, 2), of x or of
/// its sum with `added`, which comes third.
pub(super) fn forward(
    x: &Tensor,
    added: Option<&Tensor>,
    parameters: &[usize],
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    let dtype = x.dtype();
    if let Some(added) = added.filter(|_| is_half(x)) {
        // The sum is rounded before it is normalised.
        let sum = ops::add(&x.detach(), &added.detach())?;
        let (y, statistics, _) = forward(&sum, None, parameters, weight, bias, eps)?;
        return Ok((y, statistics, Some(sum)));
    }
    let x = wide(x)?;
    let (y, statistics, sum) = match x.dtype() {
        DType::F32 => forward_of::<f32>(&x, added, parameters, weight, bias, eps)?,
        DType::F64 => forward_of::<f64>(&x, added, parameters, weight, bias, eps)?,
        other => return Err(Error::dtype(OP, &[other], "a float is needed")),
    };
    Ok((cast(&y, dtype)?, statistics, sum))
}

/// Gradients of x, to which `more` is added, weight and bias, in the dtype of the
/// arithmetic; empty ones of the last two where there is neither, which would be sums
/// over whole samples.
pub(super) fn backward(
    g: &Tensor,
    x: &Tensor,
    more: Option<&Tensor>,
    weight: Option<&Tensor>,
    parameters: (&[usize], bool),
    statistics: &Tensor,
) -> Result<[Tensor; 3]> {
    let (g, x) = (wide(g)?, wide(x)?);
    let more = more.map(wide).transpose()?;
    let of = (&g, &x, more.as_ref());
    match x.dtype() {
        DType::F64 => backward_of::<f64>(of, weight, parameters, statistics),
        _ => backward_of::<f32>(of, weight, parameters, statistics),
    }
}

/// Rows per task.
fn block(columns: usize) -> usize {
    (cpu::GRAIN / columns.max(1)).max(1)
}

fn forward_of<T: Float>(
    x: &Tensor,
    added: Option<&Tensor>,
    parameters: &[usize],
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    let columns: usize = parameters.iter().product();
    let rows = x.elements().checked_div(columns).unwrap_or(0);
    let x = x.to_format(Format::Contiguous)?;
    let xs = x.dense_slice::<T>(OP)?;
    let w = parameter(OP, weight, columns, T::ONE)?;
    let b = parameter(OP, bias, columns, T::ZERO)?;
    let mut statistics = vec![T::ZERO; 2 * rows];
    let block = block(columns);
    let added = added.map(|t| t.detach().to_format(Format::Contiguous));
    let added = added.transpose()?;
    let others = added.as_ref().map(|t| t.dense_slice::<T>(OP)).transpose()?;
    let layout = Layout::contiguous(*x.layout().shape());
    let nothing = |_: &mut [T]| ();
    let mut sum = others.map(|_| Tensor::build_unwritten(layout, nothing));
    let sums = sum.as_mut().map(|t| t.dense_mut::<T>(OP)).transpose()?;
    let sums = sums.map(Parts::of);
    let y = Tensor::build_unwritten(layout, |out: &mut [T]| {
        cpu::for_chunk_pairs(
            (out, block * columns),
            (&mut statistics, block * 2),
            &|i, out, statistics| {
                let at = i * block * columns;
                let x = &xs[at..][..out.len()];
                let x = match (&sums, others) {
                    (Some(sums), Some(others)) => {
                        // SAFETY: a task has the rows of its chunk alone.
                        let sum = unsafe { sums.part(at, out.len()) };
                        add_rows(x, &others[at..][..out.len()], sum);
                        &*sum
                    }
                    _ => x,
                };
                forward_rows(x, &w, &b, eps, out, statistics);
            },
        );
    });
    Ok((y, Tensor::from_slice(&statistics, &[rows, 2])?, sum))
}

vectorised! {
    fn add_to<T: Float>(more: &[T], sums: &mut [T]) {
        for (sum, &more) in sums.iter_mut().zip(more) {
            *sum += more;
        }
    }
}

vectorised! {
    fn add_rows<T: Float>(a: &[T], b: &[T], out: &mut [T]) {
        for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *o = a + b;
        }
    }
}

vectorised! {
    /// Two passes: the mean, then the variance of what is left without it.
    fn forward_rows<T: Float>(
        x: &[T],
        w: &[T],
        b: &[T],
        eps: f64,
        out: &mut [T],
        statistics: &mut [T],
    ) {
        let columns = w.len();
        let rows = x.chunks_exact(columns).zip(out.chunks_exact_mut(columns));
        for ((x, out), s) in rows.zip(statistics.chunks_exact_mut(2)) {
            let mean = T::from_f64(sum_pairs(x, x, |x, _| x) / columns as f64);
            let squares = sum_pairs(x, x, |x, _| (x - mean) * (x - mean));
            let scale = T::from_f64(1.0 / (squares / columns as f64 + eps).sqrt());
            for (((o, &x), &w), &b) in out.iter_mut().zip(x).zip(w).zip(b) {
                *o = (x - mean) * scale * w + b;
            }
            s.copy_from_slice(&[mean, scale]);
        }
    }
}

fn backward_of<T: Float>(
    (g, x, more): (&Tensor, &Tensor, Option<&Tensor>),
    weight: Option<&Tensor>,
    (parameters, wanted): (&[usize], bool),
    statistics: &Tensor,
) -> Result<[Tensor; 3]> {
    let columns: usize = parameters.iter().product();
    let (g, x) = (
        g.to_format(Format::Contiguous)?,
        x.to_format(Format::Contiguous)?,
    );
    let (gs, xs) = (g.dense_slice::<T>(OP)?, x.dense_slice::<T>(OP)?);
    let more = more.map(|t| t.detach().to_format(Format::Contiguous));
    let more = more.transpose()?;
    let more = more.as_ref().map(|t| t.dense_slice::<T>(OP)).transpose()?;
    let statistics = statistics.dense_slice::<T>(OP)?;
    let w = parameter(OP, weight, columns, T::ONE)?;
    let block = block(columns);
    let blocks = (statistics.len() / 2).div_ceil(block);
    // Per block, the sums over its rows for the weight and for the bias.
    let width = if wanted { columns } else { 1 };
    let mut sums = vec![0.0; blocks * 2 * width];
    let dx = Tensor::build_unwritten(Layout::contiguous(*x.layout().shape()), |dx: &mut [T]| {
        cpu::for_chunk_pairs(
            (dx, block * columns),
            (&mut sums, 2 * width),
            &|i, dx, sums| {
                let at = i * block * columns;
                let (g, x) = (&gs[at..][..dx.len()], &xs[at..][..dx.len()]);
                let statistics = &statistics[2 * i * block..];
                if wanted {
                    let (dw, db) = sums.split_at_mut(columns);
                    parameter_rows(g, x, columns, statistics, dw, db);
                }
                backward_rows(g, x, &w, statistics, dx);
                if let Some(more) = more {
                    add_to(&more[at..][..dx.len()], dx);
                }
            },
        );
    });
    let total = |first: usize| -> Result<Tensor> {
        if !wanted {
            return Tensor::zeros(&[0], T::DTYPE);
        }
        let layout = Layout::contiguous(Shape::new(parameters)?);
        Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
            for (j, o) in out.iter_mut().enumerate() {
                let parts = sums.chunks_exact(2 * columns).map(|s| s[first + j]);
                *o = T::from_f64(parts.sum());
            }
        }))
    };
    Ok([dx, total(0)?, total(columns)?])
}

vectorised! {
    /// The sums of g n and g over the rows, with n = (x - mean) s. A loop of its own: one
    /// that writes to three places has more pairs of places that might overlap than the
    /// compiler checks, and no vectors.
    fn parameter_rows<T: Float>(
        g: &[T],
        x: &[T],
        columns: usize,
        statistics: &[T],
        dw: &mut [f64],
        db: &mut [f64],
    ) {
        // Few enough rows that their sums may be kept in T.
        const GROUP: usize = 32;
        let group = GROUP * columns;
        let (mut w_part, mut b_part) = (vec![T::ZERO; columns], vec![T::ZERO; columns]);
        for ((g, x), s) in g.chunks(group).zip(x.chunks(group)).zip(statistics.chunks(2 * GROUP)) {
            w_part.fill(T::ZERO);
            b_part.fill(T::ZERO);
            let rows = g.chunks_exact(columns).zip(x.chunks_exact(columns));
            for ((g, x), s) in rows.zip(s.chunks_exact(2)) {
                let (mean, scale) = (s[0], s[1]);
                let parts = w_part.iter_mut().zip(&mut b_part);
                for ((dw, db), (&g, &x)) in parts.zip(g.iter().zip(x)) {
                    *dw += g * ((x - mean) * scale);
                    *db += g;
                }
            }
            for (sum, part) in dw.iter_mut().zip(&w_part).chain(db.iter_mut().zip(&b_part)) {
                *sum += part.to_f64();
            }
        }
    }
}

vectorised! {
    /// dx = (h - mean(h) - n mean(h n)) s with h = g w and n = (x - mean) s.
    fn backward_rows<T: Float>(g: &[T], x: &[T], w: &[T], statistics: &[T], dx: &mut [T]) {
        let columns = w.len();
        let rows = g.chunks_exact(columns).zip(x.chunks_exact(columns));
        let rows = rows.zip(dx.chunks_exact_mut(columns));
        for (((g, x), dx), s) in rows.zip(statistics.chunks_exact(2)) {
            let (mean, scale) = (s[0], s[1]);
            for ((dx, &g), &w) in dx.iter_mut().zip(g).zip(w) {
                *dx = g * w;
            }
            let n = columns as f64;
            let plain = T::from_f64(sum_pairs(dx, dx, |h, _| h) / n);
            let along = sum_pairs(dx, x, |h, x| h * ((x - mean) * scale));
            let along = T::from_f64(along / n);
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = (*dx - plain - (x - mean) * scale * along) * scale;
            }
        }
    }
}
