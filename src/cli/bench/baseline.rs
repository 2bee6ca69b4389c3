//! The baselines that criterion saves.
//!
//! `cargo bench -- --save-baseline NAME` leaves, for each bench, a folder
//! `<group>/<function>/NAME` with `benchmark.json` (its name), `sample.json`
//! (iterations and nanoseconds of each sample) and estimates from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// Folders between criterion's and a baseline's: group, function, parameter,
/// and some to spare.
const DEPTH: usize = 6;

/// Far above what criterion writes; bounds what a file can make us do.
const LARGEST_FILE: u64 = 1 << 20;

/// Criterion takes no fewer, so a file with fewer is not a whole one of its.
const FEWEST_SAMPLES: usize = 10;

/// Nanoseconds of one iteration, for each sample of a bench.
pub type Samples = Vec<f64>;

/// The samples of each bench in baseline `name` below `folder`, by the bench's
/// name; only of the benches that have `filter` in theirs.
///
/// # Errors
/// `name` is not the name of a folder; `folder` cannot be read, or holds no such
/// baseline; a file of it is missing, damaged or not criterion's.
pub fn read(folder: &Path, name: &str, filter: &str) -> Result<BTreeMap<String, Samples>> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\']) {
        return Err(Error::usage(
            format!("`{name}` cannot be the name of a baseline"),
            "give the name that --save-baseline was given",
        ));
    }
    let mut found = Vec::new();
    if folder.is_dir() {
        find(folder, name, DEPTH, &mut found)?;
    }
    if found.is_empty() {
        return Err(Error::usage(
            format!("no baseline `{name}` in {}", folder.display()),
            format!(
                "save one with `cargo bench --bench eosin -- --save-baseline {name}`, or give \
                 --criterion DIR if it lies elsewhere"
            ),
        ));
    }
    let mut benches: BTreeMap<String, Samples> = BTreeMap::new();
    let mut places: BTreeMap<String, PathBuf> = BTreeMap::new();
    for at in found {
        let bench = bench_name(&at)?;
        if !bench.contains(filter) {
            continue;
        }
        if let Some(other) = places.insert(bench.clone(), at.clone()) {
            return Err(Error::file(
                &at,
                "",
                format!("holds bench {bench}, and so does {}", other.display()),
                "delete the older of the two",
            ));
        }
        benches.insert(bench, samples(&at)?);
    }
    Ok(benches)
}

/// Adds the folders called `name` that hold a result, in the order of their
/// paths. Links are not followed.
fn find(folder: &Path, name: &str, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    let list = |e| Error::io("list", folder, e);
    let mut below = Vec::new();
    for entry in fs::read_dir(folder).map_err(list)? {
        let entry = entry.map_err(list)?;
        if entry.file_type().map_err(list)?.is_dir() {
            below.push(entry.path());
        }
    }
    below.sort();
    for path in below {
        // A part of a bench's name may be that of the baseline.
        let holds = |file: &str| path.join(file).exists();
        if path.ends_with(name) && (holds("sample.json") || holds("benchmark.json")) {
            found.push(path);
        } else if depth > 0 {
            find(&path, name, depth - 1, found)?;
        }
    }
    Ok(())
}

fn bench_name(baseline: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct Benchmark {
        full_id: String,
    }
    let path = baseline.join("benchmark.json");
    let Benchmark { full_id } = parse(&path)?;
    if full_id.is_empty() || full_id.chars().any(char::is_control) {
        return Err(damaged(&path, "the bench has no printable name"));
    }
    Ok(full_id)
}

fn samples(baseline: &Path) -> Result<Samples> {
    #[derive(Deserialize)]
    struct Saved {
        iters: Vec<f64>,
        times: Vec<f64>,
    }
    let path = baseline.join("sample.json");
    let Saved { iters, times } = parse(&path)?;
    if iters.len() != times.len() {
        let problem = format!("has {} counts and {} times", iters.len(), times.len());
        return Err(damaged(&path, problem));
    }
    if iters.len() < FEWEST_SAMPLES {
        let problem = format!("has {} samples, not {FEWEST_SAMPLES} or more", iters.len());
        return Err(damaged(&path, problem));
    }
    let samples: Samples = times.iter().zip(&iters).map(|(t, n)| t / n).collect();
    let positive = |v: &f64| v.is_finite() && *v > 0.0;
    // Two negative numbers have a positive quotient.
    if !iters.iter().chain(&samples).all(positive) {
        return Err(damaged(&path, "has a count or time that is not above 0"));
    }
    Ok(samples)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let read = |e| Error::io("read", path, e);
    let metadata = fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => damaged(path, "is missing: the run was not finished"),
        _ => read(e),
    })?;
    if !metadata.is_file() || metadata.len() > LARGEST_FILE {
        return Err(damaged(path, "is not a file of criterion's"));
    }
    let bytes = fs::read(path).map_err(read)?;
    serde_json::from_slice(&bytes).map_err(|e| damaged(path, format!("is not criterion's: {e}")))
}

fn damaged(path: &Path, problem: impl Into<String>) -> Error {
    let remedy = "delete the folder that it is in, and save that baseline again";
    Error::file(path, "", problem, remedy)
}
