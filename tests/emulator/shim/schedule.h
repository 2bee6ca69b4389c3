// Which thread of a block goes on, and in which order the blocks come.
#pragma once

#include <cstdint>

namespace emulator {

constexpr unsigned WARP = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned MAX_WARPS = MAX_THREADS / WARP;

// The same numbers as in src/lib.rs.
enum class Order : uint32_t {
    Forward = 0,  // the next thread, in ascending order
    Reverse = 1,  // the same downwards
    Random = 2,   // any thread
    Greedy = 3,   // the warp of highest priority, as far as it goes; priorities change at barriers
};

// A threadbare generator (xorshift): schedules need variety and repeatability.
class Random {
public:
    // Streams of nearby seeds have nothing in common.
    void seed(uint64_t seed, uint64_t stream);
    uint64_t next();
    unsigned below(unsigned bound) { return static_cast<unsigned>(next() % bound); }

private:
    uint64_t state_ = 1;
};

// The threads that can go on.
class Ready {
public:
    void reset(unsigned threads);
    void insert(unsigned thread) { warps_[thread / WARP] |= 1u << thread % WARP; }
    void remove(unsigned thread) { warps_[thread / WARP] &= ~(1u << thread % WARP); }

    uint32_t lanes(unsigned warp) const { return warps_[warp]; }

    // The first one at `from` or after it, or before it, around the end; -1: none.
    int upwards(unsigned from) const;
    int downwards(unsigned from) const;

private:
    uint32_t warps_[MAX_WARPS];
    unsigned count_ = 0;
};

class Schedule {
public:
    Schedule(Order order, uint64_t seed) : order_(order), seed_(seed) {}

    void start_block(unsigned threads, uint64_t block);

    // The block at this place of the order among `count`.
    uint64_t block(uint64_t place, uint64_t count) const;

    // Who goes on after `thread`; -1: nobody can.
    int next(const Ready& ready, unsigned thread);

    int first(const Ready& ready);

    // Whether the last thread to reach a barrier lets others go first.
    bool yields_at_barriers() const { return order_ == Order::Random || order_ == Order::Greedy; }

    // All threads of the block have met.
    void met();

    // Whether an asynchronous copy arrives at once instead of at its wait.
    bool copies_early();

private:
    void shuffle_priorities();

    Order order_;
    uint64_t seed_;
    Random random_;
    unsigned threads_ = 0;
    uint8_t priorities_[MAX_WARPS];
};

}  // namespace emulator
