//! k-means by Lloyd's iterations (Lloyd 1982), in f64.
//!
//! Distances are computed in parallel, one point at a time; sums go through the
//! points in order. So the result is the same for any number of threads.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::random::Philox;

/// Iterations that are enough for anything that is found here.
pub const ITERATIONS: usize = 300;

/// The share of the mean variance of the columns that the centres' squared shift
/// must stay under to stop.
const TOLERANCE: f64 = 1e-4;

/// Where the centres start.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// k-means++ (Arthur and Vassilvitskii 2007): each next centre is a point drawn
    /// with the squared distance to the nearest centre as its weight.
    PlusPlus(Philox),
    /// These points, by index.
    Points(&'a [usize]),
}

/// What [`kmeans`] finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Clusters {
    /// The nearest centre of each point; of equal ones the first.
    pub labels: Vec<usize>,
    /// (k, columns)
    pub centres: Vec<f64>,
    /// The sum of the points' squared distances to their centres.
    pub inertia: f64,
    pub iterations: usize,
    /// How often a cluster without points was moved to the point that was farthest
    /// from its centre.
    pub reseeded: usize,
}

/// Cuts `points` (n, columns), row-major, into k clusters, in at most so many
/// `iterations`. A cluster stays empty only where there are fewer than k different
/// points.
///
/// # Errors
/// Fewer than k points, none at all, values that are not finite, starts that are not
/// k points.
pub fn kmeans(
    points: &[f32],
    columns: usize,
    k: usize,
    start: Start,
    iterations: usize,
) -> Result<Clusters> {
    let n = points.len().checked_div(columns).unwrap_or(0);
    if n == 0 || n * columns != points.len() || k == 0 || k > n {
        let problem = format!("{n} points of {columns} numbers make no {k} clusters");
        return Err(Error::usage(
            problem,
            "give at least as many points as clusters",
        ));
    }
    if let Some(at) = points.iter().position(|v| !v.is_finite()) {
        return Err(Error::usage(
            format!(
                "point {} has {} in column {}",
                at / columns,
                points[at],
                at % columns
            ),
            "leave out what is not a number",
        ));
    }
    let points = Points {
        values: points,
        columns,
    };
    let starts = match start {
        Start::PlusPlus(random) => plus_plus(&points, k, random),
        Start::Points(given) if given.len() == k && given.iter().all(|&i| i < n) => given.to_vec(),
        Start::Points(given) => {
            let problem = format!("{given:?} do not start {k} clusters of {n} points");
            return Err(Error::usage(problem, "give one point for each cluster"));
        }
    };
    let mut centres: Vec<f64> = (starts.iter())
        .flat_map(|&i| points.row(i).iter().map(|&v| f64::from(v)))
        .collect();
    let tolerance = TOLERANCE * points.mean_variance();
    let (mut labels, mut reseeded) = (Vec::new(), 0);
    for iteration in 1..=iterations {
        let nearest = points.nearest(&centres);
        let before = std::mem::replace(&mut labels, nearest.iter().map(|p| p.0).collect());
        let mut next = points.means(&labels, &centres);
        let moved = reseed(&points, &nearest, &labels, &mut next);
        reseeded += moved;
        let shift = squared(&centres, &next);
        centres = next;
        if moved == 0 && (labels == before || shift <= tolerance) {
            return Ok(finished(&points, centres, iteration, reseeded));
        }
    }
    Ok(finished(&points, centres, iterations, reseeded))
}

fn finished(points: &Points, centres: Vec<f64>, iterations: usize, reseeded: usize) -> Clusters {
    let nearest = points.nearest(&centres);
    Clusters {
        labels: nearest.iter().map(|p| p.0).collect(),
        inertia: nearest.iter().map(|p| p.1).sum(),
        centres,
        iterations,
        reseeded,
    }
}

struct Points<'a> {
    values: &'a [f32],
    columns: usize,
}

impl Points<'_> {
    fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.columns..(i + 1) * self.columns]
    }

    fn len(&self) -> usize {
        self.values.len() / self.columns
    }

    fn distance(&self, i: usize, centre: &[f64]) -> f64 {
        let terms = self.row(i).iter().zip(centre);
        terms.map(|(&v, c)| (f64::from(v) - c).powi(2)).sum()
    }

    /// Each point's nearest centre and the squared distance to it.
    fn nearest(&self, centres: &[f64]) -> Vec<(usize, f64)> {
        let of = |i| {
            let all = centres.chunks_exact(self.columns).enumerate();
            all.map(|(c, centre)| (c, self.distance(i, centre)))
                .fold((0, f64::INFINITY), |a, b| if b.1 < a.1 { b } else { a })
        };
        (0..self.len()).into_par_iter().map(of).collect()
    }

    /// The mean of each cluster's points; where there are none, its centre.
    fn means(&self, labels: &[usize], centres: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; centres.len()];
        let mut counts = vec![0usize; centres.len() / self.columns];
        for (i, &label) in labels.iter().enumerate() {
            counts[label] += 1;
            let sum = &mut sums[label * self.columns..(label + 1) * self.columns];
            (sum.iter_mut().zip(self.row(i))).for_each(|(s, &v)| *s += f64::from(v));
        }
        let clusters = sums.chunks_exact_mut(self.columns).zip(&counts);
        for ((sum, &count), old) in clusters.zip(centres.chunks_exact(self.columns)) {
            match count {
                0 => sum.copy_from_slice(old),
                _ => sum.iter_mut().for_each(|s| *s /= count as f64),
            }
        }
        sums
    }

    fn mean_variance(&self) -> f64 {
        let n = self.len() as f64;
        let (mut means, mut squares) = (vec![0.0; self.columns], vec![0.0; self.columns]);
        for i in 0..self.len() {
            (means.iter_mut().zip(self.row(i))).for_each(|(m, &v)| *m += f64::from(v) / n);
        }
        for i in 0..self.len() {
            for ((s, &v), m) in squares.iter_mut().zip(self.row(i)).zip(&means) {
                *s += (f64::from(v) - m).powi(2) / n;
            }
        }
        squares.iter().sum::<f64>() / self.columns as f64
    }
}

fn squared(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// Moves each cluster without points to the point that is farthest from its centre
/// and was not taken yet; returns how many were moved.
fn reseed(
    points: &Points,
    nearest: &[(usize, f64)],
    labels: &[usize],
    centres: &mut [f64],
) -> usize {
    let k = centres.len() / points.columns;
    let mut full = vec![false; k];
    labels.iter().for_each(|&l| full[l] = true);
    let empty: Vec<usize> = (0..k).filter(|&c| !full[c]).collect();
    if empty.is_empty() {
        return 0;
    }
    let mut order: Vec<usize> = (0..points.len()).filter(|&i| nearest[i].1 > 0.0).collect();
    order.sort_by(|&a, &b| nearest[b].1.total_cmp(&nearest[a].1).then(a.cmp(&b)));
    let mut taken: Vec<usize> = Vec::new();
    for &i in &order {
        if taken.len() == empty.len() {
            break;
        }
        // A point like one that was taken would leave its cluster empty again.
        if taken.iter().all(|&t| points.row(t) != points.row(i)) {
            taken.push(i);
        }
    }
    for (&c, &i) in empty.iter().zip(&taken) {
        let centre = &mut centres[c * points.columns..(c + 1) * points.columns];
        (centre.iter_mut().zip(points.row(i))).for_each(|(c, &v)| *c = f64::from(v));
    }
    taken.len()
}

fn plus_plus(points: &Points, k: usize, mut random: Philox) -> Vec<usize> {
    let n = points.len();
    let mut starts = vec![random.below(n)];
    let mut distances = vec![f64::INFINITY; n];
    while starts.len() < k {
        let last = starts[starts.len() - 1];
        let centre: Vec<f64> = points.row(last).iter().map(|&v| f64::from(v)).collect();
        (distances.par_iter_mut().enumerate())
            .for_each(|(i, d)| *d = d.min(points.distance(i, &centre)));
        let total: f64 = distances.iter().sum();
        let mut unit = [0.0f32];
        random.fill_uniform(&mut unit, 0.0, 1.0);
        let mut left = f64::from(unit[0]) * total;
        let drawn = distances.iter().position(|&d| {
            left -= d;
            d > 0.0 && left < 0.0
        });
        // Without another point that differs, any that is not a start.
        let other = || (0..n).find(|i| !starts.contains(i));
        let farthest = || (0..n).rev().find(|&i| distances[i] > 0.0);
        starts.push(drawn.or_else(farthest).or_else(other).unwrap_or(0));
    }
    starts
}
