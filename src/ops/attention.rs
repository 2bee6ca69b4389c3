//! `attention`, made of recorded operators: the expression that a fused kernel
//! of the same name is tested against.

use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;

/// softmax(scale q k^T + bias) v: q (.., M, D), k (.., N, D), v (.., N, E) ->
/// (.., M, E). The bias broadcasts against the scores (.., M, N); leading axes
/// broadcast as in [`ops::matmul`] (Vaswani et al. 2017).
///
/// # Errors
/// Shapes that do not fit.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: Option<&Tensor>,
    scale: f64,
) -> Result<Tensor> {
    let last = |t: &Tensor, i: usize| t.rank().checked_sub(i).map(|at| t.shape()[at]);
    let known = [q, k, v].iter().all(|t| t.rank() >= 2);
    if !known || last(q, 1) != last(k, 1) || last(k, 2) != last(v, 2) {
        let shapes = [q.shape(), k.shape(), v.shape()];
        let expected = "q (.., M, D), k (.., N, D), v (.., N, E)";
        return Err(Error::shape("attention", &shapes, expected));
    }
    // q is smaller than the scores.
    let scaled = ops::affine(q, scale, 0.0)?;
    let mut scores = ops::matmul(&scaled, &ops::transpose(k, -1, -2)?)?;
    if let Some(bias) = bias {
        scores = ops::add(&scores, bias)?;
    }
    ops::matmul(&ops::softmax(&scores, -1)?, v)
}
