//! CensNet's layers, `gcn_node` and `gcn_edge`, and `gcn_pool`.

use super::{GcnGraph, cpu, cuda, first_order_only};
use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::matmul::equal_floats;
use crate::profile;
use crate::tensor::Tensor;

pub(super) const NODE: &str = "gcn_node";
pub(super) const EDGE: &str = "gcn_edge";
pub(super) const POOL: &str = "gcn_pool";

/// What of a graph a layer reads, for the account.
fn reading<'a>(graph: &'a GcnGraph, tensors: &[&'a Tensor]) -> Vec<&'a Tensor> {
    let mut all = tensors.to_vec();
    all.extend([graph.rows(), graph.columns()]);
    all
}

/// # Errors
/// x is not (B, `rows`, C), `weights` not (B, `weighted`, 1) or the bias not (C).
fn checked(
    op: &'static str,
    x: &Tensor,
    rows: usize,
    weights: &Tensor,
    weighted: usize,
    bias: Option<&Tensor>,
    batch: usize,
) -> Result<()> {
    let channels = x.shape().last().copied().unwrap_or(0);
    let fits = x.shape() == [batch, rows, channels]
        && weights.shape() == [batch, weighted, 1]
        && bias.is_none_or(|b| b.shape() == [channels]);
    if !fits {
        let mut shapes = vec![x.shape(), weights.shape()];
        shapes.extend(bias.map(Tensor::shape));
        let expected =
            format!("x ({batch}, {rows}, C), weights ({batch}, {weighted}, 1), bias (C)");
        return Err(Error::shape(op, &shapes, expected));
    }
    Ok(())
}

/// A node layer: the mean of what neighbours send, weighted by edges,
///
/// y_i = sum over the edges (i, j) of A_ij M_ij x_j + bias
///
/// for x (B, N, C) and `weights` w (B, E, 1). A is the adjacency D^-1/2 A D^-1/2 with
/// D the number of edges that leave a node; M = T diag(w) T^t off the diagonal,
/// which is the weight of (i, j) and of (j, i) where that is an edge too, and 1 on
/// it.
///
/// A node that no edge leaves has D^-1/2 = 0: it receives the bias alone, and what it
/// sends is left out. The published code has NaN for the whole sample there.
///
/// # Errors
/// Shapes that do not fit the graph, several dtypes.
pub fn gcn_node(
    x: &Tensor,
    weights: &Tensor,
    bias: Option<&Tensor>,
    graph: &GcnGraph,
) -> Result<Tensor> {
    let (batch, nodes, edges) = (graph.batch(), graph.nodes(), graph.edges());
    checked(NODE, x, nodes, weights, edges, bias, batch)?;
    let mut inputs = vec![x, weights];
    inputs.extend(bias);
    equal_floats(NODE, &inputs)?;
    let y = profile::call(NODE, &reading(graph, &inputs), || match x.device() {
        Device::Cpu => cpu::node(x, weights, bias, graph),
        Device::Cuda(_) => cuda::node(x, weights, bias, graph),
    })?;
    let graph = graph.clone();
    Ok(record(NODE, &inputs, y, Save::inputs(0b11), move |b| {
        first_order_only(NODE, b)?;
        let (x, w, g) = (b.input(0)?, b.input(1)?, &b.grad);
        let of_x = b.when(0, || {
            profile::call(NODE, &reading(&graph, &[g, &w]), || match g.device() {
                Device::Cpu => cpu::node_input_gradient(g, &w, &graph),
                Device::Cuda(_) => cuda::node_input_gradient(g, &w, &graph),
            })
        })?;
        let of_weights = b.when(1, || {
            profile::call(NODE, &reading(&graph, &[g, &x]), || match g.device() {
                Device::Cpu => cpu::node_weight_gradient(g, &x, &graph),
                Device::Cuda(_) => cuda::node_weight_gradient(g, &x, &graph),
            })
        })?;
        let of_bias = b.when(2, || ops::sum(g, &[0, 1], false))?;
        Ok(vec![of_x, of_weights, of_bias])
    }))
}

/// An edge layer: what neighbouring edges send, weighted by the nodes they share,
///
/// y_e = sum over the neighbours f of e of S_ef / max_h(S_hf) z_f + bias
///
/// for z (B, E, F) and `weights` v (B, N, 1). Edges are neighbours that share a node,
/// and each is its own. S_ef = M_ef / sqrt((d_e + 1) (d_f + 1)) with d the number of
/// neighbours and M = T^t diag(v) T off the diagonal, the sum of v over the nodes
/// that both touch (a loop touches its node twice), and 1 on it, which keeps the
/// maximum above 0.
///
/// The gradient goes through the maximum, to the first of equal entries.
///
/// # Errors
/// Shapes that do not fit the graph, several dtypes.
pub fn gcn_edge(
    z: &Tensor,
    weights: &Tensor,
    bias: Option<&Tensor>,
    graph: &GcnGraph,
) -> Result<Tensor> {
    let (batch, nodes, edges) = (graph.batch(), graph.nodes(), graph.edges());
    checked(EDGE, z, edges, weights, nodes, bias, batch)?;
    let mut inputs = vec![z, weights];
    inputs.extend(bias);
    equal_floats(EDGE, &inputs)?;
    let (y, largest) = profile::call(EDGE, &reading(graph, &inputs), || match z.device() {
        Device::Cpu => cpu::edge(z, weights, bias, graph),
        Device::Cuda(_) => cuda::edge(z, weights, bias, graph),
    })?;
    let graph = graph.clone();
    Ok(record(EDGE, &inputs, y, Save::inputs(0b11), move |b| {
        first_order_only(EDGE, b)?;
        let (z, v, g) = (b.input(0)?, b.input(1)?, &b.grad);
        let [value, place] = &largest;
        let read = reading(&graph, &[g, &v, &z, value, place]);
        let [of_z, of_weights] = profile::call(EDGE, &read, || match g.device() {
            Device::Cpu => cpu::edge_gradients(g, &z, &v, &largest, &graph),
            Device::Cuda(_) => cuda::edge_gradients(g, &z, &v, &largest, &graph),
        })?;
        let of_bias = b.when(2, || ops::sum(g, &[0, 1], false))?;
        Ok(vec![Some(of_z), Some(of_weights), of_bias])
    }))
}

/// The edges at their nodes: T z N / E, for z (B, E, F) -> (B, N, F); the sum over the
/// edges that leave a node and over those that enter it, a loop being both, in
/// relation to the mean number of edges that leave one.
///
/// # Errors
/// A shape that does not fit the graph.
pub fn gcn_pool(z: &Tensor, graph: &GcnGraph) -> Result<Tensor> {
    let (batch, edges) = (graph.batch(), graph.edges());
    let channels = z.shape().last().copied().unwrap_or(0);
    if z.shape() != [batch, edges, channels] {
        let expected = format!("({batch}, {edges}, F) is needed for this graph");
        return Err(Error::shape(POOL, &[z.shape()], expected));
    }
    equal_floats(POOL, &[z])?;
    let y = profile::call(POOL, &reading(graph, &[z]), || match z.device() {
        Device::Cpu => cpu::pool(z, graph),
        Device::Cuda(_) => cuda::pool(z, graph),
    })?;
    let graph = graph.clone();
    Ok(record(POOL, &[z], y, Save::NONE, move |b| {
        first_order_only(POOL, b)?;
        let g = &b.grad;
        let dz = profile::call(POOL, &reading(&graph, &[g]), || match g.device() {
            Device::Cpu => cpu::pool_gradient(g, &graph),
            Device::Cuda(_) => cuda::pool_gradient(g, &graph),
        })?;
        Ok(vec![Some(dz)])
    }))
}
