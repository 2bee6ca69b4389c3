//! The little statistics these tests judge by, written apart from the crate's.

pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    let (ma, mb) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - ma) * (y - mb);
        aa += (x - ma).powi(2);
        bb += (y - mb).powi(2);
    }
    ab / (aa * bb).sqrt()
}

/// Leave-one-out predictions of `y` from three variables, as deviations from
/// the mean of the samples trained on. (That mean itself moves away from the
/// sample left out, and would correlate with it at -1 where nothing is learnt.)
/// `ridge` is relative to the number of samples.
pub fn held_out_ridge(x: &[[f64; 3]], y: &[f64], ridge: f64) -> Vec<f64> {
    (0..x.len())
        .map(|held| {
            let kept: Vec<usize> = (0..x.len()).filter(|&i| i != held).collect();
            ridge_deviation(x, y, &kept, held, ridge)
        })
        .collect()
}

/// The same with every sample trained on: what the best plane explains at all.
pub fn in_sample(x: &[[f64; 3]], y: &[f64]) -> Vec<f64> {
    let all: Vec<usize> = (0..x.len()).collect();
    all.iter()
        .map(|&i| ridge_deviation(x, y, &all, i, 0.0))
        .collect()
}

fn ridge_deviation(x: &[[f64; 3]], y: &[f64], kept: &[usize], asked: usize, ridge: f64) -> f64 {
    let mean =
        |f: &dyn Fn(usize) -> f64| kept.iter().map(|&i| f(i)).sum::<f64>() / kept.len() as f64;
    let my = mean(&|i| y[i]);
    let m: [f64; 3] = std::array::from_fn(|c| mean(&|i| x[i][c]));
    let s: [f64; 3] = std::array::from_fn(|c| mean(&|i| (x[i][c] - m[c]).powi(2)).sqrt());
    let z = |i: usize, c: usize| (x[i][c] - m[c]) / s[c];
    let a = std::array::from_fn(|r| {
        std::array::from_fn(|c| mean(&|i| z(i, r) * z(i, c)) + if r == c { ridge } else { 0.0 })
    });
    let b = std::array::from_fn(|r| mean(&|i| z(i, r) * (y[i] - my)));
    let weights = solve(a, b);
    (0..3).map(|c| weights[c] * z(asked, c)).sum()
}

/// Cramer's rule for three equations.
fn solve(a: [[f64; 3]; 3], b: [f64; 3]) -> [f64; 3] {
    let whole = determinant(a);
    std::array::from_fn(|column| {
        let mut replaced = a;
        for (row, value) in replaced.iter_mut().zip(b) {
            row[column] = value;
        }
        determinant(replaced) / whole
    })
}

fn determinant(m: [[f64; 3]; 3]) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
        - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

#[test]
fn the_regression_finds_a_plane_and_nothing_in_noise() {
    let wave = |i: usize, k: f64| (i as f64 * k).sin();
    let x: Vec<[f64; 3]> = (0..40)
        .map(|i| [wave(i, 1.1), wave(i, 2.3), wave(i, 3.7)])
        .collect();
    let plane: Vec<f64> = x
        .iter()
        .map(|v| 2.0 * v[0] - v[1] + 0.5 * v[2] + 3.0)
        .collect();
    assert!((pearson(&in_sample(&x, &plane), &plane) - 1.0).abs() < 1e-12);
    let found = held_out_ridge(&x, &plane, 0.0);
    for (held, deviation) in found.iter().enumerate() {
        let others = plane.iter().sum::<f64>() - plane[held];
        assert!((others / 39.0 + deviation - plane[held]).abs() < 1e-9);
    }
    let unrelated: Vec<f64> = (0..40).map(|i| wave(i, 5.9)).collect();
    assert!(pearson(&held_out_ridge(&x, &unrelated, 0.01), &unrelated) < 0.3);
}
