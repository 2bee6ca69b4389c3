//! The run files of `eosin train classifier` and `eosin train simclr`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::models::resnet::Depth;
use crate::slides::augment::Augment;
use crate::slides::views::Views;
use crate::train::config::{
    DataConfig, GroupBy, RunFile, Said, at_least_one, default_checkpoint_seconds, is_share,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Decides initial weights, order, changes of tiles and splits.
    #[serde(default)]
    pub seed: u64,
    /// As for DeepPT.
    #[serde(default = "default_checkpoint_seconds")]
    pub checkpoint_seconds: u64,
    pub data: DataConfig,
    /// Columns slide, class; not where folders are classes.
    #[serde(default)]
    pub classes: Option<PathBuf>,
    /// Tiles that are only tested, such as generated ones.
    #[serde(default)]
    pub test: Option<DataConfig>,
    #[serde(default)]
    pub model: ClassifierModel,
    #[serde(default)]
    pub augment: Augment,
    #[serde(default)]
    pub split: ClassifierSplit,
    #[serde(default)]
    pub training: ClassifierTraining,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkName {
    #[default]
    Resnet18,
    Resnet50,
}

impl NetworkName {
    pub fn depth(self) -> Depth {
        match self {
            Self::Resnet18 => Depth::ResNet18,
            Self::Resnet50 => Depth::ResNet50,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierModel {
    pub network: NetworkName,
    /// Channels of the stem; other commands read 64 alone, torchvision's.
    pub width: usize,
    /// Side to which tiles are resized.
    pub px: usize,
    /// What the network starts from, such as `train simclr` leaves; its head is drawn anew.
    pub weights: Option<PathBuf>,
}

impl Default for ClassifierModel {
    fn default() -> Self {
        Self {
            network: NetworkName::default(),
            width: 64,
            px: 224,
            weights: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierSplit {
    /// What stays together; with `section` and `sample` figures are marked 'same patient' where
    /// that is so.
    pub by: GroupBy,
    /// Columns slide, patient, where the layout does not say.
    pub patients: Option<PathBuf>,
    /// Training, validation, test; without folds.
    pub shares: [f64; 3],
    /// Stratified cross-validation; 0 for one split by `shares`.
    pub folds: usize,
    /// With folds and `model.weights`: trains from random weights too, for comparison.
    pub against_scratch: bool,
}

impl Default for ClassifierSplit {
    fn default() -> Self {
        Self {
            by: GroupBy::Patient,
            patients: None,
            shares: [0.7, 0.1, 0.2],
            folds: 0,
            against_scratch: true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierTraining {
    pub epochs: usize,
    /// Stops after so many epochs without a better validation loss; the best is kept.
    pub patience: usize,
    pub batch: usize,
    /// AdamW's.
    pub learning_rate: f64,
    pub weight_decay: f64,
}

impl Default for ClassifierTraining {
    fn default() -> Self {
        Self {
            epochs: 40,
            patience: 10,
            batch: 32,
            learning_rate: 3e-5,
            weight_decay: 0.01,
        }
    }
}

impl ClassifierConfig {
    /// Whether the folder `run` is a run of a classifier.
    pub fn wrote(run: &Path) -> bool {
        let text = std::fs::read_to_string(run.join("config.toml")).unwrap_or_default();
        let table: toml::Table = text.parse().unwrap_or_default();
        let has = |part: &str, key: &str| {
            (table.get(part).and_then(toml::Value::as_table)).is_some_and(|t| t.contains_key(key))
        };
        // Runs have every key written out; no other family has these two.
        has("model", "network") && has("split", "against_scratch")
    }
}

impl RunFile for ClassifierConfig {
    const README: &'static str = "src/train/classifier/README.md";

    fn overrule(&mut self, said: &Said) -> Result<()> {
        self.seed = said.seed.unwrap_or(self.seed);
        said.in_f32_alone("a classifier of tiles")?;
        self.data.icc |= said.icc;
        if let Some(test) = &mut self.test {
            test.icc |= said.icc;
        }
        said.without_stain("a classifier of tiles")
    }

    fn resolve(&mut self, base: &Path) {
        self.data.resolve(base);
        if let Some(test) = &mut self.test {
            test.resolve(base);
        }
        let paths = [
            &mut self.classes,
            &mut self.model.weights,
            &mut self.split.patients,
        ];
        for path in paths.into_iter().flatten() {
            *path = base.join(&*path);
        }
    }

    fn validate(&self) -> Result<()> {
        at_least_one(&[
            ("model.width", self.model.width),
            ("training.epochs", self.training.epochs),
        ])?;
        whole_batches(self.training.batch)?;
        large_enough(self.model.px)?;
        positive("training.learning_rate", self.training.learning_rate)?;
        not_negative("training.weight_decay", self.training.weight_decay)?;
        if self.split.folds == 1 {
            return Err(Error::usage(
                "split.folds = 1 leaves nothing to train on",
                "set it to 2 or more, or to 0 for one split by split.shares",
            ));
        }
        Ok(())
    }
}

fn whole_batches(batch: usize) -> Result<()> {
    if batch >= 2 {
        return Ok(());
    }
    Err(Error::usage(
        format!("training.batch = {batch}: batch norm of one tile is undefined"),
        "set it to at least 2",
    ))
}

fn large_enough(px: usize) -> Result<()> {
    if px >= 32 {
        return Ok(());
    }
    Err(Error::usage(
        format!("model.px = {px} is too small"),
        "the network halves an image five times: use at least 32",
    ))
}

fn positive(name: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::usage(
        format!("{name} = {value} is not above 0"),
        "set it to a positive number",
    ))
}

fn not_negative(name: &str, value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::usage(
        format!("{name} = {value} cannot be"),
        "set it to 0 or more",
    ))
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimclrConfig {
    /// Decides initial weights, order and views.
    #[serde(default)]
    pub seed: u64,
    /// As for DeepPT.
    #[serde(default = "default_checkpoint_seconds")]
    pub checkpoint_seconds: u64,
    pub data: DataConfig,
    #[serde(default)]
    pub model: SimclrModel,
    #[serde(default)]
    pub views: Views,
    #[serde(default)]
    pub training: SimclrTraining,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimclrModel {
    pub network: NetworkName,
    /// As the classifier's.
    pub width: usize,
    pub px: usize,
    /// Length of what the loss compares.
    pub projection: usize,
}

impl Default for SimclrModel {
    fn default() -> Self {
        Self {
            network: NetworkName::Resnet50,
            width: 64,
            px: 224,
            projection: 128,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimclrTraining {
    pub epochs: usize,
    /// Tiles, of each of which there are two views.
    pub batch: usize,
    /// SGD's, falling on half a cosine to 0 at the last step.
    pub learning_rate: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub temperature: f64,
    /// Share of the tiles that is looked at after each epoch and not trained on.
    pub validation: f64,
}

impl Default for SimclrTraining {
    fn default() -> Self {
        Self {
            epochs: 100,
            batch: 128,
            learning_rate: 6e-2,
            momentum: 0.9,
            weight_decay: 5e-4,
            temperature: 0.5,
            validation: 0.1,
        }
    }
}

impl RunFile for SimclrConfig {
    const README: &'static str = "src/train/classifier/README.md";

    fn overrule(&mut self, said: &Said) -> Result<()> {
        self.seed = said.seed.unwrap_or(self.seed);
        said.in_f32_alone("SimCLR")?;
        self.data.icc |= said.icc;
        said.without_stain("SimCLR")
    }

    fn resolve(&mut self, base: &Path) {
        self.data.resolve(base);
    }

    fn validate(&self) -> Result<()> {
        at_least_one(&[
            ("model.width", self.model.width),
            ("model.projection", self.model.projection),
            ("training.epochs", self.training.epochs),
        ])?;
        whole_batches(self.training.batch)?;
        large_enough(self.model.px)?;
        is_share("training.momentum", self.training.momentum)?;
        is_share("training.validation", self.training.validation)?;
        positive("training.learning_rate", self.training.learning_rate)?;
        positive("training.temperature", self.training.temperature)?;
        not_negative("training.weight_decay", self.training.weight_decay)?;
        let views = self.views;
        if !(views.least_area > 0.0 && views.least_area <= 1.0) {
            return Err(Error::usage(
                format!("views.least_area = {} is no share", views.least_area),
                "set it above 0 and to 1 or less",
            ));
        }
        for (name, value) in [
            ("views.jitter", views.jitter),
            ("views.jitter_share", views.jitter_share),
            ("views.grey_share", views.grey_share),
            ("views.blur_share", views.blur_share),
        ] {
            not_negative(name, f64::from(value))?;
        }
        Ok(())
    }
}
