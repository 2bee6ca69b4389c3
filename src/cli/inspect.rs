//! `eosin inspect`: what is in a file; of a slide, its levels and its scale.

use serde::Serialize;

use super::{InspectArgs, console};
use crate::error::Result;
use crate::formats;
use crate::slides::reader::{Facts, is_slide};
use crate::slides::scale::{self, Scale};
use crate::slides::{self, image, overview};

/// Longer side of a thumbnail.
const THUMBNAIL_PX: usize = 1024;

/// A part of a level.
#[derive(Clone, Copy)]
pub struct Region {
    level: usize,
    at: (i64, i64),
    size: (usize, usize),
}

/// Five whole numbers with commas between them.
pub fn region(text: &str) -> Result<Region, String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let parsed = match parts[..] {
        [level, x, y, width, height] => (|| {
            Some(Region {
                level: level.parse().ok()?,
                at: (x.parse().ok()?, y.parse().ok()?),
                size: (width.parse().ok()?, height.parse().ok()?),
            })
        })(),
        _ => None,
    };
    parsed.ok_or_else(|| "a region is LEVEL,X,Y,WIDTH,HEIGHT, such as 0,1000,2000,256,256".into())
}

#[derive(Serialize)]
struct SlideFound<'a> {
    #[serde(flatten)]
    facts: &'a Facts,
    scale: Option<Scale>,
    /// Why there is no scale.
    refusal: Option<String>,
}

pub fn inspect(args: &InspectArgs, json: bool) -> Result<()> {
    if args.thumbnail.is_none() && !is_slide(&args.file)? {
        let found = formats::inspect(&args.file)?;
        return console::print(json, &found, &found.to_string());
    }
    let slide = slides::open(&args.file)?;
    if let Some(path) = &args.thumbnail {
        let picture = match args.region {
            Some(Region { level, at, size }) => slide.read_region(level, at, size)?,
            None => overview::thumbnail(&*slide, THUMBNAIL_PX)?,
        };
        let main = &slide.facts().levels[0];
        let downsample = match args.region {
            Some(region) => slide.facts().levels[region.level].downsample,
            None => main.width as f64 / picture.width as f64,
        };
        let known = scale::of(slide.facts(), None).ok();
        let mpp = known.map(|scale| format!("{:.4}", scale.mpp * downsample));
        let said: Vec<(&str, &str)> = (mpp.iter()).map(|mpp| (image::MPP, &mpp[..])).collect();
        image::write_png(path, &picture, &said)?;
    }
    let facts = slide.facts();
    let (scale, refusal) = match scale::of(facts, None) {
        Ok(scale) => (Some(scale), None),
        Err(e) => (None, Some(e.to_string())),
    };
    let found = SlideFound {
        facts,
        scale,
        refusal,
    };
    console::print(json, &found, &text(&found))
}

fn text(found: &SlideFound) -> String {
    let facts = found.facts;
    let mut lines = vec![
        format!("file        {}", facts.path.display()),
        format!(
            "is          a slide: {}, read by {}",
            facts.vendor, facts.reader
        ),
    ];
    lines.push(match (&found.scale, &found.refusal) {
        (Some(scale), _) => format!("mpp         {:.4} (from {})", scale.mpp, scale.source),
        (None, refusal) => format!("mpp         unknown: {}", refusal.as_deref().unwrap_or("")),
    });
    if let Some(power) = facts.magnification {
        lines.push(format!("objective   {power}x"));
    }
    for (i, level) in facts.levels.iter().enumerate() {
        let mut line = format!(
            "level {i:<5} {} x {} px, downsample {:.3}",
            level.width, level.height, level.downsample
        );
        if let Some((width, height)) = level.tile {
            line += &format!(", pieces of {width} x {height}");
        }
        if let Some(compression) = level.compression {
            line += &format!(", {compression}");
        }
        lines.push(line);
    }
    for picture in &facts.associated {
        let name = picture.name.escape_debug();
        lines.push(format!(
            "picture     {name}, {} x {} px",
            picture.width, picture.height
        ));
    }
    for problem in &facts.unread {
        lines.push(format!("unread      {}", problem.escape_debug()));
    }
    lines.join("\n")
}
