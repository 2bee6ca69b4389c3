use eosin::autograd::grad;
use eosin::ops::{self, Activation, Around, Conv2d, ConvTranspose2d, PreparedConv};
use eosin::shape::Format;
use eosin::{DType, Error, Result, Tensor};
use eosin_emulator::Schedule;

use crate::common::{relative_l2, tensor};
use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite, emulated};

/// A convolution of every kind: x and w, and how the kernel moves.
struct Kind {
    name: &'static str,
    x: [usize; 4],
    w: [usize; 4],
    geometry: Conv2d,
}

fn kinds() -> Vec<Kind> {
    let plain = Conv2d::default();
    let kind = |name, x, w, geometry| Kind {
        name,
        x,
        w,
        geometry,
    };
    vec![
        kind("valid_3x3", [2, 4, 5, 4], [5, 4, 3, 3], plain),
        kind(
            "stride_2",
            [2, 9, 6, 7],
            [3, 9, 3, 3],
            Conv2d {
                stride: [2, 2],
                padding: [1, 1],
                ..plain
            },
        ),
        kind(
            "stride_larger_than_kernel",
            [1, 9, 8, 7],
            [2, 9, 2, 1],
            Conv2d {
                stride: [3, 4],
                ..plain
            },
        ),
        kind(
            "dilation",
            [1, 8, 7, 6],
            [3, 8, 3, 2],
            Conv2d {
                padding: [2, 1],
                dilation: [2, 3],
                ..plain
            },
        ),
        kind(
            "stride_and_dilation",
            [1, 8, 9, 8],
            [2, 8, 3, 3],
            Conv2d {
                stride: [2, 3],
                padding: [3, 2],
                dilation: [3, 2],
                ..plain
            },
        ),
        kind(
            "groups",
            [2, 6, 4, 5],
            [4, 3, 3, 3],
            Conv2d {
                stride: [2, 1],
                padding: [1, 1],
                groups: 2,
                ..plain
            },
        ),
        kind(
            "depthwise_46",
            [1, 46, 4, 3],
            [46, 1, 3, 3],
            Conv2d {
                padding: [1, 1],
                groups: 46,
                ..plain
            },
        ),
        kind(
            "depthwise_stride",
            [2, 3, 5, 6],
            [3, 1, 2, 3],
            Conv2d {
                stride: [2, 3],
                padding: [1, 1],
                groups: 3,
                ..plain
            },
        ),
        kind(
            "depthwise_multiplier",
            [2, 3, 4, 4],
            [6, 1, 3, 3],
            Conv2d {
                padding: [1, 1],
                groups: 3,
                ..plain
            },
        ),
        // Ragged tiles, an odd number of channels.
        kind(
            "depthwise_3x3_odd",
            [2, 3, 5, 6],
            [3, 1, 3, 3],
            Conv2d {
                padding: [1, 1],
                groups: 3,
                ..plain
            },
        ),
        kind(
            "depthwise_3x3_valid",
            [1, 4, 5, 7],
            [4, 1, 3, 3],
            Conv2d {
                padding: [0, 2],
                groups: 4,
                ..plain
            },
        ),
        kind(
            "depthwise_7x7",
            [1, 2, 4, 5],
            [2, 1, 7, 7],
            Conv2d {
                padding: [3, 3],
                groups: 2,
                ..plain
            },
        ),
        // Enough channels for sums by columns: an odd and an even number of rows, fewer
        // columns than the kernel has, none or more rows of padding than of image.
        kind(
            "depthwise_3x3_columns",
            [2, 19, 5, 7],
            [19, 1, 3, 3],
            Conv2d {
                padding: [0, 2],
                groups: 19,
                ..plain
            },
        ),
        kind(
            "depthwise_3x3_narrow",
            [2, 16, 2, 1],
            [16, 1, 3, 3],
            Conv2d {
                padding: [2, 1],
                groups: 16,
                ..plain
            },
        ),
        kind(
            "depthwise_7x7_columns",
            [1, 21, 6, 4],
            [21, 1, 7, 7],
            Conv2d {
                padding: [3, 3],
                groups: 21,
                ..plain
            },
        ),
        kind(
            "depthwise_patches",
            [2, 6, 4, 6],
            [6, 1, 2, 3],
            Conv2d {
                stride: [2, 3],
                groups: 6,
                ..plain
            },
        ),
        kind(
            "depthwise_patches_odd",
            [2, 5, 4, 4],
            [5, 1, 4, 2],
            Conv2d {
                stride: [4, 2],
                groups: 5,
                ..plain
            },
        ),
        // Two rows and a column that no patch reads.
        kind(
            "depthwise_patches_and_rest",
            [1, 4, 6, 5],
            [4, 1, 4, 2],
            Conv2d {
                stride: [4, 2],
                groups: 4,
                ..plain
            },
        ),
        // Weights that stay where they lie: few output pixels beside filters, and an image of
        // few channels.
        kind("few_pixels_one", [2, 3, 3, 2], [16, 3, 3, 2], plain),
        kind(
            "few_pixels",
            [2, 2, 4, 5],
            [64, 2, 3, 2],
            Conv2d {
                stride: [2, 3],
                padding: [1, 0],
                dilation: [1, 2],
                ..plain
            },
        ),
        kind(
            "few_channels",
            [1, 2, 5, 4],
            [32, 2, 3, 2],
            Conv2d {
                stride: [2, 1],
                padding: [1, 1],
                ..plain
            },
        ),
        kind("one_by_one_165", [1, 165, 2, 3], [3, 165, 1, 1], plain),
        kind(
            "one_by_one_stride",
            [2, 9, 5, 4],
            [4, 9, 1, 1],
            Conv2d {
                stride: [2, 2],
                ..plain
            },
        ),
        kind(
            "asymmetric",
            [1, 9, 5, 6],
            [3, 9, 1, 5],
            Conv2d {
                stride: [2, 1],
                padding: [0, 2],
                ..plain
            },
        ),
        kind(
            "padding_beyond_kernel",
            [1, 2, 3, 2],
            [3, 2, 2, 2],
            Conv2d {
                padding: [3, 4],
                ..plain
            },
        ),
        // An image of few channels is read row by row.
        kind(
            "stem",
            [2, 3, 7, 8],
            [4, 3, 5, 3],
            Conv2d {
                stride: [2, 2],
                padding: [2, 1],
                ..plain
            },
        ),
        kind(
            "stem_dilated_rows",
            [1, 3, 7, 5],
            [2, 3, 3, 2],
            Conv2d {
                dilation: [2, 1],
                padding: [0, 1],
                ..plain
            },
        ),
        kind(
            "channels_46",
            [1, 46, 3, 3],
            [17, 46, 2, 2],
            Conv2d {
                padding: [1, 0],
                ..plain
            },
        ),
        kind("one_pixel", [3, 5, 4, 4], [2, 5, 4, 4], plain),
    ]
}

pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for Kind {
        name,
        x,
        w,
        geometry,
    } in kinds()
    {
        let y = output_shape(x, w, geometry);
        let (input, kernel) = ([x[2], x[3]], [w[2], w[3]]);
        all.push(Sample::new("conv2d", name, &[&x, &w], move |t| {
            ops::conv2d(&t[0], &t[1], None, geometry)
        }));
        all.push(Sample::new(
            "conv2d_input_gradient",
            name,
            &[&y, &w],
            move |t| ops::conv2d_input_gradient(&t[0], &t[1], input, geometry),
        ));
        all.push(Sample::new(
            "conv2d_weight_gradient",
            name,
            &[&x, &y],
            move |t| ops::conv2d_weight_gradient(&t[0], &t[1], kernel, geometry),
        ));
        all.push(Sample::new(
            "conv_bn_act",
            name,
            &[&x, &w, &w[..1], &y],
            move |t| {
                let [x, w, b, r] = [0, 1, 2, 3].map(|i| t[i].detach());
                ops::conv_bn_act(&x, &w, Some(&b), Some(&r), Activation::Silu, geometry)
            },
        ));
    }
    all.push(Sample::new(
        "conv2d",
        "bias",
        &[&[2, 3, 4, 5], &[4, 3, 3, 3], &[4]],
        |t| ops::conv2d(&t[0], &t[1], Some(&t[2]), Conv2d::default()),
    ));
    all.push(Sample::new(
        "conv2d",
        "depthwise_bias",
        &[&[1, 35, 3, 4], &[35, 1, 2, 2], &[35]],
        |t| {
            let geometry = Conv2d {
                groups: 35,
                ..Conv2d::default()
            };
            ops::conv2d(&t[0], &t[1], Some(&t[2]), geometry)
        },
    ));
    for (name, channels, groups) in [("depthwise_shortcut", 3, 3), ("dense_shortcut", 4, 1)] {
        let w = [channels, channels / groups, 3, 3];
        all.push(Sample::new(
            "conv2d",
            name,
            &[&[2, channels, 4, 5], &w, &[channels]],
            move |t| {
                let geometry = Conv2d {
                    padding: [1, 1],
                    groups,
                    ..Conv2d::default()
                };
                ops::conv2d_shortcut(&t[0], &t[1], Some(&t[2]), geometry)
            },
        ));
    }
    let transposed = ConvTranspose2d {
        stride: [2, 3],
        padding: [1, 0],
        output_padding: [1, 2],
        ..ConvTranspose2d::default()
    };
    all.push(Sample::new(
        "conv_transpose2d",
        "output_padding",
        &[&[2, 5, 3, 2], &[5, 3, 3, 4], &[3]],
        move |t| ops::conv_transpose2d(&t[0], &t[1], Some(&t[2]), transposed),
    ));
    all.push(Sample::new(
        "conv_transpose2d",
        "groups_dilation",
        &[&[1, 4, 3, 3], &[4, 3, 2, 3]],
        |t| {
            let geometry = ConvTranspose2d {
                stride: [2, 1],
                dilation: [1, 2],
                groups: 2,
                ..ConvTranspose2d::default()
            };
            ops::conv_transpose2d(&t[0], &t[1], None, geometry)
        },
    ));
    all.push(Sample::new(
        "conv_transpose2d",
        "from_one_pixel",
        &[&[2, 9, 1, 1], &[9, 4, 4, 4]],
        |t| ops::conv_transpose2d(&t[0], &t[1], None, ConvTranspose2d::default()),
    ));
    all
}

fn output_shape(x: [usize; 4], w: [usize; 4], g: Conv2d) -> [usize; 4] {
    let along = |i: usize| {
        (x[i + 2] + 2 * g.padding[i] - g.dilation[i] * (w[i + 2] - 1) - 1) / g.stride[i] + 1
    };
    [x[0], w[0], along(0), along(1)]
}

/// The formula, term by term.
fn by_definition(x: &Tensor, w: &Tensor, g: Conv2d) -> Result<Vec<f64>> {
    let shape = |t: &Tensor| <[usize; 4]>::try_from(t.shape()).expect("four axes");
    let (sx, sw) = (shape(x), shape(w));
    let [n, k, p, q] = output_shape(sx, sw, g);
    let (x, w) = (x.to_f64_vec()?, w.to_f64_vec()?);
    let per_group = k / g.groups;
    let mut out = Vec::new();
    for (n, k) in (0..n).flat_map(|n| (0..k).map(move |k| (n, k))) {
        for (p, q) in (0..p).flat_map(|p| (0..q).map(move |q| (p, q))) {
            let mut sum = 0.0;
            for c in 0..sw[1] {
                for (r, s) in (0..sw[2]).flat_map(|r| (0..sw[3]).map(move |s| (r, s))) {
                    let i = (p * g.stride[0] + r * g.dilation[0]).wrapping_sub(g.padding[0]);
                    let j = (q * g.stride[1] + s * g.dilation[1]).wrapping_sub(g.padding[1]);
                    if i < sx[2] && j < sx[3] {
                        let channel = k / per_group * sw[1] + c;
                        sum += x[((n * sx[1] + channel) * sx[2] + i) * sx[3] + j]
                            * w[((k * sw[1] + c) * sw[2] + r) * sw[3] + s];
                    }
                }
            }
            out.push(sum);
        }
    }
    Ok(out)
}

pub fn tests(suite: &mut Suite) {
    for Kind {
        name,
        x,
        w,
        geometry,
    } in kinds()
    {
        suite.test(format!("conv2d::{name}::cpu::by_definition"), move || {
            let x = tensor("x", &x, -1.0, 1.0, DType::F64)?;
            let w = tensor("w", &w, -1.0, 1.0, DType::F64)?;
            let got = ops::conv2d(&x, &w, None, geometry)?;
            let error = relative_l2(&got.to_f64_vec()?, &by_definition(&x, &w, geometry)?);
            assert!(error <= 1e-14, "off by {error:e}");
            Ok(())
        });
    }
    suite.test("conv2d::cpu::fewer_multiplications", fewer_multiplications);
    suite.test(
        "conv2d::cpu::weight_gradient_in_passes",
        weight_gradient_in_passes,
    );
    suite.test("conv2d::cpu::larger_than_a_tile", || {
        // Several tiles, panels and blocks of rows and of pixels.
        let geometry = Conv2d {
            stride: [2, 1],
            padding: [1, 2],
            ..Conv2d::default()
        };
        let x = tensor("x", &[3, 130, 37, 29], -1.0, 1.0, DType::F64)?.variable();
        let w = tensor("w", &[35, 130, 3, 3], -1.0, 1.0, DType::F64)?.variable();
        let y = ops::conv2d(&x, &w, None, geometry)?;
        let error = relative_l2(&y.to_f64_vec()?, &by_definition(&x, &w, geometry)?);
        assert!(error <= 1e-13, "off by {error:e}");
        // <conv(x, w), g> = <x, gx> = <w, gw>: both maps are linear.
        let g = tensor("g", y.shape(), -1.0, 1.0, DType::F64)?;
        let dot = |a: &Tensor, b: &Tensor| ops::sum_all(&ops::mul(a, b)?)?.item();
        let want = dot(&y.detach(), &g)?;
        for (t, gradient) in [&x, &w]
            .iter()
            .zip(grad(&[&y], Some(&[&g]), &[&x, &w], false)?)
        {
            let got = dot(&t.detach(), &gradient.expect("a gradient"))?;
            assert!(
                (got - want).abs() <= 1e-9 * want.abs(),
                "{got} is not {want}"
            );
        }
        Ok(())
    });
    suite.test("conv2d::cpu::does_not_depend_on_the_batch", || {
        let geometry = Conv2d {
            padding: [1, 1],
            ..Conv2d::default()
        };
        let x = tensor("x", &[5, 46, 9, 7], -1.0, 1.0, DType::F32)?;
        let w = tensor("w", &[19, 46, 3, 3], -1.0, 1.0, DType::F32)?;
        let all = ops::conv2d(&x, &w, None, geometry)?.to_vec::<f32>()?;
        let one = Tensor::from_slice(&x.to_vec::<f32>()?[..46 * 63], &[1, 46, 9, 7])?;
        let first = ops::conv2d(&one, &w, None, geometry)?.to_vec::<f32>()?;
        assert_eq!(first, all[..first.len()]);
        Ok(())
    });
    suite.test("conv2d::cpu::is_channels_last", || {
        let x = tensor("x", &[2, 3, 5, 4], -1.0, 1.0, DType::F32)?;
        let w = tensor("w", &[4, 3, 3, 3], -1.0, 1.0, DType::F32)?;
        let y = ops::conv2d(&x, &w, None, Conv2d::default())?;
        assert!(y.layout().is_channels_last());
        Ok(())
    });
    for (name, dtype) in [
        ("f32", DType::F32),
        ("bf16", DType::BF16),
        ("f16", DType::F16),
    ] {
        suite.test(format!("conv2d::cuda::{name}::leaves_moments"), move || {
            leaves_moments(dtype)
        });
    }
    suite.test("conv2d::cpu::empty_batch", empty_batch);
    suite.test("conv2d::cuda::depthwise_empty_batch", depthwise_empty_batch);
    suite.test("conv2d::shortcut_of_another_size", || {
        let x = tensor("x", &[1, 3, 5, 4], -1.0, 1.0, DType::F32)?;
        let w = tensor("w", &[3, 3, 3, 3], -1.0, 1.0, DType::F32)?;
        let error = ops::conv2d_shortcut(&x, &w, None, Conv2d::default());
        let error = error.expect_err("a smaller result").to_string();
        assert!(error.contains("a shortcut needs a result of the image's shape, not [1, 3, 3, 2]"));
        Ok(())
    });
    suite.test("conv2d::cpu::wrong_input", wrong_input);
    suite.test("conv_transpose2d::cpu::wrong_input", wrong_transposed_input);
    suite.test("conv_transpose2d::cpu::undoes_the_sizes", || {
        let geometry = ConvTranspose2d {
            stride: [2, 2],
            padding: [1, 1],
            ..ConvTranspose2d::default()
        };
        let x = tensor("x", &[1, 2, 5, 7], -1.0, 1.0, DType::F32)?;
        let w = tensor("w", &[2, 3, 4, 4], -1.0, 1.0, DType::F32)?;
        let y = ops::conv_transpose2d(&x, &w, None, geometry)?;
        assert_eq!(y.shape(), [1, 3, 10, 14]);
        Ok(())
    });
    suite.test("conv_bn_act::cpu::equals_the_unfused_expression", unfused);
    suite.test("conv_bn_act::cpu::in_place_has_the_same_bits", in_place);
    suite.test("conv_bn_act::cpu::refuses_what_is_recorded", || {
        let x = tensor("x", &[1, 3, 5, 4], -1.0, 1.0, DType::F32)?;
        let w = tensor("w", &[4, 3, 3, 3], -1.0, 1.0, DType::F32)?;
        let (none, plain) = (Activation::None, Conv2d::default());
        for error in [
            ops::conv_bn_act(&x.variable(), &w, None, None, none, plain),
            ops::conv_bn_act(&x, &w.variable(), None, None, none, plain),
        ] {
            let error = error.expect_err("a recorded input");
            assert!(matches!(error, Error::NoGradient { .. }));
            assert_eq!(
                error.to_string(),
                "conv_bn_act: no gradient: it is for inference; train with conv2d, batch_norm \
                 and an activation, or detach its inputs"
            );
        }
        Ok(())
    });
    suite.test(
        "conv_bn_act::cuda::refuses_what_it_cannot_write_into",
        || {
            let device = emulated(Schedule::Forward)?;
            let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32)?.to(&device);
            let x = zeros(&[1, 4, 3, 3])?;
            let prepared = |shape, groups| {
                let geometry = Conv2d {
                    groups,
                    ..Conv2d::default()
                };
                PreparedConv::new(&zeros(shape)?, None, Activation::None, geometry)
            };
            let dense = prepared(&[2, 4, 1, 1], 1)?;
            let wide = || zeros(&[1, 6, 3, 3])?.to_format(Format::ChannelsLast);
            let mut y = wide()?;
            dense.apply_into(&x, &mut y, 4)?;
            assert!(dense.apply_into(&x, &mut y, 5).is_err(), "no room");
            let held = y.clone();
            let error = dense.apply_into(&x, &mut y, 4).expect_err("shared");
            assert!(error.to_string().contains("not shared"), "{error}");
            drop(held);
            let mut planes = zeros(&[1, 6, 3, 3])?;
            assert!(dense.apply_into(&x, &mut planes, 0).is_err(), "planes");
            let depthwise = prepared(&[4, 1, 1, 1], 4)?;
            let error = depthwise
                .apply_into(&x, &mut wide()?, 0)
                .expect_err("depthwise");
            assert!(error.to_string().contains("groups of one"), "{error}");
            let [two, four] = [2, 4].map(|n| zeros(&[n]));
            let (two, four) = (two?, four?);
            assert!(dense.apply_activated(&x, [&two, &four]).is_err());
            assert!(dense.apply_activated(&x, [&four, &four]).is_ok());
            let here = Tensor::zeros(&[4], DType::F32)?;
            assert!(
                dense.apply_activated(&x, [&here, &four]).is_err(),
                "on the CPU"
            );
            Ok(())
        },
    );
    suite.test("conv_bn_act::cpu::wrong_input", || {
        let x = tensor("x", &[1, 3, 5, 4], -1.0, 1.0, DType::F32)?;
        let w = tensor("w", &[4, 3, 3, 3], -1.0, 1.0, DType::F32)?;
        let conv = PreparedConv::new(&w, None, Activation::Relu, Conv2d::default())?;
        assert!(conv.apply(&x, Some(&x)).is_err());
        assert!(conv.apply(&ops::cast(&x, DType::BF16)?, None).is_err());
        assert!(conv.apply(&w, None).is_ok(), "a weight is an image too");
        assert!(PreparedConv::new(&x, Some(&x), Activation::None, Conv2d::default()).is_err());
        let one = Tensor::zeros(&[4], DType::F32)?;
        assert!(ops::fold_batch_norm(&w, None, [&one, &one, &one, &x], 1e-5).is_err());
        assert!(ops::fold_batch_norm(&one, None, [&one; 4], 1e-5).is_err());
        Ok(())
    });
}

/// A batch norm with what the convolution leaves, and one that reads its result.
fn leaves_moments(dtype: DType) -> Result<()> {
    let device = emulated(Schedule::Greedy(4))?;
    // Channels, filters, side of the kernel, stride, groups.
    for (c, k, side, stride, groups) in [
        (46, 46, 3, 1, 46),
        (5, 5, 7, 1, 5),
        (6, 6, 4, 4, 6),
        (6, 70, 3, 1, 1),
        (6, 8, 2, 2, 2),
    ] {
        let geometry = Conv2d {
            stride: [stride; 2],
            padding: [if stride == 1 { side / 2 } else { 0 }; 2],
            groups,
            ..Conv2d::default()
        };
        let on_device = |name: &str, shape: &[usize]| -> Result<Tensor> {
            tensor(name, shape, -1.0, 1.0, dtype)?.to(&device)
        };
        let x = on_device("x", &[2, c, 12, 8])?;
        let w = on_device("w", &[k, c / groups, side, side])?;
        let b = on_device("b", &[k])?;
        let shortcut = c == groups && stride == 1;
        let of = Activation::Gelu;
        let (y, moments) = ops::conv2d_measured(&x, &w, Some(&b), geometry, shortcut, of)?;
        let plain = match shortcut {
            true => ops::conv2d_shortcut(&x, &w, Some(&b), geometry)?,
            false => ops::conv2d(&x, &w, Some(&b), geometry)?,
        };
        assert_eq!(y.to_f64_vec()?, plain.to_f64_vec()?);
        assert!(
            moments.is_some(),
            "{c} channels, {side} x {side}: no moments"
        );
        let around = |moments| Around {
            activation: of,
            residual: None,
            moments,
        };
        let norm = |moments| ops::batch_norm_train_around(&y, None, None, 1e-5, &around(moments));
        let (got, want) = (norm(moments.as_ref())?, norm(None)?);
        for (got, want) in [(&got.mean, &want.mean), (&got.var, &want.var)] {
            let error = relative_l2(&got.to_f64_vec()?, &want.to_f64_vec()?);
            assert!(
                error <= 1e-6,
                "{c} channels, {side} x {side}: off by {error:e}"
            );
        }
    }
    Ok(())
}

/// No pixel: an empty result, and gradients of zeros.
fn depthwise_empty_batch() -> Result<()> {
    let device = emulated(Schedule::Forward)?;
    for (kernel, stride, padding) in [(3, 1, 1), (7, 1, 3), (2, 2, 0), (2, 1, 0)] {
        let geometry = Conv2d {
            stride: [stride; 2],
            padding: [padding; 2],
            groups: 5,
            ..Conv2d::default()
        };
        let x = Tensor::zeros(&[0, 5, 8, 8], DType::F32)?
            .to(&device)?
            .variable();
        let w = tensor("w", &[5, 1, kernel, kernel], -1.0, 1.0, DType::F32)?;
        let w = w.to(&device)?.variable();
        let b = Tensor::zeros(&[5], DType::F32)?.to(&device)?.variable();
        let y = ops::conv2d(&x, &w, Some(&b), geometry)?;
        assert_eq!((y.shape()[0], y.elements()), (0, 0));
        let gradients = grad(&[&y], Some(&[&y.detach()]), &[&x, &w, &b], false)?;
        let [gx, gw, gb] = &gradients[..] else {
            panic!("three gradients")
        };
        let values = |t: &Option<Tensor>| t.as_ref().expect("a gradient").to_vec::<f32>();
        assert!(values(gx)?.is_empty());
        assert_eq!(values(gw)?, vec![0.0; 5 * kernel * kernel]);
        assert_eq!(values(gb)?, [0.0; 5]);
    }
    Ok(())
}

/// 3x3 convolutions of stride 1 take another way in f32 than in f64.
fn fewer_multiplications() -> Result<()> {
    let sizes = [[1, 1], [2, 3], [4, 4], [5, 7], [7, 2], [13, 30], [56, 9]];
    for ([c, k], [height, width]) in [[16, 24], [40, 16], [72, 128]]
        .into_iter()
        .flat_map(|channels| sizes.map(|size| (channels, size)))
    {
        for padding in [[1, 1], [2, 1], [1, 2], [0, 2], [2, 0], [3, 3]] {
            if height + 2 * padding[0] < 3 || width + 2 * padding[1] < 3 {
                continue;
            }
            let geometry = Conv2d {
                padding,
                ..Conv2d::default()
            };
            let x = tensor("x", &[3, c, height, width], -1.0, 1.0, DType::F32)?
                .to_format(Format::ChannelsLast)?;
            let w = tensor("w", &[k, c, 3, 3], -0.1, 0.1, DType::F32)?;
            let bias = tensor("bias", &[k], -1.0, 1.0, DType::F32)?;
            let wide = |t: &Tensor| ops::cast(t, DType::F64);
            let all = |x: &Tensor, w: &Tensor, bias: &Tensor| -> Result<[Tensor; 4]> {
                let (x, w) = (x.detach().variable(), w.detach().variable());
                let y = ops::conv2d(&x, &w, None, geometry)?;
                let residual = ops::cast(
                    &tensor("residual", y.shape(), -1.0, 1.0, DType::F32)?,
                    x.dtype(),
                )?;
                let mut gradients = grad(&[&y], Some(&[&residual]), &[&x, &w], false)?;
                let mut gradient = || gradients.pop().flatten().expect("a gradient");
                let (gw, gx) = (gradient(), gradient());
                let (x, w) = (x.detach(), w.detach());
                let prepared = |bias, activation| PreparedConv::new(&w, bias, activation, geometry);
                let plain = prepared(None, Activation::None)?.apply(&x, None)?;
                let fused = prepared(Some(bias), Activation::Relu)?.apply(&x, Some(&residual))?;
                Ok([plain, fused, gx, gw])
            };
            let got = all(&x, &w, &bias)?;
            let want = all(&wide(&x)?, &wide(&w)?, &wide(&bias)?)?;
            let what = format!("{c} to {k} channels, {height}x{width}, padding {padding:?}");
            for (got, want) in got.iter().zip(&want) {
                let error = relative_l2(&got.to_f64_vec()?, &want.to_f64_vec()?);
                assert!(error <= 1e-6, "{what}: off by {error:e}");
            }
            // The last image alone has the bits that it has in the batch.
            let last = ops::slice(&x, 0, 2, 1)?;
            let alone =
                PreparedConv::new(&w, None, Activation::None, geometry)?.apply(&last, None)?;
            let together = ops::slice(&got[0], 0, 2, 1)?;
            assert_eq!(alone.to_vec::<f32>()?, together.to_vec::<f32>()?, "{what}");
        }
    }
    Ok(())
}

/// So many tiles that their transforms are made in several passes.
fn weight_gradient_in_passes() -> Result<()> {
    let geometry = Conv2d {
        padding: [1, 1],
        ..Conv2d::default()
    };
    let gradient = |dtype| -> Result<Vec<f64>> {
        let x = tensor("x", &[3, 72, 63, 66], -1.0, 1.0, dtype)?;
        let w = tensor("w", &[136, 72, 3, 3], -0.1, 0.1, dtype)?.variable();
        let y = ops::conv2d(&x, &w, None, geometry)?;
        let g = tensor("g", y.shape(), -1.0, 1.0, dtype)?;
        let gw = grad(&[&y], Some(&[&g]), &[&w], false)?[0].clone();
        gw.expect("a gradient").to_f64_vec()
    };
    let error = relative_l2(&gradient(DType::F32)?, &gradient(DType::F64)?);
    assert!(error <= 1e-6, "off by {error:e}");
    Ok(())
}

fn empty_batch() -> Result<()> {
    let zeros = |s: &[usize]| Tensor::zeros(s, DType::F32);
    for groups in [1, 3] {
        let geometry = Conv2d {
            padding: [1, 1],
            groups,
            ..Conv2d::default()
        };
        let x = zeros(&[0, 3, 4, 5])?.variable();
        let w = zeros(&[6, 3 / groups, 3, 3])?.variable();
        let y = ops::conv2d(&x, &w, None, geometry)?;
        assert_eq!(y.shape(), [0, 6, 4, 5]);
        let g = grad(&[&ops::sum_all(&y)?], None, &[&x, &w], false)?;
        let g: Vec<&Tensor> = g.iter().flatten().collect();
        assert_eq!(g[0].shape(), x.shape());
        assert_eq!(g[1].to_vec::<f32>()?, vec![0.0; w.elements()]);
    }
    let transposed = ops::conv_transpose2d(
        &zeros(&[0, 3, 4, 5])?,
        &zeros(&[3, 2, 3, 3])?,
        Some(&zeros(&[2])?),
        ConvTranspose2d::default(),
    )?;
    assert_eq!(transposed.shape(), [0, 2, 6, 7]);
    Ok(())
}

fn wrong_input() -> Result<()> {
    let zeros = |s: &[usize]| Tensor::zeros(s, DType::F32);
    let x = zeros(&[2, 4, 5, 3])?;
    let plain = Conv2d::default();
    let message = |w: &[usize], geometry| -> Result<String> {
        let outcome = ops::conv2d(&x, &zeros(w)?, None, geometry);
        Ok(outcome.expect_err("wrong input").to_string())
    };
    let geometry = |s: usize, d: usize, g: usize| {
        format!(
            "(Conv2d {{ stride: [{s}, {s}], padding: [0, 0], dilation: [{d}, {d}], groups: {g} }})"
        )
    };
    assert_eq!(
        message(&[6, 4, 3, 4], plain)?,
        format!(
            "conv2d: shapes [2, 4, 5, 3], [6, 4, 3, 4] do not fit: \
             the kernel is larger than the padded image {}",
            geometry(1, 1, 1)
        )
    );
    assert_eq!(
        message(&[6, 3, 3, 3], plain)?,
        format!(
            "conv2d: shapes [2, 4, 5, 3], [6, 3, 3, 3] do not fit: \
             4 input and 6 output channels in 1 groups of 3 inputs {}",
            geometry(1, 1, 1)
        )
    );
    let stopped = Conv2d {
        stride: [0, 0],
        ..plain
    };
    assert_eq!(
        message(&[6, 4, 3, 3], stopped)?,
        format!(
            "conv2d: shapes [2, 4, 5, 3], [6, 4, 3, 3] do not fit: \
             stride, dilation and groups must be at least 1 {}",
            geometry(0, 1, 1)
        )
    );
    for (w, geometry) in [
        (&[6, 4, 3][..], plain),
        (&[6, 4, 0, 3], plain),
        (&[0, 4, 3, 3], plain),
        (&[6, 1, 3, 3], Conv2d { groups: 0, ..plain }),
        // Six outputs in four groups.
        (&[6, 1, 3, 3], Conv2d { groups: 4, ..plain }),
        (
            &[6, 4, 3, 3],
            Conv2d {
                dilation: [usize::MAX; 2],
                ..plain
            },
        ),
        (
            &[6, 4, 3, 3],
            Conv2d {
                padding: [usize::MAX; 2],
                ..plain
            },
        ),
    ] {
        assert!(message(w, geometry)?.starts_with("conv2d: shapes"));
    }
    let w = zeros(&[6, 4, 3, 3])?;
    assert!(ops::conv2d(&x, &w, Some(&zeros(&[4])?), plain).is_err());
    assert!(ops::conv2d(&x, &zeros(&[2, 4])?, None, plain).is_err());
    let wide = Tensor::zeros(&[6, 4, 3, 3], DType::F64)?;
    let error = ops::conv2d(&x, &wide, None, plain).expect_err("two dtypes");
    assert_eq!(
        error.to_string(),
        "conv2d: dtypes [F32, F64] do not fit: floats of one dtype are needed; convert the others \
         with cast"
    );
    // The gradients want exactly the sizes that the convolution has.
    let gy = zeros(&[2, 6, 3, 1])?;
    assert!(ops::conv2d_input_gradient(&gy, &w, [5, 3], plain).is_ok());
    assert!(ops::conv2d_input_gradient(&gy, &w, [6, 3], plain).is_err());
    assert!(ops::conv2d_input_gradient(&zeros(&[2, 6])?, &w, [5, 3], plain).is_err());
    assert!(ops::conv2d_weight_gradient(&x, &gy, [3, 3], plain).is_ok());
    let error = ops::conv2d_weight_gradient(&x, &gy, [3, 2], plain).expect_err("a wider output");
    assert_eq!(
        error.to_string(),
        format!(
            "conv2d_weight_gradient: shapes [2, 4, 5, 3], [2, 6, 3, 1], [3, 2] do not fit: \
             gy must have the output's shape [2, 6, 3, 2] {}",
            geometry(1, 1, 1)
        )
    );
    Ok(())
}

fn wrong_transposed_input() -> Result<()> {
    let zeros = |s: &[usize]| Tensor::zeros(s, DType::F32);
    let (x, w) = (zeros(&[1, 4, 3, 3])?, zeros(&[4, 2, 3, 3])?);
    let plain = ConvTranspose2d::default();
    for geometry in [
        ConvTranspose2d {
            output_padding: [1, 1],
            ..plain
        },
        ConvTranspose2d {
            padding: [3, 3],
            ..plain
        },
        ConvTranspose2d {
            stride: [0, 1],
            ..plain
        },
        ConvTranspose2d {
            stride: [usize::MAX, 1],
            ..plain
        },
    ] {
        let error = ops::conv_transpose2d(&x, &w, None, geometry).expect_err("no such output");
        assert_eq!(
            error.to_string(),
            format!(
                "conv_transpose2d: shapes [1, 4, 3, 3], [4, 2, 3, 3] do not fit: no output: too \
                 much padding, or output padding not below the stride ({geometry:?})"
            )
        );
    }
    assert!(ops::conv_transpose2d(&x, &zeros(&[3, 2, 3, 3])?, None, plain).is_err());
    assert!(ops::conv_transpose2d(&x, &w, Some(&zeros(&[4])?), plain).is_err());
    assert!(ops::conv_transpose2d(&w, &zeros(&[4])?, None, plain).is_err());
    Ok(())
}

/// Against convolution, batch norm in plain arithmetic, sum and activation.
fn unfused() -> Result<()> {
    let geometry = Conv2d {
        stride: [2, 1],
        padding: [1, 1],
        ..Conv2d::default()
    };
    let eps = 1e-3;
    let named = |name: &str, shape: &[usize], low: f64| tensor(name, shape, low, 1.0, DType::F64);
    let x = named("x", &[2, 46, 9, 5], -1.0)?.to_format(Format::ChannelsLast)?;
    let w = named("w", &[19, 46, 3, 3], -1.0)?;
    let bias = named("bias", &[19], -1.0)?;
    let (gamma, beta) = (named("gamma", &[19], -1.0)?, named("beta", &[19], -1.0)?);
    let (mean, var) = (named("mean", &[19], -1.0)?, named("var", &[19], 0.1)?);
    let channel = |t: &Tensor| ops::reshape(t, &[1, 19, 1, 1]);
    let convolved = ops::conv2d(&x, &w, Some(&bias), geometry)?;
    let deviation = ops::sqrt(&ops::affine(&var, 1.0, eps)?)?;
    let normed = ops::div(
        &ops::sub(&convolved, &channel(&mean)?)?,
        &channel(&deviation)?,
    )?;
    let normed = ops::add(&ops::mul(&normed, &channel(&gamma)?)?, &channel(&beta)?)?;
    let residual = named("residual", normed.shape(), -1.0)?;
    let (fw, fb) = ops::fold_batch_norm(&w, Some(&bias), [&gamma, &beta, &mean, &var], eps)?;
    for activation in [
        Activation::None,
        Activation::Relu,
        Activation::LeakyRelu(0.2),
        Activation::Gelu,
    ] {
        let prepared = PreparedConv::new(&fw, Some(&fb), activation, geometry)?;
        let want = activation.apply(&normed)?.to_f64_vec()?;
        let got = prepared.apply(&x, None)?.to_f64_vec()?;
        assert!(relative_l2(&got, &want) <= 1e-13, "{activation:?}");

        let want = activation.apply(&ops::add(&normed, &residual)?)?;
        let want = want.to_f64_vec()?;
        let got = prepared.apply(&x, Some(&residual))?.to_f64_vec()?;
        assert!(relative_l2(&got, &want) <= 1e-13, "{activation:?}");
        let single = |t: &Tensor| ops::cast(t, DType::F32);
        let fused = ops::conv_bn_act(
            &single(&x)?,
            &single(&fw)?,
            Some(&single(&fb)?),
            Some(&single(&residual)?),
            activation,
            geometry,
        )?;
        let error = relative_l2(&fused.to_f64_vec()?, &want);
        assert!(error <= 1e-6, "{activation:?} in f32: {error:e}");
    }
    Ok(())
}

/// Bit by bit what the plain call computes: in the residual's memory, whether it is
/// alone or shared; with a prologue on part of an image; into part of an image.
fn in_place() -> Result<()> {
    let same = Conv2d {
        padding: [1, 1],
        ..Conv2d::default()
    };
    let plain = Conv2d::default();
    let depthwise = Conv2d { groups: 16, ..same };
    // Dense, of a width that fills no panel; in fewer products; depthwise.
    let kinds = [
        ([7, 16, 1, 1], plain),
        ([21, 16, 3, 3], same),
        ([24, 16, 3, 3], same),
        ([16, 1, 3, 3], depthwise),
    ];
    for dtype in [DType::F32, DType::F64] {
        let named = |name: &str, shape: &[usize]| {
            tensor(name, shape, -1.0, 1.0, dtype)?.to_format(Format::ChannelsLast)
        };
        let (wide, channel) = (named("wide", &[2, 40, 5, 7])?, ["scale", "shift"]);
        let numbers = channel.map(|name| tensor(name, &[16], -1.0, 1.0, dtype));
        let [scale, shift] = numbers;
        let (scale, shift) = (scale?, shift?);
        let x = ops::slice(&wide, 1, 0, 16)?;
        for (w, geometry) in kinds {
            let weight = tensor("w", &w, -1.0, 1.0, dtype)?;
            let bias = tensor("bias", &[w[0]], -1.0, 1.0, dtype)?;
            for activation in [Activation::None, Activation::Relu, Activation::Gelu] {
                let what = format!("{w:?} {dtype} {activation:?}");
                let conv = PreparedConv::new(&weight, Some(&bias), activation, geometry)?;
                let residual = named("residual", &[2, w[0], 5, 7])?;
                let before = residual.to_f64_vec()?;
                let want = conv.apply(&x, Some(&residual))?.to_f64_vec()?;
                let shared = conv.apply_onto(&x, residual.clone())?;
                assert_eq!(shared.to_f64_vec()?, want, "{what}: a shared residual");
                assert_eq!(residual.to_f64_vec()?, before, "{what}: it was changed");
                let alone = conv.apply_onto(&x, residual)?;
                assert_eq!(alone.to_f64_vec()?, want, "{what}: a residual");

                let front = |t: &Tensor| ops::reshape(t, &[1, 16, 1, 1]);
                let scaled = ops::add(&ops::mul(&x, &front(&scale)?)?, &front(&shift)?)?;
                let want = conv.apply(&ops::relu(&scaled)?, None)?.to_f64_vec()?;
                let got = conv.apply_activated(&x, [&scale, &shift])?;
                assert_eq!(got.to_f64_vec()?, want, "{what}: a prologue");

                let mut y = named("y", &[2, w[0] + 5, 5, 7])?;
                if geometry.groups > 1 {
                    assert!(conv.apply_into(&x, &mut y, 2).is_err(), "{what}");
                    continue;
                }
                let want = [
                    ops::slice(&y, 1, 0, 2)?.to_f64_vec()?,
                    conv.apply(&x, None)?.to_f64_vec()?,
                    ops::slice(&y, 1, w[0] + 2, 3)?.to_f64_vec()?,
                ];
                conv.apply_into(&x, &mut y, 2)?;
                let parts = [(0, 2), (2, w[0]), (w[0] + 2, 3)];
                for ((first, count), want) in parts.into_iter().zip(want) {
                    let got = ops::slice(&y, 1, first, count)?.to_f64_vec()?;
                    assert_eq!(got, want, "{what}: channels from {first} on");
                }
                assert!(conv.apply_into(&x, &mut y, 6).is_err(), "{what}: no room");
                let held = y.clone();
                assert!(conv.apply_into(&x, &mut y, 2).is_err(), "{what}: shared");
                drop(held);
            }
        }
    }
    Ok(())
}

fn geometry(case: &Case) -> Conv2d {
    let flat = case.attrs.get("dilation").is_some();
    let (stride, padding) = (case.pair("stride"), case.pair("padding"));
    Conv2d {
        stride,
        padding,
        dilation: if flat { case.pair("dilation") } else { [1, 1] },
        groups: if flat {
            case.number("groups") as usize
        } else {
            1
        },
    }
}

fn transposed(case: &Case) -> ConvTranspose2d {
    let Conv2d {
        stride,
        padding,
        dilation,
        groups,
    } = geometry(case);
    let given = case.attrs.get("output_padding").is_some();
    ConvTranspose2d {
        stride,
        padding,
        output_padding: if given {
            case.pair("output_padding")
        } else {
            [0, 0]
        },
        dilation,
        groups,
    }
}

pub fn golden(case: &Case) -> Option<Outputs> {
    let operands = || (case.input("x"), case.input("w"), case.optional("b"));
    let single = |t: Result<Tensor>| t.map(|t| vec![("out", t)]);
    // The gradients of sum(y gy), recorded.
    let gradients = |y: Result<Tensor>| -> Outputs {
        let (x, w, _) = operands();
        let g = grad(&[&y?], Some(&[case.input("gy")]), &[x, w], true)?;
        let mut g = g.into_iter().flatten();
        let mut next = || g.next().expect("a gradient");
        Ok(vec![("gx", next()), ("gw", next())])
    };
    Some(match case.op.as_str() {
        "conv2d" => {
            let (x, w, b) = operands();
            single(ops::conv2d(x, w, b, geometry(case)))
        }
        "conv_transpose2d" => {
            let (x, w, b) = operands();
            single(ops::conv_transpose2d(x, w, b, transposed(case)))
        }
        // A convolution along one axis is one over images of a single row.
        "conv1d" => {
            let (x, w, b) = operands();
            let image = |t: &Tensor| {
                let s = t.shape();
                ops::reshape(t, &[s[0], s[1], 1, s[2]])
            };
            single(image(x).and_then(|image_x| {
                let y = ops::conv2d(&image_x, &image(w)?, b, Conv2d::default())?;
                let s = y.shape().to_vec();
                ops::reshape(&y, &[s[0], s[1], s[3]])
            }))
        }
        "conv2d double backward" => {
            let (x, w, _) = operands();
            gradients(ops::conv2d(x, w, None, geometry(case)))
        }
        "conv_transpose2d double backward" => {
            let (x, w, _) = operands();
            gradients(ops::conv_transpose2d(x, w, None, transposed(case)))
        }
        _ => return None,
    })
}
