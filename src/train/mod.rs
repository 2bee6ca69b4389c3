//! Training: which samples and genes go where, the loop, and the families'
//! runs.

#[cfg(feature = "slides")]
pub mod config;
#[cfg(feature = "slides")]
pub mod deeppt;
#[cfg(feature = "slides")]
pub mod evaluate;
#[cfg(feature = "slides")]
pub mod features;
pub mod fit;
pub mod genes;
pub mod progress;
pub mod split;
