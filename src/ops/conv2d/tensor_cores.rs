//! Launches of the convolutions of 16-bit floats in kernels/conv2d_half.cu.

use bytemuck::{Pod, Zeroable};

use super::Sizes;
use super::cuda::{ConvSizes, LeftMoments, pixel};
use crate::device::cuda::kernels::{self, Kernel};
use crate::device::cuda::{Address, CudaDevice, count};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::Activation;
use crate::ops::matmul::cuda::Epilogue;
use crate::ops::matmul::tensor_cores::{Cut, JoinParams, width};
use crate::shape::{Layout, Shape};
use crate::tensor::Tensor;

/// Rows and columns of the tiles, and the kernels of an operator for each.
const SIZES: [[usize; 2]; 3] = [[64, 64], [128, 64], [128, 128]];
type Tiles = [&'static Kernel; 3];

/// The kernels for one dtype.
pub(super) struct Kernels {
    forward: Tiles,
    /// The same of relu(scale x + shift), for filters of one tap.
    activated: Tiles,
    input_gradient: Tiles,
    weight_gradient: Tiles,
    weight_join: &'static Kernel,
    pub join: &'static Kernel,
    /// For groups of one channel: forward, input gradient, weight gradient.
    pub depthwise: [&'static Kernel; 3],
}

impl Kernels {
    /// Those for `dtype`, if it is a 16-bit float.
    pub fn of(dtype: DType) -> Option<&'static Self> {
        match dtype {
            DType::BF16 => Some(&BF16),
            DType::F16 => Some(&F16),
            _ => None,
        }
    }
}

static BF16: Kernels = Kernels {
    forward: [
        &kernels::EOSIN_CONV2D_FORWARD_64X64_BF16,
        &kernels::EOSIN_CONV2D_FORWARD_128X64_BF16,
        &kernels::EOSIN_CONV2D_FORWARD_128X128_BF16,
    ],
    activated: [
        &kernels::EOSIN_CONV2D_FORWARD_ACTIVATED_64X64_BF16,
        &kernels::EOSIN_CONV2D_FORWARD_ACTIVATED_128X64_BF16,
        &kernels::EOSIN_CONV2D_FORWARD_ACTIVATED_128X128_BF16,
    ],
    input_gradient: [
        &kernels::EOSIN_CONV2D_INPUT_GRADIENT_FORWARD_64X64_BF16,
        &kernels::EOSIN_CONV2D_INPUT_GRADIENT_FORWARD_128X64_BF16,
        &kernels::EOSIN_CONV2D_INPUT_GRADIENT_FORWARD_128X128_BF16,
    ],
    weight_gradient: [
        &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_64X64_BF16,
        &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_128X64_BF16,
        &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_128X128_BF16,
    ],
    weight_join: &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_JOIN_BF16,
    join: &kernels::EOSIN_CONV2D_FORWARD_JOIN_BF16,
    depthwise: [
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_BF16,
        &kernels::EOSIN_CONV2D_INPUT_GRADIENT_FORWARD_DEPTHWISE_BF16,
        &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_DEPTHWISE_BF16,
    ],
};

static F16: Kernels = Kernels {
    forward: [
        &kernels::EOSIN_CONV2D_FORWARD_64X64_F16,
        &kernels::EOSIN_CONV2D_FORWARD_128X64_F16,
        &kernels::EOSIN_CONV2D_FORWARD_128X128_F16,
    ],
    activated: [
        &kernels::EOSIN_CONV2D_FORWARD_ACTIVATED_64X64_F16,
        &kernels::EOSIN_CONV2D_FORWARD_ACTIVATED_128X64_F16,
        &kernels::EOSIN_CONV2D_FORWARD_ACTIVATED_128X128_F16,
    ],
    input_gradient: [
        &kernels::EOSIN_CONV2D_INPUT_GRADIENT_FORWARD_64X64_F16,
        &kernels::EOSIN_CONV2D_INPUT_GRADIENT_FORWARD_128X64_F16,
        &kernels::EOSIN_CONV2D_INPUT_GRADIENT_FORWARD_128X128_F16,
    ],
    weight_gradient: [
        &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_64X64_F16,
        &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_128X64_F16,
        &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_128X128_F16,
    ],
    weight_join: &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_JOIN_F16,
    join: &kernels::EOSIN_CONV2D_FORWARD_JOIN_F16,
    depthwise: [
        &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_F16,
        &kernels::EOSIN_CONV2D_INPUT_GRADIENT_FORWARD_DEPTHWISE_F16,
        &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_DEPTHWISE_F16,
    ],
};

/// A mirror of `HalfConvParams` in kernels/conv2d_half.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ConvParams {
    image: Address,
    w: Address,
    bias: Address,
    residual: Address,
    out: Address,
    scale: Address,
    shift: Address,
    sizes: ConvSizes,
    each: u32,
    image_width: u32,
    w_width: u32,
    padding: u32,
    epilogue: Epilogue,
    moments: LeftMoments,
}

/// A mirror of `HalfWeightParams` in kernels/conv2d_half.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct WeightParams {
    x: Address,
    gy: Address,
    sums: Address,
    sizes: ConvSizes,
    each: u32,
    x_width: u32,
    gy_width: u32,
    padding: u32,
}

/// A mirror of `HalfWeightJoinParams` in kernels/conv2d_half.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct WeightJoinParams {
    sums: Address,
    gw: Address,
    elements: u32,
    count: u32,
    channels: u32,
    taps: u32,
}

/// A product of patches and filters: `image`, `w` and what follows are dense and
/// NHWC, and `out` is a tensor to write. Forward, `image` and `out` may be channels of
/// wider images, and `prologue` the scale and shift of what is read of `image`.
pub(super) struct Patches<'a> {
    pub op: &'static str,
    pub image: &'a Tensor,
    pub prologue: Option<[&'a Tensor; 2]>,
    pub w: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    pub residual: Option<&'a Tensor>,
    pub out: &'a Tensor,
    pub epilogue: Epilogue,
}

impl Patches<'_> {
    /// The convolution of `image`, x, into `out`, y; the moments of `of` of it, if they
    /// are asked for and sums are not cut.
    pub fn forward(
        self,
        device: &CudaDevice,
        by: &Kernels,
        of: Option<Activation>,
        sizes: &Sizes,
    ) -> Result<Option<Tensor>> {
        let [c, k] = per_group(sizes);
        let rows = sizes.batch * sizes.output[0] * sizes.output[1];
        let shape = [rows, k, sizes.taps() * padded(c)];
        let tiles = match self.prologue {
            Some(_) => by.activated,
            None => by.forward,
        };
        let pixels = [self.image, self.out].map(pixel);
        let at = ConvSizes::new(self.op, sizes)?.with_pixels(self.op, pixels, sizes)?;
        let by = (tiles, by.join);
        self.launch(device, by, (sizes, at), (1, of), shape, c)
    }

    /// The gradient with respect to x of `image`, gy, into `out`, gx.
    pub fn input_gradient(self, device: &CudaDevice, by: &Kernels, sizes: &Sizes) -> Result<()> {
        let [c, k] = per_group(sizes);
        let stride = sizes.geometry.stride;
        // As in the kernel: the most pixels and the most taps that a phase has.
        let along = |i: usize| sizes.input[i].div_ceil(stride[i]);
        let rows = sizes.batch * along(0) * along(1);
        let taps = |i: usize| {
            let every = stride[i] / greatest_common_divisor(stride[i], sizes.geometry.dilation[i]);
            sizes.kernel[i].div_ceil(every)
        };
        let shape = [rows, c, taps(0) * taps(1) * padded(k)];
        let phases = stride[0] * stride[1];
        let at = ConvSizes::new(self.op, sizes)?;
        self.launch(
            device,
            (by.input_gradient, by.join),
            (sizes, at),
            (phases, None),
            shape,
            k,
        )?;
        Ok(())
    }

    /// `shape` has the rows of a phase, and the columns and the inner index of a
    /// group; `channels` are those of a group of `image`.
    fn launch(
        self,
        device: &CudaDevice,
        (tiles, join): (Tiles, &'static Kernel),
        (sizes, at): (&Sizes, ConvSizes),
        (phases, of): (usize, Option<Activation>),
        shape: [usize; 3],
        channels: usize,
    ) -> Result<Option<Tensor>> {
        let op = self.op;
        let groups = sizes.geometry.groups;
        let cut = Cut::new(&SIZES, phases * groups, shape);
        let (image, w) = (self.image.address(op)?, self.w.address(op)?);
        let address = |t: Option<&Tensor>| t.map_or(Ok(Address::default()), |t| t.address(op));
        let of = of.filter(|_| cut.parts == 1);
        let down = shape[0].div_ceil(SIZES[cut.size][0]);
        let (left, moments) = LeftMoments::new(op, device, of, down, sizes)?;
        let mut params = ConvParams {
            image,
            w,
            bias: address(self.bias)?,
            residual: address(self.residual)?,
            out: self.out.address(op)?,
            scale: address(self.prologue.map(|[scale, _]| scale))?,
            shift: address(self.prologue.map(|[_, shift]| shift))?,
            sizes: at,
            each: count(op, cut.each)?,
            image_width: width(image, [channels, pixel(self.image)]) as u32,
            w_width: width(w, [per_group(sizes)[0]]) as u32,
            padding: 0,
            epilogue: self.epilogue,
            moments,
        };
        let (kernel, shared) = (tiles[cut.size], cut.shared());
        let grid = [cut.tiles / groups, groups, cut.parts];
        if cut.parts == 1 {
            device.launch(kernel, grid, shared, &params)?;
            return Ok(left);
        }
        let elements = self.out.elements();
        let room = Layout::contiguous(Shape::new(&[cut.parts, elements])?);
        let workspace = device.empty(room, DType::F32)?;
        let finish = JoinParams {
            parts: workspace.address(op)?,
            bias: params.bias,
            residual: params.residual,
            out: params.out,
            before: Address::default(),
            elements: count(op, elements)?,
            count: count(op, cut.parts)?,
            n: count(op, self.out.shape()[1])?,
            wide: 0,
            epilogue: self.epilogue,
            line: count(op, pixel(self.out))?,
            padding: 0,
        };
        params.out = finish.parts;
        device.launch(kernel, grid, shared, &params)?;
        device.launch(join, [elements.div_ceil(256), 1, 1], 0, &finish)?;
        Ok(None)
    }
}

/// The gradient with respect to w of dense NHWC x and gy, into `gw`
/// (K, C/groups, R, S).
pub(super) fn weight_gradient(
    device: &CudaDevice,
    by: &Kernels,
    [x, gy, gw]: [&Tensor; 3],
    sizes: &Sizes,
) -> Result<()> {
    let op = "conv2d_weight_gradient";
    let ([c, k], groups) = (per_group(sizes), sizes.geometry.groups);
    let columns = sizes.taps() * padded(c);
    let pixels = sizes.batch * sizes.output[0] * sizes.output[1];
    let cut = Cut::new(&SIZES, groups, [k, columns, pixels]);
    let elements = groups * k * columns;
    let room = Layout::contiguous(Shape::new(&[cut.parts, elements])?);
    let workspace = device.empty(room, DType::F32)?;
    let params = WeightParams {
        x: x.address(op)?,
        gy: gy.address(op)?,
        sums: workspace.address(op)?,
        sizes: ConvSizes::new(op, sizes)?,
        each: count(op, cut.each)?,
        x_width: width(x.address(op)?, [c]) as u32,
        gy_width: width(gy.address(op)?, [k]) as u32,
        padding: 0,
    };
    let grid = [cut.tiles / groups, groups, cut.parts];
    device.launch(by.weight_gradient[cut.size], grid, cut.shared(), &params)?;
    let finish = WeightJoinParams {
        sums: params.sums,
        gw: gw.address(op)?,
        elements: count(op, elements)?,
        count: count(op, cut.parts)?,
        channels: count(op, c)?,
        taps: count(op, sizes.taps())?,
    };
    let grid = [elements.div_ceil(256), 1, 1];
    device.launch(by.weight_join, grid, 0, &finish)
}

/// Channels and filters of a group.
fn per_group(sizes: &Sizes) -> [usize; 2] {
    sizes.channels.map(|n| n / sizes.geometry.groups)
}

/// Elements in whole pieces of 8.
fn padded(n: usize) -> usize {
    n.next_multiple_of(8)
}

fn greatest_common_divisor(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
