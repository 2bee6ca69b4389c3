//! The CUDA device: memory, launches, faults and captured steps.
//!
//! A [`CudaDevice`] is one stream of one GPU with an arena of its own. Work runs
//! in the order in which it was asked for. A service gives each of its threads
//! a stream ([`CudaDevice::stream`]); memory can be used on all streams of a
//! GPU, but a tensor belongs to one, and an operator refuses operands of
//! several, so that nothing is read before it was written.

mod arena;
pub mod driver;
pub mod kernels;
mod launch;
pub mod null;
#[cfg(feature = "cuda")]
pub mod nvidia;

pub use arena::Memory;
pub(crate) use launch::{Address, Walk, count, count_up, device_of, f32_only, overwrite, put};

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::ThreadId;

use crate::error::{Error, Result};
use crate::random::Philox;
use arena::Arena;
use driver::Driver;

/// Tells GPUs apart; carries no other state.
static NEXT_GPU: AtomicU64 = AtomicU64::new(0);

/// Which products of bf16 and f16 a device gives to the instructions that Hopper alone
/// has, wgmma and the tensor memory accelerator (kernels/common/wgmma.cuh), instead of
/// mma.sync. Other GPUs, batches of matrices and operands whose lines do not start at
/// multiples of 16 bytes never are.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wgmma {
    /// None. No GPU has run these kernels yet: only the emulator has.
    #[default]
    Never,
    /// Those with enough large tiles to fill a GPU.
    Suited,
    /// All, however small, to test them.
    Always,
}

/// One stream of one GPU. Clones share it.
#[derive(Clone)]
pub struct CudaDevice(Arc<Shared>);

struct Shared {
    driver: Box<dyn Driver>,
    arena: Mutex<Arena>,
    gpu: u64,
    /// Where kernels leave what they found wrong and find what changes between
    /// replays.
    control: u64,
    /// Whether a kernel that can report a fault ran since the last look.
    faults: AtomicBool,
    /// The addresses of tables that kernels read, by what is in them.
    constants: Mutex<HashMap<Vec<u8>, u64>>,
    /// The thread that captures.
    capturing: Mutex<Option<ThreadId>>,
    /// A [`Wgmma`].
    wgmma: AtomicU8,
}

/// A mirror of `ARRIVALS` in kernels/common/arrival.cuh.
pub(crate) const ARRIVALS: usize = 4096;

/// What kernels and host share, at the start of a block of device memory. A
/// mirror of `eosin::Control` in kernels/common/base.cuh.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Control {
    fault: Fault,
    random: Philox,
    /// 0 between launches.
    arrivals: [u32; ARRIVALS],
}

/// An index that a kernel found outside its bound.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Fault {
    index: i64,
    bound: i64,
    /// The kernel's place in the table, plus 1; 0 for no fault.
    kernel: u32,
    padding: u32,
}

impl CudaDevice {
    /// # Errors
    /// The driver has no memory left.
    pub fn new(driver: impl Driver + 'static) -> Result<Self> {
        Self::on(Box::new(driver), NEXT_GPU.fetch_add(1, Ordering::Relaxed))
    }

    fn on(driver: Box<dyn Driver>, gpu: u64) -> Result<Self> {
        let control = driver.alloc(size_of::<Control>())?;
        let zeros: Control = bytemuck::Zeroable::zeroed();
        driver.write(control, bytemuck::bytes_of(&zeros))?;
        Ok(Self(Arc::new(Shared {
            driver,
            arena: Mutex::new(Arena::default()),
            gpu,
            control,
            faults: AtomicBool::new(false),
            constants: Mutex::new(HashMap::new()),
            capturing: Mutex::new(None),
            wgmma: AtomicU8::default(),
        })))
    }

    /// Another stream of the same GPU.
    ///
    /// # Errors
    /// The GPU refuses.
    pub fn stream(&self) -> Result<Self> {
        let stream = Self::on(self.0.driver.stream()?, self.0.gpu)?;
        stream.set_wgmma(self.wgmma());
        Ok(stream)
    }

    /// Chooses which products use wgmma from now on, on this stream and on those that
    /// are made from it.
    pub fn set_wgmma(&self, products: Wgmma) {
        self.0.wgmma.store(products as u8, Ordering::Relaxed);
    }

    pub fn wgmma(&self) -> Wgmma {
        match self.0.wgmma.load(Ordering::Relaxed) {
            1 => Wgmma::Suited,
            2 => Wgmma::Always,
            _ => Wgmma::Never,
        }
    }

    /// Whether both are streams of one GPU.
    pub fn same_gpu(&self, other: &Self) -> bool {
        self.0.gpu == other.0.gpu
    }

    /// For people.
    pub fn name(&self) -> String {
        self.0.driver.name()
    }

    pub fn driver(&self) -> &dyn Driver {
        &*self.0.driver
    }

    pub fn memory(&self) -> Memory {
        self.arena().statistics()
    }

    fn arena(&self) -> MutexGuard<'_, Arena> {
        self.0.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn capture_of(&self) -> MutexGuard<'_, Option<ThreadId>> {
        let capturing = self.0.capturing.lock();
        capturing.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether launches are being recorded instead of run.
    pub fn is_capturing(&self) -> bool {
        self.capture_of().is_some()
    }

    /// What the host can do only outside a capture.
    fn outside_capture(&self, what: &str) -> Result<()> {
        if self.is_capturing() {
            let problem = format!("{what} inside a captured step");
            return Err(Error::op("capture", problem));
        }
        Ok(())
    }

    /// Unwritten memory.
    pub(crate) fn buffer(&self, bytes: usize) -> Result<Buffer> {
        let (address, _) = self.arena().take(self.driver(), bytes)?;
        Ok(Buffer {
            device: self.clone(),
            address,
            bytes,
            lent: Mutex::default(),
        })
    }

    /// Memory with these bytes.
    pub(crate) fn upload(&self, bytes: &[u8]) -> Result<Buffer> {
        self.outside_capture("a copy from the host")?;
        let buffer = self.buffer(bytes.len())?;
        if !bytes.is_empty() {
            self.driver().write(buffer.address, bytes)?;
        }
        Ok(buffer)
    }

    /// Where these bytes lie for as long as the device lives. The same bytes lie
    /// in the same place, so a captured step finds what it was warmed up with.
    /// For the small tables that follow from shapes, never for values.
    pub(crate) fn constant(&self, bytes: &[u8]) -> Result<Address> {
        let held = self.0.constants.lock();
        let mut held = held.unwrap_or_else(PoisonError::into_inner);
        if let Some(&address) = held.get(bytes) {
            return Ok(Address(address));
        }
        self.outside_capture("a table that no earlier step has needed")?;
        let (address, _) = self.arena().take(self.driver(), bytes.len())?;
        if !bytes.is_empty()
            && let Err(error) = self.driver().write(address, bytes)
        {
            self.arena().give_back(self.driver(), address);
            return Err(error);
        }
        held.insert(bytes.to_vec(), address);
        Ok(Address(address))
    }

    /// Replaces the bytes of `buffer` from `start` on.
    pub(crate) fn write(&self, buffer: &Buffer, start: usize, bytes: &[u8]) -> Result<()> {
        self.outside_capture("a copy from the host")?;
        if start + bytes.len() > buffer.bytes {
            return Err(Error::op("write", "internal: past the end of a buffer"));
        }
        match bytes {
            [] => Ok(()),
            _ => self.driver().write(buffer.address + start as u64, bytes),
        }
    }

    /// Bytes of `buffer` from `start` on, after everything that was asked for
    /// before.
    ///
    /// # Errors
    /// A kernel found an index outside its bounds.
    pub(crate) fn download(&self, buffer: &Buffer, start: usize, len: usize) -> Result<Vec<u8>> {
        self.outside_capture("a value is asked for")?;
        if start + len > buffer.bytes {
            return Err(Error::op("read", "internal: past the end of a buffer"));
        }
        let mut bytes = vec![0; len];
        if len > 0 {
            self.driver()
                .read(buffer.address + start as u64, &mut bytes)?;
        }
        self.check_faults()?;
        Ok(bytes)
    }

    /// Waits for everything that was asked for.
    ///
    /// # Errors
    /// A kernel found an index outside its bounds.
    pub fn synchronize(&self) -> Result<()> {
        self.outside_capture("a wait")?;
        self.driver().synchronize()?;
        self.check_faults()
    }

    fn check_faults(&self) -> Result<()> {
        if !self.0.faults.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let mut fault: Fault = bytemuck::Zeroable::zeroed();
        self.driver()
            .read(self.0.control, bytemuck::bytes_of_mut(&mut fault))?;
        let found = (fault.kernel as usize).checked_sub(1);
        let Some(kernel) = found.and_then(|i| kernels::ALL.get(i)) else {
            return Ok(());
        };
        let none: Fault = bytemuck::Zeroable::zeroed();
        self.driver()
            .write(self.0.control, bytemuck::bytes_of(&none))?;
        let Fault { index, bound, .. } = fault;
        let problem = format!("index {index} is not in 0..{bound}");
        Err(Error::op(kernel.op(), problem))
    }

    /// For kernels that report faults.
    pub(crate) fn control(&self) -> Address {
        self.0.faults.store(true, Ordering::Release);
        Address(self.0.control)
    }

    /// For kernels whose last blocks add what the others left: this many counters.
    ///
    /// # Errors
    /// More than there are.
    pub(crate) fn arrivals(&self, op: &'static str, counters: usize) -> Result<Address> {
        if counters > ARRIVALS {
            let problem = format!("{counters} groups of channels, more than {ARRIVALS}");
            return Err(Error::op(op, problem));
        }
        let at = std::mem::offset_of!(Control, arrivals) as u64;
        Ok(Address(self.0.control + at))
    }

    /// For kernels that draw random numbers: where a replay finds its stream,
    /// nowhere outside a capture.
    pub(crate) fn replayed_random(&self) -> Address {
        if !self.is_capturing() {
            return Address::default();
        }
        Address(self.0.control + std::mem::offset_of!(Control, random) as u64)
    }

    /// Chooses the random stream of the replays to come. A step that is captured
    /// with `Philox::new(0)` draws in a replay what it would draw eagerly with
    /// `stream`: a captured kernel holds the key and the position of its
    /// capture, and draws from their sum with the key and position set here.
    /// Launches outside a capture draw what they are asked to.
    ///
    /// # Errors
    /// A capture is under way.
    pub fn set_random(&self, stream: Philox) -> Result<()> {
        self.outside_capture("a change of the random stream")?;
        let at = self.0.control + std::mem::offset_of!(Control, random) as u64;
        self.driver().write(at, bytemuck::bytes_of(&stream))
    }

    /// Records what `f` launches instead of running it. Everything that `f`
    /// allocates keeps its address for as long as the graph lives, so tensors
    /// that it returns hold new values after each replay.
    ///
    /// # Errors
    /// What `f` returns; a copy between host and device inside `f`; a capture
    /// inside a capture.
    pub fn capture<R>(&self, f: impl FnOnce() -> Result<R>) -> Result<(Graph, R)> {
        {
            let mut capturing = self.capture_of();
            if capturing.is_some() {
                return Err(Error::op("capture", "a step is being captured already"));
            }
            self.driver().begin_capture()?;
            *capturing = Some(std::thread::current().id());
        }
        let pool = self.arena().begin_capture();
        let outcome = f();
        self.arena().end_capture();
        let recorded = self.driver().end_capture();
        *self.capture_of() = None;
        let graph = match recorded {
            Ok(graph) => graph,
            Err(error) => {
                self.arena().dissolve(self.driver(), pool);
                // What went wrong first says more.
                return Err(outcome.err().unwrap_or(error));
            }
        };
        let graph = Graph {
            device: self.clone(),
            graph,
            pool,
        };
        Ok((graph, outcome?))
    }
}

/// The same stream.
impl PartialEq for CudaDevice {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for CudaDevice {}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaDevice({}, GPU {})", self.name(), self.0.gpu)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let arena = self.arena.get_mut();
        let arena = arena.unwrap_or_else(PoisonError::into_inner);
        let constants = self.constants.get_mut();
        let constants = constants.unwrap_or_else(PoisonError::into_inner);
        for (_, address) in constants.drain() {
            arena.give_back(&*self.driver, address);
        }
        arena.close(&*self.driver);
        self.driver.free(self.control, size_of::<Control>());
    }
}

/// A captured sequence of launches and the memory that they work on.
pub struct Graph {
    device: CudaDevice,
    graph: Box<dyn driver::Graph>,
    pool: u64,
}

impl Graph {
    /// Runs it once more.
    ///
    /// # Errors
    /// The device refuses; a capture is under way.
    pub fn replay(&self) -> Result<()> {
        self.device.outside_capture("a replay")?;
        self.device.0.faults.store(true, Ordering::Release);
        self.graph.replay()
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // Its last replay may still run; the stream's order protects reuse.
        self.device
            .arena()
            .dissolve(self.device.driver(), self.pool);
    }
}

/// Bytes on a device, given back to its arena when dropped.
pub struct Buffer {
    device: CudaDevice,
    address: u64,
    bytes: usize,
    /// The other streams that may still work on it.
    lent: Mutex<Vec<Weak<Shared>>>,
}

impl Buffer {
    /// Lets another stream of the GPU work on it too.
    pub(crate) fn lend(&self, to: &CudaDevice) {
        if *to == self.device {
            return;
        }
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        // A stream that is gone has waited for its work.
        lent.retain(|stream| stream.strong_count() > 0);
        let to = Arc::downgrade(&to.0);
        if !lent.iter().any(|stream| stream.ptr_eq(&to)) {
            lent.push(to);
        }
    }

    /// Where it starts.
    pub(crate) fn address(&self) -> Address {
        Address(self.address)
    }

    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lent = self.lent.get_mut().unwrap_or_else(PoisonError::into_inner);
        for stream in lent.drain(..).filter_map(|stream| stream.upgrade()) {
            // The order of its own stream does not protect it from these. Memory
            // of which that is not known is not used again.
            if stream.driver.synchronize().is_err() {
                return;
            }
        }
        let mut arena = self.device.arena();
        arena.give_back(self.device.driver(), self.address);
    }
}
