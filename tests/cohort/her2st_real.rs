//! The real her2st sections, where they are at hand.

use std::time::Instant;

use eosin::cohort::her2st::{Options, Unit, read};
use eosin::cohort::{TileSpec, for_each_batch};
use eosin::expression::genes::{GeneChoice, choose};

use crate::support::real_her2st;

/// Section, spots joined, spots without counts, sum of all counts, of ERBB2:
/// counted from the files by a separate script.
const SECTIONS: [(&str, usize, &[&str], f64, f64); 5] = [
    ("B4", 283, &["18x20"], 935_146.0, 2_342.0),
    ("C2", 187, &[], 1_926_633.0, 18_240.0),
    ("C3", 180, &["13x9", "17x14"], 2_033_498.0, 18_341.0),
    (
        "C4",
        184,
        &["11x17", "17x14", "18x20"],
        2_213_922.0,
        20_522.0,
    ),
    ("C5", 181, &["13x9", "18x20"], 2_014_132.0, 15_946.0),
];

#[test]
fn every_section_joins_the_spots_that_its_files_share() {
    let Some(root) = real_her2st("every_section_joins_the_spots_that_its_files_share") else {
        return;
    };
    let start = Instant::now();
    let spots = Options {
        unit: Unit::Spot,
        ..Options::default()
    };
    let cohort = read(&root, &spots).unwrap();
    eprintln!("read in {:.2} s", start.elapsed().as_secs_f64());
    let table = cohort.table.as_ref().unwrap();
    assert_eq!(table.genes.len(), 17_446, "the union of five gene lists");
    assert_eq!(table.samples.len(), cohort.samples.len());
    for (section, joined, without, total, erbb2) in SECTIONS {
        let here: Vec<usize> = (0..cohort.samples.len())
            .filter(|&i| cohort.samples[i].slide == section)
            .collect();
        let prefix = format!("section {section}, spot ");
        let dropped: Vec<&str> = cohort
            .skipped
            .iter()
            .filter_map(|s| s.what.strip_prefix(&prefix))
            .collect();
        eprintln!(
            "{section}: {} spots joined, dropped {dropped:?}",
            here.len()
        );
        assert_eq!(here.len(), joined, "{section}");
        let mut sorted = dropped.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, without, "{section}");
        let gene = table.genes.iter().position(|g| g == "ERBB2").unwrap();
        let sum = |pick: &dyn Fn(&[f32]) -> f64| -> f64 {
            here.iter().map(|&i| pick(table.row(i).unwrap())).sum()
        };
        assert_eq!(sum(&|row| row.iter().map(|&v| f64::from(v)).sum()), total);
        assert_eq!(sum(&|row| f64::from(row[gene])), erbb2);
        assert!(
            here.iter()
                .all(|&i| cohort.samples[i].patient == section[..1])
        );
    }
    assert_eq!(cohort.samples.len(), 1015);
    // Nine sections have counts and no image.
    assert_eq!(cohort.skipped.len(), 8 + 9);

    let all: Vec<usize> = (0..1015).collect();
    let choice = GeneChoice::File(root.join("genes_785.txt"));
    let chosen = choose(table, &all, &choice, 0.0).unwrap();
    assert_eq!((chosen.columns.len(), chosen.missing.len()), (785, 0));

    let sections = read(&root, &Options::default()).unwrap();
    let bulk = sections.table.as_ref().unwrap();
    for (i, (section, joined, _, total, _)) in SECTIONS.into_iter().enumerate() {
        assert_eq!(sections.samples[i].id, section);
        assert_eq!(sections.samples[i].tiles.len(), joined);
        let sum: f64 = bulk.row(i).unwrap().iter().map(|&v| f64::from(v)).sum();
        assert_eq!(sum, total);
    }
}

/// Against Pillow: the 112 px tile of spot 25x13 of C2 (the first of the spot
/// file), resized to 224 px by its bilinear filter.
#[test]
fn a_section_gives_the_tiles_that_pillow_gives() {
    let Some(root) = real_her2st("a_section_gives_the_tiles_that_pillow_gives") else {
        return;
    };
    let options = Options {
        unit: Unit::Spot,
        sections: vec!["C2".into()],
        ..Options::default()
    };
    let cohort = read(&root, &options).unwrap();
    assert_eq!(cohort.samples[0].id, "C2_25x13");
    let spec = TileSpec {
        mean: [0.0; 3],
        std: [1.0 / 255.0; 3],
        ..TileSpec::imagenet(224, 64)
    };
    let start = Instant::now();
    let mut first = Vec::new();
    let mut sizes = Vec::new();
    let unused = for_each_batch(&cohort, &spec, |tiles, refs| {
        if sizes.is_empty() {
            first = tiles[..224 * 224 * 3].to_vec();
        }
        assert_eq!(tiles.len(), refs.len() * 224 * 224 * 3);
        sizes.push(refs.len());
        Ok(())
    })
    .unwrap();
    eprintln!("187 tiles in {:.2} s", start.elapsed().as_secs_f64());
    assert!(unused.is_empty());
    assert_eq!(sizes, [64, 64, 59]);
    let mean = |c: usize| {
        let sum: f64 = first.iter().skip(c).step_by(3).map(|&v| f64::from(v)).sum();
        sum / (224.0 * 224.0)
    };
    // Decoders round differently: libjpeg's mean here is within 0.02 of exact
    // conversion, ours 0.2 to 0.4 off, because its 4:2:0 upsampling rounds
    // chroma up (a 4:4:4 file shows nothing of it). Half a level is what
    // rounding once can do at most.
    for (c, pillow) in [128.437_818_88, 120.725_386_64, 160.729_591_84]
        .into_iter()
        .enumerate()
    {
        eprintln!("channel {c}: mean {:.3}, Pillow {pillow:.3}", mean(c));
        assert!((mean(c) - pillow).abs() < 0.5);
    }
    for (pixel, pillow) in [
        ((100, 100), [47.0, 53.0, 98.0]),
        ((0, 0), [244.0, 209.0, 229.0]),
    ] {
        let at = (pixel.0 * 224 + pixel.1) * 3;
        for c in 0..3 {
            assert!(
                (first[at + c] - pillow[c]).abs() <= 4.0,
                "{pixel:?} {c}: {}",
                first[at + c]
            );
        }
    }
}

#[test]
fn all_section_images_decode_and_hold_their_spots() {
    let Some(root) = real_her2st("all_section_images_decode_and_hold_their_spots") else {
        return;
    };
    let cohort = read(&root, &Options::default()).unwrap();
    let mut seen = 0;
    let unused = for_each_batch(&cohort, &TileSpec::imagenet(8, 512), |_, refs| {
        seen += refs.len();
        Ok(())
    })
    .unwrap();
    assert_eq!((seen, unused), (1015, vec![]));
}

#[test]
fn a_truncated_section_image_loses_its_samples_and_says_so() {
    let test = "a_truncated_section_image_loses_its_samples_and_says_so";
    let Some(real) = real_her2st(test) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (section, file) in [("C2", "5714_HE_BT_C2.jpg"), ("C3", "5714_HE_BT_D1.jpg")] {
        let image = format!("ST-imgs/C/{section}/{file}");
        let mut bytes = std::fs::read(real.join(&image)).unwrap();
        if section == "C2" {
            bytes.truncate(bytes.len() * 9 / 10);
        }
        crate::support::put(&root.join(image), bytes);
        for file in [
            format!("ST-spotfiles/{section}_selection.tsv"),
            format!("ST-cnts/{section}.tsv.gz"),
        ] {
            crate::support::put(&root.join(&file), std::fs::read(real.join(&file)).unwrap());
        }
    }
    let mut cohort = read(root, &Options::default()).unwrap();
    assert_eq!(cohort.samples.len(), 2);
    let mut seen = 0;
    let unused = for_each_batch(&cohort, &TileSpec::imagenet(32, 256), |_, refs| {
        seen += refs.len();
        Ok(())
    })
    .unwrap();
    assert_eq!((unused.len(), seen), (187, 180));
    assert!(unused[0].why.contains("truncated"), "{}", unused[0].why);
    cohort.drop_tiles(&unused).unwrap();
    assert_eq!(cohort.samples.len(), 1);
    assert_eq!(cohort.samples[0].id, "C3");
    assert_eq!(cohort.table.unwrap().samples, ["C3"]);
    assert_eq!(cohort.skipped.last().unwrap().what, "sample C2");
}
