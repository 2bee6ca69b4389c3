use bytemuck::{Pod, Zeroable};

use super::cpu::folded;
use crate::device::cuda::{Address, Walk, count, device_of, f32_only, kernels};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::{Layout, Shape};
use crate::tensor::Tensor;

/// Rows that one block adds up: of one column, and of 32.
const CHUNKS: [usize; 2] = [16_384, 1024];

/// A mirror of `SumParams` in kernels/reduce.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SumParams {
    x: Address,
    out: Address,
    rows: u32,
    inner: u32,
    chunk: u32,
    chunks: u32,
    to: u32,
    padding: u32,
}

pub(super) fn sum(x: &Tensor, reduced: &[usize], kept: &[usize]) -> Result<Tensor> {
    let op = "sum";
    let device = device_of(op, &[x])?;
    let dtype = x.dtype();
    if !matches!(dtype, DType::BF16 | DType::F16) {
        f32_only(op, &[x])?;
    }
    if x.elements() == 0 {
        return Tensor::full_on(0.0, kept, dtype, &x.device());
    }
    let (mut x, [outer, mut rows, inner], layout) = folded(x, reduced, kept)?;
    count(op, x.elements())?;
    let (chunk, tiles) = match inner {
        1 => (CHUNKS[0], 1),
        _ => (CHUNKS[1], inner.div_ceil(32)),
    };
    loop {
        // A little over one chunk is not worth a second pass.
        let chunks = if rows <= 2 * chunk {
            1
        } else {
            rows.div_ceil(chunk)
        };
        // Sums of chunks stay in f32.
        let (to, into) = match chunks {
            1 => (layout, dtype),
            _ => {
                let partial = Shape::new(&[outer, chunks, inner])?;
                (Layout::contiguous(partial), DType::F32)
            }
        };
        let out = device.empty(to, into)?;
        let params = SumParams {
            x: x.address(op)?,
            out: out.address(op)?,
            rows: count(op, rows)?,
            inner: count(op, inner)?,
            chunk: count(op, if chunks == 1 { rows } else { chunk })?,
            chunks: count(op, chunks)?,
            to: match into {
                DType::BF16 => 1,
                DType::F16 => 2,
                _ => 0,
            },
            padding: 0,
        };
        let kernel = match (x.dtype(), inner) {
            (DType::BF16, 1) => &kernels::EOSIN_SUM_FORWARD_ROWS_BF16,
            (DType::BF16, _) => &kernels::EOSIN_SUM_FORWARD_COLUMNS_BF16,
            (DType::F16, 1) => &kernels::EOSIN_SUM_FORWARD_ROWS_F16,
            (DType::F16, _) => &kernels::EOSIN_SUM_FORWARD_COLUMNS_F16,
            (_, 1) => &kernels::EOSIN_SUM_FORWARD_ROWS_F32,
            _ => &kernels::EOSIN_SUM_FORWARD_COLUMNS_F32,
        };
        device.launch(kernel, [outer * chunks * tiles, 1, 1], 0, &params)?;
        if chunks == 1 {
            return Ok(out);
        }
        (x, rows) = (out, chunks);
    }
}

/// A mirror of `ArgmaxParams` in kernels/reduce.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ArgmaxParams {
    x: Address,
    out: Address,
    columns: u32,
    padding: u32,
    walk: Walk,
}

pub(super) fn argmax(rows: &Tensor) -> Result<Tensor> {
    let op = "argmax";
    let device = device_of(op, &[rows])?;
    f32_only(op, &[rows])?;
    let plain = Layout::contiguous(*rows.layout().shape());
    let layout = Layout::contiguous(Shape::new(&rows.shape()[..1])?);
    let out = device.empty(layout, DType::I64)?;
    let params = ArgmaxParams {
        x: rows.address(op)?,
        out: out.address(op)?,
        columns: count(op, rows.shape()[1])?,
        padding: 0,
        walk: Walk::new(op, &plain, &[rows.layout()])?,
    };
    let kernel = &kernels::EOSIN_ARGMAX_FORWARD_F32;
    device.launch(kernel, [rows.shape()[0], 1, 1], 0, &params)?;
    Ok(out)
}
