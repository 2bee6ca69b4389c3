use eosin::autograd::grad;
use eosin::ops::{self, Pool};
use eosin::shape::Format;
use eosin::{DType, Result, Tensor};

use crate::common::{relative_l2, tensor};
use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

const RAGGED: Pool = Pool {
    kernel: [3, 2],
    stride: [2, 1],
    padding: [1, 0],
};

pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    let cases: [(&str, &[usize], Pool); 5] = [
        ("plain", &[1, 2, 6, 4], Pool::square(2, 2, 0)),
        ("c3", &[2, 3, 7, 5], RAGGED),
        ("c46", &[1, 46, 3, 4], Pool::square(3, 2, 1)),
        ("c165", &[1, 165, 2, 3], Pool::square(2, 1, 1)),
        ("gaps", &[1, 3, 7, 7], Pool::square(2, 3, 0)),
    ];
    for (name, shape, pool) in cases {
        all.push(Sample::new("max_pool2d", name, &[shape], move |x| {
            ops::max_pool2d(&x[0], pool)
        }));
        if pool.padding == [0, 0] {
            let of_channels = &shape[1..2];
            let shapes = [shape, of_channels, of_channels];
            all.push(Sample::new(
                "activated_avg_pool2d",
                name,
                &shapes,
                move |x| {
                    let [x, scale, shift] = [0, 1, 2].map(|i| x[i].detach());
                    ops::activated_avg_pool2d(&x, [&scale, &shift], pool, x.dtype())
                },
            ));
        }
        all.push(Sample::new("avg_pool2d", name, &[shape], move |x| {
            ops::avg_pool2d(&x[0], pool, name != "c46")
        }));
    }
    let cases: [(&str, &[usize], [usize; 2]); 5] = [
        ("global", &[2, 5, 7, 6], [1, 1]),
        ("c3", &[2, 3, 7, 5], [3, 2]),
        ("c46", &[1, 46, 3, 4], [2, 3]),
        ("c165", &[1, 165, 3, 2], [2, 1]),
        ("up", &[1, 2, 3, 3], [5, 4]),
    ];
    for (name, shape, size) in cases {
        all.push(Sample::new(
            "adaptive_avg_pool2d",
            name,
            &[shape],
            move |x| ops::adaptive_avg_pool2d(&x[0], size),
        ));
    }
    all
}

pub fn tests(suite: &mut Suite) {
    suite.test("max_pool2d::first_maximum_and_padding", || {
        // All equal and negative: padding must not win, and the first place
        // gets the gradient of each of the overlapping windows.
        for c in [1, 5] {
            let x = Tensor::full(-2.0, &[1, c, 3, 3], DType::F32)?.variable();
            for x in [x.clone(), x.to_format(Format::ChannelsLast)?] {
                let y = ops::max_pool2d(&x, Pool::square(3, 2, 1))?;
                assert_eq!(y.to_vec::<f32>()?, vec![-2.0; 4 * c]);
                assert_eq!(y.layout().is_channels_last(), x.layout().is_channels_last());
                let g = grad(&[&ops::sum_all(&y)?], None, &[&x], false)?;
                let g = g[0].as_ref().expect("a gradient").to_vec::<f32>()?;
                let plane = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
                assert_eq!(g, plane.repeat(c));
            }
        }
        Ok(())
    });
    suite.test("max_pool2d::same_bits_on_and_off_the_tape", || {
        let x = tensor("x", &[3, 17, 33, 29], -1.0, 1.0, DType::F32)?;
        for x in [x.clone(), x.to_format(Format::ChannelsLast)?] {
            let off = ops::max_pool2d(&x, RAGGED)?;
            let on = ops::max_pool2d(&x.variable(), RAGGED)?;
            assert_eq!(off.to_vec::<f32>()?, on.to_vec::<f32>()?);
            assert_eq!(off.layout(), on.layout());
        }
        Ok(())
    });
    suite.test("max_pool2d::nan_and_infinity", || {
        let (nan, low) = (f32::NAN, f32::NEG_INFINITY);
        let x = Tensor::from_slice(&[1.0, nan, 5.0, nan, low, low, low, low], &[1, 2, 2, 2])?;
        for x in [x.clone(), x.variable()] {
            let y = ops::max_pool2d(&x, Pool::square(2, 2, 0))?.to_vec::<f32>()?;
            assert!(y[0].is_nan() && y[1] == low, "{y:?}");
        }
        let x = x.variable();
        let y = ops::max_pool2d(&x, Pool::square(2, 2, 0))?;
        let one = Tensor::full(1.0, y.shape(), DType::F32)?;
        let g = grad(&[&y], Some(&[&one]), &[&x], false)?;
        let g = g[0].as_ref().expect("a gradient").to_vec::<f32>()?;
        assert_eq!(g, [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        Ok(())
    });
    suite.test(
        "activated_avg_pool2d::is_a_batch_norm_relu_and_average",
        || {
            for (shape, pool) in [
                ([2, 5, 6, 8], Pool::square(2, 2, 0)),
                ([1, 3, 7, 7], Pool::square(7, 7, 0)),
                ([1, 17, 5, 3], Pool::square(2, 1, 0)),
            ] {
                let named =
                    |name: &str, shape: &[usize]| tensor(name, shape, -1.0, 1.0, DType::F64);
                let x = named("x", &shape)?;
                let (scale, shift) = (named("scale", &shape[1..2])?, named("shift", &shape[1..2])?);
                let by_channel = |t: &Tensor| ops::reshape(t, &[1, shape[1], 1, 1]);
                let y = ops::add(&ops::mul(&x, &by_channel(&scale)?)?, &by_channel(&shift)?)?;
                let want = ops::avg_pool2d(&ops::relu(&y)?, pool, true)?;
                let got = ops::activated_avg_pool2d(&x, [&scale, &shift], pool, DType::F64)?;
                assert_eq!(got.shape(), want.shape());
                let error = relative_l2(&got.to_f64_vec()?, &want.to_f64_vec()?);
                assert!(error < 1e-14, "{shape:?} {pool:?}: {error}");
                let half = ops::cast(&x, DType::BF16)?;
                let numbers = [scale, shift].map(|t| ops::cast(&t, DType::F32));
                let [scale, shift] = numbers;
                let numbers = [&scale?, &shift?];
                let want = ops::cast(&half, DType::F32)?;
                let want = ops::activated_avg_pool2d(&want, numbers, pool, DType::F32)?;
                let got = ops::activated_avg_pool2d(&half, numbers, pool, DType::F32)?;
                assert_eq!(got.to_vec::<f32>()?, want.to_vec::<f32>()?);
            }
            Ok(())
        },
    );
    suite.test("activated_avg_pool2d::wrong_input", || {
        let x = Tensor::zeros(&[1, 2, 4, 5], DType::F32)?;
        let two = Tensor::zeros(&[2], DType::F32)?;
        let three = Tensor::zeros(&[3], DType::F32)?;
        let half = ops::cast(&two, DType::BF16)?;
        let (pool, f32) = (Pool::square(2, 2, 0), DType::F32);
        let refused = |x: &Tensor, numbers: [&Tensor; 2], pool: Pool, to: DType| {
            let given = ops::activated_avg_pool2d(x, numbers, pool, to);
            given.expect_err("what fits").to_string()
        };
        assert!(ops::activated_avg_pool2d(&x, [&two, &two], pool, f32).is_ok());
        assert!(refused(&x, [&two, &three], pool, f32).contains("scale and shift (C)"));
        assert!(refused(&x, [&two, &half], pool, f32).contains("of x's dtype"));
        assert!(refused(&x, [&two, &two], Pool::square(2, 2, 1), f32).contains("padding"));
        assert!(refused(&x, [&two, &two], pool, DType::F64).contains("x's or f32"));
        let whole = ops::cast(&x, DType::I64)?;
        assert!(refused(&whole, [&two, &two], pool, f32).contains("floats"));
        let recorded = refused(&x.variable(), [&two, &two], pool, f32);
        assert!(
            recorded.starts_with("activated_avg_pool2d: no gradient"),
            "{recorded}"
        );
        Ok(())
    });
    suite.test("pool::wrong_input", || {
        let x = Tensor::zeros(&[1, 2, 4, 5], DType::F32)?;
        let refused = |pool: Pool| {
            let error = ops::max_pool2d(&x, pool).expect_err("a geometry that fits");
            assert!(ops::avg_pool2d(&x, pool, true).is_err());
            error.to_string()
        };
        assert_eq!(
            refused(Pool::square(7, 1, 1)),
            "max_pool2d: shapes [1, 2, 4, 5] do not fit: \
             kernel 7 does not fit into 4 padded by 1 on both sides"
        );
        assert!(refused(Pool::square(2, 1, 2)).contains("padding 2 is over half of kernel 2"));
        assert!(refused(Pool::square(0, 1, 0)).contains("at least 1"));
        assert!(refused(Pool::square(1, 0, 0)).contains("at least 1"));
        refused(Pool::square(usize::MAX, 1, usize::MAX / 2));
        let flat = Tensor::zeros(&[2, 4, 5], DType::F32)?;
        assert!(ops::max_pool2d(&flat, RAGGED).is_err());
        assert!(ops::adaptive_avg_pool2d(&flat, [1, 1]).is_err());
        assert!(ops::adaptive_avg_pool2d(&x, [0, 1]).is_err());
        let whole = Tensor::zeros(&[1, 2, 4, 5], DType::I64)?;
        assert!(ops::max_pool2d(&whole, RAGGED).is_err());
        assert!(ops::avg_pool2d(&whole, RAGGED, true).is_err());
        Ok(())
    });
    suite.test("pool::empty", || {
        for shape in [[0, 3, 4, 4], [2, 0, 4, 4]] {
            let x = Tensor::zeros(&shape, DType::F32)?;
            for x in [x.clone(), x.to_format(Format::ChannelsLast)?, x.variable()] {
                let want = [shape[0], shape[1], 2, 2];
                let pool = Pool::square(2, 2, 0);
                assert_eq!(ops::max_pool2d(&x, pool)?.shape(), want);
                assert_eq!(ops::avg_pool2d(&x, pool, true)?.shape(), want);
                assert_eq!(ops::adaptive_avg_pool2d(&x, [2, 2])?.shape(), want);
            }
        }
        let line = Tensor::zeros(&[1, 1, 0, 4], DType::F32)?;
        assert!(ops::max_pool2d(&line, Pool::square(2, 1, 1)).is_err());
        assert!(ops::avg_pool2d(&line, Pool::square(2, 1, 1), false).is_err());
        assert!(ops::adaptive_avg_pool2d(&line, [1, 1]).is_err());
        Ok(())
    });
    suite.test("adaptive_avg_pool2d::global_is_the_mean", || {
        let x = tensor("x", &[3, 46, 57, 41], -1.0, 1.0, DType::F32)?;
        let mean = ops::mean(&x, &[2, 3], true)?.to_f64_vec()?;
        for x in [x.clone(), x.to_format(Format::ChannelsLast)?] {
            let pooled = ops::adaptive_avg_pool2d(&x, [1, 1])?.to_f64_vec()?;
            let error = crate::common::relative_l2(&pooled, &mean);
            assert!(error < 1e-5, "{error:e}");
        }
        Ok(())
    });
}

pub fn golden(case: &Case) -> Option<Outputs> {
    let pool = || Pool {
        kernel: case.pair("kernel"),
        stride: case.pair("stride"),
        padding: case.pair("padding"),
    };
    let out: Result<Tensor> = match case.op.as_str() {
        "max_pool2d" => ops::max_pool2d(case.input("x"), pool()),
        "avg_pool2d" => {
            let include = case.flag("count_include_pad");
            ops::avg_pool2d(case.input("x"), pool(), include)
        }
        "adaptive_avg_pool2d" => ops::adaptive_avg_pool2d(case.input("x"), case.pair("output")),
        _ => return None,
    };
    Some(out.map(|t| vec![("out", t)]))
}
