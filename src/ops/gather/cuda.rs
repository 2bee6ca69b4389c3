use crate::device::cuda::kernels;
use crate::error::Result;
use crate::ops::indexed;
use crate::tensor::Tensor;

pub(super) fn gather(x: &Tensor, axis: usize, index: &Tensor) -> Result<Tensor> {
    let kernels = [
        None,
        Some(&kernels::EOSIN_GATHER_FORWARD_B2),
        Some(&kernels::EOSIN_GATHER_FORWARD_B4),
        Some(&kernels::EOSIN_GATHER_FORWARD_B8),
    ];
    let kernel = indexed::by_size("gather", x.dtype(), kernels)?;
    indexed::read(kernel, x, axis, index)
}

pub(super) fn scatter_add(x: &Tensor, axis: usize, index: &Tensor, size: usize) -> Result<Tensor> {
    indexed::add(
        &kernels::EOSIN_SCATTER_ADD_FORWARD_F32,
        x,
        axis,
        index,
        size,
    )
}
