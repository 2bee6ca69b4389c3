use super::Function;
use super::scalar::{Loop, visit};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::half::{is_half, widened};
use crate::ops::walk::{map1, map2};
use crate::tensor::Tensor;

struct Over<'a> {
    f: Function,
    g: Option<&'a Tensor>,
    x: &'a Tensor,
}

impl<T: Float> Loop<T> for Over<'_> {
    type Output = Result<Tensor>;
    fn run(self, h: impl Fn(T) -> T + Copy + Sync) -> Result<Tensor> {
        match self.g {
            None => map1(self.f.name(), self.x, h),
            Some(g) => map2(self.f.name(), self.x, g, |x: T, g: T| g * h(x)),
        }
    }
}

pub(super) fn apply(f: Function, x: &Tensor) -> Result<Tensor> {
    if is_half(x) {
        return widened([x], |[x]| apply(f, x));
    }
    match x.dtype() {
        DType::F32 => visit::<f32, _>(f, 0, Over { f, g: None, x }),
        DType::F64 => visit::<f64, _>(f, 0, Over { f, g: None, x }),
        other => Err(Error::dtype(f.name(), &[other], "a float is needed")),
    }
}

pub(super) fn apply_derivative(f: Function, order: u32, g: &Tensor, x: &Tensor) -> Result<Tensor> {
    if is_half(g) || is_half(x) {
        return widened([g, x], |[g, x]| apply_derivative(f, order, g, x));
    }
    let body = Over { f, g: Some(g), x };
    match (g.dtype(), x.dtype()) {
        (DType::F32, DType::F32) => visit::<f32, _>(f, order, body),
        (DType::F64, DType::F64) => visit::<f64, _>(f, order, body),
        (a, b) => Err(Error::dtype(
            f.name(),
            &[a, b],
            "two equal floats are needed",
        )),
    }
}
