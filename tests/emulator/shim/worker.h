// The state of one launch: a block at a time, a fiber for each of its threads.
//
// A worker serves one OS thread at a time and is kept for the next launch, so
// that stacks and shared memory are reserved once. All its blocks run on the OS
// thread that launched them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "emulator.h"
#include "fiber.h"
#include "schedule.h"
#include "shared.h"

namespace emulator {

enum class Waiting : uint8_t { Nowhere, AtBlockBarrier, AtNamedBarrier, InWarp, Returned };

struct AsyncCopy {
    void* to;
    const void* from;
    unsigned bytes;
    unsigned from_bytes;  // the rest becomes zero
    unsigned group;
};

// One CUDA thread.
struct Fiber : Thread {
    Context context;
    unsigned index;  // in the block
    Waiting waiting;
    const char* operation;  // what it waits in, or did last; null: nothing yet
    Site site;              // and where
    int barrier;            // the named barrier that it waits at
    int predicate;          // brought to a barrier that votes, then the answer
    unsigned group;         // of asynchronous copies that is open
    std::vector<AsyncCopy> copies;
};

// A warp collective that not all its lanes have come to.
struct Collective {
    uint32_t mask;
    uint32_t arrived;
    const char* operation;
    Site site;
    Serve serve;
    void* arguments[WARP];
};

struct Warp {
    // Collectives of lanes that diverged go on side by side.
    static constexpr unsigned MOST = 8;

    uint32_t alive;
    unsigned count;
    Collective collectives[MOST];
};

struct BlockBarrier {
    unsigned arrived;
    const char* operation;
    Vote vote;
    Site site;
    unsigned phase;
    // ThreadSanitizer's tags of even and odd phases: a thread that is already on
    // its way to the next barrier must not lend its accesses to this one.
    char tags[2];
};

struct NamedBarrier {
    unsigned arrived;
    unsigned threads;
    unsigned phase;
    char tags[2];
};

struct Launch {
    const Kernel* kernel;
    Index grid;
    unsigned threads;
    size_t shared;
    const void* params;
    Order order;
    uint64_t seed;
};

class Worker {
public:
    ~Worker();

    // Runs all blocks. What went wrong, or empty.
    std::string run(const Launch& launch);

    // The functions of emulator.h, for the running thread.
    int block_barrier(const char* operation, Vote vote, int predicate, Site site);
    void named_barrier(int id, unsigned threads, bool waits, Site site);
    void warp_collective(uint32_t mask, const char* operation, void* argument, Serve serve,
                         Site site);
    void async_copy(const AsyncCopy& copy, Site site);
    void async_commit();
    void async_wait(unsigned groups_in_flight);
    void* shared_array(const void* tag, const char* name, size_t bytes, size_t alignment, Site site);
    const SharedMemory& shared() const { return shared_; }
    const Stacks& stacks() const { return stacks_; }
    Fiber& running() { return *static_cast<Fiber*>(current); }

    // Ends the launch, in the name of the running thread. Its frames are left as
    // they are, so what they own on the heap is lost: a few bytes of text.
    [[noreturn]] void fail(Site site, const std::string& text);

    // The one that this OS thread runs; null outside a launch.
    static Worker* of_this_thread();

private:
    static constexpr int NAMED_BARRIERS = 16;

    void run_block(const Launch& launch, Index block, uint64_t number);
    [[noreturn]] static void fiber_main();
    [[noreturn]] void finish();

    void wait(Waiting waiting, const char* operation, Site site);
    void go_on();
    void wake(Fiber& fiber);
    void release_block_barrier();
    void serve(Warp& warp, unsigned collective, const Fiber& last);
    void require_all_alive(const Fiber& returned);
    void leave();
    std::string who_waits() const;
    void forget_fibers();

    const Kernel* kernel_ = nullptr;
    const void* params_ = nullptr;
    Schedule schedule_{Order::Forward, 0};
    Context outside_;
    Stacks stacks_;
    SharedMemory shared_;
    std::vector<Fiber> fibers_;
    unsigned threads_ = 0;
    unsigned alive_ = 0;
    Ready ready_;
    Warp warps_[MAX_WARPS];
    BlockBarrier barrier_;
    NamedBarrier named_[NAMED_BARRIERS];
    std::string failure_;
    char started_;  // ThreadSanitizer's tags of a block's start and end
    char ended_;
};

}  // namespace emulator
