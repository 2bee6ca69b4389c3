//! Slides in TIFF and BigTIFF: Aperio's SVS, OME-TIFF, and the tiled or
//! stripped pyramids that libvips and others write.
//!
//! The file is mapped, so that opening is cheap and threads read without a
//! lock. A file that someone changes meanwhile gives an error at the next
//! tile; only one that is cut short within that very tile cannot be caught.

mod chunk;
mod describe;
mod directory;

use std::fs::{File, Metadata};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::Mmap;

use super::Rgb8;
use super::cache::Cache;
use super::flat::no_such;
use super::reader::{Associated, Facts, Level, Slide, check_region, white};
use crate::error::{Error, Result};
use chunk::{Coding, Colours, Compression};
use directory::{Directory, Entry, Source, damaged, tag};

/// A chunk of a file may unpack to this many pixels: a whole picture in one strip.
const MAX_CHUNK: usize = 1 << 27;
/// The longest side of a level.
const MAX_SIDE: u64 = 1 << 24;
/// Bytes of decoded tiles that an open slide keeps: two rows of tiles of 256 px over
/// 87,000 px, since squares are read by rows and lie across the borders of tiles.
const CACHE: usize = 128 << 20;

/// Whether a file that starts like this is a TIFF file.
pub fn is_tiff(head: &[u8]) -> bool {
    [b"II\x2a\0", b"MM\0\x2a", b"II\x2b\0", b"MM\0\x2b"]
        .iter()
        .any(|magic| head.starts_with(*magic))
}

pub struct TiffSlide {
    facts: Facts,
    map: Mmap,
    file: File,
    /// Length and time of change when it was opened.
    stamp: (u64, Option<SystemTime>),
    /// As the levels, then as the associated pictures.
    planes: Vec<Plane>,
    /// Where the ICC profile of the first picture lies, and its length.
    profile: Option<(u64, u64)>,
    cache: Cache,
}

/// What opening a TIFF file came to.
pub enum Opened {
    Slide(Box<TiffSlide>),
    /// A vendor whose files are TIFF in name only.
    Foreign(&'static str),
}

/// One picture of the file, cut into chunks.
struct Plane {
    /// For errors.
    name: String,
    width: usize,
    height: usize,
    chunk_width: usize,
    chunk_height: usize,
    /// Chunks side by side.
    across: usize,
    offsets: Entry,
    lengths: Entry,
    tiled: bool,
    compression: Compression,
    colours: Colours,
    samples: usize,
    differences: bool,
    tables: Option<(u64, u64)>,
}

impl TiffSlide {
    /// # Errors
    /// A file that cannot be read, is damaged, or has a first picture that is
    /// not 8-bit colour or grey in a compression that is known here.
    pub fn open(path: &Path) -> Result<Opened> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let meta = file.metadata().map_err(|e| Error::io("read", path, e))?;
        // SAFETY: the map is only read, and its file is looked at before each
        // read for having been changed; what remains is said above.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let (source, first) = Source::new(path, &map)?;
        let mut directories = source.directories(first)?;
        let Some(main) = directories.first() else {
            return Err(damaged(path, "header", "lists no picture"));
        };
        if let Some(vendor) = describe::foreign(&source, main) {
            return Ok(Opened::Foreign(vendor));
        }
        let described = describe::Described::of(&source, main);
        let profile = source.place(main, tag::ICC);
        // A fault in a list of reduced versions does not harm the slide itself.
        let mut unread = Vec::new();
        match source.subdirectories(main) {
            Ok(sub) => drop(directories.splice(1..1, sub)),
            Err(e) => unread.push(e.to_string()),
        }

        let mut levels: Vec<Plane> = Vec::new();
        let mut extra = Vec::new();
        for directory in &directories {
            match Plane::new(&source, directory) {
                Ok(plane)
                    if levels
                        .last()
                        .is_none_or(|last| plane.reduces(&levels[0], last)) =>
                {
                    levels.push(plane);
                }
                Ok(plane) => {
                    let name = describe::name(&source, directory, extra.len());
                    extra.push((name, plane));
                }
                Err(e) if levels.is_empty() => return Err(e),
                Err(e) => unread.push(e.to_string()),
            }
        }
        let level = |plane: &Plane| Level {
            width: plane.width,
            height: plane.height,
            downsample: (levels[0].width as f64 / plane.width as f64
                + levels[0].height as f64 / plane.height as f64)
                / 2.0,
            tile: Some((plane.chunk_width, plane.chunk_height)),
            compression: Some(plane.compression.name()),
        };
        let facts = Facts {
            path: path.to_path_buf(),
            vendor: described.vendor,
            reader: "eosin".into(),
            levels: levels.iter().map(level).collect(),
            claims: described.claims,
            magnification: described.magnification,
            associated: (extra.iter())
                .map(|(name, plane)| Associated {
                    name: name.clone(),
                    width: plane.width,
                    height: plane.height,
                })
                .collect(),
            unread,
        };
        levels.extend(extra.into_iter().map(|(_, plane)| plane));
        Ok(Opened::Slide(Box::new(Self {
            facts,
            stamp: stamp(&meta),
            map,
            file,
            planes: levels,
            profile,
            cache: Cache::new(CACHE),
        })))
    }

    fn unchanged(&self) -> Result<()> {
        let path = &self.facts.path;
        let meta = self.file.metadata();
        if stamp(&meta.map_err(|e| Error::io("read", path, e))?) == self.stamp {
            return Ok(());
        }
        Err(Error::file(
            path,
            "",
            "changed while it was read",
            "wait until it is copied, then start again",
        ))
    }

    /// A decoded tile or strip; `None` for a hole.
    fn chunk(&self, plane: usize, i: usize) -> Result<Option<Arc<Rgb8>>> {
        let key = (plane, i as u64);
        if let Some(tile) = self.cache.get(key) {
            return Ok(Some(tile));
        }
        self.unchanged()?;
        let path = &self.facts.path;
        let (source, _) = Source::new(path, &self.map)?;
        let p = &self.planes[plane];
        let offset = source.integer(p.offsets, i as u64);
        let length = source.integer(p.lengths, i as u64);
        let place = || {
            let (what, offset) = (if p.tiled { "tile" } else { "strip" }, offset.unwrap_or(0));
            let (column, row) = (i % p.across, i / p.across);
            format!(
                "{}, {what} {i} (column {column}, row {row}) at byte {offset}",
                p.name
            )
        };
        let (Some(offset), Some(length)) = (offset, length) else {
            return Err(damaged(path, &place(), "has no place in the file"));
        };
        if length == 0 {
            return Ok(None);
        }
        let rows = if p.tiled {
            p.chunk_height
        } else {
            p.chunk_height.min(p.height - i * p.chunk_height)
        };
        let Some(bytes) = source.slice(offset, length) else {
            let problem = format!("its {length} bytes reach past the end of the file");
            return Err(damaged(path, &place(), problem));
        };
        let coding = Coding {
            compression: p.compression,
            colours: p.colours,
            samples: p.samples,
            differences: p.differences,
            tables: p.tables.and_then(|(at, length)| source.slice(at, length)),
        };
        let data = chunk::decode(bytes, &coding, (p.chunk_width, rows, p.chunk_height))
            .map_err(|problem| damaged(path, &place(), problem))?;
        let tile = Arc::new(Rgb8 {
            width: p.chunk_width,
            height: rows,
            data,
        });
        self.cache.put(key, &tile);
        Ok(Some(tile))
    }

    fn read(&self, plane: usize, (x, y): (i64, i64), size: (usize, usize)) -> Result<Rgb8> {
        let p = &self.planes[plane];
        // What of the region lies within the picture: from, to, and how much is before it.
        let within = |at: i64, len: usize, side: usize| {
            let first = at.clamp(0, side as i64);
            let last = at.saturating_add(len as i64).clamp(first, side as i64);
            let before = if first < last { first - at } else { 0 };
            (first as usize, last as usize, before as usize)
        };
        let (left, right, margin) = within(x, size.0, p.width);
        let (top, bottom, above) = within(y, size.1, p.height);
        if left == right || top == bottom {
            return Ok(white(size.0, size.1));
        }
        const WHITE: u8 = 255;
        // Row by row from tiles side by side, so that each byte is written once.
        let mut data = Vec::with_capacity(size.0 * size.1 * 3);
        data.resize(above * size.0 * 3, WHITE);
        for row in top / p.chunk_height..bottom.div_ceil(p.chunk_height) {
            let columns = left / p.chunk_width..right.div_ceil(p.chunk_width);
            let tiles: Vec<_> = columns
                .map(|column| Ok((column, self.chunk(plane, row * p.across + column)?)))
                .collect::<Result<_>>()?;
            let first = row * p.chunk_height;
            for line in top.max(first)..bottom.min(first + p.chunk_height) {
                let began = data.len();
                data.resize(began + margin * 3, WHITE);
                for (column, tile) in &tiles {
                    let at = column * p.chunk_width;
                    let (from, to) = (left.max(at) - at, right.min(at + p.chunk_width) - at);
                    match tile {
                        Some(tile) => {
                            let start = (line - first) * p.chunk_width;
                            let part = 3 * (start + from)..3 * (start + to);
                            data.extend_from_slice(&tile.data[part]);
                        }
                        None => data.resize(data.len() + 3 * (to - from), WHITE),
                    }
                }
                data.resize(began + size.0 * 3, WHITE);
            }
        }
        data.resize(size.0 * size.1 * 3, WHITE);
        Ok(Rgb8 {
            width: size.0,
            height: size.1,
            data,
        })
    }
}

impl Slide for TiffSlide {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn read_region(&self, level: usize, at: (i64, i64), size: (usize, usize)) -> Result<Rgb8> {
        check_region(&self.facts, level, size)?;
        self.read(level, at, size)
    }

    fn read_associated(&self, name: &str) -> Result<Rgb8> {
        let named = |a: &Associated| a.name == name;
        let Some(i) = self.facts.associated.iter().position(named) else {
            return Err(no_such(&self.facts, name));
        };
        let Associated { width, height, .. } = self.facts.associated[i];
        if width.saturating_mul(height) > super::reader::MAX_REGION {
            return Err(damaged(
                &self.facts.path,
                name,
                "is too large to be read whole",
            ));
        }
        self.read(self.facts.levels.len() + i, (0, 0), (width, height))
    }

    fn profile(&self) -> Result<Option<Vec<u8>>> {
        let Some((at, length)) = self.profile else {
            return Ok(None);
        };
        self.unchanged()?;
        let (source, _) = Source::new(&self.facts.path, &self.map)?;
        Ok(source.slice(at, length).map(<[u8]>::to_vec))
    }
}

fn stamp(meta: &Metadata) -> (u64, Option<SystemTime>) {
    (meta.len(), meta.modified().ok())
}

impl Plane {
    fn new(source: &Source, directory: &Directory) -> Result<Self> {
        let bad = |problem: String| damaged(source.path, &directory.name, problem);
        let number = |tag| source.number(directory, tag);
        let side = |tag, what: &str| {
            let n = number(tag).filter(|n| (1..=MAX_SIDE).contains(n));
            n.map(|n| n as usize)
                .ok_or_else(|| bad(format!("has no {what}, or one out of bounds")))
        };
        let width = side(tag::WIDTH, "width")?;
        let height = side(tag::HEIGHT, "height")?;
        let tiled = directory.entry(tag::TILE_WIDTH).is_some();
        let (chunk_width, chunk_height) = if tiled {
            (
                side(tag::TILE_WIDTH, "tile width")?,
                side(tag::TILE_HEIGHT, "tile height")?,
            )
        } else {
            let rows = number(tag::ROWS_PER_STRIP).unwrap_or(u64::MAX);
            (width, rows.clamp(1, height as u64) as usize)
        };
        if chunk_width
            .checked_mul(chunk_height)
            .is_none_or(|n| n > MAX_CHUNK)
        {
            return Err(bad(format!(
                "is cut into pieces of {chunk_width} x {chunk_height} px, more than memory should hold"
            )));
        }
        let (across, down) = (width.div_ceil(chunk_width), height.div_ceil(chunk_height));
        let lists = if tiled {
            (tag::TILE_OFFSETS, tag::TILE_BYTES)
        } else {
            (tag::STRIP_OFFSETS, tag::STRIP_BYTES)
        };
        let needed = across as u64 * down as u64;
        let list = |tag| directory.entry(tag).filter(|e| e.len() >= needed);
        let (Some(offsets), Some(lengths)) = (list(lists.0), list(lists.1)) else {
            return Err(bad(format!(
                "does not say where all its {needed} pieces are"
            )));
        };

        let unsupported = |what: String| {
            Error::file(
                source.path,
                &directory.name,
                what,
                "convert it to an 8-bit RGB TIFF, for example with `vips tiffsave --tile --pyramid`",
            )
        };
        let samples = number(tag::SAMPLES).unwrap_or(1);
        if let Some(bits) = directory.entry(tag::BITS) {
            let bits: Vec<_> = (0..bits.len().min(8))
                .map(|i| source.integer(bits, i))
                .collect();
            if bits.iter().any(|&b| b != Some(8)) {
                return Err(unsupported("has samples of other than 8 bits".into()));
            }
        } else {
            return Err(unsupported("has one bit a pixel".into()));
        }
        if samples > 1 && number(tag::PLANAR) == Some(2) {
            return Err(unsupported(
                "keeps its colours apart from each other".into(),
            ));
        }
        if number(tag::SAMPLE_FORMAT).is_some_and(|f| f != 1) {
            return Err(unsupported("has samples that are no whole numbers".into()));
        }
        let photometric = number(tag::PHOTOMETRIC);
        let colours = match (photometric, samples) {
            (Some(0), 1..=2) => Colours::GreyInverted,
            (Some(1) | None, 1..=2) => Colours::Grey,
            (Some(2) | None, 3..=4) => Colours::Rgb,
            (Some(6), 3) => Colours::YCbCr,
            (p, n) => {
                return Err(unsupported(format!(
                    "has {n} samples a pixel in the colours {p:?}"
                )));
            }
        };
        let compression = match number(tag::COMPRESSION).unwrap_or(1) {
            1 => Compression::None,
            5 => Compression::Lzw,
            7 => Compression::Jpeg,
            8 | 32946 => Compression::Deflate,
            33003 => Compression::Jpeg2000(Colours::YCbCr),
            33005 => Compression::Jpeg2000(Colours::Rgb),
            33007 | 34712 => Compression::Jpeg2000(colours),
            n => return Err(unsupported(format!("has the compression {n}"))),
        };
        let packed = matches!(
            compression,
            Compression::None | Compression::Lzw | Compression::Deflate
        );
        if packed && colours == Colours::YCbCr {
            return Err(unsupported("has YCbCr colours outside a JPEG".into()));
        }
        let differences = match number(tag::PREDICTOR).unwrap_or(1) {
            1 => false,
            2 if packed => compression != Compression::None,
            n => return Err(unsupported(format!("has the predictor {n}"))),
        };
        let tables = source.place(directory, tag::JPEG_TABLES);
        Ok(Self {
            name: directory.name.clone(),
            width,
            height,
            chunk_width,
            chunk_height,
            across,
            offsets,
            lengths,
            tiled,
            compression,
            colours,
            samples: samples as usize,
            differences,
            tables,
        })
    }

    /// Whether this is `main` at a lower resolution than `last`: labels and
    /// macro pictures have other proportions, thumbnails are not tiled.
    fn reduces(&self, main: &Self, last: &Self) -> bool {
        let ratio = main.width as f64 / self.width as f64;
        let expected = main.height as f64 / ratio;
        // Sides are rounded, up or down, at each halving.
        let slack = 2.0 + 0.005 * expected;
        self.width < last.width
            && self.tiled == main.tiled
            && (expected - self.height as f64).abs() <= slack
    }
}
