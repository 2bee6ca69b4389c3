//! A cohort's tiles, decoded and resized once, as bytes in one file that is read at random:
//! for trainings that see tiles in another order in every epoch and need not hold them all.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use super::{Cohort, TileSpec, UnusedTile, for_each_batch};
use crate::error::{Error, Result};
use crate::formats::atomic::write_atomically;
use crate::formats::hash::sha256_bytes;
use crate::random::Philox;
use crate::slides::augment::Augment;

/// Tiles that are decoded together while the file is made.
const BATCH: usize = 64;

/// The file begins with the recipe's hash in hexadecimal digits.
const HASH: usize = 64;

/// Square tiles of one size.
pub struct TileStore {
    path: PathBuf,
    file: Mutex<File>,
    px: usize,
    /// Place of each tile of the cohort.
    slots: HashMap<usize, usize>,
}

impl TileStore {
    /// Opens the store of the cohort's tiles at `px` a side, made anew if what is at `path` is
    /// of other tiles. Tiles that cannot be decoded leave the cohort.
    ///
    /// `at` is told how many tiles are done while it is made.
    ///
    /// # Errors
    /// A file that cannot be written or read; no sample left; what `at` returns.
    pub fn of(
        cohort: &mut Cohort,
        px: usize,
        path: &Path,
        at: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let tiles: BTreeSet<usize> = (cohort.samples.iter())
            .flat_map(|s| s.tiles.iter().copied())
            .collect();
        let recipe = recipe(cohort, &tiles, px)?;
        let (listed, unused) = match listed(path, &recipe)? {
            None => make(cohort, px, path, &recipe, at)?,
            Some(listed) => {
                let there: BTreeSet<usize> = listed.iter().copied().collect();
                let unused = tiles.difference(&there).map(|&tile| UnusedTile {
                    tile,
                    what: describe(cohort, tile),
                    why: "it could not be decoded when the tiles were collected".into(),
                });
                (listed, unused.collect())
            }
        };
        cohort.drop_tiles(&unused)?;
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            px,
            slots: listed.into_iter().zip(0..).collect(),
        })
    }

    /// Side of a tile in pixels.
    pub fn px(&self) -> usize {
        self.px
    }

    /// The tiles, changed as `augment` says with numbers from `random`, as values in (-1, 1):
    /// (tiles, px, px, 3).
    ///
    /// # Errors
    /// A tile of another cohort; a file that changed.
    pub fn read(&self, tiles: &[usize], augment: Augment, mut random: Philox) -> Result<Vec<f32>> {
        let len = 3 * self.px * self.px;
        let mut bytes = vec![0u8; len];
        let mut values = Vec::with_capacity(tiles.len() * len);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        for tile in tiles {
            let slot = self.slots.get(tile).ok_or_else(|| {
                Error::op(
                    "TileStore::read",
                    format!("tile {tile} is not in the store"),
                )
            })?;
            let start = begin(self.slots.len()) + slot * len;
            file.seek(SeekFrom::Start(start as u64))
                .and_then(|_| file.read_exact(&mut bytes))
                .map_err(|e| Error::io("read", &self.path, e))?;
            let from = values.len();
            values.extend(bytes.iter().map(|&b| f32::from(b) / 255.0));
            augment.apply(&mut values[from..], self.px, &mut random);
        }
        values.iter_mut().for_each(|v| *v = 2.0 * *v - 1.0);
        Ok(values)
    }
}

fn describe(cohort: &Cohort, tile: usize) -> String {
    let tile = &cohort.tiles[tile];
    let path = cohort.images[tile.image].describe();
    match tile.centre {
        Some((x, y)) => format!("tile at ({x}, {y}) of {path}"),
        None => format!("tile {path}"),
    }
}

/// Where the first tile begins: behind the hash, the number of tiles and their numbers.
fn begin(tiles: usize) -> usize {
    HASH + 8 * (1 + tiles)
}

/// A hash of everything that the bytes depend on.
fn recipe(cohort: &Cohort, tiles: &BTreeSet<usize>, px: usize) -> Result<String> {
    let mut text = format!("tiles of {px} px\n");
    let mut described = HashMap::new();
    for &tile in tiles {
        let t = &cohort.tiles[tile];
        if let Entry::Vacant(place) = described.entry(t.image) {
            let path = &cohort.images[t.image].path;
            let about = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
            let changed = about.modified().ok();
            let changed = changed.and_then(|t| t.duration_since(UNIX_EPOCH).ok());
            let image = cohort.images[t.image].describe();
            let about = format!("{image} {} {changed:?}", about.len());
            place.insert(about);
        }
        text += &format!(
            "{tile} {} {:?} {}\n",
            described[&t.image], t.centre, t.size_px
        );
    }
    Ok(sha256_bytes(text.as_bytes()))
}

/// The tiles of the store at `path`, if it is of this recipe and whole.
fn listed(path: &Path, recipe: &str) -> Result<Option<Vec<usize>>> {
    let fail = |e| Error::io("read", path, e);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    let len = file.metadata().map_err(fail)?.len();
    let mut head = vec![0u8; HASH + 8];
    if len < head.len() as u64 {
        return Ok(None);
    }
    file.read_exact(&mut head).map_err(fail)?;
    let (hash, count) = head.split_at(HASH);
    let count = count.try_into().map_or(0, u64::from_le_bytes);
    // The numbers alone must fit, before room is made for them.
    if hash != recipe.as_bytes() || count > len / 8 {
        return Ok(None);
    }
    let mut numbers = vec![0u8; 8 * count as usize];
    file.read_exact(&mut numbers).map_err(fail)?;
    let number = |b: &[u8]| b.try_into().map_or(0, u64::from_le_bytes) as usize;
    Ok(Some(numbers.chunks_exact(8).map(number).collect()))
}

fn make(
    cohort: &Cohort,
    px: usize,
    path: &Path,
    recipe: &str,
    at: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<(Vec<usize>, Vec<UnusedTile>)> {
    // Levels of 0 to 255 as they are.
    let spec = TileSpec {
        out_px: px,
        batch: BATCH,
        mean: [0.0; 3],
        std: [1.0 / 255.0; 3],
    };
    // The order is known only at the end, and stands in front: the tiles go beside first.
    let beside = path.with_extension("part");
    let (mut listed, mut unused) = (Vec::new(), Vec::new());
    let written = write_atomically(&beside, |out| {
        for_each_batch(cohort, &spec, |values, tiles| {
            let bytes: Vec<u8> = values.iter().map(|v| v.round() as u8).collect();
            out.write_all(&bytes)
                .map_err(|e| Error::io("write", &beside, e))?;
            listed.extend_from_slice(tiles);
            at(listed.len())
        })
        .map(|of_tiles| unused = of_tiles)
    });
    let joined = written.and_then(|()| {
        write_atomically(path, |out| {
            let mut head = recipe.as_bytes().to_vec();
            let numbers = std::iter::once(listed.len()).chain(listed.iter().copied());
            head.extend(numbers.flat_map(|n| (n as u64).to_le_bytes()));
            let mut tiles = File::open(&beside).map_err(|e| Error::io("read", &beside, e))?;
            out.write_all(&head)
                .and_then(|()| std::io::copy(&mut tiles, out))
                .map(drop)
                .map_err(|e| Error::io("write", path, e))
        })
    });
    let _ = std::fs::remove_file(&beside);
    joined.map(|()| (listed, unused))
}
