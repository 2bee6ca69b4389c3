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
    twice("add"),
    twice("affine"),
    choice("argmax"),
    twice("attention"),
    twice("batch_norm_eval"),
    twice("batch_norm_train"),
    twice("bce_with_logits"),
    twice("broadcast_to"),
    twice("cast"),
    twice("clamp"),
    choice("compare"),
    twice("cross_entropy"),
    twice("div"),
    twice("exp"),
    twice("gather"),
    twice("gelu"),
    twice("group_norm"),
    twice("l1_loss"),
    twice("layer_norm"),
    twice("leaky_relu"),
    twice("linear"),
    twice("log"),
    twice("log_softmax"),
    twice("matmul"),
    twice("max"),
    twice("maximum"),
    twice("mean"),
    twice("minimum"),
    twice("mse_loss"),
    twice("mul"),
    twice("permute"),
    twice("pow"),
    twice("relu"),
    twice("reshape"),
    twice("scatter_add"),
    twice("select"),
    twice("sigmoid"),
    twice("silu"),
    twice("softmax"),
    twice("sqrt"),
    twice("sub"),
    twice("sum"),
    twice("sum_all"),
    twice("tanh"),
    twice("to_format"),
    twice("transpose"),
    twice("var"),
];
