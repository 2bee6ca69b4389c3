//! The benches' table on the CPU and on the emulator, at small sizes, so that
//! what runs on a GPU alone does not rot where there is none.

#[path = "../../benches/table/mod.rs"]
mod table;

use std::collections::BTreeSet;

use eosin::Device;
use eosin::device::cuda::CudaDevice;
use eosin_emulator::Schedule;

use crate::emulated::Emulated;
use table::shapes::{Convolution, Image, Work};
use table::{Bench, Throughput};

/// The bench of the same operator at a size that an emulator gets through.
fn tiny(mut bench: Bench) -> Bench {
    bench.work = tiny_work(bench.work);
    bench.batch = bench.batch.min(2);
    bench
}

/// The same work at a size that an emulator gets through.
fn tiny_work(work: Work) -> Work {
    let image = |[c, h, w]: Image| [c.min(5), h.min(6), w.min(6)];
    match work {
        Work::Matmul { m, k, n } => Work::Matmul {
            m: m.min(9),
            k: k.min(10),
            n: n.min(11),
        },
        Work::Linear {
            rows,
            inputs,
            outputs,
        } => Work::Linear {
            rows: rows.min(3),
            inputs: inputs.min(10),
            outputs: outputs.min(11),
        },
        Work::LinearTopMean {
            tiles,
            inputs,
            outputs,
            highest,
        } => Work::LinearTopMean {
            tiles: tiles.min(5),
            inputs: inputs.min(10),
            outputs: outputs.min(11),
            highest: highest.min(2),
        },
        Work::Attention {
            heads,
            queries,
            keys,
            width,
        } => Work::Attention {
            heads: heads.min(2),
            queries: queries.min(5),
            keys: keys.min(6),
            width: width.min(7),
        },
        Work::AttentionPacked {
            heads,
            tokens,
            width,
        } => Work::AttentionPacked {
            heads: heads.min(2),
            tokens: tokens.min(5),
            width: width.min(7),
        },
        Work::Conv2d(c) => Work::Conv2d(tiny_convolution(c)),
        Work::ConvBnAct(c) => Work::ConvBnAct(tiny_convolution(c)),
        Work::ConvTranspose2d(c) => Work::ConvTranspose2d(tiny_convolution(c)),
        Work::Softmax { rows, width } => Work::Softmax {
            rows: rows.min(3),
            width: width.min(40),
        },
        Work::LayerNorm { rows, width } => Work::LayerNorm {
            rows: rows.min(3),
            width: width.min(40),
        },
        Work::AddLayerNorm { rows, width } => Work::AddLayerNorm {
            rows: rows.min(3),
            width: width.min(40),
        },
        Work::BatchNorm(i) => Work::BatchNorm(image(i)),
        Work::Relu(i) => Work::Relu(image(i)),
        Work::LeakyRelu(i) => Work::LeakyRelu(image(i)),
        Work::Tanh(i) => Work::Tanh(image(i)),
        Work::Gelu { rows, width } => Work::Gelu {
            rows: rows.min(3),
            width: width.min(40),
        },
        Work::Dropout { rows, width } => Work::Dropout {
            rows: rows.min(3),
            width: width.min(40),
        },
        Work::Add(i) => Work::Add(image(i)),
        Work::MaxPool2d(i) => Work::MaxPool2d(image(i)),
        Work::AvgPool2d(i) => Work::AvgPool2d(image(i)),
        Work::ActivatedAvgPool2d(i) => Work::ActivatedAvgPool2d(image(i)),
        Work::GlobalAvgPool2d(i) => Work::GlobalAvgPool2d(image(i)),
        Work::AdamW { values } => Work::AdamW {
            values: values.min(1000),
        },
    }
}

fn tiny_convolution(c: Convolution) -> Convolution {
    let groups = if c.groups > 1 { 5 } else { 1 };
    let side = |i: usize| c.image[1 + i].min(c.kernel[i] + 2);
    Convolution {
        image: [c.image[0].min(5), side(0), side(1)],
        outputs: c.outputs.min(if groups > 1 { groups } else { 6 }),
        groups,
        ..c
    }
}

/// The benches of the table that differ when they are small.
fn tiny_ones(benches: Vec<Bench>) -> impl Iterator<Item = Bench> {
    let mut seen = BTreeSet::new();
    let tiny = benches.into_iter().map(tiny);
    tiny.filter(move |b| seen.insert((b.group(), b.name())))
}

#[test]
fn every_bench_of_the_cpu_is_right() {
    for bench in tiny_ones(table::on_cpu()) {
        bench.check(&Device::Cpu).unwrap();
    }
}

#[test]
fn every_bench_of_cuda_is_right_and_timed() {
    let device = CudaDevice::new(Emulated::new(Schedule::Forward)).unwrap();
    let place = Device::Cuda(device.clone());
    for bench in tiny_ones(table::on_cuda()) {
        bench.check(&place).unwrap();
        let mut runs: Vec<_> = (0..2)
            .map(|seed| bench.prepare(&place, seed).unwrap())
            .collect();
        let elapsed = table::events::time(&device, &mut runs, 3, 4096).unwrap();
        assert!(elapsed.as_nanos() > 0, "{}", bench.group());
    }
}

/// What runs when nothing in particular is asked for tells of every operator,
/// and ends within minutes: a bench takes about two seconds.
#[test]
fn the_default_set_is_short_and_whole() {
    let ops =
        |benches: &[Bench]| -> BTreeSet<&str> { benches.iter().map(|b| b.work.op()).collect() };
    let all = table::on_cpu();
    let by_default: Vec<Bench> = all.iter().copied().filter(|b| b.by_default).collect();
    assert!(by_default.len() <= 90, "{}", by_default.len());
    let missing: Vec<_> = ops(&all).difference(&ops(&by_default)).copied().collect();
    assert_eq!(missing, ["leaky_relu", "tanh"], "as relu and gelu are");
}

/// `benches/peers/gpu.py` reads it.
#[test]
fn peers_get_the_table_as_json() {
    let table: serde_json::Value = serde_json::from_str(&table::described()).unwrap();
    let entries = table.as_array().unwrap();
    assert_eq!(entries.len(), table::on_cuda().len());
    for entry in entries {
        let of = |key: &str| entry.get(key);
        assert!(of("flops").is_some() != of("bytes").is_some(), "{entry}");
        for key in ["name", "op", "dtype", "inputs", "gradients"] {
            assert!(of(key).is_some(), "{entry}: no {key}");
        }
    }
}

/// Criterion's baselines are found by name.
#[test]
fn names_are_unique() {
    for benches in [table::on_cpu(), table::on_cuda()] {
        let mut names = BTreeSet::new();
        for bench in benches {
            let name = format!("{}/{}", bench.group(), bench.name());
            assert!(names.insert(name.clone()), "{name} is there twice");
        }
    }
}

#[test]
fn throughput_is_what_operators_declare() {
    let of = |name: &str| {
        let mut benches = table::on_cpu().into_iter();
        let bench = benches.find(|b| format!("{}/{}", b.group(), b.name()) == name);
        bench.expect("it is in the table").throughput().unwrap()
    };
    let conv = Throughput::Flops(2 * 8 * 56 * 56 * 64 * 64 * 9);
    for variant in ["forward", "input_gradient", "weight_gradient"] {
        let name = format!("conv2d/{variant}/f32/n8_c64_k64_56x56_3x3");
        assert_eq!(of(&name), conv);
    }
    let values = 8 * 64 * 112 * 112;
    assert_eq!(
        of("relu/forward/f32/8x64x112x112"),
        Throughput::Bytes(4 * 2 * values)
    );
    assert_eq!(
        of("relu/backward/f32/8x64x112x112"),
        Throughput::Bytes(4 * 3 * values)
    );
    // 28 bytes a parameter in f32.
    assert_eq!(of("adamw/step/f32/6.4M"), Throughput::Bytes(28 * 6_400_000));
}

#[test]
fn a_filter_is_told_from_options() {
    let has_filter = |arguments: &[&str]| {
        let arguments = arguments.iter().map(|a| (*a).to_owned());
        table::has_filter(arguments)
    };
    assert!(has_filter(&["--bench", "conv2d"]));
    assert!(has_filter(&["--save-baseline", "before", "conv2d"]));
    assert!(!has_filter(&["--bench"]));
    assert!(!has_filter(&["--bench", "--save-baseline", "before"]));
    assert!(!has_filter(&["--save-baseline=before", "--noplot"]));
}
