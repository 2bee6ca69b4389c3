//! How published code draws weights where it departs from PyTorch's defaults.

use crate::error::Result;
use crate::nn::State;
use crate::random::Philox;
use crate::tensor::Tensor;

/// Draws every weight of four axes from a normal distribution of variance 2 / fan_in (He,
/// Zhang, Ren and Sun 2015), where fan_in is the product of all axes but the first, as PyTorch
/// counts it also for transposed convolutions.
///
/// # Errors
/// No memory left.
pub fn he_normal(model: &dyn State, random: &mut Philox) -> Result<()> {
    for (_, param) in model.parameters() {
        let value = param.value();
        if let [_, c, r, s] = value.shape()[..] {
            let mut values = vec![0.0; value.elements()];
            random.fill_normal(&mut values, 0.0, (2.0 / (c * r * s) as f32).sqrt());
            param.set(Tensor::from_slice(&values, value.shape())?)?;
        }
    }
    Ok(())
}
