//! What every operator must pass.

use std::collections::BTreeSet;
use std::sync::Arc;

use eosin::autograd::{CheckOptions, grad, grad_check, grad_grad_check};
use eosin::device::cuda::CudaDevice;
use eosin::device::cuda::null::NullDriver;
use eosin::ops::{Order, REGISTRY};
use eosin::profile::observe;
use eosin::shape::Format;
use eosin::{DType, Device, Result, Tensor, ops};
use eosin_emulator::Schedule;
use libtest_mimic::Trial;

use crate::common::trial::trial;
use crate::common::{relative_l2, tensor};
use crate::under_test;

type Function = Arc<dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync>;

/// Operators that have bf16 and f16 on the CUDA device: products, attention, convolutions,
/// what stands beside them in networks, and what the gradients and second gradients
/// of all these need. Others refuse them by name.
const HALVES_ON_CUDA: &[&str] = &[
    "activated_avg_pool2d",
    "add",
    "affine",
    "attention",
    "broadcast_to",
    "conv2d",
    "conv2d_input_gradient",
    "conv2d_weight_gradient",
    "conv_bn_act",
    "conv_transpose2d",
    "dropout",
    "gelu",
    "leaky_relu",
    "linear",
    "linear_top_mean",
    "linear_top_means",
    "matmul",
    "max_pool2d",
    "mean",
    "mul",
    "permute",
    "relu",
    "reshape",
    "sigmoid",
    "silu",
    "sum",
    "sum_all",
    "tanh",
    "to_format",
    "transpose",
];

/// One input of a sample.
#[derive(Clone)]
pub enum Input {
    /// Formula values in [low, high), in the dtype of the test.
    Float(Vec<usize>, f64, f64),
    /// Fixed values of another dtype.
    Fixed(Tensor),
}

/// One way to call an operator.
pub struct Sample {
    pub op: &'static str,
    pub name: &'static str,
    pub inputs: Vec<Input>,
    pub call: Function,
    /// Whether low precision makes sense: false where a rounded input may
    /// change a choice (an order, a maximum).
    pub smooth: bool,
    /// Whether the CUDA device has what it computes.
    pub cuda: bool,
}

impl Sample {
    /// A sample whose inputs are in [-1, 1).
    pub fn new(
        op: &'static str,
        name: &'static str,
        shapes: &[&[usize]],
        call: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        let unit = |s: &&[usize]| Input::Float(s.to_vec(), -1.0, 1.0);
        Self {
            op,
            name,
            inputs: shapes.iter().map(unit).collect(),
            call: Arc::new(call),
            smooth: true,
            cuda: true,
        }
    }

    /// The range of every float input.
    pub fn range(mut self, low: f64, high: f64) -> Self {
        for input in &mut self.inputs {
            if let Input::Float(_, l, h) = input {
                (*l, *h) = (low, high);
            }
        }
        self
    }

    /// Adds a fixed input (an index, a mask) after the others.
    pub fn fixed(mut self, t: Tensor) -> Self {
        self.inputs.push(Input::Fixed(t));
        self
    }

    /// Low precision may change a choice.
    pub fn choice(mut self) -> Self {
        self.smooth = false;
        self
    }

    /// It computes f64, a dtype of the CPU.
    pub fn cpu_only(mut self) -> Self {
        self.cuda = false;
        self
    }

    fn inputs(&self, dtype: DType) -> Result<Vec<Tensor>> {
        let each = self.inputs.iter().enumerate();
        each.map(|(i, input)| match input {
            Input::Fixed(t) => Ok(t.clone()),
            Input::Float(shape, low, high) => {
                let name = format!("{}/{}/{i}", self.op, self.name);
                tensor(&name, shape, *low, *high, dtype)
            }
        })
        .collect()
    }
}

#[derive(Default)]
pub struct Suite {
    pub trials: Vec<Trial>,
}

impl Suite {
    /// Adds a test; a panic or an error fails it.
    pub fn test(
        &mut self,
        name: impl Into<String>,
        body: impl FnOnce() -> Result<()> + Send + 'static,
    ) {
        self.trials.push(trial(name, body));
    }

    pub fn samples(&mut self, samples: Vec<Sample>) {
        let covered: BTreeSet<&str> = samples.iter().map(|s| s.op).collect();
        for registered in REGISTRY {
            let has = covered.contains(registered.name);
            let name = registered.name;
            self.test(format!("registry::{name}::has_samples"), move || {
                assert!(has, "{name} has no sample");
                Ok(())
            });
        }
        for sample in samples {
            self.sample(sample);
        }
    }

    /// Adds a sample that is too large for finite differences: CUDA against the
    /// CPU.
    pub fn on_cuda_alone(&mut self, sample: Sample) {
        let name = format!(
            "{}::{}::cuda::f32::values_and_gradients",
            sample.op, sample.name
        );
        self.test(name, move || cuda_first_order(&sample));
    }

    fn sample(&mut self, sample: Sample) {
        let order = REGISTRY
            .iter()
            .find(|r| r.name == sample.op)
            .map(|r| r.order);
        let (op, name) = (sample.op, sample.name);
        let sample = Arc::new(sample);
        let mut add = |what: &str, body: fn(&Sample) -> Result<()>| {
            let sample = sample.clone();
            self.test(format!("{op}::{name}::cpu::{what}"), move || body(&sample));
        };
        match order {
            None => add("is_registered", |s| panic!("{} is not in REGISTRY", s.op)),
            Some(Order::None) => {}
            Some(Order::First) => {
                add("f64::gradient", gradient);
                add("f32::gradient", single_precision_gradient);
                add("f64::second_gradient_is_refused", refuses_second_gradient);
            }
            Some(Order::Second) => {
                add("f64::gradient", gradient);
                add("f32::gradient", single_precision_gradient);
                add("f64::second_gradient", second_gradient);
            }
        }
        add("f32::values", single_precision);
        add("f32::layouts", layouts);
        add("f32::threads", threads);
        let mut on_cuda = |what: &str, body: fn(&Sample) -> Result<()>| {
            let sample = sample.clone();
            self.test(format!("{op}::{name}::cuda::{what}"), move || body(&sample));
        };
        if sample.cuda {
            on_cuda("f32::values_and_gradients", cuda_first_order);
            on_cuda("f32::layouts", cuda_layouts);
            on_cuda("null::launches_are_of_operators", launches_are_of_operators);
        }
        if sample.cuda && order == Some(Order::Second) {
            on_cuda("f32::second_gradient", cuda_second_order);
        }
        if sample.cuda && HALVES_ON_CUDA.contains(&op) {
            for (name_of, dtype) in [("bf16", DType::BF16), ("f16", DType::F16)] {
                let mut on_cuda = |what: &str, body: fn(&Sample, DType) -> Result<()>| {
                    let sample = sample.clone();
                    self.test(
                        format!("{op}::{name}::cuda::{name_of}::{what}"),
                        move || body(&sample, dtype),
                    );
                };
                on_cuda("values_and_gradients", cuda_half_first_order);
                on_cuda("layouts", cuda_half_layouts);
                if order == Some(Order::Second) {
                    on_cuda("second_gradient", cuda_half_second_order);
                }
            }
        }
        if sample.smooth {
            let mut add = |what: &str, body: fn(&Sample) -> Result<()>| {
                let sample = sample.clone();
                self.test(format!("{op}::{name}::cpu::{what}"), move || body(&sample));
            };
            add("bf16::values", |s| low_precision(s, DType::BF16));
            add("f16::values", |s| low_precision(s, DType::F16));
        }
    }
}

fn gradient(s: &Sample) -> Result<()> {
    grad_check(&*s.call, &s.inputs(DType::F64)?, CheckOptions::default())
}

fn second_gradient(s: &Sample) -> Result<()> {
    grad_grad_check(&*s.call, &s.inputs(DType::F64)?, CheckOptions::default())
}

fn refuses_second_gradient(s: &Sample) -> Result<()> {
    let outcome = grad_grad_check(&*s.call, &s.inputs(DType::F64)?, CheckOptions::default());
    let error = outcome.expect_err("a second gradient that is not declared");
    assert!(matches!(error, eosin::Error::NoGradient { .. }), "{error}");
    Ok(())
}

fn variables(inputs: &[Tensor]) -> Vec<Tensor> {
    let each = inputs.iter().map(|t| match t.dtype().is_float() {
        true => t.variable(),
        false => t.clone(),
    });
    each.collect()
}

/// What a result is weighted with for its gradient, where it is. A number that
/// `rounding` holds is the same in every dtype that holds more.
fn weight_of(name: &str, output: &Tensor, rounding: Option<DType>) -> Result<Tensor> {
    let dtype = rounding.unwrap_or(output.dtype());
    let weight = tensor(name, output.shape(), -1.0, 1.0, dtype)?;
    ops::cast(&weight, output.dtype())?.to(&output.device())
}

/// Gradients of the weighted first gradients, as f64.
fn second_gradients(s: &Sample, inputs: &[Tensor]) -> Result<Vec<Vec<f64>>> {
    second_gradients_by(s, inputs, None)
}

fn second_gradients_by(
    s: &Sample,
    inputs: &[Tensor],
    rounding: Option<DType>,
) -> Result<Vec<Vec<f64>>> {
    let variables = variables(inputs);
    let output = (s.call)(&variables)?;
    let wanted: Vec<&Tensor> = variables.iter().filter(|t| t.is_recorded()).collect();
    let weight = weight_of("weight", &output, rounding)?.variable();
    let first = grad(&[&output], Some(&[&weight]), &wanted, true)?;
    let first: Vec<Tensor> = first.into_iter().flatten().collect();
    let recorded: Vec<&Tensor> = first.iter().filter(|t| t.is_recorded()).collect();
    let weights: Vec<Tensor> = recorded
        .iter()
        .map(|t| weight_of("weight of a gradient", t, rounding))
        .collect::<Result<_>>()?;
    let mut targets = wanted;
    targets.push(&weight);
    let weights: Vec<&Tensor> = weights.iter().collect();
    let second = grad(&recorded, Some(&weights), &targets, false)?;
    second.iter().flatten().map(Tensor::to_f64_vec).collect()
}

/// The CUDA device under test.
pub fn emulated(schedule: Schedule) -> Result<Device> {
    Ok(Device::Cuda(under_test::device(schedule)?))
}

/// The sample's inputs on a device of the emulator.
fn on_cuda(inputs: &[Tensor], schedule: Schedule) -> Result<Vec<Tensor>> {
    let device = emulated(schedule)?;
    inputs.iter().map(|t| t.to(&device)).collect()
}

/// What is launched, forward and backward, is launched in the name of operators
/// whose cost is known.
fn launches_are_of_operators(s: &Sample) -> Result<()> {
    let device = Device::Cuda(CudaDevice::new(NullDriver::new())?);
    let inputs = s.inputs(DType::F32)?;
    let inputs: Vec<Tensor> = inputs
        .iter()
        .map(|t| t.to(&device))
        .collect::<Result<_>>()?;
    let variables = variables(&inputs);
    let wanted: Vec<&Tensor> = variables.iter().filter(|t| t.is_recorded()).collect();
    let ((), seen) = observe(&device, || {
        let output = (s.call)(&variables)?;
        if output.is_recorded() {
            let weight = Tensor::full_on(1.0, output.shape(), output.dtype(), &device)?;
            grad(&[&output], Some(&[&weight]), &wanted, false)?;
        }
        Ok(())
    })?;
    assert_eq!(
        seen.unattributed, [""; 0],
        "launched in the name of no operator"
    );
    for call in &seen.calls {
        assert!(
            ops::cost::rule(call.op).is_some(),
            "{} has no cost",
            call.op
        );
    }
    Ok(())
}

/// Two schedules that no race would survive give the same bits.
fn in_two_schedules(
    inputs: &[Tensor],
    run: impl Fn(&[Tensor]) -> Result<Vec<Vec<f64>>>,
) -> Result<Vec<Vec<f64>>> {
    let forward = run(&on_cuda(inputs, Schedule::Forward)?)?;
    let greedy = run(&on_cuda(inputs, Schedule::Greedy(7))?)?;
    let bits =
        |all: &[Vec<f64>]| -> Vec<u64> { all.iter().flatten().map(|v| v.to_bits()).collect() };
    assert_eq!(
        bits(&forward),
        bits(&greedy),
        "the schedule changes the bits"
    );
    Ok(forward)
}

/// The tolerances are those of the CPU's own f32 against f64.
fn cuda_first_order(s: &Sample) -> Result<()> {
    let got = in_two_schedules(&s.inputs(DType::F32)?, |inputs| everything(s, inputs))?;
    let exact = everything(s, &s.inputs(DType::F64)?)?;
    close("cuda", &got[..1], &exact[..1], 1e-5);
    close("cuda gradient", &got, &exact, 1e-4);
    Ok(())
}

fn cuda_second_order(s: &Sample) -> Result<()> {
    let got = in_two_schedules(&s.inputs(DType::F32)?, |inputs| second_gradients(s, inputs))?;
    let exact = second_gradients(s, &s.inputs(DType::F64)?)?;
    assert!(!exact.is_empty(), "no second gradient was found");
    close("cuda second gradient", &got, &exact, 1e-4);
    Ok(())
}

/// Half of a unit in the last place: what one rounding to 8 or 11 significant bits
/// changes at most, in relation to the number.
fn half_unit(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 1.0 / 256.0,
        _ => 1.0 / 2048.0,
    }
}

/// Results in `dtype` against the exact ones of the same, rounded, inputs: at most
/// twice the error of the CPU's plain low precision, which rounds as often, and one
/// rounding, since that error may be 0 by chance.
fn close_in_half(
    what: &str,
    s: &Sample,
    dtype: DType,
    run: impl Fn(&Sample, &[Tensor], Option<DType>) -> Result<Vec<Vec<f64>>>,
) -> Result<Vec<Vec<f64>>> {
    let inputs = s.inputs(dtype)?;
    let got = in_two_schedules(&inputs, |inputs| run(s, inputs, Some(dtype)))?;
    let plain = run(s, &inputs, Some(dtype))?;
    let widened = inputs.iter().map(|t| match t.dtype() == dtype {
        true => ops::cast(t, DType::F64),
        false => Ok(t.clone()),
    });
    let exact = run(s, &widened.collect::<Result<Vec<_>>>()?, Some(dtype))?;
    assert_eq!(got.len(), exact.len(), "{what}: another number of results");
    for (i, (got, exact)) in got.iter().zip(&exact).enumerate() {
        let error = relative_l2(got, exact);
        let allowed = 2.0 * relative_l2(&plain[i], exact) + half_unit(dtype);
        // Not `<`: a NaN must not pass.
        assert!(
            error <= allowed,
            "{what}: result {i} is off by {error:e}, allowed are {allowed:e}"
        );
    }
    Ok(got)
}

/// The values, besides, are rounded once: a half unit, and what f32 sums lose.
pub fn cuda_half_first_order(s: &Sample, dtype: DType) -> Result<()> {
    let got = close_in_half("cuda", s, dtype, everything_by)?;
    let inputs = s.inputs(dtype)?;
    let output = (s.call)(&on_cuda(&inputs, Schedule::Forward)?)?;
    assert_eq!(output.dtype(), dtype, "the result has another dtype");
    let widened = inputs.iter().map(|t| ops::cast(t, DType::F64));
    let exact = (s.call)(&widened.collect::<Result<Vec<_>>>()?)?;
    let tolerance = half_unit(dtype) + 1e-5;
    close("cuda", &got[..1], &[exact.to_f64_vec()?], tolerance);
    Ok(())
}

fn cuda_half_second_order(s: &Sample, dtype: DType) -> Result<()> {
    let got = close_in_half("cuda second gradient", s, dtype, second_gradients_by)?;
    assert!(!got.is_empty(), "no second gradient was found");
    Ok(())
}

/// Another layout may change the order of a sum in f32, and so one rounding.
fn cuda_half_layouts(s: &Sample, dtype: DType) -> Result<()> {
    let plain = s.inputs(dtype)?;
    let want = everything(s, &on_cuda(&plain, Schedule::Forward)?)?;
    for (name, relayout) in LAYOUTS {
        let inputs: Vec<Tensor> = plain.iter().map(relayout).collect::<Result<_>>()?;
        let inputs = on_cuda(&inputs, Schedule::Greedy(3))?;
        close(name, &everything(s, &inputs)?, &want, half_unit(dtype))
    }
    Ok(())
}

fn cuda_layouts(s: &Sample) -> Result<()> {
    let plain = s.inputs(DType::F32)?;
    let want = everything(s, &on_cuda(&plain, Schedule::Forward)?)?;
    for (name, relayout) in LAYOUTS {
        let inputs: Vec<Tensor> = plain.iter().map(relayout).collect::<Result<_>>()?;
        let inputs = on_cuda(&inputs, Schedule::Greedy(3))?;
        close(name, &everything(s, &inputs)?, &want, 1e-5);
    }
    Ok(())
}

/// Output and, where there is one, gradients with weight 1, as f64.
fn everything(s: &Sample, inputs: &[Tensor]) -> Result<Vec<Vec<f64>>> {
    everything_by(s, inputs, None)
}

fn everything_by(s: &Sample, inputs: &[Tensor], rounding: Option<DType>) -> Result<Vec<Vec<f64>>> {
    let variables = variables(inputs);
    let output = (s.call)(&variables)?;
    let mut all = vec![output.to_f64_vec()?];
    if output.is_recorded() {
        let wanted: Vec<&Tensor> = variables.iter().filter(|t| t.is_recorded()).collect();
        let weight = weight_of("weight", &output, rounding)?;
        for g in grad(&[&output], Some(&[&weight]), &wanted, false)?
            .into_iter()
            .flatten()
        {
            all.push(g.to_f64_vec()?);
        }
    }
    Ok(all)
}

fn close(what: &str, got: &[Vec<f64>], want: &[Vec<f64>], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: another number of results");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = relative_l2(g, w);
        // Not `<`: a NaN must not pass.
        assert!(error <= tolerance, "{what}: result {i} is off by {error:e}");
    }
}

/// f32 against f64: golden/README.md's floor for another summation order.
fn single_precision(s: &Sample) -> Result<()> {
    let got = (s.call)(&s.inputs(DType::F32)?)?;
    let exact = (s.call)(&s.inputs(DType::F64)?)?;
    let (got, exact) = (vec![got.to_f64_vec()?], vec![exact.to_f64_vec()?]);
    close("f32", &got, &exact, 1e-5);
    Ok(())
}

fn single_precision_gradient(s: &Sample) -> Result<()> {
    let got = everything(s, &s.inputs(DType::F32)?)?;
    let exact = everything(s, &s.inputs(DType::F64)?)?;
    assert!(got.len() > 1, "no gradient was found");
    close("f32 gradient", &got, &exact, 1e-4);
    Ok(())
}

/// Half precision rounds inputs before and the result after f32 arithmetic, so
/// it equals the f32 result on the rounded inputs, rounded. An operator made of
/// several others rounds between them: a few units in the last place.
fn low_precision(s: &Sample, dtype: DType) -> Result<()> {
    let inputs = s.inputs(dtype)?;
    let got = (s.call)(&inputs)?;
    let wide: Vec<Tensor> = inputs
        .iter()
        .map(|t| {
            if t.dtype() == dtype {
                ops::cast(t, DType::F32)
            } else {
                Ok(t.clone())
            }
        })
        .collect::<Result<_>>()?;
    let exact = (s.call)(&wide)?;
    if exact.dtype().is_float() {
        assert_eq!(got.dtype(), dtype, "the result has another dtype");
    }
    // Units in the last place: 2^-8 and 2^-11, four roundings on the way.
    let unit = if dtype == DType::BF16 {
        1.0 / 256.0
    } else {
        1.0 / 2048.0
    };
    close(
        "low precision",
        &[got.to_f64_vec()?],
        &[exact.to_f64_vec()?],
        4.0 * unit,
    );
    Ok(())
}

/// A tensor with the same values in a transposed storage: every stride differs.
fn restrided(t: &Tensor) -> Result<Tensor> {
    let order: Vec<usize> = (0..t.rank()).rev().collect();
    let turned = ops::permute(&t.detach(), &order)?.to_format(Format::Contiguous)?;
    ops::permute(&turned, &order)
}

type Relayout = fn(&Tensor) -> Result<Tensor>;

const LAYOUTS: [(&str, Relayout); 3] = [
    ("strided", restrided),
    ("channels last", |t| match t.rank() {
        4 => t.to_format(Format::ChannelsLast),
        _ => Ok(t.clone()),
    }),
    ("channels padded and poisoned", |t| {
        match (t.rank(), t.dtype()) {
            (4, DType::F32) => t.with_poisoned_padding(8),
            _ => Ok(t.clone()),
        }
    }),
];

/// The same values in other layouts give the same result and gradients.
/// Summation orders may differ between layouts, hence not bit for bit.
fn layouts(s: &Sample) -> Result<()> {
    let plain = s.inputs(DType::F32)?;
    let want = everything(s, &plain)?;
    for (name, relayout) in LAYOUTS {
        let inputs: Vec<Tensor> = plain.iter().map(relayout).collect::<Result<_>>()?;
        close(name, &everything(s, &inputs)?, &want, 1e-5);
    }
    Ok(())
}

/// One, two and three threads give the same bits.
fn threads(s: &Sample) -> Result<()> {
    let inputs = s.inputs(DType::F32)?;
    let run = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
        pool.expect("a thread pool")
            .install(|| everything(s, &inputs))
    };
    let one = run(1)?;
    for n in [2, 3] {
        let same = one.iter().flatten().map(|v| v.to_bits());
        assert!(
            same.eq(run(n)?.iter().flatten().map(|v| v.to_bits())),
            "{n} threads differ"
        );
    }
    Ok(())
}
