//! `evaluate` of tables, `respond` and `index`, on small tables made here.

use std::fs;
use std::path::Path;

use crate::support::*;

/// A table of 12 samples and three genes: the first follows `signal`, the others do not.
fn table(path: &Path, noise: f64, salt: usize) {
    let mut lines = vec!["sample,ERBB2,GENE1,GENE2".to_owned()];
    for i in 0..12usize {
        let wave = |k: usize| ((i * k + salt) * 7919 % 101) as f64 / 101.0 - 0.5;
        let (a, b, c) = (i as f64 + noise * wave(3), wave(5), wave(11) - 1.0);
        lines.push(format!("S{i},{a},{b},{c}"));
    }
    fs::write(path, lines.join("\n")).expect("a table");
}

#[test]
fn two_tables_are_scored_and_two_models_compared() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    table(&at("measured.csv"), 0.0, 1);
    table(&at("good.csv"), 1.0, 2);
    table(&at("bad.csv"), 30.0, 3);
    let out = at("scores");
    let (predicted, measured) = (at("good.csv"), at("measured.csv"));
    let (against, training) = (at("bad.csv"), at("measured.csv"));
    let args = [
        "evaluate",
        "--predicted",
        text(&predicted),
        "--measured",
        text(&measured),
        "--against",
        text(&against),
        "--training",
        text(&training),
        "--out",
        text(&out),
    ];
    let found = json(args.iter().chain(&["--json"]));
    assert_eq!(
        (&found["scores"]["samples"], &found["scores"]["genes"]),
        (&12.into(), &3.into())
    );
    assert_eq!(found["scores"]["counts"]["pearson"]["holm_sidak"], 1);
    assert_eq!(found["comparison"]["first_better"], 1);
    let genes = fs::read_to_string(out.join("genes.csv")).expect("genes");
    let header = genes.lines().next().expect("a header");
    for column in [
        "holm_sidak",
        "kendall",
        "kendall_p",
        "spearman_p",
        "relative_rmse",
    ] {
        assert!(
            header.split(',').any(|c| c == column),
            "{column} is not in {header}"
        );
    }
    let best: Vec<&str> = genes.lines().nth(1).expect("a gene").split(',').collect();
    assert_eq!(best[0], "ERBB2");
    let relative: f64 = best.last().expect("fields").parse().expect("a number");
    assert!(relative < 0.2, "{relative}");
    let page = fs::read_to_string(out.join("report.html")).expect("a report");
    for part in ["Holm-Sidak", "Steiger", "relative RMSE"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(succeeds(args).contains("Kendall"));

    // Bags of two halves of each sample average to the sample.
    let text_of = fs::read_to_string(&predicted).expect("a table");
    let mut bags = vec![text_of.lines().next().expect("a header").to_owned()];
    let mut slides = vec!["bag,slide".to_owned()];
    for line in text_of.lines().skip(1) {
        let (name, values) = line.split_once(',').expect("fields");
        for half in ["a", "b"] {
            bags.push(format!("{name}{half},{values}"));
            slides.push(format!("{name}{half},{name}"));
        }
    }
    let (bag_table, slide_table) = (at("bags.csv"), at("slides.csv"));
    fs::write(&bag_table, bags.join("\n")).expect("a table");
    fs::write(&slide_table, slides.join("\n")).expect("a table");
    let averaged = at("averaged");
    succeeds([
        "evaluate",
        "--predicted",
        text(&bag_table),
        "--bags",
        text(&slide_table),
        "--measured",
        text(&measured),
        "--out",
        text(&averaged),
    ]);
    let read = |folder: &Path| fs::read(folder.join("predictions.csv")).expect("predictions");
    assert_eq!(read(&averaged), read(&out));

    fails(
        [
            "evaluate",
            "--predicted",
            text(&predicted),
            "--out",
            text(&out),
        ],
        &["--measured"],
    );
    fs::write(at("other.csv"), "sample,ERBB2\nQ,1\n").expect("a table");
    let other = at("other.csv");
    fails(
        [
            "evaluate",
            "--predicted",
            text(&predicted),
            "--measured",
            text(&other),
            "--out",
            text(&out),
        ],
        &["other.csv"],
    );
    assert_eq!(eosin(["evaluate", "--out", "x"]).code, Some(2));
}

#[test]
fn classes_are_scored_by_vote() {
    let folder = scratch();
    let (classes, out) = (folder.path().join("c.csv"), folder.path().join("out"));
    let lines = "sample,class,A,B\ns1,A,0.9,0.1\ns1,A,0.8,0.2\ns1,A,0.1,0.9\ns2,B,0.3,0.7\n";
    fs::write(&classes, lines).expect("a table");
    let found = json([
        "evaluate",
        "--classes",
        text(&classes),
        "--out",
        text(&out),
        "--json",
    ]);
    assert_eq!(found["classes"]["slides"]["accuracy"], 1.0);
    assert_eq!(found["classes"]["bags"]["accuracy"], 0.75);
    assert!(out.join("report.html").is_file() && out.join("classes.csv").is_file());
}

#[test]
fn patients_are_scored_and_scores_held_against_responses() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let (expression, partners, scores) = (at("e.csv"), at("p.csv"), at("scores.csv"));
    table(&expression, 0.0, 1);
    // What is measured is not below zero.
    let positive = fs::read_to_string(&expression)
        .expect("a table")
        .replace('-', "");
    fs::write(&expression, positive).expect("a table");
    fs::write(&partners, "drug,gene,kind\ntrastuzumab,ERBB2,target\n").expect("a list");
    succeeds([
        "respond",
        "score",
        "--expression",
        text(&expression),
        "--partners",
        text(&partners),
        "--out",
        text(&scores),
    ]);
    let made = fs::read_to_string(&scores).expect("scores");
    assert!(
        made.starts_with("sample,trastuzumab\nS0,0\n") && made.ends_with("S11,1\n"),
        "{made}"
    );

    let (responses, out) = (at("r.csv"), at("out"));
    let lines: Vec<String> = (0..12)
        .map(|i| format!("S{i},{}", u8::from(i > 5)))
        .collect();
    fs::write(
        &responses,
        format!("patient,response\n{}\n", lines.join("\n")),
    )
    .expect("a table");
    let found = json([
        "respond",
        "evaluate",
        "--scores",
        text(&scores),
        "--responses",
        text(&responses),
        "--out",
        text(&out),
        "--json",
    ]);
    assert_eq!(found["counts"], serde_json::json!([[4, 0], [2, 6]]));
    assert_eq!(found["odds_ratio"]["value"], serde_json::Value::Null);
    assert!(
        fs::read_to_string(out.join("report.html"))
            .expect("a report")
            .contains("ROC")
    );
}

#[test]
fn slides_are_indexed_and_found() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let (vectors, slides, index) = (at("v.csv"), at("s.csv"), at("slides.index"));
    let mut rows = vec!["sample,x,y".to_owned()];
    let mut lines = vec!["slide,patient,label".to_owned()];
    for i in 0..12usize {
        let high = i % 2 == 1;
        rows.push(format!(
            "S{i},{},{}",
            if high { 1.0 } else { -1.0 },
            i as f64 / 20.0
        ));
        lines.push(format!(
            "S{i},P{},{}",
            i / 2,
            if high { "high" } else { "low" }
        ));
    }
    fs::write(&vectors, rows.join("\n")).expect("vectors");
    fs::write(&slides, lines.join("\n")).expect("slides");
    succeeds([
        "index",
        "build",
        "--vectors",
        text(&vectors),
        "--slides",
        text(&slides),
        "--metric",
        "l2",
        "--out",
        text(&index),
    ]);
    let found = json([
        "index",
        "search",
        "--index",
        text(&index),
        "--slide",
        "S0",
        "--top",
        "2",
        "--json",
    ]);
    assert_eq!(
        (&found[0]["slide"], &found[1]["slide"]),
        (&"S2".into(), &"S4".into())
    );
    let out = at("retrieval");
    let judged = json([
        "index",
        "search",
        "--index",
        text(&index),
        "--evaluate",
        "--top",
        "3",
        "--out",
        text(&out),
        "--json",
    ]);
    assert_eq!(judged["accuracy"], 1.0);
    assert!(out.join("votes.csv").is_file() && out.join("report.html").is_file());
    let wide = at("wide.csv");
    fs::write(&wide, "sample,x,y,z\nQ,1,2,3\n").expect("a query");
    fails(
        [
            "index",
            "search",
            "--index",
            text(&index),
            "--vectors",
            text(&wide),
        ],
        &["slides.index", "vectors of 2, and 3 are looked for"],
    );
    fails(
        ["index", "search", "--index", text(&vectors), "--evaluate"],
        &["v.csv", "is not an index"],
    );
    fails(
        [
            "index",
            "search",
            "--index",
            text(&index),
            "--slide",
            "none",
        ],
        &["has no slide none"],
    );
}
