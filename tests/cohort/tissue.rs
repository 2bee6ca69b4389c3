//! Tissue masks, outlines, squares and the quality of tiles.

use std::fs;

use eosin::slides::Rgb8;
use eosin::slides::tissue::grid::{GridRule, squares};
use eosin::slides::tissue::quality::{QualityRule, contrast, sharpness};
use eosin::slides::tissue::{Mask, Measure, TissueRule, contour, on, otsu};
use safetensors::SafeTensors;

use crate::formula;
use crate::support::{golden, refused};

#[test]
fn otsu_is_scikit_images() {
    let bytes = fs::read(golden("imaging_otsu.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let ihc = stored.tensor("ihc_crop").unwrap().data().to_vec();
    let grey = stored.tensor("ihc_gray").unwrap().data().to_vec();
    let floor = |name: &str, lo: f64, hi: f64| -> Vec<u8> {
        let values = formula::values(name, 64 * 80, lo, hi);
        values.into_iter().map(|v| v.floor() as u8).collect()
    };
    let pick = formula::values("imaging/otsu_pick", 64 * 80, 0.0, 1.0);
    let dark = floor("imaging/otsu_b", 20.0, 90.0);
    let light = floor("imaging/otsu_c", 140.0, 250.0);
    let bimodal = |i: usize| if pick[i] < 0.4 { dark[i] } else { light[i] };
    // As scikit-image has HSV's saturation, rounded.
    let saturation = |p: &[u8]| {
        let max = f64::from(p[0].max(p[1]).max(p[2])) / 255.0;
        let min = f64::from(p[0].min(p[1]).min(p[2])) / 255.0;
        let s = if max > 0.0 { (max - min) / max } else { 0.0 };
        (s * 255.0).round_ties_even() as u8
    };
    let cases: [(&str, Vec<u8>, u8, usize); 5] = [
        ("uniform", floor("imaging/otsu_a", 0.0, 256.0), 126, 2518),
        ("bimodal", (0..pick.len()).map(bimodal).collect(), 89, 3087),
        (
            "two values",
            pick.iter()
                .map(|&p| if p < 0.97 { 200 } else { 10 })
                .collect(),
            10,
            4967,
        ),
        ("ihc grey", grey, 128, 24_196),
        (
            "ihc saturation",
            ihc.chunks_exact(3).map(saturation).collect(),
            93,
            37_805,
        ),
    ];
    for (case, values, threshold, above) in cases {
        assert_eq!(otsu(&values), Some(threshold), "{case}");
        assert_eq!(
            values.iter().filter(|&&v| v > threshold).count(),
            above,
            "{case}"
        );
    }
    assert_eq!(otsu(&[]), None);
    assert_eq!(otsu(&[9, 9, 9]), Some(9));
}

const GLASS: [u8; 3] = [243, 242, 244];
const STAIN: [u8; 3] = [190, 110, 170];

/// Glass with a little noise, and boxes (x, y, width, height) of colours.
fn drawn(boxes: &[([usize; 4], [u8; 3])]) -> Rgb8 {
    let (width, height) = (100, 80);
    let mut data = Vec::new();
    for i in 0..width * height {
        data.extend(GLASS.map(|v| v - (i * 7 % 5) as u8));
    }
    for ([x, y, w, h], colour) in boxes {
        for row in *y..y + h {
            for column in *x..x + w {
                data[(row * width + column) * 3..][..3].copy_from_slice(colour);
            }
        }
    }
    Rgb8 {
        width,
        height,
        data,
    }
}

fn area(mask: &Mask) -> usize {
    mask.tissue.iter().filter(|&&t| t).count()
}

#[test]
fn holes_and_specks_go_by_their_area_and_pens_by_their_colour() {
    let rule = TissueRule {
        close_um: 0.0,
        min_hole_um2: 17.0,
        min_piece_um2: 17.0,
        ..TissueRule::default()
    };
    let view = drawn(&[
        ([10, 10, 40, 30], STAIN),
        ([20, 20, 4, 4], GLASS),
        ([30, 20, 6, 5], GLASS),
        ([80, 60, 4, 4], STAIN),
        ([60, 10, 6, 5], STAIN),
    ]);
    for measure in [Measure::Saturation, Measure::Grey, Measure::OpticalDensity] {
        // A pixel is one square micrometre: 16 are too few, 17 are not.
        let mask = on(&view, &TissueRule { measure, ..rule }, 1.0);
        assert_eq!(area(&mask), 1200 - 30 + 30, "{measure:?}");
        // Of four square micrometres each, everything stays.
        let mask = on(&view, &TissueRule { measure, ..rule }, 4.0);
        assert_eq!(area(&mask), 1200 - 16 - 30 + 16 + 30, "{measure:?}");
    }
    // A gap of 4 px closes at 4 µm, not at 2.
    let split = drawn(&[([10, 10, 20, 20], STAIN), ([34, 10, 20, 20], STAIN)]);
    let closed = |close_um| area(&on(&split, &TissueRule { close_um, ..rule }, 1.0));
    assert_eq!((closed(2.0), closed(4.0)), (800, 880));

    let inked = drawn(&[
        ([10, 10, 40, 30], STAIN),
        ([60, 10, 10, 60], [30, 60, 170]),
        ([75, 10, 10, 60], [40, 140, 70]),
        ([90, 10, 8, 60], [20, 20, 25]),
    ]);
    let pens = TissueRule {
        remove_pen: true,
        ..rule
    };
    assert!(area(&on(&inked, &rule, 1.0)) > 1200);
    assert_eq!(area(&on(&inked, &pens, 1.0)), 1200);
}

#[test]
fn an_empty_slide_has_no_tissue() {
    let view = drawn(&[]);
    for measure in [Measure::Saturation, Measure::Grey, Measure::OpticalDensity] {
        let rule = TissueRule {
            measure,
            ..TissueRule::default()
        };
        let mask = on(&view, &rule, 64.0);
        assert_eq!(area(&mask), 0, "{measure:?}");
        assert!(contour::trace(&mask).is_empty());
        assert!(
            squares((800, 640), 80.0, 10, &mask, &GridRule::default())
                .unwrap()
                .is_empty()
        );
    }
}

fn mask(rows: &[&str]) -> Mask {
    Mask {
        width: rows[0].len(),
        height: rows.len(),
        tissue: rows
            .iter()
            .flat_map(|r| r.bytes().map(|b| b == b'#'))
            .collect(),
        step: (10.0, 10.0),
        threshold: 0,
    }
}

/// Twice the signed area.
fn doubled(ring: &[(usize, usize)]) -> i64 {
    let points: Vec<(i64, i64)> = ring.iter().map(|&(x, y)| (x as i64, y as i64)).collect();
    points
        .windows(2)
        .map(|w| w[0].0 * w[1].1 - w[1].0 * w[0].1)
        .sum()
}

#[test]
fn outlines_enclose_what_the_mask_holds() {
    let mask = mask(&[
        "####....", //
        "#..#.##.", "#.##.#.#", "####..##", "......##",
    ]);
    let pieces = contour::trace(&mask);
    // Corners do not join.
    assert_eq!(pieces.len(), 3);
    let tissue = mask.tissue.iter().filter(|&&t| t).count() as i64;
    let enclosed: i64 = pieces.iter().flatten().map(|ring| doubled(ring)).sum();
    assert_eq!(enclosed, 2 * tissue);
    assert_eq!(pieces[0].len(), 2, "an outline and a hole");
    assert_eq!(pieces[0][0], [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0)]);
    for rings in &pieces {
        assert!(doubled(&rings[0]) > 0);
        assert!(rings[1..].iter().all(|hole| doubled(hole) < 0));
        assert!(rings.iter().all(|ring| ring.first() == ring.last()));
    }
    let json = contour::geojson(&mask);
    let first = &json["features"][0]["geometry"]["coordinates"][0][1];
    assert_eq!(first, &serde_json::json!([40.0, 0.0]));
}

#[test]
fn squares_lie_on_tissue_and_within_the_slide() {
    let mask = mask(&["##..", "##..", "....", "...#"]);
    let all = |rule: &GridRule| squares((40, 40), 10.0, 100, &mask, rule).unwrap();
    let rule = GridRule::default();
    assert_eq!(all(&rule), [(0, 0), (10, 0), (0, 10), (10, 10), (30, 30)]);
    // Half of (15, y) lies on tissue: below the share that is asked for, or above it.
    let overlap = GridRule {
        overlap: 50,
        min_tissue: 0.6,
        ..rule
    };
    let dense = all(&overlap);
    assert!(dense.contains(&(5, 5)) && dense.iter().all(|&(x, y)| x <= 30 && y <= 30));
    let few = GridRule {
        max_tiles: Some(2),
        seed: 3,
        ..rule
    };
    let chosen = all(&few);
    assert_eq!(chosen.len(), 2);
    assert_eq!(chosen, all(&few), "the same seed");
    assert!(
        chosen.iter().all(|at| all(&rule).contains(at)) && chosen.is_sorted_by_key(|c| (c.1, c.0))
    );
    assert!(squares((5, 5), 10.0, 100, &mask, &rule).unwrap().is_empty());
    let random = |seed| {
        let rule = GridRule {
            random: Some(6),
            min_tissue: 0.9,
            seed,
            ..rule
        };
        all(&rule)
    };
    let places = random(1);
    assert_eq!(places.len(), 6);
    assert!(places == random(1) && places != random(2));
    assert!(
        places.iter().any(|&(x, y)| x % 10 != 0 || y % 10 != 0),
        "off the grid"
    );
    for &(x, y) in &places {
        let on = |at: i64, from: i64, to: i64| (from - 5..=to + 5).contains(&at);
        let within = (0..=30).contains(&x) && (0..=30).contains(&y);
        let block = on(x, 0, 10) && on(y, 0, 10);
        assert!(
            within && (block || (on(x, 30, 30) && on(y, 30, 30))),
            "{x} {y}"
        );
    }
    let bad = GridRule {
        overlap: 100,
        ..rule
    };
    refused(
        squares((40, 40), 10.0, 100, &mask, &bad),
        &["cannot overlap by 100"],
    );
}

#[test]
fn tiles_that_show_nothing_say_why() {
    let flat = Rgb8 {
        width: 32,
        height: 32,
        data: vec![200; 32 * 32 * 3],
    };
    let rule = QualityRule::default();
    assert!(
        rule.refusal(&flat)
            .is_some_and(|why| why.contains("low contrast"))
    );
    let stripes: Vec<u8> = (0..32 * 32)
        .map(|i| if i % 2 == 0 { 60 } else { 200 })
        .collect();
    let sharp = Rgb8 {
        data: stripes.iter().flat_map(|&v| [v; 3]).collect(),
        ..flat.clone()
    };
    assert_eq!(rule.refusal(&sharp), None);
    assert_eq!(contrast(&stripes), 140.0 / 255.0);
    // The Laplacian of the stripes is 280 and -280 by turns.
    assert_eq!(sharpness(&stripes, 32), 280.0 * 280.0);
    let ramp: Vec<u8> = (0..32 * 32).map(|i| (i % 32 * 8) as u8).collect();
    assert_eq!(sharpness(&ramp, 32), 0.0);
    let focus = QualityRule {
        min_sharpness: 1.0,
        ..rule
    };
    let smooth = Rgb8 {
        data: ramp.iter().flat_map(|&v| [v; 3]).collect(),
        ..flat
    };
    assert!(
        focus
            .refusal(&smooth)
            .is_some_and(|why| why.contains("out of focus"))
    );
}
