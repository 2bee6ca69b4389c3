//! Weights in the order in which the kernel reads them.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use rayon::prelude::*;

use crate::device::cpu::Buffer;
use crate::dtype::Float;
use crate::error::Result;
use crate::ops::conv2d::Sizes;
use crate::tensor::Tensor;

/// Below this many input channels the taps of a kernel's row are one run.
const FEW_CHANNELS: usize = 8;

/// Inputs whose weights are packed together.
const INPUTS: usize = 16;

/// Weights as panels of NR output channels, (group, panel, tap, run, NR) with
/// zeros after the last channel of a group.
pub struct Packed<T, const NR: usize> {
    pub panels: Panels<T>,
    pub groups: usize,
    /// Channels written and read per group.
    pub outputs: usize,
    pub inputs: usize,
    taps: usize,
    /// Elements per tap.
    pub run: usize,
    /// Whether a tap is a row of the kernel, whose run is in the order (column,
    /// channel).
    pub merged: bool,
}

/// Elements in memory that the next weights may have again: a network in training packs
/// its weights in every step, and pages that the system hands out anew cost as much as
/// the packing.
pub struct Panels<T> {
    memory: Buffer,
    of: PhantomData<T>,
}

impl<T: Float> Panels<T> {
    fn unwritten(len: usize) -> Self {
        Self {
            memory: Buffer::unwritten(len * size_of::<T>()),
            of: PhantomData,
        }
    }
}

impl<T: Float> Deref for Panels<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.memory.as_slice()
    }
}

impl<T: Float> DerefMut for Panels<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.memory.as_mut_slice()
    }
}

/// Whether neighbouring taps of a kernel row are neighbours in memory and
/// short: of an image of 3 channels, say.
fn merges(sizes: &Sizes) -> bool {
    sizes.channels[0] < FEW_CHANNELS
        && sizes.geometry.groups == 1
        && sizes.kernel[1] > 1
        && sizes.geometry.dilation[1] == 1
}

impl<T: Float, const NR: usize> Packed<T, NR> {
    /// For [`Map::forward`]: a tap's run is the input channels of a group, or of all
    /// columns of the kernel.
    pub fn forward(w: &Tensor, sizes: &Sizes) -> Result<Self> {
        let [k, c, r, s] = sizes.w_shape();
        let outputs = k / sizes.geometry.groups;
        let merged = merges(sizes);
        let strides = strides(w);
        let (taps, run) = if merged { (r, s * c) } else { (r * s, c) };
        let mut packed = Self::empty(sizes, outputs, c, taps, run);
        packed.merged = merged;
        packed.fill(w, |group, output, tap, i| {
            let (tap, channel) = if merged {
                (tap * s + i / c, i % c)
            } else {
                (tap, i)
            };
            (group * outputs + output) * strides[0]
                + channel * strides[1]
                + tap / s * strides[2]
                + tap % s * strides[3]
        })?;
        Ok(packed)
    }

    /// For [`Map::transposed`]: a tap's run is the output channels of a group.
    pub fn transposed(w: &Tensor, sizes: &Sizes) -> Result<Self> {
        let [k, c, _, s] = sizes.w_shape();
        let inputs = k / sizes.geometry.groups;
        let strides = strides(w);
        let mut packed = Self::empty(sizes, c, inputs, sizes.kernel[0] * s, inputs);
        packed.fill(w, |group, output, tap, i| {
            (group * inputs + i) * strides[0]
                + output * strides[1]
                + tap / s * strides[2]
                + tap % s * strides[3]
        })?;
        Ok(packed)
    }

    fn empty(sizes: &Sizes, outputs: usize, inputs: usize, taps: usize, run: usize) -> Self {
        let groups = sizes.geometry.groups;
        let panels = groups * outputs.div_ceil(NR);
        Self {
            panels: Panels::unwritten(panels * taps * run * NR),
            groups,
            outputs,
            inputs,
            taps,
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
        // Where nothing is merged, places go up evenly along both.
        let even = !self.merged && run > 0 && outputs > 0;
        let along = |output: usize, i: usize| match even {
            true => place(0, output.min(outputs - 1), 0, i.min(run - 1)) - place(0, 0, 0, 0),
            false => 0,
        };
        let (by_output, by_input, taps) = (along(1, 0), along(0, 1), self.taps);
        let one = |i: usize, panel: &mut [T]| {
            let (group, first) = (i / per_group, i % per_group * NR);
            let filled = NR.min(outputs - first);
            if filled < NR {
                panel.fill(T::ZERO);
            }
            if even {
                let starts: Vec<usize> = (0..taps)
                    .map(|tap| offset + place(group, first, tap, 0))
                    .collect();
                // Some inputs at a time, so that lines which all taps of these read and
                // write stay in cache. (Tap by tap, packing the widest layer of a critic
                // took longer than its products.)
                for inputs in (0..run).step_by(INPUTS) {
                    for j in 0..filled {
                        for i in inputs..(inputs + INPUTS).min(run) {
                            let at = j * by_output + i * by_input;
                            for (tap, start) in starts.iter().enumerate() {
                                panel[(tap * run + i) * NR + j] = from[start + at];
                            }
                        }
                    }
                }
                return;
            }
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
        self.taps * self.run * NR
    }

    /// The panels of a group, in order.
    pub fn of_group(&self, group: usize) -> &[T] {
        let size = self.outputs.div_ceil(NR) * self.panel_size();
        &self.panels[group * size..(group + 1) * size]
    }
}

fn strides(w: &Tensor) -> [usize; 4] {
    let s = w.layout().strides();
    [s[0], s[1], s[2], s[3]]
}
