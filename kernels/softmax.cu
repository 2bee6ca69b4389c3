// softmax and log_softmax of the rows of a row-major matrix (rows, columns), f32.
//
//   softmax:      y = e^(x - top) / sum(e^(x - top))     dx = y (g - sum(g y))
//   log_softmax:  z = x - top - log(sum(e^(x - top)))    dx = g - e^z sum(g)
//
// with top the largest of the row, so that nothing overflows. NaN anywhere, or a
// row that is minus infinity throughout, gives a row of NaN.
//
// Launch: rows of up to 1024 columns go one per warp, rows / 8 blocks of 256
// threads, rounded up; longer ones go one per block. Each thread adds every 32nd
// or 256th element in order, then the warp's or block's tree: the same bits every
// time.
//
// Floor: memory. 8 bytes an element forward, 12 backward, if a row's second and
// third reading are served by the caches.
#include "common/base.cuh"
#include "common/rows.cuh"

using namespace eosin;

struct SoftmaxForward {
    float* out;
    const float* x;
    unsigned rows, columns;
};

struct SoftmaxBackward {
    float* out;
    const float* g;
    const float* y;
    unsigned rows, columns;
};

// A warp beyond the last row works on the last one and stores nothing, so that
// every thread reaches every exchange.
template <class By>
__device__ void forward(const SoftmaxForward& p, bool logarithm) {
    SHARED(float, parts, [256 / WARP]);
    const By by{parts};
    const bool mine = by.row() < p.rows;
    const u64 start = u64(mine ? by.row() : p.rows - 1) * p.columns;
    const float* x = p.x + start;
    float* out = p.out + start;

    float top = -INFINITY;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) top = fmaxf(top, x[i]);
    top = by.max(top);
    float total = 0.0f;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) total += expf(x[i] - top);
    total = by.sum(total);

    const float scale = 1.0f / total, log = logf(total);
    if (!mine) return;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        const float v = x[i] - top;
        out[i] = logarithm ? v - log : expf(v) * scale;
    }
}

template <class By>
__device__ void backward(const SoftmaxBackward& p, bool logarithm) {
    SHARED(float, parts, [256 / WARP]);
    const By by{parts};
    const bool mine = by.row() < p.rows;
    const u64 start = u64(mine ? by.row() : p.rows - 1) * p.columns;
    const float* g = p.g + start;
    const float* y = p.y + start;
    float* out = p.out + start;

    float total = 0.0f;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        total += logarithm ? g[i] : g[i] * y[i];
    }
    total = by.sum(total);

    if (!mine) return;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        out[i] = logarithm ? g[i] - expf(y[i]) * total : y[i] * (g[i] - total);
    }
}

extern "C" __global__ void __launch_bounds__(256) eosin_softmax_forward_warp_f32(const SoftmaxForward p) {
    forward<ByWarp>(p, false);
}

extern "C" __global__ void __launch_bounds__(256) eosin_softmax_forward_block_f32(const SoftmaxForward p) {
    forward<ByBlock>(p, false);
}

extern "C" __global__ void __launch_bounds__(256) eosin_log_softmax_forward_warp_f32(const SoftmaxForward p) {
    forward<ByWarp>(p, true);
}

extern "C" __global__ void __launch_bounds__(256) eosin_log_softmax_forward_block_f32(const SoftmaxForward p) {
    forward<ByBlock>(p, true);
}

extern "C" __global__ void __launch_bounds__(256) eosin_softmax_backward_warp_f32(const SoftmaxBackward p) {
    backward<ByWarp>(p, false);
}

extern "C" __global__ void __launch_bounds__(256) eosin_softmax_backward_block_f32(const SoftmaxBackward p) {
    backward<ByBlock>(p, false);
}

extern "C" __global__ void __launch_bounds__(256) eosin_log_softmax_backward_warp_f32(const SoftmaxBackward p) {
    backward<ByWarp>(p, true);
}

extern "C" __global__ void __launch_bounds__(256) eosin_log_softmax_backward_block_f32(const SoftmaxBackward p) {
    backward<ByBlock>(p, true);
}
