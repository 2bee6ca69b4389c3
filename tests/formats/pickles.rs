//! Pickles written by hand, as no honest program would.

use std::io::{Cursor, Write};
use std::path::Path;

use eosin::DType;
use eosin::formats::{Weights, parse_weights};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::memory::peak;
use crate::{assert_array, assert_says, refusal};

/// An archive as torch.save lays it out.
pub fn archive(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, data) in entries {
        zip.start_file(format!("archive/{name}"), options).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn torch(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    archive(
        &[("data.pkl", pickle), ("data/0", storage)],
        CompressionMethod::Stored,
    )
}

#[track_caller]
fn read(bytes: &[u8]) -> eosin::Result<Weights> {
    let (weights, held) = peak(|| parse_weights(Path::new("x.pth"), bytes));
    assert!(
        held < 160 * bytes.len() + (1 << 20),
        "{held} bytes held for {}",
        bytes.len()
    );
    weights
}

fn global(name: &str) -> Vec<u8> {
    let (module, name) = name.rsplit_once('.').unwrap();
    format!("c{module}\n{name}\n").into_bytes()
}

fn text(s: &str) -> Vec<u8> {
    [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat()
}

fn long(n: u64) -> Vec<u8> {
    [&[0x8a, 9][..], &n.to_le_bytes(), &[0]].concat()
}

fn int(n: u64) -> Vec<u8> {
    if n < 1 << 63 {
        [&[0x8a, 8][..], &n.to_le_bytes()].concat()
    } else {
        long(n)
    }
}

fn tuple(items: &[u64]) -> Vec<u8> {
    let mut bytes = b"(".to_vec();
    items.iter().for_each(|&n| bytes.extend(int(n)));
    bytes.push(b't');
    bytes
}

fn storage(class: &str, len: u64) -> Vec<u8> {
    [
        b"(".to_vec(),
        text("storage"),
        global(&format!("torch.{class}")),
        text("0"),
        text("cpu"),
        int(len),
        b"tQ".to_vec(),
    ]
    .concat()
}

fn tensor(class: &str, len: u64, offset: u64, shape: &[u64], strides: &[u64]) -> Vec<u8> {
    [
        global("torch._utils._rebuild_tensor_v2"),
        b"(".to_vec(),
        storage(class, len),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89}tR".to_vec(),
    ]
    .concat()
}

/// `{"w": <tensor>}`
fn state(tensor: &[u8]) -> Vec<u8> {
    [b"\x80\x02}", &text("w")[..], tensor, b"s."].concat()
}

fn floats(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

#[test]
fn the_hand_written_pickle_is_a_sound_one() {
    let pickle = state(&tensor("FloatStorage", 6, 1, &[2, 2], &[3, 1]));
    let weights = read(&torch(&pickle, &floats(6))).unwrap();
    assert_array(
        weights.get("w").unwrap(),
        DType::F32,
        &[2, 2],
        &[1.0, 2.0, 4.0, 5.0],
    );
}

/// The stride of an axis of one element is never used, and PyTorch does not care what it is.
#[test]
fn a_wild_stride_of_one_element_is_harmless() {
    let strides = [2, u64::MAX / 2, 0];
    let pickle = state(&tensor("FloatStorage", 6, 1, &[3, 1, 1], &strides));
    let weights = read(&torch(&pickle, &floats(6))).unwrap();
    assert_array(
        weights.get("w").unwrap(),
        DType::F32,
        &[3, 1, 1],
        &[1.0, 3.0, 5.0],
    );
}

#[test]
fn code_is_refused_and_named() {
    let mut refused = vec![
        "os.system",
        "posix.system",
        "nt.system",
        "builtins.eval",
        "builtins.exec",
        "builtins.getattr",
        "builtins.__import__",
        "__builtin__.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.storage._load_from_bytes",
        "torch.hub.load",
        "torch._utils._rebuild_qtensor",
        "numpy.load",
        "numpy.core.multiarray.fromfile",
        "collections.namedtuple",
        "torch.os.system",
    ];
    refused.push("importlib.import_module");
    for name in refused {
        let call = [text("touch /tmp/owned"), b"\x85R".to_vec()].concat();
        // Called with GLOBAL, called with STACK_GLOBAL, and only named.
        let (module, function) = name.rsplit_once('.').unwrap();
        for pickle in [
            [
                b"\x80\x02".to_vec(),
                global(name),
                call.clone(),
                b".".to_vec(),
            ]
            .concat(),
            [
                b"\x80\x04".to_vec(),
                text(module),
                text(function),
                b"\x93".to_vec(),
                call.clone(),
                b".".to_vec(),
            ]
            .concat(),
            [b"\x80\x02".to_vec(), global(name), b".".to_vec()].concat(),
        ] {
            let text = refusal(read(&torch(&pickle, &[])));
            assert_says(
                &text,
                &[
                    "x.pth: data.pkl, byte ",
                    &format!("asks for `{name}`: refused"),
                    "state_dict()",
                ],
            );
        }
    }
    // Opcodes that import or call by other ways.
    for (opcode, bytes) in [
        (0x69, &b"ios\nsystem\n."[..]),
        (0x6f, b"(o."),
        (0x82, b"\x82\x01."),
        (0x50, b"Pid\n."),
    ] {
        let text = refusal(read(&torch(bytes, &[])));
        assert_says(&text, &[&format!("opcode 0x{opcode:02x}")]);
    }
    // A name is shown without what it might do to a terminal.
    let text = refusal(read(&torch(b"\x80\x02cos\x1b[2J\nsystem\n.", &[])));
    assert!(!text.contains('\x1b'), "{text}");
    // An allowed name in a place that would call its result.
    let pickle = [
        b"\x80\x02".to_vec(),
        global("numpy.dtype"),
        b")R)R.".to_vec(),
    ]
    .concat();
    assert_says(&refusal(read(&torch(&pickle, &[]))), &["not a function"]);
}

/// Elements in the storage, offset, shape, strides, and what the error says.
type Refused = (u64, u64, &'static [u64], &'static [u64], &'static str);

#[test]
fn views_are_checked_against_their_storage() {
    let cases: &[Refused] = &[
        (6, 0, &[7], &[1], "reaches beyond"),
        (6, 3, &[4], &[1], "reaches beyond"),
        (6, 0, &[2, 2], &[5, 1], "reaches beyond"),
        (6, 1 << 62, &[1], &[1], "reaches beyond"),
        (6, u64::MAX / 2, &[2], &[u64::MAX / 2], "reaches beyond"),
        (6, 0, &[1 << 33, 1 << 33], &[0, 0], "overflows"),
        (6, 0, &[0, 1 << 40, 1 << 40], &[1, 1, 1], "overflows"),
        (6, 0, &[2_684_354_560], &[0], "times the file"),
        (
            2_684_354_560,
            0,
            &[2_684_354_560],
            &[1],
            "claims 2684354560 elements",
        ),
        (5, 0, &[5], &[1], "claims 5 elements"),
        (1 << 62, 0, &[1], &[1], "claims"),
    ];
    for &(len, offset, shape, strides, says) in cases {
        let pickle = state(&tensor("FloatStorage", len, offset, shape, strides));
        let text = refusal(read(&torch(&pickle, &floats(6))));
        assert_says(&text, &["x.pth: key `w`: ", says]);
    }
    for (shape, strides, says) in [
        (&[1u64 << 63][..], &[1u64][..], "not a whole number"),
        (&[u64::MAX], &[1], "not a whole number"),
        (&[1, 1], &[1], "differ in length"),
        (&[1; 65], &[1; 65], "more than 64 axes"),
    ] {
        let pickle = state(&tensor("FloatStorage", 6, 0, shape, strides));
        assert_says(
            &refusal(read(&torch(&pickle, &floats(6)))),
            &["data.pkl, byte", says],
        );
    }
    // Minus one, as a signed integer.
    let minus = [
        b"\x80\x02}".to_vec(),
        text("w"),
        global("torch._utils._rebuild_tensor_v2"),
        b"(".to_vec(),
        storage("FloatStorage", 6),
        b"J\xff\xff\xff\xff".to_vec(),
        tuple(&[1]),
        tuple(&[1]),
        b"\x89}tRs.".to_vec(),
    ]
    .concat();
    assert_says(
        &refusal(read(&torch(&minus, &floats(6)))),
        &["-1 stands where a size"],
    );
    let bools = state(&tensor("BoolStorage", 2, 0, &[2], &[1]));
    assert_says(
        &refusal(read(&torch(&bools, &[1, 9]))),
        &["key `w`", "bool is stored as 9"],
    );
}

#[test]
fn big_endian_storages_are_turned_round() {
    let pickle = state(&tensor("FloatStorage", 2, 0, &[2], &[1]));
    let storage: Vec<u8> = [1.5f32, -2.0]
        .iter()
        .flat_map(|v| v.to_be_bytes())
        .collect();
    let file = |order: &[u8]| {
        archive(
            &[
                ("data.pkl", &pickle),
                ("byteorder", order),
                ("data/0", &storage),
            ],
            CompressionMethod::Stored,
        )
    };
    let weights = read(&file(b"big")).unwrap();
    assert_array(weights.get("w").unwrap(), DType::F32, &[2], &[1.5, -2.0]);
    assert_says(&refusal(read(&file(b"middle"))), &["byteorder", "`middle`"]);
}

#[test]
fn nesting_and_sharing_are_bounded() {
    let n = 200_000;
    // Lists, tuples and dicts nested far deeper than any stack.
    let lists = [
        b"\x80\x02".to_vec(),
        b"]".repeat(n),
        b"a".repeat(n - 1),
        b".".to_vec(),
    ]
    .concat();
    assert_says(
        &refusal(read(&torch(&lists, &[]))),
        &["nested more than 32 deep"],
    );
    let tuples = [b"\x80\x02)".to_vec(), b"\x85".repeat(n), b".".to_vec()].concat();
    assert_says(
        &refusal(read(&torch(&tuples, &[]))),
        &["nested more than 32 deep"],
    );
    let dicts = [
        b"\x80\x02".to_vec(),
        b"}X\x01\x00\x00\x00a".repeat(n),
        b"N".to_vec(),
        b"s".repeat(n),
        b".".to_vec(),
    ]
    .concat();
    assert_says(
        &refusal(read(&torch(&dicts, &[]))),
        &["nested more than 32 deep"],
    );
    // A list and a dict that hold themselves.
    let own = b"\x80\x02]q\x00h\x00a.";
    assert_says(
        &refusal(read(&torch(own, &[]))),
        &["nested more than 32 deep"],
    );
    for key in ["a", "model"] {
        let own = [b"\x80\x02}q\x00".to_vec(), text(key), b"h\x00s.".to_vec()].concat();
        assert_says(
            &refusal(read(&torch(&own, &[]))),
            &["nested more than 32 deep"],
        );
    }
    // Each level holds the one below ten times: 10^30 leaves in some hundred bytes.
    let mut laughs = b"\x80\x02]".to_vec();
    for level in 0..30u8 {
        laughs.extend([b'q', level, b']', b'(']);
        laughs.extend([b'h', level].repeat(10));
        laughs.push(b'e');
    }
    laughs.push(b'.');
    assert_says(&refusal(read(&torch(&laughs, &[]))), &["too many times"]);
    // The same long name given to many tensors by way of the memo.
    let key = "k".repeat(1000);
    let mut names = [
        b"\x80\x02".to_vec(),
        tensor("FloatStorage", 1, 0, &[1], &[1]),
        b"q\x000".to_vec(),
        text(&key),
        b"q\x010".to_vec(),
    ]
    .concat();
    names.extend(b"](");
    for _ in 0..20_000 {
        names.extend(b"}h\x01h\x00s");
    }
    names.extend(b"e.");
    assert_says(
        &refusal(read(&torch(&names, &floats(1)))),
        &["times the file"],
    );
    // A stack that was once large, then many small tuples; and one list made into many dicts.
    let tuples = [
        b"\x80\x02".to_vec(),
        b"N".repeat(n),
        b"0".repeat(n),
        b"(t".repeat(n),
        b".".to_vec(),
    ]
    .concat();
    assert_says(&refusal(read(&torch(&tuples, &[]))), &["holds no tensor"]);
    let mut dicts = [b"\x80\x02](".to_vec(), b"NN\x86".repeat(10_000)].concat();
    dicts.extend(b"eq\x00");
    for _ in 0..10_000 {
        dicts.extend(global("collections.OrderedDict"));
        dicts.extend(b"h\x00\x85R");
    }
    dicts.push(b'.');
    assert_says(&refusal(read(&torch(&dicts, &[]))), &["too many times"]);
    // A memo index, a string and a mark that are not there.
    for pickle in [
        &b"\x80\x02]r\xff\xff\xff\xff."[..],
        b"\x80\x02X\xff\xff\xff\xffa.",
        b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.",
        b"\x80\x02t.",
        b"\x80\x02(0.",
        b"\x80\x02(].0",
        b"\x80\x02h\x07.",
        b"\x80\x02",
        b"",
        b"\x80\x09.",
        b"\x80\x02}(Nu.",
        b"\x80\x02Ns.",
        b"\x80\x020.",
    ] {
        assert!(read(&torch(pickle, &[])).is_err(), "{pickle:?}");
    }
}

#[test]
fn storages_and_archives_are_checked() {
    let sound = state(&tensor("FloatStorage", 1, 0, &[1], &[1]));
    let text = refusal(read(&archive(
        &[("data.pkl", &sound)],
        CompressionMethod::Stored,
    )));
    assert_says(&text, &["entry archive/data/0", "missing"]);
    let twice = [
        b"\x80\x02}".to_vec(),
        b"(".to_vec(),
        crate::pickles::text("w"),
        tensor("FloatStorage", 1, 0, &[1], &[1]),
        crate::pickles::text("w"),
        tensor("FloatStorage", 1, 0, &[1], &[1]),
        b"u.".to_vec(),
    ]
    .concat();
    assert_says(
        &refusal(read(&torch(&twice, &floats(1)))),
        &["two tensors are called `w`"],
    );
    assert_says(
        &refusal(read(&torch(b"\x80\x02}.", &[]))),
        &["holds no tensor"],
    );
    let text = refusal(read(&archive(
        &[("other.txt", b"")],
        CompressionMethod::Stored,
    )));
    assert_says(&text, &["0 entries called <name>/data.pkl"]);
}

#[test]
fn compressed_archives_are_read_within_a_bound() {
    let pickle = state(&tensor("FloatStorage", 64, 0, &[64], &[1]));
    let entries: [(&str, &[u8]); 2] = [("data.pkl", &pickle), ("data/0", &floats(64))];
    let weights = read(&archive(&entries, CompressionMethod::Deflated)).unwrap();
    assert_eq!(weights.get("w").unwrap().len(), 64);
    // 40 MB of zeros in some 40 kB.
    let n = 10_000_000;
    let pickle = state(&tensor("FloatStorage", n as u64, 0, &[n as u64], &[1]));
    let zeros = vec![0; n * 4];
    let bomb = archive(
        &[("data.pkl", &pickle), ("data/0", &zeros)],
        CompressionMethod::Deflated,
    );
    assert!(bomb.len() < 100_000);
    let text = refusal(read(&bomb));
    assert_says(
        &text,
        &["entry archive/data/0", "more than 8 times the file"],
    );
    let pickles = archive(&[("data.pkl", &zeros)], CompressionMethod::Deflated);
    assert_says(
        &refusal(read(&pickles)),
        &["entry archive/data.pkl", "more than 8 times the file"],
    );
}

const LEGACY: &[u8] =
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";

fn legacy(object: &[u8], count: u64, data: &[u8]) -> Vec<u8> {
    let keys = [b"\x80\x02]".to_vec(), text("0"), b"a.".to_vec()].concat();
    [LEGACY, object, &keys, &count.to_le_bytes(), data].concat()
}

/// The legacy format could say that a storage is a part of another.
#[test]
fn legacy_views_of_storages() {
    let object = |view_offset: u64, view_len: u64, offset: u64| {
        let view = [
            b"(".to_vec(),
            text("v"),
            int(view_offset),
            int(view_len),
            b"t".to_vec(),
        ]
        .concat();
        let id = [
            b"(".to_vec(),
            text("storage"),
            global("torch.FloatStorage"),
            text("0"),
            text("cpu"),
            int(6),
            view,
            b"tQ".to_vec(),
        ]
        .concat();
        state(
            &[
                global("torch._utils._rebuild_tensor"),
                b"(".to_vec(),
                id,
                int(offset),
                tuple(&[2]),
                tuple(&[1]),
                b"tR".to_vec(),
            ]
            .concat(),
        )
    };
    let weights = read(&legacy(&object(2, 3, 1), 6, &floats(6))).unwrap();
    assert_array(weights.get("w").unwrap(), DType::F32, &[2], &[3.0, 4.0]);
    // Beyond the view, though not beyond the storage; and a view beyond the storage.
    assert_says(
        &refusal(read(&legacy(&object(2, 3, 2), 6, &floats(6)))),
        &["key `w`", "reaches beyond"],
    );
    assert_says(
        &refusal(read(&legacy(&object(4, 3, 0), 6, &floats(6)))),
        &["key `w`", "reaches beyond"],
    );
    assert!(read(&legacy(&object(1 << 62, 1 << 62, 0), 6, &floats(6))).is_err());
}

#[test]
fn legacy_storages_are_checked_against_the_file() {
    let object = state(&tensor("FloatStorage", 6, 0, &[6], &[1]));
    assert!(read(&legacy(&object, 6, &floats(6))).is_ok());
    for count in [7, 2_684_354_560, 1 << 62, u64::MAX] {
        let text = refusal(read(&legacy(&object, count, &floats(6))));
        assert_says(
            &text,
            &[&format!("claims {count} elements, but 24 bytes follow")],
        );
    }
    assert_says(
        &refusal(read(&legacy(&object, 5, &floats(6)))),
        &["key `w`", "claims 6 elements"],
    );
    let code = [
        b"\x80\x02".to_vec(),
        global("os.system"),
        text("true"),
        b"\x85R.".to_vec(),
    ]
    .concat();
    assert_says(
        &refusal(read(&legacy(&code, 6, &floats(6)))),
        &["object, byte ", "`os.system`: refused"],
    );
    let mut wrong = legacy(&object, 6, &floats(6));
    wrong[13] ^= 1;
    assert_says(&refusal(read(&wrong)), &["magic number"]);
    assert_says(
        &refusal(read(b"\x80\x02}.")),
        &["not a weights file", "a Python pickle"],
    );
}
