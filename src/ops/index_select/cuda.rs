use crate::device::cuda::kernels;
use crate::error::Result;
use crate::ops::indexed::{self, repeated};
use crate::tensor::Tensor;

pub(super) fn index_select(x: &Tensor, axis: usize, index: &Tensor) -> Result<Tensor> {
    let kernels = [
        Some(&kernels::EOSIN_INDEX_SELECT_FORWARD_B1),
        Some(&kernels::EOSIN_INDEX_SELECT_FORWARD_B2),
        Some(&kernels::EOSIN_INDEX_SELECT_FORWARD_B4),
        Some(&kernels::EOSIN_INDEX_SELECT_FORWARD_B8),
    ];
    let kernel = indexed::by_size("index_select", x.dtype(), kernels)?;
    indexed::read(kernel, x, axis, &repeated(index, axis, x.shape())?)
}

pub(super) fn index_add(x: &Tensor, axis: usize, index: &Tensor, size: usize) -> Result<Tensor> {
    let index = repeated(index, axis, x.shape())?;
    indexed::add(&kernels::EOSIN_INDEX_ADD_FORWARD_F32, x, axis, &index, size)
}
