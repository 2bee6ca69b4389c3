//! GCT, the Broad Institute's table of genes by samples, as GTEx uses it.
//!
//! ```text
//! #1.2
//! <genes> <samples>
//! Name  Description  <sample> ...
//! ```
//!
//! Version 1.3 also counts columns of facts on genes, of which the first is taken as
//! the description, and rows of facts on samples, which are left out.

use std::collections::HashSet;
use std::path::Path;

use super::source::Raw;
use super::{Table, table};
use crate::error::{Error, Result};

const REMEDY: &str = "write it anew as GCT version 1.2 or 1.3";

/// Reads a file; names are ids, descriptions symbols.
///
/// # Errors
/// Each names the line: another version, numbers of genes or samples that are not
/// what follows, names that stand twice, a value that is no number.
pub(super) fn read(path: &Path) -> Result<Raw> {
    let (_, text) = table::open(path)?;
    let mut csv = csv::ReaderBuilder::new()
        .delimiter(b'\t')
        .has_headers(false)
        .flexible(true)
        .quoting(false)
        .from_reader(text);
    let mut record = csv::StringRecord::new();
    let mut next = |record: &mut csv::StringRecord| -> Result<Option<u64>> {
        let more = csv.read_record(record);
        let more =
            more.map_err(|e| Error::file(path, "", e.to_string().replace('\n', " "), REMEDY))?;
        Ok(more.then(|| record.position().map_or(0, |p| p.line())))
    };
    let refuse =
        |line: u64, problem: String| Error::file(path, format!("line {line}"), problem, REMEDY);
    let short = || Error::file(path, "", "ends in its header", REMEDY);

    next(&mut record)?.ok_or_else(short)?;
    let full = record.get(0).unwrap_or_default().trim() == "#1.3";
    let line = next(&mut record)?.ok_or_else(short)?;
    let sizes: Option<Vec<usize>> = record
        .iter()
        .filter(|cell| !cell.trim().is_empty())
        .map(|cell| cell.trim().parse().ok())
        .collect();
    let (genes, samples, facts, sample_facts) = match sizes.as_deref() {
        Some(&[genes, samples]) if !full => (genes, samples, 1, 0),
        Some(&[genes, samples, facts, rows]) if full => (genes, samples, facts, rows),
        _ => {
            return Err(refuse(
                line,
                "does not say how many genes and samples follow".to_owned(),
            ));
        }
    };

    let line = next(&mut record)?.ok_or_else(short)?;
    let first = facts.saturating_add(1);
    let names: Vec<String> = record
        .iter()
        .skip(first)
        .map(|n| n.trim().to_owned())
        .collect();
    if names.len() != samples {
        return Err(refuse(
            line,
            format!("names {} samples, not {samples}", names.len()),
        ));
    }
    unique(&names)
        .map_err(|name| refuse(line, format!("sample `{name}` stands twice or has no name")))?;
    for _ in 0..sample_facts {
        next(&mut record)?.ok_or_else(short)?;
    }

    // Genes by samples, as in the file; nothing is made room for that is not there.
    let (mut ids, mut symbols, mut columns) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(line) = next(&mut record)? {
        if record.len() != first.saturating_add(samples) {
            let problem = format!("has {} fields, not {}", record.len(), first + samples);
            return Err(refuse(line, problem));
        }
        let id = record.get(0).unwrap_or_default().trim();
        for (cell, sample) in record.iter().skip(first).zip(&names) {
            let value = table::number(cell.as_bytes());
            let value =
                value.map_err(|e| refuse(line, format!("gene `{id}`, sample `{sample}`: {e}")))?;
            columns.push(value);
        }
        ids.push(id.to_owned());
        symbols.push(
            record
                .get(1)
                .filter(|_| facts > 0)
                .unwrap_or_default()
                .trim()
                .to_owned(),
        );
    }
    if ids.len() != genes {
        return Err(Error::file(
            path,
            "",
            format!("holds {} genes where its header says {genes}", ids.len()),
            "the file is cut short: fetch it again",
        ));
    }
    unique(&ids).map_err(|name| {
        Error::file(
            path,
            "",
            format!("gene `{name}` stands twice or has no name"),
            REMEDY,
        )
    })?;
    if genes == 0 || samples == 0 {
        return Err(Error::file(path, "", "the table is empty", REMEDY));
    }
    let mut values = vec![0.0; columns.len()];
    for (gene, row) in columns.chunks_exact(samples).enumerate() {
        for (sample, &value) in row.iter().enumerate() {
            values[sample * genes + gene] = value;
        }
    }
    Ok(Raw {
        table: Table {
            samples: names,
            genes: ids,
            values,
        },
        symbols: Some(symbols).filter(|s| s.iter().any(|s| !s.is_empty())),
        ids: None,
        skipped: Vec::new(),
    })
}

/// The first name that is empty or stands a second time.
fn unique(names: &[String]) -> Result<(), &str> {
    let mut seen = HashSet::with_capacity(names.len());
    match names
        .iter()
        .find(|n| n.is_empty() || !seen.insert(n.as_str()))
    {
        Some(name) => Err(name),
        None => Ok(()),
    }
}
