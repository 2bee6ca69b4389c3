//! TCGN: the golden cases, what its two semantics promise, and the network on
//! CUDA.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use eosin::autograd::grad;
use eosin::formats::{Array, Weights};
use eosin::models::tcgn::{Config, Tcgn};
use eosin::nn::{self, Pass, Slot, State};
use eosin::random::Philox;
use eosin::{DType, Device, Result, Tensor, ops};
use eosin_emulator::Schedule;
use libtest_mimic::Trial;

use crate::dense_graph::Dense;
use crate::formula_weights::{fill, input, state_bits, weights};
use crate::golden::{Case, Rule, adam};
use crate::stored::relative_l2;
use crate::trial::trial;
use crate::under_test;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("golden::tcgn_eval::cpu", || eval("tcgn_eval")),
        trial("golden::tcgn_eval_b1::cpu", || eval("tcgn_eval_b1")),
        trial("golden::tcgn_train::cpu", train),
        trial("tcgn::small::cuda", small_on_cuda),
        trial("tcgn::batch_mates_do_not_matter", batch_mates),
        trial("tcgn::as_published_they_do", quirks_mix_the_batch),
        trial("tcgn::published_initial_weights", initial_weights),
        trial("tcgn::tiles_of_another_size", wrong_tiles),
        trial("tcgn::sizes_are_those_of_the_weights", sizes),
        trial("tcgn::a_size_needs_its_matrices", hostile_sizes),
        trial("tcgn::weights_of_the_trunk", weights_of_the_trunk),
        trial("tcgn::bf16_is_near_f32", bf16),
    ]
}

fn emulated() -> Result<Device> {
    Ok(Device::Cuda(under_test::device(Schedule::Greedy(4))?))
}

/// The published network with the case's weights and semantics.
fn published(case: &Case, dropout: f64) -> Result<Tcgn> {
    let genes = case.manifest["config"]["num_classes"].as_u64();
    let model = Tcgn::new(
        &Config {
            reference_quirks: true,
            dropout,
            ..Config::new(genes.expect("a count") as usize)
        },
        &mut Philox::new(0),
    )?;
    case.fill(&[&model])?;
    Ok(model)
}

type Seen = BTreeMap<String, Tensor>;

/// A forward pass, and all that it showed.
fn watched(model: &Tcgn, x: &Tensor, pass: &Pass) -> Result<(Tensor, Seen)> {
    let seen = RefCell::new(Seen::new());
    let y = model.forward_watched(
        x,
        pass,
        Some(&|name, value| {
            let twice = seen.borrow_mut().insert(name.to_owned(), value.clone());
            assert!(twice.is_none(), "{name} was shown twice");
        }),
    )?;
    Ok((y, seen.into_inner()))
}

/// Compares every stored tensor but `skip` with what was seen.
fn compare(case: &mut Case, output: &Tensor, seen: &Seen, skip: &[&str]) -> Result<()> {
    let tensors = case.manifest["tensors"].as_object().expect("tensors");
    let stored: Vec<(String, bool)> = (tensors.iter())
        .map(|(name, about)| (name.clone(), about["dtype"] == "int32"))
        .collect();
    for (name, integers) in stored {
        if skip.contains(&name.as_str()) {
            continue;
        }
        let got = match name.as_str() {
            "output" => output.clone(),
            name => match seen.get(name) {
                Some(tensor) => tensor.clone(),
                None => matrix_of_edges(name, seen)?,
            },
        };
        if integers {
            case.integers(&name, &got)?;
        } else {
            case.tensor(&name, &got, 1e-5)?;
        }
    }
    Ok(())
}

/// What the published code makes of the edges, which the network never forms:
/// `<block>.adj_v`, `.adj_e`, `.node_degree` or `.T_rowsum`.
fn matrix_of_edges(name: &str, seen: &Seen) -> Result<Tensor> {
    let (block, what) = name.split_once('.').unwrap_or_else(|| panic!("no {name}"));
    let edges = &seen[&format!("{block}.edges")];
    let nodes = seen[&format!("{block}.mean_graph")].shape()[1];
    let (batch, count) = (edges.shape()[0], edges.shape()[1]);
    let every: Vec<[usize; 2]> = (edges.to_f64_vec()?.chunks(2))
        .map(|e| [e[0] as usize, e[1] as usize])
        .collect();
    let mut all = Vec::new();
    for (sample, ends) in every.chunks(count).enumerate() {
        let dense = Dense::new(ends, nodes);
        match what {
            "adj_v" => all.extend(dense.adjacency),
            "adj_e" => all.extend(dense.edge_adjacency),
            "node_degree" => {
                let leaving = |n| ends.iter().filter(|e| e[0] == n).count() as f64;
                all.extend((0..dense.nodes).map(leaving));
            }
            // Stacked in reversed order.
            "T_rowsum" => {
                let from = (batch - 1 - sample) * count;
                let reversed = Dense::new(&every[from..from + count], nodes);
                let rows = reversed.transition.chunks(reversed.edges);
                all.extend(rows.map(|row| row.iter().sum::<f64>()));
            }
            _ => panic!("no {name}"),
        }
    }
    let shape: &[usize] = match what {
        "adj_v" => &[batch, nodes, nodes],
        "adj_e" => &[batch, count, count],
        _ => &[batch, nodes],
    };
    Tensor::from_slice(&all, shape)
}

/// The tiles of a case: those of `samples`, or all.
fn tiles(case: &Case) -> Result<Tensor> {
    let x = case.input(0)?;
    let Some(samples) = case.manifest["inputs"][0]["samples"].as_array() else {
        return Ok(x);
    };
    let samples: Vec<i64> = samples.iter().filter_map(|s| s.as_i64()).collect();
    ops::index_select(&x, 0, &Tensor::from_slice(&samples, &[samples.len()])?)
}

fn eval(name: &str) -> Result<()> {
    let mut case = Case::read(name);
    // A dropout that eval mode must not apply.
    let model = published(&case, 0.1)?;
    let (y, seen) = watched(&model, &tiles(&case)?, &Pass::eval())?;
    compare(&mut case, &y, &seen, &[])?;
    case.finish();
    Ok(())
}

fn train() -> Result<()> {
    let mut case = Case::read("tcgn_train");
    let model = published(&case, 0.0)?;
    let inputs = [case.input(0)?, case.input(1)?];
    let pass = Pass::train(Philox::new(0));
    let (y, seen) = watched(&model, &inputs[0], &pass)?;
    compare(&mut case, &y, &seen, &["losses"])?;
    drop((y, seen));
    let buffers: Vec<(String, Option<Tensor>)> = (model.state().into_iter())
        .filter(|(key, slot)| {
            matches!(slot, Slot::Buffer(_)) && !key.ends_with("num_batches_tracked")
        })
        .map(|(key, slot)| (key, Some(slot.value())))
        .collect();
    case.group("buffer_after_1", &buffers, Rule::Statistic)?;
    adam(&mut case, &model, &inputs, &|inputs, pass| {
        ops::mse_loss(&model.forward(&inputs[0], pass)?, &inputs[1])
    })?;
    case.finish();
    Ok(())
}

/// A network of the same structure that the emulator can afford.
pub fn small(reference_quirks: bool) -> Result<Tcgn> {
    let config = Config {
        image: 64,
        stem: 6,
        widths: [6, 12, 20, 24],
        hidden: [21, 43, 72, 86],
        depths: [1, 1, 2, 1],
        features: 40,
        heads: [1, 2, 4, 8],
        dropout: 0.0,
        reference_quirks,
        ..Config::new(7)
    };
    let model = Tcgn::new(&config, &mut Philox::new(0))?;
    fill(&model)?;
    Ok(model)
}

fn small_tiles(names: &[&str]) -> Result<Tensor> {
    let tiles = names.iter().map(|name| input(name, &[1, 3, 64, 64]));
    let tiles = tiles.collect::<Result<Vec<_>>>()?;
    ops::cat(&tiles.iter().collect::<Vec<_>>(), 0)
}

fn row(y: &Tensor, i: usize) -> Result<Vec<f32>> {
    ops::slice(y, 0, i, 1)?.to_f32_vec()
}

fn batch_mates() -> Result<()> {
    let model = small(false)?;
    let predict = |names: &[&str]| model.forward(&small_tiles(names)?, &Pass::eval());
    let with_b = predict(&["a", "b", "c"])?;
    let with_d = predict(&["d", "e", "a"])?;
    assert_eq!(row(&with_b, 0)?, row(&with_d, 2)?, "bits");
    let alone = predict(&["a"])?;
    let widen = |v: Vec<f32>| v.into_iter().map(f64::from).collect::<Vec<_>>();
    let error = relative_l2(&widen(row(&with_b, 0)?), &widen(row(&alone, 0)?));
    assert!(error <= 1e-6, "alone: off by {error:e}");
    assert_ne!(row(&with_b, 0)?, row(&with_b, 1)?, "two tiles");
    Ok(())
}

fn quirks_mix_the_batch() -> Result<()> {
    let [plain, published] = [small(false)?, small(true)?];
    let predict = |model: &Tcgn, names: &[&str]| model.forward(&small_tiles(names)?, &Pass::eval());
    let with_b = predict(&published, &["a", "b"])?;
    let with_c = predict(&published, &["a", "c"])?;
    assert_ne!(row(&with_b, 0)?, row(&with_c, 0)?);
    // Alone nobody's incidence is anybody else's.
    let alone = predict(&published, &["a"])?;
    assert_eq!(row(&alone, 0)?, row(&predict(&plain, &["a"])?, 0)?);
    Ok(())
}

fn initial_weights() -> Result<()> {
    let model = small(false)?;
    model.initialise(&mut Philox::new(3))?;
    let deviation = |key: &str| -> Result<f64> {
        let params = model.parameters();
        let (_, param) = params.iter().find(|(k, _)| k == key).expect("a key");
        let values = param.value().to_f64_vec()?;
        Ok((values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt())
    };
    let near = |key: &str, want: f64| -> Result<()> {
        let got = deviation(key)?;
        assert!((got / want - 1.0).abs() < 0.1, "{key}: {got}, not {want}");
        Ok(())
    };
    near("head.0.weight", 0.02)?;
    near("_fc.weight", (2.0f64 / 40.0).sqrt())?;
    near("patch_embed_d.proj.weight", (2.0f64 / (24.0 * 4.0)).sqrt())?;
    assert_eq!(deviation("head.0.bias")?, 0.0);
    assert_eq!(deviation("blocks_a.0.attn.sr.0.bias")?, 0.0);
    assert!(deviation("gnn_block0.censnet.gc1.bias")? > 0.0);
    let again = small(false)?;
    again.initialise(&mut Philox::new(3))?;
    let bits = |m: &Tcgn| state_bits(m);
    assert!(bits(&model)? != bits(&small(false)?)?, "drawn anew");
    let drawn = |m: &Tcgn| -> Result<_> {
        Ok(bits(m)?
            .into_iter()
            .filter(|(key, _)| key == "head.2.weight")
            .collect::<Vec<_>>())
    };
    assert!(drawn(&model)? == drawn(&again)?, "a function of the seed");
    Ok(())
}

fn wrong_tiles() -> Result<()> {
    let model = small(false)?;
    for shape in [&[1, 3, 64, 32][..], &[1, 4, 64, 64], &[3, 64, 64]] {
        let error = model.forward(&input("x", shape)?, &Pass::eval());
        let error = error.expect_err("a tile of another size").to_string();
        assert!(error.contains("tiles (B, 3, 64, 64)"), "{error}");
    }
    for image in [0, 100, 1056] {
        let config = Config {
            image,
            ..Config::new(3)
        };
        assert!(
            Tcgn::new(&config, &mut Philox::new(0)).is_err(),
            "{image} px"
        );
    }
    Ok(())
}

/// Values and gradients of a small network in both semantics, against the CPU.
fn small_on_cuda() -> Result<()> {
    eprintln!(
        "not run on cuda, for which the emulator is too slow: tcgn_eval, tcgn_eval_b1 and \
         tcgn_train; a small network of the same structure, module by module, against the CPU"
    );
    let device = emulated()?;
    let x = small_tiles(&["a", "b"])?;
    let target = input("target", &[2, 7])?;
    for quirks in [false, true] {
        let run = |device: &Device| -> Result<(Seen, Seen)> {
            let model = small(quirks)?;
            model.to_device(device)?;
            let x = x.to(device)?;
            let (y, mut seen) = watched(&model, &x, &Pass::eval())?;
            seen.insert("output".into(), y);
            let y = model.forward(&x, &Pass::train(Philox::new(0)))?;
            let loss = ops::mse_loss(&y, &target.to(device)?)?;
            let (keys, params): (Vec<_>, Vec<_>) = (model.parameters().into_iter())
                .map(|(key, p)| (key, p.recorded()))
                .unzip();
            let gradients = grad(&[&loss], None, &params.iter().collect::<Vec<_>>(), false)?;
            let gradients = keys.into_iter().zip(gradients);
            Ok((
                seen,
                gradients
                    .map(|(key, g)| (key, g.expect("a gradient")))
                    .collect(),
            ))
        };
        let (want, want_gradients) = run(&Device::Cpu)?;
        let (got, gradients) = run(&device)?;
        assert!(got.keys().eq(want.keys()));
        for (name, want) in &want {
            let error = relative_l2(&got[name].to_f64_vec()?, &want.to_f64_vec()?);
            assert!(error <= 1e-5, "{name}: off by {error:e}");
        }
        let norms = |g: &Seen| -> Result<f64> {
            let each = g
                .values()
                .map(|g| Ok(crate::stored::norm(&g.to_f64_vec()?)));
            Ok(each
                .collect::<Result<Vec<f64>>>()?
                .into_iter()
                .fold(0.0, f64::max))
        };
        let largest = norms(&want_gradients)?;
        assert_eq!(gradients.len(), want_gradients.len());
        for (key, want) in &want_gradients {
            let (got, want) = (gradients[key].to_f64_vec()?, want.to_f64_vec()?);
            // Ten times what single precision costs the golden gradients of this
            // model (1.9e-5). Those that are rounding alone, as that of a key's
            // bias, are compared in units of the largest.
            let apart: Vec<f64> = got.iter().zip(&want).map(|(a, b)| a - b).collect();
            let allowed = 1.9e-4 * crate::stored::norm(&want) + 1e-7 * largest;
            let apart = crate::stored::norm(&apart);
            assert!(
                apart <= allowed,
                "{key}: off by {apart:e}, over {allowed:e}"
            );
        }
    }
    Ok(())
}

fn sizes() -> Result<()> {
    for config in [small(false)?.config().clone(), Config::new(31)] {
        let model = Tcgn::new(&config, &mut Philox::new(1))?;
        let weights = nn::state_weights(&model)?;
        let got = Config::of(&weights, Path::new("w.pth"))?;
        // What weights do not tell has its default.
        let dropout = got.dropout;
        assert_eq!(got, Config { dropout, ..config });
    }
    Ok(())
}

/// A size in one array alone is an error that names the array, not memory.
fn hostile_sizes() -> Result<()> {
    let honest = weights(&small(false)?)?;
    let long = 1 << 16;
    for (key, shape) in [
        ("blocks_b.0.attn.q.weight", vec![long, 1]),
        ("blocks_b.0.mlp.conv1.0.weight", vec![long, 1, 1, 1]),
        ("stem_conv2.weight", vec![long, 1, 1, 1]),
        ("_fc.weight", vec![long, 1, 1, 1]),
        ("head.2.weight", vec![long, 1]),
        ("relative_pos_a", vec![1, long, 1]),
        ("relative_pos_c", vec![long, 1, 0]),
        ("head.0.weight", vec![1 << 40, 0]),
    ] {
        let mut wrong = Weights::new();
        for (name, array) in honest.iter().filter(|(name, _)| *name != key) {
            wrong.insert(name, array.clone())?;
        }
        let n = shape.iter().product();
        wrong.insert(key, Array::from_f32(&shape, &vec![0.0; n])?)?;
        let error = Config::of(&wrong, Path::new("w.pth")).and_then(|config| {
            let model = Tcgn::new(&config, &mut Philox::new(0))?;
            nn::load(&model, &wrong, Path::new("w.pth"))
        });
        let error = error.expect_err("sizes that do not fit").to_string();
        assert!(error.starts_with("w.pth"), "{error}");
    }
    Ok(())
}

/// The weights of the trunk alone, as of the published ImageNet classifier.
fn weights_of_the_trunk() -> Result<()> {
    let model = small(false)?;
    let mut trunk = Weights::new();
    for (key, array) in weights(&model)? {
        let own = ["gnn_block", "channel_attention", "head."];
        if !own.iter().any(|own| key.starts_with(own)) {
            trunk.insert(key, array)?;
        }
    }
    trunk.insert("head.weight", Array::from_f32(&[2, 3], &[0.5; 6])?)?;
    let start = |seed| Tcgn::new(model.config(), &mut Philox::new(seed));
    let path = Path::new("cmt.pth");
    let into = start(1)?;
    let left = nn::load_partial(&into, &trunk, path)?;
    assert_eq!(left.unused, ["head.weight"]);
    assert!(left.new.iter().any(|key| key == "head.0.weight"));
    assert_eq!(left.new.len() + trunk.len() - 1, into.state().len());
    let [got, given, before] = [
        state_bits(&into)?,
        state_bits(&model)?,
        state_bits(&start(1)?)?,
    ];
    for ((got, given), before) in got.iter().zip(&given).zip(&before) {
        let want = if left.new.contains(&got.0) {
            before
        } else {
            given
        };
        assert!(got == want, "{}", got.0);
    }
    // A strict load names what is missing.
    let error = nn::load(&start(1)?, &trunk, path).expect_err("keys are missing");
    assert!(
        error.to_string().contains("keys missing (gnn_block0."),
        "{error}"
    );

    let mut misshapen = Weights::new();
    misshapen.insert("_fc.bias", Array::from_f32(&[3], &[0.0; 3])?)?;
    let into = start(1)?;
    let error = nn::load_partial(&into, &misshapen, path).expect_err("another shape");
    assert!(
        error.to_string().contains("_fc.bias: [3], not [40]"),
        "{error}"
    );
    let mut foreign = Weights::new();
    foreign.insert("fc", Array::from_f32(&[3], &[0.0; 3])?)?;
    let error = nn::load_partial(&into, &foreign, path).expect_err("nothing in common");
    assert!(error.to_string().contains("no key of the model"), "{error}");
    assert!(state_bits(&into)? == before, "something was set");
    Ok(())
}

/// The graph is chosen in f32 from what bf16 gives, so an edge may differ.
fn bf16() -> Result<()> {
    let model = small(false)?;
    let x = small_tiles(&["a", "b"])?;
    let narrow = ops::cast(&x, DType::BF16)?;
    let [want, got] = [&x, &narrow].map(|x| model.forward(x, &Pass::eval()));
    let (want, got) = (want?, got?);
    assert_eq!(got.dtype(), DType::F32);
    let error = relative_l2(&got.to_f64_vec()?, &want.to_f64_vec()?);
    assert!(error > 0.0 && error <= 0.05, "off by {error:e}");
    let loss = ops::mse_loss(
        &model.forward(&narrow, &Pass::train(Philox::new(0)))?,
        &want,
    )?;
    let params = model.parameters();
    let of: Vec<Tensor> = params.iter().map(|(_, p)| p.recorded()).collect();
    let gradients = grad(&[&loss], None, &of.iter().collect::<Vec<_>>(), false)?;
    for ((key, _), gradient) in params.iter().zip(gradients) {
        let gradient = gradient.expect("a gradient");
        assert_eq!(gradient.dtype(), DType::F32, "{key}");
        assert!(
            gradient.to_f32_vec()?.iter().all(|v| v.is_finite()),
            "{key}"
        );
    }
    Ok(())
}
