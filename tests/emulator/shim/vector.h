// CUDA's vector types, with their sizes and alignments.
#pragma once

#define EOSIN_EMULATOR_VECTORS(type, name, pair_alignment, quad_alignment)                       \
    struct name##1 {                                                                             \
        type x;                                                                                  \
    };                                                                                           \
    struct alignas(pair_alignment) name##2 {                                                     \
        type x, y;                                                                               \
    };                                                                                           \
    struct name##3 {                                                                             \
        type x, y, z;                                                                            \
    };                                                                                           \
    struct alignas(quad_alignment) name##4 {                                                     \
        type x, y, z, w;                                                                         \
    };                                                                                           \
    constexpr name##1 make_##name##1(type x) { return {x}; }                                     \
    constexpr name##2 make_##name##2(type x, type y) { return {x, y}; }                          \
    constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }               \
    constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

EOSIN_EMULATOR_VECTORS(signed char, char, 2, 4)
EOSIN_EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
EOSIN_EMULATOR_VECTORS(short, short, 4, 8)
EOSIN_EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
EOSIN_EMULATOR_VECTORS(int, int, 8, 16)
EOSIN_EMULATOR_VECTORS(unsigned, uint, 8, 16)
EOSIN_EMULATOR_VECTORS(long long, longlong, 16, 16)
EOSIN_EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
EOSIN_EMULATOR_VECTORS(float, float, 8, 16)
EOSIN_EMULATOR_VECTORS(double, double, 16, 16)

#undef EOSIN_EMULATOR_VECTORS

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
