//! The CUDA side without a GPU: the emulator itself, drivers, arena, capture.

fn main() {}
