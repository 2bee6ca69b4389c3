//! Any bytes as NumPy's .npy.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = eosin::formats::npy::parse(Path::new("fuzzed.npy"), bytes);
});
