// conv2d with one channel and one filter for each group, and its gradients, NHWC;
// f32, bf16 and f16, computed in f32 and rounded once:
//
//   y[n,p,q,c] = activation(b[c] + residual[n,p,q,c]
//                + sum over r, s of x[n, p sh + r dh - ph, q sw + s dw - pw, c] w[c,r,s])
//   gx[n,h,w,c] = more[n,h,w,c] + the sum over r, s of gy[n,p,q,c] w[c,r,s] where (h, w)
//                 was read for (p, q)
//   gw[c,r,s] = the sum over n, p, q of gy[n,p,q,c] x[n,h,w,c] likewise
//   gb[c] = the sum over n, p, q of gy[n,p,q,c]
//
// x, gx, more (N, H, W, C), y, gy, residual (N, P, Q, C), w, gw (C, R, S), b, gb (C); b,
// residual, more and gb may be none. Any number of channels, EACH = 1 or 2 of them in a
// thread (2 where lines start at multiples of two elements).
//   3x3, 7x7  stride and dilation 1; backward H = P and W = Q
//   any       forward, any stride and dilation, a pixel of y at a time
//   patches   backward, kernel = stride without padding: each pixel of x has one tap
// Those of more filters than channels are in conv2d.cu.
//
// Backward makes gx, gw and gb in one launch, which reads x once and gy once (and what
// neighbouring tiles share from the caches): a thread keeps its sums over all of its tiles.
// Forward can leave the moments of what it wrote for a batch norm (moments.cuh).
//
// Launch: 256 threads = `turns` tiles of 2 x 4 pixels times `lanes` threads across channels,
// neighbours side by side. Grid (channels / (lanes EACH), parts of the tiles); patches:
// parts of the pixels of gy, and a third axis of the R S taps. Dynamic shared memory for
// the block's weights: R S lanes EACH floats.
// Deterministic: a pixel's sum runs in ascending order of (r, s); sums over pixels by
// thread, turn and part, each in ascending order, the last block adding the parts. Cut by
// shape alone.
// Floor: memory, x and y once forward; x, gy and gx once backward. 7 x 7 in f32: 98
// operations an element forward and 196 backward, which meet the arithmetic first.
#include "common/arrival.cuh"
#include "common/conv.cuh"

using namespace eosin;

namespace {

constexpr unsigned THREADS = 256;
// Pixels of a tile.
constexpr int DOWN = 2, ACROSS = 4;

// src/ops/conv2d/depthwise.rs has its twin.
struct Cut {
    unsigned lanes;  // threads across channels
    unsigned each;   // tiles of a part, or pixels
};

// src/ops/conv2d/depthwise.rs has its twin.
struct ForwardParams {
    const void *x, *w, *bias, *residual;
    void* y;
    ConvSizes sizes;
    Cut cut;
    Epilogue epilogue;
    LeftMoments moments;  // a part for each part of the tiles
};

// src/ops/conv2d/depthwise.rs has its twin.
struct BackwardParams {
    const void *x, *gy, *w, *more;
    void *gx, *gw, *gb;
    float* parts;  // (parts, R S + 1, C), the last for gb
    unsigned* arrivals;
    ConvSizes sizes;
    Cut cut;
};

// EACH neighbouring channels.
template <class T, int EACH>
struct alignas(EACH * sizeof(T)) Pack {
    T values[EACH];
};

template <class T, int EACH>
__device__ inline void load(float (&to)[EACH], const T* from, bool inside) {
    if (!inside) {
#pragma unroll
        for (int e = 0; e < EACH; ++e) to[e] = 0.0f;
        return;
    }
    const Pack<T, EACH> pack = *reinterpret_cast<const Pack<T, EACH>*>(from);
#pragma unroll
    for (int e = 0; e < EACH; ++e) to[e] = widened(pack.values[e]);
}

template <class T, int EACH>
__device__ inline void store(T* to, const float (&from)[EACH]) {
    Pack<T, EACH> pack;
#pragma unroll
    for (int e = 0; e < EACH; ++e) pack.values[e] = narrowed<T>(from[e]);
    *reinterpret_cast<Pack<T, EACH>*>(to) = pack;
}

// Where a thread works.
template <int EACH>
struct Place {
    unsigned lane, turn, turns;
    unsigned channel;  // the first of its EACH
    bool works;

    __device__ Place(const Cut& cut, unsigned channels) {
        lane = threadIdx.x % cut.lanes;
        turn = threadIdx.x / cut.lanes;
        turns = THREADS / cut.lanes;
        channel = (blockIdx.x * cut.lanes + lane) * EACH;
        works = turn < turns && channel < channels;
    }
};

// The block's weights as (tap, channel), behind a barrier.
template <class T, int EACH>
__device__ inline void stage_weights(float* to, const T* w, unsigned taps, const Cut& cut, unsigned channels) {
    const unsigned width = cut.lanes * EACH, first = blockIdx.x * width;
    for (unsigned i = threadIdx.x; i < taps * width; i += THREADS) {
        const unsigned c = i / taps, tap = i % taps;
        to[tap * width + c] = first + c < channels ? widened(w[u64(first) * taps + i]) : 0.0f;
    }
    __syncthreads();
}

// A tile's image and first pixel.
struct Tile {
    unsigned image;
    int row, column;

    __device__ Tile(unsigned i, unsigned rows, unsigned columns) {
        const unsigned across = (columns + ACROSS - 1) / ACROSS, down = (rows + DOWN - 1) / DOWN;
        column = int(i % across) * ACROSS;
        i /= across;
        row = int(i % down) * DOWN;
        image = i / down;
    }

    __device__ static unsigned count(unsigned batch, unsigned rows, unsigned columns) {
        return batch * ((rows + DOWN - 1) / DOWN) * ((columns + ACROSS - 1) / ACROSS);
    }
};

__device__ inline bool within(int i, unsigned size) { return i >= 0 && i < int(size); }

// What follows the sum of a pixel.
template <class T, int EACH>
__device__ inline void finish(
    const ForwardParams& p, u64 at, unsigned channel, float (&sum)[EACH], Gathered (&gathered)[EACH]) {
    float more[EACH];
    if (p.bias) {
        load<T, EACH>(more, static_cast<const T*>(p.bias) + channel, true);
#pragma unroll
        for (int e = 0; e < EACH; ++e) sum[e] += more[e];
    }
    if (p.residual) {
        load<T, EACH>(more, static_cast<const T*>(p.residual) + at, true);
#pragma unroll
        for (int e = 0; e < EACH; ++e) sum[e] += more[e];
    }
#pragma unroll
    for (int e = 0; e < EACH; ++e) sum[e] = p.epilogue(sum[e]);
    store<T, EACH>(static_cast<T*>(p.y) + at, sum);
    if (!p.moments.parts) return;
#pragma unroll
    for (int e = 0; e < EACH; ++e) gathered[e].add(p.moments.of(widened(narrowed<T>(sum[e]))));
}

// Joins what the block's turns gathered.
template <int EACH>
__device__ inline void leave(const ForwardParams& p, const Place<EACH>& place, const Gathered (&gathered)[EACH]) {
    if (!p.moments.parts) return;
    SHARED(Moments, lanes, [THREADS * EACH]);
#pragma unroll
    for (int e = 0; e < EACH; ++e) lanes[threadIdx.x * EACH + e] = gathered[e].moments();
    __syncthreads();
    if (!place.works || place.turn > 0) return;
    Moments* to = p.moments.parts + u64(blockIdx.y) * p.sizes.channels + place.channel;
#pragma unroll
    for (int e = 0; e < EACH; ++e) {
        Moments sum = Moments::none();
        for (unsigned turn = 0; turn < place.turns; ++turn)
            sum = sum.with(lanes[(turn * p.cut.lanes + place.lane) * EACH + e]);
        to[e] = sum;
    }
}

template <class T, int EACH, int R, int S>
__device__ inline void forward(const ForwardParams& p) {
    DYN_SHARED(shared);
    float* weights = reinterpret_cast<float*>(shared);
    const ConvSizes& z = p.sizes;
    const Place<EACH> place(p.cut, z.channels);
    stage_weights<T, EACH>(weights, static_cast<const T*>(p.w), R * S, p.cut, z.channels);
    const unsigned width = p.cut.lanes * EACH, tiles = Tile::count(z.batch, z.rows, z.columns);
    const unsigned begin = blockIdx.y * p.cut.each;
    const unsigned end = tiles - begin < p.cut.each ? tiles : begin + p.cut.each;
    const float* own = weights + place.lane * EACH;
    Gathered gathered[EACH];
    for (unsigned t = begin + place.turn; place.works && t < end; t += place.turns) {
        const Tile tile(t, z.rows, z.columns);
        const T* image = static_cast<const T*>(p.x) + u64(tile.image) * z.height * z.width * z.channels + place.channel;
        const int top = tile.row - int(z.padding[0]), left = tile.column - int(z.padding[1]);
        float sums[DOWN][ACROSS][EACH] = {};
#pragma unroll
        for (int i = 0; i < DOWN + R - 1; ++i) {
            float line[ACROSS + S - 1][EACH];
            const bool there = within(top + i, z.height);
            const T* from = image + (i64(top + i) * z.width + left) * z.channels;
#pragma unroll
            for (int j = 0; j < ACROSS + S - 1; ++j)
                load<T, EACH>(line[j], from + i64(j) * z.channels, there && within(left + j, z.width));
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const int down = i - r;
                if (down < 0 || down >= DOWN) continue;
#pragma unroll
                for (int s = 0; s < S; ++s) {
                    float w[EACH];
                    load<float, EACH>(w, own + (r * S + s) * width, true);
#pragma unroll
                    for (int j = 0; j < ACROSS; ++j)
#pragma unroll
                        for (int e = 0; e < EACH; ++e)
                            sums[down][j][e] = fmaf(line[j + s][e], w[e], sums[down][j][e]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < DOWN; ++i)
#pragma unroll
            for (int j = 0; j < ACROSS; ++j) {
                const unsigned row = tile.row + i, column = tile.column + j;
                if (row >= z.rows || column >= z.columns) continue;
                const u64 pixel = (u64(tile.image) * z.rows + row) * z.columns + column;
                finish<T, EACH>(p, pixel * z.channels + place.channel, place.channel, sums[i][j], gathered);
            }
    }
    leave<EACH>(p, place, gathered);
}

template <class T, int EACH>
__device__ inline void forward_any(const ForwardParams& p) {
    DYN_SHARED(shared);
    float* weights = reinterpret_cast<float*>(shared);
    const ConvSizes& z = p.sizes;
    const Place<EACH> place(p.cut, z.channels);
    stage_weights<T, EACH>(weights, static_cast<const T*>(p.w), z.r * z.s, p.cut, z.channels);
    const unsigned width = p.cut.lanes * EACH, pixels = z.batch * z.rows * z.columns;
    const unsigned begin = blockIdx.y * p.cut.each;
    const unsigned end = pixels - begin < p.cut.each ? pixels : begin + p.cut.each;
    Gathered gathered[EACH];
    for (unsigned t = begin + place.turn; place.works && t < end; t += place.turns) {
        const unsigned line = t / z.columns, image = line / z.rows;
        const int left = int(t % z.columns * z.stride[1]) - int(z.padding[1]);
        const int top = int(line % z.rows * z.stride[0]) - int(z.padding[0]);
        float sum[EACH] = {};
        for (unsigned r = 0; r < z.r; ++r) {
            const int h = top + int(r * z.dilation[0]);
            if (!within(h, z.height)) continue;
            const T* from = static_cast<const T*>(p.x) + (u64(image) * z.height + h) * z.width * z.channels + place.channel;
            const float* own = weights + r * z.s * width + place.lane * EACH;
#pragma unroll 4
            for (unsigned s = 0; s < z.s; ++s) {
                const int v = left + int(s * z.dilation[1]);
                float x[EACH], w[EACH];
                load<T, EACH>(x, from + i64(v) * z.channels, within(v, z.width));
                load<float, EACH>(w, own + s * width, true);
#pragma unroll
                for (int e = 0; e < EACH; ++e) sum[e] = fmaf(x[e], w[e], sum[e]);
            }
        }
        finish<T, EACH>(p, u64(t) * z.channels + place.channel, place.channel, sum, gathered);
    }
    leave<EACH>(p, place, gathered);
}

// Adds what the block's turns have of a sum and leaves it among the parts.
template <int EACH>
__device__ inline void leave(const BackwardParams& p, const Place<EACH>& place, float* lanes, unsigned tap, const float (&sum)[EACH]) {
    const ConvSizes& z = p.sizes;
#pragma unroll
    for (int e = 0; e < EACH; ++e) lanes[threadIdx.x * EACH + e] = sum[e];
    __syncthreads();
    if (place.works && place.turn == 0) {
        float total[EACH] = {};
        for (unsigned turn = 0; turn < place.turns; ++turn)
#pragma unroll
            for (int e = 0; e < EACH; ++e) total[e] += lanes[(turn * p.cut.lanes + place.lane) * EACH + e];
        float* to = p.parts + (u64(blockIdx.y) * (z.r * z.s + 1) + tap) * z.channels + place.channel;
#pragma unroll
        for (int e = 0; e < EACH; ++e) to[e] = total[e];
    }
    __syncthreads();
}

// In the last block of some channels: adds the parts in order.
template <class T, int EACH>
__device__ inline void add_parts(const BackwardParams& p) {
    if (!last_to_arrive(p.arrivals + blockIdx.x, gridDim.y * gridDim.z)) return;
    const ConvSizes& z = p.sizes;
    const unsigned taps = z.r * z.s, width = p.cut.lanes * EACH, first = blockIdx.x * width;
    const unsigned sums = p.gb ? taps + 1 : taps;
    for (unsigned i = threadIdx.x; i < sums * width; i += THREADS) {
        const unsigned tap = i / width, channel = first + i % width;
        if (channel >= z.channels) continue;
        const float* from = p.parts + u64(tap) * z.channels + channel;
        const u64 step = u64(taps + 1) * z.channels;
        float total = 0.0f;
#pragma unroll 8
        for (unsigned part = 0; part < gridDim.y; ++part) total += from[part * step];
        T* to = tap < taps ? static_cast<T*>(p.gw) + u64(channel) * taps + tap : static_cast<T*>(p.gb) + channel;
        *to = narrowed<T>(total);
    }
}

template <class T, int EACH, int R, int S>
__device__ inline void backward(const BackwardParams& p) {
    DYN_SHARED(shared);
    SHARED(float, lanes, [THREADS * EACH]);
    float* weights = reinterpret_cast<float*>(shared);
    const ConvSizes& z = p.sizes;
    const Place<EACH> place(p.cut, z.channels);
    stage_weights<T, EACH>(weights, static_cast<const T*>(p.w), R * S, p.cut, z.channels);
    const unsigned width = p.cut.lanes * EACH, tiles = Tile::count(z.batch, z.height, z.width);
    const unsigned begin = blockIdx.y * p.cut.each;
    const unsigned end = tiles - begin < p.cut.each ? tiles : begin + p.cut.each;
    const float* own = weights + place.lane * EACH;
    float gw[R][S][EACH] = {}, gb[EACH] = {};
    for (unsigned t = begin + place.turn; place.works && t < end; t += place.turns) {
        const Tile tile(t, z.height, z.width);
        const u64 image = u64(tile.image) * z.height * z.width;
        const u64 corner = (image + u64(tile.row) * z.width + tile.column) * z.channels + place.channel;
        float x[DOWN][ACROSS][EACH], gx[DOWN][ACROSS][EACH] = {};
#pragma unroll
        for (int i = 0; i < DOWN; ++i)
#pragma unroll
            for (int j = 0; j < ACROSS; ++j) {
                const u64 at = corner + (u64(i) * z.width + j) * z.channels;
                const bool inside = within(tile.row + i, z.height) && within(tile.column + j, z.width);
                load<T, EACH>(x[i][j], static_cast<const T*>(p.x) + at, inside);
            }
        const int left = tile.column - S / 2;
        // Rows of gy from below, so that r ascends.
#pragma unroll
        for (int i = DOWN + R - 2; i >= 0; --i) {
            const int row = tile.row - R / 2 + i;
            float line[ACROSS + S - 1][EACH];
            const T* from = static_cast<const T*>(p.gy) +
                            (i64(image) + i64(row) * z.width + left) * z.channels + place.channel;
#pragma unroll
            for (int j = 0; j < ACROSS + S - 1; ++j)
                load<T, EACH>(line[j], from + i64(j) * z.channels,
                              within(row, z.height) && within(left + j, z.width));
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const int down = i + r - (R - 1);
                if (down < 0 || down >= DOWN) continue;
#pragma unroll
                for (int s = 0; s < S; ++s) {
                    float w[EACH];
                    load<float, EACH>(w, own + (r * S + s) * width, true);
#pragma unroll
                    for (int j = 0; j < ACROSS; ++j)
#pragma unroll
                        for (int e = 0; e < EACH; ++e) {
                            const float g = line[j + S - 1 - s][e];
                            gx[down][j][e] = fmaf(g, w[e], gx[down][j][e]);
                            gw[r][s][e] = fmaf(g, x[down][j][e], gw[r][s][e]);
                            if (r == R / 2 && s == S / 2) gb[e] += g;
                        }
                }
            }
        }
#pragma unroll
        for (int i = 0; i < DOWN; ++i)
#pragma unroll
            for (int j = 0; j < ACROSS; ++j) {
                if (!within(tile.row + i, z.height) || !within(tile.column + j, z.width)) continue;
                const u64 at = corner + (u64(i) * z.width + j) * z.channels;
                if (p.more) {
                    float more[EACH];
                    load<T, EACH>(more, static_cast<const T*>(p.more) + at, true);
#pragma unroll
                    for (int e = 0; e < EACH; ++e) gx[i][j][e] += more[e];
                }
                store<T, EACH>(static_cast<T*>(p.gx) + at, gx[i][j]);
            }
    }
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int s = 0; s < S; ++s) leave<EACH>(p, place, lanes, r * S + s, gw[r][s]);
    leave<EACH>(p, place, lanes, R * S, gb);
    add_parts<T, EACH>(p);
}

// The block's tap is blockIdx.z, its tiles are pixels of gy.
template <class T, int EACH>
__device__ inline void backward_patches(const BackwardParams& p) {
    SHARED(float, lanes, [THREADS * EACH]);
    const ConvSizes& z = p.sizes;
    const Place<EACH> place(p.cut, z.channels);
    const unsigned tap = blockIdx.z, r = tap / z.s, s = tap % z.s;
    const unsigned pixels = z.batch * z.rows * z.columns, begin = blockIdx.y * p.cut.each;
    const unsigned end = pixels - begin < p.cut.each ? pixels : begin + p.cut.each;
    float gw[EACH] = {}, gb[EACH] = {}, w[EACH] = {};
    if (place.works) {
#pragma unroll
        for (int e = 0; e < EACH; ++e)
            w[e] = widened(static_cast<const T*>(p.w)[u64(place.channel + e) * z.r * z.s + tap]);
    }
    for (unsigned t = begin + place.turn; place.works && t < end; t += place.turns) {
        const unsigned line = t / z.columns;
        // The rows of x are those of the images, one below the other.
        const u64 row = u64(line) * z.r + r, column = t % z.columns * z.s + s;
        const u64 at = (row * z.width + column) * z.channels + place.channel;
        float g[EACH], x[EACH], gx[EACH];
        load<T, EACH>(g, static_cast<const T*>(p.gy) + u64(t) * z.channels + place.channel, true);
        load<T, EACH>(x, static_cast<const T*>(p.x) + at, true);
        if (p.more)
            load<T, EACH>(gx, static_cast<const T*>(p.more) + at, true);
        else
            for (int e = 0; e < EACH; ++e) gx[e] = 0.0f;
#pragma unroll
        for (int e = 0; e < EACH; ++e) {
            gx[e] += g[e] * w[e];
            gw[e] = fmaf(g[e], x[e], gw[e]);
            gb[e] += g[e];
        }
        store<T, EACH>(static_cast<T*>(p.gx) + at, gx);
    }
    leave<EACH>(p, place, lanes, tap, gw);
    // Every block takes part in the barriers, and one has the sum of gy.
    if (tap == 0) leave<EACH>(p, place, lanes, z.r * z.s, gb);
    add_parts<T, EACH>(p);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256, 4) eosin_conv2d_forward_depthwise_3x3_1_f32(const ForwardParams p) { forward<float, 1, 3, 3>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) eosin_conv2d_forward_depthwise_7x7_1_f32(const ForwardParams p) { forward<float, 1, 7, 7>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_depthwise_any_1_f32(const ForwardParams p) { forward_any<float, 1>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_conv2d_forward_depthwise_3x3_2_f32(const ForwardParams p) { forward<float, 2, 3, 3>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_depthwise_any_2_f32(const ForwardParams p) { forward_any<float, 2>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_conv2d_backward_depthwise_3x3_1_f32(const BackwardParams p) { backward<float, 1, 3, 3>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) eosin_conv2d_backward_depthwise_3x3_2_f32(const BackwardParams p) { backward<float, 2, 3, 3>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) eosin_conv2d_backward_depthwise_7x7_1_f32(const BackwardParams p) { backward<float, 1, 7, 7>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_backward_depthwise_patches_1_f32(const BackwardParams p) { backward_patches<float, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_backward_depthwise_patches_2_f32(const BackwardParams p) { backward_patches<float, 2>(p); }

extern "C" __global__ void __launch_bounds__(256, 4) eosin_conv2d_forward_depthwise_3x3_1_bf16(const ForwardParams p) { forward<__nv_bfloat16, 1, 3, 3>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) eosin_conv2d_forward_depthwise_7x7_1_bf16(const ForwardParams p) { forward<__nv_bfloat16, 1, 7, 7>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_depthwise_any_1_bf16(const ForwardParams p) { forward_any<__nv_bfloat16, 1>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_conv2d_forward_depthwise_3x3_2_bf16(const ForwardParams p) { forward<__nv_bfloat16, 2, 3, 3>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_depthwise_any_2_bf16(const ForwardParams p) { forward_any<__nv_bfloat16, 2>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_conv2d_backward_depthwise_3x3_1_bf16(const BackwardParams p) { backward<__nv_bfloat16, 1, 3, 3>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) eosin_conv2d_backward_depthwise_3x3_2_bf16(const BackwardParams p) { backward<__nv_bfloat16, 2, 3, 3>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) eosin_conv2d_backward_depthwise_7x7_1_bf16(const BackwardParams p) { backward<__nv_bfloat16, 1, 7, 7>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_backward_depthwise_patches_1_bf16(const BackwardParams p) { backward_patches<__nv_bfloat16, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_backward_depthwise_patches_2_bf16(const BackwardParams p) { backward_patches<__nv_bfloat16, 2>(p); }

extern "C" __global__ void __launch_bounds__(256, 4) eosin_conv2d_forward_depthwise_3x3_1_f16(const ForwardParams p) { forward<__half, 1, 3, 3>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) eosin_conv2d_forward_depthwise_7x7_1_f16(const ForwardParams p) { forward<__half, 1, 7, 7>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_depthwise_any_1_f16(const ForwardParams p) { forward_any<__half, 1>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_conv2d_forward_depthwise_3x3_2_f16(const ForwardParams p) { forward<__half, 2, 3, 3>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_forward_depthwise_any_2_f16(const ForwardParams p) { forward_any<__half, 2>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_conv2d_backward_depthwise_3x3_1_f16(const BackwardParams p) { backward<__half, 1, 3, 3>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) eosin_conv2d_backward_depthwise_3x3_2_f16(const BackwardParams p) { backward<__half, 2, 3, 3>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) eosin_conv2d_backward_depthwise_7x7_1_f16(const BackwardParams p) { backward<__half, 1, 7, 7>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_backward_depthwise_patches_1_f16(const BackwardParams p) { backward_patches<__half, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_conv2d_backward_depthwise_patches_2_f16(const BackwardParams p) { backward_patches<__half, 2>(p); }
