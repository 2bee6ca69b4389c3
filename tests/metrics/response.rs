//! Scores against responses: the published cohorts, and small cases by hand.

use std::path::{Path, PathBuf};

use eosin::response::evaluate::{THRESHOLD, evaluate, read};
use eosin::response::score::{Kind, read_partners};

use crate::golden::assert_close;

/// The tables of Hoang et al. 2024, or `None` (said aloud) where they are absent.
fn published(test: &str) -> Option<PathBuf> {
    let data = std::env::var_os("EOSIN_TEST_DATA")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    let folder = data.join("enlight-deeppt");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: {test}: no enlight-deeppt in {}", data.display());
    None
}

/// Counts, average precision and area under the curve by a few lines of Python.
#[test]
fn the_six_published_cohorts_come_out() {
    let Some(folder) = published("the_six_published_cohorts_come_out") else {
        return;
    };
    for (cohort, n, counts, precision, auc) in [
        ("ALKi", 14, [[2, 2], [3, 7]], 0.617619, 0.7),
        ("ARi", 32, [[3, 4], [11, 14]], 0.44192, 0.357143),
        (
            "Bintrafusp_alpha",
            58,
            [[9, 14], [4, 31]],
            0.378468,
            0.682051,
        ),
        ("PARPi", 13, [[2, 1], [3, 7]], 0.507179, 0.5),
        ("Trastuzumab_1", 64, [[8, 7], [11, 38]], 0.589579, 0.64152),
        ("Trastuzumab_2", 85, [[11, 10], [25, 39]], 0.51952, 0.496599),
    ] {
        let scores = folder.join(format!("EMS/{cohort}_EMS.csv"));
        let responses = folder.join(format!("Patient_drug_response/{cohort}_response.csv"));
        let data = read(&scores, None, &responses).unwrap();
        let found = evaluate(&data, THRESHOLD, 200, 0).unwrap();
        assert_eq!((found.patients, found.counts), (n, counts), "{cohort}");
        let [[a, b], [c, d]] = counts.map(|row| row.map(|v| v as f64));
        assert_close(
            cohort,
            found.odds_ratio.value.unwrap(),
            a * d / (b * c),
            1e-12,
        );
        for (figure, expected) in [(found.average_precision, precision), (found.roc_auc, auc)] {
            let value = figure.value.unwrap();
            assert!((value - expected).abs() < 1e-6, "{cohort}: {value}");
            assert!(
                figure.low.unwrap() <= value && value <= figure.high.unwrap(),
                "{cohort}"
            );
        }
        if cohort == "Trastuzumab_1" {
            // As published: 3.948 and 0.5896.
            assert!((found.odds_ratio.value.unwrap() - 3.948).abs() < 5e-4);
            assert!((found.average_precision.value.unwrap() - 0.5896).abs() < 5e-5);
            let exact = found.conditional_odds_ratio;
            assert!(exact.low.unwrap() < 3.948 && 3.948 < exact.high.unwrap());
        }
    }
}

fn put(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn patients_are_joined_and_what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| put(folder.path(), name, text);
    let scores = at(
        "s.csv",
        "id,a,b\nP1,0.9,0.1\nP2,0.2,0.8\nP3,0.6,0.3\nP4,0.1,\n",
    );
    let responses = at(
        "r.csv",
        "\"id\",\"r\"\n\"P2\",0\n\"P1\",1\n\"P9\",1\n\"P3\",NA\n",
    );
    let data = read(&scores, Some("a"), &responses).unwrap();
    assert_eq!(data.patients, ["P1", "P2"]);
    assert_eq!(data.responses, [true, false]);
    assert_eq!((data.without_response, data.without_score), (2, 1));
    let found = evaluate(&data, 0.5, 100, 1).unwrap();
    // Nobody is on the wrong side: an infinite odds ratio has no value.
    assert_eq!(
        (found.odds_ratio.value, found.roc_auc.value),
        (None, Some(1.0))
    );
    // Half of the samples of two patients have one of them only.
    assert!(
        (30..70).contains(&found.bootstrap_undefined),
        "{}",
        found.bootstrap_undefined
    );
    assert_eq!(evaluate(&data, 0.5, 100, 1).unwrap(), found);

    let refused = |scores: &Path, column, responses: &Path, part: &str| {
        let error = read(scores, column, responses).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    };
    refused(&scores, None, &responses, "has 3 columns");
    refused(&scores, Some("c"), &responses, "no column c");
    refused(
        &scores,
        Some("a"),
        &at("x.csv", "id,r\nP1,2\n"),
        "line 2: `2` is no response",
    );
    refused(
        &scores,
        Some("a"),
        &at("x.csv", "id,r\nP1,1\nP1,0\n"),
        "line 3: patient P1 stands twice",
    );
    refused(
        &scores,
        Some("a"),
        &at("x.csv", "id,r\nQ1,1\n"),
        "no patient that has a score",
    );
    refused(
        &at("y.csv", "id,s\nP1,much\n"),
        None,
        &responses,
        "line 2: `much` is no score",
    );
}

#[test]
fn partners_are_read_by_their_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let good = "drug,gene,kind\ntrastuzumab,ERBB2,target\ntrastuzumab,A,SL\ntrastuzumab,B,sr-dd\n";
    let partners = read_partners(put(folder.path(), "p.csv", good)).unwrap();
    let kinds: Vec<Kind> = partners["trastuzumab"].iter().map(|(_, k)| *k).collect();
    assert_eq!(
        kinds,
        [Kind::Target, Kind::SyntheticLethal, Kind::RescueByLoss]
    );
    for (text, part) in [
        ("drug,gene\n", "no column kind"),
        (
            "drug,gene,kind\nd,g,friend\n",
            "line 2: `friend` is no kind",
        ),
        (
            "drug,gene,kind\nd,g,SL\nd,g,SR\n",
            "line 3: g stands twice for d",
        ),
        ("drug,gene,kind\nd,,SL\n", "line 2: drug or gene is empty"),
        ("drug,gene,kind\n", "names no partner"),
    ] {
        let error = read_partners(put(folder.path(), "p.csv", text))
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    }
}
