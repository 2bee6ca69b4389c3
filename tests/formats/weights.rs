use std::path::Path;

use eosin::DType;
use eosin::formats::{Array, Weights, inspect, parse_weights, read_weights, safetensors};

use crate::{assert_array, assert_says, fixture, fixture_bytes, ramp, refusal};

fn read(name: &str) -> Weights {
    read_weights(fixture(name)).unwrap()
}

/// What every_dtype() of make.py holds, in its order.
fn assert_every_dtype(weights: &Weights) {
    let picked = |indices: &[usize]| -> Vec<f64> {
        indices.iter().map(|&i| i as f64 * 0.25 - 1.0).collect()
    };
    let transposed: Vec<usize> = (0..6)
        .flat_map(|c| (0..4).map(move |r| r * 6 + c))
        .collect();
    let expected: [(&str, DType, &[usize], Vec<f64>); 15] = [
        ("f32", DType::F32, &[2, 3], ramp(6)),
        ("f64", DType::F64, &[3], ramp(3)),
        ("f16", DType::F16, &[2, 2], ramp(4)),
        ("bf16", DType::BF16, &[5], ramp(5)),
        ("i32", DType::I32, &[4], vec![-2.0, -1.0, 0.0, 1.0]),
        ("i64", DType::I64, &[], vec![7.0]),
        (
            "u8",
            DType::U8,
            &[6],
            vec![250.0, 251.0, 252.0, 253.0, 254.0, 255.0],
        ),
        ("bool", DType::Bool, &[3], vec![1.0, 0.0, 1.0]),
        ("empty", DType::F32, &[0, 3], vec![]),
        ("parameter", DType::F32, &[2, 2], ramp(4)),
        ("transposed", DType::F32, &[6, 4], picked(&transposed)),
        (
            "slice",
            DType::F32,
            &[2, 3],
            picked(&[8, 9, 10, 14, 15, 16]),
        ),
        ("low", DType::F32, &[3], picked(&[0, 1, 2])),
        ("high", DType::F32, &[3], picked(&[3, 4, 5])),
        ("expanded", DType::F32, &[4, 3], ramp(3).repeat(4)),
    ];
    assert_eq!(weights.len(), expected.len());
    for (name, dtype, shape, values) in &expected {
        assert_array(weights.get(name).expect(name), *dtype, shape, values);
    }
}

#[test]
fn every_dtype_and_view_in_every_format_of_pytorch() {
    let order = read("zip_p2.pth");
    let order: Vec<&str> = order.names().collect();
    assert_eq!(order[..3], ["f32", "f64", "f16"]);
    for name in ["zip_p2.pth", "zip_p4.pth", "zip_p5.pth", "legacy.pth"] {
        let weights = read(name);
        assert_every_dtype(&weights);
        assert_eq!(weights.names().collect::<Vec<_>>(), order);
        assert!(weights.metadata.is_empty(), "{:?}", weights.metadata);
    }
}

#[test]
fn safetensors_of_pytorch() {
    let weights = read("torch.safetensors");
    assert_every_dtype(&weights);
    assert_eq!(weights.metadata["format"], "pt");
    let text = refusal(read_weights(fixture("float8.safetensors")));
    assert_says(
        &text,
        &["float8.safetensors", "key `tiny`", "F8_E4M3", "convert"],
    );
}

#[test]
fn the_kind_is_told_by_the_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.npy");
    for name in ["zip_p2.pth", "legacy.pth", "torch.safetensors"] {
        std::fs::write(&path, fixture_bytes(name)).unwrap();
        assert_every_dtype(&read_weights(&path).unwrap());
    }
    let text = refusal(read_weights(fixture("f4.npy")));
    assert_says(
        &text,
        &[
            "f4.npy",
            "not a weights file",
            "NumPy array",
            ".safetensors",
        ],
    );
    std::fs::write(&path, b"").unwrap();
    assert_says(&refusal(read_weights(&path)), &["an empty file"]);
    assert_says(
        &refusal(read_weights(folder.path())),
        &["not a regular file"],
    );
    assert_says(
        &refusal(read_weights("no/such.pth")),
        &["cannot open no/such.pth"],
    );
}

const MODULE: [(&str, &[usize]); 7] = [
    ("0.weight", &[2, 3]),
    ("0.bias", &[2]),
    ("1.weight", &[2]),
    ("1.bias", &[2]),
    ("1.running_mean", &[2]),
    ("1.running_var", &[2]),
    ("1.num_batches_tracked", &[]),
];

fn assert_module(weights: &Weights) {
    assert_eq!(
        weights.names().collect::<Vec<_>>(),
        MODULE.map(|(name, _)| name)
    );
    for (name, shape) in MODULE {
        let dtype = if shape.is_empty() {
            DType::I64
        } else {
            DType::F32
        };
        let values = ramp(shape.iter().product());
        assert_array(weights.get(name).unwrap(), dtype, shape, &values);
    }
}

#[test]
fn a_state_dict_is_found_in_a_checkpoint() {
    assert_module(&read("module.pth"));

    let weights = read("checkpoint.pth");
    assert_module(&weights);
    assert_eq!(weights.metadata["torch.wrapper"], "state_dict");
    assert_eq!(
        weights.metadata["torch.ignored"],
        "epoch = 3, note = \"ramp\", best = scalar, curve = _reconstruct, optimizer = dict of 2"
    );

    let weights = read("checkpoint_legacy.pth");
    assert_module(&weights);
    assert_eq!(weights.metadata["torch.wrapper"], "model");
    assert_eq!(weights.metadata["torch.ignored"], "epoch = 3");
}

#[test]
fn the_prefix_of_data_parallel_is_removed_and_said() {
    let weights = read("data_parallel.pth");
    assert_module(&weights);
    assert_eq!(weights.metadata["torch.stripped_prefix"], "module.");
}

#[test]
fn nested_dicts_are_flattened() {
    let weights = read("nested.pth");
    let names: Vec<&str> = weights.names().collect();
    assert_eq!(
        names,
        [
            "encoder.weight",
            "decoder.weight",
            "decoder.layers.0",
            "decoder.layers.1"
        ]
    );
    assert_array(
        weights.get("decoder.layers.1").unwrap(),
        DType::F32,
        &[2],
        &ramp(2),
    );
    assert_eq!(weights.metadata["torch.ignored"], "step = 5");

    let weights = read("tensor.pth");
    assert_array(
        weights.get("tensor").unwrap(),
        DType::F32,
        &[2, 3],
        &ramp(6),
    );
    assert_array(
        read("tagged.pth").get("tagged").unwrap(),
        DType::F32,
        &[2, 2],
        &ramp(4),
    );
}

#[test]
fn what_is_no_state_dict_is_refused_by_name() {
    let text = refusal(read_weights(fixture("whole_model.pth")));
    assert_says(
        &text,
        &[
            "whole_model.pth",
            "data.pkl, byte ",
            "`torch.nn.modules.container.Sequential`",
            "state_dict()",
        ],
    );
    let text = refusal(read_weights(fixture("complex.pth")));
    assert_says(
        &text,
        &["complex.pth", "key `spectrum`", "ComplexFloatStorage"],
    );
    let text = refusal(read_weights(fixture("uint16.pth")));
    assert_says(&text, &["uint16.pth", "key `wide`", "uint16"]);
    let text = refusal(read_weights(fixture("script.pt")));
    assert_says(&text, &["script.pt", "TorchScript", "state_dict()"]);
}

#[test]
fn safetensors_come_back_and_are_the_same_bytes_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let mut weights = read("zip_p2.pth");
    for n in 0..20 {
        weights
            .metadata
            .insert(format!("key {n}"), "é \"quoted\"\n".to_owned());
    }
    safetensors::write(&path, &weights).unwrap();
    let first = std::fs::read(&path).unwrap();
    let back = read_weights(&path).unwrap();
    assert_every_dtype(&back);
    assert_eq!(back.metadata.len(), 21);
    assert_eq!(back.metadata["format"], "pt");
    assert_eq!(back.metadata["key 3"], "é \"quoted\"\n");
    safetensors::write(&path, &weights.clone()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);
    // The reference reader agrees, and every tensor is aligned.
    let theirs = ::safetensors::SafeTensors::deserialize(&first).unwrap();
    assert_eq!(theirs.len(), weights.len());
    for (name, view) in theirs.iter() {
        let array = weights.get(name).unwrap();
        assert_eq!(
            (view.shape(), view.data()),
            (&array.shape[..], &array.data[..])
        );
        let start = view.data().as_ptr() as usize - first.as_ptr() as usize;
        assert_eq!(start % array.dtype.size(), 0, "{name}");
    }
}

#[test]
fn a_reserved_name_or_a_broken_array_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let array = Array::from_f32(&[1], &[1.0]).unwrap();
    let mut weights = Weights::new();
    weights.insert("__metadata__", array.clone()).unwrap();
    assert_says(
        &refusal(safetensors::write(&path, &weights)),
        &["__metadata__"],
    );
    let mut weights = Weights::new();
    weights
        .insert(
            "a",
            Array {
                shape: vec![2],
                ..array
            },
        )
        .unwrap();
    assert_says(
        &refusal(safetensors::write(&path, &weights)),
        &["`a`", "8 bytes"],
    );
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[test]
fn golden_data_is_read() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/deeppt_predict.safetensors");
    let weights = read_weights(&path).unwrap();
    assert!(!weights.is_empty());
    let text = inspect(&path).unwrap().to_string();
    assert_says(&text, &["safetensors weights", "tensors", "parameters"]);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(parse_weights(&path, &bytes).unwrap(), weights);
}
