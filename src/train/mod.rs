//! Training: which samples and genes go where.

pub mod genes;
pub mod split;
