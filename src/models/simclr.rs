//! SimCLR's loss (Chen et al. 2020, "A simple framework for contrastive learning of visual
//! representations", equation 1).

use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;

/// NT-Xent: two views of each image, a and b (N, C), at a temperature. Each of the 2 N rows is
/// to find its other view among the other 2 N - 1, by cosine similarity; the mean over rows.
///
/// # Errors
/// Shapes that differ; no rows.
pub fn nt_xent(a: &Tensor, b: &Tensor, temperature: f64) -> Result<Tensor> {
    let n = match (a.shape(), b.shape()) {
        (&[n, c], other) if other == [n, c] && n > 0 => n,
        (x, y) => return Err(Error::shape("nt_xent", &[x, y], "two of (N, C)")),
    };
    let z = ops::cat(&[a, b], 0)?;
    let square = ops::sum(&ops::mul(&z, &z)?, &[1], true)?;
    // Above 0, so that a row of zeros has a gradient.
    let norm = ops::sqrt(&ops::clamp(&square, 1e-24, f64::INFINITY)?)?;
    let z = ops::div(&z, &norm)?;
    let similarity = ops::matmul(&z, &ops::transpose(&z, 0, 1)?)?;
    let logits = ops::affine(&similarity, 1.0 / temperature, 0.0)?;
    // A row is not its own other view.
    let mut own = vec![0.0f32; 4 * n * n];
    own.iter_mut().step_by(2 * n + 1).for_each(|v| *v = -1e9);
    let own = Tensor::from_slice(&own, &[2 * n, 2 * n])?.to(&z.device())?;
    let others: Vec<i64> = (0..2 * n).map(|i| ((i + n) % (2 * n)) as i64).collect();
    let others = Tensor::from_slice(&others, &[2 * n])?.to(&z.device())?;
    ops::cross_entropy(&ops::add(&logits, &own)?, &others)
}
