//! The report: safe whatever the names are, well formed, the same every time.

use eosin::report::{
    BarChart, Guide, Histogram, LineChart, Report, Scatter, ScatterGrid, Series, SpatialMap, Svg,
};

const HOSTILE: &str = r#"<script>alert('x')</script>&"quoted"]]>--><!-- \0 "#;

/// Repeatable numbers without structure.
fn wave(i: usize, k: f64) -> f64 {
    (i as f64 * k).sin() * (i as f64 * k * 1.7 + 0.3).cos()
}

fn charts(name: &str) -> Vec<Svg> {
    let loss = |colour, dashed, floor: f64| Series {
        name: format!("{name} {}", if dashed { "validation" } else { "training" }),
        points: (0..60)
            .map(|e| {
                (
                    e as f64,
                    floor + 1.4 * (-0.07 * e as f64).exp() + 0.01 * wave(e, 2.1),
                )
            })
            .collect(),
        colour,
        dashed,
    };
    let points: Vec<(f64, f64)> = (0..64)
        .map(|i| {
            (
                4.0 + wave(i, 1.3),
                4.0 + 0.7 * wave(i, 1.3) + 0.2 * wave(i, 0.77),
            )
        })
        .collect();
    let scatter = |guide| Scatter {
        title: name.into(),
        note: "r = 0.91, 64 held-out slides".into(),
        x_label: "measured, log(1 + count)".into(),
        y_label: "predicted".into(),
        points: points.clone(),
        guide,
        colour: 0,
    };
    vec![
        LineChart {
            title: format!("Loss by epoch {name}"),
            x_label: "epoch".into(),
            y_label: "mean squared error".into(),
            log_y: true,
            series: vec![
                loss(0, false, 0.12),
                loss(0, true, 0.25),
                loss(1, false, 0.2),
                loss(1, true, 0.33),
            ],
        }
        .draw(),
        Histogram {
            title: "Held-out correlation per gene".into(),
            x_label: "Pearson's r".into(),
            y_label: "genes".into(),
            groups: vec![
                (
                    format!("planted {name}"),
                    (0..48).map(|i| 0.68 + 0.3 * wave(i, 1.9)).collect(),
                ),
                (
                    "noise".into(),
                    (0..100).map(|i| -0.02 + 0.35 * wave(i, 0.9)).collect(),
                ),
            ],
            bins: 30,
            marks: vec![
                (0.0, "zero".into()),
                (0.684, format!("median 0.684 {name}")),
            ],
        }
        .draw(),
        scatter(Guide::Identity).draw(),
        ScatterGrid {
            title: "Best genes".into(),
            columns: 3,
            same_axes: false,
            panels: (0..6)
                .map(|i| Scatter {
                    colour: i,
                    ..scatter(Guide::Regression)
                })
                .collect(),
        }
        .draw(),
        BarChart {
            title: "Median r per program".into(),
            x_label: "Pearson's r".into(),
            bars: vec![
                (name.into(), 0.78, 0),
                ("nuclear size".into(), 0.66, 1),
                ("gland structure".into(), -0.12, 2),
            ],
            marks: vec![(0.5, "target".into())],
        }
        .draw(),
        SpatialMap {
            title: format!("Predicted {name}"),
            value_label: "log(1 + count)".into(),
            points: (0..300)
                .map(|i| {
                    (
                        (i % 20) as f64,
                        (i / 20) as f64,
                        wave(i % 20, 0.2) + wave(i / 20, 0.15),
                    )
                })
                .collect(),
        }
        .draw(),
    ]
}

fn example(name: &str) -> Report {
    let mut report = Report::new(format!("DeepPT on a simulated cohort {name}"));
    report
        .subtitle("64 slides, 768 tiles, 148 genes; seed 0; every slide predicted while held out")
        .warning("Features come from random weights, calibrated on the training tiles: fit for a demonstration, not for tissue.")
        .warning(format!("Same patient: {name} is in training and test."))
        .headline("0.68", "median r, planted genes")
        .headline("96 %", "planted genes significant")
        .headline("0 %", "noise genes significant");
    let charts = charts(name);
    let section = report.section("What was learnt");
    section.paragraph(format!("A paragraph on {name}."));
    section.figure(
        &charts[1],
        "Planted genes should stand to the right of the noise genes.",
    );
    section.figure(&charts[4], "The four programs.");
    report
        .section("Training")
        .figure(&charts[0], "Solid: training; dashed: validation.");
    report
        .section("Predicted against measured")
        .figure(&charts[3], "Each dot is a slide.")
        .figure(&charts[2], "Dashed: equality.")
        .figure(&charts[5], "One section.");
    report
        .section("What was run")
        .facts([("seed", "0"), ("slides", "64"), (name, name)])
        .table(
            name,
            &["gene", "r", "q"],
            &[
                vec![name.into(), "0.91".into(), "1.2e−9".into()],
                vec!["SIMSIZ1".into(), "−0.10".into(), "0.7".into()],
            ],
        )
        .images([(&b"\x89PNG not looked at"[..], name)], "A tile.");
    report
}

/// Whether a document is one tree of balanced tags whose text is escaped.
/// Void elements of HTML may stay open.
fn check_balanced(text: &str, void: &[&str]) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        check_text(&rest[..start]);
        let after = &rest[start + 1..];
        let end = after.find('>').expect("a tag is closed");
        let tag = &after[..end];
        rest = &after[end + 1..];
        if tag.starts_with('!') {
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closing tag");
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap();
        assert!(
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()),
            "tag <{tag}>"
        );
        // Attributes: name="value" pairs, so an even number of quotes.
        assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
        for value in tag.split('"').skip(1).step_by(2) {
            check_text(value);
        }
        if name == "style" {
            rest = &rest[rest.find("</style>").unwrap()..];
        }
        if !tag.ends_with('/') && !void.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

fn check_text(text: &str) {
    for (at, _) in text.match_indices('&') {
        let entity = text[at..].split_inclusive(';').next().unwrap();
        assert!(
            ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].contains(&entity),
            "{entity}"
        );
    }
    assert!(!text.contains('\0'));
}

#[test]
fn charts_are_well_formed_xml_with_title_and_description() {
    for name in ["plain", HOSTILE, "\u{0}\u{1b}\u{ffff}"] {
        for chart in charts(name) {
            let text = chart.as_str();
            check_balanced(text, &[]);
            assert!(text.contains("<title>") && text.contains("<desc>"));
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
            assert!(!text.contains("<script"));
        }
    }
}

#[test]
fn hostile_names_stay_text() {
    let html = example(HOSTILE).to_html();
    check_balanced(&html, &["meta", "img"]);
    assert!(!html.contains("<script"), "a name became an element");
    assert!(html.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
}

#[test]
fn a_report_needs_nothing_from_elsewhere_and_is_small_and_repeatable() {
    let html = example("SIMDEN1").to_html();
    for outside in [
        "src=\"http",
        "href=",
        "url(",
        "@import",
        "<link",
        "<script",
        "<iframe",
    ] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.len() < 300_000, "{} bytes", html.len());
    assert_eq!(html, example("SIMDEN1").to_html());
    assert!(html.find("Before you read on") < html.find("What was learnt"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    example("SIMDEN1").write(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), html);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let error = Report::new("x")
        .write(folder.path().join("absent/report.html"))
        .unwrap_err();
    assert!(error.to_string().starts_with("cannot write "), "{error}");
}

#[test]
fn charts_without_usable_values_say_so() {
    let nothing = "no values to show";
    let bad = vec![(f64::NAN, 1.0), (1.0, f64::INFINITY)];
    let charts = [
        LineChart {
            series: vec![Series {
                points: bad.clone(),
                ..Default::default()
            }],
            ..Default::default()
        }
        .draw(),
        LineChart {
            log_y: true,
            series: vec![Series {
                points: vec![(0.0, -1.0)],
                ..Default::default()
            }],
            ..Default::default()
        }
        .draw(),
        Histogram {
            groups: vec![("g".into(), vec![f64::NAN])],
            bins: 5,
            ..Default::default()
        }
        .draw(),
        Scatter {
            points: bad,
            guide: Guide::Regression,
            ..Default::default()
        }
        .draw(),
        BarChart::default().draw(),
        SpatialMap {
            points: vec![(0.0, 0.0, f64::NAN)],
            ..Default::default()
        }
        .draw(),
    ];
    for chart in charts {
        check_balanced(chart.as_str(), &[]);
        assert!(chart.as_str().contains(nothing), "{}", chart.as_str());
        assert!(!chart.as_str().contains("NaN"));
    }
}

#[test]
fn extreme_values_are_drawn_inside_the_paper() {
    for values in [
        vec![1e300, -1e300],
        vec![1e-300, 3e-300],
        vec![7.0],
        vec![0.0, 1e9, 1.0],
    ] {
        let svg = Histogram {
            groups: vec![("g".into(), values.clone())],
            bins: 20,
            ..Default::default()
        }
        .draw();
        check_balanced(svg.as_str(), &[]);
        assert!(
            !svg.as_str().contains("NaN") && !svg.as_str().contains("inf"),
            "{}",
            svg.as_str()
        );
        let points: Vec<_> = values.iter().map(|&v| (v, v)).collect();
        let svg = Scatter {
            points,
            guide: Guide::Identity,
            ..Default::default()
        }
        .draw();
        assert!(
            !svg.as_str().contains("NaN") && !svg.as_str().contains("inf"),
            "{}",
            svg.as_str()
        );
    }
}

#[test]
fn a_line_breaks_where_a_value_is_missing() {
    let points = vec![
        (0.0, 1.0),
        (1.0, 2.0),
        (2.0, f64::NAN),
        (3.0, 2.0),
        (4.0, 1.0),
    ];
    let chart = LineChart {
        series: vec![Series {
            points,
            ..Default::default()
        }],
        ..Default::default()
    };
    assert_eq!(chart.draw().as_str().matches("<polyline").count(), 2);
}

#[test]
fn panels_that_share_axes_have_the_same_ticks() {
    let panel = |end: f64| Scatter {
        points: vec![(0.0, 0.0), (end, end)],
        ..Scatter::default()
    };
    let tens = |same_axes| {
        let grid = ScatterGrid {
            columns: 2,
            panels: vec![panel(1.0), panel(10.0)],
            same_axes,
            ..ScatterGrid::default()
        };
        grid.draw().as_str().matches(">10<").count()
    };
    assert_eq!(tens(false), 2, "of the second panel alone");
    assert_eq!(tens(true), 4, "of both, on both axes");
}
