//! Learning rates over time.

use crate::error::{Error, Result};

/// A learning rate as a function of the step (or epoch) alone, counted from 0,
/// so that a resumed run needs no state.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    Constant,
    /// Multiplied by `factor` after every `every` steps (PyTorch's `StepLR`).
    Step {
        every: u64,
        factor: f64,
    },
    /// Multiplied by `factor` at each of these steps (`MultiStepLR`).
    MultiStep {
        milestones: Vec<u64>,
        factor: f64,
    },
    /// Multiplied by `factor` after every step (`ExponentialLR`).
    Exponential {
        factor: f64,
    },
    /// Rises linearly to the base rate, which is reached in the last of
    /// `warmup` steps, then falls on half a cosine to `minimum` at step `total`
    /// (Loshchilov and Hutter 2017) and stays there.
    CosineWarmup {
        warmup: u64,
        total: u64,
        minimum: f64,
    },
}

impl Schedule {
    /// The rate of step `step` for the base rate `base`.
    pub fn at(&self, base: f64, step: u64) -> f64 {
        // powf of an integer below 2^53 is the power; powi takes only i32.
        let powered = |factor: f64, n: u64| base * factor.powf(n as f64);
        match *self {
            Self::Constant => base,
            Self::Step { every, factor } => powered(factor, step / every.max(1)),
            Self::MultiStep {
                ref milestones,
                factor,
            } => {
                let passed = milestones.iter().filter(|&&m| m <= step).count();
                powered(factor, passed as u64)
            }
            Self::Exponential { factor } => powered(factor, step),
            Self::CosineWarmup { warmup, .. } if step < warmup => {
                base * (step + 1) as f64 / warmup as f64
            }
            Self::CosineWarmup { total, minimum, .. } if step >= total => minimum,
            Self::CosineWarmup {
                warmup,
                total,
                minimum,
            } => {
                let fraction = (step - warmup) as f64 / (total - warmup) as f64;
                let height = (1.0 + (std::f64::consts::PI * fraction).cos()) / 2.0;
                minimum + (base - minimum) * height
            }
        }
    }
}

/// Whether a metric is to fall or to rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    Lower,
    Higher,
}

/// Lowers the learning rate when a metric stops to improve (PyTorch's
/// `ReduceLROnPlateau` with a relative threshold).
#[derive(Clone, Debug, PartialEq)]
pub struct ReduceOnPlateau {
    pub goal: Goal,
    /// What the rate is multiplied with; below 1.
    pub factor: f64,
    /// Evaluations without improvement that are let pass.
    pub patience: u64,
    /// An improvement is a change by more than this part of the best value.
    pub threshold: f64,
    /// Evaluations after a reduction in which none is counted as bad.
    pub cooldown: u64,
    pub minimum: f64,
    pub state: PlateauState,
}

/// What a resumed run needs of a [`ReduceOnPlateau`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "formats", derive(serde::Serialize, serde::Deserialize))]
pub struct PlateauState {
    /// `None` before the first evaluation that was a number.
    pub best: Option<f64>,
    pub bad: u64,
    pub cooldown: u64,
}

impl ReduceOnPlateau {
    /// PyTorch's defaults for the rest.
    ///
    /// # Errors
    /// A factor that is not in 0..1.
    pub fn new(goal: Goal, factor: f64, patience: u64) -> Result<Self> {
        if !(0.0..1.0).contains(&factor) {
            let problem = format!("a factor of {factor} does not reduce a rate");
            return Err(Error::usage(
                problem,
                "give a factor of at least 0 and below 1",
            ));
        }
        Ok(Self {
            goal,
            factor,
            patience,
            threshold: 1e-4,
            cooldown: 0,
            minimum: 0.0,
            state: PlateauState::default(),
        })
    }

    /// The rate after an evaluation that gave `metric`; NaN is never better.
    pub fn step(&mut self, metric: f64, rate: f64) -> f64 {
        let state = &mut self.state;
        let better = match (self.goal, state.best) {
            (Goal::Lower, None) => metric < f64::INFINITY,
            (Goal::Higher, None) => metric > f64::NEG_INFINITY,
            (Goal::Lower, Some(best)) => metric < best * (1.0 - self.threshold),
            (Goal::Higher, Some(best)) => metric > best * (1.0 + self.threshold),
        };
        if better {
            state.best = Some(metric);
            state.bad = 0;
        } else {
            state.bad += 1;
        }
        if state.cooldown > 0 {
            state.cooldown -= 1;
            state.bad = 0;
        }
        if state.bad <= self.patience {
            return rate;
        }
        state.cooldown = self.cooldown;
        state.bad = 0;
        let reduced = (rate * self.factor).max(self.minimum);
        // As PyTorch: a change too small to matter is not made.
        if rate - reduced > 1e-8 { reduced } else { rate }
    }
}
