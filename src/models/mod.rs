//! The model families. Each reads like its paper; its README maps sections to
//! functions and lists departures and quirks.

pub mod deeppt;
#[cfg(feature = "formats")]
pub mod registry;
pub mod resnet;
pub mod tcgn;
