//! "Find me slides like this one": vectors of slides in one file, searched exactly.
//!
//! A slide has one vector or several (its bags). [`write()`] stores each in half
//! precision, beside a bound on what that rounding moved it by, and in single precision.
//! [`Index::nearest`] reads the halves of all vectors, which bounds every distance from
//! both sides, and the single precision of those that may be among the nearest: the
//! result is that of single precision throughout, at half the reading.
//!
//! # Bounds
//! For a vector x and its half x', |q·x - q·x'| <= |q| |x - x'| (Cauchy and Schwarz),
//! and |x - x'| is computed when the index is built. To that comes what the sum of
//! w products in f32 can lose, w 2^-24 |q| |x'|. Each vector is scaled by a power of two
//! so that its largest element is below 1, where a half keeps 11 bits: |x - x'| is at most
//! 2^-11 |x| but for elements below 2^-14 of the largest.
//!
//! # The file
//! All numbers are little-endian; parts start at multiples of 64 bytes.
//!
//! | part | what |
//! |---|---|
//! | header, 64 bytes | `EOSINIDX`, version, metric, width, vectors, bytes of names |
//! | facts | per vector, f32: scale of its half, bound on |x - x'|, |x|, 0 |
//! | halves | (vectors, width) f16 |
//! | singles | (vectors, width) f32; of unit length for the cosine |
//! | names | JSON: slides with their patient, label and vectors |

mod bags;
mod file;
mod scan;

pub use bags::{Neighbour, Retrieval, Vote, retrieve, slides_like};
pub use file::{Entry, Index, Metric, Vectors, write};
pub use scan::Found;
