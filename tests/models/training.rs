//! Training gives the same bits for any number of threads.

use eosin::autograd::grad;
use eosin::models::resnet::{Depth, ResNet};
use eosin::nn::{Pass, State};
use eosin::optim::{AdamW, Optimizer};
use eosin::random::Philox;
use eosin::{Result, Tensor, Threads, ops};
use libtest_mimic::Trial;

use crate::formula_weights::{input, state_bits};
use crate::trial::trial;

pub fn trials() -> Vec<Trial> {
    vec![trial("training::resnet18::threads", threads)]
}

type Trained = (Vec<f64>, Vec<(String, Vec<u8>)>);

/// Losses, and the state after three steps of AdamW.
fn trained() -> Result<Trained> {
    let model = ResNet::new(Depth::ResNet18, 4, &mut Philox::new(7))?;
    let x = input("training", &[6, 3, 32, 32])?;
    let labels = Tensor::from_slice(&[0i64, 1, 2, 3, 1, 2], &[6])?;
    let kind = AdamW {
        lr: 1e-3,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.01,
    };
    let params = model.parameters();
    let mut optimizer = Optimizer::new(kind, params.clone())?;
    let pass = Pass::train(Philox::new(3));
    let mut losses = Vec::new();
    for _ in 0..3 {
        let gradients = {
            let logits = model.forward(&x, &pass)?.logits;
            let loss = ops::cross_entropy(&logits, &labels)?;
            losses.push(loss.item()?);
            let inputs: Vec<Tensor> = params.iter().map(|(_, p)| p.recorded()).collect();
            grad(&[&loss], None, &inputs.iter().collect::<Vec<_>>(), false)?
        };
        optimizer.step(&gradients)?;
    }
    Ok((losses, state_bits(&model)?))
}

fn threads() -> Result<()> {
    let mut first: Option<Trained> = None;
    for n in [1, 2, 3] {
        let pool = Threads::Own(n).pool()?.expect("a pool of its own");
        let got = pool.install(trained)?;
        assert!(got.0.iter().all(|l| l.is_finite()), "{:?}", got.0);
        let Some(want) = &first else {
            assert!(got.0[0] != got.0[2], "the steps changed nothing");
            first = Some(got);
            continue;
        };
        assert_eq!(got.0, want.0, "losses with {n} threads");
        for ((key, got), (_, want)) in got.1.iter().zip(&want.1) {
            assert!(got == want, "{key} with {n} threads");
        }
    }
    Ok(())
}
