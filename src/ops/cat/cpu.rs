use crate::device::cpu;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::ops::images::format_of;
use crate::ops::layout::cpu::retyped;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

pub(super) fn cat(tensors: &[&Tensor], axis: usize, shape: Shape) -> Result<Tensor> {
    match tensors[0].dtype() {
        DType::F32 => run::<f32>(tensors, axis, shape),
        DType::F64 => run::<f64>(tensors, axis, shape),
        DType::F16 => run::<half::f16>(tensors, axis, shape),
        DType::BF16 => run::<half::bf16>(tensors, axis, shape),
        DType::I32 => run::<i32>(tensors, axis, shape),
        DType::I64 => run::<i64>(tensors, axis, shape),
        DType::U8 => run::<u8>(tensors, axis, shape),
        DType::Bool => {
            let bytes: Vec<Tensor> = tensors
                .iter()
                .map(|t| retyped(t, DType::U8))
                .collect::<Result<_>>()?;
            let joined = run::<u8>(&bytes.iter().collect::<Vec<_>>(), axis, shape)?;
            retyped(&joined, DType::Bool)
        }
    }
}

fn run<T: Element>(tensors: &[&Tensor], axis: usize, shape: Shape) -> Result<Tensor> {
    let format = format_of(tensors[0]);
    // The axes that come after the joined one in storage.
    let after: &[usize] = match (format, axis) {
        (Format::Contiguous, _) => &[0, 1, 2, 3, 4, 5][axis + 1..shape.len()],
        (_, 0) => &[1, 2, 3],
        (_, 1) => &[],
        (_, 2) => &[1, 3],
        _ => &[1],
    };
    let inner: usize = after.iter().map(|&i| shape[i]).product();
    let packed: Vec<Tensor> = tensors
        .iter()
        .map(|t| t.detach().to_format(format))
        .collect::<Result<_>>()?;
    let parts: Vec<&[T]> = packed
        .iter()
        .map(|t| t.dense_slice::<T>("cat"))
        .collect::<Result<_>>()?;
    // Elements that each part gives to a row of the result, and where they end.
    let runs: Vec<usize> = tensors.iter().map(|t| t.shape()[axis] * inner).collect();
    let row: usize = runs.iter().sum();
    Ok(Tensor::build_unwritten(
        Layout::new(shape, format)?,
        |out: &mut [T]| {
            cpu::for_chunks(out, 1, &|start, mut chunk| {
                let (mut rows, mut column) = (start / row, start % row);
                while !chunk.is_empty() {
                    let mut begins = 0;
                    for (part, &run) in parts.iter().zip(&runs) {
                        let skip = column - begins;
                        if skip < run && !chunk.is_empty() {
                            let count = (run - skip).min(chunk.len());
                            let (head, rest) = chunk.split_at_mut(count);
                            let from = rows * run + skip;
                            head.copy_from_slice(&part[from..from + count]);
                            chunk = rest;
                            column += count;
                        }
                        begins += run;
                        if column < begins {
                            break;
                        }
                    }
                    (rows, column) = (rows + 1, 0);
                }
            });
        },
    ))
}
