//! The gradients of y = x w^T + b in one launch: `product_gradients` of
//! kernels/common/product.cuh, `half_gradients` of kernels/common/mma.cuh.

use bytemuck::{Pod, Zeroable};

use super::cuda::{ENOUGH_TILES, SHORTEST_PART};
use super::tensor_cores::{Cut, Operand, panels};
use crate::device::cuda::kernels::Kernel;
use crate::device::cuda::{ARRIVALS, Address, CudaDevice, count};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::normalise::address_or_none;
use crate::shape::{Layout, Shape};
use crate::tensor::Tensor;

/// Rows of a part: few enough that a sum in f32 stays accurate.
const LONGEST_PART: usize = 8192;
/// Parts of a sum of x's gradient that are worth launches of their own.
const MOST_CUT: usize = 4;
/// What parts are multiples of.
const STEP: usize = 32;

/// A mirror of `GradientParams` in kernels/common/product.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct GradientParams {
    x: Address,
    g: Address,
    w: Address,
    more: Address,
    gx: Address,
    gw: Address,
    gb: Address,
    parts: Address,
    arrivals: Address,
    m: u32,
    n: u32,
    k: u32,
    each: u32,
    count: u32,
    padding: u32,
}

/// A mirror of `HalfGradientParams` in kernels/common/mma.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct HalfGradientParams {
    x: Operand,
    g: Operand,
    w: Operand,
    more: Address,
    gx: Address,
    gw: Address,
    gb: Address,
    parts: Address,
    arrivals: Address,
    m: u32,
    n: u32,
    k: u32,
    each: u32,
    count: u32,
    wide: u32,
}

/// The small and the large tiles' kernels for f32, bf16 and f16.
pub(crate) type Kernels = [[&'static Kernel; 2]; 3];

/// Which gradients: x (M, K), g (M, N) and w (N, K) are of one dtype and dense, x in bf16
/// and f16 in rows of any distance; `more`, dense, is added to that of x.
pub(crate) struct Gradients<'a> {
    pub op: &'static str,
    pub kernels: &'a Kernels,
    pub x: (&'a Tensor, Layout),
    pub g: &'a Tensor,
    pub w: &'a Tensor,
    pub more: Option<&'a Tensor>,
    /// M, N, K
    pub sizes: [usize; 3],
}

/// The place of a dtype among [`Kernels`].
fn place(dtype: DType) -> Option<usize> {
    [DType::F32, DType::BF16, DType::F16]
        .iter()
        .position(|d| *d == dtype)
}

/// Which of the two tile sizes, and its rows and columns; `None` where there are no
/// kernels, where sums of x's gradient had better be cut, or where the tiles of the
/// weights' gradient are more than there are counters.
fn tile(dtype: DType, [m, n, k]: [usize; 3]) -> Option<(usize, [usize; 2])> {
    let sizes = match place(dtype)? {
        0 => [[64, 64], [128, 64]],
        _ => [[64, 64], [128, 128]],
    };
    let tiles = |[down, across]: [usize; 2]| m.div_ceil(down) * k.div_ceil(across);
    // Few tiles with long sums, which a product of its own cuts.
    let cut = ENOUGH_TILES.div_ceil(tiles(sizes[0]).max(1));
    if cut.min(n / SHORTEST_PART) > MOST_CUT {
        return None;
    }
    let size = match dtype {
        DType::F32 => usize::from(tiles(sizes[1]) >= ENOUGH_TILES),
        _ => Cut::new(&sizes, 1, [m, k, n]).size,
    };
    let [down, across] = sizes[size];
    (n.div_ceil(down) * k.div_ceil(across) <= ARRIVALS).then_some((size, sizes[size]))
}

/// Whether one launch can make the gradients for this dtype and these sizes, M, N, K.
pub(crate) fn fits(dtype: DType, sizes: [usize; 3]) -> bool {
    tile(dtype, sizes).is_some()
}

impl Gradients<'_> {
    /// Into gw, and gx and gb if they are wanted. gw and gb have the dtype of x, or both
    /// are f32.
    ///
    /// # Errors
    /// It does not fit, see [`fits`].
    pub fn run(
        self,
        device: &CudaDevice,
        gx: Option<&Tensor>,
        gw: &Tensor,
        gb: Option<&Tensor>,
    ) -> Result<()> {
        let (op, [m, n, k]) = (self.op, self.sizes);
        let (x, of_x) = &self.x;
        let dtype = x.dtype();
        let (Some(place), Some((size, [down, across]))) = (place(dtype), tile(dtype, self.sizes))
        else {
            return Err(Error::op(op, "internal: no kernel for these sizes"));
        };
        let columns = k.div_ceil(across);
        let x_tiles = gx.map_or(0, |_| m.div_ceil(down) * columns);
        let w_tiles = n.div_ceil(down) * columns;
        // Cut by shape alone, so that the result never depends on the device.
        let wanted = ENOUGH_TILES.div_ceil(w_tiles.max(1)).min(m / SHORTEST_PART);
        let wanted = wanted.max(m.div_ceil(LONGEST_PART)).max(1);
        // Halves are multiplied in steps of 32 rows.
        let each = m.div_ceil(wanted).max(1).next_multiple_of(STEP);
        let parts = m.div_ceil(each).max(1);
        let workspace = match parts {
            1 => None,
            _ => {
                let room = Layout::contiguous(Shape::new(&[parts, n, k + 1])?);
                Some(device.empty(room, DType::F32)?)
            }
        };
        let arrivals = device.arrivals(op, w_tiles)?;
        let grid = [x_tiles + w_tiles * parts, 1, 1];
        let kernel = self.kernels[place][size];
        let (each, parts) = (count(op, each)?, count(op, parts)?);
        let [more, gb, workspace] = [self.more, gb, workspace.as_ref()];
        if dtype == DType::F32 {
            let params = GradientParams {
                x: x.address(op)?,
                g: self.g.address(op)?,
                w: self.w.address(op)?,
                more: address_or_none(op, more)?,
                gx: address_or_none(op, gx)?,
                gw: gw.address(op)?,
                gb: address_or_none(op, gb)?,
                parts: address_or_none(op, workspace)?,
                arrivals,
                m: count(op, m)?,
                n: count(op, n)?,
                k: count(op, k)?,
                each,
                count: parts,
                padding: 0,
            };
            return device.launch(kernel, grid, 0, &params);
        }
        let operand = |t: &Tensor, shape: [usize; 2]| -> Result<Operand> {
            Operand::by_rows(op, t.address(op)?, &Layout::contiguous(Shape::new(&shape)?))
        };
        let params = HalfGradientParams {
            x: Operand::by_rows(op, x.address(op)?, of_x)?,
            g: operand(self.g, [m, n])?,
            w: operand(self.w, [n, k])?,
            more: address_or_none(op, more)?,
            gx: address_or_none(op, gx)?,
            gw: gw.address(op)?,
            gb: address_or_none(op, gb)?,
            parts: address_or_none(op, workspace)?,
            arrivals,
            m: count(op, m)?,
            n: count(op, n)?,
            k: count(op, k)?,
            each,
            count: parts,
            wide: u32::from(gw.dtype() == DType::F32),
        };
        device.launch(kernel, grid, panels([down, across]), &params)
    }
}
