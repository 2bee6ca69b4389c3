//! The index of slides' vectors: exact, and sound against damaged files.

use eosin::random::Philox;
use eosin::search::{Entry, Index, Metric, Vectors, retrieve, slides_like, write};

use crate::hostile::Random;
use crate::{assert_says, refusal};

fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Philox::new(seed).fill_normal(&mut values, 0.0, 1.0);
    values
}

fn entries(slides: usize, each: usize) -> Vec<Entry> {
    let entry = |i: usize| Entry {
        slide: format!("S{i}"),
        patient: format!("P{}", i / 2),
        label: Some(["low", "high"][i / 2 % 2].to_owned()),
        first: i * each,
        count: each,
    };
    (0..slides).map(entry).collect()
}

/// Distances in f64 from the vectors as they are.
fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    match metric {
        Metric::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        Metric::L2 => (dot(a, a) + dot(b, b) - 2.0 * dot(a, b)).max(0.0).sqrt(),
    }
}

#[test]
fn the_nearest_are_those_of_single_precision() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.index");
    for (width, count) in [(1, 300), (31, 3000), (384, 5000)] {
        // Values of very different sizes, and neighbours closer than halves can tell.
        let mut values = normal(3, width * count);
        for (i, row) in values.chunks_mut(width).enumerate() {
            let size = [1.0, 1e-6, 3e4][i % 3];
            row.iter_mut().for_each(|v| *v *= size);
        }
        for i in 1..200 {
            let row = values[..width].to_vec();
            let near = row.iter().map(|v| v * (1.0 + 1e-5 * i as f32));
            values.splice(i * width..(i + 1) * width, near);
            values[i * width] += 1e-5 * i as f32;
        }
        for metric in [Metric::Cosine, Metric::L2] {
            let entries = entries(count, 1);
            let data = Vectors {
                width,
                values: &values,
                entries: &entries,
            };
            write(&path, metric, &data).unwrap();
            let index = Index::open(&path, Some(width)).unwrap();
            for seed in 0..6 {
                let query = match seed {
                    0 => values[..width].to_vec(),
                    _ => normal(100 + seed, width),
                };
                let odd = |i: usize| i % 2 == 1;
                let found = index.nearest(&query, 25, &odd).unwrap();
                assert_eq!(found.len(), 25);
                let mut all: Vec<f64> = (0..count)
                    .filter(|i| odd(*i))
                    .map(|i| distance(metric, &query, index.vector(i)))
                    .collect();
                all.sort_by(f64::total_cmp);
                for (found, expected) in found.iter().zip(&all) {
                    let own = distance(metric, &query, index.vector(found.vector));
                    // The test's own formula cancels: |a|^2 + |b|^2 - 2 a b.
                    let tolerance = match metric {
                        Metric::Cosine => 3e-7,
                        Metric::L2 => 1e-6 * (1.0 + expected),
                    };
                    assert!(
                        (found.distance - own).abs() < tolerance,
                        "{metric:?} {found:?} {own}"
                    );
                    assert!(
                        (found.distance - expected).abs() < tolerance,
                        "{metric:?} {found:?} {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn bags_are_compared_by_the_median_of_the_least() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bags.index");
    // Slides of two vectors on a line.
    let values = [0.0f32, 1.0, 10.0, 11.0, 2.0, 3.0];
    let data = Vectors {
        width: 1,
        values: &values,
        entries: &entries(3, 2),
    };
    write(&path, Metric::L2, &data).unwrap();
    let index = Index::open(&path, None).unwrap();
    // To S0 the three are 1, 4 and 8 away: the median is 4. To S1: 8, 5, 1. To S2: 0, 2, 6.
    let found = slides_like(&index, &[2.0, 5.0, 9.0], 9, &|_| true).unwrap();
    let found: Vec<(&str, f64)> = found
        .iter()
        .map(|n| (n.slide.as_str(), n.distance))
        .collect();
    assert_eq!(found, [("S2", 2.0), ("S0", 4.0), ("S1", 5.0)]);
}

#[test]
fn slides_of_other_patients_vote() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("votes.index");
    let width = 16;
    let entries = entries(24, 3);
    let mut values = normal(9, width * 72);
    for (i, row) in values.chunks_mut(width).enumerate() {
        // The label decides the first element; the patient has one to itself, so that
        // its own slides would be the nearest.
        row[0] += if entries[i / 3].label.as_deref() == Some("high") {
            9.0
        } else {
            -9.0
        };
        row[1 + i / 6] += 40.0;
    }
    write(
        &path,
        Metric::L2,
        &Vectors {
            width,
            values: &values,
            entries: &entries,
        },
    )
    .unwrap();
    let index = Index::open(&path, None).unwrap();
    let found = retrieve(&index, 5).unwrap();
    assert_eq!((found.accuracy, found.slides), (1.0, 24));
    assert_eq!(found.labels, ["high", "low"]);
    let same = slides_like(&index, index.bag(&entries[0]), 2, &|_| true).unwrap();
    assert_eq!(same[1].patient, entries[0].patient);
    // Labels dealt at random are not found.
    let mut dealt = entries.clone();
    let mut random = Philox::new(4);
    dealt
        .iter_mut()
        .for_each(|e| e.label = Some(["x", "y"][random.below(2)].to_owned()));
    write(
        &path,
        Metric::L2,
        &Vectors {
            width,
            values: &values,
            entries: &dealt,
        },
    )
    .unwrap();
    let chance = retrieve(&Index::open(&path, None).unwrap(), 5).unwrap();
    assert!(chance.accuracy < 0.8, "{}", chance.accuracy);
}

#[test]
fn what_makes_no_index_is_refused_and_damage_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.index");
    let values = normal(1, 12);
    let one = entries(3, 1);
    let refused = |metric, values: &[f32], width, entries: &[Entry], part: &str| {
        let text = refusal(write(
            &path,
            metric,
            &Vectors {
                width,
                values,
                entries,
            },
        ));
        assert_says(&text, &[part]);
        assert!(!path.exists());
    };
    refused(
        Metric::L2,
        &values,
        5,
        &one,
        "12 values are no vectors of 5",
    );
    refused(Metric::L2, &values, 4, &one[..2], "2 of 3 vectors");
    refused(
        Metric::L2,
        &[f32::NAN; 12],
        4,
        &one,
        "slide S0 has a value that is not finite",
    );
    refused(
        Metric::Cosine,
        &[0.0; 12],
        4,
        &one,
        "slide S0 has only zeros",
    );
    let mut twice = one.clone();
    twice[2].slide = "S0".to_owned();
    refused(Metric::L2, &values, 4, &twice, "S0 stands twice");

    write(
        &path,
        Metric::L2,
        &Vectors {
            width: 4,
            values: &values,
            entries: &one,
        },
    )
    .unwrap();
    let text = refusal(Index::open(&path, Some(5)).map(drop));
    assert_says(
        &text,
        &["small.index", "vectors of 4, and 5 are looked for"],
    );
    let index = Index::open(&path, None).unwrap();
    assert_says(
        &refusal(index.nearest(&[1.0; 5], 1, &|_| true)),
        &["vectors of 4"],
    );
    assert_says(
        &refusal(index.nearest(&[f32::NAN; 4], 1, &|_| true)),
        &["not finite"],
    );
    let bytes = std::fs::read(&path).unwrap();
    let damaged = folder.path().join("damaged.index");
    let open = |bytes: &[u8]| {
        std::fs::write(&damaged, bytes).unwrap();
        Index::open(&damaged, None)
    };
    for end in 0..bytes.len() {
        assert!(open(&bytes[..end]).is_err(), "cut at {end}");
    }
    let mut other = bytes.clone();
    other[8] = 9;
    assert_says(
        &refusal(open(&other).map(drop)),
        &["version 9, this eosin reads 1"],
    );
    let mut random = Random(7);
    for _ in 0..500 {
        let mut turned = bytes.clone();
        let at = random.below(turned.len());
        turned[at] ^= 1 << random.below(8);
        // An error or an answer, and no panic.
        if let Ok(index) = open(&turned) {
            let _ = index.nearest(&[1.0; 4], 2, &|_| true);
            let _ = retrieve(&index, 1);
        }
    }
}

/// A million vectors of 384; `cargo test --release --test formats -- --ignored million --nocapture`
#[test]
#[ignore = "writes 2.3 GB"]
fn a_million_vectors_are_searched_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("million.index");
    let (width, count) = (384, 1_000_000);
    let values = normal(5, width * count);
    let entries = entries(count, 1);
    write(
        &path,
        Metric::Cosine,
        &Vectors {
            width,
            values: &values,
            entries: &entries,
        },
    )
    .unwrap();
    let start = std::time::Instant::now();
    let index = Index::open(&path, Some(width)).unwrap();
    let opened = start.elapsed().as_secs_f64() * 1e3;
    let mut times: Vec<f64> = (0..30)
        .map(|i| {
            let query = normal(1000 + i, width);
            let start = std::time::Instant::now();
            assert_eq!(index.nearest(&query, 10, &|_| true).unwrap().len(), 10);
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    let first = times[0];
    times.sort_by(f64::total_cmp);
    eprintln!(
        "opened in {opened:.1} ms; ms a query: first {first:.1}, least {:.1}, median {:.1}, most {:.1}",
        times[0], times[15], times[29]
    );
}
