//! ICC profiles: against littlecms, and where they lie in files.

use std::fs;
use std::path::Path;

use eosin::slides::icc::{Transform, corrected};
use eosin::slides::{self, Rgb8, image};
use tempfile::tempdir;

use crate::icc::{P3, profile, tag};
use crate::support::{fixture, picture, put, refused};
use crate::tiff::{CLASSIC, Packing, Page, tiff};

const PIXELS: [[u8; 3]; 8] = [
    [200, 120, 180],
    [90, 40, 110],
    [230, 210, 225],
    [255, 255, 255],
    [0, 0, 0],
    [128, 128, 128],
    [170, 60, 90],
    [60, 170, 200],
];

fn of(pixels: &[[u8; 3]]) -> Rgb8 {
    Rgb8 {
        width: pixels.len(),
        height: 1,
        data: pixels.concat(),
    }
}

/// Numbers of Pillow 13 (littlecms), `profileToProfile` to its own sRGB, intent 0, of the
/// same profiles. Both sides round in several places.
#[test]
fn levels_are_those_of_littlecms() {
    const SRGB: [[f64; 3]; 3] = [
        [0.4360, 0.2225, 0.0139],
        [0.3851, 0.7169, 0.0971],
        [0.1431, 0.0606, 0.7139],
    ];
    let cases = [
        (
            profile(P3, [2.2; 3], b"RGB "),
            [
                [214, 116, 185],
                [97, 31, 114],
                [235, 210, 227],
                [255, 255, 255],
                [0, 0, 0],
                [129, 129, 129],
                [186, 45, 89],
                [0, 174, 205],
            ],
        ),
        // Red and blue change places, each with a gamma of its own.
        (
            profile([SRGB[2], SRGB[1], SRGB[0]], [1.8, 2.2, 2.4], b"RGB "),
            [
                [176, 121, 210],
                [102, 35, 109],
                [223, 211, 235],
                [255, 255, 255],
                [0, 0, 0],
                [121, 129, 146],
                [81, 57, 184],
                [197, 172, 77],
            ],
        ),
    ];
    for (icc, expected) in cases {
        let mut image = of(&PIXELS);
        let transform = Transform::new(Path::new("s.svs"), &icc).unwrap();
        transform.apply(&mut image).unwrap();
        for (ours, theirs) in image.data.iter().zip(expected.as_flattened()) {
            let apart = ours.abs_diff(*theirs);
            assert!(apart <= 1, "{:?} in place of {expected:?}", image.data);
        }
    }
}

#[test]
fn profiles_are_found_in_tiff_jpeg_and_png() {
    let folder = tempdir().unwrap();
    let icc = profile(P3, [2.2; 3], b"RGB ");
    let transform = Transform::new(Path::new("s.svs"), &icc).unwrap();

    let image = picture(70, 50, 3);
    let mut page = Page::new(&image, (32, 32), Packing::Deflate);
    page.tags = vec![tag(&icc)];
    let tif = folder.path().join("slide.tif");
    put(&tif, tiff(CLASSIC, &[page]));

    let png = folder.path().join("tile.png");
    let mut info = png::Info::with_size(70, 50);
    info.color_type = png::ColorType::Rgb;
    info.bit_depth = png::BitDepth::Eight;
    info.icc_profile = Some(icc.clone().into());
    let encoder = png::Encoder::with_info(fs::File::create(&png).unwrap(), info).unwrap();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&image.data).unwrap();
    writer.finish().unwrap();

    // In an APP2 segment after the start of the file.
    let jpeg = folder.path().join("tile.jpg");
    let plain = fs::read(fixture("baseline_420.jpg")).unwrap();
    let mut bytes = plain[..2].to_vec();
    bytes.extend([0xff, 0xe2]);
    bytes.extend(((2 + 14 + icc.len()) as u16).to_be_bytes());
    bytes.extend(b"ICC_PROFILE\0\x01\x01");
    bytes.extend(&icc);
    bytes.extend(&plain[2..]);
    put(&jpeg, bytes);

    for path in [&tif, &png, &jpeg] {
        let slide = slides::open(path).unwrap();
        let level = &slide.facts().levels[0];
        let size = (level.width, level.height);
        let mut expected = slide.read_region(0, (0, 0), size).unwrap();
        let stored = expected.clone();
        transform.apply(&mut expected).unwrap();
        assert_ne!(expected, stored);
        let (slide, sha256) = corrected(slide).unwrap();
        assert_eq!(sha256.as_deref(), Some(transform.sha256()), "{path:?}");
        assert_eq!(slide.read_region(0, (0, 0), size).unwrap(), expected);
    }
    // Without a profile nothing changes.
    assert_eq!(image::profile(fixture("baseline_420.jpg")).unwrap(), None);
    let slide = slides::open(fixture("rgb.svs")).unwrap();
    assert_eq!(corrected(slide).unwrap().1, None);
}

#[test]
fn profiles_that_cannot_be_applied_are_refused_by_name() {
    let icc = profile(P3, [2.2; 3], b"RGB ");
    let path = Path::new("s.svs");
    refused(
        Transform::new(path, &icc[..200]),
        &["s.svs", "ICC", "--icc"],
    );
    refused(Transform::new(path, b"none"), &["s.svs", "ICC"]);
    let grey = profile(P3, [2.2; 3], b"GRAY");
    refused(Transform::new(path, &grey), &["s.svs", "not RGB"]);
    // Whatever byte is wrong, nothing breaks.
    for at in 0..icc.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = icc.clone();
            bytes[at] ^= flip;
            if let Ok(transform) = Transform::new(path, &bytes) {
                transform.apply(&mut of(&PIXELS)).unwrap();
            }
        }
    }
}
