//! Products by the `gemm` crate, which picks its vector width at run time and
//! whose results do not depend on the number of threads.

use gemm::Parallelism;
use rayon::prelude::*;

use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops::layout::cpu::cast;
use crate::shape::{Layout, MAX_RANK, Shape};
use crate::tensor::Tensor;

/// Where a matrix lies: first element and strides of rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix {
    pub start: usize,
    pub row: usize,
    pub column: usize,
}

impl Matrix {
    pub fn rows_of(start: usize, columns: usize) -> Self {
        Self {
            start,
            row: columns,
            column: 1,
        }
    }

    fn last(self, rows: usize, columns: usize) -> usize {
        self.start + (rows - 1) * self.row + (columns - 1) * self.column
    }
}

/// `out = a b`, or `out += a b` with `accumulate`; (m, k) x (k, n) -> (m, n).
///
/// # Panics
/// A matrix that reaches outside its slice, or strides of `out` with which two
/// elements share a place: errors of the caller, which derives both from
/// checked layouts.
pub(crate) fn product<T: Float>(
    [m, k, n]: [usize; 3],
    (a, at): (&[T], Matrix),
    (b, bt): (&[T], Matrix),
    (out, ot): (&mut [T], Matrix),
    accumulate: bool,
    parallelism: Parallelism,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(ot.last(m, n) < out.len() && ot.column == 1 && (m == 1 || ot.row >= n));
    assert!(k == 0 || (at.last(m, k) < a.len() && bt.last(k, n) < b.len()));
    // SAFETY: the asserts above bound every index that the strides can form,
    // and `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr().add(ot.start),
            ot.column as isize,
            ot.row as isize,
            accumulate,
            a.as_ptr().wrapping_add(at.start),
            at.column as isize,
            at.row as isize,
            b.as_ptr().wrapping_add(bt.start),
            bt.column as isize,
            bt.row as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
}

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

    let matrices = |t: &Tensor| -> Result<(Layout, usize, usize)> {
        let r = t.rank();
        let mut wide = [0; MAX_RANK];
        wide[..batch.len()].copy_from_slice(batch);
        wide[batch.len()..batch.len() + 2].copy_from_slice(&t.shape()[r - 2..]);
        let layout = t
            .layout()
            .broadcast_to(Shape::new(&wide[..batch.len() + 2])?);
        let s = t.layout().strides();
        Ok((layout, s[r - 2], s[r - 1]))
    };
    let (la, row_a, column_a) = matrices(a)?;
    let (lb, row_b, column_b) = matrices(b)?;
    let at = |l: &Layout, mut i: usize| {
        let mut start = l.offset();
        for axis in (0..batch.len()).rev() {
            start += i % batch[axis] * l.strides()[axis];
            i /= batch[axis];
        }
        start
    };
    let (a, b) = (a.elements_of::<T>("matmul")?, b.elements_of::<T>("matmul")?);
    let count = batch.elements();
    Ok(Tensor::build(
        Layout::contiguous(shape),
        |out: &mut [T]| {
            if m * n == 0 {
                return;
            }
            let one = |i: usize, out: &mut [T], parallelism| {
                let left = Matrix {
                    start: at(&la, i),
                    row: row_a,
                    column: column_a,
                };
                let right = Matrix {
                    start: at(&lb, i),
                    row: row_b,
                    column: column_b,
                };
                let to = Matrix::rows_of(0, n);
                product(
                    [m, k, n],
                    (a, left),
                    (b, right),
                    (out, to),
                    false,
                    parallelism,
                );
            };
            if count == 1 {
                one(0, out, Parallelism::Rayon(0));
            } else {
                out.par_chunks_mut(m * n)
                    .enumerate()
                    .for_each(|(i, o)| one(i, o, Parallelism::None));
            }
        },
    ))
}
