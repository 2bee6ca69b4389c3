//! Which slides a job is about.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::slides::reader::names_slide;
use crate::slides::scale::read_list;

/// A slide of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The file's name without extension: what its outputs are called.
    pub name: String,
    pub path: PathBuf,
    /// The user's word on its scale.
    pub mpp: Option<f64>,
}

/// Part `index` (from 0) of `of` parts of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    pub index: usize,
    pub of: usize,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        let parsed = parts.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parsed {
            Some((index, of)) if index < of => Ok(Self { index, of }),
            _ => Err("a shard is i/n with i from 0 to n - 1, such as 0/4".into()),
        }
    }
}

/// The slides of a folder, sorted by name; with a list (CSV `wsi,mpp`) only those
/// that it names, as file names or paths below the folder.
///
/// # Errors
/// A folder or list that cannot be read; a listed slide that is not there; two
/// slides whose outputs would have one name; no slide at all.
pub fn slides(
    folder: &Path,
    list: Option<&Path>,
    mpp: Option<f64>,
    shard: Option<Shard>,
) -> Result<Vec<Entry>> {
    let entry = |path: PathBuf, mpp| {
        let name = path.file_stem().unwrap_or_default();
        // As OME names its files: slide.ome.tif.
        let name = name.to_string_lossy();
        let name = name.strip_suffix(".ome").unwrap_or(&name).to_owned();
        Entry { name, path, mpp }
    };
    let mut all = Vec::new();
    match list {
        Some(list) => {
            for listed in read_list(list)? {
                let path = folder.join(&listed.wsi);
                if !path.is_file() {
                    return Err(Error::file(
                        list,
                        format!("slide `{}`", listed.wsi.escape_debug()),
                        format!("is not in {}", folder.display()),
                        "the column wsi has file names as they are in the folder",
                    ));
                }
                all.push(entry(path, listed.mpp.or(mpp)));
            }
        }
        None => {
            let fail = |e| Error::io("list the folder", folder, e);
            for found in std::fs::read_dir(folder).map_err(fail)? {
                let path = found.map_err(fail)?.path();
                let hidden = path
                    .file_name()
                    .is_none_or(|n| n.to_string_lossy().starts_with('.'));
                if !hidden && path.is_file() && names_slide(&path) {
                    all.push(entry(path, mpp));
                }
            }
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let mut seen: HashMap<&str, &Path> = HashMap::new();
    for slide in &all {
        if let Some(other) = seen.insert(&slide.name, &slide.path) {
            return Err(Error::file(
                &slide.path,
                "",
                format!("would have the same outputs as {}", other.display()),
                "rename one of them",
            ));
        }
    }
    if all.is_empty() {
        return Err(Error::usage(
            format!("{} has no slide in it", folder.display()),
            "give a folder with .svs, .tif, .ome.tif, .ndpi, .mrxs, .jpg or .png files",
        ));
    }
    if let Some(shard) = shard {
        let mine = |&(i, _): &(usize, Entry)| i % shard.of == shard.index;
        all = all
            .into_iter()
            .enumerate()
            .filter(mine)
            .map(|(_, e)| e)
            .collect();
    }
    Ok(all)
}
