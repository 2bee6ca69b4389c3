//! Folders of tile images per slide.

use std::fs;
use std::path::Path;

use eosin::cohort::Cohort;
use eosin::cohort::tiles::{Options, read};
use tempfile::{TempDir, tempdir};

use crate::support::{picture, put, put_png, refused};

/// Slides s1 (3 tiles) and s2 (1 tile), and a table beside them.
fn folder() -> TempDir {
    let folder = tempdir().unwrap();
    let root = folder.path();
    for (i, tile) in ["s1/0_0.png", "s1/0_8.png", "s1/x8_y16.png", "s2/only.PNG"]
        .iter()
        .enumerate()
    {
        put_png(&root.join(tile), &picture(8, 8, i));
    }
    put(&root.join("expression.csv"), "id,G1,G2\ns2,3,4\ns1,1,2\n");
    folder
}

fn with_table(root: &Path) -> Options {
    Options {
        table: Some(root.join("expression.csv")),
        ..Options::default()
    }
}

fn skipped(cohort: &Cohort) -> Vec<String> {
    let lines = cohort
        .skipped
        .iter()
        .map(|s| format!("{}: {}", s.what, s.why));
    lines.collect()
}

#[test]
fn slides_become_samples_with_their_row() {
    let folder = folder();
    let cohort = read(folder.path(), &with_table(folder.path())).unwrap();
    let ids: Vec<_> = cohort.samples.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["s1", "s2"]);
    assert_eq!(cohort.samples[0].tiles, [0, 1, 2]);
    assert_eq!(cohort.samples[1].tiles, [3]);
    let table = cohort.table.as_ref().unwrap();
    assert_eq!(
        (&table.samples[..], &table.values[..]),
        (
            &["s1".to_string(), "s2".to_string()][..],
            &[1.0, 2.0, 3.0, 4.0][..]
        )
    );
    let positions: Vec<_> = cohort.tiles.iter().map(|t| t.position).collect();
    assert_eq!(
        positions,
        [Some((0.0, 0.0)), Some((0.0, 8.0)), Some((8.0, 16.0)), None]
    );
    assert!(cohort.skipped.is_empty());

    put(
        &folder.path().join("expression.csv"),
        "gene,s1,s2\nG1,1,3\nG2,2,4\n",
    );
    assert_eq!(
        read(folder.path(), &with_table(folder.path())).unwrap(),
        cohort
    );
    let prediction = read(folder.path(), &Options::default()).unwrap();
    assert_eq!((prediction.samples.len(), prediction.table), (2, None));
}

#[test]
fn patients_come_from_slides_csv_a_barcode_or_the_slide() {
    let folder = folder();
    let root = folder.path();
    let patients = |options: &Options| -> Vec<String> {
        let cohort = read(root, options).unwrap();
        cohort.samples.iter().map(|s| s.patient.clone()).collect()
    };
    assert_eq!(patients(&Options::default()), ["s1", "s2"]);
    put(
        &root.join("slides.csv"),
        "patient,slide\np1,s2\np1,s1\nother,s9\n",
    );
    assert_eq!(patients(&Options::default()), ["p1", "p1"]);

    let other = root.join("elsewhere.tsv");
    let named = Options {
        slides: Some(other.clone()),
        ..Options::default()
    };
    for (content, parts) in [
        (
            "slide\tpatient\ns1\ta\n",
            &["does not say which patient slide s2"][..],
        ),
        (
            "slide\tpatient\ns1\ta\ns1\tb\ns2\tc\n",
            &["line 3", "slide s1 stands twice"],
        ),
        ("slide\tpatient\ns1\t\ns2\tc\n", &["line 2", "empty"]),
        ("slide\tperson\ns1\ta\n", &["no column patient"]),
    ] {
        put(&other, content);
        let message = refused(read(root, &named), parts);
        assert!(message.contains("elsewhere.tsv"), "{message}");
    }

    let tcga = tempdir().unwrap();
    for slide in [
        "TCGA-AB-1234-01Z-00-DX1",
        "TCGA-AB-1234-01Z-00-DX2",
        "TCGA-AB-99-x",
    ] {
        put_png(&tcga.path().join(slide).join("a.png"), &picture(8, 8, 0));
    }
    let cohort = read(tcga.path(), &Options::default()).unwrap();
    let found: Vec<_> = cohort.samples.iter().map(|s| s.patient.as_str()).collect();
    assert_eq!(found, ["TCGA-AB-1234", "TCGA-AB-1234", "TCGA-AB-99-x"]);
}

#[test]
fn what_cannot_be_used_is_skipped_and_named() {
    let folder = folder();
    let root = folder.path();
    put(&root.join("s1/broken.png"), "no image");
    put_png(&root.join("s1/edge.png"), &picture(8, 5, 0));
    put(&root.join("s1/notes.txt"), "no tile");
    put(&root.join("s3/broken.jpg"), "");
    put_png(&root.join("s4/a.png"), &picture(8, 8, 0));
    put(
        &root.join("expression.csv"),
        "id,G1\ns1,1\ns2,2\ns3,3\ns9,9\n",
    );
    let cohort = read(root, &with_table(root)).unwrap();
    let ids: Vec<_> = cohort.samples.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["s1", "s2"]);
    assert_eq!(cohort.samples[0].tiles.len(), 3);
    assert_eq!(cohort.table.as_ref().unwrap().values, [1.0, 2.0]);
    let lines = skipped(&cohort);
    for (line, parts) in lines.iter().zip([
        ["tile s1/broken.png: ", "neither a JPEG nor a PNG"],
        ["tile s1/edge.png: ", "8 x 5 px, not square"],
        ["tile s3/broken.jpg: ", "is empty"],
        ["slide s3: ", "no usable tile"],
        ["slide s4: ", "no expression"],
        ["slide s9: ", "no folder of tiles"],
    ]) {
        assert!(parts.iter().all(|p| line.contains(p)), "{line}");
    }
    assert_eq!(lines.len(), 6);
}

#[test]
fn folders_and_tables_that_do_not_fit_are_errors() {
    let folder = folder();
    let root = folder.path();
    refused(
        read(root.join("none"), &Options::default()),
        &["none", "is not a folder"],
    );
    refused(
        read(root.join("s1"), &Options::default()),
        &["s1", "no folder of tiles"],
    );
    put(&root.join("expression.csv"), "id,G1\na,1\nb,2\n");
    refused(
        read(root, &with_table(root)),
        &["expression.csv", "none of the 2 samples"],
    );
    put(&root.join("expression.csv"), "id,G1\ns1,1\ns2,x\n");
    refused(
        read(root, &with_table(root)),
        &["expression.csv", "line 3, column `G1`"],
    );
    fs::remove_dir_all(root.join("s1")).unwrap();
    fs::remove_file(root.join("s2/only.PNG")).unwrap();
    refused(
        read(root, &Options::default()),
        &["no sample is left", "slide s2"],
    );
}
