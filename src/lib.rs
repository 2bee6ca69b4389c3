//! eosin: a hand-written compute engine and, on it, four model families that
//! link histology slides and gene expression.

pub mod autograd;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "slides")]
pub mod cohort;
pub mod device;
pub mod dtype;
pub mod error;
#[cfg(feature = "formats")]
pub mod expression;
#[cfg(feature = "formats")]
pub mod formats;
#[cfg(feature = "formats")]
pub mod metrics;
pub mod models;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod random;
#[cfg(feature = "formats")]
pub mod report;
pub mod session;
pub mod shape;
#[cfg(feature = "slides")]
pub mod simulate;
#[cfg(feature = "slides")]
pub mod slides;
pub mod storage;
pub mod tensor;
#[cfg(feature = "formats")]
pub mod train;

pub use device::Device;
pub use dtype::DType;
pub use error::{Error, Result};
pub use session::{Runner, Session, Threads};
pub use tensor::Tensor;
