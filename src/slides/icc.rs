//! Colour profiles (ICC): what a scanner's levels mean, and levels of sRGB in their place.
//!
//! Scanners of two makes give one tissue two colours, and say in the profile which. A
//! profile is applied on request only: coordinates do not change, levels do, so that a
//! network must be shown tiles treated as in its training.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use moxcms::{ColorProfile, DataColorSpace, Layout, Transform8BitExecutor, TransformOptions};

use super::image::caught;
use super::reader::{Facts, Slide};
use super::{Rgb8, image};
use crate::error::{Error, Result};
use crate::formats::hash::sha256_bytes;

/// Bytes that a profile may have; those of printers have a few million.
const MAX_PROFILE: usize = 16 << 20;

/// From the colours of one profile to sRGB, perceptually.
#[derive(Clone)]
pub struct Transform {
    executor: Arc<Transform8BitExecutor>,
    /// Of the profile.
    sha256: String,
}

impl fmt::Debug for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transform({})", self.sha256)
    }
}

impl PartialEq for Transform {
    fn eq(&self, other: &Self) -> bool {
        self.sha256 == other.sha256
    }
}

impl Transform {
    /// Of the profile `icc`, which was found in the file at `path`.
    ///
    /// # Errors
    /// A profile that is damaged, or of other colours than red, green and blue.
    pub fn new(path: &Path, icc: &[u8]) -> Result<Self> {
        let refuse = |problem: String| {
            Error::file(
                path,
                "its ICC profile",
                problem,
                "take the image without its profile (no --icc), or export it in sRGB",
            )
        };
        if icc.len() > MAX_PROFILE {
            return Err(refuse(format!("is {} bytes long", icc.len())));
        }
        let made = caught(|| {
            let profile = ColorProfile::new_from_slice(icc).map_err(|e| e.to_string())?;
            if profile.color_space != DataColorSpace::Rgb {
                return Err(format!(
                    "is of the colours {:?}, not RGB",
                    profile.color_space
                ));
            }
            let options = TransformOptions {
                // Results depend on levels alone, and these are 8 bits.
                prefer_fixed_point: false,
                ..TransformOptions::default()
            };
            profile
                .create_transform_8bit(Layout::Rgb, &ColorProfile::new_srgb(), Layout::Rgb, options)
                .map_err(|e| e.to_string())
        });
        let executor = made.map_err(|problem| refuse(format!("cannot be applied ({problem})")))?;
        Ok(Self {
            executor,
            sha256: sha256_bytes(icc),
        })
    }

    /// SHA-256 of the profile.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Turns levels into those of sRGB.
    ///
    /// # Errors
    /// An image whose data do not fit its size.
    pub fn apply(&self, image: &mut Rgb8) -> Result<()> {
        image.check("icc")?;
        // A line at a time, through memory that stays in the cache.
        let mut line = vec![0; image.width * 3];
        for row in image.data.chunks_exact_mut(image.width * 3) {
            caught(|| {
                self.executor
                    .transform(row, &mut line)
                    .map_err(|e| e.to_string())
            })
            .map_err(|e| Error::op("icc", format!("the profile cannot be applied: {e}")))?;
            row.copy_from_slice(&line);
        }
        Ok(())
    }
}

/// What is done about an image's profile.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Colours {
    /// Levels are taken as stored, profile or not.
    #[default]
    AsStored,
    /// There is none, so levels are taken as stored.
    Unprofiled,
    Corrected(Arc<Transform>),
}

impl Colours {
    /// What to do with the JPEG or PNG at `path` when profiles are to be applied.
    ///
    /// # Errors
    /// A file that cannot be read; a profile that cannot be applied.
    pub fn of(path: &Path) -> Result<Self> {
        Ok(match image::profile(path)? {
            None => Self::Unprofiled,
            Some(icc) => Self::Corrected(Arc::new(Transform::new(path, &icc)?)),
        })
    }
}

/// A slide in the colours of sRGB. Its label and other pictures are left as they are, and
/// the white beyond its edge is turned like its own.
struct Corrected {
    slide: Box<dyn Slide>,
    transform: Transform,
}

impl Slide for Corrected {
    fn facts(&self) -> &Facts {
        self.slide.facts()
    }

    fn read_region(&self, level: usize, at: (i64, i64), size: (usize, usize)) -> Result<Rgb8> {
        let mut region = self.slide.read_region(level, at, size)?;
        self.transform.apply(&mut region)?;
        Ok(region)
    }

    fn read_associated(&self, name: &str) -> Result<Rgb8> {
        self.slide.read_associated(name)
    }

    /// It was applied.
    fn profile(&self) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

/// The slide in the colours of sRGB, with the SHA-256 of its profile; as it is and
/// without where it has none.
///
/// # Errors
/// A profile that cannot be read or applied.
pub fn corrected(slide: Box<dyn Slide>) -> Result<(Box<dyn Slide>, Option<String>)> {
    let Some(icc) = slide.profile()? else {
        return Ok((slide, None));
    };
    let transform = Transform::new(&slide.facts().path, &icc)?;
    let sha256 = transform.sha256().to_owned();
    Ok((Box::new(Corrected { slide, transform }), Some(sha256)))
}
