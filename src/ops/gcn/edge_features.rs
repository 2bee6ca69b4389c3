//! `gcn_edge_features`: what is known of each edge.

use super::{GcnGraph, cpu, cuda, first_order_only};
use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::matmul::equal_floats;
use crate::profile;
use crate::tensor::Tensor;

pub(super) const OP: &str = "gcn_edge_features";
/// Besides the attention of each head.
pub(super) const COMMON: usize = 4;
/// What the gradient of x needs of each edge.
pub(super) const GEOMETRY: usize = 4;

/// Features of the edges (i, j) of `graph`: (B, E, H + 4) from `attention`
/// (B, H, N, N) and node features `x` (B, N, C). In order:
/// - the attention of each head;
/// - its mean;
/// - 1 / (d / 3 + 1), d being the distance of the nodes on a grid of
///   `grid_width` columns;
/// - 1 / sqrt((|xi - xj|^2 + s) / s) with s = C / 2, rounded down;
/// - (cos + 1) / 2 of the angle between xi and xj; a node of zeros has cos 0.
///
/// The gradient goes to attention and x.
///
/// # Errors
/// Shapes that do not fit the graph, fewer than 2 channels, several dtypes.
pub fn gcn_edge_features(
    attention: &Tensor,
    x: &Tensor,
    graph: &GcnGraph,
    grid_width: usize,
) -> Result<Tensor> {
    let (batch, nodes) = (graph.batch(), graph.nodes());
    let heads = attention.shape().get(1).copied().unwrap_or(0);
    let channels = x.shape().last().copied().unwrap_or(0);
    let fits = attention.shape() == [batch, heads, nodes, nodes]
        && x.shape() == [batch, nodes, channels]
        && heads > 0;
    if !fits {
        let expected =
            format!("attention (B, heads, N, N), x (B, N, C) with B = {batch}, N = {nodes}");
        return Err(Error::shape(OP, &[attention.shape(), x.shape()], expected));
    }
    if channels < 2 || grid_width == 0 {
        let problem = format!(
            "{channels} channels on a grid of {grid_width} columns; \
             at least 2 channels and a column are needed"
        );
        return Err(Error::op(OP, problem));
    }
    equal_floats(OP, &[attention, x])?;
    let read = [x, graph.rows(), graph.columns()];
    let [y, geometry] = profile::call(OP, &read, || match x.device() {
        Device::Cpu => cpu::edge_features(attention, x, graph, grid_width),
        Device::Cuda(_) => cuda::edge_features(attention, x, graph, grid_width),
    })?;
    let graph = graph.clone();
    Ok(record(
        OP,
        &[attention, x],
        y,
        Save::inputs(0b10),
        move |b| {
            first_order_only(OP, b)?;
            let (x, g) = (b.input(1)?, &b.grad);
            let of_attention = b.when(0, || {
                profile::call(OP, &[g], || match g.device() {
                    Device::Cpu => cpu::attention_gradient(g, &graph, heads),
                    Device::Cuda(_) => cuda::attention_gradient(g, &graph, heads),
                })
            })?;
            let of_x = b.when(1, || {
                let read = [&x, g, &geometry, graph.rows(), graph.columns()];
                profile::call(OP, &read, || match g.device() {
                    Device::Cpu => cpu::node_gradient(g, &x, &geometry, &graph),
                    Device::Cuda(_) => cuda::node_gradient(g, &x, &geometry, &graph),
                })
            })?;
            Ok(vec![of_attention, of_x])
        },
    ))
}
