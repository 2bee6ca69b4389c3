//! Expression from whatever file it is in: a table (CSV, TSV), GCT, .h5ad, or a
//! folder of files as the Genomic Data Commons (GDC) hands them out.
//!
//! The kind is told by the content. Genes are then given the names that the rest of
//! the run goes by: versions are taken off Ensembl ids (`ENSG00000141510.18` is the
//! gene of release 18 of its entry, and another file has another one), and ids become
//! symbols, or symbols ids, by the file's own columns or by the user's table.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Orientation, Table, gct, gdc, table};
use crate::error::{Error, Result};
use crate::formats::h5ad::{self, Column};
use crate::formats::hdf5;

/// What to take from the file, and how to name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// Which way round a CSV or TSV table is.
    #[serde(skip)]
    pub orientation: Orientation,
    /// A folder's files: a table that says which sample each is of, with the columns
    /// `file` and `sample`, or a sample sheet of the GDC.
    pub map: Option<PathBuf>,
    /// The map's column with the names that slides go by; `sample`, `slide` or the
    /// GDC's `Sample ID` when left out.
    pub sample_column: Option<String>,
    /// GDC's STAR counts: which column.
    pub measure: Measure,
    /// .h5ad: which matrix, such as `layers/tpm`; `X` when left out.
    pub matrix: Option<String>,
    /// What genes are called.
    pub genes: GeneNames,
    /// A table whose first column is a gene's name in the file and whose second the
    /// name to use; in place of the file's own columns.
    pub gene_table: Option<PathBuf>,
}

/// Columns of GDC's STAR counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Transcripts per million
    #[default]
    Tpm,
    /// Fragments per kilobase and million
    Fpkm,
    /// The same over the upper quartile
    FpkmUq,
    /// Unstranded counts
    Counts,
}

impl Measure {
    pub(super) fn column(self) -> &'static str {
        match self {
            Self::Tpm => "tpm_unstranded",
            Self::Fpkm => "fpkm_unstranded",
            Self::FpkmUq => "fpkm_uq_unstranded",
            Self::Counts => "unstranded",
        }
    }
}

/// What genes are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum GeneNames {
    /// As the file names its rows or columns, without versions of Ensembl ids
    #[default]
    AsGiven,
    /// Symbols
    Symbol,
    /// Ensembl ids
    Ensembl,
}

impl Source {
    // By reference, as serde calls it.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Paths in a run file are relative to it.
    pub fn resolve(&mut self, base: &Path) {
        for path in [&mut self.map, &mut self.gene_table].into_iter().flatten() {
            *path = base.join(&*path);
        }
    }
}

/// Something left out, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub what: String,
    pub why: String,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// Expression, and what was left out of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub table: Table,
    pub skipped: Vec<Skipped>,
}

/// A table, and the other names of its genes that the file has, by what they are.
pub(super) struct Raw {
    pub table: Table,
    pub symbols: Option<Vec<String>>,
    pub ids: Option<Vec<String>>,
    pub skipped: Vec<Skipped>,
}

impl Raw {
    pub fn plain(table: Table) -> Self {
        Self {
            table,
            symbols: None,
            ids: None,
            skipped: Vec::new(),
        }
    }
}

/// Reads expression; `known_samples` decides which way round a table is where the
/// source does not say.
///
/// # Errors
/// A file that cannot be read, is damaged or of no known kind; values that are
/// missing, negative or not finite; samples or genes that stand twice; names that
/// are asked for and nowhere given. Each names the file and the place in it.
pub fn read(path: impl AsRef<Path>, source: &Source, known_samples: &[String]) -> Result<Loaded> {
    let path = path.as_ref();
    let raw = match Form::of(path)? {
        Form::Folder => gdc::read_folder(path, source)?,
        Form::Star | Form::Pairs => gdc::read_one(path, source)?,
        Form::Gct => gct::read(path)?,
        Form::Hdf5 => annotated(path, source.matrix.as_deref().unwrap_or("X"))?,
        Form::Table => Raw::plain(table::read_for(path, source.orientation, known_samples)?),
    };
    named(path, raw, source)
}

/// Whether a file is a plain table, CSV or TSV.
///
/// # Errors
/// It cannot be read.
pub fn is_table(path: &Path) -> Result<bool> {
    Ok(Form::of(path)? == Form::Table)
}

/// How a file's expression is laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Folder,
    /// GDC's STAR counts: one sample.
    Star,
    /// GDC's older text: a gene and its value a line, no header.
    Pairs,
    Gct,
    Hdf5,
    Table,
}

impl Form {
    pub fn of(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Folder);
        }
        let mut head = Vec::new();
        let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        (file.take(4096).read_to_end(&mut head)).map_err(|e| Error::io("read", path, e))?;
        if crate::formats::Kind::sniff(&head) == crate::formats::Kind::Hdf5 {
            return Ok(Self::Hdf5);
        }
        let (_, text) = table::open(path)?;
        let mut head = Vec::new();
        (text.take(8192).read_to_end(&mut head)).map_err(|e| Error::io("read", path, e))?;
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.lines().filter(|line| !line.trim().is_empty());
        let first = lines.next().unwrap_or_default();
        if first.starts_with("#1.2") || first.starts_with("#1.3") {
            return Ok(Self::Gct);
        }
        if first.starts_with("# gene-model:")
            || first.starts_with("gene_id\tgene_name\tgene_type\t")
        {
            return Ok(Self::Star);
        }
        let pair = |line: &str| match line.split('\t').collect::<Vec<_>>()[..] {
            [gene, value] => is_ensembl(gene) && value.trim().parse::<f64>().is_ok(),
            _ => false,
        };
        match pair(first) {
            true => Ok(Self::Pairs),
            false => Ok(Self::Table),
        }
    }
}

/// Whether a name is that of an Ensembl gene: `ENS`, a species or none, `G`, digits.
fn is_ensembl(name: &str) -> bool {
    let Some(rest) = name.trim().strip_prefix("ENS") else {
        return false;
    };
    let digits = rest.trim_start_matches(|c: char| c.is_ascii_uppercase());
    rest[..rest.len() - digits.len()].ends_with('G')
        && digits.len() >= 11
        && digits.as_bytes()[..11].iter().all(u8::is_ascii_digit)
}

/// `ENSG00000002586.20_PAR_Y` as `ENSG00000002586_PAR_Y`: that gene has a copy on
/// either sex chromosome. Other names stay as they are.
pub fn without_version(name: &str) -> String {
    let name = name.trim();
    let Some((id, rest)) = name.split_once('.').filter(|_| is_ensembl(name)) else {
        return name.to_owned();
    };
    let tail = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    match tail.is_empty() || tail.starts_with('_') {
        true => format!("{id}{tail}"),
        false => name.to_owned(),
    }
}

/// Gives the genes the names that `source` asks for. Genes that come to share one
/// are added up, as the transcripts of a gene are.
fn named(path: &Path, raw: Raw, source: &Source) -> Result<Loaded> {
    let Raw {
        mut table,
        symbols,
        ids,
        mut skipped,
    } = raw;
    let own: Vec<String> = table.genes.iter().map(|g| without_version(g)).collect();
    let wanted = match (&source.gene_table, source.genes) {
        (Some(given), _) => {
            let to = gene_table(given)?;
            let name = |gene: &String| to.get(gene.as_str()).cloned().unwrap_or_default();
            own.iter().map(name).collect()
        }
        (None, GeneNames::AsGiven) => own.clone(),
        (None, GeneNames::Ensembl) => match ids {
            Some(ids) => ids.iter().map(|id| without_version(id)).collect(),
            None if own.iter().any(|g| is_ensembl(g)) => own.clone(),
            None => return Err(unnamed(path, "Ensembl ids")),
        },
        (None, GeneNames::Symbol) => match symbols {
            Some(symbols) => symbols.iter().map(|s| s.trim().to_owned()).collect(),
            None if !own.iter().any(|g| is_ensembl(g)) => own.clone(),
            None => return Err(unnamed(path, "symbols")),
        },
    };
    let without = wanted.iter().filter(|name| name.is_empty()).count();
    if without == wanted.len() {
        let named = source.gene_table.as_deref().unwrap_or(path);
        return Err(Error::file(
            named,
            "",
            format!(
                "names none of the genes, such as `{}`",
                own.first().map_or("", String::as_str)
            ),
            "give a table of the same kind of names, without versions",
        ));
    }
    if without > 0 {
        skipped.push(Skipped {
            what: format!("names of {without} genes"),
            why: "there is no other name for them, so they keep their own".to_owned(),
        });
    }
    let kept = |(name, own): (String, &String)| if name.is_empty() { own.clone() } else { name };
    table.genes = wanted.into_iter().zip(&own).map(kept).collect();
    let renamed = source.genes != GeneNames::AsGiven || source.gene_table.is_some();
    merged(path, table, renamed, &mut skipped).map(|table| Loaded { table, skipped })
}

fn unnamed(path: &Path, what: &str) -> Error {
    Error::file(
        path,
        "",
        format!("has no {what}"),
        "set gene_table to a table of two columns: the file's name of a gene, and the one to use",
    )
}

/// Adds up columns of one name where they were renamed; else one name is one gene.
fn merged(path: &Path, table: Table, renamed: bool, skipped: &mut Vec<Skipped>) -> Result<Table> {
    let mut place: HashMap<&str, usize> = HashMap::with_capacity(table.genes.len());
    let mut genes: Vec<String> = Vec::new();
    let mut to = Vec::with_capacity(table.genes.len());
    for gene in &table.genes {
        let at = *place.entry(gene).or_insert_with(|| {
            genes.push(gene.clone());
            genes.len() - 1
        });
        to.push(at);
    }
    let several = table.genes.len() - genes.len();
    if several == 0 {
        return Ok(table);
    }
    if !renamed {
        let mut seen = HashSet::new();
        let twice = table.genes.iter().find(|g| !seen.insert(g.as_str()));
        return Err(Error::file(
            path,
            "",
            format!("gene `{}` stands twice", twice.map_or("", String::as_str)),
            "keep one of them, whatever its version",
        ));
    }
    skipped.push(Skipped {
        what: format!("{several} rows of genes"),
        why: "they share their name with another, so their values are added up".to_owned(),
    });
    let mut values = vec![0.0; table.samples.len() * genes.len()];
    for (row, sum) in table.rows().zip(values.chunks_exact_mut(genes.len())) {
        row.iter().zip(&to).for_each(|(v, &at)| sum[at] += v);
    }
    Ok(Table {
        samples: table.samples.clone(),
        genes,
        values,
    })
}

/// The first column's names, without versions, to the second's.
fn gene_table(path: &Path) -> Result<HashMap<String, String>> {
    let mut names = HashMap::new();
    let mut first_line: BTreeMap<String, u64> = BTreeMap::new();
    let (delimiter, text) = table::open(path)?;
    let mut csv = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text);
    let remedy =
        "write it as CSV or TSV with two columns: the file's name of a gene, and the one to use";
    for record in csv.records() {
        let record = record.map_err(|e| Error::file(path, "", e.to_string(), remedy))?;
        let line = record.position().map_or(0, |p| p.line());
        let (Some(from), Some(to)) = (record.get(0), record.get(1)) else {
            return Err(Error::file(
                path,
                format!("line {line}"),
                "has one column",
                remedy,
            ));
        };
        if from.is_empty() || to.is_empty() {
            continue;
        }
        let (from, to) = (without_version(from), without_version(to));
        if let Some(other) = names.insert(from.clone(), to.clone())
            && other != to
        {
            return Err(Error::file(
                path,
                format!("line {line}"),
                format!(
                    "`{from}` is `{to}`, and `{other}` in line {}",
                    first_line.get(&from).copied().unwrap_or(0)
                ),
                "keep one line for each name",
            ));
        }
        first_line.entry(from).or_insert(line);
    }
    Ok(names)
}

/// Columns of `var` that hold another name, as common tools call them.
const SYMBOLS: [&str; 6] = [
    "gene_symbols",
    "gene_symbol",
    "gene_name",
    "gene_names",
    "feature_name",
    "symbol",
];
const IDS: [&str; 5] = ["gene_ids", "gene_id", "ensembl_id", "ensembl", "feature_id"];

fn annotated(path: &Path, matrix: &str) -> Result<Raw> {
    let file = hdf5::File::open(path)?;
    let data = h5ad::of(&file, matrix)?;
    let x = data.x.as_ref().ok_or_else(|| {
        let remedy = "choose one of the layers that `eosin inspect` lists";
        Error::file(path, "", format!("has no matrix {matrix}"), remedy)
    })?;
    let column = |names: &[&str]| {
        names
            .iter()
            .find_map(|n| data.var.column(n))
            .map(Column::to_texts)
    };
    let (symbols, ids) = (column(&SYMBOLS), column(&IDS));
    let table = Table {
        values: x.to_dense()?,
        samples: data.obs.names,
        genes: data.var.names,
    };
    let width = table.genes.len().max(1);
    if let Some(at) = table.values.iter().position(|v| !v.is_finite() || *v < 0.0) {
        return Err(Error::file(
            path,
            format!(
                "`{matrix}`, observation `{}`, variable `{}`",
                table.samples[at / width],
                table.genes[at % width]
            ),
            format!("{} is no expression", table.values[at]),
            "choose a layer of counts or TPM: transforms are made here",
        ));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = table.samples.iter().find(|s| !seen.insert(s.as_str())) {
        return Err(Error::file(
            path,
            "`obs`",
            format!("`{twice}` stands twice"),
            "make the names unique: adata.obs_names_make_unique()",
        ));
    }
    Ok(Raw {
        table,
        symbols,
        ids,
        skipped: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_off_ensembl_ids_only() {
        for (name, without) in [
            ("ENSG00000141510.18", "ENSG00000141510"),
            ("ENSG00000141510", "ENSG00000141510"),
            ("ENSMUSG00000059552.14", "ENSMUSG00000059552"),
            ("ENSG00000002586.20_PAR_Y", "ENSG00000002586_PAR_Y"),
            ("RP11-34P13.7", "RP11-34P13.7"),
            ("ENSA.1", "ENSA.1"),
            ("ENSG00000141510.x", "ENSG00000141510.x"),
            ("", ""),
            ("ENS", "ENS"),
            ("ENSG0000000000é.1", "ENSG0000000000é.1"),
        ] {
            assert_eq!(without_version(name), without);
        }
    }
}
