//! The operators. Each has a folder with its public function, its shapes and
//! its gradient rule in `mod.rs` and its CPU implementation in `cpu.rs`; one
//! that is made of other operators alone is a single file and needs neither
//! kernel nor rule.
//!
//! Rules of the house:
//! - a public function takes tensors by reference, checks shapes and dtypes,
//!   and returns an error that names the operator and what was given;
//! - bf16 and f16 inputs are computed in f32 and rounded once (`half::widened`);
//! - [`REGISTRY`] lists every operator with the order of gradient that it has and
//!   what a call costs ([`cost()`]); the test suite walks it.

pub(crate) mod elementwise;
pub(crate) mod half;
pub(crate) mod images;
mod indexed;
pub(crate) mod normalise;
mod registry;
mod separable;
pub(crate) mod vector;
mod walk;

mod arithmetic;
mod attention;
mod batch_norm;
mod cat;
mod conv2d;
mod conv_bn_act;
mod conv_transpose2d;
pub mod cost;
mod dropout;
mod gather;
mod gcn;
mod group_norm;
mod index_select;
mod layer_norm;
pub(crate) mod layout;
mod linear;
mod linear_top_mean;
mod loss;
mod matmul;
mod normalise_tiles;
mod pad;
mod pointwise;
mod pool;
mod reduce;
mod resize;
mod slice;
mod softmax;
mod sort;
mod topk;

pub(crate) use arithmetic::add_onto;
pub use arithmetic::{Comparison, add, affine, compare, div, maximum, minimum, mul, select, sub};
pub use attention::{attention, attention_packed, attention_with_weights};
pub use batch_norm::{
    Around, BatchNorm, Moments, batch_norm_eval, batch_norm_eval_around, batch_norm_train,
    batch_norm_train_around,
};
pub(crate) use batch_norm::{Running, trained as batch_norm_trained};
pub use cat::cat;
pub(crate) use conv_bn_act::with_room;
pub use conv_bn_act::{PreparedConv, conv_bn_act, fold_batch_norm};
pub use conv_transpose2d::{ConvTranspose2d, conv_transpose2d};
pub use conv2d::{
    Conv2d, conv2d, conv2d_input_gradient, conv2d_measured, conv2d_shortcut, conv2d_weight_gradient,
};
pub use cost::{Cost, Operand, cost};
pub use dropout::{dropout, dropout_blocks};
pub use gather::{gather, scatter_add};
pub use gcn::{
    GcnGraph, edges_without_ties, gcn_edge, gcn_edge_features, gcn_graph, gcn_node, gcn_pool,
};
pub use group_norm::group_norm;
pub use index_select::{index_add, index_select};
pub use layer_norm::{add_layer_norm, layer_norm};
pub use layout::{broadcast_to, cast, permute, reshape, to_format, transpose};
pub use linear::{Activation, linear};
pub use linear_top_mean::{linear_top_mean, linear_top_means};
pub(crate) use loss::scaled_mse_loss;
pub use loss::{bce_with_logits, cross_entropy, l1_loss, mse_loss};
pub use matmul::{matmul, matmul_to};
pub use normalise_tiles::{StainMap, normalise_tiles};
pub use pad::{pad_reflect, pad_zero};
pub use pointwise::{abs, clamp, exp, gelu, leaky_relu, log, pow, relu, sigmoid, silu, sqrt, tanh};
pub use pool::{Pool, activated_avg_pool2d, adaptive_avg_pool2d, avg_pool2d, max_pool2d};
pub use reduce::{argmax, max, mean, sum, sum_all, var};
pub use registry::{Order, REGISTRY, Registered};
pub use resize::resize_bilinear;
pub use slice::{place, slice, slice_step};
pub use softmax::{log_softmax, softmax};
pub use sort::sort;
pub use topk::topk;
