//! DenseNet-121: golden numbers on the CPU. On CUDA, through the emulator, a thin
//! network of the same structure on a crop against the CPU.

use eosin::DType;
use eosin::models::densenet::{DenseNet, DenseNetFeatures, KERAS_EPSILON};

use super::cuda::{close, crop, emulated, left_out};
use super::*;

const EVAL: &str = "backbone_densenet121_eval";
const GRAD: &str = "backbone_densenet121_grad";

/// What the emulator can afford.
const THIN: &str = "an eighth as wide a network on a crop of 32 x 32 against the CPU";

pub fn trials() -> Vec<Trial> {
    vec![
        trial(format!("golden::{EVAL}::cpu"), eval),
        trial(format!("golden::{EVAL}::folded::cpu"), folded),
        trial(format!("golden::{GRAD}::cpu"), gradients),
        trial("densenet::epsilon", epsilon),
        trial(format!("golden::{EVAL}::cuda"), eval_on_cuda),
        trial(format!("golden::{EVAL}::folded::cuda"), folded_on_cuda),
        trial("densenet::halves::cuda", halves_on_cuda),
        trial(format!("golden::{GRAD}::cuda"), gradients_on_cuda),
    ]
}

fn densenet(case: &Case) -> Result<DenseNet> {
    let classes = &case.manifest["config"]["num_classes"];
    let classes = classes.as_u64().expect("a count") as usize;
    let model = DenseNet::new(classes, &mut Philox::new(0))?;
    case.fill(&[&model])?;
    Ok(model)
}

fn thin() -> Result<DenseNet> {
    let model = DenseNet::of_growth(4, 10, &mut Philox::new(0))?;
    fill(&model)?;
    Ok(model)
}

const STAGES: [&str; 9] = [
    "pool0",
    "denseblock1",
    "transition1",
    "denseblock2",
    "transition2",
    "denseblock3",
    "transition3",
    "denseblock4",
    "norm5",
];

fn eval() -> Result<()> {
    let mut case = Case::read(EVAL);
    let model = densenet(&case)?;
    let x = case.input(0)?;
    let state = model.state();
    let (_, weight) = &state[0];
    let geometry = ops::Conv2d {
        stride: [2; 2],
        padding: [3; 2],
        ..ops::Conv2d::default()
    };
    let y = ops::conv2d(&x, &weight.value(), None, geometry)?;
    case.tensor("features.conv0", &y, 1e-5)?;
    let output = model.forward(&x, &Pass::eval())?;
    assert_eq!(output.stages.len(), STAGES.len());
    for (name, stage) in STAGES.iter().zip(&output.stages) {
        case.tensor(&format!("features.{name}"), stage, 1e-5)?;
    }
    case.tensor("pooled", &output.features, 1e-5)?;
    case.tensor("logits", &output.logits, 1e-5)?;
    case.finish();
    Ok(())
}

fn folded() -> Result<()> {
    let mut case = Case::read(EVAL);
    let model = DenseNetFeatures::new(densenet(&case)?, &Device::Cpu)?;
    let outputs = model.predict(&case.input(0)?)?;
    assert_eq!(outputs.len(), 2);
    assert_eq!((outputs[0].0, outputs[1].0), ("features", "logits"));
    case.tensor("pooled", &outputs[0].1, 1e-5)?;
    case.tensor("logits", &outputs[1].1, 1e-5)
}

/// Gradients in evaluation mode: of every parameter, and of x last.
fn gradients_of(model: &DenseNet, x: &Tensor, labels: &Tensor) -> Result<[Vec<Tensor>; 2]> {
    let x = x.variable();
    let output = model.forward(&x, &Pass::eval_recorded())?;
    let loss = ops::cross_entropy(&output.logits, labels)?;
    let mut of = recorded(&model.parameters());
    of.push(x);
    let gradients = grad(&[&loss], None, &of.iter().collect::<Vec<_>>(), false)?;
    let gradients = gradients.into_iter().map(|g| g.expect("a gradient"));
    Ok([
        vec![output.logits.detach(), loss.detach()],
        gradients.collect(),
    ])
}

fn gradients() -> Result<()> {
    let mut case = Case::read(GRAD);
    let model = densenet(&case)?;
    let [outputs, mut gradients] = gradients_of(&model, &case.input(0)?, &labels(&case)?)?;
    case.tensor("logits", &outputs[0], 1e-5)?;
    case.tensor("loss", &outputs[1], 1e-5)?;
    let of_input = gradients.pop().expect("a gradient of the input");
    case.tensor("grad_input", &of_input, 1e-4)?;
    let keys = model.parameters().into_iter().map(|(key, _)| key);
    let named: Vec<_> = keys.zip(gradients.into_iter().map(Some)).collect();
    case.group("grad", &named, Rule::Gradient)?;
    case.finish();
    Ok(())
}

/// Every batch norm takes the epsilon, in both forms, and it is seen.
fn epsilon() -> Result<()> {
    let x = crate::formula_weights::input("epsilon", &[2, 3, 32, 32])?;
    let plain = thin()?.forward(&x, &Pass::eval())?.features;
    for eps in [KERAS_EPSILON, 0.1] {
        let other = thin()?.with_epsilon(eps).forward(&x, &Pass::eval())?;
        assert!(plain.to_f32_vec()? != other.features.to_f32_vec()?, "{eps}");
        let folded = DenseNetFeatures::new(thin()?.with_epsilon(eps), &Device::Cpu)?;
        close("features", &folded.features(&x)?, &other.features, 1e-5)?;
    }
    Ok(())
}

fn eval_on_cuda() -> Result<()> {
    let case = Case::read(EVAL);
    left_out(&case, EVAL, THIN);
    let x = crop(&case.input(0)?, 32)?;
    let want = thin()?.forward(&x, &Pass::eval())?;
    let device = emulated()?;
    let model = thin()?;
    model.to_device(&device)?;
    let got = model.forward(&x.to(&device)?, &Pass::eval())?;
    for (name, (got, want)) in STAGES.iter().zip(got.stages.iter().zip(&want.stages)) {
        close(name, got, want, 1e-5)?;
    }
    close("features", &got.features, &want.features, 1e-5)?;
    close("logits", &got.logits, &want.logits, 1e-5)
}

fn folded_on_cuda() -> Result<()> {
    let case = Case::read(EVAL);
    left_out(&case, EVAL, THIN);
    let x = crop(&case.input(0)?, 32)?;
    let want = DenseNetFeatures::new(thin()?, &Device::Cpu)?.predict(&x)?;
    let device = emulated()?;
    let got = DenseNetFeatures::new(thin()?, &device)?.predict(&x.to(&device)?)?;
    assert_eq!(got.len(), 2);
    for ((name, got), (_, want)) in got.iter().zip(&want) {
        close(name, got, want, 1e-5)?;
    }
    Ok(())
}

/// In bf16 and f16, no farther from f32 than twice what the CPU's are, which rounds
/// at other places.
fn halves_on_cuda() -> Result<()> {
    let case = Case::read(EVAL);
    let x = crop(&case.input(0)?, 32)?;
    let device = emulated()?;
    let exact = DenseNetFeatures::new(thin()?, &Device::Cpu)?.features(&x)?;
    let exact = exact.to_f64_vec()?;
    for dtype in [DType::BF16, DType::F16] {
        let error = |device: &Device| -> Result<f64> {
            let network = DenseNetFeatures::in_dtype(thin()?, device, dtype)?;
            let features = network.features(&x.to(device)?)?;
            assert_eq!(features.dtype(), DType::F32);
            Ok(relative_l2(&features.to_f64_vec()?, &exact))
        };
        let (here, there) = (error(&Device::Cpu)?, error(&device)?);
        assert!(here > 0.0 && there > 0.0, "{dtype}: nothing was rounded");
        assert!(there < 2.0 * here, "{dtype}: {there}, on the CPU {here}");
    }
    Ok(())
}

fn gradients_on_cuda() -> Result<()> {
    let case = Case::read(GRAD);
    left_out(&case, GRAD, THIN);
    let x = crop(&case.input(0)?, 32)?;
    let labels = labels(&case)?;
    let want = gradients_of(&thin()?, &x, &labels)?;
    let device = emulated()?;
    let model = thin()?;
    model.to_device(&device)?;
    let got = gradients_of(&model, &x.to(&device)?, &labels.to(&device)?)?;
    for ((got, want), tolerance) in got.iter().zip(&want).zip([1e-5, 1e-4]) {
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            close(&i.to_string(), got, want, tolerance)?;
        }
    }
    Ok(())
}
