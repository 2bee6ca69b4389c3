//! Tells tissues apart by their tiles, and trains a network without labels for that to start
//! from: how good generated tiles are, measured by what can be learned from them.

pub mod config;
mod data;
pub mod simclr;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::atomic::{create_dir_all, write_bytes};
use crate::formats::hash::{sha256_bytes, sha256_file};
use crate::formats::{Weights, read_weights};
use crate::metrics::summary::{mean, standard_deviation};
use crate::models::resnet::ResNet;
use crate::nn::{self, Pass, State};
use crate::ops;
use crate::optim::{AdamW, Optimizer};
use crate::random::Philox;
use crate::slides::augment::Augment;
use crate::train::classes::{ClassScores, Classified, Level};
use crate::train::config::{DataConfig, RunFile};
use crate::train::fit::{History, Plan, Task, checkpoint_path};
use crate::train::progress::Control;
use crate::train::run::{Part, claim, epoch_over, groups, index, json};
use crate::train::split::{self, Fold};
use crate::train::step::TrainingStep;
use config::ClassifierConfig;
use data::{Tiles, classes, normalised};

/// A mean over folds and its standard deviation (n - 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub mean: f64,
    /// Absent for one fold.
    pub deviation: Option<f64>,
}

/// Scores of tiles over the folds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverFolds {
    pub accuracy: Spread,
    pub balanced_accuracy: Spread,
    pub f1_micro: Spread,
    pub f1_macro: Spread,
    pub f1_weighted: Spread,
    /// Absent where a fold tests one class alone.
    pub auc: Option<Spread>,
}

/// A split's network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FoldOutcome {
    /// Tiles: training, validation, test.
    pub tiles: [usize; 3],
    pub history: History,
    /// Whether a patient of the tested tiles is in training too.
    pub same_patient: bool,
    pub scores: ClassScores,
}

/// All splits from one kind of start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// `random`, or `weights` where the network started from a file.
    pub from: String,
    pub folds: Vec<FoldOutcome>,
    pub over_folds: OverFolds,
    /// Tiles that were only tested: the mean probability of the splits' networks.
    pub test: Option<ClassScores>,
}

/// What a run leaves besides its files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub classes: Vec<String>,
    pub slides: usize,
    pub tiles: usize,
    pub starts: Vec<Start>,
    pub skipped: Vec<String>,
}

/// Runs `config` in the folder `run` on `device`; `resume` continues what is there.
///
/// # Errors
/// Input that cannot be used, each named; a folder that holds another run; a stop request,
/// after the state was saved.
pub fn train(
    config: &ClassifierConfig,
    run: &Path,
    resume: bool,
    device: &Device,
    control: Control,
) -> Result<Outcome> {
    config.validate()?;
    let weights = config.model.weights.as_deref();
    let weights =
        weights.map(|path| Ok::<_, Error>((read_weights(path)?, sha256_file(path)?, path)));
    let weights = weights.transpose()?;
    // Before the folder is claimed: a mistake found so far leaves none that is in the way.
    let known = config.data.read(false)?;
    classes(&known, config.data.layout, config.classes.as_deref())?;
    let _claim = claim(&config.to_toml()?, run, resume, device)?;
    let px = config.model.px;
    let mut tiles = Tiles::read(&config.data, px, &run.join("tiles.bin"), control)?;
    if let Some(path) = &config.split.patients {
        let of = crate::cohort::tiles::read_of_slides(path, "patient")?;
        for sample in &mut tiles.cohort.samples {
            sample.patient = of.get(&sample.slide).cloned().ok_or_else(|| {
                let problem = format!("has no patient of slide {}", sample.slide);
                Error::file(path, "", problem, "add a line for it")
            })?;
        }
    }
    let named = classes(&tiles.cohort, config.data.layout, config.classes.as_deref())?;
    let names: BTreeSet<&String> = named.iter().collect();
    let names: Vec<String> = names.into_iter().cloned().collect();
    if names.len() < 2 {
        return Err(Error::usage(
            format!("there is one class, {}", names.join("")),
            "give tiles of two classes or more",
        ));
    }
    let of_name = |name: &String| names.binary_search(name).unwrap_or(0);
    let truth: Vec<usize> = named.iter().map(of_name).collect();
    let test = match &config.test {
        None => None,
        Some(folder) => {
            let test = Tiles::read(folder, px, &run.join("test-tiles.bin"), control)?;
            let of = known_classes(&test, folder, config.classes.as_deref(), &names)?;
            Some((test, of))
        }
    };

    let training = Training {
        config,
        names: &names,
        tiles: &tiles,
        truth: &truth,
        run,
        device,
        control,
    };
    let folds = training.folds(&named)?;
    let scratch = weights.is_none() || (folds.len() > 1 && config.split.against_scratch);
    let mut starts = Vec::new();
    if let Some(weights) = &weights {
        starts.push(training.start("weights", Some(weights), &folds, test.as_ref())?);
    }
    if scratch {
        starts.push(training.start("random", None, &folds, test.as_ref())?);
    }
    let _ = std::fs::remove_file(checkpoint_path(run));
    let slides: BTreeSet<&str> = (tiles.cohort.samples.iter())
        .map(|s| s.slide.as_str())
        .collect();
    let mut skipped = tiles.skipped();
    if let Some((test, _)) = &test {
        skipped.extend(test.skipped());
    }
    let outcome = Outcome {
        slides: slides.len(),
        tiles: tiles.items.len(),
        starts,
        skipped,
        classes: names,
    };
    write_bytes(run.join("summary.json"), json(&outcome)?.as_bytes())?;
    Ok(outcome)
}

/// A file of weights, its hash and its path.
type Given<'a> = (Weights, String, &'a Path);

struct Training<'a> {
    config: &'a ClassifierConfig,
    names: &'a [String],
    tiles: &'a Tiles,
    /// Class of each sample.
    truth: &'a [usize],
    run: &'a Path,
    device: &'a Device,
    control: Control<'a>,
}

impl Training<'_> {
    /// Splits of samples.
    fn folds(&self, classes: &[String]) -> Result<Vec<Fold>> {
        let (config, seed) = (&self.config.split, self.config.seed);
        let all: Vec<usize> = (0..classes.len()).collect();
        let of = groups(&self.tiles.cohort, config.by, &all);
        if config.folds == 0 {
            let fold = split::stratified(&of, classes, config.shares, seed)?;
            self.has_every_class(&fold)?;
            return Ok(vec![fold]);
        }
        let outer = split::stratified_folds(&of, classes, config.folds, seed)?;
        let fold = |(known, test): (Vec<usize>, Vec<usize>)| -> Result<Fold> {
            let part = |names: &[String]| -> Vec<String> {
                known.iter().map(|&s| names[s].clone()).collect()
            };
            let (of, classes) = (part(&of), part(classes));
            // A tenth validates, or as much as leaves every class in both parts.
            let mut patients: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
            for (class, group) in classes.iter().zip(&of) {
                patients.entry(class).or_default().insert(group);
            }
            let fewest = patients.values().map(BTreeSet::len).min().unwrap_or(0);
            if fewest < 2 {
                return Err(Error::usage(
                    "a fold leaves one patient of a class to train and to validate on",
                    "use more folds, or set split.by = \"section\" or \"sample\"",
                ));
            }
            let inner = split::stratified_folds(&of, &classes, fewest.min(10), seed)?;
            let at = |part: &[usize]| part.iter().map(|&i| known[i]).collect::<Vec<_>>();
            let (train, validation) = inner
                .first()
                .ok_or_else(|| Error::op("classifier", "internal: a split without parts"))?;
            let fold = Fold {
                train: at(train),
                validation: at(validation),
                test,
            };
            self.has_every_class(&fold)?;
            Ok(fold)
        };
        outer.into_iter().map(fold).collect()
    }

    /// A class that is not trained on cannot be told.
    fn has_every_class(&self, fold: &Fold) -> Result<()> {
        let seen: BTreeSet<usize> = fold.train.iter().map(|&s| self.truth[s]).collect();
        match (0..self.names.len()).find(|c| !seen.contains(c)) {
            None => Ok(()),
            Some(class) => Err(Error::usage(
                format!("no training sample is of class {}", self.names[class]),
                "give more patients of it, or set split.by = \"section\" or \"sample\"",
            )),
        }
    }

    fn start(
        &self,
        from: &str,
        weights: Option<&Given>,
        folds: &[Fold],
        test: Option<&(Tiles, Vec<usize>)>,
    ) -> Result<Start> {
        let folder = self.run.join(from);
        create_dir_all(&folder)?;
        let width = self.names.len();
        let mut outcomes = Vec::with_capacity(folds.len());
        let mut all: Option<Classified> = None;
        let mut of_test = vec![0.0; test.map_or(0, |(t, _)| t.items.len() * width)];
        for (number, fold) in folds.iter().enumerate() {
            let name = match folds.len() {
                1 => format!("{from} start"),
                n => format!("{from} start, fold {}/{n}", number + 1),
            };
            let file = network_file(&folder, number, folds.len());
            let (model, history) = self.network(&name, &file, weights, fold)?;
            let items = self.tiles.of_samples(&fold.test);
            let probabilities = self.probabilities(&model, self.tiles, &items)?;
            let classified = classified(self.names, self.tiles, &items, self.truth, probabilities);
            let of = |part: &[usize]| -> BTreeSet<&str> {
                let patient = |&s: &usize| self.tiles.cohort.samples[s].patient.as_str();
                part.iter().map(patient).collect()
            };
            outcomes.push(FoldOutcome {
                tiles: [&fold.train, &fold.validation, &fold.test]
                    .map(|part| self.tiles.of_samples(part).len()),
                history,
                same_patient: !of(&fold.test).is_disjoint(&of(&fold.train)),
                scores: classified.scores()?,
            });
            match &mut all {
                None => all = Some(classified),
                Some(all) => join(all, classified),
            }
            if let Some((test, _)) = test {
                let items: Vec<usize> = (0..test.items.len()).collect();
                let p = self.probabilities(&model, test, &items)?;
                let share = 1.0 / folds.len() as f64;
                (of_test.iter_mut().zip(p)).for_each(|(sum, p)| *sum += share * p);
            }
        }
        if let Some(all) = &all {
            all.write(&folder)?;
        }
        let test = match test {
            None => None,
            Some((test, truth)) => {
                let items: Vec<usize> = (0..test.items.len()).collect();
                let found = classified(self.names, test, &items, truth, of_test);
                let folder = folder.join("test");
                create_dir_all(&folder)?;
                found.write(&folder)?;
                Some(found.scores()?)
            }
        };
        Ok(Start {
            from: from.to_owned(),
            over_folds: over_folds(&outcomes)?,
            folds: outcomes,
            test,
        })
    }

    /// Trains the network of a split, or takes it from its file.
    fn network(
        &self,
        name: &str,
        file: &Path,
        weights: Option<&Given>,
        fold: &Fold,
    ) -> Result<(ResNet, History)> {
        let (config, seed) = (&self.config.training, self.config.seed);
        let shape = &self.config.model;
        let mut random = Philox::fork(seed, name);
        let depth = shape.network.depth();
        let model = ResNet::of_width(shape.width, depth, self.names.len(), &mut random)?;
        let mut fingerprint = self.config.to_toml()? + &self.tiles.fingerprint();
        fingerprint += &format!("{:?} {:?} {fold:?} {name}", self.names, self.truth);
        if let Some((weights, sha256, path)) = weights {
            load_trunk(&model, weights, path)?;
            fingerprint += sha256;
        }
        model.to_device(self.device)?;
        let fingerprint = sha256_bytes(fingerprint.as_bytes());
        let source = match weights {
            Some((_, _, path)) => format!("started from {}", path.display()),
            None => "started from random weights".to_owned(),
        };
        let part = Part {
            file,
            name,
            fingerprint: &fingerprint,
            genes: &[],
            features: &source,
            seen: None,
            control: self.control,
        };
        let train = self.tiles.of_samples(&fold.train);
        let validation = self.tiles.of_samples(&fold.validation);
        let history = part.ready(&model, &mut || {
            let rule = AdamW {
                lr: config.learning_rate,
                weight_decay: config.weight_decay,
                ..AdamW::default()
            };
            let loss = |inputs: &[crate::tensor::Tensor], pass: &Pass| {
                ops::cross_entropy(&model.forward(&inputs[0], pass)?.logits, &inputs[1])
            };
            let task = Task {
                name,
                fingerprint: &fingerprint,
                step: TrainingStep::new(&model, Optimizer::new(rule, model.parameters())?, &loss)?,
                plan: Plan {
                    epochs: config.epochs,
                    patience: config.patience,
                },
                schedule: None,
                checkpoint: &checkpoint_path(self.run),
                checkpoint_every: Duration::from_secs(self.config.checkpoint_seconds),
                steps: None,
            };
            task.run(
                &mut |epoch, steps| {
                    let stage = format!("{name} epoch {epoch}");
                    let mut number = 0;
                    epoch_over(&train, config.batch, seed, &stage, &mut |items, random| {
                        number += 1;
                        // One tile has no batch statistics.
                        if items.len() < 2 {
                            return Ok(());
                        }
                        let change = Philox::fork(seed, &format!("{stage} change {number}"));
                        let pixels = self.tiles.pixels(items, self.config.augment, change)?;
                        let x = normalised(pixels, items.len(), shape.px)?;
                        let labels = index(self.labels(items))?;
                        steps.step(&[x, labels], random, items.len())
                    })
                },
                &mut || Ok(self.validation(&model, &validation)?.into()),
                self.control,
            )
        })?;
        Ok((model, history))
    }

    fn labels<'s>(&'s self, items: &'s [usize]) -> impl Iterator<Item = usize> + 's {
        items.iter().map(|&i| self.truth[self.tiles.items[i].1])
    }

    /// The mean cross entropy.
    fn validation(&self, model: &ResNet, items: &[usize]) -> Result<f64> {
        let width = self.names.len();
        let probabilities = self.probabilities(model, self.tiles, items)?;
        let rows = probabilities.chunks(width.max(1)).zip(self.labels(items));
        // As much as f32 can say of a probability next to 0.
        let total: f64 = rows.map(|(p, label)| -p[label].max(1e-38).ln()).sum();
        Ok(total / items.len().max(1) as f64)
    }

    fn probabilities(&self, model: &ResNet, tiles: &Tiles, items: &[usize]) -> Result<Vec<f64>> {
        probabilities(self.config, model, tiles, items, self.device)
    }
}

/// What `eosin evaluate` says of other tiles.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluated {
    pub folder: String,
    /// Networks whose mean probability is scored.
    pub networks: usize,
    pub scores: ClassScores,
    pub skipped: Vec<String>,
}

/// Scores a finished run on other tiles, by the networks of its first kind of start, and writes
/// the tables to `out`. Of `data` layout, path and sections count; a folder that is laid out as
/// that of the training is read as that was.
///
/// # Errors
/// A run that is not finished; tiles of a class that it does not know.
pub fn evaluate(
    run: &Path,
    data: &DataConfig,
    out: &Path,
    device: &Device,
    control: Control,
) -> Result<Evaluated> {
    let config = ClassifierConfig::read(&run.join("config.toml"))?;
    let path = run.join("summary.json");
    let unfinished = || {
        let remedy = "give a finished run; continue an unfinished one with --resume";
        Error::file(&path, "", "is missing or not readable", remedy)
    };
    let text = std::fs::read_to_string(&path).map_err(|_| unfinished())?;
    let outcome: Outcome = serde_json::from_str(&text).map_err(|_| unfinished())?;
    let start = outcome.starts.first().ok_or_else(unfinished)?;
    let data = &match data.layout == config.data.layout {
        true => DataConfig {
            path: data.path.clone(),
            sections: data.sections.clone(),
            ..config.data.clone()
        },
        false => data.clone(),
    };
    create_dir_all(out)?;
    let store = out.join("tiles.bin");
    let tiles = Tiles::read(data, config.model.px, &store, control)?;
    let table = config.classes.as_deref();
    let truth = known_classes(&tiles, data, table, &outcome.classes)?;
    let items: Vec<usize> = (0..tiles.items.len()).collect();
    let width = outcome.classes.len();
    let mut mean = vec![0.0; items.len() * width];
    for number in 0..start.folds.len() {
        let file = network_file(&run.join(&start.from), number, start.folds.len());
        let random = &mut Philox::new(0);
        let (shape, depth) = (&config.model, config.model.network.depth());
        let model = ResNet::of_width(shape.width, depth, width, random)?;
        nn::load(&model, &read_weights(&file)?, &file)?;
        model.to_device(device)?;
        let p = probabilities(&config, &model, &tiles, &items, device)?;
        let share = 1.0 / start.folds.len() as f64;
        mean.iter_mut().zip(p).for_each(|(m, p)| *m += share * p);
    }
    let found = classified(&outcome.classes, &tiles, &items, &truth, mean);
    found.write(out)?;
    let _ = std::fs::remove_file(store);
    Ok(Evaluated {
        folder: out.display().to_string(),
        networks: start.folds.len(),
        scores: found.scores()?,
        skipped: tiles.skipped(),
    })
}

/// Where a start's folder has the network of a fold.
fn network_file(folder: &Path, number: usize, folds: usize) -> PathBuf {
    match folds {
        1 => folder.join("model.safetensors"),
        _ => folder.join(format!("model{number}.safetensors")),
    }
}

/// The class of each sample among `names`.
fn known_classes(
    tiles: &Tiles,
    data: &DataConfig,
    table: Option<&Path>,
    names: &[String],
) -> Result<Vec<usize>> {
    let of = classes(&tiles.cohort, data.layout, table)?;
    let place = |class: &String| {
        names.iter().position(|n| n == class).ok_or_else(|| {
            Error::usage(
                format!("the tested tiles have class {class}, which the training has not"),
                format!("give tiles of {}", names.join(", ")),
            )
        })
    };
    of.iter().map(place).collect()
}

/// (items, classes)
fn probabilities(
    config: &ClassifierConfig,
    model: &ResNet,
    tiles: &Tiles,
    items: &[usize],
    device: &Device,
) -> Result<Vec<f64>> {
    let px = config.model.px;
    let mut all = Vec::new();
    for part in items.chunks(config.training.batch) {
        let pixels = tiles.pixels(part, Augment::default(), Philox::new(0))?;
        let x = normalised(pixels, part.len(), px)?.to(device)?;
        let logits = model.forward(&x, &Pass::eval())?.logits;
        all.extend(ops::softmax(&logits, -1)?.to_f64_vec()?);
    }
    Ok(all)
}

/// Sets all but the head, which the file need not have.
fn load_trunk(model: &ResNet, weights: &Weights, path: &Path) -> Result<()> {
    let mut all = Weights::new();
    for (key, array) in weights.iter() {
        if !key.starts_with("fc.") {
            all.insert(key, array.clone())?;
        }
    }
    for (key, array) in nn::state_weights(&model.fc)?.iter() {
        all.insert(format!("fc.{key}"), array.clone())?;
    }
    nn::load(model, &all, path)
}

/// Tiles as bags of slides.
fn classified(
    names: &[String],
    tiles: &Tiles,
    items: &[usize],
    truth: &[usize],
    probabilities: Vec<f64>,
) -> Classified {
    let mut out = Classified {
        names: names.to_vec(),
        samples: Vec::new(),
        truth: Vec::new(),
        bags: Vec::new(),
        probabilities,
    };
    let mut place: BTreeMap<(&str, usize), usize> = BTreeMap::new();
    for &i in items {
        let sample = tiles.items[i].1;
        let slide = tiles.cohort.samples[sample].slide.as_str();
        let class = truth[sample];
        let at = *place.entry((slide, class)).or_insert_with(|| {
            out.samples.push(slide.to_owned());
            out.truth.push(class);
            out.samples.len() - 1
        });
        out.bags.push(at);
    }
    out
}

/// Adds the samples of another fold. A slide whose tiles are in several folds stands there once
/// for each.
fn join(all: &mut Classified, more: Classified) {
    let before = all.samples.len();
    all.samples.extend(more.samples);
    all.truth.extend(more.truth);
    all.bags.extend(more.bags.into_iter().map(|b| b + before));
    all.probabilities.extend(more.probabilities);
}

fn over_folds(folds: &[FoldOutcome]) -> Result<OverFolds> {
    let spread = |of: &dyn Fn(&Level) -> f64| -> Result<Spread> {
        let values: Vec<f64> = folds.iter().map(|f| of(&f.scores.bags)).collect();
        Ok(Spread {
            mean: mean(&values)?,
            deviation: Some(standard_deviation(&values, 1)?).filter(|d| !d.is_nan()),
        })
    };
    let known = folds.iter().all(|f| f.scores.bags.auc.is_some());
    Ok(OverFolds {
        accuracy: spread(&|l| l.accuracy)?,
        balanced_accuracy: spread(&|l| l.balanced_accuracy)?,
        f1_micro: spread(&|l| l.f1_micro)?,
        f1_macro: spread(&|l| l.f1_macro)?,
        f1_weighted: spread(&|l| l.f1_weighted)?,
        auc: match known {
            true => Some(spread(&|l| l.auc.unwrap_or(f64::NAN))?),
            false => None,
        },
    })
}
