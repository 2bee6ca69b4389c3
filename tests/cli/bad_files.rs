//! Weights, arrays, disks and folders that cannot be used, met by `predict`.

use std::fs;
use std::path::Path;
use std::process::Command;

use eosin::formats::{Array, Weights, npy, safetensors};
use tempfile::TempDir;

use crate::support::*;
use crate::torch::{write_attack, write_pth};

/// The keys of an autoencoder 3-2-3.
const WHOLE: [(&str, &[usize]); 4] = [
    ("encoder.0.weight", &[2, 3]),
    ("encoder.0.bias", &[2]),
    ("decoder.0.weight", &[3, 2]),
    ("decoder.0.bias", &[3]),
];

/// A folder with an input of `rows` x 3 and nothing else.
fn bench(rows: usize) -> TempDir {
    let folder = scratch();
    let x = Array::from_f32(&[rows, 3], &vec![0.25; rows * 3]).expect("an array");
    npy::write(folder.path().join("x.npy"), &x).expect("an input");
    folder
}

fn predict(weights: &Path, input: &Path, output: &Path) -> Vec<String> {
    let args = ["predict", "deeppt-autoencoder", "--weights", text(weights)];
    let files = ["--input", text(input), "--output", text(output)];
    args.iter().chain(&files).map(|a| (*a).to_owned()).collect()
}

/// Predicting with the file `name`, which `make` writes, fails in one line with
/// `parts` and leaves no output.
fn refused(name: &str, make: impl FnOnce(&Path), parts: &[&str]) {
    let folder = bench(2);
    let at = |name: &str| folder.path().join(name);
    make(&at(name));
    let before = files(folder.path());
    let bad = at(name);
    let parts = [&[text(&bad)], parts].concat();
    let is_input = name.ends_with(".npy");
    if is_input {
        write_pth(&at("w.pth"), &WHOLE);
        fails(predict(&at("w.pth"), &at(name), &at("y.npy")), &parts);
        fs::remove_file(at("w.pth")).expect("it goes");
    } else {
        fails(predict(&at(name), &at("x.npy"), &at("y.npy")), &parts);
    }
    assert_eq!(files(folder.path()), before);
}

#[test]
fn whole_weights_are_accepted() {
    let folder = bench(2);
    let at = |name: &str| folder.path().join(name);
    write_pth(&at("w.pth"), &WHOLE);
    succeeds(predict(&at("w.pth"), &at("x.npy"), &at("y.npy")));
    // relu(W x + b) by hand: W = [[0, 1, 2], [3, 4, 5]] / 8, b = [0, 1] / 8, x = 1/4.
    let code = npy::read(at("y.npy"))
        .expect("codes")
        .to_f32()
        .expect("f32");
    assert_eq!(code, [3.0 / 32.0, 0.5, 3.0 / 32.0, 0.5]);
}

#[test]
fn a_pth_with_a_missing_key() {
    refused(
        "w.pth",
        |path| write_pth(path, &WHOLE[..3]),
        &["1 key missing (decoder.0.bias)", "eosin inspect"],
    );
}

#[test]
fn a_pth_with_an_extra_key() {
    let more = [&WHOLE[..], &[("fc.weight", &[1, 2])]].concat();
    refused(
        "w.pth",
        |path| write_pth(path, &more),
        &["1 key unexpected (fc.weight)", "eosin inspect"],
    );
}

#[test]
fn a_pth_with_another_shape() {
    let mut other = WHOLE;
    other[2].1 = &[3, 5];
    refused(
        "w.pth",
        |path| write_pth(path, &other),
        &["decoder.0.weight: [3, 5], not [3, 2]", "eosin inspect"],
    );
}

#[test]
fn safetensors_with_a_missing_key() {
    refused(
        "w.safetensors",
        |path| {
            let mut weights = Weights::new();
            let array = Array::from_f32(&[2, 3], &[0.0; 6]).expect("an array");
            weights
                .insert("encoder.0.weight", array)
                .expect("a new key");
            safetensors::write(path, &weights).expect("weights");
        },
        &["3 keys missing (encoder.0.bias", "eosin inspect"],
    );
}

#[test]
fn weights_of_another_network_by_pytorch() {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/fixtures/checkpoint.pth");
    refused(
        "w.pth",
        |path| assert!(fs::copy(fixture, path).expect("a copy") > 0),
        &["missing (encoder.0."],
    );
}

#[test]
fn a_pickle_that_runs_code_runs_nothing() {
    let folder = scratch();
    let marker = folder.path().join("ran");
    let command = format!("touch {}", text(&marker));
    refused(
        "w.pth",
        |path| write_attack(path, &command),
        &["posix", "system"],
    );
    let attack = folder.path().join("attack.pth");
    write_attack(&attack, &command);
    fails(["inspect", text(&attack)], &[text(&attack), "posix"]);
    assert!(!marker.exists(), "the code ran");
}

#[test]
fn an_npy_with_a_wrong_header() {
    let start = |header: &str| {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend([0; 24]);
        bytes
    };
    for header in [
        "{'descr': '<f4', 'fortran_order': False}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3)}\n",
        "{'descr': 'float', 'fortran_order': False, 'shape': (2, 3)}\n",
        "not a header\n",
        "",
    ] {
        refused(
            "bad.npy",
            |path| fs::write(path, start(header)).expect("a file"),
            &[],
        );
    }
    refused(
        "bad.npy",
        |path| fs::write(path, "\x7fNUMPY").expect("a file"),
        &[],
    );
    refused("bad.npy", |path| fs::write(path, "").expect("a file"), &[]);
}

#[test]
fn ten_gigabytes_claimed_by_a_kilobyte() {
    refused(
        "big.npy",
        |path| {
            let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (833333334, 3)}\n";
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend((header.len() as u16).to_le_bytes());
            bytes.extend(header.as_bytes());
            bytes.resize(1024, 0);
            fs::write(path, bytes).expect("a file");
        },
        &["10000000008"],
    );
    refused(
        "big.safetensors",
        |path| {
            let header = r#"{"encoder.0.weight":{"dtype":"F32","shape":[833333334,3],"data_offsets":[0,10000000008]}}"#;
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.resize(1024, 0);
            fs::write(path, bytes).expect("a file");
        },
        &[],
    );
}

/// A small file system of its own, if this machine lets the test make one.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(options: &str) -> Option<Self> {
        let folder = scratch();
        let made = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                options,
                "eosin-test",
                text(folder.path()),
            ])
            .output()
            .is_ok_and(|o| o.status.success());
        if !made {
            eprintln!("skipped: this user cannot mount a small file system");
        }
        made.then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        if !unmounted.is_ok_and(|s| s.success()) {
            eprintln!("{} is still mounted", self.0.path().display());
        }
    }
}

#[test]
fn a_full_disk() {
    let Some(disk) = SmallDisk::new("size=64k") else {
        return;
    };
    let folder = bench(50_000);
    let at = |name: &str| folder.path().join(name);
    write_pth(&at("w.pth"), &WHOLE);
    for name in ["y.npy", "y.safetensors"] {
        let output = disk.0.path().join(name);
        let parts = [text(&output), "No space left", "free some"];
        fails(predict(&at("w.pth"), &at("x.npy"), &output), &parts);
    }
    let entries = fs::read_dir(disk.0.path()).expect("a folder");
    assert_eq!(entries.count(), 0, "something half-written is left");

    let out = disk.0.path().join("cohort");
    let args = [
        "simulate",
        "--slides",
        "14",
        "--tiles",
        "4",
        "--tile-px",
        "128",
    ];
    fails(
        [&args[..], &["--out", text(&out)]].concat(),
        &[text(&out), "No space left"],
    );
    for (name, bytes) in files(&out) {
        assert!(
            name.extension().is_some_and(|e| e == "png"),
            "{} is left",
            name.display()
        );
        assert!(
            bytes.ends_with(b"IEND\xaeB`\x82"),
            "{} is half a tile",
            name.display()
        );
    }
}

#[test]
fn a_read_only_folder() {
    let Some(disk) = SmallDisk::new("size=64k,ro") else {
        return;
    };
    let folder = bench(2);
    let at = |name: &str| folder.path().join(name);
    write_pth(&at("w.pth"), &WHOLE);
    let output = disk.0.path().join("y.npy");
    fails(
        predict(&at("w.pth"), &at("x.npy"), &output),
        &[text(&output), "Read-only"],
    );
    let out = disk.0.path().join("run");
    let config = run_file(folder.path(), &[]);
    fails(train(&config, &out), &[text(&out), "Read-only"]);
}

#[test]
fn a_folder_that_cannot_be() {
    let folder = bench(2);
    let at = |name: &str| folder.path().join(name);
    write_pth(&at("w.pth"), &WHOLE);
    let absent = at("absent").join("y.npy");
    fails(
        predict(&at("w.pth"), &at("x.npy"), &absent),
        &[text(&absent), "No such file"],
    );

    // A file stands where a folder would have to be.
    let config = run_file(folder.path(), &[]);
    let out = at("x.npy").join("run");
    fails(
        train(&config, &out),
        &[text(&out), "Not a directory", "look at the path"],
    );
    let made = [
        "simulate",
        "--slides",
        "14",
        "--tiles",
        "1",
        "--tile-px",
        "64",
        "--out",
    ];
    fails([&made[..], &[text(&out)]].concat(), &[text(&at("x.npy"))]);
}
