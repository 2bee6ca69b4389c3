//! How far predicted values are from measured ones, gene by gene.

use super::correlation::{by_block, pearson_columns};
use super::{ensure_matrix, ensure_pair};
use crate::error::{Error, Result};

/// One number per gene (column) each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ColumnErrors {
    /// Mean absolute error.
    pub mae: Vec<f64>,
    /// Mean squared error.
    pub mse: Vec<f64>,
    /// Root of the mean squared error.
    pub rmse: Vec<f64>,
    /// Root relative squared error: the error over that of predicting the
    /// gene's mean of the *training* samples (tRNAsformer). `None` where no
    /// training means were given.
    pub rrse_train: Option<Vec<f64>>,
    /// The same over the gene's mean of these very samples.
    pub rrse: Vec<f64>,
    /// 1 - rrse², the coefficient of determination.
    pub r2: Vec<f64>,
    /// Pearson correlation of prediction and truth.
    pub pearson: Vec<f64>,
}

/// Sums over the samples of one gene.
#[derive(Clone, Copy, Default)]
struct Sums {
    mean: f64,
    absolute: f64,
    squared: f64,
    from_train_mean: f64,
    from_own_mean: f64,
}

/// Errors of `pred` against `truth`, both row-major `(samples, genes)`.
///
/// `train_mean` has one value per gene. Where the truth of a gene is constant
/// its `rrse` and `r2` are NaN or infinite and its correlation is NaN.
pub fn column_errors(
    pred: &[f32],
    truth: &[f32],
    samples: usize,
    genes: usize,
    train_mean: Option<&[f64]>,
) -> Result<ColumnErrors> {
    ensure_pair("errors by gene", pred, truth)?;
    ensure_matrix("errors by gene", pred, samples, genes)?;
    if let Some(mean) = train_mean.filter(|m| m.len() != genes) {
        return Err(Error::usage(
            format!(
                "errors by gene: {} training means for {genes} genes",
                mean.len()
            ),
            "pass one training mean per gene, in the order of the columns",
        ));
    }
    let sums = by_block(genes, |columns| {
        let rows = || {
            (pred.chunks(genes).zip(truth.chunks(genes)))
                .map(|(p, t)| (&p[columns.clone()], &t[columns.clone()]))
        };
        let train_mean = train_mean.map(|m| &m[columns.clone()]);
        let mut sums = vec![Sums::default(); columns.len()];
        for (_, t) in rows() {
            for (s, &t) in sums.iter_mut().zip(t) {
                s.mean += f64::from(t);
            }
        }
        sums.iter_mut().for_each(|s| s.mean /= samples as f64);
        for (p, t) in rows() {
            for (i, s) in sums.iter_mut().enumerate() {
                let (p, t) = (f64::from(p[i]), f64::from(t[i]));
                s.absolute += (p - t).abs();
                s.squared += (p - t) * (p - t);
                s.from_own_mean += (t - s.mean) * (t - s.mean);
                if let Some(mean) = train_mean {
                    s.from_train_mean += (t - mean[i]) * (t - mean[i]);
                }
            }
        }
        sums
    });
    let n = samples as f64;
    let each = |f: &dyn Fn(&Sums) -> f64| sums.iter().map(f).collect::<Vec<_>>();
    Ok(ColumnErrors {
        mae: each(&|s| s.absolute / n),
        mse: each(&|s| s.squared / n),
        rmse: each(&|s| (s.squared / n).sqrt()),
        rrse_train: train_mean.map(|_| each(&|s| (s.squared / s.from_train_mean).sqrt())),
        rrse: each(&|s| (s.squared / s.from_own_mean).sqrt()),
        r2: each(&|s| 1.0 - s.squared / s.from_own_mean),
        pearson: (pearson_columns(pred, truth, samples, genes)?.iter())
            .map(|c| c.coefficient)
            .collect(),
    })
}

/// Mean squared error over everything.
pub fn mean_squared_error(pred: &[f32], truth: &[f32]) -> Result<f64> {
    ensure_pair("mean squared error", pred, truth)?;
    let squares: f64 = (pred.iter().zip(truth))
        .map(|(&p, &t)| (f64::from(p) - f64::from(t)).powi(2))
        .sum();
    Ok(squares / pred.len() as f64)
}
