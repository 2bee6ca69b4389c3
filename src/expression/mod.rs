//! Expression: tables of counts in, chosen and transformed genes out.
//!
//! The order of use is [`source`] (read whatever file it is; [`mod@table`] for CSV and
//! TSV alone), [`genes`] (choose, on training samples), [`transform`] (fit on training
//! samples, apply to all).

mod gct;
mod gdc;
pub mod genes;
pub mod source;
pub mod table;
pub mod transform;

pub use genes::{Chosen, GeneChoice};
pub use source::Source;
pub use table::{Orientation, Table};
pub use transform::{FittedTransforms, Transform};
