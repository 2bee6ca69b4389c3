use std::path::Path;

use eosin::DType;
use eosin::formats::{Array, npy};
use half::bf16;

use crate::memory::peak;
use crate::{assert_array, assert_says, fixture, fixture_bytes, ramp, refusal};

#[test]
fn what_numpy_wrote_is_read() {
    let floats = ramp(6);
    for (name, dtype) in [
        ("f4.npy", DType::F32),
        ("f4_fortran.npy", DType::F32),
        ("f8_big_endian.npy", DType::F64),
        ("f8.npy", DType::F64),
        ("f2.npy", DType::F16),
    ] {
        assert_array(&npy::read(fixture(name)).unwrap(), dtype, &[2, 3], &floats);
    }
    let read = |name| npy::read(fixture(name)).unwrap();
    assert_array(&read("fortran_3d.npy"), DType::F32, &[2, 3, 4], &ramp(24));
    assert_array(
        &read("i4.npy"),
        DType::I32,
        &[6],
        &[-2.0, -1.0, 0.0, 1.0, 2.0, 3.0],
    );
    assert_array(&read("i8.npy"), DType::I64, &[], &[7.0]);
    assert_array(
        &read("u1.npy"),
        DType::U8,
        &[6],
        &[250.0, 251.0, 252.0, 253.0, 254.0, 255.0],
    );
    assert_array(&read("b1.npy"), DType::Bool, &[3], &[1.0, 0.0, 1.0]);
}

/// A file of 64 header bytes times n: its header without spaces and optional
/// commas (npyz writes `(2, 3, )` for NumPy's `(2, 3)`), and all else as it is.
fn plain(bytes: &[u8]) -> (&[u8], String, &[u8]) {
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8(bytes[10..end].to_vec()).unwrap();
    (&bytes[..10], header.replace([' ', ','], ""), &bytes[end..])
}

/// For every dtype, and also for zero and one axis.
#[test]
fn what_is_written_is_what_numpy_would_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npy");
    for name in [
        "f4.npy", "f8.npy", "f2.npy", "i4.npy", "i8.npy", "u1.npy", "b1.npy",
    ] {
        let array = npy::read(fixture(name)).unwrap();
        npy::write(&path, &array).unwrap();
        assert_eq!(npy::read(&path).unwrap(), array);
        let (ours, theirs) = (std::fs::read(&path).unwrap(), fixture_bytes(name));
        assert_eq!(plain(&ours), plain(&theirs), "{name}");
    }
    let empty = Array::from_f32(&[0, 3], &[]).unwrap();
    npy::write(&path, &empty).unwrap();
    assert_eq!(npy::read(&path).unwrap(), empty);
}

#[test]
fn what_numpy_does_not_have_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npy");
    let array = Array::from_slice(&[1], &[bf16::ONE]).unwrap();
    assert_says(
        &refusal(npy::write(&path, &array)),
        &["a.npy", "bf16", "safetensors"],
    );
    assert!(!path.exists());
}

#[test]
fn other_dtypes_are_named() {
    let text = refusal(npy::read(fixture("object.npy")));
    assert_says(
        &text,
        &[
            "object.npy",
            "header",
            "Python objects",
            "run code",
            "astype",
        ],
    );
    let text = refusal(npy::read(fixture("complex.npy")));
    assert_says(&text, &["complex.npy", "`<c8`", "astype"]);
}

fn with_header(text: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    bytes
}

#[track_caller]
fn read(bytes: &[u8]) -> eosin::Result<Array> {
    let (array, held) = peak(|| npy::parse(Path::new("x.npy"), bytes));
    assert!(held < 8 * bytes.len() + (16 << 10), "{held} bytes held");
    array
}

#[test]
fn wrong_headers_are_errors() {
    let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n";
    assert!(read(&with_header(good, &[0; 4])).is_ok());
    // Python 2 wrote long integers so, and any order of keys is a dict.
    let python2 = "{\"shape\": (1L, 1L), 'descr': '<f4', 'fortran_order': True}";
    assert!(read(&with_header(python2, &[0; 4])).is_ok());
    for (text, says) in [
        ("", "ends where `{`"),
        ("{}", "lacks `descr`"),
        ("{'descr': '<f4', 'fortran_order': False}", "lacks `shape`"),
        ("{'descr': '<f4', 'descr': '<f4'}", "`descr` is there twice"),
        ("{'descr': '<f4', 'order': 1}", "key `order` is not known"),
        (
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
            "structured",
        ),
        (
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
            "neither True nor False",
        ),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
            "not a number",
        ),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
            "not a number",
        ),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} boo",
            "follows",
        ),
        (
            "{'descr': 'é', 'fortran_order': False, 'shape': (1,)}",
            "dtype `é`",
        ),
        (
            "{'descr': '', 'fortran_order': False, 'shape': (1,)}",
            "dtype ``",
        ),
        (
            "{'descr': '|f4', 'fortran_order': False, 'shape': (1,)}",
            "dtype `|f4`",
        ),
        ("{'descr': '<f4", "does not end"),
    ] {
        let text = refusal(read(&with_header(text, &[0; 4])));
        assert_says(&text, &["x.npy: header: ", says]);
    }
    let deep = "(".repeat(60_000);
    assert!(read(&with_header(&deep, &[])).is_err());
    assert_says(&refusal(read(b"\x93NUMPY\x09\x00")), &["version 9.0"]);
    assert_says(
        &refusal(read(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{")),
        &["ends within its header"],
    );
    assert_says(&refusal(read(b"PNG")), &["does not start as a .npy file"]);
}

#[test]
fn a_claimed_size_is_checked_before_anything_is_allocated() {
    for shape in [
        "(2684354560,)",
        "(51200, 52429)",
        "(1099511627776, 1099511627776)",
        "(0, 18446744073709551615, 18446744073709551615)",
        "(18446744073709551615,)",
    ] {
        for order in ["True", "False"] {
            let header = format!("{{'descr': '<f4', 'fortran_order': {order}, 'shape': {shape}}}");
            let text = refusal(read(&with_header(&header, &[0; 900])));
            assert_says(&text, &["x.npy", "bytes", "but 900 follow", "cut short"]);
        }
    }
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}";
    assert_says(
        &refusal(read(&with_header(header, &[0; 9]))),
        &["takes 8 bytes, but 9 follow"],
    );
}
