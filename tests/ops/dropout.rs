use eosin::autograd::grad;
use eosin::nn::Pass;
use eosin::ops::{self, Comparison};
use eosin::random::{Philox, philox4x32};
use eosin::shape::Format;
use eosin::{DType, Result, Tensor};

use crate::golden::{Case, Outputs};
use crate::harness::{Sample, Suite};

fn stream(position: u64) -> Philox {
    Philox {
        key: 0x1234_5678_9abc_def0,
        position,
    }
}

pub fn samples() -> Vec<Sample> {
    let cases: [(&str, &[usize], f64); 5] = [
        ("rows", &[5, 7], 0.3),
        ("c3", &[2, 3, 4, 5], 0.5),
        ("c46", &[1, 46, 3, 2], 0.1),
        ("c165", &[1, 165, 1, 2], 0.75),
        ("none", &[3, 2], 0.0),
    ];
    let sample = |(name, shape, p)| {
        let shape: &[usize] = shape;
        Sample::new("dropout", name, &[shape], move |x| {
            ops::dropout(&x[0], p, stream(9))
        })
    };
    cases.into_iter().map(sample).collect()
}

pub fn tests(suite: &mut Suite) {
    suite.test("dropout::mask_is_that_of_the_counter", || {
        // More than one chunk of work, not a multiple of four, and a position
        // whose low word overflows on the way.
        let (n, p, start) = (40_003, 0.37, (1u64 << 32) - 5);
        let x = Tensor::full(1.0, &[n], DType::F64)?;
        let got = ops::dropout(&x, p, stream(start))?.to_f64_vec()?;
        for (i, &v) in got.iter().enumerate() {
            let block = start + i as u64 / 4;
            let counter = [block as u32, (block >> 32) as u32, 0, 0];
            let word = philox4x32(stream(0).key, counter)[i % 4];
            let kept = f64::from(word >> 8) / f64::from(1 << 24) >= p;
            assert_eq!(v, if kept { 1.0 / (1.0 - p) } else { 0.0 }, "element {i}");
        }
        Ok(())
    });
    suite.test("dropout::drops_its_share", || {
        let n = 200_000;
        let x = Tensor::full(1.0, &[n], DType::F32)?;
        for (seed, p) in [(1, 0.1), (2, 0.25), (3, 0.5), (4, 0.9)] {
            let y = ops::dropout(&x, p, Philox::new(seed))?.to_vec::<f32>()?;
            let dropped: Vec<bool> = y.iter().map(|&v| v == 0.0).collect();
            let count = |pairs: usize| {
                let both = |i: &usize| dropped[*i] && dropped[i + pairs];
                (0..n - pairs).filter(both).count() as f64
            };
            // Five standard errors of a binomial count, of single elements and
            // of neighbours at distances inside of and over a block.
            let near = |got: f64, share: f64| {
                let spread = (n as f64 * share * (1.0 - share)).sqrt();
                (got - n as f64 * share).abs() < 5.0 * spread
            };
            assert!(near(count(0), p), "p = {p}: {}", count(0));
            for distance in [1, 4, 7] {
                let got = count(distance);
                // Overlapping pairs vary more than independent ones.
                let spread = (n as f64 * p * p * (1.0 - p) * (1.0 + 3.0 * p)).sqrt();
                let off = (got - n as f64 * p * p).abs();
                assert!(off < 5.0 * spread, "p = {p}, distance {distance}: {got}");
            }
        }
        Ok(())
    });
    suite.test("dropout::one_stream_serves_layers_and_layouts", || {
        let x = Tensor::full(1.0, &[2, 5, 3, 7], DType::F32)?;
        let want = ops::dropout(&x, 0.5, stream(3))?.to_vec::<f32>()?;
        let last = ops::dropout(&x.to_format(Format::ChannelsLast)?, 0.5, stream(3))?;
        assert_eq!(last.to_vec::<f32>()?, want);
        assert!(last.layout().is_channels_last() && !last.layout().is_contiguous());
        // Reserved one after the other, two masks are one long mask.
        let pass = Pass::train(stream(3));
        let mut both = Vec::new();
        for n in [8, 202] {
            let part = Tensor::full(1.0, &[n], DType::F32)?;
            let taken = pass.random(ops::dropout_blocks(n));
            both.extend(ops::dropout(&part, 0.5, taken)?.to_vec::<f32>()?);
        }
        assert_eq!(both, want);
        assert_eq!(ops::dropout_blocks(0), 0);
        assert_eq!(ops::dropout_blocks(5), 2);
        Ok(())
    });
    suite.test("dropout::gradient_has_the_same_mask", || {
        let x = Tensor::full(1.0, &[1001], DType::F32)?.variable();
        let y = ops::dropout(&x, 0.4, stream(5))?;
        let g = grad(&[&ops::sum_all(&y)?], None, &[&x], false)?;
        let g = g[0].as_ref().expect("a gradient").to_vec::<f32>()?;
        assert_eq!(g, y.to_vec::<f32>()?);
        Ok(())
    });
    suite.test("dropout::all_none_and_wrong", || {
        let x = Tensor::from_slice(&[1.0, f32::INFINITY, f32::NAN], &[3])?;
        assert_eq!(ops::dropout(&x, 1.0, stream(0))?.to_vec::<f32>()?, [0.0; 3]);
        let same = ops::dropout(&x, 0.0, stream(0))?;
        assert_eq!(same.to_bytes()?, x.to_bytes()?);
        for p in [-0.1, 1.1, f64::NAN] {
            let error = ops::dropout(&x, p, stream(0)).expect_err("not a probability");
            assert_eq!(
                error.to_string(),
                format!("dropout: p = {p} is not a probability in 0..=1")
            );
        }
        let empty = Tensor::zeros(&[0, 3], DType::F32)?;
        assert_eq!(ops::dropout(&empty, 0.5, stream(0))?.shape(), [0, 3]);
        assert!(ops::dropout(&Tensor::zeros(&[2], DType::I64)?, 0.5, stream(0)).is_err());
        Ok(())
    });
}

/// The cases come with their uniform numbers, so they say what keeping and
/// scaling mean; the tests above tie the operator to its own stream.
fn given_mask(case: &Case) -> Result<Tensor> {
    let p = case.number("p");
    let (x, u) = (case.input("x"), case.input("u"));
    let number = |v: f64| Tensor::full_on(v, &[], DType::F32, &x.device());
    let kept = ops::compare(u, Comparison::GreaterEqual, &number(p)?)?;
    let scaled = ops::affine(x, 1.0 / (1.0 - p), 0.0)?;
    ops::select(&kept, &scaled, &number(0.0)?)
}

pub fn golden(case: &Case) -> Option<Outputs> {
    let known = case.op == "dropout with a given mask";
    known.then(|| given_mask(case).map(|t| vec![("out", t)]))
}
