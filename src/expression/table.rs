//! Tables of expression as text: CSV or TSV, plain or gzip, either way up.
//!
//! What the file is (delimiter, compression, a missing corner cell as R writes
//! it) is found from its content. The values are counts or another measure
//! that cannot be negative (TPM, FPKM, intensities): the transforms that
//! follow take logarithms of them.
//!
//! A file is read as a stream into one array. Nothing is allocated for what a
//! file merely claims: a compressed file may expand to at most 64 MiB plus 500
//! times its size, and any text to at most 16 GiB.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::path::Path;

use csv::ByteRecord;
use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};
use crate::formats::atomic::write_atomically;

/// Values of genes in samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub samples: Vec<String>,
    pub genes: Vec<String>,
    /// (samples, genes), row-major; finite and not negative as read.
    pub values: Vec<f32>,
}

/// What the rows of a file are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orientation {
    /// Whichever side holds more of the known samples' names.
    #[default]
    Auto,
    SamplesByGenes,
    GenesBySamples,
}

impl Table {
    /// The values of one sample, in the order of `genes`; `None` past the end.
    pub fn row(&self, sample: usize) -> Option<&[f32]> {
        let start = sample.checked_mul(self.genes.len())?;
        self.values.get(start..start + self.genes.len())
    }

    /// The table with only these rows, in this order.
    ///
    /// # Errors
    /// An index past the last sample.
    pub fn select_samples(&self, rows: &[usize]) -> Result<Self> {
        let mut out = Self {
            samples: Vec::with_capacity(rows.len()),
            genes: self.genes.clone(),
            values: Vec::with_capacity(rows.len() * self.genes.len()),
        };
        for &row in rows {
            let (Some(name), Some(values)) = (self.samples.get(row), self.row(row)) else {
                return Err(outside("select_samples", row, self.samples.len()));
            };
            out.samples.push(name.clone());
            out.values.extend_from_slice(values);
        }
        Ok(out)
    }

    /// The table with only these columns, in this order.
    ///
    /// # Errors
    /// An index past the last gene.
    pub fn select_genes(&self, columns: &[usize]) -> Result<Self> {
        if let Some(&column) = columns.iter().find(|&&c| c >= self.genes.len()) {
            return Err(outside("select_genes", column, self.genes.len()));
        }
        let mut values = Vec::with_capacity(self.samples.len() * columns.len());
        for row in self.rows() {
            values.extend(columns.iter().map(|&c| row[c]));
        }
        Ok(Self {
            samples: self.samples.clone(),
            genes: columns.iter().map(|&c| self.genes[c].clone()).collect(),
            values,
        })
    }

    /// The rows in order, one per sample.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        // A table without genes has no values; its rows are empty.
        let width = self.genes.len().max(1);
        self.values.chunks_exact(width)
    }
}

fn outside(op: &'static str, index: usize, len: usize) -> Error {
    Error::op(op, format!("index {index} is past the end of {len}"))
}

/// Reads a table whose orientation the caller knows.
///
/// # Errors
/// As [`read_for`]; also [`Orientation::Auto`], which needs names to go by.
pub fn read(path: impl AsRef<Path>, orientation: Orientation) -> Result<Table> {
    read_for(path, orientation, &[])
}

/// Reads a table. If names of its columns begin with `rna_`, these are the genes, whatever the
/// orientation; the column `wsi_file_name`, `slide` or `sample`, else the first, names the
/// samples, and other columns are left out. Otherwise with [`Orientation::Auto`], the side of the file that names
/// more of `known_samples` holds the samples.
///
/// # Errors
/// Each names the file, the line and the column: a file that cannot be read,
/// is not text, is truncated or expands beyond bounds; an empty table; a line
/// of another length; a sample or gene that stands twice or has no name; a
/// value that is missing, not a number, not finite, or negative; with `Auto`,
/// an orientation that the names do not decide.
pub fn read_for(
    path: impl AsRef<Path>,
    orientation: Orientation,
    known_samples: &[String],
) -> Result<Table> {
    read_grid(path.as_ref(), orientation, known_samples, Sign::NotNegative)
}

/// As [`read_for`], with negative values too: predictions, or expression that is
/// standardised.
///
/// # Errors
/// As [`read_for`].
pub fn read_signed(
    path: impl AsRef<Path>,
    orientation: Orientation,
    known_samples: &[String],
) -> Result<Table> {
    read_grid(path.as_ref(), orientation, known_samples, Sign::Any)
}

/// Which values a table may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    NotNegative,
    Any,
}

fn read_grid(
    path: &Path,
    orientation: Orientation,
    known_samples: &[String],
    sign: Sign,
) -> Result<Table> {
    let grid = Grid::read(path, sign)?;
    let samples_are_rows = match orientation {
        _ if grid.marked.is_some() => true,
        Orientation::SamplesByGenes => true,
        Orientation::GenesBySamples => false,
        Orientation::Auto => grid.samples_are_rows(path, known_samples)?,
    };
    grid.into_table(path, samples_are_rows)
}

/// Writes samples x genes as CSV, shortest decimals that read back the same.
///
/// # Errors
/// A table whose values do not fit its names; a file that cannot be written.
/// Nothing is left under `path` then.
pub fn write(path: impl AsRef<Path>, table: &Table) -> Result<()> {
    let path = path.as_ref();
    if table.values.len() != table.samples.len() * table.genes.len() {
        return Err(Error::shape(
            "table::write",
            &[
                &[table.samples.len(), table.genes.len()],
                &[table.values.len()],
            ],
            "one value per sample and gene",
        ));
    }
    write_atomically(path, |out| {
        let fail = |e: csv::Error| Error::io("write", path, io::Error::other(e));
        let mut csv = csv::Writer::from_writer(out.by_ref());
        csv.write_field("sample").map_err(fail)?;
        csv.write_record(&table.genes).map_err(fail)?;
        let mut text = Vec::new();
        for (sample, row) in table.samples.iter().zip(table.rows()) {
            csv.write_field(sample).map_err(fail)?;
            for value in row {
                text.clear();
                write!(text, "{value}").map_err(|e| Error::io("write", path, e))?;
                csv.write_field(&text).map_err(fail)?;
            }
            csv.write_record(None::<&[u8]>).map_err(fail)?;
        }
        csv.flush().map_err(|e| Error::io("write", path, e))
    })
}

/// The file as it stands: names beside the rows and above the columns.
struct Grid {
    rows: Vec<String>,
    columns: Vec<String>,
    /// (rows, columns), row-major.
    values: Vec<f32>,
    /// Line in the file of each row.
    lines: Vec<u64>,
    /// Set where columns say by [`GENE_PREFIX`] that they are genes.
    marked: Option<Marked>,
}

/// Starts the names of columns that hold expression in tables that have other columns too
/// (classes, folders, patients), which are left out.
const GENE_PREFIX: &str = "rna_";

/// The columns that name the samples of such tables, the first of them that is there.
const SAMPLE_COLUMNS: [&str; 3] = ["wsi_file_name", "slide", "sample"];

/// What of each line is read.
struct Marked {
    sample: usize,
    genes: Vec<usize>,
}

impl Marked {
    fn of(header: &[String]) -> Option<Self> {
        let is_gene = |&i: &usize| header[i].starts_with(GENE_PREFIX);
        let genes: Vec<usize> = (0..header.len()).filter(is_gene).collect();
        if genes.is_empty() {
            return None;
        }
        let named = |name: &&str| header.iter().position(|h| h == name);
        let sample = SAMPLE_COLUMNS.iter().find_map(named).unwrap_or(0);
        Some(Self { sample, genes })
    }
}

impl Grid {
    fn read(path: &Path, sign: Sign) -> Result<Self> {
        let (delimiter, text) = open(path)?;
        let mut csv = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(text);
        let fail = |e: csv::Error| {
            let place = match e.position() {
                Some(at) => format!("line {}", at.line()),
                None => String::new(),
            };
            match e.into_kind() {
                csv::ErrorKind::Io(e) => unreadable(path, e),
                kind => Error::file(path, place, format!("{kind:?}"), "write the table anew"),
            }
        };

        let mut record = ByteRecord::new();
        if !csv.read_byte_record(&mut record).map_err(fail)? {
            return Err(empty(path));
        }
        let header = record
            .iter()
            .enumerate()
            .map(|(i, field)| name(path, 1, &format!("column {}", i + 1), field))
            .collect::<Result<Vec<_>>>()?;

        let marked = Marked::of(&header);
        let mut fields = header.len();
        let columns = match &marked {
            None => header,
            Some(marked) => {
                let gene = |&i: &usize| header[i][GENE_PREFIX.len()..].to_owned();
                marked.genes.iter().map(gene).collect()
            }
        };
        let mut grid = Self {
            rows: Vec::new(),
            columns,
            values: Vec::new(),
            lines: Vec::new(),
            marked,
        };
        while csv.read_byte_record(&mut record).map_err(fail)? {
            let line = record.position().map_or(0, |p| p.line());
            if grid.rows.is_empty() && grid.marked.is_none() {
                fields = grid.settle_header(path, record.len(), line)?;
            }
            grid.push(path, &record, line, fields, sign)?;
        }
        if grid.rows.is_empty() || grid.columns.is_empty() {
            return Err(empty(path));
        }
        Ok(grid)
    }

    /// Drops the corner cell from the header, unless (as R writes tables) it
    /// has none. Returns the number of fields that each line must have.
    fn settle_header(&mut self, path: &Path, fields: usize, line: u64) -> Result<usize> {
        let corner = usize::from(fields == self.columns.len());
        if corner == 1 {
            self.columns.remove(0);
        } else if fields != self.columns.len() + 1 {
            return Err(ragged(path, line, fields, self.columns.len()));
        }
        if let Some(i) = self.columns.iter().position(String::is_empty) {
            return Err(Error::file(
                path,
                format!("line 1, column {}", i + 1 + corner),
                "has no name",
                "name the column or remove it",
            ));
        }
        Ok(fields)
    }

    fn push(
        &mut self,
        path: &Path,
        record: &ByteRecord,
        line: u64,
        fields: usize,
        sign: Sign,
    ) -> Result<()> {
        if record.len() != fields {
            return Err(ragged(path, line, record.len(), fields));
        }
        let (at, cells): (usize, Vec<&[u8]>) = match &self.marked {
            None => (0, record.iter().skip(1).collect()),
            Some(marked) => {
                let genes = marked.genes.iter();
                (
                    marked.sample,
                    genes.filter_map(|&i| record.get(i)).collect(),
                )
            }
        };
        let place = format!("column {}", at + 1);
        let row = name(path, line, &place, record.get(at).unwrap_or_default())?;
        if row.is_empty() {
            return Err(Error::file(
                path,
                format!("line {line}, {place}"),
                "the row has no name",
                "name the row or remove it",
            ));
        }
        self.rows.push(row);
        self.lines.push(line);
        for (cell, column) in cells.into_iter().zip(&self.columns) {
            let (value, remedy) = match sign {
                Sign::Any => (finite(cell), "give a finite number"),
                Sign::NotNegative => (
                    number(cell),
                    "give a finite number that is not negative, such as a count",
                ),
            };
            let value = value.map_err(|problem| {
                Error::file(
                    path,
                    format!("line {line}, column `{column}`"),
                    problem,
                    remedy,
                )
            })?;
            self.values.push(value);
        }
        Ok(())
    }

    fn samples_are_rows(&self, path: &Path, known_samples: &[String]) -> Result<bool> {
        if known_samples.is_empty() {
            return Err(Error::usage(
                format!(
                    "nothing says whether the rows of {} are samples or genes",
                    path.display()
                ),
                "set the orientation: samples-by-genes or genes-by-samples",
            ));
        }
        let known: std::collections::HashSet<&str> =
            known_samples.iter().map(String::as_str).collect();
        let count = |names: &[String]| names.iter().filter(|n| known.contains(n.as_str())).count();
        let (rows, columns) = (count(&self.rows), count(&self.columns));
        if rows == 0 && columns == 0 {
            return Err(Error::file(
                path,
                "",
                format!(
                    "names none of the {} samples, neither in its rows (`{}`, ...) nor in its columns (`{}`, ...), as `{}`",
                    known_samples.len(),
                    self.rows.first().map_or("", String::as_str),
                    self.columns.first().map_or("", String::as_str),
                    known_samples.first().map_or("", String::as_str),
                ),
                "give the table the samples' names",
            ));
        }
        if rows == columns {
            return Err(Error::file(
                path,
                "",
                format!("names {rows} samples in its rows and as many in its columns"),
                "set the orientation: samples-by-genes or genes-by-samples",
            ));
        }
        Ok(rows > columns)
    }

    fn into_table(self, path: &Path, samples_are_rows: bool) -> Result<Table> {
        let (row, column) = if samples_are_rows {
            ("sample", "gene")
        } else {
            ("gene", "sample")
        };
        if let Some((first, second)) = twice(&self.rows) {
            return Err(Error::file(
                path,
                format!("line {}", self.lines[second]),
                format!(
                    "{row} `{}` stands already in line {}",
                    self.rows[second], self.lines[first]
                ),
                format!("keep one row for each {row}"),
            ));
        }
        if let Some((first, second)) = twice(&self.columns) {
            return Err(Error::file(
                path,
                "line 1",
                format!(
                    "{column} `{}` stands twice, as value {} and as value {} of each line",
                    self.columns[second],
                    first + 1,
                    second + 1
                ),
                format!("keep one column for each {column}"),
            ));
        }
        if samples_are_rows {
            return Ok(Table {
                samples: self.rows,
                genes: self.columns,
                values: self.values,
            });
        }
        let (genes, samples) = (self.rows.len(), self.columns.len());
        let mut values = vec![0.0; self.values.len()];
        for (gene, row) in self.values.chunks_exact(samples).enumerate() {
            for (sample, &value) in row.iter().enumerate() {
                values[sample * genes + gene] = value;
            }
        }
        Ok(Table {
            samples: self.columns,
            genes: self.rows,
            values,
        })
    }
}

/// Indices of the first name that stands a second time.
fn twice(names: &[String]) -> Option<(usize, usize)> {
    let mut seen = HashMap::with_capacity(names.len());
    names
        .iter()
        .enumerate()
        .find_map(|(i, name)| seen.insert(name.as_str(), i).map(|first| (first, i)))
}

fn name(path: &Path, line: u64, place: &str, field: &[u8]) -> Result<String> {
    match std::str::from_utf8(field) {
        Ok(text) => Ok(text.trim().to_string()),
        Err(_) => Err(Error::file(
            path,
            format!("line {line}, {place}"),
            "the name is not UTF-8 text",
            "save the table as UTF-8",
        )),
    }
}

/// A finite value that is not negative, or what is wrong with the cell.
pub(super) fn number(cell: &[u8]) -> Result<f32, String> {
    match finite(cell)? {
        value if value < 0.0 => Err(format!("`{}` is negative", shown(cell))),
        value => Ok(value),
    }
}

/// A finite value, or what is wrong with the cell.
fn finite(cell: &[u8]) -> Result<f32, String> {
    // Nearly all cells of a count table are short runs of digits, which are
    // exact in f32 up to seven digits.
    if !cell.is_empty() && cell.len() <= 7 && cell.iter().all(u8::is_ascii_digit) {
        let value = cell.iter().fold(0, |v, d| v * 10 + u32::from(d - b'0'));
        return Ok(value as f32);
    }
    let text = String::from_utf8_lossy(cell);
    match text.trim().parse::<f32>() {
        _ if text.trim().is_empty() => Err("the value is missing".to_string()),
        Err(_) => Err(format!("`{}` is not a number", shown(cell))),
        Ok(value) if !value.is_finite() => Err(format!("`{}` is not a finite number", shown(cell))),
        Ok(value) => Ok(value),
    }
}

/// The cell as an error shows it.
fn shown(cell: &[u8]) -> String {
    String::from_utf8_lossy(cell)
        .trim()
        .chars()
        .take(40)
        .collect()
}

fn empty(path: &Path) -> Error {
    Error::file(
        path,
        "",
        "the table is empty",
        "it needs a header line and at least one row with a value",
    )
}

fn ragged(path: &Path, line: u64, found: usize, expected: usize) -> Error {
    Error::file(
        path,
        format!("line {line}"),
        format!("has {found} fields where the lines before have {expected}"),
        "give every line the same number of fields",
    )
}

fn unreadable(path: &Path, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            Error::file(
                path,
                "",
                format!("the compressed file is truncated or damaged ({e})"),
                "copy or compress it again",
            )
        }
        io::ErrorKind::FileTooLarge => {
            Error::file(path, "", e.to_string(), "check what the file holds")
        }
        _ => Error::io("read", path, e),
    }
}

/// Text beyond this is refused: it would not fit in memory as a table.
const MAX_TEXT: u64 = 16 << 30;
/// What any compressed file may expand to, plus [`MAX_RATIO`] times its size.
const FREE_EXPANSION: u64 = 64 << 20;
const MAX_RATIO: u64 = 500;
/// How much of the text is looked at to find the delimiter.
const SNIFFED: u64 = 64 << 10;

/// Passes on at most `left` bytes; one more is an error.
struct Bounded<R> {
    inner: R,
    left: u64,
    bound: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("holds more than {} MiB of text", self.bound >> 20),
            )
        })?;
        Ok(n)
    }
}

/// The text of a file, decompressed if need be, and its delimiter.
pub(crate) fn open(path: &Path) -> Result<(u8, impl Read)> {
    let read = |e| Error::io("read", path, e);
    let file = File::open(path).map_err(read)?;
    let meta = file.metadata().map_err(read)?;
    if meta.is_dir() {
        return Err(Error::file(
            path,
            "",
            "is a folder",
            "give the path of a CSV or TSV file",
        ));
    }
    let mut file = BufReader::with_capacity(256 << 10, file);
    let mut magic = Vec::with_capacity(2);
    file.by_ref()
        .take(2)
        .read_to_end(&mut magic)
        .map_err(read)?;
    let gzip = magic == [0x1f, 0x8b];
    let whole = Cursor::new(magic).chain(file);
    let (inner, bound): (Box<dyn Read>, u64) = if gzip {
        let bound = FREE_EXPANSION.saturating_add(meta.len().saturating_mul(MAX_RATIO));
        (Box::new(MultiGzDecoder::new(whole)), bound.min(MAX_TEXT))
    } else {
        (Box::new(whole), MAX_TEXT)
    };
    let mut text = Bounded {
        inner,
        left: bound,
        bound,
    };

    let mut head = Vec::new();
    text.by_ref()
        .take(SNIFFED)
        .read_to_end(&mut head)
        .map_err(|e| unreadable(path, e))?;
    if head.contains(&0) {
        return Err(Error::file(
            path,
            "",
            "is not text",
            "give a CSV or TSV file in UTF-8, plain or gzip",
        ));
    }
    if head.starts_with(b"\xef\xbb\xbf") {
        head.drain(..3);
    }
    let delimiter = delimiter(path, &head)?;
    Ok((delimiter, Cursor::new(head).chain(text)))
}

/// The most frequent of tab, comma and semicolon in the first line that has
/// text, outside quotes.
fn delimiter(path: &Path, head: &[u8]) -> Result<u8> {
    let line = head
        .split(|&b| b == b'\n')
        .find(|line| !line.trim_ascii().is_empty())
        .ok_or_else(|| empty(path))?;
    let mut quoted = false;
    let mut counts = [(b'\t', 0), (b',', 0), (b';', 0)];
    for &byte in line {
        quoted ^= byte == b'"';
        if let Some((_, n)) = counts.iter_mut().find(|(d, _)| *d == byte && !quoted) {
            *n += 1;
        }
    }
    // The first of equals wins, so a tab before a comma.
    let best = counts.iter().rev().max_by_key(|(_, n)| *n);
    match best {
        Some(&(delimiter, n)) if n > 0 => Ok(delimiter),
        // One column with nothing to separate: whatever follows is ragged or
        // has no values, and the reader says so.
        _ => Ok(b','),
    }
}
