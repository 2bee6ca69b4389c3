//! What kind of file some bytes are, told by their content.

use std::fmt;

use serde::Serialize;

/// The kinds of file that eosin can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    Npy,
    Safetensors,
    TorchZip,
    TorchLegacy,
    /// A zip archive without a PyTorch pickle in it (.npz, for one).
    Zip,
    /// A pickle that torch.save did not write.
    Pickle,
    Gzip,
    Hdf5,
    /// AnnData in HDF5; told from other HDF5 by [`super::inspect()`].
    H5ad,
    Csv,
    Tsv,
    Png,
    Jpeg,
    Json,
    Toml,
    Empty,
    Unknown,
}

/// How PyTorch's legacy format starts: a pickle of its magic number.
pub(crate) const LEGACY_START: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

impl Kind {
    /// Recognises the binary kinds by their first bytes; text is `Unknown` here.
    pub fn sniff(bytes: &[u8]) -> Self {
        match bytes {
            [] => Self::Empty,
            _ if bytes.starts_with(b"\x93NUMPY") => Self::Npy,
            _ if bytes.starts_with(b"\x89PNG\r\n\x1a\n") => Self::Png,
            _ if bytes.starts_with(b"\xff\xd8\xff") => Self::Jpeg,
            _ if bytes.starts_with(b"\x1f\x8b") => Self::Gzip,
            _ if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") => {
                // The first record of an archive by torch.save is its pickle, or
                // stands a few bytes before it; its name is not compressed.
                let head = bytes.get(..4096).unwrap_or(bytes);
                if head.windows(9).any(|w| w == b"/data.pkl") {
                    Self::TorchZip
                } else {
                    Self::Zip
                }
            }
            // Anything that starts as the legacy format does, so that a damaged
            // file is called that, and not an unknown one.
            _ if bytes.starts_with(&LEGACY_START[..12]) => Self::TorchLegacy,
            [0x80, 2..=5, ..] => Self::Pickle,
            // A length, then the header: an object, in practice without space before it.
            [_, _, _, _, _, _, 0, 0, b'{', ..] => Self::Safetensors,
            _ if is_hdf5(bytes) => Self::Hdf5,
            _ => Self::Unknown,
        }
    }
}

/// The signature stands at the start, or after a user block of 512 bytes, or of
/// twice that, and so on.
fn is_hdf5(bytes: &[u8]) -> bool {
    let starts = std::iter::once(0).chain((9..40).map(|power| 1u64 << power));
    starts
        .take_while(|&start| start < bytes.len() as u64)
        .filter_map(|start| bytes.get(usize::try_from(start).ok()?..))
        .any(|at| at.starts_with(b"\x89HDF\r\n\x1a\n"))
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Npy => "a NumPy array (.npy)",
            Self::Safetensors => "safetensors weights",
            Self::TorchZip => "PyTorch weights (zip format)",
            Self::TorchLegacy => "PyTorch weights (legacy format)",
            Self::Zip => "a zip archive",
            Self::Pickle => "a Python pickle",
            Self::Gzip => "gzip-compressed data",
            Self::Hdf5 => "an HDF5 file",
            Self::H5ad => "an AnnData object (.h5ad)",
            Self::Csv => "a comma-separated table",
            Self::Tsv => "a tab-separated table",
            Self::Png => "a PNG image",
            Self::Jpeg => "a JPEG image",
            Self::Json => "JSON",
            Self::Toml => "TOML",
            Self::Empty => "an empty file",
            Self::Unknown => "a file of unknown kind",
        })
    }
}
