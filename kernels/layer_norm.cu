// layer_norm of the rows of a row-major matrix (rows, columns), f32:
//
//   y = n w + b with n = (x - mean) s, s = 1 / sqrt(var + eps),
//   dx = (h - mean(h) - n mean(h n)) s with h = g w,
//   dw = sum over rows of g n, db = sum over rows of g.
//
// Weight and bias are (columns) or null, for 1 and 0; statistics are (rows, 2):
// mean and s. The mean is taken twice, the second time of what the first leaves,
// so that a mean far from 0 costs neither itself nor the variance its digits.
//
// Launch: rows of up to 1024 columns go one per warp, rows / 8 blocks of 256
// threads, rounded up; longer ones go one per block. dw and db come in the two
// stages of common/columns.cuh. Every sum has a fixed order.
//
// Floor: memory. 8 bytes an element forward, 12 for dx and 8 more for dw and db,
// if a row's further readings are served by the caches.
#include "common/base.cuh"
#include "common/columns.cuh"
#include "common/rows.cuh"

using namespace eosin;

struct LayerNormForward {
    float* out;
    float* statistics;
    const float* x;
    const float* weight;
    const float* bias;
    unsigned rows, columns;
    float eps;
    unsigned padding;
};

struct LayerNormBackward {
    float* out;
    const float* g;
    const float* x;
    const float* weight;
    const float* statistics;
    unsigned rows, columns;
};

struct LayerNormParts {
    Pair* parts;
    const float* g;
    const float* x;
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
template <class By>
__device__ void forward(const LayerNormForward& p) {
    SHARED(float, parts, [256 / WARP]);
    const By by{parts};
    const bool mine = by.row() < p.rows;
    const unsigned row = mine ? by.row() : p.rows - 1;
    const float* x = p.x + u64(row) * p.columns;
    const float n = float(p.columns);

    float sum = 0.0f;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) sum += x[i];
    const float near = by.sum(sum) / n;
    float rest = 0.0f, squares = 0.0f;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        const float d = x[i] - near;
        rest += d;
        squares += d * d;
    }
    rest = by.sum(rest) / n;
    const float mean = near + rest;
    const float var = by.sum(squares) / n - rest * rest;
    // Not fmaxf, which would turn NaN into 0.
    const float scale = 1.0f / sqrtf((var < 0.0f ? 0.0f : var) + p.eps);

    if (!mine) return;
    float* out = p.out + u64(row) * p.columns;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        const float w = p.weight ? p.weight[i] : 1.0f;
        const float b = p.bias ? p.bias[i] : 0.0f;
        out[i] = (x[i] - mean) * scale * w + b;
    }
    if (by.first() == 0) {
        p.statistics[2 * u64(row)] = mean;
        p.statistics[2 * u64(row) + 1] = scale;
    }
}

template <class By>
__device__ void backward(const LayerNormBackward& p) {
    SHARED(float, parts, [256 / WARP]);
    const By by{parts};
    const bool mine = by.row() < p.rows;
    const unsigned row = mine ? by.row() : p.rows - 1;
    const float* g = p.g + u64(row) * p.columns;
    const float* x = p.x + u64(row) * p.columns;
    const float mean = p.statistics[2 * u64(row)], scale = p.statistics[2 * u64(row) + 1];
    const float n = float(p.columns);

    float plain = 0.0f, along = 0.0f;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        const float h = p.weight ? g[i] * p.weight[i] : g[i];
        plain += h;
        along += h * ((x[i] - mean) * scale);
    }
    plain = by.sum(plain) / n;
    along = by.sum(along) / n;

    if (!mine) return;
    float* out = p.out + u64(row) * p.columns;
    for (unsigned i = by.first(); i < p.columns; i += By::STEP) {
        const float h = p.weight ? g[i] * p.weight[i] : g[i];
        out[i] = (h - plain - (x[i] - mean) * scale * along) * scale;
    }
}

extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_warp_f32(const LayerNormForward p) {
    forward<ByWarp>(p);
}

extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_forward_block_f32(const LayerNormForward p) {
    forward<ByBlock>(p);
}

extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_warp_f32(const LayerNormBackward p) {
    backward<ByWarp>(p);
}

extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_block_f32(const LayerNormBackward p) {
    backward<ByBlock>(p);
}

// First stage of dw and db: per part of the rows and column, sums of g n and g.
extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_parts_f32(const LayerNormParts p) {
    SHARED(Pair, lanes, [256]);
    sum_part(p.columns, lanes, p.parts, [&](unsigned column, unsigned first, unsigned end, unsigned step) {
        Pair sum = Pair::none();
        for (unsigned row = first; row < end; row += step) {
            const u64 at = p.columns.place(column, row);
            const float mean = p.statistics[2 * u64(row)], scale = p.statistics[2 * u64(row) + 1];
            sum.a += p.g[at] * ((p.x[at] - mean) * scale);
            sum.b += p.g[at];
        }
        return sum;
    });
}

extern "C" __global__ void __launch_bounds__(256) eosin_layer_norm_backward_total_f32(const LayerNormTotal p) {
    SHARED(Pair, lanes, [256]);
    sum_total(p.columns, lanes, p.parts, [&](unsigned column, Pair sum) {
        p.weight_gradient[column] = sum.a;
        p.bias_gradient[column] = sum.b;
    });
}
