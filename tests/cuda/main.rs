//! The CUDA side without a GPU: the emulator itself, arena, capture, ledger, the
//! table of kernels and what the compiler made of them.

#[path = "../../build.rs"]
#[allow(dead_code, reason = "the build script, for the tests in it")]
mod build_script;
#[path = "../common/emulated.rs"]
mod emulated;

#[cfg(feature = "slides")]
mod allocations;
mod benches;
mod convolutions;
#[cfg(feature = "slides")]
mod deeppt;
mod device;
mod emulator;
#[cfg(feature = "slides")]
mod ledger;
mod optim;
mod products;
mod table;
mod training;
#[path = "../common/under_test.rs"]
mod under_test;
