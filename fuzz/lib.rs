//! What the targets share: a slide from bytes, read as a program would read it.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use eosin::slides::{self, scale};

/// Pixels that are read of a level at most, so that a run is short.
const MOST: usize = 512;

thread_local! {
    /// In memory where the system has such a folder: slides are mapped, not read.
    static FILE: RefCell<PathBuf> =
        RefCell::new(memory().join(format!("eosin-fuzz-{}.tif", std::process::id())));
}

/// A folder in memory where the system has one, else of temporary files.
pub fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    match memory.is_dir() {
        true => memory,
        false => std::env::temp_dir(),
    }
}

/// Opens the bytes as a slide; reads from every level, at its corner and across its
/// far corner, and every associated picture.
pub fn slide(bytes: &[u8]) {
    FILE.with_borrow(|path| {
        fs::write(path, bytes).expect("a file in memory");
        let Ok(slide) = slides::open(path) else {
            return;
        };
        let facts = slide.facts().clone();
        let _ = scale::of(&facts, None);
        for (number, level) in facts.levels.iter().enumerate().take(8) {
            let size = (level.width.clamp(1, MOST), level.height.clamp(1, MOST));
            let far = (level.width as i64 - 7, level.height as i64 - 7);
            for (at, size) in [((0, 0), size), (far, (16, 16)), ((-3, -3), (8, 8))] {
                if let Ok(region) = slide.read_region(number, at, size) {
                    assert_eq!(region.data.len(), size.0 * size.1 * 3);
                }
            }
        }
        for picture in facts.associated.iter().take(4) {
            if picture.width * picture.height <= 1 << 22 {
                let _ = slide.read_associated(&picture.name);
            }
        }
    });
}

/// A little-endian TIFF of one tile of 64 x 64 px that holds `tile`, packed as
/// `compression` says.
pub fn one_tile(compression: u16, photometric: u16, tile: &[u8]) -> Vec<u8> {
    let start = 8 + tile.len() + tile.len() % 2;
    let mut out = b"II*\0".to_vec();
    out.extend((start as u32).to_le_bytes());
    out.extend(tile);
    out.resize(start, 0);
    let bits = start + 2 + 11 * 12 + 4;
    let short = 3u16;
    let long = 4u16;
    let entries: [(u16, u16, u32, u32); 11] = [
        (256, long, 1, 64),
        (257, long, 1, 64),
        (258, short, 3, bits as u32),
        (259, short, 1, compression.into()),
        (262, short, 1, photometric.into()),
        (277, short, 1, 3),
        (284, short, 1, 1),
        (322, long, 1, 64),
        (323, long, 1, 64),
        (324, long, 1, 8),
        (325, long, 1, tile.len() as u32),
    ];
    out.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        out.extend(tag.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    out.extend([0; 4]);
    out.extend([8, 0, 8, 0, 8, 0]);
    out
}
