//! NumPy's .npy: one array, its header a Python dict literal.
//!
//! Headers are written by npyz. They are read here, in the one form that NumPy
//! writes: npyz 0.9 multiplies claimed dimensions without a check and parses
//! nested brackets by recursion, so a hostile header can panic or exhaust it.
//!
//! Source: NumPy Enhancement Proposal 1, format versions 1.0 to 3.0.

use std::io::Write;
use std::path::Path;

use npyz::WriterBuilder;

use super::array::byte_count;
use super::gather::{View, swap_bytes};
use super::{Array, atomic, map};
use crate::dtype::DType;
use crate::error::{Error, Result};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads an array of f2, f4, f8, i4, i8, u1 or b1.
///
/// Fortran order is transposed to C order and big-endian elements are turned
/// round, so that the result is always row-major and little-endian.
///
/// # Errors
/// The file cannot be opened, has another header or dtype (object arrays would
/// need to run code), or is shorter or longer than its shape says.
pub fn read(path: impl AsRef<Path>) -> Result<Array> {
    let path = path.as_ref();
    parse(path, &map(path)?)
}

/// [`read`] from bytes in memory; `path` only names them in errors.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Array> {
    let (header, data) = split(bytes).map_err(|problem| {
        Error::file(
            path,
            "header",
            problem,
            "give an array that numpy.save wrote",
        )
    })?;
    let (dtype, big_endian) = element(&header.descr).ok_or_else(|| {
        let what = match header.descr.trim_start_matches(['|', '<', '>', '=']) {
            "O" => "Python objects, and reading those would run code".to_owned(),
            _ => format!("dtype `{}`", header.descr.escape_debug()),
        };
        Error::file(
            path,
            "header",
            format!("the array holds {what}"),
            "convert it to f2, f4, f8, i4, i8, u1 or b1 with astype",
        )
    })?;
    let claimed = byte_count(dtype, &header.shape);
    if claimed != Some(data.len()) {
        let claimed = claimed.map_or("more than any machine has".to_owned(), |n| n.to_string());
        return Err(Error::file(
            path,
            "header",
            format!(
                "shape {:?} of {dtype} takes {claimed} bytes, but {} follow",
                header.shape,
                data.len()
            ),
            "the file is cut short or damaged: write it again",
        ));
    }

    let mut data = if header.fortran_order {
        let strides: Vec<usize> = header
            .shape
            .iter()
            .scan(1usize, |stride, &d| {
                let this = *stride;
                *stride = stride.saturating_mul(d.max(1));
                Some(this)
            })
            .collect();
        let view = View {
            shape: &header.shape,
            strides: &strides,
            offset: 0,
        };
        view.gather(data, dtype.size()).unwrap_or_default()
    } else {
        data.to_vec()
    };
    if big_endian {
        swap_bytes(&mut data, dtype.size());
    }
    Array::checked(dtype, header.shape, data)
        .map_err(|problem| Error::file(path, "data", problem, "write the file again"))
}

/// Writes an array, whole or not at all.
///
/// # Errors
/// NumPy has no bf16; or the file cannot be written.
pub fn write(path: impl AsRef<Path>, array: &Array) -> Result<()> {
    let path = path.as_ref();
    array
        .check()
        .map_err(|problem| Error::op("npy::write", problem))?;
    let descr = match array.dtype {
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
        DType::BF16 => {
            return Err(Error::file(
                path,
                "",
                "NumPy has no bf16",
                "write .safetensors, or convert the array to f32",
            ));
        }
    };
    write_with(path, descr, &array.shape, |out| {
        let written = out.write_all(&array.data);
        written.map_err(|e| Error::io("write", path, e))
    })
}

/// Writes f32 values of this shape part by part, so that they need not all lie in
/// memory; whole or not at all.
///
/// # Errors
/// What a part is instead; parts that do not add up to the shape; or the file cannot
/// be written.
pub fn write_parts(
    path: impl AsRef<Path>,
    shape: &[usize],
    parts: impl IntoIterator<Item = Result<Vec<f32>>>,
) -> Result<()> {
    let path = path.as_ref();
    let expected: usize = shape.iter().product();
    write_with(path, "<f4", shape, |out| {
        let mut count = 0;
        for part in parts {
            let part = part?;
            count += part.len();
            out.write_all(bytemuck::cast_slice(&part))
                .map_err(|e| Error::io("write", path, e))?;
        }
        match count == expected {
            true => Ok(()),
            false => Err(Error::op(
                "npy::write_parts",
                format!("{count} values do not make up {shape:?}"),
            )),
        }
    })
}

/// A header, and what `data` writes after it.
fn write_with(
    path: &Path,
    descr: &str,
    shape: &[usize],
    data: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let dtype: npyz::TypeStr = descr
        .parse()
        .map_err(|_| Error::op("npy::write", format!("npyz does not know `{descr}`")))?;
    let shape: Vec<u64> = shape.iter().map(|&d| d as u64).collect();
    atomic::write_atomically(path, |out| {
        npyz::WriteOptions::new_header_only()
            .dtype(npyz::DType::Plain(dtype))
            .shape(&shape)
            .writer(&mut *out)
            .write_header_only()
            .map_err(|e| Error::io("write", path, e))?;
        data(out)
    })
}

/// The dtype of a type string such as `<f4`, and whether it is big-endian.
fn element(descr: &str) -> Option<(DType, bool)> {
    let (order, name) = descr.split_at_checked(1)?;
    let dtype = match name {
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "u1" => DType::U8,
        "b1" => DType::Bool,
        _ => return None,
    };
    match order {
        "<" => Some((dtype, false)),
        ">" => Some((dtype, true)),
        "|" if dtype.size() == 1 => Some((dtype, false)),
        _ => None,
    }
}

#[derive(Debug, PartialEq)]
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// The header, and the bytes after it.
fn split(bytes: &[u8]) -> Result<(Header, &[u8]), String> {
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or("does not start as a .npy file does")?;
    let cut = || "the file ends within its header".to_owned();
    let (length, rest) = match rest {
        [1, 0, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, 0, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        [major, minor, ..] if !matches!((major, minor), (1..=3, 0)) => {
            return Err(format!("format version {major}.{minor} is not known"));
        }
        _ => return Err(cut()),
    };
    let (text, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let text = std::str::from_utf8(text).map_err(|_| "is not text")?;
    let header = Literal(text).header()?;
    Ok((header, data))
}

/// What is left to read of the dict literal.
struct Literal<'a>(&'a str);

impl<'a> Literal<'a> {
    fn header(mut self) -> Result<Header, String> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect('{')?;
        while !self.take('}') {
            let key = self.string()?;
            self.expect(':')?;
            let twice = match key {
                "descr" => descr.replace(self.descr()?).is_some(),
                "fortran_order" => fortran_order.replace(self.boolean()?).is_some(),
                "shape" => shape.replace(self.tuple()?).is_some(),
                other => return Err(format!("key `{}` is not known", other.escape_debug())),
            };
            if twice {
                return Err(format!("key `{key}` is there twice"));
            }
            if !self.take(',') {
                self.expect('}')?;
                break;
            }
        }
        if !self.0.trim_ascii().is_empty() {
            return Err("something follows the dict".to_owned());
        }
        Ok(Header {
            descr: descr.ok_or("lacks `descr`")?.to_owned(),
            fortran_order: fortran_order.ok_or("lacks `fortran_order`")?,
            shape: shape.ok_or("lacks `shape`")?,
        })
    }

    fn take(&mut self, c: char) -> bool {
        self.0 = self.0.trim_ascii_start();
        match self.0.strip_prefix(c) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if self.take(c) {
            return Ok(());
        }
        Err(match self.0.chars().next() {
            Some(found) => format!("`{}` where `{c}` should be", found.escape_debug()),
            None => format!("ends where `{c}` should be"),
        })
    }

    fn string(&mut self) -> Result<&'a str, String> {
        let quote = if self.take('"') {
            '"'
        } else {
            self.expect('\'')?;
            '\''
        };
        let (text, rest) = self.0.split_once(quote).ok_or("a string does not end")?;
        self.0 = rest;
        Ok(text)
    }

    fn descr(&mut self) -> Result<&'a str, String> {
        if self.take('[') {
            return Err("is that of a structured array (named fields); save its fields as arrays of their own".to_owned());
        }
        self.string()
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.0 = self.0.trim_ascii_start();
        for (text, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.0.strip_prefix(text) {
                self.0 = rest;
                return Ok(value);
            }
        }
        Err("`fortran_order` is neither True nor False".to_owned())
    }

    fn tuple(&mut self) -> Result<Vec<usize>, String> {
        let mut shape = Vec::new();
        self.expect('(')?;
        while !self.take(')') {
            self.0 = self.0.trim_ascii_start();
            let end = self
                .0
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(self.0.len());
            let (digits, rest) = self.0.split_at_checked(end).unwrap_or_default();
            shape.push(digits.parse().map_err(|_| {
                format!(
                    "`shape` has a dimension that is not a number up to {}",
                    usize::MAX
                )
            })?);
            // Python 2 wrote its long integers with an L.
            self.0 = rest.strip_prefix('L').unwrap_or(rest);
            if !self.take(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(shape)
    }
}
