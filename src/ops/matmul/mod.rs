//! Matrix products, batched and broadcast.
//!
//! Transposed operands need no operator of their own: [`crate::ops::transpose`]
//! is a view and the product reads through strides, so all four forms (and the
//! gradients, which are products with transposed operands) are one kernel.

pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod gradients;
pub(crate) mod tensor_cores;
mod wgmma;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::arithmetic::sum_to;
use crate::ops::{cast, transpose};
use crate::profile;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// (.., M, K) x (.., K, N) -> (.., M, N); leading axes broadcast.
///
/// bf16 and f16 are summed in f32 and rounded once.
///
/// # Errors
/// Fewer than two axes, sizes that do not fit, two dtypes.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    matmul_to(a, b, a.dtype())
}

/// [`matmul`] with a result of dtype `to`: that of the operands, or f32 for the
/// sums of bf16 and f16 as they are. A gradient is rounded to the operands' dtype
/// before it is multiplied, and is of that dtype.
///
/// # Errors
/// Those of [`matmul`], or another dtype.
pub fn matmul_to(a: &Tensor, b: &Tensor, to: DType) -> Result<Tensor> {
    let (sa, sb) = (a.shape(), b.shape());
    let fits = sa.len() >= 2 && sb.len() >= 2 && sa[sa.len() - 1] == sb[sb.len() - 2];
    if !fits {
        return Err(Error::shape("matmul", &[sa, sb], "(.., M, K) x (.., K, N)"));
    }
    let dtype = equal_floats("matmul", &[a, b])?;
    if to != dtype
        && (to, dtype) != (DType::F32, DType::BF16)
        && (to, dtype) != (DType::F32, DType::F16)
    {
        let problem = format!("a product of {dtype} is {dtype}, or f32 of bf16 and f16");
        return Err(Error::dtype("matmul", &[to], problem));
    }
    let batch = Shape::broadcast("matmul", &sa[..sa.len() - 2], &sb[..sb.len() - 2])?;
    let y = profile::call("matmul", &[a, b], || match a.device() {
        Device::Cpu => cpu::matmul(a, b, &batch, to),
        Device::Cuda(_) => cuda::matmul(a, b, &batch, to),
    })?;
    Ok(recorded(a, b, y))
}

/// The product `y` of `a` and `b` on the tape.
pub(crate) fn recorded(a: &Tensor, b: &Tensor, y: Tensor) -> Tensor {
    let dtype = a.dtype();
    let shapes = [*a.layout().shape(), *b.layout().shape()];
    record("matmul", &[a, b], y, Save::ALL, move |g| {
        let (a, b) = (g.input(0)?, g.input(1)?);
        let grad = cast(&g.grad, dtype)?;
        Ok(vec![
            g.when(0, || {
                sum_to(&matmul(&grad, &transpose(&b, -1, -2)?)?, &shapes[0])
            })?,
            g.when(1, || {
                sum_to(&matmul(&transpose(&a, -1, -2)?, &grad)?, &shapes[1])
            })?,
        ])
    })
}

/// The dtype that all of a product's operands have.
///
/// # Errors
/// They have several, or one that is no float.
pub(crate) fn equal_floats(op: &'static str, operands: &[&Tensor]) -> Result<DType> {
    let dtypes: Vec<DType> = operands.iter().map(|t| t.dtype()).collect();
    match dtypes.first() {
        Some(&first) if first.is_float() && dtypes.iter().all(|&d| d == first) => Ok(first),
        _ => {
            let problem = "floats of one dtype are needed; convert the others with cast";
            Err(Error::dtype(op, &dtypes, problem))
        }
    }
}
