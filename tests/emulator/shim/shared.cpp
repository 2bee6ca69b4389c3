#include "shared.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "sanitizer.h"

namespace emulator {

namespace {

// On both sides of an array: wide enough for most rows that run over.
constexpr size_t RED_ZONE = 1024;
constexpr size_t MOST_ARRAYS = 64;
constexpr size_t DYNAMIC_ALIGNMENT = 128;  // what DYN_SHARED promises under nvcc
constexpr size_t MOST_ALIGNMENT = 1024;    // of any array, and of the reservation
constexpr size_t RESERVED =
    SharedMemory::LIMIT + (MOST_ARRAYS + 1) * (2 * RED_ZONE + 2 * MOST_ALIGNMENT);

// Unwritten memory reads as NaN in every float type, and as an index that
// nobody can use.
constexpr int UNWRITTEN = 0xff;

// So does a red zone, but it differs from what a kernel may well write: -1.
constexpr unsigned char red(size_t place) { return place % 2 == 0 ? 0xa5 : 0xff; }

void paint(unsigned char* zone) {
    for (size_t i = 0; i < RED_ZONE; ++i) {
        zone[i] = red(i);
    }
}

// The place of the first byte that is not as painted, or RED_ZONE.
size_t scratch(const unsigned char* zone) {
    static const auto painted = [] {
        std::vector<unsigned char> zone(RED_ZONE);
        paint(zone.data());
        return zone;
    }();
    if (std::memcmp(zone, painted.data(), RED_ZONE) == 0) {
        return RED_ZONE;
    }
    return std::mismatch(zone, zone + RED_ZONE, painted.begin()).first - zone;
}

}  // namespace

SharedMemory::~SharedMemory() {
    sanitizer::allow(reserved_, reserved_ == nullptr ? 0 : RESERVED);
    std::free(reserved_);
}

bool SharedMemory::start_launch(size_t dynamic_bytes) {
    if (reserved_ == nullptr) {
        reserved_ = static_cast<unsigned char*>(std::aligned_alloc(MOST_ALIGNMENT, RESERVED));
        if (reserved_ == nullptr) {
            return false;
        }
    }
    sanitizer::allow(reserved_, RESERVED);
    arrays_.clear();
    used_ = 0;
    static_bytes_ = 0;
    place(nullptr, "dynamic shared memory", dynamic_bytes, DYNAMIC_ALIGNMENT);
    return true;
}

SharedMemory::Array& SharedMemory::place(const void* tag, const char* name, size_t bytes,
                                         size_t alignment) {
    size_t start = (used_ + RED_ZONE + alignment - 1) / alignment * alignment;
    if (start % (2 * alignment) == 0) {
        // No better aligned than declared, so that code that needs more fails here
        // as it may on a GPU.
        start += alignment;
    }
    unsigned char* memory = reserved_ + start;
    used_ = start + bytes + RED_ZONE;
    paint(memory - RED_ZONE);
    paint(memory + bytes);
    std::memset(memory, UNWRITTEN, bytes);
    sanitizer::forbid(memory - RED_ZONE, RED_ZONE);
    sanitizer::forbid(memory + bytes, RED_ZONE);
    arrays_.push_back({tag, name, memory, bytes});
    return arrays_.back();
}

void SharedMemory::start_block() {
    for (const Array& array : arrays_) {
        std::memset(array.memory, UNWRITTEN, array.bytes);
    }
}

void* SharedMemory::array(const void* tag, const char* name, size_t bytes, size_t alignment,
                          std::string& why) {
    for (const Array& array : arrays_) {
        if (array.tag == tag) {
            return array.memory;
        }
    }
    size_t dynamic = arrays_.front().bytes;
    static_bytes_ += bytes;
    if (static_bytes_ > STATIC_LIMIT) {
        why = "static shared memory of " + std::to_string(static_bytes_) + " bytes, with `" + name +
              "`, is over the limit of " + std::to_string(STATIC_LIMIT);
        return nullptr;
    }
    if (static_bytes_ + dynamic > LIMIT) {
        why = "static and dynamic shared memory of " + std::to_string(static_bytes_) + " + " +
              std::to_string(dynamic) + " bytes, with `" + name + "`, are over the limit of " +
              std::to_string(LIMIT);
        return nullptr;
    }
    if (arrays_.size() > MOST_ARRAYS || alignment > MOST_ALIGNMENT) {
        why = "the emulator has no room for `" + std::string(name) + "`: more than " +
              std::to_string(MOST_ARRAYS) + " shared arrays, or one aligned to more than " +
              std::to_string(MOST_ALIGNMENT) + " bytes";
        return nullptr;
    }
    return place(tag, name, bytes, alignment).memory;
}

bool SharedMemory::contains(const void* address, size_t bytes) const {
    auto first = static_cast<const unsigned char*>(address);
    return std::any_of(arrays_.begin(), arrays_.end(), [&](const Array& array) {
        return first >= array.memory && bytes <= array.bytes &&
               first <= array.memory + (array.bytes - bytes);
    });
}

std::string SharedMemory::damage() const {
    if (sanitizer::checks_bounds) {
        return {};  // an access to a red zone was reported where it happened
    }
    for (const Array& array : arrays_) {
        std::string where;
        size_t after = scratch(array.memory + array.bytes);
        size_t before = scratch(array.memory - RED_ZONE);
        if (after < RED_ZONE) {
            where = "byte " + std::to_string(array.bytes + after);
        } else if (before < RED_ZONE) {
            where = "byte -" + std::to_string(RED_ZONE - before);
        } else {
            continue;
        }
        return "a write outside of `" + std::string(array.name) + "`: " + where + " of its " +
               std::to_string(array.bytes);
    }
    return {};
}

}  // namespace emulator
