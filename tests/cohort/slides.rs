//! Slides: what they hold, their scale, and what unsound ones get.

use std::fs;
use std::path::{Path, PathBuf};

use eosin::slides::reader::Facts;
use eosin::slides::scale::{Sampling, read_list};
use eosin::slides::{self, Rgb8, Slide, image, overview, scale, tile};
use tempfile::tempdir;

use crate::support::{fixture, picture, put, refused};
use crate::tiff::{CLASSIC, Packing, Page, Style, tiff};

fn whole(slide: &dyn Slide, level: usize) -> Rgb8 {
    let at = &slide.facts().levels[level];
    slide
        .read_region(level, (0, 0), (at.width, at.height))
        .unwrap()
}

/// The largest and the mean signed difference, in levels.
fn apart(a: &Rgb8, b: &Rgb8) -> (u8, f64) {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let pairs = || a.data.iter().zip(&b.data);
    let worst = pairs().map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    let bias: f64 = pairs().map(|(a, b)| f64::from(*a) - f64::from(*b)).sum();
    (worst, bias / a.data.len() as f64)
}

/// Against OpenSlide 4 (see make_slides.py). JPEG decoders may round transform
/// and colours by a level each; 4:2:0 adds chroma upsampling.
#[test]
fn levels_are_as_openslide_reads_them() {
    let slides = [
        ("rgb.svs", "Aperio", 2, 1),
        ("ycbcr.svs", "Aperio", 2, 4),
        ("j2k_rgb.svs", "Aperio", 2, 1),
        ("j2k_ycbcr.svs", "Aperio", 2, 2),
        ("pyramid.ome.tif", "OME-TIFF", 2, 4),
        ("tables.tif", "generic TIFF", 3, 4),
    ];
    for (name, vendor, levels, most) in slides {
        let slide = slides::open(fixture(name)).unwrap();
        let facts = slide.facts();
        assert_eq!(facts.vendor, vendor, "{name}");
        assert_eq!(facts.levels.len(), levels, "{name}: {facts:?}");
        assert!(facts.unread.is_empty(), "{name}: {facts:?}");
        for level in 0..levels {
            let seen = fixture(&format!("{name}.{level}.png"));
            if !seen.exists() {
                // OpenSlide does not look for an OME-TIFF's reduced versions.
                assert_eq!((name, level), ("pyramid.ome.tif", 1));
                continue;
            }
            let (worst, bias) = apart(&whole(&*slide, level), &image::read(seen).unwrap());
            eprintln!("{name} level {level}: at most {worst} levels, {bias:+.3} in the mean");
            assert!(worst <= most, "{name} level {level}: {worst} levels");
            assert!(bias.abs() < 0.5, "{name} level {level}: {bias}");
        }
    }
}

#[test]
fn a_slide_says_its_scale_and_its_pictures() {
    let slide = slides::open(fixture("rgb.svs")).unwrap();
    let facts = slide.facts();
    assert_eq!(facts.magnification, Some(20.0));
    assert_eq!(facts.levels[1].downsample, 2.0);
    let names: Vec<&str> = facts.associated.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["thumbnail", "label", "macro"]);
    let label = slide.read_associated("label").unwrap();
    assert_eq!((label.width, label.height), (32, 24));
    assert!(label.data.iter().all(|&v| v == 200));
    refused(slide.read_associated("face"), &["`face`", "label"]);
    let of = |name: &str| scale::of(slides::open(fixture(name)).unwrap().facts(), None).unwrap();
    assert_eq!(
        (of("rgb.svs").mpp, of("rgb.svs").source),
        (0.499, "Aperio's MPP".into())
    );
    assert_eq!(of("pyramid.ome.tif").mpp, 0.25);
    assert!((of("tables.tif").mpp - 0.5).abs() < 1e-6);
    assert!(of("tables.tif").source.contains("XResolution"));
}

const PACKINGS: [Packing; 4] = [
    Packing::None,
    Packing::Lzw,
    Packing::LzwDifferences,
    Packing::Deflate,
];

#[test]
fn every_style_and_packing_gives_the_pixels_back() {
    let folder = tempdir().unwrap();
    let image = picture(101, 83, 3);
    for big in [false, true] {
        for little in [false, true] {
            for (i, packing) in PACKINGS.into_iter().enumerate() {
                for cut in [(32, 16), (0, 10)] {
                    let page = Page::new(&image, cut, packing);
                    let path = folder.path().join(format!("{big}{little}{i}{}.tif", cut.0));
                    put(&path, tiff(Style { big, little }, &[page]));
                    let slide = slides::open(&path).unwrap();
                    assert_eq!(whole(&*slide, 0), image, "{}", path.display());
                    // A region that leaves the slide at two sides.
                    let part = slide.read_region(0, (-5, 70), (40, 30)).unwrap();
                    for y in 0..30 {
                        for x in 0..40 {
                            let inside = x >= 5 && y + 70 < 83;
                            let at = ((y + 70) * 101 + x.max(5) - 5) * 3;
                            let expected = if inside {
                                &image.data[at..at + 3]
                            } else {
                                &[255; 3]
                            };
                            assert_eq!(&part.data[(y * 40 + x) * 3..][..3], expected);
                        }
                    }
                }
            }
        }
    }
}

/// A slide of one level with this description and these tags.
fn described(folder: &Path, description: &str, tags: Vec<(u16, u16, Vec<u64>)>) -> Facts {
    let image = picture(40, 40, 1);
    let mut page = Page::new(&image, (16, 16), Packing::None);
    page.description = description;
    page.tags = tags;
    let path = folder.join("described.tif");
    put(&path, tiff(CLASSIC, &[page]));
    slides::open(&path).unwrap().facts().clone()
}

fn resolution(per_unit: u64, unit: u64) -> Vec<(u16, u16, Vec<u64>)> {
    vec![
        (282, 5, vec![per_unit, 1]),
        (283, 5, vec![per_unit, 1]),
        (296, 3, vec![unit]),
    ]
}

#[test]
fn a_scale_that_is_missing_or_cannot_be_is_refused_by_name() {
    let folder = tempdir().unwrap();
    let of =
        |description: &str, tags| scale::of(&described(folder.path(), description, tags), None);
    let name = "described.tif";
    refused(
        of("", vec![]),
        &[name, "does not state its scale", "wsi,mpp"],
    );
    // 72 dots per inch: a program's default.
    refused(of("", resolution(72, 2)), &[name, "352.7778"]);
    for mpp in ["0", "10000", "-1", "NaN", "inf"] {
        let text = format!("Aperio x|AppMag = 20|MPP = {mpp}");
        refused(of(&text, vec![]), &[name, "does not state its scale"]);
    }
    refused(
        of("Aperio x|AppMag = 40", vec![]),
        &["an objective of 40x is no scale"],
    );
    refused(
        of("Aperio x|AppMag = 40|MPP = 2.5", vec![]),
        &[name, "contradicts itself", "2.5000", "0.25"],
    );
    let mut oblong = resolution(20_000, 3);
    oblong[1].2 = vec![10_000, 1];
    refused(of("", oblong), &[name, "not square"]);
    // The vendor's word is before TIFF's tags, a sane one before others.
    assert_eq!(
        of("Aperio x|MPP = 0.25", resolution(20_000, 3))
            .unwrap()
            .mpp,
        0.25
    );
    assert_eq!(
        of("Aperio x|MPP = 0", resolution(20_000, 3)).unwrap().mpp,
        0.5
    );
    assert!((of("", resolution(50_800, 2)).unwrap().mpp - 0.5).abs() < 1e-9);
    let given = scale::of(&described(folder.path(), "", vec![]), Some(0.3)).unwrap();
    assert_eq!(
        (given.mpp, given.source.as_str()),
        (0.3, "given by the user")
    );
    refused(
        scale::of(&described(folder.path(), "", vec![]), Some(0.0)),
        &["0 micrometres"],
    );

    let list = folder.path().join("list.csv");
    put(&list, "wsi,mpp\na.svs,0.25\nb.svs,\n");
    let rows = read_list(&list).unwrap();
    assert_eq!(
        (rows[0].wsi.as_str(), rows[0].mpp, rows[1].mpp),
        ("a.svs", Some(0.25), None)
    );
    for (text, parts) in [
        ("slide,mpp\na,1\n", ["line 1", "`wsi`"]),
        ("wsi,mpp\na,1\nb,0\n", ["line 3", "`0`"]),
        ("wsi,mpp\na,fine\n", ["line 2", "`fine`"]),
    ] {
        put(&list, text);
        refused(read_list(&list), &parts);
    }
}

/// Four levels of 0.25 µm: tiles of 1 µm come from the third, of 0.75 µm from the second.
#[test]
fn tiles_come_from_the_next_finer_level_antialiased() {
    let folder = tempdir().unwrap();
    let mut levels = vec![picture(256, 256, 1)];
    for side in [128, 64, 32] {
        levels.push(tile::resize(&levels[0], side, side).unwrap());
    }
    let pages: Vec<Page> = (levels.iter())
        .map(|image| {
            let mut page = Page::new(image, (32, 32), Packing::Deflate);
            page.tags = resolution(40_000, 3);
            page
        })
        .collect();
    let path = folder.path().join("pyramid.tif");
    put(&path, tiff(CLASSIC, &pages));
    let slide = slides::open(&path).unwrap();
    let facts = slide.facts();
    let of = scale::of(facts, None).unwrap();
    let sampling = |mpp, px| Sampling::new(facts, &of, mpp, px).unwrap();
    let level = |mpp| sampling(mpp, 16).level;
    assert_eq!(
        [0.25, 0.4999, 0.5, 0.75, 1.0, 1.9, 9.0].map(level),
        [0, 1, 1, 1, 2, 2, 3]
    );
    // A level's own scale is that level, untouched.
    let ours = sampling(0.5, 16).read(&*slide, (64, 32)).unwrap();
    assert_eq!(ours, slide.read_region(1, (32, 16), (16, 16)).unwrap());
    // Between levels: a square of the finer one, resized as Pillow does.
    let ours = sampling(0.75, 16).read(&*slide, (64, 32)).unwrap();
    let source = slide.read_region(1, (32, 16), (24, 24)).unwrap();
    assert_eq!(ours, tile::resize(&source, 16, 16).unwrap());
    refused(
        Sampling::new(facts, &of, 0.2, 16),
        &["pyramid.tif", "too coarse"],
    );
    assert!(Sampling::new(facts, &of, 0.24, 16).is_ok());
    // The overview has no seams: it is the resized whole, whatever the pieces.
    let small = overview::overview(&*slide, 8.0).unwrap();
    assert_eq!(small, levels[3]);
    let odd = overview::overview(&*slide, 1.0 / 1.7).unwrap();
    assert_eq!(
        odd,
        tile::resize(&levels[0], odd.width, odd.height).unwrap()
    );
}

fn read_all(path: &Path) -> eosin::Result<()> {
    let slide = slides::open(path)?;
    for (i, level) in slide.facts().levels.iter().enumerate() {
        // A damaged size may be in bounds: look at what a user would.
        let size = (level.width.min(300), level.height.min(300));
        slide.read_region(i, (0, 0), size)?;
    }
    for picture in &slide.facts().associated {
        if picture.width.saturating_mul(picture.height) < 1 << 20 {
            slide.read_associated(&picture.name)?;
        }
    }
    Ok(())
}

#[test]
fn unsound_files_are_refused_by_name_and_place() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("bad.tif");
    let image = picture(64, 64, 1);
    let page = |tags: Vec<(u16, u16, Vec<u64>)>| {
        let mut page = Page::new(&image, (32, 32), Packing::Deflate);
        page.tags = tags;
        page
    };
    let bad = |bytes: Vec<u8>, parts: &[&str]| {
        put(&path, bytes);
        let parts: Vec<&str> = ["bad.tif"]
            .into_iter()
            .chain(parts.iter().copied())
            .collect();
        refused(read_all(&path), &parts)
    };
    let with =
        |tag: u16, kind: u16, values: Vec<u64>| tiff(CLASSIC, &[page(vec![(tag, kind, values)])]);
    bad(with(322, 4, vec![1 << 24]), &["directory 0", "pieces"]);
    bad(with(323, 4, vec![0]), &["directory 0", "tile height"]);
    bad(with(256, 4, vec![0]), &["no width"]);
    bad(
        with(256, 4, vec![u64::from(u32::MAX)]),
        &["no width, or one out of bounds"],
    );
    bad(
        with(256, 4, vec![1 << 20]),
        &["where all its 65536 pieces are"],
    );
    bad(with(324, 4, vec![]), &["where all its 4 pieces are"]);
    bad(
        with(324, 4, vec![1 << 30; 4]),
        &["tile 0", "1073741824", "past the end"],
    );
    bad(with(325, 4, vec![5; 4]), &["tile 0 (column 0, row 0)"]);
    bad(with(258, 3, vec![16; 3]), &["8 bits", "vips tiffsave"]);
    bad(with(259, 3, vec![50_000]), &["compression 50000"]);
    bad(with(259, 3, vec![7]), &["tile 0", "is not a JPEG"]);
    bad(with(259, 3, vec![33_005]), &["tile 0", "is not JPEG 2000"]);
    bad(with(262, 3, vec![5]), &["colours"]);
    // A list that would end past the file: a huge count of descriptions.
    let mut sound = tiff(CLASSIC, &[page(vec![])]);
    let first = u32::from_le_bytes(sound[4..8].try_into().unwrap()) as usize;
    let last = sound.len() - 4;
    // The chain of directories bites its tail.
    sound[last..].copy_from_slice(&(first as u32).to_le_bytes());
    bad(sound.clone(), &["directory 1", "loop"]);
    sound[last..].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    bad(sound.clone(), &["directory 1", "past the end"]);
    sound[last..].copy_from_slice(&[0; 4]);
    sound[first + 2 + 4..first + 2 + 8].copy_from_slice(&u32::MAX.to_le_bytes());
    bad(sound, &["tag 256", "4294967295 values"]);
    bad(b"II*\0".to_vec(), &["ends early"]);
    // A deflate stream that goes on for ever costs no more than its tile.
    let bomb = tiff(
        CLASSIC,
        &[page(vec![
            (256, 4, vec![16]),
            (257, 4, vec![16]),
            (322, 4, vec![16]),
            (323, 4, vec![16]),
        ])],
    );
    put(&path, bomb);
    read_all(&path).unwrap();
    // A hole is white.
    put(&path, with(325, 4, vec![0; 4]));
    let slide = slides::open(&path).unwrap();
    assert!(whole(&*slide, 0).data.iter().all(|&v| v == 255));
    refused(
        slide.read_region(3, (0, 0), (1, 1)).map(drop),
        &["no level 3"],
    );
    refused(
        slide.read_region(0, (0, 0), (1 << 20, 1 << 20)).map(drop),
        &["at once"],
    );
}

/// Every byte of the structure wrong in turn, and every length: an error or a
/// picture, never a panic.
#[test]
fn truncated_and_flipped_files_do_not_panic() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("flipped.tif");
    let image = picture(24, 24, 1);
    let mut page = Page::new(&image, (16, 16), Packing::Lzw);
    page.description = "Aperio x|AppMag = 20|MPP = 0.5";
    let sound = tiff(CLASSIC, &[page]);
    for at in 0..sound.len() {
        let mut bytes = sound.clone();
        for flip in [0x01, 0x80, 0xff] {
            bytes[at] = sound[at] ^ flip;
            put(&path, &bytes);
            read_all(&path).ok();
        }
    }
    for length in 0..sound.len() {
        put(&path, &sound[..length]);
        read_all(&path).ok();
    }
    for name in ["rgb.svs", "tables.tif", "j2k_rgb.svs"] {
        let sound = fs::read(fixture(name)).unwrap();
        let mut bytes = sound.clone();
        for at in (0..sound.len()).step_by(97) {
            bytes[at] ^= 0x5a;
            put(&path, &bytes);
            read_all(&path).ok();
            bytes[at] = sound[at];
        }
    }
}

#[test]
fn a_slide_that_changes_is_noticed() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("copied.tif");
    let image = picture(64, 64, 1);
    let bytes = tiff(CLASSIC, &[Page::new(&image, (32, 32), Packing::None)]);
    put(&path, &bytes);
    let slide = slides::open(&path).unwrap();
    slide.read_region(0, (0, 0), (32, 32)).unwrap();
    let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 + 1).unwrap();
    refused(
        slide.read_region(0, (32, 32), (32, 32)),
        &["copied.tif", "changed while it was read"],
    );
}

#[test]
fn other_kinds_are_told_apart() {
    let folder = tempdir().unwrap();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    let plain = slides::open(fixture("baseline_420.jpg")).unwrap();
    assert_eq!(plain.facts().levels[0].width, 75);
    refused(
        scale::of(plain.facts(), None),
        &["baseline_420.jpg", "does not state its scale"],
    );
    let part = plain.read_region(0, (70, 50), (10, 10)).unwrap();
    assert_eq!(part.data[9 * 3..10 * 3], [255; 3]);
    put(&at("text.svs"), "no slide");
    refused(
        slides::open(at("text.svs")).map(drop),
        &["text.svs", "neither TIFF"],
    );
    refused(slides::open(at("none.svs")).map(drop), &["none.svs"]);
    // Wherever the tests run, a broken NDPI is refused: by OpenSlide, or for want of it.
    put(&at("broken.ndpi"), "no slide");
    refused(
        slides::open(at("broken.ndpi")).map(drop),
        &["broken.ndpi", "OpenSlide"],
    );
}
