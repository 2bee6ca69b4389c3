//! What the generator starts from: latents of profiles and noise.

use std::path::Path;

use super::config::{InputConfig, Standardise, Start};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::{Array, Weights, read_weights, safetensors};
use crate::models::rnagan::standardised;
use crate::nn::{to_array, to_tensor};
use crate::ops;
use crate::random::Philox;
use crate::tensor::Tensor;

/// The least deviation that is divided by.
const LEAST: f64 = 1e-6;

/// How a latent becomes the generator's input.
#[derive(Clone)]
pub struct Input {
    config: InputConfig,
    pub latent: usize,
    /// Mean and deviation (1, latent) of latent and noise over the training tiles, where there
    /// are latents.
    scale: Option<[Tensor; 2]>,
}

impl Input {
    /// From the latents (items, latent) of the tiles that are trained on; none where the
    /// input is noise alone.
    ///
    /// # Errors
    /// No items; no memory left.
    pub fn new(config: InputConfig, latents: Option<&Tensor>, device: &Device) -> Result<Self> {
        let Some(latents) = latents else {
            return Ok(Self {
                config,
                latent: config.latent,
                scale: None,
            });
        };
        let &[items, latent] = latents.shape() else {
            return Err(Error::shape("input", &[latents.shape()], "(items, latent)"));
        };
        if items == 0 {
            return Err(Error::op("input", "there are no latents"));
        }
        let mean = ops::mean(latents, &[0], true)?;
        // Latent and noise are independent; that of U(-a, a) is a^2 / 3.
        let noise = f64::from(config.noise).powi(2) / 3.0;
        let variance = ops::affine(&ops::var(latents, &[0], 0, true)?, 1.0, noise)?;
        let deviation = ops::sqrt(&ops::clamp(&variance, LEAST * LEAST, f64::INFINITY)?)?;
        Ok(Self {
            config,
            latent,
            scale: Some([mean.to(device)?, deviation.to(device)?]),
        })
    }

    /// Noise (n, latent) on the CPU, of the kind that the input has.
    ///
    /// # Errors
    /// More than memory holds.
    pub fn noise(&self, n: usize, mut random: Philox) -> Result<Tensor> {
        let mut values = vec![0.0; n * self.latent];
        match self.config.start {
            Start::Normal => random.fill_normal(&mut values, 0.0, 1.0),
            Start::Profile | Start::Narrow => {
                random.fill_uniform(&mut values, -self.config.noise, self.config.noise);
            }
        }
        Tensor::from_slice(&values, &[n, self.latent])
    }

    /// The input of training steps, from latents, if there are, and noise (N, latent).
    ///
    /// # Errors
    /// A batch of one that is to be standardised by itself.
    pub fn of_batch(&self, latents: Option<&Tensor>, noise: &Tensor) -> Result<Tensor> {
        match (latents, self.config.standardise) {
            (Some(latents), Standardise::Batch) => standardised(latents, noise),
            _ => self.of_tiles(latents, noise),
        }
    }

    /// The same standardised by the training tiles: each row by itself. What tiles are generated
    /// from, since in a batch of one profile its latent would cancel out.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn of_tiles(&self, latents: Option<&Tensor>, noise: &Tensor) -> Result<Tensor> {
        match (latents, &self.scale) {
            (Some(latents), Some([mean, deviation])) => {
                let x = ops::add(latents, noise)?;
                ops::div(&ops::sub(&x, mean)?, deviation)
            }
            _ => Ok(noise.clone()),
        }
    }

    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut file = Weights::new();
        let length = Array::from_i64(&[], &[self.latent as i64])?;
        file.insert("latent", length)?;
        if let Some([mean, deviation]) = &self.scale {
            file.insert("mean", to_array(mean)?)?;
            file.insert("deviation", to_array(deviation)?)?;
        }
        safetensors::write(path, &file)
    }

    /// # Errors
    /// A file that is no such.
    pub fn read(config: InputConfig, path: &Path, device: &Device) -> Result<Self> {
        let file = read_weights(path)?;
        let broken = || {
            let remedy = "give the folder of an `eosin train rnagan` run";
            Error::file(path, "", "is not the input of a generator", remedy)
        };
        let latent = to_tensor(file.get("latent").ok_or_else(broken)?)?.item()? as usize;
        let row = |key: &str| -> Result<Option<Tensor>> {
            let Some(array) = file.get(key) else {
                return Ok(None);
            };
            let row = to_tensor(array)?;
            match row.shape() == [1, latent] {
                true => row.to(device).map(Some),
                false => Err(broken()),
            }
        };
        let scale = match (row("mean")?, row("deviation")?) {
            (Some(mean), Some(deviation)) => Some([mean, deviation]),
            _ if config.start == Start::Profile => return Err(broken()),
            _ => None,
        };
        Ok(Self {
            config,
            latent,
            scale,
        })
    }
}
