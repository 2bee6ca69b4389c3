//! `eosin respond`: who may respond to a drug, and who did.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{OrientationChoice, SourceArgs, console};
use crate::error::Result;
use crate::expression::{Orientation, Source, source};
use crate::formats::atomic::{create_dir_all, write_bytes};
use crate::report::{Histogram, LineChart, Report, Series, number};
use crate::response::evaluate::{Estimate, Evaluation, Matched, THRESHOLD, evaluate, read};
use crate::response::score::{Scored, read_partners, score};
use crate::train::evaluate::write_rows;
use crate::train::progress::Control;

#[derive(Subcommand)]
pub enum RespondCommand {
    /// Score each sample of a cohort for each drug, ENLIGHT-style, from expression
    Score(ScoreArgs),
    /// Hold scores against responses: odds ratio, Fisher, average precision, ROC
    Evaluate(ResponseArgs),
}

#[derive(Args)]
pub struct ScoreArgs {
    /// The cohort's expression, measured or predicted: CSV, TSV, GCT, .h5ad or a folder of the GDC's files
    #[arg(long)]
    expression: PathBuf,
    /// Table with columns drug, gene, kind (synthetic-lethal, synthetic-rescue, rescue-by-loss, target)
    #[arg(long)]
    partners: PathBuf,
    /// Which way round a table of expression is [default: samples-by-genes]
    #[arg(long, value_enum)]
    orientation: Option<OrientationChoice>,
    #[command(flatten)]
    source: SourceArgs,
    /// Table to write: a line a sample, a column a drug
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
pub struct ResponseArgs {
    /// Table of scores: patients in the first column
    #[arg(long)]
    scores: PathBuf,
    /// Table of responses: patients in the first column, 1 or 0 in the second
    #[arg(long)]
    responses: PathBuf,
    /// The column of scores, where there are several
    #[arg(long)]
    drug: Option<String>,
    /// Patients that score as much are expected to respond
    #[arg(long, default_value_t = THRESHOLD)]
    threshold: f64,
    /// Samples drawn for the intervals
    #[arg(long, default_value_t = 2000)]
    bootstrap: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder to write to
    #[arg(long)]
    out: PathBuf,
}

pub fn respond(command: &RespondCommand, json: bool, control: Control) -> Result<()> {
    match command {
        RespondCommand::Score(args) => scores(args, json, control),
        RespondCommand::Evaluate(args) => responses(args, json),
    }
}

fn scores(args: &ScoreArgs, json: bool, control: Control) -> Result<()> {
    let partners = read_partners(&args.partners)?;
    let orientation = args.orientation.map(Orientation::from);
    let given = Source {
        orientation: orientation.unwrap_or(Orientation::SamplesByGenes),
        ..args.source.source()
    };
    let loaded = source::read(&args.expression, &given, &[])?;
    for skipped in &loaded.skipped {
        control
            .progress
            .note(&format!("{}: {}", skipped.what, skipped.why));
    }
    let scored = score(&loaded.table, &partners)?;
    write_bytes(&args.out, &table(&scored)?)?;
    let mut lines = vec![format!(
        "{}: {} samples",
        args.out.display(),
        scored.samples.len()
    )];
    for drug in &scored.drugs {
        let mut line = format!(
            "{}: {} partners, {} targets",
            drug.drug, drug.partners, drug.targets
        );
        if let Some(first) = drug.missing.first() {
            line += &format!(
                "; {} genes are not in the table, such as {first}",
                drug.missing.len()
            );
        }
        lines.push(line);
    }
    lines.push("scores are relative to this cohort, and are not ENLIGHT's".to_owned());
    console::print(json, &scored, &lines.join("\n"))
}

fn table(scored: &Scored) -> Result<Vec<u8>> {
    let failed = |e: String| crate::error::Error::usage(format!("no table: {e}"), "report this");
    let mut out = csv::Writer::from_writer(Vec::new());
    let header = std::iter::once("sample").chain(scored.drugs.iter().map(|d| d.drug.as_str()));
    out.write_record(header)
        .map_err(|e| failed(e.to_string()))?;
    for (i, sample) in scored.samples.iter().enumerate() {
        let scores = scored.drugs.iter().map(|d| d.scores[i].to_string());
        let fields = std::iter::once(sample.clone()).chain(scores);
        out.write_record(fields)
            .map_err(|e| failed(e.to_string()))?;
    }
    out.into_inner().map_err(|e| failed(e.to_string()))
}

#[derive(Serialize)]
struct Patient<'a> {
    patient: &'a str,
    score: f64,
    response: u8,
}

fn responses(args: &ResponseArgs, json: bool) -> Result<()> {
    let data = read(&args.scores, args.drug.as_deref(), &args.responses)?;
    let found = evaluate(&data, args.threshold, args.bootstrap, args.seed)?;
    create_dir_all(&args.out)?;
    let rows = (0..data.patients.len()).map(|i| Patient {
        patient: &data.patients[i],
        score: data.scores[i],
        response: u8::from(data.responses[i]),
    });
    write_rows(&args.out.join("patients.csv"), rows)?;
    let bytes = serde_json::to_vec_pretty(&found)
        .map_err(|e| crate::error::Error::usage(format!("no summary: {e}"), "report this"))?;
    write_bytes(args.out.join("response.json"), &bytes)?;
    let path = args.out.join("report.html");
    page(&args.scores, &data, &found).write(&path)?;
    let text = format!(
        "patients           {} ({} responders)\n\
         odds ratio         {} at {}\n\
         Fisher             p = {} one-sided, {} two-sided\n\
         average precision  {} (response rate {})\n\
         area under ROC     {}\n\
         report             {}",
        found.patients,
        found.responders,
        shown(&found.odds_ratio),
        found.threshold,
        number(found.p_greater, 3),
        number(found.p_two_sided, 3),
        shown(&found.average_precision),
        number(found.response_rate, 3),
        shown(&found.roc_auc),
        path.display()
    );
    console::print(json, &found, &text)
}

/// A figure and its interval.
fn shown(e: &Estimate) -> String {
    let text = |v: Option<f64>| v.map_or_else(|| "–".to_owned(), |v| number(v, 4));
    format!("{} ({} to {})", text(e.value), text(e.low), text(e.high))
}

fn page(scores: &Path, data: &Matched, e: &Evaluation) -> Report {
    let mut page = Report::new("Scores and responses");
    page.subtitle(format!(
        "{}: {} patients, {} responders",
        scores.display(),
        e.patients,
        e.responders
    ));
    for (count, what) in [
        (e.without_response, "have a score and no response"),
        (e.without_score, "have a response and no score"),
    ] {
        if count > 0 {
            page.warning(format!("{count} patients {what}: they are left out."));
        }
    }
    let value = |e: &Estimate| e.value.map_or_else(|| "–".to_owned(), |v| number(v, 3));
    page.headline(
        value(&e.odds_ratio),
        format!("odds ratio at {}", e.threshold),
    )
    .headline(
        value(&e.average_precision),
        format!(
            "average precision; at random {}",
            number(e.response_rate, 3)
        ),
    )
    .headline(value(&e.roc_auc), "area under the ROC curve");

    let of = |response: bool| -> Vec<f64> {
        let pairs = data.scores.iter().zip(&data.responses);
        pairs
            .filter(|(_, r)| **r == response)
            .map(|(s, _)| *s)
            .collect()
    };
    let histogram = Histogram {
        title: "Scores of those who responded and of those who did not".into(),
        x_label: "score".into(),
        y_label: "patients".into(),
        groups: vec![
            ("no response".into(), of(false)),
            ("response".into(), of(true)),
        ],
        bins: 24,
        marks: vec![(e.threshold, format!("threshold {}", e.threshold))],
    };
    let section = page.section("Scores");
    section.figure(
        &histogram.draw(),
        "Patients right of the threshold are expected to respond.",
    );
    let row = |name: &str, [yes, no]: [u64; 2]| {
        vec![
            name.to_owned(),
            yes.to_string(),
            no.to_string(),
            number(yes as f64 / (yes + no) as f64, 3),
        ]
    };
    section.table(
        "Patients by score and response",
        &["score", "response", "no response", "share"],
        &[
            row("at or above the threshold", e.counts[0]),
            row("below", e.counts[1]),
        ],
    );

    let section = page.section("Figures");
    let rows = [
        ("odds ratio", shown(&e.odds_ratio)),
        (
            "odds ratio, conditional estimate (exact interval)",
            shown(&e.conditional_odds_ratio),
        ),
        ("Fisher's exact test, one-sided", number(e.p_greater, 3)),
        ("Fisher's exact test, two-sided", number(e.p_two_sided, 3)),
        ("average precision", shown(&e.average_precision)),
        ("area under the ROC curve", shown(&e.roc_auc)),
    ];
    section.facts(rows);
    section.paragraph(format!(
        "Intervals hold 95 % of {} samples of the patients, drawn with replacement; {} of them had \
         one kind of response only and were not counted. – is infinite or undefined.",
        e.bootstrap, e.bootstrap_undefined
    ));
    if let Ok(curve) = crate::metrics::ranking::roc_curve(&data.responses, &data.scores) {
        let points = curve
            .iter()
            .map(|p| (p.false_positive_rate, p.true_positive_rate));
        let line = |name: &str, points, colour, dashed| Series {
            name: name.to_owned(),
            points,
            colour,
            dashed,
        };
        let chart = LineChart {
            title: "ROC curve".into(),
            x_label: "share of non-responders above a threshold".into(),
            y_label: "share of responders".into(),
            log_y: false,
            series: vec![
                line("scores", points.collect(), 0, false),
                line("at random", vec![(0.0, 0.0), (1.0, 1.0)], 1, true),
            ],
        };
        section.figure(&chart.draw(), "");
    }
    page.section("What this is").paragraph(
        "ENLIGHT-style: the published scorer is closed, and scores made by eosin are not its. \
         Research use, not for decisions on patients.",
    );
    page
}
