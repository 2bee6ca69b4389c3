// Barriers, shuffles, votes and reductions.
//
// Each lane leaves what it brings on its own stack; the last lane to come serves
// them all (see emulator::warp_collective).
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulator.h"

// The caller's line, for messages.
#define EOSIN_EMULATOR_SITE ::emulator::Site site = ::emulator::here()

inline void __syncthreads(EOSIN_EMULATOR_SITE) {
    emulator::block_barrier("__syncthreads", emulator::Vote::None, 0, site);
}
inline int __syncthreads_count(int predicate, EOSIN_EMULATOR_SITE) {
    return emulator::block_barrier("__syncthreads_count", emulator::Vote::Count, predicate, site);
}
inline int __syncthreads_and(int predicate, EOSIN_EMULATOR_SITE) {
    return emulator::block_barrier("__syncthreads_and", emulator::Vote::And, predicate, site);
}
inline int __syncthreads_or(int predicate, EOSIN_EMULATOR_SITE) {
    return emulator::block_barrier("__syncthreads_or", emulator::Vote::Or, predicate, site);
}
inline void __syncwarp(unsigned mask = ~0u, EOSIN_EMULATOR_SITE) {
    emulator::warp_collective(mask, "__syncwarp", nullptr, nullptr, site);
}

// The lanes that happen to be together. Every answer that holds the caller is
// allowed, so code that needs a certain one is wrong; this is the least.
inline unsigned __activemask() { return 1u << emulator::current->lane; }

namespace emulator {

inline unsigned take_lane(uint32_t& mask) {
    unsigned lane = static_cast<unsigned>(__builtin_ctz(mask));
    mask &= mask - 1;
    return lane;
}

struct Shuffle {
    uint64_t brought, taken;
    unsigned source;
};

// What a lane gets from one that does not take part is undefined; this is a NaN
// in 4 and 8 bytes, and an index that nobody can use.
constexpr uint64_t FROM_NOBODY = 0xfff5dead'fff5deadull;

inline void serve_shuffle(void* const* arguments, uint32_t mask) {
    for (uint32_t lanes = mask; lanes != 0;) {
        auto& shuffle = *static_cast<Shuffle*>(arguments[take_lane(lanes)]);
        shuffle.taken = (mask >> shuffle.source & 1) != 0
                            ? static_cast<Shuffle*>(arguments[shuffle.source])->brought
                            : FROM_NOBODY;
    }
}

template <class T>
inline T shuffle(const char* operation, unsigned mask, T value, unsigned source, Site site) {
    static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4, "shuffles move numbers of 4 or 8 bytes");
    Shuffle own = {0, 0, source};
    std::memcpy(&own.brought, &value, sizeof value);
    warp_collective(mask, operation, &own, serve_shuffle, site);
    std::memcpy(&value, &own.taken, sizeof value);
    return value;
}

// Shuffles stay within aligned segments of `width` lanes, a power of two.
inline unsigned first_of_segment(int width) { return current->lane & ~unsigned(width - 1); }
inline unsigned last_of_segment(int width) { return current->lane | unsigned(width - 1); }

inline void require_width(int width, Site site) {
    if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
        fail(site, "a shuffle of width %d, wants a power of two up to 32", width);
    }
}

struct Ballot {
    uint32_t brought, answer;
};

inline void serve_ballot(void* const* arguments, uint32_t mask) {
    uint32_t answer = 0;
    for (uint32_t lanes = mask; lanes != 0;) {
        unsigned lane = take_lane(lanes);
        answer |= (static_cast<Ballot*>(arguments[lane])->brought != 0 ? 1u : 0u) << lane;
    }
    for (uint32_t lanes = mask; lanes != 0;) {
        static_cast<Ballot*>(arguments[take_lane(lanes)])->answer = answer;
    }
}

inline unsigned ballot(const char* operation, unsigned mask, int predicate, Site site) {
    Ballot own = {static_cast<uint32_t>(predicate != 0), 0};
    warp_collective(mask, operation, &own, serve_ballot, site);
    return own.answer;
}

struct Match {
    uint64_t brought;
    uint32_t answer;
};

// For each lane, the lanes that brought the same bits.
inline void serve_match(void* const* arguments, uint32_t mask) {
    for (uint32_t lanes = mask; lanes != 0;) {
        auto& own = *static_cast<Match*>(arguments[take_lane(lanes)]);
        own.answer = 0;
        for (uint32_t others = mask; others != 0;) {
            unsigned lane = take_lane(others);
            if (static_cast<Match*>(arguments[lane])->brought == own.brought) {
                own.answer |= 1u << lane;
            }
        }
    }
}

template <class T>
inline unsigned match(const char* operation, unsigned mask, T value, Site site) {
    static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4, "matches compare numbers of 4 or 8 bytes");
    Match own = {0, 0};
    std::memcpy(&own.brought, &value, sizeof value);
    warp_collective(mask, operation, &own, serve_match, site);
    return own.answer;
}

template <class T, T (*combine)(T, T)>
void serve_reduction(void* const* arguments, uint32_t mask) {
    uint32_t lanes = mask;
    T answer = *static_cast<T*>(arguments[take_lane(lanes)]);
    while (lanes != 0) {
        answer = combine(answer, *static_cast<T*>(arguments[take_lane(lanes)]));
    }
    for (lanes = mask; lanes != 0;) {
        *static_cast<T*>(arguments[take_lane(lanes)]) = answer;
    }
}

template <class T>
T sum(T a, T b) {
    return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b));  // wraps
}
template <class T>
T least(T a, T b) {
    return b < a ? b : a;
}
template <class T>
T most(T a, T b) {
    return a < b ? b : a;
}
inline unsigned both(unsigned a, unsigned b) { return a & b; }
inline unsigned either(unsigned a, unsigned b) { return a | b; }
inline unsigned differing(unsigned a, unsigned b) { return a ^ b; }

template <class T, T (*combine)(T, T)>
T reduce(const char* operation, unsigned mask, T value, Site site) {
    warp_collective(mask, operation, &value, serve_reduction<T, combine>, site);
    return value;
}

}  // namespace emulator

// ---- shuffles: a lane whose source is outside of its segment keeps its own value

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, EOSIN_EMULATOR_SITE) {
    emulator::require_width(width, site);
    unsigned lane = emulator::first_of_segment(width) | unsigned(source & (width - 1));
    return emulator::shuffle("__shfl_sync", mask, value, lane, site);
}

template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                        EOSIN_EMULATOR_SITE) {
    emulator::require_width(width, site);
    unsigned lane = emulator::current->lane;
    bool inside = delta <= lane - emulator::first_of_segment(width);
    return emulator::shuffle("__shfl_up_sync", mask, value, inside ? lane - delta : lane, site);
}

template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                          EOSIN_EMULATOR_SITE) {
    emulator::require_width(width, site);
    unsigned lane = emulator::current->lane;
    bool inside = delta <= emulator::last_of_segment(width) - lane;
    return emulator::shuffle("__shfl_down_sync", mask, value, inside ? lane + delta : lane, site);
}

// Segments before its own are within reach here, by the documentation.
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, EOSIN_EMULATOR_SITE) {
    emulator::require_width(width, site);
    unsigned lane = emulator::current->lane;
    unsigned source = lane ^ unsigned(with);
    bool inside = source <= emulator::last_of_segment(width);
    return emulator::shuffle("__shfl_xor_sync", mask, value, inside ? source : lane, site);
}

// ---- votes and matches

inline unsigned __ballot_sync(unsigned mask, int predicate, EOSIN_EMULATOR_SITE) {
    return emulator::ballot("__ballot_sync", mask, predicate, site);
}
inline int __any_sync(unsigned mask, int predicate, EOSIN_EMULATOR_SITE) {
    return emulator::ballot("__any_sync", mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EOSIN_EMULATOR_SITE) {
    return emulator::ballot("__all_sync", mask, predicate, site) == mask;
}
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value, EOSIN_EMULATOR_SITE) {
    return emulator::match("__match_any_sync", mask, value, site);
}
template <class T>
inline unsigned __match_all_sync(unsigned mask, T value, int* all, EOSIN_EMULATOR_SITE) {
    *all = emulator::match("__match_all_sync", mask, value, site) == mask;
    return *all != 0 ? mask : 0;
}

// ---- reductions of integers

#define EOSIN_EMULATOR_REDUCTION(name, type, combine)                                    \
    inline type name(unsigned mask, type value, EOSIN_EMULATOR_SITE) {                   \
        return emulator::reduce<type, combine>(#name, mask, value, site);                \
    }

EOSIN_EMULATOR_REDUCTION(__reduce_add_sync, unsigned, emulator::sum<unsigned>)
EOSIN_EMULATOR_REDUCTION(__reduce_add_sync, int, emulator::sum<int>)
EOSIN_EMULATOR_REDUCTION(__reduce_min_sync, unsigned, emulator::least<unsigned>)
EOSIN_EMULATOR_REDUCTION(__reduce_min_sync, int, emulator::least<int>)
EOSIN_EMULATOR_REDUCTION(__reduce_max_sync, unsigned, emulator::most<unsigned>)
EOSIN_EMULATOR_REDUCTION(__reduce_max_sync, int, emulator::most<int>)
EOSIN_EMULATOR_REDUCTION(__reduce_and_sync, unsigned, emulator::both)
EOSIN_EMULATOR_REDUCTION(__reduce_or_sync, unsigned, emulator::either)
EOSIN_EMULATOR_REDUCTION(__reduce_xor_sync, unsigned, emulator::differing)

#undef EOSIN_EMULATOR_REDUCTION
