//! The critic: image -> score, torchgan's DCGAN discriminator with its keys.

use std::sync::Arc;

use super::{LAYER_SLOPE, Sizes};
use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::error::{Error, Result};
use crate::models::initial::he_normal;
use crate::nn::{BatchNorm, Conv2d, ConvGeometry, Linear, Module, Pass, Slot, State, key};
use crate::ops;
use crate::random::Philox;
use crate::session::Predict;
use crate::tensor::Tensor;

/// (N, 3, size, size) -> (N)
pub struct Critic {
    /// Without batch norm.
    first: Conv2d,
    inner: Vec<(Conv2d, Option<BatchNorm>)>,
    /// 4 x 4 -> a number
    last: Conv2d,
    /// latent -> channels of the 4 x 4, where the critic is given the profile too.
    profile: Option<Linear>,
    sizes: Sizes,
}

impl Critic {
    /// Weights as those of [`super::Generator::new`].
    ///
    /// # Errors
    /// Sizes that a tensor cannot have.
    pub fn new(sizes: Sizes, random: &mut Philox) -> Result<Self> {
        Self::with_norms(sizes, true, random)
    }

    /// The same without batch norms, so that a score is of its image alone: Gulrajani et al.
    /// 2017 leave them out, since their penalty is of single images.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn plain(sizes: Sizes, random: &mut Philox) -> Result<Self> {
        Self::with_norms(sizes, false, random)
    }

    fn with_norms(sizes: Sizes, norms: bool, random: &mut Philox) -> Result<Self> {
        let widths = sizes.widths()?;
        let halving = ConvGeometry {
            stride: [2, 2],
            padding: [1, 1],
            ..ConvGeometry::default()
        };
        let first = Conv2d::new([3, sizes.step], [4, 4], halving, true, random)?;
        let inner = widths.windows(2).map(|pair| {
            let conv = Conv2d::new([pair[0], pair[1]], [4, 4], halving, false, random)?;
            let norm = norms.then(|| BatchNorm::new(pair[1])).transpose()?;
            Ok((conv, norm))
        });
        let inner = inner.collect::<Result<_>>()?;
        let widest = widths.last().copied().unwrap_or(0);
        let geometry = ConvGeometry::default();
        let model = Self {
            first,
            inner,
            last: Conv2d::new([widest, 1], [4, 4], geometry, false, random)?,
            profile: None,
            sizes,
        };
        he_normal(&model, random)?;
        Ok(model)
    }

    /// The critic that is also given the generator's input (N, latent), by projection (Miyato
    /// and Koyama 2018, equation 3): the product of a linear map of it and the mean over the
    /// last features is added to the score. The map starts from 0, so that profiles do not count
    /// until they are found to.
    ///
    /// # Errors
    /// A latent of no length.
    pub fn with_profile(mut self, latent: usize) -> Result<Self> {
        let widest = self.sizes.widths()?.last().copied().unwrap_or(0);
        let map = Linear::new(latent, widest, false, &mut Philox::new(0))?;
        map.weight
            .set(ops::affine(&map.weight.value(), 0.0, 0.0)?)?;
        self.profile = Some(map);
        Ok(self)
    }

    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// What the last layer sees of x (N, 3, size, size): (N, C, 4, 4).
    ///
    /// # Errors
    /// Another shape.
    pub fn features(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let mut y = ops::leaky_relu(&self.first.forward(x, pass)?, LAYER_SLOPE)?;
        for (conv, norm) in &self.inner {
            y = conv.forward(&y, pass)?;
            if let Some(norm) = norm {
                y = norm.forward(&y, pass)?;
            }
            y = ops::leaky_relu(&y, LAYER_SLOPE)?;
        }
        Ok(y)
    }

    /// Scores (N) of x (N, 3, size, size). As published they go through a leaky ReLU.
    ///
    /// # Errors
    /// Another shape; a critic that takes profiles.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.score(x, None, pass)
    }

    /// The same where the generator's input z (N, latent) is at hand; a critic that takes no
    /// profiles does not look at it.
    ///
    /// # Errors
    /// Another shape; a critic that takes profiles, and none.
    pub fn score(&self, x: &Tensor, z: Option<&Tensor>, pass: &Pass) -> Result<Tensor> {
        let features = self.features(x, pass)?;
        let n = x.shape().first().copied().unwrap_or(0);
        let mut y = ops::reshape(&self.last.forward(&features, pass)?, &[n])?;
        if let Some(map) = &self.profile {
            let z = z.ok_or_else(|| {
                Error::op("critic", "it scores tiles with their profiles; give them")
            })?;
            let means = ops::mean(&features, &[2, 3], false)?;
            let product = ops::mul(&map.forward(z, pass)?, &means)?;
            y = ops::add(&y, &ops::sum(&product, &[1], false)?)?;
        }
        ops::leaky_relu(&y, LAYER_SLOPE)
    }
}

impl State for Critic {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        self.last.visit(&key(prefix, "disc.0"), visit);
        let model = key(prefix, "model");
        self.first.visit(&key(&model, "0.0"), visit);
        for (i, (conv, norm)) in self.inner.iter().enumerate() {
            let at = key(&model, &(i + 1).to_string());
            conv.visit(&key(&at, "0"), visit);
            if let Some(norm) = norm {
                norm.visit(&key(&at, "1"), visit);
            }
        }
        if let Some(map) = &self.profile {
            map.visit(&key(prefix, "profile"), visit);
        }
    }
}

impl Predict for Critic {
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        Ok(vec![("score", self.forward(x, &Pass::eval())?)])
    }

    fn device(&self) -> Device {
        self.last.weight.value().device()
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>> {
        let norms = self.inner.iter().any(|(_, norm)| norm.is_some());
        let twin = Self::with_norms(self.sizes, norms, &mut Philox::new(0))?;
        self.share(&twin, &Device::Cuda(stream.clone()))?;
        Ok(Arc::new(twin))
    }
}
