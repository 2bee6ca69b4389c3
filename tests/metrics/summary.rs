use eosin::metrics::summary::{
    self as of, average_ranks, percentile, standard_deviation, t_test_one_sample,
    wilcoxon_signed_rank,
};
use serde_json::Value;

use crate::golden::*;

fn sample() -> (Value, Vec<f64>) {
    let golden = section("summary");
    let values = widened(input(&golden["values"]));
    (golden, values)
}

macro_rules! numbers_of {
    ($($name:ident $f:expr;)*) => {
        $(#[test]
        fn $name() {
            let (golden, values) = sample();
            let f: fn(&[f64]) -> f64 = $f;
            let key = stringify!($name);
            assert_close(key, f(&values), number(&golden[key]), STATISTIC);
        })*
    };
}

numbers_of! {
    mean |v| of::mean(v).unwrap();
    std_ddof0 |v| standard_deviation(v, 0).unwrap();
    std_ddof1 |v| standard_deviation(v, 1).unwrap();
    median |v| of::median(v).unwrap();
}

#[test]
fn percentiles() {
    let (golden, values) = sample();
    let expected = golden["percentiles"].as_object().unwrap();
    assert_eq!(expected.len(), 6);
    for (percent, expected) in expected {
        let got = percentile(&values, percent.parse().unwrap()).unwrap();
        assert_close(percent, got, number(expected), STATISTIC);
    }
}

#[test]
fn rankdata() {
    let (golden, values) = sample();
    let floors: Vec<f64> = values[..12].iter().map(|v| (4.0 * v).floor()).collect();
    assert_eq!(
        average_ranks(&floors).unwrap(),
        numbers(&golden["rankdata_average"])
    );
}

#[test]
fn t_test() {
    let (golden, values) = sample();
    let expected = numbers(&golden["t_test_1samp"]);
    // The golden data do not say which mean was tested; solving its statistic
    // for it gives 0.05.
    let got = t_test_one_sample(&values, 0.05).unwrap();
    assert_close("t", got.statistic, expected[0], STATISTIC);
    assert_close("p", got.p_value, expected[1], P_VALUE);
}

#[test]
fn wilcoxon() {
    let (golden, values) = sample();
    let expected = numbers(&golden["wilcoxon"]);
    let got = wilcoxon_signed_rank(&values).unwrap();
    assert_close("W", got.statistic, expected[0], STATISTIC);
    assert_close("p", got.p_value, expected[1], P_VALUE);
}

#[test]
fn no_number_is_left_out() {
    let (golden, _) = sample();
    assert_eq!(golden.as_object().unwrap().len(), 10);
}

#[test]
fn ends_and_small_samples() {
    let values = [3.0, 1.0, 2.0, 10.0];
    assert_eq!(percentile(&values, 0.0).unwrap(), 1.0);
    assert_eq!(percentile(&values, 100.0).unwrap(), 10.0);
    assert_eq!(of::median(&values).unwrap(), 2.5);
    assert_eq!(of::median(&[7.0]).unwrap(), 7.0);
    assert!(standard_deviation(&[7.0], 1).unwrap().is_nan());
    assert_eq!(standard_deviation(&[7.0], 0).unwrap(), 0.0);
    assert!(t_test_one_sample(&[7.0], 0.0).unwrap().p_value.is_nan());
}

#[test]
fn nan_spreads() {
    let values = [1.0, f64::NAN, 2.0];
    assert!(of::mean(&values).unwrap().is_nan());
    assert!(standard_deviation(&values, 0).unwrap().is_nan());
    assert!(of::median(&values).unwrap().is_nan());
    assert!(average_ranks(&values).unwrap().iter().all(|r| r.is_nan()));
    assert!(t_test_one_sample(&values, 0.0).unwrap().p_value.is_nan());
    assert!(wilcoxon_signed_rank(&values).unwrap().p_value.is_nan());
    assert!(wilcoxon_signed_rank(&[0.0]).unwrap().p_value.is_nan());
}

/// Exact signed-rank p-values against all signs, with and without shared ranks.
#[test]
fn wilcoxon_exact_counts_all_signs() {
    for sizes in [
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        [1.0, 1.0, 3.0, 4.0, 4.0, 4.0, 7.0, 8.0],
    ] {
        let all: Vec<_> = (0u32..256)
            .map(|signs| {
                let differences: Vec<f64> = (sizes.iter().enumerate())
                    .map(|(i, v)| if signs & (1 << i) == 0 { *v } else { -v })
                    .collect();
                wilcoxon_signed_rank(&differences).unwrap()
            })
            .collect();
        for got in &all {
            let as_far = all.iter().filter(|o| o.statistic <= got.statistic).count();
            assert_close("p", got.p_value, as_far as f64 / 256.0, 1e-12);
        }
    }
}
