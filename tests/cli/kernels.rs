//! `eosin kernels`, in a build with nvcc and in one without.

use eosin::device::cuda::kernels::{ALL, TOOLKIT};

use crate::support::*;

#[test]
fn every_kernel_is_listed_with_its_resources() {
    let listing = json(["kernels", "--no-sass", "--json"]);
    let source = listing["source"].as_str().expect("a source");
    match TOOLKIT {
        Some(version) => assert!(source.contains(version), "{source}"),
        None => assert!(source.contains("as committed"), "{source}"),
    }
    let kernels = listing["kernels"].as_array().expect("kernels");
    for kernel in ALL {
        let lines = kernels.iter().filter(|l| l["kernel"] == kernel.name);
        let mut count = 0;
        for line in lines {
            count += 1;
            assert_eq!(line["threads"], kernel.threads);
            assert!(line["registers"].as_u64().expect("a number") > 0);
            let share = line["occupancy"]["share"].as_f64().expect("a share");
            assert!(share > 0.0 && share <= 1.0, "{line}");
        }
        assert!(count > 0, "{} is missing", kernel.name);
    }
}

#[test]
fn a_filter_picks_by_name() {
    let text = succeeds(["kernels", "softmax", "--no-sass"]);
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("eosin_")).collect();
    assert!(
        !lines.is_empty() && lines.iter().all(|l| l.contains("softmax")),
        "{text}"
    );
    fails(["kernels", "hardmax"], &["no kernel has `hardmax`"]);
    let counted = json(["kernels", "softmax", "--json"]);
    for line in counted["kernels"].as_array().expect("kernels") {
        let found = &line["instructions"];
        if found.is_null() {
            let why = counted["instructions"].as_str().expect("a reason");
            eprintln!("skipped: instructions: {why}");
            break;
        }
        assert!(found["all"].as_u64() > Some(100), "{line}");
        assert_eq!(
            (&found["ldl"], &found["stl"]),
            (&0.into(), &0.into()),
            "{line}"
        );
    }
    // No multiprocessor holds two blocks of 128 KiB.
    let large = json([
        "kernels",
        "softmax",
        "--no-sass",
        "--shared",
        "131072",
        "--json",
    ]);
    for line in large["kernels"].as_array().expect("kernels") {
        assert_eq!(line["occupancy"]["blocks"], 1, "{line}");
        assert_eq!(line["occupancy"]["limit"], "shared memory", "{line}");
    }
    let none = json([
        "kernels",
        "softmax",
        "--no-sass",
        "--shared",
        "4294967295",
        "--json",
    ]);
    assert_eq!(none["kernels"][0]["occupancy"]["blocks"], 0);
}
