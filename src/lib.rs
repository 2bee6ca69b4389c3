//! eosin: a hand-written compute engine and, on it, four model families that
//! link histology slides and gene expression.

pub mod autograd;
pub mod device;
pub mod dtype;
pub mod error;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod random;
pub mod shape;
pub mod storage;
pub mod tensor;

pub use device::Device;
pub use dtype::DType;
pub use error::{Error, Result};
pub use tensor::Tensor;
