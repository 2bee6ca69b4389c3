//! HDF5: arrays, texts and attributes in a tree of groups.
//!
//! The crate hdf5-pure does the work; nothing of it shows in this API. It is
//! written for hostile files, yet a few things are left to do, and are done here:
//!
//! - **Sizes.** Storage that was never written reads as a fill value, so a file
//!   of a kilobyte may claim terabytes. What a dataset claims is checked against
//!   the length of the file before it is read: as much as the file holds where it
//!   is stored as it is, and 1,032 times that (deflate's limit) where it is packed.
//! - **Panics and deep nesting.** Every call runs on a thread of its own, with a
//!   stack that nested datatypes cannot exhaust; a panic there becomes an error.
//!
//! Not read is what HDF5 2.0 writes when it is asked for its newest format (h5py's
//! `libver="latest"`); its defaults are, and so is what 1.8 to 1.14 write.
//!
//! One thing is left: each text of an attribute may refer to the same stored text,
//! so that reading attributes may take some thousand times the longest text of the
//! file. A file must not be cut short while it is read, as everywhere here.
//!
//! ```
//! use eosin::formats::{Array, hdf5};
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("slide.h5");
//! let mut root = hdf5::Group::new();
//! root.attribute("encoder", "resnet50");
//! root.dataset("features", Array::from_f32(&[2, 3], &[0.0; 6])?);
//! hdf5::write(&path, &root)?;
//!
//! let file = hdf5::File::open(&path)?;
//! assert_eq!(file.array("features")?.shape, [2, 3]);
//! assert_eq!(file.attributes("")?["encoder"].as_text(), Some("resnet50"));
//! # Ok::<(), eosin::Error>(())
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use half::f16;
use hdf5_pure::{
    AttrValue, DType as Stored, Datatype, EnumTypeBuilder, FileBuilder, FormatError, MaxExtent,
    VlenStringReadOptions, make_i8_type,
};

use super::array::{Array, byte_count};
use super::atomic::write_atomically;
use super::map;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// How often deflate can repeat a byte that is in the file.
const EXPANSION: u64 = 1032;
/// What any dataset may claim: storage that was not written yet.
const FREE: u64 = 1 << 20;
/// Holds the deepest datatype that fits in an object header, many times over.
const STACK: usize = 64 << 20;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Value {
    Text(String),
    Texts(Vec<String>),
    /// A bool is 0 or 1.
    Int(i64),
    Ints(Vec<i64>),
    Float(f64),
    Floats(Vec<f64>),
}

impl Value {
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(v) => Some(*v),
            Self::Ints(v) if v.len() == 1 => v.first().copied(),
            _ => None,
        }
    }

    /// A number, or an array of one.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(v) => Some(*v),
            Self::Floats(v) if v.len() == 1 => v.first().copied(),
            other => other.as_int().map(|v| v as f64),
        }
    }

    /// Whole numbers, one or several.
    pub fn as_ints(&self) -> Option<&[i64]> {
        match self {
            Self::Int(v) => Some(std::slice::from_ref(v)),
            Self::Ints(v) => Some(v),
            _ => None,
        }
    }

    /// Texts, one or several. An empty list may have any type: some writers give
    /// it one of numbers.
    pub fn as_texts(&self) -> Option<&[String]> {
        match self {
            Self::Text(v) => Some(std::slice::from_ref(v)),
            Self::Texts(v) => Some(v),
            Self::Ints(v) if v.is_empty() => Some(&[]),
            Self::Floats(v) if v.is_empty() => Some(&[]),
            _ => None,
        }
    }
}

macro_rules! from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}
from!(&str => Text, String => Text, Vec<String> => Texts, i64 => Int, Vec<i64> => Ints, f64 => Float, Vec<f64> => Floats, bool => Int);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(v) => write!(f, "{}", v.escape_debug()),
            Self::Texts(v) => write!(f, "{v:?}"),
            Self::Int(v) => write!(f, "{v}"),
            Self::Ints(v) => write!(f, "{v:?}"),
            Self::Float(v) => write!(f, "{v}"),
            Self::Floats(v) => write!(f, "{v:?}"),
        }
    }
}

impl Value {
    /// `None` for kinds of attribute that have no value here.
    fn read(value: &AttrValue) -> Option<Self> {
        if let Some(text) = value.as_str() {
            return Some(Self::Text(text.to_owned()));
        }
        if let Some(texts) = value.as_strings() {
            return Some(Self::Texts(texts.to_vec()));
        }
        Some(match value {
            AttrValue::F32(_) | AttrValue::F64(_) => Self::Float(value.as_f64()?),
            AttrValue::F32Array(_) | AttrValue::F64Array(_) => Self::Floats(value.to_f64s()?),
            // A list of one is a list.
            AttrValue::I8Array(_)
            | AttrValue::I16Array(_)
            | AttrValue::I32Array(_)
            | AttrValue::I64Array(_)
            | AttrValue::U8Array(_)
            | AttrValue::U16Array(_)
            | AttrValue::U32Array(_)
            | AttrValue::U64Array(_) => Self::Ints(value.to_i64s()?),
            _ => Self::Int(value.as_i64()?),
        })
    }

    /// Texts of variable length are what h5py gives back as `str`.
    fn stored(&self) -> AttrValue {
        match self {
            Self::Text(v) => AttrValue::VarLenString(v.clone()),
            Self::Texts(v) => AttrValue::VarLenStringArray(v.clone()),
            Self::Int(v) => AttrValue::I64(*v),
            Self::Ints(v) => AttrValue::I64Array(v.clone()),
            Self::Float(v) => AttrValue::F64(*v),
            Self::Floats(v) => AttrValue::F64Array(v.clone()),
        }
    }
}

/// What the elements of a dataset are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Read by [`File::array`] as this dtype: narrow integers are widened to i32,
    /// wide unsigned ones to i64.
    Number(DType),
    /// Read by [`File::texts`].
    Text,
    /// Neither; what HDF5 calls it.
    Other(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(dtype) => write!(f, "{dtype}"),
            Self::Text => f.write_str("text"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// The facts about a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub shape: Vec<usize>,
    pub kind: Kind,
    /// Shape of a chunk, where it is stored in chunks.
    pub chunks: Option<Vec<usize>>,
    /// Stored through a filter, such as gzip.
    pub packed: bool,
}

/// The names in a group, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub groups: Vec<String>,
    pub datasets: Vec<String>,
}

/// An HDF5 file that is open for reading. Objects are named by their path from
/// the root, such as `obs/_index`; the root itself is the empty text.
pub struct File {
    inner: hdf5_pure::File,
    path: PathBuf,
    /// Length of the file.
    bytes: u64,
}

/// The file's bytes, copied as they are asked for.
struct Bytes<B>(B);

impl<B: AsRef<[u8]>> hdf5_pure::Source for Bytes<B> {
    fn len(&self) -> u64 {
        self.0.as_ref().len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), FormatError> {
        let end = offset
            .checked_add(buffer.len() as u64)
            .ok_or(FormatError::OffsetOverflow {
                offset,
                length: buffer.len() as u64,
            })?;
        let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
        let all = self.0.as_ref();
        match range.and_then(|(start, end)| all.get(start..end)) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(FormatError::UnexpectedEof {
                expected: usize::try_from(end).unwrap_or(usize::MAX),
                available: all.len(),
            }),
        }
    }
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on a thread with a large stack; a panic there becomes an error that
/// names `path`. Within such work a call of this runs where it is.
///
/// Every function here does this by itself. To do it around many of them saves
/// the threads.
///
/// # Errors
/// What `work` returns; a panic in it; no thread to be had.
pub fn contained<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if CONTAINED.get() {
        return work();
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("hdf5".to_owned());
        let thread = thread
            .stack_size(STACK)
            .spawn_scoped(scope, || {
                CONTAINED.set(true);
                work()
            })
            .map_err(|e| Error::io("start a thread to read", path, e))?;
        thread.join().unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or(panic.downcast_ref::<&str>().copied());
            Err(damaged(path, "", said.unwrap_or("it panicked")))
        })
    })
}

fn damaged(path: &Path, place: impl fmt::Display, problem: impl fmt::Display) -> Error {
    Error::file(
        path,
        place,
        format!("the HDF5 library says: {problem}").replace(char::is_control, " "),
        "the file is damaged or uses what eosin cannot read: fetch it again, or write it again with h5py's defaults",
    )
}

/// As people write a path to an object.
fn place(object: &str) -> String {
    match object {
        "" => "the root group".to_owned(),
        _ => format!("`{}`", object.escape_debug()),
    }
}

impl File {
    /// # Errors
    /// The file cannot be opened, or is no HDF5 file, or is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::of(path, map(path)?)
    }

    /// [`File::open`] of bytes in memory; `path` only names them in errors.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        Self::of(path, bytes)
    }

    fn of(path: &Path, bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Self> {
        let length = bytes.as_ref().len() as u64;
        if super::Kind::sniff(bytes.as_ref()) != super::Kind::Hdf5 {
            return Err(Error::file(
                path,
                "",
                "is not an HDF5 file",
                "give a file that h5py, anndata, CLAM or TRIDENT wrote",
            ));
        }
        let inner = contained(path, || {
            hdf5_pure::File::from_source(Bytes(bytes)).map_err(|e| damaged(path, "", e))
        })?;
        Ok(Self {
            inner,
            path: path.to_path_buf(),
            bytes: length,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Groups and datasets of a group.
    ///
    /// # Errors
    /// No such group; a damaged file.
    pub fn names(&self, group: &str) -> Result<Names> {
        contained(&self.path, || {
            let fail = |e| damaged(&self.path, place(group), e);
            let found = self.group(group)?;
            let mut names = Names {
                groups: found.groups().map_err(fail)?,
                datasets: found.datasets().map_err(fail)?,
            };
            names.groups.sort_unstable();
            names.datasets.sort_unstable();
            Ok(names)
        })
    }

    /// Whether there is a dataset of this name.
    pub fn has_dataset(&self, dataset: &str) -> bool {
        contained(&self.path, || self.dataset(dataset).map(drop)).is_ok()
    }

    /// Whether there is a group of this name.
    pub fn has_group(&self, group: &str) -> bool {
        contained(&self.path, || self.group(group).map(drop)).is_ok()
    }

    /// Attributes of a group or dataset. Kinds that [`Value`] does not have
    /// (references, compound values) are left out.
    ///
    /// # Errors
    /// No such object; a damaged file.
    pub fn attributes(&self, object: &str) -> Result<BTreeMap<String, Value>> {
        contained(&self.path, || {
            let fail = |e| damaged(&self.path, place(object), e);
            let found = match self.dataset(object) {
                Ok(dataset) if !object.is_empty() => dataset.attrs().map_err(fail)?,
                _ => self.group(object)?.attrs().map_err(fail)?,
            };
            let read = |(name, value)| Some((name, Value::read(&value)?));
            Ok(found.into_iter().filter_map(read).collect())
        })
    }

    /// # Errors
    /// No such dataset; a damaged file; dimensions whose product overflows.
    pub fn facts(&self, dataset: &str) -> Result<Facts> {
        contained(&self.path, || {
            self.facts_of(&self.dataset(dataset)?, dataset)
        })
    }

    /// A whole dataset of numbers or bools.
    ///
    /// # Errors
    /// No such dataset; texts or another kind; a damaged file; a claim to more
    /// than the file can hold.
    pub fn array(&self, dataset: &str) -> Result<Array> {
        contained(&self.path, || self.numbers(dataset, None))
    }

    /// Rows `start` to `start + count` of the first axis: chunks outside of them
    /// are not read.
    ///
    /// # Errors
    /// As [`File::array`]; rows past the end; a dataset without axes.
    pub fn rows(&self, dataset: &str, start: usize, count: usize) -> Result<Array> {
        contained(&self.path, || self.numbers(dataset, Some((start, count))))
    }

    /// A whole dataset of texts, row-major, of fixed or variable length.
    ///
    /// # Errors
    /// As [`File::array`], with texts and numbers exchanged.
    pub fn texts(&self, dataset: &str) -> Result<Vec<String>> {
        contained(&self.path, || {
            let fail = |e| damaged(&self.path, place(dataset), e);
            let found = self.dataset(dataset)?;
            let facts = self.facts_of(&found, dataset)?;
            if facts.kind != Kind::Text {
                return Err(self.mistaken(dataset, &facts, "text"));
            }
            self.bounded(&found, dataset, &facts, None)?;
            if found.dtype().map_err(fail)? != Stored::VariableLengthString {
                return found.read_string().map_err(fail);
            }
            // Texts of variable length are not packed, so together they are at
            // most as long as the file, unless several are one.
            let most = usize::try_from(self.bytes).unwrap_or(usize::MAX);
            let options = VlenStringReadOptions::new().with_max_payload_bytes(most);
            found.read_vlen_strings(options).map_err(fail)
        })
    }

    fn group(&self, group: &str) -> Result<hdf5_pure::Group> {
        match group {
            "" => Ok(self.inner.root()),
            _ => (self.inner.group(group)).map_err(|e| self.absent("group", group, e)),
        }
    }

    fn dataset(&self, dataset: &str) -> Result<hdf5_pure::Dataset> {
        (self.inner.dataset(dataset)).map_err(|e| self.absent("dataset", dataset, e))
    }

    fn absent(&self, what: &str, name: &str, error: hdf5_pure::Error) -> Error {
        let problem = format!("has no {what} {} ({error})", place(name));
        Error::file(
            &self.path,
            "",
            problem.replace(char::is_control, " "),
            "`eosin inspect` lists what it has",
        )
    }

    fn mistaken(&self, dataset: &str, facts: &Facts, wanted: &str) -> Error {
        Error::file(
            &self.path,
            place(dataset),
            format!("holds {} {:?}", facts.kind, facts.shape),
            format!("a dataset of {wanted} is needed here"),
        )
    }

    fn facts_of(&self, found: &hdf5_pure::Dataset, dataset: &str) -> Result<Facts> {
        let fail = |e| damaged(&self.path, place(dataset), e);
        let sizes = |shape: Vec<u64>| {
            let size = |d| usize::try_from(d).ok();
            shape.into_iter().map(size).collect::<Option<Vec<_>>>()
        };
        let huge = || damaged(&self.path, place(dataset), "the dimensions overflow");
        let shape = sizes(found.shape().map_err(fail)?).ok_or_else(huge)?;
        // No product of these dimensions overflows later.
        byte_count(DType::F64, &shape).ok_or_else(huge)?;
        let chunks = found.chunk_shape().map_err(fail)?.and_then(sizes);
        Ok(Facts {
            shape,
            kind: kind(found.dtype().map_err(fail)?),
            chunks,
            packed: !found.filters().is_empty(),
        })
    }

    /// Makes sure that the file can hold what is asked for.
    fn bounded(
        &self,
        found: &hdf5_pure::Dataset,
        dataset: &str,
        facts: &Facts,
        rows: Option<usize>,
    ) -> Result<()> {
        let width = (found.element_size()).map_err(|e| damaged(&self.path, place(dataset), e))?;
        let limit = match facts.packed {
            true => self.bytes.saturating_mul(EXPANSION),
            false => self.bytes,
        };
        let axes = facts.shape.iter().enumerate();
        let sizes = axes.map(|(axis, &size)| match rows {
            Some(rows) if axis == 0 => rows as u64,
            _ => size as u64,
        });
        let claimed = sizes.fold(width, u64::saturating_mul);
        // A chunk is read whole, and may reach over the edge of the dataset.
        let chunk = facts.chunks.iter().flatten().map(|&d| d as u64);
        let claimed = claimed.max(chunk.fold(width, u64::saturating_mul));
        // The library makes room for a stored chunk before it looks whether it is there.
        let stored = match facts.chunks {
            Some(_) => found
                .chunks()
                .map_err(|e| damaged(&self.path, place(dataset), e))?,
            None => Vec::new(),
        };
        let longest = stored.iter().map(|chunk| chunk.storage_size).max();
        if longest.is_some_and(|size| size > self.bytes) {
            return Err(damaged(
                &self.path,
                place(dataset),
                "a chunk is longer than the file",
            ));
        }
        if claimed <= limit.saturating_add(FREE) {
            return Ok(());
        }
        Err(Error::file(
            &self.path,
            place(dataset),
            format!(
                "claims {claimed} bytes, more than a file of {} bytes can hold",
                self.bytes
            ),
            "the file is cut short, damaged, or was never written in full: fetch or write it again",
        ))
    }

    fn numbers(&self, dataset: &str, rows: Option<(usize, usize)>) -> Result<Array> {
        let fail = |e| damaged(&self.path, place(dataset), e);
        let found = self.dataset(dataset)?;
        let facts = self.facts_of(&found, dataset)?;
        let Kind::Number(dtype) = facts.kind else {
            return Err(self.mistaken(dataset, &facts, "numbers"));
        };
        let mut shape = facts.shape.clone();
        if let Some((start, count)) = rows {
            let end = start.checked_add(count);
            match shape.first_mut() {
                Some(all) if end.is_some_and(|end| end <= *all) => *all = count,
                _ => {
                    return Err(Error::file(
                        &self.path,
                        place(dataset),
                        format!("holds {shape:?}, without rows {start} to {start} + {count}"),
                        "ask for rows that are there",
                    ));
                }
            }
        }
        self.bounded(&found, dataset, &facts, rows.map(|(_, count)| count))?;
        if shape.contains(&0) {
            return Array::new(dtype, shape, Vec::new());
        }
        let window = rows.map(|(start, count)| (start as u64, count as u64));
        macro_rules! read {
            ($whole:ident, $rows:ident) => {
                match window {
                    None => found.$whole(),
                    Some((start, count)) => found.$rows(start, count),
                }
                .map_err(fail)?
            };
        }
        // As said in [`kind`], each stored type has one dtype here.
        match (found.dtype().map_err(fail)?, dtype) {
            (_, DType::F32) => Array::from_f32(&shape, &read!(read_f32, read_f32_rows)),
            (_, DType::F64) => Array::from_f64(&shape, &read!(read_f64, read_f64_rows)),
            (_, DType::I32) => Array::from_slice(&shape, &read!(read_i32, read_i32_rows)),
            (Stored::U64, _) => {
                let values = read!(read_u64, read_u64_rows).into_iter();
                let values = values.map(i64::try_from).collect::<Result<Vec<_>, _>>();
                let large = |_| damaged(&self.path, place(dataset), "a value is above 2^63");
                Array::from_i64(&shape, &values.map_err(large)?)
            }
            (_, DType::I64) => Array::from_i64(&shape, &read!(read_i64, read_i64_rows)),
            (_, DType::F16) => {
                let raw = read!(read_raw, read_raw_rows);
                let value = |b: &[u8]| f16::from_bits(u16::from(b[0]) | u16::from(b[1]) << 8);
                let values: Vec<f16> = raw.chunks_exact(2).map(value).collect();
                Array::from_slice(&shape, &values)
            }
            (_, DType::Bool) => Array::new(dtype, shape, read!(read_raw, read_raw_rows)),
            _ => Array::from_slice(&shape, &read!(read_u8, read_u8_rows)),
        }
        .map_err(|e| damaged(&self.path, place(dataset), e))
    }
}

/// The one dtype that holds a stored type.
fn kind(stored: Stored) -> Kind {
    Kind::Number(match &stored {
        Stored::F32 => DType::F32,
        Stored::F64 => DType::F64,
        Stored::I8 | Stored::I16 | Stored::I32 | Stored::U16 => DType::I32,
        Stored::I64 | Stored::U32 | Stored::U64 => DType::I64,
        Stored::U8 => DType::U8,
        // What h5py makes of NumPy's bool.
        Stored::Enum(names) if names[..] == ["FALSE", "TRUE"] => DType::Bool,
        Stored::String | Stored::VariableLengthString => return Kind::Text,
        Stored::Other(datatype) => match **datatype {
            Datatype::FloatingPoint {
                size: 2,
                byte_order: hdf5_pure::DatatypeByteOrder::LittleEndian,
                ..
            } => DType::F16,
            _ => return Kind::Other(stored.to_string()),
        },
        _ => return Kind::Other(stored.to_string()),
    })
}

/// A group to be written: attributes, datasets and groups by name.
#[derive(Clone, Debug, Default)]
pub struct Group {
    attributes: Vec<(String, Value)>,
    datasets: Vec<(String, Dataset)>,
    groups: Vec<(String, Group)>,
}

/// A dataset to be written.
#[derive(Clone, Debug)]
pub struct Dataset {
    content: Content,
    attributes: Vec<(String, Value)>,
    chunk_rows: Option<usize>,
    gzip: Option<u32>,
    growable: bool,
}

#[derive(Clone, Debug)]
enum Content {
    Array(Array),
    /// Of variable length, as h5py writes `str`.
    Texts(Vec<String>),
    /// Padded with zeros to the longest.
    FixedTexts(Vec<String>),
}

impl From<Array> for Dataset {
    fn from(array: Array) -> Self {
        Self::new(Content::Array(array))
    }
}

impl From<Vec<String>> for Dataset {
    fn from(texts: Vec<String>) -> Self {
        Self::new(Content::Texts(texts))
    }
}

impl Dataset {
    fn new(content: Content) -> Self {
        Self {
            content,
            attributes: Vec::new(),
            chunk_rows: None,
            gzip: None,
            growable: false,
        }
    }

    /// Texts padded to the longest; one with a zero byte inside is refused.
    pub fn fixed_texts(texts: Vec<String>) -> Self {
        Self::new(Content::FixedTexts(texts))
    }

    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// Stores so many rows of the first axis together.
    pub fn chunked(mut self, rows: usize) -> Self {
        self.chunk_rows = Some(rows);
        self
    }

    /// Packs with deflate, level 0 to 9.
    pub fn gzip(mut self, level: u32) -> Self {
        self.gzip = Some(level);
        self
    }

    /// Lets others append along the first axis, which CLAM's and TRIDENT's files allow.
    pub fn growable(mut self) -> Self {
        self.growable = true;
        self
    }
}

impl Group {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn attribute(&mut self, name: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    pub fn dataset(&mut self, name: impl Into<String>, data: impl Into<Dataset>) -> &mut Self {
        self.datasets.push((name.into(), data.into()));
        self
    }

    pub fn group(&mut self, name: impl Into<String>, group: Self) -> &mut Self {
        self.groups.push((name.into(), group));
        self
    }
}

/// Writes `root` and what is in it, whole or not at all. The library copies the
/// data, so this takes twice their size.
///
/// # Errors
/// A name that is empty, stands twice or has a slash or zero byte; an array of
/// f16 or bf16, which others do not read (cast it); texts that HDF5 has no place
/// for; a file that cannot be written.
pub fn write(path: impl AsRef<Path>, root: &Group) -> Result<()> {
    let path = path.as_ref();
    contained(path, || {
        let mut builder = FileBuilder::new();
        root.check(path, "")?;
        for (name, value) in &root.attributes {
            builder.set_attr(name, value.stored());
        }
        for (name, dataset) in &root.datasets {
            dataset.fill(builder.create_dataset(name), path, name)?;
        }
        for (name, group) in &root.groups {
            let mut made = builder.create_group(name);
            group.fill(&mut made, path, name)?;
            builder.add_group(made.finish());
        }
        write_atomically(path, |out| {
            builder.finish_to(&mut *out).map_err(|e| match e {
                hdf5_pure::Error::Io(e) => Error::io("write", path, e),
                e => refused(path, "", e),
            })
        })
    })
}

fn refused(path: &Path, place: &str, problem: impl fmt::Display) -> Error {
    let place = match place {
        "" => String::new(),
        _ => format!("`{}`", place.escape_debug()),
    };
    Error::file(
        path,
        place,
        format!("cannot be written as HDF5: {problem}").replace(char::is_control, " "),
        "write it as another type or under another name",
    )
}

impl Group {
    fn check(&self, path: &Path, at: &str) -> Result<()> {
        check_names(path, at, "attribute", self.attributes.iter().map(|a| &a.0))?;
        let names = self.datasets.iter().map(|d| &d.0);
        check_names(
            path,
            at,
            "member",
            names.chain(self.groups.iter().map(|g| &g.0)),
        )
    }

    fn fill(&self, made: &mut hdf5_pure::GroupBuilder, path: &Path, at: &str) -> Result<()> {
        self.check(path, at)?;
        for (name, value) in &self.attributes {
            made.set_attr(name, value.stored());
        }
        for (name, dataset) in &self.datasets {
            dataset.fill(made.create_dataset(name), path, &format!("{at}/{name}"))?;
        }
        for (name, group) in &self.groups {
            let mut inner = made.create_group(name);
            group.fill(&mut inner, path, &format!("{at}/{name}"))?;
            made.add_group(inner.finish());
        }
        Ok(())
    }
}

fn check_names<'a>(
    path: &Path,
    at: &str,
    what: &str,
    names: impl Iterator<Item = &'a String>,
) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        let dots = name.chars().all(|c| c == '.');
        if dots || (what == "member" && name.contains('/')) || name.contains('\0') {
            return Err(refused(path, at, format!("{what} name {name:?}")));
        }
        if !seen.insert(name) {
            return Err(refused(path, at, format!("{what} {name:?} stands twice")));
        }
    }
    Ok(())
}

impl Dataset {
    fn fill(&self, made: &mut hdf5_pure::DatasetBuilder, path: &Path, at: &str) -> Result<()> {
        let refuse = |problem: String| refused(path, at, problem);
        check_names(path, at, "attribute", self.attributes.iter().map(|a| &a.0))?;
        let (shape, width) = match &self.content {
            Content::Array(array) => {
                array.check().map_err(refuse)?;
                (array.shape.clone(), array.dtype.size())
            }
            Content::Texts(texts) | Content::FixedTexts(texts) => (vec![texts.len()], 16),
        };
        match &self.content {
            Content::Array(array) => match array.dtype {
                DType::F32 => made.with_f32_data(&array.to_vec()?),
                DType::F64 => made.with_f64_data(&array.to_vec()?),
                DType::I32 => made.with_i32_data(&array.to_vec()?),
                DType::I64 => made.with_i64_data(&array.to_vec()?),
                DType::U8 => made.with_u8_data(&array.data),
                DType::Bool => {
                    let datatype = EnumTypeBuilder::with_base(make_i8_type());
                    let datatype = datatype.value("FALSE", 0).value("TRUE", 1).build();
                    let datatype = datatype.map_err(|e| refuse(e.to_string()))?;
                    made.with_enum_u8_data(datatype, &array.data)
                }
                other => return Err(refuse(format!("dtype {other}"))),
            },
            Content::Texts(texts) => {
                made.with_vlen_strings(&texts.iter().map(String::as_str).collect::<Vec<_>>())
            }
            Content::FixedTexts(texts) => {
                if let Some(text) = texts.iter().find(|t| t.contains('\0')) {
                    return Err(refuse(format!("a fixed text with a zero byte, {text:?}")));
                }
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                made.with_strings(&texts)
                    .map_err(|e| refuse(e.to_string()))?
            }
        };
        let extents: Vec<u64> = shape.iter().map(|&d| d as u64).collect();
        made.with_shape(&extents);
        if self.growable || self.gzip.is_some() || self.chunk_rows.is_some() {
            let Some((&rows, rest)) = shape.split_first() else {
                return Err(refuse("a single value has no chunks".to_owned()));
            };
            // Chunks of about a mebibyte, unless it is said otherwise.
            let row = rest.iter().product::<usize>().max(1) * width;
            let fitting = ((1 << 20) / row).clamp(1, rows.max(1));
            let mut chunk = vec![self.chunk_rows.unwrap_or(fitting).max(1) as u64];
            chunk.extend(rest.iter().map(|&d| d.max(1) as u64));
            made.with_chunks(&chunk);
            if self.growable {
                let fixed = rest.iter().map(|&d| MaxExtent::Fixed(d as u64));
                let most: Vec<_> = std::iter::once(MaxExtent::Unlimited).chain(fixed).collect();
                made.with_maxshape(&most);
            }
            // Texts of variable length lie outside their chunks, where nothing packs them.
            if let (Some(level), false) = (self.gzip, matches!(self.content, Content::Texts(_))) {
                made.with_deflate(level.min(9));
            }
        }
        for (name, value) in &self.attributes {
            made.set_attr(name, value.stored());
        }
        Ok(())
    }
}
