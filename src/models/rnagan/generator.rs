//! Generators: latent -> image. The DCGAN of Radford et al. 2016 as torchgan has it, and
//! the repository's variant that resizes and convolves where that has transposed
//! convolutions, with the published code's keys.

use std::sync::Arc;

use super::{LAYER_SLOPE, Sizes};
use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::error::{Error, Result};
use crate::models::initial::he_normal;
use crate::nn::{
    BatchNorm, Conv2d, ConvGeometry, ConvTranspose2d, ConvTransposeGeometry, Module, Pass, Slot,
    State, key,
};
use crate::ops;
use crate::random::Philox;
use crate::session::Predict;
use crate::tensor::Tensor;

/// How an image is made twice as large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "formats", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "formats", serde(rename_all = "kebab-case"))]
pub enum Growth {
    /// A transposed convolution, 4 x 4, stride 2; tanh at the end.
    #[default]
    Transposed,
    /// Bilinear resizing, a reflected border and a convolution, 3 x 3; nothing at the end,
    /// so values may leave (-1, 1).
    Resized,
}

enum Grow {
    Transposed(ConvTranspose2d),
    Resized(Conv2d),
}

impl Grow {
    fn new(growth: Growth, channels: [usize; 2], bias: bool, random: &mut Philox) -> Result<Self> {
        Ok(match growth {
            Growth::Transposed => {
                let geometry = ConvTransposeGeometry {
                    stride: [2, 2],
                    padding: [1, 1],
                    ..ConvTransposeGeometry::default()
                };
                Self::Transposed(ConvTranspose2d::new(
                    channels,
                    [4, 4],
                    geometry,
                    bias,
                    random,
                )?)
            }
            // As published, with a bias even where batch norm takes it away again.
            Growth::Resized => Self::Resized(Conv2d::new(
                channels,
                [3, 3],
                ConvGeometry::default(),
                true,
                random,
            )?),
        })
    }

    /// (N, C, H, W) -> (N, K, 2 H, 2 W)
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        match self {
            Self::Transposed(conv) => conv.forward(x, pass),
            Self::Resized(conv) => {
                let size = x.shape().iter().skip(2).map(|d| 2 * d).collect::<Vec<_>>();
                let &[h, w] = &size[..] else {
                    return Err(Error::shape("generator", &[x.shape()], "(N, C, H, W)"));
                };
                let x = ops::resize_bilinear(x, [h, w], false)?;
                conv.forward(&ops::pad_reflect(&x, [1; 4])?, pass)
            }
        }
    }

    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        match self {
            Self::Transposed(conv) => conv.visit(&key(prefix, "0"), visit),
            Self::Resized(conv) => conv.visit(&key(prefix, "2"), visit),
        }
    }

    /// The batch norm's place behind it.
    fn norm_key(&self) -> &'static str {
        match self {
            Self::Transposed(_) => "1",
            Self::Resized(_) => "3",
        }
    }
}

/// (N, latent) -> (N, 3, size, size)
pub struct Generator {
    /// latent -> 4 x 4
    first: ConvTranspose2d,
    first_norm: BatchNorm,
    inner: Vec<(Grow, BatchNorm)>,
    last: Grow,
    latent: usize,
    sizes: Sizes,
    growth: Growth,
}

impl Generator {
    /// Weights of convolutions are normal with variance 2 / fan_in, as torchgan draws them.
    ///
    /// # Errors
    /// Sizes that a tensor cannot have.
    pub fn new(latent: usize, sizes: Sizes, growth: Growth, random: &mut Philox) -> Result<Self> {
        let widths = sizes.widths()?;
        let widest = widths.last().copied().unwrap_or(0);
        let geometry = ConvTransposeGeometry::default();
        let first = ConvTranspose2d::new([latent, widest], [4, 4], geometry, false, random)?;
        let inner = widths.windows(2).rev().map(|pair| {
            let grow = Grow::new(growth, [pair[1], pair[0]], false, random)?;
            Ok((grow, BatchNorm::new(pair[0])?))
        });
        let inner = inner.collect::<Result<_>>()?;
        let model = Self {
            first,
            first_norm: BatchNorm::new(widest)?,
            inner,
            last: Grow::new(growth, [sizes.step, 3], true, random)?,
            latent,
            sizes,
            growth,
        };
        he_normal(&model, random)?;
        Ok(model)
    }

    pub fn latent(&self) -> usize {
        self.latent
    }

    /// Side of the image.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// z (N, latent) -> images (N, 3, size, size), (-1, 1) for levels from 0 to 255.
    ///
    /// # Errors
    /// Another latent.
    pub fn forward(&self, z: &Tensor, pass: &Pass) -> Result<Tensor> {
        let &[n, latent] = z.shape() else {
            return Err(Error::shape("generator", &[z.shape()], "(N, latent)"));
        };
        let z = ops::reshape(z, &[n, latent, 1, 1])?;
        let normed =
            |norm: &BatchNorm, y: &Tensor| ops::leaky_relu(&norm.forward(y, pass)?, LAYER_SLOPE);
        let mut y = normed(&self.first_norm, &self.first.forward(&z, pass)?)?;
        for (grow, norm) in &self.inner {
            y = normed(norm, &grow.forward(&y, pass)?)?;
        }
        let y = self.last.forward(&y, pass)?;
        match self.growth {
            Growth::Transposed => ops::tanh(&y),
            Growth::Resized => Ok(y),
        }
    }
}

impl State for Generator {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        let model = key(prefix, "model");
        let first = key(&model, "0");
        self.first.visit(&key(&first, "0"), visit);
        self.first_norm.visit(&key(&first, "1"), visit);
        for (i, (grow, norm)) in self.inner.iter().enumerate() {
            let at = key(&model, &(i + 1).to_string());
            grow.visit(&at, visit);
            norm.visit(&key(&at, grow.norm_key()), visit);
        }
        let last = (self.inner.len() + 1).to_string();
        self.last.visit(&key(&model, &last), visit);
    }
}

impl Predict for Generator {
    fn predict(&self, z: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        Ok(vec![("image", self.forward(z, &Pass::eval())?)])
    }

    fn device(&self) -> Device {
        self.first.weight.value().device()
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>> {
        let random = &mut Philox::new(0);
        let twin = Self::new(self.latent, self.sizes, self.growth, random)?;
        self.share(&twin, &Device::Cuda(stream.clone()))?;
        Ok(Arc::new(twin))
    }
}
