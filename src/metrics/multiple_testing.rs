//! p-values adjusted for the number of tests.

use super::ensure_some;
use crate::error::{Error, Result};

/// What is held down, and under which assumption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// False discovery rate; tests independent or positively dependent
    /// (Benjamini and Hochberg 1995).
    BenjaminiHochberg,
    /// False discovery rate under any dependence (Benjamini and Yekutieli 2001).
    BenjaminiYekutieli,
    /// Chance of any false discovery, under any dependence (Holm 1979).
    Holm,
    /// Chance of any false discovery; tests independent or positively dependent.
    HolmSidak,
    /// Chance of any false discovery, in one step.
    Bonferroni,
}

/// The smallest level at which each test would be rejected, in the order given.
///
/// NaN (a gene whose test is undefined) stays NaN and does not count as a
/// test. A p-value outside 0 to 1 is an error.
pub fn adjust(p_values: &[f64], correction: Correction) -> Result<Vec<f64>> {
    ensure_some("multiple testing", p_values)?;
    if let Some((index, p)) =
        (p_values.iter().enumerate()).find(|(_, p)| !p.is_nan() && !(0.0..=1.0).contains(*p))
    {
        return Err(Error::usage(
            format!("multiple testing: value {index} is {p}, which is not a p-value"),
            "pass numbers from 0 to 1, or NaN for a test that is undefined",
        ));
    }
    let mut order: Vec<(f64, usize)> = (p_values.iter().copied().zip(0..))
        .filter(|(p, _)| !p.is_nan())
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let tests = order.len() as f64;
    let dependence = match correction {
        Correction::BenjaminiYekutieli => (1..=order.len()).map(|i| 1.0 / i as f64).sum(),
        _ => 1.0,
    };
    // The test of rank i (from 1) is one of `tests - i + 1` that are left.
    let mut adjusted: Vec<f64> = (1..=order.len())
        .zip(&order)
        .map(|(rank, &(p, _))| {
            let left = tests - rank as f64 + 1.0;
            match correction {
                Correction::BenjaminiHochberg | Correction::BenjaminiYekutieli => {
                    p * tests / rank as f64 * dependence
                }
                Correction::Holm => p * left,
                Correction::HolmSidak => -(left * (-p).ln_1p()).exp_m1(),
                Correction::Bonferroni => p * tests,
            }
            .min(1.0)
        })
        .collect();
    // A larger p-value must not end below a smaller one.
    match correction {
        Correction::BenjaminiHochberg | Correction::BenjaminiYekutieli => {
            let mut least = 1.0f64;
            for a in adjusted.iter_mut().rev() {
                least = least.min(*a);
                *a = least;
            }
        }
        Correction::Holm | Correction::HolmSidak => {
            let mut largest = 0.0f64;
            for a in &mut adjusted {
                largest = largest.max(*a);
                *a = largest;
            }
        }
        Correction::Bonferroni => {}
    }
    let mut out = vec![f64::NAN; p_values.len()];
    for (&(_, index), &a) in order.iter().zip(&adjusted) {
        out[index] = a;
    }
    Ok(out)
}
