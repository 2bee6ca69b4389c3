//! Which pixels a convolution, or its input gradient, reads for a pixel that it
//! writes.
//!
//! Both gather: every written pixel is a sum over taps in a fixed order, so no
//! two tasks ever add to one place. In the gradient of a strided convolution a
//! pixel sees only the taps that fall on the stride; pixels whose (vertical,
//! horizontal) remainders agree, a *phase*, see the same ones.

use crate::ops::conv2d::{Conv2d, Sizes};

#[derive(Clone, Copy)]
pub struct Map {
    pub batch: usize,
    pub source: [usize; 2],
    pub target: [usize; 2],
    pub kernel: [usize; 2],
    pub geometry: Conv2d,
    /// Whether this is the input gradient.
    pub transposed: bool,
}

impl Map {
    pub fn forward(sizes: &Sizes) -> Self {
        Self {
            batch: sizes.batch,
            source: sizes.input,
            target: sizes.output,
            kernel: sizes.kernel,
            geometry: sizes.geometry,
            transposed: false,
        }
    }

    pub fn transposed(sizes: &Sizes) -> Self {
        Self {
            source: sizes.output,
            target: sizes.input,
            transposed: true,
            ..Self::forward(sizes)
        }
    }

    /// Pixels written, over the batch.
    pub fn pixels(&self) -> usize {
        self.batch * self.target[0] * self.target[1]
    }

    /// Image, row and column of a written pixel.
    pub fn place(&self, pixel: usize) -> [usize; 3] {
        let [h, w] = self.target;
        [pixel / (h * w), pixel / w % h, pixel % w]
    }

    /// As [`Self::place`] for `count` pixels from `first` on.
    pub fn places(&self, first: usize, count: usize) -> Vec<[usize; 3]> {
        let mut next = self.place(first);
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(next);
            next[2] += 1;
            if next[2] == self.target[1] {
                next = [next[0], next[1] + 1, 0];
            }
            if next[1] == self.target[0] {
                next = [next[0] + 1, 0, 0];
            }
        }
        all
    }

    /// Where tap `tap` of position `at` reads along an axis, `None` in the padding.
    #[inline]
    pub fn along(&self, axis: usize, at: usize, tap: usize) -> Option<usize> {
        let g = &self.geometry;
        let (stride, padding) = (g.stride[axis], g.padding[axis]);
        let tap = tap * g.dilation[axis];
        let i = if self.transposed {
            let reach = (at + padding).checked_sub(tap)?;
            if reach % stride != 0 {
                return None;
            }
            reach / stride
        } else {
            (at * stride + tap).checked_sub(padding)?
        };
        (i < self.source[axis]).then_some(i)
    }

    /// The phase of a position along an axis.
    pub fn phase(&self, axis: usize, at: usize) -> usize {
        if self.transposed {
            (at + self.geometry.padding[axis]) % self.geometry.stride[axis]
        } else {
            0
        }
    }

    /// The taps that pixels of a phase see, row by row.
    pub fn taps(&self, phase: [usize; 2]) -> Vec<[usize; 2]> {
        let along = |axis: usize| {
            let (stride, dilation) = (self.geometry.stride[axis], self.geometry.dilation[axis]);
            let sees = move |t: &usize| !self.transposed || t * dilation % stride == phase[axis];
            (0..self.kernel[axis]).filter(sees)
        };
        along(0)
            .flat_map(|r| along(1).map(move |s| [r, s]))
            .collect()
    }

    /// Index of a source pixel over the batch.
    pub fn source_pixel(&self, image: usize, row: usize, column: usize) -> usize {
        (image * self.source[0] + row) * self.source[1] + column
    }
}
