//! The table of kernels that build.rs generates from kernels/*.cu.

/// One kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its place in [`ALL`].
    pub index: usize,
    /// The place of its file in [`MODULES`].
    pub module: usize,
    pub name: &'static str,
    /// Threads per block, from its `__launch_bounds__`.
    pub threads: u32,
}

impl Kernel {
    /// The operator in whose name it runs: what stands before the direction.
    pub fn op(&self) -> &'static str {
        let name = self.name.strip_prefix("eosin_").unwrap_or(self.name);
        let end = name.find("_forward").or_else(|| name.find("_backward"));
        &name[..end.unwrap_or(name.len())]
    }
}

/// One compiled file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Below kernels/.
    pub file: &'static str,
    /// A fat binary; `None` when the crate was built without nvcc.
    pub image: Option<&'static [u8]>,
}

/// What to do about a build that has the kernels' names alone.
pub const REMEDY: &str = "build eosin where nvcc is: scripts/cuda-toolkit.sh installs one below \
     target/, or set NVCC to that of a CUDA toolkit";

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
