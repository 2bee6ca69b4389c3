//! A plain JPEG or PNG as a slide of one level. It never says its scale.

use std::path::Path;
use std::sync::OnceLock;

use super::reader::{Facts, Level, Slide, blit, check_region, white};
use super::{Rgb8, image};
use crate::error::{Error, Result};

/// Decoded whole when the first region is read.
pub struct Flat {
    facts: Facts,
    pixels: OnceLock<std::result::Result<Rgb8, String>>,
}

impl Flat {
    /// # Errors
    /// As [`image::dimensions`].
    pub fn open(path: &Path) -> Result<Self> {
        let (width, height) = image::dimensions(path)?;
        let facts = Facts {
            path: path.to_path_buf(),
            vendor: "plain image".into(),
            reader: "eosin".into(),
            levels: vec![Level {
                width,
                height,
                downsample: 1.0,
                tile: None,
                compression: None,
            }],
            claims: Vec::new(),
            magnification: None,
            associated: Vec::new(),
            unread: Vec::new(),
        };
        Ok(Self {
            facts,
            pixels: OnceLock::new(),
        })
    }
}

impl Slide for Flat {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn read_region(&self, level: usize, (x, y): (i64, i64), size: (usize, usize)) -> Result<Rgb8> {
        check_region(&self.facts, level, size)?;
        let path = &self.facts.path;
        let pixels = self
            .pixels
            .get_or_init(|| image::read(path).map_err(|e| e.to_string()));
        let pixels = pixels
            .as_ref()
            .map_err(|e| Error::usage(e.clone(), "nothing can be read from it"))?;
        let mut region = white(size.0, size.1);
        let corner = (x.saturating_neg(), y.saturating_neg());
        blit(&mut region, pixels, corner, (pixels.width, pixels.height));
        Ok(region)
    }

    fn profile(&self) -> Result<Option<Vec<u8>>> {
        image::profile(&self.facts.path)
    }

    fn read_associated(&self, name: &str) -> Result<Rgb8> {
        Err(no_such(&self.facts, name))
    }
}

/// The error for a picture that a slide does not have.
pub(super) fn no_such(facts: &Facts, name: &str) -> Error {
    let names: Vec<&str> = facts.associated.iter().map(|a| a.name.as_str()).collect();
    Error::usage(
        format!("{} has no picture `{name}`", facts.path.display()),
        format!("it has {names:?}"),
    )
}
