//! What generator and critic are trained on.

use crate::autograd::grad;
use crate::error::{Error, Result};
use crate::models::rnagan::{Critic, Generator};
use crate::nn::Pass;
use crate::ops;
use crate::random::Philox;
use crate::shape::Format;
use crate::tensor::Tensor;

/// How the critic's scores become a loss; each as torchgan has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "formats", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "formats", serde(rename_all = "kebab-case"))]
pub enum Adversarial {
    /// The difference of mean scores (Arjovsky et al. 2017).
    #[default]
    Wasserstein,
    /// Cross entropy of "is real", whose logit is the score; the generator's as in Goodfellow
    /// et al. 2014, section 3, where it does not saturate.
    Minimax,
    /// Squared distance from 1 for real and 0 for generated (Mao et al. 2017).
    LeastSquares,
}

impl Adversarial {
    /// The generator's loss from the scores (N) of what it made.
    ///
    /// # Errors
    /// None but those of the device.
    pub fn generator(self, fake: &Tensor) -> Result<Tensor> {
        match self {
            Self::Wasserstein => ops::affine(&mean(fake)?, -1.0, 0.0),
            Self::Minimax => ops::bce_with_logits(fake, &like(fake, 1.0)?),
            Self::LeastSquares => half_square(fake, 1.0),
        }
    }

    /// The critic's loss from scores of real and generated images (N).
    ///
    /// # Errors
    /// None but those of the device.
    pub fn critic(self, real: &Tensor, fake: &Tensor) -> Result<Tensor> {
        match self {
            Self::Wasserstein => ops::sub(&mean(fake)?, &mean(real)?),
            Self::Minimax => {
                let of_real = ops::bce_with_logits(real, &like(real, 1.0)?)?;
                ops::add(&of_real, &ops::bce_with_logits(fake, &like(fake, 0.0)?)?)
            }
            Self::LeastSquares => ops::add(&half_square(real, 1.0)?, &half_square(fake, 0.0)?),
        }
    }
}

fn mean(x: &Tensor) -> Result<Tensor> {
    ops::mean(x, &[0], false)
}

fn like(x: &Tensor, value: f64) -> Result<Tensor> {
    Tensor::full_on(value, x.shape(), x.dtype(), &x.device())
}

fn half_square(x: &Tensor, from: f64) -> Result<Tensor> {
    let off = ops::affine(x, 1.0, -from)?;
    ops::affine(&mean(&ops::mul(&off, &off)?)?, 0.5, 0.0)
}

/// Of what the penalty takes the norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Each image's gradient, as Gulrajani et al. 2017 (algorithm 1).
    Sample,
    /// The gradients of the whole batch together, as published code of RNA-GAN.
    Batch,
}

/// alpha real + (1 - alpha) fake of images (N, 3, H, W); alpha (N) or one number (1).
///
/// # Errors
/// Shapes that do not fit.
pub fn interpolate(real: &Tensor, fake: &Tensor, alpha: &Tensor) -> Result<Tensor> {
    let alpha = ops::reshape(alpha, &[alpha.elements(), 1, 1, 1])?;
    // One physical order, so that the sum keeps it.
    let (real, fake) = (
        real.to_format(Format::ChannelsLast)?,
        fake.to_format(Format::ChannelsLast)?,
    );
    ops::add(&fake, &ops::mul(&alpha, &ops::sub(&real, &fake)?)?)
}

/// The mean of (|gradient of the critic at x| - 1)^2, recorded for the critic's parameters: x
/// itself is a constant, so nothing flows back to what made it.
///
/// # Errors
/// What the critic returns; a pass that does not record.
pub fn gradient_penalty(critic: &Critic, x: &Tensor, norm: Norm, pass: &Pass) -> Result<Tensor> {
    penalty_with(critic, x, None, norm, pass)
}

/// [`gradient_penalty`] at x with the generator's input z, for a critic that takes profiles.
fn penalty_with(
    critic: &Critic,
    x: &Tensor,
    z: Option<&Tensor>,
    norm: Norm,
    pass: &Pass,
) -> Result<Tensor> {
    let x = x.detach().variable();
    let scores = critic.score(&x, z, pass)?;
    let total = ops::sum_all(&scores)?;
    let gradient = grad(&[&total], None, &[&x], true)?.pop().flatten();
    let gradient = gradient
        .ok_or_else(|| Error::op("gradient_penalty", "internal: the score ignores the image"))?;
    let squares = ops::mul(&gradient, &gradient)?;
    let sums = match norm {
        Norm::Sample => ops::sum(&squares, &[1, 2, 3], false)?,
        Norm::Batch => ops::reshape(&ops::sum_all(&squares)?, &[1])?,
    };
    let off = ops::affine(&ops::sqrt(&sums)?, 1.0, -1.0)?;
    mean(&ops::mul(&off, &off)?)
}

/// What a training of generator and critic minimises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    pub adversarial: Adversarial,
    /// Weight of the gradient penalty; none is computed for 0.
    pub penalty: f64,
    pub norm: Norm,
}

impl Objective {
    /// The generator's loss on z (N, latent). Gradients of the critic's weights are nobody's,
    /// so ask for none: they are not computed then.
    ///
    /// # Errors
    /// What the networks return.
    pub fn generator(
        &self,
        generator: &Generator,
        critic: &Critic,
        z: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor> {
        let scores = critic.score(&generator.forward(z, pass)?, Some(z), pass)?;
        self.adversarial.generator(&scores)
    }

    /// The critic's loss on real images (N, 3, H, W) and what the generator makes of z
    /// (N, latent), row i of the profile of image i, without the penalty. The generator runs with the statistics of its batch and
    /// off the tape.
    ///
    /// # Errors
    /// What the networks return.
    pub fn gap(
        &self,
        generator: &Generator,
        critic: &Critic,
        [real, z]: [&Tensor; 2],
        pass: &Pass,
    ) -> Result<Tensor> {
        let of_real = critic.score(&real.to_format(Format::ChannelsLast)?, Some(z), pass)?;
        let fake = unrecorded(generator, z)?;
        self.adversarial
            .critic(&of_real, &critic.score(&fake, Some(z), pass)?)
    }

    /// The weighted penalty between real images and what the generator makes of z, at alpha (N),
    /// or (1) for one number for all.
    ///
    /// # Errors
    /// What the networks return.
    pub fn penalty(
        &self,
        generator: &Generator,
        critic: &Critic,
        [real, z, alpha]: [&Tensor; 3],
        pass: &Pass,
    ) -> Result<Tensor> {
        let fake = unrecorded(generator, z)?;
        self.weighted_penalty(critic, [real, &fake, alpha, z], pass)
    }

    /// [`Self::gap`] and [`Self::penalty`] together, from one forward pass of the generator.
    ///
    /// # Errors
    /// What the networks return.
    pub fn critic(
        &self,
        generator: &Generator,
        critic: &Critic,
        [real, z, alpha]: [&Tensor; 3],
        pass: &Pass,
    ) -> Result<Tensor> {
        let real = &real.to_format(Format::ChannelsLast)?;
        let fake = unrecorded(generator, z)?;
        let score = |x: &Tensor| critic.score(x, Some(z), pass);
        let (of_real, of_fake) = (score(real)?, score(&fake)?);
        let gap = self.adversarial.critic(&of_real, &of_fake)?;
        if self.penalty == 0.0 {
            return Ok(gap);
        }
        ops::add(
            &gap,
            &self.weighted_penalty(critic, [real, &fake, alpha, z], pass)?,
        )
    }

    fn weighted_penalty(
        &self,
        critic: &Critic,
        [real, fake, alpha, z]: [&Tensor; 4],
        pass: &Pass,
    ) -> Result<Tensor> {
        let between = interpolate(real, fake, alpha)?;
        let penalty = penalty_with(critic, &between, Some(z), self.norm, pass)?;
        ops::affine(&penalty, self.penalty, 0.0)
    }
}

fn unrecorded(generator: &Generator, z: &Tensor) -> Result<Tensor> {
    generator.forward(z, &Pass::train(Philox::new(0)).unrecorded())
}
