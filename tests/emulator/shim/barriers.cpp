// Barriers of a block.
#include "worker.h"

#include <cstring>

#include "sanitizer.h"

namespace emulator {

namespace {

int answer(Vote vote, unsigned yes, unsigned threads) {
    switch (vote) {
        case Vote::None:
            return 0;
        case Vote::Count:
            return static_cast<int>(yes);
        case Vote::And:
            return yes == threads;
        case Vote::Or:
            return yes != 0;
    }
    return 0;
}

}  // namespace

int Worker::block_barrier(const char* operation, Vote vote, int predicate, Site site) {
    Fiber& self = running();
    if (alive_ < threads_) {
        fail(site, "%s after %u threads of the block have returned", operation, threads_ - alive_);
    }
    if (barrier_.arrived == 0) {
        barrier_.operation = operation;
        barrier_.vote = vote;
        barrier_.site = site;
    } else if (barrier_.vote != vote || !same(barrier_.site, site)) {
        fail(site, "divergent barrier: %s while others wait in %s at %s", operation,
             barrier_.operation, place(barrier_.site).c_str());
    }
    const char* tag = &barrier_.tags[barrier_.phase % 2];
    sanitizer::release(tag);
    self.predicate = predicate != 0;
    self.operation = operation;
    self.site = site;
    if (++barrier_.arrived == threads_) {
        release_block_barrier();
        if (schedule_.yields_at_barriers()) {
            go_on();
        }
    } else {
        wait(Waiting::AtBlockBarrier, operation, site);
    }
    sanitizer::acquire(tag);
    return self.predicate;
}

void Worker::release_block_barrier() {
    unsigned yes = 0;
    for (unsigned i = 0; i < threads_; ++i) {
        yes += fibers_[i].predicate != 0;
    }
    for (unsigned i = 0; i < threads_; ++i) {
        fibers_[i].predicate = answer(barrier_.vote, yes, threads_);
        if (fibers_[i].waiting == Waiting::AtBlockBarrier) {
            wake(fibers_[i]);
        }
    }
    barrier_.arrived = 0;
    ++barrier_.phase;
    schedule_.met();
}

void Worker::named_barrier(int id, unsigned threads, bool waits, Site site) {
    if (id < 1 || id >= NAMED_BARRIERS || threads == 0 || threads % WARP != 0 ||
        threads > threads_) {
        fail(site,
             "named barrier %d of %u threads: wants an id from 1 to 15 and whole warps of the block",
             id, threads);
    }
    NamedBarrier& barrier = named_[id];
    if (barrier.arrived != 0 && barrier.threads != threads) {
        fail(site, "named barrier %d of %u threads, but others wait for %u", id, threads,
             barrier.threads);
    }
    const char* tag = &barrier.tags[barrier.phase % 2];
    sanitizer::release(tag);
    barrier.threads = threads;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        ++barrier.phase;
        for (unsigned i = 0; i < threads_; ++i) {
            if (fibers_[i].waiting == Waiting::AtNamedBarrier && fibers_[i].barrier == id) {
                wake(fibers_[i]);
            }
        }
    } else if (waits) {
        running().barrier = id;
        wait(Waiting::AtNamedBarrier, "a named barrier", site);
    }
    if (waits) {
        sanitizer::acquire(tag);
    }
}

}  // namespace emulator
