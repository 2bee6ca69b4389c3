//! An Inception-V3 ready for inference: every batch norm folded into its convolution,
//! weights packed once, and the ReLU applied while a tile of the result is at hand.

use std::sync::Arc;

use super::stages::Stage;
use super::{ConvNorm, Convention, Inception};
use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::dtype::DType;
use crate::error::Result;
use crate::models::folding::{Place, folded};
use crate::nn::{Linear, Module, Pass};
use crate::ops::half::wide;
use crate::ops::{self, Activation, PreparedConv};
use crate::session::Predict;
use crate::tensor::Tensor;

/// (N, 3, H, W) -> features (N, 2048) and logits.
pub struct InceptionFeatures {
    dtype: DType,
    stages: Vec<Stage<PreparedConv>>,
    fc: Linear,
    convention: Convention,
}

impl InceptionFeatures {
    /// Takes the network's present weights and running statistics, to compute on `device`.
    ///
    /// # Errors
    /// No memory left on the device.
    pub fn new(model: Inception, device: &Device) -> Result<Self> {
        Self::in_dtype(model, device, DType::F32)
    }

    /// As [`Self::new`] with images and weights of the convolutions in `dtype`, f32, bf16 or
    /// f16. The mean over the last image and the head stay f32.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn in_dtype(model: Inception, device: &Device, dtype: DType) -> Result<Self> {
        let place: Place = (device, dtype);
        let layer = |l: &ConvNorm| folded(&l.conv, Some(&l.bn), Activation::Relu, place);
        Ok(Self {
            dtype,
            stages: (model.stages.iter().map(|s| s.map(&layer))).collect::<Result<_>>()?,
            fc: model.fc.to(device)?,
            convention: model.convention,
        })
    }

    /// The features (N, 2048), f32, of x (N, 3, H, W), which is best channels-last.
    ///
    /// # Errors
    /// Another shape.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = ops::cast(&self.convention.prepare(x)?, self.dtype)?;
        for stage in &self.stages {
            y = stage.forward(&y, &|layer, x| layer.apply(x, None))?;
        }
        ops::mean(&wide(&y)?, &[2, 3], false)
    }
}

impl Predict for InceptionFeatures {
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let features = self.features(x)?;
        let logits = self.fc.forward(&features, &Pass::eval())?;
        Ok(vec![("features", features), ("logits", logits)])
    }

    fn device(&self) -> Device {
        self.fc.weight.value().device()
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>> {
        let layer = |l: &PreparedConv| l.on_stream(stream);
        Ok(Arc::new(Self {
            dtype: self.dtype,
            stages: (self.stages.iter().map(|s| s.map(&layer))).collect::<Result<_>>()?,
            fc: self.fc.to(&Device::Cuda(stream.clone()))?,
            convention: self.convention,
        }))
    }
}
