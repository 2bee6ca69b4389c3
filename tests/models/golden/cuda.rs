//! The golden cases on CUDA, through the emulator. It would take minutes for an
//! image of 224 x 224, so of the residual networks the stem is compared with
//! golden numbers, and the whole, on a crop or in less width, with the CPU, whose
//! results the tests beside these compare with golden numbers. Each test says
//! what it leaves out.

use eosin::Device;
use eosin_emulator::Schedule;

use super::*;
use crate::under_test;

pub fn trials() -> Vec<Trial> {
    let eval = |name: &'static str, depth: Depth| {
        [
            trial(format!("golden::{name}::cuda"), move || {
                resnet_eval(name, depth)
            }),
            trial(format!("golden::{name}::folded::cuda"), move || {
                resnet_folded(name, depth)
            }),
        ]
    };
    let mut all = vec![
        trial("golden::deeppt_autoencoder::cuda", || {
            autoencoder(&emulated()?)
        }),
        trial("golden::deeppt_mlp::cuda", || mlp(&emulated()?)),
        trial("golden::deeppt_predict::cuda", deeppt_predict),
        trial("golden::backbone_resnet18_train::cuda", resnet_train),
    ];
    all.extend(eval("backbone_resnet18_eval", Depth::ResNet18));
    all.extend(eval("backbone_resnet50_eval", Depth::ResNet50));
    all
}

pub(super) fn emulated() -> Result<Device> {
    Ok(Device::Cuda(under_test::device(Schedule::Greedy(4))?))
}

fn deeppt_predict() -> Result<()> {
    super::deeppt_predict(&emulated()?)
}

/// The middle of an image, `px` on a side.
pub(super) fn crop(x: &Tensor, px: usize) -> Result<Tensor> {
    let [_, _, height, width] = x.shape()[..] else {
        panic!("an image of shape {:?}", x.shape());
    };
    let rows = ops::slice(x, 2, (height - px) / 2, px)?;
    ops::slice(&rows, 3, (width - px) / 2, px)
}

pub(super) fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) -> Result<()> {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let error = relative_l2(&got.to_f64_vec()?, &want.to_f64_vec()?);
    assert!(error <= tolerance, "{what}: off by {error:e}");
    Ok(())
}

/// Says what of the case is not compared with golden numbers here, and what is
/// done in its place.
pub(super) fn left_out(case: &Case, name: &str, instead: &str) {
    let all = case.manifest["tensors"].as_object().expect("tensors");
    let groups = case.manifest["groups"].as_object();
    let left: Vec<&str> = (all.keys())
        .chain(groups.into_iter().flat_map(|g| g.keys()))
        .map(String::as_str)
        .filter(|name| !case.compared.contains(*name))
        .collect();
    eprintln!(
        "not run on cuda, for which the emulator is too slow: {} of {name}; {instead}",
        left.join(", ")
    );
}

/// A network of the same structure with an eighth of the channels.
fn thin(depth: Depth) -> Result<ResNet> {
    let model = ResNet::of_width(8, depth, 10, &mut Philox::new(0))?;
    fill(&model)?;
    Ok(model)
}

const FULL: &str = "the whole network on a crop of 32 x 32 against the CPU";
const THIN: &str = "an eighth as wide a network on a crop of 64 x 64 against the CPU";

/// The stem against golden numbers; the whole network, recorded operators one by
/// one, against the CPU: ResNet-18 in full width, ResNet-50 thin.
fn resnet_eval(name: &str, depth: Depth) -> Result<()> {
    let device = emulated()?;
    let mut case = Case::read(name);
    let model = resnet(&case, depth)?;
    let x = case.input(0)?;
    let (whole, small, instead) = match depth {
        Depth::ResNet18 => (resnet(&case, depth)?, crop(&x, 32)?, FULL),
        Depth::ResNet50 => (thin(depth)?, crop(&x, 64)?, THIN),
    };
    let want = whole.forward(&small, &Pass::eval())?;
    model.to_device(&device)?;
    stem(&mut case, &model, &x.to(&device)?)?;
    left_out(&case, name, instead);
    whole.to_device(&device)?;
    let got = whole.forward(&small.to(&device)?, &Pass::eval())?;
    assert_eq!(got.stages.len(), 4);
    for (i, (got, want)) in got.stages.iter().zip(&want.stages).enumerate() {
        close(&format!("layer{}", i + 1), got, want, 1e-5)?;
    }
    close("features", &got.features, &want.features, 1e-5)?;
    close("logits", &got.logits, &want.logits, 1e-5)
}

/// The network as sessions run it, against the CPU: ResNet-18 thin, ResNet-50 in
/// full width.
fn resnet_folded(name: &str, depth: Depth) -> Result<()> {
    let device = emulated()?;
    let case = Case::read(name);
    let x = case.input(0)?;
    let model = || match depth {
        Depth::ResNet18 => thin(depth),
        Depth::ResNet50 => resnet(&case, depth),
    };
    let (small, instead) = match depth {
        Depth::ResNet18 => (crop(&x, 64)?, THIN),
        Depth::ResNet50 => (crop(&x, 32)?, FULL),
    };
    left_out(&case, name, instead);
    let want = ResNetFeatures::new(model()?, &Device::Cpu)?.predict(&small)?;
    let there = ResNetFeatures::new(model()?, &device)?;
    let got = there.predict(&small.to(&device)?)?;
    assert_eq!(got.len(), 2);
    for ((name, got), (_, want)) in got.iter().zip(&want) {
        close(name, got, want, 1e-5)?;
    }

    // bf16: the error against f32 is at most twice that of the CPU's plain bf16.
    let narrow = |device: &Device| ResNetFeatures::in_dtype(model()?, device, DType::BF16);
    let plain = narrow(&Device::Cpu)?.predict(&small)?;
    let got = narrow(&device)?.predict(&small.to(&device)?)?;
    for (((name, got), (_, plain)), (_, want)) in got.iter().zip(&plain).zip(&want) {
        assert_eq!(got.dtype(), DType::F32, "{name}");
        let want = want.to_f64_vec()?;
        let error = relative_l2(&got.to_f64_vec()?, &want);
        let plain = relative_l2(&plain.to_f64_vec()?, &want);
        assert!(
            plain > 1e-4,
            "{name}: off by {plain:e} on the CPU: was it bf16?"
        );
        assert!(
            error <= 2.0 * plain,
            "{name}: off by {error:e}, on the CPU by {plain:e}"
        );
    }
    Ok(())
}

/// The loss, gradients and buffers of one forward and backward pass.
struct Step {
    loss: Tensor,
    gradients: Vec<(String, Tensor)>,
    buffers: Vec<(String, Tensor)>,
}

fn train_step(x: &Tensor, labels: &Tensor, device: &Device) -> Result<Step> {
    let model = thin(Depth::ResNet18)?;
    model.to_device(device)?;
    let (x, labels) = (x.to(device)?.variable(), labels.to(device)?);
    let output = model.forward(&x, &Pass::train(Philox::new(0)))?;
    let loss = ops::cross_entropy(&output.logits, &labels)?;
    let params = model.parameters();
    let mut inputs = recorded(&params);
    inputs.push(x);
    let gradients = grad(&[&loss], None, &inputs.iter().collect::<Vec<_>>(), false)?;
    let names = params.into_iter().map(|(name, _)| name);
    let names = names.chain(["grad_input".to_owned()]);
    let state = model.state().into_iter();
    Ok(Step {
        loss,
        gradients: names
            .zip(gradients)
            .map(|(name, g)| (name, g.expect("a gradient")))
            .collect(),
        buffers: state
            .filter(|(_, slot)| matches!(slot, Slot::Buffer(_)))
            .map(|(name, slot)| (name, slot.value()))
            .collect(),
    })
}

/// A training step of a thin network against the CPU.
fn resnet_train() -> Result<()> {
    let name = "backbone_resnet18_train";
    let case = Case::read(name);
    left_out(&case, name, THIN);
    let x = crop(&case.input(0)?, 64)?;
    let labels = Tensor::from_slice(&[3i64, 8], &[2])?;
    let want = train_step(&x, &labels, &Device::Cpu)?;
    let got = train_step(&x, &labels, &emulated()?)?;
    close("loss", &got.loss, &want.loss, 1e-5)?;
    assert_eq!(got.gradients.len(), want.gradients.len());
    for ((name, got), (_, want)) in got.gradients.iter().zip(&want.gradients) {
        close(name, got, want, 1e-4)?;
    }
    assert_eq!(got.buffers.len(), 60);
    for ((name, got), (_, want)) in got.buffers.iter().zip(&want.buffers) {
        close(name, got, want, 1e-5)?;
    }
    Ok(())
}
