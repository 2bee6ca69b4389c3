//! Any bytes as the JPEG 2000 of a TIFF's tile, as Aperio packs YCbCr and RGB.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for (compression, photometric) in [(33003, 6), (33005, 2)] {
        eosin_fuzz::slide(&eosin_fuzz::one_tile(compression, photometric, bytes));
    }
});
