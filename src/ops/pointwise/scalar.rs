//! The functions and their derivatives as formulas of one element.
//!
//! [`visit`] hands the formula of a function and order to a loop as a closure
//! of its own type, so that every loop over elements holds exactly one formula
//! and the compiler can vectorise it.

use super::Function;
use crate::dtype::Float;
use crate::ops::vector::{Vectors, exp, gaussian, tanh, widest};

/// A loop that takes a formula.
pub(crate) trait Loop<T> {
    type Output;
    fn run(self, f: impl Fn(T) -> T + Copy + Sync) -> Self::Output;
}

/// Runs `body` with f^(order).
pub(crate) fn visit<T: Float, L: Loop<T>>(f: Function, order: u32, body: L) -> L::Output {
    let c = T::from_f64;
    let (zero, one, two) = (T::ZERO, T::ONE, c(2.0));
    let sigmoid = move |x: T| one / (one + exp(-x));
    match (f, order) {
        (Function::Exp, _) => body.run(move |x: T| exp(x)),
        (Function::Log, 0) => body.run(move |x: T| x.ln()),
        (Function::Log, 1) => body.run(move |x: T| one / x),
        (Function::Log, _) => body.run(move |x: T| -(one / (x * x))),
        (Function::Sqrt, 0) => body.run(move |x: T| x.sqrt()),
        (Function::Sqrt, 1) => body.run(move |x: T| c(0.5) / x.sqrt()),
        (Function::Sqrt, _) => body.run(move |x: T| c(-0.25) / (x * x.sqrt())),
        (Function::Pow(p), 0) => body.run(move |x: T| x.powf(c(p))),
        (Function::Pow(p), 1) => body.run(move |x: T| c(p) * x.powf(c(p - 1.0))),
        // Without this case x^1 would give 0 * infinity at x = 0.
        (Function::Pow(p), _) if p == 0.0 || p == 1.0 => body.run(move |_| zero),
        (Function::Pow(p), _) => body.run(move |x: T| c(p * (p - 1.0)) * x.powf(c(p - 2.0))),
        (Function::Abs, 0) => body.run(move |x: T| x.abs()),
        (Function::Abs, 1) => body.run(move |x: T| {
            if x > zero {
                one
            } else if x < zero {
                -one
            } else {
                zero
            }
        }),
        // Written out rather than with min and max, which would drop a NaN.
        (Function::Clamp(low, high), 0) => body.run(move |x: T| {
            if x < c(low) {
                c(low)
            } else if x > c(high) {
                c(high)
            } else {
                x
            }
        }),
        (Function::Clamp(low, high), 1) => body.run(move |x: T| {
            if x >= c(low) && x <= c(high) {
                one
            } else {
                zero
            }
        }),
        (Function::LeakyRelu(slope), 0) => {
            let slope = c(slope);
            // The product on both sides, so that there is no branch.
            body.run(move |x: T| {
                let low = x * slope;
                if x > zero { x } else { low }
            })
        }
        (Function::LeakyRelu(slope), 1) => {
            let slope = c(slope);
            body.run(move |x: T| if x > zero { one } else { slope })
        }
        (Function::Abs | Function::Clamp(..) | Function::LeakyRelu(_), _) => {
            body.run(move |_| zero)
        }
        (Function::Gelu, 0) => body.run(move |x: T| x * gaussian(x).0),
        (Function::Gelu, 1) => body.run(move |x: T| {
            let (below, density) = gaussian(x);
            below + x * density
        }),
        (Function::Gelu, _) => body.run(move |x: T| gaussian(x).1 * (two - x * x)),
        (Function::Silu, 0) => body.run(move |x: T| x * sigmoid(x)),
        (Function::Silu, 1) => body.run(move |x: T| {
            let s = sigmoid(x);
            s * (one + x * (one - s))
        }),
        (Function::Silu, _) => body.run(move |x: T| {
            let s = sigmoid(x);
            s * (one - s) * (two + x * (one - two * s))
        }),
        (Function::Tanh, 0) => body.run(move |x: T| tanh(x)),
        (Function::Tanh, 1) => body.run(move |x: T| {
            let t = tanh(x);
            one - t * t
        }),
        (Function::Tanh, _) => body.run(move |x: T| {
            let t = tanh(x);
            -two * t * (one - t * t)
        }),
        (Function::Sigmoid, 0) => body.run(sigmoid),
        (Function::Sigmoid, 1) => body.run(move |x: T| {
            let s = sigmoid(x);
            s * (one - s)
        }),
        (Function::Sigmoid, _) => body.run(move |x: T| {
            let s = sigmoid(x);
            s * (one - s) * (one - two * s)
        }),
    }
}

struct InPlace<'a, T>(&'a mut [T]);

/// [`InPlace`] with its formula.
struct Each<'a, T, F>(&'a mut [T], F);

impl<T: Float, F: Fn(T) -> T> Vectors for Each<'_, T, F> {
    #[inline(always)]
    fn run(self) {
        for v in self.0 {
            *v = (self.1)(*v);
        }
    }
}

impl<T: Float> Loop<T> for InPlace<'_, T> {
    type Output = ();
    fn run(self, f: impl Fn(T) -> T + Copy + Sync) {
        widest(Each(self.0, f));
    }
}

/// f of every value, for the epilogue of a product.
pub(crate) fn apply_in_place<T: Float>(f: Function, values: &mut [T]) {
    visit(f, 0, InPlace(values));
}
