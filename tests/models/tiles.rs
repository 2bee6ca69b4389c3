//! What networks are shown of tiles on CUDA, which takes their bytes, against what they
//! are shown on the CPU.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use eosin::cohort::{Cohort, Colours, TileSpec, for_each_input, tiles};
use eosin::jobs::features::{Config, Layouts, TileNetwork, run};
use eosin::random::Philox;
use eosin::slides::stain::Method;
use eosin::slides::{Rgb8, image};
use eosin::train::config::Precision;
use eosin::train::features::EncoderSource;
use eosin::train::progress::{Control, Silent};
use eosin::{DType, Device, Result, Tensor};
use eosin_emulator::Schedule;
use libtest_mimic::Trial;

use crate::trial::trial;
use crate::under_test;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "tiles::of_slides::cuda",
            tiles_of_slides_are_on_cuda_what_they_are_on_the_cpu,
        ),
        trial(
            "tiles::of_a_cohort::cuda",
            tiles_of_a_cohort_are_on_cuda_what_they_are_on_the_cpu,
        ),
    ]
}

/// A level of 255, as the network sees the channel with the smallest deviation.
const LEVEL: f32 = 1.0 / 255.0 / 0.224;

/// Glass with a block of tissue in two stains, mixed anew every few pixels.
fn picture(seed: u64, pale: f32) -> Rgb8 {
    const SIDE: usize = 192;
    const CELL: usize = 6;
    let cells = (SIDE / CELL) * (SIDE / CELL);
    let mut amounts = vec![0f32; 2 * cells];
    Philox::new(seed).fill_uniform(&mut amounts, 0.1, 1.4);
    let data = (0..SIDE * SIDE).flat_map(|i| {
        let (x, y) = (i % SIDE, i / SIDE);
        if !(16..176).contains(&x) || !(16..176).contains(&y) {
            return [243, 243, 244];
        }
        let cell = (y / CELL) * (SIDE / CELL) + x / CELL;
        let (h, e) = (amounts[2 * cell] * pale, amounts[2 * cell + 1] * pale);
        [(0.65, 0.07), (0.70, 0.99), (0.29, 0.11)]
            .map(|(of_h, of_e)| (240.0 * (-(of_h * h + of_e * e)).exp()) as u8)
    });
    Rgb8 {
        width: SIDE,
        height: SIDE,
        data: data.collect(),
    }
}

/// Shows what it is shown.
struct Mirror {
    device: Device,
    px: usize,
    source: EncoderSource,
    shown: Mutex<Vec<f32>>,
}

impl TileNetwork for Mirror {
    fn columns(&self) -> usize {
        1
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn source(&self) -> &EncoderSource {
        &self.source
    }

    fn rows(&self, x: &Tensor) -> Result<Vec<f32>> {
        assert_eq!(x.shape()[1..], [3, self.px, self.px]);
        assert_eq!(x.device(), self.device);
        let values = x.to_f32_vec()?;
        let means = values.chunks_exact(3 * self.px * self.px);
        let means = means.map(|v| v.iter().sum()).collect();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.extend(values);
        Ok(means)
    }
}

static NEVER: AtomicBool = AtomicBool::new(false);
const CONTROL: Control = Control {
    progress: &Silent,
    stop: &NEVER,
};

/// What a network is shown of the tiles of a slide of 32 px.
fn shown(
    slides: &Path,
    px: usize,
    stain: Option<Method>,
    lmdb: bool,
    device: &Device,
) -> Result<Vec<f32>> {
    let job = tempfile::tempdir().expect("a folder");
    let config = Config {
        wsi_dir: slides.to_owned(),
        job_dir: job.path().to_owned(),
        list: None,
        slide_mpp: Some(2.0),
        shard: None,
        memory: 2 << 30,
        encoder: "mirror".into(),
        dtype: Precision::F32,
        mpp: 2.0,
        patch_px: 32,
        network_px: Some(px),
        spots: None,
        batch: 3,
        tissue: Default::default(),
        grid: Default::default(),
        quality: Default::default(),
        stain,
        icc: false,
        outputs: Layouts {
            trident: true,
            clam: false,
            lmdb,
        },
    };
    let mirror = Mirror {
        device: device.clone(),
        px,
        source: EncoderSource {
            description: "a mirror".into(),
            sha256: String::new(),
            random: false,
        },
        shown: Mutex::default(),
    };
    let summary = run(&config, &mirror, CONTROL)?;
    assert_eq!((summary.failed.len(), summary.unstained.len()), (0, 0));
    let shown = mirror.shown.into_inner();
    let shown = shown.unwrap_or_else(PoisonError::into_inner);
    assert_eq!(shown.len(), summary.tiles * 3 * px * px);
    assert!(summary.tiles > 9, "{} tiles", summary.tiles);
    Ok(shown)
}

fn emulated() -> Result<Device> {
    Ok(Device::Cuda(under_test::device(Schedule::Greedy(5))?))
}

/// Asserts that no value is further from another than `most` levels, and at most one in a
/// hundred by more than `mostly`.
fn near(what: &str, got: &[f32], want: &[f32], mostly: f32, most: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let apart = || got.iter().zip(want).map(|(a, b)| (a - b).abs() / LEVEL);
    let worst = apart().fold(0.0, f32::max);
    assert!(worst <= most, "{what}: {worst} levels apart");
    let beyond = apart().filter(|&a| a > mostly).count();
    assert!(
        100 * beyond <= got.len(),
        "{what}: {beyond} of {} are more than {mostly} levels apart",
        got.len()
    );
}

fn tiles_of_slides_are_on_cuda_what_they_are_on_the_cpu() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    image::write_png(folder.path().join("slide.png"), &picture(1, 0.6), &[])?;
    let slides = folder.path();
    let device = emulated()?;
    let plain = shown(slides, 32, None, false, &Device::Cpu)?;
    for method in [None, Some(Method::Macenko), Some(Method::Vahadane)] {
        let here = shown(slides, 32, method, false, &Device::Cpu)?;
        let there = shown(slides, 32, method, false, &device)?;
        // Levels are whole on both; where the exponential is rounded otherwise, one is
        // the next.
        near(&format!("{method:?}"), &there, &here, 1e-3, 1.001);
        let apart = here.iter().zip(&plain).any(|(a, b)| (a - b).abs() > LEVEL);
        assert_eq!(apart, method.is_some(), "colours are changed on request");
    }
    // No map of densities, and tiles that are kept in their new colours: made beside the
    // network, so that one step of rounding is all that is left.
    for (method, lmdb) in [(Method::Reinhard, false), (Method::Macenko, true)] {
        let here = shown(slides, 32, Some(method), lmdb, &Device::Cpu)?;
        let there = shown(slides, 32, Some(method), lmdb, &device)?;
        near(&format!("{method:?}"), &there, &here, 1e-3, 1e-3);
    }
    // Another size: the CPU rounds to whole levels along rows and columns.
    for px in [20, 48] {
        let here = shown(slides, px, None, false, &Device::Cpu)?;
        let there = shown(slides, px, None, false, &device)?;
        near(&format!("{px} px"), &there, &here, 1.001, 1.001);
        let apart = here.iter().zip(&there).any(|(a, b)| (a - b).abs() > 1e-3);
        assert!(apart, "bit for bit: was it resized on the device?");
    }
    Ok(())
}

/// Tiles of two slides in one batch, each in its colours.
fn tiles_of_a_cohort_are_on_cuda_what_they_are_on_the_cpu() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    for (slide, pale) in [("a", 0.6), ("b", 0.9), ("c", 1.2)] {
        std::fs::create_dir(folder.path().join(slide)).expect("a folder");
        for tile in 0..2 {
            let path = folder.path().join(slide).join(format!("{tile}.png"));
            let mut picture = picture(tile + 7, pale);
            // Another size, which is changed on the CPU for either device.
            if slide == "c" {
                picture = eosin::slides::tile::resize(&picture, 96, 96)?;
            }
            image::write_png(path, &picture, &[])?;
        }
    }
    let cohort = tiles::read(folder.path(), &tiles::Options::default())?;
    let device = emulated()?;
    let spec = TileSpec::imagenet(40, 4);
    for method in [None, Some(Method::Macenko), Some(Method::Reinhard)] {
        let colours = Colours::fit(&cohort, method, 40)?;
        assert_eq!(colours.unfitted().count(), 0);
        let here = of_cohort(&cohort, &spec, &colours, &Device::Cpu)?;
        let there = of_cohort(&cohort, &spec, &colours, &device)?;
        assert_eq!(here.1, there.1);
        let most = if method == Some(Method::Macenko) {
            1.001
        } else {
            1e-3
        };
        near(&format!("{method:?}"), &there.0, &here.0, 1e-3, most);
    }
    Ok(())
}

/// Values of all tiles, and which they are.
fn of_cohort(
    cohort: &Cohort,
    spec: &TileSpec,
    colours: &Colours,
    device: &Device,
) -> Result<(Vec<f32>, Vec<usize>)> {
    let (mut values, mut all) = (Vec::new(), Vec::new());
    let unused = for_each_input(cohort, spec, colours, device, |x, tiles| {
        assert_eq!(x.shape(), [tiles.len(), 3, spec.out_px, spec.out_px]);
        assert_eq!((x.device(), x.dtype()), (device.clone(), DType::F32));
        values.extend(x.to_f32_vec()?);
        all.extend_from_slice(tiles);
        Ok(())
    })?;
    assert_eq!((unused, all.len()), (Vec::new(), 6));
    Ok((values, all))
}
