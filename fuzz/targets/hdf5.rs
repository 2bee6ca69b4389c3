//! Any bytes as HDF5, walked through, and as AnnData's .h5ad.
#![no_main]

use std::path::Path;

use eosin::formats::{h5ad, hdf5};

/// Values that an array may have to be read: a file may rightly say that it holds more
/// than its bytes, of nothing but zeros.
const MOST: usize = 1 << 20;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = hdf5::File::parse(Path::new("fuzzed.h5"), bytes.to_vec()) else {
        return;
    };
    let mut groups = vec![(String::new(), 0)];
    while let Some((group, depth)) = groups.pop() {
        let _ = file.attributes(&group);
        let Ok(names) = file.names(&group) else {
            continue;
        };
        let inside = |name: &String| match group.is_empty() {
            true => name.clone(),
            false => format!("{group}/{name}"),
        };
        if depth < 4 {
            groups.extend(names.groups.iter().take(8).map(|n| (inside(n), depth + 1)));
        }
        for name in names.datasets.iter().take(8).map(inside) {
            let _ = file.attributes(&name);
            let Ok(facts) = file.facts(&name) else {
                continue;
            };
            let size = (facts.shape.iter()).try_fold(1usize, |n, &side| n.checked_mul(side));
            if size.is_some_and(|n| n <= MOST) {
                let _ = file.array(&name);
                let _ = file.texts(&name);
            }
        }
    }
    let _ = h5ad::of(&file, "X");
});
