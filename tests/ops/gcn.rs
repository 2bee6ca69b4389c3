//! Graphs and message passing, against the dense matrices of the published code and
//! the golden case that has ties.

use eosin::autograd::grad;
use eosin::ops::{self, GcnGraph};
use eosin::{DType, Device, Result, Tensor};
use eosin_emulator::Schedule;
use safetensors::SafeTensors;

use crate::common::formula;
use crate::common::stored::{array, folder, parts, relative_l2};
use crate::common::tensor;
use crate::dense_graph::Dense;
use crate::harness::{Sample, Suite, emulated};

/// An attention of 3 heads that ranks the pairs of nodes by integers, so that its mean
/// has the same order in every dtype: few enough for ties, and `loops` of its pairs
/// stand out as loops.
fn ranking(batch: usize, nodes: usize, loops: usize) -> Result<Tensor> {
    let pairs = batch * 3 * nodes * nodes;
    let name = format!("gcn ranking {batch} {nodes}");
    let mut values = formula::values(&name, pairs, 0.0, 40.0);
    for of_head in values.chunks_mut(nodes * nodes) {
        (0..loops).for_each(|n| of_head[n * nodes + n] += 40.0);
    }
    let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
    Tensor::from_slice(&values, &[batch, 3, nodes, nodes])
}

fn graph_of(ranking: &Tensor, edges: usize) -> Result<GcnGraph> {
    ops::gcn_graph(&ops::cast(ranking, DType::F32)?, edges)
}

/// All of a graph as one tensor.
fn as_tensor(graph: &GcnGraph) -> Result<Tensor> {
    let all = [
        graph.rows(),
        graph.columns(),
        graph.out_starts(),
        graph.in_starts(),
        graph.in_edges(),
        graph.edge_degrees(),
    ];
    ops::cat(&all, 1)
}

/// Batch, nodes, channels of nodes and of edges, edges, and whether transitions are
/// reversed. The ragged one has more channels than a warp takes at once.
const SHAPES: [(&str, [usize; 5], bool); 3] = [
    ("few", [2, 5, 3, 2, 7], false),
    ("ragged", [2, 13, 46, 13, 40], false),
    ("reversed", [3, 11, 5, 3, 31], true),
];

pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for (name, [batch, nodes, channels, width, edges], reversed) in SHAPES {
        let by = move |ranking: &Tensor| -> Result<GcnGraph> {
            let graph = graph_of(ranking, edges)?;
            Ok(if reversed {
                graph.reversing_transitions()
            } else {
                graph
            })
        };
        let ranks = ranking(batch, nodes, 3).expect("a ranking");
        let mut add = |sample: Sample| all.push(sample.fixed(ranks.clone()));
        add(Sample::new("gcn_graph", name, &[], move |t| {
            as_tensor(&by(&t[0])?)
        }));
        add(Sample::new(
            "gcn_edge_features",
            name,
            &[&[batch, 3, nodes, nodes], &[batch, nodes, channels]],
            move |t| ops::gcn_edge_features(&t[0], &t[1], &by(&t[2])?, 4),
        ));
        add(Sample::new(
            "gcn_node",
            name,
            &[&[batch, nodes, channels], &[batch, edges, 1], &[channels]],
            move |t| ops::gcn_node(&t[0], &t[1], Some(&t[2]), &by(&t[3])?),
        ));
        // Weights of both signs, so that the largest entry of a column is now on the
        // diagonal and now off it.
        add(Sample::new(
            "gcn_edge",
            name,
            &[&[batch, edges, width], &[batch, nodes, 1], &[width]],
            move |t| ops::gcn_edge(&t[0], &t[1], Some(&t[2]), &by(&t[3])?),
        )
        .range(-2.0, 2.0));
        add(Sample::new(
            "gcn_pool",
            name,
            &[&[batch, edges, width]],
            move |t| ops::gcn_pool(&t[0], &by(&t[1])?),
        ));
    }
    all
}

/// A matrix of the test's own as a tensor.
fn matrix(values: &[f64], rows: usize) -> Result<Tensor> {
    Tensor::from_slice(values, &[rows, values.len() / rows])
}

/// M with ones on its diagonal, for M = L diag(w) L^t.
fn with_unit_diagonal(l: &Tensor, w: &Tensor) -> Result<Tensor> {
    let n = l.shape()[0];
    let m = ops::matmul(
        &ops::mul(l, &ops::transpose(w, 0, 1)?)?,
        &ops::transpose(l, 0, 1)?,
    )?;
    let eye: Vec<f64> = (0..n * n)
        .map(|i| f64::from(u8::from(i / n == i % n)))
        .collect();
    let eye = matrix(&eye, n)?;
    let off = ops::mul(&m, &ops::affine(&eye, -1.0, 1.0)?)?;
    ops::add(&off, &eye)
}

/// The published node layer of one sample.
fn dense_node(x: &Tensor, w: &Tensor, bias: &Tensor, d: &Dense, t: &Dense) -> Result<Tensor> {
    let m = with_unit_diagonal(&matrix(&t.transition, t.nodes)?, w)?;
    // By default a node that no edge leaves has a factor of 0.
    let finite = |&a: &f64| if a.is_finite() { a } else { 0.0 };
    let adjacency: Vec<f64> = d.adjacency.iter().map(finite).collect();
    let a = ops::mul(&m, &matrix(&adjacency, d.nodes)?)?;
    ops::add(&ops::matmul(&a, x)?, bias)
}

/// The published edge layer of one sample.
fn dense_edge(z: &Tensor, v: &Tensor, bias: &Tensor, d: &Dense, t: &Dense) -> Result<Tensor> {
    let transposed = ops::transpose(&matrix(&t.transition, t.nodes)?, 0, 1)?;
    let m = with_unit_diagonal(&transposed, v)?;
    let s = ops::mul(&m, &matrix(&d.edge_adjacency, d.edges)?)?;
    let s = ops::div(&s, &ops::max(&s, &[0], true)?)?;
    ops::add(&ops::matmul(&s, z)?, bias)
}

/// What the edges of one sample join.
fn ends(graph: &GcnGraph, b: usize) -> Result<Vec<[usize; 2]>> {
    let of = |t: &Tensor| -> Result<Vec<i64>> {
        let all = t.to_vec::<i64>()?;
        Ok(all[b * graph.edges()..(b + 1) * graph.edges()].to_vec())
    };
    let pairs = of(graph.rows())?.into_iter().zip(of(graph.columns())?);
    Ok(pairs.map(|(i, j)| [i as usize, j as usize]).collect())
}

type Layer = fn(&Tensor, &Tensor, Option<&Tensor>, &GcnGraph) -> Result<Tensor>;
type DenseLayer = fn(&Tensor, &Tensor, &Tensor, &Dense, &Dense) -> Result<Tensor>;

/// A layer's result and gradients beside those of dense matrices.
fn as_dense(
    layer: Layer,
    dense: DenseLayer,
    of_edges: bool,
    edges: usize,
    reversed: bool,
) -> Result<()> {
    let (batch, nodes, channels) = (3, 12, 6);
    let mut graph = graph_of(&ranking(batch, nodes, 2)?, edges)?;
    if reversed {
        graph = graph.reversing_transitions();
    }
    let (own, other) = if of_edges {
        (edges, nodes)
    } else {
        (nodes, edges)
    };
    let variable = |name: &str, shape: &[usize]| -> Result<Tensor> {
        Ok(tensor(name, shape, -2.0, 2.0, DType::F64)?.variable())
    };
    let x = variable("x", &[batch, own, channels])?;
    let w = variable("w", &[batch, other, 1])?;
    let bias = variable("bias", &[channels])?;
    let got = layer(&x, &w, Some(&bias), &graph)?;
    let mut samples = Vec::new();
    for b in 0..batch {
        let from = if reversed { batch - 1 - b } else { b };
        let d = Dense::new(&ends(&graph, b)?, nodes);
        let t = Dense::new(&ends(&graph, from)?, nodes);
        let of = |all: &Tensor| ops::reshape(&ops::slice(all, 0, b, 1)?, &all.shape()[1..]);
        let y = dense(&of(&x)?, &of(&w)?, &bias, &d, &t)?;
        samples.push(ops::reshape(&y, &[1, own, channels])?);
    }
    let want = ops::cat(&samples.iter().collect::<Vec<_>>(), 0)?;
    same("result", &got, &want, 1e-12)?;
    let weight = tensor("g", got.shape(), -1.0, 1.0, DType::F64)?;
    let inputs = [&x, &w, &bias];
    let gradients = |y: &Tensor| grad(&[y], Some(&[&weight]), &inputs, false);
    for (i, (got, want)) in gradients(&got)?.iter().zip(gradients(&want)?).enumerate() {
        let got = got.as_ref().expect("a gradient");
        same(
            &format!("gradient {i}"),
            got,
            &want.expect("a gradient"),
            1e-12,
        )?;
    }
    Ok(())
}

fn same(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) -> Result<()> {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let error = relative_l2(&got.to_f64_vec()?, &want.to_f64_vec()?);
    assert!(error <= tolerance, "{what}: off by {error:e}");
    Ok(())
}

/// The graph that the definition gives, pair by pair.
fn by_definition(attention: &Tensor, edges: usize) -> Result<Vec<Vec<i64>>> {
    let (batch, heads, nodes) = (
        attention.shape()[0],
        attention.shape()[1],
        attention.shape()[2],
    );
    let pairs = nodes * nodes;
    let values = attention.to_vec::<f32>()?;
    let mut lists = vec![Vec::new(); 6];
    for b in 0..batch {
        let mean = |i: usize| {
            let of_head = |h: usize| values[(b * heads + h) * pairs + i];
            (0..heads).map(of_head).sum::<f32>() / heads as f32
        };
        let mut order: Vec<usize> = (0..pairs).collect();
        order.sort_by(|&i, &j| mean(j).total_cmp(&mean(i)));
        let mut kept = order[..edges].to_vec();
        kept.sort_unstable();
        let ends: Vec<[usize; 2]> = kept.iter().map(|&i| [i / nodes, i % nodes]).collect();
        let count = |f: &dyn Fn(&[usize; 2]) -> bool| ends.iter().filter(|e| f(e)).count() as i64;
        lists[0].extend(ends.iter().map(|e| e[0] as i64));
        lists[1].extend(ends.iter().map(|e| e[1] as i64));
        lists[2].extend((0..=nodes).map(|n| count(&|e| e[0] < n)));
        lists[3].extend((0..=nodes).map(|n| count(&|e| e[1] < n)));
        for n in 0..nodes {
            let entering = (0..edges).filter(|&e| ends[e][1] == n);
            lists[4].extend(entering.map(|e| e as i64));
        }
        let sharing = |e: &[usize; 2]| count(&|f| f.iter().any(|n| e.contains(n)));
        lists[5].extend(ends.iter().map(sharing));
    }
    Ok(lists)
}

fn is_as_defined(graph: &GcnGraph, attention: &Tensor) -> Result<()> {
    let want = by_definition(attention, graph.edges())?;
    let tensors = [
        graph.rows(),
        graph.columns(),
        graph.out_starts(),
        graph.in_starts(),
        graph.in_edges(),
        graph.edge_degrees(),
    ];
    for (i, (tensor, want)) in tensors.iter().zip(&want).enumerate() {
        assert_eq!(&tensor.to_vec::<i64>()?, want, "list {i}");
    }
    Ok(())
}

/// Of the pairs of 9 nodes, with many ties, from one to all, on both devices.
fn one_to_all() -> Result<()> {
    let attention = ops::cast(&ranking(2, 9, 1)?, DType::F32)?;
    let devices = [Device::Cpu, emulated(Schedule::Greedy(5))?];
    for edges in (1..=81).step_by(8) {
        for device in &devices {
            is_as_defined(&ops::gcn_graph(&attention.to(device)?, edges)?, &attention)?;
        }
    }
    Ok(())
}

/// Ranks of every sign and size, minus zero as zero, infinities and NaN, which is the
/// largest.
fn special_values() -> Result<()> {
    let mut values = formula::values("gcn special", 49, -1.0, 1.0);
    let exponents = values.iter_mut().enumerate();
    exponents.for_each(|(i, v)| *v *= 10f32.powi(i as i32 - 24));
    values[..8].copy_from_slice(&[
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE / 4.0,
        f32::NAN,
        -f32::NAN,
    ]);
    let attention = Tensor::from_slice(&values, &[1, 1, 7, 7])?;
    let on_cuda = attention.to(&emulated(Schedule::Random(4))?)?;
    for edges in [1, 2, 3, 4, 10, 24, 30, 31, 48, 49] {
        let want = ops::gcn_graph(&attention, edges)?;
        let (_, top) = ops::topk(&ops::reshape(&attention, &[49])?, edges, 0)?;
        let mut top = top.to_vec::<i64>()?;
        top.sort_unstable();
        let rows: Vec<i64> = top.iter().map(|i| i / 7).collect();
        assert_eq!(want.rows().to_vec::<i64>()?, rows);
        let got = ops::gcn_graph(&on_cuda, edges)?;
        assert_eq!(
            as_tensor(&got)?.to_vec::<i64>()?,
            as_tensor(&want)?.to_vec::<i64>()?
        );
    }
    Ok(())
}

/// TCGN's own size, and one whose ranks do not fit shared memory.
fn large(nodes: usize) -> Result<()> {
    let attention = tensor("gcn large", &[1, 2, nodes, nodes], 0.0, 1.0, DType::F32)?;
    let on_cuda = attention.to(&emulated(Schedule::Reverse)?)?;
    is_as_defined(&ops::gcn_graph(&on_cuda, 4 * nodes)?, &attention)?;
    is_as_defined(&ops::gcn_graph(&attention, 4 * nodes)?, &attention)
}

/// The published graph where the threshold is tied: 49 nodes, of which some have no
/// edge that leaves them.
fn golden_ties(device: &Device) -> Result<()> {
    let text = std::fs::read_to_string(folder().join("tcgn_graph_ties.json"));
    let manifest: serde_json::Value =
        serde_json::from_str(&text.expect("a manifest")).expect("JSON");
    let bytes = std::fs::read(folder().join("tcgn_graph_ties.safetensors"));
    let bytes = bytes.expect("golden tensors");
    let golden = SafeTensors::deserialize(&bytes).expect("golden tensors");
    let input = |name: &str, shape: &[usize], low: f64, edit: fn(f32) -> f32| -> Result<Tensor> {
        let n = shape.iter().product();
        let values = formula::values(name, n, low, 1.0);
        let values: Vec<f32> = values.into_iter().map(edit).collect();
        Tensor::from_slice(&values, shape)?.to(device)
    };
    let x = input("input/tcgn_ties_x", &[2, 49, 8], -1.0, |v| v)?.variable();
    let coarse = |v: f32| (v * 512.0).floor() / 512.0;
    let attention = input("input/tcgn_ties_graph", &[2, 2, 49, 49], 0.0, coarse)?.variable();

    let edges = ops::edges_without_ties(&attention, 4 * 49)?;
    let topk = manifest["topk_effective"]["gnn_block0"].as_f64();
    assert_eq!(Some(edges as f64 / 49.0), topk);
    let graph = ops::gcn_graph(&attention, edges)?;
    let column = |t: &Tensor| ops::reshape(t, &[2, edges, 1]);
    let ends_of = ops::cat(&[&column(graph.rows())?, &column(graph.columns())?], 2)?;
    let stored = |name: &str| array(&golden, &format!("gnn_block0.{name}"));
    assert_eq!(ends_of.to_f64_vec()?, stored("edges"));

    let features = ops::gcn_edge_features(&attention, &x, &graph, 7)?;
    let close = |what: &str, got: &[f64], want: &[f64], tolerance: f64| {
        let error = relative_l2(got, want);
        assert!(error <= tolerance, "{what}: off by {error:e}");
    };
    close(
        "edge_features",
        &features.to_f64_vec()?,
        &stored("edge_features"),
        1e-6,
    );
    let g = input("ops/tcgn_ties/gy", &[2, edges, 6], -1.0, |v| v)?;
    let gradients = grad(&[&features], Some(&[&g]), &[&x, &attention], false)?;
    for (name, got) in ["grad_x", "grad_graph"].into_iter().zip(gradients) {
        let got = got.expect("a gradient").to_f64_vec()?;
        close(name, &got, &array(&golden, name), 1e-5);
    }

    // The matrices that the layers stand for.
    let mut all = [const { Vec::new() }; 5];
    for b in 0..2 {
        // The published transition matrices are in reversed order of the batch.
        let reversed = Dense::new(&ends(&graph, 1 - b)?, 49).transition;
        let ends = ends(&graph, b)?;
        let dense = Dense::new(&ends, 49);
        let leaving = (0..49).map(|n| ends.iter().filter(|e| e[0] == n).count() as f64);
        all[3].extend(leaving);
        let touching = reversed.chunks(edges);
        all[4].extend(touching.map(|row| row.iter().sum::<f64>()));
        all[0].extend(dense.adjacency);
        all[1].extend(dense.edge_adjacency);
        all[2].extend(reversed);
    }
    let [adj_v, adj_e, t, degree, row_sums] = all;
    // A product with a row of zeros and infinity is NaN in the published code; where
    // that does not reach, entries agree.
    let want = stored("adj_v");
    let is_number = |i: &usize| want[*i].is_finite();
    let numbers: Vec<usize> = (0..want.len()).filter(is_number).collect();
    assert!(numbers.len() > want.len() / 2 && numbers.len() < want.len());
    let pick = |of: &[f64]| -> Vec<f64> { numbers.iter().map(|&i| of[i]).collect() };
    close("adj_v", &pick(&adj_v), &pick(&want), 1e-6);
    for (name, got) in [("gnn_block0.adj_e", adj_e), ("T", t)] {
        for (part, want, got) in parts(&golden, name, false, &got) {
            close(&format!("{name}{part}"), &got, &want, 1e-6);
        }
    }
    assert_eq!(degree, stored("node_degree"));
    assert!(degree.contains(&0.0), "every node has an edge");
    assert_eq!(row_sums, stored("T_rowsum"));

    // No sample is NaN for a node without edges.
    let weights = ops::slice(&features, 2, 0, 1)?;
    let y = ops::gcn_node(&x, &weights, None, &graph)?.to_f64_vec()?;
    assert!(y.iter().all(|v| v.is_finite()));
    for (n, _) in degree.iter().enumerate().filter(|(_, d)| **d == 0.0) {
        assert_eq!(y[n * 8..(n + 1) * 8], [0.0; 8]);
    }
    // What pooling gathers is T z / topk.
    let ones = Tensor::full_on(1.0, &[2, edges, 1], DType::F32, device)?;
    let pooled = ops::gcn_pool(&ones, &graph.reversing_transitions())?.to_f64_vec()?;
    let want: Vec<f64> = row_sums.iter().map(|s| s * 49.0 / edges as f64).collect();
    close("pooled", &pooled, &want, 1e-6);
    Ok(())
}

fn wrong_input() -> Result<()> {
    let attention = Tensor::zeros(&[1, 2, 4, 4], DType::F32)?;
    let refused = |result: Result<Tensor>| result.expect_err("a wrong input").to_string();
    let of_graph = |shape: &[usize], edges| -> String {
        let t = Tensor::zeros(shape, DType::F32).expect("zeros");
        refused(ops::gcn_graph(&t, edges).map(|g| g.rows().clone()))
    };
    assert_eq!(
        of_graph(&[1, 2, 4, 4], 17),
        "gcn_graph: 17 edges of 4 nodes; 1 to 16 exist"
    );
    assert!(of_graph(&[1, 2, 4, 4], 0).contains("0 edges"));
    assert_eq!(
        of_graph(&[1, 2, 4, 5], 3),
        "gcn_graph: shapes [1, 2, 4, 5] do not fit: the attention must be (B, heads, N, N)"
    );
    assert!(of_graph(&[2, 4, 4], 3).contains("(B, heads, N, N)"));
    assert!(of_graph(&[1, 0, 4, 4], 3).contains("(B, heads, N, N)"));
    assert!(ops::edges_without_ties(&attention, 17).is_err());
    assert!(ops::gcn_graph(&ops::cast(&attention, DType::I64)?, 3).is_err());

    let graph = ops::gcn_graph(&attention, 6)?;
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32).expect("zeros");
    let (x, w) = (zeros(&[1, 4, 3]), zeros(&[1, 6, 1]));
    assert_eq!(
        refused(ops::gcn_node(&x, &x, None, &graph)),
        "gcn_node: shapes [1, 4, 3], [1, 4, 3] do not fit: \
         x (1, 4, C), weights (1, 6, 1), bias (C)"
    );
    assert!(ops::gcn_node(&x, &w, Some(&zeros(&[4])), &graph).is_err());
    assert!(ops::gcn_node(&x, &ops::cast(&w, DType::F64)?, None, &graph).is_err());
    assert!(ops::gcn_edge(&x, &w, None, &graph).is_err());
    assert!(ops::gcn_pool(&x, &graph).is_err());
    assert!(ops::gcn_pool(&ops::cast(&w, DType::I64)?, &graph).is_err());
    assert!(ops::gcn_edge_features(&attention, &x, &graph, 0).is_err());
    assert!(ops::gcn_edge_features(&attention, &zeros(&[1, 4, 1]), &graph, 2).is_err());
    assert!(ops::gcn_edge_features(&attention, &zeros(&[1, 5, 3]), &graph, 2).is_err());
    let message = refused(ops::gcn_edge_features(&x, &x, &graph, 2));
    assert!(message.contains("B = 1, N = 4"), "{message}");
    Ok(())
}

fn empty() -> Result<()> {
    for device in [Device::Cpu, emulated(Schedule::Forward)?] {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32)?.to(&device);
        let attention = zeros(&[0, 2, 4, 4])?;
        let graph = ops::gcn_graph(&attention, 6)?;
        assert_eq!(ops::edges_without_ties(&attention, 6)?, 6);
        let (x, z) = (zeros(&[0, 4, 3])?.variable(), zeros(&[0, 6, 2])?.variable());
        let features = ops::gcn_edge_features(&attention, &x, &graph, 2)?;
        assert_eq!(features.shape(), [0, 6, 6]);
        let w = ops::slice(&features, 2, 0, 1)?;
        let y = ops::gcn_node(&x, &w, None, &graph)?;
        let v = ops::slice(&y, 2, 0, 1)?;
        let edges = ops::gcn_edge(&z, &v, None, &graph)?;
        let pooled = ops::gcn_pool(&edges, &graph)?;
        assert_eq!(pooled.shape(), [0, 4, 2]);
        let weight = pooled.detach();
        let gradients = grad(&[&pooled], Some(&[&weight]), &[&x, &z], false)?;
        assert!(gradients.iter().all(Option::is_some));
        // Samples without channels.
        let attention = zeros(&[1, 2, 4, 4])?;
        let graph = ops::gcn_graph(&attention, 6)?;
        let y = ops::gcn_node(&zeros(&[1, 4, 0])?, &zeros(&[1, 6, 1])?, None, &graph)?;
        assert_eq!(y.shape(), [1, 4, 0]);
    }
    Ok(())
}

pub fn tests(suite: &mut Suite) {
    for (name, edges) in [("sparse", 9), ("usual", 48), ("dense", 131)] {
        for reversed in [false, true] {
            let how = if reversed { "reversed" } else { "own" };
            suite.test(format!("gcn_node::as_dense::{name}::{how}"), move || {
                as_dense(ops::gcn_node, dense_node, false, edges, reversed)
            });
            suite.test(format!("gcn_edge::as_dense::{name}::{how}"), move || {
                as_dense(ops::gcn_edge, dense_edge, true, edges, reversed)
            });
        }
    }
    suite.test("gcn_graph::one_to_all", one_to_all);
    suite.test("gcn_graph::special_values", special_values);
    suite.test("gcn_graph::nodes_196", || large(196));
    suite.test("gcn_graph::beyond_shared_memory", || large(201));
    suite.test("gcn_graph::edges_without_ties", || {
        // 3 2 2 1 and 4 3 1 1: 1 and 3 edges end in a value that is alone in both.
        let values = [3.0f32, 2.0, 2.0, 1.0, 4.0, 3.0, 1.0, 1.0];
        let attention = Tensor::from_slice(&values, &[2, 1, 2, 2])?;
        assert_eq!(ops::edges_without_ties(&attention, 1)?, 1);
        assert_eq!(ops::edges_without_ties(&attention, 2)?, 4);
        let first = ops::slice(&attention, 0, 1, 1)?;
        assert_eq!(ops::edges_without_ties(&first, 2)?, 2);
        Ok(())
    });
    suite.test("gcn::golden::tcgn_graph_ties::cpu", || {
        golden_ties(&Device::Cpu)
    });
    suite.test("gcn::golden::tcgn_graph_ties::cuda", || {
        golden_ties(&emulated(Schedule::Greedy(2))?)
    });
    suite.test("gcn::wrong_input", wrong_input);
    suite.test("gcn::empty", empty);
}
