//! The network's parts in order. A stage joins the results of branches, and a branch is a
//! row of layers; so the same description serves layers with parameters and layers made
//! ready for inference.

use super::{ConvNorm, EPSILON};
use crate::error::Result;
use crate::nn::{BatchNorm, Conv2d, ConvGeometry, Pool};
use crate::ops;
use crate::random::Philox;
use crate::tensor::Tensor;

/// Window of 3 x 3 that moves by `stride`.
const fn window(stride: usize, padding: usize) -> Pool {
    Pool {
        kernel: [3, 3],
        stride: [stride; 2],
        padding: [padding; 2],
    }
}

pub enum Step<L> {
    Layer(L),
    /// Two layers of one input, their results joined.
    Fork([L; 2]),
    /// The mean of 3 x 3 pixels, of which those outside count as zeros or not at all.
    Mean {
        count_outside: bool,
    },
    /// The maximum of 3 x 3 pixels.
    Max {
        stride: usize,
    },
}

/// Branches of one input, their results joined along the channels.
pub struct Stage<L> {
    pub name: &'static str,
    pub branches: Vec<Vec<Step<L>>>,
}

type Apply<'a, L> = dyn Fn(&L, &Tensor) -> Result<Tensor> + 'a;

impl<L> Step<L> {
    fn layers(&self) -> &[L] {
        match self {
            Self::Layer(layer) => std::slice::from_ref(layer),
            Self::Fork(layers) => layers,
            Self::Mean { .. } | Self::Max { .. } => &[],
        }
    }

    fn forward(&self, x: &Tensor, apply: &Apply<L>) -> Result<Tensor> {
        match self {
            Self::Layer(layer) => apply(layer, x),
            Self::Fork([a, b]) => ops::cat(&[&apply(a, x)?, &apply(b, x)?], 1),
            Self::Mean { count_outside } => ops::avg_pool2d(x, window(1, 1), *count_outside),
            Self::Max { stride } => ops::max_pool2d(x, window(*stride, 2 - stride)),
        }
    }

    fn map<M>(&self, f: &dyn Fn(&L) -> Result<M>) -> Result<Step<M>> {
        Ok(match self {
            Self::Layer(layer) => Step::Layer(f(layer)?),
            Self::Fork([a, b]) => Step::Fork([f(a)?, f(b)?]),
            Self::Mean { count_outside } => Step::Mean {
                count_outside: *count_outside,
            },
            Self::Max { stride } => Step::Max { stride: *stride },
        })
    }
}

impl<L> Stage<L> {
    /// In the order of the published keys.
    pub fn layers(&self) -> impl Iterator<Item = &L> {
        self.branches.iter().flatten().flat_map(Step::layers)
    }

    pub fn forward(&self, x: &Tensor, apply: &Apply<L>) -> Result<Tensor> {
        let branch = |steps: &Vec<Step<L>>| {
            let mut steps = steps.iter();
            steps.try_fold(x.clone(), |x, step| step.forward(&x, apply))
        };
        let results = self.branches.iter().map(branch);
        match &results.collect::<Result<Vec<_>>>()?[..] {
            [one] => Ok(one.clone()),
            all => ops::cat(&all.iter().collect::<Vec<_>>(), 1),
        }
    }

    /// The same stage of other layers.
    pub fn map<M>(&self, f: &dyn Fn(&L) -> Result<M>) -> Result<Stage<M>> {
        let branch = |steps: &Vec<Step<L>>| steps.iter().map(|s| s.map(f)).collect();
        Ok(Stage {
            name: self.name,
            branches: self.branches.iter().map(branch).collect::<Result<_>>()?,
        })
    }
}

/// Widths of the published network, divided.
#[derive(Clone, Copy)]
pub struct Widths(pub usize);

impl Widths {
    pub fn of(self, channels: usize) -> usize {
        channels / self.0
    }
}

/// Makes the layers of a stage.
struct Builder<'a> {
    stage: &'static str,
    widths: Widths,
    random: &'a mut Philox,
}

impl Builder<'_> {
    /// A convolution of `kernel`, stride 1, as large a result as its input.
    fn same(&mut self, name: &str, io: [usize; 2], kernel: [usize; 2]) -> Result<ConvNorm> {
        self.layer(name, io, kernel, 1, kernel.map(|k| k / 2))
    }

    fn layer(
        &mut self,
        name: &str,
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 2],
        stride: usize,
        padding: [usize; 2],
    ) -> Result<ConvNorm> {
        let inputs = match inputs {
            3 => 3, // of the image
            wide => self.widths.of(wide),
        };
        let outputs = self.widths.of(outputs);
        let geometry = ConvGeometry {
            stride: [stride; 2],
            padding,
            ..ConvGeometry::default()
        };
        let key = match name {
            "" => self.stage.to_owned(),
            name => format!("{}.{name}", self.stage),
        };
        Ok(ConvNorm {
            key,
            conv: Conv2d::new([inputs, outputs], kernel, geometry, false, self.random)?,
            bn: BatchNorm {
                eps: EPSILON,
                ..BatchNorm::new(outputs)?
            },
        })
    }

    /// Layers one after the other: name, outputs, kernel; stride 1.
    fn chain(
        &mut self,
        mut inputs: usize,
        layers: &[(&str, usize, [usize; 2])],
    ) -> Result<Vec<Step<ConvNorm>>> {
        let mut steps = Vec::with_capacity(layers.len());
        for &(name, outputs, kernel) in layers {
            steps.push(Step::Layer(self.same(name, [inputs, outputs], kernel)?));
            inputs = outputs;
        }
        Ok(steps)
    }

    fn then(
        &mut self,
        mut steps: Vec<Step<ConvNorm>>,
        name: &str,
        io: [usize; 2],
    ) -> Result<Vec<Step<ConvNorm>>> {
        steps.push(Step::Layer(self.layer(name, io, [3, 3], 2, [0, 0])?));
        Ok(steps)
    }

    fn pooled(
        &mut self,
        pool: Step<ConvNorm>,
        inputs: usize,
        outputs: usize,
    ) -> Result<Vec<Step<ConvNorm>>> {
        let layer = self.same("branch_pool", [inputs, outputs], [1, 1])?;
        Ok(vec![pool, Step::Layer(layer)])
    }
}

/// Every stage. With `tensorflow`, means are over the pixels inside the image and the last
/// block takes a maximum in its place.
pub fn stages(
    widths: Widths,
    tensorflow: bool,
    random: &mut Philox,
) -> Result<Vec<Stage<ConvNorm>>> {
    let mut build = Builder {
        stage: "",
        widths,
        random,
    };
    let mut all = Vec::new();
    let plain = |name: &'static str, step: Step<ConvNorm>| Stage {
        name,
        branches: vec![vec![step]],
    };
    let first = [
        ("Conv2d_1a_3x3", [3, 32], 3, 2, 0),
        ("Conv2d_2a_3x3", [32, 32], 3, 1, 0),
        ("Conv2d_2b_3x3", [32, 64], 3, 1, 1),
        ("maxpool1", [0, 0], 0, 0, 0),
        ("Conv2d_3b_1x1", [64, 80], 1, 1, 0),
        ("Conv2d_4a_3x3", [80, 192], 3, 1, 0),
        ("maxpool2", [0, 0], 0, 0, 0),
    ];
    for (name, io, kernel, stride, padding) in first {
        build.stage = name;
        let step = match kernel {
            0 => Step::Max { stride: 2 },
            k => Step::Layer(build.layer("", io, [k; 2], stride, [padding; 2])?),
        };
        all.push(plain(name, step));
    }
    let mean = || Step::Mean {
        count_outside: !tensorflow,
    };

    for (name, inputs, pooled) in [
        ("Mixed_5b", 192, 32),
        ("Mixed_5c", 256, 64),
        ("Mixed_5d", 288, 64),
    ] {
        build.stage = name;
        let double = [
            ("branch3x3dbl_1", 64, [1, 1]),
            ("branch3x3dbl_2", 96, [3, 3]),
            ("branch3x3dbl_3", 96, [3, 3]),
        ];
        let five = [("branch5x5_1", 48, [1, 1]), ("branch5x5_2", 64, [5, 5])];
        let branches = vec![
            build.chain(inputs, &[("branch1x1", 64, [1, 1])])?,
            build.chain(inputs, &five)?,
            build.chain(inputs, &double)?,
            build.pooled(mean(), inputs, pooled)?,
        ];
        all.push(Stage { name, branches });
    }

    build.stage = "Mixed_6a";
    let double = [
        ("branch3x3dbl_1", 64, [1, 1]),
        ("branch3x3dbl_2", 96, [3, 3]),
    ];
    let single = build.then(Vec::new(), "branch3x3", [288, 384])?;
    let double = build.chain(288, &double)?;
    let double = build.then(double, "branch3x3dbl_3", [96, 96])?;
    all.push(Stage {
        name: build.stage,
        branches: vec![single, double, vec![Step::Max { stride: 2 }]],
    });

    for (name, inner) in [
        ("Mixed_6b", 128),
        ("Mixed_6c", 160),
        ("Mixed_6d", 160),
        ("Mixed_6e", 192),
    ] {
        build.stage = name;
        let seven = [
            ("branch7x7_1", inner, [1, 1]),
            ("branch7x7_2", inner, [1, 7]),
            ("branch7x7_3", 192, [7, 1]),
        ];
        let double = [
            ("branch7x7dbl_1", inner, [1, 1]),
            ("branch7x7dbl_2", inner, [7, 1]),
            ("branch7x7dbl_3", inner, [1, 7]),
            ("branch7x7dbl_4", inner, [7, 1]),
            ("branch7x7dbl_5", 192, [1, 7]),
        ];
        let branches = vec![
            build.chain(768, &[("branch1x1", 192, [1, 1])])?,
            build.chain(768, &seven)?,
            build.chain(768, &double)?,
            build.pooled(mean(), 768, 192)?,
        ];
        all.push(Stage { name, branches });
    }

    build.stage = "Mixed_7a";
    let seven = [
        ("branch7x7x3_1", 192, [1, 1]),
        ("branch7x7x3_2", 192, [1, 7]),
        ("branch7x7x3_3", 192, [7, 1]),
    ];
    let three = build.chain(768, &[("branch3x3_1", 192, [1, 1])])?;
    let three = build.then(three, "branch3x3_2", [192, 320])?;
    let seven = build.chain(768, &seven)?;
    let seven = build.then(seven, "branch7x7x3_4", [192, 192])?;
    all.push(Stage {
        name: build.stage,
        branches: vec![three, seven, vec![Step::Max { stride: 2 }]],
    });

    for (name, inputs) in [("Mixed_7b", 1280), ("Mixed_7c", 2048)] {
        build.stage = name;
        let pool = match name {
            "Mixed_7c" if tensorflow => Step::Max { stride: 1 },
            _ => mean(),
        };
        let one = build.chain(inputs, &[("branch1x1", 320, [1, 1])])?;
        let mut three = build.chain(inputs, &[("branch3x3_1", 384, [1, 1])])?;
        three.push(Step::Fork([
            build.same("branch3x3_2a", [384, 384], [1, 3])?,
            build.same("branch3x3_2b", [384, 384], [3, 1])?,
        ]));
        let double = [
            ("branch3x3dbl_1", 448, [1, 1]),
            ("branch3x3dbl_2", 384, [3, 3]),
        ];
        let mut double = build.chain(inputs, &double)?;
        double.push(Step::Fork([
            build.same("branch3x3dbl_3a", [384, 384], [1, 3])?,
            build.same("branch3x3dbl_3b", [384, 384], [3, 1])?,
        ]));
        let branches = vec![one, three, double, build.pooled(pool, inputs, 192)?];
        all.push(Stage { name, branches });
    }
    Ok(all)
}

/// The convolutions of the auxiliary head.
pub fn auxiliary(widths: Widths, random: &mut Philox) -> Result<[ConvNorm; 2]> {
    let mut build = Builder {
        stage: "AuxLogits",
        widths,
        random,
    };
    Ok([
        build.same("conv0", [768, 128], [1, 1])?,
        build.layer("conv1", [128, 768], [5, 5], 1, [0, 0])?,
    ])
}
