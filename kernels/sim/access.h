// Every access of a kernel to memory, if built with SIM_RACES: who accessed it before, and was that ordered?
//
// Two accesses of different threads to the same byte, one of them a write, are a race unless a barrier of the block
// lies between them or, in a warp, a warp_barrier. Accesses of different blocks of a launch are never ordered. Atomic
// operations race only with other accesses. What is found does not depend on the order in which threads run.
#pragma once

#include "machine.h"

namespace sim {

enum class Access : uint8_t { none, read, write, atomic };

// An access as it is remembered.
struct Past {
    uint32_t era;      // barriers of all blocks until then, and blocks begun: names a span of a block between barriers
    uint32_t where;    // in the program, as an offset
    uint16_t sync;     // warp_barriers of the thread's warp until then
    uint16_t thread;
    Access access;
    uint8_t bytes;     // which of the word's, one bit each
};

// The pasts of the words of a stretch of memory. Untouched ones take no memory.
class Shadow {
public:
    Shadow(const void* begin, size_t bytes);
    Shadow(const Shadow&) = delete;
    Shadow& operator=(const Shadow&) = delete;
    ~Shadow();

    static constexpr size_t remembered = 4;
    Past (&of(uintptr_t word))[remembered] { return pasts_[(word - begin_) / 4]; }
    bool holds(uintptr_t at, size_t bytes) const { return at >= begin_ && at + bytes <= end_; }

private:
    uintptr_t begin_, end_;
    size_t mapped_;
    Past (*pasts_)[remembered];
};

// The time of the running thread.
struct Now {
    uint32_t era, block_era, launch_era;  // the present one, and when block and launch began
    uint16_t sync, thread;
};

uint32_t next_era();

// Where the memory of a card is; `memory_gone` before it is given back.
void memory_come(uint64_t card, const void* memory, size_t bytes);
void memory_gone(uint64_t card, const void* memory);

// Looks `bytes` bytes up in what a card has; null if they aren't all in one allocation.
Shadow* shadow_of_memory(uint64_t card, uintptr_t at, size_t bytes);

// Remembers an access. What it races with, or null.
const Past* remember(Shadow& shadow, uintptr_t at, size_t bytes, Access access, const Now& now, uint32_t where);

}  // namespace sim
