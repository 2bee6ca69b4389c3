//! Features and predictions of a cohort on CUDA against those of the CPU.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use eosin::Device;
use eosin::cohort::Cohort;
use eosin::device::cuda::CudaDevice;
use eosin::formats::read_weights;
use eosin::simulate::{SimulateConfig, simulate};
use eosin::train::config::{
    AutoEncoderConfig, DataConfig, DeepPtConfig, ExpressionConfig, FeatureConfig, Layout,
    MlpConfig, SplitConfig, default_checkpoint_seconds,
};
use eosin::train::deeppt::{Ensemble, train};
use eosin::train::features::{extract, random_encoder};
use eosin::train::progress::{Control, Silent};
use eosin_emulator::Schedule;

use crate::emulated::Emulated;

/// As many slides as a simulation has at least, of one small tile each.
fn cohort(folder: &Path) -> DataConfig {
    let config = SimulateConfig {
        slides: 14,
        tiles_per_slide: 1,
        tile_px: 64,
        ..SimulateConfig::default()
    };
    simulate(&config, folder, &|_, _| {}).unwrap();
    DataConfig {
        expression: Some(folder.join("expression.csv")),
        slides: Some(folder.join("slides.csv")),
        ..DataConfig::new(Layout::Tiles, folder.join("tiles"))
    }
}

/// The first samples: the emulator is slow.
fn few(data: &DataConfig, samples: usize) -> Cohort {
    let mut cohort = data.read(false).unwrap();
    cohort.samples.truncate(samples);
    cohort
}

fn emulated() -> Device {
    Device::Cuda(CudaDevice::new(Emulated::new(Schedule::Greedy(7))).unwrap())
}

/// In the L2 norm, relative to that of `want`.
fn close(what: &str, got: &[f32], want: &[f32], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let pairs = got.iter().zip(want);
    let off = norm(&mut pairs.map(|(g, w)| f64::from(g - w)));
    let error = off / norm(&mut want.iter().map(|&w| w.into()));
    assert!(error <= tolerance, "{what}: off by {error:e}");
}

static NEVER: AtomicBool = AtomicBool::new(false);
const CONTROL: Control = Control {
    progress: &Silent,
    stop: &NEVER,
};

#[test]
fn a_finished_run_predicts_on_cuda_what_it_predicts_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let data = cohort(&folder.path().join("cohort"));
    let run = folder.path().join("run");
    let config = DeepPtConfig {
        seed: 3,
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
    train(&config, &run, false, CONTROL).unwrap();

    let on = |device: &Device, out: &str| {
        let ensemble = Ensemble::read(&run, device).unwrap();
        let mut cohort = few(&data, 2);
        let out = folder.path().join(out);
        let features = extract(
            &mut cohort,
            &ensemble.encoder,
            &ensemble.config.features,
            &out,
            CONTROL,
        );
        let features = features.unwrap();
        let predicted = ensemble.predict(&cohort, &features).unwrap();
        (features.values, predicted)
    };
    let (features, predicted) = on(&Device::Cpu, "cpu");
    let (on_cuda, predicted_on_cuda) = on(&emulated(), "cuda");
    assert!(features != on_cuda, "bit for bit: was it computed on cuda?");
    close("features", &on_cuda, &features, 1e-5);
    close("predictions", &predicted_on_cuda, &predicted, 1e-5);

    // What one device made is not taken for what the other makes.
    let (again, _) = on(&Device::Cpu, "cuda");
    assert!(again == features);
}

#[test]
fn random_encoders_are_calibrated_on_cuda_as_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let data = cohort(&folder.path().join("cohort"));
    let cohort = few(&data, 3);
    let config = FeatureConfig {
        tile_px: 64,
        batch: 3,
        calibration_tiles: 3,
        ..FeatureConfig::default()
    };
    let made = |device: &Device, name: &str| {
        let file = folder.path().join(name);
        random_encoder(1, &cohort, &[0, 1, 2], &config, &file, device, CONTROL).unwrap();
        read_weights(&file).unwrap()
    };
    let here = made(&Device::Cpu, "cpu.safetensors");
    let there = made(&emulated(), "cuda.safetensors");
    assert_eq!(here.len(), there.len());
    let mut statistics = 0;
    for (key, want) in here.iter() {
        let got = there.get(key).unwrap();
        if !key.contains("running_") {
            assert_eq!(got, want, "{key}");
            continue;
        }
        statistics += 1;
        close(key, &got.to_f32().unwrap(), &want.to_f32().unwrap(), 1e-4);
    }
    assert_eq!(statistics, 2 * 53);
    assert_ne!(
        here.metadata.get("recipe"),
        there.metadata.get("recipe"),
        "one would be taken for the other"
    );
}
