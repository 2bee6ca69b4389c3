//! Training: which samples and genes go where, the step, the loop, and the
//! families' runs.

#[cfg(feature = "slides")]
pub mod config;
#[cfg(feature = "slides")]
pub mod deeppt;
#[cfg(feature = "slides")]
pub mod evaluate;
#[cfg(feature = "slides")]
pub mod features;
#[cfg(feature = "formats")]
pub mod fit;
#[cfg(feature = "formats")]
pub mod genes;
#[cfg(feature = "formats")]
pub mod progress;
#[cfg(feature = "slides")]
pub mod rnagan;
#[cfg(feature = "slides")]
pub mod run;
#[cfg(feature = "formats")]
pub mod split;
pub mod step;
#[cfg(feature = "slides")]
pub mod trnasformer;
