//! Any file as a slide: TIFF, BigTIFF, SVS, OME-TIFF, JPEG, PNG.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| eosin_fuzz::slide(bytes));
