// Reductions of f32; sums of bf16 and f16 too, added in f32 and rounded once.
//
//   sum     y[o, c] = the sum over r of x[o, r, c], x being outer x rows x inner
//   argmax  the place (i64) of the first maximum of each row; NaN is the maximum
//
// A sum over many rows is cut into chunks, by shape alone; their sums are the
// rows of a second pass. rows serves inner = 1 with a block per sum, columns
// inner > 1 with 32 columns x 8 row lanes per block. Each thread adds with
// compensation (Kahan 1965), and threads are joined in a fixed tree.
//
// Launch: 256 threads. rows: outer x chunks blocks; columns: outer x chunks x
// (inner / 32, rounded up); argmax: a block per row.
// Floor: memory bandwidth, x once.
#include "common/half.cuh"
#include "common/order.cuh"
#include "common/walk.cuh"

namespace eosin {

struct SumParams {
    const void* x;
    void* out;  // outer x chunks x inner
    unsigned rows, inner, chunk, chunks;
    unsigned to, padding;  // the dtype of out: 0 f32, 1 bf16, 2 f16

    __device__ void put(u64 at, float sum) const {
        switch (to) {
            case 1: static_cast<__nv_bfloat16*>(out)[at] = narrowed<__nv_bfloat16>(sum); return;
            case 2: static_cast<__half*>(out)[at] = narrowed<__half>(sum); return;
            default: static_cast<float*>(out)[at] = sum;
        }
    }
};

// A sum that carries what its additions lost.
struct Kahan {
    float sum = 0.0f, lost = 0.0f;
    __device__ void add(float v) {
        const float y = v - lost, next = sum + y;
        // Nothing was lost that could be named once the sum is not finite.
        lost = next - next == 0.0f ? (next - sum) - y : 0.0f;
        sum = next;
    }
};

template <class T>
__device__ inline void sum_rows(const SumParams& p) {
    SHARED(float, parts, [256 / WARP]);
    const unsigned outer = blockIdx.x / p.chunks, part = blockIdx.x % p.chunks;
    const T* x = static_cast<const T*>(p.x) + u64(outer) * p.rows;
    const unsigned first = part * p.chunk;
    const unsigned end = p.rows - first < p.chunk ? p.rows : first + p.chunk;
    Kahan own;
    for (unsigned r = first + threadIdx.x; r < end; r += 256) own.add(widened(x[r]));
    const float total = block_sum<256>(own.sum, parts);
    if (threadIdx.x == 0) p.put(blockIdx.x, total);
}

template <class T>
__device__ inline void sum_columns(const SumParams& p) {
    SHARED(float, parts, [8][32]);
    const unsigned tiles = (p.inner + 31) / 32;
    const unsigned tile = blockIdx.x % tiles, segment = blockIdx.x / tiles;
    const unsigned outer = segment / p.chunks, part = segment % p.chunks;
    const unsigned lane = threadIdx.x / 32, column = tile * 32 + threadIdx.x % 32;
    const unsigned first = part * p.chunk;
    const unsigned end = p.rows - first < p.chunk ? p.rows : first + p.chunk;
    Kahan own;
    if (column < p.inner) {
        const T* x = static_cast<const T*>(p.x) + u64(outer) * p.rows * p.inner + column;
        for (unsigned r = first + lane; r < end; r += 8) own.add(widened(x[u64(r) * p.inner]));
    }
    parts[lane][threadIdx.x % 32] = own.sum;
    __syncthreads();
    if (lane == 0 && column < p.inner) {
        float total = 0.0f;
        for (unsigned i = 0; i < 8; ++i) total += parts[i][threadIdx.x];
        p.put(u64(segment) * p.inner + column, total);
    }
}

// Taken as __grid_constant__, so that nothing of it goes through the stack.
struct ArgmaxParams {
    const float* x;
    i64* out;
    unsigned columns, padding;
    Walk walk;  // over the rows in row-major order
};

__device__ inline void argmax(const ArgmaxParams& p) {
    SHARED(u64, best, [256]);
    // Of equal values the lower place has the higher key; 0 is below every key.
    u64 own = 0;
    for (unsigned j = threadIdx.x; j < p.columns; j += 256) {
        const float value = p.x[p.walk.place(0, blockIdx.x * p.columns + j)];
        const u64 key = u64(rank_of(value)) << 32 | (0xffffffffu - j);
        if (key > own) own = key;
    }
    best[threadIdx.x] = own;
    __syncthreads();
    for (unsigned half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half && best[threadIdx.x + half] > best[threadIdx.x])
            best[threadIdx.x] = best[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) p.out[blockIdx.x] = i64(0xffffffffu - unsigned(best[0]));
}

}  // namespace eosin

extern "C" __global__ void __launch_bounds__(256) eosin_sum_forward_rows_f32(const eosin::SumParams p) { eosin::sum_rows<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sum_forward_columns_f32(const eosin::SumParams p) { eosin::sum_columns<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sum_forward_rows_bf16(const eosin::SumParams p) { eosin::sum_rows<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sum_forward_columns_bf16(const eosin::SumParams p) { eosin::sum_columns<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sum_forward_rows_f16(const eosin::SumParams p) { eosin::sum_rows<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sum_forward_columns_f16(const eosin::SumParams p) { eosin::sum_columns<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_argmax_forward_f32(const __grid_constant__ eosin::ArgmaxParams p) { eosin::argmax(p); }
