//! What a forward pass may change, and gradients through changed weights.

use eosin::autograd::grad;
use eosin::models::backbone::Backbone;
use eosin::models::deeppt::AutoEncoder;
use eosin::models::resnet::{Depth, ResNet};
use eosin::nn::{Pass, Slot, State};
use eosin::optim::{Optimizer, Sgd};
use eosin::random::Philox;
use eosin::{Device, Error, Result, Tensor, ops};
use eosin_emulator::Schedule;
use libtest_mimic::Trial;

use crate::formula_weights::{fill, input, state_bits};
use crate::stored::relative_l2;
use crate::trial::trial;
use crate::under_test;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("passes::eval_changes_nothing", eval_changes_nothing),
        trial("passes::eval_records_nothing", eval_records_nothing),
        trial("passes::first_momentum_step", first_momentum_step),
        trial("passes::calibration_averages::cpu", || {
            calibration_averages(&Device::Cpu)
        }),
        trial("passes::calibration_averages::cuda", || {
            let gpu = under_test::device(Schedule::Random(8))?;
            calibration_averages(&Device::Cuda(gpu))
        }),
        trial("passes::calibration_of_one_batch", calibration_of_one_batch),
        trial("passes::stale_parameter", stale_parameter),
        trial("passes::step_before_backward", step_before_backward),
    ]
}

fn resnet() -> Result<ResNet> {
    let model = ResNet::new(Depth::ResNet18, 5, &mut Philox::new(0))?;
    fill(&model)?;
    Ok(model)
}

fn images(name: &str) -> Result<Tensor> {
    input(name, &[3, 3, 64, 64])
}

/// Running means and variances by key.
fn statistics(model: &ResNet) -> Result<Vec<(String, Vec<f64>)>> {
    let buffers = model.state().into_iter().filter_map(|(key, slot)| {
        let counter = key.ends_with("num_batches_tracked");
        match slot {
            Slot::Buffer(b) if !counter => Some((key, b.value())),
            _ => None,
        }
    });
    buffers.map(|(key, b)| Ok((key, b.to_f64_vec()?))).collect()
}

fn counters(model: &ResNet) -> Result<Vec<f64>> {
    let state = model.state().into_iter();
    state
        .filter(|(key, _)| key.ends_with("num_batches_tracked"))
        .map(|(_, slot)| slot.value().item())
        .collect()
}

fn eval_changes_nothing() -> Result<()> {
    let model = resnet()?;
    let before = state_bits(&model)?;
    let x = images("eval")?;
    model.forward(&x, &Pass::eval())?;
    assert!(state_bits(&model)? == before, "eval");
    let output = model.forward(&x, &Pass::eval_recorded())?;
    let inputs: Vec<Tensor> = (model.parameters().iter())
        .map(|(_, p)| p.recorded())
        .collect();
    let loss = ops::sum_all(&output.logits)?;
    let gradients = grad(&[&loss], None, &inputs.iter().collect::<Vec<_>>(), false)?;
    assert!(gradients.iter().all(Option::is_some));
    assert!(state_bits(&model)? == before, "eval with gradients");
    // The same comparison notices a pass that does change statistics.
    model.forward(&x, &Pass::train(Philox::new(0)))?;
    assert!(state_bits(&model)? != before, "train");
    Ok(())
}

fn eval_records_nothing() -> Result<()> {
    let model = resnet()?;
    let x = images("eval")?;
    assert!(!model.forward(&x, &Pass::eval())?.logits.is_recorded());
    let recorded = model.forward(&x, &Pass::eval_recorded())?.logits;
    assert!(recorded.is_recorded());
    let calibration = model.forward(&x, &Pass::calibration())?.logits;
    assert!(!calibration.is_recorded());
    Ok(())
}

/// A train pass moves the statistics a tenth of the way to those of the batch,
/// which a calibration pass from nothing gives in full.
fn first_momentum_step() -> Result<()> {
    let model = resnet()?;
    let x = images("momentum")?;
    let before = statistics(&model)?;
    model.forward(&x, &Pass::train(Philox::new(0)))?;
    let after = statistics(&model)?;
    model.reset_statistics()?;
    model.observe(&x)?;
    let batch = statistics(&model)?;
    assert_eq!(before.len(), 40);
    for (((key, old), (_, new)), (_, batch)) in before.iter().zip(&after).zip(&batch) {
        let want: Vec<f64> = old
            .iter()
            .zip(batch)
            .map(|(o, b)| 0.9 * o + 0.1 * b)
            .collect();
        let error = relative_l2(new, &want);
        assert!(error <= 1e-6, "{key}: off by {error:e}");
    }
    Ok(())
}

/// An eighth as wide a network, which the emulator can afford.
fn calibration_averages(device: &Device) -> Result<()> {
    let model = ResNet::of_width(8, Depth::ResNet18, 5, &mut Philox::new(0))?;
    fill(&model)?;
    model.to_device(device)?;
    let mut alone = Vec::new();
    let batches = [images("a")?, images("b")?, images("c")?].map(|x| x.to(device));
    let batches = batches.into_iter().collect::<Result<Vec<_>>>()?;
    for x in &batches {
        model.reset_statistics()?;
        model.observe(x)?;
        alone.push(statistics(&model)?);
    }
    model.reset_statistics()?;
    assert!(counters(&model)?.iter().all(|&n| n == 0.0));
    for x in &batches {
        model.observe(x)?;
    }
    let counts = counters(&model)?;
    assert_eq!(counts, vec![3.0; 20]);
    for (i, (key, got)) in statistics(&model)?.iter().enumerate() {
        let want: Vec<f64> = (0..got.len())
            .map(|j| alone.iter().map(|s| s[i].1[j]).sum::<f64>() / 3.0)
            .collect();
        let error = relative_l2(got, &want);
        assert!(error <= 1e-6, "{key}: off by {error:e}");
    }
    Ok(())
}

/// The stem's statistics after one batch, from the definition.
fn calibration_of_one_batch() -> Result<()> {
    let model = resnet()?;
    let x = images("one")?;
    model.reset_statistics()?;
    model.observe(&x)?;
    let state = model.state();
    let (_, weight) = &state[0];
    let geometry = ops::Conv2d {
        stride: [2; 2],
        padding: [3; 2],
        ..ops::Conv2d::default()
    };
    let y = ops::conv2d(&x, &weight.value(), None, geometry)?; // (3, 64, 32, 32)
    let values = y.to_f64_vec()?;
    let area = 32 * 32;
    let (mut means, mut variances) = (Vec::new(), Vec::new());
    for c in 0..64 {
        let channel: Vec<f64> = (0..3)
            .flat_map(|n| &values[(n * 64 + c) * area..][..area])
            .copied()
            .collect();
        let n = channel.len() as f64;
        let mean = channel.iter().sum::<f64>() / n;
        means.push(mean);
        // Unbiased, as PyTorch keeps it.
        variances.push(channel.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0));
    }
    let got = statistics(&model)?;
    assert_eq!(got[0].0, "bn1.running_mean");
    assert_eq!(got[1].0, "bn1.running_var");
    let error = relative_l2(&got[0].1, &means);
    assert!(error <= 1e-5, "means off by {error:e}");
    let error = relative_l2(&got[1].1, &variances);
    assert!(error <= 1e-5, "variances off by {error:e}");
    Ok(())
}

fn assert_stale(outcome: Result<Vec<Option<Tensor>>>) {
    let error = outcome.expect_err("gradients through a changed parameter");
    assert!(matches!(error, Error::StaleParameter { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("run the forward pass again"), "{message}");
}

fn stale_parameter() -> Result<()> {
    let model = AutoEncoder::new(12, 7, &mut Philox::new(1))?;
    let x = input("stale", &[4, 12])?;
    let pass = Pass::train(Philox::new(0));
    let loss = model.loss(&x, &pass)?;
    let encoder = &model.encoder.weight;
    let wanted = encoder.recorded();
    // The gradient of the encoder goes through the decoder's weight.
    let decoder = &model.decoder.weight;
    decoder.set(decoder.value())?;
    assert_stale(grad(&[&loss], None, &[&wanted], false));
    // Another forward pass heals it.
    let loss = model.loss(&x, &pass)?;
    assert!(grad(&[&loss], None, &[&wanted], false)?[0].is_some());
    Ok(())
}

fn step_before_backward() -> Result<()> {
    let model = AutoEncoder::new(12, 7, &mut Philox::new(1))?;
    let x = input("stale", &[4, 12])?;
    let pass = Pass::train(Philox::new(0));
    let params = model.parameters();
    let kind = Sgd {
        lr: 0.1,
        momentum: 0.0,
        nesterov: false,
        weight_decay: 0.0,
    };
    let mut optimizer = Optimizer::new(kind, params.clone())?;
    let first = model.loss(&x, &pass)?;
    let second = model.loss(&x, &pass)?;
    let inputs: Vec<Tensor> = params.iter().map(|(_, p)| p.recorded()).collect();
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let gradients = grad(&[&first], None, &inputs, false)?;
    optimizer.step(&gradients)?;
    assert_stale(grad(&[&second], None, &inputs, false));
    Ok(())
}
