//! Any bytes as an LMDB file: looked up in, and read as the tiles of a slide, which are
//! packed and pickled in it.
#![no_main]

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use eosin::cohort::tiles::{Options, read};
use eosin::formats::lmdb::Lmdb;

thread_local! {
    /// A folder with that of one slide.
    static ROOT: RefCell<PathBuf> = RefCell::new({
        let root = eosin_fuzz::memory().join(format!("eosin-fuzz-{}", std::process::id()));
        fs::create_dir_all(root.join("S.svs")).expect("a folder in memory");
        root
    });
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    ROOT.with_borrow(|root| {
        let path = root.join("S.svs/S.db");
        fs::write(&path, bytes).expect("a file in memory");
        if let Ok(mut file) = Lmdb::open(&path) {
            for key in [&b"__keys__"[..], b"", b"0", b"12", b"zz"] {
                let _ = file.get(key);
            }
        }
        let options = Options {
            lmdb: true,
            ..Options::default()
        };
        let _ = read(root, &options);
    });
});
