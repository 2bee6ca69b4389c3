//! Transforms of expression, fitted on training samples only.
//!
//! A chain such as `library_size:10000, log1p, zscore` acts on one sample's
//! chosen genes at a time, so nothing but the fitted statistics passes from
//! one sample to another, and those come from the training rows alone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Table;
use crate::error::{Error, Result};

/// One step, as the configuration names it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Transform {
    /// `log1p`: ln(1 + x).
    Log1p,
    /// `log10p1`: log10(1 + x).
    Log10p1,
    /// `library_size:TOTAL`: each sample scaled so that its genes sum to
    /// `total`. A sample without counts stays zero.
    LibrarySize { total: f64 },
    /// `zscore`: (x - mean) / standard deviation of each gene over the
    /// training samples (n in the denominator); a gene that does not vary
    /// there is only centred.
    ZScore,
}

impl FromStr for Transform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let remedy =
            "use log1p, log10p1, library_size:TOTAL (such as library_size:10000) or zscore";
        match text.trim() {
            "log1p" => Ok(Self::Log1p),
            "log10p1" => Ok(Self::Log10p1),
            "zscore" => Ok(Self::ZScore),
            other => match other.strip_prefix("library_size:").map(str::parse) {
                Some(Ok(total)) if f64::is_finite(total) && total > 0.0 => {
                    Ok(Self::LibrarySize { total })
                }
                Some(_) => Err(Error::usage(
                    format!("the total of `{other}` is not a number above zero"),
                    remedy,
                )),
                None => Err(Error::usage(
                    format!("`{other}` is no expression transform"),
                    remedy,
                )),
            },
        }
    }
}

impl TryFrom<String> for Transform {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Transform> for String {
    fn from(transform: Transform) -> Self {
        transform.to_string()
    }
}

impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log1p => f.write_str("log1p"),
            Self::Log10p1 => f.write_str("log10p1"),
            Self::LibrarySize { total } => write!(f, "library_size:{total}"),
            Self::ZScore => f.write_str("zscore"),
        }
    }
}

/// A step with what it learnt from the training samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fitted {
    Log1p,
    Log10p1,
    LibrarySize {
        total: f64,
    },
    ZScore {
        /// (genes).
        mean: Vec<f64>,
        /// (genes); 1 for a gene that does not vary.
        scale: Vec<f64>,
    },
}

/// A chain of transforms, fitted; kept with the model that is trained on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedTransforms {
    genes: Vec<String>,
    steps: Vec<Fitted>,
}

impl FittedTransforms {
    /// Fits a chain on the rows `train` of a table of the chosen genes. Other
    /// rows are not looked at.
    ///
    /// # Errors
    /// No training rows, or a row past the end; a chain without meaning: a
    /// logarithm or library size after a z-score, a library size after a
    /// logarithm.
    pub fn fit(chain: &[Transform], table: &Table, train: &[usize]) -> Result<Self> {
        check_order(chain)?;
        if train.is_empty() {
            return Err(Error::usage(
                "there are no training samples to fit the transforms on",
                "give at least one training sample",
            ));
        }
        let mut fitted = Self {
            genes: table.genes.clone(),
            steps: Vec::with_capacity(chain.len()),
        };
        let mut rows = table.select_samples(train)?;
        let width = rows.genes.len().max(1);
        for &transform in chain {
            let step = match transform {
                Transform::Log1p => Fitted::Log1p,
                Transform::Log10p1 => Fitted::Log10p1,
                Transform::LibrarySize { total } => Fitted::LibrarySize { total },
                Transform::ZScore => standardise(&rows),
            };
            rows.values
                .chunks_exact_mut(width)
                .for_each(|row| step.apply(row));
            fitted.steps.push(step);
        }
        Ok(fitted)
    }

    /// The genes it was fitted for, in the order that it expects.
    pub fn genes(&self) -> &[String] {
        &self.genes
    }

    /// Transforms one sample's values in place. `row`: (genes).
    ///
    /// # Errors
    /// A row of another length; a value whose transform is not finite (a
    /// logarithm of a value at or below -1, for instance).
    pub fn apply(&self, row: &mut [f32]) -> Result<()> {
        self.check(row)?;
        self.steps.iter().for_each(|step| step.apply(row));
        match row.iter().position(|v| !v.is_finite()) {
            None => Ok(()),
            Some(i) => Err(Error::op(
                "FittedTransforms::apply",
                format!(
                    "gene `{}` becomes {}: its value is outside what the transforms take",
                    self.genes[i], row[i]
                ),
            )),
        }
    }

    /// The transformed values of all samples: (samples, genes), row-major.
    ///
    /// # Errors
    /// A table of other genes or in another order; else as [`Self::apply`].
    pub fn apply_table(&self, table: &Table) -> Result<Vec<f32>> {
        if table.genes != self.genes {
            return Err(Error::usage(
                format!(
                    "the transforms were fitted for {} genes in their order, the table has {} others or in another order",
                    self.genes.len(),
                    table.genes.len()
                ),
                "select the same genes first",
            ));
        }
        let mut values = table.values.clone();
        values
            .chunks_exact_mut(self.genes.len().max(1))
            .try_for_each(|row| self.apply(row))?;
        Ok(values)
    }

    /// Takes transformed values back, for plots. The library size of a sample
    /// is not kept, so after `library_size:TOTAL` the values stay per `TOTAL`.
    ///
    /// # Errors
    /// A row of another length.
    pub fn invert(&self, row: &mut [f32]) -> Result<()> {
        self.check(row)?;
        self.steps.iter().rev().for_each(|step| step.invert(row));
        Ok(())
    }

    fn check(&self, row: &[f32]) -> Result<()> {
        if row.len() == self.genes.len() {
            return Ok(());
        }
        Err(Error::shape(
            "FittedTransforms",
            &[&[row.len()]],
            format!("one value for each of {} genes", self.genes.len()),
        ))
    }
}

fn check_order(chain: &[Transform]) -> Result<()> {
    let is_log = |t: &Transform| matches!(t, Transform::Log1p | Transform::Log10p1);
    for pair in 1..chain.len() {
        let (before, now) = (&chain[..pair], &chain[pair]);
        let refuse = |earlier: &str| {
            Err(Error::usage(
                format!("the transform {now} has no meaning after {earlier}"),
                "the usual order is library_size:TOTAL, then log1p or log10p1, then zscore",
            ))
        };
        if before.contains(&Transform::ZScore) && *now != Transform::ZScore {
            return refuse("zscore");
        }
        if before.iter().any(is_log) && matches!(now, Transform::LibrarySize { .. }) {
            return refuse("a logarithm");
        }
    }
    Ok(())
}

/// Mean and standard deviation of each gene over all rows, in f64.
fn standardise(table: &Table) -> Fitted {
    let genes = table.genes.len();
    let n = table.samples.len() as f64;
    let mut mean = vec![0.0; genes];
    for row in table.rows() {
        for (m, &v) in mean.iter_mut().zip(row) {
            *m += f64::from(v);
        }
    }
    mean.iter_mut().for_each(|m| *m /= n);

    let mut scale = vec![0.0; genes];
    let mut varies = vec![false; genes];
    let first = table.row(0).unwrap_or_default();
    for row in table.rows() {
        for (gene, &v) in row.iter().enumerate() {
            scale[gene] += (f64::from(v) - mean[gene]).powi(2);
            varies[gene] |= v != first[gene];
        }
    }
    // Rounding in the mean can leave a constant gene a tiny variance, so
    // constancy is asked of the values.
    for (s, varies) in scale.iter_mut().zip(varies) {
        let deviation = (*s / n).sqrt();
        *s = if varies && deviation > 0.0 {
            deviation
        } else {
            1.0
        };
    }
    Fitted::ZScore { mean, scale }
}

impl Fitted {
    fn apply(&self, row: &mut [f32]) {
        match self {
            Self::Log1p => row.iter_mut().for_each(|v| *v = v.ln_1p()),
            Self::Log10p1 => row
                .iter_mut()
                .for_each(|v| *v = (f64::from(*v).ln_1p() / std::f64::consts::LN_10) as f32),
            Self::LibrarySize { total } => {
                let sum: f64 = row.iter().map(|&v| f64::from(v)).sum();
                if sum > 0.0 {
                    let factor = total / sum;
                    row.iter_mut()
                        .for_each(|v| *v = (f64::from(*v) * factor) as f32);
                }
            }
            Self::ZScore { mean, scale } => {
                for ((v, m), s) in row.iter_mut().zip(mean).zip(scale) {
                    *v = ((f64::from(*v) - m) / s) as f32;
                }
            }
        }
    }

    fn invert(&self, row: &mut [f32]) {
        match self {
            Self::Log1p => row.iter_mut().for_each(|v| *v = v.exp_m1()),
            Self::Log10p1 => row
                .iter_mut()
                .for_each(|v| *v = (f64::from(*v) * std::f64::consts::LN_10).exp_m1() as f32),
            Self::LibrarySize { .. } => {}
            Self::ZScore { mean, scale } => {
                for ((v, m), s) in row.iter_mut().zip(mean).zip(scale) {
                    *v = (f64::from(*v) * s + m) as f32;
                }
            }
        }
    }
}
