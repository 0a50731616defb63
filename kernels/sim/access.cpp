#include "access.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

#include "block.h"

namespace sim {

Shadow::Shadow(const void* begin, size_t bytes)
    : begin_(reinterpret_cast<uintptr_t>(begin) / 4 * 4),
      end_(reinterpret_cast<uintptr_t>(begin) + bytes),
      mapped_(((end_ - begin_) / 4 + 1) * sizeof(Past[remembered])) {
    void* memory =
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        fputs("simulator: no memory to remember accesses in\n", stderr);
        abort();
    }
    pasts_ = static_cast<Past(*)[remembered]>(memory);
}

Shadow::~Shadow() { munmap(pasts_, mapped_); }

#if SIM_RACES

uint32_t next_era() {
    static std::atomic<uint32_t> era{0};
    return ++era;
}

// Device memory by card and begin.
using Memories = std::map<std::pair<uint64_t, uintptr_t>, std::unique_ptr<Shadow>>;
static std::mutex mutex;
static Memories& memories() {
    static Memories memories;
    return memories;
}
// Counts what came and went: what a thread of the machine looked up last may be gone.
static std::atomic<uint64_t> changes{0};

void memory_come(uint64_t card, const void* memory, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    memories()[{card, reinterpret_cast<uintptr_t>(memory)}] = std::make_unique<Shadow>(memory, bytes);
    ++changes;
}

void memory_gone(uint64_t card, const void* memory) {
    std::lock_guard<std::mutex> lock(mutex);
    memories().erase({card, reinterpret_cast<uintptr_t>(memory)});
    ++changes;
}

Shadow* shadow_of_memory(uint64_t card, uintptr_t at, size_t bytes) {
    static thread_local Shadow* last[4];
    static thread_local unsigned turn;
    static thread_local uint64_t known, of_card;
    if (known != changes.load(std::memory_order_relaxed) || of_card != card) {
        for (auto& shadow : last) shadow = nullptr;
        known = changes;
        of_card = card;
    }
    for (Shadow* shadow : last)
        if (shadow && shadow->holds(at, bytes)) return shadow;
    std::lock_guard<std::mutex> lock(mutex);
    auto found = memories().upper_bound({card, at});
    if (found == memories().begin() || (--found)->first.first != card) return nullptr;
    Shadow* shadow = found->second.get();
    if (!shadow->holds(at, bytes)) return nullptr;
    return last[turn++ % 4] = shadow;
}

static bool conflict(const Past& past, Access access, const Now& now) {
    if (past.access == Access::read && access == Access::read) return false;
    if (past.access == Access::atomic && access == Access::atomic) return false;
    if (past.era < now.launch_era) return false;
    if (past.era < now.block_era) return true;  // another block's
    if (past.era < now.era || past.thread == now.thread) return false;
    return past.thread / 32 != now.thread / 32 || past.sync == now.sync;
}

// What is given up for something newer: first what can't race any more, then other reads, then anything.
static Past& slot_for(Past (&pasts)[Shadow::remembered], const Past& present, const Now& now) {
    Past* least = &pasts[0];
    unsigned least_rank = ~0u;
    for (Past& past : pasts) {
        unsigned rank = past.access == Access::read ? 2 : 3;
        const bool same_thread = past.era == present.era && past.thread == present.thread;
        if (same_thread && past.access == present.access && (past.bytes & ~present.bytes) == 0) rank = 0;
        if (past.access == Access::none || past.era < now.launch_era) rank = 1;
        if (rank < least_rank) {
            least = &past;
            least_rank = rank;
        }
    }
    return *least;
}

const Past* remember(Shadow& shadow, uintptr_t at, size_t bytes, Access access, const Now& now, uint32_t where) {
    for (uintptr_t word = at / 4 * 4; word < at + bytes; word += 4) {
        Past(&pasts)[Shadow::remembered] = shadow.of(word);
        const uintptr_t first = at > word ? at - word : 0, end = at + bytes - word;
        const auto mask = static_cast<uint8_t>((end >= 4 ? 0xfu : (1u << end) - 1) & 0xfu << first);
        for (const Past& past : pasts)
            if (past.access != Access::none && (past.bytes & mask) != 0 && conflict(past, access, now)) return &past;
        const Past present{now.era, where, now.sync, now.thread, access, mask};
        slot_for(pasts, present, now) = present;
    }
    return nullptr;
}

// Whether a kernel may read `at` though it is no memory of the card: its locals, arguments, constants, and what the
// functions of device.h use.
bool BlockRunner::is_own(uintptr_t at, size_t bytes) const {
    const auto within = [&](const void* begin, size_t size) {
        const auto first = reinterpret_cast<uintptr_t>(begin);
        return at >= first && at + bytes <= first + size;
    };
    const Stack& stack = *threads_[current_].stack;
    return within(stack.bottom, stack.size) || within(&running, sizeof running) ||
           within(launch_->arguments, launch_->kernel->argument_bytes) ||
           within(running.exchange, exchange_inputs + exchange_outputs) || is_program(at);
}

void BlockRunner::note(const void* pointer, size_t bytes, Access access, const void* code) {
    const auto at = reinterpret_cast<uintptr_t>(pointer);
    Shadow* shadow = shared_.shadow_of(at, bytes);
    const bool in_shared = shadow != nullptr;
    if (!shadow) {
        if (is_own(at, bytes)) return;
        shadow = shadow_of_memory(launch_->card, at, bytes);
    }
    if (!shadow) {
        blame(format("%s: %zu bytes at address %p are not in memory of the card", line_of(code).c_str(), bytes, pointer));
        stop();
    }
    Now now = now_;
    now.thread = static_cast<uint16_t>(current_);
    now.sync = warps_[current_ / 32].sync;
    if (in_shared) now.launch_era = now.block_era;  // other blocks have their own
    const Past* past = remember(*shadow, at, bytes, access, now, offset_in_program(code));
    if (!past) return;
    static const char* const names[] = {"", "read", "write", "atomic operation"};
    blame(format("race: %s at %s in %s memory, after a %s by %s %u at %s", names[static_cast<int>(access)],
                 line_of(code).c_str(), in_shared ? "shared" : "device", names[static_cast<int>(past->access)],
                 past->era < now_.block_era ? "another block's thread" : "thread", past->thread,
                 line_of(at_offset(past->where)).c_str()));
    stop();
}

void note_read(const void* at, size_t bytes) { runner->note(at, bytes, Access::read, __builtin_return_address(0)); }
void note_write(const void* at, size_t bytes) { runner->note(at, bytes, Access::write, __builtin_return_address(0)); }
void warp_synchronised() { runner->warp_synchronised(); }

}  // namespace sim

// What the compiler calls at accesses (-fsanitize=thread), instead of the thread sanitizer's library.
using sim::Access;
#define NOTE(at, bytes, access) sim::runner->note(at, bytes, access, __builtin_return_address(0))
extern "C" {
void __tsan_init() {}
void __tsan_read1(void* at) { NOTE(at, 1, Access::read); }
void __tsan_read2(void* at) { NOTE(at, 2, Access::read); }
void __tsan_read4(void* at) { NOTE(at, 4, Access::read); }
void __tsan_read8(void* at) { NOTE(at, 8, Access::read); }
void __tsan_read16(void* at) { NOTE(at, 16, Access::read); }
void __tsan_write1(void* at) { NOTE(at, 1, Access::write); }
void __tsan_write2(void* at) { NOTE(at, 2, Access::write); }
void __tsan_write4(void* at) { NOTE(at, 4, Access::write); }
void __tsan_write8(void* at) { NOTE(at, 8, Access::write); }
void __tsan_write16(void* at) { NOTE(at, 16, Access::write); }
void __tsan_read_range(void* at, size_t bytes) { NOTE(at, bytes, Access::read); }
void __tsan_write_range(void* at, size_t bytes) { NOTE(at, bytes, Access::write); }

uint32_t __tsan_atomic32_load(const uint32_t* at, int) {
    NOTE(at, 4, Access::atomic);
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}

uint32_t __tsan_atomic32_fetch_add(uint32_t* at, uint32_t value, int) {
    NOTE(at, 4, Access::atomic);
    return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);
}

bool __tsan_atomic32_compare_exchange_weak(uint32_t* at, uint32_t* expected, uint32_t value, int, int) {
    NOTE(at, 4, Access::atomic);
    return __atomic_compare_exchange_n(at, expected, value, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
}

#else

uint32_t next_era() { return 0; }
void memory_come(uint64_t, const void*, size_t) {}
void memory_gone(uint64_t, const void*) {}

}  // namespace sim

#endif
