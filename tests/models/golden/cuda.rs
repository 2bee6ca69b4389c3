//! The golden cases on CUDA, through the emulator. It takes minutes for an image
//! of 224 x 224, so a network's stem is compared with the golden numbers and the
//! whole of it, on a crop, with the CPU, whose results are compared with the
//! golden numbers in the tests beside these. Each test says what it leaves out.

use eosin::Device;
use eosin::device::cuda::CudaDevice;
use eosin_emulator::Schedule;

use super::*;
use crate::emulated::Emulated;

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

fn emulated() -> Result<Device> {
    let driver = Emulated::new(Schedule::Greedy(4));
    Ok(Device::Cuda(CudaDevice::new(driver)?))
}

fn deeppt_predict() -> Result<()> {
    super::deeppt_predict(&emulated()?)
}

/// The middle of an image, `px` on a side.
fn crop(x: &Tensor, px: usize) -> Result<Tensor> {
    let [_, _, height, width] = x.shape()[..] else {
        panic!("an image of shape {:?}", x.shape());
    };
    let rows = ops::slice(x, 2, (height - px) / 2, px)?;
    ops::slice(&rows, 3, (width - px) / 2, px)
}

fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) -> Result<()> {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let error = relative_l2(&got.to_f64_vec()?, &want.to_f64_vec()?);
    eprintln!("{what}: off by {error:e}");
    assert!(error <= tolerance, "{what}: off by {error:e}");
    Ok(())
}

/// What of the case is not compared with golden numbers here.
fn left_out(case: &Case, name: &str, px: usize) {
    let all = case.manifest["tensors"].as_object().expect("tensors");
    let groups = case.manifest["groups"].as_object();
    let left: Vec<&str> = (all.keys())
        .chain(groups.into_iter().flat_map(|g| g.keys()))
        .map(String::as_str)
        .filter(|name| !case.compared.contains(*name))
        .collect();
    eprintln!(
        "{name}: {} not compared with golden numbers on cuda, which the emulator is too slow for, \
         but with the CPU's on crops of {px} x {px}",
        left.join(", ")
    );
}

fn resnet_eval(name: &str, depth: Depth) -> Result<()> {
    let px = 32;
    let device = emulated()?;
    let mut case = Case::read(name);
    let model = resnet(&case, depth)?;
    let x = case.input(0)?;
    let small = crop(&x, px)?;
    let want = model.forward(&small, &Pass::eval())?;
    model.to_device(&device)?;
    let start = std::time::Instant::now();
    stem(&mut case, &model, &x.to(&device)?)?;
    eprintln!("stem {:?}", start.elapsed());
    left_out(&case, name, px);
    let start = std::time::Instant::now();
    let got = model.forward(&small.to(&device)?, &Pass::eval())?;
    for (i, (got, want)) in got.stages.iter().zip(&want.stages).enumerate() {
        close(&format!("layer{}", i + 1), got, want, 1e-5)?;
    }
    eprintln!("crop {:?}", start.elapsed());
    close("features", &got.features, &want.features, 1e-5)?;
    close("logits", &got.logits, &want.logits, 1e-5)
}

fn resnet_folded(name: &str, depth: Depth) -> Result<()> {
    let px = 32;
    let device = emulated()?;
    let case = Case::read(name);
    let small = crop(&case.input(0)?, px)?;
    left_out(&case, name, px);
    let want = ResNetFeatures::new(resnet(&case, depth)?, &Device::Cpu)?.predict(&small)?;
    let model = ResNetFeatures::new(resnet(&case, depth)?, &device)?;
    let start = std::time::Instant::now();
    let got = model.predict(&small.to(&device)?)?;
    for ((name, got), (_, want)) in got.iter().zip(&want) {
        close(name, got, want, 1e-5)?;
    }
    eprintln!("folded {:?}", start.elapsed());
    Ok(())
}

/// The loss, gradients and buffers of one forward and backward pass.
struct Step {
    loss: Tensor,
    gradients: Vec<(String, Tensor)>,
    buffers: Vec<(String, Tensor)>,
}

fn train_step(case: &Case, x: &Tensor, labels: &Tensor, device: &Device) -> Result<Step> {
    let model = resnet(case, Depth::ResNet18)?;
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

fn resnet_train() -> Result<()> {
    let px = 64;
    let name = "backbone_resnet18_train";
    let case = Case::read(name);
    left_out(&case, name, px);
    let x = crop(&case.input(0)?, px)?;
    let labels = labels(&case)?;
    let want = train_step(&case, &x, &labels, &Device::Cpu)?;
    let start = std::time::Instant::now();
    let got = train_step(&case, &x, &labels, &emulated()?)?;
    eprintln!("step {:?}", start.elapsed());
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
