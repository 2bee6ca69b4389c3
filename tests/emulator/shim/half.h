// The 16-bit floats of cuda_fp16.h and cuda_bf16.h: storage, conversions that
// round to nearest even, and arithmetic that rounds after every operation as the
// hardware's does.
#pragma once

#include <cstdint>
#include <cstring>

#include "vector.h"

namespace emulator {

inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Drops the lowest `count` bits (1 to 31), to nearest, ties to even.
inline uint32_t round_off(uint32_t bits, unsigned count) {
    uint32_t half_less_one = (1u << (count - 1)) - 1;
    return (bits + half_less_one + (bits >> count & 1)) >> count;
}

constexpr uint16_t CANONICAL_NAN = 0x7fff;  // of both formats, as conversions give it

struct Bf16Format {
    static uint16_t from(float value) {
        return value != value ? CANONICAL_NAN : static_cast<uint16_t>(round_off(bits_of(value), 16));
    }
    static float to(uint16_t bits) { return float_of(static_cast<uint32_t>(bits) << 16); }
};

struct HalfFormat {
    static uint16_t from(float value) {
        if (value != value) {
            return CANONICAL_NAN;
        }
        uint32_t bits = bits_of(value);
        uint32_t sign = bits >> 16 & 0x8000;
        uint32_t magnitude = bits & 0x7fffffff;
        uint32_t rounded;
        if (magnitude >= 0x47800000) {  // 2^16 and more, infinity included
            rounded = 0x7c00;
        } else if (magnitude >= 0x38800000) {  // normal: from 2^-14 on
            // The exponent's bias goes from 127 to 15; a carry out of the mantissa
            // raises the exponent, up to infinity.
            rounded = round_off(magnitude - (112u << 23), 13);
        } else if (magnitude > 0x33000000) {  // more than half of the smallest, 2^-24
            unsigned exponent = magnitude >> 23;
            uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
            rounded = round_off(mantissa, 126 - exponent);
        } else {
            rounded = 0;
        }
        return static_cast<uint16_t>(sign | rounded);
    }

    static float to(uint16_t bits) {
        uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
        uint32_t exponent = bits >> 10 & 31;
        uint32_t mantissa = bits & 0x3ff;
        if (exponent == 0) {
            float value = static_cast<float>(mantissa) * 0x1p-24f;  // zero or subnormal; exact
            return sign != 0 ? -value : value;
        }
        if (exponent == 31) {
            return float_of(sign | 0x7f800000 | mantissa << 13);
        }
        return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
    }
};

// Trivial to construct, so that a shared array or a union can hold it.
template <class Format>
struct alignas(2) Float16 {
    uint16_t bits;

    Float16() = default;
    Float16(float value) : bits(Format::from(value)) {}
    Float16(double value) : bits(Format::from(static_cast<float>(value))) {}
    Float16(int value) : bits(Format::from(static_cast<float>(value))) {}
    operator float() const { return Format::to(bits); }

    static Float16 from_bits(uint16_t bits) {
        Float16 value;
        value.bits = bits;
        return value;
    }

    // A float holds the sum, product or quotient of two with enough bits to spare
    // that rounding twice is rounding once.
    friend Float16 operator+(Float16 a, Float16 b) { return float(a) + float(b); }
    friend Float16 operator-(Float16 a, Float16 b) { return float(a) - float(b); }
    friend Float16 operator*(Float16 a, Float16 b) { return float(a) * float(b); }
    friend Float16 operator/(Float16 a, Float16 b) { return float(a) / float(b); }
    friend Float16 operator-(Float16 a) { return from_bits(a.bits ^ 0x8000); }
    Float16& operator+=(Float16 b) { return *this = *this + b; }
    Float16& operator-=(Float16 b) { return *this = *this - b; }
    Float16& operator*=(Float16 b) { return *this = *this * b; }
    Float16& operator/=(Float16 b) { return *this = *this / b; }
    friend bool operator==(Float16 a, Float16 b) { return float(a) == float(b); }
    friend bool operator!=(Float16 a, Float16 b) { return float(a) != float(b); }
    friend bool operator<(Float16 a, Float16 b) { return float(a) < float(b); }
    friend bool operator<=(Float16 a, Float16 b) { return float(a) <= float(b); }
    friend bool operator>(Float16 a, Float16 b) { return float(a) > float(b); }
    friend bool operator>=(Float16 a, Float16 b) { return float(a) >= float(b); }
};

template <class Scalar>
struct alignas(4) Float16x2 {
    Scalar x, y;
};

}  // namespace emulator

using __half = emulator::Float16<emulator::HalfFormat>;
using half = __half;
using __half2 = emulator::Float16x2<__half>;
using half2 = __half2;
using __nv_bfloat16 = emulator::Float16<emulator::Bf16Format>;
using __nv_bfloat162 = emulator::Float16x2<__nv_bfloat16>;

inline float __half2float(__half a) { return a; }
inline __half __float2half(float a) { return a; }
inline __half __float2half_rn(float a) { return a; }
inline __half __ushort_as_half(unsigned short bits) { return __half::from_bits(bits); }
inline unsigned short __half_as_ushort(__half a) { return a.bits; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float22half2_rn(float2 a) { return {a.x, a.y}; }
inline __half2 __float2half2_rn(float a) { return {a, a}; }
inline float2 __half22float2(__half2 a) { return {a.x, a.y}; }
inline __half __low2half(__half2 a) { return a.x; }
inline __half __high2half(__half2 a) { return a.y; }
inline float __low2float(__half2 a) { return a.x; }
inline float __high2float(__half2 a) { return a.y; }

inline float __bfloat162float(__nv_bfloat16 a) { return a; }
inline __nv_bfloat16 __float2bfloat16(float a) { return a; }
inline __nv_bfloat16 __float2bfloat16_rn(float a) { return a; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    return __nv_bfloat16::from_bits(bits);
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 a) { return a.bits; }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 a) { return {a.x, a.y}; }
inline __nv_bfloat162 __float2bfloat162_rn(float a) { return {a, a}; }
inline float2 __bfloat1622float2(__nv_bfloat162 a) { return {a.x, a.y}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 a) { return a.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 a) { return a.y; }
inline float __low2float(__nv_bfloat162 a) { return a.x; }
inline float __high2float(__nv_bfloat162 a) { return a.y; }
