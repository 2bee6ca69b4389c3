//! bf16 and f16 on the CPU: f32 arithmetic, rounded once per operator. This is
//! also the plain low-precision reference that kernels are judged against.

use crate::dtype::DType;
use crate::error::Result;
use crate::ops;
use crate::ops::layout::cpu::cast;
use crate::tensor::Tensor;

/// In f32 what is bf16 or f16, on the tape: what losses and statistics are made of.
///
/// # Errors
/// The device has no memory left.
pub fn wide(t: &Tensor) -> Result<Tensor> {
    match is_half(t) {
        true => ops::cast(t, DType::F32),
        false => Ok(t.clone()),
    }
}

pub(crate) fn is_half(t: &Tensor) -> bool {
    matches!(t.dtype(), DType::BF16 | DType::F16)
}

/// `f` of the inputs widened to f32, its result rounded to the dtype of the
/// first half-precision input.
pub(crate) fn widened<const N: usize>(
    inputs: [&Tensor; N],
    f: impl FnOnce([&Tensor; N]) -> Result<Tensor>,
) -> Result<Tensor> {
    let narrow = inputs.iter().find(|t| is_half(t)).map(|t| t.dtype());
    let mut wide = Vec::with_capacity(N);
    for t in inputs {
        wide.push(if is_half(t) {
            cast(t, DType::F32)?
        } else {
            t.detach()
        });
    }
    let out = f(std::array::from_fn(|i| &wide[i]))?;
    match narrow {
        Some(dtype) if out.dtype() == DType::F32 => cast(&out, dtype),
        _ => Ok(out),
    }
}
