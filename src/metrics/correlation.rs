//! Correlation of two samples, and of the columns of two matrices.
//!
//! A constant sample has no correlation: coefficient and p-value are NaN.
//! So they are where a value is NaN, and for a single pair of values.

use rayon::prelude::*;
use statrs::function::factorial::factorial;

use super::summary::{mean_of, rank};
use super::{TestResult, ensure_matrix, ensure_pair, normal_two_sided, student_two_sided};
use crate::error::Result;

/// A correlation coefficient and the two-sided p-value of "no correlation".
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Correlation {
    pub coefficient: f64,
    pub p_value: f64,
}

impl Correlation {
    const UNDEFINED: Self = Self {
        coefficient: f64::NAN,
        p_value: f64::NAN,
    };

    /// With the p-value of Student's t with `samples - 2` degrees of freedom. Two
    /// samples lie on a line: they have a coefficient of ±1, and p = 1.
    fn with_student(coefficient: f64, samples: usize) -> Self {
        let coefficient = match samples {
            2 => coefficient.signum(),
            _ => coefficient.clamp(-1.0, 1.0),
        };
        Self {
            coefficient,
            p_value: student_two_sided(
                samples as f64 - 2.0,
                (1.0 - coefficient) * (1.0 + coefficient),
            ),
        }
    }
}

fn is_constant(values: &[f64]) -> bool {
    values.iter().all(|&v| v == values[0])
}

/// Pearson's linear correlation.
pub fn pearson(x: &[f64], y: &[f64]) -> Result<Correlation> {
    ensure_pair("Pearson correlation", x, y)?;
    if is_constant(x) || is_constant(y) {
        return Ok(Correlation::UNDEFINED);
    }
    let (x, y) = (unit_deviations(x), unit_deviations(y));
    let coefficient: f64 = x.iter().zip(&y).map(|(a, b)| a * b).sum();
    Ok(Correlation::with_student(coefficient, x.len()))
}

/// Deviations from the mean, scaled to length 1. The largest is divided out
/// before squaring, so that huge and tiny values neither overflow nor vanish.
fn unit_deviations(values: &[f64]) -> Vec<f64> {
    let mean = mean_of(values);
    let mut deviations: Vec<f64> = values.iter().map(|v| v - mean).collect();
    let largest = deviations.iter().fold(0.0, |m: f64, d| m.max(d.abs()));
    let squares: f64 = deviations.iter().map(|d| (d / largest).powi(2)).sum();
    let length = largest * squares.sqrt();
    deviations.iter_mut().for_each(|d| *d /= length);
    deviations
}

/// Spearman's rank correlation: Pearson's of the average ranks, with the
/// p-value of the t distribution for samples of every size.
pub fn spearman(x: &[f64], y: &[f64]) -> Result<Correlation> {
    ensure_pair("Spearman correlation", x, y)?;
    Ok(spearman_of(x, y))
}

fn spearman_of(x: &[f64], y: &[f64]) -> Correlation {
    if is_constant(x) || is_constant(y) {
        return Correlation::UNDEFINED;
    }
    let (x, y) = (rank(x).0, rank(y).0);
    let samples = x.len();
    // Sums of products of ranks are exact. The steps after them are in the order
    // of the usual covariance matrix, which decides whether a perfect
    // agreement ends at 1 or one rounding below it.
    let centre = (samples + 1) as f64 / 2.0;
    let scale = 1.0 / (samples - 1) as f64;
    let covariance = |a: &[f64], b: &[f64]| {
        let sum: f64 = (a.iter().zip(b))
            .map(|(a, b)| (a - centre) * (b - centre))
            .sum();
        sum * scale
    };
    let coefficient = covariance(&x, &y) / covariance(&x, &x).sqrt() / covariance(&y, &y).sqrt();
    Correlation::with_student(coefficient, samples)
}

/// Kendall's tau-b in O(n log n) (Knight 1966).
///
/// The p-value is exact where nothing is tied and there are at most 33 samples
/// or at most one pair out of order (or in order); else it is that of the
/// normal approximation with the variance corrected for ties. This is scipy's
/// automatic choice.
pub fn kendall(x: &[f64], y: &[f64]) -> Result<Correlation> {
    ensure_pair("Kendall correlation", x, y)?;
    Ok(kendall_of(x, y))
}

fn kendall_of(x: &[f64], y: &[f64]) -> Correlation {
    if x.iter().chain(y).any(|v| v.is_nan()) {
        return Correlation::UNDEFINED;
    }
    let samples = x.len();
    let mut pairs: Vec<(f64, f64)> = x.iter().copied().zip(y.iter().copied()).collect();
    // `+ 0.0` makes the two zeros one, which `total_cmp` would tell apart.
    for pair in &mut pairs {
        *pair = (pair.0 + 0.0, pair.1 + 0.0);
    }
    pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let x_ties = Ties::of(pairs.chunk_by(|a, b| a.0 == b.0).map(<[_]>::len));
    let both_tied = Ties::of(pairs.chunk_by(|a, b| a == b).map(<[_]>::len)).pairs;
    let mut by_x: Vec<f64> = pairs.into_iter().map(|p| p.1).collect();
    let discordant = sort_counting_inversions(&mut by_x);
    let y_ties = Ties::of(by_x.chunk_by(|a, b| a == b).map(<[_]>::len));

    let total = pair_count(samples as u64);
    if x_ties.pairs == total || y_ties.pairs == total {
        return Correlation::UNDEFINED;
    }
    let score = total as f64 - x_ties.pairs as f64 - y_ties.pairs as f64 + both_tied as f64
        - 2.0 * discordant as f64;
    let coefficient =
        score / ((total - x_ties.pairs) as f64).sqrt() / ((total - y_ties.pairs) as f64).sqrt();

    let untied = x_ties.pairs == 0 && y_ties.pairs == 0;
    let rarer = discordant.min(total - discordant.min(total));
    let p_value = if untied && (samples <= 33 || rarer <= 1) {
        kendall_exact(samples, rarer)
    } else {
        let n = samples as f64;
        let m = n * (n - 1.0);
        let variance = (m * (2.0 * n + 5.0) - x_ties.fives - y_ties.fives) / 18.0
            + 2.0 * x_ties.pairs as f64 * y_ties.pairs as f64 / m
            + x_ties.threes * y_ties.threes / (9.0 * m * (n - 2.0));
        normal_two_sided(score / variance.sqrt())
    };
    Correlation {
        coefficient: coefficient.clamp(-1.0, 1.0),
        p_value,
    }
}

fn pair_count(n: u64) -> u64 {
    n * n.saturating_sub(1) / 2
}

/// What the runs of t equal values take out of the number of pairs and of the
/// variance of tau.
struct Ties {
    /// Σ t(t-1)/2
    pairs: u64,
    /// Σ t(t-1)(t-2)
    threes: f64,
    /// Σ t(t-1)(2t+5)
    fives: f64,
}

impl Ties {
    fn of(runs: impl Iterator<Item = usize>) -> Self {
        let none = Self {
            pairs: 0,
            threes: 0.0,
            fives: 0.0,
        };
        runs.filter(|&t| t > 1).fold(none, |sum, run| {
            let t = run as f64;
            Self {
                pairs: sum.pairs + pair_count(run as u64),
                threes: sum.threes + t * (t - 1.0) * (t - 2.0),
                fives: sum.fives + t * (t - 1.0) * (2.0 * t + 5.0),
            }
        })
    }
}

/// Merge sort, bottom up; returns the number of pairs that stood in strictly
/// descending order.
fn sort_counting_inversions(values: &mut Vec<f64>) -> u64 {
    let mut inversions = 0;
    let mut merged = Vec::with_capacity(values.len());
    let mut width = 1;
    while width < values.len() {
        merged.clear();
        for chunk in values.chunks(2 * width) {
            let (mut left, mut right) = chunk.split_at(width.min(chunk.len()));
            while let (Some(&l), Some(&r)) = (left.first(), right.first()) {
                if r < l {
                    inversions += left.len() as u64;
                    merged.push(r);
                    right = &right[1..];
                } else {
                    merged.push(l);
                    left = &left[1..];
                }
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        std::mem::swap(values, &mut merged);
        width *= 2;
    }
    inversions
}

/// Twice the share of the orders of `samples` values that have at most `rarer`
/// inversions (Kendall's recursion over the sample size).
fn kendall_exact(samples: usize, rarer: u64) -> f64 {
    let orders = |n: usize| factorial(n as u64);
    match (samples, rarer) {
        (..=2, _) => 1.0,
        (_, 0) => 2.0 / orders(samples),
        (_, 1) => 2.0 / orders(samples - 1),
        _ if 2 * rarer == pair_count(samples as u64) => 1.0,
        _ => {
            // At most 33 samples come here, so `rarer` is below 265.
            let limit = rarer as usize;
            let mut counts = vec![0.0; limit + 1];
            counts[0] = 1.0;
            for size in 2..=samples {
                // A value placed in front of 0..size others adds as many inversions.
                let mut window = 0.0;
                let previous = counts.clone();
                for inversions in 0..=limit {
                    window += previous[inversions];
                    if inversions >= size {
                        window -= previous[inversions - size];
                    }
                    counts[inversions] = window;
                }
            }
            (2.0 * counts.iter().sum::<f64>() / orders(samples)).min(1.0)
        }
    }
}

/// Columns worked on together: their running sums stay in the first-level cache
/// and each row is read in whole cache lines.
const BLOCK: usize = 64;

/// Pearson's correlation of each column of `pred` with the same column of
/// `truth`, both row-major `(samples, genes)`.
///
/// Columns are shared out over threads; each is summed in the order of its
/// rows, so the number of threads does not change a bit.
pub fn pearson_columns(
    pred: &[f32],
    truth: &[f32],
    samples: usize,
    genes: usize,
) -> Result<Vec<Correlation>> {
    ensure_pair("Pearson correlation by column", pred, truth)?;
    ensure_matrix("Pearson correlation by column", pred, samples, genes)?;
    Ok(by_block(genes, |columns| {
        pearson_block(pred, truth, genes, columns)
    }))
}

/// Spearman's correlation by column; see [`pearson_columns`].
pub fn spearman_columns(
    pred: &[f32],
    truth: &[f32],
    samples: usize,
    genes: usize,
) -> Result<Vec<Correlation>> {
    ensure_pair("Spearman correlation by column", pred, truth)?;
    ensure_matrix("Spearman correlation by column", pred, samples, genes)?;
    Ok(by_block(genes, |columns| {
        let pred = transposed(pred, genes, columns.clone());
        let truth = transposed(truth, genes, columns);
        (pred.chunks(samples).zip(truth.chunks(samples)))
            .map(|(p, t)| spearman_of(p, t))
            .collect()
    }))
}

/// Kendall's tau-b by column; see [`kendall`] and [`pearson_columns`].
pub fn kendall_columns(
    pred: &[f32],
    truth: &[f32],
    samples: usize,
    genes: usize,
) -> Result<Vec<Correlation>> {
    ensure_pair("Kendall correlation by column", pred, truth)?;
    ensure_matrix("Kendall correlation by column", pred, samples, genes)?;
    Ok(by_block(genes, |columns| {
        let pred = transposed(pred, genes, columns.clone());
        let truth = transposed(truth, genes, columns);
        (pred.chunks(samples).zip(truth.chunks(samples)))
            .map(|(p, t)| kendall_of(p, t))
            .collect()
    }))
}

/// Steiger's test that two predictions of the same samples correlate equally with the
/// truth, two-sided; the statistic is Z, positive where the first correlates more.
///
/// `first` and `second` are the predictions' correlations with the truth, `between`
/// that of the predictions with each other. Two equal correlations have Z = 0 even
/// where the predictions are the same. NaN for three samples or fewer, and for a
/// correlation of ±1, which Fisher's transformation sends to infinity.
///
/// Source: Steiger 1980, Psychological Bulletin 87:245, equations 3, 12 and 14.
pub fn steiger(first: f64, second: f64, between: f64, samples: usize) -> TestResult {
    let defined = |r: f64| r.abs() < 1.0;
    if samples <= 3
        || !defined(first)
        || !defined(second)
        || between.is_nan()
        || between.abs() > 1.0
    {
        return TestResult::UNDEFINED;
    }
    if first == second {
        return TestResult {
            statistic: 0.0,
            p_value: 1.0,
        };
    }
    let squared = ((first + second) / 2.0).powi(2);
    let psi =
        between * (1.0 - 2.0 * squared) - squared * (1.0 - 2.0 * squared - between * between) / 2.0;
    let covariance = psi / (1.0 - squared).powi(2);
    let freedom = samples as f64 - 3.0;
    let spread = 2.0 - 2.0 * covariance;
    let statistic = (first.atanh() - second.atanh()) * (freedom / spread).sqrt();
    TestResult {
        statistic,
        p_value: normal_two_sided(statistic),
    }
}

/// Runs `work` on blocks of columns in parallel and joins the results in order.
pub(super) fn by_block<T: Send>(
    columns: usize,
    work: impl Fn(std::ops::Range<usize>) -> Vec<T> + Sync,
) -> Vec<T> {
    (0..columns.div_ceil(BLOCK))
        .into_par_iter()
        .flat_map_iter(|block| work(block * BLOCK..columns.min((block + 1) * BLOCK)))
        .collect()
}

/// The given columns of a row-major matrix one after the other, in float64.
fn transposed(matrix: &[f32], width: usize, columns: std::ops::Range<usize>) -> Vec<f64> {
    let samples = matrix.len() / width;
    let mut out = vec![0.0; columns.len() * samples];
    for (row, values) in matrix.chunks(width).enumerate() {
        for (column, &value) in values[columns.clone()].iter().enumerate() {
            out[column * samples + row] = f64::from(value);
        }
    }
    out
}

/// Running sums of one column pair.
#[derive(Clone, Copy, Default)]
struct Moments {
    mean_p: f64,
    mean_t: f64,
    pp: f64,
    tt: f64,
    pt: f64,
    p_varies: bool,
    t_varies: bool,
}

fn pearson_block(
    pred: &[f32],
    truth: &[f32],
    width: usize,
    columns: std::ops::Range<usize>,
) -> Vec<Correlation> {
    let samples = pred.len() / width;
    let rows = || {
        (pred.chunks(width).zip(truth.chunks(width)))
            .map(|(p, t)| (&p[columns.clone()], &t[columns.clone()]))
    };
    let (first_p, first_t) = (&pred[columns.clone()], &truth[columns.clone()]);
    let mut sums = vec![Moments::default(); columns.len()];
    for (p, t) in rows() {
        for (i, m) in sums.iter_mut().enumerate() {
            m.mean_p += f64::from(p[i]);
            m.mean_t += f64::from(t[i]);
            m.p_varies |= p[i] != first_p[i];
            m.t_varies |= t[i] != first_t[i];
        }
    }
    for m in &mut sums {
        m.mean_p /= samples as f64;
        m.mean_t /= samples as f64;
    }
    for (p, t) in rows() {
        for (i, m) in sums.iter_mut().enumerate() {
            let (p, t) = (f64::from(p[i]) - m.mean_p, f64::from(t[i]) - m.mean_t);
            m.pp += p * p;
            m.tt += t * t;
            m.pt += p * t;
        }
    }
    sums.iter()
        .map(|m| {
            if !(m.p_varies && m.t_varies) {
                return Correlation::UNDEFINED;
            }
            let coefficient = m.pt / m.pp.sqrt() / m.tt.sqrt();
            Correlation::with_student(coefficient, samples)
        })
        .collect()
}
