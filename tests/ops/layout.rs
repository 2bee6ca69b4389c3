use eosin::ops;
use eosin::shape::Format;
use eosin::{DType, Result, Tensor};

use crate::common::tensor;
use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

pub fn samples() -> Vec<Sample> {
    let index = Tensor::from_slice(&[2i64, 0, 1, 1, 0, 2, 2, 2], &[4, 2]).expect("an index");
    let places = Tensor::from_slice(&[4i64, 0, 4, 1, 0, 2], &[2, 3]).expect("an index");
    vec![
        Sample::new("cast", "up", &[&[3, 4]], |x| ops::cast(&x[0], DType::F64))
            .choice()
            .cpu_only(),
        Sample::new("reshape", "merge", &[&[2, 3, 4]], |x| {
            ops::reshape(&x[0], &[6, 4])
        }),
        Sample::new("reshape", "image", &[&[2, 3, 4, 5]], |x| {
            ops::reshape(&x[0], &[2, 60])
        }),
        Sample::new("permute", "rotate", &[&[2, 3, 4]], |x| {
            ops::permute(&x[0], &[2, 0, 1])
        }),
        Sample::new("transpose", "last", &[&[2, 3, 4]], |x| {
            ops::transpose(&x[0], -1, -2)
        }),
        Sample::new("broadcast_to", "both", &[&[3, 1]], |x| {
            ops::broadcast_to(&x[0], &[2, 3, 4])
        }),
        Sample::new("to_format", "last", &[&[2, 3, 4, 5]], |x| {
            x[0].to_format(Format::ChannelsLast)
        }),
        Sample::new("to_format", "padded", &[&[2, 46, 3, 2]], |x| {
            x[0].to_format(Format::ChannelsLastPadded(8))
        }),
        Sample::new("to_format", "plain", &[&[2, 165, 1, 2]], |x| {
            x[0].to_format(Format::Contiguous)
        }),
        Sample::new("gather", "rows", &[&[3, 2]], |x| {
            ops::gather(&x[0], 0, &x[1])
        })
        .fixed(index),
        Sample::new("scatter_add", "columns", &[&[2, 3]], |x| {
            ops::scatter_add(&x[0], 1, &x[1], 5)
        })
        .fixed(places),
    ]
}

pub fn tests(suite: &mut Suite) {
    for (name, c) in [("3", 3), ("46", 46), ("165", 165)] {
        suite.test(
            format!("to_format::padding_is_zero_and_not_counted::{name}"),
            move || {
                let x = tensor("x", &[2, c, 3, 5], -1.0, 1.0, DType::F32)?;
                let padded = x.to_format(Format::ChannelsLastPadded(8))?;
                assert_eq!(padded.to_vec::<f32>()?, x.to_vec::<f32>()?);
                assert_eq!(padded.padding_sum()?, 0.0);
                let poisoned = x.with_poisoned_padding(8)?;
                assert!(c % 8 == 0 || poisoned.padding_sum()?.is_nan());
                assert_eq!(ops::sum_all(&poisoned)?.item()?, ops::sum_all(&x)?.item()?);
                Ok(())
            },
        );
    }
    suite.test("reshape::wrong_input", || {
        let x = Tensor::zeros(&[2, 3], DType::F32)?;
        let error = ops::reshape(&x, &[7]).expect_err("another number of elements");
        assert!(
            error.to_string().starts_with("reshape: shapes [2, 3], [7]"),
            "{error}"
        );
        assert!(ops::permute(&x, &[0, 0]).is_err() && ops::permute(&x, &[0]).is_err());
        assert!(ops::permute(&x, &[0, 2]).is_err() && ops::transpose(&x, 0, 2).is_err());
        assert!(ops::broadcast_to(&x, &[3]).is_err() && ops::broadcast_to(&x, &[2, 4]).is_err());
        assert!(x.to_format(Format::ChannelsLast).is_err());
        Ok(())
    });
    suite.test("gather::wrong_input", || {
        let x = Tensor::zeros(&[2, 3], DType::F32)?;
        let bad = Tensor::from_slice(&[0i64, 3], &[2, 1])?;
        let error = ops::gather(&x, 1, &bad).expect_err("an index outside");
        assert_eq!(error.to_string(), "gather: index 3 is outside an axis of 3");
        assert!(ops::gather(&x, 1, &Tensor::from_slice(&[-1i64, 0], &[2, 1])?).is_err());
        assert!(ops::gather(&x, 1, &x).is_err() && ops::gather(&x, 2, &bad).is_err());
        assert!(ops::gather(&x, 0, &bad).is_err());
        Ok(())
    });
    suite.test("cast::rounds_and_saturates", || {
        let x = Tensor::from_slice(&[-1.5f32, 300.0, 2.9, f32::NAN], &[4])?;
        assert_eq!(ops::cast(&x, DType::U8)?.to_vec::<u8>()?, [0, 255, 2, 0]);
        assert_eq!(ops::cast(&x, DType::I64)?.to_vec::<i64>()?, [-1, 300, 2, 0]);
        let big = Tensor::from_slice(&[(1i64 << 31) - 1, -5], &[2])?;
        assert_eq!(
            ops::cast(&big, DType::I32)?.to_vec::<i32>()?,
            [i32::MAX, -5]
        );
        // 1 + 2^-9 lies between two bf16 numbers and rounds to the even one.
        let tie = Tensor::from_slice(&[1.0 + 1.0 / 256.0], &[1])?;
        assert_eq!(ops::cast(&tie, DType::BF16)?.to_f32_vec()?, [1.0]);
        Ok(())
    });
    suite.test("views::empty", || {
        let x = Tensor::zeros(&[0, 3, 2, 2], DType::F32)?;
        assert_eq!(ops::permute(&x, &[1, 0, 2, 3])?.shape(), [3, 0, 2, 2]);
        assert!(
            x.to_format(Format::ChannelsLast)?
                .to_vec::<f32>()?
                .is_empty()
        );
        assert_eq!(ops::reshape(&x, &[0])?.shape(), [0]);
        Ok(())
    });
}

fn split_qkv(x: &Tensor, innermost: bool) -> Outputs {
    // b n (h d 3) or b n (3 h d), with b = 2, n = 3, h = 2, d = 4.
    let (packed, order): (&[usize], &[usize]) = if innermost {
        (&[2, 3, 2, 4, 3], &[4, 0, 2, 1, 3])
    } else {
        (&[2, 3, 3, 2, 4], &[2, 0, 3, 1, 4])
    };
    let parts = ops::permute(&ops::reshape(x, packed)?, order)?;
    let rows = ops::reshape(&parts, &[3, 48])?;
    let pick = |i: i64| -> Result<Tensor> {
        let index = Tensor::from_slice(&[i; 48], &[1, 48])?.to(&x.device())?;
        ops::reshape(&ops::gather(&rows, 0, &index)?, &[2, 2, 3, 4])
    };
    Ok(vec![("q", pick(0)?), ("k", pick(1)?), ("v", pick(2)?)])
}

pub fn golden(case: &Case) -> Option<Outputs> {
    let out = match case.name.as_str() {
        "qkv_split_innermost" => return Some(split_qkv(case.input("x"), true)),
        "qkv_split_outermost" => return Some(split_qkv(case.input("x"), false)),
        "permute_reshape" => ops::reshape(case.input("x"), &[2, 2, 3, 2, 3])
            .and_then(|t| ops::permute(&t, &[0, 2, 4, 1, 3]))
            .and_then(|t| ops::reshape(&t, &[2, 9, 4])),
        "gather_dim1" => {
            let index: Vec<i64> = (0..20).map(|i| (3 * (i % 5) + i / 5) % 7).collect();
            Tensor::from_slice(&index, &[4, 5])
                .and_then(|i| case.local(i))
                .and_then(|i| ops::gather(case.input("x"), 1, &i))
        }
        _ => return None,
    };
    Some(out.map(|t| vec![("out", t)]))
}
