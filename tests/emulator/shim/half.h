// CUDA's 16-bit floats: storage, and conversions that round to nearest even.
#pragma once
#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
    uint16_t bits;
};
struct __half {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 v) {
    uint32_t wide = uint32_t(v.bits) << 16;
    float f;
    memcpy(&f, &wide, 4);
    return f;
}

inline __nv_bfloat16 __float2bfloat16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffff) > 0x7f800000) return {0x7fff};
    return {uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return __float2bfloat16(f); }

inline float __half2float(__half h) {
    uint32_t sign = uint32_t(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31, mantissa = h.bits & 1023;
    uint32_t u;
    if (exponent == 31) {
        u = sign | 0x7f800000 | mantissa << 13;
    } else if (exponent) {
        u = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        // Subnormal: a multiple of 2^-24, which a float holds exactly.
        float f = float(mantissa) * 5.9604644775390625e-8f;
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

inline __half __float2half(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    auto sign = uint16_t(u >> 16 & 0x8000);
    u &= 0x7fffffff;
    if (u > 0x7f800000) return {0x7fff};
    if (u >= 0x477ff000) return {uint16_t(sign | 0x7c00)};
    if (u < 0x38800000) {
        // Below the normal range: adding 1/2 lines the bits up and rounds.
        float magic = 0.5f, v;
        memcpy(&v, &u, 4);
        v += magic;
        uint32_t rounded;
        memcpy(&rounded, &v, 4);
        return {uint16_t(sign | (rounded - 0x3f000000))};
    }
    return {uint16_t(sign | ((u - 0x38000000 + 0xfff + (u >> 13 & 1)) >> 13))};
}
inline __half __float2half_rn(float f) { return __float2half(f); }
