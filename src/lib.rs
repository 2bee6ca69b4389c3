//! eosin: a hand-written compute engine and, on it, four model families that
//! link histology slides and gene expression.

pub mod dtype;
pub mod error;

pub use dtype::DType;
pub use error::{Error, Result};

#[cfg(feature = "formats")]
pub mod report;
#[cfg(feature = "slides")]
pub mod simulate;
