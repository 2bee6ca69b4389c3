use rayon::prelude::*;

use super::{Binary, Comparison};
use crate::device::cpu::GRAIN;
use crate::dtype::{DType, Element, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, widened};
use crate::ops::layout::cpu::cast;
use crate::ops::walk::{map1, map2, map3};
use crate::tensor::Tensor;

pub(super) fn binary(kind: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if is_half(a) || is_half(b) {
        return widened([a, b], |[a, b]| binary(kind, a, b));
    }
    match (a.dtype(), b.dtype()) {
        (DType::F32, DType::F32) => arithmetic::<f32>(kind, a, b),
        (DType::F64, DType::F64) => arithmetic::<f64>(kind, a, b),
        (x, y) => Err(Error::dtype(
            kind.name(),
            &[x, y],
            "two equal floats are needed",
        )),
    }
}

fn arithmetic<T: Float>(kind: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let op = kind.name();
    match kind {
        Binary::Add => map2(op, a, b, |a: T, b: T| a + b),
        Binary::Sub => map2(op, a, b, |a: T, b: T| a - b),
        Binary::Mul => map2(op, a, b, |a: T, b: T| a * b),
        Binary::Div => map2(op, a, b, |a: T, b: T| a / b),
        // Written out so that a NaN on either side comes through.
        Binary::Maximum => map2(
            op,
            a,
            b,
            |a: T, b: T| if a > b || a.is_nan() { a } else { b },
        ),
        Binary::Minimum => map2(
            op,
            a,
            b,
            |a: T, b: T| if a < b || a.is_nan() { a } else { b },
        ),
    }
}

/// a += b for f32 or f64 in one dense order.
pub(super) fn add_onto(a: &mut Tensor, b: &Tensor) -> Result<()> {
    fn run<T: Float>(a: &mut Tensor, b: &Tensor) -> Result<()> {
        let from = b.dense_slice::<T>("add")?;
        let to = a.dense_mut::<T>("add")?;
        to.par_chunks_mut(GRAIN)
            .zip(from.par_chunks(GRAIN))
            .for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(a, &b)| *a += b));
        Ok(())
    }
    match a.dtype() {
        DType::F64 => run::<f64>(a, b),
        _ => run::<f32>(a, b),
    }
}

pub(super) fn affine(x: &Tensor, scale: f64, shift: f64) -> Result<Tensor> {
    fn run<T: Float>(x: &Tensor, scale: f64, shift: f64) -> Result<Tensor> {
        let (scale, shift) = (T::from_f64(scale), T::from_f64(shift));
        map1("affine", x, |x: T| scale * x + shift)
    }
    if is_half(x) {
        return widened([x], |[x]| affine(x, scale, shift));
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x, scale, shift),
        DType::F64 => run::<f64>(x, scale, shift),
        other => Err(Error::dtype("affine", &[other], "a float is needed")),
    }
}

pub(super) fn compare(order: Comparison, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    fn run<T: Element>(order: Comparison, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let op = "compare";
        let bytes = match order {
            Comparison::Equal => map2(op, a, b, |a: T, b: T| u8::from(a == b)),
            Comparison::Less => map2(op, a, b, |a: T, b: T| u8::from(a < b)),
            Comparison::LessEqual => map2(op, a, b, |a: T, b: T| u8::from(a <= b)),
            Comparison::Greater => map2(op, a, b, |a: T, b: T| u8::from(a > b)),
            Comparison::GreaterEqual => map2(op, a, b, |a: T, b: T| u8::from(a >= b)),
        }?;
        Ok(Tensor::from_parts(
            bytes.storage().clone(),
            *bytes.layout(),
            DType::Bool,
        ))
    }
    if is_half(a) || is_half(b) {
        let (a, b) = (cast(a, DType::F32)?, cast(b, DType::F32)?);
        return run::<f32>(order, &a, &b);
    }
    match (a.dtype(), b.dtype()) {
        (DType::F32, DType::F32) => run::<f32>(order, a, b),
        (DType::F64, DType::F64) => run::<f64>(order, a, b),
        (DType::I32, DType::I32) => run::<i32>(order, a, b),
        (DType::I64, DType::I64) => run::<i64>(order, a, b),
        (DType::U8, DType::U8) => run::<u8>(order, a, b),
        (x, y) => Err(Error::dtype(
            "compare",
            &[x, y],
            "two equal numeric dtypes are needed",
        )),
    }
}

pub(super) fn select(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    fn run<T: Element>(mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        map3(
            "select",
            [mask, a, b],
            |m: u8, a: T, b: T| {
                if m != 0 { a } else { b }
            },
        )
    }
    let mask = Tensor::from_parts(condition.storage().clone(), *condition.layout(), DType::U8);
    match (a.dtype(), b.dtype()) {
        (DType::F32, DType::F32) => run::<f32>(&mask, a, b),
        (DType::F64, DType::F64) => run::<f64>(&mask, a, b),
        (DType::F16, DType::F16) => run::<half::f16>(&mask, a, b),
        (DType::BF16, DType::BF16) => run::<half::bf16>(&mask, a, b),
        (DType::I32, DType::I32) => run::<i32>(&mask, a, b),
        (DType::I64, DType::I64) => run::<i64>(&mask, a, b),
        (DType::U8, DType::U8) => run::<u8>(&mask, a, b),
        (x, y) => Err(Error::dtype(
            "select",
            &[x, y],
            "both sides must have one dtype",
        )),
    }
}
