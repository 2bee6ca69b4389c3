//! Stains by sparse non-negative matrix factors of optical densities.

use super::macenko::Fit;
use super::{FEWEST, densities, stained};

/// Weight of the amounts' sum beside the squared error (lambda of the paper).
const SPARSE: f64 = 0.1;
/// Pixels that are factored, evenly spread; more change the colours by little.
const MOST: usize = 20_000;
/// Rounds of amounts and colours by turns.
const ROUNDS: usize = 50;

/// Fits pixels; `None` without two stains. Starts from usual colours of
/// haematoxylin and eosin, so that a fit has no randomness.
pub fn fit(pixels: &[u8]) -> Option<Fit> {
    let all = stained(pixels);
    if all.len() < FEWEST {
        return None;
    }
    let step = all.len().div_ceil(MOST);
    let density = densities();
    let densities: Vec<[f64; 3]> = (all.into_iter().step_by(step))
        .map(|p| p.map(|v| density[usize::from(v)]))
        .collect();
    let reference = Fit::reference().stains;
    let mut stains: [[f64; 3]; 2] =
        std::array::from_fn(|s| unit(std::array::from_fn(|c| reference[c][s])));
    for _ in 0..ROUNDS {
        // Sums over pixels of amount x amount and of amount x density.
        let mut between = [[0.0; 2]; 2];
        let mut towards = [[0.0; 3]; 2];
        for d in &densities {
            let amount = amounts(&stains, d);
            for s in 0..2 {
                for t in 0..2 {
                    between[s][t] += amount[s] * amount[t];
                }
                for c in 0..3 {
                    towards[s][c] += amount[s] * d[c];
                }
            }
        }
        // One pass of block coordinate descent over the colours (Mairal et al. 2010).
        for s in 0..2 {
            if between[s][s] <= 1e-9 {
                return None; // a stain that no pixel has
            }
            let other = stains[1 - s];
            stains[s] = unit(std::array::from_fn(|c| {
                ((towards[s][c] - between[s][1 - s] * other[c]) / between[s][s]).max(0.0)
            }));
        }
    }
    Fit::of(stains[0], stains[1], pixels)
}

fn unit(v: [f64; 3]) -> [f64; 3] {
    let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
    v.map(|x| x / norm.max(1e-12))
}

/// The amounts (a, b) >= 0 that minimise |d - a s0 - b s1|^2 / 2 + lambda (a + b):
/// both, or one alone, whichever the conditions allow.
fn amounts(stains: &[[f64; 3]; 2], d: &[f64; 3]) -> [f64; 2] {
    let dot = |a: &[f64; 3], b: &[f64; 3]| -> f64 { (0..3).map(|c| a[c] * b[c]).sum() };
    let cross = dot(&stains[0], &stains[1]);
    let p = [dot(&stains[0], d) - SPARSE, dot(&stains[1], d) - SPARSE];
    let determinant = 1.0 - cross * cross;
    let a = (p[0] - cross * p[1]) / determinant;
    let b = (p[1] - cross * p[0]) / determinant;
    if determinant > 1e-9 && a >= 0.0 && b >= 0.0 {
        [a, b]
    } else if p[0] > p[1] {
        [p[0].max(0.0), 0.0]
    } else {
        [0.0, p[1].max(0.0)]
    }
}
