#include "worker.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "fault.h"
#include "sanitizer.h"

namespace emulator {

thread_local Thread* current = nullptr;

namespace {

thread_local Worker* serving = nullptr;

std::string triple(Index index) {
    return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
           std::to_string(index.z) + ")";
}

}  // namespace

std::string place(Site site) {
    const char* slash = std::strrchr(site.file, '/');
    return std::string(slash == nullptr ? site.file : slash + 1) + ":" + std::to_string(site.line);
}

bool same(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

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
    mbarriers_.clear();
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
        fiber.products.clear();
        fiber.committed = 0;
        fiber.sums.clear();
        fiber.fenced = false;
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
    for (const Mbarrier& barrier : mbarriers_) {
        if (failure_.empty() && !barrier.boxes.empty()) {
            failure_ = std::string(kernel_->name) + ", block " + triple(block) +
                       ": it ends while bytes are on their way to its shared memory";
        }
    }
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
        if ((pending.mask >> returned.lane & 1) != 0) {
            fail(pending.site, "the thread returns while others of its warp wait for it in %s",
                 pending.operation);
        }
    }
    if (barrier_.arrived != 0) {
        fail(barrier_.site, "the thread returns while %u others wait in %s", barrier_.arrived,
             barrier_.operation);
    }
}

// To the launching context, for good.
void Worker::leave() {
    Context& context = running().context;
    current = nullptr;
    switch_context(context, outside_, true);
    __builtin_unreachable();
}

void Worker::fail(Site site, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfail(site, format, arguments);
}

void Worker::vfail(Site site, const char* format, va_list arguments) {
    const Fiber& self = running();
    char text[512];
    std::vsnprintf(text, sizeof text, format, arguments);
    failure_ = std::string(kernel_->name) + ", block " + triple(self.block) + ", thread " +
               std::to_string(self.index);
    if (site.file != nullptr) {
        failure_ += ", " + place(site);
    }
    failure_ += std::string(": ") + text;
    leave();
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
        bool returned = self.waiting == Waiting::Returned;
        fail(returned ? Site{nullptr, 0} : self.site, "deadlock: %s", who_waits().c_str());
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
            known = known || same(site, fiber.site);
        }
        if (!known) {
            told.push_back(fiber.site);
            text += (text.empty() ? "thread " : ", thread ") + std::to_string(i) + " waits in " +
                    fiber.operation + " at " + place(fiber.site);
        }
    }
    return text;
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
        fail(site, "%s", why.c_str());
    }
    return array;
}

}  // namespace emulator
