//! How well scores put the positive samples before the negative ones.
//!
//! A NaN score has no place in an order and is an error here. With a single
//! class the areas are NaN.

use super::summary::rank;
use super::{TestResult, ensure_matrix, ensure_pair, ensure_some, normal_two_sided};
use crate::error::{Error, Result};

fn ensure_ordered(what: &str, scores: &[f64]) -> Result<()> {
    if let Some(index) = scores.iter().position(|s| s.is_nan()) {
        return Err(Error::usage(
            format!("{what}: score {index} is NaN and cannot be ranked"),
            "leave that sample out, or look for the cause in the model",
        ));
    }
    Ok(())
}

/// Area under the ROC curve: the chance that a positive sample scores above a
/// negative one, equal scores counting half.
pub fn roc_auc(labels: &[bool], scores: &[f64]) -> Result<f64> {
    ensure_pair("ROC AUC", labels, scores)?;
    ensure_ordered("ROC AUC", scores)?;
    Ok(auc(labels, scores))
}

fn auc(labels: &[bool], scores: &[f64]) -> f64 {
    let positives = labels.iter().filter(|&&l| l).count() as f64;
    let negatives = labels.len() as f64 - positives;
    let ranks: f64 = (rank(scores).0.iter().zip(labels))
        .filter(|(_, l)| **l)
        .map(|(r, _)| r)
        .sum();
    (ranks - positives * (positives + 1.0) / 2.0) / (positives * negatives)
}

/// How the classes' areas become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MulticlassAuc {
    /// Each class against all others, plain mean.
    OneVersusRest,
    /// Each class against all others, weighted by its number of samples.
    OneVersusRestWeighted,
    /// Mean over all pairs of classes, among the samples of the two
    /// (Hand and Till 2001).
    OneVersusOne,
}

/// Area under the ROC curve for several classes; `scores` is row-major
/// `(samples, classes)`. NaN where a class has no samples or all of them.
pub fn roc_auc_multiclass(
    truth: &[usize],
    scores: &[f64],
    classes: usize,
    kind: MulticlassAuc,
) -> Result<f64> {
    let what = "ROC AUC of several classes";
    ensure_some(what, truth)?;
    ensure_matrix(what, scores, truth.len(), classes)?;
    ensure_ordered(what, scores)?;
    if let Some((sample, class)) = truth.iter().enumerate().find(|(_, c)| **c >= classes) {
        return Err(Error::usage(
            format!("{what}: sample {sample} has class {class} of {classes}"),
            "number the classes from 0",
        ));
    }
    // The area of `class` against the samples that `others` keeps.
    let area = |class: usize, others: &dyn Fn(usize) -> bool| {
        let (labels, column): (Vec<bool>, Vec<f64>) = (truth.iter().zip(scores.chunks(classes)))
            .filter(|(t, _)| **t == class || others(**t))
            .map(|(t, row)| (*t == class, row[class]))
            .unzip();
        auc(&labels, &column)
    };
    let weighted_mean = |areas: &[(f64, f64)]| {
        let sum: f64 = areas.iter().map(|(area, weight)| area * weight).sum();
        sum / areas.iter().map(|(_, weight)| weight).sum::<f64>()
    };
    let areas: Vec<(f64, f64)> = match kind {
        MulticlassAuc::OneVersusRest => (0..classes).map(|c| (area(c, &|_| true), 1.0)).collect(),
        MulticlassAuc::OneVersusRestWeighted => (0..classes)
            .map(|c| {
                let samples = truth.iter().filter(|&&t| t == c).count();
                (area(c, &|_| true), samples as f64)
            })
            .collect(),
        MulticlassAuc::OneVersusOne => (0..classes)
            .flat_map(|a| (a + 1..classes).map(move |b| (a, b)))
            .map(|(a, b)| ((area(a, &|t| t == b) + area(b, &|t| t == a)) / 2.0, 1.0))
            .collect(),
    };
    Ok(weighted_mean(&areas))
}

/// Where the curve is when samples scoring at least `threshold` are called positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RocPoint {
    pub false_positive_rate: f64,
    pub true_positive_rate: f64,
    pub threshold: f64,
}

/// Counts of true and false positives when calling everything from a score on.
struct Called {
    threshold: f64,
    hits: u64,
    alarms: u64,
}

/// One entry per distinct score, from the highest.
fn called(labels: &[bool], scores: &[f64]) -> Vec<Called> {
    let mut order: Vec<(f64, bool)> =
        (scores.iter().copied().zip(labels.iter().copied())).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut hits, mut alarms) = (0, 0);
    order
        .chunk_by(|a, b| a.0 == b.0)
        .map(|run| {
            let positives = run.iter().filter(|(_, l)| *l).count() as u64;
            hits += positives;
            alarms += run.len() as u64 - positives;
            Called {
                threshold: run[0].0,
                hits,
                alarms,
            }
        })
        .collect()
}

/// The corners of the ROC curve from (0, 0) at an infinite threshold to (1, 1).
/// Points on a straight line between two others are left out. A rate of a
/// class without samples is NaN.
pub fn roc_curve(labels: &[bool], scores: &[f64]) -> Result<Vec<RocPoint>> {
    ensure_pair("ROC curve", labels, scores)?;
    ensure_ordered("ROC curve", scores)?;
    let all = called(labels, scores);
    let start = Called {
        threshold: f64::INFINITY,
        hits: 0,
        alarms: 0,
    };
    let (positives, negatives) = all.last().map_or((0, 0), |end| (end.hits, end.alarms));
    let step = |from: &Called, to: &Called| (to.hits - from.hits, to.alarms - from.alarms);
    let corner = |i: usize| {
        let Some(next) = all.get(i + 1) else {
            return true;
        };
        let previous = if i == 0 { None } else { all.get(i - 1) };
        // As in scikit-learn, equal steps are what makes a point superfluous, and the
        // first score always stays.
        previous.is_none_or(|previous| step(previous, &all[i]) != step(&all[i], next))
    };
    Ok(std::iter::once(&start)
        .chain((0..all.len()).filter(|&i| corner(i)).map(|i| &all[i]))
        .map(|c| RocPoint {
            false_positive_rate: c.alarms as f64 / negatives as f64,
            true_positive_rate: c.hits as f64 / positives as f64,
            threshold: c.threshold,
        })
        .collect())
}

/// Average precision: the precision at each score, weighted by the recall that
/// it adds (no interpolation). NaN without positive samples.
pub fn average_precision(labels: &[bool], scores: &[f64]) -> Result<f64> {
    ensure_pair("average precision", labels, scores)?;
    ensure_ordered("average precision", scores)?;
    let all = called(labels, scores);
    let positives = all.last().map_or(0, |end| end.hits);
    let mut before = 0;
    let mut sum = 0.0;
    for c in &all {
        let gained = (c.hits - before) as f64;
        sum += gained * c.hits as f64 / (c.hits + c.alarms) as f64;
        before = c.hits;
    }
    Ok(sum / positives as f64)
}

/// Up to this size of the smaller sample the distribution of U is enumerated.
const MANN_WHITNEY_EXACT: usize = 8;
/// Up to this size of the larger one the counts of orders fit in 128 bits.
const MANN_WHITNEY_LARGER: usize = 200_000;

/// Mann-Whitney test that `a` and `b` have the same distribution, two-sided;
/// the statistic is U of `a`.
///
/// The p-value is exact where nothing is tied and one sample has at most 8
/// values (scipy's automatic choice), else that of the normal approximation
/// with corrections for ties and continuity. It is 1 where all values are equal.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> Result<TestResult> {
    let what = "Mann-Whitney test";
    ensure_some(what, a)?;
    ensure_some(what, b)?;
    ensure_ordered(what, a)?;
    ensure_ordered(what, b)?;
    let joined = [a, b].concat();
    let (ranks, ties) = rank(&joined);
    let (m, n) = (a.len() as f64, b.len() as f64);
    let statistic = ranks[..a.len()].iter().sum::<f64>() - m * (m + 1.0) / 2.0;
    let larger_u = statistic.max(m * n - statistic);
    let (few, many) = (a.len().min(b.len()), a.len().max(b.len()));
    let p_value = if ties == 0.0 && few <= MANN_WHITNEY_EXACT && many <= MANN_WHITNEY_LARGER {
        mann_whitney_exact(few, many, (m * n - larger_u) as usize)
    } else {
        let total = m + n;
        let variance = m * n / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
        let z = (larger_u - m * n / 2.0 - 0.5) / variance.max(0.0).sqrt();
        // Below the mean, where only the continuity correction can put it, p is 1.
        if z < 0.0 { 1.0 } else { normal_two_sided(z) }
    };
    Ok(TestResult { statistic, p_value })
}

/// Twice the share of the orders of `few` among `many` with a U of at most
/// `smaller_u`.
///
/// The counts are the coefficients of the Gaussian binomial
/// Π (1 - q^(many + i)) / (1 - q^i), i = 1..few. The arithmetic wraps: that is
/// exact modulo 2^128, and the counts themselves are smaller.
fn mann_whitney_exact(few: usize, many: usize, smaller_u: usize) -> f64 {
    let mut counts = vec![0u128; smaller_u + 1];
    counts[0] = 1;
    let mut orders = 1.0;
    for i in 1..=few {
        for u in (many + i..=smaller_u).rev() {
            counts[u] = counts[u].wrapping_sub(counts[u - many - i]);
        }
        for u in i..=smaller_u {
            counts[u] = counts[u].wrapping_add(counts[u - i]);
        }
        orders *= (many + i) as f64 / i as f64;
    }
    let sum: f64 = counts.iter().map(|&c| c as f64).sum();
    (2.0 * sum / orders).min(1.0)
}
