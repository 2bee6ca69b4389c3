//! Event files of TensorBoard: scalars and PNG images by step.
//!
//! A file is records of length, data and their checksums (CRC-32C, masked as TensorFlow masks
//! it). Data is a protocol buffer `Event`; the first names the version of the format.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::formats::atomic::write_bytes;

/// TensorBoard takes files whose names have `tfevents`.
pub const FILE: &str = "events.out.tfevents.0.eosin";

const VERSION: &str = "brain.Event:2";

/// What a step has to show, by tag.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Scalar(f32),
    Png {
        width: u64,
        height: u64,
        bytes: Vec<u8>,
    },
}

/// A step's values.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub step: u64,
    pub values: Vec<(String, Value)>,
}

/// Appends events to a file.
pub struct Writer {
    path: PathBuf,
}

impl Writer {
    /// Begins the file of `folder`, or goes on with what is there of steps before `step`: of a
    /// run that goes on from a checkpoint, later ones come again. What is behind a record that
    /// was cut short, as of a run that was killed, is left out.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn new(folder: &Path, step: u64) -> Result<Self> {
        let path = folder.join(FILE);
        let mut bytes = record(&event(now(), 0, |out| field(out, 3, VERSION.as_bytes())));
        if path.exists() {
            let there = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
            for (data, event) in records(&there).0 {
                if !event.values.is_empty() && event.step < step {
                    bytes.extend(record(data));
                }
            }
        }
        write_bytes(&path, &bytes)?;
        Ok(Self { path })
    }

    /// # Errors
    /// A file that cannot be written.
    pub fn add(&mut self, written: &Event) -> Result<()> {
        let data = event(now(), written.step, |out| {
            let mut summary = Vec::new();
            for (tag, value) in &written.values {
                field(&mut summary, 1, &described(tag, value));
            }
            field(out, 5, &summary);
        });
        let file = OpenOptions::new().append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(&record(&data)))
            .map_err(|e| Error::io("write", &self.path, e))
    }
}

/// What is in an event file.
///
/// # Errors
/// A file that cannot be read; a record that is cut short or whose checksum is not its own.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let (records, end) = records(&bytes);
    if end < bytes.len() {
        return Err(Error::file(
            path,
            format!("byte {end}"),
            "has no whole record there",
            "the file is cut short or damaged; the run writes its events anew with --resume",
        ));
    }
    Ok(records.into_iter().map(|(_, event)| event).collect())
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |t| t.as_secs_f64())
}

fn described(tag: &str, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, 1, tag.as_bytes());
    match value {
        Value::Scalar(value) => {
            out.push(2 << 3 | 5);
            out.extend(value.to_le_bytes());
        }
        Value::Png {
            width,
            height,
            bytes,
        } => {
            let mut image = Vec::new();
            // Colourspace 3: RGB.
            for (number, value) in [(1, *height), (2, *width), (3, 3)] {
                image.push(number << 3);
                varint(&mut image, value);
            }
            field(&mut image, 4, bytes);
            field(&mut out, 4, &image);
        }
    }
    out
}

fn event(time: f64, step: u64, rest: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend(time.to_le_bytes());
    out.push(2 << 3);
    varint(&mut out, step);
    rest(&mut out);
    out
}

/// A field of bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn record(data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u64).to_le_bytes();
    let mut out = len.to_vec();
    out.extend(masked(&len).to_le_bytes());
    out.extend(data);
    out.extend(masked(data).to_le_bytes());
    out
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut value, mut bit) = (i as u32, 0);
            while bit < 8 {
                value = (value >> 1) ^ (0x82f6_3b78 * (value & 1));
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0u32, |crc, &b| {
        (crc >> 8) ^ TABLE[((crc ^ u32::from(b)) & 0xff) as usize]
    })
}

/// The data of each whole record from the start on and what it says, and where they end.
fn records(bytes: &[u8]) -> (Vec<(&[u8], Event)>, usize) {
    let mut rest = bytes;
    let mut all = Vec::new();
    while let Some((data, after)) = one_record(rest)
        && let Some(event) = parsed(data)
    {
        all.push((data, event));
        rest = after;
    }
    (all, bytes.len() - rest.len())
}

fn one_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(12)?;
    let (len, sum) = head.split_at_checked(8)?;
    let number = |b: &[u8]| b.try_into().ok().map(u32::from_le_bytes);
    if number(sum)? != masked(len) {
        return None;
    }
    let len = usize::try_from(u64::from_le_bytes(len.try_into().ok()?)).ok()?;
    let (data, rest) = rest.split_at_checked(len)?;
    let (sum, rest) = rest.split_at_checked(4)?;
    (number(sum)? == masked(data)).then_some((data, rest))
}

/// A field of a protocol buffer.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes.
    Fixed(&'a [u8]),
}

fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Field::Number(take_varint(&mut bytes)?),
            1 => Field::Fixed(take(&mut bytes, 8)?),
            2 => {
                let len = usize::try_from(take_varint(&mut bytes)?).ok()?;
                Field::Bytes(take(&mut bytes, len)?)
            }
            5 => Field::Fixed(take(&mut bytes, 4)?),
            _ => return None,
        };
        all.push((key >> 3, value));
    }
    Some(all)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn parsed(data: &[u8]) -> Option<Event> {
    let mut event = Event {
        step: 0,
        values: Vec::new(),
    };
    for (number, field) in fields(data)? {
        match (number, field) {
            (2, Field::Number(step)) => event.step = step,
            (5, Field::Bytes(summary)) => {
                for (number, field) in fields(summary)? {
                    if let (1, Field::Bytes(value)) = (number, field) {
                        event.values.extend(parsed_value(value)?);
                    }
                }
            }
            _ => {}
        }
    }
    Some(event)
}

/// A value, if it is of a kind that is written here.
fn parsed_value(bytes: &[u8]) -> Option<Option<(String, Value)>> {
    let (mut tag, mut value) = (String::new(), None);
    for (number, field) in fields(bytes)? {
        match (number, field) {
            (1, Field::Bytes(name)) => tag = String::from_utf8(name.to_vec()).ok()?,
            (2, Field::Fixed(bits)) => {
                value = Some(Value::Scalar(f32::from_le_bytes(bits.try_into().ok()?)));
            }
            (4, Field::Bytes(image)) => {
                let (mut width, mut height, mut png) = (0, 0, Vec::new());
                for (number, field) in fields(image)? {
                    match (number, field) {
                        (1, Field::Number(n)) => height = n,
                        (2, Field::Number(n)) => width = n,
                        (4, Field::Bytes(bytes)) => png = bytes.to_vec(),
                        _ => {}
                    }
                }
                value = Some(Value::Png {
                    width,
                    height,
                    bytes: png,
                });
            }
            _ => {}
        }
    }
    Some(value.map(|value| (tag, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_castagnolis_masked() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // A TFRecord's length of 24, as TensorFlow writes it.
        assert_eq!(masked(&24u64.to_le_bytes()), u32::from_le_bytes(LENGTH_24));
    }

    /// The first record of every event file: its data has 24 bytes.
    const LENGTH_24: [u8; 4] = [0xa3, 0x7f, 0x4b, 0x22];

    #[test]
    fn what_is_written_is_read_and_a_resumed_file_has_each_step_once() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("create", "", e))?;
        let path = folder.path().join(FILE);
        let event = |step: u64| Event {
            step,
            values: vec![
                ("loss".into(), Value::Scalar(step as f32 - 1.5)),
                (
                    "samples".into(),
                    Value::Png {
                        width: 300,
                        height: 2,
                        bytes: vec![7; 200 + step as usize],
                    },
                ),
            ],
        };
        let mut writer = Writer::new(folder.path(), 0)?;
        (0..4).try_for_each(|step| writer.add(&event(step)))?;
        let shown = |path: &Path| -> Result<Vec<Event>> {
            let mut all = read(path)?;
            all.retain(|e| !e.values.is_empty());
            Ok(all)
        };
        assert_eq!(shown(&path)?, (0..4).map(event).collect::<Vec<_>>());
        let mut writer = Writer::new(folder.path(), 2)?;
        assert_eq!(shown(&path)?, [event(0), event(1)]);
        writer.add(&event(2))?;
        assert_eq!(shown(&path)?.len(), 3);
        assert_eq!(read(&path)?.len(), 4, "the version comes first");

        let whole = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        for (change, what) in [
            (whole[..whole.len() - 1].to_vec(), "cut short"),
            (
                {
                    let mut b = whole.clone();
                    b[60] ^= 1;
                    b
                },
                "a bit of data",
            ),
            (
                {
                    let mut b = whole.clone();
                    b[0] ^= 1;
                    b
                },
                "a bit of a length",
            ),
        ] {
            write_bytes(&path, &change)?;
            let error = read(&path).expect_err(what).to_string();
            assert!(error.contains("no whole record"), "{what}: {error}");
        }
        // A run that was killed while it wrote goes on with the steps before.
        write_bytes(&path, &whole[..whole.len() - 1])?;
        Writer::new(folder.path(), 9)?;
        assert_eq!(shown(&path)?, [event(0), event(1)]);
        Ok(())
    }
}
