use eosin::metrics::ranking::{
    MulticlassAuc, average_precision, mann_whitney, roc_auc, roc_auc_multiclass, roc_curve,
};

use crate::golden::*;

fn check(index: usize, ties: bool) {
    let case = &cases("ranking")[index];
    assert_eq!(case["ties"], ties);
    let labels: Vec<bool> = indices(&case["labels"]).iter().map(|&l| l == 1).collect();
    let scores = numbers(&case["scores"]);
    let one = |key: &str, value: f64| assert_close(key, value, number(&case[key]), STATISTIC);
    one("roc_auc", roc_auc(&labels, &scores).unwrap());
    one(
        "average_precision",
        average_precision(&labels, &scores).unwrap(),
    );

    let points = roc_curve(&labels, &scores).unwrap();
    one("roc_points", points.len() as f64);
    let area: f64 = points
        .windows(2)
        .map(|w| {
            (w[1].false_positive_rate - w[0].false_positive_rate)
                * (w[0].true_positive_rate + w[1].true_positive_rate)
                / 2.0
        })
        .sum();
    one("roc_auc", area);

    let of = |positive: bool| -> Vec<f64> {
        (scores.iter().zip(&labels))
            .filter(|(_, l)| **l == positive)
            .map(|(s, _)| *s)
            .collect()
    };
    let expected = numbers(&case["mann_whitney"]);
    let got = mann_whitney(&of(true), &of(false)).unwrap();
    assert_close("U", got.statistic, expected[0], STATISTIC);
    assert_close("p", got.p_value, expected[1], P_VALUE);
}

#[test]
fn n20() {
    check(0, false);
}

#[test]
fn n50() {
    check(1, false);
}

#[test]
fn n50_with_ties() {
    check(2, true);
}

#[test]
fn n200_with_ties() {
    check(3, true);
}

#[test]
fn three_classes() {
    let case = &cases("ranking")[4];
    let truth = indices(&case["labels"]);
    let scores: Vec<f64> = (case["probabilities"].as_array().unwrap().iter())
        .flat_map(numbers)
        .collect();
    for (key, kind) in [
        ("roc_auc_ovr_macro", MulticlassAuc::OneVersusRest),
        ("roc_auc_ovr_weighted", MulticlassAuc::OneVersusRestWeighted),
        ("roc_auc_ovo_macro", MulticlassAuc::OneVersusOne),
    ] {
        let got = roc_auc_multiclass(&truth, &scores, 3, kind).unwrap();
        assert_close(key, got, number(&case[key]), STATISTIC);
    }
}

#[test]
fn no_case_is_left_out() {
    assert_eq!(cases("ranking").len(), 5);
}

#[test]
fn one_class_has_no_area() {
    assert!(roc_auc(&[true, true], &[0.1, 0.2]).unwrap().is_nan());
    assert!(average_precision(&[false], &[0.1]).unwrap().is_nan());
    let points = roc_curve(&[true, true], &[0.1, 0.2]).unwrap();
    assert!(points.iter().all(|p| p.false_positive_rate.is_nan()));
    let kind = MulticlassAuc::OneVersusRest;
    assert!(
        roc_auc_multiclass(&[0, 0], &[0.1, 0.9, 0.2, 0.8], 2, kind)
            .unwrap()
            .is_nan()
    );
}

/// Exact Mann-Whitney against all ways to pick the first sample.
#[test]
fn mann_whitney_exact_counts_all_choices() {
    let values: Vec<f64> = (0..10).map(f64::from).collect();
    for few in [2, 4, 5] {
        let mut all = Vec::new();
        for mask in 0u32..1 << 10 {
            if mask.count_ones() as usize == few {
                let (a, b): (Vec<f64>, Vec<f64>) =
                    values.iter().partition(|&&v| mask & (1 << v as u32) != 0);
                all.push(mann_whitney(&a, &b).unwrap());
            }
        }
        let middle = (few * (10 - few)) as f64 / 2.0;
        for got in &all {
            let as_far = all
                .iter()
                .filter(|o| (o.statistic - middle).abs() >= (got.statistic - middle).abs())
                .count();
            let expected = as_far as f64 / all.len() as f64;
            assert_close("p", got.p_value, expected, 1e-12);
        }
    }
}

#[test]
fn equal_samples_do_not_differ() {
    let got = mann_whitney(&[1.0; 5], &[1.0; 6]).unwrap();
    assert_eq!((got.statistic, got.p_value), (15.0, 1.0));
}
