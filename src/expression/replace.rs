//! Writing a file under a temporary name and renaming it when it is whole.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Removes what is left of an unfinished file, whichever way the writer stops.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a successful rename there is nothing to remove, and a failed
        // removal must not hide the error that led here.
        let _ = fs::remove_file(&self.0);
    }
}

/// Lets `fill` write the content of `path`, which appears whole or not at all.
///
/// # Errors
/// Whatever `fill` returns, and [`Error::Io`] when the folder cannot be
/// written or the disk is full.
pub(crate) fn replace(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Error::usage(
            format!("`{}` is not the name of a file", path.display()),
            "give the path of the file to write",
        ));
    };
    let mut temporary = name.to_os_string();
    temporary.push(format!(
        ".{}-{}.part",
        std::process::id(),
        SERIAL.fetch_add(1, Ordering::Relaxed)
    ));
    let temporary = path.with_file_name(temporary);
    let file = File::create_new(&temporary).map_err(|e| Error::io("write", path, e))?;
    let unfinished = Unfinished(temporary);

    let mut out = BufWriter::new(file);
    fill(&mut out)?;
    out.flush().map_err(|e| Error::io("write", path, e))?;
    out.get_ref()
        .sync_all()
        .map_err(|e| Error::io("write", path, e))?;
    drop(out);
    fs::rename(&unfinished.0, path).map_err(|e| Error::io("write", path, e))
}
