//! Classes predicted for bags, and for their slides by vote.
//!
//! A slide's class is the one that most of its bags are predicted as; of equal ones,
//! that of the highest mean probability. The area under the ROC curve of slides is of
//! that mean.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cohort::tiles::read_of_slides;
use crate::error::{Error, Result};
use crate::expression::table;
use crate::formats::atomic::write_bytes;
use crate::metrics::classification::{Average, Confusion};
use crate::metrics::ranking::{MulticlassAuc, roc_auc, roc_auc_multiclass};

/// Classes of slides, and the probabilities that their bags were given.
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    pub names: Vec<String>,
    pub samples: Vec<String>,
    /// Index of each sample's class; empty where they are not known.
    pub truth: Vec<usize>,
    /// Index of each bag's sample.
    pub bags: Vec<usize>,
    /// (bags, classes)
    pub probabilities: Vec<f64>,
}

/// How well classes are predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    pub count: usize,
    pub accuracy: f64,
    pub balanced_accuracy: f64,
    pub f1_micro: f64,
    /// Over the classes that occur.
    pub f1_macro: f64,
    pub f1_weighted: f64,
    /// Of two classes, of the second; of more, each against the rest. Absent where
    /// only one class occurs.
    pub auc: Option<f64>,
    /// A row for each true class, a column for each predicted one.
    pub confusion: Vec<Vec<u64>>,
}

/// Bags on their own, and slides by the vote of their bags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    pub classes: Vec<String>,
    pub bags: Level,
    pub slides: Level,
}

/// The place of the highest value; of equal ones the first.
fn highest(values: &[f64]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best
}

/// The place among `names` of the class of each slide, from a table with columns slide,
/// class.
///
/// # Errors
/// A slide without a class, or of a class that is not among `names`.
pub fn known(path: &Path, names: &[String], slides: &[&str]) -> Result<Vec<usize>> {
    let by_slide = read_of_slides(path, "class")?;
    let place = |&slide: &&str| {
        let refuse = |problem: String, remedy: &str| Error::file(path, "", problem, remedy);
        let class = by_slide.get(slide).ok_or_else(|| {
            let problem = format!("does not say which class slide {slide} is of");
            refuse(problem, "add a line for it")
        })?;
        let at = names.iter().position(|n| n == class);
        at.ok_or_else(|| {
            let names = names.join(", ");
            let problem = format!("slide {slide} is of class {class}, and the run knows {names}");
            refuse(problem, "leave the slide out, or train with its class")
        })
    };
    slides.iter().map(place).collect()
}

impl Classified {
    fn rows(&self) -> std::slice::Chunks<'_, f64> {
        self.probabilities.chunks(self.names.len().max(1))
    }

    /// The mean over each sample's bags: (samples, classes).
    pub fn means(&self) -> Vec<f64> {
        let width = self.names.len();
        let mut means = vec![0.0; self.samples.len() * width];
        let mut counts = vec![0.0f64; self.samples.len()];
        for (&sample, row) in self.bags.iter().zip(self.rows()) {
            counts[sample] += 1.0;
            let mean = &mut means[sample * width..(sample + 1) * width];
            mean.iter_mut().zip(row).for_each(|(m, p)| *m += p);
        }
        for (mean, count) in means.chunks_mut(width.max(1)).zip(counts) {
            mean.iter_mut().for_each(|m| *m /= count.max(1.0));
        }
        means
    }

    /// The class of each sample by vote.
    pub fn votes(&self) -> Vec<usize> {
        let width = self.names.len();
        let mut votes = vec![0.0; self.samples.len() * width];
        for (&sample, row) in self.bags.iter().zip(self.rows()) {
            votes[sample * width + highest(row)] += 1.0;
        }
        // A mean probability is at most 1, so that half of it decides only ties.
        let means = self.means();
        votes
            .iter_mut()
            .zip(&means)
            .for_each(|(v, m)| *v += m / 2.0);
        votes.chunks(width.max(1)).map(highest).collect()
    }

    /// # Errors
    /// No sample; classes that are not known; a probability that is NaN.
    pub fn scores(&self) -> Result<ClassScores> {
        if self.truth.len() != self.samples.len() {
            return Err(Error::usage(
                "classes that are not known cannot be scored",
                "give the class of each sample",
            ));
        }
        let bags: Vec<usize> = self.rows().map(highest).collect();
        let truth: Vec<usize> = self.bags.iter().map(|&s| self.truth[s]).collect();
        Ok(ClassScores {
            bags: self.level(&truth, &bags, &self.probabilities)?,
            slides: self.level(&self.truth, &self.votes(), &self.means())?,
            classes: self.names.clone(),
        })
    }

    fn level(&self, truth: &[usize], predicted: &[usize], scores: &[f64]) -> Result<Level> {
        let confusion = Confusion::new(truth, predicted, self.names.len())?;
        let auc = match self.names.len() {
            2 => {
                let labels: Vec<bool> = truth.iter().map(|&t| t == 1).collect();
                let second: Vec<f64> = scores.chunks(2).map(|row| row[1]).collect();
                roc_auc(&labels, &second)?
            }
            classes => {
                let kind = MulticlassAuc::OneVersusRest;
                roc_auc_multiclass(truth, scores, classes, kind)?
            }
        };
        Ok(Level {
            count: truth.len(),
            accuracy: confusion.accuracy(),
            balanced_accuracy: confusion.balanced_accuracy(),
            f1_micro: confusion.f1(Average::Micro),
            f1_macro: confusion.f1(Average::MacroPresent),
            f1_weighted: confusion.f1(Average::Weighted),
            auc: Some(auc).filter(|a| !a.is_nan()),
            confusion: confusion.rows().map(<[u64]>::to_vec).collect(),
        })
    }

    /// Writes `classes.csv`, a line a sample with its class by vote and the mean
    /// probability of each class, and `bag_classes.csv`, a line a bag. There is no column
    /// `class` where these are not known.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let samples: Vec<usize> = (0..self.samples.len()).collect();
        let (votes, means) = (self.votes(), self.means());
        self.write_rows(&folder.join("classes.csv"), &samples, &votes, &means)?;
        let bags: Vec<usize> = self.rows().map(highest).collect();
        let path = folder.join("bag_classes.csv");
        self.write_rows(&path, &self.bags, &bags, &self.probabilities)
    }

    fn write_rows(
        &self,
        path: &Path,
        samples: &[usize],
        predicted: &[usize],
        probabilities: &[f64],
    ) -> Result<()> {
        let failed = |e: String| Error::usage(format!("no table: {e}"), "report this");
        let mut out = csv::Writer::from_writer(Vec::new());
        let known = !self.truth.is_empty();
        let header = ["sample"].into_iter().chain(known.then_some("class"));
        let header = header.chain(["predicted"]);
        let header = header.chain(self.names.iter().map(String::as_str));
        out.write_record(header)
            .map_err(|e| failed(e.to_string()))?;
        let rows = probabilities.chunks(self.names.len().max(1));
        for ((&sample, &guess), row) in samples.iter().zip(predicted).zip(rows) {
            let mut fields = vec![self.samples[sample].clone()];
            fields.extend(
                self.truth
                    .get(sample)
                    .map(|&class| self.names[class].clone()),
            );
            fields.push(self.names[guess].clone());
            fields.extend(row.iter().map(f64::to_string));
            out.write_record(fields)
                .map_err(|e| failed(e.to_string()))?;
        }
        let bytes = out.into_inner().map_err(|e| failed(e.to_string()))?;
        write_bytes(path, &bytes)
    }

    /// Reads a table with the columns `sample` and `class`, and one for each class with
    /// its probability; `predicted` is not read. Several lines of a sample are its bags.
    ///
    /// # Errors
    /// Each names the line: no such columns, a class without a column, a probability
    /// that is not between 0 and 1, a sample of two classes.
    pub fn read(path: &Path) -> Result<Self> {
        let (delimiter, text) = table::open(path)?;
        let mut csv = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .trim(csv::Trim::All)
            .from_reader(text);
        let remedy = "write the columns sample, class, and one for each class with its probability";
        let fail = |e: csv::Error| Error::file(path, "", format!("cannot be read ({e})"), remedy);
        let header = csv.headers().map_err(fail)?.clone();
        let column = |name: &str| {
            let at = header.iter().position(|h| h == name);
            at.ok_or_else(|| Error::file(path, "line 1", format!("has no column {name}"), remedy))
        };
        let (sample_at, class_at) = (column("sample")?, column("class")?);
        let places = header.iter().enumerate();
        let places = places.filter(|(_, h)| !["sample", "class", "predicted", "bag"].contains(h));
        let places: Vec<(usize, String)> = places.map(|(i, h)| (i, h.to_owned())).collect();
        let mut out = Self {
            names: places.iter().map(|(_, name)| name.clone()).collect(),
            samples: Vec::new(),
            truth: Vec::new(),
            bags: Vec::new(),
            probabilities: Vec::new(),
        };
        let mut of: BTreeMap<String, usize> = BTreeMap::new();
        for record in csv.records() {
            let record = record.map_err(fail)?;
            let line = record.position().map_or(0, |p| p.line());
            let refuse =
                |problem: String| Error::file(path, format!("line {line}"), problem, remedy);
            let field = |at: usize| record.get(at).unwrap_or_default();
            let class = out.names.iter().position(|n| n == field(class_at));
            let class = class
                .ok_or_else(|| refuse(format!("class `{}` has no column", field(class_at))))?;
            let sample = field(sample_at).to_owned();
            let at = *of.entry(sample.clone()).or_insert_with(|| {
                out.samples.push(sample.clone());
                out.truth.push(class);
                out.samples.len() - 1
            });
            if out.truth[at] != class {
                return Err(refuse(format!("sample `{sample}` has two classes")));
            }
            out.bags.push(at);
            for (place, name) in &places {
                let p: f64 = field(*place).parse().unwrap_or(f64::NAN);
                if !(0.0..=1.0).contains(&p) {
                    let problem = format!("`{}` is no probability of {name}", field(*place));
                    return Err(refuse(problem));
                }
                out.probabilities.push(p);
            }
        }
        match out.names.len() >= 2 && !out.samples.is_empty() {
            true => Ok(out),
            false => Err(Error::file(
                path,
                "",
                "has no samples of two classes or more",
                remedy,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Classified {
        Classified {
            names: ["A", "B"].map(String::from).to_vec(),
            samples: ["s1", "s2", "s3"].map(String::from).to_vec(),
            truth: vec![0, 1, 1],
            bags: vec![0, 0, 0, 1, 1, 2],
            #[rustfmt::skip]
            probabilities: vec![
                // Two of three bags say A, though their mean says B.
                0.6, 0.4, 0.6, 0.4, 0.0, 1.0,
                // A tie, which the mean decides for B.
                0.6, 0.4, 0.1, 0.9,
                0.9, 0.1,
            ],
        }
    }

    #[test]
    fn slides_are_decided_by_vote_and_ties_by_the_mean() -> Result<()> {
        let scores = example().scores()?;
        assert_eq!(example().votes(), [0, 1, 0]);
        assert_eq!(scores.slides.confusion, [[1, 0], [1, 1]]);
        assert_eq!(scores.slides.accuracy, 2.0 / 3.0);
        assert_eq!(scores.bags.confusion, [[2, 1], [2, 1]]);
        assert_eq!(scores.bags.accuracy, 0.5);
        // Of (positive, negative) pairs of slides: B's mean is 0.6 for s1, 0.65 for s2
        // and 0.1 for s3, so one pair is won and one is lost.
        assert_eq!(scores.slides.auc, Some(0.5));
        Ok(())
    }

    #[test]
    fn what_is_written_is_read_back() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("create", "", e))?;
        example().write(folder.path())?;
        assert_eq!(
            Classified::read(&folder.path().join("bag_classes.csv"))?,
            example()
        );
        let slides = Classified::read(&folder.path().join("classes.csv"))?;
        assert_eq!(slides.means(), example().means());
        let path = folder.path().join("bad.csv");
        for (text, problem) in [
            (
                "sample,class,A,B\ns,C,1,0\n",
                "line 2: class `C` has no column",
            ),
            (
                "sample,class,A,B\ns,A,1,2\n",
                "line 2: `2` is no probability of B",
            ),
            (
                "sample,class,A,B\ns,A,1,0\ns,B,1,0\n",
                "line 3: sample `s` has two classes",
            ),
            ("sample,A,B\ns,1,0\n", "has no column class"),
            ("sample,class,A\ns,A,1\n", "two classes or more"),
        ] {
            write_bytes(&path, text.as_bytes())?;
            let error = Classified::read(&path).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        Ok(())
    }
}
