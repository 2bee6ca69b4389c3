use eosin::ops;
use eosin::shape::Format;
use eosin::{DType, Result, Tensor};

use crate::common::tensor;
use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

const AXES: &[(&str, &[usize], &[isize])] = &[
    ("last", &[4, 37], &[-1]),
    ("first", &[37, 4], &[0]),
    ("middle", &[3, 5, 4], &[1]),
    ("outer", &[3, 5, 4], &[0, 2]),
    ("channels", &[2, 3, 4, 5], &[0, 2, 3]),
    ("pixels", &[2, 46, 3, 2], &[2, 3]),
    ("none", &[3, 2], &[]),
];

pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for &(name, shape, axes) in AXES {
        all.push(Sample::new("sum", name, &[shape], |x| {
            ops::sum(&x[0], axes, false)
        }));
        all.push(Sample::new("mean", name, &[shape], |x| {
            ops::mean(&x[0], axes, true)
        }));
        all.push(Sample::new("max", name, &[shape], |x| ops::max(&x[0], axes, false)).choice());
        all.push(
            Sample::new("argmax", name, &[shape], |x| ops::argmax(&x[0], axes, true)).choice(),
        );
        if !axes.is_empty() {
            all.push(Sample::new("var", name, &[shape], |x| {
                ops::var(&x[0], axes, 1, false)
            }));
        }
    }
    all.push(Sample::new("sum_all", "image", &[&[2, 3, 4, 5]], |x| {
        ops::sum_all(&x[0])
    }));
    all
}

pub fn tests(suite: &mut Suite) {
    suite.test("sum::wrong_input", || {
        let x = Tensor::zeros(&[2, 3], DType::F32)?;
        for axes in [&[2][..], &[-3], &[0, 0], &[1, -1]] {
            assert!(ops::sum(&x, axes, false).is_err(), "{axes:?}");
        }
        assert!(ops::sum(&Tensor::zeros(&[2], DType::I32)?, &[0], false).is_err());
        Ok(())
    });
    suite.test("sum::empty", || {
        let x = Tensor::zeros(&[0, 3], DType::F32)?;
        assert_eq!(ops::sum(&x, &[0], false)?.to_vec::<f32>()?, [0.0; 3]);
        assert_eq!(ops::sum(&x, &[1], false)?.shape(), [0]);
        assert!(
            ops::mean(&x, &[0], false)?
                .to_vec::<f32>()?
                .iter()
                .all(|v| v.is_nan())
        );
        assert!(ops::max(&x, &[0], false).is_err() && ops::argmax(&x, &[0], false).is_err());
        Ok(())
    });
    suite.test("sum::long_axes_keep_their_accuracy", || {
        // A million ones plus a million small numbers, along either axis.
        let values: Vec<f32> = (0..1 << 21)
            .map(|i| if i % 2 == 0 { 1.0 } else { 1e-7 })
            .collect();
        let exact = (1u64 << 20) as f64 * (1.0 + f64::from(1e-7f32));
        for shape in [[1, 1 << 21], [1 << 21, 1]] {
            let x = Tensor::from_slice(&values, &shape)?;
            let got = ops::sum_all(&x)?.item()?;
            assert!((got - exact).abs() <= exact * 6e-8, "{got} against {exact}");
        }
        Ok(())
    });
    suite.test("sum::channels_last_equals_contiguous", || {
        let x = tensor("x", &[3, 46, 37, 41], -1.0, 1.0, DType::F32)?;
        let last = x.to_format(Format::ChannelsLast)?;
        for axes in [&[0, 2, 3][..], &[1], &[2, 3], &[0], &[3], &[0, 1]] {
            let (a, b) = (ops::sum(&x, axes, true)?, ops::sum(&last, axes, true)?);
            let error = crate::common::relative_l2(&b.to_f64_vec()?, &a.to_f64_vec()?);
            assert!(error < 1e-6, "{axes:?}: {error}");
        }
        Ok(())
    });
    suite.test("argmax::first_of_ties_and_nan", || {
        let x = Tensor::from_slice(&[1.0f32, 3.0, 3.0, 0.0, f32::NAN, 9.0], &[2, 3])?;
        assert_eq!(ops::argmax(&x, &[1], false)?.to_vec::<i64>()?, [1, 1]);
        Ok(())
    });
}

fn l2(x: &Tensor, axes: &[isize]) -> Result<Tensor> {
    ops::sqrt(&ops::sum(&ops::mul(x, x)?, axes, true)?)
}

pub fn golden(case: &Case) -> Option<Outputs> {
    let run = || -> Result<Tensor> {
        match case.name.as_str() {
            "mean_dim0" => ops::mean(case.input("x"), &[0], false),
            "global_max" => ops::max(case.input("x"), &[2, 3], false),
            "std_batch" => ops::sqrt(&ops::var(case.input("x"), &[0], 1, false)?),
            "sqrt_norm_batch" => ops::reshape(&l2(case.input("x"), &[0, 1, 2])?, &[1]),
            "normalize_rows" => {
                let x = case.input("x");
                ops::div(x, &ops::clamp(&l2(x, &[1])?, 1e-12, f64::INFINITY)?)
            }
            "column_max_divide" => {
                let x = case.input("x");
                ops::div(x, &ops::max(x, &[0], true)?)
            }
            _ => {
                let (m, l) = (case.input("m"), case.input("l"));
                let inner = ops::sub(&ops::affine(l, 1.0, 1.0)?, &ops::mul(m, m)?)?;
                let total = ops::sum(&ops::sub(&inner, &ops::exp(l)?)?, &[1], false)?;
                ops::mean(&ops::affine(&total, -0.5, 0.0)?, &[0], false)
            }
        }
    };
    const KNOWN: &[&str] = &[
        "mean_dim0",
        "global_max",
        "std_batch",
        "sqrt_norm_batch",
        "normalize_rows",
        "column_max_divide",
        "kl_normal",
    ];
    KNOWN
        .contains(&case.name.as_str())
        .then(|| run().map(|t| vec![("out", t)]))
}
