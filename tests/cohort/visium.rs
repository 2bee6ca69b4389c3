//! Visium sections: a made-up `outs` folder of Space Ranger.

use std::path::Path;

use eosin::cohort::her2st::{Options, Unit};
use eosin::cohort::visium::read;
use eosin::formats::{Array, hdf5};

use crate::support::{gzip, picture, put, put_png, refused};

/// Four spots in the tissue, one beside it. Pixels are of a full image of 400 x 300.
const POSITIONS: &str = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n\
    AAA-1,1,0,0,100.4,120.6\nBBB-1,1,0,2,100,200\nCCC-1,1,1,1,170,160\nDDD-1,0,1,3,170,240\n\
    EEE-1,1,2,0,298,120\n";
const FEATURES: &str = "ENS1\tTP53\tGene Expression\nENS2\tERBB2\tGene Expression\n\
    ENS3\tERBB2\tGene Expression\nAB1\tCD3\tAntibody Capture\nENS4\tSILENT\tGene Expression\n";
/// EEE-1, whose tile leaves the image, and FFF-1, which has no position, are counted.
const BARCODES: &str = "AAA-1\nBBB-1\nEEE-1\nFFF-1\n";
const MATRIX: &str = "%%MatrixMarket matrix coordinate integer general\n%made up\n5 4 6\n1 1 3\n2 1 5\n\
    3 2 7\n4 2 9\n1 3 1\n2 4 1\n";

fn outs(root: &Path) {
    put(&root.join("spatial/tissue_positions.csv"), POSITIONS);
    let scales = r#"{"spot_diameter_fullres": 130.0, "tissue_hires_scalef": 0.5, "x": 1}"#;
    put(&root.join("spatial/scalefactors_json.json"), scales);
    put_png(
        &root.join("spatial/tissue_hires_image.png"),
        &picture(200, 150, 1),
    );
    let folder = root.join("filtered_feature_bc_matrix");
    for (file, text) in [
        ("features.tsv.gz", FEATURES),
        ("barcodes.tsv.gz", BARCODES),
        ("matrix.mtx.gz", MATRIX),
    ] {
        put(&folder.join(file), gzip(text.as_bytes()));
    }
}

fn options() -> Options {
    Options {
        unit: Unit::Spot,
        spot_px: 60,
        ..Options::default()
    }
}

#[test]
fn spots_counts_and_names_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("S1/outs");
    outs(&root);
    put_png(
        &root.parent().unwrap().join("tissue.png"),
        &picture(400, 300, 2),
    );
    for given in [folder.path(), &root] {
        let cohort = read(given, None, &options()).unwrap();
        let ids: Vec<&str> = cohort.samples.iter().map(|s| s.id.as_str()).collect();
        assert_eq!(ids, ["S1_AAA-1", "S1_BBB-1"]);
        assert_eq!(cohort.samples[0].patient, "S1");
        assert_eq!(cohort.tiles[0].centre, Some((120.6, 100.4)));
        assert_eq!(cohort.tiles[0].size_px, 60);
        let table = cohort.table.as_ref().unwrap();
        // A gene's second row by its id; no antibodies, nothing silent.
        assert_eq!(table.genes, ["TP53", "ERBB2", "ENS3"]);
        assert_eq!(table.values, [3.0, 5.0, 0.0, 0.0, 0.0, 7.0]);
        let skipped: Vec<&str> = cohort.skipped.iter().map(|s| s.what.as_str()).collect();
        assert_eq!(
            skipped,
            [
                "section S1, spot CCC-1",
                "section S1, spot EEE-1",
                "section S1, spot FFF-1"
            ]
        );
    }
    // 65 micrometres are the 130 px of a spot.
    let by_length = Options {
        spot_um: Some(20.0),
        ..options()
    };
    let cohort = read(&root, None, &by_length).unwrap();
    assert_eq!(cohort.tiles[0].size_px, 40);
}

/// The matrix of the folder, as Space Ranger packs it into one file.
#[test]
fn one_file_gives_the_counts_that_the_folder_gives() {
    let folder = tempfile::tempdir().unwrap();
    outs(folder.path());
    let plain = read(folder.path(), None, &options()).unwrap();
    std::fs::remove_dir_all(folder.path().join("filtered_feature_bc_matrix")).unwrap();
    let path = folder.path().join("filtered_feature_bc_matrix.h5");
    let texts = |text: &str, column: usize| {
        let cell = |line: &str| line.split('\t').nth(column).unwrap().to_owned();
        hdf5::Dataset::fixed_texts(text.lines().map(cell).collect())
    };
    let write = |indices: &[i64]| {
        let mut features = hdf5::Group::new();
        for (column, name) in ["id", "name", "feature_type"].into_iter().enumerate() {
            features.dataset(name, texts(FEATURES, column));
        }
        let numbers = |values: &[i64]| Array::from_i64(&[values.len()], values).unwrap();
        let mut matrix = hdf5::Group::new();
        matrix.dataset("barcodes", texts(BARCODES, 0));
        matrix.dataset("data", numbers(&[3, 5, 7, 9, 1, 1]));
        matrix.dataset("indices", numbers(indices));
        matrix.dataset("indptr", numbers(&[0, 2, 4, 5, 6]));
        matrix.dataset("shape", numbers(&[5, 4]));
        matrix.group("features", features);
        let mut root = hdf5::Group::new();
        root.group("matrix", matrix);
        hdf5::write(&path, &root).unwrap();
    };
    write(&[0, 1, 2, 3, 0, 1]);
    assert_eq!(read(folder.path(), None, &options()).unwrap(), plain);
    write(&[0, 1, 2, 9, 0, 1]);
    let parts = ["filtered_feature_bc_matrix.h5", "do not fit"];
    refused(read(folder.path(), None, &options()), &parts);
}

#[test]
fn without_the_full_image_positions_are_scaled_to_the_small_one() {
    let folder = tempfile::tempdir().unwrap();
    outs(folder.path());
    let list = POSITIONS.lines().skip(1).collect::<Vec<_>>().join("\n");
    std::fs::remove_file(folder.path().join("spatial/tissue_positions.csv")).unwrap();
    put(
        &folder.path().join("spatial/tissue_positions_list.csv"),
        list,
    );
    let small = Options {
        spot_um: Some(20.0),
        ..options()
    };
    let cohort = read(folder.path(), None, &small).unwrap();
    assert_eq!(cohort.tiles[0].centre, Some((60.3, 50.2)));
    assert_eq!(cohort.tiles[0].size_px, 20);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let made = |change: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        outs(folder.path());
        change(folder.path());
        (read(folder.path(), None, &options()), folder)
    };
    let matrix = |text: &'static str| {
        move |root: &Path| {
            let file = root.join("filtered_feature_bc_matrix/matrix.mtx.gz");
            put(&file, gzip(text.as_bytes()));
        }
    };
    let barcodes = |root: &Path| {
        let file = root.join("filtered_feature_bc_matrix/barcodes.tsv.gz");
        put(&file, gzip(b"X\nY\nZ\nW\n"));
    };
    refused(
        made(&barcodes).0,
        &["none of the 4 barcodes", "5 positions"],
    );
    let head = "%%MatrixMarket matrix coordinate integer general\n";
    for (text, parts) in [
        ("1 1 3\n", &["matrix.mtx.gz", "no sparse MatrixMarket"][..]),
        (
            "%%MatrixMarket matrix coordinate integer general\n9 4 1\n1 1 3\n",
            &["line 2", "9 genes and 4 barcodes", "have 5 and 4"],
        ),
        (
            "%%MatrixMarket matrix coordinate integer general\n5 4 1\n6 1 3\n",
            &["line 3", "beyond"],
        ),
        (
            "%%MatrixMarket matrix coordinate integer general\n5 4 2\n1 1 3\n",
            &["1 entries to come"],
        ),
        (
            "%%MatrixMarket matrix coordinate integer general\n5 4 1\n1 1 -3\n",
            &["`-3` is no count"],
        ),
    ] {
        assert!(text.starts_with(head) || parts[1].contains("MatrixMarket"));
        refused(made(&matrix(text)).0, parts);
    }
    let scales = |root: &Path| put(&root.join("spatial/scalefactors_json.json"), "{}");
    refused(
        made(&scales).0,
        &["scalefactors_json.json", "spot_diameter"],
    );
    let positions = |root: &Path| {
        put(
            &root.join("spatial/tissue_positions.csv"),
            "AAA-1,1,0,0,far,1\n",
        );
    };
    refused(
        made(&positions).0,
        &["tissue_positions.csv", "line 1", "`far`"],
    );
    let empty = tempfile::tempdir().unwrap();
    refused(read(empty.path(), None, &options()), &["no folder spatial"]);
    let slides = empty.path().join("slides.csv");
    put(&slides, "slide,patient\nother,P\n");
    let folder = tempfile::tempdir().unwrap();
    outs(&folder.path().join("S1"));
    let refusal = read(folder.path(), Some(&slides), &options());
    refused(refusal, &["slides.csv", "section S1"]);
    put(&slides, "slide,patient\nS1,P\n");
    let cohort = read(folder.path(), Some(&slides), &options()).unwrap();
    assert_eq!(cohort.samples[0].patient, "P");
}
