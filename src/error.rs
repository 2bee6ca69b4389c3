//! One error type for the whole crate.
//!
//! A message names what failed (operator with its shapes and dtypes, or file
//! with the place in it) and, where there is one, the remedy.

use std::path::{Path, PathBuf};

use crate::dtype::DType;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operator was given shapes that do not fit together.
    #[error("{op}: shapes {} do not fit: {expected}", list(shapes))]
    Shape {
        op: &'static str,
        shapes: Vec<Vec<usize>>,
        expected: String,
    },

    /// An operator was given a dtype that it does not take.
    #[error("{op}: dtypes {dtypes:?} do not fit: {expected}")]
    DType {
        op: &'static str,
        dtypes: Vec<DType>,
        expected: String,
    },

    /// Anything else an operator refuses: an axis, an index, a geometry.
    #[error("{op}: {problem}")]
    Op { op: &'static str, problem: String },

    /// The operator has no gradient of the order that was asked for.
    #[error("{op}: no gradient: {reason}")]
    NoGradient { op: &'static str, reason: String },

    /// A backward pass met a parameter that was updated after the forward pass.
    #[error(
        "{op}: parameter {name} was updated after the forward pass that this backward pass belongs to; \
         run the forward pass again"
    )]
    StaleParameter { op: &'static str, name: String },

    /// A file holds something other than what was expected of it.
    #[error("{}: {place}{problem}; {remedy}", path.display())]
    File {
        path: PathBuf,
        /// Where in the file, ending in ": ", or empty for the whole file.
        place: String,
        problem: String,
        remedy: String,
    },

    /// The operating system refused.
    #[error("cannot {action} {}: {source}; {}", path.display(), remedy_of(source))]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },

    /// A configuration, argument or call that cannot be carried out.
    #[error("{problem}; {remedy}")]
    Usage { problem: String, remedy: String },

    /// All is done that can be; what is left out was listed.
    #[error("{0}")]
    Incomplete(String),

    /// The user asked to stop; everything up to here is saved.
    #[error("stopped: {0}")]
    Interrupted(String),
}

/// What a user can do about a refusal of the operating system.
fn remedy_of(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space, or choose another disk"
        }
        ErrorKind::FileTooLarge => {
            "raise the limit on the size of files (`ulimit -f`), or choose another disk"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "get the right to it, or choose another folder"
        }
        ErrorKind::NotFound => "check the path",
        _ => "look at the path and its disk",
    }
}

fn list(shapes: &[Vec<usize>]) -> String {
    shapes
        .iter()
        .map(|s| format!("{s:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

impl Error {
    pub fn op(op: &'static str, problem: impl Into<String>) -> Self {
        Self::Op {
            op,
            problem: problem.into(),
        }
    }

    pub fn shape(op: &'static str, shapes: &[&[usize]], expected: impl Into<String>) -> Self {
        Self::Shape {
            op,
            shapes: shapes.iter().map(|s| s.to_vec()).collect(),
            expected: expected.into(),
        }
    }

    pub fn dtype(op: &'static str, dtypes: &[DType], expected: impl Into<String>) -> Self {
        Self::DType {
            op,
            dtypes: dtypes.to_vec(),
            expected: expected.into(),
        }
    }

    /// `place` may be empty; a non-empty one reads like "line 7, column `TP53`".
    pub fn file(
        path: impl AsRef<Path>,
        place: impl std::fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let place = place.to_string();
        Self::File {
            path: path.as_ref().to_path_buf(),
            place: if place.is_empty() {
                place
            } else {
                format!("{place}: ")
            },
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.as_ref().to_path_buf(),
            source,
        }
    }

    pub fn usage(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Usage {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}
