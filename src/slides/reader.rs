//! What a slide is to everything that reads from one, whoever made it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Rgb8;
use super::flat::Flat;
use super::openslide;
use super::tiff::{self, TiffSlide};
use crate::error::{Error, Result};

/// The most pixels that one call gives back: 768 MiB.
pub const MAX_REGION: usize = 1 << 28;

/// An open slide. Any number of threads may read from it at once.
pub trait Slide: Send + Sync {
    fn facts(&self) -> &Facts;

    /// `width` x `height` px of a level, from (x, y) in that level's own pixels.
    /// White where the region leaves the slide, and where the slide has a hole.
    ///
    /// # Errors
    /// No such level; a region above [`MAX_REGION`]; data that cannot be decoded.
    fn read_region(&self, level: usize, at: (i64, i64), size: (usize, usize)) -> Result<Rgb8>;

    /// A picture that comes with the slide: `label`, `macro`, `thumbnail`.
    ///
    /// # Errors
    /// No picture of this name; data that cannot be decoded.
    fn read_associated(&self, name: &str) -> Result<Rgb8>;

    /// The ICC profile of its colours, if it has one.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn profile(&self) -> Result<Option<Vec<u8>>>;
}

/// What a slide says of itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Facts {
    pub path: PathBuf,
    /// Whose scanner or program wrote it, as far as it tells.
    pub vendor: String,
    /// What decodes it: `eosin`, or OpenSlide with its version.
    pub reader: String,
    /// From the finest on; at least one.
    pub levels: Vec<Level>,
    /// Statements on micrometres per pixel of level 0, in the order in which
    /// they are believed.
    pub claims: Vec<Claim>,
    /// The objective's power, where it is stated. Never used as a scale.
    pub magnification: Option<f64>,
    pub associated: Vec<Associated>,
    /// Pictures in the file that cannot be read, and why.
    pub unread: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Level {
    pub width: usize,
    pub height: usize,
    /// Pixels of level 0 to one of this level, along a side.
    pub downsample: f64,
    /// Width and height of what is decoded at once, where that is known.
    pub tile: Option<(usize, usize)>,
    pub compression: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// Where the slide says so.
    pub source: String,
    /// Micrometres per pixel.
    pub x: f64,
    pub y: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Associated {
    pub name: String,
    pub width: usize,
    pub height: usize,
}

/// Extensions of kinds that only OpenSlide reads.
const FOREIGN: [&str; 9] = [
    "ndpi", "vms", "vmu", "scn", "mrxs", "svslide", "bif", "czi", "dcm",
];
/// Extensions of what is read here.
const OWN: [&str; 7] = ["svs", "tif", "tiff", "btf", "jpg", "jpeg", "png"];

fn extension(path: &Path) -> String {
    let extension = path.extension().unwrap_or_default();
    extension.to_string_lossy().to_ascii_lowercase()
}

/// Whether the name of a file says that it may be a slide.
pub fn names_slide(path: &Path) -> bool {
    let extension = extension(path);
    let known = |list: &[&str]| list.contains(&extension.as_str());
    known(&OWN) || known(&FOREIGN)
}

/// Whether a file is a slide rather than another image: it is a TIFF, or of a
/// kind that OpenSlide reads.
///
/// # Errors
/// A file that cannot be read.
pub fn is_slide(path: &Path) -> Result<bool> {
    Ok(FOREIGN.contains(&extension(path).as_str()) || tiff::is_tiff(&head(path)?))
}

/// Opens a slide of any kind: by its content, save that a folder-like format
/// (MIRAX) is known by its name alone.
///
/// # Errors
/// A file that cannot be read or is damaged; a kind that only OpenSlide reads
/// where OpenSlide is not installed.
pub fn open(path: impl AsRef<Path>) -> Result<Box<dyn Slide>> {
    let path = path.as_ref();
    if FOREIGN.contains(&extension(path).as_str()) {
        return Ok(Box::new(openslide::Foreign::open(path, "its name")?));
    }
    let head = head(path)?;
    if !tiff::is_tiff(&head) {
        return match Flat::open(path) {
            Ok(flat) => Ok(Box::new(flat)),
            Err(e) if head.starts_with(b"\xff\xd8") || head.starts_with(b"\x89PNG") => Err(e),
            Err(_) => Err(Error::file(
                path,
                "",
                "is no slide that is known here: neither TIFF nor JPEG nor PNG",
                "give an SVS, TIFF or OME-TIFF file, or convert it to one",
            )),
        };
    }
    match TiffSlide::open(path)? {
        tiff::Opened::Slide(slide) => Ok(Box::new(*slide)),
        tiff::Opened::Foreign(vendor) => Ok(Box::new(openslide::Foreign::open(path, vendor)?)),
    }
}

fn head(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let fail = |e| Error::io("read", path, e);
    let file = std::fs::File::open(path).map_err(fail)?;
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(Error::file(
            path,
            "",
            "is not a file",
            "give the path of a slide",
        ));
    }
    let mut head = Vec::new();
    file.take(16).read_to_end(&mut head).map_err(fail)?;
    Ok(head)
}

/// That a level exists and a region is in bounds; gives the level.
///
/// # Errors
/// Neither is so.
pub(super) fn check_region(
    facts: &Facts,
    level: usize,
    (width, height): (usize, usize),
) -> Result<&Level> {
    let Some(found) = facts.levels.get(level) else {
        return Err(Error::usage(
            format!("{} has no level {level}", facts.path.display()),
            format!("it has {}, counted from 0", facts.levels.len()),
        ));
    };
    let pixels = width.checked_mul(height);
    if width == 0 || height == 0 || pixels.is_none_or(|n| n > MAX_REGION) {
        return Err(Error::usage(
            format!("a region of {width} x {height} px cannot be read at once"),
            format!("read between 1 and {MAX_REGION} px at a time"),
        ));
    }
    Ok(found)
}

/// A white picture.
pub(super) fn white(width: usize, height: usize) -> Rgb8 {
    Rgb8 {
        width,
        height,
        data: vec![255; width * height * 3],
    }
}

/// Copies what two pictures share: `from` has its corner at `(x, y)` of `to`.
pub(super) fn blit(
    to: &mut Rgb8,
    from: &Rgb8,
    (x, y): (i64, i64),
    (width, height): (usize, usize),
) {
    let span = |at: i64, len: usize, bound: usize| {
        let first = at.clamp(0, bound as i64);
        let last = at.saturating_add(len as i64).clamp(first, bound as i64);
        (
            first as usize,
            (last - first) as usize,
            (first - at) as usize,
        )
    };
    let (left, wide, skip_x) = span(x, width.min(from.width), to.width);
    let (top, high, skip_y) = span(y, height.min(from.height), to.height);
    if wide == 0 {
        return;
    }
    for row in 0..high {
        let source = ((skip_y + row) * from.width + skip_x) * 3;
        let target = ((top + row) * to.width + left) * 3;
        to.data[target..target + wide * 3].copy_from_slice(&from.data[source..source + wide * 3]);
    }
}
