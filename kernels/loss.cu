// Losses that are a mean over pairs of elements of x and y in one order, f32:
//
//   mse_loss:         mean of (x - y)^2
//   bce_with_logits:  mean of max(x, 0) - x y + log(1 + e^-|x|)
//
// The mean over nothing is NaN.
//
// Launch: first a block of 256 threads per part of the elements, then one block
// that adds the parts and divides. Each thread adds every 256th element of its
// part in order and with the error of each addition carried along (Kahan 1965);
// then trees: the same bits every time.
//
// Floor: memory. 8 bytes a pair.
#include "common/base.cuh"

using namespace eosin;

struct LossParts {
    float* parts;
    const float* x;
    const float* y;
    unsigned elements;
    unsigned part;  // elements of a block
};

struct LossMean {
    float* out;
    const float* parts;
    unsigned count;
    float elements;
};

template <class F>
__device__ void sum_part(const LossParts& p, F f) {
    SHARED(float, shared, [256 / WARP]);
    const unsigned start = blockIdx.x * p.part, end = min(start + p.part, p.elements);
    float sum = 0.0f, lost = 0.0f;
    for (unsigned i = start + threadIdx.x; i < end; i += 256) {
        const float term = f(p.x[i], p.y[i]) - lost;
        const float next = sum + term;
        lost = isinf(next) ? 0.0f : (next - sum) - term;
        sum = next;
    }
    const float total = block_sum<256>(sum, shared);
    if (threadIdx.x == 0) p.parts[blockIdx.x] = total;
}

extern "C" __global__ void __launch_bounds__(256) eosin_mse_loss_forward_parts_f32(const LossParts p) {
    sum_part(p, [](float x, float y) { return (x - y) * (x - y); });
}

extern "C" __global__ void __launch_bounds__(256) eosin_bce_with_logits_forward_parts_f32(const LossParts p) {
    sum_part(p, [](float x, float y) { return (x > 0.0f ? x : 0.0f) - x * y + log1pf(expf(-fabsf(x))); });
}

extern "C" __global__ void __launch_bounds__(256) eosin_loss_forward_mean_f32(const LossMean p) {
    SHARED(float, shared, [256 / WARP]);
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < p.count; i += 256) sum += p.parts[i];
    sum = block_sum<256>(sum, shared);
    if (threadIdx.x == 0) p.out[0] = sum / p.elements;
}
