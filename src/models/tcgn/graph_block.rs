//! A graph block: convolutional features of a stage become the nodes of a graph
//! whose edges are where attention is strongest, messages go over it, and nodes
//! and edges are fused.

use super::cmt::{Block, BlockShape, PatchEmbed, split_heads, tokens};
use super::context::Context;
use super::convnext::Stage;
use super::encoder::{CHANNEL_HEADS, EncoderBlock, probabilities};
use crate::error::Result;
use crate::nn::{Dropout, Linear, Module, Param, Pass, Slot, State, key};
use crate::ops::{self, Activation, GcnGraph, half::wide};
use crate::random::Philox;
use crate::tensor::Tensor;

/// Heads of every attention between nodes.
pub(super) const HEADS: usize = 2;
/// Features of an edge: [`ops::gcn_edge_features`].
const EDGE: usize = HEADS + 4;
/// Edges kept per node on average.
pub const EDGES_PER_NODE: usize = 4;

/// Features of a node that a block gives.
pub(super) const NODE: usize = 48;

/// Attention between nodes, for the graph alone: keys are the convolutional
/// features, queries those of the transformer.
struct NodeAttention {
    k: Linear,
    q: Linear,
    value_transform: Linear,
}

impl NodeAttention {
    /// keys and queries (B, N, C) -> values (B, N, C), which the attention does not
    /// weigh, and attention (B, heads, N, N), with 1 added to the score of each node
    /// with itself. Both f32.
    fn forward(&self, keys: &Tensor, queries: &Tensor, context: &Context) -> Result<[Tensor; 2]> {
        let heads = |linear: &Linear, x: &Tensor| -> Result<Tensor> {
            wide(&split_heads(&linear.forward(x, context.pass)?, HEADS)?)
        };
        let (q, k) = (heads(&self.q, queries)?, heads(&self.k, keys)?);
        let (n, width) = (keys.shape()[1], keys.shape()[2]);
        let identity = ops::cast(&context.tables.identity(n)?, q.dtype())?;
        let scale = 1.0 / (width as f64).sqrt();
        let attention = probabilities(&q, &k, Some(&identity), scale)?;
        let values = wide(&self.value_transform.forward(keys, context.pass)?)?;
        Ok([values, attention])
    }
}

/// Weights of a node layer or an edge layer.
struct Messages {
    /// (in, out)
    weight: Param,
    /// How much each feature of what lies between counts: (1, features).
    p: Param,
    /// (out)
    bias: Param,
}

impl Messages {
    fn new([inputs, outputs]: [usize; 2], between: usize, random: &mut Philox) -> Result<Self> {
        let mut draw = |name: &str, shape: &[usize], bound: Option<f32>| -> Result<Param> {
            let mut values = vec![0.0; shape.iter().product()];
            match bound {
                Some(bound) => random.fill_uniform(&mut values, -bound, bound),
                None => random.fill_normal(&mut values, 0.0, 1.0),
            }
            Ok(Param::new(name, Tensor::from_slice(&values, shape)?))
        };
        let bound = Some(1.0 / (outputs as f32).sqrt());
        Ok(Self {
            weight: draw("weight", &[inputs, outputs], bound)?,
            p: draw("p", &[1, between], None)?,
            bias: draw("bias", &[outputs], bound)?,
        })
    }

    /// Node features after the messages along `graph` (CensNet, equation 4):
    /// nodes (B, N, C), edges (B, E, F) -> (B, N, outputs).
    fn nodes(
        &self,
        graph: &GcnGraph,
        nodes: &Tensor,
        edges: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor> {
        let [weight, p, bias] = [&self.weight, &self.p, &self.bias].map(|p| pass.tensor(p));
        let importance = ops::linear(edges, &p, None, Activation::None)?;
        let sent = ops::matmul(nodes, &weight)?;
        ops::gcn_node(&sent, &importance, Some(&bias), graph)
    }

    /// Edge features after the messages between edges of `graph` (equation 5).
    fn edges(
        &self,
        graph: &GcnGraph,
        nodes: &Tensor,
        edges: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor> {
        let [weight, p, bias] = [&self.weight, &self.p, &self.bias].map(|p| pass.tensor(p));
        let importance = ops::linear(nodes, &p, None, Activation::None)?;
        let sent = ops::matmul(edges, &weight)?;
        ops::gcn_edge(&sent, &importance, Some(&bias), graph)
    }
}

impl State for Messages {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        for param in [&self.weight, &self.p, &self.bias] {
            visit(key(prefix, param.name()), Slot::Param(param.clone()));
        }
    }
}

/// Node layer, edge layer, node layer.
struct CensNet {
    gc1: Messages,
    gc2: Messages,
    gc3: Messages,
    dropout: Dropout,
}

impl CensNet {
    fn new(width: usize, dropout: f64, random: &mut Philox) -> Result<Self> {
        Ok(Self {
            gc1: Messages::new([width, width], EDGE, random)?,
            gc2: Messages::new([EDGE, 2 * EDGE], width, random)?,
            gc3: Messages::new([width, NODE], 2 * EDGE, random)?,
            dropout: Dropout { p: dropout },
        })
    }

    /// Nodes (B, N, C) and edges (B, E, F) -> (B, N, NODE) and (B, E, 2 F). The
    /// ReLU between layers acts on both, whichever the layer was for.
    fn forward(
        &self,
        graph: &GcnGraph,
        x: &Tensor,
        z: &Tensor,
        context: &Context,
    ) -> Result<[Tensor; 2]> {
        let seen = |layer: &str, x: &Tensor, z: &Tensor| {
            context.show(&format!("{layer}.nodes"), x);
            context.show(&format!("{layer}.edges_f"), z);
        };
        let next = |x: &Tensor| self.dropout.forward(&ops::relu(x)?, context.pass);
        let x = self.gc1.nodes(graph, x, z, context.pass)?;
        seen("gc1", &x, z);
        let (x, z) = (next(&x)?, next(z)?);
        let z = self.gc2.edges(graph, &x, &z, context.pass)?;
        seen("gc2", &x, &z);
        let (x, z) = (next(&x)?, next(&z)?);
        let x = self.gc3.nodes(graph, &x, &z, context.pass)?;
        seen("gc3", &x, &z);
        Ok([x, z])
    }
}

/// Nodes and what their edges carry, each through a transformer, then both
/// through one over their channels.
struct Fusion {
    edge_transformer: EncoderBlock,
    node_transformer: Block,
    channel_attention: EncoderBlock,
    linear: Linear,
}

impl Fusion {
    fn new(nodes: usize, dropout: f64, random: &mut Philox) -> Result<Self> {
        let width = 2 * EDGE;
        Ok(Self {
            edge_transformer: EncoderBlock::new(width, HEADS, false, dropout, random)?,
            node_transformer: Block::new(&node_block(NODE), random)?,
            channel_attention: EncoderBlock::new(nodes, CHANNEL_HEADS, false, dropout, random)?,
            linear: Linear::new(width + NODE, NODE, true, random)?,
        })
    }

    /// Nodes (B, N, NODE) and their edges' features (B, N, 2 EDGE) -> (B, N, NODE).
    fn forward(
        &self,
        nodes: &Tensor,
        edges: &Tensor,
        size: [usize; 2],
        bias: &Param,
        context: &Context,
    ) -> Result<Tensor> {
        let nodes =
            (self.node_transformer).forward(nodes, size, bias, &context.at("node_transformer"))?;
        context.show("node_transformer", &nodes);
        let edges = self.edge_transformer.forward(edges, context)?;
        context.show("edge_transformer", &edges);
        let both = ops::cat(&[&nodes, &edges], -1)?;
        let channels = ops::transpose(&both, -1, -2)?;
        let y = self.channel_attention.forward(&channels, context)?;
        context.show("channel_attention_196", &y);
        let y = ops::transpose(&y, -1, -2)?;
        self.linear.forward(&y, context.pass)
    }
}

/// A transformer block over the nodes, `width` features each.
fn node_block(width: usize) -> BlockShape {
    BlockShape {
        width,
        hidden: 4 * width,
        heads: HEADS,
        reduction: 1,
        bias: false,
        eps: 1e-5,
    }
}

/// From a stage's image (B, C, H, W) to features of the nodes, one for each
/// `patch` x `patch` pixels of it.
pub(super) struct GraphBlock {
    /// (heads, N, N), for both transformers of the block.
    relative_pos: Param,
    patch_embedding: PatchEmbed,
    encoder: Block,
    /// One stage for each halving; the last widens.
    stages: Vec<Stage>,
    attention: NodeAttention,
    censnet: CensNet,
    fusion: Fusion,
    quirks: bool,
}

/// Where a graph block stands in the network.
pub(super) struct Place {
    pub channels: usize,
    /// 4 or 2: one node for as many pixels on a side.
    pub patch: usize,
    pub nodes: usize,
}

impl GraphBlock {
    pub fn new(place: &Place, dropout: f64, quirks: bool, random: &mut Philox) -> Result<Self> {
        let Place {
            channels,
            patch,
            nodes,
        } = *place;
        let width = 2 * channels;
        let mut positions = vec![0.0; HEADS * nodes * nodes];
        random.fill_normal(&mut positions, 0.0, 1.0);
        let positions = Tensor::from_slice(&positions, &[HEADS, nodes, nodes])?;
        let stages = if patch == 4 {
            vec![
                Stage::new([channels, channels], 2, random)?,
                Stage::new([channels, width], 1, random)?,
            ]
        } else {
            vec![Stage::new([channels, width], 2, random)?]
        };
        let mut linear = || Linear::new(width, width, true, random);
        Ok(Self {
            relative_pos: Param::new("relative_pos", positions),
            attention: NodeAttention {
                k: linear()?,
                q: linear()?,
                value_transform: linear()?,
            },
            patch_embedding: PatchEmbed::new([channels, width], patch, random)?,
            encoder: Block::new(&node_block(width), random)?,
            stages,
            censnet: CensNet::new(width, dropout, random)?,
            fusion: Fusion::new(nodes, dropout, random)?,
            quirks,
        })
    }

    /// (B, C, H, W) -> (B, N, NODE), in the dtype of x.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let mut convolved = x.clone();
        for (i, stage) in self.stages.iter().enumerate() {
            let name = format!("convnext{}", i + 1);
            convolved = stage.forward(&convolved, &context.at(&name))?;
            context.show(&name, &convolved);
        }
        let (convolved, _) = tokens(&convolved)?; // (B, N, 2 C)
        let (embedded, size) = (self.patch_embedding).forward(x, &context.at("patch_embedding"))?;
        let positions = &self.relative_pos;
        let encoded =
            self.encoder
                .forward(&embedded, size, positions, &context.at("CMT_encoder1"))?;
        context.show("CMT_encoder1", &encoded);
        let [values, attention] = self.attention.forward(&convolved, &encoded, context)?;
        context.show("MHSA.values", &values);
        context.show("MHSA.graph", &attention);

        context.show_with("mean_graph", || ops::mean(&attention, &[1], false))?;
        let graph = self.graph(&attention)?;
        let features = ops::gcn_edge_features(&attention, &values, &graph, size[1])?;
        context.show("edge_features", &features);
        context.show_with("edges", || {
            let column = |t: &Tensor| ops::reshape(t, &[graph.batch(), graph.edges(), 1]);
            ops::cat(&[&column(graph.rows())?, &column(graph.columns())?], -1)
        })?;

        let [nodes, edges] =
            (self.censnet).forward(&graph, &values, &features, &context.at("censnet"))?;
        let edges = ops::cast(&ops::gcn_pool(&edges, &graph)?, x.dtype())?;
        let nodes = ops::cast(&nodes, x.dtype())?;
        let inside = context.at("transformer_fusion_encoder");
        let y = self
            .fusion
            .forward(&nodes, &edges, size, positions, &inside)?;
        context.show("transformer_fusion_encoder", &y);
        Ok(y)
    }

    /// The edges of the strongest attention (B, heads, N, N). As published, their
    /// number grows in the whole batch until no sample has a tie at its weakest,
    /// and messages take each sample's ends of edges from the other end of the batch.
    fn graph(&self, attention: &Tensor) -> Result<GcnGraph> {
        let nodes = attention.shape().last().copied().unwrap_or(0);
        let edges = EDGES_PER_NODE * nodes;
        if !self.quirks {
            return ops::gcn_graph(attention, edges);
        }
        let edges = ops::edges_without_ties(attention, edges)?;
        Ok(ops::gcn_graph(attention, edges)?.reversing_transitions())
    }
}

impl State for GraphBlock {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        let relative_pos = Slot::Param(self.relative_pos.clone());
        visit(key(prefix, "relative_pos"), relative_pos);
        let mut part = |name: &str, module: &dyn State| module.visit(&key(prefix, name), visit);
        part("patch_embedding", &self.patch_embedding);
        part("CMT_encoder1", &self.encoder);
        for (i, stage) in self.stages.iter().enumerate() {
            part(&format!("convnext{}", i + 1), stage);
        }
        part("MHSA.k", &self.attention.k);
        part("MHSA.q", &self.attention.q);
        part("MHSA.value_transform", &self.attention.value_transform);
        part("censnet.gc1", &self.censnet.gc1);
        part("censnet.gc2", &self.censnet.gc2);
        part("censnet.gc3", &self.censnet.gc3);
        let mut fused = |name: &str, module: &dyn State| {
            part(&format!("transformer_fusion_encoder.{name}"), module);
        };
        fused("edge_transformer", &self.fusion.edge_transformer);
        fused("node_transformer", &self.fusion.node_transformer);
        fused("channel_attention_196", &self.fusion.channel_attention);
        fused("linear_fusion", &self.fusion.linear);
    }
}
