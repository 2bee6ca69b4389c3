//! The launches that `gather` and `index_select` share on CUDA: an index of one
//! axis is one that repeats along the others.

use bytemuck::{Pod, Zeroable};

use crate::device::cuda::kernels::Kernel;
use crate::device::cuda::{Address, CudaDevice, Walk, count, device_of, f32_only};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::elementwise::grid;
use crate::shape::{Layout, Shape};
use crate::tensor::Tensor;

/// A mirror of `Indexed` in kernels/common/indexed.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x: Address,
    index: Address,
    out: Address,
    control: Address,
    kernel: u32,
    size: u32,
    inner: u32,
    picked: u32,
    x_stride: u32,
    index_stride: u32,
    walk: Walk,
}

/// `y[.., i, ..] = x[.., index[.., i, ..], ..]` for an index of the shape of x
/// on all axes but one.
pub(crate) fn read(
    kernel: &'static Kernel,
    x: &Tensor,
    axis: usize,
    index: &Tensor,
) -> Result<Tensor> {
    let device = device_of(kernel.op(), &[x, index])?;
    let layout = Layout::contiguous(*index.layout().shape());
    let along = Along {
        x: x.layout().narrow(axis, 0, 1, 1),
        index: *index.layout(),
        size: x.shape()[axis],
        out: layout,
    };
    run(&device, kernel, x, axis, index, &along)
}

/// Zeros of `size` along `axis`, to which `x[.., i, ..]` is added at
/// `index[.., i, ..]`; f32.
pub(crate) fn add(
    kernel: &'static Kernel,
    x: &Tensor,
    axis: usize,
    index: &Tensor,
    size: usize,
) -> Result<Tensor> {
    let op = kernel.op();
    let device = device_of(op, &[x, index])?;
    f32_only(op, &[x])?;
    if size == 0 && x.elements() > 0 {
        // No element of the result has a thread that could report it.
        return Err(Error::op(op, "no index is inside an axis of 0"));
    }
    let mut dims = x.shape().to_vec();
    dims[axis] = size;
    let along = Along {
        x: x.layout().narrow(axis, 0, 1, 1),
        index: index.layout().narrow(axis, 0, 1, 1),
        size,
        out: Layout::contiguous(Shape::new(&dims)?),
    };
    run(&device, kernel, x, axis, index, &along)
}

/// How operands lie when the result is walked, and the bound of the index.
struct Along {
    x: Layout,
    index: Layout,
    size: usize,
    out: Layout,
}

fn run(
    device: &CudaDevice,
    kernel: &'static Kernel,
    x: &Tensor,
    axis: usize,
    index: &Tensor,
    along: &Along,
) -> Result<Tensor> {
    let op = kernel.op();
    let stride = |t: &Tensor| match t.shape()[axis] {
        0 | 1 => Ok(0),
        _ => count(op, t.layout().strides()[axis]),
    };
    let out = device.empty(along.out, x.dtype())?;
    let params = Params {
        x: x.address(op)?,
        index: index.address(op)?,
        out: out.address(op)?,
        control: device.control(),
        kernel: count(op, kernel.index + 1)?,
        size: count(op, along.size)?,
        inner: count(op, along.out.strides()[axis])?,
        picked: count(op, index.shape()[axis])?,
        x_stride: stride(x)?,
        index_stride: stride(index)?,
        walk: Walk::new(op, &along.out, &[&along.x, &along.index])?,
    };
    device.launch(kernel, grid(along.out.elements()), 0, &params)?;
    Ok(out)
}

/// An index of one axis as one that repeats along the other axes of `shape`.
pub(crate) fn repeated(index: &Tensor, axis: usize, shape: &[usize]) -> Result<Tensor> {
    let mut dims = shape.to_vec();
    dims[axis] = index.elements();
    let target = Shape::new(&dims)?;
    dims.iter_mut().enumerate().for_each(|(i, d)| {
        if i != axis {
            *d = 1;
        }
    });
    let layout = index.layout().reshape(Shape::new(&dims)?);
    let layout =
        layout.ok_or_else(|| Error::op("index_select", "internal: an index is no line"))?;
    Ok(index.with_layout(layout.broadcast_to(target)))
}

/// # Errors
/// A dtype whose elements `kernels`, for 1, 2, 4 and 8 bytes, do not move.
pub(crate) fn by_size(
    op: &'static str,
    dtype: DType,
    kernels: [Option<&'static Kernel>; 4],
) -> Result<&'static Kernel> {
    let place = dtype.size().trailing_zeros() as usize;
    let kernel = kernels[place].filter(|_| dtype != DType::Bool);
    kernel.ok_or_else(|| Error::dtype(op, &[dtype], "a number is needed"))
}
