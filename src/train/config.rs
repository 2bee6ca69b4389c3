//! The run file: every choice of a training run, in TOML. A key that is not
//! known is an error; what is left out has the default given here.

use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use crate::cohort::{self, Cohort, SourceImage};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::expression::{GeneChoice, Orientation, Source, Transform};
use crate::models::backbone::Architecture;
use crate::nn::State;
use crate::slides::scale;
use crate::slides::stain::Method;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeepPtConfig {
    /// Decides initial weights, order, dropout and splits.
    #[serde(default)]
    pub seed: u64,
    /// What the networks are trained in.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub dtype: Precision,
    /// Seconds between checkpoints of an unfinished stage; 0 for one after
    /// every epoch. A killed run loses at most this and an epoch.
    #[serde(default = "default_checkpoint_seconds")]
    pub checkpoint_seconds: u64,
    pub data: DataConfig,
    #[serde(default)]
    pub features: FeatureConfig,
    #[serde(default)]
    pub expression: ExpressionConfig,
    #[serde(default)]
    pub split: SplitConfig,
    #[serde(default)]
    pub autoencoder: AutoEncoderConfig,
    #[serde(default)]
    pub mlp: MlpConfig,
}

/// The number format of a network's arithmetic. Sums, statistics, losses and the
/// parameters that an optimiser steps are f32 in both, and so are predictions: a
/// regression divides by the scale of its inputs over the training rows, which may
/// be smaller than the rounding of bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    Bf16,
}

impl Precision {
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Readies a model that is to be trained in it.
    ///
    /// # Errors
    /// No memory left.
    pub fn narrow(self, model: &dyn State) -> Result<()> {
        match self {
            Self::F32 => Ok(()),
            Self::Bf16 => model.keep_shadows(),
        }
    }

    // By reference, as serde calls it. Runs of before there was a choice are
    // resumed with the text that they began with.
    pub(crate) fn is_f32(&self) -> bool {
        *self == Self::F32
    }
}

/// What a `DeepPtConfig` without the key has.
pub fn default_checkpoint_seconds() -> u64 {
    5
}

/// How a folder is laid out; see [`crate::cohort`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    Her2st,
    Tiles,
    /// As `tiles`, in LMDB files as RNA-GAN's code writes them.
    Lmdb,
    Visium,
    /// A folder of tiles for each class.
    Classes,
}

/// The folder of images and its expression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    pub layout: Layout,
    pub path: PathBuf,
    /// her2st, visium: sections to use, all when empty.
    #[serde(default)]
    pub sections: Vec<String>,
    /// her2st, visium: what becomes a sample.
    #[serde(default)]
    pub unit: cohort::her2st::Unit,
    /// her2st, spots: rings of neighbouring spots in a spot's bag.
    #[serde(default)]
    pub ring: usize,
    /// her2st, visium: side of a spot's tile in pixels of the image.
    #[serde(default = "default_spot_px")]
    pub spot_px: usize,
    /// her2st, visium: side of a spot's tile in micrometres, in place of `spot_px`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot_um: Option<f64>,
    /// Micrometres per pixel of the images; her2st and visium measure theirs by their
    /// spots when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mpp: Option<f64>,
    /// Whether images are read in the colours of sRGB, by the ICC profiles that they carry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub icc: bool,
    /// tiles: expression: CSV, TSV, GCT, .h5ad, or a folder of the GDC's files.
    #[serde(default)]
    pub expression: Option<PathBuf>,
    /// tiles: which way round the table is.
    #[serde(default)]
    pub orientation: Orientation,
    /// tiles: what to take of it, and what genes are called.
    #[serde(default, skip_serializing_if = "Source::is_default")]
    pub source: Source,
    /// tiles, visium: columns slide, patient; tiles: `<path>/slides.csv` if that exists.
    #[serde(default)]
    pub slides: Option<PathBuf>,
}

fn default_spot_px() -> usize {
    112
}

impl DataConfig {
    /// A folder with the defaults of its layout.
    pub fn new(layout: Layout, path: impl Into<PathBuf>) -> Self {
        Self {
            layout,
            path: path.into(),
            sections: Vec::new(),
            unit: Default::default(),
            ring: 0,
            spot_px: default_spot_px(),
            spot_um: None,
            mpp: None,
            icc: false,
            expression: None,
            orientation: Default::default(),
            source: Source::default(),
            slides: None,
        }
    }

    /// Reads the folder, with its expression if `expression` is asked for.
    ///
    /// # Errors
    /// As the readers of [`crate::cohort`]; an option of the other layout.
    pub fn read(&self, expression: bool) -> Result<Cohort> {
        let mut cohort = self.read_layout(expression)?;
        if let Some(mpp) = self.mpp {
            scale::check(mpp, "data.mpp")?;
            cohort
                .images
                .iter_mut()
                .for_each(|image| image.mpp = Some(mpp));
        }
        if self.icc {
            cohort
                .images
                .iter_mut()
                .try_for_each(SourceImage::correct)?;
        }
        Ok(cohort)
    }

    fn read_layout(&self, expression: bool) -> Result<Cohort> {
        match self.layout {
            Layout::Her2st => {
                if self.expression.is_some() || self.slides.is_some() || !self.source.is_default() {
                    return Err(Error::usage(
                        "`expression`, `source` and `slides` belong to layout = \"tiles\"",
                        "remove them, or set the layout",
                    ));
                }
                cohort::her2st::read(&self.path, &self.spots(expression))
            }
            Layout::Visium => {
                if self.expression.is_some() {
                    return Err(Error::usage(
                        "`expression` belongs to layout = \"tiles\"",
                        "remove it: counts are read from filtered_feature_bc_matrix",
                    ));
                }
                let options = self.spots(expression);
                cohort::visium::read(&self.path, self.slides.as_deref(), &options)
            }
            Layout::Classes => {
                if expression || self.expression.is_some() {
                    return Err(Error::usage(
                        "folders of classes have no expression",
                        "leave out `expression`, or set layout = \"tiles\"",
                    ));
                }
                cohort::classes::read(&self.path)
            }
            Layout::Tiles | Layout::Lmdb => {
                if !self.sections.is_empty() || self.ring != 0 {
                    return Err(Error::usage(
                        "`sections` and `ring` belong to layout = \"her2st\"",
                        "remove them, or set the layout",
                    ));
                }
                if expression && self.expression.is_none() {
                    return Err(Error::usage(
                        "no table of expression is given",
                        "set data.expression to a table (CSV, TSV, GCT), a .h5ad file or a folder of the GDC's files",
                    ));
                }
                let options = cohort::tiles::Options {
                    table: self.expression.clone().filter(|_| expression),
                    orientation: self.orientation,
                    source: self.source.clone(),
                    slides: self.slides.clone(),
                    lmdb: self.layout == Layout::Lmdb,
                };
                cohort::tiles::read(&self.path, &options)
            }
        }
    }

    fn spots(&self, counts: bool) -> cohort::her2st::Options {
        cohort::her2st::Options {
            sections: self.sections.clone(),
            unit: self.unit,
            ring: self.ring,
            spot_px: self.spot_px,
            spot_um: self.spot_um,
            counts,
            ..Default::default()
        }
    }

    /// Whether the folder has expression to score against.
    pub fn has_expression(&self) -> bool {
        match self.layout {
            Layout::Her2st => self.path.join("ST-cnts").is_dir(),
            Layout::Tiles | Layout::Lmdb => self.expression.is_some(),
            Layout::Visium => true,
            Layout::Classes => false,
        }
    }

    /// Paths in a run file are relative to it.
    pub(crate) fn resolve(&mut self, base: &Path) {
        let absolute = |p: &mut PathBuf| *p = base.join(&*p);
        absolute(&mut self.path);
        self.expression.iter_mut().for_each(absolute);
        self.slides.iter_mut().for_each(absolute);
        self.source.resolve(base);
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureConfig {
    /// Which network.
    #[serde(skip_serializing_if = "Architecture::is_default")]
    pub encoder: Architecture,
    /// Its weights (.pth, .pt or .safetensors, torchvision's keys).
    /// Without them the network has seeded random weights.
    pub weights: Option<PathBuf>,
    /// Side in pixels to which tiles are resized.
    pub tile_px: usize,
    /// Tiles in a batch.
    pub batch: usize,
    /// Random weights: tiles whose statistics calibrate batch norm.
    pub calibration_tiles: usize,
    /// What the network computes in.
    #[serde(skip_serializing_if = "Precision::is_f32")]
    pub dtype: Precision,
    /// How colours are normalised before, slide by slide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stain: Option<Method>,
}

impl Default for FeatureConfig {
    fn default() -> Self {
        Self {
            encoder: Architecture::default(),
            weights: None,
            tile_px: 224,
            batch: 32,
            calibration_tiles: 128,
            dtype: Precision::F32,
            stain: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExpressionConfig {
    /// `all`, `file:PATH`, `variance:N` or `mean:N`; chosen on training samples.
    pub genes: GeneChoice,
    /// The least share of training samples in which a gene is seen.
    pub min_detected: f64,
    /// In order: `library_size:TOTAL`, `log1p`, `log10p1`, `zscore`.
    pub transforms: Vec<Transform>,
    /// A negative control: expression dealt to other samples at random.
    pub shuffle: bool,
}

impl Default for ExpressionConfig {
    fn default() -> Self {
        Self {
            genes: GeneChoice::All,
            min_detected: 0.0,
            transforms: vec![Transform::LibrarySize { total: 1e4 }, Transform::Log1p],
            shuffle: false,
        }
    }
}

/// What stays together in a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupBy {
    Patient,
    /// A section or slide: figures are marked 'same patient' where that is so.
    #[serde(alias = "slide")]
    Section,
    /// Single samples; for inner folds only.
    Sample,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitConfig {
    pub by: GroupBy,
    /// Sections or slides to hold out; empty for cross-validation.
    pub test: Vec<String>,
    /// Cross-validation folds.
    pub outer_folds: usize,
    /// Models per outer fold, each with another inner fold as validation set.
    pub inner_folds: usize,
    /// As `by` when left out.
    pub inner_by: Option<GroupBy>,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self {
            by: GroupBy::Patient,
            test: Vec::new(),
            outer_folds: 5,
            inner_folds: 5,
            inner_by: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutoEncoderConfig {
    pub epochs: usize,
    pub patience: usize,
    pub batch: usize,
    pub learning_rate: f64,
}

impl Default for AutoEncoderConfig {
    fn default() -> Self {
        Self {
            epochs: 100,
            patience: 10,
            batch: 64,
            learning_rate: 1e-4,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MlpConfig {
    pub hidden: usize,
    pub dropout: f64,
    pub epochs: usize,
    pub patience: usize,
    /// Samples in a step; the paper's code takes one slide at a time.
    pub batch: usize,
    pub learning_rate: f64,
    pub weight_decay: f64,
    /// Genes of similar median expression that share a network.
    pub genes_per_group: usize,
    /// Train on standardised codes and targets (training statistics); the
    /// standardisation moves into the saved weights.
    pub standardise: bool,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self {
            hidden: 512,
            dropout: 0.2,
            epochs: 200,
            patience: 20,
            batch: 1,
            learning_rate: 1e-4,
            weight_decay: 0.0,
            genes_per_group: 4096,
            standardise: true,
        }
    }
}

impl DeepPtConfig {
    /// What it has in common with the other families' run files.
    pub fn common(&self) -> Common<'_> {
        Common {
            seed: self.seed,
            features: &self.features,
            split: &self.split,
        }
    }
}

impl RunFile for DeepPtConfig {
    const README: &'static str = "src/models/deeppt/README.md";

    fn overrule(&mut self, said: &Said) -> Result<()> {
        self.seed = said.seed.unwrap_or(self.seed);
        if let Some(dtype) = said.dtype {
            (self.dtype, self.features.dtype) = (dtype, dtype);
        }
        self.features.stain = said.stain.or(self.features.stain);
        self.data.icc |= said.icc;
        Ok(())
    }

    fn resolve(&mut self, base: &Path) {
        self.data.resolve(base);
        self.features.resolve(base);
        self.expression.resolve(base);
    }

    fn validate(&self) -> Result<()> {
        at_least_one(&[
            ("autoencoder.epochs", self.autoencoder.epochs),
            ("autoencoder.batch", self.autoencoder.batch),
            ("mlp.hidden", self.mlp.hidden),
            ("mlp.epochs", self.mlp.epochs),
            ("mlp.batch", self.mlp.batch),
            ("mlp.genes_per_group", self.mlp.genes_per_group),
        ])?;
        is_share("mlp.dropout", self.mlp.dropout)?;
        self.common().validate()
    }
}

/// What every family's run file has.
#[derive(Clone, Copy)]
pub struct Common<'a> {
    pub seed: u64,
    pub features: &'a FeatureConfig,
    pub split: &'a SplitConfig,
}

impl Common<'_> {
    /// # Errors
    /// A value out of its range.
    pub fn validate(&self) -> Result<()> {
        let features = self.features;
        at_least_one(&[
            ("features.tile_px", features.tile_px),
            ("features.batch", features.batch),
            ("features.calibration_tiles", features.calibration_tiles),
        ])?;
        if features.tile_px < 32 {
            return Err(Error::usage(
                format!("features.tile_px = {} is too small", features.tile_px),
                "the encoder halves an image five times: use at least 32",
            ));
        }
        if self.split.by == GroupBy::Sample {
            return Err(Error::usage(
                "split.by = \"sample\" would put neighbouring spots on both sides",
                "use \"patient\", or \"section\" for figures marked 'same patient'",
            ));
        }
        Ok(())
    }
}

impl FeatureConfig {
    fn resolve(&mut self, base: &Path) {
        if let Some(weights) = &mut self.weights {
            *weights = base.join(&*weights);
        }
    }
}

impl ExpressionConfig {
    pub(crate) fn resolve(&mut self, base: &Path) {
        if let GeneChoice::File(list) = &mut self.genes {
            *list = base.join(&*list);
        }
    }
}

/// What a command line says in place of a run file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    pub seed: Option<u64>,
    pub dtype: Option<Precision>,
    pub stain: Option<Method>,
    pub icc: bool,
}

impl Said {
    /// Refuses other numbers than f32 for `what`.
    pub(crate) fn in_f32_alone(&self, what: &str) -> Result<()> {
        match self.dtype {
            None | Some(Precision::F32) => Ok(()),
            Some(Precision::Bf16) => Err(Error::usage(
                format!("{what} is trained in f32 alone"),
                "leave out --dtype",
            )),
        }
    }

    /// Refuses to change the colours of what `what` learns from.
    pub(crate) fn without_stain(&self, what: &str) -> Result<()> {
        match self.stain {
            None => Ok(()),
            Some(_) => Err(Error::usage(
                format!("{what} has no --stain: it learns from tiles as they are"),
                "leave it out, or normalise the tiles before",
            )),
        }
    }
}

/// The file that describes a run, of any family.
pub trait RunFile: Serialize + DeserializeOwned {
    /// The page that lists its keys.
    const README: &'static str;

    /// Takes what the command line says in place of the file.
    ///
    /// # Errors
    /// Something that this family does not have.
    fn overrule(&mut self, said: &Said) -> Result<()>;

    /// Makes relative paths relative to `base`.
    fn resolve(&mut self, base: &Path);

    /// # Errors
    /// A value out of its range, or values that do not go together.
    fn validate(&self) -> Result<()>;

    /// Reads a run file; relative paths are taken from its folder.
    ///
    /// # Errors
    /// TOML that does not parse, an unknown key, and as [`Self::validate`].
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let mut config: Self = toml::from_str(&text).map_err(|e| {
            let line = e.span().map(|s| text[..s.start].matches('\n').count() + 1);
            let place = line.map_or_else(String::new, |l| format!("line {l}"));
            let remedy = format!("see the keys in {}", Self::README);
            Error::file(path, place, e.message().replace('\n', " "), remedy)
        })?;
        config.resolve(path.parent().unwrap_or(Path::new("")));
        config.validate()?;
        Ok(config)
    }

    /// The resolved configuration as TOML.
    ///
    /// # Errors
    /// A value that TOML does not have.
    fn to_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|e| Error::usage(format!("the configuration has no TOML: {e}"), "report this"))
    }
}

pub(crate) fn at_least_one(numbers: &[(&str, usize)]) -> Result<()> {
    match numbers.iter().find(|(_, v)| *v == 0) {
        Some((name, _)) => Err(Error::usage(format!("{name} is 0"), "set it to at least 1")),
        None => Ok(()),
    }
}

pub(crate) fn is_share(name: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::usage(
        format!("{name} = {value} is no share"),
        "set it to 0 or more and below 1",
    ))
}

/// tRNAsformer or HE2RNA on bags of a slide's tiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrnasformerConfig {
    /// Decides initial weights, bags, order, k, dropout and splits.
    #[serde(default)]
    pub seed: u64,
    /// What the network is trained in.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub dtype: Precision,
    /// As for DeepPT.
    #[serde(default = "default_checkpoint_seconds")]
    pub checkpoint_seconds: u64,
    pub data: DataConfig,
    #[serde(default = "densenet")]
    pub features: FeatureConfig,
    #[serde(default = "log10p1", deserialize_with = "read_log10p1")]
    pub expression: ExpressionConfig,
    #[serde(default)]
    pub split: SplitConfig,
    #[serde(default)]
    pub bags: BagConfig,
    #[serde(default)]
    pub model: NetworkConfig,
    #[serde(default)]
    pub training: TrainingConfig,
}

/// Features as long as the networks take them.
fn densenet() -> FeatureConfig {
    FeatureConfig {
        encoder: Architecture::DenseNet121,
        ..FeatureConfig::default()
    }
}

/// The paper's scale: log10(1 + x) of what the table holds.
fn log10p1() -> ExpressionConfig {
    ExpressionConfig {
        transforms: vec![Transform::Log10p1],
        ..ExpressionConfig::default()
    }
}

fn read_log10p1<'de, D: Deserializer<'de>>(from: D) -> Result<ExpressionConfig, D::Error> {
    read_expression(from, log10p1())
}

/// A section of a run file in which `transforms` are those of `default` when left out,
/// as they are when the whole section is.
pub(super) fn read_expression<'de, D: Deserializer<'de>>(
    from: D,
    default: ExpressionConfig,
) -> Result<ExpressionConfig, D::Error> {
    let mut table = toml::Table::deserialize(from)?;
    if !table.contains_key("transforms") {
        let names = default.transforms.iter().map(|t| t.to_string().into());
        table.insert("transforms".into(), toml::Value::Array(names.collect()));
    }
    let read = toml::Value::Table(table).try_into();
    read.map_err(|e: toml::de::Error| D::Error::custom(e.message()))
}

/// What tells a slide's tiles apart when they are clustered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterBy {
    Features,
    Positions,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BagConfig {
    /// Bags of each slide.
    pub per_slide: usize,
    pub by: ClusterBy,
    /// Leave the bags in the run's folder.
    #[serde(skip_serializing_if = "is_false")]
    pub write: bool,
}

impl Default for BagConfig {
    fn default() -> Self {
        Self {
            per_slide: 100,
            by: ClusterBy::Features,
            write: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    Trnasformer,
    He2rna,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// The command decides: `train trnasformer` or `train he2rna`.
    pub network: Network,
    /// tRNAsformer: width, blocks, heads, and whether tokens know their place.
    pub width: usize,
    pub depth: usize,
    pub heads: usize,
    pub positions: bool,
    /// HE2RNA: hidden widths.
    pub hidden: Vec<usize>,
    pub dropout: f64,
    /// tRNAsformer: columns slide, class; without it there is no classification.
    pub classes: Option<PathBuf>,
    /// tRNAsformer: whether expression is learned; without it, classes alone.
    #[serde(skip_serializing_if = "is_true")]
    pub genes: bool,
    /// Weights to start from, whole or of a part (all but the heads).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
}

// By reference, as serde calls it.
fn is_true(value: &bool) -> bool {
    *value
}

fn is_false(value: &bool) -> bool {
    !*value
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            network: Network::Trnasformer,
            width: 384,
            depth: 1,
            heads: 6,
            positions: true,
            hidden: vec![1024],
            dropout: 0.25,
            classes: None,
            genes: true,
            start: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingConfig {
    pub epochs: usize,
    pub patience: usize,
    /// Bags in a step.
    pub batch: usize,
    pub learning_rate: f64,
    /// AdamW's, of every parameter.
    pub weight_decay: f64,
    /// The learning rate is multiplied by `plateau_factor` after more than so many
    /// epochs without a better validation loss.
    pub plateau_patience: u64,
    pub plateau_factor: f64,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            epochs: 100,
            patience: 20,
            batch: 64,
            learning_rate: 3e-4,
            weight_decay: 0.01,
            plateau_patience: 2,
            plateau_factor: 0.5,
        }
    }
}

impl TrnasformerConfig {
    /// What it has in common with the other families' run files.
    pub fn common(&self) -> Common<'_> {
        Common {
            seed: self.seed,
            features: &self.features,
            split: &self.split,
        }
    }
}

impl RunFile for TrnasformerConfig {
    const README: &'static str = "src/models/trnasformer/README.md";

    fn overrule(&mut self, said: &Said) -> Result<()> {
        self.seed = said.seed.unwrap_or(self.seed);
        if let Some(dtype) = said.dtype {
            (self.dtype, self.features.dtype) = (dtype, dtype);
        }
        self.features.stain = said.stain.or(self.features.stain);
        self.data.icc |= said.icc;
        Ok(())
    }

    fn resolve(&mut self, base: &Path) {
        self.data.resolve(base);
        self.features.resolve(base);
        self.expression.resolve(base);
        let others = [&mut self.model.classes, &mut self.model.start];
        for path in others.into_iter().flatten() {
            *path = base.join(&*path);
        }
    }

    fn validate(&self) -> Result<()> {
        at_least_one(&[
            ("bags.per_slide", self.bags.per_slide),
            ("model.width", self.model.width),
            ("model.heads", self.model.heads),
            ("training.epochs", self.training.epochs),
            ("training.batch", self.training.batch),
        ])?;
        if self.model.hidden.contains(&0) {
            return Err(Error::usage(
                "model.hidden has a 0",
                "give widths of at least 1",
            ));
        }
        if !self.model.genes
            && (self.model.classes.is_none() || self.model.network == Network::He2rna)
        {
            return Err(Error::usage(
                "model.genes = false leaves nothing to learn",
                "give model.classes to `train trnasformer`, or learn genes",
            ));
        }
        is_share("model.dropout", self.model.dropout)?;
        is_share("training.plateau_factor", self.training.plateau_factor)?;
        self.common().validate()
    }
}
