//! Reading the golden numbers and comparing with them.

use std::path::PathBuf;

use serde_json::Value;

use crate::formula;

/// Relative tolerance of a statistic.
pub const STATISTIC: f64 = 1e-10;
/// Relative tolerance of a p-value.
pub const P_VALUE: f64 = 1e-8;

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

pub fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

pub fn section(name: &str) -> Value {
    json("metrics.json")[name].take()
}

/// The cases of a section that is a list.
pub fn cases(name: &str) -> Vec<Value> {
    match section(name) {
        Value::Array(cases) => cases,
        other => panic!("{name} is not a list: {other}"),
    }
}

pub fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is not a number"))
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is not a list"))
        .iter()
        .map(number)
        .collect()
}

pub fn indices(value: &Value) -> Vec<usize> {
    numbers(value).into_iter().map(|v| v as usize).collect()
}

/// A number that JSON cannot hold may be written as text.
pub fn text_number(value: &Value) -> f64 {
    value.as_str().unwrap().parse().unwrap()
}

/// The formula's values for an input description.
pub fn input(description: &Value) -> Vec<f32> {
    let count = indices(&description["shape"]).iter().product();
    formula::values(
        description["name"].as_str().unwrap(),
        count,
        number(&description["lo"]),
        number(&description["hi"]),
    )
}

pub fn widened(values: Vec<f32>) -> Vec<f64> {
    values.into_iter().map(f64::from).collect()
}

/// Relative; two NaN agree, and so do two equal infinities.
#[track_caller]
pub fn assert_close(what: &str, got: f64, expected: f64, tolerance: f64) {
    let agree = got == expected
        || (got.is_nan() && expected.is_nan())
        || (got - expected).abs() <= tolerance * expected.abs();
    assert!(
        agree,
        "{what}: {got:e}, expected {expected:e} (relative {:e})",
        (got / expected - 1.0).abs()
    );
}

#[track_caller]
pub fn assert_all_close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        assert_close(&format!("{what}[{i}]"), g, e, tolerance);
    }
}
