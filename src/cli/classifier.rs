//! `eosin train classifier` and `eosin train simclr`.

use std::path::Path;

use super::run::run_file;
use super::{EvaluateArgs, TrainArgs, console};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::train::classes::Level;
use crate::train::classifier::config::{ClassifierConfig, SimclrConfig};
use crate::train::classifier::{self, Spread, simclr};
use crate::train::config::{DataConfig, Layout, Precision};
use crate::train::progress::Control;

pub fn train_classifier(
    args: &TrainArgs,
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let config: ClassifierConfig = run_file(args, dtype)?;
    let made = classifier::train(&config, &args.out, args.resume, device, control)?;
    let mut text = format!(
        "tiles              {} of {} slides\nclasses            {}",
        made.tiles,
        made.slides,
        made.classes.join(", ")
    );
    for start in &made.starts {
        let from = match start.from.as_str() {
            "weights" => "from given weights",
            _ => "from random weights",
        };
        text += &format!("\n\n{from}");
        let same_patient = start.folds.iter().any(|f| f.same_patient);
        let mark = if same_patient { " (same patient)" } else { "" };
        match &start.folds[..] {
            [fold] => {
                let [train, validation, test] = fold.tiles;
                text += &format!(
                    "\ntiles              {train} training, {validation} validation, {test} \
                     test\n{}",
                    console::epochs(fold.history.train.len(), fold.history.best)
                );
                text += &level("held out", mark, &fold.scores.bags, &made.classes);
                text += &level("slides by vote", mark, &fold.scores.slides, &made.classes);
            }
            folds => {
                text += &format!("\nheld out           {} folds{mark}", folds.len());
                let over = &start.over_folds;
                for (name, spread) in [
                    ("accuracy", Some(over.accuracy)),
                    ("balanced accuracy", Some(over.balanced_accuracy)),
                    ("F1 micro", Some(over.f1_micro)),
                    ("F1 macro", Some(over.f1_macro)),
                    ("F1 weighted", Some(over.f1_weighted)),
                    ("AUC", over.auc),
                ] {
                    text += &format!("\n{name:18} {}", spread.map_or("-".to_owned(), about));
                }
            }
        }
        if let Some(test) = &start.test {
            text += &level("test folder", "", &test.bags, &made.classes);
        }
    }
    text += &format!("\n\nrun                {}", args.out.display());
    console::print_with_skipped(json, &made, text, &made.skipped)
}

/// Scores a run on other tiles, by default in a folder for each class.
pub fn evaluate(
    args: &EvaluateArgs,
    [run, folder]: [&Path; 2],
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let others = [
        ("--expression", args.expression.is_some()),
        ("--no-expression", args.no_expression),
        ("--slides", args.slides.is_some()),
        ("--classes", args.classes.is_some()),
        ("--mpp", args.mpp.is_some()),
        ("--any-mpp", args.any_mpp),
    ];
    if let Some((name, _)) = others.iter().find(|(_, given)| *given) {
        return Err(Error::usage(
            format!("{name} is not for classifiers, which look at tiles alone"),
            "leave it out",
        ));
    }
    let layout = args.layout.map_or(Layout::Classes, Layout::from);
    let mut data = DataConfig::new(layout, folder);
    data.sections.clone_from(&args.sections);
    let made = classifier::evaluate(run, &data, &args.out, device, control)?;
    let classes = &made.scores.classes;
    let mut text = format!("networks           {}", made.networks);
    text += &level("tiles", "", &made.scores.bags, classes);
    text += &level("slides by vote", "", &made.scores.slides, classes);
    text += &format!("\ntables             {}", args.out.display());
    console::print_with_skipped(json, &made, text, &made.skipped)
}

fn about(spread: Spread) -> String {
    match spread.deviation {
        Some(deviation) => format!("{:.3} +- {deviation:.3}", spread.mean),
        None => format!("{:.3}", spread.mean),
    }
}

fn level(what: &str, mark: &str, level: &Level, classes: &[String]) -> String {
    let auc = level.auc.map_or("-".to_owned(), |a| format!("{a:.3}"));
    let mut text = format!(
        "\n{what:18} {}{mark}: accuracy {:.3} (balanced {:.3}), F1 {:.3} micro, {:.3} macro, \
         {:.3} weighted, AUC {auc}",
        level.count,
        level.accuracy,
        level.balanced_accuracy,
        level.f1_micro,
        level.f1_macro,
        level.f1_weighted
    );
    for (class, row) in classes.iter().zip(&level.confusion) {
        let row: Vec<String> = row.iter().map(u64::to_string).collect();
        text += &format!("\n  {class:16} taken for {}", row.join(" "));
    }
    text
}

pub fn train_simclr(
    args: &TrainArgs,
    dtype: Option<Precision>,
    device: &Device,
    json: bool,
    control: Control,
) -> Result<()> {
    let config: SimclrConfig = run_file(args, dtype)?;
    let made = simclr::train(&config, &args.out, args.resume, device, control)?;
    let [train, validation] = made.tiles;
    let best = made.history.validation.get(made.history.best);
    let text = format!(
        "tiles              {train} training, {validation} validation\n\
         {}\n\
         validation loss    {:.4}; telling nothing {:.4}\n\
         weights            {}",
        console::epochs(made.history.train.len(), made.history.best),
        best.copied().unwrap_or(f64::NAN),
        made.chance,
        args.out.join("model.safetensors").display()
    );
    console::print_with_skipped(json, &made, text, &made.skipped)
}
