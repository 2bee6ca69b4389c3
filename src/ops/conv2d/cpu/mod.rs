//! Convolution on the CPU, channels last.
//!
//! The forward pass and the input gradient are one algorithm ([`dense`]): each
//! written pixel gathers runs of channels, tap by tap, against weights packed
//! into panels, in registers. It was to be blocked im2col and a product; reading
//! the runs where they lie needs no patch matrix, and the weights are packed
//! once instead of once per tile. The weight gradient, whose inner dimension is
//! the pixels, is products of patches
//! ([`weight_gradient`](mod@weight_gradient)). Depthwise convolutions have
//! loops of their own ([`depthwise`], `columns` in f32 on x86-64), and 3x3 convolutions of stride 1 take
//! fewer multiplications in f32 where that helps ([`winograd`], [`Way`],
//! [`winograd_gradient`]). Where pixels are few beside channels, in training, weights stay as
//! they lie ([`few_pixels`]).
//!
//! f32 is summed in 512-bit registers where a processor has them, by the same code
//! with other numbers of rows and columns, and with the same bits (`same_bits`).

#[cfg(target_arch = "x86_64")]
mod columns;
mod dense;
mod depthwise;
mod epilogue;
mod few_pixels;
mod kernel;
mod map;
mod pack;
#[cfg(test)]
mod same_bits;
mod weight_gradient;
mod winograd;
mod winograd_gradient;

use super::{Conv2d, Sizes};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::ops::half::{is_half, widened};
use crate::ops::matmul::cpu::kernel::{
    F32_COLUMNS, F64_COLUMNS, MR, WIDE_COLUMNS, WIDE_ROWS, has_wide_vectors,
};
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;
use dense::Prologue;
use epilogue::{Epilogue, Residual, Window};
use map::Map;
use pack::Packed;
use winograd::Transformed;

pub(super) fn forward(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    sizes: &Sizes,
) -> Result<Tensor> {
    if is_half(x) || is_half(w) {
        return match bias {
            Some(b) => widened([x, w, b], |[x, w, b]| forward(x, w, Some(b), sizes)),
            None => widened([x, w], |[x, w]| forward(x, w, None, sizes)),
        };
    }
    let dtype = same_floats("conv2d", x, w)?;
    if few_pixels::suits(sizes) {
        return match dtype {
            DType::F64 => of_few_pixels::<f64>(x, w, bias, sizes),
            _ => of_few_pixels::<f32>(x, w, bias, sizes),
        };
    }
    Weights::new(w, bias, sizes, Way::Direct)?.run(x, None, Activation::None, sizes)
}

fn of_few_pixels<T: Float>(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    sizes: &Sizes,
) -> Result<Tensor> {
    let op = "conv2d";
    let (x, w) = (channels_last(x)?, contiguous(w)?);
    let bias = bias.map(contiguous).transpose()?;
    let (xs, ws) = (x.dense_slice::<T>(op)?, w.dense_slice::<T>(op)?);
    let bias = bias.as_ref().map(|b| b.dense_slice::<T>(op)).transpose()?;
    let layout = Layout::new(Shape::new(&sizes.y_shape())?, Format::ChannelsLast)?;
    Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
        few_pixels::forward(xs, ws, bias, sizes, out);
    }))
}

pub(super) fn input_gradient(gy: &Tensor, w: &Tensor, sizes: &Sizes) -> Result<Tensor> {
    fn run<T: Float, const NR: usize, const MR: usize>(
        gy: &Tensor,
        w: &Tensor,
        sizes: &Sizes,
    ) -> Result<Tensor> {
        let op = "conv2d_input_gradient";
        let gy = channels_last(gy)?;
        let from = gy.dense_slice::<T>(op)?;
        let map = Map::transposed(sizes);
        let layout = Layout::new(Shape::new(&sizes.x_shape())?, Format::ChannelsLast)?;
        if let Some(times) = depth_multiplier(sizes) {
            let weights = depthwise::weights::<T>(w, sizes)?;
            return Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
                if times == 1 {
                    return depthwise::run(from, &map, &weights, &Epilogue::NONE, out);
                }
                let mut wide = vec![T::ZERO; out.len() * times];
                depthwise::run(from, &map, &weights, &Epilogue::NONE, &mut wide);
                depthwise::joined(&wide, times, out);
            }));
        }
        if few_pixels::suits_input_gradient(sizes) {
            let w = contiguous(w)?;
            let weights = w.dense_slice::<T>(op)?;
            return Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
                few_pixels::input_gradient(from, weights, sizes, out);
            }));
        }
        if winograd::suits::<T>(sizes) {
            let weights = Transformed::<T, NR, 2>::new(w, sizes, true)?;
            return Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
                winograd::run::<T, NR, MR, 2>(from, &map, &weights, &Epilogue::NONE, out);
            }));
        }
        let weights = Packed::<T, NR>::transposed(w, sizes)?;
        Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
            dense::run::<T, NR, MR>(from, &map, &weights, &Epilogue::NONE, out);
        }))
    }
    if is_half(gy) || is_half(w) {
        return widened([gy, w], |[gy, w]| input_gradient(gy, w, sizes));
    }
    match same_floats("conv2d_input_gradient", gy, w)? {
        DType::F64 => run::<f64, F64_COLUMNS, MR>(gy, w, sizes),
        _ if has_wide_vectors() => run::<f32, WIDE_COLUMNS, WIDE_ROWS>(gy, w, sizes),
        _ => run::<f32, F32_COLUMNS, MR>(gy, w, sizes),
    }
}

pub(super) fn weight_gradient(x: &Tensor, gy: &Tensor, sizes: &Sizes) -> Result<Tensor> {
    fn run<T: Float>(x: &Tensor, gy: &Tensor, sizes: &Sizes) -> Result<Tensor> {
        let op = "conv2d_weight_gradient";
        let (x, gy) = (channels_last(x)?, channels_last(gy)?);
        let (xs, gys) = (x.dense_slice::<T>(op)?, gy.dense_slice::<T>(op)?);
        let [k, c, r, s] = sizes.w_shape();
        if few_pixels::suits(sizes) {
            let layout = Layout::contiguous(Shape::new(&sizes.w_shape())?);
            return Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
                few_pixels::weight_gradient(xs, gys, sizes, out);
            }));
        }
        if winograd::suits::<T>(sizes) {
            let layout = Layout::contiguous(Shape::new(&sizes.w_shape())?);
            return Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
                winograd_gradient::run(xs, gys, sizes, out);
            }));
        }
        let layout = Layout::contiguous(Shape::new(&[r, s, c, k])?);
        let gw = Tensor::build_unwritten(layout, |out: &mut [T]| match depth_multiplier(sizes) {
            None => weight_gradient::run(xs, gys, sizes, out),
            Some(times) => {
                let map = Map::forward(sizes);
                if times == 1 {
                    depthwise::weight_gradient(xs, gys, &map, k, out);
                } else {
                    let wide = depthwise::repeated(xs, times);
                    depthwise::weight_gradient(&wide, gys, &map, k, out);
                }
            }
        });
        gw.with_layout(layout.permute(&[3, 2, 0, 1]))
            .to_format(Format::Contiguous)
    }
    if is_half(x) || is_half(gy) {
        return widened([x, gy], |[x, gy]| weight_gradient(x, gy, sizes));
    }
    match same_floats("conv2d_weight_gradient", x, gy)? {
        DType::F64 => run::<f64>(x, gy, sizes),
        _ => run::<f32>(x, gy, sizes),
    }
}

/// The dtype of both, if it is f32 or f64.
fn same_floats(op: &'static str, a: &Tensor, b: &Tensor) -> Result<DType> {
    match (a.dtype(), b.dtype()) {
        (DType::F32, DType::F32) => Ok(DType::F32),
        (DType::F64, DType::F64) => Ok(DType::F64),
        (a, b) => Err(Error::dtype(op, &[a, b], "two equal floats are needed")),
    }
}

fn channels_last(t: &Tensor) -> Result<Tensor> {
    t.detach().to_format(Format::ChannelsLast)
}

fn contiguous(t: &Tensor) -> Result<Tensor> {
    t.detach().to_format(Format::Contiguous)
}

/// Outputs per channel if every group has a single input channel.
pub(in crate::ops) fn depth_multiplier(sizes: &Sizes) -> Option<usize> {
    let [c, k] = sizes.channels;
    (c == sizes.geometry.groups && c > 1).then(|| k / c)
}

/// How the outputs of a dense convolution are summed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// One sum per output.
    Direct,
    /// By [`winograd`] where it suits: for weights that are used again. A network
    /// in training takes it for its input gradients alone, since its transform
    /// of the weights would be made in every step, and its rounding, two to
    /// three times that of a sum, moves more choices (of ReLU, of max pooling)
    /// that hang on the last digit.
    FewerProducts,
}

/// Weights and bias in the order in which the CPU reads them.
pub(crate) enum Weights {
    F32(Prepared<f32, F32_COLUMNS, MR>),
    /// For 512-bit registers.
    Wide(Prepared<f32, WIDE_COLUMNS, WIDE_ROWS>),
    F64(Prepared<f64, F64_COLUMNS, MR>),
}

pub(crate) struct Prepared<T, const NR: usize, const MR: usize> {
    kind: Kind<T, NR>,
    bias: Option<Vec<T>>,
}

enum Kind<T, const NR: usize> {
    Dense(Packed<T, NR>),
    Winograd(Transformed<T, NR, 4>),
    Depthwise { taps: Vec<T>, times: usize },
}

impl Weights {
    /// `sizes`: those of any image that these weights may be applied to.
    ///
    /// # Errors
    /// Not f32 or f64, or a bias of another dtype.
    pub fn new(w: &Tensor, bias: Option<&Tensor>, sizes: &Sizes, way: Way) -> Result<Self> {
        match w.dtype() {
            DType::F32 if has_wide_vectors() => Ok(Self::Wide(Prepared::new(w, bias, sizes, way)?)),
            DType::F32 => Ok(Self::F32(Prepared::new(w, bias, sizes, way)?)),
            DType::F64 => Ok(Self::F64(Prepared::new(w, bias, sizes, way)?)),
            other => Err(Error::dtype("conv2d", &[other], "f32 or f64 is needed")),
        }
    }

    /// `activation(conv(x) + bias + residual)`; `sizes` are those of this call.
    pub fn run(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        activation: Activation,
        sizes: &Sizes,
    ) -> Result<Tensor> {
        match self {
            Self::F32(p) => p.run(x, residual, activation, sizes),
            Self::Wide(p) => p.run(x, residual, activation, sizes),
            Self::F64(p) => p.run(x, residual, activation, sizes),
        }
    }

    /// Whether [`Self::run_activated`] can read x: a dense 1 x 1 convolution, and x
    /// channels-last or the first channels of an image that is.
    pub fn activates(&self, x: &Tensor, sizes: &Sizes) -> bool {
        let dense = match self {
            Self::F32(p) => matches!(p.kind, Kind::Dense(_)),
            Self::Wide(p) => matches!(p.kind, Kind::Dense(_)),
            Self::F64(p) => matches!(p.kind, Kind::Dense(_)),
        };
        let pointwise = sizes.kernel == [1, 1] && sizes.geometry == Conv2d::default();
        let [height, width] = sizes.input;
        let apart = |&[image, channel, row, pixel]: &[usize; 4]| {
            channel == 1 && (row, image) == (width * pixel, height * row)
        };
        dense && pointwise && x.layout().strides().first_chunk().is_some_and(apart)
    }

    /// [`Self::run`] of relu(scale x + shift), where [`Self::activates`].
    pub fn run_activated(
        &self,
        x: &Tensor,
        numbers: [&Tensor; 2],
        activation: Activation,
        sizes: &Sizes,
    ) -> Result<Tensor> {
        match self {
            Self::F32(p) => p.run_activated(x, numbers, activation, sizes),
            Self::Wide(p) => p.run_activated(x, numbers, activation, sizes),
            Self::F64(p) => p.run_activated(x, numbers, activation, sizes),
        }
    }

    /// [`Self::run`] into the channels of `y` from `first` on; `y` is channels-last.
    pub fn run_into(
        &self,
        x: &Tensor,
        activation: Activation,
        sizes: &Sizes,
        y: (&mut Tensor, usize),
    ) -> Result<()> {
        match self {
            Self::F32(p) => p.run_into(x, activation, sizes, y),
            Self::Wide(p) => p.run_into(x, activation, sizes, y),
            Self::F64(p) => p.run_into(x, activation, sizes, y),
        }
    }

    /// [`Self::run`] in the memory of the residual, where nothing else holds it.
    pub fn run_onto(
        &self,
        x: &Tensor,
        residual: Tensor,
        activation: Activation,
        sizes: &Sizes,
    ) -> Result<Tensor> {
        match self {
            Self::F32(p) => p.run_onto(x, residual, activation, sizes),
            Self::Wide(p) => p.run_onto(x, residual, activation, sizes),
            Self::F64(p) => p.run_onto(x, residual, activation, sizes),
        }
    }
}

impl<T: Float, const NR: usize, const MR: usize> Prepared<T, NR, MR> {
    fn new(w: &Tensor, bias: Option<&Tensor>, sizes: &Sizes, way: Way) -> Result<Self> {
        let kind = match depth_multiplier(sizes) {
            Some(times) => Kind::Depthwise {
                taps: depthwise::weights(w, sizes)?,
                times,
            },
            None if way == Way::FewerProducts && winograd::suits::<T>(sizes) => {
                Kind::Winograd(Transformed::new(w, sizes, false)?)
            }
            None => Kind::Dense(Packed::forward(w, sizes)?),
        };
        let bias = bias.map(|b| match b.dtype() {
            d if d == T::DTYPE => b.to_vec::<T>(),
            other => {
                let expected = format!("a bias of {} is needed", T::DTYPE);
                Err(Error::dtype("conv2d", &[other], expected))
            }
        });
        Ok(Self {
            kind,
            bias: bias.transpose()?,
        })
    }

    fn run(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        activation: Activation,
        sizes: &Sizes,
    ) -> Result<Tensor> {
        let residual = residual.map(channels_last).transpose()?;
        let residual = residual.as_ref().map(|r| r.dense_slice::<T>("conv2d"));
        let epilogue = Epilogue {
            bias: self.bias.as_deref(),
            residual: residual
                .transpose()?
                .map_or(Residual::None, Residual::Apart),
            activation: activation.function(),
        };
        let x = channels_last(x)?;
        let xs = x.dense_slice::<T>("conv2d")?;
        let layout = Layout::new(Shape::new(&sizes.y_shape())?, Format::ChannelsLast)?;
        Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
            self.write(xs, sizes, &epilogue, out);
        }))
    }

    fn run_activated(
        &self,
        x: &Tensor,
        [scale, shift]: [&Tensor; 2],
        activation: Activation,
        sizes: &Sizes,
    ) -> Result<Tensor> {
        let Kind::Dense(weights) = &self.kind else {
            return Err(Error::op("conv2d", "internal: no prologue for this kind"));
        };
        let pixel = x.layout().strides()[3];
        let xs = &x.elements_of::<T>("conv2d")?[x.layout().offset()..];
        let prologue = Prologue {
            pixel,
            scale: scale.dense_slice("conv2d")?,
            shift: shift.dense_slice("conv2d")?,
        };
        let epilogue = self.epilogue(activation);
        let layout = Layout::new(Shape::new(&sizes.y_shape())?, Format::ChannelsLast)?;
        Ok(Tensor::build_unwritten(layout, |out: &mut [T]| {
            let whole = Window::whole(sizes.channels[1]);
            let map = Map::forward(sizes);
            dense::run_into::<T, NR, MR>(
                (xs, Some(prologue)),
                &map,
                weights,
                &epilogue,
                (out, whole),
            );
        }))
    }

    fn run_into(
        &self,
        x: &Tensor,
        activation: Activation,
        sizes: &Sizes,
        (y, first): (&mut Tensor, usize),
    ) -> Result<()> {
        let window = Window {
            pixel: y.shape()[1],
            first,
        };
        let x = channels_last(x)?;
        let xs = x.dense_slice::<T>("conv2d")?;
        let map = Map::forward(sizes);
        let epilogue = self.epilogue(activation);
        let out = (y.dense_mut::<T>("conv2d")?, window);
        match &self.kind {
            Kind::Dense(weights) => {
                dense::run_into::<T, NR, MR>((xs, None), &map, weights, &epilogue, out)
            }
            Kind::Winograd(weights) => {
                winograd::run_into::<T, NR, MR, 4>(xs, &map, weights, &epilogue, out)
            }
            Kind::Depthwise { .. } => {
                return Err(Error::op("conv2d", "internal: depthwise into a window"));
            }
        }
        Ok(())
    }

    /// Bias and activation, without a residual.
    fn epilogue(&self, activation: Activation) -> Epilogue<'_, T> {
        Epilogue {
            bias: self.bias.as_deref(),
            residual: Residual::None,
            activation: activation.function(),
        }
    }

    fn run_onto(
        &self,
        x: &Tensor,
        residual: Tensor,
        activation: Activation,
        sizes: &Sizes,
    ) -> Result<Tensor> {
        // Of one name, so that no second hold on its memory is left.
        let mut y = residual;
        y = channels_last(&y)?;
        if !y.holds_alone() {
            return self.run(x, Some(&y), activation, sizes);
        }
        let epilogue = Epilogue {
            bias: self.bias.as_deref(),
            residual: Residual::Within,
            activation: activation.function(),
        };
        let x = channels_last(x)?;
        let xs = x.dense_slice::<T>("conv2d")?;
        self.write(xs, sizes, &epilogue, y.dense_mut("conv2d")?);
        Ok(y)
    }

    /// Writes the outputs, channels-last.
    fn write(&self, x: &[T], sizes: &Sizes, epilogue: &Epilogue<T>, out: &mut [T]) {
        let map = Map::forward(sizes);
        match &self.kind {
            Kind::Dense(weights) => dense::run::<T, NR, MR>(x, &map, weights, epilogue, out),
            Kind::Winograd(weights) => {
                winograd::run::<T, NR, MR, 4>(x, &map, weights, epilogue, out)
            }
            Kind::Depthwise { taps, times: 1 } => depthwise::run(x, &map, taps, epilogue, out),
            Kind::Depthwise { taps, times } => {
                let wide = depthwise::repeated(x, *times);
                depthwise::run(&wide, &map, taps, epilogue, out);
            }
        }
    }
}
