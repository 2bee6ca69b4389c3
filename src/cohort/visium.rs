//! 10x Visium sections: the folder `outs/` that Space Ranger writes.
//!
//! ```text
//! spatial/tissue_positions.csv           barcode in_tissue array_row array_col pxl_row.. pxl_col..
//!   or tissue_positions_list.csv         the same columns without a header
//! spatial/scalefactors_json.json         spot_diameter_fullres, tissue_hires_scalef
//! spatial/tissue_hires_image.png
//! filtered_feature_bc_matrix/            matrix.mtx.gz barcodes.tsv.gz features.tsv.gz
//!   or filtered_feature_bc_matrix.h5
//! ```
//!
//! The root is one such folder, or holds one folder `<section>/` or
//! `<section>/outs/` for each section. The image is a JPEG or PNG that lies in the
//! section's folder or in `outs`: the one that Space Ranger was given, since the
//! positions are its pixels. Without one the small `tissue_hires_image.png` is taken,
//! with positions scaled to it.
//!
//! A sample is a spot in the tissue, named `<section>_<barcode>`; genes are named by
//! symbol, a symbol's second and later rows by their id, and only rows of the type
//! `Gene Expression` count. Genes without a count in a section are left out of its
//! table, and so are 0 where another section has them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::spots::{self, Options, Section, Spot};
use super::tiles::read_of_slides;
use super::{Cohort, Skipped, SourceImage, entries, name, names_image};
use crate::error::{Error, Result};
use crate::expression::Table;
use crate::formats::hdf5;
use crate::slides::tile;

/// Micrometres that `spot_diameter_fullres` pixels are, as Space Ranger defines it.
const DIAMETER_UM: f64 = 65.0;
/// The most values of a section's table: 4 GiB.
const MAX_VALUES: usize = 1 << 30;
/// The most bytes of a text, unpacked.
const MAX_TEXT: u64 = 4 << 30;

/// Reads the folder `root`; `slides` has columns slide (the section) and patient.
/// Without it a section is a patient of its own.
///
/// # Errors
/// No section; one that is unknown; files that are missing, damaged or disagree;
/// options without meaning; no sample left.
pub fn read(root: &Path, slides: Option<&Path>, options: &Options) -> Result<Cohort> {
    spots::check(options)?;
    if options.ring > 0 {
        return Err(Error::usage(
            "rings of neighbours are of square arrays, and Visium's is hexagonal",
            "set ring = 0",
        ));
    }
    let folders = sections(root)?;
    if let Some(unknown) = options.sections.iter().find(|s| !folders.contains_key(*s)) {
        let known: Vec<&str> = folders.keys().map(String::as_str).collect();
        return Err(Error::usage(
            format!("there is no section {unknown} in {}", root.display()),
            format!("choose from {}", known.join(" ")),
        ));
    }
    let patients = slides
        .map(|path| read_of_slides(path, "patient"))
        .transpose()?;
    let mut read = Vec::new();
    let mut skipped = Vec::new();
    for (section, folder) in &folders {
        if !options.sections.is_empty() && !options.sections.contains(section) {
            continue;
        }
        let patient = match (&patients, slides) {
            (Some(known), Some(path)) => known.get(section).cloned().ok_or_else(|| {
                let problem = format!("does not say whose section {section} is");
                Error::file(path, "", problem, "add a line for it")
            })?,
            _ => section.clone(),
        };
        let mut found = read_section(section, patient, folder, options)?;
        skipped.append(&mut found.skipped);
        read.push(found);
    }
    spots::cohort(read, options, skipped)
}

/// The folders with a `spatial`, by the sections' names.
fn sections(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let is = |folder: &Path| folder.join("spatial").is_dir();
    let mut found = BTreeMap::new();
    if is(root) {
        let whole = root
            .canonicalize()
            .map_err(|e| Error::io("read", root, e))?;
        // `outs` names no section, its parent does.
        let named = match whole.parent() {
            Some(parent) if name(&whole) == "outs" => name(parent),
            _ => name(&whole),
        };
        found.insert(named, root.to_owned());
    } else {
        for folder in entries(root)?.into_iter().filter(|p| p.is_dir()) {
            let inside = [folder.join("outs"), folder.clone()];
            if let Some(outs) = inside.into_iter().find(|p| is(p)) {
                found.insert(name(&folder), outs);
            }
        }
    }
    if found.is_empty() {
        return Err(Error::file(
            root,
            "",
            "has no folder spatial, nor do the folders in it",
            "give Space Ranger's `outs`, or a folder of such folders",
        ));
    }
    Ok(found)
}

#[derive(Deserialize)]
struct Scales {
    spot_diameter_fullres: f64,
    tissue_hires_scalef: f64,
}

fn read_section(section: &str, patient: String, outs: &Path, options: &Options) -> Result<Section> {
    let spatial = outs.join("spatial");
    let scales = scales(&spatial.join("scalefactors_json.json"))?;
    let (image, scale) = find_image(outs, &spatial, &scales)?;
    let pixel = DIAMETER_UM / (scales.spot_diameter_fullres * scale);
    let image = SourceImage {
        mpp: (pixel.is_finite() && pixel > 0.0).then_some(pixel),
        ..SourceImage::open(image)?
    };
    let tile_px = match options.spot_um {
        Some(um) => um * scales.spot_diameter_fullres / DIAMETER_UM * scale,
        None => options.spot_px as f64,
    };
    let tile_px = tile_px.round().clamp(1.0, 1e5) as usize;
    let positions = positions(&spatial)?;
    let counts = options.counts.then(|| counts(outs)).transpose()?;
    let rows: HashMap<&str, usize> = (counts.iter())
        .flat_map(|table| table.samples.iter().enumerate())
        .map(|(row, barcode)| (barcode.as_str(), row))
        .collect();
    let mut skipped = Vec::new();
    let mut skip = |barcode: &str, why: String| {
        skipped.push(Skipped {
            what: format!("section {section}, spot {barcode}"),
            why,
        });
    };
    let mut found = Vec::new();
    let mut listed = HashSet::new();
    let mut joined = 0;
    for position in positions {
        listed.insert(position.barcode.clone());
        let row = rows.get(position.barcode.as_str()).copied();
        joined += usize::from(row.is_some());
        if !position.in_tissue {
            // Most of an array: nothing is lost.
            continue;
        }
        let pixel = (position.pixel.0 * scale, position.pixel.1 * scale);
        if let Err(e) = tile::place((image.width, image.height), pixel, tile_px) {
            skip(&position.barcode, e.to_string());
            continue;
        }
        if options.counts && row.is_none() {
            skip(&position.barcode, "it has no counts".into());
        }
        found.push(Spot {
            id: position.barcode,
            grid: position.array,
            pixel,
            row,
        });
    }
    if options.counts && joined == 0 {
        return Err(Error::file(
            outs,
            "",
            format!(
                "none of the {} barcodes with counts is among the {} positions",
                rows.len(),
                listed.len()
            ),
            "give matrix and positions of one section",
        ));
    }
    let mut unplaced: Vec<&str> = rows
        .keys()
        .copied()
        .filter(|b| !listed.contains(*b))
        .collect();
    unplaced.sort_unstable();
    for barcode in unplaced {
        skip(barcode, "it has counts but no position".into());
    }
    Ok(Section {
        name: section.to_owned(),
        patient,
        image,
        tile_px,
        spots: found,
        counts,
        skipped,
    })
}

fn scales(path: &Path) -> Result<Scales> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let broken = |problem: String| {
        Error::file(
            path,
            "",
            problem,
            "give the scalefactors_json.json of Space Ranger",
        )
    };
    let scales: Scales = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
    let fine = |v: f64| v.is_finite() && v > 0.0;
    match fine(scales.spot_diameter_fullres) && fine(scales.tissue_hires_scalef) {
        true => Ok(scales),
        false => Err(broken("has a scale that is not above 0".into())),
    }
}

/// The section's image, and its pixels per pixel of the positions.
fn find_image(outs: &Path, spatial: &Path, scales: &Scales) -> Result<(PathBuf, f64)> {
    let above = (name(outs) == "outs").then(|| outs.parent()).flatten();
    let mut images = Vec::new();
    for folder in [Some(outs), above].into_iter().flatten() {
        images.extend(entries(folder)?.into_iter().filter(|p| names_image(p)));
    }
    match (images.pop(), images.is_empty()) {
        (Some(image), true) => Ok((image, 1.0)),
        (None, _) => Ok((
            spatial.join("tissue_hires_image.png"),
            scales.tissue_hires_scalef,
        )),
        (Some(one), false) => Err(Error::file(
            outs,
            "",
            format!(
                "has {} images, {} among them",
                images.len() + 1,
                one.display()
            ),
            "leave the one there that Space Ranger was given",
        )),
    }
}

struct Position {
    barcode: String,
    in_tissue: bool,
    array: (i64, i64),
    /// x and y in pixels of the full image.
    pixel: (f64, f64),
}

fn positions(spatial: &Path) -> Result<Vec<Position>> {
    let files = ["tissue_positions.csv", "tissue_positions_list.csv"].map(|f| spatial.join(f));
    let Some(path) = files.iter().find(|f| f.is_file()) else {
        return Err(Error::file(
            spatial,
            "",
            "has neither tissue_positions.csv nor tissue_positions_list.csv",
            "give the whole folder `outs` of Space Ranger",
        ));
    };
    let mut csv = csv::ReaderBuilder::new()
        .has_headers(false)
        .trim(csv::Trim::All)
        .from_path(path)
        .map_err(|e| Error::file(path, "", e.to_string(), "give a CSV file"))?;
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for record in csv.records() {
        let record = record.map_err(|e| Error::file(path, "", e.to_string(), "give a CSV file"))?;
        let line = record.position().map_or(0, |p| p.line());
        let cell = |i: usize| record.get(i).unwrap_or_default();
        if line <= 1 && cell(0) == "barcode" {
            continue;
        }
        let number = |i: usize| match cell(i).parse::<f64>() {
            Ok(v) if v.is_finite() && v.abs() <= 1e9 => Ok(v),
            _ => Err(Error::file(
                path,
                format!("line {line}, column {}", i + 1),
                format!("`{}` is not a number", cell(i)),
                "the columns are barcode, in_tissue, array_row, array_col, pixel row, pixel column",
            )),
        };
        let barcode = cell(0).to_owned();
        if !seen.insert(barcode.clone()) {
            return Err(Error::file(
                path,
                format!("line {line}"),
                format!("barcode {barcode} stands twice"),
                "keep one line for each",
            ));
        }
        found.push(Position {
            in_tissue: number(1)? != 0.0,
            array: (number(3)? as i64, number(2)? as i64),
            pixel: (number(5)?, number(4)?),
            barcode,
        });
    }
    Ok(found)
}

/// Barcodes x genes.
fn counts(outs: &Path) -> Result<Table> {
    let folder = outs.join("filtered_feature_bc_matrix");
    if folder.is_dir() {
        return matrix_market(&folder);
    }
    let file = outs.join("filtered_feature_bc_matrix.h5");
    if file.is_file() {
        return matrix_h5(&file);
    }
    Err(Error::file(
        outs,
        "",
        "has neither filtered_feature_bc_matrix.h5 nor the folder of that name",
        "give the whole folder `outs` of Space Ranger",
    ))
}

/// Cell Ranger's HDF5: compressed columns, one for each barcode.
fn matrix_h5(path: &Path) -> Result<Table> {
    let file = hdf5::File::open(path)?;
    let wrong = |problem: String| {
        let remedy = "give the matrix that Space Ranger wrote";
        Error::file(path, "group `matrix`", problem, remedy)
    };
    let numbers = |dataset: &str| -> Result<Vec<usize>> {
        let values = file.array(&format!("matrix/{dataset}"))?.to_i64()?;
        let whole = values.into_iter().map(usize::try_from);
        whole
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| wrong(format!("`{dataset}` has a number below 0")))
    };
    let texts = |dataset: &str| file.texts(&format!("matrix/{dataset}"));
    let barcodes = texts("barcodes")?;
    let features = [
        texts("features/id")?,
        texts("features/name")?,
        texts("features/feature_type")?,
    ];
    let (starts, places) = (numbers("indptr")?, numbers("indices")?);
    let counts = file.array("matrix/data")?;
    let counts: Vec<f32> = counts.iter_f64().map(|v| v as f32).collect();
    let count = features[0].len();
    if features.iter().any(|f| f.len() != count) || starts.len() != barcodes.len() + 1 {
        return Err(wrong(format!(
            "has {} columns for {} barcodes, and features of {:?} names",
            starts.len().saturating_sub(1),
            barcodes.len(),
            features.each_ref().map(Vec::len)
        )));
    }
    if places.len() != counts.len()
        || starts.first() != Some(&0)
        || starts.last() != Some(&places.len())
        || !starts.is_sorted()
        || places.iter().any(|&g| g >= count)
        || counts.iter().any(|v| !v.is_finite() || *v < 0.0)
    {
        return Err(wrong("has columns that do not fit its entries".into()));
    }
    let [ids, symbols, kinds] = features;
    let rows = ids.into_iter().zip(symbols).zip(kinds);
    let mut entries = Vec::with_capacity(counts.len());
    for (barcode, ends) in starts.windows(2).enumerate() {
        let column = places[ends[0]..ends[1]]
            .iter()
            .zip(&counts[ends[0]..ends[1]]);
        entries.extend(column.map(|(&gene, &count)| (gene as u32, barcode as u32, count)));
    }
    let sparse = Sparse {
        barcodes,
        genes: gene_names(rows.map(|((id, symbol), kind)| [id, symbol, kind])),
        entries,
    };
    sparse.dense(path)
}

/// The counts of one section as they are stored: gene, barcode, count.
struct Sparse {
    barcodes: Vec<String>,
    /// Name of each row; `None` for one that is no gene.
    genes: Vec<Option<String>>,
    entries: Vec<(u32, u32, f32)>,
}

impl Sparse {
    /// The genes with a count.
    fn dense(self, path: &Path) -> Result<Table> {
        let mut used = vec![false; self.genes.len()];
        for &(gene, _, count) in &self.entries {
            used[gene as usize] |= count > 0.0;
        }
        let mut column = vec![None; self.genes.len()];
        let mut genes = Vec::new();
        for (i, gene) in self.genes.iter().enumerate() {
            if let (true, Some(gene)) = (used[i], gene) {
                column[i] = Some(genes.len());
                genes.push(gene.clone());
            }
        }
        let width = genes.len();
        let size = width
            .checked_mul(self.barcodes.len())
            .filter(|&n| n <= MAX_VALUES);
        let Some(size) = size else {
            return Err(Error::file(
                path,
                "",
                format!(
                    "{} spots of {width} genes are above 4 GiB",
                    self.barcodes.len()
                ),
                "give a filtered matrix",
            ));
        };
        let mut values = vec![0.0f32; size];
        for (gene, barcode, count) in self.entries {
            if let Some(column) = column[gene as usize] {
                values[barcode as usize * width + column] += count;
            }
        }
        Ok(Table {
            samples: self.barcodes,
            genes,
            values,
        })
    }
}

/// Names of rows by symbol; a symbol that stands before by its id.
fn gene_names(rows: impl Iterator<Item = [String; 3]>) -> Vec<Option<String>> {
    let mut seen = HashSet::new();
    let mut named = |[id, symbol, kind]: [String; 3]| {
        if !kind.is_empty() && kind != "Gene Expression" {
            return None;
        }
        let free = [symbol, id]
            .into_iter()
            .find(|n| !n.is_empty() && !seen.contains(n))?;
        seen.insert(free.clone());
        Some(free)
    };
    rows.map(&mut named).collect()
}

fn matrix_market(folder: &Path) -> Result<Table> {
    let barcodes: Vec<String> = lines(&find(folder, "barcodes.tsv")?)?;
    let features = find(folder, "features.tsv")?;
    let rows = lines(&features)?.into_iter().map(|line| {
        let mut cells = line.split('\t').map(str::to_owned);
        std::array::from_fn(|_| cells.next().unwrap_or_default())
    });
    let genes = gene_names(rows);
    let path = find(folder, "matrix.mtx")?;
    let wrong = |line: usize, problem: String| {
        let place = format!("line {line}");
        Error::file(
            &path,
            place,
            problem,
            "give the matrix that Space Ranger wrote",
        )
    };
    let mut text = open(&path)?;
    let mut line = String::new();
    let mut number = 0;
    let mut left: Option<usize> = None;
    let mut entries = Vec::new();
    loop {
        line.clear();
        number += 1;
        let read = text
            .read_line(&mut line)
            .map_err(|e| Error::io("read", &path, e))?;
        if read == 0 {
            break;
        }
        if number == 1 && !line.starts_with("%%MatrixMarket matrix coordinate") {
            return Err(wrong(1, "is no sparse MatrixMarket matrix".into()));
        }
        if line.starts_with('%') || line.trim().is_empty() {
            continue;
        }
        let cells: Vec<&str> = line.split_whitespace().collect();
        let [a, b, c] = cells[..] else {
            return Err(wrong(number, format!("has {} numbers, not 3", cells.len())));
        };
        let whole = |cell: &str| {
            let fail = |_| wrong(number, format!("`{cell}` is no number"));
            cell.parse::<usize>().map_err(fail)
        };
        let (a, b) = (whole(a)?, whole(b)?);
        let Some(left) = &mut left else {
            if (a, b) != (genes.len(), barcodes.len()) {
                let problem = format!(
                    "says {a} genes and {b} barcodes, and the lists beside it have {} and {}",
                    genes.len(),
                    barcodes.len()
                );
                return Err(wrong(number, problem));
            }
            left = Some(whole(c)?);
            continue;
        };
        let count: f32 = match c.parse() {
            Ok(v) if f32::is_finite(v) && v >= 0.0 => v,
            _ => return Err(wrong(number, format!("`{c}` is no count"))),
        };
        let inside = (1..=genes.len()).contains(&a) && (1..=barcodes.len()).contains(&b);
        if !inside || *left == 0 {
            return Err(wrong(
                number,
                "is beyond the size that the matrix states".into(),
            ));
        }
        *left -= 1;
        entries.push((a as u32 - 1, b as u32 - 1, count));
    }
    match left {
        Some(0) => {}
        Some(n) => return Err(wrong(number, format!("ends with {n} entries to come"))),
        None => return Err(wrong(number, "ends before its size".into())),
    }
    let sparse = Sparse {
        barcodes,
        genes,
        entries,
    };
    sparse.dense(&path)
}

/// The file, compressed or not.
fn find(folder: &Path, file: &str) -> Result<PathBuf> {
    let both = [folder.join(format!("{file}.gz")), folder.join(file)];
    both.iter().find(|p| p.is_file()).cloned().ok_or_else(|| {
        let problem = format!("has neither {file}.gz nor {file}");
        Error::file(
            folder,
            "",
            problem,
            "give the whole folder `outs` of Space Ranger",
        )
    })
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    Ok(match path.extension().is_some_and(|e| e == "gz") {
        true => Box::new(BufReader::new(MultiGzDecoder::new(file).take(MAX_TEXT))),
        false => Box::new(BufReader::new(file.take(MAX_TEXT))),
    })
}

fn lines(path: &Path) -> Result<Vec<String>> {
    let all = open(path)?.lines();
    all.collect::<std::io::Result<_>>()
        .map_err(|e| Error::io("read", path, e))
}
