//! Launches of the tiled products of f32 in kernels/common/product.cuh; those of
//! 16-bit floats are in tensor_cores.rs.

use bytemuck::{Pod, Zeroable};

use super::tensor_cores;
use crate::device::cuda::kernels::{self, Kernel};
use crate::device::cuda::{Address, CudaDevice, count, device_of, f32_only};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::shape::{Layout, MAX_RANK, Shape};
use crate::tensor::Tensor;

/// Tiles that keep a large GPU busy.
pub(super) const ENOUGH_TILES: usize = 256;
/// The shortest part of K that is worth a launch of its own.
pub(super) const SHORTEST_PART: usize = 256;

/// A mirror of `Epilogue` in kernels/common/activation.cuh.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Epilogue {
    activation: u32,
    slope: f32,
}

impl Epilogue {
    pub fn new(activation: Activation) -> Self {
        let (activation, slope) = match activation {
            Activation::None => (0, 0.0),
            Activation::Relu => (1, 0.0),
            Activation::LeakyRelu(slope) => (1, slope as f32),
            Activation::Gelu => (2, 0.0),
            Activation::Silu => (3, 0.0),
            Activation::Tanh => (4, 0.0),
            Activation::Sigmoid => (5, 0.0),
        };
        Self { activation, slope }
    }
}

/// A mirror of `ProductParams` in kernels/common/product.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ProductParams {
    a: Address,
    b: Address,
    bias: Address,
    out: Address,
    before: Address,
    sizes: [u32; 3],
    each: u32,
    /// Strides of rows and columns.
    a_strides: [u32; 2],
    b_strides: [u32; 2],
    batch: [u32; 4],
    batch_a: [u32; 4],
    batch_b: [u32; 4],
    epilogue: Epilogue,
}

/// A mirror of `JoinParams` in kernels/common/product.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct JoinParams {
    pub parts: Address,
    pub bias: Address,
    pub out: Address,
    pub before: Address,
    pub elements: u32,
    pub count: u32,
    pub n: u32,
    pub epilogue: Epilogue,
    pub padding: u32,
}

/// The kernels of an operator: its two tile sizes and the sum of parts.
pub(crate) struct Kernels {
    pub small: &'static Kernel,
    pub large: &'static Kernel,
    pub join: &'static Kernel,
}

/// Operands whose layouts are (batch, M, K) and (batch, K, N), with equal batch
/// axes, and what follows the product.
pub(crate) struct Product<'a> {
    pub op: &'static str,
    pub kernels: Kernels,
    pub a: (&'a Tensor, Layout),
    pub b: (&'a Tensor, Layout),
    pub bias: Option<&'a Tensor>,
    pub epilogue: Epilogue,
    /// Whether the result before the activation is wanted too.
    pub keep: bool,
}

impl Product<'_> {
    /// Writes the product, as (batch, M, N) row-major, into a tensor of `shape`,
    /// and what it was before the activation into another if that is to be kept.
    pub fn run(self, device: &CudaDevice, shape: Shape) -> Result<(Tensor, Option<Tensor>)> {
        let op = self.op;
        let (sa, sb) = (self.a.1.shape(), self.b.1.shape());
        let batch_axes = sa.len() - 2;
        let (m, k, n) = (sa[batch_axes], sa[batch_axes + 1], sb[batch_axes + 1]);
        let layout = Layout::contiguous(shape);
        let out = device.empty(layout, DType::F32)?;
        let before = self.keep.then(|| device.empty(layout, DType::F32));
        let before = before.transpose()?;
        let kept = before.as_ref().map(|t| t.address(op)).transpose()?;
        let mut params = ProductParams {
            a: self.a.0.address(op)?,
            b: self.b.0.address(op)?,
            bias: self
                .bias
                .map_or(Ok(Address::default()), |t| t.address(op))?,
            out: out.address(op)?,
            before: kept.unwrap_or_default(),
            sizes: [count(op, m)?, count(op, n)?, count(op, k)?],
            each: count(op, k.max(1))?,
            a_strides: [0; 2],
            b_strides: [0; 2],
            batch: [1; 4],
            batch_a: [0; 4],
            batch_b: [0; 4],
            epilogue: self.epilogue,
        };
        let mut matrices = 1;
        for (axis, &size) in sa[..batch_axes].iter().enumerate() {
            let to = 4 - batch_axes + axis;
            matrices *= size;
            params.batch[to] = count(op, size)?;
            params.batch_a[to] = count(op, self.a.1.strides()[axis])?;
            params.batch_b[to] = count(op, self.b.1.strides()[axis])?;
        }
        for side in 0..2 {
            params.a_strides[side] = count(op, self.a.1.strides()[batch_axes + side])?;
            params.b_strides[side] = count(op, self.b.1.strides()[batch_axes + side])?;
        }

        let tiles = |rows: usize| matrices * m.div_ceil(rows) * n.div_ceil(64);
        if tiles(128) >= ENOUGH_TILES {
            device.launch(self.kernels.large, [tiles(128), 1, 1], 0, &params)?;
            return Ok((out, before));
        }
        // Cut by shape alone, so that the result never depends on the device.
        let wanted = ENOUGH_TILES.div_ceil(tiles(64).max(1));
        let each = k.div_ceil(wanted.min(k / SHORTEST_PART).max(1)).max(1);
        let parts = k.div_ceil(each).max(1);
        params.each = count(op, each)?;
        if parts == 1 {
            device.launch(self.kernels.small, [tiles(64), 1, 1], 0, &params)?;
            return Ok((out, before));
        }
        let elements = out.elements();
        let room = Layout::contiguous(Shape::new(&[parts, elements])?);
        let workspace = device.empty(room, DType::F32)?;
        let join = JoinParams {
            parts: workspace.address(op)?,
            bias: params.bias,
            out: params.out,
            before: params.before,
            elements: count(op, elements)?,
            count: count(op, parts)?,
            n: params.sizes[1],
            epilogue: self.epilogue,
            padding: 0,
        };
        params.out = join.parts;
        device.launch(self.kernels.small, [tiles(64), parts, 1], 0, &params)?;
        device.launch(self.kernels.join, [elements.div_ceil(256), 1, 1], 0, &join)?;
        Ok((out, before))
    }
}

pub(crate) fn matmul(a: &Tensor, b: &Tensor, batch: &Shape, to: DType) -> Result<Tensor> {
    let op = "matmul";
    let device = device_of(op, &[a, b])?;
    // (batch, rows, columns) of an operand.
    let wide = |rows: usize, columns: usize| -> Result<Shape> {
        let mut dims = [0; MAX_RANK];
        let last = dims
            .get_mut(batch.len()..batch.len() + 2)
            .ok_or_else(|| Error::op(op, "internal: too many axes"))?;
        last.copy_from_slice(&[rows, columns]);
        dims[..batch.len()].copy_from_slice(batch);
        Shape::new(&dims[..batch.len() + 2])
    };
    let matrices = |t: &Tensor| -> Result<Layout> {
        let last = &t.shape()[t.rank() - 2..];
        Ok(t.layout().broadcast_to(wide(last[0], last[1])?))
    };
    let shape = wide(a.shape()[a.rank() - 2], b.shape()[b.rank() - 1])?;
    let (a, b) = ((a, matrices(a)?), (b, matrices(b)?));
    let epilogue = Epilogue::default();
    let Some(kernels) = half_kernels(a.0.dtype()) else {
        f32_only(op, &[a.0, b.0])?;
        let product = Product {
            op,
            kernels: Kernels {
                small: &kernels::EOSIN_MATMUL_FORWARD_64_F32,
                large: &kernels::EOSIN_MATMUL_FORWARD_128_F32,
                join: &kernels::EOSIN_MATMUL_FORWARD_JOIN_F32,
            },
            a,
            b,
            bias: None,
            epilogue,
            keep: false,
        };
        return Ok(product.run(&device, shape)?.0);
    };
    let product = tensor_cores::Product {
        op,
        kernels,
        a,
        b,
        bias: None,
        epilogue,
        to,
        keep: false,
    };
    Ok(product.run(&device, shape)?.0)
}

fn half_kernels(dtype: DType) -> Option<tensor_cores::Kernels> {
    Some(match dtype {
        DType::BF16 => tensor_cores::Kernels {
            rows: [
                [
                    &kernels::EOSIN_MATMUL_FORWARD_NN_64_BF16,
                    &kernels::EOSIN_MATMUL_FORWARD_NN_128_BF16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_NN_128_BF16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_NN_256_BF16,
                ],
                [
                    &kernels::EOSIN_MATMUL_FORWARD_NT_64_BF16,
                    &kernels::EOSIN_MATMUL_FORWARD_NT_128_BF16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_NT_128_BF16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_NT_256_BF16,
                ],
            ],
            columns: Some([
                [
                    &kernels::EOSIN_MATMUL_FORWARD_TN_64_BF16,
                    &kernels::EOSIN_MATMUL_FORWARD_TN_128_BF16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_TN_128_BF16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_TN_256_BF16,
                ],
                [
                    &kernels::EOSIN_MATMUL_FORWARD_TT_64_BF16,
                    &kernels::EOSIN_MATMUL_FORWARD_TT_128_BF16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_TT_128_BF16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_TT_256_BF16,
                ],
            ]),
            join: &kernels::EOSIN_MATMUL_FORWARD_JOIN_BF16,
        },
        DType::F16 => tensor_cores::Kernels {
            rows: [
                [
                    &kernels::EOSIN_MATMUL_FORWARD_NN_64_F16,
                    &kernels::EOSIN_MATMUL_FORWARD_NN_128_F16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_NN_128_F16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_NN_256_F16,
                ],
                [
                    &kernels::EOSIN_MATMUL_FORWARD_NT_64_F16,
                    &kernels::EOSIN_MATMUL_FORWARD_NT_128_F16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_NT_128_F16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_NT_256_F16,
                ],
            ],
            columns: Some([
                [
                    &kernels::EOSIN_MATMUL_FORWARD_TN_64_F16,
                    &kernels::EOSIN_MATMUL_FORWARD_TN_128_F16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_TN_128_F16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_TN_256_F16,
                ],
                [
                    &kernels::EOSIN_MATMUL_FORWARD_TT_64_F16,
                    &kernels::EOSIN_MATMUL_FORWARD_TT_128_F16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_TT_128_F16,
                    &kernels::EOSIN_MATMUL_FORWARD_WGMMA_TT_256_F16,
                ],
            ]),
            join: &kernels::EOSIN_MATMUL_FORWARD_JOIN_F16,
        },
        _ => return None,
    })
}
