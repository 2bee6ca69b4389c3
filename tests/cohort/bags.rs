//! Bags of tiles.

use std::collections::BTreeSet;

use eosin::cohort::bags::{Bags, draw};
use eosin::cohort::kmeans::{ITERATIONS, Start, kmeans};
use eosin::random::Philox;

use crate::formula;
use crate::support::refused;

fn drawn(points: &[f32], columns: usize, count: usize, seed: u64) -> Bags {
    draw(points, columns, 49, count, Philox::new(seed)).expect("bags")
}

#[test]
fn a_bag_has_one_tile_of_each_cluster() {
    let points = formula::values("bags", 2 * 400, 0.0, 1.0);
    let found = drawn(&points, 2, 100, 3);
    assert_eq!((found.bags.len(), found.short), (100, 0));
    // The clusters that the same seed gives.
    let start = Start::PlusPlus(Philox::new(3));
    let clusters = kmeans(&points, 2, 49, start, ITERATIONS).expect("clusters");
    for bag in &found.bags {
        let of: Vec<usize> = bag.iter().map(|&t| clusters.labels[t]).collect();
        assert_eq!(of, (0..49).collect::<Vec<_>>());
    }
    let different: BTreeSet<&Vec<usize>> = found.bags.iter().collect();
    assert_eq!(different.len(), 100);
    // Every tile can be drawn: of some 8 in a cluster each is missed 100 times in
    // a row once in 10^5 or so.
    let seen: BTreeSet<usize> = found.bags.iter().flatten().copied().collect();
    assert!(seen.len() > 390, "{} of 400 tiles are seen", seen.len());

    assert_eq!(found, drawn(&points, 2, 100, 3));
    assert!(found.bags != drawn(&points, 2, 100, 4).bags);
    // More bags begin with the same ones.
    assert_eq!(drawn(&points, 2, 120, 3).bags[..100], found.bags);
}

#[test]
fn few_tiles_fill_a_bag_and_are_counted() {
    for tiles in [1, 2, 30, 48, 49] {
        let points = formula::values("bags/few", tiles, 0.0, 1.0);
        let found = drawn(&points, 1, 5, 0);
        assert_eq!(found.short, 49 - tiles);
        for bag in &found.bags {
            assert_eq!(bag.len(), 49);
            let different: BTreeSet<usize> = bag.iter().copied().collect();
            assert_eq!(different, (0..tiles).collect(), "{tiles} tiles");
        }
    }
    // 60 tiles in 3 places.
    let points: Vec<f32> = (0..60).map(|i| (i % 3) as f32).collect();
    let found = drawn(&points, 1, 5, 0);
    assert_eq!(found.short, 46);
    for bag in &found.bags {
        let places: BTreeSet<usize> = bag.iter().map(|t| t % 3).collect();
        assert_eq!((bag.len(), places.len()), (49, 3));
    }
}

#[test]
fn no_tiles_and_no_numbers_are_refused() {
    let of = |points: &[f32]| draw(points, 1, 49, 1, Philox::new(0));
    refused(of(&[]), &["without tiles"]);
    refused(of(&[0.0, f32::INFINITY]), &["point 1", "inf"]);
}
