//! Precision and recall of generated samples (Kynkaanniemi et al. 2019): the share of
//! generated samples that lie within the real ones' manifold, and the other way round. A
//! manifold is the union of balls around its samples, each to its k-th nearest neighbour.

use rayon::prelude::*;

use super::ensure_matrix;
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// Generated within real: how many look real.
    pub precision: f64,
    /// Real within generated: how many could be generated.
    pub recall: f64,
}

/// Of row-major (samples, dims) features, with k neighbours (the paper's 3).
///
/// # Errors
/// Not more than k samples on a side; features that do not fit or are not finite.
pub fn precision_recall(
    real: &[f32],
    generated: &[f32],
    dims: usize,
    k: usize,
) -> Result<PrecisionRecall> {
    let count = |features: &[f32]| features.len() / dims.max(1);
    for features in [real, generated] {
        ensure_matrix("precision and recall", features, count(features), dims)?;
        if k == 0 || count(features) <= k {
            return Err(Error::usage(
                format!("{} samples have no {k}-th neighbours", count(features)),
                "give more samples, or fewer neighbours",
            ));
        }
    }
    Ok(PrecisionRecall {
        precision: covered(generated, real, dims, k),
        recall: covered(real, generated, dims, k),
    })
}

/// The share of `points` within the manifold of `others`.
fn covered(points: &[f32], others: &[f32], dims: usize, k: usize) -> f64 {
    let radii: Vec<f64> = (others.par_chunks(dims))
        .map(|a| {
            let mut all: Vec<f64> = others.chunks(dims).map(|b| distance(a, b)).collect();
            // The nearest is the point itself.
            let (_, kth, _) = all.select_nth_unstable_by(k, f64::total_cmp);
            *kth
        })
        .collect();
    let within = |p: &[f32]| {
        let mut balls = others.chunks(dims).zip(&radii);
        balls.any(|(o, r)| distance(p, o) <= *r)
    };
    let count = points.par_chunks(dims).filter(|p| within(p)).count();
    count as f64 / (points.len() / dims).max(1) as f64
}

/// Squared.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Philox;

    #[test]
    fn the_same_distribution_is_covered_and_a_far_one_is_not() -> Result<()> {
        let sample = |seed, shift| {
            let mut values = vec![0.0f32; 200 * 2];
            Philox::new(seed).fill_normal(&mut values, shift, 1.0);
            values
        };
        let near = precision_recall(&sample(1, 0.0), &sample(2, 0.0), 2, 3)?;
        assert!(near.precision > 0.9 && near.recall > 0.9, "{near:?}");
        let far = precision_recall(&sample(1, 0.0), &sample(2, 50.0), 2, 3)?;
        assert_eq!((far.precision, far.recall), (0.0, 0.0));
        Ok(())
    }

    #[test]
    fn a_part_of_the_modes_has_precision_without_recall() -> Result<()> {
        // Real: 0, 1, .. 9 and 100, 101, .. 109; generated: the first ten alone.
        let real: Vec<f32> = (0..20).map(|i| (i % 10 + 100 * (i / 10)) as f32).collect();
        let got = precision_recall(&real, &real[..10], 1, 1)?;
        assert_eq!((got.precision, got.recall), (1.0, 0.5));
        assert!(precision_recall(&real, &real[..3], 1, 3).is_err());
        Ok(())
    }
}
