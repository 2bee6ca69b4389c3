//! Places in a plane for plots, by UMAP: McInnes, Healy and Melville 2018, "UMAP: Uniform
//! manifold approximation and projection for dimension reduction" (arXiv 1802.03426v3).
//!
//! | paper | here |
//! |---|---|
//! | nearest neighbours, exact instead of algorithm 5's approximation | `neighbours` |
//! | local metric and fuzzy sets, section 3.1, algorithms 2 and 3 | `memberships` |
//! | union of fuzzy sets, a + b - a b, section 3.1 | `graph` |
//! | Psi, fitted for min-dist 0.1, definition 11 | `A`, `B` |
//! | forces and negative samples, section 3.2 and algorithm 6 | `optimise` |
//!
//! Points start from their first two principal components, not from a spectral embedding
//! (algorithm 4): Kobak and Linderman 2021 found the two alike. Distances in such a plane say
//! who is near whom, not how far groups are apart.

use rayon::prelude::*;

use super::ensure_matrix;
use super::pca::Pca;
use crate::error::{Error, Result};
use crate::ops;
use crate::random::Philox;
use crate::tensor::Tensor;

/// Neighbours of a point that count, as the authors' default.
const NEIGHBOURS: usize = 15;
/// Rounds of the optimisation.
const EPOCHS: usize = 300;
/// Points that push a point away for each that pulls it.
const NEGATIVES: usize = 5;
/// 1 / (1 + a d^2b) is nearest to 1 up to 0.1 and e^-(d - 0.1) from there on.
const A: f64 = 1.576_943_46;
const B: f64 = 0.895_060_88;
/// The most that a coordinate moves by one force, before the step size.
const MOST: f64 = 4.0;
/// Side of the square in which points start.
const SIDE: f64 = 10.0;

/// A pair of points and how strongly they belong together, in (0, 1].
type Edge = (usize, usize, f64);

/// Places (samples, 2) of row-major (samples, dims) values. The same seed gives the same places.
///
/// # Errors
/// Fewer than four samples; values that are not finite; samples that do not differ in two
/// directions.
pub fn umap(values: &[f32], dims: usize, seed: u64) -> Result<Vec<f64>> {
    let n = values.len() / dims.max(1);
    ensure_matrix("UMAP", values, n, dims)?;
    if n < 4 {
        return Err(Error::usage(
            format!("{n} samples have no neighbourhoods"),
            "give at least four",
        ));
    }
    let mut places = Pca::fit(values, dims, 2)?.project(values)?;
    let largest = places.iter().fold(0.0f64, |a, v| a.max(v.abs()));
    places.iter_mut().for_each(|v| *v *= SIDE / 2.0 / largest);
    let edges = graph(&memberships(&neighbours(values, n, dims)?));
    optimise(&mut places, &edges, Philox::fork(seed, "UMAP"));
    Ok(places)
}

/// Of each point its nearest others and their distances, nearest first.
fn neighbours(values: &[f32], n: usize, dims: usize) -> Result<Vec<Vec<(usize, f64)>>> {
    let k = NEIGHBOURS.min(n - 1);
    let all: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
    let all = Tensor::from_slice(&all, &[n, dims])?;
    // Some rows at a time, so that there is never a table of all pairs.
    const ROWS: usize = 256;
    let squares: Vec<f64> = ops::sum(&ops::mul(&all, &all)?, &[1], false)?.to_f64_vec()?;
    let turned = ops::transpose(&all, 0, 1)?;
    let mut found = Vec::with_capacity(n);
    for first in (0..n).step_by(ROWS) {
        let rows = ROWS.min(n - first);
        let products = ops::matmul(&ops::slice(&all, 0, first, rows)?, &turned)?.to_f64_vec()?;
        let nearest = |(r, products): (usize, &[f64])| {
            let i = first + r;
            let square = |j: usize| (squares[i] + squares[j] - 2.0 * products[j]).max(0.0);
            let mut others: Vec<(usize, f64)> = (0..n)
                .filter(|&j| j != i)
                .map(|j| (j, square(j).sqrt()))
                .collect();
            let order =
                |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0));
            others.select_nth_unstable_by(k - 1, order);
            others.truncate(k);
            others.sort_by(order);
            others
        };
        found.par_extend(products.par_chunks(n).enumerate().map(nearest));
    }
    Ok(found)
}

/// Of each point how much its neighbours belong to it: 1 for the nearest, falling so that all
/// together are log2 of their number.
fn memberships(neighbours: &[Vec<(usize, f64)>]) -> Vec<Vec<(usize, f64)>> {
    let of = |near: &Vec<(usize, f64)>| -> Vec<(usize, f64)> {
        let nearest = near.iter().map(|p| p.1).find(|&d| d > 0.0).unwrap_or(0.0);
        let member = |d: f64, scale: f64| (-(d - nearest).max(0.0) / scale).exp();
        let wanted = (near.len() as f64).log2();
        let (mut low, mut high, mut scale) = (0.0, f64::INFINITY, 1.0);
        for _ in 0..64 {
            let total: f64 = near.iter().map(|p| member(p.1, scale)).sum();
            if total > wanted {
                high = scale;
                scale = (low + high) / 2.0;
            } else {
                low = scale;
                scale = if high.is_finite() {
                    (low + high) / 2.0
                } else {
                    2.0 * low
                };
            }
        }
        // Where more than log2 k are nearest, no scale gives that sum.
        let mean = near.iter().map(|p| p.1).sum::<f64>() / near.len().max(1) as f64;
        let scale = scale.max(1e-3 * mean).max(f64::MIN_POSITIVE);
        near.iter().map(|&(j, d)| (j, member(d, scale))).collect()
    };
    neighbours.iter().map(of).collect()
}

/// The union of all points' fuzzy sets, each pair once.
fn graph(memberships: &[Vec<(usize, f64)>]) -> Vec<Edge> {
    let mut directed: Vec<Edge> = Vec::new();
    for (i, near) in memberships.iter().enumerate() {
        directed.extend(near.iter().map(|&(j, w)| (i.min(j), i.max(j), w)));
    }
    directed.sort_by_key(|a| (a.0, a.1));
    let mut edges: Vec<Edge> = Vec::with_capacity(directed.len());
    for (i, j, w) in directed {
        match edges.last_mut() {
            Some(last) if (last.0, last.1) == (i, j) => last.2 += w - last.2 * w,
            _ => edges.push((i, j, w)),
        }
    }
    edges
}

/// Moves points that belong together towards each other, and each away from random ones, in
/// steps that become smaller. An edge takes part in a share of the rounds that is its weight.
fn optimise(places: &mut [f64], edges: &[Edge], mut random: Philox) {
    let n = places.len() / 2;
    let mut due: Vec<f64> = vec![0.0; edges.len()];
    for epoch in 0..EPOCHS {
        let step = 1.0 - epoch as f64 / EPOCHS as f64;
        for (&(i, j, weight), due) in edges.iter().zip(&mut due) {
            *due += weight;
            if *due < 1.0 {
                continue;
            }
            *due -= 1.0;
            for (head, tail) in [(i, j), (j, i)] {
                let pull = |square: f64| {
                    let power = square.powf(B);
                    match square > 0.0 {
                        true => -2.0 * A * B * power / square / (1.0 + A * power),
                        false => 0.0,
                    }
                };
                let moved = force(places, [head, tail], pull);
                for axis in 0..2 {
                    places[2 * head + axis] += step * moved[axis];
                }
                for _ in 0..NEGATIVES {
                    let other = random.below(n);
                    if other == head {
                        continue;
                    }
                    let push =
                        |square: f64| 2.0 * B / (0.001 + square) / (1.0 + A * square.powf(B));
                    let moved = force(places, [head, other], push);
                    for axis in 0..2 {
                        places[2 * head + axis] += step * moved[axis];
                    }
                }
            }
        }
    }
}

/// What moves the first point: `along` of the squared distance, times the difference.
fn force(places: &[f64], [head, other]: [usize; 2], along: impl Fn(f64) -> f64) -> [f64; 2] {
    let apart = [0, 1].map(|axis| places[2 * head + axis] - places[2 * other + axis]);
    let size = along(apart[0] * apart[0] + apart[1] * apart[1]);
    apart.map(|v| (size * v).clamp(-MOST, MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three clouds of 40 points in 20 dimensions, their centres 12 apart, deviation 1.
    fn clouds() -> Vec<f32> {
        let mut values = vec![0.0f32; 120 * 20];
        Philox::new(3).fill_normal(&mut values, 0.0, 1.0);
        for (i, row) in values.chunks_mut(20).enumerate() {
            row[i / 40] += 8.5;
        }
        values
    }

    #[test]
    fn clouds_that_are_apart_stay_apart() -> Result<()> {
        let places = umap(&clouds(), 20, 1)?;
        let square = |i: usize, j: usize| {
            let along = |axis: usize| places[2 * i + axis] - places[2 * j + axis];
            along(0).powi(2) + along(1).powi(2)
        };
        for i in 0..120 {
            let others = || (0..120).filter(move |&j| j != i);
            let near = others().min_by(|&a, &b| square(i, a).total_cmp(&square(i, b)));
            assert_eq!(near.map(|j| j / 40), Some(i / 40), "neighbour of {i}");
        }
        // And more clearly than the first two principal components have them.
        let separation = |places: &[f64]| {
            let centre = |c: usize, axis: usize| {
                let all = places.chunks(2).skip(40 * c).take(40);
                all.map(|p| p[axis]).sum::<f64>() / 40.0
            };
            let spread = |c: usize| {
                let all = places.chunks(2).skip(40 * c).take(40);
                let squares =
                    all.map(|p| (0..2).map(|a| (p[a] - centre(c, a)).powi(2)).sum::<f64>());
                (squares.sum::<f64>() / 40.0).sqrt()
            };
            let apart = |c: usize, d: usize| {
                (0..2)
                    .map(|a| (centre(c, a) - centre(d, a)).powi(2))
                    .sum::<f64>()
                    .sqrt()
            };
            let widest = (0..3).map(spread).fold(0.0, f64::max);
            [(0, 1), (0, 2), (1, 2)]
                .map(|(c, d)| apart(c, d))
                .into_iter()
                .fold(f64::INFINITY, f64::min)
                / widest
        };
        let plain = Pca::fit(&clouds(), 20, 2)?.project(&clouds())?;
        assert!(
            separation(&places) > separation(&plain),
            "{} {}",
            separation(&places),
            separation(&plain)
        );
        Ok(())
    }

    #[test]
    fn the_seed_decides() -> Result<()> {
        let values = clouds();
        assert_eq!(umap(&values, 20, 7)?, umap(&values, 20, 7)?);
        assert_ne!(umap(&values, 20, 7)?, umap(&values, 20, 8)?);
        Ok(())
    }

    #[test]
    fn memberships_add_up_and_sets_unite() {
        let near: Vec<(usize, f64)> = (1..9).map(|j| (j, 0.5 + j as f64)).collect();
        let members = &memberships(&[near])[0];
        assert!((members[0].1 - 1.0).abs() < 1e-12, "the nearest");
        let total: f64 = members.iter().map(|m| m.1).sum();
        assert!((total - 3.0).abs() < 1e-6, "{total}");
        assert!(members.windows(2).all(|pair| pair[0].1 > pair[1].1));

        let edges = graph(&[vec![(1, 0.5)], vec![(0, 0.4), (2, 1.0)], vec![]]);
        assert_eq!(edges.len(), 2);
        assert!((edges[0].2 - 0.7).abs() < 1e-12, "0.5 + 0.4 - 0.2");
        assert_eq!(edges[1], (1, 2, 1.0));
    }

    #[test]
    fn copies_are_no_division_by_zero_and_few_are_refused() -> Result<()> {
        let mut values = clouds();
        let first = values[..20].to_vec();
        (1..30).for_each(|i| values[20 * i..][..20].copy_from_slice(&first));
        assert!(umap(&values, 20, 1)?.iter().all(|v| v.is_finite()));
        assert!(umap(&values[..60], 20, 1).is_err());
        Ok(())
    }
}
