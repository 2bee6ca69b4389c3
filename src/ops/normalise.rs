//! What `layer_norm` and `batch_norm` share: their parameters, how their kernels
//! cut sums per channel, and the gradient that can be differentiated again.

use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{ARRIVALS, Address, CudaDevice, count};
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops;
use crate::ops::arithmetic::sum_to;
use crate::ops::half::is_half;
use crate::ops::layout::cpu::cast;
use crate::shape::Format;
use crate::tensor::Tensor;

/// Off the tape, half precision as f32.
pub(crate) fn wide(t: &Tensor) -> Result<Tensor> {
    if is_half(t) {
        cast(t, DType::F32)
    } else {
        Ok(t.detach())
    }
}

/// The values of a weight or bias, or `n` times what stands for none.
pub(crate) fn parameter<T: Float>(
    op: &'static str,
    t: Option<&Tensor>,
    n: usize,
    none: T,
) -> Result<Vec<T>> {
    match t {
        Some(t) => {
            let plain = wide(t)?.to_format(Format::Contiguous)?;
            Ok(plain.dense_slice::<T>(op)?.to_vec())
        }
        None => Ok(vec![none; n]),
    }
}

/// The address of a weight or bias, that of nothing for none.
pub(crate) fn address_or_none(op: &'static str, t: Option<&Tensor>) -> Result<Address> {
    t.map_or(Ok(Address::default()), |t| t.address(op))
}

/// How kernels cut sums per channel of a dense `outer x channels x inner`, by
/// its shape alone. A mirror of `Columns` in kernels/common/columns.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct Columns {
    channels: u32,
    inner: u32,
    /// Of one channel: outer * inner.
    elements: u32,
    /// Of these, how many a block takes.
    part: u32,
    parts: u32,
    /// Channels of a block.
    width: u32,
}

impl Columns {
    const THREADS: usize = 256;
    /// The most channels of a block.
    const WIDTH: usize = 32;

    /// # Errors
    /// 2^31 elements or more.
    pub fn new(op: &'static str, channels: usize, inner: usize, elements: usize) -> Result<Self> {
        // Enough blocks for any GPU, but no thread with less work than this.
        const BLOCKS: usize = 1024;
        const EACH: usize = 8;
        count(op, channels * elements)?;
        let width = match inner {
            1 => channels.next_power_of_two().min(Self::WIDTH),
            _ => 1,
        };
        let groups = channels.div_ceil(width).max(1);
        let useful = elements.div_ceil(Self::THREADS / width * EACH);
        let parts = useful.min((BLOCKS / groups).max(1));
        let part = elements.div_ceil(parts.max(1));
        Ok(Self {
            channels: count(op, channels)?,
            inner: count(op, inner)?,
            elements: count(op, elements)?,
            part: count(op, part)?,
            // One at least, which writes the sum of nothing.
            parts: elements.div_ceil(part.max(1)).max(1) as u32,
            width: width as u32,
        })
    }

    pub fn parts(&self) -> usize {
        self.parts as usize
    }

    /// The same columns in parts that something else made.
    ///
    /// # Errors
    /// 2^31 parts or more.
    pub fn of_parts(self, op: &'static str, parts: usize) -> Result<Self> {
        let parts = count(op, parts)?;
        Ok(Self { parts, ..self })
    }

    /// Blocks of the sums.
    pub fn blocks(&self) -> usize {
        let groups = self.channels.div_ceil(self.width) as usize;
        groups * self.parts()
    }

    /// The counters of the blocks that join parts.
    pub fn arrivals(&self, op: &'static str, device: &CudaDevice) -> Result<Address> {
        let groups = self.channels.div_ceil(self.width) as usize;
        device.arrivals(op, groups.min(ARRIVALS))
    }
}

/// The gradients of `y = n w + b` with `n = (x - mean) / sqrt(var + eps)` over
/// `axes`, made of recorded operators:
/// `dx = (h - mean(h) - n mean(h n)) / sqrt(var + eps)` with `h = g w`, and the
/// sums of `g n` and `g` over the axes along which w and b of `shape` repeat.
pub(crate) fn recorded_gradients(
    g: &Tensor,
    x: &Tensor,
    weight: Option<&Tensor>,
    axes: &[isize],
    shape: &[usize],
    eps: f64,
) -> Result<[Tensor; 3]> {
    let centred = ops::sub(x, &ops::mean(x, axes, true)?)?;
    let var = ops::mean(&ops::mul(&centred, &centred)?, axes, true)?;
    let scale = ops::pow(&ops::affine(&var, 1.0, eps)?, -0.5)?;
    let n = ops::mul(&centred, &scale)?;
    let h = match weight {
        Some(w) => ops::mul(g, &ops::reshape(w, shape)?)?,
        None => g.clone(),
    };
    let along = ops::mul(&n, &ops::mean(&ops::mul(&h, &n)?, axes, true)?)?;
    let rest = ops::sub(&ops::sub(&h, &ops::mean(&h, axes, true)?)?, &along)?;
    Ok([
        ops::mul(&rest, &scale)?,
        sum_to(&ops::mul(g, &n)?, shape)?,
        sum_to(g, shape)?,
    ])
}
