// Instructions that CUDA C++ has no name for: the only inline PTX of these kernels.
//
// All of it runs on sm_80 and later. Under the emulator the same names come from
// tests/emulator/shim/ptx.h.
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

}  // namespace ptx

#endif
