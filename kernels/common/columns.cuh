// Sums per channel in two stages, with the same bits every time.
//
// A tensor is outer x channels x inner: rows of channels (NHWC, inner 1) or
// planes of one channel (NCHW). The first stage gives each block some channels
// and a part of their elements; the second joins the parts in order.
#pragma once
#include "common/base.cuh"

namespace eosin {

// src/ops/normalise.rs chooses the numbers and has the twin.
struct Columns {
    unsigned channels, inner;
    unsigned elements;  // of one channel: outer * inner
    unsigned part;      // of these, how many a block takes
    unsigned parts;
    unsigned width;     // channels of a block, a power of two up to 32

    // Where element `e` of a channel lies.
    __device__ u64 place(unsigned channel, unsigned e) const {
        if (inner == 1) return u64(e) * channels + channel;
        return (u64(e / inner) * channels + channel) * inner + e % inner;
    }

    // The channel of what lies at `i`.
    __device__ unsigned channel(unsigned i) const {
        return (inner == 1 ? i : i / inner) % channels;
    }
};

// Joins what the 256 threads of a block have, `width` channels side by side, by
// a tree. `lanes` is shared memory for a Sum per thread. Thread `column` has the
// result of its column.
template <class Sum>
__device__ inline Sum joined(Sum sum, Sum* lanes, unsigned width) {
    lanes[threadIdx.x] = sum;
    for (unsigned half = 128; half >= width; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) lanes[threadIdx.x] = lanes[threadIdx.x].with(lanes[threadIdx.x + half]);
    }
    return lanes[threadIdx.x];
}

// First stage, one block per (channels / width, part): `f(channel, first, end,
// step)` is the Sum over elements first, first + step, ... below end.
template <class Sum, class F>
__device__ inline void sum_part(const Columns& c, Sum* lanes, Sum* out, F f) {
    const unsigned lane = threadIdx.x / c.width;
    const unsigned channel = blockIdx.x * c.width + threadIdx.x % c.width;
    const unsigned start = blockIdx.y * c.part;
    const unsigned end = min(start + c.part, c.elements);
    Sum sum = Sum::none();
    if (channel < c.channels) sum = f(channel, start + lane, end, 256 / c.width);
    sum = joined(sum, lanes, c.width);
    if (lane == 0 && channel < c.channels) out[u64(blockIdx.y) * c.channels + channel] = sum;
}

constexpr unsigned TOTAL_WIDTH = 32;

// Second stage, one block per 32 channels: `f(channel, sum)` gets the Sum over
// all parts.
template <class Sum, class F>
__device__ inline void sum_total(const Columns& c, Sum* lanes, const Sum* parts, F f) {
    const unsigned lane = threadIdx.x / TOTAL_WIDTH;
    const unsigned channel = blockIdx.x * TOTAL_WIDTH + threadIdx.x % TOTAL_WIDTH;
    Sum sum = Sum::none();
    if (channel < c.channels) {
        for (unsigned i = lane; i < c.parts; i += 256 / TOTAL_WIDTH) {
            sum = sum.with(parts[u64(i) * c.channels + channel]);
        }
    }
    sum = joined(sum, lanes, TOTAL_WIDTH);
    if (lane == 0 && channel < c.channels) f(channel, sum);
}

// Two plain sums at once.
struct Pair {
    float a, b;
    __device__ static Pair none() { return {0.0f, 0.0f}; }
    __device__ Pair with(const Pair& o) const { return {a + o.a, b + o.b}; }
};

}  // namespace eosin
