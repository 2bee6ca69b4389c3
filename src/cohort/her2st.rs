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
use serde::{Deserialize, Serialize};

use super::{Cohort, Sample, Skipped, SourceImage, TileRef, entries, name, names_image};
use crate::error::{Error, Result};
use crate::expression::{Orientation, Table, table};
use crate::slides::tile;

/// What becomes a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// All spots of a section: its tiles, and the sum of their counts
    /// (pseudo-bulk).
    #[default]
    Section,
    /// One spot: its tile, with those of neighbouring spots if asked for, and
    /// its own counts.
    Spot,
}

/// Which genes the table gets when sections differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MergeGenes {
    /// All, with zero where a section lacks one; in order of first appearance.
    #[default]
    Union,
    /// Those that every section has; in the order of the first section.
    Intersection,
}

/// What to read from the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Names such as `C2`; empty for all that have what is needed.
    pub sections: Vec<String>,
    pub unit: Unit,
    /// Rings of neighbouring spots on the array whose tiles join a spot's bag:
    /// 1 for the 8 around it, as far as they exist.
    pub ring: usize,
    /// Side of a spot's tile in pixels of the image.
    pub spot_px: usize,
    /// Whether to read counts; without them the cohort is for prediction only.
    pub counts: bool,
    pub genes: MergeGenes,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sections: Vec::new(),
            unit: Unit::default(),
            ring: 0,
            spot_px: 112,
            counts: true,
            genes: MergeGenes::default(),
        }
    }
}

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
    if options.spot_px == 0 {
        return Err(Error::usage(
            "tiles of 0 px have no content",
            "set spot_px to the diameter of a spot in pixels",
        ));
    }
    if options.unit == Unit::Section && options.ring > 0 {
        return Err(Error::usage(
            "a ring of neighbours has no meaning for whole sections",
            "set unit = \"spot\" or ring = 0",
        ));
    }
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
                sections.push(section);
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

    let table = match options.counts {
        true => Some(merge(&sections, options)),
        false => None,
    };
    let mut cohort = assemble(sections, options, skipped);
    cohort.table = table;
    cohort.require_samples()?;
    Ok(cohort)
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

struct Section {
    name: String,
    patient: String,
    image: SourceImage,
    /// Spots whose tile can be cut.
    spots: Vec<Spot>,
    counts: Option<Table>,
    skipped: Vec<Skipped>,
}

struct Spot {
    id: String,
    /// Place on the array.
    grid: (i64, i64),
    /// Centre in pixels of the image.
    pixel: (f64, f64),
    /// Row of the section's counts.
    row: Option<usize>,
}

enum Outcome {
    Read(Section),
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
    let spot_file = root
        .join("ST-spotfiles")
        .join(format!("{section}_selection.tsv"));
    if !spot_file.is_file() {
        return Ok(Outcome::Incomplete(format!(
            "{} is missing",
            spot_file.display()
        )));
    }
    let lines = read_spots(&spot_file)?;

    let counts = if options.counts {
        let folder = root.join("ST-cnts");
        let files = ["tsv.gz", "tsv"].map(|end| folder.join(format!("{section}.{end}")));
        let Some(file) = files.iter().find(|f| f.is_file()) else {
            return Ok(Outcome::Incomplete(format!(
                "its counts {} are missing",
                files[0].display()
            )));
        };
        let ids: Vec<String> = lines.iter().map(|line| line.id.clone()).collect();
        Some(table::read_for(file, Orientation::Auto, &ids)?)
    } else {
        None
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
        let placed = tile::place((image.width, image.height), line.pixel, options.spot_px);
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
    Ok(Outcome::Read(Section {
        name: section.clone(),
        patient: folder.patient.clone(),
        image,
        spots,
        counts,
        skipped,
    }))
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

/// Whether a spot is a sample, or part of its section's.
fn takes_part(spot: &Spot, options: &Options) -> bool {
    !options.counts || spot.row.is_some()
}

/// One table for the samples of [`assemble`], in the same order.
fn merge(sections: &[Section], options: &Options) -> Table {
    let tables = || sections.iter().filter_map(|s| s.counts.as_ref());
    let mut column: HashMap<&str, usize> = HashMap::new();
    let mut genes: Vec<&str> = Vec::new();
    for gene in tables().flat_map(|table| &table.genes) {
        column.entry(gene).or_insert_with(|| {
            genes.push(gene);
            genes.len() - 1
        });
    }
    if options.genes == MergeGenes::Intersection {
        for table in tables() {
            let has: HashSet<&str> = table.genes.iter().map(String::as_str).collect();
            genes.retain(|gene| has.contains(gene));
        }
        column = genes.iter().enumerate().map(|(i, g)| (*g, i)).collect();
    }

    let mut out = Table {
        samples: Vec::new(),
        genes: genes.iter().map(|g| g.to_string()).collect(),
        values: Vec::new(),
    };
    for section in sections {
        let Some(table) = &section.counts else {
            continue;
        };
        let target: Vec<Option<usize>> = table
            .genes
            .iter()
            .map(|gene| column.get(gene.as_str()).copied())
            .collect();
        let mut sum = vec![0.0f64; out.genes.len()];
        let mut any = false;
        for spot in &section.spots {
            let Some(row) = spot.row.and_then(|row| table.row(row)) else {
                continue;
            };
            any = true;
            let counts = row
                .iter()
                .zip(&target)
                .filter_map(|(&count, &target)| Some((count, target?)));
            match options.unit {
                Unit::Section => counts.for_each(|(count, at)| sum[at] += f64::from(count)),
                Unit::Spot => {
                    let start = out.values.len();
                    out.values.resize(start + out.genes.len(), 0.0);
                    let values = &mut out.values[start..];
                    counts.for_each(|(count, at)| values[at] = count);
                    out.samples.push(spot_sample(section, spot));
                }
            }
        }
        if options.unit == Unit::Section && any {
            out.values.extend(sum.iter().map(|&v| v as f32));
            out.samples.push(section.name.clone());
        }
    }
    out
}

fn spot_sample(section: &Section, spot: &Spot) -> String {
    format!("{}_{}", section.name, spot.id)
}

fn assemble(sections: Vec<Section>, options: &Options, skipped: Vec<Skipped>) -> Cohort {
    let mut cohort = Cohort {
        samples: Vec::new(),
        tiles: Vec::new(),
        images: Vec::new(),
        table: None,
        skipped,
    };
    for section in sections {
        let bags = bags(&section, options);
        // Only tiles that some bag holds, in the order of the spots.
        let mut used = vec![false; section.spots.len()];
        bags.iter().flatten().for_each(|&spot| used[spot] = true);
        let image = cohort.images.len();
        let mut tile_of = vec![0; section.spots.len()];
        for (i, spot) in section.spots.iter().enumerate().filter(|(i, _)| used[*i]) {
            tile_of[i] = cohort.tiles.len();
            cohort.tiles.push(TileRef {
                image,
                centre: Some(spot.pixel),
                size_px: options.spot_px,
                position: Some(spot.pixel),
            });
        }
        let owners = section
            .spots
            .iter()
            .filter(|spot| takes_part(spot, options))
            .map(|spot| spot_sample(&section, spot));
        let ids: Vec<String> = match options.unit {
            Unit::Section => vec![section.name.clone()],
            Unit::Spot => owners.collect(),
        };
        for (id, bag) in ids.into_iter().zip(bags).filter(|(_, bag)| !bag.is_empty()) {
            cohort.samples.push(Sample {
                id,
                slide: section.name.clone(),
                patient: section.patient.clone(),
                tiles: bag.into_iter().map(|spot| tile_of[spot]).collect(),
            });
        }
        cohort.images.push(section.image);
    }
    cohort
}

/// The spots of each sample: one bag for a section, one per spot otherwise.
///
/// A neighbour's tile needs the image only, so a spot without counts still
/// joins the bags around it.
fn bags(section: &Section, options: &Options) -> Vec<Vec<usize>> {
    let own = section
        .spots
        .iter()
        .enumerate()
        .filter(|(_, spot)| takes_part(spot, options));
    if options.unit == Unit::Section {
        return vec![own.map(|(i, _)| i).collect()];
    }
    own.map(|(i, spot)| {
        let offset = |other: &Spot| {
            let (dx, dy) = (other.grid.0 - spot.grid.0, other.grid.1 - spot.grid.1);
            (dx.unsigned_abs().max(dy.unsigned_abs()), dy, dx)
        };
        if options.ring == 0 {
            return vec![i];
        }
        let mut bag: Vec<usize> = (0..section.spots.len())
            .filter(|&j| offset(&section.spots[j]).0 <= options.ring as u64)
            .collect();
        // From the spot outwards, so that its own tile is the first.
        bag.sort_by_key(|&j| offset(&section.spots[j]));
        bag
    })
    .collect()
}
