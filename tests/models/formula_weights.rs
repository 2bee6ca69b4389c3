//! Weights by the formula of tests/golden/README.md, for any model.

use std::path::Path;

use eosin::formats::{Array, Weights};
use eosin::nn::{self, State};
use eosin::{Result, Tensor};

use crate::formula;

/// The rule for a state entry and the bounds of its values; `None` for counters,
/// which are 0.
pub fn rule(key: &str, shape: &[usize]) -> (&'static str, Option<[f64; 2]>) {
    let around = |r: f64| Some([-r, r]);
    let name = key.rsplit('.').next().unwrap_or(key);
    match name {
        "num_batches_tracked" => ("zero_i64", None),
        "running_var" => ("running_var", Some([0.5, 1.5])),
        "running_mean" => ("running_mean", around(0.1)),
        "cls_token" | "pos_embed" => ("pos", around(0.1)),
        _ if name.starts_with("relative_pos") => ("pos", around(0.1)),
        _ if shape.len() >= 2 => {
            let fan_in: usize = shape[1..].iter().product();
            let bound = (3.0 / fan_in as f64).sqrt();
            // Larger ones would leave nodes of TCGN's graphs without edges.
            if key.ends_with(".MHSA.q.weight") || key.ends_with(".MHSA.k.weight") {
                ("fan_in_x0.4", around(0.4 * bound))
            } else {
                ("fan_in", around(bound))
            }
        }
        "weight" | "gamma" => ("scale", Some([0.9, 1.1])),
        _ => ("bias", around(0.1)),
    }
}

pub fn weights(model: &dyn State) -> Result<Weights> {
    let mut all = Weights::new();
    for (key, slot) in model.state() {
        let value = slot.value();
        let shape = value.shape();
        let array = match rule(&key, shape).1 {
            Some([low, high]) => {
                let values = formula::values(&key, value.elements(), low, high);
                Array::from_f32(shape, &values)?
            }
            None => Array::from_i64(shape, &[0])?,
        };
        all.insert(key, array)?;
    }
    Ok(all)
}

/// Gives a model the formula's weights.
pub fn fill(model: &dyn State) -> Result<()> {
    nn::load(model, &weights(model)?, Path::new("formula"))
}

/// An input by the formula, named by its shape and `name`.
pub fn input(name: &str, shape: &[usize]) -> Result<Tensor> {
    let name = format!("{name}/{shape:?}");
    let values = formula::values(&name, shape.iter().product(), -2.0, 2.0);
    Tensor::from_slice(&values, shape)
}

/// The values bit by bit.
pub fn bits(t: &Tensor) -> Result<Vec<u8>> {
    t.to_bytes()
}

/// Every parameter and buffer bit by bit, by key.
pub fn state_bits(model: &dyn State) -> Result<Vec<(String, Vec<u8>)>> {
    let state = model.state().into_iter();
    state
        .map(|(key, slot)| Ok((key, bits(&slot.value())?)))
        .collect()
}
