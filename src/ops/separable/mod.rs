//! Linear maps of the last two axes that are the product of one map per axis.
//!
//! Average pooling, padding and resizing differ only in which inputs, with what
//! weights, make an output: y[o, p] = sum over i, j of A[o, i] B[p, j] x[i, j].
//! Each of them writes down the sparse A and B; this operator applies them. Its
//! gradient is itself with both transposed, which closes it under
//! differentiation of any order.

pub(super) mod cpu;
pub(super) mod cuda;

use std::sync::Arc;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::profile;
use crate::tensor::Tensor;

/// A sparse matrix that maps an axis, one row of (input, weight) per output.
pub(crate) struct Taps {
    inputs: usize,
    /// Row `o` is `taps[starts[o]..starts[o + 1]]`.
    starts: Vec<usize>,
    taps: Vec<(usize, f64)>,
}

impl Taps {
    /// `row(o)` gives the inputs of output `o` in ascending order; all are
    /// below `inputs`.
    pub fn new<R: IntoIterator<Item = (usize, f64)>>(
        inputs: usize,
        outputs: usize,
        row: impl Fn(usize) -> R,
    ) -> Self {
        let mut starts = vec![0];
        let mut taps = Vec::new();
        for o in 0..outputs {
            taps.extend(row(o));
            starts.push(taps.len());
        }
        Self {
            inputs,
            starts,
            taps,
        }
    }

    pub fn outputs(&self) -> usize {
        self.starts.len() - 1
    }

    fn row(&self, output: usize) -> &[(usize, f64)] {
        &self.taps[self.starts[output]..self.starts[output + 1]]
    }

    fn transposed(&self) -> Self {
        let mut columns = vec![Vec::new(); self.inputs];
        for o in 0..self.outputs() {
            for &(i, weight) in self.row(o) {
                columns[i].push((o, weight));
            }
        }
        Self::new(self.outputs(), self.inputs, |i| columns[i].iter().copied())
    }
}

/// Applies `[A, B]` to the last two axes of x, in the name of `op`.
pub(crate) fn separable(op: &'static str, x: &Tensor, maps: Arc<[Taps; 2]>) -> Result<Tensor> {
    let fits = match x.shape() {
        [.., h, w] => *h == maps[0].inputs && *w == maps[1].inputs,
        _ => false,
    };
    if !fits {
        let expected = format!("(.., {}, {}) is needed", maps[0].inputs, maps[1].inputs);
        return Err(Error::shape(op, &[x.shape()], expected));
    }
    let y = profile::call(op, &[x], || match x.device() {
        Device::Cpu => cpu::separable(op, x, &maps),
        Device::Cuda(_) => cuda::separable(op, x, &maps),
    })?;
    Ok(record(op, &[x], y, Save::NONE, move |b| {
        let back = Arc::new([maps[0].transposed(), maps[1].transposed()]);
        Ok(vec![Some(separable(op, &b.grad, back)?)])
    }))
}
