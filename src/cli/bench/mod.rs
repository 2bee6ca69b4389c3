//! `eosin bench compare`: did a change make something slower?
//!
//! It reads what `cargo bench -- --save-baseline NAME` saved, so that the two
//! runs may lie days apart, and fails where a bench got slower, so that a script
//! notices. benches/README.md says how to use it.

mod baseline;
mod export;
mod ratio;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::console;
use crate::error::{Error, Result};
use export::Export;
use ratio::{CONFIDENCE, Comparison, Median, RESAMPLES, SEED, Verdict};

#[derive(Subcommand)]
pub enum BenchCommand {
    /// Compare two saved baselines; fails where a bench is slower past the threshold, with confidence
    Compare(CompareArgs),
}

#[derive(Args)]
pub struct CompareArgs {
    /// Name of the earlier baseline, as given to `cargo bench -- --save-baseline NAME`
    base: String,
    /// Name of the later baseline; `new` is the last run, saved or not
    new: String,
    /// Changes up to this count as none
    #[arg(long, default_value = "5%", value_parser = percent)]
    threshold: f64,
    /// Folder of criterion; $CRITERION_HOME or the build's target/criterion when left out
    #[arg(long, value_name = "DIR")]
    criterion: Option<PathBuf>,
    /// Only the benches with this in their name
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT"
    )]
    filter: String,
    /// Also write the new times as github-action-benchmark=FILE or bencher=FILE
    #[arg(long, value_name = "FORMAT=FILE")]
    export: Vec<Export>,
}

/// A bench that both baselines have; times in nanoseconds.
#[derive(Serialize)]
struct Row {
    bench: String,
    base: Median,
    new: Median,
    ratio: Median,
    verdict: Verdict,
}

#[derive(Serialize)]
struct Outcome {
    base: String,
    new: String,
    /// A fraction.
    threshold: f64,
    confidence: f64,
    resamples: usize,
    seed: u64,
    benches: Vec<Row>,
    only_in_base: Vec<String>,
    only_in_new: Vec<String>,
}

pub fn bench(command: &BenchCommand, json: bool) -> Result<()> {
    let BenchCommand::Compare(args) = command;
    compare(args, json)
}

/// # Errors
/// A baseline is missing or damaged; the two have no bench in common; an export
/// cannot be written; or a bench is slower, after everything has been printed.
fn compare(args: &CompareArgs, json: bool) -> Result<()> {
    let folder = args.criterion.clone().unwrap_or_else(default_folder);
    let base = baseline::read(&folder, &args.base, &args.filter)?;
    let mut new = baseline::read(&folder, &args.new, &args.filter)?;

    let mut benches = Vec::new();
    let mut only_in_base = Vec::new();
    for (bench, before) in base {
        let Some(after) = new.remove(&bench) else {
            only_in_base.push(bench);
            continue;
        };
        let compared = Comparison::new(&bench, &before, &after);
        benches.push(Row {
            bench,
            base: compared.base,
            new: compared.new,
            ratio: compared.ratio,
            verdict: compared.verdict(args.threshold),
        });
    }
    if benches.is_empty() {
        let problem = format!("no bench is in both `{}` and `{}`", args.base, args.new);
        return Err(match args.filter.as_str() {
            "" => Error::usage(problem, "save both with the same benches"),
            filter => Error::usage(
                format!("{problem} with `{filter}` in its name"),
                "give another --filter",
            ),
        });
    }
    for export in &args.export {
        export.write(&benches)?;
    }
    let outcome = Outcome {
        base: args.base.clone(),
        new: args.new.clone(),
        threshold: args.threshold,
        confidence: CONFIDENCE,
        resamples: RESAMPLES,
        seed: SEED,
        benches,
        only_in_base,
        only_in_new: new.into_keys().collect(),
    };
    console::print(json, &outcome, &outcome.text())?;
    outcome.check()
}

impl Outcome {
    fn with(&self, verdict: Verdict) -> impl Iterator<Item = &Row> {
        self.benches.iter().filter(move |r| r.verdict == verdict)
    }

    fn text(&self) -> String {
        let names = self.benches.iter().map(|r| r.bench.chars().count());
        let width = names.max().unwrap_or(0).max("bench".len());
        let mut text = format!(
            "{:width$}  {:>9}  {:>9}  {:>6}  {:15}  verdict\n",
            "bench",
            "base",
            "new",
            "ratio",
            format!("{:.0} % interval", 100.0 * CONFIDENCE),
        );
        for row in &self.benches {
            let Median {
                median,
                lower,
                upper,
            } = row.ratio;
            text += &format!(
                "{:width$}  {:>9}  {:>9}  {median:>6.3}  {:15}  {}\n",
                row.bench,
                time(row.base.median),
                time(row.new.median),
                format!("{lower:.3} to {upper:.3}"),
                row.verdict,
            );
        }
        for (side, missing) in [
            (&self.base, &self.only_in_base),
            (&self.new, &self.only_in_new),
        ] {
            for bench in missing {
                text += &format!("{bench:width$}  only in {side}\n");
            }
        }
        let count = |verdict| self.with(verdict).count();
        text + &format!(
            "{} slower, {} faster, {} the same within {} %, {} too noisy to say\n",
            count(Verdict::Slower),
            count(Verdict::Faster),
            count(Verdict::Same),
            100.0 * self.threshold,
            count(Verdict::TooNoisy),
        )
    }

    /// # Errors
    /// A bench is slower.
    fn check(&self) -> Result<()> {
        let slower: Vec<&Row> = self.with(Verdict::Slower).collect();
        let Some(worst) = (slower.iter()).max_by(|a, b| a.ratio.median.total_cmp(&b.ratio.median))
        else {
            return Ok(());
        };
        Err(Error::usage(
            format!(
                "{} of {} benches are slower than in `{}` by more than {} %, most of all {} ({:.2} times)",
                slower.len(),
                self.benches.len(),
                self.base,
                100.0 * self.threshold,
                worst.bench,
                worst.ratio.median,
            ),
            "run those again on an idle machine to be sure, then look for the cause with `eosin profile`",
        ))
    }
}

/// Where criterion saves when cargo starts it in the current folder.
fn default_folder() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    match set("CRITERION_HOME") {
        Some(home) => home.into(),
        None => (set("CARGO_TARGET_DIR"))
            .map_or_else(|| PathBuf::from("target"), PathBuf::from)
            .join("criterion"),
    }
}

/// `5%` or `5` as a fraction.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(value) if (0.0..=1000.0).contains(&value) => Ok(value / 100.0),
        _ => Err("give a percentage from 0 to 1000, such as 5%".into()),
    }
}

/// Four digits and a unit.
fn time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        n if n < 1e3 => (n, "ns"),
        n if n < 1e6 => (n / 1e3, "us"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let decimals = match value {
        v if v < 10.0 => 3,
        v if v < 100.0 => 2,
        _ => 1,
    };
    format!("{value:.decimals$} {unit}")
}
