use eosin::autograd::grad;
use eosin::nn::{self, Module, Pass, State};
use eosin::ops::{Activation, Around, BatchNorm};
use eosin::random::Philox;
use eosin::shape::Format;
use eosin::{DType, Device, Error, Result, Tensor, ops};
use eosin_emulator::Schedule;

use crate::common::{relative_l2, tensor};
use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite, cuda_half_first_order, emulated};

const EPS: f64 = 1e-5;

const CHANNELS: &[(&str, &[usize], usize)] = &[
    ("rows", &[7, 5], 5),
    ("wide_rows", &[3, 165], 165),
    ("sequence", &[3, 5, 7], 5),
    ("image_3", &[3, 3, 4, 5], 3),
    ("image_46", &[2, 46, 2, 3], 46),
    ("image_165", &[2, 165, 1, 2], 165),
    ("pixel", &[6, 3, 1, 1], 3),
    ("one_sample", &[1, 3, 3, 3], 3),
    ("one_channel", &[2, 1, 3, 3], 1),
];

fn train(x: &[Tensor]) -> Result<Tensor> {
    Ok(ops::batch_norm_train(&x[0], x.get(1), x.get(2), EPS)?.output)
}

fn eval(x: &[Tensor], mean: &Tensor, var: &Tensor) -> Result<Tensor> {
    let place = x[0].device();
    ops::batch_norm_eval(
        &x[0],
        &mean.to(&place)?,
        &var.to(&place)?,
        x.get(1),
        x.get(2),
        EPS,
    )
}

/// Running mean and variance.
fn statistics(channels: usize) -> (Tensor, Tensor) {
    let mean = tensor("mean", &[channels], -0.5, 0.5, DType::F32);
    let var = tensor("var", &[channels], 0.5, 1.5, DType::F32);
    (mean.expect("a mean"), var.expect("a variance"))
}

pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for &(name, shape, channels) in CHANNELS {
        let c: &[usize] = &[channels];
        let (mean, var) = statistics(channels);
        all.push(Sample::new("batch_norm_train", name, &[shape, c, c], train));
        all.push(Sample::new(
            "batch_norm_eval",
            name,
            &[shape, c, c],
            move |x| eval(x, &mean, &var),
        ));
    }
    for (name, activation) in [
        ("gelu_before", Activation::Gelu),
        ("silu_before", Activation::Silu),
        ("tanh_before", Activation::Tanh),
        ("sigmoid_before", Activation::Sigmoid),
        ("leaky_relu_before", Activation::LeakyRelu(0.2)),
    ] {
        let shape: &[usize] = &[2, 5, 3, 2];
        all.push(Sample::new(
            "batch_norm_train",
            name,
            &[shape, &[5], &[5], shape],
            move |x| {
                let around = Around {
                    activation,
                    residual: Some(&x[3]),
                    ..Around::default()
                };
                let (w, b) = (Some(&x[1]), Some(&x[2]));
                Ok(ops::batch_norm_train_around(&x[0], w, b, EPS, &around)?.output)
            },
        ));
        let (mean, var) = statistics(5);
        all.push(Sample::new(
            "batch_norm_eval",
            name,
            &[shape, &[5], &[5], shape],
            move |x| {
                let place = x[0].device();
                let (mean, var) = (mean.to(&place)?, var.to(&place)?);
                let around = Around {
                    activation,
                    residual: Some(&x[3]),
                    ..Around::default()
                };
                let (w, b) = (Some(&x[1]), Some(&x[2]));
                ops::batch_norm_eval_around(&x[0], [&mean, &var], w, b, EPS, &around)
            },
        ));
    }
    let (mean, var) = statistics(5);
    all.push(Sample::new(
        "batch_norm_train",
        "plain",
        &[&[4, 5, 3]],
        train,
    ));
    all.push(Sample::new(
        "batch_norm_train",
        "no_weight",
        &[&[4, 5, 3], &[5]],
        |x| Ok(ops::batch_norm_train(&x[0], None, Some(&x[1]), EPS)?.output),
    ));
    all.push(Sample::new(
        "batch_norm_eval",
        "plain",
        &[&[4, 5, 3]],
        move |x| eval(x, &mean, &var),
    ));
    let (mean, var) = statistics(5);
    all.push(Sample::new(
        "batch_norm_eval",
        "no_weight",
        &[&[4, 5, 3], &[5]],
        move |x| {
            let place = x[0].device();
            let (mean, var) = (mean.to(&place)?, var.to(&place)?);
            ops::batch_norm_eval(&x[0], &mean, &var, None, Some(&x[1]), EPS)
        },
    ));

    let rows: [(&str, &[usize], usize); 6] = [
        ("row", &[3, 37], 1),
        ("tokens", &[2, 5, 46], 1),
        ("two_axes", &[3, 4, 5], 2),
        ("image", &[2, 3, 4, 5], 3),
        ("width", &[2, 3, 4, 5], 1),
        ("everything", &[4, 3], 2),
    ];
    for (name, shape, axes) in rows {
        let d = &shape[shape.len() - axes..];
        all.push(Sample::new("layer_norm", name, &[shape, d, d], move |x| {
            ops::layer_norm(&x[0], axes, Some(&x[1]), Some(&x[2]), EPS)
        }));
    }
    // The sum and its norm, of which both are read.
    for (name, shape, parameters) in [
        ("rows", &[7, 9][..], true),
        ("samples", &[2, 3, 46], true),
        ("long_row", &[2, 1100], true),
        ("plain", &[3, 9], false),
    ] {
        let d = &shape[shape.len() - 1..];
        let inputs = [shape, shape, d, d];
        let inputs = &inputs[..if parameters { 4 } else { 2 }];
        all.push(Sample::new("add_layer_norm", name, inputs, |x| {
            let (sum, y) = ops::add_layer_norm(&x[0], &x[1], 1, x.get(2), x.get(3), EPS)?;
            ops::cat(&[&sum, &y], 0)
        }));
    }
    all.push(Sample::new("layer_norm", "plain", &[&[3, 9]], |x| {
        ops::layer_norm(&x[0], 1, None, None, EPS)
    }));
    all.push(Sample::new(
        "layer_norm",
        "no_bias",
        &[&[3, 9], &[9]],
        |x| ops::layer_norm(&x[0], 1, Some(&x[1]), None, EPS),
    ));
    all.push(Sample::new(
        "layer_norm",
        "no_weight",
        &[&[3, 9], &[9]],
        |x| ops::layer_norm(&x[0], 1, None, Some(&x[1]), EPS),
    ));

    let groups: [(&str, &[usize], usize); 4] = [
        ("one", &[2, 46, 2, 3], 1),
        ("three", &[2, 6, 3, 2], 3),
        ("each", &[2, 3, 2, 2], 3),
        ("sequence", &[2, 6, 5], 2),
    ];
    for (name, shape, groups) in groups {
        let c = &shape[1..2];
        all.push(Sample::new("group_norm", name, &[shape, c, c], move |x| {
            ops::group_norm(&x[0], groups, Some(&x[1]), Some(&x[2]), EPS)
        }));
    }
    all.push(Sample::new("group_norm", "plain", &[&[2, 6, 3]], |x| {
        ops::group_norm(&x[0], 2, None, None, EPS)
    }));
    all
}

/// The gradients of `y` with fixed weights.
fn gradients(y: &Tensor, inputs: &[&Tensor], create_graph: bool) -> Result<Vec<Vec<f64>>> {
    let weight = tensor("upstream", y.shape(), -1.0, 1.0, y.dtype())?;
    let all = grad(&[y], Some(&[&weight]), inputs, create_graph)?;
    all.iter().flatten().map(Tensor::to_f64_vec).collect()
}

pub fn tests(suite: &mut Suite) {
    suite.test("batch_norm::wrong_input", || {
        let zeros = |s: &[usize]| Tensor::zeros(s, DType::F32);
        let message = |x: &[usize]| -> Result<String> {
            let outcome = ops::batch_norm_train(&zeros(x)?, None, None, EPS);
            Ok(outcome.err().expect("an error").to_string())
        };
        assert_eq!(
            message(&[1, 6, 1, 1])?,
            "batch_norm_train: shapes [1, 6, 1, 1] do not fit: \
             training needs more than one value per channel"
        );
        assert!(message(&[1, 6])?.ends_with("more than one value per channel"));
        assert!(message(&[0, 6])?.ends_with("more than one value per channel"));
        assert!(message(&[6])?.starts_with("batch_norm_train: shapes [6] do not fit: x (N, C),"));
        assert!(message(&[2, 3, 1, 1, 1])?.contains("(N, C, H, W)"));
        let (x, c, other) = (zeros(&[4, 3])?, zeros(&[3])?, zeros(&[4])?);
        assert!(ops::batch_norm_train(&x, Some(&other), None, EPS).is_err());
        assert!(ops::batch_norm_train(&x, None, Some(&other), EPS).is_err());
        let double = Tensor::zeros(&[3], DType::F64)?;
        let error = ops::batch_norm_train(&x, Some(&double), None, EPS).err();
        assert_eq!(
            error.expect("dtypes differ").to_string(),
            "batch_norm_train: dtypes [F64] do not fit: f32 is needed"
        );
        let integers = Tensor::zeros(&[4, 3], DType::I64)?;
        assert!(ops::batch_norm_train(&integers, None, None, EPS).is_err());
        assert!(ops::batch_norm_eval(&integers, &c, &c, None, None, EPS).is_err());
        assert!(ops::batch_norm_eval(&x, &other, &c, None, None, EPS).is_err());
        assert!(ops::batch_norm_eval(&x, &c, &other, None, None, EPS).is_err());
        let error = ops::batch_norm_eval(&x, &c.variable(), &c, None, None, EPS);
        let error = error.expect_err("no gradient for the mean");
        assert!(matches!(error, Error::NoGradient { .. }), "{error}");
        let norm = ops::batch_norm_train(&x, None, None, EPS)?;
        assert!(norm.updated(&other, &c, 0.1).is_err());
        Ok(())
    });
    suite.test("batch_norm::wrong_residual", || {
        let x = Tensor::zeros(&[2, 3, 2, 2], DType::F32)?;
        for residual in [
            Tensor::zeros(&[2, 3, 2, 1], DType::F32)?,
            Tensor::zeros(&[2, 3, 2, 2], DType::F64)?,
        ] {
            let around = Around {
                residual: Some(&residual),
                ..Around::default()
            };
            let error = ops::batch_norm_train_around(&x, None, None, EPS, &around).err();
            let error = error.expect("an error").to_string();
            assert!(error.contains("a residual of x's"), "{error}");
        }
        Ok(())
    });
    // Blocks of channels share a counter.
    suite.test("batch_norm::cuda::more_channels_than_counters", || {
        let x = tensor("x", &[2, 4099, 3], -1.0, 1.0, DType::F32)?;
        let want = ops::batch_norm_train(&x, None, None, EPS)?;
        let got = ops::batch_norm_train(&x.to(&emulated(Schedule::Random(5))?)?, None, None, EPS)?;
        for (got, want) in [(&got.output, &want.output), (&got.var, &want.var)] {
            let error = relative_l2(&got.to_f64_vec()?, &want.to_f64_vec()?);
            assert!(error <= 1e-5, "off by {error:e}");
        }
        Ok(())
    });
    suite.test("batch_norm::cuda::moves_running_statistics", || {
        let pass = Pass::train(Philox::new(0));
        let norm = || -> Result<nn::BatchNorm> {
            let norm = nn::BatchNorm::new(5)?;
            norm.running_mean
                .set(tensor("mean", &[5], -0.5, 0.5, DType::F32)?)?;
            Ok(norm)
        };
        let (here, there) = (norm()?, norm()?);
        let device = emulated(Schedule::Reverse)?;
        there.to_device(&device)?;
        for step in ["first", "second"] {
            let x = tensor(step, &[3, 5, 2, 4], -1.0, 2.0, DType::F32)?;
            here.forward(&x, &pass)?;
            there.forward(&x.to(&device)?, &pass)?;
        }
        for buffer in [
            [&here.running_mean, &there.running_mean],
            [&here.running_var, &there.running_var],
            [&here.num_batches_tracked, &there.num_batches_tracked],
        ] {
            let [want, got] = buffer.map(|b| b.value().to_f64_vec());
            let error = relative_l2(&got?, &want?);
            assert!(error <= 1e-6, "off by {error:e}");
        }
        Ok(())
    });
    suite.test("batch_norm::empty", || {
        let mean = Tensor::zeros(&[3], DType::F32)?;
        let x = Tensor::zeros(&[0, 3, 2, 2], DType::F32)?;
        let y = ops::batch_norm_eval(&x, &mean, &mean, None, None, EPS)?;
        assert_eq!(y.shape(), [0, 3, 2, 2]);
        let none = Tensor::zeros(&[4, 0, 2, 2], DType::F32)?.variable();
        let y = ops::batch_norm_train(&none, None, None, EPS)?.output;
        assert_eq!(y.shape(), [4, 0, 2, 2]);
        let g = gradients(&y, &[&none], false)?;
        assert!(g[0].is_empty());
        Ok(())
    });
    suite.test("batch_norm::statistics", || {
        // Both arrangements, large enough for several blocks, C = 3, 46, 165.
        for c in [3, 46, 165] {
            let x = tensor("x", &[5, c, 37, 11], -1.0, 3.0, DType::F32)?;
            let exact = ops::cast(&x, DType::F64)?;
            let mean = ops::mean(&exact, &[0, 2, 3], false)?.to_f64_vec()?;
            let var = ops::var(&exact, &[0, 2, 3], 1, false)?.to_f64_vec()?;
            let last = x.to_format(Format::ChannelsLast)?;
            let padded = x.with_poisoned_padding(8)?;
            for (name, x) in [("NCHW", &x), ("NHWC", &last), ("padded", &padded)] {
                let norm = ops::batch_norm_train(x, None, None, EPS)?;
                let error = relative_l2(&norm.mean.to_f64_vec()?, &mean);
                assert!(error < 1e-7, "{name} mean: {error:e}");
                let error = relative_l2(&norm.var.to_f64_vec()?, &var);
                assert!(error < 1e-7, "{name} variance: {error:e}");
                assert_eq!(norm.output.layout().is_channels_last(), name != "NCHW");
                assert!(!norm.mean.is_recorded() && !norm.var.is_recorded());
            }
        }
        Ok(())
    });
    suite.test("batch_norm::large_mean_and_constant_channel", || {
        // Channel 0 has mean 10^4 and deviation 1, channel 1 is constant.
        let noise = tensor("noise", &[64, 1, 8, 8], -1.7, 1.7, DType::F32)?;
        let noise = noise.to_vec::<f32>()?;
        let values: Vec<f32> = (0..64 * 2 * 64)
            .map(|i| match i / 64 % 2 {
                0 => 1e4 + noise[i / 128 * 64 + i % 64],
                _ => 0.1,
            })
            .collect();
        let x = Tensor::from_slice(&values, &[64, 2, 8, 8])?;
        let exact = ops::cast(&x, DType::F64)?;
        let var = ops::var(&exact, &[0, 2, 3], 1, false)?.to_f64_vec()?;
        for format in [Format::Contiguous, Format::ChannelsLast] {
            let norm = ops::batch_norm_train(&x.to_format(format)?, None, None, EPS)?;
            let got = norm.var.to_f64_vec()?;
            assert!((got[0] / var[0] - 1.0).abs() < 1e-6, "{got:?}, not {var:?}");
            assert_eq!(got[1], 0.0);
            assert_eq!(norm.mean.to_vec::<f32>()?[1], 0.1);
            let y = norm.output.to_vec::<f32>()?;
            assert!(y.chunks(64).skip(1).step_by(2).flatten().all(|&v| v == 0.0));
        }
        Ok(())
    });
    suite.test("batch_norm::nan_reaches_the_statistics", || {
        let mut values = [1.0f32; 12];
        values[5] = f32::NAN;
        let norm = ops::batch_norm_train(&Tensor::from_slice(&values, &[4, 3])?, None, None, EPS)?;
        let (mean, var) = (norm.mean.to_vec::<f32>()?, norm.var.to_vec::<f32>()?);
        assert!(mean[2].is_nan() && var[2].is_nan(), "{mean:?} {var:?}");
        assert_eq!((&mean[..2], &var[..2]), (&[1.0; 2][..], &[0.0; 2][..]));
        Ok(())
    });
    suite.test("batch_norm::large_gradients_in_both_arrangements", || {
        // Several blocks of rows, whose partial sums are joined.
        let c = 46;
        let x = tensor("x", &[5, c, 37, 11], -1.0, 3.0, DType::F32)?;
        let (w, b) = statistics(c);
        let run = |dtype, format| -> Result<Vec<Vec<f64>>> {
            let x = ops::cast(&x, dtype)?.to_format(format)?.variable();
            let (w, b) = (
                ops::cast(&w, dtype)?.variable(),
                ops::cast(&b, dtype)?.variable(),
            );
            let y = ops::batch_norm_train(&x, Some(&w), Some(&b), EPS)?.output;
            gradients(&y, &[&x, &w, &b], false)
        };
        let exact = run(DType::F64, Format::Contiguous)?;
        for format in [Format::Contiguous, Format::ChannelsLast] {
            for (got, want) in run(DType::F32, format)?.iter().zip(&exact) {
                let error = relative_l2(got, want);
                assert!(error < 2e-6, "{format:?}: {error:e}");
            }
        }
        Ok(())
    });
    suite.test("layer_norm::wrong_input", || {
        let x = Tensor::zeros(&[2, 3], DType::F32)?;
        let w = Tensor::zeros(&[2], DType::F32)?;
        let error = ops::layer_norm(&x, 1, Some(&w), None, EPS).expect_err("sizes differ");
        assert_eq!(
            error.to_string(),
            "layer_norm: shapes [2, 3], [2] do not fit: x (.., D), weight D, bias D with D of 1 axes"
        );
        assert!(ops::layer_norm(&x, 0, None, None, EPS).is_err());
        assert!(ops::layer_norm(&x, 3, None, None, EPS).is_err());
        assert!(ops::layer_norm(&x, 1, None, Some(&w), EPS).is_err());
        assert!(ops::layer_norm(&Tensor::zeros(&[3], DType::I64)?, 1, None, None, EPS).is_err());
        let double = Tensor::zeros(&[3], DType::F64)?;
        assert!(ops::layer_norm(&x, 1, Some(&double), None, EPS).is_err());
        Ok(())
    });
    suite.test("add_layer_norm::wrong_input", || {
        let zeros = |s: &[usize], dtype| Tensor::zeros(s, dtype);
        let x = zeros(&[2, 3], DType::F32)?;
        let of = |other: &Tensor, w: Option<&Tensor>, axes| {
            let error = ops::add_layer_norm(&x, other, axes, w, None, EPS);
            error.expect_err("wrong input").to_string()
        };
        assert_eq!(
            of(&zeros(&[3], DType::F32)?, None, 1),
            "add_layer_norm: shapes [2, 3], [3] do not fit: two operands of one shape"
        );
        assert_eq!(
            of(&x, Some(&zeros(&[2], DType::F32)?), 1),
            "add_layer_norm: shapes [2, 3], [2] do not fit: \
             x (.., D), weight D, bias D with D of 1 axes"
        );
        assert!(of(&zeros(&[2, 3], DType::F64)?, None, 1).contains("one dtype"));
        assert!(of(&x, None, 0).contains("D of 0 axes"));
        let none = zeros(&[0, 3], DType::F32)?;
        let (sum, y) = ops::add_layer_norm(&none, &none, 1, None, None, EPS)?;
        assert_eq!((sum.shape(), y.shape()), (&[0, 3][..], &[0, 3][..]));
        Ok(())
    });
    for (name, dtype) in [("bf16", DType::BF16), ("f16", DType::F16)] {
        for (of, shape) in [("warps", [7, 46]), ("blocks", [2, 1100])] {
            let d = &shape[1..];
            let s = Sample::new("add_layer_norm", of, &[&shape, &shape, d, d], |x| {
                let (sum, y) = ops::add_layer_norm(&x[0], &x[1], 1, Some(&x[2]), Some(&x[3]), EPS)?;
                // The sum has another reader.
                ops::add(&y, &sum)
            });
            let name = format!("add_layer_norm::{of}::cuda::{name}::values_and_gradients");
            suite.test(name, move || cuda_half_first_order(&s, dtype));
        }
    }
    suite.test("add_layer_norm::has_the_bits_of_its_parts", || {
        // On the CPU with one thread per block of rows, on CUDA by warps and by blocks.
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
            let x = tensor("x", &[700, 46], -1.0, 1.0, dtype)?.variable();
            let other = tensor("other", &[700, 46], -1.0, 1.0, dtype)?.variable();
            let w = tensor("w", &[46], 0.5, 1.5, dtype)?.variable();
            let b = tensor("b", &[46], -1.0, 1.0, dtype)?.variable();
            let inputs = [&x, &other, &w, &b];
            let of = |sum: Tensor, y: Tensor| -> Result<Vec<Vec<f64>>> {
                let mut all = vec![sum.to_f64_vec()?, y.to_f64_vec()?];
                // The sum has another reader, whose gradient comes first.
                all.extend(gradients(
                    &ops::add(&y, &ops::mul(&sum, &sum)?)?,
                    &inputs,
                    false,
                )?);
                Ok(all)
            };
            let (sum, y) = ops::add_layer_norm(&x, &other, 1, Some(&w), Some(&b), EPS)?;
            let at_once = of(sum, y)?;
            let sum = ops::add(&x, &other)?;
            let y = ops::layer_norm(&sum, 1, Some(&w), Some(&b), EPS)?;
            assert!(at_once == of(sum, y)?, "{dtype}");
        }
        Ok(())
    });
    suite.test("layer_norm::empty", || {
        let w = Tensor::full(1.0, &[3], DType::F32)?.variable();
        let x = Tensor::zeros(&[0, 3], DType::F32)?.variable();
        let y = ops::layer_norm(&x, 1, Some(&w), Some(&w), EPS)?;
        assert_eq!(y.shape(), [0, 3]);
        assert_eq!(gradients(&y, &[&w], false)?, [[0.0; 3]]);
        let none = Tensor::zeros(&[4, 0], DType::F32)?.variable();
        let y = ops::layer_norm(&none, 1, None, None, EPS)?;
        assert!(gradients(&y, &[&none], false)?[0].is_empty());
        Ok(())
    });
    suite.test("layer_norm::large_gradients", || {
        // Several blocks and groups of rows; a mean far from 0.
        for (rows, columns) in [(1000, 46), (3, 20_000), (5000, 1)] {
            let run = |dtype| -> Result<Vec<Vec<f64>>> {
                let of = |name, shape: &[usize], low, high| -> Result<Tensor> {
                    let t = tensor(name, shape, low, high, DType::F32)?;
                    Ok(ops::cast(&t, dtype)?.variable())
                };
                let x = of("x", &[rows, columns], 9.0, 11.0)?;
                let (w, b) = (
                    of("w", &[columns], 0.5, 1.5)?,
                    of("b", &[columns], -1.0, 1.0)?,
                );
                let y = ops::layer_norm(&x, 1, Some(&w), Some(&b), EPS)?;
                let mut all = vec![y.to_f64_vec()?];
                all.extend(gradients(&y, &[&x, &w, &b], false)?);
                Ok(all)
            };
            for (got, want) in run(DType::F32)?.iter().zip(&run(DType::F64)?) {
                let error = relative_l2(got, want);
                assert!(error < 5e-6, "{rows} x {columns}: {error:e}");
            }
        }
        Ok(())
    });
    suite.test(
        "layer_norm::bf16_gradients_have_the_dtypes_of_their_inputs",
        || {
            let x = tensor("x", &[5, 46], -1.0, 1.0, DType::BF16)?.variable();
            let w = tensor("w", &[46], 0.5, 1.5, DType::F32)?.variable();
            let b = tensor("b", &[46], -1.0, 1.0, DType::BF16)?.variable();
            let y = ops::layer_norm(&x, 1, Some(&w), Some(&b), EPS)?;
            let n = ops::batch_norm_train(&x, Some(&w), Some(&b), EPS)?.output;
            let (mean, var) = statistics(46);
            let e = ops::batch_norm_eval(&x, &mean, &var, Some(&w), Some(&b), EPS)?;
            for y in [y, n, e] {
                assert_eq!(y.dtype(), DType::BF16);
                let weight = Tensor::full(1.0, &[5, 46], DType::F32)?;
                for create_graph in [false, true] {
                    let g = grad(&[&y], Some(&[&weight]), &[&x, &w, &b], create_graph)?;
                    let dtypes = g.iter().flatten().map(Tensor::dtype);
                    assert!(dtypes.eq([DType::BF16, DType::F32, DType::BF16]));
                }
            }
            Ok(())
        },
    );
    suite.test(
        "batch_norm_eval::one_pass_is_its_parts",
        one_pass_of_evaluation,
    );
    for (name, dtype) in [("bf16", DType::BF16), ("f16", DType::F16)] {
        suite.test(
            format!("batch_norm::cuda::{name}::f32_parameters"),
            move || half_batch_norm(dtype),
        );
    }
    suite.test("group_norm::wrong_input", || {
        let x = Tensor::zeros(&[2, 6, 3], DType::F32)?;
        let error = ops::group_norm(&x, 4, None, None, EPS).expect_err("6 is not in 4 groups");
        assert_eq!(
            error.to_string(),
            "group_norm: shapes [2, 6, 3] do not fit: \
             x (N, C, ..), weight (C), bias (C), C in 4 groups"
        );
        assert!(ops::group_norm(&x, 0, None, None, EPS).is_err());
        assert!(ops::group_norm(&x, 2, Some(&x), None, EPS).is_err());
        assert!(ops::group_norm(&Tensor::zeros(&[6], DType::F32)?, 2, None, None, EPS).is_err());
        Ok(())
    });
    suite.test("group_norm::empty_and_layout", || {
        let x = Tensor::zeros(&[0, 6, 3], DType::F32)?;
        assert_eq!(ops::group_norm(&x, 2, None, None, EPS)?.shape(), [0, 6, 3]);
        let x = tensor("x", &[2, 6, 3, 5], -1.0, 1.0, DType::F32)?;
        let x = x.to_format(Format::ChannelsLast)?;
        for groups in [1, 2] {
            let y = ops::group_norm(&x, groups, None, None, EPS)?;
            assert!(y.layout().is_channels_last());
        }
        Ok(())
    });
}

/// With what surrounds it, unrecorded, against operators of their own: the same bits on
/// the CPU, in rows and planes longer than what is done at a time.
fn one_pass_of_evaluation() -> Result<()> {
    for (shape, format) in [
        ([2, 46, 30, 40], Format::ChannelsLast),
        ([2, 3, 50, 70], Format::Contiguous),
        ([1, 3000, 2, 1], Format::ChannelsLast),
    ] {
        let c = shape[1];
        let channels = |name: &str| tensor(name, &[c], 0.5, 1.5, DType::F32);
        let (mean, var) = (channels("mean")?, channels("var")?);
        let (w, b) = (channels("w")?, channels("b")?);
        let x = tensor("x", &shape, -2.0, 2.0, DType::F32)?.to_format(format)?;
        let r = tensor("r", &shape, -1.0, 1.0, DType::F32)?.to_format(format)?;
        for activation in [Activation::None, Activation::Gelu, Activation::Relu] {
            for residual in [None, Some(&r)] {
                let around = Around {
                    activation,
                    residual,
                    ..Around::default()
                };
                let y = activation.apply(&x)?;
                let y = ops::batch_norm_eval(&y, &mean, &var, Some(&w), Some(&b), EPS)?;
                let want = match residual {
                    Some(r) => ops::add(&y, r)?,
                    None => y,
                };
                let statistics = [&mean, &var];
                let (w, b) = (Some(&w), Some(&b));
                let got = ops::batch_norm_eval_around(&x, statistics, w, b, EPS, &around)?;
                let what = format!("{shape:?} {activation:?} {}", residual.is_some());
                assert_eq!(got.layout(), want.layout(), "{what}");
                assert_eq!(got.to_vec::<f32>()?, want.to_vec::<f32>()?, "{what}");
            }
        }
        let other = ops::slice(&r, 1, 0, c - 1)?;
        let around = Around {
            residual: Some(&other),
            ..Around::default()
        };
        let error = ops::batch_norm_eval_around(&x, [&mean, &var], None, None, EPS, &around);
        let error = error.expect_err("a residual of another shape").to_string();
        assert!(error.starts_with("batch_norm_eval: shapes"), "{error}");
    }
    Ok(())
}

fn batch_norm(case: &Case) -> Result<(Tensor, Option<BatchNorm>)> {
    let (x, eps) = (case.input("x"), case.number("eps"));
    let (w, b) = (case.optional("w"), case.optional("b"));
    if case.flag("training") {
        let norm = ops::batch_norm_train(x, w, b, eps)?;
        Ok((norm.output.clone(), Some(norm)))
    } else {
        let (mean, var) = (case.input("rm"), case.input("rv"));
        Ok((ops::batch_norm_eval(x, mean, var, w, b, eps)?, None))
    }
}

fn batch_norm_and_statistics(case: &Case) -> Outputs {
    let (out, norm) = batch_norm(case)?;
    let mut outputs = vec![("out", out)];
    if let Some(norm) = norm {
        let momentum = case.number("momentum");
        let (mean, var) = norm.updated(case.input("rm"), case.input("rv"), momentum)?;
        outputs.extend([("running_mean", mean), ("running_var", var)]);
    }
    Ok(outputs)
}

fn double_backward(case: &Case) -> Outputs {
    let (out, _) = batch_norm(case)?;
    let total = ops::sum_all(&ops::mul(&out, case.input("gy"))?)?;
    let mut g = grad(&[&total], None, &[case.input("x"), case.input("w")], true)?;
    let mut next = || g.remove(0).expect("a gradient");
    Ok(vec![("gx", next()), ("gw", next())])
}

pub fn golden(case: &Case) -> Option<Outputs> {
    let (w, b) = (case.optional("w"), case.optional("b"));
    let out = match case.op.as_str() {
        "batch_norm" => return Some(batch_norm_and_statistics(case)),
        "batch_norm double backward" => return Some(double_backward(case)),
        "layer_norm" => ops::layer_norm(case.input("x"), 1, w, b, case.number("eps")),
        "group_norm" => {
            let groups = case.number("groups") as usize;
            ops::group_norm(case.input("x"), groups, w, b, case.number("eps"))
        }
        _ => return None,
    };
    Some(out.map(|t| vec![("out", t)]))
}

/// Images of 16 bits with scale, shift and statistics in f32, in training and
/// evaluation: against exact numbers at most twice the error of the CPU's plain low
/// precision and one rounding.
fn half_batch_norm(dtype: DType) -> Result<()> {
    let unit = if dtype == DType::BF16 {
        1.0 / 256.0
    } else {
        1.0 / 2048.0
    };
    for shape in [&[3, 46, 5, 7][..], &[40, 17], &[2, 3, 33]] {
        let x = tensor("x", shape, 2.0, 4.0, dtype)?;
        let weight = tensor("weight", shape, -1.0, 1.0, dtype)?;
        let c = shape[1];
        let (w, b) = (
            tensor("w", &[c], 0.5, 1.5, DType::F32)?,
            tensor("b", &[c], -1.0, 1.0, DType::F32)?,
        );
        let run = |device: &Device, wide: Option<DType>| -> Result<Vec<Vec<f64>>> {
            let there = |t: &Tensor| match wide {
                Some(dtype) => ops::cast(t, dtype)?.to(device),
                None => t.to(device),
            };
            let (x, w, b) = (
                there(&x)?.variable(),
                there(&w)?.variable(),
                there(&b)?.variable(),
            );
            let y = ops::batch_norm_train(&x, Some(&w), Some(&b), EPS)?;
            let g = grad(
                &[&y.output],
                Some(&[&there(&weight)?]),
                &[&x, &w, &b],
                false,
            )?;
            let e = ops::batch_norm_eval(&x, &y.mean, &y.var, Some(&w), Some(&b), EPS)?;
            let mut all = vec![y.output, y.mean, y.var, e];
            all.extend(g.into_iter().flatten());
            if wide.is_none() {
                let dtypes: Vec<DType> = all.iter().map(Tensor::dtype).collect();
                let f32 = DType::F32;
                assert_eq!(dtypes, [dtype, f32, f32, dtype, dtype, f32, f32]);
            }
            all.iter().map(Tensor::to_f64_vec).collect()
        };
        let plain = run(&Device::Cpu, None)?;
        let exact = run(&Device::Cpu, Some(DType::F64))?;
        for schedule in [Schedule::Reverse, Schedule::Greedy(5)] {
            let got = run(&emulated(schedule)?, None)?;
            for (i, (got, exact)) in got.iter().zip(&exact).enumerate() {
                let error = relative_l2(got, exact);
                let allowed = 2.0 * relative_l2(&plain[i], exact) + unit;
                assert!(
                    error <= allowed,
                    "{shape:?}: result {i} is off by {error:e}"
                );
            }
        }
    }
    Ok(())
}
