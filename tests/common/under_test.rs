//! The CUDA device that tests run on: the emulator's, or a GPU.
//!
//! The suite never waits for a GPU; where there is one, the same tests run on it
//! with `EOSIN_TEST_GPU=0` (its number). Tests of the emulator itself, and of what
//! only the emulator can see, do not ask here.

use std::sync::OnceLock;

use eosin::device::cuda::CudaDevice;
use eosin::device::cuda::driver::{Boxes, Driver, Event, Graph, Launch, TensorMap};
use eosin::{Error, Result};
use eosin_emulator::Schedule;

use crate::emulated::{Emulated, note_that_ran};

const VARIABLE: &str = "EOSIN_TEST_GPU";

/// A stream of the GPU that the environment names, or a device of the emulator
/// with this schedule.
///
/// # Errors
/// A number is named that is no GPU's.
pub fn device(schedule: Schedule) -> Result<CudaDevice> {
    // Opened once: that loads every kernel.
    static GPU: OnceLock<CudaDevice> = OnceLock::new();
    let Ok(named) = std::env::var(VARIABLE) else {
        return CudaDevice::new(Emulated::new(schedule));
    };
    if GPU.get().is_none() {
        let problem = |_| Error::op("tests", format!("{VARIABLE}={named} is not a number"));
        let driver = gpu(named.parse().map_err(problem)?)?;
        eprintln!("tests run on {}", driver.name());
        // Lost where another thread was faster.
        let _ = GPU.set(CudaDevice::new(Watched(driver))?);
    }
    match GPU.get() {
        Some(gpu) => gpu.stream(),
        None => Err(Error::op("tests", "the GPU was not opened")),
    }
}

#[cfg(feature = "cuda")]
fn gpu(number: usize) -> Result<Box<dyn Driver>> {
    use eosin::device::cuda::nvidia::NvidiaDriver;
    Ok(Box::new(NvidiaDriver::new(number)?))
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: usize) -> Result<Box<dyn Driver>> {
    Err(Error::usage(
        "this build has not the feature cuda",
        "build it with the feature cuda",
    ))
}

/// A GPU of which is noted what runs there, and whose every buffer holds NaN until
/// something writes to it.
struct Watched(Box<dyn Driver>);

impl Driver for Watched {
    fn name(&self) -> String {
        self.0.name()
    }

    fn stream(&self) -> Result<Box<dyn Driver>> {
        Ok(Box::new(Self(self.0.stream()?)))
    }

    /// Every buffer alone, so that tools which watch memory see its ends.
    fn chunk(&self) -> Option<usize> {
        None
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let address = self.0.alloc(bytes)?;
        self.0.write(address, &vec![0xff; bytes])?;
        Ok(address)
    }

    fn free(&self, address: u64, bytes: usize) {
        self.0.free(address, bytes);
    }

    fn write(&self, to: u64, from: &[u8]) -> Result<()> {
        self.0.write(to, from)
    }

    fn read(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.0.read(from, to)
    }

    fn tensor_map(&self, boxes: &Boxes) -> Result<Option<TensorMap>> {
        self.0.tensor_map(boxes)
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        note_that_ran(launch.kernel.name);
        self.0.launch(launch)
    }

    fn synchronize(&self) -> Result<()> {
        self.0.synchronize()
    }

    fn begin_capture(&self) -> Result<()> {
        self.0.begin_capture()
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        self.0.end_capture()
    }

    fn event(&self) -> Result<Event> {
        self.0.event()
    }

    fn elapsed(&self, from: Event, to: Event) -> Result<f32> {
        self.0.elapsed(from, to)
    }
}
