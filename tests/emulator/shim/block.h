// A block of CUDA threads on one OS thread: a fiber each, switched where a
// thread has to wait for others.
#pragma once
#include <cstddef>
#include <cstdint>

namespace eosin_emulator {

struct Dim3 {
    unsigned x, y, z;
};

enum class State : uint8_t { Ready, AtBarrier, InWarp, Done };

// What a kernel sees of its thread.
struct Thread {
    unsigned index, lane, warp;
    State state;
    // What it waits for, for messages.
    const char* waits_for;
    int line;
    int predicate;
};

struct Block {
    Dim3 index, grid;
    unsigned threads;
};

extern thread_local Thread* current;
extern thread_local Block block;

// Ends the block with a message that names kernel, block and thread.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// __syncthreads: every thread that has not returned must meet at one line.
void barrier(const char* what, int line);

// __syncthreads_count.
int barrier_count(int predicate, int line);

// The lanes of `mask` meet at one line; the last to come runs `serve` over what
// each lane gave.
using Serve = void (*)(void** given, uint32_t mask);
void meet(uint32_t mask, const char* what, int line, void* given, Serve serve);

// The block's shared memory of one declaration: `tag` tells declarations apart.
void* static_shared(const void* tag, size_t bytes);
void* dynamic_shared();

// An asynchronous copy to shared memory takes effect when it is waited for, so
// that a missing wait shows.
void async_copy(void* to, const void* from, unsigned bytes, unsigned given);
void async_commit();
void async_wait(int newest);

// What the generated table holds.
struct Kernel {
    const char* name;
    void (*call)(const void* params);
    unsigned params;
};

}  // namespace eosin_emulator
