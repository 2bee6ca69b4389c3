// What the emulated language (language.h, collectives.h, ptx.h, ...) asks of the
// scheduler. Kernels are compiled against this and nothing below it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator {

struct Index {
    unsigned x, y, z;
};

// What a kernel can see of the CUDA thread that it runs as.
struct Thread {
    Index thread, block, block_size, grid_size;
    unsigned lane, warp;
};

// The running CUDA thread; null outside a kernel. A block stays on the OS thread
// that launched it, so the compiler may keep this variable's address.
extern thread_local Thread* current __attribute__((tls_model("initial-exec")));

// A line of a kernel. As a default argument, `here()` is the caller's line.
struct Site {
    const char* file;
    int line;
};

constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
}

// Ends the launch with an error that names kernel, block, thread and `site`.
[[noreturn]] void fail(Site site, const char* format, ...) __attribute__((format(printf, 2, 3)));

// ---- barriers

enum class Vote { None, Count, And, Or };

// All threads of the block meet; the answer is what `vote` makes of everyone's
// predicate, the same for all.
int block_barrier(const char* operation, Vote vote, int predicate, Site site);

// Barrier `id` (1 to 15) among `threads` threads of the block; an arrival does
// not wait for the others.
void named_barrier(int id, int threads, bool waits, Site site);

// ---- warps

// Serves all lanes of `mask` at once: `arguments[lane]` is what each one brought.
using Serve = void (*)(void* const* arguments, uint32_t mask);

// The lanes of `mask` meet; the last to come runs `serve` over what they brought,
// which lies on their stacks. `serve` may be null: then they only meet.
void warp_collective(uint32_t mask, const char* operation, void* argument, Serve serve, Site site);

// ---- shared memory

void* static_shared(const void* tag, const char* name, size_t bytes, size_t alignment, Site site);
unsigned char* dynamic_shared();

// That the block's shared memory holds all of these bytes.
void require_shared(const void* address, size_t bytes, const char* operation, Site site);

// ---- asynchronous copies from global to shared memory

void async_copy(void* to, const void* from, unsigned bytes, unsigned from_bytes, Site site);
void async_commit();
void async_wait(unsigned groups_in_flight);

// ---- sm_90a: barriers in shared memory, boxes of a matrix, products of a warpgroup

uint32_t shared_address(const void* address);

void mbarrier_init(void* at, unsigned arrivals, Site site);
// Arrives, with this many bytes on their way.
void mbarrier_arrive(void* at, unsigned bytes, Site site);
void mbarrier_wait(void* at, unsigned parity, Site site);

// Starts to bring the box of a tensor map, as src/device/cuda/driver.rs writes it
// plainly, from element x of line y.
void bring_box(void* to, const void* map, unsigned x, unsigned y, void* barrier, Site site);

struct WgmmaForm {
    const char* operation;
    unsigned columns;
    bool a_across, b_across;  // whether an operand lies across K
    float (*widened)(uint16_t);
};

// Starts d += a b; `form` outlives the product.
void wgmma(float* d, uint64_t a, uint64_t b, const WgmmaForm& form, Site site);
void wgmma_fence();
void wgmma_commit();
// Waits for all that were committed.
void wgmma_wait(Site site);

// ---- what a wrapper file exports of each kernel

struct Kernel {
    const char* name;
    void (*run)(const void* params);
    size_t params_size;
};

}  // namespace emulator
