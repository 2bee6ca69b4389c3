#include "fiber.h"

#include <cstdint>

namespace eosin_emulator {

#if defined(__x86_64__)

// The callee-saved registers of the System V ABI are all that a call may not
// change; the rest is the compiler's to save around it.
extern "C" void eosin_emulator_switch(void** from, void* to);
asm(R"(
.text
.globl eosin_emulator_switch
.type eosin_emulator_switch, @function
eosin_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size eosin_emulator_switch, .-eosin_emulator_switch
)");

void prepare(Context& context, char* low, size_t size, void (*entry)()) {
    auto top = reinterpret_cast<uintptr_t>(low + size) & ~uintptr_t(15);
    auto* frame = reinterpret_cast<void**>(top);
    // A return address that nobody returns to keeps the alignment that the ABI
    // wants at a function's first instruction.
    *--frame = nullptr;
    *--frame = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--frame = nullptr;
    context.stack_pointer = frame;
}

void switch_context(Context& from, Context& to) { eosin_emulator_switch(&from.stack_pointer, to.stack_pointer); }

#else

void prepare(Context& context, char* low, size_t size, void (*entry)()) {
    getcontext(&context.saved);
    context.saved.uc_stack.ss_sp = low;
    context.saved.uc_stack.ss_size = size;
    context.saved.uc_link = nullptr;
    makecontext(&context.saved, entry, 0);
}

void switch_context(Context& from, Context& to) { swapcontext(&from.saved, &to.saved); }

#endif

}  // namespace eosin_emulator
