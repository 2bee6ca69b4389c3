//! eosin's `Driver` on the emulator: device memory is the host's.
//!
//! Every buffer is an allocation of its own between guard bytes, filled with
//! NaN, so that an access one too far and an output that nothing wrote show.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use eosin::device::cuda::driver::{Driver, Event, Graph, Launch};
use eosin::device::cuda::kernels::Kernel;
use eosin::{Error, Result};
use eosin_emulator::Schedule;

const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xA5;
const POISON: u8 = 0xFF;

/// The names of the kernels that ran in this process.
static RAN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

#[allow(
    dead_code,
    reason = "only some of the test binaries that share this ask"
)]
pub fn kernels_that_ran() -> BTreeSet<&'static str> {
    locked(&RAN).clone()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buffers by address, with their sizes; shared by the streams of a device.
type Memory = Arc<Mutex<BTreeMap<u64, usize>>>;

pub struct Emulated {
    schedule: Schedule,
    memory: Memory,
    capture: Mutex<Option<Vec<Recorded>>>,
    start: Instant,
}

/// A launch that owns its parameters, in words so that they are aligned.
struct Recorded {
    kernel: &'static Kernel,
    grid: [u32; 3],
    shared: u32,
    params: Vec<u64>,
    bytes: usize,
}

impl Emulated {
    pub fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            memory: Memory::default(),
            capture: Mutex::new(None),
            start: Instant::now(),
        }
    }
}

fn run(launch: &Launch, schedule: Schedule) -> Result<()> {
    locked(&RAN).insert(launch.kernel.name);
    let Launch {
        kernel,
        grid,
        shared,
        params,
    } = *launch;
    // SAFETY: the addresses in `params` come from tensors that the launch's
    // caller holds.
    let outcome = unsafe {
        eosin_emulator::launch(kernel.name, grid, kernel.threads, shared, params, schedule)
    };
    outcome.map_err(|problem| Error::op(kernel.op(), problem))
}

fn around(bytes: usize) -> Layout {
    Layout::from_size_align(bytes + 2 * GUARD, GUARD).expect("a size below isize::MAX")
}

/// # Errors
/// Something wrote outside a buffer.
fn check(address: u64, bytes: usize) -> Result<()> {
    // SAFETY: `alloc` made the buffer with a guard on both sides.
    let guards = unsafe {
        [
            std::slice::from_raw_parts((address as usize - GUARD) as *const u8, GUARD),
            std::slice::from_raw_parts((address as usize + bytes) as *const u8, GUARD),
        ]
    };
    match guards
        .iter()
        .flat_map(|g| g.iter())
        .any(|&b| b != GUARD_BYTE)
    {
        true => Err(Error::op(
            "emulator",
            format!("a kernel wrote outside a buffer of {bytes} bytes"),
        )),
        false => Ok(()),
    }
}

struct EmulatedGraph {
    launches: Vec<Recorded>,
    schedule: Schedule,
}

impl Graph for EmulatedGraph {
    fn replay(&self) -> Result<()> {
        self.launches.iter().try_for_each(|recorded| {
            let launch = Launch {
                kernel: recorded.kernel,
                grid: recorded.grid,
                shared: recorded.shared,
                params: &bytemuck::cast_slice(&recorded.params)[..recorded.bytes],
            };
            run(&launch, self.schedule)
        })
    }
}

impl Driver for Emulated {
    fn name(&self) -> String {
        "emulator".to_owned()
    }

    fn stream(&self) -> Result<Box<dyn Driver>> {
        Ok(Box::new(Self {
            memory: self.memory.clone(),
            ..Self::new(self.schedule)
        }))
    }

    fn chunk(&self) -> Option<usize> {
        None
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        // SAFETY: the layout is not empty, and both guards lie within it.
        let address = unsafe {
            let start = alloc(around(bytes));
            if start.is_null() {
                return Err(Error::op("emulator", "out of memory"));
            }
            start.write_bytes(GUARD_BYTE, bytes + 2 * GUARD);
            start.add(GUARD).write_bytes(POISON, bytes);
            start as u64 + GUARD as u64
        };
        locked(&self.memory).insert(address, bytes);
        Ok(address)
    }

    fn free(&self, address: u64, _: usize) {
        let Some(bytes) = locked(&self.memory).remove(&address) else {
            panic!("{address:#x} is freed but was not allocated");
        };
        let intact = check(address, bytes);
        // SAFETY: allocated in `alloc` with this layout.
        unsafe { dealloc((address as usize - GUARD) as *mut u8, around(bytes)) };
        if let (Err(error), false) = (intact, std::thread::panicking()) {
            panic!("{error}");
        }
    }

    fn write(&self, to: u64, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's buffer holds as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    fn read(&self, from: u64, to: &mut [u8]) -> Result<()> {
        for (&address, &bytes) in locked(&self.memory).iter() {
            check(address, bytes)?;
        }
        // SAFETY: the caller's buffer holds as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let mut capture = locked(&self.capture);
        let Some(recorded) = capture.as_mut() else {
            drop(capture);
            return run(launch, self.schedule);
        };
        let mut params = vec![0u64; launch.params.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut params)[..launch.params.len()]
            .copy_from_slice(launch.params);
        recorded.push(Recorded {
            kernel: launch.kernel,
            grid: launch.grid,
            shared: launch.shared,
            params,
            bytes: launch.params.len(),
        });
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn begin_capture(&self) -> Result<()> {
        *locked(&self.capture) = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        let launches = locked(&self.capture).take();
        let launches = launches.ok_or_else(|| Error::op("capture", "none was begun"))?;
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
