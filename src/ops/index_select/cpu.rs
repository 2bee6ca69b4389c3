use crate::device::cpu;
use crate::dtype::{DType, Element, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, widened};
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// The index as places below `size`.
fn places(op: &'static str, index: &Tensor, size: usize) -> Result<Vec<usize>> {
    let index = index.to_vec::<i64>()?;
    let place = |i: i64| usize::try_from(i).ok().filter(|&p| p < size);
    index
        .into_iter()
        .map(|i| {
            let outside = || Error::op(op, format!("index {i} is outside an axis of {size}"));
            place(i).ok_or_else(outside)
        })
        .collect()
}

/// The layout of x with another size of one axis.
fn resized(x: &Tensor, axis: usize, size: usize) -> Result<Layout> {
    let mut dims = x.shape().to_vec();
    dims[axis] = size;
    Ok(Layout::contiguous(Shape::new(&dims)?))
}

pub(super) fn index_select(x: &Tensor, axis: usize, index: &Tensor) -> Result<Tensor> {
    fn run<T: Element>(x: &Tensor, axis: usize, index: &Tensor) -> Result<Tensor> {
        let size = x.shape()[axis];
        let places = places("index_select", index, size)?;
        let x = x.detach().to_format(Format::Contiguous)?;
        let from = x.dense_slice::<T>("index_select")?;
        let inner: usize = x.shape()[axis + 1..].iter().product();
        let picked = places.len();
        let layout = resized(&x, axis, picked)?;
        Ok(Tensor::build(layout, |out: &mut [T]| {
            cpu::for_chunks(out, inner, &|start, chunk| {
                for (i, run) in chunk.chunks_mut(inner).enumerate() {
                    let flat = start / inner + i;
                    let source = (flat / picked * size + places[flat % picked]) * inner;
                    run.copy_from_slice(&from[source..source + inner]);
                }
            });
        }))
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x, axis, index),
        DType::F64 => run::<f64>(x, axis, index),
        DType::F16 => run::<half::f16>(x, axis, index),
        DType::BF16 => run::<half::bf16>(x, axis, index),
        DType::I32 => run::<i32>(x, axis, index),
        DType::I64 => run::<i64>(x, axis, index),
        DType::U8 => run::<u8>(x, axis, index),
        DType::Bool => Err(Error::dtype(
            "index_select",
            &[DType::Bool],
            "a number is needed",
        )),
    }
}

pub(super) fn index_add(x: &Tensor, axis: usize, index: &Tensor, size: usize) -> Result<Tensor> {
    fn run<T: Float>(x: &Tensor, axis: usize, index: &Tensor, size: usize) -> Result<Tensor> {
        let places = places("index_add", index, size)?;
        let x = x.detach().to_format(Format::Contiguous)?;
        let from = x.dense_slice::<T>("index_add")?;
        let inner: usize = x.shape()[axis + 1..].iter().product();
        let picked = places.len();
        let layout = resized(&x, axis, size)?;
        // The sources of each place in ascending order, so that one task owns
        // each sum and its order is fixed.
        let mut sources: Vec<usize> = (0..picked).collect();
        sources.sort_by_key(|&i| places[i]);
        let mut starts = vec![0; size + 1];
        places.iter().for_each(|&p| starts[p + 1] += 1);
        (0..size).for_each(|p| starts[p + 1] += starts[p]);
        Ok(Tensor::build(layout, |out: &mut [T]| {
            cpu::for_chunks(out, inner, &|start, chunk| {
                for (i, sums) in chunk.chunks_mut(inner).enumerate() {
                    let flat = start / inner + i;
                    let (outer, place) = (flat / size, flat % size);
                    for &source in &sources[starts[place]..starts[place + 1]] {
                        let at = (outer * picked + source) * inner;
                        let values = &from[at..at + inner];
                        sums.iter_mut().zip(values).for_each(|(s, &v)| *s += v);
                    }
                }
            });
        }))
    }
    if is_half(x) {
        return widened([x], |[x]| index_add(x, axis, index, size));
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x, axis, index, size),
        DType::F64 => run::<f64>(x, axis, index, size),
        other => Err(Error::dtype("index_add", &[other], "a float is needed")),
    }
}
