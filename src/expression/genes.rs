//! Which genes a model predicts: from a file, or by what the training samples
//! show. Test samples never take part in the choice.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Table;
use crate::error::{Error, Result};

/// How genes are chosen, as the configuration names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum GeneChoice {
    /// `all`
    #[default]
    All,
    /// `file:PATH`: one gene a line; the order of the file is kept.
    File(PathBuf),
    /// `variance:N`: the N genes of highest variance.
    HighestVariance(usize),
    /// `mean:N`: the N genes of highest mean.
    HighestMean(usize),
}

impl FromStr for GeneChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            Error::usage(
                format!("`{text}` is no choice of genes"),
                "use all, file:PATH, variance:N or mean:N",
            )
        };
        let count = |n: &str| match n.parse() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(refuse()),
        };
        match text.trim().split_once(':') {
            None if text.trim() == "all" => Ok(Self::All),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("variance", n)) => Ok(Self::HighestVariance(count(n)?)),
            Some(("mean", n)) => Ok(Self::HighestMean(count(n)?)),
            _ => Err(refuse()),
        }
    }
}

impl TryFrom<String> for GeneChoice {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<GeneChoice> for String {
    fn from(choice: GeneChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for GeneChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::HighestVariance(n) => write!(f, "variance:{n}"),
            Self::HighestMean(n) => write!(f, "mean:{n}"),
        }
    }
}

/// The outcome of a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Columns of the table: in the file's order, else in the table's.
    pub columns: Vec<usize>,
    /// Genes of the file that the table lacks.
    pub missing: Vec<String>,
    /// Genes left out because too few training samples show them.
    pub undetected: Vec<String>,
}

/// Chooses genes of `table` by its rows `train`.
///
/// A gene that is above zero in less than the fraction `min_detected` of the
/// training samples is left out. Variance and mean are those of the values as
/// given: pass a table on the scale that is meant (variances of raw counts
/// follow the mean, so scale and take logarithms first). Equal values are
/// decided by the order of the table.
///
/// # Errors
/// A gene file that cannot be read or names a gene twice; no training rows; a
/// fraction outside [0, 1]; more genes asked for than there are; none left.
pub fn choose(
    table: &Table,
    train: &[usize],
    choice: &GeneChoice,
    min_detected: f64,
) -> Result<Chosen> {
    if !(0.0..=1.0).contains(&min_detected) {
        return Err(Error::usage(
            format!("the detection fraction {min_detected} is not between 0 and 1"),
            "give a fraction such as 0.1",
        ));
    }
    let statistics = Statistics::of(table, train)?;
    let detected = |column: usize| statistics.detected[column] >= min_detected;

    let (candidates, missing) = match choice {
        GeneChoice::File(path) => named(table, path)?,
        _ => ((0..table.genes.len()).collect(), Vec::new()),
    };
    let (mut columns, hidden): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|&column| detected(column));
    match choice {
        GeneChoice::All | GeneChoice::File(_) => {}
        GeneChoice::HighestVariance(n) => highest(&mut columns, &statistics.variance, *n)?,
        GeneChoice::HighestMean(n) => highest(&mut columns, &statistics.mean, *n)?,
    }
    if columns.is_empty() {
        return Err(Error::usage(
            format!(
                "no gene is left: {} are not in the table, {} are above zero in less than {min_detected} of the {} training samples",
                missing.len(),
                hidden.len(),
                train.len()
            ),
            "choose other genes or lower the detection fraction",
        ));
    }
    Ok(Chosen {
        columns,
        missing,
        undetected: hidden.into_iter().map(|c| table.genes[c].clone()).collect(),
    })
}

/// Keeps the `n` columns of highest score, in the order of the table.
fn highest(columns: &mut Vec<usize>, score: &[f64], n: usize) -> Result<()> {
    if n > columns.len() {
        return Err(Error::usage(
            format!("{n} genes are asked for, {} can be chosen", columns.len()),
            "ask for fewer genes or lower the detection fraction",
        ));
    }
    // Stable, so that equal scores keep the table's order.
    columns.sort_by(|&a, &b| score[b].total_cmp(&score[a]));
    columns.truncate(n);
    columns.sort_unstable();
    Ok(())
}

/// Columns that a gene file names, and names that the table lacks.
fn named(table: &Table, path: &Path) -> Result<(Vec<usize>, Vec<String>)> {
    let column: HashMap<&str, usize> = table
        .genes
        .iter()
        .enumerate()
        .map(|(i, gene)| (gene.as_str(), i))
        .collect();
    let (mut columns, mut missing) = (Vec::new(), Vec::new());
    for gene in read_list(path)? {
        match column.get(gene.as_str()) {
            Some(&i) => columns.push(i),
            None => missing.push(gene),
        }
    }
    Ok((columns, missing))
}

/// Reads a list of genes, one a line; blank lines do not count.
///
/// # Errors
/// A file that cannot be read, is not UTF-8 or is above 64 MiB; a gene that
/// stands twice; no gene at all.
pub fn read_list(path: impl AsRef<Path>) -> Result<Vec<String>> {
    const MAX_BYTES: u64 = 64 << 20;
    let path = path.as_ref();
    let read = |e| Error::io("read", path, e);
    if fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
        return Err(Error::file(
            path,
            "",
            "is above 64 MiB, too large for a list of genes",
            "give a text file with one gene a line",
        ));
    }
    let text = String::from_utf8(fs::read(path).map_err(read)?).map_err(|_| {
        Error::file(
            path,
            "",
            "is not UTF-8 text",
            "give a text file with one gene a line",
        )
    })?;
    let mut seen = HashSet::new();
    let mut genes = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let gene = line.trim().trim_start_matches('\u{feff}');
        if gene.is_empty() {
            continue;
        }
        if !seen.insert(gene) {
            return Err(Error::file(
                path,
                format!("line {}", i + 1),
                format!("gene `{gene}` stands twice"),
                "keep one line for each gene",
            ));
        }
        genes.push(gene.to_string());
    }
    if genes.is_empty() {
        return Err(Error::file(
            path,
            "",
            "names no gene",
            "give a text file with one gene a line",
        ));
    }
    Ok(genes)
}

/// Of each gene over the training samples, in f64.
struct Statistics {
    mean: Vec<f64>,
    variance: Vec<f64>,
    /// Fraction of samples above zero.
    detected: Vec<f64>,
}

impl Statistics {
    fn of(table: &Table, train: &[usize]) -> Result<Self> {
        if train.is_empty() {
            return Err(Error::usage(
                "there are no training samples to choose genes by",
                "give at least one training sample",
            ));
        }
        let rows = train
            .iter()
            .map(|&row| {
                table.row(row).ok_or_else(|| {
                    Error::op(
                        "genes::choose",
                        format!("training row {row} is past the end"),
                    )
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let n = rows.len() as f64;
        let genes = table.genes.len();
        let mut mean = vec![0.0; genes];
        let mut detected = vec![0.0; genes];
        for row in &rows {
            for (gene, &v) in row.iter().enumerate() {
                mean[gene] += f64::from(v) / n;
                detected[gene] += f64::from(u8::from(v > 0.0));
            }
        }
        let mut variance = vec![0.0; genes];
        for row in &rows {
            for (gene, &v) in row.iter().enumerate() {
                variance[gene] += (f64::from(v) - mean[gene]).powi(2) / n;
            }
        }
        detected.iter_mut().for_each(|d| *d /= n);
        Ok(Self {
            mean,
            variance,
            detected,
        })
    }
}
