//! Single operators at the shapes of the models.

use criterion::{Criterion, Throughput};
use eosin::nn::{ConvGeometry, Param};
use eosin::optim::{AdamW, Optimizer};
use eosin::random::Philox;
use eosin::shape::Format;
use eosin::{Result, Tensor, ops};

use crate::{assert_close, bench, normal};

fn host(x: &Tensor) -> Vec<f64> {
    x.to_f64_vec().expect("floats")
}

/// Some indices below `n`, spread over all of it.
fn spread(n: usize) -> impl Iterator<Item = usize> {
    (0..64).map(move |i| i * (n - 1) / 63)
}

pub fn matmul(c: &mut Criterion) {
    const N: usize = 1024;
    let mut group = c.benchmark_group("matmul/nn/f32");
    group.throughput(Throughput::Elements(2 * (N * N * N) as u64));
    bench(&mut group, "1024x1024x1024", || {
        let mut random = Philox::new(0);
        let a = normal(&mut random, &[N, N], 1.0);
        let b = normal(&mut random, &[N, N], 1.0);
        let y = host(&ops::matmul(&a, &b).expect("a product"));
        let (ah, bh) = (host(&a), host(&b));
        let dot = |at: usize| {
            (0..N)
                .map(|k| ah[at / N * N + k] * bh[k * N + at % N])
                .sum()
        };
        let some: Vec<f64> = spread(N * N).map(|i| y[i]).collect();
        let plain: Vec<f64> = spread(N * N).map(dot).collect();
        assert_close("matmul", &some, &plain, 1e-5);
        move || ops::matmul(&a, &b)
    });
    group.finish();
}

/// A convolution of ResNet-50.
struct Convolution {
    name: &'static str,
    image: [usize; 4],
    outputs: usize,
    kernel: usize,
    stride: usize,
}

const CONVOLUTIONS: [Convolution; 3] = [
    Convolution {
        name: "16x3x224x224_k64_7x7_s2",
        image: [16, 3, 224, 224],
        outputs: 64,
        kernel: 7,
        stride: 2,
    },
    Convolution {
        name: "16x64x56x56_k64_3x3",
        image: [16, 64, 56, 56],
        outputs: 64,
        kernel: 3,
        stride: 1,
    },
    Convolution {
        name: "16x1024x14x14_k256_1x1",
        image: [16, 1024, 14, 14],
        outputs: 256,
        kernel: 1,
        stride: 1,
    },
];

impl Convolution {
    fn geometry(&self) -> ConvGeometry {
        ConvGeometry {
            stride: [self.stride; 2],
            padding: [self.kernel / 2; 2],
            ..ConvGeometry::default()
        }
    }

    /// Height and width of the result.
    fn output(&self) -> [usize; 2] {
        let [_, _, height, width] = self.image;
        let along = |n| (n + 2 * (self.kernel / 2) - self.kernel) / self.stride + 1;
        [along(height), along(width)]
    }

    fn products(&self) -> usize {
        let [n, channels, ..] = self.image;
        let [p, q] = self.output();
        n * p * q * self.outputs * channels * self.kernel * self.kernel
    }

    fn run(&self) -> impl FnMut() -> Result<Tensor> + use<> {
        let mut random = Philox::new(0);
        let x = normal(&mut random, &self.image, 1.0);
        let weight = [self.outputs, self.image[1], self.kernel, self.kernel];
        let w = normal(&mut random, &weight, 0.1);
        let (xh, wh) = (host(&x), host(&w));
        let x = x.to_format(Format::ChannelsLast).expect("images are 4-D");
        let geometry = self.geometry();
        let forward = move || ops::conv2d(&x, &w, None, geometry);
        let y = host(&forward().expect("a convolution"));
        let some: Vec<f64> = spread(y.len()).map(|i| y[i]).collect();
        let plain: Vec<f64> = spread(y.len()).map(|i| self.plain(&xh, &wh, i)).collect();
        assert_close(self.name, &some, &plain, 1e-5);
        forward
    }

    /// Element `at` of the result, by the definition.
    fn plain(&self, x: &[f64], w: &[f64], at: usize) -> f64 {
        let [_, channels, height, width] = self.image;
        let (kernel, padding) = (self.kernel, self.kernel / 2);
        let [p, q] = self.output();
        let (image, k) = (at / (p * q * self.outputs), at / (p * q) % self.outputs);
        let (i, j) = (at / q % p, at % q);
        let mut sum = 0.0;
        for c in 0..channels {
            for r in 0..kernel {
                for s in 0..kernel {
                    let (row, column) = (i * self.stride + r, j * self.stride + s);
                    let inside = (padding..height + padding).contains(&row)
                        && (padding..width + padding).contains(&column);
                    if inside {
                        let (row, column) = (row - padding, column - padding);
                        sum += x[((image * channels + c) * height + row) * width + column]
                            * w[((k * channels + c) * kernel + r) * kernel + s];
                    }
                }
            }
        }
        sum
    }
}

pub fn conv2d(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv2d/forward/f32");
    for shape in &CONVOLUTIONS {
        group.throughput(Throughput::Elements(2 * shape.products() as u64));
        bench(&mut group, shape.name, || shape.run());
    }
    group.finish();
}

pub fn layer_norm(c: &mut Criterion) {
    const ROWS: usize = 3200;
    const WIDTH: usize = 384;
    const EPS: f64 = 1e-5;
    let mut group = c.benchmark_group("layer_norm/forward/f32");
    group.throughput(Throughput::Elements((ROWS * WIDTH) as u64));
    bench(&mut group, "3200x384", || {
        let mut random = Philox::new(0);
        let x = normal(&mut random, &[ROWS, WIDTH], 2.0);
        let w = normal(&mut random, &[WIDTH], 1.0);
        let b = normal(&mut random, &[WIDTH], 1.0);
        let (wh, bh) = (host(&w), host(&b));
        let plain: Vec<f64> = (host(&x).chunks(WIDTH))
            .flat_map(|row| {
                let mean = row.iter().sum::<f64>() / WIDTH as f64;
                let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / WIDTH as f64;
                let scaled = row.iter().zip(&wh).zip(&bh);
                scaled
                    .map(|((v, w), b)| (v - mean) / (var + EPS).sqrt() * w + b)
                    .collect::<Vec<_>>()
            })
            .collect();
        let forward = move || ops::layer_norm(&x, 1, Some(&w), Some(&b), EPS);
        assert_close("layer_norm", &host(&forward().expect("rows")), &plain, 1e-5);
        forward
    });
    group.finish();
}

pub fn softmax(c: &mut Criterion) {
    const ROWS: usize = 1024;
    const WIDTH: usize = 196;
    let mut group = c.benchmark_group("softmax/forward/f32");
    group.throughput(Throughput::Elements((ROWS * WIDTH) as u64));
    bench(&mut group, "1024x196", || {
        let x = normal(&mut Philox::new(0), &[ROWS, WIDTH], 3.0);
        let plain: Vec<f64> = (host(&x).chunks(WIDTH))
            .flat_map(|row| {
                let sum: f64 = row.iter().map(|v| v.exp()).sum();
                row.iter().map(move |v| v.exp() / sum).collect::<Vec<_>>()
            })
            .collect();
        let forward = move || ops::softmax(&x, -1);
        assert_close("softmax", &host(&forward().expect("rows")), &plain, 1e-5);
        forward
    });
    group.finish();
}

/// One parameter of 6.4 million values.
pub fn adamw(c: &mut Criterion) {
    const VALUES: usize = 6_400_000;
    let mut group = c.benchmark_group("adamw/step/f32");
    group.throughput(Throughput::Elements(VALUES as u64));
    bench(&mut group, "6.4M", || {
        let rule = AdamW::default();
        let mut random = Philox::new(0);
        let start = normal(&mut random, &[VALUES], 1.0);
        let gradient = [Some(normal(&mut random, &[VALUES], 1.0))];
        // Adam's first step goes lr g / (|g| + eps).
        let plain: Vec<f64> = (host(&start)
            .iter()
            .zip(gradient.iter().flatten().flat_map(host)))
        .map(|(p, g)| p * (1.0 - rule.lr * rule.weight_decay) - rule.lr * g / (g.abs() + rule.eps))
        .collect();
        let param = Param::new("weight", start);
        let mut optimizer =
            Optimizer::new(rule, vec![("weight".into(), param.clone())]).expect("an optimiser");
        optimizer.step(&gradient).expect("a step");
        assert_close("adamw", &host(&param.value()), &plain, 1e-6);
        move || optimizer.step(&gradient)
    });
    group.finish();
}
