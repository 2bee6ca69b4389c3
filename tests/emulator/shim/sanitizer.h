// What the sanitizers must be told about fibers, barriers and shared memory.
// Every function is empty in a plain build.
//
// Only kernels are instrumented. The scheduler is not: its last frames never
// return, and what it does to a kernel's memory (poisoning it, carrying values
// between lanes) is no access of the kernel. Where the scheduler stands in for
// hardware that does access memory, it says so with `reads` and `writes`.
#pragma once

#include <cstddef>

#ifdef EOSIN_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EOSIN_EMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
void __tsan_read_range(void* address, unsigned long bytes);
void __tsan_write_range(void* address, unsigned long bytes);
}
#endif

namespace emulator::sanitizer {

#ifdef EOSIN_EMULATOR_TSAN

// What happened before a `release` of a tag is seen after an `acquire` of it.
inline void release(const void* tag) { __tsan_release(const_cast<void*>(tag)); }
inline void acquire(const void* tag) { __tsan_acquire(const_cast<void*>(tag)); }
inline void reads(const void* address, size_t bytes) {
    __tsan_read_range(const_cast<void*>(address), bytes);
}
inline void writes(void* address, size_t bytes) { __tsan_write_range(address, bytes); }

// While one lives, accesses of this thread (those of inlined or intercepted
// functions such as memset) are not looked at. Must not live across a switch.
struct Unwatched {
    Unwatched() {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    ~Unwatched() {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
    Unwatched(const Unwatched&) = delete;
};

#else

inline void release(const void*) {}
inline void acquire(const void*) {}
inline void reads(const void*, size_t) {}
inline void writes(void*, size_t) {}

struct Unwatched {
    Unwatched() {}  // not trivial, so that an unused variable is no warning
};

#endif

#ifdef EOSIN_EMULATOR_ASAN

inline void forbid(const void* address, size_t bytes) { __asan_poison_memory_region(address, bytes); }
inline void allow(const void* address, size_t bytes) { __asan_unpoison_memory_region(address, bytes); }
// The first forbidden byte, or null.
inline const void* forbidden(const void* address, size_t bytes) {
    return bytes == 0 ? nullptr : __asan_region_is_poisoned(const_cast<void*>(address), bytes);
}

#else

inline void forbid(const void*, size_t) {}
inline void allow(const void*, size_t) {}
inline const void* forbidden(const void*, size_t) { return nullptr; }

#endif

#ifdef EOSIN_EMULATOR_ASAN
constexpr bool checks_bounds = true;
#else
constexpr bool checks_bounds = false;
#endif
#if defined(EOSIN_EMULATOR_ASAN) || defined(EOSIN_EMULATOR_TSAN)
constexpr bool active = true;
#else
constexpr bool active = false;
#endif

}  // namespace emulator::sanitizer
