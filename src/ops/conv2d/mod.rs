//! Two-dimensional convolution and its two gradients.
//!
//! ```text
//! y[n, k, p, q] = b[k] + sum over c, r, s of x[n, c, p sh + r dh - ph, q sw + s dw - pw] w[k, c, r, s]
//! ```
//!
//! with x (N, C, H, W), w (K, C/groups, R, S), b (K) and y (N, K, P, Q), where
//! P = (H + 2 ph - dh (R - 1) - 1) / sh + 1, and Q alike. Elements outside the
//! image are zeros.
//!
//! The convolution is linear in x and in w, so its gradients with respect to
//! them are linear in what they take as well, and the three close over
//! themselves: the rule of each is the other two. Three implementations thus
//! serve every order of gradient, and a transposed convolution is the input
//! gradient by another name.

pub(crate) mod cpu;
pub(crate) mod cuda;
mod depthwise;
mod tensor_cores;

use crate::autograd::{Save, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::matmul::equal_floats;
use crate::ops::{Activation, Moments};
use crate::profile;
use crate::tensor::Tensor;

/// How a kernel moves over an image; pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv2d {
    /// Pixels between neighbouring outputs.
    pub stride: [usize; 2],
    /// Zeros around the image, on both sides.
    pub padding: [usize; 2],
    /// Pixels between neighbouring taps.
    pub dilation: [usize; 2],
    /// Channels are cut into this many groups that do not see each other.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Self {
        Self {
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
            groups: 1,
        }
    }
}

impl Conv2d {
    /// Output size along an axis, `None` where the kernel does not fit.
    fn output(&self, axis: usize, input: usize, kernel: usize) -> Option<usize> {
        let padded = self.padding[axis].checked_mul(2)?.checked_add(input)?;
        let reach = kernel.checked_sub(1)?.checked_mul(self.dilation[axis])?;
        let room = padded.checked_sub(reach.checked_add(1)?)?;
        Some(room.checked_div(self.stride[axis])? + 1)
    }
}

/// The sizes of one convolution: all that its implementations need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub batch: usize,
    /// C and K, over all groups.
    pub channels: [usize; 2],
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub geometry: Conv2d,
}

impl Sizes {
    /// Sizes of `x` (N, C, H, W) with `w` (K, C/groups, R, S). `given` is what
    /// the caller passed, for messages.
    pub fn new(
        op: &'static str,
        given: &[&[usize]],
        x: &[usize],
        w: &[usize],
        geometry: Conv2d,
    ) -> Result<Self> {
        let refuse = |why: String| Err(Error::shape(op, given, format!("{why} ({geometry:?})")));
        let (&[n, c, height, width], &[k, cg, r, s]) = (x, w) else {
            return refuse("an image (N, C, H, W) and a weight (K, C/groups, R, S)".into());
        };
        let groups = geometry.groups;
        if [geometry.stride, geometry.dilation].concat().contains(&0) || groups == 0 {
            return refuse("stride, dilation and groups must be at least 1".into());
        }
        if [k, cg, r, s].contains(&0) {
            return refuse("the weight must not be empty".into());
        }
        if k % groups != 0 || Some(c) != cg.checked_mul(groups) {
            return refuse(format!(
                "{c} input and {k} output channels in {groups} groups of {cg} inputs"
            ));
        }
        let along = |axis, input, kernel| geometry.output(axis, input, kernel);
        let (Some(p), Some(q)) = (along(0, height, r), along(1, width, s)) else {
            return refuse("the kernel is larger than the padded image".into());
        };
        Ok(Self {
            batch: n,
            channels: [c, k],
            input: [height, width],
            output: [p, q],
            kernel: [r, s],
            geometry,
        })
    }

    pub fn x_shape(&self) -> [usize; 4] {
        [self.batch, self.channels[0], self.input[0], self.input[1]]
    }

    pub fn y_shape(&self) -> [usize; 4] {
        [self.batch, self.channels[1], self.output[0], self.output[1]]
    }

    pub fn w_shape(&self) -> [usize; 4] {
        let [c, k] = self.channels;
        [k, c / self.geometry.groups, self.kernel[0], self.kernel[1]]
    }

    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

/// The sizes of a convolution with a bias, all checked.
pub(crate) fn forward_sizes(
    op: &'static str,
    x: &[usize],
    w: &Tensor,
    bias: Option<&Tensor>,
    geometry: Conv2d,
) -> Result<Sizes> {
    let mut given = vec![x, w.shape()];
    given.extend(bias.map(Tensor::shape));
    let sizes = Sizes::new(op, &given, x, w.shape(), geometry)?;
    if bias.is_some_and(|b| b.shape() != &w.shape()[..1]) {
        return Err(Error::shape(op, &given, "a bias has shape (K)"));
    }
    Ok(sizes)
}

/// The convolution of the module's formula, correlation in the strict sense.
/// The result is channels-last.
/// bf16 and f16 are summed in f32 and rounded once.
///
/// # Errors
/// Shapes that do not fit each other or the geometry, or two dtypes.
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, geometry: Conv2d) -> Result<Tensor> {
    Ok(convolved(x, w, bias, geometry, (false, None))?.0)
}

/// [`conv2d`], and with `shortcut` [`conv2d_shortcut`], with the moments of `of` of the
/// result for [`ops::batch_norm_train_around`], where the device leaves them: on CUDA
/// everywhere but where few pixels make it cut its sums.
///
/// # Errors
/// As [`conv2d`] and [`conv2d_shortcut`].
pub fn conv2d_measured(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    geometry: Conv2d,
    shortcut: bool,
    of: Activation,
) -> Result<(Tensor, Option<Moments>)> {
    if x.device() == Device::Cpu || x.elements() == 0 {
        let y = match shortcut {
            true => conv2d_shortcut(x, w, bias, geometry),
            false => conv2d(x, w, bias, geometry),
        };
        return Ok((y?, None));
    }
    if shortcut {
        let sizes = shortcut_sizes(x, w, bias, geometry)?;
        if !depthwise::suits(&sizes) {
            return Ok((conv2d_shortcut(x, w, bias, geometry)?, None));
        }
    }
    convolved(x, w, bias, geometry, (shortcut, Some(of)))
}

/// `x + conv2d(x, w, bias)`: a convolution that keeps the size, with a shortcut past it.
/// On CUDA one launch for a channel and a filter in each group.
///
/// # Errors
/// As [`conv2d`], and a result of another shape than x.
pub fn conv2d_shortcut(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    geometry: Conv2d,
) -> Result<Tensor> {
    let sizes = shortcut_sizes(x, w, bias, geometry)?;
    if matches!(x.device(), Device::Cuda(_)) && depthwise::suits(&sizes) {
        return Ok(convolved(x, w, bias, geometry, (true, None))?.0);
    }
    ops::add(&conv2d(x, w, bias, geometry)?, x)
}

fn shortcut_sizes(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    geometry: Conv2d,
) -> Result<Sizes> {
    let sizes = forward_sizes("conv2d", x.shape(), w, bias, geometry)?;
    if sizes.y_shape() == sizes.x_shape() {
        return Ok(sizes);
    }
    let shapes = [x.shape(), w.shape()];
    let problem = format!(
        "a shortcut needs a result of the image's shape, not {:?} ({geometry:?})",
        sizes.y_shape()
    );
    Err(Error::shape("conv2d", &shapes, problem))
}

fn convolved(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    geometry: Conv2d,
    (shortcut, of): (bool, Option<Activation>),
) -> Result<(Tensor, Option<Moments>)> {
    let sizes = forward_sizes("conv2d", x.shape(), w, bias, geometry)?;
    let mut inputs = vec![x, w];
    inputs.extend(bias);
    equal_floats("conv2d", &inputs)?;
    let (y, parts) = profile::call("conv2d", &inputs, || match x.device() {
        Device::Cpu => Ok((cpu::forward(x, w, bias, &sizes)?, None)),
        Device::Cuda(_) => cuda::forward(x, w, bias, shortcut.then_some(x), of, &sizes),
    })?;
    let moments = of
        .zip(parts)
        .map(|(activation, parts)| Moments { parts, activation });
    let y = record("conv2d", &inputs, y, Save::inputs(0b11), move |b| {
        let (x, w) = (b.input(0)?, b.input(1)?);
        let at_once =
            matches!(x.device(), Device::Cuda(_)) && cuda::has_gradients(x.dtype(), &sizes);
        if at_once && !b.create_graph && b.wants(0) && b.wants(1) {
            let earlier = match shortcut {
                true => None,
                false => b.take_earlier(0),
            };
            let more = earlier.as_ref().or(shortcut.then_some(&b.grad));
            let mut read = vec![&x, &b.grad, &w];
            read.extend(more);
            let (gx, (gw, gb)) = profile::call("conv2d_gradient", &read, || {
                cuda::gradients([&x, &b.grad, &w], more, b.wants(2), &sizes)
            })?;
            return Ok(vec![Some(gx), Some(gw), gb]);
        }
        let through = || {
            let gx = conv2d_input_gradient(&b.grad, &w, sizes.input, geometry)?;
            match shortcut {
                true => ops::add(&gx, &b.grad),
                false => Ok(gx),
            }
        };
        Ok(vec![
            b.when(0, through)?,
            b.when(1, || {
                conv2d_weight_gradient(&x, &b.grad, sizes.kernel, geometry)
            })?,
            b.when(2, || ops::sum(&b.grad, &[0, 2, 3], false))?,
        ])
    });
    Ok((y, moments))
}

/// The gradient of [`conv2d`] with respect to x, an image of `input` pixels:
/// gy (N, K, P, Q), w (K, C/groups, R, S) -> (N, C, H, W), channels-last.
///
/// # Errors
/// Shapes that do not fit each other or the geometry, or two dtypes.
pub fn conv2d_input_gradient(
    gy: &Tensor,
    w: &Tensor,
    input: [usize; 2],
    geometry: Conv2d,
) -> Result<Tensor> {
    let op = "conv2d_input_gradient";
    let given = [gy.shape(), w.shape(), &input];
    let fits = gy.rank() == 4 && w.rank() == 4;
    let channels = if fits {
        w.shape()[1].checked_mul(geometry.groups)
    } else {
        None
    };
    let Some(channels) = channels else {
        return Err(Error::shape(
            op,
            &given,
            "gy (N, K, P, Q), w (K, C/groups, R, S)",
        ));
    };
    let x = [gy.shape()[0], channels, input[0], input[1]];
    let sizes = Sizes::new(op, &given, &x, w.shape(), geometry)?;
    check_output(op, &given, gy, &sizes)?;
    equal_floats(op, &[gy, w])?;
    let gx = profile::call(op, &[gy, w], || match gy.device() {
        Device::Cpu => cpu::input_gradient(gy, w, &sizes),
        Device::Cuda(_) => cuda::input_gradient(gy, w, &sizes),
    })?;
    Ok(record(op, &[gy, w], gx, Save::ALL, move |b| {
        let (gy, w) = (b.input(0)?, b.input(1)?);
        Ok(vec![
            b.when(0, || conv2d(&b.grad, &w, None, geometry))?,
            b.when(1, || {
                conv2d_weight_gradient(&b.grad, &gy, sizes.kernel, geometry)
            })?,
        ])
    }))
}

/// The gradient of [`conv2d`] with respect to w, a kernel of `kernel` taps:
/// x (N, C, H, W), gy (N, K, P, Q) -> (K, C/groups, R, S), contiguous.
///
/// # Errors
/// Shapes that do not fit each other or the geometry, or two dtypes.
pub fn conv2d_weight_gradient(
    x: &Tensor,
    gy: &Tensor,
    kernel: [usize; 2],
    geometry: Conv2d,
) -> Result<Tensor> {
    let op = "conv2d_weight_gradient";
    let given = [x.shape(), gy.shape(), &kernel];
    if x.rank() != 4 || gy.rank() != 4 {
        return Err(Error::shape(op, &given, "x (N, C, H, W), gy (N, K, P, Q)"));
    }
    let per_group = x.shape()[1].checked_div(geometry.groups).unwrap_or(0);
    let w = [gy.shape()[1], per_group, kernel[0], kernel[1]];
    let sizes = Sizes::new(op, &given, x.shape(), &w, geometry)?;
    check_output(op, &given, gy, &sizes)?;
    equal_floats(op, &[x, gy])?;
    let gw = profile::call(op, &[x, gy], || match x.device() {
        Device::Cpu => cpu::weight_gradient(x, gy, &sizes),
        Device::Cuda(_) => cuda::weight_gradient(x, gy, &sizes),
    })?;
    Ok(record(op, &[x, gy], gw, Save::ALL, move |b| {
        let (x, gy) = (b.input(0)?, b.input(1)?);
        Ok(vec![
            b.when(0, || {
                conv2d_input_gradient(&gy, &b.grad, sizes.input, geometry)
            })?,
            b.when(1, || conv2d(&x, &b.grad, None, geometry))?,
        ])
    }))
}

fn check_output(op: &'static str, given: &[&[usize]], gy: &Tensor, sizes: &Sizes) -> Result<()> {
    let expected = sizes.y_shape();
    if gy.shape() == expected {
        return Ok(());
    }
    let geometry = sizes.geometry;
    let problem = format!("gy must have the output's shape {expected:?} ({geometry:?})");
    Err(Error::shape(op, given, problem))
}
