use eosin::metrics::classification::{Average, Confusion};

use crate::golden::*;

fn check(index: usize) {
    let case = &cases("classification")[index];
    let classes = number(&case["classes"]) as usize;
    let (truth, pred) = (indices(&case["true"]), indices(&case["pred"]));
    let got = Confusion::new(&truth, &pred, classes).unwrap();
    let one = |key: &str, value: f64| assert_close(key, value, number(&case[key]), STATISTIC);
    one("accuracy", got.accuracy());
    one("balanced_accuracy", got.balanced_accuracy());
    one("f1_micro", got.f1(Average::Micro));
    one("f1_macro", got.f1(Average::MacroPresent));
    one("f1_macro", got.f1(Average::MacroAll));
    one("f1_weighted", got.f1(Average::Weighted));
    one("precision_macro", got.precision(Average::MacroPresent));
    one("recall_macro", got.recall(Average::MacroPresent));
    let per_class = numbers(&case["f1_per_class"]);
    assert_all_close("f1_per_class", &got.f1_per_class(), &per_class, STATISTIC);
    let rows = case["confusion_rows_true"].as_array().unwrap();
    assert_eq!(got.rows().len(), rows.len());
    for (got, expected) in got.rows().zip(rows) {
        let got: Vec<f64> = got.iter().map(|&n| n as f64).collect();
        assert_eq!(got, numbers(expected));
    }
}

#[test]
fn three_classes_n12() {
    check(0);
}

#[test]
fn three_classes_n60() {
    check(1);
}

#[test]
fn five_classes_n40() {
    check(2);
}

#[test]
fn two_classes_n30() {
    check(3);
}

#[test]
fn a_class_absent_from_both() {
    let case = &cases("classification")[4];
    assert_eq!(case["note"], "class 2 absent from both");
    let got = Confusion::new(&indices(&case["true"]), &indices(&case["pred"]), 3).unwrap();
    let one = |key: &str, value: f64| assert_close(key, value, number(&case[key]), STATISTIC);
    one("f1_macro_present_only", got.f1(Average::MacroPresent));
    one("f1_macro_all3", got.f1(Average::MacroAll));
    assert!(got.balanced_accuracy().is_finite());
}

#[test]
fn no_case_is_left_out() {
    assert_eq!(cases("classification").len(), 5);
}
