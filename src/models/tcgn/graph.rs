//! The graph of a tile and messages on it: CensNet (Jiang et al. 2019,
//! "CensNet: Convolution with edge-node switching in graph neural networks")
//! over the strongest attention between the nodes.
//!
//! Written plainly, with dense recorded operators: the incidence of edges and
//! nodes is a matrix of 0, 1 and 2. Where the paper multiplies with diagonal
//! matrices, rows are scaled.
//!
//! Letters: B samples, N nodes, E edges. Everything is f32, whatever the dtype
//! around it.

use super::context::Tables;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{self, Comparison};
use crate::tensor::Tensor;

/// Edges kept per node on average.
pub const EDGES_PER_NODE: usize = 4;

/// A normalised adjacency, its diagonal apart: messages scale the rest alone.
struct Adjacency {
    off_diagonal: Tensor,
    diagonal: Tensor,
}

impl Adjacency {
    /// D^-1/2 A D^-1/2, A (B, M, M) and its degrees (B, M). A vertex of degree 0
    /// takes no part, or is NaN as published.
    fn normalised(a: &Tensor, degrees: &Tensor, identity: &Tensor, quirks: bool) -> Result<Self> {
        let zero = Tensor::full_on(0.0, &[], DType::F32, &a.device())?;
        let mut scale = ops::pow(degrees, -0.5)?;
        if !quirks {
            let connected = ops::compare(degrees, Comparison::Greater, &zero)?;
            scale = ops::select(&connected, &scale, &zero)?;
        }
        let a = ops::mul(a, &column(&scale)?)?;
        let a = ops::mul(&a, &row(&scale)?)?;
        Ok(Self {
            off_diagonal: ops::select(identity, &zero, &a)?,
            diagonal: ops::select(identity, &a, &zero)?,
        })
    }

    /// Weights of messages: A x scale off the diagonal, A on it.
    fn scaled(&self, scale: &Tensor) -> Result<Tensor> {
        ops::add(&ops::mul(&self.off_diagonal, scale)?, &self.diagonal)
    }

    fn whole(&self) -> Result<Tensor> {
        ops::add(&self.off_diagonal, &self.diagonal)
    }
}

/// (B, M) as a column of each sample's matrix: (B, M, 1).
fn column(x: &Tensor) -> Result<Tensor> {
    ops::reshape(x, &[x.shape()[0], x.shape()[1], 1])
}

/// (B, M) as a row of each sample's matrix: (B, 1, M).
fn row(x: &Tensor) -> Result<Tensor> {
    ops::reshape(x, &[x.shape()[0], 1, x.shape()[1]])
}

/// Directed edges of each sample, in row-major order of (source, target), and
/// what messages need of them. Nothing of it has a gradient.
pub struct Graph {
    /// Edges per node: how much a sum over a node's edges is divided by.
    pub edges_per_node: f64,
    /// The entry source N + target of each edge, i64: (B, E).
    entries: Tensor,
    /// Source and target of each edge, in f32: (B, E, 1) each.
    pub ends: [Tensor; 2],
    /// 1 at the source, and at the target, of each edge: (B, E, N).
    sources: Tensor,
    targets: Tensor,
    /// Both together, 2 for a self loop: (B, E, N).
    incidence: Tensor,
    nodes: Adjacency,
    edges: Adjacency,
}

impl Graph {
    /// The edges of the largest entries of the mean over heads, all nodes of a
    /// sample together: [`EDGES_PER_NODE`] N for each sample, of equal entries
    /// those that come first. As published, entries equal to the smallest one kept
    /// make the number of edges grow, by one until no sample has such a tie, in the
    /// whole batch; this looks at the values on the host.
    ///
    /// # Errors
    /// Another shape.
    pub fn new(mean: &Tensor, tables: &Tables, quirks: bool) -> Result<Self> {
        let [batch, n, columns] = mean.shape()[..] else {
            return Err(Error::shape("graph", &[mean.shape()], "(B, N, N)"));
        };
        if n != columns || EDGES_PER_NODE > n {
            return Err(Error::shape(
                "graph",
                &[mean.shape()],
                "(B, N, N), N over 3",
            ));
        }
        let flat = ops::reshape(&mean.detach(), &[batch, n * n])?;
        let mut count = EDGES_PER_NODE * n;
        if quirks {
            count = without_ties(&flat.to_f32_vec()?, n * n, count);
        }
        let (_, strongest) = ops::topk(&flat, count, -1)?;
        let (entries, _) = ops::sort(&ops::cast(&strongest, DType::F32)?, -1, false)?;
        let entries = ops::cast(&entries, DType::I64)?;

        let flat = ops::reshape(&entries, &[batch * count])?;
        let end = |table: &Tensor| -> Result<Tensor> {
            ops::reshape(&ops::index_select(table, 0, &flat)?, &[batch, count, 1])
        };
        let ends = [end(&tables.row())?, end(&tables.column())?];
        let nodes = tables.counting(n)?;
        let one_hot = |end: &Tensor| -> Result<Tensor> {
            let at = ops::compare(end, Comparison::Equal, &nodes)?;
            ops::cast(&at, DType::F32)
        };
        let (sources, targets) = (one_hot(&ends[0])?, one_hot(&ends[1])?);
        let incidence = ops::add(&sources, &targets)?;

        let between = ops::matmul(&ops::transpose(&sources, -1, -2)?, &targets)?; // (B, N, N)
        let identity = tables.identity(n)?;
        let degrees = ops::sum(&between, &[-1], false)?;
        let node_adjacency = Adjacency::normalised(&between, &degrees, &identity, quirks)?;

        // Two edges are neighbours where they share an end; each is its own.
        let shared = ops::matmul(&incidence, &ops::transpose(&incidence, -1, -2)?)?;
        let zero = Tensor::full_on(0.0, &[], DType::F32, &mean.device())?;
        let touching = ops::compare(&shared, Comparison::Greater, &zero)?;
        let touching = ops::cast(&touching, DType::F32)?; // (B, E, E)
        let each = ops::cast(&entries, DType::F32)?;
        let identity = ops::compare(&column(&each)?, Comparison::Equal, &row(&each)?)?;
        // The degrees, as published, count an edge itself twice.
        let degrees = ops::affine(&ops::sum(&touching, &[-1], false)?, 1.0, 1.0)?;
        let edge_adjacency = Adjacency::normalised(&touching, &degrees, &identity, quirks)?;
        Ok(Self {
            edges_per_node: count as f64 / n as f64,
            entries,
            ends,
            sources,
            targets,
            incidence,
            nodes: node_adjacency,
            edges: edge_adjacency,
        })
    }

    /// The same graphs where sample i of B has the incidence of sample B - 1 - i
    /// in its messages, as the published code stacks them.
    ///
    /// # Errors
    /// No memory left.
    pub fn swapped(mut self) -> Result<Self> {
        let last = self.incidence.shape()[0] as i64 - 1;
        let order: Vec<i64> = (0..=last).map(|i| last - i).collect();
        let order = Tensor::from_slice(&order, &[order.len()])?.to(&self.incidence.device())?;
        self.incidence = ops::index_select(&self.incidence, 0, &order)?;
        Ok(self)
    }

    /// What is known of each edge: the attention of each head and its mean, how
    /// close the nodes are on the grid, 1 / sqrt(|x_i - x_j|^2 / s + 1) with s half
    /// the width of x, and (cos(x_i, x_j) + 1) / 2. Attention (B, heads, N, N), its
    /// mean (B, N, N) and nodes x (B, N, C) -> (B, E, heads + 4).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn features(
        &self,
        attention: &Tensor,
        mean: &Tensor,
        x: &Tensor,
        tables: &Tables,
    ) -> Result<Tensor> {
        let ([batch, heads, ..], [_, _, width]) = (attention.shape(), x.shape()) else {
            let shapes = [attention.shape(), x.shape()];
            return Err(Error::shape(
                "graph",
                &shapes,
                "(B, heads, N, N), (B, N, C)",
            ));
        };
        let count = self.entries.shape()[1];
        // (B, N, N) -> (B, E, 1)
        let at_edges = |values: &Tensor| -> Result<Tensor> {
            let flat = ops::reshape(values, &[*batch, values.elements() / *batch])?;
            column(&ops::gather(&flat, 1, &self.entries)?)
        };
        let mut features = Vec::with_capacity(heads + 4);
        for head in 0..*heads {
            features.push(at_edges(&ops::slice(attention, 1, head, 1)?)?);
        }
        features.push(at_edges(mean)?);
        let flat = ops::reshape(&self.entries, &[batch * count])?;
        let close = ops::index_select(&tables.closeness(), 0, &flat)?;
        features.push(ops::reshape(&close, &[*batch, count, 1])?);

        let squares = |x: &Tensor| ops::sum(&ops::mul(x, x)?, &[-1], true);
        let ends = |x: &Tensor| -> Result<[Tensor; 2]> {
            Ok([
                ops::matmul(&self.sources, x)?,
                ops::matmul(&self.targets, x)?,
            ])
        };
        let [from, to] = ends(x)?; // (B, E, C)
        let apart = squares(&ops::sub(&from, &to)?)?;
        let unit = (width / 2) as f64;
        features.push(ops::pow(&ops::affine(&apart, 1.0 / unit, 1.0)?, -0.5)?);
        let [from, to] = ends(&ops::div(x, &ops::sqrt(&squares(x)?)?)?)?;
        let cosine = ops::sum(&ops::mul(&from, &to)?, &[-1], true)?;
        features.push(ops::affine(&cosine, 0.5, 0.5)?);
        ops::cat(&features.iter().collect::<Vec<_>>(), -1)
    }

    /// A node layer, equation 4 of the paper: nodes H (B, N, C), edges Z (B, E, F),
    /// weight W (C, K), p (1, F) -> (B, N, K), without a bias:
    /// (A * M) H W with M = T diag(Z p) T^t off the diagonal and 1 on it.
    pub(super) fn node_messages(
        &self,
        nodes: &Tensor,
        edges: &Tensor,
        [weight, p]: [&Tensor; 2],
    ) -> Result<Tensor> {
        let importance = ops::matmul(edges, &ops::transpose(p, 0, 1)?)?; // (B, E, 1)
        let scaled = ops::mul(&self.incidence, &importance)?;
        let between = ops::matmul(&ops::transpose(&self.incidence, -1, -2)?, &scaled)?;
        let messages = self.nodes.scaled(&between)?; // (B, N, N)
        ops::matmul(&messages, &ops::matmul(nodes, weight)?)
    }

    /// An edge layer, equation 5: as [`Self::node_messages`] with nodes and edges
    /// exchanged, each column of the messages divided by its maximum.
    pub(super) fn edge_messages(
        &self,
        nodes: &Tensor,
        edges: &Tensor,
        [weight, p]: [&Tensor; 2],
    ) -> Result<Tensor> {
        let importance = ops::matmul(p, &ops::transpose(nodes, -1, -2)?)?; // (B, 1, N)
        let scaled = ops::mul(&self.incidence, &importance)?;
        let between = ops::matmul(&scaled, &ops::transpose(&self.incidence, -1, -2)?)?;
        let messages = self.edges.scaled(&between)?; // (B, E, E)
        let messages = ops::div(&messages, &ops::max(&messages, &[1], true)?)?;
        ops::matmul(&messages, &ops::matmul(edges, weight)?)
    }

    /// The sum over each node's edges divided by how many a node has on average,
    /// self loops twice: (B, E, F) -> (B, N, F).
    pub(super) fn to_nodes(&self, edges: &Tensor) -> Result<Tensor> {
        let sums = ops::matmul(&ops::transpose(&self.incidence, -1, -2)?, edges)?;
        ops::affine(&sums, 1.0 / self.edges_per_node, 0.0)
    }

    /// How many edges leave each node, and how many ends of edges each has in
    /// messages: (B, N).
    pub fn degrees(&self) -> Result<[Tensor; 2]> {
        Ok([
            ops::sum(&self.sources, &[1], false)?,
            ops::sum(&self.incidence, &[1], false)?,
        ])
    }

    /// How often each node is an end of each edge: (B, E, N).
    pub fn incidence(&self) -> &Tensor {
        &self.incidence
    }

    /// The normalised adjacency of the nodes (B, N, N) and of the edges (B, E, E).
    pub fn adjacency(&self) -> Result<[Tensor; 2]> {
        Ok([self.nodes.whole()?, self.edges.whole()?])
    }
}

/// The smallest count from `least` for which no row of `size` values has another
/// value equal to its count-th largest; `size` where there is none.
fn without_ties(values: &[f32], size: usize, least: usize) -> usize {
    let sorted: Vec<Vec<f32>> = (values.chunks(size))
        .map(|row| {
            let mut row = row.to_vec();
            row.sort_unstable_by(|a, b| b.total_cmp(a));
            row
        })
        .collect();
    let alone = |row: &Vec<f32>, count: usize| {
        let of = |i: usize| row.get(i).copied();
        let last = of(count - 1);
        (count < 2 || of(count - 2) != last) && of(count) != last
    };
    (least..size)
        .find(|&count| sorted.iter().all(|row| alone(row, count)))
        .unwrap_or(size)
}
