// Mean and variance of a channel, joined from parts without cancellation.
#pragma once
#include "common/activation.cuh"
#include "common/half.cuh"

namespace eosin {

// By the formula of Chan, Golub and LeVeque (1983).
struct Moments {
    float count;
    float mean;
    float scatter;  // sum of squared deviations from the mean

    __device__ static Moments none() { return {0.0f, 0.0f, 0.0f}; }

    __device__ Moments with(const Moments& o) const {
        const float n = count + o.count;
        if (n == 0.0f) return *this;
        const float d = o.mean - mean, share = o.count / n;
        return {n, mean + d * share, scatter + o.scatter + d * d * (count * share)};
    }
};

// Numbers added as differences from the first of them.
struct Gathered {
    float base = 0.0f, sum = 0.0f, squares = 0.0f, count = 0.0f;

    __device__ void add(float v) {
        if (count == 0.0f) base = v;
        const float u = v - base;
        sum += u;
        squares += u * u;
        count += 1.0f;
    }
    __device__ Moments moments() const {
        if (count == 0.0f) return Moments::none();
        const float mean = sum / count;
        return {count, base + mean, squares - sum * mean};
    }
};

// What a convolution leaves for the batch norm that follows: the moments of f(y), y as
// it is stored, of each channel and part of the pixels. src/ops/conv2d/cuda.rs has its twin.
struct LeftMoments {
    Moments* parts;  // (parts, channels), or null
    Epilogue of;     // f
};

// The moments of a tile that this block of THREADS has written: of `rows` pixels and
// `columns` channels of y, whose lines have `all`. `to` is the first of the channels,
// `lanes` shared memory for Moments of each thread, free before the call.
template <int THREADS, int COLUMNS, class T>
__device__ inline void leave_moments(
    const LeftMoments& p, const T* y, unsigned rows, unsigned columns, unsigned all, Moments* to, Moments* lanes) {
    constexpr unsigned TURNS = THREADS / COLUMNS;
    const unsigned column = threadIdx.x % COLUMNS, turn = threadIdx.x / COLUMNS;
    __syncthreads();
    Gathered own;
    if (column < columns) {
        for (unsigned i = turn; i < rows; i += TURNS) own.add(p.of(widened(y[u64(i) * all + column])));
    }
    lanes[threadIdx.x] = own.moments();
    __syncthreads();
    if (turn == 0 && column < columns) {
        Moments sum = lanes[column];
        for (unsigned i = 1; i < TURNS; ++i) sum = sum.with(lanes[i * COLUMNS + column]);
        to[column] = sum;
    }
}

}  // namespace eosin
