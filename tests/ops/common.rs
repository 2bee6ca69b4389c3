//! Inputs by formula and comparison of arrays.

use eosin::{DType, Result, Tensor};

#[path = "../common/formula.rs"]
pub mod formula;

/// A tensor of formula values in [low, high); named by its shape and `name`.
pub fn tensor(name: &str, shape: &[usize], low: f64, high: f64, dtype: DType) -> Result<Tensor> {
    let n = shape.iter().product();
    let values = formula::values(&format!("{name}/{shape:?}"), n, low, high);
    eosin::ops::cast(&Tensor::from_slice(&values, shape)?, dtype)
}

/// |a - b| / |b| in the L2 norm; the absolute norm where b is zero.
pub fn relative_l2(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths differ");
    let mut error = 0.0;
    let mut norm = 0.0;
    for (x, y) in a.iter().zip(b) {
        // Equal infinities and NaN in both count as equal.
        if x != y && !(x.is_nan() && y.is_nan()) {
            error += (x - y) * (x - y);
        }
        if y.is_finite() {
            norm += y * y;
        }
    }
    let error = error.sqrt();
    if norm == 0.0 {
        error
    } else {
        error / norm.sqrt()
    }
}
