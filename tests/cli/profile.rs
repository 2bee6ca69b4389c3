//! `eosin profile`: tables that add up, timelines that nest, dry runs.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::*;

const STEP: [&str; 6] = [
    "profile",
    "deeppt-autoencoder",
    "--mode",
    "train",
    "--batch",
    "4",
];

fn with(more: &[&str]) -> Vec<String> {
    let all = STEP.iter().chain(more);
    all.map(|s| (*s).to_owned()).collect()
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn rows(report: &Value) -> &Vec<Value> {
    report["rows"].as_array().expect("rows")
}

#[test]
fn a_step_on_the_cpu_is_told_by_operator() {
    let given = ["--peak-gflops", "200", "--bandwidth", "30"];
    let common = ["--device", "cpu", "--steps", "3", "--json"];
    let report = json(with(&[&given[..], &common[..]].concat()));
    assert_eq!(report["steps"].as_array().expect("steps").len(), 3);
    let seconds = number(&report["seconds"]);
    let operators: f64 = rows(&report).iter().map(|r| number(&r["seconds"])).sum();
    assert!(
        operators > 0.0 && operators <= seconds,
        "{operators} of {seconds}"
    );
    let phases: BTreeSet<&str> = (rows(&report).iter())
        .map(|r| r["phase"].as_str().expect("a phase"))
        .collect();
    assert_eq!(phases, BTreeSet::from(["backward", "forward", "update"]));
    let linear = rows(&report).iter().find(|r| r["operator"] == "linear");
    let linear = linear.expect("the autoencoder's layers");
    assert_eq!(linear["calls"], 2);
    assert_eq!(linear["flops"], 2 * 2 * 4 * 2048 * 512);
    // Floors are at the ceilings that were given.
    let floor = (number(&linear["flops"]) / 200e9).max(number(&linear["bytes"]) / 30e9);
    assert!((number(&linear["floor_seconds"]) / floor - 1.0).abs() < 1e-9);
    assert_eq!(report["ceilings"]["source"], "given");
}

/// Spans of one track either nest or have nothing in common.
#[test]
fn the_timeline_is_json_whose_spans_nest() {
    let folder = scratch();
    let path = folder.path().join("trace.json");
    let given = ["--peak-gflops", "1", "--bandwidth", "1", "--steps", "1"];
    let place = ["--device", "cpu", "--trace", text(&path)];
    succeeds(with(&[&given[..], &place[..]].concat()));
    let trace = std::fs::read_to_string(&path).expect("a timeline");
    let trace: Value = serde_json::from_str(&trace).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    let spans: Vec<(&str, &str, f64, f64)> = (events.iter().filter(|e| e["ph"] == "X"))
        .map(|e| {
            let start = number(&e["ts"]);
            let (name, category) = (e["name"].as_str(), e["cat"].as_str());
            let (name, category) = (name.expect("a name"), category.expect("a category"));
            (name, category, start, start + number(&e["dur"]))
        })
        .collect();
    let of = |category: &'static str| spans.iter().filter(move |s| s.1 == category);
    assert_eq!(of("step").count(), 1);
    let phases: BTreeSet<&str> = of("phase").map(|s| s.0).collect();
    assert_eq!(phases, BTreeSet::from(["backward", "forward", "update"]));
    assert!(of("rule").any(|s| s.0 == "gradient of linear"));
    assert!(of("operator").any(|s| s.0 == "matmul"));
    const ROUNDING: f64 = 1e-3;
    for (i, a) in spans.iter().enumerate() {
        for b in &spans[i + 1..] {
            let apart = a.3 <= b.2 + ROUNDING || b.3 <= a.2 + ROUNDING;
            let inside = |x: &(&str, &str, f64, f64), y: &(&str, &str, f64, f64)| {
                x.2 <= y.2 + ROUNDING && y.3 <= x.3 + ROUNDING
            };
            assert!(apart || inside(a, b) || inside(b, a), "{a:?} and {b:?}");
        }
    }
}

#[test]
fn a_dry_run_counts_and_times_nothing() {
    let report = json(with(&["--device", "null", "--json"]));
    assert!(report["seconds"].is_null() && report["steps"] == Value::Array(vec![]));
    assert!(rows(&report).iter().all(|r| r["seconds"].is_null()));
    let launches: f64 = rows(&report).iter().map(|r| number(&r["launches"])).sum();
    assert_eq!(number(&report["launches"]), launches);
    assert!(launches > 10.0);
    assert_eq!(report["unattributed"], 0);
    assert!(number(&report["memory"]["high_water"]) > 4.0 * 2.0 * 2048.0 * 512.0);
    assert!(number(&report["predicted_seconds"]) >= launches * 3e-6);
    let text = succeeds(with(&["--device", "null"]));
    for part in ["a dry run", "assumed, an H100", "not measured", "step "] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    assert_eq!(
        text,
        succeeds(with(&["--device", "null"])),
        "it is a function of the code"
    );
}

#[test]
fn what_cannot_be_profiled_is_said() {
    fails(
        ["profile", "resnet19"],
        &["no model `resnet19`", "resnet18"],
    );
    fails(
        with(&["--device", "cpu", "--bandwidth", "0"]),
        &["--bandwidth is not above 0"],
    );
    fails(
        with(&["--device", "null", "--trace", "/nowhere/at/all.json"]),
        &["/nowhere/at/all.json"],
    );
    let ended = eosin(["profile", "resnet18", "--batch", "0"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    fails(
        ["doctor", "--device", "null"],
        &["computes nothing", "eosin profile"],
    );
}
