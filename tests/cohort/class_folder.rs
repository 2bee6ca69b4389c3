//! Folders of tile images per class.

use std::fs;

use eosin::cohort::classes::{class_of, read};
use tempfile::tempdir;

use crate::support::{picture, put, put_png, refused};

#[test]
fn folders_in_a_class_are_slides_and_loose_tiles_are_their_own() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    for (i, tile) in [
        "a/s2/1.png",
        "a/s1/0.png",
        "a/s1/1.png",
        "b/x.png",
        "b/y.png",
    ]
    .iter()
    .enumerate()
    {
        put_png(&root.join(tile), &picture(8, 8, i));
    }
    put_png(&root.join("a/s1/wide.png"), &picture(8, 6, 0));
    put(&root.join("a/s1/notes.txt"), "no tile");
    fs::create_dir(root.join("b/empty")).unwrap();
    let cohort = read(root).unwrap();
    let of = cohort.samples.iter();
    let found: Vec<_> = of
        .map(|s| (s.id.as_str(), class_of(&s.id), s.tiles.len()))
        .collect();
    assert_eq!(
        found,
        [
            ("a/s1", "a", 2),
            ("a/s2", "a", 1),
            ("b/x.png", "b", 1),
            ("b/y.png", "b", 1)
        ]
    );
    assert!(cohort.samples.iter().all(|s| s.patient == s.id));
    let skipped: Vec<_> = cohort.skipped.iter().map(|s| s.what.as_str()).collect();
    assert_eq!(skipped, ["tile a/s1/wide.png", "slide b/empty"]);
}

#[test]
fn what_is_no_such_folder_is_refused() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    refused(read(root.join("none")), &["is not a folder"]);
    put_png(&root.join("x.png"), &picture(8, 8, 0));
    refused(read(root), &["holds no folder of a class"]);
    put(&root.join("a/notes.txt"), "no tile");
    refused(read(root), &["no sample is left"]);
}
