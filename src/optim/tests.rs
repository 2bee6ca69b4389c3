use super::*;
use crate::autograd::grad;
use crate::ops;
use crate::random::Philox;
use crate::storage::Storage;
use std::sync::Arc;

// import torch
// torch.set_default_dtype(torch.float64)
// def run(make):
//     a = torch.tensor([0.5, -1.25, 2.0], requires_grad=True)
//     b = torch.tensor([[0.1, -0.2], [0.3, 0.4]], requires_grad=True)
//     o = make([a, b])
//     for t in range(6):
//         a.grad = torch.tensor([0.3 * (t + 1), -0.7 + 0.25 * t, 0.05 * t * t])
//         b.grad = None if t == 2 else torch.tensor([[1.0 - 0.4 * t, 0.2], [-0.1 * t, 3.0]])
//         o.step()
//     print([*a.tolist(), *b.flatten().tolist()])
// k = dict(lr=0.1, weight_decay=0.05)
// j = dict(lr=0.1, betas=(0.8, 0.95), eps=1e-3)
// run(lambda p: torch.optim.SGD(p, lr=0.1))
// run(lambda p: torch.optim.SGD(p, **k))
// run(lambda p: torch.optim.SGD(p, **k, momentum=0.9))
// run(lambda p: torch.optim.SGD(p, **k, momentum=0.9, nesterov=True))
// run(lambda p: torch.optim.Adam(p, **j, weight_decay=0))
// run(lambda p: torch.optim.Adam(p, **j, weight_decay=0.05))
// run(lambda p: torch.optim.AdamW(p, **j, weight_decay=0.05))
fn cases() -> Vec<(Kind, [f64; 7])> {
    let sgd = Sgd {
        lr: 0.1,
        ..Sgd::default()
    };
    let decayed = Sgd {
        weight_decay: 0.05,
        ..sgd
    };
    let heavy = Sgd {
        momentum: 0.9,
        ..decayed
    };
    let nesterov = Sgd {
        nesterov: true,
        ..heavy
    };
    let adam = Adam {
        lr: 0.1,
        betas: [0.8, 0.95],
        eps: 1e-3,
        weight_decay: 0.0,
    };
    let adam_l2 = Adam {
        weight_decay: 0.05,
        ..adam
    };
    let adam_w = AdamW {
        lr: 0.1,
        betas: [0.8, 0.95],
        eps: 1e-3,
        weight_decay: 0.05,
    };
    vec![
        (
            sgd.into(),
            [
                -0.12999999999999998,
                -1.205,
                1.725,
                0.12000000000000004,
                -0.30000000000000004,
                0.43,
                -1.1,
            ],
        ),
        (
            decayed.into(),
            [
                -0.13958991670302345,
                -1.170690123948676,
                1.6669916487094063,
                0.11990593274968755,
                -0.29405473813687505,
                0.4219261246865625,
                -1.0949753114387502,
            ],
        ),
        (
            heavy.into(),
            [
                -1.0133608666381797,
                -0.6993405415623477,
                1.3390407060562812,
                -0.24358320277531242,
                -0.44680449808687495,
                0.5209861081115625,
                -3.5228925485387506,
            ],
        ),
        (
            nesterov.into(),
            [
                -1.4852408537919455,
                -0.687652292587125,
                1.0777193339972422,
                -0.18025604153407088,
                -0.5133091762268444,
                0.6195112153195979,
                -4.579966906342473,
            ],
        ),
        (
            adam.into(),
            [
                -0.09727614928243011,
                -0.9046292182303212,
                1.5781918115992775,
                -0.12222279360138098,
                -0.6975124378109453,
                0.645794749631361,
                -0.09983338887037653,
            ],
        ),
        (
            adam_l2.into(),
            [
                -0.09883064121129347,
                -0.8744229985473924,
                1.4199221691162056,
                -0.12097978007588975,
                -0.6952493666550531,
                0.5357307717876199,
                -0.09971724953194828,
            ],
        ),
        (
            adam_w.into(),
            [
                -0.10473649616902513,
                -0.8739588035175642,
                1.5229187916406706,
                -0.12070539559065342,
                -0.6876118775522356,
                0.6359465857709075,
                -0.10476048298567184,
            ],
        ),
    ]
}

fn parameters(dtype: DType) -> Vec<(String, Param)> {
    let param = |name: &str, values: &[f64], shape: &[usize]| {
        let value = Tensor::from_slice(values, shape).unwrap();
        let value = ops::cast(&value, dtype).unwrap();
        (name.to_owned(), Param::new(name, value))
    };
    vec![
        param("a", &[0.5, -1.25, 2.0], &[3]),
        param("b", &[0.1, -0.2, 0.3, 0.4], &[2, 2]),
    ]
}

fn gradients(t: usize) -> Vec<Option<Tensor>> {
    let x = t as f64;
    let a = [0.3 * (x + 1.0), -0.7 + 0.25 * x, 0.05 * x * x];
    let b = [1.0 - 0.4 * x, 0.2, -0.1 * x, 3.0];
    let b = Tensor::from_slice(&b, &[2, 2]).unwrap();
    vec![
        Some(Tensor::from_slice(&a, &[3]).unwrap()),
        (t != 2).then_some(b),
    ]
}

fn values(params: &[(String, Param)]) -> Vec<f64> {
    let each = params.iter().map(|(_, p)| p.value().to_f64_vec().unwrap());
    each.flatten().collect()
}

#[test]
fn six_steps_are_those_of_pytorch() {
    for (kind, expected) in cases() {
        // A few roundings of each step: in f64 and in f32.
        for (dtype, tolerance) in [(DType::F64, 1e-14), (DType::F32, 2e-6)] {
            let params = parameters(dtype);
            let mut optimizer = Optimizer::new(kind, params.clone()).unwrap();
            (0..6).for_each(|t| optimizer.step(&gradients(t)).unwrap());
            for (got, want) in values(&params).iter().zip(expected) {
                let error = (got - want).abs();
                assert!(error <= tolerance, "{kind:?} {dtype}: {got}, not {want}");
            }
            assert_eq!(params[0].1.version(), 6);
            assert_eq!(params[1].1.version(), 5, "a step without a gradient");
        }
    }
}

#[test]
fn a_resumed_run_continues_bit_for_bit() {
    for (kind, _) in cases() {
        let params = parameters(DType::F32);
        let mut optimizer = Optimizer::new(kind, params.clone()).unwrap();
        (0..3).for_each(|t| optimizer.step(&gradients(t)).unwrap());
        optimizer.set_learning_rate(0.07).unwrap();
        let (state, held) = (optimizer.state().unwrap(), parameters(DType::F32));
        for ((_, from), (_, to)) in params.iter().zip(&held) {
            to.set(from.value()).unwrap();
        }
        let mut resumed = Optimizer::new(kind, held.clone()).unwrap();
        resumed.load_state(state).unwrap();
        for t in 3..6 {
            optimizer.step(&gradients(t)).unwrap();
            resumed.step(&gradients(t)).unwrap();
        }
        assert_eq!(values(&params), values(&held), "{kind:?}");
        let (a, b) = (optimizer.state().unwrap(), resumed.state().unwrap());
        for ((name, a), (other, b)) in a.iter().zip(&b) {
            assert_eq!(name, other);
            assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap(), "{name}");
        }
        assert_eq!(a.len(), b.len());
    }
}

#[test]
fn a_saved_state_does_not_change_with_the_next_step() {
    let params = parameters(DType::F32);
    let mut optimizer = Optimizer::new(Adam::default(), params.clone()).unwrap();
    optimizer.step(&gradients(0)).unwrap();
    let (state, weights) = (optimizer.state().unwrap(), params[0].1.value());
    let before: Vec<_> = state.iter().map(|(_, t)| t.to_bytes().unwrap()).collect();
    let weights_before = weights.to_bytes().unwrap();
    optimizer.step(&gradients(1)).unwrap();
    let after: Vec<_> = state.iter().map(|(_, t)| t.to_bytes().unwrap()).collect();
    assert_eq!(before, after);
    assert_eq!(weights.to_bytes().unwrap(), weights_before);
    assert_ne!(params[0].1.value().to_bytes().unwrap(), weights_before);
}

#[test]
fn parameters_that_nothing_else_holds_stay_where_they_are() {
    let params = parameters(DType::F32);
    let mut optimizer = Optimizer::new(Adam::default(), params.clone()).unwrap();
    let place = |p: &Param| p.value().dense_slice::<f32>("test").unwrap().as_ptr();
    let before = place(&params[0].1);
    optimizer.step(&gradients(0)).unwrap();
    assert_eq!(place(&params[0].1), before);
    let tape = params[0].1.recorded();
    optimizer.step(&gradients(1)).unwrap();
    assert_ne!(place(&params[0].1), before);
    let loss = ops::sum_all(&ops::mul(&tape, &tape).unwrap()).unwrap();
    let error = grad(&[&loss], None, &[&tape], false).unwrap_err();
    assert!(
        error.to_string().contains("parameter a was updated"),
        "{error}"
    );
}

#[test]
fn chunks_and_threads_change_no_bit() {
    let n = 3 * crate::device::cpu::GRAIN + 17;
    let mut numbers = vec![0.0; n];
    Philox::new(3).fill_normal(&mut numbers, 0.0, 1.0);
    let gradient = Some(Tensor::from_slice(&numbers, &[n]).unwrap());
    for (kind, _) in cases() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let w = Param::new("w", Tensor::full(0.5, &[n], DType::F32).unwrap());
                let mut optimizer = Optimizer::new(kind, vec![("w".into(), w.clone())]).unwrap();
                (0..3).for_each(|_| optimizer.step(std::slice::from_ref(&gradient)).unwrap());
                w.value().to_vec::<f32>().unwrap()
            })
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
        // The last element, alone, takes the same way.
        let last = Param::new("w", Tensor::full(0.5, &[1], DType::F32).unwrap());
        let mut optimizer = Optimizer::new(kind, vec![("w".into(), last.clone())]).unwrap();
        let gradient = Some(Tensor::from_slice(&numbers[n - 1..], &[1]).unwrap());
        (0..3).for_each(|_| optimizer.step(std::slice::from_ref(&gradient)).unwrap());
        assert_eq!(last.value().to_vec::<f32>().unwrap(), one[n - 1..]);
    }
}

#[test]
fn gradients_and_parameters_of_any_layout() {
    let turned = |t: Tensor| {
        let t = ops::transpose(&t, 0, 1)
            .unwrap()
            .to_format(Format::Contiguous);
        ops::transpose(&t.unwrap(), 0, 1).unwrap()
    };
    let (plain, other) = (parameters(DType::F32), parameters(DType::F32));
    other[1].1.set(turned(other[1].1.value())).unwrap();
    let mut a = Optimizer::new(AdamW::default(), plain.clone()).unwrap();
    let mut b = Optimizer::new(AdamW::default(), other.clone()).unwrap();
    for t in 0..3 {
        let gradients = gradients(t);
        a.step(&gradients).unwrap();
        let second = gradients[1].clone().map(turned);
        b.step(&[gradients[0].clone(), second]).unwrap();
    }
    assert_eq!(values(&plain), values(&other));
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_changes() {
    let params = parameters(DType::F32);
    let mut optimizer = Optimizer::new(Adam::default(), params.clone()).unwrap();
    let before = values(&params);
    assert!(optimizer.step(&gradients(0)[..1]).is_err());
    let wrong = Tensor::zeros(&[4], DType::F32).unwrap();
    let error = optimizer.step(&[gradients(0)[0].clone(), Some(wrong)]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("gradient and parameter b differ"), "{error}");
    assert_eq!(values(&params), before);
    assert!(optimizer.set_learning_rate(f64::NAN).is_err());

    let twice = vec![params[0].clone(), ("other".into(), params[0].1.clone())];
    let mut shared = Optimizer::new(Sgd::default(), twice).unwrap();
    let gradient = gradients(0)[0].clone();
    let error = shared.step(&[gradient.clone(), gradient]).unwrap_err();
    assert!(error.to_string().contains("twice"), "{error}");
    assert!(Optimizer::new(Sgd::default(), vec![params[0].clone(), params[0].clone()]).is_err());
    let nesterov = Sgd {
        nesterov: true,
        ..Sgd::default()
    };
    assert!(Optimizer::new(nesterov, params.clone()).is_err());
    let half = Param::new("h", Tensor::zeros(&[1], DType::BF16).unwrap());
    assert!(Optimizer::new(Sgd::default(), vec![("h".into(), half)]).is_err());

    optimizer.step(&gradients(0)).unwrap();
    let good = optimizer.state().unwrap();
    let mut bad = good.clone();
    bad.retain(|(name, _)| name != "a.exp_avg");
    bad.push(("c.exp_avg".into(), Tensor::zeros(&[1], DType::F32).unwrap()));
    for (name, value) in &mut bad {
        if name == "b.exp_avg_sq" {
            *value = Tensor::zeros(&[4], DType::F32).unwrap();
        }
    }
    let error = optimizer.load_state(bad).unwrap_err().to_string();
    for part in [
        "a.exp_avg is missing",
        "b.exp_avg_sq is [4] f32, not [2, 2] f32",
        "c.exp_avg is not expected",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let same = optimizer.state().unwrap();
    for ((_, a), (_, b)) in same.iter().zip(&good) {
        assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap());
    }
}

// import torch
// torch.set_default_dtype(torch.float64)
// for m in (1.0, 100.0):
//     p = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2, 2))]
//     p[0].grad = torch.tensor([3.0, -4.0])
//     p[1].grad = torch.tensor([[1.0, 2.0], [-2.0, 0.5]])
//     n = torch.nn.utils.clip_grad_norm_(p, m)
//     print(n.item(), p[0].grad.tolist(), p[1].grad.flatten().tolist())
#[test]
fn clipping_is_that_of_pytorch() {
    let (a, b) = ([3.0, -4.0], [1.0, 2.0, -2.0, 0.5]);
    let clipped_a = [0.5126145070388306, -0.6834860093851075];
    let clipped_b = [
        0.17087150234627688,
        0.34174300469255375,
        -0.34174300469255375,
        0.08543575117313844,
    ];
    for (limit, want_a, want_b) in [(1.0, clipped_a, clipped_b), (100.0, a, b)] {
        for (dtype, tolerance) in [(DType::F64, 1e-15), (DType::F32, 1e-7), (DType::BF16, 4e-3)] {
            let tensor = |v: &[f64], shape: &[usize]| {
                let t = Tensor::from_slice(v, shape).unwrap();
                Some(ops::cast(&t, dtype).unwrap())
            };
            let mut gradients = [tensor(&a, &[2]), None, tensor(&b, &[2, 2])];
            let kept = gradients[0].clone().unwrap();
            let norm = clip_grad_norm(&mut gradients, limit).unwrap();
            assert!((norm - 5.852349955359813).abs() < 1e-14, "{norm}");
            for (got, want) in [(&gradients[0], &want_a[..]), (&gradients[2], &want_b[..])] {
                let got = got.as_ref().unwrap().to_f64_vec().unwrap();
                for (g, w) in got.iter().zip(want) {
                    assert!((g - w).abs() <= tolerance, "{dtype}: {g}, not {w}");
                }
            }
            assert!(gradients[1].is_none());
            assert_eq!(
                kept.to_f64_vec().unwrap(),
                a,
                "another holder saw the clipping"
            );
        }
    }
    let mut bad = [Some(Tensor::full(f64::NAN, &[2], DType::F32).unwrap())];
    assert!(clip_grad_norm(&mut bad, 1.0).unwrap().is_nan());
    assert!(clip_grad_norm(&mut bad, -1.0).is_err());
}

fn equal(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= 1e-15, "{got:?}, not {want:?}");
    }
}

// from torch.optim import lr_scheduler as s
// def rates(make, n):
//     o = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4); c = make(o); out = []
//     for _ in range(n): out.append(o.param_groups[0]['lr']); o.step(); c.step()
//     print(out)
// rates(lambda o: s.StepLR(o, 3, 0.5), 8)
// rates(lambda o: s.MultiStepLR(o, [2, 3, 6], 0.1), 8)
// rates(lambda o: s.ExponentialLR(o, 0.9), 5)
// rates(lambda o: s.CosineAnnealingLR(o, 5, eta_min=0.01), 6)
#[test]
fn schedules_are_those_of_pytorch() {
    let rates = |schedule: Schedule, n| (0..n).map(|t| schedule.at(0.4, t)).collect::<Vec<_>>();
    equal(&rates(Schedule::Constant, 3), &[0.4; 3]);
    let (every, factor) = (3, 0.5);
    let want = [0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.1, 0.1];
    equal(&rates(Schedule::Step { every, factor }, 8), &want);
    let (milestones, factor) = (vec![2, 3, 6], 0.1);
    let want = [0.4, 0.4, 0.04, 0.004, 0.004, 0.004, 0.0004, 0.0004];
    equal(&rates(Schedule::MultiStep { milestones, factor }, 8), &want);
    let want = [0.4, 0.36, 0.324, 0.2916, 0.26244];
    equal(&rates(Schedule::Exponential { factor: 0.9 }, 5), &want);
    let cosine = |warmup, total| Schedule::CosineWarmup {
        warmup,
        total,
        minimum: 0.01,
    };
    let annealed = [
        0.4,
        0.36275831390311475,
        0.2652583139031147,
        0.14474168609688523,
        0.047241686096885255,
        0.01,
    ];
    equal(&rates(cosine(0, 5), 6), &annealed);
    let warmed = rates(cosine(4, 9), 12);
    equal(&warmed[..4], &[0.1, 0.2, 0.3, 0.4]);
    equal(&warmed[4..10], &annealed);
    equal(&warmed[10..], &[0.01; 2]);
    // Warm-up that never ends, and a schedule of no length.
    equal(&rates(cosine(4, 2), 6), &[0.1, 0.2, 0.3, 0.4, 0.01, 0.01]);
    equal(&rates(cosine(0, 0), 1), &[0.01]);
}

// def plateau(metrics, **k):
//     o = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
//     c = s.ReduceLROnPlateau(o, **k); out = []
//     for m in metrics: c.step(m); out.append(o.param_groups[0]['lr'])
//     print(out)
// m = [1.0, 0.9, 0.89995, 0.9, 0.95, float('nan'), 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
// plateau(m, mode='min', factor=0.5, patience=2)
// plateau(m, mode='min', factor=0.1, patience=1, cooldown=2, min_lr=0.001)
// plateau([-x for x in m], mode='max', factor=0.5, patience=0)
#[test]
fn the_plateau_is_that_of_pytorch() {
    let nan = f64::NAN;
    let metrics = [
        1.0, 0.9, 0.89995, 0.9, 0.95, nan, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9,
    ];
    let run = |mut plateau: ReduceOnPlateau, sign: f64| {
        let mut rate = 0.4;
        let mut rates = Vec::new();
        for metric in metrics {
            // Through its saved state each time, as a resumed run.
            #[cfg(feature = "formats")]
            {
                let text = serde_json::to_string(&plateau.state).unwrap();
                plateau.state = serde_json::from_str(&text).unwrap();
            }
            rate = plateau.step(sign * metric, rate);
            rates.push(rate);
        }
        rates
    };
    let plain = ReduceOnPlateau::new(Goal::Lower, 0.5, 2).unwrap();
    let want = [
        0.4, 0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05,
    ];
    equal(&run(plain, 1.0), &want);
    let slow = ReduceOnPlateau {
        cooldown: 2,
        minimum: 0.001,
        ..ReduceOnPlateau::new(Goal::Lower, 0.1, 1).unwrap()
    };
    let want = [
        0.4, 0.4, 0.4, 0.04, 0.04, 0.04, 0.04, 0.04, 0.004, 0.004, 0.004, 0.004, 0.001, 0.001,
    ];
    equal(&run(slow, 1.0), &want);
    let impatient = ReduceOnPlateau::new(Goal::Higher, 0.5, 0).unwrap();
    let want = [
        0.4, 0.4, 0.4, 0.4, 0.2, 0.1, 0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125, 0.0015625,
        0.00078125,
    ];
    equal(&run(impatient, -1.0), &want);
    assert!(ReduceOnPlateau::new(Goal::Lower, 1.0, 2).is_err());
}

/// A loss in which a weight goes into two layers, once turned by a view of its values, one
/// layer reads a weight off the tape, and gradients come in another order than parameters.
fn entangled(params: &[(String, Param)], x: &Tensor) -> Tensor {
    let [shared, scale, last] = [0, 1, 2].map(|i| &params[i].1);
    let first = ops::matmul(x, &shared.recorded()).unwrap();
    let first = ops::mul(&first, &scale.recorded()).unwrap();
    let turned = ops::transpose(&shared.recorded(), 0, 1).unwrap();
    let second = ops::tanh(&ops::matmul(&first, &turned).unwrap()).unwrap();
    // Of the second layer's own weight, which changes before this product goes back.
    let seen = ops::mul(&second, &last.value()).unwrap();
    let third = ops::matmul(&seen, &last.recorded()).unwrap();
    let third = ops::add(&third, &ops::mul(x, &shared.recorded()).unwrap()).unwrap();
    let third = ops::matmul(&third, &last.recorded()).unwrap();
    ops::sum_all(&ops::mul(&third, &third).unwrap()).unwrap()
}

fn entangled_parameters() -> Vec<(String, Param)> {
    let mut random = Philox::new(5);
    let shapes: [(&str, &[usize]); 4] = [
        ("shared", &[6, 6]),
        ("scale", &[6]),
        ("last", &[6, 6]),
        ("unused", &[3]),
    ];
    let param = |(name, shape): (&str, &[usize])| {
        let mut values = vec![0.0; shape.iter().product()];
        random.fill_normal(&mut values, 0.0, 0.5);
        let value = Tensor::from_slice(&values, shape).unwrap();
        (name.to_owned(), Param::new(name, value))
    };
    shapes.map(param).into()
}

#[test]
fn steps_down_a_loss_have_the_bits_of_gradients_and_update() {
    let kinds = cases().into_iter().map(|(kind, _)| kind);
    for (kind, max_norm) in kinds.flat_map(|k| [(k, None), (k, Some(0.5))]) {
        let x = Tensor::from_slice(&[0.3f32; 36], &[6, 6]).unwrap();
        let (a, b) = (entangled_parameters(), entangled_parameters());
        let mut whole = Optimizer::new(kind, a.clone()).unwrap();
        let mut single = Optimizer::new(kind, b.clone()).unwrap();
        for step in 0..4 {
            let loss = entangled(&a, &x);
            let recorded: Vec<Tensor> = a.iter().map(|(_, p)| p.recorded()).collect();
            let inputs: Vec<&Tensor> = recorded.iter().collect();
            let mut gradients = grad(&[&loss], None, &inputs, false).unwrap();
            drop((loss, recorded));
            if let Some(max_norm) = max_norm {
                clip_grad_norm(&mut gradients, max_norm).unwrap();
            }
            whole.step(&gradients).unwrap();
            single.minimize(entangled(&b, &x), max_norm).unwrap();
            assert_eq!(values(&a), values(&b), "{kind:?}, step {step}");
        }
        assert!(values(&a) != values(&entangled_parameters()));
        let states = [whole.state().unwrap(), single.state().unwrap()];
        let [of_whole, of_single] = states.map(|state| {
            let values = state.iter().map(|(_, v)| v.to_f64_vec().unwrap());
            values.collect::<Vec<_>>()
        });
        assert_eq!(of_whole, of_single);
    }
}

/// Where the values of each parameter lie.
fn addresses(params: &[(String, Param)]) -> Vec<usize> {
    let of = |(_, p): &(String, Param)| {
        let value = p.value();
        value.dense_slice::<f32>("test").unwrap().as_ptr() as usize
    };
    params.iter().map(of).collect()
}

/// Whether something holds the values besides a parameter and who asks.
fn is_held(value: &Tensor) -> bool {
    match value.storage() {
        Storage::Cpu(buffer) => Arc::strong_count(buffer) > 2,
        Storage::Cuda(..) => false,
    }
}

#[test]
fn a_gradient_comes_when_it_is_complete_and_its_parameter_changes_in_place() {
    const LAYERS: usize = 4;
    let params: Vec<(String, Param)> = (0..LAYERS)
        .map(|i| {
            let weight = Tensor::full(0.1 + i as f64, &[8, 8], DType::F32).unwrap();
            (format!("{i}"), Param::new(format!("{i}"), weight))
        })
        .collect();
    // Older places on the tape than those of any layer, which would come last.
    let leaves: Vec<_> = params.iter().map(|(_, p)| p.place()).collect();
    let x = Tensor::full(0.5, &[2, 8], DType::F32).unwrap();
    let through = |layers: usize| {
        let mut y = x.detach();
        for (_, p) in params.iter().take(layers) {
            y = ops::matmul(&y, &p.recorded()).unwrap();
        }
        y
    };
    let loss = ops::sum_all(&through(LAYERS)).unwrap();
    let mut order = Vec::new();
    let recorded = through(1);
    autograd::backward(loss, &leaves, &mut |place, _| {
        // Values of layers that had their turn are held by nothing but the parameter; those
        // of layer 0 by another tape too.
        let held: Vec<bool> = params.iter().map(|(_, p)| is_held(&p.value())).collect();
        let expected: Vec<bool> = (0..LAYERS).map(|i| i < place || i == 0).collect();
        assert_eq!(held, expected, "at layer {place}");
        order.push(place);
        Ok(())
    })
    .unwrap();
    assert_eq!(order, [3, 2, 1, 0]);
    drop(recorded);

    let before = addresses(&params);
    let mut optimizer = Optimizer::new(Adam::default(), params.clone()).unwrap();
    let loss = ops::sum_all(&through(LAYERS)).unwrap();
    optimizer.minimize(loss, None).unwrap();
    assert_eq!(addresses(&params), before);
    assert!(params.iter().all(|(_, p)| p.version() == 1));

    let twice = vec![params[0].clone(), ("other".into(), params[0].1.clone())];
    let mut shared = Optimizer::new(Sgd::default(), twice).unwrap();
    let loss = ops::sum_all(&through(1)).unwrap();
    let error = shared.minimize(loss, None).unwrap_err().to_string();
    assert!(error.contains("twice"), "{error}");
}
