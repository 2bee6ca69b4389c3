//! Plain loops along the edges; every element of a result is the work of one
//! thread, its terms in a fixed order.

use std::ops::Range;

use super::GcnGraph;
use super::edge_features::{COMMON, GEOMETRY, OP as FEATURES};
use super::layers::{EDGE, NODE, POOL};
use crate::device::cpu;
use crate::dtype::{DType, Element, Float};
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::half::{is_half, widened};
use crate::ops::layout::cpu::cast;
use crate::ops::normalise::{parameter, wide};
use crate::ops::vector::sum_pairs;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// Calls `$run::<T>` for the dtype of `$x`.
macro_rules! by_dtype {
    ($op:expr, $x:expr, $run:ident($($argument:expr),*)) => {
        match $x.dtype() {
            DType::F32 => $run::<f32>($($argument),*),
            DType::F64 => $run::<f64>($($argument),*),
            other => Err(Error::dtype($op, &[other], "a float is needed")),
        }
    };
}

/// One graph of a batch.
#[derive(Clone, Copy)]
struct Sample<'a> {
    rows: &'a [i64],
    columns: &'a [i64],
    out_starts: &'a [i64],
    in_starts: &'a [i64],
    in_edges: &'a [i64],
    degrees: &'a [i64],
}

impl Sample<'_> {
    /// From where to where.
    fn ends(&self, e: usize) -> [usize; 2] {
        [self.rows[e] as usize, self.columns[e] as usize]
    }

    fn leaving(&self, n: usize) -> Range<usize> {
        self.out_starts[n] as usize..self.out_starts[n + 1] as usize
    }

    fn entering(&self, n: usize) -> impl Iterator<Item = usize> {
        let range = self.in_starts[n] as usize..self.in_starts[n + 1] as usize;
        self.in_edges[range].iter().map(|&e| e as usize)
    }

    /// The edge between two nodes.
    fn find(&self, from: usize, to: usize) -> Option<usize> {
        let leaving = self.leaving(from);
        let found = self.columns[leaving.clone()].binary_search(&(to as i64));
        found.ok().map(|i| leaving.start + i)
    }

    /// Calls `f` once for every edge that shares a node with `e`, itself included.
    fn each_neighbour(&self, e: usize, mut f: impl FnMut(usize)) {
        let [a, b] = self.ends(e);
        self.leaving(a).for_each(&mut f);
        self.entering(a)
            .filter(|&i| self.rows[i] as usize != a)
            .for_each(&mut f);
        if a == b {
            return;
        }
        let touches_a = |i: usize| self.ends(i).contains(&a);
        self.leaving(b).filter(|&i| !touches_a(i)).for_each(&mut f);
        let from_elsewhere = |&i: &usize| self.rows[i] as usize != b && !touches_a(i);
        self.entering(b).filter(from_elsewhere).for_each(&mut f);
    }

    /// A_ij of the node layer's adjacency.
    fn adjacency(&self, i: usize, j: usize) -> f64 {
        let degrees = self.leaving(i).len() * self.leaving(j).len();
        if degrees == 0 {
            0.0
        } else {
            1.0 / (degrees as f64).sqrt()
        }
    }

    /// The same of the edge layer, for neighbours.
    fn edge_adjacency(&self, e: usize, f: usize) -> f64 {
        let squares = (self.degrees[e] + 1) * (self.degrees[f] + 1);
        1.0 / (squares as f64).sqrt()
    }

    /// How often edge `e` touches node `n`.
    fn touches(&self, n: usize, e: usize) -> f64 {
        self.ends(e).iter().filter(|&&end| end == n).count() as f64
    }

    /// Off the diagonal, (T^t diag(v) T)_ef.
    fn coupling<T: Float>(&self, v: &[T], e: usize, f: usize) -> f64 {
        let [i, j] = self.ends(e);
        let of = |n: usize| {
            let touches = u8::from(i == n) + u8::from(j == n);
            f64::from(touches) * v[n].to_f64()
        };
        let [a, b] = self.ends(f);
        of(a) + of(b)
    }
}

/// The graphs of a batch.
struct Graphs<'a> {
    nodes: usize,
    edges: usize,
    batch: usize,
    reversed: bool,
    tensors: [&'a [i64]; 6],
}

impl<'a> Graphs<'a> {
    fn of(op: &'static str, graph: &'a GcnGraph) -> Result<Self> {
        let mut tensors: [&[i64]; 6] = [&[]; 6];
        for (slice, tensor) in tensors.iter_mut().zip(&graph.tensors) {
            *slice = tensor.dense_slice(op)?;
        }
        Ok(Self {
            nodes: graph.nodes(),
            edges: graph.edges(),
            batch: graph.batch(),
            reversed: graph.reversed,
            tensors,
        })
    }

    fn sample(&self, b: usize) -> Sample<'a> {
        let [rows, columns, out_starts, in_starts, in_edges, degrees] = self.tensors;
        let edges = b * self.edges..(b + 1) * self.edges;
        let starts = b * (self.nodes + 1)..(b + 1) * (self.nodes + 1);
        Sample {
            rows: &rows[edges.clone()],
            columns: &columns[edges.clone()],
            out_starts: &out_starts[starts.clone()],
            in_starts: &in_starts[starts],
            in_edges: &in_edges[edges.clone()],
            degrees: &degrees[edges],
        }
    }

    /// The one whose transition matrix sample `b` uses.
    fn transition(&self, b: usize) -> Sample<'a> {
        self.sample(if self.reversed { self.batch - 1 - b } else { b })
    }
}

/// A tensor (B, rows, width) that `f(b, row, out)` fills row by row, where it holds
/// zeros.
fn by_rows<T: Float>(
    [batch, rows, width]: [usize; 3],
    f: &(dyn Fn(usize, usize, &mut [T]) + Sync),
) -> Result<Tensor> {
    let layout = Layout::contiguous(Shape::new(&[batch, rows, width])?);
    Ok(Tensor::build(layout, |out: &mut [T]| {
        cpu::for_chunks(out, width, &|start, chunk| {
            for (i, out) in chunk.chunks_mut(width).enumerate() {
                let at = start / width + i;
                f(at / rows, at % rows, out);
            }
        });
    }))
}

/// What is done with row `row` of sample `b` of two results: `f(b, row, out, other)`.
type PairRow<'a, A, B> = &'a (dyn Fn(usize, usize, &mut [A], &mut [B]) + Sync);

/// Two tensors (B, rows, width) that `f(b, row, out, other)` fills row by row, where
/// they hold zeros.
fn by_rows_of_two<A: Element, B: Element>(
    [batch, rows]: [usize; 2],
    [width, other_width]: [usize; 2],
    f: PairRow<A, B>,
) -> Result<[Tensor; 2]> {
    const ROWS: usize = 256;
    let layout = Layout::contiguous(Shape::new(&[batch, rows, width])?);
    let mut other = vec![B::zeroed(); batch * rows * other_width];
    let first = Tensor::build(layout, |out: &mut [A]| {
        let chunks = (&mut other[..], ROWS * other_width);
        cpu::for_chunk_pairs((out, ROWS * width), chunks, &|i, out, other| {
            let pairs = out.chunks_mut(width).zip(other.chunks_mut(other_width));
            for (k, (out, other)) in pairs.enumerate() {
                let at = i * ROWS + k;
                f(at / rows, at % rows, out, other);
            }
        });
    });
    let other = Tensor::from_slice(&other, &[batch, rows, other_width])?;
    Ok([first, other])
}

/// `sums += scale * x`.
fn accumulate<T: Float>(sums: &mut [T], scale: f64, x: &[T]) {
    let scale = T::from_f64(scale);
    sums.iter_mut()
        .zip(x)
        .for_each(|(sum, &x)| *sum += scale * x);
}

fn plain(t: &Tensor) -> Result<Tensor> {
    t.detach().to_format(Format::Contiguous)
}

/// Row `i` of a tensor (.., width).
fn row<T>(of: &[T], width: usize, i: usize) -> &[T] {
    &of[i * width..(i + 1) * width]
}

/// (B, H, N, N) -> (B, N N), in the dtype of the arithmetic.
pub(super) fn mean_over_heads(attention: &Tensor) -> Result<Tensor> {
    fn run<T: Float>(attention: &Tensor) -> Result<Tensor> {
        let attention = plain(attention)?;
        let (heads, pairs) = (attention.shape()[1], attention.shape()[2].pow(2));
        let from = attention.dense_slice::<T>("gcn_graph")?;
        let layout = Layout::contiguous(Shape::new(&[attention.shape()[0], pairs])?);
        Ok(Tensor::build(layout, |out: &mut [T]| {
            cpu::for_chunks(out, pairs, &|start, chunk| {
                for (i, sums) in chunk.chunks_mut(pairs).enumerate() {
                    for head in 0..heads {
                        let values = row(from, pairs, (start / pairs + i) * heads + head);
                        sums.iter_mut().zip(values).for_each(|(s, &v)| *s += v);
                    }
                    let heads = T::from_f64(heads as f64);
                    sums.iter_mut().for_each(|s| *s = *s / heads);
                }
            });
        }))
    }
    if is_half(attention) {
        return mean_over_heads(&ops::cast(attention, DType::F32)?);
    }
    by_dtype!("gcn_graph", attention, run(attention))
}

/// The tensors of a [`GcnGraph`].
pub(super) fn graph(attention: &Tensor, edges: usize) -> Result<[Tensor; 6]> {
    let (batch, nodes) = (attention.shape()[0], attention.shape()[2]);
    let (_, kept) = ops::topk(&mean_over_heads(attention)?, edges, 1)?;
    let mut kept = kept.to_vec::<i64>()?;
    let mut lists: [Vec<i64>; 6] = Default::default();
    for kept in kept.chunks_mut(edges) {
        kept.sort_unstable();
        let rows: Vec<i64> = kept.iter().map(|i| i / nodes as i64).collect();
        let columns: Vec<i64> = kept.iter().map(|i| i % nodes as i64).collect();
        let mut entering: Vec<i64> = (0..edges as i64).collect();
        entering.sort_by_key(|&e| columns[e as usize]);
        let starts = |ends: &[i64]| -> Vec<i64> {
            let before = |n| ends.iter().filter(|&&end| end < n).count() as i64;
            (0..=nodes as i64).map(before).collect()
        };
        let (out_starts, in_starts) = (starts(&rows), starts(&columns));
        let mut degrees = vec![0; edges];
        let sample = Sample {
            rows: &rows,
            columns: &columns,
            out_starts: &out_starts,
            in_starts: &in_starts,
            in_edges: &entering,
            degrees: &[],
        };
        for (e, degree) in degrees.iter_mut().enumerate() {
            sample.each_neighbour(e, |_| *degree += 1);
        }
        let all = [rows, columns, out_starts, in_starts, entering, degrees];
        lists
            .iter_mut()
            .zip(&all)
            .for_each(|(list, one)| list.extend(one));
    }
    let widths = [edges, edges, nodes + 1, nodes + 1, edges, edges];
    let mut tensors = Vec::with_capacity(6);
    for (list, width) in lists.iter().zip(widths) {
        tensors.push(Tensor::from_slice(list, &[batch, width])?);
    }
    tensors
        .try_into()
        .map_err(|_| Error::op("gcn_graph", "internal: six lists"))
}

/// Of two nodes that are numbered along the rows of a grid.
fn grid_distance(i: usize, j: usize, width: usize) -> f64 {
    let along = |a: usize, b: usize| a.abs_diff(b) as f64;
    along(i / width, j / width).hypot(along(i % width, j % width))
}

/// The features, and what their gradient needs of each edge, (B, E, 4): the fourth
/// feature, the cosine, and 1 / |xi| and 1 / |xj|, 0 for a node of zeros.
pub(super) fn edge_features(
    attention: &Tensor,
    x: &Tensor,
    graph: &GcnGraph,
    grid_width: usize,
) -> Result<[Tensor; 2]> {
    fn run<T: Float>(
        attention: &Tensor,
        x: &Tensor,
        graph: &GcnGraph,
        grid_width: usize,
    ) -> Result<[Tensor; 2]> {
        let (attention, x) = (plain(attention)?, plain(x)?);
        let (heads, nodes, channels) = (attention.shape()[1], x.shape()[1], x.shape()[2]);
        let from = attention.dense_slice::<T>(FEATURES)?;
        let xs = x.dense_slice::<T>(FEATURES)?;
        let graphs = Graphs::of(FEATURES, graph)?;
        let s = (channels / 2) as f64;
        let widths = [heads + COMMON, GEOMETRY];
        by_rows_of_two(
            [graphs.batch, graphs.edges],
            widths,
            &|b, e, out: &mut [T], geometry: &mut [T]| {
                let [i, j] = graphs.sample(b).ends(e);
                let mut sum = T::ZERO;
                for (head, o) in out[..heads].iter_mut().enumerate() {
                    *o = from[((b * heads + head) * nodes + i) * nodes + j];
                    sum += *o;
                }
                let [xi, xj] = [i, j].map(|n| row(xs, channels, b * nodes + n));
                let inverse = [xi, xj].map(|x| {
                    let length = sum_pairs(x, x, |a, b| a * b).sqrt();
                    if length > 0.0 { 1.0 / length } else { 0.0 }
                });
                let near = (s / (sum_pairs(xi, xj, |a, b| (a - b) * (a - b)) + s)).sqrt();
                let cosine = sum_pairs(xi, xj, |a, b| a * b) * inverse[0] * inverse[1];
                let close = 1.0 / (grid_distance(i, j, grid_width) / 3.0 + 1.0);
                out[heads] = sum / T::from_f64(heads as f64);
                let common = [close, near, (cosine + 1.0) / 2.0];
                out[heads + 1..].copy_from_slice(&common.map(T::from_f64));
                let kept = [near, cosine, inverse[0], inverse[1]];
                geometry.copy_from_slice(&kept.map(T::from_f64));
            },
        )
    }
    let (wide_attention, wide_x) = (wide(attention)?, wide(x)?);
    let (attention, narrow) = (&wide_attention, x.dtype());
    let [y, geometry] = by_dtype!(FEATURES, wide_x, run(attention, &wide_x, graph, grid_width))?;
    Ok([cast(&y, narrow)?, geometry])
}

pub(super) fn attention_gradient(g: &Tensor, graph: &GcnGraph, heads: usize) -> Result<Tensor> {
    fn run<T: Float>(g: &Tensor, graph: &GcnGraph, heads: usize) -> Result<Tensor> {
        let g = plain(g)?;
        let gs = g.dense_slice::<T>(FEATURES)?;
        let graphs = Graphs::of(FEATURES, graph)?;
        let nodes = graphs.nodes;
        let each = T::from_f64(1.0 / heads as f64);
        let rows = by_rows(
            [graphs.batch, heads * nodes, nodes],
            &|b, at, out: &mut [T]| {
                let (head, n) = (at / nodes, at % nodes);
                let sample = graphs.sample(b);
                for e in sample.leaving(n) {
                    let g = row(gs, heads + COMMON, b * graphs.edges + e);
                    out[sample.ends(e)[1]] = g[head] + g[heads] * each;
                }
            },
        )?;
        ops::reshape(&rows, &[graphs.batch, heads, nodes, nodes])
    }
    if is_half(g) {
        return widened([g], |[g]| attention_gradient(g, graph, heads));
    }
    by_dtype!(FEATURES, g, run(g, graph, heads))
}

pub(super) fn node_gradient(
    g: &Tensor,
    x: &Tensor,
    geometry: &Tensor,
    graph: &GcnGraph,
) -> Result<Tensor> {
    fn run<T: Float>(
        g: &Tensor,
        x: &Tensor,
        geometry: &Tensor,
        graph: &GcnGraph,
    ) -> Result<Tensor> {
        let (g, x) = (plain(g)?, plain(x)?);
        let (gs, xs) = (g.dense_slice::<T>(FEATURES)?, x.dense_slice::<T>(FEATURES)?);
        let geometry = geometry.dense_slice::<T>(FEATURES)?;
        let (width, channels) = (g.shape()[2], x.shape()[2]);
        let s = (channels / 2) as f64;
        let graphs = Graphs::of(FEATURES, graph)?;
        by_rows(
            [graphs.batch, graphs.nodes, channels],
            &|b, n, out: &mut [T]| {
                let sample = graphs.sample(b);
                let node = |n: usize| row(xs, channels, b * graphs.nodes + n);
                for e in sample.leaving(n).chain(sample.entering(n)) {
                    let [i, j] = sample.ends(e);
                    if i == j {
                        continue;
                    }
                    let at = b * graphs.edges + e;
                    let kept = row(geometry, GEOMETRY, at);
                    let [near, cosine, of_i, of_j] = std::array::from_fn(|k| kept[k].to_f64());
                    let g = row(gs, width, at);
                    let apart = -g[width - 2].to_f64() * near.powi(3) / s;
                    let turned = g[width - 1].to_f64() / 2.0;
                    let own = if n == i { of_i } else { of_j };
                    accumulate(out, apart - turned * cosine * own * own, node(n));
                    accumulate(out, turned * of_i * of_j - apart, node(i + j - n));
                }
            },
        )
    }
    if is_half(g) {
        return widened([g, x], |[g, x]| node_gradient(g, x, geometry, graph));
    }
    by_dtype!(FEATURES, g, run(g, x, geometry, graph))
}

/// a_e of the node layer: A_ij M_ij.
fn message<T: Float>(sample: &Sample, transition: &Sample, w: &[T], e: usize) -> f64 {
    let [i, j] = sample.ends(e);
    let weight = |at: Option<usize>| at.map_or(0.0, |e| w[e].to_f64());
    let m = match i == j {
        true => 1.0,
        false => weight(transition.find(i, j)) + weight(transition.find(j, i)),
    };
    sample.adjacency(i, j) * m
}

pub(super) fn node(
    x: &Tensor,
    weights: &Tensor,
    bias: Option<&Tensor>,
    graph: &GcnGraph,
) -> Result<Tensor> {
    fn run<T: Float>(
        x: &Tensor,
        weights: &Tensor,
        bias: Option<&Tensor>,
        graph: &GcnGraph,
    ) -> Result<Tensor> {
        let (x, weights) = (plain(x)?, plain(weights)?);
        let (xs, ws) = (x.dense_slice::<T>(NODE)?, weights.dense_slice::<T>(NODE)?);
        let channels = x.shape()[2];
        let bias = parameter(NODE, bias, channels, T::ZERO)?;
        let graphs = Graphs::of(NODE, graph)?;
        by_rows(
            [graphs.batch, graphs.nodes, channels],
            &|b, n, out: &mut [T]| {
                let (sample, transition) = (graphs.sample(b), graphs.transition(b));
                let w = row(ws, graphs.edges, b);
                for e in sample.leaving(n) {
                    let sender = row(xs, channels, b * graphs.nodes + sample.ends(e)[1]);
                    accumulate(out, message(&sample, &transition, w, e), sender);
                }
                out.iter_mut().zip(&bias).for_each(|(o, &b)| *o += b);
            },
        )
    }
    if is_half(x) {
        let bias = bias.map(wide).transpose()?;
        return widened([x, weights], |[x, w]| node(x, w, bias.as_ref(), graph));
    }
    by_dtype!(NODE, x, run(x, weights, bias, graph))
}

pub(super) fn node_input_gradient(
    g: &Tensor,
    weights: &Tensor,
    graph: &GcnGraph,
) -> Result<Tensor> {
    fn run<T: Float>(g: &Tensor, weights: &Tensor, graph: &GcnGraph) -> Result<Tensor> {
        let (g, weights) = (plain(g)?, plain(weights)?);
        let (gs, ws) = (g.dense_slice::<T>(NODE)?, weights.dense_slice::<T>(NODE)?);
        let channels = g.shape()[2];
        let graphs = Graphs::of(NODE, graph)?;
        by_rows(
            [graphs.batch, graphs.nodes, channels],
            &|b, n, out: &mut [T]| {
                let (sample, transition) = (graphs.sample(b), graphs.transition(b));
                let w = row(ws, graphs.edges, b);
                for e in sample.entering(n) {
                    let receiver = row(gs, channels, b * graphs.nodes + sample.ends(e)[0]);
                    accumulate(out, message(&sample, &transition, w, e), receiver);
                }
            },
        )
    }
    if is_half(g) {
        return widened([g, weights], |[g, w]| node_input_gradient(g, w, graph));
    }
    by_dtype!(NODE, g, run(g, weights, graph))
}

/// dw_k = A_ij g_i x_j + A_ji g_j x_i for k = (i, j) of the transition matrix, of the
/// terms that are edges.
pub(super) fn node_weight_gradient(g: &Tensor, x: &Tensor, graph: &GcnGraph) -> Result<Tensor> {
    fn run<T: Float>(g: &Tensor, x: &Tensor, graph: &GcnGraph) -> Result<Tensor> {
        let (g, x) = (plain(g)?, plain(x)?);
        let (gs, xs) = (g.dense_slice::<T>(NODE)?, x.dense_slice::<T>(NODE)?);
        let channels = g.shape()[2];
        let graphs = Graphs::of(NODE, graph)?;
        by_rows([graphs.batch, graphs.edges, 1], &|b, k, out: &mut [T]| {
            let sample = graphs.sample(b);
            let [i, j] = graphs.transition(b).ends(k);
            if i == j {
                return;
            }
            let at = |n| b * graphs.nodes + n;
            let term = |i: usize, j: usize| match sample.find(i, j) {
                Some(_) => {
                    let (g, x) = (row(gs, channels, at(i)), row(xs, channels, at(j)));
                    sample.adjacency(i, j) * sum_pairs(g, x, |g, x| g * x)
                }
                None => 0.0,
            };
            out[0] = T::from_f64(term(i, j) + term(j, i));
        })
    }
    if is_half(g) {
        return widened([g, x], |[g, x]| node_weight_gradient(g, x, graph));
    }
    by_dtype!(NODE, g, run(g, x, graph))
}

/// S_ef of the edge layer, for neighbours.
fn strength<T: Float>(sample: &Sample, transition: &Sample, v: &[T], e: usize, f: usize) -> f64 {
    let m = if e == f {
        1.0
    } else {
        transition.coupling(v, e, f)
    };
    sample.edge_adjacency(e, f) * m
}

/// The result; the largest entry of each column of S and, as i64, its first row,
/// (B, E, 1) each.
pub(super) fn edge(
    z: &Tensor,
    weights: &Tensor,
    bias: Option<&Tensor>,
    graph: &GcnGraph,
) -> Result<(Tensor, [Tensor; 2])> {
    fn run<T: Float>(
        z: &Tensor,
        weights: &Tensor,
        bias: Option<&Tensor>,
        graph: &GcnGraph,
    ) -> Result<(Tensor, [Tensor; 2])> {
        let (z, weights) = (plain(z)?, plain(weights)?);
        let (zs, vs) = (z.dense_slice::<T>(EDGE)?, weights.dense_slice::<T>(EDGE)?);
        let channels = z.shape()[2];
        let bias = parameter(EDGE, bias, channels, T::ZERO)?;
        let graphs = Graphs::of(EDGE, graph)?;
        let (batch, edges) = (graphs.batch, graphs.edges);
        let [.., degrees] = graphs.tensors;
        let root = |&d: &i64| 1.0 / ((d + 1) as f64).sqrt();
        let roots: Vec<f64> = degrees.iter().map(root).collect();
        let largest = by_rows_of_two(
            [batch, edges],
            [1, 1],
            &|b, f, value: &mut [T], place: &mut [i64]| {
                let (sample, transition) = (graphs.sample(b), graphs.transition(b));
                let v = row(vs, graphs.nodes, b);
                let roots = row(&roots, edges, b);
                let (mut most, mut first) = (f64::NEG_INFINITY, usize::MAX);
                sample.each_neighbour(f, |e| {
                    let m = match e == f {
                        true => 1.0,
                        false => transition.coupling(v, e, f),
                    };
                    let s = roots[e] * roots[f] * m;
                    let equal = s == most || (s.is_nan() && most.is_nan());
                    let beats = s > most || (s.is_nan() && !most.is_nan());
                    if beats || (equal && e < first) {
                        (most, first) = (s, e);
                    }
                });
                value[0] = T::from_f64(most);
                place[0] = first as i64;
            },
        )?;
        let most = largest[0].dense_slice::<T>(EDGE)?;
        // In a batch of one the reversed order is the same.
        if !graphs.reversed || batch == 1 {
            let y = edge_by_nodes(&graphs, [zs, vs, most, &bias], &roots)?;
            return Ok((y, largest));
        }
        let y = by_rows([batch, edges, channels], &|b, e, out: &mut [T]| {
            let (sample, transition) = (graphs.sample(b), graphs.transition(b));
            let v = row(vs, graphs.nodes, b);
            sample.each_neighbour(e, |f| {
                let at = b * edges + f;
                let s = strength(&sample, &transition, v, e, f);
                accumulate(out, s / most[at].to_f64(), row(zs, channels, at));
            });
            out.iter_mut().zip(&bias).for_each(|(o, &b)| *o += b);
        })?;
        Ok((y, largest))
    }
    let (wide_z, wide_weights) = (wide(z)?, wide(weights)?);
    let (y, largest) = by_dtype!(EDGE, wide_z, run(&wide_z, &wide_weights, bias, graph))?;
    Ok((cast(&y, z.dtype())?, largest))
}

/// The result where messages go between neighbours of one graph: with r_e =
/// (degree + 1)^(-1/2) then S_ef = r_e r_f (T^t diag(v) T)_ef off the diagonal, which is
/// a sum over nodes, and so
///
/// y_e = r_e sum over n of T_ne v_n u_n, with u_n = sum over f of T_nf r_f z_f / m_f,
///
/// and the diagonal's own. A pass along the pairs of edges took as long as the search for
/// the largest, up to a tenth of a prediction where many edges share a node.
fn edge_by_nodes<T: Float>(
    graphs: &Graphs,
    [zs, vs, most, bias]: [&[T]; 4],
    roots: &[f64],
) -> Result<Tensor> {
    let (batch, nodes, edges, channels) = (graphs.batch, graphs.nodes, graphs.edges, bias.len());
    let add = |sums: &mut [f64], scale: f64, z: &[T]| {
        let pairs = sums.iter_mut().zip(z);
        pairs.for_each(|(sum, z)| *sum += scale * z.to_f64());
    };
    let sums = by_rows([batch, nodes, channels], &|b, n, out: &mut [f64]| {
        let sample = graphs.sample(b);
        // An edge from a node to itself is in both lists.
        for f in sample.leaving(n).chain(sample.entering(n)) {
            let at = b * edges + f;
            add(out, roots[at] / most[at].to_f64(), row(zs, channels, at));
        }
    })?;
    let sums = sums.dense_slice::<f64>(EDGE)?;
    by_rows([batch, edges, channels], &|b, e, out: &mut [T]| {
        let (sample, v, at) = (graphs.sample(b), row(vs, nodes, b), b * edges + e);
        let ends = sample.ends(e);
        let itself = ends.map(|n| sample.touches(n, e) * v[n].to_f64());
        let own = roots[at] * (1.0 - itself[0] - itself[1]) / most[at].to_f64();
        let [first, second] = ends.map(|n| row(sums, channels, b * nodes + n));
        let weights = ends.map(|n| v[n].to_f64());
        let inputs = row(zs, channels, at).iter().zip(first.iter().zip(second));
        for ((o, b), (z, (u, w))) in out.iter_mut().zip(bias).zip(inputs) {
            let sum = weights[0] * u + weights[1] * w + own * z.to_f64();
            *o = T::from_f64(roots[at] * sum) + *b;
        }
    })
}

/// Those of z and of the weights. With B_ef = S_ef / m_f and m_f = S_hf:
///
/// dz_f = sum over e of B_ef g_e
/// dS_ef = g_e z_f / m_f, and for e = h besides -z_f dz_f / m_f
/// dv_n = sum over e, f not e of dS_ef A_ef T_ne T_nf
///
/// The last sum is cut in two: first, for both ends of each f in the transition
/// matrix, over its neighbours e, then over the f of each node.
pub(super) fn edge_gradients(
    g: &Tensor,
    z: &Tensor,
    weights: &Tensor,
    [value, place]: &[Tensor; 2],
    graph: &GcnGraph,
) -> Result<[Tensor; 2]> {
    fn run<T: Float>(
        [g, z, weights, value, place]: [&Tensor; 5],
        graph: &GcnGraph,
    ) -> Result<[Tensor; 2]> {
        let (g, z, weights) = (plain(g)?, plain(z)?, plain(weights)?);
        let (gs, zs) = (g.dense_slice::<T>(EDGE)?, z.dense_slice::<T>(EDGE)?);
        let vs = weights.dense_slice::<T>(EDGE)?;
        let most = value.dense_slice::<T>(EDGE)?;
        let places = place.dense_slice::<i64>(EDGE)?;
        let channels = z.shape()[2];
        let graphs = Graphs::of(EDGE, graph)?;
        let (batch, edges) = (graphs.batch, graphs.edges);
        let [dz, parts] = by_rows_of_two(
            [batch, edges],
            [channels, 2],
            &|b, f, dz: &mut [T], parts: &mut [T]| {
                let (sample, transition) = (graphs.sample(b), graphs.transition(b));
                let v = row(vs, graphs.nodes, b);
                let (at, g) = (b * edges + f, |e: usize| row(gs, channels, b * edges + e));
                let (m, z) = (most[at].to_f64(), row(zs, channels, at));
                sample.each_neighbour(f, |e| {
                    let s = strength(&sample, &transition, v, e, f);
                    accumulate(dz, s / m, g(e));
                });
                let of_maximum = -sum_pairs(z, dz, |z, dz| z * dz) / m;
                let mut sums = [0.0; 2];
                sample.each_neighbour(f, |e| {
                    if e == f {
                        return;
                    }
                    let mut ds = sum_pairs(g(e), z, |g, z| g * z) / m;
                    if e as i64 == places[at] {
                        ds += of_maximum;
                    }
                    let dm = ds * sample.edge_adjacency(e, f);
                    for (sum, n) in sums.iter_mut().zip(transition.ends(f)) {
                        *sum += dm * transition.touches(n, e);
                    }
                });
                parts.copy_from_slice(&sums.map(T::from_f64));
            },
        )?;
        let parts = parts.dense_slice::<T>(EDGE)?;
        let dv = by_rows([batch, graphs.nodes, 1], &|b, n, out: &mut [T]| {
            let (transition, parts) = (graphs.transition(b), row(parts, 2 * edges, b));
            let leaving = transition.leaving(n).map(|f| parts[2 * f].to_f64());
            let entering = transition.entering(n).map(|f| parts[2 * f + 1].to_f64());
            out[0] = T::from_f64(leaving.chain(entering).sum());
        })?;
        Ok([dz, dv])
    }
    let narrow = g.dtype();
    let (g, z, weights) = (wide(g)?, wide(z)?, wide(weights)?);
    let operands = [&g, &z, &weights, value, place];
    let [dz, dv] = by_dtype!(EDGE, g, run(operands, graph))?;
    Ok([cast(&dz, narrow)?, cast(&dv, narrow)?])
}

pub(super) fn pool(z: &Tensor, graph: &GcnGraph) -> Result<Tensor> {
    fn run<T: Float>(z: &Tensor, graph: &GcnGraph) -> Result<Tensor> {
        let z = plain(z)?;
        let (zs, channels) = (z.dense_slice::<T>(POOL)?, z.shape()[2]);
        let graphs = Graphs::of(POOL, graph)?;
        let scale = graph.pool_scale();
        by_rows(
            [graphs.batch, graphs.nodes, channels],
            &|b, n, out: &mut [T]| {
                let transition = graphs.transition(b);
                for e in transition.leaving(n).chain(transition.entering(n)) {
                    accumulate(out, scale, row(zs, channels, b * graphs.edges + e));
                }
            },
        )
    }
    if is_half(z) {
        return widened([z], |[z]| pool(z, graph));
    }
    by_dtype!(POOL, z, run(z, graph))
}

pub(super) fn pool_gradient(g: &Tensor, graph: &GcnGraph) -> Result<Tensor> {
    fn run<T: Float>(g: &Tensor, graph: &GcnGraph) -> Result<Tensor> {
        let g = plain(g)?;
        let (gs, channels) = (g.dense_slice::<T>(POOL)?, g.shape()[2]);
        let graphs = Graphs::of(POOL, graph)?;
        let scale = graph.pool_scale();
        by_rows(
            [graphs.batch, graphs.edges, channels],
            &|b, e, out: &mut [T]| {
                for n in graphs.transition(b).ends(e) {
                    accumulate(out, scale, row(gs, channels, b * graphs.nodes + n));
                }
            },
        )
    }
    if is_half(g) {
        return widened([g], |[g]| pool_gradient(g, graph));
    }
    by_dtype!(POOL, g, run(g, graph))
}
