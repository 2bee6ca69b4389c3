use eosin::shape::Format;
use eosin::{DType, Tensor, ops};

use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    let cases: [(&str, &[usize], [usize; 4]); 6] = [
        ("c3", &[2, 3, 4, 5], [2, 1, 3, 0]),
        ("c46", &[1, 46, 2, 3], [1, 1, 1, 1]),
        ("c165", &[1, 165, 2, 2], [0, 1, 1, 0]),
        ("matrix", &[3, 4], [3, 2, 0, 1]),
        ("five_axes", &[2, 1, 2, 3, 2], [1, 0, 2, 2]),
        ("nothing", &[2, 3, 2, 2], [0; 4]),
    ];
    for (name, shape, padding) in cases {
        all.push(Sample::new("pad_zero", name, &[shape], move |x| {
            ops::pad_zero(&x[0], padding)
        }));
        all.push(Sample::new("pad_reflect", name, &[shape], move |x| {
            ops::pad_reflect(&x[0], padding)
        }));
    }
    all
}

pub fn tests(suite: &mut Suite) {
    suite.test("pad::values_are_moved_exactly", || {
        let x = Tensor::from_slice(&[-0.0, f32::INFINITY, f32::NAN, 1e-45], &[2, 2])?;
        let bits = |t: &Tensor| -> eosin::Result<Vec<u32>> {
            Ok(t.to_vec::<f32>()?.iter().map(|v| v.to_bits()).collect())
        };
        let y = bits(&ops::pad_zero(&x, [1, 0, 0, 1])?)?;
        let v = bits(&x)?;
        assert!(f32::from_bits(y[4]).is_nan());
        assert_eq!([y[1], y[2], y[5]], [v[0], v[1], v[3]]);
        assert_eq!([y[0], y[3], y[6], y[7], y[8]], [0; 5]);
        let y = bits(&ops::pad_reflect(&x, [1, 1, 0, 0])?)?;
        assert_eq!(y[..4], [v[1], v[0], v[1], v[0]]);
        Ok(())
    });
    suite.test("pad::channels_last_stays", || {
        let x = Tensor::zeros(&[1, 5, 3, 3], DType::F32)?.to_format(Format::ChannelsLast)?;
        for y in [ops::pad_zero(&x, [1; 4])?, ops::pad_reflect(&x, [1; 4])?] {
            assert!(y.layout().is_channels_last() && !y.layout().is_contiguous());
        }
        Ok(())
    });
    suite.test("pad::wrong_input", || {
        let x = Tensor::zeros(&[1, 2, 3, 4], DType::F32)?;
        let error = ops::pad_reflect(&x, [0, 0, 3, 1]).expect_err("too wide");
        assert_eq!(
            error.to_string(),
            "pad_reflect: shapes [1, 2, 3, 4] do not fit: an axis of 3 cannot be reflected by 3 and 1"
        );
        assert!(ops::pad_zero(&x, [usize::MAX, 0, 0, 0]).is_err());
        let line = Tensor::zeros(&[3], DType::F32)?;
        assert!(ops::pad_zero(&line, [1; 4]).is_err() && ops::pad_reflect(&line, [1; 4]).is_err());
        assert!(ops::pad_zero(&Tensor::zeros(&[2, 2], DType::U8)?, [1; 4]).is_err());
        Ok(())
    });
    suite.test("pad::empty", || {
        let x = Tensor::zeros(&[2, 0, 0, 3], DType::F32)?;
        assert_eq!(ops::pad_zero(&x, [1, 1, 1, 1])?.shape(), [2, 0, 2, 5]);
        let line = Tensor::zeros(&[1, 1, 0, 2], DType::F32)?;
        let y = ops::pad_zero(&line, [0, 0, 1, 0])?;
        assert_eq!(y.to_vec::<f32>()?, [0.0; 2]);
        assert!(ops::pad_reflect(&line, [0, 0, 1, 0]).is_err());
        assert_eq!(ops::pad_reflect(&line, [1, 0, 0, 0])?.shape(), [1, 1, 0, 3]);
        Ok(())
    });
}

pub fn golden(case: &Case) -> Option<Outputs> {
    let sides =
        || -> [usize; 4] { serde_json::from_value(case.attrs["pad"].clone()).expect("four sides") };
    let out = match case.op.split(' ').next() {
        Some("reflection") => ops::pad_reflect(case.input("x"), sides()),
        Some("zero") => ops::pad_zero(case.input("x"), sides()),
        _ => return None,
    };
    Some(out.map(|t| vec![("out", t)]))
}
