//! A module's state from and to weight files.

use std::collections::HashSet;
use std::path::Path;

use crate::error::{Error, Result};
use crate::formats::{Array, Weights, check_keys};
use crate::nn::{Slot, State};
use crate::ops;
use crate::tensor::Tensor;

/// Sets every parameter and buffer of `model` from `weights` by key, strictly;
/// floats of another precision are converted to f32, and all stays on the device
/// where it is. `path` is for messages.
///
/// # Errors
/// Missing, unexpected and misshapen keys, all in one message. Nothing is set
/// then. A missing `num_batches_tracked` (PyTorch before 0.4.1 did not write
/// it) is accepted and left as it is.
pub fn load(model: &dyn State, weights: &Weights, path: &Path) -> Result<()> {
    let state = model.state();
    let expected: Vec<(String, Vec<usize>)> = state
        .iter()
        .map(|(key, slot)| (key.clone(), slot.value().shape().to_vec()))
        .collect();
    check_keys(path, &expected, weights)?;
    set_known(&state, weights, path)
}

/// What [`load_partial`] did not find on either side, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Keys of the model that the file lacks: they stay as they were.
    pub new: Vec<String>,
    /// Keys of the file that the model lacks: they were left out.
    pub unused: Vec<String>,
}

/// As [`load`] for what model and file have in common: to start from the weights
/// of a network that the model is built around.
///
/// # Errors
/// Misshapen keys, all in one message; nothing in common. Nothing is set then.
pub fn load_partial(model: &dyn State, weights: &Weights, path: &Path) -> Result<Partial> {
    let state = model.state();
    let known: HashSet<&str> = state.iter().map(|(key, _)| key.as_str()).collect();
    let mut common = Weights::new();
    for (key, array) in weights.iter().filter(|(key, _)| known.contains(key)) {
        common.insert(key, array.clone())?;
    }
    if common.is_empty() {
        return Err(Error::file(
            path,
            "",
            "has no key of the model",
            "give weights of a part of the model: `eosin inspect` lists their keys",
        ));
    }
    let expected: Vec<(String, Vec<usize>)> = (state.iter())
        .filter(|(key, _)| common.get(key).is_some())
        .map(|(key, slot)| (key.clone(), slot.value().shape().to_vec()))
        .collect();
    check_keys(path, &expected, &common)?;
    set_known(&state, &common, path)?;
    let absent = |(key, _): &&(String, Slot)| weights.get(key).is_none();
    Ok(Partial {
        new: state
            .iter()
            .filter(absent)
            .map(|(key, _)| key.clone())
            .collect(),
        unused: (weights.names())
            .filter(|name| !known.contains(name))
            .map(str::to_owned)
            .collect(),
    })
}

/// Sets what `weights` has of a state; its shapes are known to fit.
fn set_known(state: &[(String, Slot)], weights: &Weights, path: &Path) -> Result<()> {
    let mut ready: Vec<(&Slot, Tensor)> = Vec::with_capacity(state.len());
    for (key, slot) in state {
        let Some(array) = weights.get(key) else {
            continue;
        };
        let dtype = slot.value().dtype();
        if array.dtype.is_float() != dtype.is_float() {
            return Err(Error::file(
                path,
                format!("key `{key}`"),
                format!("it holds {} where {dtype} is expected", array.dtype),
                "use the weights of this architecture",
            ));
        }
        let tensor = Tensor::from_bytes(&array.data, array.dtype, &array.shape)?;
        let value = ops::cast(&tensor, dtype)?.to(&slot.value().device())?;
        ready.push((slot, value));
    }
    ready
        .into_iter()
        .try_for_each(|(slot, value)| slot.set(value))
}

/// Every parameter and buffer by key, in logical order, contiguous, unpadded.
pub fn state_weights(model: &dyn State) -> Result<Weights> {
    let mut weights = Weights::new();
    for (key, slot) in model.state() {
        weights.insert(key, to_array(&slot.value())?)?;
    }
    Ok(weights)
}

pub(crate) fn to_array(t: &Tensor) -> Result<Array> {
    Array::new(t.dtype(), t.shape(), t.to_bytes()?)
}

pub(crate) fn to_tensor(array: &Array) -> Result<Tensor> {
    Tensor::from_bytes(&array.data, array.dtype, &array.shape)
}
