//! Gradients against finite differences, in f64.
//!
//! For a function f of several tensors and a fixed random weight w, the
//! gradient of sum(w f) is compared element by element with central
//! differences; the second-order check does the same with the function that
//! maps (inputs, w) to those gradients.

use crate::autograd::grad;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;

/// Steps and tolerances of the check; the defaults suit functions whose third
/// derivatives are of the order of 1: with a step h the truncation error is
/// about h^2/6 and rounding about 1e-16/h, both near 1e-10 at h = 1e-5.
#[derive(Clone, Copy, Debug)]
pub struct CheckOptions {
    pub step: f64,
    pub relative: f64,
    pub absolute: f64,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            step: 1e-5,
            relative: 1e-5,
            absolute: 1e-7,
        }
    }
}

type Function<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Compares the gradients of `f` with respect to every f64 tensor in `inputs`
/// with finite differences. Inputs of other dtypes (indices, masks) are held
/// fixed.
///
/// # Errors
/// What `f` or its gradient returns, or an error that names the first input and
/// element that disagrees.
pub fn grad_check(f: Function, inputs: &[Tensor], options: CheckOptions) -> Result<()> {
    let weight = weight_like(&f(inputs)?, 1)?;
    let scalar = |x: &[Tensor]| ops::sum_all(&ops::mul(&f(x)?, &weight)?);
    compare("gradient", &scalar, inputs, options)
}

/// As [`grad_check`] for the gradients of `f` themselves.
///
/// # Errors
/// As [`grad_check`].
pub fn grad_grad_check(f: Function, inputs: &[Tensor], options: CheckOptions) -> Result<()> {
    let outer = weight_like(&f(inputs)?, 1)?;
    let mut extended = inputs.to_vec();
    extended.push(outer);
    let scalar = |x: &[Tensor]| {
        let (x, w) = x.split_at(x.len() - 1);
        let x: Vec<Tensor> = x
            .iter()
            .map(|t| {
                if differentiable(t) && !t.is_recorded() {
                    t.variable()
                } else {
                    t.clone()
                }
            })
            .collect();
        let wanted: Vec<&Tensor> = x.iter().filter(|t| differentiable(t)).collect();
        let gradients = grad(&[&f(&x)?], Some(&[&w[0]]), &wanted, true)?;
        let mut total = Tensor::scalar(0.0, DType::F64)?;
        for (i, g) in gradients.into_iter().enumerate() {
            if let Some(g) = g {
                let weighted = ops::mul(&g, &weight_like(&g, 2 + i as u64)?)?;
                total = ops::add(&total, &ops::sum_all(&weighted)?)?;
            }
        }
        Ok(total)
    };
    compare("second gradient", &scalar, &extended, options)
}

fn differentiable(t: &Tensor) -> bool {
    t.dtype() == DType::F64
}

/// Fixed numbers in [-1, 1) without structure.
fn weight_like(t: &Tensor, salt: u64) -> Result<Tensor> {
    let mut state = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let values: Vec<f64> = (0..t.elements())
        .map(|_| crate::random::splitmix64(&mut state) as f64 / u64::MAX as f64 * 2.0 - 1.0)
        .collect();
    Tensor::from_slice(&values, t.shape())
}

fn compare(what: &str, f: Function, inputs: &[Tensor], options: CheckOptions) -> Result<()> {
    let variables: Vec<Tensor> = inputs
        .iter()
        .map(|t| {
            if differentiable(t) {
                t.variable()
            } else {
                t.clone()
            }
        })
        .collect();
    let wanted: Vec<&Tensor> = variables.iter().filter(|t| differentiable(t)).collect();
    let output = f(&variables)?;
    let gradients = if output.is_recorded() {
        grad(&[&output], None, &wanted, false)?
    } else {
        vec![None; wanted.len()]
    };
    let mut gradients = gradients.into_iter();
    for (which, input) in inputs.iter().enumerate() {
        if !differentiable(input) {
            continue;
        }
        let analytic = match gradients.next().flatten() {
            Some(g) if g.shape() != input.shape() => {
                let shapes = [g.shape(), input.shape()];
                return Err(Error::shape(
                    "grad_check",
                    &shapes,
                    "gradient and input differ",
                ));
            }
            Some(g) => g.to_f64_vec()?,
            None => vec![0.0; input.elements()],
        };
        let at = input.to_f64_vec()?;
        for (i, &expected) in analytic.iter().enumerate() {
            let shifted = |delta: f64| -> Result<f64> {
                let mut moved = at.clone();
                moved[i] += delta;
                let mut all = inputs.to_vec();
                all[which] = Tensor::from_slice(&moved, input.shape())?;
                f(&all)?.item()
            };
            let numeric = (shifted(options.step)? - shifted(-options.step)?) / (2.0 * options.step);
            let allowed = options.absolute + options.relative * numeric.abs().max(expected.abs());
            let error = (expected - numeric).abs();
            if error > allowed || error.is_nan() {
                return Err(Error::op(
                    "grad_check",
                    format!(
                        "{what}: input {which}, element {i}: rule gives {expected:e}, \
                         finite differences {numeric:e}"
                    ),
                ));
            }
        }
    }
    Ok(())
}
