//! Weights in the order in which the kernel reads them.

use rayon::prelude::*;

use super::map::Map;
use crate::dtype::Float;
use crate::error::Result;
use crate::ops::conv2d::Sizes;
use crate::tensor::Tensor;

/// Below this many input channels the taps of a kernel row are read as one run.
const FEW_CHANNELS: usize = 8;

/// Weights as panels of NR output channels, (group, panel, tap, run, NR) with
/// zeros after the last channel of a group.
pub struct Packed<T, const NR: usize> {
    pub panels: Vec<T>,
    pub groups: usize,
    /// Channels written and read per group.
    pub outputs: usize,
    pub inputs: usize,
    /// Kernel as the kernel sees it: with `merged`, a row of taps is one tap.
    pub kernel: [usize; 2],
    /// Elements per tap.
    pub run: usize,
    pub merged: bool,
}

/// Whether neighbouring taps of a kernel row are neighbours in memory and
/// short: an image of 3 channels, say. They are then read as one run from an
/// image with its padding written out.
fn merges(sizes: &Sizes) -> bool {
    sizes.channels[0] < FEW_CHANNELS
        && sizes.geometry.groups == 1
        && sizes.kernel[1] > 1
        && sizes.geometry.dilation[1] == 1
}

impl<T: Float, const NR: usize> Packed<T, NR> {
    /// For [`Map::forward`]: a tap's run is the input channels of a group.
    pub fn forward(w: &Tensor, sizes: &Sizes) -> Result<Self> {
        let [k, c, r, s] = sizes.w_shape();
        let outputs = k / sizes.geometry.groups;
        let merged = merges(sizes);
        let strides = strides(w);
        let (kernel, run) = if merged { ([r, 1], s * c) } else { ([r, s], c) };
        let mut packed = Self::empty(sizes, outputs, c, kernel, run);
        packed.merged = merged;
        packed.fill(w, |group, output, tap, i| {
            let (row, column, channel) = if merged {
                (tap, i / c, i % c)
            } else {
                (tap / s, tap % s, i)
            };
            (group * outputs + output) * strides[0]
                + channel * strides[1]
                + row * strides[2]
                + column * strides[3]
        })?;
        Ok(packed)
    }

    /// For [`Map::transposed`]: a tap's run is the output channels of a group.
    pub fn transposed(w: &Tensor, sizes: &Sizes) -> Result<Self> {
        let [k, c, _, s] = sizes.w_shape();
        let inputs = k / sizes.geometry.groups;
        let strides = strides(w);
        let mut packed = Self::empty(sizes, c, inputs, sizes.kernel, inputs);
        packed.fill(w, |group, output, tap, i| {
            (group * inputs + i) * strides[0]
                + output * strides[1]
                + tap / s * strides[2]
                + tap % s * strides[3]
        })?;
        Ok(packed)
    }

    fn empty(sizes: &Sizes, outputs: usize, inputs: usize, kernel: [usize; 2], run: usize) -> Self {
        let groups = sizes.geometry.groups;
        let panels = groups * outputs.div_ceil(NR);
        Self {
            panels: vec![T::ZERO; panels * kernel[0] * kernel[1] * run * NR],
            groups,
            outputs,
            inputs,
            kernel,
            run,
            merged: false,
        }
    }

    fn fill(
        &mut self,
        w: &Tensor,
        place: impl Fn(usize, usize, usize, usize) -> usize + Sync,
    ) -> Result<()> {
        let from = w.elements_of::<T>("conv2d")?;
        let offset = w.layout().offset();
        let (run, outputs, size) = (self.run, self.outputs, self.panel_size());
        let per_group = outputs.div_ceil(NR);
        let one = |i: usize, panel: &mut [T]| {
            let (group, first) = (i / per_group, i % per_group * NR);
            let filled = NR.min(outputs - first);
            for (row, values) in panel.chunks_mut(NR).enumerate() {
                for (j, v) in values[..filled].iter_mut().enumerate() {
                    *v = from[offset + place(group, first + j, row / run, row % run)];
                }
            }
        };
        self.panels
            .par_chunks_mut(size)
            .enumerate()
            .for_each(|(i, p)| one(i, p));
        Ok(())
    }

    /// Elements of one panel.
    pub fn panel_size(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.run * NR
    }

    /// The panels of a group, in order.
    pub fn of_group(&self, group: usize) -> impl Iterator<Item = &[T]> {
        let panels = self.outputs.div_ceil(NR);
        let size = self.panel_size();
        self.panels[group * panels * size..(group + 1) * panels * size].chunks_exact(size)
    }

    /// The map as seen through these weights.
    pub fn view(&self, mut map: Map) -> Map {
        if self.merged {
            for axis in [0, 1] {
                map.source[axis] += 2 * map.geometry.padding[axis];
            }
            map.geometry.padding = [0, 0];
            map.kernel = self.kernel;
        }
        map
    }
}

fn strides(w: &Tensor) -> [usize; 4] {
    let s = w.layout().strides();
    [s[0], s[1], s[2], s[3]]
}

/// The images (N, H, W, C) with their padding written out.
pub fn padded<T: Float>(x: &[T], map: &Map, channels: usize) -> Vec<T> {
    let [height, width] = map.source;
    let [ph, pw] = map.geometry.padding;
    let row = (width + 2 * pw) * channels;
    let rows = height + 2 * ph;
    let mut out = vec![T::ZERO; map.batch * rows * row];
    out.par_chunks_mut(row).enumerate().for_each(|(i, to)| {
        let (image, at) = (i / rows, i % rows);
        if (ph..ph + height).contains(&at) {
            let from = (image * height + at - ph) * width * channels;
            to[pw * channels..(pw + width) * channels]
                .copy_from_slice(&x[from..from + width * channels]);
        }
    });
    out
}
