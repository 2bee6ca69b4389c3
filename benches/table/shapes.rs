//! The shapes at which operators are benched: those of the four models.
//!
//! A row is for one sample; its two batches are those of the CPU and of CUDA.

/// Channels, height and width.
pub type Image = [usize; 3];

/// A convolution of an image.
#[derive(Clone, Copy, Debug)]
pub struct Convolution {
    pub image: Image,
    pub outputs: usize,
    pub kernel: [usize; 2],
    pub stride: usize,
    pub padding: [usize; 2],
    pub groups: usize,
}

/// What is computed for one sample.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// (m, k) x (k, n).
    Matmul {
        m: usize,
        k: usize,
        n: usize,
    },
    /// (rows, inputs) x (outputs, inputs)^T.
    Linear {
        rows: usize,
        inputs: usize,
        outputs: usize,
    },
    /// Of each output the mean over the `highest` of its tiles' scores.
    LinearTopMean {
        tiles: usize,
        inputs: usize,
        outputs: usize,
        highest: usize,
    },
    Attention {
        heads: usize,
        queries: usize,
        keys: usize,
        width: usize,
    },
    /// Of heads side by side in what one linear layer makes.
    AttentionPacked {
        heads: usize,
        tokens: usize,
        width: usize,
    },
    Conv2d(Convolution),
    /// With bias and ReLU, its weights prepared.
    ConvBnAct(Convolution),
    /// From `image` to what the convolution back makes it from.
    ConvTranspose2d(Convolution),
    /// Along rows of this width.
    Softmax {
        rows: usize,
        width: usize,
    },
    LayerNorm {
        rows: usize,
        width: usize,
    },
    /// Of a sum, which is made on the way.
    AddLayerNorm {
        rows: usize,
        width: usize,
    },
    /// With the batch's statistics.
    BatchNorm(Image),
    Relu(Image),
    LeakyRelu(Image),
    Tanh(Image),
    Gelu {
        rows: usize,
        width: usize,
    },
    Dropout {
        rows: usize,
        width: usize,
    },
    /// A residual.
    Add(Image),
    /// 3 x 3, stride 2, padding 1.
    MaxPool2d(Image),
    /// 2 x 2, stride 2.
    AvgPool2d(Image),
    /// The same behind a batch norm and a ReLU, as between DenseNet's blocks.
    ActivatedAvgPool2d(Image),
    /// To 1 x 1.
    GlobalAvgPool2d(Image),
    /// An update of so many values.
    AdamW {
        values: usize,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub work: Work,
    pub cpu: usize,
    pub cuda: usize,
    /// Whether it runs when nothing in particular is asked for.
    pub by_default: bool,
}

/// A row of the default set.
const fn often(work: Work, cpu: usize, cuda: usize) -> Row {
    Row {
        work,
        cpu,
        cuda,
        by_default: true,
    }
}

/// A row that runs with the feature `bench-all` or when it is asked for.
const fn more(work: Work, cpu: usize, cuda: usize) -> Row {
    Row {
        by_default: false,
        ..often(work, cpu, cuda)
    }
}

const fn matmul(m: usize, k: usize, n: usize) -> Work {
    Work::Matmul { m, k, n }
}

const fn linear(rows: usize, inputs: usize, outputs: usize) -> Work {
    Work::Linear {
        rows,
        inputs,
        outputs,
    }
}

const fn linear_top_mean(tiles: usize, inputs: usize, outputs: usize, highest: usize) -> Work {
    Work::LinearTopMean {
        tiles,
        inputs,
        outputs,
        highest,
    }
}

const fn attention(heads: usize, queries: usize, keys: usize, width: usize) -> Work {
    Work::Attention {
        heads,
        queries,
        keys,
        width,
    }
}

/// A convolution of a square image that keeps its size, by an odd kernel.
const fn same(channels: usize, outputs: usize, side: usize, kernel: [usize; 2]) -> Convolution {
    Convolution {
        image: [channels, side, side],
        outputs,
        kernel,
        stride: 1,
        padding: [kernel[0] / 2, kernel[1] / 2],
        groups: 1,
    }
}

const fn conv(channels: usize, outputs: usize, side: usize, kernel: usize) -> Work {
    Work::Conv2d(same(channels, outputs, side, [kernel; 2]))
}

const fn depthwise(channels: usize, side: usize, kernel: usize) -> Work {
    Work::Conv2d(Convolution {
        groups: channels,
        ..same(channels, channels, side, [kernel; 2])
    })
}

const fn strided(c: Convolution, stride: usize, padding: usize) -> Convolution {
    Convolution {
        stride,
        padding: [padding; 2],
        ..c
    }
}

/// The 4 x 4 convolution of a GAN, which halves the side.
const fn halving(channels: usize, outputs: usize, side: usize) -> Work {
    Work::Conv2d(strided(same(channels, outputs, side, [4; 2]), 2, 1))
}

/// Its opposite, which doubles the side.
const fn doubling(channels: usize, outputs: usize, side: usize) -> Work {
    Work::ConvTranspose2d(strided(same(channels, outputs, side, [4; 2]), 2, 1))
}

pub const ROWS: &[Row] = &[
    // What a product can reach.
    often(matmul(1024, 1024, 1024), 1, 1),
    more(matmul(4096, 4096, 4096), 1, 1),
    more(matmul(8192, 8192, 8192), 1, 1),
    // tRNAsformer: scores of 6 heads; query, key and value; projection; MLP;
    // genes, for every tile and for their mean.
    more(matmul(300, 64, 50), 8, 64),
    often(linear(50, 384, 1152), 8, 64),
    more(linear(50, 384, 384), 8, 64),
    more(linear(50, 384, 1536), 8, 64),
    more(linear(50, 1536, 384), 8, 64),
    often(linear(49, 384, 31793), 2, 64),
    more(linear(1, 384, 31793), 64, 64),
    often(linear_top_mean(49, 384, 31793, 10), 2, 64),
    // DeepPT: autoencoder, MLP.
    often(linear(1, 2048, 512), 64, 1024),
    more(linear(1, 512, 2048), 64, 1024),
    more(linear(1, 512, 512), 256, 1024),
    more(linear(1, 512, 4096), 16, 64),
    // beta-VAE; the GAN's first layer.
    often(linear(1, 4000, 2048), 64, 128),
    more(linear(1, 6000, 4000), 64, 128),
    more(linear(1, 19198, 6000), 64, 128),
    more(linear(1, 2048, 32768), 8, 8),
    // TCGN: head; projections of its stages.
    more(linear(1, 1280, 5120), 32, 32),
    more(linear(1, 5120, 785), 32, 32),
    more(linear(3136, 46, 46), 8, 32),
    more(linear(196, 184, 184), 8, 32),
    // Attention of tRNAsformer; of TCGN's four stages, graph and channels.
    often(attention(6, 50, 50, 64), 8, 64),
    more(attention(1, 50, 50, 192), 8, 64),
    more(attention(1, 3136, 49, 46), 8, 32),
    more(attention(2, 784, 49, 46), 8, 32),
    often(attention(4, 196, 49, 46), 8, 32),
    more(attention(8, 49, 49, 46), 8, 32),
    more(attention(2, 196, 196, 92), 8, 32),
    more(attention(2, 196, 196, 46), 8, 32),
    more(attention(2, 196, 196, 24), 8, 32),
    more(attention(2, 196, 196, 6), 8, 32),
    more(attention(4, 232, 232, 49), 8, 32),
    more(attention(4, 60, 60, 49), 8, 32),
    often(
        Work::AttentionPacked {
            heads: 6,
            tokens: 50,
            width: 64,
        },
        8,
        64,
    ),
    // ResNet: stem, bottlenecks, the way around at half the side.
    often(Work::Conv2d(strided(same(3, 64, 224, [7; 2]), 2, 3)), 8, 64),
    often(conv(64, 256, 56, 1), 8, 64),
    more(conv(256, 64, 56, 1), 8, 64),
    often(conv(64, 64, 56, 3), 8, 64),
    more(conv(128, 128, 28, 3), 8, 64),
    often(conv(256, 256, 14, 3), 8, 64),
    more(conv(512, 512, 7, 3), 8, 64),
    more(conv(512, 128, 28, 1), 8, 64),
    often(conv(1024, 256, 14, 1), 8, 64),
    more(
        Work::Conv2d(strided(same(256, 512, 56, [1; 2]), 2, 0)),
        8,
        64,
    ),
    more(
        Work::Conv2d(strided(same(128, 128, 56, [3; 2]), 2, 1)),
        8,
        64,
    ),
    // DenseNet: growth, narrow, transition.
    often(conv(128, 32, 28, 3), 8, 64),
    more(conv(128, 32, 56, 3), 8, 64),
    more(conv(224, 128, 56, 1), 8, 64),
    more(conv(256, 128, 56, 1), 8, 64),
    // Inception.
    more(
        Work::Conv2d(Convolution {
            padding: [0; 2],
            ..same(80, 192, 73, [3; 2])
        }),
        4,
        64,
    ),
    more(Work::Conv2d(same(192, 192, 17, [1, 7])), 8, 64),
    more(Work::Conv2d(same(192, 192, 17, [7, 1])), 8, 64),
    // TCGN: 46, 165 and 331 channels divide by nothing.
    more(conv(16, 16, 112, 3), 8, 32),
    more(conv(46, 165, 56, 1), 8, 32),
    more(conv(184, 662, 14, 1), 8, 32),
    often(depthwise(165, 56, 3), 8, 32),
    more(depthwise(331, 28, 3), 8, 32),
    more(depthwise(662, 14, 3), 8, 32),
    often(depthwise(92, 14, 7), 8, 32),
    more(
        Work::Conv2d(Convolution {
            groups: 46,
            ..strided(same(46, 46, 56, [8; 2]), 8, 0)
        }),
        8,
        32,
    ),
    // tRNAsformer's patches.
    often(
        Work::Conv2d(strided(same(1, 384, 224, [32; 2]), 32, 0)),
        8,
        64,
    ),
    // RNA-GAN: discriminator and generator, their image layers, the deepest.
    often(halving(128, 256, 64), 2, 64),
    more(halving(1024, 2048, 8), 2, 64),
    more(halving(3, 64, 256), 2, 64),
    often(doubling(256, 128, 32), 2, 64),
    more(doubling(2048, 1024, 4), 2, 64),
    more(doubling(64, 3, 128), 2, 64),
    // ResNet's inference.
    often(Work::ConvBnAct(same(64, 64, 56, [3; 2])), 8, 64),
    often(Work::ConvBnAct(same(256, 64, 56, [1; 2])), 8, 64),
    often(Work::ConvBnAct(same(256, 256, 14, [3; 2])), 8, 64),
    more(
        Work::ConvBnAct(strided(same(3, 64, 224, [7; 2]), 2, 3)),
        8,
        64,
    ),
    more(Work::ConvBnAct(same(512, 512, 7, [3; 2])), 8, 64),
    // Scores of TCGN's first stage and of its graph.
    often(
        Work::Softmax {
            rows: 3136,
            width: 49,
        },
        8,
        32,
    ),
    more(
        Work::Softmax {
            rows: 392,
            width: 196,
        },
        8,
        32,
    ),
    // Tokens of tRNAsformer and TCGN.
    often(
        Work::LayerNorm {
            rows: 50,
            width: 384,
        },
        64,
        64,
    ),
    more(
        Work::LayerNorm {
            rows: 3136,
            width: 46,
        },
        8,
        32,
    ),
    often(
        Work::AddLayerNorm {
            rows: 50,
            width: 384,
        },
        64,
        64,
    ),
    // ResNet's first and a late one; the GAN's.
    often(Work::BatchNorm([64, 112, 112]), 8, 64),
    more(Work::BatchNorm([1024, 14, 14]), 8, 64),
    more(Work::BatchNorm([128, 64, 64]), 8, 64),
    often(Work::Relu([64, 112, 112]), 8, 64),
    more(Work::LeakyRelu([64, 128, 128]), 8, 64),
    more(Work::Tanh([3, 256, 256]), 8, 64),
    often(
        Work::Gelu {
            rows: 50,
            width: 1536,
        },
        8,
        64,
    ),
    more(
        Work::Gelu {
            rows: 3136,
            width: 165,
        },
        8,
        32,
    ),
    often(
        Work::Dropout {
            rows: 50,
            width: 384,
        },
        64,
        64,
    ),
    often(Work::Add([256, 56, 56]), 8, 64),
    often(Work::MaxPool2d([64, 112, 112]), 8, 64),
    often(Work::AvgPool2d([128, 56, 56]), 8, 64),
    often(Work::ActivatedAvgPool2d([256, 56, 56]), 8, 64),
    often(Work::GlobalAvgPool2d([2048, 7, 7]), 8, 64),
    // A parameter of a quarter of ResNet-50; beta-VAE's first.
    often(Work::AdamW { values: 6_400_000 }, 1, 1),
    more(
        Work::AdamW {
            values: 115_000_000,
        },
        1,
        1,
    ),
];

impl Convolution {
    /// Height and width of the result.
    pub fn outputs_size(&self) -> [usize; 2] {
        std::array::from_fn(|i| {
            (self.image[1 + i] + 2 * self.padding[i] - self.kernel[i]) / self.stride + 1
        })
    }

    /// Height and width of the result of the transposed convolution.
    pub fn transposed_size(&self) -> [usize; 2] {
        std::array::from_fn(|i| {
            (self.image[1 + i] - 1) * self.stride + self.kernel[i] - 2 * self.padding[i]
        })
    }

    fn name(&self, batch: usize) -> String {
        let [c, h, w] = self.image;
        let [r, s] = self.kernel;
        let mut name = format!("n{batch}_c{c}_k{}_{h}x{w}_{r}x{s}", self.outputs);
        if self.stride > 1 {
            name += &format!("_s{}", self.stride);
        }
        if self.groups > 1 {
            name += &format!("_g{}", self.groups);
        }
        name
    }
}

impl Work {
    /// The operator's name in the registry, which is also the bench's; the
    /// update has none there.
    pub fn op(&self) -> &'static str {
        match self {
            Self::Matmul { .. } => "matmul",
            Self::Linear { .. } => "linear",
            Self::LinearTopMean { .. } => "linear_top_mean",
            Self::Attention { .. } => "attention",
            Self::AttentionPacked { .. } => "attention_packed",
            Self::Conv2d(_) => "conv2d",
            Self::ConvBnAct(_) => "conv_bn_act",
            Self::ConvTranspose2d(_) => "conv_transpose2d",
            Self::Softmax { .. } => "softmax",
            Self::LayerNorm { .. } => "layer_norm",
            Self::AddLayerNorm { .. } => "add_layer_norm",
            Self::BatchNorm(_) => "batch_norm_train",
            Self::Relu(_) => "relu",
            Self::LeakyRelu(_) => "leaky_relu",
            Self::Tanh(_) => "tanh",
            Self::Gelu { .. } => "gelu",
            Self::Dropout { .. } => "dropout",
            Self::Add(_) => "add",
            Self::MaxPool2d(_) => "max_pool2d",
            Self::AvgPool2d(_) => "avg_pool2d",
            Self::ActivatedAvgPool2d(_) => "activated_avg_pool2d",
            Self::GlobalAvgPool2d(_) => "adaptive_avg_pool2d",
            Self::AdamW { .. } => "adamw",
        }
    }

    /// The last part of the bench's name.
    pub fn name(&self, batch: usize) -> String {
        match self {
            Self::Matmul { m, k, n } if batch == 1 => format!("{m}x{k}x{n}"),
            Self::Matmul { m, k, n } => format!("b{batch}_{m}x{k}x{n}"),
            Self::Linear {
                rows,
                inputs,
                outputs,
            } => format!("{}x{inputs}x{outputs}", batch * rows),
            Self::LinearTopMean {
                tiles,
                inputs,
                outputs,
                highest,
            } => format!("b{batch}_{tiles}x{inputs}x{outputs}_k{highest}"),
            Self::Attention {
                heads,
                queries,
                keys,
                width,
            } => format!("b{batch}_h{heads}_{queries}x{keys}_d{width}"),
            Self::AttentionPacked {
                heads,
                tokens,
                width,
            } => format!("b{batch}_h{heads}_{tokens}x{tokens}_d{width}"),
            Self::Conv2d(c) | Self::ConvBnAct(c) | Self::ConvTranspose2d(c) => c.name(batch),
            Self::Softmax { rows, width }
            | Self::LayerNorm { rows, width }
            | Self::AddLayerNorm { rows, width }
            | Self::Gelu { rows, width }
            | Self::Dropout { rows, width } => format!("{}x{width}", batch * rows),
            Self::BatchNorm([c, h, w])
            | Self::Relu([c, h, w])
            | Self::LeakyRelu([c, h, w])
            | Self::Tanh([c, h, w])
            | Self::Add([c, h, w])
            | Self::MaxPool2d([c, h, w])
            | Self::AvgPool2d([c, h, w])
            | Self::ActivatedAvgPool2d([c, h, w])
            | Self::GlobalAvgPool2d([c, h, w]) => format!("{batch}x{c}x{h}x{w}"),
            Self::AdamW { values } => format!("{:.1}M", *values as f64 * 1e-6),
        }
    }
}
