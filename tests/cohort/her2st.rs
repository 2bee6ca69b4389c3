//! The her2st layout, on small made-up folders.

use std::fs;
use std::path::Path;

use eosin::cohort::her2st::{MergeGenes, Options, Unit, read};
use eosin::cohort::{Cohort, Skipped};
use tempfile::{TempDir, tempdir};

use crate::support::{gzip, picture, put, put_png, refused};

const HEADER: &str = "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n";

/// Sections A1 and B2 with 40 x 30 px and tiles of 8 px. A1 has spots in a row
/// 1..4 x 1, B2 one at 2x5.
fn folder() -> TempDir {
    let folder = tempdir().unwrap();
    let root = folder.path();
    put_png(&root.join("ST-imgs/A/A1/a.png"), &picture(40, 30, 1));
    put_png(&root.join("ST-imgs/B/B2/b.jpg"), &picture(40, 30, 2));
    spots(
        root,
        "A1",
        &[
            ("1", "1", "5"),
            ("2", "1", "10"),
            ("3", "1", "15"),
            ("4", "1", "20"),
        ],
    );
    spots(root, "B2", &[("2", "5", "10")]);
    put(
        &root.join("ST-cnts/A1.tsv"),
        "\tG1\tG2\n2x1\t3\t4\n1x1\t1\t2\n3x1\t5\t6\n4x1\t7\t8\n",
    );
    put(
        &root.join("ST-cnts/B2.tsv.gz"),
        gzip(b"\tG2\tG3\n2x5\t10\t20\n"),
    );
    folder
}

/// Writes a spot file of (x, y, pixel_x), all at pixel_y 10 and selected.
fn spots(root: &Path, section: &str, spots: &[(&str, &str, &str)]) {
    let lines: String = spots
        .iter()
        .map(|(x, y, pixel)| format!("{x}\t{y}\t0\t0\t{pixel}\t10\t1\n"))
        .collect();
    put(
        &root.join(format!("ST-spotfiles/{section}_selection.tsv")),
        format!("{HEADER}{lines}"),
    );
}

fn options(unit: Unit) -> Options {
    Options {
        unit,
        spot_px: 8,
        ..Options::default()
    }
}

fn ids(cohort: &Cohort) -> Vec<&str> {
    cohort.samples.iter().map(|s| s.id.as_str()).collect()
}

fn skipped(cohort: &Cohort) -> Vec<String> {
    let text = |s: &Skipped| format!("{}: {}", s.what, s.why);
    cohort.skipped.iter().map(text).collect()
}

#[test]
fn spots_become_samples_with_their_counts_by_id() {
    let folder = folder();
    let cohort = read(folder.path(), &options(Unit::Spot)).unwrap();
    assert_eq!(
        ids(&cohort),
        ["A1_1x1", "A1_2x1", "A1_3x1", "A1_4x1", "B2_2x5"]
    );
    let table = cohort.table.as_ref().unwrap();
    assert_eq!(table.samples, ids(&cohort));
    assert_eq!(table.genes, ["G1", "G2", "G3"]);
    assert_eq!(
        table.values,
        [
            1.0, 2.0, 0.0, 3.0, 4.0, 0.0, 5.0, 6.0, 0.0, 7.0, 8.0, 0.0, 0.0, 10.0, 20.0
        ]
    );
    assert_eq!(cohort.tiles.len(), 5);
    assert_eq!(cohort.tiles[1].centre, Some((10.0, 10.0)));
    assert_eq!((cohort.tiles[4].image, cohort.tiles[4].size_px), (1, 8));
    let last = &cohort.samples[4];
    assert_eq!((last.patient.as_str(), last.slide.as_str()), ("B", "B2"));
    assert!(cohort.skipped.is_empty());
    for sample in &cohort.samples {
        assert_eq!(sample.tiles.len(), 1);
    }
}

#[test]
fn a_section_is_the_sum_of_its_spots() {
    let folder = folder();
    let cohort = read(folder.path(), &options(Unit::Section)).unwrap();
    assert_eq!(ids(&cohort), ["A1", "B2"]);
    assert_eq!(cohort.samples[0].tiles, [0, 1, 2, 3]);
    let table = cohort.table.unwrap();
    assert_eq!(table.values, [16.0, 20.0, 0.0, 0.0, 10.0, 20.0]);
}

#[test]
fn genes_can_be_those_of_every_section() {
    let folder = folder();
    let wanted = Options {
        genes: MergeGenes::Intersection,
        ..options(Unit::Section)
    };
    let table = read(folder.path(), &wanted).unwrap().table.unwrap();
    assert_eq!(
        (table.genes, table.values),
        (vec!["G2".to_string()], vec![20.0, 10.0])
    );
}

#[test]
fn a_ring_adds_the_neighbours_and_shares_their_tiles() {
    let folder = folder();
    let wanted = Options {
        ring: 1,
        ..options(Unit::Spot)
    };
    let cohort = read(folder.path(), &wanted).unwrap();
    let bags: Vec<_> = cohort.samples.iter().map(|s| s.tiles.clone()).collect();
    assert_eq!(
        bags,
        [
            vec![0, 1],
            vec![1, 0, 2],
            vec![2, 1, 3],
            vec![3, 2],
            vec![4]
        ]
    );
    assert_eq!(cohort.tiles.len(), 5, "each tile once");
    let wanted = Options { ring: 2, ..wanted };
    let cohort = read(folder.path(), &wanted).unwrap();
    assert_eq!(cohort.samples[0].tiles, [0, 1, 2]);

    let section = Options {
        ring: 1,
        ..options(Unit::Section)
    };
    refused(read(folder.path(), &section), &["ring", "unit = \"spot\""]);
}

#[test]
fn a_spot_without_counts_still_joins_the_bags_around_it() {
    let folder = folder();
    put(
        &folder.path().join("ST-cnts/A1.tsv"),
        "\tG1\n1x1\t1\n4x1\t2\n",
    );
    let wanted = Options {
        ring: 1,
        sections: vec!["A1".into()],
        ..options(Unit::Spot)
    };
    let cohort = read(folder.path(), &wanted).unwrap();
    assert_eq!(ids(&cohort), ["A1_1x1", "A1_4x1"]);
    assert_eq!(cohort.samples[0].tiles, [0, 1]);
    assert_eq!(cohort.samples[1].tiles, [3, 2]);
    assert_eq!(
        skipped(&cohort),
        [
            "section A1, spot 2x1: it has no counts",
            "section A1, spot 3x1: it has no counts"
        ]
    );
}

#[test]
fn without_counts_the_cohort_is_for_prediction() {
    let folder = folder();
    fs::remove_dir_all(folder.path().join("ST-cnts")).unwrap();
    let wanted = Options {
        counts: false,
        ..options(Unit::Spot)
    };
    let cohort = read(folder.path(), &wanted).unwrap();
    assert_eq!((cohort.samples.len(), cohort.table), (5, None));
    let message = refused(
        read(folder.path(), &options(Unit::Spot)),
        &["no sample is left", "2 skipped"],
    );
    assert!(message.contains("counts"), "{message}");
}

#[test]
fn a_tile_can_be_given_in_micrometres() {
    // Spots are 5 px apart, which are 200 micrometres.
    let folder = folder();
    let by_length = |um: f64, section: &str| Options {
        spot_um: Some(um),
        sections: vec![section.into()],
        ..options(Unit::Spot)
    };
    let cohort = read(folder.path(), &by_length(330.0, "A1")).unwrap();
    assert!(cohort.tiles.iter().all(|t| t.size_px == 8));
    // One spot alone tells nothing.
    let alone = read(folder.path(), &by_length(330.0, "B2"));
    refused(alone, &["B2_selection.tsv", "330 micrometres", "spot_px"]);
    refused(
        read(folder.path(), &by_length(f64::NAN, "A1")),
        &["no length"],
    );
}

#[test]
fn a_spot_outside_the_image_is_skipped_and_named() {
    let folder = folder();
    // Tiles of 8 px fit from 4 to 36 in the width of 40.
    spots(
        folder.path(),
        "A1",
        &[
            ("1", "1", "3.9"),
            ("2", "1", "4"),
            ("3", "1", "36.9"),
            ("4", "1", "37"),
        ],
    );
    let cohort = read(folder.path(), &options(Unit::Spot)).unwrap();
    assert_eq!(ids(&cohort), ["A1_2x1", "A1_3x1", "B2_2x5"]);
    let skipped = skipped(&cohort);
    assert_eq!(skipped.len(), 2);
    assert!(skipped[0].starts_with(
        "section A1, spot 1x1: the tile of 8 px around (3.9, 10) leaves the image of 40 x 30 px"
    ));
    assert!(skipped[1].starts_with("section A1, spot 4x1"));
    assert_eq!(cohort.table.unwrap().values[..3], [3.0, 4.0, 0.0]);
}

#[test]
fn unselected_spots_and_counts_without_a_spot_are_skipped_and_named() {
    let folder = folder();
    put(
        &folder.path().join("ST-spotfiles/A1_selection.tsv"),
        format!("{HEADER}1\t1\t0\t0\t5\t10\t0\n2\t1\t0\t0\t10\t10\t1\n"),
    );
    let cohort = read(folder.path(), &options(Unit::Section)).unwrap();
    assert_eq!(cohort.samples[0].tiles.len(), 1);
    assert_eq!(cohort.table.as_ref().unwrap().values[..2], [3.0, 4.0]);
    assert_eq!(
        skipped(&cohort),
        [
            "section A1, spot 1x1: it is not selected as lying under tissue",
            "section A1, spot 3x1: it has counts but the spot file does not list it",
            "section A1, spot 4x1: it has counts but the spot file does not list it",
        ]
    );
}

/// Halves go to the even number, as numpy rounds: 0.5, 2.5 and 3.5 are 0, 2
/// and 4.
#[test]
fn places_on_the_array_are_rounded_as_numpy_rounds() {
    let folder = folder();
    spots(
        folder.path(),
        "A1",
        &[
            ("0.5", "1.49", "5"),
            ("2.5", "0.51", "10"),
            ("3.5", "1", "15"),
        ],
    );
    put(
        &folder.path().join("ST-cnts/A1.tsv"),
        "\tG1\n0x1\t1\n2x1\t2\n4x1\t3\n",
    );
    let cohort = read(folder.path(), &options(Unit::Spot)).unwrap();
    assert_eq!(ids(&cohort)[..3], ["A1_0x1", "A1_2x1", "A1_4x1"]);
    assert!(cohort.skipped.is_empty());
}

#[test]
fn bad_spot_files_are_errors() {
    let folder = folder();
    let file = folder.path().join("ST-spotfiles/A1_selection.tsv");
    for (content, parts) in [
        (
            format!("{HEADER}1\t1\t0\t0\tfive\t10\t1\n"),
            &["line 2, column `pixel_x`", "`five`"][..],
        ),
        (
            format!("{HEADER}1\t1\t0\t0\tNaN\t10\t1\n"),
            &["line 2, column `pixel_x`", "`NaN`"],
        ),
        (
            format!("{HEADER}1\t1\t0\t0\t5\t10\t1\n1.2\t1\t0\t0\t9\t10\t1\n"),
            &["line 3", "spot 1x1 stands already in line 2"],
        ),
        (format!("{HEADER}1\t1\n"), &["cannot be read"]),
        ("x\ty\n1\t1\n".into(), &["no column pixel_x"]),
        (HEADER.into(), &["lists no spot"]),
    ] {
        put(&file, content);
        let message = refused(read(folder.path(), &options(Unit::Spot)), parts);
        assert!(message.contains("A1_selection.tsv"), "{message}");
    }
}

#[test]
fn bad_counts_are_errors_that_name_the_place() {
    let folder = folder();
    let file = folder.path().join("ST-cnts/A1.tsv");
    for (content, parts) in [
        ("\tG1\tG1\n1x1\t1\t2\n", &["gene `G1` stands twice"][..]),
        ("\tG1\n1x1\tNaN\n", &["line 2, column `G1`", "`NaN`"]),
        ("\tG1\n1x1\t1\n1x1\t1\n", &["line 3", "sample `1x1`"]),
        ("", &["the table is empty"]),
        ("\tG1\n77x1\t1\n", &["none of the 4 samples"]),
    ] {
        put(&file, content);
        let message = refused(read(folder.path(), &options(Unit::Spot)), parts);
        assert!(message.contains("A1.tsv"), "{message}");
    }
}

#[test]
fn missing_folders_and_unknown_sections_are_errors() {
    let folder = folder();
    let name = |sections: &[&str]| Options {
        sections: sections.iter().map(|s| s.to_string()).collect(),
        ..options(Unit::Spot)
    };
    refused(
        read(folder.path().join("none"), &name(&[])),
        &["none", "has no folder ST-imgs", "layout"],
    );
    refused(
        read(folder.path(), &name(&["C7"])),
        &["no section C7", "choose from A1 B2"],
    );
    refused(
        read(folder.path(), &name(&["A1", "A1"])),
        &["A1 is named twice"],
    );
    let zero = Options {
        spot_px: 0,
        ..name(&[])
    };
    refused(read(folder.path(), &zero), &["spot_px"]);
    assert!(serde_json::from_str::<Options>(r#"{"sectoins": []}"#).is_err());
    let read_options: Options = serde_json::from_str(r#"{"unit": "spot", "spot_px": 8}"#).unwrap();
    assert_eq!(read_options, options(Unit::Spot));
}

#[test]
fn an_incomplete_section_is_skipped_or_an_error_when_named() {
    let folder = folder();
    let root = folder.path();
    put_png(&root.join("ST-imgs/C/C1/c.png"), &picture(40, 30, 0));
    put(&root.join("ST-imgs/C/C2/c.jpg"), "no image");
    fs::create_dir_all(root.join("ST-imgs/C/C3")).unwrap();
    put_png(&root.join("ST-imgs/C/C4/one.png"), &picture(40, 30, 0));
    put_png(&root.join("ST-imgs/C/C4/two.png"), &picture(40, 30, 0));
    put_png(&root.join("ST-imgs/C/C5/c.png"), &picture(40, 30, 0));
    spots(root, "C5", &[("1", "1", "5")]);
    put(&root.join("ST-cnts/D1.tsv"), "\tG1\n1x1\t1\n");
    let cohort = read(root, &options(Unit::Section)).unwrap();
    assert_eq!(ids(&cohort), ["A1", "B2"]);
    for (line, parts) in skipped(&cohort).iter().zip([
        ["section C1: ", "C1_selection.tsv is missing"],
        ["section C2: ", "neither a JPEG nor a PNG"],
        ["section C3: ", "no image"],
        ["section C4: ", "2 images"],
        ["section C5: ", "C5.tsv.gz are missing"],
        ["section D1: ", "counts but no image"],
    ]) {
        assert!(parts.iter().all(|p| line.contains(p)), "{line}");
    }
    assert_eq!(cohort.skipped.len(), 6);
    let named = Options {
        sections: vec!["C1".into(), "A1".into()],
        ..options(Unit::Section)
    };
    refused(
        read(root, &named),
        &["section C1 cannot be used", "missing"],
    );
}

/// Whose section it is decides what may stand in training and test together.
#[test]
fn a_section_in_another_patients_folder_is_an_error() {
    let folder = folder();
    put_png(
        &folder.path().join("ST-imgs/B/A2/a.png"),
        &picture(40, 30, 1),
    );
    refused(
        read(folder.path(), &options(Unit::Spot)),
        &["section A2 lies in the folder of patient B", "ST-imgs/C/C2"],
    );
}
