//! `gcn_graph`: the strongest pairs of nodes as edges.

use super::{cpu, cuda};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops;
use crate::profile;
use crate::tensor::Tensor;

const OP: &str = "gcn_graph";

/// The graphs of a batch, all of N nodes and E directed edges: where the edges
/// go, which edges each node has, and how many neighbours each edge has. They are
/// constants: no gradient reaches the choice of edges.
#[derive(Clone, Debug)]
pub struct GcnGraph {
    pub(super) nodes: usize,
    /// See [`GcnGraph::rows`]; the others follow in the order of their functions.
    pub(super) tensors: [Tensor; 6],
    pub(super) reversed: bool,
}

impl GcnGraph {
    pub fn batch(&self) -> usize {
        self.rows().shape()[0]
    }

    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Edges of each sample.
    pub fn edges(&self) -> usize {
        self.rows().shape()[1]
    }

    /// The node that each edge leaves: (B, E), i64. Edges are in row-major order
    /// of the adjacency matrix, so ascending here.
    pub fn rows(&self) -> &Tensor {
        &self.tensors[0]
    }

    /// The node that each edge enters: (B, E), i64. A loop enters where it leaves.
    pub fn columns(&self) -> &Tensor {
        &self.tensors[1]
    }

    /// Node n is left by edges `out_starts[n]..out_starts[n + 1]`: (B, N + 1), i64.
    pub fn out_starts(&self) -> &Tensor {
        &self.tensors[2]
    }

    /// Node n is entered by the edges that `in_edges[in_starts[n]..in_starts[n + 1]]`
    /// names: (B, N + 1), i64.
    pub fn in_starts(&self) -> &Tensor {
        &self.tensors[3]
    }

    /// The edges by the node that they enter, ascending for each: (B, E), i64.
    pub fn in_edges(&self) -> &Tensor {
        &self.tensors[4]
    }

    /// The number of edges that share a node with each edge, itself among them:
    /// (B, E), i64.
    pub fn edge_degrees(&self) -> &Tensor {
        &self.tensors[5]
    }

    /// 1 / the mean number of edges that leave a node.
    pub(super) fn pool_scale(&self) -> f64 {
        self.nodes as f64 / self.edges() as f64
    }

    /// The same graphs, with the transition matrix T (nodes x edges, which node an
    /// edge touches) of sample B - 1 - b in the layers and the pooling of sample b;
    /// adjacencies stay its own. The published TCGN stacks its matrices in this
    /// order, so that a sample's result depends on the batch.
    #[must_use]
    pub fn reversing_transitions(self) -> Self {
        Self {
            reversed: true,
            ..self
        }
    }
}

/// The `edges` largest entries of the mean over heads of `attention` (B, H, N, N),
/// of each sample alone. Of equal entries those earlier in row-major order are
/// taken first, so that every sample has the same number of edges; NaN counts as
/// larger than every number.
///
/// # Errors
/// Another shape, or a number of edges that is 0 or above N N.
pub fn gcn_graph(attention: &Tensor, edges: usize) -> Result<GcnGraph> {
    let nodes = checked(attention, edges)?;
    let attention = attention.detach();
    let tensors = profile::call(OP, &[&attention], || match attention.device() {
        Device::Cpu => cpu::graph(&attention, edges),
        Device::Cuda(_) => cuda::graph(&attention, edges),
    })?;
    Ok(GcnGraph {
        nodes,
        tensors,
        reversed: false,
    })
}

/// The least number of edges, from `edges` upwards, at which the smallest entry
/// that [`gcn_graph`] would take occurs once in every sample: how the published
/// TCGN counts, for the whole batch at once.
///
/// The attention is brought to the host, since the number decides the shapes of
/// all that follows.
///
/// # Errors
/// As of [`gcn_graph`]; the attention cannot be read while a graph is captured.
pub fn edges_without_ties(attention: &Tensor, edges: usize) -> Result<usize> {
    let nodes = checked(attention, edges)?;
    let means = cpu::mean_over_heads(&attention.detach().to(&Device::Cpu)?)?;
    let (sorted, _) = ops::sort(&means, 1, true)?;
    let sorted = sorted.to_f64_vec()?;
    let count = nodes * nodes;
    let alone = |row: &[f64], at: usize| {
        let equals = |i: Option<usize>| i.and_then(|i| row.get(i)) == Some(&row[at]);
        !equals(at.checked_sub(1)) && !equals(Some(at + 1))
    };
    let unique = |k: &usize| sorted.chunks(count.max(1)).all(|row| alone(row, k - 1));
    Ok((edges..count).find(unique).unwrap_or(count))
}

/// The number of nodes.
fn checked(attention: &Tensor, edges: usize) -> Result<usize> {
    let &[_, heads, nodes, columns] = attention.shape() else {
        let expected = "the attention must be (B, heads, N, N)";
        return Err(Error::shape(OP, &[attention.shape()], expected));
    };
    if nodes != columns || heads == 0 {
        let expected = "the attention must be (B, heads, N, N)";
        return Err(Error::shape(OP, &[attention.shape()], expected));
    }
    if !attention.dtype().is_float() {
        return Err(Error::dtype(OP, &[attention.dtype()], "a float is needed"));
    }
    if edges == 0 || edges > nodes * nodes {
        let problem = format!(
            "{edges} edges of {nodes} nodes; 1 to {} exist",
            nodes * nodes
        );
        return Err(Error::op(OP, problem));
    }
    Ok(nodes)
}
