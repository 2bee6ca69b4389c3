//! The operators. Each has a folder with its public function, its shapes and
//! its gradient rule in `mod.rs` and its CPU implementation in `cpu.rs`; one
//! that is made of other operators alone is a single file and needs neither
//! kernel nor rule.
//!
//! Rules of the house:
//! - a public function takes tensors by reference, checks shapes and dtypes,
//!   and returns an error that names the operator and what was given;
//! - bf16 and f16 inputs are computed in f32 and rounded once ([`half::widened`]);
//! - [`REGISTRY`] lists every operator with the order of gradient that it has;
//!   the test suite walks it.

pub(crate) mod half;
pub(crate) mod normalise;
mod registry;
pub(crate) mod vector;
mod walk;

mod arithmetic;
mod attention;
mod batch_norm;
mod gather;
mod group_norm;
mod layer_norm;
mod layout;
mod linear;
mod loss;
mod matmul;
mod pointwise;
mod reduce;
mod softmax;

pub use arithmetic::{Comparison, add, affine, compare, div, maximum, minimum, mul, select, sub};
pub use attention::attention;
pub use batch_norm::{BatchNorm, batch_norm_eval, batch_norm_train};
pub use gather::{gather, scatter_add};
pub use group_norm::group_norm;
pub use layer_norm::layer_norm;
pub use layout::{broadcast_to, cast, permute, reshape, to_format, transpose};
pub use linear::{Activation, linear};
pub use loss::{bce_with_logits, cross_entropy, l1_loss, mse_loss};
pub use matmul::matmul;
pub use pointwise::{abs, clamp, exp, gelu, leaky_relu, log, pow, relu, sigmoid, silu, sqrt, tanh};
pub use reduce::{argmax, max, mean, sum, sum_all, var};
pub use registry::{Order, REGISTRY, Registered};
pub use softmax::{log_softmax, softmax};
