//! `--device`: where the program computes.

use clap::ValueEnum;

use crate::device::Device;
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// This machine's processor
    Cpu,
    /// The first NVIDIA GPU, or an error that says what it lacks
    Cuda,
    /// CUDA where a GPU, its driver and compiled kernels are there, otherwise the CPU
    Auto,
    /// For `profile`: nothing computes, and what a GPU would be asked is counted
    Null,
}

/// What a choice came to.
pub struct Chosen {
    pub device: Device,
    /// What a user who chose nothing may want to know: that a GPU computes, or
    /// why one that seems to be there does not.
    pub note: Option<String>,
}

impl DeviceChoice {
    /// # Errors
    /// CUDA was asked for and cannot be had: no driver, an old one, no GPU, a
    /// build without kernels or without the feature. Or nothing is to compute.
    pub fn open(self) -> Result<Chosen> {
        let silent = |device| Chosen { device, note: None };
        match self {
            Self::Cpu => Ok(silent(Device::Cpu)),
            Self::Cuda => cuda().map(silent),
            Self::Auto => Ok(auto()),
            Self::Null => Err(Error::usage(
                "the null device computes nothing",
                "use --device cpu, cuda or auto; `eosin profile` alone takes null",
            )),
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Device> {
    use crate::device::cuda::{CudaDevice, nvidia::NvidiaDriver};
    Ok(Device::Cuda(CudaDevice::new(NvidiaDriver::new(0)?)?))
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<Device> {
    Err(Error::usage(
        "this build of eosin computes on the CPU only: it has not the feature cuda",
        "build it with the feature cuda, or use --device cpu",
    ))
}

fn auto() -> Chosen {
    match cuda() {
        Ok(device) => Chosen {
            note: Some(format!("computing on {}", name(&device))),
            device,
        },
        Err(reason) => Chosen {
            device: Device::Cpu,
            note: unusable(&reason),
        },
    }
}

/// For people.
pub fn name(device: &Device) -> String {
    match device {
        Device::Cpu => "the CPU".into(),
        Device::Cuda(gpu) => gpu.name(),
    }
}

/// Why the GPU is not used, on a machine that seems to have one.
#[cfg(feature = "cuda")]
fn unusable(reason: &Error) -> Option<String> {
    crate::device::cuda::nvidia::has_driver().then(|| match reason {
        Error::Usage { problem, .. } => {
            format!("computing on the CPU: {problem} (see eosin doctor)")
        }
        other => format!("computing on the CPU: {other}"),
    })
}

#[cfg(not(feature = "cuda"))]
fn unusable(_: &Error) -> Option<String> {
    None
}
