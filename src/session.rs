//! Embedding: a model whose weights are shared, and a runner per thread.
//!
//! There is no global state. A [`Session`] is `Send + Sync` and holds a model
//! in its ready form (batch norms folded, weights packed); a [`Runner`] holds
//! what one caller needs and starts no thread that it was not told to start.
//! Any number of runners give each caller the bits that it gets alone.
//!
//! On CUDA a runner has a stream and an arena of its own, so callers do not wait
//! for each other; weights lie in the GPU's memory once, where every runner reads
//! them. An arena asks for memory in large pieces ([`CudaDevice::memory`] tells),
//! so a service keeps its runners rather than making one for each request.

use std::sync::Arc;

use crate::device::Device;
use crate::device::cuda::CudaDevice;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{self, half::wide};
use crate::tensor::Tensor;

/// A model in its ready form.
pub trait Predict: Send + Sync {
    /// The named outputs of one eval-mode forward pass, the main one first.
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>>;

    /// Where its weights are, and so where it computes.
    fn device(&self) -> Device;

    /// The same model on another stream of its GPU, with the same memory for its
    /// weights ([`Tensor::to`] shares it).
    ///
    /// # Errors
    /// The model is not on CUDA.
    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>>;
}

/// Weights and plans, shared.
#[derive(Clone)]
pub struct Session {
    model: Arc<dyn Predict>,
}

impl Session {
    /// It computes where the model's weights are.
    pub fn new(model: impl Predict + 'static) -> Self {
        Self {
            model: Arc::new(model),
        }
    }

    /// The same model given inputs in `dtype`, which it computes in; outputs are
    /// f32.
    #[must_use]
    pub fn in_dtype(self, dtype: DType) -> Self {
        let model = self.model;
        Self::new(InDtype { model, dtype })
    }

    pub fn device(&self) -> Device {
        self.model.device()
    }

    /// A runner whose work on the CPU uses `threads`.
    ///
    /// # Errors
    /// The threads cannot be started; the GPU gives no stream.
    pub fn runner(&self, threads: Threads) -> Result<Runner> {
        let pool = threads.pool()?;
        let (model, device) = match self.device() {
            Device::Cpu => (self.model.clone(), Device::Cpu),
            Device::Cuda(gpu) => {
                let stream = gpu.stream()?;
                (self.model.on_stream(&stream)?, Device::Cuda(stream))
            }
        };
        Ok(Runner {
            model,
            device,
            pool,
        })
    }
}

/// A model that computes in the dtype of its input, and which that is.
struct InDtype {
    model: Arc<dyn Predict>,
    dtype: DType,
}

impl Predict for InDtype {
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let outputs = self.model.predict(&ops::cast(x, self.dtype)?)?.into_iter();
        outputs.map(|(name, y)| Ok((name, wide(&y)?))).collect()
    }

    fn device(&self) -> Device {
        self.model.device()
    }

    fn on_stream(&self, stream: &CudaDevice) -> Result<Arc<dyn Predict>> {
        Ok(Arc::new(Self {
            model: self.model.on_stream(stream)?,
            dtype: self.dtype,
        }))
    }
}

/// Which threads a computation uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The rayon pool of the calling thread.
    Caller,
    /// A pool of this many threads of its own, at least one.
    Own(usize),
}

impl Threads {
    /// The pool to run in, `None` for the caller's.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn pool(self) -> Result<Option<rayon::ThreadPool>> {
        let Self::Own(n) = self else { return Ok(None) };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(n.max(1))
            .build();
        pool.map(Some).map_err(|e| {
            Error::usage(
                format!("cannot start {n} threads: {e}"),
                "ask for fewer threads",
            )
        })
    }
}

/// What one caller holds.
pub struct Runner {
    model: Arc<dyn Predict>,
    device: Device,
    pool: Option<rayon::ThreadPool>,
}

impl Runner {
    /// Where it computes: the CPU, or a stream that nobody else has.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The named outputs of one forward pass, the main one first. x may be on
    /// any device; the outputs come back to where it is. A caller that wants
    /// them on the GPU gives x on [`Runner::device`], which does not wait.
    pub fn run(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        match &self.pool {
            Some(pool) => pool.install(|| self.predict(x)),
            None => self.predict(x),
        }
    }

    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        let outputs = self.model.predict(&x.to(&self.device)?)?.into_iter();
        let home = x.device();
        outputs.map(|(name, y)| Ok((name, y.to(&home)?))).collect()
    }
}
