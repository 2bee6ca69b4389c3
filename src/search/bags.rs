//! Slides near a slide, and what their labels say.

use std::collections::BTreeMap;

use serde::Serialize;

use super::file::{Entry, Index, Metric, length, prepared};
use crate::error::{Error, Result};
use crate::metrics::classification::{Average, Confusion};
use crate::ops::{self, Activation};
use crate::tensor::Tensor;

/// A slide of an index and its distance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Neighbour {
    pub slide: String,
    pub patient: String,
    pub label: Option<String>,
    pub distance: f64,
}

/// Vectors that are compared at a time.
const BLOCK: usize = 4096;

/// The `count` slides nearest to a bag of vectors, nearest first, of those that
/// `allowed` holds for.
///
/// The distance from a bag to another is the median, over the first one's vectors, of
/// the distance to the nearest vector of the other (Kalra et al. 2020, Medical Image
/// Analysis 65:101757). For slides of one vector it is the distance. Distances come from
/// a product in single precision.
///
/// # Errors
/// Vectors of another width, not finite, or, for the cosine, of zeros.
pub fn slides_like(
    index: &Index,
    bag: &[f32],
    count: usize,
    allowed: &dyn Fn(&Entry) -> bool,
) -> Result<Vec<Neighbour>> {
    let distances = distances(index, bag)?;
    let mut found: Vec<(f64, &Entry)> = (index.entries.iter().zip(distances))
        .filter(|(entry, _)| allowed(entry))
        .map(|(entry, distance)| (distance, entry))
        .collect();
    // Stable, so that equal ones stay in the order of the index.
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found.truncate(count);
    let neighbour = |(distance, entry): (f64, &Entry)| Neighbour {
        slide: entry.slide.clone(),
        patient: entry.patient.clone(),
        label: entry.label.clone(),
        distance,
    };
    Ok(found.into_iter().map(neighbour).collect())
}

/// Distance of a bag to every slide.
fn distances(index: &Index, bag: &[f32]) -> Result<Vec<f64>> {
    let width = index.width;
    if bag.is_empty() || !bag.len().is_multiple_of(width) {
        return Err(Error::file(
            index.path(),
            "",
            format!(
                "holds vectors of {width}, and {} values are looked for",
                bag.len()
            ),
            "search with vectors of the model that the index was built with",
        ));
    }
    let rows = bag.chunks(width);
    if rows
        .clone()
        .any(|row| !length(row).is_finite() || length(row) == 0.0 && index.metric == Metric::Cosine)
    {
        return Err(Error::usage(
            "a vector that is looked for is zero or not finite",
            "look at the model that made it",
        ));
    }
    let bag: Vec<f32> = rows.flat_map(|row| prepared(index.metric, row)).collect();
    let members = bag.len() / width;
    let squares: Vec<f64> = bag.chunks(width).map(|row| length(row).powi(2)).collect();
    let bag = Tensor::from_slice(&bag, &[members, width])?;

    // The least distance of each member to each slide.
    let mut least = vec![f64::INFINITY; members * index.entries.len()];
    let mut slide = 0;
    for first in (0..index.vectors).step_by(BLOCK) {
        let last = index.vectors.min(first + BLOCK);
        let block = index.rows(first..last);
        let block = Tensor::from_slice(block, &[last - first, width])?;
        let dots = ops::linear(&bag, &block, None, Activation::None)?.to_f32_vec()?;
        for vector in first..last {
            while index.entries[slide].vectors().end <= vector {
                slide += 1;
            }
            let size = index.square(vector);
            for member in 0..members {
                let dot = f64::from(dots[member * (last - first) + vector - first]);
                let distance = match index.metric {
                    Metric::Cosine => 1.0 - dot,
                    Metric::L2 => (squares[member] + size - 2.0 * dot).max(0.0).sqrt(),
                };
                let least = &mut least[slide * members + member];
                *least = least.min(distance);
            }
        }
    }
    least
        .chunks(members)
        .map(crate::metrics::summary::median)
        .collect()
}

/// What the nearest slides say of one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vote {
    pub slide: String,
    pub patient: String,
    pub label: String,
    pub predicted: String,
    /// Of the voters, those with the predicted label.
    pub votes: usize,
    pub voters: usize,
}

/// How well slides find those of their label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retrieval {
    pub labels: Vec<String>,
    pub voters: usize,
    pub slides: usize,
    pub accuracy: f64,
    pub balanced_accuracy: f64,
    pub f1_macro: f64,
    pub f1_weighted: f64,
    /// A row for each true label, a column for each predicted one.
    pub confusion: Vec<Vec<u64>>,
    #[serde(skip)]
    pub votes: Vec<Vote>,
}

/// For each slide with a label, the label of most of its `voters` nearest slides of other
/// patients; of equal ones, that of the nearest voter among them.
///
/// # Errors
/// As [`slides_like`]; fewer than two labels; a slide without one of another patient to
/// ask.
pub fn retrieve(index: &Index, voters: usize) -> Result<Retrieval> {
    let labelled: Vec<&Entry> = index.entries.iter().filter(|e| e.label.is_some()).collect();
    let label = |e: &Entry| e.label.clone().unwrap_or_default();
    let mut labels: Vec<String> = labelled.iter().map(|e| label(e)).collect();
    labels.sort();
    labels.dedup();
    if labels.len() < 2 || voters == 0 {
        return Err(Error::usage(
            format!("{} labels and {voters} voters decide nothing", labels.len()),
            "build the index with a column `label` of two labels or more, and let at least 1 slide vote",
        ));
    }
    let mut votes = Vec::with_capacity(labelled.len());
    for entry in labelled {
        let allowed = |other: &Entry| other.label.is_some() && other.patient != entry.patient;
        let near = slides_like(index, index.bag(entry), voters, &allowed)?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for neighbour in &near {
            *counts
                .entry(neighbour.label.as_deref().unwrap_or_default())
                .or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or(0);
        let first = near
            .iter()
            .filter_map(|n| n.label.as_deref())
            .find(|l| counts[l] == most);
        let predicted = first.ok_or_else(|| {
            Error::usage(
                format!(
                    "slide {} has no slide of another patient to ask",
                    entry.slide
                ),
                "index slides of more patients",
            )
        })?;
        votes.push(Vote {
            slide: entry.slide.clone(),
            patient: entry.patient.clone(),
            label: label(entry),
            predicted: predicted.to_owned(),
            votes: most,
            voters: near.len(),
        });
    }
    let place = |label: &String| labels.binary_search(label).unwrap_or(0);
    let truth: Vec<usize> = votes.iter().map(|v| place(&v.label)).collect();
    let predicted: Vec<usize> = votes.iter().map(|v| place(&v.predicted)).collect();
    let confusion = Confusion::new(&truth, &predicted, labels.len())?;
    Ok(Retrieval {
        voters,
        slides: votes.len(),
        accuracy: confusion.accuracy(),
        balanced_accuracy: confusion.balanced_accuracy(),
        f1_macro: confusion.f1(Average::MacroPresent),
        f1_weighted: confusion.f1(Average::Weighted),
        confusion: confusion.rows().map(<[u64]>::to_vec).collect(),
        labels,
        votes,
    })
}
