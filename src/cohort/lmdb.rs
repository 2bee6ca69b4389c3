//! Tiles in LMDB, as RNA-GAN's code writes them (Carrillo-Perez et al. 2023,
//! `patch_gen_grid.py`): a file for each slide, `<root>/<slide>/<slide without .svs>.db`. The key
//! `__keys__` has the list of the tiles' keys; a tile's value is its name, its bytes and their
//! shape (height, width, 3). Values are pickled and in LZ4's frame format.
//!
//! Bytes are red, green, blue, as they were written. (The published reader takes them for blue,
//! green, red, so that the published networks have seen and drawn tiles with these swapped.)

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{SourceImage, entries, name};
use crate::error::{Error, Result};
use crate::formats::atomic::write_bytes;
use crate::formats::lmdb::{Lmdb, Writer};
use crate::formats::pickle::{self, Object, Pickle, Value};
use crate::slides::{Rgb8, scale};

/// Bytes that a value may have without compression.
const MOST_BYTES: u64 = 1 << 30;

/// The one LMDB file of a slide's folder.
///
/// # Errors
/// None or several.
pub(super) fn file_of(folder: &Path) -> Result<PathBuf> {
    let mut files = entries(folder)?;
    files.retain(|p| p.extension().is_some_and(|e| e == "db") || name(p) == "data.mdb");
    match (files.pop(), files.len()) {
        (Some(file), 0) => Ok(file),
        (file, others) => Err(Error::file(
            folder,
            "",
            format!("has {} .db files", others + usize::from(file.is_some())),
            "keep one LMDB file in the folder of each slide",
        )),
    }
}

/// The tiles of a slide's file, and those that cannot be read, each with what is wrong.
///
/// # Errors
/// A file that is no such, or whose list of keys cannot be read.
pub(super) fn tiles(path: &Path) -> Result<Vec<(String, Result<SourceImage>)>> {
    let mut file = Lmdb::open(path)?;
    let all = file.get(b"__keys__")?.ok_or_else(|| {
        Error::file(
            path,
            "",
            format!("has {} entries and no list of keys", file.entries()),
            "write `__keys__` as RNA-GAN's patch_gen_grid.py does; it is written last, so an \
             interrupted extraction lacks it",
        )
    })?;
    let bytes = unpacked(path, "__keys__", &all)?;
    let broken = || broken(path, "__keys__", "is no list of keys");
    let pickle = pickle::load(&bytes).map_err(|_| broken())?;
    let list = match items(&pickle, pickle.root) {
        Some(list) => list,
        None => return Err(broken()),
    };
    let mut keys = Vec::with_capacity(list.len());
    for key in list {
        let Value::Bytes(key) = key else {
            return Err(broken());
        };
        keys.push(String::from_utf8(key.to_vec()).map_err(|_| broken())?);
    }
    let mpp = stated_mpp(path)?;
    let mut out = Vec::with_capacity(keys.len());
    for key in keys {
        let tile = tile(&mut file, path, &key).map(|tile| SourceImage {
            path: path.to_owned(),
            entry: Some(key.clone()),
            width: tile.width,
            height: tile.height,
            mpp,
            colours: Default::default(),
        });
        out.push((key, tile));
    }
    Ok(out)
}

/// The tile of a key.
///
/// # Errors
/// A file that is no such; a key that is not there; a value that is no tile.
pub(super) fn read(path: &Path, key: &str) -> Result<Rgb8> {
    tile(&mut Lmdb::open(path)?, path, key)
}

fn tile(file: &mut Lmdb, path: &Path, key: &str) -> Result<Rgb8> {
    let value = file.get(key.as_bytes())?;
    let value = value.ok_or_else(|| broken(path, key, "is in the list of keys and not there"))?;
    let bytes = unpacked(path, key, &value)?;
    let refuse = || broken(path, key, "is no tile with name, bytes and shape");
    let pickle = pickle::load(&bytes).map_err(|_| refuse())?;
    let parts = items(&pickle, pickle.root).ok_or_else(refuse)?;
    let &[_, Value::Bytes(pixels), shape] = parts else {
        return Err(refuse());
    };
    let Some(&[Value::Int(height), Value::Int(width), Value::Int(3)]) = items(&pickle, shape)
    else {
        return Err(broken(path, key, "is of no shape (height, width, 3)"));
    };
    let size = |v: i64| usize::try_from(v).ok().filter(|&v| v > 0);
    let (Some(height), Some(width)) = (size(height), size(width)) else {
        return Err(refuse());
    };
    let len = height.checked_mul(width).and_then(|n| n.checked_mul(3));
    if len != Some(pixels.len()) {
        let problem = format!("has {} bytes for {height} x {width} pixels", pixels.len());
        return Err(broken(path, key, &problem));
    }
    Ok(Rgb8 {
        width,
        height,
        data: pixels.to_vec(),
    })
}

/// What a file of tiles says in a file beside it, since RNA-GAN's layout has no place for it.
#[derive(Serialize, Deserialize)]
struct Beside {
    mpp: f64,
    /// Top-left corners of the tiles in pixels of the slide's level 0, x before y.
    #[serde(default)]
    corners: Vec<(i64, i64)>,
}

/// Micrometres per pixel of a file's tiles, where a file beside it says so.
fn stated_mpp(path: &Path) -> Result<Option<f64>> {
    let beside = path.with_extension("json");
    let text = match std::fs::read_to_string(&beside) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", &beside, e)),
    };
    let said: Beside = serde_json::from_str(&text).map_err(|e| {
        let problem = format!("does not say the scale of the tiles ({e})");
        Error::file(
            &beside,
            "",
            problem,
            "remove it, or extract the tiles again",
        )
    })?;
    scale::check(said.mpp, "the scale of tiles in LMDB")?;
    Ok(Some(said.mpp))
}

/// The tiles of a slide, written as RNA-GAN's code does.
pub struct TileFile {
    path: PathBuf,
    slide: String,
    writer: Writer,
    corners: Vec<(i64, i64)>,
}

impl TileFile {
    /// # Errors
    /// The file cannot be written.
    pub fn new(path: &Path, slide: &str) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            slide: slide.to_owned(),
            writer: Writer::new(path)?,
            corners: Vec::new(),
        })
    }

    /// Adds a tile, whose corner is at `corner` of the slide's level 0.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&mut self, tile: &Rgb8, corner: (i64, i64)) -> Result<()> {
        let key = self.corners.len().to_string();
        let mut value = b"\x80\x03".to_vec();
        let name = format!("{}_patch_{key}", self.slide);
        value.push(b'X');
        value.extend((name.len() as u32).to_le_bytes());
        value.extend(name.as_bytes());
        bytes(&mut value, &tile.data);
        for n in [tile.height, tile.width, 3] {
            value.push(b'J');
            value.extend((n as i32).to_le_bytes());
        }
        // Two tuples of three.
        value.extend(b"\x87\x87.");
        self.writer
            .put(key.as_bytes(), &packed(&self.path, &value)?)?;
        self.corners.push(corner);
        Ok(())
    }

    /// Writes the list of keys, the scale beside the file, and puts it in its place.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn finish(mut self, mpp: f64) -> Result<()> {
        let mut list = b"\x80\x03](".to_vec();
        for key in 0..self.corners.len() {
            bytes(&mut list, key.to_string().as_bytes());
        }
        list.extend(b"e.");
        self.writer.put(b"__keys__", &packed(&self.path, &list)?)?;
        let corners = self.corners;
        let text = serde_json::to_string(&Beside { mpp, corners })
            .map_err(|e| Error::usage(format!("a scale cannot be written: {e}"), "report this"))?;
        write_bytes(self.path.with_extension("json"), text.as_bytes())?;
        self.writer.finish()
    }
}

/// Bytes as a pickle has them.
fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'B');
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
}

fn packed(path: &Path, value: &[u8]) -> Result<Vec<u8>> {
    let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
    out.write_all(value)
        .map_err(|e| Error::io("write", path, e))?;
    out.finish()
        .map_err(|e| Error::io("write", path, std::io::Error::other(e)))
}

fn items<'p, 'b>(pickle: &'p Pickle<'b>, value: Value) -> Option<&'p [Value<'b>]> {
    let Value::Object(at) = value else {
        return None;
    };
    match pickle.objects.get(at)? {
        Object::Tuple(items) | Object::List(items) => Some(items),
        _ => None,
    }
}

fn unpacked(path: &Path, key: &str, value: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    lz4_flex::frame::FrameDecoder::new(value)
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| broken(path, key, &format!("cannot be unpacked ({e})")))?;
    match bytes.len() as u64 > MOST_BYTES {
        false => Ok(bytes),
        true => Err(broken(path, key, "unpacks to more than 1 GiB")),
    }
}

fn broken(path: &Path, key: &str, problem: &str) -> Error {
    Error::file(
        path,
        format!("key `{key}`"),
        problem,
        "the value is damaged or was written by another program: extract the slide's tiles again",
    )
}
