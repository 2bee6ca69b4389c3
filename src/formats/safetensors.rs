//! safetensors: a JSON header and the bytes of every tensor.
//!
//! The header is read and judged by the `safetensors` crate. It is written here,
//! because the crate keeps metadata in a hash map, whose order differs from run
//! to run, and the same weights must give the same file.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use ::safetensors::tensor::{Dtype, Metadata};
use serde_json::{Map, Value, json};

use super::{Array, Weights, atomic, map};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// The limit that the format's reference implementation sets.
const MAX_HEADER: usize = 100_000_000;

/// Reads every tensor, in the order of the data.
///
/// # Errors
/// The file cannot be opened or is damaged, or a tensor is not of a dtype that
/// eosin has.
pub fn read(path: impl AsRef<Path>) -> Result<Weights> {
    let path = path.as_ref();
    parse(path, &map(path)?)
}

/// [`read`] from bytes in memory; `path` only names them in errors.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Weights> {
    let damaged = |problem: String| {
        Error::file(
            path,
            "header",
            problem,
            "the file is cut short, damaged or not safetensors: fetch or write it again",
        )
    };
    let (length, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(|| damaged("the file is shorter than 8 bytes".to_owned()))?;
    let length = u64::from_le_bytes(*length);
    let (header, data) = usize::try_from(length)
        .ok()
        .filter(|&n| n <= MAX_HEADER)
        .and_then(|n| rest.split_at_checked(n))
        .ok_or_else(|| {
            damaged(format!(
                "claims {length} bytes of header, but {} follow (the limit is {MAX_HEADER})",
                rest.len()
            ))
        })?;
    let header: Metadata =
        serde_json::from_slice(header).map_err(|e| damaged(format!("is not valid: {e}")))?;
    if header.data_len() != data.len() {
        return Err(damaged(format!(
            "claims {} bytes of data, but {} follow",
            header.data_len(),
            data.len()
        )));
    }

    let mut names = header.offset_keys();
    // Empty tensors share an offset; the crate leaves their order to chance.
    names.sort_by_cached_key(|name| (header.info(name).map(|i| i.data_offsets), name.clone()));
    let mut weights = Weights::new();
    for name in names {
        let in_tensor = |problem: String, remedy: &str| {
            Error::file(
                path,
                format!("key `{}`", name.escape_debug()),
                problem,
                remedy,
            )
        };
        let Some(info) = header.info(&name) else {
            continue;
        };
        let dtype = from_file(info.dtype).ok_or_else(|| {
            in_tensor(
                format!("dtype {:?} is not one that eosin has", info.dtype),
                "convert it to f32, f64, f16, bf16, i32, i64, u8 or bool",
            )
        })?;
        let (start, end) = info.data_offsets;
        let data = data.get(start..end).unwrap_or_default().to_vec();
        let array = Array::checked(dtype, info.shape.clone(), data)
            .map_err(|problem| in_tensor(problem, "the file is damaged: write it again"))?;
        weights.insert(name, array)?;
    }
    if let Some(metadata) = header.metadata() {
        weights.metadata = metadata.clone().into_iter().collect();
    }
    Ok(weights)
}

/// Writes every array and the metadata, whole or not at all.
///
/// The data come in the order of `weights`, wider elements first, so that every
/// tensor is aligned; the same weights give the same bytes. `format: pt` is
/// added to the metadata where `format` is not set: Hugging Face's loader asks
/// for it.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: impl AsRef<Path>, weights: &Weights) -> Result<()> {
    let path = path.as_ref();
    let mut arrays: Vec<(&str, &Array)> = weights.iter().collect();
    arrays.sort_by_key(|(_, array)| std::cmp::Reverse(array.dtype.size()));

    let mut metadata: BTreeMap<&str, &str> = BTreeMap::from([("format", "pt")]);
    metadata.extend(
        weights
            .metadata
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str())),
    );
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!(metadata));
    let mut offset = 0;
    for (name, array) in &arrays {
        let refuse = |problem| Error::op("safetensors::write", format!("key `{name}`: {problem}"));
        array.check().map_err(refuse)?;
        let end = offset + array.data.len();
        let entry = json!({
            "dtype": to_file(array.dtype),
            "shape": array.shape,
            "data_offsets": [offset, end],
        });
        if let Some(Value::Object(_)) = header.insert((*name).to_owned(), entry) {
            return Err(refuse("the name belongs to the format".to_owned()));
        }
        offset = end;
    }
    let mut header =
        serde_json::to_vec(&header).map_err(|e| Error::op("safetensors::write", e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() > MAX_HEADER {
        return Err(Error::op(
            "safetensors::write",
            format!("names and metadata exceed the format's limit of {MAX_HEADER} bytes"),
        ));
    }

    atomic::write_atomically(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| out.write_all(&header))
            .and_then(|()| {
                arrays
                    .iter()
                    .try_for_each(|(_, array)| out.write_all(&array.data))
            })
            .map_err(|e| Error::io("write", path, e))
    })
}

fn from_file(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        _ => return None,
    })
}

fn to_file(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}
