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
    twice("broadcast_to"),
    twice("cast"),
    twice("clamp"),
    choice("compare"),
    choice("conv_bn_act"),
    twice("conv_transpose2d"),
    twice("conv2d"),
    twice("conv2d_input_gradient"),
    twice("conv2d_weight_gradient"),
    twice("div"),
    twice("exp"),
    twice("gather"),
    twice("gelu"),
    twice("leaky_relu"),
    twice("linear"),
    twice("log"),
    twice("matmul"),
    twice("max"),
    twice("maximum"),
    twice("mean"),
    twice("minimum"),
    twice("mul"),
    twice("permute"),
    twice("pow"),
    twice("relu"),
    twice("reshape"),
    twice("scatter_add"),
    twice("select"),
    twice("sigmoid"),
    twice("silu"),
    twice("sqrt"),
    twice("sub"),
    twice("sum"),
    twice("sum_all"),
    twice("tanh"),
    twice("to_format"),
    twice("transpose"),
    twice("var"),
];
