// Bugs of what sm_90a has alone, beside sound twins.
#include "common/base.cuh"
#include "common/ptx.cuh"

struct PlantedParams {
    float* out;
    const float* in;
    unsigned count, padding;
};

constexpr unsigned TILE = 256, LINES = 8;  // floats, and lines of 128 bytes

// out = in over `count` tiles of 256 floats, through two stages in turn: the first
// warp brings tiles, the second reads them. Blocks of 64 threads.
template <bool WAITS_FOR_BYTES, bool WAITS_FOR_READERS, unsigned ANNOUNCED = TILE * 4, unsigned OFF = 0>
__device__ void boxes(const PlantedParams& p) {
    struct alignas(1024) Held { float tiles[2][TILE]; };
    SHARED(Held, held, [1]);
    SHARED(uint64_t, full, [2]);
    SHARED(uint64_t, empty, [2]);
    // As src/device/cuda/driver.rs writes a map that no hardware reads.
    const ptx::TensorMap map = {{0x656f73696e6d6170, reinterpret_cast<uint64_t>(p.in), 64, p.count * LINES, 128, LINES}};
    if (threadIdx.x == 0) {
        for (unsigned stage = 0; stage < 2; ++stage) {
            ptx::mbarrier_init(full + stage, 1);
            ptx::mbarrier_init(empty + stage, 32);
        }
        ptx::mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned tile = 0; tile < p.count; ++tile) {
            if (WAITS_FOR_READERS) ptx::mbarrier_wait(empty + tile % 2, (tile / 2 + 1) % 2);
            ptx::mbarrier_arrive_expect(full + tile % 2, ANNOUNCED);
            ptx::bring_box(held[0].tiles[tile % 2] + OFF, &map, 0, tile * LINES, full + tile % 2);
        }
    } else if (threadIdx.x >= 32) {
        for (unsigned tile = 0; tile < p.count; ++tile) {
            if (WAITS_FOR_BYTES) ptx::mbarrier_wait(full + tile % 2, tile / 2 % 2);
            for (unsigned i = threadIdx.x - 32; i < TILE; i += 32)
                p.out[tile * TILE + i] = held[0].tiles[tile % 2][i ^ i / 32 % 8 * 4];
            ptx::mbarrier_arrive(empty + tile % 2);
        }
    }
}

extern "C" __global__ void __launch_bounds__(64) planted_boxes_sound(const PlantedParams p) { boxes<true, true>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_boxes_wait_missing(const PlantedParams p) { boxes<false, true>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_boxes_readers_forgotten(const PlantedParams p) { boxes<true, false>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_boxes_bytes_too_many(const PlantedParams p) { boxes<true, true, TILE * 4 + 16>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_boxes_misaligned(const PlantedParams p) { boxes<true, true, TILE * 4, 4>(p); }

extern "C" __global__ void __launch_bounds__(64) planted_mbarrier_unknown(const PlantedParams p) {
    SHARED(uint64_t, barrier, [1]);
    ptx::mbarrier_arrive(barrier);
    p.out[threadIdx.x] = 0.0f;
}

// The first sum of each thread of 64 x 16 ones by 16 x 128 ones.
template <bool FENCES, bool WAITS, bool KEEPS>
__device__ void ones(const PlantedParams& p) {
    struct alignas(1024) Held { unsigned short a[64 * 64], b[128 * 64]; };
    SHARED(Held, held, [1]);
    for (unsigned i = threadIdx.x; i < 192 * 64; i += blockDim.x)
        (i < 64 * 64 ? held[0].a[i] : held[0].b[i - 64 * 64]) = 0x3f80;
    __syncthreads();
    float sums[64] = {};
    if (FENCES) ptx::wgmma_fence();
    ptx::wgmma_bf16<false, false>(
        sums, ptx::wgmma_operand(held[0].a, 1024, 0), ptx::wgmma_operand(held[0].b, 1024, 0));
    ptx::wgmma_commit();
    if (!KEEPS) {
        __syncthreads();
        held[0].a[threadIdx.x * 32] = 0;
        __syncthreads();
    }
    if (WAITS) ptx::wgmma_wait(sums);
    p.out[threadIdx.x] = sums[0];
}

extern "C" __global__ void __launch_bounds__(128) planted_wgmma_sound(const PlantedParams p) { ones<true, true, true>(p); }
extern "C" __global__ void __launch_bounds__(128) planted_wgmma_wait_missing(const PlantedParams p) { ones<true, false, true>(p); }
extern "C" __global__ void __launch_bounds__(128) planted_wgmma_operand_lost(const PlantedParams p) { ones<true, true, false>(p); }
extern "C" __global__ void __launch_bounds__(128) planted_wgmma_fence_missing(const PlantedParams p) { ones<false, true, true>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_wgmma_half_a_group(const PlantedParams p) { ones<true, true, true>(p); }
