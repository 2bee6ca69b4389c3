//! A driver without a device: it hands out addresses and records launches.
//!
//! Everything above the driver runs as it would on a GPU, so it gives the
//! launches and the memory of a step (a dry run), and what a launch costs the
//! host. Reads give zeros.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::driver::{Boxes, Driver, Event, Graph, Launch, TensorMap};
use crate::error::{Error, Result};

/// One launch as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub threads: u32,
    pub shared: u32,
}

/// The launches of one or more null drivers, shared with who reads them.
pub type Ledger = Arc<Mutex<Vec<Recorded>>>;

pub struct NullDriver {
    ledger: Option<Ledger>,
    next: AtomicU64,
    capture: Mutex<Option<Vec<Recorded>>>,
    start: Instant,
}

impl NullDriver {
    /// Forgets what it is asked, for timing the host.
    pub fn new() -> Self {
        Self {
            ledger: None,
            // No address is 0, and none looks like the host's.
            next: AtomicU64::new(1 << 40),
            capture: Mutex::new(None),
            start: Instant::now(),
        }
    }

    /// Records every launch in `ledger`; those of a graph at each replay.
    pub fn recording(ledger: Ledger) -> Self {
        Self {
            ledger: Some(ledger),
            ..Self::new()
        }
    }
}

impl Default for NullDriver {
    fn default() -> Self {
        Self::new()
    }
}

fn append(ledger: Option<&Ledger>, launches: &[Recorded]) {
    if let Some(ledger) = ledger {
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.extend_from_slice(launches);
    }
}

struct NullGraph {
    ledger: Option<Ledger>,
    launches: Vec<Recorded>,
}

impl Graph for NullGraph {
    fn replay(&self) -> Result<()> {
        append(self.ledger.as_ref(), &self.launches);
        Ok(())
    }
}

impl Driver for NullDriver {
    fn name(&self) -> String {
        "null".to_owned()
    }

    fn chunk(&self) -> Option<usize> {
        Some(64 << 20)
    }

    fn stream(&self) -> Result<Box<dyn Driver>> {
        Ok(Box::new(Self {
            ledger: self.ledger.clone(),
            ..Self::new()
        }))
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let size = bytes.next_multiple_of(256) as u64;
        Ok(self.next.fetch_add(size, Ordering::Relaxed))
    }

    fn free(&self, _: u64, _: usize) {}

    fn write(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn read(&self, _: u64, to: &mut [u8]) -> Result<()> {
        to.fill(0);
        Ok(())
    }

    fn tensor_map(&self, boxes: &Boxes) -> Result<Option<TensorMap>> {
        Ok(Some(boxes.plain()))
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let recorded = Recorded {
            kernel: launch.kernel.name,
            grid: launch.grid,
            threads: launch.kernel.threads,
            shared: launch.shared,
        };
        let mut capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        match capture.as_mut() {
            Some(launches) => launches.push(recorded),
            None => append(self.ledger.as_ref(), &[recorded]),
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn begin_capture(&self) -> Result<()> {
        let mut capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        *capture = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        let mut capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        let launches = capture
            .take()
            .ok_or_else(|| Error::op("capture", "internal: no capture was begun"))?;
        Ok(Box::new(NullGraph {
            ledger: self.ledger.clone(),
            launches,
        }))
    }

    fn event(&self) -> Result<Event> {
        Ok(Event(self.start.elapsed().as_nanos() as u64))
    }

    fn elapsed(&self, from: Event, to: Event) -> Result<f32> {
        Ok(to.0.saturating_sub(from.0) as f32 * 1e-6)
    }
}
