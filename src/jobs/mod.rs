//! Work over a folder of slides that any number of processes share.
//!
//! A job is a folder. Whoever works on it claims one slide after the other
//! ([`claim`]), writes its outputs whole or not at all, and last its status: a
//! process that dies loses the slide it had in hand, and the next one that
//! comes by takes it up. No process is special, so a job can be spread over
//! machines that see the folder, cut into shards, stopped and started again.

pub mod claim;
pub mod features;
pub mod folder;
mod outputs;
pub mod predict;
pub mod spots;

pub use features::{Config, Summary, run};
