//! Any bytes as the JPEG of a TIFF's tile, as RGB and as YCbCr.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for photometric in [2, 6] {
        eosin_fuzz::slide(&eosin_fuzz::one_tile(7, photometric, bytes));
    }
});
