//! Tiles handed over in batches.

use std::fs;

use eosin::Error;
use eosin::cohort::{Cohort, TileSpec, cut_tiles, for_each_batch, her2st, tiles};
use eosin::slides::image::read;
use eosin::slides::tile::{IMAGENET_MEAN, IMAGENET_STD, crop, normalise, resize};
use tempfile::tempdir;

use crate::support::{fixture, picture, put, put_png, refused};

/// All tiles of a cohort, with the sizes of the batches.
fn collect(cohort: &Cohort, spec: &TileSpec) -> (Vec<f32>, Vec<usize>, Vec<usize>) {
    let (mut values, mut refs, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    let unused = for_each_batch(cohort, spec, |tiles, indices| {
        values.extend_from_slice(tiles);
        refs.extend_from_slice(indices);
        sizes.push(indices.len());
        Ok(())
    })
    .unwrap();
    assert!(unused.is_empty(), "{unused:?}");
    (values, refs, sizes)
}

#[test]
fn every_tile_comes_once_in_order_and_as_cut_alone() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let header = "x\ty\tpixel_x\tpixel_y\n";
    for (section, seed) in [("A1", 1), ("A2", 2)] {
        put_png(
            &root.join(format!("ST-imgs/A/{section}/i.png")),
            &picture(60, 40, seed),
        );
        let lines: String = (0..5)
            .map(|i| format!("{i}\t1\t{}.5\t{}\n", 10 + 9 * i, 11 + i))
            .collect();
        put(
            &root.join(format!("ST-spotfiles/{section}_selection.tsv")),
            format!("{header}{lines}"),
        );
    }
    let options = her2st::Options {
        unit: her2st::Unit::Spot,
        ring: 1,
        spot_px: 12,
        counts: false,
        ..her2st::Options::default()
    };
    let cohort = her2st::read(root, &options).unwrap();
    let (values, refs, sizes) = collect(&cohort, &TileSpec::imagenet(16, 4));
    assert_eq!(refs, (0..10).collect::<Vec<_>>());
    assert_eq!(sizes, [4, 4, 2]);
    let len = 16 * 16 * 3;
    for (i, tile) in cohort.tiles.iter().enumerate() {
        let image = read(&cohort.images[tile.image].path).unwrap();
        let cut = resize(&crop(&image, tile.centre.unwrap(), 12).unwrap(), 16, 16).unwrap();
        let mut alone = vec![0.0; len];
        normalise(&cut, IMAGENET_MEAN, IMAGENET_STD, &mut alone).unwrap();
        assert_eq!(values[i * len..(i + 1) * len], alone, "tile {i}");
    }
    // And as they lie in their images.
    let (cut, unused) = cut_tiles(&cohort).unwrap();
    assert!(unused.is_empty());
    for (tile, cut) in cohort.tiles.iter().zip(cut) {
        let image = read(&cohort.images[tile.image].path).unwrap();
        assert_eq!(cut, Some(crop(&image, tile.centre.unwrap(), 12).unwrap()));
    }
    // The same bits for any number of threads and any batch.
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        for batch in [1, 3, 1000] {
            let again = pool.install(|| collect(&cohort, &TileSpec::imagenet(16, batch)));
            assert!(
                again.0 == values && again.1 == refs,
                "{threads} threads, batch {batch}"
            );
        }
    }
}

#[test]
fn a_truncated_jpeg_tile_is_skipped_counted_and_named() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    let crop_of = |seed| picture(16, 16, seed);
    let whole = fs::read(fixture("square.jpg")).unwrap();
    for i in 0..6 {
        put_png(&root.join(format!("s1/t{i}.png")), &crop_of(i));
    }
    put(&root.join("s1/t2.jpg"), &whole[..whole.len() - 40]);
    put(&root.join("s1/t5.jpg"), &whole);
    put(&root.join("s2/t.jpg"), &whole[..whole.len() - 2]);
    put(&root.join("table.csv"), "id,G\ns1,1\ns2,2\n");
    let options = tiles::Options {
        table: Some(root.join("table.csv")),
        ..tiles::Options::default()
    };
    let mut cohort = tiles::read(root, &options).unwrap();
    assert_eq!(cohort.samples.len(), 2, "the headers are fine");
    let mut seen = Vec::new();
    let unused = for_each_batch(&cohort, &TileSpec::imagenet(8, 4), |values, refs| {
        assert!(values.iter().all(|v| v.is_finite()));
        seen.extend_from_slice(refs);
        Ok(())
    })
    .unwrap();
    let lost: Vec<usize> = unused.iter().map(|u| u.tile).collect();
    let file = |tile: usize| {
        let path = &cohort.images[cohort.tiles[tile].image].path;
        path.strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_string()
    };
    assert_eq!(
        lost.iter().map(|&t| file(t)).collect::<Vec<_>>(),
        ["s1/t2.jpg", "s2/t.jpg"]
    );
    assert!(
        unused
            .iter()
            .all(|u| u.why.contains("truncated") && u.what.contains(".jpg"))
    );
    assert_eq!(seen.len(), 7);
    assert!(seen.is_sorted() && seen.iter().all(|t| !lost.contains(t)));

    cohort.drop_tiles(&unused).unwrap();
    assert_eq!(cohort.samples.len(), 1);
    assert_eq!(cohort.samples[0].tiles, seen);
    assert_eq!(cohort.table.as_ref().unwrap().samples, ["s1"]);
    assert_eq!(cohort.table.as_ref().unwrap().values, [1.0]);
    let skipped: Vec<_> = cohort.skipped.iter().map(|s| s.what.as_str()).collect();
    assert_eq!(skipped.len(), 3);
    assert_eq!(skipped[2], "sample s2");

    // What is left can be extracted again, and losing it all is an error.
    let mut again = 0;
    assert_eq!(
        for_each_batch(&cohort, &TileSpec::imagenet(8, 4), |_, refs| {
            again += refs.len();
            Ok(())
        })
        .unwrap(),
        []
    );
    assert_eq!(again, 7);
    let mut all = unused.clone();
    all.extend(seen.iter().map(|&tile| eosin::cohort::UnusedTile {
        tile,
        ..unused[0].clone()
    }));
    refused(cohort.drop_tiles(&all), &["no sample is left"]);
}

#[test]
fn a_tile_that_changes_meanwhile_is_skipped() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    put_png(&root.join("s/a.png"), &picture(16, 16, 0));
    let cohort = tiles::read(root, &tiles::Options::default()).unwrap();
    put_png(&root.join("s/a.png"), &picture(20, 20, 0));
    let unused = for_each_batch(&cohort, &TileSpec::imagenet(8, 4), |_, _| Ok(())).unwrap();
    assert_eq!(unused.len(), 1);
    assert!(unused[0].why.contains("20 x 20 px and was 16 x 16 px"));
}

#[test]
fn the_callers_error_stops_and_sizes_out_of_bounds_are_refused() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    for i in 0..3 {
        put_png(&root.join(format!("s/{i}.png")), &picture(8, 8, i));
    }
    let cohort = tiles::read(root, &tiles::Options::default()).unwrap();
    let mut calls = 0;
    let outcome = for_each_batch(&cohort, &TileSpec::imagenet(8, 1), |_, _| {
        calls += 1;
        Err(Error::usage("enough", "stop"))
    });
    refused(outcome, &["enough"]);
    assert_eq!(calls, 1);
    for spec in [
        TileSpec::imagenet(0, 1),
        TileSpec::imagenet(8, 0),
        TileSpec::imagenet(usize::MAX, 1),
        TileSpec::imagenet(1 << 20, 3),
    ] {
        refused(
            for_each_batch(&cohort, &spec, |_, _| Ok(())),
            &["out of bounds"],
        );
    }
}
