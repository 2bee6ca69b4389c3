//! Where a tensor lives and its operators run.
//!
//! A closed enum: each operator has one `match` over it, so adding a device
//! makes the compiler list every operator that has no implementation for it.

use std::fmt;

pub mod cpu;
pub mod cuda;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Cuda(cuda::CudaDevice),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(_) => f.write_str("cuda"),
        }
    }
}
