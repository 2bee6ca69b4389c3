// The state of one launch: a block at a time, a fiber for each of its threads.
//
// A worker serves one OS thread at a time and is kept for the next launch, so
// that stacks and shared memory are reserved once. All its blocks run on the OS
// thread that launched them.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "emulator.h"
#include "fiber.h"
#include "schedule.h"
#include "shared.h"

namespace emulator {

enum class Waiting : uint8_t { Nowhere, AtBlockBarrier, AtNamedBarrier, AtMbarrier, InWarp, Returned };

struct AsyncCopy {
    void* to;
    const void* from;
    unsigned bytes;
    unsigned from_bytes;  // the rest becomes zero
    unsigned group;
};

// A product of a warpgroup on its way, and the sums of the thread that such are added
// to. They are kept here until all were waited for.
struct WgmmaProduct {
    float* d;
    uint64_t a, b;
    const WgmmaForm* form;
    Site site;
};

struct Sums {
    float* d;
    std::vector<float> held;
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
    const void* mbarrier;  // that it waits at
    std::vector<WgmmaProduct> products;
    size_t committed;  // of the products
    std::vector<Sums> sums;
    bool fenced;  // since the last wait
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

// A part of a matrix of 16-bit elements on its way to shared memory, in lines of 64.
struct Box {
    // How a tensor map begins that no hardware reads; src/device/cuda/driver.rs too.
    static constexpr uint64_t PLAIN = 0x656f73696e6d6170;

    unsigned char* to;
    unsigned x, y, lines;
    struct {
        uint64_t address, length, lines, stride;  // elements of a line, bytes between lines
    } of;

    const void* from(unsigned line) const;
};

// A barrier in shared memory.
struct Mbarrier {
    const void* at;
    unsigned arrivals;  // of a phase
    unsigned missing;   // of this phase
    int64_t bytes;      // announced to this phase and not there
    unsigned phase;
    std::vector<Box> boxes;
    char tags[2];  // as a BlockBarrier's
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

// "file.cu:12".
std::string place(Site site);
bool same(Site a, Site b);

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
    void mbarrier_init(void* at, unsigned arrivals, Site site);
    void mbarrier_arrive(const void* at, unsigned bytes, Site site);
    void mbarrier_wait(const void* at, unsigned parity, Site site);
    void bring_box(void* to, const void* map, unsigned x, unsigned y, const void* at, Site site);
    void wgmma(float* d, uint64_t a, uint64_t b, const WgmmaForm& form, Site site);
    void wgmma_commit();
    void wgmma_wait(Site site);
    uint32_t shared_address(const void* address) const { return shared_.address(address); }
    void* shared_array(const void* tag, const char* name, size_t bytes, size_t alignment,
                       Site site);
    const SharedMemory& shared() const { return shared_; }
    const Stacks& stacks() const { return stacks_; }
    Fiber& running() { return *static_cast<Fiber*>(current); }

    // Ends the launch, in the name of the running thread, whose frames are left as
    // they are. What they own on the heap is lost: a few bytes of text.
    [[noreturn]] void fail(Site site, const char* format, ...)
        __attribute__((format(printf, 3, 4)));
    [[noreturn]] void vfail(Site site, const char* format, va_list arguments);

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
    Mbarrier& mbarrier(const void* at, Site site);
    void deliver(Mbarrier& barrier);
    void end_phase(Mbarrier& barrier);
    void read_operands(const Fiber& self, const WgmmaProduct& product);
    void add_product(void* const* lanes, size_t number);
    Collective& join(Warp& warp, uint32_t mask, const char* operation, Serve serve, Site site);
    void serve(Warp& warp, Collective& done, const Fiber& last);
    void require_all_alive(const Fiber& returned);
    [[noreturn]] void leave();
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
    std::deque<Mbarrier> mbarriers_;  // which keeps their tags where they are
    std::string failure_;
    char started_;  // ThreadSanitizer's tags of a block's start and end
    char ended_;
};

}  // namespace emulator
