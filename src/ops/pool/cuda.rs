use bytemuck::{Pod, Zeroable};

use super::{ACTIVATED, Windows};
use crate::device::cuda::kernels::{self, Kernel};
use crate::device::cuda::{Address, CudaDevice, count, device_of, f32_only};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::images::{Images, format_of};
use crate::shape::Format;
use crate::tensor::Tensor;

const OP: &str = "max_pool2d";

/// Elements of a block.
const BLOCK: usize = 1024;

/// A mirror of `Geometry` in kernels/pool.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Geometry {
    /// Inputs, outputs, kernel, stride and padding.
    rows: [u32; 5],
    columns: [u32; 5],
    channels: u32,
    elements: u32,
}

impl Geometry {
    fn new(windows: [Windows; 2], channels: usize, elements: usize) -> Result<Self> {
        let axis = |w: Windows| -> Result<[u32; 5]> {
            let sizes = [w.inputs, w.outputs, w.kernel, w.stride, w.padding];
            let mut counted = [0; 5];
            for (to, n) in counted.iter_mut().zip(sizes) {
                *to = count(OP, n)?;
            }
            Ok(counted)
        };
        let [rows, columns] = windows;
        Ok(Self {
            rows: axis(rows)?,
            columns: axis(columns)?,
            channels: count(OP, channels)?,
            elements: count(OP, elements)?,
        })
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Windowed {
    out: Address,
    x: Address,
    geometry: Geometry,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Mean {
    out: Address,
    x: Address,
    numbers: [Address; 2],
    geometry: Geometry,
    wide: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Placed {
    out: Address,
    values: Address,
    places: Address,
    geometry: Geometry,
}

/// max, places, pick and put for one dtype.
fn kernels_for(x: &Tensor) -> Result<[&'static Kernel; 4]> {
    Ok(match x.dtype() {
        DType::BF16 => [
            &kernels::EOSIN_MAX_POOL2D_FORWARD_BF16,
            &kernels::EOSIN_MAX_POOL2D_FORWARD_PLACES_BF16,
            &kernels::EOSIN_MAX_POOL2D_FORWARD_PICK_BF16,
            &kernels::EOSIN_MAX_POOL2D_BACKWARD_PUT_BF16,
        ],
        DType::F16 => [
            &kernels::EOSIN_MAX_POOL2D_FORWARD_F16,
            &kernels::EOSIN_MAX_POOL2D_FORWARD_PLACES_F16,
            &kernels::EOSIN_MAX_POOL2D_FORWARD_PICK_F16,
            &kernels::EOSIN_MAX_POOL2D_BACKWARD_PUT_F16,
        ],
        _ => {
            f32_only(OP, &[x])?;
            [
                &kernels::EOSIN_MAX_POOL2D_FORWARD_F32,
                &kernels::EOSIN_MAX_POOL2D_FORWARD_PLACES_F32,
                &kernels::EOSIN_MAX_POOL2D_FORWARD_PICK_F32,
                &kernels::EOSIN_MAX_POOL2D_BACKWARD_PUT_F32,
            ]
        }
    })
}

pub(super) fn max(x: &Tensor, windows: [Windows; 2]) -> Result<Tensor> {
    windowed(kernels_for(x)?[0], x, windows, x.dtype())
}

/// The flat place of each window's first maximum in its plane, as i32.
pub(super) fn first_maximum(x: &Tensor, windows: [Windows; 2]) -> Result<Tensor> {
    windowed(kernels_for(x)?[1], x, windows, DType::I32)
}

pub(super) fn activated_mean(
    x: &Tensor,
    [scale, shift]: [&Tensor; 2],
    windows: [Windows; 2],
    to: DType,
) -> Result<Tensor> {
    let op = ACTIVATED;
    let device = device_of(op, &[x, scale, shift])?;
    count(op, x.elements())?;
    let kernel = match x.dtype() {
        DType::BF16 => &kernels::EOSIN_ACTIVATED_AVG_POOL2D_FORWARD_BF16,
        DType::F16 => &kernels::EOSIN_ACTIVATED_AVG_POOL2D_FORWARD_F16,
        _ => {
            f32_only(op, &[x])?;
            &kernels::EOSIN_ACTIVATED_AVG_POOL2D_FORWARD_F32
        }
    };
    let images = Images::of(x, Format::ChannelsLast)?;
    let out = device.empty(images.resized(windows.map(|w| w.outputs))?, to)?;
    let params = Mean {
        out: out.address(op)?,
        x: images.tensor.address(op)?,
        numbers: [scale.address(op)?, shift.address(op)?],
        geometry: Geometry::new(windows, images.c, out.elements())?,
        wide: u32::from(to == DType::F32),
        padding: 0,
    };
    let grid = [out.elements().div_ceil(BLOCK), 1, 1];
    device.launch(kernel, grid, 0, &params)?;
    Ok(out)
}

fn windowed(
    kernel: &'static Kernel,
    x: &Tensor,
    windows: [Windows; 2],
    dtype: DType,
) -> Result<Tensor> {
    let device = device_of(OP, &[x])?;
    // No place in a plane is beyond i32 then.
    count(OP, x.elements())?;
    let images = Images::of(x, format_of(x))?;
    let out = device.empty(images.resized(windows.map(|w| w.outputs))?, dtype)?;
    let params = Windowed {
        out: out.address(OP)?,
        x: images.tensor.address(OP)?,
        geometry: Geometry::new(windows, images.c, out.elements())?,
    };
    let grid = [out.elements().div_ceil(BLOCK), 1, 1];
    device.launch(kernel, grid, 0, &params)?;
    Ok(out)
}

pub(super) fn pick(x: &Tensor, places: &Tensor, windows: [Windows; 2]) -> Result<Tensor> {
    let kernel = kernels_for(x)?[2];
    let device = operands(x, places)?;
    let size = windows.map(|w| w.outputs);
    placed(kernel, &device, x, places, windows, size)
}

pub(super) fn put(y: &Tensor, places: &Tensor, windows: [Windows; 2]) -> Result<Tensor> {
    let kernel = kernels_for(y)?[3];
    let device = operands(y, places)?;
    let size = windows.map(|w| w.inputs);
    placed(kernel, &device, y, places, windows, size)
}

fn operands(values: &Tensor, places: &Tensor) -> Result<CudaDevice> {
    if places.dtype() != DType::I32 {
        return Err(Error::dtype(OP, &[places.dtype()], "i32 places are needed"));
    }
    device_of(OP, &[values, places])
}

fn placed(
    kernel: &'static Kernel,
    device: &CudaDevice,
    values: &Tensor,
    places: &Tensor,
    windows: [Windows; 2],
    size: [usize; 2],
) -> Result<Tensor> {
    count(OP, values.elements())?;
    let values = Images::of(values, format_of(values))?;
    let places = Images::of(places, values.format)?;
    let out = device.empty(values.resized(size)?, values.tensor.dtype())?;
    let params = Placed {
        out: out.address(OP)?,
        values: values.tensor.address(OP)?,
        places: places.tensor.address(OP)?,
        geometry: Geometry::new(windows, values.c, out.elements())?,
    };
    let grid = [out.elements().div_ceil(BLOCK), 1, 1];
    device.launch(kernel, grid, 0, &params)?;
    Ok(out)
}
