#include "schedule.h"

#include <algorithm>
#include <numeric>

namespace emulator {

void Random::seed(uint64_t seed, uint64_t stream) {
    state_ = (seed + 1) * 0x9e3779b97f4a7c15ull ^ (stream + 1) * 0xd1b54a32d192ed03ull;
    if (state_ == 0) {
        state_ = 1;
    }
    next();
    next();
}

uint64_t Random::next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ >> 11;  // the low bits are the weakest
}

void Ready::reset(unsigned threads) {
    count_ = (threads + WARP - 1) / WARP;
    std::fill(warps_, warps_ + count_, 0);
}

int Ready::upwards(unsigned from) const {
    unsigned start = from / WARP;
    uint32_t lanes = warps_[start] & ~0u << from % WARP;
    // The warp of `from` comes twice: its upper lanes first, its lower ones last.
    for (unsigned step = 0; step <= count_; ++step) {
        unsigned warp = (start + step) % count_;
        lanes = step == 0 ? lanes : warps_[warp];
        if (lanes != 0) {
            return static_cast<int>(warp * WARP) + __builtin_ctz(lanes);
        }
    }
    return -1;
}

int Ready::downwards(unsigned from) const {
    unsigned start = from / WARP;
    uint32_t lanes = warps_[start] & ~0u >> (WARP - 1 - from % WARP);
    for (unsigned step = 0; step <= count_; ++step) {
        unsigned warp = (start + count_ - step % count_) % count_;
        lanes = step == 0 ? lanes : warps_[warp];
        if (lanes != 0) {
            return static_cast<int>(warp * WARP + WARP - 1) - __builtin_clz(lanes);
        }
    }
    return -1;
}

void Schedule::start_block(unsigned threads, uint64_t block) {
    threads_ = threads;
    random_.seed(seed_, block);
    unsigned warps = (threads + WARP - 1) / WARP;
    std::iota(priorities_, priorities_ + warps, uint8_t{0});
    if (order_ == Order::Greedy) {
        shuffle_priorities();
    }
}

void Schedule::shuffle_priorities() {
    for (unsigned left = (threads_ + WARP - 1) / WARP; left > 1; --left) {
        std::swap(priorities_[left - 1], priorities_[random_.below(left)]);
    }
}

uint64_t Schedule::block(uint64_t place, uint64_t count) const {
    switch (order_) {
        case Order::Forward:
            return place;
        case Order::Reverse:
            return count - 1 - place;
        default:
            break;
    }
    // A walk with a step that has no divisor in common with the count comes to
    // every block once. Steps below 2^31 cannot overflow: no grid that finishes
    // here has as many as 2^32 blocks, and launch() refuses one.
    Random random;
    random.seed(seed_, ~uint64_t{0});
    uint64_t start = random.next() % count;
    uint64_t step = 1 + random.next() % std::min<uint64_t>(count, 1u << 31);
    while (std::gcd(step, count) != 1) {
        ++step;
    }
    return (start + place * step) % count;
}

int Schedule::next(const Ready& ready, unsigned thread) {
    switch (order_) {
        case Order::Forward:
            return ready.upwards((thread + 1) % threads_);
        case Order::Reverse:
            return ready.downwards((thread + threads_ - 1) % threads_);
        case Order::Random:
            return ready.upwards(random_.below(threads_));
        case Order::Greedy:
            break;
    }
    for (unsigned place = 0; place < (threads_ + WARP - 1) / WARP; ++place) {
        unsigned warp = priorities_[place];
        uint32_t lanes = ready.lanes(warp);
        if (lanes != 0) {
            // The first at or after a random lane, around the end.
            unsigned start = random_.below(WARP);
            uint32_t after = lanes & ~0u << start;
            return static_cast<int>(warp * WARP) + __builtin_ctz(after != 0 ? after : lanes);
        }
    }
    return -1;
}

int Schedule::first(const Ready& ready) {
    // Forward starts with thread 0 and Reverse with the last one.
    return next(ready, order_ == Order::Forward ? threads_ - 1 : 0);
}

void Schedule::met() {
    if (order_ == Order::Greedy) {
        shuffle_priorities();
    }
}

bool Schedule::copies_early() { return order_ == Order::Random && random_.next() % 2 == 0; }

}  // namespace emulator
