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
    draw(model, random, |fan_in| (2.0 / fan_in as f32).sqrt())
}

/// Draws the same weights from a normal distribution of deviation 0.02, as DCGAN's paper does
/// (Radford, Metz and Chintala 2016).
///
/// # Errors
/// No memory left.
pub fn narrow_normal(model: &dyn State, random: &mut Philox) -> Result<()> {
    draw(model, random, |_| 0.02)
}

fn draw(model: &dyn State, random: &mut Philox, deviation: impl Fn(usize) -> f32) -> Result<()> {
    for (_, param) in model.parameters() {
        let value = param.value();
        if let [_, c, r, s] = value.shape()[..] {
            let mut values = vec![0.0; value.elements()];
            random.fill_normal(&mut values, 0.0, deviation(c * r * s));
            param.set(Tensor::from_slice(&values, value.shape())?)?;
        }
    }
    Ok(())
}
