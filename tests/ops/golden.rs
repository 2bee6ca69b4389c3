//! The 146 operator cases of tests/golden, one named test each: outputs and
//! gradients against numbers from PyTorch.

use std::collections::BTreeMap;
use std::sync::Arc;

use eosin::autograd::grad;
use eosin::{DType, Device, Result, Tensor};
use eosin_emulator::Schedule;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::common::formula;
use crate::common::stored::{folder, parts, relative_l2};
use crate::harness::Suite;
use crate::under_test;

/// One case: the operator's attributes and its inputs by argument name.
pub struct Case {
    pub name: String,
    pub op: String,
    pub attrs: Value,
    inputs: BTreeMap<String, Tensor>,
}

/// Outputs by name.
pub type Outputs = Result<Vec<(&'static str, Tensor)>>;

impl Case {
    pub fn input(&self, name: &str) -> &Tensor {
        self.optional(name)
            .unwrap_or_else(|| panic!("{}: no input {name}", self.name))
    }

    pub fn optional(&self, name: &str) -> Option<&Tensor> {
        self.inputs.get(name)
    }

    /// A tensor of the test's own, where the inputs are.
    pub fn local(&self, t: Tensor) -> Result<Tensor> {
        match self.inputs.values().next() {
            Some(input) => t.to(&input.device()),
            None => Ok(t),
        }
    }

    pub fn number(&self, name: &str) -> f64 {
        let value = self.attrs[name].as_f64();
        value.unwrap_or_else(|| panic!("{}: no number {name}", self.name))
    }

    /// An attribute that is one size or a pair of sizes.
    pub fn pair(&self, name: &str) -> [usize; 2] {
        let size = |v: &Value| v.as_u64().map(|v| v as usize);
        let value = &self.attrs[name];
        let pair = match value {
            Value::Array(a) if a.len() == 2 => size(&a[0]).zip(size(&a[1])),
            _ => size(value).map(|v| (v, v)),
        };
        let (a, b) = pair.unwrap_or_else(|| panic!("{}: no size {name}", self.name));
        [a, b]
    }

    pub fn flag(&self, name: &str) -> bool {
        let value = self.attrs[name].as_bool();
        value.unwrap_or_else(|| panic!("{}: no flag {name}", self.name))
    }

    /// A tensor of the formula by the name `ops/<case>/<name>`.
    fn upstream(&self, output: &str, like: &Tensor) -> Result<Tensor> {
        let name = format!("ops/{}/gy_{output}", self.name);
        let values = formula::values(&name, like.elements(), -1.0, 1.0);
        Tensor::from_slice(&values, like.shape())?.to(&like.device())
    }
}

/// What computes a case, if the module knows it.
type Family = fn(&Case) -> Option<Outputs>;

const FAMILIES: &[Family] = &[
    crate::arithmetic::golden,
    crate::conv::golden,
    crate::dropout::golden,
    crate::index::golden,
    crate::attention::golden,
    crate::layout::golden,
    crate::loss::golden,
    crate::matmul::golden,
    crate::pad::golden,
    crate::norm::golden,
    crate::pointwise::golden,
    crate::pool::golden,
    crate::reduce::golden,
    crate::resize::golden,
    crate::softmax::golden,
];

pub fn tests(suite: &mut Suite) {
    for file in ["ops_conv", "ops_norm_act", "ops_attention", "ops_misc"] {
        let text = std::fs::read_to_string(folder().join(format!("{file}.json")));
        let manifest: Value = serde_json::from_str(&text.expect("a manifest")).expect("JSON");
        let manifest = Arc::new(manifest);
        let bytes = std::fs::read(folder().join(format!("{file}.safetensors")));
        let bytes = Arc::new(bytes.expect("golden tensors"));
        let count = manifest["cases"].as_array().map_or(0, Vec::len);
        let claimed = manifest["case_count"].as_u64();
        suite.test(format!("golden::{file}::case_count"), move || {
            assert_eq!(Some(count as u64), claimed);
            Ok(())
        });
        for i in 0..count {
            let name = manifest["cases"][i]["name"]
                .as_str()
                .expect("a name")
                .to_owned();
            for on_cuda in [false, true] {
                let (manifest, bytes) = (manifest.clone(), bytes.clone());
                let device = if on_cuda { "cuda" } else { "cpu" };
                suite.test(format!("golden::{file}::{name}::{device}"), move || {
                    let device = match on_cuda {
                        true => Device::Cuda(under_test::device(Schedule::Greedy(1))?),
                        false => Device::Cpu,
                    };
                    run(&manifest["cases"][i], &manifest["tensors"], &bytes, &device)
                });
            }
        }
    }
}

fn case(spec: &Value, device: &Device) -> Result<Case> {
    let text = |v: &Value| v.as_str().expect("text").to_owned();
    let mut inputs = BTreeMap::new();
    for input in spec["inputs"].as_array().expect("inputs") {
        let shape: Vec<usize> = serde_json::from_value(input["shape"].clone()).expect("a shape");
        let bound = |k: &str| input[k].as_f64().expect("a bound");
        let n = shape.iter().product();
        let values = formula::values(&text(&input["name"]), n, bound("lo"), bound("hi"));
        let t = Tensor::from_slice(&values, &shape)?.to(device)?;
        let t = if input["grad"] == true {
            t.variable()
        } else {
            t
        };
        inputs.insert(text(&input["arg"]), t);
    }
    Ok(Case {
        name: text(&spec["name"]),
        op: text(&spec["op"]),
        attrs: spec["attrs"].clone(),
        inputs,
    })
}

fn run(spec: &Value, manifest: &Value, bytes: &[u8], device: &Device) -> Result<()> {
    let case = case(spec, device)?;
    let golden = SafeTensors::deserialize(bytes).expect("golden tensors");
    let outputs = FAMILIES
        .iter()
        .find_map(|f| f(&case))
        .unwrap_or_else(|| panic!("no module computes {:?}", case.op))?;

    let mut results: BTreeMap<String, Tensor> = BTreeMap::new();
    let recorded: Vec<_> = outputs.iter().filter(|(_, t)| t.is_recorded()).collect();
    let weights: Vec<Tensor> = recorded
        .iter()
        .map(|(name, t)| case.upstream(name, t))
        .collect::<Result<_>>()?;
    let arguments: Vec<_> = case
        .inputs
        .iter()
        .filter(|(_, t)| t.is_recorded())
        .collect();
    let gradients = grad(
        &recorded.iter().map(|(_, t)| t).collect::<Vec<_>>(),
        Some(&weights.iter().collect::<Vec<_>>()),
        &arguments.iter().map(|(_, t)| *t).collect::<Vec<_>>(),
        false,
    )?;
    for ((name, input), g) in arguments.iter().zip(gradients) {
        let g = match g {
            Some(g) => g,
            None => Tensor::zeros(input.shape(), DType::F32)?,
        };
        results.insert(format!("grad_{name}"), g);
    }
    for (name, t) in outputs {
        results.insert(name.to_owned(), t);
    }

    let prefix = format!("{}/", case.name);
    // Second-order sums cancel more: the tolerance that the manifest states.
    let tolerance: f64 = if case.op.contains("double") {
        2e-5
    } else {
        1e-5
    };
    let mut compared = 0;
    for (full, about) in manifest.as_object().expect("tensors") {
        let Some(name) = full.strip_prefix(&prefix) else {
            continue;
        };
        let got = results
            .get(name)
            .unwrap_or_else(|| panic!("{name} was not computed"));
        let shape: Vec<usize> = serde_json::from_value(about["shape"].clone()).expect("a shape");
        let scalar = shape == [1] && got.rank() == 0;
        assert!(
            scalar || got.shape() == shape,
            "{name}: {:?}, not {shape:?}",
            got.shape()
        );
        let measured = about["rel_l2_err"].as_f64().unwrap_or(0.0);
        let tolerance = tolerance.max(10.0 * measured);
        let got = got.to_f64_vec()?;
        compared += 1;
        // Zero but for rounding, so that PyTorch's f32 numbers are noise: no
        // further from zero than these.
        if let (true, Some(exact), Some(noise)) = (
            about["rel_l2_err"].is_null(),
            about["max_abs"].as_f64(),
            about["max_abs_err"].as_f64(),
        ) {
            let far = got.iter().any(|v| v.is_nan() || v.abs() > exact + noise);
            assert!(!far, "{name}: {got:?}, not 0 within {noise:e}");
            continue;
        }
        for (what, want, got) in parts(&golden, full, about["stored"] == "full", &got) {
            let error = relative_l2(&got, &want);
            assert!(error <= tolerance, "{name}{what}: off by {error:e}");
        }
    }
    assert!(compared > 0, "nothing was compared");
    Ok(())
}
