//! The run file of TCGN.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::cohort::her2st::Unit;
use crate::error::{Error, Result};
use crate::expression::Transform;
use crate::slides::stain::Method;
use crate::train::config::{
    DataConfig, ExpressionConfig, GroupBy, Layout, Precision, RunFile, Said, at_least_one,
    default_checkpoint_seconds, is_share, read_expression,
};

/// TCGN on the spots of sections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcgnConfig {
    /// Decides initial weights, order, augmentation, dropout.
    #[serde(default)]
    pub seed: u64,
    /// What the network is trained in.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub dtype: Precision,
    /// As for DeepPT.
    #[serde(default = "default_checkpoint_seconds")]
    pub checkpoint_seconds: u64,
    pub data: DataConfig,
    /// How colours are normalised, section by section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stain: Option<Method>,
    #[serde(
        default = "per_ten_thousand",
        deserialize_with = "read_per_ten_thousand"
    )]
    pub expression: ExpressionConfig,
    #[serde(default)]
    pub genes: GeneConfig,
    #[serde(default)]
    pub split: SpotSplit,
    #[serde(default)]
    pub model: ModelConfig,
    #[serde(default)]
    pub training: SpotTraining,
}

/// The published scale: counts of the chosen genes of a spot scaled to a sum of
/// 10,000, then log10(1 + x).
pub(super) fn per_ten_thousand() -> ExpressionConfig {
    ExpressionConfig {
        transforms: vec![Transform::LibrarySize { total: 1e4 }, Transform::Log10p1],
        ..ExpressionConfig::default()
    }
}

fn read_per_ten_thousand<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<ExpressionConfig, D::Error> {
    read_expression(from, per_ten_thousand())
}

/// What becomes of a gene that a section has no count of, which is how tables say
/// that they lack it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// It is 0 there.
    #[default]
    Zero,
    /// It is left out of the run.
    Drop,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneConfig {
    pub missing: Missing,
    /// The genes that figures are reported of beside all: a list of names, one a line,
    /// or a `.npy` of a bool for each gene of the list `expression.genes`.
    pub report: Option<PathBuf>,
}

/// Which sections train, validate and are tested.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpotSplit {
    /// What is never on two sides: `patient`, or `section` for figures marked 'same
    /// patient'.
    pub by: GroupBy,
    /// What validates in a fold that is not given: one patient, or one section, of
    /// those not tested. As `by` when left out.
    pub validate_by: Option<GroupBy>,
    /// The folds; one for each patient or section, which it tests, when left out.
    pub folds: Vec<GivenFold>,
}

impl Default for SpotSplit {
    fn default() -> Self {
        Self {
            by: GroupBy::Patient,
            validate_by: None,
            folds: Vec::new(),
        }
    }
}

/// A fold by names of sections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenFold {
    pub test: Vec<String>,
    pub validation: Vec<String>,
    /// All others when left out.
    #[serde(default)]
    pub train: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    pub dropout: f64,
    /// Weights to start from, whole or of a part (the trunk's ImageNet weights).
    pub start: Option<PathBuf>,
    /// What the published code does to a batch.
    pub reference_quirks: bool,
    /// Sizes of another network than the published one; see
    /// [`crate::models::tcgn::Config`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sizes: Option<Sizes>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            dropout: 0.1,
            start: None,
            reference_quirks: false,
            sizes: None,
        }
    }
}

/// The sizes of a network, one for each stage where there are four.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    pub image: usize,
    pub stem: usize,
    pub widths: [usize; 4],
    pub hidden: [usize; 4],
    pub heads: [usize; 4],
    pub depths: [usize; 4],
    pub features: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpotTraining {
    pub epochs: usize,
    pub patience: usize,
    /// Spots in a step.
    pub batch: usize,
    /// Adam's.
    pub learning_rate: f64,
    /// Turn and mirror training tiles.
    pub augment: bool,
}

impl Default for SpotTraining {
    fn default() -> Self {
        Self {
            epochs: 80,
            patience: 80,
            batch: 32,
            learning_rate: 1e-5,
            augment: true,
        }
    }
}

impl TcgnConfig {
    /// All defaults, on this data.
    pub fn new(data: DataConfig) -> Self {
        Self {
            seed: 0,
            dtype: Precision::F32,
            checkpoint_seconds: default_checkpoint_seconds(),
            data,
            stain: None,
            expression: per_ten_thousand(),
            genes: GeneConfig::default(),
            split: SpotSplit::default(),
            model: ModelConfig::default(),
            training: SpotTraining::default(),
        }
    }

    /// Whether the folder `run` is a run of TCGN.
    pub fn wrote(run: &Path) -> bool {
        let text = std::fs::read_to_string(run.join("config.toml")).unwrap_or_default();
        let table: toml::Table = text.parse().unwrap_or_default();
        // The other families have no choice between genes that sections lack.
        table.contains_key("genes")
    }
}

impl RunFile for TcgnConfig {
    const README: &'static str = "src/models/tcgn/README.md";

    fn overrule(&mut self, said: &Said) -> Result<()> {
        self.seed = said.seed.unwrap_or(self.seed);
        self.dtype = said.dtype.unwrap_or(self.dtype);
        self.stain = said.stain.or(self.stain);
        self.data.icc |= said.icc;
        Ok(())
    }

    fn resolve(&mut self, base: &Path) {
        // A sample is a spot, always.
        self.data.unit = Unit::Spot;
        self.data.resolve(base);
        self.expression.resolve(base);
        let others = [&mut self.genes.report, &mut self.model.start];
        for path in others.into_iter().flatten() {
            *path = base.join(&*path);
        }
    }

    fn validate(&self) -> Result<()> {
        at_least_one(&[
            ("training.epochs", self.training.epochs),
            ("training.batch", self.training.batch),
        ])?;
        is_share("model.dropout", self.model.dropout)?;
        if self.data.layout == Layout::Tiles {
            return Err(Error::usage(
                "layout = \"tiles\" has no spots, and TCGN predicts a spot from its tile",
                "give sections: layout = \"her2st\"",
            ));
        }
        if self.data.ring != 0 {
            return Err(Error::usage(
                format!("data.ring = {} gives a spot several tiles", self.data.ring),
                "leave it out: TCGN sees one tile of a spot",
            ));
        }
        if self.split.by == GroupBy::Sample || self.split.validate_by == Some(GroupBy::Sample) {
            return Err(Error::usage(
                "a split by \"sample\" would put neighbouring spots on both sides",
                "use \"patient\", or \"section\" for figures marked 'same patient'",
            ));
        }
        Ok(())
    }
}
