//! From data to places on paper, with ticks where people expect them.

use super::text::number;

/// An axis: a range of values, linear or logarithmic, with its ticks.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    log: bool,
    /// Position of each tick as a value, and its label.
    pub ticks: Vec<(f64, String)>,
}

impl Scale {
    /// A linear axis that holds all finite `values`, ending on ticks.
    pub fn linear(values: impl Iterator<Item = f64>, want: usize) -> Self {
        let (mut low, mut high) = extent(values).unwrap_or((0.0, 1.0));
        if high - low <= 1e-12 * low.abs().max(high.abs()) {
            let room = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
            (low, high) = (low - room, high + room);
        }
        let step = nice_step((high - low) / want.max(1) as f64);
        let first = (low / step + 1e-9).floor();
        let last = (high / step - 1e-9).ceil();
        let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        let count = (last - first) as usize;
        let ticks = (0..=count)
            .map(|i| {
                let value = (first + i as f64) * step;
                let label = if !(1e-5..1e6).contains(&step) {
                    number(value, 4)
                } else if value == 0.0 {
                    "0".to_owned()
                } else {
                    format!("{value:.decimals$}").replace('-', "−")
                };
                (value, label)
            })
            .collect();
        Self {
            low: first * step,
            high: last * step,
            log: false,
            ticks,
        }
    }

    /// A logarithmic axis for the positive ones of `values`.
    pub fn log(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = extent(values.filter(|&v| v > 0.0)).unwrap_or((1.0, 10.0));
        let decades = (high / low).log10();
        let within: &[f64] = if decades < 1.2 {
            &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]
        } else if decades < 2.5 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let stride = ((last - first) / 8 + 1).max(1) as usize;
        let marks: Vec<f64> = (first..=last)
            .step_by(stride)
            .flat_map(|decade| within.iter().map(move |m| m * 10f64.powi(decade)))
            .collect();
        let low = marks
            .iter()
            .copied()
            .filter(|&m| m <= low * 1.000001)
            .fold(low, f64::max)
            .min(low);
        let start = marks
            .iter()
            .rposition(|&m| m <= low * 1.000001)
            .unwrap_or(0);
        let end = marks
            .iter()
            .position(|&m| m >= high * 0.999999)
            .unwrap_or(marks.len() - 1)
            .max(start + 1);
        let kept = &marks[start..marks.len().min(end + 1)];
        Self {
            low: kept.first().copied().unwrap_or(low).min(low),
            high: kept.last().copied().unwrap_or(high).max(high),
            log: true,
            ticks: kept.iter().map(|&m| (m, number(m, 3))).collect(),
        }
    }

    /// Where a value lies: 0 at the axis's low end, 1 at its high end.
    /// None for what cannot be drawn.
    pub fn place(&self, value: f64) -> Option<f64> {
        let place = if self.log {
            if value <= 0.0 {
                return None;
            }
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.is_finite().then_some(place)
    }

    pub fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }
}

/// The least and greatest of the finite values.
pub(super) fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .filter(|v| v.is_finite())
        .fold(None, |range, v| match range {
            None => Some((v, v)),
            Some((low, high)) => Some((v.min(low), v.max(high))),
        })
}

/// 1, 2 or 5 times a power of ten, at least `raw`.
pub(super) fn nice_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|f| f * power >= raw * 0.999_999)
        .unwrap_or(10.0);
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<&str> {
        scale
            .ticks
            .iter()
            .map(|(_, label)| label.as_str())
            .collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_data() {
        let scale = Scale::linear([-0.31, 0.87].into_iter(), 5);
        assert_eq!(labels(&scale), ["−0.5", "0", "0.5", "1.0"]);
        let scale = Scale::linear([3.0, 17.0].into_iter(), 4);
        assert_eq!(labels(&scale), ["0", "5", "10", "15", "20"]);
        let scale = Scale::log([0.02, 31.0].into_iter());
        assert_eq!(labels(&scale), ["0.01", "0.1", "1", "10", "100"]);
    }

    #[test]
    fn odd_data_still_give_an_axis() {
        for values in [
            vec![],
            vec![f64::NAN],
            vec![5.0],
            vec![0.0, 0.0],
            vec![1e300, -1e300],
            vec![1e-300, 2e-300],
        ] {
            for scale in [
                Scale::linear(values.iter().copied(), 5),
                Scale::log(values.iter().copied()),
            ] {
                assert!(scale.ticks.len() >= 2, "{values:?}: {scale:?}");
                assert!(scale.ticks.len() < 40, "{values:?}: {scale:?}");
                for v in values.iter().filter(|&&v| v > 0.0) {
                    let place = scale.place(*v).unwrap();
                    assert!((-1e-6..=1.000_001).contains(&place), "{v}: {place}");
                }
            }
        }
    }
}
