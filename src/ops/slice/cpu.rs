use crate::device::cpu;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::ops::images::format_of;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

pub(super) fn place(
    x: &Tensor,
    axis: usize,
    start: usize,
    step: usize,
    size: usize,
) -> Result<Tensor> {
    match x.dtype() {
        DType::F32 => run::<f32>(x, axis, start, step, size),
        DType::F64 => run::<f64>(x, axis, start, step, size),
        DType::F16 => run::<half::f16>(x, axis, start, step, size),
        DType::BF16 => run::<half::bf16>(x, axis, start, step, size),
        other => Err(Error::dtype("place", &[other], "a float is needed")),
    }
}

fn run<T: Element>(
    x: &Tensor,
    axis: usize,
    start: usize,
    step: usize,
    size: usize,
) -> Result<Tensor> {
    let format = format_of(x);
    let x = x.detach().to_format(format)?;
    let from = x.dense_slice::<T>("place")?;
    let len = x.shape()[axis];
    let mut dims = x.shape().to_vec();
    dims[axis] = size;
    let layout = Layout::new(Shape::new(&dims)?, format)?;
    // How the axis lies in storage: rows of `size` runs of `inner` elements.
    let inner = match (format, axis) {
        (Format::Contiguous, _) | (_, 0) => dims[axis + 1..].iter().product(),
        (_, 1) => 1,
        (_, 2) => dims[1] * dims[3],
        _ => dims[1],
    };
    Ok(Tensor::build(layout, |out: &mut [T]| {
        cpu::for_chunks(out, inner, &|first, chunk| {
            for (i, run) in chunk.chunks_mut(inner).enumerate() {
                let flat = first / inner + i;
                let (row, at) = (flat / size, flat % size);
                let Some(offset) = at.checked_sub(start) else {
                    continue;
                };
                if offset % step == 0 && offset / step < len {
                    let source = (row * len + offset / step) * inner;
                    run.copy_from_slice(&from[source..source + inner]);
                }
            }
        });
    }))
}
