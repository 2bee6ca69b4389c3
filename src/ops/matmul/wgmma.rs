//! Launches of the products of 16-bit floats in kernels/common/wgmma.cuh, for
//! Hopper alone.

use bytemuck::{Pod, Zeroable};

use super::cuda::Epilogue;
use super::tensor_cores::{Cut, Tiles};
use crate::device::cuda::driver::{Boxes, TensorMap};
use crate::device::cuda::{Address, CudaDevice, Wgmma, count};
use crate::error::Result;

/// Rows of a tile, and what a step takes of K; mirrors of those in
/// kernels/common/wgmma.cuh.
const ROWS: usize = 128;
const DEPTH: usize = 64;
/// Columns of the two tile sizes, and their stages of shared memory.
const COLUMNS: [usize; 2] = [128, 256];
const STAGES: [usize; 2] = [3, 4];

/// An operand whose lines lie along K or across it.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub address: Address,
    /// Elements from line to line.
    pub line: usize,
    /// Bytes of a copy, as in `tensor_cores`.
    pub width: usize,
    pub along_k: bool,
}

impl Matrix {
    /// The boxes of `rows` rows or columns of it, if they can be brought so: lines of
    /// whole pieces of 16 bytes that do not overlap.
    fn boxes(self, rows: usize, size: usize, k: usize) -> Option<Boxes> {
        let ([length, lines], box_lines) = match self.along_k {
            true => ([k, size], rows),
            false => ([size, k], DEPTH),
        };
        // The stride of a single line is nobody's.
        let line = match lines {
            1 => length.next_multiple_of(8),
            _ => self.line,
        };
        (self.width == 16 && line >= length && line % 8 == 0).then_some(Boxes {
            address: self.address.0,
            length: length as u64,
            lines: lines as u64,
            stride: 2 * line as u64,
            box_lines: box_lines as u32,
        })
    }
}

/// A mirror of `WgmmaParams` in kernels/common/wgmma.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    a: TensorMap,
    b: TensorMap,
    bias: Address,
    out: Address,
    before: Address,
    sizes: [u32; 3],
    wide: u32,
    epilogue: Epilogue,
    padding: [u64; 2],
}

/// What follows the sums.
pub(super) struct Finish {
    pub bias: Address,
    pub out: Address,
    pub before: Address,
    pub wide: bool,
    pub epilogue: Epilogue,
}

/// Which of the tile sizes a product takes on this device, if any: by shape alone, where
/// the device has them and may use them.
fn size(device: &CudaDevice, [m, n, k]: [usize; 3]) -> Option<usize> {
    let known = [m, n, k].iter().all(|&size| size > 0);
    match device.wgmma() {
        Wgmma::Always if known => Some(usize::from(n > COLUMNS[0])),
        Wgmma::Suited if known => {
            let sizes = [[64, 64], [ROWS, COLUMNS[0]], [ROWS, COLUMNS[1]]];
            Cut::new(&sizes, 1, [m, n, k]).size.checked_sub(1)
        }
        _ => None,
    }
}

/// Launches one product (m, k) by (k, n) if the device, the option and the operands
/// allow; says whether it did.
pub(super) fn run(
    op: &'static str,
    device: &CudaDevice,
    kernels: Tiles,
    [a, b]: [Matrix; 2],
    sizes: [usize; 3],
    finish: Finish,
) -> Result<bool> {
    let [m, n, k] = sizes;
    let Some(size) = size(device, sizes) else {
        return Ok(false);
    };
    let (Some(a), Some(b)) = (a.boxes(ROWS, m, k), b.boxes(COLUMNS[size], n, k)) else {
        return Ok(false);
    };
    let driver = device.driver();
    let (Some(a), Some(b)) = (driver.tensor_map(&a)?, driver.tensor_map(&b)?) else {
        return Ok(false);
    };
    let params = Params {
        a,
        b,
        bias: finish.bias,
        out: finish.out,
        before: finish.before,
        sizes: [count(op, m)?, count(op, n)?, count(op, k)?],
        wide: u32::from(finish.wide),
        epilogue: finish.epilogue,
        padding: [0; 2],
    };
    let tiles = m.div_ceil(ROWS) * n.div_ceil(COLUMNS[size]);
    // Panels, two barriers a stage, and what aligns the first panel to 1024.
    let stage = 2 * DEPTH * (ROWS + COLUMNS[size]) + 2 * size_of::<u64>();
    let shared = STAGES[size] * stage + 1024;
    device.launch(kernels[2 + size], [tiles, 1, 1], shared, &params)?;
    Ok(true)
}
