//! What a slide's work leaves, in the layouts of TRIDENT, CLAM and RNA-GAN.

use std::io::Write;
use std::path::{Path, PathBuf};

use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

use super::features::Config;
use crate::cohort::TileFile;
use crate::error::{Error, Result};
use crate::formats::atomic::{create_dir_all, write_atomically, write_bytes};
use crate::formats::{Array, hdf5};
use crate::slides::reader::Facts;
use crate::slides::scale::{Sampling, Scale};
use crate::slides::tissue::{Mask, contour};
use crate::slides::{Rgb8, image};

/// Rows that are stored, and read, together.
const CHUNK_ROWS: usize = 256;

/// The paths of one slide's outputs.
pub struct Paths {
    pub patches: PathBuf,
    pub features: PathBuf,
    pub clam_patches: PathBuf,
    pub clam_features: PathBuf,
    pub pt: PathBuf,
    /// In a folder that has the name of the slide's file.
    pub lmdb: PathBuf,
    pub geojson: PathBuf,
    pub preview: PathBuf,
}

/// 20 for 0.5 µm, 14.29 for 0.7 µm: as TRIDENT names its folders.
fn magnification(mpp: f64) -> f64 {
    (1000.0 / mpp).round() / 100.0
}

impl Paths {
    pub fn of(config: &Config, encoder: &str, file: &Path, slide: &str) -> Self {
        let job = &config.job_dir;
        let (mag, px, overlap) = (
            magnification(config.mpp),
            config.patch_px,
            config.grid.overlap,
        );
        let run = job.join(format!("{mag}x_{px}px_{overlap}px_overlap"));
        let clam = run.join(format!("clam_{encoder}"));
        Self {
            patches: run.join("patches").join(format!("{slide}_patches.h5")),
            features: run
                .join(format!("features_{encoder}"))
                .join(format!("{slide}.h5")),
            clam_patches: clam.join("patches").join(format!("{slide}.h5")),
            clam_features: clam.join("h5_files").join(format!("{slide}.h5")),
            pt: clam.join("pt_files").join(format!("{slide}.pt")),
            lmdb: (run.join("lmdb"))
                .join(file.file_name().unwrap_or_default())
                .join(format!("{slide}.db")),
            geojson: job
                .join("contours_geojson")
                .join(format!("{slide}.geojson")),
            preview: job.join("contours").join(format!("{slide}.png")),
        }
    }
}

/// The features of a slide in the layout of TRIDENT.
pub fn features_file(config: &Config, slide: &str) -> PathBuf {
    let encoder = super::features::name(&config.encoder);
    Paths::of(config, &encoder, Path::new(slide), slide).features
}

/// What the coordinates of a slide's tiles mean.
pub struct Placed<'a> {
    pub name: &'a str,
    pub facts: &'a Facts,
    pub scale: &'a Scale,
    pub sampling: &'a Sampling,
    /// Top-left corners in pixels of level 0, x before y.
    pub corners: &'a [(i64, i64)],
    /// Of each corner, where it is a spot's; empty on a grid.
    pub names: &'a [String],
}

impl Placed<'_> {
    /// Whether a level of the slide has the very scale of the tiles, so that
    /// TRIDENT's and CLAM's meaning of `patch_size` are the same.
    fn same_level(&self) -> bool {
        let side = self.sampling.side / self.sampling.downsample;
        (side / self.sampling.px as f64 - 1.0).abs() <= 1e-3
    }

    fn coords(
        &self,
        config: &Config,
        folder: &Path,
        trident: bool,
        clam: bool,
    ) -> Result<hdf5::Dataset> {
        let flat: Vec<i64> = self.corners.iter().flat_map(|&(x, y)| [x, y]).collect();
        let array = Array::from_i64(&[self.corners.len(), 2], &flat)?;
        let level = &self.facts.levels[self.sampling.level];
        let main = &self.facts.levels[0];
        let folder = folder.display().to_string();
        let mut coords = hdf5::Dataset::from(array)
            .chunked(CHUNK_ROWS)
            .growable()
            .attribute("name", self.name)
            .attribute("mpp", config.mpp)
            .attribute("mpp_level0", self.scale.mpp)
            .attribute("mpp_source", self.scale.source.as_str())
            .attribute("eosin_version", env!("CARGO_PKG_VERSION"));
        if trident {
            let target = magnification(config.mpp);
            let whole = |v: f64| v.round() as i64;
            coords = coords
                .attribute("patch_size", config.patch_px as i64)
                .attribute("patch_size_level0", whole(self.sampling.side))
                .attribute("level0_magnification", whole(10.0 / self.scale.mpp))
                .attribute("overlap", config.grid.overlap as i64)
                .attribute("savetodir", folder.as_str())
                .attribute("level0_width", main.width as i64)
                .attribute("level0_height", main.height as i64);
            coords = if target.fract() == 0.0 {
                coords.attribute("target_magnification", whole(target))
            } else {
                coords.attribute("target_magnification", target)
            };
        } else {
            // CLAM's is in pixels of the level that is read.
            let side = self.sampling.side / self.sampling.downsample;
            coords = coords.attribute("patch_size", side.round() as i64);
        }
        if clam {
            let sides = |w: usize, h: usize| vec![w as i64, h as i64];
            coords = coords
                .attribute("patch_level", self.sampling.level as i64)
                .attribute("custom_downsample", 1i64)
                .attribute("downsample", vec![level.downsample; 2])
                .attribute("downsampled_level_dim", sides(level.width, level.height))
                .attribute("level_dim", sides(level.width, level.height))
                .attribute("save_path", folder.as_str());
        }
        Ok(coords)
    }
}

/// A file's root, with the names of spots if the tiles are theirs.
fn root(placed: &Placed) -> hdf5::Group {
    let mut root = hdf5::Group::new();
    if !placed.names.is_empty() {
        // As HEST names it.
        root.dataset("barcode", placed.names.to_vec());
    }
    root
}

fn parent(path: &Path) -> Result<&Path> {
    let parent = path.parent().unwrap_or(Path::new(""));
    create_dir_all(parent)?;
    Ok(parent)
}

/// A new file for a slide's tiles.
///
/// # Errors
/// A file that cannot be written.
pub fn tile_file(paths: &Paths, slide: &str) -> Result<TileFile> {
    parent(&paths.lmdb)?;
    TileFile::new(&paths.lmdb, slide)
}

/// Writes coordinates and features, (tiles, width) row by row, as the
/// configuration asks for.
///
/// # Errors
/// A file that cannot be written.
pub fn write(
    paths: &Paths,
    config: &Config,
    encoder: &str,
    placed: &Placed,
    values: &[f32],
    width: usize,
) -> Result<()> {
    let shape = [placed.corners.len(), width];
    let features = |folder: &Path| -> Result<hdf5::Dataset> {
        Ok(hdf5::Dataset::from(Array::from_f32(&shape, values)?)
            .chunked(CHUNK_ROWS)
            .growable()
            .attribute("name", placed.name)
            .attribute("savetodir", folder.display().to_string())
            .attribute("encoder", encoder)
            .attribute("mpp", config.mpp))
    };
    let both = placed.same_level();
    if config.outputs.trident {
        let folder = parent(&paths.patches)?;
        let mut root = self::root(placed);
        root.dataset("coords", placed.coords(config, folder, true, both)?);
        hdf5::write(&paths.patches, &root)?;
        let folder = parent(&paths.features)?;
        let mut root = self::root(placed);
        root.dataset("features", features(folder)?);
        root.dataset("coords", placed.coords(config, folder, true, both)?);
        hdf5::write(&paths.features, &root)?;
    }
    if config.outputs.clam {
        let folder = parent(&paths.clam_patches)?;
        let mut root = self::root(placed);
        root.dataset("coords", placed.coords(config, folder, false, true)?);
        hdf5::write(&paths.clam_patches, &root)?;
        let folder = parent(&paths.clam_features)?;
        let mut root = self::root(placed);
        root.dataset("features", features(folder)?);
        root.dataset("coords", placed.coords(config, folder, false, true)?);
        hdf5::write(&paths.clam_features, &root)?;
        parent(&paths.pt)?;
        write_pt(&paths.pt, values, shape)?;
    }
    Ok(())
}

/// One tensor (rows, columns) of f32 as `torch.save` writes it.
fn write_pt(path: &Path, values: &[f32], [rows, columns]: [usize; 2]) -> Result<()> {
    write_atomically(path, |out| {
        let fail = |e: &dyn std::fmt::Display| {
            Error::file(
                path,
                "",
                format!("cannot be written: {e}"),
                "look at its disk",
            )
        };
        let mut zip = zip::ZipWriter::new(out);
        let stored = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(true);
        let data: &[u8] = bytemuck::cast_slice(values);
        for (name, content) in [
            ("archive/data.pkl", &pickle(rows, columns)[..]),
            ("archive/byteorder", b"little"),
            ("archive/data/0", data),
            ("archive/version", b"3\n"),
        ] {
            zip.start_file(name, stored).map_err(|e| fail(&e))?;
            zip.write_all(content)
                .map_err(|e| Error::io("write", path, e))?;
        }
        zip.finish().map_err(|e| fail(&e))?;
        Ok(())
    })
}

/// The pickle of a contiguous tensor whose storage is the archive's member 0.
fn pickle(rows: usize, columns: usize) -> Vec<u8> {
    let mut out = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    // LONG1: eight bytes, whatever the number.
    let int = |out: &mut Vec<u8>, n: usize| {
        out.extend([0x8a, 8]);
        out.extend((n as u64).to_le_bytes());
    };
    text(&mut out, "storage");
    out.extend(b"ctorch\nFloatStorage\n");
    text(&mut out, "0");
    text(&mut out, "cpu");
    int(&mut out, rows * columns);
    // The persistent id, then the offset.
    out.extend(b"tQK\0");
    for pair in [[rows, columns], [columns, 1]] {
        int(&mut out, pair[0]);
        int(&mut out, pair[1]);
        out.push(0x86); // a tuple of two
    }
    // No gradient; no hooks.
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR.");
    out
}

/// The outlines of the tissue, and a picture of them with the tiles.
///
/// # Errors
/// A file that cannot be written.
pub fn write_tissue(paths: &Paths, mask: &Mask, view: &Rgb8, placed: &Placed) -> Result<()> {
    parent(&paths.geojson)?;
    write_bytes(
        &paths.geojson,
        contour::geojson(mask).to_string().as_bytes(),
    )?;
    parent(&paths.preview)?;
    let mut picture = view.clone();
    let mut dot = |x: usize, y: usize, colour: [u8; 3]| {
        if x < view.width && y < view.height {
            picture.data[(y * view.width + x) * 3..][..3].copy_from_slice(&colour);
        }
    };
    let at = |n: f64, step: f64| (n / step).round() as usize;
    for &(x, y) in placed.corners {
        let (x0, y0) = (at(x as f64, mask.step.0), at(y as f64, mask.step.1));
        let (x1, y1) = (
            at(x as f64 + placed.sampling.side, mask.step.0).max(x0 + 1) - 1,
            at(y as f64 + placed.sampling.side, mask.step.1).max(y0 + 1) - 1,
        );
        for x in x0..=x1 {
            dot(x, y0, [70, 110, 230]);
            dot(x, y1, [70, 110, 230]);
        }
        for y in y0..=y1 {
            dot(x0, y, [70, 110, 230]);
            dot(x1, y, [70, 110, 230]);
        }
    }
    for ring in contour::trace(mask).iter().flatten() {
        for side in ring.windows(2) {
            let ((x0, y0), (x1, y1)) = (side[0], side[1]);
            for x in x0.min(x1)..=x0.max(x1) {
                for y in y0.min(y1)..=y0.max(y1) {
                    dot(x, y, [0, 150, 60]);
                }
            }
        }
    }
    // Both steps are the same but for the rounding of the picture's sides.
    let mpp = format!("{:.4}", placed.scale.mpp * mask.step.0);
    image::write_png(&paths.preview, &picture, &[(image::MPP, &mpp)])
}
