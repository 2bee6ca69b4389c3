//! The updates themselves: all parameters in one parallel pass.

use rayon::prelude::*;

use super::{Adam, AdamW, Kind, Sgd, Slot};
use crate::device::cpu::GRAIN;
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::nn::Values;
use crate::ops::vector::vectorised;
use crate::shape::Format;
use crate::tensor::Tensor;

const OP: &str = "step";

/// One chunk of one parameter with what belongs to it.
struct Work<'a, T> {
    rule: Rule<T>,
    value: &'a mut [T],
    gradient: &'a [T],
    moments: Vec<&'a mut [T]>,
}

/// A rule with everything that does not depend on the element worked out in
/// f64 and rounded once.
#[derive(Clone, Copy)]
pub(super) enum Rule<T> {
    Sgd {
        lr: T,
        decay: T,
        momentum: T,
        first: bool,
        nesterov: bool,
    },
    Adam {
        /// What the parameter is multiplied with first.
        shrink: T,
        /// L2 decay, added to the gradient.
        decay: T,
        /// 1 - b1, b2 and 1 - b2.
        rates: [T; 3],
        /// lr / (1 - b1^t).
        step: T,
        /// sqrt(1 - b2^t).
        correction: T,
        eps: T,
    },
}

impl<T: Float> Rule<T> {
    /// Step `t`, counted from 1.
    pub fn new(kind: Kind, t: u64) -> Self {
        let n = T::from_f64;
        match kind {
            Kind::Sgd(Sgd {
                lr,
                momentum,
                nesterov,
                weight_decay,
            }) => Self::Sgd {
                lr: n(lr),
                decay: n(weight_decay),
                momentum: n(momentum),
                first: t == 1,
                nesterov,
            },
            Kind::Adam(Adam {
                lr,
                betas,
                eps,
                weight_decay,
            }) => Self::adam(lr, betas, eps, [0.0, weight_decay], t),
            Kind::AdamW(AdamW {
                lr,
                betas,
                eps,
                weight_decay,
            }) => Self::adam(lr, betas, eps, [lr * weight_decay, 0.0], t),
        }
    }

    fn adam(lr: f64, [b1, b2]: [f64; 2], eps: f64, [shrink, decay]: [f64; 2], t: u64) -> Self {
        let n = T::from_f64;
        // powf of an integer below 2^53 is the power; powi takes only i32.
        let missing = |b: f64| 1.0 - b.powf(t as f64);
        Self::Adam {
            shrink: n(1.0 - shrink),
            decay: n(decay),
            rates: [n(1.0 - b1), n(b2), n(1.0 - b2)],
            step: n(lr / missing(b1)),
            correction: n(missing(b2).sqrt()),
            eps: n(eps),
        }
    }
}

impl<T: Float> Work<'_, T> {
    fn run(&mut self) {
        update(self.rule, self.value, self.gradient, &mut self.moments);
    }
}

vectorised! {
    fn update<T: Float>(
        rule: Rule<T>,
        value: &mut [T],
        gradient: &[T],
        moments: &mut [&mut [T]],
    ) {
        let pairs = value.iter_mut().zip(gradient);
        match (rule, moments) {
            (Rule::Sgd { lr, decay, .. }, []) => {
                for (p, &g) in pairs {
                    *p = *p - lr * (g + decay * *p);
                }
            }
            (
                Rule::Sgd {
                    lr,
                    decay,
                    momentum,
                    first,
                    nesterov,
                },
                [velocity, ..],
            ) => {
                for ((p, &g), b) in pairs.zip(velocity.iter_mut()) {
                    let g = g + decay * *p;
                    *b = if first { g } else { momentum * *b + g };
                    *p = *p - lr * if nesterov { g + momentum * *b } else { *b };
                }
            }
            (
                Rule::Adam {
                    shrink,
                    decay,
                    rates: [new_mean, keep_square, new_square],
                    step,
                    correction,
                    eps,
                },
                [mean, square],
            ) => {
                let moments = mean.iter_mut().zip(square.iter_mut());
                for ((p, &g), (m, v)) in pairs.zip(moments) {
                    let g = g + decay * *p;
                    *m += new_mean * (g - *m);
                    *v = keep_square * *v + new_square * g * g;
                    let scale = v.sqrt() / correction + eps;
                    *p = shrink * *p - step * *m / scale;
                }
            }
            // Adam's slots are given two moments in `step`.
            (Rule::Adam { .. }, _) => debug_assert!(false, "Adam keeps two moments"),
        }
    }
}

/// Updates `values` and the slots that belong to them with contiguous gradients
/// of their dtypes.
pub(super) fn step(
    kind: Kind,
    active: Vec<(&mut Slot, Tensor)>,
    mut values: Vec<Values>,
) -> Result<()> {
    let mut single: Vec<Work<f32>> = Vec::new();
    let mut double: Vec<Work<f64>> = Vec::new();
    let (slots, gradients): (Vec<_>, Vec<_>) = active.into_iter().unzip();
    for ((slot, gradient), value) in slots.into_iter().zip(&gradients).zip(&mut values) {
        let value = &mut *value.value;
        if !value.layout().is_contiguous() {
            *value = value.to_format(Format::Contiguous)?;
        }
        if slot.moments.is_empty() {
            let zeros = || Tensor::zeros(value.shape(), value.dtype());
            slot.moments = kind
                .moments()
                .iter()
                .map(|_| zeros())
                .collect::<Result<_>>()?;
        }
        slot.steps += 1;
        match value.dtype() {
            DType::F64 => divide(kind, slot, gradient, value, &mut double)?,
            _ => divide(kind, slot, gradient, value, &mut single)?,
        }
    }
    single.par_iter_mut().for_each(Work::run);
    double.par_iter_mut().for_each(Work::run);
    for Values { value, shadow } in values {
        if let Some(shadow) = shadow {
            *shadow = crate::ops::cast(value, shadow.dtype())?;
        }
    }
    Ok(())
}

/// Cuts one parameter into chunks of a fixed size.
fn divide<'a, T: Float>(
    kind: Kind,
    slot: &'a mut Slot,
    gradient: &'a Tensor,
    value: &'a mut Tensor,
    all: &mut Vec<Work<'a, T>>,
) -> Result<()> {
    let rule = Rule::new(kind, slot.steps);
    let mut moments: Vec<_> = slot
        .moments
        .iter_mut()
        .map(|m| Ok(m.dense_mut::<T>(OP)?.chunks_mut(GRAIN)))
        .collect::<Result<_>>()?;
    let gradient = gradient.dense_slice::<T>(OP)?.chunks(GRAIN);
    let value = value.dense_mut::<T>(OP)?.chunks_mut(GRAIN);
    for (value, gradient) in value.zip(gradient) {
        all.push(Work {
            rule,
            value,
            gradient,
            moments: moments.iter_mut().filter_map(Iterator::next).collect(),
        });
    }
    Ok(())
}
