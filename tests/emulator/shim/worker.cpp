#include "worker.h"

#include <cstdio>
#include <cstring>

#include "fault.h"
#include "sanitizer.h"

namespace emulator {

thread_local Thread* current = nullptr;

namespace {

thread_local Worker* serving = nullptr;

std::string place(Site site) {
    const char* slash = std::strrchr(site.file, '/');
    return std::string(slash == nullptr ? site.file : slash + 1) + ":" + std::to_string(site.line);
}

std::string triple(Index index) {
    return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
           std::to_string(index.z) + ")";
}

}  // namespace

Worker* Worker::of_this_thread() { return serving; }

Worker::~Worker() { forget_fibers(); }

void Worker::forget_fibers() {
#ifdef EOSIN_EMULATOR_TSAN
    for (Fiber& fiber : fibers_) {
        __tsan_destroy_fiber(fiber.context.thread);
    }
#endif
    fibers_.clear();
}

std::string Worker::run(const Launch& launch) {
    kernel_ = launch.kernel;
    params_ = launch.params;
    threads_ = launch.threads;
    schedule_ = Schedule(launch.order, launch.seed);
    failure_.clear();
    if (!stacks_.ensure(threads_) || !shared_.start_launch(launch.shared)) {
        return std::string(kernel_->name) + ": no memory for the stacks of " +
               std::to_string(threads_) + " threads";
    }
    for (unsigned i = static_cast<unsigned>(fibers_.size()); i < threads_; ++i) {
        Fiber& fiber = fibers_.emplace_back();
        fiber.context.stack = stacks_.lowest(i);
        fiber.context.stack_size = stacks_.size(i);
#ifdef EOSIN_EMULATOR_TSAN
        fiber.context.thread = __tsan_create_fiber(0);
#endif
    }
#ifdef EOSIN_EMULATOR_TSAN
    outside_.thread = __tsan_get_current_fiber();
#endif
    catch_faults();
    serving = this;
    Index grid = launch.grid;
    uint64_t count = uint64_t{grid.x} * grid.y * grid.z;
    for (uint64_t i = 0; i < count && failure_.empty(); ++i) {
        uint64_t number = schedule_.block(i, count);
        Index block = {static_cast<unsigned>(number % grid.x),
                       static_cast<unsigned>(number / grid.x % grid.y),
                       static_cast<unsigned>(number / grid.x / grid.y)};
        run_block(launch, block, number);
    }
    serving = nullptr;
    if (!failure_.empty()) {
        // Fibers were left in the middle: the sanitizers' notes of their stacks
        // are of no use to the next launch.
        sanitizer::allow(stacks_.reservation(), stacks_.reservation_size());
        forget_fibers();
    }
    return failure_;
}

void Worker::run_block(const Launch& launch, Index block, uint64_t number) {
    alive_ = threads_;
    ready_.reset(threads_);
    barrier_ = {};
    std::memset(named_, 0, sizeof named_);
    for (unsigned warp = 0; warp * WARP < threads_; ++warp) {
        unsigned lanes = threads_ - warp * WARP;
        warps_[warp].alive = lanes >= WARP ? ~0u : (1u << lanes) - 1;
        warps_[warp].count = 0;
    }
    for (unsigned i = 0; i < threads_; ++i) {
        Fiber& fiber = fibers_[i];
        static_cast<Thread&>(fiber) = {
            {i, 0, 0}, block, {threads_, 1, 1}, launch.grid, i % WARP, i / WARP};
        fiber.index = i;
        fiber.waiting = Waiting::Nowhere;
        fiber.operation = nullptr;
        fiber.group = 0;
        fiber.copies.clear();
        prepare(fiber.context, fiber_main);
        ready_.insert(i);
    }
    schedule_.start_block(threads_, number);
    {
        sanitizer::Unwatched unwatched;
        shared_.start_block();
    }
    // Blocks are ordered for ThreadSanitizer, since they share stacks and shared
    // memory: it looks for races within a block.
    sanitizer::release(&started_);
    Fiber& first = fibers_[static_cast<unsigned>(schedule_.first(ready_))];
    current = &first;
    switch_context(outside_, first.context, false);
    current = nullptr;
    sanitizer::acquire(&ended_);
    if (failure_.empty()) {
        sanitizer::Unwatched unwatched;
        std::string damage = shared_.damage();
        if (!damage.empty()) {
            failure_ = std::string(kernel_->name) + ", block " + triple(block) + ": " + damage;
        }
    }
}

void Worker::fiber_main() {
    Worker& worker = *serving;
    entered(worker.running().context);
    sanitizer::acquire(&worker.started_);
    worker.kernel_->run(worker.params_);
    worker.finish();
}

// The end of a thread. Never returns: its context is not switched to again.
void Worker::finish() {
    Fiber& self = running();
    sanitizer::release(&ended_);
    self.waiting = Waiting::Returned;
    ready_.remove(self.index);
    --alive_;
    warps_[self.warp].alive &= ~(1u << self.lane);
    require_all_alive(self);
    if (alive_ == 0) {
        leave();
    }
    go_on();
    __builtin_unreachable();
}

// Nobody may wait for a thread that has returned. Hardware lets some of it pass;
// CUDA's rules do not.
void Worker::require_all_alive(const Fiber& returned) {
    const Warp& warp = warps_[returned.warp];
    for (unsigned i = 0; i < warp.count; ++i) {
        const Collective& pending = warp.collectives[i];
        if (pending.mask >> returned.lane & 1) {
            fail(pending.site, (std::string("the thread returns while others of its warp wait for "
                                            "it in ") +
                                pending.operation)
                                  );
        }
    }
    if (barrier_.arrived != 0) {
        fail(barrier_.site, ("the thread returns while " + std::to_string(barrier_.arrived) +
                             " others wait in " + barrier_.operation)
                               );
    }
}

void Worker::leave() {
    Context& context = running().context;
    current = nullptr;
    switch_context(context, outside_, true);
    __builtin_unreachable();
}

void Worker::fail(Site site, const std::string& text) {
    const Fiber& self = running();
    failure_ = std::string(kernel_->name) + ", block " + triple(self.block) + ", thread " +
               std::to_string(self.index);
    if (site.file != nullptr) {
        failure_ += ", " + place(site);
    }
    failure_ += ": " + text;
    leave();
    __builtin_unreachable();
}

// ---- waiting

void Worker::wait(Waiting waiting, const char* operation, Site site) {
    Fiber& self = running();
    self.waiting = waiting;
    self.operation = operation;
    self.site = site;
    ready_.remove(self.index);
    go_on();
}

// Lets the schedule choose who runs, which may be the running thread.
void Worker::go_on() {
    Fiber& self = running();
    int next = schedule_.next(ready_, self.index);
    if (next < 0) {
        fail(self.waiting == Waiting::Returned ? Site{nullptr, 0} : self.site,
             "deadlock: " + who_waits());
    }
    Fiber& other = fibers_[static_cast<unsigned>(next)];
    if (&other != &self) {
        current = &other;
        switch_context(self.context, other.context, self.waiting == Waiting::Returned);
    }
}

void Worker::wake(Fiber& fiber) {
    fiber.waiting = Waiting::Nowhere;
    ready_.insert(fiber.index);
}

// One thread of each place that somebody waits at.
std::string Worker::who_waits() const {
    std::string text;
    std::vector<Site> told;
    for (unsigned i = 0; i < threads_; ++i) {
        const Fiber& fiber = fibers_[i];
        if (fiber.waiting == Waiting::Returned) {
            continue;
        }
        bool known = false;
        for (Site site : told) {
            known = known || (site.line == fiber.site.line && site.file == fiber.site.file);
        }
        if (!known) {
            told.push_back(fiber.site);
            text += (text.empty() ? "thread " : ", thread ") + std::to_string(i) + " waits in " +
                    fiber.operation + " at " + place(fiber.site);
        }
    }
    return text;
}

// ---- barriers

int Worker::block_barrier(const char* operation, Vote vote, int predicate, Site site) {
    Fiber& self = running();
    if (alive_ < threads_) {
        fail(site, (std::string(operation) + " after " + std::to_string(threads_ - alive_) +
                    " threads of the block have returned")
                      );
    }
    if (barrier_.arrived == 0) {
        barrier_.operation = operation;
        barrier_.vote = vote;
        barrier_.site = site;
    } else if (barrier_.site.line != site.line || barrier_.vote != vote ||
               std::strcmp(barrier_.site.file, site.file) != 0) {
        fail(site, (std::string("divergent barrier: ") + operation + " while others wait in " +
                    barrier_.operation + " at " + place(barrier_.site))
                      );
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
    unsigned count = 0;
    if (barrier_.vote != Vote::None) {
        for (unsigned i = 0; i < threads_; ++i) {
            count += fibers_[i].predicate != 0;
        }
    }
    int answer = 0;
    switch (barrier_.vote) {
        case Vote::None:
            break;
        case Vote::Count:
            answer = static_cast<int>(count);
            break;
        case Vote::And:
            answer = count == threads_;
            break;
        case Vote::Or:
            answer = count != 0;
            break;
    }
    for (unsigned i = 0; i < threads_; ++i) {
        fibers_[i].predicate = answer;
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
        fail(site, ("named barrier " + std::to_string(id) + " of " + std::to_string(threads) +
                    " threads: wants an id from 1 to 15 and whole warps of the block")
                      );
    }
    NamedBarrier& barrier = named_[id];
    if (barrier.arrived != 0 && barrier.threads != threads) {
        fail(site, ("named barrier " + std::to_string(id) + " of " + std::to_string(threads) +
                    " threads, but others wait for " + std::to_string(barrier.threads))
                      );
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

// ---- warps

void Worker::warp_collective(uint32_t mask, const char* operation, void* argument, Serve serve_all,
                             Site site) {
    Fiber& self = running();
    Warp& warp = warps_[self.warp];
    char text[256];
    if ((mask >> self.lane & 1) == 0) {
        std::snprintf(text, sizeof text, "%s: the mask %08x leaves out the calling lane %u",
                      operation, mask, self.lane);
        fail(site, text);
    }
    if ((mask & ~warp.alive) != 0) {
        std::snprintf(text, sizeof text,
                      "%s: the mask %08x names lanes that have returned or do not exist (%08x)",
                      operation, mask, mask & ~warp.alive);
        fail(site, text);
    }
    unsigned i = 0;
    while (i < warp.count && warp.collectives[i].mask != mask) {
        const Collective& pending = warp.collectives[i];
        if ((pending.mask & mask) != 0) {
            std::snprintf(text, sizeof text,
                          "%s with mask %08x while lanes of it wait in %s at %s with mask %08x",
                          operation, mask, pending.operation, place(pending.site).c_str(),
                          pending.mask);
            fail(site, text);
        }
        ++i;
    }
    if (i == warp.count) {
        if (warp.count == Warp::MOST) {
            fail(site, "the warp has diverged into more groups than the emulator follows");
        }
        Collective& fresh = warp.collectives[warp.count++];
        fresh.mask = mask;
        fresh.arrived = 0;
        fresh.operation = operation;
        fresh.site = site;
        fresh.serve = serve_all;
    }
    Collective& collective = warp.collectives[i];
    if (collective.serve != serve_all || collective.site.line != site.line ||
        std::strcmp(collective.operation, operation) != 0) {
        fail(site, (std::string("divergent warp: ") + operation + " while other lanes wait in " +
                    collective.operation + " at " + place(collective.site))
                      );
    }
    // Of the collectives only __syncwarp orders memory.
    bool orders = serve_all == nullptr;
    if (orders) {
        sanitizer::release(&warp);
    }
    collective.arguments[self.lane] = argument;
    collective.arrived |= 1u << self.lane;
    if (collective.arrived == mask) {
        serve(warp, i, self);
    } else {
        wait(Waiting::InWarp, operation, site);
    }
    if (orders) {
        sanitizer::acquire(&warp);
    }
}

void Worker::serve(Warp& warp, unsigned index, const Fiber& last) {
    Collective& done = warp.collectives[index];
    if (done.serve != nullptr) {
        // Lanes hand each other registers, which are no memory.
        sanitizer::Unwatched unwatched;
        done.serve(done.arguments, done.mask);
    }
    for (uint32_t lanes = done.mask; lanes != 0; lanes &= lanes - 1) {
        Fiber& fiber = fibers_[last.warp * WARP + static_cast<unsigned>(__builtin_ctz(lanes))];
        if (fiber.index != last.index) {
            wake(fiber);
        }
    }
    --warp.count;
    if (index != warp.count) {
        done = warp.collectives[warp.count];
    }
}

// ---- shared memory

void* Worker::shared_array(const void* tag, const char* name, size_t bytes, size_t alignment,
                           Site site) {
    std::string why;
    void* array;
    {
        sanitizer::Unwatched unwatched;
        array = shared_.array(tag, name, bytes, alignment, why);
    }
    if (array == nullptr) {
        fail(site, why);
    }
    return array;
}

// ---- asynchronous copies

namespace {

void arrive(const AsyncCopy& copy) {
    sanitizer::writes(copy.to, copy.bytes);
    sanitizer::Unwatched unwatched;
    auto to = static_cast<unsigned char*>(copy.to);
    std::memcpy(to, copy.from, copy.from_bytes);
    std::memset(to + copy.from_bytes, 0, copy.bytes - copy.from_bytes);
}

}  // namespace

// The bytes may arrive at any time from now to the wait. Arriving late shows a
// wait that is missing; what was there before is lost at once, so that neither a
// reader that does not wait nor one that is not done with the old bytes can be
// lucky.
void Worker::async_copy(const AsyncCopy& copy, Site site) {
    Fiber& self = running();
    auto misaligned = [&](const void* address) {
        return reinterpret_cast<uintptr_t>(address) % copy.bytes != 0;
    };
    if (misaligned(copy.to) || misaligned(copy.from)) {
        fail(site, ("cp.async of " + std::to_string(copy.bytes) + " bytes: its " +
                    (misaligned(copy.to) ? "destination" : "source") + " is not aligned to them")
                      );
    }
    if (copy.from_bytes > copy.bytes) {
        fail(site, "cp.async: more bytes of source than it copies");
    }
    if (!shared_.contains(copy.to, copy.bytes)) {
        fail(site, "cp.async: its destination is outside of the block's shared memory");
    }
    if (sanitizer::forbidden(copy.from, copy.from_bytes) != nullptr) {
        fail(site, "cp.async: its source is outside of its buffer");
    }
    sanitizer::reads(copy.from, copy.from_bytes);
    if (schedule_.copies_early()) {
        arrive(copy);
        return;
    }
    sanitizer::writes(copy.to, copy.bytes);
    {
        sanitizer::Unwatched unwatched;
        std::memset(copy.to, 0xff, copy.bytes);
    }
    self.copies.push_back(copy);
    self.copies.back().group = self.group;
}

void Worker::async_commit() { ++running().group; }

void Worker::async_wait(unsigned groups_in_flight) {
    Fiber& self = running();
    size_t kept = 0;
    for (const AsyncCopy& copy : self.copies) {
        // Copies of the open group stay, unless everything is waited for at the end.
        if (copy.group + groups_in_flight < self.group) {
            arrive(copy);
        } else {
            self.copies[kept++] = copy;
        }
    }
    self.copies.resize(kept);
}

}  // namespace emulator
