//! One model for many callers: each gets the bits that it gets alone.

use eosin::models::deeppt::{AutoEncoder, CODE, FEATURES, Mlp};
use eosin::models::resnet::{Depth, ResNet, ResNetFeatures};
use eosin::random::Philox;
use eosin::{Device, Result, Session, Tensor, Threads, ops};
use libtest_mimic::Trial;

use crate::formula_weights::{bits, fill, input};
use crate::trial::trial;

/// A model, how to make it, and the shape of one caller's input.
type Make = fn() -> Result<Session>;

pub fn trials() -> Vec<Trial> {
    let models: [(&str, Make, &[usize]); 3] = [
        ("resnet18", resnet18, &[2, 3, 64, 64]),
        ("deeppt_autoencoder", autoencoder, &[23, FEATURES]),
        ("deeppt", deeppt, &[23, CODE]),
    ];
    let mut all = Vec::new();
    for (name, make, shape) in models {
        all.push(trial(
            format!("sessions::{name}::four_callers"),
            move || four_callers(&make()?, shape),
        ));
        all.push(trial(format!("sessions::{name}::own_threads"), move || {
            own_threads(&make()?, shape)
        }));
    }
    // Images only: a matrix product of one row sums in another order than one
    // of several, so a row of the autoencoder's code differs in its last bits.
    for (name, make, shape) in &models[..1] {
        let (make, shape) = (*make, *shape);
        all.push(trial(
            format!("sessions::{name}::alone_as_in_a_batch"),
            move || alone_as_in_a_batch(&make()?, shape),
        ));
    }
    all.push(trial(
        "sessions::resnet18::wrong_input",
        wrong_input_is_an_error,
    ));
    all
}

fn resnet18() -> Result<Session> {
    let model = ResNet::new(Depth::ResNet18, 10, &mut Philox::new(0))?;
    fill(&model)?;
    Ok(Session::new(ResNetFeatures::new(model, &Device::Cpu)?))
}

fn autoencoder() -> Result<Session> {
    let model = AutoEncoder::new(FEATURES, CODE, &mut Philox::new(0))?;
    fill(&model)?;
    Ok(Session::new(model))
}

fn deeppt() -> Result<Session> {
    let model = Mlp::new(CODE, CODE, &[0.0; 301], 0.2, &mut Philox::new(0))?;
    fill(&model)?;
    Ok(Session::new(model))
}

/// The outputs of one run, bit by bit, by name.
type Bits = Vec<(&'static str, Vec<u8>)>;

fn run(session: &Session, threads: Threads, x: &Tensor) -> Result<Bits> {
    let outputs = session.runner(threads)?.run(x)?.into_iter();
    outputs.map(|(name, t)| Ok((name, bits(&t)?))).collect()
}

fn four_callers(session: &Session, shape: &[usize]) -> Result<()> {
    let inputs: Vec<Tensor> = (0..4)
        .map(|i| input(&format!("caller {i}"), shape))
        .collect::<Result<_>>()?;
    let alone: Vec<Bits> = inputs
        .iter()
        .map(|x| run(session, Threads::Caller, x))
        .collect::<Result<_>>()?;
    assert!(alone[0] != alone[1], "inputs that differ give one output");
    let start = std::sync::Barrier::new(inputs.len());
    std::thread::scope(|scope| {
        let callers: Vec<_> = inputs
            .iter()
            .zip(&alone)
            .enumerate()
            .map(|(i, (x, alone))| {
                let start = &start;
                // Every other caller has threads of its own.
                let threads = match i % 2 {
                    0 => Threads::Caller,
                    _ => Threads::Own(2),
                };
                scope.spawn(move || -> Result<()> {
                    let runner = session.runner(threads)?;
                    start.wait();
                    for round in 0..3 {
                        for ((name, got), (_, want)) in runner.run(x)?.iter().zip(alone) {
                            assert!(bits(got)? == *want, "caller {i}, round {round}: {name}");
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        callers
            .into_iter()
            .try_for_each(|c| c.join().expect("a caller panicked"))
    })
}

fn own_threads(session: &Session, shape: &[usize]) -> Result<()> {
    let x = input("threads", shape)?;
    let want = run(session, Threads::Caller, &x)?;
    assert!(!want.is_empty());
    for n in [1, 2, 3] {
        assert!(run(session, Threads::Own(n), &x)? == want, "{n} threads");
    }
    Ok(())
}

fn alone_as_in_a_batch(session: &Session, shape: &[usize]) -> Result<()> {
    let mut shape = shape.to_vec();
    shape[0] = 5;
    let x = input("batch", &shape)?;
    let runner = session.runner(Threads::Caller)?;
    let together = runner.run(&x)?;
    for i in 0..5 {
        let alone = runner.run(&ops::slice(&x, 0, i, 1)?)?;
        for ((name, alone), (_, together)) in alone.iter().zip(&together) {
            let row = ops::slice(together, 0, i, 1)?;
            assert!(bits(alone)? == bits(&row)?, "row {i}: {name}");
        }
    }
    Ok(())
}

fn wrong_input_is_an_error() -> Result<()> {
    let session = resnet18()?;
    let runner = session.runner(Threads::Caller)?;
    for shape in [&[2, 4, 64, 64][..], &[3, 64, 64], &[7]] {
        assert!(runner.run(&input("wrong", shape)?).is_err(), "{shape:?}");
    }
    Ok(())
}
