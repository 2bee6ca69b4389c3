use eosin::autograd::grad;
use eosin::device::cuda::Wgmma;
use eosin::nn::Buffer;
use eosin::ops::{self, Activation};
use eosin::{DType, Device, Result, Tensor};
use eosin_emulator::Schedule;

use crate::common::{relative_l2, tensor};
use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite, emulated};

/// The dtypes of the tensor cores.
const HALVES: [(&str, DType); 2] = [("bf16", DType::BF16), ("f16", DType::F16)];
const SCHEDULES: [Schedule; 2] = [Schedule::Forward, Schedule::Greedy(11)];

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
    for (name, dtype) in HALVES {
        half_tests(suite, name, dtype);
    }
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

/// How a matrix lies in memory, surrounded by NaN: row by row or column by column,
/// `before` elements after the start of a line that ends with `after`, every
/// `step`-th element.
#[derive(Clone, Copy, Debug)]
struct Lie {
    turned: bool,
    before: usize,
    after: usize,
    step: usize,
}

const PLAIN: Lie = Lie {
    turned: false,
    before: 0,
    after: 0,
    step: 1,
};

/// The four transpose forms of a and b.
fn forms(a: Lie, b: Lie) -> impl Iterator<Item = [Lie; 2]> {
    let turns = [[false, false], [false, true], [true, false], [true, true]];
    turns.into_iter().map(move |[s, t]| {
        let (a, b) = (Lie { turned: s, ..a }, Lie { turned: t, ..b });
        [a, b]
    })
}

/// Small integers, so that every sum is exact in f32, in any order.
fn integer(i: usize) -> f32 {
    (i * 29 % 17) as f32 - 8.0
}

/// The matrices of `shape` (batch, rows, columns) on a device.
fn laid(shape: [usize; 3], first: usize, lie: Lie, dtype: DType, on: &Device) -> Result<Tensor> {
    let [batch, rows, columns] = shape;
    let (lines, each) = if lie.turned {
        (columns, rows)
    } else {
        (rows, columns)
    };
    let width = lie.before + each * lie.step + lie.after;
    let mut held = vec![f32::NAN; batch * lines * width];
    for matrix in 0..batch {
        for i in 0..rows {
            for j in 0..columns {
                let (line, place) = if lie.turned { (j, i) } else { (i, j) };
                let at = (matrix * lines + line) * width + lie.before + place * lie.step;
                held[at] = integer(first + (matrix * rows + i) * columns + j);
            }
        }
    }
    let held = Tensor::from_slice(&held, &[batch, lines, width])?;
    let held = ops::cast(&held, dtype)?.to(on)?;
    let matrices = ops::slice_step(&held, -1, lie.before, each, lie.step)?;
    match lie.turned {
        true => ops::transpose(&matrices, -1, -2),
        false => Ok(matrices),
    }
}

/// A device whose products use wgmma as told; a GPU that has none keeps to mma.sync.
fn with_wgmma(schedule: Schedule, products: Wgmma) -> Result<Device> {
    let device = emulated(schedule)?;
    if let Device::Cuda(device) = &device {
        device.set_wgmma(products);
    }
    Ok(device)
}

/// The product of integers, exact in f32 and rounded once to `dtype`, on a device
/// of every schedule.
fn exact(dtype: DType, lies: [Lie; 2], batches: [usize; 2], sizes: [usize; 3]) -> Result<()> {
    exact_by(Wgmma::Never, dtype, lies, batches, sizes)
}

fn exact_by(
    by: Wgmma,
    dtype: DType,
    lies: [Lie; 2],
    batches: [usize; 2],
    [m, k, n]: [usize; 3],
) -> Result<()> {
    let shapes = [[batches[0], m, k], [batches[1], k, n]];
    let plain = |which: usize| {
        laid(shapes[which], which, PLAIN, DType::F32, &Device::Cpu)
            .and_then(|t| ops::cast(&t, DType::F64))
    };
    let want = ops::matmul(&plain(0)?, &plain(1)?)?;
    for schedule in SCHEDULES {
        let device = with_wgmma(schedule, by)?;
        let a = laid(shapes[0], 0, lies[0], dtype, &device)?;
        let b = laid(shapes[1], 1, lies[1], dtype, &device)?;
        let what = format!("{lies:?} {batches:?} x {m} x {k} x {n} {schedule:?}");
        let wide = ops::matmul_to(&a, &b, DType::F32)?;
        assert_eq!(wide.to_f64_vec()?, want.to_f64_vec()?, "{what}");
        let rounded = ops::cast(&want, dtype)?;
        let got = ops::matmul(&a, &b)?;
        assert_eq!(got.dtype(), dtype);
        assert_eq!(got.to_f64_vec()?, rounded.to_f64_vec()?, "{what}");
    }
    Ok(())
}

fn half_tests(suite: &mut Suite, name: &str, dtype: DType) {
    suite.test(format!("matmul::cuda::{name}::ragged_sizes"), move || {
        for sizes in [
            [1, 1, 1],
            [1, 7, 1],
            [1, 64, 70],
            [70, 64, 1],
            [5, 33, 3],
            [17, 31, 65],
            [64, 32, 64],
            [65, 97, 66],
            [33, 160, 12],
        ] {
            for lies in forms(PLAIN, PLAIN) {
                exact(dtype, lies, [1, 1], sizes)?;
            }
        }
        Ok(())
    });
    // Lines of 48 elements, which start 16, 8, 4 and 2 bytes after a multiple of
    // 16, and such with other elements in between.
    suite.test(
        format!("matmul::cuda::{name}::copies_of_every_width"),
        move || {
            for (before, after, step) in [
                (8, 8, 1),
                (4, 4, 1),
                (2, 6, 1),
                (1, 7, 1),
                (0, 1, 1),
                (3, 2, 2),
                (0, 0, 3),
            ] {
                let lie = Lie {
                    turned: false,
                    before,
                    after,
                    step,
                };
                for lies in forms(lie, PLAIN).chain(forms(PLAIN, lie)) {
                    exact(dtype, lies, [1, 1], [48, 48, 48])?;
                    exact(dtype, lies, [1, 1], [19, 45, 37])?;
                }
            }
            Ok(())
        },
    );
    suite.test(format!("matmul::cuda::{name}::batches"), move || {
        for batches in [[3, 3], [1, 3], [3, 1]] {
            for lies in forms(PLAIN, PLAIN) {
                exact(dtype, lies, batches, [5, 9, 7])?;
                exact(dtype, lies, batches, [8, 16, 24])?;
            }
        }
        Ok(())
    });
    suite.test(format!("matmul::cuda::{name}::parts_of_k"), move || {
        for lies in forms(PLAIN, PLAIN) {
            exact(dtype, lies, [1, 1], [9, 1100, 6])?;
            exact(dtype, lies, [2, 1], [3, 520, 5])?;
        }
        Ok(())
    });
    suite.test(format!("matmul::cuda::{name}::large_tiles"), move || {
        // 96 tiles of 128 x 128: of one matrix, and four a matrix.
        for lies in forms(PLAIN, PLAIN) {
            exact(dtype, lies, [1, 1], [1000, 50, 1500])?;
        }
        exact(dtype, [PLAIN, PLAIN], [1, 24], [250, 20, 251])
    });
    suite.test(format!("matmul::cuda::{name}::wgmma"), move || {
        let exact = |lies, sizes| exact_by(Wgmma::Always, dtype, lies, [1, 1], sizes);
        for lies in forms(PLAIN, PLAIN) {
            exact(lies, [72, 136, 104])?;
            exact(lies, [72, 72, 264])?;
        }
        // Further than the stages reach, to edges in all directions.
        let along_k = [false, true].map(|turned| Lie { turned, ..PLAIN });
        exact(along_k, [131, 264, 127])?;
        exact(along_k, [131, 328, 133])?;
        exact(along_k, [1, 8, 1])?;
        // Left to mma.sync: lines that do not start at multiples of 16 bytes, and none.
        exact(along_k, [5, 9, 7])?;
        exact(along_k, [2, 0, 3])
    });
    suite.test(format!("matmul::cuda::{name}::bands_of_tiles"), move || {
        exact(dtype, [PLAIN, PLAIN], [1, 1], [64 * 9 + 1, 5, 130])
    });
    suite.test(format!("matmul::cuda::{name}::empty"), move || {
        for sizes in [[0, 3, 2], [2, 3, 0], [2, 0, 3]] {
            exact(dtype, [PLAIN, PLAIN], [1, 1], sizes)?;
            exact(dtype, [PLAIN, PLAIN], [0, 1], sizes)?;
        }
        Ok(())
    });
    suite.test(format!("matmul::cuda::{name}::wide_gradients"), move || {
        // The result is f32, the gradients are what the operands are.
        for device in [Device::Cpu, emulated(Schedule::Forward)?] {
            let a = laid([1, 5, 9], 0, PLAIN, dtype, &device)?.variable();
            let b = laid([1, 9, 7], 1, PLAIN, dtype, &device)?.variable();
            let y = ops::matmul_to(&a, &b, DType::F32)?;
            assert_eq!(y.dtype(), DType::F32);
            let g = grad(&[&ops::sum_all(&y)?], None, &[&a, &b], false)?;
            let ones = Tensor::full(1.0, &[1, 5, 7], DType::F64)?;
            let whole = |t: &Tensor| ops::cast(&t.detach().to(&Device::Cpu)?, DType::F64);
            let want = ops::matmul(&ones, &ops::transpose(&whole(&b)?, -1, -2)?)?;
            let got = g[0].as_ref().expect("a gradient");
            assert_eq!(got.dtype(), dtype);
            assert_eq!(got.to_f64_vec()?, ops::cast(&want, dtype)?.to_f64_vec()?);
        }
        Ok(())
    });
    suite.test(format!("linear::cuda::{name}::large_tiles"), move || {
        linear_is_exact(Wgmma::Never, dtype, [1000, 3, 1500])
    });
    suite.test(
        format!("linear::cuda::{name}::gradients_of_f32_parameters_are_not_rounded"),
        move || gradients_are_f32(dtype),
    );
    suite.test(format!("linear::cuda::{name}::wgmma"), move || {
        linear_is_exact(Wgmma::Always, dtype, [72, 72, 104])?;
        linear_is_exact(Wgmma::Always, dtype, [24, 16, 136])
    });
    suite.test(format!("linear::cuda::{name}::parts_of_k"), move || {
        linear_is_exact(Wgmma::Never, dtype, [5, 1100, 7])
    });
    suite.test(
        format!("linear::cuda::{name}::fused_equals_recorded_bit_for_bit"),
        move || {
            for sizes in [[33, 46, 19], [3, 600, 8]] {
                let on = emulated(Schedule::Forward)?;
                let [m, k, n] = sizes;
                let make = |name: &str, shape: &[usize]| {
                    crate::common::tensor(name, shape, -1.0, 1.0, dtype)?.to(&on)
                };
                let (x, w, b) = (make("x", &[m, k])?, make("w", &[n, k])?, make("b", &[n])?);
                for activation in [
                    Activation::Gelu,
                    Activation::LeakyRelu(0.01),
                    Activation::None,
                ] {
                    let fused = ops::linear(&x, &w, Some(&b), activation)?;
                    let recorded = ops::linear(&x.variable(), &w, Some(&b), activation)?;
                    assert!(recorded.is_recorded());
                    assert_eq!(fused.to_f64_vec()?, recorded.to_f64_vec()?);
                }
            }
            Ok(())
        },
    );
    suite.test(
        format!("linear::cuda::{name}::training_step_replays_bit_for_bit"),
        move || replays(dtype),
    );
    suite.test(format!("matmul::cuda::{name}::wrong_dtypes"), move || {
        for device in [Device::Cpu, emulated(Schedule::Forward)?] {
            let zeros = |s: &[usize], dtype| Tensor::zeros(s, dtype)?.to(&device);
            let half = zeros(&[2, 2], dtype)?;
            let other = HALVES.into_iter().find(|(_, d)| *d != dtype);
            let other = other.map_or(DType::F32, |(_, d)| d);
            for wrong in [other, DType::F32, DType::I32] {
                let wrong = zeros(&[2, 2], wrong)?;
                for (a, b) in [(&half, &wrong), (&wrong, &half)] {
                    let refused = [
                        ops::matmul(a, b),
                        ops::linear(a, b, None, Activation::None),
                        ops::linear(a, a, Some(&zeros(&[2], b.dtype())?), Activation::None),
                    ];
                    for refused in refused {
                        let error = refused.expect_err("two dtypes").to_string();
                        assert!(error.contains(&format!("{dtype:?}")), "{error}");
                        assert!(error.contains("floats of one dtype"), "{error}");
                    }
                }
            }
            for to in [other, DType::F64, DType::I64] {
                let error = ops::matmul_to(&half, &half, to).expect_err("another result");
                assert!(error.to_string().contains("or f32 of bf16"), "{error}");
            }
            let f32 = zeros(&[2, 2], DType::F32)?;
            assert!(ops::matmul_to(&f32, &f32, dtype).is_err());
        }
        Ok(())
    });
}

/// The loss and the gradients of f32 weights of a layer that computes in `dtype`.
fn layer_step(x: &Tensor, w: &Tensor, bias: &Tensor, dtype: DType) -> Result<Vec<Tensor>> {
    let (w, bias) = (w.variable(), bias.variable());
    let narrow = |t: &Tensor| ops::cast(t, dtype);
    let y = ops::linear(
        &narrow(x)?,
        &narrow(&w)?,
        Some(&narrow(&bias)?),
        Activation::Gelu,
    )?;
    let y = ops::cast(&y, DType::F32)?;
    let loss = ops::sum_all(&ops::mul(&y, &y)?)?;
    let gradients = grad(&[&loss], None, &[&w, &bias], false)?;
    Ok([Some(loss)]
        .into_iter()
        .chain(gradients)
        .flatten()
        .collect())
}

/// A captured step, its K cut into parts, leaves what an eager one does.
fn replays(dtype: DType) -> Result<()> {
    for schedule in SCHEDULES {
        let on = emulated(schedule)?;
        let Device::Cuda(device) = &on else {
            panic!("no CUDA device");
        };
        let make = |name: &str, shape: &[usize]| {
            crate::common::tensor(name, shape, -1.0, 1.0, DType::F32)?.to(&on)
        };
        let (w, bias) = (make("w", &[7, 600])?, make("bias", &[7])?);
        let x = Buffer::new("x", make("first", &[5, 600])?);
        let values = |all: &[Tensor]| -> Result<Vec<Vec<f64>>> {
            assert_eq!(all.len(), 3, "a loss and two gradients");
            all.iter().map(Tensor::to_f64_vec).collect()
        };
        let first = values(&layer_step(&x.value(), &w, &bias, dtype)?)?;
        let (graph, results) = device.capture(|| layer_step(&x.value(), &w, &bias, dtype))?;
        graph.replay()?;
        assert_eq!(values(&results)?, first);
        x.set(make("second", &[5, 600])?)?;
        graph.replay()?;
        let second = values(&layer_step(&x.value(), &w, &bias, dtype)?)?;
        assert_eq!(values(&results)?, second);
        assert_ne!(first, second);
    }
    Ok(())
}

/// x w^T + b of integers with w as it is and turned, off the tape and with ReLU on
/// it, where what the activation was applied to is written too.
/// Gradients of f32 parameters whose shadows are multiplied: those of the CPU in f32 to its
/// accuracy, whole and in parts, with and without that of x.
fn gradients_are_f32(dtype: DType) -> Result<()> {
    for [m, k, n] in [[9, 46, 7], [900, 24, 8]] {
        for of_x in [true, false] {
            let run = |device: &Device, to: DType| -> Result<Vec<Vec<f64>>> {
                // Values that the dtype has.
                let of = |name: &str, shape: &[usize]| -> Result<Tensor> {
                    let t = tensor(name, shape, -1.0, 1.0, dtype)?;
                    ops::cast(&t, DType::F32)?.to(device)
                };
                let x = ops::cast(&of("x", &[m, k])?, to)?;
                let x = if of_x { x.variable() } else { x };
                let (w, b) = (of("w", &[n, k])?.variable(), of("b", &[n])?.variable());
                let shadows = [ops::cast(&w, to)?, ops::cast(&b, to)?];
                let y = ops::linear(&x, &shadows[0], Some(&shadows[1]), Activation::None)?;
                let g = ops::cast(&of("g", &[m, n])?, to)?;
                let gradients = grad(&[&y], Some(&[&g]), &[&w, &b], false)?;
                let each = gradients.iter().flatten();
                each.map(|g| {
                    assert_eq!(g.dtype(), DType::F32);
                    g.to_f64_vec()
                })
                .collect()
            };
            let want = run(&Device::Cpu, DType::F32)?;
            let got = run(&emulated(Schedule::Forward)?, dtype)?;
            for (got, want) in got.iter().zip(&want) {
                let error = relative_l2(got, want);
                assert!(error < 1e-6, "{m} rows, of x {of_x}: {error:e}");
            }
        }
    }
    Ok(())
}

fn linear_is_exact(by: Wgmma, dtype: DType, [m, k, n]: [usize; 3]) -> Result<()> {
    let whole = |shape, first| laid(shape, first, PLAIN, DType::F64, &Device::Cpu);
    let wide = |t: &Tensor, shape: &[usize]| ops::reshape(t, shape);
    let x = wide(&whole([1, m, k], 0)?, &[m, k])?;
    let w = wide(&whole([1, n, k], 1)?, &[n, k])?;
    let bias = wide(&whole([1, 1, n], 2)?, &[n])?;
    let z = ops::linear(&x, &w, Some(&bias), Activation::None)?;
    let y = ops::cast(&ops::relu(&z)?, dtype)?.to_f64_vec()?;
    let z = ops::cast(&z, dtype)?.to_f64_vec()?;
    for schedule in SCHEDULES {
        let on = with_wgmma(schedule, by)?;
        for turned in [false, true] {
            let lie = Lie { turned, ..PLAIN };
            let x = wide(&laid([1, m, k], 0, PLAIN, dtype, &on)?, &[m, k])?;
            let w = wide(&laid([1, n, k], 1, lie, dtype, &on)?, &[n, k])?;
            let bias = wide(&laid([1, 1, n], 2, PLAIN, dtype, &on)?, &[n])?;
            let got = ops::linear(&x, &w, Some(&bias), Activation::None)?;
            assert_eq!(got.to_f64_vec()?, z, "{turned} {schedule:?}");
            let recorded = ops::linear(&x.variable(), &w, Some(&bias), Activation::Relu)?;
            assert_eq!(recorded.to_f64_vec()?, y, "{turned} {schedule:?}");
        }
    }
    Ok(())
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
