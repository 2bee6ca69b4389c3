// What every collective answers, lane by lane. Blocks of one warp, except where
// blocks are the subject; row k of `out` is the k-th answer of all threads.
#include "common/base.cuh"
#include "common/ptx.cuh"

struct ProbeParams {
    int* out;
    const int* in;
};

extern "C" __global__ void __launch_bounds__(32) probe_shuffles(const ProbeParams p) {
    unsigned all = 0xffffffffu;
    int lane = int(threadIdx.x), v = p.in[lane], row = 0;
    auto answer = [&](int a) { p.out[32 * row++ + lane] = a; };
    answer(__shfl_sync(all, v, 5));
    answer(__shfl_sync(all, v, lane + 3, 8));
    answer(__shfl_up_sync(all, v, 3));
    answer(__shfl_up_sync(all, v, 3, 8));
    answer(__shfl_down_sync(all, v, 3));
    answer(__shfl_down_sync(all, v, 3, 8));
    answer(__shfl_xor_sync(all, v, 5));
    answer(__shfl_xor_sync(all, v, 9, 8));
    answer(int(__shfl_sync(all, (long long)(v) << 32 | 7, 31) >> 32));
    answer(int(__shfl_down_sync(all, float(v), 1)));
    answer(int(__shfl_down_sync(all, double(v), 1)));
}

extern "C" __global__ void __launch_bounds__(32) probe_votes(const ProbeParams p) {
    unsigned all = 0xffffffffu;
    int lane = int(threadIdx.x), v = p.in[lane], row = 0;
    auto answer = [&](unsigned a) { p.out[32 * row++ + lane] = int(a); };
    answer(__ballot_sync(all, v % 3 == 0));
    answer(unsigned(__any_sync(all, lane == 9)));
    answer(unsigned(__any_sync(all, lane == 32)));
    answer(unsigned(__all_sync(all, lane < 32)));
    answer(unsigned(__all_sync(all, lane < 31)));
    answer(__match_any_sync(all, lane % 5));
    int same;
    answer(__match_all_sync(all, 7, &same));
    answer(unsigned(same));
    answer(__match_all_sync(all, lane / 31, &same));
    answer(unsigned(same));
    // Two halves that diverged, each by itself.
    unsigned even = 0x55555555u;
    if (lane % 2 == 0)
        answer(__ballot_sync(even, lane < 16));
    else
        answer(__ballot_sync(~even, lane < 16));
}

extern "C" __global__ void __launch_bounds__(32) probe_reductions(const ProbeParams p) {
    unsigned all = 0xffffffffu;
    int lane = int(threadIdx.x), v = p.in[lane], row = 0;
    auto answer = [&](int a) { p.out[32 * row++ + lane] = a; };
    answer(__reduce_add_sync(all, v));
    answer(__reduce_min_sync(all, v));
    answer(__reduce_max_sync(all, v));
    answer(int(__reduce_min_sync(all, unsigned(v))));
    answer(int(__reduce_max_sync(all, unsigned(v))));
    answer(int(__reduce_and_sync(all, unsigned(v))));
    answer(int(__reduce_or_sync(all, unsigned(v))));
    answer(int(__reduce_xor_sync(all, unsigned(v))));
}

// A last warp that is not full, too.
extern "C" __global__ void __launch_bounds__(80) probe_block_votes(const ProbeParams p) {
    int i = int(threadIdx.x), row = 0;
    auto answer = [&](int a) { p.out[80 * row++ + i] = a; };
    answer(__syncthreads_count(i % 3 == 0));
    answer(__syncthreads_and(i < 80));
    answer(__syncthreads_and(i != 41));
    answer(__syncthreads_or(i == 41));
    answer(__syncthreads_or(i == 80));
    unsigned own = i < 64 ? 0xffffffffu : 0xffffu;
    answer(int(__ballot_sync(own, i % 2)));
}

// Two warps hand a buffer to a third, which adds what they left there.
extern "C" __global__ void __launch_bounds__(96) probe_named_barriers(const ProbeParams p) {
    SHARED(int, held, [64]);
    constexpr int FULL = 1, EMPTY = 2;
    for (int round = 0; round < 4; ++round) {
        if (threadIdx.x < 64) {
            if (round > 0) ptx::barrier_sync(EMPTY, 96);
            held[threadIdx.x] = p.in[threadIdx.x] + round;
            ptx::barrier_arrive(FULL, 96);
        } else {
            unsigned lane = threadIdx.x - 64;
            ptx::barrier_sync(FULL, 96);
            p.out[32 * round + lane] = held[lane] + held[lane + 32];
            if (round < 3) ptx::barrier_arrive(EMPTY, 96);
        }
    }
}

// Blocks of a grid, each with its place.
extern "C" __global__ void __launch_bounds__(32) probe_places(const ProbeParams p) {
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    p.out[block * blockDim.x + threadIdx.x] =
        int(((blockIdx.z * 10 + blockIdx.y) * 10 + blockIdx.x) * 100 + threadIdx.x);
    atomicAdd(p.out + gridDim.x * gridDim.y * gridDim.z * blockDim.x, 1);
}
