// What sm_90a has alone: barriers in shared memory that count bytes, boxes of a
// matrix that are brought there, and the products of a warpgroup.
#include "worker.h"

#include <algorithm>
#include <cstring>

#include "sanitizer.h"

namespace emulator {

namespace {

// Shared memory and sums while something is on its way to them.
constexpr int IN_FLIGHT = 0xff;

constexpr unsigned LINE = 128, PIECE = 16, SWIZZLED = 8 * LINE;

// Where in lines of 128 bytes the byte that a plain array has at `at` lies.
constexpr unsigned swizzled(unsigned at) { return at ^ (at / LINE % 8) * PIECE; }

}  // namespace

// ---- mbarrier

void Worker::mbarrier_init(void* at, unsigned arrivals, Site site) {
    if (reinterpret_cast<uintptr_t>(at) % 8 != 0 || !shared_.contains(at, 8)) {
        fail(site, "mbarrier.init: not 8 aligned bytes of the block's shared memory");
    }
    if (arrivals == 0 || arrivals >= 1u << 20) {
        fail(site, "mbarrier.init: %u arrivals, wants 1 to 2^20 - 1", arrivals);
    }
    for (const Mbarrier& known : mbarriers_) {
        if (known.at == at) {
            fail(site, "mbarrier.init: it is one already");
        }
    }
    sanitizer::writes(at, 8);
    Mbarrier& fresh = mbarriers_.emplace_back();
    fresh.at = at;
    fresh.arrivals = fresh.missing = arrivals;
}

Mbarrier& Worker::mbarrier(const void* at, Site site) {
    auto is_it = [&](const Mbarrier& known) { return known.at == at; };
    auto found = std::find_if(mbarriers_.begin(), mbarriers_.end(), is_it);
    if (found == mbarriers_.end()) {
        fail(site, "an mbarrier that nobody initialised");
    }
    // Its initialisation has to be everybody's before it is used.
    sanitizer::reads(at, 8);
    return *found;
}

void Worker::mbarrier_arrive(const void* at, unsigned bytes, Site site) {
    Mbarrier& barrier = mbarrier(at, site);
    if (barrier.missing == 0) {
        fail(site, "mbarrier: more arrivals in a phase than its %u", barrier.arrivals);
    }
    sanitizer::release(&barrier.tags[barrier.phase % 2]);
    barrier.bytes += bytes;
    --barrier.missing;
    end_phase(barrier);
}

void Worker::mbarrier_wait(const void* at, unsigned parity, Site site) {
    if (parity > 1) {
        fail(site, "mbarrier: a phase of parity %u", parity);
    }
    while (mbarrier(at, site).phase % 2 == parity) {
        // At the latest, bytes arrive when somebody waits for them.
        deliver(mbarrier(at, site));
        if (mbarrier(at, site).phase % 2 == parity) {
            running().mbarrier = at;
            wait(Waiting::AtMbarrier, "mbarrier.try_wait", site);
        }
    }
    sanitizer::acquire(&mbarrier(at, site).tags[parity]);
}

void Worker::deliver(Mbarrier& barrier) {
    for (const Box& box : barrier.boxes) {
        sanitizer::Unwatched unwatched;
        for (unsigned line = 0; line < box.lines; ++line) {
            unsigned char plain[LINE] = {};
            if (box.y + line < box.of.lines && box.x < box.of.length) {
                uint64_t held = std::min<uint64_t>(box.of.length - box.x, LINE / 2);
                std::memcpy(plain, box.from(line), 2 * held);
            }
            for (unsigned piece = 0; piece < LINE; piece += PIECE) {
                std::memcpy(box.to + swizzled(line * LINE + piece), plain + piece, PIECE);
            }
        }
        barrier.bytes -= box.lines * LINE;
    }
    barrier.boxes.clear();
    end_phase(barrier);
}

void Worker::end_phase(Mbarrier& barrier) {
    if (barrier.missing != 0 || barrier.bytes != 0 || !barrier.boxes.empty()) {
        return;
    }
    barrier.missing = barrier.arrivals;
    ++barrier.phase;
    for (unsigned i = 0; i < threads_; ++i) {
        if (fibers_[i].waiting == Waiting::AtMbarrier && fibers_[i].mbarrier == barrier.at) {
            wake(fibers_[i]);
        }
    }
}

// ---- boxes

const void* Box::from(unsigned line) const {
    return reinterpret_cast<const void*>(of.address + (uint64_t{y} + line) * of.stride + 2 * uint64_t{x});
}

void Worker::bring_box(void* to, const void* map, unsigned x, unsigned y, const void* at, Site site) {
    Box box = {static_cast<unsigned char*>(to), x, y, 0, {}};
    uint64_t words[6];
    std::memcpy(words, map, sizeof words);
    if (words[0] != Box::PLAIN) {
        fail(site, "a tensor map that is none");
    }
    box.of = {words[1], words[2], words[3], words[4]};
    box.lines = static_cast<unsigned>(words[5]);
    if (box.of.address % 16 != 0 || box.of.stride % 16 != 0 || box.lines == 0 || box.lines > 256) {
        fail(site, "a tensor map of lines that do not start at multiples of 16 bytes, or of boxes "
                   "of %u lines", box.lines);
    }
    size_t bytes = box.lines * LINE;
    if (shared_address(to) % SWIZZLED != 0 || !shared_.contains(to, bytes)) {
        fail(site, "a box of %zu bytes: not in the block's shared memory, or not aligned to 1024",
             bytes);
    }
    for (unsigned line = 0; line < box.lines && y + line < box.of.lines && x < box.of.length; ++line) {
        uint64_t held = 2 * std::min<uint64_t>(box.of.length - x, LINE / 2);
        if (sanitizer::forbidden(box.from(line), held) != nullptr) {
            fail(site, "a box: its source is outside of its buffer");
        }
        sanitizer::reads(box.from(line), held);
    }
    Mbarrier& barrier = mbarrier(at, site);
    sanitizer::writes(to, bytes);
    sanitizer::release(&barrier.tags[barrier.phase % 2]);
    {
        sanitizer::Unwatched unwatched;
        std::memset(to, IN_FLIGHT, bytes);
    }
    barrier.boxes.push_back(box);
    bool awaited = false;
    for (unsigned i = 0; i < threads_; ++i) {
        awaited = awaited || (fibers_[i].waiting == Waiting::AtMbarrier && fibers_[i].mbarrier == at);
    }
    if (awaited || schedule_.copies_early()) {
        deliver(barrier);
    }
}

// ---- wgmma

namespace {

// What a lane brings to a product.
struct Brought {
    uint64_t a, b;
    bool differs = false;
};

// Where 8 elements of an operand lie: those of row or column `i` from `k` on, or across
// K those from `i` on of one `k`.
struct WgmmaOperand {
    unsigned start, blocks, groups;
    bool across;

    WgmmaOperand(uint64_t descriptor, bool across)
        : start((descriptor & 0x3fff) << 4),
          blocks((descriptor >> 16 & 0x3fff) << 4),
          groups((descriptor >> 32 & 0x3fff) << 4),
          across(across) {}

    unsigned piece(unsigned i, unsigned k) const {
        unsigned plain = across ? i / 64 * blocks + k / 8 * groups + k % 8 * LINE + i % 64 * 2
                                : i / 8 * groups + i % 8 * LINE + k * 2;
        return swizzled(start + plain);
    }
};

}  // namespace

void Worker::wgmma(float* d, uint64_t a, uint64_t b, const WgmmaForm& form, Site site) {
    Fiber& self = running();
    if (self.warp / 4 * 4 + 4 > threads_ / WARP) {
        fail(site, "%s: the warp is in no group of four", form.operation);
    }
    for (uint64_t descriptor : {a, b}) {
        // Swizzled by 128 bytes, its pattern at a multiple of 1024.
        if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0 || (descriptor >> 3 & 7) != 0) {
            fail(site, "%s: a descriptor that the emulator does not know", form.operation);
        }
    }
    if (!self.fenced) {
        fail(site, "%s: without wgmma.fence after the last wait", form.operation);
    }
    Brought own = {a, b};
    warp_collective(~0u, form.operation, &own, [](void* const* arguments, uint32_t) {
        auto first = static_cast<Brought*>(arguments[0]);
        for (unsigned lane = 1; lane < WARP; ++lane) {
            auto other = static_cast<Brought*>(arguments[lane]);
            if (other->a != first->a || other->b != first->b) {
                first->differs = true;
            }
        }
        for (unsigned lane = 0; lane < WARP; ++lane) {
            static_cast<Brought*>(arguments[lane])->differs = first->differs;
        }
    }, site);
    if (own.differs) {
        fail(site, "%s: lanes of a warp have different descriptors", form.operation);
    }
    auto is_it = [&](const Sums& known) { return known.d == d; };
    if (std::none_of(self.sums.begin(), self.sums.end(), is_it)) {
        // Until the wait nobody may look at them.
        self.sums.push_back({d, std::vector<float>(d, d + form.columns / 2)});
        std::memset(d, IN_FLIGHT, form.columns / 2 * sizeof(float));
    }
    self.products.push_back({d, a, b, &form, site});
}

void Worker::wgmma_commit() { running().committed = running().products.size(); }

// The products read shared memory as late as they may.
void Worker::wgmma_wait(Site site) {
    Fiber& self = running();
    for (size_t i = 0; i < self.committed; ++i) {
        read_operands(self, self.products[i]);
    }
    // It is the warp that read, so each lane may tell others that it has.
    sanitizer::release(&warps_[self.warp]);
    warp_collective(~0u, "wgmma.wait_group", &self, [](void* const* arguments, uint32_t) {
        const Fiber& first = *static_cast<Fiber*>(arguments[0]);
        for (size_t i = 0; i < first.committed; ++i) {
            of_this_thread()->add_product(arguments, i);
        }
    }, site);
    sanitizer::acquire(&warps_[self.warp]);
    self.products.erase(self.products.begin(), self.products.begin() + static_cast<ptrdiff_t>(self.committed));
    self.committed = 0;
    if (self.products.empty()) {
        for (const Sums& sums : self.sums) {
            std::copy(sums.held.begin(), sums.held.end(), sums.d);
        }
        self.sums.clear();
        self.fenced = false;
    }
}

// Of what a warp reads, each lane answers for a part.
void Worker::read_operands(const Fiber& self, const WgmmaProduct& product) {
    auto read = [&](const WgmmaOperand& operand, unsigned first, unsigned count) {
        for (unsigned i = self.lane; i < 2 * count; i += WARP) {
            unsigned at = operand.across ? operand.piece(first + i / 16 * 8, i % 16)
                                         : operand.piece(first + i / 2, i % 2 * 8);
            const unsigned char* piece = shared_.at(at);
            if (!shared_.contains(piece, PIECE)) {
                fail(product.site, "%s: an operand outside of the block's shared memory",
                     product.form->operation);
            }
            sanitizer::reads(piece, PIECE);
        }
    };
    read({product.a, product.form->a_across}, self.warp % 4 * 16, 16);
    read({product.b, product.form->b_across}, 0, product.form->columns);
}

// Adds product number `number` of the lanes, 16 rows of it, to what they hold.
void Worker::add_product(void* const* lanes, size_t number) {
    auto lane = [&](unsigned i) -> Fiber& { return *static_cast<Fiber*>(lanes[i]); };
    const WgmmaProduct& product = lane(0).products[number];
    const WgmmaForm& form = *product.form;
    const WgmmaOperand left(product.a, form.a_across), right(product.b, form.b_across);
    auto element = [&](const WgmmaOperand& operand, unsigned i, unsigned k) {
        unsigned at = operand.across ? operand.piece(i / 8 * 8, k) + i % 8 * 2
                                     : operand.piece(i, k / 8 * 8) + k % 8 * 2;
        uint16_t bits;
        std::memcpy(&bits, shared_.at(at), sizeof bits);
        return form.widened(bits);
    };
    float a[16][16], b[16][256];
    for (unsigned k = 0; k < 16; ++k) {
        for (unsigned i = 0; i < 16; ++i) {
            a[i][k] = element(left, lane(0).warp % 4 * 16 + i, k);
        }
        for (unsigned j = 0; j < form.columns; ++j) {
            b[k][j] = element(right, j, k);
        }
    }
    for (unsigned i = 0; i < 16; ++i) {
        float sums[256] = {};
        for (unsigned k = 0; k < 16; ++k) {
            for (unsigned j = 0; j < form.columns; ++j) {
                sums[j] += a[i][k] * b[k][j];
            }
        }
        for (unsigned j = 0; j < form.columns; ++j) {
            Fiber& owner = lane(i % 8 * 4 + j % 8 / 2);
            float* d = owner.products[number].d;
            auto is_it = [&](const Sums& known) { return known.d == d; };
            auto held = std::find_if(owner.sums.begin(), owner.sums.end(), is_it);
            held->held[j / 8 * 4 + i / 8 * 2 + j % 2] += sums[j];
        }
    }
}

}  // namespace emulator
