//! Runs CUDA kernels on the host, for tests.
