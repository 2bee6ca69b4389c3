use eosin::autograd::grad;
use eosin::{DType, Device, Result, Tensor, ops};
use eosin_emulator::Schedule;

use crate::common::{relative_l2, tensor};
use crate::harness::{Sample, Suite, cuda_half_first_order, emulated};

/// In the dtype of the operands, which the harness compares by.
fn top_mean(name: &'static str, shapes: &[&[usize]], k: usize) -> Sample {
    let sample = Sample::new("linear_top_mean", name, shapes, move |x| {
        let y = ops::linear_top_mean(&x[0], &x[1], x.get(2), k)?;
        ops::cast(&y, x[0].dtype())
    });
    sample.choice()
}

fn top_means(
    name: &'static str,
    shapes: &[&[usize]],
    ks: &'static [usize],
    joined: bool,
) -> Sample {
    let sample = Sample::new("linear_top_means", name, shapes, move |x| {
        let x: Vec<Tensor> = x.iter().map(Tensor::detach).collect();
        let y = ops::linear_top_means(&x[0], &x[1], x.get(2), ks, joined)?;
        ops::cast(&y, x[0].dtype())
    });
    sample.choice()
}

pub fn samples() -> Vec<Sample> {
    vec![
        top_mean("few", &[&[2, 5, 7], &[6, 7], &[6]], 2),
        top_mean("highest", &[&[3, 4, 3], &[70, 3]], 1),
        top_mean("all_tiles", &[&[2, 4, 3], &[5, 3], &[5]], 4),
        top_mean("one_tile", &[&[2, 1, 3], &[5, 3], &[5]], 1),
        // Made of its parts on CUDA.
        top_mean("more_tiles", &[&[1, 50, 2], &[3, 2], &[3]], 3),
        top_means("each", &[&[2, 5, 7], &[6, 7], &[6]], &[1, 3, 5], false),
        top_means("mean", &[&[3, 4, 3], &[70, 3]], &[1, 2, 4], true),
        top_means("more_tiles", &[&[1, 50, 2], &[3, 2]], &[1, 50], false),
        top_means("more_tiles_mean", &[&[1, 50, 2], &[3, 2]], &[2, 3], true),
    ]
}

/// More bags than a block has, several blocks of genes, and a sum that is cut.
fn large() -> Vec<Sample> {
    vec![
        top_mean("bags", &[&[6, 49, 24], &[130, 24], &[130]], 10),
        top_mean("parts", &[&[1, 3, 5], &[1100, 5], &[1100]], 2),
        top_mean("wide", &[&[2, 7, 132], &[70, 132]], 5),
        top_means("bags", &[&[6, 49, 24], &[130, 24], &[130]], &KS, true),
        top_means("bags_each", &[&[2, 48, 9], &[65, 9]], &[1, 20, 48], false),
    ]
}

const KS: [usize; 6] = [1, 2, 5, 10, 20, 49];

pub fn tests(suite: &mut Suite) {
    large().into_iter().for_each(|s| suite.on_cuda_alone(s));
    for (name, dtype) in [("bf16", DType::BF16), ("f16", DType::F16)] {
        for s in large() {
            let name = format!("{}::{}::cuda::{name}::values_and_gradients", s.op, s.name);
            suite.test(name, move || cuda_half_first_order(&s, dtype));
        }
    }
    suite.test("linear_top_mean::wrong_input", wrong_input);
    suite.test("linear_top_mean::empty", empty);
    suite.test("linear_top_mean::equals_its_parts", equals_its_parts);
    for (name, dtype) in [("f32", DType::F32), ("bf16", DType::BF16)] {
        suite.test(
            format!("linear_top_mean::equal_scores::{name}"),
            move || equal_scores(dtype),
        );
    }
    suite.test("linear_top_mean::a_bag_alone_has_the_same_bits", || {
        let [x, w, bias] = operands(DType::F32)?;
        for device in [Device::Cpu, emulated(Schedule::Forward)?] {
            let [x, w, bias] = [x.to(&device)?, w.to(&device)?, bias.to(&device)?];
            let all = ops::linear_top_mean(&x, &w, Some(&bias), 10)?;
            let one = ops::slice(&x, 0, 1, 1)?;
            let one = ops::linear_top_mean(&one, &w, Some(&bias), 10)?;
            let same = ops::slice(&all, 0, 1, 1)?;
            assert_eq!(one.to_vec::<f32>()?, same.to_vec::<f32>()?);
        }
        Ok(())
    });
}

fn wrong_input() -> Result<()> {
    let zeros = |s: &[usize]| Tensor::zeros(s, DType::F32);
    let (x, w, bias) = (zeros(&[2, 5, 7])?, zeros(&[4, 7])?, zeros(&[4])?);
    let error = ops::linear_top_mean(&x, &bias, None, 2).expect_err("no matrix");
    assert_eq!(
        error.to_string(),
        "linear_top_mean: shapes [2, 5, 7], [4] do not fit: x (B, T, E), w (G, E), bias (G)"
    );
    assert!(ops::linear_top_mean(&x, &w, Some(&zeros(&[5])?), 2).is_err());
    assert!(ops::linear_top_mean(&w, &w, None, 2).is_err());
    for k in [0, 6] {
        let error = ops::linear_top_mean(&x, &w, Some(&bias), k).expect_err("no such k");
        assert_eq!(
            error.to_string(),
            format!(
                "linear_top_mean: shapes [2, 5, 7] do not fit: \
                 a bag of 5 tiles has no {k} highest: give 1 to 5"
            )
        );
        assert!(ops::linear_top_means(&x, &w, None, &[1, k], false).is_err());
    }
    assert!(ops::linear_top_mean(&x, &ops::cast(&w, DType::F64)?, None, 2).is_err());
    for ks in [&[][..], &[2, 2], &[3, 1]] {
        let error = ops::linear_top_means(&x, &w, None, ks, true).expect_err("no order");
        assert!(error.to_string().contains("that ascend"), "{error}");
    }
    let error = ops::linear_top_means(&x.variable(), &w, None, &[1], true);
    let error = error.expect_err("a recorded input");
    assert!(matches!(error, eosin::Error::NoGradient { .. }), "{error}");
    Ok(())
}

fn empty() -> Result<()> {
    for device in [Device::Cpu, emulated(Schedule::Forward)?] {
        let zeros = |s: &[usize]| Tensor::full_on(0.0, s, DType::F32, &device);
        for (x, w) in [([0, 5, 7], [4, 7]), ([2, 5, 7], [0, 7])] {
            let (x, w) = (zeros(&x)?.variable(), zeros(&w)?.variable());
            let y = ops::linear_top_mean(&x, &w, None, 3)?;
            assert_eq!(y.shape(), [x.shape()[0], w.shape()[0]]);
            let g = grad(&[&ops::sum_all(&y)?], None, &[&x, &w], false)?;
            assert_eq!(g[0].as_ref().map(Tensor::shape), Some(x.shape()));
            assert_eq!(g[1].as_ref().map(Tensor::shape), Some(w.shape()));
            let y = ops::linear_top_means(&x.detach(), &w.detach(), None, &[1, 3], false)?;
            assert_eq!(y.shape(), [x.shape()[0], 2, w.shape()[0]]);
        }
        // Without features every score is the bias.
        let bias = Tensor::from_slice(&[1.5f32, -2.0], &[2])?.to(&device)?;
        let y = ops::linear_top_mean(&zeros(&[1, 3, 0])?, &zeros(&[2, 0])?, Some(&bias), 2)?;
        assert_eq!(y.to_vec::<f32>()?, [1.5, -2.0]);
    }
    Ok(())
}

/// 3 bags, more genes than are sorted side by side.
fn operands(dtype: DType) -> Result<[Tensor; 3]> {
    Ok([
        tensor("tokens", &[3, 49, 24], -1.0, 1.0, dtype)?,
        tensor("weight", &[700, 24], -1.0, 1.0, dtype)?,
        tensor("bias", &[700], -1.0, 1.0, dtype)?,
    ])
}

fn equals_its_parts() -> Result<()> {
    let [x, w, bias] = operands(DType::F64)?.map(|t| t.variable());
    let scores = ops::linear(&x, &w, Some(&bias), ops::Activation::None)?;
    let plain = [&x, &w, &bias].map(Tensor::detach);
    let each = ops::linear_top_means(&plain[0], &plain[1], Some(&plain[2]), &KS, false)?;
    let mut means = Vec::new();
    for (i, &k) in KS.iter().enumerate() {
        let want = ops::mean(&ops::topk(&scores, k, 1)?.0, &[1], false)?;
        let got = ops::linear_top_mean(&x, &w, Some(&bias), k)?;
        let of_each = ops::reshape(&ops::slice(&each, 1, i, 1)?, got.shape())?;
        let dy = tensor("dy", got.shape(), -1.0, 1.0, DType::F64)?;
        let everything = |y: &Tensor| -> Result<Vec<Vec<f64>>> {
            let mut all = vec![y.to_f64_vec()?];
            for g in grad(&[y], Some(&[&dy]), &[&x, &w, &bias], false)? {
                all.push(g.expect("a gradient").to_f64_vec()?);
            }
            Ok(all)
        };
        let want = everything(&want)?;
        for (got, want) in everything(&got)?.iter().zip(&want) {
            let error = relative_l2(got, want);
            assert!(error < 1e-13, "{k} tiles: {error:e}");
        }
        assert!(relative_l2(&of_each.to_f64_vec()?, &want[0]) < 1e-14);
        means.push(want[0].clone());
    }
    let joined = ops::linear_top_means(&plain[0], &plain[1], Some(&plain[2]), &KS, true)?;
    let mean = |i: usize| means.iter().map(|m| m[i]).sum::<f64>() / KS.len() as f64;
    let want: Vec<f64> = (0..means[0].len()).map(mean).collect();
    assert!(relative_l2(&joined.to_f64_vec()?, &want) < 1e-14);
    Ok(())
}

/// Tiles of one number and a weight of 1, so that scores are known: of equal ones the
/// first is chosen, -0 is 0, NaN is above infinity.
fn equal_scores(dtype: DType) -> Result<()> {
    const NAN: f32 = f32::NAN;
    const TOP: f32 = f32::INFINITY;
    let cases: [(&[f32; 5], usize, &[f32; 5], f32); 7] = [
        (&[1.0, 3.0, 2.0, 3.0, 3.0], 1, &[0., 1., 0., 0., 0.], 3.0),
        (&[1.0, 3.0, 2.0, 3.0, 3.0], 2, &[0., 1., 0., 1., 0.], 3.0),
        (&[1.0, 3.0, 2.0, 3.0, 3.0], 4, &[0., 1., 1., 1., 1.], 2.75),
        (&[-0.0, 0.0, -1.0, 0.0, -0.0], 2, &[1., 1., 0., 0., 0.], 0.0),
        (&[TOP, 1.0, NAN, 2.0, NAN], 1, &[0., 0., 1., 0., 0.], NAN),
        (&[TOP, 1.0, NAN, 2.0, NAN], 3, &[1., 0., 1., 0., 1.], NAN),
        (&[TOP, 1.0, -TOP, 2.0, 0.0], 1, &[1., 0., 0., 0., 0.], TOP),
    ];
    for device in [
        Device::Cpu,
        emulated(Schedule::Forward)?,
        emulated(Schedule::Greedy(5))?,
    ] {
        for (scores, k, chosen, mean) in cases {
            let x = ops::cast(&Tensor::from_slice(scores, &[1, 5, 1])?, dtype)?;
            let w = Tensor::full(1.0, &[70, 1], dtype)?;
            let (x, w) = (x.to(&device)?.variable(), w.to(&device)?.variable());
            let y = ops::linear_top_mean(&x, &w, None, k)?;
            let one = |t: Option<&Tensor>| -> Result<Vec<f32>> {
                ops::cast(t.expect("a gradient"), DType::F32)?.to_vec()
            };
            let values = y.to_vec::<f32>()?;
            let same = |v: &f32| *v == mean || (v.is_nan() && mean.is_nan());
            assert!(values.iter().all(same), "{scores:?}, {k}: {values:?}");
            // 70 genes with a gradient of k / 64 each, which every dtype holds.
            let dy = Tensor::full_on(k as f64 / 64.0, y.shape(), DType::F32, &device)?;
            let dx = grad(&[&y], Some(&[&dy]), &[&x], false)?;
            let want: Vec<f32> = chosen.iter().map(|c| c * 70.0 / 64.0).collect();
            assert_eq!(one(dx[0].as_ref())?, want, "{scores:?}, {k} on {device:?}");
        }
    }
    Ok(())
}
