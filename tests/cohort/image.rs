//! Images in and out, and what damaged ones get.

use std::fs;

use eosin::slides::Rgb8;
use eosin::slides::image::{dimensions, read, write_png};
use tempfile::tempdir;

use crate::support::{fixture, picture, put, refused};

fn worst(a: &Rgb8, b: &Rgb8) -> u8 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let pairs = a.data.iter().zip(&b.data);
    pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

/// Against Pillow's decoding (libjpeg-turbo). Decoders may round the inverse
/// transform and the colours each by one level; 4:2:0 adds that of chroma
/// upsampling, whose weight in a colour is at most 1.8.
#[test]
fn jpegs_decode_as_pillow_decodes_them() {
    for (name, levels) in [("baseline_420", 4), ("progressive_444", 3), ("grey", 1)] {
        let ours = read(fixture(&format!("{name}.jpg"))).unwrap();
        let pillow = read(fixture(&format!("{name}.png"))).unwrap();
        let difference = worst(&ours, &pillow);
        let signed = |(a, b): (&u8, &u8)| f64::from(*a) - f64::from(*b);
        let bias: f64 = ours.data.iter().zip(&pillow.data).map(signed).sum();
        let bias = bias / ours.data.len() as f64;
        eprintln!("{name}: at most {difference} levels, {bias:+.3} in the mean");
        assert!(bias.abs() < 0.5, "{name}: {bias}");
        assert!(difference <= levels, "{name}: {difference} levels");
        assert_eq!(
            dimensions(fixture(&format!("{name}.jpg"))).unwrap(),
            (75, 53)
        );
    }
}

#[test]
fn a_cmyk_jpeg_is_refused() {
    refused(
        read(fixture("cmyk.jpg")),
        &["cmyk.jpg", "CMYK", "convert it to RGB"],
    );
}

#[test]
fn a_truncated_jpeg_is_an_error_at_every_length() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("cut.jpg");
    for name in ["baseline_420.jpg", "progressive_444.jpg", "grey.jpg"] {
        let whole = fs::read(fixture(name)).unwrap();
        for len in 0..whole.len() {
            put(&path, &whole[..len]);
            let problem = if len < 3 { "cut.jpg" } else { "truncated" };
            refused(read(&path), &[problem]);
        }
        put(&path, &whole);
        read(&path).unwrap();
    }
    let whole = fs::read(fixture("baseline_420.jpg")).unwrap();
    put(&path, &whole[..whole.len() - 20]);
    refused(read(&path), &["truncated", "1426 bytes", "again"]);
}

#[test]
fn a_flipped_byte_never_panics() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("flipped.jpg");
    for name in ["baseline_420.jpg", "progressive_444.jpg", "grey.png"] {
        let whole = fs::read(fixture(name)).unwrap();
        for i in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[i] ^= 0xff;
            put(&path, &flipped);
            // Some flips are harmless; none may bring the reader down.
            if let Ok(image) = read(&path) {
                assert_eq!(image.data.len(), image.width * image.height * 3);
            }
        }
    }
}

#[test]
fn a_size_that_the_file_cannot_hold_is_refused_before_memory_is_asked_for() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("huge.jpg");
    let mut bytes = fs::read(fixture("baseline_420.jpg")).unwrap();
    let sof = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    bytes[sof + 5..sof + 9].copy_from_slice(&[0x9c, 0x40, 0x9c, 0x40]);
    put(&path, &bytes);
    refused(read(&path), &["huge.jpg", "40000 x 40000", "can hold"]);
    refused(
        dimensions(&path),
        &["huge.jpg", "40000 x 40000", "can hold"],
    );
    bytes[sof + 5..sof + 7].copy_from_slice(&[0xff, 0xff]);
    put(&path, &bytes);
    refused(read(&path), &["huge.jpg"]);

    let path = folder.path().join("huge.png");
    write_png(&path, &picture(8, 8, 0), &[]).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[16..24].copy_from_slice(&[0, 0, 0x9c, 0x40, 0, 0, 0x9c, 0x40]);
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    put(&path, &bytes);
    refused(read(&path), &["huge.png", "40000 x 40000", "can hold"]);
    bytes[16..20].copy_from_slice(&[0, 1, 0, 0]);
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    put(&path, &bytes);
    refused(
        read(&path),
        &["huge.png", "65536 x 40000", "40000 px a side"],
    );
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn other_content_is_refused_whatever_its_name() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("notes.jpg");
    put(&path, "not an image");
    refused(read(&path), &["notes.jpg", "neither a JPEG nor a PNG"]);
    put(&path, "");
    refused(read(&path), &["notes.jpg", "is empty"]);
    refused(read(folder.path()), &["is a folder"]);
    refused(
        read(folder.path().join("none.png")),
        &["none.png", "cannot read"],
    );
}

#[test]
fn a_png_comes_back_as_written_with_its_text() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.png");
    let image = picture(31, 17, 3);
    write_png(&path, &image, &[("Software", "eosin"), ("note", "été")]).unwrap();
    assert_eq!(read(&path).unwrap(), image);
    assert_eq!(dimensions(&path).unwrap(), (31, 17));
    let decoder = png::Decoder::new(std::io::Cursor::new(fs::read(&path).unwrap()));
    let reader = decoder.read_info().unwrap();
    let texts: Vec<(String, String)> = reader
        .info()
        .utf8_text
        .iter()
        .map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap()))
        .collect();
    assert_eq!(texts[0], ("Software".to_string(), "eosin".to_string()));
    assert_eq!(texts[1], ("note".to_string(), "été".to_string()));
}

#[test]
fn a_png_that_cannot_be_written_leaves_nothing() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.png");
    let image = picture(4, 4, 0);
    let too_long = "k".repeat(80);
    refused(write_png(&path, &image, &[(&too_long, "")]), &["a.png"]);
    let short = Rgb8 {
        data: vec![0; 5],
        ..image.clone()
    };
    refused(write_png(&path, &short, &[]), &["write_png", "[4, 4, 3]"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    refused(
        write_png(folder.path().join("no/a.png"), &image, &[]),
        &["cannot write", "no/a.png"],
    );
}

#[test]
fn pngs_of_every_kind_become_rgb() {
    use png::{BitDepth, ColorType};
    let folder = tempdir().unwrap();
    let path = folder.path().join("kind.png");
    let write = |colour, depth, palette: Option<&[u8]>, data: &[u8]| {
        let file = fs::File::create(&path).unwrap();
        let mut encoder = png::Encoder::new(file, 2, 1);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if let Some(palette) = palette {
            encoder.set_palette(palette.to_vec());
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(data).unwrap();
        writer.finish().unwrap();
        read(&path).unwrap().data
    };
    let eight = BitDepth::Eight;
    assert_eq!(
        write(ColorType::Grayscale, eight, None, &[7, 200]),
        [7, 7, 7, 200, 200, 200]
    );
    assert_eq!(
        write(ColorType::Grayscale, BitDepth::One, None, &[0b0100_0000]),
        [0, 0, 0, 255, 255, 255]
    );
    assert_eq!(
        write(
            ColorType::Grayscale,
            BitDepth::Sixteen,
            None,
            &[7, 9, 200, 1]
        ),
        [7, 7, 7, 200, 200, 200]
    );
    assert_eq!(
        write(
            ColorType::Indexed,
            eight,
            Some(&[1, 2, 3, 4, 5, 6]),
            &[1, 0]
        ),
        [4, 5, 6, 1, 2, 3]
    );
    // 100 at alpha 51 (a fifth) on white: 20 + 204.
    assert_eq!(
        write(ColorType::GrayscaleAlpha, eight, None, &[100, 51, 9, 0]),
        [224, 224, 224, 255, 255, 255]
    );
    assert_eq!(
        write(
            ColorType::Rgba,
            eight,
            None,
            &[100, 0, 50, 51, 1, 2, 3, 255]
        ),
        [224, 204, 214, 1, 2, 3]
    );
}

#[test]
fn a_truncated_png_is_an_error_at_every_length() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("cut.png");
    write_png(&path, &picture(9, 7, 1), &[("k", "v")]).unwrap();
    let whole = fs::read(&path).unwrap();
    for len in 0..whole.len() {
        put(&path, &whole[..len]);
        refused(read(&path), &["cut.png"]);
    }
}
