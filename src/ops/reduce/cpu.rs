//! Sums accumulate in f64 over blocks that depend on the shape alone, so the
//! result does not depend on the number of threads.

use rayon::prelude::*;

use crate::device::cpu;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, widened};
use crate::ops::vector::vectorised;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

pub(super) fn sum(x: &Tensor, reduced: &[usize], kept: &[usize]) -> Result<Tensor> {
    if is_half(x) {
        return widened([x], |[x]| sum(x, reduced, kept));
    }
    match x.dtype() {
        DType::F32 => sum_of::<f32>(x, reduced, kept),
        DType::F64 => sum_of::<f64>(x, reduced, kept),
        other => Err(Error::dtype("sum", &[other], "a float is needed")),
    }
}

/// The operand as `outer x rows x inner` with the middle one reduced, and the
/// layout of the result.
pub(super) fn folded(
    x: &Tensor,
    reduced: &[usize],
    kept: &[usize],
) -> Result<(Tensor, [usize; 3], Layout)> {
    let out = Shape::new(kept)?;
    let order = x.layout().physical_order();
    if x.layout().is_dense() {
        // In physical order, are the reduced axes one run?
        let flags: Vec<bool> = order
            .iter()
            .filter(|&&i| x.shape()[i] != 1)
            .map(|i| reduced.contains(i))
            .collect();
        let runs = flags.windows(2).filter(|w| w[0] != w[1]).count();
        let leading = flags.first().copied().unwrap_or(true);
        if runs <= 1 || (runs == 2 && !leading) {
            let mut sizes = [1; 3];
            let mut part = 0;
            for &i in &order {
                if x.shape()[i] == 1 {
                    continue;
                }
                match (part, reduced.contains(&i)) {
                    (0, true) => part = 1,
                    (1, false) => part = 2,
                    _ => {}
                }
                sizes[part] *= x.shape()[i];
            }
            // The kept axes keep their physical order.
            let mut strides_like = Layout::contiguous(out);
            if x.layout().is_channels_last() && !x.layout().is_contiguous() {
                strides_like = Layout::new(out, Format::ChannelsLast)?;
            } else if !x.layout().is_contiguous() {
                return rows_last(x, reduced, out);
            }
            return Ok((x.detach(), sizes, strides_like));
        }
    }
    rows_last(x, reduced, out)
}

fn rows_last(x: &Tensor, reduced: &[usize], out: Shape) -> Result<(Tensor, [usize; 3], Layout)> {
    let rows = super::as_rows(&x.detach(), reduced)?.to_format(Format::Contiguous)?;
    let sizes = [rows.shape()[0], rows.shape()[1], 1];
    Ok((rows, sizes, Layout::contiguous(out)))
}

fn sum_of<T: Float>(x: &Tensor, reduced: &[usize], kept: &[usize]) -> Result<Tensor> {
    if x.elements() == 0 {
        return Ok(Tensor::build(
            Layout::contiguous(Shape::new(kept)?),
            |_: &mut [T]| {},
        ));
    }
    let (x, [_, rows, inner], layout) = folded(x, reduced, kept)?;
    let x = x.dense_slice::<T>("sum")?;
    let block = (cpu::GRAIN / inner).max(1);
    Ok(Tensor::build(layout, |out: &mut [T]| {
        if rows <= 2 * block {
            cpu::for_chunks(out, inner, &|start, chunk| {
                let mut sums = vec![0.0; inner];
                for (i, o) in chunk.chunks_mut(inner).enumerate() {
                    let first = (start + i * inner) * rows;
                    sums.fill(0.0);
                    add_rows(&x[first..first + rows * inner], &mut sums);
                    o.iter_mut()
                        .zip(&sums)
                        .for_each(|(o, &s)| *o = T::from_f64(s));
                }
            });
            return;
        }
        for (i, o) in out.chunks_mut(inner).enumerate() {
            let part = &x[i * rows * inner..(i + 1) * rows * inner];
            if block == 1 {
                // Few long rows: each thread has columns of all, added in the same order.
                cpu::for_chunks(o, 1, &|first, o| {
                    let mut sums = vec![0.0; o.len()];
                    for row in part.chunks_exact(inner) {
                        add_rows(&row[first..first + o.len()], &mut sums);
                    }
                    let pairs = o.iter_mut().zip(&sums);
                    pairs.for_each(|(o, &s)| *o = T::from_f64(s));
                });
                continue;
            }
            let partial: Vec<Vec<f64>> = part
                .par_chunks(block * inner)
                .map(|b| {
                    let mut sums = vec![0.0; inner];
                    add_rows(b, &mut sums);
                    sums
                })
                .collect();
            for (j, o) in o.iter_mut().enumerate() {
                *o = T::from_f64(partial.iter().map(|p| p[j]).sum());
            }
        }
    }))
}

vectorised! {
    /// Adds each row of `x` to `sums`.
    fn add_rows<T: Float>(x: &[T], sums: &mut [f64]) {
        if let [total] = sums {
            // Eight lanes, so that the additions do not wait for each other.
            let mut lanes = [0.0f64; 8];
            let chunks = x.chunks_exact(8);
            let rest: f64 = chunks.remainder().iter().map(|v| v.to_f64()).sum();
            for c in chunks {
                for (lane, v) in lanes.iter_mut().zip(c) {
                    *lane += v.to_f64();
                }
            }
            *total += lanes.iter().sum::<f64>() + rest;
            return;
        }
        for row in x.chunks_exact(sums.len()) {
            for (s, v) in sums.iter_mut().zip(row) {
                *s += v.to_f64();
            }
        }
    }
}

pub(super) fn argmax(rows: &Tensor) -> Result<Tensor> {
    fn run<T: Float>(rows: &Tensor) -> Result<Tensor> {
        let rows = rows.to_format(Format::Contiguous)?;
        let columns = rows.shape()[1];
        let x = rows.dense_slice::<T>("argmax")?;
        let layout = Layout::contiguous(Shape::new(&[rows.shape()[0]])?);
        Ok(Tensor::build(layout, |out: &mut [i64]| {
            cpu::for_chunks(out, 1, &|start, chunk| {
                for (i, o) in chunk.iter_mut().enumerate() {
                    let row = &x[(start + i) * columns..(start + i + 1) * columns];
                    let mut best = 0;
                    for (j, &v) in row.iter().enumerate() {
                        if v > row[best] || (v.is_nan() && !row[best].is_nan()) {
                            best = j;
                        }
                    }
                    *o = best as i64;
                }
            });
        }))
    }
    match rows.dtype() {
        DType::F32 => run::<f32>(rows),
        DType::F64 => run::<f64>(rows),
        _ => {
            let wide = crate::ops::layout::cpu::cast(rows, DType::F32)?;
            run::<f32>(&wide)
        }
    }
}
