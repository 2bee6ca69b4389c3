//! Expression: tables of counts in, chosen and transformed genes out.
//!
//! The order of use is [`table`] (read), [`genes`] (choose, on training
//! samples), [`transform`] (fit on training samples, apply to all).

pub mod genes;
pub mod table;
pub mod transform;

pub use genes::{Chosen, GeneChoice};
pub use table::{Orientation, Table};
pub use transform::{FittedTransforms, Transform};
