//! What the tests share: paths, small files, and looking at errors.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use eosin::Result;
use eosin::slides::Rgb8;
use eosin::slides::image::write_png;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cohort/fixtures")
        .join(name)
}

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// The shared her2st folder, or `None` (said aloud) where it is absent.
pub fn real_her2st(test: &str) -> Option<PathBuf> {
    let data = std::env::var_os("EOSIN_TEST_DATA")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    let folder = data.join("her2st");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: {test}: no her2st in {}", data.display());
    None
}

pub fn put(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("create folders");
    fs::write(path, content).expect("write a test file");
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(content).expect("compress");
    out.finish().expect("compress")
}

/// A picture of one colour per pixel that differs everywhere.
pub fn picture(width: usize, height: usize, seed: usize) -> Rgb8 {
    let data = (0..width * height)
        .flat_map(|i| {
            let (x, y) = (i % width, i / width);
            [x * 3 + seed, y * 5 + seed, x + y + seed].map(|v| (v % 251) as u8)
        })
        .collect();
    Rgb8 {
        width,
        height,
        data,
    }
}

pub fn put_png(path: &Path, image: &Rgb8) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("create folders");
    write_png(path, image, &[]).expect("write a PNG");
}

/// The message of an error, which must hold all of `parts` and one line.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(outcome: Result<T>, parts: &[&str]) -> String {
    let message = outcome.expect_err("this must be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(!message.contains('\n'), "more than a line: {message}");
    message
}
