//! Where a tensor lives and its operators run.
//!
//! A closed enum: each operator has one `match` over it, so adding a device
//! makes the compiler list every operator that has no implementation for it.

use std::fmt;

use crate::error::{Error, Result};

pub mod cpu;
pub mod cuda;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Cuda(cuda::CudaDevice),
}

/// For an operator that has no kernel on CUDA devices.
///
/// # Errors
/// Always.
pub(crate) fn missing<T>(op: &'static str) -> Result<T> {
    let problem = "has no CUDA kernel yet; move its operands to the CPU with Tensor::to";
    Err(Error::op(op, problem))
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(_) => f.write_str("cuda"),
        }
    }
}
