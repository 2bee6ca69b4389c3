//! Times on a CUDA device, by its own clock.
//!
//! Each call is between two events of the stream, so the host's work is not in
//! it: while the device still writes the memory that flushes its L2 cache, the
//! host is already asking for the work to be timed. The inputs rotate besides,
//! so that no call finds its own in a cache.

use std::time::Duration;

use eosin::device::cuda::CudaDevice;
use eosin::{DType, Device, Result, Tensor};

use super::Run;

/// Events that are open at once.
const OPEN: usize = 64;

/// The device time of `calls` calls of `runs`, in turns. Before each, `flushed`
/// bytes are written outside the measured time.
///
/// # Errors
/// A call fails, or a kernel found an index outside its bounds.
pub fn time(device: &CudaDevice, runs: &mut [Run], calls: u64, flushed: usize) -> Result<Duration> {
    let driver = device.driver();
    let place = Device::Cuda(device.clone());
    let calls: Vec<usize> = (0..calls as usize).map(|i| i % runs.len()).collect();
    let mut milliseconds = 0.0;
    for calls in calls.chunks(OPEN) {
        let mut events = Vec::with_capacity(OPEN);
        for &set in calls {
            drop(Tensor::full_on(0.0, &[flushed / 4], DType::F32, &place)?);
            let start = driver.event()?;
            let results = runs[set]()?;
            events.push((start, driver.event()?));
            drop(results);
        }
        for (start, end) in events {
            milliseconds += f64::from(driver.elapsed(start, end)?);
        }
    }
    device.synchronize()?;
    Ok(Duration::from_secs_f64(milliseconds * 1e-3))
}
