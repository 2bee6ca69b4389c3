use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Address, Walk, device_of, f32_only, kernels};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::elementwise::grid;
use crate::ops::images::format_of;
use crate::random::Philox;
use crate::shape::Layout;
use crate::tensor::Tensor;

/// A mirror of `DropoutParams` in kernels/dropout.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x: Address,
    out: Address,
    replayed: Address,
    key: u64,
    position: u64,
    threshold: u32,
    scale: f32,
    walk: Walk,
}

pub(super) fn dropout(x: &Tensor, p: f64, stream: Philox) -> Result<Tensor> {
    let op = "dropout";
    let device = device_of(op, &[x])?;
    let kernel = match x.dtype() {
        DType::BF16 => &kernels::EOSIN_DROPOUT_FORWARD_BF16,
        DType::F16 => &kernels::EOSIN_DROPOUT_FORWARD_F16,
        _ => {
            f32_only(op, &[x])?;
            &kernels::EOSIN_DROPOUT_FORWARD_F32
        }
    };
    let shape = *x.layout().shape();
    let layout = Layout::new(shape, format_of(x))?;
    let out = device.empty(layout, x.dtype())?;
    let params = Params {
        x: x.address(op)?,
        out: out.address(op)?,
        replayed: device.replayed_random(),
        key: stream.key,
        position: stream.position,
        // `Philox::unit` has 24 bits, so this is its comparison with p exactly.
        threshold: (p * f64::from(1u32 << 24)).ceil() as u32,
        scale: (1.0 / (1.0 - p)) as f32,
        // Where an element lies in row-major order is its logical number.
        walk: Walk::new(op, &layout, &[x.layout(), &Layout::contiguous(shape)])?,
    };
    device.launch(kernel, grid(layout.elements()), 0, &params)?;
    Ok(out)
}
