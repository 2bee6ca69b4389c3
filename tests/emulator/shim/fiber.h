// Fibers: a stack each, switched by hand.
#pragma once
#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace eosin_emulator {

// Where a fiber, or the scheduler itself, goes on.
struct Context {
#if defined(__x86_64__)
    void* stack_pointer = nullptr;
#else
    ucontext_t saved;
#endif
};

// Prepares `context` to call `entry` on the stack `low .. low + size`. `entry`
// must not return.
void prepare(Context& context, char* low, size_t size, void (*entry)());

// Goes on at `to`; returns when something switches back to `from`.
void switch_context(Context& from, Context& to);

}  // namespace eosin_emulator
