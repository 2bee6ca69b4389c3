// A block's shared memory: every array has exactly the size it was declared
// with, between red zones, and holds NaN until the kernel writes to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

class SharedMemory {
public:
    static constexpr size_t STATIC_LIMIT = 48 << 10;
    static constexpr size_t LIMIT = 227 << 10;

    SharedMemory() = default;
    SharedMemory(const SharedMemory&) = delete;
    ~SharedMemory();

    // Forgets the last launch. False: no memory.
    bool start_launch(size_t dynamic_bytes);

    // Every array unwritten again.
    void start_block();

    // The array of this declaration, made when the launch first comes to it;
    // null: not enough shared memory, and `why` says how much was asked for.
    void* array(const void* tag, const char* name, size_t bytes, size_t alignment,
                std::string& why);

    unsigned char* dynamic() const { return arrays_.front().memory; }

    bool contains(const void* address, size_t bytes) const;

    // As a GPU counts them: an array is aligned there as it is here.
    uint32_t address(const void* of) const {
        return static_cast<uint32_t>(static_cast<const unsigned char*>(of) - reserved_);
    }
    const unsigned char* at(uint32_t address) const { return reserved_ + address; }

    // What was written outside of an array, in words; empty if nothing was.
    std::string damage() const;

private:
    struct Array {
        const void* tag;
        const char* name;
        unsigned char* memory;
        size_t bytes;
    };

    Array& place(const void* tag, const char* name, size_t bytes, size_t alignment);

    unsigned char* reserved_ = nullptr;
    size_t used_ = 0;
    size_t static_bytes_ = 0;
    std::vector<Array> arrays_;  // the dynamic one first
};

}  // namespace emulator
