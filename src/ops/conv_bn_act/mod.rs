//! Fused inference: convolution, folded batch norm, residual and activation in
//! one pass.
//!
//! In evaluation mode batch norm is an affine map per channel, which is folded
//! into the weights once ([`fold_batch_norm`]). The convolution then applies
//! bias, residual and activation to each tile of its result while it is in
//! cache:
//!
//! ```text
//! y = activation(conv2d(x, w') + b' + residual)
//! ```
//!
//! There is no gradient, and a recorded input is refused: for training use
//! `conv2d`, `batch_norm` and an activation.

use crate::device::Device;
use crate::device::cpu::for_chunks;
use crate::device::cuda::{CudaDevice, device_of, kernels};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::cat;
use crate::ops::conv2d::{Conv2d, Sizes, cpu, cuda, forward_sizes};
use crate::ops::half::{is_half, wide};
use crate::ops::matmul::equal_floats;
use crate::ops::{self, Activation, Operand};
use crate::profile;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

const OP: &str = "conv_bn_act";

/// A convolution whose weights are already in the order in which the device
/// reads them, for repeated inference.
pub struct PreparedConv {
    weights: Weights,
    weight_shape: [usize; 4],
    /// Weight and bias as they were given.
    operands: (Operand, Option<Operand>),
    dtype: DType,
    activation: Activation,
    geometry: Conv2d,
}

enum Weights {
    Cpu(cpu::Weights),
    Cuda(cuda::Weights),
}

impl PreparedConv {
    /// w (K, C/groups, R, S), bias (K).
    ///
    /// # Errors
    /// A recorded tensor, shapes that do not fit the geometry, or a dtype that
    /// is not a float.
    pub fn new(
        w: &Tensor,
        bias: Option<&Tensor>,
        activation: Activation,
        geometry: Conv2d,
    ) -> Result<Self> {
        let mut given = vec![w];
        given.extend(bias);
        refuse_recorded(OP, &given)?;
        // Any image that the kernel fits; what is prepared does not depend on it.
        let smallest = |axis: usize| {
            let taps = w.shape().get(axis + 2)?.checked_sub(1)?;
            taps.checked_mul(geometry.dilation[axis])?.checked_add(1)
        };
        let channels = w
            .shape()
            .get(1)
            .and_then(|c| c.checked_mul(geometry.groups));
        let image = [
            1,
            channels.unwrap_or(0),
            smallest(0).unwrap_or(0),
            smallest(1).unwrap_or(0),
        ];
        let sizes = forward_sizes(OP, &image, w, bias, geometry)?;
        let dtype = equal_floats(OP, &given)?;
        let weights = match w.device() {
            Device::Cpu => {
                let bias = bias.map(wide).transpose()?;
                Weights::Cpu(cpu::Weights::new(
                    &wide(w)?,
                    bias.as_ref(),
                    &sizes,
                    cpu::Way::FewerProducts,
                )?)
            }
            Device::Cuda(_) => {
                device_of(OP, &given)?;
                Weights::Cuda(cuda::Weights::new(w, bias)?)
            }
        };
        Ok(Self {
            weights,
            weight_shape: sizes.w_shape(),
            operands: (w.into(), bias.map(Operand::from)),
            dtype,
            activation,
            geometry,
        })
    }

    /// Channels that it writes.
    pub fn outputs(&self) -> usize {
        self.weight_shape[0]
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        match &self.weights {
            Weights::Cpu(_) => Device::Cpu,
            Weights::Cuda(weights) => weights.device(),
        }
    }

    /// The same convolution on another stream of its GPU, with the same memory
    /// for its weights.
    ///
    /// # Errors
    /// It was prepared for the CPU.
    pub fn on_stream(&self, stream: &CudaDevice) -> Result<Self> {
        let Weights::Cuda(weights) = &self.weights else {
            return Err(Error::op(
                OP,
                "weights were packed for the CPU; prepare them again from tensors on cuda",
            ));
        };
        Ok(Self {
            weights: Weights::Cuda(weights.on_stream(stream)?),
            ..*self
        })
    }

    /// The sizes of a call with an image and perhaps a residual.
    fn sizes(&self, given: &[&Tensor]) -> Result<Sizes> {
        refuse_recorded(OP, given)?;
        if let Some(t) = given.iter().find(|t| t.dtype() != self.dtype) {
            let dtypes = [t.dtype(), self.dtype];
            return Err(Error::dtype(OP, &dtypes, "input and weight must agree"));
        }
        let [x, residual @ ..] = given else {
            return Err(Error::op(OP, "internal: an image is needed"));
        };
        let mut shapes = vec![x.shape(), &self.weight_shape[..]];
        shapes.extend(residual.iter().map(|r| r.shape()));
        let sizes = Sizes::new(OP, &shapes, x.shape(), &self.weight_shape, self.geometry)?;
        if residual.iter().any(|r| r.shape() != sizes.y_shape()) {
            let expected = format!("a residual of shape {:?}", sizes.y_shape());
            return Err(Error::shape(OP, &shapes, expected));
        }
        Ok(sizes)
    }

    /// x (N, C, H, W), residual (N, K, P, Q) -> (N, K, P, Q), channels-last.
    ///
    /// # Errors
    /// A recorded tensor, shapes that do not fit, or another dtype than that of
    /// the weights.
    pub fn apply(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let mut given = vec![x];
        given.extend(residual);
        let sizes = self.sizes(&given)?;
        let operands = || self.operands(&given, &sizes);
        let y = profile::call_in_place(OP, operands, || match &self.weights {
            Weights::Cpu(weights) => {
                let residual = residual.map(wide).transpose()?;
                weights.run(&wide(x)?, residual.as_ref(), self.activation, &sizes)
            }
            Weights::Cuda(weights) => {
                let by = &kernels::EOSIN_CONV_BN_ACT_FORWARD_F32;
                let given = cuda::Forward {
                    residual,
                    activation: self.activation,
                    ..cuda::Forward::new(OP, by, x)
                };
                Ok(weights.run(&given, &sizes)?.0)
            }
        })?;
        ops::cast(&y, self.dtype)
    }

    /// As [`Self::apply`] with a residual that is needed no more: on the CPU the
    /// result takes its memory where no other tensor shares that, which halves
    /// what a wide layer reads and writes.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn apply_onto(&self, x: &Tensor, residual: Tensor) -> Result<Tensor> {
        let Weights::Cpu(weights) = &self.weights else {
            return self.apply(x, Some(&residual));
        };
        if is_half(x) {
            return self.apply(x, Some(&residual));
        }
        let sizes = self.sizes(&[x, &residual])?;
        let operands = self.operands(&[x, &residual], &sizes);
        profile::call_in_place(
            OP,
            || operands,
            || weights.run_onto(x, residual, self.activation, &sizes),
        )
    }

    /// `activation(conv(relu(scale x + shift)) + bias)`: with a batch norm and its
    /// ReLU in front of the convolution, as DenseNet has them. x (N, C, H, W) may be
    /// the first channels of a wider image; scale and shift (C), of x's dtype, or of
    /// f32 for an x of bf16 or f16. A 1 x 1 convolution does it while it reads, but for
    /// bf16 and f16 on the CPU; elsewhere it is an operator of its own.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn apply_activated(&self, x: &Tensor, numbers: [&Tensor; 2]) -> Result<Tensor> {
        let [scale, shift] = of_channels(OP, x, numbers)?;
        let sizes = self.sizes(&[x])?;
        match &self.weights {
            Weights::Cpu(weights) if !is_half(x) && weights.activates(x, &sizes) => {
                profile::call_in_place(
                    OP,
                    || self.operands(&[x], &sizes),
                    || weights.run_activated(x, [&scale, &shift], self.activation, &sizes),
                )
            }
            Weights::Cuda(weights) if cuda::activates(x, &sizes) => {
                device_of(OP, &[x, &scale, &shift])?;
                let by = &kernels::EOSIN_CONV_BN_ACT_FORWARD_ACTIVATED_F32;
                let given = cuda::Forward {
                    prologue: Some([&scale, &shift]),
                    activation: self.activation,
                    ..cuda::Forward::new(OP, by, x)
                };
                profile::call_in_place(
                    OP,
                    || self.operands(&[x], &sizes),
                    || Ok(weights.run(&given, &sizes)?.0),
                )
            }
            _ => self.apply(&activated(x, &scale, &shift)?, None),
        }
    }

    /// Writes `activation(conv(x) + bias)` to the channels of `y` from `first` on: of
    /// an image that grows, as DenseNet's do, without a copy. Not for groups of one
    /// channel, and not in bf16 and f16 on the CPU.
    ///
    /// # Errors
    /// As [`Self::apply`], a `y` that does not fit, is shared or is not channels-last,
    /// or another device or dtype.
    pub fn apply_into(&self, x: &Tensor, y: &mut Tensor, first: usize) -> Result<()> {
        let sizes = self.sizes(&[x])?;
        let [n, k, p, q] = sizes.y_shape();
        let fits = |&[batch, channels, height, width]: &[usize; 4]| {
            [batch, height, width] == [n, p, q] && first.saturating_add(k) <= channels
        };
        if !y.shape().first_chunk().is_some_and(fits) {
            let shapes = [x.shape(), &self.weight_shape[..], y.shape()];
            let expected = format!("room for ({n}, {k}, {p}, {q}) from channel {first} on");
            return Err(Error::shape(OP, &shapes, expected));
        }
        let plain = y.dtype() == self.dtype && y.layout().is_channels_last();
        if !plain || !y.holds_alone() {
            let expected = "into a wider image: of x's dtype, channels-last, and not shared";
            return Err(Error::op(OP, expected));
        }
        let operands = || self.operands(&[x], &sizes);
        profile::call_in_place(OP, operands, || match &self.weights {
            Weights::Cpu(_) if is_half(x) => {
                Err(Error::op(OP, "into a wider image on the CPU: f32 or f64"))
            }
            Weights::Cpu(weights) => weights.run_into(x, self.activation, &sizes, (y, first)),
            Weights::Cuda(_) if cpu::depth_multiplier(&sizes).is_some() => Err(Error::op(
                OP,
                "into a wider image: not groups of one channel",
            )),
            Weights::Cuda(weights) => {
                let by = &kernels::EOSIN_CONV_BN_ACT_FORWARD_F32;
                let part = y.with_layout(y.layout().narrow(1, first, k, 1));
                let given = cuda::Forward {
                    activation: self.activation,
                    into: Some(&part),
                    ..cuda::Forward::new(OP, by, x)
                };
                weights.run(&given, &sizes).map(|_| ())
            }
        })
    }

    /// [`Self::apply`] as the first channels of an image that has `more` of them, each
    /// of which has to be written, see [`Self::apply_into`].
    pub(crate) fn apply_with_room(&self, x: &Tensor, more: usize) -> Result<Tensor> {
        let [n, k, p, q] = self.sizes(&[x])?.y_shape();
        let mut y = room(&[n, k + more, p, q], self.dtype, &self.device())?;
        self.apply_into(x, &mut y, 0)?;
        Ok(y)
    }

    /// What a call reads and writes.
    fn operands(&self, given: &[&Tensor], sizes: &Sizes) -> [Vec<Operand>; 2] {
        let mut read = vec![given[0].into(), self.operands.0];
        read.extend(self.operands.1);
        read.extend(given[1..].iter().map(|&r| Operand::from(r)));
        let y = Operand::new(&sizes.y_shape(), self.dtype);
        [read, y.into_iter().collect()]
    }
}

/// An image that is not written, channels-last; on the CPU of f32.
fn room(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let layout = Layout::new(Shape::new(shape)?, Format::ChannelsLast)?;
    match device {
        Device::Cuda(device) => device.empty(layout, dtype),
        Device::Cpu if dtype == DType::F32 => {
            Ok(Tensor::build_unwritten(layout, |_: &mut [f32]| {}))
        }
        Device::Cpu => Err(Error::dtype(
            OP,
            &[dtype],
            "room for channels on the CPU: f32",
        )),
    }
}

/// x (N, C, H, W), on the CPU f32, as the first channels of an image that has `more`
/// of them, channels-last: each of these has to be written, see
/// [`PreparedConv::apply_into`].
pub(crate) fn with_room(x: &Tensor, more: usize) -> Result<Tensor> {
    let &[n, channels, height, width] = x.shape() else {
        return Err(Error::shape(OP, &[x.shape()], "(N, C, H, W)"));
    };
    let wide = channels + more;
    if let Device::Cuda(device) = x.device() {
        let y = room(&[n, wide, height, width], x.dtype(), &x.device())?;
        let part = y.with_layout(y.layout().narrow(1, 0, channels, 1));
        let operands = || [vec![x.into()], vec![x.into()]];
        profile::call_in_place("cat", operands, || cat::cuda::place(&device, x, &part))?;
        return Ok(y);
    }
    let x = x.detach().to_format(Format::ChannelsLast)?;
    let from = x.dense_slice::<f32>(OP)?;
    let layout = Layout::new(Shape::new(&[n, wide, height, width])?, Format::ChannelsLast)?;
    Ok(Tensor::build_unwritten(layout, |out: &mut [f32]| {
        for_chunks(out, wide, &|start, chunk| {
            let from = &from[start / wide * channels..];
            for (to, from) in chunk.chunks_mut(wide).zip(from.chunks(channels)) {
                to[..channels].copy_from_slice(from);
            }
        });
    }))
}

/// Scale and shift for what x (N, C, H, W) is read as, (C) each, in one piece.
pub(super) fn of_channels(
    op: &'static str,
    x: &Tensor,
    numbers: [&Tensor; 2],
) -> Result<[Tensor; 2]> {
    let [scale, shift] = numbers;
    let channels = x.shape().get(1).copied();
    if (numbers.iter()).any(|t| t.rank() != 1 || t.shape().first().copied() != channels) {
        let shapes = [x.shape(), scale.shape(), shift.shape()];
        let expected = "x (N, C, H, W), scale and shift (C)";
        return Err(Error::shape(op, &shapes, expected));
    }
    let of_sums = match x.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    };
    if (numbers.iter()).any(|t| t.dtype() != of_sums && t.dtype() != x.dtype()) {
        let dtypes = [x.dtype(), scale.dtype(), shift.dtype()];
        let expected = "scale and shift of x's dtype, or of f32 for an x of bf16 or f16";
        return Err(Error::dtype(op, &dtypes, expected));
    }
    refuse_recorded(op, &numbers)?;
    let dense = |t: &Tensor| wide(t)?.to_format(Format::Contiguous);
    Ok([dense(scale)?, dense(shift)?])
}

/// relu(scale x + shift), per channel.
fn activated(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let by_channel = [1, scale.elements(), 1, 1];
    let (scale, shift) = (
        ops::reshape(scale, &by_channel)?,
        ops::reshape(shift, &by_channel)?,
    );
    let y = ops::relu(&ops::add(&ops::mul(&wide(x)?, &scale)?, &shift)?)?;
    ops::cast(&y, x.dtype())
}

pub(super) fn refuse_recorded(op: &'static str, tensors: &[&Tensor]) -> Result<()> {
    if tensors.iter().any(|t| t.is_recorded()) {
        return Err(Error::NoGradient {
            op,
            reason: "it is for inference; train with conv2d, batch_norm and an activation, \
                     or detach its inputs"
                .to_owned(),
        });
    }
    Ok(())
}

/// `activation(conv2d(x, w) + bias + residual)` with weights from
/// [`fold_batch_norm`]; for repeated calls see [`PreparedConv`].
///
/// # Errors
/// As [`PreparedConv`].
pub fn conv_bn_act(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    activation: Activation,
    geometry: Conv2d,
) -> Result<Tensor> {
    PreparedConv::new(w, bias, activation, geometry)?.apply(x, residual)
}

/// Weight and bias of a convolution followed by batch norm in evaluation mode:
///
/// ```text
/// scale = gamma / sqrt(var + eps),  w'[k] = w[k] scale[k],  b' = (b - mean) scale + beta
/// ```
///
/// computed in f64 on the CPU and rounded once to the dtype of w. w (K, C/groups, R, S),
/// all others (K).
///
/// # Errors
/// Shapes that do not fit.
pub fn fold_batch_norm(
    w: &Tensor,
    bias: Option<&Tensor>,
    [gamma, beta, mean, var]: [&Tensor; 4],
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let k = w.shape().first().copied().unwrap_or(0);
    let mut all = vec![gamma, beta, mean, var];
    all.extend(bias);
    if w.rank() != 4 || all.iter().any(|t| t.shape() != [k]) {
        let mut shapes = vec![w.shape()];
        shapes.extend(all.iter().map(|t| t.shape()));
        let expected = "w (K, C/groups, R, S), all others (K)";
        return Err(Error::shape("fold_batch_norm", &shapes, expected));
    }
    let [gamma, beta, mean, var] = [gamma, beta, mean, var].map(Tensor::to_f64_vec);
    let (gamma, beta, mean, var) = (gamma?, beta?, mean?, var?);
    let bias = match bias {
        Some(b) => b.to_f64_vec()?,
        None => vec![0.0; k],
    };
    let scale: Vec<f64> = gamma
        .iter()
        .zip(&var)
        .map(|(g, v)| g / (v + eps).sqrt())
        .collect();
    let per_output = w.elements().checked_div(k).unwrap_or(0);
    let mut weight = w.to_f64_vec()?;
    if per_output > 0 {
        for (values, s) in weight.chunks_mut(per_output).zip(&scale) {
            values.iter_mut().for_each(|v| *v *= s);
        }
    }
    let shift: Vec<f64> = (0..k)
        .map(|i| (bias[i] - mean[i]) * scale[i] + beta[i])
        .collect();
    Ok((
        ops::cast(&Tensor::from_slice(&weight, w.shape())?, w.dtype())?.to(&w.device())?,
        ops::cast(&Tensor::from_slice(&shift, &[k])?, w.dtype())?.to(&w.device())?,
    ))
}
