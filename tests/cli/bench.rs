//! `eosin bench compare` on baselines as criterion saves them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Ended, eosin, fails, scratch, succeeds, text};

/// Ten samples, of `i` times `step` iterations each as criterion's linear
/// sampling takes them, around `nanoseconds`; `spread` is how far they differ.
fn save(criterion: &Path, bench: &str, baseline: &str, nanoseconds: f64, spread: f64) {
    let offsets = [0.3, -0.1, 0.8, -0.6, 0.1, -1.0, 0.5, -0.4, 1.0, -0.2];
    let iters: Vec<f64> = (1..=10).map(|i| f64::from(i) * 7.0).collect();
    let times: Vec<f64> = (iters.iter().zip(offsets))
        .map(|(n, offset)| n * nanoseconds * (1.0 + spread * offset))
        .collect();
    let sample = json!({ "sampling_mode": "Linear", "iters": iters, "times": times });
    write(criterion, bench, baseline, "sample.json", &sample);
    let (group, function) = bench.rsplit_once('/').expect("a group");
    let benchmark = json!({
        "group_id": group, "function_id": function, "value_str": null,
        "throughput": { "Elements": 1000 }, "full_id": bench,
        "directory_name": format!("{}/{function}", group.replace('/', "_")), "title": bench,
    });
    write(criterion, bench, baseline, "benchmark.json", &benchmark);
}

fn write(criterion: &Path, bench: &str, baseline: &str, file: &str, value: &Value) {
    let (group, function) = bench.rsplit_once('/').expect("a group");
    let folder = (criterion.join(group.replace('/', "_")))
        .join(function)
        .join(baseline);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(file), value.to_string()).expect("a file");
}

fn compare(criterion: &Path, more: &[&str]) -> Ended {
    let args = ["bench", "compare", "before", "after", "--criterion"];
    eosin(args.iter().chain(&[text(criterion)]).chain(more))
}

fn refused(criterion: &Path, parts: &[&str]) {
    let args = ["bench", "compare", "before", "after", "--criterion"];
    fails(args.iter().chain(&[text(criterion)]), parts);
}

const MATMUL: &str = "matmul/nn/f32/64x64x64";
const SOFTMAX: &str = "softmax/forward/f32/8x196";

/// The line of a bench in the printed table, in words.
fn line(ended: &Ended, bench: &str) -> Vec<String> {
    let found = ended.stdout.lines().find(|l| l.starts_with(bench));
    let found = found.unwrap_or_else(|| panic!("no {bench} in:\n{}", ended.stdout));
    found.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_slowdown_is_caught() {
    let folder = scratch();
    save(folder.path(), MATMUL, "before", 2000.0, 0.02);
    save(folder.path(), MATMUL, "after", 2400.0, 0.02);
    save(folder.path(), SOFTMAX, "before", 5e6, 0.02);
    save(folder.path(), SOFTMAX, "after", 4e6, 0.02);
    let ended = compare(folder.path(), &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for part in ["1 of 2 benches", "`before`", "5 %", MATMUL, "1.20 times"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    let row = line(&ended, MATMUL);
    assert_eq!(row[1..6], ["2.000", "us", "2.400", "us", "1.200"]);
    assert_eq!(row.last().map(String::as_str), Some("SLOWER"));
    let row = line(&ended, SOFTMAX);
    assert_eq!(row[5], "0.800");
    assert_eq!(row.last().map(String::as_str), Some("faster"));

    // A filter that leaves the slower one out, and a threshold above it.
    assert_eq!(
        compare(folder.path(), &["--filter", "softmax"]).code,
        Some(0)
    );
    assert_eq!(
        compare(folder.path(), &["--threshold", "30%"]).code,
        Some(0)
    );
}

#[test]
fn noise_is_not_a_slowdown() {
    let folder = scratch();
    // Within the threshold; and past it, but less than the samples differ.
    save(folder.path(), MATMUL, "before", 2000.0, 0.01);
    save(folder.path(), MATMUL, "after", 2040.0, 0.01);
    save(folder.path(), SOFTMAX, "before", 5e6, 0.4);
    save(folder.path(), SOFTMAX, "after", 5.5e6, 0.4);
    let ended = compare(folder.path(), &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(line(&ended, MATMUL).last().expect("a verdict"), "same");
    assert!(ended.stdout.contains("too noisy\n"), "{}", ended.stdout);
    assert!(
        (ended.stdout).ends_with("0 slower, 0 faster, 1 the same within 5 %, 1 too noisy to say\n"),
        "{}",
        ended.stdout
    );
}

#[test]
fn benches_of_one_side_are_listed() {
    let folder = scratch();
    for baseline in ["before", "after"] {
        save(folder.path(), MATMUL, baseline, 100.0, 0.01);
    }
    save(folder.path(), "gone/forward/f32/8", "before", 10.0, 0.01);
    save(folder.path(), "come/forward/f32/8", "after", 10.0, 0.01);
    let ended = compare(folder.path(), &["--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let json: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(json["only_in_base"], json!(["gone/forward/f32/8"]));
    assert_eq!(json["only_in_new"], json!(["come/forward/f32/8"]));
    assert_eq!(json["threshold"], 0.05);
    assert_eq!(json["benches"][0]["bench"], MATMUL);
    assert_eq!(json["benches"][0]["verdict"], "same");
    assert_eq!(json["benches"][0]["ratio"]["median"], 1.0);
}

#[test]
fn the_new_times_are_exported() {
    let folder = scratch();
    save(folder.path(), MATMUL, "before", 100.0, 0.02);
    save(folder.path(), MATMUL, "after", 200.0, 0.02);
    let action = folder.path().join("action.json");
    let bencher = folder.path().join("bencher.json");
    let export = |format: &str, path: &Path| format!("--export={format}={}", text(path));
    let ended = compare(
        folder.path(),
        &[
            &export("github-action-benchmark", &action),
            &export("bencher", &bencher),
        ],
    );
    // Slower benches are what the service is to see.
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let read = |path: &Path| -> Value {
        serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
    };
    let action = read(&action);
    assert_eq!(action[0]["name"], MATMUL);
    assert_eq!(action[0]["unit"], "ns");
    let median = action[0]["value"].as_f64().expect("a number");
    assert!((median - 200.0).abs() < 4.0, "{action}");
    assert!(action[0]["range"].is_string(), "{action}");
    let latency = &read(&bencher)[MATMUL]["latency"];
    let [lower, value, upper] =
        ["lower_value", "value", "upper_value"].map(|key| latency[key].as_f64().expect("a number"));
    assert_eq!(value, median);
    assert!(lower <= value && value <= upper, "{latency}");

    let unknown = compare(folder.path(), &["--export", "csv=x.csv"]);
    assert_eq!(unknown.code, Some(2));
    assert!(
        unknown
            .stderr
            .contains("github-action-benchmark and bencher")
    );
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let folder = scratch();
    refused(
        &folder.path().join("nowhere"),
        &["no baseline `before`", "--save-baseline before"],
    );
    save(folder.path(), MATMUL, "before", 100.0, 0.01);
    refused(
        folder.path(),
        &["no baseline `after`", "--save-baseline after"],
    );
    save(folder.path(), SOFTMAX, "after", 100.0, 0.01);
    refused(folder.path(), &["no bench is in both `before` and `after`"]);
    let path = text(folder.path());
    fails(
        ["bench", "compare", "../x", "after", "--criterion", path],
        &["`../x` cannot be the name of a baseline"],
    );
}

#[test]
fn damaged_files_are_named() {
    let folder = scratch();
    save(folder.path(), MATMUL, "before", 100.0, 0.01);
    let tens = vec![1.0; 10];
    let zeros = vec![0.0; 10];
    let negative = vec![-1.0; 10];
    for (sample, problem) in [
        (
            json!({ "iters": tens, "times": [1.0] }),
            "10 counts and 1 times",
        ),
        (
            json!({ "iters": [1.0], "times": [1.0] }),
            "has 1 samples, not 10",
        ),
        (json!({ "iters": tens, "times": zeros }), "not above 0"),
        (
            json!({ "iters": negative, "times": negative }),
            "not above 0",
        ),
        (json!({ "iters": tens }), "missing field `times`"),
        (json!("x".repeat(2 << 20)), "is not a file of criterion's"),
    ] {
        save(folder.path(), MATMUL, "after", 100.0, 0.01);
        write(folder.path(), MATMUL, "after", "sample.json", &sample);
        refused(folder.path(), &["after/sample.json", problem, "delete"]);
    }
    save(folder.path(), MATMUL, "after", 100.0, 0.01);
    let name = json!({ "full_id": "a\u{1b}[2J" });
    write(folder.path(), MATMUL, "after", "benchmark.json", &name);
    refused(
        folder.path(),
        &["after/benchmark.json", "no printable name"],
    );

    save(folder.path(), MATMUL, "after", 100.0, 0.01);
    let at = folder.path().join("matmul_nn_f32/64x64x64/after");
    fs::write(at.join("sample.json"), "{\"iters\": [1.0, ").expect("a file");
    refused(folder.path(), &["after/sample.json", "is not criterion's"]);
    fs::remove_file(at.join("sample.json")).expect("the file goes");
    refused(
        folder.path(),
        &["after/sample.json", "the run was not finished"],
    );
    fs::remove_file(at.join("benchmark.json")).expect("the file goes");
    refused(folder.path(), &["no baseline `after`"]);

    // The same bench in two places, as a copied folder leaves it.
    save(folder.path(), MATMUL, "after", 100.0, 0.01);
    let name = json!({ "full_id": MATMUL });
    save(folder.path(), SOFTMAX, "after", 100.0, 0.01);
    write(folder.path(), SOFTMAX, "after", "benchmark.json", &name);
    refused(folder.path(), &[MATMUL, "so does", "delete the older"]);
}

/// A baseline may be called as a part of a bench's name is.
#[test]
fn a_baseline_with_the_name_of_a_group() {
    let folder = scratch();
    for baseline in ["before", "after"] {
        save(folder.path(), "before/64", baseline, 100.0, 0.01);
    }
    let path = text(folder.path());
    let printed = succeeds(["bench", "compare", "before", "after", "--criterion", path]);
    assert!(printed.contains("1 the same"), "{printed}");
}
