//! What `layer_norm` and `batch_norm` share: their parameters and the gradient
//! that can be differentiated again.

use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops;
use crate::ops::arithmetic::sum_to;
use crate::ops::half::is_half;
use crate::ops::layout::cpu::cast;
use crate::shape::Format;
use crate::tensor::Tensor;

/// Off the tape, half precision as f32.
pub(crate) fn wide(t: &Tensor) -> Result<Tensor> {
    if is_half(t) {
        cast(t, DType::F32)
    } else {
        Ok(t.detach())
    }
}

/// The values of a weight or bias, or `n` times what stands for none.
pub(crate) fn parameter<T: Float>(
    op: &'static str,
    t: Option<&Tensor>,
    n: usize,
    none: T,
) -> Result<Vec<T>> {
    match t {
        Some(t) => {
            let plain = wide(t)?.to_format(Format::Contiguous)?;
            Ok(plain.dense_slice::<T>(op)?.to_vec())
        }
        None => Ok(vec![none; n]),
    }
}

/// The gradients of `y = n w + b` with `n = (x - mean) / sqrt(var + eps)` over
/// `axes`, made of recorded operators:
/// `dx = (h - mean(h) - n mean(h n)) / sqrt(var + eps)` with `h = g w`, and the
/// sums of `g n` and `g` over the axes along which w and b of `shape` repeat.
pub(crate) fn recorded_gradients(
    g: &Tensor,
    x: &Tensor,
    weight: Option<&Tensor>,
    axes: &[isize],
    shape: &[usize],
    eps: f64,
) -> Result<[Tensor; 3]> {
    let centred = ops::sub(x, &ops::mean(x, axes, true)?)?;
    let var = ops::mean(&ops::mul(&centred, &centred)?, axes, true)?;
    let scale = ops::pow(&ops::affine(&var, 1.0, eps)?, -0.5)?;
    let n = ops::mul(&centred, &scale)?;
    let h = match weight {
        Some(w) => ops::mul(g, &ops::reshape(w, shape)?)?,
        None => g.clone(),
    };
    let along = ops::mul(&n, &ops::mean(&ops::mul(&h, &n)?, axes, true)?)?;
    let rest = ops::sub(&ops::sub(&h, &ops::mean(&h, axes, true)?)?, &along)?;
    Ok([
        ops::mul(&rest, &scale)?,
        sum_to(&ops::mul(g, &n)?, shape)?,
        sum_to(g, shape)?,
    ])
}
