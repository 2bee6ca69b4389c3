//! Products on the CPU: see [`blocked`] for the algorithm.

pub(crate) mod blocked;
pub(crate) mod kernel;
pub(crate) mod transpose;

use rayon::prelude::*;

use self::blocked::{Matrix, Product};
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops::layout::cpu::cast;
use crate::shape::{Layout, MAX_RANK, Shape};
use crate::tensor::Tensor;

pub(super) fn matmul(a: &Tensor, b: &Tensor, batch: &Shape, to: DType) -> Result<Tensor> {
    match a.dtype() {
        DType::F64 => run::<f64>(a, b, batch),
        DType::F32 => run::<f32>(a, b, batch),
        _ => {
            let (a, b) = (cast(a, DType::F32)?, cast(b, DType::F32)?);
            cast(&run::<f32>(&a, &b, batch)?, to)
        }
    }
}

fn run<T: Float>(a: &Tensor, b: &Tensor, batch: &Shape) -> Result<Tensor> {
    let (ra, rb) = (a.rank(), b.rank());
    let (m, k, n) = (a.shape()[ra - 2], a.shape()[ra - 1], b.shape()[rb - 1]);
    let mut dims = [0; MAX_RANK];
    dims[..batch.len()].copy_from_slice(batch);
    dims[batch.len()..batch.len() + 2].copy_from_slice(&[m, n]);
    let shape = Shape::new(&dims[..batch.len() + 2])?;

    let matrices = |t: &Tensor| -> Result<Layout> {
        let mut wide = [0; MAX_RANK];
        wide[..batch.len()].copy_from_slice(batch);
        wide[batch.len()..batch.len() + 2].copy_from_slice(&t.shape()[t.rank() - 2..]);
        let shape = Shape::new(&wide[..batch.len() + 2])?;
        Ok(t.layout().broadcast_to(shape))
    };
    let (la, lb) = (matrices(a)?, matrices(b)?);
    let (a, b) = (a.elements_of::<T>("matmul")?, b.elements_of::<T>("matmul")?);
    let count = batch.elements();
    let one = |i: usize| Product {
        sizes: [m, k, n],
        a: (a, Matrix::of(&la, i)),
        b: (b, Matrix::of(&lb, i)),
        accumulate: false,
        finish: None,
    };
    let layout = Layout::contiguous(shape);
    Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
        if count == 1 {
            one(0).run(out, n);
        } else if m * n > 0 {
            let each = |(i, out): (usize, &mut [T])| one(i).run_here(out, n);
            out.par_chunks_mut(m * n).enumerate().for_each(each);
        }
    }))
}
