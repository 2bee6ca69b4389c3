//! RNA-GAN (Carrillo-Perez et al. 2023, Cell Reports Methods 3:100534): a beta-VAE
//! compresses an expression profile, and its latent with narrow noise drives a
//! generator of tissue tiles, which learns from a critic.

pub mod betavae;
mod critic;
mod generator;
pub mod losses;

pub use betavae::BetaVae;
pub use critic::Critic;
pub use generator::{Generator, Growth};

use crate::error::{Error, Result};
use crate::models::initial::{he_normal, narrow_normal};
use crate::nn::State;
use crate::ops;
use crate::random::Philox;
use crate::tensor::Tensor;

/// Of every leaky ReLU of generator and critic.
const LAYER_SLOPE: f64 = 0.2;

/// Half the width of the uniform noise that is added to the latent of a profile.
pub const NOISE: f32 = 0.3;

/// From what distribution the weights of convolutions are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "formats", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "formats", serde(rename_all = "lowercase"))]
pub enum Initial {
    /// Normal of variance 2 / fan_in, as torchgan and so the published code.
    Torchgan,
    /// Normal of deviation 0.02, as DCGAN's paper. torchgan's weights in front of the tanh give
    /// it inputs of deviation 2, so that a new generator's levels are nearly all black or white.
    Dcgan,
}

impl Initial {
    /// Draws the weights of a new model anew.
    ///
    /// # Errors
    /// No memory left.
    pub fn draw(self, model: &dyn State, random: &mut Philox) -> Result<()> {
        match self {
            Self::Torchgan => he_normal(model, random),
            Self::Dcgan => narrow_normal(model, random),
        }
    }
}

/// Sizes of a generator and its critic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Side of an image: a power of 2, at least 16.
    pub image: usize,
    /// Channels next to the image; they double with every halving of its side.
    pub step: usize,
}

impl Sizes {
    /// The channels of the images between (side image / 2 .. 4), from the outside in.
    fn widths(&self) -> Result<Vec<usize>> {
        if !self.image.is_power_of_two() || self.image < 16 || self.step == 0 {
            return Err(Error::usage(
                format!(
                    "images of {} px from {} channels cannot be made by doubling",
                    self.image, self.step
                ),
                "give a power of 2 of at least 16, and at least 1 channel",
            ));
        }
        let halvings = self.image.trailing_zeros() - 2;
        let width = |i: u32| self.step.checked_mul(1usize.checked_shl(i)?);
        let widths: Option<Vec<usize>> = (0..halvings).map(width).collect();
        widths.ok_or_else(|| {
            Error::usage(
                format!("{} channels cannot be doubled {halvings} times", self.step),
                "give fewer channels",
            )
        })
    }
}

/// The generator's input: (x - mean) / deviation over the batch of x = latent + noise, both
/// (N, latent), with n - 1 in the deviation and nothing added to it.
///
/// # Errors
/// A batch of one, which has no deviation.
pub fn standardised(latent: &Tensor, noise: &Tensor) -> Result<Tensor> {
    let x = ops::add(latent, noise)?;
    if x.shape().first().is_none_or(|&n| n < 2) {
        return Err(Error::usage(
            "a batch of one has no deviation to standardise its latent by",
            "give a batch of at least 2",
        ));
    }
    let centred = ops::sub(&x, &ops::mean(&x, &[0], true)?)?;
    ops::div(&centred, &ops::sqrt(&ops::var(&x, &[0], 1, true)?)?)
}
