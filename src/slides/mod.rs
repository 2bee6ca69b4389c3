//! Images of tissue in, normalised tiles out.

pub mod augment;
pub mod image;
pub mod tile;

pub use image::Rgb8;
