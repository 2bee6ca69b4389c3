//! What the readers of spatial transcriptomics share: options, a section's spots, and
//! the cohort that sections make.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{Cohort, Sample, Skipped, SourceImage, TileRef};
use crate::error::{Error, Result};
use crate::expression::Table;

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Side of a spot's tile in micrometres, in place of `spot_px`: a section's
    /// pixels are measured by the distance of its spots, [`super::her2st::PITCH_UM`].
    pub spot_um: Option<f64>,
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
            spot_um: None,
            counts: true,
            genes: MergeGenes::default(),
        }
    }
}

/// That the options have a meaning.
pub(super) fn check(options: &Options) -> Result<()> {
    if options.spot_px == 0 {
        return Err(Error::usage(
            "tiles of 0 px have no content",
            "set spot_px to the diameter of a spot in pixels",
        ));
    }
    if options.spot_um.is_some_and(|um| !(um > 0.0 && um <= 1e6)) {
        return Err(Error::usage(
            "spot_um is no length",
            "give the side of a tile in micrometres, such as 75",
        ));
    }
    if options.unit == Unit::Section && options.ring > 0 {
        return Err(Error::usage(
            "a ring of neighbours has no meaning for whole sections",
            "set unit = \"spot\" or ring = 0",
        ));
    }
    Ok(())
}

/// A section that was read.
pub(super) struct Section {
    pub name: String,
    pub patient: String,
    pub image: SourceImage,
    /// Side of a tile in pixels.
    pub tile_px: usize,
    /// Spots whose tile can be cut.
    pub spots: Vec<Spot>,
    pub counts: Option<Table>,
    pub skipped: Vec<Skipped>,
}

/// A spot whose tile can be cut.
pub(super) struct Spot {
    pub id: String,
    /// Place on the array.
    pub grid: (i64, i64),
    /// Centre in pixels of the image.
    pub pixel: (f64, f64),
    /// Row of the section's counts.
    pub row: Option<usize>,
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
                size_px: section.tile_px,
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

/// The cohort of sections, with the counts of all if they were read.
///
/// # Errors
/// No sample.
pub(super) fn cohort(
    sections: Vec<Section>,
    options: &Options,
    skipped: Vec<Skipped>,
) -> Result<Cohort> {
    let table = options.counts.then(|| merge(&sections, options));
    let mut cohort = assemble(sections, options, skipped);
    cohort.table = table;
    cohort.require_samples()?;
    Ok(cohort)
}
