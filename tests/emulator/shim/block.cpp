#include "block.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "fiber.h"

namespace eosin_emulator {

thread_local Thread* current = nullptr;
thread_local Block block;

namespace {

constexpr unsigned MOST_THREADS = 1024;
constexpr size_t STACK = 64 << 10;
// The limits of sm_80 and later: what a kernel may declare, and what the host
// may ask for.
constexpr size_t MOST_STATIC = 48 << 10, MOST_SHARED = 227 << 10;
// Between and after the declarations of shared memory.
constexpr size_t GUARD = 64;
constexpr unsigned char GUARD_BYTE = 0xA5, POISON = 0xFF;

enum Order { FORWARD = 0, REVERSE = 1, RANDOM = 2, GREEDY = 3 };

struct Meeting {
    uint32_t mask, arrived;
    const char* what;
    int line;
    Serve serve;
    void* given[32];
};

struct Warp {
    uint32_t alive;
    unsigned priority;
    std::vector<Meeting> meetings;
};

struct Copy {
    void* to;
    const void* from;
    unsigned bytes, given;
    int group;
};

struct Shared {
    const void* tag;
    size_t start, bytes;
};

// One OS thread's machinery, kept from launch to launch.
struct Machine {
    Context scheduler;
    Context contexts[MOST_THREADS];
    Thread threads[MOST_THREADS];
    std::vector<Copy> copies[MOST_THREADS];
    int groups[MOST_THREADS];
    uint64_t ready[MOST_THREADS / 64];
    Warp warps[MOST_THREADS / 32];
    char* stacks = nullptr;
    std::vector<unsigned char> memory;
    // The part of `memory` from its first multiple of 128 on.
    unsigned char* shared = nullptr;
    std::vector<Shared> declared;
    size_t shared_used = 0, dynamic_start = 0, dynamic_bytes = 0;
    unsigned alive = 0, waiting = 0;
    const char* barrier_what = nullptr;
    int barrier_line = 0;
    Order order = FORWARD;
    uint64_t random = 0;
    bool late = true;
    bool failed = false;
    std::string message;
    const Kernel* kernel = nullptr;
    const void* params = nullptr;

    ~Machine() {
        if (stacks) munmap(stacks, MOST_THREADS * STACK);
    }

    uint64_t draw() {
        uint64_t z = random += 0x9E3779B97F4A7C15ull;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }

    void set_ready(unsigned i) {
        threads[i].state = State::Ready;
        ready[i / 64] |= uint64_t(1) << (i % 64);
    }

    // The first ready thread at or after `from`, or -1.
    int ready_from(unsigned from) const {
        for (unsigned word = from / 64; word < MOST_THREADS / 64; ++word) {
            uint64_t bits = ready[word];
            if (word == from / 64) bits &= ~uint64_t(0) << (from % 64);
            if (bits) return int(word * 64 + unsigned(__builtin_ctzll(bits)));
        }
        return -1;
    }

    int last_ready() const {
        for (int word = MOST_THREADS / 64 - 1; word >= 0; --word)
            if (ready[word]) return word * 64 + 63 - __builtin_clzll(ready[word]);
        return -1;
    }

    int pick() {
        switch (order) {
            case FORWARD: return ready_from(0);
            case REVERSE: return last_ready();
            case RANDOM: {
                int found = ready_from(unsigned(draw() % block.threads));
                return found >= 0 ? found : ready_from(0);
            }
            default: {
                // One warp as far as it goes: what skips a barrier gets far
                // ahead of those that it should have waited for.
                int best = -1;
                unsigned priority = 0;
                for (unsigned w = 0; w * 32 < block.threads; ++w) {
                    auto lanes = uint32_t(ready[w / 2] >> (w % 2 * 32));
                    if (lanes && (best < 0 || warps[w].priority > priority)) {
                        best = int(w * 32) + __builtin_ctz(lanes);
                        priority = warps[w].priority;
                    }
                }
                return best;
            }
        }
    }
};

Machine& machine() {
    static thread_local Machine m;
    return m;
}

void yield_to_scheduler() {
    Thread* me = current;
    Machine& m = machine();
    switch_context(m.contexts[me->index], m.scheduler);
    current = me;
}

void wait(State state, const char* what, int line) {
    current->waits_for = what;
    current->line = line;
    current->state = state;
    yield_to_scheduler();
}

void release_barrier(Machine& m) {
    m.waiting = 0;
    for (unsigned i = 0; i < block.threads; ++i)
        if (m.threads[i].state == State::AtBarrier) m.set_ready(i);
}

void finish(Machine& m, Warp& warp, size_t which, unsigned base, int self) {
    Meeting meeting = warp.meetings[which];
    warp.meetings.erase(warp.meetings.begin() + long(which));
    if (meeting.serve) meeting.serve(meeting.given, meeting.arrived);
    for (uint32_t lanes = meeting.arrived; lanes; lanes &= lanes - 1) {
        int lane = __builtin_ctz(lanes);
        if (lane != self) m.set_ready(base + unsigned(lane));
    }
}

void do_copy(const Copy& c) {
    memcpy(c.to, c.from, c.given);
    memset(static_cast<char*>(c.to) + c.given, 0, c.bytes - c.given);
}

// A thread's return: nobody may be left waiting for it.
void leave(Machine& m) {
    Thread* me = current;
    for (const Copy& c : m.copies[me->index]) do_copy(c);
    m.copies[me->index].clear();
    Warp& warp = m.warps[me->warp];
    warp.alive &= ~(1u << me->lane);
    for (const Meeting& meeting : warp.meetings)
        if (meeting.mask >> me->lane & 1)
            fail("returns while others wait for it in %s (line %d)", meeting.what, meeting.line);
    if (m.waiting > 0) fail("returns while others wait in %s (line %d)", m.barrier_what, m.barrier_line);
    me->state = State::Done;
    --m.alive;
}

void fiber_main() {
    Machine& m = machine();
    m.kernel->call(m.params);
    leave(m);
    yield_to_scheduler();
    __builtin_unreachable();
}

// Poisoned bytes between guards.
void guarded(Machine& m, size_t start, size_t bytes) {
    memset(m.shared + start - GUARD, GUARD_BYTE, GUARD);
    memset(m.shared + start, POISON, bytes);
    memset(m.shared + start + bytes, GUARD_BYTE, GUARD);
    m.shared_used = (start + bytes + GUARD + 127) / 128 * 128;
}

void check_guards(Machine& m) {
    auto intact = [&](size_t start) {
        for (size_t i = 0; i < GUARD; ++i)
            if (m.shared[start + i] != GUARD_BYTE) return false;
        return true;
    };
    bool fine = intact(m.dynamic_start - GUARD) && intact(m.dynamic_start + m.dynamic_bytes);
    for (const Shared& s : m.declared) fine = fine && intact(s.start - GUARD) && intact(s.start + s.bytes);
    if (fine) return;
    m.failed = true;
    m.message = std::string(m.kernel->name) + ": writes past the end of shared memory in block (" +
                std::to_string(block.index.x) + ", " + std::to_string(block.index.y) + ", " +
                std::to_string(block.index.z) + ")";
}

void run_block(Machine& m) {
    unsigned n = block.threads;
    m.alive = n;
    m.waiting = 0;
    memset(m.ready, 0, sizeof m.ready);
    m.declared.clear();
    m.dynamic_start = 128;
    m.shared_used = m.dynamic_start;
    guarded(m, m.dynamic_start, m.dynamic_bytes);
    for (unsigned w = 0; w * 32 < n; ++w) {
        unsigned lanes = n - w * 32;
        m.warps[w].alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
        m.warps[w].priority = unsigned(m.draw());
        m.warps[w].meetings.clear();
    }
    for (unsigned i = 0; i < n; ++i) {
        m.threads[i] = Thread{i, i % 32, i / 32, State::Ready, nullptr, 0, 0};
        m.copies[i].clear();
        m.groups[i] = 0;
        m.set_ready(i);
        prepare(m.contexts[i], m.stacks + i * STACK, STACK, fiber_main);
    }
    while (m.alive > 0 && !m.failed) {
        int next = m.pick();
        if (next < 0) {
            for (unsigned i = 0; i < n; ++i)
                if (m.threads[i].state != State::Done) {
                    const Thread& t = m.threads[i];
                    m.failed = true;
                    m.message = std::string(m.kernel->name) + ": deadlock, thread " + std::to_string(i) + " waits in " +
                                t.waits_for + " (line " + std::to_string(t.line) + ")";
                    return;
                }
        }
        // The thread runs until it waits, so it is not ready until woken.
        m.ready[next / 64] &= ~(uint64_t(1) << (next % 64));
        current = &m.threads[next];
        switch_context(m.scheduler, m.contexts[next]);
    }
    if (!m.failed) check_guards(m);
}

}  // namespace

void fail(const char* format, ...) {
    Machine& m = machine();
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    char where[256];
    snprintf(where, sizeof where, "%s: block (%u, %u, %u), thread %u ", m.kernel->name, block.index.x, block.index.y,
             block.index.z, current->index);
    m.failed = true;
    m.message = std::string(where) + text;
    yield_to_scheduler();
    abort();  // The scheduler never goes back to a block that failed.
}

void barrier(const char* what, int line) {
    Machine& m = machine();
    if (m.waiting == 0) {
        m.barrier_what = what;
        m.barrier_line = line;
    } else if (m.barrier_line != line) {
        fail("is in %s at line %d while others wait at line %d", what, line, m.barrier_line);
    }
    if (m.alive < block.threads) fail("waits in %s (line %d) for threads that have returned", what, line);
    if (++m.waiting == m.alive) {
        release_barrier(m);
        // Not always the first to go on.
        m.set_ready(current->index);
        yield_to_scheduler();
    } else {
        wait(State::AtBarrier, what, line);
    }
}

int barrier_count(int predicate, int line) {
    Machine& m = machine();
    current->predicate = predicate != 0;
    barrier("__syncthreads_count", line);
    int count = 0;
    for (unsigned i = 0; i < block.threads; ++i) count += m.threads[i].predicate;
    barrier("__syncthreads_count", line);
    return count;
}

void meet(uint32_t mask, const char* what, int line, void* given, Serve serve) {
    Machine& m = machine();
    Thread* me = current;
    Warp& warp = m.warps[me->warp];
    if (!(mask >> me->lane & 1)) fail("calls %s (line %d) with mask %08x that leaves it out", what, line, mask);
    if (mask & ~warp.alive) fail("calls %s (line %d) with mask %08x, but alive are %08x", what, line, mask, warp.alive);
    size_t which = 0;
    while (which < warp.meetings.size() && warp.meetings[which].mask != mask) ++which;
    if (which == warp.meetings.size()) {
        for (const Meeting& other : warp.meetings)
            if (other.mask & mask) fail("meets %s (line %d) in %s (line %d)", other.what, other.line, what, line);
        warp.meetings.push_back(Meeting{mask, 0, what, line, serve, {}});
    }
    Meeting& meeting = warp.meetings[which];
    if (meeting.serve != serve || meeting.line != line)
        fail("calls %s (line %d) while lanes of its warp wait in %s (line %d)", what, line, meeting.what, meeting.line);
    meeting.given[me->lane] = given;
    meeting.arrived |= 1u << me->lane;
    if (meeting.arrived == mask)
        finish(m, warp, which, me->warp * 32, int(me->lane));
    else
        wait(State::InWarp, what, line);
}

void* static_shared(const void* tag, size_t bytes) {
    Machine& m = machine();
    for (const Shared& s : m.declared)
        if (s.tag == tag) return m.shared + s.start;
    size_t start = m.shared_used + 128;
    size_t declared = bytes;
    for (const Shared& s : m.declared) declared += s.bytes;
    if (declared > MOST_STATIC) fail("declares %zu bytes of static shared memory, over %zu", declared, MOST_STATIC);
    m.declared.push_back(Shared{tag, start, bytes});
    guarded(m, start, bytes);
    return m.shared + start;
}

void* dynamic_shared() {
    Machine& m = machine();
    return m.shared + m.dynamic_start;
}

void async_copy(void* to, const void* from, unsigned bytes, unsigned given) {
    Machine& m = machine();
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) & (bytes - 1))
        fail("copies %u bytes asynchronously between addresses that are not aligned to them", bytes);
    Copy copy{to, from, bytes, given, m.groups[current->index]};
    // Hardware may also finish at once.
    if (m.late)
        m.copies[current->index].push_back(copy);
    else
        do_copy(copy);
}

void async_commit() { ++machine().groups[current->index]; }

void async_wait(int newest) {
    Machine& m = machine();
    std::vector<Copy>& copies = m.copies[current->index];
    size_t kept = 0;
    for (const Copy& c : copies) {
        if (c.group < m.groups[current->index] - newest)
            do_copy(c);
        else
            copies[kept++] = c;
    }
    copies.resize(kept);
}

// Runs a whole grid. 0: done; 1: `message` says what went wrong.
static int launch(const Kernel& kernel, const unsigned grid[3], unsigned threads, unsigned dynamic, const void* params,
                  int order, uint64_t seed, std::string& message) {
    Machine& m = machine();
    if (threads == 0 || threads > MOST_THREADS) {
        message = std::string(kernel.name) + ": blocks of " + std::to_string(threads) + " threads";
        return 1;
    }
    if (dynamic > MOST_SHARED) {
        message = std::string(kernel.name) + ": asks for " + std::to_string(dynamic) + " bytes of shared memory";
        return 1;
    }
    if (!m.stacks) {
        void* stacks = mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) {
            message = "no memory for the threads' stacks";
            return 1;
        }
        m.stacks = static_cast<char*>(stacks);
    }
    m.kernel = &kernel;
    m.params = params;
    m.order = Order(order);
    m.random = seed;
    m.late = order != RANDOM || m.draw() % 2 == 0;
    m.failed = false;
    m.dynamic_bytes = dynamic;
    // Room for everything that may be declared, with guards and alignment.
    m.memory.resize(dynamic + MOST_STATIC + (64 << 10));
    m.shared = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(m.memory.data()) + 127) & ~uintptr_t(127));
    block.grid = Dim3{grid[0], grid[1], grid[2]};
    block.threads = threads;
    uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
    uint64_t shift = order >= RANDOM ? m.draw() % blocks : 0;
    for (uint64_t i = 0; i < blocks && !m.failed; ++i) {
        uint64_t b = order == REVERSE ? blocks - 1 - i : (i + shift) % blocks;
        block.index = Dim3{unsigned(b % grid[0]), unsigned(b / grid[0] % grid[1]), unsigned(b / grid[0] / grid[1])};
        run_block(m);
    }
    message = m.message;
    return m.failed ? 1 : 0;
}

extern "C" {

extern const Kernel* const eosin_emulator_table[];
extern const unsigned eosin_emulator_kernels;

unsigned eosin_emulator_count() { return eosin_emulator_kernels; }

const char* eosin_emulator_name(unsigned i) { return eosin_emulator_table[i]->name; }

int eosin_emulator_launch(const char* name, const unsigned grid[3], unsigned threads, unsigned dynamic,
                          const void* params, unsigned params_size, int order, uint64_t seed, char* text, size_t room) {
    std::string message;
    int code = 1;
    const Kernel* found = nullptr;
    for (unsigned i = 0; i < eosin_emulator_kernels; ++i)
        if (strcmp(eosin_emulator_table[i]->name, name) == 0) found = eosin_emulator_table[i];
    if (!found)
        message = std::string("no kernel is named ") + name;
    else if (found->params != params_size)
        message = std::string(name) + ": takes " + std::to_string(found->params) + " bytes, was given " +
                  std::to_string(params_size);
    else
        code = launch(*found, grid, threads, dynamic, params, order, seed, message);
    snprintf(text, room, "%s", message.c_str());
    return code;
}
}

}  // namespace eosin_emulator
