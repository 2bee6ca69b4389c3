use std::io::Write;

use eosin::formats::inspect::Content;
use eosin::formats::{Kind, hash, inspect};

use crate::{assert_says, fixture, refusal};

#[test]
fn sha256_is_that_of_the_standard() {
    // FIPS 180-4's examples.
    assert_eq!(
        hash::sha256_bytes(b"abc"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(
        hash::sha256_bytes(b""),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    let bytes = std::fs::read(fixture("zip_p2.pth")).unwrap();
    assert_eq!(
        hash::sha256_file(fixture("zip_p2.pth")).unwrap(),
        hash::sha256_bytes(&bytes)
    );
    assert_says(
        &refusal(hash::sha256_file("no/such")),
        &["cannot open no/such"],
    );
}

#[test]
fn weights_are_listed() {
    for (name, kind) in [
        ("zip_p2.pth", Kind::TorchZip),
        ("legacy.pth", Kind::TorchLegacy),
        ("torch.safetensors", Kind::Safetensors),
    ] {
        let found = inspect(fixture(name)).unwrap();
        assert_eq!(found.kind, kind);
        assert_eq!(found.bytes, std::fs::metadata(fixture(name)).unwrap().len());
        let Some(Content::Weights(weights)) = &found.content else {
            panic!("{found:?}")
        };
        assert_eq!((weights.tensors.len(), weights.parameters), (15, 84));
        let text = found.to_string();
        assert_says(
            &text,
            &[
                "tensors     15",
                "parameters  84",
                "transposed  f32   [6, 4]",
                &found.sha256,
            ],
        );
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(
            json["content"]["weights"]["tensors"]
                .as_array()
                .unwrap()
                .len(),
            15
        );
    }
    let text = inspect(fixture("checkpoint.pth")).unwrap().to_string();
    assert_says(
        &text,
        &["metadata    torch.wrapper: state_dict", "epoch = 3"],
    );
    assert!(inspect(fixture("whole_model.pth")).is_err());
}

#[test]
fn arrays_are_summed_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npy");
    let array = eosin::formats::Array::from_f32(&[2, 2], &[1.0, f32::NAN, -3.0, 5.0]).unwrap();
    eosin::formats::npy::write(&path, &array).unwrap();
    let found = inspect(&path).unwrap();
    let Some(Content::Array(facts)) = &found.content else {
        panic!("{found:?}")
    };
    assert_eq!(
        (facts.min, facts.max, facts.mean, facts.nan),
        (Some(-3.0), Some(5.0), Some(1.0), 1)
    );
    assert_says(
        &found.to_string(),
        &[
            "a NumPy array",
            "f32 [2, 2]",
            "-3 to 5, mean 1",
            "NaN         1",
        ],
    );
}

#[test]
fn tables_are_counted_packed_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let csv = "sample,TP53,\"A,B\"\ns1,1,2.5\ns2,NA,x\ns3,,3\ns4,1\n";
    // As R writes it: no cell above the names of the rows.
    let tsv = "TP53\tMYC\ns1\t1\t2\ns2\t3\t4\n";
    let gz = |text: &str| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap()
    };
    for (name, bytes, packed) in [
        ("t.csv", csv.as_bytes().to_vec(), false),
        ("t.csv.gz", gz(csv), true),
        ("odd", gz(csv), true),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let found = inspect(&path).unwrap();
        assert_eq!((found.kind, found.gzip), (Kind::Csv, packed));
        let Some(Content::Table(t)) = &found.content else {
            panic!("{found:?}")
        };
        assert_eq!(
            (t.rows, t.columns, t.missing, t.non_numeric, t.ragged),
            (4, 3, 2, 1, 1)
        );
        assert_eq!(t.first_columns, ["sample", "TP53", "A,B"]);
        assert_eq!(t.first_rows, ["s1", "s2", "s3", "s4"]);
        assert_says(
            &found.to_string(),
            &["4 rows x 3 columns", "missing     2 cells", "ragged      1"],
        );
    }
    let path = folder.path().join("t.txt");
    std::fs::write(&path, tsv).unwrap();
    let found = inspect(&path).unwrap();
    let Some(Content::Table(t)) = &found.content else {
        panic!("{found:?}")
    };
    assert_eq!(
        (found.kind, t.rows, t.columns, t.ragged),
        (Kind::Tsv, 2, 3, 0)
    );

    let path = folder.path().join("cut.tsv.gz");
    let packed = gz(&tsv.repeat(1000));
    std::fs::write(&path, &packed[..packed.len() - 20]).unwrap();
    assert_says(&refusal(inspect(&path)), &["cut.tsv.gz"]);
    // One record of 200 MB in 200 kB.
    let path = folder.path().join("bomb.csv.gz");
    std::fs::write(&path, gz(&format!("a,b\n1,\"{}", "0".repeat(200_000_000)))).unwrap();
    let (result, held) = crate::memory::peak(|| inspect(&path));
    assert_says(&refusal(result), &["bomb.csv.gz", "line", "64 MiB"]);
    assert!(held < 256 << 20, "{held}");
}

#[test]
fn images_are_measured_without_decoding() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\x01\x00\x00\x00\x00\xe0\x08\x02\x00\x00\x00";
    // An application segment, a fill byte, then a progressive frame header.
    let jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc2\x00\x11\x08\x00\xe0\x01\x00\x03";
    for (bytes, kind) in [(&png[..], Kind::Png), (jpeg, Kind::Jpeg)] {
        std::fs::write(&path, bytes).unwrap();
        let found = inspect(&path).unwrap();
        assert_eq!(
            (found.kind, found.content),
            (
                kind,
                Some(Content::Image {
                    width: 256,
                    height: 224
                })
            )
        );
        for end in 8..bytes.len().min(18) {
            std::fs::write(&path, &bytes[..end]).unwrap();
            assert_says(&refusal(inspect(&path)), &["image"]);
        }
    }
}

#[test]
fn other_kinds_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, kind) in [
        ("a", &b"{\"a\": [1, 2]}"[..], Kind::Json),
        ("b", b"[run]\nseed = 1\n", Kind::Toml),
        ("c", b"just a sentence\nand another\n", Kind::Unknown),
        ("d", b"\x00\x01\x02\x03", Kind::Unknown),
        ("e", b"", Kind::Empty),
        ("f", b"PK\x05\x06", Kind::Zip),
        ("g", b"\x80\x04K\x01.", Kind::Pickle),
        ("h.tsv", b"gene\nTP53\n", Kind::Tsv),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(inspect(&path).unwrap().kind, kind, "{name}");
    }
    // Nesting that would exhaust a recursive parser.
    for (name, text) in [
        ("deep.json", "[".repeat(200_000)),
        ("deep.toml", format!("a = {}", "[".repeat(200_000))),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        inspect(&path).unwrap();
    }
    assert_says(&refusal(inspect(folder.path())), &["not a regular file"]);
}
