//! Inception-V3 in its conventions: golden numbers on the CPU; on CUDA, through the emulator,
//! a thin network of the same structure against the CPU.

use eosin::models::inception::{Convention, Inception, InceptionFeatures};

use super::cuda::{close, emulated, left_out};
use super::*;

/// Case, convention, and whether there is an auxiliary head.
const CASES: [(&str, Convention, bool); 3] = [
    ("backbone_inception_v3_eval", Convention::Plain, true),
    ("fid_inception_rnagan", Convention::Rnagan, true),
    ("fid_inception_pytorch_fid", Convention::PytorchFid, false),
];

/// What the emulator can afford.
const THIN: &str = "a sixteenth as wide a network on 75 x 75 px against the CPU";

pub fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for (name, convention, auxiliary) in CASES {
        all.push(trial(format!("golden::{name}::cpu"), move || {
            eval(name, convention, auxiliary)
        }));
        all.push(trial(format!("golden::{name}::cuda"), move || {
            on_cuda(name, convention)
        }));
    }
    all
}

/// Every stage of the plain form, and the outputs of the ready one.
fn eval(name: &str, convention: Convention, auxiliary: bool) -> Result<()> {
    let mut case = Case::read(name);
    let state = case.manifest["state"].as_array().expect("a state");
    let fc = state.iter().find(|s| s[0] == "fc.bias").expect("a head");
    let classes = fc[1][0].as_u64().expect("classes") as usize;
    let model = Inception::new(classes, auxiliary, convention, &mut Philox::new(0))?;
    case.fill(&[&model])?;
    let x = case.input(0)?;
    let known = case.manifest["tensors"]
        .as_object()
        .expect("tensors")
        .clone();
    let output = model.forward_watched(&x, &Pass::eval(), &mut |stage, y| match known
        .contains_key(stage)
    {
        true => case.tensor(stage, y, 1e-5),
        false => Ok(()),
    })?;
    let ready = InceptionFeatures::new(model, &Device::Cpu)?.predict(&x)?;
    assert_eq!((ready[0].0, ready[1].0), ("features", "logits"));
    for (features, logits) in [
        (&output.features, &output.logits),
        (&ready[0].1, &ready[1].1),
    ] {
        for name in ["pooled", "pool3", "avgpool", "logits", "logits_1008"] {
            if !known.contains_key(name) {
                continue;
            }
            let got = match name {
                "avgpool" => {
                    let [n, c] = features.shape()[..] else {
                        panic!("features of shape {:?}", features.shape());
                    };
                    ops::reshape(features, &[n, c, 1, 1])?
                }
                "logits" | "logits_1008" => logits.clone(),
                _ => features.clone(),
            };
            case.tensor(name, &got, 1e-5)?;
        }
    }
    case.finish();
    Ok(())
}

fn on_cuda(name: &str, convention: Convention) -> Result<()> {
    let case = Case::read(name);
    left_out(&case, name, THIN);
    let x = crate::formula_weights::input(name, &[2, 3, 75, 75])?;
    let thin = || {
        let model = Inception::of_width(16, 10, false, convention, &mut Philox::new(0))?;
        fill(&model)?;
        Result::Ok(model)
    };
    let device = emulated()?;
    let want = thin()?.forward(&x, &Pass::eval())?;
    let model = thin()?;
    model.to_device(&device)?;
    let x = x.to(&device)?;
    let got = model.forward(&x, &Pass::eval())?;
    close("features", &got.features, &want.features, 1e-5)?;
    close("logits", &got.logits, &want.logits, 1e-5)?;
    let ready = InceptionFeatures::new(thin()?, &device)?.predict(&x)?;
    close("ready features", &ready[0].1, &want.features, 1e-5)?;
    close("ready logits", &ready[1].1, &want.logits, 1e-5)
}
