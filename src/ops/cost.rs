//! What an operator must do at least: arithmetic, and bytes of memory.
//!
//! Benches, `eosin profile` and the ledger of launches and traffic read it here
//! and nowhere else. The rule of a registered operator stands in its line of
//! [`REGISTRY`], so there is no operator without one.
//!
//! Conventions:
//! - a multiply and an add are 2 FLOPs (Golub and Van Loan, Matrix
//!   Computations, section 1.1.15), so a network of n GMAC has 2 n GFLOP;
//! - products and convolutions count these alone, not bias, activation or
//!   residual of the same pass; a convolution counts its taps on padding too
//!   and so gives the figures that papers give (He et al. 2016, Table 1);
//! - everything else counts operations per element of its largest operand,
//!   each +, -, x, /, comparison or function (exp, erf, a root ..) being one:
//!   such operators meet the memory long before the arithmetic, so bytes are
//!   their floor and the FLOPs are there to be added up;
//! - a gradient that is an operator of its own (that of a convolution) has a
//!   rule of its own; one that runs in its operator's name (that of a norm)
//!   counts the same operations over its own operands;
//! - bytes: every operand read once and every result written once. An operand
//!   that repeats along an axis counts once, lanes that pad channels do not
//!   count, and where an index picks elements only those are read. What a view
//!   moves is nothing.

use crate::dtype::DType;
use crate::error::Result;
use crate::ops::REGISTRY;
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Least work of one or more calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub flops: u64,
    /// Read and written.
    pub bytes: u64,
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            flops: self.flops.saturating_add(other.flops),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(calls: I) -> Self {
        calls.fold(Self::default(), |a, b| a + b)
    }
}

/// Shape and dtype of what an operator reads or writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operand {
    shape: Shape,
    dtype: DType,
    /// Elements that lie in memory.
    stored: usize,
}

impl Operand {
    /// # Errors
    /// Too many axes or elements.
    pub fn new(shape: &[usize], dtype: DType) -> Result<Self> {
        let shape = Shape::new(shape)?;
        Ok(Self {
            shape,
            dtype,
            stored: shape.elements(),
        })
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// Without repetitions.
    pub fn bytes(&self) -> u64 {
        times(&[self.stored, self.dtype.size()])
    }

    fn axis(&self, i: usize) -> usize {
        self.shape.get(i).copied().unwrap_or(1)
    }

    fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Elements of one slice of axis `i`.
    fn per(&self, i: usize) -> usize {
        self.elements().checked_div(self.axis(i)).unwrap_or(0)
    }
}

impl From<&Tensor> for Operand {
    fn from(t: &Tensor) -> Self {
        let layout = t.layout();
        let axes = layout.shape().iter().zip(layout.strides());
        let stored = match t.elements() {
            0 => 0,
            _ => (axes.filter(|(_, stride)| **stride > 0))
                .map(|(size, _)| size)
                .product(),
        };
        Self {
            shape: *layout.shape(),
            dtype: t.dtype(),
            stored,
        }
    }
}

fn times(factors: &[usize]) -> u64 {
    let factors = factors.iter().map(|&n| n as u64);
    factors.fold(1, u64::saturating_mul)
}

/// How an operator's cost follows from its operands.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// Another way to look at the same memory.
    View,
    /// So many FLOPs per element of the largest operand or result.
    Each(u64),
    /// The same where an index picks what is read of the first operand.
    Picked(u64),
    /// The FLOPs of these operands and this first result.
    Product(fn(&[Operand], &Operand) -> u64),
}

impl Rule {
    /// The cost of one call.
    pub fn cost(self, inputs: &[Operand], outputs: &[Operand]) -> Cost {
        let moved = |operands: &[Operand]| {
            let bytes = operands.iter().map(Operand::bytes);
            bytes.fold(0, u64::saturating_add)
        };
        let all = moved(inputs).saturating_add(moved(outputs));
        match self {
            Self::View => Cost::default(),
            Self::Each(flops) => {
                let sizes = inputs.iter().chain(outputs).map(Operand::elements);
                Cost {
                    flops: flops.saturating_mul(sizes.max().unwrap_or(0) as u64),
                    bytes: all,
                }
            }
            Self::Picked(flops) => {
                let written = moved(outputs);
                let indices = inputs.get(1..).map_or(0, moved);
                let elements = outputs.first().map_or(0, Operand::elements);
                Cost {
                    flops: flops.saturating_mul(elements as u64),
                    bytes: written.saturating_mul(2).saturating_add(indices),
                }
            }
            Self::Product(flops) => Cost {
                flops: outputs.first().map_or(0, |y| flops(inputs, y)),
                bytes: all,
            },
        }
    }
}

/// What runs in the name of no operator: all gradients of one at once, updates,
/// clipping, copies within a device (`copy`) and between two (`to`).
const OTHERS: &[(&str, Rule)] = &[
    ("attention_gradient", ATTENTION_GRADIENT),
    ("clip_grad_norm", PER_NUMBER_READ),
    ("conv2d_gradient", CONVOLUTION_GRADIENT),
    ("copy", Rule::Each(0)),
    ("count", Rule::Each(1)),
    ("fill", Rule::Each(0)),
    ("linear_gradient", LINEAR_GRADIENT),
    ("linear_top_mean_chosen", Rule::Each(1)),
    ("linear_top_mean_gradient", LINEAR_TOP_MEAN_GRADIENT),
    ("step", PER_NUMBER_READ),
    ("to", Rule::Each(0)),
];

/// Of many tensors at once, 3 FLOPs per number: Adam's 12 per parameter, over
/// parameter, gradient and two moments; square, sum and scale of a gradient.
const PER_NUMBER_READ: Rule = Rule::Product(|inputs, _| {
    let numbers: u64 = inputs.iter().map(|t| t.elements() as u64).sum();
    numbers.saturating_mul(3)
});

/// The rule of a registered operator, or of what runs in the name of none, by its
/// own; `None` for a name that is neither.
pub fn rule(op: &str) -> Option<Rule> {
    let registered = REGISTRY.iter().find(|r| r.name == op).map(|r| r.cost);
    registered.or_else(|| OTHERS.iter().find(|(name, _)| *name == op).map(|o| o.1))
}

/// The least work of one call of `op`: operands in the order of its parameters,
/// the absent ones left out. `None` for a name that [`rule`] does not know.
///
/// ```
/// use eosin::DType;
/// use eosin::ops::{Operand, cost};
///
/// # fn main() -> eosin::Result<()> {
/// let of = |shape: &[usize]| Operand::new(shape, DType::F32);
/// let product = cost("matmul", &[of(&[64, 384])?, of(&[384, 1152])?], &[of(&[64, 1152])?]);
/// assert_eq!(product.map(|c| c.flops), Some(2 * 64 * 384 * 1152));
/// # Ok(())
/// # }
/// ```
pub fn cost(op: &str, inputs: &[Operand], outputs: &[Operand]) -> Option<Cost> {
    Some(rule(op)?.cost(inputs, outputs))
}

/// (.., M, K) x (.., K, N).
pub(super) const MATMUL: Rule =
    Rule::Product(|inputs, y| times(&[2, y.elements(), inputs.first().map_or(0, Operand::last)]));

/// x (B, T, E), w (G, E): the product alone, as for what follows other products.
pub(super) const LINEAR_TOP_MEAN: Rule = Rule::Product(|inputs, _| match inputs {
    [x, w, ..] => times(&[2, x.elements(), w.axis(0)]),
    _ => 0,
});

/// dy (B, G), chosen (B, T, words), and w (G, E) or x (B, T, E): one product.
const LINEAR_TOP_MEAN_GRADIENT: Rule = Rule::Product(|inputs, _| match inputs {
    [dy, chosen, other, ..] => times(&[2, chosen.axis(0), chosen.axis(1), dy.last(), other.last()]),
    _ => 0,
});

/// x (N, C, H, W), w (K, C/groups, R, S): each output sums C/groups R S products.
pub(super) const CONVOLUTION: Rule =
    Rule::Product(|inputs, y| times(&[2, y.elements(), inputs.get(1).map_or(0, |w| w.per(0))]));

/// x or gy (N, K, P, Q), w (K, C/groups, R, S): each input element is spread
/// over C/groups R S outputs.
pub(super) const TRANSPOSED_CONVOLUTION: Rule = Rule::Product(|inputs, _| match inputs {
    [x, w, ..] => times(&[2, x.elements(), w.per(0)]),
    _ => 0,
});

/// x (.., K), g (.., N) and w (N, K) -> the gradients of x and w, two products; without w
/// that of w alone.
const LINEAR_GRADIENT: Rule = Rule::Product(|inputs, _| match inputs {
    [x, _, w, ..] => times(&[4, x.elements(), w.axis(0)]),
    [x, g] => times(&[2, x.elements(), g.last()]),
    _ => 0,
});

/// x, gy and w of a convolution -> the gradients of x and w, of which each has the
/// products of the convolution.
const CONVOLUTION_GRADIENT: Rule = Rule::Product(|inputs, _| match inputs {
    [_, gy, w, ..] => times(&[4, gy.elements(), w.per(0)]),
    _ => 0,
});

/// x (N, C, H, W), gy (N, K, P, Q) -> (K, C/groups, R, S).
pub(super) const WEIGHT_GRADIENT: Rule = Rule::Product(|inputs, gw| {
    let gy = inputs.get(1).map_or(0, Operand::elements);
    times(&[2, gy, gw.per(0)])
});

/// q (.., M, D), k (.., N, D), v (.., N, E): two products, and of each score
/// what [`SOFTMAX`] counts.
pub(super) const ATTENTION: Rule = Rule::Product(|inputs, y| match inputs {
    [q, k, ..] => {
        let keys = k.shape.len().checked_sub(2).map_or(1, |i| k.axis(i));
        let rows = y.elements().checked_div(y.last()).unwrap_or(0);
        times(&[rows, keys, 2 * q.last() + 2 * y.last() + 5])
    }
    _ => 0,
});

/// q (.., M, D), k (.., N, D), v (.., N, E) and what the gradient is made from: the
/// scores again, three products of D and two of E, and of each score difference and
/// exponential, product and sum, difference and product.
const ATTENTION_GRADIENT: Rule = Rule::Product(|inputs, _| match inputs {
    [q, k, v, ..] => {
        let keys = k.shape.len().checked_sub(2).map_or(1, |i| k.axis(i));
        let rows = q.elements().checked_div(q.last()).unwrap_or(0);
        times(&[rows, keys, 6 * q.last() + 4 * v.last() + 6])
    }
    _ => 0,
});

/// x (B, N, C), .., edges (B, E): a product and a sum for each channel of an edge.
pub(super) const GCN_NODE: Rule = Rule::Product(|inputs, _| match inputs {
    [x, .., edges] => times(&[2, edges.elements(), x.last()]),
    _ => 0,
});

/// z (B, E, F), v (B, N, 1), .., edges (B, E): the same for each of the 4 E^2 / N
/// pairs of neighbouring edges, which are as many where every node has as many edges,
/// and more elsewhere.
pub(super) const GCN_EDGE: Rule = Rule::Product(|inputs, _| match inputs {
    [z, v, .., edges] => {
        let pairs = times(&[4, edges.elements(), edges.elements()]);
        let pairs = pairs.checked_div(v.elements() as u64).unwrap_or(0);
        times(&[2, z.last()]).saturating_mul(pairs)
    }
    _ => 0,
});

/// x (B, N, C), .., edges (B, E): three products of vectors and a difference. What is
/// picked of the attention is left out, being less than the result.
pub(super) const GCN_EDGE_FEATURES: Rule = Rule::Product(|inputs, _| match inputs {
    [x, .., edges] => times(&[9, edges.elements(), x.last()]),
    _ => 0,
});

/// Maximum, difference, exponential, sum, quotient.
pub(super) const SOFTMAX: Rule = Rule::Each(5);

/// Sum; difference, square, sum; scale, weight, bias.
pub(super) const NORM: Rule = Rule::Each(7);

/// The sum, and its norm.
pub(super) const ADD_NORM: Rule = Rule::Each(8);

/// Two taps along each of two axes.
pub(super) const RESIZE: Rule = Rule::Each(8);

#[cfg(test)]
mod tests {
    use super::*;

    fn operands(shapes: &[&[usize]]) -> Vec<Operand> {
        let of = |s: &&[usize]| Operand::new(s, DType::F32).unwrap();
        shapes.iter().map(of).collect()
    }

    fn of(op: &str, inputs: &[&[usize]], output: &[usize]) -> Cost {
        cost(op, &operands(inputs), &operands(&[output])).unwrap()
    }

    #[test]
    fn products_are_two_per_multiply_add() {
        // 3 x 5 dot products of 7; 21 + 35 read, 15 written.
        let product = of("matmul", &[&[3, 7], &[7, 5]], &[3, 5]);
        assert_eq!((product.flops, product.bytes), (210, 4 * 71));
        // A batch of 2 against one right operand, which is read once.
        let product = of("matmul", &[&[2, 3, 7], &[7, 5]], &[2, 3, 5]);
        assert_eq!((product.flops, product.bytes), (420, 4 * (42 + 35 + 30)));
        // The bias is read; adding it is part of the pass.
        let linear = of("linear", &[&[64, 2048], &[512, 2048], &[512]], &[64, 512]);
        assert_eq!(linear.flops, 134_217_728);
        assert_eq!(linear.bytes, 4 * (131_072 + 1_048_576 + 512 + 32_768));
        // 48 scores of 8 products and 5 for the softmax, 24 outputs of 6 products.
        let attention = of(
            "attention",
            &[&[2, 4, 8], &[2, 6, 8], &[2, 6, 3]],
            &[2, 4, 3],
        );
        assert_eq!(attention.flops, 48 * 16 + 24 * 6 * 2 + 48 * 5);
        // 48 scores: 3 times 8 products, twice 3, and 6.
        let gradient = of(
            "attention_gradient",
            &[&[2, 4, 8], &[2, 6, 8], &[2, 6, 3], &[2, 4, 3]],
            &[2, 4, 8],
        );
        assert_eq!(gradient.flops, 48 * (48 + 12 + 6));
    }

    /// A ResNet's 3 x 3: 118 MMAC per image in each direction.
    #[test]
    fn the_directions_of_a_convolution_cost_the_same_arithmetic() {
        let (x, w, y): (&[usize], &[usize], &[usize]) =
            (&[8, 64, 56, 56], &[64, 64, 3, 3], &[8, 64, 56, 56]);
        let macs = 8 * 56 * 56 * 64 * 64 * 9;
        let bytes = 4 * (2 * 8 * 64 * 56 * 56 + 64 * 64 * 9);
        for (op, inputs, output) in [
            ("conv2d", [x, w], y),
            ("conv2d_input_gradient", [y, w], x),
            ("conv2d_weight_gradient", [x, y], w),
            ("conv_transpose2d", [y, w], x),
            ("conv_bn_act", [x, w], y),
        ] {
            let found = of(op, &inputs, output);
            assert_eq!((found.flops, found.bytes), (2 * macs, bytes), "{op}");
        }
    }

    #[test]
    fn strides_and_groups_are_counted_by_output() {
        // 7 x 7, stride 2: 112 x 112 outputs of 3 x 49 products, 118 MMAC.
        let stem = of(
            "conv2d",
            &[&[1, 3, 224, 224], &[64, 3, 7, 7]],
            &[1, 64, 112, 112],
        );
        assert_eq!(stem.flops, 2 * 118_013_952);
        // Depthwise: 9 products per output, whatever the channels.
        let (x, w): (&[usize], &[usize]) = (&[8, 165, 56, 56], &[165, 1, 3, 3]);
        let depthwise = 2 * 9 * 8 * 165 * 56 * 56;
        assert_eq!(of("conv2d", &[x, w], x).flops, depthwise);
        assert_eq!(of("conv2d_input_gradient", &[x, w], x).flops, depthwise);
        assert_eq!(of("conv2d_weight_gradient", &[x, x], w).flops, depthwise);
    }

    #[test]
    fn bytes_are_those_that_must_move() {
        // A bias against rows: 40 + 4 read, 40 written.
        assert_eq!(of("add", &[&[10, 4], &[4]], &[10, 4]).bytes, 4 * 84);
        // 3 of 100 rows are read.
        let index = Operand::new(&[3], DType::I64).unwrap();
        let [x, y] = [[100, 8], [3, 8]].map(|s| Operand::new(&s, DType::F32).unwrap());
        let picked = cost("index_select", &[x, index], &[y]).unwrap();
        assert_eq!((picked.flops, picked.bytes), (0, 3 * 8 + 2 * 4 * 24));
        assert_eq!(of("reshape", &[&[6]], &[2, 3]), Cost::default());
        // bf16 in, f32 out.
        let half = Operand::new(&[6], DType::BF16).unwrap();
        let single = Operand::new(&[6], DType::F32).unwrap();
        assert_eq!(cost("cast", &[half], &[single]).unwrap().bytes, 36);
        let row = Tensor::zeros(&[1, 5], DType::F32).unwrap();
        let repeated = crate::ops::broadcast_to(&row, &[7, 5]).unwrap();
        let operand = Operand::from(&repeated);
        assert_eq!((operand.elements(), operand.bytes()), (35, 20));
    }

    #[test]
    fn names_that_mean_nothing_have_no_cost() {
        assert!(rule("conv3d").is_none());
        let empty = of("matmul", &[&[0, 7], &[7, 5]], &[0, 5]);
        assert_eq!((empty.flops, empty.bytes), (0, 140));
    }
}
