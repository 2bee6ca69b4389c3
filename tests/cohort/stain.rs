//! Stain normalisation against torchstain's numbers and known mixtures.

use std::fs;

use eosin::random::Philox;
use eosin::slides::Rgb8;
use eosin::slides::stain::{Fit, Method, Normaliser, Stains};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::golden;

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(list) => list.iter().flat_map(numbers).collect(),
        value => vec![value.as_f64().expect("a number")],
    }
}

fn fit_of(stains: &Stains) -> &Fit {
    match stains {
        Stains::Macenko(fit) | Stains::Vahadane(fit) => fit,
        Stains::Reinhard(_) => panic!("no stains in Reinhard's method"),
    }
}

#[test]
fn macenko_is_the_published_one() {
    let text = fs::read_to_string(golden("imaging_macenko.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let otsu = fs::read(golden("imaging_otsu.safetensors")).unwrap();
    let otsu = SafeTensors::deserialize(&otsu).unwrap();
    let own = fs::read(golden("imaging_macenko.safetensors")).unwrap();
    let own = SafeTensors::deserialize(&own).unwrap();
    let sources = [
        ("ihc_crop", 256, otsu.tensor("ihc_crop").unwrap()),
        ("synthetic", 96, own.tensor("synthetic").unwrap()),
    ];
    for (i, (case, side, source)) in sources.into_iter().enumerate() {
        let golden = &cases["cases"][i];
        assert_eq!(golden["case"], case);
        let stains = Stains::fit(Method::Macenko, source.data()).unwrap();
        let fit = fit_of(&stains);
        let close = |ours: &[f64], key: &str| {
            for (a, b) in ours.iter().zip(numbers(&golden[key])) {
                assert!((a - b).abs() < 1e-6, "{case} {key}: {a} in place of {b}");
            }
        };
        close(fit.stains.as_flattened(), "stain_matrix");
        close(&fit.most, "max_concentration");
        let mut image = Rgb8 {
            width: side,
            height: side,
            data: source.data().to_vec(),
        };
        let normaliser = Normaliser::new(&stains, &Stains::reference(Method::Macenko)).unwrap();
        normaliser.apply(&mut image);
        let expected = own.tensor(&format!("{case}.normalised_every_2nd")).unwrap();
        let mut worst = 0;
        for (j, expected) in expected.data().chunks_exact(3).enumerate() {
            let (x, y) = (j % (side / 2) * 2, j / (side / 2) * 2);
            for (ours, theirs) in image.data[(y * side + x) * 3..].iter().zip(expected) {
                worst = worst.max(ours.abs_diff(*theirs));
            }
        }
        assert!(worst <= 1, "{case}: {worst} levels");
    }
}

/// Pixels of two stains in amounts that vary, a third of them of one stain alone.
fn mixture(stains: [[f64; 3]; 2], n: usize) -> Vec<u8> {
    let mut amounts = vec![0f32; n * 2];
    Philox::new(11).fill_uniform(&mut amounts, 0.1, 1.2);
    let pixel = |(i, pair): (usize, &[f32])| {
        let h = if i % 3 == 0 { 0.0 } else { f64::from(pair[0]) };
        let e = if i % 3 == 1 { 0.0 } else { f64::from(pair[1]) };
        let value =
            |c: usize| (240.0 * (-(h * stains[0][c] + e * stains[1][c])).exp() - 1.0).round();
        [0, 1, 2].map(|c| value(c) as u8)
    };
    amounts
        .chunks_exact(2)
        .enumerate()
        .flat_map(pixel)
        .collect()
}

const STAINS: [[f64; 3]; 2] = [[0.65, 0.70, 0.29], [0.27, 0.80, 0.54]];

fn cosine(a: [f64; 3], b: [f64; 3]) -> f64 {
    let dot = |a: [f64; 3], b: [f64; 3]| (0..3).map(|c| a[c] * b[c]).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn stains_of_a_known_mixture_are_found() {
    let pixels = mixture(STAINS, 9000);
    for (method, least) in [(Method::Macenko, 0.9995), (Method::Vahadane, 0.995)] {
        let stains = Stains::fit(method, &pixels).unwrap();
        let fit = fit_of(&stains);
        for (s, truth) in STAINS.into_iter().enumerate() {
            let found = [0, 1, 2].map(|c| fit.stains[c][s]);
            let cosine = cosine(found, truth);
            eprintln!("{method:?}, stain {s}: cosine {cosine:.5}");
            assert!(
                cosine > least,
                "{method:?}, stain {s}: {found:?}, cosine {cosine}"
            );
        }
        assert_eq!(
            Some(stains),
            Stains::fit(method, &pixels),
            "nothing is random"
        );
    }
}

/// What was normalised has the reference's fit: normalising again changes little.
#[test]
fn a_normalised_picture_fits_the_reference() {
    for method in [Method::Macenko, Method::Vahadane, Method::Reinhard] {
        let reference = Stains::reference(method);
        let mut image = Rgb8 {
            width: 90,
            height: 100,
            data: mixture(STAINS, 9000),
        };
        let before = Stains::fit(method, &image.data).unwrap();
        Normaliser::new(&before, &reference)
            .unwrap()
            .apply(&mut image);
        let after = Stains::fit(method, &image.data).unwrap();
        match (&after, &reference) {
            (Stains::Reinhard(after), Stains::Reinhard(reference)) => {
                for c in 0..3 {
                    let apart = (after.mean[c] - reference.mean[c]).abs();
                    assert!(apart < 0.05, "mean {c}: {apart}");
                    let ratio = after.std[c] / reference.std[c];
                    assert!((0.85..1.15).contains(&ratio), "spread {c}: {ratio}");
                }
            }
            _ => {
                for s in 0..2 {
                    let colour = |fit: &Fit| [0, 1, 2].map(|c| fit.stains[c][s]);
                    let cosine = cosine(colour(fit_of(&after)), colour(fit_of(&reference)));
                    // Sparse factors take faint amounts of a stain for none of it.
                    let least = if method == Method::Vahadane {
                        0.98
                    } else {
                        0.99
                    };
                    assert!(cosine > least, "{method:?}, stain {s}: {cosine}");
                }
            }
        }
    }
}

#[test]
fn without_stain_there_is_no_fit() {
    for method in [Method::Macenko, Method::Vahadane, Method::Reinhard] {
        assert_eq!(Stains::fit(method, &[]), None);
        assert_eq!(Stains::fit(method, &[250; 3000]), None, "glass");
        assert_eq!(Stains::fit(method, &[100; 3000]), None, "one colour");
        assert_eq!(Stains::fit(method, &[0; 3000]), None, "black");
    }
    let macenko = Stains::reference(Method::Macenko);
    assert!(Normaliser::new(&macenko, &Stains::reference(Method::Reinhard)).is_none());
}
