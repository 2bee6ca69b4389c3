//! How well predicted classes match true ones.
//!
//! Everything is read off the confusion matrix. A ratio without cases (the
//! precision of a class that was never predicted) counts as 0, as in
//! scikit-learn.

use super::ensure_pair;
use crate::error::{Error, Result};

/// How the numbers of the classes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// Over all samples regardless of class: the accuracy.
    Micro,
    /// Plain mean over the classes that occur in the truth or the prediction.
    MacroPresent,
    /// Plain mean over all classes; those that occur nowhere count as 0.
    MacroAll,
    /// Mean over the classes weighted by their number of true samples.
    Weighted,
}

/// Counts of samples by true (row) and predicted (column) class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

/// More classes than any cohort has; keeps the matrix below a gigabyte.
const MOST_CLASSES: usize = 10_000;

impl Confusion {
    /// Counts samples; every class must be below `classes`.
    pub fn new(truth: &[usize], predicted: &[usize], classes: usize) -> Result<Self> {
        ensure_pair("confusion matrix", truth, predicted)?;
        if !(1..=MOST_CLASSES).contains(&classes) {
            return Err(Error::usage(
                format!("confusion matrix: {classes} classes"),
                format!("set a number of classes from 1 to {MOST_CLASSES}"),
            ));
        }
        let mut counts = vec![0; classes * classes];
        for (sample, (&t, &p)) in truth.iter().zip(predicted).enumerate() {
            if t >= classes || p >= classes {
                return Err(Error::usage(
                    format!(
                        "confusion matrix: sample {sample} has true class {t} and predicted class \
                         {p}, but there are {classes} classes"
                    ),
                    "number the classes from 0",
                ));
            }
            counts[t * classes + p] += 1;
        }
        Ok(Self { classes, counts })
    }

    /// The matrix, one row per true class.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u64]> {
        self.counts.chunks(self.classes)
    }

    fn hits(&self) -> Vec<u64> {
        (0..self.classes)
            .map(|c| self.counts[c * self.classes + c])
            .collect()
    }

    fn true_counts(&self) -> Vec<u64> {
        self.rows().map(|row| row.iter().sum()).collect()
    }

    fn predicted_counts(&self) -> Vec<u64> {
        (0..self.classes)
            .map(|c| self.rows().map(|row| row[c]).sum())
            .collect()
    }

    /// Share of samples that are right.
    pub fn accuracy(&self) -> f64 {
        ratio(self.hits().iter().sum(), self.counts.iter().sum())
    }

    /// Mean recall over the classes that occur in the truth.
    pub fn balanced_accuracy(&self) -> f64 {
        let recalls: Vec<f64> = (self.hits().into_iter().zip(self.true_counts()))
            .filter(|&(_, count)| count > 0)
            .map(|(hits, count)| ratio(hits, count))
            .collect();
        recalls.iter().sum::<f64>() / recalls.len() as f64
    }

    /// Per class: of the samples predicted as it, the share that is it.
    pub fn precision_per_class(&self) -> Vec<f64> {
        (self.hits().into_iter().zip(self.predicted_counts()))
            .map(|(hits, count)| ratio(hits, count))
            .collect()
    }

    /// Per class: of the samples that are it, the share predicted as it.
    pub fn recall_per_class(&self) -> Vec<f64> {
        (self.hits().into_iter().zip(self.true_counts()))
            .map(|(hits, count)| ratio(hits, count))
            .collect()
    }

    /// Per class: the harmonic mean of precision and recall.
    pub fn f1_per_class(&self) -> Vec<f64> {
        (self.hits().into_iter())
            .zip(self.true_counts().into_iter().zip(self.predicted_counts()))
            .map(|(hits, (truth, predicted))| ratio(2 * hits, truth + predicted))
            .collect()
    }

    pub fn precision(&self, average: Average) -> f64 {
        self.average(&self.precision_per_class(), average)
    }

    pub fn recall(&self, average: Average) -> f64 {
        self.average(&self.recall_per_class(), average)
    }

    pub fn f1(&self, average: Average) -> f64 {
        self.average(&self.f1_per_class(), average)
    }

    fn average(&self, per_class: &[f64], average: Average) -> f64 {
        let truth = self.true_counts();
        let weights: Vec<f64> = match average {
            Average::Micro => return self.accuracy(),
            Average::MacroAll => vec![1.0; self.classes],
            Average::MacroPresent => (truth.iter().zip(self.predicted_counts()))
                .map(|(&t, p)| if t + p > 0 { 1.0 } else { 0.0 })
                .collect(),
            Average::Weighted => truth.iter().map(|&t| t as f64).collect(),
        };
        let sum: f64 = per_class.iter().zip(&weights).map(|(v, w)| v * w).sum();
        sum / weights.iter().sum::<f64>()
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}
