// Losses that are a mean over pairs of elements of x and y in one order, f32:
//
//   mse_loss:         mean of (x - y)^2, with the gradient g 2 (x - y) / n
//   bce_with_logits:  mean of max(x, 0) - x y + log(1 + e^-|x|)
//
// and cross_entropy, the mean over rows of log(sum(e^x)) - x[label] of logits (rows,
// classes), with the gradient g (p - 1 at the label) / rows, p = e^(x - log_sum). A
// label that is no class is reported and adds nothing.
//
// The mean over nothing is NaN.
//
// Launch of means of pairs: first a block of 256 threads per part of the elements, then one block
// that adds the parts and divides. Each thread adds every 256th element of its
// part in order and with the error of each addition carried along (Kahan 1965);
// then trees: the same bits every time.
//
// Launch of cross_entropy: one block, a warp for every eighth row, whose sums are added
// in a fixed order: logits of a batch are few. Of the gradients: a thread for each
// element.
//
// Floor: memory. 8 bytes a pair, 12 for its gradient; the logits once, and twice.
#include "common/base.cuh"
#include "common/walk.cuh"

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

struct LossGradient {
    float* out;
    const float *x, *y;
    const float* g;  // one
    unsigned elements;
    float factor;
};

struct CrossEntropy {
    float* loss;
    float* log_sums;  // (rows)
    const float* x;   // (rows, classes)
    const i64* labels;
    Control* control;
    unsigned kernel;
    unsigned rows, classes, padding;
};

struct CrossEntropyGradient {
    float* out;
    const float *x, *log_sums;
    const i64* labels;
    const float* g;  // one
    unsigned rows, classes;
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

extern "C" __global__ void __launch_bounds__(256) eosin_mse_loss_backward_f32(const LossGradient p) {
    const float share = p.g[0] * p.factor;
    each_element(p.elements, [&](unsigned i) { p.out[i] = (p.x[i] - p.y[i]) * share; });
}

extern "C" __global__ void __launch_bounds__(256) eosin_cross_entropy_forward_f32(const CrossEntropy p) {
    SHARED(float, shared, [256 / WARP]);
    const unsigned lane = threadIdx.x % WARP;
    float sum = 0.0f;
    for (unsigned row = threadIdx.x / WARP; row < p.rows; row += 256 / WARP) {
        const float* x = p.x + u64(row) * p.classes;
        float top = -INFINITY;
        for (unsigned c = lane; c < p.classes; c += WARP) top = fmaxf(top, x[c]);
        top = warp_max(top);
        float total = 0.0f;
        for (unsigned c = lane; c < p.classes; c += WARP) total += expf(x[c] - top);
        const float log_sum = top + logf(warp_sum(total));
        if (lane != 0) continue;
        p.log_sums[row] = log_sum;
        const i64 label = p.labels[row];
        if (label >= 0 && label < i64(p.classes)) sum += log_sum - x[label];
        else report(p.control, p.kernel, label, p.classes);
    }
    sum = block_sum<256>(sum, shared);
    if (threadIdx.x == 0) p.loss[0] = sum / float(p.rows);
}

extern "C" __global__ void __launch_bounds__(256) eosin_cross_entropy_backward_f32(const CrossEntropyGradient p) {
    const float share = p.g[0] / float(p.rows);
    each_element(p.rows * p.classes, [&](unsigned i) {
        const unsigned row = i / p.classes;
        const float chosen = p.labels[row] == i64(i % p.classes) ? 1.0f : 0.0f;
        p.out[i] = (expf(p.x[i] - p.log_sums[row]) - chosen) * share;
    });
}
