//! Statistics of predictions, all in float64.
//!
//! The numbers agree with scipy, scikit-learn and statsmodels (tests/metrics
//! compares them case by case), so that a run can be set beside published ones.
//!
//! Rules that hold in every module:
//! - empty input and lengths that do not match are an [`Error::Usage`];
//! - a statistic that is undefined for its input (the correlation of a
//!   constant, the AUC of a single class) is NaN, not an error: with 20,000
//!   genes a few constant ones must not stop the others;
//! - NaN in the input makes the result NaN, unless a function says otherwise.

pub mod classification;
pub mod correlation;
pub mod fid;
pub mod fisher;
pub mod multiple_testing;
pub mod pca;
pub mod precision_recall;
pub mod ranking;
pub mod regression;
pub mod summary;
pub mod umap;

use statrs::function::beta::beta_reg;
use statrs::function::erf::erfc;

use crate::error::{Error, Result};

/// A test statistic and its p-value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TestResult {
    pub statistic: f64,
    pub p_value: f64,
}

impl TestResult {
    const UNDEFINED: Self = Self {
        statistic: f64::NAN,
        p_value: f64::NAN,
    };
}

fn ensure_some<T>(what: &str, values: &[T]) -> Result<()> {
    if values.is_empty() {
        return Err(Error::usage(
            format!("{what}: there are no values"),
            "pass at least one",
        ));
    }
    Ok(())
}

fn ensure_pair<A, B>(what: &str, left: &[A], right: &[B]) -> Result<()> {
    ensure_some(what, left)?;
    if left.len() != right.len() {
        return Err(Error::usage(
            format!(
                "{what}: {} values on one side and {} on the other",
                left.len(),
                right.len()
            ),
            "pass the same samples in the same order on both sides",
        ));
    }
    Ok(())
}

/// Checks a row-major matrix of `rows` by `columns`, neither of them zero.
fn ensure_matrix<T>(what: &str, values: &[T], rows: usize, columns: usize) -> Result<()> {
    ensure_some(what, values)?;
    if rows.checked_mul(columns) != Some(values.len()) {
        return Err(Error::usage(
            format!(
                "{what}: {} values are not a matrix of {rows} by {columns}",
                values.len()
            ),
            "pass the matrix row by row, one row per sample",
        ));
    }
    Ok(())
}

/// Both tails of the standard normal distribution beyond |z|.
fn normal_two_sided(z: f64) -> f64 {
    erfc(z.abs() / std::f64::consts::SQRT_2)
}

/// Both tails of Student's t distribution, from the share
/// `freedom / (freedom + t²)`: for a correlation that is 1 - r², which keeps
/// its digits where t itself would lose them.
fn student_two_sided(freedom: f64, share: f64) -> f64 {
    if share.is_nan() || freedom.is_nan() {
        return f64::NAN;
    }
    if freedom <= 0.0 {
        return 1.0;
    }
    beta_reg(freedom / 2.0, 0.5, share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With many degrees of freedom t approaches the normal distribution, with
    /// a first correction of -z·φ(z)·(z²+1)/(2ν) in both tails together.
    #[test]
    fn student_stays_accurate_for_many_samples() {
        for freedom in [1e4, 1e5, 1e6] {
            for t in [0.1f64, 0.5, 1.0, 2.0, 4.0, 6.0] {
                let density = (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let expected = normal_two_sided(t) + t * density * (t * t + 1.0) / (2.0 * freedom);
                let got = student_two_sided(freedom, freedom / (freedom + t * t));
                let second_order = 30.0 * t.powi(6).max(1.0) / (freedom * freedom);
                assert!(
                    (got / expected - 1.0).abs() < second_order + 1e-9,
                    "{freedom} {t}: {got} {expected}"
                );
            }
        }
    }
}
