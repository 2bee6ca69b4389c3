use crate::device::cpu;
use crate::dtype::{DType, Element, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, widened};
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// Sizes before, on and after the axis.
fn parts(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (
        shape[..axis].iter().product(),
        shape[axis],
        shape[axis + 1..].iter().product(),
    )
}

fn checked(op: &'static str, index: &[i64], size: usize) -> Result<()> {
    match index.iter().find(|&&i| i < 0 || i as usize >= size) {
        Some(i) => Err(Error::op(
            op,
            format!("index {i} is outside an axis of {size}"),
        )),
        None => Ok(()),
    }
}

pub(super) fn gather(x: &Tensor, axis: usize, index: &Tensor) -> Result<Tensor> {
    fn run<T: Element>(x: &Tensor, axis: usize, index: &Tensor) -> Result<Tensor> {
        let x = x.detach().to_format(Format::Contiguous)?;
        let index = index.detach().to_format(Format::Contiguous)?;
        let (from, at) = (
            x.dense_slice::<T>("gather")?,
            index.dense_slice::<i64>("gather")?,
        );
        let (_, size, inner) = parts(x.shape(), axis);
        let picked = index.shape()[axis];
        checked("gather", at, size)?;
        Ok(Tensor::build(
            Layout::contiguous(*index.layout().shape()),
            |out: &mut [T]| {
                cpu::for_chunks(out, 1, &|start, chunk| {
                    for (i, o) in chunk.iter_mut().enumerate() {
                        let flat = start + i;
                        let (outer, column) = (flat / (picked * inner), flat % inner);
                        *o = from[(outer * size + at[flat] as usize) * inner + column];
                    }
                });
            },
        ))
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x, axis, index),
        DType::F64 => run::<f64>(x, axis, index),
        DType::F16 => run::<half::f16>(x, axis, index),
        DType::BF16 => run::<half::bf16>(x, axis, index),
        DType::I32 => run::<i32>(x, axis, index),
        DType::I64 => run::<i64>(x, axis, index),
        other => Err(Error::dtype("gather", &[other], "a number is needed")),
    }
}

pub(super) fn scatter_add(x: &Tensor, axis: usize, index: &Tensor, size: usize) -> Result<Tensor> {
    fn run<T: Float>(x: &Tensor, axis: usize, index: &Tensor, size: usize) -> Result<Tensor> {
        let x = x.detach().to_format(Format::Contiguous)?;
        let index = index.detach().to_format(Format::Contiguous)?;
        let op = "scatter_add";
        let (from, at) = (x.dense_slice::<T>(op)?, index.dense_slice::<i64>(op)?);
        let (_, picked, inner) = parts(x.shape(), axis);
        checked(op, at, size)?;
        let mut dims = x.shape().to_vec();
        dims[axis] = size;
        let layout = Layout::contiguous(Shape::new(&dims)?);
        let block = size * inner;
        Ok(Tensor::build(layout, |out: &mut [T]| {
            if block == 0 {
                return;
            }
            // Whole blocks per task, so that one thread owns each sum.
            cpu::for_chunks(out, block, &|start, chunk| {
                for (i, sums) in chunk.chunks_mut(block).enumerate() {
                    let first = (start / block + i) * picked * inner;
                    for j in first..first + picked * inner {
                        sums[at[j] as usize * inner + j % inner] += from[j];
                    }
                }
            });
        }))
    }
    if is_half(x) {
        return widened([x], |[x]| scatter_add(x, axis, index, size));
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x, axis, index, size),
        DType::F64 => run::<f64>(x, axis, index, size),
        other => Err(Error::dtype("scatter_add", &[other], "a float is needed")),
    }
}
