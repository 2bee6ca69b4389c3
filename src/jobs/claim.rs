//! Claims: one process at a time has a slide.
//!
//! A claim is a lock that the system holds on a file for as long as the process
//! lives, so a killed process claims nothing, and no clock or process id has to
//! be believed. The empty files stay: removing one while another process opens
//! it would give two the same claim.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::error::{Error, Result};
use crate::formats::atomic::create_dir_all;

/// A slide that is ours until this is dropped.
pub struct Claim {
    _file: File,
}

/// Claims `name` in a job's folder of claims; `None` while another has it.
///
/// # Errors
/// The folder cannot be written, or its file system has no locks.
pub fn claim(folder: &Path, name: &str) -> Result<Option<Claim>> {
    create_dir_all(folder)?;
    let path = folder.join(format!("{name}.lock"));
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|e| Error::io("claim", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Claim { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(Error::file(
            &path,
            "",
            format!("cannot be locked ({e})"),
            "put the job on a file system with locks",
        )),
    }
}
