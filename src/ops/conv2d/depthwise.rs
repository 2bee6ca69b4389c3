//! Launches of the convolutions of one channel and one filter for each group, in
//! kernels/conv2d_depthwise.cu.

use bytemuck::{Pod, Zeroable};

use super::Sizes;
use super::cuda::{ConvSizes, LeftMoments};
use crate::device::cuda::kernels::{self, Kernel};
use crate::device::cuda::{Address, CudaDevice, count};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::Activation;
use crate::ops::matmul::cuda::Epilogue;
use crate::ops::normalise::address_or_none;
use crate::shape::{Layout, Shape};
use crate::tensor::Tensor;

/// Threads of a block, and pixels of a tile, as in the kernels.
const THREADS: usize = 256;
const TILE: [usize; 2] = [2, 4];
/// Threads across channels: enough for whole lines of memory, and few enough that a
/// block has several tiles.
const LANES: [usize; 2] = [16, 64];
/// Blocks that keep a large GPU busy.
const ENOUGH_BLOCKS: usize = 1024;
/// Tiles of a thread that are worth what a block does before and after them.
const LEAST_TILES: usize = 2;
/// Bytes of a block's weights.
const MOST_SHARED: usize = 48 << 10;

/// The kernels for one dtype; of pairs, the first has one channel in a thread.
struct Kernels {
    forward_3x3: [&'static Kernel; 2],
    forward_7x7: &'static Kernel,
    forward_any: [&'static Kernel; 2],
    backward_3x3: [&'static Kernel; 2],
    backward_7x7: &'static Kernel,
    backward_patches: [&'static Kernel; 2],
}

impl Kernels {
    fn of(dtype: DType) -> &'static Self {
        match dtype {
            DType::BF16 => &BF16,
            DType::F16 => &F16,
            _ => &F32,
        }
    }
}

static F32: Kernels = Kernels {
    forward_3x3: [
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_3X3_1_F32,
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_3X3_2_F32,
    ],
    forward_7x7: &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_7X7_1_F32,
    forward_any: [
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_ANY_1_F32,
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_ANY_2_F32,
    ],
    backward_3x3: [
        &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_3X3_1_F32,
        &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_3X3_2_F32,
    ],
    backward_7x7: &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_7X7_1_F32,
    backward_patches: [
        &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_PATCHES_1_F32,
        &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_PATCHES_2_F32,
    ],
};

static BF16: Kernels = Kernels {
    forward_3x3: [
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_3X3_1_BF16,
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_3X3_2_BF16,
    ],
    forward_7x7: &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_7X7_1_BF16,
    forward_any: [
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_ANY_1_BF16,
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_ANY_2_BF16,
    ],
    backward_3x3: [
        &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_3X3_1_BF16,
        &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_3X3_2_BF16,
    ],
    backward_7x7: &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_7X7_1_BF16,
    backward_patches: [
        &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_PATCHES_1_BF16,
        &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_PATCHES_2_BF16,
    ],
};

static F16: Kernels = Kernels {
    forward_3x3: [
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_3X3_1_F16,
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_3X3_2_F16,
    ],
    forward_7x7: &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_7X7_1_F16,
    forward_any: [
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_ANY_1_F16,
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_ANY_2_F16,
    ],
    backward_3x3: [
        &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_3X3_1_F16,
        &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_3X3_2_F16,
    ],
    backward_7x7: &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_7X7_1_F16,
    backward_patches: [
        &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_PATCHES_1_F16,
        &kernels::EOSIN_CONV2D_BACKWARD_DEPTHWISE_PATCHES_2_F16,
    ],
};

/// A mirror of `Cut` in kernels/conv2d_depthwise.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
struct Cut {
    lanes: u32,
    each: u32,
}

/// A mirror of `ForwardParams` in kernels/conv2d_depthwise.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ForwardParams {
    x: Address,
    w: Address,
    bias: Address,
    residual: Address,
    y: Address,
    sizes: ConvSizes,
    cut: Cut,
    epilogue: Epilogue,
    moments: LeftMoments,
}

/// A mirror of `BackwardParams` in kernels/conv2d_depthwise.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct BackwardParams {
    x: Address,
    gy: Address,
    w: Address,
    more: Address,
    gx: Address,
    gw: Address,
    gb: Address,
    parts: Address,
    arrivals: Address,
    sizes: ConvSizes,
    cut: Cut,
}

/// How threads are laid over channels and tiles, by shape alone.
struct Plan {
    cut: Cut,
    groups: usize,
    parts: usize,
    shared: usize,
}

impl Plan {
    /// `each` channels a thread, `tiles` in all, in blocks that are `times` as many.
    fn new(
        op: &'static str,
        sizes: &Sizes,
        each: usize,
        tiles: usize,
        times: usize,
    ) -> Result<Self> {
        let threads = sizes.channels[0] / each;
        // The most threads that work, of the widest.
        let fewest = threads.div_ceil(LANES[1]).max(1);
        let most = (threads / LANES[0]).max(fewest);
        let working = |groups: usize| {
            let lanes = threads.div_ceil(groups);
            threads * (THREADS / lanes) * 1000 / (groups * THREADS)
        };
        let mut groups = fewest;
        for other in fewest + 1..=most.min(4 * fewest) {
            if working(other) > working(groups) {
                groups = other;
            }
        }
        let lanes = threads.div_ceil(groups);
        let turns = THREADS / lanes;
        let wanted = ENOUGH_BLOCKS.div_ceil(groups * times);
        let parts = wanted.min(tiles.div_ceil(turns * LEAST_TILES)).max(1);
        // Whole turns, so that no thread has more tiles than another needs to.
        let each_part = tiles.div_ceil(parts).next_multiple_of(turns).max(1);
        Ok(Self {
            cut: Cut {
                lanes: count(op, lanes)?,
                each: count(op, each_part)?,
            },
            groups,
            parts: tiles.div_ceil(each_part).max(1),
            shared: sizes.taps() * lanes * each * size_of::<f32>(),
        })
    }
}

/// Whether there is one channel and one filter for each group.
pub(super) fn suits(sizes: &Sizes) -> bool {
    let [c, k] = sizes.channels;
    c == k && c == sizes.geometry.groups
}

fn plain(sizes: &Sizes, kernel: usize) -> bool {
    let geometry = &sizes.geometry;
    sizes.kernel == [kernel; 2] && geometry.stride == [1, 1] && geometry.dilation == [1, 1]
}

/// How many channels a thread takes of tensors of this many.
fn channels_at_once(
    channels: usize,
    tensors: &[Option<&Tensor>],
    op: &'static str,
) -> Result<usize> {
    for t in tensors.iter().flatten() {
        if !channels.is_multiple_of(2) || t.address(op)?.0 % (2 * t.dtype().size() as u64) != 0 {
            return Ok(1);
        }
    }
    Ok(2)
}

/// What follows a convolution of dense NHWC `x` by `w` into `y`.
pub(super) struct Depthwise<'a> {
    pub op: &'static str,
    pub x: &'a Tensor,
    pub w: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    pub residual: Option<&'a Tensor>,
    pub y: &'a Tensor,
    pub epilogue: Epilogue,
}

impl Depthwise<'_> {
    /// The moments of `of` of the result, if they are asked for; `None`, with nothing
    /// launched, where the weights of a block are too many.
    pub fn forward(
        self,
        device: &CudaDevice,
        of: Option<Activation>,
        sizes: &Sizes,
    ) -> Result<Option<Option<Tensor>>> {
        let op = self.op;
        let by = Kernels::of(self.x.dtype());
        let operands = [Some(self.x), Some(self.y), self.bias, self.residual];
        let mut each = channels_at_once(sizes.channels[0], &operands, op)?;
        let [p, q] = sizes.output;
        let tiles = sizes.batch * p.div_ceil(TILE[0]) * q.div_ceil(TILE[1]);
        let (kernel, tiles) = if plain(sizes, 3) {
            (by.forward_3x3[each - 1], tiles)
        } else if plain(sizes, 7) {
            each = 1;
            (by.forward_7x7, tiles)
        } else {
            (by.forward_any[each - 1], sizes.batch * p * q)
        };
        let plan = Plan::new(op, sizes, each, tiles, 1)?;
        if plan.shared > MOST_SHARED {
            return Ok(None);
        }
        let (left, moments) = LeftMoments::new(op, device, of, plan.parts, sizes)?;
        let params = ForwardParams {
            x: self.x.address(op)?,
            w: self.w.address(op)?,
            bias: address_or_none(op, self.bias)?,
            residual: address_or_none(op, self.residual)?,
            y: self.y.address(op)?,
            sizes: ConvSizes::new(op, sizes)?,
            cut: plan.cut,
            epilogue: self.epilogue,
            moments,
        };
        let grid = [plan.groups, if tiles == 0 { 0 } else { plan.parts }, 1];
        device.launch(kernel, grid, plan.shared, &params)?;
        Ok(Some(left))
    }
}

/// Whether [`backward`] has a kernel for these sizes.
pub(super) fn has_backward(sizes: &Sizes) -> bool {
    let same = sizes.geometry.padding == sizes.kernel.map(|k| k / 2);
    suits(sizes) && (same && (plain(sizes, 3) || plain(sizes, 7)) || patches(sizes))
}

/// Whether every pixel of x is read once.
fn patches(sizes: &Sizes) -> bool {
    let geometry = &sizes.geometry;
    let whole = |i: usize| sizes.output[i] * sizes.kernel[i] == sizes.input[i];
    geometry.stride == sizes.kernel
        && geometry.padding == [0, 0]
        && (geometry.dilation == [1, 1] || sizes.kernel == [1, 1])
        && whole(0)
        && whole(1)
        // Blocks along an axis of the grid.
        && sizes.taps() <= 65_535
}

/// Gradients of x, w and, if there is a tensor for it, the bias, of dense NHWC
/// operands; `more` is added to the first.
pub(super) fn backward(
    device: &CudaDevice,
    [x, gy, w]: [&Tensor; 3],
    more: Option<&Tensor>,
    [gx, gw, gb]: [Option<&Tensor>; 3],
    sizes: &Sizes,
) -> Result<()> {
    let op = "conv2d_gradient";
    let by = Kernels::of(x.dtype());
    let operands = [Some(x), Some(gy), gx, more];
    let mut each = channels_at_once(sizes.channels[0], &operands, op)?;
    let [h, w_] = sizes.input;
    let (tiles, times) = if patches(sizes) {
        (
            sizes.batch * sizes.output[0] * sizes.output[1],
            sizes.taps(),
        )
    } else {
        let [down, across] = TILE;
        (sizes.batch * h.div_ceil(down) * w_.div_ceil(across), 1)
    };
    let kernel = if patches(sizes) {
        by.backward_patches[each - 1]
    } else if plain(sizes, 3) {
        by.backward_3x3[each - 1]
    } else {
        each = 1;
        by.backward_7x7
    };
    let plan = Plan::new(op, sizes, each, tiles, times)?;
    let room = Shape::new(&[plan.parts, sizes.taps() + 1, sizes.channels[0]])?;
    let parts = device.empty(Layout::contiguous(room), DType::F32)?;
    let params = BackwardParams {
        x: x.address(op)?,
        gy: gy.address(op)?,
        w: w.address(op)?,
        more: address_or_none(op, more)?,
        gx: address_or_none(op, gx)?,
        gw: address_or_none(op, gw)?,
        gb: address_or_none(op, gb)?,
        parts: parts.address(op)?,
        arrivals: device.arrivals(op, plan.groups)?,
        sizes: ConvSizes::new(op, sizes)?,
        cut: plan.cut,
    };
    let shared = if times == 1 { plan.shared } else { 0 };
    device.launch(kernel, [plan.groups, plan.parts, times], shared, &params)
}
