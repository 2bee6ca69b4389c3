//! From a user's folder to samples: images, tiles, tables, transforms, cohorts.

#[path = "../common/formula.rs"]
mod formula;

mod bags;
mod expression;
mod extract;
mod her2st;
mod her2st_real;
mod image;
mod kmeans;
mod support;
mod table;
mod tile;
mod tile_folder;
mod visium;
