#include "fiber.h"

#include <cstdint>
#include <sys/mman.h>
#include <unistd.h>

#include "sanitizer.h"

#ifndef EOSIN_EMULATOR_UCONTEXT
// What a call must preserve in the System V ABI, and nothing else: kernels do
// not change the floating-point control words. ucontext would save the signal
// mask too, with a system call per switch.
extern "C" void eosin_emulator_switch(void** save_stack_pointer, void* load_stack_pointer);
asm(R"(
.text
.globl eosin_emulator_switch
.hidden eosin_emulator_switch
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
.size eosin_emulator_switch, . - eosin_emulator_switch
)");
#endif

namespace emulator {

namespace {

// Whom the running context was switched from.
thread_local Context* left = nullptr;

}  // namespace

void prepare(Context& context, void (*entry)()) {
    context.fake_stack = nullptr;
    char* lowest = const_cast<char*>(static_cast<const char*>(context.stack));
#ifdef EOSIN_EMULATOR_UCONTEXT
    getcontext(&context.machine);
    context.machine.uc_stack.ss_sp = lowest;
    context.machine.uc_stack.ss_size = context.stack_size;
    context.machine.uc_link = nullptr;
    makecontext(&context.machine, entry, 0);
#else
    // What the switch pops, below a missing return address that leaves the stack
    // aligned as after a call.
    auto top = reinterpret_cast<uintptr_t>(lowest + context.stack_size) & ~uintptr_t{15};
    auto slot = reinterpret_cast<void**>(top);
    *--slot = nullptr;
    *--slot = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) {
        *--slot = nullptr;
    }
    context.stack_pointer = slot;
#endif
}

void switch_context(Context& from, Context& to, bool ended) {
    left = &from;
#ifdef EOSIN_EMULATOR_TSAN
    // No order between threads but what barriers make.
    __tsan_switch_to_fiber(to.thread, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef EOSIN_EMULATOR_ASAN
    __sanitizer_start_switch_fiber(ended ? nullptr : &from.fake_stack, to.stack, to.stack_size);
#else
    static_cast<void>(ended);
#endif
#ifdef EOSIN_EMULATOR_UCONTEXT
    swapcontext(&from.machine, &to.machine);
#else
    eosin_emulator_switch(&from.stack_pointer, to.stack_pointer);
#endif
    entered(from);
}

void entered(Context& self) {
#ifdef EOSIN_EMULATOR_ASAN
    // Also tells the bounds of the stack that was left, which for the OS thread's
    // own are known from nowhere else.
    __sanitizer_finish_switch_fiber(self.fake_stack, &left->stack, &left->stack_size);
#else
    static_cast<void>(self);
#endif
}

// ---- stacks

namespace {

// What the machine protects at once.
const size_t PAGE = static_cast<size_t>(sysconf(_SC_PAGESIZE));
// Instrumented frames are larger.
constexpr size_t STACK = sanitizer::active ? 256 << 10 : 64 << 10;
// An odd number of pages, so that the hot ends of the stacks do not all fall
// into the same sets of the second-level cache.
const size_t STRIDE = STACK + PAGE;

// The same within a page, for the first level.
constexpr size_t stagger(unsigned index) { return index % 16 * 256; }

}  // namespace

Stacks::~Stacks() {
    if (reserved_ != nullptr) {
        munmap(reserved_, reservation_size());
    }
}

size_t Stacks::reservation_size() const { return LIMIT * STRIDE; }

bool Stacks::ensure(unsigned count) {
    if (reserved_ == nullptr) {
        void* memory = mmap(nullptr, reservation_size(), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            return false;
        }
        reserved_ = static_cast<char*>(memory);
    }
    for (; guarded_ < count; ++guarded_) {
        if (mprotect(reserved_ + guarded_ * STRIDE, PAGE, PROT_NONE) != 0) {
            return false;
        }
    }
    return true;
}

char* Stacks::lowest(unsigned index) const { return reserved_ + index * STRIDE + PAGE; }

size_t Stacks::size(unsigned index) const { return STACK - stagger(index); }

bool Stacks::overflowed_at(const void* address) const {
    auto offset = static_cast<size_t>(static_cast<const char*>(address) - reserved_);
    return reserved_ != nullptr && offset < reservation_size() && offset % STRIDE < PAGE;
}

}  // namespace emulator
