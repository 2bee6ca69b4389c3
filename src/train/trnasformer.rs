//! Trains tRNAsformer or HE2RNA on bags of a cohort's tiles and predicts what was
//! held out.
//!
//! Each slide has a number of bags (`cohort/bags.rs`), all with the slide's
//! expression and class. For each outer fold there is one network per inner fold,
//! which stops on its validation loss and keeps its best weights; a held-out slide's
//! prediction is the mean over its bags and the fold's networks. Each training step
//! draws one number k of tiles, a function of seed and step; validation and
//! prediction are the mean over all k, as published.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cohort::bags::draw;
use crate::cohort::tiles::read_of_slides;
use crate::cohort::{Cohort, Skipped};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::expression::{FittedTransforms, Table};
use crate::formats::atomic::{create_dir_all, write_bytes};
use crate::formats::hash::{sha256_bytes, sha256_file};
use crate::formats::{npy, read_weights};
use crate::models::trnasformer::bag::{self, FEATURES, TILES};
use crate::models::trnasformer::{Config, He2Rna, KS, Targets, Trnasformer};
use crate::nn::{self, Pass, State};
use crate::ops;
use crate::optim::{AdamW, Goal, Optimizer, ReduceOnPlateau};
use crate::random::Philox;
use crate::tensor::Tensor;
use crate::train::classes::Classified;
use crate::train::config::{ClusterBy, Network, NetworkConfig, RunFile, TrnasformerConfig};
use crate::train::evaluate::write_rows;
use crate::train::features::{
    Encoder, EncoderSource, Features, extract, published_encoder, random_encoder, stored_encoder,
};
use crate::train::fit::{History, Plan, Task, checkpoint_path};
use crate::train::progress::Control;
use crate::train::run::{
    Fold, HeldOut, OfSlide, Part, Predicted, claim, common_genes, epoch_over, expression,
    fold_records, folds, held_out, index, json, on_scale, places, reserved, targets,
};
use crate::train::seen::Seen;
use crate::train::step::TrainingStep;

/// What an outer fold gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FoldRecord {
    /// Ids of the held-out samples.
    pub test: Vec<String>,
    /// Whether a patient of the held-out samples is in training too.
    pub same_patient: bool,
    /// Patients whose samples trained or validated the fold's networks.
    pub patients: Vec<String>,
    pub genes: Vec<String>,
    pub missing_genes: Vec<String>,
    pub transforms: FittedTransforms,
    /// Where the networks' weights began; nothing for those that are drawn.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub start: String,
    /// Per inner network.
    pub networks: Vec<History>,
}

/// What a run leaves.
pub struct Outcome {
    pub encoder: EncoderSource,
    pub folds: Vec<FoldRecord>,
    pub held_out: HeldOut,
    /// Of the samples while they were held out.
    pub classes: Option<Classified>,
    pub skipped: Vec<Skipped>,
}

/// Runs `config` in the folder `run` on `device`; `resume` continues what is there.
///
/// # Errors
/// Input that cannot be used, each named; a folder that holds another run, or parts
/// of this one from another kind of device; a stop request, after the state was
/// saved.
pub fn train(
    config: &TrnasformerConfig,
    run: &Path,
    resume: bool,
    device: &Device,
    control: Control,
) -> Result<Outcome> {
    config.validate()?;
    if config.features.encoder.features() != FEATURES {
        return Err(Error::usage(
            format!(
                "{} makes {} features of a tile, and a bag holds {FEATURES}",
                config.features.encoder.title(),
                config.features.encoder.features()
            ),
            "set features.encoder = \"densenet121\"",
        ));
    }
    let mut cohort = config.data.read(config.model.genes)?;
    let common = config.common();
    let reserved = reserved(&common, &cohort);
    let (_, calibration) = folds(&common, &cohort, &reserved)?;
    classes(config, &cohort)?;
    let published = config.features.weights.as_deref();
    let published = published.map(|path| published_encoder(path, &config.features, device));
    let published = published.transpose()?;
    // Only now: a mistake found so far leaves no folder that is in the way
    // when it is mended.
    let _claim = claim(&config.to_toml()?, run, resume, device)?;
    let encoder = match published {
        Some(encoder) => encoder,
        None => random_encoder(
            config.seed,
            &cohort,
            &calibration,
            &config.features,
            &run.join("encoder.safetensors"),
            device,
            control,
        )?,
    };
    if encoder.source.random {
        let note = format!("features: {}", encoder.source.description);
        control.progress.note(&note);
    }
    let folder = run.join("features");
    let features = extract(&mut cohort, &encoder, &config.features, &folder, control)?;
    let seen = Seen::of(&cohort, config.features.tile_px, config.features.stain);
    seen.begin(run, control)?;
    let (folds, _) = folds(&common, &cohort, &reserved)?;
    learn(
        config,
        run,
        (&cohort, &features),
        (encoder.source, Some(&seen)),
        &folds,
        device,
        control,
    )
}

/// As [`train`] with features of the cohort's tiles that are there already, which
/// `source` says where from. `config.features` is not used.
///
/// # Errors
/// As [`train`]; features of another number of tiles, or not 1,024 of each.
pub fn train_on_features(
    config: &TrnasformerConfig,
    run: &Path,
    resume: bool,
    (cohort, features): (&Cohort, &Features),
    source: EncoderSource,
    device: &Device,
    control: Control,
) -> Result<Outcome> {
    config.validate()?;
    if features.width != FEATURES || features.values.len() != cohort.tiles.len() * FEATURES {
        return Err(Error::usage(
            format!(
                "{} features are not {FEATURES} of each of {} tiles",
                features.values.len(),
                cohort.tiles.len()
            ),
            "give features of every tile of the cohort",
        ));
    }
    let (folds, _) = folds(&config.common(), cohort, &BTreeSet::new())?;
    let _claim = claim(&config.to_toml()?, run, resume, device)?;
    learn(
        config,
        run,
        (cohort, features),
        (source, None),
        &folds,
        device,
        control,
    )
}

/// Names of the classes, ascending, and each sample's.
struct Classes {
    names: Vec<String>,
    of: Vec<usize>,
}

fn classes(config: &TrnasformerConfig, cohort: &Cohort) -> Result<Option<Classes>> {
    let Some(path) = &config.model.classes else {
        return Ok(None);
    };
    if config.model.network == Network::He2rna {
        return Err(Error::usage(
            "model.classes is given, and HE2RNA has no class head",
            "leave it out, or use `train trnasformer`",
        ));
    }
    let by_slide = read_of_slides(path, "class")?;
    let class = |slide: &String| {
        by_slide.get(slide).ok_or_else(|| {
            let problem = format!("does not say which class slide {slide} is of");
            Error::file(path, "", problem, "add a line for it")
        })
    };
    let of = cohort.samples.iter().map(|s| class(&s.slide));
    let of = of.collect::<Result<Vec<_>>>()?;
    let names: BTreeSet<&String> = of.iter().copied().collect();
    let names: Vec<String> = names.into_iter().cloned().collect();
    let place = |name: &String| names.binary_search(name).unwrap_or(0);
    Ok(Some(Classes {
        of: of.into_iter().map(place).collect(),
        names,
    }))
}

/// Bags of each sample: 49 tiles of the cohort each.
type Bags = Vec<Vec<Vec<usize>>>;

fn bags(
    config: &TrnasformerConfig,
    cohort: &Cohort,
    features: &Features,
    control: Control,
) -> Result<Bags> {
    let mut all = Vec::with_capacity(cohort.samples.len());
    control
        .progress
        .begin("clustering tiles", cohort.samples.len());
    let (mut short, mut reseeded) = (Vec::new(), 0);
    for (i, sample) in cohort.samples.iter().enumerate() {
        control.check("run the same command with --resume to go on")?;
        let (points, columns) = match config.bags.by {
            ClusterBy::Features => (features.rows(&sample.tiles)?.to_f32_vec()?, features.width),
            ClusterBy::Positions => (positions(cohort, &sample.tiles)?, 2),
        };
        let random = Philox::fork(config.seed, &format!("bags of {}", sample.id));
        let count = config.bags.per_slide;
        let found = draw(&points, columns, TILES, count, random).map_err(|e| match e {
            Error::Usage { problem, remedy } => {
                Error::usage(format!("sample {}: {problem}", sample.id), remedy)
            }
            other => other,
        })?;
        if found.short > 0 {
            short.push(format!("{} ({})", sample.id, TILES - found.short));
        }
        reseeded += found.reseeded;
        let tile = |place: Vec<usize>| place.into_iter().map(|p| sample.tiles[p]).collect();
        all.push(found.bags.into_iter().map(tile).collect());
        control.progress.at(i + 1, &sample.id);
    }
    control.progress.end();
    if let Some(first) = short.first() {
        control.progress.note(&format!(
            "{} samples have fewer than {TILES} different tiles, first {first}: their bags hold some \
             tiles more than once",
            short.len()
        ));
    }
    if reseeded > 0 {
        let note = format!("{reseeded} clusters lost all their tiles and were moved");
        control.progress.note(&note);
    }
    Ok(all)
}

/// A line of `bags.csv`.
#[derive(Serialize)]
struct BagLine<'a> {
    bag: String,
    slide: &'a str,
    patient: &'a str,
    label: &'a str,
}

/// Writes `bags.npy`, the bags of all samples as the images that the networks take,
/// and `bags.csv`, a line for each.
fn write_bags(
    run: &Path,
    (cohort, features): (&Cohort, &Features),
    classes: Option<&Classes>,
    bags: &Bags,
) -> Result<()> {
    let all: Vec<&Vec<usize>> = bags.iter().flatten().collect();
    let image = |tiles: &&Vec<usize>| {
        let rows = ops::reshape(&features.rows(tiles)?, &[1, TILES, FEATURES])?;
        bag::image(&rows)?.to_f32_vec()
    };
    let shape = [all.len(), 1, bag::PIXELS, bag::PIXELS];
    npy::write_parts(run.join("bags.npy"), &shape, all.iter().map(image))?;
    let lines = bags.iter().enumerate().flat_map(|(i, bags)| {
        let sample = &cohort.samples[i];
        (0..bags.len()).map(move |number| BagLine {
            bag: format!("{}_{number}", sample.id),
            slide: &sample.slide,
            patient: &sample.patient,
            label: classes.map_or("", |c| &c.names[c.of[i]]),
        })
    });
    write_rows(&run.join("bags.csv"), lines)
}

fn positions(cohort: &Cohort, tiles: &[usize]) -> Result<Vec<f32>> {
    let mut points = Vec::with_capacity(2 * tiles.len());
    for &t in tiles {
        let tile = &cohort.tiles[t];
        let Some((x, y)) = tile.position else {
            return Err(Error::file(
                &cohort.images[tile.image].path,
                "",
                "does not say where on its slide the tile lies",
                "name tiles like slide_x4096_y512.png, or set bags.by = \"features\"",
            ));
        };
        points.extend([x as f32, y as f32]);
    }
    Ok(points)
}

/// # Errors
/// A feature that is no number, with its tile.
fn finite(cohort: &Cohort, features: &Features) -> Result<()> {
    let Some(at) = features.values.iter().position(|v| !v.is_finite()) else {
        return Ok(());
    };
    let tile = &cohort.tiles[at / features.width];
    Err(Error::file(
        &cohort.images[tile.image].path,
        "",
        format!(
            "feature {} of its tile is {}",
            at % features.width,
            features.values[at]
        ),
        "remove the tile or its slide's file of features",
    ))
}

/// Trains and predicts every fold.
fn learn(
    config: &TrnasformerConfig,
    run: &Path,
    (cohort, features): (&Cohort, &Features),
    (source, seen): (EncoderSource, Option<&Seen>),
    folds: &[Fold],
    device: &Device,
    control: Control,
) -> Result<Outcome> {
    let table = match config.model.genes {
        true => expression(cohort, &config.expression, config.seed)?,
        // Samples without genes, so that the rest need not ask.
        false => Table {
            samples: cohort.samples.iter().map(|s| s.id.clone()).collect(),
            genes: Vec::new(),
            values: Vec::new(),
        },
    };
    finite(cohort, features)?;
    let classes = classes(config, cohort)?;
    let bags = bags(config, cohort, features, control)?;
    if config.bags.write {
        write_bags(run, (cohort, features), classes.as_ref(), &bags)?;
    }
    let mut results = Vec::with_capacity(folds.len());
    for (number, fold) in folds.iter().enumerate() {
        let part = FoldRun {
            config,
            cohort,
            table: &table,
            features,
            classes: classes.as_ref(),
            bags: &bags,
            encoder: &source,
            seen,
            fold,
            name: format!("fold {}/{}", number + 1, folds.len()),
            folder: run.join(format!("fold{number}")),
            checkpoint: checkpoint_path(run),
            device,
            control,
        };
        results.push(part.run()?);
    }
    // The last finished part made it useless.
    let _ = std::fs::remove_file(checkpoint_path(run));
    let predicted = results.iter().map(|(record, predictions)| Predicted {
        transforms: &record.transforms,
        same_patient: record.same_patient,
        values: &predictions.genes,
    });
    let held_out = held_out(cohort, &table, folds, &predicted.collect::<Vec<_>>())?;
    let tested = || folds.iter().flat_map(|f| f.test.iter().copied());
    let classes = classes.map(|classes| Classified {
        samples: tested().map(|s| cohort.samples[s].id.clone()).collect(),
        truth: tested().map(|s| classes.of[s]).collect(),
        bags: (tested().enumerate())
            .flat_map(|(place, s)| std::iter::repeat_n(place, bags[s].len()))
            .collect(),
        probabilities: results
            .iter()
            .flat_map(|(_, p)| p.classes.clone())
            .collect(),
        names: classes.names,
    });
    Ok(Outcome {
        encoder: source,
        folds: results.into_iter().map(|(record, _)| record).collect(),
        held_out,
        classes,
        skipped: cohort.skipped.clone(),
    })
}

/// A fold's predictions of its held-out samples.
struct Predictions {
    /// (samples, genes)
    genes: Vec<f32>,
    /// (bags of all samples, classes); empty without classes.
    classes: Vec<f64>,
}

struct FoldRun<'a> {
    config: &'a TrnasformerConfig,
    cohort: &'a Cohort,
    table: &'a Table,
    features: &'a Features,
    classes: Option<&'a Classes>,
    bags: &'a Bags,
    encoder: &'a EncoderSource,
    seen: Option<&'a Seen>,
    fold: &'a Fold,
    name: String,
    folder: PathBuf,
    checkpoint: PathBuf,
    device: &'a Device,
    control: Control<'a>,
}

/// A bag: a sample, and which of its bags.
type Bag = (usize, usize);

/// What the networks of a fold learn from. It is on the device once; a batch names
/// its rows.
struct Data<'a> {
    /// (tiles of the fold, 1024), in the dtype of the computation.
    features: Tensor,
    /// Row of each tile of the cohort.
    row: BTreeMap<usize, usize>,
    /// (samples, genes)
    targets: Tensor,
    classes: Option<&'a Classes>,
    bags: &'a Bags,
}

impl Data<'_> {
    /// Rows of the bags' tiles (B 49), their samples (B) and, with classes, their
    /// labels (B), all i64 on the CPU.
    fn inputs(&self, bags: &[Bag]) -> Result<Vec<Tensor>> {
        let tiles = bags.iter().flat_map(|&(s, bag)| &self.bags[s][bag]);
        let mut inputs = vec![
            index(tiles.map(|t| self.row[t]))?,
            index(bags.iter().map(|&(s, _)| s))?,
        ];
        if let Some(classes) = self.classes {
            inputs.push(index(bags.iter().map(|&(s, _)| classes.of[s]))?);
        }
        Ok(inputs)
    }

    fn features(&self, rows: &Tensor) -> Result<Tensor> {
        let rows = ops::index_select(&self.features, 0, rows)?;
        ops::reshape(&rows, &[rows.shape()[0] / TILES, TILES, FEATURES])
    }
}

/// Either network.
enum Model {
    Trnasformer(Trnasformer),
    He2Rna(He2Rna),
}

impl Model {
    fn state(&self) -> &dyn State {
        match self {
            Self::Trnasformer(m) => m,
            Self::He2Rna(m) => m,
        }
    }

    /// The loss of what [`Data::inputs`] names, from `k` tiles or as in evaluation.
    fn loss(
        &self,
        data: &Data,
        inputs: &[Tensor],
        k: Option<usize>,
        pass: &Pass,
    ) -> Result<Tensor> {
        let x = data.features(&inputs[0])?;
        let genes = || ops::index_select(&data.targets, 0, &inputs[1]);
        match self {
            Self::Trnasformer(m) => {
                let genes = m.config().genes.map(|_| genes()).transpose()?;
                let targets = Targets {
                    genes: genes.as_ref(),
                    labels: inputs.get(2),
                };
                m.loss(&x, &targets, k, pass)
            }
            Self::He2Rna(m) => m.loss(&x, &genes()?, k, pass),
        }
    }

    /// Expression (B, G), where that is learned, and of tRNAsformer the classes'
    /// probabilities.
    fn predict(&self, x: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        match self {
            Self::Trnasformer(m) => {
                let tokens = m.tokens(x, &Pass::eval())?;
                let logits = m.classify(&tokens, &Pass::eval())?;
                let genes = m.config().genes.map(|_| m.genes(&tokens)).transpose()?;
                Ok((genes, Some(ops::softmax(&logits, -1)?)))
            }
            Self::He2Rna(m) => Ok((Some(m.genes(x)?), None)),
        }
    }
}

impl Model {
    /// A network as the run's file says, of a width that its weights have.
    fn new(
        config: &NetworkConfig,
        genes: Option<usize>,
        classes: usize,
        random: &mut Philox,
    ) -> Result<Self> {
        Ok(match config.network {
            Network::Trnasformer => {
                let shape = Config {
                    width: config.width,
                    depth: config.depth,
                    heads: config.heads,
                    hidden: 4 * config.width,
                    genes,
                    classes,
                    positions: config.positions,
                };
                let mut model = Trnasformer::new(shape, random)?;
                model.dropout = config.dropout;
                Self::Trnasformer(model)
            }
            Network::He2rna => {
                let mut widths = vec![FEATURES];
                widths.extend(&config.hidden);
                widths.push(genes.unwrap_or(0));
                let mut model = He2Rna::new(&widths, random)?;
                model.dropout = config.dropout;
                Self::He2Rna(model)
            }
        })
    }
}

/// The networks of a finished run, as one.
pub struct Ensemble {
    folds: Vec<EnsembleFold>,
    patients: BTreeSet<String>,
    pub encoder: Encoder,
    pub config: TrnasformerConfig,
    /// Names of the classes that it tells apart; none if it learned expression alone.
    pub classes: Vec<String>,
    /// Of which tiles it learned, if the run says.
    pub seen: Option<Seen>,
    device: Device,
}

struct EnsembleFold {
    transforms: FittedTransforms,
    networks: Vec<Model>,
}

impl Ensemble {
    /// Reads the folder of a finished run, to predict on `device`.
    ///
    /// # Errors
    /// A file that is missing (the run is not finished) or broken.
    pub fn read(run: &Path, device: &Device) -> Result<Self> {
        let config = TrnasformerConfig::read(&run.join("config.toml"))?;
        let classes = match &config.model.classes {
            // As the training wrote them; the table that it read may be gone.
            Some(_) => Classified::read(&run.join("bag_classes.csv"))?.names,
            None => Vec::new(),
        };
        let encoder = match &config.features.weights {
            Some(path) => published_encoder(path, &config.features, device)?,
            None => stored_encoder(&run.join("encoder.safetensors"), &config.features, device)?,
        };
        let mut folds = Vec::new();
        let mut patients = BTreeSet::new();
        for (folder, record) in fold_records::<FoldRecord>(run)? {
            patients.extend(record.patients);
            let mut networks = Vec::with_capacity(record.networks.len());
            for number in 0..record.networks.len() {
                let path = folder.join(format!("model{number}.safetensors"));
                let weights = read_weights(&path)?;
                let head = weights.get("head.weight").and_then(|w| w.shape.first());
                let genes = config.model.genes.then_some(record.genes.len());
                let classes = head.copied().unwrap_or(1);
                let model = Model::new(&config.model, genes, classes, &mut Philox::new(0))?;
                nn::load(model.state(), &weights, &path)?;
                model.state().to_device(device)?;
                networks.push(model);
            }
            folds.push(EnsembleFold {
                transforms: record.transforms,
                networks,
            });
        }
        Ok(Self {
            folds,
            patients,
            encoder,
            config,
            classes,
            seen: Seen::read(run)?,
            device: device.clone(),
        })
    }

    /// Genes that every fold predicts, in the order of the first.
    pub fn genes(&self) -> Vec<String> {
        common_genes(self.folds.iter().map(|f| &f.transforms))
    }

    /// Whether a patient of `cohort` is one that a network was trained on.
    pub fn trained_on(&self, cohort: &Cohort) -> bool {
        let mut samples = cohort.samples.iter();
        samples.any(|s| self.patients.contains(&s.patient))
    }

    /// Measured expression on the scale of the predictions, averaged over the folds'
    /// transforms: (samples, genes).
    ///
    /// # Errors
    /// A gene that the table lacks, by name.
    pub fn on_scale(&self, table: &Table) -> Result<Vec<f32>> {
        on_scale(self.folds.iter().map(|f| &f.transforms), table)
    }

    /// All samples of a cohort, from bags that are drawn as in training: expression
    /// (samples, genes), the mean over a sample's bags and all networks; and if it tells
    /// classes apart, those of the bags, whose true ones are left empty.
    ///
    /// # Errors
    /// A feature that is no number, a sample without tiles, a request to stop.
    pub fn predict(
        &self,
        cohort: &Cohort,
        features: &Features,
        control: Control,
    ) -> Result<(Vec<f32>, Option<Classified>)> {
        finite(cohort, features)?;
        let bags = bags(&self.config, cohort, features, control)?;
        let (mut genes, mut probabilities) = (Vec::new(), Vec::new());
        control.progress.begin("predicting", cohort.samples.len());
        for (i, (sample, bags)) in cohort.samples.iter().zip(&bags).enumerate() {
            control.check("run the same command again")?;
            let all = features.rows(&sample.tiles)?.to(&self.device)?;
            let all = ops::cast(&all, self.config.dtype.dtype())?;
            let own = sample
                .tiles
                .iter()
                .enumerate()
                .map(|(at, &tile)| (tile, at));
            let own: BTreeMap<usize, usize> = own.collect();
            let local = |bag: &Vec<usize>| bag.iter().map(|tile| own[tile]).collect();
            let local: Vec<Vec<usize>> = bags.iter().map(local).collect();
            let (of_sample, of_bags) = self.of_bags(&all, &local, &[])?;
            genes.extend(of_sample.genes);
            probabilities.extend(of_bags);
            control.progress.at(i + 1, &sample.id);
        }
        control.progress.end();
        let classified = (!self.classes.is_empty()).then(|| Classified {
            names: self.classes.clone(),
            samples: cohort.samples.iter().map(|s| s.id.clone()).collect(),
            truth: Vec::new(),
            bags: (bags.iter().enumerate())
                .flat_map(|(i, bags)| std::iter::repeat_n(i, bags.len()))
                .collect(),
            probabilities,
        });
        Ok((genes, classified))
    }

    /// A slide from the features (tiles, 1024) of its tiles and where they lie: the mean
    /// over its bags, which are drawn as in training, and over all networks; and for the
    /// genes `chosen` (by their place in [`Self::genes`]) the mean score of each tile in
    /// the bags that it is in.
    ///
    /// # Errors
    /// Features of another width; no tile.
    pub fn slide(
        &self,
        name: &str,
        features: &[f32],
        corners: &[(i64, i64)],
        chosen: &[usize],
    ) -> Result<OfSlide> {
        let tiles = features.len() / FEATURES;
        let (points, columns) = match self.config.bags.by {
            ClusterBy::Features => (features.to_vec(), FEATURES),
            ClusterBy::Positions => {
                let flat = corners.iter().flat_map(|&(x, y)| [x as f32, y as f32]);
                (flat.collect(), 2)
            }
        };
        let random = Philox::fork(self.config.seed, &format!("bags of {name}"));
        let bags = draw(&points, columns, TILES, self.config.bags.per_slide, random)?.bags;
        let all = Tensor::from_slice(features, &[tiles, FEATURES])?.to(&self.device)?;
        let all = ops::cast(&all, self.config.dtype.dtype())?;
        Ok(self.of_bags(&all, &bags, chosen)?.0)
    }

    /// [`Self::slide`] from bags of the tiles `all`, and of each bag the mean probabilities
    /// of the classes.
    fn of_bags(
        &self,
        all: &Tensor,
        bags: &[Vec<usize>],
        chosen: &[usize],
    ) -> Result<(OfSlide, Vec<f64>)> {
        let genes = self.genes();
        let tiles = all.shape()[0];
        let mut of_classes = Vec::new();
        let mut of_slide = vec![0.0f64; genes.len()];
        let mut of_tiles = vec![0.0f64; tiles * chosen.len()];
        let mut counts = vec![0usize; tiles];
        bags.iter().flatten().for_each(|&tile| counts[tile] += 1);
        for part in bags.chunks(self.config.training.batch) {
            let rows = index(part.iter().flatten().copied())?.to(&self.device)?;
            let x = ops::index_select(all, 0, &rows)?;
            let x = ops::reshape(&x, &[part.len(), TILES, FEATURES])?;
            let mut of_part = vec![0.0f64; part.len() * self.classes.len()];
            for fold in &self.folds {
                let share = 1.0 / (self.folds.len() * fold.networks.len()) as f64;
                let names = fold.transforms.genes();
                let column = places(names);
                for model in &fold.networks {
                    // What the scores of tiles are made from.
                    let (seen, y) = match model {
                        Model::Trnasformer(m) => {
                            let tokens = m.tokens(&x, &Pass::eval())?;
                            if !self.classes.is_empty() {
                                let logits = m.classify(&tokens, &Pass::eval())?;
                                let p = ops::softmax(&logits, -1)?.to_f64_vec()?;
                                of_part.iter_mut().zip(p).for_each(|(s, p)| *s += share * p);
                            }
                            let y = m.config().genes.map(|_| m.genes(&tokens));
                            (tokens, y.transpose()?)
                        }
                        Model::He2Rna(m) => (x.clone(), Some(m.genes(&x)?)),
                    };
                    let y = y.map_or(Ok(Vec::new()), |y| y.to_f64_vec())?;
                    for row in y.chunks(names.len().max(1)) {
                        for (sum, gene) in of_slide.iter_mut().zip(&genes) {
                            *sum += share * row[column[gene.as_str()]] / bags.len() as f64;
                        }
                    }
                    for (to, &gene) in chosen.iter().enumerate() {
                        let at = column[genes[gene].as_str()];
                        let scores = match model {
                            Model::Trnasformer(m) => m.scores(&seen, at, 1)?,
                            Model::He2Rna(m) => m.scores(&seen, at, 1)?,
                        };
                        let scores = scores.to_f64_vec()?;
                        for (&tile, score) in part.iter().flatten().zip(scores) {
                            of_tiles[tile * chosen.len() + to] += share * score;
                        }
                    }
                }
            }
            of_classes.extend(of_part);
        }
        let rows = of_tiles.chunks(chosen.len().max(1)).zip(&counts);
        // A tile that no bag drew has no score: 0 / 0.
        let mean = |(row, &count): (&[f64], &usize)| {
            row.iter()
                .map(|v| (v / count as f64) as f32)
                .collect::<Vec<_>>()
        };
        let mut classes = vec![0.0f64; self.classes.len()];
        for bag in of_classes.chunks(self.classes.len().max(1)) {
            classes.iter_mut().zip(bag).for_each(|(sum, p)| *sum += p);
        }
        let classes = classes.iter().map(|sum| (sum / bags.len() as f64) as f32);
        let of_slide = OfSlide {
            genes: of_slide.into_iter().map(|v| v as f32).collect(),
            tiles: rows.flat_map(mean).collect(),
            classes: classes.collect(),
        };
        Ok((of_slide, of_classes))
    }
}

impl FoldRun<'_> {
    fn run(&self) -> Result<(FoldRecord, Predictions)> {
        create_dir_all(&self.folder)?;
        let known = self.fold.known();
        self.check_classes(&known)?;
        let (missing, transforms, values) = if self.config.model.genes {
            let (chosen, transforms, values) =
                targets(&self.config.expression, self.table, &known)?;
            (chosen.missing, transforms, values)
        } else {
            let none = FittedTransforms::fit(&[], self.table, &known)?;
            (Vec::new(), none, Vec::new())
        };
        let genes = transforms.genes().to_vec();
        let fingerprint = self.fingerprint(&values)?;
        let data = self.data(&values, genes.len())?;
        let mut predictions = Predictions {
            genes: vec![0.0; self.fold.test.len() * genes.len()],
            classes: Vec::new(),
        };
        let mut networks = Vec::with_capacity(self.fold.inner.len());
        let mut start = String::new();
        for inner in 0..self.fold.inner.len() {
            let (model, history);
            (model, history, start) = self.network(inner, &genes, &data, &fingerprint)?;
            networks.push(history);
            self.predict(&model, &data, &mut predictions)?;
        }
        let sides = self.fold.sides(self.cohort);
        let record = FoldRecord {
            test: sides.test,
            same_patient: sides.same_patient,
            patients: sides.patients,
            genes,
            missing_genes: missing,
            transforms,
            start,
            networks,
        };
        write_bytes(self.folder.join("fold.json"), json(&record)?.as_bytes())?;
        Ok((record, predictions))
    }

    /// A class that only held-out samples have cannot be learned.
    fn check_classes(&self, known: &[usize]) -> Result<()> {
        let Some(classes) = self.classes else {
            return Ok(());
        };
        let seen: BTreeSet<usize> = known.iter().map(|&s| classes.of[s]).collect();
        match self
            .fold
            .test
            .iter()
            .find(|&&s| !seen.contains(&classes.of[s]))
        {
            None => Ok(()),
            Some(&s) => Err(Error::usage(
                format!(
                    "{}: class {} of sample {} is in no training sample",
                    self.name, classes.names[classes.of[s]], self.cohort.samples[s].id
                ),
                "use fewer outer folds, another seed, or leave rare classes out",
            )),
        }
    }

    /// A hash of everything that the fold's networks depend on.
    fn fingerprint(&self, targets: &[f32]) -> Result<String> {
        let mut text = self.config.to_toml()?;
        text += &self.encoder.sha256;
        text += &format!("{:?}", self.fold);
        if let Some(classes) = self.classes {
            text += &format!("{:?} {:?}", classes.names, classes.of);
        }
        text += &sha256_bytes(bytemuck::cast_slice(&self.features.values));
        text += &sha256_bytes(bytemuck::cast_slice(targets));
        if let Some(path) = &self.config.model.start {
            text += &sha256_file(path)?;
        }
        Ok(sha256_bytes(text.as_bytes()))
    }

    fn data(&self, targets: &[f32], genes: usize) -> Result<Data<'_>> {
        let samples = self
            .fold
            .known()
            .into_iter()
            .chain(self.fold.test.iter().copied());
        let tiles: BTreeSet<usize> = samples
            .flat_map(|s| &self.cohort.samples[s].tiles)
            .copied()
            .collect();
        let tiles: Vec<usize> = tiles.into_iter().collect();
        let features = self.features.rows(&tiles)?.to(self.device)?;
        let shape = [self.table.samples.len(), genes];
        Ok(Data {
            features: ops::cast(&features, self.config.dtype.dtype())?,
            row: tiles
                .into_iter()
                .enumerate()
                .map(|(row, t)| (t, row))
                .collect(),
            targets: Tensor::from_slice(targets, &shape)?.to(self.device)?,
            classes: self.classes,
            bags: self.bags,
        })
    }

    fn bags_of(&self, samples: &[usize]) -> Vec<Bag> {
        let of = |&s: &usize| (0..self.bags[s].len()).map(move |bag| (s, bag));
        samples.iter().flat_map(of).collect()
    }

    fn model(&self, name: &str, genes: usize) -> Result<Model> {
        let genes = self.config.model.genes.then_some(genes);
        // Without classes the head stays as it is drawn.
        let classes = self.classes.map_or(1, |c| c.names.len());
        let mut random = Philox::fork(self.config.seed, name);
        Model::new(&self.config.model, genes, classes, &mut random)
    }

    fn network(
        &self,
        inner: usize,
        genes: &[String],
        data: &Data,
        fingerprint: &str,
    ) -> Result<(Model, History, String)> {
        let config = &self.config.training;
        let seed = self.config.seed;
        let name = format!("{}: model {}", self.name, inner + 1);
        let (train, validation) = &self.fold.inner[inner];
        let (train, validation) = (self.bags_of(train), self.bags_of(validation));
        let model = self.model(&name, genes.len())?;
        let start = self.start(&model)?;
        model.state().to_device(self.device)?;
        let file = self.folder.join(format!("model{inner}.safetensors"));
        let fingerprint = format!("{fingerprint} {inner}");
        let names: Vec<&str> = genes.iter().map(String::as_str).collect();
        let part = Part {
            file: &file,
            name: &name,
            fingerprint: &fingerprint,
            genes: &names,
            features: &self.encoder.description,
            seen: self.seen,
            control: self.control,
        };
        let history = part.ready(model.state(), &mut || {
            self.config.dtype.narrow(model.state())?;
            let rule = AdamW {
                lr: config.learning_rate,
                weight_decay: config.weight_decay,
                ..AdamW::default()
            };
            let optimizer = Optimizer::new(rule, model.state().parameters())?;
            // The last input says k by its length, so that each k has a captured
            // step of its own.
            let loss = |inputs: &[Tensor], pass: &Pass| match inputs.split_last() {
                Some((ranks, inputs)) => model.loss(data, inputs, Some(ranks.elements()), pass),
                None => Err(Error::op("trnasformer", "internal: a step without inputs")),
            };
            let steps = self.folder.join(format!("model{inner}-steps.csv"));
            let task = Task {
                name: &name,
                fingerprint: &fingerprint,
                step: TrainingStep::new(model.state(), optimizer, &loss)?,
                plan: Plan {
                    epochs: config.epochs,
                    patience: config.patience,
                },
                schedule: Some(ReduceOnPlateau::new(
                    Goal::Lower,
                    config.plateau_factor,
                    config.plateau_patience,
                )?),
                checkpoint: &self.checkpoint,
                checkpoint_every: Duration::from_secs(self.config.checkpoint_seconds),
                steps: Some(&steps),
            };
            let all: Vec<usize> = (0..train.len()).collect();
            task.run(
                &mut |epoch, steps| {
                    let stage = format!("{name} epoch {epoch}");
                    let mut draws = Philox::fork(seed, &format!("{stage} k"));
                    epoch_over(&all, config.batch, seed, &stage, &mut |batch, random| {
                        let bags: Vec<Bag> = batch.iter().map(|&i| train[i]).collect();
                        let mut inputs = data.inputs(&bags)?;
                        inputs.push(index(0..KS[draws.below(KS.len())])?);
                        steps.step(&inputs, random, batch.len())
                    })
                },
                &mut || Ok(self.validation(&model, data, &validation)?.into()),
                self.control,
            )
        })?;
        Ok((model, history, start))
    }

    /// Sets the weights that training starts from, where some are given, and says which.
    fn start(&self, model: &Model) -> Result<String> {
        let Some(path) = &self.config.model.start else {
            return Ok(String::new());
        };
        let found = nn::load_partial(model.state(), &read_weights(path)?, path)?;
        Ok(format!(
            "{}; {} parameters that it lacks are random (seed {})",
            path.display(),
            found.new.len(),
            self.config.seed
        ))
    }

    /// The mean loss over bags, with the mean over all k.
    fn validation(&self, model: &Model, data: &Data, bags: &[Bag]) -> Result<f64> {
        let mut total = 0.0;
        for part in bags.chunks(self.config.training.batch) {
            let inputs = data.inputs(part)?;
            let inputs = inputs.iter().map(|x| x.to(self.device));
            let inputs = inputs.collect::<Result<Vec<_>>>()?;
            let loss = model.loss(data, &inputs, None, &Pass::eval())?.item()?;
            total += loss * part.len() as f64;
        }
        Ok(total / bags.len().max(1) as f64)
    }

    /// Adds a network's share to the predictions of the held-out samples.
    fn predict(&self, model: &Model, data: &Data, sum: &mut Predictions) -> Result<()> {
        let networks = self.fold.inner.len() as f64;
        let classes = self.classes.map_or(0, |c| c.names.len());
        let bags: usize = self.fold.test.iter().map(|&s| self.bags[s].len()).sum();
        sum.classes.resize(bags * classes, 0.0);
        let mut bag = 0;
        let genes = sum.genes.len() / self.fold.test.len().max(1);
        for (place, &s) in self.fold.test.iter().enumerate() {
            let share = 1.0 / (networks * self.bags[s].len() as f64);
            for part in self.bags_of(&[s]).chunks(self.config.training.batch) {
                let rows = data.inputs(part)?[0].to(self.device)?;
                let (y, probabilities) = model.predict(&data.features(&rows)?)?;
                if let Some(y) = y {
                    let row = &mut sum.genes[place * genes..(place + 1) * genes];
                    for y in y.to_f64_vec()?.chunks(genes.max(1)) {
                        (row.iter_mut().zip(y)).for_each(|(v, y)| *v += (share * y) as f32);
                    }
                }
                if let (Some(p), true) = (probabilities, classes > 0) {
                    let rows = &mut sum.classes[bag * classes..(bag + part.len()) * classes];
                    let p = p.to_f64_vec()?;
                    (rows.iter_mut().zip(&p)).for_each(|(v, p)| *v += p / networks);
                }
                bag += part.len();
            }
        }
        Ok(())
    }
}
