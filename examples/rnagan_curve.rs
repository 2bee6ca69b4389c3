//! Iterations of RNA-GAN as published, with all that they start from, for
//! `benches/peers/rnagan_curve.py`, which repeats them in PyTorch.
//!
//! ```sh
//! cargo run --release --features bench-all --example rnagan_curve -- gan.toml 50 curve.safetensors
//! ```
//!
//! `gan.toml` is a run file of `eosin train rnagan` with `loss.reference_quirks = true`. Tiles,
//! latents, noise, alphas and initial weights go into the file, and the losses of generator,
//! critic and penalty of each iteration in f32 and in f64.

use std::path::Path;

use eosin::cohort::store::TileStore;
use eosin::formats::{Array, Weights, safetensors};
use eosin::models::rnagan::{Critic, Generator, standardised};
use eosin::nn::{Pass, State, state_weights};
use eosin::optim::{Adam, Optimizer};
use eosin::random::Philox;
use eosin::shape::Format;
use eosin::slides::augment::Augment;
use eosin::train::features::images;
use eosin::train::rnagan::config::GanConfig;
use eosin::train::rnagan::vae::Vae;
use eosin::train::step::TrainingStep;
use eosin::{DType, Device, Error, Result, Tensor, ops};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, iterations, out] = &arguments[..] else {
        return Err(Error::usage(
            "three arguments are needed",
            "give the run file, the number of iterations and the file to write",
        ));
    };
    let iterations: usize = iterations.parse().map_err(|_| {
        let problem = format!("`{iterations}` is no number of iterations");
        Error::usage(problem, "give one, such as 50")
    })?;
    let config = GanConfig::read(Path::new(config))?;
    let vae = config.vae.as_deref();
    let (Some(vae), true) = (vae, config.loss.reference_quirks) else {
        return Err(Error::usage(
            "this is not the published training",
            "set vae and loss.reference_quirks = true",
        ));
    };
    let mut all = Weights::new();
    let batches = batches(&config, vae, iterations, &mut all)?;
    for dtype in [DType::F32, DType::F64] {
        let losses = train(&config, &batches, dtype, &mut all)?;
        let losses = Array::from_f64(&[iterations, 3], &losses)?;
        all.insert(format!("losses/{dtype}"), losses)?;
    }
    for (name, value) in [
        ("generator_rate", config.training.generator_rate),
        ("critic_rate", config.training.critic_rate),
        ("beta1", config.training.betas[0]),
        ("beta2", config.training.betas[1]),
        ("penalty", config.loss.penalty),
    ] {
        all.metadata.insert(name.into(), value.to_string());
    }
    safetensors::write(Path::new(out), &all)
}

/// What an iteration is given.
struct Batch {
    real: Tensor,
    latents: Tensor,
    /// Of the steps of generator, critic and penalty.
    noise: [Tensor; 3],
    alpha: Tensor,
}

fn batches(
    config: &GanConfig,
    vae: &Path,
    iterations: usize,
    all: &mut Weights,
) -> Result<Vec<Batch>> {
    let mut cohort = config.data.read(true)?;
    let (px, n) = (config.model.image, config.training.batch);
    let folder = std::env::temp_dir().join(format!("rnagan-curve-{}", std::process::id()));
    let store = TileStore::of(&mut cohort, px, &folder, &mut |_| Ok(()))?;
    let table = cohort.table.as_ref();
    let table = table.ok_or_else(|| Error::usage("no expression", "give data that has some"))?;
    let latents = Vae::read(vae, &Device::Cpu)?.encode(table)?.means;
    let samples = cohort.samples.iter().enumerate();
    let mut items: Vec<(usize, usize)> = samples
        .flat_map(|(s, sample)| sample.tiles.iter().map(move |&tile| (tile, s)))
        .collect();
    Philox::fork(config.seed, "curve order").shuffle(&mut items);
    let mut made = Vec::with_capacity(iterations);
    let mut order = items.iter().cycle();
    for i in 0..iterations {
        let batch: Vec<(usize, usize)> = order.by_ref().take(n).copied().collect();
        let tiles: Vec<usize> = batch.iter().map(|b| b.0).collect();
        let rows: Vec<i64> = batch.iter().map(|b| b.1 as i64).collect();
        let pixels = store.read(&tiles, Augment::default(), Philox::new(0))?;
        let real = images(&pixels, n, px)?.to_format(Format::Contiguous)?;
        let latents = ops::index_select(&latents, 0, &Tensor::from_slice(&rows, &[n])?)?;
        let drawn = |what: &str, len: usize, low: f32, high: f32| {
            let mut values = vec![0.0; len];
            let mut random = Philox::fork(config.seed, &format!("curve {i} {what}"));
            random.fill_uniform(&mut values, low, high);
            values
        };
        let width = latents.shape()[1];
        let half = config.input.noise;
        let noise =
            |what: &str| Tensor::from_slice(&drawn(what, n * width, -half, half), &[n, width]);
        let noise = [noise("generator")?, noise("critic")?, noise("penalty")?];
        let alpha = Tensor::from_slice(&drawn("alpha", 1, 0.0, 1.0), &[1])?;
        for (name, value) in [
            ("real", &real),
            ("latents", &latents),
            ("noise/generator", &noise[0]),
            ("noise/critic", &noise[1]),
            ("noise/penalty", &noise[2]),
            ("alpha", &alpha),
        ] {
            let array = Array::from_f32(value.shape(), &value.to_f32_vec()?)?;
            all.insert(format!("{name}/{i}"), array)?;
        }
        made.push(Batch {
            real,
            latents,
            noise,
            alpha,
        });
    }
    let _ = std::fs::remove_file(folder);
    Ok(made)
}

/// Losses of generator, critic and penalty, iteration by iteration.
fn train(
    config: &GanConfig,
    batches: &[Batch],
    dtype: DType,
    all: &mut Weights,
) -> Result<Vec<f64>> {
    let latent = batches.first().map_or(0, |b| b.latents.shape()[1]);
    let mut random = Philox::fork(config.seed, "generator and critic");
    let sizes = config.model.sizes();
    let g = Generator::new(latent, sizes, config.model.growth, &mut random)?;
    let c = Critic::new(sizes, &mut random)?;
    if dtype == DType::F32 {
        for (name, model) in [("generator", &g as &dyn State), ("critic", &c)] {
            for (key, array) in state_weights(model)?.iter() {
                all.insert(format!("{name}/{key}"), array.clone())?;
            }
        }
    }
    for model in [&g as &dyn State, &c] {
        model.convert(dtype)?;
    }
    let objective = config.loss.objective();
    let z = |inputs: &[Tensor]| standardised(&inputs[0], &inputs[1]);
    let of_generator =
        |inputs: &[Tensor], pass: &Pass| objective.generator(&g, &c, &z(inputs)?, pass);
    let of_critic = |inputs: &[Tensor], pass: &Pass| match inputs.get(3) {
        Some(alpha) => objective.penalty(&g, &c, [&inputs[2], &z(inputs)?, alpha], pass),
        None => objective.gap(&g, &c, [&inputs[2], &z(inputs)?], pass),
    };
    let optimizer = |model: &dyn State, lr: f64| {
        let betas = config.training.betas;
        let rule = Adam {
            lr,
            betas,
            ..Adam::default()
        };
        Optimizer::new(rule, model.parameters())
    };
    let of_g = optimizer(&g, config.training.generator_rate)?;
    let of_c = optimizer(&c, config.training.critic_rate)?;
    let mut generator = TrainingStep::new(&g, of_g, &of_generator)?.reading(&c);
    let mut critic = TrainingStep::new(&c, of_c, &of_critic)?.reading(&g);
    let mut losses = Vec::with_capacity(3 * batches.len());
    for batch in batches {
        let cast = |t: &Tensor| ops::cast(t, dtype);
        let (latents, real) = (cast(&batch.latents)?, cast(&batch.real)?);
        let [first, second, third] = &batch.noise;
        let none = Philox::new(0);
        let inputs = [latents.clone(), cast(first)?];
        losses.push(generator.take(&inputs, none)?.item()?);
        let inputs = [latents.clone(), cast(second)?, real.clone()];
        losses.push(critic.take(&inputs, none)?.item()?);
        let inputs = [latents, cast(third)?, real, cast(&batch.alpha)?];
        losses.push(critic.take(&inputs, none)?.item()?);
    }
    Ok(losses)
}
