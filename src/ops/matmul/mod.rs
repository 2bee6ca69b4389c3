//! Matrix products, batched and broadcast.
//!
//! Transposed operands need no operator of their own: [`crate::ops::transpose`]
//! is a view and the product reads through strides, so all four forms (and the
//! gradients, which are products with transposed operands) are one kernel.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::arithmetic::sum_to;
use crate::ops::transpose;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// (.., M, K) x (.., K, N) -> (.., M, N); leading axes broadcast.
///
/// # Errors
/// Fewer than two axes, or sizes that do not fit.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (sa, sb) = (a.shape(), b.shape());
    let fits = sa.len() >= 2 && sb.len() >= 2 && sa[sa.len() - 1] == sb[sb.len() - 2];
    if !fits {
        return Err(Error::shape("matmul", &[sa, sb], "(.., M, K) x (.., K, N)"));
    }
    let batch = Shape::broadcast("matmul", &sa[..sa.len() - 2], &sb[..sb.len() - 2])?;
    let y = match a.device() {
        Device::Cpu => cpu::matmul(a, b, &batch)?,
        Device::Cuda(_) => cuda::matmul(a, b, &batch)?,
    };
    let shapes = [*a.layout().shape(), *b.layout().shape()];
    Ok(record("matmul", &[a, b], y, Save::ALL, move |g| {
        let (a, b) = (g.input(0)?, g.input(1)?);
        Ok(vec![
            g.when(0, || {
                sum_to(&matmul(&g.grad, &transpose(&b, -1, -2)?)?, &shapes[0])
            })?,
            g.when(1, || {
                sum_to(&matmul(&transpose(&a, -1, -2)?, &g.grad)?, &shapes[1])
            })?,
        ])
    }))
}
