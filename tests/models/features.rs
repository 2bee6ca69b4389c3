//! Features and predictions of a cohort on CUDA against those of the CPU.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use eosin::cohort::Cohort;
use eosin::formats::read_weights;
use eosin::simulate::{SimulateConfig, simulate};
use eosin::train::config::{
    AutoEncoderConfig, DataConfig, DeepPtConfig, ExpressionConfig, FeatureConfig, Layout,
    MlpConfig, Precision, SplitConfig, default_checkpoint_seconds,
};
use eosin::train::deeppt::{Ensemble, train};
use eosin::train::features::{extract, random_encoder};
use eosin::train::progress::{Control, Silent};
use eosin::{Device, Result};
use eosin_emulator::Schedule;
use libtest_mimic::Trial;

use crate::stored::relative_l2;
use crate::trial::trial;
use crate::under_test;

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "features::a_finished_run_predicts::cuda",
            a_finished_run_predicts_on_cuda_what_it_predicts_on_the_cpu,
        ),
        trial(
            "features::random_encoders_are_calibrated::cuda",
            random_encoders_are_calibrated_on_cuda_as_on_the_cpu,
        ),
    ]
}

/// As many slides as a simulation has at least, of one small tile each.
fn cohort(folder: &Path) -> Result<DataConfig> {
    let config = SimulateConfig {
        slides: 14,
        tiles_per_slide: 1,
        tile_px: 64,
        ..SimulateConfig::default()
    };
    simulate(&config, folder, &|_, _| {})?;
    Ok(DataConfig {
        expression: Some(folder.join("expression.csv")),
        slides: Some(folder.join("slides.csv")),
        ..DataConfig::new(Layout::Tiles, folder.join("tiles"))
    })
}

/// The first samples: the emulator is slow.
fn few(data: &DataConfig, samples: usize) -> Result<Cohort> {
    let mut cohort = data.read(false)?;
    cohort.samples.truncate(samples);
    Ok(cohort)
}

fn emulated() -> Result<Device> {
    Ok(Device::Cuda(under_test::device(Schedule::Greedy(7))?))
}

fn close(what: &str, got: &[f32], want: &[f32], tolerance: f64) {
    let wide = |v: &[f32]| v.iter().map(|&v| v.into()).collect::<Vec<f64>>();
    let error = relative_l2(&wide(got), &wide(want));
    assert!(error <= tolerance, "{what}: off by {error:e}");
}

static NEVER: AtomicBool = AtomicBool::new(false);
const CONTROL: Control = Control {
    progress: &Silent,
    stop: &NEVER,
};

fn a_finished_run_predicts_on_cuda_what_it_predicts_on_the_cpu() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let data = cohort(&folder.path().join("cohort"))?;
    let run = folder.path().join("run");
    let config = DeepPtConfig {
        seed: 3,
        dtype: Precision::F32,
        checkpoint_seconds: default_checkpoint_seconds(),
        data: data.clone(),
        features: FeatureConfig {
            tile_px: 64,
            ..FeatureConfig::default()
        },
        expression: ExpressionConfig::default(),
        split: SplitConfig {
            outer_folds: 2,
            inner_folds: 2,
            ..SplitConfig::default()
        },
        autoencoder: AutoEncoderConfig {
            epochs: 1,
            ..AutoEncoderConfig::default()
        },
        mlp: MlpConfig {
            hidden: 64,
            epochs: 2,
            ..MlpConfig::default()
        },
    };
    train(&config, &run, false, &Device::Cpu, CONTROL)?;

    let on = |device: &Device, out: &str| -> Result<_> {
        let ensemble = Ensemble::read(&run, device)?;
        let mut cohort = few(&data, 1)?;
        let out = folder.path().join(out);
        let features = extract(
            &mut cohort,
            &ensemble.encoder,
            &ensemble.config.features,
            &out,
            CONTROL,
        )?;
        let predicted = ensemble.predict(&cohort, &features)?;
        Ok((features.values, predicted))
    };
    let (features, predicted) = on(&Device::Cpu, "cpu")?;
    let (on_cuda, predicted_on_cuda) = on(&emulated()?, "cuda")?;
    assert!(features != on_cuda, "bit for bit: was it computed on cuda?");
    close("features", &on_cuda, &features, 1e-5);
    close("predictions", &predicted_on_cuda, &predicted, 1e-5);

    // What one device made is not taken for what the other makes.
    let (again, _) = on(&Device::Cpu, "cuda")?;
    assert!(again == features);
    Ok(())
}

fn random_encoders_are_calibrated_on_cuda_as_on_the_cpu() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let data = cohort(&folder.path().join("cohort"))?;
    let cohort = few(&data, 3)?;
    let config = FeatureConfig {
        tile_px: 64,
        batch: 3,
        calibration_tiles: 3,
        ..FeatureConfig::default()
    };
    let made = |device: &Device, name: &str| {
        let file = folder.path().join(name);
        random_encoder(1, &cohort, &[0, 1, 2], &config, &file, device, CONTROL)?;
        read_weights(&file)
    };
    let here = made(&Device::Cpu, "cpu.safetensors")?;
    let there = made(&emulated()?, "cuda.safetensors")?;
    assert_eq!(here.len(), there.len());
    let mut statistics = 0;
    for (key, want) in here.iter() {
        let got = there.get(key).expect("the same keys");
        if !key.contains("running_") {
            assert_eq!(got, want, "{key}");
            continue;
        }
        statistics += 1;
        close(key, &got.to_f32()?, &want.to_f32()?, 1e-4);
    }
    assert_eq!(statistics, 2 * 53);
    assert_ne!(
        here.metadata.get("recipe"),
        there.metadata.get("recipe"),
        "one would be taken for the other"
    );
    Ok(())
}
