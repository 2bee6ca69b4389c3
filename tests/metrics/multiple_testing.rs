use eosin::metrics::multiple_testing::{Correction, adjust};
use serde_json::Value;

use crate::golden::*;

const NAMES: [(&str, Correction); 5] = [
    ("fdr_bh", Correction::BenjaminiHochberg),
    ("holm_sidak", Correction::HolmSidak),
    ("holm", Correction::Holm),
    ("fdr_by_first10", Correction::BenjaminiYekutieli),
    ("bonferroni_first10", Correction::Bonferroni),
];

fn p_values(case: &Value) -> Vec<f64> {
    if case.get("p_values").is_some() {
        return numbers(&case["p_values"]);
    }
    let edit = case["p"]["edit"].as_str().unwrap();
    let power = edit
        .strip_prefix("v**")
        .and_then(|e| e.strip_suffix(" in float64"))
        .unwrap()
        .parse()
        .unwrap();
    let values = widened(input(&case["p"]));
    values.into_iter().map(|v| v.powi(power)).collect()
}

fn check(n: u64, methods: usize) {
    let cases = cases("multiple_testing");
    let case = cases.iter().find(|c| c["n"] == n).unwrap();
    let p = p_values(case);
    let mut compared = 0;
    for (name, correction) in NAMES {
        let Some(expected) = case.get(name) else {
            continue;
        };
        let expected = numbers(expected);
        let got = adjust(&p, correction).unwrap();
        assert_eq!(got.len(), p.len());
        assert_all_close(name, &got[..expected.len()], &expected, P_VALUE);
        if let Some(rejected) = case["rejected_at_0_05"].get(name) {
            let got = got.iter().filter(|&&p| p <= 0.05).count();
            assert_eq!(got as f64, number(rejected), "{name}");
        }
        compared += 1;
    }
    assert_eq!(compared, methods);
}

#[test]
fn n7() {
    check(7, 5);
}

#[test]
fn n50() {
    check(50, 5);
}

#[test]
fn n300() {
    check(300, 5);
}

#[test]
fn n8_with_ties_zero_and_one() {
    check(8, 3);
}

#[test]
fn no_case_is_left_out() {
    let sizes: Vec<f64> = cases("multiple_testing")
        .iter()
        .map(|c| number(&c["n"]))
        .collect();
    assert_eq!(sizes, [7.0, 50.0, 300.0, 8.0]);
}

#[test]
fn undefined_tests_do_not_count() {
    let with = [0.01, f64::NAN, 0.2, 0.03, f64::NAN];
    let without = [0.01, 0.2, 0.03];
    for (_, correction) in NAMES {
        let with = adjust(&with, correction).unwrap();
        let without = adjust(&without, correction).unwrap();
        assert_eq!([with[0], with[2], with[3]], without[..]);
        assert!(with[1].is_nan() && with[4].is_nan());
        assert!(adjust(&[f64::NAN], correction).unwrap()[0].is_nan());
    }
}
