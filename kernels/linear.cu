// y[i, j] = activation(bias[j] + sum over k of x[i, k] w[j, k]), f32.
//
// x (M, K) row-major, w (N, K) with any strides, bias (N) or none; y (M, N).
// Launches, order of sums and floor as in matmul.cu; bias and activation follow
// in registers, or in `join` where K is cut into parts.
#include "common/product.cuh"

using namespace eosin;

extern "C" __global__ void __launch_bounds__(256) eosin_linear_forward_64_f32(const ProductParams p) { product<64, 64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_forward_128_f32(const ProductParams p) { product<128, 64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_forward_join_f32(const JoinParams p) { join(p); }
