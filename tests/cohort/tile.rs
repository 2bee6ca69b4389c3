//! Cropping, resizing and normalising, against Pillow and torchvision.

use std::fs;

use eosin::slides::Rgb8;
use eosin::slides::tile::{IMAGENET_MEAN, IMAGENET_STD, crop, normalise, place, resize};
use safetensors::SafeTensors;

use crate::formula;
use crate::support::{golden, picture, refused};

/// The picture of the golden cases: a formula grid, bilinear between corners.
fn smooth(name: &str, cells: usize, width: usize, height: usize) -> Rgb8 {
    let grid = formula::values(name, cells * cells * 3, 0.0, 255.0);
    let at = |i: usize, n: usize| {
        let position = i as f64 * (cells - 1) as f64 / (n - 1) as f64;
        let cell = (position.floor() as usize).min(cells - 2);
        (cell, position - cell as f64)
    };
    let mut data = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let (row, v) = at(y, height);
        for x in 0..width {
            let (column, u) = at(x, width);
            for c in 0..3 {
                let g =
                    |r: usize, q: usize| f64::from(grid[((row + r) * cells + column + q) * 3 + c]);
                let value = (1.0 - v) * ((1.0 - u) * g(0, 0) + u * g(0, 1))
                    + v * ((1.0 - u) * g(1, 0) + u * g(1, 1));
                data.push((value + 0.5).floor() as u8);
            }
        }
    }
    Rgb8 {
        width,
        height,
        data,
    }
}

fn noise(name: &str, side: usize) -> Rgb8 {
    Rgb8 {
        width: side,
        height: side,
        data: formula::values(name, side * side * 3, 0.0, 256.0)
            .into_iter()
            .map(|v| v.floor() as u8)
            .collect(),
    }
}

fn sum(image: &Rgb8) -> u64 {
    image.data.iter().map(|&v| u64::from(v)).sum()
}

/// Every `step`th pixel of every `step`th row.
fn thin(image: &Rgb8, step: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for y in (0..image.height).step_by(step) {
        for x in (0..image.width).step_by(step) {
            let i = (y * image.width + x) * 3;
            out.extend_from_slice(&image.data[i..i + 3]);
        }
    }
    out
}

#[test]
fn resize_agrees_with_pillow_within_one_level() {
    let bytes = fs::read(golden("imaging_resize.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    // Case, source, sum of the source, target, tensor, its thinning, sum of Pillow's result.
    let cases = [
        (
            "smooth_112",
            smooth("imaging/resize_112", 9, 112, 112),
            Some(5_103_510),
            (224, 224),
            ("smooth_112.pil_u8", 1),
            20_449_318u64,
        ),
        (
            "noise_112",
            noise("imaging/resize_noise_112", 112),
            Some(4_814_611),
            (224, 224),
            ("noise_112.pil_u8_every_3rd", 3),
            19_295_688,
        ),
        (
            "smooth_512",
            smooth("imaging/resize_512", 17, 512, 512),
            Some(102_676_152),
            (224, 224),
            ("smooth_512.pil_u8", 1),
            19_660_234,
        ),
        (
            "noise_512",
            noise("imaging/resize_noise_512", 512),
            Some(100_255_861),
            (224, 224),
            ("noise_512.pil_u8_every_3rd", 3),
            19_189_725,
        ),
        (
            "short_side_224",
            smooth("imaging/resize_300x401", 11, 401, 300),
            None,
            (299, 224),
            ("short_side_224.pil_u8_every_4th", 4),
            24_106_650,
        ),
    ];
    for (case, source, source_sum, (width, height), (tensor, step), pillow_sum) in cases {
        if let Some(expected) = source_sum {
            assert_eq!(sum(&source), expected, "{case}: the source");
        }
        let ours = resize(&source, width, height).unwrap();
        let pillow = stored.tensor(tensor).unwrap();
        let ours_thin = thin(&ours, step);
        assert_eq!(ours_thin.len(), pillow.data().len(), "{case}");
        let differences = || {
            ours_thin
                .iter()
                .zip(pillow.data())
                .map(|(a, b)| a.abs_diff(*b))
        };
        let other = differences().filter(|&d| d > 0).count();
        let total = sum(&ours);
        eprintln!(
            "{case}: {other} of {} levels differ, sum {total} against {pillow_sum}",
            ours_thin.len()
        );
        assert!(differences().all(|d| d <= 1), "{case}");
        // No level off by more than one, and no bias: half a percent of all.
        assert!(
            total.abs_diff(pillow_sum) <= ours.data.len() as u64 / 200,
            "{case}"
        );
    }
}

#[test]
fn normalise_agrees_with_torchvision() {
    let bytes = fs::read(golden("imaging_normalise.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let tile = smooth("imaging/resize_112", 9, 112, 112);
    for (name, mean, std) in [
        ("imagenet_every_4th", IMAGENET_MEAN, IMAGENET_STD),
        ("half_every_4th", [0.5; 3], [0.5; 3]),
    ] {
        let expected = stored.tensor(name).unwrap();
        let mut out = vec![0.0; tile.data.len()];
        normalise(&tile, mean, std, &mut out).unwrap();
        assert_eq!(expected.shape(), [3, 28, 28]);
        for (i, bytes) in expected.data().chunks_exact(4).enumerate() {
            let expected = f32::from_le_bytes(bytes.try_into().unwrap());
            let (c, y, x) = (i / 784, i / 28 % 28 * 4, i % 28 * 4);
            let ours = out[(y * 112 + x) * 3 + c];
            assert!(
                (ours - expected).abs() <= 1e-6,
                "{name} {c} {y} {x}: {ours} {expected}"
            );
        }
    }
    refused(
        normalise(&tile, IMAGENET_MEAN, IMAGENET_STD, &mut [0.0; 3]),
        &["normalise", "[112, 112, 3]"],
    );
}

#[test]
fn crop_takes_the_square_around_the_centre() {
    let image = picture(20, 10, 0);
    let tile = crop(&image, (7.9, 4.2), 4).unwrap();
    assert_eq!((tile.width, tile.height), (4, 4));
    for y in 0..4 {
        for x in 0..4 {
            let from = ((y + 2) * 20 + x + 5) * 3;
            assert_eq!(
                tile.data[(y * 4 + x) * 3..][..3],
                image.data[from..from + 3]
            );
        }
    }
    // The published readers cut [floor(c) - r, floor(c) + r) with r = 112 / 2.
    assert_eq!(
        place((9274, 9911), (6930.58, 3510.24), 112).unwrap(),
        (6874, 3454)
    );
}

#[test]
fn a_tile_that_leaves_the_image_is_an_error() {
    let image = picture(20, 10, 0);
    for inside in [(2.0, 2.0), (18.99, 8.99), (18.0, 8.0)] {
        crop(&image, inside, 4).unwrap();
    }
    for outside in [
        (1.99, 5.0),
        (5.0, 1.99),
        (19.0, 5.0),
        (5.0, 9.0),
        (-1e300, 5.0),
        (1e300, 5.0),
        (f64::NAN, 5.0),
        (f64::INFINITY, 5.0),
    ] {
        refused(
            crop(&image, outside, 4),
            &["leaves the image of 20 x 10 px"],
        );
    }
    refused(crop(&image, (5.0, 5.0), 11), &["leaves the image"]);
    refused(crop(&image, (5.0, 5.0), usize::MAX), &["leaves the image"]);
    refused(crop(&image, (5.0, 5.0), 0), &["leaves the image"]);
    refused(resize(&image, 0, 4), &["resize"]);
}
