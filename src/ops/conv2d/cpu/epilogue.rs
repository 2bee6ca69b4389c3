//! What follows the sums of a convolution while they are warm: residual and
//! activation. The bias comes first, as what the sums start from.

use crate::dtype::Float;
use crate::ops::pointwise::{Function, scalar};

/// What is added to the outputs before their activation.
#[derive(Clone, Copy)]
pub enum Residual<'a, T> {
    None,
    /// In the output's order.
    Apart(&'a [T]),
    /// What the output's memory holds, which is overwritten. A tensor that is
    /// needed no more then costs half the memory traffic of one beside it: its
    /// lines are read once and written back.
    Within,
}

/// Where the outputs of a pixel lie.
#[derive(Clone, Copy)]
pub struct Window {
    /// Elements from one pixel to the next.
    pub pixel: usize,
    /// Place of the first output in a pixel.
    pub first: usize,
}

impl Window {
    /// Pixels that consist of the outputs.
    pub fn whole(outputs: usize) -> Self {
        Self {
            pixel: outputs,
            first: 0,
        }
    }
}

#[derive(Clone, Copy)]
pub struct Epilogue<'a, T> {
    /// One per output channel.
    pub bias: Option<&'a [T]>,
    pub residual: Residual<'a, T>,
    pub activation: Option<Function>,
}

impl<T: Float> Epilogue<'_, T> {
    pub const NONE: Self = Self {
        bias: None,
        residual: Residual::None,
        activation: None,
    };

    /// The same where T is f32.
    #[cfg(target_arch = "x86_64")]
    pub fn in_f32(&self) -> Epilogue<'_, f32> {
        Epilogue {
            bias: self.bias.map(bytemuck::cast_slice),
            residual: match self.residual {
                Residual::None => Residual::None,
                Residual::Apart(residual) => Residual::Apart(bytemuck::cast_slice(residual)),
                Residual::Within => Residual::Within,
            },
            activation: self.activation,
        }
    }

    /// Writes the outputs from `start` on, which are `to`.
    #[inline(always)]
    pub fn write(&self, start: usize, sums: &[T], to: &mut [T]) {
        match self.residual {
            Residual::None => to.copy_from_slice(sums),
            Residual::Apart(residual) => {
                let added = &residual[start..start + sums.len()];
                for ((to, &s), &r) in to.iter_mut().zip(sums).zip(added) {
                    *to = s + r;
                }
            }
            Residual::Within => to.iter_mut().zip(sums).for_each(|(to, &s)| *to += s),
        }
        match self.activation {
            None => {}
            // The common one, without a call.
            Some(Function::LeakyRelu(slope)) => {
                let slope = T::from_f64(slope);
                for y in to {
                    *y = leaky_relu(*y, slope);
                }
            }
            Some(f) => scalar::apply_in_place(f, to),
        }
    }

    /// [`Self::write`] of N outputs, by value: what is behind a slice was added
    /// one by one, because it might overlap.
    #[inline(always)]
    pub fn write_array<const N: usize>(&self, start: usize, mut sums: [T; N], to: &mut [T]) {
        // Of known length: otherwise what is written was copied by a call.
        let Some(to) = to.first_chunk_mut::<N>() else {
            unreachable!("as many outputs as sums");
        };
        let added = match self.residual {
            Residual::None => None,
            Residual::Apart(residual) => residual[start..].first_chunk::<N>(),
            Residual::Within => Some(&*to),
        };
        if let Some(&added) = added {
            for i in 0..N {
                sums[i] += added[i];
            }
        }
        match self.activation {
            None => {}
            Some(Function::LeakyRelu(slope)) => {
                let slope = T::from_f64(slope);
                for s in &mut sums {
                    *s = leaky_relu(*s, slope);
                }
            }
            Some(f) => {
                *to = sums;
                return scalar::apply_in_place(f, to);
            }
        }
        *to = sums;
    }
}

/// A product in every lane, because a choice between values became masked stores.
#[inline(always)]
pub fn leaky_relu<T: Float>(x: T, slope: T) -> T {
    x * if x > T::ZERO { T::ONE } else { slope }
}
