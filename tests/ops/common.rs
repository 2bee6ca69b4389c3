//! Inputs by formula and comparison of arrays.

use eosin::{DType, Result, Tensor};

#[path = "../common/formula.rs"]
pub mod formula;
#[path = "../common/stored.rs"]
pub mod stored;
#[path = "../common/trial.rs"]
pub mod trial;

pub use stored::relative_l2;

/// A tensor of formula values in [low, high); named by its shape and `name`.
pub fn tensor(name: &str, shape: &[usize], low: f64, high: f64, dtype: DType) -> Result<Tensor> {
    let n = shape.iter().product();
    let values = formula::values(&format!("{name}/{shape:?}"), n, low, high);
    eosin::ops::cast(&Tensor::from_slice(&values, shape)?, dtype)
}
