//! Runs of RNA-GAN: the beta-VAE on profiles, then generator and critic on tiles.

mod average;
pub mod config;
pub mod gan;
pub mod input;
pub mod picture;
pub mod vae;
mod watch;

pub use watch::{Health, Signs};
