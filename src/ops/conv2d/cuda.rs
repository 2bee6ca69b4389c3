//! Launches of the convolutions in kernels/conv2d.cu and kernels/common/conv.cuh;
//! those of 16-bit floats in groups of several channels are in tensor_cores.rs.

use bytemuck::{Pod, Zeroable};

use super::cpu::depth_multiplier;
use super::depthwise::{self, Depthwise};
use super::tensor_cores::{self, Kernels, Patches};
use super::{Conv2d, Sizes};
use crate::device::Device;
use crate::device::cuda::kernels::{self, Kernel};
use crate::device::cuda::{Address, CudaDevice, count, device_of, f32_only};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::ops::matmul::cuda::{Epilogue, JoinParams};
use crate::ops::matmul::gradients::{self as linear, fits};
use crate::ops::matmul::tensor_cores::JoinParams as HalfJoinParams;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// Rows and columns of a tile.
const TILE: usize = 64;
/// Blocks that keep a large GPU busy.
const ENOUGH_BLOCKS: usize = 256;
/// Pixels of a part of a weight gradient: few enough that a sum in f32 stays
/// accurate, and enough to be worth a block.
const LONGEST_PART: usize = 8192;
const SHORTEST_PART: usize = 256;

/// A mirror of `ConvSizes` in kernels/common/conv.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct ConvSizes {
    batch: u32,
    channels: [u32; 2],
    input: [u32; 2],
    output: [u32; 2],
    kernel: [u32; 2],
    stride: [u32; 2],
    padding: [u32; 2],
    dilation: [u32; 2],
    groups: u32,
    /// Elements from pixel to pixel of x and of y.
    pixels: [u32; 2],
}

impl ConvSizes {
    pub fn new(op: &'static str, sizes: &Sizes) -> Result<Self> {
        // Kernels count the elements of each tensor in 32 bits.
        for shape in [sizes.x_shape(), sizes.y_shape(), sizes.w_shape()] {
            count(op, shape.iter().product())?;
        }
        let pair = |[a, b]: [usize; 2]| Ok::<_, Error>([count(op, a)?, count(op, b)?]);
        let geometry = &sizes.geometry;
        Ok(Self {
            batch: count(op, sizes.batch)?,
            channels: pair(sizes.channels)?,
            input: pair(sizes.input)?,
            output: pair(sizes.output)?,
            kernel: pair(sizes.kernel)?,
            stride: pair(geometry.stride)?,
            padding: pair(geometry.padding)?,
            dilation: pair(geometry.dilation)?,
            groups: count(op, geometry.groups)?,
            pixels: pair(sizes.channels)?,
        })
    }

    /// Where x and y are channels of images whose pixels lie so far apart.
    pub fn with_pixels(self, op: &'static str, pixels: [usize; 2], sizes: &Sizes) -> Result<Self> {
        let [x, y] = [sizes.input, sizes.output].map(|[h, w]| sizes.batch * h * w);
        count(op, x * pixels[0])?;
        count(op, y * pixels[1])?;
        let pixels = [count(op, pixels[0])?, count(op, pixels[1])?];
        Ok(Self { pixels, ..self })
    }
}

/// A mirror of `ConvParams` in kernels/common/conv.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ConvParams {
    x: Address,
    w: Address,
    bias: Address,
    residual: Address,
    y: Address,
    scale: Address,
    shift: Address,
    sizes: ConvSizes,
    epilogue: Epilogue,
    moments: LeftMoments,
}

/// A mirror of `LeftMoments` in kernels/common/moments.cuh.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(super) struct LeftMoments {
    parts: Address,
    of: Epilogue,
}

impl LeftMoments {
    /// Of `of` of the result, in `parts` parts of the pixels, if it is asked for: a
    /// tensor (parts, K, 3) for them, and what tells the kernel.
    pub fn new(
        op: &'static str,
        device: &CudaDevice,
        of: Option<Activation>,
        parts: usize,
        sizes: &Sizes,
    ) -> Result<(Option<Tensor>, Self)> {
        let Some(of) = of else {
            return Ok((None, Self::default()));
        };
        let room = Layout::contiguous(Shape::new(&[parts, sizes.channels[1], 3])?);
        let parts = device.empty(room, DType::F32)?;
        let left = Self {
            parts: parts.address(op)?,
            of: Epilogue::new(of),
        };
        Ok((Some(parts), left))
    }
}

/// A mirror of `InputParams` in kernels/conv2d.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct InputParams {
    gy: Address,
    w: Address,
    gx: Address,
    sizes: ConvSizes,
}

/// A mirror of `WeightParams` in kernels/conv2d.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct WeightParams {
    x: Address,
    gy: Address,
    gw: Address,
    sizes: ConvSizes,
    each: u32,
    padding: u32,
}

/// What a forward pass has beside its weights.
pub(crate) struct Forward<'a> {
    pub op: &'static str,
    /// For dense filters of f32.
    pub dense: &'static Kernel,
    /// Dense filters also read channels of a wider image that is channels-last.
    pub x: &'a Tensor,
    /// Scale and shift (C), f32 and dense, for a `dense` that reads relu(scale x + shift)
    /// and one tap, see [`activates`].
    pub prologue: Option<[&'a Tensor; 2]>,
    pub residual: Option<&'a Tensor>,
    pub activation: Activation,
    /// What of the result the moments are wanted of.
    pub of: Option<Activation>,
    /// Some channels of an image that is channels-last, to be written; neither for
    /// groups of one channel nor with a residual.
    pub into: Option<&'a Tensor>,
}

impl<'a> Forward<'a> {
    /// With nothing before or after the product.
    pub fn new(op: &'static str, dense: &'static Kernel, x: &'a Tensor) -> Self {
        Self {
            op,
            dense,
            x,
            prologue: None,
            residual: None,
            activation: Activation::None,
            of: None,
            into: None,
        }
    }
}

/// Whether kernels can read x through a prologue.
pub(crate) fn activates(x: &Tensor, sizes: &Sizes) -> bool {
    let one_tap = sizes.kernel == [1, 1] && sizes.geometry == Conv2d::default();
    one_tap && depth_multiplier(sizes).is_none() && apart(x).is_some()
}

/// Weights and bias in the order in which the kernels read them.
pub(crate) struct Weights {
    w: Tensor,
    bias: Option<Tensor>,
}

impl Weights {
    pub fn new(w: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let bias = bias.map(|b| b.detach().to_format(Format::Contiguous));
        Ok(Self {
            w: channels_last(w)?,
            bias: bias.transpose()?,
        })
    }

    /// The same weights for another stream of their GPU, in the same memory.
    pub fn on_stream(&self, stream: &CudaDevice) -> Result<Self> {
        let stream = Device::Cuda(stream.clone());
        Ok(Self {
            w: self.w.to(&stream)?,
            bias: self.bias.as_ref().map(|b| b.to(&stream)).transpose()?,
        })
    }

    pub fn device(&self) -> Device {
        self.w.device()
    }

    /// `activation(conv2d(x, w) + bias + residual)`, and the moments of its result,
    /// (parts, K, 3), if they are asked for and the sums are whole.
    pub fn run(&self, given: &Forward, sizes: &Sizes) -> Result<(Tensor, Option<Tensor>)> {
        let &Forward {
            op,
            dense,
            x,
            prologue,
            residual,
            activation,
            of,
            into,
        } = given;
        let mut operands = vec![x, &self.w];
        operands.extend(&self.bias);
        operands.extend(residual);
        operands.extend(into);
        let device = device_of(op, &operands)?;
        let half = halves(op, &operands)?;
        let groups_of_one = depth_multiplier(sizes).is_some();
        let x = match groups_of_one {
            true => channels_last(x)?,
            false => by_pixels(x)?,
        };
        let residual = residual.map(channels_last).transpose()?;
        let address = |t: Option<&Tensor>| t.map_or(Ok(Address::default()), |t| t.address(op));
        let y = match into {
            Some(y) => y.detach(),
            None => {
                let layout = Layout::new(Shape::new(&sizes.y_shape())?, Format::ChannelsLast)?;
                device.empty(layout, x.dtype())?
            }
        };
        if let (Some(by), false) = (half, groups_of_one) {
            let product = Patches {
                op,
                image: &x,
                prologue,
                w: &self.w,
                bias: self.bias.as_ref(),
                residual: residual.as_ref(),
                out: &y,
                epilogue: Epilogue::new(activation),
            };
            let moments = product.forward(&device, by, of, sizes)?;
            return Ok((y, moments));
        }
        if depthwise::suits(sizes) {
            let convolution = Depthwise {
                op,
                x: &x,
                w: &self.w,
                bias: self.bias.as_ref(),
                residual: residual.as_ref(),
                y: &y,
                epilogue: Epilogue::new(activation),
            };
            if let Some(moments) = convolution.forward(&device, of, sizes)? {
                return Ok((y, moments));
            }
        }
        let groups = sizes.geometry.groups;
        let pixels = sizes.batch * sizes.output[0] * sizes.output[1];
        let of = of.filter(|_| !groups_of_one);
        let down = pixels.div_ceil(TILE);
        let (left, moments) = LeftMoments::new(op, &device, of, down, sizes)?;
        let params = ConvParams {
            x: x.address(op)?,
            w: self.w.address(op)?,
            bias: address(self.bias.as_ref())?,
            residual: address(residual.as_ref())?,
            y: y.address(op)?,
            scale: address(prologue.map(|[scale, _]| scale))?,
            shift: address(prologue.map(|[_, shift]| shift))?,
            sizes: ConvSizes::new(op, sizes)?.with_pixels(op, [&x, &y].map(pixel), sizes)?,
            epilogue: Epilogue::new(activation),
            moments,
        };
        if groups_of_one {
            let f32_kernel = &kernels::EOSIN_CONV2D_FORWARD_DEPTHWISE_F32;
            let by = half.map_or(f32_kernel, |by| by.depthwise[0]);
            device.launch(by, [y.elements().div_ceil(256), 1, 1], 0, &params)?;
            return Ok((y, None));
        }
        let tiles = down * (sizes.channels[1] / groups).div_ceil(TILE);
        device.launch(dense, [tiles, groups, 1], 0, &params)?;
        Ok((y, left))
    }
}

pub(super) fn forward(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    of: Option<Activation>,
    sizes: &Sizes,
) -> Result<(Tensor, Option<Tensor>)> {
    let by = &kernels::EOSIN_CONV2D_FORWARD_F32;
    let mut operands = vec![x, w];
    operands.extend(bias);
    device_of("conv2d", &operands)?;
    let given = Forward {
        residual,
        of,
        ..Forward::new("conv2d", by, x)
    };
    Weights::new(w, bias)?.run(&given, sizes)
}

static BACKWARD_1X1: linear::Kernels = [
    [
        &kernels::EOSIN_CONV2D_BACKWARD_1X1_64_F32,
        &kernels::EOSIN_CONV2D_BACKWARD_1X1_128_F32,
    ],
    [
        &kernels::EOSIN_CONV2D_BACKWARD_1X1_64_BF16,
        &kernels::EOSIN_CONV2D_BACKWARD_1X1_128_BF16,
    ],
    [
        &kernels::EOSIN_CONV2D_BACKWARD_1X1_64_F16,
        &kernels::EOSIN_CONV2D_BACKWARD_1X1_128_F16,
    ],
];

/// Whether [`gradients`] has a kernel for these sizes.
pub(super) fn has_gradients(dtype: DType, sizes: &Sizes) -> bool {
    depthwise::has_backward(sizes) || pixels(sizes).is_some_and(|sizes| fits(dtype, sizes))
}

/// Pixels, filters and channels of a convolution that is a linear map of the pixels.
fn pixels(sizes: &Sizes) -> Option<[usize; 3]> {
    let plain = Conv2d {
        dilation: sizes.geometry.dilation,
        ..Conv2d::default()
    };
    let [c, k] = sizes.channels;
    let pixels = sizes.batch * sizes.input[0] * sizes.input[1];
    (sizes.kernel == [1, 1] && sizes.geometry == plain).then_some([pixels, k, c])
}

/// The gradients of x, w and, if asked for, the bias in one launch; `more`, of x's
/// shape, is added to the first.
pub(super) fn gradients(
    [x, gy, w]: [&Tensor; 3],
    more: Option<&Tensor>,
    biased: bool,
    sizes: &Sizes,
) -> Result<Gradients> {
    let op = "conv2d_gradient";
    let mut operands = vec![x, gy, w];
    operands.extend(more);
    let device = device_of(op, &operands)?;
    halves(op, &operands)?;
    let (x, gy, w) = (channels_last(x)?, channels_last(gy)?, channels_last(w)?);
    let more = more.map(channels_last).transpose()?;
    let empty =
        |shape: &[usize], format| device.empty(Layout::new(Shape::new(shape)?, format)?, x.dtype());
    let gx = empty(&sizes.x_shape(), Format::ChannelsLast)?;
    let gw = empty(&sizes.w_shape(), Format::Contiguous)?;
    let gb = biased.then(|| empty(&sizes.channels[1..], Format::Contiguous));
    let gb = gb.transpose()?;
    let (more, bias) = (more.as_ref(), gb.as_ref());
    if depthwise::has_backward(sizes) {
        let into = [Some(&gx), Some(&gw), bias];
        depthwise::backward(&device, [&x, &gy, &w], more, into, sizes)?;
        return Ok((gx, (gw, gb)));
    }
    let of = pixels(sizes).ok_or_else(|| Error::op(op, "internal: not one tap"))?;
    let product = linear::Gradients {
        op,
        kernels: &BACKWARD_1X1,
        x: (&x, Layout::contiguous(Shape::new(&[of[0], of[2]])?)),
        g: &gy,
        w: &w,
        more,
        sizes: of,
    };
    product.run(&device, Some(&gx), &gw, bias)?;
    Ok((gx, (gw, gb)))
}

/// Those of x, of w and of the bias.
pub(super) type Gradients = (Tensor, (Tensor, Option<Tensor>));

pub(super) fn input_gradient(gy: &Tensor, w: &Tensor, sizes: &Sizes) -> Result<Tensor> {
    let op = "conv2d_input_gradient";
    let device = device_of(op, &[gy, w])?;
    let half = halves(op, &[gy, w])?;
    let (gy, w) = (channels_last(gy)?, channels_last(w)?);
    let layout = Layout::new(Shape::new(&sizes.x_shape())?, Format::ChannelsLast)?;
    let gx = device.empty(layout, gy.dtype())?;
    let groups_of_one = depth_multiplier(sizes).is_some();
    if let (Some(by), false) = (half, groups_of_one) {
        let product = Patches {
            op,
            image: &gy,
            prologue: None,
            w: &w,
            bias: None,
            residual: None,
            out: &gx,
            epilogue: Epilogue::default(),
        };
        product.input_gradient(&device, by, sizes)?;
        return Ok(gx);
    }
    let params = InputParams {
        gy: gy.address(op)?,
        w: w.address(op)?,
        gx: gx.address(op)?,
        sizes: ConvSizes::new(op, sizes)?,
    };
    if groups_of_one {
        let f32_kernel = &kernels::EOSIN_CONV2D_INPUT_GRADIENT_FORWARD_DEPTHWISE_F32;
        let by = half.map_or(f32_kernel, |by| by.depthwise[1]);
        device.launch(by, [gx.elements().div_ceil(256), 1, 1], 0, &params)?;
        return Ok(gx);
    }
    let groups = sizes.geometry.groups;
    let pixels = sizes.batch * sizes.input[0] * sizes.input[1];
    let tiles = pixels.div_ceil(TILE) * (sizes.channels[0] / groups).div_ceil(TILE);
    let by = &kernels::EOSIN_CONV2D_INPUT_GRADIENT_FORWARD_F32;
    device.launch(by, [tiles, groups, 1], 0, &params)?;
    Ok(gx)
}

pub(super) fn weight_gradient(x: &Tensor, gy: &Tensor, sizes: &Sizes) -> Result<Tensor> {
    let op = "conv2d_weight_gradient";
    let device = device_of(op, &[x, gy])?;
    let half = halves(op, &[x, gy])?;
    let (x, gy) = (channels_last(x)?, channels_last(gy)?);
    let shape = Shape::new(&sizes.w_shape())?;
    let gw = device.empty(Layout::contiguous(shape), x.dtype())?;
    let groups_of_one = depth_multiplier(sizes).is_some();
    if let (Some(by), false) = (half, groups_of_one) {
        tensor_cores::weight_gradient(&device, by, [&x, &gy, &gw], sizes)?;
        return Ok(gw);
    }

    let [k, channels, r, s] = sizes.w_shape();
    let groups = sizes.geometry.groups;
    let (by, grid) = if groups_of_one {
        let f32_kernel = &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_DEPTHWISE_F32;
        let by = half.map_or(f32_kernel, |by| by.depthwise[2]);
        (by, [k.div_ceil(32), r * s])
    } else {
        let by = &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_F32;
        let tiles = (k / groups).div_ceil(TILE) * (channels * r * s).div_ceil(TILE);
        (by, [tiles, groups])
    };
    // Cut by shape alone, so that the result never depends on the device.
    let pixels = sizes.batch * sizes.output[0] * sizes.output[1];
    let busy = ENOUGH_BLOCKS.div_ceil((grid[0] * grid[1]).max(1));
    let wanted = busy.min(pixels / SHORTEST_PART);
    let wanted = wanted.max(pixels.div_ceil(LONGEST_PART)).max(1);
    let each = pixels.div_ceil(wanted).max(1);
    let parts = pixels.div_ceil(each).max(1);
    let mut params = WeightParams {
        x: x.address(op)?,
        gy: gy.address(op)?,
        gw: gw.address(op)?,
        sizes: ConvSizes::new(op, sizes)?,
        each: count(op, each)?,
        padding: 0,
    };
    if parts == 1 && half.is_none() {
        device.launch(by, [grid[0], grid[1], 1], 0, &params)?;
        return Ok(gw);
    }
    let elements = gw.elements();
    let room = Layout::contiguous(Shape::new(&[parts, elements])?);
    let workspace = device.empty(room, DType::F32)?;
    params.gw = workspace.address(op)?;
    device.launch(by, [grid[0], grid[1], parts], 0, &params)?;
    let blocks = [elements.div_ceil(256), 1, 1];
    if let Some(half) = half {
        // Sums are f32, and only their join rounds them.
        let join = HalfJoinParams {
            parts: params.gw,
            bias: Address::default(),
            residual: Address::default(),
            out: gw.address(op)?,
            before: Address::default(),
            elements: count(op, elements)?,
            count: count(op, parts)?,
            n: 1,
            wide: 0,
            epilogue: Epilogue::default(),
            line: 1,
            padding: 0,
        };
        device.launch(half.join, blocks, 0, &join)?;
        return Ok(gw);
    }
    let join = JoinParams {
        parts: params.gw,
        bias: Address::default(),
        out: gw.address(op)?,
        before: Address::default(),
        elements: count(op, elements)?,
        count: count(op, parts)?,
        n: 1,
        epilogue: Epilogue::default(),
        padding: 0,
    };
    let by = &kernels::EOSIN_CONV2D_WEIGHT_GRADIENT_FORWARD_JOIN_F32;
    device.launch(by, blocks, 0, &join)?;
    Ok(gw)
}

/// The kernels of the operands' one dtype if it is a 16-bit float.
fn halves(op: &'static str, operands: &[&Tensor]) -> Result<Option<&'static Kernels>> {
    let half = Kernels::of(operands[0].dtype());
    if half.is_none() {
        f32_only(op, operands)?;
    }
    Ok(half)
}

/// Elements from pixel to pixel of (N, C, H, W) that is channels-last, or some channels
/// of an image that is. An axis of one place has any stride, so the innermost of the others
/// tells.
fn apart(t: &Tensor) -> Option<usize> {
    let &[n, channels, height, width] = t.shape() else {
        return None;
    };
    let &[image, channel, row, pixel] = t.layout().strides() else {
        return None;
    };
    let apart = match (n > 1, height > 1, width > 1) {
        (_, _, true) => pixel,
        (_, true, false) => row,
        (true, false, false) => image,
        (false, false, false) => channels,
    };
    let fits = (channels <= 1 || channel == 1)
        && apart >= channels
        && (height <= 1 || row == width * apart)
        && (n <= 1 || image == height * width * apart);
    fits.then_some(apart)
}

/// The same of an image that [`by_pixels`] or [`channels_last`] gave.
pub(super) fn pixel(t: &Tensor) -> usize {
    apart(t).unwrap_or(t.shape()[1])
}

fn by_pixels(t: &Tensor) -> Result<Tensor> {
    match apart(t) {
        Some(_) => Ok(t.detach()),
        None => channels_last(t),
    }
}

fn channels_last(t: &Tensor) -> Result<Tensor> {
    t.detach().to_format(Format::ChannelsLast)
}
