//! The program as a user meets it: every command, what it writes, what it says
//! about bad input, and that a run which was stopped goes on as if it had not
//! been.

#[path = "../common/icc.rs"]
mod icc;
#[path = "../common/tiff.rs"]
mod tiff;

mod bad_files;
mod bad_runs;
mod bench;
mod commands;
mod device;
mod dtype;
mod kernels;
mod predict;
mod profile;
mod resume;
mod rnagan;
mod slides;
mod spots;
mod support;
mod tables;
mod threads;
mod torch;

#[path = "../common/sections.rs"]
mod sections;
