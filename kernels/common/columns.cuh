// Sums per channel in two stages, with the same bits every time.
//
// A tensor is outer x channels x inner: rows of channels (NHWC, inner 1) or
// planes of one channel (NCHW). The first stage gives each block some channels
// and a part of their elements; the second joins the parts in order, in the last
// block of the first.
#pragma once
#include "common/arrival.cuh"

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

    // Blocks across the channels.
    __device__ unsigned groups() const { return (channels + width - 1) / width; }

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

// Block `block` of the sums, a linear index over groups and parts: `f(channel, first, end, step)` is the Sum
// over elements first, first + step, ... below end; `g(channel, sum)` gets the Sum over
// all parts, in the last block of the channel. Where channels are more than counters,
// some blocks of channels share one.
template <class Sum, class F, class G>
__device__ inline void sum_columns(const Columns& c, unsigned block, unsigned* arrivals, Sum* lanes, Sum* parts, F f, G g) {
    const unsigned groups = c.groups(), group = block % groups, part = block / groups;
    const unsigned lane = threadIdx.x / c.width, step = 256 / c.width;
    {
        const unsigned channel = group * c.width + threadIdx.x % c.width;
        const unsigned start = part * c.part, end = min(start + c.part, c.elements);
        Sum sum = Sum::none();
        if (channel < c.channels) sum = f(channel, start + lane, end, step);
        sum = joined(sum, lanes, c.width);
        if (lane == 0 && channel < c.channels) parts[u64(part) * c.channels + channel] = sum;
    }
    const unsigned team = (groups + ARRIVALS - 1) / ARRIVALS, mine = group / team;
    const unsigned first = mine * team, last = min(first + team, groups);
    if (!last_to_arrive(arrivals + mine, (last - first) * c.parts)) return;
    for (unsigned i = first; i < last; ++i) {
        const unsigned channel = i * c.width + threadIdx.x % c.width;
        Sum sum = Sum::none();
        if (channel < c.channels) {
            for (unsigned j = lane; j < c.parts; j += step) {
                sum = sum.with(parts[u64(j) * c.channels + channel]);
            }
        }
        sum = joined(sum, lanes, c.width);
        if (lane == 0 && channel < c.channels) g(channel, sum);
        __syncthreads();
    }
}

// Two plain sums at once.
struct Pair {
    float a, b;
    __device__ static Pair none() { return {0.0f, 0.0f}; }
    __device__ Pair with(const Pair& o) const { return {a + o.a, b + o.b}; }
};

}  // namespace eosin
