//! The same work by its definition, in f64 and one value after the other.

use eosin::random::Philox;

use super::shapes::{Convolution, Image, Work};
use super::{DROPPED, EPS, LEAK};

/// How a batch of some work is computed.
pub enum Plain {
    /// Each output is a sum of products of two inputs: of an element of the first
    /// and one of the second, which `visit` is given for output `o`.
    Products(Box<Taps>),
    /// All outputs from all inputs.
    Whole(Box<Whole>),
    /// One output from all inputs.
    Each(Box<Each>),
}

pub type Taps = dyn Fn(usize, &mut dyn FnMut(usize, usize));
pub type Whole = dyn Fn(&[Vec<f64>]) -> Vec<f64>;
pub type Each = dyn Fn(&[Vec<f64>], usize) -> f64;

impl Plain {
    pub fn of(work: Work, batch: usize) -> Self {
        match work {
            Work::Matmul { m, k, n } => Self::Products(Box::new(move |o, visit| {
                let (matrix, i, j) = (o / (m * n), o / n % m, o % n);
                for at in 0..k {
                    visit((matrix * m + i) * k + at, (matrix * k + at) * n + j);
                }
            })),
            Work::Linear {
                inputs, outputs, ..
            } => Self::Products(Box::new(move |o, visit| {
                for at in 0..inputs {
                    visit(o / outputs * inputs + at, o % outputs * inputs + at);
                }
            })),
            Work::LinearTopMean {
                tiles,
                inputs,
                outputs,
                highest,
            } => Self::Each(Box::new(move |x, o| {
                let (bag, gene) = (o / outputs, o % outputs);
                let w = &x[1][gene * inputs..][..inputs];
                let bag = &x[0][bag * tiles * inputs..][..tiles * inputs];
                let score = |x: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
                let mut scores: Vec<f64> = bag.chunks(inputs).map(score).collect();
                scores.sort_by(|a, b| b.total_cmp(a));
                mean(&scores[..highest])
            })),
            Work::Conv2d(c) | Work::ConvBnAct(c) => {
                Self::Products(Box::new(move |o, visit| convolution(&c, o, visit)))
            }
            Work::ConvTranspose2d(c) => {
                Self::Products(Box::new(move |o, visit| transposed(&c, o, visit)))
            }
            Work::Attention {
                queries,
                keys,
                width,
                ..
            } => Self::Whole(Box::new(move |x| attention(x, queries, keys, width))),
            Work::AttentionPacked {
                heads,
                tokens,
                width,
            } => Self::Whole(Box::new(move |x| packed(&x[0], [heads, tokens, width]))),
            Work::Softmax { width, .. } => Self::rows(width, softmax),
            Work::LayerNorm { width, .. } => Self::Whole(Box::new(move |x| layer_norm(x, width))),
            Work::AddLayerNorm { width, .. } => Self::Whole(Box::new(move |x| {
                let sum = x[0].iter().zip(&x[1]).map(|(a, b)| a + b).collect();
                layer_norm(&[sum, x[2].clone(), x[3].clone()], width)
            })),
            Work::BatchNorm(image) => Self::Whole(Box::new(move |x| batch_norm(x, batch, image))),
            Work::Relu(_) => Self::each(|v| v.max(0.0)),
            Work::LeakyRelu(_) => Self::each(|v| if v > 0.0 { v } else { LEAK * v }),
            Work::Tanh(_) => Self::each(f64::tanh),
            Work::Gelu { .. } => {
                Self::each(|v| 0.5 * v * libm::erfc(-v * std::f64::consts::FRAC_1_SQRT_2))
            }
            Work::Dropout { .. } => Self::Whole(Box::new(|x| dropout(&x[0]))),
            Work::Add(_) => Self::Whole(Box::new(|x| {
                x[0].iter().zip(&x[1]).map(|(a, b)| a + b).collect()
            })),
            Work::MaxPool2d(image) => Self::pool(batch, image, [3, 2, 1], |window| {
                window.iter().copied().fold(f64::NEG_INFINITY, f64::max)
            }),
            Work::AvgPool2d(image) => Self::pool(batch, image, [2, 2, 0], mean),
            Work::ActivatedAvgPool2d(image) => Self::Whole(Box::new(move |x| {
                let [c, h, w] = image;
                let pixels = x[0].iter().enumerate().map(|(i, v)| {
                    let channel = i / (h * w) % c;
                    (v * x[1][channel] + x[2][channel]).max(0.0)
                });
                pooled(&pixels.collect::<Vec<_>>(), batch, image, [2, 2, 0], mean)
            })),
            Work::GlobalAvgPool2d([_, h, w]) => {
                Self::Whole(Box::new(move |x| x[0].chunks(h * w).map(mean).collect()))
            }
            Work::AdamW { .. } => Self::Whole(Box::new(|x| first_adamw_step(&x[0], &x[1]))),
        }
    }

    fn each(f: fn(f64) -> f64) -> Self {
        Self::Whole(Box::new(move |x| x[0].iter().map(|v| f(*v)).collect()))
    }

    fn rows(width: usize, f: fn(&[f64]) -> Vec<f64>) -> Self {
        Self::Whole(Box::new(move |x| x[0].chunks(width).flat_map(f).collect()))
    }

    /// Over square windows of a size, stride and padding.
    fn pool(batch: usize, image: Image, windows: [usize; 3], f: fn(&[f64]) -> f64) -> Self {
        Self::Whole(Box::new(move |x| pooled(&x[0], batch, image, windows, f)))
    }
}

fn pooled(
    x: &[f64],
    batch: usize,
    [c, h, w]: Image,
    [kernel, stride, padding]: [usize; 3],
    f: fn(&[f64]) -> f64,
) -> Vec<f64> {
    let along = move |n: usize| (n + 2 * padding - kernel) / stride + 1;
    let range = move |o: usize, n: usize| {
        (o * stride).saturating_sub(padding)..(o * stride + kernel - padding).min(n)
    };
    let mut y = Vec::with_capacity(batch * c * along(h) * along(w));
    let mut window = Vec::new();
    for plane in x.chunks(h * w) {
        for p in 0..along(h) {
            for q in 0..along(w) {
                window.clear();
                for row in range(p, h) {
                    let columns = range(q, w);
                    window
                        .extend_from_slice(&plane[row * w + columns.start..row * w + columns.end]);
                }
                y.push(f(&window));
            }
        }
    }
    y
}

/// Position `o` of an (N, K, P, Q) tensor.
fn position(o: usize, k: usize, [p, q]: [usize; 2]) -> [usize; 4] {
    [o / (k * p * q), o / (p * q) % k, o / q % p, o % q]
}

fn convolution(c: &Convolution, o: usize, visit: &mut dyn FnMut(usize, usize)) {
    let [channels, h, w] = c.image;
    let [n, k, p, q] = position(o, c.outputs, c.outputs_size());
    let inner = channels / c.groups;
    let first = k / (c.outputs / c.groups) * inner;
    for i in 0..inner {
        for r in 0..c.kernel[0] {
            for s in 0..c.kernel[1] {
                let row = (p * c.stride + r).checked_sub(c.padding[0]);
                let column = (q * c.stride + s).checked_sub(c.padding[1]);
                if let (Some(row), Some(column)) = (row, column)
                    && row < h
                    && column < w
                {
                    visit(
                        ((n * channels + first + i) * h + row) * w + column,
                        ((k * inner + i) * c.kernel[0] + r) * c.kernel[1] + s,
                    );
                }
            }
        }
    }
}

/// Output (n, k, p, q) is reached from input (i, j) by tap (r, s) where
/// p = i stride + r - padding.
fn transposed(c: &Convolution, o: usize, visit: &mut dyn FnMut(usize, usize)) {
    let [channels, h, w] = c.image;
    let [n, k, p, q] = position(o, c.outputs, c.transposed_size());
    let from = |to: usize, tap: usize, axis: usize| {
        let shifted = (to + c.padding[axis]).checked_sub(tap)?;
        (shifted % c.stride == 0).then_some(shifted / c.stride)
    };
    for r in 0..c.kernel[0] {
        for s in 0..c.kernel[1] {
            let (Some(row), Some(column)) = (from(p, r, 0), from(q, s, 1)) else {
                continue;
            };
            if row >= h || column >= w {
                continue;
            }
            for i in 0..channels {
                visit(
                    ((n * channels + i) * h + row) * w + column,
                    ((i * c.outputs + k) * c.kernel[0] + r) * c.kernel[1] + s,
                );
            }
        }
    }
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = row.iter().map(|v| (v - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|v| v / sum).collect()
}

/// q (.., queries, width), k and v (.., keys, width).
fn attention(x: &[Vec<f64>], queries: usize, keys: usize, width: usize) -> Vec<f64> {
    let scale = (width as f64).sqrt().recip();
    let mut y = Vec::with_capacity(x[0].len());
    for (head, q) in x[0].chunks(queries * width).enumerate() {
        let of = |t: &Vec<f64>| t[head * keys * width..][..keys * width].to_vec();
        let (k, v) = (of(&x[1]), of(&x[2]));
        for q in q.chunks(width) {
            let score = |k: &[f64]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * scale;
            let weights = softmax(&k.chunks(width).map(score).collect::<Vec<_>>());
            for column in 0..width {
                let sum = weights.iter().zip(v[column..].iter().step_by(width));
                y.push(sum.map(|(a, v)| a * v).sum());
            }
        }
    }
    y
}

/// The same of queries, keys and values (batch, tokens, 3, heads, width) -> (batch, tokens,
/// heads, width).
fn packed(qkv: &[f64], [heads, tokens, width]: [usize; 3]) -> Vec<f64> {
    let each = tokens * heads * width;
    let mut all = vec![0.0; qkv.len() / 3];
    for (bag, y) in qkv.chunks(3 * each).zip(all.chunks_mut(each)) {
        for head in 0..heads {
            let of = |which: usize| -> Vec<f64> {
                let lines = bag.chunks(heads * width).skip(which).step_by(3);
                lines
                    .flat_map(|l| &l[head * width..][..width])
                    .copied()
                    .collect()
            };
            let mine = attention(&[of(0), of(1), of(2)], tokens, tokens, width);
            for (line, mine) in y.chunks_mut(heads * width).zip(mine.chunks(width)) {
                line[head * width..][..width].copy_from_slice(mine);
            }
        }
    }
    all
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean, and the reciprocal of the standard deviation.
fn moments(values: &[f64]) -> (f64, f64) {
    let centre = mean(values);
    let var = mean(
        &values
            .iter()
            .map(|v| (v - centre).powi(2))
            .collect::<Vec<_>>(),
    );
    (centre, (var + EPS).sqrt().recip())
}

fn layer_norm(x: &[Vec<f64>], width: usize) -> Vec<f64> {
    let mut y = Vec::with_capacity(x[0].len());
    for row in x[0].chunks(width) {
        let (mean, rstd) = moments(row);
        let affine = row.iter().zip(&x[1]).zip(&x[2]);
        y.extend(affine.map(|((v, w), b)| (v - mean) * rstd * w + b));
    }
    y
}

fn batch_norm(x: &[Vec<f64>], batch: usize, [c, h, w]: Image) -> Vec<f64> {
    let plane = |n: usize, channel: usize| (n * c + channel) * h * w;
    let mut y = vec![0.0; x[0].len()];
    for channel in 0..c {
        let planes = (0..batch).flat_map(|n| &x[0][plane(n, channel)..][..h * w]);
        let (mean, rstd) = moments(&planes.copied().collect::<Vec<_>>());
        for n in 0..batch {
            for i in plane(n, channel)..plane(n, channel) + h * w {
                y[i] = (x[0][i] - mean) * rstd * x[1][channel] + x[2][channel];
            }
        }
    }
    y
}

fn dropout(x: &[f64]) -> Vec<f64> {
    let stream = Philox::new(0);
    let mut y = Vec::with_capacity(x.len());
    for (block, values) in x.chunks(4).enumerate() {
        let words = stream.block(block as u64);
        y.extend(values.iter().zip(words).map(|(v, word)| {
            match f64::from(Philox::unit(word)) >= DROPPED {
                true => v / (1.0 - DROPPED),
                false => 0.0,
            }
        }));
    }
    y
}

/// lr g / (|g| + eps), after the decay.
fn first_adamw_step(values: &[f64], gradient: &[f64]) -> Vec<f64> {
    let rule = eosin::optim::AdamW::default();
    (values.iter().zip(gradient))
        .map(|(p, g)| p * (1.0 - rule.lr * rule.weight_decay) - rule.lr * g / (g.abs() + rule.eps))
        .collect()
}
