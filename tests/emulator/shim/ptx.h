// The host's side of kernels/common/ptx.cuh: the same names, as collectives of a
// warp and copies that arrive at their wait. What each one does, and which lane
// holds what, is described there.
#pragma once

#include <cstdint>
#include <cstring>

#include "collectives.h"
#include "emulator.h"
#include "half.h"
#include "sanitizer.h"

namespace ptx {

// ---- cp.async

template <int BYTES>
inline void cp_async(void* to, const void* from, int from_bytes = BYTES, EOSIN_EMULATOR_SITE) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    emulator::async_copy(to, from, BYTES, static_cast<unsigned>(from_bytes), site);
}

inline void cp_async_commit() { emulator::async_commit(); }

template <int GROUPS>
inline void cp_async_wait() {
    emulator::async_wait(GROUPS);
}

inline void cp_async_wait_all() {
    emulator::async_commit();
    emulator::async_wait(0);
}

// ---- named barriers

inline void barrier_sync(int id, int threads, EOSIN_EMULATOR_SITE) {
    emulator::named_barrier(id, threads, true, site);
}

inline void barrier_arrive(int id, int threads, EOSIN_EMULATOR_SITE) {
    emulator::named_barrier(id, threads, false, site);
}

// ---- sm_90a

inline uint32_t shared_address(const void* p) { return emulator::shared_address(p); }

struct alignas(64) TensorMap {
    unsigned long long words[16];
};

inline void mbarrier_init(uint64_t* barrier, unsigned arrivals, EOSIN_EMULATOR_SITE) {
    emulator::mbarrier_init(barrier, arrivals, site);
}
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive(uint64_t* barrier, EOSIN_EMULATOR_SITE) {
    emulator::mbarrier_arrive(barrier, 0, site);
}
inline void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes, EOSIN_EMULATOR_SITE) {
    emulator::mbarrier_arrive(barrier, bytes, site);
}
inline void mbarrier_wait(uint64_t* barrier, unsigned parity, EOSIN_EMULATOR_SITE) {
    emulator::mbarrier_wait(barrier, parity, site);
}

inline void bring_box(void* to, const TensorMap* map, unsigned x, unsigned y, uint64_t* barrier,
                      EOSIN_EMULATOR_SITE) {
    emulator::bring_box(to, map, x, y, barrier, site);
}

inline uint64_t wgmma_operand(const void* start, unsigned groups, unsigned blocks) {
    auto field = [](unsigned bytes) { return uint64_t{(bytes & 0x3ffff) >> 4}; };
    return field(shared_address(start)) | field(blocks) << 16 | field(groups) << 32 |
           uint64_t{1} << 62;
}

inline void wgmma_fence() { emulator::wgmma_fence(); }
inline void wgmma_commit() { emulator::wgmma_commit(); }

template <int N>
inline void wgmma_wait(float (&)[N], EOSIN_EMULATOR_SITE) {
    emulator::wgmma_wait(site);
}

template <bool A_ACROSS, bool B_ACROSS, int N>
inline void wgmma_bf16(float (&d)[N], uint64_t a, uint64_t b, EOSIN_EMULATOR_SITE) {
    static constexpr emulator::WgmmaForm form = {"wgmma.bf16", 2 * N, A_ACROSS, B_ACROSS,
                                                 emulator::Bf16Format::to};
    emulator::wgmma(d, a, b, form, site);
}

template <bool A_ACROSS, bool B_ACROSS, int N>
inline void wgmma_f16(float (&d)[N], uint64_t a, uint64_t b, EOSIN_EMULATOR_SITE) {
    static constexpr emulator::WgmmaForm form = {"wgmma.f16", 2 * N, A_ACROSS, B_ACROSS,
                                                 emulator::HalfFormat::to};
    emulator::wgmma(d, a, b, form, site);
}

// ---- ldmatrix

struct Rows {
    const uint16_t* row;  // of matrix lane / 8, row lane % 8
    uint32_t* registers;
};

template <int MATRICES, bool TRANSPOSED>
void serve_ldmatrix(void* const* arguments, uint32_t) {
    for (int lane = 0; lane < 32; ++lane) {
        for (int matrix = 0; matrix < MATRICES; ++matrix) {
            auto element = [&](int row, int column) -> uint32_t {
                return static_cast<Rows*>(arguments[8 * matrix + row])->row[column];
            };
            int row = lane / 4, column = lane % 4 * 2;
            static_cast<Rows*>(arguments[lane])->registers[matrix] =
                TRANSPOSED ? element(column, row) | element(column + 1, row) << 16
                           : element(row, column) | element(row, column + 1) << 16;
        }
    }
}

template <int MATRICES, bool TRANSPOSED>
inline void ldmatrix(const char* operation, uint32_t* registers, const void* row,
                     emulator::Site site) {
    if (emulator::current->lane < 8 * MATRICES) {
        if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
            emulator::fail(site, "%s: a row that is not aligned to 16 bytes", operation);
        }
        emulator::require_shared(row, 16, operation, site);
        // The lane that names a row answers for it, not the one that is last.
        emulator::sanitizer::reads(row, 16);
    }
    Rows own = {static_cast<const uint16_t*>(row), registers};
    emulator::warp_collective(~0u, operation, &own, serve_ldmatrix<MATRICES, TRANSPOSED>, site);
}

inline void ldmatrix_x1(uint32_t (&r)[1], const void* row, EOSIN_EMULATOR_SITE) {
    ldmatrix<1, false>("ldmatrix.x1", r, row, site);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, EOSIN_EMULATOR_SITE) {
    ldmatrix<2, false>("ldmatrix.x2", r, row, site);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, EOSIN_EMULATOR_SITE) {
    ldmatrix<4, false>("ldmatrix.x4", r, row, site);
}
inline void ldmatrix_x1_trans(uint32_t (&r)[1], const void* row, EOSIN_EMULATOR_SITE) {
    ldmatrix<1, true>("ldmatrix.x1.trans", r, row, site);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row, EOSIN_EMULATOR_SITE) {
    ldmatrix<2, true>("ldmatrix.x2.trans", r, row, site);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, EOSIN_EMULATOR_SITE) {
    ldmatrix<4, true>("ldmatrix.x4.trans", r, row, site);
}

// ---- mma

struct Fragments {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
};

// Element `half` of register `index` of a fragment of 16-bit floats.
template <class Format>
inline float element(uint32_t packed, int half) {
    return Format::to(static_cast<uint16_t>(packed >> 16 * half));
}

inline float tf32(uint32_t bits) { return emulator::float_of(bits & ~0x1fffu); }

// Adds the 16x8 product of what the lanes put together.
template <int DEPTH>
inline void add_product(void* const* arguments, const float (&a)[16][DEPTH],
                        const float (&b)[DEPTH][8]) {
    for (int lane = 0; lane < 32; ++lane) {
        float* d = static_cast<Fragments*>(arguments[lane])->d;
        for (int i = 0; i < 4; ++i) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float sum = 0;
            for (int k = 0; k < DEPTH; ++k) {
                sum += a[row][k] * b[k][column];
            }
            d[i] += sum;
        }
    }
}

template <class Format>
void serve_mma_16(void* const* arguments, uint32_t) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const auto& own = *static_cast<Fragments*>(arguments[lane]);
        int group = lane / 4, pair = lane % 4 * 2;
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 4; ++i) {
                a[group + i % 2 * 8][pair + half + i / 2 * 8] = element<Format>(own.a[i], half);
            }
            for (int i = 0; i < 2; ++i) {
                b[pair + half + i * 8][group] = element<Format>(own.b[i], half);
            }
        }
    }
    add_product(arguments, a, b);
}

inline void serve_mma_tf32(void* const* arguments, uint32_t) {
    float a[16][8], b[8][8];
    for (int lane = 0; lane < 32; ++lane) {
        const auto& own = *static_cast<Fragments*>(arguments[lane]);
        int group = lane / 4, place = lane % 4;
        for (int i = 0; i < 4; ++i) {
            a[group + i % 2 * 8][place + i / 2 * 4] = tf32(own.a[i]);
        }
        for (int i = 0; i < 2; ++i) {
            b[place + i * 4][group] = tf32(own.b[i]);
        }
    }
    add_product(arguments, a, b);
}

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                     EOSIN_EMULATOR_SITE) {
    Fragments own = {d, a, {b0, b1}};
    emulator::warp_collective(~0u, "mma.m16n8k16.bf16", &own, serve_mma_16<emulator::Bf16Format>,
                              site);
}

inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                    EOSIN_EMULATOR_SITE) {
    Fragments own = {d, a, {b0, b1}};
    emulator::warp_collective(~0u, "mma.m16n8k16.f16", &own, serve_mma_16<emulator::HalfFormat>,
                              site);
}

inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                     EOSIN_EMULATOR_SITE) {
    Fragments own = {d, a, {b0, b1}};
    emulator::warp_collective(~0u, "mma.m16n8k8.tf32", &own, serve_mma_tf32, site);
}

inline uint32_t to_tf32(float value) {
    uint32_t bits = emulator::bits_of(value);
    bool finite = (bits & 0x7f800000) != 0x7f800000;
    // Away from zero at ties: half of the last place that is kept, then cut.
    return (finite ? bits + 0x1000 : bits) & ~0x1fffu;
}

}  // namespace ptx
