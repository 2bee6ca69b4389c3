//! The launch that element-wise CUDA kernels share.

use bytemuck::{Pod, Zeroable};

use crate::device::cuda::kernels::Kernel;
use crate::device::cuda::{Address, Walk, device_of};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::walk::result_layout;
use crate::shape::{Layout, Shape};
use crate::tensor::Tensor;

/// Elements of one block; a mirror of `WALK_THREADS * WALK_EACH` in
/// kernels/common/walk.cuh.
const PER_BLOCK: usize = 256 * 4;

/// The grid of a kernel that loops with `each_element`.
pub(crate) fn grid(elements: usize) -> [usize; 3] {
    [elements.div_ceil(PER_BLOCK), 1, 1]
}

/// What a kernel takes besides its operands.
#[derive(Clone, Copy, Default)]
pub(crate) struct Constants {
    pub numbers: [f32; 2],
    pub choice: u32,
}

impl Constants {
    pub const NONE: Self = Self::numbers(0.0, 0.0);

    pub const fn numbers(a: f32, b: f32) -> Self {
        Self {
            numbers: [a, b],
            choice: 0,
        }
    }

    pub const fn choice(choice: u32) -> Self {
        Self {
            numbers: [0.0; 2],
            choice,
        }
    }
}

/// A mirror of `Elementwise` in kernels/common/elementwise.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    inputs: [Address; 3],
    out: Address,
    numbers: [f32; 2],
    choice: u32,
    padding: u32,
    walk: Walk,
}

/// `kernel` over every element of up to three `inputs`, broadcast against each
/// other; its result, of `dtype`, lies as the CPU's would.
///
/// # Errors
/// Operands on several devices, shapes that do not broadcast, too many elements.
pub(crate) fn map(
    op: &'static str,
    kernel: &'static Kernel,
    inputs: &[&Tensor],
    constants: Constants,
    dtype: DType,
) -> Result<Tensor> {
    let device = device_of(op, inputs)?;
    let layouts: Vec<&Layout> = inputs.iter().map(|t| t.layout()).collect();
    let mut shape = Shape::default();
    for layout in &layouts {
        shape = Shape::broadcast(op, &shape, layout.shape())?;
    }
    let layout = result_layout(shape, &layouts);
    let out = device.empty(layout, dtype)?;
    let mut addresses = [Address::default(); 3];
    for (address, input) in addresses.iter_mut().zip(inputs) {
        *address = input.address(op)?;
    }
    let params = Params {
        inputs: addresses,
        out: out.address(op)?,
        numbers: constants.numbers,
        choice: constants.choice,
        padding: 0,
        walk: Walk::new(op, &layout, &layouts)?,
    };
    device.launch(kernel, grid(layout.elements()), 0, &params)?;
    Ok(out)
}
