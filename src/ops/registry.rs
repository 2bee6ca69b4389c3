//! The table of operators that the test suite and the tools walk.

use super::cost::{self, Rule};
use Rule::{Each, Picked, View};

/// The highest order of gradient that an operator has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// None: its result is a choice or an index.
    None,
    First,
    Second,
}

#[derive(Clone, Copy, Debug)]
pub struct Registered {
    pub name: &'static str,
    pub order: Order,
    pub cost: Rule,
}

const fn twice(name: &'static str, cost: Rule) -> Registered {
    Registered {
        name,
        order: Order::Second,
        cost,
    }
}

const fn once(name: &'static str, cost: Rule) -> Registered {
    Registered {
        name,
        order: Order::First,
        cost,
    }
}

const fn choice(name: &'static str, cost: Rule) -> Registered {
    Registered {
        name,
        order: Order::None,
        cost,
    }
}

/// Every public operator, in alphabetical order, and what a call of it costs at
/// least (see `ops/cost.rs`).
pub const REGISTRY: &[Registered] = &[
    twice("abs", Each(1)),
    choice("activated_avg_pool2d", Each(4)),
    twice("adaptive_avg_pool2d", Each(1)),
    twice("add", Each(1)),
    twice("add_layer_norm", cost::ADD_NORM),
    twice("affine", Each(2)),
    choice("argmax", Each(1)),
    twice("attention", cost::ATTENTION),
    twice("avg_pool2d", Each(1)),
    twice("batch_norm_eval", Each(2)),
    twice("batch_norm_train", cost::NORM),
    twice("bce_with_logits", Each(8)),
    twice("broadcast_to", View),
    twice("cast", Each(0)),
    twice("cat", Each(0)),
    twice("clamp", Each(2)),
    choice("compare", Each(1)),
    twice("conv2d", cost::CONVOLUTION),
    twice("conv2d_input_gradient", cost::TRANSPOSED_CONVOLUTION),
    twice("conv2d_weight_gradient", cost::WEIGHT_GRADIENT),
    choice("conv_bn_act", cost::CONVOLUTION),
    twice("conv_transpose2d", cost::TRANSPOSED_CONVOLUTION),
    twice("cross_entropy", cost::SOFTMAX),
    twice("div", Each(1)),
    twice("dropout", Each(1)),
    twice("exp", Each(1)),
    twice("gather", Picked(0)),
    once("gcn_edge", cost::GCN_EDGE),
    once("gcn_edge_features", cost::GCN_EDGE_FEATURES),
    choice("gcn_graph", Each(1)),
    once("gcn_node", cost::GCN_NODE),
    once("gcn_pool", Each(2)),
    twice("gelu", Each(1)),
    twice("group_norm", cost::NORM),
    twice("index_add", Each(1)),
    twice("index_select", Picked(0)),
    twice("l1_loss", Each(3)),
    twice("layer_norm", cost::NORM),
    twice("leaky_relu", Each(1)),
    twice("linear", cost::MATMUL),
    twice("linear_top_mean", cost::LINEAR_TOP_MEAN),
    choice("linear_top_means", cost::LINEAR_TOP_MEAN),
    twice("log", Each(1)),
    twice("log_softmax", cost::SOFTMAX),
    twice("matmul", cost::MATMUL),
    twice("max", Each(1)),
    twice("max_pool2d", Each(1)),
    twice("maximum", Each(1)),
    twice("mean", Each(1)),
    twice("minimum", Each(1)),
    twice("mse_loss", Each(3)),
    twice("mul", Each(1)),
    choice("normalise_tiles", cost::RESIZE),
    twice("pad_reflect", Each(0)),
    twice("pad_zero", Each(0)),
    twice("permute", View),
    twice("place", Each(0)),
    twice("pow", Each(1)),
    twice("relu", Each(1)),
    twice("reshape", View),
    twice("resize_bilinear", cost::RESIZE),
    twice("scatter_add", Each(1)),
    twice("select", Each(1)),
    twice("sigmoid", Each(1)),
    twice("silu", Each(1)),
    twice("slice", View),
    twice("slice_step", View),
    twice("softmax", cost::SOFTMAX),
    twice("sort", Each(0)),
    twice("sqrt", Each(1)),
    twice("sub", Each(1)),
    twice("sum", Each(1)),
    twice("sum_all", Each(1)),
    twice("tanh", Each(1)),
    twice("to_format", Each(0)),
    twice("topk", Each(0)),
    twice("transpose", View),
    twice("var", Each(3)),
];
