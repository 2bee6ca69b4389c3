// Instructions that CUDA C++ has no name for: the only inline PTX of these kernels.
//
// All of it runs on sm_80 and later, but for the last sections: these need sm_90a.
// Under the emulator the same names come from tests/emulator/shim/ptx.h.
//
// The fragments of a matrix product, of the PTX ISA's tables for mma.sync. With
// g = lane / 4 and t = lane % 4, d += a b where
//   d (16x8, f32):     d[i] is row g + 8 (i / 2), column 2 t + i % 2
//   a (16x16, 16 bit): a[i] holds row g + 8 (i % 2), columns 2 t + 8 (i / 2) and the next
//   b (16x8, 16 bit):  b[i] holds rows 2 t + 8 i and the next of column g
//   a (16x8, tf32):    a[i] is row g + 8 (i % 2), column t + 4 (i / 2)
//   b (8x8, tf32):     b[i] is row t + 4 i, column g
// Of two 16-bit elements in a register, the first is in the lower half.
#pragma once

#include "common/base.cuh"

#ifndef EOSIN_EMULATOR
#include <cstdint>

namespace ptx {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ---- cp.async: global to shared memory, past the registers

// Starts the copy of BYTES (4, 8 or 16), both ends aligned to them. Of the source
// only `from_bytes` are read; the rest of the destination becomes zero. With 0
// the source is not touched, but must still be a valid address.
template <int BYTES>
__device__ __forceinline__ void cp_async(void* to, const void* from, int from_bytes = BYTES) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    if constexpr (BYTES == 16) {
        // Tiles are shared by the block, so they need no place in the first-level cache.
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)),
                     "l"(__cvta_generic_to_global(from)), "r"(from_bytes)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared_address(to)),
                     "l"(__cvta_generic_to_global(from)), "n"(BYTES), "r"(from_bytes)
                     : "memory");
    }
}

// Ends the group of this thread's copies since the last commit, which may be empty.
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

// Waits until at most the newest GROUPS groups of this thread are in flight. Other
// threads see the bytes after a barrier that follows.
template <int GROUPS>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(GROUPS) : "memory");
}

__device__ __forceinline__ void cp_async_wait_all() {
    asm volatile("cp.async.wait_all;\n" ::: "memory");
}

// ---- named barriers: whole warps of a block, `id` from 1 to 15

// Waits until `threads` threads have come to the barrier.
__device__ __forceinline__ void barrier_sync(int id, int threads) {
    asm volatile("barrier.cta.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

// Comes to the barrier and goes on.
__device__ __forceinline__ void barrier_arrive(int id, int threads) {
    asm volatile("barrier.cta.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

// ---- ldmatrix: 8x8 matrices of 16-bit elements from shared memory into fragments
//
// Lanes 8 m to 8 m + 7 give the addresses of the rows of matrix m, each 16 aligned
// bytes; the others' are not used. r[m] holds row g, columns 2 t and the next, of
// matrix m, or with `trans` of its transpose.

__device__ __forceinline__ void ldmatrix_x1(uint32_t (&r)[1], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];\n"
                 : "=r"(r[0])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x1_trans(uint32_t (&r)[1], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];\n"
                 : "=r"(r[0])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// ---- mma: d += a b on tensor cores, accumulated in f32

// 16x16 by 16x8, bfloat16.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16x16 by 16x8, float16.
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16x8 by 8x8, TF32: floats from to_tf32.
__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The bits of the nearest TF32 number (10 bits of mantissa), away from zero at ties.
__device__ __forceinline__ uint32_t to_tf32(float value) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(value));
    return bits;
}

// ---- sm_90a alone: kernels with any of this are empty for other architectures

// A matrix of global memory as the tensor memory accelerator reads it; the host makes
// it (Driver::tensor_map in src/device/cuda/driver.rs).
struct alignas(64) TensorMap {
    unsigned long long words[16];
};

// ---- mbarrier: a barrier in 8 bytes of shared memory, which also counts bytes that
// are on their way
//
// A phase ends when `arrivals` have come and all bytes that they announced have
// arrived; phases are numbered from 0.

// By one thread, before mbarrier_init_fence and a barrier of the block.
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(arrivals)
                 : "memory");
}

// Makes the thread's mbarrier_init known to the accelerator.
__device__ __forceinline__ void mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and announces bytes to the phase.
__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

// Waits until a phase of this parity has ended: the one that goes on, if its parity
// it is, else the one before it, which has, so that 1 passes at a fresh barrier.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, unsigned parity) {
    asm volatile(
        "{\n"
        ".reg .pred ended;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
        "@ended bra done;\n"
        "bra again;\n"
        "done:\n"
        "}\n" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// ---- cp.async.bulk.tensor: boxes of a matrix to shared memory

// Starts to bring the map's box from element `x` of line `y` on; what is outside of
// the matrix becomes zero, and counts. Its bytes are told to the barrier. Piece c of
// 16 bytes of a line of 128 goes where piece c ^ line % 8 would lie in a plain array;
// `to` is aligned to 1024.
__device__ __forceinline__ void bring_box(
    void* to, const TensorMap* map, unsigned x, unsigned y, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4}], [%2];\n" ::"r"(shared_address(to)),
        "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y)
        : "memory");
}

// ---- wgmma: d += a b by a warpgroup, four warps from a multiple of 4 on
//
// a (64x16) and b (16xN) lie in shared memory, where descriptors say. With g and t of
// the lane and w of the warp in its group,
//   d (64xN, f32): d[i] is row 16 w + g + 8 (i / 2 % 2), column 8 (i / 4) + 2 t + i % 2

// The descriptor of an operand at `start`, of the PTX ISA's "Matrix Descriptor Format",
// in pieces of 16 bytes, 8 to a line, swizzled as bring_box does. An operand along K
// has a line of 64 of K for each row or column, `groups` bytes from 8 lines to the next
// 8. One across has a line of 64 rows or columns for each k, `groups` bytes from 8 of K
// to the next 8, `blocks` from 64 rows or columns to the next 64.
__device__ __forceinline__ uint64_t wgmma_operand(const void* start, unsigned groups, unsigned blocks) {
    auto field = [](unsigned bytes) { return uint64_t((bytes & 0x3ffff) >> 4); };
    constexpr uint64_t SWIZZLE_128 = 1;
    return field(shared_address(start)) | field(blocks) << 16 | field(groups) << 32 | SWIZZLE_128 << 62;
}

// Before the first product of a group, and after the thread wrote to registers of d.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

// Waits for all groups, after which `d` is the thread's own again.
template <int N>
__device__ __forceinline__ void wgmma_wait(float (&d)[N]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;\n" ::: "memory");
    // No read of them moves before the wait.
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define EOSIN_REGISTERS_64                                                                                             \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                           \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                 \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define EOSIN_REGISTERS_128                                                                                            \
    EOSIN_REGISTERS_64                                                                                                 \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                               \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                                 \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "                     \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define EOSIN_SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define EOSIN_SUMS_16(i) EOSIN_SUMS_4(i), EOSIN_SUMS_4(i + 4), EOSIN_SUMS_4(i + 8), EOSIN_SUMS_4(i + 12)
#define EOSIN_SUMS_64(i) EOSIN_SUMS_16(i), EOSIN_SUMS_16(i + 16), EOSIN_SUMS_16(i + 32), EOSIN_SUMS_16(i + 48)

// One of half as many sums a thread as columns. A_ACROSS and B_ACROSS: operands that
// lie across K.
#define EOSIN_WGMMA(NAME, TYPE, COLUMNS, SUMS, REGISTERS, A, B, A_DIRECTION, B_DIRECTION, ...)                         \
    template <bool A_ACROSS, bool B_ACROSS>                                                                            \
    __device__ __forceinline__ void NAME(float (&d)[SUMS], uint64_t a, uint64_t b) {                                   \
        asm volatile("{\n"                                                                                              \
                     ".reg .pred add;\n"                                                                               \
                     "setp.eq.u32 add, 0, 0;\n"                                                                        \
                     "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32." TYPE "." TYPE " {" REGISTERS "}, " A      \
                     ", " B ", add, 1, 1, " A_DIRECTION ", " B_DIRECTION ";\n"                                         \
                     "}\n"                                                                                             \
                     : __VA_ARGS__                                                                                     \
                     : "l"(a), "l"(b), "n"(int(A_ACROSS)), "n"(int(B_ACROSS)));                                        \
    }
EOSIN_WGMMA(wgmma_bf16, "bf16", 128, 64, EOSIN_REGISTERS_64, "%64", "%65", "%66", "%67", EOSIN_SUMS_64(0))
EOSIN_WGMMA(wgmma_f16, "f16", 128, 64, EOSIN_REGISTERS_64, "%64", "%65", "%66", "%67", EOSIN_SUMS_64(0))
EOSIN_WGMMA(
    wgmma_bf16, "bf16", 256, 128, EOSIN_REGISTERS_128, "%128", "%129", "%130", "%131", EOSIN_SUMS_64(0), EOSIN_SUMS_64(64))
EOSIN_WGMMA(
    wgmma_f16, "f16", 256, 128, EOSIN_REGISTERS_128, "%128", "%129", "%130", "%131", EOSIN_SUMS_64(0), EOSIN_SUMS_64(64))
#undef EOSIN_WGMMA
#undef EOSIN_REGISTERS_64
#undef EOSIN_REGISTERS_128
#undef EOSIN_SUMS_4
#undef EOSIN_SUMS_16
#undef EOSIN_SUMS_64

}  // namespace ptx

#endif
