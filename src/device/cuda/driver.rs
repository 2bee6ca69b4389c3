//! What the CUDA side asks of a GPU: memory, launches, capture, events.
//!
//! Three things answer: an NVIDIA driver, a null driver that records (dry runs,
//! host cost), and the host emulator of the test suite. All shape logic, launch
//! numbers and workspaces are above this trait, so they run without a GPU.

use bytemuck::{Pod, Zeroable};

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

/// A matrix of 16-bit elements as the tensor memory accelerator of sm_90 brings it to
/// shared memory: in boxes of 64 elements of some lines, whose 128 bytes it swizzles.
/// What of a box is outside of the matrix becomes zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boxes {
    /// A multiple of 16.
    pub address: u64,
    /// Elements of a line, at least 1.
    pub length: u64,
    /// At least 1.
    pub lines: u64,
    /// Bytes from line to line, a multiple of 16.
    pub stride: u64,
    /// Lines of a box, 1 to 256.
    pub box_lines: u32,
}

/// Such a matrix as kernels take it, by value.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TensorMap(pub [u64; 16]);

impl Boxes {
    /// How the map begins that no hardware reads; tests/emulator/shim/worker.h too.
    const PLAIN: u64 = 0x656f_7369_6e6d_6170;

    /// The numbers as they are, for drivers without hardware.
    pub fn plain(&self) -> TensorMap {
        let mut words = [0; 16];
        let box_lines = u64::from(self.box_lines);
        let numbers = [
            self.address,
            self.length,
            self.lines,
            self.stride,
            box_lines,
        ];
        words[0] = Self::PLAIN;
        words[1..6].copy_from_slice(&numbers);
        TensorMap(words)
    }
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

    /// What kernels for sm_90a read a matrix by; `None` on a device that does not run
    /// them.
    ///
    /// # Errors
    /// The driver refuses the numbers.
    fn tensor_map(&self, boxes: &Boxes) -> Result<Option<TensorMap>>;

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
