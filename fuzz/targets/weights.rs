//! Any bytes as weights: .pth and .pt of either kind, and safetensors.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = eosin::formats::parse_weights(Path::new("fuzzed.pth"), bytes);
    let _ = eosin::formats::parse_weights(Path::new("fuzzed.safetensors"), bytes);
});
