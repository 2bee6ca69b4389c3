//! One model for many callers: each gets the bits that it gets alone.

use eosin::device::cuda::CudaDevice;
use eosin::models::deeppt::{AutoEncoder, CODE, FEATURES, Mlp};
use eosin::models::resnet::{Depth, ResNet, ResNetFeatures};
use eosin::nn::State;
use eosin::random::Philox;
use eosin::{Device, Result, Runner, Session, Tensor, Threads, ops};
use eosin_emulator::Schedule;
use libtest_mimic::Trial;

use crate::formula_weights::{bits, fill, input};
use crate::stored::relative_l2;
use crate::trial::trial;
use crate::under_test;

/// Makes a model that computes on a device; shapes are those of one caller's input.
type Make = fn(&Device) -> Result<Session>;

pub fn trials() -> Vec<Trial> {
    let models: [(&str, Make, &[usize]); 3] = [
        ("resnet18", resnet18, &[2, 3, 64, 64]),
        ("deeppt_autoencoder", autoencoder, &[23, FEATURES]),
        ("deeppt", deeppt, &[23, CODE]),
    ];
    let mut all = Vec::new();
    for (name, make, shape) in models {
        all.push(trial(
            format!("sessions::{name}::four_callers::cpu"),
            move || four_callers(&make(&Device::Cpu)?, shape, 3),
        ));
        all.push(trial(
            format!("sessions::{name}::own_threads::cpu"),
            move || own_threads(&make(&Device::Cpu)?, shape),
        ));
    }
    let on_cuda: [(&str, Make, &[usize]); 3] = [
        ("thin_resnet18", thin_resnet18, &[1, 3, 64, 64]),
        ("deeppt_autoencoder", autoencoder, &[5, FEATURES]),
        ("deeppt", deeppt, &[5, CODE]),
    ];
    for (name, make, shape) in on_cuda {
        all.push(trial(
            format!("sessions::{name}::four_callers::cuda"),
            move || four_callers(&make(&Device::Cuda(emulated()?))?, shape, 1),
        ));
        all.push(trial(
            format!("sessions::{name}::one_copy_of_the_weights::cuda"),
            move || one_copy_of_the_weights(make, shape),
        ));
        all.push(trial(
            format!("sessions::{name}::outputs_come_back::cuda"),
            move || outputs_come_back(make, shape),
        ));
    }
    all.push(trial(
        "sessions::thin_resnet18::alone_as_in_a_batch::cuda",
        || {
            let session = thin_resnet18(&Device::Cuda(emulated()?))?;
            alone_as_in_a_batch(&session, &[1, 3, 32, 32])
        },
    ));
    // Not the regression, which averages the rows that it is given.
    for (name, make, shape) in &models[..2] {
        let (make, shape) = (*make, *shape);
        all.push(trial(
            format!("sessions::{name}::alone_as_in_a_batch::cpu"),
            move || alone_as_in_a_batch(&make(&Device::Cpu)?, shape),
        ));
    }
    all.push(trial(
        "sessions::resnet18::wrong_input::cpu",
        wrong_input_is_an_error,
    ));
    all
}

fn emulated() -> Result<CudaDevice> {
    under_test::device(Schedule::Random(6))
}

fn resnet18(device: &Device) -> Result<Session> {
    resnet18_of(64, device)
}

/// An eighth as wide, for the emulator, which is slow.
fn thin_resnet18(device: &Device) -> Result<Session> {
    resnet18_of(8, device)
}

fn resnet18_of(width: usize, device: &Device) -> Result<Session> {
    let model = ResNet::of_width(width, Depth::ResNet18, 10, &mut Philox::new(0))?;
    fill(&model)?;
    Ok(Session::new(ResNetFeatures::new(model, device)?))
}

fn autoencoder(device: &Device) -> Result<Session> {
    let model = AutoEncoder::new(FEATURES, CODE, &mut Philox::new(0))?;
    fill(&model)?;
    model.to_device(device)?;
    Ok(Session::new(model))
}

fn deeppt(device: &Device) -> Result<Session> {
    let model = Mlp::new(CODE, CODE, &[0.0; 301], 0.2, &mut Philox::new(0))?;
    fill(&model)?;
    model.to_device(device)?;
    Ok(Session::new(model))
}

/// The outputs of one run, bit by bit, by name.
type Bits = Vec<(&'static str, Vec<u8>)>;

fn run(session: &Session, threads: Threads, x: &Tensor) -> Result<Bits> {
    let outputs = session.runner(threads)?.run(x)?.into_iter();
    outputs.map(|(name, t)| Ok((name, bits(&t)?))).collect()
}

fn four_callers(session: &Session, shape: &[usize], rounds: usize) -> Result<()> {
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
                    for round in 0..rounds {
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

/// Runners on CUDA hold no weights, whatever their number; what they compute
/// with is theirs, and goes with the outputs.
fn one_copy_of_the_weights(make: Make, shape: &[usize]) -> Result<()> {
    let gpu = emulated()?;
    let session = make(&Device::Cuda(gpu.clone()))?;
    let weights = gpu.memory().used;
    assert!(weights > 0);
    let runners: Vec<Runner> = (0..4)
        .map(|_| session.runner(Threads::Caller))
        .collect::<Result<_>>()?;
    let stream = |runner: &Runner| match runner.device() {
        Device::Cuda(stream) => stream.clone(),
        Device::Cpu => panic!("a runner on the CPU"),
    };
    let streams: Vec<CudaDevice> = runners.iter().map(stream).collect();
    for (i, stream) in streams.iter().enumerate() {
        assert!(stream.same_gpu(&gpu) && *stream != gpu);
        assert!(streams[..i].iter().all(|other| other != stream));
        assert_eq!(stream.memory().used, 0);
    }
    let x = input("memory", shape)?;
    drop(session);
    let first = runners[0].run(&x.to(runners[0].device())?)?;
    let held: usize = first.iter().map(|(_, y)| 4 * y.elements()).sum();
    // Tables that follow from shapes may stay.
    let kept = streams[0].memory();
    assert!(kept.used >= held && kept.high_water > held, "{kept:?}");
    drop(first);
    assert!(
        streams[0].memory().used <= kept.used - held,
        "{kept:?}, outputs of {held}"
    );
    assert!(streams[0].memory().used < 4096, "{:?}", streams[0].memory());
    assert_eq!(streams[1].memory().high_water, 0);
    assert_eq!(gpu.memory().used, weights);
    drop(runners);
    assert_eq!(gpu.memory().used, 0);
    Ok(())
}

/// Outputs are where the input is, with the same bits.
fn outputs_come_back(make: Make, shape: &[usize]) -> Result<()> {
    let gpu = emulated()?;
    let session = make(&Device::Cuda(gpu.clone()))?;
    let runner = session.runner(Threads::Caller)?;
    let x = input("places", shape)?;
    let mut first: Option<Bits> = None;
    let places = [Device::Cpu, session.device(), runner.device().clone()];
    for place in &places {
        let outputs = runner.run(&x.to(place)?)?;
        assert!(outputs.iter().all(|(_, y)| y.device() == *place));
        let got: Bits = (outputs.iter())
            .map(|(name, y)| Ok((*name, bits(y)?)))
            .collect::<Result<_>>()?;
        assert!(*first.get_or_insert_with(|| got.clone()) == got);
    }
    // And they are the CPU's, rounded another way.
    let here = make(&Device::Cpu)?.runner(Threads::Caller)?.run(&x)?;
    let there = runner.run(&x)?;
    assert_eq!(here.len(), there.len());
    for ((name, got), (_, want)) in there.iter().zip(&here) {
        let error = relative_l2(&got.to_f64_vec()?, &want.to_f64_vec()?);
        assert!(error <= 1e-5, "{name}: off by {error:e}");
    }
    Ok(())
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
    let session = resnet18(&Device::Cpu)?;
    let runner = session.runner(Threads::Caller)?;
    for shape in [&[2, 4, 64, 64][..], &[3, 64, 64], &[7]] {
        assert!(runner.run(&input("wrong", shape)?).is_err(), "{shape:?}");
    }
    Ok(())
}
