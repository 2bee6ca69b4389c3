use eosin::ops::{self, StainMap};
use eosin::slides::Rgb8;
use eosin::slides::stain::{Fit, Method, Normaliser, Stains};
use eosin::slides::tile::{IMAGENET_MEAN, IMAGENET_STD, normalise};
use eosin::{DType, Result, Tensor};
use eosin_emulator::Schedule;

use crate::common::{relative_l2, tensor};
use crate::harness::{Sample, Suite, emulated};

/// Levels by formula.
fn levels(name: &str, shape: &[usize]) -> Result<Tensor> {
    ops::cast(&tensor(name, shape, 0.0, 256.0, DType::F32)?, DType::U8)
}

const MAP: StainMap = StainMap {
    matrix: [[0.9, 0.1, 0.05], [-0.1, 1.1, 0.02], [0.3, -0.2, 0.8]],
    light: 240.0,
};

pub fn samples() -> Vec<Sample> {
    let of = |name, shape: [usize; 4], size, stain: Option<StainMap>| {
        let x = levels(name, &shape).expect("levels");
        let sample = Sample::new("normalise_tiles", name, &[], move |x| {
            let stain = stain.as_ref();
            ops::normalise_tiles(&x[0], size, stain, IMAGENET_MEAN, IMAGENET_STD, DType::F32)
        });
        sample.fixed(x).choice()
    };
    vec![
        of("as_it_is", [2, 4, 5, 3], [4, 5], None),
        of("smaller", [2, 9, 7, 3], [4, 3], None),
        of("larger_and_stained", [1, 3, 4, 3], [5, 6], Some(MAP)),
        of("smaller_and_stained", [3, 8, 9, 3], [3, 7], Some(MAP)),
    ]
}

pub fn tests(suite: &mut Suite) {
    suite.test("normalise_tiles::as_tiles_of_slides", as_tiles_of_slides);
    suite.test("normalise_tiles::halves_are_rounded_once", || {
        let x = levels("halves", &[2, 9, 7, 3])?;
        let run = |x: &Tensor, to| {
            ops::normalise_tiles(x, [4, 3], Some(&MAP), IMAGENET_MEAN, IMAGENET_STD, to)
        };
        for to in [DType::BF16, DType::F16] {
            let want = ops::cast(&run(&x, DType::F32)?, to)?.to_bytes()?;
            assert_eq!(run(&x, to)?.to_bytes()?, want);
            let there = run(&x.to(&emulated(Schedule::Greedy(3))?)?, to)?;
            assert_eq!(there.dtype(), to);
            assert_eq!(there.to_bytes()?, want);
        }
        Ok(())
    });
    suite.test("normalise_tiles::wrong_input", || {
        let x = levels("wrong", &[1, 2, 2, 3])?;
        let run = |x: &Tensor, size, std: f32, to| {
            ops::normalise_tiles(x, size, None, [0.0; 3], [std; 3], to).map(drop)
        };
        let error = run(&ops::cast(&x, DType::F32)?, [2, 2], 1.0, DType::F32);
        assert_eq!(
            error.expect_err("floats").to_string(),
            "normalise_tiles: dtypes [F32, F32] do not fit: \
             levels are u8, and the result is f32, bf16 or f16"
        );
        assert!(run(&x, [2, 2], 1.0, DType::F64).is_err());
        assert!(run(&x, [0, 2], 1.0, DType::F32).is_err());
        assert!(run(&x, [2, 2], 0.0, DType::F32).is_err());
        assert!(run(&levels("wrong", &[2, 2, 3])?, [2, 2], 1.0, DType::F32).is_err());
        assert!(run(&levels("wrong", &[1, 0, 2, 3])?, [2, 2], 1.0, DType::F32).is_err());
        let dark = StainMap { light: 0.0, ..MAP };
        let ones = [1.0; 3];
        let error = ops::normalise_tiles(&x, [2, 2], Some(&dark), ones, ones, DType::F32);
        assert!(error.expect_err("no light").to_string().contains("above 0"));
        let none = Tensor::zeros(&[0, 2, 2, 3], DType::U8)?;
        let y = ops::normalise_tiles(&none, [4, 4], None, ones, ones, DType::F32)?;
        assert_eq!(y.shape(), [0, 3, 4, 4]);
        Ok(())
    });
}

/// What readers of slides do with bytes: the same levels, to rounding of the last step.
fn as_tiles_of_slides() -> Result<()> {
    let bytes = levels("slide", &[1, 40, 50, 3])?.to_vec::<u8>()?;
    let fit = Stains::Macenko(Fit {
        stains: [[0.65, 0.07], [0.70, 0.99], [0.29, 0.11]],
        most: [1.5, 0.9],
    });
    let to = Stains::reference(Method::Macenko);
    let normaliser = Normaliser::new(&fit, &to).expect("one method");
    let map = normaliser.stain_map().expect("a matrix");
    let mut tile = Rgb8 {
        width: 50,
        height: 40,
        data: bytes.clone(),
    };
    normaliser.apply(&mut tile);
    let mut want = vec![0.0; bytes.len()];
    normalise(&tile, IMAGENET_MEAN, IMAGENET_STD, &mut want)?;
    let x = Tensor::from_slice(&bytes, &[1, 40, 50, 3])?;
    let size = [40, 50];
    let y = ops::normalise_tiles(
        &x,
        size,
        Some(&map),
        IMAGENET_MEAN,
        IMAGENET_STD,
        DType::F32,
    )?;
    let y = ops::permute(&y, &[0, 2, 3, 1])?.to_f64_vec()?;
    let want: Vec<f64> = want.into_iter().map(f64::from).collect();
    assert!(relative_l2(&y, &want) < 1e-6);
    Ok(())
}
