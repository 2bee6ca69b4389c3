//! Fisher's exact test of a 2 by 2 table, and the conditional odds ratio.
//!
//! Given its margins, the first cell follows a hypergeometric distribution (a
//! noncentral one where the odds ratio is not 1). Its logarithmic weights are
//! summed up from the mode outwards, where they are largest.

use crate::error::{Error, Result};

/// Counts `[[a, b], [c, d]]`.
pub type Table = [[u64; 2]; 2];

/// P-values of Fisher's exact test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FisherExact {
    /// Sample odds ratio ad / bc: infinite where bc = 0, NaN where a row or a
    /// column is empty.
    pub odds_ratio: f64,
    /// Of all tables at most as likely as this one.
    pub two_sided: f64,
    /// Of a first cell at least this large.
    pub greater: f64,
    /// Of a first cell at most this large.
    pub less: f64,
}

/// The conditional maximum likelihood estimate of the odds ratio with its
/// exact confidence interval (Cornfield), as R's `fisher.test` reports it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConditionalOddsRatio {
    /// 0 or infinite where the first cell is as small or large as the margins
    /// allow; NaN where a row or a column is empty.
    pub estimate: f64,
    pub lower: f64,
    pub upper: f64,
}

/// Tables no further apart than this in probability count as equally likely,
/// as in R: rounding must not decide whether a mirror image is counted.
const EQUALLY_LIKELY: f64 = 1.0 + 1e-7;

/// Most values of the first cell that are enumerated.
const MOST_CELLS: u64 = 10_000_000;

/// The distribution of the first cell at odds ratio 1.
struct Cell {
    /// The first cell less the smallest value that the margins allow.
    observed: usize,
    /// Logarithms of the weights from that smallest value on; 0 at the mode.
    ln_weights: Vec<f64>,
}

impl Cell {
    fn of([[a, b], [c, d]]: Table) -> Result<Self> {
        let too_large = || {
            Error::usage(
                format!("Fisher's exact test: the table [[{a}, {b}], [{c}, {d}]] is too large"),
                "use a chi-squared test for counts of this size",
            )
        };
        let add = |x: u64, y: u64| x.checked_add(y).ok_or_else(too_large);
        let (row, column) = (add(a, b)?, add(a, c)?);
        let total = add(row, add(c, d)?)?;
        let least = column.saturating_sub(total - row);
        let most = row.min(column);
        // Products of two counts must keep their relative precision in float64.
        if most - least >= MOST_CELLS || total >= 1 << 53 {
            return Err(too_large());
        }
        // weight(k + 1) / weight(k)
        let ln_step = |k: u64| {
            let up = (row - k) as f64 * (column - k) as f64;
            let down = (k + 1) as f64 * ((total - row) + (k + 1) - column) as f64;
            (up / down).ln()
        };
        let mode = ((row as f64 + 1.0) * (column as f64 + 1.0) / (total as f64 + 2.0)) as u64;
        let mode = mode.clamp(least, most);
        let mut ln_weights = vec![0.0; (most - least) as usize + 1];
        let mut sum = 0.0;
        for k in mode..most {
            sum += ln_step(k);
            ln_weights[(k + 1 - least) as usize] = sum;
        }
        sum = 0.0;
        for k in (least..mode).rev() {
            sum -= ln_step(k);
            ln_weights[(k - least) as usize] = sum;
        }
        Ok(Self {
            observed: (a - least) as usize,
            ln_weights,
        })
    }

    fn degenerate(&self) -> bool {
        self.ln_weights.len() == 1
    }

    /// Weights at a log odds ratio, scaled to a largest one of 1.
    fn weights(&self, ln_odds: f64) -> Vec<f64> {
        let shifted: Vec<f64> = (self.ln_weights.iter().enumerate())
            .map(|(k, w)| w + k as f64 * ln_odds)
            .collect();
        let largest = shifted.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        shifted.into_iter().map(|w| (w - largest).exp()).collect()
    }

    /// Chances of at most and of at least the observed value.
    fn tails(&self, ln_odds: f64) -> (f64, f64) {
        let weights = self.weights(ln_odds);
        let total: f64 = weights.iter().sum();
        let less: f64 = weights[..=self.observed].iter().sum();
        // From the far end, so that the small weights come first.
        let greater: f64 = weights[self.observed..].iter().rev().sum();
        (less / total, greater / total)
    }

    /// Expected excess of the cell over its least value.
    fn mean(&self, ln_odds: f64) -> f64 {
        let weights = self.weights(ln_odds);
        let moment: f64 = weights.iter().enumerate().map(|(k, w)| k as f64 * w).sum();
        moment / weights.iter().sum::<f64>()
    }
}

/// Fisher's exact test.
///
/// An empty table (all counts zero) is an error; one with an empty row or
/// column says nothing and has p = 1.
pub fn fisher_exact(table: Table) -> Result<FisherExact> {
    let [[a, b], [c, d]] = table;
    ensure_counts(table)?;
    let cell = Cell::of(table)?;
    if cell.degenerate() {
        return Ok(FisherExact {
            odds_ratio: f64::NAN,
            two_sided: 1.0,
            greater: 1.0,
            less: 1.0,
        });
    }
    let (less, greater) = cell.tails(0.0);
    let weights = cell.weights(0.0);
    let bound = weights[cell.observed] * EQUALLY_LIKELY;
    let unlikely: f64 = weights.iter().filter(|&&w| w <= bound).sum();
    Ok(FisherExact {
        odds_ratio: (a as f64 * d as f64) / (b as f64 * c as f64),
        two_sided: (unlikely / weights.iter().sum::<f64>()).min(1.0),
        greater: greater.min(1.0),
        less: less.min(1.0),
    })
}

/// The conditional odds ratio; `confidence` lies between 0 and 1, for instance 0.95.
pub fn conditional_odds_ratio(table: Table, confidence: f64) -> Result<ConditionalOddsRatio> {
    ensure_counts(table)?;
    if !(confidence > 0.0 && confidence < 1.0) {
        return Err(Error::usage(
            format!("conditional odds ratio: a confidence of {confidence} is not possible"),
            "set it between 0 and 1, for instance 0.95",
        ));
    }
    let cell = Cell::of(table)?;
    if cell.degenerate() {
        return Ok(ConditionalOddsRatio {
            estimate: f64::NAN,
            lower: 0.0,
            upper: f64::INFINITY,
        });
    }
    let at_least = cell.observed == 0;
    let at_most = cell.observed + 1 == cell.ln_weights.len();
    let tail = (1.0 - confidence) / 2.0;
    Ok(ConditionalOddsRatio {
        estimate: match (at_least, at_most) {
            (true, _) => 0.0,
            (_, true) => f64::INFINITY,
            _ => root_of_increasing(|x| cell.mean(x) - cell.observed as f64).exp(),
        },
        lower: if at_least {
            0.0
        } else {
            root_of_increasing(|x| cell.tails(x).1 - tail).exp()
        },
        upper: if at_most {
            f64::INFINITY
        } else {
            root_of_increasing(|x| tail - cell.tails(x).0).exp()
        },
    })
}

fn ensure_counts(table: Table) -> Result<()> {
    if table.iter().flatten().all(|&n| n == 0) {
        return Err(Error::usage(
            "Fisher's exact test: all four counts are zero",
            "pass a table with at least one case",
        ));
    }
    Ok(())
}

/// The zero of an increasing function of a log odds ratio, by bisection to the
/// last bit. e^±745 is the whole range of float64.
fn root_of_increasing(f: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (-745.0, 745.0);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if f(middle) < 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
}
