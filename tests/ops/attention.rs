use eosin::autograd::grad;
use eosin::{DType, Result, Tensor, ops};

use crate::common::{relative_l2, tensor};
use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite, cuda_half_first_order};

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
            "bias_of_samples_and_keys",
            &[&[2, 3, 4, 2], &[2, 3, 5, 2], &[2, 3, 5, 3], &[2, 1, 1, 5]],
            |x| ops::attention(&x[0], &x[1], &x[2], Some(&x[3]), 0.7),
        ),
        Sample::new(
            "attention",
            "one_query",
            &[&[1, 46], &[5, 46], &[5, 46]],
            |x| ops::attention(&x[0], &x[1], &x[2], None, 0.147),
        ),
        Sample::new(
            "attention",
            "more_rows_than_a_block",
            &[&[101, 2], &[3, 2], &[3, 2], &[101, 3]],
            |x| ops::attention(&x[0], &x[1], &x[2], Some(&x[3]), 0.7),
        ),
        Sample::new(
            "attention",
            "more_keys_than_a_tile",
            &[&[2, 3], &[70, 3], &[70, 1], &[70]],
            |x| ops::attention(&x[0], &x[1], &x[2], Some(&x[3]), 1.0),
        ),
        Sample::new(
            "attention",
            "wider_than_a_tile",
            &[&[2, 2, 70], &[2, 3, 70], &[2, 3, 66]],
            |x| ops::attention(&x[0], &x[1], &x[2], None, 0.1),
        ),
        Sample::new("attention", "packed", &[&[2, 5, 3 * 2 * 3]], |x| {
            let [q, k, v] = unpacked(&x[0], 2)?;
            ops::attention(&q, &k, &v, None, 0.577)
        }),
        Sample::new(
            "attention",
            "heads_side_by_side",
            &[&[2, 5, 3 * 2 * 3]],
            |x| ops::attention_packed(&[&x[0]], 2, None, 0.577),
        ),
        Sample::new(
            "attention",
            "keys_and_values_side_by_side",
            &[&[2, 3, 4], &[2, 5, 8], &[2, 3, 5]],
            |x| ops::attention_packed(&[&x[0], &x[1]], 2, Some(&x[2]), 0.707),
        ),
        Sample::new(
            "attention",
            "each_with_heads_side_by_side",
            &[&[2, 3, 3], &[2, 4, 3], &[2, 4, 3]],
            |x| ops::attention_packed(&[&x[0], &x[1], &x[2]], 3, None, 1.0),
        ),
        // Not row-major: axes cannot be split before it is copied.
        Sample::new("attention", "turned_and_packed", &[&[12, 2, 4]], |x| {
            let turned = ops::permute(&x[0], &[1, 2, 0])?;
            ops::attention_packed(&[&turned], 2, None, 0.7)
        }),
        // Leading axes that differ: made of products and a softmax.
        Sample::new(
            "attention",
            "broadcast",
            &[&[2, 1, 3, 2], &[3, 4, 2], &[4, 5], &[2, 1, 1, 4]],
            |x| ops::attention(&x[0], &x[1], &x[2], Some(&x[3]), 0.7),
        ),
        Sample::new(
            "attention",
            "weights",
            &[&[2, 3, 5, 7], &[2, 3, 4, 7], &[2, 3, 4, 6]],
            |x| Ok(ops::attention_with_weights(&x[0], &x[1], &x[2], None, 0.378)?.1),
        ),
        Sample::new(
            "attention",
            "result_and_weights",
            &[&[2, 2, 5, 3], &[2, 2, 5, 3], &[2, 2, 5, 4], &[2, 5, 5]],
            |x| {
                let (out, weights) =
                    ops::attention_with_weights(&x[0], &x[1], &x[2], Some(&x[3]), 0.577)?;
                ops::cat(&[&out, &weights], -1)
            },
        ),
        Sample::new(
            "attention",
            "result_and_weights_broadcast",
            &[&[2, 3, 2], &[4, 2], &[4, 2]],
            |x| {
                let (out, weights) = ops::attention_with_weights(&x[0], &x[1], &x[2], None, 0.7)?;
                ops::cat(&[&out, &weights], -1)
            },
        ),
    ]
}

/// Queries, keys and values (B, heads, N, D) of (B, N, 3 heads D), as views.
fn unpacked(x: &Tensor, heads: usize) -> Result<[Tensor; 3]> {
    let (b, n, all) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    let split = ops::reshape(x, &[b, n, 3, heads, all / 3 / heads])?;
    let turned = ops::permute(&split, &[2, 0, 3, 1, 4])?;
    let part = |i: usize| -> Result<Tensor> {
        let one = ops::slice(&turned, 0, i, 1)?;
        ops::reshape(&one, &turned.shape()[1..])
    };
    Ok([part(0)?, part(1)?, part(2)?])
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
        let bias = zeros(&[5, 5])?;
        let error = ops::attention(&q, &k, &k, Some(&bias), 1.0).expect_err("another bias");
        assert_eq!(
            error.to_string(),
            "attention: shapes [2, 5, 7], [2, 4, 7], [2, 4, 7], [5, 5] do not fit: \
             a bias that broadcasts against [5, 4], queries and keys"
        );
        let bias = zeros(&[3, 5, 4])?;
        assert!(ops::attention(&q, &k, &k, Some(&bias), 1.0).is_err());
        let doubles = ops::cast(&k, DType::F64)?;
        let error = ops::attention_with_weights(&q, &k, &doubles, None, 1.0);
        assert_eq!(
            error.expect_err("two dtypes").to_string(),
            "attention: dtypes [F32, F32, F64] do not fit: \
             floats of one dtype are needed; convert the others with cast"
        );
        Ok(())
    });
    suite.test("attention::packed_otherwise", || {
        let zeros = |s: &[usize]| Tensor::zeros(s, DType::F32);
        let qkv = zeros(&[2, 5, 12])?;
        let error = ops::attention_packed(&[&qkv], 3, None, 1.0).expect_err("a width of 4");
        assert_eq!(
            error.to_string(),
            "attention: shapes [2, 5, 12] do not fit: qkv (B, N, 3 E), or q (B, M, E) and \
             kv (B, N, 2 E), or q (B, M, E), k and v (B, N, E), with an E that 3 heads divide"
        );
        let (q, kv, k) = (zeros(&[2, 3, 4])?, zeros(&[2, 5, 8])?, zeros(&[2, 5, 4])?);
        for wrong in [
            &[][..],
            &[&zeros(&[5, 12])?],
            &[&zeros(&[2, 5, 13])?],
            &[&q, &k],
            &[&kv, &kv],
            &[&q, &zeros(&[3, 5, 8])?],
            &[&q, &k, &zeros(&[2, 4, 4])?],
            &[&q, &k, &k, &k],
        ] {
            assert!(ops::attention_packed(wrong, 2, None, 1.0).is_err());
        }
        assert!(ops::attention_packed(&[&qkv], 0, None, 1.0).is_err());
        let bias = zeros(&[3, 3, 5])?;
        assert!(ops::attention_packed(&[&q, &kv], 2, Some(&bias), 1.0).is_err());
        let doubles = ops::cast(&kv, DType::F64)?;
        assert!(ops::attention_packed(&[&q, &doubles], 2, None, 1.0).is_err());
        let none = ops::attention_packed(&[&zeros(&[0, 5, 12])?], 2, None, 1.0)?;
        assert_eq!(none.shape(), [0, 5, 4]);
        Ok(())
    });
    suite.test(
        "attention::packed_has_the_bits_of_its_views",
        packed_has_the_bits_of_its_views,
    );
    suite.test("attention::empty", || {
        let zeros = |s: &[usize]| Tensor::zeros(s, DType::F32);
        let (q, k) = (zeros(&[0, 5, 7])?, zeros(&[0, 4, 7])?);
        let out = ops::attention(&q, &k, &k, None, 1.0)?;
        assert_eq!(out.shape(), [0, 5, 7]);
        // Without queries nothing comes out, without keys nothing comes in.
        for (m, n) in [(0, 4), (5, 0)] {
            let (q, k) = (zeros(&[2, m, 7])?.variable(), zeros(&[2, n, 7])?.variable());
            let (out, weights) = ops::attention_with_weights(&q, &k, &k, None, 1.0)?;
            assert_eq!(
                (out.shape(), weights.shape()),
                (&[2, m, 7][..], &[2, m, n][..])
            );
            assert!(out.to_vec::<f32>()?.iter().all(|&v| v == 0.0));
            let g = grad(&[&ops::sum_all(&out)?], None, &[&q, &k], false)?;
            assert_eq!(g[0].as_ref().map(Tensor::shape), Some(q.shape()));
            assert_eq!(g[1].as_ref().map(Tensor::shape), Some(k.shape()));
        }
        Ok(())
    });
    suite.test("attention::keys_that_are_left_out", || {
        const LOW: f32 = f32::NEG_INFINITY;
        let bias = Tensor::from_slice(&[0.0, LOW, LOW, LOW, LOW, LOW], &[2, 3])?;
        let [q, k, v] = ["q", "k", "v"].map(|n| tensor(n, &[3, 3], -1.0, 1.0, DType::F32));
        let (q, k, v) = (ops::slice(&q?, 0, 0, 2)?, k?, v?);
        let (out, weights) = ops::attention_with_weights(&q, &k, &v, Some(&bias), 1.0)?;
        let weights = weights.to_vec::<f32>()?;
        assert_eq!(weights[..3], [1.0, 0.0, 0.0]);
        assert!(weights[3..].iter().all(|v| v.is_nan()), "no key is left");
        assert_eq!(out.to_vec::<f32>()?[..3], v.to_vec::<f32>()?[..3]);
        Ok(())
    });
    large().into_iter().for_each(|s| suite.on_cuda_alone(s));
    for (name, dtype) in [("bf16", DType::BF16), ("f16", DType::F16)] {
        for s in large() {
            let name = format!("attention::{}::cuda::{name}::values_and_gradients", s.name);
            suite.test(name, move || cuda_half_first_order(&s, dtype));
        }
    }
    suite.test(
        "attention::one_pass_equals_its_parts",
        one_pass_equals_its_parts,
    );
    suite.test(
        "attention::gradients_in_one_pass_equal_the_recorded_ones",
        || {
            for &(_, shapes, heads) in SHAPES {
                let [q, k, v, bias] = operands(shapes, heads, DType::F64)?.map(|t| t.variable());
                let out = ops::attention(&q, &k, &v, Some(&bias), 0.147)?;
                let g = tensor("g", out.shape(), -1.0, 1.0, DType::F64)?;
                let gradients = |create_graph| -> Result<Vec<f64>> {
                    let all = grad(&[&out], Some(&[&g]), &[&q, &k, &v, &bias], create_graph)?;
                    let each = all.iter().flatten().map(Tensor::to_f64_vec);
                    Ok(each.collect::<Result<Vec<_>>>()?.concat())
                };
                let error = relative_l2(&gradients(false)?, &gradients(true)?);
                assert!(error < 1e-13, "{shapes:?}: {error:e}");
            }
            Ok(())
        },
    );
    suite.test("attention::a_sample_alone_has_the_same_bits", || {
        for &(_, shapes, heads) in SHAPES {
            let all = operands(shapes, heads, DType::F32)?;
            let alone: Vec<Tensor> = all[..3]
                .iter()
                .map(|t| ops::slice(t, 0, 1, 1))
                .collect::<Result<_>>()?;
            let whole = ops::attention(&all[0], &all[1], &all[2], Some(&all[3]), 0.147)?;
            let one = ops::attention(&alone[0], &alone[1], &alone[2], Some(&all[3]), 0.147)?;
            let same = ops::slice(&whole, 0, 1, 1)?;
            assert_eq!(one.to_vec::<f32>()?, same.to_vec::<f32>()?, "{shapes:?}");
            // So has a query.
            let query = ops::slice(&all[0], 2, 2, 1)?;
            let bias = ops::slice(&all[3], 1, 2, 1)?;
            let one = ops::attention(&query, &all[1], &all[2], Some(&bias), 0.147)?;
            let same = ops::slice(&whole, 2, 2, 1)?;
            assert_eq!(one.to_vec::<f32>()?, same.to_vec::<f32>()?, "{shapes:?}");
        }
        Ok(())
    });
}

/// What for, (queries, keys, width), heads: those of tRNAsformer and TCGN.
const SHAPES: &[(&str, [usize; 3], usize)] = &[
    ("tokens", [50, 50, 64], 2),
    ("tokens_of_one_head", [50, 50, 192], 1),
    ("few_keys", [784, 49, 46], 2),
    ("graph", [196, 196, 92], 2),
    ("narrow_graph", [196, 196, 6], 2),
    ("channels", [232, 232, 49], 1),
];

/// Key sets and widths of the models, with fewer queries where those are many, and
/// where one pass ends: two tiles of queries, four of keys, the most keys and one more.
fn large() -> Vec<Sample> {
    let of = |name, heads, [m, n, d]: [usize; 3]| {
        let (q, k, bias) = ([2, heads, m, d], [2, heads, n, d], [heads, m, n]);
        Sample::new("attention", name, &[&q, &k, &k, &bias], |x| {
            ops::attention(&x[0], &x[1], &x[2], Some(&x[3]), 0.147)
        })
    };
    let scores = Sample::new(
        "attention",
        "scores_of_a_graph",
        &[&[2, 5, 46], &[2, 196, 46], &[2, 196, 46], &[5, 196]],
        |x| {
            let (out, weights) =
                ops::attention_with_weights(&x[0], &x[1], &x[2], Some(&x[3]), 0.147)?;
            ops::cat(&[&out, &weights], -1)
        },
    );
    vec![
        of("tokens", 1, [50, 50, 64]),
        of("tokens_of_one_head", 1, [7, 50, 192]),
        of("few_keys", 2, [70, 49, 46]),
        of("graph", 1, [9, 196, 92]),
        of("edges", 1, [9, 196, 24]),
        of("narrow_graph", 2, [9, 196, 6]),
        of("channels", 1, [60, 60, 49]),
        packed("packed_tokens", &[&[2, 50, 3 * 2 * 64]], 2),
        packed("packed_tokens_of_one_head", &[&[1, 50, 3 * 192]], 1),
        packed("packed_most_rows", &[&[1, 64, 3 * 2 * 3]], 2),
        packed("packed_many_rows", &[&[1, 65, 3 * 2 * 3]], 2),
        packed(
            "packed_with_a_bias",
            &[&[1, 70, 92], &[1, 49, 184], &[2, 70, 49]],
            2,
        ),
        of("most_keys", 1, [3, 240, 6]),
        of("too_many_keys", 1, [3, 241, 6]),
        scores,
    ]
}

/// qkv, or q, kv and a bias.
fn packed(name: &'static str, shapes: &[&[usize]], heads: usize) -> Sample {
    Sample::new("attention", name, shapes, move |x| match x {
        [q, kv, bias] => ops::attention_packed(&[q, kv], heads, Some(bias), 0.147),
        _ => ops::attention_packed(&[&x[0]], heads, None, 0.147),
    })
}

/// Result and gradients, of heads side by side and of copies of their views.
fn packed_has_the_bits_of_its_views() -> Result<()> {
    for (dtype, [n, depth], heads) in [
        (DType::F32, [50, 64], 6),
        (DType::F32, [50, 192], 1),
        (DType::F64, [101, 3], 2),
        (DType::BF16, [50, 64], 2),
        (DType::F16, [7, 5], 3),
    ] {
        let qkv = tensor("qkv", &[2, n, 3 * heads * depth], -1.0, 1.0, dtype)?.variable();
        let of = |y: Tensor| -> Result<[Vec<f64>; 2]> {
            let g = tensor("g", y.shape(), -1.0, 1.0, dtype)?;
            let gradient = grad(&[&y], Some(&[&g]), &[&qkv], false)?.remove(0);
            Ok([y.to_f64_vec()?, gradient.expect("a gradient").to_f64_vec()?])
        };
        let packed = of(ops::attention_packed(&[&qkv], heads, None, 0.147)?)?;
        let [q, k, v] = unpacked(&qkv, heads)?;
        let y = ops::transpose(&ops::attention(&q, &k, &v, None, 0.147)?, 1, 2)?;
        let apart = of(ops::reshape(&y, &[2, n, heads * depth])?)?;
        assert!(
            packed == apart,
            "{dtype}, {n} rows, {heads} heads of {depth}"
        );
    }
    Ok(())
}

/// q, k, v of 2 samples and a bias of the heads.
fn operands([m, n, d]: [usize; 3], heads: usize, dtype: DType) -> Result<[Tensor; 4]> {
    Ok([
        tensor("q", &[2, heads, m, d], -1.0, 1.0, dtype)?,
        tensor("k", &[2, heads, n, d], -1.0, 1.0, dtype)?,
        tensor("v", &[2, heads, n, d], -1.0, 1.0, dtype)?,
        tensor("bias", &[heads, m, n], -1.0, 1.0, dtype)?,
    ])
}

/// At the models' shapes, f32 and f64, result, weights and all gradients.
fn one_pass_equals_its_parts() -> Result<()> {
    for &(name, shapes, heads) in SHAPES {
        let run = |dtype, in_parts: bool| -> Result<Vec<Vec<f64>>> {
            let [q, k, v, bias] = operands(shapes, heads, dtype)?.map(|t| t.variable());
            let (out, weights) = if in_parts {
                let scores =
                    ops::matmul(&ops::affine(&q, 0.147, 0.0)?, &ops::transpose(&k, -1, -2)?)?;
                let weights = ops::softmax(&ops::add(&scores, &bias)?, -1)?;
                (ops::matmul(&weights, &v)?, weights)
            } else {
                let plain = ops::attention(&q, &k, &v, Some(&bias), 0.147)?;
                let (out, weights) = ops::attention_with_weights(&q, &k, &v, Some(&bias), 0.147)?;
                assert_eq!(plain.to_f64_vec()?, out.to_f64_vec()?, "{name}");
                (plain, weights)
            };
            let g = tensor("g", out.shape(), -1.0, 1.0, dtype)?;
            let mut all = vec![out.to_f64_vec()?, weights.to_f64_vec()?];
            for g in grad(&[&out], Some(&[&g]), &[&q, &k, &v, &bias], false)? {
                all.push(g.expect("a gradient").to_f64_vec()?);
            }
            Ok(all)
        };
        let exact = run(DType::F64, true)?;
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 2e-6)] {
            for (i, (got, want)) in run(dtype, false)?.iter().zip(&exact).enumerate() {
                let error = relative_l2(got, want);
                assert!(
                    error < tolerance,
                    "{name} {dtype}: result {i} is off by {error:e}"
                );
            }
        }
    }
    Ok(())
}

pub fn golden(case: &Case) -> Option<Outputs> {
    if case.op != "attention" {
        return None;
    }
    let (q, k, v) = (case.input("q"), case.input("k"), case.input("v"));
    let scale = 1.0 / 14.0;
    // What a multiple of the identity adds.
    let with_diagonal = |diagonal: f64| {
        let n = k.shape()[k.rank() - 2];
        let bias: Vec<f64> = (0..n * n)
            .map(|i| if i % (n + 1) == 0 { diagonal } else { 0.0 })
            .collect();
        let bias = ops::cast(&Tensor::from_slice(&bias, &[n, n])?, q.dtype())?;
        let bias = case.local(bias)?;
        let (out, graph) = ops::attention_with_weights(q, k, v, Some(&bias), scale)?;
        Ok(vec![("out", out), ("graph", graph)])
    };
    Some(match case.attrs["scores"].as_str() {
        Some("(qk + I)/sqrt(196)") => with_diagonal(scale),
        Some("qk/sqrt(196) + I") => with_diagonal(1.0),
        _ => ops::attention(q, k, v, case.optional("bias"), case.number("scale"))
            .map(|t| vec![("out", t)]),
    })
}
