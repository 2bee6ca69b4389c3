//! Runs eosin's CUDA kernels on the host, for tests.
//!
//! The same .cu files are compiled by the host's C++ compiler against a shim that
//! gives CUDA's execution model: see README.md for what it models and what not.

use std::ffi::{CStr, c_char, c_int, c_void};

/// Which thread goes on when several can, and in which order the blocks come.
///
/// CUDA promises nothing about either, so a correct kernel gives the same bits
/// under all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Threads and blocks in ascending order.
    Forward,
    /// Threads and blocks in descending order.
    Reverse,
    /// Any thread, any block; asynchronous copies arrive early or late.
    Random(u64),
    /// One warp runs as far as it can before another gets a turn, and between
    /// barriers that is another one each time.
    Greedy(u64),
}

impl Schedule {
    /// The number of shim/schedule.h, and the seed.
    fn parts(self) -> (u32, u64) {
        match self {
            Self::Forward => (0, 0),
            Self::Reverse => (1, 0),
            Self::Random(seed) => (2, seed),
            Self::Greedy(seed) => (3, seed),
        }
    }
}

struct Kernel {
    name: &'static str,
    threads: u32,
    /// Whether it is one of eosin's, not of the emulator's own tests.
    eosin: bool,
}

// `KERNELS`, sorted by name, in the order of the shim's table.
include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

unsafe extern "C" {
    fn eosin_emulator_launch(
        kernel: usize,
        grid: *const u32,
        threads: u32,
        shared: u32,
        params: *const c_void,
        params_size: usize,
        order: u32,
        seed: u64,
        message: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn eosin_emulator_forbid(address: *const c_void, bytes: usize);
    fn eosin_emulator_allow(address: *const c_void, bytes: usize);
}

/// The names of eosin's kernels, sorted.
pub fn kernels() -> impl Iterator<Item = &'static str> {
    KERNELS
        .iter()
        .filter(|kernel| kernel.eosin)
        .map(|kernel| kernel.name)
}

/// Threads per block of a kernel, the emulator's own included.
pub fn threads(name: &str) -> Option<u32> {
    let index = KERNELS
        .binary_search_by(|kernel| kernel.name.cmp(name))
        .ok()?;
    KERNELS.get(index).map(|kernel| kernel.threads)
}

/// Runs one launch to its end, on the calling thread.
///
/// `params` are the bytes of the kernel's one argument, aligned to 8; `shared` is
/// the dynamic shared memory of a block in bytes.
///
/// # Errors
/// The launch cannot be made, or the kernel broke one of CUDA's rules. The text
/// names kernel, block, thread and line where there is one. Memory that the
/// kernel had written to by then stays so.
///
/// # Safety
/// Every address in `params` must be valid for what the kernel does with it, and
/// nothing else may access that memory meanwhile, as with a launch on a GPU.
pub unsafe fn launch(
    name: &str,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
    params: &[u8],
    schedule: Schedule,
) -> Result<(), String> {
    let index = KERNELS
        .binary_search_by(|kernel| kernel.name.cmp(name))
        .map_err(|_| format!("the emulator was built without a kernel called {name}"))?;
    let kernel = &KERNELS[index];
    if threads != kernel.threads {
        return Err(format!(
            "{name}: a block of {threads} threads, its __launch_bounds__ say {}",
            kernel.threads
        ));
    }
    if !params.as_ptr().addr().is_multiple_of(8) {
        return Err(format!(
            "{name}: parameters that are not aligned to 8 bytes"
        ));
    }
    let (order, seed) = schedule.parts();
    let mut message = [0u8; 1024];
    // SAFETY: `index` is in the shim's table, which has the same order; grid,
    // params and message are as long as said; and of what is behind the addresses
    // in params the caller has taken care. The shim ends the message with a zero.
    let failed = unsafe {
        eosin_emulator_launch(
            index,
            grid.as_ptr(),
            threads,
            shared,
            params.as_ptr().cast(),
            params.len(),
            order,
            seed,
            message.as_mut_ptr().cast(),
            message.len(),
        )
    };
    if failed == 0 {
        return Ok(());
    }
    let message = CStr::from_bytes_until_nul(&message).unwrap_or_default();
    Err(message.to_string_lossy().into_owned())
}

/// Has AddressSanitizer stop a kernel that touches this memory. Does nothing in a
/// build without it. The memory must be given back with [`allow`] before its
/// allocator gets it.
pub fn forbid(address: *const u8, bytes: usize) {
    // SAFETY: changes notes on addresses, and reads or writes none of them.
    unsafe { eosin_emulator_forbid(address.cast(), bytes) }
}

/// Takes back [`forbid`].
pub fn allow(address: *const u8, bytes: usize) {
    // SAFETY: as in `forbid`.
    unsafe { eosin_emulator_allow(address.cast(), bytes) }
}
