//! eosin's [`Driver`] on the emulator: device memory is the host's, and a launch
//! runs before the call returns.
//!
//! Every buffer is an allocation of its own between guards, and holds NaN until
//! something writes to it: an access one too far and an output that nothing wrote
//! show.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use eosin::device::cuda::driver::{Boxes, Driver, Event, Graph, Launch, TensorMap};
use eosin::device::cuda::kernels::{ALL, Kernel, MODULES};
use eosin::{Error, Result};
use eosin_emulator::Schedule;

/// Bytes on both sides of a buffer that are nobody's. Of them only those next to
/// the buffer matter; the rest keeps the buffer aligned.
const GUARD: usize = 256;
/// A NaN in every float type, but not what a kernel may well write, -1.
const GUARD_BYTES: [u8; 2] = [0xa5, 0xff];
const UNWRITTEN: u8 = 0xff;

/// The names of the kernels that ran in this process.
static RAN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

#[allow(
    dead_code,
    reason = "only some of the test binaries that share this ask"
)]
pub fn kernels_that_ran() -> BTreeSet<&'static str> {
    locked(&RAN).clone()
}

/// The files whose every kernel the test binary `cuda` runs, with the
/// optimisers. `ops` answers for all others, so between them the two run every
/// kernel of the table.
const FILES_OF_CUDA: [&str; 3] = ["clip_grad_norm.cu", "copy.cu", "optim.cu"];

#[allow(
    dead_code,
    reason = "each test binary that answers for kernels is one of them"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Cuda,
    Ops,
}

/// Asserts that every kernel that `binary` answers for ran in this process.
#[allow(
    dead_code,
    reason = "only some of the test binaries that share this answer for kernels"
)]
pub fn assert_every_kernel_ran(binary: Binary) {
    let ran = kernels_that_ran();
    let of_cuda = |kernel: &Kernel| FILES_OF_CUDA.contains(&MODULES[kernel.module].file);
    for file in FILES_OF_CUDA {
        assert!(MODULES.iter().any(|m| m.file == file), "no kernels/{file}");
    }
    let (mine, missing): (Vec<_>, Vec<_>) = (ALL.iter())
        .filter(|kernel| of_cuda(kernel) == (binary == Binary::Cuda))
        .map(|kernel| kernel.name)
        .partition(|name| ran.contains(name));
    assert!(!mine.is_empty(), "no kernel ran at all");
    assert!(
        missing.is_empty(),
        "{} kernels never ran on the emulator; give their operators samples that reach them:\n{}",
        missing.len(),
        missing.join("\n")
    );
}

/// Notes that a kernel ran in this process.
pub fn note_that_ran(kernel: &'static str) {
    locked(&RAN).insert(kernel);
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn broken(problem: String) -> Error {
    Error::op("emulator", problem)
}

// ---- memory

/// A live buffer. Its address is a key of [`Memory::buffers`].
struct Buffer {
    /// Counts allocations, so that a message can tell buffers apart.
    number: u64,
    bytes: usize,
}

/// The memory of a device, shared by its streams.
#[derive(Default)]
struct Memory {
    buffers: BTreeMap<usize, Buffer>,
    count: u64,
    /// What was found wrong with a buffer that is gone, until somebody is told.
    damage: Option<String>,
}

impl Memory {
    fn alloc(&mut self, bytes: usize) -> Result<usize> {
        let layout = around(bytes)?;
        // SAFETY: the layout is not empty, and all writes lie within it.
        let address = unsafe {
            let start = alloc(layout);
            if start.is_null() {
                return Err(broken(format!("no memory for {bytes} bytes")));
            }
            for i in 0..GUARD {
                start.add(i).write(GUARD_BYTES[i % 2]);
                start.add(GUARD + bytes + i).write(GUARD_BYTES[i % 2]);
            }
            start.add(GUARD).write_bytes(UNWRITTEN, bytes);
            start as usize + GUARD
        };
        for guard in guards(address, bytes) {
            eosin_emulator::forbid(guard, GUARD);
        }
        let number = self.count;
        self.count += 1;
        self.buffers.insert(address, Buffer { number, bytes });
        Ok(address)
    }

    fn free(&mut self, address: usize) {
        let Some(buffer) = self.buffers.remove(&address) else {
            let problem = format!("{address:#x} is freed but is no buffer");
            self.damage.get_or_insert(problem);
            return;
        };
        if let Err(problem) = intact(address, &buffer) {
            self.damage.get_or_insert(problem);
        }
        for guard in guards(address, buffer.bytes) {
            eosin_emulator::allow(guard, GUARD);
        }
        if let Ok(layout) = around(buffer.bytes) {
            // SAFETY: `alloc` made it with this layout, and it is in no map now.
            unsafe { dealloc((address - GUARD) as *mut u8, layout) };
        }
    }

    /// # Errors
    /// Something wrote outside of a buffer since the last look.
    fn check(&mut self) -> Result<()> {
        if let Some(problem) = self.damage.take() {
            return Err(broken(problem));
        }
        for (&address, buffer) in &self.buffers {
            intact(address, buffer).map_err(broken)?;
        }
        Ok(())
    }

    /// # Errors
    /// The bytes are not all in one buffer.
    fn require(&self, address: usize, bytes: usize) -> Result<()> {
        let below = self.buffers.range(..=address).next_back();
        match below {
            Some((&start, buffer)) if address - start + bytes <= buffer.bytes => Ok(()),
            _ => Err(broken(format!(
                "a copy of {bytes} bytes at {address:#x} is outside of every buffer"
            ))),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let addresses: Vec<_> = self.buffers.keys().copied().collect();
        for address in addresses {
            self.free(address);
        }
        // Nobody will read from this device again, so this is the last word.
        if let Some(problem) = self.damage.take()
            && !std::thread::panicking()
        {
            panic!("{problem}");
        }
    }
}

fn around(bytes: usize) -> Result<Layout> {
    Layout::from_size_align(bytes.saturating_add(2 * GUARD), 256)
        .map_err(|_| broken(format!("a buffer of {bytes} bytes")))
}

fn guards(address: usize, bytes: usize) -> [*const u8; 2] {
    [
        (address - GUARD) as *const u8,
        (address + bytes) as *const u8,
    ]
}

/// # Errors
/// A guard of the buffer was written to.
fn intact(address: usize, buffer: &Buffer) -> Result<(), String> {
    for (guard, start) in guards(address, buffer.bytes)
        .into_iter()
        .zip([-(GUARD as isize), buffer.bytes as isize])
    {
        eosin_emulator::allow(guard, GUARD);
        // SAFETY: `alloc` made the buffer with a guard on both sides.
        let found = unsafe { std::slice::from_raw_parts(guard, GUARD) };
        let scratch = (0..GUARD).find(|&i| found[i] != GUARD_BYTES[i % 2]);
        eosin_emulator::forbid(guard, GUARD);
        if let Some(i) = scratch {
            return Err(format!(
                "a kernel wrote outside of buffer {}: byte {} of its {}",
                buffer.number,
                start + i as isize,
                buffer.bytes
            ));
        }
    }
    Ok(())
}

// ---- launches

/// A launch that owns its parameters, in words so that they are aligned.
struct Recorded {
    kernel: &'static Kernel,
    grid: [u32; 3],
    shared: u32,
    params: Vec<u64>,
    bytes: usize,
}

impl Recorded {
    fn new(launch: &Launch) -> Self {
        let bytes = launch.params.len();
        let mut params = vec![0u64; bytes.div_ceil(8)];
        bytemuck::cast_slice_mut(&mut params)[..bytes].copy_from_slice(launch.params);
        Self {
            kernel: launch.kernel,
            grid: launch.grid,
            shared: launch.shared,
            params,
            bytes,
        }
    }

    fn launch(&self) -> Launch<'_> {
        Launch {
            kernel: self.kernel,
            grid: self.grid,
            shared: self.shared,
            params: &bytemuck::cast_slice(&self.params)[..self.bytes],
        }
    }
}

fn run(launch: &Launch, schedule: Schedule) -> Result<()> {
    note_that_ran(launch.kernel.name);
    let Launch {
        kernel,
        grid,
        shared,
        params,
    } = *launch;
    // SAFETY: the addresses in `params` come from tensors that the launch's
    // caller, or the graph's, holds.
    let outcome = unsafe {
        eosin_emulator::launch(kernel.name, grid, kernel.threads, shared, params, schedule)
    };
    outcome.map_err(|problem| Error::op(kernel.op(), problem))
}

struct EmulatedGraph {
    launches: Vec<Recorded>,
    schedule: Schedule,
}

impl Graph for EmulatedGraph {
    fn replay(&self) -> Result<()> {
        self.launches
            .iter()
            .try_for_each(|recorded| run(&recorded.launch(), self.schedule))
    }
}

// ---- the driver

pub struct Emulated {
    schedule: Schedule,
    /// How often a stream of the device was waited for.
    waits: Arc<AtomicUsize>,
    memory: Arc<Mutex<Memory>>,
    capture: Mutex<Option<Vec<Recorded>>>,
    start: Instant,
}

impl Emulated {
    pub fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            waits: Arc::default(),
            memory: Arc::default(),
            capture: Mutex::new(None),
            start: Instant::now(),
        }
    }
}

impl Emulated {
    #[allow(
        dead_code,
        reason = "only some of the test binaries that share this ask"
    )]
    pub fn waits(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.waits)
    }
}

impl Driver for Emulated {
    fn name(&self) -> String {
        "emulator".to_owned()
    }

    fn stream(&self) -> Result<Box<dyn Driver>> {
        Ok(Box::new(Self {
            memory: Arc::clone(&self.memory),
            waits: Arc::clone(&self.waits),
            ..Self::new(self.schedule)
        }))
    }

    fn chunk(&self) -> Option<usize> {
        None
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        locked(&self.memory).alloc(bytes).map(|at| at as u64)
    }

    fn free(&self, address: u64, _: usize) {
        locked(&self.memory).free(address as usize);
    }

    fn write(&self, to: u64, from: &[u8]) -> Result<()> {
        locked(&self.memory).require(to as usize, from.len())?;
        // SAFETY: the bytes are in a buffer, and the caller keeps it.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    fn read(&self, from: u64, to: &mut [u8]) -> Result<()> {
        let mut memory = locked(&self.memory);
        memory.check()?;
        memory.require(from as usize, to.len())?;
        drop(memory);
        // SAFETY: the bytes are in a buffer, and the caller keeps it.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn tensor_map(&self, boxes: &Boxes) -> Result<Option<TensorMap>> {
        Ok(Some(boxes.plain()))
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        if let Some(recorded) = locked(&self.capture).as_mut() {
            recorded.push(Recorded::new(launch));
            return Ok(());
        }
        run(launch, self.schedule)
    }

    fn synchronize(&self) -> Result<()> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        locked(&self.memory).check()
    }

    fn begin_capture(&self) -> Result<()> {
        *locked(&self.capture) = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        let launches = locked(&self.capture).take();
        let launches = launches.ok_or_else(|| broken("no capture was begun".to_owned()))?;
        Ok(Box::new(EmulatedGraph {
            launches,
            schedule: self.schedule,
        }))
    }

    fn event(&self) -> Result<Event> {
        Ok(Event(self.start.elapsed().as_nanos() as u64))
    }

    fn elapsed(&self, from: Event, to: Event) -> Result<f32> {
        Ok(to.0.saturating_sub(from.0) as f32 * 1e-6)
    }
}
