//! Runs CUDA kernels on the host, for tests.
//!
//! The same sources that nvcc compiles are compiled by the host's C++ compiler
//! against a header that gives CUDA's execution model (see shim/). A launch
//! runs on the calling thread, block by block, a fiber for every CUDA thread.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

/// In which order the threads of a block, and the blocks, get to run. A kernel
/// without races gives the same bits in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// The first thread as far as it goes, then the next.
    Forward,
    /// The last one first, blocks too.
    Reverse,
    /// Any thread at any switch; asynchronous copies early or late.
    Random(u64),
    /// One warp as far as it goes, by random priorities.
    Greedy(u64),
}

unsafe extern "C" {
    fn eosin_emulator_count() -> c_uint;
    fn eosin_emulator_name(i: c_uint) -> *const c_char;
    fn eosin_emulator_launch(
        name: *const c_char,
        grid: *const c_uint,
        threads: c_uint,
        dynamic: c_uint,
        params: *const c_void,
        params_size: c_uint,
        order: c_int,
        seed: u64,
        text: *mut c_char,
        room: usize,
    ) -> c_int;
}

/// The names of all kernels, planted ones included.
pub fn kernels() -> impl Iterator<Item = &'static str> {
    // SAFETY: the table holds `count` names, which are static text.
    let name = |i| unsafe { CStr::from_ptr(eosin_emulator_name(i)) };
    let count = unsafe { eosin_emulator_count() };
    (0..count).map(move |i| name(i).to_str().unwrap_or_default())
}

/// Runs one launch to its end.
///
/// # Errors
/// What went wrong, with the kernel, block, thread and line: a barrier that
/// some threads do not reach, lanes that meet at different lines, writes past
/// the end of shared memory, a parameter struct of another size.
///
/// # Safety
/// The addresses in `params` must be valid for what the kernel does with them.
pub unsafe fn launch(
    name: &str,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
    params: &[u8],
    schedule: Schedule,
) -> Result<(), String> {
    let (order, seed) = match schedule {
        Schedule::Forward => (0, 0),
        Schedule::Reverse => (1, 0),
        Schedule::Random(seed) => (2, seed),
        Schedule::Greedy(seed) => (3, seed),
    };
    let name = CString::new(name).map_err(|_| "a kernel's name holds a zero".to_owned())?;
    let size = c_uint::try_from(params.len()).map_err(|_| "too many parameters".to_owned())?;
    let mut text = [0; 1024];
    // SAFETY: the name and the text end in zeros within their bounds, the grid
    // has three numbers, and the kernel's own accesses are the caller's promise.
    let code = unsafe {
        eosin_emulator_launch(
            name.as_ptr(),
            grid.as_ptr(),
            threads,
            shared,
            params.as_ptr().cast(),
            size,
            order,
            seed,
            text.as_mut_ptr(),
            text.len(),
        )
    };
    if code == 0 {
        return Ok(());
    }
    // SAFETY: snprintf ended the text.
    let message = unsafe { CStr::from_ptr(text.as_ptr()) };
    Err(message.to_string_lossy().into_owned())
}
