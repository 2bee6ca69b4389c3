// out[b, i, j] = sum over k of a[b, i, k] b[b, k, j]; f32, bf16 and f16.
//
// a (.., M, K) and b (.., K, N) with any strides, leading axes broadcast by
// strides of 0; out (.., M, N) row-major. Grid (tiles of all matrices, parts of
// K). Where few tiles meet a long K, it is cut into parts whose f32 sums `join`
// adds in order.
// Deterministic: each sum runs over ascending k, parts by shape alone.
//
// f32 (common/product.cuh): blocks of 256 threads; tiles of 64 x 64 (4 x 4 sums
// a thread) or, where enough of them fill the GPU, 128 x 64 (8 x 4).
// Floor: 2 M N K operations at the f32 roof.
//
// bf16 and f16 (common/mma.cuh): tensor cores with f32 sums, rounded once to the
// operands' dtype or kept in f32. A form for each direction of the operands: nn
// has a and b row by row, t an operand column by column. Tiles of 128 x 128 (256
// threads, 64 KiB of dynamic shared memory) where they fill the GPU, else of 64 x
// 64 (128 threads, 32 KiB); 4 stages of 32 of K.
// Floor: 2 M N K operations at the roof of the tensor cores or, below 266 of them
// per byte (H100), a, b and out once through memory.
//
// wgmma (common/wgmma.cuh): the same for one matrix on Hopper, whose operands' lines
// start at multiples of 16 bytes. Tiles of 128 x 128 (97 KiB of dynamic shared memory,
// 3 stages of 64 of K, 2 blocks on a multiprocessor) and of 128 x 256 (193 KiB, 4
// stages), 288 threads, a block for each tile; the code for other architectures traps.
// Off unless the device is told otherwise (CudaDevice::set_wgmma): no GPU has run it.
#include "common/mma.cuh"
#include "common/product.cuh"
#include "common/wgmma.cuh"

using namespace eosin;

extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_64_f32(const ProductParams p) { product<64, 64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_128_f32(const ProductParams p) { product<128, 64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_join_f32(const JoinParams p) { join(p); }

extern "C" __global__ void __launch_bounds__(128) eosin_matmul_forward_nn_64_bf16(const HalfProductParams p) { half_product_64<Bf16, true, false>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_nn_128_bf16(const HalfProductParams p) { half_product_128<Bf16, true, false>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_matmul_forward_nt_64_bf16(const HalfProductParams p) { half_product_64<Bf16, true, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_nt_128_bf16(const HalfProductParams p) { half_product_128<Bf16, true, true>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_matmul_forward_tn_64_bf16(const HalfProductParams p) { half_product_64<Bf16, false, false>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_tn_128_bf16(const HalfProductParams p) { half_product_128<Bf16, false, false>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_matmul_forward_tt_64_bf16(const HalfProductParams p) { half_product_64<Bf16, false, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_tt_128_bf16(const HalfProductParams p) { half_product_128<Bf16, false, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_join_bf16(const HalfJoinParams p) { half_join<Bf16>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_matmul_forward_nn_64_f16(const HalfProductParams p) { half_product_64<F16, true, false>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_nn_128_f16(const HalfProductParams p) { half_product_128<F16, true, false>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_matmul_forward_nt_64_f16(const HalfProductParams p) { half_product_64<F16, true, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_nt_128_f16(const HalfProductParams p) { half_product_128<F16, true, true>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_matmul_forward_tn_64_f16(const HalfProductParams p) { half_product_64<F16, false, false>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_tn_128_f16(const HalfProductParams p) { half_product_128<F16, false, false>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_matmul_forward_tt_64_f16(const HalfProductParams p) { half_product_64<F16, false, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_tt_128_f16(const HalfProductParams p) { half_product_128<F16, false, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_join_f16(const HalfJoinParams p) { half_join<F16>(p); }

extern "C" __global__ void __launch_bounds__(288, 2) eosin_matmul_forward_wgmma_nn_128_bf16(const __grid_constant__ WgmmaParams p) { wgmma_product<Bf16, 128, true, false>(p); }
extern "C" __global__ void __launch_bounds__(288) eosin_matmul_forward_wgmma_nn_256_bf16(const __grid_constant__ WgmmaParams p) { wgmma_product<Bf16, 256, true, false>(p); }
extern "C" __global__ void __launch_bounds__(288, 2) eosin_matmul_forward_wgmma_nt_128_bf16(const __grid_constant__ WgmmaParams p) { wgmma_product<Bf16, 128, true, true>(p); }
extern "C" __global__ void __launch_bounds__(288) eosin_matmul_forward_wgmma_nt_256_bf16(const __grid_constant__ WgmmaParams p) { wgmma_product<Bf16, 256, true, true>(p); }
extern "C" __global__ void __launch_bounds__(288, 2) eosin_matmul_forward_wgmma_tn_128_bf16(const __grid_constant__ WgmmaParams p) { wgmma_product<Bf16, 128, false, false>(p); }
extern "C" __global__ void __launch_bounds__(288) eosin_matmul_forward_wgmma_tn_256_bf16(const __grid_constant__ WgmmaParams p) { wgmma_product<Bf16, 256, false, false>(p); }
extern "C" __global__ void __launch_bounds__(288, 2) eosin_matmul_forward_wgmma_tt_128_bf16(const __grid_constant__ WgmmaParams p) { wgmma_product<Bf16, 128, false, true>(p); }
extern "C" __global__ void __launch_bounds__(288) eosin_matmul_forward_wgmma_tt_256_bf16(const __grid_constant__ WgmmaParams p) { wgmma_product<Bf16, 256, false, true>(p); }
extern "C" __global__ void __launch_bounds__(288, 2) eosin_matmul_forward_wgmma_nn_128_f16(const __grid_constant__ WgmmaParams p) { wgmma_product<F16, 128, true, false>(p); }
extern "C" __global__ void __launch_bounds__(288) eosin_matmul_forward_wgmma_nn_256_f16(const __grid_constant__ WgmmaParams p) { wgmma_product<F16, 256, true, false>(p); }
extern "C" __global__ void __launch_bounds__(288, 2) eosin_matmul_forward_wgmma_nt_128_f16(const __grid_constant__ WgmmaParams p) { wgmma_product<F16, 128, true, true>(p); }
extern "C" __global__ void __launch_bounds__(288) eosin_matmul_forward_wgmma_nt_256_f16(const __grid_constant__ WgmmaParams p) { wgmma_product<F16, 256, true, true>(p); }
extern "C" __global__ void __launch_bounds__(288, 2) eosin_matmul_forward_wgmma_tn_128_f16(const __grid_constant__ WgmmaParams p) { wgmma_product<F16, 128, false, false>(p); }
extern "C" __global__ void __launch_bounds__(288) eosin_matmul_forward_wgmma_tn_256_f16(const __grid_constant__ WgmmaParams p) { wgmma_product<F16, 256, false, false>(p); }
extern "C" __global__ void __launch_bounds__(288, 2) eosin_matmul_forward_wgmma_tt_128_f16(const __grid_constant__ WgmmaParams p) { wgmma_product<F16, 128, false, true>(p); }
extern "C" __global__ void __launch_bounds__(288) eosin_matmul_forward_wgmma_tt_256_f16(const __grid_constant__ WgmmaParams p) { wgmma_product<F16, 256, false, true>(p); }
