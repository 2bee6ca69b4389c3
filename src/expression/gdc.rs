//! Expression as the Genomic Data Commons hands it out: a file a sample.
//!
//! - STAR counts (`*.rna_seq.augmented_star_gene_counts.tsv`): gene id, name, type and
//!   six measures, after a line on the gene model; rows `N_unmapped` and the like
//!   count what is no gene.
//! - The text of before 2022 (`*.FPKM-UQ.txt.gz`, `*.htseq.counts.gz`): a gene and its
//!   value a line; HTSeq's rows `__no_feature` and the like count what is no gene.
//!
//! A folder holds such files, in folders of their own as the GDC's client puts them or
//! not, and a sample sheet or another map says whose they are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::source::{Form, Raw, Skipped, Source};
use super::{Table, table};
use crate::error::{Error, Result};

/// One sample's genes.
struct One {
    genes: Vec<String>,
    /// Empty where the file has none.
    symbols: Vec<String>,
    values: Vec<f32>,
}

/// A single file: its sample has the name of the file up to the first dot.
pub(super) fn read_one(path: &Path, source: &Source) -> Result<Raw> {
    let one = read(path, source)?;
    Ok(Raw {
        table: Table {
            samples: vec![stem(path)],
            genes: one.genes,
            values: one.values,
        },
        symbols: Some(one.symbols).filter(|s| !s.is_empty()),
        ids: None,
        skipped: Vec::new(),
    })
}

/// The name of a file up to its first dot.
fn stem(path: &Path) -> String {
    let name = file_name(path);
    name.split('.').next().unwrap_or_default().to_owned()
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
    name.unwrap_or_default()
}

/// All files of a folder that the map names, or all where there is no map.
pub(super) fn read_folder(folder: &Path, source: &Source) -> Result<Raw> {
    let mut files = Vec::new();
    list(folder, 0, &mut files)?;
    files.sort();
    let mut skipped = Vec::new();
    let samples = match &source.map {
        Some(map) => mapped(
            folder,
            map,
            source.sample_column.as_deref(),
            &files,
            &mut skipped,
        )?,
        None => files.into_iter().map(|file| (stem(&file), file)).collect(),
    };
    let mut table = Table {
        samples: Vec::new(),
        genes: Vec::new(),
        values: Vec::new(),
    };
    let mut symbols = Vec::new();
    let mut of: HashMap<String, PathBuf> = HashMap::new();
    for (sample, path) in samples {
        if let Some(first) = of.get(&sample) {
            skipped.push(Skipped {
                what: format!("expression {}", path.display()),
                why: format!("sample {sample} has {} already", first.display()),
            });
            continue;
        }
        let one = read(&path, source)?;
        if table.samples.is_empty() {
            (table.genes, symbols) = (one.genes, one.symbols);
        } else if table.genes != one.genes {
            let other = (table.genes.iter().zip(&one.genes)).find(|(a, b)| a != b);
            let (here, there) = other.map_or(("", ""), |(a, b)| (b.as_str(), a.as_str()));
            return Err(Error::file(
                &path,
                "",
                format!(
                    "has {} genes, the files before it have {} (first difference: `{here}`, there `{there}`)",
                    one.genes.len(),
                    table.genes.len()
                ),
                "put files of one gene model and one kind into the folder",
            ));
        }
        table.values.extend(one.values);
        table.samples.push(sample.clone());
        of.insert(sample, path);
    }
    if table.samples.is_empty() {
        return Err(Error::file(
            folder,
            "",
            "holds no file of expression that belongs to a sample",
            "give the folder of the GDC's files, and their sample sheet as map",
        ));
    }
    Ok(Raw {
        table,
        symbols: Some(symbols).filter(|s| !s.is_empty()),
        ids: None,
        skipped,
    })
}

/// Files with expression in a folder, and in those directly below it.
fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let fail = |e| Error::io("list the folder", folder, e);
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = file_name(&path);
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if depth == 0 {
                list(&path, 1, files)?;
            }
        } else if [
            ".tsv",
            ".txt",
            ".tsv.gz",
            ".txt.gz",
            ".counts.gz",
            ".counts",
        ]
        .iter()
        .any(|end| name.ends_with(end))
            && matches!(Form::of(&path), Ok(Form::Star | Form::Pairs))
        {
            files.push(path);
        }
    }
    Ok(())
}

/// Samples and their files, in the order of the map.
fn mapped(
    folder: &Path,
    map: &Path,
    column: Option<&str>,
    files: &[PathBuf],
    skipped: &mut Vec<Skipped>,
) -> Result<Vec<(String, PathBuf)>> {
    let (delimiter, text) = table::open(map)?;
    let mut csv = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .trim(csv::Trim::All)
        .from_reader(text);
    let remedy =
        "write it as CSV or TSV with the columns file and sample, or give the GDC's sample sheet";
    let fail = |e: csv::Error| Error::file(map, "", format!("cannot be read ({e})"), remedy);
    let header = csv.headers().map_err(fail)?.clone();
    let find = |names: &[&str]| {
        names
            .iter()
            .find_map(|n| header.iter().position(|h| h == *n))
    };
    let needs = |what: &str| Error::file(map, "line 1", format!("has no column {what}"), remedy);
    let file_at = find(&["file", "File Name"]).ok_or_else(|| needs("file"))?;
    let sample_at = match column {
        Some(column) => find(&[column]).ok_or_else(|| needs(column))?,
        None => {
            find(&["sample", "slide", "Sample ID", "Case ID"]).ok_or_else(|| needs("sample"))?
        }
    };
    let mut by_name: BTreeMap<String, &PathBuf> = BTreeMap::new();
    for file in files {
        by_name.entry(file_name(file)).or_insert(file);
        if let Ok(inner) = file.strip_prefix(folder) {
            by_name.insert(inner.to_string_lossy().into_owned(), file);
        }
    }
    let mut samples = Vec::new();
    let mut used = HashSet::new();
    for record in csv.records() {
        let record = record.map_err(fail)?;
        let line = record.position().map_or(0, |p| p.line());
        let field = |at: usize| record.get(at).unwrap_or_default();
        let (file, sample) = (field(file_at), field(sample_at));
        if file.is_empty() || sample.is_empty() {
            let place = format!("line {line}");
            return Err(Error::file(
                map,
                place,
                "file or sample is empty",
                "fill in both",
            ));
        }
        match by_name.get(file) {
            Some(&path) => {
                used.insert(path);
                samples.push((sample.to_owned(), path.clone()));
            }
            None => skipped.push(Skipped {
                what: format!("sample {sample}"),
                why: format!(
                    "{file} is not in {}, or holds no expression",
                    folder.display()
                ),
            }),
        }
    }
    for file in files.iter().filter(|file| !used.contains(file)) {
        skipped.push(Skipped {
            what: format!("expression {}", file.display()),
            why: format!("{} names no sample for it", map.display()),
        });
    }
    Ok(samples)
}

fn read(path: &Path, source: &Source) -> Result<One> {
    // The line on the gene model has no tab, so the delimiter is not looked for.
    let (_, text) = table::open(path)?;
    let mut csv = csv::ReaderBuilder::new()
        .delimiter(b'\t')
        .has_headers(false)
        .flexible(true)
        .quoting(false)
        .from_reader(text);
    let remedy = "fetch the file again: it is not what the GDC hands out";
    let mut one = One {
        genes: Vec::new(),
        symbols: Vec::new(),
        values: Vec::new(),
    };
    // Columns of the value and the symbol.
    let mut columns = (1, None);
    let mut record = csv::StringRecord::new();
    loop {
        let more = csv.read_record(&mut record);
        if !more.map_err(|e| Error::file(path, "", e.to_string().replace('\n', " "), remedy))? {
            break;
        }
        let line = record.position().map_or(0, |p| p.line());
        let gene = record.get(0).unwrap_or_default().trim();
        if gene.starts_with('#') || gene.starts_with("N_") || gene.starts_with("__") {
            continue;
        }
        let place = || format!("line {line}");
        if gene == "gene_id" && one.genes.is_empty() {
            let wanted = source.measure.column();
            let value = record
                .iter()
                .position(|h| h.trim() == wanted)
                .ok_or_else(|| {
                    Error::file(
                        path,
                        place(),
                        format!("has no column {wanted}"),
                        "choose another measure",
                    )
                })?;
            columns = (value, record.iter().position(|h| h.trim() == "gene_name"));
            continue;
        }
        let cell = record.get(columns.0).unwrap_or_default();
        let value = table::number(cell.as_bytes()).map_err(|problem| {
            Error::file(path, place(), format!("gene `{gene}`: {problem}"), remedy)
        })?;
        if gene.is_empty() {
            return Err(Error::file(path, place(), "the gene has no name", remedy));
        }
        one.genes.push(gene.to_owned());
        one.values.push(value);
        if let Some(at) = columns.1 {
            one.symbols
                .push(record.get(at).unwrap_or_default().to_owned());
        }
    }
    match one.genes.is_empty() {
        true => Err(Error::file(path, "", "holds no gene", remedy)),
        false => Ok(one),
    }
}
