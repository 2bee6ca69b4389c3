// CUDA's keywords and built-in variables, and how a kernel is found by name.
#pragma once

#include <cstring>
#include <type_traits>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__
#define __builtin_assume(condition) static_cast<void>(0)

#define threadIdx (::emulator::current->thread)
#define blockIdx (::emulator::current->block)
#define blockDim (::emulator::current->block_size)
#define gridDim (::emulator::current->grid_size)

constexpr int warpSize = 32;

using uint = unsigned int;
using ushort = unsigned short;

// `SHARED(float, tile, [32][33]);`: one array per block and declaration, as with
// __shared__; a declaration in a template is one per instance.
#define SHARED(type, name, extents)                                                       \
    using name##_shared = type extents;                                                   \
    static char name##_tag;                                                               \
    name##_shared& name = *static_cast<name##_shared*>(::emulator::static_shared(         \
        &name##_tag, #name, sizeof(name##_shared), alignof(name##_shared), ::emulator::here()))

// `DYN_SHARED(bytes);`: what the launch asked for, as unsigned char*.
#define DYN_SHARED(name) unsigned char* const name = ::emulator::dynamic_shared()

namespace emulator {

// A kernel takes one plain struct by value; its launch brings the bytes.
template <auto kernel>
struct Export;

template <class Params, void (*kernel)(Params)>
struct Export<kernel> {
    static_assert(std::is_trivially_copyable_v<Params>, "a kernel's parameters are a plain struct");
    static_assert(sizeof(Params) % 8 == 0, "a kernel's parameters fill multiples of 8 bytes");

    // The bytes are aligned to 8; the struct may want more.
    static void run(const void* bytes) {
        union Copy {
            char unset;
            Params params;
        } copy = {0};
        std::memcpy(&copy.params, bytes, sizeof(Params));
        kernel(copy.params);
    }
    static constexpr Kernel entry(const char* name) { return {name, run, sizeof(Params)}; }
};

}  // namespace emulator

[[noreturn]] inline void __trap(emulator::Site site = emulator::here()) {
    emulator::fail(site, "__trap()");
}
