// layer_norm of the rows of a row-major matrix (rows, columns), f32, bf16 or f16:
//
//   y = n w + b with n = (x - mean) s, s = 1 / sqrt(var + eps),
//   dx = more + (h - mean(h) - n mean(h n)) s with h = g w,
//   dw = sum over rows of g n, db = sum over rows of g.
//
// Weight and bias are (columns) or null, for 1 and 0; statistics are (rows, 2):
// mean and s; all of these are f32. `more` is what else x's gradient is the sum of,
// or null. The mean is taken twice, the second time of what the first leaves,
// so that a mean far from 0 costs neither itself nor the variance its digits.
//
// add_layer_norm is the same of a sum, x + added, which is written too, and rounded
// before it is normalised; its gradient is that of the norm, with what the sum's other
// readers give as `more`.
//
// Launch: rows of up to 1024 columns go one per warp, rows / 8 blocks of 256
// threads, rounded up; longer ones go one per block. Backward has as many blocks
// for dx, and behind them those of common/columns.cuh for dw and db, so that all
// three are one launch. Every sum has a fixed order.
//
// Floor: memory. 8 bytes an element of f32 forward, 16 of a sum, 12 for dx, 4 for `more` and 8 more
// for dw and db, if a row's further readings are served by the caches; bf16 and f16
// are half of that.
#include "common/base.cuh"
#include "common/columns.cuh"
#include "common/half.cuh"
#include "common/rows.cuh"

using namespace eosin;

struct LayerNormForward {
    void* out;
    void* sum;  // null without `added`
    float* statistics;
    const void* x;
    const void* added;  // or null
    const float* weight;
    const float* bias;
    unsigned rows, columns;
    float eps;
    unsigned padding;
};

struct LayerNormBackward {
    void* out;
    float* weight_gradient;
    float* bias_gradient;
    const void* g;
    const void* x;
    const void* more;
    const float* weight;
    const float* statistics;
    Pair* parts;
    unsigned* arrivals;
    unsigned rows, columns;
    Columns sums;
    unsigned row_blocks, padding;
};

// A warp beyond the last row works on the last one and stores nothing, so that
// every thread reaches every exchange.
template <class By, class T>
__device__ void forward(const LayerNormForward& p) {
    SHARED(float, parts, [256 / WARP]);
    const By by{parts};
    const bool mine = by.row() < p.rows;
    const unsigned row = mine ? by.row() : p.rows - 1;
    const T* given = static_cast<const T*>(p.x) + u64(row) * p.columns;
    const T* added = p.added ? static_cast<const T*>(p.added) + u64(row) * p.columns : nullptr;
    const auto x = [&](unsigned i) {
        if (!added) return widened(given[i]);
        return widened(narrowed<T>(widened(given[i]) + widened(added[i])));
    };
    const float n = float(p.columns);

    float sum = 0.0f;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) sum += x(i);
    const float near = by.sum(sum) / n;
    float rest = 0.0f, squares = 0.0f;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        const float d = x(i) - near;
        rest += d;
        squares += d * d;
    }
    rest = by.sum(rest) / n;
    const float mean = near + rest;
    const float var = by.sum(squares) / n - rest * rest;
    // Not fmaxf, which would turn NaN into 0.
    const float scale = 1.0f / sqrtf((var < 0.0f ? 0.0f : var) + p.eps);

    if (!mine) return;
    T* out = static_cast<T*>(p.out) + u64(row) * p.columns;
    T* sums = p.sum ? static_cast<T*>(p.sum) + u64(row) * p.columns : nullptr;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        const float w = p.weight ? p.weight[i] : 1.0f;
        const float b = p.bias ? p.bias[i] : 0.0f;
        const float v = x(i);
        if (sums) sums[i] = narrowed<T>(v);
        out[i] = narrowed<T>((v - mean) * scale * w + b);
    }
    if (by.first() == 0) {
        p.statistics[2 * u64(row)] = mean;
        p.statistics[2 * u64(row) + 1] = scale;
    }
}

template <class By, class T>
__device__ void row_gradient(const LayerNormBackward& p) {
    SHARED(float, parts, [256 / WARP]);
    const By by{parts};
    const bool mine = by.row() < p.rows;
    const unsigned row = mine ? by.row() : p.rows - 1;
    const T* g = static_cast<const T*>(p.g) + u64(row) * p.columns;
    const T* x = static_cast<const T*>(p.x) + u64(row) * p.columns;
    const float mean = p.statistics[2 * u64(row)], scale = p.statistics[2 * u64(row) + 1];
    const float n = float(p.columns);

    float plain = 0.0f, along = 0.0f;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        const float h = p.weight ? widened(g[i]) * p.weight[i] : widened(g[i]);
        plain += h;
        along += h * ((widened(x[i]) - mean) * scale);
    }
    plain = by.sum(plain) / n;
    along = by.sum(along) / n;

    if (!mine) return;
    T* out = static_cast<T*>(p.out) + u64(row) * p.columns;
    const T* more = p.more ? static_cast<const T*>(p.more) + u64(row) * p.columns : nullptr;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        const float h = p.weight ? widened(g[i]) * p.weight[i] : widened(g[i]);
        const float dx = (h - plain - (widened(x[i]) - mean) * scale * along) * scale;
        out[i] = narrowed<T>(more ? dx + widened(more[i]) : dx);
    }
}

// Sums of g n and g.
template <class T>
__device__ void parameter_gradients(const LayerNormBackward& p, unsigned block) {
    SHARED(Pair, lanes, [256]);
    const T *x = static_cast<const T*>(p.x), *g = static_cast<const T*>(p.g);
    const auto of_part = [&](unsigned column, unsigned first, unsigned end, unsigned step) {
        Pair sum = Pair::none();
        for (unsigned row = first; row < end; row += step) {
            const u64 at = p.sums.place(column, row);
            const float mean = p.statistics[2 * u64(row)], scale = p.statistics[2 * u64(row) + 1];
            sum.a += widened(g[at]) * ((widened(x[at]) - mean) * scale);
            sum.b += widened(g[at]);
        }
        return sum;
    };
    sum_columns(p.sums, block, p.arrivals, lanes, p.parts, of_part, [&](unsigned column, Pair sum) {
        p.weight_gradient[column] = sum.a;
        p.bias_gradient[column] = sum.b;
    });
}

template <class By, class T>
__device__ void backward(const LayerNormBackward& p) {
    if (blockIdx.x < p.row_blocks)
        row_gradient<By, T>(p);
    else
        parameter_gradients<T>(p, blockIdx.x - p.row_blocks);
}

extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_warp_f32(const LayerNormForward p) { forward<ByWarp, float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_block_f32(const LayerNormForward p) { forward<ByBlock, float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_warp_f32(const LayerNormBackward p) { backward<ByWarp, float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_block_f32(const LayerNormBackward p) { backward<ByBlock, float>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_warp_bf16(const LayerNormForward p) { forward<ByWarp, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_block_bf16(const LayerNormForward p) { forward<ByBlock, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_warp_bf16(const LayerNormBackward p) { backward<ByWarp, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_block_bf16(const LayerNormBackward p) { backward<ByBlock, __nv_bfloat16>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_warp_f16(const LayerNormForward p) { forward<ByWarp, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_block_f16(const LayerNormForward p) { forward<ByBlock, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_warp_f16(const LayerNormBackward p) { backward<ByWarp, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_block_f16(const LayerNormBackward p) { backward<ByBlock, __half>(p); }
