//! Any bytes as a colour profile, applied to levels.
#![no_main]

use std::path::Path;

use eosin::slides::Rgb8;
use eosin::slides::icc::Transform;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(transform) = Transform::new(Path::new("fuzzed.svs"), bytes) else {
        return;
    };
    // Black, white and what lies between, over several lines.
    let data = (0..=255).flat_map(|v: u8| [v, v.wrapping_mul(7), 255 - v]);
    let mut image = Rgb8 {
        width: 64,
        height: 4,
        data: data.collect(),
    };
    let _ = transform.apply(&mut image);
});
