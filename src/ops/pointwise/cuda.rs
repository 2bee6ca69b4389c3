use super::{Function, HIGHEST};
use crate::device::cuda::f32_only;
use crate::device::cuda::kernels::{self, Kernel};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::elementwise::{Constants, map};
use crate::tensor::Tensor;

/// The kernels of f, of g f' and of g f''.
fn kernels_of(f: Function) -> [&'static Kernel; HIGHEST as usize + 1] {
    match f {
        Function::Exp => [
            &kernels::EOSIN_EXP_FORWARD_F32,
            &kernels::EOSIN_EXP_BACKWARD_F32,
            &kernels::EOSIN_EXP_BACKWARD_SECOND_F32,
        ],
        Function::Log => [
            &kernels::EOSIN_LOG_FORWARD_F32,
            &kernels::EOSIN_LOG_BACKWARD_F32,
            &kernels::EOSIN_LOG_BACKWARD_SECOND_F32,
        ],
        Function::Sqrt => [
            &kernels::EOSIN_SQRT_FORWARD_F32,
            &kernels::EOSIN_SQRT_BACKWARD_F32,
            &kernels::EOSIN_SQRT_BACKWARD_SECOND_F32,
        ],
        Function::Pow(_) => [
            &kernels::EOSIN_POW_FORWARD_F32,
            &kernels::EOSIN_POW_BACKWARD_F32,
            &kernels::EOSIN_POW_BACKWARD_SECOND_F32,
        ],
        Function::Abs => [
            &kernels::EOSIN_ABS_FORWARD_F32,
            &kernels::EOSIN_ABS_BACKWARD_F32,
            &kernels::EOSIN_ABS_BACKWARD_SECOND_F32,
        ],
        Function::Clamp(..) => [
            &kernels::EOSIN_CLAMP_FORWARD_F32,
            &kernels::EOSIN_CLAMP_BACKWARD_F32,
            &kernels::EOSIN_CLAMP_BACKWARD_SECOND_F32,
        ],
        Function::LeakyRelu(_) => [
            &kernels::EOSIN_LEAKY_RELU_FORWARD_F32,
            &kernels::EOSIN_LEAKY_RELU_BACKWARD_F32,
            &kernels::EOSIN_LEAKY_RELU_BACKWARD_SECOND_F32,
        ],
        Function::Gelu => [
            &kernels::EOSIN_GELU_FORWARD_F32,
            &kernels::EOSIN_GELU_BACKWARD_F32,
            &kernels::EOSIN_GELU_BACKWARD_SECOND_F32,
        ],
        Function::Silu => [
            &kernels::EOSIN_SILU_FORWARD_F32,
            &kernels::EOSIN_SILU_BACKWARD_F32,
            &kernels::EOSIN_SILU_BACKWARD_SECOND_F32,
        ],
        Function::Tanh => [
            &kernels::EOSIN_TANH_FORWARD_F32,
            &kernels::EOSIN_TANH_BACKWARD_F32,
            &kernels::EOSIN_TANH_BACKWARD_SECOND_F32,
        ],
        Function::Sigmoid => [
            &kernels::EOSIN_SIGMOID_FORWARD_F32,
            &kernels::EOSIN_SIGMOID_BACKWARD_F32,
            &kernels::EOSIN_SIGMOID_BACKWARD_SECOND_F32,
        ],
    }
}

/// The same for bf16 and f16, of the functions that are activations.
fn half_kernels_of(f: Function, dtype: DType) -> Option<[&'static Kernel; HIGHEST as usize + 1]> {
    Some(match (f, dtype) {
        (Function::LeakyRelu(_), DType::BF16) => [
            &kernels::EOSIN_LEAKY_RELU_FORWARD_BF16,
            &kernels::EOSIN_LEAKY_RELU_BACKWARD_BF16,
            &kernels::EOSIN_LEAKY_RELU_BACKWARD_SECOND_BF16,
        ],
        (Function::Gelu, DType::BF16) => [
            &kernels::EOSIN_GELU_FORWARD_BF16,
            &kernels::EOSIN_GELU_BACKWARD_BF16,
            &kernels::EOSIN_GELU_BACKWARD_SECOND_BF16,
        ],
        (Function::Silu, DType::BF16) => [
            &kernels::EOSIN_SILU_FORWARD_BF16,
            &kernels::EOSIN_SILU_BACKWARD_BF16,
            &kernels::EOSIN_SILU_BACKWARD_SECOND_BF16,
        ],
        (Function::Tanh, DType::BF16) => [
            &kernels::EOSIN_TANH_FORWARD_BF16,
            &kernels::EOSIN_TANH_BACKWARD_BF16,
            &kernels::EOSIN_TANH_BACKWARD_SECOND_BF16,
        ],
        (Function::Sigmoid, DType::BF16) => [
            &kernels::EOSIN_SIGMOID_FORWARD_BF16,
            &kernels::EOSIN_SIGMOID_BACKWARD_BF16,
            &kernels::EOSIN_SIGMOID_BACKWARD_SECOND_BF16,
        ],
        (Function::LeakyRelu(_), DType::F16) => [
            &kernels::EOSIN_LEAKY_RELU_FORWARD_F16,
            &kernels::EOSIN_LEAKY_RELU_BACKWARD_F16,
            &kernels::EOSIN_LEAKY_RELU_BACKWARD_SECOND_F16,
        ],
        (Function::Gelu, DType::F16) => [
            &kernels::EOSIN_GELU_FORWARD_F16,
            &kernels::EOSIN_GELU_BACKWARD_F16,
            &kernels::EOSIN_GELU_BACKWARD_SECOND_F16,
        ],
        (Function::Silu, DType::F16) => [
            &kernels::EOSIN_SILU_FORWARD_F16,
            &kernels::EOSIN_SILU_BACKWARD_F16,
            &kernels::EOSIN_SILU_BACKWARD_SECOND_F16,
        ],
        (Function::Tanh, DType::F16) => [
            &kernels::EOSIN_TANH_FORWARD_F16,
            &kernels::EOSIN_TANH_BACKWARD_F16,
            &kernels::EOSIN_TANH_BACKWARD_SECOND_F16,
        ],
        (Function::Sigmoid, DType::F16) => [
            &kernels::EOSIN_SIGMOID_FORWARD_F16,
            &kernels::EOSIN_SIGMOID_BACKWARD_F16,
            &kernels::EOSIN_SIGMOID_BACKWARD_SECOND_F16,
        ],
        _ => return None,
    })
}

/// The kernels for operands of one dtype.
fn kernels_for(
    f: Function,
    operands: &[&Tensor],
) -> Result<[&'static Kernel; HIGHEST as usize + 1]> {
    let dtypes: Vec<DType> = operands.iter().map(|t| t.dtype()).collect();
    if dtypes.windows(2).all(|pair| pair[0] == pair[1])
        && let Some(&dtype) = dtypes.first()
        && let Some(kernels) = half_kernels_of(f, dtype)
    {
        return Ok(kernels);
    }
    f32_only(f.name(), operands)?;
    Ok(kernels_of(f))
}

/// What the kernel of f^(order) takes.
fn constants(f: Function, order: u32) -> Constants {
    let (a, b) = match (f, order) {
        (Function::Pow(p), 0) => (1.0, p),
        (Function::Pow(p), 1) => (p, p - 1.0),
        (Function::Pow(p), _) => (p * (p - 1.0), p - 2.0),
        (Function::Clamp(low, high), _) => (low, high),
        (Function::LeakyRelu(slope), _) => (slope, 0.0),
        _ => return Constants::NONE,
    };
    Constants::numbers(a as f32, b as f32)
}

pub(super) fn apply(f: Function, x: &Tensor) -> Result<Tensor> {
    let [kernel, ..] = kernels_for(f, &[x])?;
    map(f.name(), kernel, &[x], constants(f, 0), x.dtype())
}

pub(super) fn apply_derivative(f: Function, order: u32, g: &Tensor, x: &Tensor) -> Result<Tensor> {
    let kernel = kernels_for(f, &[g, x])?[order as usize];
    map(f.name(), kernel, &[x, g], constants(f, order), x.dtype())
}
