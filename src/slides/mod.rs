//! Slides in, normalised tiles out.
//!
//! [`open`] gives a [`Slide`] of whatever kind a file is; [`scale`] says at which
//! scale, and reads squares at another.

pub mod augment;
mod cache;
mod flat;
pub mod icc;
pub mod image;
pub mod openslide;
pub mod overview;
pub mod reader;
pub mod scale;
pub mod stain;
pub mod tiff;
pub mod tile;
pub mod tissue;
pub mod views;

pub use image::Rgb8;
pub use reader::{Slide, open};
