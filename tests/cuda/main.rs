//! The CUDA side without a GPU: the emulator itself, drivers, arena, capture.

#[path = "../../build.rs"]
#[allow(dead_code, reason = "the build script, for the tests in it")]
mod build_script;
mod table;
