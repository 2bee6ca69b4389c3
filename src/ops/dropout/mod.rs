//! `dropout` from a counter-based stream: nothing is stored for the gradient,
//! which draws the same mask again from the same place of the stream.

mod cpu;
mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::profile;
use crate::random::Philox;
use crate::tensor::Tensor;

/// The blocks of four random words that a mask of `elements` uses.
pub const fn dropout_blocks(elements: usize) -> u64 {
    elements.div_ceil(4) as u64
}

/// Zeros with probability p and x / (1 - p) elsewhere (Srivastava et al. 2014).
///
/// Element i in logical row-major order, whatever the layout, is kept when
/// `Philox::unit(word) >= p`, its word being word i % 4 of block
/// `stream.position + i / 4`. [`dropout_blocks`] says how many blocks to
/// reserve, for example with [`crate::nn::Pass::random`].
///
/// # Errors
/// p is not in 0..=1.
pub fn dropout(x: &Tensor, p: f64, stream: Philox) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&p) {
        let problem = format!("p = {p} is not a probability in 0..=1");
        return Err(Error::op("dropout", problem));
    }
    if p == 0.0 {
        return Ok(x.clone());
    }
    let y = profile::call("dropout", &[x], || match x.device() {
        Device::Cpu => cpu::dropout(x, p, stream),
        Device::Cuda(_) => cuda::dropout(x, p, stream),
    })?;
    Ok(record("dropout", &[x], y, Save::NONE, move |b| {
        Ok(vec![Some(dropout(&b.grad, p, stream)?)])
    }))
}
