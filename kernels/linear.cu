// y[i, j] = activation(bias[j] + sum over k of x[i, k] w[j, k]); f32, bf16, f16.
//
// x (M, K) row-major, w (N, K) with any strides, bias (N) or none; y (M, N).
// Launches, order of sums and floor as in matmul.cu; bias and activation follow
// before the result is rounded, or in `join` where K is cut into parts. What the
// activation was applied to is written too, if a gradient needs it.
// wgmma as in matmul.cu.
//
// Backward: gx = g w + more (M, K), gw = g^T x (N, K) and gb (N), the sums of g's rows
// (product_gradients, half_gradients), in one launch: a block for each tile of gx, and for
// each tile of gw and part of the rows; the last block of a tile adds its parts in order.
// Floor: 4 M N K operations at the roof of the dtype.
#include "common/mma.cuh"
#include "common/product.cuh"
#include "common/wgmma.cuh"

using namespace eosin;

extern "C" __global__ void __launch_bounds__(256) eosin_linear_forward_64_f32(const ProductParams p) { product<64, 64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_forward_128_f32(const ProductParams p) { product<128, 64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_forward_join_f32(const JoinParams p) { join(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_backward_64_f32(const GradientParams p) { product_gradients<64, 64>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) eosin_linear_backward_128_f32(const GradientParams p) { product_gradients<128, 64>(p); }

extern "C" __global__ void __launch_bounds__(128) eosin_linear_forward_nn_64_bf16(const HalfProductParams p) { half_product_64<Bf16, true, false>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_forward_nn_128_bf16(const HalfProductParams p) { half_product_128<Bf16, true, false>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_linear_forward_nt_64_bf16(const HalfProductParams p) { half_product_64<Bf16, true, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_forward_nt_128_bf16(const HalfProductParams p) { half_product_128<Bf16, true, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_forward_join_bf16(const HalfJoinParams p) { half_join<Bf16>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_linear_backward_64_bf16(const HalfGradientParams p) { half_gradients<Bf16, 64, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_linear_backward_128_bf16(const HalfGradientParams p) { half_gradients<Bf16, 128, 128, 64, 32>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_linear_forward_nn_64_f16(const HalfProductParams p) { half_product_64<F16, true, false>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_forward_nn_128_f16(const HalfProductParams p) { half_product_128<F16, true, false>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_linear_forward_nt_64_f16(const HalfProductParams p) { half_product_64<F16, true, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_forward_nt_128_f16(const HalfProductParams p) { half_product_128<F16, true, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_forward_join_f16(const HalfJoinParams p) { half_join<F16>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_linear_backward_64_f16(const HalfGradientParams p) { half_gradients<F16, 64, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_linear_backward_128_f16(const HalfGradientParams p) { half_gradients<F16, 128, 128, 64, 32>(p); }

extern "C" __global__ void __launch_bounds__(288, 2) eosin_linear_forward_wgmma_nn_128_bf16(const __grid_constant__ WgmmaParams p) { wgmma_product<Bf16, 128, true, false>(p); }
extern "C" __global__ void __launch_bounds__(288) eosin_linear_forward_wgmma_nn_256_bf16(const __grid_constant__ WgmmaParams p) { wgmma_product<Bf16, 256, true, false>(p); }
extern "C" __global__ void __launch_bounds__(288, 2) eosin_linear_forward_wgmma_nt_128_bf16(const __grid_constant__ WgmmaParams p) { wgmma_product<Bf16, 128, true, true>(p); }
extern "C" __global__ void __launch_bounds__(288) eosin_linear_forward_wgmma_nt_256_bf16(const __grid_constant__ WgmmaParams p) { wgmma_product<Bf16, 256, true, true>(p); }
extern "C" __global__ void __launch_bounds__(288, 2) eosin_linear_forward_wgmma_nn_128_f16(const __grid_constant__ WgmmaParams p) { wgmma_product<F16, 128, true, false>(p); }
extern "C" __global__ void __launch_bounds__(288) eosin_linear_forward_wgmma_nn_256_f16(const __grid_constant__ WgmmaParams p) { wgmma_product<F16, 256, true, false>(p); }
extern "C" __global__ void __launch_bounds__(288, 2) eosin_linear_forward_wgmma_nt_128_f16(const __grid_constant__ WgmmaParams p) { wgmma_product<F16, 128, true, true>(p); }
extern "C" __global__ void __launch_bounds__(288) eosin_linear_forward_wgmma_nt_256_f16(const __grid_constant__ WgmmaParams p) { wgmma_product<F16, 256, true, true>(p); }
