// out[b, i, j] = sum over k of a[b, i, k] b[b, k, j], f32.
//
// a (.., M, K) and b (.., K, N) with any strides, leading axes broadcast by
// strides of 0; out (.., M, N) row-major. Blocks of 256 threads, grid (tiles of
// all matrices, parts of K); tiles of 64 x 64 (4 x 4 sums a thread) or, where
// enough of them fill the GPU, 128 x 64 (8 x 4). Where few tiles meet a long
// K, it is cut into parts whose sums `join` adds in order.
// Deterministic: each sum runs over ascending k, parts by shape alone.
// Floor: 2 M N K operations at the f32 roof.
#include "common/product.cuh"

using namespace eosin;

extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_64_f32(const ProductParams p) { product<64, 64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_128_f32(const ProductParams p) { product<128, 64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_matmul_forward_join_f32(const JoinParams p) { join(p); }
