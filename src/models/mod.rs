//! The model families. Each reads like its paper; its README maps sections to
//! functions and lists departures and quirks.

pub mod backbone;
pub mod deeppt;
pub mod densenet;
mod folding;
#[cfg(feature = "formats")]
pub mod registry;
pub mod resnet;
pub mod tcgn;
pub mod trnasformer;
