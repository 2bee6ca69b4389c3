use crate::device::cpu;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::half::is_half;
use crate::ops::layout::cpu::cast;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// A number whose order as an integer is that of the value: NaN above all, -0
/// as 0.
fn rank(value: f64) -> u64 {
    if value.is_nan() {
        return u64::MAX;
    }
    let bits = (value + 0.0).to_bits();
    let negative = bits >> 63 == 1;
    if negative { !bits } else { bits | 1 << 63 }
}

/// The indices of the first `count` elements of each row (the last axis) in
/// order.
pub(super) fn order(
    op: &'static str,
    rows: &Tensor,
    count: usize,
    descending: bool,
) -> Result<Tensor> {
    fn run<T: Float>(
        op: &'static str,
        rows: &Tensor,
        count: usize,
        descending: bool,
    ) -> Result<Tensor> {
        let rows = rows.to_format(Format::Contiguous)?;
        let from = rows.dense_slice::<T>(op)?;
        let mut dims = rows.shape().to_vec();
        let last = dims.len() - 1;
        let size = std::mem::replace(&mut dims[last], count);
        let layout = Layout::contiguous(Shape::new(&dims)?);
        Ok(Tensor::build(layout, |out: &mut [i64]| {
            cpu::for_chunks(out, count, &|start, chunk| {
                // Value and index in one integer: equal values are ordered by
                // their index, and no two keys are equal.
                let mut keys: Vec<u128> = Vec::with_capacity(size);
                for (i, places) in chunk.chunks_mut(count).enumerate() {
                    let first = (start / count + i) * size;
                    keys.clear();
                    keys.extend(from[first..first + size].iter().enumerate().map(|(j, v)| {
                        let rank = rank(v.to_f64());
                        let rank = if descending { !rank } else { rank };
                        u128::from(rank) << 64 | j as u128
                    }));
                    if count < size {
                        keys.select_nth_unstable(count - 1);
                    }
                    keys[..count].sort_unstable();
                    for (place, key) in places.iter_mut().zip(&keys) {
                        *place = *key as i64;
                    }
                }
            });
        }))
    }
    match rows.dtype() {
        DType::F32 => run::<f32>(op, rows, count, descending),
        DType::F64 => run::<f64>(op, rows, count, descending),
        _ if is_half(rows) => run::<f32>(op, &cast(rows, DType::F32)?, count, descending),
        other => Err(Error::dtype(op, &[other], "a float is needed")),
    }
}
