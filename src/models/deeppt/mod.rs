//! DeepPT (Hoang et al. 2024, Nature Cancer, "A deep-learning framework to
//! predict cancer treatment response from histopathology images through imputed
//! transcriptomics"): tiles -> ResNet-50 features (2,048) -> autoencoder code
//! (512) -> expression, averaged over the tiles of a slide.
//!
//! Letters: T tiles, S samples (slides, sections or spots), G genes.

use std::sync::Arc;

use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::nn::{Linear, Module, Param, Pass, Slot, State, key};
use crate::ops::{self, Activation, half::wide};
use crate::random::Philox;
use crate::session::Predict;
use crate::tensor::Tensor;

/// Widths of the paper's networks.
pub const FEATURES: usize = 2048;
pub const CODE: usize = 512;

/// encoder: ReLU(W x + b), 2,048 -> 512; decoder: ReLU(V c + d), 512 -> 2,048.
pub struct AutoEncoder {
    pub encoder: Linear,
    pub decoder: Linear,
}

impl AutoEncoder {
    pub fn new(features: usize, code: usize, random: &mut Philox) -> Result<Self> {
        Ok(Self {
            encoder: Linear::new(features, code, true, random)?,
            decoder: Linear::new(code, features, true, random)?,
        })
    }

    /// (T, features) -> (T, code)
    pub fn encode(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.encoder.activated(x, Activation::Relu, pass)
    }

    /// (T, code) -> (T, features)
    pub fn decode(&self, code: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.decoder.activated(code, Activation::Relu, pass)
    }

    /// The mean squared error of the reconstruction, in f32 where x is bf16 or f16.
    pub fn loss(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let y = self.decode(&self.encode(x, pass)?, pass)?;
        ops::mse_loss(&wide(&y)?, &wide(x)?)
    }
}

impl State for AutoEncoder {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        self.encoder.visit(&key(prefix, "encoder.0"), visit);
        self.decoder.visit(&key(prefix, "decoder.0"), visit);
    }
}

impl Predict for AutoEncoder {
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let pass = Pass::eval();
        let code = self.encode(x, &pass)?;
        let reconstruction = self.decode(&code, &pass)?;
        Ok(vec![("code", code), ("reconstruction", reconstruction)])
    }

    fn device(&self) -> Device {
        self.encoder.weight.value().device()
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>> {
        let stream = Device::Cuda(stream.clone());
        Ok(Arc::new(Self {
            encoder: self.encoder.to(&stream)?,
            decoder: self.decoder.to(&stream)?,
        }))
    }
}

/// The regression: 512 -> 512, dropout, 512 -> G, then the mean over a
/// sample's tiles. As published there is no activation in between, so without
/// dropout it is linear in the mean code.
pub struct Mlp {
    pub layer0: Linear,
    pub layer1: Linear,
    pub dropout: f64,
}

impl Mlp {
    /// The last bias starts at `gene_means` (G), the training mean of each gene.
    pub fn new(
        code: usize,
        hidden: usize,
        gene_means: &[f32],
        dropout: f64,
        random: &mut Philox,
    ) -> Result<Self> {
        let genes = gene_means.len();
        let layer0 = Linear::new(code, hidden, true, random)?;
        let mut layer1 = Linear::new(hidden, genes, true, random)?;
        layer1.bias = Some(Param::new(
            "bias",
            Tensor::from_slice(gene_means, &[genes])?,
        ));
        Ok(Self {
            layer0,
            layer1,
            dropout,
        })
    }

    /// codes (T, 512) of all samples' tiles one after the other, and how many
    /// tiles each sample has -> (S, G).
    ///
    /// # Errors
    /// A sample without tiles, or counts that do not add up to T.
    pub fn forward(&self, codes: &Tensor, tiles: &[usize], pass: &Pass) -> Result<Tensor> {
        let weights = averaging(tiles, codes.shape()[0])?.to(&codes.device())?;
        self.forward_weighted(codes, &weights, pass)
    }

    /// codes (T, 512) and the weights (S, T) of [`averaging`] -> (S, G): nothing
    /// but tensors goes in, so that a captured step can be given another batch.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward_weighted(
        &self,
        codes: &Tensor,
        weights: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor> {
        let h = self.layer0.forward(codes, pass)?; // (T, hidden)
        let h = crate::nn::Dropout { p: self.dropout }.forward(&h, pass)?;
        // The paper averages after the last layer. That layer is linear, so the
        // mean goes first: the same function with one product per sample
        // instead of one per tile.
        // In f32: bf16 has no exact 1 / n, which would scale every mean.
        let h = ops::matmul(weights, &wide(&h)?)?; // (S, hidden)
        let h = ops::cast(&h, codes.dtype())?;
        self.layer1.forward(&h, pass) // (S, G)
    }

    /// The same function of codes z' = (z - mean) / scale predicting
    /// y' = (y - target_mean) / target_scale, as a function of z predicting y:
    /// the standardisation that training uses moves into the weights.
    pub fn absorb(&self, codes: &Standardisation, targets: &Standardisation) -> Result<()> {
        let bias = |l: &Linear| l.bias.as_ref().map(Param::value);
        let (w0, b0) = (self.layer0.weight.value(), bias(&self.layer0));
        let inverse = ops::pow(&codes.scale, -1.0)?; // (512)
        let w0 = ops::mul(&w0, &inverse)?;
        let shift = ops::linear(&codes.mean, &w0, None, Activation::None)?;
        self.layer0.weight.set(w0)?;
        if let (Some(param), Some(b)) = (&self.layer0.bias, b0) {
            param.set(ops::sub(&b, &shift)?)?;
        }
        let (w1, b1) = (self.layer1.weight.value(), bias(&self.layer1));
        let column = ops::reshape(&targets.scale, &[targets.scale.elements(), 1])?;
        self.layer1.weight.set(ops::mul(&w1, &column)?)?;
        if let (Some(param), Some(b)) = (&self.layer1.bias, b1) {
            param.set(ops::add(&ops::mul(&b, &targets.scale)?, &targets.mean)?)?;
        }
        Ok(())
    }
}

impl State for Mlp {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        self.layer0.visit(&key(prefix, "layer0.0"), visit);
        self.layer1.visit(&key(prefix, "layer1"), visit);
    }
}

/// One slide's codes (T, 512) -> genes (G).
impl Predict for Mlp {
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let [tiles, _] = x.shape()[..] else {
            return Err(Error::shape("deeppt", &[x.shape()], "codes (tiles, 512)"));
        };
        let y = self.forward(x, &[tiles], &Pass::eval())?; // (1, G)
        Ok(vec![("genes", ops::reshape(&y, &[y.elements()])?)])
    }

    fn device(&self) -> Device {
        self.layer0.weight.value().device()
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>> {
        let stream = Device::Cuda(stream.clone());
        Ok(Arc::new(Self {
            layer0: self.layer0.to(&stream)?,
            layer1: self.layer1.to(&stream)?,
            dropout: self.dropout,
        }))
    }
}

/// (S, T) on the CPU: row s averages the tiles of sample s. Bags are ragged: their
/// rows are packed one after the other, never padded.
///
/// # Errors
/// A sample without tiles, or counts that do not add up to `total`.
pub fn averaging(tiles: &[usize], total: usize) -> Result<Tensor> {
    if tiles.contains(&0) || tiles.iter().sum::<usize>() != total {
        return Err(Error::op(
            "deeppt",
            format!("tile counts {tiles:?} do not cut {total} tiles into samples"),
        ));
    }
    let mut weights = vec![0.0f32; tiles.len() * total];
    let mut start = 0;
    for (row, &n) in weights.chunks_mut(total.max(1)).zip(tiles) {
        row[start..start + n].fill(1.0 / n as f32);
        start += n;
    }
    Tensor::from_slice(&weights, &[tiles.len(), total])
}

/// Mean and scale of each column over training rows.
pub struct Standardisation {
    /// (columns)
    pub mean: Tensor,
    /// (columns); 1 where a column does not vary.
    pub scale: Tensor,
}

impl Standardisation {
    /// Of (rows, columns).
    pub fn fit(rows: &Tensor) -> Result<Self> {
        let mean = ops::mean(rows, &[0], false)?;
        let var = ops::var(rows, &[0], 0, false)?;
        let scale: Vec<f32> = (var.to_f64_vec()?.into_iter())
            .map(|v| if v > 1e-12 { v.sqrt() as f32 } else { 1.0 })
            .collect();
        Ok(Self {
            scale: Tensor::from_slice(&scale, mean.shape())?.to(&mean.device())?,
            mean,
        })
    }

    pub fn identity(columns: usize, device: &Device) -> Result<Self> {
        let constant = |value| Tensor::full_on(value, &[columns], DType::F32, device);
        Ok(Self {
            mean: constant(0.0)?,
            scale: constant(1.0)?,
        })
    }

    /// (x - mean) / scale
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        ops::div(&ops::sub(x, &self.mean)?, &self.scale)
    }
}
