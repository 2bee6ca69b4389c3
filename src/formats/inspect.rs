//! What is in a file: for people (`Display`) and for machines (`Serialize`).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::hdf5::{self, Value};
use super::{Array, Kind, Weights, h5ad, hash, map, npy, parse_weights};
use crate::error::{Error, Result};

/// A gzip file can unpack to a thousand times its size: a table is streamed,
/// and one of its records may take this many bytes.
const MAX_RECORD: usize = 64 << 20;
/// Configurations are read whole to judge them; nobody writes one this long.
const MAX_CONFIG: usize = 16 << 20;
/// How much of a text decides whether it is a table.
const HEAD: usize = 64 << 10;

/// The facts about one file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    pub path: PathBuf,
    pub kind: Kind,
    /// Packed by gzip; `kind` is that of the content, where it is known.
    pub gzip: bool,
    pub bytes: u64,
    pub sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
}

/// What the kinds of file have of their own.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Content {
    Weights(WeightsFacts),
    Array(ArrayFacts),
    Table(TableFacts),
    Tree(TreeFacts),
    /// In pixels.
    Image {
        width: u32,
        height: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightsFacts {
    /// Elements of all tensors together, batch norm's running statistics among them.
    pub parameters: usize,
    pub metadata: BTreeMap<String, String>,
    /// In file order.
    pub tensors: Vec<TensorFacts>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorFacts {
    pub key: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
}

/// Statistics leave NaN out, and are absent where nothing is left.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArrayFacts {
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub mean: Option<f64>,
    pub nan: usize,
}

/// A table with a header; its first column is taken as the names of the rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableFacts {
    /// Without the header.
    pub rows: usize,
    /// With the first.
    pub columns: usize,
    /// The first names of the header.
    pub first_columns: Vec<String>,
    /// The first cells of the first column.
    pub first_rows: Vec<String>,
    /// Cells outside header and first column that are empty, `NA` or `NaN`.
    pub missing: usize,
    /// Cells outside header and first column that are text.
    pub non_numeric: usize,
    /// Rows with another number of cells than the header.
    pub ragged: usize,
}

/// Groups and datasets of an HDF5 file, parents first, each under its path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TreeFacts {
    pub objects: Vec<ObjectFacts>,
    /// Whether there are more than are listed, or groups within each other without end.
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObjectFacts {
    /// Empty for the root group.
    pub path: String,
    pub attributes: BTreeMap<String, Value>,
    /// What a dataset has.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetFacts>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatasetFacts {
    pub dtype: String,
    pub shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Vec<usize>>,
    pub packed: bool,
}

/// Tells what a file is, by its content, and what is in it.
///
/// # Errors
/// The file cannot be read; or it is of a known kind, but damaged.
pub fn inspect(path: impl AsRef<Path>) -> Result<Inspection> {
    let path = path.as_ref();
    let bytes = map(path)?;
    let mut inspection = Inspection {
        path: path.to_path_buf(),
        kind: Kind::sniff(&bytes),
        gzip: false,
        bytes: bytes.len() as u64,
        sha256: hash::sha256_bytes(&bytes),
        content: None,
    };
    inspection.content = match inspection.kind {
        Kind::Safetensors | Kind::TorchZip | Kind::TorchLegacy => Some(Content::Weights(
            weights_facts(&parse_weights(path, &bytes)?),
        )),
        Kind::Npy => Some(Content::Array(array_facts(&npy::parse(path, &bytes)?))),
        Kind::Hdf5 => {
            let (kind, tree) = tree_facts(path)?;
            inspection.kind = kind;
            Some(Content::Tree(tree))
        }
        Kind::Png => Some(png_size(path, &bytes)?),
        Kind::Jpeg => Some(jpeg_size(path, &bytes)?),
        Kind::Gzip => {
            let unpack = || flate2::read::MultiGzDecoder::new(&bytes[..]);
            let mut head = Vec::new();
            unpack()
                .take(HEAD as u64)
                .read_to_end(&mut head)
                .map_err(|e| damaged_gzip(path, &e))?;
            match delimiter(path, &head) {
                Some((kind, delimiter)) => {
                    inspection.kind = kind;
                    inspection.gzip = true;
                    Some(Content::Table(table_facts(path, unpack(), delimiter)?))
                }
                None => None,
            }
        }
        Kind::Unknown => match text_kind(path, &bytes) {
            Some((kind, None)) => {
                inspection.kind = kind;
                None
            }
            Some((kind, Some(delimiter))) => {
                inspection.kind = kind;
                Some(Content::Table(table_facts(path, &bytes[..], delimiter)?))
            }
            None => None,
        },
        _ => None,
    };
    Ok(inspection)
}

/// How many objects are listed, and how deep. A group may hold itself.
const MOST_OBJECTS: usize = 2000;
const DEEPEST: usize = 16;

fn tree_facts(path: &Path) -> Result<(Kind, TreeFacts)> {
    hdf5::contained(path, || {
        let file = hdf5::File::open(path)?;
        let kind = match h5ad::is_anndata(&file) {
            true => Kind::H5ad,
            false => Kind::Hdf5,
        };
        let mut tree = TreeFacts {
            objects: Vec::new(),
            more: false,
        };
        list_group(&file, String::new(), 0, &mut tree)?;
        Ok((kind, tree))
    })
}

fn list_group(file: &hdf5::File, path: String, depth: usize, tree: &mut TreeFacts) -> Result<()> {
    if tree.objects.len() >= MOST_OBJECTS || depth > DEEPEST {
        tree.more = true;
        return Ok(());
    }
    let names = file.names(&path)?;
    let inner = |name: String| match path.as_str() {
        "" => name,
        outer => format!("{outer}/{name}"),
    };
    tree.objects.push(ObjectFacts {
        attributes: file.attributes(&path)?,
        path: path.clone(),
        dataset: None,
    });
    for name in names.datasets {
        if tree.objects.len() >= MOST_OBJECTS {
            tree.more = true;
            return Ok(());
        }
        let path = inner(name);
        let facts = file.facts(&path)?;
        tree.objects.push(ObjectFacts {
            attributes: file.attributes(&path)?,
            path,
            dataset: Some(DatasetFacts {
                dtype: facts.kind.to_string(),
                shape: facts.shape,
                chunks: facts.chunks,
                packed: facts.packed,
            }),
        });
    }
    for name in names.groups {
        list_group(file, inner(name), depth + 1, tree)?;
    }
    Ok(())
}

fn damaged_gzip(path: &Path, e: &io::Error) -> Error {
    Error::file(
        path,
        "gzip",
        e.to_string(),
        "the file is cut short or damaged: fetch or write it again",
    )
}

fn weights_facts(weights: &Weights) -> WeightsFacts {
    WeightsFacts {
        parameters: weights.elements(),
        metadata: weights.metadata.clone(),
        tensors: weights
            .iter()
            .map(|(key, array)| TensorFacts {
                key: key.to_owned(),
                dtype: array.dtype.name(),
                shape: array.shape.clone(),
            })
            .collect(),
    }
}

fn array_facts(array: &Array) -> ArrayFacts {
    let (mut min, mut max, mut sum) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
    let (mut count, mut nan) = (0usize, 0usize);
    for v in array.iter_f64() {
        if v.is_nan() {
            nan += 1;
            continue;
        }
        count += 1;
        min = min.min(v);
        max = max.max(v);
        sum += v;
    }
    let some = |v| (count > 0).then_some(v);
    ArrayFacts {
        dtype: array.dtype.name(),
        shape: array.shape.clone(),
        min: some(min),
        max: some(max),
        mean: some(sum / count as f64),
        nan,
    }
}

/// The kind of a text, and the delimiter of a table.
fn text_kind(path: &Path, bytes: &[u8]) -> Option<(Kind, Option<u8>)> {
    if bytes.len() <= MAX_CONFIG
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        if text.trim_start().starts_with(['{', '['])
            && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
        {
            return Some((Kind::Json, None));
        }
        if text
            .parse::<toml::Table>()
            .is_ok_and(|table| !table.is_empty())
        {
            return Some((Kind::Toml, None));
        }
    }
    let (kind, delimiter) = delimiter(path, bytes)?;
    Some((kind, Some(delimiter)))
}

/// A table is text whose first line has tabs or commas, and whose second, where
/// there is one, has about as many: spot tables of R lack the first header cell.
fn delimiter(path: &Path, bytes: &[u8]) -> Option<(Kind, u8)> {
    let head = bytes.get(..HEAD).unwrap_or(bytes);
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A letter cut in two by the end of the head is no harm.
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(head.get(..e.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    if text.contains('\0') {
        return None;
    }
    let name = path.to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let mut lines = text.lines();
    let first = lines.next()?;
    // A second line that the head cuts short says nothing.
    let second = lines
        .next()
        .filter(|_| text.len() < HEAD || lines.next().is_some());
    [(Kind::Tsv, '\t', ".tsv"), (Kind::Csv, ',', ".csv")]
        .into_iter()
        .find(|&(_, delimiter, extension)| {
            let count = |line: &str| line.matches(delimiter).count();
            name.ends_with(extension)
                || (count(first) > 0
                    && second.is_none_or(|second| count(first).abs_diff(count(second)) <= 1))
        })
        .map(|(kind, delimiter, _)| (kind, delimiter as u8))
}

/// Counts the bytes read since it was last set to zero, and stops at the limit.
struct Guarded<'c, R> {
    inner: R,
    since: &'c Cell<usize>,
}

impl<R: Read> Read for Guarded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since.get() > MAX_RECORD {
            return Err(io::Error::other(format!(
                "a record is longer than {} MiB",
                MAX_RECORD >> 20
            )));
        }
        let n = self.inner.read(buffer)?;
        self.since.set(self.since.get().saturating_add(n));
        Ok(n)
    }
}

fn table_facts(path: &Path, content: impl Read, delimiter: u8) -> Result<TableFacts> {
    const FIRST: usize = 5;
    let since = Cell::new(0);
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .has_headers(false)
        .from_reader(Guarded {
            inner: content,
            since: &since,
        });
    let mut facts = TableFacts {
        rows: 0,
        columns: 0,
        first_columns: Vec::new(),
        first_rows: Vec::new(),
        missing: 0,
        non_numeric: 0,
        ragged: 0,
    };
    let text = |cell: &[u8]| String::from_utf8_lossy(cell).trim().to_owned();
    let mut record = csv::ByteRecord::new();
    let mut header = None;
    loop {
        since.set(0);
        let more = reader.read_byte_record(&mut record).map_err(|e| {
            let line = e
                .position()
                .map_or(facts.rows as u64 + 2, csv::Position::line);
            Error::file(
                path,
                format!("line {line}"),
                e.to_string(),
                "the file is cut short, damaged or not a table: fetch or write it again",
            )
        })?;
        if !more {
            return Ok(facts);
        }
        let Some(width) = header else {
            header = Some(record.len());
            facts.columns = record.len();
            facts.first_columns = record.iter().take(FIRST).map(text).collect();
            continue;
        };
        facts.rows += 1;
        // R writes no header cell above the names of the rows.
        if facts.rows == 1 && record.len() == width + 1 {
            header = Some(record.len());
            facts.columns = record.len();
        } else if record.len() != width {
            facts.ragged += 1;
        }
        if facts.first_rows.len() < FIRST {
            facts.first_rows.extend(record.get(0).map(text));
        }
        for cell in record.iter().skip(1) {
            match cell.trim_ascii() {
                b"" | b"NA" | b"na" | b"N/A" | b"NaN" | b"nan" => facts.missing += 1,
                cell => {
                    let number = std::str::from_utf8(cell).is_ok_and(|c| c.parse::<f64>().is_ok());
                    facts.non_numeric += usize::from(!number);
                }
            }
        }
    }
}

/// The header chunk always comes first.
fn png_size(path: &Path, bytes: &[u8]) -> Result<Content> {
    match bytes.get(12..24) {
        Some(&[b'I', b'H', b'D', b'R', a, b, c, d, e, f, g, h]) => Ok(Content::Image {
            width: u32::from_be_bytes([a, b, c, d]),
            height: u32::from_be_bytes([e, f, g, h]),
        }),
        _ => Err(damaged_image(path, "has no image header")),
    }
}

/// Walks the segments up to the frame header (SOF0 to SOF15).
fn jpeg_size(path: &Path, bytes: &[u8]) -> Result<Content> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        match *rest {
            // Fill bytes, and markers without content.
            [0xff, 0xff, ..] => rest = rest.get(1..).unwrap_or_default(),
            [0xff, 0x01 | 0xd0..=0xd8, ..] => rest = rest.get(2..).unwrap_or_default(),
            [
                0xff,
                0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf,
                _,
                _,
                _,
                a,
                b,
                c,
                d,
                ..,
            ] => {
                return Ok(Content::Image {
                    width: u16::from_be_bytes([c, d]).into(),
                    height: u16::from_be_bytes([a, b]).into(),
                });
            }
            [0xff, marker, a, b, ..] if marker != 0xd9 && marker != 0xda => {
                let length = usize::from(u16::from_be_bytes([a, b]));
                rest = rest.get(2 + length..).unwrap_or_default();
            }
            _ => return Err(damaged_image(path, "has no frame header")),
        }
    }
}

fn damaged_image(path: &Path, problem: &str) -> Error {
    Error::file(
        path,
        "",
        problem,
        "the image is cut short or damaged: fetch it again",
    )
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packed = if self.gzip { ", gzip-compressed" } else { "" };
        writeln!(f, "file        {}", self.path.display())?;
        writeln!(f, "is          {}{packed}", self.kind)?;
        writeln!(f, "size        {}", human_size(self.bytes))?;
        write!(f, "sha256      {}", self.sha256)?;
        match &self.content {
            None => Ok(()),
            Some(Content::Weights(weights)) => write!(f, "\n{weights}"),
            Some(Content::Array(array)) => write!(f, "\n{array}"),
            Some(Content::Table(table)) => write!(f, "\n{table}"),
            Some(Content::Tree(tree)) => write!(f, "{tree}"),
            Some(Content::Image { width, height }) => {
                write!(f, "\npixels      {width} wide, {height} high")
            }
        }
    }
}

impl fmt::Display for WeightsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tensors     {}", grouped(self.tensors.len() as u64))?;
        write!(f, "parameters  {}", grouped(self.parameters as u64))?;
        for (key, value) in &self.metadata {
            let line = format!("{key}: {value}").replace(char::is_control, " ");
            write!(f, "\nmetadata    {line}")?;
        }
        let width = self.tensors.iter().map(|t| t.key.chars().count()).max();
        let width = width.unwrap_or(0).min(60);
        for TensorFacts { key, dtype, shape } in &self.tensors {
            let key = key.escape_debug().to_string();
            write!(f, "\n  {key:width$}  {dtype:4}  {shape:?}")?;
        }
        Ok(())
    }
}

impl fmt::Display for TreeFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let long = |o: &ObjectFacts| o.path.chars().count() + 1;
        let width = self.objects.iter().map(long).max().unwrap_or(0).min(60);
        for object in &self.objects {
            let path = format!("/{}", object.path.escape_debug());
            match &object.dataset {
                None => write!(f, "\n  {path}")?,
                Some(d) => {
                    write!(f, "\n  {path:width$}  {:4}  {:?}", d.dtype, d.shape)?;
                    if let Some(chunks) = &d.chunks {
                        write!(f, ", chunks {chunks:?}")?;
                    }
                    if d.packed {
                        f.write_str(", packed")?;
                    }
                }
            }
            for (name, value) in &object.attributes {
                let value: String = value.to_string().chars().take(100).collect();
                write!(f, "\n      {} = {value}", name.escape_debug())?;
            }
        }
        match self.more {
            true => f.write_str("\n  ... and more"),
            false => Ok(()),
        }
    }
}

impl fmt::Display for ArrayFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "array       {} {:?}", self.dtype, self.shape)?;
        if let (Some(min), Some(max), Some(mean)) = (self.min, self.max, self.mean) {
            write!(f, "\nvalues      {min} to {max}, mean {mean}")?;
        }
        match self.nan {
            0 => Ok(()),
            n => write!(f, "\nNaN         {}", grouped(n as u64)),
        }
    }
}

impl fmt::Display for TableFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |names: &[String], of: usize| {
            let text = names.iter().map(|n| n.escape_debug().to_string());
            let text = text.collect::<Vec<_>>().join(", ");
            if of > names.len() {
                text + ", ..."
            } else {
                text
            }
        };
        let (rows, columns) = (self.rows, self.columns);
        writeln!(
            f,
            "table       {} rows x {} columns",
            grouped(rows as u64),
            grouped(columns as u64)
        )?;
        writeln!(f, "columns     {}", names(&self.first_columns, columns))?;
        write!(f, "rows        {}", names(&self.first_rows, rows))?;
        for (what, count) in [("missing", self.missing), ("text", self.non_numeric)] {
            if count > 0 {
                let count = grouped(count as u64);
                write!(
                    f,
                    "\n{what:11} {count} cells beside the header and the first column"
                )?;
            }
        }
        if self.ragged > 0 {
            let ragged = grouped(self.ragged as u64);
            write!(
                f,
                "\nragged      {ragged} rows have another number of cells than the first"
            )?;
        }
        Ok(())
    }
}

/// 1234567 as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut size = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        if size < 1000.0 {
            break;
        }
        size /= 1000.0;
        unit = next;
    }
    if unit.is_empty() {
        return format!("{bytes} bytes");
    }
    format!("{size:.1} {unit} ({} bytes)", grouped(bytes))
}
