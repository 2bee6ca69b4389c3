use super::Taps;
use crate::device::cpu;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, widened};
use crate::ops::images::{Images, format_of};
use crate::tensor::Tensor;

pub(super) fn separable(op: &'static str, x: &Tensor, maps: &[Taps; 2]) -> Result<Tensor> {
    if is_half(x) {
        return widened([x], |[x]| separable(op, x, maps));
    }
    match x.dtype() {
        DType::F32 => run::<f32>(op, x, maps),
        DType::F64 => run::<f64>(op, x, maps),
        other => Err(Error::dtype(op, &[other], "a float is needed")),
    }
}

fn run<T: Float>(op: &'static str, x: &Tensor, [rows, columns]: &[Taps; 2]) -> Result<Tensor> {
    let images = Images::of(x, format_of(x))?;
    let from = images.tensor.dense_slice::<T>(op)?;
    let (h, w, c) = (images.h, images.w, images.c);
    let (high, wide) = (rows.outputs(), columns.outputs());
    Ok(Tensor::build(
        images.resized([high, wide])?,
        |out: &mut [T]| {
            cpu::for_chunks(out, c, &|start, chunk| {
                for (i, pixel) in chunk.chunks_mut(c).enumerate() {
                    let at = start / c + i;
                    let (column, rest) = (columns.row(at % wide), at / wide);
                    let (row, image) = (rows.row(rest % high), rest / high);
                    let taps = row.iter().flat_map(|&(y, a)| {
                        let line = (image * h + y) * w;
                        column
                            .iter()
                            .map(move |&(x, b)| ((line + x) * c, T::from_f64(a * b)))
                    });
                    if let [value] = pixel {
                        // -0 is the sum of nothing that leaves every number,
                        // -0 included, as it is.
                        *value = taps.fold(-T::ZERO, |sum, (j, t)| sum + t * from[j]);
                        if row.is_empty() || column.is_empty() {
                            *value = T::ZERO;
                        }
                        continue;
                    }
                    for (n, (j, t)) in taps.enumerate() {
                        let source = pixel.iter_mut().zip(&from[j..j + c]);
                        if n == 0 {
                            source.for_each(|(o, &v)| *o = t * v);
                        } else {
                            source.for_each(|(o, &v)| *o += t * v);
                        }
                    }
                }
            });
        },
    ))
}
