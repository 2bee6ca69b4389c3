use eosin::autograd::grad;
use eosin::shape::Format;
use eosin::{DType, Result, Tensor, ops};

use crate::common::{relative_l2, tensor};
use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

const AXES: &[(&str, &[usize], isize)] = &[
    ("last", &[3, 37], -1),
    ("first", &[5, 4], 0),
    ("middle", &[3, 5, 4], 1),
    ("one", &[4, 1], 1),
    ("channels", &[2, 46, 3, 2], 1),
    ("width", &[2, 3, 4, 5], 3),
    ("batch", &[3, 3, 2, 2], 0),
];

type Function = fn(&Tensor, isize) -> Result<Tensor>;
const BOTH: [(&str, Function); 2] = [("softmax", ops::softmax), ("log_softmax", ops::log_softmax)];

pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for (op, f) in BOTH {
        for &(name, shape, axis) in AXES {
            all.push(Sample::new(op, name, &[shape], move |x| f(&x[0], axis)).range(-3.0, 3.0));
        }
    }
    all
}

pub fn tests(suite: &mut Suite) {
    suite.test("softmax::wrong_input", || {
        for (op, f) in BOTH {
            let x = Tensor::zeros(&[2, 3], DType::F32)?;
            let error = f(&x, 2).expect_err("no such axis").to_string();
            assert_eq!(
                error,
                format!("{op}: shapes [2, 3] do not fit: axis 2 does not exist")
            );
            let error = f(&Tensor::zeros(&[2], DType::I64)?, 0).expect_err("integers");
            assert_eq!(
                error.to_string(),
                format!("{op}: dtypes [I64] do not fit: a float is needed")
            );
            assert!(f(&Tensor::scalar(1.0, DType::F32)?, 0).is_err());
        }
        Ok(())
    });
    suite.test("softmax::empty", || {
        for (_, f) in BOTH {
            for shape in [[0, 3], [3, 0]] {
                let x = Tensor::zeros(&shape, DType::F32)?.variable();
                let y = f(&x, 1)?;
                assert_eq!(y.shape(), shape);
                let g = grad(&[&ops::sum_all(&y)?], None, &[&x], false)?;
                assert_eq!(g[0].as_ref().map(Tensor::shape), Some(&shape[..]));
            }
        }
        Ok(())
    });
    suite.test("softmax::infinities_and_nan", || {
        const LOW: f32 = f32::NEG_INFINITY;
        let rows = [
            [LOW, 0.0, 0.0, LOW],
            [LOW, LOW, LOW, LOW],
            [0.0, f32::NAN, 1.0, 2.0],
            [0.0, f32::INFINITY, 1.0, 2.0],
            [1e30, -1e30, 0.0, 1e30],
        ];
        let x = Tensor::from_slice(rows.as_flattened(), &[5, 4])?;
        let y = ops::softmax(&x, 1)?.to_vec::<f32>()?;
        assert_eq!(y[..4], [0.0, 0.5, 0.5, 0.0]);
        assert!(y[4..16].iter().all(|v| v.is_nan()), "{y:?}");
        assert_eq!(y[16..], [0.5, 0.0, 0.0, 0.5]);
        let z = ops::log_softmax(&x, 1)?.to_vec::<f32>()?;
        let half = -std::f32::consts::LN_2;
        assert_eq!(z[..4], [LOW, half, half, LOW]);
        assert!(z[4..16].iter().all(|v| v.is_nan()), "{z:?}");
        Ok(())
    });
    suite.test("softmax::rows_sum_to_one", || {
        for columns in [1, 15, 16, 196, 513, 31_793] {
            let x = tensor("rows", &[3, columns], -20.0, 20.0, DType::F32)?;
            let y = ops::softmax(&x, 1)?;
            for sum in ops::sum(&ops::cast(&y, DType::F64)?, &[1], false)?.to_vec::<f64>()? {
                assert!((sum - 1.0).abs() < 5e-7, "{columns}: {sum}");
            }
            let exact = ops::softmax(&ops::cast(&x, DType::F64)?, 1)?;
            let error = relative_l2(&y.to_f64_vec()?, &exact.to_f64_vec()?);
            assert!(error < 5e-7, "{columns}: {error:e}");
        }
        Ok(())
    });
    suite.test("softmax::keeps_channels_last", || {
        let x = tensor("x", &[2, 46, 3, 5], -1.0, 1.0, DType::F32)?;
        let x = x.to_format(Format::ChannelsLast)?;
        assert!(ops::softmax(&x, 1)?.layout().is_channels_last());
        Ok(())
    });
    suite.test("softmax::fused_gradient_equals_the_recorded_one", || {
        for (op, f) in BOTH {
            for &(name, shape, axis) in AXES {
                let x = tensor("x", shape, -3.0, 3.0, DType::F64)?.variable();
                let g = tensor("g", shape, -1.0, 1.0, DType::F64)?;
                let y = f(&x, axis)?;
                let gradient = |create_graph| -> Result<Vec<f64>> {
                    let g = grad(&[&y], Some(&[&g]), &[&x], create_graph)?;
                    g[0].as_ref().expect("a gradient").to_f64_vec()
                };
                let error = relative_l2(&gradient(false)?, &gradient(true)?);
                assert!(error < 1e-13, "{op} {name}: {error:e}");
            }
        }
        Ok(())
    });
}

pub fn golden(case: &Case) -> Option<Outputs> {
    let f = match case.op.as_str() {
        "softmax" => ops::softmax,
        "log_softmax" => ops::log_softmax,
        _ => return None,
    };
    let out = f(case.input("x"), case.number("dim") as isize);
    Some(out.map(|t| vec![("out", t)]))
}
