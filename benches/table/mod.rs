//! Benches of single operators, made from one table of shapes.
//!
//! [`on_cpu`] and [`on_cuda`] list them; each can check itself against plain
//! arithmetic and be prepared as a closure to be timed. Nothing here knows of
//! criterion, so that tests can walk the table at small sizes.

pub mod events;
mod plain;
pub mod shapes;

use std::collections::HashMap;

use eosin::autograd;
use eosin::nn::Param;
use eosin::ops::{self, Activation, Conv2d, ConvTranspose2d, Cost, Operand, Pool, PreparedConv};
use eosin::optim::{AdamW, Optimizer};
use eosin::random::Philox;
use eosin::shape::Format;
use eosin::{DType, Device, Error, Result, Tensor};

use plain::{Each, Plain, Taps, Whole};
use shapes::{Convolution, ROWS, Work};

const DROPPED: f64 = 0.25;
const EPS: f64 = 1e-5;
const LEAK: f64 = 0.2;

/// What is to be timed: each call does the work once.
pub type Run = Box<dyn FnMut() -> Result<Vec<Tensor>>>;

/// An operator's direction.
#[derive(Clone, Copy, Debug)]
struct Variant {
    name: &'static str,
    /// The inputs whose gradients are computed; none in the forward direction.
    gradients: &'static [usize],
}

const fn variant(name: &'static str, gradients: &'static [usize]) -> Variant {
    Variant { name, gradients }
}

const FORWARD: &[Variant] = &[variant("forward", &[])];
const OF_ONE: &[Variant] = &[variant("forward", &[]), variant("backward", &[0])];
const OF_THREE: &[Variant] = &[variant("forward", &[]), variant("backward", &[0, 1, 2])];
/// With respect to an operand of the sum, weight and bias.
const OF_SUM: &[Variant] = &[variant("forward", &[]), variant("backward", &[0, 2, 3])];
const BILINEAR: &[Variant] = &[
    variant("forward", &[]),
    variant("input_gradient", &[0]),
    variant("weight_gradient", &[1]),
];
/// Those of one channel for each group: both gradients are one pass.
const DEPTHWISE: &[Variant] = &[
    variant("forward", &[]),
    variant("input_gradient", &[0]),
    variant("weight_gradient", &[1]),
    variant("gradients", &[0, 1]),
];
/// By which of the operands is transposed in memory: the product, and the
/// gradients of its left and right operand.
const MATMUL: &[Variant] = &[variant("nn", &[]), variant("nt", &[0]), variant("tn", &[1])];
const UPDATE: &[Variant] = &[variant("step", &[])];

/// A bench: some work in one direction and dtype.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    pub work: Work,
    variant: Variant,
    dtype: DType,
    pub batch: usize,
    pub by_default: bool,
}

/// What a bench's throughput counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throughput {
    Flops(u64),
    Bytes(u64),
}

/// Every bench of the CPU.
pub fn on_cpu() -> Vec<Bench> {
    benches(|row| row.cpu, |_| &[DType::F32])
}

/// Every bench of a CUDA device.
pub fn on_cuda() -> Vec<Bench> {
    benches(|row| row.cuda, |work| work.cuda_dtypes())
}

fn benches(
    batch: impl Fn(&shapes::Row) -> usize,
    dtypes: impl Fn(Work) -> &'static [DType],
) -> Vec<Bench> {
    let mut all = Vec::new();
    for row in ROWS {
        for &dtype in dtypes(row.work) {
            all.extend(row.work.variants().iter().map(|&variant| Bench {
                work: row.work,
                variant,
                dtype,
                batch: batch(row),
                by_default: row.by_default && !row.work.is_gradient_of_pixels(variant),
            }));
        }
    }
    all
}

impl Work {
    fn variants(self) -> &'static [Variant] {
        match self {
            Self::Matmul { .. } => MATMUL,
            Self::Conv2d(c) if c.groups > 1 => DEPTHWISE,
            Self::Linear { .. }
            | Self::LinearTopMean { .. }
            | Self::Conv2d(_)
            | Self::ConvTranspose2d(_) => BILINEAR,
            Self::Attention { .. } | Self::LayerNorm { .. } | Self::BatchNorm(_) => OF_THREE,
            Self::AddLayerNorm { .. } => OF_SUM,
            // The gradient of a sum is what came.
            Self::ConvBnAct(_) | Self::Add(_) | Self::ActivatedAvgPool2d(_) => FORWARD,
            Self::AdamW { .. } => UPDATE,
            Self::AttentionPacked { .. }
            | Self::Softmax { .. }
            | Self::Relu(_)
            | Self::LeakyRelu(_)
            | Self::Tanh(_)
            | Self::Gelu { .. }
            | Self::Dropout { .. }
            | Self::MaxPool2d(_)
            | Self::AvgPool2d(_)
            | Self::GlobalAvgPool2d(_) => OF_ONE,
        }
    }

    /// Whether it is what only a GAN asks for, and waits long for.
    fn is_gradient_of_pixels(self, variant: Variant) -> bool {
        matches!(self, Self::Conv2d(c) if c.image[0] <= 3) && variant.gradients == [0]
    }

    /// What CUDA has kernels for.
    fn cuda_dtypes(self) -> &'static [DType] {
        match self {
            Self::Matmul { .. }
            | Self::Linear { .. }
            | Self::LinearTopMean { .. }
            | Self::Conv2d(_) => &[DType::F32, DType::BF16, DType::F16],
            _ => &[DType::F32],
        }
    }

    /// Whether the arithmetic is its floor, and not the memory.
    fn is_product(self) -> bool {
        matches!(
            self,
            Self::Matmul { .. }
                | Self::Linear { .. }
                | Self::LinearTopMean { .. }
                | Self::Attention { .. }
                | Self::AttentionPacked { .. }
                | Self::Conv2d(_)
                | Self::ConvBnAct(_)
                | Self::ConvTranspose2d(_)
        )
    }

    /// Whether the gradient is a function of the result's gradient alone.
    fn is_linear(self) -> bool {
        matches!(
            self,
            Self::Dropout { .. } | Self::AvgPool2d(_) | Self::GlobalAvgPool2d(_)
        )
    }

    fn input_shapes(self, batch: usize) -> Vec<Vec<usize>> {
        let image = |[c, h, w]: shapes::Image| vec![batch, c, h, w];
        let convolution = |c: Convolution| {
            let w = [c.outputs, c.image[0] / c.groups, c.kernel[0], c.kernel[1]];
            vec![image(c.image), w.to_vec()]
        };
        match self {
            Self::Matmul { m, k, n } if batch == 1 => vec![vec![m, k], vec![k, n]],
            Self::Matmul { m, k, n } => vec![vec![batch, m, k], vec![batch, k, n]],
            Self::Linear {
                rows,
                inputs,
                outputs,
            } => vec![vec![batch * rows, inputs], vec![outputs, inputs]],
            Self::LinearTopMean {
                tiles,
                inputs,
                outputs,
                ..
            } => vec![vec![batch, tiles, inputs], vec![outputs, inputs]],
            Self::Attention {
                heads,
                queries,
                keys,
                width,
            } => [queries, keys, keys]
                .map(|n| vec![batch, heads, n, width])
                .to_vec(),
            Self::AttentionPacked {
                heads,
                tokens,
                width,
            } => vec![vec![batch, tokens, 3 * heads * width]],
            Self::Conv2d(c) => convolution(c),
            Self::ConvBnAct(c) => {
                let mut shapes = convolution(c);
                shapes.push(vec![c.outputs]);
                shapes
            }
            Self::ConvTranspose2d(c) => {
                let w = vec![c.image[0], c.outputs, c.kernel[0], c.kernel[1]];
                vec![image(c.image), w]
            }
            Self::LayerNorm { rows, width } => {
                vec![vec![batch * rows, width], vec![width], vec![width]]
            }
            Self::AddLayerNorm { rows, width } => {
                let sum = [batch * rows, width];
                vec![sum.to_vec(), sum.to_vec(), vec![width], vec![width]]
            }
            Self::BatchNorm(i) | Self::ActivatedAvgPool2d(i) => {
                vec![image(i), vec![i[0]], vec![i[0]]]
            }
            Self::Add(i) => vec![image(i), image(i)],
            Self::Softmax { rows, width }
            | Self::Gelu { rows, width }
            | Self::Dropout { rows, width } => vec![vec![batch * rows, width]],
            Self::Relu(i)
            | Self::LeakyRelu(i)
            | Self::Tanh(i)
            | Self::MaxPool2d(i)
            | Self::AvgPool2d(i)
            | Self::GlobalAvgPool2d(i) => vec![image(i)],
            Self::AdamW { values } => vec![vec![values]; 2],
        }
    }

    /// Whether an input of this shape is an image, which lies channels-last.
    fn is_image(self, shape: &[usize]) -> bool {
        !matches!(self, Self::Attention { .. }) && shape.len() == 4
    }

    /// One call of the operator. The update and prepared weights have a state
    /// and are made by [`Bench::prepare`].
    fn forward(self, x: &[Tensor]) -> Result<Tensor> {
        match self {
            Self::Matmul { .. } => ops::matmul(&x[0], &x[1]),
            Self::Linear { .. } => ops::linear(&x[0], &x[1], None, Activation::None),
            Self::LinearTopMean { highest, .. } => {
                ops::linear_top_mean(&x[0], &x[1], None, highest)
            }
            Self::Attention { width, .. } => {
                let scale = (width as f64).sqrt().recip();
                ops::attention(&x[0], &x[1], &x[2], None, scale)
            }
            Self::AttentionPacked { heads, width, .. } => {
                let scale = (width as f64).sqrt().recip();
                ops::attention_packed(&[&x[0]], heads, None, scale)
            }
            Self::Conv2d(c) => ops::conv2d(&x[0], &x[1], None, c.geometry()),
            Self::ConvTranspose2d(c) => {
                let geometry = ConvTranspose2d {
                    stride: [c.stride; 2],
                    padding: c.padding,
                    ..ConvTranspose2d::default()
                };
                ops::conv_transpose2d(&x[0], &x[1], None, geometry)
            }
            Self::Softmax { .. } => ops::softmax(&x[0], -1),
            Self::LayerNorm { .. } => ops::layer_norm(&x[0], 1, Some(&x[1]), Some(&x[2]), EPS),
            Self::AddLayerNorm { .. } => {
                let [weight, bias] = [Some(&x[2]), Some(&x[3])];
                Ok(ops::add_layer_norm(&x[0], &x[1], 1, weight, bias, EPS)?.1)
            }
            Self::BatchNorm(_) => {
                Ok(ops::batch_norm_train(&x[0], Some(&x[1]), Some(&x[2]), EPS)?.output)
            }
            Self::Relu(_) => ops::relu(&x[0]),
            Self::LeakyRelu(_) => ops::leaky_relu(&x[0], LEAK),
            Self::Tanh(_) => ops::tanh(&x[0]),
            Self::Gelu { .. } => ops::gelu(&x[0]),
            Self::Dropout { .. } => ops::dropout(&x[0], DROPPED, Philox::new(0)),
            Self::Add(_) => ops::add(&x[0], &x[1]),
            Self::MaxPool2d(_) => ops::max_pool2d(&x[0], pool([3, 2, 1])),
            Self::AvgPool2d(_) => ops::avg_pool2d(&x[0], pool([2, 2, 0]), true),
            Self::ActivatedAvgPool2d(_) => {
                let (numbers, pool) = ([&x[1], &x[2]], pool([2, 2, 0]));
                ops::activated_avg_pool2d(&x[0], numbers, pool, x[0].dtype())
            }
            Self::GlobalAvgPool2d(_) => ops::adaptive_avg_pool2d(&x[0], [1, 1]),
            Self::ConvBnAct(_) | Self::AdamW { .. } => {
                Err(Error::op("bench", "internal: work with a state"))
            }
        }
    }
}

impl Convolution {
    fn geometry(self) -> Conv2d {
        Conv2d {
            stride: [self.stride; 2],
            padding: self.padding,
            groups: self.groups,
            ..Conv2d::default()
        }
    }
}

fn pool([kernel, stride, padding]: [usize; 3]) -> Pool {
    Pool {
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [padding; 2],
    }
}

/// Normal values.
fn normal(random: &mut Philox, shape: &[usize]) -> Result<Tensor> {
    let mut values = vec![0.0; shape.iter().product()];
    random.fill_normal(&mut values, 0.0, 1.0);
    Tensor::from_slice(&values, shape)
}

/// The benches of a CUDA device as JSON, for peers that do the same: by name, what
/// goes in and how.
pub fn described() -> String {
    let one = |bench: Bench| {
        let (group, work) = (bench.group(), bench.work);
        let geometry = match work {
            Work::Conv2d(c) | Work::ConvBnAct(c) | Work::ConvTranspose2d(c) => format!(
                r#", "stride": {}, "padding": {:?}, "groups": {}"#,
                c.stride, c.padding, c.groups
            ),
            Work::LinearTopMean { highest, .. } => format!(r#", "highest": {highest}"#),
            Work::AttentionPacked { heads, .. } => format!(r#", "heads": {heads}"#),
            _ => String::new(),
        };
        let floor = match bench.throughput() {
            Ok(Throughput::Flops(n)) => format!(r#", "flops": {n}"#),
            Ok(Throughput::Bytes(n)) => format!(r#", "bytes": {n}"#),
            Err(_) => String::new(),
        };
        format!(
            r#"{{"name": "{group}/{}", "op": "{}", "dtype": "{}", "inputs": {:?}, "gradients": {:?}{geometry}{floor}}}"#,
            bench.name(),
            work.op(),
            group.rsplit('/').next().unwrap_or_default(),
            work.input_shapes(bench.batch),
            bench.variant.gradients,
        )
    };
    let all: Vec<String> = on_cuda().into_iter().map(one).collect();
    format!("[\n{}\n]\n", all.join(",\n"))
}

impl Bench {
    /// `op/variant/dtype`.
    pub fn group(&self) -> String {
        let dtype = match self.dtype {
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            _ => "f32",
        };
        format!("{}/{}/{dtype}", self.work.op(), self.variant.name)
    }

    /// `shape`.
    pub fn name(&self) -> String {
        self.work.name(self.batch)
    }

    /// What the operator declares: FLOPs where arithmetic is its floor, bytes
    /// otherwise.
    ///
    /// # Errors
    /// It declares nothing.
    pub fn throughput(&self) -> Result<Throughput> {
        let operand = |shape: &[usize]| Operand::new(shape, self.dtype);
        let inputs = self.work.input_shapes(self.batch);
        let output = operand(&self.output_shape())?;
        let mut inputs: Vec<Operand> = inputs.iter().map(|s| operand(s)).collect::<Result<_>>()?;
        let cost = |op, inputs: &[Operand], outputs: &[Operand]| -> Result<Cost> {
            let cost = ops::cost(op, inputs, outputs);
            cost.ok_or_else(|| Error::op("bench", format!("{op} declares no cost")))
        };
        let op = match self.work {
            Work::AdamW { .. } => "step",
            // The same operator, read where a linear layer left it.
            Work::AttentionPacked { .. } => "attention",
            work => work.op(),
        };
        if self.work.is_product() {
            // Each gradient of a product is a product of the same size, and
            // attention's backward pass has four for its two.
            let flops = cost(op, &inputs, &[output])?.flops;
            let directions = match (self.work, self.variant.gradients) {
                (Work::Attention { .. } | Work::AttentionPacked { .. }, [_, ..]) | (_, [_, _]) => 2,
                _ => 1,
            };
            return Ok(Throughput::Flops(directions * flops));
        }
        let bytes = match (self.work, self.variant.gradients) {
            // Parameter, gradient and two moments in, all but the gradient out.
            (Work::AdamW { .. }, _) => {
                let value = inputs[0];
                cost(op, &[value; 4], &[value; 3])?.bytes
            }
            (_, []) => cost(op, &inputs, &[output])?.bytes,
            (work, wanted) => {
                let gradients: Vec<Operand> = wanted.iter().map(|&i| inputs[i]).collect();
                if work.is_linear() {
                    inputs.clear();
                }
                inputs.push(output);
                cost(op, &inputs, &gradients)?.bytes
            }
        };
        Ok(Throughput::Bytes(bytes))
    }

    fn output_shape(&self) -> Vec<usize> {
        let batch = self.batch;
        let shapes = self.work.input_shapes(batch);
        let halved = |n: usize| n.div_ceil(2);
        match self.work {
            Work::Matmul { m, n, .. } if batch == 1 => vec![m, n],
            Work::Matmul { m, n, .. } => vec![batch, m, n],
            Work::Linear { rows, outputs, .. } => vec![batch * rows, outputs],
            Work::LinearTopMean { outputs, .. } => vec![batch, outputs],
            Work::Conv2d(c) | Work::ConvBnAct(c) => {
                let [p, q] = c.outputs_size();
                vec![batch, c.outputs, p, q]
            }
            Work::ConvTranspose2d(c) => {
                let [p, q] = c.transposed_size();
                vec![batch, c.outputs, p, q]
            }
            Work::MaxPool2d([c, h, w]) => vec![batch, c, halved(h), halved(w)],
            Work::AttentionPacked {
                heads,
                tokens,
                width,
            } => vec![batch, tokens, heads * width],
            Work::AvgPool2d([c, h, w]) | Work::ActivatedAvgPool2d([c, h, w]) => {
                vec![batch, c, h / 2, w / 2]
            }
            Work::GlobalAvgPool2d([c, ..]) => vec![batch, c, 1, 1],
            _ => shapes[0].clone(),
        }
    }
}

/// What a bench is made from: inputs, and the gradient of the result.
struct Given {
    inputs: Vec<Tensor>,
    gradient: Tensor,
}

impl Bench {
    fn given(&self, seed: u64) -> Result<Given> {
        let mut random = Philox::new(seed);
        let mut fill = |shape: &[usize]| ops::cast(&normal(&mut random, shape)?, self.dtype);
        let shapes = self.work.input_shapes(self.batch);
        Ok(Given {
            inputs: shapes.iter().map(|s| fill(s)).collect::<Result<_>>()?,
            gradient: fill(&self.output_shape())?,
        })
    }

    /// On the device, images channels-last, weights as they are kept.
    fn place(&self, t: &Tensor, image: bool, device: &Device) -> Result<Tensor> {
        match image && self.work.is_image(t.shape()) {
            true => t.to_format(Format::ChannelsLast)?.to(device),
            false => t.to(device),
        }
    }

    /// The work on inputs of this seed.
    ///
    /// # Errors
    /// The device lacks it, or memory.
    pub fn prepare(&self, device: &Device, seed: u64) -> Result<Run> {
        self.run(&self.given(seed)?, device)
    }

    fn run(&self, given: &Given, device: &Device) -> Result<Run> {
        // The second input of a sum is an image too; that of a convolution is not.
        let is_sum = matches!(self.work, Work::Add(_));
        let mut inputs: Vec<Tensor> = (given.inputs.iter().enumerate())
            .map(|(i, t)| self.place(t, i == 0 || is_sum, device))
            .collect::<Result<_>>()?;
        let work = self.work;
        if let Work::ConvBnAct(c) = work {
            let (x, w, bias) = (inputs[0].clone(), &inputs[1], Some(&inputs[2]));
            let conv = PreparedConv::new(w, bias, Activation::Relu, c.geometry())?;
            return Ok(Box::new(move || Ok(vec![conv.apply(&x, None)?])));
        }
        if let Work::AdamW { .. } = work {
            let param = Param::new("weight", inputs.swap_remove(0));
            let gradient = [inputs.pop()];
            let mut optimizer =
                Optimizer::new(AdamW::default(), vec![("weight".into(), param.clone())])?;
            return Ok(Box::new(move || {
                optimizer.step(&gradient)?;
                Ok(vec![param.value()])
            }));
        }
        let wanted = self.variant.gradients;
        if wanted.is_empty() {
            return Ok(Box::new(move || Ok(vec![work.forward(&inputs)?])));
        }
        for &i in wanted {
            inputs[i] = inputs[i].variable();
        }
        let y = work.forward(&inputs)?;
        let gy = self.place(&given.gradient, true, device)?;
        Ok(Box::new(move || {
            let variables: Vec<&Tensor> = wanted.iter().map(|&i| &inputs[i]).collect();
            let gradients = autograd::grad(&[&y], Some(&[&gy]), &variables, false)?;
            let missing = || Error::op("bench", "an input got no gradient");
            (gradients.into_iter())
                .map(|g| g.ok_or_else(missing))
                .collect()
        }))
    }

    /// Compares what is to be timed with plain arithmetic.
    ///
    /// Of a product the definition gives some outputs; a gradient that is zero
    /// but at those then gives the gradients of both inputs. Other operators are
    /// computed whole, or some of their outputs, and their gradients by a central
    /// difference in f64 in a random direction.
    ///
    /// # Errors
    /// The device lacks the work, or its result is wrong.
    pub fn check(&self, device: &Device) -> Result<()> {
        let checked = match Plain::of(self.work, self.batch) {
            Plain::Products(taps) => self.check_product(&*taps, device)?,
            Plain::Whole(whole) => self.check_whole(&*whole, device)?,
            Plain::Each(each) => self.check_each(&*each, device)?,
        };
        checked.map_err(|problem| {
            let bench = format!("{}/{}", self.group(), self.name());
            Error::op("bench", format!("{bench}: {problem}"))
        })
    }

    /// Largest error in units of the largest value: rounding of the operands is
    /// in the reference, that of the result and, in f32, of the sum is not.
    fn tolerance(&self) -> f64 {
        match self.dtype {
            DType::BF16 => 1.0 / 128.0,
            DType::F16 => 1.0 / 1024.0,
            _ => 2e-5,
        }
    }

    fn check_product(&self, taps: &Taps, device: &Device) -> Result<Result<(), String>> {
        let mut given = self.given(0)?;
        let operands: Vec<Vec<f32>> = (given.inputs.iter())
            .map(|t| t.to_f32_vec())
            .collect::<Result<_>>()?;
        let value = |input: usize, i: usize| f64::from(operands[input][i]);
        let spots = spread(given.gradient.elements());
        if self.variant.gradients.is_empty() {
            let y = first(&mut self.run(&given, device)?)?.to_f32_vec()?;
            let found: Vec<f64> = spots.iter().map(|&o| f64::from(y[o])).collect();
            let expected = spots.iter().map(|&o| {
                let mut sum = 0.0;
                taps(o, &mut |a, b| sum += value(0, a) * value(1, b));
                match self.work {
                    Work::ConvBnAct(c) => {
                        let [p, q] = c.outputs_size();
                        (sum + value(2, o / (p * q) % c.outputs)).max(0.0)
                    }
                    _ => sum,
                }
            });
            return Ok(close(
                &found,
                &expected.collect::<Vec<_>>(),
                self.tolerance(),
            ));
        }
        let dense = given.gradient.to_f32_vec()?;
        let mut sparse = vec![0.0; dense.len()];
        for &o in &spots {
            sparse[o] = dense[o];
        }
        let sparse = Tensor::from_slice(&sparse, &self.output_shape())?;
        given.gradient = ops::cast(&sparse, self.dtype)?;
        let gradients = self.run(&given, device)?()?;
        for (gradient, &wanted) in gradients.iter().zip(self.variant.gradients) {
            let mut expected: HashMap<usize, f64> = HashMap::new();
            for &o in &spots {
                taps(o, &mut |a, b| {
                    let (at, other) = if wanted == 0 {
                        (a, value(1, b))
                    } else {
                        (b, value(0, a))
                    };
                    *expected.entry(at).or_default() += f64::from(dense[o]) * other;
                });
            }
            let gradient = gradient.to_f32_vec()?;
            let others = gradient.iter().filter(|v| **v != 0.0).count();
            if others > expected.len() {
                return Ok(Err(format!(
                    "{others} values of the gradient are not 0, of at most {}",
                    expected.len()
                )));
            }
            let (at, expected): (Vec<usize>, Vec<f64>) = expected.into_iter().unzip();
            let found: Vec<f64> = at.iter().map(|&i| f64::from(gradient[i])).collect();
            let close = close(&found, &expected, self.tolerance());
            if close.is_err() {
                return Ok(close);
            }
        }
        Ok(Ok(()))
    }

    /// Some outputs, and of a gradient that is zero but at those what
    /// [`Self::check_whole`] looks at.
    fn check_each(&self, each: &Each, device: &Device) -> Result<Result<(), String>> {
        let mut given = self.given(0)?;
        let spots = spread(given.gradient.elements());
        let host = |t: &Tensor| t.to_f64_vec();
        if self.variant.gradients.is_empty() {
            let inputs = given.inputs.iter().map(host).collect::<Result<Vec<_>>>()?;
            let y = host(&first(&mut self.run(&given, device)?)?)?;
            let found: Vec<f64> = spots.iter().map(|&o| y[o]).collect();
            let expected: Vec<f64> = spots.iter().map(|&o| each(&inputs, o)).collect();
            return Ok(close(&found, &expected, self.tolerance()));
        }
        let dense = given.gradient.to_f32_vec()?;
        let mut sparse = vec![0.0; dense.len()];
        spots.iter().for_each(|&o| sparse[o] = dense[o]);
        let sparse = Tensor::from_slice(&sparse, &self.output_shape())?;
        given.gradient = ops::cast(&sparse, self.dtype)?;
        let outputs = given.gradient.elements();
        let whole = |inputs: &[Vec<f64>]| {
            let mut y = vec![0.0; outputs];
            spots.iter().for_each(|&o| y[o] = each(inputs, o));
            y
        };
        self.check_derivative(&given, &whole, device)
    }

    fn check_whole(&self, plain: &Whole, device: &Device) -> Result<Result<(), String>> {
        let given = self.given(0)?;
        if self.variant.gradients.is_empty() {
            let inputs = given.inputs.iter().map(Tensor::to_f64_vec);
            let inputs = inputs.collect::<Result<Vec<_>>>()?;
            let y = first(&mut self.run(&given, device)?)?.to_f64_vec()?;
            return Ok(close(&y, &plain(&inputs), self.tolerance()));
        }
        self.check_derivative(&given, plain, device)
    }

    /// Gradients against a central difference of `plain` in a random direction.
    fn check_derivative(
        &self,
        given: &Given,
        plain: &dyn Fn(&[Vec<f64>]) -> Vec<f64>,
        device: &Device,
    ) -> Result<Result<(), String>> {
        const STEP: f64 = 1e-7;
        let host = |ts: &[Tensor]| -> Result<Vec<Vec<f64>>> {
            ts.iter().map(Tensor::to_f64_vec).collect()
        };
        let inputs = host(&given.inputs)?;
        let found = host(&self.run(given, device)?()?)?;
        let wanted = self.variant.gradients;
        let mut random = Philox::new(1);
        let directions: Vec<Vec<f64>> = (wanted.iter())
            .map(|&i| normal(&mut random, given.inputs[i].shape())?.to_f64_vec())
            .collect::<Result<_>>()?;
        let gradient = given.gradient.to_f64_vec()?;
        let moved = |step: f64| -> f64 {
            let mut inputs = inputs.clone();
            for (&i, direction) in wanted.iter().zip(&directions) {
                for (x, d) in inputs[i].iter_mut().zip(direction) {
                    *x += step * d;
                }
            }
            let y = plain(&inputs);
            y.iter().zip(&gradient).map(|(y, g)| y * g).sum()
        };
        let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        let (mut along, mut squares) = (0.0, 0.0);
        for (found, direction) in found.iter().zip(&directions) {
            for (g, d) in found.iter().zip(direction) {
                along += g * d;
                squares += (g * d).powi(2);
            }
        }
        let size = squares.sqrt();
        // Room for the few values that lie on a kink, of a ReLU or between two
        // maxima; and a comparison that NaN fails.
        match (along - expected).abs() <= 5e-3 * size {
            true => Ok(Ok(())),
            false => Ok(Err(format!(
                "the derivative in a direction is {along}, not {expected} (terms of size {size})"
            ))),
        }
    }
}

fn first(run: &mut Run) -> Result<Tensor> {
    let missing = || Error::op("bench", "no result");
    run()?.into_iter().next().ok_or_else(missing)
}

/// Some indices below `n`, spread over all of it.
fn spread(n: usize) -> Vec<usize> {
    const SPOTS: usize = 64;
    let mut spots: Vec<usize> = (0..SPOTS).map(|i| i * (n - 1) / (SPOTS - 1)).collect();
    spots.dedup();
    spots
}

fn close(found: &[f64], expected: &[f64], tolerance: f64) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{} values, not {}", found.len(), expected.len()));
    }
    let size = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        if error.is_nan() || error > tolerance * size {
            return Err(format!("value {i} is {found}, not {expected}"));
        }
    }
    Ok(())
}

/// Whether the arguments of a run name benches: criterion takes a filter as a
/// word of its own, which its options with a value must not be mistaken for.
pub fn has_filter(arguments: impl IntoIterator<Item = String>) -> bool {
    const WITH_VALUE: &[&str] = &[
        "-b",
        "-c",
        "-s",
        "--baseline",
        "--baseline-lenient",
        "--color",
        "--colour",
        "--confidence-level",
        "--format",
        "--load-baseline",
        "--measurement-time",
        "--noise-threshold",
        "--nresamples",
        "--output-format",
        "--plotting-backend",
        "--profile-time",
        "--sample-size",
        "--save-baseline",
        "--significance-level",
        "--warm-up-time",
    ];
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if WITH_VALUE.contains(&argument.as_str()) {
            arguments.next();
        } else if !argument.starts_with('-') {
            return true;
        }
    }
    false
}
