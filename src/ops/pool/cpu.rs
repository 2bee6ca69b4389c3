use super::{ACTIVATED, Windows};
use crate::device::cpu;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, wide, widened};
use crate::ops::images::{Images, format_of};
use crate::ops::layout::cpu::cast;
use crate::ops::vector::vectorised;
use crate::shape::Format;
use crate::tensor::Tensor;

const OP: &str = "max_pool2d";

fn unfit(dtype: DType) -> Error {
    Error::dtype(OP, &[dtype], "a float is needed")
}

/// Whether a maximum goes over to a later value; it keeps the first of equals
/// and of NaNs. Without branches, so that loops over channels become vectors.
#[inline(always)]
fn beats<T: Float>(new: T, old: T) -> bool {
    (new > old) | (new.is_nan() & !old.is_nan())
}

vectorised! {
    /// The larger of each pair of elements.
    fn raise<T: Float>(out: &mut [T], by: &[T]) {
        for (o, &v) in out.iter_mut().zip(by) {
            *o = if beats(v, *o) { v } else { *o };
        }
    }
}

vectorised! {
    /// Goes over to `values` and their place where they beat the best so far.
    fn keep_first_maximum<T: Float>(values: &[T], place: i32, best: &mut [T], at: &mut [i32]) {
        for ((at, best), &v) in at.iter_mut().zip(best).zip(values) {
            let better = beats(v, *best);
            *at = if better { place } else { *at };
            *best = if better { v } else { *best };
        }
    }
}

vectorised! {
    /// Adds relu(scale x + shift) to each element.
    fn add_activated<T: Float>(sums: &mut [T], x: &[T], scale: &[T], shift: &[T]) {
        for (((sum, &x), &scale), &shift) in sums.iter_mut().zip(x).zip(scale).zip(shift) {
            let v = x * scale + shift;
            *sum += if v > T::ZERO { v } else { v * T::ZERO };
        }
    }
}

pub(super) fn activated_mean(
    x: &Tensor,
    numbers: [&Tensor; 2],
    windows: [Windows; 2],
    to: DType,
) -> Result<Tensor> {
    fn run<T: Float>(
        x: &Tensor,
        numbers: [&Tensor; 2],
        [rows, columns]: [Windows; 2],
    ) -> Result<Tensor> {
        let images = Images::of(x, Format::ChannelsLast)?;
        let from = images.tensor.dense_slice::<T>(ACTIVATED)?;
        let scale = numbers[0].dense_slice::<T>(ACTIVATED)?;
        let shift = numbers[1].dense_slice::<T>(ACTIVATED)?;
        let c = images.c;
        let layout = images.resized([rows.outputs, columns.outputs])?;
        let pixels = T::from_f64((rows.kernel * columns.kernel) as f64);
        Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
            cpu::for_chunks(out, c, &|start, chunk| {
                for (i, sums) in chunk.chunks_mut(c).enumerate() {
                    let at = start / c + i;
                    let (across, rest) = (at % columns.outputs, at / columns.outputs);
                    let (down, image) = (rest % rows.outputs, rest / rows.outputs);
                    sums.fill(T::ZERO);
                    for row in rows.range(down) {
                        let line = (image * rows.inputs + row) * columns.inputs;
                        for column in columns.range(across) {
                            let pixel = &from[(line + column) * c..][..c];
                            add_activated(sums, pixel, scale, shift);
                        }
                    }
                    sums.iter_mut().for_each(|sum| *sum = *sum / pixels);
                }
            });
        }))
    }
    let y = match x.dtype() {
        DType::F64 => run::<f64>(x, numbers, windows)?,
        _ => run::<f32>(&wide(x)?, numbers, windows)?,
    };
    cast(&y, to)
}

pub(super) fn max(x: &Tensor, windows: [Windows; 2]) -> Result<Tensor> {
    fn run<T: Float>(x: &Tensor, windows: [Windows; 2]) -> Result<Tensor> {
        let images = Images::of(x, format_of(x))?;
        let from = images.tensor.dense_slice::<T>(OP)?;
        let c = images.c;
        let [rows, columns] = windows;
        let (line, wide) = (columns.inputs * c, columns.outputs * c);
        let layout = images.resized(windows.map(|w| w.outputs))?;
        Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
            // Per row of the result, the maximum of its input rows, then of
            // that row's columns.
            cpu::for_chunks(out, wide, &|start, chunk| {
                let mut highest = vec![T::NEG_INFINITY; line];
                for (i, out) in chunk.chunks_mut(wide).enumerate() {
                    let at = start / wide + i;
                    let image = at / rows.outputs * rows.inputs;
                    highest.fill(T::NEG_INFINITY);
                    for y in rows.range(at % rows.outputs) {
                        raise(&mut highest, &from[(image + y) * line..][..line]);
                    }
                    for (x, pixel) in out.chunks_mut(c).enumerate() {
                        pixel.fill(T::NEG_INFINITY);
                        for x in columns.range(x) {
                            raise(pixel, &highest[x * c..][..c]);
                        }
                    }
                }
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
        let [rows, columns] = windows;
        let plane = images.h * images.w;
        let layout = images.resized(windows.map(|w| w.outputs))?;
        Ok(Tensor::build_unwritten(layout, |out: &mut [i32]| {
            cpu::for_chunks(out, c, &|start, chunk| {
                let mut best = vec![T::NEG_INFINITY; c];
                for (i, pixel) in chunk.chunks_mut(c).enumerate() {
                    let at = start / c + i;
                    let (x, rest) = (at % columns.outputs, at / columns.outputs);
                    let (y, image) = (rest % rows.outputs, rest / rows.outputs);
                    let (down, across) = (rows.range(y), columns.range(x));
                    // The window's own first place, for when nothing in it is
                    // above minus infinity.
                    pixel.fill((down.start * columns.inputs + across.start) as i32);
                    best.fill(T::NEG_INFINITY);
                    for y in down {
                        for x in across.clone() {
                            let place = y * columns.inputs + x;
                            let values = &from[(image * plane + place) * c..][..c];
                            keep_first_maximum(values, place as i32, &mut best, pixel);
                        }
                    }
                }
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
        let (plane, picked) = (images.h * images.w * c, places.h * places.w);
        Ok(Tensor::build_unwritten(
            images.resized([places.h, places.w])?,
            |out: &mut [T]| {
                cpu::for_chunks(out, c, &|start, chunk| {
                    let places = at[start..].chunks(c);
                    for (i, (pixel, places)) in chunk.chunks_mut(c).zip(places).enumerate() {
                        let image = (start / c + i) / picked * plane;
                        let values = &from[image..image + plane];
                        for (k, (o, &place)) in pixel.iter_mut().zip(places).enumerate() {
                            *o = values[place as usize * c + k];
                        }
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
                    let values = from[first..first + picked].chunks(c);
                    for (values, places) in values.zip(at[first..].chunks(c)) {
                        for (k, (&v, &place)) in values.iter().zip(places).enumerate() {
                            sums[place as usize * c + k] += v;
                        }
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
