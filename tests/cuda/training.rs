//! Whole training steps as captured graphs: the bits of eager steps, memory,
//! interrupted runs, and what one step launches.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eosin::device::cuda::CudaDevice;
use eosin::device::cuda::null::NullDriver;
use eosin::formats::Weights;
use eosin::nn::{
    BatchNorm, Buffer, Dropout, Linear, Module, Pass, Slot, State, key, load, state_weights,
};
use eosin::optim::{Adam, Goal, Kind, Optimizer, ReduceOnPlateau, Sgd};
use eosin::random::Philox;
use eosin::train::fit::{History, Plan, Task};
use eosin::train::progress::{Control, Progress, Silent};
use eosin::train::step::{GRAPHS, Losses, TrainingStep};
use eosin::{DType, Device, Result, Tensor, ops};
use eosin_emulator::Schedule;

use crate::under_test;

fn emulated(schedule: Schedule) -> CudaDevice {
    under_test::device(schedule).unwrap()
}

/// Everything that a step can change: parameters, running statistics, a counter.
struct Net {
    first: Linear,
    norm: BatchNorm,
    last: Linear,
}

const INPUTS: usize = 12;
const OUTPUTS: usize = 5;

impl Net {
    fn on(device: &Device) -> Self {
        let mut random = Philox::new(11);
        let net = Self {
            first: Linear::new(INPUTS, 33, true, &mut random).unwrap(),
            norm: BatchNorm::new(33).unwrap(),
            last: Linear::new(33, OUTPUTS, true, &mut random).unwrap(),
        };
        net.to_device(device).unwrap();
        net
    }

    fn loss(&self, inputs: &[Tensor], pass: &Pass) -> Result<Tensor> {
        let x = self.first.forward(&inputs[0], pass)?;
        let x = ops::relu(&self.norm.forward(&x, pass)?)?;
        let x = Dropout { p: 0.5 }.forward(&x, pass)?;
        // A second mask, further on in the pass's stream.
        let y = Dropout { p: 0.1 }.forward(&self.last.forward(&x, pass)?, pass)?;
        ops::mse_loss(&y, &inputs[1])
    }
}

/// Running statistics that do not lie in one piece are moved by operators of their own
/// instead of by the batch norm's launch.
#[test]
pub fn running_statistics_that_lie_apart_are_moved_too() {
    let device = Device::Cuda(emulated(Schedule::Reverse));
    let (here, mut there) = (BatchNorm::new(3).unwrap(), BatchNorm::new(3).unwrap());
    there.to_device(&device).unwrap();
    let six = Tensor::full_on(0.0, &[6], DType::F32, &device).unwrap();
    let apart = ops::slice_step(&six, 0, 0, 3, 2).unwrap();
    assert!(!apart.layout().is_contiguous());
    there.running_mean = Buffer::new("running_mean", apart);
    let x: Vec<f32> = (0..24).map(|i| (i * i % 17) as f32).collect();
    let x = Tensor::from_slice(&x, &[8, 3]).unwrap();
    let pass = Pass::train(Philox::new(0));
    here.forward(&x, &pass).unwrap();
    there.forward(&x.to(&device).unwrap(), &pass).unwrap();
    for (got, want) in [
        (&there.running_mean, &here.running_mean),
        (&there.running_var, &here.running_var),
        (&there.num_batches_tracked, &here.num_batches_tracked),
    ] {
        let [got, want] = [got, want].map(|b| b.value().to_f64_vec().unwrap());
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 1e-5, "{got}, not {want}");
        }
    }
}

impl State for Net {
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(String, Slot)) {
        self.first.visit(&key(prefix, "first"), visit);
        self.norm.visit(&key(prefix, "norm"), visit);
        self.last.visit(&key(prefix, "last"), visit);
    }
}

/// Inputs and targets of a batch, on the CPU.
fn batch(number: usize, rows: usize) -> [Tensor; 2] {
    let values = |purpose: &str, width: usize| {
        let mut values = vec![0.0; rows * width];
        Philox::fork(number as u64, purpose).fill_normal(&mut values, 0.3, 1.0);
        Tensor::from_slice(&values, &[rows, width]).unwrap()
    };
    [values("x", INPUTS), values("y", OUTPUTS)]
}

fn adam() -> Kind {
    let rule = Adam {
        lr: 0.01,
        weight_decay: 0.01,
        ..Adam::default()
    };
    rule.into()
}

fn kinds() -> [Kind; 2] {
    let momentum = Sgd {
        lr: 0.05,
        momentum: 0.9,
        nesterov: true,
        weight_decay: 0.01,
    };
    [adam(), momentum.into()]
}

/// All bits of the model and of the optimiser.
fn bits(step: &TrainingStep) -> Vec<(String, Vec<u8>)> {
    let state = step.model().state().into_iter();
    let model = state.map(|(key, slot)| (key, slot.value()));
    let optimizer = step.optimizer().state().unwrap().into_iter();
    model
        .chain(optimizer.map(|(key, value)| (format!("optimizer {key}"), value)))
        .map(|(key, value)| (key, value.to_bytes().unwrap()))
        .collect()
}

fn assert_same(got: &[(String, Vec<u8>)], want: &[(String, Vec<u8>)], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for ((key, got), (_, want)) in got.iter().zip(want) {
        assert!(got == want, "{what}: {key} differs");
    }
}

/// Rows of each step's batch: two shapes, mixed.
const ROWS: [usize; 8] = [8, 8, 8, 5, 8, 5, 5, 8];

/// Loss, and all bits after it, of each step.
type Trace = Vec<(Vec<u8>, Vec<(String, Vec<u8>)>)>;

fn trace(kind: Kind, device: &Device, captured: bool) -> Trace {
    let net = Net::on(device);
    let optimizer = Optimizer::new(kind, net.parameters()).unwrap();
    let loss = |inputs: &[Tensor], pass: &Pass| net.loss(inputs, pass);
    // A norm that some of the gradients exceed.
    let mut step = TrainingStep::new(&net, optimizer, &loss).unwrap();
    step = step.clipped(NORM);
    if !captured {
        step = step.uncaptured();
    }
    let mut trace = Trace::new();
    for (i, rows) in ROWS.into_iter().enumerate() {
        let lr = step.optimizer().learning_rate();
        step.optimizer_mut().set_learning_rate(lr * 0.9).unwrap();
        let random = Philox {
            key: 77 + i as u64 / 3,
            position: 1000 * (i as u64 % 3),
        };
        let loss = step.take(&batch(i, rows), random).unwrap();
        trace.push((loss.to_bytes().unwrap(), bits(&step)));
    }
    assert_eq!(step.graphs(), if captured { 2 } else { 0 });
    trace
}

const NORM: f64 = 1.5;

#[test]
fn replays_have_the_bits_of_eager_steps() {
    for kind in kinds() {
        let mut first: Option<Trace> = None;
        for schedule in [Schedule::Forward, Schedule::Random(9)] {
            let eager = trace(kind, &Device::Cuda(emulated(schedule)), false);
            let captured = trace(kind, &Device::Cuda(emulated(schedule)), true);
            for (i, (got, want)) in captured.iter().zip(&eager).enumerate() {
                assert_eq!(got.0, want.0, "loss of step {i}");
                assert_same(&got.1, &want.1, &format!("{kind:?}, step {i}"));
            }
            // A step changes everything, so the comparison means something.
            for pair in eager.windows(2) {
                for ((key, a), (_, b)) in pair[0].1.iter().zip(&pair[1].1) {
                    assert!(a != b, "{key} stayed the same");
                }
            }
            let first = first.get_or_insert(eager);
            for (i, (got, want)) in captured.iter().zip(&*first).enumerate() {
                assert_same(&got.1, &want.1, &format!("another schedule, step {i}"));
            }
        }
    }
}

/// The CPU, which draws the same masks, is the independent truth.
#[test]
fn replayed_steps_are_those_of_the_cpu() {
    let float = |bytes: &[u8]| {
        let float = |b: &[u8]| f64::from(f32::from_le_bytes(b.try_into().unwrap()));
        bytes.chunks(4).map(float).collect::<Vec<_>>()
    };
    let there = trace(adam(), &Device::Cuda(emulated(Schedule::Greedy(3))), true);
    let here = trace(adam(), &Device::Cpu, false);
    for (i, (got, want)) in there.iter().zip(&here).enumerate() {
        let (got, want) = (float(&got.0)[0], float(&want.0)[0]);
        assert!(
            (got / want - 1.0).abs() < 1e-4,
            "step {i}: {got}, not {want}"
        );
    }
    let of = |trace: &Trace, name: &str| {
        let (_, bits) = trace.last().unwrap();
        let found = bits.iter().find(|(key, _)| key == name).unwrap();
        found.1.clone()
    };
    for name in ["norm.running_mean", "norm.running_var", "first.weight"] {
        let (got, want) = (float(&of(&there, name)), float(&of(&here, name)));
        let off: f64 = got.iter().zip(&want).map(|(g, w)| (g - w).powi(2)).sum();
        let all: f64 = want.iter().map(|w| w * w).sum();
        assert!(
            (off / all).sqrt() < 1e-4,
            "{name}: {:e}",
            (off / all).sqrt()
        );
    }
    let counter = "norm.num_batches_tracked";
    assert_eq!(of(&there, counter), of(&here, counter));
    assert_eq!(of(&there, counter), (ROWS.len() as i64).to_le_bytes());
}

#[test]
fn capture_leaves_everything_as_it_was() {
    let device = emulated(Schedule::Reverse);
    let net = Net::on(&Device::Cuda(device.clone()));
    let optimizer = Optimizer::new(adam(), net.parameters()).unwrap();
    let loss = |inputs: &[Tensor], pass: &Pass| net.loss(inputs, pass);
    let mut step = TrainingStep::new(&net, optimizer, &loss).unwrap();
    step = step.clipped(NORM);
    let error = step.prepare(&batch(0, 8)).unwrap_err().to_string();
    assert!(error.contains("take one step before"), "{error}");
    step.take(&batch(0, 8), Philox::new(1)).unwrap();
    let before = bits(&step);
    step.prepare(&batch(1, 8)).unwrap();
    assert_eq!(step.graphs(), 1);
    assert_same(&bits(&step), &before, "after the capture");
    // The masks of a step outside the graph are still those that it asks for.
    let x = Tensor::full(1.0, &[64], eosin::DType::F32).unwrap();
    let here = ops::dropout(&x, 0.5, Philox::new(4)).unwrap();
    let there = || {
        let x = x.to(&Device::Cuda(device.clone())).unwrap();
        ops::dropout(&x, 0.5, Philox::new(4)).unwrap()
    };
    assert_eq!(there().to_bytes().unwrap(), here.to_bytes().unwrap());
    step.take(&batch(1, 8), Philox::new(2)).unwrap();
    assert_eq!(there().to_bytes().unwrap(), here.to_bytes().unwrap());
}

#[test]
fn replays_take_no_memory() {
    for driver in ["emulator", "null"] {
        let device = match driver {
            "null" => CudaDevice::new(NullDriver::new()).unwrap(),
            _ => emulated(Schedule::Forward),
        };
        let place = Device::Cuda(device.clone());
        let net = Net::on(&place);
        let optimizer = Optimizer::new(adam(), net.parameters()).unwrap();
        let loss = |inputs: &[Tensor], pass: &Pass| net.loss(inputs, pass);
        let mut step = TrainingStep::new(&net, optimizer, &loss).unwrap();
        let mut losses = Losses::default();
        for i in 0..2 {
            let loss = step.take(&batch(i, 8), Philox::new(0)).unwrap();
            losses.push(&loss, 8.0).unwrap();
        }
        assert_eq!(step.graphs(), 1);
        let moved = batch(9, 8).map(|x| x.to(&place).unwrap());
        let warm = device.memory();
        for i in 0..5 {
            let loss = step.take(&batch(i, 8), Philox::new(i as u64)).unwrap();
            losses.push(&loss, 8.0).unwrap();
            // A batch that is on the device is copied there.
            let loss = step.take(&moved, Philox::new(i as u64)).unwrap();
            losses.push(&loss, 8.0).unwrap();
        }
        assert_eq!(device.memory(), warm, "{driver}");
        losses.mean().unwrap();
    }
}

/// What is set from outside moves a parameter's memory; a graph that went on
/// would train what nobody looks at.
#[test]
fn a_replaced_parameter_is_captured_anew() {
    let run = |captured: bool| {
        let place = Device::Cuda(emulated(Schedule::Forward));
        let net = Net::on(&place);
        let optimizer = Optimizer::new(adam(), net.parameters()).unwrap();
        let loss = |inputs: &[Tensor], pass: &Pass| net.loss(inputs, pass);
        let mut step = TrainingStep::new(&net, optimizer, &loss).unwrap();
        if !captured {
            step = step.uncaptured();
        }
        let first: Weights = state_weights(&net).unwrap();
        for i in 0..12 {
            if i == 4 {
                load(&net, &first, Path::new("memory")).unwrap();
            }
            if i == 8 {
                let state = step.optimizer().state().unwrap();
                step.optimizer_mut().load_state(state).unwrap();
            }
            step.take(&batch(i, 6), Philox::new(i as u64)).unwrap();
        }
        (bits(&step), step.graphs())
    };
    let (got, graphs) = run(true);
    let (want, none) = run(false);
    assert_same(&got, &want, "in the end");
    assert_eq!((graphs, none), (1, 0));
}

#[test]
fn a_loss_that_asks_for_a_value_is_refused() {
    let net = Net::on(&Device::Cuda(emulated(Schedule::Forward)));
    let loss = |inputs: &[Tensor], pass: &Pass| {
        let loss = net.loss(inputs, pass)?;
        assert!(loss.detach().item()?.is_finite());
        Ok(loss)
    };
    let optimizer = || Optimizer::new(adam(), net.parameters()).unwrap();
    let mut step = TrainingStep::new(&net, optimizer(), &loss).unwrap();
    step.take(&batch(0, 4), Philox::new(0)).unwrap();
    let error = step.take(&batch(1, 4), Philox::new(0)).err().unwrap();
    assert_eq!(
        error.to_string(),
        "capture: a value is asked for inside a captured step"
    );
    let mut step = TrainingStep::new(&net, optimizer(), &loss).unwrap();
    step = step.uncaptured();
    for i in 0..3 {
        step.take(&batch(i, 4), Philox::new(0)).unwrap();
    }
}

#[test]
fn beyond_so_many_shapes_steps_stay_eager() {
    let net = Net::on(&Device::Cuda(CudaDevice::new(NullDriver::new()).unwrap()));
    let optimizer = Optimizer::new(adam(), net.parameters()).unwrap();
    let loss = |inputs: &[Tensor], pass: &Pass| net.loss(inputs, pass);
    let mut step = TrainingStep::new(&net, optimizer, &loss).unwrap();
    for round in 1..4 {
        for rows in 2..GRAPHS + 5 {
            step.take(&batch(0, rows), Philox::new(0)).unwrap();
        }
        assert_eq!(step.graphs(), if round == 1 { 0 } else { GRAPHS });
    }
}

#[test]
fn losses_are_averaged_by_weight() {
    for place in [Device::Cpu, Device::Cuda(emulated(Schedule::Forward))] {
        let mut losses = Losses::default();
        assert_eq!(losses.mean().unwrap(), 0.0);
        for n in [600usize, 3] {
            let (mut total, mut weights) = (0.0, 0.0);
            for i in 0..n {
                let (value, weight) = ((i % 37) as f64 * 0.25, (i % 5 + 1) as f64);
                let loss = Tensor::full_on(value, &[], eosin::DType::F32, &place).unwrap();
                losses.push(&loss, weight).unwrap();
                total += value * weight;
                weights += weight;
            }
            assert_eq!(losses.mean().unwrap(), total / weights);
        }
    }
}

// ---- stages that are interrupted

/// Asks for a stop once an epoch is done.
struct StopAt<'a>(usize, &'a AtomicBool);

impl Progress for StopAt<'_> {
    fn begin(&self, _: &str, _: usize) {}
    fn at(&self, done: usize, _: &str) {
        if done == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    fn note(&self, _: &str) {}
    fn end(&self) {}
}

/// Seven epochs of three batches, the last of which is ragged.
fn stage(device: &Device, checkpoint: &Path, stop_at: Option<usize>) -> Result<(Weights, History)> {
    let net = Net::on(device);
    let loss = |inputs: &[Tensor], pass: &Pass| net.loss(inputs, pass);
    let optimizer = Optimizer::new(adam(), net.parameters())?;
    let stop = AtomicBool::new(false);
    let stopper = StopAt(stop_at.unwrap_or(0), &stop);
    let control = Control {
        progress: if stop_at.is_some() { &stopper } else { &Silent },
        stop: &stop,
    };
    let task = Task {
        name: "a stage",
        fingerprint: "of a test",
        step: TrainingStep::new(&net, optimizer, &loss)?.clipped(NORM),
        plan: Plan {
            epochs: 7,
            patience: 7,
        },
        schedule: Some(ReduceOnPlateau::new(Goal::Lower, 0.5, 0)?),
        checkpoint,
        checkpoint_every: Duration::from_secs(3600),
        steps: None,
    };
    let held = batch(100, 6).map(|x| x.to(device).unwrap());
    let history = task.run(
        &mut |epoch, steps| {
            for (i, rows) in [8, 8, 5].into_iter().enumerate() {
                let random = Philox::fork(epoch as u64, &format!("step {i}"));
                steps.step(&batch(3 * epoch + i, rows), random, rows)?;
            }
            Ok(())
        },
        &mut || Ok(net.loss(&held, &Pass::eval())?.item()?.into()),
        control,
    )?;
    Ok((state_weights(&net)?, history))
}

#[test]
fn an_interrupted_stage_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let device = || Device::Cuda(emulated(Schedule::Random(1)));
    let whole = stage(&device(), &folder.path().join("none"), None).unwrap();
    for epoch in [0, 3] {
        let error = stage(&device(), &path, Some(epoch)).unwrap_err();
        assert!(error.to_string().contains("--resume"), "{error}");
        assert!(path.exists());
    }
    // Not on a device of another kind: it would round differently.
    let error = stage(&Device::Cpu, &path, None).unwrap_err().to_string();
    assert!(
        error.contains("the stage began on cuda") && error.contains("--device cuda"),
        "{error}"
    );
    let resumed = stage(&device(), &path, None).unwrap();
    assert_eq!(resumed.1, whole.1);
    let arrays = |weights: &Weights| -> Vec<(String, Vec<u8>)> {
        let all = weights.iter();
        all.map(|(k, a)| (k.to_owned(), a.data.to_vec())).collect()
    };
    assert_same(&arrays(&resumed.0), &arrays(&whole.0), "resumed");
    let here = stage(&Device::Cpu, &folder.path().join("cpu"), None).unwrap();
    for (a, b) in here.1.train.iter().zip(&whole.1.train) {
        assert!((a / b - 1.0).abs() < 1e-3, "{a} on the CPU, {b} on CUDA");
    }
}
