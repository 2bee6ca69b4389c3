//! Files appear whole or not at all.
//!
//! A file is written under a temporary name in its own folder, flushed to the
//! disk and renamed. Whatever fails on the way, a reader never finds half a file
//! under the final name, and the temporary one is removed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Writes `path` through `write`, replacing a file that is there.
///
/// A symbolic link is followed: its target is replaced, the link stays.
///
/// # Errors
/// What `write` returns; or the folder is missing or read-only, the disk is
/// full, or something other than a regular file has the name. Then `path` is as
/// it was before.
pub fn write_atomically(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let mut draft = Draft::new(path)?;
    write(&mut draft.out)?;
    draft.finish()
}

/// A file that is written bit by bit, and appears under its name when it is whole. One
/// that is dropped before leaves nothing.
pub struct Draft {
    pub out: BufWriter<File>,
    temporary: Temporary,
    path: PathBuf,
    target: PathBuf,
}

impl Draft {
    /// # Errors
    /// As [`write_atomically`].
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        if let Ok(metadata) = fs::metadata(&target)
            && !metadata.is_file()
        {
            // Renaming over a device or a folder would destroy or fail obscurely.
            return Err(Error::file(
                path,
                "",
                "exists and is not a regular file",
                "give another output path",
            ));
        }
        let (file, temporary) = Temporary::beside(&target, path)?;
        Ok(Self {
            out: BufWriter::with_capacity(1 << 20, file),
            temporary,
            path: path.to_path_buf(),
            target,
        })
    }

    /// # Errors
    /// As [`write_atomically`].
    pub fn finish(self) -> Result<()> {
        to_disk(self.out, &self.path)?;
        fs::rename(&self.temporary.path, &self.target)
            .map_err(|e| Error::io("write", &self.path, e))?;
        self.temporary.keep();
        sync_folder(&self.target);
        Ok(())
    }
}

/// As [`write_atomically`], for content that is already in memory.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    write_atomically(path, |out| {
        out.write_all(bytes)
            .map_err(|e| Error::io("write", path, e))
    })
}

/// Creates a folder and those above it; one that is there is fine.
///
/// # Errors
/// A file is in the way, or the system refuses.
pub fn create_dir_all(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    if let Some(file) = path.ancestors().find(|p| p.is_file()) {
        return Err(Error::file(
            file,
            "",
            format!("is a file, so the folder {} cannot be made", path.display()),
            "give another output path",
        ));
    }
    fs::create_dir_all(path).map_err(|e| Error::io("create the folder", path, e))
}

/// Removes what processes that were killed while they wrote have left in
/// `folder` and the folders in it. What cannot be read or removed stays: it
/// harms nobody.
pub fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_leftovers(&path);
        } else if writer_of(&entry.file_name()).is_some_and(|id| !is_running(id)) {
            fs::remove_file(path).ok();
        }
    }
}

/// The process that gave a file this temporary name.
fn writer_of(name: &OsStr) -> Option<u32> {
    let name = name.to_str()?.strip_prefix('.')?.strip_suffix(".tmp")?;
    let (id, number) = name.rsplit_once('.')?.1.split_once('-')?;
    number.parse::<u64>().ok()?;
    id.parse().ok()
}

/// Whether there is such a process, as far as the system tells: yes if it does not.
fn is_running(id: u32) -> bool {
    let all = Path::new("/proc");
    !all.join("self").exists() || all.join(id.to_string()).exists()
}

/// Sees what was written onto the disk; `path` is named in errors.
fn to_disk(out: BufWriter<File>, path: &Path) -> Result<()> {
    let file = out
        .into_inner()
        .map_err(|e| Error::io("write", path, e.into_error()))?;
    file.sync_all().map_err(|e| Error::io("write", path, e))
}

/// A rename lasts through a power cut once its folder is on the disk. Not every
/// file system can do that, and the file itself is sound without it.
fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent()
        && let Ok(folder) = File::open(folder)
    {
        folder.sync_all().ok();
    }
}

/// Removes its file when dropped, unless told to keep it.
struct Temporary {
    path: PathBuf,
    remove: bool,
}

impl Temporary {
    /// A new file in the folder of `target`, under a name that nobody has.
    fn beside(target: &Path, named: &Path) -> Result<(File, Self)> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let Some(name) = target.file_name() else {
            return Err(Error::usage(
                format!("`{}` does not name a file", named.display()),
                "give an output path that ends in a file name",
            ));
        };
        loop {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(
                ".{}-{}.tmp",
                std::process::id(),
                COUNTER.fetch_add(1, Ordering::Relaxed)
            ));
            let path = target.with_file_name(hidden);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((file, Self { path, remove: true })),
                // Left by a killed process that had our id: take the next name.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("write", named, e)),
            }
        }
    }

    fn keep(mut self) {
        self.remove = false;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.remove {
            fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        if !Path::new("/proc/self").exists() {
            eprintln!("skipped: this system does not tell which processes run");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("fold0");
        fs::create_dir(&inner).unwrap();
        let gone = u32::MAX; // above every process id
        let own = std::process::id();
        let left = inner.join(format!(".model.safetensors.{gone}-3.tmp"));
        let stays = [
            inner.join(format!(".model.safetensors.{own}-3.tmp")),
            inner.join("model.safetensors"),
            inner.join(".notes.tmp"),
            inner.join(format!("notes.{gone}-3.tmp")),
        ];
        for path in stays.iter().chain([&left]) {
            fs::write(path, "").unwrap();
        }
        remove_leftovers(folder.path());
        assert!(!left.exists());
        assert!(stays.iter().all(|path| path.exists()));
    }

    /// `/dev/full` answers every write as a full disk does. It cannot be the
    /// target of a rename, so this tests the half that writes.
    #[test]
    fn a_full_disk_is_an_error_that_names_the_path() {
        let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else {
            eprintln!("skipped: there is no /dev/full here");
            return;
        };
        let path = Path::new("weights.safetensors");
        for size in [1, 4 << 20] {
            let full = full.try_clone().unwrap();
            let mut out = BufWriter::with_capacity(1 << 20, full);
            let error = (out.write_all(&vec![0; size]))
                .map_err(|e| Error::io("write", path, e))
                .and_then(|()| to_disk(out, path))
                .unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with("cannot write weights.safetensors: "),
                "{text}"
            );
            assert!(matches!(error, Error::Io { source, .. }
                if source.kind() == std::io::ErrorKind::StorageFull));
        }
    }
}
