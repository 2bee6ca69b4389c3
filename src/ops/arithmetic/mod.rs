//! Broadcasting arithmetic, comparison and selection.
//!
//! Operands follow numpy's broadcasting rule; a gradient is summed back over
//! the axes along which its operand was repeated.

mod cpu;
mod cuda;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{self, Operand};
use crate::profile;
use crate::shape::Shape;
use crate::tensor::Tensor;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Maximum,
    Minimum,
}

impl Binary {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
            Self::Maximum => "maximum",
            Self::Minimum => "minimum",
        }
    }
}

fn binary(kind: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    profile::call(kind.name(), &[a, b], || match a.device() {
        Device::Cpu => cpu::binary(kind, a, b),
        Device::Cuda(_) => cuda::binary(kind, a, b),
    })
}

/// Sums a gradient over the axes along which an operand of `shape` was repeated.
pub(crate) fn sum_to(gradient: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if gradient.shape() == shape {
        return Ok(gradient.clone());
    }
    let added = gradient.rank() - shape.len();
    let axes: Vec<isize> = (0..gradient.rank())
        .filter(|&i| i < added || (shape[i - added] == 1 && gradient.shape()[i] != 1))
        .map(|i| i as isize)
        .collect();
    ops::reshape(&ops::sum(gradient, &axes, true)?, shape)
}

/// a + b.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = binary(Binary::Add, a, b)?;
    let shapes = operand_shapes(a, b);
    Ok(record("add", &[a, b], y, Save::NONE, move |g| {
        Ok(vec![
            g.when(0, || sum_to(&g.grad, &shapes[0]))?,
            g.when(1, || sum_to(&g.grad, &shapes[1]))?,
        ])
    }))
}

/// a + b in the memory of a, where that is the CPU's and nothing else holds it; [`add`] where
/// it is not, the two lie in different orders or something is recorded. The bits are the same.
pub(crate) fn add_onto(mut a: Tensor, b: &Tensor) -> Result<Tensor> {
    let here = a.device() == Device::Cpu && b.device() == Device::Cpu;
    let plain = here && a.node.is_none() && b.node.is_none() && a.layout().is_dense();
    let alike = a.layout() == b.layout() && a.dtype() == b.dtype();
    let single = matches!(a.dtype(), DType::F32 | DType::F64);
    if !(plain && alike && single && a.holds_alone()) {
        return add(&a, b);
    }
    let (to, from) = (Operand::from(&a), Operand::from(b));
    let operands = || [vec![to, from], vec![to]];
    profile::call_in_place("add", operands, || cpu::add_onto(&mut a, b))?;
    Ok(a)
}

/// a - b.
pub fn sub(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = binary(Binary::Sub, a, b)?;
    let shapes = operand_shapes(a, b);
    Ok(record("sub", &[a, b], y, Save::NONE, move |g| {
        Ok(vec![
            g.when(0, || sum_to(&g.grad, &shapes[0]))?,
            g.when(1, || sum_to(&affine(&g.grad, -1.0, 0.0)?, &shapes[1]))?,
        ])
    }))
}

/// a * b, element by element.
pub fn mul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = binary(Binary::Mul, a, b)?;
    let shapes = operand_shapes(a, b);
    Ok(record("mul", &[a, b], y, Save::ALL, move |g| {
        let (a, b) = (g.input(0)?, g.input(1)?);
        Ok(vec![
            g.when(0, || sum_to(&mul(&g.grad, &b)?, &shapes[0]))?,
            g.when(1, || sum_to(&mul(&g.grad, &a)?, &shapes[1]))?,
        ])
    }))
}

/// a / b, element by element.
pub fn div(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = binary(Binary::Div, a, b)?;
    let shapes = operand_shapes(a, b);
    let save = Save::inputs(0b10).and_output();
    Ok(record("div", &[a, b], y, save, move |g| {
        let b = g.input(1)?;
        let through = div(&g.grad, &b)?;
        Ok(vec![
            g.when(0, || sum_to(&through, &shapes[0]))?,
            g.when(1, || {
                let d = mul(&through, &g.output()?)?;
                sum_to(&affine(&d, -1.0, 0.0)?, &shapes[1])
            })?,
        ])
    }))
}

/// The larger of a and b; where they are equal each gets half of the gradient.
pub fn maximum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    extremum(Binary::Maximum, a, b)
}

/// The smaller of a and b; where they are equal each gets half of the gradient.
pub fn minimum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    extremum(Binary::Minimum, a, b)
}

fn extremum(kind: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = binary(kind, a, b)?;
    let shapes = operand_shapes(a, b);
    Ok(record(kind.name(), &[a, b], y, Save::ALL, move |g| {
        let (a, b) = (g.input(0)?.detach(), g.input(1)?.detach());
        let order = match kind {
            Binary::Maximum => Comparison::Greater,
            _ => Comparison::Less,
        };
        let wins = |x: &Tensor, y: &Tensor| -> Result<Tensor> {
            let strictly = cast_like(&compare(x, order, y)?, &g.grad)?;
            let tied = cast_like(&compare(x, Comparison::Equal, y)?, &g.grad)?;
            add(&strictly, &affine(&tied, 0.5, 0.0)?)
        };
        Ok(vec![
            g.when(0, || sum_to(&mul(&g.grad, &wins(&a, &b)?)?, &shapes[0]))?,
            g.when(1, || sum_to(&mul(&g.grad, &wins(&b, &a)?)?, &shapes[1]))?,
        ])
    }))
}

fn cast_like(x: &Tensor, like: &Tensor) -> Result<Tensor> {
    ops::cast(x, like.dtype())
}

fn operand_shapes(a: &Tensor, b: &Tensor) -> [Shape; 2] {
    [*a.layout().shape(), *b.layout().shape()]
}

/// `scale * x + shift` with fixed numbers.
pub fn affine(x: &Tensor, scale: f64, shift: f64) -> Result<Tensor> {
    let y = profile::call("affine", &[x], || match x.device() {
        Device::Cpu => cpu::affine(x, scale, shift),
        Device::Cuda(_) => cuda::affine(x, scale, shift),
    })?;
    Ok(record("affine", &[x], y, Save::NONE, move |g| {
        Ok(vec![Some(affine(&g.grad, scale, 0.0)?)])
    }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// Element by element, a bool tensor. It has no gradient.
pub fn compare(a: &Tensor, order: Comparison, b: &Tensor) -> Result<Tensor> {
    profile::call("compare", &[a, b], || match a.device() {
        Device::Cpu => cpu::compare(order, &a.detach(), &b.detach()),
        Device::Cuda(_) => cuda::compare(order, &a.detach(), &b.detach()),
    })
}

/// `a` where `condition` is true, `b` elsewhere (the field's `where`).
///
/// # Errors
/// `condition` is not bool, or the shapes do not broadcast.
pub fn select(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if condition.dtype() != DType::Bool {
        let given = [condition.dtype()];
        return Err(Error::dtype("select", &given, "the condition must be bool"));
    }
    let y = profile::call("select", &[condition, a, b], || match a.device() {
        Device::Cpu => cpu::select(condition, a, b),
        Device::Cuda(_) => cuda::select(condition, a, b),
    })?;
    let shapes = operand_shapes(a, b);
    let condition = condition.detach();
    Ok(record("select", &[a, b], y, Save::NONE, move |g| {
        let zero = Tensor::full_on(0.0, &[], g.grad.dtype(), &g.grad.device())?;
        Ok(vec![
            g.when(0, || {
                sum_to(&select(&condition, &g.grad, &zero)?, &shapes[0])
            })?,
            g.when(1, || {
                sum_to(&select(&condition, &zero, &g.grad)?, &shapes[1])
            })?,
        ])
    }))
}
