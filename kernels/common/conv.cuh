// Convolutions as products whose panels are gathered from NHWC images while
// they are brought into shared memory.
#pragma once
#include "common/half.cuh"
#include "common/moments.cuh"
#include "common/product.cuh"

namespace eosin {

// src/ops/conv2d/cuda.rs has its twin.
struct ConvSizes {
    unsigned batch, channels, filters;  // N, C, K over all groups
    unsigned height, width;             // H, W of x
    unsigned rows, columns;             // P, Q of y
    unsigned r, s;                      // the kernel's
    unsigned stride[2], padding[2], dilation[2];
    unsigned groups;
    // Elements from pixel to pixel of x and of y, which may be channels of wider images;
    // only forward kernels of dense filters ask.
    unsigned pixel_x, pixel_y;

    __device__ unsigned group_channels() const { return channels / groups; }
    __device__ unsigned group_filters() const { return filters / groups; }
};

// src/ops/conv2d/cuda.rs has its twin.
struct ConvParams {
    const void* x;         // (N, H, W, C)
    const void* w;         // (K, R, S, C/groups)
    const void* bias;      // (K) or null
    const void* residual;  // (N, P, Q, K) or null
    void* y;               // (N, P, Q, K)
    const float *scale, *shift;  // (C), read where x is activated
    ConvSizes sizes;
    Epilogue epilogue;
    LeftMoments moments;  // of dense filters, a part for each tile of pixels
};

// Patches of x: row i is pixel (n, p, q) of y, column k is (r, s, c). A thread
// keeps its rows and, of each step, has one column. ACTIVATED: of relu(scale x + shift)
// instead of x.
template <int B, bool ACTIVATED = false>
struct PatchPanel {
    static constexpr int EACH = Panel<B>::EACH;
    Panel<B> panel;
    const float *x, *scale, *shift;  // at the group's first channel
    const ConvSizes& sizes;
    int top[EACH], left[EACH];  // of the patch; far outside for no pixel
    unsigned image[EACH];

    __device__ PatchPanel(const ConvParams& p, unsigned channel, unsigned start)
        : panel{true}, x(static_cast<const float*>(p.x) + channel), scale(ACTIVATED ? p.scale + channel : nullptr),
          shift(ACTIVATED ? p.shift + channel : nullptr), sizes(p.sizes) {
        const unsigned pixels = sizes.batch * sizes.rows * sizes.columns;
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            unsigned i = start + panel.across(j);
            const bool inside = i < pixels;
            const unsigned q = i % sizes.columns;
            i /= sizes.columns;
            const unsigned p = i % sizes.rows;
            image[j] = inside ? i / sizes.rows : 0;
            top[j] = inside ? int(p * sizes.stride[0]) - int(sizes.padding[0]) : -(1 << 30);
            left[j] = int(q * sizes.stride[1]) - int(sizes.padding[1]);
        }
    }

    __device__ void fetch(unsigned k0, unsigned k_end, float (&to)[EACH]) const {
        const unsigned k = k0 + panel.inner(0), each = sizes.group_channels();
        const unsigned tap = k / each, c = k % each;
        const int down = int(tap / sizes.s * sizes.dilation[0]);
        const int across = int(tap % sizes.s * sizes.dilation[1]);
        const float times = ACTIVATED ? scale[c] : 1.0f, more = ACTIVATED ? shift[c] : 0.0f;
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const int h = top[j] + down, v = left[j] + across;
            const bool inside = k < k_end && h >= 0 && h < int(sizes.height) && v >= 0 &&
                                v < int(sizes.width);
            const u64 pixel = (u64(image[j]) * sizes.height + h) * sizes.width + v;
            to[j] = inside ? x[pixel * sizes.pixel_x + c] : 0.0f;
            if (ACTIVATED && inside) to[j] = activated(to[j], times, more);
        }
    }
};

// Block (tile of the pixels and the group's filters, group).
template <int BM, int BN, bool ACTIVATED = false>
__device__ inline void conv_forward(const ConvParams& p) {
    const ConvSizes& z = p.sizes;
    const unsigned pixels = z.batch * z.rows * z.columns;
    const unsigned filters = z.group_filters(), inner = z.r * z.s * z.group_channels();
    const unsigned across = (filters + BN - 1) / BN, group = blockIdx.y;
    const unsigned row = blockIdx.x / across * BM, column = blockIdx.x % across * BN;
    const auto* w = static_cast<const float*>(p.w);
    const auto *bias = static_cast<const float*>(p.bias), *residual = static_cast<const float*>(p.residual);
    const PatchPanel<BM, ACTIVATED> a(p, group * z.group_channels(), row);
    const StridedPanel<BN> b{
        {true}, w + u64(group) * filters * inner, column, filters, inner, 1};
    product_tile<BM, BN>(a, b, 0, inner, [&](unsigned i, unsigned j, float sum) {
        i += row, j += column;
        if (i >= pixels || j >= filters) return;
        const unsigned filter = group * filters + j;
        const u64 at = u64(i) * z.pixel_y + filter;
        if (bias) sum += bias[filter];
        if (residual) sum += residual[at];
        static_cast<float*>(p.y)[at] = p.epilogue(sum);
    });
    if (!p.moments.parts) return;
    SHARED(Moments, lanes, [PRODUCT_THREADS]);
    const unsigned first = group * filters + column;
    leave_moments<PRODUCT_THREADS, BN>(
        p.moments, static_cast<const float*>(p.y) + u64(row) * z.filters + first, min(unsigned(BM), pixels - row),
        min(unsigned(BN), filters - column), z.filters, p.moments.parts + u64(row / BM) * z.filters + first, lanes);
}

// Filters of one channel each: a thread per element of y, channels side by side.
template <class T>
__device__ inline void depthwise_forward(const ConvParams& p) {
    const ConvSizes& z = p.sizes;
    const auto *x = static_cast<const T*>(p.x), *w = static_cast<const T*>(p.w);
    const auto *bias = static_cast<const T*>(p.bias), *residual = static_cast<const T*>(p.residual);
    const u64 at = u64(blockIdx.x) * PRODUCT_THREADS + threadIdx.x;
    if (at >= u64(z.batch) * z.rows * z.columns * z.filters) return;
    const unsigned filter = unsigned(at % z.filters), channel = filter / z.group_filters();
    unsigned pixel = unsigned(at / z.filters);
    const unsigned column = pixel % z.columns;
    pixel /= z.columns;
    const unsigned row = pixel % z.rows, image = pixel / z.rows;
    float sum = 0.0f;
    for (unsigned r = 0; r < z.r; ++r) {
        const int h = int(row * z.stride[0] + r * z.dilation[0]) - int(z.padding[0]);
        if (h < 0 || h >= int(z.height)) continue;
        for (unsigned s = 0; s < z.s; ++s) {
            const int v = int(column * z.stride[1] + s * z.dilation[1]) - int(z.padding[1]);
            if (v < 0 || v >= int(z.width)) continue;
            const u64 from = (u64(image) * z.height + h) * z.width + v;
            const float weight = widened(w[(filter * z.r + r) * z.s + s]);
            sum = fmaf(widened(x[from * z.channels + channel]), weight, sum);
        }
    }
    if (bias) sum += widened(bias[filter]);
    if (residual) sum += widened(residual[at]);
    static_cast<T*>(p.y)[at] = narrowed<T>(p.epilogue(sum));
}

}  // namespace eosin
