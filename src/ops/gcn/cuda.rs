use bytemuck::{Pod, Zeroable};

use super::GcnGraph;
use super::edge_features::{COMMON, GEOMETRY, OP as FEATURES};
use super::layers::{EDGE, NODE, POOL};
use crate::device::cuda::kernels::{self, Kernel};
use crate::device::cuda::{Address, CudaDevice, count, device_of, f32_only};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::elementwise::grid;
use crate::ops::normalise::address_or_none;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

const GRAPH: &str = "gcn_graph";

/// Warps of a block.
const WARPS: usize = 8;
/// Channels of a warp with one for each lane; a mirror of `WARP` in
/// kernels/common/base.cuh.
const LANES: usize = 32;
/// Channels of a warp that sums them all; a mirror of `CHANNELS` in
/// kernels/gcn_edge.cu and kernels/gcn_pool.cu.
const CHANNELS: usize = 12;
/// Entries whose ranks fit beside the counts in the shared memory of a block, of
/// which every GPU since sm_80 has 163 KiB.
const SHARED_PAIRS: usize = 39_424;

/// A mirror of `Graphs` in kernels/common/graph.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Graphs {
    tensors: [Address; 6],
    batch: u32,
    nodes: u32,
    edges: u32,
    reversed: u32,
}

impl Graphs {
    fn of(op: &'static str, graph: &GcnGraph) -> Result<Self> {
        let mut tensors = [Address::default(); 6];
        for (address, tensor) in tensors.iter_mut().zip(&graph.tensors) {
            *address = tensor.address(op)?;
        }
        Ok(Self {
            tensors,
            batch: count(op, graph.batch())?,
            nodes: count(op, graph.nodes())?,
            edges: count(op, graph.edges())?,
            reversed: graph.reversed.into(),
        })
    }
}

/// The device of a graph and `tensors` of f32, and these in row-major order.
fn operands<const N: usize>(
    op: &'static str,
    graph: &GcnGraph,
    tensors: [&Tensor; N],
) -> Result<(CudaDevice, [Tensor; N])> {
    f32_only(op, &tensors)?;
    let mut all = tensors.to_vec();
    all.extend(&graph.tensors);
    let device = device_of(op, &all)?;
    let mut plain = tensors.map(Tensor::detach);
    for tensor in &mut plain {
        *tensor = tensor.to_format(Format::Contiguous)?;
    }
    Ok((device, plain))
}

fn empty(device: &CudaDevice, shape: &[usize], dtype: DType) -> Result<Tensor> {
    device.empty(Layout::contiguous(Shape::new(shape)?), dtype)
}

/// Blocks for so many warps, of which each takes `each` of `channels`.
fn warps(units: usize, channels: usize, each: usize) -> [usize; 3] {
    [units.div_ceil(WARPS), channels.div_ceil(each), 1]
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Select {
    attention: Address,
    rows: Address,
    columns: Address,
    scratch: Address,
    heads: u32,
    nodes: u32,
    edges: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Incidence {
    tensors: [Address; 6],
    batch: u32,
    nodes: u32,
    edges: u32,
    padding: u32,
}

/// The tensors of a [`GcnGraph`].
pub(super) fn graph(attention: &Tensor, edges: usize) -> Result<[Tensor; 6]> {
    let device = device_of(GRAPH, &[attention])?;
    f32_only(GRAPH, &[attention])?;
    let &[batch, heads, nodes, _] = attention.shape() else {
        return Err(Error::op(GRAPH, "internal: four axes"));
    };
    let attention = attention.to_format(Format::Contiguous)?;
    let list = |width| empty(&device, &[batch, width], DType::I64);
    let tensors = [
        list(edges)?,
        list(edges)?,
        list(nodes + 1)?,
        list(nodes + 1)?,
        list(edges)?,
        list(edges)?,
    ];
    let pairs = nodes * nodes;
    count(GRAPH, batch * pairs)?;
    let in_shared = pairs <= SHARED_PAIRS;
    let scratch = match in_shared {
        true => None,
        false => Some(empty(&device, &[batch, pairs], DType::I32)?),
    };
    let shared = if in_shared { pairs * 4 } else { 0 };
    let params = Select {
        attention: attention.address(GRAPH)?,
        rows: tensors[0].address(GRAPH)?,
        columns: tensors[1].address(GRAPH)?,
        scratch: address_or_none(GRAPH, scratch.as_ref())?,
        heads: count(GRAPH, heads)?,
        nodes: count(GRAPH, nodes)?,
        edges: count(GRAPH, edges)?,
        padding: 0,
    };
    let kernel = &kernels::EOSIN_GCN_GRAPH_FORWARD_SELECT_F32;
    device.launch(kernel, [batch, 1, 1], shared, &params)?;
    let mut addresses = [Address::default(); 6];
    for (address, tensor) in addresses.iter_mut().zip(&tensors) {
        *address = tensor.address(GRAPH)?;
    }
    let params = Incidence {
        tensors: addresses,
        batch: count(GRAPH, batch)?,
        nodes: params.nodes,
        edges: params.edges,
        padding: 0,
    };
    let kernel = &kernels::EOSIN_GCN_GRAPH_FORWARD_INCIDENCE_B8;
    let units = batch * (nodes + 1 + edges);
    device.launch(kernel, warps(units, 1, 1), 0, &params)?;
    Ok(tensors)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Features {
    out: Address,
    geometry: Address,
    attention: Address,
    x: Address,
    graphs: Graphs,
    heads: u32,
    channels: u32,
    grid_width: u32,
    padding: u32,
}

/// The features, and what their gradient needs of each edge; see cpu.rs.
pub(super) fn edge_features(
    attention: &Tensor,
    x: &Tensor,
    graph: &GcnGraph,
    grid_width: usize,
) -> Result<[Tensor; 2]> {
    let (device, [attention, x]) = operands(FEATURES, graph, [attention, x])?;
    let (heads, channels) = (attention.shape()[1], x.shape()[2]);
    let (batch, edges) = (graph.batch(), graph.edges());
    let y = empty(&device, &[batch, edges, heads + COMMON], DType::F32)?;
    let geometry = empty(&device, &[batch, edges, GEOMETRY], DType::F32)?;
    let params = Features {
        out: y.address(FEATURES)?,
        geometry: geometry.address(FEATURES)?,
        attention: attention.address(FEATURES)?,
        x: x.address(FEATURES)?,
        graphs: Graphs::of(FEATURES, graph)?,
        heads: count(FEATURES, heads)?,
        channels: count(FEATURES, channels)?,
        grid_width: count(FEATURES, grid_width)?,
        padding: 0,
    };
    let kernel = &kernels::EOSIN_GCN_EDGE_FEATURES_FORWARD_F32;
    device.launch(kernel, warps(batch * edges, 1, 1), 0, &params)?;
    Ok([y, geometry])
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct OfAttention {
    out: Address,
    g: Address,
    graphs: Graphs,
    heads: u32,
    padding: u32,
}

pub(super) fn attention_gradient(g: &Tensor, graph: &GcnGraph, heads: usize) -> Result<Tensor> {
    let (device, [g]) = operands(FEATURES, graph, [g])?;
    let (batch, nodes) = (graph.batch(), graph.nodes());
    let out = empty(&device, &[batch, heads, nodes, nodes], DType::F32)?;
    let params = OfAttention {
        out: out.address(FEATURES)?,
        g: g.address(FEATURES)?,
        graphs: Graphs::of(FEATURES, graph)?,
        heads: count(FEATURES, heads)?,
        padding: 0,
    };
    let kernel = &kernels::EOSIN_GCN_EDGE_FEATURES_BACKWARD_ATTENTION_F32;
    device.launch(kernel, grid(batch * nodes * nodes), 0, &params)?;
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct OfFeatureNodes {
    out: Address,
    g: Address,
    x: Address,
    geometry: Address,
    graphs: Graphs,
    channels: u32,
    width: u32,
}

pub(super) fn node_gradient(
    g: &Tensor,
    x: &Tensor,
    geometry: &Tensor,
    graph: &GcnGraph,
) -> Result<Tensor> {
    let (device, [g, x, geometry]) = operands(FEATURES, graph, [g, x, geometry])?;
    let (width, channels) = (g.shape()[2], x.shape()[2]);
    let out = empty(&device, x.shape(), DType::F32)?;
    let params = OfFeatureNodes {
        out: out.address(FEATURES)?,
        g: g.address(FEATURES)?,
        x: x.address(FEATURES)?,
        geometry: geometry.address(FEATURES)?,
        graphs: Graphs::of(FEATURES, graph)?,
        channels: count(FEATURES, channels)?,
        width: count(FEATURES, width)?,
    };
    let blocks = warps(graph.batch() * graph.nodes(), channels, LANES);
    let kernel = &kernels::EOSIN_GCN_EDGE_FEATURES_BACKWARD_NODES_F32;
    device.launch(kernel, blocks, 0, &params)?;
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Messages {
    out: Address,
    x: Address,
    weights: Address,
    bias: Address,
    graphs: Graphs,
    channels: u32,
    padding: u32,
}

pub(super) fn node(
    x: &Tensor,
    weights: &Tensor,
    bias: Option<&Tensor>,
    graph: &GcnGraph,
) -> Result<Tensor> {
    let kernel = &kernels::EOSIN_GCN_NODE_FORWARD_F32;
    messages(kernel, x, weights, bias, graph)
}

pub(super) fn node_input_gradient(
    g: &Tensor,
    weights: &Tensor,
    graph: &GcnGraph,
) -> Result<Tensor> {
    let kernel = &kernels::EOSIN_GCN_NODE_BACKWARD_NODES_F32;
    messages(kernel, g, weights, None, graph)
}

fn messages(
    kernel: &'static Kernel,
    x: &Tensor,
    weights: &Tensor,
    bias: Option<&Tensor>,
    graph: &GcnGraph,
) -> Result<Tensor> {
    let (device, [x, weights]) = operands(NODE, graph, [x, weights])?;
    let bias = plain_bias(NODE, graph, bias)?;
    let out = empty(&device, x.shape(), DType::F32)?;
    let channels = x.shape()[2];
    let params = Messages {
        out: out.address(NODE)?,
        x: x.address(NODE)?,
        weights: weights.address(NODE)?,
        bias: address_or_none(NODE, bias.as_ref())?,
        graphs: Graphs::of(NODE, graph)?,
        channels: count(NODE, channels)?,
        padding: 0,
    };
    let blocks = warps(graph.batch() * graph.nodes(), channels, LANES);
    device.launch(kernel, blocks, 0, &params)?;
    Ok(out)
}

fn plain_bias(op: &'static str, graph: &GcnGraph, bias: Option<&Tensor>) -> Result<Option<Tensor>> {
    let plain = |bias| operands(op, graph, [bias]).map(|(_, [bias])| bias);
    bias.map(plain).transpose()
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct OfWeights {
    out: Address,
    g: Address,
    x: Address,
    graphs: Graphs,
    channels: u32,
    padding: u32,
}

pub(super) fn node_weight_gradient(g: &Tensor, x: &Tensor, graph: &GcnGraph) -> Result<Tensor> {
    let (device, [g, x]) = operands(NODE, graph, [g, x])?;
    let (batch, edges) = (graph.batch(), graph.edges());
    let out = empty(&device, &[batch, edges, 1], DType::F32)?;
    let params = OfWeights {
        out: out.address(NODE)?,
        g: g.address(NODE)?,
        x: x.address(NODE)?,
        graphs: Graphs::of(NODE, graph)?,
        channels: count(NODE, x.shape()[2])?,
        padding: 0,
    };
    let kernel = &kernels::EOSIN_GCN_NODE_BACKWARD_WEIGHTS_F32;
    device.launch(kernel, warps(batch * edges, 1, 1), 0, &params)?;
    Ok(out)
}

/// A mirror of `EdgeLayer` in kernels/gcn_edge.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct EdgeLayer {
    out: Address,
    first: Address,
    parts: Address,
    z: Address,
    weights: Address,
    largest: Address,
    bias: Address,
    g: Address,
    graphs: Graphs,
    channels: u32,
    padding: u32,
}

/// The result; the largest entry of each column of S and its first row.
pub(super) fn edge(
    z: &Tensor,
    weights: &Tensor,
    bias: Option<&Tensor>,
    graph: &GcnGraph,
) -> Result<(Tensor, [Tensor; 2])> {
    let (device, [z, weights]) = operands(EDGE, graph, [z, weights])?;
    let bias = plain_bias(EDGE, graph, bias)?;
    let (batch, edges, channels) = (graph.batch(), graph.edges(), z.shape()[2]);
    let largest = empty(&device, &[batch, edges, 1], DType::F32)?;
    let first = empty(&device, &[batch, edges, 1], DType::I64)?;
    let mut params = EdgeLayer {
        out: largest.address(EDGE)?,
        first: first.address(EDGE)?,
        parts: Address::default(),
        z: z.address(EDGE)?,
        weights: weights.address(EDGE)?,
        largest: largest.address(EDGE)?,
        bias: address_or_none(EDGE, bias.as_ref())?,
        g: Address::default(),
        graphs: Graphs::of(EDGE, graph)?,
        channels: count(EDGE, channels)?,
        padding: 0,
    };
    let kernel = &kernels::EOSIN_GCN_EDGE_FORWARD_LARGEST_F32;
    device.launch(kernel, warps(batch * edges, 1, 1), 0, &params)?;
    let out = empty(&device, z.shape(), DType::F32)?;
    params.out = out.address(EDGE)?;
    let kernel = &kernels::EOSIN_GCN_EDGE_FORWARD_F32;
    device.launch(kernel, warps(batch * edges, channels, CHANNELS), 0, &params)?;
    Ok((out, [largest, first]))
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct OfEdgeNodes {
    out: Address,
    parts: Address,
    graphs: Graphs,
}

/// Those of z and of the weights.
pub(super) fn edge_gradients(
    g: &Tensor,
    z: &Tensor,
    weights: &Tensor,
    [largest, first]: &[Tensor; 2],
    graph: &GcnGraph,
) -> Result<[Tensor; 2]> {
    let (device, [g, z, weights]) = operands(EDGE, graph, [g, z, weights])?;
    let (batch, nodes, edges) = (graph.batch(), graph.nodes(), graph.edges());
    let dz = empty(&device, z.shape(), DType::F32)?;
    let parts = empty(&device, &[batch, edges, 2], DType::F32)?;
    let params = EdgeLayer {
        out: dz.address(EDGE)?,
        first: first.address(EDGE)?,
        parts: parts.address(EDGE)?,
        z: z.address(EDGE)?,
        weights: weights.address(EDGE)?,
        largest: largest.address(EDGE)?,
        bias: Address::default(),
        g: g.address(EDGE)?,
        graphs: Graphs::of(EDGE, graph)?,
        channels: count(EDGE, z.shape()[2])?,
        padding: 0,
    };
    let kernel = &kernels::EOSIN_GCN_EDGE_BACKWARD_EDGES_F32;
    device.launch(kernel, warps(batch * edges, 1, 1), 0, &params)?;
    let dv = empty(&device, &[batch, nodes, 1], DType::F32)?;
    let params = OfEdgeNodes {
        out: dv.address(EDGE)?,
        parts: parts.address(EDGE)?,
        graphs: params.graphs,
    };
    let kernel = &kernels::EOSIN_GCN_EDGE_BACKWARD_NODES_F32;
    device.launch(kernel, warps(batch * nodes, 1, 1), 0, &params)?;
    Ok([dz, dv])
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Pool {
    out: Address,
    x: Address,
    graphs: Graphs,
    channels: u32,
    scale: f32,
}

pub(super) fn pool(z: &Tensor, graph: &GcnGraph) -> Result<Tensor> {
    let blocks = |channels| warps(graph.batch() * graph.nodes(), channels, CHANNELS);
    let kernel = &kernels::EOSIN_GCN_POOL_FORWARD_F32;
    pooled(kernel, z, graph, graph.nodes(), &blocks)
}

pub(super) fn pool_gradient(g: &Tensor, graph: &GcnGraph) -> Result<Tensor> {
    let blocks = |channels| grid(graph.batch() * graph.edges() * channels);
    let kernel = &kernels::EOSIN_GCN_POOL_BACKWARD_F32;
    pooled(kernel, g, graph, graph.edges(), &blocks)
}

fn pooled(
    kernel: &'static Kernel,
    x: &Tensor,
    graph: &GcnGraph,
    rows: usize,
    blocks: &dyn Fn(usize) -> [usize; 3],
) -> Result<Tensor> {
    let (device, [x]) = operands(POOL, graph, [x])?;
    let channels = x.shape()[2];
    let out = empty(&device, &[graph.batch(), rows, channels], DType::F32)?;
    let params = Pool {
        out: out.address(POOL)?,
        x: x.address(POOL)?,
        graphs: Graphs::of(POOL, graph)?,
        channels: count(POOL, channels)?,
        scale: graph.pool_scale() as f32,
    };
    count(POOL, out.elements())?;
    device.launch(kernel, blocks(channels), 0, &params)?;
    Ok(out)
}
