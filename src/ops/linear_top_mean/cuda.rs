//! Launches of kernels/linear_top_mean.cu.

use bytemuck::{Pod, Zeroable};

use super::{Ask, CHOSEN, GRADIENT, MOST_KS, Of, words};
use crate::device::cuda::kernels::{self, Kernel};
use crate::device::cuda::{Address, CudaDevice, count, device_of, f32_only};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::matmul::cuda::{self as matmul, Epilogue};
use crate::ops::matmul::tensor_cores::{self, Operand};
use crate::ops::normalise::address_or_none;
use crate::shape::{Format, Layout, Shape};
use crate::tensor::Tensor;

/// The most tiles of a bag whose scores a thread sorts in registers.
pub(super) const MOST_TILES: usize = 49;
/// Of a block forward.
const GENES: usize = 64;
const COLUMNS: usize = 256;
/// Tiles of a backward product that keep a large GPU busy, and the fewest genes of
/// a part of its sum.
const ENOUGH_TILES: usize = 512;
const SHORTEST_PART: usize = 512;

/// A mirror of `TopMeanForward` in kernels/linear_top_mean.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
    x: Operand,
    w: Operand,
    bias: Address,
    out: Address,
    chosen: Address,
    bags: u32,
    tiles: u32,
    genes: u32,
    width: u32,
    words: u32,
    each: u32,
    count: u32,
    joined: u32,
    ks: [u32; MOST_KS],
}

/// A mirror of `TopMeanBackward` in kernels/linear_top_mean.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    other: Operand,
    dy: Address,
    chosen: Address,
    out: Address,
    bags: u32,
    tiles: u32,
    genes: u32,
    width: u32,
    words: u32,
    each: u32,
    wide: u32,
    scale: f32,
}

/// A mirror of `TopMeanScale` in kernels/linear_top_mean.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Scale {
    dy: Address,
    out: Address,
    bags: u32,
    genes: u32,
    columns: u32,
    scale: f32,
}

/// A mirror of `TopMeanChosen` in kernels/linear_top_mean.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Chosen {
    chosen: Address,
    out: Address,
    elements: u32,
    genes: u32,
    words: u32,
    padding: u32,
}

/// A tensor as a row-major matrix of `columns`, and itself, to hold its memory.
fn matrix(op: &'static str, t: &Tensor, columns: usize) -> Result<(Tensor, Operand)> {
    let t = t.detach().to_format(Format::Contiguous)?;
    let rows = t.elements().checked_div(columns).unwrap_or(0);
    let layout = Layout::contiguous(Shape::new(&[rows, columns])?);
    let operand = Operand::by_rows(op, t.address(op)?, &layout)?;
    Ok((t, operand))
}

pub(super) fn forward(
    ask: &Ask,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    let op = ask.op;
    let mut operands = vec![x, w];
    operands.extend(bias);
    let device = device_of(op, &operands)?;
    let (kernel, shared) = match x.dtype() {
        DType::BF16 => (
            &kernels::EOSIN_LINEAR_TOP_MEAN_FORWARD_BF16,
            tensor_cores::panels([GENES, COLUMNS]),
        ),
        DType::F16 => (
            &kernels::EOSIN_LINEAR_TOP_MEAN_FORWARD_F16,
            tensor_cores::panels([GENES, COLUMNS]),
        ),
        _ => {
            f32_only(op, &operands)?;
            let kernel = &kernels::EOSIN_LINEAR_TOP_MEAN_FORWARD_F32;
            (kernel, GENES * (COLUMNS + 1) * size_of::<f32>())
        }
    };
    let (bags, tiles, width) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    let genes = w.shape()[0];
    let (held_x, x) = matrix(op, x, width)?;
    let (held_w, w) = matrix(op, w, width)?;
    let bias = bias.map(|b| b.detach().to_format(Format::Contiguous));
    let bias = bias.transpose()?;
    let empty = |shape: &[usize], dtype| -> Result<Tensor> {
        device.empty(Layout::contiguous(Shape::new(shape)?), dtype)
    };
    let out = empty(&[bags, ask.outputs(), genes], DType::F32)?;
    let chosen = ask
        .keep
        .then(|| empty(&[bags, tiles, words(genes)], DType::I32));
    let chosen = chosen.transpose()?;
    let each = (COLUMNS / tiles).min(bags);
    let mut ks = [0; MOST_KS];
    for (to, &k) in ks.iter_mut().zip(ask.ks) {
        *to = count(op, k)?;
    }
    let params = Forward {
        x,
        w,
        bias: address_or_none(op, bias.as_ref())?,
        out: out.address(op)?,
        chosen: address_or_none(op, chosen.as_ref())?,
        bags: count(op, bags)?,
        tiles: count(op, tiles)?,
        genes: count(op, genes)?,
        width: count(op, width)?,
        words: count(op, words(genes))?,
        each: count(op, each)?,
        count: count(op, ask.ks.len())?,
        joined: ask.joined.into(),
        ks,
    };
    count(op, bags * tiles)?;
    let blocks = genes.div_ceil(GENES) * bags.div_ceil(each);
    device.launch(kernel, [blocks, 1, 1], shared, &params)?;
    drop((held_x, held_w));
    Ok((out, chosen))
}

/// dy / k in the operands' dtype, (B, whole blocks of 64 genes) with zeros at the end.
pub(super) fn scaled(dy: &Tensor, dtype: DType, k: usize) -> Result<Tensor> {
    let device = device_of(CHOSEN, &[dy])?;
    f32_only(CHOSEN, &[dy])?;
    let (bags, genes) = (dy.shape()[0], dy.shape()[1]);
    let columns = 32 * words(genes);
    let dy = dy.detach().to_format(Format::Contiguous)?;
    let out = device.empty(Layout::contiguous(Shape::new(&[bags, columns])?), dtype)?;
    let params = Scale {
        dy: dy.address(CHOSEN)?,
        out: out.address(CHOSEN)?,
        bags: count(CHOSEN, bags)?,
        genes: count(CHOSEN, genes)?,
        columns: count(CHOSEN, columns)?,
        scale: 1.0 / k as f32,
    };
    let kernel = match dtype {
        DType::BF16 => &kernels::EOSIN_LINEAR_TOP_MEAN_BACKWARD_SCALED_BF16,
        _ => &kernels::EOSIN_LINEAR_TOP_MEAN_BACKWARD_SCALED_F16,
    };
    let elements = count(CHOSEN, out.elements())? as usize;
    device.launch(kernel, [elements.div_ceil(256), 1, 1], 0, &params)?;
    Ok(out)
}

/// How the rows of a product are cut into tiles, and its sum into parts.
struct Cut {
    tiles: usize,
    each: usize,
    parts: usize,
}

impl Cut {
    /// By shape alone. Parts are of whole blocks of 64.
    fn new(rows: usize, width: usize, sum: usize, columns: usize) -> Self {
        let tiles = rows.div_ceil(128) * width.div_ceil(columns);
        let most = (ENOUGH_TILES / tiles.max(1)).min(sum / SHORTEST_PART);
        let each = sum.div_ceil(most.max(1)).next_multiple_of(64);
        Self {
            tiles,
            each,
            parts: sum.div_ceil(each),
        }
    }
}

/// The kernel of a gradient, the columns of its tile and its shared memory.
fn kernel(of: Of, dtype: DType) -> (&'static Kernel, usize, usize) {
    let panels = tensor_cores::panels([128, 128]);
    let tokens = of == Of::Tokens;
    match dtype {
        DType::BF16 if tokens => (
            &kernels::EOSIN_LINEAR_TOP_MEAN_BACKWARD_TOKENS_BF16,
            128,
            panels,
        ),
        DType::BF16 => (
            &kernels::EOSIN_LINEAR_TOP_MEAN_BACKWARD_WEIGHT_BF16,
            128,
            panels,
        ),
        DType::F16 if tokens => (
            &kernels::EOSIN_LINEAR_TOP_MEAN_BACKWARD_TOKENS_F16,
            128,
            panels,
        ),
        DType::F16 => (
            &kernels::EOSIN_LINEAR_TOP_MEAN_BACKWARD_WEIGHT_F16,
            128,
            panels,
        ),
        _ if tokens => (&kernels::EOSIN_LINEAR_TOP_MEAN_BACKWARD_TOKENS_F32, 64, 0),
        _ => (&kernels::EOSIN_LINEAR_TOP_MEAN_BACKWARD_WEIGHT_F32, 64, 0),
    }
}

/// The gradient of x or w from dy (B, G), or from what [`scaled`] made of it.
pub(super) fn gradient(
    of: Of,
    dy: &Tensor,
    [x, w]: [&Tensor; 2],
    chosen: &Tensor,
    k: usize,
) -> Result<Tensor> {
    let op = GRADIENT;
    let device = device_of(op, &[dy, x, w, chosen])?;
    let dtype = x.dtype();
    let (bags, tiles, width) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    let genes = w.shape()[0];
    let (other, shape, rows, sum) = match of {
        Of::Tokens => (w, *x.layout().shape(), bags * tiles, genes),
        Of::Weight => (x, *w.layout().shape(), genes, bags * tiles),
    };
    let (held, other) = matrix(op, other, width)?;
    let dy = dy.detach().to_format(Format::Contiguous)?;
    let (kernel, columns, shared) = kernel(of, dtype);
    let cut = Cut::new(rows, width, sum, columns);
    let out = device.empty(Layout::contiguous(shape), dtype)?;
    let mut params = Backward {
        other,
        dy: dy.address(op)?,
        chosen: chosen.address(op)?,
        out: out.address(op)?,
        bags: count(op, bags)?,
        tiles: count(op, tiles)?,
        genes: count(op, genes)?,
        width: count(op, width)?,
        words: count(op, words(genes))?,
        each: count(op, cut.each)?,
        wide: u32::from(dtype == DType::F32 || cut.parts > 1),
        scale: 1.0 / k as f32,
    };
    let grid = [cut.tiles, cut.parts, 1];
    if cut.parts > 1 {
        let room = Layout::contiguous(Shape::new(&[cut.parts, out.elements()])?);
        let parts = device.empty(room, DType::F32)?;
        params.out = parts.address(op)?;
        device.launch(kernel, grid, shared, &params)?;
        join(&device, &parts, &out, cut.parts)?;
    } else {
        device.launch(kernel, grid, shared, &params)?;
    }
    drop(held);
    Ok(out)
}

/// Adds parts as products do.
fn join(device: &CudaDevice, parts: &Tensor, out: &Tensor, number: usize) -> Result<()> {
    let op = GRADIENT;
    let grid = [out.elements().div_ceil(256), 1, 1];
    let (elements, number) = (count(op, out.elements())?, count(op, number)?);
    let half = match out.dtype() {
        DType::BF16 => &kernels::EOSIN_MATMUL_FORWARD_JOIN_BF16,
        DType::F16 => &kernels::EOSIN_MATMUL_FORWARD_JOIN_F16,
        _ => {
            let params = matmul::JoinParams {
                parts: parts.address(op)?,
                bias: Address::default(),
                out: out.address(op)?,
                before: Address::default(),
                elements,
                count: number,
                n: 1,
                epilogue: Epilogue::default(),
                padding: 0,
            };
            return device.launch(&kernels::EOSIN_MATMUL_FORWARD_JOIN_F32, grid, 0, &params);
        }
    };
    let params = tensor_cores::JoinParams {
        parts: parts.address(op)?,
        bias: Address::default(),
        residual: Address::default(),
        out: out.address(op)?,
        before: Address::default(),
        elements,
        count: number,
        n: 1,
        wide: 0,
        epilogue: Epilogue::default(),
        line: 1,
        padding: 0,
    };
    device.launch(half, grid, 0, &params)
}

/// 1 where a tile was chosen and 0 elsewhere, (B, T, G), f32.
pub(super) fn dense(chosen: &Tensor, genes: usize) -> Result<Tensor> {
    let device = device_of(CHOSEN, &[chosen])?;
    let shape = [chosen.shape()[0], chosen.shape()[1], genes];
    let out = device.empty(Layout::contiguous(Shape::new(&shape)?), DType::F32)?;
    let params = Chosen {
        chosen: chosen.address(CHOSEN)?,
        out: out.address(CHOSEN)?,
        elements: count(CHOSEN, out.elements())?,
        genes: count(CHOSEN, genes)?,
        words: count(CHOSEN, words(genes))?,
        padding: 0,
    };
    let kernel = &kernels::EOSIN_LINEAR_TOP_MEAN_BACKWARD_CHOSEN_F32;
    let grid = [out.elements().div_ceil(256), 1, 1];
    device.launch(kernel, grid, 0, &params)?;
    Ok(out)
}
