//! The model families. Each reads like its paper; its README maps sections to
//! functions and lists departures and quirks.

pub mod backbone;
pub mod deeppt;
pub mod densenet;
mod folding;
pub mod inception;
mod initial;
#[cfg(feature = "formats")]
pub mod registry;
pub mod resnet;
pub mod rnagan;
pub mod simclr;
pub mod tcgn;
pub mod trnasformer;
