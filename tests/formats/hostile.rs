//! Damage to sound files: cut at every byte, and bits turned over.
//!
//! Whatever comes of it, there is no panic, and memory stays within what the
//! file could hold. Run it with overflow checks too (`cargo test` without
//! `--release`).

use std::path::Path;

use eosin::formats::{npy, parse_weights};

use crate::memory::peak;
use crate::{assert_says, fixture_bytes, refusal};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

const WEIGHTS: [&str; 6] = [
    "legacy.pth",
    "zip_p2.pth",
    "zip_p5.pth",
    "nested.pth",
    "checkpoint_legacy.pth",
    "torch.safetensors",
];
const ARRAYS: [&str; 4] = ["f4.npy", "fortran_3d.npy", "f8_big_endian.npy", "b1.npy"];

/// Reads as the kind that the fixture is; gives what was read for comparison.
#[track_caller]
fn read(name: &str, bytes: &[u8]) -> eosin::Result<Box<dyn std::any::Any>> {
    let path = Path::new(name);
    let (result, held) = peak(|| -> eosin::Result<Box<dyn std::any::Any>> {
        if name.ends_with(".npy") {
            Ok(Box::new(npy::parse(path, bytes)?))
        } else {
            Ok(Box::new(parse_weights(path, bytes)?))
        }
    });
    assert!(
        held < 64 * bytes.len() + (1 << 20),
        "{name}: {held} bytes held for {}",
        bytes.len()
    );
    if let Err(error) = &result {
        assert_says(&error.to_string(), &[name]);
    }
    result
}

#[test]
fn a_file_cut_at_any_byte_is_an_error() {
    for name in WEIGHTS.iter().chain(&ARRAYS) {
        let bytes = fixture_bytes(name);
        assert!(read(name, &bytes).is_ok());
        for end in 0..bytes.len() {
            assert!(read(name, &bytes[..end]).is_err(), "{name} cut at {end}");
        }
    }
}

#[test]
fn turned_bits_never_panic() {
    let mut random = Random(20240229);
    for name in WEIGHTS.iter().chain(&ARRAYS) {
        let bytes = fixture_bytes(name);
        let (mut read_well, mut refused) = (0, 0);
        for round in 0..1500 {
            let mut damaged = bytes.clone();
            for _ in 0..=round % 4 {
                let at = random.below(damaged.len());
                damaged[at] ^= 1 << random.below(8);
            }
            match read(name, &damaged) {
                Ok(_) => read_well += 1,
                Err(_) => refused += 1,
            }
        }
        eprintln!("{name}: {refused} refused, {read_well} read");
        assert!(refused > 0);
    }
}

/// The checksum of an archive catches most damage before the pickle machine
/// sees it: here the damage is done inside, and the archive made anew.
#[test]
fn damaged_pickles_in_sound_archives_never_panic() {
    use std::io::Read;
    let mut random = Random(7);
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(fixture_bytes("zip_p2.pth"))).unwrap();
    let mut entries = Vec::new();
    for i in 0..zip.len() {
        let mut file = zip.by_index(i).unwrap();
        let (_, name) = file
            .name()
            .map(|n| n.into_owned())
            .unwrap()
            .split_once('/')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        let mut data = Vec::new();
        file.read_to_end(&mut data).unwrap();
        entries.push((name, data));
    }
    let at = entries
        .iter()
        .position(|(name, _)| name == "data.pkl")
        .unwrap();
    let sound = entries[at].1.clone();
    let mut read_well = 0;
    for round in 0..4000 {
        let mut pickle = sound.clone();
        match round % 4 {
            0 | 1 => {
                for _ in 0..=random.below(3) {
                    let at = random.below(pickle.len());
                    pickle[at] ^= 1 << random.below(8);
                }
            }
            2 => pickle.truncate(random.below(sound.len())),
            // A piece of it copied elsewhere: opcodes in a new order.
            _ => {
                let (from, to) = (random.below(sound.len()), random.below(sound.len()));
                let piece = sound[from..(from + random.below(40)).min(sound.len())].to_vec();
                pickle.splice(to..to, piece);
            }
        }
        entries[at].1 = pickle;
        let borrowed: Vec<(&str, &[u8])> =
            entries.iter().map(|(n, d)| (n.as_str(), &d[..])).collect();
        let file = crate::pickles::archive(&borrowed, zip::CompressionMethod::Stored);
        read_well += usize::from(read("zip_p2.pth", &file).is_ok());
    }
    // Both outcomes occur, or this would test nothing.
    assert!((1..3500).contains(&read_well), "{read_well}");
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        data,
    ]
    .concat()
}

#[test]
fn safetensors_claims_are_checked() {
    let refused = |bytes: &[u8]| match read("x.safetensors", bytes) {
        Ok(_) => panic!("read"),
        Err(error) => error.to_string(),
    };
    let ten_gb = r#"{"a":{"dtype":"F32","shape":[2684354560],"data_offsets":[0,10737418240]}}"#;
    assert_says(
        &refused(&safetensors(ten_gb, &[0; 900])),
        &["claims 10737418240 bytes of data, but 900 follow"],
    );
    let mut long = safetensors("{}", &[0; 900]);
    long[..8].copy_from_slice(&(1u64 << 33).to_le_bytes());
    assert_says(
        &refused(&long),
        &["claims 8589934592 bytes of header, but 902 follow"],
    );
    // Eight tensors of 2^61 - 1 bytes: with the header, more than 2^64.
    let mut many = Vec::new();
    let size = (1u64 << 61) - 1;
    for n in 0..8 {
        many.push(format!(
            r#""{n}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{},{}]}}"#,
            n * size,
            (n + 1) * size
        ));
    }
    assert_says(
        &refused(&safetensors(&format!("{{{}}}", many.join(",")), &[0; 8])),
        &["header"],
    );
    for header in [
        r#"{"a":{"dtype":"F32","shape":[1,18446744073709551615,4],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#,
        r#"{"a":{"dtype":"Q7","shape":[4],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]}}"#,
        "{",
        "[]",
    ] {
        let text = refused(&safetensors(header, &[7; 4]));
        assert_says(&text, &["x.safetensors"]);
    }
    let nested = format!(r#"{{"a":{}"#, "[".repeat(100_000));
    assert_says(&refused(&safetensors(&nested, &[])), &["header"]);
}

#[test]
fn a_claim_of_ten_gigabytes_costs_nothing() {
    // The array that says so is refused for its size, before any allocation.
    let mut bytes = fixture_bytes("f4.npy");
    let at = bytes.windows(6).position(|w| w == b"(2, 3)").unwrap();
    // In place of the shape, the end of the dict and seven of its padding spaces.
    let longer = b"(2684354560,), }";
    bytes.splice(at..at + longer.len(), longer.iter().copied());
    let text = refusal(npy::parse(Path::new("x.npy"), &bytes));
    assert_says(
        &text,
        &["x.npy", "takes 10737418240 bytes", "but 24 follow"],
    );
}
