//! Weight and array files: fixtures made by PyTorch and NumPy (fixtures/make.py),
//! and hostile input.

mod arrays;
mod atomic;
mod h5ad;
mod hdf5;
mod hostile;
mod inspection;
mod keys;
mod memory;
mod npy;
mod pickles;
mod weights;

use std::path::{Path, PathBuf};

use eosin::DType;
use eosin::formats::Array;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/formats/fixtures")
        .join(name)
}

fn fixture_bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

/// The rule of make.py: element i is i / 4 - 1, exact in every float dtype here.
fn ramp(n: usize) -> Vec<f64> {
    (0..n).map(|i| i as f64 * 0.25 - 1.0).collect()
}

#[track_caller]
fn assert_array(array: &Array, dtype: DType, shape: &[usize], values: &[f64]) {
    assert_eq!(array.dtype, dtype);
    assert_eq!(array.shape, shape);
    assert_eq!(array.to_f64(), values);
}

/// The message of an error that must be there.
#[track_caller]
fn refusal<T: std::fmt::Debug>(result: eosin::Result<T>) -> String {
    let text = result.unwrap_err().to_string();
    assert!(!text.contains('\n'), "more than one line: {text}");
    text
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}
