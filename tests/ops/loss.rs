use eosin::autograd::grad;
use eosin::shape::Format;
use eosin::{DType, Result, Tensor, ops};

use crate::common::tensor;
use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

type Function = fn(&Tensor, &Tensor) -> Result<Tensor>;
const PAIRS: [(&str, Function); 3] = [
    ("mse_loss", ops::mse_loss),
    ("l1_loss", ops::l1_loss),
    ("bce_with_logits", ops::bce_with_logits),
];

pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for (op, f) in PAIRS {
        let shapes: [(&str, &[usize]); 3] = [
            ("rows", &[5, 7]),
            ("image", &[2, 3, 4, 5]),
            ("image_46", &[1, 46, 2, 1]),
        ];
        for (name, shape) in shapes {
            all.push(Sample::new(op, name, &[shape, shape], move |x| {
                f(&x[0], &x[1])
            }));
        }
    }
    let labels = Tensor::from_slice(&[2i64, 0, 6, 6, 3], &[5]).expect("labels");
    all.push(
        Sample::new("cross_entropy", "rows", &[&[5, 7]], |x| {
            ops::cross_entropy(&x[0], &x[1])
        })
        .range(-3.0, 3.0)
        .fixed(labels),
    );
    all
}

fn gradient(loss: &Tensor, x: &Tensor) -> Result<Vec<f32>> {
    let g = grad(&[loss], None, &[x], false)?;
    g[0].as_ref().expect("a gradient").to_vec()
}

pub fn tests(suite: &mut Suite) {
    suite.test("losses::wrong_input", || {
        let x = Tensor::zeros(&[2, 3], DType::F32)?;
        for (op, f) in PAIRS {
            let error = f(&x, &Tensor::zeros(&[3], DType::F32)?).expect_err("shapes differ");
            assert_eq!(
                error.to_string(),
                format!("{op}: shapes [2, 3], [3] do not fit: two equal shapes are needed")
            );
            assert!(f(&x, &Tensor::zeros(&[2, 3], DType::F64)?).is_err());
            assert!(f(&x, &Tensor::zeros(&[2, 3], DType::I64)?).is_err());
        }
        Ok(())
    });
    suite.test("losses::nan_over_nothing", || {
        let x = Tensor::zeros(&[0, 3], DType::F32)?;
        for (_, f) in PAIRS {
            assert!(f(&x, &x)?.item()?.is_nan());
        }
        let labels = Tensor::zeros(&[0], DType::I64)?;
        assert!(ops::cross_entropy(&x, &labels)?.item()?.is_nan());
        Ok(())
    });
    suite.test("mse_loss::pairs_elements_of_different_layouts", || {
        let x = tensor("x", &[2, 46, 30, 31], -1.0, 1.0, DType::F32)?;
        let last = x.to_format(Format::ChannelsLast)?;
        assert_eq!(ops::mse_loss(&x, &last)?.item()?, 0.0);
        assert_eq!(ops::mse_loss(&last, &last)?.item()?, 0.0);
        let moved = ops::affine(&last, 1.0, 0.5)?;
        for y in [&moved, &moved.to_format(Format::Contiguous)?] {
            assert!((ops::mse_loss(&x, y)?.item()? - 0.25).abs() < 1e-7);
        }
        Ok(())
    });
    suite.test("l1_loss::gradient_is_zero_where_equal", || {
        let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0], &[3])?.variable();
        let y = Tensor::from_slice(&[1.0f32, 0.0, 9.0], &[3])?;
        let third = 1.0 / 3.0;
        assert_eq!(gradient(&ops::l1_loss(&x, &y)?, &x)?, [0.0, third, -third]);
        Ok(())
    });
    suite.test("bce_with_logits::extremes", || {
        // Far logits neither overflow nor lose the loss; at 0 the gradient is 1/2 - t.
        let x = Tensor::from_slice(&[1000.0f32, -1000.0, 1000.0, -1000.0, 0.0], &[5])?.variable();
        let t = Tensor::from_slice(&[1.0f32, 0.0, 0.0, 1.0, 1.0], &[5])?;
        let loss = ops::bce_with_logits(&x, &t)?;
        let want = (2000.0 + std::f64::consts::LN_2) / 5.0;
        assert!((loss.item()? / want - 1.0).abs() < 1e-6);
        assert_eq!(gradient(&loss, &x)?, [0.0, 0.0, 0.2, -0.2, -0.1]);
        Ok(())
    });
    suite.test("cross_entropy::wrong_input", || {
        let x = Tensor::zeros(&[2, 3], DType::F32)?;
        let labels = |l: &[i64]| Tensor::from_slice(l, &[l.len()]);
        for (bad, place) in [(3, "label 3 of row 1"), (-1, "label -1 of row 1")] {
            let error = ops::cross_entropy(&x, &labels(&[0, bad])?).expect_err("a wrong label");
            assert_eq!(
                error.to_string(),
                format!("cross_entropy: {place} is not below 3")
            );
        }
        let error = ops::cross_entropy(&x, &labels(&[0, 1, 2])?).expect_err("too many labels");
        assert_eq!(
            error.to_string(),
            "cross_entropy: shapes [2, 3], [3] do not fit: logits (N, C), labels (N)"
        );
        assert!(ops::cross_entropy(&x, &Tensor::zeros(&[2], DType::F32)?).is_err());
        assert!(ops::cross_entropy(&Tensor::zeros(&[2], DType::F32)?, &labels(&[0, 1])?).is_err());
        Ok(())
    });
}

pub fn golden(case: &Case) -> Option<Outputs> {
    let pair = |f: Function| f(case.input("x"), case.input("y"));
    let out = match case.op.as_str() {
        "cross_entropy mean" => {
            let labels = case.attrs["labels"].as_array().expect("labels");
            let labels: Vec<i64> = labels.iter().filter_map(|l| l.as_i64()).collect();
            Tensor::from_slice(&labels, &[labels.len()])
                .and_then(|labels| case.local(labels))
                .and_then(|labels| ops::cross_entropy(case.input("x"), &labels))
        }
        "mse mean" => pair(ops::mse_loss),
        "l1 mean" => pair(ops::l1_loss),
        "binary cross entropy with logits, mean" => pair(ops::bce_with_logits),
        _ => return None,
    };
    Some(out.map(|t| vec![("out", t)]))
}
