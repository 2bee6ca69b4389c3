use super::{Binary, Comparison};
use crate::device::cuda::{f32_only, kernels};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::elementwise::{Constants, map};
use crate::tensor::Tensor;

pub(super) fn binary(kind: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let op = kind.name();
    // What the gradients of products need: a gradient is added up and weighted.
    let half = match (kind, a.dtype(), b.dtype()) {
        (Binary::Add, DType::BF16, DType::BF16) => Some(&kernels::EOSIN_ADD_FORWARD_BF16),
        (Binary::Add, DType::F16, DType::F16) => Some(&kernels::EOSIN_ADD_FORWARD_F16),
        (Binary::Mul, DType::BF16, DType::BF16) => Some(&kernels::EOSIN_MUL_FORWARD_BF16),
        (Binary::Mul, DType::F16, DType::F16) => Some(&kernels::EOSIN_MUL_FORWARD_F16),
        _ => None,
    };
    if let Some(kernel) = half {
        return map(op, kernel, &[a, b], Constants::NONE, a.dtype());
    }
    f32_only(op, &[a, b])?;
    let kernel = match kind {
        Binary::Add => &kernels::EOSIN_ADD_FORWARD_F32,
        Binary::Sub => &kernels::EOSIN_SUB_FORWARD_F32,
        Binary::Mul => &kernels::EOSIN_MUL_FORWARD_F32,
        Binary::Div => &kernels::EOSIN_DIV_FORWARD_F32,
        Binary::Maximum => &kernels::EOSIN_MAXIMUM_FORWARD_F32,
        Binary::Minimum => &kernels::EOSIN_MINIMUM_FORWARD_F32,
    };
    map(op, kernel, &[a, b], Constants::NONE, DType::F32)
}

pub(super) fn affine(x: &Tensor, scale: f64, shift: f64) -> Result<Tensor> {
    let op = "affine";
    let kernel = match x.dtype() {
        DType::BF16 => &kernels::EOSIN_AFFINE_FORWARD_BF16,
        DType::F16 => &kernels::EOSIN_AFFINE_FORWARD_F16,
        _ => {
            f32_only(op, &[x])?;
            &kernels::EOSIN_AFFINE_FORWARD_F32
        }
    };
    let constants = Constants::numbers(scale as f32, shift as f32);
    map(op, kernel, &[x], constants, x.dtype())
}

pub(super) fn compare(order: Comparison, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let op = "compare";
    let kernel = match (a.dtype(), b.dtype()) {
        (DType::F32, DType::F32) => &kernels::EOSIN_COMPARE_FORWARD_F32,
        (DType::I32, DType::I32) => &kernels::EOSIN_COMPARE_FORWARD_I32,
        (DType::I64, DType::I64) => &kernels::EOSIN_COMPARE_FORWARD_I64,
        (DType::U8, DType::U8) => &kernels::EOSIN_COMPARE_FORWARD_U8,
        (x, y) => {
            let problem = "two of f32, i32, i64 or u8, both the same, are needed on cuda";
            return Err(Error::dtype(op, &[x, y], problem));
        }
    };
    // As `Order` in kernels/arithmetic.cu.
    let choice = match order {
        Comparison::Equal => 0,
        Comparison::Less => 1,
        Comparison::LessEqual => 2,
        Comparison::Greater => 3,
        Comparison::GreaterEqual => 4,
    };
    map(op, kernel, &[a, b], Constants::choice(choice), DType::Bool)
}

pub(super) fn select(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let op = "select";
    let dtype = a.dtype();
    if b.dtype() != dtype || dtype == DType::Bool {
        let problem = "both sides must have one dtype";
        return Err(Error::dtype(op, &[dtype, b.dtype()], problem));
    }
    let kernel = match dtype.size() {
        1 => &kernels::EOSIN_SELECT_FORWARD_B1,
        2 => &kernels::EOSIN_SELECT_FORWARD_B2,
        4 => &kernels::EOSIN_SELECT_FORWARD_B4,
        _ => &kernels::EOSIN_SELECT_FORWARD_B8,
    };
    // The condition comes last, because the result lies as a or b does.
    map(op, kernel, &[a, b, condition], Constants::NONE, dtype)
}
