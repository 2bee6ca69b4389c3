//! What the CUDA side asks of a GPU: memory, launches, capture, events.
//!
//! Three things answer: an NVIDIA driver, a null driver that records (dry runs,
//! host cost), and the host emulator of the test suite. All shape logic, launch
//! numbers and workspaces are above this trait, so they run without a GPU.

use super::kernels::Kernel;
use crate::error::Result;

/// One launch: a grid of one-dimensional blocks of `kernel.threads`.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    pub kernel: &'static Kernel,
    pub grid: [u32; 3],
    /// Bytes of dynamic shared memory per block.
    pub shared: u32,
    /// The kernel's one argument, a `#[repr(C)]` struct, aligned to 8.
    pub params: &'a [u8],
}

/// A captured sequence of launches.
pub trait Graph: Send + Sync {
    /// Runs the launches once more, in their order, on the driver's stream.
    fn replay(&self) -> Result<()>;
}

/// A point in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(pub u64);

/// One device and one stream: what is asked for runs in the order of the calls.
pub trait Driver: Send + Sync {
    /// For people, such as "NVIDIA H100 80GB HBM3".
    fn name(&self) -> String;

    /// Another stream of the same device, whose work is not ordered with that of
    /// this one. Memory of either can be used on both.
    ///
    /// # Errors
    /// The device refuses.
    fn stream(&self) -> Result<Box<dyn Driver>>;

    /// Bytes that the arena asks for at once; `None` to be asked for every
    /// buffer on its own, which lets the host's tools see its bounds.
    fn chunk(&self) -> Option<usize>;

    /// Unwritten memory of at least one byte, aligned to 256.
    ///
    /// # Errors
    /// There is not enough.
    fn alloc(&self, bytes: usize) -> Result<u64>;

    /// Gives back what [`Driver::alloc`] gave, with the same size.
    fn free(&self, address: u64, bytes: usize);

    /// Host to device; done on return, and ordered after earlier launches.
    fn write(&self, to: u64, from: &[u8]) -> Result<()>;

    /// Device to host; waits for everything before it.
    fn read(&self, from: u64, to: &mut [u8]) -> Result<()>;

    /// Does not wait; a launch under capture is recorded and not run.
    fn launch(&self, launch: &Launch) -> Result<()>;

    /// Waits for everything before it.
    fn synchronize(&self) -> Result<()>;

    fn begin_capture(&self) -> Result<()>;

    /// The launches since [`Driver::begin_capture`]. Their memory must outlive
    /// the graph; that is the arena's business.
    fn end_capture(&self) -> Result<Box<dyn Graph>>;

    /// An event at this point of the stream.
    fn event(&self) -> Result<Event>;

    /// Milliseconds between two events, waiting for the later one. Both are
    /// spent by it.
    fn elapsed(&self, from: Event, to: Event) -> Result<f32>;
}
