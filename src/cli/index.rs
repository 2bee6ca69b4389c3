//! `eosin index`: build a file of slides' vectors, search it, and judge the search.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::console;
use crate::error::{Error, Result};
use crate::expression::table::{self, Orientation, read_signed};
use crate::formats::atomic::{create_dir_all, write_bytes};
use crate::formats::{Array, Kind, hdf5, npy, read_weights};
use crate::report::{Report, number};
use crate::search::{
    Entry, Index, Metric, Neighbour, Retrieval, Vectors, retrieve, slides_like, write,
};
use crate::train::evaluate::write_rows;

#[derive(Subcommand)]
pub enum IndexCommand {
    /// Write slides' vectors (class tokens, predicted expression) into one file
    Build(BuildArgs),
    /// Find the slides nearest to a slide, or judge the search with --evaluate
    Search(SearchArgs),
}

#[derive(Args)]
pub struct BuildArgs {
    /// Vectors, one a row: .npy, .safetensors, HDF5, or a table with names (CSV, TSV)
    #[arg(long)]
    vectors: PathBuf,
    /// .safetensors and HDF5: which array
    #[arg(long, default_value = "cls")]
    key: String,
    /// CSV with columns slide, patient, label: a line for each row of the vectors; for a table with names, for each slide
    #[arg(long)]
    slides: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "cosine")]
    metric: Metric,
    /// File to write
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("query").required(true).args(["slide", "vectors", "evaluate"]))]
pub struct SearchArgs {
    /// A file that `eosin index build` wrote
    #[arg(long)]
    index: PathBuf,
    /// A slide of the index; slides of its patient are left out
    #[arg(long)]
    slide: Option<String>,
    /// Vectors of a slide that is not in the index, one a row: its bags
    #[arg(long)]
    vectors: Option<PathBuf>,
    /// .safetensors and HDF5: which array
    #[arg(long, default_value = "cls")]
    key: String,
    /// For each slide, let its nearest slides of other patients vote on its label
    #[arg(long)]
    evaluate: bool,
    /// Slides to list, or to let vote
    #[arg(long, default_value_t = 5)]
    top: usize,
    /// With --evaluate: folder to write to
    #[arg(long, requires = "evaluate")]
    out: Option<PathBuf>,
}

pub fn index(command: &IndexCommand, json: bool) -> Result<()> {
    match command {
        IndexCommand::Build(args) => build(args, json),
        IndexCommand::Search(args) => search(args, json),
    }
}

/// Rows, and their names where the file has some.
struct Rows {
    width: usize,
    values: Vec<f32>,
    names: Option<Vec<String>>,
}

fn rows(path: &Path, key: &str) -> Result<Rows> {
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 4096), &mut head)
        .map_err(|e| Error::io("read", path, e))?;
    let array: Array = match Kind::sniff(&head) {
        Kind::Npy => npy::read(path)?,
        Kind::Hdf5 => hdf5::File::open(path)?.array(key)?,
        Kind::Safetensors => {
            let weights = read_weights(path)?;
            let found = weights
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, a)| a.clone());
            found.ok_or_else(|| {
                Error::file(
                    path,
                    "",
                    format!("has no array {key}"),
                    "name one with --key; `eosin inspect` lists them",
                )
            })?
        }
        _ => {
            let table = read_signed(path, Orientation::SamplesByGenes, &[])?;
            return Ok(Rows {
                width: table.genes.len(),
                values: table.values,
                names: Some(table.samples),
            });
        }
    };
    match array.shape[..] {
        [_, width] if width > 0 && !array.is_empty() => Ok(Rows {
            width,
            values: array.to_f32()?,
            names: None,
        }),
        _ => Err(Error::file(
            path,
            "",
            format!("holds {:?}", array.shape),
            "give vectors, one a row",
        )),
    }
}

/// What is known of a row's slide.
struct Line {
    slide: String,
    patient: String,
    label: Option<String>,
}

fn lines(path: &Path) -> Result<Vec<Line>> {
    let (delimiter, text) = table::open(path)?;
    let mut csv = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .trim(csv::Trim::All)
        .from_reader(text);
    let remedy = "write the columns slide, and as known patient and label";
    let fail = |e: csv::Error| Error::file(path, "", format!("cannot be read ({e})"), remedy);
    let header = csv.headers().map_err(fail)?.clone();
    let column = |name: &str| header.iter().position(|h| h == name);
    let slide_at = column("slide");
    let slide_at =
        slide_at.ok_or_else(|| Error::file(path, "line 1", "has no column slide", remedy))?;
    let (patient_at, label_at) = (column("patient"), column("label").or(column("class")));
    let mut lines = Vec::new();
    for record in csv.records() {
        let record = record.map_err(fail)?;
        let field = |at: usize| record.get(at).unwrap_or_default().to_owned();
        let slide = field(slide_at);
        if slide.is_empty() {
            let line = record.position().map_or(0, |p| p.line());
            return Err(Error::file(
                path,
                format!("line {line}"),
                "slide is empty",
                "fill it in",
            ));
        }
        lines.push(Line {
            patient: patient_at
                .map(field)
                .filter(|p| !p.is_empty())
                .unwrap_or_else(|| slide.clone()),
            label: label_at.map(field).filter(|l| !l.is_empty()),
            slide,
        });
    }
    Ok(lines)
}

#[derive(Serialize)]
struct Built {
    file: String,
    slides: usize,
    vectors: usize,
    width: usize,
}

fn build(args: &BuildArgs, json: bool) -> Result<()> {
    let rows = rows(&args.vectors, &args.key)?;
    let count = rows.values.len() / rows.width;
    let given = args.slides.as_deref().map(lines).transpose()?;
    let lines = match (rows.names, given) {
        (None, None) => {
            return Err(Error::usage(
                format!("nothing names the slides of {}", args.vectors.display()),
                "give --slides a CSV with a line for each row",
            ));
        }
        (None, Some(lines)) if lines.len() != count => {
            return Err(Error::usage(
                format!("{} lines name {count} rows of vectors", lines.len()),
                "give --slides a line for each row",
            ));
        }
        (None, Some(lines)) => lines,
        (Some(names), given) => {
            let known: HashMap<String, Line> = given
                .into_iter()
                .flatten()
                .map(|l| (l.slide.clone(), l))
                .collect();
            let line = |slide: String| match known.get(&slide) {
                Some(line) => Line {
                    patient: line.patient.clone(),
                    label: line.label.clone(),
                    slide,
                },
                None => Line {
                    patient: slide.clone(),
                    label: None,
                    slide,
                },
            };
            names.into_iter().map(line).collect()
        }
    };
    // A slide's vectors stand together.
    let mut order: Vec<usize> = (0..count).collect();
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (i, line) in lines.iter().enumerate() {
        first.entry(&line.slide).or_insert(i);
    }
    order.sort_by_key(|&i| (first[lines[i].slide.as_str()], i));
    let mut entries: Vec<Entry> = Vec::new();
    let mut values = Vec::with_capacity(rows.values.len());
    for (place, &i) in order.iter().enumerate() {
        let line = &lines[i];
        values.extend_from_slice(&rows.values[i * rows.width..(i + 1) * rows.width]);
        match entries.last_mut() {
            Some(entry) if entry.slide == line.slide => {
                if entry.patient != line.patient || entry.label != line.label {
                    return Err(Error::usage(
                        format!("slide {} has two patients or labels", line.slide),
                        "say the same of each of its rows",
                    ));
                }
                entry.count += 1;
            }
            _ => entries.push(Entry {
                slide: line.slide.clone(),
                patient: line.patient.clone(),
                label: line.label.clone(),
                first: place,
                count: 1,
            }),
        }
    }
    let data = Vectors {
        width: rows.width,
        values: &values,
        entries: &entries,
    };
    write(&args.out, args.metric, &data)?;
    let made = Built {
        file: args.out.display().to_string(),
        slides: entries.len(),
        vectors: count,
        width: rows.width,
    };
    let text = format!(
        "{}: {} slides, {} vectors of {}",
        made.file, made.slides, made.vectors, made.width
    );
    console::print(json, &made, &text)
}

fn search(args: &SearchArgs, json: bool) -> Result<()> {
    if args.evaluate {
        let index = Index::open(&args.index, None)?;
        return judged(args, &retrieve(&index, args.top)?, json);
    }
    let found: Vec<Neighbour> = match (&args.slide, &args.vectors) {
        (Some(slide), _) => {
            let index = Index::open(&args.index, None)?;
            let entry = index
                .entries
                .iter()
                .find(|e| e.slide == *slide)
                .ok_or_else(|| {
                    Error::file(
                        &args.index,
                        "",
                        format!("has no slide {slide}"),
                        "give --vectors for a slide that is not in it",
                    )
                })?;
            let other = |e: &Entry| e.patient != entry.patient;
            slides_like(&index, index.bag(entry), args.top, &other)?
        }
        (None, Some(path)) => {
            let bag = rows(path, &args.key)?;
            let index = Index::open(&args.index, Some(bag.width))?;
            slides_like(&index, &bag.values, args.top, &|_| true)?
        }
        (None, None) => Vec::new(),
    };
    let line = |n: &Neighbour| {
        let label = n.label.as_deref().unwrap_or("-");
        format!("{:.6}  {}  {label}", n.distance, n.slide)
    };
    let text: Vec<String> = found.iter().map(line).collect();
    console::print(json, &found, &text.join("\n"))
}

fn judged(args: &SearchArgs, found: &Retrieval, json: bool) -> Result<()> {
    let mut text = format!(
        "slides             {} of {} labels\n\
         accuracy           {:.3} by the vote of {} slides of other patients\n\
         balanced accuracy  {:.3}\n\
         F1                 {:.3} macro, {:.3} weighted",
        found.slides,
        found.labels.len(),
        found.accuracy,
        found.voters,
        found.balanced_accuracy,
        found.f1_macro,
        found.f1_weighted
    );
    if let Some(out) = &args.out {
        create_dir_all(out)?;
        write_rows(&out.join("votes.csv"), &found.votes)?;
        let bytes = serde_json::to_vec_pretty(found)
            .map_err(|e| Error::usage(format!("no summary: {e}"), "report this"))?;
        write_bytes(out.join("retrieval.json"), &bytes)?;
        let report = out.join("report.html");
        page(args, found).write(&report)?;
        text += &format!("\nreport             {}", report.display());
    }
    console::print(json, found, &text)
}

fn page(args: &SearchArgs, found: &Retrieval) -> Report {
    let mut page = Report::new("Slides like this one");
    page.subtitle(format!(
        "{}: {} slides; the {} nearest of other patients vote on each slide's label",
        args.index.display(),
        found.slides,
        found.voters
    ));
    page.headline(number(found.accuracy, 3), "accuracy")
        .headline(number(found.balanced_accuracy, 3), "balanced accuracy")
        .headline(number(found.f1_macro, 3), "F1, mean of labels");
    let header: Vec<&str> = (std::iter::once("true label"))
        .chain(found.labels.iter().map(String::as_str))
        .collect();
    let rows: Vec<Vec<String>> = (found.labels.iter().zip(&found.confusion))
        .map(|(label, row)| {
            std::iter::once(label.clone())
                .chain(row.iter().map(u64::to_string))
                .collect()
        })
        .collect();
    page.section("Votes")
        .table("Columns are labels by vote", &header, &rows);
    page
}
