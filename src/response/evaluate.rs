//! How well scores agree with responses: the odds ratio of a threshold with Fisher's
//! test, average precision, the area under the ROC curve, and bootstrap intervals.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::expression::table;
use crate::metrics::fisher::{conditional_odds_ratio, fisher_exact};
use crate::metrics::ranking::{average_precision, roc_auc};
use crate::random::Philox;

/// The published threshold: patients that score as much are expected to respond.
pub const THRESHOLD: f64 = 0.54;

/// Share of bootstrap samples within an interval.
const CONFIDENCE: f64 = 0.95;

/// Scores and responses of the patients that have both, in the order of the scores.
#[derive(Clone, Debug, PartialEq)]
pub struct Matched {
    pub patients: Vec<String>,
    pub scores: Vec<f64>,
    pub responses: Vec<bool>,
    /// Patients in one of the tables only.
    pub without_response: usize,
    pub without_score: usize,
}

/// A figure and its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Absent where it is undefined or infinite: see the counts.
    pub value: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    pub patients: usize,
    pub responders: usize,
    pub threshold: f64,
    /// `[[responders, others] at or above the threshold, [responders, others] below]`
    pub counts: [[u64; 2]; 2],
    /// ad / bc, with the bootstrap's interval.
    pub odds_ratio: Estimate,
    /// The conditional estimate with its exact interval, as R's `fisher.test` gives.
    pub conditional_odds_ratio: Estimate,
    /// Fisher's exact test, that those above the threshold respond more often.
    pub p_greater: f64,
    pub p_two_sided: f64,
    pub average_precision: Estimate,
    /// What scores at random would have: the share of responders.
    pub response_rate: f64,
    pub roc_auc: Estimate,
    pub bootstrap: usize,
    /// Of those, samples without a responder or without another, which say nothing.
    pub bootstrap_undefined: usize,
    pub without_response: usize,
    pub without_score: usize,
}

/// Reads a table of scores and one of responses and joins them by patient.
///
/// The first column names patients. The score is the column `column`, or the second one
/// of two; a response is 1 or 0 in the second column, and empty or `NA` where it is not
/// known.
///
/// # Errors
/// Each names the line: a patient that stands twice, a score that is no number, a
/// response other than these; no patient in both.
pub fn read(scores: &Path, column: Option<&str>, responses: &Path) -> Result<Matched> {
    let scores = read_column(scores, column, &|text| match text.parse::<f64>() {
        Ok(v) if v.is_finite() => Ok(v),
        _ => Err(format!("`{text}` is no score")),
    })?;
    let path = responses;
    let responses = read_column(responses, None, &|text| match text {
        "1" | "1.0" => Ok(true),
        "0" | "0.0" => Ok(false),
        _ => Err(format!("`{text}` is no response: 1 or 0 is")),
    })?;
    let of: HashMap<&str, bool> = responses.iter().map(|(p, r)| (p.as_str(), *r)).collect();
    let mut out = Matched {
        patients: Vec::new(),
        scores: Vec::new(),
        responses: Vec::new(),
        without_response: 0,
        without_score: 0,
    };
    for (patient, score) in &scores {
        match of.get(patient.as_str()) {
            Some(&response) => {
                out.patients.push(patient.clone());
                out.scores.push(*score);
                out.responses.push(response);
            }
            None => out.without_response += 1,
        }
    }
    out.without_score = responses.len() - out.patients.len();
    match out.patients.is_empty() {
        true => Err(Error::file(
            path,
            "",
            "has no patient that has a score",
            "give both tables the same names in their first columns",
        )),
        false => Ok(out),
    }
}

/// A column of a table by the names in its first one; empty cells are left out.
fn read_column<T>(
    path: &Path,
    column: Option<&str>,
    value: &dyn Fn(&str) -> Result<T, String>,
) -> Result<Vec<(String, T)>> {
    let (delimiter, text) = table::open(path)?;
    let mut csv = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .trim(csv::Trim::All)
        .from_reader(text);
    let remedy = "write a column of patients and one of values, under a header";
    let fail = |e: csv::Error| Error::file(path, "", format!("cannot be read ({e})"), remedy);
    let header = csv.headers().map_err(fail)?.clone();
    let at = match column {
        Some(name) => header.iter().position(|h| h == name).ok_or_else(|| {
            Error::file(
                path,
                "line 1",
                format!("has no column {name}"),
                "name a column that it has",
            )
        })?,
        None if header.len() == 2 => 1,
        None => {
            return Err(Error::file(
                path,
                "line 1",
                format!("has {} columns", header.len()),
                "name the drug with --drug, or give a table of two columns",
            ));
        }
    };
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for record in csv.records() {
        let record = record.map_err(fail)?;
        let line = record.position().map_or(0, |p| p.line());
        let refuse = |problem: String| Error::file(path, format!("line {line}"), problem, remedy);
        let (name, cell) = (
            record.get(0).unwrap_or_default(),
            record.get(at).unwrap_or_default(),
        );
        if name.is_empty() {
            return Err(refuse("the patient has no name".to_owned()));
        }
        if !seen.insert(name.to_owned()) {
            return Err(refuse(format!("patient {name} stands twice")));
        }
        if cell.is_empty() || cell == "NA" {
            continue;
        }
        out.push((name.to_owned(), value(cell).map_err(refuse)?));
    }
    Ok(out)
}

/// Evaluates scores; patients are drawn `bootstrap` times for the intervals, of the
/// seed's making.
///
/// # Errors
/// A threshold that is not a number.
pub fn evaluate(data: &Matched, threshold: f64, bootstrap: usize, seed: u64) -> Result<Evaluation> {
    if threshold.is_nan() {
        return Err(Error::usage(
            "the threshold is NaN",
            "use a number such as 0.54",
        ));
    }
    let n = data.scores.len();
    let counts = counts(&data.responses, &data.scores, threshold);
    let fisher = fisher_exact(counts)?;
    let exact = conditional_odds_ratio(counts, CONFIDENCE)?;
    let mut random = Philox::fork(seed, "bootstrap");
    let mut drawn = [const { Vec::new() }; 3];
    let mut undefined = 0;
    for _ in 0..bootstrap {
        let places: Vec<usize> = (0..n).map(|_| random.below(n)).collect();
        let responses: Vec<bool> = places.iter().map(|&i| data.responses[i]).collect();
        let scores: Vec<f64> = places.iter().map(|&i| data.scores[i]).collect();
        if responses.iter().all(|r| *r == responses[0]) {
            undefined += 1;
            continue;
        }
        let [[a, b], [c, d]] = self::counts(&responses, &scores, threshold);
        // NaN only where nobody, or everybody, is above the threshold.
        let odds = (a * d) as f64 / (b * c) as f64;
        drawn[0].extend(Some(odds).filter(|o| !o.is_nan()));
        drawn[1].push(average_precision(&responses, &scores)?);
        drawn[2].push(roc_auc(&responses, &scores)?);
    }
    let [odds, precision, auc] = drawn;
    let responders = data.responses.iter().filter(|r| **r).count();
    Ok(Evaluation {
        patients: n,
        responders,
        threshold,
        counts,
        odds_ratio: interval(fisher.odds_ratio, odds),
        conditional_odds_ratio: Estimate {
            value: finite(exact.estimate),
            low: finite(exact.lower),
            high: finite(exact.upper),
        },
        p_greater: fisher.greater,
        p_two_sided: fisher.two_sided,
        average_precision: interval(average_precision(&data.responses, &data.scores)?, precision),
        response_rate: responders as f64 / n as f64,
        roc_auc: interval(roc_auc(&data.responses, &data.scores)?, auc),
        bootstrap,
        bootstrap_undefined: undefined,
        without_response: data.without_response,
        without_score: data.without_score,
    })
}

fn counts(responses: &[bool], scores: &[f64], threshold: f64) -> [[u64; 2]; 2] {
    let mut counts = [[0; 2]; 2];
    for (response, score) in responses.iter().zip(scores) {
        counts[usize::from(*score < threshold)][usize::from(!response)] += 1;
    }
    counts
}

fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|v| v.is_finite())
}

/// The percentile interval. Its ends are values that were drawn, as some are infinite.
fn interval(value: f64, mut drawn: Vec<f64>) -> Estimate {
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (share * drawn.len().saturating_sub(1) as f64).round() as usize;
        drawn.get(place).copied().and_then(finite)
    };
    Estimate {
        value: finite(value),
        low: at((1.0 - CONFIDENCE) / 2.0),
        high: at((1.0 + CONFIDENCE) / 2.0),
    }
}
