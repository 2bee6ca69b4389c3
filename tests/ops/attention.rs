use eosin::{DType, Result, Tensor, ops};

use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

pub fn samples() -> Vec<Sample> {
    vec![
        Sample::new(
            "attention",
            "plain",
            &[&[2, 3, 5, 7], &[2, 3, 4, 7], &[2, 3, 4, 6]],
            |x| ops::attention(&x[0], &x[1], &x[2], None, 0.378),
        ),
        Sample::new(
            "attention",
            "bias_of_heads",
            &[&[2, 3, 5, 3], &[2, 3, 4, 3], &[2, 3, 4, 3], &[3, 5, 4]],
            |x| ops::attention(&x[0], &x[1], &x[2], Some(&x[3]), 0.577),
        ),
        Sample::new(
            "attention",
            "one_query",
            &[&[1, 46], &[5, 46], &[5, 46]],
            |x| ops::attention(&x[0], &x[1], &x[2], None, 0.147),
        ),
    ]
}

pub fn tests(suite: &mut Suite) {
    suite.test("attention::wrong_input", || {
        let zeros = |s: &[usize]| Tensor::zeros(s, DType::F32);
        let (q, k) = (zeros(&[2, 5, 7])?, zeros(&[2, 4, 7])?);
        let error = ops::attention(&q, &k, &q, None, 1.0).expect_err("another number of values");
        assert_eq!(
            error.to_string(),
            "attention: shapes [2, 5, 7], [2, 4, 7], [2, 5, 7] do not fit: \
             q (.., M, D), k (.., N, D), v (.., N, E)"
        );
        assert!(ops::attention(&zeros(&[2, 5, 6])?, &k, &k, None, 1.0).is_err());
        assert!(ops::attention(&zeros(&[7])?, &k, &k, None, 1.0).is_err());
        assert!(ops::attention(&q, &k, &k, Some(&zeros(&[5, 5])?), 1.0).is_err());
        Ok(())
    });
    suite.test("attention::empty", || {
        let zeros = |s: &[usize]| Tensor::zeros(s, DType::F32);
        let (q, k) = (zeros(&[0, 5, 7])?, zeros(&[0, 4, 7])?);
        let out = ops::attention(&q, &k, &k, None, 1.0)?;
        assert_eq!(out.shape(), [0, 5, 7]);
        Ok(())
    });
}

/// `softmax(scores(q k^T))` and its product with v.
fn with_scores(case: &Case, scores: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) -> Outputs {
    let products = ops::matmul(case.input("q"), &ops::transpose(case.input("k"), -1, -2)?)?;
    let n = products.shape()[3];
    let diagonal: Vec<f32> = (0..n * n).map(|i| f32::from(i % (n + 1) == 0)).collect();
    let identity = case.local(Tensor::from_slice(&diagonal, &[n, n])?)?;
    let graph = ops::softmax(&scores(&products, &identity)?, -1)?;
    let out = ops::matmul(&graph, case.input("v"))?;
    Ok(vec![("out", out), ("graph", graph)])
}

pub fn golden(case: &Case) -> Option<Outputs> {
    if case.op != "attention" {
        return None;
    }
    let scale = 1.0 / 14.0;
    Some(match case.attrs["scores"].as_str() {
        Some("(qk + I)/sqrt(196)") => {
            with_scores(case, |qk, i| ops::affine(&ops::add(qk, i)?, scale, 0.0))
        }
        Some("qk/sqrt(196) + I") => {
            with_scores(case, |qk, i| ops::add(&ops::affine(qk, scale, 0.0)?, i))
        }
        _ => ops::attention(
            case.input("q"),
            case.input("k"),
            case.input("v"),
            case.optional("bias"),
            case.number("scale"),
        )
        .map(|t| vec![("out", t)]),
    })
}
