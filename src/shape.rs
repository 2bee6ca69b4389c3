//! Shapes in PyTorch's logical order, and layouts that say what is physical.
//!
//! A [`Layout`] is a shape with one stride per axis and an offset, all counted
//! in elements. Every physical arrangement is a choice of strides: row-major,
//! NHWC ("channels last"), NHWC with the channels padded to a multiple, views
//! and broadcasts (stride 0). Operators index through the strides, so lanes
//! that only pad are never read and never counted.

use std::fmt;
use std::ops::Deref;

use crate::error::{Error, Result};

/// The highest number of axes of a tensor.
pub const MAX_RANK: usize = 6;

/// Sizes of the axes, outermost first; held inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// # Errors
    /// More than [`MAX_RANK`] axes, or more elements than memory can address.
    pub fn new(dims: &[usize]) -> Result<Self> {
        if dims.len() > MAX_RANK {
            return Err(Error::shape(
                "shape",
                &[dims],
                format!("a tensor has at most {MAX_RANK} axes"),
            ));
        }
        dims.iter()
            .filter(|&&d| d != 0)
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .filter(|&n| n <= isize::MAX as usize / 8)
            .ok_or_else(|| {
                Error::shape("shape", &[dims], "more elements than memory can address")
            })?;
        Ok(Self::trusted(dims))
    }

    /// For dims that come from existing shapes and so are known to fit.
    pub(crate) fn trusted(dims: &[usize]) -> Self {
        let mut held = [0; MAX_RANK];
        held[..dims.len()].copy_from_slice(dims);
        Self {
            dims: held,
            rank: dims.len() as u8,
        }
    }

    pub fn elements(&self) -> usize {
        self.iter().product()
    }

    /// The shape two operands broadcast to (numpy's rule: align at the last
    /// axis, sizes are equal or one of them is 1).
    pub fn broadcast(op: &'static str, a: &[usize], b: &[usize]) -> Result<Self> {
        let rank = a.len().max(b.len());
        let mut out = [0; MAX_RANK];
        for (i, size) in out.iter_mut().enumerate().take(rank) {
            let at = |s: &[usize]| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
            *size = match (at(a), at(b)) {
                (x, y) if x == y => x,
                (1, y) => y,
                (x, 1) => x,
                _ => return Err(Error::shape(op, &[a, b], "sizes must be equal or 1")),
            };
        }
        Self::new(&out[..rank])
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &**self)
    }
}

/// Turns an axis that may count from the end into an index.
pub(crate) fn axis(op: &'static str, axis: isize, shape: &[usize]) -> Result<usize> {
    let rank = shape.len() as isize;
    let resolved = if axis < 0 { axis + rank } else { axis };
    if (0..rank).contains(&resolved) {
        Ok(resolved as usize)
    } else {
        Err(Error::shape(
            op,
            &[shape],
            format!("axis {axis} does not exist"),
        ))
    }
}

/// Where each element of a tensor lies in its storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    shape: Shape,
    strides: [usize; MAX_RANK],
    offset: usize,
}

/// Physical arrangements that a tensor can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Row-major in logical order.
    Contiguous,
    /// (N, C, H, W) held as N, H, W, C; weights (K, C, R, S) as K, R, S, C.
    ChannelsLast,
    /// Channels last with C padded with zeros to this multiple.
    ChannelsLastPadded(usize),
}

impl Layout {
    pub fn contiguous(shape: Shape) -> Self {
        let mut strides = [0; MAX_RANK];
        let mut step = 1;
        for i in (0..shape.len()).rev() {
            strides[i] = step;
            step *= shape[i].max(1);
        }
        Self {
            shape,
            strides,
            offset: 0,
        }
    }

    /// # Errors
    /// Channels last is defined for four axes.
    pub fn new(shape: Shape, format: Format) -> Result<Self> {
        let lanes = match format {
            Format::Contiguous => return Ok(Self::contiguous(shape)),
            Format::ChannelsLast => 1,
            Format::ChannelsLastPadded(multiple) => multiple.max(1),
        };
        let [_, c, h, w] = shape[..] else {
            return Err(Error::shape(
                "layout",
                &[&shape],
                "channels last needs (N, C, H, W)",
            ));
        };
        let c = c.next_multiple_of(lanes).max(1);
        let (h, w) = (h.max(1), w.max(1));
        Ok(Self {
            shape,
            strides: [h * w * c, 1, w * c, c, 0, 0],
            offset: 0,
        })
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.shape.len()]
    }

    pub fn offset(&self) -> usize {
        self.offset
    }

    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// One more than the highest element index in storage, 0 when empty.
    pub fn span(&self) -> usize {
        if self.elements() == 0 {
            return 0;
        }
        let last: usize = self
            .shape
            .iter()
            .zip(self.strides())
            .map(|(d, s)| (d - 1) * s)
            .sum();
        self.offset + last + 1
    }

    /// The place in storage of every element, in logical order.
    pub(crate) fn places(&self) -> Vec<usize> {
        let mut places = vec![self.offset];
        for (&d, &s) in self.shape.iter().zip(self.strides()) {
            places = places
                .iter()
                .flat_map(|p| (0..d).map(move |i| p + i * s))
                .collect();
        }
        places
    }

    fn same_places(&self, other: &Self) -> bool {
        let strided = |l: &Self| {
            let mut s = l.strides;
            for (i, &d) in l.shape.iter().enumerate() {
                if d <= 1 {
                    s[i] = 0;
                }
            }
            s
        };
        self.shape == other.shape && strided(self) == strided(other)
    }

    /// Row-major with nothing in between (the offset may be anything).
    pub fn is_contiguous(&self) -> bool {
        self.same_places(&Self::contiguous(self.shape))
    }

    /// NHWC with nothing in between (the offset may be anything).
    pub fn is_channels_last(&self) -> bool {
        Self::new(self.shape, Format::ChannelsLast).is_ok_and(|l| self.same_places(&l))
    }

    /// The axes from the slowest to the fastest in storage.
    pub(crate) fn physical_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.shape.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(self.strides[i]));
        order
    }

    /// Every element in exactly one place and no hole between them.
    pub fn is_dense(&self) -> bool {
        if self.elements() == 0 {
            return true;
        }
        let mut step = 1;
        for &i in self.physical_order().iter().rev() {
            if self.shape[i] == 1 {
                continue;
            }
            if self.strides[i] != step {
                return false;
            }
            step *= self.shape[i].max(1);
        }
        true
    }

    /// The same arrangement at the start of a storage of its own; a layout with
    /// holes or repeats becomes contiguous.
    pub(crate) fn packed(&self) -> Self {
        if self.is_dense() {
            Self { offset: 0, ..*self }
        } else {
            Self::contiguous(self.shape)
        }
    }

    pub(crate) fn permute(&self, order: &[usize]) -> Self {
        let mut out = *self;
        let mut dims = [0; MAX_RANK];
        for (to, &from) in order.iter().enumerate() {
            dims[to] = self.shape[from];
            out.strides[to] = self.strides[from];
        }
        out.shape = Shape::trusted(&dims[..order.len()]);
        out
    }

    pub(crate) fn narrow(&self, axis: usize, start: usize, len: usize, step: usize) -> Self {
        let mut out = *self;
        let mut dims = [0; MAX_RANK];
        dims[..self.shape.len()].copy_from_slice(&self.shape);
        dims[axis] = len;
        out.offset += if len == 0 {
            0
        } else {
            start * self.strides[axis]
        };
        out.strides[axis] *= step;
        out.shape = Shape::trusted(&dims[..self.shape.len()]);
        out
    }

    /// `shape` must be one that this layout broadcasts to.
    pub(crate) fn broadcast_to(&self, shape: Shape) -> Self {
        let mut strides = [0; MAX_RANK];
        let shift = shape.len() - self.shape.len();
        for i in 0..self.shape.len() {
            if self.shape[i] == shape[i + shift] {
                strides[i + shift] = self.strides[i];
            }
        }
        Self {
            shape,
            strides,
            offset: self.offset,
        }
    }

    /// The axes of this dense layout in physical order, each with the stride of
    /// every one of `inputs`, which broadcast to its shape. Axes of size 1 are
    /// dropped and neighbours merged wherever every operand allows it.
    pub(crate) fn merged(&self, inputs: &[&Self]) -> Vec<(usize, Vec<usize>)> {
        let inputs: Vec<Self> = inputs.iter().map(|l| l.broadcast_to(self.shape)).collect();
        let mut axes: Vec<(usize, Vec<usize>)> = Vec::new();
        for axis in self.physical_order() {
            let size = self.shape[axis];
            if size == 1 {
                continue;
            }
            let here: Vec<usize> = inputs.iter().map(|l| l.strides[axis]).collect();
            match axes.last_mut() {
                Some((d, s)) if s.iter().zip(&here).all(|(s, h)| *s == h * size) => {
                    *d *= size;
                    *s = here;
                }
                _ => axes.push((size, here)),
            }
        }
        axes
    }

    /// The same elements under another shape, if strides can express it.
    pub(crate) fn reshape(&self, shape: Shape) -> Option<Self> {
        if self.is_contiguous() {
            let mut out = Self::contiguous(shape);
            out.offset = self.offset;
            return Some(out);
        }
        // Axes of size 1 may come and go in any layout.
        let kept = |s: &[usize]| s.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
        if kept(&self.shape) != kept(&shape) {
            return None;
        }
        let mut kept_strides = self
            .shape
            .iter()
            .zip(self.strides())
            .filter(|(d, _)| **d != 1)
            .map(|(_, s)| *s);
        let mut strides = [0; MAX_RANK];
        for (i, &d) in shape.iter().enumerate() {
            strides[i] = if d == 1 { 1 } else { kept_strides.next()? };
        }
        Some(Self {
            shape,
            strides,
            offset: self.offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(d: &[usize]) -> Shape {
        Shape::new(d).unwrap()
    }

    #[test]
    fn channels_last_pads_only_the_channels() {
        let l = Layout::new(shape(&[2, 46, 3, 5]), Format::ChannelsLastPadded(8)).unwrap();
        assert_eq!(l.strides(), [3 * 5 * 48, 1, 5 * 48, 48]);
        assert!(!l.is_dense());
        let l = Layout::new(shape(&[2, 48, 3, 5]), Format::ChannelsLastPadded(8)).unwrap();
        assert!(l.is_dense() && l.is_channels_last() && !l.is_contiguous());
    }

    #[test]
    fn axes_of_size_one_do_not_decide_the_format() {
        let l = Layout::contiguous(shape(&[4, 7, 1, 1]));
        assert!(l.is_contiguous() && l.is_channels_last());
        let l = Layout::contiguous(shape(&[4, 1, 3, 3]));
        assert!(l.is_contiguous() && l.is_channels_last());
    }

    #[test]
    fn spans_and_broadcasts() {
        let l = Layout::contiguous(shape(&[3, 1]));
        let b = l.broadcast_to(shape(&[2, 3, 4]));
        assert_eq!(b.strides(), [0, 1, 0]);
        assert_eq!(b.span(), 3);
        assert_eq!(Layout::contiguous(shape(&[3, 0])).span(), 0);
        assert!(Shape::broadcast("t", &[2, 3], &[3, 2]).is_err());
        assert!(Shape::new(&[usize::MAX, 2]).is_err());
        assert!(Shape::new(&[1; 7]).is_err());
    }
}
