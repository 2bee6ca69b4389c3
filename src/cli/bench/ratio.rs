//! How the times of a bench in two baselines compare.
//!
//! The figure is the ratio of the medians: a sample that something else on the
//! machine interrupted moves a mean, but not a median. Its confidence interval is
//! a percentile bootstrap over the saved samples (Efron 1979) and not a
//! combination of the two intervals in criterion's `estimates.json`: those are
//! of each baseline alone, and to join them one would have to assume that the
//! times are normal, which interrupted ones are not.
//!
//! The interval knows how much samples of one run differ. It cannot know how
//! much runs differ (clock, temperature, neighbours): that is what the threshold
//! is for.

use std::fmt;

use serde::Serialize;

use crate::random::Philox;

/// The resampling is seeded with it and the bench's name, so that a bench's
/// interval does not depend on which others are compared.
pub const SEED: u64 = 0;
pub const RESAMPLES: usize = 10_000;
pub const CONFIDENCE: f64 = 0.95;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Faster,
    Slower,
    Same,
    TooNoisy,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Faster => "faster",
            Self::Slower => "SLOWER",
            Self::Same => "same",
            Self::TooNoisy => "too noisy",
        })
    }
}

/// A median and its confidence interval, in nanoseconds or as a ratio.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Median {
    pub median: f64,
    pub lower: f64,
    pub upper: f64,
}

#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    pub base: Median,
    pub new: Median,
    /// Time of new over time of base.
    pub ratio: Median,
}

impl Comparison {
    /// Of the nanoseconds in the samples of both, which are positive and not empty.
    pub fn new(bench: &str, base: &[f64], new: &[f64]) -> Self {
        let mut random = Philox::fork(SEED, bench);
        let base = Bootstrap::new(base, &mut random);
        let new = Bootstrap::new(new, &mut random);
        let ratios = (new.medians.iter().zip(&base.medians)).map(|(n, b)| n / b);
        Self {
            ratio: interval(new.median / base.median, ratios.collect()),
            base: interval(base.median, base.medians),
            new: interval(new.median, new.medians),
        }
    }

    /// `threshold` is a fraction: with 0.05 new is slower when the whole interval
    /// is above 1.05, faster when it is below 1 / 1.05, and the same when it is
    /// between the two. Exchanging base and new exchanges the verdicts.
    pub fn verdict(&self, threshold: f64) -> Verdict {
        let above = 1.0 + threshold;
        let below = 1.0 / above;
        let Median { lower, upper, .. } = self.ratio;
        if lower > above {
            Verdict::Slower
        } else if upper < below {
            Verdict::Faster
        } else if below <= lower && upper <= above {
            Verdict::Same
        } else {
            Verdict::TooNoisy
        }
    }
}

/// The median of a sample, and those of its resamples.
struct Bootstrap {
    median: f64,
    medians: Vec<f64>,
}

impl Bootstrap {
    fn new(sample: &[f64], random: &mut Philox) -> Self {
        let mut drawn = vec![0.0; sample.len()];
        let medians = (0..RESAMPLES).map(|_| {
            drawn.fill_with(|| sample[random.below(sample.len())]);
            median(&mut drawn)
        });
        Self {
            medians: medians.collect(),
            median: median(&mut sample.to_vec()),
        }
    }
}

fn interval(median: f64, mut resampled: Vec<f64>) -> Median {
    resampled.sort_unstable_by(f64::total_cmp);
    let cut = (resampled.len() as f64 * (1.0 - CONFIDENCE) / 2.0) as usize;
    Median {
        median,
        lower: resampled[cut],
        upper: resampled[resampled.len() - 1 - cut],
    }
}

/// Of at least one value, which it sorts.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 samples around `centre` with a relative standard deviation.
    fn sample(random: &mut Philox, centre: f64, deviation: f32) -> Vec<f64> {
        let mut noise = [0.0f32; 10];
        random.fill_normal(&mut noise, 0.0, deviation);
        noise.map(|n| centre * (1.0 + f64::from(n))).to_vec()
    }

    #[test]
    fn verdicts_follow_the_interval() {
        let verdict = |lower, upper| {
            let ratio = Median {
                median: 1.0,
                lower,
                upper,
            };
            let (base, new) = (ratio, ratio);
            Comparison { base, new, ratio }.verdict(0.05)
        };
        assert_eq!(verdict(1.06, 1.2), Verdict::Slower);
        assert_eq!(verdict(1.04, 1.2), Verdict::TooNoisy);
        assert_eq!(verdict(0.97, 1.03), Verdict::Same);
        assert_eq!(verdict(0.9, 0.97), Verdict::TooNoisy);
        assert_eq!(verdict(0.8, 0.9), Verdict::Faster);
        assert_eq!(verdict(0.8, 1.2), Verdict::TooNoisy);
    }

    #[test]
    fn two_samples_of_the_same_time_are_seldom_called_different() {
        let mut random = Philox::new(1);
        let verdicts: Vec<Verdict> = (0..200)
            .map(|i| {
                let base = sample(&mut random, 1e6, 0.03);
                let new = sample(&mut random, 1e6, 0.03);
                Comparison::new(&format!("bench {i}"), &base, &new).verdict(0.05)
            })
            .collect();
        let wrong = |v: &&Verdict| matches!(v, Verdict::Slower | Verdict::Faster);
        assert_eq!(verdicts.iter().filter(wrong).count(), 0);
        let same = verdicts.iter().filter(|v| **v == Verdict::Same).count();
        assert!(same > 120, "{same} of 200 are the same");
    }

    /// At least 90 % of the intervals hold the true ratio. A percentile bootstrap
    /// of 10 samples is a little narrow, so less than 95 % is expected.
    #[test]
    fn intervals_cover_the_true_ratio() {
        let mut random = Philox::new(2);
        let covered = (0..400).filter(|i| {
            let base = sample(&mut random, 500.0, 0.05);
            let new = sample(&mut random, 560.0, 0.05);
            let ratio = Comparison::new(&format!("bench {i}"), &base, &new).ratio;
            (ratio.lower..=ratio.upper).contains(&1.12)
        });
        let covered = covered.count();
        assert!(covered >= 360, "{covered} of 400");
    }

    #[test]
    fn a_bench_compares_the_same_whatever_runs_beside_it() {
        let mut random = Philox::new(3);
        let (base, new) = (sample(&mut random, 1.0, 0.1), sample(&mut random, 1.0, 0.1));
        let once = Comparison::new("a", &base, &new).ratio;
        let again = Comparison::new("a", &base, &new).ratio;
        assert_eq!(once.lower.to_bits(), again.lower.to_bits());
        assert_eq!(once.upper.to_bits(), again.upper.to_bits());
    }

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
