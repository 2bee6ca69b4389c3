//! Kernels that samples do not reach, since those are small and of floats:
//! variants for other element sizes, bit for bit as on the CPU, and for large
//! shapes.

use eosin::ops::{self, Activation, Comparison, Conv2d, Pool};
use eosin::shape::Format;
use eosin::{DType, Device, Result, Tensor};
use eosin_emulator::Schedule;

use crate::harness::{Sample, Suite, cuda_half_first_order};
use crate::under_test;

const DTYPES: [DType; 7] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::Bool,
];

/// The name, which dtypes it takes, and what it does to two tensors of (3, 4, 5, 2).
type Move = (
    &'static str,
    fn(DType) -> bool,
    fn(&Tensor, &Tensor) -> Result<Tensor>,
);

const MOVES: [Move; 9] = [
    (
        "to_format",
        |_| true,
        |a, _| {
            let turned = ops::permute(a, &[1, 3, 0, 2])?.to_format(Format::ChannelsLast)?;
            ops::permute(&turned, &[3, 2, 1, 0])?.to_format(Format::Contiguous)
        },
    ),
    ("cat", |_| true, |a, b| ops::cat(&[a, b, a], 2)),
    (
        "slice",
        |_| true,
        |a, _| ops::slice_step(a, 1, 1, 2, 2)?.to_format(Format::Contiguous),
    ),
    ("place", |d| d.is_float(), |a, _| ops::place(a, 2, 1, 3, 17)),
    (
        "index_select",
        |d| d != DType::Bool,
        |a, _| {
            let index = Tensor::from_slice(&[3i64, 0, 3], &[3])?;
            ops::index_select(a, 1, &index.to(&a.device())?)
        },
    ),
    (
        "gather",
        |d| d.size() > 1,
        |a, _| {
            let index: Vec<i64> = (0..3 * 2 * 5 * 2).map(|i| i * i % 4).collect();
            let index = Tensor::from_slice(&index, &[3, 2, 5, 2])?;
            ops::gather(a, 1, &index.to(&a.device())?)
        },
    ),
    (
        "select",
        |d| d != DType::Bool,
        |a, b| {
            let choice: Vec<f32> = (0..120).map(|i| (i % 3) as f32).collect();
            let choice = ops::cast(&Tensor::from_slice(&choice, a.shape())?, DType::Bool)?;
            ops::select(&choice.to(&a.device())?, a, b)
        },
    ),
    (
        "compare",
        |d| matches!(d, DType::F32 | DType::I32 | DType::I64 | DType::U8),
        |a, b| {
            let all = [
                Comparison::Equal,
                Comparison::Less,
                Comparison::LessEqual,
                Comparison::Greater,
                Comparison::GreaterEqual,
            ];
            let each = all.map(|order| ops::compare(a, order, b));
            let each = each.into_iter().collect::<Result<Vec<_>>>()?;
            ops::cat(&each.iter().collect::<Vec<_>>(), 0)
        },
    ),
    (
        "full",
        |_| true,
        |a, _| Tensor::full_on(-2.5, a.shape(), a.dtype(), &a.device()),
    ),
];

/// Values that every dtype holds as something, with some that few hold exactly.
fn values(seed: usize, dtype: DType) -> Result<Tensor> {
    let values: Vec<f64> = (0..120)
        .map(|i| ((i * 37 + seed * 11) % 23) as f64 - 7.0 + 0.25 * (i % 3) as f64)
        .collect();
    ops::cast(&Tensor::from_slice(&values, &[3, 4, 5, 2])?, dtype)
}

fn emulated(schedule: Schedule) -> Result<Device> {
    Ok(Device::Cuda(under_test::device(schedule)?))
}

fn moves((_, _, call): Move, dtype: DType) -> Result<()> {
    let (a, b) = (values(1, dtype)?, values(2, dtype)?);
    let want = call(&a, &b)?;
    assert!(want.elements() > 0);
    for schedule in [Schedule::Forward, Schedule::Greedy(9)] {
        let device = emulated(schedule)?;
        let got = call(&a.to(&device)?, &b.to(&device)?)?;
        assert_eq!(got.device(), device);
        assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()));
        assert!(got.to_bytes()? == want.to_bytes()?, "other values");
    }
    Ok(())
}

/// Every conversion, of values that saturate and of those that have no number.
fn casts(from: DType, to: DType) -> Result<()> {
    let special = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        -0.0,
        0.5,
        -0.5,
        1.5,
        254.9,
        255.0,
        256.0,
        300.7,
        -1.0,
        65504.0,
        65519.9,
        65520.0,
        1e-7,
        3e-8,
        16_777_217.0,
        2_147_483_647.0,
        2_147_483_648.0,
        -2_147_483_649.0,
        1e10,
        -1e10,
        9.3e18,
        -9.3e18,
        1e38,
        3.5e38,
        1e300,
    ];
    let special = Tensor::from_slice(&special, &[special.len()])?;
    let plain = ops::reshape(&values(3, DType::F64)?, &[120])?;
    let x = ops::cast(&ops::cat(&[&special, &plain], 0)?, from)?;
    let want = ops::cast(&x, to)?;
    let got = ops::cast(&x.to(&emulated(Schedule::Random(3))?)?, to)?;
    assert_eq!(got.dtype(), to);
    // As numbers, since a NaN's bits are nobody's promise.
    let (got, want) = (got.to_f64_vec()?, want.to_f64_vec()?);
    for ((got, want), x) in got.iter().zip(&want).zip(x.to_f64_vec()?) {
        let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
        assert!(same, "{x} is {got}, not {want}");
    }
    Ok(())
}

/// Shapes for which another variant is taken than for small ones; the counts are
/// those of the modules' constants.
fn large() -> Vec<Sample> {
    vec![
        // More columns than a warp takes.
        Sample::new("softmax", "block", &[&[3, 1037]], |t| {
            ops::softmax(&t[0], -1)
        }),
        Sample::new("log_softmax", "block", &[&[3, 1037]], |t| {
            ops::log_softmax(&t[0], -1)
        }),
        Sample::new(
            "layer_norm",
            "block",
            &[&[3, 1037], &[1037], &[1037]],
            |t| ops::layer_norm(&t[0], 1, Some(&t[1]), Some(&t[2]), 1e-5),
        ),
        // Enough tiles of 128 rows to fill a GPU.
        Sample::new("matmul", "large_tiles", &[&[256, 3, 5], &[5, 4]], |t| {
            ops::matmul(&t[0], &t[1])
        }),
        Sample::new(
            "linear",
            "large_tiles",
            &[&[2, 3], &[64 * 256, 3], &[64 * 256]],
            |t| ops::linear(&t[0], &t[1], Some(&t[2]), Activation::Gelu),
        ),
        // A sum that is long enough to be cut.
        Sample::new("matmul", "parts", &[&[7, 1030], &[1030, 5]], |t| {
            ops::matmul(&t[0], &t[1])
        }),
        Sample::new("linear", "parts", &[&[7, 1030], &[5, 1030], &[5]], |t| {
            ops::linear(&t[0], &t[1], Some(&t[2]), Activation::Relu)
        }),
        Sample::new("conv2d", "parts", &[&[2, 3, 21, 27], &[5, 3, 3, 3]], |t| {
            let geometry = Conv2d {
                padding: [1, 1],
                ..Conv2d::default()
            };
            ops::conv2d(&t[0], &t[1], None, geometry)
        }),
        // Several blocks of channels and parts of the pixels, and the last one's sum.
        Sample::new(
            "conv2d",
            "depthwise_parts",
            &[&[2, 165, 9, 11], &[165, 1, 3, 3], &[165]],
            |t| depthwise(t, [1, 1], [1, 1]),
        ),
        Sample::new(
            "conv2d",
            "depthwise_7x7_parts",
            &[&[3, 46, 7, 9], &[46, 1, 7, 7], &[46]],
            |t| depthwise(t, [1, 1], [3, 3]),
        ),
        Sample::new(
            "conv2d",
            "depthwise_patches_parts",
            &[&[2, 46, 24, 32], &[46, 1, 4, 4], &[46]],
            |t| depthwise(t, [4, 4], [0, 0]),
        ),
        // Rows of a gradient in parts, and tiles of 128 rows.
        Sample::new(
            "linear",
            "rows_in_parts",
            &[&[1030, 5], &[67, 5], &[67]],
            |t| ops::linear(&t[0], &t[1], Some(&t[2]), Activation::Gelu),
        ),
        Sample::new(
            "linear",
            "large_gradients",
            &[&[2, 64 * 256], &[1, 64 * 256], &[1]],
            |t| ops::linear(&t[0], &t[1], Some(&t[2]), Activation::None),
        ),
        Sample::new(
            "conv2d",
            "one_by_one_parts",
            &[&[2, 5, 16, 17], &[3, 5, 1, 1], &[3]],
            |t| ops::conv2d(&t[0], &t[1], Some(&t[2]), Conv2d::default()),
        ),
        Sample::new(
            "conv2d",
            "one_by_one_large_gradients",
            &[&[1, 64 * 256, 1, 2], &[1, 64 * 256, 1, 1]],
            |t| ops::conv2d(&t[0], &t[1], None, Conv2d::default()),
        ),
        // More keys than are sorted in shared memory at once.
        Sample::new("sort", "merged", &[&[2, 9001]], |t| {
            Ok(ops::sort(&t[0], -1, true)?.0)
        }),
    ]
}

/// The same for bf16 and f16; and layer norm, whose second gradient they do not have.
fn large_halves() -> Vec<Sample> {
    vec![
        Sample::new("layer_norm", "tokens", &[&[2, 5, 46], &[46], &[46]], |t| {
            ops::layer_norm(&t[0], 1, Some(&t[1]), Some(&t[2]), 1e-5)
        }),
        Sample::new(
            "layer_norm",
            "block",
            &[&[3, 1037], &[1037], &[1037]],
            |t| ops::layer_norm(&t[0], 1, Some(&t[1]), Some(&t[2]), 1e-5),
        ),
        // Enough tiles of 128 x 128 for the gradient of x.
        Sample::new(
            "linear",
            "large_gradients",
            &[&[128, 128 * 96], &[1, 128 * 96], &[1]],
            |t| ops::linear(&t[0], &t[1], Some(&t[2]), Activation::None),
        ),
        Sample::new(
            "conv2d",
            "one_by_one_large_gradients",
            &[&[1, 128 * 96, 8, 16], &[1, 128 * 96, 1, 1]],
            |t| ops::conv2d(&t[0], &t[1], None, Conv2d::default()),
        ),
        Sample::new(
            "linear",
            "rows_in_parts",
            &[&[1030, 5], &[67, 5], &[67]],
            |t| ops::linear(&t[0], &t[1], Some(&t[2]), Activation::Gelu),
        ),
    ]
}

fn depthwise(t: &[Tensor], stride: [usize; 2], padding: [usize; 2]) -> Result<Tensor> {
    let geometry = Conv2d {
        stride,
        padding,
        groups: t[0].shape()[1],
        ..Conv2d::default()
    };
    ops::conv2d(&t[0], &t[1], Some(&t[2]), geometry)
}

pub fn tests(suite: &mut Suite) {
    for one in MOVES {
        for dtype in DTYPES.into_iter().filter(|d| one.1(*d)) {
            suite.test(format!("{}::elements::cuda::{dtype}", one.0), move || {
                moves(one, dtype)
            });
        }
    }
    for from in DTYPES {
        for to in DTYPES {
            suite.test(format!("cast::{from}_to_{to}::cuda"), move || {
                casts(from, to)
            });
        }
    }
    for sample in large() {
        suite.on_cuda_alone(sample);
    }
    for (name, dtype) in [("bf16", DType::BF16), ("f16", DType::F16)] {
        for sample in large_halves() {
            let of = format!("{}::{}::cuda::{name}", sample.op, sample.name);
            suite.test(format!("{of}::values_and_gradients"), move || {
                cuda_half_first_order(&sample, dtype)
            });
        }
    }
    suite.test("max_pool2d::unrecorded::cuda::f32", || {
        let x = crate::common::tensor("unrecorded", &[2, 5, 9, 7], -1.0, 1.0, DType::F32)?;
        let pool = Pool {
            kernel: [3, 2],
            stride: [2, 1],
            padding: [1, 0],
        };
        let want = ops::max_pool2d(&x, pool)?;
        let got = ops::max_pool2d(&x.to(&emulated(Schedule::Reverse)?)?, pool)?;
        assert_eq!(got.to_vec::<f32>()?, want.to_vec::<f32>()?);
        Ok(())
    });
}
