//! 3x3 convolutions of stride 1 with 16 instead of 36 multiplications for four
//! outputs: F(2x2, 3x3) of Lavin and Gray 2016 (arXiv:1509.09308, section 4.1).
//!
//! The images are cut into tiles of 2x2 outputs, which see 4x4 inputs d. With
//! the filter g,
//!
//! ```text
//! y = A' [(G g G') * (B' d B)] A      * multiplies element by element
//! ```
//!
//! so that each of the 16 elements is a product of matrices, (tiles, inputs)
//! times (inputs, outputs), made by the loop that other convolutions use. A task
//! transforms some rows of tiles, multiplies them with one panel of filters after
//! the other, and transforms each result while it is in cache; nothing of the
//! size of an image is written between.
//!
//! F(4x4, 3x3) would need 36 for sixteen, but its constants lose two digits
//! more than the golden numbers allow. An infinity or NaN spreads to the outputs
//! of its tiles, up to two pixels away.
//!
//! Only f32: f64, which checks gradients and this algorithm, takes the plain way.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::epilogue::{Epilogue, Window};
use super::map::Map;
use crate::device::cpu::{Buffer, Parts, with_scratch};
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops::conv2d::Sizes;
use crate::ops::matmul::cpu::kernel::{
    Sums, WIDE_ROWS, fetch_share, has_wide_vectors, multiply_add,
};
use crate::tensor::Tensor;

/// Elements of a tile's input, and so matrices to multiply.
pub(super) const ELEMENTS: usize = 16;

/// Channels that are transformed at once.
pub(super) const LANES: usize = 8;

/// Tiles of a task at most, unless one row of them is more: enough that the
/// filters, which every task reads, cost little beside the multiplications.
const TASK_TILES: usize = 48;

/// Tasks that are wanted at least, for a balanced load.
const TASKS: usize = 16;

/// Fewer channels than this do not pay for their transforms.
const FEWEST_CHANNELS: usize = 16;

/// Keeps the 16 matrices of a task from starting at the same place of a page,
/// where their stores would wait for each other.
const SKEW: usize = 16;

/// Whether a convolution, or its input gradient, is done this way.
pub fn suits<T: Float>(sizes: &Sizes) -> bool {
    let g = &sizes.geometry;
    let whole = |c: usize| c >= FEWEST_CHANNELS && c.is_multiple_of(LANES);
    T::DTYPE == DType::F32
        && sizes.kernel == [3, 3]
        && (g.stride, g.dilation, g.groups) == ([1, 1], [1, 1], 1)
        && sizes.channels.into_iter().all(whole)
}

/// G g G' of every filter, as panels of NR outputs: (panel, element, input, NR),
/// with anything after the last output.
pub struct Transformed<T, const NR: usize> {
    panels: Buffer,
    inputs: usize,
    outputs: usize,
    of: PhantomData<T>,
}

impl<T: Float, const NR: usize> Transformed<T, NR> {
    /// For [`Map::forward`], or for [`Map::transposed`], whose filters are
    /// turned by half and go from outputs to inputs.
    pub fn new(w: &Tensor, sizes: &Sizes, transposed: bool) -> Result<Self> {
        let from = w.elements_of::<T>("conv2d")?;
        let offset = w.layout().offset();
        let mut s = [0; 4];
        s.copy_from_slice(w.layout().strides());
        let [mut outputs, mut inputs, ..] = sizes.w_shape();
        if transposed {
            (outputs, inputs) = (inputs, outputs);
            s.swap(0, 1);
        }
        let size = ELEMENTS * inputs * NR;
        let mut panels = Buffer::unwritten(outputs.div_ceil(NR) * size * size_of::<T>());
        let all = panels.as_mut_slice::<T>().par_chunks_mut(size);
        all.enumerate().for_each(|(p, to)| {
            let width = NR.min(outputs - p * NR);
            for i in 0..inputs {
                // All of the panel's filters at once, a tap per vector.
                let mut taps = [[0.0; NR]; 9];
                for j in 0..width {
                    let at = offset + (p * NR + j) * s[0] + i * s[1];
                    for (t, tap) in taps.iter_mut().enumerate() {
                        let [r, c] = [t / 3, t % 3].map(|t| if transposed { 2 - t } else { t });
                        tap[j] = from[at + r * s[2] + c * s[3]].to_f64();
                    }
                }
                for (e, values) in filter_transform(taps).iter().enumerate() {
                    let to = &mut to[(e * inputs + i) * NR..][..NR];
                    for (to, &value) in to.iter_mut().zip(values) {
                        *to = T::from_f64(value);
                    }
                }
            }
        });
        Ok(Self {
            panels,
            inputs,
            outputs,
            of: PhantomData,
        })
    }

    fn panels(&self) -> &[T] {
        self.panels.as_slice()
    }
}

/// G g G', row by row, of NR filters.
fn filter_transform<const NR: usize>(g: [[f64; NR]; 9]) -> [[f64; NR]; ELEMENTS] {
    // [g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2], along the rows, then down
    // the columns.
    let along = |[a, b, c]: [&[f64; NR]; 3]| {
        let mut to = [*a, *a, *a, *c];
        for l in 0..NR {
            to[1][l] = (a[l] + b[l] + c[l]) / 2.0;
            to[2][l] = (a[l] - b[l] + c[l]) / 2.0;
        }
        to
    };
    let rows: [[[f64; NR]; 4]; 3] =
        std::array::from_fn(|r| along([&g[3 * r], &g[3 * r + 1], &g[3 * r + 2]]));
    let columns: [[[f64; NR]; 4]; 4] =
        std::array::from_fn(|j| along([&rows[0][j], &rows[1][j], &rows[2][j]]));
    std::array::from_fn(|e| columns[e % 4][e / 4])
}

/// `out` (N, H, W, outputs) = epilogue of the convolution of `x`
/// (N, H', W', inputs).
pub fn run<T: Float, const NR: usize, const MR: usize>(
    x: &[T],
    map: &Map,
    weights: &Transformed<T, NR>,
    epilogue: &Epilogue<T>,
    out: &mut [T],
) {
    let whole = Window::whole(weights.outputs);
    run_into::<T, NR, MR>(x, map, weights, epilogue, (out, whole));
}

/// As [`run`] with some channels of wider pixels as result.
pub fn run_into<T: Float, const NR: usize, const MR: usize>(
    x: &[T],
    map: &Map,
    weights: &Transformed<T, NR>,
    epilogue: &Epilogue<T>,
    (out, window): (&mut [T], Window),
) {
    let [down, along] = map.target.map(|n| n.div_ceil(2));
    assert_eq!(
        out.len(),
        map.batch * map.target[0] * map.target[1] * window.pixel
    );
    assert!(window.first + weights.outputs <= window.pixel);
    if out.is_empty() {
        return;
    }
    let task = Task {
        images: Images {
            x,
            map,
            zeros: &vec![T::ZERO; weights.inputs],
        },
        weights,
        epilogue,
        grid: [down, along],
        out: Parts::of(out),
        window,
    };
    // Some rows of tiles each, and where that makes few tasks some panels: their
    // inputs are then transformed more than once, which costs less than to read the
    // filters for fewer tiles.
    let rows = map.batch * down;
    let together = TASK_TILES.div_ceil(along).min(rows);
    let by_rows = rows.div_ceil(together);
    let panels = weights.outputs.div_ceil(NR);
    let wide = panels.div_ceil(TASKS.div_ceil(by_rows).min(panels));
    let by_panels = panels.div_ceil(wide);
    (0..by_rows * by_panels).into_par_iter().for_each(|i| {
        let (row, panel) = (i / by_panels * together, i % by_panels * wide);
        let rows = row..(row + together).min(rows);
        let tiles = along * rows.len();
        let inputs = ELEMENTS * (tiles * weights.inputs + SKEW);
        with_scratch(inputs + ELEMENTS * tiles * NR, |scratch| {
            let (transformed, products) = scratch.split_at_mut(inputs);
            task.run::<MR>(
                rows,
                panel..(panel + wide).min(panels),
                transformed,
                products,
            );
        });
    });
}

/// What is cut into tiles of 4x4.
pub(super) struct Images<'a, T> {
    /// (N, H, W, channels).
    pub x: &'a [T],
    pub map: &'a Map,
    /// A pixel's worth, read in place of the padding.
    pub zeros: &'a [T],
}

impl<T: Float> Images<'_, T> {
    /// B' d B of the tile whose outputs begin at (image, row, column); each of
    /// the 16 elements goes to the same place of its matrix, and [`LANES`]
    /// channels lie `group` after the ones before them.
    #[inline(always)]
    pub fn transform(
        &self,
        [image, row, column]: [usize; 3],
        to: &mut [T],
        [matrix, group]: [usize; 2],
    ) {
        let channels = self.zeros.len();
        let padding = &self.map.geometry.padding;
        let first = [row, column];
        let source = |axis: usize, i: usize| {
            let at = first[axis] + i;
            let at = if self.map.transposed {
                (at + padding[axis]).checked_sub(2)?
            } else {
                at.checked_sub(padding[axis])?
            };
            (at < self.map.source[axis]).then_some(at)
        };
        let mut pixels = [self.zeros.as_ptr(); ELEMENTS];
        for (e, pixel) in pixels.iter_mut().enumerate() {
            if let Some((i, j)) = source(0, e / 4).zip(source(1, e % 4)) {
                let at = self.map.source_pixel(image, i, j) * channels;
                *pixel = self.x[at..at + channels].as_ptr();
            }
        }
        let groups = channels / LANES;
        let to = to[..(ELEMENTS - 1) * matrix + (groups - 1) * group + LANES].as_mut_ptr();
        for g in 0..groups {
            // SAFETY: a pixel has `channels` elements, whole lanes of them.
            let d = |e: usize| unsafe { *pixels[e].add(g * LANES).cast::<[T; LANES]>() };
            // [d0 - d2, d1 + d2, d2 - d1, d1 - d3], down the columns, then along the rows.
            let mut t = [[T::ZERO; LANES]; ELEMENTS];
            for j in 0..4 {
                let (d0, d1, d2, d3) = (d(j), d(4 + j), d(8 + j), d(12 + j));
                for l in 0..LANES {
                    t[j][l] = d0[l] - d2[l];
                    t[4 + j][l] = d1[l] + d2[l];
                    t[8 + j][l] = d2[l] - d1[l];
                    t[12 + j][l] = d1[l] - d3[l];
                }
            }
            for i in 0..4 {
                let (t0, t1, t2, t3) = (t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]);
                let mut row = [[T::ZERO; LANES]; 4];
                for l in 0..LANES {
                    row[0][l] = t0[l] - t2[l];
                    row[1][l] = t1[l] + t2[l];
                    row[2][l] = t2[l] - t1[l];
                    row[3][l] = t1[l] - t3[l];
                }
                for (j, row) in row.iter().enumerate() {
                    // SAFETY: the slice behind the pointer ends with the last lanes
                    // of the last element.
                    unsafe {
                        *to.add((4 * i + j) * matrix + g * group)
                            .cast::<[T; LANES]>() = *row
                    };
                }
            }
        }
    }
}

struct Task<'a, T, const NR: usize> {
    images: Images<'a, T>,
    weights: &'a Transformed<T, NR>,
    epilogue: &'a Epilogue<'a, T>,
    /// Tiles down and along an image.
    grid: [usize; 2],
    out: Parts<'a, T>,
    window: Window,
}

impl<T: Float, const NR: usize> Task<'_, T, NR> {
    /// `rows` of tiles, counted over all images, times some panels.
    fn run<const MR: usize>(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        inputs: &mut [T],
        products: &mut [T],
    ) {
        #[cfg(target_arch = "x86_64")]
        if MR == WIDE_ROWS && has_wide_vectors() {
            // SAFETY: the processor has the instructions.
            unsafe { self.run_avx512::<MR>(rows, panels, inputs, products) };
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            unsafe { self.run_avx2::<MR>(rows, panels, inputs, products) };
            return;
        }
        self.body::<MR, { cfg!(target_arch = "aarch64") }>(rows, panels, inputs, products);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2<const MR: usize>(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        inputs: &mut [T],
        products: &mut [T],
    ) {
        self.body::<MR, true>(rows, panels, inputs, products);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    fn run_avx512<const MR: usize>(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        inputs: &mut [T],
        products: &mut [T],
    ) {
        self.body::<MR, true>(rows, panels, inputs, products);
    }

    #[inline(always)]
    fn body<const MR: usize, const FUSED: bool>(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        inputs: &mut [T],
        products: &mut [T],
    ) {
        let [down, along] = self.grid;
        let tiles = along * rows.len();
        let matrix = inputs.len() / ELEMENTS;
        let place = |tile: usize| {
            let row = rows.start + tile / along;
            [row / down, row % down * 2, tile % along * 2]
        };
        for tile in 0..tiles {
            let to = &mut inputs[tile * self.weights.inputs..];
            self.images.transform(place(tile), to, [matrix, LANES]);
        }
        let size = ELEMENTS * self.weights.inputs * NR;
        for p in panels {
            let panel = &self.weights.panels()[p * size..(p + 1) * size];
            for e in 0..ELEMENTS {
                let from = |e: usize| &inputs[e % ELEMENTS * matrix..][..matrix];
                let of_element = |e: usize| &panel[e * size / ELEMENTS..][..size / ELEMENTS];
                let to = &mut products[e * tiles * NR..(e + 1) * tiles * NR];
                // After the last, the next panel's filters follow.
                let filters = &self.weights.panels()[(p * ELEMENTS + e + 1) * size / ELEMENTS..];
                let filters = &filters[..filters.len().min(size / ELEMENTS)];
                self.multiply::<MR, FUSED>(from(e), of_element(e), to, [from(e + 1), filters]);
            }
            for tile in 0..tiles {
                self.scatter(&products[tile * NR..], tiles * NR, p * NR, place(tile));
            }
        }
    }

    /// (tiles, inputs) times (inputs, NR) -> (tiles, NR), asking for what the next
    /// product reads.
    #[inline(always)]
    fn multiply<const MR: usize, const FUSED: bool>(
        &self,
        from: &[T],
        panel: &[T],
        to: &mut [T],
        next: [&[T]; 2],
    ) {
        let run = self.weights.inputs;
        let tiles = to.len() / NR;
        let panel = panel[..run * NR].as_ptr();
        for first in (0..tiles).step_by(MR) {
            for ahead in next {
                fetch_share(ahead, first / MR, tiles.div_ceil(MR));
            }
            // The last tile is repeated where fewer are left.
            let rows = std::array::from_fn(|i| {
                let tile = (first + i).min(tiles - 1);
                from[tile * run..][..run].as_ptr()
            });
            let sums: Sums<T, NR, MR> = [[T::ZERO; NR]; MR];
            // SAFETY: each row has `run` elements, and the panel `run` times NR.
            let sums = unsafe { multiply_add::<T, NR, MR, FUSED>(rows, panel, run, sums) };
            for (to, sum) in to[first * NR..].chunks_exact_mut(NR).zip(&sums) {
                to.copy_from_slice(sum);
            }
        }
    }

    /// A' m A of a tile, for the outputs from `channel` on, and what follows it.
    #[inline(always)]
    fn scatter(
        &self,
        products: &[T],
        matrix: usize,
        channel: usize,
        [image, row, column]: [usize; 3],
    ) {
        let outputs = self.weights.outputs;
        let width = NR.min(outputs - channel);
        // [m0 + m1 + m2, m1 - m2 - m3], down the columns, then along the rows.
        let mut down = [[[T::ZERO; NR]; 2]; 4];
        let products = products[..(ELEMENTS - 1) * matrix + NR].as_ptr();
        // SAFETY: the slice behind the pointer ends with the last element's lanes.
        let m = |e: usize| unsafe { *products.add(e * matrix).cast::<[T; NR]>() };
        for (j, down) in down.iter_mut().enumerate() {
            let (m0, m1, m2, m3) = (m(j), m(4 + j), m(8 + j), m(12 + j));
            for l in 0..NR {
                down[0][l] = m0[l] + m1[l] + m2[l];
                down[1][l] = m1[l] - m2[l] - m3[l];
            }
        }
        let mut bias = [T::ZERO; NR];
        if let Some(all) = self.epilogue.bias {
            bias[..width].copy_from_slice(&all[channel..channel + width]);
        }
        let mut y = [[[T::ZERO; NR]; 2]; 2];
        for i in 0..2 {
            for l in 0..NR {
                let (t0, t1) = (down[0][i][l], down[1][i][l]);
                let (t2, t3) = (down[2][i][l], down[3][i][l]);
                y[i][0][l] = t0 + t1 + t2 + bias[l];
                y[i][1][l] = t1 - t2 - t3 + bias[l];
            }
        }
        let [height, long] = self.images.map.target;
        for (y, i) in y.iter().zip(row..height) {
            for (y, j) in y.iter().zip(column..long) {
                let pixel = (image * height + i) * long + j;
                let at = pixel * self.window.pixel + self.window.first + channel;
                // SAFETY: no other task has this tile and these channels.
                let out = unsafe { self.out.part(at, width) };
                if width == NR {
                    self.epilogue.write_array(at, *y, out);
                } else {
                    self.epilogue.write(at, &y[..width], out);
                }
            }
        }
    }
}
