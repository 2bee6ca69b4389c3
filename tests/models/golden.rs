//! The golden cases of the models: outputs, losses, gradients, statistics and
//! trained weights against numbers from PyTorch, on each device.
//!
//! The case `metrics` is in tests/metrics: statistics are computed on the CPU
//! alone, in f64, so there is no CUDA side of it.

mod cuda;
mod densenet;
mod inception;
mod rnagan;
mod trnasformer;

use std::collections::BTreeSet;

use eosin::autograd::grad;
use eosin::models::deeppt::{AutoEncoder, CODE, FEATURES, Mlp, averaging};
use eosin::models::resnet::{Depth, ResNet, ResNetFeatures};
use eosin::nn::{Param, Pass, Slot, State};
use eosin::optim::{Adam, AdamW, Kind, Optimizer};
use eosin::random::Philox;
use eosin::session::Predict;
use eosin::train::step::{Loss, TrainingStep};
use eosin::{DType, Device, Result, Tensor, ops};
use libtest_mimic::Trial;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::formula;
use crate::formula_weights::{fill, rule};
use crate::stored::{array, folder, norm, parts, relative_l2};
use crate::trial::trial;

pub fn trials() -> Vec<Trial> {
    let eval = |name: &'static str, depth: Depth| {
        [
            trial(format!("golden::{name}::cpu"), move || {
                resnet_eval(name, depth)
            }),
            trial(format!("golden::{name}::folded::cpu"), move || {
                resnet_folded(name, depth)
            }),
        ]
    };
    let mut all = vec![
        trial("golden::deeppt_autoencoder::cpu", || {
            autoencoder(&Device::Cpu)
        }),
        trial("golden::deeppt_mlp::cpu", || mlp(&Device::Cpu)),
        trial("golden::deeppt_predict::cpu", || {
            deeppt_predict(&Device::Cpu)
        }),
        trial("golden::backbone_resnet18_train::cpu", resnet_train),
    ];
    all.extend(eval("backbone_resnet18_eval", Depth::ResNet18));
    all.extend(eval("backbone_resnet50_eval", Depth::ResNet50));
    all.extend(cuda::trials());
    all.extend(densenet::trials());
    all.extend(inception::trials());
    all.extend(rnagan::trials());
    all.extend(trnasformer::trials());
    all
}

/// A manifest, its arrays, and which of them were compared.
pub struct Case {
    pub manifest: Value,
    bytes: Vec<u8>,
    compared: BTreeSet<String>,
}

impl Case {
    pub fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(folder().join(format!("{name}.json")));
        let bytes = std::fs::read(folder().join(format!("{name}.safetensors")));
        Self {
            manifest: serde_json::from_str(&text.expect("a manifest")).expect("JSON"),
            bytes: bytes.expect("golden tensors"),
            compared: BTreeSet::new(),
        }
    }

    fn arrays(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("golden tensors")
    }

    pub fn input(&self, i: usize) -> Result<Tensor> {
        let spec = &self.manifest["inputs"][i];
        let shape: Vec<usize> = serde_json::from_value(spec["shape"].clone()).expect("a shape");
        let bound = |k: &str| spec[k].as_f64().expect("a bound");
        let name = spec["name"].as_str().expect("a name");
        let n = shape.iter().product();
        Tensor::from_slice(&formula::values(name, n, bound("lo"), bound("hi")), &shape)
    }

    /// Fills the models with the formula's weights. Together they must have
    /// exactly the state of the manifest: keys in order, shapes, kinds.
    pub fn fill(&self, models: &[&dyn State]) -> Result<()> {
        let state = models.iter().flat_map(|m| m.state());
        let got: Vec<Value> = state
            .map(|(key, slot)| {
                let kind = match slot {
                    Slot::Param(_) => "param",
                    Slot::Buffer(_) => "buffer",
                };
                let value = slot.value();
                let rule = rule(&key, value.shape()).0;
                serde_json::json!([key, value.shape(), rule, kind])
            })
            .collect();
        let want = self.manifest["state"].as_array().expect("a state");
        for (got, want) in got.iter().zip(want) {
            assert_eq!(got, want);
        }
        assert_eq!(got.len(), want.len(), "entries of the state");
        models.iter().try_for_each(|m| fill(*m))
    }

    /// Compares a tensor: off by at most `floor` or ten times the measured
    /// error, in relative L2 norm.
    pub fn tensor(&mut self, name: &str, got: &Tensor, floor: f64) -> Result<()> {
        let about = &self.manifest["tensors"][name];
        let shape: Vec<usize> = serde_json::from_value(about["shape"].clone())
            .unwrap_or_else(|_| panic!("no golden tensor {name}"));
        assert_eq!(got.shape(), shape, "{name}");
        let measured = about["rel_l2_err"].as_f64().expect("a measured error");
        let tolerance = floor.max(10.0 * measured);
        let full = about["stored"] == "full";
        for (part, want, got) in parts(&self.arrays(), name, full, &got.to_f64_vec()?) {
            let error = relative_l2(&got, &want);
            assert!(error <= tolerance, "{name}{part}: off by {error:e}");
        }
        self.compared.insert(name.to_owned());
        Ok(())
    }

    /// Compares a tensor of integers, each exactly.
    pub fn integers(&mut self, name: &str, got: &Tensor) -> Result<()> {
        assert_eq!(
            got.to_f64_vec()?,
            array(&self.arrays(), name),
            "{name} differs"
        );
        self.compared.insert(name.to_owned());
        Ok(())
    }

    /// Compares each loss: off by at most `tolerance` of it.
    pub fn losses(&mut self, name: &str, got: &[f64], tolerance: f64) {
        let want = array(&self.arrays(), name);
        assert_eq!(got.len(), want.len(), "{name}");
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let error = (got - want).abs() / want.abs();
            assert!(error <= tolerance, "{name} {i}: {got}, not {want}");
        }
        self.compared.insert(name.to_owned());
    }

    /// Compares a group; `got` has the entries in the model's order, `None`
    /// for a gradient that is absent.
    pub fn group(
        &mut self,
        name: &str,
        got: &[(String, Option<Tensor>)],
        rule: Rule,
    ) -> Result<()> {
        let about = &self.manifest["groups"][name];
        let listed = |list: &str, key: &str| {
            let keys = about[list].as_array().map_or(&[][..], Vec::as_slice);
            keys.iter().any(|k| k == key)
        };
        let measured = |what: &str| about[what][0].as_f64().expect("a measured error");
        let largest = about["largest_norm"].as_f64().expect("a norm");
        let golden = self.arrays();
        let mut count = 0;
        for (key, got) in got {
            let Some(got) = got else {
                assert!(listed("no_gradient", key), "{name}/{key} is absent");
                continue;
            };
            assert!(!listed("no_gradient", key), "{name}/{key} is present");
            count += 1;
            let noise = listed("noise_only", key);
            let values = got.to_f64_vec()?;
            let want_norm = array(&golden, &format!("{name}/{key}.norm"))[0];
            let head = array(&golden, &format!("{name}/{key}.head"));
            let norm = norm(&values);
            assert_eq!(head.len(), values.len().min(16), "{name}/{key}");
            let (of_norm, each) = match rule {
                Rule::Gradient if noise => {
                    assert!(norm <= 1e-5 * largest, "{name}/{key}: norm {norm:e}");
                    continue;
                }
                Rule::Weight { .. } if noise => continue,
                Rule::Weight { lr, steps } => (1e-4, 0.1 * lr * steps),
                Rule::Gradient | Rule::Statistic => {
                    let floor: f64 = if matches!(rule, Rule::Gradient) {
                        1e-4
                    } else {
                        1e-5
                    };
                    let rms = want_norm / (values.len() as f64).sqrt();
                    let of_rms = floor.max(10.0 * measured("worst_head_err_over_rms"));
                    let of_norm = floor.max(10.0 * measured("worst_rel_l2_err"));
                    (of_norm, of_rms * rms)
                }
            };
            let error = (norm - want_norm).abs() / want_norm;
            assert!(error <= of_norm, "{name}/{key}: norm off by {error:e}");
            for (i, (got, want)) in values.iter().zip(&head).enumerate() {
                let error = (got - want).abs();
                assert!(error <= each, "{name}/{key}[{i}]: {got}, not {want}");
            }
        }
        assert_eq!(Some(count), about["count"].as_u64(), "entries of {name}");
        self.compared.insert(name.to_owned());
        Ok(())
    }

    /// Fails if a stored tensor or group was not compared.
    pub fn finish(self) {
        let empty = serde_json::Map::new();
        for section in ["tensors", "groups"] {
            let names = self.manifest[section].as_object().unwrap_or(&empty).keys();
            for name in names {
                assert!(self.compared.contains(name), "{name} was not compared");
            }
        }
    }
}

/// How the entries of a group are compared.
#[derive(Clone, Copy)]
pub enum Rule {
    /// Norm and elements (in units of their root mean square) within 1e-4.
    Gradient,
    /// Within 1e-5, likewise.
    Statistic,
    /// Norm within 1e-4, elements within a tenth of the way that Adam can go.
    Weight { lr: f64, steps: f64 },
}

fn values(params: &[(String, Param)]) -> Vec<(String, Option<Tensor>)> {
    let each = params.iter();
    each.map(|(key, p)| (key.clone(), Some(p.value())))
        .collect()
}

fn recorded(params: &[(String, Param)]) -> Vec<Tensor> {
    params.iter().map(|(_, p)| p.recorded()).collect()
}

/// Gradients, losses and weights of the manifest's steps of Adam or AdamW, which are
/// captured and replayed where the model is on CUDA.
pub fn adam(case: &mut Case, model: &dyn State, inputs: &[Tensor], loss: &Loss) -> Result<()> {
    let number = |key: &str| {
        let value = case.manifest["optimiser"][key].as_f64();
        value.expect("a number")
    };
    let betas = serde_json::from_value(case.manifest["optimiser"]["betas"].clone());
    let (lr, betas, eps) = (number("lr"), betas.expect("betas"), number("eps"));
    let weight_decay = number("weight_decay");
    let kind: Kind = match case.manifest["optimiser"]["name"].as_str() {
        Some("Adam") => Adam {
            lr,
            betas,
            eps,
            weight_decay,
        }
        .into(),
        Some("AdamW") => AdamW {
            lr,
            betas,
            eps,
            weight_decay,
        }
        .into(),
        other => panic!("optimiser {other:?}"),
    };
    let steps = number("steps") as usize;
    let params = model.parameters();
    let random = Philox::new(0);
    let gradients = {
        let loss = loss(inputs, &Pass::train(random))?;
        let of = recorded(&params);
        grad(&[&loss], None, &of.iter().collect::<Vec<_>>(), false)?
    };
    let keys = params.iter().map(|(key, _)| key.clone());
    let named: Vec<_> = keys.zip(gradients).collect();
    case.group("grad", &named, Rule::Gradient)?;
    drop(named);
    let optimizer = Optimizer::new(kind, params.clone())?;
    let mut step = TrainingStep::new(model, optimizer, loss)?;
    let mut losses = Vec::new();
    for number in 1..=steps {
        losses.push(step.take(inputs, random)?.item()?);
        let group = format!("param_after_{number}");
        if case.manifest["groups"].get(&group).is_some() {
            let steps = number as f64;
            case.group(&group, &values(&params), Rule::Weight { lr, steps })?;
        }
    }
    let replayed = step.device() != Device::Cpu;
    assert_eq!(step.graphs(), usize::from(replayed), "graphs");
    // Again in train mode, for the statistics of the batch.
    losses.push(loss(inputs, &Pass::train(random))?.item()?);
    case.losses("losses", &losses, 1e-4);
    Ok(())
}

fn autoencoder(device: &Device) -> Result<()> {
    let mut case = Case::read("deeppt_autoencoder");
    let model = AutoEncoder::new(FEATURES, CODE, &mut Philox::new(0))?;
    case.fill(&[&model])?;
    model.to_device(device)?;
    let x = case.input(0)?.to(device)?;
    let pass = Pass::train(Philox::new(0));
    let code = model.encode(&x, &pass)?;
    case.tensor("encoded", &code, 1e-5)?;
    case.tensor("output", &model.decode(&code, &pass)?, 1e-5)?;
    drop(code);
    adam(&mut case, &model, &[x], &|inputs, pass| {
        model.loss(&inputs[0], pass)
    })?;
    case.finish();
    Ok(())
}

fn mlp(device: &Device) -> Result<()> {
    let mut case = Case::read("deeppt_mlp");
    let (x, target) = (case.input(0)?.to(device)?, case.input(1)?.to(device)?);
    let genes = target.elements();
    let model = Mlp::new(CODE, CODE, &vec![0.0; genes], 0.0, &mut Philox::new(0))?;
    case.fill(&[&model])?;
    model.to_device(device)?;
    let tiles = x.shape()[0];
    let weights = averaging(&[tiles], tiles)?.to(device)?;
    let predict = |x: &Tensor, weights: &Tensor, pass: &Pass| {
        ops::reshape(&model.forward_weighted(x, weights, pass)?, &[genes])
    };
    let pass = Pass::train(Philox::new(0));
    case.tensor("output", &predict(&x, &weights, &pass)?, 1e-5)?;
    adam(&mut case, &model, &[x, weights, target], &|inputs, pass| {
        ops::mse_loss(&predict(&inputs[0], &inputs[1], pass)?, &inputs[2])
    })?;
    case.finish();
    Ok(())
}

fn deeppt_predict(device: &Device) -> Result<()> {
    let mut case = Case::read("deeppt_predict");
    let genes = case.manifest["config"]["genes"].as_u64().expect("a count") as usize;
    let random = &mut Philox::new(0);
    let encoder = AutoEncoder::new(FEATURES, CODE, random)?;
    // A dropout that eval mode must not apply.
    let head = Mlp::new(CODE, CODE, &vec![0.0; genes], 0.2, random)?;
    case.fill(&[&encoder, &head])?;
    encoder.to_device(device)?;
    head.to_device(device)?;
    let code = encoder.predict(&case.input(0)?.to(device)?)?;
    let (_, code) = code.iter().find(|(name, _)| *name == "code").expect("code");
    let outputs = head.predict(code)?;
    assert_eq!(outputs[0].0, "genes");
    case.tensor("prediction", &outputs[0].1, 1e-5)?;
    case.finish();
    Ok(())
}

fn resnet(case: &Case, depth: Depth) -> Result<ResNet> {
    let classes = &case.manifest["config"]["num_classes"];
    let classes = classes.as_u64().expect("a count") as usize;
    let model = ResNet::new(depth, classes, &mut Philox::new(0))?;
    case.fill(&[&model])?;
    Ok(model)
}

fn resnet_eval(name: &str, depth: Depth) -> Result<()> {
    let mut case = Case::read(name);
    let model = resnet(&case, depth)?;
    let x = case.input(0)?;
    stem(&mut case, &model, &x)?;
    let output = model.forward(&x, &Pass::eval())?;
    assert_eq!(output.stages.len(), 4);
    for (i, stage) in output.stages.iter().enumerate() {
        case.tensor(&format!("layer{}", i + 1), stage, 1e-5)?;
    }
    let [n, c] = output.features.shape()[..] else {
        panic!("features of shape {:?}", output.features.shape());
    };
    let pooled = ops::reshape(&output.features, &[n, c, 1, 1])?;
    case.tensor("avgpool", &pooled, 1e-5)?;
    case.tensor("pooled", &output.features, 1e-5)?;
    case.tensor("logits", &output.logits, 1e-5)?;
    case.finish();
    Ok(())
}

/// Compares the stem, which the model does not show, from its own state.
fn stem(case: &mut Case, model: &ResNet, x: &Tensor) -> Result<()> {
    let state = model.state();
    let value = |key: &str| {
        let entry = state.iter().find(|(k, _)| k == key);
        entry.unwrap_or_else(|| panic!("no {key}")).1.value()
    };
    let geometry = ops::Conv2d {
        stride: [2; 2],
        padding: [3; 2],
        ..ops::Conv2d::default()
    };
    let y = ops::conv2d(x, &value("conv1.weight"), None, geometry)?;
    case.tensor("conv1", &y, 1e-5)?;
    let y = ops::batch_norm_eval(
        &y,
        &value("bn1.running_mean"),
        &value("bn1.running_var"),
        Some(&value("bn1.weight")),
        Some(&value("bn1.bias")),
        1e-5,
    )?;
    case.tensor("bn1", &y, 1e-5)?;
    let pool = ops::Pool {
        kernel: [3; 2],
        stride: [2; 2],
        padding: [1; 2],
    };
    let y = ops::max_pool2d(&ops::relu(&y)?, pool)?;
    case.tensor("maxpool", &y, 1e-5)
}

fn resnet_folded(name: &str, depth: Depth) -> Result<()> {
    let mut case = Case::read(name);
    let model = ResNetFeatures::new(resnet(&case, depth)?, &Device::Cpu)?;
    let outputs = model.predict(&case.input(0)?)?;
    assert_eq!(outputs.len(), 2);
    assert_eq!((outputs[0].0, outputs[1].0), ("features", "logits"));
    case.tensor("pooled", &outputs[0].1, 1e-5)?;
    case.tensor("logits", &outputs[1].1, 1e-5)
}

fn labels(case: &Case) -> Result<Tensor> {
    let labels: Vec<i64> = serde_json::from_value(case.manifest["labels"].clone()).expect("labels");
    Tensor::from_slice(&labels, &[labels.len()])
}

fn resnet_train() -> Result<()> {
    let mut case = Case::read("backbone_resnet18_train");
    let model = resnet(&case, Depth::ResNet18)?;
    let x = case.input(0)?.variable();
    let labels = labels(&case)?;
    let output = model.forward(&x, &Pass::train(Philox::new(0)))?;
    case.tensor("logits", &output.logits, 1e-5)?;
    let loss = ops::cross_entropy(&output.logits, &labels)?;
    case.tensor("loss", &loss, 1e-5)?;

    let params = model.parameters();
    let mut inputs = recorded(&params);
    inputs.push(x);
    let mut gradients = grad(&[&loss], None, &inputs.iter().collect::<Vec<_>>(), false)?;
    let of_input = gradients.pop().flatten().expect("a gradient of the input");
    case.tensor("grad_input", &of_input, 1e-4)?;
    let keys = params.iter().map(|(key, _)| key.clone());
    let named: Vec<_> = keys.zip(gradients).collect();
    case.group("grad", &named, Rule::Gradient)?;

    let mut buffers = Vec::new();
    for (key, slot) in model.state() {
        let Slot::Buffer(buffer) = slot else { continue };
        if key.ends_with("num_batches_tracked") {
            assert_eq!(buffer.value().dtype(), DType::I64, "{key}");
            assert_eq!(buffer.value().item()?, 1.0, "{key}");
        } else {
            buffers.push((key, Some(buffer.value())));
        }
    }
    case.group("buffer_after_1", &buffers, Rule::Statistic)?;
    case.finish();
    Ok(())
}
