//! Which spots train, validate and are tested.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{GivenFold, SpotSplit};
use crate::cohort::Cohort;
use crate::error::{Error, Result};
use crate::train::config::GroupBy;
use crate::train::run::{Fold, groups};

/// The folds that are given, or one for each patient (or section), which it tests;
/// there the next one in the order of names validates.
///
/// # Errors
/// A fold with a section, or patient, on two sides, or without a side; a section that
/// is not there; too few patients or sections.
pub fn folds(split: &SpotSplit, cohort: &Cohort) -> Result<Vec<Fold>> {
    if !split.folds.is_empty() {
        let folds = split.folds.iter().enumerate();
        return folds
            .map(|(i, given)| given_fold(i + 1, given, split.by, cohort))
            .collect();
    }
    let all: Vec<usize> = (0..cohort.samples.len()).collect();
    let tested = by_name(cohort, split.by, &all);
    if tested.len() < 2 {
        return Err(Error::usage(
            format!(
                "{} {} cannot be left out one by one",
                tested.len(),
                plural(split.by)
            ),
            match split.by {
                GroupBy::Patient => {
                    "use sections of more patients, or set split.by = \"section\" for figures \
                     marked 'same patient'"
                }
                _ => "use more sections",
            },
        ));
    }
    let by = split.validate_by.unwrap_or(split.by);
    let mut folds = Vec::with_capacity(tested.len());
    for (name, test) in &tested {
        let known: Vec<usize> = all.iter().copied().filter(|s| !test.contains(s)).collect();
        let others = by_name(cohort, by, &known);
        if others.len() < 2 {
            return Err(Error::usage(
                format!(
                    "the fold that tests {name} leaves {} {} to train and to validate",
                    others.len(),
                    plural(by)
                ),
                match by {
                    GroupBy::Patient => {
                        "set split.validate_by = \"section\", or give the folds in split.folds"
                    }
                    _ => "use more sections, or give the folds in split.folds",
                },
            ));
        }
        let next = others.iter().find(|(other, _)| *other > name);
        let Some((_, validation)) = next.or_else(|| others.first_key_value()) else {
            continue;
        };
        let train = known.iter().copied().filter(|s| !validation.contains(s));
        folds.push(Fold {
            test: test.iter().copied().collect(),
            inner: vec![(train.collect(), validation.iter().copied().collect())],
        });
    }
    Ok(folds)
}

fn plural(by: GroupBy) -> &'static str {
    match by {
        GroupBy::Patient => "patients",
        _ => "sections",
    }
}

fn by_name(cohort: &Cohort, by: GroupBy, samples: &[usize]) -> BTreeMap<String, BTreeSet<usize>> {
    let mut found: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (name, &sample) in groups(cohort, by, samples).into_iter().zip(samples) {
        found.entry(name).or_default().insert(sample);
    }
    found
}

fn given_fold(number: usize, given: &GivenFold, by: GroupBy, cohort: &Cohort) -> Result<Fold> {
    let sections: BTreeSet<&str> = cohort.samples.iter().map(|s| s.slide.as_str()).collect();
    let mut train: Vec<&str> = given.train.iter().map(String::as_str).collect();
    if train.is_empty() {
        let used = |s: &&str| [&given.test, &given.validation].iter().any(|g| holds(g, s));
        train = sections.iter().copied().filter(|s| !used(s)).collect();
    }
    let names = |names: &'_ [String]| names.iter().map(String::clone).collect::<Vec<_>>();
    let train: Vec<String> = train.into_iter().map(str::to_owned).collect();
    let sides = [
        ("train", train),
        ("validation", names(&given.validation)),
        ("test", names(&given.test)),
    ];
    let wrong = |problem: String, remedy: &str| {
        let problem = format!("fold {number} of split.folds: {problem}");
        Err(Error::usage(problem, remedy.to_owned()))
    };
    let mut side_of: BTreeMap<&str, &str> = BTreeMap::new();
    let mut side_of_patient: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for (side, names) in &sides {
        if names.is_empty() {
            return wrong(
                format!("no section is left for {side}"),
                "give each of train, validation and test a section",
            );
        }
        for name in names {
            let Some(sample) = cohort.samples.iter().find(|s| s.slide == *name) else {
                return wrong(
                    format!("{side} names section {name}, which the data does not have"),
                    "name sections of the data that have spots with counts",
                );
            };
            if let Some(other) = side_of.insert(name, side) {
                return wrong(
                    format!("section {name} is in {other} and in {side}"),
                    "name each section once: a section that trains must not be tested",
                );
            }
            let patient = sample.patient.as_str();
            if let Some((other, there)) = side_of_patient.insert(patient, (side, name))
                && other != *side
                && by == GroupBy::Patient
            {
                return wrong(
                    format!("patient {patient} is in {other} ({there}) and in {side} ({name})"),
                    "put all sections of a patient on one side, or set split.by = \"section\" to \
                     get figures marked 'same patient'",
                );
            }
        }
    }
    let of = |side: usize| -> Vec<usize> {
        (0..cohort.samples.len())
            .filter(|&s| holds(&sides[side].1, &cohort.samples[s].slide))
            .collect()
    };
    Ok(Fold {
        test: of(2),
        inner: vec![(of(0), of(1))],
    })
}

fn holds(names: &[String], name: &str) -> bool {
    names.iter().any(|n| n == name)
}
