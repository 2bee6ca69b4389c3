//! The CUDA side without a GPU: the emulator itself, arena, capture, ledger.

#[path = "../common/emulated.rs"]
mod emulated;

mod device;
mod emulator;
