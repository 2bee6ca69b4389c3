use eosin::autograd::grad;
use eosin::ops;
use eosin::{DType, Result, Tensor};

use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

type Unary = fn(&Tensor) -> Result<Tensor>;

const FUNCTIONS: &[(&str, Unary, f64, f64)] = &[
    ("abs", ops::abs, -1.0, 1.0),
    ("exp", ops::exp, -3.0, 3.0),
    ("gelu", ops::gelu, -4.0, 4.0),
    ("log", ops::log, 0.2, 3.0),
    ("relu", ops::relu, -1.0, 1.0),
    ("sigmoid", ops::sigmoid, -5.0, 5.0),
    ("silu", ops::silu, -5.0, 5.0),
    ("sqrt", ops::sqrt, 0.2, 3.0),
    ("tanh", ops::tanh, -3.0, 3.0),
    ("clamp", |x| ops::clamp(x, -0.4, 0.3), -1.0, 1.0),
    ("leaky_relu", |x| ops::leaky_relu(x, 0.2), -1.0, 1.0),
    ("pow", |x| ops::pow(x, 2.5), 0.2, 2.0),
];

pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for &(op, f, low, high) in FUNCTIONS {
        let shapes: [(&str, &[usize]); 3] =
            [("vector", &[37]), ("image", &[2, 3, 4, 5]), ("scalar", &[])];
        for (name, shape) in shapes {
            all.push(Sample::new(op, name, &[shape], move |x| f(&x[0])).range(low, high));
        }
    }
    all
}

pub fn tests(suite: &mut Suite) {
    for &(op, f, ..) in FUNCTIONS {
        suite.test(format!("{op}::empty_and_wrong_input"), move || {
            assert_eq!(f(&Tensor::zeros(&[2, 0], DType::F32)?)?.shape(), [2, 0]);
            let error = f(&Tensor::zeros(&[2], DType::I64)?).expect_err("not a float");
            assert!(error.to_string().contains("I64"), "{error}");
            Ok(())
        });
    }
    suite.test("pow::whole_powers_at_zero", || {
        let x = Tensor::zeros(&[1], DType::F64)?.variable();
        for (p, first, second) in [(1.0, 1.0, 0.0), (2.0, 0.0, 2.0), (3.0, 0.0, 0.0)] {
            let y = ops::sum_all(&ops::pow(&x, p)?)?;
            let g = grad(&[&y], None, &[&x], true)?
                .remove(0)
                .expect("a gradient");
            assert_eq!(g.item()?, first, "x^{p}");
            let gg = grad(&[&ops::sum_all(&g)?], None, &[&x], false)?.remove(0);
            assert_eq!(gg.map_or(Ok(0.0), |t| t.item())?, second, "x^{p}");
        }
        Ok(())
    });
    suite.test("exp::third_gradient_is_refused_by_name", || {
        let x = Tensor::full(0.5, &[1], DType::F64)?.variable();
        let mut y = ops::sum_all(&ops::exp(&x)?)?;
        for _ in 0..2 {
            y = ops::sum_all(
                &grad(&[&y], None, &[&x], true)?
                    .remove(0)
                    .expect("a gradient"),
            )?;
        }
        let error = grad(&[&y], None, &[&x], false).expect_err("third order");
        assert!(
            matches!(error, eosin::Error::NoGradient { op: "exp", .. }),
            "{error}"
        );
        Ok(())
    });
}

pub fn golden(case: &Case) -> Option<Outputs> {
    let unary =
        |f: &dyn Fn(&Tensor) -> Result<Tensor>| Some(f(case.input("x")).map(|t| vec![("out", t)]));
    let twice = |f: Unary| {
        let (x, gy) = (case.input("x"), case.input("gy"));
        let first = f(x).and_then(|y| grad(&[&y], Some(&[gy]), &[x], true));
        Some(first.map(|mut g| vec![("gx", g.remove(0).expect("a gradient"))]))
    };
    match case.op.as_str() {
        "gelu_erf" => unary(&ops::gelu),
        "silu" => unary(&ops::silu),
        "relu" => unary(&ops::relu),
        "tanh" => unary(&ops::tanh),
        "sigmoid" => unary(&ops::sigmoid),
        "exp" => unary(&ops::exp),
        "leaky_relu" if case.name == "leaky_relu_at_zero" => {
            unary(&|x| ops::leaky_relu(&ops::affine(x, 0.0, 0.0)?, case.number("slope")))
        }
        "leaky_relu" => unary(&|x| ops::leaky_relu(x, case.number("slope"))),
        "tanh_double_backward" => twice(ops::tanh),
        "gelu_double_backward" => twice(ops::gelu),
        "silu_double_backward" => twice(ops::silu),
        _ => None,
    }
}
