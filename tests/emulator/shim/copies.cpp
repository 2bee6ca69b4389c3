// cp.async: copies from global to shared memory that arrive at their wait.
#include "worker.h"

#include <cstring>

#include "sanitizer.h"

namespace emulator {

namespace {

// Shared memory while a copy is on its way, as before anything was written.
constexpr int IN_FLIGHT = 0xff;

bool aligned(const void* address, unsigned bytes) {
    return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}

void arrive(const AsyncCopy& copy) {
    sanitizer::writes(copy.to, copy.bytes);
    sanitizer::Unwatched unwatched;
    auto to = static_cast<unsigned char*>(copy.to);
    std::memcpy(to, copy.from, copy.from_bytes);
    std::memset(to + copy.from_bytes, 0, copy.bytes - copy.from_bytes);
}

}  // namespace

// The bytes may arrive at any time from now to the wait. Arriving late shows a
// wait that is missing. What was there before is lost at once, so that neither a
// reader that does not wait nor one that is not done with the old bytes can be
// lucky.
void Worker::async_copy(const AsyncCopy& copy, Site site) {
    Fiber& self = running();
    if (!aligned(copy.to, copy.bytes) || !aligned(copy.from, copy.bytes)) {
        fail(site, "cp.async of %u bytes: its %s is not aligned to them", copy.bytes,
             aligned(copy.to, copy.bytes) ? "source" : "destination");
    }
    if (copy.from_bytes > copy.bytes) {
        fail(site, "cp.async of %u bytes: %u bytes of source are more", copy.bytes,
             copy.from_bytes);
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
        std::memset(copy.to, IN_FLIGHT, copy.bytes);
    }
    self.copies.push_back(copy);
    self.copies.back().group = self.group;
}

void Worker::async_commit() { ++running().group; }

// Copies of the group that is still open are not waited for.
void Worker::async_wait(unsigned groups_in_flight) {
    Fiber& self = running();
    size_t kept = 0;
    for (const AsyncCopy& copy : self.copies) {
        if (copy.group + groups_in_flight < self.group) {
            arrive(copy);
        } else {
            self.copies[kept++] = copy;
        }
    }
    self.copies.resize(kept);
}

}  // namespace emulator
