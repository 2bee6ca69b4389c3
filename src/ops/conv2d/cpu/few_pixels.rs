//! Convolutions of few pixels and many channels, as those next to the latent of a generator,
//! and input gradients of images of few channels.
//!
//! What costs elsewhere is nothing beside the products: to pack the weights for [`super::dense`],
//! of which each is used a few dozen times here, took three times as long as to multiply with
//! them. So the weights stay where they lie, as rows of (channel, tap), and the few pixels
//! are brought into that order: patches for the convolution and its weight gradient, and for the
//! input gradient the product's rows are added to the pixels that they belong to. An image of 3
//! channels, of which a panel would be nearly empty, gets its gradient in the same way.
//!
//! Which way is taken depends on one image and the weights, and an image's bits on it alone.

use rayon::prelude::*;

use super::map::Map;
use crate::device::cpu::{Buffer, with_scratch};
use crate::dtype::Float;
use crate::ops::conv2d::Sizes;
use crate::ops::matmul::cpu::blocked::{Matrix, Product};
use crate::ops::matmul::cpu::transpose::transposed;

/// Output channels for each output pixel of an image from which on the weights are so large.
const CHANNELS: usize = 16;
/// Below this many channels of the image a panel of the dense way is mostly empty.
const FEW_CHANNELS: usize = 8;
/// Output channels from which on that is worth it.
const INNER: usize = 32;
/// Elements of patches that are made at once.
const PATCHES: usize = 1 << 22;

fn several_taps(sizes: &Sizes) -> bool {
    sizes.geometry.groups == 1 && sizes.taps() > 1
}

pub fn suits(sizes: &Sizes) -> bool {
    let pixels = sizes.output[0] * sizes.output[1];
    several_taps(sizes) && CHANNELS * pixels <= sizes.channels[1]
}

pub fn suits_input_gradient(sizes: &Sizes) -> bool {
    let few = sizes.channels[0] < FEW_CHANNELS && sizes.channels[1] >= INNER;
    suits(sizes) || several_taps(sizes) && few
}

/// Sizes that all three need.
struct Plan {
    map: Map,
    /// Of the image and of the result.
    channels: [usize; 2],
    taps: usize,
    /// Elements of a patch, and output pixels of an image.
    row: usize,
    pixels: usize,
    /// Images whose patches are made at once.
    images: usize,
}

impl Plan {
    fn new(sizes: &Sizes) -> Self {
        let row = sizes.channels[0] * sizes.taps();
        let pixels = sizes.output[0] * sizes.output[1];
        let images = (PATCHES / (row * pixels).max(1)).clamp(1, sizes.batch.max(1));
        Self {
            map: Map::forward(sizes),
            channels: sizes.channels,
            taps: sizes.taps(),
            row,
            pixels,
            images,
        }
    }

    fn room<T: Float>(&self) -> Buffer {
        Buffer::unwritten(self.images * self.pixels * self.row * size_of::<T>())
    }

    /// Where each tap of an output pixel reads, in elements of the images.
    fn places(&self, pixel: usize) -> impl Iterator<Item = Option<usize>> {
        let [image, row, column] = self.map.place(pixel);
        (0..self.taps).map(move |tap| {
            let (r, s) = (tap / self.map.kernel[1], tap % self.map.kernel[1]);
            let (i, j) = (self.map.along(0, row, r)).zip(self.map.along(1, column, s))?;
            Some(self.map.source_pixel(image, i, j) * self.channels[0])
        })
    }

    /// Patches (pixels, channel, tap) of the output pixels from `first` on.
    fn patches<T: Float>(&self, x: &[T], first: usize, to: &mut [T]) {
        let c = self.channels[0];
        to.par_chunks_mut(self.row).enumerate().for_each(|(p, to)| {
            with_scratch(self.row, |by_tap: &mut [T]| {
                let parts = by_tap.chunks_exact_mut(c);
                for (place, part) in self.places(first + p).zip(parts) {
                    match place {
                        Some(at) => part.copy_from_slice(&x[at..at + c]),
                        None => part.fill(T::ZERO),
                    }
                }
                transposed([self.taps, c], (by_tap, c), (to, self.taps));
            });
        });
    }
}

/// `out` (N, P, Q, K) from x (N, H, W, C) and w (K, C, R, S).
pub fn forward<T: Float>(x: &[T], w: &[T], bias: Option<&[T]>, sizes: &Sizes, out: &mut [T]) {
    let plan = Plan::new(sizes);
    let k = plan.channels[1];
    if out.is_empty() {
        return;
    }
    let mut room = plan.room::<T>();
    let add_bias = |_: usize, column: usize, values: &mut [T]| {
        if let Some(bias) = bias {
            let bias = &bias[column..column + values.len()];
            values.iter_mut().zip(bias).for_each(|(v, &b)| *v += b);
        }
    };
    let part = plan.images * plan.pixels;
    for (i, out) in out.chunks_mut(part * k).enumerate() {
        let m = out.len() / k;
        let patches = &mut room.as_mut_slice::<T>()[..m * plan.row];
        plan.patches(x, i * part, patches);
        let by_channel = Matrix {
            start: 0,
            row: 1,
            column: plan.row,
        };
        let product = Product {
            sizes: [m, plan.row, k],
            a: (patches, Matrix::rows_of(0, plan.row)),
            b: (w, by_channel),
            accumulate: false,
            finish: Some(&add_bias),
        };
        product.run(out, k);
    }
}

/// `out` (N, H, W, C) from gy (N, P, Q, K) and w (K, C, R, S).
pub fn input_gradient<T: Float>(gy: &[T], w: &[T], sizes: &Sizes, out: &mut [T]) {
    let plan = Plan::new(sizes);
    let [c, k] = plan.channels;
    let image = sizes.input[0] * sizes.input[1] * c;
    if out.is_empty() {
        return;
    }
    let mut room = plan.room::<T>();
    for (i, out) in out.chunks_mut(plan.images * image).enumerate() {
        let (first, m) = (i * plan.images, out.len() / image * plan.pixels);
        let rows = &mut room.as_mut_slice::<T>()[..m * plan.row];
        let product = Product {
            sizes: [m, k, plan.row],
            a: (gy, Matrix::rows_of(first * plan.pixels * k, k)),
            b: (w, Matrix::rows_of(0, plan.row)),
            accumulate: false,
            finish: None,
        };
        product.run(rows, plan.row);
        // Tasks by image, so that no two add to one place, and in one order.
        let of_images = rows.par_chunks(plan.pixels * plan.row);
        (out.par_chunks_mut(image).zip(of_images).enumerate()).for_each(|(i, (out, rows))| {
            out.fill(T::ZERO);
            let start = (first + i) * image;
            with_scratch(plan.row, |by_tap: &mut [T]| {
                for (p, row) in rows.chunks_exact(plan.row).enumerate() {
                    transposed([c, plan.taps], (row, plan.taps), (by_tap, c));
                    let pixel = (first + i) * plan.pixels + p;
                    for (place, part) in plan.places(pixel).zip(by_tap.chunks_exact(c)) {
                        if let Some(at) = place {
                            let to = &mut out[at - start..at - start + c];
                            to.iter_mut().zip(part).for_each(|(t, &v)| *t += v);
                        }
                    }
                }
            });
        });
    }
}

/// `out` (K, C, R, S) from x (N, H, W, C) and gy (N, P, Q, K).
pub fn weight_gradient<T: Float>(x: &[T], gy: &[T], sizes: &Sizes, out: &mut [T]) {
    let plan = Plan::new(sizes);
    let k = plan.channels[1];
    let mut room = plan.room::<T>();
    for first in (0..sizes.batch).step_by(plan.images) {
        let m = plan.images.min(sizes.batch - first) * plan.pixels;
        let patches = &mut room.as_mut_slice::<T>()[..m * plan.row];
        plan.patches(x, first * plan.pixels, patches);
        let by_filter = Matrix {
            start: first * plan.pixels * k,
            row: 1,
            column: k,
        };
        let product = Product {
            sizes: [k, m, plan.row],
            a: (gy, by_filter),
            b: (patches, Matrix::rows_of(0, plan.row)),
            accumulate: first > 0,
            finish: None,
        };
        product.run(out, plan.row);
    }
    if sizes.batch == 0 {
        out.fill(T::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pack::Packed;
    use super::super::{Conv2d, dense, weight_gradient};
    use super::*;
    use crate::ops::conv2d::cpu::epilogue::{Epilogue, Residual};
    use crate::ops::matmul::cpu::kernel::{F64_COLUMNS, MR};
    use crate::random::Philox;
    use crate::tensor::Tensor;

    fn normal(len: usize, seed: u64) -> Vec<f64> {
        let mut values = vec![0.0f32; len];
        Philox::new(seed).fill_normal(&mut values, 0.0, 1.0);
        values.into_iter().map(f64::from).collect()
    }

    fn close(what: &str, a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a - b).abs() < 1e-10, "{what} {i}: {a}, {b}");
        }
    }

    /// Against the dense way, which tests/ops compares with plain sums.
    fn check(batch: usize, channels: [usize; 2], input: [usize; 2], kernel: [usize; 2], g: Conv2d) {
        let along = |a: usize| {
            (input[a] + 2 * g.padding[a] - g.dilation[a] * (kernel[a] - 1) - 1) / g.stride[a] + 1
        };
        let sizes = Sizes {
            batch,
            channels,
            input,
            output: [along(0), along(1)],
            kernel,
            geometry: g,
        };
        let what = format!("{sizes:?}");
        let count = |shape: [usize; 4]| shape.iter().product::<usize>();
        let x = normal(count(sizes.x_shape()), 1);
        let w = normal(count(sizes.w_shape()), 2);
        let gy = normal(count(sizes.y_shape()), 3);
        let bias = normal(channels[1], 4);
        let tensor = Tensor::from_slice(&w, &sizes.w_shape()).unwrap();
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual: Residual::None,
            activation: None,
        };

        let (mut ours, mut theirs) = (vec![7.0; gy.len()], vec![7.0; gy.len()]);
        forward(&x, &w, Some(&bias), &sizes, &mut ours);
        let packed = Packed::<f64, F64_COLUMNS>::forward(&tensor, &sizes).unwrap();
        dense::run::<f64, F64_COLUMNS, MR>(
            &x,
            &Map::forward(&sizes),
            &packed,
            &epilogue,
            &mut theirs,
        );
        close(&what, &ours, &theirs);

        let (mut ours, mut theirs) = (vec![7.0; x.len()], vec![7.0; x.len()]);
        input_gradient(&gy, &w, &sizes, &mut ours);
        let packed = Packed::<f64, F64_COLUMNS>::transposed(&tensor, &sizes).unwrap();
        let map = Map::transposed(&sizes);
        dense::run::<f64, F64_COLUMNS, MR>(&gy, &map, &packed, &Epilogue::NONE, &mut theirs);
        close(&what, &ours, &theirs);

        let mut ours = vec![7.0; w.len()];
        super::weight_gradient(&x, &gy, &sizes, &mut ours);
        let mut theirs = vec![0.0; w.len()];
        weight_gradient::run(&x, &gy, &sizes, &mut theirs);
        let ([k, c, ..], taps) = (sizes.w_shape(), sizes.taps());
        for (i, v) in ours.iter().enumerate() {
            let (filter, channel, tap) = (i / (c * taps), i / taps % c, i % taps);
            let other = theirs[(tap * c + channel) * k + filter];
            assert!((v - other).abs() < 1e-10, "{what} {i}: {v}, {other}");
        }
    }

    #[test]
    fn agrees_with_the_dense_way() {
        let halving = Conv2d {
            stride: [2, 2],
            padding: [1, 1],
            ..Conv2d::default()
        };
        check(3, [5, 64], [4, 4], [4, 4], halving);
        check(
            2,
            [9, 33],
            [1, 1],
            [1, 3],
            Conv2d {
                padding: [0, 1],
                ..Conv2d::default()
            },
        );
        check(3, [19, 40], [4, 4], [4, 4], Conv2d::default());
        check(
            2,
            [3, 37],
            [9, 7],
            [3, 2],
            Conv2d {
                dilation: [2, 1],
                ..halving
            },
        );
        check(0, [3, 37], [4, 4], [4, 4], halving);
    }

    #[test]
    fn images_are_cut_into_parts_without_a_difference() {
        let sizes = |batch| Sizes {
            batch,
            channels: [64, 512],
            input: [8, 8],
            output: [4, 4],
            kernel: [4, 4],
            geometry: Conv2d {
                stride: [2, 2],
                padding: [1, 1],
                ..Conv2d::default()
            },
        };
        // More images than are taken at once.
        let many = PATCHES / (64 * 16 * 16) + 2;
        assert!(suits(&sizes(many)) && Plan::new(&sizes(many)).images < many);
        let w: Vec<f32> = normal(512 * 64 * 16, 1).iter().map(|&v| v as f32).collect();
        let gy: Vec<f32> = normal(many * 16 * 512, 2)
            .iter()
            .map(|&v| v as f32)
            .collect();
        let mut all = vec![0.0f32; many * 64 * 64];
        input_gradient(&gy, &w, &sizes(many), &mut all);
        let mut y = vec![0.0f32; gy.len()];
        forward(&all, &w, None, &sizes(many), &mut y);
        for i in [0, many - 1] {
            let mut one = vec![0.0f32; 64 * 64];
            input_gradient(&gy[i * 16 * 512..][..16 * 512], &w, &sizes(1), &mut one);
            assert!(one == all[i * 64 * 64..][..64 * 64], "image {i}");
            let mut its = vec![0.0f32; 16 * 512];
            forward(&one, &w, None, &sizes(1), &mut its);
            assert!(its == y[i * 16 * 512..][..16 * 512], "image {i}");
        }
    }
}
