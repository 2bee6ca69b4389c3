use eosin::shape::Format;
use eosin::{DType, Tensor, ops};

use crate::common::{relative_l2, tensor};
use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    let cases: [(&str, &[usize], [usize; 2], bool); 6] = [
        ("double", &[1, 3, 3, 4], [6, 8], false),
        ("ragged", &[2, 3, 5, 4], [3, 7], false),
        ("c46", &[1, 46, 3, 2], [2, 3], false),
        ("c165", &[1, 165, 2, 2], [3, 3], false),
        ("smooth", &[1, 2, 8, 7], [3, 2], true),
        ("smooth_up", &[1, 3, 2, 3], [5, 2], true),
    ];
    for (name, shape, size, antialias) in cases {
        all.push(Sample::new("resize_bilinear", name, &[shape], move |x| {
            ops::resize_bilinear(&x[0], size, antialias)
        }));
    }
    all
}

pub fn tests(suite: &mut Suite) {
    suite.test("resize_bilinear::own_size_is_the_identity", || {
        let x = tensor("x", &[2, 3, 5, 7], -1.0, 1.0, DType::F32)?;
        for x in [x.clone(), x.to_format(Format::ChannelsLast)?] {
            for antialias in [false, true] {
                let y = ops::resize_bilinear(&x, [5, 7], antialias)?;
                assert_eq!(y.to_vec::<f32>()?, x.to_vec::<f32>()?);
                assert_eq!(y.layout(), x.layout());
            }
        }
        Ok(())
    });
    suite.test("resize_bilinear::a_constant_stays", || {
        let x = Tensor::full(0.7, &[1, 2, 37, 23], DType::F64)?;
        for size in [[5, 3], [40, 22], [1, 100], [37, 1]] {
            for antialias in [false, true] {
                let y = ops::resize_bilinear(&x, size, antialias)?.to_f64_vec()?;
                let error = relative_l2(&y, &vec![0.7; y.len()]);
                assert!(error < 1e-15, "{size:?}: {error:e}");
            }
        }
        Ok(())
    });
    suite.test("resize_bilinear::wrong_input", || {
        let x = Tensor::zeros(&[1, 2, 3, 4], DType::F32)?;
        let error = ops::resize_bilinear(&x, [0, 4], false).expect_err("no pixels");
        assert_eq!(
            error.to_string(),
            "resize_bilinear: shapes [1, 2, 3, 4], [0, 4] do not fit: \
             an image of at least one pixel is needed on both sides"
        );
        let line = Tensor::zeros(&[1, 2, 0, 4], DType::F32)?;
        assert!(ops::resize_bilinear(&line, [1, 1], true).is_err());
        let flat = Tensor::zeros(&[3, 4], DType::F32)?;
        assert!(ops::resize_bilinear(&flat, [1, 1], true).is_err());
        assert!(
            ops::resize_bilinear(&Tensor::zeros(&[1, 1, 2, 2], DType::U8)?, [1, 1], true).is_err()
        );
        Ok(())
    });
    suite.test("resize_bilinear::empty", || {
        let x = Tensor::zeros(&[0, 3, 4, 4], DType::F32)?;
        assert_eq!(
            ops::resize_bilinear(&x, [2, 2], true)?.shape(),
            [0, 3, 2, 2]
        );
        Ok(())
    });
}

pub fn golden(case: &Case) -> Option<Outputs> {
    if !case.op.starts_with("bilinear") {
        return None;
    }
    let x = case.input("x");
    let size = if case.op == "bilinear upsample" {
        let scale = case.number("scale") as usize;
        [scale * x.shape()[2], scale * x.shape()[3]]
    } else {
        case.pair("size")
    };
    let out = ops::resize_bilinear(x, size, case.op.ends_with("with antialias"));
    Some(out.map(|t| vec![("out", t)]))
}
