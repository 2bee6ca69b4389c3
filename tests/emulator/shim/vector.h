// CUDA's small vectors.
#pragma once

#define EOSIN_VECTOR2(T, name)                        \
    struct alignas(2 * sizeof(T)) name { T x, y; };   \
    inline name make_##name(T x, T y) { return {x, y}; }
#define EOSIN_VECTOR4(T, name)                                        \
    struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name {    \
        T x, y, z, w;                                                 \
    };                                                                \
    inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }

EOSIN_VECTOR2(float, float2)
EOSIN_VECTOR2(int, int2)
EOSIN_VECTOR2(unsigned, uint2)
EOSIN_VECTOR4(float, float4)
EOSIN_VECTOR4(int, int4)
EOSIN_VECTOR4(unsigned, uint4)
EOSIN_VECTOR4(unsigned char, uchar4)

#undef EOSIN_VECTOR2
#undef EOSIN_VECTOR4
