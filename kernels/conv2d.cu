// conv2d and its two gradients, NHWC: f32, and for groups of one channel bf16 and
// f16 too, whose other groups are in conv2d_half.cu.
//
//   y[n,p,q,k] = b[k] + sum over r, s, c of x[n, p sh + r dh - ph, q sw + s dw - pw, c] w[k,r,s,c]
//   gx[n,h,w,c] = the sum over r, s, k of gy[n,p,q,k] w[k,r,s,c] where (h, w) was read for (p, q)
//   gw[k,c,r,s] = the sum over n, p, q of gy[n,p,q,k] x[n, h, w, c] likewise
//
// x (N, H, W, C), w (K, R, S, C/groups), y (N, P, Q, K), gw (K, C/groups, R, S),
// all dense; stride, padding, dilation and groups are free. Each is a product
// (product.cuh) over tiles of 64 x 64 in blocks of 256 threads:
//   forward         pixels of y x filters,  inner (r, s, c), grid (tiles, groups)
//   input gradient  pixels of x x channels, inner (r, s, k), grid (tiles, groups)
//   weight gradient filters x (r, s, c),    inner pixels,    grid (tiles, groups, parts)
// Groups of one channel have kernels of their own, a thread per element, and a
// block per 32 filters, tap and part for the weight gradient. The parts of a
// weight gradient, cut by shape alone, are added in order by `join`. Filters of one tap
// are a linear map of the pixels, whose gradients are one launch as those of linear.cu.
// One channel and filter for each group: conv2d_depthwise.cu, unless the weights are many.
// Forward can leave the moments of what it wrote, of each tile's channels, for a batch
// norm (moments.cuh): the tile is read back from the caches.
// Deterministic: each sum runs in ascending order of its inner index.
// Floor: 2 N P Q K R S C/groups operations at the f32 roof; depthwise: bytes.
#include "common/conv.cuh"

using namespace eosin;

namespace {

// src/ops/conv2d/cuda.rs has its twin.
struct InputParams {
    const void *gy, *w;  // (N, P, Q, K), (K, R, S, C/groups)
    void* gx;            // (N, H, W, C)
    ConvSizes sizes;
};

// The place along an axis of y that reads `at` of the padded x with this tap,
// -1 for none.
__device__ int reader(int at, unsigned stride, unsigned size) {
    if (at < 0) return -1;
    const unsigned place = unsigned(at) / stride;
    return place * stride == unsigned(at) && place < size ? int(place) : -1;
}

// Row i is pixel (n, h, w) of x, column k is (r, s, filter).
template <int B>
struct ReaderPanel {
    static constexpr int EACH = Panel<B>::EACH;
    Panel<B> panel;
    const float* gy;  // at the group's first filter
    const ConvSizes& sizes;
    int down[EACH], across[EACH];  // in the padded image; far outside for no pixel
    unsigned image[EACH];

    __device__ ReaderPanel(const float* gy, const ConvSizes& sizes, unsigned start)
        : panel{true}, gy(gy), sizes(sizes) {
        const unsigned pixels = sizes.batch * sizes.height * sizes.width;
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            unsigned i = start + panel.across(j);
            const bool inside = i < pixels;
            across[j] = int(i % sizes.width + sizes.padding[1]);
            i /= sizes.width;
            down[j] = inside ? int(i % sizes.height + sizes.padding[0]) : -(1 << 30);
            image[j] = inside ? i / sizes.height : 0;
        }
    }

    __device__ void fetch(unsigned k0, unsigned k_end, float (&to)[EACH]) const {
        const unsigned k = k0 + panel.inner(0), each = sizes.group_filters();
        const unsigned tap = k / each, filter = k % each;
        const int r = int(tap / sizes.s * sizes.dilation[0]);
        const int s = int(tap % sizes.s * sizes.dilation[1]);
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const int p = reader(down[j] - r, sizes.stride[0], sizes.rows);
            const int q = reader(across[j] - s, sizes.stride[1], sizes.columns);
            const bool inside = k < k_end && p >= 0 && q >= 0;
            const u64 pixel = (u64(image[j]) * sizes.rows + p) * sizes.columns + q;
            to[j] = inside ? gy[pixel * sizes.filters + filter] : 0.0f;
        }
    }
};

// Weights as (r, s, filter) x channel.
template <int B>
struct TurnedWeights {
    static constexpr int EACH = Panel<B>::EACH;
    Panel<B> panel;
    const float* w;  // at the group's first filter
    const ConvSizes& sizes;
    unsigned start;

    __device__ void fetch(unsigned k0, unsigned k_end, float (&to)[EACH]) const {
        const unsigned each = sizes.group_filters(), channels = sizes.group_channels();
        const unsigned taps = sizes.r * sizes.s;
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const unsigned k = k0 + panel.inner(j), c = start + panel.across(j);
            const u64 at = (u64(k % each) * taps + k / each) * channels + c;
            to[j] = k < k_end && c < channels ? w[at] : 0.0f;
        }
    }
};

__device__ void input_gradient(const InputParams& p) {
    const ConvSizes& z = p.sizes;
    const unsigned pixels = z.batch * z.height * z.width, channels = z.group_channels();
    const unsigned inner = z.r * z.s * z.group_filters();
    const unsigned tiles = (channels + 63) / 64, group = blockIdx.y;
    const unsigned row = blockIdx.x / tiles * 64, column = blockIdx.x % tiles * 64;
    const u64 weights = u64(group) * z.group_filters() * z.r * z.s * channels;
    const ReaderPanel<64> a(static_cast<const float*>(p.gy) + group * z.group_filters(), z, row);
    const TurnedWeights<64> b{{false}, static_cast<const float*>(p.w) + weights, z, column};
    float* gx = static_cast<float*>(p.gx);
    product_tile<64, 64>(a, b, 0, inner, [&](unsigned i, unsigned j, float sum) {
        i += row, j += column;
        if (i < pixels && j < channels) gx[u64(i) * z.channels + group * channels + j] = sum;
    });
}

template <class T>
__device__ void depthwise_input_gradient(const InputParams& p) {
    const ConvSizes& z = p.sizes;
    const auto *gy = static_cast<const T*>(p.gy), *w = static_cast<const T*>(p.w);
    const u64 at = u64(blockIdx.x) * PRODUCT_THREADS + threadIdx.x;
    if (at >= u64(z.batch) * z.height * z.width * z.channels) return;
    const unsigned channel = unsigned(at % z.channels), times = z.group_filters();
    unsigned pixel = unsigned(at / z.channels);
    const int across = int(pixel % z.width + z.padding[1]);
    pixel /= z.width;
    const int down = int(pixel % z.height + z.padding[0]);
    const unsigned image = pixel / z.height;
    float sum = 0.0f;
    for (unsigned r = 0; r < z.r; ++r) {
        const int row = reader(down - int(r * z.dilation[0]), z.stride[0], z.rows);
        if (row < 0) continue;
        for (unsigned s = 0; s < z.s; ++s) {
            const int column = reader(across - int(s * z.dilation[1]), z.stride[1], z.columns);
            if (column < 0) continue;
            const u64 from = ((u64(image) * z.rows + row) * z.columns + column) * z.filters;
            for (unsigned t = 0; t < times; ++t) {
                const unsigned filter = channel * times + t;
                const float weight = widened(w[(filter * z.r + r) * z.s + s]);
                sum = fmaf(widened(gy[from + filter]), weight, sum);
            }
        }
    }
    static_cast<T*>(p.gx)[at] = narrowed<T>(sum);
}

// src/ops/conv2d/cuda.rs has its twin.
struct WeightParams {
    const void *x, *gy;  // (N, H, W, C), (N, P, Q, K)
    float* gw;           // (parts, K, C/groups, R, S)
    ConvSizes sizes;
    unsigned each;  // pixels of a part
    unsigned padding;
};

// gy as filter x pixel.
template <int B>
struct FilterPanel {
    static constexpr int EACH = Panel<B>::EACH;
    Panel<B> panel;
    const float* gy;  // at the group's first filter
    unsigned start, group_filters, filters;

    __device__ void fetch(unsigned k0, unsigned k_end, float (&to)[EACH]) const {
        const unsigned filter = start + panel.across(0);
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const unsigned pixel = k0 + panel.inner(j);
            const bool inside = pixel < k_end && filter < group_filters;
            to[j] = inside ? gy[u64(pixel) * filters + filter] : 0.0f;
        }
    }
};

// Patches of x as pixel of y x (r, s, c); a thread keeps its column.
template <int B>
struct TurnedPatches {
    static constexpr int EACH = Panel<B>::EACH;
    Panel<B> panel;
    const float* x;  // at the group's first channel
    const ConvSizes& sizes;
    int down, across;  // of the column's tap, less the padding
    unsigned channel;
    bool column_inside;

    __device__ TurnedPatches(const float* x, const ConvSizes& sizes, unsigned start)
        : panel{false}, x(x), sizes(sizes) {
        const unsigned column = start + panel.across(0), each = sizes.group_channels();
        const unsigned tap = column / each;
        column_inside = tap < sizes.r * sizes.s;
        channel = column % each;
        down = int(tap / sizes.s * sizes.dilation[0]) - int(sizes.padding[0]);
        across = int(tap % sizes.s * sizes.dilation[1]) - int(sizes.padding[1]);
    }

    __device__ void fetch(unsigned k0, unsigned k_end, float (&to)[EACH]) const {
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const unsigned k = k0 + panel.inner(j);
            unsigned pixel = k;
            const int v = int(pixel % sizes.columns * sizes.stride[1]) + across;
            pixel /= sizes.columns;
            const int h = int(pixel % sizes.rows * sizes.stride[0]) + down;
            const unsigned image = pixel / sizes.rows;
            const bool inside = k < k_end && column_inside && h >= 0 && h < int(sizes.height) &&
                                v >= 0 && v < int(sizes.width);
            const u64 from = (u64(image) * sizes.height + h) * sizes.width + v;
            to[j] = inside ? x[from * sizes.channels + channel] : 0.0f;
        }
    }
};

__device__ void weight_gradient(const WeightParams& p) {
    const ConvSizes& z = p.sizes;
    const unsigned filters = z.group_filters(), channels = z.group_channels();
    const unsigned taps = z.r * z.s, columns = taps * channels;
    const unsigned tiles = (columns + 63) / 64, group = blockIdx.y;
    const unsigned row = blockIdx.x / tiles * 64, column = blockIdx.x % tiles * 64;
    const unsigned pixels = z.batch * z.rows * z.columns, begin = blockIdx.z * p.each;
    const unsigned end = pixels - begin < p.each ? pixels : begin + p.each;
    const FilterPanel<64> a{{false}, static_cast<const float*>(p.gy) + group * filters, row, filters, z.filters};
    const TurnedPatches<64> b(static_cast<const float*>(p.x) + group * channels, z, column);
    float* gw = p.gw + u64(blockIdx.z) * z.filters * columns;
    product_tile<64, 64>(a, b, begin, end, [&](unsigned i, unsigned j, float sum) {
        i += row, j += column;
        if (i >= filters || j >= columns) return;
        const u64 filter = group * filters + i;
        gw[(filter * channels + j % channels) * taps + j / channels] = sum;
    });
}

// Block (32 filters, tap, part): rows of 32 threads take pixels in turn and are
// added in order. The sums are f32 whatever T is.
template <class T>
__device__ void depthwise_weight_gradient(const WeightParams& p) {
    constexpr unsigned ROWS = PRODUCT_THREADS / WARP;
    SHARED(float, sums, [ROWS][WARP]);
    const ConvSizes& z = p.sizes;
    const auto *x = static_cast<const T*>(p.x), *gy = static_cast<const T*>(p.gy);
    const unsigned lane = threadIdx.x % WARP, turn = threadIdx.x / WARP;
    const unsigned filter = blockIdx.x * WARP + lane, tap = blockIdx.y;
    const int down = int(tap / z.s * z.dilation[0]) - int(z.padding[0]);
    const int across = int(tap % z.s * z.dilation[1]) - int(z.padding[1]);
    const unsigned pixels = z.batch * z.rows * z.columns, begin = blockIdx.z * p.each;
    const unsigned end = pixels - begin < p.each ? pixels : begin + p.each;
    float sum = 0.0f;
    if (filter < z.filters) {
        const unsigned channel = filter / z.group_filters();
        for (unsigned k = begin + turn; k < end; k += ROWS) {
            unsigned pixel = k;
            const int v = int(pixel % z.columns * z.stride[1]) + across;
            pixel /= z.columns;
            const int h = int(pixel % z.rows * z.stride[0]) + down;
            if (h < 0 || h >= int(z.height) || v < 0 || v >= int(z.width)) continue;
            const u64 from = (u64(pixel / z.rows) * z.height + h) * z.width + v;
            sum = fmaf(widened(gy[u64(k) * z.filters + filter]), widened(x[from * z.channels + channel]), sum);
        }
    }
    sums[turn][lane] = sum;
    __syncthreads();
    if (turn == 0 && filter < z.filters) {
        for (unsigned i = 1; i < ROWS; ++i) sum += sums[i][lane];
        const unsigned taps = z.r * z.s;
        p.gw[(u64(blockIdx.z) * z.filters + filter) * taps + tap] = sum;
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_f32(const ConvParams p) { conv_forward<64, 64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_depthwise_f32(const ConvParams p) { depthwise_forward<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_input_gradient_forward_f32(const InputParams p) { input_gradient(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_input_gradient_forward_depthwise_f32(const InputParams p) { depthwise_input_gradient<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_weight_gradient_forward_f32(const WeightParams p) { weight_gradient(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_weight_gradient_forward_depthwise_f32(const WeightParams p) { depthwise_weight_gradient<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_weight_gradient_forward_join_f32(const JoinParams p) { join(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_backward_1x1_64_f32(const GradientParams p) { product_gradients<64, 64>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) eosin_conv2d_backward_1x1_128_f32(const GradientParams p) { product_gradients<128, 64>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_depthwise_bf16(const ConvParams p) { depthwise_forward<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_input_gradient_forward_depthwise_bf16(const InputParams p) { depthwise_input_gradient<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_weight_gradient_forward_depthwise_bf16(const WeightParams p) { depthwise_weight_gradient<__nv_bfloat16>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_depthwise_f16(const ConvParams p) { depthwise_forward<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_input_gradient_forward_depthwise_f16(const InputParams p) { depthwise_input_gradient<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_weight_gradient_forward_depthwise_f16(const WeightParams p) { depthwise_weight_gradient<__half>(p); }
