//! Arrays of tests/golden as they are stored, and how far others are from them.

use std::path::PathBuf;

use safetensors::SafeTensors;

/// That of the source, or, where the tests were built on another machine, the one
/// that `EOSIN_GOLDEN` names.
pub fn folder() -> PathBuf {
    match std::env::var_os("EOSIN_GOLDEN") {
        Some(folder) => folder.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    }
}

/// |a - b| / |b| in the L2 norm; the absolute norm where b is zero.
pub fn relative_l2(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths differ");
    let mut error = 0.0;
    let mut norm = 0.0;
    for (x, y) in a.iter().zip(b) {
        // Equal infinities and NaN in both count as equal.
        if x != y && !(x.is_nan() && y.is_nan()) {
            error += (x - y) * (x - y);
        }
        if y.is_finite() {
            norm += y * y;
        }
    }
    let error = error.sqrt();
    if norm == 0.0 {
        error
    } else {
        error / norm.sqrt()
    }
}

pub fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The stored parts of a golden tensor and the matching parts of `got`: its
/// name, what is wanted, what there is.
pub fn parts(
    golden: &SafeTensors,
    name: &str,
    full: bool,
    got: &[f64],
) -> Vec<(&'static str, Vec<f64>, Vec<f64>)> {
    if full {
        return vec![("", array(golden, name), got.to_vec())];
    }
    let n = got.len();
    let spread = (0..64).map(|j| got[j * n / 64]).collect();
    vec![
        (
            ".norm",
            array(golden, &format!("{name}.norm")),
            vec![norm(got)],
        ),
        (
            ".head",
            array(golden, &format!("{name}.head")),
            got[..64].to_vec(),
        ),
        (".spread", array(golden, &format!("{name}.spread")), spread),
    ]
}

pub fn array(golden: &SafeTensors, name: &str) -> Vec<f64> {
    let view = golden
        .tensor(name)
        .unwrap_or_else(|_| panic!("golden data lacks {name}"));
    let bytes = view.data();
    use safetensors::Dtype;
    match view.dtype() {
        Dtype::F32 => numbers(bytes, |b| f32::from_le_bytes(b).into()),
        Dtype::F64 => numbers(bytes, f64::from_le_bytes),
        Dtype::I32 => numbers(bytes, |b| i32::from_le_bytes(b).into()),
        Dtype::I64 => numbers(bytes, |b| i64::from_le_bytes(b) as f64),
        other => panic!("{name}: dtype {other:?}"),
    }
}

fn numbers<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes
        .chunks(N)
        .map(|c| f(c.try_into().expect("whole numbers")))
        .collect()
}
