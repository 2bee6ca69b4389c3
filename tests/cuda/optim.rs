//! Optimisers and clipping on CUDA against those of the CPU, eager and replayed.

use eosin::device::cuda::CudaDevice;
use eosin::nn::{BatchNorm, Buffer, Linear, Module, Param, Pass, Sequential, State};
use eosin::optim::{Adam, AdamW, Kind, Optimizer, Sgd, clip_grad_norm, clip_grad_norm_on_device};
use eosin::random::Philox;
use eosin::train::step::TrainingStep;
use eosin::{DType, Device, Tensor, ops};
use eosin_emulator::Schedule;

use crate::emulated::{Binary, assert_every_kernel_ran};
use crate::{training, under_test};

const SHAPES: [&[usize]; 3] = [&[2500], &[3, 5], &[1]];

fn emulated() -> CudaDevice {
    under_test::device(Schedule::Random(5)).unwrap()
}

fn values(seed: usize, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| (((i * 37 + seed * 101) % 199) as f32 - 99.0) / 50.0;
    let values: Vec<f32> = (0..n).map(value).collect();
    Tensor::from_slice(&values, shape).unwrap()
}

fn all(seed: usize, device: &Device) -> Vec<Tensor> {
    let one = |(i, shape): (usize, &&[usize])| values(seed + i, shape).to(device).unwrap();
    SHAPES.iter().enumerate().map(one).collect()
}

fn optimizer(kind: Kind, device: &Device) -> (Optimizer, Vec<Param>) {
    let named = all(7, device).into_iter().enumerate();
    let params: Vec<_> = named
        .map(|(i, value)| (format!("p{i}"), Param::new(format!("p{i}"), value)))
        .collect();
    let held = params.iter().map(|(_, p)| p.clone()).collect();
    (Optimizer::new(kind, params).unwrap(), held)
}

fn kinds() -> Vec<Kind> {
    let sgd = |momentum, nesterov| Sgd {
        lr: 0.1,
        momentum,
        nesterov,
        weight_decay: 0.02,
    };
    let adam = Adam {
        weight_decay: 0.1,
        ..Adam::default()
    };
    vec![
        sgd(0.0, false).into(),
        sgd(0.9, false).into(),
        sgd(0.9, true).into(),
        adam.into(),
        AdamW::default().into(),
    ]
}

fn close(got: &Tensor, want: &Tensor, what: &str) {
    let (got, want) = (got.to_f64_vec().unwrap(), want.to_f64_vec().unwrap());
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(&want) {
        assert!(
            (g - w).abs() <= 2e-6 * (1.0 + w.abs()),
            "{what}: {g}, not {w}"
        );
    }
}

/// The shadow is the value rounded to bf16, bit for bit.
fn assert_shadowed(param: &Param) {
    let shadow = param.shadow().expect("a shadow");
    let rounded = ops::cast(&param.value(), DType::BF16).unwrap();
    assert_eq!(shadow.dtype(), DType::BF16);
    assert_eq!(shadow.device(), param.value().device());
    assert_eq!(shadow.to_bytes().unwrap(), rounded.to_bytes().unwrap());
}

fn some(tensors: Vec<Tensor>, skip: Option<usize>) -> Vec<Option<Tensor>> {
    let one = |(i, t)| (Some(i) != skip).then_some(t);
    tensors.into_iter().enumerate().map(one).collect()
}

#[test]
fn steps_are_those_of_the_cpu() {
    for kind in kinds() {
        let device = Device::Cuda(emulated());
        let (mut there, moved) = optimizer(kind, &device);
        let (mut here, kept) = optimizer(kind, &Device::Cpu);
        // Somebody else's hold on the first values must not see them change.
        let before = moved[0].value();
        for param in moved.iter().chain(&kept).filter(|p| p.name() != "p2") {
            param.keep_shadow().unwrap();
        }
        let shadow_before = moved[0].shadow().unwrap();
        let rounded = ops::cast(&before, DType::BF16).unwrap().to_bytes().unwrap();
        for step in 0..4 {
            // One parameter has no gradient once, so its count falls behind.
            let skip = (step == 1).then_some(1);
            there.step(&some(all(step, &device), skip)).unwrap();
            here.step(&some(all(step, &Device::Cpu), skip)).unwrap();
            there.set_learning_rate(0.05).unwrap();
            here.set_learning_rate(0.05).unwrap();
        }
        for (a, b) in moved.iter().zip(&kept) {
            close(&a.value(), &b.value(), &format!("{kind:?}"));
        }
        close(&before, &values(7, SHAPES[0]), "the old values");
        assert_eq!(shadow_before.to_bytes().unwrap(), rounded);
        for param in moved[..2].iter().chain(&kept[..2]) {
            assert_shadowed(param);
        }
        assert!(moved[2].shadow().is_none());
        let (a, b) = (there.state().unwrap(), here.state().unwrap());
        assert_eq!(a.len(), b.len());
        for ((name, a), (_, b)) in a.iter().zip(&b) {
            close(a, b, name);
        }

        let (mut resumed, _) = optimizer(kind, &device);
        resumed.load_state(a.clone()).unwrap();
        for ((name, x), (_, y)) in resumed.state().unwrap().iter().zip(&a) {
            assert_eq!(x.to_bytes().unwrap(), y.to_bytes().unwrap(), "{name}");
        }
    }
}

#[test]
fn a_replayed_step_counts_and_follows_the_learning_rate() {
    for kind in kinds() {
        let stream = emulated();
        let device = Device::Cuda(stream.clone());
        let (mut there, moved) = optimizer(kind, &device);
        let (mut here, kept) = optimizer(kind, &Device::Cpu);
        let gradients = some(all(3, &device), None);
        let same = some(all(3, &Device::Cpu), None);
        assert!(there.captured().is_err());
        there.step(&gradients).unwrap();
        here.step(&same).unwrap();
        let (graph, ()) = stream.capture(|| there.step(&gradients)).unwrap();
        let mut update = there.captured().unwrap();
        for lr in [0.2, 0.01, 0.03] {
            there.set_learning_rate(lr).unwrap();
            here.set_learning_rate(lr).unwrap();
            there.advance(&mut update).unwrap();
            graph.replay().unwrap();
            here.step(&same).unwrap();
        }
        for (a, b) in moved.iter().zip(&kept) {
            close(&a.value(), &b.value(), &format!("{kind:?}"));
        }
        for ((name, a), (_, b)) in there.state().unwrap().iter().zip(&here.state().unwrap()) {
            close(a, b, name);
        }
    }
}

/// Two layers in bf16 over f32 masters: the shadows follow every replay, and the
/// bits are those of eager steps and of steps that convert the masters.
#[test]
fn a_replayed_step_in_bf16_writes_the_shadows() {
    let after = |shadows: bool, captured: bool| -> Vec<Vec<u8>> {
        let device = Device::Cuda(emulated());
        let mut random = Philox::new(4);
        let layer = |inputs, outputs, random: &mut Philox| {
            let layer = Linear::new(inputs, outputs, true, random).unwrap();
            layer.to_device(&device).unwrap();
            layer
        };
        let first = layer(24, 40, &mut random);
        let last = layer(40, 7, &mut random);
        let net = Sequential::default().then(first).then(last);
        let params: Vec<Param> = net.parameters().into_iter().map(|(_, p)| p).collect();
        if shadows {
            for param in &params {
                param.keep_shadow().unwrap();
            }
        }
        let optimizer = Optimizer::new(AdamW::default(), net.parameters()).unwrap();
        let loss = |inputs: &[Tensor], pass: &Pass| {
            let y = net.forward(&ops::cast(&inputs[0], DType::BF16)?, pass)?;
            ops::mse_loss(&ops::cast(&y, DType::F32)?, &inputs[1])
        };
        let mut step = TrainingStep::new(&net, optimizer, &loss).unwrap();
        if !captured {
            step = step.uncaptured();
        }
        for number in 0..4 {
            let inputs = [values(number, &[9, 24]), values(number + 50, &[9, 7])];
            step.take(&inputs, Philox::new(0)).unwrap();
        }
        assert_eq!(step.graphs(), usize::from(captured));
        if shadows {
            params.iter().for_each(assert_shadowed);
        }
        params
            .iter()
            .map(|p| p.value().to_bytes().unwrap())
            .collect()
    };
    let eager = after(false, false);
    for (shadows, captured) in [(false, true), (true, false), (true, true)] {
        assert!(after(shadows, captured) == eager, "{shadows} {captured}");
    }
}

#[test]
fn a_shadow_that_a_graph_does_not_write_is_an_error() {
    let stream = emulated();
    let device = Device::Cuda(stream.clone());
    let (mut there, moved) = optimizer(Adam::default().into(), &device);
    let gradients = some(all(3, &device), None);
    there.step(&gradients).unwrap();
    let (_graph, ()) = stream.capture(|| there.step(&gradients)).unwrap();
    let mut update = there.captured().unwrap();
    moved[1].keep_shadow().unwrap();
    let error = there.advance(&mut update).unwrap_err().to_string();
    assert!(error.contains("capture it again"), "{error}");
}

#[test]
fn a_first_step_under_capture_is_refused() {
    let stream = emulated();
    let device = Device::Cuda(stream.clone());
    let (mut there, _) = optimizer(Adam::default().into(), &device);
    let gradients = some(all(3, &device), None);
    let outcome = stream.capture(|| there.step(&gradients));
    let error = outcome.err().unwrap().to_string();
    assert!(error.contains("take one step before"), "{error}");
}

/// As the test binary `ops` asks of its own; each test called here is one by
/// itself too, but here their order is known.
#[test]
fn every_kernel_besides_operators_runs() {
    steps_are_those_of_the_cpu();
    clipping_is_that_of_the_cpu();
    buffers_are_written_over_where_they_lie();
    counters_count_on_the_device();
    training::running_statistics_that_lie_apart_are_moved_too();
    assert_every_kernel_ran(Binary::Cuda);
}

#[test]
fn buffers_are_written_over_where_they_lie() {
    let place = Device::Cuda(emulated());
    for (dtype, n) in [(DType::F32, 2050), (DType::U8, 1027), (DType::BF16, 3)] {
        let old = Tensor::zeros(&[n], dtype).unwrap().to(&place).unwrap();
        let buffer = Buffer::new("b", old.clone());
        let new: Vec<f64> = (0..n).map(|i| (i % 251) as f64).collect();
        let new = ops::cast(&Tensor::from_slice(&new, &[n]).unwrap(), dtype).unwrap();
        buffer.set(new.to(&place).unwrap()).unwrap();
        let want = new.to_bytes().unwrap();
        assert_eq!(buffer.value().to_bytes().unwrap(), want);
        // What was held before is the same memory.
        assert_eq!(old.to_bytes().unwrap(), want);
    }
}

#[test]
fn counters_count_on_the_device() {
    let place = Device::Cuda(emulated());
    let norm = BatchNorm::new(3).unwrap();
    norm.to_device(&place).unwrap();
    let x = values(1, &[4, 3]).to(&place).unwrap();
    for count in 1..4 {
        norm.forward(&x, &Pass::train(Philox::new(0))).unwrap();
        let seen = norm.num_batches_tracked.value();
        assert_eq!(seen.device(), place);
        assert_eq!(seen.item().unwrap(), f64::from(count));
    }
}

#[test]
fn clipping_is_that_of_the_cpu() {
    for limit in [0.5, 1e6] {
        let device = Device::Cuda(emulated());
        let mut there = some(all(1, &device), Some(1));
        let mut here = some(all(1, &Device::Cpu), Some(1));
        let kept = there[0].clone().unwrap();
        let norm = clip_grad_norm_on_device(&mut there, limit).unwrap();
        assert_eq!((norm.shape().len(), norm.device()), (0, device));
        let want = clip_grad_norm(&mut here, limit).unwrap();
        assert!((norm.item().unwrap() / want - 1.0).abs() < 1e-6);
        for (a, b) in there.iter().flatten().zip(here.iter().flatten()) {
            close(a, b, "clipped");
        }
        assert!(there[1].is_none());
        close(&kept, &values(1, SHAPES[0]), "another holder");
        let again = clip_grad_norm(&mut there, limit).unwrap();
        assert!((again / want.min(limit) - 1.0).abs() < 1e-5, "{again}");
    }
}
