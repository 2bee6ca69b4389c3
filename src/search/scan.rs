//! The nearest vectors, exactly.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::file::{FACTS, Index, Metric, length, prepared};
use crate::error::{Error, Result};

/// A vector and its distance from what was looked for: 1 - cosine, or Euclidean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    pub vector: usize,
    pub distance: f64,
}

/// Vectors that a thread takes at a time.
const BLOCK: usize = 2048;

/// What the halves say of a vector: its key lies between these. A key is a distance but
/// for what all vectors of a query share.
#[derive(Clone, Copy)]
struct Bounds {
    low: f32,
    high: f32,
    vector: u32,
}

impl Index {
    /// The `count` vectors nearest to `query` of those that `allowed` holds for, nearest
    /// first; of equal ones the first. Distances are those of the stored single
    /// precision, summed in f64, whatever the half precision rounded.
    ///
    /// # Errors
    /// A query of another width or with values that are not finite; only zeros, for the
    /// cosine.
    pub fn nearest(
        &self,
        query: &[f32],
        count: usize,
        allowed: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<Vec<Found>> {
        self.check(query)?;
        let query = prepared(self.metric, query);
        let mut bounds: Vec<Bounds> = self.scan(&query, count, allowed);
        if bounds.len() > count && count > 0 {
            // Whoever's best is beyond the worst of the `count`-th is not among them.
            let mut highs: Vec<f32> = bounds.iter().map(|b| b.high).collect();
            let (_, &mut limit, _) = highs.select_nth_unstable_by(count - 1, f32::total_cmp);
            bounds.retain(|b| b.low <= limit);
        }
        let mut found: Vec<Found> = bounds
            .par_iter()
            .map(|b| Found {
                vector: b.vector as usize,
                distance: self.distance(&query, b.vector as usize),
            })
            .collect();
        found.sort_by(|a, b| {
            a.distance
                .total_cmp(&b.distance)
                .then(a.vector.cmp(&b.vector))
        });
        found.truncate(count);
        Ok(found)
    }

    fn check(&self, query: &[f32]) -> Result<()> {
        if query.len() != self.width {
            return Err(Error::file(
                self.path(),
                "",
                format!(
                    "holds vectors of {}, and {} are looked for",
                    self.width,
                    query.len()
                ),
                "search with vectors of the model that the index was built with",
            ));
        }
        let length = length(query);
        if !length.is_finite() || (self.metric == Metric::Cosine && length == 0.0) {
            return Err(Error::usage(
                "the vector that is looked for is zero or not finite",
                "look at the model that made it",
            ));
        }
        Ok(())
    }

    /// Distance of a query that is prepared from a vector.
    fn distance(&self, query: &[f32], vector: usize) -> f64 {
        let pairs = query.iter().zip(self.vector(vector));
        match self.metric {
            Metric::Cosine => {
                1.0 - pairs
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum::<f64>()
            }
            Metric::L2 => {
                let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
                pairs.map(square).sum::<f64>().sqrt()
            }
        }
    }

    /// Bounds of every vector that may be among the nearest `count`.
    fn scan(
        &self,
        query: &[f32],
        count: usize,
        allowed: &(dyn Fn(usize) -> bool + Sync),
    ) -> Vec<Bounds> {
        let width = self.width;
        // Rounded up, and with room for the roundings of the bounds themselves.
        let length = length(query) as f32 * 1.000_001;
        let summed = (width + 8) as f32 * f32::EPSILON;
        let part = |(block, halves): (usize, &[f16])| {
            let first = block * BLOCK;
            let mut dots = vec![0.0f32; halves.len() / width];
            products(query, halves, &mut dots);
            let facts = self.facts().chunks_exact(FACTS).skip(first);
            let mut best: Vec<Bounds> = Vec::new();
            for (i, (dot, facts)) in dots.iter().zip(facts).enumerate() {
                let &[scale, lost, size, _] = facts else {
                    continue;
                };
                if !allowed(first + i) {
                    continue;
                }
                let dot = dot * scale;
                let slack = length * (lost + summed * size);
                let (low, high) = match self.metric {
                    Metric::Cosine => (-dot - slack, -dot + slack),
                    // |q - x|^2 but for |q|^2; |x| is exact to two roundings.
                    Metric::L2 => {
                        let (key, slack) =
                            (size * size - 2.0 * dot, 2.0 * slack + size * size * 1e-6);
                        (key - slack, key + slack)
                    }
                };
                best.push(Bounds {
                    low,
                    high,
                    vector: (first + i) as u32,
                });
            }
            // What the block's own nearest rule out need not be kept.
            if count > 0 && best.len() > count {
                let mut highs: Vec<f32> = best.iter().map(|b| b.high).collect();
                let (_, &mut limit, _) = highs.select_nth_unstable_by(count - 1, f32::total_cmp);
                best.retain(|b| b.low <= limit);
            }
            best
        };
        let blocks = self.halves().par_chunks(BLOCK * width).enumerate();
        blocks.flat_map_iter(part).collect()
    }
}

/// The product of `query` with each row of `halves`.
fn products(query: &[f32], halves: &[f16], dots: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("f16c")
    {
        // SAFETY: the processor has what it is compiled for.
        return unsafe { products_avx2(query, halves, dots) };
    }
    let mut row = vec![0.0; query.len()];
    for (halves, dot) in halves.chunks_exact(query.len()).zip(dots) {
        halves.convert_to_f32_slice(&mut row);
        *dot = row.iter().zip(query).map(|(a, b)| a * b).sum();
    }
}

/// Four sums of eight at a time: the reading of memory is what this waits for.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn products_avx2(query: &[f32], halves: &[f16], dots: &mut [f32]) {
    use std::arch::x86_64::{
        _mm_loadu_si128, _mm256_add_ps, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_setzero_ps, _mm256_storeu_ps,
    };
    for (row, dot) in halves.chunks_exact(query.len()).zip(dots) {
        let mut sums = [_mm256_setzero_ps(); 4];
        let (rows, queries) = (row.chunks_exact(32), query.chunks_exact(32));
        let rest = rows.remainder().iter().zip(queries.remainder());
        let rest: f32 = rest.map(|(a, b)| a.to_f32() * b).sum();
        for (row, query) in rows.zip(queries) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: both chunks have 32 elements, and 8 i + 8 is at most 32.
                unsafe {
                    let row = _mm256_cvtph_ps(_mm_loadu_si128(row.as_ptr().add(8 * i).cast()));
                    let query = _mm256_loadu_ps(query.as_ptr().add(8 * i));
                    *sum = _mm256_fmadd_ps(row, query, *sum);
                }
            }
        }
        let sum = _mm256_add_ps(
            _mm256_add_ps(sums[0], sums[1]),
            _mm256_add_ps(sums[2], sums[3]),
        );
        let mut lanes = [0.0f32; 8];
        // SAFETY: it writes eight elements.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
        *dot = lanes.iter().sum::<f32>() + rest;
    }
}
