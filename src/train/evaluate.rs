//! Scores of predictions, gene by gene, and the files that say so.
//!
//! A gene counts as predicted when its correlation is positive and its
//! one-sided p-value stays under 1 % after Benjamini and Hochberg's correction
//! over all genes. One-sided, because in cross-validation a gene without
//! signal is predicted at the training mean, which is low where the held-out
//! values are high: its correlation is pulled below zero, not above. The same holds for
//! Spearman's and Kendall's coefficients, and their tests are one-sided too.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::expression::{Table, table};
use crate::formats::atomic::write_bytes;
use crate::metrics::correlation::{
    Correlation, kendall_columns, pearson_columns, spearman_columns, steiger,
};
use crate::metrics::multiple_testing::{Correction, adjust};
use crate::metrics::regression::column_errors;
use crate::metrics::summary::median;
use crate::train::run::HeldOut;

/// The level of the corrected test.
pub const LEVEL: f64 = 0.01;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneScore {
    pub gene: String,
    /// NaN where predicted or measured values are constant.
    pub pearson: f64,
    /// One-sided, for a positive correlation.
    pub p: f64,
    /// p after Benjamini-Hochberg over all genes.
    pub q: f64,
    /// p after Holm-Sidak over all genes.
    pub holm_sidak: f64,
    pub spearman: f64,
    pub spearman_p: f64,
    pub kendall: f64,
    pub kendall_p: f64,
    pub mae: f64,
    pub rmse: f64,
    /// The RMSE over that of predicting the training mean; empty where it is not known.
    pub relative_rmse: Option<f64>,
}

impl GeneScore {
    pub fn significant(&self) -> bool {
        self.pearson > 0.0 && self.q < LEVEL
    }
}

/// Genes whose correlation is positive at [`LEVEL`] after a correction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub benjamini_hochberg: usize,
    pub holm_sidak: usize,
}

/// [`Counts`] by coefficient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Significant {
    pub pearson: Counts,
    pub spearman: Counts,
    pub kendall: Counts,
}

/// Scores of a whole table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub samples: usize,
    pub genes: Vec<GeneScore>,
    pub counts: Significant,
}

impl Scores {
    /// `predicted`, `measured`: (samples, genes), row-major.
    ///
    /// # Errors
    /// Fewer than three samples, sizes that do not fit.
    pub fn new(
        names: &[String],
        samples: usize,
        predicted: &[f32],
        measured: &[f32],
    ) -> Result<Self> {
        if samples < 3 {
            return Err(Error::usage(
                format!("{samples} held-out samples are too few for a correlation"),
                "hold out at least 3 samples",
            ));
        }
        let width = names.len();
        let pearson = pearson_columns(predicted, measured, samples, width)?;
        let spearman = spearman_columns(predicted, measured, samples, width)?;
        let kendall = kendall_columns(predicted, measured, samples, width)?;
        let errors = column_errors(predicted, measured, samples, width, None)?;
        let (p, spearman_p, kendall_p) = (
            one_sided(&pearson),
            one_sided(&spearman),
            one_sided(&kendall),
        );
        let q = adjust(&p, Correction::BenjaminiHochberg)?;
        let holm_sidak = adjust(&p, Correction::HolmSidak)?;
        let counts = Significant {
            pearson: counts(&p)?,
            spearman: counts(&spearman_p)?,
            kendall: counts(&kendall_p)?,
        };
        let genes = (0..width)
            .map(|g| GeneScore {
                gene: names[g].clone(),
                pearson: pearson[g].coefficient,
                p: p[g],
                q: q[g],
                holm_sidak: holm_sidak[g],
                spearman: spearman[g].coefficient,
                spearman_p: spearman_p[g],
                kendall: kendall[g].coefficient,
                kendall_p: kendall_p[g],
                mae: errors.mae[g],
                rmse: errors.rmse[g],
                relative_rmse: None,
            })
            .collect();
        Ok(Self {
            samples,
            genes,
            counts,
        })
    }

    /// Sets the relative errors; `baseline` predicts the training mean of each gene
    /// for each sample: (samples, genes). A gene that is exactly its training mean in
    /// every sample has none.
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn relative_to(&mut self, baseline: &[f32], measured: &[f32]) -> Result<()> {
        let errors = column_errors(baseline, measured, self.samples, self.genes.len(), None)?;
        for (gene, rmse) in self.genes.iter_mut().zip(errors.rmse) {
            gene.relative_rmse = Some(gene.rmse / rmse).filter(|r| r.is_finite());
        }
        Ok(())
    }

    /// Scores of what a run held out.
    ///
    /// # Errors
    /// As [`Scores::new`].
    pub fn of(held: &HeldOut) -> Result<Self> {
        let mut scores = Self::new(
            &held.genes,
            held.samples.len(),
            &held.predicted,
            &held.measured,
        )?;
        if let Some(baseline) = held.baseline() {
            scores.relative_to(&baseline, &held.measured)?;
        }
        Ok(scores)
    }

    /// The median Pearson correlation of the genes that `keep` holds for;
    /// genes without one count as 0.
    pub fn median_pearson(&self, keep: impl Fn(&GeneScore) -> bool) -> f64 {
        let r: Vec<f64> = self
            .genes
            .iter()
            .filter(|g| keep(g))
            .map(correlation)
            .collect();
        median(&r).unwrap_or(f64::NAN)
    }

    /// The median of a figure over the genes that have it; NaN where none has.
    pub fn median_of(&self, figure: impl Fn(&GeneScore) -> Option<f64>) -> f64 {
        let values = self.genes.iter().filter_map(figure).filter(|v| !v.is_nan());
        median(&values.collect::<Vec<_>>()).unwrap_or(f64::NAN)
    }

    /// The mean Pearson correlation of the best `n` genes.
    pub fn top_pearson(&self, n: usize) -> f64 {
        let mut r: Vec<f64> = self.genes.iter().map(correlation).collect();
        r.sort_by(|a, b| b.total_cmp(a));
        r.truncate(n);
        r.iter().sum::<f64>() / r.len().max(1) as f64
    }

    pub fn significant(&self) -> usize {
        self.genes.iter().filter(|g| g.significant()).count()
    }

    /// Genes from the best correlation to the worst.
    pub fn ranked(&self) -> Vec<&GeneScore> {
        let mut ranked: Vec<&GeneScore> = self.genes.iter().collect();
        ranked.sort_by(|a, b| correlation(b).total_cmp(&correlation(a)));
        ranked
    }

    /// Writes one line a gene, from the best to the worst.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_rows(path, self.ranked())
    }
}

/// Writes one line for each row, under a header of its fields.
pub(crate) fn write_rows<T: Serialize>(
    path: &Path,
    rows: impl IntoIterator<Item = T>,
) -> Result<()> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let failed = |e: String| Error::usage(format!("no table: {e}"), "report this");
    for row in rows {
        out.serialize(row).map_err(|e| failed(e.to_string()))?;
    }
    let bytes = out.into_inner().map_err(|e| failed(e.to_string()))?;
    write_bytes(path, &bytes)
}

/// p-values of a positive correlation.
fn one_sided(correlations: &[Correlation]) -> Vec<f64> {
    let p = |c: &Correlation| match c.coefficient > 0.0 {
        true => c.p_value / 2.0,
        false => 1.0 - c.p_value / 2.0,
    };
    correlations.iter().map(p).collect()
}

fn counts(p: &[f64]) -> Result<Counts> {
    let below = |correction| -> Result<usize> {
        let adjusted = adjust(p, correction)?;
        Ok(adjusted.iter().filter(|p| **p < LEVEL).count())
    };
    Ok(Counts {
        benjamini_hochberg: below(Correction::BenjaminiHochberg)?,
        holm_sidak: below(Correction::HolmSidak)?,
    })
}

/// Two predictions of one gene.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneComparison {
    pub gene: String,
    /// Pearson correlations with the measured values, and with each other.
    pub first: f64,
    pub second: f64,
    pub between: f64,
    /// Steiger's Z, positive where the first is better.
    pub z: f64,
    /// Two-sided.
    pub p: f64,
    /// p after Benjamini-Hochberg over all genes.
    pub q: f64,
}

/// Two predictions of the same samples, gene by gene.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub samples: usize,
    /// Genes that one predicts better, at [`LEVEL`] after Benjamini-Hochberg.
    pub first_better: usize,
    pub second_better: usize,
    #[serde(skip)]
    pub genes: Vec<GeneComparison>,
}

impl Comparison {
    /// All values: (samples, genes), row-major.
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn new(
        names: &[String],
        samples: usize,
        [first, second]: [&[f32]; 2],
        measured: &[f32],
    ) -> Result<Self> {
        let of = |a: &[f32], b: &[f32]| pearson_columns(a, b, samples, names.len());
        let (r1, r2) = (of(first, measured)?, of(second, measured)?);
        let between = of(first, second)?;
        let tests = (0..names.len()).map(|g| {
            let [a, b, c] = [r1[g], r2[g], between[g]].map(|r| r.coefficient);
            steiger(a, b, c, samples)
        });
        let tests: Vec<_> = tests.collect();
        let p: Vec<f64> = tests.iter().map(|t| t.p_value).collect();
        let q = adjust(&p, Correction::BenjaminiHochberg)?;
        let genes = (0..names.len()).map(|g| GeneComparison {
            gene: names[g].clone(),
            first: r1[g].coefficient,
            second: r2[g].coefficient,
            between: between[g].coefficient,
            z: tests[g].statistic,
            p: p[g],
            q: q[g],
        });
        let genes: Vec<_> = genes.collect();
        let better = |sign: f64| {
            genes
                .iter()
                .filter(|g| g.q < LEVEL && g.z * sign > 0.0)
                .count()
        };
        Ok(Self {
            samples,
            first_better: better(1.0),
            second_better: better(-1.0),
            genes,
        })
    }

    /// Writes one line a gene, the surest differences first.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut ranked: Vec<&GeneComparison> = self.genes.iter().collect();
        ranked.sort_by(|a, b| a.p.total_cmp(&b.p));
        write_rows(path, ranked)
    }
}

fn correlation(g: &GeneScore) -> f64 {
    if g.pearson.is_nan() { 0.0 } else { g.pearson }
}

/// Which fold held a sample out.
#[derive(Serialize)]
struct FoldOf<'a> {
    sample: &'a str,
    fold: String,
}

/// The headline figures of a run or evaluation, as `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub samples: usize,
    pub genes: usize,
    pub median_pearson: f64,
    pub top50_pearson: f64,
    pub significant_genes: usize,
    pub significance_level: f64,
    /// Medians over the genes that have one.
    pub median_spearman: f64,
    pub median_kendall: f64,
    pub median_mae: f64,
    pub median_rmse: f64,
    /// Over predicting the training mean: below 1 is better than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_relative_rmse: Option<f64>,
    pub counts: Significant,
    /// Whether a patient of a held-out sample was in training too.
    pub same_patient: bool,
    pub features: String,
    /// Of genes that are reported beside all, if some are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
}

/// Figures of some of the genes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    pub genes: usize,
    pub median_pearson: f64,
}

impl Summary {
    pub fn new(scores: &Scores, same_patient: bool, features: &str) -> Self {
        Self {
            samples: scores.samples,
            genes: scores.genes.len(),
            median_pearson: scores.median_pearson(|_| true),
            top50_pearson: scores.top_pearson(50),
            significant_genes: scores.significant(),
            significance_level: LEVEL,
            median_spearman: scores.median_of(|g| Some(g.spearman)),
            median_kendall: scores.median_of(|g| Some(g.kendall)),
            median_mae: scores.median_of(|g| Some(g.mae)),
            median_rmse: scores.median_of(|g| Some(g.rmse)),
            median_relative_rmse: Some(scores.median_of(|g| g.relative_rmse))
                .filter(|r| !r.is_nan()),
            counts: scores.counts,
            same_patient,
            features: features.to_owned(),
            reported: None,
        }
    }
}

/// Writes `predictions.csv`, `measured.csv`, `genes.csv` and `summary.json`, and where
/// they are known `training_means.csv`, a line a fold, and `folds.csv`.
pub fn write_results(
    folder: &Path,
    held_out: &HeldOut,
    scores: &Scores,
    summary: &Summary,
) -> Result<()> {
    let as_table = |values: &[f32]| Table {
        samples: held_out.samples.clone(),
        genes: held_out.genes.clone(),
        values: values.to_vec(),
    };
    table::write(
        folder.join("predictions.csv"),
        &as_table(&held_out.predicted),
    )?;
    table::write(folder.join("measured.csv"), &as_table(&held_out.measured))?;
    scores.write(&folder.join("genes.csv"))?;
    if held_out.baseline().is_some() {
        let folds = held_out.training_means.len() / held_out.genes.len();
        let means = Table {
            samples: (0..folds).map(|fold| format!("fold{fold}")).collect(),
            genes: held_out.genes.clone(),
            values: held_out.training_means.clone(),
        };
        table::write(folder.join("training_means.csv"), &means)?;
        let rows = held_out.samples.iter().zip(&held_out.fold);
        let rows = rows.map(|(sample, fold)| FoldOf {
            sample,
            fold: format!("fold{fold}"),
        });
        write_rows(&folder.join("folds.csv"), rows)?;
    }
    let json = serde_json::to_vec_pretty(summary)
        .map_err(|e| Error::usage(format!("no summary: {e}"), "report this"))?;
    write_bytes(folder.join("summary.json"), &json)
}
