//! Whether a training of generator and critic is still alive.

use serde::{Deserialize, Serialize};

use super::config::WatchConfig;
use crate::autograd::grad;
use crate::error::Result;
use crate::models::rnagan::losses::Objective;
use crate::models::rnagan::{Critic, Generator};
use crate::nn::{Param, Pass, State};
use crate::tensor::Tensor;

/// What an epoch came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signs {
    /// Mean losses of the epoch's steps, the critic's with its penalty.
    pub generator_loss: f64,
    pub critic_loss: f64,
    /// The critic's mean score of the watched real tiles less that of generated ones.
    pub gap: f64,
    /// How much tiles differ from each other at a place, in levels: the mean over places of the
    /// deviation over tiles.
    pub diversity: f64,
    pub real_diversity: f64,
    /// L2 norms of the losses' gradients on the watched tiles, without the penalty.
    pub generator_gradient: f64,
    pub critic_gradient: f64,
}

/// What the signs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    Good,
    /// Tiles are too much alike.
    Collapsed,
    /// Something is no longer a number.
    Lost,
}

impl Signs {
    /// Looks at real tiles (N, 3, H, W) and what is generated of their z (N, latent), with running
    /// statistics, which stay as they are.
    ///
    /// # Errors
    /// What the networks return.
    pub fn of(
        (generator, critic): (&Generator, &Critic),
        objective: &Objective,
        [real, z]: [&Tensor; 2],
        [generator_loss, critic_loss]: [f64; 2],
    ) -> Result<Self> {
        let fake = generator.forward(z, &Pass::eval())?;
        let pass = Pass::eval_recorded();
        let score = |x: &Tensor| critic.score(x, Some(z), &pass);
        let (of_real, of_fake) = (score(real)?, score(&fake)?);
        let loss = objective.adversarial.critic(&of_real, &of_fake)?;
        let critic_gradient = norm(&loss, critic)?;
        let loss = objective.generator(generator, critic, z, &pass)?;
        let mean = |scores: &Tensor| -> Result<f64> {
            let scores = scores.to_f64_vec()?;
            Ok(scores.iter().sum::<f64>() / scores.len().max(1) as f64)
        };
        Ok(Self {
            generator_loss,
            critic_loss,
            gap: mean(&of_real)? - mean(&of_fake)?,
            diversity: diversity(&fake)?,
            real_diversity: diversity(real)?,
            generator_gradient: norm(&loss, generator)?,
            critic_gradient,
        })
    }

    pub fn health(&self, config: &WatchConfig) -> Health {
        let all = [
            self.generator_loss,
            self.critic_loss,
            self.gap,
            self.diversity,
            self.generator_gradient,
            self.critic_gradient,
        ];
        if all.iter().any(|v| !v.is_finite()) {
            return Health::Lost;
        }
        match self.diversity < config.diversity * self.real_diversity {
            true => Health::Collapsed,
            false => Health::Good,
        }
    }
}

/// The L2 norm of the gradient of all parameters together.
fn norm(loss: &Tensor, model: &dyn State) -> Result<f64> {
    let params: Vec<Param> = model.parameters().into_iter().map(|(_, p)| p).collect();
    let params: Vec<Tensor> = params.iter().map(Param::recorded).collect();
    let mut square = 0.0;
    let gradients = grad(&[loss], None, &params.iter().collect::<Vec<_>>(), false)?;
    for gradient in gradients.into_iter().flatten() {
        square += gradient.to_f64_vec()?.iter().map(|v| v * v).sum::<f64>();
    }
    Ok(square.sqrt())
}

/// Of images (N, 3, H, W) in (-1, 1), in levels of 0 to 255.
fn diversity(images: &Tensor) -> Result<f64> {
    let n = images.shape().first().copied().unwrap_or(0).max(1);
    let values = images.to_f64_vec()?;
    let places = values.len() / n;
    let deviation = |i: usize| {
        let at = || values[i..].iter().step_by(places.max(1));
        let mean = at().sum::<f64>() / n as f64;
        (at().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64).sqrt()
    };
    Ok(127.5 * (0..places).map(deviation).sum::<f64>() / places.max(1) as f64)
}
