//! Launches of the products of 16-bit floats in kernels/common/mma.cuh.

use bytemuck::{Pod, Zeroable};

use super::cuda::Epilogue;
use super::wgmma;
use crate::device::cuda::kernels::Kernel;
use crate::device::cuda::{Address, CudaDevice, count};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::{Layout, Shape};
use crate::tensor::Tensor;

/// Steps along K, whose panels are in shared memory at once; mirrors of those in
/// kernels/common/mma.cuh.
const DEPTH: usize = 32;
const STAGES: usize = 4;
/// Large tiles that keep a large GPU busy, and small ones, of which several run
/// on a multiprocessor.
const ENOUGH_TILES: [usize; 2] = [256, 96];
/// The shortest part of K that is worth a launch of its own.
const SHORTEST_PART: usize = 256;

/// The tile sizes of a form: two by mma.sync, and two by wgmma.
pub(crate) type Tiles = [&'static Kernel; 4];
/// Of those by mma.sync.
const SIZES: [[usize; 2]; 2] = [[64, 64], [128, 128]];

/// How products are cut into tiles and their inner index into parts: by shape
/// alone, so that the result never depends on the device.
pub(crate) struct Cut {
    /// Which of the tile sizes, and its rows and columns.
    pub size: usize,
    tile: [usize; 2],
    /// Tiles of all matrices.
    pub tiles: usize,
    /// Of the inner index, per part: a multiple of `DEPTH`, or all.
    pub each: usize,
    pub parts: usize,
}

impl Cut {
    /// For `matrices` products (m, k) by (k, n) in one of the tile sizes `sizes`,
    /// small ones first: the largest that keeps a large GPU busy and of whose
    /// elements not many more are outside of the matrices than of the smallest's.
    pub fn new(sizes: &[[usize; 2]], matrices: usize, [m, n, k]: [usize; 3]) -> Self {
        let tiles = |[down, across]: [usize; 2]| matrices * m.div_ceil(down) * n.div_ceil(across);
        let area = |size: [usize; 2]| tiles(size) * size[0] * size[1];
        let fits = |&size: &[usize; 2]| {
            tiles(size) >= ENOUGH_TILES[1] && 4 * area(size) <= 5 * area(sizes[0])
        };
        let size = sizes.iter().rposition(fits).unwrap_or(0);
        let tile = sizes[size];
        let (mut each, mut parts) = (k.max(1), 1);
        if size == 0 {
            let wanted = ENOUGH_TILES[0].div_ceil(tiles(tile).max(1));
            let most = wanted.min(k / SHORTEST_PART).max(1);
            if most > 1 {
                each = k.div_ceil(most).next_multiple_of(DEPTH);
                parts = k.div_ceil(each);
            }
        }
        Self {
            size,
            tile,
            tiles: tiles(tile),
            each,
            parts,
        }
    }

    /// Bytes of shared memory for the panels of a block.
    pub fn shared(&self) -> usize {
        panels(self.tile)
    }
}

/// Bytes of shared memory for the panels of a tile of this height and width.
pub(crate) const fn panels([height, width]: [usize; 2]) -> usize {
    STAGES * DEPTH * 2 * (height + width)
}

/// Bytes of the widest copies, 16, 8 or 4, that start at `address` and at multiples
/// of all `strides` of 16-bit elements after it; 2, elements alone, if none do.
pub(crate) fn width(address: Address, strides: impl IntoIterator<Item = usize>) -> usize {
    let starts = (strides.into_iter()).fold(address.0, |all, stride| all | (2 * stride as u64));
    let fits = |width: &usize| starts.is_multiple_of(*width as u64);
    [16, 8, 4].into_iter().find(fits).unwrap_or(2)
}

/// The kernels of an operator for one dtype.
pub(crate) struct Kernels {
    /// For a whose rows lie in one piece; b with such rows, and such columns.
    pub rows: [Tiles; 2],
    /// For a whose columns do, if the operator ever has one.
    pub columns: Option<[Tiles; 2]>,
    pub join: &'static Kernel,
}

/// A mirror of `Operand` in kernels/common/mma.cuh.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Operand {
    data: Address,
    line: u32,
    step: u32,
    width: u32,
    batch: [u32; 4],
    padding: u32,
}

impl Operand {
    /// The matrices at `data` that the last two axes of a layout make, line by row.
    pub fn by_rows(op: &'static str, data: Address, layout: &Layout) -> Result<Self> {
        Direction::new(data, layout, [0, 1]).operand(op, data, layout)
    }
}

/// A mirror of `HalfProductParams` in kernels/common/mma.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    a: Operand,
    b: Operand,
    bias: Address,
    out: Address,
    before: Address,
    sizes: [u32; 3],
    each: u32,
    batch: [u32; 4],
    wide: u32,
    padding: u32,
    epilogue: Epilogue,
}

/// A mirror of `HalfJoinParams` in kernels/common/mma.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct JoinParams {
    pub parts: Address,
    pub bias: Address,
    pub residual: Address,
    pub out: Address,
    pub before: Address,
    pub elements: u32,
    pub count: u32,
    pub n: u32,
    pub wide: u32,
    pub epilogue: Epilogue,
    /// Elements from row to row of `out`, of `n` each.
    pub line: u32,
    pub padding: u32,
}

/// Operands of one 16-bit dtype whose layouts are (batch, M, K) and (batch, K, N),
/// with equal batch axes, and what follows the product.
pub(crate) struct Product<'a> {
    pub op: &'static str,
    pub kernels: Kernels,
    pub a: (&'a Tensor, Layout),
    pub b: (&'a Tensor, Layout),
    pub bias: Option<&'a Tensor>,
    pub epilogue: Epilogue,
    /// The dtype of the operands, or f32.
    pub to: DType,
    /// Whether the result before the activation is wanted too.
    pub keep: bool,
}

/// Which of two axes an operand is read along, the other counting its lines.
#[derive(Clone, Copy)]
struct Direction {
    line: usize,
    step: usize,
    /// Bytes of a copy; 2 for elements alone.
    width: usize,
}

impl Direction {
    /// Lines along axis `along` of a matrix whose other axis is `across`, both
    /// counted after the batch axes.
    fn new(address: Address, layout: &Layout, [across, along]: [usize; 2]) -> Self {
        let (shape, strides) = (layout.shape(), layout.strides());
        let batch_axes = shape.len() - 2;
        let (across, along) = (batch_axes + across, batch_axes + along);
        let (line, step) = (strides[across], strides[along]);
        let whole = step == 1 || shape[along] <= 1;
        // Every line of every matrix has to start at a multiple of the width.
        let starts = (0..batch_axes).chain([across]);
        let starts = starts.filter(|&axis| shape[axis] > 1);
        let width = match whole {
            true => width(address, starts.map(|axis| strides[axis])),
            false => 2,
        };
        Self { line, step, width }
    }

    /// Whether it is the better of two.
    fn beats(self, other: Self) -> bool {
        (self.width, other.step) >= (other.width, self.step)
    }

    fn operand(self, op: &'static str, data: Address, layout: &Layout) -> Result<Operand> {
        let batch_axes = layout.shape().len() - 2;
        let mut batch = [0; 4];
        for (axis, &stride) in layout.strides()[..batch_axes].iter().enumerate() {
            batch[4 - batch_axes + axis] = count(op, stride)?;
        }
        Ok(Operand {
            data,
            line: count(op, self.line)?,
            step: count(op, self.step)?,
            width: self.width as u32,
            batch,
            padding: 0,
        })
    }
}

impl Product<'_> {
    /// Writes the product, as (batch, M, N) row-major, into a tensor of `shape`,
    /// and what it was before the activation into another if that is to be kept.
    pub fn run(self, device: &CudaDevice, shape: Shape) -> Result<(Tensor, Option<Tensor>)> {
        let op = self.op;
        let (la, lb) = (&self.a.1, &self.b.1);
        let (sa, sb) = (la.shape(), lb.shape());
        let batch_axes = sa.len() - 2;
        let (m, k, n) = (sa[batch_axes], sa[batch_axes + 1], sb[batch_axes + 1]);
        let mut batch = [1; 4];
        for (axis, &size) in sa[..batch_axes].iter().enumerate() {
            batch[4 - batch_axes + axis] = count(op, size)?;
        }

        let (at_a, at_b) = (self.a.0.address(op)?, self.b.0.address(op)?);
        let [a_row, a_column] = [[0, 1], [1, 0]].map(|axes| Direction::new(at_a, la, axes));
        let [b_row, b_column] = [[0, 1], [1, 0]].map(|axes| Direction::new(at_b, lb, axes));
        let (a, forms, a_along_k) = match self.kernels.columns {
            Some(forms) if !a_row.beats(a_column) => (a_column, forms, false),
            _ => (a_row, self.kernels.rows, true),
        };
        let by_columns = b_column.beats(b_row);
        let b = if by_columns { b_column } else { b_row };
        let kernels = forms[usize::from(by_columns)];

        let matrices: usize = sa[..batch_axes].iter().product();
        let cut = Cut::new(&SIZES, matrices, [m, n, k]);
        let kernel = kernels[cut.size];

        let layout = Layout::contiguous(shape);
        let out = device.empty(layout, self.to)?;
        let before = self.keep.then(|| device.empty(layout, self.to));
        let before = before.transpose()?;
        let elements = out.elements();
        let bias = self.bias.map(|t| t.address(op)).transpose()?;
        let kept = before.as_ref().map(|t| t.address(op)).transpose()?;
        let mut params = Params {
            a: a.operand(op, at_a, la)?,
            b: b.operand(op, at_b, lb)?,
            bias: bias.unwrap_or_default(),
            out: out.address(op)?,
            before: kept.unwrap_or_default(),
            sizes: [count(op, m)?, count(op, n)?, count(op, k)?],
            each: count(op, cut.each)?,
            batch,
            wide: u32::from(self.to == DType::F32),
            padding: 0,
            epilogue: self.epilogue,
        };
        let matrix = |address, of: Direction, along_k| wgmma::Matrix {
            address,
            line: of.line,
            width: of.width,
            along_k,
        };
        let finish = wgmma::Finish {
            bias: params.bias,
            out: params.out,
            before: params.before,
            wide: params.wide != 0,
            epilogue: params.epilogue,
        };
        let operands = [matrix(at_a, a, a_along_k), matrix(at_b, b, by_columns)];
        if matrices == 1 && wgmma::run(op, device, kernels, operands, [m, n, k], finish)? {
            return Ok((out, before));
        }
        let grid = [cut.tiles, cut.parts, 1];
        if cut.parts == 1 {
            device.launch(kernel, grid, cut.shared(), &params)?;
            return Ok((out, before));
        }
        let room = Layout::contiguous(Shape::new(&[cut.parts, elements])?);
        let workspace = device.empty(room, DType::F32)?;
        let join = JoinParams {
            parts: workspace.address(op)?,
            bias: params.bias,
            residual: Address::default(),
            out: params.out,
            before: params.before,
            elements: count(op, elements)?,
            count: count(op, cut.parts)?,
            n: params.sizes[1],
            wide: params.wide,
            epilogue: self.epilogue,
            line: params.sizes[1],
            padding: 0,
        };
        params.out = join.parts;
        device.launch(kernel, grid, cut.shared(), &params)?;
        let grid = [elements.div_ceil(256), 1, 1];
        device.launch(self.kernels.join, grid, 0, &join)?;
        Ok((out, before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_large_where_that_wastes_little() {
        let sizes = [[64, 64], [128, 64], [128, 128]];
        let size = |matrices, m, n| {
            let cut = Cut::new(&sizes, matrices, [m, n, 64]);
            assert_eq!(cut.parts, 1);
            (sizes[cut.size], cut.tiles)
        };
        assert_eq!(size(1, 12544, 512), ([128, 128], 98 * 4));
        assert_eq!(size(1, 200_704, 64), ([128, 64], 1568));
        assert_eq!(size(1, 200_704, 192), ([128, 64], 1568 * 3));
        // Half of a large tile would be empty, or the GPU.
        assert_eq!(size(384, 50, 50), ([64, 64], 384));
        assert_eq!(size(1, 512, 512), ([64, 64], 64));
        assert_eq!(size(1, 0, 64), ([64, 64], 0));
    }

    #[test]
    fn sums_of_few_tiles_are_cut_into_parts_of_whole_steps() {
        let cut = Cut::new(&SIZES, 1, [64, 64, 4610]);
        assert_eq!((cut.parts, cut.each), (17, 288));
        assert!(cut.each * (cut.parts - 1) < 4610 && cut.each * cut.parts >= 4610);
        let cut = Cut::new(&SIZES, 1, [64, 64, 300]);
        assert_eq!((cut.parts, cut.each), (1, 300));
    }

    /// The widths in which a matrix at `address` is copied along rows and columns.
    fn widths(address: u64, layout: &Layout) -> [usize; 2] {
        [[0, 1], [1, 0]].map(|axes| Direction::new(Address(address), layout, axes).width)
    }

    fn contiguous(dims: &[usize]) -> Layout {
        Layout::contiguous(Shape::new(dims).unwrap())
    }

    #[test]
    fn copies_are_as_wide_as_address_and_strides_allow() {
        for (columns, width) in [(64, 16), (8, 16), (12, 8), (10, 4), (9, 2)] {
            assert_eq!(widths(4096, &contiguous(&[5, columns])), [width, 2]);
            let turned = contiguous(&[columns, 5]).permute(&[1, 0]);
            assert_eq!(widths(4096, &turned)[0], 2);
        }
        for (address, width) in [(16, 16), (8, 8), (4, 4), (2, 2), (24, 8)] {
            assert_eq!(widths(address, &contiguous(&[5, 64])), [width, 2]);
        }
        // The start of every matrix counts.
        assert_eq!(widths(0, &contiguous(&[3, 4, 8])), [16, 2]);
        let first_rows = contiguous(&[3, 4, 9]).narrow(1, 0, 1, 1);
        assert_eq!(widths(0, &first_rows), [8, 2]);
        // The end of a line does not.
        let short = contiguous(&[3, 65, 64]).narrow(2, 0, 59, 1);
        assert_eq!(widths(0, &short), [16, 2]);
        // Every second element is none that lies beside the one before it.
        let stepped = contiguous(&[5, 64]).narrow(1, 0, 32, 2);
        assert_eq!(widths(0, &stepped), [2, 2]);
    }

    #[test]
    fn a_line_of_one_element_does_not_decide() {
        // A column: its elements lie side by side, whatever they are called.
        let column = contiguous(&[64, 1]);
        assert_eq!(widths(0, &column), [2, 16]);
        let [row, along] = [[0, 1], [1, 0]].map(|axes| Direction::new(Address(0), &column, axes));
        assert!(along.beats(row) && !row.beats(along));
        // One row: the stride between rows is nobody's.
        assert_eq!(widths(0, &contiguous(&[9, 9]).narrow(0, 0, 1, 1))[0], 16);
    }
}
