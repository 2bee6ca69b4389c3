use super::Taps;
use crate::device::cpu;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, widened};
use crate::ops::images::{Images, format_of};
use crate::tensor::Tensor;

pub(crate) fn separable(op: &'static str, x: &Tensor, maps: &[Taps; 2]) -> Result<Tensor> {
    if is_half(x) {
        return widened([x], |[x]| separable(op, x, maps));
    }
    match x.dtype() {
        DType::F32 => run::<f32>(op, x, maps),
        DType::F64 => run::<f64>(op, x, maps),
        other => Err(Error::dtype(op, &[other], "a float is needed")),
    }
}

/// Row by row of the result: the weighted sum of the input's rows, then that of
/// its columns, each over contiguous runs.
fn run<T: Float>(op: &'static str, x: &Tensor, [rows, columns]: &[Taps; 2]) -> Result<Tensor> {
    let images = Images::of(x, format_of(x))?;
    let from = images.tensor.dense_slice::<T>(op)?;
    let (h, c) = (images.h, images.c);
    let line = images.w * c;
    let (high, wide) = (rows.outputs(), columns.outputs() * images.c);
    let columns: Vec<Vec<(usize, T)>> = (0..columns.outputs())
        .map(|o| weighted(columns.row(o)).collect())
        .collect();
    let layout = images.resized([high, columns.len()])?;
    Ok(Tensor::build(layout, |out: &mut [T]| {
        cpu::for_chunks(out, wide, &|start, chunk| {
            let mut sum = vec![T::ZERO; line];
            for (i, out) in chunk.chunks_mut(wide).enumerate() {
                let at = start / wide + i;
                let image = &from[at / high * h * line..][..h * line];
                let row = weighted::<T>(rows.row(at % high));
                combine(&mut sum, row.map(|(y, t)| (&image[y * line..][..line], t)));
                for (pixel, column) in out.chunks_mut(c).zip(&columns) {
                    let column = column.iter();
                    if let [value] = pixel {
                        // -0 is the sum of nothing that leaves every number,
                        // -0 included, as it is.
                        *value = match column.len() {
                            0 => T::ZERO,
                            _ => column.fold(-T::ZERO, |all, &(x, t)| all + t * sum[x]),
                        };
                    } else {
                        combine(pixel, column.map(|&(x, t)| (&sum[x * c..][..c], t)));
                    }
                }
            }
        });
    }))
}

fn weighted<T: Float>(taps: &[(usize, f64)]) -> impl Iterator<Item = (usize, T)> {
    taps.iter().map(|&(i, weight)| (i, T::from_f64(weight)))
}

/// The weighted sum of runs, zeros if there is none.
fn combine<'a, T: Float>(out: &mut [T], runs: impl Iterator<Item = (&'a [T], T)>) {
    let mut first = true;
    for (run, weight) in runs {
        let pairs = out.iter_mut().zip(run);
        if first {
            pairs.for_each(|(o, &v)| *o = weight * v);
        } else {
            pairs.for_each(|(o, &v)| *o += weight * v);
        }
        first = false;
    }
    if first {
        out.fill(T::ZERO);
    }
}
