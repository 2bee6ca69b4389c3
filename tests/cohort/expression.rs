//! Choosing genes and transforming their values, on training samples only.

use eosin::expression::genes::{choose, read_list};
use eosin::expression::{FittedTransforms, GeneChoice, Table, Transform};
use tempfile::tempdir;

use crate::support::{put, refused};

fn table(rows: &[[f32; 4]]) -> Table {
    Table {
        samples: (0..rows.len()).map(|i| format!("s{i}")).collect(),
        genes: ["A", "B", "C", "D"].map(String::from).to_vec(),
        values: rows.concat(),
    }
}

fn chain(text: &[&str]) -> Vec<Transform> {
    text.iter().map(|t| t.parse().unwrap()).collect()
}

fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn transforms_are_read_from_their_names_and_written_back() {
    for text in ["log1p", "log10p1", "library_size:10000", "zscore"] {
        assert_eq!(text.parse::<Transform>().unwrap().to_string(), text);
    }
    for bad in [
        "log2",
        "library_size",
        "library_size:",
        "library_size:0",
        "library_size:-1",
        "library_size:NaN",
        "",
    ] {
        refused(
            bad.parse::<Transform>(),
            &["log1p, log10p1, library_size:TOTAL"],
        );
    }
    for text in ["all", "file:genes.txt", "variance:100", "mean:5"] {
        assert_eq!(text.parse::<GeneChoice>().unwrap().to_string(), text);
    }
    for bad in ["some", "variance:0", "variance:x", "file:", "mean"] {
        refused(bad.parse::<GeneChoice>(), &[bad, "variance:N"]);
    }
}

/// The protocol of the published her2st models: scaled to 10,000, log10(1 + x).
#[test]
fn library_size_and_logarithms_follow_their_formulas() {
    let data = table(&[[1.0, 3.0, 0.0, 4.0], [0.0; 4]]);
    let fitted =
        FittedTransforms::fit(&chain(&["library_size:10000", "log10p1"]), &data, &[0]).unwrap();
    let out = fitted.apply_table(&data).unwrap();
    close(
        &out[..4],
        &[1251f32.log10(), 3751f32.log10(), 0.0, 5001f32.log10()],
    );
    assert_eq!(out[4..], [0.0; 4], "a sample without counts stays zero");
    let mut row = out[..4].to_vec();
    fitted.invert(&mut row).unwrap();
    close(&row, &[1250.0, 3750.0, 0.0, 5000.0]);

    let fitted = FittedTransforms::fit(&chain(&["log1p"]), &data, &[0]).unwrap();
    let mut row = [1.0, 3.0, 0.0, 4.0];
    fitted.apply(&mut row).unwrap();
    close(&row, &[2f32.ln(), 4f32.ln(), 0.0, 5f32.ln()]);
    fitted.invert(&mut row).unwrap();
    close(&row, &[1.0, 3.0, 0.0, 4.0]);
}

#[test]
fn zscore_has_mean_zero_and_deviation_one_on_the_training_samples() {
    let data = table(&[
        [1.0, 5.0, 0.1, 0.0],
        [2.0, 5.0, 0.1, 0.0],
        [6.0, 5.0, 0.1, 0.0],
        [100.0, 100.0, 7.1, 9.0],
    ]);
    let fitted = FittedTransforms::fit(&chain(&["zscore"]), &data, &[0, 1, 2]).unwrap();
    let out = fitted.apply_table(&data).unwrap();
    // Mean 3, variance (4 + 1 + 9) / 3.
    let deviation = (14f32 / 3.0).sqrt();
    close(
        &[out[0], out[4], out[8]],
        &[-2.0 / deviation, -1.0 / deviation, 3.0 / deviation],
    );
    // Genes without variance are only centred: exactly zero in training, and
    // by their own unit elsewhere.
    assert_eq!([out[1], out[5], out[9]], [0.0; 3]);
    close(&out[13..], &[95.0, 7.0, 9.0]);
    let mut row = out[12..].to_vec();
    fitted.invert(&mut row).unwrap();
    close(&row, &[100.0, 100.0, 7.1, 9.0]);
}

#[test]
fn the_fit_does_not_see_test_samples() {
    let data = table(&[
        [1.0, 2.0, 3.0, 4.0],
        [2.0, 0.0, 7.0, 1.0],
        [5.0, 5.0, 5.0, 5.0],
        [3.0, 1.0, 0.0, 9.0],
    ]);
    let mut other = data.clone();
    other.values[8..12].copy_from_slice(&[1e6, 0.0, 17.0, 3.0]);
    let chain = chain(&["library_size:100", "log1p", "zscore"]);
    let train = [0, 1, 3];
    let a = FittedTransforms::fit(&chain, &data, &train).unwrap();
    let b = FittedTransforms::fit(&chain, &other, &train).unwrap();
    assert_eq!(a, b, "row 2 is a test row");
    other.values[0] += 1.0;
    let c = FittedTransforms::fit(&chain, &other, &train).unwrap();
    assert_ne!(a, c, "row 0 is a training row");

    for choice in [GeneChoice::HighestVariance(2), GeneChoice::HighestMean(2)] {
        let mut other = data.clone();
        other.values[8..12].copy_from_slice(&[1e6, 0.0, 1e5, 0.0]);
        assert_eq!(
            choose(&data, &train, &choice, 0.5).unwrap(),
            choose(&other, &train, &choice, 0.5).unwrap()
        );
    }
}

#[test]
fn a_fit_survives_serialisation() {
    let data = table(&[[1.0, 2.0, 3.0, 4.0], [2.0, 0.1, 7.0, 1.0]]);
    let fitted = FittedTransforms::fit(
        &chain(&["library_size:10", "log1p", "zscore"]),
        &data,
        &[0, 1],
    )
    .unwrap();
    let text = serde_json::to_string(&fitted).unwrap();
    assert_eq!(
        serde_json::from_str::<FittedTransforms>(&text).unwrap(),
        fitted
    );
    let names = serde_json::to_string(&chain(&["library_size:10", "zscore"])).unwrap();
    assert_eq!(names, r#"["library_size:10","zscore"]"#);
}

#[test]
fn chains_and_rows_without_meaning_are_refused() {
    let data = table(&[[1.0, 2.0, 3.0, 4.0]]);
    let fit = |names: &[&str], train: &[usize]| FittedTransforms::fit(&chain(names), &data, train);
    refused(
        fit(&["zscore", "log1p"], &[0]),
        &["log1p has no meaning after zscore"],
    );
    refused(
        fit(&["log1p", "library_size:1"], &[0]),
        &["library_size:1 has no meaning after a logarithm"],
    );
    refused(fit(&["log1p"], &[]), &["no training samples"]);
    refused(fit(&["log1p"], &[1]), &["index 1"]);
    let fitted = fit(&["log1p"], &[0]).unwrap();
    refused(fitted.apply(&mut [1.0]), &["[1]", "4 genes"]);
    refused(fitted.apply(&mut [0.0, -2.0, 0.0, 0.0]), &["gene `B`"]);
    let mut others = data.clone();
    others.genes.swap(0, 1);
    refused(fitted.apply_table(&others), &["select the same genes"]);
}

#[test]
fn genes_by_variance_mean_and_detection() {
    let data = table(&[
        [1.0, 10.0, 0.0, 7.0],
        [2.0, 10.0, 0.0, 0.0],
        [3.0, 10.0, 0.0, 0.0],
        [0.0, 0.0, 900.0, 0.0],
    ]);
    let train = [0, 1, 2];
    let pick = |choice, detected| choose(&data, &train, &choice, detected).unwrap();
    assert_eq!(pick(GeneChoice::All, 0.0).columns, [0, 1, 2, 3]);
    assert_eq!(pick(GeneChoice::HighestVariance(2), 0.0).columns, [0, 3]);
    assert_eq!(pick(GeneChoice::HighestMean(2), 0.0).columns, [1, 3]);
    let chosen = pick(GeneChoice::HighestVariance(1), 0.5);
    assert_eq!(chosen.columns, [0]);
    assert_eq!(chosen.undetected, ["C", "D"]);
    refused(
        choose(&data, &train, &GeneChoice::HighestMean(3), 0.5),
        &["3 genes", "2 can be chosen"],
    );
    refused(
        choose(&data, &[], &GeneChoice::All, 0.0),
        &["no training samples"],
    );
    refused(choose(&data, &[9], &GeneChoice::All, 0.0), &["row 9"]);
    refused(choose(&data, &train, &GeneChoice::All, 1.5), &["1.5"]);
    refused(choose(&data, &[3], &GeneChoice::All, f64::NAN), &["NaN"]);
}

#[test]
fn genes_from_a_file_keep_its_order_and_missing_ones_are_reported() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("genes.txt");
    let data = table(&[[1.0, 2.0, 0.0, 4.0]]);
    let choice = GeneChoice::File(path.clone());
    put(&path, "D\r\n\nX1\n B \nC\n");
    let chosen = choose(&data, &[0], &choice, 0.1).unwrap();
    assert_eq!(chosen.columns, [3, 1]);
    assert_eq!(chosen.missing, ["X1"]);
    assert_eq!(chosen.undetected, ["C"]);
    assert_eq!(
        data.select_genes(&chosen.columns).unwrap().values,
        [4.0, 2.0]
    );

    put(&path, "A\nB\nA\n");
    refused(
        read_list(&path),
        &["genes.txt", "line 3", "`A` stands twice"],
    );
    put(&path, "\n");
    refused(read_list(&path), &["names no gene"]);
    put(&path, "X\nY\n");
    refused(
        choose(&data, &[0], &choice, 0.0),
        &["no gene is left", "2 are not in the table"],
    );
    refused(read_list(folder.path().join("none")), &["cannot read"]);
}
