//! Weight and array files: read safely, written whole or not at all.
//!
//! - [`read_weights`]: `.pth`/`.pt` (zip and legacy) and safetensors, told apart
//!   by their content; [`safetensors::write`] writes.
//! - [`npy`]: NumPy arrays. [`hdf5`]: trees of arrays; [`h5ad`]: AnnData in them.
//! - [`lmdb`]: entries of LMDB files. [`tensorboard`]: event files.
//! - [`inspect()`]: what is in a file. [`atomic`]: the one
//!   way in which files are written. [`hash`]: SHA-256.
//!
//! Every reader works on a memory map and checks a claimed size against what
//! the file holds before it allocates, so that a hostile file costs an error,
//! not the process. A file must not be cut short by someone else while it is
//! read: that is the one thing a memory map cannot turn into an error.

mod array;
pub mod atomic;
mod gather;
pub mod h5ad;
pub mod hash;
pub mod hdf5;
pub mod inspect;
mod kind;
pub mod lmdb;
pub mod npy;
pub(crate) mod pickle;
mod pth;
pub mod safetensors;
pub mod tensorboard;
mod weights;

pub use array::Array;
pub use inspect::{Inspection, inspect};
pub use kind::Kind;
pub use weights::{Weights, check_keys};

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!("eosin's file formats are little-endian in memory; this target is big-endian");

/// Reads a weights file of any known kind: safetensors, PyTorch's zip format
/// (1.6 and later) or PyTorch's legacy format.
///
/// The kind is told by the content, not by the name. From a PyTorch checkpoint
/// the state dict is taken out: see [`parse_weights`].
///
/// # Errors
/// The file cannot be opened, is none of these kinds, is damaged, asks to run
/// code, or holds a tensor of a dtype that eosin does not have.
pub fn read_weights(path: impl AsRef<Path>) -> Result<Weights> {
    let path = path.as_ref();
    parse_weights(path, &map(path)?)
}

/// [`read_weights`] from bytes in memory; `path` only names them in errors.
///
/// From a PyTorch checkpoint the content of the first of the keys `state_dict`,
/// `model_state_dict` and `model` is taken, where it is a dict of tensors;
/// otherwise nested dicts and lists are flattened, their keys joined by dots.
/// What is not a tensor is left out and listed in the metadata under
/// `torch.ignored`. A prefix `module.` on all keys (left by `DataParallel`) is
/// removed, and said under `torch.stripped_prefix`.
pub fn parse_weights(path: &Path, bytes: &[u8]) -> Result<Weights> {
    match Kind::sniff(bytes) {
        Kind::Safetensors => safetensors::parse(path, bytes),
        Kind::TorchZip | Kind::Zip => pth::parse_zip(path, bytes),
        Kind::TorchLegacy => pth::parse_legacy(path, bytes),
        other => Err(Error::file(
            path,
            "",
            format!("is not a weights file (it looks like {other})"),
            "give a .safetensors file, or a .pth/.pt file that torch.save wrote",
        )),
    }
}

/// Maps a whole regular file for reading.
fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let metadata = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if !metadata.is_file() {
        return Err(Error::file(
            path,
            "",
            "is not a regular file",
            "give the path of a file",
        ));
    }
    // SAFETY: the map is only read. That nobody truncates the file meanwhile is
    // the caller's part, stated in the module's documentation.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))
}
