use eosin::autograd::grad;
use eosin::ops::{self, Comparison};
use eosin::shape::Format;
use eosin::{DType, Result, Tensor};

use crate::common::tensor;
use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

fn index(values: &[i64]) -> Tensor {
    Tensor::from_slice(values, &[values.len()]).expect("an index")
}

pub fn samples() -> Vec<Sample> {
    let mut all = vec![
        Sample::new("cat", "rows", &[&[2, 3], &[1, 3], &[4, 3]], |x| {
            ops::cat(&[&x[0], &x[1], &x[2]], 0)
        }),
        Sample::new("cat", "repeated", &[&[2, 3, 2]], |x| {
            ops::cat(&[&x[0], &x[0]], -1)
        }),
        Sample::new("index_select", "rows", &[&[4, 5]], |x| {
            ops::index_select(&x[0], 0, &x[1])
        })
        .fixed(index(&[2, 0, 2, 3, 2])),
        Sample::new("index_select", "channels", &[&[2, 5, 3, 2]], |x| {
            ops::index_select(&x[0], 1, &x[1])
        })
        .fixed(index(&[4, 4, 0])),
        Sample::new("index_add", "rows", &[&[5, 3]], |x| {
            ops::index_add(&x[0], 0, &x[1], 6)
        })
        .fixed(index(&[2, 0, 2, 3, 2])),
        Sample::new("index_add", "last", &[&[2, 3, 3]], |x| {
            ops::index_add(&x[0], -1, &x[1], 4)
        })
        .fixed(index(&[1, 1, 3])),
        Sample::new("slice", "middle", &[&[3, 5, 2]], |x| {
            ops::slice(&x[0], 1, 1, 3)
        }),
        Sample::new("slice_step", "rows", &[&[7, 3]], |x| {
            ops::slice_step(&x[0], 0, 1, 3, 2)
        }),
        Sample::new("slice_step", "pixels", &[&[2, 3, 5, 4]], |x| {
            ops::slice_step(&x[0], -2, 0, 3, 2)
        }),
        Sample::new("place", "rows", &[&[3, 2]], |x| {
            ops::place(&x[0], 0, 1, 2, 7)
        }),
        Sample::new("topk", "last", &[&[3, 4, 11]], |x| {
            Ok(ops::topk(&x[0], 4, -1)?.0)
        }),
        Sample::new("topk", "first", &[&[9, 2]], |x| {
            Ok(ops::topk(&x[0], 9, 0)?.0)
        }),
        Sample::new("topk", "pixels", &[&[2, 3, 7, 2]], |x| {
            Ok(ops::topk(&x[0], 2, 2)?.0)
        }),
        Sample::new("sort", "descending", &[&[4, 7]], |x| {
            Ok(ops::sort(&x[0], 1, true)?.0)
        }),
        Sample::new("sort", "ascending", &[&[5, 3, 2]], |x| {
            Ok(ops::sort(&x[0], 0, false)?.0)
        }),
    ];
    for (name, a, b) in [("c3", 3, 5), ("c46", 46, 3), ("c165", 165, 1)] {
        let shapes: [&[usize]; 2] = [&[2, a, 2, 3], &[2, b, 2, 3]];
        all.push(Sample::new("cat", name, &shapes, |x| {
            ops::cat(&[&x[0], &x[1]], 1)
        }));
    }
    for (name, axis) in [("images", 0), ("lines", 2), ("columns", 3)] {
        let shapes: [&[usize]; 2] = [&[2, 5, 2, 3], &[2, 5, 2, 3]];
        all.push(Sample::new("cat", name, &shapes, move |x| {
            ops::cat(&[&x[0], &x[1]], axis)
        }));
    }
    for (name, axis) in [("images", 0), ("c3", 1), ("lines", 2), ("columns", 3)] {
        all.push(Sample::new("place", name, &[&[2, 3, 2, 2]], move |x| {
            ops::place(&x[0], axis, 2, 3, 9)
        }));
    }
    all
}

/// The elements that a row-major index function gives, as a contiguous tensor.
fn by_hand(shape: [usize; 4], f: impl Fn([usize; 4]) -> f32) -> Vec<f32> {
    let mut all = Vec::new();
    for n in 0..shape[0] {
        for c in 0..shape[1] {
            for h in 0..shape[2] {
                all.extend((0..shape[3]).map(|w| f([n, c, h, w])));
            }
        }
    }
    all
}

pub fn tests(suite: &mut Suite) {
    for axis in 0..4usize {
        suite.test(format!("cat::joins_along_{axis}"), move || {
            let shape = |d: usize| {
                let mut s = [2, 46, 3, 5];
                s[axis] = d;
                s
            };
            let sizes = [3, 1, 46, 0];
            let parts: Vec<Tensor> = sizes
                .iter()
                .map(|&d| tensor("part", &shape(d), -1.0, 1.0, DType::F32))
                .collect::<Result<_>>()?;
            let values: Vec<Vec<f32>> = parts.iter().map(Tensor::to_vec).collect::<Result<_>>()?;
            let want = by_hand(shape(50), |mut at| {
                let mut which = 0;
                while at[axis] >= sizes[which] {
                    at[axis] -= sizes[which];
                    which += 1;
                }
                let s = shape(sizes[which]);
                values[which][((at[0] * s[1] + at[1]) * s[2] + at[2]) * s[3] + at[3]]
            });
            let last: Vec<Tensor> = parts
                .iter()
                .map(|t| t.to_format(Format::ChannelsLast))
                .collect::<Result<_>>()?;
            let plain = ops::cat(&parts.iter().collect::<Vec<_>>(), axis as isize)?;
            let images = ops::cat(&last.iter().collect::<Vec<_>>(), axis as isize)?;
            assert_eq!(plain.to_vec::<f32>()?, want);
            assert_eq!(images.to_vec::<f32>()?, want);
            assert!(plain.layout().is_contiguous() && images.layout().is_channels_last());
            Ok(())
        });
    }
    suite.test("cat::long_rows_are_cut_anywhere", || {
        // Over one chunk of work, with runs that end inside of chunks.
        let a: Vec<i64> = (0..30_001).collect();
        let b: Vec<i64> = (0..20_002).map(|i| -i).collect();
        let (a, b) = (
            Tensor::from_slice(&a, &[1, 30_001])?,
            Tensor::from_slice(&b, &[1, 20_002])?,
        );
        let pair = ops::cat(&[&a, &b], 1)?;
        let twice = ops::cat(&[&pair, &pair], 0)?.to_vec::<i64>()?;
        let row: Vec<i64> = (0..30_001).chain((0..20_002).map(|i| -i)).collect();
        assert!(twice[..50_003] == row && twice[50_003..] == row);
        let flags = Tensor::full(1.0, &[2], DType::Bool)?;
        let flags = ops::cat(&[&flags, &Tensor::zeros(&[1], DType::Bool)?], 0)?;
        assert_eq!(flags.dtype(), DType::Bool);
        assert_eq!(flags.to_f32_vec()?, [1.0, 1.0, 0.0]);
        Ok(())
    });
    suite.test("cat::wrong_input", || {
        let a = Tensor::zeros(&[2, 3], DType::F32)?;
        let b = Tensor::zeros(&[2, 4], DType::F32)?;
        let error = ops::cat(&[&a, &b], 0)
            .expect_err("another width")
            .to_string();
        assert_eq!(
            error,
            "cat: shapes [2, 3], [2, 4] do not fit: they must agree on every axis but 0"
        );
        assert!(ops::cat(&[], 0).is_err() && ops::cat(&[&a], 2).is_err());
        assert!(ops::cat(&[&a, &Tensor::zeros(&[2, 3], DType::F64)?], 0).is_err());
        assert!(ops::cat(&[&a, &Tensor::zeros(&[2], DType::F32)?], 0).is_err());
        Ok(())
    });
    suite.test("slice::is_a_view_of_what_was_asked", || {
        let values: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let x = Tensor::from_slice(&values, &[3, 4])?;
        assert_eq!(
            ops::slice(&x, 1, 1, 2)?.to_vec::<f32>()?,
            [1.0, 2.0, 5.0, 6.0, 9.0, 10.0]
        );
        assert_eq!(
            ops::slice_step(&x, 0, 0, 2, 2)?.to_vec::<f32>()?,
            [0.0, 1.0, 2.0, 3.0, 8.0, 9.0, 10.0, 11.0]
        );
        let y = ops::place(&ops::slice_step(&x, 1, 1, 2, 2)?, 1, 0, 3, 5)?;
        assert_eq!(y.to_vec::<f32>()?[..5], [1.0, 0.0, 0.0, 3.0, 0.0]);
        // A view of a view, and a step that is never taken.
        let corner = ops::slice(&ops::slice(&x, 0, 2, 1)?, 1, 3, 1)?;
        assert_eq!(corner.to_vec::<f32>()?, [11.0]);
        assert_eq!(ops::slice_step(&x, 0, 2, 1, usize::MAX)?.shape(), [1, 4]);
        Ok(())
    });
    suite.test("slice::wrong_input", || {
        let x = Tensor::zeros(&[3, 4], DType::F32)?;
        let error = ops::slice(&x, 1, 2, 3)
            .expect_err("over the end")
            .to_string();
        assert_eq!(
            error,
            "slice: shapes [3, 4] do not fit: 3 elements from 2 in steps of 1 are not in 0..4"
        );
        assert!(ops::slice(&x, 0, 4, 0).is_err() && ops::slice(&x, 2, 0, 1).is_err());
        assert!(ops::slice(&x, 0, usize::MAX, 2).is_err());
        assert!(ops::slice_step(&x, 0, 0, 2, 3).is_err());
        assert!(ops::slice_step(&x, 0, 0, 2, 0).is_err());
        assert!(ops::slice_step(&x, 0, 1, 3, usize::MAX).is_err());
        assert!(ops::place(&x, 0, 0, 2, 4).is_err() && ops::place(&x, 0, 0, 0, 9).is_err());
        Ok(())
    });
    suite.test("slice::empty", || {
        let x = Tensor::zeros(&[3, 4], DType::F32)?;
        assert_eq!(ops::slice(&x, 0, 3, 0)?.shape(), [0, 4]);
        let none = ops::slice(&x, 1, 2, 0)?;
        assert!(none.to_vec::<f32>()?.is_empty());
        assert_eq!(ops::slice(&none, 0, 1, 2)?.to_vec::<f32>()?, [0.0; 0]);
        assert_eq!(ops::place(&none, 1, 0, 1, 2)?.to_vec::<f32>()?, [0.0; 6]);
        Ok(())
    });
    suite.test("index_select::wrong_input", || {
        let x = Tensor::zeros(&[3, 4], DType::F32)?;
        let error = ops::index_select(&x, 0, &index(&[0, 3])).expect_err("outside");
        assert_eq!(
            error.to_string(),
            "index_select: index 3 is outside an axis of 3"
        );
        assert!(ops::index_select(&x, 0, &index(&[-1])).is_err());
        assert!(ops::index_select(&x, 0, &x).is_err());
        let square = Tensor::zeros(&[1, 1], DType::I64)?;
        assert!(ops::index_select(&x, 0, &square).is_err());
        assert!(ops::index_add(&x, 0, &index(&[0, 1]), 3).is_err());
        assert!(ops::index_add(&x, 0, &index(&[0, 1, 2]), 2).is_err());
        Ok(())
    });
    suite.test("index_select::empty", || {
        let x = Tensor::zeros(&[0, 4], DType::F32)?;
        let none = index(&[]);
        assert_eq!(ops::index_select(&x, 0, &none)?.shape(), [0, 4]);
        assert_eq!(ops::index_add(&x, 0, &none, 2)?.to_vec::<f32>()?, [0.0; 8]);
        assert!(ops::index_select(&x, 0, &index(&[0])).is_err());
        Ok(())
    });
    suite.test("sort::is_stable_and_nan_is_largest", || {
        let nan = f32::NAN;
        let x = [
            1.0,
            nan,
            -0.0,
            3.0,
            0.0,
            f32::INFINITY,
            -nan,
            3.0,
            f32::NEG_INFINITY,
            -2.0,
        ];
        let x = Tensor::from_slice(&x, &[10])?;
        let (up, order) = ops::sort(&x, 0, false)?;
        assert_eq!(order.to_vec::<i64>()?, [8, 9, 2, 4, 0, 3, 7, 5, 1, 6]);
        assert!(up.to_vec::<f32>()?[8..].iter().all(|v| v.is_nan()));
        let (_, order) = ops::sort(&x, 0, true)?;
        assert_eq!(order.to_vec::<i64>()?, [1, 6, 5, 3, 7, 0, 2, 4, 9, 8]);
        let (_, top) = ops::topk(&x, 5, -1)?;
        assert_eq!(top.to_vec::<i64>()?, [1, 6, 5, 3, 7]);
        Ok(())
    });
    suite.test("topk::equals_the_head_of_a_sort", || {
        let mut values = tensor("x", &[5, 301], -4.0, 4.0, DType::F32)?.to_vec::<f32>()?;
        // Coarse values, so that there are many ties at the border.
        values.iter_mut().for_each(|v| *v = v.round());
        let x = Tensor::from_slice(&values, &[5, 301])?;
        for k in [0, 1, 2, 100, 300, 301] {
            let (top, at) = ops::topk(&x, k, 1)?;
            let (sorted, order) = ops::sort(&x, 1, true)?;
            let head = |t: &Tensor| ops::slice(t, 1, 0, k);
            assert_eq!(top.to_vec::<f32>()?, head(&sorted)?.to_vec::<f32>()?);
            assert_eq!(at.to_vec::<i64>()?, head(&order)?.to_vec::<i64>()?);
            let mut own: Vec<usize> = (0..301).collect();
            own.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).expect("numbers"));
            let own: Vec<i64> = own[..k].iter().map(|&i| i as i64).collect();
            assert_eq!(at.to_vec::<i64>()?[..k], own);
        }
        Ok(())
    });
    suite.test("topk::wrong_input_and_empty", || {
        let x = Tensor::zeros(&[3, 4], DType::F32)?;
        let error = ops::topk(&x, 5, 1).expect_err("too many").to_string();
        assert_eq!(
            error,
            "topk: shapes [3, 4] do not fit: axis 1 does not hold 5 values"
        );
        assert!(ops::topk(&x, 1, 2).is_err());
        assert!(ops::topk(&Tensor::scalar(1.0, DType::F32)?, 1, 0).is_err());
        assert!(ops::sort(&Tensor::zeros(&[3], DType::I64)?, 0, true).is_err());
        let empty = Tensor::zeros(&[0, 3], DType::F32)?;
        assert_eq!(ops::topk(&empty, 2, 1)?.0.shape(), [0, 2]);
        assert_eq!(ops::sort(&empty, 0, true)?.1.shape(), [0, 3]);
        Ok(())
    });
    suite.test("topk::gradient_goes_to_the_first_of_ties", || {
        let x = Tensor::from_slice(&[2.0f32, 5.0, 5.0, 5.0], &[4])?.variable();
        let (top, _) = ops::topk(&x, 2, 0)?;
        let g = grad(&[&ops::sum_all(&top)?], None, &[&x], false)?;
        let g = g[0].as_ref().expect("a gradient").to_vec::<f32>()?;
        assert_eq!(g, [0.0, 1.0, 1.0, 0.0]);
        Ok(())
    });
}

/// sum(topk(x mask) mask[:k]) / sum(mask[:k]): a mean over the best tiles that
/// are not padding, a tile being padding when no feature is positive.
fn topk_mean_masked(case: &Case) -> Result<Tensor> {
    let (x, f) = (case.input("x"), case.input("f"));
    let best = ops::max(f, &[1], true)?;
    let zero = Tensor::full_on(0.0, &[], DType::F32, &x.device())?;
    let mask = ops::cast(
        &ops::compare(&best, Comparison::Greater, &zero)?,
        DType::F32,
    )?;
    let k = case.number("k") as usize;
    let (top, _) = ops::topk(&ops::mul(x, &mask)?, k, 2)?;
    let mask = ops::slice(&mask, 2, 0, k)?;
    let total = ops::sum(&ops::mul(&top, &mask)?, &[2], false)?;
    ops::div(&total, &ops::sum(&mask, &[2], false)?)
}

fn masked_fill_threshold(x: &Tensor) -> Result<Tensor> {
    let (top, _) = ops::topk(&x.detach(), 5, 1)?;
    let threshold = ops::slice(&top, 1, 4, 1)?;
    let under = ops::compare(x, Comparison::Less, &threshold)?;
    let zero = Tensor::full_on(0.0, &[], DType::F32, &x.device())?;
    ops::select(&under, &zero, x)
}

pub fn golden(case: &Case) -> Option<Outputs> {
    if case.op.starts_with("topk") {
        let k = case.number("k") as usize;
        let pair = ops::topk(case.input("x"), k, case.number("dim") as isize);
        return Some(pair.map(|(values, index)| vec![("out", values), ("index", index)]));
    }
    let out = match case.name.as_str() {
        "topk_mean_masked" => topk_mean_masked(case),
        "masked_fill_threshold" => masked_fill_threshold(case.input("x")),
        "index_select_repeat" => case
            .local(index(&[2, 0, 2, 3]))
            .and_then(|i| ops::index_select(case.input("x"), 0, &i)),
        "cat_channels" => ops::cat(&["a", "b", "c"].map(|n| case.input(n)), 1),
        _ => return None,
    };
    Some(out.map(|t| vec![("out", t)]))
}
