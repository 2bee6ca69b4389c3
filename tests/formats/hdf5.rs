//! HDF5 against h5py's files (fixtures/make_hdf5.py), its own, and damaged ones.

use std::path::Path;

use eosin::DType;
use eosin::formats::hdf5::{self, Dataset, File, Group, Kind, Value};
use eosin::formats::inspect::Content;
use eosin::formats::{Array, inspect};

use crate::hostile::Random;
use crate::memory::peak;
use crate::{assert_array, assert_says, fixture, fixture_bytes, ramp, refusal};

fn opened(name: &str) -> File {
    File::open(fixture(name)).unwrap()
}

#[test]
fn every_dtype_of_h5py_is_read() {
    let file = opened("h5py.h5");
    let whole: Vec<f64> = (0..6).map(f64::from).collect();
    for (name, dtype) in [
        ("f2", DType::F16),
        ("f4", DType::F32),
        ("f8", DType::F64),
        ("big_f4", DType::F32),
        ("i1", DType::I32),
        ("i2", DType::I32),
        ("i4", DType::I32),
        ("u2", DType::I32),
        ("i8", DType::I64),
        ("u4", DType::I64),
        ("u8", DType::I64),
        ("u1", DType::U8),
    ] {
        let values = if name.contains('f') {
            ramp(6)
        } else {
            whole.clone()
        };
        let at = format!("numbers/{name}");
        assert_array(&file.array(&at).unwrap(), dtype, &[2, 3], &values);
        assert_array(&file.rows(&at, 1, 1).unwrap(), dtype, &[1, 3], &values[3..]);
    }
    let bools = file.array("numbers/bool").unwrap();
    assert_array(&bools, DType::Bool, &[3], &[1.0, 0.0, 1.0]);
    assert_array(
        &file.array("numbers/scalar").unwrap(),
        DType::F64,
        &[],
        &[2.5],
    );
    assert_array(
        &file.array("numbers/empty").unwrap(),
        DType::F32,
        &[0, 4],
        &[],
    );
}

#[test]
fn chunks_filters_texts_and_attributes_of_h5py_are_read() {
    for name in ["h5py.h5", "v112.h5"] {
        let file = opened(name);
        assert_array(
            &file.array("features").unwrap(),
            DType::F32,
            &[7, 4],
            &ramp(28),
        );
        assert_array(
            &file.rows("features", 3, 2).unwrap(),
            DType::F32,
            &[2, 4],
            &ramp(28)[12..20],
        );
        assert_array(
            &file.rows("features", 7, 0).unwrap(),
            DType::F32,
            &[0, 4],
            &[],
        );
        let facts = file.facts("features").unwrap();
        assert_eq!((facts.kind, facts.packed), (Kind::Number(DType::F32), true));
        assert_eq!(facts.chunks, Some(vec![2, 4]));
    }
    assert_eq!(opened("v112.h5").texts("texts").unwrap(), ["x", "yz"]);
    let file = opened("h5py.h5");
    assert_array(
        &file.array("shuffled").unwrap(),
        DType::F32,
        &[64],
        &ramp(64),
    );
    assert_eq!(
        file.texts("texts/variable").unwrap(),
        ["", "Straße", "TP53"]
    );
    assert_eq!(file.texts("texts/fixed").unwrap(), ["ab", "abc"]);

    let attributes = file.attributes("").unwrap();
    let texts = |all: &[&str]| Value::Texts(all.iter().map(|t| (*t).to_owned()).collect());
    for (name, value) in [
        ("text", Value::Text("two words".to_owned())),
        ("whole", Value::Int(-3)),
        ("real", Value::Float(0.25)),
        ("flag", Value::Int(1)),
        ("sizes", Value::Ints(vec![3, 4])),
        ("names", texts(&["a", "bc"])),
        ("fixed", Value::Text("ascii".to_owned())),
    ] {
        assert_eq!(attributes[name], value, "{name}");
    }
    assert_eq!(
        file.attributes("features").unwrap()["encoder"].as_text(),
        Some("resnet50")
    );
    let names = file.names("").unwrap();
    assert_eq!(names.groups, ["numbers", "texts"]);
    assert_eq!(names.datasets, ["compound", "features", "shuffled"]);
    assert!(file.has_dataset("numbers/f4") && !file.has_dataset("numbers"));
    assert!(file.has_group("numbers") && !file.has_group("nothing"));
}

#[test]
fn what_is_not_there_or_is_something_else_is_named() {
    let file = opened("h5py.h5");
    assert_says(
        &refusal(file.array("nothing")),
        &["h5py.h5", "no dataset `nothing`", "inspect"],
    );
    assert_says(&refusal(file.names("nothing")), &["no group `nothing`"]);
    assert_says(
        &refusal(file.array("texts/fixed")),
        &["`texts/fixed`", "holds text [2]"],
    );
    assert_says(&refusal(file.texts("features")), &["holds f32 [7, 4]"]);
    assert_says(&refusal(file.array("compound")), &["compound"]);
    assert_says(&refusal(file.rows("features", 5, 3)), &["without rows 5"]);
    assert_says(
        &refusal(file.rows("features", usize::MAX, 2)),
        &["without rows"],
    );
    assert_says(
        &refusal(file.rows("numbers/scalar", 0, 1)),
        &["without rows"],
    );
    let other = File::open(fixture("f4.npy")).map(|_| ());
    assert_says(&refusal(other), &["f4.npy", "is not an HDF5 file"]);
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.h5");
    let f32s: Vec<f32> = ramp(2100).iter().map(|&v| v as f32).collect();
    let texts: Vec<String> = ["", "Straße", "TP53"].map(str::to_owned).into();
    let mut inner = Group::new();
    inner
        .attribute("kind", "inner")
        .attribute("order", vec!["a".to_owned()]);
    inner.dataset("i64", Array::from_i64(&[2], &[-1, i64::MAX]).unwrap());
    inner.dataset(
        "f64",
        Array::from_f64(&[1, 2], &[0.1, f64::NEG_INFINITY]).unwrap(),
    );
    let mut root = Group::new();
    root.attribute("none", Vec::<String>::new())
        .attribute("flag", true)
        .attribute("mpp", 0.5);
    let features = Array::from_f32(&[700, 3], &f32s).unwrap();
    root.dataset(
        "features",
        Dataset::from(features.clone())
            .chunked(256)
            .gzip(4)
            .growable(),
    );
    root.dataset(
        "plain",
        Dataset::from(features.clone()).attribute("encoder", "resnet50"),
    );
    let empty = Array::from_f32(&[0, 3], &[]).unwrap();
    root.dataset("empty", Dataset::from(empty.clone()).growable());
    root.dataset("i32", Array::from_slice(&[2], &[i32::MIN, 5]).unwrap());
    root.dataset("u8", Array::from_slice(&[2], &[0u8, 255]).unwrap());
    root.dataset(
        "bool",
        Array::from_bool(&[3], &[true, false, true]).unwrap(),
    );
    root.dataset("texts", texts.clone());
    root.dataset("no_texts", Vec::<String>::new());
    root.dataset("fixed", Dataset::fixed_texts(texts.clone()));
    root.group("inner", inner);
    hdf5::write(&path, &root).unwrap();

    let file = File::open(&path).unwrap();
    assert_eq!(file.array("features").unwrap(), features);
    assert_eq!(
        file.rows("features", 250, 20).unwrap().data,
        features.data[3000..3240]
    );
    assert_eq!(file.facts("features").unwrap().chunks, Some(vec![256, 3]));
    assert_eq!(file.array("plain").unwrap(), features);
    assert_eq!(file.array("empty").unwrap(), empty);
    assert_array(
        &file.array("i32").unwrap(),
        DType::I32,
        &[2],
        &[f64::from(i32::MIN), 5.0],
    );
    assert_array(&file.array("u8").unwrap(), DType::U8, &[2], &[0.0, 255.0]);
    assert_array(
        &file.array("bool").unwrap(),
        DType::Bool,
        &[3],
        &[1.0, 0.0, 1.0],
    );
    assert_eq!(
        file.array("inner/i64").unwrap().to_i64().unwrap(),
        [-1, i64::MAX]
    );
    assert_eq!(
        file.array("inner/f64").unwrap().to_f64(),
        [0.1, f64::NEG_INFINITY]
    );
    assert_eq!(file.texts("texts").unwrap(), texts);
    assert_eq!(file.texts("fixed").unwrap(), texts);
    assert!(file.texts("no_texts").unwrap().is_empty());
    let attributes = file.attributes("").unwrap();
    assert_eq!(attributes["flag"], Value::Int(1));
    assert_eq!(attributes["mpp"].as_float(), Some(0.5));
    let none = attributes
        .get("none")
        .map_or(Some(&[][..]), Value::as_texts);
    assert_eq!(none, Some(&[][..]));
    assert_eq!(
        file.attributes("plain").unwrap()["encoder"].as_text(),
        Some("resnet50")
    );
    assert_eq!(
        file.attributes("inner").unwrap()["order"].as_texts(),
        Some(&["a".to_owned()][..])
    );
    // The same content, the same bytes: the format's time stamps are left out.
    let again = folder.path().join("again.h5");
    hdf5::write(&again, &root).unwrap();
    assert_eq!(
        std::fs::read(&path).unwrap(),
        std::fs::read(&again).unwrap()
    );
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.h5");
    let array = || Array::from_f32(&[1], &[1.0]).unwrap();
    let refused = |root: &Group, parts: &[&str]| {
        assert_says(&refusal(hdf5::write(&path, root)), parts);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    };
    let mut root = Group::new();
    root.dataset("a", array()).dataset("a", array());
    refused(&root, &["out.h5", "\"a\" stands twice"]);
    for name in ["", "a/b", "a\0b", "."] {
        let mut root = Group::new();
        root.dataset(name, array());
        refused(&root, &["member name"]);
    }
    let mut half = array();
    half.dtype = DType::F16;
    half.data = vec![0, 0];
    let mut inner = Group::new();
    inner.dataset("x", half);
    let mut root = Group::new();
    root.group("g", inner);
    refused(&root, &["`g/x`", "dtype f16"]);
}

#[test]
fn files_are_inspected() {
    let found = inspect(fixture("h5py.h5")).unwrap();
    let Some(Content::Tree(tree)) = &found.content else {
        panic!("{found:?}")
    };
    assert!(!tree.more);
    assert_says(
        &found.to_string(),
        &[
            "is          an HDF5 file",
            "/features        f32   [7, 4], chunks [2, 4], packed",
            "encoder = resnet50",
            "/texts/variable  text  [3]",
        ],
    );
    let found = inspect(fixture("csr.h5ad")).unwrap();
    assert_says(
        &found.to_string(),
        &["is          an AnnData object", "/obs/slide/codes"],
    );
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["kind"], "h5ad");
    assert_eq!(
        json["content"]["tree"]["objects"][0]["attributes"]["encoding-type"],
        "anndata"
    );
}

/// Everything that is in the file, or the first error; and the most bytes held.
fn read_all(path: &Path, bytes: Vec<u8>) -> (eosin::Result<usize>, usize) {
    // Counted on the thread that does the work.
    hdf5::contained(path, || {
        Ok(peak(|| walk(&File::parse(path, bytes)?, "", 0)))
    })
    .unwrap()
}

fn walk(file: &File, group: &str, depth: usize) -> eosin::Result<usize> {
    let names = file.names(group)?;
    let inner = |name: &String| match group {
        "" => name.clone(),
        _ => format!("{group}/{name}"),
    };
    let mut values = file.attributes(group)?.len();
    for dataset in names.datasets.iter().map(inner) {
        values += file.attributes(&dataset)?.len();
        values += match file.facts(&dataset)?.kind {
            Kind::Number(_) => file.array(&dataset)?.len(),
            Kind::Text => file.texts(&dataset)?.len(),
            _ => 0,
        };
    }
    for group in names.groups.iter().map(inner).filter(|_| depth < 8) {
        values += walk(file, &group, depth + 1)?;
    }
    Ok(values)
}

/// What a damaged file may hold: what the reader promises of one dataset, beside
/// a few parts of the file.
fn most(bytes: usize) -> usize {
    1032 * bytes + 16 * (1 << 20)
}

#[test]
fn cut_and_turned_bits_neither_panic_nor_take_much_memory() {
    let mut random = Random(20260129);
    for name in ["h5py.h5", "v112.h5", "csc.h5ad"] {
        let path = fixture(name);
        let bytes = fixture_bytes(name);
        let whole = read_all(&path, bytes.clone()).0.unwrap();
        let (mut refused, mut changed) = (0, 0);
        let mut try_one = |damaged: Vec<u8>| {
            let length = damaged.len();
            let (result, held) = read_all(&path, damaged);
            assert!(
                held < most(length),
                "{name}: {held} bytes held for {length}"
            );
            match result {
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains(name) && !text.contains('\n'), "{text}");
                    assert!(!text.contains("panicked"), "{text}");
                    refused += 1;
                }
                Ok(values) => changed += usize::from(values != whole),
            }
        };
        for _ in 0..200 {
            let end = random.below(bytes.len());
            try_one(bytes[..end].to_vec());
        }
        for round in 0..600 {
            let mut damaged = bytes.clone();
            for _ in 0..=round % 4 {
                let at = random.below(damaged.len());
                damaged[at] ^= 1 << random.below(8);
            }
            try_one(damaged);
        }
        eprintln!("{name}: {refused} of 800 refused, {changed} with another number of values");
        assert!(refused > 200);
    }
}

/// A dataset that was never written claims what it likes.
#[test]
fn claims_beyond_the_file_are_refused() {
    let bytes = fixture_bytes("h5py.h5");
    // The extents of `features`, (7, 4) and its chunk (2, 4), as the only 7 in 8 bytes before a 4.
    let extents: Vec<u8> = [7u64, 4].iter().flat_map(|d| d.to_le_bytes()).collect();
    let at = bytes.windows(16).position(|w| w == extents).unwrap();
    let path = fixture("h5py.h5");
    for rows in [1u64 << 24, 1 << 40, u64::MAX / 8, u64::MAX] {
        let mut damaged = bytes.clone();
        damaged[at..at + 8].copy_from_slice(&rows.to_le_bytes());
        let text = hdf5::contained(&path, || {
            let file = File::parse(&path, damaged)?;
            let (result, held) = peak(|| file.array("features"));
            assert!(held < 1 << 20, "{held}");
            Ok(refusal(result))
        });
        assert_says(&text.unwrap(), &["h5py.h5: `features`: "]);
    }
}

/// Panics of the library, and of anything that runs with it, are errors.
#[test]
fn a_panic_is_contained() {
    let path = Path::new("some.h5");
    let result = hdf5::contained::<()>(path, || panic!("a wild\none"));
    assert_says(&refusal(result), &["some.h5", "a wild one"]);
    let nested = hdf5::contained(path, || hdf5::contained(path, || Ok(1)));
    assert_eq!(nested.unwrap(), 1);
}
