//! Convolutions of bf16 and f16 on the emulator, bit for bit: sums of small
//! integers are exact in f32 in any order, so all that is left is one rounding.

use eosin::autograd::grad;
use eosin::ops::{self, Activation, Conv2d, PreparedConv};
use eosin::shape::Format;
use eosin::{DType, Device, Result, Tensor};
use eosin_emulator::Schedule;

use crate::harness::{Suite, emulated};

const HALVES: [(&str, DType); 2] = [("bf16", DType::BF16), ("f16", DType::F16)];
const SCHEDULES: [Schedule; 2] = [Schedule::Reverse, Schedule::Greedy(11)];

/// Sizes of x and w, and how the kernel moves.
type Shape = ([usize; 4], [usize; 4], Conv2d);

fn shape(x: [usize; 4], w: [usize; 4], [stride, padding, dilation]: [usize; 3]) -> Shape {
    let geometry = Conv2d {
        stride: [stride; 2],
        padding: [padding; 2],
        dilation: [dilation; 2],
        groups: x[1] / w[1],
    };
    (x, w, geometry)
}

/// Integers from -`most` to `most`.
fn integers(seed: usize, dims: &[usize], most: usize) -> Result<Tensor> {
    let count: usize = dims.iter().product();
    let value = |i: usize| ((i * 29 + seed * 7 + i / 13) % (2 * most + 1)) as f64 - most as f64;
    let values: Vec<f64> = (0..count).map(value).collect();
    Tensor::from_slice(&values, dims)
}

/// All that a convolution computes in the dtype of its operands: y, the gradients
/// of x and w, and y with bias, residual and ReLU in one pass. Both gradients of a 1 x 1
/// convolution may be one launch, so each is asked for alone too.
fn everything([x, w, bias, residual, gy]: [&Tensor; 5], geometry: Conv2d) -> Result<Vec<Tensor>> {
    let conv = PreparedConv::new(w, Some(bias), Activation::Relu, geometry)?;
    let fused = conv.apply(x, Some(residual))?;
    let (x, w) = (x.variable(), w.variable());
    let y = ops::conv2d(&x, &w, None, geometry)?;
    let mut gradients = grad(&[&y], Some(&[gy]), &[&x, &w], false)?;
    if w.shape().ends_with(&[1, 1]) {
        for alone in [&x, &w] {
            gradients.extend(grad(&[&y], Some(&[gy]), &[alone], false)?);
        }
    }
    let mut all = vec![y, fused];
    all.extend(gradients.into_iter().flatten());
    Ok(all)
}

/// Compares all of them with f64 on the CPU, rounded once.
fn exact(dtype: DType, (x, w, geometry): Shape) -> Result<()> {
    let along = |i: usize| {
        let reach = geometry.dilation[i] * (w[i + 2] - 1) + 1;
        (x[i + 2] + 2 * geometry.padding[i] - reach) / geometry.stride[i] + 1
    };
    let y = [x[0], w[0], along(0), along(1)];
    let operands = [&x[..], &w, &w[..1], &y, &y];
    let operands: Vec<Tensor> = (operands.iter().enumerate())
        .map(|(seed, dims)| integers(seed, dims, 3))
        .collect::<Result<_>>()?;
    let wide: [&Tensor; 5] = std::array::from_fn(|i| &operands[i]);
    let want = everything(wide, geometry)?;
    for schedule in SCHEDULES {
        let device = emulated(schedule)?;
        let narrow: Vec<Tensor> = (operands.iter())
            .map(|t| ops::cast(t, dtype)?.to(&device))
            .collect::<Result<_>>()?;
        let got = everything(std::array::from_fn(|i| &narrow[i]), geometry)?;
        assert_eq!(got.len(), want.len());
        for (which, (got, want)) in got.iter().zip(&want).enumerate() {
            let what = format!("result {which} of {x:?} {w:?} {geometry:?} {schedule:?}");
            assert_eq!((got.shape(), got.dtype()), (want.shape(), dtype), "{what}");
            let rounded = ops::cast(want, dtype)?;
            assert_eq!(got.to_f64_vec()?, rounded.to_f64_vec()?, "{what}");
        }
    }
    Ok(())
}

/// What reads and writes channels of wider images, with and without a batch norm in front,
/// compared with f64 on the CPU, rounded once.
fn channels_of_wider_images(dtype: DType, x: [usize; 4], w: [usize; 4]) -> Result<()> {
    let ([n, c, height, width], k) = (x, w[0]);
    let geometry = Conv2d {
        padding: [w[2] / 2, w[3] / 2],
        ..Conv2d::default()
    };
    let images = integers(1, &[n, c + 9, height, width], 3)?.to_format(Format::ChannelsLast)?;
    let [scale, shift] = [2, 3].map(|seed| integers(seed, &[c], 2));
    let (scale, shift) = (scale?, shift?);
    let (weight, bias) = (integers(4, &w, 3)?, integers(5, &[k], 3)?);
    let before = integers(6, &[n, k + 7, height, width], 3)?.to_format(Format::ChannelsLast)?;
    let conv = PreparedConv::new(&weight, Some(&bias), Activation::Relu, geometry)?;
    for first in [0, 3] {
        let seen = ops::slice(&images, 1, first, c)?;
        let plain = conv.apply(&seen, None)?;
        let activated = conv.apply_activated(&seen, [&scale, &shift])?;
        let [plain, activated] = [plain, activated].map(|t| ops::cast(&t, dtype)?.to_f64_vec());
        let (plain, activated) = (plain?, activated?);
        let [left, right] = [(0, first), (first + k, 7 - first)]
            .map(|(at, count)| ops::slice(&before, 1, at, count)?.to_f64_vec());
        let (left, right) = (left?, right?);
        for schedule in SCHEDULES {
            let device = emulated(schedule)?;
            let there = |t: &Tensor| ops::cast(t, dtype)?.to(&device);
            let number = |t: &Tensor| ops::cast(t, DType::F32)?.to(&device);
            let what = format!("{dtype} {x:?} {w:?} from {first} {schedule:?}");
            let relu = Activation::Relu;
            let conv = PreparedConv::new(&there(&weight)?, Some(&there(&bias)?), relu, geometry)?;
            let seen = ops::slice(&there(&images)?, 1, first, c)?;
            assert_eq!(conv.apply(&seen, None)?.to_f64_vec()?, plain, "{what}");
            let got = conv.apply_activated(&seen, [&number(&scale)?, &number(&shift)?])?;
            assert_eq!(got.to_f64_vec()?, activated, "{what}: activated");
            let mut y = there(&before)?;
            conv.apply_into(&seen, &mut y, first)?;
            let part = |at, count| ops::slice(&y, 1, at, count)?.to_f64_vec();
            assert_eq!(part(first, k)?, plain, "{what}: into");
            assert_eq!(part(0, first)?, left, "{what}: before it");
            assert_eq!(part(first + k, 7 - first)?, right, "{what}: behind it");
        }
    }
    Ok(())
}

pub fn tests(suite: &mut Suite) {
    for (name, dtype) in HALVES {
        half_tests(suite, name, dtype);
    }
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let name = format!("conv_bn_act::cuda::{dtype}::channels_of_wider_images");
        suite.test(name, move || {
            // Ragged, a sum in parts, and the two larger tiles of halves; with neighbours, x
            // is activated first.
            for (x, w) in [
                ([2, 16, 5, 4], [8, 16, 1, 1]),
                ([2, 11, 3, 4], [5, 11, 1, 1]),
                ([1, 600, 5, 4], [20, 600, 1, 1]),
                ([2, 12, 5, 4], [6, 12, 3, 3]),
                ([12, 16, 32, 32], [40, 16, 1, 1]),
                ([1, 16, 30, 33], [1500, 16, 1, 1]),
            ] {
                channels_of_wider_images(dtype, x, w)?;
            }
            Ok(())
        });
    }
}

fn half_tests(suite: &mut Suite, name: &str, dtype: DType) {
    let mut test = |what: &str, body: fn(DType) -> Result<()>| {
        suite.test(format!("conv2d::cuda::{name}::{what}"), move || body(dtype));
    };
    test("ragged_sizes", |dtype| {
        for (c, k) in [(1, 2), (3, 4), (4, 3), (8, 8), (17, 12), (46, 70), (64, 65)] {
            exact(dtype, shape([2, c, 6, 5], [k, c, 3, 3], [1, 1, 1]))?;
        }
        exact(dtype, shape([1, 165, 3, 2], [9, 165, 1, 1], [1, 0, 1]))
    });
    // Every pairing of stride and dilation has its own phases of the input
    // gradient, some without a tap.
    test("strides_and_dilations", |dtype| {
        for stride in 1..=4 {
            for dilation in 1..=3 {
                exact(
                    dtype,
                    shape([2, 9, 11, 10], [6, 9, 3, 3], [stride, 2, dilation]),
                )?;
            }
        }
        exact(dtype, shape([1, 8, 9, 8], [5, 8, 2, 2], [4, 0, 1]))?;
        exact(dtype, shape([2, 5, 8, 8], [3, 5, 4, 4], [2, 1, 1]))
    });
    test("unequal_axes", |dtype| {
        let geometry = Conv2d {
            stride: [2, 3],
            padding: [3, 0],
            dilation: [1, 2],
            groups: 2,
        };
        exact(dtype, ([2, 12, 7, 13], [10, 6, 2, 3], geometry))
    });
    test("groups", |dtype| {
        exact(dtype, shape([2, 6, 5, 4], [4, 3, 3, 3], [1, 1, 1]))?;
        exact(dtype, shape([1, 32, 5, 4], [48, 8, 3, 3], [2, 1, 1]))?;
        exact(dtype, shape([2, 10, 4, 4], [20, 1, 3, 3], [1, 1, 1]))?;
        exact(dtype, shape([2, 35, 4, 3], [35, 1, 2, 2], [2, 1, 1]))
    });
    test("stem", |dtype| {
        exact(dtype, shape([1, 3, 15, 14], [9, 3, 7, 7], [2, 3, 1]))
    });
    test("parts_of_the_sum", |dtype| {
        exact(dtype, shape([2, 72, 4, 3], [66, 72, 3, 3], [1, 1, 1]))?;
        exact(dtype, shape([1, 64, 5, 5], [130, 64, 4, 4], [2, 1, 1]))?;
        exact(dtype, shape([3, 5, 21, 13], [7, 5, 2, 2], [1, 0, 1]))
    });
    test("large_tiles", |dtype| {
        // 96 tiles of 128 x 128 or of 128 x 64, ragged in both directions: of y, of
        // the gradient of x, and of that of w.
        for (x, w) in [
            ([1, 16, 30, 33], [1500, 16, 1, 1]),
            ([1, 1500, 30, 33], [16, 1500, 1, 1]),
            ([1, 1500, 3, 1], [1000, 1500, 1, 1]),
            ([12, 3, 33, 33], [40, 3, 1, 2]),
            ([1, 5, 2, 2], [12_200, 5, 1, 2]),
        ] {
            exact(dtype, shape(x, w, [1, 0, 1]))?;
        }
        Ok(())
    });
    test("layouts", |dtype| {
        // NCHW, and a view whose pixels lie further apart than their channels.
        for schedule in SCHEDULES {
            let device = emulated(schedule)?;
            let wide = ops::cast(&integers(1, &[2, 12, 5, 4], 3)?, dtype)?.to(&device)?;
            let x = ops::slice(&wide.to_format(Format::ChannelsLast)?, 1, 2, 9)?;
            let w = ops::cast(&integers(2, &[5, 9, 3, 3], 3)?, dtype)?.to(&device)?;
            let plain = Conv2d::default();
            let want = ops::conv2d(&x.to_format(Format::Contiguous)?, &w, None, plain)?;
            let got = ops::conv2d(&x, &w, None, plain)?;
            assert!(got.layout().is_channels_last());
            assert_eq!(got.to_f64_vec()?, want.to_f64_vec()?);
        }
        Ok(())
    });
    test("empty", |dtype| {
        for device in [Device::Cpu, emulated(Schedule::Forward)?] {
            for groups in [1, 2, 4] {
                let zeros = |s: &[usize]| Tensor::zeros(s, dtype)?.to(&device);
                let geometry = Conv2d {
                    padding: [1, 1],
                    groups,
                    ..Conv2d::default()
                };
                let x = zeros(&[0, 4, 4, 5])?.variable();
                let w = zeros(&[8, 4 / groups, 3, 3])?.variable();
                let y = ops::conv2d(&x, &w, None, geometry)?;
                assert_eq!(y.shape(), [0, 8, 4, 5]);
                let gradients = grad(&[&ops::sum_all(&y)?], None, &[&x, &w], false)?;
                let gradients: Vec<&Tensor> = gradients.iter().flatten().collect();
                assert_eq!(gradients[0].shape(), x.shape());
                assert_eq!(gradients[1].to_f64_vec()?, vec![0.0; w.elements()]);
            }
        }
        Ok(())
    });
    test("wrong_dtypes", |dtype| {
        for device in [Device::Cpu, emulated(Schedule::Forward)?] {
            let plain = Conv2d::default();
            let zeros = |dtype| Tensor::zeros(&[2, 2, 2, 2], dtype)?.to(&device);
            let half = zeros(dtype)?;
            let other = HALVES.into_iter().find(|(_, d)| *d != dtype);
            let other = other.map_or(DType::F32, |(_, d)| d);
            for wrong in [other, DType::F32, DType::I32] {
                let wrong = zeros(wrong)?;
                for (a, b) in [(&half, &wrong), (&wrong, &half)] {
                    let gy = ops::slice(&ops::slice(b, 2, 0, 1)?, 3, 0, 1)?;
                    for refused in [
                        ops::conv2d(a, b, None, plain),
                        ops::conv2d_input_gradient(&gy, a, [2, 2], plain),
                        ops::conv2d_weight_gradient(a, &gy, [2, 2], plain),
                        ops::conv_bn_act(a, b, None, None, Activation::None, plain),
                    ] {
                        let error = refused.expect_err("two dtypes").to_string();
                        assert!(error.contains(&format!("{:?}", b.dtype())), "{error}");
                    }
                }
            }
        }
        Ok(())
    });
}
