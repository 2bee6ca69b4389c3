use eosin::metrics::correlation::{
    Correlation, kendall, kendall_columns, pearson, pearson_columns, spearman, spearman_columns,
    steiger,
};
use serde_json::Value;

use crate::formula;
use crate::golden::*;

fn samples(case: &Value) -> (Vec<f64>, Vec<f64>) {
    if case.get("x_values").is_some() {
        return (numbers(&case["x_values"]), numbers(&case["y_values"]));
    }
    assert_eq!(case["y"], "0.6*x + y_noise (float64)");
    let x = widened(input(&case["x"]));
    let noise = widened(input(&case["y_noise"]));
    let y = x.iter().zip(&noise).map(|(x, e)| 0.6 * x + e).collect();
    (x, y)
}

fn compare(what: &str, got: Correlation, expected: &Value) {
    let expected = numbers(expected);
    assert_close(
        &format!("{what} coefficient"),
        got.coefficient,
        expected[0],
        STATISTIC,
    );
    assert_close(
        &format!("{what} p-value"),
        got.p_value,
        expected[1],
        P_VALUE,
    );
}

macro_rules! cases {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            let cases = cases("correlation");
            let case = cases.iter().find(|c| c["case"] == stringify!($name)).unwrap();
            let (x, y) = samples(case);
            compare("Pearson", pearson(&x, &y).unwrap(), &case["pearson"]);
            compare("Spearman", spearman(&x, &y).unwrap(), &case["spearman"]);
            compare("Kendall", kendall(&x, &y).unwrap(), &case["kendall_tau_b"]);
        })*

        #[test]
        fn no_case_is_left_out() {
            let all = cases("correlation");
            let names: Vec<_> = all.iter().map(|c| c["case"].as_str().unwrap()).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

cases!(n3 n5 n10 n33 n50 n200 ties_n12 ties_n40 ties_n200 perfect anti_perfect);

#[test]
fn constant_input_and_nan_give_nan() {
    for bad in [[2.5; 4], [1.0, f64::NAN, 2.0, 3.0]] {
        let good = [1.0, 2.0, 4.0, 3.0];
        for (x, y) in [(&bad, &good), (&good, &bad), (&bad, &bad)] {
            for f in [pearson, spearman, kendall] {
                let got = f(x, y).unwrap();
                assert!(got.coefficient.is_nan() && got.p_value.is_nan(), "{got:?}");
            }
        }
    }
}

#[test]
fn two_samples_decide_nothing() {
    for f in [pearson, spearman, kendall] {
        let got = f(&[1.0, 2.0], &[5.0, 3.0]).unwrap();
        assert_eq!((got.coefficient, got.p_value), (-1.0, 1.0));
        assert!(f(&[1.0], &[2.0]).unwrap().coefficient.is_nan());
    }
}

#[test]
fn huge_and_tiny_values_neither_overflow_nor_vanish() {
    let (x, y) = ([1.0, 2.0, 4.0, 3.0], [2.0, 1.0, 3.0, 5.0]);
    let expected = pearson(&x, &y).unwrap().coefficient;
    for scale in [1e-200, 1e200] {
        let got = pearson(&x.map(|v| v * scale), &y.map(|v| v * scale)).unwrap();
        assert_close("scaled", got.coefficient, expected, 1e-14);
    }
}

/// Tau from its definition over all pairs.
#[test]
fn kendall_equals_its_definition() {
    for (round, levels) in [(0, 3.0), (1, 10.0), (2, 1e6)] {
        let level = |v: f32| (f64::from(v) * levels).floor();
        let x: Vec<f64> = (formula::values(&format!("kendall/x/{round}"), 150, 0.0, 1.0))
            .into_iter()
            .map(level)
            .collect();
        let noise = formula::values(&format!("kendall/y/{round}"), 150, 0.0, 1.0);
        let y: Vec<f64> = (x.iter().zip(noise))
            .map(|(x, e)| (x / 2.0).floor() + level(e))
            .collect();
        let (mut score, mut x_pairs, mut y_pairs) = (0.0, 0.0, 0.0);
        for i in 0..x.len() {
            for j in 0..i {
                let sign = |a: f64, b: f64| f64::from(i8::from(a > b) - i8::from(a < b));
                let (dx, dy) = (sign(x[i], x[j]), sign(y[i], y[j]));
                score += dx * dy;
                x_pairs += dx * dx;
                y_pairs += dy * dy;
            }
        }
        let expected = score / f64::sqrt(x_pairs * y_pairs);
        assert_close("tau", kendall(&x, &y).unwrap().coefficient, expected, 1e-14);
    }
}

/// Two zeros are one value, whatever their signs.
#[test]
fn signed_zeros_are_tied() {
    let y = [1.0, 2.0, 3.0, 4.0];
    for f in [spearman, kendall] {
        assert_eq!(
            f(&[0.0, -0.0, 1.0, -0.0], &y).unwrap(),
            f(&[0.0, 0.0, 1.0, 0.0], &y).unwrap()
        );
    }
}

/// Exact p-value of Kendall against all orders of seven values.
#[test]
fn kendall_exact_p_value_counts_all_orders() {
    fn orders(values: &mut Vec<f64>, from: usize, visit: &mut dyn FnMut(&[f64])) {
        if from == values.len() {
            return visit(values);
        }
        for i in from..values.len() {
            values.swap(from, i);
            orders(values, from + 1, visit);
            values.swap(from, i);
        }
    }
    let x: Vec<f64> = (0..7).map(f64::from).collect();
    let mut all = Vec::new();
    orders(&mut x.clone(), 0, &mut |y| {
        all.push((kendall(&x, y).unwrap().coefficient, y.to_vec()));
    });
    for (tau, y) in all.iter().step_by(97) {
        let as_far = all
            .iter()
            .filter(|(t, _)| t.abs() >= tau.abs() - 1e-9)
            .count();
        let expected = as_far as f64 / all.len() as f64;
        let got = kendall(&x, y).unwrap().p_value;
        assert_close("exact p", got, expected, 1e-12);
    }
}

/// Columns agree with the one-sample functions and do not depend on threads.
#[test]
fn columns() {
    let (samples, genes) = (53, 131);
    let mut pred = formula::values("columns/pred", samples * genes, -2.0, 2.0);
    let mut truth = formula::values("columns/truth", samples * genes, -2.0, 2.0);
    for sample in 0..samples {
        pred[sample * genes + 7] = 0.1; // constant
        truth[sample * genes + 8] = truth[sample * genes + 8].round(); // tied
        truth[sample * genes + 9] *= 1e30;
    }
    pred[10] = f32::NAN;
    let column = |m: &[f32], g: usize| -> Vec<f64> {
        m.chunks(genes).map(|row| f64::from(row[g])).collect()
    };
    let all = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| {
                (
                    pearson_columns(&pred, &truth, samples, genes).unwrap(),
                    spearman_columns(&pred, &truth, samples, genes).unwrap(),
                )
            })
    };
    let (by_pearson, by_spearman) = all(2);
    assert_eq!((by_pearson.len(), by_spearman.len()), (genes, genes));
    for gene in 0..genes {
        let (p, t) = (column(&pred, gene), column(&truth, gene));
        for (got, expected) in [
            (by_pearson[gene], pearson(&p, &t).unwrap()),
            (by_spearman[gene], spearman(&p, &t).unwrap()),
        ] {
            assert_close("coefficient", got.coefficient, expected.coefficient, 1e-11);
            assert_close("p-value", got.p_value, expected.p_value, P_VALUE);
            assert_eq!(got.coefficient.is_nan(), gene == 7 || gene == 10);
        }
    }
    let bits = |c: &[Correlation]| -> Vec<_> {
        c.iter()
            .map(|c| (c.coefficient.to_bits(), c.p_value.to_bits()))
            .collect()
    };
    for threads in [1, 3] {
        let (p, s) = all(threads);
        assert_eq!(bits(&p), bits(&by_pearson));
        assert_eq!(bits(&s), bits(&by_spearman));
    }
}

#[test]
fn kendall_by_column_is_that_of_each_column() {
    let (samples, genes) = (41, 130);
    let value = |i: usize, salt: usize| ((i * 7919 + salt) % 23) as f32;
    let pred: Vec<f32> = (0..samples * genes).map(|i| value(i, 3)).collect();
    let truth: Vec<f32> = (0..samples * genes).map(|i| value(i * i, 8)).collect();
    let found = kendall_columns(&pred, &truth, samples, genes).unwrap();
    for (gene, found) in found.iter().enumerate() {
        let column =
            |m: &[f32]| -> Vec<f64> { m.chunks(genes).map(|row| f64::from(row[gene])).collect() };
        let expected = kendall(&column(&pred), &column(&truth)).unwrap();
        assert_eq!(*found, expected);
    }
}

/// Numbers of the paper's formula in Python, to all digits.
#[test]
fn steiger_agrees_with_its_formula() {
    for (first, second, between, samples, z, p) in [
        (
            0.2,
            0.5,
            0.1,
            315,
            -4.415182760067514,
            1.0092468749169333e-05,
        ),
        (0.8, 0.75, 0.6, 50, 0.7279065831306679, 0.46667077306336846),
        (0.6, 0.1, -0.3, 20, 1.4891359453334834, 0.13645157403668118),
    ] {
        let found = steiger(first, second, between, samples);
        assert_close("Z", found.statistic, z, 1e-12);
        assert_close("p", found.p_value, p, P_VALUE);
        let turned = steiger(second, first, between, samples);
        assert_close("turned", turned.statistic, -z, 1e-12);
    }
    assert_eq!(steiger(0.5, 0.5, 1.0, 10).p_value, 1.0);
    for undefined in [
        (1.0, 0.5, 0.5, 10),
        (0.5, f64::NAN, 0.5, 10),
        (0.5, 0.4, 0.3, 3),
    ] {
        let (first, second, between, samples) = undefined;
        assert!(steiger(first, second, between, samples).p_value.is_nan());
    }
}

/// Where two predictions are equally good, the test errs as often as it says it does.
#[test]
fn steiger_keeps_its_level() {
    let mut random = eosin::random::Philox::new(5);
    let (rounds, samples) = (4000, 60);
    let mut below = 0;
    for _ in 0..rounds {
        let mut columns = [const { Vec::new() }; 3];
        let mut draws = vec![0.0f32; 4 * samples];
        random.fill_normal(&mut draws, 0.0, 1.0);
        for draw in draws.chunks(4) {
            let [truth, shared, a, b] = [0, 1, 2, 3].map(|i| f64::from(draw[i]));
            columns[0].push(truth);
            columns[1].push(truth + shared + a);
            columns[2].push(truth + shared + b);
        }
        let r = |a: usize, b: usize| pearson(&columns[a], &columns[b]).unwrap().coefficient;
        let p = steiger(r(0, 1), r(0, 2), r(1, 2), samples).p_value;
        below += usize::from(p < 0.05);
    }
    let share = below as f64 / rounds as f64;
    // Three standard errors of a share of 0.05 in 4,000.
    assert!((share - 0.05).abs() < 0.0104, "{share}");
}
