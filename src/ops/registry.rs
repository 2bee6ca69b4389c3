//! The table of operators that the test suite and the tools walk.

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
}

const fn twice(name: &'static str) -> Registered {
    Registered {
        name,
        order: Order::Second,
    }
}

const fn choice(name: &'static str) -> Registered {
    Registered {
        name,
        order: Order::None,
    }
}

/// Every public operator, in alphabetical order.
pub const REGISTRY: &[Registered] = &[
    twice("abs"),
    twice("adaptive_avg_pool2d"),
    twice("add"),
    twice("affine"),
    choice("argmax"),
    twice("attention"),
    twice("avg_pool2d"),
    twice("batch_norm_eval"),
    twice("batch_norm_train"),
    twice("bce_with_logits"),
    twice("broadcast_to"),
    twice("cast"),
    twice("cat"),
    twice("clamp"),
    choice("compare"),
    twice("conv2d"),
    twice("conv2d_input_gradient"),
    twice("conv2d_weight_gradient"),
    choice("conv_bn_act"),
    twice("conv_transpose2d"),
    twice("cross_entropy"),
    twice("div"),
    twice("dropout"),
    twice("exp"),
    twice("gather"),
    twice("gelu"),
    twice("group_norm"),
    twice("index_add"),
    twice("index_select"),
    twice("l1_loss"),
    twice("layer_norm"),
    twice("leaky_relu"),
    twice("linear"),
    twice("log"),
    twice("log_softmax"),
    twice("matmul"),
    twice("max"),
    twice("max_pool2d"),
    twice("maximum"),
    twice("mean"),
    twice("minimum"),
    twice("mse_loss"),
    twice("mul"),
    twice("pad_reflect"),
    twice("pad_zero"),
    twice("permute"),
    twice("place"),
    twice("pow"),
    twice("relu"),
    twice("reshape"),
    twice("resize_bilinear"),
    twice("scatter_add"),
    twice("select"),
    twice("sigmoid"),
    twice("silu"),
    twice("slice"),
    twice("slice_step"),
    twice("softmax"),
    twice("sort"),
    twice("sqrt"),
    twice("sub"),
    twice("sum"),
    twice("sum_all"),
    twice("tanh"),
    twice("to_format"),
    twice("topk"),
    twice("transpose"),
    twice("var"),
];
