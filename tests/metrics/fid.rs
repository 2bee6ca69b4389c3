use eosin::metrics::fid::{FrechetDistance, Gaussian, frechet_distance};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::golden::*;

/// FID itself and the parts that go through the matrix root.
const FID: f64 = 1e-6;
const FID_RANK_DEFICIENT: f64 = 1e-4;

fn fitted(case: &Value) -> (Gaussian, Gaussian) {
    let dims = number(&case["dims"]) as usize;
    assert_eq!(case["b"]["edit"], "v*1.3 + 0.2 in float64");
    let a = widened(input(&case["a"]));
    let b: Vec<f64> = (widened(input(&case["b"])).into_iter())
        .map(|v| v * 1.3 + 0.2)
        .collect();
    (
        Gaussian::fit(&a, number(&case["n_a"]) as usize, dims).unwrap(),
        Gaussian::fit(&b, number(&case["n_b"]) as usize, dims).unwrap(),
    )
}

fn check(name: &str, index: usize, tolerance: f64) {
    let case = &cases("fid")[index];
    let (a, b) = fitted(case);
    let FrechetDistance {
        mean_distance,
        trace_a,
        trace_b,
        trace_sqrt,
    } = frechet_distance(&a, &b).unwrap();
    let one = |key: &str, value: f64, tolerance: f64| {
        assert_close(key, value, number(&case[key]), tolerance);
    };
    one("mean_distance", mean_distance, STATISTIC);
    one("trace_a", trace_a, STATISTIC);
    one("trace_b", trace_b, STATISTIC);
    one("trace_sqrt", trace_sqrt, tolerance);
    one("trace_sqrt_by_eigenvalues", trace_sqrt, tolerance);
    one("fid", frechet_distance(&a, &b).unwrap().value(), tolerance);

    let bytes = std::fs::read(path("metrics.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |what: &str| -> Vec<f64> {
        let view = tensors.tensor(&format!("fid_{name}.{what}")).unwrap();
        assert_eq!(view.dtype(), safetensors::Dtype::F64);
        (view.data().chunks_exact(8))
            .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    let dims = a.mean().len();
    for (what, got) in [("cov_a", a.covariance()), ("cov_b", b.covariance())] {
        let expected = tensor(what);
        let largest = expected.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        assert_eq!(got.len(), expected.len());
        for (g, e) in got.iter().zip(&expected) {
            assert!((g - e).abs() <= STATISTIC * largest, "{what}: {g} {e}");
        }
    }
    let root = tensor("sqrt");
    let trace: f64 = (0..dims).map(|i| root[i * dims + i]).sum();
    assert_close("trace of the stored root", trace_sqrt, trace, tolerance);
}

#[test]
fn dims_8() {
    check("40_50_8", 0, FID);
}

#[test]
fn dims_32() {
    check("300_280_32", 1, FID);
}

#[test]
fn rank_deficient() {
    check("20_20_32", 2, FID_RANK_DEFICIENT);
}

#[test]
fn no_case_is_left_out() {
    assert_eq!(cases("fid").len(), 3);
}

#[test]
fn a_set_is_at_no_distance_from_itself() {
    for (case, tolerance) in cases("fid").iter().zip([1e-12, 1e-12, 1e-6]) {
        let (a, b) = fitted(case);
        for set in [a, b] {
            let distance = frechet_distance(&set, &set).unwrap();
            assert!(
                distance.value().abs() < tolerance * distance.trace_a,
                "{distance:?}"
            );
        }
    }
}
