// The L2 norm of many gradients together, and their scaling by
// min(1, limit / (norm + 1e-6)), f32, without the host.
//
// Up to 128 gradients a launch are named by value, so that a captured step needs
// no copy from the host; each is cut into chunks of 8,192 elements, a block of
// 256 threads each. `squares` leaves a sum per chunk, `norm`, one block, adds all
// of them in a fixed order and writes (norm, scale), `scale` multiplies. Sums are
// pairwise by thread, warp and block: in f32, so squares beyond 3e38 are infinite.
// Deterministic: all orders are fixed by shapes.
// Floor: the bytes of the gradients, read twice and written once.
#include "common/base.cuh"

using namespace eosin;

namespace {

constexpr unsigned THREADS = 256, CHUNK = 8192, MOST = 128;

// src/optim/clip_cuda.rs has its twin, as of the other structs here.
struct Tensors {
    const float* from[MOST];
    float* to[MOST];
    unsigned elements[MOST];
    unsigned block[MOST];  // each tensor's first; past the last one's for none
    float* sums;           // a sum per block of this launch
    const float* norm;     // (norm, scale)
};

struct NormParams {
    const float* sums;
    float* norm;
    unsigned count;
    float limit;
};

__device__ unsigned tensor_of(const Tensors& p) {
    unsigned low = 0, high = MOST;
    while (high - low > 1) {
        const unsigned middle = (low + high) / 2;
        if (p.block[middle] <= blockIdx.x) low = middle;
        else high = middle;
    }
    return low;
}

__device__ void squares(const Tensors& p) {
    SHARED(float, parts, [THREADS / WARP]);
    const unsigned t = tensor_of(p), elements = p.elements[t];
    const unsigned start = (blockIdx.x - p.block[t]) * CHUNK + threadIdx.x;
    float sum = 0.0f;
    for (unsigned k = 0; k < CHUNK / THREADS; ++k) {
        const unsigned i = start + k * THREADS;
        const float v = i < elements ? p.from[t][i] : 0.0f;
        sum = fmaf(v, v, sum);
    }
    sum = block_sum<THREADS>(sum, parts);
    if (threadIdx.x == 0) p.sums[blockIdx.x] = sum;
}

__device__ void norm(const NormParams& p) {
    SHARED(float, parts, [THREADS / WARP]);
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < p.count; i += THREADS) sum += p.sums[i];
    sum = block_sum<THREADS>(sum, parts);
    if (threadIdx.x == 0) {
        const float norm = sqrtf(sum), scale = p.limit / (norm + 1e-6f);
        p.norm[0] = norm;
        // So that a NaN reaches the gradients.
        p.norm[1] = scale >= 1.0f ? 1.0f : scale;
    }
}

__device__ void scale(const Tensors& p) {
    const unsigned t = tensor_of(p), elements = p.elements[t];
    const unsigned start = (blockIdx.x - p.block[t]) * CHUNK + threadIdx.x;
    const float by = p.norm[1];
    for (unsigned k = 0; k < CHUNK / THREADS; ++k) {
        const unsigned i = start + k * THREADS;
        if (i < elements) p.to[t][i] = p.from[t][i] * by;
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) eosin_clip_grad_norm_forward_squares_f32(const Tensors p) { squares(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_clip_grad_norm_forward_norm_f32(const NormParams p) { norm(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_clip_grad_norm_forward_scale_f32(const Tensors p) { scale(p); }
