use eosin::ops::{self, Activation};
use eosin::{DType, Tensor};

use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

pub fn samples() -> Vec<Sample> {
    let t = |x: &Tensor| ops::transpose(x, -1, -2);
    let mut all = vec![
        Sample::new("matmul", "nn", &[&[5, 7], &[7, 3]], |x| {
            ops::matmul(&x[0], &x[1])
        }),
        Sample::new("matmul", "nt", &[&[5, 7], &[3, 7]], move |x| {
            ops::matmul(&x[0], &t(&x[1])?)
        }),
        Sample::new("matmul", "tn", &[&[7, 5], &[7, 3]], move |x| {
            ops::matmul(&t(&x[0])?, &x[1])
        }),
        Sample::new("matmul", "tt", &[&[7, 5], &[3, 7]], move |x| {
            ops::matmul(&t(&x[0])?, &t(&x[1])?)
        }),
        Sample::new("matmul", "batch", &[&[3, 2, 5, 7], &[2, 7, 1]], |x| {
            ops::matmul(&x[0], &x[1])
        }),
        Sample::new(
            "matmul",
            "batch_broadcast",
            &[&[2, 1, 3, 4], &[1, 3, 4, 2]],
            |x| ops::matmul(&x[0], &x[1]),
        ),
        Sample::new("linear", "no_bias", &[&[2, 3, 46], &[7, 46]], |x| {
            ops::linear(&x[0], &x[1], None, Activation::None)
        }),
    ];
    for (name, activation) in [
        ("none", Activation::None),
        ("relu", Activation::Relu),
        ("leaky_relu", Activation::LeakyRelu(0.2)),
        ("gelu", Activation::Gelu),
        ("silu", Activation::Silu),
        ("tanh", Activation::Tanh),
        ("sigmoid", Activation::Sigmoid),
    ] {
        all.push(Sample::new(
            "linear",
            name,
            &[&[4, 9], &[5, 9], &[5]],
            move |x| ops::linear(&x[0], &x[1], Some(&x[2]), activation),
        ));
    }
    all
}

pub fn tests(suite: &mut Suite) {
    suite.test("matmul::wrong_input", || {
        let a = Tensor::zeros(&[2, 3], DType::F32)?;
        let error = ops::matmul(&a, &a).expect_err("sizes differ");
        assert_eq!(
            error.to_string(),
            "matmul: shapes [2, 3], [2, 3] do not fit: (.., M, K) x (.., K, N)"
        );
        assert!(ops::matmul(&a, &Tensor::zeros(&[3], DType::F32)?).is_err());
        assert!(ops::matmul(&a, &Tensor::zeros(&[3, 2], DType::F64)?).is_err());
        assert!(ops::linear(&a, &a, Some(&a), Activation::None).is_err());
        assert!(
            ops::linear(
                &Tensor::scalar(1.0, DType::F32)?,
                &a,
                None,
                Activation::None
            )
            .is_err()
        );
        Ok(())
    });
    suite.test("matmul::empty", || {
        let zeros = |s: &[usize]| Tensor::zeros(s, DType::F32);
        assert_eq!(
            ops::matmul(&zeros(&[0, 3])?, &zeros(&[3, 2])?)?.shape(),
            [0, 2]
        );
        let inner = ops::matmul(&zeros(&[2, 0])?, &zeros(&[0, 3])?)?;
        assert_eq!(inner.to_vec::<f32>()?, [0.0; 6]);
        assert_eq!(
            ops::matmul(&zeros(&[0, 2, 3])?, &zeros(&[3, 2])?)?.shape(),
            [0, 2, 2]
        );
        let x = zeros(&[0, 3])?.variable();
        let w = zeros(&[4, 3])?.variable();
        let y = ops::linear(&x, &w, Some(&zeros(&[4])?), Activation::Relu)?;
        let g = eosin::autograd::grad(&[&ops::sum_all(&y)?], None, &[&x, &w], false)?;
        assert_eq!(
            g[1].as_ref().expect("a gradient").to_vec::<f32>()?,
            [0.0; 12]
        );
        Ok(())
    });
    suite.test("linear::fused_equals_recorded_bit_for_bit", || {
        let x = crate::common::tensor("x", &[33, 46], -1.0, 1.0, DType::F32)?;
        let w = crate::common::tensor("w", &[19, 46], -1.0, 1.0, DType::F32)?;
        let b = crate::common::tensor("b", &[19], -1.0, 1.0, DType::F32)?;
        for activation in [
            Activation::Gelu,
            Activation::LeakyRelu(0.01),
            Activation::Silu,
        ] {
            let fused = ops::linear(&x, &w, Some(&b), activation)?;
            let recorded = ops::linear(&x.variable(), &w, Some(&b), activation)?;
            assert_eq!(fused.to_vec::<f32>()?, recorded.to_vec::<f32>()?);
        }
        Ok(())
    });
}

pub fn golden(case: &Case) -> Option<Outputs> {
    let out = match case.op.as_str() {
        "linear" => ops::linear(
            case.input("x"),
            case.input("w"),
            case.optional("b"),
            Activation::None,
        ),
        "batched matmul" => ops::matmul(case.input("a"), case.input("b")),
        "a @ b^T" => {
            ops::transpose(case.input("b"), -1, -2).and_then(|b| ops::matmul(case.input("a"), &b))
        }
        _ => return None,
    };
    Some(out.map(|t| vec![("out", t)]))
}
