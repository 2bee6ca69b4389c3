// conv2d and its two gradients, bf16 and f16 on tensor cores, NHWC.
//
//   y  = activation(b + residual + conv2d(x, w)), conv2d as in conv2d.cu
//   gx, gw: the sums of conv2d.cu
//
// x (N, H, W, C), w (K, R, S, C/groups), b (K), residual and y (N, P, Q, K), gw
// (K, C/groups, R, S), all dense and of one dtype; stride, padding, dilation and
// groups are free. Each is a product of conv_mma.cuh, summed in f32 and rounded
// once, with C' for C/groups in whole eights and K' for K/groups likewise:
//   forward         pixels of y x filters,   inner (r, s, C'), grid (tiles, groups, parts)
//   input gradient  pixels of x of a phase x channels, inner (r, s, K') of the taps
//                   that reach it, grid (phases x tiles, groups, parts)
//   weight gradient filters x (r, s, C'),    inner pixels, grid (tiles, groups, parts)
// with tiles of 64 x 64 by 128 threads, or 128 x 64 or 128 x 128 by 256. Where tiles
// are few the inner index is cut into parts, by shape alone; `join` adds them in order. The
// weight gradient's sums always go through its `join`, which puts them into the
// order of weights. Forward, x and y may be channels of wider images; `activated` reads
// relu(scale x + shift), rounded, for filters of one tap, scale and shift (C) f32. Groups of one channel are those of conv2d.cu and conv2d_depthwise.cu.
// Filters of one tap are a linear map of the pixels, whose gradients are one launch as those
// of linear.cu. Forward, where the inner index is whole, can leave the moments of what it wrote, of each
// tile's channels, for a batch norm (moments.cuh): the tile is read back from the caches.
// Deterministic: see mma.cuh. Floor: 2 N P Q K R S C/groups operations at the
// tensor cores' roof where channels are many, else x, w and y once.
#include "common/conv_mma.cuh"
#include "common/moments.cuh"

using namespace eosin;

namespace {

// src/ops/conv2d/tensor_cores.rs has its twin.
struct HalfConvParams {
    const unsigned short *image, *w;  // what is read around pixels, and (K, R, S, C/groups)
    const void *bias, *residual;      // or null
    void* out;                        // the operands' dtype, or f32 (parts, ..)
    const float *scale, *shift;       // (C), read where x is activated
    ConvSizes sizes;
    unsigned each;                    // of the inner index, per part: a multiple of DEPTH
    unsigned image_width, w_width;    // bytes of a copy, as in Operand
    unsigned padding;
    Epilogue epilogue;
    LeftMoments moments;              // forward: a part for each tile of pixels
};

// What a product of patches and filters writes: `columns` of each group and `all`
// to a pixel, of images of `height` by `width`.
struct Result {
    unsigned height, width, columns, all;
};

// The sums of a tile, whose rows are pixels of the result on the two axes.
template <class Half, int BM, int BN, int WM, int WN, class Patches, class Filters>
__device__ inline void write_patches(
    const HalfConvParams& p, const Result& to, Patches& a, Filters& b,
    unsigned row, unsigned column, unsigned length, unsigned char* panels) {
    using Scalar = typename Half::Scalar;
    const Axis &down = a.down, &across = a.across;
    const unsigned pixels = p.sizes.batch * down.rows * across.rows;
    const unsigned begin = min(blockIdx.z * p.each, length);
    // Tiles are as many as the largest phase has; those past the end sum nothing.
    const unsigned end = row < pixels ? min(begin + p.each, length) : begin;
    const bool whole = gridDim.z == 1;
    const Finish<Half> finish{
        whole ? static_cast<const Scalar*>(p.bias) : nullptr,
        whole ? static_cast<const Scalar*>(p.residual) : nullptr,
        p.out, nullptr, !whole, whole ? p.epilogue : Epilogue{0, 0.0f}};
    const u64 start = blockIdx.z * (u64(p.sizes.batch) * to.height * to.width * to.all);
    const unsigned first = blockIdx.y * to.columns;
    const bool fours = to.columns % 4 == 0 && to.all % 4 == 0 && size_t(p.out) % 8 == 0, every = down.apart == 1 && across.apart == 1;
    const Radix places(across.rows, down.rows);
    half_tile<Half, BM, BN, WM, WN>(a, b, begin, end, panels, [&](unsigned i, unsigned j, float (&v)[4]) {
        i += row, j += column;
        if (i >= pixels || j >= to.columns) return;
        if (!every) {
            const Digits place = places.of(i);
            i = (place.high * to.height + down.row + place.middle * down.apart) * to.width + across.row + place.low * across.apart;
        }
        finish.some(start + u64(i) * to.all + first + j, first + j, first + to.columns, fours, v);
    });
}

template <class Half, int BM, int BN, int WM, int WN, bool ACTIVATED = false>
__device__ inline void half_forward(const HalfConvParams& p) {
    constexpr int THREADS = BM / WM * (BN / WN) * int(WARP);
    DYN_SHARED(panels);
    const ConvSizes& z = p.sizes;
    const unsigned channels = z.group_channels(), filters = z.group_filters();
    const Axis down = forward_axis(z.height, z.rows, z.r, z.stride[0], z.padding[0], z.dilation[0]);
    const Axis across = forward_axis(z.width, z.columns, z.s, z.stride[1], z.padding[1], z.dilation[1]);
    const Tile tile(blockIdx.x, (z.batch * z.rows * z.columns + BM - 1) / BM, (filters + BN - 1) / BN);
    const unsigned row = tile.row * BM, column = tile.column * BN;
    const unsigned length = z.r * z.s * padded(channels), begin = min(blockIdx.z * p.each, length);
    HalfPatches<BM, THREADS> a(p.image + blockIdx.y * channels, down, across, z.pixel_x, channels, p.image_width,
                               z.batch, row, begin);
    HalfFilters<BN, THREADS> b(p.w + u64(blockIdx.y) * filters * z.r * z.s * channels, filters, z.r * z.s, channels,
                               p.w_width, column);
    const Result to{z.rows, z.columns, filters, gridDim.z == 1 ? z.pixel_y : z.filters};
    if constexpr (ACTIVATED) {
        const unsigned channel = blockIdx.y * channels;
        ActivatedPatches<Half, BM, THREADS> active(a, p.scale + channel, p.shift + channel);
        write_patches<Half, BM, BN, WM, WN>(p, to, active, b, row, column, length, panels);
    } else {
        write_patches<Half, BM, BN, WM, WN>(p, to, a, b, row, column, length, panels);
    }
    if (!p.moments.parts) return;
    // The panels are read no more once every thread is here.
    const unsigned first = blockIdx.y * filters + column, pixels = z.batch * z.rows * z.columns;
    leave_moments<THREADS, BN>(
        p.moments, static_cast<const typename Half::Scalar*>(p.out) + u64(row) * z.filters + first,
        min(unsigned(BM), pixels - row), min(unsigned(BN), filters - column), z.filters,
        p.moments.parts + u64(tile.row) * z.filters + first, reinterpret_cast<Moments*>(panels));
}

template <class Half, int BM, int BN, int WM, int WN>
__device__ inline void half_input_gradient(const HalfConvParams& p) {
    constexpr int THREADS = BM / WM * (BN / WN) * int(WARP);
    DYN_SHARED(panels);
    const ConvSizes& z = p.sizes;
    const unsigned channels = z.group_channels(), filters = z.group_filters();
    // Of the phase with the most pixels, the first.
    const unsigned most = z.batch * ((z.height + z.stride[0] - 1) / z.stride[0]) * ((z.width + z.stride[1] - 1) / z.stride[1]);
    const unsigned tiles_down = (most + BM - 1) / BM, tiles_across = (channels + BN - 1) / BN;
    const unsigned phase = blockIdx.x / (tiles_down * tiles_across);
    const Axis down = backward_axis(
        phase / z.stride[1], z.height, z.rows, z.r, z.stride[0], z.padding[0], z.dilation[0]);
    const Axis across = backward_axis(
        phase % z.stride[1], z.width, z.columns, z.s, z.stride[1], z.padding[1], z.dilation[1]);
    const Tile tile(blockIdx.x % (tiles_down * tiles_across), tiles_down, tiles_across);
    const unsigned row = tile.row * BM, column = tile.column * BN;
    const unsigned length = down.taps * across.taps * padded(filters), begin = min(blockIdx.z * p.each, length);
    HalfPatches<BM, THREADS> a(p.image + blockIdx.y * filters, down, across, z.filters, filters, p.image_width,
                               z.batch, row, begin);
    HalfTurnedFilters<BN, THREADS> b(p.w + u64(blockIdx.y) * filters * z.r * z.s * channels, down, across, filters,
                                     z.r * z.s, z.s, channels, p.w_width, column, begin);
    write_patches<Half, BM, BN, WM, WN>(p, {z.height, z.width, channels, z.channels}, a, b, row, column, length, panels);
}

// src/ops/conv2d/tensor_cores.rs has its twin.
struct HalfWeightParams {
    const unsigned short *x, *gy;  // (N, H, W, C), (N, P, Q, K)
    float* sums;                   // (parts, K, R, S, C')
    ConvSizes sizes;
    unsigned each;                 // pixels of a part: a multiple of DEPTH
    unsigned x_width, gy_width;    // bytes of a copy, as in Operand
    unsigned padding;
};

template <class Half, int BM, int BN, int WM, int WN>
__device__ inline void half_weight_gradient(const HalfWeightParams& p) {
    constexpr int THREADS = BM / WM * (BN / WN) * int(WARP);
    DYN_SHARED(panels);
    const ConvSizes& z = p.sizes;
    const unsigned channels = z.group_channels(), filters = z.group_filters(), group = blockIdx.y;
    const Axis down = forward_axis(z.height, z.rows, z.r, z.stride[0], z.padding[0], z.dilation[0]);
    const Axis across = forward_axis(z.width, z.columns, z.s, z.stride[1], z.padding[1], z.dilation[1]);
    const unsigned columns = z.r * z.s * padded(channels), pixels = z.batch * z.rows * z.columns;
    const Tile tile(blockIdx.x, (filters + BM - 1) / BM, (columns + BN - 1) / BN);
    const unsigned row = tile.row * BM, column = tile.column * BN;
    const unsigned begin = min(blockIdx.z * p.each, pixels), end = min(begin + p.each, pixels);
    const Operand gy{p.gy + group * filters, z.filters, 1, p.gy_width, {}, 0};
    HalfPanel<BM, false, THREADS> a(gy, 0, row, filters, begin);
    HalfTurnedPatches<BN, THREADS> b(p.x + group * channels, down, across, z.channels, channels, p.x_width, column, begin);
    const Finish<Half> finish{nullptr, nullptr, p.sums, nullptr, true, Epilogue{0, 0.0f}};
    const u64 start = (u64(blockIdx.z) * z.groups + group) * filters * columns;
    half_tile<Half, BM, BN, WM, WN>(a, b, begin, end, panels, [&](unsigned i, unsigned j, float (&v)[4]) {
        i += row, j += column;
        if (i < filters && j < columns) finish.four(start + u64(i) * columns + j, j, v);
    });
}

// src/ops/conv2d/tensor_cores.rs has its twin.
struct HalfWeightJoinParams {
    const float* sums;  // (parts, K, R, S, C')
    void* gw;           // (K, C/groups, R, S)
    unsigned elements;  // of a part
    unsigned count;     // parts
    unsigned channels, taps;
};

// Adds the parts in order; a thread per element of a part.
template <class Half>
__device__ inline void half_weight_join(const HalfWeightJoinParams& p) {
    const unsigned i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.elements) return;
    const Digits at = Radix(padded(p.channels), p.taps).of(i);  // channel, tap, filter
    if (at.low >= p.channels) return;
    float sum = 0.0f;
    for (unsigned part = 0; part < p.count; ++part) sum += p.sums[u64(part) * p.elements + i];
    using Scalar = typename Half::Scalar;
    static_cast<Scalar*>(p.gw)[(u64(at.high) * p.channels + at.low) * p.taps + at.middle] = narrowed<Scalar>(sum);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128) eosin_conv2d_forward_64x64_bf16(const HalfConvParams p) { half_forward<Bf16, 64, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_128x64_bf16(const HalfConvParams p) { half_forward<Bf16, 128, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_128x128_bf16(const HalfConvParams p) { half_forward<Bf16, 128, 128, 64, 32>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_conv2d_forward_activated_64x64_bf16(const HalfConvParams p) { half_forward<Bf16, 64, 64, 32, 32, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_activated_128x64_bf16(const HalfConvParams p) { half_forward<Bf16, 128, 64, 32, 32, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_activated_128x128_bf16(const HalfConvParams p) { half_forward<Bf16, 128, 128, 64, 32, true>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_conv2d_input_gradient_forward_64x64_bf16(const HalfConvParams p) { half_input_gradient<Bf16, 64, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_input_gradient_forward_128x64_bf16(const HalfConvParams p) { half_input_gradient<Bf16, 128, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_conv2d_input_gradient_forward_128x128_bf16(const HalfConvParams p) { half_input_gradient<Bf16, 128, 128, 64, 32>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_conv2d_weight_gradient_forward_64x64_bf16(const HalfWeightParams p) { half_weight_gradient<Bf16, 64, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_weight_gradient_forward_128x64_bf16(const HalfWeightParams p) { half_weight_gradient<Bf16, 128, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_weight_gradient_forward_128x128_bf16(const HalfWeightParams p) { half_weight_gradient<Bf16, 128, 128, 64, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_join_bf16(const HalfJoinParams p) { half_join<Bf16>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_conv2d_backward_1x1_64_bf16(const HalfGradientParams p) { half_gradients<Bf16, 64, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_conv2d_backward_1x1_128_bf16(const HalfGradientParams p) { half_gradients<Bf16, 128, 128, 64, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_weight_gradient_forward_join_bf16(const HalfWeightJoinParams p) { half_weight_join<Bf16>(p); }

extern "C" __global__ void __launch_bounds__(128) eosin_conv2d_forward_64x64_f16(const HalfConvParams p) { half_forward<F16, 64, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_128x64_f16(const HalfConvParams p) { half_forward<F16, 128, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_128x128_f16(const HalfConvParams p) { half_forward<F16, 128, 128, 64, 32>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_conv2d_forward_activated_64x64_f16(const HalfConvParams p) { half_forward<F16, 64, 64, 32, 32, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_activated_128x64_f16(const HalfConvParams p) { half_forward<F16, 128, 64, 32, 32, true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_activated_128x128_f16(const HalfConvParams p) { half_forward<F16, 128, 128, 64, 32, true>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_conv2d_input_gradient_forward_64x64_f16(const HalfConvParams p) { half_input_gradient<F16, 64, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_input_gradient_forward_128x64_f16(const HalfConvParams p) { half_input_gradient<F16, 128, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_conv2d_input_gradient_forward_128x128_f16(const HalfConvParams p) { half_input_gradient<F16, 128, 128, 64, 32>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_conv2d_weight_gradient_forward_64x64_f16(const HalfWeightParams p) { half_weight_gradient<F16, 64, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_weight_gradient_forward_128x64_f16(const HalfWeightParams p) { half_weight_gradient<F16, 128, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_weight_gradient_forward_128x128_f16(const HalfWeightParams p) { half_weight_gradient<F16, 128, 128, 64, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_join_f16(const HalfJoinParams p) { half_join<F16>(p); }
extern "C" __global__ void __launch_bounds__(128) eosin_conv2d_backward_1x1_64_f16(const HalfGradientParams p) { half_gradients<F16, 64, 64, 32, 32>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_conv2d_backward_1x1_128_f16(const HalfGradientParams p) { half_gradients<F16, 128, 128, 64, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_weight_gradient_forward_join_f16(const HalfWeightJoinParams p) { half_weight_join<F16>(p); }
