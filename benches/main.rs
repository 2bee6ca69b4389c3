//! Benches of the hot paths: `cargo bench --bench eosin`; see benches/README.md.
//!
//! Names are `op/variant/dtype/shape`, with `cuda/` before those of a GPU. Each
//! bench compares its result with plain arithmetic before it is timed.

mod clock;
mod host;
mod models;
mod operators;
mod table;

use std::time::Duration;

use criterion::{BenchmarkGroup, criterion_group, criterion_main};
use eosin::random::Philox;
use eosin::{Result, Tensor};

use clock::Clock;

type Criterion = criterion::Criterion<Clock>;

/// Times what `set_up` returns. A bench that the command line filters out is
/// not set up, which with the check can take longer than the timing.
fn bench<R, F>(group: &mut BenchmarkGroup<Clock>, name: &str, set_up: impl FnOnce() -> F)
where
    F: FnMut() -> Result<R>,
{
    let mut set_up = Some(set_up);
    let mut ready = None;
    group.bench_function(name, |b| {
        if let Some(set_up) = set_up.take() {
            ready = Some(set_up());
        }
        let run = ready.as_mut().expect("set up by the first call");
        b.iter(|| run().expect("it succeeded when it was checked"));
    });
}

/// Normal values with a standard deviation.
fn normal(random: &mut Philox, shape: &[usize], std: f32) -> Tensor {
    let mut values = vec![0.0; shape.iter().product()];
    random.fill_normal(&mut values, 0.0, std);
    Tensor::from_slice(&values, shape).expect("one value for each element")
}

/// Asserts that `got` is `expected` within `tolerance` of the largest of
/// `expected`.
fn assert_close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: number of values");
    let size = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        // A comparison that NaN fails.
        assert!(
            (g - e).abs() <= tolerance * size,
            "{what}: value {i} is {g}, not {e}"
        );
    }
}

/// Few samples, and no plots, each of which takes longer than its bench: the
/// whole set ends within minutes on two cores.
fn short() -> Criterion {
    criterion::Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
        .with_measurement(Clock)
}

criterion_group! {
    name = all;
    config = short();
    targets = operators::described, models::resnet50_features, models::densenet121_features,
        models::resnet18_step,
        models::deeppt_autoencoder, models::deeppt_mlp,
        models::tcgn, models::tcgn_step,
        models::trnasformer, models::trnasformer_step,
        models::betavae_step, models::rnagan_iteration,
        operators::cpu, operators::cuda, host::launch, host::step
}
criterion_main!(all);
