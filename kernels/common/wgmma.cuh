// Tiles of a product of 16-bit floats by wgmma and the tensor memory accelerator, on
// Hopper (sm_90a) alone; summed in f32. What common/mma.cuh is to other GPUs.
//
// A block makes a 128 x BN tile of C = A B: two warpgroups, each 64 rows of it by
// wgmma.m64nBNk16, and one warp that brings panels. A step is 64 of K: 128 x 64 of A
// and 64 x BN of B in one of STAGES stages of shared memory. Two barriers a stage say
// when its bytes are there (`full`: one arrival and its bytes) and when nobody reads
// them any more (`empty`: one arrival of each of the eight warps). While a warpgroup
// waits for the products of its step, those of the other run.
//
// Panels keep the direction in which their matrix lies, as in mma.cuh: a matrix along
// K is brought as lines of 64 of K, one box a panel; one across K as lines of 64 rows
// or columns, one box for every 64 of these. Lines of 128 bytes are swizzled by the
// accelerator as wgmma reads them. Boxes that leave the matrix are filled with zeros,
// so no edge has code of its own.
//
// The sum of an element runs over k in ascending order in one register, 16 at a time;
// how the hardware adds those 16 is its own, the same every time.
#pragma once
#include "common/mma.cuh"

// Whether the code of kernels can be that of sm_90a.
#if defined(EOSIN_EMULATOR) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define EOSIN_HOPPER
#endif

namespace eosin {

// src/ops/matmul/wgmma.rs has its twin.
struct WgmmaParams {
    ptx::TensorMap a, b;
    const void* bias;   // (n) of the operands' dtype, or null
    void *out, *before; // (m, n), or null for `before`, as in HalfProductParams
    unsigned m, n, k, wide;
    Epilogue epilogue;
    unsigned long long padding[2];
};

constexpr unsigned WGMMA_ROWS = 128, WGMMA_DEPTH = 64, WARPGROUP = 128, CONSUMERS = 2 * WARPGROUP;

// How the panel of B rows (of A) or columns (of B) lies in a stage.
template <unsigned B, bool ALONG_K>
struct Boxes {
    static constexpr unsigned BYTES = B * WGMMA_DEPTH * 2;
    static constexpr unsigned BLOCK = 64 * WGMMA_DEPTH * 2, GROUP = 8 * 128;

    // Starts to bring the panel from `at` rows or columns and `k` on.
    __device__ static void bring(
        unsigned char* to, const ptx::TensorMap* map, unsigned at, unsigned k, uint64_t* barrier) {
        if constexpr (ALONG_K) {
            ptx::bring_box(to, map, k, at, barrier);
        } else {
#pragma unroll
            for (unsigned block = 0; block < B / 64; ++block)
                ptx::bring_box(to + block * BLOCK, map, at + 64 * block, k, barrier);
        }
    }

    // The operand of 16 of K from `k` on, from row or column `i` on, a multiple of 64.
    __device__ static uint64_t operand(const unsigned char* panel, unsigned i, unsigned k) {
        const unsigned at = ALONG_K ? i * 128 + k * 2 : i / 64 * BLOCK + k * 128;
        return ptx::wgmma_operand(panel + at, GROUP, BLOCK);
    }
};

// Block (tile of C), of 288 threads.
template <class Half, int BN, bool A_ALONG_K, bool B_ALONG_K>
__device__ inline void wgmma_product(const WgmmaParams& p) {
#ifdef EOSIN_HOPPER
    using Left = Boxes<WGMMA_ROWS, A_ALONG_K>;
    using Right = Boxes<BN, B_ALONG_K>;
    // src/ops/matmul/wgmma.rs knows the stages too.
    constexpr unsigned STAGES = BN == 256 ? 4 : 3, BYTES = Left::BYTES + Right::BYTES;
    static_assert(STAGES * BYTES >= WGMMA_ROWS * BN * 4, "room for the sums");
    DYN_SHARED(dynamic);
    unsigned char* panels = dynamic + (0u - ptx::shared_address(dynamic)) % 1024;
    uint64_t* full = reinterpret_cast<uint64_t*>(panels + STAGES * BYTES);
    uint64_t* empty = full + STAGES;

    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const Tile tile(blockIdx.x, (p.m + WGMMA_ROWS - 1) / WGMMA_ROWS, (p.n + BN - 1) / BN);
    const unsigned row = tile.row * WGMMA_ROWS, column = tile.column * BN;
    const unsigned steps = (p.k + WGMMA_DEPTH - 1) / WGMMA_DEPTH;
    if (threadIdx.x == 0) {
#pragma unroll
        for (unsigned stage = 0; stage < STAGES; ++stage) {
            ptx::mbarrier_init(full + stage, 1);
            ptx::mbarrier_init(empty + stage, CONSUMERS / WARP);
        }
        ptx::mbarrier_init_fence();
    }
    __syncthreads();

    if (warp == CONSUMERS / WARP) {
        if (lane == 0) {
#pragma unroll 1
            for (unsigned step = 0; step < steps; ++step) {
                const unsigned stage = step % STAGES;
                unsigned char* to = panels + stage * BYTES;
                ptx::mbarrier_wait(empty + stage, (step / STAGES + 1) % 2);
                ptx::mbarrier_arrive_expect(full + stage, BYTES);
                Left::bring(to, &p.a, row, step * WGMMA_DEPTH, full + stage);
                Right::bring(to + Left::BYTES, &p.b, column, step * WGMMA_DEPTH, full + stage);
            }
        }
        return;
    }

    const unsigned group = warp / 4;
    float sums[BN / 2] = {};
#pragma unroll 1
    for (unsigned step = 0; step < steps; ++step) {
        const unsigned stage = step % STAGES;
        const unsigned char* left = panels + stage * BYTES;
        ptx::mbarrier_wait(full + stage, step / STAGES % 2);
        ptx::wgmma_fence();
#pragma unroll
        for (unsigned k = 0; k < WGMMA_DEPTH; k += 16)
            Half::template wide_multiply<!A_ALONG_K, !B_ALONG_K>(
                sums, Left::operand(left, 64 * group, k), Right::operand(left + Left::BYTES, 0, k));
        ptx::wgmma_commit();
        ptx::wgmma_wait(sums);
        if (lane == 0) ptx::mbarrier_arrive(empty + stage);
    }

    // The sums change hands, so that a warp writes rows. All panels were read, and none
    // is on its way.
    ptx::barrier_sync(1, CONSUMERS);
    float* shared_sums = reinterpret_cast<float*>(panels) + group * 64 * BN;
    auto place = [](unsigned i, unsigned j) { return i * BN + (j / 8 ^ i % 4) * 8 + j % 8; };
#pragma unroll
    for (unsigned i = 0; i < BN / 2; i += 2)
        *reinterpret_cast<float2*>(
            shared_sums + place(warp % 4 * 16 + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2)) =
            make_float2(sums[i], sums[i + 1]);
    ptx::barrier_sync(1, CONSUMERS);

    using Scalar = typename Half::Scalar;
    const Finish<Half> finish{
        static_cast<const Scalar*>(p.bias), nullptr, p.out, p.before, p.wide != 0, p.epilogue};
    const bool fours = p.n % 4 == 0;
#pragma unroll 1
    for (unsigned q = threadIdx.x % WARPGROUP; q < 64 * BN / 4; q += WARPGROUP) {
        const unsigned i = q / (BN / 4), j = q % (BN / 4) * 4;
        const unsigned at_row = row + group * 64 + i, at_column = column + j;
        if (at_row >= p.m || at_column >= p.n) continue;
        const float4 held = *reinterpret_cast<const float4*>(shared_sums + place(i, j));
        float v[4] = {held.x, held.y, held.z, held.w};
        finish.some(u64(at_row) * p.n + at_column, at_column, p.n, fours, v);
    }
#else
    __trap();
#endif
}

}  // namespace eosin
