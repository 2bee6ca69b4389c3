//! Results in the formats of services that plot them over time.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::Row;
use crate::error::{Error, Result};
use crate::formats::atomic::write_bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Its tool `customSmallerIsBetter`.
    GithubActionBenchmark,
    /// Bencher Metric Format, its adapter `json`; latency is in nanoseconds.
    Bencher,
}

/// A file to write, given as `FORMAT=FILE`.
#[derive(Clone, Debug)]
pub struct Export {
    format: Format,
    path: PathBuf,
}

impl std::str::FromStr for Export {
    type Err = String;

    fn from_str(argument: &str) -> Result<Self, String> {
        let (format, path) = argument.split_once('=').unwrap_or((argument, ""));
        let format = match format {
            "github-action-benchmark" => Format::GithubActionBenchmark,
            "bencher" => Format::Bencher,
            _ => return Err("the formats are github-action-benchmark and bencher".into()),
        };
        if path.is_empty() {
            return Err(format!("give a file: {argument}=FILE"));
        }
        Ok(Self {
            format,
            path: path.into(),
        })
    }
}

impl Export {
    /// Writes the times of the new baseline.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, rows: &[Row]) -> Result<()> {
        let value = match self.format {
            Format::GithubActionBenchmark => rows.iter().map(action).collect(),
            Format::Bencher => Value::Object(rows.iter().map(metric).collect()),
        };
        let mut text = serde_json::to_string_pretty(&value)
            .map_err(|e| Error::usage(format!("no JSON: {e}"), "leave out --export"))?;
        text.push('\n');
        write_bytes(&self.path, text.as_bytes())
    }
}

/// An entry of the list that github-action-benchmark reads.
fn action(row: &Row) -> Value {
    let new = row.new;
    json!({
        "name": row.bench,
        "unit": "ns",
        "value": new.median,
        "range": format!("{:.0} to {:.0}", new.lower, new.upper),
    })
}

/// A bench and its measures in Bencher Metric Format.
fn metric(row: &Row) -> (String, Value) {
    let mut measures = Map::new();
    let latency = json!({
        "value": row.new.median,
        "lower_value": row.new.lower,
        "upper_value": row.new.upper,
    });
    measures.insert("latency".into(), latency);
    (row.bench.clone(), Value::Object(measures))
}
