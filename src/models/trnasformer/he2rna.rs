//! HE2RNA (Schmauch et al. 2020, Nature Communications 11:3877, "A deep learning
//! model to predict RNA-Seq expression of tumours from whole slide images"), as
//! tRNAsformer's repository has it for comparison: 1-D convolutions of width 1 over
//! the tiles, then the mean of each gene's highest scores.

use std::sync::Arc;

use super::bag::{self, FEATURES};
use super::pooling::{KS, Shares, in_parts, top_mean};
use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::nn::{Dropout, Module, Pass, Pointwise, Slot, State, key};
use crate::ops::half::wide;
use crate::ops::{self, Activation, Comparison};
use crate::random::Philox;
use crate::session::Predict;
use crate::tensor::Tensor;

/// Layers with ReLU and dropout between them and nothing behind the last.
pub struct He2Rna {
    widths: Vec<usize>,
    layers: Vec<Pointwise>,
    /// 0.25 in tRNAsformer's comparison, unless set.
    pub dropout: f64,
}

impl He2Rna {
    /// `widths` are those of the input (the last so many features of a tile), of the
    /// hidden layers and of the output (genes).
    ///
    /// # Errors
    /// Fewer than two widths, or more inputs than a tile has features.
    pub fn new(widths: &[usize], random: &mut Philox) -> Result<Self> {
        if widths.len() < 2 || widths[0] > FEATURES {
            return Err(Error::usage(
                format!("widths {widths:?} make no HE2RNA"),
                format!("give at most {FEATURES} inputs, hidden widths and the number of genes"),
            ));
        }
        let layers = widths.windows(2);
        let layers = layers.map(|w| Pointwise::new(w[0], w[1], random));
        Ok(Self {
            widths: widths.to_vec(),
            layers: layers.collect::<Result<_>>()?,
            dropout: super::DROPOUT,
        })
    }

    /// What the last layer sees (B, T, hidden), and which tiles count (B, T): those
    /// with a positive feature.
    fn hidden(&self, features: &Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        bag::check(features)?;
        let highest = wide(&ops::max(&features.detach(), &[-1], false)?)?;
        let zero = Tensor::full_on(0.0, &[1], DType::F32, &features.device())?;
        let mask = ops::compare(&highest, Comparison::Greater, &zero)?;
        let mask = ops::cast(&mask, DType::F32)?;
        let inputs = self.widths[0];
        let mut x = ops::slice(features, -1, FEATURES - inputs, inputs)?;
        for layer in self.layers.iter().take(self.layers.len() - 1) {
            x = layer.activated(&x, Activation::Relu, pass)?;
            x = Dropout { p: self.dropout }.forward(&x, pass)?;
        }
        Ok((x, mask))
    }

    fn last(&self) -> Result<&Pointwise> {
        let last = self.layers.last();
        last.ok_or_else(|| Error::op("he2rna", "internal: no layer"))
    }

    /// Features (B, T, F) -> expression (B, G), f32, from `k` tiles.
    ///
    /// # Errors
    /// Features of another shape; a `k` that is not in 1..=49.
    pub fn genes_at(&self, features: &Tensor, k: usize, pass: &Pass) -> Result<Tensor> {
        let (x, mask) = self.hidden(features, pass)?;
        let scores = wide(&self.last()?.forward(&x, pass)?)?;
        top_mean(&scores, k, &mask)
    }

    /// For each of `ks`, what [`Self::genes_at`] gives in evaluation: (B, ks, G).
    ///
    /// # Errors
    /// As [`Self::genes_at`].
    pub fn genes_at_each(&self, features: &Tensor, ks: &[usize]) -> Result<Tensor> {
        self.pooled(features, &Shares::each(ks)?)
    }

    /// Expression (B, G), f32, as published for evaluation: the mean over [`KS`].
    ///
    /// # Errors
    /// Features of another shape.
    pub fn genes(&self, features: &Tensor) -> Result<Tensor> {
        let y = self.pooled(features, &Shares::mean(&KS)?)?;
        ops::reshape(&y, &[y.shape()[0], y.shape()[2]])
    }

    /// Scores (B, T, `len`), f32, of the tiles for the genes from `start` on: what
    /// [`Self::genes`] takes the highest of.
    ///
    /// # Errors
    /// Features of another shape; genes that there are not.
    pub fn scores(&self, features: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        let pass = Pass::eval();
        let (x, _) = self.hidden(features, &pass)?;
        wide(&self.last()?.part(&x, start, len, &pass)?)
    }

    fn pooled(&self, features: &Tensor, shares: &Shares) -> Result<Tensor> {
        let pass = Pass::eval();
        let (x, mask) = self.hidden(features, &pass)?;
        let last = self.last()?;
        in_parts(x.shape()[0], last.outputs(), &mut |start, len| {
            let scores = wide(&last.part(&x, start, len, &pass)?)?;
            shares.apply(&scores, &mask)
        })
    }

    /// The mean squared error of the expression against `genes` (B, G), one f32.
    /// Expression is from `k` tiles, or as in evaluation for `None`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn loss(
        &self,
        features: &Tensor,
        genes: &Tensor,
        k: Option<usize>,
        pass: &Pass,
    ) -> Result<Tensor> {
        let predicted = match k {
            Some(k) => self.genes_at(features, k, pass)?,
            None => self.genes(features)?,
        };
        ops::mse_loss(&predicted, genes)
    }
}

impl State for He2Rna {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        for (i, layer) in self.layers.iter().enumerate() {
            layer.visit(&key(prefix, &format!("conv{i}")), visit);
        }
    }
}

/// Images of bags (B, 1, 224, 224) -> `genes` (B, G).
impl Predict for He2Rna {
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        Ok(vec![("genes", self.genes(&bag::features(x)?)?)])
    }

    fn device(&self) -> Device {
        (self.layers.first()).map_or(Device::Cpu, |l| l.weight.value().device())
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>> {
        let twin = Self::new(&self.widths, &mut Philox::new(0))?;
        self.share(&twin, &Device::Cuda(stream.clone()))?;
        Ok(Arc::new(twin))
    }
}
