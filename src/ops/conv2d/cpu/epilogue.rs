//! What follows the sums of a convolution while they are warm: residual and
//! activation. The bias comes first, as what the sums start from.

use crate::dtype::Float;
use crate::ops::pointwise::{Function, scalar};

pub struct Epilogue<'a, T> {
    /// One per output channel.
    pub bias: Option<&'a [T]>,
    /// In the output's order.
    pub residual: Option<&'a [T]>,
    pub activation: Option<Function>,
}

impl<T: Float> Epilogue<'_, T> {
    pub const NONE: Self = Self {
        bias: None,
        residual: None,
        activation: None,
    };

    /// Residual and activation of `sums`, outputs from `start` on.
    #[inline(always)]
    pub fn finish(&self, start: usize, sums: &mut [T]) {
        if let Some(residual) = self.residual {
            let added = &residual[start..start + sums.len()];
            sums.iter_mut().zip(added).for_each(|(s, &r)| *s += r);
        }
        match self.activation {
            None => {}
            // The common one, without a call. A product in every lane, because a
            // choice between values became masked stores.
            Some(Function::LeakyRelu(slope)) => {
                let slope = T::from_f64(slope);
                for s in sums {
                    *s = *s * if *s > T::ZERO { T::ONE } else { slope };
                }
            }
            Some(f) => scalar::apply_in_place(f, sums),
        }
    }
}
