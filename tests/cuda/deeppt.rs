//! DeepPT's training steps on CUDA: what one launches, and that it is that of the
//! CPU. A whole run is in tests/models, golden numbers too.

use std::collections::BTreeMap;

use eosin::device::cuda::CudaDevice;
use eosin::device::cuda::null::{Ledger, NullDriver};
use eosin::models::deeppt::{AutoEncoder, CODE, FEATURES, Mlp, Standardisation, averaging};
use eosin::nn::{Pass, State};
use eosin::optim::{Adam, Optimizer};
use eosin::random::Philox;
use eosin::train::deeppt::{Bags, autoencoder_loss};
use eosin::train::step::{Loss, TrainingStep};
use eosin::{DType, Device, Tensor};
use eosin_emulator::Schedule;

use crate::under_test;

// ---- what one step launches

/// The launches of a replayed step by kernel, which allocates nothing.
fn counted(
    model: &dyn State,
    (device, ledger): (&CudaDevice, &Ledger),
    loss: &Loss,
    inputs: &[Tensor],
) -> BTreeMap<&'static str, usize> {
    let optimizer = Optimizer::new(Adam::default(), model.parameters()).unwrap();
    let mut step = TrainingStep::new(model, optimizer, loss).unwrap();
    for _ in 0..2 {
        step.take(inputs, Philox::new(0)).unwrap();
    }
    assert_eq!(step.graphs(), 1);
    ledger.lock().unwrap().clear();
    let warm = device.memory();
    step.take(inputs, Philox::new(1)).unwrap();
    assert_eq!(device.memory(), warm, "a step allocates");
    let mut counts = BTreeMap::new();
    for launch in ledger.lock().unwrap().iter() {
        *counts.entry(launch.kernel).or_default() += 1;
    }
    counts
}

fn null() -> (CudaDevice, Ledger) {
    let ledger = Ledger::default();
    let device = CudaDevice::new(NullDriver::recording(ledger.clone())).unwrap();
    (device, ledger)
}

fn rows(numbers: &[i64]) -> Tensor {
    Tensor::from_slice(numbers, &[numbers.len()]).unwrap()
}

/// 17 launches for a batch of 64 tiles. Forward, 7: the rows of the batch, per layer a
/// product in parts and their sum, which is activated at once, and the loss in two.
/// Backward, 9: its seed, the loss, the 2 activations, of the last layer the product
/// for the code, in parts, their sum, the weight's product and the bias's sum, and the
/// first layer's gradients. The update of all parameters, 1.
#[test]
fn launches_of_an_autoencoder_step() {
    let (device, ledger) = null();
    let place = Device::Cuda(device.clone());
    let model = AutoEncoder::new(FEATURES, CODE, &mut Philox::new(0)).unwrap();
    model.to_device(&place).unwrap();
    let features = Tensor::full_on(0.0, &[100, FEATURES], DType::F32, &place).unwrap();
    let loss = |inputs: &[Tensor], pass: &Pass| autoencoder_loss(&model, &features, inputs, pass);
    let batch: Vec<i64> = (0..64).collect();
    let counts = counted(&model, (&device, &ledger), &loss, &[rows(&batch)]);
    assert_eq!(counts.values().sum::<usize>(), 17, "{counts:#?}");
}

/// 21 launches for two bags. Forward, 14: the rows of the codes and of the targets,
/// 4 that standardise them, per layer a product in parts and their sum, the
/// mask, the averages, and the loss in two. Backward, 6: its seed, the loss, the
/// averages, the last layer's gradients, the mask and the first layer's gradients. The
/// update of all parameters, 1.
#[test]
fn launches_of_a_regression_step() {
    const GENES: usize = 300;
    let (device, ledger) = null();
    let place = Device::Cuda(device.clone());
    let model = Mlp::new(CODE, CODE, &[0.0; GENES], 0.2, &mut Philox::new(0)).unwrap();
    model.to_device(&place).unwrap();
    let zeros = |rows, columns| Tensor::full_on(0.0, &[rows, columns], DType::F32, &place);
    let bags = Bags {
        codes: zeros(100, CODE).unwrap(),
        targets: zeros(10, GENES).unwrap(),
        code_scale: Standardisation::identity(CODE, &place).unwrap(),
        target_scale: Standardisation::identity(GENES, &place).unwrap(),
        dtype: DType::F32,
    };
    let loss = |inputs: &[Tensor], pass: &Pass| bags.loss(&model, inputs, pass);
    let tiles: Vec<i64> = (0..12).collect();
    let batch = [rows(&tiles), averaging(&[5, 7], 12).unwrap(), rows(&[0, 1])];
    let counts = counted(&model, (&device, &ledger), &loss, &batch);
    assert_eq!(counts.values().sum::<usize>(), 21, "{counts:#?}");
}

// ---- steps against those of the CPU

fn emulated() -> Device {
    Device::Cuda(under_test::device(Schedule::Greedy(2)).unwrap())
}

/// Losses of the steps, and the parameters in the end.
type Trained = (Vec<f64>, Vec<Vec<f64>>);

fn trained(model: &dyn State, loss: &Loss, batches: &[Vec<Tensor>]) -> Trained {
    let rule = Adam {
        lr: 0.01,
        ..Adam::default()
    };
    let optimizer = Optimizer::new(rule, model.parameters()).unwrap();
    let mut step = TrainingStep::new(model, optimizer, loss).unwrap();
    let mut losses = Vec::new();
    for (i, batch) in batches.iter().enumerate() {
        let loss = step.take(batch, Philox::fork(1, &format!("step {i}")));
        losses.push(loss.unwrap().item().unwrap());
    }
    let params = model.parameters().into_iter();
    let params = params.map(|(_, p)| p.value().to_f64_vec().unwrap());
    (losses, params.collect())
}

fn assert_close(got: &Trained, want: &Trained) {
    for (got, want) in got.0.iter().zip(&want.0) {
        assert!((got / want - 1.0).abs() < 1e-5, "loss {got}, not {want}");
    }
    for (got, want) in got.1.iter().zip(&want.1) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            // A tenth of a step of Adam: where a gradient is next to nothing,
            // rounding decides its sign.
            assert!((got - want).abs() < 1e-3, "{got}, not {want}");
        }
    }
}

fn random(purpose: &str, shape: [usize; 2]) -> Tensor {
    let mut values = vec![0.0; shape[0] * shape[1]];
    Philox::fork(0, purpose).fill_uniform(&mut values, 0.0, 2.0);
    Tensor::from_slice(&values, &shape).unwrap()
}

#[test]
fn autoencoder_steps_are_those_of_the_cpu() {
    let on = |device: &Device| {
        let model = AutoEncoder::new(70, 20, &mut Philox::new(0)).unwrap();
        model.to_device(device).unwrap();
        let features = random("features", [30, 70]).to(device).unwrap();
        let loss =
            |inputs: &[Tensor], pass: &Pass| autoencoder_loss(&model, &features, inputs, pass);
        let batch = |i: i64| vec![rows(&[i, 29 - i, 7, (5 * i + 3) % 30])];
        trained(&model, &loss, &(0..6).map(batch).collect::<Vec<_>>())
    };
    assert_close(&on(&emulated()), &on(&Device::Cpu));
}

#[test]
fn regression_steps_are_those_of_the_cpu() {
    let on = |device: &Device| {
        let model = Mlp::new(20, 16, &[0.5; 9], 0.3, &mut Philox::new(0)).unwrap();
        model.to_device(device).unwrap();
        let codes = random("codes", [30, 20]).to(device).unwrap();
        let targets = random("targets", [10, 9]).to(device).unwrap();
        let bags = Bags {
            code_scale: Standardisation::fit(&codes).unwrap(),
            target_scale: Standardisation::fit(&targets).unwrap(),
            codes,
            targets,
            dtype: DType::F32,
        };
        let loss = |inputs: &[Tensor], pass: &Pass| bags.loss(&model, inputs, pass);
        // Bags of other sizes, so of two shapes.
        let batch = |i: usize| {
            let sizes = [2 + i % 2, 3];
            let tiles = sizes.iter().sum::<usize>();
            let picked: Vec<i64> = (0..tiles).map(|t| ((t * 7 + i) % 30) as i64).collect();
            let samples = rows(&[i as i64, 9 - i as i64]);
            vec![rows(&picked), averaging(&sizes, tiles).unwrap(), samples]
        };
        let steps = trained(&model, &loss, &(0..7).map(batch).collect::<Vec<_>>());
        model.absorb(&bags.code_scale, &bags.target_scale).unwrap();
        let y = model.forward(&bags.codes, &[10, 20], &Pass::eval());
        (steps, y.unwrap().to_f64_vec().unwrap())
    };
    let (there, here) = (on(&emulated()), on(&Device::Cpu));
    assert_close(&there.0, &here.0);
    for (got, want) in there.1.iter().zip(&here.1) {
        assert!((got - want).abs() < 1e-3, "predicted {got}, not {want}");
    }
}
