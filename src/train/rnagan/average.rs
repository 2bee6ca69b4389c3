//! A running mean of a generator's weights: single steps swing, their mean does not (Yazici et
//! al. 2019, "The unusual effectiveness of averaging in GAN training").

use crate::device::Device;
use crate::error::Result;
use crate::models::rnagan::{Generator, Growth};
use crate::nn::State;
use crate::ops;
use crate::random::Philox;

/// A generator that follows another.
pub struct Average {
    pub generator: Generator,
    /// What a step leaves of the past.
    share: f64,
    /// Steps so far.
    pub steps: u64,
}

impl Average {
    /// # Errors
    /// As [`Generator::new`].
    pub fn new(of: &Generator, growth: Growth, share: f64, device: &Device) -> Result<Self> {
        let random = &mut Philox::new(0);
        let generator = Generator::new(of.latent(), of.sizes(), growth, random)?;
        generator.to_device(device)?;
        Ok(Self {
            generator,
            share,
            steps: 0,
        })
    }

    /// Takes in what `of` is now. Early steps leave less of the past, so that the first weights,
    /// which are random, do not linger.
    ///
    /// # Errors
    /// No memory left.
    pub fn follow(&mut self, of: &Generator) -> Result<()> {
        let steps = self.steps as f64;
        let share = self.share.min(steps / (10.0 + steps));
        self.steps += 1;
        for ((_, mean), (_, now)) in self.generator.state().iter().zip(of.state()) {
            let (old, now) = (mean.value(), now.value());
            mean.set(match now.dtype().is_float() {
                true => ops::add(
                    &ops::affine(&old, share, 0.0)?,
                    &ops::affine(&now, 1.0 - share, 0.0)?,
                )?,
                // A counter.
                false => now,
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::rnagan::Sizes;
    use crate::tensor::Tensor;

    #[test]
    fn is_the_running_mean() -> Result<()> {
        let sizes = Sizes { image: 16, step: 1 };
        let of = Generator::new(2, sizes, Growth::Transposed, &mut Philox::new(1))?;
        let mut average = Average::new(&of, Growth::Transposed, 0.5, &Device::Cpu)?;
        // Nothing of its own weights is left, then shares 1 / 11 and 2 / 12.
        for (value, mean) in [(1.0, 1.0), (12.0, 11.0), (5.0, 6.0)] {
            for (_, param) in of.parameters() {
                param.set(Tensor::full(
                    value,
                    param.value().shape(),
                    param.value().dtype(),
                )?)?;
            }
            average.follow(&of)?;
            for (key, param) in average.generator.parameters() {
                for v in param.value().to_f32_vec()? {
                    assert!((v - mean).abs() < 1e-5, "{key}: {v}, not {mean}");
                }
            }
        }
        Ok(())
    }
}
