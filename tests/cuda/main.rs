//! The CUDA side without a GPU: the emulator itself, arena, capture, ledger, the
//! table of kernels.

#[path = "../common/emulated.rs"]
mod emulated;

mod device;
mod emulator;
mod table;
