//! The mean of each gene's highest tile scores, where tiles are masked as in HE2RNA;
//! without a mask it is [`ops::linear_top_mean`].
//!
//! With tiles in descending order of their score s for a gene, the mean of the k
//! highest is sum_j s_j [j < k] / k. So all k together are one product of the sorted
//! scores with a small matrix of shares, and their mean is one with a single row.
//!
//! As published, a masked tile scores 0 and takes part in the order (it is before
//! negative scores), while the mask that enters the mean is that of the first k tiles
//! in the bag, not of the k highest:
//! sum_j s_j m_j [j < k] / sum_j m_j [j < k]. If these are all masked that is 0 / 0.

use super::bag::TILES;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;

/// The numbers of tiles that the published networks draw from in training and
/// average over in evaluation.
pub const KS: [usize; 6] = [1, 2, 5, 10, 20, 49];

/// Scores that are computed at once in evaluation.
const SCORES_AT_ONCE: usize = 1 << 22;

fn check(k: usize) -> Result<()> {
    if (1..=TILES).contains(&k) {
        return Ok(());
    }
    Err(Error::usage(
        format!("a bag has no {k} highest tiles"),
        format!("give a number of tiles in 1..={TILES}"),
    ))
}

/// scores (B, T, G), `mask` (B, T) of 0 and 1 -> (B, G).
///
/// # Errors
/// A `k` that is not in 1..=49.
pub fn top_mean(scores: &Tensor, k: usize, mask: &Tensor) -> Result<Tensor> {
    check(k)?;
    let mask = ops::reshape(mask, &[scores.shape()[0], TILES, 1])?;
    let (highest, _) = ops::topk(&ops::mul(scores, &mask)?, k, 1)?;
    let of_first = ops::slice(&mask, 1, 0, k)?; // (B, k, 1)
    let sum = ops::sum(&ops::mul(&highest, &of_first)?, &[1], false)?; // (B, G)
    ops::div(&sum, &ops::sum(&of_first, &[1], false)?)
}

/// What each rank in the order of tiles adds to each output.
pub struct Shares {
    /// (outputs, ks): how the means of `ks` are joined.
    joined: Tensor,
    /// (ks, T): 1 for the ranks below k.
    below: Tensor,
}

impl Shares {
    /// The mean for each k by itself.
    ///
    /// # Errors
    /// A k that is not in 1..=49.
    pub fn each(ks: &[usize]) -> Result<Self> {
        let n = ks.len();
        let mut joined = vec![0.0f32; n * n];
        joined.iter_mut().step_by(n + 1).for_each(|v| *v = 1.0);
        Self::of(ks, Tensor::from_slice(&joined, &[n, n])?)
    }

    /// The mean of the means.
    ///
    /// # Errors
    /// A k that is not in 1..=49.
    pub fn mean(ks: &[usize]) -> Result<Self> {
        let n = ks.len();
        Self::of(ks, Tensor::full(1.0 / n as f64, &[1, n], DType::F32)?)
    }

    fn of(ks: &[usize], joined: Tensor) -> Result<Self> {
        ks.iter().try_for_each(|&k| check(k))?;
        let below = (ks.iter()).flat_map(|&k| (0..TILES).map(move |j| f32::from(j < k)));
        let below: Vec<f32> = below.collect();
        Ok(Self {
            joined,
            below: Tensor::from_slice(&below, &[ks.len(), TILES])?,
        })
    }

    /// scores (B, T, G), `mask` (B, T) -> (B, outputs, G). For evaluation.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(&self, scores: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let device = scores.device();
        let (joined, below) = (self.joined.to(&device)?, self.below.to(&device)?);
        let bags = scores.shape()[0];
        let of_rank = ops::reshape(mask, &[bags, 1, TILES])?;
        let of_tile = ops::reshape(mask, &[bags, TILES, 1])?;
        let counted = ops::mul(&below, &of_rank)?; // (B, ks, T)
        let scores = ops::mul(scores, &of_tile)?;
        let shares = ops::div(&counted, &ops::sum(&counted, &[-1], true)?)?;
        let (sorted, _) = ops::sort(&scores, 1, true)?;
        ops::matmul(&ops::matmul(&joined, &shares)?, &sorted)
    }
}

/// The parts (B, outputs, genes) that `part(first gene, genes)` makes, as one. Parts
/// are small enough that the scores of all tiles never lie in memory at once.
///
/// # Errors
/// What `part` returns.
pub fn in_parts(
    bags: usize,
    genes: usize,
    part: &mut dyn FnMut(usize, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    let at_once = (SCORES_AT_ONCE / (bags * TILES).max(1)).max(64);
    let starts = (0..genes.max(1)).step_by(at_once);
    let parts = starts.map(|start| part(start, at_once.min(genes - start)));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    match &parts[..] {
        [whole] => Ok(whole.clone()),
        parts => ops::cat(&parts.iter().collect::<Vec<_>>(), -1),
    }
}
