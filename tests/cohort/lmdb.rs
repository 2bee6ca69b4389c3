//! Tiles in LMDB files: one that LMDB itself wrote, and damaged ones.

use std::fs;
use std::io::Read;
use std::path::Path;

use eosin::cohort::tiles::{Options, read};
use eosin::cohort::{Cohort, TileFile, cut_tiles};
use eosin::formats::lmdb::{Lmdb, Writer};
use tempfile::{TempDir, tempdir};

use crate::support::{fixture, put, refused};

/// What make_lmdb.py wrote.
fn written() -> Vec<u8> {
    let packed = fs::read(fixture("tiles.db.gz")).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&packed[..])
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

/// A slide with these bytes as its file.
fn folder(bytes: &[u8]) -> TempDir {
    let folder = tempdir().unwrap();
    let slide = folder.path().join("S.svs");
    fs::create_dir(&slide).unwrap();
    fs::write(slide.join("S.db"), bytes).unwrap();
    folder
}

fn stored(root: &Path) -> eosin::Result<Cohort> {
    let options = Options {
        lmdb: true,
        ..Options::default()
    };
    read(root, &options)
}

#[test]
fn tiles_are_those_that_were_written() {
    let folder = folder(&written());
    let root = folder.path();
    put(
        &root.join("expression.csv"),
        "wsi_file_name,rna_G1\nS.svs,4\n",
    );
    let options = Options {
        table: Some(root.join("expression.csv")),
        lmdb: true,
        ..Options::default()
    };
    let cohort = read(root, &options).unwrap();
    assert_eq!(cohort.skipped, []);
    assert_eq!(cohort.samples[0].id, "S.svs");
    assert_eq!(cohort.samples[0].tiles.len(), 66);
    assert_eq!(cohort.table.as_ref().unwrap().values, [4.0]);
    let (tiles, unused) = cut_tiles(&cohort).unwrap();
    assert_eq!(unused, []);
    for (i, tile) in tiles.iter().enumerate() {
        let tile = tile.as_ref().unwrap();
        let side = if i < 64 { 4 } else { 40 };
        assert_eq!((tile.width, tile.height), (side, side));
        for (place, &level) in tile.data.iter().enumerate() {
            let (row, column, colour) = (place / 3 / side, place / 3 % side, place % 3);
            if side == 4 || row >= 20 {
                let expected = (i + 3 * row + 5 * column + 7 * colour) % 256;
                assert_eq!(usize::from(level), expected, "tile {i} at {place}");
            }
        }
    }
    let hash = |i: usize| cohort.images[i].sha256().unwrap();
    assert_ne!(hash(0), hash(1));
}

#[test]
fn keys_that_are_not_there() {
    let folder = folder(&written());
    let mut file = Lmdb::open(&folder.path().join("S.svs/S.db")).unwrap();
    assert_eq!(file.entries(), 67);
    for key in ["", "/", "00", "66", "~"] {
        assert_eq!(file.get(key.as_bytes()).unwrap(), None, "{key}");
    }
    assert!(file.get(b"0").unwrap().is_some());
}

#[test]
fn damage_is_named() {
    let whole = written();
    let damaged = |bytes: &[u8], part: &str| {
        refused(stored(folder(bytes).path()), &["slide S.svs", part]);
    };
    let page = 4096;
    for cut in [0, 100, page, 2 * page, whole.len() / 2] {
        damaged(&whole[..cut], "is beyond the end of the file");
    }
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    damaged(&changed(16, 0), "is not an LMDB file");
    damaged(&changed(20, 9), "version 9");
    damaged(&changed(41, 0), "pages have 0 bytes");
    // In both descriptions: keys with several values.
    let mut bytes = changed(16 + 72 + 4, 4);
    bytes[page + 16 + 72 + 4] = 4;
    damaged(&bytes, "dupsort");

    let slide = folder(&whole);
    fs::copy(
        slide.path().join("S.svs/S.db"),
        slide.path().join("S.svs/T.db"),
    )
    .unwrap();
    refused(stored(slide.path()), &["has 2 .db files"]);
    fs::remove_file(slide.path().join("S.svs/T.db")).unwrap();
    fs::remove_file(slide.path().join("S.svs/S.db")).unwrap();
    refused(stored(slide.path()), &["has 0 .db files"]);
}

/// No byte, whatever is in its place, does more than cost a tile or the slide.
#[test]
fn a_byte_gone_wrong_costs_a_tile_or_the_slide() {
    let whole = written();
    let mut skipped = 0;
    // Steps that visit all places within pages and pickles.
    for at in (0..whole.len()).step_by(997) {
        for flip in [0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            match stored(folder(&bytes).path()) {
                Err(e) => assert!(e.to_string().contains("S.svs"), "{e}"),
                Ok(cohort) => {
                    let tiles = cohort.samples[0].tiles.len();
                    // The list of keys itself may have lost some.
                    assert!(tiles + cohort.skipped.len() <= 66, "byte {at}");
                    skipped += cohort.skipped.len();
                }
            }
        }
    }
    assert!(skipped > 3, "{skipped}");
}

/// Trees of one page, two levels and three, with keys of all lengths.
#[test]
fn what_is_written_is_read() {
    let folder = tempdir().unwrap();
    for count in [0, 1, 7, 8, 150, 1500] {
        let path = folder.path().join(format!("{count}.db"));
        let mut writer = Writer::new(&path).unwrap();
        let key = |i: usize| format!("{i}{}", "k".repeat(i * 37 % 505)).into_bytes();
        let value = |i: usize| vec![(i % 251) as u8; i * 61 % 9000];
        for i in 0..count {
            writer.put(&key(i), &value(i)).unwrap();
        }
        if count > 0 {
            refused(writer.put(&key(0), b"again"), &["each once"]);
        }
        refused(writer.put(&[b'k'; 512], b""), &["1 to 511"]);
        writer.finish().unwrap();
        let mut file = Lmdb::open(&path).unwrap();
        assert_eq!(file.entries(), count as u64);
        for i in 0..count {
            assert_eq!(file.get(&key(i)).unwrap(), Some(value(i)), "{i} of {count}");
        }
        assert_eq!(file.get(b"nothing").unwrap(), None);
    }
}

#[test]
fn tiles_and_their_scale_come_back() {
    let root = tempdir().unwrap();
    let slide = root.path().join("S.svs");
    fs::create_dir(&slide).unwrap();
    let mut file = TileFile::new(&slide.join("S.db"), "S").unwrap();
    let tiles: Vec<_> = (0..12)
        .map(|i| crate::support::picture(40, 40, i))
        .collect();
    for (i, tile) in tiles.iter().enumerate() {
        file.put(tile, (i as i64 * 40, 0)).unwrap();
    }
    assert!(!slide.join("S.db").exists(), "not before it is whole");
    file.finish(0.5).unwrap();
    let cohort = stored(root.path()).unwrap();
    assert_eq!(cohort.skipped, []);
    assert!(cohort.images.iter().all(|image| image.mpp == Some(0.5)));
    let (read, _) = cut_tiles(&cohort).unwrap();
    let read: Vec<_> = read.into_iter().flatten().collect();
    assert_eq!(read, tiles);
}
