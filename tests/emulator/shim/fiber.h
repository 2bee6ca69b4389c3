// Execution contexts that are switched by hand: one for every CUDA thread of a
// block, and one for the OS thread that launched it.
#pragma once

#include <cstddef>

#if !(defined(__x86_64__) && defined(__ELF__))
#define EOSIN_EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

namespace emulator {

struct Context {
#ifdef EOSIN_EMULATOR_UCONTEXT
    ucontext_t machine;
#else
    void* stack_pointer = nullptr;
#endif
    const void* stack = nullptr;  // its lowest byte
    size_t stack_size = 0;
    void* fake_stack = nullptr;  // AddressSanitizer's
    void* thread = nullptr;      // ThreadSanitizer's
};

// Makes `context` start with `entry`, which must not return, on its own stack.
void prepare(Context& context, void (*entry)());

// Leaves `from`, which goes on where it is when somebody switches back; `ended`
// says that nobody will.
void switch_context(Context& from, Context& to, bool ended);

// Has to be called first by an `entry`.
void entered(Context& self);

// Stacks for the fibers of a block, each above a page that faults. They are
// reserved in one piece and use memory only as far as they are touched.
class Stacks {
public:
    static constexpr unsigned LIMIT = 1024;  // CUDA's threads per block

    Stacks() = default;
    Stacks(const Stacks&) = delete;
    ~Stacks();

    // Stacks 0 to `count` can be used from now on. False: no memory.
    bool ensure(unsigned count);

    char* lowest(unsigned index) const;
    size_t size(unsigned index) const;

    // Whether this address is in the page below some stack.
    bool overflowed_at(const void* address) const;

    void* reservation() const { return reserved_; }
    size_t reservation_size() const;

private:
    char* reserved_ = nullptr;
    unsigned guarded_ = 0;
};

}  // namespace emulator
