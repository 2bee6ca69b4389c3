use super::Windows;
use crate::device::cpu;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, widened};
use crate::ops::images::{Images, format_of};
use crate::tensor::Tensor;

const OP: &str = "max_pool2d";

fn unfit(dtype: DType) -> Error {
    Error::dtype(OP, &[dtype], "a float is needed")
}

/// Of two values the one that a maximum keeps; the first of equals or NaNs.
#[inline(always)]
fn beats<T: Float>(new: T, old: T) -> bool {
    new > old || (new.is_nan() && !old.is_nan())
}

/// Calls `f(window, output)` for each pixel of a chunk of outputs, the window
/// given as the flat places in its plane, row-major.
fn each_window<T>(
    [rows, columns]: [Windows; 2],
    c: usize,
    start: usize,
    chunk: &mut [T],
    f: &mut dyn FnMut(usize, &[usize], &mut [T]),
) {
    let mut window = Vec::new();
    for (i, pixel) in chunk.chunks_mut(c).enumerate() {
        let at = start / c + i;
        let (column, rest) = (at % columns.outputs, at / columns.outputs);
        let (row, image) = (rest % rows.outputs, rest / rows.outputs);
        window.clear();
        for y in rows.range(row) {
            window.extend(columns.range(column).map(|x| y * columns.inputs + x));
        }
        f(image * rows.inputs * columns.inputs, &window, pixel);
    }
}

pub(super) fn max(x: &Tensor, windows: [Windows; 2]) -> Result<Tensor> {
    fn run<T: Float>(x: &Tensor, windows: [Windows; 2]) -> Result<Tensor> {
        let images = Images::of(x, format_of(x))?;
        let from = images.tensor.dense_slice::<T>(OP)?;
        let c = images.c;
        let layout = images.resized(windows.map(|w| w.outputs))?;
        Ok(Tensor::build(layout, |out: &mut [T]| {
            cpu::for_chunks(out, c, &|start, chunk| {
                each_window(windows, c, start, chunk, &mut |plane, window, pixel| {
                    pixel.fill(T::NEG_INFINITY);
                    for place in window {
                        let j = (plane + place) * c;
                        for (o, &v) in pixel.iter_mut().zip(&from[j..j + c]) {
                            *o = if beats(v, *o) { v } else { *o };
                        }
                    }
                });
            });
        }))
    }
    if is_half(x) {
        return widened([x], |[x]| max(x, windows));
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x, windows),
        DType::F64 => run::<f64>(x, windows),
        other => Err(unfit(other)),
    }
}

/// The flat place of each window's first maximum in its plane, as i32.
pub(super) fn first_maximum(x: &Tensor, windows: [Windows; 2]) -> Result<Tensor> {
    fn run<T: Float>(x: &Tensor, windows: [Windows; 2]) -> Result<Tensor> {
        let images = Images::of(x, format_of(x))?;
        if i32::try_from(images.h * images.w).is_err() {
            let problem = "a plane of 2^31 pixels or more cannot be indexed";
            return Err(Error::shape(OP, &[x.shape()], problem));
        }
        let from = images.tensor.dense_slice::<T>(OP)?;
        let c = images.c;
        let layout = images.resized(windows.map(|w| w.outputs))?;
        Ok(Tensor::build(layout, |out: &mut [i32]| {
            cpu::for_chunks(out, c, &|start, chunk| {
                let mut best = vec![T::NEG_INFINITY; c];
                each_window(windows, c, start, chunk, &mut |plane, window, pixel| {
                    for (n, &place) in window.iter().enumerate() {
                        let j = (plane + place) * c;
                        let values = best.iter_mut().zip(&from[j..j + c]);
                        for (o, (best, &v)) in pixel.iter_mut().zip(values) {
                            if n == 0 || beats(v, *best) {
                                (*o, *best) = (place as i32, v);
                            }
                        }
                    }
                });
            });
        }))
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x, windows),
        DType::F64 => run::<f64>(x, windows),
        _ if is_half(x) => widened([x], |[x]| first_maximum(x, windows)),
        other => Err(unfit(other)),
    }
}

pub(super) fn pick(x: &Tensor, places: &Tensor) -> Result<Tensor> {
    fn run<T: Float>(x: &Tensor, places: &Tensor) -> Result<Tensor> {
        let images = Images::of(x, format_of(x))?;
        let places = Images::of(places, images.format)?;
        let from = images.tensor.dense_slice::<T>(OP)?;
        let at = places.tensor.dense_slice::<i32>(OP)?;
        let c = images.c;
        let (plane, picked) = (images.h * images.w * c, places.h * places.w * c);
        Ok(Tensor::build(
            images.resized([places.h, places.w])?,
            |out: &mut [T]| {
                cpu::for_chunks(out, 1, &|start, chunk| {
                    for (i, o) in chunk.iter_mut().enumerate() {
                        let flat = start + i;
                        *o = from[flat / picked * plane + at[flat] as usize * c + flat % c];
                    }
                });
            },
        ))
    }
    if is_half(x) {
        return widened([x], |[x]| pick(x, places));
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x, places),
        DType::F64 => run::<f64>(x, places),
        other => Err(unfit(other)),
    }
}

pub(super) fn put(y: &Tensor, places: &Tensor, size: [usize; 2]) -> Result<Tensor> {
    fn run<T: Float>(y: &Tensor, places: &Tensor, size: [usize; 2]) -> Result<Tensor> {
        let values = Images::of(y, format_of(y))?;
        let places = Images::of(places, values.format)?;
        let from = values.tensor.dense_slice::<T>(OP)?;
        let at = places.tensor.dense_slice::<i32>(OP)?;
        let c = values.c;
        let (plane, picked) = (size[0] * size[1] * c, places.h * places.w * c);
        Ok(Tensor::build(values.resized(size)?, |out: &mut [T]| {
            // Whole images per task, so that one thread owns each sum.
            cpu::for_chunks(out, plane, &|start, chunk| {
                for (i, sums) in chunk.chunks_mut(plane).enumerate() {
                    let first = (start / plane + i) * picked;
                    for j in first..first + picked {
                        sums[at[j] as usize * c + j % c] += from[j];
                    }
                }
            });
        }))
    }
    if is_half(y) {
        return widened([y], |[y]| put(y, places, size));
    }
    match y.dtype() {
        DType::F32 => run::<f32>(y, places, size),
        DType::F64 => run::<f64>(y, places, size),
        other => Err(unfit(other)),
    }
}
