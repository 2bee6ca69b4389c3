//! The beta-VAE that compresses an expression profile (Higgins et al. 2017; Carrillo-Perez
//! et al. 2023, "beta-VAE architecture"), with the published code's keys.

use std::sync::Arc;

use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::nn::{BatchNorm, Dropout, Linear, Module, Pass, Slot, State, key};
use crate::ops;
use crate::random::Philox;
use crate::session::Predict;
use crate::tensor::Tensor;

/// Of every leaky ReLU.
const SLOPE: f64 = 0.01;

/// Sizes. Published: 19,198 genes, encoder 6,000-4,000-2,048, latent 2,048, decoder
/// 4,000-6,000.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub genes: usize,
    /// Widths of the encoder's layers, at least one.
    pub encoder: Vec<usize>,
    pub latent: usize,
    /// Widths of the decoder's layers before the last, which gives the genes.
    pub decoder: Vec<usize>,
}

/// leaky_relu(norm(linear(x)))
struct Layer {
    linear: Linear,
    norm: BatchNorm,
}

impl Layer {
    fn new(inputs: usize, outputs: usize, random: &mut Philox) -> Result<Self> {
        Ok(Self {
            linear: Linear::new(inputs, outputs, true, random)?,
            norm: BatchNorm::new(outputs)?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let y = self.linear.forward(x, pass)?;
        ops::leaky_relu(&self.norm.forward(&y, pass)?, SLOPE)
    }
}

impl State for Layer {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        self.linear.visit(&key(prefix, "0"), visit);
        self.norm.visit(&key(prefix, "1"), visit);
    }
}

/// What the encoder says of a profile.
pub struct Encoded {
    /// (N, last width of the encoder)
    pub hidden: Tensor,
    /// Of the latent's normal distribution, each (N, latent).
    pub mean: Tensor,
    pub logvar: Tensor,
}

/// The parts of the loss, each one number.
pub struct Losses {
    /// The mean of (x' - x)^2 over genes and batch.
    pub reconstruction: Tensor,
    /// KL divergence from the standard normal distribution, summed over the latent and
    /// averaged over the batch.
    pub divergence: Tensor,
}

impl Losses {
    /// reconstruction + beta divergence
    ///
    /// # Errors
    /// None but those of the device.
    pub fn total(&self, beta: f64) -> Result<Tensor> {
        ops::add(
            &self.reconstruction,
            &ops::affine(&self.divergence, beta, 0.0)?,
        )
    }
}

pub struct BetaVae {
    /// On the profile itself.
    pub dropout: Dropout,
    encoder: Vec<Layer>,
    z_mu: Linear,
    z_logvar: Linear,
    decoder: Vec<Layer>,
    last: Linear,
    config: Config,
}

impl BetaVae {
    /// Without dropout, which [`Self::dropout`] sets.
    ///
    /// # Errors
    /// An encoder without layers; sizes that a tensor cannot have.
    pub fn new(config: &Config, random: &mut Philox) -> Result<Self> {
        let chain = |first: usize, widths: &[usize], random: &mut Philox| {
            let inputs = std::iter::once(first).chain(widths.iter().copied());
            let layers = inputs.zip(widths).map(|(i, &o)| Layer::new(i, o, random));
            layers.collect::<Result<Vec<_>>>()
        };
        let Some(&hidden) = config.encoder.last() else {
            return Err(Error::usage(
                "a beta-VAE without hidden layers has no encoder",
                "give at least one width",
            ));
        };
        let before_last = config.decoder.last().copied().unwrap_or(config.latent);
        Ok(Self {
            dropout: Dropout { p: 0.0 },
            encoder: chain(config.genes, &config.encoder, random)?,
            z_mu: Linear::new(hidden, config.latent, true, random)?,
            z_logvar: Linear::new(hidden, config.latent, true, random)?,
            decoder: chain(config.latent, &config.decoder, random)?,
            last: Linear::new(before_last, config.genes, true, random)?,
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// x (N, genes), standardised.
    ///
    /// # Errors
    /// Another number of genes; in training, a batch of one.
    pub fn encode(&self, x: &Tensor, pass: &Pass) -> Result<Encoded> {
        let mut y = self.dropout.forward(x, pass)?;
        for layer in &self.encoder {
            y = layer.forward(&y, pass)?;
        }
        Ok(Encoded {
            mean: self.z_mu.forward(&y, pass)?,
            logvar: self.z_logvar.forward(&y, pass)?,
            hidden: y,
        })
    }

    /// z (N, latent) -> (N, genes), in (-1, 1): the decoder ends in tanh as published,
    /// although standardised expression goes beyond it.
    ///
    /// # Errors
    /// Another latent; in training, a batch of one.
    pub fn decode(&self, z: &Tensor, pass: &Pass) -> Result<Tensor> {
        let mut y = z.clone();
        for layer in &self.decoder {
            y = layer.forward(&y, pass)?;
        }
        ops::tanh(&self.last.forward(&y, pass)?)
    }

    /// What is decoded from a sample of x's latent, z = mean + noise exp(logvar / 2), and its
    /// losses. `noise` (N, latent) is standard normal.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn losses(&self, x: &Tensor, noise: &Tensor, pass: &Pass) -> Result<(Tensor, Losses)> {
        let encoded = self.encode(x, pass)?;
        let y = self.decode(&encoded.sample(noise)?, pass)?;
        let wide = |t: &Tensor| ops::cast(t, DType::F32);
        let losses = Losses {
            reconstruction: ops::mse_loss(&wide(&y)?, &wide(x)?)?,
            divergence: encoded.divergence()?,
        };
        Ok((y, losses))
    }
}

impl Encoded {
    /// mean + noise exp(logvar / 2)
    ///
    /// # Errors
    /// A noise of another shape.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        let deviation = ops::exp(&ops::affine(&self.logvar, 0.5, 0.0)?)?;
        ops::add(&self.mean, &ops::mul(noise, &deviation)?)
    }

    /// The mean over the batch of sum -(1 + logvar - mean^2 - exp(logvar)) / 2.
    fn divergence(&self) -> Result<Tensor> {
        let [mean, logvar] = [&self.mean, &self.logvar].map(|t| ops::cast(t, DType::F32));
        let (mean, logvar) = (mean?, logvar?);
        let square = ops::mul(&mean, &mean)?;
        let excess = ops::sub(&ops::add(&square, &ops::exp(&logvar)?)?, &logvar)?;
        let each = ops::sum(&ops::affine(&excess, 0.5, -0.5)?, &[1], false)?;
        ops::mean(&each, &[0], false)
    }
}

impl State for BetaVae {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        let encoder = key(prefix, "encoder.encoder");
        for (i, layer) in self.encoder.iter().enumerate() {
            // The first is the dropout.
            layer.visit(&key(&encoder, &(i + 1).to_string()), visit);
        }
        self.z_mu.visit(&key(prefix, "z_mu"), visit);
        self.z_logvar.visit(&key(prefix, "z_logvar"), visit);
        let decoder = key(prefix, "decoder");
        for (i, layer) in self.decoder.iter().enumerate() {
            layer.visit(&key(&decoder, &i.to_string()), visit);
        }
        let last = key(&decoder, &self.decoder.len().to_string());
        self.last.visit(&key(&last, "0"), visit);
    }
}

impl Predict for BetaVae {
    /// `z_mean` and `z_logvar` (N, latent), `reconstruction` (N, genes) of the mean.
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let pass = Pass::eval();
        let encoded = self.encode(x, &pass)?;
        let y = self.decode(&encoded.mean, &pass)?;
        Ok(vec![
            ("z_mean", encoded.mean),
            ("z_logvar", encoded.logvar),
            ("reconstruction", y),
        ])
    }

    fn device(&self) -> Device {
        self.last.weight.value().device()
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>> {
        let device = Device::Cuda(stream.clone());
        let twin = Self::new(&self.config, &mut Philox::new(0))?;
        self.share(&twin, &device)?;
        Ok(Arc::new(twin))
    }
}
