//! Scores of predictions, gene by gene, and the files that say so.
//!
//! A gene counts as predicted when its correlation is positive and its
//! one-sided p-value stays under 1 % after Benjamini and Hochberg's correction
//! over all genes. One-sided, because in cross-validation a gene without
//! signal is predicted at the training mean, which is low where the held-out
//! values are high: its correlation is pulled below zero, not above.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::expression::{Table, table};
use crate::formats::atomic::write_bytes;
use crate::metrics::correlation::{pearson_columns, spearman_columns};
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
    pub spearman: f64,
    pub mae: f64,
    pub rmse: f64,
}

impl GeneScore {
    pub fn significant(&self) -> bool {
        self.pearson > 0.0 && self.q < LEVEL
    }
}

/// Scores of a whole table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub samples: usize,
    pub genes: Vec<GeneScore>,
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
        let errors = column_errors(predicted, measured, samples, width, None)?;
        let one_sided: Vec<f64> = pearson
            .iter()
            .map(|c| match c.coefficient > 0.0 {
                true => c.p_value / 2.0,
                false => 1.0 - c.p_value / 2.0,
            })
            .collect();
        let corrected = adjust(&one_sided, Correction::BenjaminiHochberg)?;
        let genes = (0..width)
            .map(|g| GeneScore {
                gene: names[g].clone(),
                pearson: pearson[g].coefficient,
                p: one_sided[g],
                q: corrected[g],
                spearman: spearman[g].coefficient,
                mae: errors.mae[g],
                rmse: errors.rmse[g],
            })
            .collect();
        Ok(Self { samples, genes })
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

    fn write(&self, path: &Path) -> Result<()> {
        let mut out = csv::Writer::from_writer(Vec::new());
        let failed = |e: csv::Error| Error::usage(format!("no table: {e}"), "report this");
        for score in self.ranked() {
            out.serialize(score).map_err(failed)?;
        }
        let bytes = out
            .into_inner()
            .map_err(|e| Error::usage(format!("no table: {e}"), "report this"))?;
        write_bytes(path, &bytes)
    }
}

fn correlation(g: &GeneScore) -> f64 {
    if g.pearson.is_nan() { 0.0 } else { g.pearson }
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
            same_patient,
            features: features.to_owned(),
            reported: None,
        }
    }
}

/// Writes `predictions.csv`, `measured.csv`, `genes.csv` and `summary.json`.
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
    let json = serde_json::to_vec_pretty(summary)
        .map_err(|e| Error::usage(format!("no summary: {e}"), "report this"))?;
    write_bytes(folder.join("summary.json"), &json)
}
