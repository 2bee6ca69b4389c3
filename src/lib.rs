//! eosin: a hand-written compute engine and, on it, four model families that
//! link histology slides and gene expression.

#[cfg(feature = "slides")]
pub mod cohort;
pub mod dtype;
pub mod error;
#[cfg(feature = "formats")]
pub mod expression;
#[cfg(feature = "slides")]
pub mod slides;

pub use dtype::DType;
pub use error::{Error, Result};
