//! From a user's folder to samples: images, tiles, tables, transforms, cohorts.

#[path = "../common/formula.rs"]
mod formula;
#[path = "../common/icc.rs"]
mod icc;
#[path = "../common/tiff.rs"]
mod tiff;

mod bags;
mod class_folder;
mod colour_profile;
mod expression;
mod extract;
mod her2st;
mod her2st_real;
mod image;
mod kmeans;
mod lmdb;
mod slides;
mod sources;
mod stain;
mod support;
mod table;
mod tile;
mod tile_folder;
mod tissue;
mod visium;
