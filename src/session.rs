//! Embedding: a model whose weights are shared, and a runner per thread.
//!
//! There is no global state. A [`Session`] is `Send + Sync` and holds a model
//! in its ready form (batch norms folded, weights packed); a [`Runner`] holds
//! what one caller needs and starts no thread that it was not told to start.
//! Any number of runners give each caller the bits that it gets alone.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// A model in its ready form.
pub trait Predict: Send + Sync {
    /// The named outputs of one eval-mode forward pass, the main one first.
    fn predict(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>>;
}

/// Weights and plans, shared.
#[derive(Clone)]
pub struct Session {
    model: Arc<dyn Predict>,
}

impl Session {
    pub fn new(model: impl Predict + 'static) -> Self {
        Self {
            model: Arc::new(model),
        }
    }

    /// A runner that computes on `threads`.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn runner(&self, threads: Threads) -> Result<Runner> {
        Ok(Runner {
            model: self.model.clone(),
            pool: threads.pool()?,
        })
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
    pool: Option<rayon::ThreadPool>,
}

impl Runner {
    /// The named outputs of one forward pass, the main one first.
    pub fn run(&self, x: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        match &self.pool {
            Some(pool) => pool.install(|| self.model.predict(x)),
            None => self.model.predict(x),
        }
    }
}
