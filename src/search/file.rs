//! The index as a file.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::formats::atomic::write_atomically;

const MAGIC: &[u8; 8] = b"EOSINIDX";
const VERSION: u32 = 1;
const ALIGN: usize = 64;
/// Numbers of a vector beside its elements.
pub(super) const FACTS: usize = 4;

/// What near means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// 1 - cosine of the angle
    Cosine,
    /// Euclidean distance
    L2,
}

/// A slide and its vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub slide: String,
    /// Slides of one patient do not vote for each other.
    pub patient: String,
    /// What a vote decides.
    pub label: Option<String>,
    /// Its vectors are `first..first + count`.
    pub first: usize,
    pub count: usize,
}

impl Entry {
    pub fn vectors(&self) -> Range<usize> {
        self.first..self.first + self.count
    }
}

/// What an index is made of.
pub struct Vectors<'a> {
    pub width: usize,
    /// (vectors, width), row-major.
    pub values: &'a [f32],
    /// Slides in the order of their vectors, which they cover without a gap.
    pub entries: &'a [Entry],
}

/// An index that is open for searching.
pub struct Index {
    pub metric: Metric,
    pub width: usize,
    pub vectors: usize,
    pub entries: Vec<Entry>,
    path: PathBuf,
    map: Mmap,
    parts: Parts,
}

/// Where the parts of a file lie.
struct Parts {
    facts: Range<usize>,
    halves: Range<usize>,
    singles: Range<usize>,
    names: Range<usize>,
}

impl Parts {
    /// `None` where the sizes overflow.
    fn of(width: usize, vectors: usize, names: usize) -> Option<Self> {
        let after = |start: usize, bytes: usize| -> Option<Range<usize>> {
            let start = start.checked_next_multiple_of(ALIGN)?;
            Some(start..start.checked_add(bytes)?)
        };
        let elements = vectors.checked_mul(width)?;
        let facts = after(ALIGN, vectors.checked_mul(4 * FACTS)?)?;
        let halves = after(facts.end, elements.checked_mul(2)?)?;
        let singles = after(halves.end, elements.checked_mul(4)?)?;
        let names = after(singles.end, names)?;
        Some(Self {
            facts,
            halves,
            singles,
            names,
        })
    }
}

/// A vector as it is stored: scaled to unit length for the cosine.
pub(super) fn prepared(metric: Metric, vector: &[f32]) -> Vec<f32> {
    match metric {
        Metric::L2 => vector.to_vec(),
        Metric::Cosine => {
            let length = length(vector);
            (vector.iter())
                .map(|&v| (f64::from(v) / length) as f32)
                .collect()
        }
    }
}

pub(super) fn length(vector: &[f32]) -> f64 {
    vector
        .iter()
        .map(|&v| f64::from(v).powi(2))
        .sum::<f64>()
        .sqrt()
}

/// A number that is not below `v`.
pub(super) fn at_least(v: f64) -> f32 {
    (v as f32).next_up()
}

/// The half precision of a vector, its scale, and a bound on what was lost.
fn halved(vector: &[f32]) -> (Vec<f16>, f32, f32) {
    let largest = vector.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    // A power of two, so that scaling loses nothing.
    let exponent = if largest > 0.0 {
        largest.log2().floor() as i32 + 1
    } else {
        0
    };
    let scale = 2f32.powi(exponent.clamp(-100, 120));
    let halves: Vec<f16> = vector.iter().map(|v| f16::from_f32(v / scale)).collect();
    let lost = (vector.iter().zip(&halves))
        .map(|(v, h)| (f64::from(*v) - f64::from(h.to_f32()) * f64::from(scale)).powi(2))
        .sum::<f64>();
    (halves, scale, at_least(lost.sqrt()))
}

/// Writes an index, whole or not at all.
///
/// # Errors
/// No vectors; entries that do not cover them; a slide that stands twice; a value that
/// is not finite, or a vector of zeros, which has no direction, for the cosine.
pub fn write(path: impl AsRef<Path>, metric: Metric, data: &Vectors) -> Result<()> {
    let path = path.as_ref();
    let width = data.width;
    let usage = |problem: String| Error::usage(problem, "give a vector or several for each slide");
    if width == 0 || data.values.is_empty() || !data.values.len().is_multiple_of(width) {
        return Err(usage(format!(
            "{} values are no vectors of {width}",
            data.values.len()
        )));
    }
    let vectors = data.values.len() / width;
    let mut next = 0;
    let mut seen = std::collections::HashSet::new();
    for entry in data.entries {
        if entry.first != next || entry.count == 0 {
            return Err(usage(format!(
                "slide {} has no vectors of its own",
                entry.slide
            )));
        }
        if !seen.insert(&entry.slide) {
            return Err(usage(format!("slide {} stands twice", entry.slide)));
        }
        next += entry.count;
    }
    if next != vectors {
        return Err(usage(format!("slides have {next} of {vectors} vectors")));
    }
    for entry in data.entries {
        for vector in
            data.values[entry.first * width..(entry.first + entry.count) * width].chunks(width)
        {
            let length = length(vector);
            if !length.is_finite() || (metric == Metric::Cosine && length == 0.0) {
                let problem = if length == 0.0 {
                    "only zeros"
                } else {
                    "a value that is not finite"
                };
                return Err(usage(format!(
                    "a vector of slide {} has {problem}",
                    entry.slide
                )));
            }
        }
    }
    let names = serde_json::to_vec(data.entries)
        .map_err(|e| Error::usage(format!("no names: {e}"), "report this"))?;
    let parts = Parts::of(width, vectors, names.len())
        .ok_or_else(|| usage("there are too many vectors".to_owned()))?;
    write_atomically(path, |out| {
        let mut at = 0;
        let mut put = |start: usize, bytes: &[u8]| -> Result<()> {
            let fail = |e| Error::io("write", path, e);
            // Only between parts, so less than ALIGN.
            out.write_all(&vec![0; start.saturating_sub(at)])
                .map_err(fail)?;
            out.write_all(bytes).map_err(fail)?;
            at = start + bytes.len();
            Ok(())
        };
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((metric as u32).to_le_bytes());
        for size in [width, vectors, names.len()] {
            header.extend((size as u64).to_le_bytes());
        }
        put(0, &header)?;
        let rows = || data.values.chunks(width).map(|v| prepared(metric, v));
        for (i, vector) in rows().enumerate() {
            let (_, scale, lost) = halved(&vector);
            let facts = [scale, lost, at_least(length(&vector)), 0.0];
            put(
                parts.facts.start + i * 4 * FACTS,
                bytemuck::cast_slice(&facts),
            )?;
        }
        for (i, vector) in rows().enumerate() {
            let (halves, _, _) = halved(&vector);
            put(
                parts.halves.start + i * 2 * width,
                bytemuck::cast_slice(halves.reinterpret_cast()),
            )?;
        }
        for (i, vector) in rows().enumerate() {
            put(
                parts.singles.start + i * 4 * width,
                bytemuck::cast_slice(&vector),
            )?;
        }
        put(parts.names.start, &names)
    })
}

impl Index {
    /// Maps an index; `width` is what the vectors to be looked for have, if known.
    ///
    /// # Errors
    /// No index, or one of another version or width; a file that is cut short; names
    /// that do not fit the vectors.
    pub fn open(path: impl AsRef<Path>, width: Option<usize>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        // SAFETY: the map is only read; that nobody truncates the file meanwhile is the
        // caller's part, as for every file here.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let remedy = "build it again with `eosin index build`";
        let refuse = |problem: String| Error::file(path, "", problem, remedy);
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(map.get(at..at + 4)?.try_into().ok()?))
        };
        let size = |at: usize| -> Option<usize> {
            let bytes = map.get(at..at + 8)?.try_into().ok()?;
            usize::try_from(u64::from_le_bytes(bytes)).ok()
        };
        if !map.starts_with(MAGIC) {
            return Err(refuse("is not an index".to_owned()));
        }
        match word(8) {
            Some(VERSION) => {}
            Some(other) => {
                return Err(refuse(format!(
                    "is an index of version {other}, this eosin reads {VERSION}"
                )));
            }
            None => return Err(refuse("is cut short".to_owned())),
        }
        let metric = match word(12) {
            Some(0) => Metric::Cosine,
            Some(1) => Metric::L2,
            _ => return Err(refuse("has a metric that is not known".to_owned())),
        };
        let sizes = (size(16), size(24), size(32));
        let (Some(stored), Some(vectors), Some(names)) = sizes else {
            return Err(refuse("is cut short".to_owned()));
        };
        if let Some(width) = width.filter(|w| *w != stored) {
            return Err(Error::file(
                path,
                "",
                format!("holds vectors of {stored}, and {width} are looked for"),
                "search with vectors of the model that the index was built with",
            ));
        }
        let parts = Parts::of(stored, vectors, names).filter(|parts| parts.names.end == map.len());
        let parts = parts.filter(|_| stored > 0 && vectors > 0);
        let parts = parts.ok_or_else(|| refuse("is cut short or damaged".to_owned()))?;
        let entries: Vec<Entry> =
            serde_json::from_slice(map.get(parts.names.clone()).unwrap_or_default())
                .map_err(|e| refuse(format!("has damaged names ({e})")))?;
        let mut next = 0usize;
        for entry in &entries {
            if entry.first != next || entry.count == 0 {
                return Err(refuse(format!("has no vectors for slide {}", entry.slide)));
            }
            next = next
                .checked_add(entry.count)
                .ok_or_else(|| refuse("is damaged".to_owned()))?;
        }
        if next != vectors {
            return Err(refuse(format!(
                "names slides for {next} of {vectors} vectors"
            )));
        }
        // Pages that are in memory already are mapped at once: one by one, the first query
        // would take twice the time of the others. Where the system cannot, it does.
        #[cfg(target_os = "linux")]
        let _ = map.advise_range(
            Advice::PopulateRead,
            parts.facts.start,
            parts.halves.end - parts.facts.start,
        );
        Ok(Self {
            metric,
            width: stored,
            vectors,
            entries,
            path: path.to_path_buf(),
            parts,
            map,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Parts start at multiples of 64 in a map that starts at a page, and their lengths
    /// were checked: these cannot fail.
    fn part<T: bytemuck::AnyBitPattern>(&self, part: &Range<usize>) -> &[T] {
        let bytes = self.map.get(part.clone()).unwrap_or_default();
        bytemuck::try_cast_slice(bytes).unwrap_or_default()
    }

    /// (vectors, [`FACTS`])
    pub(super) fn facts(&self) -> &[f32] {
        self.part(&self.parts.facts)
    }

    pub(super) fn halves(&self) -> &[f16] {
        HalfBits::cast(self.part(&self.parts.halves))
    }

    /// A vector in single precision.
    pub fn vector(&self, i: usize) -> &[f32] {
        self.rows(i..i + 1)
    }

    /// The vectors of a slide, row-major.
    pub fn bag(&self, entry: &Entry) -> &[f32] {
        self.rows(entry.vectors())
    }

    /// Several vectors, row-major.
    pub(super) fn rows(&self, vectors: Range<usize>) -> &[f32] {
        let all: &[f32] = self.part(&self.parts.singles);
        all.get(vectors.start * self.width..vectors.end * self.width)
            .unwrap_or_default()
    }

    /// The square of a vector's length.
    pub(super) fn square(&self, vector: usize) -> f64 {
        length(self.vector(vector)).powi(2)
    }
}

struct HalfBits;

impl HalfBits {
    fn cast(bits: &[u16]) -> &[f16] {
        use half::slice::HalfBitsSliceExt;
        bits.reinterpret_cast()
    }
}
