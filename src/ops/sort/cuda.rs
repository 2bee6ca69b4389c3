use bytemuck::{Pod, Zeroable};

use crate::device::cuda::{Address, Walk, count, device_of, f32_only, kernels};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::elementwise::grid;
use crate::shape::{Layout, Shape};
use crate::tensor::Tensor;

/// Keys of a row that are sorted in shared memory at once.
const TILE: usize = 4096;

/// A mirror of `TileParams` in kernels/sort.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TileParams {
    x: Address,
    keys: Address,
    index: Address,
    size: u32,
    count: u32,
    width: u32,
    descending: u32,
    walk: Walk,
}

/// A mirror of `MergeParams` in kernels/sort.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MergeParams {
    from: Address,
    to: Address,
    elements: u32,
    size: u32,
    run: u32,
    padding: u32,
}

/// A mirror of `IndexParams` in kernels/sort.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct IndexParams {
    keys: Address,
    index: Address,
    elements: u32,
    size: u32,
    count: u32,
    padding: u32,
}

/// The indices of the first `wanted` elements of each row (the last axis) in
/// order.
pub(super) fn order(
    op: &'static str,
    x: &Tensor,
    wanted: usize,
    descending: bool,
) -> Result<Tensor> {
    let device = device_of(op, &[x])?;
    f32_only(op, &[x])?;
    let plain = Layout::contiguous(*x.layout().shape());
    let mut dims = x.shape().to_vec();
    let last = dims.len() - 1;
    let size = std::mem::replace(&mut dims[last], wanted);
    let rows: usize = dims[..last].iter().product();
    let layout = Layout::contiguous(Shape::new(&dims)?);
    let index = device.empty(layout, DType::I64)?;
    if layout.elements() == 0 {
        return Ok(index);
    }
    let mut params = TileParams {
        x: x.address(op)?,
        keys: Address::default(),
        index: index.address(op)?,
        size: count(op, size)?,
        count: count(op, wanted)?,
        width: count(op, size.next_power_of_two().min(TILE))?,
        descending: descending.into(),
        walk: Walk::new(op, &plain, &[x.layout()])?,
    };
    let shared = params.width as usize * size_of::<u64>();
    let grid_of_tiles = [rows, size.div_ceil(TILE), 1];
    let tile = &kernels::EOSIN_SORT_FORWARD_TILE_F32;
    if size <= TILE {
        device.launch(tile, grid_of_tiles, shared, &params)?;
        return Ok(index);
    }
    let mut keys = device.empty(plain, DType::I64)?;
    let mut merged = device.empty(plain, DType::I64)?;
    params.keys = keys.address(op)?;
    device.launch(tile, grid_of_tiles, shared, &params)?;
    let mut run = TILE;
    while run < size {
        let params = MergeParams {
            from: keys.address(op)?,
            to: merged.address(op)?,
            elements: count(op, plain.elements())?,
            size: params.size,
            run: count(op, run)?,
            padding: 0,
        };
        let merge = &kernels::EOSIN_SORT_FORWARD_MERGE_B8;
        device.launch(merge, grid(plain.elements()), 0, &params)?;
        std::mem::swap(&mut keys, &mut merged);
        run *= 2;
    }
    let params = IndexParams {
        keys: keys.address(op)?,
        index: index.address(op)?,
        elements: count(op, layout.elements())?,
        size: params.size,
        count: params.count,
        padding: 0,
    };
    let write = &kernels::EOSIN_SORT_FORWARD_INDEX_B8;
    device.launch(write, grid(layout.elements()), 0, &params)?;
    Ok(index)
}
