//! Folders in the layout of her2st (Andersson et al. 2021): spatial
//! transcriptomics sections with full-resolution images.
//!
//! ```text
//! ST-imgs/<P>/<S>/*.jpg                one image of section S of patient P
//! ST-spotfiles/<S>_selection.tsv       x y ... pixel_x pixel_y [selected]
//! ST-cnts/<S>.tsv.gz or .tsv           spots x genes, rows `<x>x<y>`
//! ```
//!
//! A spot's identity is its place on the array, `<x>x<y>`, both rounded to the
//! nearest whole number and halves to the even one, as numpy rounds. Spot file
//! and counts are joined on it; what stands in one of them only is skipped and
//! named. (Of 14 published sections looked at, every row of counts has its spot,
//! and 14 spots in all have no counts.)
//!
//! `selected` is the spot detector's word on whether a spot lies under tissue:
//! spots with 0 are skipped. Published spot files hold selected spots only, and
//! files without the column count as that.
//!
//! Counts of a gene that a section's table lacks are zero: the pipelines that
//! write these tables leave out genes never seen in a section.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::spots::{self, Section, Spot};
use super::{Cohort, Skipped, SourceImage, entries, name, names_image};
use crate::error::{Error, Result};
use crate::expression::{Orientation, table};
use crate::slides::tile;

pub use super::spots::{MergeGenes, Options, Unit};

/// Micrometres from a spot to the next in its row or column (Ståhl et al. 2016).
pub const PITCH_UM: f64 = 200.0;

/// Reads the folder `root`. Samples are named `<S>` or `<S>_<x>x<y>`, in the
/// order of the sections' names and of the spot files.
///
/// # Errors
/// A folder that lacks `ST-imgs` or has no section; a section that is unknown,
/// named twice or (when named) incomplete; a section whose letters and folder
/// disagree on the patient; spot files and counts that cannot be read (as
/// [`table::read`]); options that have no meaning; no sample left.
pub fn read(root: impl AsRef<Path>, options: &Options) -> Result<Cohort> {
    let root = root.as_ref();
    spots::check(options)?;
    let folders = section_folders(root)?;
    let chosen = choose(&folders, &options.sections, root)?;
    let outcomes = chosen
        .par_iter()
        .map(|folder| read_section(root, folder, options))
        .collect::<Vec<_>>();

    let mut sections = Vec::new();
    let mut skipped = Vec::new();
    for (folder, outcome) in chosen.iter().zip(outcomes) {
        match outcome? {
            Outcome::Read(mut section) => {
                skipped.append(&mut section.skipped);
                sections.push(*section);
            }
            Outcome::Incomplete(why) if options.sections.is_empty() => skipped.push(Skipped {
                what: format!("section {}", folder.section),
                why,
            }),
            Outcome::Incomplete(why) => {
                return Err(Error::usage(
                    format!("section {} cannot be used: {why}", folder.section),
                    "complete it or leave it out of `sections`",
                ));
            }
        }
    }
    if options.sections.is_empty() && options.counts {
        skipped.extend(counts_without_image(root, &folders)?);
    }

    spots::cohort(sections, options, skipped)
}

/// `ST-imgs/<P>/<S>`.
struct Folder {
    section: String,
    patient: String,
    path: PathBuf,
}

fn section_folders(root: &Path) -> Result<Vec<Folder>> {
    let images = root.join("ST-imgs");
    if !images.is_dir() {
        return Err(Error::file(
            root,
            "",
            "has no folder ST-imgs",
            "give a folder in her2st layout: ST-imgs/<patient>/<section>/*.jpg, ST-spotfiles, ST-cnts",
        ));
    }
    let mut folders = Vec::new();
    for patient in entries(&images)?.into_iter().filter(|p| p.is_dir()) {
        for path in entries(&patient)?.into_iter().filter(|p| p.is_dir()) {
            let section = name(&path);
            let letters: String = section
                .chars()
                .take_while(char::is_ascii_alphabetic)
                .collect();
            if letters != name(&patient) {
                return Err(Error::file(
                    &path,
                    "",
                    format!(
                        "section {section} lies in the folder of patient {}, which leaves open whose it is",
                        name(&patient)
                    ),
                    "name sections by the patient's letters and a number, as in ST-imgs/C/C2",
                ));
            }
            folders.push(Folder {
                section,
                patient: letters,
                path,
            });
        }
    }
    if folders.is_empty() {
        return Err(Error::file(
            images,
            "",
            "has no section",
            "put images into ST-imgs/<patient>/<section>/",
        ));
    }
    Ok(folders)
}

/// The sections asked for, in the order of the folders.
fn choose<'a>(folders: &'a [Folder], wanted: &[String], root: &Path) -> Result<Vec<&'a Folder>> {
    if wanted.is_empty() {
        return Ok(folders.iter().collect());
    }
    let mut seen = HashSet::new();
    for section in wanted {
        if !seen.insert(section.as_str()) {
            return Err(Error::usage(
                format!("section {section} is named twice"),
                "name each section once",
            ));
        }
        if !folders.iter().any(|f| f.section == *section) {
            let known: Vec<_> = folders.iter().map(|f| f.section.as_str()).collect();
            return Err(Error::usage(
                format!("there is no section {section} in {}", root.display()),
                format!("choose from {}", known.join(" ")),
            ));
        }
    }
    Ok(folders
        .iter()
        .filter(|f| seen.contains(f.section.as_str()))
        .collect())
}

fn counts_without_image(root: &Path, folders: &[Folder]) -> Result<Vec<Skipped>> {
    let counts = root.join("ST-cnts");
    if !counts.is_dir() {
        return Ok(Vec::new());
    }
    Ok(entries(&counts)?
        .iter()
        .filter_map(|path| {
            let file = name(path);
            let section = file.strip_suffix(".tsv.gz").or(file.strip_suffix(".tsv"))?;
            let known = folders.iter().any(|f| f.section == section);
            (!known).then(|| Skipped {
                what: format!("section {section}"),
                why: "it has counts but no image".to_string(),
            })
        })
        .collect())
}

enum Outcome {
    Read(Box<Section>),
    /// Something is absent, so that there is no such section to speak of.
    Incomplete(String),
}

fn read_section(root: &Path, folder: &Folder, options: &Options) -> Result<Outcome> {
    let section = &folder.section;
    let mut images: Vec<PathBuf> = entries(&folder.path)?
        .into_iter()
        .filter(|p| names_image(p))
        .collect();
    let image = match (images.pop(), images.is_empty()) {
        (Some(image), true) => image,
        (None, _) => return Ok(Outcome::Incomplete("it has no image".to_string())),
        (Some(_), false) => {
            return Ok(Outcome::Incomplete(format!(
                "it has {} images in {}, which leaves open to which its spots belong",
                images.len() + 1,
                folder.path.display()
            )));
        }
    };
    let image = match SourceImage::open(image) {
        Ok(image) => image,
        Err(e) => return Ok(Outcome::Incomplete(e.to_string())),
    };
    let spots = root
        .join("ST-spotfiles")
        .join(format!("{section}_selection.tsv"));
    if !spots.is_file() {
        return Ok(Outcome::Incomplete(format!(
            "{} is missing",
            spots.display()
        )));
    }
    let mut counts = None;
    if options.counts {
        let folder = root.join("ST-cnts");
        let files = ["tsv.gz", "tsv"].map(|end| folder.join(format!("{section}.{end}")));
        counts = files.iter().find(|f| f.is_file()).cloned();
        if counts.is_none() {
            return Ok(Outcome::Incomplete(format!(
                "its counts {} are missing",
                files[0].display()
            )));
        }
    }
    let files = SectionFiles {
        name: section.clone(),
        patient: folder.patient.clone(),
        image: image.path.clone(),
        spots,
        counts,
    };
    Ok(Outcome::Read(Box::new(join(files, image, options)?)))
}

/// The files of one section, wherever they lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionFiles {
    pub name: String,
    pub patient: String,
    pub image: PathBuf,
    /// Columns x, y, pixel_x, pixel_y.
    pub spots: PathBuf,
    /// Spots x genes, for spots that are known.
    pub counts: Option<PathBuf>,
}

/// One section from its files. `options.sections` and `options.counts` are not used.
///
/// # Errors
/// As [`read`].
pub fn section(files: SectionFiles, options: &Options) -> Result<Cohort> {
    spots::check(options)?;
    let options = Options {
        counts: files.counts.is_some(),
        ..options.clone()
    };
    let image = SourceImage::open(files.image.clone())?;
    let mut section = join(files, image, &options)?;
    let skipped = std::mem::take(&mut section.skipped);
    spots::cohort(vec![section], &options, skipped)
}

/// Reads spots and counts and joins them.
fn join(files: SectionFiles, image: SourceImage, options: &Options) -> Result<Section> {
    let section = &files.name;
    let lines = read_spots(&files.spots)?;
    let tile_px = match options.spot_um {
        Some(um) => pixels(um, &lines, &files.spots)?,
        None => options.spot_px,
    };
    let image = SourceImage {
        mpp: scale(&lines),
        ..image
    };
    let counts = match &files.counts {
        Some(file) => {
            let ids: Vec<String> = lines.iter().map(|line| line.id.clone()).collect();
            Some(table::read_for(file, Orientation::Auto, &ids)?)
        }
        None => None,
    };

    let rows: HashMap<&str, usize> = counts
        .iter()
        .flat_map(|table| table.samples.iter().enumerate())
        .map(|(row, id)| (id.as_str(), row))
        .collect();
    let mut skipped = Vec::new();
    let mut skip = |id: &str, why: String| {
        skipped.push(Skipped {
            what: format!("section {section}, spot {id}"),
            why,
        });
    };
    let mut spots = Vec::with_capacity(lines.len());
    let mut in_spot_file = HashSet::with_capacity(lines.len());
    for line in lines {
        let row = rows.get(line.id.as_str()).copied();
        let placed = tile::place((image.width, image.height), line.pixel, tile_px);
        if !line.selected {
            skip(&line.id, "it is not selected as lying under tissue".into());
        } else if let Err(e) = placed {
            skip(&line.id, e.to_string());
        } else {
            if options.counts && row.is_none() {
                skip(&line.id, "it has no counts".into());
            }
            spots.push(Spot {
                id: line.id.clone(),
                grid: line.grid,
                pixel: line.pixel,
                row,
            });
        }
        in_spot_file.insert(line.id);
    }
    for id in counts.iter().flat_map(|table| &table.samples) {
        if !in_spot_file.contains(id) {
            skip(
                id,
                "it has counts but the spot file does not list it".into(),
            );
        }
    }
    Ok(Section {
        name: files.name,
        patient: files.patient,
        image,
        tile_px,
        spots,
        counts,
        skipped,
    })
}

/// Micrometres per pixel of the image that the spots lie in, by [`PITCH_UM`]; `None`
/// where they do not tell.
fn scale(spots: &[SpotLine]) -> Option<f64> {
    let mpp = PITCH_UM / pixels_per_place(spots);
    (mpp.is_finite() && mpp > 0.0).then_some(mpp)
}

/// Pixels from a spot to the next.
fn pixels_per_place(spots: &[SpotLine]) -> f64 {
    // The slope of pixels over places, both directions together.
    let (mut along, mut places) = (0.0, 0.0);
    for axis in 0..2 {
        let of = |s: &SpotLine| match axis {
            0 => (s.grid.0 as f64, s.pixel.0),
            _ => (s.grid.1 as f64, s.pixel.1),
        };
        let n = spots.len().max(1) as f64;
        let sum = spots
            .iter()
            .map(of)
            .fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        for (place, pixel) in spots.iter().map(of) {
            along += (place - sum.0 / n) * (pixel - sum.1 / n);
            places += (place - sum.0 / n).powi(2);
        }
    }
    (along / places).abs()
}

/// A length in pixels of the image that the spots lie in.
fn pixels(um: f64, spots: &[SpotLine], path: &Path) -> Result<usize> {
    let side = (um / PITCH_UM * pixels_per_place(spots)).round();
    if !(1.0..=1e5).contains(&side) {
        return Err(Error::file(
            path,
            "",
            format!("its spots do not tell how many pixels {um} micrometres are"),
            "give spot_px",
        ));
    }
    Ok(side as usize)
}

struct SpotLine {
    id: String,
    grid: (i64, i64),
    pixel: (f64, f64),
    selected: bool,
}

fn read_spots(path: &Path) -> Result<Vec<SpotLine>> {
    const COLUMNS: [&str; 4] = ["x", "y", "pixel_x", "pixel_y"];
    let (delimiter, text) = table::open(path)?;
    let mut csv = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .trim(csv::Trim::All)
        .from_reader(text);
    let fail = |e: csv::Error| {
        let place = e
            .position()
            .map(|at| format!("line {}", at.line()))
            .unwrap_or_default();
        Error::file(
            path,
            place,
            format!("the spot file cannot be read ({e})"),
            "write it as tab-separated text with a header",
        )
    };
    let header = csv.headers().map_err(fail)?.clone();
    let column = |wanted: &str| header.iter().position(|h| h == wanted);
    let mut at = [0; COLUMNS.len()];
    for (at, wanted) in at.iter_mut().zip(COLUMNS) {
        *at = column(wanted).ok_or_else(|| {
            Error::file(
                path,
                "line 1",
                format!("the spot file has no column {wanted}"),
                "it needs the columns x, y, pixel_x and pixel_y",
            )
        })?;
    }
    let selected_at = column("selected");

    let mut spots: Vec<SpotLine> = Vec::new();
    let mut lines: HashMap<String, u64> = HashMap::new();
    for record in csv.records() {
        let record = record.map_err(fail)?;
        let line = record.position().map_or(0, |p| p.line());
        let number = |at: usize| {
            let cell = record.get(at).unwrap_or_default();
            match cell.parse::<f64>() {
                Ok(value) if value.is_finite() && value.abs() <= 1e9 => Ok(value),
                _ => Err(Error::file(
                    path,
                    format!(
                        "line {line}, column `{}`",
                        header.get(at).unwrap_or_default()
                    ),
                    format!("`{cell}` is not a coordinate"),
                    "give a number",
                )),
            }
        };
        let [x, y, pixel_x, pixel_y] = at;
        let grid = (
            number(x)?.round_ties_even() as i64,
            number(y)?.round_ties_even() as i64,
        );
        let id = format!("{}x{}", grid.0, grid.1);
        if let Some(first) = lines.insert(id.clone(), line) {
            return Err(Error::file(
                path,
                format!("line {line}"),
                format!("spot {id} stands already in line {first}"),
                "keep one line for each spot",
            ));
        }
        spots.push(SpotLine {
            id,
            grid,
            pixel: (number(pixel_x)?, number(pixel_y)?),
            selected: match selected_at {
                Some(at) => number(at)? != 0.0,
                None => true,
            },
        });
    }
    if spots.is_empty() {
        return Err(Error::file(
            path,
            "",
            "lists no spot",
            "give a spot file with at least one line below the header",
        ));
    }
    Ok(spots)
}
