//! Images, tables and run files that cannot be used, met by `train`.

use std::fs;
use std::path::{Path, PathBuf};

use eosin::models::resnet::{Depth, ResNet};
use eosin::random::Philox;
use eosin::slides::image::{Rgb8, write_png};
use tempfile::TempDir;

use crate::support::*;

/// Training with these keys changed fails with `parts` and leaves no folder.
fn refused(folder: &TempDir, changes: &[(&str, &str)], parts: &[&str]) {
    let out = folder.path().join("run");
    let config = run_file(folder.path(), changes);
    fails(train(&config, &out), parts);
    assert!(!out.exists(), "a run that never began left its folder");
}

fn quoted(path: &Path) -> String {
    format!("{:?}", text(path))
}

/// Training on the cohort's table after `change` (lines, each a list of
/// fields; the header first) fails, naming the table and `parts`.
fn refused_table(change: impl FnOnce(&mut Vec<Vec<String>>), parts: &[&str]) {
    let folder = scratch();
    let table = fs::read_to_string(cohort().join("expression.csv")).expect("a table");
    let mut lines: Vec<Vec<String>> = table
        .lines()
        .map(|l| l.split(',').map(str::to_owned).collect())
        .collect();
    change(&mut lines);
    let path = folder.path().join("bad.csv");
    let lines: Vec<String> = lines.iter().map(|l| l.join(",") + "\n").collect();
    fs::write(&path, lines.concat()).expect("a table");
    let parts = [&[text(&path)], parts].concat();
    refused(&folder, &[("data.expression", &quoted(&path))], &parts);
}

#[test]
fn a_gene_twice() {
    refused_table(
        |lines| lines[0][5] = "SIMDEN1".into(),
        &["line 1", "`SIMDEN1`", "twice"],
    );
}

#[test]
fn a_slide_twice() {
    refused_table(
        |lines| lines[4][0] = "S02".into(),
        &["line 5", "`S02`", "line 3"],
    );
}

#[test]
fn nan_in_a_count() {
    refused_table(
        |lines| lines[3][2] = "NaN".into(),
        &["line 4", "column `SIMDEN2`", "NaN", "finite number"],
    );
}

#[test]
fn text_in_a_count() {
    refused_table(
        |lines| lines[3][2] = "many".into(),
        &["line 4", "column `SIMDEN2`", "many", "give a finite number"],
    );
}

#[test]
fn nothing_in_a_count() {
    refused_table(
        |lines| lines[3][2].clear(),
        &["line 4", "column `SIMDEN2`", "give a finite number"],
    );
}

#[test]
fn a_negative_count() {
    refused_table(
        |lines| lines[3][2] = "-1".into(),
        &["line 4", "column `SIMDEN2`", "-1", "not negative"],
    );
}

#[test]
fn a_line_cut_short() {
    refused_table(
        |lines| lines[7].truncate(9),
        &["line 8", "9 fields", "149", "same number of fields"],
    );
}

#[test]
fn an_empty_table() {
    refused_table(Vec::clear, &["is empty", "header line"]);
    refused_table(|lines| lines.truncate(1), &["is empty", "at least one row"]);
}

#[test]
fn a_table_of_other_slides() {
    refused_table(
        |lines| {
            lines
                .iter_mut()
                .skip(1)
                .for_each(|l| l[0] = format!("T{}", l[0]))
        },
        &["names none of the 16 samples", "TS01", "S01"],
    );
}

#[test]
fn a_config_with_an_unknown_key() {
    let folder = scratch();
    // Keys stand in the order of their names: this is the first line.
    refused(
        &folder,
        &[("autoencoder.epoch", "3")],
        &[
            "run.toml",
            "line 1",
            "unknown field `epoch`",
            "`epochs`",
            "README.md",
        ],
    );
    refused(
        &folder,
        &[("colour", "3")],
        &["run.toml", "unknown field `colour`"],
    );
    refused(
        &folder,
        &[("mlp.epochs", "\"ten\"")],
        &["run.toml", "line", "string \"ten\""],
    );
    refused(
        &folder,
        &[("data.layout", "")],
        &["run.toml", "missing field `layout`"],
    );
    refused(
        &folder,
        &[("mlp.epochs", "0")],
        &["mlp.epochs is 0", "at least 1"],
    );
    refused(
        &folder,
        &[("mlp.dropout", "1.5")],
        &["mlp.dropout = 1.5", "below 1"],
    );
    refused(&folder, &[("seed", "= 3")], &["run.toml", "line"]);
}

#[test]
fn a_config_that_is_not_there() {
    let folder = scratch();
    let config = folder.path().join("no.toml");
    fails(
        train(&config, &folder.path().join("run")),
        &[text(&config), "check the path"],
    );
}

#[test]
fn too_many_folds_for_the_patients() {
    let folder = scratch();
    refused(
        &folder,
        &[("split.outer_folds", "15")],
        &["13 patients", "15 outer folds", "13 or fewer"],
    );
    refused(
        &folder,
        &[("split.inner_folds", "9")],
        &["patients", "inner folds"],
    );
}

#[test]
fn a_patient_on_both_sides() {
    let folder = scratch();
    let slides = folder.path().join("slides.csv");
    let table = fs::read_to_string(cohort().join("slides.csv")).expect("a table");
    fs::write(&slides, table.replace("S02,P02", "S02,P01")).expect("a table");
    let slides = quoted(&slides);
    let base = [
        ("data.slides", &*slides),
        ("split.test", "[\"S01\", \"S03\", \"S04\"]"),
    ];
    refused(
        &folder,
        &base,
        &[
            "patient P01",
            "test slide S01",
            "in training too",
            "split.by = \"section\"",
        ],
    );

    // With leave it runs, and every figure says so.
    let config = run_file(
        folder.path(),
        &[&base[..], &[("split.by", "\"section\"")]].concat(),
    );
    let out = folder.path().join("run");
    let said = succeeds(train(&config, &out));
    assert!(said.contains("(same patient)"), "{said}");
    let page = fs::read_to_string(out.join("report.html")).expect("a report");
    assert!(page.contains("same patient"));
}

#[test]
fn a_test_slide_that_is_not_there() {
    let folder = scratch();
    refused(
        &folder,
        &[("split.test", "[\"S99\"]")],
        &["S99", "name sections or slides"],
    );
}

#[test]
fn a_folder_that_is_not_there() {
    let folder = scratch();
    let absent = folder.path().join("her2st");
    let her2st = [
        ("data.layout", "\"her2st\""),
        ("data.expression", ""),
        ("data.slides", ""),
        ("data.path", &quoted(&absent)),
    ];
    refused(&folder, &her2st, &[text(&absent), "ST-imgs"]);
    refused(
        &folder,
        &[("data.path", &quoted(&absent))],
        &[text(&absent), "not a folder"],
    );
}

#[test]
fn weights_of_another_architecture() {
    let folder = scratch();
    let path = folder.path().join("resnet18.safetensors");
    let model = ResNet::new(Depth::ResNet18, 10, &mut Philox::new(1)).expect("a network");
    let weights = eosin::nn::state_weights(&model).expect("weights");
    eosin::formats::safetensors::write(&path, &weights).expect("a file");
    let parts = [text(&path), "missing", "conv3", "eosin inspect"];
    let config = run_file(folder.path(), &[("features.weights", &quoted(&path))]);
    let run = folder.path().join("run");
    fails(train(&config, &run), &parts);
    assert!(!run.exists(), "a failed start leaves a folder");
    let tiles = cohort().join("tiles");
    let out = folder.path().join("features");
    let args = [
        "features",
        "--layout",
        "tiles",
        "--data",
        text(&tiles),
        "--out",
        text(&out),
    ];
    fails([&args[..], &["--weights", text(&path)]].concat(), &parts);
}

/// A copy of the cohort's tiles.
fn copied_tiles(folder: &Path) -> PathBuf {
    let copy = folder.join("tiles");
    for (path, bytes) in files(&cohort().join("tiles")) {
        let path = copy.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("a tile");
    }
    copy
}

#[test]
fn a_truncated_jpeg_is_skipped_and_named() {
    let folder = scratch();
    let tiles = copied_tiles(folder.path());
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cohort/fixtures/square.jpg");
    let whole = fs::read(whole).expect("a picture");
    fs::write(tiles.join("S04/whole.jpg"), &whole).expect("a tile");
    fs::write(tiles.join("S04/half.jpg"), &whole[..whole.len() / 2 + 100]).expect("a tile");
    fs::write(tiles.join("S05/head.jpg"), &whole[..20]).expect("a tile");
    let config = run_file(folder.path(), &[("data.path", &quoted(&tiles))]);
    let out = folder.path().join("run");
    succeeds(train(&config, &out));
    let page = fs::read_to_string(out.join("report.html")).expect("a report");
    assert!(page.contains("Left out: 2"), "the count is missing");
    assert!(page.contains("S04/half.jpg") && page.contains("S05/head.jpg"));
    assert!(!page.contains("whole.jpg"));
    let slide = eosin::formats::read_weights(out.join("features/S04.safetensors"));
    assert_eq!(
        slide
            .expect("features")
            .get("features")
            .expect("a key")
            .shape,
        [3, 2048]
    );

    let made = folder.path().join("features");
    let args = ["features", "--json", "--layout", "tiles", "--tile-px", "64"];
    let made = json([&args[..], &["--data", text(&tiles), "--out", text(&made)]].concat());
    assert_eq!(made["tiles"], 33);
    assert_eq!(made["skipped"].as_array().expect("a list").len(), 2);
}

/// Six patients with a section each and six spots on it, in her2st layout.
fn her2st(folder: &Path) -> PathBuf {
    let root = folder.join("her2st");
    for part in ["ST-spotfiles", "ST-cnts"] {
        fs::create_dir_all(root.join(part)).expect("a folder");
    }
    for (number, patient) in ["A", "B", "C", "D", "E", "F"].iter().enumerate() {
        let images = root
            .join("ST-imgs")
            .join(patient)
            .join(format!("{patient}1"));
        fs::create_dir_all(&images).expect("a folder");
        let mut data = vec![0; 160 * 96 * 3];
        let mut state = number as u64;
        data.fill_with(|| eosin::random::splitmix64(&mut state) as u8);
        let picture = Rgb8 {
            width: 160,
            height: 96,
            data,
        };
        write_png(images.join("section.png"), &picture, &[]).expect("an image");
        let mut spots = "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n".to_owned();
        let mut counts = "\tERBB2\tKRT7\tGAPDH\n".to_owned();
        for spot in 0..6 {
            let (x, y) = (spot % 3, spot / 3);
            let (at_x, at_y) = (30 + 40 * x, 30 + 30 * y);
            spots += &format!("{x}\t{y}\t{x}.1\t{y}.1\t{at_x}.5\t{at_y}.5\t1\n");
            let count = 3 + number + 2 * spot;
            counts += &format!("{x}x{y}\t{count}\t{}\t{}\n", 40 - count, 7 + spot % 2);
        }
        fs::write(
            root.join(format!("ST-spotfiles/{patient}1_selection.tsv")),
            spots,
        )
        .expect("a spot file");
        fs::write(root.join(format!("ST-cnts/{patient}1.tsv")), counts).expect("counts");
    }
    root
}

fn her2st_keys(root: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("data.layout", "\"her2st\"".to_owned()),
        ("data.path", quoted(root)),
        ("data.expression", String::new()),
        ("data.slides", String::new()),
        ("data.unit", "\"spot\"".to_owned()),
        ("data.spot_px", "32".to_owned()),
        ("features.tile_px", "32".to_owned()),
    ]
}

#[test]
fn a_spot_outside_the_image_is_skipped_and_named() {
    let folder = scratch();
    let root = her2st(folder.path());
    let path = root.join("ST-spotfiles/B1_selection.tsv");
    let spots = fs::read_to_string(&path).expect("a spot file");
    assert!(spots.contains("110.5\t60.5"));
    fs::write(&path, spots.replace("110.5\t60.5", "1100.5\t60.5")).expect("a spot file");
    let keys = her2st_keys(&root);
    let keys: Vec<(&str, &str)> = keys.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let config = run_file(folder.path(), &keys);
    let out = folder.path().join("run");
    succeeds(train(&config, &out));
    let page = fs::read_to_string(out.join("report.html")).expect("a report");
    assert!(page.contains("Left out: 1"), "the count is missing");
    assert!(page.contains("section B1, spot 2x1"));
    assert!(page.contains("leaves the image of 160 x 96 px"));

    let blind = folder.path().join("blind");
    let args = [
        "evaluate",
        "--json",
        "--run",
        text(&out),
        "--data",
        text(&root),
    ];
    let more = [
        "--sections",
        "A1,B1",
        "--no-expression",
        "--out",
        text(&blind),
    ];
    let made = json([&args[..], &more].concat());
    assert_eq!(
        (&made["samples"], &made["skipped"]),
        (&11.into(), &1.into())
    );
    let scored = folder.path().join("scored");
    let made = json([&args[..], &["--out", text(&scored)]].concat());
    assert_eq!(made["scores"]["samples"], 35);
    assert_eq!(made["scores"]["same_patient"], true);
}

#[test]
fn a_damaged_count_of_a_section() {
    let folder = scratch();
    let root = her2st(folder.path());
    let path = root.join("ST-cnts/C1.tsv");
    let counts = fs::read_to_string(&path).expect("counts");
    fs::write(&path, counts.replacen("\t7\n", "\tseven\n", 1)).expect("counts");
    let keys = her2st_keys(&root);
    let keys: Vec<(&str, &str)> = keys.iter().map(|(k, v)| (*k, v.as_str())).collect();
    refused(
        &folder,
        &keys,
        &[text(&path), "line 2", "column `GAPDH`", "seven"],
    );
}
