// Collectives of a warp: all lanes of the mask meet, and the last one to come
// serves them all.
#include "worker.h"

#include <cstring>

#include "sanitizer.h"

namespace emulator {

void Worker::warp_collective(uint32_t mask, const char* operation, void* argument, Serve serve_all,
                             Site site) {
    Fiber& self = running();
    Warp& warp = warps_[self.warp];
    if ((mask >> self.lane & 1) == 0) {
        fail(site, "%s: the mask %08x leaves out the calling lane %u", operation, mask, self.lane);
    }
    if ((mask & ~warp.alive) != 0) {
        fail(site, "%s: the mask %08x names lanes that have returned or do not exist (%08x)",
             operation, mask, mask & ~warp.alive);
    }
    Collective& collective = join(warp, mask, operation, serve_all, site);
    // Of the collectives only __syncwarp, which serves nobody, orders memory.
    bool orders = serve_all == nullptr;
    if (orders) {
        sanitizer::release(&warp);
    }
    collective.arguments[self.lane] = argument;
    collective.arrived |= 1u << self.lane;
    if (collective.arrived == mask) {
        serve(warp, collective, self);
    } else {
        wait(Waiting::InWarp, operation, site);
    }
    if (orders) {
        sanitizer::acquire(&warp);
    }
}

// The collective that lanes of this mask wait in, or a new one. Lanes that
// diverged may wait in several, which must have no lane in common.
Collective& Worker::join(Warp& warp, uint32_t mask, const char* operation, Serve serve_all,
                         Site site) {
    for (unsigned i = 0; i < warp.count; ++i) {
        Collective& pending = warp.collectives[i];
        if (pending.mask == mask) {
            if (pending.serve != serve_all || !same(pending.site, site)) {
                fail(site, "divergent warp: %s while other lanes wait in %s at %s", operation,
                     pending.operation, place(pending.site).c_str());
            }
            return pending;
        }
        if ((pending.mask & mask) != 0) {
            fail(site, "%s with mask %08x while lanes of it wait in %s at %s with mask %08x",
                 operation, mask, pending.operation, place(pending.site).c_str(), pending.mask);
        }
    }
    if (warp.count == Warp::MOST) {
        fail(site, "the warp has diverged into more groups than the emulator follows");
    }
    Collective& fresh = warp.collectives[warp.count++];
    fresh.mask = mask;
    fresh.arrived = 0;
    fresh.operation = operation;
    fresh.site = site;
    fresh.serve = serve_all;
    return fresh;
}

void Worker::serve(Warp& warp, Collective& done, const Fiber& last) {
    if (done.serve != nullptr) {
        // Lanes hand each other registers, which are no memory.
        sanitizer::Unwatched unwatched;
        done.serve(done.arguments, done.mask);
    }
    for (uint32_t lanes = done.mask; lanes != 0; lanes &= lanes - 1) {
        Fiber& fiber = fibers_[last.warp * WARP + static_cast<unsigned>(__builtin_ctz(lanes))];
        if (fiber.index != last.index) {
            wake(fiber);
        }
    }
    --warp.count;
    if (&done != &warp.collectives[warp.count]) {
        done = warp.collectives[warp.count];
    }
}

}  // namespace emulator
