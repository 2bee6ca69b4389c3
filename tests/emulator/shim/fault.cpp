#include "fault.h"

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>

#include "emulator.h"
#include "sanitizer.h"
#include "worker.h"

namespace emulator {

// ---- signals

namespace {

constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};
struct sigaction before[3];

std::string explain(int signal, const siginfo_t& info, const Worker& worker) {
    if (signal == SIGFPE) {
        return "an integer division by zero";
    }
    if (worker.stacks().overflowed_at(info.si_addr)) {
        return "its local variables need more stack than the emulator has (64 KiB)";
    }
    if (info.si_code == SI_KERNEL) {
        // The processor does not say which: the address is none, or a vector's and
        // misaligned.
        return "an access to an address that no memory can have";
    }
    auto address = reinterpret_cast<uintptr_t>(info.si_addr);
    if (address < 1 << 16) {
        return "an access to byte " + std::to_string(address) + " of a null pointer";
    }
    char text[80];
    std::snprintf(text, sizeof text, "an access to memory that is not there, at %p", info.si_addr);
    return text;
}

// Runs on the signal's own stack. Inside a kernel it never returns: it switches
// to the launching context as any failure does, which is a plain jump for a fault
// that the thread itself caused. SA_NODEFER leaves the signal unblocked.
void handle(int signal, siginfo_t* info, void* context) {
    Worker* worker = Worker::of_this_thread();
    if (worker != nullptr && current != nullptr) {
        const Fiber& fiber = worker->running();
        std::string what = explain(signal, *info, *worker);
        if (fiber.operation == nullptr) {
            worker->fail({nullptr, 0}, what);
        }
        worker->fail(fiber.site, what + ", after this line");
    }
    for (int i = 0; i < 3; ++i) {
        if (SIGNALS[i] != signal) {
            continue;
        }
        if ((before[i].sa_flags & SA_SIGINFO) != 0) {
            before[i].sa_sigaction(signal, info, context);
        } else {
            sigaction(signal, &before[i], nullptr);  // it comes again on return
        }
    }
}

// Signals of a fiber whose stack is full need another one. Rust gives one to its
// threads; C++ programs do not.
struct SignalStack {
    SignalStack() {
        stack_t has;
        if (sigaltstack(nullptr, &has) == 0 && (has.ss_flags & SS_DISABLE) == 0 &&
            has.ss_size >= SIZE) {
            return;
        }
        memory = std::malloc(SIZE);
        if (memory != nullptr) {
            stack_t own = {};
            own.ss_sp = memory;
            own.ss_size = SIZE;
            sigaltstack(&own, nullptr);
        }
    }
    ~SignalStack() {
        if (memory != nullptr) {
            stack_t none = {};
            none.ss_flags = SS_DISABLE;
            sigaltstack(&none, nullptr);
            std::free(memory);
        }
    }
    static constexpr size_t SIZE = 64 << 10;
    void* memory = nullptr;
};

}  // namespace

void catch_faults() {
    if (sanitizer::active) {
        return;  // they have handlers of their own
    }
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = handle;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigemptyset(&action.sa_mask);
        for (int i = 0; i < 3; ++i) {
            sigaction(SIGNALS[i], &action, &before[i]);
        }
    });
    thread_local SignalStack stack;
    static_cast<void>(stack);
}

}  // namespace emulator

// ---- the compiler's checks

// Kernels are compiled with a few of UndefinedBehaviorSanitizer's checks. They
// call these functions, whose names and arguments are its stable interface;
// answering them here needs no library, and gives the launch an error with the
// line instead of text on the terminal.
namespace {

struct Location {
    const char* file;
    uint32_t line;
    uint32_t column;
};

struct TypeDescriptor {
    uint16_t kind;
    uint16_t info;
    char name[1];  // in quotes, ends with a zero
};

struct TypeMismatch {
    Location location;
    const TypeDescriptor* type;
    unsigned char log_alignment;
    unsigned char kind;
};

struct OutOfBounds {
    Location location;
    const TypeDescriptor* array;
    const TypeDescriptor* index;
};

// Signed if it says so and is narrow enough to be passed by value.
long long value(const TypeDescriptor& type, uintptr_t raw) {
    unsigned bits = 1u << (type.info >> 1);
    bool is_signed = (type.info & 1) != 0;
    if (!is_signed || bits >= 64) {
        return static_cast<long long>(raw);
    }
    return static_cast<long long>(raw << (64 - bits)) >> (64 - bits);
}

emulator::Site site(const Location& location) {
    return {location.file, static_cast<int>(location.line)};
}

constexpr const char* ACCESSES[] = {
    "load of", "store to", "reference to", "access to a member of", "call of a member of",
};

const char* access(unsigned kind) {
    return kind < sizeof ACCESSES / sizeof *ACCESSES ? ACCESSES[kind] : "use of";
}

}  // namespace

extern "C" {

void __ubsan_handle_type_mismatch_v1(const TypeMismatch* what, uintptr_t address) {
    emulator::fail(site(what->location), "%s %s at address %p, which is not aligned to %llu bytes",
                   access(what->kind), what->type->name, reinterpret_cast<void*>(address),
                   1ull << what->log_alignment);
}

void __ubsan_handle_out_of_bounds(const OutOfBounds* what, uintptr_t index) {
    emulator::fail(site(what->location), "index %lld is outside of %s", value(*what->index, index),
                   what->array->name);
}

void __ubsan_handle_shift_out_of_bounds(const OutOfBounds* what, uintptr_t, uintptr_t by) {
    // The same layout: a location, the type on the left, the type on the right.
    emulator::fail(site(what->location), "a shift of %s by %lld", what->array->name,
                   value(*what->index, by));
}

void __ubsan_handle_divrem_overflow(const Location* where, uintptr_t, uintptr_t) {
    emulator::fail(site(*where), "an integer division by zero, or one that overflows");
}

}  // extern "C"
