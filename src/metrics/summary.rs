//! Summary numbers of one sample and tests of its location.

use super::{TestResult, ensure_some, normal_two_sided, student_two_sided};
use crate::error::{Error, Result};

/// The arithmetic mean.
pub fn mean(values: &[f64]) -> Result<f64> {
    ensure_some("mean", values)?;
    Ok(mean_of(values))
}

/// The mean of values that are known to be there.
pub(super) fn mean_of(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard deviation, with `n - ddof` in the denominator: 0 describes
/// these values (numpy's default), 1 estimates the population's. NaN where
/// `n <= ddof`.
pub fn standard_deviation(values: &[f64], ddof: usize) -> Result<f64> {
    ensure_some("standard deviation", values)?;
    let Some(freedom) = values.len().checked_sub(ddof).filter(|&f| f > 0) else {
        return Ok(f64::NAN);
    };
    let mean = mean_of(values);
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    Ok((squares / freedom as f64).sqrt())
}

/// The middle value, or the mean of the two middle ones.
pub fn median(values: &[f64]) -> Result<f64> {
    percentile(values, 50.0)
}

/// The value below which `percent` (0 to 100) of the sample lies, interpolated
/// linearly between neighbours (numpy's default).
pub fn percentile(values: &[f64], percent: f64) -> Result<f64> {
    ensure_some("percentile", values)?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(Error::usage(
            format!("percentile: {percent} is not a percentage"),
            "pass a number from 0 to 100",
        ));
    }
    if values.iter().any(|v| v.is_nan()) {
        return Ok(f64::NAN);
    }
    let position = percent / 100.0 * (values.len() - 1) as f64;
    let below = position.floor() as usize;
    let fraction = position - position.floor();
    let mut values = values.to_vec();
    let (_, &mut low, above) = values.select_nth_unstable_by(below, f64::total_cmp);
    let high = above.iter().copied().min_by(f64::total_cmp);
    Ok(match high {
        Some(high) if fraction > 0.0 => low + (high - low) * fraction,
        _ => low,
    })
}

/// Ranks from 1, equal values sharing the mean of their ranks. If any value is
/// NaN there is no order and every rank is NaN.
pub fn average_ranks(values: &[f64]) -> Result<Vec<f64>> {
    ensure_some("ranks", values)?;
    Ok(rank(values).0)
}

/// The average ranks and Σ(t³ - t) over the runs of t equal values.
pub(super) fn rank(values: &[f64]) -> (Vec<f64>, f64) {
    if values.iter().any(|v| v.is_nan()) {
        return (vec![f64::NAN; values.len()], f64::NAN);
    }
    // Value and index in one integer: integers sort without branches, and this is
    // where the time of a Spearman correlation goes.
    let mut order: Vec<u128> = (values.iter().zip(0u128..))
        .map(|(&value, index)| u128::from(ordered_bits(value)) << 64 | index)
        .collect();
    order.sort_unstable();
    let mut ranks = vec![0.0; values.len()];
    let mut ties = 0.0;
    let mut before = 0;
    for run in order.chunk_by(|a, b| a >> 64 == b >> 64) {
        let shared = before as f64 + (run.len() + 1) as f64 / 2.0;
        for &entry in run {
            ranks[entry as u64 as usize] = shared;
        }
        let length = run.len() as f64;
        ties += length * (length * length - 1.0);
        before += run.len();
    }
    (ranks, ties)
}

/// Bits that order like the value; the two zeros have the same.
fn ordered_bits(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits();
    let negative = bits >> 63 == 1;
    if negative { !bits } else { bits | 1 << 63 }
}

/// Student's t-test that the mean is `expected`, two-sided. NaN for fewer than
/// two values.
pub fn t_test_one_sample(values: &[f64], expected: f64) -> Result<TestResult> {
    let deviation = standard_deviation(values, 1)?;
    let count = values.len() as f64;
    let statistic = (mean_of(values) - expected) / (deviation / count.sqrt());
    let freedom = count - 1.0;
    Ok(TestResult {
        statistic,
        p_value: student_two_sided(freedom, freedom / (freedom + statistic * statistic)),
    })
}

/// Largest sample for which the signed-rank distribution is enumerated.
const WILCOXON_EXACT: usize = 50;

/// Wilcoxon's signed-rank test that differences are symmetric about zero,
/// two-sided; the statistic is the smaller of the two rank sums.
///
/// Differences of zero are dropped. Up to 50 remaining differences the p-value
/// is exact, given the ranks as they are, shared ones included (scipy turns to
/// an approximation where ranks are shared); beyond, it comes from the normal
/// distribution with the correction for ties and none for continuity. NaN
/// where every difference is zero.
pub fn wilcoxon_signed_rank(differences: &[f64]) -> Result<TestResult> {
    ensure_some("Wilcoxon signed-rank test", differences)?;
    if differences.iter().any(|d| d.is_nan()) {
        return Ok(TestResult::UNDEFINED);
    }
    let kept: Vec<f64> = differences.iter().copied().filter(|&d| d != 0.0).collect();
    if kept.is_empty() {
        return Ok(TestResult::UNDEFINED);
    }
    let sizes: Vec<f64> = kept.iter().map(|d| d.abs()).collect();
    let (ranks, ties) = rank(&sizes);
    let positive: f64 = (kept.iter().zip(&ranks))
        .filter(|(d, _)| **d > 0.0)
        .map(|(_, r)| r)
        .sum();
    let count = kept.len() as f64;
    let total = count * (count + 1.0) / 2.0;
    let statistic = positive.min(total - positive);
    let p_value = if kept.len() <= WILCOXON_EXACT {
        signed_rank_exact(&ranks, statistic)
    } else {
        let variance = (count * (count + 1.0) * (2.0 * count + 1.0) - ties / 2.0) / 24.0;
        normal_two_sided((positive - total / 2.0) / variance.sqrt())
    };
    Ok(TestResult { statistic, p_value })
}

/// Twice the probability of a rank sum of at most `statistic` when each rank
/// is positive or negative with equal chance.
fn signed_rank_exact(ranks: &[f64], statistic: f64) -> f64 {
    // Shared ranks are halves, so twice a rank is whole.
    let doubled: Vec<usize> = ranks.iter().map(|r| (2.0 * r) as usize).collect();
    let limit = (2.0 * statistic) as usize;
    let mut probability = vec![0.0; limit + 1];
    probability[0] = 1.0;
    for rank in doubled {
        for sum in (0..=limit).rev() {
            let with = if sum >= rank {
                probability[sum - rank]
            } else {
                0.0
            };
            probability[sum] = 0.5 * (probability[sum] + with);
        }
    }
    (2.0 * probability.iter().sum::<f64>()).min(1.0)
}
