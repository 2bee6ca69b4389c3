use half::{bf16, f16};

use crate::device::cpu;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::ops::walk::{map1, rearranged};
use crate::shape::Layout;
use crate::storage::Storage;
use crate::tensor::Tensor;

pub(crate) fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    fn from<A: Element>(x: &Tensor, dtype: DType) -> Result<Tensor> {
        let op = "cast";
        match dtype {
            DType::F32 => map1(op, x, |v: A| v.to_f64() as f32),
            DType::F64 => map1(op, x, |v: A| v.to_f64()),
            DType::F16 => map1(op, x, |v: A| f16::from_f64(v.to_f64())),
            DType::BF16 => map1(op, x, |v: A| bf16::from_f64(v.to_f64())),
            DType::I32 => map1(op, x, |v: A| v.to_f64() as i32),
            DType::I64 => map1(op, x, |v: A| v.to_f64() as i64),
            DType::U8 => map1(op, x, |v: A| v.to_f64() as u8),
            DType::Bool => retyped(
                &map1(op, x, |v: A| u8::from(v.to_f64() != 0.0))?,
                DType::Bool,
            ),
        }
    }
    match (x.dtype(), dtype) {
        (a, b) if a == b => Ok(x.detach()),
        // The pairs of the training path, without the way through f64.
        (DType::F32, DType::BF16) => map1("cast", x, bf16::from_f32),
        (DType::BF16, DType::F32) => map1("cast", x, bf16::to_f32),
        (DType::F32, DType::F16) => map1("cast", x, f16::from_f32),
        (DType::F16, DType::F32) => map1("cast", x, f16::to_f32),
        (DType::F32, _) => from::<f32>(x, dtype),
        (DType::F64, _) => from::<f64>(x, dtype),
        (DType::F16, _) => from::<f16>(x, dtype),
        (DType::BF16, _) => from::<bf16>(x, dtype),
        (DType::I32, _) => from::<i32>(x, dtype),
        (DType::I64, DType::I32) => map1("cast", x, |v: i64| v as i32),
        (DType::I64, _) => from::<i64>(x, dtype),
        (DType::U8, _) => from::<u8>(x, dtype),
        (DType::Bool, _) => from::<u8>(&retyped(x, DType::U8)?, dtype),
    }
}

/// The same bytes under a dtype of the same size.
pub(crate) fn retyped(x: &Tensor, dtype: DType) -> Result<Tensor> {
    Ok(Tensor::from_parts(x.storage().clone(), *x.layout(), dtype))
}

/// The elements of x at the places of `layout`, zeros in its padding.
pub(super) fn copy(x: &Tensor, layout: Layout) -> Result<Tensor> {
    fn run<T: Element>(x: &Tensor, layout: Layout) -> Result<Tensor> {
        if layout.is_dense() {
            return rearranged::<T>("to_format", x, layout);
        }
        // Padded: row by row of the destination, whose holes stay zeros.
        let from = x.elements_of::<T>("to_format")?;
        let order = layout.physical_order();
        let to = layout.permute(&order);
        let source = x.layout().permute(&order);
        let dims = to.shape().to_vec();
        let (inner, outer) = dims.split_last().map_or((1, &[][..]), |(&i, o)| (i, o));
        let (step_to, step_from) = (to.strides()[outer.len()], source.strides()[outer.len()]);
        let rows: usize = outer.iter().product();
        let pitch = outer
            .iter()
            .enumerate()
            .rev()
            .find(|(_, d)| **d != 1)
            .map_or(inner * step_to, |(i, _)| to.strides()[i]);
        let padded = Storage::cpu(rows * pitch, |out: &mut [T]| {
            cpu::for_chunks(out, pitch, &|start, chunk| {
                for (i, row) in chunk.chunks_mut(pitch).enumerate() {
                    let mut rest = start / pitch + i;
                    let mut at = source.offset();
                    for (axis, &d) in outer.iter().enumerate().rev() {
                        at += rest % d * source.strides()[axis];
                        rest /= d;
                    }
                    if step_to == 1 && step_from == 1 {
                        row[..inner].copy_from_slice(&from[at..at + inner]);
                    } else {
                        for (j, v) in row.chunks_mut(step_to).take(inner).enumerate() {
                            v[0] = from[at + j * step_from];
                        }
                    }
                }
            });
        });
        Ok(Tensor::from_parts(padded, layout, T::DTYPE))
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x, layout),
        DType::F64 => run::<f64>(x, layout),
        DType::F16 => run::<f16>(x, layout),
        DType::BF16 => run::<bf16>(x, layout),
        DType::I32 => run::<i32>(x, layout),
        DType::I64 => run::<i64>(x, layout),
        DType::U8 => run::<u8>(x, layout),
        DType::Bool => {
            let bytes = run::<u8>(&retyped(x, DType::U8)?, layout)?;
            retyped(&bytes, DType::Bool)
        }
    }
}
