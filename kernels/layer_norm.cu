// layer_norm of the rows of a row-major matrix (rows, columns); f32, bf16, f16:
//
//   y = n w + b with n = (x - mean) s, s = 1 / sqrt(var + eps),
//   dx = (h - mean(h) - n mean(h n)) s + carried with h = g w,
//   dw = sum over rows of g n, db = sum over rows of g.
//
// add_layer_norm is the same of x = a + b, which is written too, rounded to the
// dtype before it is normalised. `carried` is the gradient that x has from its other
// readers, or null: with it the residual's two gradients meet here.
//
// Weight and bias are f32 (columns) or null, for 1 and 0; statistics are f32 (rows,
// 2): mean and s. The mean is taken twice, the second time of what the first leaves,
// so that a mean far from 0 costs neither itself nor the variance its digits.
//
// Launch: rows of up to 1024 columns go one per warp, rows / 8 blocks of 256
// threads, rounded up; longer ones go one per block. dw and db come in the two
// stages of common/columns.cuh. Every sum has a fixed order.
//
// Floor: memory. In f32 8 bytes an element forward, 16 with a sum; 12 for dx, 4 more
// if a gradient is carried, and 8 more for dw and db, if a row's further readings are
// served by the caches. Half of that in bf16 and f16.
#include "common/base.cuh"
#include "common/columns.cuh"
#include "common/half.cuh"
#include "common/rows.cuh"

using namespace eosin;

struct LayerNormForward {
    void* out;
    void* sum;  // x + added, or null
    float* statistics;
    const void* x;
    const void* added;  // null with sum
    const float* weight;
    const float* bias;
    unsigned rows, columns;
    float eps;
    unsigned padding;
};

struct LayerNormBackward {
    void* out;
    const void* g;
    const void* x;
    const void* carried;  // or null
    const float* weight;
    const float* statistics;
    unsigned rows, columns;
};

struct LayerNormParts {
    Pair* parts;
    const void* g;
    const void* x;
    const float* statistics;
    Columns columns;
};

struct LayerNormTotal {
    float* weight_gradient;
    float* bias_gradient;
    const Pair* parts;
    Columns columns;
};

// A warp beyond the last row works on the last one and stores nothing, so that
// every thread reaches every exchange.
template <class T, class By>
__device__ void forward(const LayerNormForward& p) {
    SHARED(float, parts, [256 / WARP]);
    const By by{parts};
    const bool mine = by.row() < p.rows;
    const u64 start = u64(mine ? by.row() : p.rows - 1) * p.columns;
    const T* given = static_cast<const T*>(p.x) + start;
    const T* added = static_cast<const T*>(p.added) + start;
    auto x = [&](unsigned i) {
        if (!p.added) return widened(given[i]);
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
    T* out = static_cast<T*>(p.out) + start;
    T* sums = static_cast<T*>(p.sum) + start;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        const float w = p.weight ? p.weight[i] : 1.0f;
        const float b = p.bias ? p.bias[i] : 0.0f;
        const float v = x(i);
        if (p.added) sums[i] = narrowed<T>(v);
        out[i] = narrowed<T>((v - mean) * scale * w + b);
    }
    if (by.first() == 0) {
        const u64 row = by.row();
        p.statistics[2 * row] = mean;
        p.statistics[2 * row + 1] = scale;
    }
}

template <class T, class By>
__device__ void backward(const LayerNormBackward& p) {
    SHARED(float, parts, [256 / WARP]);
    const By by{parts};
    const bool mine = by.row() < p.rows;
    const u64 row = mine ? by.row() : p.rows - 1, start = row * p.columns;
    const T* g = static_cast<const T*>(p.g) + start;
    const T* x = static_cast<const T*>(p.x) + start;
    const float mean = p.statistics[2 * row], scale = p.statistics[2 * row + 1];
    const float n = float(p.columns);
    auto h = [&](unsigned i) { return p.weight ? widened(g[i]) * p.weight[i] : widened(g[i]); };

    float plain = 0.0f, along = 0.0f;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        plain += h(i);
        along += h(i) * ((widened(x[i]) - mean) * scale);
    }
    plain = by.sum(plain) / n;
    along = by.sum(along) / n;

    if (!mine) return;
    T* out = static_cast<T*>(p.out) + start;
    const T* carried = static_cast<const T*>(p.carried) + start;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        const float v = (h(i) - plain - (widened(x[i]) - mean) * scale * along) * scale;
        out[i] = narrowed<T>(p.carried ? widened(carried[i]) + v : v);
    }
}

// First stage of dw and db: per part of the rows and column, sums of g n and g.
template <class T>
__device__ void parts_of(const LayerNormParts& p) {
    SHARED(Pair, lanes, [256]);
    const T *g = static_cast<const T*>(p.g), *x = static_cast<const T*>(p.x);
    sum_part(p.columns, lanes, p.parts, [&](unsigned column, unsigned first, unsigned end, unsigned step) {
        Pair sum = Pair::none();
        for (unsigned row = first; row < end; row += step) {
            const u64 at = p.columns.place(column, row);
            const float mean = p.statistics[2 * u64(row)], scale = p.statistics[2 * u64(row) + 1];
            sum.a += widened(g[at]) * ((widened(x[at]) - mean) * scale);
            sum.b += widened(g[at]);
        }
        return sum;
    });
}

extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_warp_f32(const LayerNormForward p) { forward<float, ByWarp>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_warp_bf16(const LayerNormForward p) { forward<__nv_bfloat16, ByWarp>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_warp_f16(const LayerNormForward p) { forward<__half, ByWarp>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_block_f32(const LayerNormForward p) { forward<float, ByBlock>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_block_bf16(const LayerNormForward p) { forward<__nv_bfloat16, ByBlock>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_block_f16(const LayerNormForward p) { forward<__half, ByBlock>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_warp_f32(const LayerNormBackward p) { backward<float, ByWarp>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_warp_bf16(const LayerNormBackward p) { backward<__nv_bfloat16, ByWarp>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_warp_f16(const LayerNormBackward p) { backward<__half, ByWarp>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_block_f32(const LayerNormBackward p) { backward<float, ByBlock>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_block_bf16(const LayerNormBackward p) { backward<__nv_bfloat16, ByBlock>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_block_f16(const LayerNormBackward p) { backward<__half, ByBlock>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_parts_f32(const LayerNormParts p) { parts_of<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_parts_bf16(const LayerNormParts p) { parts_of<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_parts_f16(const LayerNormParts p) { parts_of<__half>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_total_f32(const LayerNormTotal p) {
    SHARED(Pair, lanes, [256]);
    sum_total(p.columns, lanes, p.parts, [&](unsigned column, Pair sum) {
        p.weight_gradient[column] = sum.a;
        p.bias_gradient[column] = sum.b;
    });
}
