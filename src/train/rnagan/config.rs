//! The run files of `eosin train betavae` and `eosin train rnagan`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cohort::tiles::read_of_slides;
use crate::error::{Error, Result};
use crate::expression::{Orientation, Table, Transform, table};
use crate::models::rnagan::losses::{Adversarial, Norm, Objective};
use crate::models::rnagan::{Growth, Initial, NOISE, Sizes};
use crate::slides::augment::Augment;
use crate::train::config::{
    DataConfig, ExpressionConfig, GroupBy, Precision, RunFile, Said, at_least_one,
    default_checkpoint_seconds, is_share,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BetaVaeConfig {
    /// Decides initial weights, order, noise, dropout and the split.
    #[serde(default)]
    pub seed: u64,
    /// What the network is trained in.
    #[serde(default)]
    pub dtype: Precision,
    /// As for DeepPT.
    #[serde(default = "default_checkpoint_seconds")]
    pub checkpoint_seconds: u64,
    pub profiles: ProfileConfig,
    #[serde(default = "standardised")]
    pub expression: ExpressionConfig,
    #[serde(default)]
    pub split: SharesConfig,
    #[serde(default)]
    pub model: VaeConfig,
    #[serde(default)]
    pub training: VaeTrainingConfig,
}

fn standardised() -> ExpressionConfig {
    ExpressionConfig {
        transforms: vec![Transform::Log1p, Transform::ZScore],
        ..ExpressionConfig::default()
    }
}

/// Where profiles are: a table, or a folder with expression in another family's layout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileConfig {
    pub table: Option<PathBuf>,
    /// Of the table.
    pub orientation: Orientation,
    /// Columns slide, patient: samples of one patient stay together. Without it every sample of
    /// a table is a patient.
    pub patients: Option<PathBuf>,
    /// Columns slide, class: what the split is stratified by.
    pub classes: Option<PathBuf>,
    pub data: Option<DataConfig>,
}

/// Profiles, and what is known of each.
pub struct Profiles {
    pub table: Table,
    pub patients: Vec<String>,
    pub slides: Vec<String>,
    /// Empty names where there are no classes.
    pub classes: Vec<String>,
}

impl ProfileConfig {
    /// # Errors
    /// Neither or both of table and folder; as their readers; a slide without patient or class.
    pub fn read(&self) -> Result<Profiles> {
        let (table, slides, mut patients) = match (&self.table, &self.data) {
            (Some(path), None) => {
                let orientation = match self.orientation {
                    Orientation::Auto => Orientation::SamplesByGenes,
                    given => given,
                };
                let table = table::read(path, orientation)?;
                let samples = table.samples.clone();
                (table, samples.clone(), samples)
            }
            (None, Some(data)) => {
                let cohort = data.read(true)?;
                let of = |f: &dyn Fn(&crate::cohort::Sample) -> &String| {
                    cohort.samples.iter().map(|s| f(s).clone()).collect()
                };
                let (slides, patients) = (of(&|s| &s.slide), of(&|s| &s.patient));
                let table = cohort.table.ok_or_else(|| {
                    Error::usage(
                        "the folder has no expression",
                        "give one that has, or profiles.table",
                    )
                })?;
                (table, slides, patients)
            }
            _ => {
                return Err(Error::usage(
                    "profiles are in neither or both of a table and a folder",
                    "set profiles.table or profiles.data, one of them",
                ));
            }
        };
        let of_slides = |path: &Path, what: &str| -> Result<Vec<String>> {
            let known = read_of_slides(path, what)?;
            let find = |slide: &String| {
                known.get(slide).cloned().ok_or_else(|| {
                    let problem = format!("has no {what} of {slide}");
                    Error::file(path, "", problem, "add a line for it")
                })
            };
            slides.iter().map(find).collect()
        };
        if let Some(path) = &self.patients {
            patients = of_slides(path, "patient")?;
        }
        let classes = match &self.classes {
            Some(path) => of_slides(path, "class")?,
            None => vec![String::new(); slides.len()],
        };
        Ok(Profiles {
            table,
            patients,
            slides,
            classes,
        })
    }

    fn resolve(&mut self, base: &Path) {
        let paths = [&mut self.table, &mut self.patients, &mut self.classes];
        for path in paths.into_iter().flatten() {
            *path = base.join(&*path);
        }
        if let Some(data) = &mut self.data {
            data.resolve(base);
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SharesConfig {
    /// What stays together; with `section` and `sample` figures are marked 'same patient' where
    /// that is so.
    pub by: GroupBy,
    /// Training, validation, test.
    pub shares: [f64; 3],
}

impl Default for SharesConfig {
    fn default() -> Self {
        Self {
            by: GroupBy::Patient,
            shares: [0.6, 0.2, 0.2],
        }
    }
}

/// The published sizes, which are for 19,198 genes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VaeConfig {
    pub encoder: Vec<usize>,
    pub latent: usize,
    pub decoder: Vec<usize>,
    /// On the profile itself.
    pub dropout: f64,
    /// Weight of the divergence, which is summed over the latent; the other term is a mean.
    pub beta: f64,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            encoder: vec![6000, 4000, 2048],
            latent: 2048,
            decoder: vec![4000, 6000],
            dropout: 0.5,
            beta: 5e-4,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VaeTrainingConfig {
    pub epochs: usize,
    pub patience: usize,
    pub batch: usize,
    /// Reached after `warmup` epochs, then falling on half a cosine to 0 at the last.
    pub learning_rate: f64,
    pub warmup: usize,
}

impl Default for VaeTrainingConfig {
    fn default() -> Self {
        Self {
            epochs: 250,
            patience: 30,
            batch: 128,
            learning_rate: 5e-5,
            warmup: 5,
        }
    }
}

impl RunFile for BetaVaeConfig {
    const README: &'static str = "src/models/rnagan/README.md";

    fn overrule(&mut self, said: &Said) -> Result<()> {
        self.seed = said.seed.unwrap_or(self.seed);
        self.dtype = said.dtype.unwrap_or(self.dtype);
        if said.icc {
            return Err(Error::usage(
                "--icc: the beta-VAE learns from expression and sees no image",
                "leave it out",
            ));
        }
        said.without_stain("RNA-GAN's beta-VAE")
    }

    fn resolve(&mut self, base: &Path) {
        self.profiles.resolve(base);
        self.expression.resolve(base);
    }

    fn validate(&self) -> Result<()> {
        at_least_one(&[
            ("model.latent", self.model.latent),
            ("training.epochs", self.training.epochs),
        ])?;
        at_least_two("training.batch", self.training.batch)?;
        let widths = [&self.model.encoder, &self.model.decoder];
        if self.model.encoder.is_empty() || widths.iter().any(|w| w.contains(&0)) {
            return Err(Error::usage(
                "model.encoder is empty, or a width is 0",
                "give widths of at least 1, one or more of the encoder",
            ));
        }
        is_share("model.dropout", self.model.dropout)?;
        is_positive("training.learning_rate", self.training.learning_rate)?;
        if !(self.model.beta >= 0.0 && self.model.beta.is_finite()) {
            return Err(Error::usage(
                format!("model.beta = {} is no weight", self.model.beta),
                "set it to 0 or more",
            ));
        }
        Ok(())
    }
}

/// Statistics of a batch of one do not exist.
fn at_least_two(name: &str, value: usize) -> Result<()> {
    if value >= 2 {
        return Ok(());
    }
    Err(Error::usage(
        format!("{name} = {value}: batch norm and the standardised latent of one are undefined"),
        "set it to at least 2",
    ))
}

fn is_positive(name: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::usage(
        format!("{name} = {value} is not above 0"),
        "set it to a positive number",
    ))
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GanConfig {
    /// Decides initial weights, order, noise and changes of tiles.
    #[serde(default)]
    pub seed: u64,
    /// As for DeepPT; at the end of an epoch.
    #[serde(default = "default_checkpoint_seconds")]
    pub checkpoint_seconds: u64,
    /// Folder of the beta-VAE's run, unless the input is noise alone.
    #[serde(default)]
    pub vae: Option<PathBuf>,
    pub data: DataConfig,
    #[serde(default)]
    pub model: GanModelConfig,
    #[serde(default)]
    pub input: InputConfig,
    #[serde(default)]
    pub loss: LossConfig,
    #[serde(default)]
    pub augment: Augment,
    #[serde(default)]
    pub training: GanTrainingConfig,
    #[serde(default)]
    pub watch: WatchConfig,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GanModelConfig {
    /// Side of the tiles: a power of 2, at least 16.
    pub image: usize,
    /// Channels next to the image.
    pub step: usize,
    pub growth: Growth,
    /// Left out: as published with `loss.reference_quirks`, and else `dcgan`, since a generator
    /// whose first tiles are black and white learns far later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<Initial>,
    pub critic_norm: CriticNorm,
    /// The critic is given the generator's input beside the tile, so that a tile must fit its
    /// profile; without it nothing but chance ties the two.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub critic_profile: bool,
}

/// What stands behind the critic's inner convolutions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CriticNorm {
    /// Batch norm, as published. Real and generated tiles are scored in batches of their own, so
    /// a score depends on its batch mates, which the penalty of single tiles does not bound.
    #[default]
    Batch,
    None,
}

impl Default for GanModelConfig {
    fn default() -> Self {
        Self {
            image: 256,
            step: 64,
            growth: Growth::Transposed,
            initial: None,
            critic_norm: CriticNorm::default(),
            critic_profile: false,
        }
    }
}

impl GanModelConfig {
    pub fn sizes(&self) -> Sizes {
        Sizes {
            image: self.image,
            step: self.step,
        }
    }
}

/// What the generator starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The profile's latent mean with narrow noise, standardised.
    #[default]
    Profile,
    /// Normal noise: the plain GAN.
    Normal,
    /// The narrow noise without a profile: the control.
    Narrow,
}

/// By what latent and noise are standardised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standardise {
    /// Mean and deviation over all training tiles, so that a tile does not depend on its batch
    /// mates.
    #[default]
    Training,
    /// Those of the batch, as published.
    Batch,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InputConfig {
    pub start: Start,
    /// Half the width of the narrow noise.
    pub noise: f32,
    pub standardise: Standardise,
    /// Length of the input where it is noise alone.
    pub latent: usize,
}

impl Default for InputConfig {
    fn default() -> Self {
        Self {
            start: Start::Profile,
            noise: NOISE,
            standardise: Standardise::Training,
            latent: 2048,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    pub kind: Adversarial,
    /// Weight of the gradient penalty; 0 for none.
    pub penalty: f64,
    /// Critic's weights are cut to within - and + this before its steps; 0 for no cut.
    pub clip: f64,
    /// As published: one norm per batch, one alpha per batch, latents standardised by the batch,
    /// and in each iteration a step of the generator, one of the critic, and one on the penalty
    /// alone.
    pub reference_quirks: bool,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            kind: Adversarial::Wasserstein,
            penalty: 10.0,
            clip: 0.0,
            reference_quirks: false,
        }
    }
}

impl LossConfig {
    pub fn objective(&self) -> Objective {
        Objective {
            adversarial: self.kind,
            penalty: self.penalty,
            norm: match self.reference_quirks {
                true => Norm::Batch,
                false => Norm::Sample,
            },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GanTrainingConfig {
    pub epochs: usize,
    pub batch: usize,
    /// Tiles of a slide that are seen in an epoch, drawn anew each time; 0 for all.
    pub tiles_per_slide: usize,
    /// Slides or sections that are not trained on.
    pub hold_out: Vec<String>,
    pub generator_rate: f64,
    pub critic_rate: f64,
    pub betas: [f64; 2],
    /// Steps of the critic for each of the generator.
    pub critic_steps: usize,
    /// The generator that is kept and looked at is a running mean of that which is trained, which
    /// loses so much of the past in a step that this share is left; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub average: f64,
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Default for GanTrainingConfig {
    fn default() -> Self {
        Self {
            epochs: 50,
            batch: 8,
            tiles_per_slide: 0,
            hold_out: Vec::new(),
            generator_rate: 1e-4,
            critic_rate: 4e-4,
            betas: [0.5, 0.999],
            critic_steps: 1,
            average: 0.0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchConfig {
    /// Tiles that are looked at after each epoch.
    pub tiles: usize,
    /// The generator has collapsed when its tiles differ from each other by less than this share
    /// of what real ones do.
    pub diversity: f64,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            tiles: 32,
            diversity: 0.1,
        }
    }
}

impl GanConfig {
    /// Where weights start.
    pub fn initial(&self) -> Initial {
        let usual = match self.loss.reference_quirks {
            true => Initial::Torchgan,
            false => Initial::Dcgan,
        };
        self.model.initial.unwrap_or(usual)
    }
}

impl RunFile for GanConfig {
    const README: &'static str = "src/models/rnagan/README.md";

    fn overrule(&mut self, said: &Said) -> Result<()> {
        self.seed = said.seed.unwrap_or(self.seed);
        said.in_f32_alone("RNA-GAN")?;
        self.data.icc |= said.icc;
        said.without_stain("RNA-GAN")
    }

    fn resolve(&mut self, base: &Path) {
        self.data.resolve(base);
        if let Some(vae) = &mut self.vae {
            *vae = base.join(&*vae);
        }
    }

    fn validate(&self) -> Result<()> {
        at_least_one(&[
            ("input.latent", self.input.latent),
            ("training.epochs", self.training.epochs),
            ("training.critic_steps", self.training.critic_steps),
        ])?;
        at_least_two("training.batch", self.training.batch)?;
        at_least_two("watch.tiles", self.watch.tiles)?;
        is_positive("training.generator_rate", self.training.generator_rate)?;
        is_positive("training.critic_rate", self.training.critic_rate)?;
        let numbers = [
            ("loss.penalty", self.loss.penalty),
            ("loss.clip", self.loss.clip),
            ("input.noise", f64::from(self.input.noise)),
            ("watch.diversity", self.watch.diversity),
        ];
        if let Some((name, value)) = numbers.iter().find(|(_, v)| !(*v >= 0.0 && v.is_finite())) {
            return Err(Error::usage(
                format!("{name} = {value} cannot be"),
                "set it to 0 or more",
            ));
        }
        if !(0.0..1.0).contains(&self.training.average) {
            return Err(Error::usage(
                format!("training.average = {} is no share", self.training.average),
                "set it to 0 or more and below 1, such as 0.995",
            ));
        }
        let profile = self.input.start == Start::Profile;
        if self.model.critic_profile && !profile {
            return Err(Error::usage(
                "model.critic_profile gives the critic profiles, and the input has none",
                "set it to false, or input.start to \"profile\"",
            ));
        }
        if profile != self.vae.is_some() {
            return Err(Error::usage(
                match profile {
                    true => "profiles need a beta-VAE that makes latents of them",
                    false => "a beta-VAE is given, and the input is noise alone",
                },
                "set vae to the folder of an `eosin train betavae` run, or input.start to \
                 \"normal\" or \"narrow\"",
            ));
        }
        Ok(())
    }
}
