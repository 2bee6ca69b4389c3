//! How element-wise CPU operators step through differently laid out operands.
//!
//! The axes are put in the output's physical order, axes of size 1 dropped and
//! neighbours merged wherever every operand allows it, so that the common cases
//! (same layout, a scalar, a per-channel vector against NHWC) become one or two
//! plain loops.
//!
//! A formula is copied into every run (`Copy`): what it holds is then in
//! registers. Read through a reference it would be loaded again after each store,
//! which keeps the compiler from making vectors of the loop.

use rayon::prelude::*;

use crate::device::cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::vector::{Vectors, widest};
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// A run of one operand's neighbours.
struct Run1<'a, A, U, F>(&'a mut [U], &'a [A], F);

impl<A: Copy, U, F: Fn(A) -> U> Vectors for Run1<'_, A, U, F> {
    #[inline(always)]
    fn run(self) {
        let Self(out, a, f) = self;
        for (o, &a) in out.iter_mut().zip(a) {
            *o = f(a);
        }
    }
}

/// A run of two operands' neighbours.
struct Run2<'a, A, B, U, F>(&'a mut [U], &'a [A], &'a [B], F);

impl<A: Copy, B: Copy, U, F: Fn(A, B) -> U> Vectors for Run2<'_, A, B, U, F> {
    #[inline(always)]
    fn run(self) {
        let Self(out, a, b, f) = self;
        for (o, (&a, &b)) in out.iter_mut().zip(a.iter().zip(b)) {
            *o = f(a, b);
        }
    }
}

struct Walk<const N: usize> {
    dims: Vec<usize>,
    /// Per axis, the stride of each operand.
    strides: Vec<[usize; N]>,
    offsets: [usize; N],
}

impl<const N: usize> Walk<N> {
    /// `out` must be dense; `inputs` must broadcast to its shape.
    fn new(out: &Layout, inputs: [&Layout; N]) -> Self {
        let inputs = inputs.map(|l| l.broadcast_to(*out.shape()));
        let mut dims: Vec<usize> = Vec::new();
        let mut strides: Vec<[usize; N]> = Vec::new();
        for axis in out.physical_order() {
            let size = out.shape()[axis];
            if size == 1 {
                continue;
            }
            let here = inputs.map(|l| l.strides()[axis]);
            match (dims.last_mut(), strides.last_mut()) {
                (Some(d), Some(s)) if (0..N).all(|i| s[i] == here[i] * size) => {
                    *d *= size;
                    *s = here;
                }
                _ => {
                    dims.push(size);
                    strides.push(here);
                }
            }
        }
        if dims.is_empty() {
            dims.push(1);
            strides.push([0; N]);
        }
        Self {
            dims,
            strides,
            offsets: inputs.map(|l| l.offset()),
        }
    }

    /// Calls `f(position, count, starts, steps)` for the runs that make up
    /// output elements `start..start + len`.
    fn runs(
        &self,
        start: usize,
        len: usize,
        f: &mut dyn FnMut(usize, usize, [usize; N], [usize; N]),
    ) {
        let inner = self.dims.len() - 1;
        let steps = self.strides[inner];
        let mut done = 0;
        while done < len {
            let mut rest = start + done;
            let column = rest % self.dims[inner];
            rest /= self.dims[inner];
            let mut at = self.offsets;
            at.iter_mut().zip(steps).for_each(|(a, s)| *a += column * s);
            for axis in (0..inner).rev() {
                let index = rest % self.dims[axis];
                rest /= self.dims[axis];
                let strides = self.strides[axis];
                at.iter_mut()
                    .zip(strides)
                    .for_each(|(a, s)| *a += index * s);
            }
            let count = (self.dims[inner] - column).min(len - done);
            f(done, count, at, steps);
            done += count;
        }
    }
}

/// The layout of an element-wise result: that of the first operand of the full
/// shape, without its holes.
pub(crate) fn result_layout(shape: Shape, inputs: &[&Layout]) -> Layout {
    let full = inputs.iter().filter(|l| *l.shape() == shape);
    let mut fallback = Layout::contiguous(shape);
    for l in full {
        if l.is_dense() {
            return l.packed();
        }
        if shape.len() == 4 && l.strides()[1] == 1 {
            fallback = Layout::new(shape, Format::ChannelsLast).unwrap_or(fallback);
        }
    }
    fallback
}

/// `f` of every element.
pub(crate) fn map1<A: Element, U: Element>(
    op: &'static str,
    a: &Tensor,
    f: impl Fn(A) -> U + Copy + Sync,
) -> Result<Tensor> {
    let layout = result_layout(*a.layout().shape(), &[a.layout()]);
    let walk = Walk::new(&layout, [a.layout()]);
    let a = a.elements_of::<A>(op)?;
    Ok(Tensor::build_unwritten(layout, |out: &mut [U]| {
        cpu::for_chunks(out, 1, &|start, chunk| {
            walk.runs(start, chunk.len(), &mut |at, n, [ia], [sa]| {
                let own = f;
                let out = &mut chunk[at..at + n];
                match sa {
                    1 => widest(Run1(out, &a[ia..ia + n], own)),
                    _ => out
                        .iter_mut()
                        .enumerate()
                        .for_each(|(i, o)| *o = own(a[ia + i * sa])),
                }
            });
        });
    }))
}

/// `f` of every pair of elements, broadcast against each other.
pub(crate) fn map2<A: Element, B: Element, U: Element>(
    op: &'static str,
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(A, B) -> U + Copy + Sync,
) -> Result<Tensor> {
    let shape = Shape::broadcast(op, a.shape(), b.shape())?;
    let layout = result_layout(shape, &[a.layout(), b.layout()]);
    let walk = Walk::new(&layout, [a.layout(), b.layout()]);
    let (a, b) = (a.elements_of::<A>(op)?, b.elements_of::<B>(op)?);
    Ok(Tensor::build_unwritten(layout, |out: &mut [U]| {
        cpu::for_chunks(out, 1, &|start, chunk| {
            walk.runs(start, chunk.len(), &mut |at, n, [ia, ib], steps| {
                let own = f;
                let out = &mut chunk[at..at + n];
                match steps {
                    [1, 1] => widest(Run2(out, &a[ia..ia + n], &b[ib..ib + n], own)),
                    [1, 0] => {
                        let b = b[ib];
                        widest(Run1(out, &a[ia..ia + n], move |a| own(a, b)));
                    }
                    [0, 1] => {
                        let a = a[ia];
                        widest(Run1(out, &b[ib..ib + n], move |b| own(a, b)));
                    }
                    [sa, sb] => out
                        .iter_mut()
                        .enumerate()
                        .for_each(|(i, o)| *o = own(a[ia + i * sa], b[ib + i * sb])),
                }
            });
        });
    }))
}

/// `f` of every triple of elements, broadcast against each other.
pub(crate) fn map3<A: Element, B: Element, C: Element, U: Element>(
    op: &'static str,
    [a, b, c]: [&Tensor; 3],
    f: impl Fn(A, B, C) -> U + Copy + Sync,
) -> Result<Tensor> {
    let shape = Shape::broadcast(op, a.shape(), b.shape())?;
    let shape = Shape::broadcast(op, &shape, c.shape())?;
    let layouts = [a.layout(), b.layout(), c.layout()];
    let layout = result_layout(shape, &[layouts[1], layouts[2], layouts[0]]);
    let walk = Walk::new(&layout, layouts);
    let (a, b, c) = (
        a.elements_of::<A>(op)?,
        b.elements_of::<B>(op)?,
        c.elements_of::<C>(op)?,
    );
    Ok(Tensor::build_unwritten(layout, |out: &mut [U]| {
        cpu::for_chunks(out, 1, &|start, chunk| {
            walk.runs(
                start,
                chunk.len(),
                &mut |at, n, [ia, ib, ic], [sa, sb, sc]| {
                    let own = f;
                    chunk[at..at + n].iter_mut().enumerate().for_each(|(i, o)| {
                        *o = own(a[ia + i * sa], b[ib + i * sb], c[ic + i * sc]);
                    });
                },
            );
        });
    }))
}

/// Elements that are read together where the two orders cross, a cache line of f32, or
/// four lines where there is enough to do.
const ACROSS: [usize; 2] = [16, 64];
/// Elements that are written together there.
const ALONG: usize = 64;

/// The elements of x in the order of `layout`, a dense one of the same shape.
pub(crate) fn rearranged<T: Element>(
    op: &'static str,
    x: &Tensor,
    layout: Layout,
) -> Result<Tensor> {
    let walk = Walk::new(&layout, [x.layout()]);
    let from = x.elements_of::<T>(op)?;
    let inner = walk.dims.len() - 1;
    let neighbours = walk.strides.iter().position(|s| *s == [1]);
    Ok(Tensor::build_unwritten(
        layout,
        |out: &mut [T]| match neighbours {
            Some(axis) if axis < inner => walk.turned(axis, from, out),
            _ => cpu::for_chunks(out, 1, &|start, chunk| {
                walk.runs(start, chunk.len(), &mut |at, n, [i], [step]| {
                    let out = &mut chunk[at..at + n];
                    match step {
                        1 => out.copy_from_slice(&from[i..i + n]),
                        _ => {
                            (out.iter_mut().enumerate()).for_each(|(j, o)| *o = from[i + j * step])
                        }
                    }
                });
            }),
        },
    ))
}

impl Walk<1> {
    /// Copies where the input's neighbours, those along `axis`, are not the output's:
    /// [`ACROSS`] of them at a time by way of a small square, so that each line read and
    /// each line written is used as a whole. (Written one by one to rows a power of two
    /// apart, which share a few places of every cache, it took twice as long.)
    fn turned<T: Element>(&self, axis: usize, from: &[T], out: &mut [T]) {
        let place = |mut flat: usize, axes: std::ops::Range<usize>| {
            let mut at = 0;
            for a in axes.rev() {
                at += flat % self.dims[a] * self.strides[a][0];
                flat /= self.dims[a];
            }
            at
        };
        let inner = self.dims.len() - 1;
        let (long, [step]) = (self.dims[inner], self.strides[inner]);
        let size = self.dims[axis];
        let unit: usize = self.dims[axis + 1..].iter().product();
        let planes: usize = self.dims[..axis].iter().product();
        let across = ACROSS[usize::from(planes * size >= 8 * ACROSS[1])];
        let together = (cpu::GRAIN / unit.max(1))
            .next_multiple_of(across)
            .max(across);
        if out.is_empty() {
            return;
        }
        let planes = out.par_chunks_mut(unit * size).enumerate();
        planes.for_each(|(plane, out)| {
            let plane = self.offsets[0] + place(plane, 0..axis);
            let parts = out.par_chunks_mut(unit * together).enumerate();
            parts.for_each(|(part, out)| {
                for (block, out) in out.chunks_mut(unit * across).enumerate() {
                    let first = plane + part * together + block * across;
                    let count = out.len() / unit;
                    let mut square = [[T::zeroed(); ALONG]; ACROSS[1]];
                    let mut at = 0;
                    for row in 0..unit / long {
                        let first = first + place(row, axis + 1..inner);
                        for j in 0..long {
                            let values = &from[first + j * step..][..count];
                            for (row, &v) in square.iter_mut().zip(values) {
                                row[at % ALONG] = v;
                            }
                            at += 1;
                            if at % ALONG == 0 || at == unit {
                                let start = (at - 1) / ALONG * ALONG;
                                for (row, out) in square.iter().zip(out.chunks_exact_mut(unit)) {
                                    out[start..at].copy_from_slice(&row[..at - start]);
                                }
                            }
                        }
                    }
                }
            });
        });
    }
}
