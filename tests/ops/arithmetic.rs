use eosin::ops::{self, Comparison};
use eosin::{DType, Result, Tensor};

use crate::common::tensor;
use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    type Binary = fn(&Tensor, &Tensor) -> Result<Tensor>;
    let binary: [(&str, Binary); 6] = [
        ("add", ops::add),
        ("sub", ops::sub),
        ("mul", ops::mul),
        ("div", ops::div),
        ("maximum", ops::maximum),
        ("minimum", ops::minimum),
    ];
    for (op, f) in binary {
        // Divisors stay away from 0; extrema are compared on distinct values.
        let (low, high) = if op == "div" { (0.5, 1.5) } else { (-1.0, 1.0) };
        let shapes: [(&str, &[&[usize]]); 5] = [
            ("same", &[&[3, 5], &[3, 5]]),
            ("row", &[&[4, 7], &[7]]),
            ("column", &[&[2, 1, 3], &[5, 1]]),
            ("channels", &[&[2, 3, 4, 5], &[3, 1, 1]]),
            ("scalar", &[&[2, 46, 1, 3], &[]]),
        ];
        for (name, shapes) in shapes {
            all.push(Sample::new(op, name, shapes, move |x| f(&x[0], &x[1])).range(low, high));
        }
    }
    all.push(Sample::new("affine", "plain", &[&[2, 3, 5, 4]], |x| {
        ops::affine(&x[0], -2.5, 0.5)
    }));
    let mask = mask(&[4, 5]);
    all.push(
        Sample::new("select", "broadcast", &[&[4, 5], &[5]], |x| {
            ops::select(&x[2], &x[0], &x[1])
        })
        .fixed(mask),
    );
    for (name, order) in [
        ("equal", Comparison::Equal),
        ("less", Comparison::Less),
        ("less_equal", Comparison::LessEqual),
        ("greater", Comparison::Greater),
        ("greater_equal", Comparison::GreaterEqual),
    ] {
        let f = move |x: &[Tensor]| ops::compare(&x[0], order, &x[1]);
        all.push(Sample::new("compare", name, &[&[4, 5], &[5]], f).choice());
    }
    all
}

fn mask(shape: &[usize]) -> Tensor {
    let values: Vec<u8> = (0..shape.iter().product())
        .map(|i: usize| u8::from((i * 7).is_multiple_of(3)))
        .collect();
    Tensor::from_bytes(&values, DType::Bool, shape).expect("a mask")
}

pub fn tests(suite: &mut Suite) {
    suite.test("add::wrong_input", || {
        let a = Tensor::zeros(&[2, 3], DType::F32)?;
        let error = ops::add(&a, &Tensor::zeros(&[2], DType::F32)?).expect_err("shapes differ");
        assert_eq!(
            error.to_string(),
            "add: shapes [2, 3], [2] do not fit: sizes must be equal or 1"
        );
        assert!(ops::add(&a, &Tensor::zeros(&[2, 3], DType::F64)?).is_err());
        assert!(ops::add(&a, &Tensor::zeros(&[2, 3], DType::I64)?).is_err());
        assert!(ops::select(&a, &a, &a).is_err());
        Ok(())
    });
    suite.test("add::empty", || {
        let a = Tensor::zeros(&[0, 3], DType::F32)?.variable();
        let y = ops::mul(&ops::add(&a, &Tensor::zeros(&[3], DType::F32)?)?, &a)?;
        assert_eq!(y.shape(), [0, 3]);
        let g = eosin::autograd::grad(&[&ops::sum_all(&y)?], None, &[&a], false)?;
        assert_eq!(g[0].as_ref().map(Tensor::shape), Some(&[0, 3][..]));
        Ok(())
    });
    suite.test("maximum::ties_share_the_gradient_and_nan_passes", || {
        let a = Tensor::from_slice(&[1.0f32, 2.0, f32::NAN], &[3])?.variable();
        let b = Tensor::from_slice(&[1.0f32, 5.0, 0.0], &[3])?;
        let y = ops::maximum(&a, &b)?;
        assert!(
            y.to_vec::<f32>()?[2].is_nan() && ops::maximum(&b, &a)?.to_vec::<f32>()?[2].is_nan()
        );
        let w = Tensor::full(1.0, &[3], DType::F32)?;
        let g = eosin::autograd::grad(&[&y], Some(&[&w]), &[&a], false)?;
        let g = g[0].as_ref().expect("a gradient").to_vec::<f32>()?;
        assert_eq!(g[..2], [0.5, 0.0]);
        Ok(())
    });
    suite.test("add::keeps_channels_last", || {
        let x = tensor("x", &[2, 3, 4, 5], -1.0, 1.0, DType::F32)?;
        let x = x.to_format(eosin::shape::Format::ChannelsLast)?;
        let c = tensor("c", &[3, 1, 1], -1.0, 1.0, DType::F32)?;
        assert!(ops::add(&x, &c)?.layout().is_channels_last());
        assert!(ops::add(&c, &x)?.layout().is_channels_last());
        Ok(())
    });
}

pub fn golden(case: &Case) -> Option<Outputs> {
    let out = match case.name.as_str() {
        "broadcast_mul_add" => {
            ops::mul(case.input("x"), case.input("a")).and_then(|t| ops::add(&t, case.input("b")))
        }
        "reparametrise" => ops::affine(case.input("l"), 0.5, 0.0)
            .and_then(|half| ops::exp(&half))
            .and_then(|deviation| ops::mul(&deviation, case.input("e")))
            .and_then(|noise| ops::add(case.input("m"), &noise)),
        _ => return None,
    };
    Some(out.map(|t| vec![("out", t)]))
}
