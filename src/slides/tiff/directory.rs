//! The directories of a TIFF or BigTIFF file: what they list, and where it is.
//!
//! Nothing is believed that the length of the file contradicts: every value is
//! located and checked against the end of the file when its directory is read,
//! directories are counted, and one that was met before ends the reading with
//! an error. Long lists (offsets of tiles) stay in the file and are looked up
//! one at a time, so that opening a slide costs little.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use crate::error::{Error, Result};

/// The tags that the reader asks for.
pub mod tag {
    pub const NEW_SUBFILE_TYPE: u16 = 254;
    pub const WIDTH: u16 = 256;
    pub const HEIGHT: u16 = 257;
    pub const BITS: u16 = 258;
    pub const COMPRESSION: u16 = 259;
    pub const PHOTOMETRIC: u16 = 262;
    pub const DESCRIPTION: u16 = 270;
    pub const STRIP_OFFSETS: u16 = 273;
    pub const SAMPLES: u16 = 277;
    pub const ROWS_PER_STRIP: u16 = 278;
    pub const STRIP_BYTES: u16 = 279;
    pub const X_RESOLUTION: u16 = 282;
    pub const Y_RESOLUTION: u16 = 283;
    pub const PLANAR: u16 = 284;
    pub const RESOLUTION_UNIT: u16 = 296;
    pub const SOFTWARE: u16 = 305;
    pub const PREDICTOR: u16 = 317;
    pub const TILE_WIDTH: u16 = 322;
    pub const TILE_HEIGHT: u16 = 323;
    pub const TILE_OFFSETS: u16 = 324;
    pub const TILE_BYTES: u16 = 325;
    pub const SUB_DIRECTORIES: u16 = 330;
    pub const SAMPLE_FORMAT: u16 = 339;
    pub const JPEG_TABLES: u16 = 347;
    pub const XMP: u16 = 700;
    pub const ICC: u16 = 34675;
    pub const HAMAMATSU: u16 = 65420;
}

/// A pyramid has a dozen; the bound is for files made to be read forever.
const MAX_DIRECTORIES: usize = 1024;
/// The longest text that is looked at.
const MAX_TEXT: u64 = 4 << 20;

/// How numbers are written, and the file that they are in.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub path: &'a Path,
    pub bytes: &'a [u8],
    little: bool,
    big: bool,
}

/// Where the values of a tag are; inside the file, as was checked.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    kind: u16,
    count: u64,
    at: u64,
}

/// One directory: the description of one picture.
#[derive(Clone, Debug)]
pub struct Directory {
    /// For errors: "directory 2" or "directory 0, subdirectory 1".
    pub name: String,
    entries: BTreeMap<u16, Entry>,
}

impl<'a> Source<'a> {
    /// Reads the header; returns the place of the first directory too.
    ///
    /// # Errors
    /// Bytes that are not a TIFF file.
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Result<(Self, u64)> {
        let little = match bytes.get(..2) {
            Some(b"II") => true,
            Some(b"MM") => false,
            _ => return Err(damaged(path, "header", "is not a TIFF file")),
        };
        let mut source = Self {
            path,
            bytes,
            little,
            big: false,
        };
        let short = || damaged(path, "header", "ends early");
        source.big = match source.u16(2).ok_or_else(short)? {
            42 => false,
            43 if source.u16(4) == Some(8) && source.u16(6) == Some(0) => true,
            _ => return Err(damaged(path, "header", "is not a TIFF file")),
        };
        let first = source.word(if source.big { 8 } else { 4 });
        Ok((source, first.ok_or_else(short)?))
    }

    fn take<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let at = usize::try_from(at).ok()?;
        let mut bytes: [u8; N] = self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()?;
        if !self.little {
            bytes.reverse();
        }
        Some(bytes)
    }

    fn u16(&self, at: u64) -> Option<u16> {
        self.take(at).map(u16::from_le_bytes)
    }

    /// An offset: 4 bytes, in BigTIFF 8.
    fn word(&self, at: u64) -> Option<u64> {
        if self.big {
            self.take(at).map(u64::from_le_bytes)
        } else {
            self.take(at).map(|b| u32::from_le_bytes(b).into())
        }
    }

    /// The chain of directories from `first` on.
    ///
    /// # Errors
    /// A directory outside the file, met twice, or with values outside the file.
    pub fn directories(&self, first: u64) -> Result<Vec<Directory>> {
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        let mut next = first;
        while next != 0 {
            let name = format!("directory {}", all.len());
            let (directory, after) = self.directory(next, name, &mut seen)?;
            all.push(directory);
            next = after;
        }
        if all.is_empty() {
            return Err(damaged(self.path, "header", "lists no picture"));
        }
        Ok(all)
    }

    /// The directories that `of` names as its reduced versions.
    ///
    /// # Errors
    /// As [`Self::directories`].
    pub fn subdirectories(&self, of: &Directory) -> Result<Vec<Directory>> {
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        if let Some(list) = of.entry(tag::SUB_DIRECTORIES) {
            for i in 0..list.count {
                let name = format!("{}, subdirectory {i}", of.name);
                let at = self.integer(list, i).unwrap_or(0);
                all.push(self.directory(at, name, &mut seen)?.0);
            }
        }
        Ok(all)
    }

    fn directory(
        &self,
        at: u64,
        name: String,
        seen: &mut HashSet<u64>,
    ) -> Result<(Directory, u64)> {
        let bad = |problem: &str| damaged(self.path, &name, problem);
        if !seen.insert(at) {
            return Err(bad("is a directory that was there before: a loop"));
        }
        if seen.len() > MAX_DIRECTORIES {
            return Err(bad("is one too many: no slide has so many directories"));
        }
        let outside = || {
            bad(&format!(
                "begins or ends past the end of the file (byte {at})"
            ))
        };
        let count = if self.big {
            self.take(at).map(u64::from_le_bytes)
        } else {
            self.u16(at).map(u64::from)
        };
        let count = count.ok_or_else(outside)?;
        let (head, step, inline) = if self.big { (8, 20, 8) } else { (2, 12, 4) };
        let end = count
            .checked_mul(step)
            .and_then(|n| n.checked_add(at + head));
        let end = end.filter(|&end| end <= self.bytes.len() as u64);
        let end = end.ok_or_else(outside)?;

        let mut entries = BTreeMap::new();
        for i in 0..count {
            let here = at + head + i * step;
            let read = (self.u16(here), self.u16(here + 2), self.word(here + 4));
            let (Some(tag), Some(kind), Some(count)) = read else {
                return Err(outside());
            };
            let Some(size) = size_of(kind) else {
                continue; // a kind of value that does not concern us
            };
            let value = here + 4 + inline;
            let length = count.checked_mul(size);
            let place = match length {
                Some(length) if length <= inline => Some(value),
                Some(length) => self.word(value).filter(|&place| {
                    let end = place.checked_add(length);
                    end.is_some_and(|end| end <= self.bytes.len() as u64)
                }),
                None => None,
            };
            let Some(place) = place else {
                return Err(bad(&format!(
                    "tag {tag} has {count} values, which reach past the end of the file"
                )));
            };
            entries.insert(
                tag,
                Entry {
                    kind,
                    count,
                    at: place,
                },
            );
        }
        // A file cut right after its last directory has lost nothing else.
        let next = self.word(end).unwrap_or(0);
        Ok((Directory { name, entries }, next))
    }

    /// Element `i` of a list of whole numbers.
    pub fn integer(&self, entry: Entry, i: u64) -> Option<u64> {
        if i >= entry.count {
            return None;
        }
        let at = entry.at + i * size_of(entry.kind)?;
        match entry.kind {
            1 => self.take::<1>(at).map(|[b]| b.into()),
            3 => self.u16(at).map(u64::from),
            4 | 13 => self.take(at).map(|b| u32::from_le_bytes(b).into()),
            16 | 18 => self.take(at).map(u64::from_le_bytes),
            _ => None,
        }
    }

    /// The only or first value of a tag, as a whole number.
    pub fn number(&self, directory: &Directory, tag: u16) -> Option<u64> {
        self.integer(directory.entry(tag)?, 0)
    }

    /// A fraction of two whole numbers, or a floating-point number.
    pub fn real(&self, directory: &Directory, tag: u16) -> Option<f64> {
        let entry = directory.entry(tag).filter(|e| e.count > 0)?;
        let whole = |at| self.take(at).map(u32::from_le_bytes).map(f64::from);
        match entry.kind {
            5 => Some(whole(entry.at)? / whole(entry.at + 4)?),
            11 => self.take(entry.at).map(|b| f32::from_le_bytes(b).into()),
            12 => self.take(entry.at).map(f64::from_le_bytes),
            _ => self.integer(entry, 0).map(|n| n as f64),
        }
    }

    /// The bytes of a tag, whatever they stand for.
    pub fn raw(&self, directory: &Directory, tag: u16) -> Option<&'a [u8]> {
        let entry = directory.entry(tag)?;
        let length = entry.count.checked_mul(size_of(entry.kind)?)?;
        self.slice(entry.at, length)
    }

    /// Where the bytes of a tag lie, and how many they are.
    pub fn place(&self, directory: &Directory, tag: u16) -> Option<(u64, u64)> {
        let bytes = self.raw(directory, tag)?;
        let at = bytes.as_ptr() as u64 - self.bytes.as_ptr() as u64;
        Some((at, bytes.len() as u64))
    }

    pub fn slice(&self, at: u64, length: u64) -> Option<&'a [u8]> {
        let end = at.checked_add(length)?;
        self.bytes
            .get(usize::try_from(at).ok()?..usize::try_from(end).ok()?)
    }

    /// A text, up to its first NUL; what is not UTF-8 is replaced.
    pub fn text(&self, directory: &Directory, tag: u16) -> Option<String> {
        let bytes = self.raw(directory, tag)?;
        let bytes = bytes.get(..MAX_TEXT as usize).unwrap_or(bytes);
        let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

impl Directory {
    pub fn entry(&self, tag: u16) -> Option<Entry> {
        self.entries.get(&tag).copied()
    }
}

impl Entry {
    pub fn len(&self) -> u64 {
        self.count
    }
}

/// Bytes of one value.
fn size_of(kind: u16) -> Option<u64> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16..=18 => Some(8),
        _ => None,
    }
}

pub fn damaged(path: &Path, place: &str, problem: impl Into<String>) -> Error {
    Error::file(
        path,
        place,
        problem,
        "the slide is cut short or damaged: copy or export it again",
    )
}
