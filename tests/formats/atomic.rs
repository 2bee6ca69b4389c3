use std::fs;
use std::io::Write;

use eosin::Error;
use eosin::formats::{Array, Weights, atomic, npy, safetensors};

use crate::{assert_says, refusal};

fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_file_is_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    atomic::write_bytes(&path, b"one").unwrap();
    atomic::write_bytes(&path, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(names(folder.path()), ["a.txt"]);
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let fail = || {
        atomic::write_atomically(&path, |out| {
            out.write_all(&vec![7; 3 << 20]).unwrap();
            Err(Error::usage("the writer gave up", "try again"))
        })
    };
    assert_says(&refusal(fail()), &["gave up"]);
    assert!(names(folder.path()).is_empty());
    fs::write(&path, "old").unwrap();
    assert!(fail().is_err());
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["a.txt"]);
}

#[test]
fn a_writer_that_panics_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let outcome = std::panic::catch_unwind(|| {
        atomic::write_atomically(&path, |_| panic!("planted: a bug of the caller"))
    });
    assert!(outcome.is_err());
    assert!(names(folder.path()).is_empty());
}

/// Root may write anywhere, so the refusal is that of a file in a folder's place.
#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let array = Array::from_f32(&[1], &[1.0]).unwrap();
    let mut weights = Weights::new();
    weights.insert("a", array.clone()).unwrap();

    let path = file.join("a.npy");
    let shown = path.display().to_string();
    assert_says(
        &refusal(npy::write(&path, &array)),
        &["cannot write", &shown],
    );
    assert_says(
        &refusal(safetensors::write(&path, &weights)),
        &["cannot write", &shown],
    );
    let path = folder.path().join("missing/a.npy");
    let shown = path.display().to_string();
    assert_says(
        &refusal(npy::write(&path, &array)),
        &["cannot write", &shown],
    );

    let text = refusal(atomic::create_dir_all(file.join("a/b")));
    assert_says(&text, &[&file.display().to_string(), "is a file"]);
    let deep = folder.path().join("a/b/c");
    atomic::create_dir_all(&deep).unwrap();
    atomic::create_dir_all(&deep).unwrap();
    assert!(deep.is_dir());
}

#[cfg(unix)]
#[test]
fn a_read_only_folder_is_an_error_unless_we_are_root() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let locked = folder.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(locked.join("probe"), "").is_ok() {
        eprintln!("skipped: this user may write to read-only folders");
        return;
    }
    let text = refusal(atomic::write_bytes(locked.join("a.txt"), b"x"));
    assert_says(&text, &["cannot write", "locked/a.txt"]);
    assert!(names(&locked).is_empty());
}

#[test]
fn devices_and_folders_are_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let text = refusal(atomic::write_bytes(folder.path(), b"x"));
    assert_says(&text, &["not a regular file"]);
    assert!(folder.path().is_dir());
    // A file system socket stands for a device: replacing a real one would hurt.
    #[cfg(unix)]
    {
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let text = refusal(atomic::write_bytes(&socket, b"x"));
        assert_says(&text, &["socket", "not a regular file"]);
        assert_eq!(names(folder.path()), ["socket"]);
    }
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    fs::write(&real, "old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    atomic::write_bytes(&link, b"new").unwrap();
    assert_eq!(fs::read(&real).unwrap(), b"new");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}
