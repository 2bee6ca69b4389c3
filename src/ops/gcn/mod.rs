//! Graphs over a grid of nodes and message passing on them, as TCGN's graph
//! blocks need them (Xiao et al. 2024; the layers are CensNet's, Jiang et al.
//! 2019): [`gcn_graph`] keeps the strongest pairs of an attention as directed
//! edges, [`gcn_edge_features`] describes them, [`gcn_node`] and [`gcn_edge`]
//! pass messages between nodes and between edges, [`gcn_pool`] gathers edges at
//! their nodes. All work along the edges alone: the published code multiplies
//! dense matrices of edges by edges, of which 2 % is not zero.
//!
//! With B samples of N nodes and E edges, one block of TCGN is
//!
//! ```
//! # use eosin::{DType, Result, Tensor, ops};
//! # use eosin::ops::Activation;
//! # fn tensor(shape: &[usize]) -> Result<Tensor> { Tensor::full(0.1, shape, DType::F32) }
//! # fn main() -> Result<()> {
//! # let (attention, x) = (tensor(&[1, 2, 9, 9])?, tensor(&[1, 9, 8])?);
//! # let (p1, p2) = (tensor(&[1, 6])?, tensor(&[1, 8])?);
//! # let (w1, w2) = (tensor(&[8, 8])?, tensor(&[6, 12])?);
//! # let (b1, b2) = (tensor(&[8])?, tensor(&[12])?);
//! // attention (B, heads, N, N), x (B, N, C); 4 edges for each node on average
//! let graph = ops::gcn_graph(&attention, 4 * 9)?;
//! let edges = ops::gcn_edge_features(&attention, &x, &graph, 3)?;  // (B, E, heads + 4)
//! // A node layer: what edges weigh, by p (1, heads + 4), and what nodes send.
//! let weights = ops::linear(&edges, &p1, None, Activation::None)?; // (B, E, 1)
//! let sent = ops::matmul(&x, &w1)?;
//! let x = ops::relu(&ops::gcn_node(&sent, &weights, Some(&b1), &graph)?)?;
//! let edges = ops::relu(&edges)?;
//! // An edge layer: the same with the roles exchanged, p (1, C).
//! let weights = ops::linear(&x, &p2, None, Activation::None)?;     // (B, N, 1)
//! let sent = ops::matmul(&edges, &w2)?;
//! let edges = ops::relu(&ops::gcn_edge(&sent, &weights, Some(&b2), &graph)?)?;
//! // .. a second node layer, and the edges' part of what follows:
//! let pooled = ops::gcn_pool(&edges, &graph)?;                     // (B, N, 12)
//! # assert_eq!(pooled.shape(), [1, 9, 12]);
//! # Ok(())
//! # }
//! ```
//!
//! On CUDA a graph is 2 launches, edge features 1, a node layer 1, an edge layer
//! 2 and pooling 1, and going back 2 for each but pooling, which takes 1, whatever
//! the batch; nothing returns to the host.
//!
//! The published code has two habits that tie a sample to its batch. Both are
//! asked for by name: [`GcnGraph::reversing_transitions`], and
//! [`edges_without_ties`] for the number of edges.

mod cpu;
mod cuda;
mod edge_features;
mod graph;
mod layers;

pub use edge_features::gcn_edge_features;
pub use graph::{GcnGraph, edges_without_ties, gcn_graph};
pub use layers::{gcn_edge, gcn_node, gcn_pool};

use crate::autograd::Backward;
use crate::error::{Error, Result};

/// # Errors
/// The gradient that `b` computes is to be differentiated itself.
fn first_order_only(op: &'static str, b: &Backward) -> Result<()> {
    match b.create_graph {
        true => Err(Error::NoGradient {
            op,
            reason: "its gradient has no gradient".to_owned(),
        }),
        false => Ok(()),
    }
}
